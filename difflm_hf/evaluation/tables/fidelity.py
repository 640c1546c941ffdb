"""How alike the distributions of real and synthetic rows are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from xgboost import XGBClassifier

from .encoding import draw, encode_tables, standardizer


# One setting for all tables and all uses, on categories as ordinal codes. Sampling makes seeds differ.
XGBOOST_SETTINGS = {
    "n_estimators": 100,
    "max_depth": 7,
    "learning_rate": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
}


def classifier_two_sample_test(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    categorical: Sequence[str] | None = None,
    classifier: Literal["xgboost", "logistic_regression"] = "xgboost",
    seed: int = 0,
    n_jobs: int | None = None,
) -> float:
    """
    Classifier two-sample test (C2ST): how well a classifier tells real rows from synthetic ones.

    The larger table is subsampled to the size of the smaller one. The more rows, the more the classifier can learn:
    compare only scores of equally many.

    Args:
        real (`pandas.DataFrame`):
            Real rows, best those that the generator has not seen: rows that it copied lower the score, to below 0.5.
        synthetic (`pandas.DataFrame`): Generated rows.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        classifier (`str`, defaults to `"xgboost"`):
            `"xgboost"`, on categories as ordinal codes, or `"logistic_regression"`, on standardised numbers and
            one-hot categories, which sees no more than shifted means and frequencies.
        seed (`int`, defaults to 0): Seed of the subsample, the folds and XGBoost.
        n_jobs (`int`, *optional*): Threads of XGBoost; by default `OMP_NUM_THREADS` or, without it, all processors.

    Returns:
        `float`: The AUC, averaged over three folds of cross-validation. 0.5 is best, 1 worst.

    Raises:
        `ValueError`: when a table has fewer than three rows.
    """
    (real, synthetic), categorical = encode_tables({"real": real, "synthetic": synthetic}, categorical)
    generator = np.random.default_rng(seed)
    size = min(len(real), len(synthetic))
    if size < 3:
        raise ValueError(f"a classifier needs at least 3 rows of each table for its folds, but there are {size}")
    rows = pd.concat([draw(table, size, generator) for table in (real, synthetic)], ignore_index=True)
    is_synthetic = np.repeat([0, 1], size)
    models = {
        "xgboost": XGBClassifier(**XGBOOST_SETTINGS, random_state=seed, n_jobs=n_jobs),
        "logistic_regression": make_pipeline(
            standardizer(rows.columns, categorical, sparse=True), LogisticRegression(max_iter=1000)
        ),
    }
    if classifier not in models:
        raise ValueError(f"classifier={classifier!r} is none of {list(models)}")
    # Arrays, since XGBoost takes no "[" or "<" in names of columns.
    rows = rows.to_numpy() if classifier == "xgboost" else rows
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return float(cross_val_score(models[classifier], rows, is_synthetic, cv=folds, scoring="roc_auc").mean())


def precision_recall(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    categorical: Sequence[str] | None = None,
    seed: int = 0,
    max_rows: int = 10_000,
) -> dict[str, float]:
    """
    Integrated α-precision and β-recall (Alaa et al. 2022, [arXiv 2102.08921](https://arxiv.org/abs/2102.08921),
    section 3): whether synthetic rows lie where real ones do, and reach wherever real ones are.

    α-precision is the share of synthetic rows inside the smallest ball around the mean real row that holds the share α
    of real rows. β-recall is the share of real rows whose nearest synthetic neighbour, among those in the ball that
    holds the share β of synthetic rows, is as near as their nearest real neighbour. Both are one diagonal for equal
    distributions; each score is 1 minus twice the mean distance from it. Rows are standardised numbers and one-hot
    categories, in place of the paper's learned embedding.

    Args:
        real (`pandas.DataFrame`): Real rows.
        synthetic (`pandas.DataFrame`): Generated rows.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        seed (`int`, defaults to 0): Seed of the subsamples.
        max_rows (`int`, defaults to 10000): How many rows of each table are drawn at most, equally many of both.

    Returns:
        `dict[str, float]`: `alpha_precision` and `beta_recall`, from 0 to 1. Equal distributions have about 1 in the
        first; the second depends on the data, and is 0.5 to 1 for them: compare it with that of a real hold-out.
    """
    (real, synthetic), categorical = encode_tables({"real": real, "synthetic": synthetic}, categorical)
    generator = np.random.default_rng(seed)
    size = min(len(real), len(synthetic), max_rows)
    real, synthetic = (draw(table, size, generator) for table in (real, synthetic))
    transformer = standardizer(real.columns, categorical).fit(real)
    real, synthetic = transformer.transform(real), transformer.transform(synthetic)
    levels = np.linspace(0, 1, 31)[1:]

    def radii(rows: np.ndarray, center: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows - center, axis=1)

    def agreement(curve: np.ndarray) -> float:
        return float(1 - 2 * np.abs(curve - levels).mean())

    center = real.mean(axis=0)
    balls = np.quantile(radii(real, center), levels)
    precision = (radii(synthetic, center) <= balls[:, None]).mean(axis=1)

    to_real = NearestNeighbors(n_neighbors=2).fit(real).kneighbors(real)[0][:, 1]  # the first is the row itself
    to_synthetic, nearest = (x[:, 0] for x in NearestNeighbors(n_neighbors=1).fit(synthetic).kneighbors(real))
    inside = radii(synthetic, synthetic.mean(axis=0))
    balls = np.quantile(inside, levels)
    recall = ((to_synthetic <= to_real) & (inside[nearest] <= balls[:, None])).mean(axis=1)
    return {"alpha_precision": agreement(precision), "beta_recall": agreement(recall)}
