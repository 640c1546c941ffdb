"""Columns whose values ascend in every list, such as times, told by the gaps between neighbours."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from .field import Field
from .inference import infer_field
from .plain_values import from_plain


MAX_CHANCE = 1e-6  # that as many lists ascend if each is in random order
MAX_UNITS = 2**53
MAX_RANGE = 2**62


@dataclass
class OrderedColumn:
    """
    A column of numbers or datetimes that ascends in every list.

    Args:
        field ([`Field`]): That of its values.
        first, last (`int`): The smallest and the largest of all, in steps of the last digit or nanoseconds.
        unit (`int`): What all gaps are multiples of.
    """

    field: Field
    first: int
    last: int
    unit: int

    @classmethod
    def find(cls, name: str, column: pd.Series, lists: np.ndarray) -> OrderedColumn | None:
        """
        The column, if it ascends in every list, and not by chance.

        Args:
            name (`str`): Its name.
            column (`pd.Series` of length `num_items`): Its values.
            lists (`np.ndarray` of shape `(num_items,)`): The list that each is in; they ascend.
        """
        if column.isna().any() or column.map(type).eq(bool).any():
            return None
        f = infer_field(name, column)
        if not f.is_numeric or f.words or (f.type == "number" and f.decimals is None):
            return None
        steps = _to_steps(f, column)
        if len(steps) == 0 or int(steps.max()) - int(steps.min()) > MAX_RANGE:
            return None
        gaps = np.diff(steps)[lists[1:] == lists[:-1]]
        if len(gaps) == 0 or gaps.min() < 0 or gaps.max() == 0:
            return None
        # Of the orders of each list, those that differ only in equal values are the same.
        sizes = pd.Series(lists).value_counts().to_numpy()
        ties = pd.DataFrame({"list": lists, "value": steps}).value_counts().to_numpy()
        if gammaln(sizes + 1).sum() - gammaln(ties + 1).sum() < -math.log(MAX_CHANCE):
            return None
        first = int(steps.min())
        unit = int(np.gcd.reduce(np.concatenate([gaps, steps - first])))
        return cls(f, first, int(steps.max()), unit) if (steps.max() - first) // unit < MAX_UNITS else None

    def to_gaps(self, column: pd.Series, lists: np.ndarray) -> pd.Series:
        """
        What each value adds to the one before it in its list, the first one to the smallest of all, in units.

        Raises:
            `ValueError`: for values that descend, or lie between two units.
        """
        steps = _to_steps(self.field, column)
        gaps = np.diff(steps, prepend=self.first)
        starts = np.diff(lists, prepend=-1) != 0
        gaps[starts] = steps[starts] - self.first
        if len(gaps) and gaps.min() < 0:
            row = int(gaps.argmin())
            what = "before all of the training data" if starts[row] else "below the one before it in its list"
            raise ValueError(f"{column.iloc[row]!r} is {what}; sort the list, or drop the record")
        if (gaps % self.unit).any():
            value = column.iloc[int((gaps % self.unit).argmax())]
            raise ValueError(f"{value!r} lies between two steps of {self.unit}, which all data were multiples of")
        return pd.Series((gaps // self.unit).tolist(), dtype=object)

    def from_gaps(self, gaps: pd.Series, lists: np.ndarray) -> pd.Series:
        """The inverse of [`OrderedColumn.to_gaps`]; what adds up to more than the largest of all is that."""
        totals = gaps.to_numpy(np.int64).cumsum()
        starts = np.searchsorted(lists, lists)
        before = np.concatenate([[0], totals])[starts] if len(totals) else totals
        # As floats, too: what adds up to more than 64 bits is beyond the last in any case.
        most = (self.last - self.first) // self.unit
        is_beyond = gaps.astype(float).groupby(lists).cumsum().to_numpy() >= most
        steps = self.first + np.where(is_beyond, most, totals - before) * self.unit
        f = self.field
        if f.type == "datetime":
            values = steps.astype("datetime64[ns]")
        else:
            values = steps if f.type == "integer" else np.round(steps / 10.0**f.decimals, f.decimals)
        return f.to_series(values, np.zeros(len(values), bool))

    def to_dict(self) -> dict[str, Any]:
        """The column as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> OrderedColumn:
        """A column of what `to_dict` gave."""
        return cls(from_plain(Field, state["field"]), state["first"], state["last"], state["unit"])


def _to_steps(f: Field, column: pd.Series) -> np.ndarray:
    numbers = f.to_numpy(column)
    if f.type == "number":
        numbers = np.rint(numbers * 10.0**f.decimals)
    return numbers.astype(np.int64)
