"""Records that satisfy conditions: what may be asked, that it holds in every record, and what a seed means then."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call
from diffusers import EDMEulerScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_table, seeded, train

from difflm_hf import DiffLMPipeline, LatentEDMScheduler
from difflm_hf.blocks import write_shards
from difflm_hf.control import (
    AllowedIds,
    Between,
    Condition,
    Guidance,
    Guide,
    IdLimits,
    LatentClassifier,
    Matches,
    Not,
    StartsWith,
    StepLimits,
    parse_where,
)
from difflm_hf.control.resampling import effective_sample_size, resample
from difflm_hf.known_fields import KnownFields, draw_known
from difflm_hf.modeling_latent_lm import DiffLMForCausalLM
from difflm_hf.records import CompactCodec, RecordSchema
from difflm_hf.records.numbers import QuantileBins


TABLE = make_table()


@pytest.fixture(scope="module")
def pipe(tiny_run) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def table_of(pipe: DiffLMPipeline, num_records: int | None = None, seed: int = 0, **kwargs) -> pd.DataFrame:
    return pipe(num_records, generator=seeded(seed), output_type="pandas", **kwargs).records


def satisfies(column: pd.Series, condition) -> pd.Series:
    """What a condition means, in pandas' own terms."""
    if isinstance(condition, Not):
        return ~satisfies(column, condition.condition)
    if isinstance(condition, Between):
        low = -np.inf if condition.left is None else condition.left
        high = np.inf if condition.right is None else condition.right
        if pd.api.types.is_datetime64_any_dtype(column):
            low, high = (pd.Timestamp(b) for b in (condition.left or "1900", condition.right or "2100"))
        return column.between(low, high, inclusive=condition.inclusive)
    if isinstance(condition, StartsWith):
        return column.str.startswith(condition.prefix).fillna(False).astype(bool)
    if isinstance(condition, list):
        return pd.concat([satisfies(column, value) for value in condition], axis=1).any(axis=1)
    if condition is None:
        return column.isna()
    if pd.api.types.is_datetime64_any_dtype(column):
        condition = pd.Timestamp(condition)
    return (column == condition).fillna(False).astype(bool)


def values_of(name: str) -> list:
    return TABLE[name].dropna().unique().tolist()


def ranges(name: str) -> st.SearchStrategy:
    low, high = TABLE[name].min(), TABLE[name].max()
    inclusive = st.sampled_from(["both", "left", "right", "neither"])
    ends = st.tuples(st.sampled_from(values_of(name)), st.sampled_from(values_of(name))).map(sorted)
    two_sided = st.tuples(ends, inclusive).filter(lambda e: e[0][0] < e[0][1]).map(lambda e: Between(*e[0], e[1]))
    one_sided = st.one_of(st.just(Between(left=(low + (high - low) / 2))), st.just(Between(right=high)))
    return st.one_of(two_sided, one_sided)


SINGLE = {name: st.sampled_from(values_of(name)) for name in ("age", "color", "member", "birthday", "code", "size")}
ANY = {
    name: st.one_of(single, st.lists(single, min_size=1, max_size=4), single.map(Not))
    for name, single in SINGLE.items()
} | {name: ranges(name) for name in ("age", "price", "score", "income", "code")}
ANY["income"] = st.one_of(ANY["income"], st.none(), st.just(Not(None)))


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions=st.fixed_dictionaries({}, optional=ANY).filter(lambda c: 0 < len(c) < 4))
def test_every_record_satisfies_its_conditions(pipe, conditions):
    try:
        records = table_of(pipe, 24, conditions=conditions)
    except ValueError as error:  # no value of the training data lies there
        assert "widen" in str(error)
        return
    except RuntimeError as error:
        assert "too rare" in str(error)
        return
    assert len(records) == 24
    for name, condition in conditions.items():
        assert satisfies(records[name], condition).all(), (name, condition, records[name].tolist())


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("age >= 30 and age < 50", lambda t: (t.age >= 30) & (t.age < 50)),
        ("30 <= age < 50", lambda t: (t.age >= 30) & (t.age < 50)),
        ("color in ['red', 'blue'] and not member", lambda t: t.color.isin(["red", "blue"]) & ~t.member),
        ("(age < 30 or age > 60) & color == 'red'", None),
        ("age < 30 or color == 'green'", lambda t: (t.age < 30) | (t.color == "green")),
        ("income == None", lambda t: t.income.isna()),
        ("income != None and `price` > 20", lambda t: t.income.notna() & (t.price > 20)),
        ("price > age", lambda t: t.price > t.age),
        ("income / 1000 > age + 1 - 2", lambda t: t.income / 1000 > t.age - 1),
        ("joined >= '2021-01-01'", lambda t: t.joined >= "2021-01-01"),
        ("member", lambda t: t.member),
        ("code not in [0, 1]", lambda t: ~t.code.isin([0, 1])),
        ("code * 100 + code > 250", lambda t: t.code.astype(int) * 101 > 250),  # more than an int8 holds
        ("age > 20 + 2 * 10 and -age < -30", lambda t: t.age > 40),
        ("birthday > '2001-04-01' or age > 80", lambda t: (t.birthday > "2001-04-01") | (t.age > 80)),
    ],
)
def test_where(pipe, where, holds):
    if holds is None:  # & binds closer than ==, and pandas agrees only with its own parser
        with pytest.raises(ValueError, match="may not stand there|is no column"):
            table_of(pipe, 8, where=where)
        return
    assert holds(table_of(pipe, 40, where=where)).all()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("__import__('os').system('true')", "may not stand there"),
        ("age.max() > 3", "may not stand there|is no column"),
        ("age > @limit", "cannot be read"),
        ("age >", "cannot be read"),
        ("years > 3", "no column 'years'"),
        ("3 > 2", "names no column"),
        ("age == [1, 2]", "is a list; write `in`"),
        ("age in 3", "is no list"),
        ("age is None", "may not stand there"),
        ("[x for x in age]", "may not stand there"),
        ("", "is no expression"),
        ("age > 20 and age < 20", "age.*widen"),
        ("50 < age < 30", "age.*its bounds are reversed, so that nothing is between; swap them"),
        ("age < 30 and color == 'red' and age > 50", "age.*its bounds are reversed"),
        ("age > None", "has no order"),
        ("color == 'rod' or age > 30", "column 'color'.*did you mean 'red'"),
        ("note == 'x' or age > 30", "column 'note' is of type text"),
        ("age == 1000 or age > 30 or color == 'red'", "column 'age'.*1000"),
        ("joined > color", "relates what cannot be compared"),
        ("age + None > 3", "may not stand there"),
        ("not " * 3000 + "member", "cannot be read|nested too deeply"),
        ("age > 10**9", r"'10 \*\* 9' may not stand there"),
        ("age > 1/0", "'1 / 0' cannot be computed"),
        ("age > 'a' - 1", "may not stand there"),
        ("color == 'red' * 10000000000", "may not stand there"),
        ("color * 10000000000 == 'red'", "a text has no product"),
        ("age + 1j > 3", "'1j' may not stand there"),
        ("color in True + color", "'True \\+ color' may not stand there"),
        ("age > " + "x" * 9999, "where='age > x+[.]{3}x+': no column 'x+[.]{3}x+'"),
    ],
)
def test_where_refuses(pipe, where, message):
    with pytest.raises(ValueError, match=message):
        table_of(pipe, 8, where=where)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": "red"}, "no field 'colour'"),
        ({"color": "rod"}, "column 'color'.*'rod' is not.*did you mean 'red'"),
        ({"age": "old"}, "column 'age'.*'old' is not an integer"),
        ({"age": 1000}, "column 'age'.*1000 is not a value between"),
        ({"age": Between(1000, 2000)}, "column 'age'.*leaves no value"),
        (
            {"age": Between(50, 30)},
            "column 'age'.*its bounds are reversed, so that nothing is between",
        ),
        ({"color": Between("a", "z")}, "column 'color'.*range is for numbers"),
        ({"age": None}, "column 'age'.*null is none of its values"),
        ({"age": []}, "column 'age'.*empty list"),
        ({"age": StartsWith("3")}, "column 'age'.*StartsWith"),
        ({"color": StartsWith("x")}, "column 'color'.*no category starts with 'x'"),
        ({"note": "hello"}, "column 'note' is of type text"),
        ({"joined": "someday"}, "column 'joined'.*'someday'"),
        ({"joined": Between("2020", pd.NaT)}, "column 'joined'.*NaT"),
        ({"joined": 20200101}, "column 'joined'.*20200101"),
        ({"age": 1j}, "column 'age'.*1j"),
        ({"size": Matches({"enum": 1})}, "column 'size': Matches.* is no value of a row"),
        ({"size": np.array("S")}, "column 'size': array.* is no value of a row"),
        ({"age": [None, [2]]}, "column 'age': null is none of its values"),
        (
            {"color": "red" * 9999},
            "column 'color': '(red){20,32}.*[.]{3}.*(red){20,32}' is not one of its 3 categories",
        ),
        ({"colour" * 9999: "red"}, "no field '(colour){10,16}.*[.]{3}.*(colour){10,16}' to put"),
        ({}, "no conditions"),
        (["red"], r"conditions\[0\] is no dict"),
    ],
)
def test_bad_conditions(pipe, conditions, message):
    with pytest.raises(ValueError, match=message):
        table_of(pipe, 8, conditions=conditions)


def test_contradiction_of_conditions_and_where(pipe):
    with pytest.raises(ValueError, match="column 'age'.*leaves no value.*its bounds are reversed"):
        table_of(pipe, 8, conditions={"age": Between(30, 40)}, where="age > 50")


@pytest.mark.parametrize(
    ("age", "message"),
    [
        (24, "column 'age': 24 in row 1 is none of the 71 values .*, of which 23 and 25 are next to it; take one of"),
        (131, "column 'age': 131 in row 1 is not an integer between 17 and 89"),
    ],
)
def test_numbers_of_a_table_of_conditions(pipe, age, message):
    with pytest.raises(ValueError, match=message):
        pipe(conditions=pd.DataFrame({"color": ["red", None], "age": [np.nan, age]}))


def test_a_table_of_conditions(pipe):
    columns = ["age", "price", "score", "color", "member", "joined", "birthday", "income", "code", "size"]
    known = TABLE[columns].head(90).astype(object)
    known = known.mask(np.random.default_rng(0).random(known.shape) < 0.5)
    records = table_of(pipe, conditions=known)
    assert len(records) == len(known)
    for name in columns:
        given_here = known[name].notna()
        assert (records[name][given_here] == known[name][given_here]).all(), name
    with pytest.raises(ValueError, match="num_records=3, and there are conditions for 90"):
        table_of(pipe, 3, conditions=known)
    with pytest.raises(ValueError, match="no field 'x'"):
        table_of(pipe, conditions=pd.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="has no rows"):
        table_of(pipe, conditions=known.head(0))


@pytest.mark.parametrize(
    ("conditions", "num_records"),
    [({"color": "red"}, 100), pytest.param({"age": Between(20, 40)}, 1500, marks=pytest.mark.slow)],
)
def test_records_of_a_seed_are_the_same(pipe, conditions, num_records):
    records = table_of(pipe, num_records, conditions=conditions)
    pd.testing.assert_frame_equal(table_of(pipe, num_records, conditions=conditions, batch_size=17), records)
    pd.testing.assert_frame_equal(table_of(pipe, 30, conditions=conditions), records.head(30))
    stream = pipe.stream(num_records, conditions=conditions, generator=seeded(0))
    streamed = pd.concat([batch.to_pandas() for batch in stream], ignore_index=True)
    assert streamed["age"].tolist() == records["age"].tolist()
    assert not table_of(pipe, 30, seed=1, conditions=conditions).equals(records.head(30))


def test_shards_go_on_with_the_same_conditions_alone(pipe, tmp_path):
    files = write_shards(pipe, tmp_path / "out", 50, where="age < 40")
    assert (pd.read_parquet(files[0])["age"] < 40).all()
    with pytest.raises(ValueError, match="conditions"):
        write_shards(pipe, tmp_path / "out", 50, where="age < 50")


def test_impute_fills_gaps_and_nothing_else(pipe):
    table = TABLE.drop(columns=["note", "nothing"]).sample(90, random_state=0)
    table["note"], table["nothing"] = "x", None
    table = table[TABLE.columns]
    table.loc[table.index[:50], ["age", "color", "price", "joined"]] = np.nan
    table.loc[table.index[60], "age"] = 1000.5  # not of the training data: kept
    filled = pipe.impute(table, generator=seeded(0))
    assert filled.index.equals(table.index) and list(filled.columns) == list(table.columns)
    assert (filled.dtypes == table.dtypes).drop("nothing").all()
    for name in table.columns.drop("nothing"):
        assert filled[name].notna().all(), name
        there = table[name].notna()
        assert (filled[name][there] == table[name][there]).all(), name
    draws = pipe.impute(table, num_imputations=2, generator=seeded(0))
    pd.testing.assert_frame_equal(draws[0], filled)
    assert not draws[1].equals(filled)
    mean = pipe.impute(table, num_imputations=2, aggregate="mean", generator=seeded(0))
    expected = np.mean([draw["price"].iloc[:50] for draw in draws], axis=0).round(2)
    np.testing.assert_allclose(mean["price"].iloc[:50], expected, atol=0.011)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.head(0), "no rows"),
        (lambda t: t.drop(columns="age"), "column 'age' is missing"),
        (lambda t: t.assign(other=1), "no field 'other'"),
        (lambda t: t.assign(age="old"), "column 'age'.*'old'"),
        (lambda t: t.to_dict("records"), "a pandas.DataFrame is to be filled"),
    ],
)
def test_impute_refuses(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        pipe.impute(change(TABLE))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "2", None, True])
def test_guidance_scale_is_a_number(pipe, scale):
    with pytest.raises(ValueError, match="guidance_scale="):
        table_of(pipe, 2, guidance_scale=scale)


@pytest.mark.slow
def test_odd_dtypes(tmp_path):
    """What float32, small integers and categories without some values break elsewhere."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "f32": rng.normal(size=200).astype("float32"),
            "i8": rng.integers(-100, 100, 200).astype("int8"),
            "big": 2**62 + rng.integers(0, 1000, 200),
            "kind": pd.Categorical(rng.choice(["x", "y"], 200)),
        }
    )
    pipe = train(table, tmp_path / "model", recipe="quick")
    pipe.set_progress_bar_config(disable=True)
    assert (table_of(pipe, 20, where="kind == 'x'")["kind"] == "x").all()
    assert (table_of(pipe, 5, conditions={"f32": table["f32"][3]})["f32"] == table["f32"][3]).all()
    assert (table_of(pipe, conditions=table[["f32"]].head(9))["f32"] == table["f32"].head(9)).all()
    doubled = table_of(pipe, 40, where="i8 + i8 < -100")["i8"].astype(int)
    assert (doubled * 2 < -100).all()
    gaps = table.assign(kind=pd.Categorical(["x" if k % 2 else None for k in range(200)]))
    gaps["f32"] = gaps["f32"].where(gaps.index % 3 > 0)
    filled = pipe.impute(gaps, generator=seeded(0))
    assert filled.notna().all().all() and filled["f32"].dtype == "float32"
    nothing = pd.DataFrame({name: table[name].astype(object).where(table.index > 10) for name in table})
    means = pipe.impute(nothing, 3, aggregate="mean", generator=seeded(0))["big"]
    assert (means >= 2**62).all() and (means < 2**62 + 1000).all()
    with pytest.raises(ValueError, match="column 'f32'.*dtype Int64"):
        pipe.impute(nothing.assign(f32=pd.array([1, None] * 100, dtype="Int64")))
    with pytest.raises(ValueError, match="'i8' stands more than once"):
        pipe.impute(pd.concat([table, table[["i8"]]], axis=1))
    with pytest.raises(ValueError, match="num_latents=0"):
        pipe.predict(table, "kind", num_latents=0)


def test_predict(pipe):
    probabilities = pipe.predict(TABLE.head(30), "color", generator=seeded(0))
    assert list(probabilities.columns) == pipe.processor.codec.tokens["color"].values
    assert probabilities.index.equals(TABLE.head(30).index)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="target='age'"):
        pipe.predict(TABLE, "age")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.log_prob(TABLE, 0), "num_latents=0 is not a positive integer"),
        (lambda p: p.log_prob(TABLE, 10**12), "num_latents=1000000000000 is more than 10,000"),
        (lambda p: p.log_prob(TABLE, batch_size=[]), r"batch_size=\[\] is not a positive integer"),
        (lambda p: p.log_prob(TABLE, generator=0), "generator=0 is no torch.Generator"),
        (lambda p: p.log_prob(TABLE.head(0)), "the table of records has no rows"),
        (lambda p: p.log_prob("x" * 9999 + ".csv"), "x+[.]{3}x+.csv: no such file"),
        (lambda p: p.predict(TABLE, "x" * 9999), "target='x+[.]{3}x+' is no boolean"),
        (lambda p: p.predict(TABLE, "color", "x" * 9999), "num_latents='x+[.]{3}x+' is not a positive integer"),
        (lambda p: p.predict(TABLE, "color", generator=0), "generator=0 is no torch.Generator"),
        (lambda p: p.impute(TABLE, aggregate=np.zeros(2)), r"aggregate=array.* is not one of 'draw', 'mean'"),
        (lambda p: p.vary(TABLE, "all"), "strength='all' is not between 0 and 1"),
        (lambda p: p.vary(TABLE, [0, 1]), r"strength=\[0, 1\] is not between 0 and 1"),
        (lambda p: p.vary(TABLE, 0.5, 0), "num_inference_steps=0 is not a positive integer"),
        (lambda p: p.vary(TABLE, generator="cpu"), "generator='cpu' is no torch.Generator"),
        (lambda p: p.vary(TABLE.head(0)), "the table of records has no rows"),
        (lambda p: p.interpolate(3, {}), "first=3 is no record; give a dict"),
        (lambda p: p.interpolate({}, torch.zeros(2)), "second=tensor.* is no record; give a dict"),
        (lambda p: p.interpolate({}, {}, 10**12), "num_records=1000000000000 is more than 100,000"),
    ],
)
def test_arguments_that_are_none(pipe, call, message):
    with pytest.raises((ValueError, OSError), match=message):
        call(pipe)


def test_batches_of_log_prob_are_of_integers_of_numpy(pipe):
    bounds = [pipe.log_prob(TABLE.head(9), 2, size, seeded(0)) for size in (4, np.int64(4), 10**30)]
    np.testing.assert_allclose(bounds[1:], bounds[:1] * 2, rtol=1e-5)


@pytest.mark.slow
def test_log_prob_is_a_bound_that_rises(pipe):
    few, many = (pipe.log_prob(TABLE.head(60), n, generator=seeded(0)) for n in (1, 64))
    assert few.shape == (60,) and many.mean() > few.mean()
    np.testing.assert_allclose(pipe.log_prob(TABLE.head(60), 64, batch_size=7, generator=seeded(0)), many, rtol=1e-4)
    outlier = TABLE.head(60).assign(income=TABLE["income"].head(60).sample(frac=1, random_state=0).to_numpy())
    assert pipe.log_prob(outlier, 64, generator=seeded(0)).shape == (60,)
    # With one latent it is the negative of the bound that training reports, of a random z.
    vae, inputs = pipe.vae, pipe.processor(TABLE)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        mean, logvar = vae.encode(inputs["input_ids"], mask)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)
        losses = [vae(inputs["input_ids"], mask).loss.item() for _ in range(20)]
    assert np.mean(losses) >= kl.mean().item()
    singles = [pipe.log_prob(TABLE, 1, generator=seeded(k)).mean() for k in range(20)]
    assert -np.mean(singles) == pytest.approx(np.mean(losses), rel=0.02)


@pytest.mark.parametrize("scheduler", [None, LatentEDMScheduler])
def test_variations(tiny_run, scheduler):
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    latents, noise = torch.randn(2, 400, 4, generator=seeded(0))
    latents = pipe.denoiser.denormalize_latents(latents * pipe.scheduler.config.sigma_data)
    moved = {s: (pipe.renoise_latents(latents, noise, s) - latents).norm(dim=1).mean() for s in (0.0, 0.3, 0.6, 1.0)}
    assert moved[0.0] == 0
    assert list(moved.values()) == sorted(moved.values())
    varied = pipe.vary(TABLE.head(30), 0.5, generator=seeded(0))
    assert len(varied) == 30 and list(varied.columns) == list(TABLE.columns)
    pd.testing.assert_frame_equal(pipe.vary(TABLE.head(30), 0.5, generator=seeded(0)), varied)
    with pytest.raises(ValueError, match="strength=1.5"):
        pipe.vary(TABLE, 1.5)


def test_balance(pipe):
    records = table_of(pipe, 300, balance="size")
    assert records["size"].value_counts().between(97, 103).all()
    shares = {"color": {"red": 0.25, "blue": 0.75}, "member": {True: 0.5, False: 0.5}}
    records = table_of(pipe, 400, balance=shares, conditions={"code": 3})
    assert (records["code"] == 3).all()
    both = pd.crosstab(records["color"], records["member"], normalize=True)
    assert both.loc["red"].between(0.1, 0.15).all() and both.loc["blue"].between(0.35, 0.4).all()
    pd.testing.assert_frame_equal(table_of(pipe, 50, balance=shares, conditions={"code": 3}), records.head(50))
    streamed = pd.concat([b.to_pandas() for b in pipe.stream(50, balance="size", generator=seeded(0))])
    assert streamed["size"].tolist() == table_of(pipe, 50, balance="size")["size"].tolist()


@pytest.mark.slow
def test_balance_of_two_fields_is_parity(pipe):
    balance = {"member": {True: 0.3, False: 0.7}, "color": {"red": 0.5, "blue": 0.5}}
    records = table_of(pipe, 400, balance=balance)
    shares = records.groupby("color")["member"].mean()
    assert shares.index.tolist() == ["blue", "red"] and ((shares - 0.3).abs() < 0.02).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"balance": "age"}, "column 'age' is a number"),
        ({"balance": "colour"}, "no field 'colour'"),
        ({"balance": {"color": {"red": 0.5}}}, "column 'color'.*sum up to 0.5"),
        ({"balance": {"color": {"rod": 1.0}}}, "column 'color'.*did you mean 'red'"),
        ({"balance": {"color": {"red": 2, "blue": -1}}}, "column 'color'.*the share 2"),
        ({"balance": {"color": "red"}}, "column 'color'.*no dict"),
        ({"balance": 3}, "balance=3"),
        ({"balance": "color", "num_records": torch.zeros(3)}, "num_records=tensor.* is not a positive integer"),
        ({"balance": "color", "num_records": 10**12}, "num_records=1000000000000 is more than 1,000,000,000"),
        ({"balance": "color", "where": "age > 3"}, "where and balance"),
        ({"balance": "color", "conditions": {"color": "red"}}, "column 'color' is balanced"),
        ({"balance": "color", "conditions": {"age": Between(20, 30)}}, "column 'age'.*single value"),
    ],
)
def test_bad_balance(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        table_of(pipe, **{"num_records": 8} | arguments)


def test_guidance_scale(pipe):
    known = pipe.vae.decoder.condition(pipe.make_condition({"color": "blue", "age": 30}).allowed)

    def latents(**kwargs) -> torch.Tensor:
        return pipe.generate_latents(20, generator=seeded(0), **kwargs)

    free, told = latents(), latents(guidance=Guidance(known))
    assert not torch.allclose(free, told)
    torch.testing.assert_close(latents(guidance=Guidance(known, scale=0.0)), free)
    assert not torch.allclose(latents(guidance=Guidance(known, scale=3.0)), told)


@pytest.mark.parametrize("scheduler", [None, LatentEDMScheduler, EDMEulerScheduler])
def test_guides_move_latents_by_bayes_rule(tiny_run, scheduler):
    """Of a Gaussian and a score that is the logarithm of another, the product is known."""
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    if scheduler is not None:
        pipe.scheduler = scheduler(**{k: pipe.scheduler.config[k] for k in ("sigma_min", "sigma_max", "sigma_data")})
    # What EDM's preconditioning makes of no output is the denoiser of N(0, sigma_data²).
    for parameter in (pipe.denoiser.proj_out.weight, pipe.denoiser.proj_out.bias):
        torch.nn.init.zeros_(parameter)
    data, most = (pipe.scheduler.config[name] for name in ("sigma_data", "sigma_max"))
    mean, std = pipe.denoiser.latent_mean, pipe.denoiser.latent_std * data
    guide = Guide(lambda z: ((z - mean) / std).sum(1))
    # N(0, 1) times exp(x) is N(1, 1); noise of sigma_max is taken for that of either.
    shift = 1 - data / (data**2 + most**2) ** 0.5
    free, once, twice = (
        (pipe.generate_latents(100, 50, seeded(0), guidance=Guidance(guides=[guide] * num)) - mean) / std
        for num in range(3)
    )
    torch.testing.assert_close(once - free, torch.full_like(free, shift), atol=0.02, rtol=0)
    torch.testing.assert_close(twice - free, torch.full_like(free, 2 * shift), atol=0.04, rtol=0)


def test_a_classifier_of_latents_guides(pipe, tmp_path):
    classifier = LatentClassifier.fit(pipe, TABLE, "size", num_steps=100)
    classifier.save_pretrained(tmp_path / "classifier")
    loaded = LatentClassifier.from_pretrained(tmp_path / "classifier")
    z = torch.randn(20, 4)
    torch.testing.assert_close(loaded(z), classifier(z))
    guide = loaded.guide("L", 20.0)

    def score(**kwargs) -> float:
        return guide.score(pipe.generate_latents(400, generator=seeded(0), **kwargs)).mean().item()

    assert score(guidance=Guidance(guides=[guide])) > score() + 0.05
    records = table_of(pipe, 60, guides=[guide])
    assert len(records) == 60
    pd.testing.assert_frame_equal(table_of(pipe, 20, guides=[guide], batch_size=7), records.head(20))
    assert (table_of(pipe, 20, guides=[guide], conditions={"color": "red"})["color"] == "red").all()
    with pytest.raises(ValueError, match="'XL' is not one of the values of 'size'"):
        loaded.guide("XL")
    with pytest.raises(ValueError, match="target='age'"):
        LatentClassifier.fit(pipe, TABLE, "age")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda z: z, r"mine, step 0: a score of shape \(64,\) is needed, not \(64, 4\)"),
        (lambda z: 1.0, "mine, step 0: .* not float"),
        (lambda z: torch.zeros(len(z)), "mine, step 0: .*does not see"),
        (lambda z: (z.sum(1) * 0).log(), "mine, step 0: .*not finite"),
        (lambda z: z.sum(1) * 1j, "mine, step 0: .* not .* torch.complex64"),
        ("x", "mine: score='x' is no function of latents"),
    ],
)
def test_bad_guides(pipe, score, message):
    with pytest.raises(ValueError, match=message):
        table_of(pipe, 5, guides=[Guide(score, name="mine")])


@pytest.mark.parametrize("guides", [1j, torch.tensor(1), torch.ones(2, 3), pd.Series(["x"]), "x", float("inf")])
def test_what_is_no_guide(pipe, guides):
    with pytest.raises(ValueError, match="guides hold a .*, which is no Guide"):
        table_of(pipe, 5, guides=guides)


def test_guides_may_be_an_iterator(pipe):
    guides = [Guide(lambda z: z.sum(1), 3.0)]
    expected = table_of(pipe, 20, guides=guides)
    pd.testing.assert_frame_equal(table_of(pipe, 20, guides=iter(guides)), expected)
    assert not expected.equals(table_of(pipe, 20))


def test_nothing_known_is_zero(tiny_model):
    torch.manual_seed(0)
    config = tiny_model("gpt2", position_ranges=[(4, 8), (8, 12)], max_record_length=3, condition_size=6).config
    known = KnownFields(config)
    ids, none = torch.tensor([[4, 8], [5, 9]]), torch.zeros(2, 2, dtype=torch.bool)
    assert not known(ids, none).any()
    one = torch.tensor([[True, False], [True, False]])
    other = torch.tensor([[4, 11], [5, 10]])
    torch.testing.assert_close(known(ids, one), known(other, one))  # what is not known does not matter
    assert not torch.allclose(known(ids, one)[0], known(ids, one)[1])


@torch.no_grad()
@pytest.mark.parametrize("condition_size", [0, 6])
def test_weights_of_allowed_ids(tiny_model, condition_size):
    """Against probabilities of whole records, written out."""
    torch.manual_seed(0)
    ranges = [(4, 8), (8, 12), (12, 16)]
    config = tiny_model("gpt2", position_ranges=ranges, max_record_length=4, condition_size=condition_size).config
    model = DiffLMForCausalLM(config).eval()
    # Two bins of four steps each: of the first one half of the last step is allowed, of the second the first two.
    bins = QuantileBins(list(range(0, 80, 10)), 79, [0, 4])
    intervals = np.array([[(0, 9), (35, 39), (40, 59)]], np.uint64)
    limits = {
        0: IdLimits(torch.tensor([0]), torch.tensor([[True, True, False, False]])),
        2: StepLimits(torch.tensor([0]), intervals, bins, source=0, first_bin=4),
    }
    allowed = AllowedIds(torch.tensor([[0, 9, 0]]), torch.tensor([[False, True, False]]), limits)
    latents = torch.randn(40, config.latent_size)
    ids, of_records, of_latents = model.sample_allowed(latents, torch.rand(40, 3), allowed)
    is_first = ids[:, 1] == 4
    assert 0 < is_first.sum() < 40 and torch.isin(ids[:, 1], torch.tensor([4, 5])).all() and (ids[:, 2] == 9).all()
    assert torch.isin(ids[is_first, 3], torch.tensor([12, 15])).all()
    assert torch.isin(ids[~is_first, 3], torch.tensor([12, 13])).all()
    of_first, of_second = (torch.tensor(shares).log() for shares in ([1, 0, 0, 0.5], [1.0, 1, 0, 0]))
    shares = {
        0: torch.tensor([0.0, 0, -torch.inf, -torch.inf]),
        2: torch.where(is_first[:, None], of_first, of_second),
    }
    condition = model.condition(allowed)
    told = model.with_condition(latents, None if condition is None else condition.expand(40, -1))
    log_p, log_q, log_allowed = (torch.zeros(40) for _ in range(3))
    for position, (start, end) in enumerate(ranges):
        free, proposal = (
            model.range_logits(model.hidden_states(ids[:, : 1 + position], z)[0][:, -1], start, end).log_softmax(-1)
            for z in (model.with_condition(latents), told)
        )
        chosen = ids[:, 1 + position, None] - start
        log_p += free.gather(1, chosen)[:, 0]
        if position == 1:
            log_allowed += 0 if condition_size else proposal.gather(1, chosen)[:, 0]
        else:
            mass = (proposal + shares[position]).logsumexp(-1)
            log_allowed += mass
            log_q += proposal.gather(1, chosen)[:, 0] - mass
    torch.testing.assert_close(of_latents, log_allowed, atol=1e-4, rtol=1e-4)
    # The share of an id that is allowed is in both.
    expected = log_p - log_q if condition_size else log_allowed
    torch.testing.assert_close(of_records, expected, atol=1e-4, rtol=1e-4)


def test_half_of_the_records_are_told_something():
    torch.manual_seed(0)
    is_known = draw_known(4001, torch.tensor([0, 1, 2, 3, 1, 3]))
    assert is_known.shape == (2000, 6)
    assert torch.equal(is_known[:, 1], is_known[:, 4]) and torch.equal(is_known[:, 3], is_known[:, 5])
    assert is_known.any(1).all()
    assert 0.3 < (is_known[:, :4].sum(1) == 1).float().mean() < 0.6


def test_records_after_those_told_know_nothing(pipe):
    known_fields, num_positions = pipe.vae.decoder.known_fields, len(pipe.processor.codec.position_fields)
    is_known = torch.rand(2, num_positions) < 0.5
    is_known[:, 0] = True
    ids = torch.randint(5, 9, (6, num_positions))
    told = known_fields(ids, is_known)
    assert told[:2].abs().sum(1).min() > 0
    everyone = torch.cat([is_known, torch.zeros(4, num_positions, dtype=bool)])
    torch.testing.assert_close(told, known_fields(ids, everyone))


def test_systematic_resampling_follows_the_weights():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 2000))
    # The weight turns N(0, 1) into N(1, 1).
    chosen, effective = resample(lambda k: values[k] - 0.5, 2000, 0.3)
    resampled = values.flatten()[chosen]
    assert abs(resampled.mean() - 1) < 0.08 and abs(resampled.std() - 1) < 0.08
    assert len(np.unique(chosen)) > 0.95 * 2000
    assert effective == pytest.approx(np.exp(-1), abs=0.1)  # E[w]² / E[w²]
    same, _ = resample(lambda k: np.zeros(100), 100, 0.5)
    assert sorted(same) == list(range(100)) and same.tolist() != list(range(100))
    with pytest.raises(RuntimeError, match="too rare"):
        resample(lambda k: np.full(100, -np.inf), 100, 0.5)
    assert effective_sample_size(np.log([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)


@settings(max_examples=2 * settings().max_examples)
@given(
    points=st.lists(st.integers(0, 2**64 - 1), min_size=20, max_size=60),
    ends=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=6, unique=True),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_numbers_are_placed_inside_intervals(points, ends, uniform):
    bins = QuantileBins.fit(np.array(points, np.uint64), 4, 3, 2)
    ends = sorted(ends)
    intervals = np.array([(a, b) for a, b in zip(ends[::2], ends[1::2])], np.uint64)
    shares = bins.shares(intervals)
    assert ((shares >= 0) & (shares <= 1)).all()
    for b, s in zip(*shares.nonzero()):
        offset = bins.place(np.array([b]), np.array([s]), np.array([uniform]), intervals)
        point = int(bins.decode(np.array([b]), np.array([s]), offset)[0])
        assert any(int(low) <= point <= int(high) for low, high in intervals)
        assert bins.encode(np.array([point], np.uint64))[:2] == (b, s)


def test_conditions_on_numbers_without_rounding():
    """Ranges of all kinds of numbers, of which no bound is a value, hold to the last digit."""
    table = pd.DataFrame({"x": np.random.default_rng(0).lognormal(size=400), "y": np.arange(400)})
    schema = RecordSchema.infer(table)
    codec, _ = CompactCodec.fit(schema, table)
    condition = Condition.of_fields(codec, {"x": Between(0.5, 0.6), "y": Between(10.5, 12.5)})
    [x], [y] = (condition.domains[name].distinct for name in "xy")
    assert y.intervals == [(11, 12)]
    low, high = codec.tokens["x"].grid.decode(schema["x"], np.array(x.intervals[0], np.uint64))
    assert low == 0.5 and high == 0.6


def test_parse_where_splits_what_is_about_one_field():
    functions = lambda name, condition: None, lambda name, table: table[name]  # noqa: E731
    text = "a > 1 and b == 'x' and a < c and (a < 5 or a > 9)"
    conditions, predicates = parse_where(text, ["a", "b", "c"], *functions)
    assert set(conditions) == {"a", "b"} and len(predicates) == 1
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [2, 1]})
    assert predicates[0](table).tolist() == [True, False]


def test_conditions_with_another_scheduler(tiny_run):
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    pipe.scheduler = LatentEDMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    assert (table_of(pipe, 20, conditions={"color": "red"})["color"] == "red").all()


@pytest.mark.slow
def test_commands(tiny_run, tmp_path, monkeypatch, error_of):
    rows, gaps, filled = tmp_path / "rows.csv", tmp_path / "gaps.parquet", tmp_path / "filled.parquet"
    assert call(monkeypatch, "generate", tiny_run, "--num-records", 20, "--where", "age < 40", "--output", rows) == 0
    assert (pd.read_csv(rows)["age"] < 40).all()
    TABLE.head(5)[["color", "size"]].to_parquet(gaps)
    assert call(monkeypatch, "generate", tiny_run, "--conditions", gaps, "--output", tmp_path / "some.csv") == 0
    assert pd.read_csv(tmp_path / "some.csv")["size"].tolist() == TABLE["size"].head(5).tolist()
    TABLE.head(40).assign(age=TABLE["age"].where(TABLE.index > 9)).to_parquet(gaps)
    assert call(monkeypatch, "impute", tiny_run, gaps, "--output", filled) == 0
    assert pd.read_parquet(filled)["age"].notna().all()
    assert "no column 'years'" in error_of(
        "generate", tiny_run, "--num-records", 2, "--where", "years > 3", "--output", tmp_path / "x.csv"
    )
    assert "give --num-records" in error_of("generate", tiny_run, "--output", tmp_path / "x.csv")


@pytest.mark.slow
def test_scores_of_records(pipe):
    table = table_of(pipe, 60, score=lambda rows: (rows["age"] % 2 == 0).to_numpy(), conditions={"color": "red"})
    assert len(table) == 60 and (table["age"] % 2 == 0).all() and (table["color"] == "red").all()
    pd.testing.assert_frame_equal(
        table, table_of(pipe, 60, score=lambda rows: rows["age"] % 2 == 0, conditions={"color": "red"}, batch_size=13)
    )
    plain = table_of(pipe, 1000)["age"]
    # The weight exp(a·x) moves a mean by about a times the variance.
    tilted = table_of(pipe, 1000, score=lambda rows: 0.01 * rows["age"])["age"]
    assert tilted.mean() - plain.mean() == pytest.approx(0.01 * plain.var(), rel=0.5)
    rows = table_of(pipe, score=lambda rows: rows["age"] > 40, conditions=pd.DataFrame({"color": ["red", "blue"] * 9}))
    assert (rows["age"] > 40).all() and rows["color"].tolist() == ["red", "blue"] * 9


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("age > 3", "is no function"),
        (lambda rows: [1.0], "return a bool or a number for each"),
        (lambda rows: np.full(len(rows), "x"), "return a bool or a number for each"),
        (lambda rows: np.full(len(rows), np.nan), "gave nan or inf"),
        (lambda rows: torch.zeros(len(rows), requires_grad=True), "score gave a Tensor that is no array"),
        (lambda rows: [[1], [1, 2]], "score gave a list that is no array"),
        ("x" * 9999, "score='x+[.]{3}x+' is no function"),
    ],
)
def test_scores_that_are_none(pipe, score, message):
    with pytest.raises(ValueError, match=message):
        pipe(5, score=score)


def test_scores_that_nothing_satisfies(pipe):
    with pytest.raises(RuntimeError, match="too rare"):
        pipe(5, score=lambda rows: np.zeros(len(rows), bool))


@pytest.mark.slow
def test_conditions_on_categories_by_the_thousand(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"city": [f"city {k % 700}" for k in range(2100)], "size": rng.choice(["a", "b"], 2100)})
    table.loc[::50, "city"] = None
    pipe = train(table, tmp_path / "model", recipe="quick")
    pipe.set_progress_bar_config(disable=True)
    assert set(table_of(pipe, 200)["city"].dropna()) <= set(table["city"].dropna())
    assert (table_of(pipe, 20, conditions={"city": "city 612"})["city"] == "city 612").all()
    several = table_of(pipe, 50, conditions={"city": ["city 3", "city 612", "city 44"]})["city"]
    assert several.nunique() > 1 and several.isin(["city 3", "city 612", "city 44"]).all()
    assert table_of(pipe, 50, conditions={"city": StartsWith("city 6")})["city"].str.startswith("city 6").all()
    assert table_of(pipe, 50, conditions={"city": Not(["city 3", None])})["city"].notna().all()
    assert (
        table_of(pipe, 50, where="city == 'city 9' or city == 'city 10'")["city"].isin(["city 9", "city 10"])
    ).all()
    filled = pipe.impute(table.head(60).assign(size=None), generator=seeded(0))
    assert filled["size"].notna().all() and filled["city"].equals(table.head(60)["city"].fillna(filled["city"]))
    for conditions, message in (
        ({"city": "Atlantis"}, "'Atlantis' is not one of its 686 categories"),
        ({"city": Between("a", "b")}, "a range is for numbers and datetimes"),
    ):
        with pytest.raises(ValueError, match=message):
            table_of(pipe, 5, conditions=conditions)
    with pytest.raises(ValueError, match="column 'city' is of too many categories"):
        table_of(pipe, 5, balance="city")
