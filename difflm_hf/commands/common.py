"""What several commands say and read."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Container, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..checks import short


if TYPE_CHECKING:
    import pandas as pd

IS_FIRST = int(os.environ.get("RANK", 0)) == 0  # of processes that a launcher started, the one that speaks for all
console = Console(stderr=True, quiet=not IS_FIRST)
DATA_HELP = "Records: a .csv, .tsv, .parquet, .json, .jsonl, .arrow or .xlsx file, or the URL of a database."
RARE_HELP = "Publish categories and listed numbers of fewer than 10 records, and all of the vocabulary of texts."


def say(message: str) -> None:
    """Prints a line as it is: names of files may look like markup."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """Prints an object to stdout, for programs; all that people are told goes to stderr."""
    if not IS_FIRST:
        return
    try:
        print(json.dumps(value), flush=True)
    except BrokenPipeError:  # nobody reads it, nor anything else
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


EscapeFormulas = Annotated[
    bool,
    typer.Option("--escape-formulas", help="Put ' before texts of a CSV that a spreadsheet would run as formulas."),
]
Json = Annotated[bool, typer.Option("--json", help="Print what came of it to stdout, as one JSON object.")]
Read = Callable[..., Any]


def reading(
    separator: Annotated[
        str | None, typer.Option(help="Between the values of a CSV: ; or tab, say; found by default.")
    ] = None,
    decimal: Annotated[str | None, typer.Option(help="Its decimal point, . or , (found by default).")] = None,
    encoding: Annotated[str | None, typer.Option(help="Its encoding, such as cp1252; found by default.")] = None,
    quote: Annotated[
        str | None, typer.Option(help="What stands around values that hold a separator; found by default.")
    ] = None,
    null_word: Annotated[
        list[str] | None, typer.Option(help="What stands for a missing value in it; repeatable.")
    ] = None,
    header: Annotated[bool, typer.Option(help="Whether its first line has the names of columns.")] = True,
    query: Annotated[
        str | None, typer.Option(help="A table of the database, a SELECT, or a sheet of the Excel file.")
    ] = None,
) -> Read:
    """
    The options of reading, as a function: `read(data)` is the table of a CSV file as options say, or of a database; a
    file without options stays its path. The words for missing values that `read` is given stand in for those that are
    not.
    """
    from ..records import CSVFormat, read_table

    separator = "\t" if separator in ("\\t", "tab") else separator

    def read(
        data: str | Path, null_words: Sequence[str] | None = None, query: str | None = query
    ) -> pd.DataFrame | str | Path:
        how = CSVFormat(separator, decimal, encoding, null_word or null_words or None, header, quote)
        return data if how == CSVFormat() and query is None else read_table(data, how, query)

    return read


def command(*examples: str) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., None]]:
    """
    Makes a command of a function. With `--json`, what the function returns is printed to stdout. An argument `read`
    of the function stands for the options of [`reading`].

    Args:
        examples (`str`): Lines that its help ends with.
    """

    def decorate(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
        own = dict(inspect.signature(function, eval_str=True).parameters)
        options = dict(inspect.signature(reading, eval_str=True).parameters) if own.pop("read", None) else {}

        @wraps(function)
        def run(*, json: bool, **arguments: Any) -> None:
            if options:
                arguments["read"] = reading(**{name: arguments.pop(name) for name in options})
            result = function(**arguments)
            if json:
                print_json(result)

        option = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
        run.__signature__ = inspect.Signature([*own.values(), *options.values(), option])
        run.epilog = epilog(*examples)
        return run

    return decorate


def epilog(*examples: str) -> str:
    """What the help of a command ends with."""
    return "\n\n".join(("Examples:", *map(escape, examples)))  # typer joins lines that follow each other


def words(*choices: str) -> Callable[[], list[str]]:
    """What a shell completes an option by."""
    return lambda: list(choices)


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say_messages(name: str) -> None:
    """Prints what a logger informs of."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_Saying()]


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise type(error)(f"{short(str(path))} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({error})") from error


def check_options(context: typer.Context, known: Container[str], reason: str) -> None:
    """Raises a `ValueError` for an option that is given, and is not one of those that are known."""
    for name in context.params:
        if name not in known and name != "json" and context.get_parameter_source(name).name != "DEFAULT":
            raise ValueError(f"leave out --{name.replace('_', '-')}: {reason}")
