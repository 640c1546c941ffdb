"""Conditions as the ids that they allow at each position of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..records import CompactCodec
from ..records.field import naming_column
from .predicates import Domain, domain_of
from .where import RowPredicate, parse_where


@dataclass
class AllowedIds:
    """
    What conditions leave of each position of a row, after BOS and before the texts.

    Args:
        ids (`torch.LongTensor` of shape `(num_rows, num_positions)`): Ids that are known, and any others.
        is_known (`torch.BoolTensor` of the same shape): Which of them are known.
        log_shares (`dict[int, torch.Tensor]`):
            Of positions that are neither known nor free: the logarithm of the share of each id that is allowed, of
            shape `(range_size,)`; of the steps inside bins `(num_coarse_ids, range_size)`, by the coarse id.
        sources (`dict[int, int]`): The coarse position that those of steps go by.

    `num_rows` is 1 where all records have the same conditions.
    """

    ids: torch.LongTensor
    is_known: torch.BoolTensor
    log_shares: dict[int, torch.Tensor] = field(default_factory=dict)
    sources: dict[int, tuple[int, int]] = field(default_factory=dict)

    def rows(self, start: int, num: int) -> AllowedIds:
        """Those of `num` records from `start` on."""
        if len(self.ids) == 1:
            return self
        return AllowedIds(self.ids[start : start + num], self.is_known[start : start + num])

    def to(self, device: torch.device) -> AllowedIds:
        moved = {position: shares.to(device) for position, shares in self.log_shares.items()}
        return AllowedIds(self.ids.to(device), self.is_known.to(device), moved, self.sources)

    def at(self, position: int, ids: torch.LongTensor) -> torch.Tensor | None:
        """
        The logarithms of allowed shares at a position, for records of which `ids`, of shape
        `(1 + num_positions, batch_size)`, are written up to there. `None` where all is allowed.
        """
        shares = self.log_shares.get(position)
        if shares is None or shares.ndim == 1:
            return shares
        source, start = self.sources[position]
        return shares[ids[1 + source] - start]


class Condition:
    """
    What records have to satisfy, for a codec: what each field may be, and what relates several fields.

    Args:
        codec (`CompactCodec`): The codec of the records.
        conditions (`Mapping` or `pandas.DataFrame`, *optional*):
            For fields by name: a value, a list of values, `None` for null, or a predicate such as [`Between`], for all
            records. A table has a row for each record instead, whose nulls are not known.
        where (`str`, *optional*): An expression, see [`parse_where`].

    Raises:
        `ValueError`: for unknown fields, values that they cannot have, and conditions that contradict each other. The
            message names the field.
    """

    def __init__(
        self, codec: CompactCodec, conditions: Mapping[str, Any] | pd.DataFrame | None = None, where: str | None = None
    ):
        self.codec = codec
        self.predicates: list[RowPredicate] = []
        self.domains: dict[str, Domain] = {}
        names = codec.schema.names
        if isinstance(conditions, pd.DataFrame):
            if where is not None:
                raise ValueError("where is for all records alike; put what it says into the table of conditions")
            self._read_table(conditions)
            return
        if conditions is not None and not isinstance(conditions, Mapping):
            raise ValueError(f"conditions are a dict or a DataFrame, not {type(conditions).__name__}")
        given = {name: [condition] for name, condition in (conditions or {}).items()}
        if where is not None:
            read, self.predicates = parse_where(where, names)
            for name, condition in read.items():
                given.setdefault(name, []).append(condition)
        if not given and not self.predicates:
            raise ValueError("there are no conditions; name at least one field")
        for name, each in given.items():
            self._check_name(name)
            f, grid = codec.schema[name], codec.tokens[name].grid
            with naming_column(name):
                domains = [domain_of(condition, f, grid) for condition in each]
                domain = domains[0] if len(domains) == 1 else domains[0] & domains[1]
                if domain.is_empty:
                    raise ValueError(f"no value of {f.description} satisfies {each if len(each) > 1 else each[0]!r}")
            self.domains[name] = domain
        self._read_domains()

    def holds(self, table: pd.DataFrame) -> np.ndarray:
        """Which records satisfy what relates several fields, as a `bool` array of shape `(num_records,)`."""
        return np.logical_and.reduce([np.ones(len(table), bool), *(holds(table) for holds in self.predicates)])

    @property
    def num_rows(self) -> int | None:
        """Records that there are conditions for, one by one; `None` where they are for all."""
        return None if len(self.allowed.ids) == 1 and not self._is_table else len(self.allowed.ids)

    def _check_name(self, name: str) -> None:
        schema = self.codec.schema
        if name not in schema.names:
            raise ValueError(f"no field {name!r} to put a condition on; the fields are {schema.names}")
        if name not in self.codec.tokens:
            raise ValueError(f"column {name!r}: conditions on a {schema[name].type} are not possible")

    _is_table = False

    def _read_table(self, table: pd.DataFrame) -> None:
        self._is_table = True
        if len(table) == 0:
            raise ValueError("the table of conditions has no rows")
        for name in table.columns:
            self._check_name(name)
        known = {
            name: table[name].notna().to_numpy() if name in table else np.zeros(len(table), bool)
            for name in self.codec.tokens
        }
        columns = {}
        for f in self.codec.schema:
            column = pd.Series([self._filler(f.name)] * len(table), dtype=object)
            if f.name in table:
                column = column.where(~known[f.name], table[f.name].reset_index(drop=True).astype(object))
            columns[f.name] = column
        self._encode(pd.DataFrame(columns), known)

    def _encode(self, table: pd.DataFrame, known: dict[str, np.ndarray]) -> None:
        ids, self.offsets = self.codec.encode_fields(self.codec.schema.conform(table), known)
        fields = list(known)
        is_known = np.stack([known[fields[k]] for k in self.codec.position_fields], axis=1)
        self.allowed = AllowedIds(torch.from_numpy(ids), torch.from_numpy(is_known))
        self.is_known = {name: known[name] for name in self.codec.binned}

    def _filler(self, name: str) -> Any:
        """Any value of a field."""
        f, t = self.codec.schema[name], self.codec.tokens.get(name)
        if t is None:
            return None if f.nullable or f.type == "null" else ""
        if t.grid is None:
            return t.values[0]
        point = t.values[:1] or t.bins.starts[:1]
        return f.to_series(t.grid.decode(f, np.array(point, np.uint64)), np.zeros(1, bool)).tolist()[0]

    def _read_domains(self) -> None:
        """What has one value left is known, and of the rest a share of each id is allowed."""
        codec, known, row = self.codec, {}, {f.name: self._filler(f.name) for f in self.codec.schema}
        for name in codec.tokens:
            value = self._only_value(name) if name in self.domains else []
            known[name] = np.array([bool(value)])
            if value:
                row[name] = value[0]
        self._encode(pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()}), known)
        for position, name in enumerate(codec.tokens):
            if name in self.domains and not known[name][0]:
                self._limit(position, name)

    def _only_value(self, name: str) -> list[Any]:
        """The value that a condition leaves, in a list, or an empty list if there are others."""
        domain, f, t = self.domains[name], self.codec.schema[name], self.codec.tokens[name]
        if domain.choices is not None:
            values = [t.values[k] for k in domain.choices.nonzero()[0]]
        else:
            points = [start for start, _ in domain.intervals]
            if any(end > start for start, end in domain.intervals):
                return []
            values = t.grid.decode(f, np.array(points, np.uint64))
            values = f.to_series(values, np.zeros(len(points), bool)).tolist() if points else []
        values += [None] * domain.null
        return values if len(values) == 1 else []

    def _limit(self, position: int, name: str) -> None:
        codec, domain = self.codec, self.domains[name]
        f, t = codec.schema[name], codec.tokens[name]
        null = [domain.null] * f.nullable
        if domain.choices is not None:
            coarse = np.array([*null, *domain.choices])
        else:
            intervals = np.array(domain.intervals, np.uint64).reshape(-1, 2)
            own = np.array(t.values, np.uint64)
            coarse = [*null, *((intervals[:, 0] <= own[:, None]) & (own[:, None] <= intervals[:, 1])).any(1)]
            if t.bins is not None:
                fine = t.bins.shares(intervals)
                sources = [self.domains.get(source) for source in t.copies]
                copies = [
                    source is not None and _is_inside(codec, source, domain, s, name)
                    for s, source in zip(t.copies, sources)
                ]
                num_others = len(coarse)
                coarse = [*coarse, *(fine > 0).any(1), *copies]
                shares = np.ones((len(coarse), t.bins.num_steps))
                shares[num_others : num_others + t.bins.num_bins] = fine
                step = len(codec.tokens) + codec.binned.index(name)
                self.allowed.log_shares[step] = torch.from_numpy(shares).log().float()
                self.allowed.sources[step] = position, t.start
            coarse = np.array(coarse)
        if not coarse.any():
            raise ValueError(f"column {name!r}: no value of the training data satisfies the condition on it")
        self.allowed.log_shares[position] = torch.from_numpy(coarse.astype(np.float32)).log()

    def place(self, input_ids: np.ndarray, offsets: np.ndarray, start: int = 0) -> np.ndarray:
        """
        Where in its step each number lies.

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Ids, BOS included.
            offsets (`np.ndarray` of shape `(num_records, num_binned_fields)`): Uniform random numbers in [0, 1).
            start (`int`, defaults to 0): The first record, of those with conditions one by one.

        Returns:
            `np.ndarray` of the same shape, `uint64`: grid points from the start of the step.
        """
        placed = np.empty(offsets.shape, np.uint64)
        for j, name in enumerate(self.codec.binned):
            t, f = self.codec.tokens[name], self.codec.schema[name]
            num_others = f.nullable + len(t.values)
            coarse = input_ids[:, 1 + list(self.codec.tokens).index(name)] - t.start - num_others
            bins = np.clip(coarse, 0, t.bins.num_bins - 1)
            steps = input_ids[:, 1 + len(self.codec.tokens) + j] - t.fine_start
            domain = self.domains.get(name)
            intervals = [(0, t.grid.size - 1)] if domain is None else domain.intervals
            placed[:, j] = t.bins.place(bins, steps, offsets[:, j], np.array(intervals, np.uint64).reshape(-1, 2))
            known = self.is_known[name]
            if len(known) == 1:
                if known[0]:
                    placed[:, j] = self.offsets[0, j]
            else:
                rows = slice(start, start + len(offsets))
                placed[:, j] = np.where(known[rows], self.offsets[rows, j], placed[:, j])
        return placed


def _is_inside(codec: CompactCodec, source: Domain, domain: Domain, source_name: str, name: str) -> bool:
    """Whether all values that a condition leaves of a field satisfy that on one that repeats them."""
    if source.null or source.intervals is None:
        return False
    own, other = codec.tokens[name].grid, codec.tokens[source_name].grid
    for start, end in source.intervals:
        low, high = (int(own.floor(other.to_units(np.array([p], np.uint64)))[0]) for p in (start, end))
        if not any(a <= low and high <= b for a, b in domain.intervals):
            return False
    return True
