"""Records that are planted into training data, to measure how well single ones are remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from ..checks import check_integer
from ..seeds import seeded_generator


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline

MAX_ROUNDS = 100  # of drawing records that are new


@dataclass
class Canaries:
    """
    A table with canaries in it.

    Args:
        table (`pandas.DataFrame`): The table to train on.
        planted (`pandas.DataFrame`): The canaries in it.
        others (`pandas.DataFrame`): As many records that were drawn in the same way, and are not in it.
    """

    table: pd.DataFrame
    planted: pd.DataFrame
    others: pd.DataFrame


def plant_canaries(table: pd.DataFrame, num: int, seed: int = 0, repeats: int = 1, min_count: int = 1) -> Canaries:
    """
    Adds records with random but valid values to a table, before a model is trained on it.

    Each value is drawn evenly from those that its column has, whatever the other columns: such a record is unlikely to
    be learnt otherwise than by heart. Rules between columns do not hold for it.

    Args:
        table (`pandas.DataFrame`): The training table.
        num (`int`): Canaries.
        seed (`int`, defaults to 0): Seed of their values.
        repeats (`int`, defaults to 1): How many times each is added.
        min_count (`int`, defaults to 1):
            Take only values that so many records have, of columns that have such, and of other numbers none of as
            many largest and smallest: training with `min_category_count` leaves out records with rarer categories,
            and moves the extremes.

    Returns:
        [`Canaries`].

    Raises:
        `ValueError`: for an empty table, and for one whose columns have too few values for as many new records.
    """
    for name, value in (("num", num), ("repeats", repeats), ("min_count", min_count)):
        check_integer(name, value)
    if table.empty:
        raise ValueError("the table has no rows to take values from")
    generator = np.random.default_rng(seed)
    values = {name: _values(table[name], min_count) for name in table}
    drawn = table.iloc[:0]
    for _ in range(MAX_ROUNDS):
        columns = {name: column.iloc[generator.integers(len(column), size=2 * num)] for name, column in values.items()}
        new = pd.DataFrame({name: column.reset_index(drop=True) for name, column in columns.items()})
        drawn = pd.concat([drawn, new[~_rows_in(new, table)]], ignore_index=True).drop_duplicates(ignore_index=True)
        if len(drawn) >= 2 * num:
            break
    else:
        raise ValueError(f"the columns have too few values for {2 * num} records that are new; take fewer")
    planted, others = drawn.iloc[:num], drawn.iloc[num : 2 * num].reset_index(drop=True)
    return Canaries(pd.concat([table, *[planted] * repeats], ignore_index=True), planted, others)


def exposure(
    pipe: DiffLMPipeline, canaries: pd.DataFrame, others: pd.DataFrame, num_latents: int = 32, seed: int = 0
) -> np.ndarray:
    """
    How much likelier a model finds canaries than records that were drawn in the same way, but not planted: the log2 of
    the number of candidates minus the log2 of the rank (Carlini et al.,
    [arXiv 1802.08232](https://arxiv.org/abs/1802.08232), section 4).

    Args:
        pipe ([`DiffLMPipeline`]): A model that was trained on the table with the canaries.
        canaries, others (`pandas.DataFrame`): Those of [`plant_canaries`].
        num_latents (`int`, defaults to 32): Of each record, see [`~DiffLMPipeline.log_prob`].
        seed (`int`, defaults to 0): Seed of the latents.

    Returns:
        `np.ndarray` of shape `(num_canaries,)`: in bits, from 0 to log2(`len(others)` + 1). Canaries that were not
        learnt have [`chance_exposure`] on average.

    Raises:
        `ValueError`: for records with values that the model has not seen.
    """
    own, theirs = (pipe.log_prob(table, num_latents, generator=seeded_generator(seed)) for table in (canaries, others))
    ranks = 1 + (theirs[None, :] >= own[:, None]).sum(1)
    return np.log2(len(others) + 1) - np.log2(ranks)


def chance_exposure(num_others: int) -> float:
    """The mean exposure of canaries that were not learnt, among so many others: at most 1.44 bits."""
    ranks = np.arange(1, num_others + 2)
    return float(np.mean(np.log2(len(ranks)) - np.log2(ranks)))


def _values(column: pd.Series, min_count: int) -> pd.Series:
    """Distinct values that enough records have; where none has, all, but for extremes of numbers."""
    distinct = column.dropna().drop_duplicates()
    if distinct.empty:
        return column.head(1)
    counts = column.value_counts()
    common = distinct[distinct.isin(counts.index[counts >= min_count])]
    if not common.empty:
        return common
    if is_numeric_dtype(distinct) or is_datetime64_any_dtype(distinct):
        inner = distinct[distinct.rank().between(min_count, len(distinct) + 1 - min_count)]
        return distinct if inner.empty else inner
    return distinct


def _rows_in(rows: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Which rows stand in a table."""
    known = pd.util.hash_pandas_object(table, index=False)
    return pd.util.hash_pandas_object(rows, index=False).isin(known).to_numpy()
