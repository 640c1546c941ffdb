"""
Control on adult, beside TabularARGN: records that satisfy a condition, gaps that are filled, a predicted field.

    python -m benchmarks.control --data-dir DIR --commit COMMIT [--seeds 0 1 2] [--work-dir DIR]

The work folder holds what `benchmarks.commits` trained of the commit, and the TabularARGN that `benchmarks.speed`
fitted. Figures go to benchmarks/results/control.json; `python -m benchmarks.report` writes docs/benchmarks.md from
them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from difflm_hf import DiffLMPipeline
from difflm_hf.evaluation import classifier_two_sample_test

from .markdown import to_table
from .results import load_result, save_result
from .speed import PEER, fit_peer
from .tables import MODELS, find_python


DATASET, TARGET = "adult", "income"
CONDITIONS = {"income": ">50K", "education": "Masters", "sex": "Female", "native-country": "Mexico"}
SPEED_ROWS = 50_000
MISSING = 0.25  # of the cells, at random
NUM_DRAWS = 10
NUM_FILLED, NUM_PREDICTED = 2000, 5000  # of the test split: TabularARGN takes minutes for more
PEER_SCRIPT = """
import json, sys
import pandas as pd
from mostlyai.engine import TabularARGN

workspace, given, categorical, output, seed, num_draws = sys.argv[1:]
dtypes = {name: str for name in json.loads(categorical)}
table = pd.read_csv(given, dtype=dtypes, keep_default_na=False, na_values=[""])
model = TabularARGN(workspace_dir=workspace, verbose=0, random_state=int(seed))
model._fitted = True
if int(num_draws):
    result = model.impute(table, n_draws=int(num_draws))
else:
    result = model.sample(seed_data=table)
result.to_csv(output, index=False)
"""


def ask_peer(python: Path, workspace: Path, table: pd.DataFrame, categorical: list[str], seed: int, num_draws: int):
    """What TabularARGN makes of rows with gaps: one draw of seeds, or the mode of several imputations."""
    with tempfile.TemporaryDirectory() as folder:
        given, output = Path(folder, "given.csv"), Path(folder, "output.csv")
        table.to_csv(given, index=False)
        names = json.dumps([name for name in categorical if name in table])
        command = [python, "-c", PEER_SCRIPT, workspace, given, names, output, seed, num_draws]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return pd.read_csv(output, keep_default_na=False, na_values=[""])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_gaps(table: pd.DataFrame, categorical: list[str], seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    is_missing = np.random.default_rng(seed).random(table.shape) < MISSING
    gaps = table.astype({name: float for name in table if name not in categorical}).mask(is_missing)
    return gaps, is_missing


def imputation_scores(
    filled: pd.DataFrame, table: pd.DataFrame, is_missing: np.ndarray, train: pd.DataFrame, categorical: list[str]
) -> dict[str, float]:
    """Accuracy over missing categories, and the error of missing numbers in deviations of the training split."""
    hits, errors = [], []
    for name, missing in zip(table, is_missing.T):
        given, true = filled[name][missing], table[name][missing]
        if name in categorical:
            hits.append((given.astype(str) == true.astype(str)).mean())
        else:
            errors.append(((given.astype(float) - true) / train[name].std()).pow(2).mean())
    return {"accuracy": float(np.mean(hits)), "nrmse": float(np.sqrt(np.mean(errors)))}


def xgboost_auc(train: pd.DataFrame, test: pd.DataFrame, categorical: list[str], seed: int) -> float:
    both = pd.concat([train, test]).astype({name: "category" for name in categorical})
    features, is_positive = both.drop(columns=TARGET), both[TARGET] == CONDITIONS[TARGET]
    trees = XGBClassifier(n_estimators=300, learning_rate=0.1, enable_categorical=True, random_state=seed)
    trees.fit(features[: len(train)], is_positive[: len(train)])
    return roc_auc_score(is_positive[len(train) :], trees.predict_proba(features[len(train) :])[:, 1])


def measure(seed: int, data: Path, model: Path, python: Path, workspace: Path) -> dict[str, Any]:
    """The figures of one seed of training and generation."""
    categorical = json.loads((data / "info.json").read_text())["categorical"]
    train, test = (pd.read_csv(data / f"{part}.csv") for part in ("train", "test"))
    pipe = DiffLMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    figures: dict[str, Any] = {"c2st": {}, PEER: {"c2st": {}}}
    for name, value in CONDITIONS.items():
        real = test[test[name] == value]
        ours = pipe(len(real), conditions={name: value}, generator=seeded(seed), output_type="pandas").records
        peers = ask_peer(python, workspace, real[[name]].reset_index(drop=True), categorical, seed, 0)
        for scores, rows in ((figures, ours), (figures[PEER], peers[real.columns])):
            assert (rows[name] == value).all()
            scores["c2st"][f"{name} = {value}"] = classifier_two_sample_test(real, rows, categorical, seed=seed)
    rates = {}
    for name, conditions in (("free", {}), ("conditioned", {"conditions": {TARGET: CONDITIONS[TARGET]}})):
        start = time.perf_counter()
        pipe(SPEED_ROWS, **conditions, generator=seeded(seed), output_type="pandas")
        rates[name] = SPEED_ROWS / (time.perf_counter() - start)
    figures["rows_per_second"] = rates
    filled_rows, predicted_rows = test.head(NUM_FILLED), test.head(NUM_PREDICTED)
    gaps, is_missing = with_gaps(filled_rows, categorical, seed)
    for scores, filled in (
        (figures, pipe.impute(gaps, NUM_DRAWS, aggregate="mean", generator=seeded(seed))),
        (figures[PEER], ask_peer(python, workspace, gaps, categorical, seed, NUM_DRAWS)),
    ):
        scores["imputation"] = imputation_scores(filled, filled_rows, is_missing, train, categorical)
    probabilities = pipe.predict(predicted_rows, TARGET, generator=seeded(seed))[CONDITIONS[TARGET]]
    figures["auc"] = roc_auc_score(predicted_rows[TARGET] == CONDITIONS[TARGET], probabilities)
    figures["xgboost_auc"] = xgboost_auc(train, predicted_rows, categorical, seed)
    return figures


def _interval(values: list[float]) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def control_section() -> str:
    """The page's passage on control."""
    results = load_result("control")
    runs = [run for seed, run in results.items() if seed.isdigit()]
    peer = MODELS[PEER].title
    rows = [
        [name, *(_interval([side["c2st"][name] for side in sides]) for sides in (runs, [run[PEER] for run in runs]))]
        for name in runs[0]["c2st"]
    ]
    imputed = [
        [title, *(_interval([side["imputation"][key] for side in s]) for s in (runs, [run[PEER] for run in runs]))]
        for key, title in (("accuracy", "accuracy of categories"), ("nrmse", "error of numbers, in deviations"))
    ]
    ratio = [run["rows_per_second"]["conditioned"] / run["rows_per_second"]["free"] for run in runs]
    return "\n\n".join(
        [
            to_table(["condition: C2ST against the test rows that satisfy it", "difflm_hf", peer], rows),
            f"{MISSING:.0%} of all cells of {NUM_FILLED:,} test rows missing at random, filled with means and modes "
            f"of {NUM_DRAWS} draws; {peer} takes modes:",
            to_table(["", "difflm_hf", peer], imputed),
            f"With income known, {np.mean(ratio):.2f} times as many rows a second are generated as without. "
            f"`pipe.predict` of income has an AUC of {_interval([run['auc'] for run in runs])} on "
            f"{NUM_PREDICTED:,} test rows, XGBoost trained on the training split "
            f"{_interval([run['xgboost_auc'] for run in runs])}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    data, python = args.data_dir / DATASET, find_python(MODELS[PEER], args.work_dir / "environments")
    folder = args.work_dir / DATASET
    fit_peer(python, data, folder / PEER)
    for seed in args.seeds:
        model = folder / f"{args.commit}-{seed}" / "model"
        figures = measure(seed, data, model, python, folder / PEER / "workspace")
        save_result("control", {str(seed): figures, "commit": args.commit})
        print(seed, figures, flush=True)


if __name__ == "__main__":
    main()
