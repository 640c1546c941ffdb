"""
Columns of thousands of categories: how well a model keeps their frequencies, and what they cost.

    python -m benchmarks.categories [--seeds 0 1 2] [--minutes 5]

A city of Zipf's law, beside its region, which follows from it, and two numbers. The total variation of the generated
cities stands beside that of a bootstrap of the training rows. Figures go to benchmarks/results/categories.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train

from .markdown import mean_interval, to_table
from .results import load_result, save_result


SIZES = {5_000: 100_000, 50_000: 400_000}  # rows, by distinct categories
NUM_REGIONS = 10
CITY = "city"
NUM_TIMED, NUM_ROUNDS = 50_000, 3


def make_table(num_categories: int, num_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, num_categories + 1)
    cities = rng.choice(num_categories, num_rows, p=shares / shares.sum())
    regions = np.random.default_rng(0).integers(0, NUM_REGIONS, num_categories)[cities]
    return pd.DataFrame(
        {
            CITY: [f"city {city}" for city in cities],
            "region": [f"region {region}" for region in regions],
            "age": rng.integers(18, 90, num_rows),
            "amount": rng.lognormal(3 + 0.1 * regions, 1).round(2),
        }
    )


def variation(first: pd.Series, second: pd.Series) -> float:
    """The total variation of two columns."""
    shares = [column.value_counts(normalize=True) for column in (first, second)]
    return float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)


def trained(table: pd.DataFrame, folder: Path, seed: int, minutes: float) -> DiffLMPipeline:
    train(table, folder, seed=seed, max_minutes=minutes)
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: DiffLMPipeline, num_rows: int, seed: int) -> pd.DataFrame:
    return pipe(num_rows, generator=torch.Generator().manual_seed(seed), output_type="pandas").records


def rates(pipes: dict[str, DiffLMPipeline]) -> dict[str, float]:
    """Rows a second of each, at best of several rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(NUM_ROUNDS):
        for name, pipe in pipes.items():
            start = time.perf_counter()
            generate(pipe, NUM_TIMED, 0)
            seconds[name].append(time.perf_counter() - start)
    return {name: NUM_TIMED / min(of) for name, of in seconds.items()}


def measure(num_categories: int, num_rows: int, seed: int, minutes: float) -> dict[str, Any]:
    table = make_table(num_categories, num_rows, seed)
    with tempfile.TemporaryDirectory() as folder:
        pipes = {
            "with": trained(table, Path(folder, "with"), seed, minutes),
            # Only its speed counts.
            "without": trained(table.drop(columns=CITY), Path(folder, "without"), seed, minutes / 5),
        }
    rows = generate(pipes["with"], num_rows, seed)
    own = table.sample(num_rows, replace=True, random_state=seed)
    regions = table.drop_duplicates(CITY).set_index(CITY)["region"]
    return {
        "variation": variation(rows[CITY], table[CITY]),
        "bootstrap": variation(own[CITY], table[CITY]),
        "unseen": int((~rows[CITY].isin(table[CITY])).sum()),
        "right_region": float((rows[CITY].map(regions) == rows["region"]).mean()),
        "rows_per_second": rates(pipes),
    }


def categories_section() -> str:
    """The page's passage on what was measured."""
    rows = []
    results = load_result("categories")
    for size, runs in results["sizes"].items():
        of = {name: [run[name] for run in runs.values()] for name in ("variation", "bootstrap", "right_region")}
        ratio = [run["rows_per_second"]["with"] / run["rows_per_second"]["without"] for run in runs.values()]
        rows.append(
            [
                f"{int(size):,}",
                f"{SIZES[int(size)]:,}",
                *map(mean_interval, of.values()),
                f"{sum(run['unseen'] for run in runs.values())}",
                mean_interval(ratio, ".2f"),
            ]
        )
    head = ["categories", "rows", "total variation", "bootstrap's", "right region", "never seen", "rows/s, of without"]
    return (
        f"Cities of Zipf's law, each in a region, beside two numbers, learnt in {results['minutes']:g} minutes on one "
        "thread, beside another such training. The total variation of as many generated rows "
        "from the training rows, beside that of a bootstrap; the share of cities in their region; cities that were "
        "never seen; and rows a second, of those of a model of the other three columns, in turn:\n\n"
        + to_table(head, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--minutes", type=float, default=5)
    args = parser.parse_args()
    for size in args.sizes:
        for seed in args.seeds:
            measured = measure(size, SIZES[size], seed, args.minutes)
            sizes = load_result("categories").get("sizes", {})
            sizes.setdefault(str(size), {})[str(seed)] = measured
            save_result("categories", {"sizes": sizes, "minutes": args.minutes})
            print(size, seed, measured, flush=True)


if __name__ == "__main__":
    main()
