"""Metrics that compare a synthetic table with real ones: how faithful, how useful and how private it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api import types as pd_types
from scipy.spatial.distance import cdist
from sdmetrics.reports import QualityReport
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils import gen_batches
from xgboost import XGBClassifier, XGBRegressor


# One setting for all tables and both uses, on categories as ordinal codes.
XGBOOST_SETTINGS = {"n_estimators": 100, "max_depth": 7, "learning_rate": 0.1, "tree_method": "hist"}


def evaluate_table(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str | None = None,
    categorical: Sequence[str] | None = None,
    log_target: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> dict[str, float]:
    """
    Compares a synthetic table with the one its generator was trained on, and with real rows it has not seen.

    In all metrics of this module the first real table decides which columns are categorical (dtype object, string,
    bool or category), datetimes, or numerical (all others). Any value may be missing.

    Args:
        synthetic (`pandas.DataFrame`):
            The generated rows. Scores are comparable, and least noisy, when there are as many as in `train`.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        test (`pandas.DataFrame`): Real rows that the generator has not seen.
        target (`str`, *optional*): The column to predict for `mle` and `mle_real`, which are left out without it.
        categorical (`Sequence[str]`, *optional*):
            Columns that are categorical whatever their dtype, such as integer codes.
        log_target (`bool`, defaults to `False`): Whether to predict log(1 + target); for regression only.
        seed (`int`, defaults to 0): Seed of the subsamples, the folds and XGBoost.
        n_jobs (`int`, *optional*): Threads of XGBoost; by default `OMP_NUM_THREADS` or, without it, all processors.

    Returns:
        `dict[str, float]`:
            - `column_shapes`, `pair_trends`: [`quality_scores`] against `train`; 1 is best.
            - `c2st`: [`classifier_two_sample_test`] against `test`; 0.5 is best.
            - `mle`: [`machine_learning_efficiency`] on `test` after training on `synthetic`.
            - `mle_real`: the same after training on `train`, which `mle` should come close to.
            - `dcr`: [`distance_to_closest_record`] with `test` as the hold-out; 0.5 is best.
            - `unique_rows`, `exact_copies`: [`row_novelty`] against `train`.

    Raises:
        `ValueError`: when a table is empty, columns do not match in name or kind, or `target` cannot be predicted. It
        names the column, and comes before any metric is computed.

    Example:

    ```python
    >>> scores = evaluate_table(synthetic, train, test, target="income")
    >>> f"{scores['mle']:.3f} of {scores['mle_real']:.3f}"
    '0.918 of 0.927'
    ```
    """
    tables = {"train": train, "test": test, "synthetic": synthetic}
    (train, test, synthetic), categorical = _encode(tables, categorical)
    if target is not None:
        _check_target({"test": test, "train": train, "synthetic": synthetic}, target, categorical, log_target)

    scores = quality_scores(train, synthetic, categorical)
    scores["c2st"] = classifier_two_sample_test(test, synthetic, categorical, seed, n_jobs)
    if target is not None:
        for name, table in {"mle": synthetic, "mle_real": train}.items():
            scores[name] = machine_learning_efficiency(table, test, target, categorical, log_target, seed, n_jobs)
    scores["dcr"] = distance_to_closest_record(synthetic, train, test, categorical, seed)
    return scores | row_novelty(synthetic, train, categorical)


def quality_scores(
    real: pd.DataFrame, synthetic: pd.DataFrame, categorical: Sequence[str] | None = None
) -> dict[str, float]:
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
        `dict[str, float]`: `column_shapes` and `pair_trends`, from 0 to 1, which is best. `pair_trends` is NaN where
        no columns are associated.
    """
    (real, synthetic), categorical = _encode({"real": real, "synthetic": synthetic}, categorical)
    columns = {name: {"sdtype": "categorical" if name in categorical else "numerical"} for name in real}
    metadata = {"tables": {"table": {"columns": columns}}}
    report = QualityReport()
    report.generate({"table": real}, {"table": synthetic}, metadata, verbose=False)
    shapes, trends = report.get_properties()["Score"]
    return {"column_shapes": float(shapes), "pair_trends": float(trends)}


def classifier_two_sample_test(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    categorical: Sequence[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
) -> float:
    """
    Classifier two-sample test (C2ST): how well XGBoost tells real rows from synthetic ones.

    The larger table is subsampled to the size of the smaller one. The more rows, the more the classifier can learn:
    compare only scores of equally many.

    Args:
        real (`pandas.DataFrame`):
            Real rows, best those that the generator has not seen: rows that it copied lower the score, to below 0.5.
        synthetic (`pandas.DataFrame`): Generated rows.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        seed (`int`, defaults to 0): Seed of the subsample, the folds and XGBoost.
        n_jobs (`int`, *optional*): Threads of XGBoost.

    Returns:
        `float`: The AUC, averaged over three folds of cross-validation. 0.5 is best, 1 worst.
    """
    (real, synthetic), _ = _encode({"real": real, "synthetic": synthetic}, categorical)
    generator = np.random.default_rng(seed)
    size = min(len(real), len(synthetic))
    rows = np.concatenate([table.sample(size, random_state=generator) for table in (real, synthetic)])
    is_synthetic = np.repeat([0, 1], size)
    classifier = XGBClassifier(**XGBOOST_SETTINGS, random_state=seed, n_jobs=n_jobs)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, rows, is_synthetic, cv=folds, scoring="roc_auc").mean())


def machine_learning_efficiency(
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str,
    categorical: Sequence[str] | None = None,
    log_target: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> float:
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
        seed (`int`, defaults to 0): Seed of XGBoost.
        n_jobs (`int`, *optional*): Threads of XGBoost.

    Returns:
        `float`: The AUC of a classification (macro mean of one-vs-rest), where 1 is best; the root mean squared error
        of a regression, in units of the target or of its logarithm, where 0 is best.

    Raises:
        `ValueError`: when there is no such target, it has no values or, in `test`, a single class.
    """
    (test, train), categorical = _encode({"test": test, "train": train}, categorical)
    _check_target({"test": test, "train": train}, target, categorical, log_target)
    test, train = (table.dropna(subset=target) for table in (test, train))
    features = [name for name in test if name != target]
    x_train, x_test = train[features].to_numpy(), test[features].to_numpy()
    y_train, y_test = train[target].to_numpy(), test[target].to_numpy()
    settings = XGBOOST_SETTINGS | {"random_state": seed, "n_jobs": n_jobs}

    if target not in categorical:
        if log_target:
            y_train, y_test = (np.log1p(y.clip(min=0)) for y in (y_train, y_test))
        return float(root_mean_squared_error(y_test, XGBRegressor(**settings).fit(x_train, y_train).predict(x_test)))

    classes, labels = np.unique(y_train, return_inverse=True)
    columns = XGBClassifier(**settings).fit(x_train, labels).predict_proba(x_test).T
    probabilities = dict(zip(classes, columns))
    never = np.zeros(len(y_test))  # the probability of a class that `train` lacks
    return float(np.mean([roc_auc_score(y_test == c, probabilities.get(c, never)) for c in np.unique(y_test)]))


def distance_to_closest_record(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    categorical: Sequence[str] | None = None,
    seed: int = 0,
    max_rows: int = 10_000,
) -> float:
    """
    Distance to closest record (DCR): the share of synthetic rows that are nearer to a training row than to any row of
    an equally large hold-out.

    The distance is Gower's: the sum of the differences between numbers, as shares of their range, plus 1 for each
    category that differs and for each number that one of the two rows lacks, which then counts as the smallest.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        holdout (`pandas.DataFrame`): Real rows that it has not seen.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.
        seed (`int`, defaults to 0): Seed of the subsamples.
        max_rows (`int`, defaults to 10000):
            How many rows of each table are drawn at most. The time is quadratic in it, the standard error
            0.5 / sqrt(max_rows).

    Returns:
        `float`: The share, ties counted half. 0.5 is best; above it, the generator has memorised training rows. Pure
        copying yields 0.5 + n / (2 * len(train)) where n training rows are drawn.
    """
    tables = {"train": train, "holdout": holdout, "synthetic": synthetic}
    (train, holdout, synthetic), categorical = _encode(tables, categorical)
    generator = np.random.default_rng(seed)
    size = min(len(train), len(holdout), max_rows)
    train, holdout = (table.sample(size, random_state=generator) for table in (train, holdout))
    synthetic = synthetic.sample(min(len(synthetic), max_rows), random_state=generator)

    real = pd.concat([train, holdout]).drop(columns=categorical)
    span = (real.max() - real.min()).replace(0, 1)

    def split(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        numbers = table.drop(columns=categorical)
        scaled = ((numbers - real.min()) / span).fillna(0)
        return scaled.to_numpy(), np.hstack([table[categorical].fillna(-1), numbers.isna()])

    def closest(reference: pd.DataFrame) -> np.ndarray:
        (numbers, codes), (reference_numbers, reference_codes) = split(synthetic), split(reference)
        nearest = []
        for batch in gen_batches(len(synthetic), 256):
            distances = cdist(numbers[batch], reference_numbers, "cityblock")
            distances += cdist(codes[batch], reference_codes, "hamming") * codes.shape[1]
            nearest.append(distances.min(axis=1))
        return np.concatenate(nearest)

    to_train, to_holdout = closest(train), closest(holdout)
    ties = np.isclose(to_train, to_holdout)
    return float(np.where(ties, 0.5, to_train < to_holdout).mean())


def row_novelty(
    synthetic: pd.DataFrame, train: pd.DataFrame, categorical: Sequence[str] | None = None
) -> dict[str, float]:
    """
    How many synthetic rows are new.

    Args:
        synthetic (`pandas.DataFrame`): Generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `dict[str, float]`: `unique_rows`, the number of distinct synthetic rows divided by that of all, and
        `exact_copies`, the share of synthetic rows that equal a training row in every column.
    """
    (train, synthetic), _ = _encode({"train": train, "synthetic": synthetic}, categorical)
    rows = pd.concat([train, synthetic])
    identity = rows.groupby(list(rows), dropna=False).ngroup().to_numpy()
    known, generated = np.split(identity, [len(train)])
    return {
        "unique_rows": len(np.unique(generated)) / len(generated),
        "exact_copies": float(np.isin(generated, known).mean()),
    }


def _encode(
    tables: dict[str, pd.DataFrame], categorical: Sequence[str] | None
) -> tuple[list[pd.DataFrame], list[str]]:
    """
    Turns tables into float64: categories into codes that all tables share, datetimes into seconds, missing values into
    NaN. Encoded tables may be encoded again: equal values stay equal, and in order.

    Args:
        tables (`dict[str, pandas.DataFrame]`): The tables by name, a real one first: it decides the kinds of columns.
        categorical (`Sequence[str]`, *optional*): Columns that are categorical whatever their dtype.

    Returns:
        `tuple[list[pandas.DataFrame], list[str]]`: The encoded tables, and the names of the categorical columns.
    """
    _check_columns(tables, categorical)
    real = next(iter(tables.values()))
    encoded = {}
    categories = [name for name in real if name in (categorical or ()) or _is_categorical(real[name])]
    for name in real:
        values = pd.concat({key: table[name].reset_index(drop=True).astype(object) for key, table in tables.items()})
        if name in categories:
            codes = values.astype("category").cat.codes
            encoded[name] = codes.where(codes >= 0)
        else:
            encoded[name] = _to_numbers(values, pd_types.is_datetime64_any_dtype(real[name]))
    encoded = pd.DataFrame(encoded).astype(float)
    return [encoded.loc[key] for key in tables], categories


def _is_categorical(column: pd.Series) -> bool:
    is_number = pd_types.is_numeric_dtype(column) and not pd_types.is_bool_dtype(column)
    return not (is_number or pd_types.is_datetime64_any_dtype(column))


def _to_numbers(values: pd.Series, is_datetime: bool) -> pd.Series:
    """Numbers, or datetimes as seconds, of a column indexed by table and row."""
    if is_datetime:
        times = pd.to_datetime(values, utc=True, errors="coerce")
        numbers = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    else:
        numbers = pd.to_numeric(values, errors="coerce")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        table, row = wrong.idxmax()
        kind = "datetimes" if is_datetime else "numbers"
        raise ValueError(
            f"column {values.name!r} holds {kind}, but {values[table, row]!r} in row {row} of `{table}`; convert it, "
            "or name the column in `categorical`"
        )
    return numbers


def _check_columns(tables: dict[str, pd.DataFrame], categorical: Sequence[str] | None) -> None:
    reference, real = next(iter(tables.items()))
    for name, table in tables.items():
        if table.empty:
            raise ValueError(f"`{name}` is empty; pass at least one row and one column")
        if missing := [column for column in real if column not in table]:
            raise ValueError(f"`{name}` lacks {missing} of `{reference}`; add these columns, or drop them there")
        if extra := [column for column in table if column not in real]:
            raise ValueError(f"`{name}` has columns {extra} that `{reference}` lacks; drop them, or add them there")
    if unknown := [column for column in categorical or () if column not in real]:
        raise ValueError(f"`categorical` names {unknown}; choose from the columns {list(real)}")


def _check_target(tables: dict[str, pd.DataFrame], target: str, categorical: Sequence[str], log_target: bool) -> None:
    """Checks the target in encoded tables, the one to predict first."""
    reference, test = next(iter(tables.items()))
    if target not in test:
        raise ValueError(f"there is no target {target!r}; choose from the columns {list(test)}")
    for name, table in tables.items():
        if table[target].isna().all():
            raise ValueError(f"target {target!r} has no values in `{name}`; pass rows that have it")
    if target in categorical and log_target:
        raise ValueError(f"target {target!r} is categorical; leave out `log_target`, which is for numbers")
    if target in categorical and test[target].nunique() == 1:
        raise ValueError(f"target {target!r} has one class in `{reference}`; pass rows of at least two")
