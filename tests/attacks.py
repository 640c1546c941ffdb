"""
Attacks on saved pipelines: each file cut, emptied, zeroed, or another model's; each value of a JSON file replaced.

    python tests/attacks.py MODEL OTHER [--cases 2000] [--seed 0]

A case ends well where records come out that the schema allows, or one clear error does, soon, and in little memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from difflm_hf import DiffLMPipeline
from difflm_hf.diffusion_lm import DiffusionLMPipeline


VALUES = (None, "x", -1, 10**12, math.nan, [])
MAX_SECONDS, MAX_BYTES = 5, 2**30
NUM_RECORDS = 20


@dataclass
class Case:
    """What is done to a copy of a saved pipeline."""

    name: str
    apply: Callable[[Path], None]


@dataclass
class Outcome:
    """How a case ended: `"records"`, `"error"`, or anything else, which is no good end."""

    kind: str
    text: str
    seconds: float
    num_bytes: int

    @property
    def is_good(self) -> bool:
        return self.kind in ("records", "error") and self.seconds < MAX_SECONDS and self.num_bytes < MAX_BYTES


def draw_cases(model: Path, other: Path, rng: random.Random) -> Iterator[Case]:
    """Cases without end, half of them of whole files."""
    files = [path.relative_to(model) for path in sorted(model.rglob("*")) if path.is_file() and is_loaded(path, model)]
    trees = {file: json.loads((model / file).read_text()) for file in files if file.suffix == ".json"}
    places = {file: list(leaves(tree)) for file, tree in trees.items()}
    while True:
        if rng.random() < 0.25:
            yield damage(rng.choice(files), other, rng)
        else:
            file = rng.choice(list(places))
            yield replace(file, trees[file], rng.choice(places[file]), rng.choice(VALUES))


def is_loaded(path: Path, model: Path) -> bool:
    parts = path.relative_to(model).parts
    return parts[0] not in ("checkpoints", "logs") and path.suffix in (".json", ".safetensors", ".jinja", ".txt")


def damage(file: Path, other: Path, rng: random.Random) -> Case:
    def cut(path: Path) -> None:
        os.truncate(path, rng.randrange(path.stat().st_size))

    def zero(path: Path) -> None:
        path.write_bytes(b"\0" * path.stat().st_size)

    def swap(path: Path) -> None:
        if (other / file).exists():
            shutil.copy(other / file, path)
        else:
            path.unlink()

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    def fifo(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def device(path: Path) -> None:
        path.unlink()
        path.symlink_to("/dev/zero")

    ways = {of.__name__: of for of in (cut, zero, swap, flip, fifo, device)}
    way = rng.choice(list(ways))
    return Case(f"{way} {file}", lambda folder: ways[way](folder / file))


def leaves(tree: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where the values of a JSON tree are, branches among them; of long lists a few."""
    if place:
        yield place
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*place, key))
    elif isinstance(tree, list):
        for k in sorted({0, 1, len(tree) // 2, len(tree) - 1} & set(range(len(tree)))):
            yield from leaves(tree[k], (*place, k))


def replace(file: Path, tree: Any, place: tuple, value: Any) -> Case:
    def apply(folder: Path) -> None:
        changed = json.loads(json.dumps(tree))
        branch = changed
        for key in place[:-1]:
            branch = branch[key]
        branch[place[-1]] = value
        (folder / file).write_text(json.dumps(changed))

    return Case(f"{file} {'.'.join(map(str, place))} = {value!r}", apply)


def attempt(case: Case, model: Path, cls: type) -> Outcome:
    """What comes of a case, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoints", "logs"))
        case.apply(folder)
        receive, send = os.pipe()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(receive)
            signal.alarm(4 * MAX_SECONDS)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            kind, text = generate(folder, cls)
            num_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            os.write(send, json.dumps([kind, text[:4000], num_bytes]).encode())
            os._exit(0)
        os.close(send)
        with open(receive, "rb") as file:
            answer = file.read()
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - start
    kind, text, num_bytes = json.loads(answer) if answer else ["died", f"by status {status}", 0]
    return Outcome(kind, text, seconds, num_bytes)


def generate(folder: Path, cls: type) -> tuple[str, str]:
    # Twice the limit, so that what goes beyond it is told from what has no end.
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MAX_BYTES,) * 2)
    generator = torch.Generator().manual_seed(0)
    try:
        pipe = cls.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        if cls is DiffusionLMPipeline:
            texts = pipe(NUM_RECORDS, generator=generator).texts
            return ("records", "") if len(texts) == NUM_RECORDS else ("too few", str(len(texts)))
        table = pipe(NUM_RECORDS, generator=generator, output_type="pandas").records
        schema = pipe.processor.schema
        is_valid = all(field.allows(table[field.name]).all() for field in schema)
        if len(table) < NUM_RECORDS or not is_valid or not schema.holds(schema.conform(table)).all():
            return "invalid", str(table)
        return "records", ""
    except (OSError, ValueError, RuntimeError) as error:
        is_clear = str(error) and len(str(error)) < 1000 and type(error) is not RecursionError
        return ("error" if is_clear else "unclear", f"{type(error).__name__}: {error}")
    except BaseException:
        return "traceback", traceback.format_exc()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    classes = {cls.__name__: cls for cls in (DiffLMPipeline, DiffusionLMPipeline)}
    cls = classes[json.loads((args.model / "model_index.json").read_text())["_class_name"]]
    counts: Counter[str] = Counter()
    cases = draw_cases(args.model, args.other, random.Random(args.seed))
    for number in range(args.cases):
        case = next(cases)
        outcome = attempt(case, args.model, cls)
        counts[outcome.kind] += 1
        if not outcome.is_good:
            counts["bad"] += 1
            text = outcome.text.strip().splitlines()[-1][:300] if outcome.text else ""
            print(f"{number} {case.name}: {outcome.kind} {outcome.seconds:.1f} s {outcome.num_bytes >> 20} MiB {text}")
    print(dict(counts))
    raise SystemExit(counts["bad"] > 0)


if __name__ == "__main__":
    main()
