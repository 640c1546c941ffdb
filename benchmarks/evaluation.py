"""
Time and memory of `difflm evaluate`, on as many rows as Adult has and on a million.

    python -m benchmarks.evaluation --data-dir DIR --synthetic ROWS_CSV [--work-dir DIR]

DIR holds adult/train.csv and adult/test.csv; ROWS_CSV are rows generated from the former. Figures go to
benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from .results import save_result


MILLION = 1_000_000


def enlarge(table: pd.DataFrame, num_rows: int, seed: int) -> pd.DataFrame:
    """Rows drawn with replacement, with a number changed so that few are equal."""
    rows = table.sample(num_rows, replace=True, random_state=seed, ignore_index=True)
    factors = np.random.default_rng(seed).uniform(0.9, 1.1, num_rows)
    return rows.assign(fnlwgt=(rows["fnlwgt"] * factors).astype(int))


def measure(real: Path, holdout: Path, synthetic: Path, output: Path) -> dict[str, float]:
    """Seconds and the peak of memory of the command."""
    command = ["difflm", "evaluate", "--real", real, "--holdout", holdout, "--synthetic", synthetic]
    start = time.monotonic()
    process = subprocess.Popen([*map(str, command), "--target", "income", "--output", str(output)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"difflm evaluate failed on {synthetic}")
    return {"seconds": time.monotonic() - start, "peak_gib": usage.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    folder = args.work_dir / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    files = [args.data_dir / "adult" / "train.csv", args.data_dir / "adult" / "test.csv", args.synthetic]
    save_result("evaluation", {str(len(pd.read_csv(args.synthetic))): measure(*files, folder / "report")})
    large = [folder / f"{name}.csv" for name in ("real", "holdout", "synthetic")]
    for seed, (source, target) in enumerate(zip(files, large)):
        enlarge(pd.read_csv(source), MILLION, seed).to_csv(target, index=False)
    save_result("evaluation", {str(MILLION): measure(*large, folder / "report-large")})


if __name__ == "__main__":
    main()
