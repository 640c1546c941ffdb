"""Gaps in records with lists."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_nested_codec import make_orders, train_orders
from test_path_rules import keeps, make_records, train_with_rules
from tiny import seeded, train

from difflm_hf import DiffLMPipeline
from difflm_hf.training.recipes import RECIPES


@pytest.fixture(scope="module")
def pipe(once) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(once("orders", train_orders))


def with_gaps(records: list[dict]) -> list[dict]:
    """Records without some of their values, with whole lists and objects among them."""
    rng = np.random.default_rng(0)
    records = copy.deepcopy(records)
    for i, record in enumerate(records):
        for order in record["orders"]:
            if rng.random() < 0.5:
                order["price"] = None
            if rng.random() < 0.3:
                del order["tags"]  # which none lacks
        for key in ("level", "orders") if i % 5 == 0 else ("age",) if i % 2 else ():
            record[key] = None
    return records


def agrees(given, filled) -> bool:
    """Whether all that was given is there, and nothing is null that was not there before."""
    if given is None or given != given:
        return filled is not None and filled == filled
    if isinstance(given, dict):
        return given.keys() <= filled.keys() and all(agrees(value, filled[key]) for key, value in given.items())
    if isinstance(given, list):
        return len(given) == len(filled) and all(map(agrees, given, filled))
    return given == filled


def test_gaps_are_filled(pipe):
    whole = make_orders(600)[:80]
    table = pd.DataFrame(with_gaps(whole))
    before = copy.deepcopy(table)
    filled = pipe.impute(table, generator=seeded())
    assert table.equals(before) and list(filled) == list(table) and filled.index.equals(table.index)
    optional = [f.name for f in pipe.processor.schema if f.nullable or f.optional]
    for given, record in zip(table.to_dict("records"), filled.to_dict("records")):
        assert all(agrees(value, record[name]) for name, value in given.items() if name not in optional)
        assert all(len(order["tags"]) == 2 and order["price"] is not None for order in record["orders"])
    pipe.processor.schema.conform(filled)
    assert any(len(orders) for orders, given in zip(filled["orders"], table["orders"]) if given is None)


@pytest.mark.slow
def test_the_same_whatever_the_batch(pipe):
    table = pd.DataFrame(with_gaps(make_orders(600)[:30]))
    filled = [pipe.impute(table, generator=seeded(), batch_size=size) for size in (7, 30)]
    assert filled[0].equals(filled[1])
    first, second = pipe.impute(table, num_imputations=2, generator=seeded())
    assert first.equals(filled[0]) or not first.equals(second)


def test_what_is_whole_stays(pipe):
    table = pipe(20, generator=seeded(1), output_type="pandas").records
    whole = table[table.notna().all(axis=1)]
    filled = pipe.impute(whole, generator=seeded())
    assert (
        filled["orders"].tolist() == whole["orders"].tolist() and filled["level"].tolist() == whole["level"].tolist()
    )


@pytest.fixture(scope="module")
def pipe_with_rules(once) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(once("rules on paths", train_with_rules))


def test_rules_hold(pipe_with_rules):
    records = make_records(500)
    given = copy.deepcopy(records[:40])
    for i, record in enumerate(given):
        record["grand"] = None
        for line in record["lines"]:
            line |= {"gross": None, ("total", "count")[i % 2]: None}
        if i % 5 == 0:
            record["lines"] = None
        if i % 3 == 0:
            record["meta"]["high"] = None
    filled = pipe_with_rules.impute(pd.DataFrame(given), generator=seeded()).to_dict("records")
    assert all(map(keeps, filled))
    for before, record in zip(given, filled):
        lines = zip(before["lines"] or [], record["lines"])
        assert record["num_lines"] == before["num_lines"] and all(a["price"] == b["price"] for a, b in lines)


def test_rules_hold_of_lists_that_are_drawn(pipe_with_rules):
    """What is given of a record says how long its list is."""
    given = pd.DataFrame(make_records(500)[:20])
    filled = pipe_with_rules.impute(given.assign(lines=None, grand=None), generator=seeded())
    assert filled["num_lines"].tolist() == given["num_lines"].tolist() and all(map(keeps, filled.to_dict("records")))


def test_what_follows_may_lie_outside_the_bounds(pipe_with_rules):
    line = {"kind": "sale", "count": 4, "price": 1e4, "tax": 0.0, "total": None, "gross": None}
    given = pd.DataFrame([{"lines": [line], "num_lines": 1, "meta": {"low": 1, "high": float("nan")}, "grand": None}])
    [record] = pipe_with_rules.impute(given.astype({"grand": object}), generator=seeded()).to_dict("records")
    assert record["lines"][0]["gross"] == 4e4 and record["meta"]["high"] >= 1


@pytest.mark.slow
def test_what_is_known_tells_of_what_is_not(tmp_path):
    """Of a list whose items repeat one value, the others say what is missing."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(1500):
        color = str(rng.choice(["red", "green", "blue"]))
        records.append({"id": "x", "items": [{"color": color} for _ in range(rng.integers(2, 5))]})
    tiny = RECIPES["tiny"]
    recipe = replace(tiny, vae=tiny.vae | {"num_train_epochs": 20}, denoiser=tiny.denoiser | {"max_steps": 300})
    pipe = train(records, tmp_path, recipe=recipe, nested="rows")
    given = copy.deepcopy(records[:100])
    for record in given:
        record["items"][0]["color"] = None
    filled = pipe.impute(pd.DataFrame(given), generator=seeded())
    right = np.mean([a["items"][0] == b[0] for a, b in zip(records, filled["items"])])
    assert right > 0.8


@pytest.mark.parametrize(
    "change, message",
    [
        ({"orders": [[{"colour": "red"}]]}, "has the key 'colour'"),
        ({"orders": [3]}, "no list"),
        ({"age": ["old"]}, "column 'age': 'old'"),
        ({"grid": [[[0, 1], [math.inf, 0]]]}, "inf is no number of the data"),
        ({"orders": [[{"price": 3.0, "tags": ["a"]}]]}, r"'orders\[\*\].tags'.*1"),  # all have two
    ],
)
def test_bad_tables(pipe, change, message):
    table = pd.DataFrame(make_orders(600)[1:2]).astype(object)
    table = table.assign(**{name: pd.Series(value, dtype=object) for name, value in change.items()})
    with pytest.raises(ValueError, match=message):
        pipe.impute(table)


@pytest.mark.slow
def test_no_means_and_no_times(pipe, tmp_path):
    table = pd.DataFrame(make_orders(600)[:3])  # one of which has an address
    with pytest.raises(ValueError, match="have no mean"):
        pipe.impute(table, aggregate="mean")
    rng = np.random.default_rng(0)
    days = [{"visits": [{"hour": int(h)} for h in sorted(rng.choice(24, 6, replace=False))]} for _ in range(200)]
    of_days = train(days, tmp_path, recipe="quick", nested="rows")
    given = copy.deepcopy(days[:2])
    given[1]["visits"][2]["hour"] = None
    with pytest.raises(ValueError, match=r"'visits\[\*\].hour': it ascends, and has gaps"):
        of_days.impute(pd.DataFrame(given))
