"""Random numbers by key and counter, so that each can be had without those before it."""

from __future__ import annotations

import torch


# Of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), as int64
GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
BITS = 53  # of a float64


def keys_of(uniforms: torch.Tensor) -> torch.LongTensor:
    """Keys of random numbers in [0, 1), of any shape."""
    return (uniforms.double() * 2**BITS).long()


def derive_keys(keys: torch.LongTensor, counters: torch.LongTensor | int) -> torch.LongTensor:
    """A key for each of some keys and a counter, by the function that SplitMix64 makes its numbers with."""
    mixed = keys + (torch.as_tensor(counters).to(keys) + 1) * GOLDEN
    for shift, factor in ((30, FIRST), (27, SECOND)):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    return mixed ^ _shifted(mixed, 31)


def uniforms_of(keys: torch.LongTensor) -> torch.DoubleTensor:
    """The random number in [0, 1) of each key."""
    return _shifted(keys, 64 - BITS).double() / 2**BITS


def _shifted(values: torch.LongTensor, bits: int) -> torch.LongTensor:
    """Of 64 bits without a sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
