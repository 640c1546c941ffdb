"""Data that is odd works, and data that is wrong gets one error that names it and the way out."""

import json
import math
import re
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from difflm_hf import DiffLMProcessor
from difflm_hf.records import (
    CompactCodec,
    Field,
    JSONCodec,
    PresentIf,
    RecordSchema,
    SumOf,
    Unique,
    read_table,
    write_table,
)
from difflm_hf.records.report import report
from difflm_hf.training import DataArguments
from difflm_hf.training.prepare import prepare_records


TABLE = pd.DataFrame(
    {
        "age": range(20, 30),
        "income": np.arange(10) * 1000.5,
        "color": ["red", "green"] * 5,
        "member": [True, False] * 5,
        "day": [f"2020-01-{day:02}" for day in range(1, 11)],
        "joined": pd.date_range("2020-01-01", periods=10, tz="UTC"),
        "note": [f"note {i}" for i in range(10)],
        "gap": [None, 1.5] * 5,
        "nothing": None,
    }
)


def fit_and_restore(table: pd.DataFrame, **kwargs) -> CompactCodec:
    schema = RecordSchema.infer(table)
    codec, tokenizer = CompactCodec.fit(schema, table, **kwargs)
    ids, within_bin_offsets = codec.encode(table, tokenizer)
    decoded, valid = JSONCodec(schema).decode(JSONCodec(schema).encode(table))
    for one in (codec.decode(ids, tokenizer, within_bin_offsets), decoded):
        pd.testing.assert_frame_equal(one, table, check_exact=True)
    assert codec.vocab_size == len(tokenizer)
    return codec


# Tables that are odd, and work


ODD_TABLES = {
    "all types": TABLE,
    "one row": TABLE.iloc[:1],
    "nothing but nulls": TABLE[["nothing"]],
    "nothing but nan": pd.DataFrame({"nothing": [np.nan, np.nan]}),
    "100 columns": pd.DataFrame({f"column {i}": np.arange(5) * i for i in range(100)}),
    "odd names": pd.DataFrame({"\n": [0, 1], "a": [0, 1], "a:0": [1, 0], "⟨s⟩": [1, 1]}),
    "not ASCII": pd.DataFrame({"größe": ["ß", "ẞ"] * 2, "名前": ["山田", "鈴木", "", "👍🏽"]}),
    "NUL in texts": pd.DataFrame({"few": ["a\0", "a", "a\0b"] * 3, "many": [f"a\0{'b' * k}" for k in range(9)]}),
    "constants": pd.DataFrame({"x": [5, 5, 5], "y": ["same"] * 3, "z": [0.1] * 3}),
    "extreme floats": pd.DataFrame({"x": [-0.0, 0.0, 1e300, 5e-324]}),
    "extreme integers": pd.DataFrame({"x": [-(2**63), 2**63 - 1]}),
}


@pytest.mark.parametrize("table", ODD_TABLES.values(), ids=ODD_TABLES)
def test_odd_tables_work(table):
    fit_and_restore(table)


def test_long_texts_work_where_they_are_allowed():
    rng = np.random.default_rng(0)
    long = "".join(rng.choice(list("abcdefghij klmno🙂"), 10_000))
    table = TABLE.iloc[:2].assign(essay=["short", long])
    with pytest.raises(
        ValueError, match=r"column 'essay' has a text of 10000 characters in row 1 .* may take 1024 tokens; shorten"
    ):
        fit_and_restore(table)
    assert fit_and_restore(table, max_text_tokens=20_000).max_text_tokens > 1024


def test_texts_longer_than_those_fitted_are_named():
    codec, tokenizer = CompactCodec.fit(
        RecordSchema([Field("a", "text"), Field("b", "text")]), [{"a": "x", "b": "yy"}]
    )
    with pytest.raises(ValueError, match="column 'b' has a text of 500 characters in row 1"):
        codec.encode([{"a": "x", "b": ""}, {"a": "xyz", "b": "y" * 500}], tokenizer)


# Tables that no schema can be inferred from


@pytest.mark.parametrize(
    "data, message",
    [
        (pd.DataFrame(), "the table has no columns"),
        ([], "the table has no columns"),
        (pd.DataFrame({"a": []}), "the table has no rows (columns: ['a'])"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "column name 'a' stands more than once; rename or drop"),
        (pd.DataFrame([[1]]), "column name 0 is not a non-empty string; rename it"),
        (pd.DataFrame({"": [1]}), "column name '' is not a non-empty string; rename it"),
        (pd.DataFrame({("a", "b"): [1]}), "column name ('a', 'b') is not a non-empty string; rename it"),
        (
            pd.DataFrame({"a\ud83d": [1]}),
            "column name 'a\\ud83d' has half a character (a lone surrogate), which UTF-8",
        ),
    ],
    ids=str,
)
def test_infer_names_what_is_wrong_with_a_table(data, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        RecordSchema.infer(data)


@pytest.mark.parametrize(
    "values, message",
    [
        ([1, "a"], "mixed or unsupported types: int ('1'), str ('a'); convert the column, e.g. by astype(str)"),
        (pd.Series([True, 1], dtype=object), "mixed or unsupported types: bool ('True'), int ('1'); convert"),
        ([b"bytes"], "bytes values, which no field can hold; convert the column, e.g. by column.map(bytes.decode"),
        ([1j], "complex values, which no field can hold; convert the column, e.g. by column.map(abs)"),
        (pd.Series(pd.interval_range(0, 2)), "interval values, which no field can hold; convert the column, e.g. by"),
        (pd.Categorical(pd.to_datetime(["2020-01-01"])), "mixed or unsupported types: Timestamp"),
        (
            pd.Series([10**16]).astype(pd.ArrowDtype(pa.duration("us"))),
            "a length of time of more than 292 years, which 64 bits do not hold in nanoseconds; convert the column",
        ),
        (
            pd.Series(pd.arrays.ArrowExtensionArray(pa.array([1], pa.duration("s")).dictionary_encode())),
            "datetime.timedelta(seconds=1) cannot be kept as a category; convert the column, e.g. by astype(str)",
        ),
        (pd.Categorical([pd.Timedelta(1)]), "mixed or unsupported types: Timedelta"),
        (pd.Categorical([Decimal(1)]), "mixed or unsupported types: Decimal"),
        ([{"y": Decimal(1)}], "Decimal('1') is a Decimal, which JSON does not have; convert it"),
        ([[{1}]], "{1} is a set, which JSON does not have; convert it"),
        ([1.0, np.inf], "an infinite number; replace it by a null or a finite number"),
        (pd.Series([-np.inf, np.nan], dtype="float32"), "an infinite number; replace it"),
        ([2**63], f"{2**63} cannot be kept as an integer between {-(2**63)} and {2**63 - 1}; convert the column"),
        ([2**70, 1], f"{2**70} cannot be kept as an integer between"),
        (pd.Series([2**60 + 1, 0.5], dtype=object), f"{2**60 + 1} cannot be kept as a number between"),
        (
            np.array(["3000-01-01"], "datetime64[s]"),
            "Timestamp('3000-01-01 00:00:00') cannot be kept as a datetime without a time zone between 1677",
        ),
        (
            pd.Series(["\ud83d"], dtype=object),
            "half a character (a lone surrogate), which UTF-8 cannot hold; replace or drop it",
        ),
        ([Decimal("1"), Decimal("sNaN")], "a signalling NaN of Decimal; replace it by a null"),
        (
            pd.Series([10**400, 0.5], dtype=object),
            "an integer that no float can hold; convert the column, e.g. by astype(str)",
        ),
        (
            pd.Series([-1]).astype(pd.ArrowDtype(pa.time64("us"))),
            "a value that Arrow cannot hand over (hour must be in 0..23); mend it, or make it a null",
        ),
        (
            pd.Series([2**31 - 1], dtype="int32").astype(pd.ArrowDtype(pa.date32())),
            "a value that Arrow cannot hand over (",
        ),
        (pd.Series([pd.Period("6320-01")]), "6320-01 lies outside of the years 1677 to 2262"),
        (
            pd.Series([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
            "the Arrow type 'list<item: int64>', which no field can hold; convert the column by astype(object)",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_infer_names_what_is_wrong_with_a_column(values, message):
    with pytest.raises(ValueError, match="^" + re.escape(f"column 'x': {message}")):
        RecordSchema.infer(pd.DataFrame({"x": values}))


def test_infer_names_columns_that_are_no_categories():
    with pytest.raises(ValueError, match="no column 'size' to take as a category; columns: "):
        RecordSchema.infer(TABLE, categorical=["age", "size"])
    with pytest.raises(ValueError, match="column 'joined': mixed or unsupported types: Timestamp"):
        RecordSchema.infer(TABLE, categorical=["joined"])
    for value in (pd.Timedelta(1), Decimal("0.1")):
        with pytest.raises(ValueError, match="column 'x': .* cannot be kept as a category; convert the column"):
            RecordSchema.infer(pd.DataFrame({"x": [value]}), categorical=["x"])


# Records that do not fit the schema


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("age", 30, "30 in row 1 is not an integer between 20 and 29; drop the record, or change the schema"),
        ("age", 19, "19 in row 1 is not an integer between 20 and 29"),
        ("age", 20.5, "20.5 in row 1 is not an integer"),
        ("age", "20", "'20' in row 1 is not an integer"),
        ("age", 2**64, "18446744073709551616 in row 1 is not an integer"),
        ("age", None, "null in row 1; fill it, drop the record, or set nullable=True"),
        ("income", 1e300, "1e+300 in row 1 is not a number between 0.0 and 9004.5"),
        ("income", -np.inf, "-inf in row 1 is not a number"),
        ("income", np.nan, "null in row 1"),
        ("income", "?", "'?' in row 1 is not a number"),
        ("color", "blue", "'blue' in row 1 is not one of its 2 categories; drop the record, or change the schema"),
        ("color", 1, "1 in row 1 is not one of its 2 categories"),
        ("color", ["red"], "['red'] in row 1 is not one of its 2 categories"),
        ("color", None, "null in row 1"),
        ("member", "yes", "'yes' in row 1 is not true or false"),
        ("member", None, "null in row 1"),
        ("day", "2020-01-11", "'2020-01-11' in row 1 is not a datetime in the format '%Y-%m-%d' between 2020-01-01"),
        ("day", "01.01.2020", "'01.01.2020' in row 1 is not a datetime in the format '%Y-%m-%d' between 2020-01-01"),
        ("day", None, "null in row 1"),
        (
            "joined",
            pd.Timestamp("2021-01-01", tz="UTC"),
            "Timestamp('2021-01-01 00:00:00+0000', tz='UTC') in row 1 is",
        ),
        ("joined", pd.NaT, "null in row 1"),
        ("note", 5, "5 in row 1 is not a UTF-8 text of at most 6 characters"),
        ("note", "note 12", "'note 12' in row 1 is not a UTF-8 text of at most 6 characters"),
        ("note", "\ud83d", "'\\ud83d' in row 1 is not a UTF-8 text"),
        ("note", None, "null in row 1"),
        ("gap", "1.5", "'1.5' in row 1 is not a number between 1.5 and 1.5"),
        ("nothing", 0, "0 in row 1 is not null, as in all the data that the schema comes from"),
    ],
    ids=str,
)
def test_encode_names_what_the_schema_does_not_allow(column, value, message):
    schema = RecordSchema.infer(TABLE)
    codec, tokenizer = CompactCodec.fit(schema, TABLE)
    table = TABLE.astype(object)
    table[column] = pd.Series([table[column][0], value, *table[column][2:]], dtype=object)
    for encode in (lambda: codec.encode(table, tokenizer), lambda: JSONCodec(schema).encode(table)):
        with pytest.raises(ValueError, match="^" + re.escape(f"column {column!r}: {message}")):
            encode()
    with pytest.raises(ValueError, match="^" + re.escape(f"column {column!r}: {message}")):
        CompactCodec.fit(schema, table)


def test_encode_names_a_column_that_is_missing_or_double():
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(TABLE), TABLE)
    with pytest.raises(ValueError, match="column 'color' is missing; the schema has"):
        codec.encode(TABLE.drop(columns="color"), tokenizer)
    with pytest.raises(ValueError, match="column 'age' stands more than once; the schema has"):
        codec.encode(pd.concat([TABLE, TABLE[["age"]]], axis=1), tokenizer)


@pytest.mark.parametrize(
    "values, unseen, message",
    [
        (range(0, 2000, 2), 3, "3 is not between 0 and 1998 at the precision of the data; round it, or drop"),
        (np.arange(1000) / 100, 1.234, "1.234 is not between 0.0 and 9.99 at the precision of the data; round"),
        (
            [1, 2, 4],
            3,
            "3 in row 0 is none of the 3 values of the training data, of which 2 and 4 are next to it",
        ),
        ([1.5, 2.5], 1.75, "1.75 is not between 1.5 and 2.5 at the precision of the data; round it, or drop"),
    ],
    ids=["step", "decimals", "gap", "decimals of few values"],
)
def test_encode_names_numbers_that_have_no_tokens(values, unseen, message):
    table = pd.DataFrame({"x": values})
    codec, tokenizer = CompactCodec.fit(RecordSchema.infer(table), table)
    with pytest.raises(ValueError, match=re.escape("column 'x': ") + r".*" + re.escape(message)):
        codec.encode([{"x": unseen}], tokenizer)


def test_numbers_with_more_decimals_than_the_schema_are_named():
    schema = RecordSchema([Field("price", "number", dtype="float64", decimals=2)])
    with pytest.raises(ValueError, match=r"column 'price': .*0\.125.* at the precision of the data; round"):
        CompactCodec.fit(schema, [{"price": 0.5}, {"price": 0.125}])


@pytest.mark.filterwarnings("error")
def test_numbers_with_fewer_decimals_than_the_schema_are_named():
    schema = RecordSchema([Field("price", "number", decimals=300)])
    with pytest.raises(ValueError, match="column 'price': 2.5 with 300 decimals is more than 64 bits hold; give the"):
        CompactCodec.fit(schema, [{"price": 0.5}, {"price": 2.5}])


def test_fit_needs_rows_and_values():
    schema = RecordSchema.infer(TABLE)
    with pytest.raises(ValueError, match="the table has no rows"):
        CompactCodec.fit(schema, TABLE.iloc[:0])
    with pytest.raises(ValueError, match="column 'gap' has no values to fit on; drop it, or make its type 'null'"):
        CompactCodec.fit(schema, TABLE.iloc[:1])


# Schemas that are wrong


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "a schema has a list of fields, not None"),
        ({"fields": []}, "a schema has a list of rules, not None"),
        ({"fields": "x", "rules": []}, "a schema has a list of fields, not 'x'"),
        (["x"], "a Field is an object, not 'x'"),
        ([["name"]], "a Field is an object, not ['name']"),
        ([{"name": "x", "type": "json", "json_schema": 3}], "json_schema=3 is not the text of a JSON Schema"),
        ([{"name": "x", "type": "json", "json_schema": "{"}], "json_schema='{' is not the text of a JSON Schema"),
        ([{"name": "x", "type": "json", "json_schema": "[" * 10**5}], "json_schema='[[[["),
        ([{"name": "x\ud83d", "type": "text"}], "field name 'x\\ud83d' has half a character"),
        ({"fields": [], "rules": ["x"]}, "a rule is an object, not 'x'"),
        ({"fields": [], "rules": [{"rule": []}]}, "[] is not one of the rules ["),
        (
            {"fields": [], "rules": [{"rule": "SumOf", "total": {}, "parts": ["x"]}]},
            "SumOf({}, ('x',)): {} is no name",
        ),
    ],
    ids=str,
)
def test_states_that_are_no_schemas(state, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        RecordSchema.from_dict(state)


def test_messages_stay_short_whatever_they_show():
    long, wide = "x" * 10**6, pd.DataFrame({f"column {k}": [k] for k in range(300)})
    for make in (
        lambda: RecordSchema.from_dict([long]),
        lambda: RecordSchema.from_dict([{"name": "x", "type": long}]),
        lambda: RecordSchema.infer(wide).conform(wide[[]]),
        lambda: RecordSchema.infer(wide, categorical=["x"]),
        lambda: RecordSchema(RecordSchema.infer(wide).fields, [SumOf("x", ["y"])]),
        lambda: RecordSchema([Field("x", "text")], [PresentIf("x", "x", [long])]),
        lambda: RecordSchema([Field("x", "text")], [Unique(["x"] * 1000)]),
        lambda: RecordSchema.from_json_schema({"properties": {"x": {"type": long}}}),
        lambda: RecordSchema.from_json_schema({"properties": {"x": {"enum": 3, long: {}}}}),
    ):
        with pytest.raises(ValueError) as caught:
            make()
        assert 0 < len(str(caught.value)) < 1000


def test_a_schema_without_fields_has_nothing_to_learn():
    with pytest.raises(ValueError, match="the schema has no fields; add one for each column"):
        DiffLMProcessor.from_records(TABLE, RecordSchema())


@pytest.mark.parametrize(
    "given, message",
    [
        ({"type": "boolean", "dtype": "timedelta64[ns]"}, "cannot have boolean values such as False"),
        ({"type": "boolean", "dtype": "int64"}, "cannot have boolean values such as False (they come out as others)"),
        ({"type": "text", "dtype": "uint8"}, "cannot have text values such as 'a'"),
        ({"type": "number", "dtype": "datetime64[ns]", "minimum": 1.5}, "cannot have number values such as 1.5"),
        ({"type": "number", "dtype": "int64", "decimals": 2}, "cannot have number values such as 0.01"),
        ({"type": "integer", "dtype": "int8", "maximum": 999}, "cannot have integer values such as 999"),
        ({"type": "category", "dtype": "int64", "categories": [1, 1.5]}, "cannot have category values such as 1.5"),
        ({"type": "integer", "format": "x", "maximum": 9}, "and format 'x' cannot have integer values such as 9"),
        ({"type": "number", "format": "%"}, "and format '%' cannot have number values such as 0"),
        ({"type": "datetime", "dtype": "bool"}, "cannot have datetime values such as"),
        ({"type": "text", "dtype": "[pyarrow]"}, "the Arrow type '', which no field can hold"),
        ({"type": "text", "dtype": "set_cpu_count(1)[pyarrow]"}, "the Arrow type 'set_cpu_count(1)', which no field"),
        ({"type": "text", "dtype": "<U9"}, "'<U9' is no dtype of columns"),
        ({"type": "datetime", "dtype": "datetime64[ns, x]"}, "no time zone 'x'; name one as the IANA does"),
        ({"type": "datetime", "dtype": "datetime[dateutil:x]"}, "no time zone 'dateutil:x'; name one as the IANA"),
        ({"type": "integer", "minimum": "a", "maximum": "b"}, "'a' is more than 64 bits hold, or no number"),
    ],
    ids=str,
)
def test_fields_whose_dtype_cannot_have_their_values(given, message):
    with pytest.raises(ValueError, match="^" + "field 'x': .*" + re.escape(message)):
        Field("x", **given).check_dtype()


def test_schemas_with_dtypes_that_cannot_have_their_values(tmp_path):
    schema = RecordSchema([Field("x", "number", dtype="int64", minimum=0.0, maximum=1.0)])
    with pytest.raises(ValueError, match="columns of dtype 'int64' cannot have number values such as 0.01"):
        DiffLMProcessor.from_records([{"x": 0.25}, {"x": 0.5}], schema)
    schema["x"] = replace(schema["x"], decimals=2)
    schema.save(tmp_path / "schema.json")
    with pytest.raises(ValueError, match="columns of dtype 'int64' cannot have number values such as 0.01"):
        RecordSchema.load(tmp_path / "schema.json")


def test_identifiers_have_room_whatever_their_dtype():
    ids = np.arange(20_000, dtype="int16")
    schema = RecordSchema.infer(pd.DataFrame({"id": ids, "x": ids % 7}), find_rules=True)
    assert "id" in schema.identifiers
    schema["id"].check_dtype()


def test_true_is_no_number():
    for values in ([True, False], pd.array([True, None], "boolean"), pd.Series([True, 1], dtype=object)):
        with pytest.raises(ValueError, match="column 'x': True in row 0 is not an integer"):
            RecordSchema([Field("x", "integer", nullable=True)]).conform(pd.DataFrame({"x": values}))


def test_fields_of_an_unknown_type_are_named():
    with pytest.raises(ValueError, match="field 'x': type 'int' is not one of integer, number"):
        Field("x", "int")
    with pytest.raises(ValueError, match="field 'x' is a category; give its categories"):
        Field("x", "category")


@pytest.mark.parametrize(
    "content", ["", "{", '[{"name": "x", "type": "integer", "min": 1}]', '[{"name": "x"}]', "[1]"]
)
def test_unreadable_schemas_are_named(content, tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"schema\.json: not a record schema \("):
        RecordSchema.load(path)


# Files


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"\x00\x01\x02\x03" * 100, b"PAR1 and then nothing"])
def test_unreadable_files_are_named(suffix, content, tmp_path):
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"table\.{suffix}(: cannot be read as {suffix} \(| has no (rows|columns))"):
        RecordSchema.infer(path)


NO_LIST = "not a list of objects, one for each record)"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "x,y,x\n1,2,3\n", "cannot be read as csv (column name 'x' stands more than once; rename or drop"),
        ("a.csv", "x,y\n1,2,3\n", "cannot be read as csv (the row '1,2,3' has 3 values, and the header 2 names;"),
        ("a.csv", "x,y\n1,2\n1,2,3\n", "cannot be read as csv (the row '1,2,3' has 3 values, and the header 2 names;"),
        ("a.json", '{"x": 1}', f"cannot be read as json ({NO_LIST}"),
        ("a.json", "[1, 2]", f"cannot be read as json ({NO_LIST}"),
        ("a.jsonl", '{"x": 1}\n\n{"x": 2\n', "cannot be read as jsonl (line 3: "),
        ("a.jsonl", "{}\n1\n", "cannot be read as jsonl (line 2: '1' is no object, which every record is)"),
        ("a.ods", "", ".ods is not one of .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .json, .jsonl, .arrow, .feather"),
        ("a", "", "no ending is not one of .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .json, .jsonl, .arrow, .feather"),
    ],
    ids=str,
)
def test_read_names_file_and_fault(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: {message}")):
        read_table(path)


def test_missing_files_and_other_things_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file of it"):
        read_table(tmp_path)
    for data, name in ((5, "int"), ([1], "list"), ({"a": [1]}, "dict"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"cannot read records from a {name}; give a DataFrame, a Dataset"):
            read_table(data)


def test_write_names_an_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match=r"table\.ods: \.ods is not one of \.csv, .*, \.parquet, \.jsonl"):
        write_table(TABLE, tmp_path / "table.ods")
    assert not list(tmp_path.iterdir())


def test_json_lines_may_hold_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"x": 1}) + "\n\n" + json.dumps({"x": 2}))
    assert read_table(path)["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("type", "given", "message"),
    [
        ("integer", {"minimum": 0, "maximum": 2**70}, "1180591620717411303424 is more than 64 bits hold"),
        ("number", {"minimum": 0.0, "maximum": float("inf")}, "inf is more than 64 bits hold"),
        ("category", {"categories": ["a", "b", "a"]}, "category 'a' stands more than once"),
        ("category", {"categories": [True, 1]}, "category True stands more than once"),
        ("category", {"categories": [["a"]]}, r"\['a'\] is no category"),
        (
            "category",
            {"categories": ["a", None]},
            "None is no category; take .* and nullable=True for nulls",
        ),
        ("category", {"categories": [pd.Timedelta(1)]}, ".*Timedelta.* is no category"),
        ("category", {"categories": [Decimal(1)]}, ".*Decimal.* is no category"),
    ],
)
def test_fields_that_no_column_can_be(type, given, message):
    with pytest.raises(ValueError, match=f"field 'x': {message}"):
        Field("x", type, **given)


def test_examples_of_a_table_with_an_index_of_floats():
    table = pd.DataFrame({"x": [7, 8, 9]}, index=[2.5, 0.5, 1.5])
    assert report(RecordSchema.infer(table), table)["examples"].tolist() == ["7, 8, 9"]


@pytest.mark.parametrize(
    "table",
    [pd.DataFrame({"a": [None] * 90, "b": [None] * 90}), pd.DataFrame({"id": range(200), "b": None})],
)
def test_tables_without_anything_to_learn(table):
    with pytest.raises(ValueError, match="no column has anything to learn: all are empty, or identifiers"):
        prepare_records(table, args=DataArguments(find_rules=True))


def test_texts_of_numpy_are_texts():
    table = pd.DataFrame({"x": pd.Series([np.str_("red"), np.str_("blue"), np.str_("red 2")], dtype=object)})
    schema = RecordSchema.infer(table)
    assert report(schema, table)["type"].tolist() == ["text"]
    codec, tokenizer = CompactCodec.fit(schema, table)
    assert codec.decode(codec.encode(table, tokenizer)[0], tokenizer, np.zeros((3, 0)))["x"].tolist() == [
        "red",
        "blue",
        "red 2",
    ]


def test_json_schemas_with_booleans_for_schemas():
    schema = {"properties": {"x": {"anyOf": [{"anyOf": [True], "type": "string"}, False]}}}
    assert RecordSchema.from_json_schema(schema).to_json_schema()["properties"] == schema["properties"]


def test_columns_of_nat_alone_are_null():
    assert RecordSchema.infer(pd.DataFrame({"x": pd.Series([pd.NaT] * 2, dtype=object)}))["x"].type == "null"


def test_lists_of_records_with_numbers_beyond_floats():
    with pytest.raises(ValueError, match="column 'x': an integer that no float can hold"):
        RecordSchema.infer([{"x": 10**400}, {"x": 0.5}])


@pytest.mark.parametrize("part", [{"minimum": math.nan}, {"required": ["\ud83d"]}, {"default": 1j}])
def test_json_schemas_that_are_no_json(part):
    with pytest.raises(ValueError, match="`schema` is no JSON: "):
        RecordSchema.from_json_schema({"properties": {"x": {"type": "string", **part}}})


def test_json_schemas_that_no_grammar_can_be_made_of():
    schema = RecordSchema.from_json_schema({"properties": {"x": {"enum": ["x", 10**400]}}})
    processor = DiffLMProcessor.from_records([{"x": "x"}], schema)
    with pytest.raises(
        ValueError, match=r"no grammar can be made of the JSON Schema .*leave out numbers that no float"
    ):
        processor([{"x": "x"}])


def test_values_nested_too_deeply_are_named():
    value = [1]
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="column 'x': values nested too deeply; make them flatter"):
        RecordSchema.infer([{"x": value}])


def test_dates_with_a_nul_are_none():
    with pytest.raises(ValueError, match="column 'x': '2020-01-01.x00' in row 1 is not a datetime in the format"):
        schema = RecordSchema([Field("x", "datetime", format="%Y-%m-%d")])
        schema.conform(pd.DataFrame({"x": ["2020-01-01", "2020-01-01\0"]}))


def test_nested_values_beside_numbers_beyond_floats():
    with pytest.raises(ValueError, match="column 'x': an integer that no float can hold"):
        RecordSchema.infer([{"x": {}}, {"x": 10**400}, {"x": 0.5}])
    schema = RecordSchema.from_json_schema({"properties": {"x": {"enum": [10**400, 0.5]}}})
    assert JSONCodec(schema).encode([{"x": 10**400}, {"x": 0.5}]) == [f'{{"x": {10**400}}}', '{"x": 0.5}']
