"""Rules that hold in data, and hardly by chance."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from .equations import Equation, ProductOf, SumOf
from .field import Field
from .identifiers import Identifier
from .rules import Ascending, Combinations, PresentIf, Rule, read_numbers


MIN_ROWS = 50  # in which a rule is seen to hold
MAX_CHANCE = 0.95  # share of rows in which it may hold between columns that are shuffled
MAX_VALUES = 512  # distinct ones of a column that combines with others
MIN_COUNT = 10  # rows for each of them, in the mean
NUM_SHUFFLES = 3  # of columns, for how often a rule holds by chance
NUM_SAMPLES = 200  # rows that most candidates fail in
DIGITS = re.compile("[0-9]+")


def search_rules(table: pd.DataFrame, fields: Mapping[str, Field]) -> list[Rule]:
    """
    The rules that all rows of a table keep, and that would not hold if each column were shuffled: identifiers, sums
    and products of two columns, ascending numbers and datetimes, values that determine those of another column, and
    values with which another column is null.

    Args:
        table (`pandas.DataFrame`): The data, which conforms to the fields.
        fields (`Mapping[str, Field]`): The fields by name.
    """
    if len(table) < MIN_ROWS:
        return []
    identifiers = [rule for f in fields.values() if (rule := find_identifier(f, table[f.name])) is not None]
    left = {name: f for name, f in fields.items() if name not in {rule.name for rule in identifiers}}
    derived = [*_derived(table, left)]
    present = [*_present(table, left)]
    # What a value says of whether another is null, is said.
    said = {frozenset(rule.columns) for rule in present}
    combinations = [rule for rule in _combinations(table, left) if frozenset(rule.columns) not in said]
    return [*identifiers, *derived, *_ascending(table, left, derived), *combinations, *present]


def find_identifier(f: Field, column: pd.Series) -> Identifier | None:
    """The rule of a column that tells rows apart and says nothing else, or `None`."""
    if f.nullable or f.type not in ("integer", "text") or not column.is_unique:
        return None
    if f.type == "integer":
        # Numbers that are distinct by chance lie far apart.
        is_dense = f.maximum - f.minimum < 10 * len(column)
        return Identifier(f.name) if is_dense and column.is_monotonic_increasing else None
    # The same characters around as many digits each.
    shapes = {DIGITS.sub(lambda run: "\0" * len(run[0]), text) for text in column}
    if len(shapes) != 1 or "\0" not in (shape := shapes.pop()):
        return None
    parts = re.findall("\0+|[^\0]", shape)
    pattern = "".join(_escape(p) if p != "\0" * len(p) else r"\d" + f"{{{len(p)}}}" * (len(p) > 1) for p in parts)
    return Identifier(f.name, pattern)


def _escape(character: str) -> str:
    return re.escape(character) if character in r"\[]{}()*+?|^$." else character


def _derived(table: pd.DataFrame, fields: Mapping[str, Field]) -> Iterator[Equation]:
    names = [f.name for f in fields.values() if f.type in ("integer", "number") and f.minimum != f.maximum]
    sample = table.sample(min(NUM_SAMPLES, len(table)), random_state=0)
    columns = [read_numbers(fields[name], sample[name]) for name in names]
    numbers = (
        np.stack([np.where(given, values, np.nan).astype(float) for values, given in columns], 1) if names else None
    )
    # To half a unit; what is left is looked at exactly.
    units = np.array([1e-9 if fields[name].decimals is None else 10.0 ** -fields[name].decimals for name in names])
    # A part that is mostly 0 says little of a sum, and one that is mostly 1 of a product.
    idle = {
        kind: {n for n in names if (table[n] == value).mean() >= MAX_CHANCE}
        for kind, value in ((SumOf, 0), (ProductOf, 1))
    }
    zeros = {name for name in names if (table[name] == 0).mean() > 1 - MAX_CHANCE}  # anything times 0
    found: set[frozenset[str]] = set()
    for kind, combine in ((SumOf, np.add), (ProductOf, np.multiply)):
        for i, j in itertools.combinations(range(len(names)), 2):
            parts = (names[i], names[j])
            if idle[kind] & set(parts):
                continue
            distances = np.abs(combine(numbers[:, i], numbers[:, j])[:, None] - numbers)
            tolerance = units + 1e-9 * np.abs(numbers)
            for k in ((distances <= tolerance) | np.isnan(distances)).all(0).nonzero()[0]:
                total, involved = names[k], frozenset([names[k], *parts])
                if len(involved) < 3 or involved in found or (kind is ProductOf and total in zeros):
                    continue
                if any(fields[name].nullable for name in parts) and not fields[total].nullable:
                    continue
                rule = kind(total, parts)
                if rule.holds(table, fields).all():
                    found.add(involved)
                    yield rule


def _ascending(table: pd.DataFrame, fields: Mapping[str, Field], derived: list[Equation]) -> Iterator[Ascending]:
    follows: list[set[str]] = []  # columns whose order follows from sums and products
    for rule in derived:
        linked = [group for group in follows if group & set(rule.columns)]
        follows = [group for group in follows if group not in linked] + [set(rule.columns).union(*linked)]
    names = [f.name for f in fields.values() if f.is_numeric and f.minimum != f.maximum]
    sample = table.sample(min(NUM_SAMPLES, len(table)), random_state=0)
    below: set[tuple[str, str]] = set()
    for low, high in itertools.permutations(names, 2):
        if (fields[low].type == "datetime") != (fields[high].type == "datetime"):
            continue
        if any({low, high} <= group for group in follows):
            continue
        rule, pair = Ascending((low, high)), table[[low, high]]
        is_given = pair.notna().all(axis=1)
        if is_given.sum() < MIN_ROWS or not rule.holds(sample, fields).all() or not rule.holds(table, fields).all():
            continue
        pair = pair[is_given]
        shuffled = [
            rule.holds(pair.assign(**{high: pair[high].sample(frac=1, random_state=k).set_axis(pair.index)}), fields)
            for k in range(NUM_SHUFFLES)
        ]
        if (chance := np.mean(shuffled)) < MAX_CHANCE and len(pair) * np.log(chance + 1e-9) < np.log(1e-6):
            below.add((low, high))
    below = {(low, high) for low, high in below if (high, low) not in below}  # those are equal
    for low, high in sorted(below, key=lambda pair: [names.index(name) for name in pair]):
        if not any((low, middle) in below and (middle, high) in below for middle in names):
            yield Ascending((low, high))


def _combinations(table: pd.DataFrame, fields: Mapping[str, Field]) -> Iterator[Combinations]:
    codes: dict[str, np.ndarray] = {}
    for f in fields.values():
        if f.type in ("category", "boolean", "integer"):
            column = table[f.name].astype(object).where(table[f.name].notna(), None)
            found, values = pd.factorize(column, use_na_sentinel=False)
            if 2 <= len(values) <= min(MAX_VALUES, len(table) / MIN_COUNT):
                codes[f.name] = found
    for a, b in itertools.combinations(codes, 2):
        num_a, num_b = codes[a].max() + 1, codes[b].max() + 1
        num_pairs = len(np.unique(codes[a] * np.int64(num_b) + codes[b]))
        if num_pairs not in (num_a, num_b):  # no value of one determines that of the other
            continue
        shuffled = np.random.default_rng(0).permutation(codes[b])
        if (pd.Series(shuffled).groupby(codes[a]).nunique() > 1).any() and _is_varied(codes, a, b, num_pairs):
            yield Combinations((a, b))


def _is_varied(codes: Mapping[str, np.ndarray], a: str, b: str, num_pairs: int) -> bool:
    """Whether columns are not as good as constant: as independent ones, they would have more pairs."""
    counts = [np.bincount(codes[name]) / len(codes[name]) for name in (a, b)]
    expected = np.outer(*counts).ravel() * len(codes[a])
    return bool((expected >= 1).sum() > 1.05 * num_pairs)


def _present(table: pd.DataFrame, fields: Mapping[str, Field]) -> Iterator[PresentIf]:
    for f, other in itertools.permutations(fields.values(), 2):
        if not f.nullable or f.type == "null" or other.type not in ("category", "boolean"):
            continue
        given, values = table[f.name].notna(), other.categories if other.type == "category" else [False, True]
        column = table[other.name].astype(object)
        present = [value for value in values if given[column == value].any()]
        is_absent = ~column.isin(present)
        if given[is_absent].any():  # where the other is null
            continue
        num_absent = int(is_absent.sum())
        # By chance all of these would be null in no more than one of a million tables.
        if num_absent >= MIN_ROWS and num_absent * np.log(max((~given).mean(), 1e-300)) < np.log(1e-6):
            yield PresentIf(f.name, other.name, tuple(present))
