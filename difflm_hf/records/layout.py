"""Where the tokens of records stand that have lists in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from .bpe import BOS_ID, PAD_ID


@dataclass
class Gate:
    """
    A position that has a value only where an earlier one of its row says so; elsewhere it has the first of its ids.

    Args:
        position (`int`): The position.
        source (`int`): The earlier one.
        open_id (`int`): The id there that opens the gate.
        is_nullable (`bool`): Whether the position may have its first id where the gate is open.
    """

    position: int
    source: int
    open_id: int
    is_nullable: bool


@dataclass
class LevelLayout:
    """
    The tokens of a row: of a record without its lists, or of an item of a list.

    Args:
        ranges (`list[tuple[int, int]]`): The ids `[start, end)` of each position, which no other position has.
        gates (`list[Gate]`): What one position says of others.
        parent (`int`): The level whose rows have the list; −1 of records.
        length_position (`int`): The position there that says how many items it has.
        lengths (`list[int]`): How many, by the rank of the id that says it.
    """

    ranges: list[tuple[int, int]]
    gates: list[Gate] = field(default_factory=list)
    parent: int = -1
    length_position: int = -1
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.ranges = [(start, end) for start, end in self.ranges]
        self.gates = [gate if isinstance(gate, Gate) else Gate(**gate) for gate in self.gates]

    def limit(self, logits: torch.Tensor, position: int, ids: torch.LongTensor) -> torch.Tensor:
        """
        Logits of a position, −∞ for what its gate does not allow.

        Args:
            logits (`torch.Tensor` of shape `(num_rows, num_choices)`): Those of its range, which may go on beyond it.
            position (`int`): The position.
            ids (`torch.LongTensor` of shape `(num_rows, num_positions)`):
                The rows, up to that position; as many again and again where there are more logits.
        """
        for gate in self.gates:
            if gate.position == position:
                is_open = (ids[:, gate.source] == gate.open_id).repeat(len(logits) // len(ids))[:, None]
                is_first = torch.arange(logits.shape[1], device=logits.device) == 0
                refused = ~is_first & ~is_open if gate.is_nullable else is_first == is_open
                logits = logits.masked_fill(refused, -torch.inf)
        return logits


@dataclass
class LevelRows:
    """
    The rows of a level in a batch, those of a record together, and those of a list in their order.

    Args:
        ids (`torch.LongTensor` of shape `(num_rows, num_positions)`): Their tokens.
        parents (`torch.LongTensor` of shape `(num_rows,)`): The row of the parent level that each is in.
        places (`torch.LongTensor` of shape `(num_rows,)`): Where in its list each stands, from 0.
        records (`torch.LongTensor` of shape `(num_rows,)`): The record that each is in.
    """

    ids: torch.LongTensor
    parents: torch.LongTensor
    places: torch.LongTensor
    records: torch.LongTensor

    @classmethod
    def of_lists(cls, ids: torch.LongTensor, parents: torch.LongTensor, above: LevelRows | None) -> LevelRows:
        """Rows of lists, by their tokens and their parents, which ascend; of records where nothing is above."""
        if above is None:
            return cls(ids, torch.full_like(parents, -1), torch.zeros_like(parents), torch.arange(len(ids)).to(ids))
        places = torch.arange(len(parents), device=parents.device) - torch.searchsorted(parents, parents)
        return cls(ids, parents, places, above.records[parents])


class RecordLayout:
    """
    The order of a record's tokens: those of the record without its lists, then the items of each list, each followed
    by those of the lists inside it.

    Args:
        levels (`Sequence[LevelLayout]`): That of records, and of each list one, after that of the rows it is in.
    """

    def __init__(self, levels: Sequence[LevelLayout]):
        self.levels = list(levels)
        end = 1 + max(end for level in self.levels for _, end in level.ranges)
        # Of NumPy, as models are made on no device before they are loaded.
        self._level_of_first = np.full(end, -1)
        for number, level in enumerate(self.levels):
            start, end = level.ranges[0]
            self._level_of_first[start:end] = number

    @property
    def parents(self) -> list[int]:
        """Of each list the level of the rows that have it."""
        return [level.parent for level in self.levels[1:]]

    def to_list(self) -> list[dict[str, Any]]:
        """The levels as JSON values."""
        return [asdict(level) for level in self.levels]

    @classmethod
    def from_list(cls, levels: Sequence[dict[str, Any]]) -> RecordLayout:
        """A layout of what `to_list` gave."""
        return cls([LevelLayout(**level) for level in levels])

    def unpack(self, input_ids: torch.LongTensor) -> list[LevelRows]:
        """
        The rows of each level.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records from BOS on, right-padded.
        """
        known = torch.from_numpy(self._level_of_first).to(input_ids.device)
        found = known[input_ids.clamp(max=len(known) - 1)]
        length, flat, rows = input_ids.shape[1], input_ids.flatten(), []
        for number, level in enumerate(self.levels):
            is_first = (found == number).flatten()
            starts = is_first.nonzero()[:, 0]
            ids = flat[
                (starts[:, None] + torch.arange(len(level.ranges), device=flat.device)).clamp(max=len(flat) - 1)
            ]
            above = rows[level.parent] if level.parent >= 0 else None
            parents = starts // length
            if above is not None:
                parents = ((found == level.parent).flatten().cumsum(0) - 1)[starts]
            rows.append(LevelRows.of_lists(ids, parents, above))
        return rows

    def pack(self, ids: Sequence[torch.LongTensor], parents: Sequence[torch.LongTensor]) -> torch.LongTensor:
        """
        Records as sequences: the inverse of [`RecordLayout.unpack`].

        Args:
            ids (`Sequence[torch.LongTensor]`): The tokens of each level's rows.
            parents (`Sequence[torch.LongTensor]`): Their parents, which ascend.

        Returns:
            `torch.LongTensor` of shape `(batch_size, sequence_length)`, right-padded.
        """
        sizes = [torch.full((len(i),), len(level.ranges), device=i.device) for i, level in zip(ids, self.levels)]
        for number in range(len(self.levels) - 1, 0, -1):
            parent = self.levels[number].parent
            sizes[parent].index_add_(0, parents[number], sizes[number])
        packed = ids[0].new_full((len(ids[0]), 1 + int(sizes[0].max())), PAD_ID)
        packed[:, 0] = BOS_ID
        # Where in `packed` each row begins, and where the next list of its items does.
        flat, starts, ends = packed.view(-1), [], []
        for number, level in enumerate(self.levels):
            if number == 0:
                start = 1 + packed.shape[1] * torch.arange(len(packed), device=packed.device)
            else:
                of_parent, size = parents[number], sizes[number]
                before = size.cumsum(0) - size
                first = torch.searchsorted(of_parent, of_parent)
                start = ends[level.parent][of_parent] + before - before[first]
                ends[level.parent].index_add_(0, of_parent, size)
            places = start[:, None] + torch.arange(len(level.ranges), device=packed.device)
            flat[places] = ids[number]
            starts.append(start)
            ends.append(start + len(level.ranges))
        return packed

    def num_items(self, number: int, parent_ids: torch.LongTensor) -> torch.LongTensor:
        """
        How many items the lists of a level have, by the tokens of the rows that these are in.

        Args:
            number (`int`): The level.
            parent_ids (`torch.LongTensor` of shape `(num_rows, num_positions)`): The tokens.
        """
        level = self.levels[number]
        start, _ = self.levels[level.parent].ranges[level.length_position]
        lengths = torch.tensor(level.lengths, device=parent_ids.device)
        return lengths[parent_ids[:, level.length_position] - start]
