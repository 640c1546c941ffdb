"""`difflm evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .common import command, console, read_json, read_text, say, words


if TYPE_CHECKING:
    import pandas as pd

    from ..processing_difflm import DiffLMProcessor

KINDS = ("table", "json", "code", "text")


@command(
    "difflm evaluate --real a.csv --holdout b.csv --synthetic c.csv --output report",
    "difflm evaluate --kind json --real a.jsonl --synthetic c.jsonl --output report",
)
def evaluate(
    real: Annotated[Path, typer.Option(help="The records that the generator was trained on.")],
    synthetic: Annotated[Path, typer.Option(help="Generated records.")],
    output: Annotated[Path, typer.Option(help="A folder for report.html, report.json and plots.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Real records that the generator has not seen; needed for tables.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict, to measure utility.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    log_target: Annotated[bool, typer.Option(help="Predict log(1 + target).")] = False,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of a model, to map rows by its latents.")] = None,
    kind: Annotated[
        str, typer.Option(help="What records are: table, json, code or text.", autocompletion=words(*KINDS))
    ] = "table",
    column: Annotated[str | None, typer.Option(help="The column that holds the code or text.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="A JSON Schema that JSON records should follow.")] = None,
    key: Annotated[str | None, typer.Option(help="The key that tells whether a JSON record is new.")] = None,
    max_rows: Annotated[int, typer.Option(help="Rows that the costly metrics draw at most; 30 or more.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Seed of subsamples and models.")] = 0,
) -> dict[str, Any]:
    """Measure how good generated records are, and write a report."""
    from rich.table import Table

    from ..evaluation import summarize, write_report
    from ..files import check_writable

    if kind not in KINDS:
        raise ValueError(f"--kind {kind} is none of {', '.join(KINDS)}")
    if os.path.isfile(output):  # unlike `Path.is_file`, it takes names that are too long
        raise ValueError(f"--output {output} is a file; name a folder")
    check_writable(output / "report.html")
    unused = (
        {"--column": column, "--json-schema": json_schema, "--key": key}
        if kind == "table"
        else {"--holdout": holdout, "--target": target, "--categorical": categorical}
        | {"--log-target": log_target, "--model": model}
        | ({"--column": column} if kind == "json" else {"--json-schema": json_schema, "--key": key})
    )
    if given := [option for option, value in unused.items() if value]:
        raise ValueError(f"{given[0]} has no use with --kind {kind}; leave it out")
    if kind == "table":
        if holdout is None:
            raise ValueError("a table needs --holdout: real records that the generator has not seen")
        scores, figures = _evaluate_table(
            real, holdout, synthetic, model, target, categorical, log_target, max_rows, seed
        )
    else:
        scores, figures = {"documents": _evaluate_documents(kind, real, synthetic, column, json_schema, key, seed)}, {}
    page = write_report(scores, output, figures, title=f"Evaluation of {synthetic.name}")

    table = Table("", "metric", "value", "to compare with", "good")
    section = None
    for row in summarize(scores):
        table.add_row("" if row.section == section else row.section, row.name, row.value, row.reference, row.good)
        section = row.section
    console.print(table)
    for note in scores.get("notes", []):
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    for alarm in scores.get("privacy", {}).get("alarms", []):
        console.print(f"[red]privacy alarm:[/red] {escape(alarm)}", highlight=False)
    say(f"report in {page}")
    return {"report": str(page), "scores": read_json(output / "report.json")}  # which has null for what is not finite


def _evaluate_table(
    real: Path,
    holdout: Path,
    synthetic: Path,
    model: str | None,
    target: str | None,
    categorical: list[str] | None,
    log_target: bool,
    max_rows: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    from ..evaluation import evaluate_table, table_figures
    from ..latents import encode_latents, to_dataset
    from ..pipeline_difflm import DiffLMPipeline
    from ..records import RecordSchema, read_table
    from ..utils import no_progress_bars

    tables = [read_table(path) for path in (synthetic, real, holdout)]
    schema = RecordSchema.infer(tables[1], categorical or ()) if len(tables[1]) else RecordSchema()
    tables = [schema.with_texts(table) for table in tables]
    latents = None
    if model is not None:
        with no_progress_bars():
            pipe = DiffLMPipeline.from_pretrained(model)
        rows = [table.sample(min(len(table), 2000), random_state=seed) for table in (tables[1], tables[0])]
        rows = [_encodable(pipe.processor, table) for table in rows]
        posteriors = [encode_latents(pipe.vae, to_dataset(pipe.processor, table), False) for table in rows]
        latents = tuple(posterior.tensors["mean"].numpy() for posterior in posteriors)
    scores = evaluate_table(
        *tables,
        target=target,
        categorical=categorical,
        log_target=log_target,
        max_rows=max_rows,
        seed=seed,
        show_progress=True,
    )
    return scores, table_figures(*tables, scores, latents, seed)


def _encodable(processor: DiffLMProcessor, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a model can encode: not those with texts longer, or values other, than it was trained on."""

    def error_of(rows: pd.DataFrame) -> ValueError | None:
        try:
            processor(rows)
        except ValueError as error:
            return error

    if (error := error_of(table)) is None:
        return table
    rows = table[[error_of(table.iloc[[i]]) is None for i in range(len(table))]]
    if rows.empty:
        raise error
    return rows


def _evaluate_documents(
    kind: str, real: Path, synthetic: Path, column: str | None, json_schema: Path | None, key: str | None, seed: int
) -> dict[str, float]:
    from ..evaluation import evaluate_code, evaluate_json, evaluate_text
    from ..records import read_table

    if kind == "json":
        # Not `splitlines`, which takes characters inside JSON strings for ends of lines.
        documents = [read_text(path).split("\n") for path in (synthetic, real)]
        documents = [[line for line in lines if line.strip()] for lines in documents]
        schema = None if json_schema is None else read_json(json_schema)
        return evaluate_json(*documents, schema=schema, key=key, seed=seed)
    tables = [read_table(path) for path in (synthetic, real)]
    for path, table in zip((synthetic, real), tables):
        if column not in table:
            raise ValueError(f"{path} has no column {column!r}; name one by --column: {', '.join(table.columns)}")
        if not (is_text := table[column].map(lambda value: isinstance(value, str))).all():
            row = is_text.argmin()
            raise ValueError(
                f"{path}: {table[column].iloc[row]!r} in row {row} of column {column!r} is no text; drop it"
            )
    measure = evaluate_code if kind == "code" else evaluate_text
    return measure(*(table[column].tolist() for table in tables), seed=seed)
