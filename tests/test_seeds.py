"""Random numbers of the parts of a call."""

import pytest
import torch

from difflm_hf.seeds import generator_of, mix


def drawn(*numbers: int) -> torch.Tensor:
    return torch.randint(2**62, (4,), generator=generator_of(*numbers))


def test_same_numbers_give_the_same_generator():
    assert drawn(2**61 + 1, 5, 0).equal(drawn(2**61 + 1, 5, 0))


def test_parts_whose_seeds_share_32_bits_differ():
    """So many parts of one seed have pairs of them, and one of these is found here."""
    seed, seen = 0, {}
    for part in range(10**6):
        low = mix(seed, part) % 2**32
        if low in seen:
            break
        seen[low] = part
    cut = [torch.Generator().manual_seed(mix(seed, number)).get_state() for number in (part, seen[low])]
    assert cut[0][24:].equal(cut[1][24:])
    assert not drawn(seed, part).equal(drawn(seed, seen[low]))


@pytest.mark.parametrize("numbers", [(7, 0), (7, 0, 0), (7 + 2**32,), (7, 1), (0, 7)])
def test_what_names_another_part_gives_others(numbers):
    assert not drawn(7).equal(drawn(*numbers))
    assert mix(7) != mix(*numbers)


def test_numbers_are_uniform_and_normal():
    generators = [generator_of(0, block) for block in range(2_000)]
    uniform = torch.stack([torch.rand(16, generator=generator) for generator in generators])
    normal = torch.stack([torch.randn(16, generator=generator) for generator in generators])
    assert uniform.mean(0).sub(0.5).abs().max() < 5 * (1 / 12 / 2_000) ** 0.5
    assert normal.mean(0).abs().max() < 5 / 2_000**0.5
    assert normal.std(0).sub(1).abs().max() < 5 / 4_000**0.5
    assert torch.corrcoef(uniform.T).fill_diagonal_(0).abs().max() < 5 / 2_000**0.5
