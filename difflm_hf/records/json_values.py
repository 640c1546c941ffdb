"""The values of columns as JSON has them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .field import Field, isoformat
from .nested import order_keys, to_plain


def to_json_values(f: Field, column: pd.Series) -> list:
    """The values of a column as JSON has them."""
    null = column.isna().to_numpy()
    values = column[~null]
    if f.is_spelled:
        values = values.astype(str)
    elif f.type in ("integer", "number"):
        values = f.to_numpy(values)
    elif f.type == "boolean":
        values = values.astype(bool)
    elif f.type == "json":
        values = pd.Series([order_keys(to_plain(value), f.json_schema) for value in values], dtype=object)
    elif f.type == "datetime":
        moments = pd.Series(f.to_numpy(values))
        if (zone := f.time_zone) is not None:
            moments = moments.dt.tz_localize("UTC").dt.tz_convert(zone)
        values = moments.map(isoformat)
    filled = np.full(len(column), None)
    # Element by element, since NumPy would take lists for dimensions.
    for position, value in zip(np.flatnonzero(~null), values.tolist()):
        filled[position] = value
    return filled.tolist()


def from_json_values(f: Field, column: pd.Series) -> pd.Series:
    """The column of what `to_json_values` gave, with the dtype of the field."""
    if f.type == "json":
        return column.reset_index(drop=True)
    apart = f.index_apart(column)
    given = apart < 0
    values = f.to_numpy(column[given]) if f.is_numeric else column[given].to_numpy()
    filled = np.zeros(len(column), values.dtype)
    filled[given] = values
    return f.with_words(f.to_series(filled, ~given), apart)
