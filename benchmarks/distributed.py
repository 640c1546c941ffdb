"""
Training by several processes beside training by one: the losses of the first steps, and the time of a step.

    python -m benchmarks.distributed --data-dir DIR [--num-records 20480] [--num-steps 50]

Both phases of the recipe `small` on adult, in float32 and at the same batch of all processes together: one process
with a thread, one with two, and two with a thread each. Figures go to benchmarks/results/distributed.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, set_seed

from difflm_hf import LatentEDMScheduler, ModelArguments
from difflm_hf.distributed import join_processes
from difflm_hf.latents import encode_latents, latent_moments
from difflm_hf.training import (
    RECIPES,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
)
from difflm_hf.training.build import build_autoencoder, build_denoiser
from difflm_hf.training.fit import Run, same_weights
from difflm_hf.training.prepare import prepare_records
from difflm_hf.training.recipes import NOISE_LEVELS, VAE_ARGUMENTS

from .markdown import to_table
from .results import load_result, save_result


NUM_STEPS = 50
WARM = 10  # steps before time is taken
SETUPS = {"one process": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}
PHASES = {"vae": "autoencoder", "slow_vae": "at a rate of 1e-4", "denoiser": "denoiser"}
RATE = 1e-4  # at which rounding does not grow in some dozen steps, as it does at the recipe's


class Steps(TrainerCallback):
    """Takes the time of steps, and ends training after some."""

    def __init__(self, num_steps: int):
        self.num_steps, self.ends = num_steps, []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())
        control.should_training_stop = state.global_step >= self.num_steps


def measure(trainer: Trainer, num_steps: int) -> dict[str, Any]:
    steps = Steps(num_steps)
    trainer.add_callback(steps)
    set_seed(trainer.args.seed)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "seconds": (steps.ends[-1] - steps.ends[WARM - 1]) / (num_steps - WARM)}


def work(data: Path, num_records: int, num_steps: int, output: Path) -> None:
    """What each process does."""
    join_processes()
    recipe = RECIPES["small"]
    records = prepare_records(data, seed=0)
    records.train.tensors = {name: tensor[:num_records] for name, tensor in records.train.tensors.items()}
    run = Run(output)
    common = {"logging_steps": 1, "bf16": False, "eval_strategy": "no", "save_strategy": "no"}
    common |= {"load_best_model_at_end": False, "disable_tqdm": True, "max_steps": recipe.min_steps}
    set_seed(0)
    vae = build_autoencoder(records, recipe, ModelArguments())
    rates = {"vae": {}, "slow_vae": {"learning_rate": RATE}}
    latents = encode_latents(vae, records.train)
    scheduler = LatentEDMScheduler(**NOISE_LEVELS)
    fields = records.processor.codec.position_fields
    latents.tensors["known_ids"] = records.train.tensors["input_ids"][:, 1 : 1 + len(fields)]
    denoiser = build_denoiser(latent_moments(latents), recipe, scheduler.config.sigma_data, recipe.condition_size)
    known = {"known_fields": vae.decoder.known_fields, "position_fields": fields}
    arguments = run.arguments(LatentDiffusionTrainingArguments, "denoiser", recipe.denoiser | common)
    trainer = LatentDiffusionTrainer(same_weights(denoiser), arguments, scheduler, **known, train_dataset=latents)
    figures = {"denoiser": measure(trainer, num_steps)}
    for name, rate in rates.items():
        arguments = run.arguments(DiffLMTrainingArguments, "vae", VAE_ARGUMENTS | recipe.vae | common | rate)
        trainer = DiffLMTrainer(deepcopy(vae), arguments, position_fields=fields, train_dataset=records.train)
        figures[name] = measure(trainer, num_steps)
    if trainer.is_world_process_zero():
        (output / "figures.json").write_text(json.dumps(figures))


def launch(num_processes: int, num_threads: int, arguments: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    with tempfile.TemporaryDirectory() as folder:
        worker = ["-m", "benchmarks.distributed", *arguments, "--output", folder]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
        subprocess.run([sys.executable, *launcher, *worker], env=environment, check=True)
        return json.loads((Path(folder) / "figures.json").read_text())


def distributed_section() -> str:
    setups = load_result("distributed").get("setups")
    if not setups:
        return ""
    alone, rows = setups["one process"], []
    for name, phases in setups.items():
        row = [name]
        for phase in PHASES:
            of_phase, of_one = phases[phase], alone[phase]
            differences = [abs(a - b) for a, b in zip(of_phase["losses"], of_one["losses"], strict=True)]
            ratio = of_one["seconds"] / of_phase["seconds"]
            row += [f"{1000 * of_phase['seconds']:.0f}", f"{ratio:.2f}", f"{max(differences):.0e}"]
        rows.append(row)
    columns = ("ms a step", "times as fast", "loss differs by")
    return to_table(["", *(f"{title}: {column}" for title in PHASES.values() for column in columns)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--num-records", type=int, default=20_480)
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    data = args.data_dir / "adult" / "train.csv"
    if args.output is not None:
        return work(data, args.num_records, args.num_steps, args.output)
    arguments = [f"--data-dir={args.data_dir}", f"--num-records={args.num_records}", f"--num-steps={args.num_steps}"]
    setups = {name: launch(*of, arguments) for name, of in SETUPS.items()}
    save_result("distributed", {"setups": setups})
    print(distributed_section())


if __name__ == "__main__":
    main()
