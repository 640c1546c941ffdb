"""
Measures what injection does: a pretrained LM that is frozen, or has LoRA layers, writes the records of a table that it
has never seen, from latents that reach it in one of the four ways.

    python examples/pretrain_base_lm.py ... --num-steps 400 --output-dir base-lm
    python -m benchmarks.injection --data-dir DIR --base-model base-lm [--work-dir DIR] [--runs frozen lora ways sizes]
    python examples/smollm2.py smollm2
    python -m benchmarks.injection --data-dir DIR --base-model smollm2 --runs frozen lora --long-minutes 60

DIR holds shoppers (train.csv, valid.csv, test.csv), which the base must not have been trained on. A model that is
complete in the work folder is not trained again, whatever its time. The base is a folder, by whose name figures go to
benchmarks/results/injection.json; those of runs that are not asked for stay there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from difflm_hf import DataArguments, DiffLMPipeline, DiffLMProcessor, ModelArguments, RecordSchema, train
from difflm_hf.batches import trim_padding
from difflm_hf.evaluation import evaluate_latents, evaluate_table
from difflm_hf.latents import to_dataset
from difflm_hf.training import DOCUMENT_RECIPES
from difflm_hf.utils import supports_bf16

from .generation import processor
from .results import load_result, save_result


TABLE, TARGET = "shoppers", "Revenue"
CATEGORICAL = ("OperatingSystems", "Browser", "Region", "TrafficType")
NUM_VALIDATION, NUM_EVALUATED = 128, 300  # records of the test split, which bounds are of
SEED = 0


@dataclass
class Run:
    """
    A training.

    Args:
        injection, tuning (`str`): As in `train`.
        minutes (`float`): The time that it may take.
        latent_size, num_latent_tokens (`int`): As in `DiffLMConfig`.
        num_records (`int`): Records to generate.
    """

    injection: str
    tuning: str
    minutes: float
    latent_size: int = 32
    num_latent_tokens: int = 16
    num_records: int = 300


def runs(minutes: float, long_minutes: float, num_records: int) -> dict[str, dict[str, Run]]:
    ways = ("soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed")
    return {
        "frozen": {"frozen": Run("kv_memory", "frozen", long_minutes, num_records=num_records)},
        "lora": {"lora": Run("kv_memory", "lora", long_minutes, num_records=num_records)},
        "ways": {f"way {way}": Run(way, "frozen", minutes) for way in ways},
        "sizes": {
            **{f"latents {size}": Run("kv_memory", "frozen", minutes, latent_size=size) for size in (8, 128)},
            **{f"tokens {num}": Run("kv_memory", "frozen", minutes, num_latent_tokens=num) for num in (4, 64)},
        },
    }


def measure(run: Run, data_dir: Path, base_model: str, folder: Path) -> dict[str, Any]:
    real, validation, test = (pd.read_csv(data_dir / TABLE / f"{name}.csv") for name in ("train", "valid", "test"))
    sizes = {"latent_size": run.latent_size, "num_latent_tokens": run.num_latent_tokens}
    recipe = replace(DOCUMENT_RECIPES["small"], **sizes)
    if (folder / "model_index.json").exists():
        pipe = DiffLMPipeline.from_pretrained(folder)
    else:
        pipe = train(
            real,
            folder,
            validation=validation.head(NUM_VALIDATION),
            recipe=recipe,
            data_args=DataArguments(categorical=CATEGORICAL),
            model_args=ModelArguments(base_model, tuning=run.tuning, injection=run.injection),
            max_minutes=run.minutes,
            seed=SEED,
        )
    decode, masks = pipe.decode_latents, []

    def watched(*args, **kwargs) -> tuple[pd.DataFrame, np.ndarray]:
        records, mask = decode(*args, **kwargs)
        masks.append(mask)
        return records, mask

    pipe.decode_latents = watched
    table = pipe(run.num_records, generator=torch.Generator().manual_seed(SEED), output_type="pandas").records
    scores = evaluate_table(table, real, test, target=TARGET, categorical=CATEGORICAL, seed=SEED)
    trained = {name: weight for name, weight in pipe.vae.named_parameters() if weight.requires_grad}
    return {
        "injection": run.injection,
        "tuning": run.tuning,
        "minutes": run.minutes,
        "latent_size": run.latent_size,
        "num_latent_tokens": run.num_latent_tokens,
        "num_records": run.num_records,
        "num_steps": pipe.config.training["phases"][0]["num_steps"],
        "trained_parameters": sum(weight.numel() for weight in trained.values()),
        "valid": float(np.concatenate(masks).mean()),
        **evaluate_latents(pipe, test.head(NUM_EVALUATED)),
        "column_shapes": scores["fidelity"]["column_shapes"],
        "pair_trends": scores["fidelity"]["pair_trends"],
        "c2st": scores["fidelity"]["c2st"],
        "mle": scores["utility"]["synthetic"]["auc"]["mean"],
        "mle_real": scores["utility"]["real"]["auc"]["mean"],
    }


@torch.no_grad()
def measure_base(data_dir: Path, base_model: str) -> dict[str, Any]:
    """The base without latents, on the same records: all that it writes, and what the grammar leaves it to choose."""
    real, test = (pd.read_csv(data_dir / TABLE / f"{name}.csv") for name in ("train", "test"))
    test = test.head(NUM_EVALUATED)
    schema = RecordSchema.infer(pd.concat([real, test], ignore_index=True), CATEGORICAL)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    lm = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16 if supports_bf16() else None).eval()
    processor = DiffLMProcessor.from_records(pd.concat([real, test]), schema, tokenizer)
    dataset = to_dataset(processor, test)
    totals = {"all": 0.0, "open": 0.0}
    for start in range(0, len(test), 32):
        batch = trim_padding(dataset[slice(start, start + 32)])
        ids, labels = batch["decoder_input_ids"], batch["labels"]
        every = ids.masked_fill(batch["decoder_attention_mask"] == 0, -100)
        logits = lm(ids[:, :-1]).logits.flatten(0, 1).float()
        totals["all"] += F.cross_entropy(logits, every[:, 1:].flatten(), reduction="sum").item()
        targets = labels[:, 1:].flatten()
        allowed = processor.grammar.allowed(ids, batch["decoder_attention_mask"])
        is_allowed = allowed.sets[allowed.numbers]  # of the tokenizer's ids, of which a model may have more
        chosen = logits[targets >= 0, : is_allowed.shape[1]].masked_fill(~is_allowed, -torch.inf)
        totals["open"] += F.cross_entropy(chosen, targets[targets >= 0], reduction="sum").item()
    return {
        "nats": totals["open"] / len(test),
        "nats_with_forced": totals["all"] / len(test),
        "tokens": dataset.tensors["decoder_attention_mask"].sum().item() / len(test),
        "open_tokens": (dataset.tensors["labels"] >= 0).sum().item() / len(test),
        "parameters": lm.num_parameters(),
        "layers": lm.config.num_hidden_layers,
        "vocab_size": lm.config.vocab_size,
    }


def main(
    data_dir: Path,
    base_model: str,
    work_dir: Path,
    selected: list[str],
    minutes: float,
    long_minutes: float,
    num_records: int,
) -> None:
    base = Path(base_model).name
    for group in selected:
        for name, run in runs(minutes, long_minutes, num_records)[group].items():
            scores = measure(run, data_dir, base_model, work_dir / base / name.replace(" ", "-"))
            print(name, scores, flush=True)
            figures = load_result("injection").get(base, {})  # which another process may have added to
            if "base" not in figures:
                figures = {
                    "base": measure_base(data_dir, base_model),
                    "batch_size": DOCUMENT_RECIPES["small"].vae["per_device_train_batch_size"],
                    "table": TABLE,
                    "threads": torch.get_num_threads(),
                    "processor": processor(),
                    "runs": {},
                }
            figures["runs"][name] = scores
            save_result("injection", {base: figures})


if __name__ == "__main__":
    groups = ["frozen", "lora", "ways", "sizes"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-injection"))
    parser.add_argument("--runs", dest="selected", nargs="+", choices=groups, default=groups)
    parser.add_argument("--minutes", type=float, default=4, help="Of each of the ways and sizes.")
    parser.add_argument("--long-minutes", type=float, default=15, help="Of frozen and lora.")
    parser.add_argument("--num-records", type=int, default=2000, help="To generate by frozen and lora.")
    main(**vars(parser.parse_args()))
