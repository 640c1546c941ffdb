"""
A model in a process of its own that samples when it is told to: `benchmarks.speed` has several take turns.

Writes a line when it is ready; then reads numbers of rows from its standard input, one a line, and answers each with
the seconds that they took. Nothing of it is newer than the oldest commit that it measures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any


def saved_pipeline(folder: str) -> Callable[[int], Any]:
    """Of this package, as README.md shows it: whatever the dtype is by default."""
    import torch

    from difflm_hf import DiffLMPipeline

    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return lambda num_rows: pipe(num_rows, generator=torch.Generator().manual_seed(0), output_type="pandas")


def tabular_argn(folder: str) -> Callable[[int], Any]:
    """What `benchmarks.models.tabular_argn` left."""
    from mostlyai.engine import TabularARGN

    model = TabularARGN(workspace_dir=folder, verbose=0, random_state=0)
    model._fitted = True
    return lambda num_rows: model.sample(n_samples=num_rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("saved_pipeline", "tabular_argn"))
    parser.add_argument("folder")
    args = parser.parse_args()
    sample = globals()[args.kind](args.folder)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        sample(int(line))
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
