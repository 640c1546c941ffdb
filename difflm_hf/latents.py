"""Records → posteriors → latents."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from transformers.utils import logging

from .batches import TensorDataset, trim_padding
from .distributed import gather_records, num_processes, process_index
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor
from .utils import onload


ENCODER_INPUTS = ("input_ids", "attention_mask", "pooled_states")


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

    def posterior(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mean, logvar = model.encode(batch["input_ids"], batch.get("attention_mask"), batch.get("pooled_states"))
        return torch.stack([mean, (0.5 * logvar).exp() * sample_posterior], dim=1)

    mean, std = map_records(posterior, model, dataset, batch_tokens).unbind(1)
    return TensorDataset(mean=mean, std=std)


@torch.no_grad()
def pool_states(model: DiffLMModel, dataset: TensorDataset, batch_tokens: int = 2**13) -> torch.Tensor:
    """The [`~DiffLMModel.pooled_states`] of all records, of shape `(num_records, hidden_size)`, on the CPU."""

    def states(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.pooled_states(batch["input_ids"], batch.get("attention_mask"))

    return map_records(states, model, dataset, batch_tokens)


def map_records(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    model: DiffLMModel,
    dataset: TensorDataset,
    batch_tokens: int,
) -> torch.Tensor:
    """What a function makes of the encoder's inputs of all records, batch by batch. Each process does its share."""
    model = onload(model).eval()
    given = {name: dataset.tensors[name] for name in ENCODER_INPUTS if name in dataset.tensors}
    batch_size = max(1, batch_tokens // given["input_ids"].shape[1])
    # The last processes take records of the start again, so that shares are equal.
    num_shares, num_records = num_processes(), len(dataset)
    share = torch.arange(process_index(), num_shares * -(-num_records // num_shares), num_shares) % num_records
    order = torch.arange(len(share))
    if "attention_mask" in given:  # like lengths together
        order = given["attention_mask"][share].sum(1).argsort(stable=True)
    of_share = None
    is_quiet = process_index() > 0
    for indices in logging.tqdm(order.split(batch_size), "encoding records", leave=False, delay=5, disable=is_quiet):
        batch = trim_padding({name: tensor[share[indices]] for name, tensor in given.items()})
        found = function({name: tensor.to(model.device) for name, tensor in batch.items()})
        if of_share is None:  # in one piece: kept one by one, results would be left all over the memory
            of_share = found.new_empty(len(share), *found.shape[1:], device="cpu")
        of_share[indices] = found.cpu()
    if num_shares == 1:
        return of_share
    return gather_records(of_share.to(model.device))[:num_records].cpu()
