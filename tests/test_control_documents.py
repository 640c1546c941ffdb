"""Documents that satisfy conditions: what may be asked, that it holds in every record, and what a seed means then."""

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import seeded, train

from difflm_hf import DiffLMPipeline, RecordSchema
from difflm_hf.blocks import write_shards
from difflm_hf.control import Between, Contains, Guide, Matches, Not, StartsWith, documents
from difflm_hf.control.predicates import domain_of
from difflm_hf.records import Field
from difflm_hf.training import DOCUMENT_RECIPES


BLOCK = 64
JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["car", "cat", "dog", None]},
        "count": {"type": "integer", "minimum": -5, "maximum": 90},
        "price": {"type": ["number", "null"], "minimum": 0, "maximum": 20.25},
        "ok": {"type": "boolean"},
        "inner": {
            "type": "object",
            "properties": {
                "on": {"type": "boolean"},
                "level": {"type": "integer", "minimum": 0, "maximum": 9},
                "size": {"enum": ["S", "M", "L"]},
                "weight": {"type": "number"},
                "note": {"type": ["string", "null"], "maxLength": 3},
            },
            "required": ["on"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
    },
    "required": ["name", "kind", "count", "price", "inner"],
    "additionalProperties": False,
    "$defs": {"tag": {"enum": ["a", "b", "c"]}},
}
PART = {
    "type": "object",
    "properties": {"type": {"enum": ["boolean", "string"]}, "deep": {"$ref": "#/$defs/part"}},
    "required": ["type"],
    "additionalProperties": False,
}
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"map": {"type": "object", "additionalProperties": {"$ref": "#/$defs/part"}, "maxProperties": 4}},
    "required": ["map"],
    "$defs": {"part": PART},
}


def make_records(num_records: int = 48) -> list[dict]:
    records = []
    for i in range(num_records):
        record = {"name": f"n{i}", "kind": ["car", "cat", "dog", None][i % 4], "count": i % 90 - 5}
        record |= {"price": None if i % 5 == 0 else i * 0.25}
        if i % 3:
            record["ok"] = bool(i % 2)
        record["inner"] = {"on": bool(i % 2)} | ({"level": i % 10, "size": "SML"[i % 3]} if i % 4 else {})
        if i % 6 == 0:
            record["inner"] |= {"weight": i / 8, "note": None if i % 12 else "ab"}
        if i % 2:
            record["tags"] = ["a", "b", "c"][: i % 4]
        records.append(record)
    return records


RECORDS = make_records()


def make_rows(num_records: int = 48) -> pd.DataFrame:
    """Rows of a table, which are JSON to a model of documents."""
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(num_records) * 20, unit="D")
    return pd.DataFrame(
        {
            "day": days.strftime("%Y-%m-%d"),
            "when": days.tz_localize("UTC"),
            "price": np.round(np.arange(num_records) * 0.37, 2),
            "items": [["x"]] * num_records,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def brief() -> str:
    tiny = DOCUMENT_RECIPES["tiny"]
    DOCUMENT_RECIPES["brief"] = dataclasses.replace(
        tiny, vae={**tiny.vae, "num_train_epochs": 0.01}, denoiser={**tiny.denoiser, "max_steps": 2}, min_steps=2
    )
    return "brief"


def load(folder: Path, block_size: int = BLOCK) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(folder, block_size=block_size)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def run(brief, once) -> Path:
    schema = RecordSchema.from_json_schema(JSON_SCHEMA)
    return once("conditions", lambda folder: train(make_records(), folder, schema=schema, recipe=brief))


@pytest.fixture(scope="module")
def pipe(run) -> DiffLMPipeline:
    return load(run)


@pytest.fixture(scope="module")
def tool_pipe(brief, once) -> DiffLMPipeline:
    schema = RecordSchema.from_json_schema(TOOL_SCHEMA)
    records = [
        {"map": {f"p{k}": {"type": ["boolean", "string"][(i + k) % 2]} for k in range(i % 4)}} for i in range(24)
    ]
    return load(once("conditions_maps", lambda folder: train(records, folder, schema=schema, recipe=brief)))


@pytest.fixture(scope="module")
def row_pipe(brief, once) -> DiffLMPipeline:
    return load(once("conditions_rows", lambda folder: train(make_rows(), folder, recipe=brief, nested="json")))


@pytest.fixture(scope="module")
def text_pipe(brief, once) -> DiffLMPipeline:
    texts = [{"text": f"The {'Mill' if i % 2 else 'Eagle (2)'} is café {i}.\n"} for i in range(48)]
    return load(once("conditions_texts", lambda folder: train(texts, folder, recipe=brief)))


def records_of(pipe: DiffLMPipeline, num_records: int = 6, seed: int = 0, **kwargs) -> list[dict]:
    return pipe(num_records, generator=seeded(seed), **kwargs).records


def at(record, path: str):
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def satisfies(value, condition) -> bool:
    """What a condition means, in Python's own terms."""
    if isinstance(condition, Not):
        return not satisfies(value, condition.condition)
    if isinstance(condition, dict):
        return all(satisfies(at(value, key), each) for key, each in condition.items())
    if isinstance(condition, list):
        return any(satisfies(value, each) for each in condition)
    if isinstance(condition, Matches):
        schema = {"$defs": {"part": PART}, **condition.json_schema}
        return value is not None and jsonschema.Draft202012Validator(schema).is_valid(value)
    if isinstance(condition, StartsWith):
        return isinstance(value, str) and value.startswith(condition.prefix)
    if isinstance(condition, Contains):
        return isinstance(value, str) and condition.text in value
    if isinstance(condition, Between):
        if not isinstance(value, (int, float)):
            return False
        left, right = condition.left, condition.right
        above = left is None or value > left or (value == left and condition.inclusive in ("both", "left"))
        return above and (
            right is None or value < right or (value == right and condition.inclusive in ("both", "right"))
        )
    return value is condition if condition is None or isinstance(condition, bool) else value == condition


def ranges(low: int, high: int, step: float = 1) -> st.SearchStrategy:
    ends = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    ends = ends.filter(lambda e: e[1] - e[0] > 1).map(lambda e: (e[0] * step, e[1] * step))
    inclusive = st.sampled_from(["both", "left", "right", "neither"])
    return st.one_of(
        st.builds(lambda e, i: Between(*e, i), ends, inclusive),
        st.integers(low, high - 1).map(lambda n: Between(left=n * step)),
        st.integers(low + 1, high).map(lambda n: Between(right=n * step)),
    )


def choices(*values) -> st.SearchStrategy:
    single = st.sampled_from(values)
    return st.one_of(single, st.lists(single, min_size=1), single.map(Not))


STARTS = st.text(st.sampled_from('ab "\\\n.é猫🙂('), min_size=1, max_size=3).map(StartsWith)
INNER = {
    "on": choices(True, False),
    "level": st.one_of(choices(0, 3, 9), ranges(0, 9), st.none()),
    "size": st.one_of(choices("S", "M", "L"), st.none(), st.just(Contains("M"))),
    "weight": st.one_of(ranges(-40, 40, 0.125), st.none(), st.sampled_from([0.5, 2, 1e-7])),
    "note": st.one_of(STARTS, st.none(), st.sampled_from(["ab", "", Not(None)])),
}
ANY = {
    "name": st.one_of(STARTS, st.sampled_from(["abc", ["x", "yz"], Not("n1"), Matches({"pattern": "^[a-c]{2,4}$"})])),
    "kind": st.one_of(choices("car", "cat", "dog", None), st.sampled_from([StartsWith("ca"), Not(StartsWith("ca"))])),
    "count": st.one_of(choices(-5, 3, 90), ranges(-5, 90), st.just([Between(right=0), 7, Between(left=80)])),
    "price": st.one_of(ranges(0, 162, 0.125), st.sampled_from([None, Not(None), 3.25, [None, 4]])),
    "ok": st.one_of(choices(True, False), st.none(), st.just(Not(None))),
    "inner": st.fixed_dictionaries({}, optional=INNER).filter(bool),
    "tags": st.sampled_from([None, Not(None), Matches({"minItems": 2}), Matches({"const": ["a", "c"]})]),
} | {f"inner.{name}": condition for name, condition in INNER.items() if name != "size"}


@settings(max_examples=settings().max_examples // 2, suppress_health_check=list(HealthCheck))
@given(conditions=st.fixed_dictionaries({}, optional=ANY).filter(lambda c: 0 < len(c) < 4))
def test_every_record_satisfies_its_conditions(pipe, conditions):
    try:
        records = records_of(pipe, 4, conditions=conditions, batch_size=4)
    except ValueError as error:
        assert "contradict" in str(error)
        assert "inner" in conditions and any(path.startswith("inner.") for path in conditions)
        return
    assert len(records) == 4
    for path, condition in conditions.items():
        for record in records:
            assert satisfies(at(record, path), condition), (path, condition, record)


@settings(suppress_health_check=list(HealthCheck))
@given(conditions=st.fixed_dictionaries({}, optional=ANY).filter(lambda c: len(c) == 1))
def test_grammars_allow_all_records_that_satisfy_conditions(pipe, conditions):
    if "inner" in conditions:  # with whole numbers, which are not written as 3.0 at the ends of ranges
        conditions["inner"].pop("weight", None)
    conditions = {path: c for path, c in conditions.items() if path not in ("price", "inner.weight") and c != {}}
    records = [r for r in RECORDS if all(satisfies(at(r, path), c) for path, c in conditions.items())]
    if not conditions or not records:
        return
    grammar = pipe.make_condition(conditions).grammar
    for text in pipe.processor.codec.encode(RECORDS):
        if json.loads(text) not in records:
            continue
        ids = [*pipe.processor.tokenizer(text, add_special_tokens=False)["input_ids"], grammar.eos_token_id]
        parser = grammar.start()
        while not parser.is_complete:
            parser.append(ids[len(parser.ids)])
        assert parser.ids == ids


@pytest.mark.parametrize(
    "conditions",
    [
        {"map": Matches({"minProperties": 2, "maxProperties": 2})},
        {"map": Matches({"additionalProperties": {"properties": {"type": {"const": "boolean"}}}, "minProperties": 1})},
        {"map": Matches({"required": ["city"], "properties": {"city": {"$ref": "#/$defs/part"}}})},
        {"map.city": {"type": "boolean"}},
        {"map.city": Not(None), "map": Matches({"maxProperties": 1})},
        {"map.city": Matches({"required": ["deep"]}), "map.city.deep.type": "string"},
        {"map": Not(Matches({"minProperties": 2}))},
    ],
)
def test_maps(conditions, tool_pipe):
    for record in records_of(tool_pipe, 3, conditions=conditions, batch_size=3):
        assert all(satisfies(at(record, path), condition) for path, condition in conditions.items()), record


def weight_or_note(record) -> bool:
    weight = record["inner"].get("weight")
    return record["inner"].get("note") == record["name"] or (weight is not None and weight < record["count"])


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("kind == 'cat' and count >= 10 and count < 20", lambda r: r["kind"] == "cat" and 10 <= r["count"] < 20),
        ("kind in ['cat', 'dog'] or `inner.on`", lambda r: r["kind"] in ("cat", "dog") or r["inner"]["on"]),
        ("`inner.level` > 3 and not ok", lambda r: r["inner"]["level"] > 3 and not r.get("ok")),
        pytest.param("`inner.note` == name or `inner.weight` < count", weight_or_note, marks=pytest.mark.slow),
        ("count > price + 10", lambda r: r["price"] is not None and r["count"] > r["price"] + 10),
    ],
)
def test_expressions(where, holds, pipe):
    assert all(map(holds, records_of(pipe, where=where)))
    both = records_of(pipe, where=where, conditions={"kind": Not("car")})
    assert all(record["kind"] != "car" and holds(record) for record in both)


def test_records_do_not_depend_on_batches_or_on_their_number(pipe):
    conditions = {"kind": ["cat", "dog"], "name": Not(Contains("a"))}

    def few(records):
        return [record["inner"]["on"] for record in records]

    def graded(records):
        return [float(record["count"]) for record in records]

    for sampling, num_records in (({}, 6), ({"score": few}, 6), ({"score": graded, "temperature": 0.7}, 3)):
        records = records_of(pipe, num_records, conditions=conditions, **sampling)
        assert records_of(pipe, num_records, conditions=conditions, batch_size=5, **sampling) == records
        assert records_of(pipe, 2, conditions=conditions, **sampling) == records[:2]
        assert records_of(pipe, 2, seed=1, conditions=conditions, **sampling) != records[:2]


def test_blocks_streams_and_shards(run, tmp_path):
    pipe, conditions = load(run, block_size=8), {"kind": "cat", "inner": {"on": True}}
    table = pipe(20, conditions=conditions, generator=seeded(), output_type="pandas").records
    batches = list(pipe.stream(20, conditions=conditions, generator=seeded()))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    write_shards(pipe, tmp_path / "shards", 20, conditions=conditions)
    for streamed in (pa.Table.from_batches(batches), pq.read_table(tmp_path / "shards" / "part-00000.parquet")):
        assert streamed.column("name").to_pylist() == table["name"].tolist()
    assert len(set(table["name"])) > 10


def test_a_condition_that_holds_changes_nothing(pipe):
    assert records_of(pipe, score=lambda records: np.ones(len(records), bool)) == records_of(pipe)
    assert records_of(pipe, conditions={"count": Between(-5, 90)}) == records_of(pipe)


@pytest.mark.slow
def test_scores(pipe):
    def even(records):
        assert all(isinstance(record, dict) for record in records)
        return [record["count"] % 2 == 0 for record in records]

    assert all(record["count"] % 2 == 0 for record in records_of(pipe, 5, score=even))
    plain = np.mean([record["count"] for record in records_of(pipe, 20)])
    higher = records_of(pipe, 5, score=lambda records: np.array([record["count"] / 10 for record in records]))
    assert np.mean([record["count"] for record in higher]) > plain + 20
    positive = records_of(pipe, 2, score=lambda records: [0 if r["count"] > 0 else -np.inf for r in records])
    assert all(record["count"] > 0 for record in positive)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (3, "score=3 is no function"),
        (lambda records: True, r"shape \(\) for \d+ records"),
        (lambda records: ["yes"] * len(records), "a bool or a number for each"),
        (lambda records: [float("nan")] * len(records), "nan or inf"),
    ],
)
def test_bad_scores(score, message, pipe):
    with pytest.raises(ValueError, match=message):
        pipe(1, score=score)


def test_what_is_too_rare(pipe, monkeypatch):
    monkeypatch.setattr(documents, "MAX_TRIES", 50)
    with pytest.raises(RuntimeError, match=r"too rare: 0 of 64 records that the model wrote satisfy them"):
        pipe(2, conditions={"count": 3}, score=lambda records: [False] * len(records), batch_size=256)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, "no conditions"),
        ([1], "conditions on documents are a dict .*not a list"),
        (pd.DataFrame({"kind": ["cat"]}), "conditions on documents are a dict .*not a DataFrame"),
        ({"colour": 1}, "no field 'colour' to put a condition on; the fields are .*'name', 'kind'"),
        ({3: 1}, "no field 3"),
        ({"inner.colour": 1}, "column 'inner.colour': no field 'colour' in 'inner'.*'on', 'level'"),
        ({"inner": {"colour": 1}}, "column 'inner': no field 'colour' in 'inner'"),
        ({"name.first": "x"}, "column 'name.first': 'x' leaves nothing"),
        ({"kind": "cow"}, "column 'kind': 'cow' leaves nothing of .*car"),
        ({"kind": ["cat", "cow"]}, "column 'kind': 'cow'"),
        ({"kind": Not(["car", "cat", "dog", None])}, "column 'kind': Not"),
        ({"kind": []}, "column 'kind': an empty list"),
        ({"inner": {}}, "column 'inner': an empty dict"),
        ({"count": 91}, "column 'count': 91 leaves nothing of .*90"),
        ({"count": "3"}, "column 'count': '3'"),
        ({"count": None}, "column 'count': None"),
        ({"count": Not(91)}, "column 'count': 91"),
        ({"count": 2.5}, "column 'count': 2.5"),
        ({"ok": 1}, "column 'ok': 1"),
        ({"count": Between(95)}, "column 'count': Between"),
        ({"count": Between(5, 3)}, "column 'count': Between"),
        ({"count": Between("a")}, "column 'count': Between.*'a' is no number"),
        ({"count": object()}, "column 'count': <object.* is no string, number or boolean"),
        ({"price": float("inf")}, "column 'price': inf is no string"),
        ({"name": Between(1)}, "column 'name': Between"),
        ({"name": StartsWith(3)}, "column 'name': 3 is no text"),
        ({"name": StartsWith("abcdefg")}, "column 'name': StartsWith"),
        ({"count": Contains("3")}, "column 'count': Contains"),
        ({"inner.level": 10}, "column 'inner.level': 10"),
        ({"inner": {"level": 10}}, "column 'inner': 10"),
        ({"tags": Matches({"type": "lisd"})}, "column 'tags': `schema` is not a JSON Schema, at .*'lisd'"),
        ({"tags": Matches({"minItems": 4})}, "column 'tags': Matches"),
        ({"tags": Matches({"$ref": "#/$defs/nothing"})}, "column 'tags': .*nothing"),
        ({"name": Matches({"pattern": "(?=a)b"})}, "(?s)column 'name': Matches.*look-ahead.*score"),
        ({"inner.level": 3, "inner": {"level": 4}}, "contradict each other"),
    ],
)
def test_bad_conditions(conditions, message, pipe):
    with pytest.raises(ValueError, match=message):
        pipe(1, conditions=conditions)


def test_what_documents_do_not_take(pipe):
    for refused in ({"balance": "kind"}, {"guides": [Guide(lambda z: z.sum(1))]}):
        with pytest.raises(ValueError, match="for rows of tables, and these are documents"):
            pipe(1, **refused)
    for where, message in (
        ("colour == 3", "no column 'colour'"),
        ("`inner.colour` == 3", "no field 'colour' in 'inner'"),
        ("kind == 3", "column 'kind': 3 leaves nothing"),
        ("name > count", "relates what cannot be compared"),
        ("tags > count", "column 'tags' is no number"),
        (3, "is no expression"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(1, where=where)
    with pytest.raises(ValueError, match="these are documents, which take conditions and a score"):
        pipe.impute(pd.DataFrame({"kind": [None]}))


def test_datetimes_and_digits(row_pipe):
    conditions = {
        "day": Between("2020-03-01", "2021-03-01"),
        "when": [Not(Between(right="2021-01-01T00:00:00Z")), pd.Timestamp("2020-01-21", tz="UTC")],
        "price": Between(1.05, 9.3),
    }
    table = row_pipe(3, conditions=conditions, generator=seeded(), output_type="pandas").records
    assert table["day"].between("2020-03-01", "2021-03-01").all()
    assert ((table["when"] > "2021-01-01") | (table["when"] == "2020-01-21")).all()
    assert table["price"].between(1.05, 9.3).all()
    assert (table["price"].round(2) == table["price"]).all()
    exact = {"day": "2020-01-21", "when": pd.Timestamp("2020-01-21", tz="UTC"), "price": 0.37}
    assert {key: row_pipe(1, conditions=exact).records[0][key] for key in exact} == exact | {
        "when": "2020-01-21T00:00:00+00:00"
    }
    table = row_pipe(3, where="day >= '2021-01-01' or price > 9", output_type="pandas").records
    assert ((table["day"] >= "2021-01-01") | (table["price"] > 9)).all()
    for name, bad in (("day", "2050-01-01"), ("day", Between("2050-01-01")), ("when", 3), ("price", 99.5)):
        with pytest.raises(ValueError, match=f"column '{name}': .*{re.escape(repr(bad))}"):
            row_pipe(1, conditions={name: bad})


@pytest.mark.parametrize(
    "condition",
    [
        StartsWith("The Mill"),
        StartsWith("É (?)\n"),
        [StartsWith("Th"), "Zoë.\n"],
        "The 🙂",
        Not(StartsWith("T")),
        Contains("a"),
        Matches({"pattern": "[aeiou]", "minLength": 3}),
    ],
)
def test_texts(condition, text_pipe):
    records = records_of(text_pipe, 2, conditions={"text": condition})
    assert all(satisfies(record["text"], condition) for record in records)
    assert records_of(text_pipe, 1, conditions={"text": condition}, batch_size=7) == records[:1]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"text": None}, "column 'text': None leaves nothing"),
        ({"text": Between(1)}, "column 'text': Between"),
        ({"text": StartsWith("a" * 99)}, "column 'text': StartsWith"),
        ({"name": "x"}, "no field 'name'"),
    ],
)
def test_bad_conditions_on_texts(conditions, message, text_pipe):
    with pytest.raises(ValueError, match=message):
        text_pipe(1, conditions=conditions)


def test_parts_of_categories():
    field = Field("kind", "category", categories=["car", "cat", "dog"])
    assert domain_of(Contains("a"), field, None).choices.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="no category contains 'x'"):
        domain_of(Contains("x"), field, None)


def test_command(run, tmp_path, monkeypatch, error_of):
    where = "kind == 'cat' and `inner.level` > 3"
    output = tmp_path / "records.jsonl"
    assert call(monkeypatch, "generate", run, "--num-records", 2, "--where", where, "--output", output) == 0
    records = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [record["kind"] == "cat" and record["inner"]["level"] > 3 for record in records] == [True] * 2
    pd.DataFrame({"kind": ["cat"]}).to_csv(tmp_path / "rows.csv", index=False)
    line = error_of("generate", run, "--conditions", tmp_path / "rows.csv", "--output", output)
    assert "conditions on documents are a dict for all of them, or where" in line
