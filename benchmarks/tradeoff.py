"""
What information in the latents costs: trains one table with several amounts of free bits, and plots KL against C2ST.

    python -m benchmarks.tradeoff --data-dir DIR [--dataset magic] [--work-dir DIR]

Figures go to benchmarks/results/tradeoff.json, the plot to docs/images/tradeoff.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from difflm_hf import train
from difflm_hf.evaluation import evaluate_table
from difflm_hf.training import RECIPES

from .models.difflm import score_latents
from .results import load_result, save_result


PLOT = Path("docs/images/tradeoff.png")
# β and free bits per dimension (nats), from latents that carry nothing to latents that carry most of a record.
SETTINGS = ((1.0, 0.0), (1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0))


def measure(folder: Path, work_dir: Path, beta: float, free_bits: float) -> dict[str, Any]:
    """KL and quality of one setting."""
    info = json.loads((folder / "info.json").read_text())
    tables = {split: pd.read_csv(folder / f"{split}.csv") for split in ("train", "valid", "test")}
    output_dir = work_dir / f"{folder.name}-beta{beta}-free{free_bits}"
    shutil.rmtree(output_dir, ignore_errors=True)
    small = RECIPES["small"]
    recipe = replace(small, vae={**small.vae, "beta_max": beta, "free_bits": free_bits})
    pipe = train(tables["train"], output_dir, validation=tables["valid"], recipe=recipe)
    generator = torch.Generator().manual_seed(0)
    synthetic = pipe(len(tables["train"]), generator=generator, output_type="pandas").records
    kinds = {"target": info["target"], "categorical": info["categorical"]}
    scores = evaluate_table(synthetic, tables["train"], tables["test"], **kinds)
    return {
        "beta": beta,
        "free_bits": free_bits,
        **score_latents(pipe, tables["valid"], seed=0),
        **{name: scores["fidelity"][name] for name in ("column_shapes", "pair_trends", "c2st")},
        "mle": scores["utility"]["synthetic"]["auc"]["mean"],
    }


def plot(points: list[dict[str, Any]], title: str) -> None:
    figure, axis = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axis.plot([p["kl"] for p in points], [p["c2st"] for p in points], "o-", color="tab:blue")
    for p in points:
        label = f"β {p['beta']}, {p['free_bits']} free"
        axis.annotate(label, (p["kl"], p["c2st"]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.set(xlabel="KL (nats per record)", ylabel="C2ST (0.5 is best)", title=title)
    axis.grid(alpha=0.3)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--dataset", default="magic")
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    for beta, free_bits in SETTINGS:
        point = measure(args.data_dir / args.dataset, args.work_dir, beta, free_bits)
        print(json.dumps(point), flush=True)
        save_result("tradeoff", {f"beta {beta}, free bits {free_bits}": point, "dataset": args.dataset})
    points = [value for value in load_result("tradeoff").values() if isinstance(value, dict) and "kl" in value]
    plot(sorted(points, key=lambda p: p["kl"]), f"{args.dataset}: information in the latents against fidelity")


if __name__ == "__main__":
    main()
