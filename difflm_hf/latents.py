"""Records → posteriors → latents."""

from __future__ import annotations

import pandas as pd
import torch

from .batches import TensorDataset, trim_padding
from .distributed import gather_records, num_processes, process_index
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor
from .utils import onload


def to_dataset(processor: DiffLMProcessor, table: pd.DataFrame) -> TensorDataset:
    """Records as a dataset for [`DiffLMTrainer`]."""
    batch = processor(table)
    batch.pop("within_bin_offsets", None)
    return TensorDataset(**batch)


def latent_moments(latents: TensorDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation in each dimension of latents that are drawn from posteriors, of shape `(latent_size,)`."""
    mean, std = latents.tensors["mean"], latents.tensors["std"]
    # Of μ + σε over all records: its variance is that of μ plus the mean of σ².
    return mean.mean(0), (mean.var(0, correction=0) + std.square().mean(0)).sqrt()


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
    model = onload(model).eval()
    means, stds = [], []
    batch_size = max(1, batch_tokens // dataset.tensors["input_ids"].shape[1])
    # Each process encodes its share; the last ones take records of the start again, so that shares are equal.
    num_shares, num_records = num_processes(), len(dataset)
    share = torch.arange(process_index(), num_shares * -(-num_records // num_shares), num_shares) % num_records
    order = torch.arange(len(share))
    if "attention_mask" in dataset.tensors:  # like lengths together
        order = dataset.tensors["attention_mask"][share].sum(1).argsort(stable=True)
    for indices in share[order].split(batch_size):
        batch = trim_padding(dataset[indices])
        mask = batch["attention_mask"].to(model.device) if "attention_mask" in batch else None
        mean, logvar = model.encode(batch["input_ids"].to(model.device), mask)
        means.append(mean.cpu())
        stds.append((0.5 * logvar).exp().cpu() * sample_posterior)
    shares = (torch.cat(parts)[order.argsort()].to(model.device) for parts in (means, stds))
    mean, std = (gather_records(of_share)[:num_records].cpu() for of_share in shares)
    return TensorDataset(mean=mean, std=std)
