"""
Speed of generation from saved models, of two commits of this package and of the fastest peer, in turn on one machine.

    python -m benchmarks.speed --data-dir DIR --before COMMIT [--after COMMIT] [--datasets adult ...] [--work-dir DIR]

The work folder holds what `benchmarks.commits` trained with seed 0, and gets a TabularARGN for each table. All models
of a table are loaded, and then asked in turn for rows, several times: the best time of each counts. Figures go to
benchmarks/results/speed.json; `python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from difflm_hf.profiling import measure_matrix_flops

from .commits import checkout
from .markdown import to_table
from .results import load_result, save_result
from .tables import DATASETS, MODELS, find_python


NUM_ROWS = 100_000
NUM_ROUNDS = 3
NUM_SINGLE = 20  # tries of one record
PEER = "tabular_argn"
TOGETHER = "adult"  # the table that two trainings run on at once
TITLES = {"before": "before", "after": "**difflm_hf**", PEER: MODELS[PEER].title}
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 and bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """The processor, and what it does at best, in GFLOP/s."""
    info = Path("/proc/cpuinfo").read_text()
    units = [unit for unit in UNITS if re.search(rf"\b{unit}\b", info)]
    rates = {
        str(dtype).removeprefix("torch."): measure_matrix_flops(dtype, torch.device("cpu")) / 1e9
        for dtype in (torch.float32, torch.bfloat16)
    }
    name = re.search(r"model name\s*: (.*)", info)[1]
    return {"processor": name, "cores": os.cpu_count(), "units": units[0], "gflops": rates}


class Worker:
    """A process of `benchmarks.models.worker`."""

    def __init__(self, python: Path | str, tree: Path, kind: str, folder: Path):
        script = ROOT / "benchmarks" / "models" / "worker.py"
        self.process = subprocess.Popen(
            [python, script, kind, folder.absolute()],
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        while (line := self.process.stdout.readline()) and not re.match(r"ready|[\d.e-]+$", line):
            pass  # what the packages print
        if not line:
            raise RuntimeError(f"{self.process.args} has ended")
        return line

    def seconds(self, num_rows: int) -> float:
        self.process.stdin.write(f"{num_rows}\n")
        self.process.stdin.flush()
        return float(self._read())


@contextmanager
def running(*args) -> Iterator[Worker]:
    worker = Worker(*args)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def fit_peer(python: Path, data: Path, folder: Path) -> float:
    """Seconds that TabularARGN takes to fit a table, from start to end; what it leaves is in `folder`."""
    record = folder / "fit.json"
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        info = json.loads((data / "info.json").read_text())
        start = time.perf_counter()
        script = (
            "import sys, json, pandas as pd; from mostlyai.engine import TabularARGN\n"
            "data, folder, categorical = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])\n"
            "parts = [pd.read_csv(f'{data}/{part}.csv') for part in ('train', 'valid')]\n"
            "table = pd.concat(parts, ignore_index=True)\n"
            "table[categorical] = table[categorical].astype(str)\n"
            "TabularARGN(workspace_dir=folder, verbose=0, random_state=0).fit(table)\n"
        )
        command = [python, "-c", script, data, folder / "workspace", json.dumps(info["categorical"])]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        record.write_text(json.dumps({"seconds": time.perf_counter() - start}))
    return json.loads(record.read_text())["seconds"]


def measure(dataset: str, data_dir: Path, work_dir: Path, trees: dict[str, Path]) -> dict[str, Any]:
    """Rows a second of all models of a table, and seconds for one record."""
    python = find_python(MODELS[PEER], work_dir / "environments")
    peer = work_dir / dataset / PEER
    fit_peer(python, data_dir / dataset, peer)
    with ExitStack() as stack:
        workers = {PEER: stack.enter_context(running(python, ROOT, "tabular_argn", peer / "workspace"))}
        for side, tree in trees.items():
            run = work_dir / dataset / f"{tree.name}-0"
            workers[side] = stack.enter_context(running(sys.executable, tree, "saved_pipeline", run / "model"))
        for worker in workers.values():
            worker.seconds(1)  # what is slow the first time
        times = [{name: worker.seconds(NUM_ROWS) for name, worker in workers.items()} for _ in range(NUM_ROUNDS)]
        single = {side: min(workers[side].seconds(1) for _ in range(NUM_SINGLE)) for side in trees}
    return {
        "rows_per_second": {name: NUM_ROWS / min(round_[name] for round_ in times) for name in workers},
        "one_record_seconds": single,
    }


def seconds_together(data: Path, tree: Path, num: int) -> float:
    """Seconds that each of `num` trainings takes which run at once, by the command, the slowest of them."""
    categorical = json.loads((data / "info.json").read_text())["categorical"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "difflm_hf", "train", data / "train.csv", "--validation", data / "valid.csv"]
        command += [part for name in categorical for part in ("--categorical", name)]
        start = time.perf_counter()
        trainings = [
            subprocess.Popen(
                list(map(str, [*command, "--output-dir", f"{folder}/{k}"])),
                env={**os.environ, "PYTHONPATH": str(tree)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for k in range(num)
        ]
        if any(training.wait() for training in trainings):
            raise RuntimeError("a training failed")
        return time.perf_counter() - start


def speed_section() -> str:
    """The page's passage on speed."""
    results = load_result("speed")
    host, training = results["machine"], results["training"]
    rows = []
    for dataset in DATASETS:
        if dataset not in results:
            continue
        figures = results[dataset]
        rates = figures["rows_per_second"]
        rows.append(
            [
                dataset,
                *(f"{rates[name]:,.0f}" for name in ("before", "after", PEER)),
                *(f"{rates['after'] / rates[name]:.2f}" for name in ("before", PEER)),
                *(f"{1000 * figures['one_record_seconds'][side]:,.0f} ms" for side in ("before", "after")),
            ]
        )
    peer = TITLES[PEER]
    header = ["table", "rows/s before", "**rows/s**", f"{peer}", "÷ before", f"÷ {peer}"]
    header += ["one record before", "**one record**"]
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}[
        host["units"]
    ]
    return (
        f"{host['processor']}, {host['cores']} cores with {units}: products of large matrices at "
        f"{host['gflops']['bfloat16']:,.0f} GFLOP/s in bf16 and {host['gflops']['float32']:,.0f} in float32.\n\n"
        + to_table(header, rows)
        + f"\n\nTraining on {TOGETHER}, by the command from start to end, takes {training['after']:.0f} s "
        f"({training['before']:.0f} s before), and {training[PEER]:.0f} s with {peer}. Two trainings at once, on the "
        f"same cores, take {training['two']:.0f} s each: {training['two'] / training['after']:.2f} times as long."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", default="HEAD")
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    trees = {side: checkout(getattr(args, side), args.work_dir / "commits") for side in ("before", "after")}
    save_result("speed", {"machine": machine()})
    data = args.data_dir / TOGETHER
    training = {side: seconds_together(data, tree, 1) for side, tree in trees.items()}
    training["two"] = seconds_together(data, trees["after"], 2)
    python = find_python(MODELS[PEER], args.work_dir / "environments")
    training[PEER] = fit_peer(python, data, args.work_dir / TOGETHER / PEER)
    save_result("speed", {"training": training})
    for dataset in args.datasets:
        figures = measure(dataset, args.data_dir, args.work_dir, trees)
        save_result("speed", {dataset: figures})
        print(dataset, figures, flush=True)


if __name__ == "__main__":
    main()
