"""Rules between places of nested values, such as the price, the number and the total of each item of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown
from .equations import Equation, solve_equations
from .field import Field, naming_column
from .inference import infer_field
from .nested import to_plain
from .nested_tables import DrawnList, is_null
from .plain_values import from_plain
from .rules import Ascending, PresentIf, Rule


ITEMS = "[*]"
OF_LIST = re.compile(r"(len|sum)\((.+)\)")
KINDS = (Ascending, Equation, PresentIf)


@dataclass(frozen=True)
class PathColumn:
    """
    A column of a rule on paths.

    Args:
        name (`str`): Its name: `orders[*].price`, `len(orders)`, `sum(orders[*].price)`, or that of a field.
        steps (`tuple[str, ...]`): The way to it from the record on: keys, and `[*]` for all items of a list.
        function (`str`, *optional*): `"len"` or `"sum"`.
    """

    name: str
    steps: tuple[str, ...]
    function: str | None = None

    @classmethod
    def parse(cls, name: str, heads: Iterable[str]) -> PathColumn | None:
        """The column of a name, by the fields of the records; `None` for one that begins with none of them."""
        of_list = OF_LIST.fullmatch(name)
        function, path = of_list.groups() if of_list else (None, name)
        for head in sorted(heads, key=len, reverse=True):  # names of fields may have dots
            rest = path.removeprefix(head)
            if path.startswith(head) and (not rest or rest[0] in ".["):
                steps = rest.replace(ITEMS, f".{ITEMS}").split(".")[1:]
                return cls(name, (head, *steps), function) if all(steps) else None
        return None

    @property
    def base(self) -> tuple[str, ...]:
        """The way to what it is a column of: the record, or each item of a list."""
        last = max((place for place, step in enumerate(self.steps) if step == ITEMS), default=-1)
        return self.steps[: last + 1]

    def values(self, rows: Sequence[Any], base: tuple[str, ...]) -> list[Any]:
        """Its value in each row, `None` where there is none."""
        steps = self.steps[len(base) :]
        if self.function == "sum":
            found = ([v for _, v in walk(steps, [(0, row)]) if _is_number(v)] for row in rows)
            return [sum(numbers) for numbers in found]
        values = [_get(row, steps) for row in rows]
        if self.function == "len":
            return [len(value) if isinstance(value, (list, np.ndarray)) else None for value in values]
        return values

    def are_given(self, rows: Sequence[Any], base: tuple[str, ...]) -> np.ndarray:
        """In which rows its value is there, and none of the lists that it is of was drawn."""
        steps = self.steps[len(base) :]
        if self.function == "sum":
            return np.array([_is_sum_given(steps, row) for row in rows], bool)
        values = [_get(row, steps) for row in rows]
        return np.array([not (is_null(value) or isinstance(value, DrawnList)) for value in values], bool)


@dataclass(frozen=True)
class PathRule(Rule):
    """
    A rule between places of nested values, of each item of a list on its own. [`RecordSchema`] makes one of a rule
    whose columns are paths, such as `SumOf("orders[*].total", ["orders[*].price", "orders[*].tax"])`.

    Args:
        of (`Rule`): The rule: [`Ascending`], [`SumOf`], [`ProductOf`] or [`PresentIf`].
        heads (`Sequence[str]`): The fields of the records that its columns begin with.
        fields (`list[dict]`, *optional*): What stands at its paths, as it was found in the training data.
    """

    of: Rule
    heads: tuple[str, ...]
    fields: list[dict[str, Any]] | None = field(default=None, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "of", Rule.from_dict(self.of) if isinstance(self.of, dict) else self.of)
        object.__setattr__(self, "heads", tuple(self.heads))
        if not isinstance(self.of, KINDS):
            raise ValueError(
                f"{self.of}: such a rule is of columns of records, and not of paths; Ascending, SumOf, ProductOf and "
                "PresentIf are of both"
            )
        if None in self.parsed:
            odd = self.of.columns[self.parsed.index(None)]
            raise ValueError(f"{self.of}: no path {odd!r}; write keys with dots and items as [*]: orders[*].price")
        bases = {column.base: column.name for column in self.parsed if column.function != "sum"}
        if len(bases) > 1:
            first, second, *_ = bases.values()
            raise ValueError(f"{self.of}: {first!r} and {second!r} are in different lists; relate items by sum(...)")
        for column in self.parsed:
            if column.function == "sum" and column.steps[: len(self.base)] != self.base:
                raise ValueError(f"{self.of}: the items of {column.name!r} are not in those of {''.join(self.base)!r}")
            if column.function == "sum" and column.base == self.base:
                raise ValueError(f"{self.of}: {column.name!r} is of a single value; a sum is of the items of a list")
            if column.name in self.of.derived and column.function is None and column.steps == self.base != ():
                raise ValueError(f"{self.of}: {column.name!r} is an item by itself, which nothing can follow from")
            if column.function and isinstance(self.of, PresentIf):
                raise ValueError(f"{self.of}: {column.name!r} is computed, and never null")

    @classmethod
    def wrap(cls, rule: Rule, fields: Mapping[str, Field]) -> Rule:
        """The rule itself, or where its columns are paths in nested values of some of these fields, one on paths."""
        if all(name in fields for name in rule.columns):
            return rule
        parsed = [PathColumn.parse(name, fields) for name in rule.columns]
        heads = dict.fromkeys(column.steps[0] for column in parsed if column is not None)
        nested = [name for name in heads if fields[name].type == "json"]
        return cls(rule, tuple(heads)) if nested else rule

    @property
    def parsed(self) -> list[PathColumn | None]:
        """Its columns."""
        return [PathColumn.parse(name, self.heads) for name in self.of.columns]

    @property
    def base(self) -> tuple[str, ...]:
        """The way to what it is a rule of: the record, or each item of a list."""
        return next((column.base for column in self.parsed if column.function != "sum"), ())

    @property
    def columns(self) -> tuple[str, ...]:
        return self.heads

    @property
    def derived(self) -> tuple[str, ...]:
        computed = {column.name for column in self.parsed if column.function is not None}
        return tuple(name for name in self.of.derived if name not in computed)

    @property
    def by_name(self) -> dict[str, Field]:
        """What stands at its paths, by these."""
        return {f.name: f for f in (from_plain(Field, state) for state in self.fields)}

    def check(self, fields: Mapping[str, Field]) -> None:
        for name in self.heads:
            if name not in fields:
                raise ValueError(f"{self}: no column {name!r}; the columns are {list(fields)}")

    def fit(self, table: pd.DataFrame) -> PathRule:
        rows, found = Rows.of(_plain(table, self.heads), self.base), []
        for column in self.parsed:
            values = column.values(rows.items, self.base)
            if column.function == "sum":  # of what there is, from which decimals are read off
                steps = column.steps[len(self.base) :]
                of_items = [value for _, value in walk(steps, enumerate(rows.items))]
                values = [value for value in of_items if not is_null(value)] if of_items else values
            with naming_column(column.name):
                f = infer_field(column.name, pd.Series(values, dtype=object))
            if f.is_spelled and column.function == "sum":
                raise ValueError(f"{self.of}: {column.name!r} is of texts, and not of numbers")
            if f.type == "null" and rows.items:
                raise ValueError(f"{self.of}: nothing stands at {column.name!r}")
            if column.function:
                f = replace(f, minimum=0 if column.function == "len" else None, maximum=None)
            keys = column.steps[len(self.base) :]
            absent = not column.function and any(_is_absent(item, keys) for item in rows.items)
            found.append(replace(f, nullable=f.nullable or absent, optional=absent))
        fitted = replace(self, fields=[{k: v for k, v in asdict(f).items() if v is not None} for f in found])
        fitted.of.check(fitted.by_name)
        return fitted

    def holds(
        self, table: pd.DataFrame, fields: Mapping[str, Field], known: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        if self.fields is None:
            return self.fit(table).holds(table, fields, known)
        rows, own = Rows.of(_plain(table, self.heads), self.base), self.by_name
        frame = rows.frame([self])
        held = self.of.holds(frame, own)
        known = known or {}
        given = [np.broadcast_to(known.get(name, False), len(frame)) for name in self.of.columns]
        if isinstance(self.of, Equation) and known.keys().isdisjoint(self.of.columns):
            for name in self.of.columns:  # what was derived may lie outside the bounds, as given values may
                held = held & own[name].allows(frame[name])
        held = held | np.logical_and.reduce(given)
        of_records = np.ones(len(table), bool)
        of_records[rows.records[~held]] = False
        return of_records

    def to_dict(self) -> dict[str, Any]:
        return {"rule": type(self).__name__, "of": self.of.to_dict(), "heads": list(self.heads), "fields": self.fields}

    def __str__(self) -> str:
        return str(self.of)


@dataclass
class Rows:
    """
    What rules on paths are of: records, or the items of lists in them.

    Args:
        base (`tuple[str, ...]`): The way to them.
        items (`list`): Their values.
        records (`np.ndarray`): Of each the record that it is in.
    """

    base: tuple[str, ...]
    items: list[Any]
    records: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, base: tuple[str, ...]) -> Rows:
        """The rows of a table of values as JSON has them."""
        names = base[:1] or table.columns
        records = zip(*(table[name].astype(object).tolist() for name in names))
        rows = [*walk(base, enumerate(dict(zip(names, record)) for record in records))]
        return cls(base, [item for _, item in rows], np.array([record for record, _ in rows], np.int64))

    def frame(self, rules: Sequence[PathRule]) -> pd.DataFrame:
        """The columns of some rules, of dtypes by what they hold."""
        columns = {}
        for rule in rules:
            for column in rule.parsed:
                values = column.values(self.items, self.base)
                with naming_column(column.name):
                    columns[column.name] = to_column(rule.by_name[column.name], values)
        return pd.DataFrame(columns, index=range(len(self.items)))

    def write(self, column: PathColumn, f: Field, before: pd.Series, after: pd.Series) -> None:
        """Puts values that have changed where they belong; of what is not there, nothing can be."""
        *way, key = column.steps[len(self.base) :]
        old, new = (values.astype(object).where(values.notna(), None) for values in (before, after))
        for place in np.flatnonzero([a is not b and a != b for a, b in zip(old, new)]):
            holder = _get(self.items[place], way)
            if isinstance(holder, dict):
                if new[place] is None and f.optional:
                    holder.pop(key, None)
                else:
                    holder[key] = new[place]


def derive_paths(
    rules: Sequence[PathRule], table: pd.DataFrame, known: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """
    A table with the values that follow from others by rules on paths, those of the innermost lists first.

    Args:
        rules (`Sequence[PathRule]`): The rules, fitted.
        table (`pandas.DataFrame`): Records.
        known (`Mapping[str, np.ndarray]`, *optional*):
            Values that stay, by paths, as `bool` arrays with one for each item or one for all.
    """
    rules = [rule for rule in rules if rule.derived]
    if not rules:
        return table
    plain = _plain(table, dict.fromkeys(name for rule in rules for name in rule.heads))
    for base in sorted({rule.base for rule in rules}, key=len, reverse=True):
        of_base = [rule for rule in rules if rule.base == base]
        columns = {column.name: column for rule in of_base for column in rule.parsed}
        fields = {name: f for rule in of_base for name, f in rule.by_name.items()}
        rows = Rows.of(plain, base)
        frame = before = rows.frame(of_base)
        given = {
            name: np.broadcast_to(column.function is not None or (known or {}).get(name, False), len(frame))
            for name, column in columns.items()
        }
        if equations := [rule.of for rule in of_base if isinstance(rule.of, Equation)]:
            frame = solve_equations(equations, frame, fields, given)
        for rule in of_base:
            if isinstance(rule.of, PresentIf):
                frame = rule.of.derive(frame, fields, given)
        for name in dict.fromkeys(name for rule in of_base for name in rule.derived):
            if name in plain:  # a field of the records, and no path
                plain[name] = frame[name].set_axis(plain.index).astype(object)
            else:
                rows.write(columns[name], fields[name], before[name], frame[name])
    return table.assign(**{name: plain[name].astype(table[name].dtype) for name in plain})


def known_paths(rules: Iterable[Rule], table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which values at the paths of rules are given in records, as [`derive_paths`] takes them."""
    known = {}
    for rule in (rule for rule in rules if isinstance(rule, PathRule)):
        rows = Rows.of(table, rule.base)
        for column in rule.parsed:
            known[column.name] = column.are_given(rows.items, rule.base)
    return known


def to_column(f: Field, values: list[Any]) -> pd.Series:
    """Values of JSON as a column that rules compute with; what is of another kind is an error."""
    column = pd.Series(values, dtype=object)
    if f.type not in ("integer", "number") or f.is_spelled:
        return column
    is_whole = f.type == "integer"
    for value in values:
        if not (is_null(value) or (_is_number(value) and not (is_whole and value % 1))):
            raise ValueError(f"{shown(value)} is no {'whole ' * is_whole}number, as all were before; correct it")
    return column.astype("Int64" if f.type == "integer" else "float64")


def walk(steps: Sequence[str], rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """What is found on the way from values that are numbered, with their numbers."""
    for number, value in rows:
        if not steps:
            yield number, value
        elif steps[0] != ITEMS:
            yield from walk(steps[1:], [(number, value.get(steps[0]) if isinstance(value, dict) else None)])
        elif isinstance(value, (list, np.ndarray)):
            yield from walk(steps[1:], ((number, item) for item in value))


def _get(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_absent(value: Any, keys: Sequence[str]) -> bool:
    if not keys:
        return False
    *way, key = keys
    holder = _get(value, way)
    return isinstance(holder, dict) and key not in holder


def _is_sum_given(steps: Sequence[str], value: Any) -> bool:
    """Whether all that a sum is of is there; what lacks adds nothing."""
    if not steps:
        return not is_null(value)
    if steps[0] != ITEMS:
        return _is_sum_given(steps[1:], value.get(steps[0])) if isinstance(value, dict) else True
    if isinstance(value, DrawnList):
        return False
    return all(_is_sum_given(steps[1:], item) for item in value) if isinstance(value, list) else True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and value == value


def _plain(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Columns with values of Python alone, of nested ones copies."""
    return pd.DataFrame({n: pd.Series(map(to_plain, table[n]), table.index, object) for n in names}, table.index)
