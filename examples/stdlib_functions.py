"""
Cuts the functions out of the Python standard library of this machine, as records to train on.

    python examples/stdlib_functions.py --output stdlib.jsonl

A tenth of them is held out: the files are stdlib_train.jsonl and stdlib_test.jsonl.
"""

import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from transformers import HfArgumentParser

from difflm_hf.records import write_table


@dataclass
class Arguments:
    output: Path = field(default=Path("stdlib.jsonl"), metadata={"help": "Ends in .jsonl, .csv or .parquet."})
    max_lines: int = field(default=40, metadata={"help": "Leave out longer functions."})
    max_characters: int = field(default=1200, metadata={"help": "Leave out longer functions."})
    with_tests: bool = field(default=False, metadata={"help": "Those of the library's own tests too."})
    seed: int = field(default=0, metadata={"help": "Seed of the split."})


def functions(source: str, max_lines: int) -> Iterator[str]:
    """The functions and methods of a module, without what is indented below others, as they stand there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    lines = source.split("\n")  # not `splitlines`, for which form feeds end lines
    for node in (node for body in bodies for node in body):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno < max_lines:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])).strip("\n")


def main(args: Arguments) -> None:
    records: dict[str, str] = {}  # by their source, so that none stands twice
    left_out = {"site-packages"} if args.with_tests else {"site-packages", "test", "tests", "idle_test"}
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if left_out & set(module.parts):
            continue
        try:
            found = list(functions(path.read_text(encoding="utf-8"), args.max_lines))
        except (SyntaxError, UnicodeDecodeError):  # files that are tests of these
            continue
        records |= {code: module.as_posix() for code in found if len(code) <= args.max_characters}
    table = pd.DataFrame({"code": list(records), "module": list(records.values())})
    table = table.sample(frac=1, random_state=args.seed, ignore_index=True)
    held_out = len(table) // 10
    for name, part in (("test", table[:held_out]), ("train", table[held_out:])):
        path = args.output.with_name(f"{args.output.stem}_{name}{args.output.suffix}")
        write_table(part.reset_index(drop=True), path)
        print(f"{len(part)} functions in {path}")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
