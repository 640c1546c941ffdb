"""
Differentially private training of the Adult table, at several ε, beside training without it and beside AIM of dpmm.

    python -m benchmarks.privacy --data-dir DIR [--epsilons 8 2 1] [--seeds 0 1 2] [--models difflm aim] [--minutes 5]
        [--canaries 40] [--work-dir DIR]

DIR is a folder of train.csv, test.csv and info.json. AIM gets a virtual environment of its own in the work folder, and
stops after `--aim-minutes`. What was scored before stays. Figures go to benchmarks/results/privacy.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, PrivacyArguments, train
from difflm_hf.evaluation import attack_scores, chance_exposure, evaluate_table, exposure, plant_canaries
from difflm_hf.evaluation.audit.audit import is_encodable
from difflm_hf.records import Field, RecordSchema, read_table

from .markdown import to_table
from .results import load_result, save_result
from .tables import Model, find_python


DELTA = 1e-5
# What the description of the data says, and no more (Becker & Kohavi, 10.24432/C5XW20)
BOUNDS = {
    "age": (17, 90),
    "fnlwgt": (0, 1_500_000),
    "education-num": (1, 16),
    "capital-gain": (0, 99_999),
    "capital-loss": (0, 5_000),
    "hours-per-week": (1, 99),
}
AIM = Model("AIM", ("dpmm==0.1.9",))
MAX_ATTACKED = 4_000  # training rows, and as many others, that a likelihood is computed of
NAMES = {"difflm": "**difflm_hf**", "aim": "AIM (dpmm)"}


def public_schema(table: pd.DataFrame) -> RecordSchema:
    """The schema of the data's description: its categories are those that the description lists."""
    fields = []
    for f in RecordSchema.infer(table, [name for name in table if name not in BOUNDS]):
        if f.name in BOUNDS:
            low, high = BOUNDS[f.name]
            fields.append(Field(f.name, "integer", dtype=f.dtype, minimum=low, maximum=high))
        else:
            fields.append(Field(f.name, f.type, dtype=f.dtype, categories=f.categories))
    return RecordSchema(fields)


def run_difflm(data: Path, output: Path, epsilon: float, seed: int, minutes: float) -> dict[str, Any]:
    table = read_table(data / "train.csv")
    if (output / "model" / "model_index.json").exists():
        pipe = DiffLMPipeline.from_pretrained(output / "model")
    else:
        pipe = fit(data, output / "model", epsilon, seed, minutes)
    spent = pipe.config.training.get("privacy", {}).get("spent_epsilon")
    rows = pipe(len(table), generator=torch.Generator().manual_seed(seed), output_type="pandas").records
    rows.to_csv(output / "rows.csv", index=False)
    return {"spent_epsilon": spent, "likelihood": attack(pipe, data)}


def fit(data: Path, folder: Path, epsilon: float, seed: int, minutes: float) -> DiffLMPipeline:
    table = read_table(data / "train.csv")
    schema = public_schema(pd.concat([table, read_table(data / "test.csv")], ignore_index=True))
    privacy = None if epsilon == np.inf else PrivacyArguments(epsilon, DELTA)
    return train(table, folder, schema=schema, privacy_args=privacy, max_minutes=minutes, seed=seed)


def time_trainings(data: Path) -> dict[str, float]:
    """Seconds that training takes with and without privacy, from start to end."""
    seconds = {}
    for name, epsilon in (("private", 8.0), ("default", np.inf)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            fit(data, Path(folder, "model"), epsilon, 0, 30)
            seconds[name] = time.monotonic() - start
    return seconds


def attack(pipe: DiffLMPipeline, data: Path) -> dict[str, float]:
    """Of training rows and of those of the test split, told apart by how likely the model takes them for."""
    tables = [read_table(data / f"{part}.csv").head(MAX_ATTACKED) for part in ("train", "test")]
    tables = [table[is_encodable(pipe.processor, table)] for table in tables]  # all, where training is private
    generators = [torch.Generator().manual_seed(0) for _ in tables]
    scores = [pipe.log_prob(table, generator=g) for table, g in zip(tables, generators)]
    return attack_scores(*scores)["auc"]


def run_aim(data: Path, output: Path, epsilon: float, seed: int, python: Path, minutes: float) -> dict[str, Any]:
    table = pd.concat([pd.read_csv(data / f"{part}.csv", keep_default_na=False) for part in ("train", "test")])
    pd.read_csv(data / "train.csv", keep_default_na=False).to_csv(output / "input.csv", index=False)
    domain = {
        name: dict(zip(("lower", "upper"), BOUNDS[name]))
        if name in BOUNDS
        else {"categories": sorted(map(str, table[name].unique()))}
        for name in table
    }
    (output / "domain.json").write_text(json.dumps(domain))
    command = [python, "-m", "benchmarks.models.aim", "--folder", output, "--epsilon", epsilon, "--delta", DELTA]
    command = [*map(str, command), "--seed", str(seed)]
    with (output / "log.txt").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=60 * minutes, check=True)
    return json.loads((output / "run.json").read_text())


def score(data: Path, rows: Path) -> dict[str, Any]:
    info = json.loads((data / "info.json").read_text())
    tables = [pd.read_csv(path) for path in (rows, data / "train.csv", data / "test.csv")]
    scores = evaluate_table(*tables, target=info["target"], categorical=info["categorical"], seed=0)
    fidelity = scores["fidelity"]
    return {
        "shapes": fidelity["column_shapes"],
        "trends": fidelity["pair_trends"],
        "c2st": fidelity["c2st"],
        "mle": scores["utility"]["synthetic"]["auc"]["mean"],
        "mle_real": scores["utility"]["real"]["auc"]["mean"],
        "distance": scores["privacy"]["membership_inference"]["auc"],
    }


def run_canaries(data: Path, work_dir: Path, epsilon: float, num: int, minutes: float) -> dict[str, float]:
    """The exposure of rows that were planted into the training table."""
    table = read_table(data / "train.csv")
    canaries = plant_canaries(table, num, min_count=30)
    schema = public_schema(canaries.table)
    output = work_dir / f"canaries-{epsilon}"
    privacy = PrivacyArguments(epsilon, DELTA)
    if (output / "model_index.json").exists():
        pipe = DiffLMPipeline.from_pretrained(output)
    else:
        pipe = train(canaries.table, output, None, schema, privacy_args=privacy, max_minutes=minutes)
    bits = exposure(pipe, canaries.planted, canaries.others)
    return {
        "mean": float(bits.mean()),
        "error": float(bits.std(ddof=1) / len(bits) ** 0.5),
        "max": float(bits.max()),
        "num_others": len(canaries.others),
    }


def privacy_section() -> str:
    results = load_result("privacy")
    rows = []
    for key, runs in sorted(results["runs"].items(), key=lambda item: -float(item[0].split(":")[1])):
        model, epsilon = key.split(":")
        figures = list(runs.values())
        cells = [_mean([run[name] for run in figures]) for name in ("shapes", "trends", "c2st", "mle", "distance")]
        likelihood = [run["likelihood"]["mean"] for run in figures if "likelihood" in run]
        limit = "none" if epsilon == "inf" else epsilon
        rows.append([limit, NAMES[model], *cells, _mean(likelihood) if likelihood else "–", str(len(figures))])
    real = next(iter(next(iter(results["runs"].values())).values()))["mle_real"]
    header = ["ε", "model", "shapes", "trends", "C2ST", "MLE", "by distance", "by likelihood", "seeds"]
    text = (
        f"Rows of the Adult table, by [private training](privacy.md) with δ = {DELTA:g}, at several ε. Bounds and "
        "categories are those of the data's description. *MLE* of real rows is "
        f"{real:.3f}; *by distance* and *by likelihood* are the AUC of attacks that tell training rows from others, "
        "0.5 where they cannot. Means over seeds, with intervals of 95 % where there are several. The "
        "learning rate of private training was chosen by C2ST against the training rows, at ε = 1 and with seed 0.\n\n"
        + to_table(header, rows)
    )
    text += "\n\n"
    if seconds := results.get("seconds"):
        text += f"Training takes {seconds['private']:.0f} s with privacy, and {seconds['default']:.0f} s without. "
    text += (
        "AIM is limited to models of 4 MB and to 200 iterations of each fit; with its defaults of 80 and 1,000, it "
        "had not come to an end after six minutes of a core."
    )
    if "canaries" in results:
        found = [
            [epsilon, f"{bits['mean']:.2f} ± {1.96 * bits['error']:.2f}", f"{bits['max']:.2f}"]
            for epsilon, bits in results["canaries"].items()
        ]
        num = next(iter(results["canaries"].values()))["num_others"]
        text += (
            "\n\nExposure, in bits, of rows that were planted into the table once. That of rows which were not is "
            f"{chance_exposure(num):.2f} on average:\n\n" + to_table(["ε", "exposure", "largest"], found)
        )
    return text


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {1.96 * np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 2, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", choices=tuple(NAMES), default=list(NAMES))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--aim-minutes", type=float, default=30)
    parser.add_argument("--time", action="store_true", help="measure nothing but how long training takes")
    parser.add_argument("--canaries", type=int, default=0, help="rows to plant, of a training each")
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-work"))
    args = parser.parse_args()
    if args.time:
        save_result("privacy", {"seconds": time_trainings(args.data_dir)})
        return
    runs = load_result("privacy").get("runs", {})
    for model in args.models:
        for epsilon in args.epsilons:
            for seed in args.seeds:
                key = f"{model}:{epsilon:g}"
                if str(seed) in runs.get(key, {}) or (model == "aim" and epsilon == np.inf):
                    continue
                output = args.work_dir / "privacy" / f"{model}-{epsilon:g}-{seed}"
                output.mkdir(parents=True, exist_ok=True)
                try:
                    if model == "aim":
                        python = find_python(AIM, args.work_dir / "environments")
                        run = run_aim(args.data_dir, output, epsilon, seed, python, args.aim_minutes)
                    else:
                        run = run_difflm(args.data_dir, output, epsilon, seed, args.minutes)
                except subprocess.TimeoutExpired:
                    print(f"{key}: no end after {args.aim_minutes} minutes", flush=True)
                    continue
                runs.setdefault(key, {})[str(seed)] = run | score(args.data_dir, output / "rows.csv")
                print(key, seed, runs[key][str(seed)], flush=True)
                save_result("privacy", {"runs": runs})
    if args.canaries:
        found = {
            f"{epsilon:g}": run_canaries(
                args.data_dir, args.work_dir / "privacy", epsilon, args.canaries, args.minutes
            )
            for epsilon in args.epsilons
            if epsilon < np.inf
        }
        save_result("privacy", {"canaries": found})
    print(privacy_section())


if __name__ == "__main__":
    main()
