"""The key-value cache of records, whose length is known before the first token."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """
    A `DynamicLayer` that writes new keys and values beside the old ones, where the other copies all of them.

    Unlike a `StaticLayer` it returns only what has been written, so that attention needs no mask. The sequences of the
    batch stay as they are: none is dropped, put elsewhere or cut.

    Args:
        max_length (`int`): Positions to make room for.
    """

    is_croppable = False

    def __init__(self, max_length: int):
        super().__init__()
        self.max_length = max_length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.buffers = [
            states.new_empty(*states.shape[:-2], self.max_length, states.shape[-1])
            for states in (key_states, value_states)
        ]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states)):
            buffer[..., start:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values


def preallocated_cache(config: PreTrainedConfig, max_length: int) -> DynamicCache:
    """
    The cache that a model of `config` would make, with room for `max_length` positions from the start.

    Layers of other kinds, such as those with a sliding window, stay what they are.
    """
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(max_length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
