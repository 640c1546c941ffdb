"""Tables that belong together, and lists that ascend."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny import seeded, train

from difflm_hf import DiffLMProcessor
from difflm_hf.records import RecordSchema
from difflm_hf.records.ordered_columns import OrderedColumn


ON = {"orders": "customer_id", "orders.lines": "order_id", "visits": "customer_id"}


def make_tables(num: int = 150, seed: int = 0) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    rng = np.random.default_rng(seed)
    customers = pd.DataFrame(
        {
            "customer_id": [f"C-{i:04d}" for i in rng.permutation(num)],
            "age": rng.integers(18, 90, num),
            "kind": pd.Categorical(rng.choice(["a", "b"], num)),
        }
    )
    orders = pd.DataFrame(
        {
            "order_id": np.arange(3 * num) + 7,
            "customer_id": rng.choice(customers["customer_id"][:-5], 3 * num),
            "price": np.round(rng.gamma(2, 10, 3 * num), 2),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, 3 * num), unit="D"),
            "is_paid": pd.array(rng.choice([True, False, None], 3 * num), dtype="boolean"),
        }
    ).sort_values(["day", "order_id"], ignore_index=True)
    lines = pd.DataFrame(
        {"order_id": rng.choice(orders["order_id"], 400), "n": rng.integers(1, 5, 400).astype("int8")}
    )
    visits = pd.DataFrame(
        {"customer_id": rng.choice(customers["customer_id"], 300), "page": rng.choice([*"xyz"], 300)}
    )
    return customers, {"orders": orders, "orders.lines": lines, "visits": visits}


@pytest.fixture(scope="module")
def tables():
    return make_tables()


@pytest.fixture(scope="module")
def schema(tables) -> RecordSchema:
    return RecordSchema.from_tables(*tables, on=ON)


class TestTables:
    def test_there_and_back(self, schema, tables):
        customers, children = tables
        parents, found = schema.to_tables(schema.from_parents(customers, children))
        pd.testing.assert_frame_equal(parents, customers)
        assert found.keys() == children.keys()
        for name, table in found.items():
            assert table.dtypes.to_dict() == children[name].dtypes.to_dict()
            assert list(table.columns) == list(children[name].columns)
        # Parents as they stand, children in their order; their own keys are new.
        place = {key: i for i, key in enumerate(customers["customer_id"])}
        orders = children["orders"]
        expected = orders.iloc[orders["customer_id"].map(place).argsort(kind="stable")].reset_index(drop=True)
        pd.testing.assert_frame_equal(found["orders"].drop(columns="order_id"), expected.drop(columns="order_id"))
        assert found["orders"]["order_id"].is_unique
        sums = found["orders.lines"].groupby("order_id")["n"].sum()
        renamed = dict(zip(expected["order_id"], found["orders"]["order_id"]))
        assert sums.to_dict() == children["orders.lines"].groupby("order_id")["n"].sum().rename(renamed).to_dict()

    def test_saved(self, schema):
        assert RecordSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema

    def test_one_table(self):
        with pytest.raises(ValueError, match="make it by RecordSchema.from_tables"):
            RecordSchema.infer(pd.DataFrame({"a": [1, 2]})).to_tables(pd.DataFrame({"a": [1]}))

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda p, c: p.assign(customer_id="C-0001"), "has 'C-0001' twice; a key names one row"),
            (lambda p, c: p.iloc[1:], "orders: row .* belongs to customer_id = .* has no row of"),
            (lambda p, c: p.assign(customer_id=p["customer_id"].where(p.index > 0)), "is null in row 0"),
            (lambda p, c: p.rename(columns={"customer_id": "id"}), "has no column 'customer_id'"),
            (lambda p, c: p.assign(orders=1), "'orders' is a column of the table it belongs to"),
        ],
    )
    def test_bad_parents(self, tables, change, message):
        with pytest.raises(ValueError, match=message):
            RecordSchema.from_tables(change(*tables), tables[1], on=ON)

    @pytest.mark.parametrize(
        "children, on, message",
        [
            ({}, "customer_id", "no child tables"),
            ({"orders.lines": None}, {"orders.lines": "order_id"}, "belongs to 'orders', which is no table"),
            (
                {"visits": None, "orders": None, "orders.lines": None},
                "customer_id",
                "on says nothing of 'orders.lines'",
            ),
            (
                {"visits": None, "orders": None},
                {"visits": "age", "orders": "customer_id"},
                "use one key|no column 'age'",
            ),
        ],
    )
    def test_bad_children(self, tables, children, on, message):
        with pytest.raises(ValueError, match=message):
            RecordSchema.from_tables(tables[0], {name: tables[1][name] for name in children}, on=on)

    def test_keys_without_a_pattern(self, tables):
        customers, children = tables
        names = {key: "x" * (i + 1) for i, key in enumerate(customers["customer_id"])}
        renamed = customers.replace({"customer_id": names})
        with pytest.raises(ValueError, match="follow no pattern; number them"):
            RecordSchema.from_tables(
                renamed, {"visits": children["visits"].replace({"customer_id": names})}, "customer_id"
            )


class TestGenerated:
    @pytest.fixture(scope="class")
    def pipe(self, tables, schema, tmp_path_factory):
        records = schema.from_parents(*tables)
        return train(records, tmp_path_factory.mktemp("tables"), recipe="quick", schema=schema, nested="rows")

    def test_keys_fit(self, pipe, tables):
        records = pipe(400, generator=seeded(), output_type="pandas").records
        parents, children = pipe.processor.schema.to_tables(records)
        assert parents["customer_id"].is_unique and len(parents) == 400
        assert parents.dtypes.to_dict() == tables[0].dtypes.to_dict()
        for name, key, above in (
            ("orders", "customer_id", parents),
            ("visits", "customer_id", parents),
            ("orders.lines", "order_id", children["orders"]),
        ):
            assert children[name][key].isin(above[key]).all()
            assert len(children[name]) > 0
        assert children["orders"]["order_id"].is_unique

    def test_days_ascend(self, pipe):
        codec = pipe.processor.codec
        assert list(codec.ordered) == ["orders[*].day"]
        _, children = pipe.processor.schema.to_tables(pipe(400, generator=seeded(1), output_type="pandas").records)
        orders = children["orders"]
        assert (orders.groupby("customer_id")["day"].diff().dropna() >= pd.Timedelta(0)).all()
        assert (orders["day"] == orders["day"].dt.floor("D")).all()


class TestOrderedColumn:
    LISTS = np.repeat(np.arange(20), 5)

    @pytest.mark.parametrize(
        "values",
        [
            pd.Series(np.tile([0, 2, 2, 8, 10], 20) + 4),
            pd.Series(np.tile([0.25, 0.5, 0.75, 1.25, 3.0], 20)),
            pd.Series(np.tile(["2024-01-01", "2024-01-03", "2024-02-01", "2024-02-02", "2025-01-01"], 20)),
        ],
    )
    def test_exact(self, values):
        values = values.astype(object)
        column = OrderedColumn.find("t", values, self.LISTS)
        gaps = column.to_gaps(values, self.LISTS)
        assert min(gaps) == 0 and all(isinstance(gap, int) for gap in gaps)
        assert column.from_gaps(gaps, self.LISTS).tolist() == values.tolist()
        loaded = OrderedColumn.from_dict(json.loads(json.dumps(column.to_dict())))
        assert loaded.to_gaps(values, self.LISTS).tolist() == gaps.tolist()

    def test_units(self):
        values = pd.Series(np.tile([0, 20, 20, 80, 100], 20) + 40, dtype=object)
        column = OrderedColumn.find("t", values, self.LISTS)
        assert (column.first, column.last, column.unit) == (40, 140, 20)
        lists = np.zeros(4, int)
        assert column.from_gaps(pd.Series([1, 3, 4, 0]), lists).tolist() == [60, 120, 140, 140]
        with pytest.raises(ValueError, match="lies between two steps of 20"):
            column.to_gaps(pd.Series([40, 45], dtype=object), np.zeros(2, int))

    @pytest.mark.parametrize(
        "values",
        [
            np.tile([4, 3, 2, 1, 0], 20),  # descending
            np.tile([1, 1, 1, 1, 1], 20),  # all equal
            np.concatenate([np.tile([0, 1, 2, 3, 4], 19), [0, 1, 2, 4, 3]]),
            np.tile([*"abcde"], 20),
            np.tile([False, False, True, True, True], 20),
        ],
    )
    def test_what_does_not_ascend(self, values):
        assert OrderedColumn.find("t", pd.Series(values).astype(object), self.LISTS) is None

    def test_chance(self):
        values, lists = pd.Series([1, 2, 3, 1, 2, 5], dtype=object), np.array([0, 0, 0, 1, 1, 1])
        assert OrderedColumn.find("t", values, lists) is None

    def test_time_that_runs_backwards(self):
        records = [{"events": [{"t": t, "k": k} for t, k in zip([1, 4, 9], "abc")]} for _ in range(30)]
        processor = DiffLMProcessor.from_records(records, nested="rows")
        assert list(processor.codec.ordered) == ["events[*].t"]
        with pytest.raises(ValueError, match=r"column 'events\[\*\].t'.*4 is below the one before it in its list"):
            processor([{"events": [{"t": t, "k": "a"} for t in (1, 9, 4)]}])

    def test_times_that_add_up_to_more_than_64_bits(self):
        values, lists = pd.Series([10**18 * k for k in (0, 1, 2, 4)] * 20, dtype=object), np.repeat(np.arange(20), 4)
        column = OrderedColumn.find("t", values, lists)
        found = column.from_gaps(pd.Series([3, 3, 3, 3] * 20), lists).tolist()
        assert found == [3 * 10**18, *[4 * 10**18] * 3] * 20
        wide = pd.Series([-9 * 10**18, 9 * 10**18] * 50, dtype=object)
        assert OrderedColumn.find("t", wide, np.arange(100) // 2) is None


class TestKeys:
    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "Int8"])
    def test_narrow_keys(self, dtype, tmp_path):
        rng = np.random.default_rng(0)
        parents = pd.DataFrame({"id": pd.Series(np.arange(100), dtype=dtype), "kind": rng.choice([*"ab"], 100)})
        keys = pd.Series(rng.permutation(100), dtype=dtype)
        children = pd.DataFrame({"id": pd.Series(rng.integers(0, 100, 100), dtype=dtype), "own": keys, "n": keys % 3})
        schema = RecordSchema.from_tables(parents, {"orders": children}, "id")
        records = schema.from_parents(parents, {"orders": children})
        pipe = train(records, tmp_path, recipe="quick", schema=schema, nested="rows")
        parents, found = pipe.processor.schema.to_tables(pipe(400, output_type="pandas", generator=seeded()).records)
        assert parents["id"].is_unique and found["orders"]["own"].is_unique
        assert found["orders"]["id"].isin(parents["id"]).all()

    def test_own_keys_in_another_order(self):
        rng = np.random.default_rng(0)
        parents = pd.DataFrame({"id": range(50)})
        children = pd.DataFrame({"oid": rng.permutation(600) + 1, "id": rng.integers(0, 50, 600), "n": 1})
        [rule] = [r for r in RecordSchema.from_tables(parents, {"orders": children}, "id").rules if hasattr(r, "key")]
        assert rule.key == "oid"

    def test_rare_categories_are_named_nowhere(self, tmp_path):
        rng = np.random.default_rng(0)
        parents = pd.DataFrame({"id": range(300), "kind": rng.choice([*"ab"], 300)})
        items = ["RARE" if i < 3 else "abc"[i % 3] for i in range(900)]
        children = pd.DataFrame({"id": rng.integers(0, 300, 900), "item": items})
        schema = RecordSchema.from_tables(parents, {"orders": children}, "id")
        records = schema.from_parents(parents, {"orders": children})
        pipe = train(records, tmp_path, recipe="quick", schema=schema, nested="rows", min_category_count=5)
        assert "RARE" not in json.dumps(pipe.processor.to_dict(), default=str)
