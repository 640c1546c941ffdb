"""Importance resampling: candidates drawn again in proportion to their weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


GROUP_SIZE = 1024  # records that are drawn again together
MAX_ROUNDS = 64  # of candidates, a group of them each
MAX_REPEATED = 0.02  # share of the records that are there more than once, above which more candidates are drawn
MIN_EFFECTIVE = 0.25  # effective sample size, as a share of the group, below which there is an error


def effective_sample_size(log_weights: np.ndarray) -> float:
    """How many candidates of equal weights would say as much: (Σw)² / Σw²."""
    highest = log_weights.max(initial=-np.inf)
    if np.isneginf(highest):
        return 0.0
    weights = np.exp(log_weights - highest)
    return float(weights.sum() ** 2 / np.square(weights).sum())


def resample(
    draw: Callable[[int], np.ndarray], num_records: int, offset: float, max_rounds: int = MAX_ROUNDS
) -> tuple[np.ndarray, float]:
    """
    Draws candidates, in as many rounds as it takes, and of all of them the records: systematic resampling, which takes
    a candidate of weight w either ⌊c·w⌋ or ⌈c·w⌉ times.

    Args:
        draw (`Callable`): Gives the logarithms of the weights of round k's candidates, of shape `(num_records,)`.
        num_records (`int`): Records to choose, and candidates of a round.
        offset (`float`): A uniform random number in [0, 1).
        max_rounds (`int`, defaults to 64): Rounds, at most.

    Returns:
        The chosen candidates, counted over all rounds, of shape `(num_records,)`, ascending, and the effective sample
        size as a share of the candidates.

    Raises:
        `RuntimeError`: when so many rounds are not enough. The message says how rare the condition was found to be.
    """
    log_weights, copies = np.empty(0), np.empty(0)
    for round_ in range(max_rounds):
        log_weights = np.append(log_weights, draw(round_))
        highest = log_weights.max(initial=-np.inf)
        if np.isneginf(highest):
            continue
        weights = np.exp(log_weights - highest)
        copies = weights * (num_records / weights.sum())
        if (copies - 1).clip(0).sum() <= MAX_REPEATED * num_records:
            break
    effective = effective_sample_size(log_weights)
    if effective < MIN_EFFECTIVE * num_records:
        share = np.exp(log_weights).mean()
        raise RuntimeError(
            f"the conditions are too rare: {len(log_weights):,} candidates are worth {effective:,.0f} independent "
            f"records, and {num_records:,} are needed; about {share:.2g} of the records of this model satisfy what is "
            "not known exactly. Widen the conditions, or ask for single values"
        )
    edges = copies.cumsum()
    chosen = np.searchsorted(edges, np.arange(num_records) + offset, side="right")
    return np.minimum(chosen, len(edges) - 1), effective / len(log_weights)
