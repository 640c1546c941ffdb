"""`difflm schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import DATA_HELP, Read, command, say


@command(
    "difflm schema table.csv --output schema.json",
    "difflm schema table.csv --separator ';' --decimal , --null-word unknown",
    "difflm schema orders.jsonl --find-rules --json",
    "difflm schema sqlite:///shop.db --query 'SELECT * FROM orders'",
)
def schema(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    output: Annotated[Path | None, typer.Option(help="A file for the schema, to be edited and loaded.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    find_rules: Annotated[bool, typer.Option("--find-rules", help="Look for rules between columns.")] = False,
    *,
    read: Read,
) -> dict[str, Any]:
    """Show what the columns of a file are taken for, and what is in doubt."""
    from ..files import check_writable
    from ..records import RecordSchema, read_table
    from ..records.report import describe, report

    if output is not None:
        check_writable(output)
    table = read_table(read(data))
    found = RecordSchema.infer(table, categorical or (), find_rules=find_rules)
    say(describe(found, table))
    for rule in found.rules:
        say(f"rule: {rule}")
    if output is not None:
        found.save(output)
        say(f"saved in {output}")
    doubts = report(found, table).set_index("column")["doubt"]
    return {
        "schema": found.to_dict(),
        "doubts": doubts[doubts != ""].to_dict(),
        "num_records": len(table),
        "file": None if output is None else str(output),
    }
