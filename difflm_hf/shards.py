"""Generating into a folder of Parquet files, in runs that may be cut off at any moment."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from .pipeline_difflm import DiffLMPipeline
from .utils import atomic_write, release_memory


MANIFEST = "manifest.json"
RECORDS_PER_SHARD = 2**17  # or the next multiple of a block


def write_shards(
    pipe: DiffLMPipeline,
    output_dir: str | os.PathLike,
    num_records: int,
    seed: int = 0,
    num_inference_steps: int = 12,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
) -> list[Path]:
    """
    Generates records into `output_dir` as Parquet files `part-00000.parquet`, `part-00001.parquet` and so on.

    A run that was cut off, even by the loss of power, goes on where it was when called again with the same arguments,
    and ends with the same bytes. `manifest.json` says what the files are of.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        output_dir (`str` or `os.PathLike`): A new or empty folder, or that of the run to go on with.
        num_records (`int`): Records in all files together.
        seed (`int`, defaults to 0): The records are those of a call with a generator of this seed.
        num_inference_steps, temperature, top_p, batch_size: As in the call of the pipeline.

    Returns:
        `list[Path]`: The files.

    Raises:
        `ValueError`: when `output_dir` holds anything else, or files of other arguments or another model.
    """
    pipe.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, "pandas")
    output_dir = Path(output_dir)
    block_size = pipe.config.block_size
    blocks_per_shard = -(-RECORDS_PER_SHARD // block_size)
    sampling = {"num_inference_steps": num_inference_steps, "temperature": temperature, "top_p": top_p}
    _claim(
        output_dir,
        {
            "num_records": num_records,
            "seed": seed,
            **sampling,
            "records_per_shard": blocks_per_shard * block_size,
            "block_size": block_size,
            "dtype": str(pipe.vae.dtype),
            "model": fingerprint(pipe),
        },
    )
    starts = range(0, num_records, blocks_per_shard * block_size)
    files = [output_dir / f"part-{shard:05d}.parquet" for shard in range(len(starts))]
    num_done = sum(1 for _ in itertools.takewhile(Path.exists, files))
    if num_done == len(files):
        return files
    batches = pipe.stream(
        num_records - starts[num_done],
        **sampling,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
        first_block=num_done * blocks_per_shard,
    )
    for file in files[num_done:]:
        shard = pa.Table.from_batches(list(itertools.islice(batches, blocks_per_shard)))
        with atomic_write(file) as temporary:
            pq.write_table(shard, temporary)
        release_memory()
    next(batches, None)  # lets the stream close its progress bar
    return files


def fingerprint(pipe: DiffLMPipeline) -> str:
    """A hash of all that decides which records a seed gives, but for how they are sampled."""
    digest = hashlib.sha256()
    for part in (pipe.vae, pipe.denoiser):
        weights = {name: weight.cpu().contiguous() for name, weight in part.state_dict().items()}
        for name in sorted(weights):
            digest.update(save({name: weights[name]}))
    digest.update(json.dumps(pipe.processor.schema.to_dict(), default=str).encode())
    digest.update(json.dumps([type(pipe.scheduler).__name__, dict(pipe.scheduler.config)], default=str).encode())
    return digest.hexdigest()


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, or compares it with the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if path.exists():
        given = json.loads(path.read_text(encoding="utf-8"))
        for name, value in manifest.items():
            if given.get(name) != value:
                raise ValueError(
                    f"{folder} holds records of {name}={given.get(name)!r}, and not of {value!r}; go on with the same "
                    "arguments and model, or name another folder"
                )
    elif any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and has no {MANIFEST} of a run to go on with; name another folder")
    else:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
