"""
Runs the known solutions of MBPP with their tests: the share that passes, and the time.

    python -m benchmarks.code_execution --data MBPP_JSONL [--timeout 60] [--num-workers 2]

MBPP_JSONL holds one problem per line, as published. All of them should pass; what does not is named. Figures go to
benchmarks/results/code_execution.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from difflm_hf.evaluation import evaluate_mbpp

from .results import save_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--num-workers", type=int, default=2)
    args = parser.parse_args()
    problems = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    start = time.monotonic()
    solutions = [[problem["code"]] for problem in problems]
    scores = evaluate_mbpp(problems, solutions, timeout=args.timeout, num_workers=args.num_workers)
    scores |= {"seconds": time.monotonic() - start, "timeout": args.timeout, "num_workers": args.num_workers}
    results = [result for (result,) in scores.pop("results")]
    scores["errors"] = {p["task_id"]: r.error for p, r in zip(problems, results) if not r.passed}
    print(scores)
    save_result("code_execution", {args.data.stem: scores})


if __name__ == "__main__":
    main()
