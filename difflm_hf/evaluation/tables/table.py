"""All that can be measured of a synthetic table, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ...checks import check_integer
from .encoding import draw, encode_tables
from .fidelity import classifier_two_sample_test, precision_recall
from .preparation import prepare_tables
from .privacy import (
    ClosestRecords,
    attribute_disclosure,
    distance_to_closest_record,
    exact_copies,
    membership_inference,
    nearest_neighbor_distance_ratio,
    privacy_alarms,
)
from .quality import quality_scores
from .utility import check_target, machine_learning_efficiency
from .validity import diversity, row_validity


MIN_ROWS = 30  # of each table; shares of fewer rows say nothing
MAX_SEED = 2**32 - 1  # of scikit-learn


def evaluate_table(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    target: str | None = None,
    categorical: Sequence[str] | None = None,
    log_target: bool = False,
    num_seeds: int = 5,
    max_rows: int = 50_000,
    seed: int = 0,
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    Compares a synthetic table with the one its generator was trained on, and with real rows it has not seen.

    The training table decides which columns are categorical (strings, bools and dtype category), datetimes, or
    numerical. Equal values have equal scores in all dtypes, be they of NumPy, pandas, Arrow or Python objects. Strings
    that are dates or times count as datetimes, free texts by their number of characters. Any value may be missing;
    columns of which the training table has no value are left out. Categories that it does not have are categories of
    their own, but "4" and 4 are the same one. Synthetic values that cannot be read as their column's kind, or are
    infinite, count as missing. `notes` says where columns were treated so.

    Args:
        synthetic (`pandas.DataFrame`):
            The generated rows. Scores are comparable, and least noisy, when there are as many as in `train`.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        holdout (`pandas.DataFrame`): Real rows that the generator has not seen, such as a test split.
        target (`str`, *optional*): The column to predict for `utility`, which is left out without it.
        categorical (`Sequence[str]`, *optional*):
            Columns that are categorical whatever their dtype, such as integer codes.
        log_target (`bool`, defaults to `False`): Whether to predict log(1 + target); for regression only.
        num_seeds (`int`, defaults to 5): Seeds of the models that `utility` is averaged over.
        max_rows (`int`, defaults to 50000; 30 or more):
            Fidelity and utility draw at most as many rows of each table, distances between rows (of α-precision,
            β-recall, DCR and NNDR) a fifth of it. Attacks use all synthetic rows; copies, validity and diversity are
            counted in all rows.
        seed (`int`, defaults to 0): Seed of the subsamples, the folds and the models.
        n_jobs (`int`, *optional*): Threads of XGBoost; by default `OMP_NUM_THREADS` or, without it, all processors.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `dict[str, Any]`, ready for JSON:
            - `fidelity`: [`quality_scores`] against `train`; `c2st`, `c2st_logistic`: [`classifier_two_sample_test`]
              against `holdout`, and `c2st_train` against `train`; [`precision_recall`] against `train`. Names that end
              in `_holdout` are scores of the hold-out in place of synthetic rows, to compare with;
            - `utility`: [`machine_learning_efficiency`] on `holdout` after training on the `synthetic` rows, and after
              training on as many of the `real` ones;
            - `privacy`: [`exact_copies`], [`distance_to_closest_record`], [`nearest_neighbor_distance_ratio`],
              [`membership_inference`] and [`attribute_disclosure`] under their names, and `alarms`, the list of what
              speaks of memorised training rows;
            - `validity`: [`row_validity`]; `diversity`: [`diversity`];
            - `rows`: the number of rows of each table; `notes`: how unusual columns were handled; `settings`.

    Raises:
        `ValueError`: when a table has fewer than 30 rows, columns do not match in name or kind, a column holds
        intervals, time differences or nested values, or `target` cannot be predicted. It names the column, and comes
        before any metric is computed.

    Example:

    ```python
    >>> scores = evaluate_table(synthetic, train, test, target="income")
    >>> f"{scores['fidelity']['c2st']:.3f}"
    '0.528'
    >>> scores["privacy"]["alarms"]
    []
    ```
    """
    check_integer("max_rows", max_rows, MIN_ROWS)
    check_integer("num_seeds", num_seeds)
    check_integer("seed", seed, 0, MAX_SEED - num_seeds)
    tables = {"train": train, "holdout": holdout, "synthetic": synthetic}
    _check_sizes(tables)
    plain, categorical, notes = prepare_tables(tables, categorical)
    tables, codes = encode_tables(plain, categorical)
    tables = dict(zip(plain, tables))
    if target is not None:
        check_target({name: tables[name] for name in ("holdout", "train", "synthetic")}, target, codes, log_target)
    generator = np.random.default_rng(seed)
    real, unseen, fake = (draw(table, max_rows, generator) for table in tables.values())
    max_distances = max_rows // 5

    with tqdm(total=8, disable=not show_progress, bar_format="{l_bar}{bar}| {elapsed}") as progress:

        def step(name: str) -> None:
            progress.set_description(name)
            progress.update()

        step("validity and diversity")
        validity = row_validity(synthetic, train, categorical)
        validity["domain_holdout"] = row_validity(holdout, train, categorical)["domain"]
        covered = diversity(plain["synthetic"], plain["train"], categorical)
        step("column shapes and pair trends")
        fidelity = quality_scores(real, fake, codes)
        baseline = quality_scores(real, unseen, codes)
        step("classifier two-sample tests")
        fidelity["c2st"] = classifier_two_sample_test(unseen, fake, codes, seed=seed, n_jobs=n_jobs)
        fidelity["c2st_train"] = classifier_two_sample_test(real, fake, codes, seed=seed, n_jobs=n_jobs)
        fidelity["c2st_logistic"] = classifier_two_sample_test(unseen, fake, codes, "logistic_regression", seed)
        baseline["c2st"] = classifier_two_sample_test(unseen, real, codes, seed=seed, n_jobs=n_jobs)
        step("α-precision and β-recall")
        fidelity |= precision_recall(real, fake, codes, seed, max_distances)
        baseline |= precision_recall(real, unseen, codes, seed, max_distances)
        for name in ("column_shapes", "pair_trends", "c2st", "alpha_precision", "beta_recall"):
            fidelity[f"{name}_holdout"] = baseline[name]
        if baseline["c2st"] > 0.55 + 1 / min(len(real), len(unseen)) ** 0.5:
            notes.append(
                f"training rows and hold-out are told apart (C2ST {baseline['c2st']:.3f}): they are no two samples of "
                "one distribution, and scores and alarms that compare the two may come from that"
            )
        step("utility")
        utility = {}
        if target is not None:
            for name, table in {"synthetic": fake, "real": draw(real, len(fake), generator)}.items():
                utility[name] = machine_learning_efficiency(
                    table, unseen, target, codes, log_target, num_seeds, seed, n_jobs
                )
        step("distances to closest records")
        neighbors = ClosestRecords(tables["synthetic"], tables["train"], tables["holdout"], codes, seed, max_distances)
        privacy = {
            "exact_copies": exact_copies(tables["synthetic"], tables["train"], tables["holdout"], codes),
            "distance_to_closest_record": distance_to_closest_record(neighbors),
            "nearest_neighbor_distance_ratio": nearest_neighbor_distance_ratio(neighbors),
            "membership_inference": membership_inference(neighbors),
        }
        step("attribute disclosure")
        privacy["attribute_disclosure"] = attribute_disclosure(neighbors)
        privacy["alarms"] = privacy_alarms(privacy)
        step("done")

    return {
        "fidelity": fidelity,
        "utility": utility,
        "privacy": privacy,
        "validity": validity,
        "diversity": covered,
        "rows": {name: len(table) for name, table in tables.items()},
        "notes": notes,
        "settings": {
            "target": target,
            "categorical": codes,
            "log_target": log_target,
            "num_seeds": num_seeds,
            "max_rows": max_rows,
            "seed": seed,
        },
    }


def _check_sizes(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        if 0 < len(table) < MIN_ROWS:
            raise ValueError(
                f"`{name}` has {len(table)} rows; at least {MIN_ROWS} are needed for figures to mean much"
            )
