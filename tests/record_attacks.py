"""Odd tables, schemas and JSON Schemas, by hypothesis: read and written again without loss, or one clear error."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
from call_attacks import LONG, SCALARS, Run, judge
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from difflm_hf import DiffLMProcessor, RecordSchema


NAMES = st.text(max_size=6) | st.sampled_from(["a", "b", "id", "a.b", " ", "\ud800", "x" * 300, "ſ", "$ref"])
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
    *("period[M]", "interval"),
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
            return column.astype(dtype)
        except Exception:  # values that the dtype does not take
            continue
    return column if draw(st.booleans()) else column.infer_objects()


@st.composite
def tables(draw: Callable) -> pd.DataFrame:
    num_records = draw(st.sampled_from([0, 1, 2, 5, 30]))
    parts = draw(st.lists(columns(num_records), max_size=4))
    unique = draw(st.sampled_from([True, True, True, False]))
    names = draw(st.lists(draw(st.sampled_from([NAMES, ODD_NAMES])), min_size=len(parts), max_size=len(parts)))
    table = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=range(num_records))
    table.columns = [f"{name}{k}" if unique and isinstance(name, str) else name for k, name in enumerate(names)]
    if draw(st.integers(0, 9)) == 0:
        table.index = draw(st.permutations(range(num_records)))
    return table


def written_again(table: pd.DataFrame, folder: Path) -> tuple[str, str]:
    """Whether a table comes back from its schema, from tokens, and from the schema's own file."""
    try:
        schema = RecordSchema.infer(table)
        plain = schema.conform(table)
        schema.save(folder / "schema.json")
        if RecordSchema.load(folder / "schema.json").to_dict() != schema.to_dict():
            return "invalid", "the schema changes in its file"
        schema.to_json_schema()
        processor = DiffLMProcessor.from_records(table)
        batch = processor(table)
        ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"].numpy()
        offsets = batch["within_bin_offsets"].numpy() if "within_bin_offsets" in batch else None
        decoded, is_valid = processor.decode_records(ids, offsets)
        if not is_valid.all() or not are_same(decoded, plain.reset_index(drop=True)):
            return "invalid", f"{plain.to_dict('list')} became {decoded.to_dict('list')}"
        return "records", ""
    except Exception as error:
        return judge(error)


def are_same(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two tables hold the same, nulls of whatever kind included."""

    def plain(table: pd.DataFrame) -> list:
        return [[None if _is_null(value) else value for value in table[name].tolist()] for name in table]

    return list(first) == list(second) and repr(plain(first)) == repr(plain(second))


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


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


JSON_SCHEMAS = st.recursive(
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


@st.composite
def schema_states(draw: Callable) -> Any:
    """What a schema is saved as, with one or two of its parts replaced or left out."""
    names = draw(st.lists(st.sampled_from(list(RECORDS)), min_size=1, max_size=4, unique=True))
    state = copy.deepcopy(RecordSchema.infer(RECORDS[names]).to_dict())
    for _ in range(draw(st.integers(1, 2))):
        place = state
        while isinstance(place, (dict, list)) and len(place):
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.integers(0, 3)) == 0:
                if draw(st.integers(0, 5)) == 0:
                    del place[key]
                else:
                    place[key] = draw(JSON | st.sampled_from(["integer", "category", "json", -1, 10**12, "int64"]))
                break
            place = place[key]
    return names, state


def taken_from_state(case: tuple[list[str], Any], folder: Path) -> tuple[str, str]:
    names, state = case
    return _taken(lambda: RecordSchema.from_dict(state), RECORDS[names])


def taken_from_json_schema(state: Any, folder: Path) -> tuple[str, str]:
    return _taken(lambda: RecordSchema.from_json_schema(state), RECORDS)


def _taken(read: Callable[[], RecordSchema], table: pd.DataFrame) -> tuple[str, str]:
    """Whether a schema is one that records can be learnt by, or says that it is none."""
    try:
        schema = read()
        schema.to_dict()
        table = schema.conform(table[[name for name in schema.names if name in table]])
        DiffLMProcessor.from_records(table, schema)(table)
        return "records", ""
    except Exception as error:
        return judge(error)


ATTACKS: dict[str, tuple[st.SearchStrategy, Callable[[Any, Path], tuple[str, str]]]] = {
    "tables": (tables(), written_again),
    "schemas": (schema_states(), taken_from_state),
    "json_schemas": (JSON_SCHEMAS, taken_from_json_schema),
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
        take(repr(case)[:300], partial(run, case))

    each()
