"""
Speed of generation: where the time goes, what solvers, batches and columns cost, and what a grammar does.

    python -m benchmarks.generation --data-dir DIR [--work-dir DIR] [--parts profile solvers batches columns json]

DIR holds adult with train.csv, test.csv and info.json; the work folder the model that `benchmarks.tables` trained on
it. Figures go to benchmarks/results/generation.json, the plot of batches and columns to docs/images/generation.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import torch
from diffusers import EDMDPMSolverMultistepScheduler, SchedulerMixin
from matplotlib.figure import Figure
from torch.profiler import profile
from transformers import AutoConfig, LlamaForCausalLM

from difflm_hf import DiffLMDenoiser, DiffLMPipeline, DiffLMProcessor, LatentEDMScheduler
from difflm_hf.evaluation import classifier_two_sample_test
from difflm_hf.modeling_difflm import DiffLMModel
from difflm_hf.profiling import profile_generation
from difflm_hf.records import RecordSchema
from difflm_hf.training.build import build_row_model
from difflm_hf.training.recipes import COMPACT_BLOCK_SIZE, DOCUMENT_BLOCK_SIZE, NOISE_LEVELS, RECIPES, SAMPLER_CONFIG
from difflm_hf.utils import default_dtype

from .grammars import train_tokenizer
from .results import load_result, save_result


PLOT = Path("docs/images/generation.png")
NUM_RECORDS = 100_000
SOLVERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any], int]] = {
    "DPM-Solver++ of order 3, 8 steps": (EDMDPMSolverMultistepScheduler, SAMPLER_CONFIG, 8),
    "DPM-Solver++ of order 3, 12 steps (default)": (EDMDPMSolverMultistepScheduler, SAMPLER_CONFIG, 12),
    "DPM-Solver++ of order 3, 20 steps": (EDMDPMSolverMultistepScheduler, SAMPLER_CONFIG, 20),
    "DPM-Solver++ of order 2, 12 steps": (EDMDPMSolverMultistepScheduler, {"solver_order": 2}, 12),
    "Heun, 6 steps": (LatentEDMScheduler, {}, 6),
    "Heun, 16 steps": (LatentEDMScheduler, {}, 16),
    "Heun, 50 steps": (LatentEDMScheduler, {}, 50),
}
BATCH_SIZES = [2**k for k in range(14)]
NUM_COLUMNS = (10, 50, 200, 1000)
NUM_JSON = 1000


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def generate(pipe: DiffLMPipeline, num_records: int, **sampling) -> tuple[pd.DataFrame, float]:
    """Records, and how many a second, after a first block that warms up."""
    pipe.set_progress_bar_config(disable=True)
    pipe(1, output_type="pandas", **sampling)
    start = time.perf_counter()
    records = pipe(num_records, generator=seeded(), output_type="pandas", **sampling).records
    return records, num_records / (time.perf_counter() - start)


def measure_profile(pipe: DiffLMPipeline) -> dict[str, Any]:
    pipe.set_progress_bar_config(disable=True)
    result = profile_generation(pipe, NUM_RECORDS)
    return {
        "num_records": NUM_RECORDS,
        **vars(result),
        "share_of_limit": result.share_of_limit,
        "dtype": str(pipe.vae.dtype).split(".")[1],
    }


def measure_solvers(pipe: DiffLMPipeline, data: Path) -> list[dict[str, Any]]:
    """C2ST against the test split of as many rows as there are for training."""
    tables = {split: pd.read_csv(data / f"{split}.csv") for split in ("train", "test")}
    categorical = json.loads((data / "info.json").read_text())["categorical"]
    rows = []
    for name, (scheduler, config, num_steps) in SOLVERS.items():
        config = NOISE_LEVELS | config
        solver = DiffLMPipeline(pipe.vae, pipe.denoiser, scheduler(**config), pipe.processor, pipe.config.block_size)
        records, rate = generate(solver, len(tables["train"]), num_inference_steps=num_steps)
        solver.scheduler.set_timesteps(num_steps)
        figures = {"evaluations": len(solver.scheduler.timesteps), "records_per_second": rate}
        for split, table in tables.items():
            figures[f"c2st_{split}"] = classifier_two_sample_test(table, records, categorical)
        rows.append({"name": name, **figures})
        print(rows[-1], flush=True)
    return rows


def measure_batches(pipe: DiffLMPipeline) -> dict[int, float]:
    """Records per second in blocks of several sizes, each decoded at once."""
    rates = {}
    for size in BATCH_SIZES:
        part = DiffLMPipeline(**pipe.components, block_size=size)
        rates[size] = generate(part, min(NUM_RECORDS, max(64, 32 * size)), batch_size=size)[1]
        print(size, rates[size], flush=True)
    return rates


def draw_column(index: int, generator: np.random.Generator, size: int = 2000) -> np.ndarray:
    """One of four kinds: few whole numbers, many, categories, and floats."""
    return (
        generator.integers(8, size=size),
        generator.integers(60, size=size),
        generator.choice(["a", "b", "c", "d"], size),
        generator.normal(size=size).round(4),
    )[index % 4]


def measure_columns() -> list[dict[str, Any]]:
    """Untrained models of the default size: what columns cost does not depend on what was learnt."""
    rows = []
    for count in NUM_COLUMNS:
        generator = np.random.default_rng(0)
        table = pd.DataFrame({f"c{i}": draw_column(i, generator) for i in range(count)})
        processor = DiffLMProcessor.from_records(table)
        vae = build_row_model(processor, RECIPES["small"]).eval().to(default_dtype())
        denoiser = DiffLMDenoiser(**RECIPES["small"].denoiser_config).eval().to(default_dtype())
        scheduler = EDMDPMSolverMultistepScheduler(**NOISE_LEVELS, **SAMPLER_CONFIG)
        pipe = DiffLMPipeline(vae, denoiser, scheduler, processor, COMPACT_BLOCK_SIZE)
        rate = generate(pipe, max(2 * COMPACT_BLOCK_SIZE, NUM_RECORDS // count))[1]
        figures = {"columns": count, "tokens": vae.config.max_record_length, "records_per_second": rate}
        rows.append({**figures, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})
        print(rows[-1], flush=True)
    return rows


def measure_json(data_dir: Path) -> dict[str, Any]:
    """Adult as JSON by a Llama with random weights and 32,000 ids: what is valid, and what the grammar costs."""
    data = data_dir / "adult"
    categorical = json.loads((data / "info.json").read_text())["categorical"]
    schema = RecordSchema.infer(pd.read_csv(data / "train.csv"), categorical)
    validator = jsonschema.Draft202012Validator(schema.to_json_schema())
    texts = itertools.chain.from_iterable(
        path.read_text(encoding="utf-8").splitlines() for path in sorted(data_dir.glob("*/train.*"))
    )
    tokenizer, _ = train_tokenizer(texts)
    tokenizer.bos_token = tokenizer.eos_token
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    processor = DiffLMProcessor.from_records(pd.read_csv(data / "train.csv"), schema, tokenizer)
    encoder = AutoConfig.for_model("bert", **sizes, **ids)
    lm = LlamaForCausalLM(AutoConfig.for_model("llama", **sizes, **ids, max_position_embeddings=2048))
    config = processor.model_config(encoder_config=encoder, decoder_config=lm.config, latent_size=8)
    vae = DiffLMModel(config, lm=lm).eval().to(default_dtype())
    scheduler = EDMDPMSolverMultistepScheduler(**NOISE_LEVELS, **SAMPLER_CONFIG)
    pipe = DiffLMPipeline(vae, DiffLMDenoiser().to(default_dtype()), scheduler, processor, DOCUMENT_BLOCK_SIZE)
    figures: dict[str, Any] = {}
    for temperature in (1.0, 1.5):
        latents = pipe.generate_latents(NUM_JSON, generator=seeded())
        uniforms = torch.rand(NUM_JSON, config.max_record_length - 1, generator=seeded())
        start = time.perf_counter()
        with profile() as trace:
            batches = [
                vae.decoder.sample_records(z, u, temperature, grammar=processor.grammar)
                for z, u in zip(latents.split(DOCUMENT_BLOCK_SIZE), uniforms.split(DOCUMENT_BLOCK_SIZE))
            ]
        seconds = time.perf_counter() - start
        records = [text for ids in batches for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        times = {event.key: event.cpu_time_total for event in trace.key_averages() if "difflm::" in event.key}
        figures[str(temperature)] = {
            "records": NUM_JSON,
            "valid": sum(is_valid(validator, text) for text in records),
            "tokens": sum((ids != 0).sum().item() for ids in batches) / NUM_JSON,
            "records_per_second": NUM_JSON / seconds,
            "grammar": times["difflm::grammar"] / sum(times.values()),
        }
        print(figures, flush=True)
    return figures


def is_valid(validator: jsonschema.Draft202012Validator, text: str) -> bool:
    try:
        return validator.is_valid(json.loads(text))
    except ValueError:
        return False


def plot(result: dict[str, Any]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    batches = {int(size): rate for size, rate in result["batches"].items()}
    left.loglog(list(batches), list(batches.values()), "o-", base=2)
    left.set_yscale("log", base=10)
    left.set(xlabel="records computed together", ylabel="records per second", title="Adult")
    right.loglog(
        [row["columns"] for row in result["columns"]], [r["records_per_second"] for r in result["columns"]], "o-"
    )
    right.set(xlabel="columns", title="Tables of numbers and categories")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=120)


def processor() -> str:
    """The processor, and whether it has units for products of bfloat16 matrices."""
    capabilities = torch.cpu.get_capabilities()
    units = "matrix units" if capabilities.get("amx_bf16") else "AVX-512 and no matrix units"
    return f"{capabilities.get('cpu_name', 'an unknown processor')} with {units}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("profile", "solvers", "batches", "columns", "json")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    args = parser.parse_args()
    folder = args.work_dir / "adult" / "difflm" / "model"
    pipe = DiffLMPipeline.from_pretrained(folder)
    measure = {
        "profile": lambda: measure_profile(pipe),
        "solvers": lambda: measure_solvers(pipe, args.data_dir / "adult"),
        "batches": lambda: measure_batches(pipe),
        "columns": measure_columns,
        "json": lambda: measure_json(args.data_dir),
    }
    for part in args.parts:
        save_result("generation", {part: measure[part](), f"{part}_processor": processor()})
    plot(load_result("generation"))


if __name__ == "__main__":
    main()
