"""Importance resampling: candidates drawn again in proportion to their weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from ..records.bpe import PAD_ID


GROUP_SIZE = 1024  # records that are drawn again together
FIRST_GROUP_SIZE = 64  # those that come first of all, so that a call for a few does not wait for a thousand
MAX_ROUNDS = 64  # of candidates, a group of them each
MAX_REDRAWS = 256  # of the records that are not valid yet, where each has conditions of its own
MAX_REPEATED = 0.02  # share of the records that are there more than once, above which more candidates are drawn
MIN_EFFECTIVE = 0.5  # effective sample size, as a share of the group, below which there is an error
MAX_CANDIDATES = 16  # records of one latent, of which one is chosen
NUM_LIMITED = GROUP_SIZE // MAX_CANDIDATES  # records of which more is asked than values, with their candidates
GOOD = 0.8  # effective sample size of these, as a share of them, from which on there need not be more


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
        The chosen candidates, counted over all rounds, of shape `(num_records,)`, in an order that is random, and the
        effective sample size as a share of the candidates.

    Raises:
        `RuntimeError`: when so many rounds are not enough. The message says how rare the condition was found to be.
    """
    log_weights, copies = np.empty(0), np.empty(0)
    for round_ in range(max_rounds):
        log_weights = np.append(log_weights, draw(round_))
        share_of_rounds = (round_ + 1) / max_rounds
        if share_of_rounds >= 1 / 8:  # so rare that all rounds would find a quarter of what is needed at most
            if 4 * effective_sample_size(log_weights) < share_of_rounds * MIN_EFFECTIVE * num_records:
                break
        highest = log_weights.max(initial=-np.inf)
        if np.isneginf(highest):
            continue
        weights = np.exp(log_weights - highest)
        copies = weights * (num_records / weights.sum())
        if (copies - 1).clip(0).sum() <= MAX_REPEATED * num_records:
            break
    effective = effective_sample_size(log_weights)
    if effective < MIN_EFFECTIVE * num_records:
        share = np.exp(np.minimum(log_weights, 0)).mean()  # scores may give weights above 1
        raise RuntimeError(
            f"the conditions are too rare: {len(log_weights):,} candidates are worth {effective:,.0f} independent "
            f"records, and {num_records:,} are needed; about {share:.2g} of the records of this model satisfy what is "
            "not known exactly. Widen the conditions, or ask for single values"
        )
    edges = copies.cumsum()
    chosen = np.searchsorted(edges, np.arange(num_records) + offset, side="right")
    # Copies of a candidate are not to stand side by side.
    order = np.random.default_rng(int(offset * 2**53)).permutation(num_records)
    return np.minimum(chosen, len(edges) - 1)[order], effective / len(log_weights)


def redraw(draw: Callable[[int, np.ndarray], tuple[pd.DataFrame, np.ndarray]], num_records: int) -> pd.DataFrame:
    """
    Draws records, and those again that are not valid, until all are.

    Args:
        draw (`Callable`):
            Gives some of the records, by their places, in round k, and which of them are valid, of shape
            `(num_drawn,)`.
        num_records (`int`): Records.

    Returns:
        `pandas.DataFrame`: Of each record the first one that is valid.

    Raises:
        `RuntimeError`: when 256 rounds are not enough for one.
    """
    open_rows, tables, places = np.arange(num_records), [], np.zeros(num_records, int)
    num_drawn = 0
    for round_ in range(MAX_REDRAWS):
        table, is_valid = draw(round_, open_rows)
        places[open_rows] = num_drawn + np.arange(len(table))
        tables.append(table)
        num_drawn += len(table)
        open_rows = open_rows[~is_valid]
        if len(open_rows) == 0:
            return pd.concat(tables, ignore_index=True).iloc[places].reset_index(drop=True)
    raise RuntimeError(
        f"{len(open_rows)} of {num_records} records, row {open_rows[0]} before all others, keep no rule or score in "
        f"{MAX_REDRAWS} draws given what is known of them; leave out more of what is known"
    )


def choose_candidates(
    candidates: Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    max_candidates: int,
    choices: torch.Tensor,
    one_by_one: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draws records of each latent, twice as many as long as their weights differ much, and chooses one of each in
    proportion to its weight.

    Args:
        candidates (`Callable`):
            Gives ids of shape `(num_records, length)`, and of shape `(num_records,)` the logarithms of the records'
            weights among those of their latent, and of the weights of these latents among others.
        max_candidates (`int`): Records of a latent, at most; 1 leaves no choice.
        choices (`torch.Tensor` of shape `(num_records, 1)`): Uniform random numbers in [0, 1), for the choice.
        one_by_one (`bool`, defaults to `False`):
            Whether each latent decides for itself how many records are drawn, so that those of other latents, which
            may be more or fewer, change nothing of it; else all of them together.

    Returns:
        The chosen ids, and the logarithms of the latents' weights, each the mean over its records.
    """
    if max_candidates == 1:
        ids, _, of_latents = candidates()
        return ids, of_latents
    ids, log_weights, of_latents = ([part] for part in candidates())
    numbers = torch.full((len(ids[0]), 1), max_candidates, device=log_weights[0].device)
    is_open = torch.ones_like(numbers, dtype=torch.bool)
    while is_open.any() and len(ids) < max_candidates:
        for _ in range(len(ids)):
            for parts, part in zip((ids, log_weights, of_latents), candidates()):
                parts.append(part)
        effective = 1 / torch.stack(log_weights, 1).softmax(1).square().sum(1, keepdim=True)
        is_good = (effective if one_by_one else effective.mean().expand_as(effective)) >= GOOD * len(ids)
        numbers[is_open & is_good] = len(ids)
        is_open &= ~is_good
    is_left = torch.arange(len(ids), device=numbers.device) < numbers
    weights = torch.stack(log_weights, 1).masked_fill(~is_left, -torch.inf).softmax(1)
    chosen = torch.searchsorted(weights.cumsum(1), choices.to(weights), right=True).clamp(max=numbers - 1).squeeze(1)
    length = max(part.shape[1] for part in ids)
    padded = torch.stack([torch.nn.functional.pad(part, (0, length - part.shape[1]), value=PAD_ID) for part in ids])
    of_left = torch.stack(of_latents, 1).masked_fill(~is_left, -torch.inf)
    log_means = of_left.logsumexp(1) - numbers.squeeze(1).log()
    return padded[chosen, torch.arange(len(chosen))], log_means


def choose_of_each(log_weights: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """
    Chooses one of the candidates of each record in proportion to their weights.

    Args:
        log_weights (`np.ndarray` of shape `(num_candidates, num_records)`): The logarithms of weights.
        choices (`np.ndarray` of shape `(num_records,)`): Uniform random numbers in [0, 1).

    Returns:
        `np.ndarray` of shape `(num_records,)`: places among all candidates, those of the first of each record first.
    """
    num_candidates, num_records = log_weights.shape
    highest = log_weights.max(0)
    shares = np.exp(log_weights - np.where(np.isfinite(highest), highest, 0)).cumsum(0)
    chosen = (shares <= choices * shares[-1]).sum(0).clip(max=num_candidates - 1)
    return chosen * num_records + np.arange(num_records)
