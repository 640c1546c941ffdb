"""The metrics as modules of the `evaluate` library, against the plain functions."""

import doctest
import json
import socket
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from difflm_hf.evaluation import (
    ClosestRecords,
    attribute_disclosure,
    classifier_two_sample_test,
    distance_to_closest_record,
    distinct_n,
    diversity,
    evaluate_code,
    evaluate_json,
    evaluate_text,
    exact_copies,
    machine_learning_efficiency,
    membership_inference,
    nearest_neighbor_distance_ratio,
    precision_recall,
    quality_scores,
    row_validity,
    self_bleu,
)
from difflm_hf.evaluation.record_metric import MODULES, module_path


NAMES = sorted(path.name for path in MODULES.iterdir() if path.name != "__pycache__")
CODES = ["region"]
TEXTS = ["a cat sat", "a dog sat there", "two mice, too"], ["a cat sat", "the dog ran"]


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
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta((1e8 * noisy(0.3)).round(), unit="ms"),
        }
    )
    return table.mask(generator.random(table.shape) < missing) if missing else table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """Modules are copied to one place, to be imported from there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        yield


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no network is needed")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(
    scope="module", params=[pytest.param(0.0, marks=pytest.mark.slow, id="complete"), pytest.param(0.1, id="missing")]
)
def tables(request):
    """Unequally many rows of train, holdout and synthetic tables."""
    return [make_table(size, seed, request.param) for seed, size in enumerate([150, 120, 100])]


@pytest.fixture(scope="module")
def neighbors(tables):
    train, holdout, synthetic = tables
    return ClosestRecords(synthetic, train, holdout, CODES)


def load(name, *args, **kwargs):
    return evaluate.load(module_path(name), *args, **kwargs)


def compute(name, tables, *args, **kwargs):
    return load(name, *args).compute(**sides(tables), categorical=CODES, **kwargs)


def sides(tables):
    return {"predictions": tables[2], "references": tables[0]}


def quantiles(name, scores):
    prefixes = {f"{name}_": scores["synthetic"], f"{name}_holdout_": scores["holdout"]}
    return {prefix + q: values[q] for prefix, values in prefixes.items() for q in ("q01", "q05", "q50")}


def assert_equal(scores, expected):
    assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert {type(score) for score in scores.values()} == {float}


@pytest.mark.parametrize("name", NAMES)
def test_a_module_loads_and_is_documented(name, offline):
    metric = load(name)
    assert metric.name == name
    assert metric.module_type == "metric"
    assert len(metric.description) > 100
    assert metric.citation.startswith("@") and metric.citation.count("{") == metric.citation.count("}")
    assert "predictions (" in metric.inputs_description and "references (" in metric.inputs_description
    assert "Returns:" in metric.compute.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_module_is_right(name, offline):
    text = load(name).inputs_description.replace("```", "")
    example = doctest.DocTestParser().get_doctest(
        text, {"evaluate": evaluate, "module_path": module_path}, name, None, None
    )
    result = doctest.DocTestRunner().run(example)
    assert result.attempted and not result.failed


def test_there_is_a_module_path_for_each(tmp_path):
    assert len(NAMES) == 17
    assert [Path(module_path(name)).name for name in NAMES] == NAMES
    with pytest.raises(ValueError, match="no metric 'fid'; choose from .*c2st, code"):
        module_path("fid")


def test_fidelity(tables):
    train, holdout, synthetic = tables
    expected = quality_scores(train, synthetic, CODES)
    assert_equal(compute("column_shapes", tables), {"column_shapes": expected["column_shapes"]})
    assert_equal(compute("pair_trends", tables), {"pair_trends": expected["pair_trends"]})
    expected = precision_recall(train, synthetic, CODES, seed=3)
    assert_equal(compute("alpha_precision_beta_recall", tables, seed=3), expected)
    expected |= {f"{name}_holdout": x for name, x in precision_recall(train, holdout, CODES, seed=3).items()}
    assert_equal(compute("alpha_precision_beta_recall", tables, holdout=holdout, seed=3), expected)


def test_c2st(tables):
    train, holdout, synthetic = tables
    expected = classifier_two_sample_test(train, synthetic, CODES, n_jobs=1)
    assert_equal(compute("c2st", tables, n_jobs=1), {"c2st": expected})
    expected = classifier_two_sample_test(holdout, synthetic, CODES, "logistic_regression", seed=1)
    options = {"holdout": holdout, "seed": 1}
    assert_equal(compute("c2st", tables, "logistic_regression", **options), {"c2st_logistic": expected})
    assert_equal(compute("c2st", tables, classifier="logistic_regression", **options), {"c2st_logistic": expected})
    with pytest.raises(ValueError, match="classifier='svm' is none of"):
        compute("c2st", tables, "svm")


@pytest.mark.parametrize("target", ["job", "income"])
def test_mle(tables, target):
    train, holdout, synthetic = tables
    options = {"target": target, "log_target": target == "income", "num_seeds": 2, "n_jobs": 1}
    scores = compute("mle", tables, holdout=holdout, **options)
    for prefix, table in {"mle": synthetic, "mle_real": train}.items():
        for name, expected in machine_learning_efficiency(table, holdout, categorical=CODES, **options).items():
            keys = [f"{prefix}_{name}", f"{prefix}_{name}_low", f"{prefix}_{name}_high"]
            assert_equal({key: scores.pop(key) for key in keys}, dict(zip(keys, expected.values())))
    assert not scores


def test_privacy(tables, neighbors):
    train, holdout, synthetic = tables
    dcr = distance_to_closest_record(neighbors)
    expected = {"dcr_share": dcr["share"], **quantiles("dcr", dcr)}
    assert_equal(compute("distance_to_closest_record", tables, holdout=holdout), expected)
    expected = quantiles("nndr", nearest_neighbor_distance_ratio(neighbors))
    assert_equal(compute("nearest_neighbor_distance_ratio", tables, holdout=holdout), expected)
    expected = {f"membership_{name}": score for name, score in membership_inference(neighbors).items()}
    assert_equal(compute("membership_inference", tables, holdout=holdout), expected)
    risk = attribute_disclosure(neighbors)
    expected = {f"attribute_disclosure_{name}": risk[name] for name in ("risk", "train", "holdout")}
    assert_equal(compute("attribute_disclosure", tables, holdout=holdout), expected)


def test_exact_copies(tables):
    train, holdout, synthetic = tables
    copied = pd.concat([synthetic, train.head(7)])  # floats and times to the last bit
    assert compute("exact_copies", [train, None, copied]) == {"exact_copies": 7 / len(copied)}
    copies = exact_copies(copied, train, holdout, CODES)
    expected = [copies["synthetic"], copies["holdout"], copies["p_value"]]
    scores = compute("exact_copies", [train, None, copied], holdout=holdout)
    assert_equal(scores, dict(zip(["exact_copies", "exact_copies_holdout", "exact_copies_p_value"], expected)))


def test_validity_and_diversity(tables):
    train, _, synthetic = tables
    expected = row_validity(synthetic, train, CODES)
    expected = {f"row_validity_{name}": expected[name] for name in ("parses", "schema", "domain")}
    assert_equal(compute("row_validity", tables), expected)
    expected = diversity(synthetic, train, CODES)
    del expected["missed"]
    assert_equal(compute("diversity", tables), expected)


def test_documents():
    synthetic, real = TEXTS
    code, real_code = ["x = 1", "return", "f(", "for x in y: pass"], ["x = 1", "x, y = z"]
    records, real_records = ['{"a": NaN}', '{"a"', {"a": 1, "b": None}, "[]"], ['{"a": 2}', {"b": [{"c": 0.1}]}]
    schema = {"properties": {"a": {"type": "integer"}}}

    def compute(name, predictions, references, **options):
        return load(name).compute(predictions=predictions, references=references, **options)

    assert_equal(compute("text", synthetic, real, seed=2), evaluate_text(synthetic, real, seed=2))
    assert_equal(compute("code", code, real_code), evaluate_code(code, real_code))
    assert_equal(
        compute("json_records", records, real_records, schema=schema, key="a"),
        evaluate_json(records, real_records, schema=schema, key="a"),
    )
    assert_equal(compute("distinct_n", synthetic, real, n=3), {"distinct_3": distinct_n(synthetic, 3)})
    assert_equal(compute("self_bleu", synthetic, None, max_order=2), {"self_bleu": self_bleu(synthetic, 2)})
    odd = ["", "null", "\ud800", '"quoted"', "ß\0"]
    assert_equal(compute("distinct_n", pd.Series(odd), odd[:1]), {"distinct_2": distinct_n(odd, 2)})


def test_all_forms_of_records_are_equal(tables):
    def score(form):
        train, holdout, synthetic = map(form, tables)
        return compute("distance_to_closest_record", [train, None, synthetic], holdout=holdout)

    def to_json(table):
        records = json.loads(table.to_json(orient="records", date_format="iso", date_unit="s"))
        return [record | {"since": record["since"] and record["since"].rstrip("Z")} for record in records]

    def in_paris(table):
        return table.assign(since=table["since"].dt.tz_localize("UTC").dt.tz_convert("Europe/Paris"))

    expected = score(lambda table: table)
    assert score(Dataset.from_pandas) == expected
    assert score(in_paris) == expected
    assert score(lambda table: table.to_dict("records")) == expected
    assert score(lambda table: iter(table.to_dict("records"))) == expected
    # This JSON has dates as strings, in whole seconds, and rounds floats.
    assert score(to_json) == pytest.approx(expected, abs=1e-6)
    assert score(lambda table: [json.dumps(record) for record in to_json(table)]) == score(to_json)


def test_dtypes_change_no_score(tables):
    """Of what JSON has no types for either: periods, and float32, which JSON would write with sixteen digits."""
    plain = [table.assign(since=table["since"].dt.normalize(), income=table["income"].round(2)) for table in tables]
    days = [table["since"].dt.to_period("D") for table in plain]
    others = [table.assign(since=day).astype({"income": "float32"}) for table, day in zip(plain, days)]
    assert compute("row_validity", others) == compute("row_validity", plain)


def test_columns_of_dtype_category_are_categorical(tables):
    train, _, synthetic = (table.astype({"region": "category"}) for table in tables)
    expected = quality_scores(train, synthetic)["column_shapes"]
    metric = load("column_shapes")
    assert_equal(metric.compute(predictions=synthetic, references=train), {"column_shapes": expected})
    # Not any more, if the next table has no such dtype.
    expected = quality_scores(tables[0], tables[2])["column_shapes"]
    assert_equal(metric.compute(predictions=tables[2], references=tables[0]), {"column_shapes": expected})


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_batches(tables, keep_in_memory, tmp_path):
    train, _, synthetic = tables
    expected = compute("diversity", tables)
    metric = load("diversity", categorical=CODES, keep_in_memory=keep_in_memory)
    metric.add_batch(references=train[:40])
    metric.add_batch(predictions=synthetic[:70], references=train[40:41])
    for row in synthetic[70:80].to_dict("records"):
        metric.add(prediction=row)
    for row in train[41:50].to_dict("records"):
        metric.add(prediction=None, reference=row)
    metric.add_batch(predictions=synthetic[80:].to_dict("records"), references=Dataset.from_pandas(train[50:]))
    assert_equal(metric.compute(), expected)
    assert_equal(metric.compute(predictions=synthetic, references=train), expected)
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.slow
def test_combined(tables, offline):
    train, holdout, synthetic = tables
    options = {"holdout": holdout, "categorical": CODES}
    names = ["column_shapes", "c2st", "distance_to_closest_record", "exact_copies"]
    expected = {k: v for name in names for k, v in load(name, **options).compute(**sides(tables)).items()}

    metrics = evaluate.combine([module_path(name) for name in names])
    assert_equal(metrics.compute(**sides(tables), **options), expected)
    metrics = evaluate.combine([load(name, **options) for name in names])
    metrics.add_batch(predictions=synthetic[:90], references=train)
    for row in synthetic[90:].to_dict("records"):
        metrics.add(row)
    assert_equal(metrics.compute(), expected)


def test_combined_metrics_pick_out_their_options():
    synthetic, real = TEXTS
    metrics = evaluate.combine({"unigrams": load("distinct_n", n=1), "all": load("text"), "bleu": load("self_bleu")})
    scores = metrics.compute(predictions=synthetic, references=real, seed=1, max_order=2)
    text = evaluate_text(synthetic, real, seed=1)
    assert scores["unigrams_distinct_1"] == distinct_n(synthetic, 1)
    assert scores["all_distinct_1"] == text["distinct_1"]
    assert scores["novelty"] == text["novelty"]
    assert scores["bleu_self_bleu"] == self_bleu(synthetic, max_order=2)


def test_options_at_loading_are_defaults(tables):
    metric = load("distinct_n", n=3)
    assert metric.compute(predictions=TEXTS[0]).keys() == {"distinct_3"}
    assert metric.compute(predictions=TEXTS[0], n=1).keys() == {"distinct_1"}
    assert metric.compute(predictions=TEXTS[0], n=None).keys() == {"distinct_3"}
    expected = compute("c2st", tables, seed=5)
    assert load("c2st", seed=5, categorical=CODES).compute(**sides(tables)) == expected
    assert load("c2st", categorical=CODES).compute(**sides(tables)) != expected


def test_what_is_needed_must_be_given(tables):
    train, holdout, synthetic = tables
    metric = load("mle", n_jobs=1, num_seeds=1, categorical=CODES)
    metric.add_batch(predictions=synthetic, references=train)
    with pytest.raises(ValueError, match="mle needs `holdout`; pass it to compute, or to evaluate.load"):
        metric.compute(target="job")
    with pytest.raises(ValueError, match="mle needs `target`"):
        metric.compute(holdout=holdout)
    scores = metric.compute(holdout=holdout, target="job")  # of the records that were added
    options = {"target": "job", "n_jobs": 1, "num_seeds": 1, "categorical": CODES}
    assert_equal(scores, load("mle").compute(**sides(tables), holdout=holdout, **options))


@pytest.mark.slow
def test_a_metric_works_after_an_error(tables):
    metric = load("column_shapes")
    with pytest.raises(ValueError, match="`categorical` names"):
        metric.compute(**sides(tables), categorical=["color"])
    assert metric.compute(**sides(tables)) == load("column_shapes").compute(**sides(tables))


def test_unknown_options_are_refused(tables):
    with pytest.raises(TypeError, match="no metric has an option 'hold_out'; those of c2st are .*'holdout'"):
        load("c2st", hold_out=tables[1])
    with pytest.raises(TypeError, match="no metric has an option 'train'"):
        load("c2st").compute(**sides(tables), train=tables[0])


@pytest.mark.parametrize(
    ("predictions", "error", "message"),
    [
        (3, TypeError, "`predictions` is of type int; pass a DataFrame"),
        ("table.csv", TypeError, "`predictions` is of type str; pass a DataFrame"),
        ({"x": [1]}, TypeError, "`predictions` is of type dict"),
        ([{"x": 1}, None], TypeError, r"`predictions\[1\]` is of type NoneType; records are dicts or texts"),
        ([{"x": 1}, [1]], TypeError, r"`predictions\[1\]` is of type list"),
        ([{"x": {1, 2}}], TypeError, r"`predictions\[0\]` holds what JSON cannot: a value of type set"),
        (['{"x": 1}', '{"x": '], ValueError, r"`predictions\[1\]` does not parse as JSON .*: '{\"x\": '"),
        (["[1]"], ValueError, r"`predictions\[0\]` is no JSON object: '\[1\]'"),
        ([{"y": 1}], ValueError, r"`synthetic` lacks \['x'\]"),
        ([], ValueError, "`synthetic` is empty"),
        (pd.DataFrame({"x": []}), ValueError, "`predictions` has no rows"),
        (pd.DataFrame({0: [1]}), ValueError, "column name 0 is not a non-empty string"),
    ],
)
def test_bad_records(predictions, error, message):
    with pytest.raises(error, match=message):
        load("column_shapes").compute(predictions=predictions, references=[{"x": 1}, {"x": 2}])


def test_bad_records_elsewhere():
    rows = [{"x": 1}, {"x": 2}]
    with pytest.raises(TypeError, match="`holdout` is of type int"):
        load("exact_copies").compute(predictions=rows, references=rows, holdout=3)
    with pytest.raises(TypeError, match=r"`train\[0\]` is of type dict; documents are str"):
        load("code").compute(predictions=["x"], references=rows)
    with pytest.raises(ValueError, match="`train` is empty"):
        load("code").compute(predictions=["x"])
    with pytest.raises(ValueError, match=r"Bad inputs .*\['holdout'\]"):
        load("exact_copies").add_batch(predictions=rows, references=rows, holdout=rows)
    with pytest.raises(ValueError, match=r"Bad inputs .*\['row'\]"):
        load("exact_copies").add(row=rows[0])


def test_unusual_columns_are_told_of():
    rows = [{"x": i, "bio": f"text {i}"} for i in range(9)]
    with pytest.warns(UserWarning, match="column 'bio' holds texts, which count by their number of characters"):
        assert load("column_shapes").compute(predictions=rows, references=rows) == {"column_shapes": 1.0}
