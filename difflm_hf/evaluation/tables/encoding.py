"""Tables as numbers, for metrics that compute with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as pd_types
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from .plain_columns import plain_tables


MAX_ONE_HOT = 100  # rarer categories of a column share one dimension


def encode_tables(
    tables: dict[str, pd.DataFrame], categorical: Sequence[str] | None = None
) -> tuple[list[pd.DataFrame], list[str]]:
    """
    Turns tables into float64: categories into codes that all tables share, datetimes into seconds, missing values into
    NaN. Encoded tables may be encoded again: equal values stay equal, and in order.

    The first table, a real one, decides which columns are categorical (strings, bools and dtype category), datetimes,
    or numerical (all others). Columns of which it has no value are left out.

    Args:
        tables (`dict[str, pandas.DataFrame]`): The tables by name.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `tuple[list[pandas.DataFrame], list[str]]`: The encoded tables, and the names of the categorical columns.

    Raises:
        `ValueError`: when a table is empty, columns do not match, or a value is of another kind than its column. It
        names table, column and value.
    """
    tables = plain_tables(tables, categorical)
    real = next(iter(tables.values()))
    names = [name for name in real if real[name].notna().any()]
    categories = [name for name in names if name in (categorical or ()) or is_categorical(real[name])]
    encoded = {}
    for name in names:
        columns = {key: table[name].reset_index(drop=True) for key, table in tables.items()}
        if not all(pd_types.is_numeric_dtype(column) for column in columns.values()):
            columns = {key: column.astype(object) for key, column in columns.items()}
        values = pd.concat(columns)
        if name in categories:
            values = match_categories(values, real[name])
            codes = values.astype("category").cat.codes
            encoded[name] = codes.where(codes >= 0)
        else:
            encoded[name] = to_numbers(values, real[name])
            check_numbers(encoded[name], values)
    encoded = pd.DataFrame(encoded).astype(float)
    return [encoded.loc[key] for key in tables], categories


def is_categorical(column: pd.Series) -> bool:
    """Whether a column holds neither numbers nor datetimes."""
    is_number = pd_types.is_numeric_dtype(column) and not pd_types.is_bool_dtype(column)
    return not (is_number or pd_types.is_datetime64_any_dtype(column))


def to_numbers(values: pd.Series, like: pd.Series) -> pd.Series:
    """Values as numbers, or as seconds where `like` holds datetimes; NaN for what is missing or neither."""
    if pd_types.is_datetime64_any_dtype(like):
        times = pd.to_datetime(values, utc=True, errors="coerce")
        times = times.where(times.between(pd.Timestamp.min.tz_localize("UTC"), pd.Timestamp.max.tz_localize("UTC")))
        return (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return pd.to_numeric(values, errors="coerce").astype(float)


def check_numbers(numbers: pd.Series, values: pd.Series) -> None:
    """Raises a `ValueError` for a value, indexed by table and row, that is there but gave no number."""
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        table, row = wrong.idxmax()
        value = values.tolist()[wrong.argmax()]
        raise ValueError(
            f"column {values.name!r} holds numbers or datetimes, but {value!r} in row {row} of `{table}`; convert it, "
            "or name the column in `categorical`"
        )


def match_categories(values: pd.Series, known: pd.Series) -> pd.Series:
    """
    Values as the known ones that they are in writing: 4, 4.0 and "4" are one category, and so are True and "true".
    One text among numbers makes a file's whole column text, so that files of the same data differ.
    """
    known = pd.Index(known.dropna().unique(), dtype=object)
    strays = pd.Index(values.dropna().unique(), dtype=object).difference(known, sort=False)
    by_text = {_written(value): value for value in known}
    matches = {stray: by_text[_written(stray)] for stray in strays if _written(stray) in by_text}
    return values.map(lambda value: matches.get(value, value)) if matches else values


def _written(value: Any) -> str:
    text = str(value)
    return text.removesuffix(".0") if text not in ("True", "False") else text.lower()


def standardizer(columns: Sequence[str], categorical: Sequence[str], sparse: bool = False) -> ColumnTransformer:
    """A transformer, to be fitted, of encoded tables: numbers to mean 0 and variance 1, categories to one-hot."""
    numbers = [name for name in columns if name not in categorical]
    one_hot = OneHotEncoder(max_categories=MAX_ONE_HOT, handle_unknown="infrequent_if_exist", sparse_output=sparse)
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
            ("categories", one_hot, list(categorical)),
        ]
    )


def draw(table: pd.DataFrame, size: int, generator: np.random.Generator) -> pd.DataFrame:
    """At most `size` rows, without replacement."""
    return table.sample(min(len(table), size), random_state=generator)
