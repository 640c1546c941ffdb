"""Records that are no rows of tables: what JSON and texts hold comes out as it went in, and nothing else does."""

import json
from functools import partial
from typing import Literal

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from difflm_hf import DiffLMProcessor
from difflm_hf.records import Field, JSONCodec, RecordSchema, TextCodec, read_table, write_table
from difflm_hf.records.grammar import JSONGrammar


# Values inside values take long to draw on a busy machine.
thorough = settings(suppress_health_check=[HealthCheck.too_slow])

SPECIAL_TEXTS = ["", " ", "</s>", "<s>a</s>", "<pad>", "⟨/s⟩", "⟨s⟩⟨pad⟩", "a\r\nb\0", "null", '{"text": 1}', "👍🏽 é"]
TEXTS = st.text(max_size=8) | st.sampled_from(SPECIAL_TEXTS)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
KEYS = st.text(max_size=3)


def nested_in(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=3)


NESTED = nested_in(st.recursive(SCALARS, nested_in, max_leaves=6))
RECORDS = st.lists(
    st.fixed_dictionaries({"x": NESTED}, optional={"y": NESTED | st.none(), "ü": NESTED}), min_size=1, max_size=4
)


def as_read(schema: RecordSchema, records: list[dict]) -> list[dict]:
    """Records without the nulls that stand for what is not there."""
    return [
        {name: value for name, value in record.items() if value is not None or not schema[name].optional}
        for record in records
    ]


def to_records(schema: RecordSchema, table: pd.DataFrame) -> list[dict]:
    return as_read(schema, table.to_dict("records"))


def assert_same(a, b) -> None:
    """To the type and the last digit: for Python, 1, 1.0 and true are one, and 0.0 and -0.0, too."""
    assert json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def make_tokenizer(**specials) -> PreTrainedTokenizerFast:
    """A token for each byte, and those of the special tokens."""
    names = ["<pad>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.add_special_tokens(names)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


SPECIALS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(**SPECIALS)


def grammar_allows(grammar: JSONGrammar, text: str, tokenizer) -> bool:
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids, parser = [*encoded, tokenizer.eos_token_id], grammar.start()
    try:
        while not parser.is_complete and parser.ids == ids[: len(parser.ids)]:
            parser.append(ids[len(parser.ids)])
    except ValueError:
        return False
    return parser.ids == ids


def json_schema_of(values: list) -> dict:
    return RecordSchema.infer([{"x": value} for value in values])["x"].json_schema


def of_objects(properties: dict, required: list[str] | None = None, **keywords) -> dict:
    """The JSON Schema of objects with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **keywords,
    }


def array_of(items: dict, shortest: int, longest: int) -> dict:
    return {"type": "array", "items": items, "minItems": shortest, "maxItems": longest}


# Inference


ONE_TWO = {"type": "integer", "minimum": 1, "maximum": 2}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"a": 1}, {"a": 2}], of_objects({"a": ONE_TWO})),
        ([{"a": 1, "b": True}, {"a": 2}], of_objects({"a": ONE_TWO, "b": {"type": "boolean"}}, ["a"])),
        ([{}], of_objects({})),
        ([[1], [2, 1], []], array_of(ONE_TWO, 0, 2)),
        ([[]], array_of({}, 0, 0)),
        ([["a"], ["bcd"]], array_of({"type": "string", "maxLength": 3}, 1, 1)),
        ([[1, 2.5]], array_of({"type": "number", "minimum": 1.0, "maximum": 2.5}, 2, 2)),
        ([[None]], array_of({"type": "null"}, 1, 1)),
        ([{"a": None}, {"a": [1, 2]}], of_objects({"a": {"anyOf": [array_of(ONE_TWO, 2, 2), {"type": "null"}]}})),
        (
            [[True, "ab", {"k": []}, None]],
            array_of(
                {
                    "anyOf": [
                        {"type": "boolean"},
                        {"type": "string", "maxLength": 2},
                        of_objects({"k": array_of({}, 0, 0)}),
                        {"type": "null"},
                    ]
                },
                4,
                4,
            ),
        ),
        ([{"a": {"b": [{"c": 1}, {}]}}, {"a": {"b": [{"c": 2}]}}], None),
    ],
    ids=str,
)
def test_infer(values, expected):
    if expected is None:
        items = of_objects({"c": ONE_TWO}, [])
        expected = of_objects({"a": of_objects({"b": array_of(items, 1, 2)})})
    assert json_schema_of(values) == expected


def test_infer_kinds_of_columns():
    records = [{"id": 1, "x": {"a": 1}, "z": None}, {"id": 2, "x": None, "y": []}, {"id": 3, "x": 5, "y": None}]
    schema = RecordSchema.infer(records)
    assert [(f.name, f.type, f.nullable, f.optional) for f in schema] == [
        ("id", "integer", False, False),
        ("x", "json", True, False),
        ("y", "json", True, True),
        ("z", "null", True, True),
    ]
    assert schema["x"].json_schema["anyOf"][1] == {"type": "integer", "minimum": 5, "maximum": 5}
    assert schema.is_of_documents and not schema.is_of_texts


@pytest.mark.parametrize(("counts", "is_enum"), [([10, 11], True), ([9, 40], False), ([10] * 64, True)])
def test_infer_enumerations_without_rare_values(counts, is_enum):
    strings = [f"s{i:02}" for i, count in enumerate(counts) for _ in range(count)]
    inside = json_schema_of([{"k": string} for string in strings])["properties"]["k"]
    assert inside == ({"enum": sorted(set(strings))} if is_enum else {"type": "string", "maxLength": 3})


def test_infer_enumerations_of_few_values():
    strings = [f"s{i % 65}" for i in range(65 * 10)]
    assert json_schema_of([[string] for string in strings])["items"] == {"type": "string", "maxLength": 3}


def test_infer_dates_inside():
    items = json_schema_of([["2020-01-31"], ["2021-05-01"]])["items"]
    validator = jsonschema.Draft202012Validator(items)
    days = {"2020-12-31": True, "2021-02-03": True, "2022-01-01": False, "2020-13-01": False, "today": False}
    assert {day: validator.is_valid(day) for day in days} == days


@pytest.mark.parametrize(
    ("objects", "is_map"),
    [
        ([{f"k{i}": i for i in range(64)}], False),
        ([{f"k{i}": i for i in range(65)}], True),
        ([{f"k{i}": i} for i in range(10)], False),
        ([{f"k{i}": i} for i in range(11)], True),
    ],
)
def test_infer_maps_from_names_to_values(objects, is_map):
    inferred = json_schema_of(objects)
    if is_map:
        highest = max(max(value.values()) for value in objects)
        values = {"type": "integer", "minimum": 0, "maximum": highest}
        assert inferred == {"type": "object", "additionalProperties": values}
    else:
        assert set(inferred["properties"]) == {f"k{i}" for i in range(sum(map(len, objects)))}
    validator = jsonschema.Draft202012Validator(inferred)
    assert validator.is_valid({"new": 5}) == is_map and all(map(validator.is_valid, objects))


def test_infer_the_order_of_keys():
    records = [{"z": 1, "x": {"q": 1, "b": 2}}, {"z": 1, "m": 0, "x": {"q": 1, "a": [{"d": 1, "c": 2}], "b": 2}}]
    schema = RecordSchema.infer(records)
    assert schema.names == ["z", "m", "x"]
    inside = schema["x"].json_schema["properties"]
    assert list(inside) == ["q", "a", "b"] and list(inside["a"]["items"]["properties"]) == ["d", "c"]


@thorough
@given(RECORDS)
def test_a_schema_accepts_what_it_was_inferred_from(records):
    schema = RecordSchema.infer(records)
    schema.conform(records)
    validator = jsonschema.Draft202012Validator(schema.to_json_schema())
    for record in as_read(schema, records):
        validator.validate(record)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([2**63], f"{2**63} cannot be kept as an integer between"),
        ([float("inf")], "an infinite number; replace it"),
        ({"a": ["\ud83d"]}, "half a character"),
        ([pd.Timestamp(0)], "which JSON does not have; convert it"),
        ([1.5, float("nan")], "nan, which JSON does not have; replace it"),
        ({1: "a"}, "1"),
    ],
    ids=str,
)
def test_infer_names_columns_of_what_json_cannot_hold(value, message):
    with pytest.raises(ValueError, match=f"column 'x': .*{message}"):
        RecordSchema.infer([{"x": value}])


# JSON Schemas and pydantic


DEFINITIONS = {
    "item": of_objects({"name": {"type": "string"}, "price": {"type": "number", "minimum": 0}}, ["name"]),
    "tree": of_objects(
        {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}
    ),
}
TREE = {"value": 1, "children": [{"value": 2, "children": []}, {"value": 3, "children": []}]}
BAD_TREE = {"value": 1, "children": [{"value": "2", "children": []}]}
PARTS = [
    ({"type": "integer", "minimum": 0, "maximum": 5}, [0, 5], [-1, 6, "1", None, 1.5]),
    ({"type": "number", "exclusiveMinimum": 0}, [1e-7, 3], [0, -1, "1", None]),
    ({"type": "boolean"}, [True, False], ["true", 2, None]),
    ({"type": "null", "title": "nothing"}, [None], [0, ""]),
    ({"type": "string", "maxLength": 2, "title": "A title"}, ["", "ab", "👍🏽"], ["abc", 1, None]),
    ({"type": "string", "pattern": "^[ab]+$"}, ["ab"], ["", "c", 1, None]),
    ({"type": "string", "format": "date"}, ["2020-01-01"], [1, None]),
    ({"const": "a"}, ["a"], ["b", None]),
    ({"enum": ["a", "b", None]}, ["a", None], ["c", 1]),
    ({"enum": ["a", 1, [2]]}, ["a", 1, [2]], ["b", 2, [1], None]),
    ({"type": ["integer", "null"], "maximum": 3}, [3, None], [4, "3"]),
    ({"type": ["integer", "string"]}, [3, "a"], [[], 0.5, None]),
    ({"anyOf": [{"type": "string", "maxLength": 2}, {"type": "null"}]}, ["ab", None], ["abc", 1]),
    ({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/item"}]}, [1, {"name": "a"}], ["a", {}, None]),
    ({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}, [2, 3], [6, 5]),
    ({"$ref": "#/$defs/item"}, [{"name": "a"}, {"price": 0.5, "name": "b"}], [{}, {"name": "a", "price": -1}, None]),
    ({"$ref": "#/$defs/tree"}, [TREE], [BAD_TREE, {}, {**TREE, "new": 1}]),
    ({"type": "array", "items": {"$ref": "#/$defs/item"}, "maxItems": 1}, [[], [{"name": ""}]], [[{"name": ""}] * 2]),
    ({"type": "array", "uniqueItems": True}, [[1, 2]], [[1, 1], {}]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1}], [{"a": "1"}, []]),
    ({}, [1, "a", [], {"a": [1]}], []),
    pytest.param({"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]}, [{"name": ""}, None], [1]),
    pytest.param({"type": ["integer", "string", "null"]}, [1, "a", None], [[]]),
    pytest.param({"type": ["array", "null"]}, [[1], None], [1]),
    pytest.param({"const": None}, [None], [1]),
    pytest.param({"type": "null"}, [None], [0, ""]),
    pytest.param(
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "minimum": 3},
        [3, None],
        [2],
    ),
    ({"enum": [1, 2]}, [1, 2], [3, True, "1", None]),
    ({"enum": [True]}, [True], [1, False, None]),
    ({"type": "boolean"}, [True, False], [0, 1, None]),
    pytest.param(
        True,
        [1, "a", []],
        [],
    ),
]


@pytest.mark.parametrize(("part", "good", "bad"), PARTS, ids=str)
def test_json_schemas_accept_what_they_did(part, good, bad):
    original = of_objects({"x": part}, **{"$defs": DEFINITIONS})
    schema = RecordSchema.from_json_schema(original)
    for form in (original, schema.to_json_schema(), RecordSchema.from_dict(schema.to_dict()).to_json_schema()):
        validator = jsonschema.Draft202012Validator(form)
        assert [validator.is_valid({"x": value}) for value in good + bad] == [True] * len(good) + [False] * len(bad)
    codec = JSONCodec(schema)
    _, valid = codec.decode([json.dumps({"x": value}) for value in good + bad])
    assert valid.tolist() == [True] * len(good) + [False] * len(bad)
    for value in good:
        assert_same(json.loads(codec.encode([{"x": value}])[0]), {"x": value})
    for value in bad:
        with pytest.raises(ValueError, match="column 'x': .* row 0"):
            codec.encode([{"x": value}])


def test_json_schemas_become_fields():
    part = {"type": "string", "format": "date", "description": "of birth"}
    nullable = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "title": "N"}
    enum = {"enum": [*"ab"], "type": "string"}
    properties = {"s": nullable, "a": enum, "d": part}
    schema = RecordSchema.from_json_schema({"properties": properties, "required": ["s", "d"]})
    assert schema.fields == [
        Field("s", "integer", nullable=True, minimum=1),
        Field("a", "category", optional=True, categories=["a", "b"]),
        Field("d", "json", json_schema=part),
    ]
    assert schema.to_json_schema()["required"] == ["s", "d"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "array", "items": {}}, "the JSON Schema is not of objects with `properties`"),
        ({"type": "object"}, "the JSON Schema is not of objects with `properties`"),
        ({"type": "object", "properties": {}}, "the JSON Schema is not of objects with `properties`"),
        ({"properties": {"a": {}}, "required": ["z", "a"]}, "the JSON Schema requires 'z', which is not among"),
        ([{"type": "object"}], r"`schema` is not a JSON Schema, at \$: "),
        (
            {"properties": {"a": {"type": "x"}}},
            r"`schema` is not a JSON Schema, at \$\.properties\.a\.type: 'x'",
        ),
        ({"properties": {"a": {"pattern": "("}}}, r"`schema` is not a JSON Schema, at \$\.properties\.a\.pattern: "),
        (True, "the JSON Schema is not of objects with `properties`"),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, "the JSON Schema has 'minProperties', which"),
        ({"properties": {"a": {}}, "allOf": [{"required": ["a"]}]}, "the JSON Schema has 'allOf', which no field"),
    ],
    ids=str,
)
def test_what_is_no_schema_of_records(schema, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RecordSchema.from_json_schema(schema)


def doubling(times: int) -> dict:
    """A schema that each definition of which has twice what the one before has."""
    part = [{"type": "integer"}, *({"allOf": [{"$ref": f"#/$defs/{k}"}] * 2} for k in range(times))]
    return of_objects({"x": {"$ref": f"#/$defs/{times}"}}, **{"$defs": {str(k): p for k, p in enumerate(part)}})


def nested(times: int) -> dict:
    part = {"type": "integer"}
    for _ in range(times):
        part = {"type": "array", "items": part}
    return of_objects({"x": part})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (doubling(30), "comes to [0-9,]+ parts by what it refers to, and may have 1,000,000"),
        (nested(1000), "nested too deeply"),
    ],
    ids=["doubling", "nested"],
)
def test_schemas_without_end(schema, message):
    with pytest.raises(ValueError, match=message):
        RecordSchema.from_json_schema(schema)


def test_schemas_that_are_large_but_have_an_end():
    for schema, value in ((doubling(8), 3), (nested(30), eval("[" * 30 + "3" + "]" * 30))):
        RecordSchema.from_json_schema(schema).conform([{"x": value}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "pattern": "^(a|aa)+$"},
        {"type": "object", "patternProperties": {"^(a|aa)+$": {}}},
        {"type": "object", "patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": {"type": "integer"}},
    ],
    ids=["pattern", "properties", "others"],
)
def test_patterns_without_end(part):
    schema = RecordSchema.from_json_schema(of_objects({"x": {"type": "array", "items": part}}))
    text, fine = "a" * 60 + "!", "aaa"
    [item] = [{fine: 1} if part["type"] == "object" else fine]
    schema.conform([{"x": [item]}])
    with pytest.raises(ValueError, match="the pattern '.* which takes too long; write it anew"):
        schema.conform([{"x": [{text: 1} if part["type"] == "object" else text]}])


@pytest.mark.parametrize("reference", ["#/$defs/gone", "#/definitions/a", "https://example.com/schema"])
def test_references_to_what_is_not_there(reference):
    with pytest.raises(ValueError, match="column 'x': `schema` refers to .* which it does not hold; add it under"):
        RecordSchema.from_json_schema(of_objects({"x": {"$ref": reference}}, definitions={"a": {}}))


@pytest.mark.parametrize(
    "definitions",
    [
        {},
        {"$defs": {"record": {"type": "null"}}},
        {"$id": "https://example.com/tree", "$schema": "http://json-schema.org/draft-07/schema#"},
    ],
    ids=str,
)
def test_references_to_the_schema_itself(definitions, tokenizer):
    properties = {"v": {"type": "integer"}, "c": {"type": "array", "items": {"$ref": "#"}}}
    original = of_objects(properties, **definitions)
    record = {"v": 1, "c": [{"v": 2, "c": [{"v": 3, "c": []}]}]}
    jsonschema.Draft202012Validator(original).validate(record)
    schema = RecordSchema.from_json_schema(original)
    schema.conform([record])
    jsonschema.Draft202012Validator(schema.to_json_schema()).validate(record)
    with pytest.raises(ValueError, match="column 'c'"):
        schema.conform([{"v": 1, "c": [{"v": 2, "c": [3]}]}])
    assert_grammar_allows(schema, [record], tokenizer)


def test_definitions_of_one_name_and_two_meanings():
    fields = [
        Field(name, "json", json_schema={"$ref": "#/$defs/s", "$defs": {"s": {"type": type}}})
        for name, type in {"a": "integer", "b": "string"}.items()
    ]
    with pytest.raises(ValueError, match="column 'b': another field defines 's' otherwise; rename one in"):
        RecordSchema(fields).to_json_schema()


def test_pydantic_models():
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=5)
        tags: list[str] = []

    class Order(pydantic.BaseModel):
        status: Literal["open", "sent"]
        count: int = pydantic.Field(ge=1, le=9, description="how many")
        items: list[Item]
        prices: dict[str, float]
        code: int | str
        note: str | None = None
        by_name: bool = pydantic.Field(alias="byName")

    schema = RecordSchema.from_pydantic(Order)
    assert [(f.name, f.type, f.optional) for f in schema] == [
        ("status", "category", False),
        ("count", "integer", False),
        ("items", "json", False),
        ("prices", "json", False),
        ("code", "json", False),
        ("note", "text", True),
        ("byName", "boolean", False),
    ]
    good = {"status": "open", "count": 2, "items": [{"name": "tea"}], "prices": {"a": 1e-7}, "code": "x"}
    good["byName"] = True
    changes = [{}, {"note": "n"}, {"code": 3}, {"items": [{"name": "a", "tags": ["b"]}]}]
    changes += [{"count": 0}, {"items": [{"name": "longer"}]}, {"items": [{}]}, {"prices": {"a": "1"}}, {"code": []}]
    for change in changes:
        record = good | change
        try:
            Order.model_validate_json(json.dumps(record), strict=True)
            is_valid = True
        except pydantic.ValidationError:
            is_valid = False
        assert jsonschema.Draft202012Validator(schema.to_json_schema()).is_valid(record) == is_valid
        assert JSONCodec(schema).decode([json.dumps(record)])[1][0] == is_valid


def test_pydantic_models_inside_themselves():
    pydantic = pytest.importorskip("pydantic")

    class Node(pydantic.BaseModel):
        value: int
        children: list["Node"]

    schema = RecordSchema.from_pydantic(Node)
    assert schema.names == ["value", "children"]
    schema.conform([TREE])


@thorough
@given(records=RECORDS)
def test_schemas_save_and_load(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    schema = RecordSchema.infer(records)
    schema.save(path)
    for other in (RecordSchema.load(path), RecordSchema.from_dict(json.loads(json.dumps(schema.to_dict())))):
        assert other == schema
        assert json.dumps(other.to_json_schema()) == json.dumps(schema.to_json_schema())


def test_schemas_keep_the_order_of_properties(tmp_path):
    properties = {"z": {"$ref": "#/$defs/tree"}, "b": of_objects({"y": {}, "a": {}})}
    original = of_objects(properties, **{"$defs": DEFINITIONS})
    schema = RecordSchema.from_json_schema(original)
    processor = DiffLMProcessor.from_records([{"z": TREE, "b": {"y": 1, "a": 2}}], schema)
    processor.save_pretrained(tmp_path)  # which sorts keys
    schema.save(path := tmp_path / "schema.json")
    for other in (schema, RecordSchema.load(path), DiffLMProcessor.from_pretrained(tmp_path).schema):
        assert json.dumps(other.to_json_schema()["properties"]) == json.dumps(properties)
        assert JSONCodec(other).encode([{"b": {"a": 2, "y": 1}, "z": {"children": [], "value": 1}}]) == [
            '{"z": {"value": 1, "children": []}, "b": {"y": 1, "a": 2}}'
        ]


def test_schemas_that_do_not_load(tmp_path):
    (tmp_path / "schema.json").write_text('[{"name": "x", "type": "json"}]')
    with pytest.raises(ValueError, match=r"schema\.json: not a record schema .*'x' is of nested values; give its"):
        RecordSchema.load(tmp_path / "schema.json")


# The JSON codec


@thorough
@given(RECORDS, st.integers(0, 2**32 - 1))
def test_json_comes_back_exactly(records, seed):
    schema = RecordSchema.infer(records)
    codec = JSONCodec.from_dict(json.loads(json.dumps(JSONCodec(schema).to_dict())))
    expected = as_read(schema, records)
    in_order, shuffled = codec.encode(records), codec.encode(records, np.random.default_rng(seed))
    for texts in (in_order, shuffled):
        assert_same(list(map(json.loads, texts)), expected)
        table, valid = codec.decode(texts)
        assert valid.all() and table.columns.tolist() == schema.names
        assert_same(to_records(schema, table), expected)
    has_maps = '"additionalProperties": {' in json.dumps(schema.to_json_schema())  # whose keys stay as they are
    assert codec.encode(with_reversed_keys(records)) == in_order or has_maps


def with_reversed_keys(value):
    if isinstance(value, list):
        return [with_reversed_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: with_reversed_keys(item) for key, item in reversed(value.items())}
    return value


@thorough
@given(RECORDS)
def test_a_grammar_allows_real_records(records):
    tokenizer = make_tokenizer(**SPECIALS)
    records = json.loads(json.dumps(records, ensure_ascii=False).replace("\x7f", ""))  # which llguidance wants escaped
    codec = JSONCodec(RecordSchema.infer(records))
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    for text in codec.encode(records):
        assert grammar_allows(grammar, text, tokenizer), text
        assert not grammar_allows(grammar, text[:-1] + ', "new": 1}', tokenizer)


NESTED_FIELD = RecordSchema.from_json_schema(
    of_objects(
        {
            "id": {"type": "integer"},
            "x": of_objects({"b": {"type": "array", "items": {"type": "number"}, "maxItems": 2}, "a": {}}, ["b"]),
        }
    )
)


def test_json_keeps_order_and_digits():
    records = [
        {"x": {"a": {"z": 10**30, "y": -(10**30)}, "b": [1e-300, 1.0]}, "id": -5},
        {"x": {"b": [0.1, 5e300]}, "id": 2**63 - 1},
        {"x": {"a": None, "b": []}, "id": 0},
    ]
    codec = JSONCodec(NESTED_FIELD)
    texts = codec.encode(records)
    assert texts == [
        '{"id": -5, "x": {"b": [1e-300, 1.0], "a": {"z": 1000000000000000000000000000000, '
        '"y": -1000000000000000000000000000000}}}',
        '{"id": 9223372036854775807, "x": {"b": [0.1, 5e+300]}}',
        '{"id": 0, "x": {"b": [], "a": null}}',
    ]
    table, valid = codec.decode(texts)
    assert valid.all()
    assert_same(table.to_dict("records"), records)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        '[{"id": 1, "x": {"b": []}}]',
        '{"id": 1}',
        '{"id": 1, "x": null}',
        '{"id": 1, "x": []}',
        '{"id": 1, "x": {}}',
        '{"id": 1.5, "x": {"b": []}}',
        '{"id": 1, "x": {"b": []}, "y": 1}',
        '{"id": 1, "x": {"b": [], "c": 1}}',
        '{"id": 1, "x": {"b": [1, 2, 3]}}',
        '{"id": 1, "x": {"b": ["1"]}}',
        '{"id": 1, "x": {"b": [NaN]}}',
        '{"id": 1, "x": {"b": [1e999]}}',
        '{"id": 1, "x": {"b": [], "a": -Infinity}}',
        '{"id": 1, "x": {"b": [], "a": "\\ud83d"}}',
        '{"id": 1, "x": {"b": [], "a": ' + "[" * 10**5,
        '{"id": 1, "x": {"b": []}} {}',
    ],
    ids=lambda text: text[:40],
)
def test_json_drops_invalid_texts(text):
    table, valid = JSONCodec(NESTED_FIELD).decode([text])
    assert valid.tolist() == [False] and len(table) == 0 and table.columns.tolist() == ["id", "x"]


def test_json_keeps_the_valid_texts_among_others():
    texts = [
        '{"id": 1, "x": {"b": ["no"]}}',
        '{"id": 2, "x": {"b": [2]}}',
        "no JSON",
        '{"id": 3, "x": {}}',
        '{"id": 4, "x": {"b": [4]}}',
    ]
    table, valid = JSONCodec(NESTED_FIELD).decode(texts)
    assert valid.tolist() == [False, True, False, False, True]
    assert table.to_dict("records") == [{"id": 2, "x": {"b": [2]}}, {"id": 4, "x": {"b": [4]}}]


@pytest.mark.parametrize(
    "part", [{"type": "null"}, {"anyOf": [{"type": "array"}, {"type": "null"}]}, {"type": ["object", "null"]}], ids=str
)
def test_grammars_and_codecs_agree_on_null(part):
    codec = JSONCodec(RecordSchema.from_json_schema(of_objects({"x": part, "y": {"type": "array"}}, ["y"])))
    record = {"x": None, "y": [1]}
    is_allowed = jsonschema.Draft202012Validator(codec.grammar_schema()).is_valid(record)
    assert codec.decode([json.dumps(record)])[1].tolist() == [is_allowed]


def assert_grammar_allows(schema: RecordSchema, records: list[dict], tokenizer) -> None:
    codec = JSONCodec(schema)
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    texts = codec.encode(records)
    assert [text for text in texts if not grammar_allows(grammar, text, tokenizer)] == []


def xfail_grammar(value, reason):
    return pytest.param(value, marks=pytest.mark.xfail(strict=True, reason=reason), id=str(value)[:40])


@pytest.mark.parametrize(
    "values",
    [
        [{"a": 1e-7}, {"a": 1e300}, {"a": -0.0}, {"a": 12}],
        [{"a": 2**53}, {"a": -(2**53)}],
        [[f"2020-01-{day:02}"] for day in range(1, 20)],
        [{f"name {i} ü\n": [i]} for i in range(70)],
        [["red"]] * 10 + [["grün\0"]] * 10,
        [[True, 1, "a", None, 2.5, {}, [], [[]]]],
        [{"a": 2**63 - 1}, {"a": -(2**63)}],
        xfail_grammar([["\x7f"]], "llguidance wants DEL escaped, which JSON does not"),
    ],
    ids=lambda values: str(values)[:40],
)
def test_grammars_of_inferred_schemas(values, tokenizer):
    records = [{"x": value} for value in values]
    assert_grammar_allows(RecordSchema.infer(records), records, tokenizer)


@pytest.mark.parametrize(
    "name",
    [
        *("type", "properties", "items", "required", "anyOf", "$ref", "$defs", "minimum", "multipleOf"),
        *("enum", "const", "default", "examples", "uniqueItems"),
    ],
)
def test_keys_that_are_named_like_keywords(name, tokenizer):
    records = [{"x": {name: 1e-7, "b": 1}}, {"x": {name: 1e300, "b": 2}}]
    schema = RecordSchema.infer(records)
    assert_same(to_records(schema, JSONCodec(schema).decode(JSONCodec(schema).encode(records))[0]), records)
    assert_grammar_allows(schema, records, tokenizer)


CAT = of_objects({"kind": {"const": "cat"}, "lives": {"type": "integer"}})
DOG = of_objects({"name": {"type": "string"}, "kind": {"const": "dog"}})


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ({"$ref": "#/$defs/tree"}, [TREE, {"value": 1, "children": []}]),
        ({"$ref": "#/$defs/item"}, [{"price": 2, "name": "a"}, {"name": "b"}]),
        ({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}, [[1, 2], []]),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "^[ab]+$"}}}, [{"a": "abba"}, {}]),
        ({"anyOf": [CAT, {"type": "string"}]}, [{"lives": 7, "kind": "cat"}, "cat"]),
        pytest.param(
            {"anyOf": [CAT, DOG]},
            [{"kind": "cat", "lives": 7}, {"name": "Rex", "kind": "dog"}],
        ),
    ],
    ids=str,
)
def test_grammars_of_json_schemas(part, values, tokenizer):
    schema = RecordSchema.from_json_schema(of_objects({"x": part}, **{"$defs": DEFINITIONS}))
    assert_grammar_allows(schema, [{"x": value} for value in values], tokenizer)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": 7, "x": {"b": ["z"]}}, r"column 'x': {'b': \['z'\]} in row 1 is not .*, at \$\.b\[0\]: 'z' is not of"),
        ({"id": 7, "x": {"a": 1}}, r"column 'x': {'a': 1} in row 1 is not .*, at \$: 'b' is a required property; "),
        ({"id": 7, "x": {"b": [], "new": 1}}, r"row 1 is not .*, at \$: .*'new' was unexpected\); drop the record"),
        ({"id": 7, "x": {"b": [1] * 3}}, r"row 1 is not .*, at \$\.b: .* is too long"),
        pytest.param(
            {"id": 7, "x": {"b": [1] * 200}},
            r"row 1 is not .*, at \$\.b: .* is too long",
            id="long",
        ),
        ({"id": 7, "x": None}, "column 'x': null in row 1; fill it, drop the record, or set nullable=True"),
        ({"id": 7, "x": {"b": [], "a": float("nan")}}, "column 'x': .* in row 1 is not what its JSON Schema allows"),
        ({"id": 7, "x": {"b": [], "a": "\ud83d"}}, "column 'x': .* in row 1 is not what its JSON Schema allows"),
        ({"id": 1.5, "x": {"b": []}}, "column 'id': 1.5 in row 1 is not an integer"),
        ({"id": 7}, "column 'x': null in row 1"),
    ],
    ids=str,
)
def test_records_that_disagree_with_the_schema(record, message):
    for use in (NESTED_FIELD.conform, JSONCodec(NESTED_FIELD).encode):
        with pytest.raises(ValueError, match=message):
            use([{"id": 0, "x": {"b": []}}, record])


@pytest.mark.parametrize("kind", ["large", "deep"])
def test_values_that_no_validator_can_check(kind):
    schema = RecordSchema.from_json_schema(of_objects({"x": {"type": "array", "items": {"multipleOf": 0.5}}}))
    value = [10**400]
    if kind == "deep":
        for _ in range(3000):
            value = [value]
    with pytest.raises(ValueError, match="column 'x': .* row 0"):
        schema.conform([{"x": value}])


# Texts


ANY_TEXT = RecordSchema([Field("text", "text")])


@thorough
@given(st.lists(TEXTS, min_size=1))
def test_texts_come_back_exactly(texts):
    schema = RecordSchema([Field("text", "text", max_length=max(map(len, texts)))])
    codec = TextCodec.from_dict(json.loads(json.dumps(TextCodec(schema).to_dict())))
    encoded = codec.encode([{"text": text} for text in texts])
    assert encoded == texts
    table, valid = codec.decode(encoded)
    assert valid.all() and table["text"].tolist() == texts
    table, valid = codec.decode([*texts, texts[0] + "x" * (schema["text"].max_length + 1)])
    assert valid.tolist() == [True] * len(texts) + [False] and table["text"].tolist() == texts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "null in row 1; fill it, drop the record"),
        ("abcd", "'abcd' in row 1 is not a UTF-8 text of at most 3 characters"),
        (5, "5 in row 1 is not a UTF-8 text"),
        ("\ud83d", r"'\\ud83d' in row 1 is not a UTF-8 text"),
    ],
    ids=str,
)
def test_what_is_no_text(value, message):
    codec = TextCodec(RecordSchema([Field("text", "text", max_length=3)]))
    with pytest.raises(ValueError, match=f"column 'text': {message}"):
        codec.encode([{"text": "abc"}, {"text": value}])


@pytest.mark.parametrize(
    ("records", "codec"),
    [
        ([{"t": "a"}, {"t": "b"}], TextCodec),
        ([{"t": "a"}, {"t": None}], JSONCodec),
        ([{"t": "a", "u": "c"}, {"t": "b", "u": "d"}], JSONCodec),
        ([{"t": [1]}, {"t": ["a"]}], JSONCodec),
    ],
    ids=str,
)
def test_codecs_of_documents(records, codec):
    processor = DiffLMProcessor.from_records(records)
    assert type(processor.codec) is codec and (processor.grammar is None) == (codec is TextCodec)
    table, valid = processor.decode_records(processor(records)["decoder_input_ids"])
    assert valid.all() and table.to_dict("records") == records


def test_texts_that_are_cut_off_are_dropped(tokenizer):
    records = [{"text": "a</s>b"}, {"text": "longer"}]
    for chosen in (None, tokenizer, make_tokenizer(eos_token="</s>")):
        processor = DiffLMProcessor.from_records(records, tokenizer=chosen)
        ids = processor(records)["decoder_input_ids"]
        eos = processor.special_ids[1]
        table, valid = processor.decode_records(ids.masked_fill(ids == eos, processor.tokenizer("x")["input_ids"][0]))
        assert valid.tolist() == [False, False] and len(table) == 0
        table, valid = processor.decode_records(ids)
        assert valid.all() and table.to_dict("records") == records


# Processors


SPECIAL_RECORDS = {
    "texts": [{"text": text} for text in SPECIAL_TEXTS],
    "json": [{"id": i, "x": {"k": [text]}} for i, text in enumerate(SPECIAL_TEXTS)],
}
TOKENIZERS = {
    "from the data": None,
    "complete": SPECIALS,
    "no BOS": {"pad_token": "<pad>", "eos_token": "</s>"},
    "no padding": {"bos_token": "<s>", "eos_token": "</s>"},
    "EOS alone": {"eos_token": "</s>"},
}


@pytest.mark.parametrize("specials", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("records", SPECIAL_RECORDS.values(), ids=SPECIAL_RECORDS)
def test_texts_that_look_like_special_tokens(records, specials, tmp_path):
    """Whatever special tokens the tokenizer has, and after the processor was saved."""
    tokenizer = None if specials is None else make_tokenizer(**specials)
    processor = DiffLMProcessor.from_records(records, tokenizer=tokenizer, nested="json")
    batch = processor(records)
    bos, eos, pad = processor.special_ids
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    assert (ids[:, 0] == bos).all() and (ids[mask == 0] == pad).all()
    assert [row[kept == 1].tolist().index(eos, 1) for row, kept in zip(ids, mask)] == (mask.sum(1) - 1).tolist()
    processor.save_pretrained(tmp_path)
    for one in (processor, DiffLMProcessor.from_pretrained(tmp_path)):
        table, valid = one.decode_records(ids)
        assert valid.all() and table.to_dict("records") == records
        for name, tensor in one(records).items():
            assert tensor.tolist() == batch[name].tolist()
    assert DiffLMProcessor.from_pretrained(tmp_path).schema == processor.schema


@pytest.mark.parametrize("text", ["a </s>", "a <pad> b"])
def test_encoders_read_what_looks_like_special_tokens_as_text(text, tokenizer):
    processor = DiffLMProcessor.from_records([{"text": text}], ANY_TEXT, tokenizer)
    assert not set(processor([{"text": text}])["input_ids"][0].tolist()) & set(processor.special_ids)


@pytest.mark.parametrize("texts", [["", "abc"], [""]], ids=str)
def test_encoders_read_something_of_every_text(texts):
    processor = DiffLMProcessor.from_records([{"text": "abc"}], ANY_TEXT)
    batch = processor([{"text": text} for text in texts])
    assert (batch["attention_mask"].sum(1) > 0).all()
    assert not batch["input_ids"].is_floating_point()


@pytest.fixture(scope="module")
def document_processors():
    texts = [{"text": f"der Wörter {i} sind viele, 字 {i % 3}"} for i in range(30)]
    schema = RecordSchema.from_json_schema(of_objects({"x": {}}))
    return DiffLMProcessor.from_records(texts, ANY_TEXT), DiffLMProcessor.from_records([{"x": texts}], schema)


@thorough
@given(texts=st.lists(TEXTS | st.text(min_size=8), min_size=1, max_size=5))
def test_any_string_comes_back_exactly(document_processors, texts):
    of_texts, of_json = document_processors
    table, valid = of_texts.decode_records(of_texts([{"text": text} for text in texts])["decoder_input_ids"])
    assert valid.all() and table["text"].tolist() == texts
    records = [{"x": {text: [text]}} for text in texts]
    table, valid = of_json.decode_records(of_json(records)["decoder_input_ids"])
    assert valid.all() and table.to_dict("records") == records


@pytest.mark.parametrize("text", ["Ann" * 20, " ".join(f"Ann{letter}" for letter in "abcdefghijklm")], ids=str)
def test_vocabularies_count_records(text):
    records = [{"text": f"{i}"} for i in range(9)] + [{"text": text}]
    processor = DiffLMProcessor.from_records(records, min_token_count=10)
    assert not {"An", "nn", "Ann", "ĠAnn"} & processor.tokenizer.get_vocab().keys()
    table, valid = processor.decode_records(processor(records)["decoder_input_ids"])
    assert valid.all() and table.to_dict("records") == records


@thorough
@given(st.lists(st.text(st.sampled_from("ab ü"), max_size=12), min_size=1, max_size=12), st.integers(1, 5))
def test_pieces_of_vocabularies_are_common(texts, min_count):
    records = [{"text": text} for text in texts]
    processor = DiffLMProcessor.from_records(records, ANY_TEXT, min_token_count=min_count)
    byte_level = processor.tokenizer.backend_tokenizer.pre_tokenizer
    written = ["".join(word for word, _ in byte_level.pre_tokenize_str(text)) for text in texts]
    pieces = [piece for piece in processor.tokenizer.get_vocab() if len(piece) > 1 and "⟨" not in piece]
    assert all(sum(piece in text for text in written) >= min_count for piece in pieces)
    table, valid = processor.decode_records(processor(records)["decoder_input_ids"])
    assert valid.all() and table["text"].tolist() == texts


def test_vocabularies_hold_what_is_common():
    records = [{"text": f"frequent {i}"} for i in range(9)] + [{"text": "frequent rarely rarely rarely"}]
    tokens = {
        count: DiffLMProcessor.from_records(records, min_token_count=count).tokenizer.get_vocab() for count in (1, 5)
    }
    assert "frequent" in tokens[1] and "frequent" in tokens[5]
    assert "Ġrarely" in tokens[1] and "Ġrarely" not in tokens[5]


@pytest.mark.parametrize("chosen", [None, "given"])
@pytest.mark.parametrize("field", ["text", "json"])
def test_documents_that_are_too_long(field, chosen, tokenizer):
    tokenizer = tokenizer if chosen else None
    texts = ["short", "0123456789" * 10, "tiny", "9876543210" * 12]
    records = [{"x": text if field == "text" else {"k": text}} for text in texts]
    processor = DiffLMProcessor.from_records(
        records, tokenizer=tokenizer, max_length=30, min_token_count=100, drop_overlong=True, nested="json"
    )
    mask = processor.too_long(records)
    assert mask.tolist() == [False, True, False, True] and mask.dtype == bool
    longest = 120 + 2 + (0 if field == "text" else len('{"x": {"k": ""}}'))
    with pytest.raises(
        ValueError,
        match=f"^record 3 takes {longest} tokens and max_length is 30, which 2 of 4 records exceed; shorten or drop "
        r"them \(overlong='drop' in training\), or raise max_length: .*9876543210",
    ):
        processor(records)
    kept = [record for record, is_too_long in zip(records, mask) if not is_too_long]
    table, valid = processor.decode_records(processor(kept)["decoder_input_ids"])
    assert valid.all() and table.to_dict("records") == kept
    assert processor.model_config().max_record_length == 30


def test_rows_with_texts_that_are_too_long():
    records = [{"n": i, "text": text} for i, text in enumerate(["short", "0123456789" * 10, "tiny"])]
    with pytest.raises(ValueError, match="column 'text' has a text of 100 characters in row 1"):
        DiffLMProcessor.from_records(records, max_length=30, min_token_count=100)
    processor = DiffLMProcessor.from_records(records, max_length=30, min_token_count=100, drop_overlong=True)
    assert processor.codec.has_fixed_layout and processor.too_long(records).tolist() == [False, True, False]
    assert processor([records[0], records[2]])["input_ids"].shape[0] == 2


@pytest.mark.parametrize("records", [[{"text": "a"}, {"text": "b"}], [{"x": [1]}]], ids=str)
def test_tokenizers_without_an_end(records):
    processor = DiffLMProcessor.from_records(records, tokenizer=make_tokenizer(bos_token="<s>", pad_token="<pad>"))
    for use in (processor, processor.too_long):
        with pytest.raises(ValueError, match="has no EOS token, which ends a record; set tokenizer.eos_token"):
            use(records)


def test_shuffled_keys_are_the_same_records(tokenizer):
    records = [{"x": {"a": i, "b": i % 2, "c": {"d": 1, "e": [2]}}, "y": [i], "z": i} for i in range(20)]
    processors = [
        DiffLMProcessor.from_records(records, tokenizer=tokenizer, key_order=order) for order in ("schema", "shuffled")
    ]
    in_order, shuffled = (processor(records)["decoder_input_ids"] for processor in processors)
    texts = tokenizer.batch_decode(shuffled, skip_special_tokens=True)
    assert texts != tokenizer.batch_decode(in_order, skip_special_tokens=True)
    assert len({tuple(json.loads(text)) for text in texts}) > 1 < len({tuple(json.loads(text)["x"]) for text in texts})
    for ids in (in_order, shuffled):
        table, valid = processors[1].decode_records(ids)
        assert valid.all() and table.to_dict("records") == records
    assert shuffled.tolist() == processors[1](records)["decoder_input_ids"].tolist()
    with pytest.raises(ValueError, match="key_order='random' is not one of 'schema', 'shuffled'"):
        DiffLMProcessor.from_records(records, tokenizer=tokenizer, key_order="random")


@pytest.mark.parametrize("records", [[{"x": "a"}, {"x": "b"}], [{"x": {"k": "a"}}] * 10], ids=str)
def test_what_may_be_published(records, tokenizer):
    make = partial(DiffLMProcessor.from_records, records, nested="json")
    with pytest.raises(ValueError, match="column 'x' is free text: .* fewer than 10 records have; train with"):
        make().check_publishable()
    with pytest.raises(ValueError, match="fewer than 3 records have; train with min_category_count=3"):
        make(min_token_count=2).check_publishable(3)
    make(min_token_count=10).check_publishable()
    make(min_token_count=3).check_publishable(3)
    DiffLMProcessor.from_records(records, tokenizer=tokenizer).check_publishable()  # which knows nothing of the data


def test_rare_categories_beside_nested_values_are_not_published(tokenizer):
    records = [{"color": color, "x": [1]} for color in ["red"] * 20 + ["blue"] * 9]
    processor = DiffLMProcessor.from_records(records, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="the rarest of column 'color' has 9"):
        processor.check_publishable()
    processor.check_publishable(9)


def test_rare_names_inside_nested_values_are_not_published(tokenizer):
    common, of_one = [{"x": {"a": 1}}] * 30, [{"x": {"a": 1, "secret": 2}}]
    repeated = [{"x": ["no"]}] * 20 + [{"x": ["yes"] * 20}]  # often, but in one record
    for records, named in ((common + of_one, "secret"), (repeated, "yes")):
        schema = RecordSchema.infer(records)
        assert schema["x"].rarest == 1 and named in json.dumps(schema.to_dict())
        processor = DiffLMProcessor.from_records(records, schema, tokenizer)
        with pytest.raises(ValueError, match="the rarest of column 'x' has 1;"):
            processor.check_publishable()
        published, kept = schema.without_rare_categories(schema.conform(records), 10)
        assert kept.tolist() == [True] * (len(records) - 1) + [False]
        assert named not in json.dumps(published.to_dict()) and published["x"].rarest == len(records) - 1
        left = [record for record, is_kept in zip(records, kept) if is_kept]
        DiffLMProcessor.from_records(left, published, tokenizer).check_publishable()
        # The schema names them as before, whether or not the data do.
        with pytest.raises(ValueError, match="the rarest of column 'x' has none, or an"):
            DiffLMProcessor.from_records(left, schema, tokenizer).check_publishable()
        published, kept = schema.without_rare_categories(schema.conform(left), 10)
        assert kept.all() and named not in json.dumps(published.to_dict())


def test_what_a_given_schema_names_is_no_secret(tokenizer):
    schema = RecordSchema.from_json_schema(of_objects({"x": of_objects({"a": {"enum": ["yes", "no"]}, "b": {}})}))
    records = [{"x": {"a": "yes", "b": 1}}]
    assert schema.fit(schema.conform(records))["x"].rarest is None
    DiffLMProcessor.from_records(records, schema, tokenizer).check_publishable()


def test_rare_names_that_come_up_once_others_are_left_out():
    many = {f"k{i}": i for i in range(100)}  # too many keys to be named
    records = [{"x": {"m": {"a": 1}}}] * 30 + [{"x": {"m": {"secret": 1}}}, {"x": {"m": many, "rare": 1}}]
    schema = RecordSchema.infer(records)
    assert "secret" not in json.dumps(schema.to_dict())
    published, kept = schema.without_rare_categories(schema.conform(records), 10)
    assert kept.tolist() == [True] * 30 + [False] * 2
    assert list(published["x"].json_schema["properties"]["m"]["properties"]) == ["a"]


# Tables


NESTED_RECORDS = [
    {"id": 1, "x": {"b": "ü\0\u2028", "a": [1, None, 0.1]}, "y": [{"k": 1e-300}]},
    {"id": 2, "x": {"b": "</s>"}},
    {"id": 3, "x": {"a": [], "b": ""}, "y": []},
]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_nested_tables_are_written_and_read(suffix, tmp_path):
    path = tmp_path / f"records.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(NESTED_RECORDS))
    else:
        write_table(read_table(NESTED_RECORDS), path)
    table = read_table(path)
    assert_same(table["x"].tolist(), [record["x"] for record in NESTED_RECORDS])
    assert_same(table["y"].tolist(), [record.get("y") for record in NESTED_RECORDS])
    assert JSONCodec(RecordSchema.infer(NESTED_RECORDS)).encode(path) == JSONCodec(
        RecordSchema.infer(NESTED_RECORDS)
    ).encode(NESTED_RECORDS)


def test_json_lines_leave_out_what_is_not_there(tmp_path):
    path = tmp_path / "records.jsonl"
    schema = RecordSchema.infer(NESTED_RECORDS)
    codec = JSONCodec(schema)
    for table in (read_table(NESTED_RECORDS), codec.decode(codec.encode(NESTED_RECORDS))[0]):
        write_table(table, path)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        assert_same(lines, NESTED_RECORDS)
        assert RecordSchema.infer(path) == schema
    write_table(pd.DataFrame({"x": [[1], None]}), path)
    assert path.read_text() == '{"x": [1]}\n{"x": null}\n'


def test_parquet_files_have_the_type_of_json(tmp_path):
    path = tmp_path / "records.parquet"
    write_table(read_table(NESTED_RECORDS), path)
    assert pq.read_schema(path).field("x").type == pq.read_schema(path).field("y").type == pa.json_()
    schema = RecordSchema.infer(NESTED_RECORDS)
    batch = schema.to_record_batch(read_table(path))
    assert batch.schema.equals(schema.to_arrow()) and batch.schema.field("y").type == pa.json_()
    texts = batch.column("y").to_pylist()
    assert [text and json.loads(text) for text in texts] == [[{"k": 1e-300}], None, []]
    assert Dataset.from_list(NESTED_RECORDS, schema.to_features())["x"][:] == [r["x"] for r in NESTED_RECORDS]


@pytest.mark.parametrize("values", [[1, "a"], [True, "a", None], [1.5, "b"], [{"a": 1}, 2]], ids=str)
def test_columns_of_several_types_are_written(values, tmp_path):
    table = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    for suffix in ("parquet", "jsonl", "csv"):
        write_table(table, tmp_path / f"table.{suffix}")
        read = read_table(tmp_path / f"table.{suffix}")["x"]
        given = [None if value is None or value != value else value for value in read]
        assert_same([json.loads(v) if suffix == "csv" and v else v for v in given], values)


def test_csv_files_have_nested_values_as_json(tmp_path):
    path = tmp_path / "records.csv"
    write_table(read_table(NESTED_RECORDS), path)
    table = read_table(path)
    assert [json.loads(text) for text in table["x"]] == [record["x"] for record in NESTED_RECORDS]
    assert json.loads(table["y"][0]) == NESTED_RECORDS[0]["y"] and table["y"].isna().tolist() == [False, True, False]


# Arrow's own types: every struct has every key.
ARROW_TABLE = pa.table(
    {"x": [[1, None, 3], [4]], "s": [{"a": 1, "b": None}, {"a": 2, "b": [1.5]}], "l": [[{"q": "a"}], None]}
)


@pytest.mark.parametrize(
    "form",
    [
        "dataset",
        "parquet",
    ],
)
def test_nested_values_of_arrow(form, tmp_path):
    pq.write_table(ARROW_TABLE, tmp_path / "arrow.parquet")
    data = Dataset(ARROW_TABLE) if form == "dataset" else tmp_path / "arrow.parquet"
    schema = RecordSchema.infer(data)
    assert [(f.name, f.type, f.nullable) for f in schema] == [
        ("x", "json", False),
        ("s", "json", False),
        ("l", "json", True),
    ]
    assert schema["x"].json_schema["items"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 4}, {"type": "null"}]
    }
    codec = JSONCodec(schema)
    table, valid = codec.decode(codec.encode(data))
    assert valid.all()
    assert_same(table.to_dict("records"), ARROW_TABLE.to_pylist())


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_nested_values_of_arrow_are_written_again(suffix, tmp_path):
    pq.write_table(ARROW_TABLE, tmp_path / "arrow.parquet")
    write_table(read_table(tmp_path / "arrow.parquet"), tmp_path / f"again.{suffix}")
    table = read_table(tmp_path / f"again.{suffix}")
    assert_same([json.loads(v) if suffix == "csv" else v for v in table["x"]], [[1, None, 3], [4]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"x": ', r"line 3: "),
        ('{"x": [1, 2}', "line 3: "),
        ('{"x": 1} {"x": 2}', "line 3: Extra data"),
        ("[1, 2]", r"line 3: '\[1, 2\]' is no object, which every record is"),
        ('"text"', "line 3: '\"text\"' is no object"),
        ("null", "line 3: 'null' is no object"),
        ("[" * 10**5, "line 3: maximum recursion depth"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_json_lines_are_named(line, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"x": 1}}\n\n{line}\n{{"x": 2}}\n')
    with pytest.raises(ValueError, match=rf"bad\.jsonl: cannot be read as jsonl \({message}"):
        read_table(path)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "csv"])
@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xfe{\0", b"\x1f\x8b"], ids=["png", "utf16", "gzip"])
def test_binary_files_are_named(suffix, start, tmp_path):
    path = tmp_path / f"rubbish.{suffix}"
    path.write_bytes(start + np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=rf"rubbish\.{suffix}: cannot be read as {suffix} \("):
        read_table(path)
    path.write_bytes(bytes(100))
    with pytest.raises(ValueError, match=rf"rubbish\.{suffix}"):
        RecordSchema.infer(path)


def test_a_cut_off_parquet_file_is_named(tmp_path):
    path = tmp_path / "cut.parquet"
    write_table(read_table(NESTED_RECORDS), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut\.parquet: cannot be read as parquet \("):
        read_table(path)


@pytest.mark.parametrize("records", [[{"n": 1}, {"n": 2}], [{"x": "a"}, {"x": "b"}], [{"x": [1]}] * 2], ids=str)
def test_decoding_no_records(records):
    processor = DiffLMProcessor.from_records(records)
    table, valid = processor.decode_records(np.zeros((0, 9), np.int64))
    assert len(table) == len(valid) == 0 and list(table) == processor.schema.names
