"""This package, with the defaults of `difflm train` and `difflm generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jsonschema
import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train
from difflm_hf.training.train import encode_latents, to_dataset
from difflm_hf.utils import default_dtype

from .harness import Data, run


@dataclass
class Model:
    data: Data
    pipe: DiffLMPipeline

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.data.seed)


def fit(data: Data) -> Model:
    return Model(data, train(data.train, data.work_dir / "model", validation=data.valid, seed=data.seed))


def prepare(model: Model) -> None:
    model.pipe = DiffLMPipeline.from_pretrained(model.data.work_dir / "model", dtype=default_dtype())
    model.pipe(1)


def sample(model: Model, num_rows: int) -> pd.DataFrame:
    return model.pipe(num_rows, generator=model.generator, output_type="pandas").records


def describe(model: Model, num_rows: int) -> dict[str, Any]:
    pipe = DiffLMPipeline.from_pretrained(model.data.work_dir / "model")
    validator = jsonschema.Draft202012Validator(pipe.processor.schema.to_json_schema())
    records = pipe(num_rows, generator=model.generator).records
    return {
        "json_valid": sum(validator.is_valid(record) for record in records) / len(records),
        "latents": score_latents(pipe, model.data.valid, model.generator),
        "tokens": pipe.vae.config.max_record_length,
        "parameters": sum(p.numel() for part in (pipe.vae, pipe.denoiser) for p in part.parameters()),
    }


@torch.no_grad()
def score_latents(pipe: DiffLMPipeline, table: pd.DataFrame, generator: torch.Generator) -> dict[str, float]:
    """KL, and nats per record that reconstruction costs from a record's own latents and from another record's."""
    dataset = to_dataset(pipe.processor, table)
    posterior = encode_latents(pipe.vae, dataset).tensors
    mean, std = posterior["mean"], posterior["std"]
    latents = mean + std * torch.randn(mean.shape, generator=generator)
    batch = dataset[slice(None)]
    own, other = (
        pipe.vae.decoder.negative_log_likelihood(batch["input_ids"], z, batch.get("attention_mask")).mean().item()
        for z in (latents, latents.roll(1, 0))
    )
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean(0)
    return {"kl": kl.sum().item(), "active": int((kl > 0.1).sum()), "own": own, "other": other}


if __name__ == "__main__":
    run(fit, sample, prepare, describe)
