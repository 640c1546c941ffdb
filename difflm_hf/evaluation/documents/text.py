"""Metrics that compare generated texts with real ones."""

from __future__ import annotations

from collections.abc import Sequence

from ...checks import check_integer
from .measures import check_texts, compare_diversity, distinct, length_similarity, novelty, self_bleu, unique


def evaluate_text(synthetic: Sequence[str], train: Sequence[str], seed: int = 0) -> dict[str, float]:
    """
    Compares generated texts with those that the generator was trained on.

    Args:
        synthetic (`Sequence[str]`): The generated documents, at least two.
        train (`Sequence[str]`): The real documents that the generator was trained on, at least two.
        seed (`int`, defaults to 0): Seed of the subsamples.

    Returns:
        `dict[str, float]`:
            - `novelty`: the share of `synthetic` that is not in `train`.
            - `unique`: the number of distinct synthetic documents divided by that of all.
            - `length_similarity`: 1 minus the Kolmogorov-Smirnov statistic of the numbers of words; 1 is best.
            - `distinct_1`, `distinct_2`, `distinct_3`: [`distinct_n`] of equally many documents of both; with `_real`
              for `train`, which they should come close to.
            - `self_bleu`: [`self_bleu`] of the same documents; with `_real` for `train`.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when a list has fewer than two documents.
    """
    check_integer("seed", seed, 0)
    check_texts("synthetic", synthetic, at_least=2)
    check_texts("train", train, at_least=2)
    scores = {
        "novelty": novelty(synthetic, train),
        "unique": unique(synthetic),
        "length_similarity": length_similarity(synthetic, train, lambda document: len(document.split())),
    }
    return scores | compare_diversity(synthetic, train, seed, distinct(1, 2, 3) | {"self_bleu": self_bleu})
