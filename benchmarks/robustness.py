"""
Attacks on saved pipelines, on the arguments of calls and commands, and by odd records and schemas, by
tests/attacks.py, and runs that are killed, that share a folder, and whose disk is full, by tests/soak.py.

    python -m benchmarks.robustness [--parts files call command tables schemas json_schemas train generate]
        [--cases 2000] [--kills 100] [--full-disks 10]

Figures go to benchmarks/results/robustness.json; `python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from pathlib import Path

from .markdown import to_table
from .results import load_result, save_result


TESTS = Path(__file__).parents[1] / "tests"
TRAIN = """
import sys
import tiny

tiny.train(tiny.make_table(), sys.argv[1] + "/model", recipe="tiny")
tiny.train(tiny.make_table(200, seed=1).drop(columns="size"), sys.argv[1] + "/other", recipe="tiny")
"""
ATTACKS = {
    "files": "saved pipelines: files cut, emptied, zeroed, of another model; values of their configurations replaced",
    "call": "arguments of a pipeline's methods",
    "command": "arguments of the command",
    "tables": "odd tables and lists of records, read, written as tokens, and read again",
    "schemas": "saved schemas, with parts replaced or left out",
    "json_schemas": "JSON Schemas, odd and ordinary",
}
MODELS = {"files": 2, "call": 1, "command": 1}  # that an attack needs, if any
SOAKS = {"train": "trainings", "generate": "generations of shards"}


def run(*command: str | Path) -> list[str]:
    """What a script of the tests says, line by line. It may end by 1, where it found what is bad."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=TESTS, text=True, stdout=subprocess.PIPE)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{command[0]} ended by {done.returncode}")
    print(done.stdout, flush=True)
    return done.stdout.splitlines()


def attack(part: str, cases: int) -> dict[str, int]:
    """How many cases ended how."""
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder, name) for name in ("model", "other")][: MODELS.get(part, 0)]
        if models:
            subprocess.run([sys.executable, "-c", TRAIN, folder], cwd=TESTS, check=True)
        return ast.literal_eval(run(TESTS / "attacks.py", part, *models, "--cases", str(cases))[-1])


def soak(task: str, kills: int, full_disks: int) -> dict[str, int]:
    """How many times what happened."""
    lines = run(TESTS / "soak.py", "--tasks", task, "--kills", str(kills), "--full-disks", str(full_disks))
    return ast.literal_eval(lines[-1].removeprefix(task))


def robustness_section() -> str:
    results = load_result("robustness")
    passages = []
    attacks = {part: results[part] for part in ATTACKS if part in results}
    if attacks:
        rows = []
        for part, counts in attacks.items():
            total = sum(number for end, number in counts.items() if end != "bad")
            ends = (total, counts["records"], counts["error"], counts.get("interrupted", 0), counts.get("bad", 0))
            rows.append([ATTACKS[part], *(f"{n:,}" for n in ends)])
        passages.append(
            "`tests/attacks.py` draws cases at random. A case ends well where valid records come, or one clear error, "
            "in under 5 s of the processor and 1 GiB; what is asked for by the million is interrupted:\n\n"
            + to_table(["attacks on", "cases", "records", "errors", "interrupted", "bad ends"], rows)
        )
    soaks = {what: results[task] for task, what in SOAKS.items() if task in results}
    if soaks:
        names = list(dict.fromkeys(name for counts in soaks.values() for name in counts))
        rows = [[what, *(str(counts.get(name, 0)) for name in names)] for what, counts in soaks.items()]
        passages.append(
            "`tests/soak.py` kills runs at random moments (SIGKILL, SIGTERM), starts two into one folder, and fills "
            "their disks. *Whole* are outputs that came to the same bytes as those of a run that nobody disturbs, of "
            "files that hold nothing else; one of two that write one folder is refused:\n\n"
            + to_table(["runs", *names], rows)
        )
    return "\n\n".join(passages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*ATTACKS, *SOAKS], default=[*ATTACKS, *SOAKS])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full-disks", type=int, default=10)
    args = parser.parse_args()
    for part in args.parts:
        measured = attack(part, args.cases) if part in ATTACKS else soak(part, args.kills, args.full_disks)
        save_result("robustness", {part: measured})


if __name__ == "__main__":
    main()
