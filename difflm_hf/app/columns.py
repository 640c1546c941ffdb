"""A schema as a table that a visitor can edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..records import Field, RecordSchema
from ..records.csv_files import with_texts
from ..records.dtypes import dtype_name, dtype_of
from ..records.field import MAX_DIGITS, WIDEST, isoformat, naming_column
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
    "nullable": "bool",
    "missing": "str",
    "examples": "str",
}
FIXED = ("column", "missing", "examples")
# What of the cells says something of columns of a type; the others are empty
OF_NUMBERS = ("format", "minimum", "maximum")
CELLS = {
    "integer": OF_NUMBERS,
    "number": (*OF_NUMBERS, "decimals"),
    "datetime": OF_NUMBERS,
    "boolean": ("format",),
    "category": ("categories",),
}
EDITABLE = ("type", *OF_NUMBERS, "decimals", "categories")
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
            f.nullable,
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
    if not {*HEADERS} <= {*rows.columns} or rows["column"].tolist() != schema.names:
        raise ValueError("rows or columns of the table of columns were added or removed; choose the file again")
    before, used = to_rows(schema, table), [_is_ticked(value) for value in rows["use"]]
    if not any(used):
        raise ValueError("no column is used; tick at least one")
    fields = [
        _edited(f, table[[f.name]], old, new)
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


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value).strip()


def _edited(f: Field, table: pd.DataFrame, old: pd.Series, new: pd.Series) -> Field:
    changed = {name: _text(new[name]) for name in EDITABLE if _text(new[name]) != _text(old[name])}
    with naming_column(f.name):
        if "type" in changed or "format" in changed:
            f = _taken_as(f, table, changed.get("type", f.type), changed.get("format", f.format or ""))
        cells = CELLS.get(f.type, ())
        for name, text in changed.items():
            if text and name not in ("type", *cells):
                raise ValueError(f"{name} {text!r} says nothing of a column of type {f.type}; clear it")
        read = {name: READ[name](f, name, text) for name, text in changed.items() if name in READ and name in cells}
        is_nullable = _is_ticked(new["nullable"])
        return replace(f, nullable=is_nullable, optional=f.optional and is_nullable, **read)


def _taken_as(f: Field, table: pd.DataFrame, kind: str, pattern: str) -> Field:
    """The field of a column that a visitor takes for something else than inference did."""
    values = table[f.name].dropna()
    if not len(values):
        raise ValueError("it has no values, and so no type; leave it as it is, or untick use")
    if kind == "category":
        return RecordSchema.infer(table, categorical=[f.name])[f.name]
    taken = Field(f.name, kind, f.nullable, f.optional, f.dtype, format=pattern or None, null=f.null)
    if kind == "text":
        texts = with_texts(table, [f.name])[f.name]
        if not texts.dropna().map(lambda value: isinstance(value, str)).all():
            raise ValueError("the file has no texts there; take it as a category, or save its values as texts")
        length = int(texts.dropna().str.len().max())
        return replace(taken, dtype=dtype_name(texts), format=None, max_length=length)
    if not taken.is_numeric:
        return taken
    numbers = taken.to_numpy(values)
    bounds = numbers.min(), numbers.max()
    if kind == "datetime":
        low, high = (isoformat(pd.Timestamp(bound, tz="UTC").tz_convert(taken.time_zone)) for bound in bounds)
        return replace(taken, minimum=low, maximum=high)
    decimals = 0 if kind == "integer" else decimals_of(numbers)
    return replace(taken, minimum=bounds[0].item(), maximum=bounds[1].item(), decimals=decimals)


def _bound(f: Field, name: str, text: str) -> Any:
    try:
        if f.type == "datetime":
            found, is_bound = text, not pd.isna(pd.to_datetime(text, utc=True))
        else:
            found = int(text) if f.type == "integer" else float(text)
            is_bound = pd.Series([found], dtype=object).between(*_widest(f)).all()
    except ValueError:
        is_bound = False
    if not is_bound:
        like = f.bounds[name == "maximum"]
        raise ValueError(f"{name} {text!r} is no {f.type} that the column can have; write it like {like}")
    return found


def _widest(f: Field) -> tuple[Any, Any]:
    """The bounds of the numbers that the dtype of a column can hold."""
    dtype = dtype_of(f.dtype)
    if f.type == "integer" and pd.api.types.is_integer_dtype(dtype):
        info = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        return info.min, info.max
    return WIDEST[f.type]


def _decimals(f: Field, name: str, text: str) -> int | None:
    if text and not (text.isdecimal() and int(text) <= MAX_DIGITS):
        raise ValueError(f"decimals {text!r} are no digits from 0 to {MAX_DIGITS}; clear it for those of the data")
    return int(text) if text else None


def _categories(f: Field, name: str, text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not found:
        raise ValueError(f'categories {text!r} are no list; write them like ["red", "green"]')
    return found


READ = {"minimum": _bound, "maximum": _bound, "decimals": _decimals, "categories": _categories}
