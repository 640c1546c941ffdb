"""Of several texts the one that is the most like the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU


def minimum_bayes_risk(candidates: Sequence[str]) -> int:
    """
    The candidate of the largest mean BLEU against the others (arXiv 2205.14217, section 4.3; arXiv 2005.10283).

    Args:
        candidates (`Sequence[str]`): Texts, at least one.

    Returns:
        `int`: Its index; the first of equals.
    """
    bleu = BLEU(effective_order=True)  # as of single sentences
    gains = [
        [bleu.sentence_score(text, [other]).score for k, other in enumerate(candidates) if k != row] or [0.0]
        for row, text in enumerate(candidates)
    ]
    return int(np.argmax(np.mean(gains, axis=1)))
