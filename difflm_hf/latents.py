"""Records → posteriors → latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import torch
from diffusers import DiffusionPipeline

from .batches import TensorDataset, trim_padding
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor


def to_dataset(processor: DiffLMProcessor, table: pd.DataFrame) -> TensorDataset:
    """Records as a dataset for [`DiffLMTrainer`]."""
    batch = processor(table)
    batch.pop("within_bin_offsets", None)
    return TensorDataset(**batch)


@torch.no_grad()
def encode_latents(
    model: DiffLMModel, dataset: TensorDataset, sample_posterior: bool = True, batch_tokens: int = 2**13
) -> TensorDataset:
    """
    The posteriors of all records, as a dataset for [`LatentDiffusionTrainer`]: with a standard deviation of 0, thus as
    means alone, unless `sample_posterior`.

    Returns:
        `TensorDataset` of `mean` and `std`, both of shape `(num_records, latent_size)`.
    """
    model.eval()
    means, stds = [], []
    batch_size = max(1, batch_tokens // dataset.tensors["input_ids"].shape[1])
    order = torch.arange(len(dataset))
    if "attention_mask" in dataset.tensors:  # like lengths together
        order = dataset.tensors["attention_mask"].sum(1).argsort(stable=True)
    for indices in order.split(batch_size):
        batch = trim_padding(dataset[indices])
        mask = batch["attention_mask"].to(model.device) if "attention_mask" in batch else None
        mean, logvar = model.encode(batch["input_ids"].to(model.device), mask)
        means.append(mean.cpu())
        stds.append((0.5 * logvar).exp().cpu() * sample_posterior)
    given = order.argsort()
    return TensorDataset(mean=torch.cat(means)[given], std=torch.cat(stds)[given])


def latents_after_step(
    callback: Callable,
    pipe: DiffusionPipeline,
    step: int,
    timestep: torch.Tensor,
    latents: torch.Tensor,
    shown: dict[str, torch.Tensor],
) -> torch.Tensor:
    """
    The latents that the `callback_on_step_end` of a pipeline leaves.

    Args:
        callback (`Callable`): The callback.
        pipe, step, timestep, shown: What it is called with.
        latents (`torch.Tensor`): Those of the step.

    Raises:
        `ValueError`: for what it returns in place of latents of their shape. The message names the step.
    """
    returned = callback(pipe, step, timestep, shown)
    if not isinstance(returned, Mapping | None):
        raise ValueError(
            f'callback_on_step_end, step {step}: return {{"latents": latents}} or None, and not a '
            f"{type(returned).__name__}"
        )
    changed = (returned or {}).get("latents", latents)
    if not isinstance(changed, torch.Tensor) or changed.shape != latents.shape:
        found = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise ValueError(
            f"callback_on_step_end, step {step}: latents of shape {tuple(latents.shape)} are needed, not {found}"
        )
    return changed.to(latents)
