"""The lists of a record, for [`RunningSumModel`]: each item is a row, that goes by the record and the items before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_running_sum import RunningSumConfig
from .positionwise import PositionwiseLinear, RunningSumBlock, running_sums
from .records.layout import LevelRows


class ItemMemory(nn.Module):
    """
    What is known of a list at each of its items: a recurrent state, and what a list is to all that comes after it:
    the mean of its items, and the last state.

    Args:
        config ([`RunningSumConfig`]): The configuration.
    """

    def __init__(self, config: RunningSumConfig):
        super().__init__()
        self.cell = nn.GRUCell(config.embedding_size, config.memory_size)
        size = config.memory_size + config.embedding_size
        if config.is_decoder:
            self.to_item = nn.Linear(size, config.embedding_size, bias=False)
        self.to_rest = nn.Linear(size, config.embedding_size, bias=False)

    def start(self, num_lists: int) -> torch.Tensor:
        """The state of lists before their first item, of shape `(num_lists, memory_size + embedding_size)`."""
        return self.to_rest.weight.new_zeros(num_lists, self.to_rest.in_features)

    def step(self, terms: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The state after an item: the recurrent one, and the item itself, from which the next may differ little."""
        terms = terms.to(state.dtype)
        return torch.cat([self.cell(terms, state[:, : self.cell.hidden_size]), terms], dim=1)

    def run(self, terms: torch.Tensor, rows: LevelRows, num_lists: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Reads whole lists.

        Args:
            terms (`torch.Tensor` of shape `(num_items, embedding_size)`): The sum of each item's embeddings.
            rows ([`LevelRows`]): The items.
            num_lists (`int`): Lists, those without items included.

        Returns:
            The state before each item, of shape `(num_items, memory_size + embedding_size)`, and for each list what it
            adds to the sum of all that comes after it, of shape `(num_lists, embedding_size)`.
        """
        lengths = torch.bincount(rows.parents, minlength=num_lists)
        # Longest lists first: those that have an item at a place are the first ones then.
        order = lengths.argsort(descending=True, stable=True)
        rank = order.argsort()
        by_place = (rows.places * num_lists + rank[rows.parents]).argsort()
        sorted_terms = terms[by_place]
        state, states, start = self.start(num_lists), [], 0
        for size in torch.bincount(rows.places).tolist():
            states.append(state[:size])
            state = torch.cat([self.step(sorted_terms[start : start + size], state[:size]), state[size:]])
            start += size
        before = torch.cat(states)[by_place.argsort()] if states else self.start(0)
        sums = terms.new_zeros(num_lists, terms.shape[1]).index_add(0, rows.parents, terms)
        return before, self.summary(sums, state[rank], lengths)

    def summary(self, sums: torch.Tensor, state: torch.Tensor, lengths: torch.LongTensor) -> torch.Tensor:
        """What lists add to the sum of all after them, by the sums over their items and their last states."""
        whole = sums / lengths.clamp(min=1)[:, None] + self.to_rest(state).float()
        return whole.where((lengths > 0)[:, None], 0)


class ItemLevel(nn.Module):
    """
    The items of a list.

    Args:
        config ([`RunningSumConfig`]): The configuration.
        num_positions (`int`): Positions of an item.
    """

    def __init__(self, config: RunningSumConfig, num_positions: int):
        super().__init__()
        self.memory = ItemMemory(config)
        if config.is_decoder:
            self.proj_in = PositionwiseLinear(num_positions, config.embedding_size, config.hidden_size)
            self.bias = nn.Parameter(torch.empty(num_positions, 1, config.hidden_size))
            self.blocks = nn.ModuleList(RunningSumBlock(config, num_positions) for _ in range(config.num_blocks))

    def states(self, sums: torch.Tensor, positions: slice) -> torch.Tensor:
        """
        Args:
            sums (`torch.Tensor` of shape `(num_positions, num_items, embedding_size)`): What is before each position.
            positions (`slice`): The positions.

        Returns:
            `torch.Tensor` of shape `(num_positions, num_items, hidden_size)`.
        """
        hidden = self.proj_in(sums.to(self.bias.dtype), positions, added=self.bias[positions])
        for block in self.blocks:
            hidden = block(hidden, positions)
        return F.layer_norm(hidden, hidden.shape[-1:])


def summarize(
    levels: Sequence[ItemLevel], parents: Sequence[int], rows: Sequence[LevelRows], embedding: nn.Embedding
) -> torch.Tensor:
    """
    What an encoder makes of records: the sum of their tokens' embeddings, and what their lists add to it, from the
    innermost outwards, of shape `(batch_size, embedding_size)`.
    """
    sums = [embedding(of_level.ids).float().sum(1) for of_level in rows]
    for number in range(len(rows) - 1, 0, -1):
        above = parents[number - 1]
        sums[above] = sums[above] + levels[number - 1].memory.run(sums[number], rows[number], len(sums[above]))[1]
    return sums[0]


def item_states(
    levels: Sequence[ItemLevel],
    parents: Sequence[int],
    rows: Sequence[LevelRows],
    embedding: nn.Embedding,
    root: torch.Tensor,
    dropout: float = 0.0,
) -> list[torch.Tensor]:
    """
    The states that the tokens of all items are predicted from.

    Args:
        levels (`Sequence[ItemLevel]`): Those of the lists.
        parents (`Sequence[int]`): Of each the level of the rows that have it.
        rows (`Sequence[LevelRows]`): Those of all levels.
        embedding (`nn.Embedding`): The embeddings of tokens.
        root (`torch.Tensor` of shape `(batch_size, embedding_size)`): The sums of the records without their lists.
        dropout (`float`, defaults to 0.0): Share of the items that lose embeddings from their sums.

    Returns:
        For each list a `torch.Tensor` of shape `(num_positions, num_items, hidden_size)`.
    """
    after, found = [root], []
    for number, (level, above) in enumerate(zip(levels, parents), 1):
        of_level = rows[number]
        terms = embedding(of_level.ids).float()
        if dropout > 0:
            rates, chosen = torch.rand(2, len(terms), 1, device=terms.device)
            terms = terms * (torch.rand(terms.shape[:2], device=terms.device) >= rates * (chosen < dropout))[..., None]
        whole = terms.sum(1)
        before, summary = level.memory.run(whole, of_level, len(after[above]))
        context = after[above][of_level.parents] + level.memory.to_item(before).float()
        sums = running_sums(torch.cat([context[:, None], terms[:, :-1]], dim=1)).transpose(0, 1)
        found.append(level.states(sums, slice(0, len(sums))))
        after.append(context + whole)
        after[above] = after[above] + summary
    return found
