"""
Fills the gaps of a table by a peer, in its own virtual environment:

    python imputers.py PEER TRAIN GIVEN CATEGORICAL OUTPUT SEED NUM_DRAWS [WORKSPACE]

Columns named in the JSON list CATEGORICAL are strings. Draw k is written to OUTPUT/k.csv.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd


def tabular_argn(train: pd.DataFrame, given: pd.DataFrame, seed: int, num_draws: int) -> Iterator[pd.DataFrame]:
    """As fitted by `benchmarks.speed`. Without gaps: as many rows that begin so."""
    from mostlyai.engine import TabularARGN

    model = TabularARGN(workspace_dir=sys.argv[8], verbose=0, random_state=seed)
    model._fitted = True
    for _ in range(num_draws):
        yield model.impute(given)[list(given)]


def to_codes(train: pd.DataFrame, given: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list]]:
    """Both tables in one, with whole numbers for categories: all of the given rows come last."""
    both, values = pd.concat([train, given[list(train)]], ignore_index=True), {}
    for name in train.columns[train.dtypes == "str"]:
        category = both[name].astype("category").cat
        values[name] = list(category.categories)
        both[name] = category.codes.astype(float).where(category.codes >= 0)
    return both, values


def from_codes(both: pd.DataFrame, values: dict[str, list], num_rows: int) -> pd.DataFrame:
    rows = both.tail(num_rows).reset_index(drop=True)
    rows = rows.astype({name: float for name in values}).round({name: 0 for name in values})
    return rows.assign(**{name: rows[name].map(dict(enumerate(of))) for name, of in values.items()})


def missforest(train: pd.DataFrame, given: pd.DataFrame, seed: int, num_draws: int) -> Iterator[pd.DataFrame]:
    """Trees of the rows with gaps and of those without; there is one answer, and no draw."""
    from lightgbm import LGBMClassifier, LGBMRegressor
    from missforest import MissForest

    both, values = to_codes(train, given)
    trees = {"random_state": seed, "verbose": -1, "n_jobs": 1}
    forest = MissForest(LGBMClassifier(**trees), LGBMRegressor(**trees), list(values) or None, verbose=0)
    yield from_codes(forest.fit_transform(both), values, len(given))


def miceforest(train: pd.DataFrame, given: pd.DataFrame, seed: int, num_draws: int) -> Iterator[pd.DataFrame]:
    from miceforest import ImputationKernel

    both, values = to_codes(train, given)
    both = both.astype({name: "category" for name in values})
    # Of categories it looks for the nearest logits, which are infinite where a class is rare.
    candidates = {name: 0 if name in values else 5 for name in both}
    kernel = ImputationKernel(both, num_datasets=num_draws, mean_match_candidates=candidates, random_state=seed)
    kernel.mice(5, num_threads=1, verbosity=-1)
    for k in range(num_draws):
        yield from_codes(kernel.complete_data(k), values, len(given))


def main() -> None:
    peer, train, given, categorical, output, seed, num_draws = sys.argv[1:8]
    dtypes = {name: "str" for name in json.loads(categorical)}
    tables = (pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""]) for path in (train, given))
    for k, draw in enumerate(globals()[peer](*tables, int(seed), int(num_draws))):
        draw.to_csv(Path(output, f"{k}.csv"), index=False)


if __name__ == "__main__":
    main()
