"""Conditions of each record, which hold in it as they do where they are for all."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_control import ANY, TABLE, satisfies, table_of
from tiny import seeded, train

from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import _fingerprint_conditions, write_shards
from difflm_hf.control import Between, Condition, Not, StartsWith
from difflm_hf.control.resampling import choose_of_each
from difflm_hf.records import CompactCodec, RecordSchema, SumOf
from difflm_hf.training import RECIPES


deep = 30
for _ in range(5000):
    deep = Not(deep)


@pytest.fixture(scope="module")
def pipe(tiny_run) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def repeating() -> tuple[CompactCodec, torch.LongTensor]:
    """A codec of a column of numbers that often repeats another one, and the ids of its records."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=1500)
    table = pd.DataFrame({"first": first, "second": np.where(rng.random(1500) < 0.5, first, rng.normal(size=1500))})
    table["kind"] = rng.choice(["a", "b", None], 1500)
    codec, _ = CompactCodec.fit(RecordSchema.infer(table), table)
    everything = {name: np.ones(len(table), bool) for name in table}
    return codec, torch.from_numpy(codec.encode_fields(codec.schema.conform(table), everything)[0])


RANGES = st.tuples(st.floats(-3, 3), st.floats(-3, 3)).map(sorted).map(lambda ends: Between(*ends))
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "first": RANGES | RANGES.map(Not),
            "second": RANGES | RANGES.map(Not),
            "kind": st.sampled_from(["a", ["a", None], Not("b"), None]),
        },
    ).filter(bool),
    min_size=2,
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, seed=st.integers(0, 99))
def test_what_is_allowed_of_a_record_is_what_would_be_of_all(repeating, rows, seed):
    codec, ids = repeating
    assert codec.tokens["second"].copies == ["first"]
    try:
        alone = [Condition.of_fields(codec, row) for row in rows]
    except ValueError as error:
        with pytest.raises(ValueError, match=r"conditions\[\d\]: .*widen"):
            Condition.of_each(codec, rows)
        assert "widen" in str(error)
        return
    together = Condition.of_each(codec, rows)
    rng = np.random.default_rng(seed)
    written = ids[rng.integers(len(ids), size=len(rows))]
    written = torch.cat([torch.zeros(1, len(rows), dtype=torch.long), written.T])
    for position in range(len(written) - 1):
        shares = together.allowed.log_shares(position, written)
        for k, condition in enumerate(alone):
            expected = condition.allowed.log_shares(position, written[:, [k]])
            if condition.allowed.is_known[0, position]:
                assert together.allowed.is_known[k, position]
            else:
                found = torch.zeros(1) if shares is None else shares[k]
                torch.testing.assert_close(found, torch.zeros_like(found) if expected is None else expected[0])


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({}, optional=ANY), min_size=1, max_size=12))
def test_each_record_satisfies_its_conditions(pipe, rows):
    try:
        records = table_of(pipe, conditions=rows)
    except ValueError as error:  # no value of the training data lies there
        assert "widen" in str(error)
        return
    assert len(records) == len(rows)
    for k, row in enumerate(rows):
        for name, condition in row.items():
            assert satisfies(records.iloc[[k]][name], condition).all(), (name, condition, records[name][k])


@pytest.mark.slow
def test_records_go_with_what_is_asked_of_them(tmp_path):
    """Where a range is all that is known, the rest of a record is as in the data, and as where all are asked it."""
    rng = np.random.default_rng(0)
    high = rng.random(2000) < 0.3
    table = pd.DataFrame({"kind": np.where(high, "high", "low"), "x": rng.normal(size=2000).round(3) + 6 * high})
    tiny = RECIPES["tiny"]
    recipe = replace(tiny, vae=tiny.vae | {"num_train_epochs": 20}, denoiser=tiny.denoiser | {"max_steps": 300})
    pipe = train(table, tmp_path / "model", recipe=recipe)
    pipe.set_progress_bar_config(disable=True)
    asked = [{"x": Between(left=4)}, {"x": Between(right=2)}, {}] * 100
    kinds = table_of(pipe, conditions=asked)["kind"]
    assert (kinds[0::3] == "high").mean() > 0.9
    assert (kinds[1::3] == "low").mean() > 0.9
    assert 0.15 < (kinds[2::3] == "high").mean() < 0.45
    for sampling in ({"temperature": 0.95}, {"top_p": 0.98}):
        kinds = table_of(pipe, conditions=asked, **sampling)["kind"]
        assert (kinds[0::3] == "high").mean() > 0.9 and (kinds[1::3] == "low").mean() > 0.9


@pytest.mark.slow
def test_records_of_a_seed_are_the_same(pipe, tmp_path):
    conditions = [{"age": Between(20, 40)}, {"color": ["red", "blue"]}, {}, {"income": None}] * 30
    records = table_of(pipe, conditions=conditions)
    pd.testing.assert_frame_equal(table_of(pipe, conditions=conditions, batch_size=17), records)
    assert not table_of(pipe, seed=1, conditions=conditions).equals(records)
    stream = pd.concat([batch.to_pandas() for batch in pipe.stream(conditions=conditions, generator=seeded(0))])
    assert stream["age"].tolist() == records["age"].tolist()
    [file] = write_shards(pipe, tmp_path / "out", 120, conditions=conditions)
    assert pd.read_parquet(file)["age"][0::4].between(20, 40).all()


def test_what_follows_from_other_columns_satisfies_the_conditions(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 9, 400), "b": rng.integers(0, 9, 400)}).assign(c=lambda t: t.a + t.b)
    schema = RecordSchema(RecordSchema.infer(table).fields, [SumOf("c", ["a", "b"])])
    pipe = train(table, tmp_path / "model", recipe="quick", schema=schema)
    pipe.set_progress_bar_config(disable=True)
    records = table_of(pipe, conditions=[{"c": Between(0, 6)}, {"c": Between(10, 16)}, {"a": [1, 2], "c": 9}] * 8)
    assert (records["c"] == records["a"] + records["b"]).all()
    assert records["c"][0::3].between(0, 6).all() and records["c"][1::3].between(10, 16).all()
    assert (records["c"][2::3] == 9).all() and records["a"][2::3].isin([1, 2]).all()


@pytest.mark.slow
def test_records_do_not_depend_on_what_is_asked_of_others(pipe):
    one, other = {"age": Between(20, 40)}, {"color": "red"}
    records = table_of(pipe, conditions=[one, other] * 40)
    others = table_of(pipe, conditions=[one, {"color": ["red", "blue"], "income": None}] * 40)
    pd.testing.assert_frame_equal(records[0::2], others[0::2])
    others = table_of(pipe, conditions=[{}, other] * 40)
    pd.testing.assert_frame_equal(records[1::2], others[1::2])


@settings(max_examples=50, deadline=None)
@given(
    log_weights=st.lists(st.lists(st.floats(-700, 700) | st.just(-np.inf), min_size=3, max_size=3), min_size=1),
    choice=st.floats(0, 1, exclude_max=True),
)
def test_one_of_each_is_chosen_by_weight(log_weights, choice):
    weights = np.array(log_weights)
    chosen = choose_of_each(weights, np.full(3, choice))
    assert chosen.shape == (3,) and (chosen % 3 == np.arange(3)).all()
    for record, place in enumerate(chosen // 3):
        if np.isfinite(weights[:, record]).any():
            assert np.isfinite(weights[place, record])
    choices = (np.arange(1000) + 0.5) / 1000
    logs = np.array([[0.0], [-np.inf], [np.log(3)]]) + np.zeros((3, 1000))
    assert np.bincount(choose_of_each(logs, choices) // 1000, minlength=3).tolist() == [250, 0, 750]


def test_fingerprints_are_of_all_that_is_asked():
    def fingerprint(conditions) -> str:
        return _fingerprint_conditions({"conditions": conditions})

    many = np.arange(3000)
    changed = many.copy()
    changed[1500] = -1
    pairs = [
        ([{"age": many}], [{"age": changed}]),
        ([{"age": pd.Series(many)}], [{"age": pd.Series(changed)}]),
        (pd.DataFrame({"score": [0.12345678901234]}), pd.DataFrame({"score": [0.12345678901999]})),
        ([{"joined": pd.Timestamp("2020-01-01")}], [{"joined": pd.Timestamp("2020-01-01 00:00:00.000001")}]),
        ([{"age": Between(1, 2)}], [{"age": Between(1, 2, "left")}]),
        ([{"age": 1}], [{"age": Not(1)}]),
    ]
    for one, other in pairs:
        assert fingerprint(one) == fingerprint(deepcopy(one)) != fingerprint(other)
    # Sets whose members stand in another order, as they do in another process
    one, other = {"a": {0, 8}, "b": 1}, {"b": 1, "a": {8, 0}}
    assert list(one["a"]) != list(other["a"])
    assert fingerprint([one]) == fingerprint([other])


def test_a_wrong_call_claims_no_folder(pipe, tmp_path):
    for conditions in ([{}, {}], [], [{"years": 3}] * 3):
        with pytest.raises(ValueError):
            write_shards(pipe, tmp_path / "out", 3, conditions=conditions)
    [file] = write_shards(pipe, tmp_path / "out", 2, conditions=[{"age": 30}, {}])
    assert pd.read_parquet(file)["age"][0] == 30


def test_blocks_past_the_last_record(pipe):
    size = pipe.config.block_size
    with pytest.raises(ValueError, match=f"first_block begins at record {size}, and there are conditions for {size}"):
        next(pipe.stream(conditions=[{}] * size, first_block=1))
    for first_block in (-1, "x", None):
        with pytest.raises(ValueError, match=f"first_block={first_block!r} is not an integer of 0 or more"):
            next(pipe.stream(conditions=[{}] * size, first_block=first_block))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditions": []}, "list of conditions is empty"),
        ({"conditions": [{"age": 30}, ("age", 30)]}, r"conditions\[1\] is no dict of conditions, but a tuple"),
        ({"conditions": [{}, {"years": 30}]}, r"conditions\[1\]: no field 'years'"),
        ({"conditions": [{}, {"color": "rod"}]}, r"conditions\[1\]: column 'color'.*did you mean 'red'"),
        ({"conditions": [{}, {"age": Between(50, 30)}]}, r"conditions\[1\]: column 'age'.*leaves no value"),
        ({"conditions": [{"size": StartsWith("x")}]}, r"conditions\[0\]: column 'size'.*no category starts with 'x'"),
        ({"conditions": [{}, {}, {"birthday": "2001-03-12"}, {}]}, r"conditions\[2\]: column 'birthday'.*; ask for"),
        ({"conditions": [{}, {"age": 10**309}]}, r"conditions\[1\]: column 'age': 1000"),
        ({"conditions": [{"color": {"a": 1}}]}, r"conditions\[0\]: column 'color': {'a': 1} is no value"),
        ({"conditions": [{"age": deep}]}, r"conditions\[0\]: column 'age': the condition is nested too deeply"),
        (
            {"conditions": pd.DataFrame({"age": [Between(30, 40), 31]})},
            "column 'age' has more than values.*list of dicts",
        ),
        ({"conditions": pd.DataFrame({"color": [["red"], "red"]})}, "column 'color' has more than values"),
        ({"conditions": [{}], "where": "age > 30"}, "where is for all records alike"),
        ({"conditions": [{}], "balance": "color"}, "balance goes with a dict or a DataFrame"),
        ({"conditions": [{}, {}], "num_records": 3}, "num_records=3, and there are conditions for 2"),
    ],
)
def test_bad_conditions(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.slow
def test_a_few_records_are_the_first_of_many(pipe):
    many = table_of(pipe, 1100, conditions={"age": Between(20, 60)})
    pd.testing.assert_frame_equal(table_of(pipe, 70, conditions={"age": Between(20, 60)}), many.head(70))
    assert len(TABLE) > 0 and not many.head(64).equals(many.iloc[64:128].reset_index(drop=True))
