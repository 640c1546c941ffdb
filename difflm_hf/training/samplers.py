"""In which order training takes records."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler):
    """
    Records in an order in which those of a batch are of about the same length, another in each epoch. In contrast to
    the sampler of transformers, long and short batches come in any order.

    Args:
        lengths (`torch.Tensor` of shape `(num_records,)`): Tokens of each record.
        batch_size (`int`): Records in a batch.
        seed (`int`): Of the orders.
    """

    NUM_BATCHES = 50  # of records that are drawn at random and sorted among each other

    def __init__(self, lengths: torch.Tensor, batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups = torch.randperm(len(self), generator=generator).split(self.NUM_BATCHES * self.batch_size)
        ordered = torch.cat([group[self.lengths[group].argsort(stable=True)] for group in groups])
        *batches, rest = ordered.split(self.batch_size)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return iter([index for batch in (*(batches[i] for i in order), rest) for index in batch.tolist()])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
