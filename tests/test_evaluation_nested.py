"""Nested records: what scores say of those that are known to be alike or not, and how they become flat."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflm_hf.evaluation import (
    categorical_columns,
    classifier_two_sample_test,
    flatten_records,
    nested_scores,
)


PARTS = ("lengths", "presence", "order", "gaps", "autocorrelation", "parent_child")


def make_records(num_records, seed):
    """Orders whose number and prices go with the customer, with times in order and prices that follow each other."""
    generator = np.random.default_rng(seed)
    records = []
    for _ in range(num_records):
        wealth = generator.normal()
        times = pd.Timestamp("2024-01-01") + pd.to_timedelta(generator.integers(1, 30, 12).cumsum(), unit="D")
        prices = wealth + generator.normal(scale=0.3, size=12).cumsum()
        orders = [
            {"at": str(time.date()), "price": float(price), "paid": bool(generator.random() < 0.7)}
            | ({"note": generator.choice(["gift", "return"])} if generator.random() < 0.3 else {})
            for time, price in zip(times, prices)
        ]
        wealth_class = "high" if wealth > 0.7 else "middle" if wealth > -0.7 else "low"
        records.append(
            {
                "income": float(1000 * wealth),
                "class": wealth_class,
                "member": wealth > 0,
                "address": {"city": "Bonn"} if generator.random() < 0.5 else None,
                "orders": orders[: int(np.clip(generator.poisson(np.exp(1 + 0.5 * wealth)), 0, 12))],
            }
        )
    return pd.DataFrame(records)


@pytest.fixture(scope="module")
def real():
    return make_records(600, seed=0)


@pytest.fixture(scope="module")
def fresh():
    return make_records(600, seed=1)


@pytest.fixture(scope="module")
def baseline(real, fresh):
    return nested_scores(real, fresh)


def changed(records, change):
    """Records with `change` of their orders."""
    return records.assign(orders=[change(orders) for orders in records["orders"]])


def lists_of(values):
    return pd.DataFrame({"x": list(values)})


def test_hand_made_records_become_flat():
    real = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "s": [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"b": "y"}],
            "l": [[{"t": 1.5, "m": [1, 2]}], [], [{"t": 2, "m": []}, {"t": None, "m": [3]}]],
        },
        index=[7, 8, 9],
    )
    other = pd.DataFrame({"n": [4], "s": [None], "l": [[{"t": 1, "m": []}, {"t": 1, "m": []}, {"t": 1, "m": []}]]})
    flat, flat_other = flatten_records(real, other)
    expected = {
        "n": [1, 2, 3],
        "s?": ["given"] * 3,
        "s.a": [1, np.nan, np.nan],
        "s.a?": ["given", "⟨null⟩", "⟨absent⟩"],
        "s.b": ["x", "⟨null⟩", "y"],
        "len(l)": [1, 0, 2],
        "l[0].t": [1.5, np.nan, 2],
        "len(l[0].m)": [2, np.nan, 0],
        "l[1].t": [np.nan, np.nan, np.nan],
        "len(l[1].m)": [np.nan, np.nan, 1],
    }
    assert list(flat) == list(flat_other) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(flat[name], np.array(values, dtype=flat[name].to_numpy().dtype), err_msg=name)
    assert list(flat.index) == [7, 8, 9]
    assert categorical_columns(flat) == categorical_columns(flat_other) == ["s?", "s.a?", "s.b"]
    assert flat_other["s?"].tolist() == ["⟨null⟩"] and flat_other["s.a?"].tolist() == ["⟨absent⟩"]
    assert flat_other["len(l)"].tolist() == [3]
    assert flat.dtypes.equals(flat_other.dtypes)


def test_items_have_columns_up_to_a_number():
    real = lists_of([["a"]] * 199 + [["a", "b", "c", "d"]])
    assert list(flatten_records(real)[0]) == ["len(x)", "x[0]"]  # 99% of the lists have one item
    for max_items, names in ((0, []), (2, ["x[0]", "x[1]"]), (9, [f"x[{k}]" for k in range(4)])):
        assert list(flatten_records(real, max_items=max_items)[0]) == ["len(x)", *names]
    flat = flatten_records(real, max_items=2)[0]
    assert flat["x[1]"].tolist() == ["⟨absent⟩"] * 199 + ["b"]


def test_lists_of_lists_and_keys_of_others():
    real = pd.DataFrame({"x": [[[1, 2], [3]], [[4]]], "y": [{"a": True}, {"a": False}]})
    other = pd.DataFrame({"x": [[[5]]], "y": [{"a": True, "b": 1}]})
    flat, flat_other = flatten_records(real, other)
    assert list(flat) == ["len(x)", "y.a", "y.b", "len(x[0])", "len(x[1])"]
    assert flat["y.a"].tolist() == ["true", "false"]
    # Not NaN in all real records, which would make metrics leave the column out.
    assert flat["y.b"].tolist() == ["⟨absent⟩"] * 2 and flat_other["y.b"].tolist() == ["1"]


def test_times_and_codes():
    real = pd.DataFrame(
        {
            "code": pd.Series([1, 2]).astype("category"),
            "when": pd.to_datetime(["1970-01-01 00:01:00", None]),
            "x": [["1970-01-02"], ["1970-01-03"]],
        }
    )
    other = real.assign(code=pd.Series([1.0, 3.0]), x=[["soon"], ["1970-01-02"]])
    flat, flat_other = flatten_records(real, other)
    assert flat["code"].tolist() == ["1", "2"] and flat_other["code"].tolist() == ["1", "3"]
    assert flat["when"].iloc[0] == 60 and np.isnan(flat["when"].iloc[1])
    assert flat["x[0]"].tolist() == [86400, 2 * 86400]
    np.testing.assert_array_equal(flat_other["x[0]"], [np.nan, 86400])


@pytest.mark.slow
def test_classifier_sees_what_ties_items_to_records(real, fresh):
    def c2st(other):
        flat = flatten_records(real, other)
        return classifier_two_sample_test(*flat, categorical=categorical_columns(flat[0]), n_jobs=1)

    assert c2st(fresh) == pytest.approx(0.5, abs=0.06)
    generator = np.random.default_rng(0)
    assert c2st(fresh.assign(orders=fresh["orders"].to_numpy()[generator.permutation(len(fresh))])) > 0.7


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "a": st.none() | st.integers(-5, 5),
                "x": st.none()
                | st.lists(
                    st.fixed_dictionaries(
                        {"v": st.floats(-1e6, 1e6), "w": st.lists(st.integers(0, 3), min_size=1, max_size=2)},
                        optional={"k": st.none() | st.sampled_from("pq")},
                    ),
                    max_size=4,
                ),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_identical_records_score_zero(records):
    # With a list that has an item, and often enough for all scores
    table = pd.DataFrame([*records, {"a": 1, "x": [{"v": 1.0, "w": [0]}]}] * 60)
    scores = nested_scores(table, table.copy())
    for part in PARTS:
        assert np.isnan(scores[part]["worst"]) or scores[part]["worst"] == pytest.approx(0, abs=1e-9), part
    flat, again = flatten_records(table, table.copy())
    pd.testing.assert_frame_equal(flat, again)


def test_identical_records_are_scored_in_all_parts(real):
    scores = nested_scores(real, real)
    assert all(scores[part]["worst"] == scores[part]["mean"] == 0 for part in PARTS)
    json.dumps(scores)


def test_real_records_score_low(baseline):
    assert baseline["lengths"]["worst"] < 0.15
    assert baseline["presence"]["worst"] < 0.1
    assert baseline["order"]["worst"] == 0
    assert baseline["gaps"]["worst"] < 0.15
    assert baseline["autocorrelation"]["worst"] < 0.2
    assert baseline["parent_child"]["worst"] < 0.2


def test_lengths_and_presence_by_hand():
    real = lists_of([[{"k": 1}], [{"k": 1}], [{"k": 1}, {}], [{"k": None}]])
    synthetic = lists_of([[{"k": 1}], [{"k": 1}, {}], [{}, {}, {}], [{"k": 1}, {}]])
    scores = nested_scores(real, synthetic)
    # Of 3, 1, 0 lists of 1, 2, 3 items and of 1, 2, 1
    assert scores["lengths"]["lists"] == {"x": pytest.approx(0.5)}
    # Given, absent, null of 5 items: 3, 1, 1; of 8 items: 3, 5, 0
    assert scores["presence"]["places"] == {"x[*].k": pytest.approx(5 / 8 - 1 / 5)}
    assert scores["lengths"]["mean"] == scores["lengths"]["worst"] == pytest.approx(0.5)
    assert np.isnan(scores["order"]["mean"]) and np.isnan(scores["parent_child"]["worst"])


def test_presence_counts_where_a_key_can_be():
    real = pd.DataFrame({"o": [{"k": 1}, {}, None, None], "x": [[1]] * 4})
    synthetic = pd.DataFrame({"o": [{"k": 1}, {}, {"k": 1}, {}], "x": [[1]] * 4})
    assert nested_scores(real, synthetic)["presence"]["places"] == {"o": 0.5, "o.k": 0}


@pytest.mark.slow
def test_many_lengths_are_compared_in_bins():
    generator = np.random.default_rng(0)
    real, alike, longer = (lists_of([1] * n for n in generator.integers(low, low + 400, 500)) for low in (0, 0, 200))
    assert nested_scores(real, alike)["lengths"]["worst"] < 0.15
    assert nested_scores(real, longer)["lengths"]["worst"] == pytest.approx(0.5, abs=0.06)


def test_a_frequent_value_keeps_its_bin():
    """Half of the gaps are 0; those of the others are as in the real lists."""
    generator = np.random.default_rng(0)

    def with_zeros(share):
        gaps = np.where(generator.random((400, 5)) < share, 0, generator.random((400, 5)))
        return lists_of(gaps.cumsum(axis=1).tolist())

    scores = nested_scores(with_zeros(0.5), with_zeros(0.2))
    assert scores["gaps"]["columns"]["x[*]"] == pytest.approx(0.3, abs=0.07)


def test_gaps_by_hand():
    # Sums of 0.1 have other last digits at each place.
    real = lists_of([[0.0, 0.1, 0.2, 0.3], [0.5, 0.6, 0.7, 0.8]] * 10)
    synthetic = lists_of([[0.0, 0.1, 0.2, 0.4], [0.1, 0.2, 0.3, 0.5]] * 10)
    scores = nested_scores(real, synthetic)
    assert scores["order"]["columns"]["x[*]"] == {
        "direction": "ascending",
        "real": 1,
        "synthetic": 1,
        "difference": 0,
    }
    assert scores["gaps"]["columns"]["x[*]"] == pytest.approx(1 / 3)


def test_shuffled_lengths_are_seen(fresh, real, baseline):
    """Each list keeps its kind of items, but has the length of another record's."""
    generator = np.random.default_rng(0)
    lengths = iter(generator.permutation(fresh["orders"].map(len)))
    pool = [order for orders in fresh["orders"] for order in orders]
    shuffled = changed(fresh, lambda orders: ((orders or pool[:1]) * 12)[: next(lengths)])
    scores = nested_scores(real, shuffled)
    assert scores["lengths"] == baseline["lengths"]
    assert scores["parent_child"]["worst"] > baseline["parent_child"]["worst"] + 0.2
    assert nested_scores(real, changed(fresh, lambda orders: orders[:2]))["lengths"]["worst"] > 0.5


def test_broken_order_is_seen(fresh, real, baseline):
    assert list(baseline["order"]["columns"]) == ["orders[*].at"]
    generator = np.random.default_rng(0)
    shuffled = changed(fresh, lambda orders: [orders[k] for k in generator.permutation(len(orders))])
    scores = nested_scores(real, shuffled)
    order = scores["order"]["columns"]["orders[*].at"]
    assert order["direction"] == "ascending" and order["real"] == 1 and order["synthetic"] < 0.5
    assert order["difference"] == scores["order"]["worst"] == 1 - order["synthetic"]
    assert scores["gaps"]["worst"] > 0.3
    assert scores["autocorrelation"]["worst"] == pytest.approx(baseline["autocorrelation"]["worst"], abs=0.2)
    backwards = nested_scores(changed(real, lambda orders: orders[::-1]), changed(fresh, lambda orders: orders[::-1]))
    assert backwards["order"]["columns"]["orders[*].at"]["direction"] == "descending"
    assert backwards["order"]["worst"] == 0


def test_lists_without_items_are_in_order(fresh, real):
    scores = nested_scores(real, changed(fresh, lambda orders: orders[:1]))
    assert scores["order"]["worst"] == 0 and scores["gaps"]["worst"] == 1


def ar1(factor, num_lists, seed, length=40):
    generator = np.random.default_rng(seed)
    values = [generator.normal(size=num_lists)]
    for _ in range(length - 1):
        values.append(factor * values[-1] + np.sqrt(1 - factor**2) * generator.normal(size=num_lists))
    return lists_of(np.array(values).T.tolist())


def test_autocorrelation_of_ar1_is_known():
    scores = nested_scores(ar1(0.8, 500, 0), ar1(0.3, 500, 1))["autocorrelation"]
    column = scores["columns"]["x[*]"]
    lags = np.arange(1, 13)
    np.testing.assert_allclose(column["real"], 0.8**lags, atol=0.05)
    np.testing.assert_allclose(column["synthetic"], 0.3**lags, atol=0.05)
    assert column["difference"] == scores["worst"] == pytest.approx(max(0.8**lags - 0.3**lags), abs=0.06)


def test_autocorrelation_needs_pairs_within_lists():
    scores = nested_scores(ar1(0.8, 60, 0, length=3), ar1(0.8, 60, 1, length=3))["autocorrelation"]
    real = scores["columns"]["x[*]"]["real"]
    assert np.isfinite(real[0]) and np.isnan(real[1:]).all()  # 120 pairs, 60 pairs, and none


def test_lost_relations_to_the_record_are_seen(fresh, real, baseline):
    pairs = {(pair["parent"], pair["child"]): pair for pair in baseline["parent_child"]["pairs"]}
    assert pairs["income", "mean(orders[*].price)"]["real"] > 0.8
    assert pairs["class", "len(orders)"]["real"] > 0.3
    assert pairs["member", "mean(orders[*].price)"]["real"] > 0.6
    generator = np.random.default_rng(0)
    shuffled = fresh.assign(orders=fresh["orders"].to_numpy()[generator.permutation(len(fresh))])
    scores = nested_scores(real, shuffled)
    assert scores["lengths"] == baseline["lengths"]
    assert scores["autocorrelation"]["worst"] == pytest.approx(baseline["autocorrelation"]["worst"])
    assert scores["parent_child"]["worst"] > 0.7
    assert scores["parent_child"]["mean"] > baseline["parent_child"]["mean"] + 0.2


def test_parent_child_correlations_by_hand():
    """Pearson's with a sign for numbers and two categories, the correlation ratio for three."""
    real = pd.DataFrame({"n": [1, 2, 3] * 50, "b": [False, True, True] * 50, "c": list("pqr") * 50})
    real["x"] = [[0.0] * 2, [0.0] * 4, [0.0] * 3] * 50
    synthetic = real.assign(b=~real["b"], x=[[0.0] * 3] * 150)
    scores = nested_scores(real, synthetic)["parent_child"]
    lengths = [2, 4, 3]
    expected = {
        "n": np.corrcoef([1, 2, 3], lengths)[0, 1],
        "b": np.corrcoef([0, 1, 1], lengths)[0, 1],
        "c": 1,
    }
    found = {pair["parent"]: pair for pair in scores["pairs"] if pair["child"] == "len(x)"}
    for name, value in expected.items():
        assert abs(found[name]["real"]) == pytest.approx(abs(value))
        assert found[name]["synthetic"] == 0 and found[name]["difference"] == pytest.approx(abs(value))
    flipped = nested_scores(real, real.assign(b=~real["b"]))["parent_child"]
    assert flipped["worst"] == pytest.approx(2 * abs(expected["b"]))


def test_lists_inside_items_go_with_their_items():
    def table(seed, is_tied):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(1, 6, (80, 4))
        weights = sizes if is_tied else generator.permuted(sizes)
        return pd.DataFrame(
            {"x": [[{"w": int(w), "l": [0] * n} for w, n in zip(*of)] for of in zip(weights, sizes.tolist())]}
        )

    scores = nested_scores(table(0, True), table(1, False))
    pair = {(pair["parent"], pair["child"]): pair for pair in scores["parent_child"]["pairs"]}["x[*].w", "len(x[*].l)"]
    assert pair["real"] == pytest.approx(1) and abs(pair["synthetic"]) < 0.2


LISTS = lists_of([[1], [2]])


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (LISTS.rename(columns={"x": "y"}).assign(y=[1, 2]), None, "no column has lists or objects"),
        (LISTS.assign(a=1), LISTS, r"`synthetic` lacks \['a'\] of `real`"),
        (LISTS, LISTS.assign(a=1), r"`synthetic` has columns \['a'\] that `real` lacks"),
        (LISTS[:0], LISTS, "`real` has no records"),
        (LISTS, LISTS[:0], "`synthetic` has no records"),
        (LISTS, lists_of([[1], "[2]"]), "column 'x': x has values of several types: array, string"),
        (LISTS, lists_of([[1, "a"]]), r"column 'x': x\[\*\] has values of several types: integer, string"),
        (LISTS, lists_of([[1, {"a": 1}]]), r"column 'x': x\[\*\] has values of several types: integer, object"),
        (lists_of([[]]), lists_of([[]]), "column 'x': x has nothing but empty lists"),
        (LISTS, pd.concat([LISTS, LISTS], axis=1), "`synthetic` has two columns of one name"),
    ],
)
def test_errors_name_what_is_wrong(real, synthetic, message):
    synthetic = real if synthetic is None else synthetic
    with pytest.raises(ValueError, match=message):
        nested_scores(real, synthetic)
    with pytest.raises(ValueError, match=message.replace("`synthetic`", r"`others\[0\]`")):
        flatten_records(real, synthetic)


def test_bad_names_and_numbers_of_items_are_refused():
    with pytest.raises(ValueError, match=r"would be called 'x\[0\]'"):
        flatten_records(pd.DataFrame({"x[0]": [1], "x": [[1]]}))
    with pytest.raises(ValueError, match="max_items=-1 is not an integer of 0 or more"):
        flatten_records(LISTS, max_items=-1)
