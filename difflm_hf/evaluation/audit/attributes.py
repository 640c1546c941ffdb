"""Whether a model tells more of the values of training records than of those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from ...checks import shown
from ...seeds import seeded_generator


if TYPE_CHECKING:
    from ...pipeline_difflm import DiffLMPipeline


def sensitive_columns(pipe: DiffLMPipeline, names: Sequence[str] = ()) -> list[str]:
    """
    The columns that the model can be asked for: those that are named, or all of categories and booleans.

    Raises:
        `ValueError`: for a column that is neither.
    """
    known = [name for name, t in pipe.processor.codec.tokens.items() if t.grid is None]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{shown(unknown[0])} is no column of categories or booleans; these are: {', '.join(known)}")
    return list(dict.fromkeys(names)) or known


def attribute_inference(
    pipe: DiffLMPipeline,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    columns: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """
    Predicts columns from all others by the model itself, of training records and of held-out ones.

    Args:
        pipe ([`DiffLMPipeline`]): The model.
        train, holdout (`pandas.DataFrame`): Records that it was trained on, and others.
        columns (`Sequence[str]`): Columns of categories or booleans.
        seed (`int`, defaults to 0): Seed of the latents.

    Returns:
        `dict[str, Any]`: `columns` has of each column the shares `train` and `holdout` that are predicted right, and
        the `advantage`, their difference, as a dict of `mean`, `low` and `high`. Together the intervals hold in 95 %
        of cases (Bonferroni). `advantage` is that of the column with the largest lower end.
    """
    level = 1 - 0.05 / max(len(columns), 1)
    found = {}
    for name in columns:
        right = [_is_right(pipe, table, name, seed) for table in (train, holdout)]
        rates = [float(table.mean()) for table in right]
        found[name] = {"train": rates[0], "holdout": rates[1], "advantage": _difference(*right, level)}
    worst = max((column["advantage"] for column in found.values()), key=lambda a: a["low"], default=None)
    return {"columns": found} | ({} if worst is None else {"advantage": worst})


def _is_right(pipe: DiffLMPipeline, table: pd.DataFrame, name: str, seed: int) -> np.ndarray:
    """Which values are predicted right, among those that are there."""
    given = table[table[name].notna()].reset_index(drop=True)
    if given.empty:
        return np.zeros(0, bool)
    predicted = pipe.predict(given, name, generator=seeded_generator(seed))
    values = pipe.processor.schema[name].index(pipe.processor.schema.conform(given)[name])
    return predicted.to_numpy().argmax(1) == values


def _difference(train: np.ndarray, holdout: np.ndarray, level: float) -> dict[str, float]:
    """The difference of two rates, with the interval of Agresti and Caffo (2000)."""
    sizes = np.array([len(train), len(holdout)]) + 2
    rates = (np.array([train.sum(), holdout.sum()]) + 1) / sizes
    half = stats.norm.isf((1 - level) / 2) * np.sqrt((rates * (1 - rates) / sizes).sum())
    middle = rates[0] - rates[1]
    mean = train.mean() - holdout.mean() if len(train) and len(holdout) else 0.0
    return {"mean": float(mean), "low": float(middle - half), "high": float(middle + half)}
