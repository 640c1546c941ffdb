"""
Attacks on saved pipelines: each file cut, emptied, zeroed, or another model's; each value of a JSON file replaced. And
attacks on the arguments of calls and of the command, and odd tables and schemas.

    python tests/attacks.py files MODEL OTHER [--cases 2000] [--seed 0]
    python tests/attacks.py call MODEL [--cases 2000] [--seed 0]
    python tests/attacks.py command MODEL [--cases 2000] [--seed 0]
    python tests/attacks.py tables [--cases 2000] [--seed 0]         (and schemas, json_schemas)

A case ends well where records come out that the schema allows, or one clear error does, soon, and in little memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from call_attacks import Run, draw_calls
from command_attacks import draw_commands
from record_attacks import ATTACKS as RECORD_ATTACKS
from record_attacks import each_case

from difflm_hf import DiffLMPipeline
from difflm_hf.diffusion_lm import DiffusionLMPipeline


VALUES = (None, "x", -1, 10**12, math.nan, [])
MAX_SECONDS, MAX_BYTES = 5, 2**30  # of the processor, and of memory
NUM_RECORDS = 20
CLASSES = {cls.__name__: cls for cls in (DiffLMPipeline, DiffusionLMPipeline)}
GOOD_ENDS = ("records", "error", "interrupted")


@dataclass
class Outcome:
    """How a case ended: as one of [`GOOD_ENDS`], or in any other way, which is no good end."""

    kind: str
    text: str
    seconds: float
    num_bytes: int

    @property
    def is_good(self) -> bool:
        return self.kind in GOOD_ENDS and self.seconds < MAX_SECONDS and self.num_bytes < MAX_BYTES


def draw_files(model: Path, other: Path, rng: random.Random) -> Iterator[tuple[str, Run]]:
    """Cases without end, a quarter of them of whole files."""
    cls = CLASSES[json.loads((model / "model_index.json").read_text())["_class_name"]]
    files = [path.relative_to(model) for path in sorted(model.rglob("*")) if path.is_file() and is_loaded(path, model)]
    trees = {file: json.loads((model / file).read_text()) for file in files if file.suffix == ".json"}
    places = {file: list(leaves(tree)) for file, tree in trees.items()}
    while True:
        if rng.random() < 0.25:
            name, apply = damage(rng.choice(files), other, rng)
        else:
            file = rng.choice(list(places))
            name, apply = replace(file, trees[file], rng.choice(places[file]), rng.choice(VALUES))
        yield name, partial(generate, model, cls, apply)


def is_loaded(path: Path, model: Path) -> bool:
    parts = path.relative_to(model).parts
    return parts[0] not in ("checkpoints", "logs") and path.suffix in (".json", ".safetensors", ".jinja", ".txt")


def damage(file: Path, other: Path, rng: random.Random) -> tuple[str, Callable[[Path], None]]:
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
    return f"{way} {file}", lambda folder: ways[way](folder / file)


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


def replace(file: Path, tree: Any, place: tuple, value: Any) -> tuple[str, Callable[[Path], None]]:
    def apply(folder: Path) -> None:
        changed = json.loads(json.dumps(tree))
        branch = changed
        for key in place[:-1]:
            branch = branch[key]
        branch[place[-1]] = value
        (folder / file).write_text(json.dumps(changed))

    return f"{file} {'.'.join(map(str, place))} = {value!r}", apply


def generate(model: Path, cls: type, apply: Callable[[Path], None], temporary: Path) -> tuple[str, str]:
    folder = Path(temporary, "model")
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoints", "logs"))
    apply(folder)
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


def attempt(run: Run) -> Outcome:
    """What comes of a case, in a process of its own."""
    receive, send = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            os.close(receive)
            signal.alarm(4 * MAX_SECONDS)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            # Twice the limit, so that what goes beyond it is told from what has no end.
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MAX_BYTES,) * 2)
            try:
                kind, text = run(Path(folder))
            except BaseException:
                kind, text = "traceback", traceback.format_exc()
            num_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            os.write(send, json.dumps([kind, text[:4000], num_bytes]).encode())
            os._exit(0)
        os.close(send)
        with open(receive, "rb") as file:
            answer = file.read()
        _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime  # of a busy machine, those of the clock say little
    kind, text, num_bytes = json.loads(answer) if answer else ["died", f"by status {status}", 0]
    return Outcome(kind, text, seconds, num_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    attacks = parser.add_subparsers(dest="attack", required=True)
    for attack in ("files", "call", "command", *RECORD_ATTACKS):
        arguments = attacks.add_parser(attack)
        if attack not in RECORD_ATTACKS:
            arguments.add_argument("model", type=Path)
        if attack == "files":
            arguments.add_argument("other", type=Path)
        arguments.add_argument("--cases", type=int, default=2000)
        arguments.add_argument("--seed", type=int, default=0)
        arguments.add_argument("--only", type=int, help="The number of the one case to run.")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # for half characters
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    counts: Counter[str] = Counter()
    numbers = itertools.count()

    def take(name: str, run: Run) -> None:
        if args.only not in (None, number := next(numbers)):
            return
        outcome = attempt(run)
        counts[outcome.kind] += 1
        if not outcome.is_good:
            counts["bad"] += 1
            text = outcome.text.strip().splitlines()[-1][:300] if outcome.text else ""
            print(f"{number} {name}: {outcome.kind} {outcome.seconds:.1f} s {outcome.num_bytes >> 20} MiB {text}")
        if args.only is not None:
            print(name, outcome.kind, outcome.text)

    if args.attack in RECORD_ATTACKS:
        each_case(args.attack, args.cases, args.seed, take)
    else:
        draw = {"files": draw_files, "call": draw_calls, "command": draw_commands}[args.attack]
        models = [args.model, args.other] if args.attack == "files" else [args.model]
        for name, run in itertools.islice(draw(*models, rng), args.cases):
            take(name, run)
    print(dict(counts))
    raise SystemExit(counts["bad"] > 0)


if __name__ == "__main__":
    main()
