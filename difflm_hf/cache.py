"""A key-value cache that does not copy what it holds at each token."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class BufferedLayer(DynamicLayer):
    """
    A `DynamicLayer` that writes new keys and values beside the old ones, where the other copies all of them.

    Unlike a `StaticLayer` it returns only what has been written, so that attention needs no mask, and what is full
    makes room for half as many positions again.

    Args:
        room (`int`): Positions to make room for at first.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        states = (self.keys, self.values), (key_states, value_states)
        # Sequences that were selected or repeated are elsewhere.
        is_inside = start > 0 and self.keys.data_ptr() == self.buffers[0].data_ptr()
        if not is_inside or end > self.buffers[0].shape[-2]:
            room = max(self.room, end + end // 2 if start else end)
            self.buffers = [new.new_empty(*new.shape[:-2], room, new.shape[-1]) for new in states[1]]
            if start:
                for buffer, old in zip(self.buffers, states[0]):
                    buffer[..., :start, :] = old
        for buffer, new in zip(self.buffers, states[1]):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values


def buffered_cache(config: PreTrainedConfig, room: int) -> DynamicCache:
    """
    The cache that a model of `config` would make, with room for `room` positions from the start.

    Layers of other kinds, such as those with a sliding window, stay what they are.
    """
    cache = DynamicCache(config=config)
    cache.layers = [BufferedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
