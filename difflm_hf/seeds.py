"""Random numbers: a seed of each call, and from it those of each block, group and record."""

import numpy as np
import torch

from .checks import check_integer, shown


def draw_seed(generator: torch.Generator | None) -> int:
    """
    A seed of 62 bits, which stands for all that is drawn of a call, on whatever device its generator is.

    Raises:
        `ValueError`: for what is no generator.
    """
    check_generator(generator)
    device = None if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def check_generator(generator: torch.Generator | None) -> None:
    """Raises a `ValueError` for what is no source of random numbers."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(
            f"generator={shown(generator)} is no torch.Generator; give torch.Generator().manual_seed(seed)"
        )


def seeded_generator(seed: int) -> torch.Generator:
    """
    A generator on the CPU.

    Raises:
        `ValueError`: for a seed that is no integer of 64 bits.
    """
    check_integer("seed", seed, -(2**63), 2**64 - 1)
    return torch.Generator().manual_seed(int(seed))


def mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers, none of which can be guessed from another's."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
