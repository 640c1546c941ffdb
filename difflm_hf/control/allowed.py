"""Conditions as the ids that they allow at each position of a row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch


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
        sources (`dict[int, tuple[int, int]]`): The coarse position that those of steps go by, and its first id.

    `num_rows` is 1 where all records have the same conditions.
    """

    ids: torch.LongTensor
    is_known: torch.BoolTensor
    log_shares: dict[int, torch.Tensor] = field(default_factory=dict)
    sources: dict[int, tuple[int, int]] = field(default_factory=dict)

    def rows(self, start: int, num: int) -> AllowedIds:
        """Those of `num` records from `start` on, or of fewer at the end."""
        rows = slice(start, start + num)
        return replace(self, ids=self.ids[rows], is_known=self.is_known[rows])

    def to(self, device: torch.device) -> AllowedIds:
        log_shares = {position: shares.to(device) for position, shares in self.log_shares.items()}
        return replace(self, ids=self.ids.to(device), is_known=self.is_known.to(device), log_shares=log_shares)

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
