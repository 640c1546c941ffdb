"""Attacks that tell training records from others, and how sure it is that they do."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata


FALSE_POSITIVE_RATE = 0.01
NUM_RESAMPLES = 1000
CURVE = np.linspace(0, 1, 201) ** 3  # false-positive rates of a curve, most of them small


def attack_scores(members: np.ndarray, others: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """
    How well a score tells members from others, with 95 % intervals by a bootstrap of both.

    Args:
        members (`np.ndarray` of shape `(num_members,)`): Scores of training records; larger speaks for a member.
        others (`np.ndarray` of shape `(num_others,)`): Scores of records that were held out.
        seed (`int`, defaults to 0): Seed of the bootstrap.

    Returns:
        `dict[str, Any]`: `auc`, and `tpr`, the rate of members that are found where at most 1 % of others are taken
        for members (Carlini et al., [arXiv 2112.03570](https://arxiv.org/abs/2112.03570)), each a dict of `mean` (the
        value itself), `low` and `high`; `curve`, rates of members found by rates of others taken for them.
    """
    generator = np.random.default_rng(seed)
    draws = [
        _measure(generator.choice(members, len(members)), generator.choice(others, len(others)))
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    values = _measure(members, others)
    thresholds = np.quantile(others, 1 - CURVE, method="higher")
    curve = {"false": CURVE.tolist(), "true": [float((members > threshold).mean()) for threshold in thresholds]}
    return {
        name: {"mean": float(values[k]), "low": float(low[k]), "high": float(high[k])}
        for k, name in enumerate(("auc", "tpr"))
    } | {"curve": curve}


def _measure(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The AUC, and the rate of members above all but 1 % of others."""
    ranks, num = rankdata(np.concatenate([members, others]))[: len(members)], len(members)
    auc = (ranks.sum() - num * (num + 1) / 2) / (num * len(others))
    threshold = np.quantile(others, 1 - FALSE_POSITIVE_RATE, method="higher")
    return auc, (members > threshold).mean()


def marginal_log_prob(
    ids: np.ndarray, reference: np.ndarray, ranges: list[tuple[int, int]], is_in_reference: bool = False
) -> np.ndarray:
    """
    log p of records under a model in which columns are independent, in the ids of the compact codec: how common a
    record is, whatever a generator learnt.

    Args:
        ids (`np.ndarray` of shape `(num_records, num_positions)`): Ids of records.
        reference (`np.ndarray` of shape `(num_others, num_positions)`): Those that the frequencies are taken from.
        ranges (`list[tuple[int, int]]`): The ids `[start, end)` that may stand at each position.
        is_in_reference (`bool`, defaults to `False`):
            Whether the records are those of the reference: each is then left out of its own frequencies, else it would
            look more common than a record that is not among them.

    Returns:
        `np.ndarray` of shape `(num_records,)`, in nats.
    """
    total, num_others = np.zeros(len(ids)), len(reference) - is_in_reference
    for position, (start, end) in enumerate(ranges):
        counts = np.bincount(reference[:, position] - start, minlength=end - start)
        own = counts[ids[:, position] - start] - is_in_reference
        total += np.log((own + 1) / (num_others + end - start))
    return total
