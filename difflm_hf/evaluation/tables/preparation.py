"""Tables as metrics take them, whatever files and databases made of their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api import types as pd_types

from ...records import RecordSchema
from .encoding import check_numbers, to_numbers
from .plain_columns import plain_tables


MAX_CATEGORIES = 512  # strings of more distinct values count as texts
LARGEST = float(np.finfo(np.float32).max)  # that XGBoost takes


def prepare_tables(
    tables: dict[str, pd.DataFrame], categorical: Sequence[str] | None = None
) -> tuple[dict[str, pd.DataFrame], list[str], list[str]]:
    """
    Brings tables into the form that metrics compute with: numbers, datetimes and categories.

    Args:
        tables (`dict[str, pandas.DataFrame]`): The training table first; one may be named `"synthetic"`.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `tuple[dict[str, pandas.DataFrame], list[str], list[str]]`: The tables, the columns of `categorical` that are
        left, and notes on what was changed.
    """
    tables = plain_tables(tables, categorical)
    train = next(iter(tables.values()))
    prepared = {name: table.reset_index(drop=True) for name, table in tables.items()}
    notes = []
    for field in RecordSchema.infer(train, categorical or (), MAX_CATEGORIES):
        if field.type == "null":
            notes.append(f"column {field.name!r} has no value in the training table, and is left out")
            prepared = {name: table.drop(columns=field.name) for name, table in prepared.items()}
            continue
        if field.type == "text":
            notes.append(f"column {field.name!r} holds texts, which count by their number of characters")
        if field.type in ("category", "text") and not pd_types.is_numeric_dtype(train[field.name]):
            numeric = [name for name, table in prepared.items() if pd_types.is_numeric_dtype(table[field.name])]
            if numeric and field.name not in (categorical or ()):
                notes.append(
                    f"column {field.name!r} holds numbers in `{numeric[0]}`, but texts in the training table, and is "
                    "no number therefore; mend these texts, or name it in `categorical`"
                )
        if field.words:
            notes.append(
                f"column {field.name!r}: {', '.join(map(repr, field.words))} among {field.type}s count as missing"
            )
        for name, table in prepared.items():
            values = table[field.name]
            if field.type == "text":
                values = values.astype("string").str.len()
            elif field.is_spelled and not pd_types.is_numeric_dtype(values):
                values = field.read(values)
                if name != "synthetic" and (lost := values.isna() & (field.index_apart(table[field.name]) < 0)).any():
                    value = table[field.name][lost].iloc[0]
                    raise ValueError(
                        f"column {field.name!r}: {value!r} in `{name}` is no {field.type} in the format "
                        f"{field.format!r} of the training table; mend it, or name the column in `categorical`"
                    )
                values = values if field.type == "datetime" else values.astype("float64")
            elif field.type in ("integer", "number", "datetime"):
                numbers = to_numbers(values, train[field.name])
                numbers = numbers.where(numbers.abs() <= LARGEST)
                if name == "synthetic":
                    values = values.where(numbers.notna())
                check_numbers(pd.concat({name: numbers}), pd.concat({name: values}))
                values = values if field.type == "datetime" else numbers
            if (lost := values.isna() & (field.index_apart(table[field.name]) < 0)).any():
                example = table[field.name][lost].tolist()[0]
                notes.append(
                    f"column {field.name!r}: {lost.sum()} synthetic values, such as {example!r}, are no "
                    f"{field.type}s, and count as missing"
                )
            if values.isna().all():
                notes.append(f"column {field.name!r} has no {name} value; column shapes and pair trends leave it out")
            prepared[name] = table.assign(**{field.name: values})
    return prepared, [name for name in categorical or () if name in prepared["train"]], notes
