"""
Measures what numbers lose below their tokens: columns of one number are encoded, and decoded from their true tokens
with places within the steps drawn at random, which is what a perfect model gives.

    python -m benchmarks.numbers

Figures go to benchmarks/results/numbers.json. It takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from difflm_hf import DiffLMProcessor

from .markdown import to_table
from .results import load_result, save_result


NUM_ROWS = (200, 1000, 100_000)
NUM_TABLES = 5
NUM_DECODINGS = 20  # of each table
PLACEHOLDER = 99_999_999
BEFORE = -(10**8)  # in seconds from the start: all of 1900, and nothing else
START = np.datetime64("2024-01-01", "s")
LAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal, σ = 1": lambda rng, n: rng.normal(size=n),
    "normal, whole numbers": lambda rng, n: rng.normal(50_000, 15_000, n).round().astype(int),
    "uniform, whole numbers": lambda rng, n: rng.integers(0, 10_000, n),
    "log-normal, σ = 1": lambda rng, n: rng.lognormal(size=n),
    "log-normal, σ = 2": lambda rng, n: rng.lognormal(sigma=2, size=n),
    "log-normal, σ = 2, cents": lambda rng, n: rng.lognormal(4, 2, n).round(2),
    "Pareto, α = 3": lambda rng, n: 1 + rng.pareto(3, n),
    "Pareto, α = 1.5": lambda rng, n: 1 + rng.pareto(1.5, n),
    "Pareto, α = 1.5, cents": lambda rng, n: (100 + 100 * rng.pareto(1.5, n)).round(2),
    "two normals, 20 σ apart": lambda rng, n: rng.normal(size=n) + 20 * (rng.random(n) < 0.3),
    "days of a year": lambda rng, n: START + rng.integers(0, 365, n) * np.timedelta64(1, "D"),
    "seconds of working hours": lambda rng, n: (
        START + rng.integers(0, 365, n) * np.timedelta64(1, "D") + rng.integers(8 * 3600, 18 * 3600, n)
    ),
}


def to_numbers(values: np.ndarray) -> np.ndarray:
    """Moments as seconds from the first one of the year."""
    if values.dtype.kind == "M":
        return (values - START) / np.timedelta64(1, "s")
    return values.astype(np.float64)


def in_gaps(real: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Which numbers lie in one of the gaps that are 20 times as wide as any of the twenty nearest to them."""
    distinct = np.unique(real)
    gaps = np.diff(distinct)
    around = np.delete(np.lib.stride_tricks.sliding_window_view(np.pad(gaps, 10), 21), 10, axis=1).max(1)
    low = np.searchsorted(distinct, drawn, side="right") - 1
    inside = (distinct[low] < drawn) & (low < len(gaps))
    return inside & (gaps > 20 * around)[np.minimum(low, len(gaps) - 1)]


def decodings(values: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Values of many decodings, of shape `(NUM_DECODINGS, num_rows)`, and the tokens that the column has."""
    table, rng = pd.DataFrame({"x": values}), np.random.default_rng(seed)
    processor = DiffLMProcessor.from_records(table)
    batch, tokens = processor(table), processor.codec.tokens["x"]
    ids, shape = batch["input_ids"].numpy(), batch["within_bin_offsets"].shape
    drawn = [processor.decode_records(ids, rng.random(shape))[0]["x"].to_numpy() for _ in range(NUM_DECODINGS)]
    return np.stack(drawn), len(tokens.values) + (len(tokens.bins.starts) if tokens.bins else 0)


def figures(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and 99.9 % quantile, without placeholders: beside one, nothing else would count for the mean."""
    numbers = numbers[(numbers != PLACEHOLDER) & (numbers > BEFORE)]
    return numbers.mean(), np.quantile(numbers, 0.999)


def measure(law: Callable, num_rows: int, has_placeholder: bool) -> dict[str, Any]:
    """Errors relative to the data's own figures: on average over tables, and of the table that has the largest."""
    errors, stray, small, num_tokens = [], 0, 0, 0
    for seed in range(NUM_TABLES):
        values = law(np.random.default_rng(seed), num_rows)
        if has_placeholder:
            values[num_rows // 2] = np.datetime64("1900-01-01") if values.dtype.kind == "M" else PLACEHOLDER
        drawn, num_tokens = decodings(values, seed)
        real, drawn = to_numbers(values), to_numbers(drawn)
        own, got = figures(real), np.mean([figures(row) for row in drawn], axis=0)
        # Of figures near zero, and of moments, relative to the spread.
        scale = real.std() if real.min() < 0 or values.dtype.kind == "M" else 0.0
        errors.append((got - own) / np.maximum(np.abs(own), scale))
        stray += in_gaps(real, drawn.ravel()).sum()
        if values.dtype.kind != "M":
            small += ((np.abs(drawn) < np.abs(real[real != 0]).min()) & (drawn != 0)).sum()
    mean, worst = np.mean(errors, axis=0), np.abs(errors).max(0)
    total = NUM_TABLES * NUM_DECODINGS
    return {
        "mean": {"average": round(float(mean[0]), 5), "largest": round(float(worst[0]), 5)},
        "quantile_0.999": {"average": round(float(mean[1]), 5), "largest": round(float(worst[1]), 5)},
        "rows_in_gaps": round(int(stray) / total, 3),
        "rows_below_smallest": round(int(small) / total, 3),
        "num_tokens": num_tokens,
    }


def numbers_section() -> str:
    """The page's passage on what was measured."""
    results = load_result("numbers")
    rows = [
        [
            of["law"],
            f"{of['num_rows']:,}",
            "yes" if of["placeholder"] else "",
            f"{of['mean']['average']:.2%}",
            f"{of['mean']['largest']:.2%}",
            f"{of['quantile_0.999']['average']:.2%}",
            f"{of['quantile_0.999']['largest']:.2%}",
            f"{of['rows_in_gaps']:g}",
            f"{of['rows_below_smallest']:g}",
        ]
        for of in results["rows"]
    ]
    head = ["numbers", "rows", "placeholder", "mean", "largest", "99.9 % quantile", "largest", "in gaps", "too small"]
    return (
        "What a perfect model gives of one column: its own tokens, with places within steps drawn at random. Errors "
        f"of the mean and of the 99.9 % quantile over {results['tables']} tables and {results['decodings']} decodings "
        "each, and of the table with the largest; numbers in empty gaps, and below the smallest magnitude:\n\n"
        + to_table(head, rows)
    )


def main() -> None:
    rows = []
    for name, law in LAWS.items():
        for num_rows in NUM_ROWS:
            for has_placeholder in (False, True):
                settings = {"law": name, "num_rows": num_rows, "placeholder": has_placeholder}
                rows.append({**settings, **measure(law, num_rows, has_placeholder)})
                print(rows[-1], flush=True)
    save_result("numbers", {"tables": NUM_TABLES, "decodings": NUM_DECODINGS, "rows": rows})


if __name__ == "__main__":
    main()
