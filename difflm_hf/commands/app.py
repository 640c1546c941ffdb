"""The command `difflm`."""

from __future__ import annotations

import typer
from rich.markup import escape

from .common import console
from .evaluate import evaluate
from .generate import generate
from .impute import impute
from .push import push
from .schema import schema
from .train import train


app = typer.Typer(help="Learn the distribution of records, and generate new ones.", no_args_is_help=True)
for command in (schema, train, generate, impute, push, evaluate):
    app.command()(command)


def main() -> None:
    """Runs the command; what the user can mend is told in one line."""
    try:
        app()
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        message = escape(" ".join(str(error).split()))
        console.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
