"""Cuts the functions out of the Python standard library of this machine, as records to train on."""

import argparse
import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from difflm_hf.records import write_table


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


def main(output: Path, max_lines: int, max_characters: int, with_tests: bool, seed: int) -> None:
    records: dict[str, str] = {}  # by their source, so that none stands twice
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if "site-packages" in module.parts or (not with_tests and {"test", "tests", "idle_test"} & set(module.parts)):
            continue
        try:
            found = list(functions(path.read_text(encoding="utf-8"), max_lines))
        except (SyntaxError, UnicodeDecodeError):  # files that are tests of these
            continue
        records |= {code: module.as_posix() for code in found if len(code) <= max_characters}
    table = pd.DataFrame({"code": list(records), "module": list(records.values())})
    table = table.sample(frac=1, random_state=seed, ignore_index=True)
    held_out = len(table) // 10
    for name, part in (("test", table[:held_out]), ("train", table[held_out:])):
        path = output.with_name(f"{output.stem}_{name}{output.suffix}")
        write_table(part.reset_index(drop=True), path)
        print(f"{len(part)} functions in {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("stdlib.jsonl"), help="Ends in .jsonl, .csv or .parquet.")
    parser.add_argument("--max-lines", type=int, default=40)
    parser.add_argument("--max-characters", type=int, default=1200)
    parser.add_argument("--with-tests", action="store_true", help="Those of the library's own tests too.")
    parser.add_argument("--seed", type=int, default=0, help="Of the split: a tenth is held out.")
    main(**vars(parser.parse_args()))
