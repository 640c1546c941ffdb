"""Numbers below their tokens: tails, gaps and zero, and conditions on them, as a perfect model would draw them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_hf.records import CompactCodec, RecordSchema
from difflm_hf.records.numbers import Grid, QuantileBins
from difflm_hf.records.step_laws import cumulative, draw, empty_gaps, fit_tilts


LAWS = {
    "normal": lambda rng, n: 5 + rng.normal(size=n),
    "whole": lambda rng, n: rng.normal(50_000, 15_000, n).round().astype(int),
    "log-normal": lambda rng, n: rng.lognormal(size=n),
    "log-normal, cents": lambda rng, n: rng.lognormal(4, 2, n).round(2),
    "Pareto 3": lambda rng, n: 1 + rng.pareto(3, n),
    "Pareto 1.5, cents": lambda rng, n: (100 + 100 * rng.pareto(1.5, n)).round(2),
}
PLACEHOLDER = 99_999_999
UNIFORMS = (np.arange(4000) + 0.5) / 4000


def decodings(values, num: int = 20, **kwargs) -> np.ndarray:
    """Values drawn from the true tokens, of shape `(num, num_rows)`."""
    table, rng = pd.DataFrame({"x": values}), np.random.default_rng(0)
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table, **kwargs)
    ids, offsets = codec.encode(table, tokenizer)
    assert codec.decode(ids, tokenizer, offsets).equals(table)
    return np.stack([codec.decode(ids, tokenizer, rng.random(offsets.shape))["x"].to_numpy() for _ in range(num)])


@pytest.mark.parametrize("num_rows", [1000, 100_000])
@pytest.mark.parametrize("law", LAWS)
def test_mean_and_tail_are_those_of_the_data(law, num_rows):
    values = LAWS[law](np.random.default_rng(1), num_rows)
    drawn = decodings(values, 20 if num_rows == 1000 else 3)
    assert drawn.mean() == pytest.approx(values.mean(), rel=0.02)
    assert np.quantile(drawn, 0.999, axis=1).mean() == pytest.approx(np.quantile(values, 0.999), rel=0.02)


@pytest.mark.parametrize("num_rows", [200, 1000, 100_000])
@pytest.mark.parametrize("law", LAWS)
def test_a_placeholder_is_as_frequent_as_in_the_data(law, num_rows):
    values = LAWS[law](np.random.default_rng(2), num_rows)
    largest = values[1:].max()
    values[0] = PLACEHOLDER
    drawn = decodings(values, 2)
    assert (drawn[:, 0] == PLACEHOLDER).all() and drawn[:, 1:].max() <= largest
    assert drawn[:, 1:].mean() == pytest.approx(values[1:].mean(), rel=0.05)


@pytest.mark.parametrize("num_rows", [200, 1000, 20_000])
def test_no_date_lies_in_years_without_any(num_rows):
    rng = np.random.default_rng(0)
    days = pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365 * 86400, num_rows), "s"))
    days[5] = pd.Timestamp("1900-01-01")
    years = pd.Series(decodings(days, 3).ravel()).dt.year
    assert years.value_counts().to_dict() == {2024: 3 * (num_rows - 1), 1900: 3}


@pytest.mark.parametrize("decimals", [None, 4])
@pytest.mark.parametrize("has_zero", [False, True])
def test_no_number_lies_between_zero_and_the_smallest(decimals, has_zero):
    values = np.random.default_rng(0).normal(0, 10, 1000)
    values = np.append(values if decimals is None else values.round(decimals), 0.0 if has_zero else 1.0)
    drawn = decodings(values, 20)
    assert np.abs(drawn[drawn != 0]).min() >= np.abs(values[values != 0]).min()
    assert (drawn == 0).sum() == 20 * has_zero
    # Also where a step is too small a share of the records to be cut in two, they are not tiny.
    drawn = np.abs(decodings(np.append(np.abs(values), [-1.0, -2.0]), 20, min_value_count=10))
    assert (drawn[drawn != 0] < 1e-4).mean() < 1e-3


@pytest.mark.parametrize("num_rows", [200, 1000, 20_000])
def test_gaps_stay_empty(num_rows):
    rng = np.random.default_rng(0)
    values = rng.normal(size=num_rows) + 30 * (rng.random(num_rows) < 0.3)
    low, high = values[values < 15].max(), values[values > 15].min()
    drawn = decodings(values, 3)
    assert not ((low < drawn) & (drawn < high)).any()
    hours = rng.integers(0, 30, num_rows) * 24 + rng.uniform(9, 12, num_rows).round(3)
    hour = decodings(hours, 3) % 24
    assert num_rows < 1000 or ((hour >= 9) & (hour <= 12)).all()


def test_spread_that_is_even_is_drawn_as_it_is():
    """Steps touch, and each of their points is as probable as any other."""
    points = np.arange(10_000, dtype=np.uint64)
    bins = QuantileBins.fit(points, 64, 32, 8, grid=Grid(-5000, 1, 10_000, "interval"))
    assert set(bins.tilts) == {0.0} and bins.ends == [start - 1 for start in bins.starts[1:]] + [9999]
    assert (bins.num_bins, bins.num_steps) == (64, 19)


@pytest.mark.parametrize("num_values", [200, 1000, 100_000])
@pytest.mark.parametrize("law", ["uniform", "normal", "exponential", "integers"])
def test_spacing_by_chance_is_no_gap(law, num_values):
    found = 0
    for seed in range(100, 110):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, num_values, num_values) if law == "integers" else getattr(rng, law)(size=num_values)
        found += (empty_gaps(np.unique(values).astype(np.float64), 0.1 / num_values) > 0).sum()
    assert found <= 8  # of which 1 is expected


BOUNDS = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))


@settings(max_examples=2 * settings().max_examples)
@given(BOUNDS, st.floats(0.02, 0.98))
def test_laws_have_the_mean_of_the_data(bounds, mean):
    low, width = (np.array([number]) for number in bounds)
    tilts = fit_tilts(mean * width, low, width)
    uniforms = (np.arange(200_000) + 0.5) / 200_000
    above = draw(uniforms, *(np.broadcast_to(of, len(uniforms)) for of in (low, width, tilts)))
    assert (above >= 0).all() and (above <= width * (1 + 1e-9)).all() and (np.diff(above) >= 0).all()
    assert above.mean() / width[0] == pytest.approx(mean, abs=0.01)
    inverse = cumulative(above, low, width, tilts)
    np.testing.assert_allclose(inverse, uniforms, atol=1e-4)


@settings(max_examples=2 * settings().max_examples)
@given(
    st.sampled_from([*LAWS, "signed", "moments"]),
    st.integers(0, 100),
    st.lists(st.floats(0, 1), min_size=2, max_size=4, unique=True),
    st.integers(1, 20),
)
def test_conditions_go_by_the_laws_of_steps(law, seed, ends, min_count):
    """The share of a step that lies in intervals, and what is drawn there, are those of numbers drawn without any."""
    rng = np.random.default_rng(seed)
    if law == "moments":
        values = pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.exponential(1e6, 300).round(), "s"))
    else:
        values = pd.Series(rng.normal(size=300) if law == "signed" else LAWS[law](rng, 300))
    field = RecordSchema.infer(pd.DataFrame({"x": values}))["x"]
    grid = Grid.fit(field, values)
    bins = QuantileBins.fit(grid.encode(field, values), 4, 3, 8, min_count, grid)
    ends = np.sort((np.array(ends[: len(ends) // 2 * 2]) * (grid.size - 1)).astype(np.uint64))
    if (np.diff(ends) == 0).any():
        return
    intervals = ends.reshape(-1, 2)
    shares = bins.shares(intervals)
    for bin, step in zip(*(shares >= 0).nonzero()):
        if step >= bins._num_steps[bin]:
            assert shares[bin, step] == 0
            continue
        where = np.full(len(UNIFORMS), bin), np.full(len(UNIFORMS), step)
        free = bins.decode(*where, UNIFORMS)
        is_inside = ((intervals[:, :1] <= free) & (free <= intervals[:, 1:])).any(0)
        assert shares[bin, step] == pytest.approx(is_inside.mean(), abs=2e-3)
        if shares[bin, step] > 0.05:
            placed = bins.decode(*where, bins.place(*where, UNIFORMS, intervals))
            assert ((intervals[:, :1] <= placed) & (placed <= intervals[:, 1:])).any(0).all()
            # At the same quantiles there are the same numbers.
            wanted = np.quantile(free[is_inside], [0.1, 0.5, 0.9], method="nearest")
            below = [(placed <= number).mean() for number in wanted]
            least = [(placed < number).mean() for number in wanted]
            assert all(a - 0.03 <= q <= b + 0.03 for a, q, b in zip(least, [0.1, 0.5, 0.9], below))


def test_saved_codecs_without_laws_draw_as_before():
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=500), "y": np.arange(500) ** 2})
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    state = json.loads(json.dumps(codec.to_dict()))
    for _, tokens in state["tokens"]:
        del tokens["grid"]["scale"], tokens["bins"]["ends"], tokens["bins"]["tilts"], tokens["bins"]["grid"]
    old = CompactCodec.from_dict(state)
    ids, offsets = codec.encode(table, tokenizer)
    for a, b in zip(old.encode(table, tokenizer), (ids, offsets)):
        np.testing.assert_array_equal(a, b)
    assert old.decode(ids, tokenizer, offsets).equals(table)
    uniforms = np.random.default_rng(0).random(500)
    for tokens in old.tokens.values():
        starts = np.array(tokens.bins.starts, np.uint64)
        steps = np.arange(500) % len(starts)
        bins = np.searchsorted(tokens.bins.first_steps, steps, side="right") - 1
        widths = np.append(starts[1:], np.uint64(tokens.bins.end + 1)) - starts
        expected = starts[steps] + (uniforms * widths[steps]).astype(np.uint64)
        drawn = tokens.bins.decode(bins, steps - np.array(tokens.bins.first_steps)[bins], uniforms)
        np.testing.assert_array_equal(drawn, expected)


@given(st.integers(0, 1000), st.integers(2, 12))
def test_no_step_tells_of_few_records(seed, min_count):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(size=200), rng.normal(1000, 1, 20), [10.0**6, -(10.0**7)]])
    table = pd.DataFrame({"x": values})
    schema = RecordSchema.infer(table)
    codec, tokenizer = CompactCodec.fit(schema, table, min_value_count=min_count)
    bins, points = codec.tokens["x"].bins, codec.tokens["x"].grid.encode(schema["x"], table["x"])
    steps = np.searchsorted(np.array(bins.starts, np.uint64), points, side="right") - 1
    assert np.bincount(steps, minlength=len(bins.starts)).min() >= min_count
    assert not set(bins.ends[:-1]) & set(points.tolist())
    ids, offsets = codec.encode(table, tokenizer)
    assert codec.decode(ids, tokenizer, offsets).equals(table)
