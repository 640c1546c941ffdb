"""Random numbers: a seed of each call, and from it those of each block, group and record."""

import numpy as np
import torch

from .checks import check_integer, shown


# The state of a generator on the CPU: its seed and counters, and 32 bits in each of these words of 64
FIRST_WORD, NUM_WORDS = 24, 624


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
    A generator on the CPU, as `torch.Generator().manual_seed(seed)` makes it: the lower 32 bits of a seed count.

    Raises:
        `ValueError`: for a seed that is no integer of 64 bits.
    """
    check_integer("seed", seed, -(2**63), 2**64 - 1)
    return torch.Generator().manual_seed(int(seed))


def generator_of(*numbers: int) -> torch.Generator:
    """
    A generator on the CPU for a part of what is drawn, from the numbers that name the part: a seed, and say a block.

    They fill the whole state of its Mersenne twister. `manual_seed` takes 32 bits of a seed, and of so few, some
    10⁵ parts have two that are the same.
    """
    words = _sequence(*numbers).generate_state(NUM_WORDS).astype("<u8")
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    state[FIRST_WORD : FIRST_WORD + words.nbytes] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, none of which can be guessed from another's."""
    return int(_sequence(*numbers).generate_state(1, np.uint64)[0] >> 1)


def _sequence(seed: int, *part: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=part)  # as entropy, (seed, 0) would be the same as (seed,)
