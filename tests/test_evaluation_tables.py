"""Metrics of tables: what they say of tables that are known to be good or bad, and that libraries agree."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdmetrics.reports import QualityReport
from sdmetrics.single_column import CategoryCoverage, RangeCoverage
from sdmetrics.single_table.privacy import DCROverfittingProtection
from sdmetrics.single_table.privacy.dcr_utils import calculate_dcr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score, root_mean_squared_error
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier, XGBRegressor

from difflm_hf.evaluation import (
    ClosestRecords,
    attribute_disclosure,
    classifier_two_sample_test,
    distance_to_closest_record,
    diversity,
    evaluate_table,
    exact_copies,
    machine_learning_efficiency,
    membership_inference,
    nearest_neighbor_distance_ratio,
    precision_recall,
    privacy_alarms,
    quality_scores,
    row_validity,
)
from difflm_hf.evaluation.tables.fidelity import XGBOOST_SETTINGS


ADULT = Path(__file__).parents[1] / "examples" / "data"
CODES = ["region"]


def make_table(num_rows, seed, missing=0.0):
    """Rows of every kind of column, all driven by one hidden number."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=num_rows)

    def noisy(scale):
        return hidden + generator.normal(scale=scale, size=num_rows)

    table = pd.DataFrame(
        {
            "age": (40 + 10 * noisy(0.3)).round().astype(int),
            "income": np.exp(1 + noisy(0.3)),
            "job": np.where(noisy(0.5) > 0, "clerk", np.where(noisy(0.5) > 0, "cook", "pilot")),
            "member": noisy(0.5) > 0,
            "region": np.digitize(noisy(0.5), [-1, 0, 1]),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta((100 * noisy(0.3)).round(), unit="D"),
        }
    )
    return table.mask(generator.random(table.shape) < missing) if missing else table


@pytest.fixture(scope="module")
def train():
    return make_table(1500, seed=0)


@pytest.fixture(scope="module")
def test():
    return make_table(1500, seed=1)


@pytest.fixture(scope="module")
def fresh():
    return make_table(1500, seed=2)


@pytest.fixture(scope="module")
def few():
    """Synthetic, training and hold-out rows, which are soon compared."""
    return tuple(make_table(400, seed) for seed in (2, 0, 1))


@pytest.fixture(scope="module")
def scores(train, test, fresh):
    """Of another sample of the same distribution."""
    return evaluate_table(fresh, train, test, categorical=CODES)


@pytest.fixture(scope="module")
def shuffled(train):
    generator = np.random.default_rng(3)
    return pd.DataFrame({name: generator.permutation(column) for name, column in train.items()})


@pytest.fixture(scope="module")
def adult():
    return {split: pd.read_parquet(ADULT / f"adult_{split}.parquet") for split in ("train", "validation", "test")}


def shuffle_columns(table):
    generator = np.random.default_rng(0)
    return pd.DataFrame({name: generator.permutation(column) for name, column in table.items()})


@pytest.mark.slow
def test_real_rows_of_adult_pass(adult):
    """What is known of rows of the same distribution: nothing tells them from others, and nothing is given away."""
    scores = evaluate_table(
        adult["test"], adult["train"], adult["validation"], target="income", num_seeds=2, max_rows=20_000
    )
    assert scores["fidelity"]["column_shapes"] > 0.985
    assert scores["fidelity"]["pair_trends"] > 0.97
    for name in ("c2st", "c2st_train", "c2st_logistic"):
        assert scores["fidelity"][name] == pytest.approx(0.5, abs=0.02)
    assert scores["fidelity"]["alpha_precision"] > 0.97
    assert scores["fidelity"]["beta_recall"] == pytest.approx(scores["fidelity"]["beta_recall_holdout"], abs=0.04)
    utility = scores["utility"]
    assert utility["synthetic"]["auc"]["mean"] == pytest.approx(utility["real"]["auc"]["mean"], abs=0.006)
    assert scores["privacy"]["distance_to_closest_record"]["share"] == pytest.approx(0.5, abs=0.03)
    assert scores["privacy"]["membership_inference"]["auc"] == pytest.approx(0.5, abs=0.03)
    assert scores["privacy"]["attribute_disclosure"]["risk"] == pytest.approx(0, abs=0.05)
    assert scores["privacy"]["alarms"] == []
    assert scores["validity"]["schema"] == 1
    assert scores["validity"]["domain"] > 0.999
    assert scores["diversity"]["pair_coverage"] == pytest.approx(
        scores["diversity"]["pair_coverage_expected"], abs=0.1
    )


@pytest.mark.slow
def test_shuffled_columns_of_adult_are_found_out(adult):
    shuffled = shuffle_columns(adult["train"])
    assert classifier_two_sample_test(adult["test"], shuffled) > 0.95
    assert quality_scores(adult["train"], shuffled)["pair_trends"] < 0.8
    scores = precision_recall(adult["train"], shuffled, max_rows=3000)
    assert scores["beta_recall"] < precision_recall(adult["train"], adult["test"], max_rows=3000)["beta_recall"] - 0.2
    auc = machine_learning_efficiency(shuffled, adult["test"], "income", num_seeds=1)["auc"]["mean"]
    assert auc == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_a_bootstrap_of_adult_raises_every_alarm(adult):
    bootstrap = adult["train"].sample(frac=1, replace=True, random_state=0)
    alarms = privacy_alarms(privacy_scores(bootstrap, adult["train"], adult["test"]))
    assert len(alarms) == 4
    for alarm, sign in zip(alarms, ("copies of training rows", "nearer to a training row", "AUC", "disclose")):
        assert sign in alarm


def test_a_few_copies_raise_an_alarm(adult):
    train, test = adult["train"], adult["test"]
    leaky = pd.concat([test.iloc[:8000], train.iloc[:100]])
    assert exact_copies(leaky, train, test.iloc[8000:])["p_value"] < 0.001
    assert exact_copies(test.iloc[:8000], train, test.iloc[8000:])["p_value"] > 0.01


def test_a_holdout_that_was_seen_raises_an_alarm(train, test):
    (alarm,) = privacy_alarms(privacy_scores(test, train, test))
    assert "seems to have seen the hold-out" in alarm


def privacy_scores(synthetic, train, holdout):
    neighbors = ClosestRecords(synthetic, train, holdout)
    return {
        "exact_copies": exact_copies(synthetic, train, holdout),
        "distance_to_closest_record": distance_to_closest_record(neighbors),
        "membership_inference": membership_inference(neighbors),
        "attribute_disclosure": attribute_disclosure(neighbors),
    }


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_quality_scores_are_those_of_sdmetrics(missing):
    real, synthetic = make_table(800, seed=0, missing=missing), make_table(700, seed=1, missing=missing)
    kinds = ["numerical", "numerical", "categorical", "boolean", "categorical", "datetime"]
    columns = {name: {"sdtype": kind} for name, kind in zip(real, kinds)}
    report = QualityReport()
    report.generate({"t": real}, {"t": synthetic}, {"tables": {"t": {"columns": columns}}}, verbose=False)
    expected = report.get_properties().set_index("Property")["Score"]

    scores = quality_scores(real, synthetic, categorical=CODES)

    assert scores["column_shapes"] == pytest.approx(expected["Column Shapes"], abs=1e-6)
    assert scores["pair_trends"] == pytest.approx(expected["Column Pair Trends"], abs=1e-6)


def test_quality_scores_see_broken_pairs(train, fresh, shuffled):
    assert quality_scores(train, shuffled, CODES)["column_shapes"] == pytest.approx(1)
    assert quality_scores(train, shuffled, CODES)["pair_trends"] < quality_scores(train, fresh, CODES)["pair_trends"]


def test_quality_scores_of_columns_and_pairs(train, fresh, shuffled):
    scores = quality_scores(train, shuffled, CODES)
    assert list(scores["columns"]) == list(train)
    assert scores["column_shapes"] == pytest.approx(np.mean(list(scores["columns"].values())))
    assert len(scores["pairs"]) == 15
    associated = [pair["score"] for pair in scores["pairs"] if pair["associated"]]
    assert scores["pair_trends"] == pytest.approx(np.mean(associated))


def test_c2st_by_logistic_regression_is_that_of_scikit_learn():
    real, synthetic = (pd.DataFrame({"x": x}) for x in np.random.default_rng(0).normal([[0], [1]], size=(2, 500)))
    rows, labels = pd.concat([real, synthetic]), np.repeat([0, 1], 500)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    # The order of rows decides the folds, and little else.
    expected = cross_val_score(model, rows, labels, cv=StratifiedKFold(3, shuffle=True), scoring="roc_auc").mean()
    measured = classifier_two_sample_test(real, synthetic, classifier="logistic_regression")
    assert measured == pytest.approx(expected, abs=0.01)
    assert measured == pytest.approx(0.76, abs=0.03)  # that of two unit normals one standard deviation apart


def test_c2st_by_logistic_regression_misses_what_is_not_linear(train, test, shuffled):
    c2st = partial(classifier_two_sample_test, categorical=CODES, classifier="logistic_regression")
    assert c2st(test, shuffled) < 0.6
    assert c2st(test, train.assign(job="cook")) > 0.7


def test_precision_sees_rows_beyond_and_recall_rows_missed():
    generator = np.random.default_rng(0)

    def normal(scale, size=2000):
        return pd.DataFrame(scale * generator.normal(size=(size, 3)), columns=list("abc"))

    real = normal(1)
    same, wide, narrow = (precision_recall(real, normal(scale)) for scale in (1, 3, 0.2))
    assert same["alpha_precision"] > 0.95
    assert same["beta_recall"] == pytest.approx(0.5, abs=0.05)
    assert wide["alpha_precision"] < 0.5
    assert narrow["beta_recall"] < 0.2
    assert min(precision_recall(real, real).values()) > 0.999


def test_precision_is_the_integral_of_the_curve():
    """Synthetic rows all at the centre are in every ball: P(α) = 1, thus 1 - 2 ∫ (1 - α) dα = 0."""
    real = pd.DataFrame({"x": np.random.default_rng(0).normal(size=1000)})
    center = pd.DataFrame({"x": np.full(1000, real["x"].mean())})
    assert precision_recall(real, center)["alpha_precision"] == pytest.approx(0, abs=0.05)


def test_c2st(train, test, shuffled):
    assert classifier_two_sample_test(train, test, CODES) == pytest.approx(0.5, abs=0.04)
    assert classifier_two_sample_test(test, shuffled, CODES) > 0.9
    assert classifier_two_sample_test(test, shuffled.head(300), CODES) > 0.85
    assert classifier_two_sample_test(train, train.sample(frac=1, random_state=0), CODES) < 0.5


def auc(train, test, target):
    return machine_learning_efficiency(train, test, target, CODES, num_seeds=1)["auc"]["mean"]


def rmse(train, test, **kwargs):
    return machine_learning_efficiency(train, test, "income", CODES, num_seeds=1, **kwargs)["rmse"]["mean"]


def test_mle_of_two_classes_is_their_auc(train, test, shuffled):
    assert auc(train, test, "member") > 0.8
    assert auc(shuffled, test, "member") == pytest.approx(0.5, abs=0.1)


def test_mle_of_many_classes(train, test):
    everything = auc(train, test, "job")
    without_pilots = auc(train[train["job"] != "pilot"], test, "job")
    one_class = auc(train[train["job"] == "cook"], test, "job")
    assert everything > without_pilots > one_class == 0.5


def test_mle_of_a_number_is_an_error(train, test):
    assert 0 < rmse(train, test) < test["income"].std()
    assert 0 < rmse(train, test, log_target=True) < np.log1p(test["income"]).std()
    negative = train.assign(income=train["income"].where(train["age"] > 20, -5.0))
    assert np.isfinite(rmse(negative, test, log_target=True))


def test_mle_is_that_of_scikit_learn_and_xgboost():
    train, test = (make_table(800, seed)[["age", "income", "region"]] for seed in range(2))
    settings = XGBOOST_SETTINGS | {"random_state": 3}
    x, y, x_test, y_test = (t[c].to_numpy(float) for t in (train, test) for c in (["age", "income"], "region"))
    probabilities = XGBClassifier(**settings).fit(x, y).predict_proba(x_test)
    predicted = probabilities.argmax(axis=1)
    scores = machine_learning_efficiency(train, test, "region", CODES, num_seeds=1, seed=3)
    expected = {
        "auc": roc_auc_score(y_test, probabilities, multi_class="ovr"),
        "f1": f1_score(y_test, predicted, average="macro"),
        "accuracy": accuracy_score(y_test, predicted),
    }
    assert {name: score["mean"] for name, score in scores.items()} == pytest.approx(expected, abs=1e-6)

    x, y, x_test, y_test = (t[c].to_numpy(float) for t in (train, test) for c in (["age", "region"], "income"))
    predicted = XGBRegressor(**settings).fit(x, y).predict(x_test)
    scores = machine_learning_efficiency(train, test, "income", CODES, num_seeds=1, seed=3)
    expected = {"rmse": root_mean_squared_error(y_test, predicted), "r2": r2_score(y_test, predicted)}
    assert {name: score["mean"] for name, score in scores.items()} == pytest.approx(expected, abs=1e-6)


def test_mle_has_intervals_over_seeds(train, test):
    several = machine_learning_efficiency(train, test, "member", CODES, num_seeds=3)["auc"]
    single = [
        machine_learning_efficiency(train, test, "member", CODES, num_seeds=1, seed=seed)["auc"]["mean"]
        for seed in range(3)
    ]
    assert several["mean"] == pytest.approx(np.mean(single))
    # Student's t at 2 degrees of freedom: 4.303.
    margin = 4.303 * np.std(single, ddof=1) / np.sqrt(3)
    assert several["high"] - several["mean"] == pytest.approx(margin, rel=1e-3)
    assert several["mean"] - several["low"] == pytest.approx(margin, rel=1e-3)
    assert margin > 0


def dcr(synthetic, train, holdout):
    return distance_to_closest_record(ClosestRecords(synthetic, train, holdout, CODES))["share"]


def test_dcr(train, test, fresh):
    assert dcr(fresh, train, test) == pytest.approx(0.5, abs=0.05)
    assert dcr(train, train, test) > 0.99
    assert dcr(test, train, test) < 0.01
    assert dcr(fresh, train, train) == 0.5  # nothing but ties
    assert dcr(train, train, test.head(500)) == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.slow
def test_dcr_error_is_that_of_dealing_rows_anew():
    """A few real rows that are the closest of many synthetic ones make the share vary more than a coin would."""
    generator = np.random.default_rng(0)
    real = pd.DataFrame(generator.normal(size=(120, 6)), columns=list("abcdef"))
    synthetic = pd.DataFrame(generator.normal(size=(1000, 6)), columns=list("abcdef"))
    shares, errors = [], []
    for _ in range(60):
        dealt = real.iloc[generator.permutation(len(real))]
        scores = distance_to_closest_record(ClosestRecords(synthetic, dealt[:60], dealt[60:]))
        shares.append(scores["share"])
        errors.append(scores["standard_error"])
    assert np.std(shares) == pytest.approx(np.mean(errors), rel=0.3)
    assert np.mean(errors) > 1.3 * 0.5 / np.sqrt(1000)


@pytest.mark.slow
def test_copies_of_all_of_many_rows_raise_alarms_though_few_are_drawn():
    generator = np.random.default_rng(0)
    rows = pd.DataFrame(generator.normal(size=(24_000, 4)), columns=list("abcd"))
    train, holdout = rows[:20_000], rows[20_000:]
    jittered = train + generator.normal(scale=1e-4, size=train.shape)
    neighbors = ClosestRecords(jittered, train, holdout, max_rows=1000)
    assert distance_to_closest_record(neighbors)["share_of_copies"] == 0.525
    assert membership_inference(neighbors)["auc"] > 0.9
    assert attribute_disclosure(neighbors)["risk"] > 0.5


def test_dcr_is_gower():
    train = pd.DataFrame({"x": [0.0, 10.0, np.nan], "c": ["a", "b", "b"]})
    holdout = pd.DataFrame({"x": [5.0, 5.0, 5.0], "c": ["a", "a", "a"]})
    # Distances to `train` and `holdout`, times 2: 0.3 and 0.2; 1 and 1; 0.1 and 1.4; 0.25 and 0.25.
    synthetic = pd.DataFrame({"x": [3.0, np.nan, 9.0, 2.5], "c": ["a", "a", "b", "a"]})
    scores = distance_to_closest_record(ClosestRecords(synthetic, train, holdout))
    assert scores["share"] == (0 + 0.5 + 1 + 0.5) / 4
    assert scores["synthetic"]["q50"] == pytest.approx((0.15 + 0.125) / 2)


KINDS = {"age": "numerical", "income": "numerical", "job": "categorical", "member": "boolean"}


def metadata(kinds):
    return {"tables": {"t": {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}}}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.2]))
def test_distances_are_those_of_sdmetrics(seed, missing):
    train, holdout, synthetic = (make_table(60, seed + i, missing)[[*KINDS, "since"]] for i in range(3))
    expected = calculate_dcr(synthetic, train, metadata(KINDS | {"since": "datetime"}))
    nearest, _ = ClosestRecords(synthetic, train, holdout).synthetic_to_train
    order = np.random.default_rng(0)
    [frame.sample(60, random_state=order) for frame in (train, holdout)]
    rows = synthetic.sample(60, random_state=order).index
    assert nearest[:, 0] == pytest.approx(expected[rows].to_numpy(), abs=1e-6)


def test_dcr_share_is_that_of_sdmetrics():
    train, holdout, synthetic = (make_table(200, seed)[[*KINDS]] for seed in range(3))
    # SDMetrics scales by the range of either table, and counts no ties: here the ranges are equal, and ties are rare.
    ends = [{"age": age, "income": income, "job": "cook", "member": True} for age, income in ((-99, 0), (199, 999))]
    train, holdout = (pd.concat([table, pd.DataFrame(ends)], ignore_index=True) for table in (train, holdout))
    expected = DCROverfittingProtection.compute_breakdown(train, synthetic, holdout, metadata(KINDS), "t")
    share = distance_to_closest_record(ClosestRecords(synthetic, train, holdout))["share"]
    assert share == pytest.approx(expected["synthetic_data_percentages"]["closer_to_training"], abs=1e-6)


def test_nndr_singles_out_copies(train, test, fresh):
    scores = nearest_neighbor_distance_ratio(ClosestRecords(fresh, train, test, CODES))
    assert scores["synthetic"]["q50"] == pytest.approx(scores["holdout"]["q50"], abs=0.05)
    copies = nearest_neighbor_distance_ratio(ClosestRecords(train, train, test, CODES))
    assert copies["synthetic"]["q50"] == 0
    assert sum(copies["holdout"]["histogram"]["counts"]) == len(test)


def test_nndr_by_hand():
    train = pd.DataFrame({"x": [0.0, 1.0, 1.0, 10.0]})
    synthetic = pd.DataFrame({"x": [0.25, 1.0, 10.0]})  # 0.25 / 0.75, 0 / 0 and 0 / 9
    scores = nearest_neighbor_distance_ratio(ClosestRecords(synthetic, train, train))
    assert scores["synthetic"]["q50"] == pytest.approx(1 / 3)


def test_membership_inference(train, test, fresh):
    fair = membership_inference(ClosestRecords(fresh, train, test, CODES))
    assert abs(fair["auc"] - 0.5) < 3 * fair["standard_error"]
    assert membership_inference(ClosestRecords(train, train, test, CODES))["auc"] > 0.99
    half = train.sample(frac=0.5, random_state=0)
    assert membership_inference(ClosestRecords(half, train, test, CODES))["auc"] == pytest.approx(0.75, abs=0.05)


def test_attribute_disclosure(train, test, fresh):
    fair = attribute_disclosure(ClosestRecords(fresh, train, test, CODES))
    assert fair["risk"] == pytest.approx(0, abs=0.05)
    assert fair["columns"]["member"]["train"] > 0.7  # knowledge about the population
    copied = attribute_disclosure(ClosestRecords(train, train, test, CODES))
    assert copied["risk"] > 0.95
    assert copied["columns"]["job"]["p_value"] < 1e-6
    # Copies of all columns but one give that one away no more than fresh rows do.
    masked = train.assign(job=np.random.default_rng(0).permutation(train["job"]))
    masked = attribute_disclosure(ClosestRecords(masked, train, test, CODES))
    assert abs(masked["columns"]["job"]["risk"]) < 0.1
    assert masked["columns"]["member"]["risk"] > 0.2


def test_attributes_may_be_missing_or_constant():
    train, test, fresh = (make_table(200, seed, missing=0.3).assign(constant=1) for seed in range(3))
    scores = attribute_disclosure(ClosestRecords(fresh, train, test, CODES))
    assert scores["columns"]["constant"]["train"] == pytest.approx(scores["columns"]["constant"]["holdout"], abs=0.2)
    assert all(np.isfinite(column["risk"]) for column in scores["columns"].values())


def test_exact_copies():
    train = pd.DataFrame({"x": [1, 2, 3], "c": ["a", None, "c"]})
    synthetic = pd.DataFrame({"x": [1.0, 1.0, 2.0, 3.0], "c": ["a", "a", None, "a"]})
    assert exact_copies(synthetic, train) == {"synthetic": 0.75}
    scores = exact_copies(synthetic, train, holdout=train.tail(1).assign(c="d"))
    assert scores["holdout"] == 0
    assert scores["p_value"] in (0.5, 1)  # one training row is drawn: the one that has copies, or the one that has not


def test_modes_are_no_copies():
    """A generator that never saw the training rows, but prefers what is frequent, equals them more often."""
    generator = np.random.default_rng(0)
    frequencies = generator.dirichlet(np.full(3000, 0.3))
    sharpened = frequencies**1.3 / (frequencies**1.3).sum()
    train, holdout, sharp = (
        pd.DataFrame({"c": generator.choice(3000, 2000, p=p)}) for p in (frequencies, frequencies, sharpened)
    )
    scores = exact_copies(sharp, train, holdout, ["c"])
    assert scores["synthetic"] > scores["holdout"] + 0.02
    assert scores["p_value"] > 0.01


def test_validity():
    train = pd.DataFrame({"n": [1, 2, 3], "x": [0.5, np.nan, 2.5], "c": ["a", "b", "a"], "b": [True, False, True]})
    good = pd.DataFrame({"n": [1, 3], "x": [1.0, np.nan], "c": ["b", "a"], "b": [False, True]})
    assert row_validity(good, train, ["c"]) == {"parses": 1, "schema": 1, "domain": 1, "columns": {}, "examples": {}}
    bad = pd.DataFrame(
        {
            "n": ["one", 1.5, 4, 2, 2],  # no number; no integer; too large
            "x": [1.0, 1.0, 1.0, 1.0, 1.0],
            "c": ["a", "a", "a", "z", "a"],  # unknown
            "b": [True, True, True, True, None],  # missing
        }
    )
    scores = row_validity(bad, train, ["c"])
    assert (scores["parses"], scores["schema"], scores["domain"]) == (4 / 5, 2 / 5, 0)
    assert scores["columns"] == {"n": 2 / 5, "c": 4 / 5, "b": 4 / 5}
    assert scores["examples"] == {"n": ["one", "1.5", "4"], "c": ["z"], "b": ["missing"]}


def test_diversity_is_that_of_sdmetrics(train, fresh):
    scores = diversity(fresh.head(20), train, CODES)
    names = ["job", "member", "region"]
    expected = np.mean([CategoryCoverage.compute(train[name], fresh[name].head(20)) for name in names])
    assert scores["category_coverage"] == pytest.approx(expected, abs=1e-6)
    names = ["age", "income", "since"]
    expected = np.mean([RangeCoverage.compute(train[name], fresh[name].head(20)) for name in names])
    assert scores["range_coverage"] == pytest.approx(expected, abs=1e-6)


def test_diversity_by_hand():
    train = pd.DataFrame({"c": list("aaab"), "d": list("xxyy")})
    synthetic = pd.DataFrame({"c": ["a", "a"], "d": ["x", "x"]})
    scores = diversity(synthetic, train)
    assert scores["unique_rows"] == 0.5
    assert scores["unique_rows_train"] == 0.75
    assert scores["category_coverage"] == 0.5
    # Two draws: 1 - (1 - f)^2 for f of 3/4 and 1/4, then of 1/2 and 1/2.
    assert scores["category_coverage_expected"] == pytest.approx(((15 / 16 + 7 / 16) / 2 + 3 / 4) / 2)
    assert scores["pair_coverage"] == pytest.approx(1 / 3)
    assert scores["pair_coverage_expected"] == pytest.approx((3 / 4 + 7 / 16 + 7 / 16) / 3)
    assert scores["missed"] == {"c": ["b"], "d": ["y"]}


def test_a_bootstrap_covers_what_is_expected(train):
    small = diversity(train.sample(50, replace=True, random_state=0), train, CODES)
    assert small["pair_coverage"] == pytest.approx(small["pair_coverage_expected"], abs=0.1)


def test_evaluate_table(train, test, fresh):
    arguments = {"target": "member", "categorical": CODES, "num_seeds": 2, "n_jobs": 1}
    scores = evaluate_table(fresh, train, test, **arguments)
    again = evaluate_table(fresh, train, test, **arguments)
    assert scores == again
    for section in ("fidelity", "utility", "privacy", "validity", "diversity", "rows", "notes", "settings"):
        assert section in scores
    utility = scores["utility"]
    assert utility["synthetic"]["auc"]["mean"] == pytest.approx(utility["real"]["auc"]["mean"], abs=0.05)
    assert scores["fidelity"]["c2st"] == pytest.approx(0.5, abs=0.05)
    assert scores["privacy"]["alarms"] == []
    assert scores["notes"] == []


def flat(scores, path=()):
    """The numbers in nested scores, by their path."""
    if isinstance(scores, dict):
        return {k: v for name, part in scores.items() for k, v in flat(part, (*path, name)).items()}
    return {path: scores} if isinstance(scores, float) else {}


@pytest.mark.slow
def test_evaluate_table_with_missing_values_of_any_dtype():
    train, test, synthetic = (make_table(300, seed, missing=0.1) for seed in range(3))
    extension = synthetic.convert_dtypes()
    categories = synthetic.astype({"job": "category", "region": "category"})
    evaluate = partial(evaluate_table, target="job", categorical=CODES, num_seeds=1)
    scores = flat(evaluate(synthetic, train, test))
    assert all(np.isfinite(list(scores.values())))
    assert scores == flat(evaluate(categories, train, test))
    assert scores == flat(evaluate(extension, train.convert_dtypes(), test))


def test_a_column_may_be_missing_entirely(few):
    fresh, train, test = few
    scores = evaluate_table(fresh.assign(age=None), train, test, categorical=CODES)
    assert scores["fidelity"]["c2st"] == 1
    assert scores["utility"] == {}
    assert scores["validity"]["columns"]["age"] == 0
    assert scores["notes"] == ["column 'age' has no synthetic value; column shapes and pair trends leave it out"]


@pytest.mark.slow
def test_a_column_without_values_is_left_out(train, test, fresh, scores):
    expected = scores["fidelity"]["c2st"]
    scores = evaluate_table(*(table.assign(empty=None) for table in (fresh, train, test)), categorical=CODES)
    assert scores["notes"] == ["column 'empty' has no value in the training table, and is left out"]
    assert scores["fidelity"]["c2st"] == expected
    filled = evaluate_table(
        fresh.assign(empty="x"), train.assign(empty=None), test.assign(empty=None), categorical=CODES
    )
    assert filled["validity"]["columns"]["empty"] == 0


def test_unseen_categories_are_categories(few):
    fresh, train, test = few
    scores = evaluate_table(fresh.assign(job="spy"), train, test, target="member", categorical=CODES, num_seeds=1)
    assert scores["validity"]["columns"]["job"] == 0
    assert scores["validity"]["examples"]["job"] == ["spy"]
    assert set(scores["diversity"]["missed"]["job"]) == {"cook", "clerk", "pilot"}
    assert scores["fidelity"]["columns"]["job"] == pytest.approx(0, abs=1e-6)


def test_categories_are_the_same_in_every_writing(train, test, fresh, scores):
    tables = fresh.astype({"region": float}), train.astype({"region": str}), test
    texts = evaluate_table(tables[0].assign(member=fresh["member"].map({True: "true", False: "false"})), *tables[1:])
    assert texts["validity"]["columns"].keys() == scores["validity"]["columns"].keys()
    assert texts["fidelity"]["columns"] == pytest.approx(scores["fidelity"]["columns"])
    assert texts["privacy"]["alarms"] == []


@pytest.mark.slow
def test_numbers_are_numbers_in_any_dtype(train, test, fresh, scores):
    tables = fresh.astype({"income": object}), train.astype({"age": object}), test
    assert flat(evaluate_table(*tables, categorical=CODES)) == flat(scores)


def test_float32_is_its_digits():
    train = pd.DataFrame({"x": np.round(np.random.default_rng(0).random(100), 2)})
    assert exact_copies(train.astype("float32"), train)["synthetic"] == 1


def test_infinite_and_huge_numbers(few):
    fresh, train, test = few
    broken = fresh.copy()
    broken.loc[0, "income"], broken.loc[1, "income"] = np.inf, 1e300
    scores = evaluate_table(broken, train, test, categorical=CODES)
    assert any("column 'income': 2 synthetic values, such as inf" in note for note in scores["notes"])
    assert scores["validity"]["domain"] < 1
    with pytest.raises(ValueError, match="column 'income' holds numbers or datetimes, but inf in row 0 of `holdout`"):
        evaluate_table(fresh, train, test.assign(income=broken["income"]), categorical=CODES)


@pytest.mark.slow
def test_a_text_in_a_training_column_of_numbers_is_noted(few):
    """As when a CSV file has one text among numbers, which makes the column text."""
    fresh, train, test = few
    broken = train.astype({"age": str})
    broken.loc[3, "age"] = "old"
    scores = evaluate_table(fresh, broken, test, categorical=CODES)
    assert any("column 'age': 'old' among integers count as missing" in note for note in scores["notes"])
    assert scores["fidelity"]["columns"]["age"] > 0.9
    broken.loc[3:12, "age"] = [f"about {k}" for k in range(10)]
    scores = evaluate_table(fresh, broken, test, categorical=CODES)
    assert any(
        "column 'age' holds numbers in `holdout`, but texts in the training" in note for note in scores["notes"]
    )


def test_a_holdout_of_another_distribution_is_noted(few):
    fresh, train, test = few
    scores = evaluate_table(fresh, train, test.assign(age=test["age"] + 15), categorical=CODES)
    assert any("no two samples of one distribution" in note for note in scores["notes"])


@pytest.mark.slow
def test_a_stray_text_makes_no_other_categories_of_numbers(few):
    """As when a CSV file has one text in a column of codes."""
    fresh, train, test = few
    texts = fresh.astype({"region": str, "member": str})
    texts.loc[0, "region"] = "rare"
    scores = evaluate_table(texts, train, test, target="member", categorical=CODES, num_seeds=1)
    assert scores["validity"]["columns"]["region"] == 1 - 1 / len(fresh)
    assert "member" not in scores["validity"]["columns"]
    assert scores["fidelity"]["columns"]["region"] > 0.95
    assert scores["fidelity"]["c2st"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
def test_unreadable_synthetic_values_count_as_missing(few):
    fresh, train, test = few
    broken = fresh.astype({"age": object})
    broken.loc[3, "age"] = "old"
    scores = evaluate_table(broken, train, test, categorical=CODES)
    (note,) = scores["notes"]
    assert note == "column 'age': 1 synthetic values, such as 'old', are no integers, and count as missing"
    assert scores["validity"]["parses"] == 1 - 1 / len(fresh)


@pytest.mark.slow
def test_dates_as_strings_and_free_texts(few):
    fresh, train, test = few

    def as_read(table):
        """Texts with the length of the income's digits, and dates as a CSV file has them."""
        words = [f"{word:.0f} {row}" for row, word in enumerate(table["income"])]
        return table.assign(since=table["since"].dt.strftime("%Y-%m-%d"), words=words)

    tables = [as_read(table) for table in (fresh, train, test)]
    scores = evaluate_table(*tables, categorical=CODES)
    assert scores["notes"] == ["column 'words' holds texts, which count by their number of characters"]
    dated = quality_scores(train, fresh, CODES)["columns"]["since"]
    assert scores["fidelity"]["columns"]["since"] == pytest.approx(dated)
    assert scores["fidelity"]["c2st"] < 0.6


def test_rows_beyond_the_limit_are_drawn(train, test, fresh):
    scores = evaluate_table(fresh, train, test, target="member", categorical=CODES, max_rows=500, num_seeds=1)
    assert scores["rows"] == {"train": 1500, "holdout": 1500, "synthetic": 1500}
    assert sum(scores["privacy"]["distance_to_closest_record"]["synthetic"]["histogram"]["counts"]) == 100


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda table: table.drop(columns="age"), r"`synthetic` lacks \['age'\] of `train`"),
        (lambda table: table.assign(extra=1), r"`synthetic` has columns \['extra'\]"),
        (lambda table: table.head(0), "`synthetic` is empty"),
        (lambda table: table.head(29), "`synthetic` has 29 rows; at least 30"),
        (lambda table: table.assign(member=None), "'member' has no values in `synthetic`"),
    ],
)
def test_tables_that_do_not_match(train, test, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_table(change(train), train, test, target="member", categorical=CODES)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"target": "wealth"}, "no target 'wealth'"),
        ({"categorical": ["zone"]}, r"`categorical` names \['zone'\]"),
        ({"target": "job", "log_target": True}, "'job' is categorical"),
    ],
)
def test_arguments_that_do_not_fit(train, test, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_table(train, train, test, **arguments)


def test_one_class_cannot_be_ranked(train, test):
    with pytest.raises(ValueError, match="'job' has one class in `holdout`"):
        evaluate_table(train, train, test[test["job"] == "cook"], target="job")


def test_unreadable_real_values_are_an_error(train, test):
    broken = test.astype({"age": object})
    broken.loc[3, "age"] = "old"
    with pytest.raises(ValueError, match="'age' holds numbers or datetimes, but 'old' in row 3 of `holdout`"):
        evaluate_table(train, train, broken)


def test_a_small_holdout_is_an_error(train, test, fresh):
    with pytest.raises(ValueError, match="`holdout` has 10 rows; at least 30"):
        evaluate_table(fresh, train, test.head(10))


def test_unknown_classifier(train, test):
    with pytest.raises(ValueError, match="classifier='svm' is none of"):
        classifier_two_sample_test(test, train, CODES, classifier="svm")
