"""
Runs that are killed at random, that write into one folder, and whose disk is full: each ends whole, or goes on to the
same bytes.

    python tests/soak.py [--tasks train generate] [--kills 100] [--full-disks 10] [--seed 0]

Kills and full disks are so many of trainings, and so many of generations of shards. Disks are of memory, which only
root can mount.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path


TASKS = ("train", "generate")
PARTS = ("vae/model.safetensors", "denoiser/diffusion_pytorch_model.safetensors")
NUM_RECORDS, BLOCK = 6000, 64
FULL = re.compile("^error: .*(No space left|cannot be written)")
LONGEST = 12  # seconds after which a run is killed, at most


def train(folder: str) -> None:
    import tiny

    tiny.train(tiny.make_table(), folder, recipe="tiny", resume=Path(folder).exists())


def generate(model: str, folder: str) -> None:
    import difflm_hf.blocks
    from difflm_hf import DiffLMPipeline

    difflm_hf.blocks.RECORDS_PER_SHARD = 8 * BLOCK
    pipe = DiffLMPipeline.from_pretrained(model)
    pipe.register_to_config(block_size=BLOCK)
    pipe.set_progress_bar_config(disable=True)
    difflm_hf.blocks.write_shards(pipe, folder, NUM_RECORDS, seed=3)


def main_of_run() -> None:
    """One run; what a user or a machine did wrong is one line, as of the command."""
    task, *arguments = sys.argv[2:]
    try:
        {"train": train, "generate": generate}[task](*arguments)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


class Soak:
    """Runs of one kind, and what a run that nobody disturbs comes to."""

    def __init__(self, task: str, work: Path, *arguments: Path):
        self.task, self.work, self.arguments = task, work, arguments
        self.counts: Counter[str] = Counter()
        start = time.monotonic()
        assert self.run(work / task / "undisturbed") == 0, self.said
        self.seconds = time.monotonic() - start
        self.expected = self.content(work / task / "undisturbed")

    def start(self, folder: Path) -> subprocess.Popen:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.log = tempfile.TemporaryFile("w+")
        command = [sys.executable, __file__, "run", self.task, *map(str, self.arguments), str(folder)]
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def run(self, folder: Path) -> int:
        return self.start(folder).wait()

    @property
    def said(self) -> str:
        self.log.seek(0)
        lines = self.log.read().replace("\r", "\n").splitlines()
        errors = [line[line.index("error: ") :] for line in lines if "error: " in line]  # after a bar of progress
        return errors[-1] if errors else "\n".join(lines[-20:])

    def content(self, folder: Path) -> dict[str, str]:
        files = [folder / part for part in PARTS] if self.task == "train" else sorted(folder.glob("*.parquet"))
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def check(self, folder: Path, what: str) -> None:
        assert self.content(folder) == self.expected, f"{self.task}: {what} came to other bytes in {folder}"
        assert not list(folder.glob(".begun-*")) and not (folder / ".lock").exists(), f"{folder}: something is left"
        self.counts[what] += 1

    def kill(self, times: int, rng: random.Random) -> None:
        """Kills runs, which go on each time, until there were so many kills, and the last one is complete."""
        round_ = 0
        while self.counts["killed"] < times:
            folder, code = self.work / self.task / f"killed-{round_}", None
            while code != 0:
                process = self.start(folder)
                how = rng.choice([signal.SIGKILL, signal.SIGTERM])
                try:
                    code = process.wait(rng.uniform(0, 1.2 * min(self.seconds, LONGEST)))
                except subprocess.TimeoutExpired:
                    process.send_signal(how)
                    code = process.wait()
                    self.counts["killed"] += 1
                assert code in (0, -how), f"{self.task}: {self.said}"
                if self.counts["killed"] >= times:
                    code = self.run(folder)
                    assert code == 0, f"{self.task}: {self.said}"
            self.check(folder, "whole after kills")
            round_ += 1

    def run_two(self) -> None:
        """Two at once into one folder: one of them writes it, the other says who does."""
        folder = self.work / self.task / "two"
        first = self.start(folder)
        first_log, second = self.log, self.start(folder)
        codes = first.wait(), second.wait()
        said = [self.said]
        self.log = first_log
        said.append(self.said)
        assert sorted(codes) == [0, 1], (codes, said)
        # It looked before the first one had the folder, or after.
        assert any("is written by process" in line or "is not empty" in line for line in said), said
        self.check(folder, "whole beside another")

    def fill_disks(self, times: int, rng: random.Random) -> None:
        """A disk that is full at some moment, and then has room."""
        largest = sum(file.stat().st_size for file in (self.work / self.task / "undisturbed").rglob("*"))
        while self.counts["disk full"] < times:
            with disk(self.work / "disk", int(rng.uniform(0.02, 1) * largest)) as resize:
                folder = self.work / "disk" / self.task
                code = self.run(folder)
                if code != 0:
                    assert code == 1 and FULL.search(self.said), f"{self.task}: {code} {self.said}"
                    self.counts["disk full"] += 1
                resize(10 * largest)
                assert self.run(folder) == 0, f"{self.task}: {self.said}"
                self.check(folder, "whole after a full disk")


@contextmanager
def disk(folder: Path, size: int):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def soak(
    kills: int, full_disks: int, seed: int, work: Path, tasks: Sequence[str] = TASKS
) -> dict[str, dict[str, int]]:
    rng, counts = random.Random(seed), {}
    training = Soak("train", work)
    for name in tasks:
        task = training if name == "train" else Soak(name, work, work / "train" / "undisturbed")
        task.run_two()
        task.kill(kills, rng)
        if full_disks:
            task.fill_disks(full_disks, rng)
        counts[task.task] = dict(task.counts)
        print(task.task, counts[task.task], flush=True)
    return counts


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        return main_of_run()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full-disks", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        soak(args.kills, args.full_disks, args.seed, Path(work), args.tasks)


if __name__ == "__main__":
    main()
