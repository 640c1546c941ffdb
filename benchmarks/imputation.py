"""The part "imputation" of `benchmarks.control`: gaps in test rows, filled by models that know the training split."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .results import load_result
from .setting import Setting, seeded
from .speed import PEER
from .tables import MODELS, Model


MISSING = 0.25  # of the cells, at random
NUM_FILLED = 1000  # rows of the test split, or half of them
NUM_DRAWS, NUM_PEER_DRAWS = 20, 5
KINDS = ("at random", "not at random", "whole columns")
IMPUTERS = {
    PEER: MODELS[PEER],
    "missforest": Model("MissForest", ("MissForest==4.2.3", "lightgbm", "pandas", "scikit-learn", "tqdm")),
    "miceforest": Model("miceforest", ("miceforest==6.0.5", "lightgbm<4.7", "pandas")),
}


def with_gaps(s: Setting, kind: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Test rows, and where they are to have gaps: at random, the larger values more often, or a column each."""
    table = s.test.head(min(NUM_FILLED, len(s.test) // 2)).reset_index(drop=True)
    if kind == "whole columns":
        return table, np.arange(len(table))[:, None] % table.shape[1] == np.arange(table.shape[1])
    # 30 % of all, where they are not missing at random.
    rates = MISSING if kind == "at random" else 0.6 * table.rank(pct=True).to_numpy()
    is_missing = np.random.default_rng(s.seed).random(table.shape) < rates
    is_missing[is_missing.all(1), 0] = False
    return table, is_missing


def center(s: Setting, draws: list[pd.DataFrame]) -> pd.DataFrame:
    """Means of numbers, and the most frequent categories."""
    columns = {name: pd.concat([draw[name] for draw in draws], axis=1) for name in s.train}
    return pd.DataFrame(
        {name: of.mode(axis=1)[0] if name in s.categorical else of.mean(axis=1) for name, of in columns.items()}
    )


def score(s: Setting, draws: list[pd.DataFrame], table: pd.DataFrame, is_missing: np.ndarray) -> dict[str, float]:
    """
    Accuracy of missing categories, error of missing numbers in deviations, the C2ST of a completed table against other
    test rows, and how many true numbers lie in the 90 % interval of the draws.
    """
    filled, hits, errors, covered = center(s, draws), [], [], []
    for name, missing in zip(table, is_missing.T):
        given, true = filled[name][missing], table[name][missing]
        if name in s.categorical:
            hits.append((given == true).mean())
            continue
        errors.append(((given.astype(float) - true) / s.train[name].std()).pow(2).mean())
        if len(draws) == NUM_DRAWS:
            low, high = np.quantile([draw[name][missing].astype(float) for draw in draws], [0.05, 0.95], axis=0)
            covered.append(((low <= true) & (true <= high)).mean())
    scores = {"accuracy": float(np.mean(hits)), "nrmse": float(np.sqrt(np.mean(errors)))}
    scores["c2st"] = s.c2st(s.test.iloc[len(table) : 2 * len(table)].reset_index(drop=True), draws[0])
    return scores | ({"coverage": float(np.mean(covered))} if covered else {})


def measure_imputation(s: Setting) -> dict[str, dict[str, dict[str, float]]]:
    """
    Figures by kind of gaps and model. Those of peers that stand in the results are kept, since tables, gaps and seeds
    of theirs do not change.
    """
    results = load_result("control").get("imputation", {}).get(s.name, {}).get(str(s.seed))
    results = results or {kind: {} for kind in KINDS}
    peers = {peer: model for peer, model in IMPUTERS.items() if model.title not in results[KINDS[0]]}
    kinds = {kind: with_gaps(s, kind) for kind in KINDS}
    table = pd.concat([rows for rows, _ in kinds.values()], ignore_index=True)  # at once: peers take long to start
    types = {name: object if name in s.categorical else float for name in table}
    gaps = table.astype(types).mask(np.concatenate([is_missing for _, is_missing in kinds.values()]))
    draws = {"ours": s.pipe.impute(gaps, NUM_DRAWS, generator=seeded(s.seed))}
    draws |= {model.title: s.impute_by(peer, model, gaps, NUM_PEER_DRAWS) for peer, model in peers.items()}
    start = 0
    for kind, (rows, is_missing) in kinds.items():
        parts = {
            model: [draw.iloc[start : start + len(rows)].reset_index(drop=True) for draw in drawn]
            for model, drawn in draws.items()
        }
        results[kind] |= {model: score(s, part, rows, is_missing) for model, part in parts.items()}
        start += len(rows)
    return results
