"""Scores of records, by functions of the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown


Score = Callable[[pd.DataFrame | list[dict[str, Any]]], Any]  # of records, a bool or a number for each


def check_score(score: Score | None) -> None:
    """Raises a `ValueError` for what is no function."""
    if score is not None and not callable(score):
        raise ValueError(f"score={shown(score)} is no function of records")


def weigh_by(score: Score, records: pd.DataFrame | list[dict[str, Any]]) -> tuple[np.ndarray, bool]:
    """
    The logarithms of weights that a score gives records.

    Args:
        score (`Callable`): The score.
        records (`pandas.DataFrame` or `list[dict]`): The records.

    Returns:
        `np.ndarray` of shape `(num_records,)`, −∞ for what may not come out, and whether scores were numbers.

    Raises:
        `ValueError`: for a score that does not give a bool or a number for each record, or gives NaN.
    """
    given = score(records)
    try:
        scores = np.asarray(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"score gave a {type(given).__name__} that is no array ({error}); return a bool or a number for each"
        ) from error
    is_graded = scores.dtype != bool
    if scores.shape != (len(records),) or scores.dtype.kind not in "biuf":
        raise ValueError(
            f"score gave an array of dtype {scores.dtype} and shape {scores.shape} for {len(records)} records; "
            "return a bool or a number for each"
        )
    scores = scores.astype(float) if is_graded else np.where(scores, 0.0, -np.inf)
    if (np.isnan(scores) | np.isposinf(scores)).any():
        raise ValueError("score gave nan or inf; return finite numbers, or -inf for what may not come out")
    return scores, is_graded
