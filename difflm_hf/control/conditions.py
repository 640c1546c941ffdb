"""Conditions on rows, for a codec."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checks import shown
from ..records import CompactCodec
from ..records.field import Field, naming_column, shortest_digits
from ..records.readers import check_columns
from .allowed import AllowedIds, IdLimits, StepLimits
from .fields import allowed_ids, check_name, domain_of_field, filler, first_bin, nearest_values, only_value, satisfies
from .predicates import (
    FREE,
    AllOf,
    Between,
    Contains,
    Domain,
    Matches,
    Not,
    RowDomains,
    StartsWith,
    domain_of,
)
from .score import Score, weigh_by
from .where import RowPredicate, parse_where


NO_VALUES = (list, tuple, set, dict, np.ndarray, AllOf, Between, Contains, Matches, Not, StartsWith)  # of a table
# For all records, of each, or what is known of each
Conditions = Mapping[str, Any] | Sequence[Mapping[str, Any]] | pd.DataFrame


@dataclass
class Condition:
    """
    What records have to satisfy, for a codec. Make one with [`Condition.of_fields`], [`Condition.of_each`],
    [`Condition.of_table`] or [`Condition.of_gaps`].

    Args:
        codec (`CompactCodec`): The codec of the records.
        known (`dict[str, np.ndarray]`): For each field whether it is known, of shape `(num_rows,)`.
        allowed ([`AllowedIds`]): What that leaves of each position.
        offsets (`np.ndarray` of shape `(num_rows, num_binned_fields)`): Where in its step a known number lies.
        domains (`dict[str, RowDomains]`): The values that are left of fields.
        checked (`list[str]`): Fields of these whose values do not come from ids.
        predicates (`list[Callable]`): What relates several fields, as functions of a table.
        num_rows (`int`, *optional*): Records with conditions of their own; `None` where they are for all.
        given (`pandas.DataFrame`, *optional*): What is known of each record, where the codec has no ids for it.
        score (`Callable`, *optional*): As in the call of the pipeline.
    """

    codec: CompactCodec
    known: dict[str, np.ndarray]
    allowed: AllowedIds
    offsets: np.ndarray
    domains: dict[str, RowDomains] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    predicates: list[RowPredicate] = field(default_factory=list)
    num_rows: int | None = None
    given: pd.DataFrame | None = None
    score: Score | None = None

    @classmethod
    def of_fields(
        cls, codec: CompactCodec, conditions: Mapping[str, Any] | None = None, where: str | None = None
    ) -> Condition:
        """
        Conditions that all records satisfy.

        Args:
            codec (`CompactCodec`): The codec of the records.
            conditions (`Mapping`, *optional*):
                For fields by name: a value, a list of values, `None` for null, or a predicate such as [`Between`].
            where (`str`, *optional*): An expression, see [`parse_where`].

        Raises:
            `ValueError`: for unknown fields, values that they cannot have, and conditions that contradict each other.
                The message names the field.
        """
        if conditions is not None and not isinstance(conditions, Mapping):
            raise ValueError(f"conditions are a dict, a list or a DataFrame, not {type(conditions).__name__}")
        given = {name: [condition] for name, condition in (conditions or {}).items()}
        read, predicates = {}, []
        if where is not None:
            functions = partial(_leaf, codec), partial(_comparable, codec)
            read, predicates = parse_where(where, codec.schema.names, *functions)
        if predicates:
            _dry_run(codec, predicates, where)
        for name, condition in read.items():
            given.setdefault(name, []).append(condition)
        if not given and not predicates:
            raise ValueError("there are no conditions; name at least one field")
        domains = {name: domain_of_field(codec, name, each) for name, each in given.items()}
        return replace(cls._of_domains(codec, [domains]), predicates=predicates, num_rows=None)

    @classmethod
    def of_each(cls, codec: CompactCodec, conditions: Sequence[Mapping[str, Any]]) -> Condition:
        """
        Conditions of each record.

        Args:
            codec (`CompactCodec`): The codec of the records.
            conditions (`Sequence[Mapping]`): Of each record those of [`Condition.of_fields`]; it may have none.

        Raises:
            `ValueError`: for an empty list, and as of [`Condition.of_fields`]. The message says which record it is.
        """
        if not conditions:
            raise ValueError("the list of conditions is empty; it needs a dict for each record")
        domains: list[dict[str, Domain]] = []
        for row, of_row in enumerate(conditions):
            if not isinstance(of_row, Mapping):
                raise ValueError(f"conditions[{row}] is no dict of conditions, but a {type(of_row).__name__}")
            try:
                domains.append({name: domain_of_field(codec, name, [asked]) for name, asked in of_row.items()})
            except ValueError as error:
                raise ValueError(f"conditions[{row}]: {error}") from error
        return cls._of_domains(codec, domains)

    @classmethod
    def _of_domains(cls, codec: CompactCodec, rows: list[dict[str, Domain]]) -> Condition:
        values = [{n: value for n, d in of_row.items() for value in only_value(codec, n, d)} for of_row in rows]
        known = {name: np.array([name in of_row for of_row in values]) for name in codec.tokens}
        names = [name for name, is_known in known.items() if is_known.any()]
        columns = {name: pd.Series([of_row.get(name) for of_row in values], dtype=object) for name in names}
        table = pd.DataFrame(columns, index=range(len(rows)))
        condition = cls._of_known_rows(codec, table, known)
        condition.num_rows = len(rows)
        asked = dict.fromkeys(name for of_row in rows for name in of_row)
        condition.domains = {name: RowDomains.of([of_row.get(name) for of_row in rows]) for name in asked}
        # What follows from other columns is not drawn from the ids that are allowed.
        derived = {name for rule in codec.schema.rules for name in rule.derived}
        condition.checked = sorted(derived & condition.domains.keys())
        condition._check_rules(table)
        for name in condition.domains:
            condition._limit(name)
        return condition

    @classmethod
    def _of_known_rows(cls, codec: CompactCodec, table: pd.DataFrame, known: dict[str, np.ndarray]) -> Condition:
        """As `of_known`, with an error that names the first row of which a value has no id."""

        def of_first(num_rows: int) -> Condition:
            return cls.of_known(codec, table.head(num_rows), {name: of[:num_rows] for name, of in known.items()})

        try:
            return of_first(len(table))
        except ValueError as error:
            row = bisect_left(range(len(table)), True, key=lambda row: _fails(of_first, row + 1))
            where = "" if len(table) == 1 else f"conditions[{row}]: "
            raise ValueError(f"{where}{str(error).split(';')[0]}; ask for another value") from error

    @classmethod
    def free(cls, codec: CompactCodec) -> Condition:
        """The condition that all records satisfy."""
        return cls.of_known(codec, pd.DataFrame(index=[0]), {name: np.zeros(1, bool) for name in codec.tokens})

    @classmethod
    def known_row(cls, codec: CompactCodec, conditions: Mapping[str, Any]) -> pd.DataFrame:
        """A table of one row, of conditions that leave one value of each field. Any other is a `ValueError`."""
        condition = cls.of_fields(codec, conditions)
        if several := [name for name in condition.domains if not condition.known[name][0]]:
            raise ValueError(f"column {several[0]!r}: beside balance, a condition is a single value")
        values = {name: only_value(codec, name, of.distinct[0])[0] for name, of in condition.domains.items()}
        return pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in values.items()})

    @classmethod
    def of_table(cls, codec: CompactCodec, table: pd.DataFrame) -> Condition:
        """
        A condition for each record: the values of a row that are not null.

        Args:
            codec (`CompactCodec`): The codec of the records.
            table (`pandas.DataFrame`): Some of the columns.

        Raises:
            `ValueError`: for an empty table, unknown columns, values that these cannot have, and rows that break a
                rule.
        """
        condition = cls._of_rows(codec, table)
        condition._check_rules(table)
        return condition

    @classmethod
    def _of_rows(cls, codec: CompactCodec, table: pd.DataFrame) -> Condition:
        check_columns(table, "the table of conditions")
        for name in table.columns:
            check_name(codec, name)
            if any(isinstance(value, NO_VALUES) for value in table[name]):
                raise ValueError(f"column {name!r} has more than values; give conditions as a list of dicts")
        nowhere = np.zeros(len(table), bool)
        known = {name: table[name].notna().to_numpy() if name in table else nowhere for name in codec.tokens}
        condition = cls.of_known(codec, table, known)
        condition.num_rows = len(table)
        return condition

    @classmethod
    def of_gaps(cls, codec: CompactCodec, table: pd.DataFrame) -> Condition:
        """
        As [`Condition.of_table`], for rows whose gaps are to be filled. A number between those that the codec has ids
        for stands for the nearest, and a category that it has no id for tells nothing. No null fills a gap.
        """
        nearest = pd.DataFrame({name: nearest_values(codec, name, table[name]) for name in codec.tokens})
        condition = cls._of_rows(codec, nearest)
        condition.given = table
        for position, (name, t) in enumerate(codec.tokens.items()):
            f = codec.schema[name]
            if f.nullable:
                is_given = torch.arange(t.num_coarse(f))[None] > 0
                condition.allowed.limits[position] = IdLimits(torch.zeros(len(table), dtype=torch.long), is_given)
        return condition

    @classmethod
    def of_known(cls, codec: CompactCodec, table: pd.DataFrame, known: dict[str, np.ndarray]) -> Condition:
        """A condition of each row: what is known of it, by column."""
        columns = {}
        for f in codec.schema:
            column = pd.Series([filler(codec, f.name)] * len(table), dtype=object)
            if f.name in known and f.name in table:
                given = shortest_digits(table[f.name]).reset_index(drop=True).astype(object)
                column = column.where(~known[f.name], given)
            columns[f.name] = column
        ids, offsets = codec.encode_fields(codec.schema.conform(pd.DataFrame(columns)), known)
        fields = list(known)
        is_known = np.stack([known[fields[k]] for k in codec.position_fields], axis=1)
        return cls(codec, known, AllowedIds(torch.from_numpy(ids), torch.from_numpy(is_known)), offsets)

    def _check_rules(self, table: pd.DataFrame) -> None:
        """Raises a `ValueError` for a row that is known to break a rule."""
        for rule in self.codec.schema.rules:
            is_given = np.logical_and.reduce([self.is_given(name) for name in rule.columns])
            if rule.is_of_each and is_given.any():
                broken = is_given.nonzero()[0][~rule.holds(table[is_given], self.codec.schema.by_name)]
                if len(broken):
                    row = table.iloc[broken[0]][list(rule.columns)].to_dict()
                    raise ValueError(f"the conditions in row {broken[0]} break the rule {rule}: {row}")

    def _limit(self, name: str) -> None:
        """Allows some of the ids of a field, in the rows of which several values are left."""
        codec, of_rows = self.codec, self.domains[name]
        t, position = codec.tokens[name], list(codec.tokens).index(name)
        which = np.where(self.known[name], FREE, of_rows.which)
        if (which == FREE).all():
            return
        # What may repeat another field depends on what is left of that one, too.
        sources = [self.domains.get(source, RowDomains([], np.full(len(which), FREE))) for source in t.copies]
        limits, rows, which_ids = np.unique(
            np.stack([which, *(np.where(which == FREE, FREE, source.which) for source in sources)], 1),
            axis=0,
            return_index=True,
            return_inverse=True,
        )
        is_limit, is_allowed = limits[:, 0] != FREE, []
        for row, (place, *places) in zip(rows[is_limit], limits[is_limit]):
            left = [None if k == FREE else source.distinct[k] for k, source in zip(places, sources)]
            is_allowed.append(allowed_ids(codec, name, of_rows.distinct[place], left))
            if not any(is_allowed[-1]):
                where = "" if len(which) == 1 else f"conditions[{row}]: "
                raise ValueError(
                    f"{where}column {name!r}: no value that was seen in training satisfies its condition; widen it"
                )
        # Limits are in order, and those that are none come first.
        which_ids = which_ids.reshape(-1) - (~is_limit).sum()
        self.allowed.limits[position] = IdLimits(
            torch.from_numpy(which_ids.clip(min=FREE)), torch.tensor(is_allowed, dtype=torch.bool)
        )
        if t.bins is not None:
            step, intervals = len(codec.tokens) + codec.binned.index(name), of_rows.intervals(t.grid)
            limits = StepLimits(torch.from_numpy(which), intervals, t.bins, position, first_bin(codec, name))
            self.allowed.limits[step] = limits

    def complete(self, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Decoded records with what follows from others by the rules of the schema.

        Args:
            table (`pandas.DataFrame`): Decoded records.

        Returns:
            The records, and the logarithms of the weights that they have by what relates several fields: an array of
            shape `(num_records,)`, −∞ for what does not satisfy that.
        """
        schema = self.codec.schema
        if schema.rules:
            known = self.known | {f.name: np.broadcast_to(self.is_given(f.name), len(table)) for f in schema}
            if self.given is not None:
                given = self.given.set_axis(table.index)
                table = table.assign(**{f.name: _overlaid(f, table[f.name], given[f.name]) for f in schema})
            table = schema.derive(table, known)
            held = schema.holds(table, known)
        else:
            held = np.ones(len(table), bool)
        for holds in self.predicates:  # which need not know values that no field allows
            held[held] = holds(table[held])
        for name in self.checked:
            which = np.broadcast_to(self.domains[name].which, len(table))
            for place, domain in enumerate(self.domains[name].distinct):
                rows = held & (which == place)
                held[rows] = satisfies(self.codec, name, domain)(table[rows])
        log_weights = np.where(held, 0.0, -np.inf)
        if self.score is not None and held.any():
            rows = table[held].drop(columns=list(schema.identifiers)).reset_index(drop=True)
            log_weights[held], is_graded = weigh_by(self.score, rows)
            if is_graded and self.num_rows is not None:
                raise ValueError("a score of numbers needs conditions that are the same for all; return bools")
        return table, log_weights

    def is_given(self, name: str) -> np.ndarray:
        """Whether a field is known, of each row of conditions."""
        if self.given is not None:
            return self.given[name].notna().to_numpy()
        return self.known.get(name, np.zeros(self.num_rows or 1, bool))

    @property
    def is_limited(self) -> np.ndarray:
        """Of which rows more is asked than values."""
        limited = [(of.which != FREE) & ~self.known[name] for name, of in self.domains.items()]
        return np.logical_or.reduce([np.zeros(self.num_rows or 1, bool), *limited])

    def take(self, rows: slice | np.ndarray) -> Condition:
        """Those of some records, where each has its own."""
        offsets = self.offsets[rows]
        return replace(
            self,
            known={name: known[rows] for name, known in self.known.items()},
            allowed=self.allowed.take(rows),
            offsets=offsets,
            domains={name: of.take(rows) for name, of in self.domains.items()},
            num_rows=len(offsets),
            given=None if self.given is None else self.given.iloc[rows],
        )

    def place(self, input_ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """
        Where in its step each number lies.

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Ids, BOS included.
            offsets (`np.ndarray` of shape `(num_records, num_binned_fields)`): Uniform random numbers in [0, 1).

        Returns:
            `np.ndarray` of the same shape, `uint64`: grid points from the start of the step.
        """
        codec, placed = self.codec, np.empty(offsets.shape, np.uint64)
        for j, name in enumerate(codec.binned):
            t, position = codec.tokens[name], list(codec.tokens).index(name)
            bins = np.clip(input_ids[:, 1 + position] - first_bin(codec, name), 0, t.bins.num_bins - 1)
            steps = input_ids[:, 1 + len(codec.tokens) + j] - t.fine_start
            of_rows = self.domains.get(name, RowDomains([], np.array([FREE])))
            intervals = of_rows.intervals(t.grid)[of_rows.which].transpose(1, 2, 0)
            drawn = t.bins.place(bins, steps, offsets[:, j], intervals)
            placed[:, j] = np.where(self.known[name], self.offsets[:, j], drawn)
        return placed


def _leaf(codec: CompactCodec, name: str, condition: Any) -> RowPredicate:
    """A condition on one field as a function of a table, by the same values that masks allow."""
    check_name(codec, name)
    with naming_column(name):
        return satisfies(codec, name, domain_of(condition, codec.schema[name], codec.tokens[name].grid))


def _comparable(codec: CompactCodec, name: str, table: pd.DataFrame) -> pd.Series:
    """A column as others relate to it: numbers and moments that came as texts are none."""
    if name in codec.schema.identifiers:
        check_name(codec, name)
    f = codec.schema[name]
    return f.read(table[name]) if f.is_spelled else table[name]


def _dry_run(codec: CompactCodec, predicates: list[RowPredicate], where: str) -> None:
    row = pd.DataFrame({f.name: pd.Series([filler(codec, f.name)], dtype=object) for f in codec.schema})
    table = codec.schema.conform(row)
    for holds in predicates:
        try:
            holds(table)
        except Exception as error:
            raise ValueError(f"where={shown(where)} relates what cannot be compared: {error}") from error


def _fails(function: Callable[[Any], Any], argument: Any) -> bool:
    try:
        function(argument)
    except ValueError:
        return True
    return False


def _overlaid(f: Field, column: pd.Series, given: pd.Series) -> pd.Series:
    """A column with the values that are given and that a field of this type can have, whatever its bounds."""
    is_set = given.notna().to_numpy()
    if f.is_numeric:
        is_set &= replace(f, minimum=None, maximum=None).allows(given)
    return column if not is_set.any() else column.astype(object).where(~is_set, given.astype(object))
