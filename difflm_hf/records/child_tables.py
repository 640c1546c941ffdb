"""Tables that belong together: parents, and children that name them by a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown
from .field import WIDEST, Field, naming_column
from .identifiers import Identifier
from .inference import infer_field
from .json_values import from_json_values, to_json_values
from .nested_tables import plain_or_none
from .plain_values import from_plain
from .readers import check_columns
from .rule_search import MIN_ROWS, find_identifier
from .rules import Rule


ROOM = 1000  # times as many keys as in the data
MAX_GAPS = 1.2  # numbers for each row, of those that number rows and say nothing else


@dataclass(frozen=True)
class ChildTable(Rule):
    """
    The items of a list are the rows of a table. [`RecordSchema.from_tables`] makes these rules.

    Args:
        name (`str`): The list: `orders`, or `orders.lines` in each item of that.
        on (`str`): The column of the table that names the row it belongs to, which items do not have.
        fields (`list[dict]`): The columns of the table, in order.
        key (`str`, *optional*): The column that tells its rows apart, which items do not have either.
        pattern (`str`, *optional*): That of the key, as of [`Identifier`].
    """

    name: str
    on: str
    fields: list[dict[str, Any]] = field(repr=False)
    key: str | None = None
    pattern: str | None = None

    types = ("json",)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name.partition(".")[0],)

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        return np.ones(len(table), bool)

    def fit(self, table: pd.DataFrame) -> ChildTable:
        """The rule that names no category, and no bound, of records that are left out."""
        items = [plain_or_none(value) for value in table[self.columns[0]]]
        for key in self.name.split(".")[1:]:
            items = [item.get(key) for of_list in items for item in of_list or ()]
        items = [item for of_list in items for item in of_list or ()]
        states = []
        for f in self.schema.values():
            if items and f.name not in (self.on, self.key) and f.type != "null":
                column = from_json_values(f, pd.Series([item.get(f.name) for item in items], dtype=object))
                column = column.cat.remove_unused_categories() if column.dtype == "category" else column
                found = infer_field(f.name, column, f.type == "category")
                if found.type == f.type:
                    f = replace(found, nullable=f.nullable, dtype=f.dtype, format=f.format)
            states.append(to_state(f))
        return replace(self, fields=states)

    @property
    def schema(self) -> dict[str, Field]:
        """The columns of the table by their names."""
        return {f.name: f for f in (from_plain(Field, state) for state in self.fields)}

    def to_items(self, table: pd.DataFrame) -> list[dict[str, Any]]:
        """The rows of a table as JSON has them, without their keys."""
        fields = [f for f in self.schema.values() if f.name not in (self.on, self.key)]
        columns = []
        for f in fields:
            with naming_column(f"{self.name}.{f.name}"):
                f.check(table[f.name])
                columns.append(to_json_values(f, table[f.name]))
        names = [f.name for f in fields]
        return [dict(zip(names, row)) for row in zip(*columns)] or [{} for _ in range(len(table))]

    def to_table(self, items: list[dict[str, Any]], keys: pd.Series) -> pd.DataFrame:
        """
        The table of items: the inverse of [`ChildTable.to_items`], with new keys for its rows.

        Args:
            items (`list[dict]`): The items.
            keys (`pd.Series` of length `num_items`): Of each the key of the row that it belongs to.
        """
        columns, by_name = {}, self.schema
        for name, f in by_name.items():
            if name == self.on:
                columns[name] = keys.reset_index(drop=True)
            elif name == self.key:
                columns[name] = self._new_keys(f, len(items))
            else:
                columns[name] = from_json_values(f, pd.Series([item.get(name) for item in items], dtype=object))
        return pd.DataFrame(columns, index=range(len(items)))

    def _new_keys(self, f: Field, num: int) -> pd.Series:
        if self.pattern is None:
            return as_wide(f).to_series(f.bounds[0] + np.arange(num), np.zeros(num, bool))
        rule = Identifier(self.key, self.pattern)
        if num > (capacity := rule.capacity({})):
            raise ValueError(f"{self.name}: {num} rows need as many keys, and {self.pattern} has {capacity}")
        return rule.values(0, 0, num, {self.key: f})


def relate_tables(
    parents: pd.DataFrame, children: Mapping[str, pd.DataFrame], on: str | Mapping[str, str]
) -> tuple[Identifier, list[ChildTable]]:
    """
    How tables belong together.

    Args:
        parents (`pandas.DataFrame`): A row for each record.
        children (`Mapping[str, pandas.DataFrame]`): As of [`RecordSchema.from_tables`].
        on (`str` or `Mapping[str, str]`): The same.

    Returns:
        What tells parents apart, and a rule for each child table.

    Raises:
        `ValueError`: for columns that are missing, keys that are doubled or missing, and children without parents.
    """
    if not children:
        raise ValueError("there are no child tables; name at least one: children={'orders': orders}")
    columns = dict(on) if isinstance(on, Mapping) else {name: on for name in children if "." not in name}
    if missing := [name for name in children if name not in columns]:
        raise ValueError(f"on says nothing of {missing[0]!r}; give a column for each: on={{{missing[0]!r}: ...}}")
    tables = {"": parents, **children}
    for name, table in tables.items():
        check_columns(table, name or "the table of parents")
        above = name.rpartition(".")[0]
        if name and above not in tables:
            raise ValueError(f"{name!r} belongs to {above!r}, which is no table; the tables are {list(children)}")
        if name and name.rpartition(".")[2] in tables[above].columns:
            raise ValueError(f"{name!r} is a column of the table it belongs to; call the child table otherwise")
    keys: dict[str, str] = {}  # of a table the column that children name its rows by
    for name, column in columns.items():
        above = name.rpartition(".")[0]
        if keys.setdefault(above, column) != column:
            raise ValueError(f"{name!r} names rows by {column!r}, and another table by {keys[above]!r}; use one key")
        _check_keys(name, column, tables[above], tables[name], above or "the table of parents")
    rules = []
    for name, table in children.items():
        fields = [_field(name, table[column], column) for column in table.columns]
        found = {f.name: _identify(name, f, table[f.name], f.name == keys.get(name)) for f in fields}
        own = next((f for f in fields if found[f.name] and f.name != columns[name]), None)
        key = keys.get(name, own and own.name)
        pattern = found[key].pattern if key else None
        rules.append(ChildTable(name, columns[name], [*map(to_state, fields)], key, pattern))
    key = keys[""]
    return _identify("the table of parents", _field("", parents[key], key), parents[key], True), rules


def nest_tables(rules: list[ChildTable], parents: pd.DataFrame, children: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """
    The records of tables: parents, each with the lists of its children.

    Args:
        rules (`list[ChildTable]`): What [`relate_tables`] found.
        parents, children: The tables.
    """
    if odd := {rule.name for rule in rules} ^ set(children):
        raise ValueError(
            f"{min(odd)!r} is in only one of schema and children; the schema has {[r.name for r in rules]}"
        )
    by_name = {rule.name: rule for rule in rules}
    records, items = parents.reset_index(drop=True), {rule.name: rule.to_items(children[rule.name]) for rule in rules}
    for name in sorted(by_name, key=lambda name: -name.count(".")):
        rule, above = by_name[name], name.rpartition(".")[0]
        table = children[above] if above else parents
        _check_keys(name, rule.on, table, children[name], above or "the table of parents")
        places = {key: place for place, key in enumerate(table[rule.on])}
        lists: list[list[dict[str, Any]]] = [[] for _ in range(len(table))]
        for key, item in zip(children[name][rule.on], items[name]):
            lists[places[key]].append(item)
        if above:
            for item, of_item in zip(items[above], lists):
                item[name.rpartition(".")[2]] = of_item
        else:
            records[name] = pd.Series(lists, dtype=object)
    return records


def unnest_records(rules: list[ChildTable], records: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """The tables of records: the inverse of [`nest_tables`], with keys that are there, and new ones of children."""
    found: dict[str, tuple[pd.DataFrame, list[dict[str, Any]]]] = {"": (records, records.to_dict("records"))}
    tables = {}
    for rule in sorted(rules, key=lambda rule: rule.name.count(".")):
        above, _, last = rule.name.rpartition(".")
        table, rows = found[above]
        lists = [plain_or_none(row[last]) or [] for row in rows]
        items = [item for of_row in lists for item in of_row]
        keys = table[rule.on].repeat([len(of_row) for of_row in lists])
        tables[rule.name] = rule.to_table(items, keys)
        found[rule.name] = (tables[rule.name], items)
    lists = [rule.name for rule in rules if "." not in rule.name]
    return records.drop(columns=lists), {rule.name: tables[rule.name] for rule in rules}


def to_state(f: Field) -> dict[str, Any]:
    """A field as JSON values."""
    return {key: value for key, value in vars(f).items() if value is not None}


def with_room(f: Field) -> Field:
    """A field of keys, for more records than there are in the data."""
    if f.type != "integer":
        return f
    most = f.minimum + ROOM * (f.maximum - f.minimum + 1) - 1
    return replace(as_wide(f), maximum=min(most, WIDEST["integer"][1]))


def as_wide(f: Field) -> Field:
    """A field of numbers in 64 bits, for more keys than narrower ones can tell apart."""
    return f if f.is_spelled or f.dtype == "object" else replace(f, dtype="int64")


def _check_keys(name: str, column: str, above: pd.DataFrame, table: pd.DataFrame, owner: str) -> None:
    for given, of in ((above, owner), (table, name)):
        if column not in given:
            raise ValueError(f"{of} has no column {column!r}, by which rows of {name!r} are to name theirs")
        if given[column].isna().any():
            raise ValueError(f"column {column!r} of {of} is null in row {int(given[column].isna().argmax())}")
    if (double := above[column].duplicated()).any():
        value = above[column].iloc[int(double.argmax())]
        raise ValueError(f"column {column!r} of {owner} has {shown(value)} twice; a key names one row")
    if (orphan := ~table[column].isin(above[column])).any():
        row = int(orphan.argmax())
        value = shown(table[column].iloc[row])
        raise ValueError(f"{name}: row {row} belongs to {column} = {value}, which {owner} has no row of")


def _field(table: str, column: pd.Series, name: str) -> Field:
    with naming_column(f"{table}.{name}".lstrip(".")):
        f = infer_field(name, column)
        return replace(f, nullable=True, dtype="object") if f.type == "null" else f


def _identify(table: str, f: Field, column: pd.Series, is_needed: bool) -> Identifier | None:
    """What tells the rows of a table apart, if this column does; a `ValueError` where it is needed."""
    is_numbered = f.type == "integer" and column.is_unique and len(column) >= MIN_ROWS
    if f.type == "integer" and (is_needed or (is_numbered and f.maximum - f.minimum < MAX_GAPS * len(column))):
        return Identifier(f.name)
    rule = find_identifier(f, column)
    if rule is None and is_needed:
        raise ValueError(
            f"{table}: the keys {shown(column.iloc[0])}, ... of {f.name!r} follow no pattern; number them"
        )
    return rule
