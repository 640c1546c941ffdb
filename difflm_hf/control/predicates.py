"""What the user asks of one field."""

from __future__ import annotations

import difflib
import functools
import math
import operator
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types as pd_types

from ..checks import shown
from ..records import Field
from ..records.numbers import Grid


FREE = -1  # in place of a domain, for rows of which all values are left


@dataclass(frozen=True)
class Between:
    """
    A range of a number or a datetime, as `pandas.Series.between` takes it.

    Args:
        left, right (*optional*): The bounds; `None` for none.
        inclusive (`str`, defaults to `"both"`): Which bounds belong to it: `"both"`, `"neither"`, `"left"`, `"right"`.
    """

    left: Any = None
    right: Any = None
    inclusive: Literal["both", "neither", "left", "right"] = "both"

    def __post_init__(self):
        if self.inclusive not in ("both", "neither", "left", "right"):
            raise ValueError(f"inclusive={shown(self.inclusive)} is not one of 'both', 'neither', 'left', 'right'")


@dataclass(frozen=True)
class Not:
    """
    All values but those that satisfy a condition. Nulls are among them, unless the condition is for these.

    Args:
        condition: A value, a list of values, `None`, or a predicate.
    """

    condition: Any


@dataclass(frozen=True)
class AllOf:
    """
    What satisfies all of several conditions.

    Args:
        conditions (`tuple`): The conditions.
    """

    conditions: tuple[Any, ...]


@dataclass(frozen=True)
class StartsWith:
    """
    Strings with a beginning.

    Args:
        prefix (`str`): The beginning.
    """

    prefix: str


@dataclass(frozen=True)
class Contains:
    """
    Strings with a text somewhere in them.

    Args:
        text (`str`): The text.
    """

    text: str


@dataclass(frozen=True)
class Matches:
    """
    What a JSON Schema accepts of fields of documents, but for null.

    Args:
        json_schema (`dict`):
            A JSON Schema (draft 2020-12), such as `{"minItems": 2}`. It may refer to `$defs` of the records' schema.
    """

    json_schema: dict[str, Any]


@dataclass
class Domain:
    """
    The values that a condition leaves of a field.

    Args:
        null (`bool`): Whether null is one of them.
        words (`frozenset[str]`): Which words among numbers are.
        choices (`np.ndarray` of shape `(num_choices,)`, bool, *optional*): Of a category or a boolean.
        intervals (`list[tuple[int, int]]`, *optional*):
            Of a number, a datetime or categories by the thousand: grid points, both ends inclusive, ascending, apart
            from each other.
    """

    null: bool
    choices: np.ndarray | None = None
    intervals: list[tuple[int, int]] | None = None
    words: frozenset[str] = frozenset()

    def has(self, mark: str | None) -> bool:
        """Whether null, or a word, is one of them."""
        return self.null if mark is None else mark in self.words

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for domains of a field that have the same values, and only for these."""
        choices = None if self.choices is None else self.choices.tobytes()
        return self.null, self.words, choices, tuple(self.intervals or ())

    @property
    def is_empty(self) -> bool:
        """Whether no value is left."""
        left = self.intervals if self.choices is None else self.choices.any()
        return not (self.null or self.words or left)

    def __and__(self, other: Domain) -> Domain:
        if self.choices is not None:
            return Domain(self.null and other.null, self.choices & other.choices)
        pairs = ((max(a, c), min(b, d)) for a, b in self.intervals for c, d in other.intervals)
        return Domain(self.null and other.null, None, _merge(pairs), self.words & other.words)

    @staticmethod
    def union(domains: Sequence[Domain]) -> Domain:
        """All values of domains of a field."""
        null = any(domain.null for domain in domains)
        if domains[0].choices is not None:
            return Domain(null, np.logical_or.reduce([domain.choices for domain in domains]))
        intervals = _merge(interval for domain in domains for interval in domain.intervals)
        return Domain(null, None, intervals, frozenset().union(*(domain.words for domain in domains)))

    def complement(self, field: Field, grid: Grid | None) -> Domain:
        """All other values of the field."""
        null = field.nullable and not self.null
        if self.choices is not None:
            return Domain(null, ~self.choices)
        starts = [0, *(end + 1 for _, end in self.intervals)]
        ends = [*(start - 1 for start, _ in self.intervals), grid.size - 1]
        return Domain(null, None, _merge(zip(starts, ends)), frozenset(field.words or []) - self.words)


@dataclass
class RowDomains:
    """
    The values that conditions leave of a field, row by row.

    Args:
        distinct (`list[Domain]`): Domains, each once.
        which (`np.ndarray` of shape `(num_rows,)`): That of each row; −1 where all values are left.
    """

    distinct: list[Domain]
    which: np.ndarray

    @classmethod
    def of(cls, domains: Sequence[Domain | None]) -> RowDomains:
        """Those of rows, `None` where all values are left."""
        places: dict[Any, int] = {}
        distinct: list[Domain] = []
        which = np.full(len(domains), FREE)
        for row, domain in enumerate(domains):
            if domain is not None:
                which[row] = places.setdefault(domain.key, len(distinct))
                if which[row] == len(distinct):
                    distinct.append(domain)
        return cls(distinct, which)

    def take(self, rows: slice | np.ndarray) -> RowDomains:
        """Those of some rows."""
        return replace(self, which=self.which[rows])

    def intervals(self, grid: Grid) -> np.ndarray:
        """
        The grid points of each domain, and of all values as the last one, of shape
        `(num_distinct + 1, num_intervals, 2)`, `uint64`, filled up with intervals that end before they start.
        """
        of_each = [*(domain.intervals for domain in self.distinct), [(0, grid.size - 1)]]
        padded = np.empty((len(of_each), max(map(len, of_each)), 2), np.uint64)
        padded[:] = 1, 0
        for place, intervals in enumerate(of_each):
            padded[place, : len(intervals)] = to_array(intervals)
        return padded


def to_array(intervals: list[tuple[int, int]]) -> np.ndarray:
    """Grid points, of shape `(num_intervals, 2)`, `uint64`."""
    return np.array(intervals, np.uint64).reshape(-1, 2)


def domain_of(condition: Any, field: Field, grid: Grid | None) -> Domain:
    """
    The values that a condition leaves of a field.

    Args:
        condition: A value, a list of values, `None` for null, or a predicate.
        field (`Field`): The field.
        grid (`Grid`, *optional*): Of a number, or of categories by the thousand.

    Raises:
        `ValueError`: for a value that the field cannot have, and a predicate that does not fit its type.
    """
    if isinstance(condition, Not):
        return domain_of(condition.condition, field, grid).complement(field, grid)
    if isinstance(condition, AllOf):
        return functools.reduce(operator.and_, (domain_of(c, field, grid) for c in condition.conditions))
    if isinstance(condition, Between):
        if not field.is_numeric:
            raise ValueError(
                f"a range is for numbers and datetimes, and this is a {field.type}; give a list of values"
            )
        return Domain(False, intervals=_interval(condition, field, grid))
    if isinstance(condition, (StartsWith, Contains)):
        is_start = isinstance(condition, StartsWith)
        text = condition.prefix if is_start else condition.text
        if field.type != "category" or not isinstance(text, str):
            raise ValueError(f"{shown(condition)} is for categories that are strings, not a {field.type}")
        choices = np.array([str(c).startswith(text) if is_start else text in str(c) for c in field.categories])
        if not choices.any():
            raise ValueError(f"no category {'starts with' if is_start else 'contains'} {shown(text)}")
        return _of_choices(choices, grid)
    if isinstance(condition, dict):
        raise ValueError(f"{shown(condition)} is no value, list of values or predicate")
    if (
        isinstance(condition, Iterable)
        and not isinstance(condition, (str, bytes))
        and getattr(condition, "ndim", 1) > 0
    ):
        values = list(condition)
        if not values:
            raise ValueError("an empty list leaves no value; give the values that are wanted")
        return Domain.union([domain_of(value, field, grid) for value in values])
    try:
        hash(condition)
    except TypeError as error:
        raise ValueError(f"{shown(condition)} is no value of a row, list of values or predicate") from error
    if is_null(condition):
        if not field.nullable:
            raise ValueError("null is none of its values; ask for others")
        return Domain(True, intervals=[]) if grid is not None else Domain(True, np.zeros(_num_choices(field), bool))
    if condition in (field.words or []):
        return Domain(False, intervals=[], words=frozenset([condition]))
    if field.is_numeric:
        points = _interval(Between(condition, condition), field, grid)
        if not points:
            low, high = grid.decode(field, np.array([0, grid.size - 1], np.uint64))
            raise ValueError(
                f"{shown(condition)} is not a value between {low} and {high} at the precision of the data; ask for a "
                "Between(...), or for another value"
            )
        return Domain(False, intervals=points)
    if field.type == "boolean" and isinstance(condition, str):  # as a CSV writes it
        words = (field.format or "False/True").split("/")
        condition = words.index(condition) == 1 if condition in words else condition
    index = field.index(pd.Series([condition], dtype=object))
    if index[0] < 0:
        raise ValueError(f"{shown(condition)} is not {field.description}{_nearest(condition, field)}")
    return _of_choices(np.arange(_num_choices(field)) == index[0], grid)


def _of_choices(choices: np.ndarray, grid: Grid | None) -> Domain:
    """Some categories; of those by the thousand, which have a grid, as points of it."""
    if grid is None:
        return Domain(False, choices)
    edges = np.flatnonzero(np.diff(choices, prepend=False, append=False))
    return Domain(False, intervals=[(int(start), int(end) - 1) for start, end in zip(edges[::2], edges[1::2])])


def is_null(value: Any) -> bool:
    """Whether a condition is that for nulls."""
    return value is None or (pd_types.is_scalar(value) and bool(pd.isna(value)))


def _num_choices(field: Field) -> int:
    return len(field.categories) if field.type == "category" else 2


def _nearest(value: Any, field: Field) -> str:
    names = [str(category) for category in field.categories or [False, True]]
    near = difflib.get_close_matches(str(value), names, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f", such as {', '.join(map(repr, names[:5]))}"


def _interval(condition: Between, field: Field, grid: Grid) -> list[tuple[int, int]]:
    """The grid points of a range, as at most one interval."""
    start, end = 0, grid.size - 1
    if condition.left is not None:
        start = _first_point(condition.left, field, grid, condition.inclusive in ("both", "left"))
    if condition.right is not None:
        end = _first_point(condition.right, field, grid, condition.inclusive not in ("both", "right")) - 1
    return _merge([(start, end)])


def is_reversed(condition: Any, field: Field) -> bool:
    """Whether a condition is of ranges, and a left bound of these is above a right one."""
    ranges = condition.conditions if isinstance(condition, AllOf) else [condition]
    if not all(isinstance(of, Between) for of in ranges):
        return False
    lefts, rights = (
        [_to_bound(bound, field) for of in ranges if (bound := getattr(of, end)) is not None]
        for end in ("left", "right")
    )
    return bool(lefts and rights and max(lefts) > min(rights))


def _first_point(value: Any, field: Field, grid: Grid, is_inclusive: bool) -> int:
    """The first grid point whose value is not below a bound, or is above it; `grid.size` if there is none."""
    bound, low, high = _to_bound(value, field), 0, grid.size
    while low < high:
        middle = (low + high) // 2
        found = grid.decode(field, np.array([middle], np.uint64))[0]
        if found > bound or (is_inclusive and found == bound):
            high = middle
        else:
            low = middle + 1
    return low


def _to_bound(value: Any, field: Field) -> Any:
    """A bound that values of the field compare with; a text where these are texts."""
    if field.is_spelled and isinstance(value, str):
        read = field.read(pd.Series([value])).iloc[0]
        value = value if pd.isna(read) else read
    if field.type == "datetime":
        try:
            if pd_types.is_number(value):  # which pandas takes for nanoseconds
                raise ValueError
            if field.is_spelled and isinstance(value, str):
                raise ValueError
            moment = pd.Timestamp(pd.to_datetime(value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{shown(value)} is not {field.description}") from error
        if moment is pd.NaT:
            raise ValueError(f"{shown(value)} is not {field.description}")
        if moment.tz is not None:
            moment = moment.tz_convert("UTC").tz_localize(None)
        return moment.to_datetime64()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, np.number)) or value != value:
        raise ValueError(f"{shown(value)} is not {field.description}")
    if isinstance(value, (np.float16, np.float32)):
        return float(str(value))  # the digits of the data
    # What no float holds is beyond all of them.
    return value if abs(value) <= sys.float_info.max else math.inf if value > 0 else -math.inf


def _merge(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Intervals in order, without empty ones, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(i for i in intervals if i[0] <= i[1]):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
