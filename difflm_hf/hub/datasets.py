"""Generated records as a dataset of the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo

from ..blocks import MANIFEST, write_shards
from ..pipeline_difflm import DiffLMPipeline
from .cards import dataset_card, plot_files
from .upload import commit_files, full_repo_id


PACKAGES = ("difflm_hf", "torch", "transformers", "diffusers", "datasets")


def push_dataset(
    pipe: DiffLMPipeline,
    repo_id: str,
    num_records: int,
    seed: int = 0,
    num_inference_steps: int = 12,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    output_dir: str | os.PathLike | None = None,
    allow_rare_categories: bool = False,
    evaluation: str | os.PathLike | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    task_categories: Sequence[str] = (),
    tags: Sequence[str] = (),
    **kwargs,
) -> CommitInfo:
    """
    Generates records, and makes them one commit of a dataset repository, with a card that says that they are
    synthetic, and by which model and seed. `datasets.load_dataset(repo_id)` gives them with the features
    `pipe.processor.schema.to_features()`.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        repo_id (`str`): The repository, `"name"` or `"namespace/name"`; created where it does not exist.
        num_records (`int`): Records to generate.
        seed (`int`, defaults to 0): The records are those of a call with a generator of this seed.
        num_inference_steps, temperature, top_p, batch_size: As in the call of the pipeline.
        output_dir (`str` or `Path`, *optional*):
            Where to keep the files, as [`write_shards`] does, which then goes on where it was cut off.
        allow_rare_categories (`bool`, defaults to `False`):
            Publish records that may have categories of fewer than 10 training records, and free text.
        evaluation (`str` or `Path`, *optional*): A folder of `difflm evaluate` on these records, for the card.
        license, language, task_categories, tags (*optional*): For the card, as the Hub names them.
        kwargs (*optional*):
            `private`, `token`, `revision`, `create_pr`, `commit_message` and `commit_description` of [`commit_files`].

    Returns:
        `CommitInfo`.

    Raises:
        `ValueError`: for what may not be published, before records are generated.
        `HfHubHTTPError`, `ConnectionError`: when the Hub refuses, or is out of reach. The message says what to do.

    Example:

    ```python
    >>> push_dataset(pipe, "user/adult-synthetic", 10_000, seed=0, private=True)
    ```
    """
    if not allow_rare_categories:
        pipe.processor.check_publishable()
    sampling = {"num_inference_steps": num_inference_steps, "temperature": temperature, "top_p": top_p}
    repo_id = full_repo_id(repo_id, kwargs.get("token"))
    model = pipe.name_or_path if pipe.name_or_path and not os.path.exists(pipe.name_or_path) else None
    card = dataset_card(
        pipe.processor.schema,
        num_records,
        repo_id,
        model,
        pipe.revision,
        seed,
        {**sampling, "scheduler": type(pipe.scheduler).__name__, "dtype": str(pipe.vae.dtype).removeprefix("torch.")},
        {name: version(name) for name in PACKAGES},
        datetime.now(UTC).date().isoformat(),
        evaluation,
        license,
        language,
        task_categories,
        tags,
    )
    with TemporaryDirectory() if output_dir is None else nullcontext(output_dir) as folder:
        shards = write_shards(pipe, folder, num_records, seed, **sampling, batch_size=batch_size)
        files = {f"data/{path.name}": path for path in (*shards, Path(folder, MANIFEST))}
        plots = plot_files(evaluation) if evaluation is not None else {}
        return commit_files(
            {**files, **plots, "README.md": str(card).encode()},
            repo_id,
            repo_type="dataset",
            **{"commit_message": f"Upload {num_records} synthetic records", **kwargs},
            delete_patterns=["data/*", "plots/*"],
        )
