"""What all models of the benchmark share: the command line, the data, the clock."""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


@dataclass
class Data:
    """What a model gets to see of a dataset, and a folder for its files."""

    train: pd.DataFrame
    valid: pd.DataFrame
    categorical: list[str]
    work_dir: Path
    seed: int


def run(
    fit: Callable[[Data], Any],
    sample: Callable[[Any, int], pd.DataFrame],
    prepare: Callable[[Any], None] | None = None,
    describe: Callable[[Any, int], dict[str, Any]] | None = None,
) -> None:
    """
    Fits a model to `--data`, samples `--num-rows` and writes rows.csv and run.json into `--output`.

    Args:
        fit (`Callable`): Takes the data, returns a model.
        sample (`Callable`): Takes the model and a number of rows, returns at most as many.
        prepare (`Callable`, *optional*): Called with the model before the clock of sampling starts: loads, warms up.
        describe (`Callable`, *optional*): Takes the model and the number of rows, returns more figures for run.json.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-rows", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()

    info = json.loads((args.data / "info.json").read_text())
    train, valid = (pd.read_csv(args.data / f"{split}.csv") for split in ("train", "valid"))
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    model, train_seconds = _timed(fit, Data(train, valid, info["categorical"], args.output, args.seed))
    if prepare is not None:
        prepare(model)
    rows, sample_seconds = _timed(sample, model, args.num_rows)
    kibibytes = max(_peak_kibibytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    figures = {
        "train_seconds": train_seconds,
        "rows": len(rows),
        "rows_per_second": len(rows) / sample_seconds,
        "peak_gib": kibibytes / 2**20,
        "num_threads": torch.get_num_threads(),
    }
    if describe is not None:
        figures |= describe(model, args.num_rows)
    rows.to_csv(args.output / "rows.csv", index=False)
    (args.output / "run.json").write_text(json.dumps(figures, indent=2))


def _peak_kibibytes() -> int:
    """Of this process. Not `ru_maxrss`, which starts at the peak of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def _timed(function: Callable, *args: Any) -> tuple[Any, float]:
    start = time.monotonic()
    return function(*args), time.monotonic() - start
