"""What goes into a codec comes out of it, and whatever comes out is what the schema allows."""

import json
import re
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import jsonschema
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from difflm_hf import DiffLMProcessor
from difflm_hf.records import (
    CODECS,
    CompactCodec,
    Field,
    JSONCodec,
    RecordCodec,
    RecordSchema,
    read_table,
    write_table,
)
from difflm_hf.records.field import isoformat
from difflm_hf.records.json_schema import field_to_json_schema


thorough = settings()

DATETIME_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d %b %Y",
    "%Y-%m-%dT%H:%M:%S+01:00",
    "%I:%M %p",
    "%H:%M:%S",
    "%H:%M",
)

LOOKALIKES = [
    "",
    " ",
    "⟨s⟩",
    "⟨/s⟩",
    "⟨pad⟩⟨null⟩",
    "</s>",
    "<|endoftext|>",
    "⟨a:0⟩",
    "null",
    "NaN",
    "👍🏽",
    "a\r\nb\0",
]
INT64 = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1))
NULL = st.none()

# The values and the dtype of a column of every kind.
COLUMNS = {
    "int8": (st.integers(-5, 5), "int8"),
    "int64": (INT64, "int64"),
    "hundreds": (st.integers(-1000, 1000).map(lambda i: 100 * i), "int64"),
    "uint64": (st.integers(0, 2**63 - 1), "uint64"),
    "Int64": (INT64 | NULL, "Int64"),
    "object integers": (INT64 | NULL, "object"),
    "cents": (st.integers(-(10**6), 10**6).map(lambda i: i / 100) | NULL, "float64"),
    "float64": (st.floats(allow_nan=False, allow_infinity=False), "float64"),
    "extreme": (st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e300, -1e300, 0.1, 1 / 3]) | NULL, "float64"),
    "float32": (st.floats(width=32, allow_nan=False, allow_infinity=False) | NULL, "float32"),
    "Float64": (st.floats(-1, 1) | NULL, "Float64"),
    "bool": (st.booleans(), "bool"),
    "boolean": (st.booleans() | NULL, "boolean"),
    "object booleans": (st.booleans() | NULL, "object"),
    "strings": (st.sampled_from(["red", "grün", "青", ""]) | NULL, "object"),
    "category": (st.sampled_from(["red", "grün", "青"]) | NULL, pd.CategoricalDtype(["青", "grün", "red", "unused"])),
    "ordered": (st.integers(1, 3), pd.CategoricalDtype([3, 1, 2], ordered=True)),
    "datetime64[ns]": (st.integers(-(2**63) + 1, 2**63 - 1) | NULL, "datetime64[ns]"),
    "datetime64[s]": (MOMENTS | NULL, "datetime64[s]"),
    "datetime64[us]": (MOMENTS, "datetime64[us]"),
    "Berlin": (MOMENTS | NULL, "datetime64[ns, Europe/Berlin]"),
    "UTC": (MOMENTS, "datetime64[ms, UTC]"),
    "text": (st.text(max_size=20) | st.sampled_from(LOOKALIKES) | NULL, "object"),
    "string": (st.sampled_from(LOOKALIKES) | NULL, "string"),
    "null": (NULL, "object"),
    "null float64": (NULL, "float64"),
    "null datetime": (NULL, "datetime64[ns]"),
} | {
    format: (MOMENTS.map(lambda moment, format=format: moment.strftime(format)) | NULL, "object")
    for format in DATETIME_FORMATS
}


def to_column(values: list, dtype) -> pd.Series:
    if "datetime64" in str(dtype) and ", " in str(dtype):
        zone = pd.api.types.pandas_dtype(dtype).tz
        return pd.Series(pd.to_datetime(values, utc=True)).dt.tz_convert(zone).astype(dtype)
    return pd.Series(values, dtype="object").astype(dtype)


@st.composite
def tables(draw):
    num_records = draw(st.integers(1, 30))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=5))
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=len(kinds), max_size=len(kinds), unique=True))
    table = {}
    for name, kind in zip(names, kinds):
        values, dtype = COLUMNS[kind]
        table[name] = to_column(draw(st.lists(values, min_size=num_records, max_size=num_records)), dtype)
    return pd.DataFrame(table)


def wide_table(seed: int, num_records: int = 400) -> pd.DataFrame:
    """Numbers with more values than tokens: heavy ones, copies, nulls, and the ends of what 64 bits hold."""
    rng = np.random.default_rng(seed)
    seconds, days = rng.integers(0, 10**9, num_records), rng.integers(0, 9999, num_records)
    bill = rng.integers(0, 10**6, num_records)
    table = pd.DataFrame(
        {
            "amount": np.where(rng.random(num_records) < 0.3, 0.0, rng.integers(-5000, 5000, num_records) / 100),
            "bill": bill,
            "paid": np.where(rng.random(num_records) < 0.3, bill, rng.integers(-(10**4), 10**5, num_records) * 3),
            "float": rng.normal(size=num_records) * 10.0 ** rng.integers(-300, 300, num_records),
            "float32": rng.normal(size=num_records).astype("float32"),
            "int64": rng.integers(-(2**63), 2**63 - 1, num_records, endpoint=True),
            "moment": pd.Timestamp("2020-01-01", tz="Asia/Tokyo") + pd.to_timedelta(seconds, "s"),
            "day": (pd.Timestamp("2000-01-01") + pd.to_timedelta(days, "D")).strftime("%Y-%m-%d"),
        }
    )
    table.loc[0, "int64"], table.loc[1, "int64"] = -(2**63), 2**63 - 1
    for name in ("float", "moment", "day"):
        table.loc[rng.random(num_records) < 0.1, name] = None
    return table


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def assert_round_trip(table: pd.DataFrame, **kwargs) -> tuple[CompactCodec, PreTrainedTokenizerFast]:
    """Through both codecs, and these through JSON; every id lies where it may."""
    schema = RecordSchema.infer(table)
    codec, tokenizer = CompactCodec.fit(schema, table, **kwargs)
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    restored = CompactCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    for one in (codec, restored):
        assert_same(one.decode(ids, tokenizer, within_bin_offsets), table)
    for a, b in zip(restored.encode(table, tokenizer), (ids, within_bin_offsets)):
        np.testing.assert_array_equal(a, b)

    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert ids.shape[1] == codec.max_length and ids.max() < codec.vocab_size == len(tokenizer)
    for position in range(1, ids.shape[1]):
        start, end = codec.position_ranges[min(position, len(codec.position_ranges)) - 1]
        column = ids[:, position]
        padding = (column == tokenizer.pad_token_id) & (position > codec.num_fixed)
        assert ((start <= column) & (column < end) | padding).all()

    json_codec = JSONCodec.from_dict(json.loads(json.dumps(JSONCodec(schema).to_dict())))
    decoded, valid = json_codec.decode(json_codec.encode(table))
    assert valid.all()
    assert_same(decoded, table)
    assert_valid(schema, table)
    return codec, tokenizer


def assert_valid(schema: RecordSchema, table: pd.DataFrame) -> None:
    validator = jsonschema.Draft202012Validator(schema.to_json_schema())
    for text in JSONCodec(schema).encode(table):
        validator.validate(json.loads(text))


def decode_any(codec: CompactCodec, tokenizer, seed: int, num_records: int = 50) -> pd.DataFrame:
    """A table of whatever ids and within_bin_offsets there may be."""
    rng = np.random.default_rng(seed)
    ids = np.full((num_records, codec.max_length + 3 * len(codec.texts)), tokenizer.bos_token_id)
    for position in range(1, ids.shape[1]):
        start, end = codec.position_ranges[min(position, len(codec.position_ranges)) - 1]
        ids[:, position] = rng.integers(start, end, num_records)
        if position > codec.num_fixed:
            ids[rng.random(num_records) < 0.2, position] = tokenizer.eos_token_id
    within_bin_offsets = rng.choice([0.0, 0.5, np.nextafter(1, 0), rng.random()], (num_records, len(codec.binned)))
    return codec.decode(ids, tokenizer, within_bin_offsets)


@thorough
@given(tables())
def test_tables_come_back_exactly(table):
    assert_round_trip(table)


@thorough
@given(tables())
def test_tables_come_back_exactly_with_few_tokens(table):
    assert_round_trip(table, max_values=2, num_bins=3, num_steps=2, min_records=1, min_copies=0.1)


@thorough
@given(tables(), st.integers(0, 2**32 - 1))
def test_any_ids_make_valid_records(table, seed):
    schema = RecordSchema.infer(table)
    codec, tokenizer = CompactCodec.fit(schema, table, max_values=2, num_bins=3, num_steps=2, min_records=1)
    generated = decode_any(codec, tokenizer, seed)
    assert generated.dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()
    assert_valid(schema, generated)


@pytest.mark.parametrize(
    "num_bins, num_steps, min_records", [(64, 32, 8), (64, 32, 1), (1, 1, 1), (7, 1, 50), (3, 9, 5)]
)
def test_wide_numbers_in_bins(num_bins, num_steps, min_records):
    table = wide_table(num_bins)
    codec, tokenizer = assert_round_trip(table, num_bins=num_bins, num_steps=num_steps, min_records=min_records)
    assert codec.binned == table.columns.tolist()
    assert all(t.bins.num_bins <= num_bins and t.bins.num_steps <= num_steps for t in codec.tokens.values())
    generated = decode_any(codec, tokenizer, seed=0, num_records=200)
    assert_valid(codec.schema, generated)
    for name in table:
        seen, values = table[name].dropna(), generated[name].dropna()
        assert values.between(seen.min(), seen.max()).all()


def test_steps_hold_equally_many_records():
    table = pd.DataFrame({"x": np.random.default_rng(0).uniform(size=2048)})
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table, num_bins=16, num_steps=16, min_records=16)
    ids, _ = codec.encode(table, tokenizer)
    assert np.unique(ids, axis=0, return_counts=True)[1].tolist() == [16] * 128


def test_remainders_place_a_number_inside_its_step():
    table = pd.DataFrame({"x": np.arange(1000)})
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table, num_bins=10, num_steps=10)
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    assert set(within_bin_offsets[:, 0].tolist()) == set(range(10))
    low = codec.decode(ids, tokenizer, np.zeros((1000, 1)))["x"]
    high = codec.decode(ids, tokenizer, np.full((1000, 1), np.nextafter(1, 0)))["x"]
    assert (low == table["x"] // 10 * 10).all() and (high == table["x"] // 10 * 10 + 9).all()


def test_heavy_values_have_tokens_of_their_own():
    table = wide_table(0)
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    tokens = codec.tokens["amount"]
    assert tokens.grid.decode(codec.schema["amount"], np.array(tokens.values, np.uint64)).tolist() == [0.0]
    ids, _ = codec.encode(table, tokenizer)
    np.testing.assert_array_equal(ids[:, 1] == tokens.start, table["amount"] == 0)


def test_values_are_heavy_beside_those_that_are_not():
    codec, _ = assert_round_trip(pd.DataFrame({"x": [0] * 1000 + [1] * 15 + list(range(2, 302))}))
    assert codec.tokens["x"].values == [0, 1]


def test_numbers_all_of_which_are_heavy_need_no_bins():
    codec, _ = assert_round_trip(pd.DataFrame({"x": list(range(10)) * 20}), max_values=5, num_bins=20)
    assert codec.binned == [] and len(codec.tokens["x"].values) == 10


def test_copies_of_earlier_fields():
    table = wide_table(0)
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    tokens = codec.tokens["paid"]
    assert tokens.copies == ["bill"]
    copy_id = tokens.start + tokens.num_coarse(codec.schema["paid"]) - 1
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    position = 1 + table.columns.get_loc("paid")
    np.testing.assert_array_equal(ids[:, position] == copy_id, table["paid"] == table["bill"])

    # A copy follows its source, as far as its own bounds go.
    ids[:, position] = copy_id
    copied = codec.decode(ids, tokenizer, within_bin_offsets)["paid"]
    assert (copied == table["bill"].clip(table["paid"].min(), table["paid"].max())).all()


def test_copies_are_equal_values_whatever_the_grids():
    even = np.arange(0, 2000, 2)
    table = pd.DataFrame({"even": even, "odd": even + 1, "mixed": np.where(even % 10 == 0, even, even + 1)})
    codec, _ = assert_round_trip(table)
    assert [t.copies for t in codec.tokens.values()] == [[], [], ["odd", "even"]]


def test_values_between_those_seen_come_back_too():
    table = pd.DataFrame({"x": np.arange(0, 4000, 4), "y": 0.5 * np.arange(1000)})
    table.loc[1, "x"] = 5
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    unseen = pd.DataFrame({"x": [7, 3995, 0], "y": [0.5, 499.5, 3.0]})
    ids, within_bin_offsets = codec.encode(unseen, tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), unseen)


def test_layout_of_a_record():
    table = wide_table(0).assign(text=[f"text {i}" for i in range(400)], kind=["a", "b"] * 200, nothing=None)
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    assert codec.num_fixed == 8 + 1 + 8 and codec.max_length == 1 + codec.num_fixed + codec.max_text_tokens
    assert tokenizer.convert_ids_to_tokens(range(4)) == ["⟨pad⟩", "⟨s⟩", "⟨null⟩", "⟨/s⟩"]
    *fixed, (first_text, last_text) = codec.position_ranges
    assert first_text == tokenizer.eos_token_id, "no text is null, so none may be"
    ends = sorted([*fixed, (0, last_text)])
    assert [start for start, _ in ends[1:]] == [end for _, end in ends[:-1]], "no id is shared or wasted"
    assert ends[-1][1] == codec.vocab_size


def test_the_index_of_a_table_does_not_matter():
    table = wide_table(0, 20)
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    indexed = table.set_index(pd.Index([0] * 20))
    np.testing.assert_array_equal(codec.encode(indexed, tokenizer)[0], codec.encode(table, tokenizer)[0])
    assert JSONCodec(codec.schema).encode(indexed) == JSONCodec(codec.schema).encode(table)


def test_the_dtypes_of_a_table_do_not_matter():
    table = wide_table(0, 20).drop(columns="float32").assign(time=pd.date_range("2020-01-01", periods=20, freq="h"))
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    for other in (
        table.astype(object),
        table.astype({"moment": str, "time": str}).replace("NaT", None),
        table.astype({"bill": "float64", "int64": "Int64", "float": "Float64", "day": "string"}),
    ):
        np.testing.assert_array_equal(codec.encode(other, tokenizer)[0], codec.encode(table, tokenizer)[0])
        assert JSONCodec(codec.schema).encode(other) == JSONCodec(codec.schema).encode(table)


def test_texts_that_look_like_special_tokens():
    table = pd.DataFrame({"text": LOOKALIKES, "other": [text * 2 for text in LOOKALIKES]})
    codec, tokenizer = assert_round_trip(table)
    ids, _ = codec.encode(table, tokenizer)
    assert ((ids == tokenizer.eos_token_id).sum(axis=1) == 2).all()


def test_an_empty_table_encodes_to_nothing():
    table = wide_table(0, 20).assign(text=[f"{i}" for i in range(20)])
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    ids, within_bin_offsets = codec.encode(table.iloc[:0], tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), table.iloc[:0])
    json_codec = JSONCodec(codec.schema)
    assert json_codec.encode(table.iloc[:0]) == []
    assert_same(json_codec.decode([])[0], table.iloc[:0])


# JSON


def test_json_keeps_order_and_digits():
    table = pd.DataFrame({"b": [0.1], "a": [3], "c": np.array([0.1], "float32"), "d": ["grün"], "e": [10.0]})
    (text,) = JSONCodec(RecordSchema.infer(table)).encode(table)
    assert text == '{"b": 0.1, "a": 3, "c": 0.1, "d": "grün", "e": 10.0}'


YEAR = {"minimum": "2020-01-01T00:00:00", "maximum": "2020-12-31T00:00:00"}
JSON_SCHEMA = RecordSchema(
    [
        Field("age", "integer", dtype="int64", minimum=17, maximum=90),
        Field("price", "number", dtype="float64", minimum=0.0, maximum=9.5),
        Field("color", "category", nullable=True, categories=["red", "green"]),
        Field("member", "boolean", dtype="bool"),
        Field("day", "datetime", nullable=True, format="%Y-%m-%d", **YEAR),
        Field("at", "datetime", dtype="datetime64[ns, UTC]", **YEAR),
        Field("note", "text", max_length=5),
        Field("empty", "null", nullable=True),
    ]
)
JSON_RECORD = {
    "age": 17,
    "price": 1,
    "color": None,
    "member": True,
    "day": None,
    "at": "2020-05-05T00:00:00+02:00",
    "note": "",
    "empty": None,
}


def test_json_decodes_valid_records():
    records = [JSON_RECORD, JSON_RECORD | {"day": "2020-02-29", "color": "red", "note": "🙂" * 5}]
    table, valid = JSONCodec(JSON_SCHEMA).decode(["no json", *map(json.dumps, records), "{}"])
    assert valid.tolist() == [False, True, True, False]
    assert table["price"].tolist() == [1.0, 1.0] and table["day"].tolist() == [None, "2020-02-29"]
    assert table["at"][0] == pd.Timestamp("2020-05-04T22:00:00Z")
    assert table.dtypes.astype(str).tolist() == [f.dtype for f in JSON_SCHEMA]
    assert_valid(JSON_SCHEMA, table)


@pytest.mark.parametrize(
    "changes",
    [
        {"age": 16},
        {"age": 91},
        {"age": 17.0},
        {"age": "17"},
        {"age": True},
        {"age": None},
        {"age": 10**400},
        {"age": [17]},
        {"price": 9.51},
        {"price": float("nan")},
        {"price": float("inf")},
        {"price": 10**400},
        {"price": "1"},
        {"color": "blue"},
        {"color": ["red"]},
        {"color": {}},
        {"member": 1},
        {"member": None},
        {"day": "2020-1-1"},
        {"day": "2019-12-31"},
        {"day": "2020-02-30"},
        {"day": "today"},
        {"day": 20200101},
        {"at": "now"},
        {"at": "2020-05-05T00:00:00"},
        {"at": "2020-05-05"},
        {"at": "2021-01-01T00:00:01Z"},
        {"at": "9999-01-01T00:00:00Z"},
        {"note": "123456"},
        {"note": "\ud83d"},
        {"note": 1},
        {"empty": 0},
        {"new": 1},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_json_drops_invalid_records(changes):
    text = json.dumps(JSON_RECORD | changes)
    table, valid = JSONCodec(JSON_SCHEMA).decode([text, json.dumps(JSON_RECORD)])
    assert valid.tolist() == [False, True] and len(table) == 1


@pytest.mark.parametrize("text", ["", "[", "[" * 10**5, "[]", "null", '"age"', "1" * 5000, '{"age": 17'])
def test_json_drops_what_does_not_parse(text):
    table, valid = JSONCodec(JSON_SCHEMA).decode([text])
    assert valid.tolist() == [False] and table.columns.tolist() == JSON_SCHEMA.names and len(table) == 0


def test_json_of_datetimes_with_and_without_time_zones():
    schema = RecordSchema([Field("local", "datetime", dtype="datetime64[ns]")])
    offsets = ["", "+01:00", "+02:00", "Z", "-05:30"]
    table, valid = JSONCodec(schema).decode([json.dumps({"local": f"2020-01-01T12:00:00{end}"}) for end in offsets])
    assert valid.tolist() == [True, False, False, False, False]
    assert table["local"].tolist() == [pd.Timestamp("2020-01-01T12:00:00")]


@pytest.mark.parametrize(
    "time, text",
    [("1890-01-01T12:00", "1890-01-01T11:06:32+00:00"), ("2020-01-01T12:00", "2020-01-01T12:00:00+01:00")],
)
def test_isoformat_has_no_offsets_with_seconds(time, text):
    assert isoformat(pd.Timestamp(time, tz=ZoneInfo("Europe/Berlin"))) == text


# Schemas


@pytest.mark.parametrize(
    "values, type, expected",
    [
        ([3, 1, 2], "integer", {"minimum": 1, "maximum": 3, "decimals": 0}),
        ([0.25, -1.5, 3.0], "number", {"minimum": -1.5, "maximum": 3.0, "decimals": 2}),
        ([1 / 3, 1.0], "number", {"minimum": 1 / 3, "maximum": 1.0}),
        ([1, None], "number", {"nullable": True, "minimum": 1.0, "maximum": 1.0, "decimals": 0}),
        ([True, False], "boolean", {}),
        ([True, None], "boolean", {"nullable": True}),
        (["b", "a", "b", "a"], "category", {"categories": ["a", "b"], "rarest": 2}),
        (["b", "a", None], "text", {"nullable": True, "max_length": 1}),
        (["2020-01-01", "2020-12-31"], "datetime", {"format": "%Y-%m-%d", **YEAR}),
        (["2020-02-01", "2020-02-30"], "text", {"max_length": 10}),
        (["2020-02-01", "2020-2-3"], "text", {"max_length": 10}),
        (["9999-12-31", "2020-01-01"], "text", {"max_length": 10}),
        (pd.to_datetime(["2020-12-31", "2020-01-01"]), "datetime", YEAR),
        ([None, None], "null", {"nullable": True}),
        (pd.Categorical([True]), "category", {"categories": [True], "rarest": 1}),
        (pd.Categorical([2], [3, 2], ordered=True), "category", {"categories": [3, 2], "ordered": True, "rarest": 0}),
    ],
    ids=str,
)
def test_infer(values, type, expected):
    table = pd.DataFrame({"x": values})
    assert RecordSchema.infer(table).fields == [Field("x", type, dtype=str(table["x"].dtype), **expected)]


def test_infer_bounds_in_the_time_zone_of_the_data():
    moments = pd.to_datetime(["2020-06-01T00:00", "2020-01-01T00:00"]).tz_localize("Europe/Berlin")
    field = RecordSchema.infer(pd.DataFrame({"x": moments}))["x"]
    assert (field.minimum, field.maximum) == ("2020-01-01T00:00:00+01:00", "2020-06-01T00:00:00+02:00")


RECORDS = [
    {"name": f"n{i}", "age": 30 + i, "score": i / 4, "ok": i > 2, "kind": "ab"[i % 2], "day": f"2020-01-0{i + 1}"}
    for i in range(6)
]


@pytest.mark.parametrize("form", ["frame", "dataset", "dicts", "csv", "parquet", "json", "jsonl"])
def test_infer_from_every_form_of_data(form, tmp_path):
    frame = pd.DataFrame(RECORDS)
    path = tmp_path / f"records.{form}"
    data = {"frame": frame, "dataset": Dataset.from_list(RECORDS), "dicts": RECORDS}.get(form, path)
    if form == "json":
        path.write_text(json.dumps(RECORDS))
    elif data is path:
        write_table(frame, path)
    schema = RecordSchema.infer(data)
    assert [f.type for f in schema] == ["text", "integer", "number", "boolean", "category", "datetime"]
    assert schema == RecordSchema.infer(frame)
    codec, tokenizer = CompactCodec.fit(schema, data)
    ids, within_bin_offsets = codec.encode(data, tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), frame)


def test_infer_with_categories_by_name():
    table = pd.DataFrame({"code": [3, 1, 2], "name": ["x", "y", "z"], "day": ["2020-01-01", "2020-01-02", None]})
    schema = RecordSchema.infer(table, categorical=["code", "name", "day"])
    assert [f.categories for f in schema] == [[1, 2, 3], ["x", "y", "z"], ["2020-01-01", "2020-01-02"]]
    codec, tokenizer = CompactCodec.fit(schema, table)
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), table)


def test_infer_max_categories():
    table = pd.DataFrame({"x": [f"v{i % 10}" for i in range(100)]})
    assert RecordSchema.infer(table)["x"].type == "category"
    assert RecordSchema.infer(table, max_categories=9)["x"].type == "text"


@thorough
@given(table=tables())
def test_schemas_save_and_load(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    schema = RecordSchema.infer(table)
    schema.save(path)
    assert RecordSchema.load(path) == schema
    jsonschema.Draft202012Validator.check_schema(schema.to_json_schema())


def test_schemas_are_edited_and_used_again():
    schema = RecordSchema.infer([{"age": 17, "color": "red", "note": "a"}, {"age": 90, "color": "red", "note": "b"}])
    assert schema.names == ["age", "color", "note"] and len(schema) == 3
    schema["age"] = replace(schema["age"], maximum=99, nullable=True, dtype="Int64")
    schema["color"] = replace(schema["color"], categories=["red", "green"])
    schema["note"] = replace(schema["note"], max_length=None)
    assert schema.to_json_schema()["properties"] == {
        "age": {"type": ["integer", "null"], "minimum": 17, "maximum": 99},
        "color": {"enum": ["red", "green"]},
        "note": {"type": "string"},
    }
    table = pd.DataFrame({"age": [99, None], "color": ["green", "red"], "note": ["longer", ""]}).astype(
        {"age": "Int64"}
    )
    codec, tokenizer = CompactCodec.fit(schema, table)
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), table)
    assert_valid(schema, table)


def test_schemas_by_hand_need_no_bounds():
    dtypes = {"integer": "int64", "number": "float64", "datetime": "datetime64[ns]"}
    schema = RecordSchema([Field(type, type, dtype=dtype) for type, dtype in dtypes.items()])
    moments = pd.to_datetime(["1700-01-01", "2200-01-01"]).as_unit("ns")
    table = pd.DataFrame({"integer": [2**63 - 1, -(2**63)], "number": [1e308, -1e308], "datetime": moments})
    decoded, valid = JSONCodec(schema).decode(JSONCodec(schema).encode(table))
    assert valid.all()
    assert_same(decoded, table)
    assert_valid(schema, table)


def test_conform_picks_and_orders_columns():
    schema = RecordSchema.infer([{"a": 1, "b": 2}])
    assert schema.conform([{"c": 0, "b": 2, "a": 1}]).columns.tolist() == ["a", "b"]


# Tables


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_tables_are_written_and_read(suffix, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "float": rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, 200),
            "int": rng.integers(-(2**63), 2**63 - 1, 200),
            "bool": rng.random(200) < 0.5,
            "gap": np.where(rng.random(200) < 0.5, np.nan, 0.1),
            "größe": [f'"{i}", ü\n🙂' for i in range(200)],
        }
    )
    path = tmp_path / "new" / f"table.{suffix}"
    write_table(table, path)
    assert_same(read_table(path), table)
    assert_same(read_table(str(path)), table)
    write_table(table.iloc[:5], path)
    assert len(read_table(path)) == 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("kind", ["Berlin", "datetime64[us]", "Int64", "boolean", "category", "null"])
def test_tables_of_other_dtypes_are_written(suffix, kind, tmp_path):
    value = {"Int64": 2**53 + 1, "boolean": True, "category": "red", "null": None}.get(kind, datetime(2020, 1, 1))
    table = pd.DataFrame({"a": [1, 2], "x": to_column([value, None], COLUMNS[kind][1])})
    path = tmp_path / f"table.{suffix}"
    write_table(table, path)
    back = read_table(path)
    assert back["x"].isna().tolist() == table["x"].isna().tolist()
    if suffix == "parquet":
        assert_same(back, table)


class Unwritable:
    def __str__(self):
        raise TypeError("cannot be written")

    __repr__ = __str__


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_failed_writes_leave_the_old_file(suffix, tmp_path):
    path = tmp_path / f"table.{suffix}"
    old = pd.DataFrame({"a": [1, 2]})
    write_table(old, path)
    with pytest.raises(Exception):  # noqa: B017 - each writer has its own
        write_table(pd.DataFrame({"a": [1, Unwritable()]}), path)
    assert_same(read_table(path), old)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_csv_headers_of_any_kind(tmp_path):
    write_table(pd.DataFrame([[1, 2]], columns=[0, "a\rb"]), tmp_path / "table.csv")
    assert read_table(tmp_path / "table.csv").to_dict("list") == {"0": [1], "a\rb": [2]}


def test_a_given_schema_gets_the_decimals_of_the_data():
    schema = RecordSchema.from_json_schema({"properties": {"price": {"type": "number"}, "x": {"type": "number"}}})
    table = pd.DataFrame({"price": [1.25, 0.5, None], "x": [1 / 3, 2 / 3, 0.1]})
    schema["price"].nullable = schema["x"].nullable = True
    fitted = DiffLMProcessor.from_records(table, schema).schema
    assert (fitted["price"].decimals, fitted["x"].decimals) == (2, None)


def test_csv_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("naïve,b\n1,2\n", encoding="utf-8-sig")
    assert read_table(path).columns.tolist() == ["naïve", "b"]


def test_rows_without_a_key_come_back_without_it(tmp_path):
    records = [{"a": 1, "b": "x"}, {"a": 2}, {"a": 3, "b": "y"}] * 8
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    table = read_table(tmp_path / "in.jsonl")
    processor = DiffLMProcessor.from_records(table)
    assert processor.codec.has_fixed_layout
    batch = processor(table)
    decoded, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
    write_table(decoded, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == records


def test_csv_floats_are_read_to_the_last_bit(tmp_path):
    path = tmp_path / "floats.csv"
    path.write_text("x\n0.1\n123456789.123456\n4.9e-324\n1.7976931348623157e308\n")
    assert read_table(path)["x"].tolist() == [0.1, 123456789.123456, 5e-324, 1.7976931348623157e308]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Field("x", "datetime", format="%d/%m/%y"), "31/12/99", "32/12/99"),
        (Field("x", "datetime", format="%Y+%m", minimum="2019-12-01", maximum="2021-01-01"), "2020+07", "2022+07"),
        (Field("x", "datetime", format="%d %B %Y"), "03 May 2020", "03 May 20"),
        (
            Field(
                "x",
                "datetime",
                dtype="datetime64[ns, America/New_York]",
                minimum="2020-01-01T00:00:00+00:00",
                maximum="2020-06-01T00:00:00+00:00",
            ),
            "2019-12-31T21:00:00-05:00",
            "2018-12-31T21:00:00-05:00",
        ),
    ],
)
def test_patterns_of_datetimes(field, good, bad):
    pattern = field_to_json_schema(field)["pattern"]
    assert re.search(pattern, good)
    assert not re.search(pattern, bad)


class BitCodec(RecordCodec):
    """For tables of one boolean column."""

    name = "bit"
    has_fixed_layout = True

    def to_inputs(self, records, tokenizer, encoder_tokenizer, max_length, key_order="schema", grammar=None):
        bits = self.schema.conform(records).to_numpy(int)
        return {"input_ids": np.concatenate([np.ones_like(bits), 4 + bits], axis=1)}

    def to_records(self, input_ids, tokenizer, within_bin_offsets=None):
        valid = input_ids[:, 1] >= 4
        return pd.DataFrame(input_ids[valid, 1:] == 5, columns=self.schema.names), valid

    def to_texts(self, records):
        return ["yes" if bit else "no" for (bit,) in records.to_numpy()]

    def too_long(self, records, tokenizer, max_length, key_order="schema"):
        return np.zeros(len(records), bool)

    def config_fields(self, max_length):
        return {"position_ranges": [(4, 6)], "max_record_length": 2}


def test_a_codec_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, "bit", BitCodec)
    table = pd.DataFrame({"ok": [True, False, True]})
    tokenizer = DiffLMProcessor.from_records(table).tokenizer
    DiffLMProcessor(tokenizer, tokenizer, BitCodec(RecordSchema.infer(table))).save_pretrained(tmp_path)
    processor = DiffLMProcessor.from_pretrained(tmp_path)
    assert type(processor.codec) is BitCodec
    batch = processor(table)
    assert batch["input_ids"].tolist() == [[1, 5], [1, 4], [1, 5]]
    assert processor.decode_records(batch["input_ids"])[0].equals(table)
    assert processor.decode_records([[1, 4], [1, 0]])[1].tolist() == [True, False]
    assert not processor.too_long(table).any()
    assert (processor.num_offsets, processor.grammar, processor.model_config().max_record_length) == (0, None, 2)
    processor.check_publishable()


def cities(num_records: int, num_cities: int) -> pd.DataFrame:
    """A column of many categories, by Zipf's law, and one that depends on it."""
    rng, ranks = np.random.default_rng(0), np.arange(1, num_cities + 1)
    names = np.array([f"city {k}" for k in rng.permutation(num_cities)])
    index = rng.choice(num_cities, num_records, p=1 / ranks / (1 / ranks).sum())
    return pd.DataFrame({"city": names[index], "size": np.where(index < 20, "large", "small")})


def total_variation(first: pd.Series, second: pd.Series) -> float:
    shares = [column.value_counts(normalize=True) for column in (first, second)]
    return shares[0].sub(shares[1], fill_value=0).abs().sum() / 2


def test_categories_by_the_thousand_have_few_tokens_and_keep_their_frequencies():
    table = cities(50_000, 5000)
    schema = RecordSchema.infer(table)
    assert schema["city"].type == "category" and len(schema["city"].categories) == table["city"].nunique() > 4000
    codec, tokenizer = CompactCodec.fit(schema, table)
    assert codec.vocab_size < 200
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    assert_same(codec.decode(ids, tokenizer, within_bin_offsets), table)
    rng = np.random.default_rng(0)
    drawn = codec.decode(ids, tokenizer, rng.random(within_bin_offsets.shape))["city"]
    resampled = table["city"].sample(frac=1, replace=True, random_state=0)
    assert total_variation(drawn, table["city"]) < total_variation(resampled, table["city"]) + 0.02
    restored = CompactCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert_same(restored.decode(ids, tokenizer, within_bin_offsets), table)
    with pytest.raises(ValueError, match="column 'city': 'Atlantis' in row 0 is not one of its"):
        codec.encode(table.head(1).assign(city="Atlantis"), tokenizer)
