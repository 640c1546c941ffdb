"""What conditions mean of single fields, in the ids of a codec."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown
from ..records import CompactCodec
from ..records.field import Field, naming_column, shortest_digits
from ..records.field_tokens import FieldTokens
from .predicates import AllOf, Domain, domain_of, is_reversed, to_array
from .where import RowPredicate


def satisfies(codec: CompactCodec, name: str, domain: Domain) -> RowPredicate:
    f, grid = codec.schema[name], codec.tokens[name].grid

    def holds(table: pd.DataFrame) -> np.ndarray:
        apart = f.index_apart(table[name])
        given = apart < 0
        satisfied = np.array([*map(domain.has, f.apart), domain.null])[apart]
        values = table[name][given]
        if domain.choices is not None:
            satisfied[given] = domain.choices[f.index(values)]
        elif len(values):
            points, intervals = grid.encode(f, values)[:, None], to_array(domain.intervals)
            satisfied[given] = ((intervals[:, 0] <= points) & (points <= intervals[:, 1])).any(1)
        return satisfied

    return holds


def check_name(codec: CompactCodec, name: str) -> None:
    if name not in codec.schema.names:
        raise ValueError(f"no field {shown(name)} to put a condition on; the fields are {codec.schema.names}")
    if name not in codec.tokens:
        raise ValueError(
            f"column {name!r} is of type {codec.schema[name].type}, which takes no conditions; leave it out"
        )


def filler(codec: CompactCodec, name: str) -> Any:
    """Any value of a field, where none is known."""
    f, t = codec.schema[name], codec.tokens.get(name)
    if rule := codec.schema.identifiers.get(name):
        return rule.values(0, 0, 1, codec.schema.by_name)[0]
    if t is None:
        return "" if f.type == "text" and not f.nullable else None
    if t.grid is None:
        return t.values[0]
    point = t.values[:1] or t.bins.starts[:1]
    return values_at(f, t, point)[0]


def domain_of_field(codec: CompactCodec, name: str, conditions: list[Any]) -> Domain:
    """What conditions on a field leave of it."""
    check_name(codec, name)
    f = codec.schema[name]
    with naming_column(name):
        try:
            domain = domain_of(AllOf(tuple(conditions)), f, codec.tokens[name].grid)
        except RecursionError:
            raise ValueError("the condition is nested too deeply") from None
        if domain.is_empty:
            asked = conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))
            way = "widen the condition"
            if is_reversed(asked, f):
                way = "its bounds are reversed, so that nothing is between; swap them"
            raise ValueError(f"{shown(asked)} leaves no value of the field, {f.description}; {way}")
    return domain


def only_value(codec: CompactCodec, name: str, domain: Domain) -> list[Any]:
    """The value that a domain leaves of a field, in a list; nothing if there are several."""
    f, t = codec.schema[name], codec.tokens[name]
    values = [mark for mark in f.apart if domain.has(mark)]
    if domain.choices is not None:
        values += [t.values[k] for k in domain.choices.nonzero()[0]]
    elif domain.intervals:
        [start, end], *others = domain.intervals
        if values or others or start < end:
            return []
        values = values_at(f, t, [start])
    return values if len(values) == 1 else []


def nearest_values(codec: CompactCodec, name: str, column: pd.Series) -> pd.Series:
    """
    The values of a field that the codec has ids for and that lie nearest to given ones: of numbers the last not
    above them, or else the first. Words stay. Null where there are none, as for a category that was not seen.

    Raises:
        `ValueError`: for values of another type, naming column and value.
    """
    f, t = codec.schema[name], codec.tokens[name]
    apart = f.index_apart(column)
    given = apart < 0
    values = np.where(given, None, np.array([*f.apart, None], dtype=object)[apart])
    with naming_column(name):
        if not f.is_numeric:
            index = f.index(column[given])
            choices = np.array([*(f.categories or (False, True)), None], dtype=object)
            values[given] = choices[index]
        elif given.any():
            numbers = column[given]
            if f.type == "integer":
                if infinite := [number for number in numbers if isinstance(number, float) and math.isinf(number)]:
                    raise ValueError(f"{infinite[0]} is no number of the data; make it missing")
                numbers = numbers.map(lambda number: math.floor(number) if isinstance(number, float) else number)
            points = t.grid.floor(t.grid.units(f, f.to_numpy(numbers)))
            if t.bins is None:
                own = np.array(t.values, np.uint64)
                points = own[np.maximum(np.searchsorted(own, points, side="right") - 1, 0)]
            numbers = f.to_series(t.grid.decode(f, points), np.zeros(len(points), bool))
            values[given] = np.array(shortest_digits(numbers).tolist(), dtype=object)
    return pd.Series(values, index=column.index, dtype=object)


def first_bin(codec: CompactCodec, name: str) -> int:
    """The id of the first bin of a number."""
    t = codec.tokens[name]
    return t.start + len(codec.schema[name].apart) + len(t.values)


def allowed_ids(codec: CompactCodec, name: str, domain: Domain, sources: list[Domain | None]) -> list[bool]:
    """Which coarse ids of a field may stand for values of a domain, given what is left of those that it may repeat."""
    f, t = codec.schema[name], codec.tokens[name]
    apart = [domain.has(mark) for mark in f.apart]
    if domain.choices is not None:
        return [*apart, *domain.choices]
    intervals, own = to_array(domain.intervals), np.array(t.values, np.uint64)[:, None]
    ids = [*apart, *((intervals[:, 0] <= own) & (own <= intervals[:, 1])).any(1)]
    if t.bins is not None:
        ids += (t.bins.shares(intervals) > 0).any(1).tolist()
        ids += [is_inside(codec, source, left, name, domain) for source, left in zip(t.copies, sources)]
    return ids


def is_inside(codec: CompactCodec, source: str, left: Domain | None, name: str, domain: Domain) -> bool:
    """Whether all values that are left of a field lie in the domain of one that may repeat them."""
    if left is None or left.null or left.words:
        return False
    own, other = codec.tokens[name].grid, codec.tokens[source].grid
    ends = other.to_units(to_array(left.intervals))
    low, high = own.floor(ends[:, 0]), own.floor(ends[:, 1])
    return all(any(a <= x and y <= b for a, b in domain.intervals) for x, y in zip(low, high))


def values_at(f: Field, t: FieldTokens, points: list[int]) -> list[Any]:
    """The values at grid points, as they may stand in a table."""
    series = f.to_series(t.grid.decode(f, np.array(points, np.uint64)), np.zeros(len(points), bool))
    return shortest_digits(series).tolist()
