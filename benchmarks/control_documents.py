"""
Conditions on documents: a tool of three parameters of which one is a boolean, and a sentence on a restaurant of a
given name.

    python -m benchmarks.control_documents [--work-dir DIR] [--num-records 100] [--seeds 0 1 2]

The work folder holds the models `tools` and `text` of `benchmarks.documents`. Figures go to
benchmarks/results/control_documents.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from difflm_hf import DiffLMPipeline
from difflm_hf.control import Contains, Matches, StartsWith

from .results import save_result


NAME = "The Mill"
TEMPERATURES = {"tools": 0.75, "text": 1.0}  # those of the examples
BATCH_SIZES = (None, 7)


def count_parameters(tool: dict[str, Any]) -> tuple[int, int]:
    """The parameters of a tool, and the booleans among them."""
    types = [parameter.get("type") for parameter in tool["parameters"].values()]
    return len(types), types.count("boolean")


def has_boolean(tools: list[dict[str, Any]]) -> list[bool]:
    return [count_parameters(tool)[1] > 0 for tool in tools]


THREE = {"parameters": Matches({"minProperties": 3, "maxProperties": 3})}
# Of each case: the model, what is asked of it, and what each record then has to be
CASES: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "any tool": ("tools", {}, lambda tool: True),
    "three parameters": ("tools", {"conditions": THREE}, lambda tool: count_parameters(tool)[0] == 3),
    "three parameters, one of them a boolean": (
        "tools",
        {"conditions": THREE, "score": has_boolean},
        lambda tool: count_parameters(tool)[0] == 3 and count_parameters(tool)[1] > 0,
    ),
    "any sentence": ("text", {}, lambda record: True),
    "begins with the name": (
        "text",
        {"conditions": {"text": StartsWith(NAME)}},
        lambda record: record["text"].startswith(NAME),
    ),
    "has the name": ("text", {"conditions": {"text": Contains(NAME)}}, lambda record: NAME in record["text"]),
}


def measure(pipe: DiffLMPipeline, given: dict[str, Any], satisfies: Callable, num_records: int, seed: int) -> dict:
    """The figures of a case and a seed."""
    batches, seconds = [], []
    for batch_size in BATCH_SIZES:
        start, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        batches.append(pipe(num_records, **given, batch_size=batch_size, generator=generator).records)
        seconds.append(time.perf_counter() - start)
    records = batches[0]
    return {
        "satisfied": sum(map(satisfies, records)) / num_records,
        # Where a random number lies within rounding of the border between two tokens, batches may disagree.
        "same_in_batches": sum(a == b for a, b in zip(*batches)) / num_records,
        "distinct": len(set(map(str, records))) / num_records,
        "seconds_per_record": seconds[0] / num_records,
        "first": records[0],
    }


def main(work_dir: Path, num_records: int, seeds: list[int]) -> None:
    # In float32: products in bfloat16 round by the shape of the batch, and documents have many tokens.
    pipes = {kind: DiffLMPipeline.from_pretrained(work_dir / kind, dtype=torch.float32) for kind in TEMPERATURES}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    for case, (kind, given, satisfies) in CASES.items():
        sampling = {**given, "temperature": TEMPERATURES[kind]}
        runs = {str(seed): measure(pipes[kind], sampling, satisfies, num_records, seed) for seed in seeds}
        save_result("control_documents", {case: {"num_records": num_records, "seeds": runs}})
        print(case, runs, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-documents"))
    parser.add_argument("--num-records", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    main(**vars(parser.parse_args()))
