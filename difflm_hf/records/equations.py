"""Numbers that follow from others."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .field import Field
from .rules import Rule, read_names, read_numbers


@dataclass(frozen=True)
class Equation(Rule):
    """A number that follows from others, to its own decimals, and is null where one of them is."""

    total: str
    parts: tuple[str, ...]

    types = ("integer", "number")

    def __post_init__(self):
        object.__setattr__(self, "parts", read_names(self.parts, 1))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.total, *self.parts)

    @property
    def derived(self) -> tuple[str, ...]:
        return self.columns

    @abstractmethod
    def _combine(self, numbers: list[np.ndarray]) -> np.ndarray:
        """The total of the parts' numbers."""

    @abstractmethod
    def _left(self, total: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The number of a part, from the total and what all other parts make; NaN where there is none."""

    def check(self, fields: Mapping[str, Field]) -> None:
        super().check(fields)
        if wordy := [name for name in self.columns if fields[name].words]:
            raise ValueError(f"{self}: column {wordy[0]!r} has words among its numbers, which no others make")
        if any(fields[name].nullable for name in self.parts) and not fields[self.total].nullable:
            raise ValueError(f"{self}: column {self.total!r} cannot be null, and its parts can")

    def solve(
        self, name: str, table: pd.DataFrame, fields: Mapping[str, Field]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        The numbers of one column, from all the others.

        Args:
            name (`str`): The column.
            table (`pandas.DataFrame`): Records.
            fields (`Mapping[str, Field]`): Their fields by name.

        Returns:
            Numbers, in which records there are any, and in which there must be null, each of shape `(num_records,)`.
        """
        f, names = fields[name], [column for column in self.columns if column != name]
        numbers, given = zip(*(read_numbers(fields[column], table[column]) for column in names))
        given = np.logical_and.reduce(given)
        if name == self.total:
            values, null = self._combine(list(numbers)), ~given
        else:
            ones = np.full(len(table), self._combine([]))
            values, null = self._left(numbers[0], self._combine([ones, *numbers[1:]])), np.zeros(len(table), bool)
            given &= np.isfinite(values)
            values = np.where(given, values, 0)
        if f.type == "integer" and values.dtype.kind == "f":
            values = np.rint(values).astype(np.int64)
        elif f.type == "number" and f.decimals is not None:
            values = np.round(values, f.decimals)
        return values, given, null

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        f = fields[self.total]
        numbers, given = zip(*(read_numbers(fields[name], table[name]) for name in self.parts))
        values, given = self._combine(list(numbers)), np.logical_and.reduce(given)
        own, has_own = read_numbers(f, table[self.total])
        if f.decimals is None:
            close = np.isclose(own, values, rtol=1e-12, atol=0)  # of sums in binary, the last digit may differ
        elif values.dtype.kind != "f":
            close = own == values
        else:  # rounded up or down
            close = np.abs(own - values) <= (0.5 + 1e-6) * 10.0**-f.decimals
        return (has_own == given) & (~given | close)


@dataclass(frozen=True)
class SumOf(Equation):
    """
    A number that is the sum of others.

    Args:
        total (`str`): The column of the sum.
        parts (`Sequence[str]`): The columns of the terms; of one alone, it is a copy.
    """

    def _combine(self, numbers: list[np.ndarray]) -> np.ndarray:
        return sum(numbers)

    def _left(self, total: np.ndarray, others: np.ndarray) -> np.ndarray:
        return total - others


@dataclass(frozen=True)
class ProductOf(Equation):
    """
    A number that is the product of others.

    Args:
        total (`str`): The column of the product.
        parts (`Sequence[str]`): The columns of the factors.
    """

    def _combine(self, numbers: list[np.ndarray]) -> np.ndarray:
        return math.prod(numbers)

    def _left(self, total: np.ndarray, others: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return total / others


def solve_equations(
    rules: Sequence[Equation],
    table: pd.DataFrame,
    fields: Mapping[str, Field],
    known: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """
    A table in which sums and products are right, if they can be. Column after column stays as it is, and what then
    follows from these by a rule takes its place.

    Args:
        rules (`Sequence[Equation]`): The rules.
        table (`pandas.DataFrame`): Records.
        fields (`Mapping[str, Field]`): Their fields by name.
        known (`Mapping[str, np.ndarray]`, *optional*):
            Values that stay, as a `bool` array of shape `(num_records,)` for each column.
    """
    columns = list(dict.fromkeys(name for rule in rules for name in rule.columns))
    settled = {name: np.zeros(len(table), bool) if known is None else known[name].copy() for name in columns}
    totals = {rule.total for rule in rules}
    depths = dict.fromkeys(columns, 0)
    for rule in itertools.chain(*[rules] * len(rules)):  # as often as sums may be parts of sums
        depths |= {part: max(depths[part], depths[rule.total] + 1) for part in rule.parts}
    # Totals follow from their parts, and integers are seldom what is left of others.
    columns.sort(key=lambda name: (name in totals, -depths[name], fields[name].type != "integer"))
    for name in [None, *columns]:
        if name is not None:
            settled[name][:] = True
        is_done = False
        while not is_done:
            is_done = True
            for rule in rules:
                num_open = sum(~settled[column] for column in rule.columns)
                for column in rule.columns:
                    if (rows := (num_open == 1) & ~settled[column]).any():
                        values, given, null = rule.solve(column, table, fields)
                        solved = fields[column].to_series(values, null).set_axis(table.index)
                        table = table.assign(**{column: _replaced(table[column], solved, rows & (given | null))})
                        settled[column] |= rows
                        is_done = False
    return table


def _replaced(column: pd.Series, other: pd.Series, rows: np.ndarray) -> pd.Series:
    """A column with the values of another one in some rows."""
    return other if rows.all() else column.astype(object).where(~rows, other.astype(object)).astype(column.dtype)
