"""
The folder of a run: whose it is, and that what can be loaded from it is complete. Of several processes the first one
writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from safetensors import SafetensorError

from ..denoiser import DiffLMDenoiser
from ..distributed import join_processes, process_index, wait_for_all
from ..files import atomic_write, lock_folder
from ..modeling_difflm import DiffLMModel
from ..processing_difflm import DiffLMProcessor


@contextmanager
def hold_output_dir(output_dir: Path, resume: bool) -> Iterator[None]:
    """
    Keeps the folder of a run to itself.

    Raises:
        `ValueError`: for a file, and for a folder that holds anything, unless a run in it is to be resumed.
        `RuntimeError`: when another process writes into it.
        `OSError`: when it cannot be written, as where a disk is full.
    """
    join_processes()
    if process_index() > 0:
        yield
        return
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; name a folder")
    if output_dir.exists() and any(output_dir.iterdir()) and not resume:
        raise ValueError(
            f"{output_dir} is not empty; choose another folder, delete it, or resume the run in it (--resume)"
        )
    with lock_folder(output_dir):
        try:
            yield
        except (SafetensorError, RuntimeError) as error:  # by which safetensors and torch tell of full disks
            if isinstance(error, SafetensorError) or "inline_container" in str(error):
                reason = " ".join(str(error).split())[:200]
                raise OSError(f"{output_dir} cannot be written ({reason}); make room, and resume") from error
            raise


def claim_output_dir(output_dir: Path, arguments: dict[str, Any]) -> None:
    """
    Writes what the checkpoints in a folder are of, or compares it with what they were of.

    Args:
        output_dir (`Path`): The folder.
        arguments (`dict`): Those of the run, as plain values, and hashes of its data. Its time may differ.

    Raises:
        `ValueError`: when the folder holds another run.
    """
    if process_index() > 0:
        return
    run = _identity(arguments)
    path = output_dir / "checkpoints" / "run.json"
    if path.exists():
        given = json.loads(path.read_text(encoding="utf-8"))
        for name, value in run.items():
            if given.get(name) != value:
                raise ValueError(
                    f"{output_dir} holds a run with {name}={given.get(name)!r}, which {value!r} cannot go on with; "
                    "resume with the same data and arguments, or train into another folder"
                )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _identity(arguments: dict[str, Any]) -> dict[str, Any]:
    """What makes a run the same run, as JSON has it."""
    return json.loads(json.dumps({name: value for name, value in arguments.items() if name != "max_minutes"}))


def mark_components(
    vae: DiffLMModel, denoiser: DiffLMDenoiser, processor: DiffLMProcessor, arguments: dict[str, Any]
) -> None:
    """Gives all components of a run what tells them from those of others."""
    digest = hashlib.sha256(json.dumps(_identity(arguments), sort_keys=True).encode()).hexdigest()[:16]
    vae.config.training_id = processor.training_id = digest
    denoiser.register_to_config(training_id=digest)


def save_pipeline(pipeline: DiffusionPipeline, card: ModelCard, output_dir: Path) -> None:
    """Saves beside the final place first, and model_index.json last, so that what can be loaded is complete."""
    if process_index() == 0:
        _save_pipeline(pipeline, card, output_dir)
    wait_for_all()


def _save_pipeline(pipeline: DiffusionPipeline, card: ModelCard, output_dir: Path) -> None:
    temporary = output_dir / "complete"
    shutil.rmtree(temporary, ignore_errors=True)
    save_whole(pipeline, temporary)
    card.save(temporary / "README.md")
    (output_dir / "model_index.json").unlink(missing_ok=True)
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == "model_index.json"):
        target = output_dir / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    temporary.rmdir()


def save_whole(component: Any, folder: Path) -> None:
    """Saves a component so that its folder appears only when it is complete."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    component.save_pretrained(temporary)
    os.replace(temporary, folder)
