"""How useful synthetic rows are: whether models trained on them work on real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score, root_mean_squared_error
from xgboost import XGBClassifier, XGBRegressor

from .encoding import encode_tables
from .fidelity import XGBOOST_SETTINGS


def machine_learning_efficiency(
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str,
    categorical: Sequence[str] | None = None,
    log_target: bool = False,
    num_seeds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
) -> dict[str, dict[str, float]]:
    """
    Machine-learning efficiency (MLE): how well XGBoost, trained on one table, predicts a column of real rows.

    Args:
        train (`pandas.DataFrame`): The rows to train on, real or synthetic.
        test (`pandas.DataFrame`): The real rows to predict.
        target (`str`):
            The column to predict: classification where it is categorical, else regression. Rows without it are
            skipped.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        log_target (`bool`, defaults to `False`):
            Whether to predict log(1 + target), with negative values as 0; for regression only.
        num_seeds (`int`, defaults to 5): How many times XGBoost is trained, each time with another seed.
        seed (`int`, defaults to 0): The first seed.
        n_jobs (`int`, *optional*): Threads of XGBoost.

    Returns:
        `dict[str, dict[str, float]]`: The `mean` over seeds of each score, and the bounds `low` and `high` of its 95 %
        confidence interval by Student's t, which do not tell how it would vary with other test rows. Scores of a
        classification are `auc` (macro mean of one-vs-rest), `f1` (macro mean) and `accuracy`, for all of which 1 is
        best; those of a regression are `rmse`, in units of the target or of its logarithm, where 0 is best, and `r2`,
        where 1 is.

    Raises:
        `ValueError`: when there is no such target, it has no values or, in `test`, a single class.
    """
    (test, train), categorical = encode_tables({"test": test, "train": train}, categorical)
    check_target({"test": test, "train": train}, target, categorical, log_target)
    test, train = (table.dropna(subset=target) for table in (test, train))
    x_train, x_test = (table.drop(columns=target).to_numpy() for table in (train, test))
    y_train, y_test = (table[target].to_numpy() for table in (train, test))
    if log_target:
        y_train, y_test = (np.log1p(y.clip(min=0)) for y in (y_train, y_test))
    score = _score_classifier if target in categorical else _score_regressor
    settings = XGBOOST_SETTINGS | {"n_jobs": n_jobs}
    runs = [score(x_train, y_train, x_test, y_test, settings | {"random_state": seed + i}) for i in range(num_seeds)]
    return {name: _interval([run[name] for run in runs]) for name in runs[0]}


def _score_classifier(x_train, y_train, x_test, y_test, settings) -> dict[str, float]:
    classes, labels = np.unique(y_train, return_inverse=True)
    probabilities = XGBClassifier(**settings).fit(x_train, labels).predict_proba(x_test)
    predicted = classes[probabilities.argmax(axis=1)]
    columns = dict(zip(classes, probabilities.T))
    never = np.zeros(len(y_test))  # the probability of a class that `train` lacks
    return {
        "auc": np.mean([roc_auc_score(y_test == c, columns.get(c, never)) for c in np.unique(y_test)]),
        "f1": f1_score(y_test, predicted, average="macro"),
        "accuracy": accuracy_score(y_test, predicted),
    }


def _score_regressor(x_train, y_train, x_test, y_test, settings) -> dict[str, float]:
    predicted = XGBRegressor(**settings).fit(x_train, y_train).predict(x_test)
    return {"rmse": root_mean_squared_error(y_test, predicted), "r2": r2_score(y_test, predicted)}


def _interval(scores: list[float]) -> dict[str, float]:
    mean, error = np.mean(scores), stats.sem(scores) if len(scores) > 1 else 0.0
    margin = error * stats.t.ppf(0.975, max(len(scores) - 1, 1))
    return {"mean": float(mean), "low": float(mean - margin), "high": float(mean + margin)}


def check_target(tables: dict[str, pd.DataFrame], target: str, categorical: Sequence[str], log_target: bool) -> None:
    """Raises a `ValueError` unless the target can be predicted in encoded tables, the one to predict first."""
    reference, test = next(iter(tables.items()))
    if target not in test:
        raise ValueError(f"there is no target {target!r} with values; choose from the columns {list(test)}")
    for name, table in tables.items():
        if table[target].isna().all():
            raise ValueError(f"target {target!r} has no values in `{name}`; pass rows that have it")
    if target in categorical and log_target:
        raise ValueError(f"target {target!r} is categorical; leave out `log_target`, which is for numbers")
    if target in categorical and test[target].nunique() == 1:
        raise ValueError(f"target {target!r} has one class in `{reference}`; pass rows of at least two")
