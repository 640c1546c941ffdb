"""Conditions as the ids that they allow at each position of a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..records.numbers import QuantileBins
from .predicates import FREE


@dataclass
class IdLimits:
    """
    Which ids are allowed at a position.

    Args:
        which (`torch.LongTensor` of shape `(num_rows,)`): The limit of each row; −1 where all ids are allowed.
        is_allowed (`torch.BoolTensor` of shape `(num_limits, range_size)`): The ids of each limit.
    """

    which: torch.LongTensor
    is_allowed: torch.BoolTensor

    def to(self, device: torch.device) -> IdLimits:
        return replace(self, which=self.which.to(device), is_allowed=self.is_allowed.to(device))

    def log_shares(self, ids: torch.LongTensor) -> torch.Tensor:
        """As [`AllowedIds.log_shares`]."""
        is_allowed = self.is_allowed[self.which] | (self.which == FREE)[:, None]
        return torch.zeros(is_allowed.shape, device=ids.device).masked_fill(~is_allowed, -torch.inf)


@dataclass
class StepLimits:
    """
    Which shares of the steps inside bins are allowed.

    Args:
        which (`torch.LongTensor` of shape `(num_rows,)`): As of [`IdLimits`].
        intervals (`np.ndarray` of shape `(num_limits, num_intervals, 2)`, `uint64`):
            Grid points, both ends inclusive; those that end before they start are none.
        bins (`QuantileBins`): The bins.
        source (`int`): The position at which the bin is written.
        first_bin (`int`): The id of the first bin.
    """

    which: torch.LongTensor
    intervals: np.ndarray
    bins: QuantileBins
    source: int
    first_bin: int

    def to(self, device: torch.device) -> StepLimits:
        return self  # whose shares are found on the CPU

    def log_shares(self, ids: torch.LongTensor) -> torch.Tensor:
        """As [`AllowedIds.log_shares`]."""
        bins = ids[1 + self.source].cpu().numpy() - self.first_bin
        which = np.broadcast_to(self.which.numpy(), len(bins))
        is_limited = (which != FREE) & (0 <= bins) & (bins < self.bins.num_bins)
        shares = np.ones((len(bins), self.bins.num_steps), np.float32)
        intervals = self.intervals[which[is_limited]].transpose(1, 2, 0)
        shares[is_limited] = self.bins.shares(intervals, bins[is_limited])
        return torch.from_numpy(shares).log().to(ids.device)


@dataclass
class AllowedIds:
    """
    What conditions leave of each position of a row, after BOS and before the texts.

    Args:
        ids (`torch.LongTensor` of shape `(num_rows, num_positions)`): Ids that are known, and any others.
        is_known (`torch.BoolTensor` of the same shape): Which of them are known.
        limits (`dict[int, IdLimits | StepLimits]`): Of positions that are neither known nor free in all rows.
        items (`dict[int, AllowedIds]`): Of records with lists, what is left of their items, by level.
        numbers (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
            Of records whose items have conditions each, which rows of the next levels' `starts` are theirs.
        starts (`torch.LongTensor` of shape `(num_rows_above + 1,)`, *optional*):
            Of items with conditions each, where those of each row of the level above begin. The last row of all is
            for any others.

    `num_rows` is 1 where all have the same conditions.
    """

    ids: torch.LongTensor
    is_known: torch.BoolTensor
    limits: dict[int, IdLimits | StepLimits] = field(default_factory=dict)
    items: dict[int, AllowedIds] = field(default_factory=dict)
    numbers: torch.LongTensor | None = None
    starts: torch.LongTensor | None = None

    def take(self, rows: slice | np.ndarray) -> AllowedIds:
        """Those of some records, or items, where each has its own."""
        limits = {position: replace(of, which=of.which[rows]) for position, of in self.limits.items()}
        numbers = None if self.numbers is None else self.numbers[rows]
        return replace(self, ids=self.ids[rows], is_known=self.is_known[rows], limits=limits, numbers=numbers)

    def with_free_row(self) -> AllowedIds:
        """The same with one more row, of which nothing is known."""
        limits = {k: replace(of, which=F.pad(of.which, (0, 1), value=FREE)) for k, of in self.limits.items()}
        ids, is_known = F.pad(self.ids, (0, 0, 0, 1)), F.pad(self.is_known, (0, 0, 0, 1))
        return replace(self, ids=ids, is_known=is_known, limits=limits)

    def rows_of_items(self, rows_above: torch.LongTensor, place: int) -> torch.LongTensor:
        """The rows of the items at a place in the lists of rows of the level above, of which −1 is none."""
        first = self.starts[rows_above.clamp(min=0)]
        end = self.starts[rows_above.clamp(min=0) + 1]
        return torch.where((rows_above >= 0) & (first + place < end), first + place, -1)

    def batches(self, size: int) -> Iterator[AllowedIds]:
        """Those of `size` records at a time, or again and again those of all."""
        if len(self.ids) == 1:
            return itertools.repeat(self)
        return (self.take(slice(start, start + size)) for start in range(0, len(self.ids), size))

    def to(self, device: torch.device) -> AllowedIds:
        limits = {position: of.to(device) for position, of in self.limits.items()}
        items = {number: allowed.to(device) for number, allowed in self.items.items()}
        numbers, starts = (None if t is None else t.to(device) for t in (self.numbers, self.starts))
        return AllowedIds(self.ids.to(device), self.is_known.to(device), limits, items, numbers, starts)

    def shifted(self, offset: int) -> AllowedIds:
        """The same with ids that begin later in the vocabulary."""
        limits = {
            position: replace(of, first_bin=of.first_bin + offset) if isinstance(of, StepLimits) else of
            for position, of in self.limits.items()
        }
        return replace(self, ids=self.ids + offset, limits=limits)

    def log_shares(self, position: int, ids: torch.LongTensor) -> torch.Tensor | None:
        """
        The logarithm of the share of each id that is allowed at a position, of shape `(num_rows, range_size)` or
        `(batch_size, range_size)`, for records of which `ids`, of shape `(1 + num_positions, batch_size)`, are written
        up to there. `None` where all is allowed.
        """
        limits = self.limits.get(position)
        return None if limits is None else limits.log_shares(ids)
