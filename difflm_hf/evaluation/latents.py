"""What latents tell about their records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..batches import trim_padding
from ..latents import encode_latents, to_dataset
from ..pipeline_difflm import DiffLMPipeline


@torch.no_grad()
def evaluate_latents(pipe: DiffLMPipeline, records: Any, batch_size: int = 32, seed: int = 0) -> dict[str, float]:
    """
    Measures the autoencoder of a pipeline on records.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        records (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): Records that it has not seen.
        batch_size (`int`, defaults to 32): Records at a time.
        seed (`int`, defaults to 0): Seed of the draws from the posteriors.

    Returns:
        `dict[str, float]`:
            - `reconstruction`: −log p(x|z) in nats per record, z drawn from the record's own posterior; of JSON by the
              choices that the grammar leaves;
            - `reconstruction_other`: the same, z from the posterior of another record;
            - `kl`: KL(q(z|x) ‖ N(0, I)), in nats per record;
            - `kl_denoiser`: the same of what the denoiser has learnt, in place of N(0, I), which latents come from in
              generation;
            - `active`: dimensions of z with a mean KL above 0.1 nats;
            - `nats_per_document`: reconstruction and KL together, an upper bound of −log p(x);
            - `perplexity`: that bound per token that counts, as a perplexity.
    """
    dataset = to_dataset(pipe.processor, records)
    posterior = encode_latents(pipe.vae, dataset).tensors
    mean, std = posterior["mean"], posterior["std"]
    latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(0)
    # E[log q(z|x)] − log p(z)
    entropy = 0.5 * math.log(2 * math.pi * math.e) * std.shape[1] + std.log().sum(1).mean().item()
    kl_denoiser = -entropy - torch.cat([pipe.latent_log_prob(z) for z in latents.split(1024)]).mean().item()
    own = other = 0.0
    num_tokens = 0
    for start in range(0, len(dataset), batch_size):
        rows = slice(start, start + batch_size)
        batch = {name: tensor.to(pipe.device) for name, tensor in trim_padding(dataset[rows]).items()}
        prefix = "decoder_" if "decoder_input_ids" in batch else ""
        ids, mask = batch[f"{prefix}input_ids"], batch.get(f"{prefix}attention_mask")
        labels = batch.get("labels")
        allowed = None if labels is None else pipe.processor.grammar.allowed(ids, mask)
        own, other = (
            total
            + pipe.vae.decoder.negative_log_likelihood(ids, z[rows].to(ids.device), mask, labels, allowed).sum().item()
            for total, z in ((own, latents), (other, latents.roll(1, 0)))
        )
        counted = (ids if labels is None else labels)[:, 1:] >= 0
        num_tokens += int((counted if mask is None else counted & mask[:, 1:].bool()).sum())
    num_records = len(dataset)
    bound = own + kl.sum().item()
    return {
        "reconstruction": own / num_records,
        "reconstruction_other": other / num_records,
        "kl": kl.sum().item() / num_records,
        "kl_denoiser": kl_denoiser,
        "active": int((kl / num_records > 0.1).sum()),
        "nats_per_document": bound / num_records,
        "perplexity": float(np.exp(bound / num_tokens)),
    }
