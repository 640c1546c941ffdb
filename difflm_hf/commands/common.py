"""What several commands say and read."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import typer
from rich.console import Console


console = Console(stderr=True)
RARE_HELP = "Publish categories and listed numbers of fewer than 10 records, and all of the vocabulary of texts."


def say(message: str) -> None:
    """Prints a line as it is: names of files may look like markup."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({error})") from error


def check_options(context: typer.Context, known: Container[str], reason: str) -> None:
    """Raises a `ValueError` for an option that is given, and is not one of those that are known."""
    for name in context.params:
        if name not in known and context.get_parameter_source(name).name != "DEFAULT":
            raise ValueError(f"leave out --{name.replace('_', '-')}: {reason}")
