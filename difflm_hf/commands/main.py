"""The command `difflm`."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer
from rich.markup import escape

from .common import console
from .evaluate import evaluate
from .generate import generate
from .impute import impute
from .push import push
from .schema import schema
from .train import train


EXPECTED = (ImportError, ValueError, OSError, RuntimeError, MemoryError)  # of users, disks, networks and machines
USERS_FAULT, OWN_FAULT = 1, 70  # exit codes; sysexits.h has the second

app = typer.Typer(no_args_is_help=True)
for command in (schema, train, generate, impute, push, evaluate):
    app.command()(command)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Learn the distribution of records, and generate new ones."""


def main() -> None:
    """Runs the command. What goes wrong is told in one line, and where it did only with `--debug`."""
    if "--debug" not in sys.argv:  # what libraries tell developers
        warnings.simplefilter("ignore")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        is_expected = isinstance(error, EXPECTED) and str(error)
        said = str(error) if is_expected else f"{type(error).__name__}: {error}; `difflm --debug ...` shows where"
        message = escape(" ".join(said.split()))
        console.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
        raise SystemExit(USERS_FAULT if isinstance(error, EXPECTED) else OWN_FAULT) from None
