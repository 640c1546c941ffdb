"""The largest and smallest numbers of a column under `min_category_count`."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_records import COLUMNS, to_column

from difflm_hf import DataArguments, DiffLMProcessor, RecordSchema
from difflm_hf.records import Ascending, SumOf
from difflm_hf.records.top_coding import top_code
from difflm_hf.training.prepare import prepare_records


NUM = 200


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    pay = pd.Series(random.lognormal(8, 1, NUM).round(2))
    return pd.DataFrame(
        {
            "age": random.integers(18, 99, NUM),
            "pay": pay.where(random.random(NUM) < 0.9),
            "born": pd.Timestamp("1950-01-01") + pd.to_timedelta(random.integers(0, 20_000, NUM), unit="D"),
            "price": [f"{value:.2f} €" for value in random.uniform(0, 99, NUM)],
            "zone": pd.Timestamp("2020-01-01", tz="Europe/Berlin")
            + pd.to_timedelta(random.integers(0, 999, NUM), unit="h"),
            "city": random.choice(["Bonn", "Linz"], NUM),
        }
    )


def test_enough_records_have_the_largest_and_the_smallest(table):
    schema = RecordSchema.infer(table)
    coded_schema, coded = top_code(schema, schema.conform(table), 10)
    for f in coded_schema:
        if not f.is_numeric:
            continue
        before, after = (f.to_numpy(part[f.name].dropna()) for part in (table, coded))
        assert (after == after.min()).sum() >= 10 and (after == after.max()).sum() >= 10
        assert (before != after).sum() <= 18  # nine at each end
        assert (f.bounds[0], f.bounds[1]) == (after.min(), after.max())
    assert coded["pay"].isna().equals(table["pay"].isna())
    assert coded.dtypes.equals(schema.conform(table).dtypes)
    assert coded["city"].equals(table["city"])


def test_no_extreme_is_left_in_the_files(table):
    records = prepare_records(table, args=DataArguments(min_category_count=10))
    for f in records.processor.schema:
        if f.is_numeric:
            numbers = f.to_numpy(records.table[f.name].dropna())
            assert (numbers == numbers.max()).sum() >= 10 and (numbers == numbers.min()).sum() >= 10
            assert f.bounds == (numbers.min(), numbers.max())
            grid = records.processor.codec.tokens[f.name].grid
            assert grid.decode(f, np.array([0, grid.size - 1], np.uint64)).tolist() == [
                numbers.min(),
                numbers.max(),
            ] or (f.type == "datetime")


def test_bounds_that_are_given_stay(table):
    schema = RecordSchema.infer(table)
    records = prepare_records(table, schema=schema, args=DataArguments(min_category_count=10))
    assert records.processor.schema["age"].bounds == schema["age"].bounds


def test_columns_that_rules_tie():
    random = np.random.default_rng(1)
    first, second = random.integers(0, 1000, (2, NUM))
    table = pd.DataFrame(
        {"first": first, "second": second, "total": first + second, "age": random.integers(0, 99, NUM)}
    )
    table["later"] = table["age"] + random.integers(0, 9, NUM)
    schema = RecordSchema.infer(table)
    schema = RecordSchema(schema.fields, [SumOf("total", ["first", "second"]), Ascending(["age", "later"])])
    coded_schema, coded = top_code(schema, table, 5)
    assert coded[["first", "second", "total"]].equals(table[["first", "second", "total"]])
    assert coded["age"].max() < table["age"].max()
    assert coded_schema.check_rules(coded)["num_broken"].sum() == 0


def test_too_few_numbers_are_an_error(table):
    table["rare"] = pd.Series([1.5, 2.5, 3.5])
    with pytest.raises(ValueError, match="column 'rare': only 3 records have numbers or dates, fewer than twice 10"):
        prepare_records(table, args=DataArguments(min_category_count=10))


@given(st.sampled_from([name for name in COLUMNS]), st.integers(1, 4), st.data())
def test_any_column_stays_one_that_can_be_learnt(name, min_count, data):
    values, dtype = COLUMNS[name]
    column = to_column(data.draw(st.lists(values, min_size=12, max_size=30)), dtype)
    table = pd.DataFrame({"x": column})
    schema = RecordSchema.infer(table)
    plain = schema.conform(table)
    try:
        schema, coded = top_code(schema, plain, min_count)
    except ValueError as error:
        assert "fewer than twice" in str(error)
        return
    assert schema.conform(coded).equals(coded)
    assert coded["x"].dtype == plain["x"].dtype
    if min_count == 1:
        assert coded.equals(plain)
    if not schema.is_of_documents and not all(f.type == "null" for f in schema):
        DiffLMProcessor.from_records(coded, schema)(coded)
