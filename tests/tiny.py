"""A table with a column of every type, and recipes that learn from it in seconds."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from difflm_hf.pipeline_difflm import DiffLMPipeline
from difflm_hf.training import DOCUMENT_RECIPES, RECIPES, DataArguments, HubArguments, ModelArguments, Recipe
from difflm_hf.training import train as train_grouped
from difflm_hf.training.recipes import BERT, GPT2


# Trains with `train(..., recipe="tiny")`.
RECIPES["tiny"] = Recipe(
    encoder_config={
        "model_type": "running_sum",
        "is_decoder": False,
        "embedding_size": 24,
        "hidden_size": 16,
        "intermediate_size": 32,
    },
    decoder_config={"model_type": "running_sum", "embedding_size": 32, "hidden_size": 24, "intermediate_size": 48},
    text_encoder_config={
        **BERT,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 72,
    },
    text_decoder_config={**GPT2, "n_embd": 24, "n_layer": 1, "n_head": 2, "n_inner": 96},
    vae={"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 64, "warmup_steps": 2},
    denoiser_config={"width": 32, "num_layers": 1},
    denoiser={"learning_rate": 5e-3, "max_steps": 64, "per_device_train_batch_size": 64, "warmup_steps": 2},
    latent_size=4,
    condition_size=16,
    num_latent_tokens=2,
    min_steps=64,
)
DOCUMENT_RECIPES["tiny"] = Recipe(
    decoder_config={
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    vae={"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 2},
    denoiser_config=RECIPES["tiny"].denoiser_config,
    denoiser=RECIPES["tiny"].denoiser,
    lora={"r": 2},
    latent_size=4,
    num_latent_tokens=2,
    min_steps=16,
)


# With `recipe="quick"`: a few steps, where it does not matter what was learnt.
for recipes in (RECIPES, DOCUMENT_RECIPES):
    tiny = recipes["tiny"]
    recipes["quick"] = replace(tiny, min_steps=8, denoiser={**tiny.denoiser, "max_steps": 8})


def make_table(num_records: int = 240, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    color = rng.choice(["red", "green", "blue"], num_records, p=[0.7, 0.2, 0.1])
    age = rng.integers(17, 90, num_records)
    table = pd.DataFrame(
        {
            "age": age,
            "price": np.round(rng.lognormal(3, 1, num_records), 2),
            "score": rng.normal(size=num_records),
            "color": color,
            "member": rng.random(num_records) < 0.3,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, num_records), unit="D"),
            "birthday": pd.Series(rng.integers(1, 9, num_records)).map("2001-0{}-11".format),
            "income": np.where(rng.random(num_records) < 0.2, np.nan, np.round(age * 1000.0)),
            "code": rng.integers(0, 5, num_records).astype(np.int8),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], num_records), ["S", "M", "L"], ordered=True),
            "note": [f"größe {c} {i % 97}" for i, c in enumerate(color)],
            "nothing": None,
        }
    )
    table.loc[::7, "note"] = None
    table.loc[::9, "color"] = None
    return table


def train(data: Any, output_dir: str | os.PathLike, push_to_hub: bool = False, **arguments) -> DiffLMPipeline:
    """`train` of the package, with the arguments of its groups beside the others."""
    groups = {"data_args": DataArguments, "model_args": ModelArguments, "hub_args": HubArguments}
    given = {
        group: {f.name: arguments.pop(f.name) for f in fields(cls) if f.name in arguments}
        for group, cls in groups.items()
    }
    if not push_to_hub:
        assert not given.pop("hub_args")
    return train_grouped(data, output_dir, **arguments, **{g: groups[g](**fields) for g, fields in given.items()})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(folder: Path) -> dict[str, bytes]:
    """The weights of a saved pipeline."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("[vd]*/*.safetensors"))}
