"""Odd tables, schemas and JSON Schemas, by hypothesis: read and written again without loss, or one clear error."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
from call_attacks import LONG, SCALARS, SHORT, Run, judge
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from difflm_hf import DiffLMProcessor, RecordSchema
from difflm_hf.records import Ascending, Combinations, CSVFormat, Field, PresentIf, Rule, SumOf, Unique
from difflm_hf.records.field import FieldType


USUAL_NAMES = st.sampled_from(["a", "b", "id", "age", "first name", "größe", "price_eur", "a.b"])
NAMES = USUAL_NAMES | st.text(max_size=6) | st.sampled_from([" ", "\ud800", "x" * 300, "ſ", "$ref"])
ODD_NAMES = NAMES | st.sampled_from([0, 1.5, None, True, ("a", "b"), b"x", math.nan, date(2020, 1, 1)])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "\ud800"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part, max_size=3),
    max_leaves=6,
)
PLAIN = {
    "integers": st.integers(-5, 99),
    "large integers": st.integers(-(10**25), 10**25),
    "numbers": st.floats(),
    "cents": st.integers(-(10**4), 10**4).map(lambda number: number / 100),
    "booleans": st.booleans(),
    "words": st.sampled_from(["red", "green", "blue", "", " ", "NA", "nan", "1,5", "2020-01-01", "12:30", "007"]),
    "texts": st.text(max_size=12) | st.sampled_from(["\ud800", "\x00", LONG]),
    "moments": st.datetimes(),
    "dates": st.dates(),
    "lengths of time": st.timedeltas(),
    "decimals": st.decimals(allow_nan=True),
    "json": JSON,
    "bytes": st.binary(max_size=4),
    "odd": st.sampled_from(SCALARS),
}
NULLS = st.sampled_from([None, math.nan, pd.NA, pd.NaT])
DTYPES = (
    *("int8", "uint8", "int64", "uint64", "float16", "float32", "float64", "bool", "object", "str", "string"),
    *("Int64", "UInt8", "Float32", "boolean", "category", "datetime64[ns]", "datetime64[s]", "timedelta64[ns]"),
    *("datetime64[ns, Europe/Berlin]", "complex128", "Sparse[float64]", "int64[pyarrow]", "string[pyarrow]"),
    *("period[M]", "interval", "bool[pyarrow]", "double[pyarrow]", "large_string[pyarrow]", "binary[pyarrow]"),
    *(pd.ArrowDtype(kind) for kind in (pa.string(), pa.date32(), pa.decimal128(38, 2), pa.timestamp("us", "UTC"))),
    *(pd.ArrowDtype(kind) for kind in (pa.duration("s"), pa.time64("us"), pa.dictionary(pa.int8(), pa.string()))),
    *(pd.ArrowDtype(kind) for kind in (pa.list_(pa.int64()), pa.float16(), pa.uint64(), pa.null())),
)


@st.composite
def columns(draw: Callable, num_records: int) -> pd.Series:
    """A column of one kind of values, or of several, some of them null, in whatever dtype takes them."""
    kinds = draw(st.lists(st.sampled_from(list(PLAIN)), min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 2]))))
    value = st.one_of([PLAIN[kind] for kind in kinds])
    value = value | NULLS if draw(st.booleans()) else value
    if draw(st.booleans()):  # few different ones
        value = st.sampled_from(draw(st.lists(value, min_size=1, max_size=3)))
    column = pd.Series(draw(st.lists(value, min_size=num_records, max_size=num_records)), dtype=object)
    for dtype in draw(st.lists(st.sampled_from(DTYPES), max_size=2)):
        try:
            taken = column.astype(dtype)
            taken.tolist()  # Arrow takes dates that it cannot give
            return taken
        except Exception:  # values that the dtype does not take
            continue
    with suppress(ArithmeticError):  # pandas stumbles over signalling NaNs, and integers beyond floats
        return column if draw(st.booleans()) else column.infer_objects()
    return column


@st.composite
def tables(draw: Callable) -> pd.DataFrame | list[dict]:
    """A table, now and then as a list of its records."""
    num_records = draw(st.sampled_from([0, 1, 2, 2, 5, 5, 30, 30]))
    parts = draw(st.lists(columns(num_records), min_size=draw(st.sampled_from([0, *[1] * 19])), max_size=4))
    unique = draw(st.integers(0, 9)) > 0
    name = draw(st.sampled_from([*[USUAL_NAMES] * 6, *[NAMES] * 3, ODD_NAMES]))
    names = draw(st.lists(name, min_size=len(parts), max_size=len(parts)))
    table = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=range(num_records))
    table.columns = [f"{name}{k}" if unique and isinstance(name, str) else name for k, name in enumerate(names)]
    if draw(st.integers(0, 9)) == 0:
        table.index = draw(st.permutations(range(num_records)))
    is_list = table.columns.is_unique and draw(st.integers(0, 3)) == 0
    return [dict(zip(table, row)) for row in table.itertuples(index=False, name=None)] if is_list else table


def written_again(data: pd.DataFrame | list[dict], folder: Path) -> tuple[str, str]:
    """Whether a table comes back from its schema, from tokens, and from the schema's own file."""
    table = pd.DataFrame(data, dtype=object) if isinstance(data, list) else data
    try:
        schema = RecordSchema.infer(data)
        schema.save(folder / "schema.json")
        if RecordSchema.load(folder / "schema.json").to_dict() != schema.to_dict():
            return "invalid", "the schema changes in its file"
        schema.to_json_schema()
        return comes_back(table, data, DiffLMProcessor.from_records(data), with_dtypes=data is table)
    except Exception as error:
        return judge(error)


def comes_back(
    table: pd.DataFrame, data: Any, processor: DiffLMProcessor, with_dtypes: bool = False
) -> tuple[str, str]:
    """Whether a table, which may be given as other data, comes back from tokens."""
    batch = processor(data)
    ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"].numpy()
    offsets = batch["within_bin_offsets"].numpy() if "within_bin_offsets" in batch else None
    decoded, is_valid = processor.decode_records(ids, offsets)
    for name in table:
        before, after = (list(map(value_of, of[name].tolist())) for of in (table, decoded))
        if before != after:
            return "invalid", f"{name!r}: {SHORT.repr(before)} became {SHORT.repr(after)}"
        if with_dtypes and not are_same(table[name].dtype, decoded[name].dtype):
            return "invalid", f"{name!r}: {table[name].dtype} became {decoded[name].dtype}"
    return ("records", "") if is_valid.all() and list(table) == list(decoded) else ("invalid", str(list(decoded)))


def are_same(first: Any, second: Any) -> bool:
    """Whether two dtypes are, of which one of no categories may be of any."""
    is_bare = isinstance(first, pd.CategoricalDtype) and first.categories.empty
    return first == second or (is_bare and isinstance(second, pd.CategoricalDtype) and second.categories.empty)


def value_of(value: Any) -> Any:
    """What a value is, whichever type holds it: nulls are all one, and a list is an array."""
    if isinstance(value, dict):
        return {key: value_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [value_of(item) for item in value]
    if pd.isna(value):
        return None
    value = value.item() if isinstance(value, np.number | np.bool_) else value
    if isinstance(value, bool):
        return f"boolean {value}"
    if isinstance(value, (Real, Decimal)):
        return "Decimal" if isinstance(value, Decimal) else "number", Fraction(value)
    return pd.Timestamp(value).isoformat() if isinstance(value, (datetime, np.datetime64)) else value


KEYWORDS = {
    "type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object", "any", 3, None, []])
    | st.lists(st.sampled_from(["string", "integer", "null", "object"]), max_size=3),
    "enum": st.lists(JSON, max_size=3) | JSON,
    "const": JSON,
    "minimum": JSON | st.integers(-3, 3),
    "maximum": JSON | st.integers(-3, 3),
    "multipleOf": st.sampled_from([0, 1, 0.01, -1, "x", 1e-300]),
    "minLength": st.sampled_from([0, 3, -1, 10**12, "x"]),
    "maxLength": st.sampled_from([0, 3, -1, 10**12, "x"]),
    "pattern": st.sampled_from(["", "^a+$", "(", "(a+)+$", "\\d{1,9999}"]),
    "format": st.sampled_from(["date", "date-time", "email", "uri", "x", 3]),
    "required": st.lists(NAMES, max_size=2) | st.just(3),
    "minItems": st.sampled_from([0, 2, -1, 10**12]),
    "maxItems": st.sampled_from([0, 2, -1, 10**12]),
    "uniqueItems": st.booleans(),
    "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "other.json", "http://localhost:1/x", 3]),
    "description": JSON,
}


def nested_keywords(part: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(
        {},
        optional=KEYWORDS
        | {
            "properties": st.dictionaries(NAMES, part, max_size=3),
            "items": part,
            "prefixItems": st.lists(part, max_size=2),
            "additionalProperties": part,
            "anyOf": st.lists(part, max_size=2),
            "oneOf": st.lists(part, max_size=2),
            "allOf": st.lists(part, max_size=2),
            "not": part,
            "$defs": st.dictionaries(st.sampled_from(["a", "b"]), part, max_size=2),
        },
    )


WILD_SCHEMAS = st.recursive(
    st.fixed_dictionaries({}, optional=KEYWORDS) | st.booleans() | JSON, nested_keywords, max_leaves=5
)
RECORDS = pd.DataFrame(
    {
        "n": [1, 2, 3, None],
        "price": [0.5, 1.25, 2.0, 9.75],
        "color": ["red", "blue", "red", "red"],
        "is_new": [True, False, True, True],
        "day": pd.to_datetime(["2020-01-01", "2020-01-05", "2021-03-01", "2020-01-01"]),
        "note": ["one", "two three", "", "one"],
        "tags": [["a"], [], ["a", "b"], ["b"]],
    }
)


# For each column of RECORDS, JSON Schemas that accept it, and for others, any
FITTING: dict[str, list[dict[str, Any]]] = {
    "n": [
        {"type": ["integer", "null"]},
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        {"type": ["number", "null"], "maximum": 3},
        {"enum": [1, 2, 3, None]},
    ],
    "price": [{"type": "number"}, {"type": "number", "minimum": 0, "exclusiveMaximum": 10}, {"multipleOf": 0.25}],
    "color": [{"type": "string"}, {"enum": ["red", "blue"]}, {"pattern": "^(red|blue)$"}, {"const": "red"}],
    "is_new": [{"type": "boolean"}, {"enum": [True, False]}, {"anyOf": [{"const": True}, {"const": False}]}],
    "note": [{"type": "string", "maxLength": 9}, {"type": "string", "title": "Note"}, {"not": {"type": "null"}}],
    "tags": [
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 2, "uniqueItems": True},
        {"oneOf": [{"type": "array", "maxItems": 2}, {"type": "object"}]},
    ],
}
OTHERS = [{"type": "string"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"type": "null"}, {}, True]


@st.composite
def json_schemas(draw: Callable) -> Any:
    """Mostly of records, with a keyword too many here or there; the rest wild."""
    if draw(st.integers(0, 9)) == 0:
        return draw(WILD_SCHEMAS)
    names = draw(st.lists(st.sampled_from(list(FITTING)), min_size=1, max_size=4, unique=True))
    others = draw(st.lists(NAMES, max_size=1)) if draw(st.integers(0, 2)) == 0 else []
    properties = {}
    for name in [*names, *others]:
        part = draw(st.sampled_from(FITTING.get(name, OTHERS)))
        way = draw(st.integers(0, 9))
        if way < 2 and isinstance(part, dict):
            keyword = draw(st.sampled_from(list(KEYWORDS)))
            part = {**part, keyword: draw(KEYWORDS[keyword])}
        properties[name] = draw(WILD_SCHEMAS) if way == 2 else part
    schema = {"type": "object", "properties": properties, "$defs": {"a": {"type": "string"}}}
    schema["required"] = draw(st.lists(st.sampled_from(names), unique=True))
    if draw(st.integers(0, 9)) == 0:
        schema |= draw(nested_keywords(WILD_SCHEMAS))
    return schema


RULES: list[Rule] = [
    Ascending(["n", "price"]),
    SumOf("price", ["n"]),
    Combinations(["color", "is_new"]),
    PresentIf("n", "color", ["red"]),
    Unique(["day", "note"]),
    PresentIf("n", "is_new", [True]),
]
LIKELY = {
    "name": st.sampled_from([*RECORDS, "x"]),
    "type": st.sampled_from(get_args(FieldType)),
    "nullable": st.booleans(),
    "optional": st.booleans(),
    "ordered": st.booleans(),
    "strict": st.booleans(),
    "header": st.booleans(),
    "dtype": st.sampled_from(
        [
            *map(str, DTYPES),
            "date",
            "decimal",
            "time",
            "datetime[x]",
            "datetime64[ns, x]",
            "category[",
            "[pyarrow]",
            "x" * 300,
        ]
    ),
    "minimum": st.integers(-3, 3) | st.sampled_from([0.5, -math.inf, math.nan, 10**400, "2020-01-01", "2020-01-01Z"]),
    "maximum": st.integers(-3, 3) | st.sampled_from([9.75, math.inf, math.nan, 2**63, "2021-03-01", "0001-01-01"]),
    "decimals": st.integers(-1, 400),
    "max_length": st.integers(-1, 10),
    "rarest": st.integers(-1, 10),
    "categories": st.lists(st.sampled_from(["red", "blue", "\ud800", 1, 1.5, True, None, [], {}]), max_size=4),
    "values": st.lists(st.lists(st.sampled_from(["red", True, None, 1]), min_size=2, max_size=2) | JSON, max_size=3),
    "json_schema": WILD_SCHEMAS.map(json.dumps),
    "format": st.sampled_from(["%Y-%m-%d", "%Q", "%", "%z{x}", "#,##0.00", "0", "", "false/true", "/", "\ud800"]),
    "words": st.lists(st.sampled_from(["red", "unknown", "", "\ud800", "x" * 300]), max_size=3),
}
STATES = {name: RecordSchema.infer(RECORDS[[name]]).to_dict()[0] for name in RECORDS}


@st.composite
def schema_states(draw: Callable) -> Any:
    """What a schema is saved as, with one or two of its parts replaced or left out."""
    names = draw(st.lists(st.sampled_from(list(RECORDS)), min_size=1, max_size=4, unique=True))
    state = copy.deepcopy([STATES[name] for name in names])
    if draw(st.integers(0, 2)) == 0:
        rules = [rule for rule in RULES if set(rule.columns) <= set(names)]
        state = {"fields": state, "rules": [rule.to_dict() for rule in rules], "csv": CSVFormat(";").to_dict()}
    for _ in range(draw(st.integers(1, 2))):
        place = state
        while isinstance(place, (dict, list)) and len(place):
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            if isinstance(place, dict) and "dtype" in place and draw(st.integers(0, 3)) == 0:
                key = draw(st.sampled_from([f.name for f in fields(Field)]))
                place.setdefault(key, None)
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.integers(0, 9)) == 0:
                if draw(st.integers(0, 5)) == 0:
                    del place[key]
                elif draw(st.integers(0, 2)) == 0:
                    place[key] = draw(JSON)
                else:
                    place[key] = draw(LIKELY.get(key, st.none() | st.sampled_from(["red", 0, 3])))
                break
            place = place[key]
    return names, state


def taken_from_state(case: tuple[list[str], Any], folder: Path) -> tuple[str, str]:
    names, state = case
    return _taken(lambda: RecordSchema.from_dict(state), RECORDS[names])


def taken_from_json_schema(state: Any, folder: Path) -> tuple[str, str]:
    return _taken(lambda: RecordSchema.from_json_schema(state), RECORDS)


def _taken(read: Callable[[], RecordSchema], table: pd.DataFrame) -> tuple[str, str]:
    """Whether a schema is one that records can be learnt by and come back from, or says that it is none."""
    try:
        schema = read()
        if RecordSchema.from_dict(schema.to_dict()).to_dict() != schema.to_dict():
            return "invalid", f"{schema} changes in its file"
        schema.to_json_schema()
        table = schema.conform(table[[name for name in schema.names if name in table]])
        return comes_back(table, table, DiffLMProcessor.from_records(table, schema))
    except Exception as error:
        return judge(error)


ATTACKS: dict[str, tuple[st.SearchStrategy, Callable[[Any, Path], tuple[str, str]]]] = {
    "tables": (tables(), written_again),
    "schemas": (schema_states(), taken_from_state),
    "json_schemas": (json_schemas(), taken_from_json_schema),
}


def each_case(attack: str, num: int, seed: int, take: Callable[[str, Run], None]) -> None:
    """Hands over so many cases of an attack."""
    strategy, run = ATTACKS[attack]

    @hypothesis.seed(seed)
    @settings(
        max_examples=num,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        take(described(case)[:300], partial(run, case))

    each()


def described(case: Any) -> str:
    if not isinstance(case, pd.DataFrame):
        return repr(case)
    parts = (case.iloc[:, k] for k in range(case.shape[1]))
    return str([(part.name, str(part.dtype), SHORT.repr(part.tolist())) for part in parts])
