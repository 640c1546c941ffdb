"""
A step of training and a block of generation beside a pretrained LM, in a process of its own: `benchmarks.base_lm`
compares commits by it. It prints seconds as JSON. Nothing of it is newer than the oldest commit that it measures, but
for what it asks whether it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from transformers import AutoTokenizer, set_seed

from difflm_hf import DataArguments, DiffLMPipeline, ModelArguments, train
from difflm_hf.training import DOCUMENT_RECIPES, DiffLMTrainer, DiffLMTrainingArguments
from difflm_hf.training.build import build_autoencoder
from difflm_hf.training.fit import Run, eager_attention, same_weights
from difflm_hf.training.prepare import prepare_records
from difflm_hf.training.recipes import find_recipe


NUM_ROWS, NUM_STEPS, BATCH_SIZE, NUM_GENERATED = 96, 6, 8, 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--categorical", nargs="*", default=[])
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--tuning", required=True)
    args = parser.parse_args()
    table = pd.read_csv(args.table).head(NUM_ROWS)
    data = DataArguments(categorical=args.categorical)
    model = ModelArguments(args.base_model, tuning=args.tuning, injection="kv_memory")
    with TemporaryDirectory() as folder:
        seconds = {"step": seconds_per_step(table, data, model, Path(folder, "step"))}
        recipe = DOCUMENT_RECIPES["small"]
        brief = replace(recipe, vae=recipe.vae | {"max_steps": 1}, denoiser=recipe.denoiser | {"max_steps": 8})
        rows = table.head(2 * BATCH_SIZE)
        train(rows, Path(folder, "model"), rows, recipe=brief, data_args=data, model_args=model)
        pipe = DiffLMPipeline.from_pretrained(Path(folder, "model"))
        start = time.perf_counter()
        pipe(NUM_GENERATED, generator=torch.Generator().manual_seed(0))
        seconds["generate"] = time.perf_counter() - start
    print(json.dumps(seconds))


def seconds_per_step(table: pd.DataFrame, data: DataArguments, model: ModelArguments, folder: Path) -> float:
    """Without the optimizer's part, after each length of a batch has come once."""
    tokenizer = AutoTokenizer.from_pretrained(model.base_model)
    records = prepare_records(table, table.head(BATCH_SIZE), None, data, tokenizer, None, seed=0)
    recipe = find_recipe("small", True, model)
    set_seed(0)
    vae = build_autoencoder(records, recipe, model)
    if getattr(vae, "reads_frozen_states", False):  # once, before the first step
        from difflm_hf.latents import pool_states

        records.train.tensors["pooled_states"] = pool_states(vae, records.train)
    fields: dict[str, Any] = {**recipe.vae, "per_device_train_batch_size": BATCH_SIZE, "max_steps": 100}
    arguments = Run(folder).arguments(DiffLMTrainingArguments, "vae", fields)
    datasets = {"train_dataset": records.train, "eval_dataset": records.validation}
    with eager_attention(vae):  # as of short records
        trainer = DiffLMTrainer(same_weights(vae), arguments, records.processor.grammar, **datasets)
        trainer.model.train()
        loader = trainer.get_train_dataloader()
        for _ in range(2):
            start = time.perf_counter()
            for batch in itertools.islice(loader, NUM_STEPS):
                trainer.compute_gradients(batch)
    return (time.perf_counter() - start) / NUM_STEPS


if __name__ == "__main__":
    main()
