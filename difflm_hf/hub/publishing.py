"""A pipeline, its card, plots and code: one commit of a repository of the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, ModelCard

from .cards import model_card, plot_files
from .remote_code import add_code
from .upload import commit_files, folder_files, full_repo_id


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


def push_pipeline(
    pipeline: DiffLMPipeline,
    repo_id: str,
    *,
    card: str | os.PathLike | ModelCard | None,
    evaluation: str | os.PathLike | None,
    license: str | None,
    datasets: Sequence[str],
    language: str | Sequence[str] | None,
    tags: Sequence[str],
    include_data_plots: bool,
    include_code: bool,
    include_base_weights: bool,
    allow_rare_categories: bool,
    max_shard_size: int | str | None,
    **kwargs,
) -> CommitInfo:
    """
    What [`DiffLMPipeline.push_to_hub`] does.

    Args:
        pipeline ([`DiffLMPipeline`]): The pipeline, which then has the name and the commit of what was pushed.
        repo_id (`str`): The repository.
        card, evaluation, license, datasets, language, tags, include_data_plots, include_code, include_base_weights:
            As there.
        allow_rare_categories, max_shard_size, kwargs: As there.

    Returns:
        `CommitInfo`.

    Raises:
        `ValueError`, `HfHubHTTPError`, `ConnectionError`: As there.
    """
    if card is not None and not isinstance(card, ModelCard) and not Path(card).is_file():
        raise ValueError(f"card={card!r} is no file; give a ModelCard, or the file of one")
    if not allow_rare_categories:
        pipeline.processor.check_publishable()
    if not include_base_weights:
        pipeline.vae.check_publishable()
    repo_id = full_repo_id(repo_id, kwargs.get("token"))
    with TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, include_base_weights=include_base_weights, max_shard_size=max_shard_size)
        if include_code:
            add_code(folder)
        files: dict[str, Path | bytes] = {**folder_files(folder)}
        if evaluation is not None:
            files |= plot_files(evaluation, include_data_plots)
        if card is None:
            facts = license, datasets, language, tags, include_data_plots
            card = model_card(pipeline, repo_id, evaluation, *facts)
        files["README.md"] = str(card).encode() if isinstance(card, ModelCard) else Path(card)
        commit = commit_files(
            files,
            repo_id,
            **{"commit_message": f"Upload {type(pipeline).__name__}", **kwargs},
            delete_patterns=[f"{name}/*" for name in (*pipeline.components, "plots", "checkpoints")]
            + ["difflm_hf*.py"],
        )
    if commit.pr_url is None:
        pipeline.register_to_config(_name_or_path=repo_id)
        pipeline.revision = commit.oid
    return commit
