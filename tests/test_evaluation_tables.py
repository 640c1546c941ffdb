import numpy as np
import pandas as pd
import pytest
from sdmetrics.reports import QualityReport

from difflm_hf.evaluation import (
    classifier_two_sample_test,
    distance_to_closest_record,
    evaluate_table,
    machine_learning_efficiency,
    quality_scores,
    row_novelty,
)


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
def shuffled(train):
    generator = np.random.default_rng(3)
    return pd.DataFrame({name: generator.permutation(column) for name, column in train.items()})


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


def test_c2st(train, test, shuffled):
    assert classifier_two_sample_test(train, test, CODES) == pytest.approx(0.5, abs=0.04)
    assert classifier_two_sample_test(test, shuffled, CODES) > 0.9
    assert classifier_two_sample_test(test, shuffled.head(300), CODES) > 0.85
    assert classifier_two_sample_test(train, train.sample(frac=1, random_state=0), CODES) < 0.5


def test_mle_of_two_classes_is_their_auc(train, test, shuffled):
    assert machine_learning_efficiency(train, test, "member", CODES) > 0.8
    assert machine_learning_efficiency(shuffled, test, "member", CODES) == pytest.approx(0.5, abs=0.1)


def test_mle_of_many_classes(train, test):
    everything = machine_learning_efficiency(train, test, "job", CODES)
    without_pilots = machine_learning_efficiency(train[train["job"] != "pilot"], test, "job", CODES)
    one_class = machine_learning_efficiency(train[train["job"] == "cook"], test, "job", CODES)
    assert everything > without_pilots > one_class == 0.5


def test_mle_of_a_number_is_an_error(train, test):
    assert 0 < machine_learning_efficiency(train, test, "income", CODES) < test["income"].std()
    in_logs = machine_learning_efficiency(train, test, "income", CODES, log_target=True)
    assert 0 < in_logs < np.log1p(test["income"]).std()
    negative = train.assign(income=train["income"].where(train["age"] > 20, -5.0))
    assert np.isfinite(machine_learning_efficiency(negative, test, "income", CODES, log_target=True))


def test_dcr(train, test, fresh):
    assert distance_to_closest_record(fresh, train, test, CODES) == pytest.approx(0.5, abs=0.05)
    assert distance_to_closest_record(train, train, test, CODES) > 0.99
    assert distance_to_closest_record(test, train, test, CODES) < 0.01
    assert distance_to_closest_record(fresh, train, train, CODES) == 0.5  # nothing but ties
    assert distance_to_closest_record(train, train, test.head(500), CODES) == pytest.approx(2 / 3, abs=0.05)


def test_dcr_is_gower():
    train = pd.DataFrame({"x": [0.0, 10.0, np.nan], "c": ["a", "b", "b"]})
    holdout = pd.DataFrame({"x": [5.0, 5.0, 5.0], "c": ["a", "a", "a"]})
    # Distances to `train` and `holdout`: 0.3 and 0.2; 0 and 2.5; 0.1 and 1.4; 0.25 and 0.25.
    synthetic = pd.DataFrame({"x": [3.0, np.nan, 9.0, 2.5], "c": ["a", "b", "b", "a"]})
    assert distance_to_closest_record(synthetic, train, holdout) == (0 + 1 + 1 + 0.5) / 4


def test_row_novelty():
    train = pd.DataFrame({"x": [1, 2, 3], "c": ["a", None, "c"]})
    synthetic = pd.DataFrame({"x": [1.0, 1.0, 2.0, 3.0], "c": ["a", "a", None, "a"]})
    assert row_novelty(synthetic, train) == {"unique_rows": 0.75, "exact_copies": 0.75}


def test_evaluate_table(train, test, fresh):
    scores = evaluate_table(fresh, train, test, target="member", categorical=CODES, n_jobs=1)
    assert list(scores) == [
        "column_shapes",
        "pair_trends",
        "c2st",
        "mle",
        "mle_real",
        "dcr",
        "unique_rows",
        "exact_copies",
    ]
    assert all(isinstance(score, float) for score in scores.values())
    assert scores["mle"] == pytest.approx(scores["mle_real"], abs=0.05)
    assert scores == evaluate_table(fresh, train, test, target="member", categorical=CODES, n_jobs=1)
    assert scores["c2st"] == classifier_two_sample_test(test, fresh, CODES, n_jobs=1)
    assert scores["mle"] == machine_learning_efficiency(fresh, test, "member", CODES, n_jobs=1)


def test_evaluate_table_with_missing_values_of_any_dtype():
    train, test, synthetic = (make_table(300, seed, missing=0.1) for seed in range(3))
    extension = synthetic.convert_dtypes()
    categories = synthetic.astype({"job": "category", "region": "category"})
    scores = evaluate_table(synthetic, train, test, target="job", categorical=CODES)
    assert all(np.isfinite(list(scores.values())))
    assert scores == evaluate_table(extension, train, test, target="job", categorical=CODES)
    assert scores == evaluate_table(categories, train, test, target="job", categorical=CODES)
    assert scores == evaluate_table(extension, train.convert_dtypes(), test, target="job", categorical=CODES)


def test_a_column_may_be_missing_entirely(train, test, fresh):
    scores = evaluate_table(fresh.assign(age=None), train, test, categorical=CODES)
    assert scores["c2st"] == 1
    assert "mle" not in scores


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda table: table.drop(columns="age"), r"`synthetic` lacks \['age'\] of `train`"),
        (lambda table: table.assign(extra=1), r"`synthetic` has columns \['extra'\]"),
        (lambda table: table.head(0), "`synthetic` is empty"),
        (lambda table: table.assign(age="old"), "'age' holds numbers, but 'old' in row 0 of `synthetic`"),
        (lambda table: table.assign(since="long ago"), "'since' holds datetimes, but 'long ago'"),
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
    with pytest.raises(ValueError, match="'job' has one class in `test`"):
        evaluate_table(train, train, test[test["job"] == "cook"], target="job")
