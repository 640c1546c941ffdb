"""`difflm impute`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import EscapeFormulas, command, say
from .generate import check_output


@command(
    "difflm impute my-model gaps.csv --output filled.csv",
    "difflm impute my-model gaps.parquet --output means.parquet --mean-of 20",
)
def impute(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    table: Annotated[Path, typer.Argument(help="A .csv, .parquet, .jsonl or .xlsx file with gaps.")],
    output: Annotated[Path, typer.Option(help="A .csv, .parquet, .jsonl or .xlsx file for the table without gaps.")],
    mean_of: Annotated[
        int | None, typer.Option(help="Take the means, or the most frequent values, of so many draws.")
    ] = None,
    num_inference_steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 12,
    escape_formulas: EscapeFormulas = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the Hub.")] = None,
) -> dict[str, Any]:
    """Fill what is missing of a table with a trained model."""
    from ..pipeline_difflm import DiffLMPipeline
    from ..records import read_table, write_table
    from ..seeds import seeded_generator
    from ..utils import no_progress_bars

    check_output(output)
    if not output.suffix:
        raise ValueError(f"{output} has no ending; name a file")
    read_table(table)  # what cannot be read is told first
    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(model, revision=revision)
    pipe.set_progress_bar_config(unit=" records", smoothing=0.02)
    schema = pipe.processor.schema
    given = schema.with_texts(read_table(table, schema.reading))
    draws = {} if mean_of is None else {"num_imputations": mean_of, "aggregate": "mean"}
    generator = seeded_generator(seed)
    start = time.perf_counter()
    filled = pipe.impute(given, **draws, num_inference_steps=num_inference_steps, generator=generator)
    write_table(filled, output, escape_formulas=escape_formulas)
    num_gaps = int(given.isna().to_numpy().sum())
    say(f"{num_gaps} gaps filled in {output}")
    seconds = time.perf_counter() - start
    return {
        "num_records": len(filled),
        "num_gaps": num_gaps,
        "files": [str(output)],
        "seconds": seconds,
        "seed": seed,
    }
