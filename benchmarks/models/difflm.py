"""This package, with the defaults of `difflm train` and `difflm generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jsonschema
import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train
from difflm_hf.evaluation import evaluate_latents

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
    model.pipe = DiffLMPipeline.from_pretrained(model.data.work_dir / "model")
    model.pipe(1)


def sample(model: Model, num_rows: int) -> pd.DataFrame:
    return model.pipe(num_rows, generator=model.generator, output_type="pandas").records


def describe(model: Model, num_rows: int) -> dict[str, Any]:
    pipe = DiffLMPipeline.from_pretrained(model.data.work_dir / "model", dtype=torch.float32)
    validator = jsonschema.Draft202012Validator(pipe.processor.schema.to_json_schema())
    records = pipe(num_rows, generator=model.generator).records
    return {
        "json_valid": sum(validator.is_valid(record) for record in records) / len(records),
        "latents": score_latents(pipe, model.data.valid, model.data.seed),
        "tokens": pipe.vae.config.max_record_length,
        "parameters": sum(p.numel() for part in (pipe.vae, pipe.denoiser) for p in part.parameters()),
    }


def score_latents(pipe: DiffLMPipeline, table: pd.DataFrame, seed: int) -> dict[str, float]:
    """KL, and nats per record that reconstruction costs from a record's own latents and from another record's."""
    scores = evaluate_latents(pipe, table, batch_size=1024, seed=seed)
    return {
        "kl": scores["kl"],
        "active": scores["active"],
        "own": scores["reconstruction"],
        "other": scores["reconstruction_other"],
    }


if __name__ == "__main__":
    run(fit, sample, prepare, describe)
