"""How alike synthetic and real rows are by SDMetrics: single columns, and pairs of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sdmetrics.reports import QualityReport

from .encoding import encode_tables


def quality_scores(
    real: pd.DataFrame, synthetic: pd.DataFrame, categorical: Sequence[str] | None = None
) -> dict[str, Any]:
    """
    Column Shapes and Column Pair Trends of the
    [quality report](https://docs.sdv.dev/sdmetrics/data-metrics/quality/quality-report-api) of SDMetrics.

    Column Shapes is the mean over columns of 1 minus the Kolmogorov-Smirnov statistic (numbers, datetimes) or the
    total variation distance (categories). Column Pair Trends is the mean similarity of correlations or contingency
    tables over those pairs of columns that are associated in `real`: |r| > 0.5 or Cramér's V > 0.3. Reports by
    SDMetrics before it had these thresholds, and most publications, take the mean over all pairs.

    Above 50,000 rows SDMetrics subsamples the contingency tables with NumPy's global random state.

    Args:
        real (`pandas.DataFrame`): Real rows.
        synthetic (`pandas.DataFrame`): Generated rows.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `dict[str, Any]`: `column_shapes` and `pair_trends`, from 0 to 1, which is best; `pair_trends` is NaN where no
        columns are associated. `columns` has the score of each column by name, `pairs` a list of dicts with the
        `columns` of a pair, its `score`, and whether it is `associated`.
    """
    (real, synthetic), categorical = encode_tables({"real": real, "synthetic": synthetic}, categorical)
    columns = {name: {"sdtype": "categorical" if name in categorical else "numerical"} for name in real}
    metadata = {"tables": {"table": {"columns": columns}}}
    report = QualityReport()
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of columns without a value: NaN
        report.generate({"table": real}, {"table": synthetic}, metadata, verbose=False)
    shapes, trends = report.get_properties()["Score"]
    by_column, by_pair = (report.get_details(name) for name in ("Column Shapes", "Column Pair Trends"))
    return {
        "column_shapes": float(shapes),
        "pair_trends": float(trends),
        "columns": dict(zip(by_column["Column"], by_column["Score"])),
        "pairs": [
            {"columns": list(pair), "score": score, "associated": bool(associated)}
            for *pair, score, associated in by_pair[["Column 1", "Column 2", "Score", "Meets Threshold?"]]
            .fillna({"Meets Threshold?": False})
            .itertuples(index=False)
        ],
    }
