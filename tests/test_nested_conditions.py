"""Conditions on records with lists."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from test_nested_codec import train_orders
from tiny import seeded

from difflm_hf import DiffLMPipeline
from difflm_hf.control import Between, Not
from difflm_hf.control.nested_conditions import NestedCondition


@pytest.fixture(scope="module")
def pipe(once) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(once("orders", train_orders))


CONDITIONS = [
    ({"level": "gold"}, lambda r: r["level"] == "gold"),
    ({"age": Between(30, 40)}, lambda r: 30 <= r["age"] <= 40),
    ({"len(orders)": Between(2, 3)}, lambda r: len(r["orders"]) in (2, 3)),
    ({"orders[*].price": Between(10, 20)}, lambda r: all(10 <= o["price"] <= 20 for o in r["orders"])),
    (
        {"len(orders)": 2, "orders[*].tags[*]": ["a", "b"], "level": "basic"},
        lambda r: (
            len(r["orders"]) == 2
            and r["level"] == "basic"
            and {t for o in r["orders"] for t in o["tags"]} <= {"a", "b"}
        ),
    ),
    ({"orders[*].paid": True}, lambda r: all(o["paid"] is True for o in r["orders"])),
    ({"orders[*].lines[*].count": Between(3, 5)}, lambda r: all(3 <= n <= 5 for n in counts_of(r))),
    ({"len(orders[*].lines)": 2}, lambda r: all(len(o["lines"]) == 2 for o in r["orders"])),
    ({"address.city": "Ulm"}, lambda r: r["address"]["city"] == "Ulm"),
    ({"address": None}, lambda r: r.get("address") is None),
    ({"address": Not(None)}, lambda r: r["address"] is not None),
]


def counts_of(record: dict) -> list[int]:
    return [line["count"] for order in record["orders"] for line in order.get("lines") or ()]


def as_records(pipe: DiffLMPipeline, **arguments) -> list[dict]:
    texts = pipe(**arguments, output_type="text").records
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize("conditions, holds", CONDITIONS)
def test_all_satisfy(pipe, conditions, holds):
    records = as_records(pipe, num_records=40, conditions=conditions, generator=seeded())
    assert len(records) == 40
    assert all(map(holds, records))


@pytest.mark.parametrize(
    "where, holds",
    [
        ("`len(orders)` >= 2 and level == 'gold'", lambda r: len(r["orders"]) >= 2 and r["level"] == "gold"),
        ("`orders[*].price` < 12 and age in [20, 30]", lambda r: all(o["price"] < 12 for o in r["orders"])),
    ],
)
def test_where(pipe, where, holds):
    assert all(map(holds, as_records(pipe, num_records=40, where=where, generator=seeded())))


def test_prices_lie_inside_their_steps(pipe):
    """Bounds that cut a step of the codec hold, too."""
    conditions = {"len(orders)": 3, "orders[*].price": Between(10.01, 10.9)}
    prices = [o["price"] for r in as_records(pipe, num_records=60, conditions=conditions) for o in r["orders"]]
    assert len(prices) == 180 and min(prices) >= 10.01 and max(prices) <= 10.9
    assert len(set(prices)) > 5


@pytest.mark.slow
def test_as_those_that_satisfy_it_by_chance(pipe):
    """A condition on items says of the records that have them what it does among all records."""
    records = as_records(pipe, num_records=6000, generator=seeded(1))
    chosen = [r for r in records if r["orders"] and all(o["price"] <= 15 for o in r["orders"])]
    conditions = {"orders[*].price": Between(0, 15), "len(orders)": Between(1, 3)}
    asked = as_records(pipe, num_records=2000, conditions=conditions, generator=seeded(2))
    for statistic in (lambda r: len(r["orders"]), lambda r: r["level"]):
        shares = [Counter(map(statistic, of)) for of in (chosen, asked)]
        for value in shares[0] | shares[1]:
            first, second = shares[0][value] / len(chosen), shares[1][value] / len(asked)
            assert abs(first - second) < 5 * np.sqrt(0.25 / len(chosen) + 0.25 / 800)


@pytest.mark.slow
def test_records_do_not_depend_on_the_batch(pipe):
    conditions = {"orders[*].price": Between(5, 40), "level": "gold"}
    records = [
        as_records(pipe, num_records=12, conditions=conditions, generator=seeded(), batch_size=b) for b in (7, 30)
    ]
    assert records[0] == records[1]


def test_score(pipe):
    records = as_records(
        pipe, num_records=50, score=lambda t: t["orders"].map(len).to_numpy() == 1, generator=seeded()
    )
    assert {len(r["orders"]) for r in records} == {1}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"conditions": {"orders": 3}}, r"no field 'orders' .* 'len\(orders\)'"),
        ({"conditions": {"orders[*].colour": "red"}}, "no field"),
        ({"conditions": {"orders[*].tags[*]": "z"}}, "tags.*'z'"),
        ({"conditions": {"orders[*].price": Between(-9, -1)}}, "leaves no value"),
        ({"conditions": {"len(orders)": 99}}, "'orders': 99 is not a value between 0 and 3"),
        ({"conditions": {"address.city": None}}, "never null where 'address' is there"),
        ({"conditions": {"address": "Ulm"}}, "no condition on the object 'address'"),
        ({"conditions": {}}, "there are no conditions"),
        ({"conditions": [{"level": "gold"}]}, "the same for all of them"),
        ({"balance": "level"}, "balance is for rows of tables"),
        ({"where": "`len(orders)` > age"}, "relates fields"),
    ],
)
def test_bad_conditions(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(4, **arguments)


def test_what_is_for_tables_says_so(pipe):
    table = pipe(4, generator=seeded(), output_type="pandas").records
    with pytest.raises(ValueError, match="these have lists"):
        pipe.predict(table, "level")


@pytest.mark.slow
def test_weights(pipe):
    """The weight of a record is the probability of what is allowed, given what is before it."""
    decoder, codec = pipe.vae.decoder, pipe.processor.codec
    condition = NestedCondition.of_records(codec, {"orders[*].tags[*]": ["a", "b"]})
    latents = torch.randn(1, decoder.config.latent_size, generator=seeded()).repeat(4000, 1)
    uniforms = torch.rand(4000, decoder.config.num_uniforms, generator=seeded(1))
    ids = decoder.sample_records(latents, uniforms)
    table, _ = pipe.processor.decode_records(ids, np.zeros((4000, 1)))
    share = np.mean([all({*o["tags"]} <= {"a", "b"} for o in orders) for orders in table["orders"]])
    _, log_weights, _ = decoder.sample_allowed(latents, uniforms, condition.allowed)
    assert abs(float(log_weights.exp().mean()) - share) < 0.03
