"""What several commands say and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
