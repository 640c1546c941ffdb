"""Whether synthetic rows are rows that could be, and whether they cover what real rows have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from sdmetrics.single_column import RangeCoverage

from ...records import Field, RecordSchema
from .encoding import encode_tables, is_categorical, match_categories, to_numbers
from .plain_columns import plain_tables
from .preparation import MAX_CATEGORIES


MAX_PAIRS = 500  # of categorical columns whose coverage is counted
MAX_EXAMPLES = 5  # of values that are not allowed, and of categories that are missed


def row_validity(
    synthetic: pd.DataFrame, train: pd.DataFrame, categorical: Sequence[str] | None = None
) -> dict[str, Any]:
    """
    Whether synthetic values have the form of real ones, by the [`RecordSchema`] of the training rows.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `dict[str, Any]`: Shares of rows, each included in the one before:
            - `parses`: whose values can be read as what the column holds: numbers, datetimes, categories, texts;
            - `schema`: whose values also have the type of the training rows' values (integers where all of these
              are), and are missing only where some of these are;
            - `domain`: whose values are also known categories, or numbers and datetimes between the smallest and the
              largest one of the training rows.

            `columns` has the share of allowed values of each column that has others, `examples` some of these.
    """
    train, synthetic = plain_tables({"train": train, "synthetic": synthetic}, categorical).values()
    schema = RecordSchema.infer(train, categorical or (), MAX_CATEGORIES)
    parses, typed, allowed = (pd.DataFrame(index=synthetic.index) for _ in range(3))
    columns, examples = {}, {}
    for field in schema:
        values = synthetic[field.name]
        if field.type in ("category", "boolean"):
            values = match_categories(values, train[field.name])
        parses[field.name] = _parses(values, train[field.name], field)
        typed[field.name] = parses[field.name] & _has_type(values, field)
        allowed[field.name] = typed[field.name] & field.allows(values)
        wrong = values[~allowed[field.name]]
        if len(wrong):
            columns[field.name] = float(allowed[field.name].mean())
            wrong = wrong.unique()[:MAX_EXAMPLES]
            examples[field.name] = ["missing" if pd.isna(value) else str(value) for value in wrong]
    shares = {"parses": parses, "schema": typed, "domain": allowed}
    return {name: float(ok.all(axis=1).mean()) for name, ok in shares.items()} | {
        "columns": columns,
        "examples": examples,
    }


def diversity(
    synthetic: pd.DataFrame, train: pd.DataFrame, categorical: Sequence[str] | None = None
) -> dict[str, Any]:
    """
    How much of what the training rows have is there in the synthetic ones.

    Fewer rows hold fewer categories, so each coverage comes with what a bootstrap, equally many rows drawn from the
    training rows with replacement, has in expectation: the mean over categories of 1 - (1 - f)^n for the frequency f
    of a category and n rows. New rows of the same distribution have a little less.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `dict[str, Any]`:
            - `unique_rows`: the number of distinct synthetic rows divided by that of all; `unique_rows_train`: the
              same of the training rows;
            - `category_coverage`, `category_coverage_expected`: the share of the categories of a column that there
              are, averaged over columns (SDMetrics' CategoryCoverage); NaN without categorical columns;
            - `pair_coverage`, `pair_coverage_expected`: the same of pairs of categories, averaged over pairs of
              columns, at most 500 of them;
            - `range_coverage`: the share of the range of a number's training values that synthetic ones span, averaged
              over columns (SDMetrics' RangeCoverage);
            - `missed`: the most frequent categories of each column that no synthetic row has.
    """
    train, synthetic = plain_tables({"train": train, "synthetic": synthetic}, categorical).values()
    names = {name: train[name] for name in train if name in (categorical or ()) or is_categorical(train[name])}
    (train, synthetic), categorical = encode_tables({"train": train, "synthetic": synthetic}, categorical)
    numbers = [name for name in train if name not in categorical]
    missed = {}
    for name in categorical:
        original = names[name].reset_index(drop=True)[~train[name].isin(synthetic[name]).to_numpy()]
        if original.notna().any():
            missed[name] = [str(value) for value in original.value_counts().index[:MAX_EXAMPLES]]
    single = [_coverage(train[[name]], synthetic[[name]]) for name in categorical]
    pairs = list(combinations(categorical, 2))
    if len(pairs) > MAX_PAIRS:
        pairs = random.Random(0).sample(pairs, MAX_PAIRS)
    pairs = [_coverage(train[list(pair)], synthetic[list(pair)]) for pair in pairs]
    ranges = [RangeCoverage.compute(train[name], synthetic[name]) for name in numbers]
    return {
        "unique_rows": 1 - float(synthetic.duplicated().mean()),
        "unique_rows_train": 1 - float(train.duplicated().mean()),
        **dict(zip(("category_coverage", "category_coverage_expected"), _means(single))),
        **dict(zip(("pair_coverage", "pair_coverage_expected"), _means(pairs))),
        "range_coverage": float(np.mean(ranges)) if ranges else float("nan"),
        "missed": missed,
    }


def _parses(values: pd.Series, like: pd.Series, field: Field) -> np.ndarray:
    """Which values are missing, or can be read as numbers or datetimes where `like` holds such."""
    if field.type in ("integer", "number") or pd.api.types.is_datetime64_any_dtype(like):
        return (to_numbers(values, like).notna() | values.isna()).to_numpy()
    return np.ones(len(values), bool)


def _has_type(values: pd.Series, field: Field) -> np.ndarray:
    if field.type == "category":
        return (values.notna() | field.nullable).to_numpy()
    return replace(field, minimum=None, maximum=None, max_length=None).allows(values)


def _coverage(train: pd.DataFrame, synthetic: pd.DataFrame) -> tuple[float, float]:
    """Share of the distinct rows of `train` that are in `synthetic`, and what to expect of equally many of `train`."""
    counts = train.dropna().value_counts()
    there = counts.index.isin(synthetic.dropna().value_counts().index).mean()
    expected = 1 - (1 - counts / len(train)) ** len(synthetic)
    return float(there), float(expected.mean())


def _means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return tuple(float(x) for x in np.mean(pairs, axis=0)) if pairs else (float("nan"),) * 2
