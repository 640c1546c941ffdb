"""What the files of a model name of the records that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...processing_difflm import MIN_CATEGORY_COUNT
from ...records import Field
from ...records.field_tokens import FieldTokens


if TYPE_CHECKING:
    from ...pipeline_difflm import DiffLMPipeline


def named_values(pipe: DiffLMPipeline, train: pd.DataFrame) -> dict[str, dict[str, int]]:
    """
    Counts the values that a model's files have in plain text, and that few training records have.

    Args:
        pipe ([`DiffLMPipeline`]): The model.
        train (`pandas.DataFrame`): The records that it was trained on, with its columns.

    Returns:
        `dict[str, dict[str, int]]`: Of each column how many values of fewer than 10 records are among its
        `categories` (and words among numbers), among the `numbers` that have a token of their own, are its smallest or
        its largest (`extremes`), or are where a step between `quantiles` starts or ends; a value counts as the first
        of these that it is. Columns without any are left out.
    """
    found = {}
    for f in pipe.processor.schema:
        column = train[f.name][f.allows(train[f.name])]
        counts = {}
        if f.discloses_values:
            _, positions, names = f.names_in(column)
            counts["categories"] = int((np.bincount(positions, minlength=len(names)) < MIN_CATEGORY_COUNT).sum())
        t = pipe.processor.codec.tokens.get(f.name)
        if f.is_numeric and t is not None:
            counts |= _named_numbers(f, t, column[f.index_apart(column) < 0])
        if counts := {kind: count for kind, count in counts.items() if count}:
            found[f.name] = counts
    return found


def _named_numbers(f: Field, t: FieldTokens, column: pd.Series) -> dict[str, int]:
    points, counts = np.unique(t.grid.floor(t.grid.units(f, f.to_numpy(column))), return_counts=True)
    points = points[counts < MIN_CATEGORY_COUNT]
    named = {"numbers": t.values, "extremes": [0, t.grid.size - 1]}
    if t.bins is not None:
        named["quantiles"] = [*t.bins.starts, *(t.bins.ends or ())]
    kinds, seen = {}, np.zeros(0, np.uint64)
    for kind, values in named.items():
        rare = np.setdiff1d(np.intersect1d(points, np.array(values, np.uint64)), seen)
        kinds[kind], seen = len(rare), np.union1d(seen, rare)
    return kinds
