"""
Memory and time of training on a sample of tables that are read in parts.

    python -m benchmarks.streaming --data-dir DIR --work-dir DIR [--millions 1 5 20] [--minutes 2]

Rows of adult are drawn with replacement into Parquet files, and `difflm train --max-records` trains on each in a
process of its own. Figures go to benchmarks/results/streaming.json; `python -m benchmarks.report` writes
docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from difflm_hf import DiffLMPipeline
from difflm_hf.records import read_table

from .generation import processor
from .markdown import to_table
from .results import load_result, save_result


MAX_RECORDS = 1_000_000
PART = 500_000


def write_rows(table: pd.DataFrame, path: Path, num_rows: int) -> None:
    rng, data = np.random.default_rng(0), pa.Table.from_pandas(table, preserve_index=False)
    with pq.ParquetWriter(path, data.schema) as writer:
        for start in range(0, num_rows, PART):
            writer.write_table(data.take(rng.integers(len(table), size=min(PART, num_rows - start))))


def peak_of(pid: int) -> int:
    """The most memory that a process has had, in KiB. That of `wait4` counts what its parent had when it began."""
    with suppress(OSError):  # it has just ended
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def measure(path: Path, folder: Path, minutes: float) -> dict[str, float]:
    options = ["--max-records", MAX_RECORDS, "--max-minutes", minutes, "--accept", "education-num"]
    command = [sys.executable, "-m", "difflm_hf", "train", path, "--output-dir", folder, *options]
    start = time.perf_counter()
    process, peak = subprocess.Popen(list(map(str, command))), 0
    while process.poll() is None:
        peak = max(peak, peak_of(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    record = DiffLMPipeline.from_pretrained(folder).config.training
    training = sum(phase["seconds"] for phase in record["phases"])
    seconds = time.perf_counter() - start
    return {"peak_gib": peak / 2**20, "seconds": seconds, "training_seconds": training, **record["data"]}


def streaming_section() -> str:
    results = load_result("streaming")
    if "rows" not in results:
        return ""
    header = ["rows", "of which are learnt from", "file", "peak memory", "reading, encoding and saving", "training"]
    rows = []
    for figures in results["rows"].values():
        learnt = figures["num_records"] + figures["num_validation_records"]
        rows.append(
            [
                f"{figures['num_given_records']:,}",
                f"{learnt:,}",
                f"{figures['file_gib']:.2f} GiB",
                f"{figures['peak_gib']:.2f} GiB",
                f"{figures['seconds'] - figures['training_seconds']:.0f} s",
                f"{figures['training_seconds']:.0f} s",
            ]
        )
    return f"{to_table(header, rows)}\n\nOn {results['processor']}, in {results['threads']} threads."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--minutes", type=float, default=2)
    args = parser.parse_args()
    folder = args.work_dir / "streaming"
    folder.mkdir(parents=True, exist_ok=True)
    table = read_table(args.data_dir / "adult" / "train.csv")
    for millions in args.millions:
        num_rows = int(millions * 1e6)
        path, output = folder / f"{num_rows}.parquet", folder / f"{num_rows}"
        shutil.rmtree(output, ignore_errors=True)
        if not path.exists():
            write_rows(table, path, num_rows)
        figures = measure(path, output, args.minutes) | {"file_gib": path.stat().st_size / 2**30}
        found = {**load_result("streaming").get("rows", {}), str(num_rows): figures}
        threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
        save_result("streaming", {"rows": found, "processor": processor(), "threads": threads})
        print(num_rows, figures, flush=True)


if __name__ == "__main__":
    main()
