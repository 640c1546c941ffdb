"""
Speed beside a pretrained LM, of two commits of this package in turn: a step of training with 8 records, and the
generation of 64.

    python -m benchmarks.base_lm --data-dir DIR --base-model LM --before COMMIT [--after COMMIT]
        [--tunings lora frozen] [--work-dir DIR]

DIR holds shoppers (train.csv), whose rows are written as JSON; `examples/smollm2.py` makes a folder of an LM. Figures
go to benchmarks/results/base_lm.json; `python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from .commits import checkout
from .generation import processor
from .injection import CATEGORICAL, TABLE
from .markdown import to_table, to_threads
from .results import load_result, save_result


SCRIPT = Path(__file__).parent / "models" / "base_lm.py"
TITLES = {"step": "a step of 8 records", "generate": "64 records generated"}


def measure(tree: Path, table: Path, base_model: Path, tuning: str) -> dict[str, float]:
    command = [sys.executable, SCRIPT, "--table", table, "--base-model", base_model.absolute(), "--tuning", tuning]
    command += ["--categorical", *CATEGORICAL]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    output = subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def base_lm_section() -> str:
    result = load_result("base_lm")
    if not result:
        return ""
    rows = []
    for tuning, runs in result["runs"].items():
        for name, title in TITLES.items():
            before, after = runs["before"][name], runs["after"][name]
            rows.append([tuning, title, f"{before:.1f} s", f"{after:.1f} s", f"{before / after:.1f}"])
    header = ["tuning", "", f"at {result['commits']['before']}", f"at {result['commits']['after']}", "times as fast"]
    return (
        f"`python -m benchmarks.base_lm` compares two commits that write rows of {result['table']} as JSON with "
        f"{result['base_model']}, loaded in the default dtype: bfloat16 where the processor computes in it. A step is "
        "without the optimizer's part, and with the states of records known, which are read once.\n\n"
        f"{to_table(header, rows)}\n\nOn {result['processor']}, in {to_threads(result['threads'])}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", default="HEAD")
    parser.add_argument("--tunings", nargs="+", choices=("lora", "frozen"), default=["lora", "frozen"])
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-work"))
    args = parser.parse_args()
    trees = {
        turn: checkout(commit, args.work_dir) for turn, commit in (("after", args.after), ("before", args.before))
    }
    runs = load_result("base_lm").get("runs", {})
    for tuning in args.tunings:
        table = args.data_dir / TABLE / "train.csv"
        runs[tuning] = {turn: measure(tree, table, args.base_model, tuning) for turn, tree in trees.items()}
        print(tuning, runs[tuning], flush=True)
        setting = {"processor": processor(), "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))}
        names = {"table": TABLE, "base_model": args.base_model.name, "commits": {k: v.name for k, v in trees.items()}}
        save_result("base_lm", {"runs": runs, **names, **setting})
    print(base_lm_section())


if __name__ == "__main__":
    main()
