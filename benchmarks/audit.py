"""
What models give away: audits of a model that is trained to overfit, of the default training, of training with
`min_category_count=10`, and of a control that takes unseen rows for training rows; and the exposure of planted
canaries.

    python -m benchmarks.audit [--rows 3000] [--small-rows 200] [--max-minutes 1] [--max-rows 2000] [--canaries 40]
        [--repeats 1 16] [--parts audits canaries]

Figures go to benchmarks/results/audit.json.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from difflm_hf import DataArguments, train
from difflm_hf.evaluation import attack_scores, audit_model, chance_exposure, exposure, plant_canaries
from difflm_hf.training import RECIPES

from .markdown import to_table
from .results import load_result, save_result


DATA = Path(__file__).parents[1] / "examples" / "data"
ATTACKS = ("likelihood", "calibrated", "distance", "files")
MIN_COUNT = 30  # of values of canaries, so that no training leaves them out
TRAININGS = {"default": {}, "min_category_count=10": {"data_args": DataArguments(min_category_count=10)}}
SMALL = RECIPES["small"]
# Many steps for few rows, and nothing that works against learning these by heart.
OVERFIT = replace(
    SMALL,
    min_steps=600,
    decoder_config={**SMALL.decoder_config, "token_dropout": 0.0},
    denoiser={**SMALL.denoiser, "max_steps": 300, "per_device_train_batch_size": 256},
)


def read(part: str) -> pd.DataFrame:
    return pd.read_parquet(DATA / f"adult_{part}.parquet")


def fit(table: pd.DataFrame, validation: pd.DataFrame, max_minutes: float | None, **arguments) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return train(table, Path(folder, "model"), validation, max_minutes=max_minutes, **arguments)


def summary(audit: dict[str, Any]) -> dict[str, Any]:
    """The figures of an audit, without its curves."""
    membership = {
        name: {key: attack[key] for key in ("auc", "tpr")} for name, attack in audit["audit"]["membership"].items()
    }
    kept = ("verdict", "reasons", "notes", "rows", "num_rare", "num_extremes")
    advantage = audit["audit"]["attributes"].get("advantage")
    return {"membership": membership, "advantage": advantage} | {key: audit["audit"][key] for key in kept}


def run_audits(args: argparse.Namespace) -> dict[str, Any]:
    table, holdout, validation = read("train").sample(args.rows, random_state=0), read("test"), read("validation")
    validation, fresh = validation[: args.rows // 10], validation[args.rows // 10 :]
    small = table.head(args.small_rows)
    found = {}

    def record(name: str, pipe: Any, members: pd.DataFrame) -> None:
        found[name] = summary(audit_model(pipe, members, holdout, max_rows=args.max_rows))
        print(name, found[name]["verdict"], *(reason["reason"] for reason in found[name]["reasons"]), sep="\n  ")

    # Selected by the rows that it learns.
    record(f"overfit to {args.small_rows:,} rows", fit(small, small, None, recipe=OVERFIT), small)
    for name, arguments in TRAININGS.items():
        pipe = fit(table, validation, args.max_minutes, **arguments)
        record(f"{name}, {args.rows:,} rows", pipe, table)
        if name == "default":
            record("the same, and rows that it did not learn", pipe, fresh)
    return found


def run_canaries(args: argparse.Namespace) -> dict[str, Any]:
    table, validation = read("train").sample(args.rows, random_state=0), read("validation")[: args.rows // 10]
    found = {}
    for name, arguments in TRAININGS.items():
        full, groups = table, {}
        for repeats in args.repeats:
            groups[repeats] = plant_canaries(full, args.canaries, repeats, repeats, MIN_COUNT)
            full = groups[repeats].table
        pipe = fit(full, validation, args.max_minutes, **arguments)
        for repeats, canaries in groups.items():
            bits = exposure(pipe, canaries.planted, canaries.others)
            attack = attack_scores(*(pipe.log_prob(part) for part in (canaries.planted, canaries.others)))
            found[f"{name}, planted {repeats} times"] = {
                "mean": float(bits.mean()),
                "error": float(bits.std(ddof=1) / np.sqrt(len(bits))),
                "max": float(bits.max()),
                "chance": chance_exposure(len(canaries.others)),
                "most": float(np.log2(len(canaries.others) + 1)),
                "auc": attack["auc"],
            }
            print(name, repeats, found[f"{name}, planted {repeats} times"])
    return found


def audit_section() -> str:
    results = load_result("audit")
    passages = [] if results else ["They have not been measured yet."]
    if "audits" in results:
        header = ["model", *(f"AUC by {name}" for name in ATTACKS), "found at 1 %", "rare values", "verdict"]
        rows = []
        for name, audit in results["audits"].items():
            aucs = [_interval(audit["membership"].get(attack, {}).get("auc")) for attack in ATTACKS]
            tpr = max(attack["tpr"]["mean"] for attack in audit["membership"].values())
            rows.append([name, *aucs, f"{tpr:.1%}", f"{audit['num_rare']:,}", audit["verdict"]])
        passages.append(
            "[`difflm audit`](audit.md) of models of rows of the Adult table, with intervals of 95 %. *Found* is the "
            "rate of training rows that the best attack finds where 1 % of held-out rows are taken for such:\n\n"
            + to_table(header, rows)
        )
    if "canaries" in results:
        rows = [
            [
                name,
                f"{bits['mean']:.2f} ± {1.96 * bits['error']:.2f}",
                *(f"{bits[key]:.2f}" for key in ("chance", "max", "most")),
                _interval(bits["auc"]),
            ]
            for name, bits in results["canaries"].items()
        ]
        passages.append(
            "Exposure, in bits, of canaries that were planted into such a table. *Chance* is the mean of those that "
            "were not learnt, *AUC* that of telling them from others by likelihood:\n\n"
            + to_table(["training", "exposure", "chance", "largest", "largest possible", "AUC"], rows)
        )
    return "\n\n".join(passages)


def _interval(value: dict[str, float] | None) -> str:
    return "–" if value is None else f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("audits", "canaries"), default=["audits", "canaries"])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--small-rows", type=int, default=200)
    parser.add_argument("--max-minutes", type=float, default=1)
    parser.add_argument("--max-rows", type=int, default=2000)
    parser.add_argument("--canaries", type=int, default=40)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 16])
    args = parser.parse_args()
    for part in args.parts:
        save_result("audit", {part: run_audits(args) if part == "audits" else run_canaries(args)})
    print(audit_section())


if __name__ == "__main__":
    main()
