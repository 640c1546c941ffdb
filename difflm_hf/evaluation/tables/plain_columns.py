"""Tables in the dtypes of NumPy, whichever of pandas' many ones their values came in."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types as pd_types


MOMENTS = ("date", "datetime", "datetime64", "period")  # as `infer_dtype` calls them
REFUSED = {  # and what metrics could take in their place
    "interval": "column.map(str, na_action='ignore')",
    "timedelta": "pd.to_timedelta(column).dt.total_seconds()",
    "timedelta64": "pd.to_timedelta(column).dt.total_seconds()",
    "complex": "column.map(abs)",
    "bytes": "column.map(bytes.decode, na_action='ignore')",
    "nested": "column.map(str, na_action='ignore')",
}


def plain_tables(tables: dict[str, pd.DataFrame], categorical: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """
    Tables with the columns of the first one, each as [`plain_column`] has it.

    Args:
        tables (`dict[str, pandas.DataFrame]`): The tables by name.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Raises:
        `ValueError`: when a table is empty, columns do not match, or a column is of a dtype that no metric takes.
    """
    reference, real = next(iter(tables.items()))
    for name, table in tables.items():
        if table.empty:
            raise ValueError(f"`{name}` is empty; pass at least one row and one column")
        if missing := [column for column in real if column not in table]:
            raise ValueError(f"`{name}` lacks {missing} of `{reference}`; add these columns, or drop them there")
        if extra := [column for column in table if column not in real]:
            raise ValueError(f"`{name}` has columns {extra} that `{reference}` lacks; drop them, or add them there")
    if unknown := [column for column in categorical or () if column not in real]:
        raise ValueError(f"`categorical` names {unknown}; choose from the columns {list(real)}")
    tables = {name: plain_table(table, name) for name, table in tables.items()}
    if tables[reference].isna().all(axis=None):
        raise ValueError(f"`{reference}` has no values; pass rows that have some")
    return tables


def plain_table(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table with each column as [`plain_column`] has it; `name` is what errors call the table."""
    if not table.columns.is_unique:
        double = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"column {double!r} stands more than once in `{name}`; rename or drop one of them")
    plain = table.copy(deep=False)
    for column in plain:
        try:
            plain[column] = plain_column(table[column])
        except ValueError as error:
            raise ValueError(f"column {column!r} of `{name}` has dtype {table[column].dtype}: {error}") from error
    return plain


def plain_column(column: pd.Series) -> pd.Series:
    """
    A column as NumPy would hold its values, so that equal values count alike in every dtype.

    Numbers are int64 or, with fractions or nulls, float64; short floats the numbers that they are written as. Texts
    and times of day are strings. Dates, periods, by their start, and datetimes are datetime64[ns], or [us] beyond the
    years of that, in UTC if they have a time zone. Columns of dtype `category` keep it, since it says what numbers do
    not, and lose the categories that no row has. What is of mixed types stays as it is.

    Raises:
        `ValueError`: for intervals, differences of times, and whatever else no metric takes.
    """
    if isinstance(column.dtype, pd.SparseDtype):
        column = column.sparse.to_dense()
    dtype, values = column.dtype, column
    if isinstance(dtype, np.dtype) and dtype.kind in "biu":
        return column
    if pd_types.is_float_dtype(dtype):
        numbers = column.to_numpy(f"f{dtype.itemsize}", na_value=np.nan)
        numbers = numbers.astype(str) if dtype.itemsize < 8 else numbers
        return pd.Series(numbers.astype(np.float64), index=column.index, name=column.name)
    if isinstance(dtype, pd.DatetimeTZDtype) or (isinstance(dtype, np.dtype) and dtype.kind == "M"):
        return _moments(column, is_aware=isinstance(dtype, pd.DatetimeTZDtype))
    is_category = isinstance(dtype, pd.CategoricalDtype)
    if is_category:
        categories = plain_column(column.cat.categories.to_series().reset_index(drop=True))
        values = categories.astype(object).reindex(column.cat.codes).set_axis(column.index).rename(column.name)
    elif isinstance(dtype, pd.ArrowDtype) and pa.types.is_dictionary(dtype.pyarrow_dtype):
        return plain_column(column.astype(object).astype("category"))
    values = values.astype(object).where(values.notna(), None)
    kind = pd_types.infer_dtype(values.dropna())
    if kind.startswith("mixed") and any(isinstance(value, (dict, list, tuple, np.ndarray)) for value in values):
        kind = "nested"
    if kind in REFUSED:
        raise ValueError(f"{kind} values, which no metric takes; convert it, e.g. by {REFUSED[kind]}")
    if kind in MOMENTS:
        values = _moments(values, any(getattr(value, "tzinfo", None) is not None for value in values))
    elif kind == "time":
        values = values.map(str, na_action="ignore")
    elif kind in ("boolean", "integer", "floating", "mixed-integer-float", "decimal"):
        values = _numbers(values)
    # Bools are categories anyway.
    return values.astype("category") if is_category and kind != "boolean" else values


def _numbers(values: pd.Series) -> pd.Series:
    plain = [_from_decimal(value) if isinstance(value, Decimal) else value for value in values]
    values = pd.Series(plain, index=values.index, name=values.name, dtype=object)
    numbers = values.infer_objects()
    # Beside nulls integers become floats, which long identifiers do not fit into.
    return numbers if ((numbers == values) | values.isna()).all() else values


def _from_decimal(value: Decimal) -> int | float:
    """An integer where the column is one of integers: a Decimal knows how many decimals it has."""
    return int(value) if value.as_tuple().exponent == 0 else float(value)


def _moments(values: pd.Series, is_aware: bool) -> pd.Series:
    if values.dtype == object:
        values = values.map(lambda value: value.start_time if isinstance(value, pd.Period) else value)
    try:
        moments = pd.to_datetime(values, utc=True).dt.as_unit("ns")
    except pd.errors.OutOfBoundsDatetime:
        return values.astype("datetime64[us, UTC]" if is_aware else "datetime64[us]")
    return moments if is_aware else moments.dt.tz_localize(None)
