"""Nested values as tables: a row for each record, and one for each item of each list."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown
from .nested import infer_json_schema, kind_of, to_plain
from .spelling import Speller


ABSENT = "absent"  # of a key that an object may lack
NULL = "null"
GIVEN = "given"
# Each with whether it has parts and items
KINDS = {("value", False, False), ("object", True, False), ("list", False, True), ("text", False, True)}
PRESENCE = "?"  # after the name of a place, the column that says which of these it is


@dataclass
class Place:
    """
    A place in nested values: a scalar, an object, a list, or a text, which is a list of pieces.

    Args:
        name (`str`): Its path, as of a JSON path without `$`: `orders[*].price`. So its column is called.
        kind (`str`): `"value"`, `"object"`, `"list"` or `"text"`.
        states (`list[str]`): What may stand there in place of a value: `"absent"`, `"null"`, or both.
        parts (`dict[str, Place]`): Of an object what stands under each key, in order.
        items (`Place`, *optional*): Of a list what each item is, of a text what each piece is.
        max_length (`int`, *optional*): Characters of the longest text.
    """

    name: str
    kind: str
    states: list[str] = field(default_factory=list)
    parts: dict[str, Place] = field(default_factory=dict)
    items: Place | None = None
    max_length: int | None = None

    @property
    def presence(self) -> str | None:
        """The column that says whether there is a value, where a null in the place's own column does not say it."""
        return f"{self.name}{PRESENCE}" if self.states and (self.kind == "object" or len(self.states) > 1) else None

    @property
    def is_nullable(self) -> bool:
        """Whether the column of the value may be null where all that it lies in is given."""
        return bool(self.states) and self.presence is None

    @classmethod
    def infer(cls, name: str, values: Sequence[Any]) -> Place:
        """
        The place of values that are alike.

        Args:
            name (`str`): Its name.
            values (`Sequence`): JSON values, as Python has them.

        Raises:
            `ValueError`: for values that are no rows inside rows, such as lists and numbers in one place, and objects
                whose keys are names. The message says where.
        """
        return cls._of_schema(name, infer_json_schema(values, lambda scalars: {"type": kind_of(scalars[0])}), [])

    @classmethod
    def _of_schema(cls, name: str, schema: dict[str, Any], states: list[str]) -> Place:
        options = schema.get("anyOf", [schema])
        kinds = [option["type"] for option in options if option["type"] != "null"]
        states = states + [NULL] * (len(kinds) < len(options))
        if len(kinds) > 1:
            raise ValueError(f"{name} has values of several types: {', '.join(kinds)}")
        if not kinds:
            return cls(name, "value", states)
        [schema] = [option for option in options if option["type"] != "null"]
        if schema["type"] == "array":
            if not schema["items"]:
                raise ValueError(f"{name} has nothing but empty lists")
            return cls(name, "list", states, items=cls._of_schema(f"{name}[*]", schema["items"], []))
        if schema["type"] != "object":
            return cls(name, "value", states)
        if "properties" not in schema:
            raise ValueError(f"{name} has objects whose keys are names")
        if not schema["properties"]:
            raise ValueError(f"{name} has nothing but empty objects")
        optional = [[ABSENT] * (key not in schema["required"]) for key in schema["properties"]]
        parts = zip(schema["properties"].items(), optional)
        return cls(name, "object", states, {key: cls._of_schema(f"{name}.{key}", s, o) for (key, s), o in parts})

    def to_dict(self) -> dict[str, Any]:
        """The place as JSON values."""
        # Parts as a list, since their order is that of columns, and processors sort their keys.
        parts = [[key, part.to_dict()] for key, part in self.parts.items()]
        return {**vars(self), "parts": parts, "items": self.items and self.items.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Place:
        """A place of what `to_dict` gave. Raises a `ValueError` for one that is not of its kind."""
        given = (state["kind"], bool(state["parts"]), state["items"] is not None)
        if given not in KINDS or not set(state["states"]) <= {ABSENT, NULL}:
            raise ValueError(f"{state['name']!r} is no place of nested values: {shown(state)}")
        parts = {key: cls.from_dict(part) for key, part in state["parts"]}
        items = None if state["items"] is None else cls.from_dict(state["items"])
        return cls(state["name"], state["kind"], list(state["states"]), parts, items, state["max_length"])

    def spelled(self, texts: dict[str, int]) -> Place:
        """
        The place, and all inside it, with texts in pieces.

        Args:
            texts (`dict[str, int]`): The names of texts, and the characters of the longest.
        """
        if self.name in texts:
            pieces = Place(f"{self.name}[*]", "value")
            return replace(self, kind="text", items=pieces, max_length=texts[self.name])
        parts = {key: part.spelled(texts) for key, part in self.parts.items()}
        return replace(self, parts=parts, items=self.items and self.items.spelled(texts))

    def with_gaps(self, value: Any) -> Any:
        """A JSON value, as `to_tables` takes it, with gaps for nulls and for keys that no record lacks."""
        if is_null(value):
            return GAP
        if self.kind == "object" and isinstance(value, dict):
            lacking = {key: GAP for key, part in self.parts.items() if ABSENT not in part.states}
            return lacking | {k: self.parts[k].with_gaps(v) if k in self.parts else v for k, v in value.items()}
        if self.kind == "list" and isinstance(value, list):
            return [self.items.with_gaps(item) for item in value]
        return value

    def filled(self, value: Any, drawn: Any) -> Any:
        """A JSON value with what was drawn in the place of its gaps."""
        if is_null(value):
            return drawn
        if self.kind == "object":
            known = {key: self.parts[key].filled(part, drawn.get(key)) for key, part in value.items()}
            return known | {key: part for key, part in drawn.items() if key not in known}
        if self.kind == "list":
            return [self.items.filled(*pair) for pair in zip(value, drawn)]
        return value


@dataclass
class Level:
    """
    A table of nested values.

    Args:
        root (`Place`, *optional*): What each row is; `None` of the records themselves.
        parent (`int`): The number of the level whose rows have the lists; −1 of the records themselves.
        lengths (`str`): The column there that has the lengths of the lists.
        columns (`list[str]`): Its columns, in order.
        gates (`dict[str, str]`): For columns that have a value only where another says so, that column.
        nullable (`set[str]`): Columns that may be null where their gate is open.
    """

    root: Place | None
    parent: int = -1
    lengths: str = ""
    columns: list[str] = field(default_factory=list)
    gates: dict[str, str] = field(default_factory=dict)
    nullable: set[str] = field(default_factory=set)


@dataclass
class NestedRows:
    """
    The rows of a level.

    Args:
        columns (`dict[str, list]`): Values by column.
        parents (`list[int]`): Of each row, that of the parent level whose list it is in; they ascend.
    """

    columns: dict[str, list]
    parents: list[int] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        """The columns as a table, of dtype `object`."""
        return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in self.columns.items()})


class NestedTables:
    """
    Turns columns of nested values into tables and back: level 0 has a row for each record, with what stands in its
    objects and the lengths of its lists, and each list, of whatever depth, has a level with a row for each item.

    Args:
        places (`dict[str, Place]`): What each column holds.
        speller ([`Speller`], *optional*): Of texts, where there are any.
    """

    def __init__(self, places: dict[str, Place], speller: Speller | None = None):
        self.places = places
        self.speller = speller
        self.pieces: set[str] = set()  # columns of texts' pieces
        self.presences: set[str] = set()  # columns that say what is there
        self.levels = [Level(None)]
        self.level_of: dict[str, int] = {}  # by the name of a list
        for place in places.values():
            self._add_columns(place, 0, None)
        names = [name for level in self.levels for name in level.columns]
        if len(self.level_of) < len(self.levels) - 1 or len(set(names)) < len(names):
            twice = [name for name in names if names.count(name) > 1] or list(self.level_of)
            raise ValueError(f"two places are called {twice[0]!r}; rename a key")

    @classmethod
    def infer(cls, table: pd.DataFrame) -> NestedTables:
        """
        Reads off a table of nested values what stands where.

        Raises:
            `ValueError`: as of [`Place.infer`].
        """
        return cls({name: Place.infer(name, list(map(plain_or_none, table[name]))) for name in table.columns})

    def _add_columns(self, place: Place, number: int, gate: str | None) -> None:
        level = self.levels[number]
        names = [place.presence] if place.presence else []
        self.presences.update(names)
        names += [place.name] if place.kind != "object" else []
        for name in names:
            level.columns.append(name)
            if gate is not None:
                level.gates[name] = gate
            gate = place.presence or gate
        if place.is_nullable:
            level.nullable.add(place.name)
        for part in place.parts.values():
            self._add_columns(part, number, gate)
        if place.items is not None:
            self.level_of[place.name] = len(self.levels)
            self.levels.append(Level(place.items, number, place.name))
            if place.kind == "text":
                self.pieces.add(place.items.name)
            self._add_columns(place.items, self.level_of[place.name], None)

    def to_tables(self, table: pd.DataFrame) -> list[NestedRows]:
        """
        The levels of nested values.

        Args:
            table (`pandas.DataFrame`): A column for each place.

        Raises:
            `ValueError`: for values that no place has, naming the path, the value and the record.
        """
        rows = [NestedRows({name: [] for name in level.columns}) for level in self.levels]
        for name, place in self.places.items():
            for record, value in enumerate(map(plain_or_none, table[name])):
                try:
                    self._append(place, value, rows, 0, record)
                except ValueError as error:
                    raise ValueError(f"record {record}: {error}") from error
        return rows

    def records_of(self, rows: list[NestedRows], num_records: int) -> list[np.ndarray]:
        """Of each level the record that each row is in."""
        records = [np.arange(num_records)]
        for level, of_level in zip(self.levels[1:], rows[1:]):
            records.append(records[level.parent][np.array(of_level.parents, np.int64)])
        return records

    def _append(self, place: Place, value: Any, rows: list[NestedRows], number: int, row: int) -> None:
        columns = rows[number].columns
        if value is OUTSIDE or value is GAP:
            self._append_nothing(place, value, columns)
            return
        state = ABSENT if value is ABSENT_VALUE else NULL if value is None else GIVEN
        if state != GIVEN and state not in place.states:
            raise ValueError(f"{place.name} is {state}, which it is in no record of the training data; drop it")
        if place.presence:
            columns[place.presence].append(state)
        is_given = state == GIVEN
        if place.kind == "value":
            if is_given and isinstance(value, (dict, list)):
                raise ValueError(f"{place.name} is {str(value)[:80]}, and not a single value; drop the record")
            columns[place.name].append(value if is_given else None)
        elif place.kind == "object":
            if is_given and not isinstance(value, dict):
                raise ValueError(f"{place.name} is {str(value)[:80]}, and no object; drop the record")
            if is_given and (unknown := value.keys() - place.parts.keys()):
                raise ValueError(
                    f"{place.name} has the key {min(unknown)!r}, which no record of the training data has; drop the "
                    "record, or train on data that has it"
                )
            for key, part in place.parts.items():
                self._append(part, value.get(key, ABSENT_VALUE) if is_given else OUTSIDE, rows, number, row)
        else:
            if is_given and place.kind == "text":
                if not isinstance(value, str):
                    raise ValueError(f"{place.name} is {str(value)[:80]}, and no text; drop the record")
                value = self.speller.to_pieces(value)
            if is_given and not isinstance(value, list):
                raise ValueError(f"{place.name} is {str(value)[:80]}, and no list; drop the record")
            columns[place.name].append(len(value) if is_given else None)
            below = self.level_of[place.name]
            for item in value if is_given else ():
                rows[below].parents.append(row)
                self._append(place.items, item, rows, below, len(rows[below].parents) - 1)

    def _append_nothing(self, place: Place, value: Any, columns: dict[str, list]) -> None:
        """What lies outside, or is a gap, of which all but the first column is unknown."""
        for name in (place.presence, None if place.kind == "object" else place.name):
            if name is not None:
                columns[name].append(None if value is OUTSIDE else value)
                value = UNKNOWN if value is GAP else value
        for part in place.parts.values():
            self._append_nothing(part, value, columns)

    def to_values(self, rows: list[NestedRows]) -> dict[str, list]:
        """The inverse of [`NestedTables.to_tables`]: values by column."""
        columns = [r.columns for r in rows]
        items: list[list[Any]] = [[] for _ in self.levels]
        # From the innermost lists outwards: items are there when the lists that they are in are made.
        for number in range(len(self.levels) - 1, 0, -1):
            items[number] = list(self._values(self.levels[number].root, columns[number], items))
        return {name: list(self._values(place, columns[0], items)) for name, place in self.places.items()}

    def _values(self, place: Place, columns: dict[str, list], items: list[list[Any]]) -> Iterable[Any]:
        """The values of a place in all rows of its level; `ABSENT_VALUE` where there is none."""
        missing = ABSENT_VALUE if place.states == [ABSENT] else None
        if place.kind == "object":
            values = self._objects(place, columns, items)
        elif place.kind == "list":
            values = self._lists(columns[place.name], iter(items[self.level_of[place.name]]), missing)
        elif place.kind == "text":
            lists = self._lists(columns[place.name], iter(items[self.level_of[place.name]]), missing)
            spell = self.speller.to_text
            values = (spell(pieces)[: place.max_length] if isinstance(pieces, list) else pieces for pieces in lists)
        else:
            values = columns[place.name]
            if missing is not None:
                values = [missing if value is None else value for value in values]
        if place.presence is None:
            return values
        states = {ABSENT: ABSENT_VALUE, NULL: None}
        return (
            value if state == GIVEN else states.get(state) for value, state in zip(values, columns[place.presence])
        )

    def _objects(self, place: Place, columns: dict[str, list], items: list[list[Any]]) -> Iterator[dict[str, Any]]:
        values = {key: list(self._values(part, columns, items)) for key, part in place.parts.items()}
        required = [key for key, part in place.parts.items() if ABSENT not in part.states]
        optional = [values[key] for key in values if key not in required]
        # Most objects lack what is optional, and are made without a look at each key.
        is_whole = [False] * len(next(iter(values.values())))
        for of_key in optional:
            is_whole = [known or value is not ABSENT_VALUE for known, value in zip(is_whole, of_key)]
        bare = zip(*(values[key] for key in required)) if required else itertools.repeat(())
        for has_more, of_required, of_all in zip(is_whole, bare, zip(*values.values())):
            if has_more:
                yield {key: value for key, value in zip(values, of_all) if value is not ABSENT_VALUE}
            else:
                yield dict(zip(required, of_required))

    @staticmethod
    def _lists(lengths: list[int | None], items: Iterator[Any], missing: Any) -> Iterator[Any]:
        for length in lengths:
            yield missing if length is None else list(itertools.islice(items, length))


class _Missing:
    """What stands where there is nothing, and JSON has no word for it."""


ABSENT_VALUE = _Missing()
OUTSIDE = _Missing()  # inside of what is not there
GAP = _Missing()  # to be filled
UNKNOWN = _Missing()  # inside of a gap


class DrawnList(list):
    """A list in the place of a gap."""


def is_null(value: Any) -> bool:
    """Whether a JSON value is missing, as any of pandas' nulls says it."""
    return value is None or (not isinstance(value, (dict, list, str, np.ndarray, _Missing)) and bool(pd.isna(value)))


def plain_or_none(value: Any) -> Any:
    """A value of a column as Python has it; nulls of pandas are `None`."""
    if isinstance(value, _Missing):
        return value
    if isinstance(value, (dict, list, tuple, np.ndarray)):
        return to_plain(value)
    return None if pd.isna(value) else to_plain(value)
