"""The largest and the smallest numbers of a column, which are those of single people, moved to what several have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .field import Field, isoformat, naming_column
from .rules import Ascending
from .schema import RecordSchema


def top_code(
    schema: RecordSchema, table: pd.DataFrame, min_count: int, keep_bounds: bool = False
) -> tuple[RecordSchema, pd.DataFrame]:
    """
    Moves the numbers and datetimes of each column that are among its `min_count` largest to the smallest of these, and
    likewise at the other end, so that at least so many records have the largest number, and the smallest. Columns that
    a rule ties to others stay as they are, but for those in ascending order, which they keep.

    Args:
        schema ([`RecordSchema`]): The schema.
        table (`pandas.DataFrame`): Records that conform to it.
        min_count (`int`): Records.
        keep_bounds (`bool`, defaults to `False`): Leave the bounds of the schema as they are, rather than narrow them.

    Returns:
        The schema and the table.

    Raises:
        `ValueError`: for a column with numbers in fewer than twice so many records. The message names it.
    """
    tied = {name for rule in schema.rules if not isinstance(rule, Ascending) for name in rule.columns}
    fields, columns = {}, {}
    for f in schema:
        if not f.is_numeric or f.name in tied:
            continue
        with naming_column(f.name):
            column, low, high = _clipped(f, table[f.name], min_count)
        columns[f.name] = column
        fields[f.name] = f if keep_bounds else replace(f, minimum=_bound(f, low), maximum=_bound(f, high))
    return RecordSchema([fields.get(f.name, f) for f in schema], schema.rules, schema.csv), table.assign(**columns)


def _clipped(field: Field, column: pd.Series, min_count: int) -> tuple[pd.Series, np.generic, np.generic]:
    apart = field.index_apart(column)
    is_value = apart < 0
    numbers = field.to_numpy(column[is_value])
    if len(numbers) < 2 * min_count:
        raise ValueError(
            f"only {len(numbers)} records have numbers or dates, fewer than twice {min_count}, so that the smallest "
            "and the largest are those of few; drop the column, or lower min_category_count"
        )
    ordered = np.sort(numbers)
    low, high = ordered[min_count - 1], ordered[-min_count]
    is_moved = np.zeros(len(column), bool)
    is_moved[is_value] = (numbers < low) | (numbers > high)
    if not is_moved.any():
        return column, low, high
    moved = field.to_series(numbers[is_moved[is_value]].clip(low, high), np.zeros(is_moved.sum(), bool))
    column = column.copy()
    column[is_moved] = moved.to_numpy() if column.dtype == object else moved.array
    return column, low, high


def _bound(field: Field, value: np.generic) -> int | float | str:
    """A bound as a schema has it."""
    if field.type != "datetime":
        return value.item()
    moment = pd.Timestamp(value)
    return isoformat(moment.tz_localize("UTC").tz_convert(field.time_zone) if field.time_zone else moment)
