"""
Generates millions of records by the command, and kills it: memory over time, and whether the bytes are the same.

    python -m benchmarks.endless --model DIR [--num-records 10000000] [--num-killed 2000000] [--work-dir DIR]

A run of `--num-records` is watched for its memory. One of `--num-killed` is left alone, and one like it is killed by
SIGKILL at ten random moments and goes on each time. Figures go to benchmarks/results/endless.json.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .results import save_result


NUM_KILLS = 10
MILLION = 1_000_000
SECONDS_BETWEEN_LOOKS = 0.5


def start(model: Path, num_records: int, output: Path) -> subprocess.Popen:
    command = ["difflm", "generate", model, "--num-records", num_records, "--output", output, "--seed", 0]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)


def peak_memory(process: subprocess.Popen) -> float:
    """The most memory that the process has had so far, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def count_written(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("part-*.parquet"))


def hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def watch(model: Path, num_records: int, output: Path) -> dict[str, Any]:
    """A run, and the peak of its memory after the first million records and in the end."""
    begin, process = time.monotonic(), start(model, num_records, output)
    peaks: dict[int, float] = {}
    while process.poll() is None:
        try:
            peaks[count_written(output)] = peak_memory(process)
        except (IndexError, OSError):  # it ended in between
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.wait():
        raise RuntimeError("difflm generate failed")
    after_million = min(count for count in peaks if count >= min(MILLION, num_records // 2))
    return {
        "records": count_written(output),
        "files": len(list(output.glob("part-*.parquet"))),
        "seconds": time.monotonic() - begin,
        "peak_mib_after_million": peaks[after_million],
        "peak_mib": max(peaks.values()),
    }


def kill(model: Path, num_records: int, output: Path, seconds: float) -> list[dict[str, float]]:
    """A run that is killed ten times, each at a random moment, and goes on to the end."""
    generator, kills = random.Random(0), []
    for _ in range(NUM_KILLS):
        process, moment = start(model, num_records, output), generator.uniform(0, 2 * seconds / NUM_KILLS)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        kills.append({"seconds": moment, "status": process.wait(), "records": count_written(output)})
        print(kills[-1], flush=True)
    if start(model, num_records, output).wait():
        raise RuntimeError("difflm generate failed")
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--num-records", type=int, default=10 * MILLION)
    parser.add_argument("--num-killed", type=int, default=2 * MILLION)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    folders = {name: args.work_dir / "endless" / name for name in ("alone", "killed", "many")}
    shutil.rmtree(args.work_dir / "endless", ignore_errors=True)
    alone = watch(args.model, args.num_killed, folders["alone"])
    kills = kill(args.model, args.num_killed, folders["killed"], alone["seconds"])
    is_same = hash_files(folders["alone"]) == hash_files(folders["killed"])
    save_result("endless", {"killed": {"alone": alone, "kills": kills, "is_same": is_same}})
    print(f"the same bytes: {is_same}", flush=True)
    save_result("endless", {"many": watch(args.model, args.num_records, folders["many"])})


if __name__ == "__main__":
    main()
