"""
Generates rows by two workers of Ray and by one process, and kills a worker and the run: rows/s, and whether the bytes
are the same.

    python -m benchmarks.ray --data-dir DIR --work-dir DIR [--model FOLDER] [--num-records 1000000]

DIR has a folder adult with train.csv and info.json, on which a model is trained where none is given. Each run is a
process of the command. Figures go to benchmarks/results/ray.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from difflm_hf.training import DataArguments, train

from .endless import count_written, hash_files
from .markdown import to_table
from .results import load_result, save_result


NUM_WORKERS = 2
RAY = ("--ray", "local", "--num-workers", NUM_WORKERS)
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_END = 120  # of a cluster whose run was killed


class Run:
    """The command, on its way."""

    def __init__(self, model: Path, num_records: int, output: Path, *options: Any, num_threads: int = 1):
        command = [sys.executable, "-m", "difflm_hf", "generate", model, "--num-records", num_records]
        command += ["--output", output, "--seed", 0, "--json", *options]
        environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
        self.output = output
        self.process = psutil.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    def end(self) -> dict[str, float]:
        """Waits, and says how long the run took, and how many rows a second it made once there was a file."""
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"difflm generate failed: {said}")
        files = sorted(self.output.glob("part-*.parquet"))
        seconds = files[-1].stat().st_mtime - files[0].stat().st_mtime
        later = count_written(self.output) - pq.read_metadata(files[0]).num_rows
        told = json.loads(said)
        return {
            "seconds": told["seconds"],
            "rows_per_second": told["num_records"] / told["seconds"],
            "rows_per_second_after_first_file": later / seconds if later else None,
        }

    def wait_for(self, look: Callable[[], Any]) -> Any:
        """What is seen once there is something to see."""
        while not (seen := look()):
            if self.process.poll() is not None:
                raise RuntimeError("difflm generate came to its end too soon")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return seen

    def workers(self) -> list[psutil.Process]:
        """The processes of the pool, all of them."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                    found.append(process)
            except psutil.Error:  # it ended in between
                continue
        return found if len(found) == NUM_WORKERS else []

    def wait_for_files(self, num_files: int) -> None:
        self.wait_for(self.workers)
        self.wait_for(lambda: len(list(self.output.glob("part-*.parquet"))) >= num_files)


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended, nor waits to be taken note of."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_worker(run: Run, num_files: int) -> dict[str, Any]:
    run.wait_for_files(num_files)
    worker = run.wait_for(run.workers)[0]
    worker.kill()
    print(f"killed {worker.pid}, a worker", flush=True)
    return {"files_before": num_files, **run.end()}


def kill_run(run: Run, num_files: int, go_on: Callable[[], Run]) -> dict[str, Any]:
    """Kills the process that was called, and calls it again."""
    run.wait_for_files(num_files)
    others = run.process.children(recursive=True)
    run.process.kill()
    status = run.process.wait()
    before = {path: path.stat().st_mtime_ns for path in run.output.glob("part-*.parquet")}
    _, alive = psutil.wait_procs(others, SECONDS_TO_END)
    left = sum(is_alive(process) for process in alive)
    print(f"killed {run.process.pid}, the run, with {len(before)} files; {left} processes are left", flush=True)
    seconds = go_on().end()["seconds"]
    after = {path: path.stat().st_mtime_ns for path in before}
    return {
        "status": status,
        "files_before": len(before),
        "are_files_kept": after == before,
        "processes_left": left,
        "seconds_of_the_rest": seconds,
    }


def train_adult(data: Path, folder: Path) -> None:
    info = json.loads((data / "info.json").read_text())
    train(data / "train.csv", folder, data_args=DataArguments(categorical=info["categorical"]))


def ray_section() -> str:
    figures = load_result("ray")
    rows = []
    for name, run in figures.items():
        if not isinstance(run, dict) or "seconds" not in run:
            continue
        later = run["rows_per_second_after_first_file"]
        rows.append([name, f"{run['seconds']:,.0f} s", f"{run['rows_per_second']:,.0f}", f"{later or 0:,.0f}"])
    killed, run = figures["Ray, a worker killed"], figures["Ray, the run killed"]
    is_same = all(run["is_same"] for run in figures.values() if isinstance(run, dict) and "is_same" in run)
    return (
        f"`python -m benchmarks.ray` writes {figures['num_records']:,} rows of adult by the command, start included, "
        f"in one process and by {figures['num_workers']} [workers of Ray](clusters.md) on the same two cores:\n\n"
        + to_table(["run", "time", "rows/s", "from the first file on"], rows)
        + f"\n\nA worker was killed after {killed['files_before']} files, and in another run the process that was "
        f"called, after {run['files_before']} files. It was called again, kept these, and took "
        f"{run['seconds_of_the_rest']:,.0f} s for the rest. The files of all runs are "
        + ("the same, byte by byte." if is_same else "**not the same**.")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--num-records", type=int, default=1_000_000)
    args = parser.parse_args()
    work = args.work_dir / "ray"
    shutil.rmtree(work, ignore_errors=True)
    model = args.model or args.work_dir / "ray-model"
    if not model.exists():
        train_adult(args.data_dir / "adult", model)

    def start(name: str, *options: Any, num_threads: int = 1) -> Run:
        return Run(model, args.num_records, work / name, *options, num_threads=num_threads)

    figures: dict[str, Any] = {"num_records": args.num_records, "num_workers": NUM_WORKERS}
    figures["one process, one thread"] = start("one").end()
    files = hash_files(work / "one")
    half = (len(files) - 1) // 2  # the manifest is no part
    runs = {
        "one process, two threads": lambda name: start(name, num_threads=2).end(),
        "Ray": lambda name: start(name, *RAY).end(),
        "Ray, a worker killed": lambda name: kill_worker(start(name, *RAY), half),
        "Ray, the run killed": lambda name: kill_run(start(name, *RAY), half, lambda: start(name, *RAY)),
    }
    for number, (title, run) in enumerate(runs.items()):
        figures[title] = run(str(number))
        figures[title]["is_same"] = hash_files(work / str(number)) == files
        print(title, figures[title], flush=True)
        save_result("ray", figures)


if __name__ == "__main__":
    main()
