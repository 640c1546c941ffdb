"""The commands of `difflm`, as one program."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app as page
from .audit import audit
from .env import env
from .evaluate import evaluate
from .generate import generate
from .impute import impute
from .push import push
from .schema import schema
from .train import train


app = typer.Typer(no_args_is_help=True)
for command in (schema, train, generate, impute, push, evaluate, audit, env, page):
    app.command(epilog=command.epilog)(command)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Learn the distribution of records, and generate new ones."""
