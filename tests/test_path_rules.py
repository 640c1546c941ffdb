"""Rules between places of nested values."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import seeded, train

from difflm_hf import DiffLMPipeline, RecordSchema
from difflm_hf.control import Between
from difflm_hf.records import Ascending, Combinations, PresentIf, ProductOf, SumOf, Unique


RULES = [
    # What follows from another rule may come before it.
    SumOf("grand", ["sum(lines[*].total)"]),
    SumOf("lines[*].gross", ["lines[*].total", "lines[*].tax"]),
    ProductOf("lines[*].total", ["lines[*].count", "lines[*].price"]),
    SumOf("num_lines", ["len(lines)"]),
    Ascending(["meta.low", "meta.high"]),
    PresentIf("lines[*].note", "lines[*].kind", ["gift"]),
]


def make_line(rng) -> dict:
    count, price, tax = int(rng.integers(1, 5)), round(float(rng.gamma(2, 10)), 2), int(rng.integers(0, 3))
    line = {"kind": str(rng.choice(["gift", "sale"])), "count": count, "price": price, "tax": float(tax)}
    line |= {"total": round(count * price, 2), "gross": round(count * price + tax, 2)}
    return line | ({"note": "hello"} if line["kind"] == "gift" else {})


def make_records(num: int) -> list[dict]:
    rng = np.random.default_rng(num)
    records = []
    for _ in range(num):
        lines = [make_line(rng) for _ in range(rng.integers(0, 4))]
        low, high = sorted(int(n) for n in rng.integers(0, 50, 2))
        grand = round(sum(line["total"] for line in lines), 2)
        records.append({"lines": lines, "num_lines": len(lines), "meta": {"low": low, "high": high}, "grand": grand})
    return records


def keeps(record: dict) -> bool:
    lines = record["lines"]
    return (
        abs(record["grand"] - sum(line["total"] for line in lines)) < 0.0051
        and record["num_lines"] == len(lines)
        and record["meta"]["low"] <= record["meta"]["high"]
        and all(abs(line["total"] - line["count"] * line["price"]) < 0.0051 for line in lines)
        and all(abs(line["gross"] - line["total"] - line["tax"]) < 0.0051 for line in lines)
        and all("note" not in line or line["kind"] == "gift" for line in lines)
    )


def train_with_rules(folder: Path, nested: str = "rows") -> None:
    records = make_records(500)
    schema = RecordSchema(RecordSchema.infer(records).fields, RULES)
    train(records, folder, schema=schema, recipe="quick", nested=nested)


@pytest.fixture(scope="module")
def pipe(once) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(once("rules on paths", train_with_rules))


@pytest.fixture(scope="module")
def schema() -> RecordSchema:
    records = make_records(500)
    schema = RecordSchema(RecordSchema.infer(records).fields, RULES)
    return schema.fit(schema.conform(records))


@pytest.mark.slow
def test_generated_records_keep_them(pipe):
    records = pipe(60, generator=seeded(3)).records
    assert all(map(keeps, records)) and any(record["lines"] for record in records)


@pytest.mark.slow
def test_documents_keep_them(tmp_path):
    train_with_rules(tmp_path, nested="json")
    assert all(map(keeps, DiffLMPipeline.from_pretrained(tmp_path)(4, generator=seeded(3)).records))


@pytest.mark.slow
def test_with_conditions(pipe):
    asked = {"lines[*].total": Between(10, 40), "len(lines)": Between(1, 2)}
    records = pipe(40, conditions=asked, generator=seeded(1)).records
    assert all(map(keeps, records))
    assert all(10 <= line["total"] <= 40 for record in records for line in record["lines"])
    # Of what is known, the others follow.
    records = pipe(20, conditions={"lines[*].total": 30.0, "lines[*].count": 2, "num_lines": 1}).records
    assert all(map(keeps, records)) and {record["num_lines"] for record in records} == {1}
    assert all(line["price"] == 15.0 for record in records for line in record["lines"])


def test_data_are_checked_and_left_alone(schema):
    records = make_records(500)[:200]
    table = schema.conform(records)
    before = copy.deepcopy(table.to_dict("records"))
    assert (schema.check_rules(records)["num_broken"] == 0).all() and schema.holds(table).all()
    assert schema.derive(table).to_dict("records") == before == table.to_dict("records")

    broken = copy.deepcopy(records)
    for record in broken:
        record["num_lines"] = 99
        for line in record["lines"]:
            line |= {"total": 0.0, "kind": "sale"}
    wrong = table.assign(lines=[r["lines"] for r in broken], num_lines=99)
    assert schema.holds(wrong).sum() == 0
    given = copy.deepcopy(wrong.to_dict("records"))
    assert all(map(keeps, schema.derive(wrong).to_dict("records")))
    assert wrong.to_dict("records") == given  # what was given is as it was
    found = schema.check_rules(broken).set_index("rule")["num_broken"]
    with_lines = sum(bool(record["lines"]) for record in records)
    assert found[str(RULES[2])] == with_lines and found[str(RULES[3])] == 200 and found[str(RULES[4])] == 0


def test_dtypes_stay():
    records = [{"rate": 2, "total": 2 * n, "items": [{"n": n}]} for n in range(40)]
    schema = RecordSchema(RecordSchema.infer(records).fields, [ProductOf("total", ["rate", "sum(items[*].n)"])])
    table = schema.conform(records)
    derived = schema.fit(table).derive(table.assign(total=0))
    assert derived.equals(table) and derived.dtypes.equals(table.dtypes)


def test_saved(schema):
    assert RecordSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_depth():
    """Lists in lists, whose sums go up step by step."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(100):
        orders = []
        for _ in range(rng.integers(0, 3)):
            amounts = [{"amount": int(n)} for n in rng.integers(0, 9, rng.integers(0, 3))]
            orders.append({"lines": amounts, "sum": sum(a["amount"] for a in amounts)})
        records.append({"orders": orders, "sum": sum(order["sum"] for order in orders), "other": 1})
    fields = RecordSchema.infer(records).fields
    schema = RecordSchema(
        fields,
        [SumOf("sum", ["sum(orders[*].sum)"]), SumOf("orders[*].sum", ["sum(orders[*].lines[*].amount)"])],
    )
    table = schema.conform(records)
    schema = schema.fit(table)
    assert schema.holds(table).all()
    wrong = table.assign(sum=0, orders=[[{**order, "sum": -1} for order in record["orders"]] for record in records])
    assert schema.derive(wrong).to_dict("records") == records
    # Without what lies between, too.
    direct = RecordSchema(fields, [SumOf("sum", ["sum(orders[*].lines[*].amount)"])])
    assert direct.fit(table).derive(table.assign(sum=0))["sum"].tolist() == table["sum"].tolist()


@pytest.mark.parametrize(
    "rule, message",
    [
        (SumOf("grand", ["lines[*].total"]), "in different lists; relate items by sum"),
        (Ascending(["lines[*].count", "num_lines"]), "in different lists"),
        (SumOf("lines[*].total", ["lines[*].count", "lines[*].kind"]), "is of type category"),
        (Ascending(["lines[*].count", "lines[*].odd"]), r"nothing stands at 'lines\[\*\].odd'"),
        (SumOf("lines[*].total", ["sum(meta.low)"]), "not in those of"),
        (SumOf("grand", ["sum(meta.low)"]), "is of a single value"),
        (SumOf("grand", ["sum(lines[*].odd)"]), r"nothing stands at 'sum\(lines\[\*\].odd\)'"),
        (SumOf("grand", ["sum(lines[*].kind)"]), "is of type category"),
        (SumOf("lines[*]", ["num_lines"]), "is an item by itself|in different lists"),
        (PresentIf("lines[*].kind", "lines[*].note", ["hello"]), "is never null"),
        (PresentIf("len(lines)", "meta.low", [1]), "is computed"),
        (Unique(["lines[*].count"]), "is of columns of records, and not of paths"),
        (Combinations(["lines[*].kind", "lines[*].count"]), "is of columns of records"),
        (Ascending(["lines[*]..count", "lines[*].total"]), "no path"),
        (Ascending(["nowhere", "grand"]), "no column 'nowhere'"),
    ],
)
def test_rules_that_do_not_suit(rule, message):
    records = make_records(300)
    with pytest.raises(ValueError, match=message):
        schema = RecordSchema(RecordSchema.infer(records).fields, [rule])
        schema.fit(schema.conform(records))


def test_a_fraction_among_whole_numbers(schema):
    records = make_records(500)[:20]
    next(record for record in records if record["lines"])["lines"][0]["count"] = 2.5
    with pytest.raises(ValueError, match=r"column 'lines\[\*\].count': 2.5 is no whole number"):
        schema.check_rules(records)


def test_broken_data_are_an_error(tmp_path):
    records = make_records(300)
    records[7]["num_lines"] += 1
    schema = RecordSchema(RecordSchema.infer(records).fields, RULES)
    with pytest.raises(ValueError, match=r"1 of 300 records break the rule SumOf\('num_lines'.*row 7"):
        train(records, tmp_path, schema=schema, recipe="quick", nested="rows")
