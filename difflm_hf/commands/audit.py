"""`difflm audit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .common import command, console, say


@command(
    "difflm audit my-model --real train.csv --holdout test.csv",
    "difflm audit my-model --real a.csv --holdout b.csv --output audit",
    "difflm audit my-model --real a.csv --holdout b.csv --sensitive income",
)
def audit(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    real: Annotated[Path, typer.Option(help="The records that it was trained on.")],
    holdout: Annotated[Path, typer.Option(help="Real records of the same kind that it has not seen.")],
    output: Annotated[Path | None, typer.Option(help="A folder for audit.html, audit.json and a plot.")] = None,
    sensitive: Annotated[
        list[str] | None, typer.Option(help="A column to predict from the others; repeatable; by default all.")
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Records of each table that are attacked at most; 30 or more.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of subsamples, latents and intervals.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the Hub.")] = None,
) -> dict[str, Any]:
    """Say what a model gives away about the records that it was trained on."""
    from rich.table import Table

    from ..evaluation import audit_figures, audit_model, summarize, write_report
    from ..files import check_writable
    from ..pipeline_difflm import DiffLMPipeline
    from ..records import read_table
    from ..utils import no_progress_bars

    if output is not None:
        if os.path.isfile(output):  # unlike `Path.is_file`, it takes names that are too long
            raise ValueError(f"--output {output} is a file; name a folder")
        check_writable(output / "audit.html")
    for path in (real, holdout):
        read_table(path)  # what cannot be read is told first
    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(model, revision=revision)
    pipe.set_progress_bar_config(disable=True)
    schema = pipe.processor.schema
    tables = [schema.with_texts(read_table(path, schema.reading)) for path in (real, holdout)]
    scores = audit_model(pipe, *tables, sensitive or (), max_rows, seed, show_progress=True)

    table = Table("metric", "value", "good")
    for row in summarize(scores):
        table.add_row(row.name, row.value, row.good)
    console.print(table)
    found = scores["audit"]
    for note in found["notes"]:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    for reason in found["reasons"]:
        console.print(f"[red]{reason['verdict']}:[/red] {escape(reason['reason'])}", highlight=False)
    say(f"verdict: {found['verdict']}")
    say(found["cannot_see"][0])
    page = None
    if output is not None:
        page = write_report(scores, output, audit_figures(scores), f"Audit of {Path(model).name}", "audit")
        say(f"report in {page}")
    return {"verdict": found["verdict"], "report": page and str(page), "scores": scores}
