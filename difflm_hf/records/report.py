"""What inference made of a table, for people to look at before they train."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from .csv_files import CSV, SURE, column_format
from .csv_format import USUAL_CSV, CSVFormat
from .field import Field
from .inference import doubt_of, mistaken_for_text
from .schema import RecordSchema


MAX_LISTED = 100  # categories that may look like numbers and be none
NUM_LOOKED_AT = 3  # values that examples are of
WHOLE_WITH_EXPONENT = re.compile(r"-?\d+[eE]\+\d+")  # as R writes 100000


def report(schema: RecordSchema, table: pd.DataFrame) -> pd.DataFrame:
    """
    What a schema says of the columns that it was inferred from.

    Args:
        schema ([`RecordSchema`]): The schema.
        table (`pandas.DataFrame`): The table.

    Returns:
        `pandas.DataFrame` with a row for each column: `column`, `type`, `format`, `missing` (a share), `examples`,
        `doubt` (what else it could be, in words) and `is_mistaken` (whether a column of texts is most likely of
        numbers or dates).
    """
    decimal = table.attrs.get(CSV, {}).get("decimal") if table.attrs.get(SURE, True) else None
    rows = []
    for f in schema:
        column = table[f.name]
        odd = column_format(table, f.name).odd
        said = odd is not None and f"{odd!r} will be written otherwise, as other values of its kind are{_hint(odd)}"
        mistaken = mistaken_for_text(column, decimal) if _is_of_texts(f) else None
        rows.append(
            {
                "column": f.name,
                "type": f.type,
                "format": f.format or "",
                "missing": float(column.isna().mean()),
                "examples": ", ".join(dict.fromkeys(str(value)[:20] for value in column.dropna().head(NUM_LOOKED_AT))),
                "doubt": mistaken or said or doubt_of(f, column, decimal) or "",
                "is_mistaken": mistaken is not None and (f.type == "text" or len(f.categories) > MAX_LISTED),
            }
        )
    return pd.DataFrame(rows)


def describe(schema: RecordSchema, table: pd.DataFrame) -> str:
    """The [`report`] as lines, after how the file was read if that is not as usual."""
    found = report(schema, table)
    lines = [f"{'column':24} {'type':9} {'missing':>7}  examples"]
    for row in found.itertuples():
        kind = row.format and f" [{row.format}]"
        lines.append(f"{row.column[:24]:24} {row.type:9} {row.missing:7.1%}  {row.examples}{kind}")
        if row.doubt:
            lines.append(f"{'':24} ? {row.doubt}")
    how = CSVFormat(**table.attrs.get(CSV, {}))
    said, usual = ([of.separator, of.decimal, of.encoding, of.quote] for of in (how, USUAL_CSV))
    if how != CSVFormat() and said != usual:
        names = ("separator", "decimal point", "encoding", "quote")
        lines.insert(0, "read with " + ", ".join(f"{name} {value!r}" for name, value in zip(names, said)))
    return "\n".join(lines)


def check_doubts(
    schema: RecordSchema, table: pd.DataFrame, accept: Sequence[str] = (), is_strict: bool = False
) -> None:
    """
    Raises a `ValueError` for a column of texts that are most likely numbers or dates, and with `is_strict` for any
    other doubt, too.

    Args:
        schema ([`RecordSchema`]): As inferred.
        table (`pandas.DataFrame`): From this table.
        accept (`Sequence[str]`, defaults to none): Columns that are as inferred, whatever the doubt.
        is_strict (`bool`, defaults to `False`): Whether any doubt is an error.
    """
    if unknown := [name for name in accept if name not in schema.names]:
        raise ValueError(f"no column {unknown[0]!r} to accept; columns: {schema.names}")
    for row in report(schema, table).itertuples():
        if row.column not in accept and (row.is_mistaken or (is_strict and row.doubt)):
            ways = (
                "mend these values, or make them missing (null_words of a CSVFormat, --null-word)"
                if row.is_mistaken
                else "give another format in the schema (difflm schema --output, edited, and --schema)"
            )
            raise ValueError(
                f"column {row.column!r} is taken as {row.type}: {row.doubt}; {ways}, or take it as it is by "
                f"accept=[{row.column!r}] (--accept {row.column!r})"
            )


def _hint(odd: str) -> str:
    return " (R writes it in full after options(scipen = 999))" if WHOLE_WITH_EXPONENT.fullmatch(odd) else ""


def _is_of_texts(f: Field) -> bool:
    return f.type in ("text", "category") and f.has_texts
