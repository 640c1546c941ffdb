"""
The protocol of publications on these tables (TabSyn, arXiv 2310.09656; TabDiff, arXiv 2410.20626), and their figures.

Both compare with the training split of the same preparation. Trends are over all pairs of columns, where
[`~difflm_hf.evaluation.quality_scores`] takes those that are associated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, cross_val_score
from xgboost import XGBClassifier

from difflm_hf.evaluation.tables.encoding import draw, encode_tables

from .markdown import to_table
from .results import load_result


# Per cent; of TabSyn's preparation, as TabDiff's paper has them
PUBLISHED = {
    "TabDiff": {
        "shape_error": {"adult": 0.63, "default": 1.24, "shoppers": 1.28, "magic": 0.78, "beijing": 1.03},
        "trend_error": {"adult": 1.49, "default": 2.55, "shoppers": 1.74, "magic": 0.76, "beijing": 2.59},
        "c2st_published": {"adult": 0.591},
    },
    "TabSyn": {"shape_error": {"adult": 0.74, "default": 0.80, "shoppers": 1.11, "magic": 0.62, "beijing": 0.79}},
    "TabbyFlow": {"c2st_published": {"adult": 0.607}},
}


TITLES = {"shape_error": "shape error, %", "trend_error": "trend error, %", "c2st_published": "C2ST"}


def protocol_section() -> str:
    """The page's passage: what `benchmarks.commits` measured of the newer commit, beside published figures."""
    results, rows = load_result("commits"), []
    for dataset in [name for name in ("adult", "default", "shoppers", "magic", "beijing") if name in results]:
        runs = [run for seed, run in results[dataset]["after"].items() if seed != "commit"]
        for name, title in TITLES.items():
            digits = 3 if name.startswith("c2st") else 2
            ours = np.array([run[name] for run in runs])
            theirs = [figures.get(name, {}).get(dataset) for figures in PUBLISHED.values()]
            rows.append(
                [
                    *(
                        dataset,
                        title,
                        f"{ours.mean():.{digits}f} ({ours.min():.{digits}f} to {ours.max():.{digits}f})",
                    ),
                    *("" if figure is None else f"{figure:.{digits}f}" for figure in theirs),
                ]
            )
    return to_table(["table", "", "difflm_hf", *PUBLISHED], rows)


def published_scores(
    test: pd.DataFrame,
    synthetic: pd.DataFrame,
    categorical: Sequence[str],
    quality: dict[str, Any],
    seed: int = 0,
) -> dict[str, float]:
    """
    Errors of shapes and of trends in per cent, and C2ST by 300 trees of depth 6 in 5 folds.

    Args:
        test, synthetic (`pandas.DataFrame`): Rows for C2ST.
        categorical (`Sequence[str]`): Columns that are categorical whatever their dtype.
        quality (`dict`): What [`~difflm_hf.evaluation.quality_scores`] says of generated and training rows.
        seed (`int`, defaults to 0): Seed of the subsample, the folds and XGBoost.
    """
    (test, synthetic), categorical = encode_tables({"test": test, "synthetic": synthetic}, categorical)
    size, generator = min(len(test), len(synthetic)), np.random.default_rng(seed)
    rows = np.concatenate([draw(table, size, generator).to_numpy() for table in (test, synthetic)])
    trees = XGBClassifier(n_estimators=300, max_depth=6, learning_rate=0.1, tree_method="hist", random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return {
        "shape_error": 100 * (1 - quality["column_shapes"]),
        "trend_error": 100 * (1 - np.nanmean([pair["score"] for pair in quality["pairs"]])),
        "c2st_published": cross_val_score(trees, rows, np.repeat([0, 1], size), cv=folds, scoring="roc_auc").mean(),
    }
