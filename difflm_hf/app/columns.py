"""A schema as a table that a visitor can edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..records import Field, RecordSchema
from ..records.field import isoformat, naming_column
from ..records.inference import decimals_of
from ..records.report import report


HEADERS = {
    "use": "bool",
    "column": "str",
    "type": "str",
    "format": "str",
    "minimum": "str",
    "maximum": "str",
    "decimals": "str",
    "categories": "str",
    "missing": "str",
    "examples": "str",
}
FIXED = ("column", "missing", "examples")
EDITABLE = ("type", "format", "minimum", "maximum", "decimals", "categories")
MAX_LISTED = 30  # categories that can be edited


def to_rows(schema: RecordSchema, table: pd.DataFrame) -> pd.DataFrame:
    """
    What a schema says of each column, as texts.

    Args:
        schema ([`RecordSchema`]): As inferred.
        table (`pandas.DataFrame`): From this table.
    """
    found = report(schema, table)
    rows = [
        [
            True,
            f.name,
            f.type,
            f.format or "",
            *("" if value is None else str(value) for value in (f.minimum, f.maximum, f.decimals)),
            _list_categories(f),
            f"{of.missing:.1%}",
            of.examples,
        ]
        for f, of in zip(schema, found.itertuples())
    ]
    return pd.DataFrame(rows, columns=list(HEADERS))


def doubts_of(schema: RecordSchema, table: pd.DataFrame) -> dict[str, str]:
    """What else columns could be, in words, by their names; those without a doubt are not there."""
    found = report(schema, table)
    return {of.column: of.doubt for of in found.itertuples() if of.doubt}


def _list_categories(f: Field) -> str:
    if not f.categories:
        return ""
    if len(f.categories) > MAX_LISTED:
        return f"{len(f.categories):,} of them"
    return json.dumps(f.categories, ensure_ascii=False, default=str)


def edited_schema(
    schema: RecordSchema, table: pd.DataFrame, rows: pd.DataFrame, rules: Sequence[int] | None = None
) -> RecordSchema:
    """
    The schema that edited rows say. What was not edited stays as it is.

    Args:
        schema ([`RecordSchema`]): As inferred.
        table (`pandas.DataFrame`): From this table.
        rows (`pandas.DataFrame`): What [`to_rows`] gave, edited.
        rules (`Sequence[int]`, *optional*): Which of its rules are kept; all by default.

    Raises:
        `ValueError`: for what a column cannot be, and for values of the table that it does not allow. The message
        names the column.
    """
    before, used = to_rows(schema, table), [_is_ticked(value) for value in rows["use"]]
    if not any(used):
        raise ValueError("no column is used; tick at least one")
    fields = [
        _edited(f, table[f.name], old, new)
        for f, (_, old), (_, new), is_used in zip(schema, before.iterrows(), rows.iterrows(), used)
        if is_used
    ]
    names = [f.name for f in fields]
    ticked = range(len(schema.rules)) if rules is None else rules
    kept = [rule for k, rule in enumerate(schema.rules) if k in ticked and set(rule.columns) <= set(names)]
    lost = {name for name, rule in schema.identifiers.items() if rule not in kept and name in names}
    if lost:  # numbers beyond those of the data were for new identifiers
        plain = RecordSchema.infer(table[sorted(lost)])
        fields = [replace(f, maximum=plain[f.name].maximum) if f.name in lost else f for f in fields]
    found = RecordSchema(fields, kept, schema.csv)
    return found.fit(found.conform(table))


def _is_ticked(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


def _edited(f: Field, column: pd.Series, old: pd.Series, new: pd.Series) -> Field:
    changed = {name: str(new[name]).strip() for name in EDITABLE if str(new[name]) != str(old[name])}
    with naming_column(f.name):
        if "type" in changed or "format" in changed:
            f = _taken_as(f, column, changed.get("type", f.type), changed.get("format", f.format or ""))
        if text := changed.get("decimals"):
            f = replace(f, decimals=int(text))
        bounds = {name: _bound(f, changed[name]) for name in ("minimum", "maximum") if changed.get(name)}
        f = replace(f, **bounds)
        if text := changed.get("categories"):
            f = replace(f, categories=_categories(text))
    return f


def _taken_as(f: Field, column: pd.Series, kind: str, pattern: str) -> Field:
    """The field of a column that a visitor takes for something else than inference did."""
    if kind == "category":
        return RecordSchema.infer(column.to_frame(), categorical=[f.name])[f.name]
    values = column.dropna()
    taken = Field(f.name, kind, f.nullable, f.optional, f.dtype, format=pattern or None, null=f.null)
    if kind == "text":
        return replace(taken, format=None, max_length=int(values.astype(str).str.len().max()))
    if not taken.is_numeric or not len(values):
        return taken
    numbers = taken.to_numpy(values)
    bounds = numbers.min(), numbers.max()
    if kind == "datetime":
        low, high = (isoformat(pd.Timestamp(bound, tz="UTC").tz_convert(taken.time_zone)) for bound in bounds)
        return replace(taken, minimum=low, maximum=high)
    decimals = 0 if kind == "integer" else decimals_of(numbers)
    return replace(taken, minimum=bounds[0].item(), maximum=bounds[1].item(), decimals=decimals)


def _bound(f: Field, text: str) -> Any:
    if f.type == "datetime":
        return text
    return int(text) if f.type == "integer" else float(text)


def _categories(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not found:
        raise ValueError(f'categories {text!r} are no list; write them like ["red", "green"]')
    return found
