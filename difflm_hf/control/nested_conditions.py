"""Conditions on records with lists, by the conditions of each of their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..checks import shown
from ..records import CompactCodec, NestedCodec
from ..records.nested_tables import GAP, GIVEN, PRESENCE, UNKNOWN, DrawnList, plain_or_none
from ..records.path_rules import known_paths
from .allowed import IdLimits
from .conditions import Condition
from .fields import nearest_values, satisfies
from .predicates import FREE, AllOf, Not
from .where import parse_where


@dataclass
class NestedCondition(Condition):
    """
    What records with lists have to satisfy: that of the records without lists, and of the items of each list.

    Args:
        nested ([`NestedCodec`]): The codec of the records.
        levels (`list[Condition]`): Of each level a condition, that of records first.
    """

    nested: NestedCodec | None = None
    levels: list[Condition] = field(default_factory=list)

    @classmethod
    def of_records(
        cls, codec: NestedCodec, conditions: Mapping[str, Any] | None = None, where: str | None = None
    ) -> NestedCondition:
        """
        Conditions that all records satisfy.

        Args:
            codec ([`NestedCodec`]): The codec of the records.
            conditions (`Mapping`, *optional*):
                As of [`Condition.of_fields`], by path: `"address.city"`, `"orders[*].price"` for all items, and
                `"len(orders)"`.
            where (`str`, *optional*): An expression, in which paths stand in backticks.

        Raises:
            `ValueError`: as of [`Condition.of_fields`].
        """
        names = names_of(codec)
        if conditions is not None and not isinstance(conditions, Mapping):
            raise ValueError("records with lists take conditions that are the same for all of them: give a dict")
        given = {name: [condition] for name, condition in (conditions or {}).items()}
        if where is not None:
            read, predicates = parse_where(where, list(names), _refuse, _refuse)
            if predicates:
                raise ValueError(f"where={shown(where)} relates fields of records with lists; give a score for that")
            for name, condition in read.items():
                given.setdefault(name, []).append(condition)
        if not given:
            raise ValueError("there are no conditions; name at least one field")
        by_level: list[dict[str, list[Any]]] = [{} for _ in codec.codecs]
        for name, asked in given.items():
            if name not in names:
                raise ValueError(f"no field {shown(name)} to put a condition on; the fields are {list(names)}")
            number, column = names[name]
            if column == f"{name}{PRESENCE}":
                asked = [_of_presence(codec.codecs[number], name, column, condition) for condition in asked]
            by_level[number].setdefault(column, []).extend(asked)
        levels = [_of_level(codec, number, asked) for number, asked in enumerate(by_level)]
        return cls._of_levels(codec, levels)

    @classmethod
    def free(cls, codec: NestedCodec) -> NestedCondition:
        """The condition that all records satisfy."""
        return cls._of_levels(codec, [Condition.free(of_level) for of_level in codec.codecs])

    @classmethod
    def of_gaps(cls, codec: NestedCodec, table: pd.DataFrame) -> NestedCondition:
        """
        A condition for each record: all that is not null, and which items there are. Nulls are filled, and so are keys
        that no record lacks; as of [`Condition.of_gaps`], what fills them is no null.

        Args:
            codec (`NestedCodec`): The codec of the records.
            table (`pandas.DataFrame`): All columns.

        Raises:
            `ValueError`: for values that the records cannot have, and for gaps in columns that ascend.
        """
        places = codec.tables.places
        marked = table.astype(object).where(table.notna(), GAP)
        for name, place in places.items():
            values = [place.with_gaps(plain_or_none(value)) for value in table[name]]
            marked[name] = pd.Series(values, table.index, object)
        frames, rows = codec.split(marked)
        lengths = {level.lengths for level in codec.tables.levels}
        levels = [_of_gaps(of_level, frame, lengths) for of_level, frame in zip(codec.codecs, frames)]
        condition = cls._of_levels(codec, levels)
        for number, items in condition.allowed.items.items():
            num_above = len(frames[codec.tables.levels[number].parent])
            starts = np.searchsorted(rows[number].parents, np.arange(num_above + 1))
            condition.allowed.items[number] = replace(items.with_free_row(), starts=torch.from_numpy(starts))
        condition.allowed = replace(condition.allowed, numbers=torch.arange(len(table)))
        condition.num_rows, condition.given = len(table), table
        return condition

    @classmethod
    def _of_levels(cls, codec: NestedCodec, levels: list[Condition]) -> NestedCondition:
        root = levels[0]
        items = {
            number: condition.allowed.shifted(codec.offsets[number])
            for number, condition in enumerate(levels)
            if number and (condition.allowed.limits or condition.allowed.is_known.any())
        }
        allowed = replace(root.allowed, items=items)
        return cls(root.codec, root.known, allowed, root.offsets, root.domains, nested=codec, levels=levels)

    @property
    def is_limited(self) -> np.ndarray:
        # Neither denoiser nor decoder is told what is known of items: of several latents, one is chosen by that.
        return np.full(self.num_rows or 1, self.given is not None)

    def place(self, input_ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        if self.given is not None:  # which takes the place of what is known
            return offsets
        levels, placed = self.nested.layout.unpack(torch.from_numpy(input_ids)), []
        for number, (condition, rows) in enumerate(zip(self.levels, levels)):
            ids = F.pad(rows.ids - self.nested.offsets[number], (1, 0)).numpy()
            placed.append(condition.place(ids, self.nested.offsets_of(offsets, number, levels)))
        return self.nested.pack_offsets(placed, levels)

    def complete(self, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        if self.given is not None:
            return self._complete_gaps(table)
        own, names = replace(Condition.free(self.codec), codec=self.nested, score=self.score), names_of(self.nested)
        derived = [name for rule in self.nested.schema.rules for name in rule.derived]
        asked = {name: names[name] for name in dict.fromkeys(derived) if name in names}
        own.known |= {name: self.levels[number].known[column] for name, (number, column) in asked.items()}
        table, log_weights = own.complete(table)
        return table, np.where(self._holds(table, asked), log_weights, -np.inf) if asked else log_weights

    def _complete_gaps(self, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """Records with what is known of them, and with what follows from that and what was drawn."""
        filled, known = {}, {}
        for name, place in self.nested.tables.places.items():
            given = [plain_or_none(value) for value in self.given[name]]
            drawn = [plain_or_none(value) for value in table[name]]
            filled[name] = pd.Series([*map(place.filled, given, drawn)], table.index, object)
            known[name] = pd.Series([*map(place.filled, given, map(_blank, drawn))], table.index, object)
        given = self.given.set_axis(table.index)
        of_paths = known_paths(self.nested.schema.rules, given.assign(**known))
        rows = Condition(self.nested, of_paths, self.allowed, self.offsets, given=given.assign(**filled))
        return rows.complete(table.assign(**filled))

    def _holds(self, table: pd.DataFrame, asked: dict[str, tuple[int, str]]) -> np.ndarray:
        """Of which records the values that follow from others are as they are asked for."""
        frames, rows = self.nested.split(table)
        records = self.nested.tables.records_of(rows, len(table))
        held = np.ones(len(table), bool)
        for number, column in asked.values():
            if of_column := self.levels[number].domains.get(column):
                is_right = satisfies(self.levels[number].codec, column, of_column.distinct[0])(frames[number])
                held[records[number][~is_right]] = False
        return held


def _of_gaps(codec: CompactCodec, frame: pd.DataFrame, lengths: set[str]) -> Condition:
    """What is known of the rows of a level, each by itself."""
    known, values, limits = {}, {}, {}
    for position, (name, t) in enumerate(codec.tokens.items()):
        f, column = codec.schema[name], frame[name].reset_index(drop=True)
        is_first, is_inside = (np.array([value is gap for value in column], bool) for gap in (GAP, UNKNOWN))
        column = column.where(~(is_first | is_inside), None)
        # No list is nearly as long as another.
        values[name] = column if name in lengths else nearest_values(codec, name, column)
        # A category that was not seen tells nothing.
        known[name] = ~(is_first | is_inside | (column.notna() & values[name].isna()).to_numpy())
        is_presence = GIVEN in t.values and is_first.any()
        if is_presence or (f.nullable and is_first.any()):
            ids = torch.arange(t.num_coarse(f))[None]
            is_allowed = ids == len(f.apart) + t.values.index(GIVEN) if is_presence else ids > 0
            limits[position] = IdLimits(torch.from_numpy(np.where(is_first, 0, FREE)), is_allowed)
    condition = Condition.of_known(codec, pd.DataFrame(values, index=range(len(frame))), known)
    condition.allowed.limits |= limits
    return condition


def _blank(value: Any) -> Any:
    """A JSON value of the same form, with nulls for what is in it."""
    if isinstance(value, dict):
        return {key: _blank(part) for key, part in value.items()}
    return DrawnList(map(_blank, value)) if isinstance(value, list) else None


def names_of(codec: NestedCodec) -> dict[str, tuple[int, str]]:
    """The level and the column of all that a condition may be on, by the names that conditions have for them."""
    names = {}
    for number, (level, of_level) in enumerate(zip(codec.tables.levels, codec.codecs)):
        lengths = {below.lengths for below in codec.tables.levels if below.parent == number}
        for column in of_level.tokens:
            name = f"len({column})" if column in lengths else column
            if column in codec.tables.presences:
                name = column.removesuffix(PRESENCE)
                if name in level.columns:  # whose own values may be asked for
                    continue
            is_text = column in codec.tables.pieces or f"{column}[*]" in codec.tables.pieces
            if column not in codec.ordered and not is_text:
                names.setdefault(name, (number, column))
    return names


def _of_presence(codec: CompactCodec, name: str, column: str, condition: Any) -> Any:
    """A condition on what is there, as one on the words for that."""
    if condition is None:
        return [state for state in codec.schema[column].categories if state != GIVEN]
    if condition == Not(None):
        return GIVEN
    raise ValueError(f"{shown(condition)} is no condition on the object {name!r}: None and Not(None) are")


def _of_level(codec: NestedCodec, number: int, asked: dict[str, list[Any]]) -> Condition:
    of_level, level = codec.codecs[number], codec.tables.levels[number]
    if not asked:
        return Condition.free(of_level)
    opened: dict[str, list[Any]] = {}
    for name, conditions in asked.items():
        gate = level.gates.get(name)
        if gate is not None and name not in level.nullable and None in conditions:
            place = gate.removesuffix(PRESENCE)
            raise ValueError(f"{name!r} is never null where {place!r} is there; ask for None in the place of that")
        # What has a value lies in what is there.
        while gate is not None:
            opened[gate] = [GIVEN]
            gate = level.gates.get(gate)
    both = {name: (*asked.get(name, []), *opened.get(name, [])) for name in asked | opened}
    conditions = {name: of[0] if len(of) == 1 else AllOf(of) for name, of in both.items()}
    return Condition.of_fields(of_level, conditions)


def _refuse(*given: Any) -> Callable:
    return lambda table: np.ones(len(table), bool)
