"""
Control, beside peers: records that satisfy conditions and rules, gaps that are filled, a predicted field, guidance.

    python -m benchmarks.control --data-dir DIR --commit COMMIT [--parts satisfied c2st ...] [--datasets adult ...]
        [--seeds 0 1 2] [--work-dir DIR]

The work folder holds what `benchmarks.commits` trained of the commit; peers are fitted where it has none. Figures go
to benchmarks/results/control.json; `python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from difflm_hf import DiffLMPipeline, RecordSchema
from difflm_hf.control import Between, LatentClassifier, Not
from difflm_hf.evaluation import quality_scores
from difflm_hf.latents import encode_latents, to_dataset
from difflm_hf.records import Combinations

from .imputation import measure_imputation
from .results import load_result, save_result
from .setting import Setting, seeded
from .tables import DATASETS


TARGET, POSITIVE = "income", ">50K"  # of adult
CONDITIONS = {TARGET: POSITIVE, "education": "Masters", "sex": "Female", "native-country": "Mexico"}
NUM_CONDITIONS = 10_000  # of the part "satisfied", a record each
NUM_FOR_ALL, NUM_RECORDS = 20, 5  # those of them of which there are several records, and how many
NUM_ROWS = 10_000  # of a table of conditions
MIN_ROWS = 100  # of the test split that a condition is scored on
NUM_SEVERAL = 20  # conditions on two and three fields
SPEED_ROWS = 50_000
NUM_PREDICTED = 5000  # rows of the test split
SCALES = (0, 0.5, 1, 2, 4, 8, 16)  # of the guide
SCORE_SCALES = (1, 2, 4, 8)


def satisfies(column: pd.Series, condition: Any) -> np.ndarray:
    """What a condition means, in pandas' own terms."""
    if isinstance(condition, Not):
        return (column != condition.condition).to_numpy()
    if isinstance(condition, Between):
        return column.between(condition.left, condition.right).to_numpy()
    return column.isin(condition if isinstance(condition, list) else [condition]).to_numpy()


def random_conditions(table: pd.DataFrame, categorical: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Conditions on one to three fields: values, several of them, all but one, ranges."""

    def of(name: str) -> st.SearchStrategy:
        values = st.sampled_from(table[name].drop_duplicates().sort_values().tolist())
        if name in categorical:
            return values | st.lists(values, min_size=1, max_size=4, unique=True) | values.map(Not)
        return values | st.tuples(values, values).map(lambda ends: Between(*sorted(ends)))

    fields = {name: of(name) for name in table}
    names = st.lists(st.sampled_from(list(table)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))


def draw_conditions(s: Setting, number: int) -> tuple[list[dict[str, Any]], int]:
    """Random conditions that values of the training data satisfy, and how many others were drawn."""
    drawn: list[dict[str, Any]] = []
    limits = hypothesis.settings(
        max_examples=1000, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    draws = hypothesis.given(conditions=random_conditions(s.train, s.categorical))
    for seed in range(-(-number // 1000)):  # more at once take hypothesis far longer

        def draw(conditions: dict[str, Any]) -> None:
            drawn.append(conditions)

        hypothesis.seed(seed)(limits(draws(draw)))()

    def possible(conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            s.pipe.make_condition(conditions)
        except ValueError:
            half = len(conditions) // 2
            return possible(conditions[:half]) + possible(conditions[half:]) if half else []
        return conditions

    found = possible(drawn)
    return found, len(drawn) - len(found)


def measure_satisfied(s: Setting) -> dict[str, float]:
    """
    Which share of records satisfies random conditions, each of which is asked of a record, and some of several
    records; and how many of these are refused as too rare.
    """
    conditions, impossible = draw_conditions(s, NUM_CONDITIONS)
    start = time.perf_counter()
    records = s.generate(conditions=conditions)
    seconds = time.perf_counter() - start
    satisfied = [
        all(satisfies(records[name].iloc[[k]], c)[0] for name, c in asked.items())
        for k, asked in enumerate(conditions)
    ]
    of_all, too_rare = [], 0
    for asked in conditions[:NUM_FOR_ALL]:
        try:
            records = s.generate(NUM_RECORDS, conditions=asked)
        except RuntimeError:
            too_rare += 1
            continue
        of_all.append(np.mean([satisfies(records[name], c) for name, c in asked.items()]))
    rng = np.random.default_rng(s.seed)
    rows = s.train.sample(NUM_ROWS, replace=True, random_state=s.seed, ignore_index=True)
    is_known = rng.random(rows.shape) < rng.random((len(rows), 1))
    is_known[:, 0] |= ~is_known.any(1)
    records = s.generate(conditions=rows.astype(object).where(is_known, None))
    equal = (records[rows.columns].astype(object).to_numpy() == rows.astype(object).to_numpy()) | ~is_known
    return {
        "satisfied": float(np.mean(satisfied)),
        "num_conditions": len(satisfied),
        "impossible": impossible,
        "records_per_second": len(satisfied) / seconds,
        "satisfied_for_all": float(np.mean(of_all)),
        "too_rare": too_rare,
        "rows_satisfied": float(equal.all(1).mean()),
    }


def single_conditions(s: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class of every category, and the quartiles of every number."""
    for name in s.train:
        if name in s.categorical:
            for value in s.train[name].unique():
                yield f"{name} = {value}", {name: value}
            continue
        ends = s.train[name].quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
        for low, high in zip(ends, ends[1:]):
            yield f"{name} in [{low:g}, {high:g}]", {name: Between(low, high)}


def several_conditions(s: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of random rows in two or three categories, of at least `MIN_ROWS` test rows or 0.2 % of all."""
    rng, found = np.random.default_rng(0), set()
    while len(found) < NUM_SEVERAL:
        names = sorted(rng.choice(s.categorical, rng.integers(2, 4), replace=False))
        row = s.train.iloc[rng.integers(len(s.train))]
        conditions = {name: row[name] for name in names}
        text = " and ".join(f"{name} = {value}" for name, value in conditions.items())
        num_rows = (s.test[names] == row[names]).all(axis=1).sum()
        # Half of them are rare.
        is_rare = num_rows < 0.005 * len(s.test)
        if text in found or num_rows < 0.002 * len(s.test) or is_rare != (len(found) % 2 == 0):
            continue
        found.add(text)
        yield text, conditions


def measure_c2st(s: Setting, conditions: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, list[float]]:
    """C2ST of records under conditions against the test rows that satisfy them: ours, the peer's, and the rows."""
    real = {}
    for text, condition in conditions:
        is_real = np.logical_and.reduce([satisfies(s.test[name], c) for name, c in condition.items()])
        if is_real.sum() >= (MIN_ROWS if len(condition) == 1 else 20):
            real[text] = condition, s.test[is_real].reset_index(drop=True)
    # The peer takes values, and no ranges: it is given those of the real rows.
    peers = s.begin_peer([rows[list(condition)] for condition, rows in real.values()])
    scores = {}
    for (text, (condition, rows)), others in zip(real.items(), peers):
        ours = s.generate(len(rows), conditions=condition)
        assert all(satisfies(ours[name], c).all() for name, c in condition.items())
        scores[text] = [s.c2st(rows, ours), s.c2st(rows, others), len(rows)]
    return scores


def measure_speed(s: Setting) -> dict[str, float]:
    rates = {}
    for name, conditions in (("free", {}), ("conditioned", {"conditions": {TARGET: POSITIVE}})):
        start = time.perf_counter()
        s.generate(SPEED_ROWS, **conditions)
        rates[name] = SPEED_ROWS / (time.perf_counter() - start)
    return rates


def measure_prediction(s: Setting) -> dict[str, float]:
    """AUC of the target on test rows, beside XGBoost trained on the training split."""
    both = pd.concat([s.train, s.test]).astype({name: "category" for name in s.categorical})
    features, is_positive = both.drop(columns=TARGET), both[TARGET] == POSITIVE
    trees = XGBClassifier(n_estimators=300, learning_rate=0.1, enable_categorical=True, random_state=s.seed)
    trees.fit(features[: len(s.train)], is_positive[: len(s.train)])
    rows = s.test.head(NUM_PREDICTED)
    true = is_positive[len(s.train) :][:NUM_PREDICTED]
    ours = s.pipe.predict(rows, TARGET, generator=seeded(s.seed))[POSITIVE]
    theirs = trees.predict_proba(features[len(s.train) :][:NUM_PREDICTED])[:, 1]
    return {"ours": roc_auc_score(true, ours), "XGBoost": roc_auc_score(true, theirs)}


def measure_posterior(s: Setting) -> float:
    """What latents of real rows of the class say of it: mean p(class|z)."""
    classifier = LatentClassifier.fit(s.pipe, s.train, TARGET)
    rows = s.train[s.train[TARGET] == POSITIVE]
    latents = encode_latents(s.pipe.vae, to_dataset(s.pipe.processor, rows)).tensors
    z = latents["mean"] + latents["std"] * torch.randn(latents["mean"].shape, generator=seeded(s.seed))
    return float(classifier(z).softmax(-1)[:, classifier.values.index(POSITIVE)].mean())


def measure_guidance(s: Setting) -> dict[str, list[float]]:
    """By scale: share of the class, shapes of its other fields, seconds. By a score: the same."""
    classifier = LatentClassifier.fit(s.pipe, s.train, TARGET)
    real, index = s.train[s.train[TARGET] == POSITIVE].drop(columns=TARGET), classifier.values.index(POSITIVE)
    names = [name for name in s.categorical if name != TARGET]

    def log_prob(rows: pd.DataFrame) -> np.ndarray:
        z = encode_latents(s.pipe.vae, to_dataset(s.pipe.processor, rows)).tensors["mean"]
        return classifier(z).log_softmax(-1)[:, index].numpy()

    figures = {}
    ways = {f"scale {scale}": {"guides": [classifier.guide(POSITIVE, scale)]} for scale in SCALES}
    ways |= {f"score × {k}": {"score": lambda rows, k=k: k * log_prob(rows)} for k in SCORE_SCALES}
    for name, arguments in ways.items():
        start = time.perf_counter()
        rows = s.generate(8192, **arguments)
        seconds = time.perf_counter() - start
        of_class = rows[rows[TARGET] == POSITIVE].drop(columns=TARGET)
        shapes = quality_scores(real, of_class, names)["column_shapes"]
        figures[name] = [float((rows[TARGET] == POSITIVE).mean()), shapes, seconds]
    return figures


def measure_rules(s: Setting) -> dict[str, Any]:
    """C2ST with the rules that are found in the table, and without: the same model."""
    schema = s.pipe.processor.codec.schema
    rules = RecordSchema.infer(s.train, s.categorical, find_rules=True).rules
    if s.name == "beijing":
        rules = [Combinations(["month", "day"]).fit(s.train)]
    if not rules:
        return {"rules": []}
    without = s.generate(len(s.train))
    s.pipe.processor.codec.schema = RecordSchema(schema.fields, rules)
    rows = s.generate(len(s.train))
    s.pipe.processor.codec.schema = schema
    checked = RecordSchema(schema.fields, rules)
    return {
        "rules": list(map(str, rules)),
        "broken_without": float(1 - checked.holds(without).mean()),
        "broken": float(1 - checked.holds(rows).mean()),
        "c2st_without": s.c2st(s.test, without),
        "c2st": s.c2st(s.test, rows),
    }


PARTS = {
    "satisfied": (measure_satisfied, DATASETS),
    "four": (lambda s: measure_c2st(s, ((f"{n} = {v}", {n: v}) for n, v in CONDITIONS.items())), ("adult",)),
    "single": (lambda s: measure_c2st(s, single_conditions(s)), ("adult", "shoppers")),
    "several": (lambda s: measure_c2st(s, several_conditions(s)), ("adult", "shoppers")),
    "speed": (measure_speed, ("adult",)),
    "imputation": (measure_imputation, DATASETS),
    "prediction": (measure_prediction, ("adult",)),
    "guidance": (measure_guidance, ("adult",)),
    "posterior": (measure_posterior, ("adult",)),
    "rules": (measure_rules, DATASETS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    environments = args.work_dir / "environments"
    for part in args.parts:
        measure, datasets = PARTS[part]
        for name in [name for name in datasets if name in args.datasets]:
            data, folder = args.data_dir / name, args.work_dir / name
            train, test = (pd.read_csv(data / f"{split}.csv") for split in ("train", "test"))
            categorical = json.loads((data / "info.json").read_text())["categorical"]
            for seed in args.seeds:
                pipe = DiffLMPipeline.from_pretrained(folder / f"{args.commit}-{seed}" / "model")
                pipe.set_progress_bar_config(disable=True)
                setting = Setting(name, train, test, categorical, pipe, seed, data, folder, environments)
                measured = measure(setting)
                figures = load_result("control").get(part, {})  # another process may have added to it
                figures.setdefault(name, {})[str(seed)] = measured
                save_result("control", {part: figures, "commit": args.commit})
                print(part, name, seed, figures[name][str(seed)], flush=True)


if __name__ == "__main__":
    main()
