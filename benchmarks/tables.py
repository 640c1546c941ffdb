"""
Trains this package and its peers on the same tables, one after the other, and scores what they generate.

    python -m benchmarks.tables --data-dir DIR [--datasets adult magic ...] [--peers tvae ...] [--work-dir DIR]

Each dataset is a folder of DIR with train.csv, valid.csv, test.csv and info.json (`target`, `categorical`, `task`).
Each peer gets a virtual environment of its own in the work folder. Rows and models stay there: a model that has run is
scored again, and not trained again, until its folder is deleted. Figures go to benchmarks/results/tables.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from difflm_hf.evaluation import evaluate_table

from .results import load_result, save_result


OURS = "difflm"
DATASETS = ("adult", "magic", "shoppers", "default", "beijing")
SEED = 0
MAX_MINUTES = 60  # of one model on one dataset


@dataclass
class Model:
    """A script of benchmarks/models, and the package that it needs beside this project's own."""

    title: str
    requirements: tuple[str, ...] = ()
    max_rows: int | None = None  # of models too slow to sample as many rows as they were trained on
    note: str = ""


MODELS = {
    OURS: Model("**difflm_hf**"),
    "tabular_argn": Model("TabularARGN", ("mostlyai-engine==2.7.3",)),
    "gaussian_copula": Model("GaussianCopula", ("sdv==2.0.0",)),
    "tvae": Model("TVAE", ("sdv==2.0.0",)),
    "ctgan": Model("CTGAN", ("sdv==2.0.0",)),
    "realtabformer": Model(
        "REaLTabFormer",
        ("realtabformer==0.2.4", "transformers<5"),
        max_rows=2000,
        note="trained for 100 steps of 32 rows",
    ),
    "great": Model(
        "GReaT", ("be-great==0.0.14",), max_rows=200, note="a small LM with random weights, 400 steps of 32 rows"
    ),
    "paper_loop": Model(
        "the DiffLM paper's loop",
        max_rows=100,
        note="on our weights: a record at a time, 50 Heun steps, no cache",
    ),
}
# Hours on two cores, or what only its speed is asked of: run where `--peers` names them.
SLOW = ("realtabformer", "great", "paper_loop")
LOG_TARGET = ("beijing",)  # its error is that of log(1 + PM2.5), as in the literature


def generate(name: str, data: Path, output: Path) -> None:
    """Runs the script of a model, which leaves rows.csv and run.json in `output`, or the log of how it failed."""
    model = MODELS[name]
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    num_rows = len(pd.read_csv(data / "train.csv"))
    command = [find_python(model, output.parents[1] / "environments"), "-m", f"benchmarks.models.{name}"]
    command += ["--data", data, "--output", output, "--num-rows", min(num_rows, model.max_rows or num_rows)]
    print(f"{data.name}: {name}", flush=True)
    command = [*map(str, command), "--seed", str(SEED)]
    with (output / "log.txt").open("w") as log:
        try:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=MAX_MINUTES * 60, check=True)
        except subprocess.TimeoutExpired:
            print(f"no end after {MAX_MINUTES} minutes", file=log)
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}, see {log.name}", flush=True)


def find_python(model: Model, environments: Path) -> Path:
    """The interpreter of a virtual environment with the model's package, which is made where there is none yet."""
    if not model.requirements:
        return Path(sys.executable)
    folder = environments / model.requirements[0].partition("==")[0]
    python, complete = folder / ("Scripts" if os.name == "nt" else "bin") / "python", folder / "complete"
    if not complete.exists():
        torch = f"torch=={version('torch').partition('+')[0]}"
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", torch, *model.requirements], check=True)
        # No peer uses them on tables, and builds that do not match torch's break the import of transformers.
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio"], check=True)
        complete.touch()
    return python


def score(name: str, data: Path, output: Path) -> dict[str, Any]:
    """What the run said of itself, and all that [`evaluate_table`] says of its rows but the longest lists."""
    if not (output / "run.json").exists():
        lines = (output / "log.txt").read_text().strip().splitlines()
        return {"error": lines[-1] if lines else "no output"}
    run = json.loads((output / "run.json").read_text())
    if MODELS[name].max_rows is not None:
        return {"run": run}  # too few rows to be compared with others
    info = json.loads((data / "info.json").read_text())
    tables = [pd.read_csv(path) for path in (output / "rows.csv", data / "train.csv", data / "test.csv")]
    scores = evaluate_table(
        *tables,
        target=info["target"],
        categorical=info["categorical"],
        log_target=data.name in LOG_TARGET,
        seed=SEED,
        show_progress=True,
    )
    del scores["fidelity"]["pairs"], scores["validity"]["examples"]
    for name in ("distance_to_closest_record", "nearest_neighbor_distance_ratio"):
        for part in ("synthetic", "holdout"):
            del scores["privacy"][name][part]["histogram"]
    return {"task": info["task"], "run": run, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    peers = [name for name in MODELS if name != OURS]
    fast = [name for name in peers if name not in SLOW]
    parser.add_argument("--peers", nargs="*", default=fast, choices=peers)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    for dataset in args.datasets:
        for name in (OURS, *args.peers):
            data, output = args.data_dir / dataset, args.work_dir / dataset / name
            if not (output / "run.json").exists():
                generate(name, data, output)
            save_result(
                "tables", {dataset: load_result("tables").get(dataset, {}) | {name: score(name, data, output)}}
            )


if __name__ == "__main__":
    main()
