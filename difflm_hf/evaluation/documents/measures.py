"""What can be measured of documents of any kind: how new, diverse and long they are."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import ks_2samp


TOKEN = re.compile(r"\w+|[^\w\s]")


def distinct_n(documents: Sequence[str], n: int) -> float:
    """
    Distinct-n (Li et al. 2016, [arXiv 1510.03055](https://arxiv.org/abs/1510.03055)): the number of distinct n-grams
    of tokens divided by that of all, over the whole set.

    It falls with the number of documents: compare only scores of equally many.

    Args:
        documents (`Sequence[str]`): The documents.
        n (`int`): The length of the n-grams.

    Returns:
        `float`: The share, the higher the more diverse; 0 where no document has `n` tokens.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when there are no documents, or `n` is less than 1.
    """
    check_texts("documents", documents)
    if n < 1:
        raise ValueError(f"`n` is {n}; n-grams have at least one token")
    counts = Counter(ngram for document in documents for ngram in _ngrams(tokenize(document), n))
    return len(counts) / counts.total() if counts else 0.0


def self_bleu(documents: Sequence[str], max_order: int = 4) -> float:
    """
    Self-BLEU (Zhu et al. 2018, [arXiv 1802.01886](https://arxiv.org/abs/1802.01886)): the mean over documents of the
    sentence BLEU of each with all the others as its references.

    BLEU is that of [sacreBLEU](https://github.com/mjpost/sacrebleu)'s `sentence_bleu` on the tokens of [`tokenize`]:
    exponential smoothing, the effective order, and the reference of the closest length for the brevity penalty. The
    time is linear in the number of n-grams. The score rises with the number of documents: compare only scores of
    equally many.

    Args:
        documents (`Sequence[str]`): The documents, at least two.
        max_order (`int`, defaults to 4): The length of the longest n-grams.

    Returns:
        `float`: The mean, from 0 to 1, the lower the more diverse.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when there are fewer than two documents, or `max_order` is less than 1.
    """
    check_texts("documents", documents, at_least=2)
    if max_order < 1:
        raise ValueError(f"`max_order` is {max_order}; n-grams have at least one token")
    tokens = [tokenize(document) for document in documents]
    counts = [Counter(g for n in range(1, max_order + 1) for g in _ngrams(words, n)) for words in tokens]

    # The most that the others have of an n-gram is the largest count, or the second largest for the one that has it.
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for owner, ngrams in enumerate(counts):
        for ngram, count in ngrams.items():
            first, first_owner, second = largest.get(ngram, (0, owner, 0))
            if count > first:
                largest[ngram] = count, owner, first
            elif count > second:
                largest[ngram] = first, first_owner, count

    lengths = sorted(map(len, tokens))
    scores = []
    for index, (words, ngrams) in enumerate(zip(tokens, counts)):
        matches = [0] * max_order
        for ngram, count in ngrams.items():
            first, owner, second = largest[ngram]
            matches[len(ngram) - 1] += min(count, second if owner == index else first)
        scores.append(_bleu(matches, len(words), _closest_other(lengths, len(words))))
    return math.fsum(scores) / len(scores)


def tokenize(text: str) -> list[str]:
    """The words of a text, and all other characters but spaces one by one. Case is kept."""
    return TOKEN.findall(text)


def check_documents(name: str, documents: Sequence[Any], types: tuple[type, ...], at_least: int = 1) -> None:
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise TypeError(f"`{name}` is of type {type(documents).__name__}; pass a list of documents")
    if len(documents) < at_least:
        raise ValueError(f"`{name}` {'has one document' if documents else 'is empty'}; pass at least {at_least}")
    for index, document in enumerate(documents):
        if not isinstance(document, types):
            expected = " or ".join(t.__name__ for t in types)
            raise TypeError(f"`{name}[{index}]` is of type {type(document).__name__}; documents are {expected}")


def check_texts(name: str, documents: Sequence[str], at_least: int = 1) -> None:
    check_documents(name, documents, (str,), at_least)


def share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags) if flags else math.nan


def novelty(synthetic: Sequence[str], train: Sequence[str]) -> float:
    known = set(train)
    return share(document not in known for document in synthetic)


def unique(documents: Sequence[str]) -> float:
    return len(set(documents)) / len(documents) if documents else math.nan


def length_similarity(synthetic: Sequence[str], train: Sequence[str], length: Callable[[str], int]) -> float:
    """1 minus the two-sample Kolmogorov-Smirnov statistic: the largest gap between the cumulative distributions."""
    lengths, real_lengths = ([length(document) for document in part] for part in (synthetic, train))
    return 1 - float(ks_2samp(lengths, real_lengths).statistic)


def overlap(counts: Counter, real_counts: Counter) -> float:
    """What two distributions share: 1 minus their total variation distance; NaN where one is empty."""
    if not counts or not real_counts:
        return math.nan
    total, real_total = counts.total(), real_counts.total()
    # In integers, it is exact.
    shared = sum(min(count * real_total, real_counts[kind] * total) for kind, count in counts.items())
    return shared / (total * real_total)


def distinct(*orders: int) -> dict[str, Callable[[Sequence[str]], float]]:
    return {f"distinct_{n}": partial(distinct_n, n=n) for n in orders}


def compare_diversity(
    synthetic: Sequence[str], train: Sequence[str], seed: int, metrics: dict[str, Callable[[Sequence[str]], float]]
) -> dict[str, float]:
    """Metrics that depend on the number of documents, of equally many of both."""
    generator = np.random.default_rng(seed)
    size = min(len(synthetic), len(train))
    scores = {}
    for suffix, documents in {"": synthetic, "_real": train}.items():
        drawn = [documents[index] for index in generator.permutation(len(documents))[:size]]
        scores |= {f"{name}{suffix}": metric(drawn) if drawn else math.nan for name, metric in metrics.items()}
    return scores


def _ngrams(tokens: list[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(n)))


def _closest_other(lengths: list[int], length: int) -> int:
    """Of sorted lengths, the one closest to one of them, itself left out; the shorter of two as close."""
    own = bisect_left(lengths, length)
    neighbours = lengths[max(own - 1, 0) : own] + lengths[own + 1 : own + 2]
    return min(neighbours, key=lambda other: (abs(other - length), other))


def _bleu(matches: list[int], length: int, reference_length: int) -> float:
    """BLEU of a document of `length` tokens, by the number of its n-grams of each order that references have."""
    if not any(matches):
        return 0.0
    smoothing = 1.0
    logarithms = []
    for order, count in enumerate(matches[:length]):
        if count == 0:
            smoothing /= 2
        logarithms.append(math.log((count or smoothing) / (length - order)))
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(brevity + math.fsum(logarithms) / len(logarithms))
