import json
import math
import sys
import warnings

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from difflm_hf.evaluation import distinct_n, evaluate_code, evaluate_json, evaluate_text, self_bleu
from difflm_hf.evaluation.documents.measures import tokenize


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
GARBAGE = [
    "",
    "\0",
    "x = '\0'",
    "\ud800",
    "'\ud800'",
    "\ufeff{}",
    "[" * 100_000,
    '{"a":' * 20_000,
    '{"a":' * 900 + "1" + "}" * 900,
    "(" * 100_000,
    "-" * 100_000 + "1",
    "not " * 10_000 + "1",
    "x" + "()" * 20_000,
    "x" * 100_000,
    "a b " * 25_000,
    "9" * 100_000,
    '{"a": ' + "9" * 5_000 + "}",
    "0x" + "f" * 9_000,
    "NaN",
]

# Few distinct words, so that n-grams repeat within and between documents.
texts = st.lists(st.sampled_from(["a", "b", "B", "é", ",", "_1"]), max_size=12).map(" ".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
    max_leaves=8,
)
finite_records = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.lists(st.booleans()), max_size=3)


def reference_self_bleu(documents):
    """By definition, and so in quadratic time."""
    words = [" ".join(tokenize(document)) for document in documents]
    scores = [
        sacrebleu.sentence_bleu(hypothesis, words[:i] + words[i + 1 :], tokenize="none").score / 100
        for i, hypothesis in enumerate(words)
    ]
    return np.mean(scores)


def assert_shares(scores):
    for name, score in scores.items():
        assert type(score) is float, name
        assert math.isnan(score) or 0 <= score <= 1, name


def assert_equal(scores, expected):
    assert scores == pytest.approx(expected, nan_ok=True)


# Diversity


def test_tokens_keep_case_and_punctuation():
    assert tokenize("It's 3.5 of Été_1!\n") == ["It", "'", "s", "3", ".", "5", "of", "Été_1", "!"]
    assert tokenize(" \t") == []


def test_distinct_n_by_hand():
    documents = ["a b a b", "a b", "c"]
    assert distinct_n(documents, 1) == 3 / 7
    assert distinct_n(documents, 2) == 2 / 4  # n-grams do not cross documents
    assert distinct_n(documents, 4) == 1
    assert distinct_n(documents, 5) == 0


def test_self_bleu_by_hand():
    # Of the second's n-grams all match, those of order 3 and 4 do not exist, and it is one token too short.
    # Of the first's, 2 of 3 and 1 of 2 match, and order 3 is smoothed from 0 to 1/2.
    first = (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)
    second = math.exp(1 - 3 / 2)
    assert self_bleu(["a b c", "a b"]) == pytest.approx((first + second) / 2)
    assert self_bleu(["a b c", "a b"], max_order=1) == pytest.approx((2 / 3 + second) / 2)
    assert self_bleu(["a b", "c d"]) == 0
    assert self_bleu(["a b c d e", "a b c d e", "a b c d e"]) == 1


@pytest.mark.parametrize("vocabulary", [3, 50])
def test_self_bleu_is_that_of_sacrebleu(vocabulary):
    generator = np.random.default_rng(0)
    documents = [
        " ".join(map(str, generator.integers(vocabulary, size=size))) for size in generator.integers(30, size=40)
    ]
    assert self_bleu(documents) == pytest.approx(reference_self_bleu(documents), abs=1e-6)


@given(st.lists(texts | st.text(max_size=12), min_size=2, max_size=7))
def test_self_bleu_of_anything_is_that_of_sacrebleu(documents):
    assert self_bleu(documents) == pytest.approx(reference_self_bleu(documents), abs=1e-6)


@settings(deadline=None)
@given(st.lists(texts, min_size=2, max_size=7), st.randoms())
def test_order_of_documents_does_not_matter(documents, random):
    shuffled = random.sample(documents, len(documents))
    assert self_bleu(shuffled) == pytest.approx(self_bleu(documents))
    assert distinct_n(shuffled, 2) == distinct_n(documents, 2)


# JSON


def test_evaluate_json_by_hand():
    train = ['{"a": 1, "b": {"c": [{"d": 2}]}}', {"a": 2}]
    synthetic = [
        '{"b":{"c":[{"d":2}]},"a":1}',  # known, whatever the order and the spacing
        {"a": 3, "b": {"e": 4}},  # b.e is unknown
        {"a": 3, "b": {"e": 4}},
        '{"a": "text"}',
        '{"a": 1',
    ]
    scores = evaluate_json(synthetic, train, SCHEMA)
    assert list(scores) == [
        "parse_rate",
        "schema_validity",
        "key_coverage",
        "unknown_keys",
        "novelty",
        "unique",
        "distinct_1",
        "distinct_2",
        "distinct_1_real",
        "distinct_2_real",
    ]
    assert_shares(scores)
    assert scores["parse_rate"] == 4 / 5
    assert scores["schema_validity"] == 3 / 5
    assert scores["key_coverage"] == 1
    assert scores["unknown_keys"] == 2 / 4
    assert scores["novelty"] == 3 / 4
    assert scores["unique"] == 3 / 4
    assert scores["distinct_1_real"] == distinct_n(['{"a": 1, "b": {"c": [{"d": 2}]}}', '{"a": 2}'], 1)


def test_key_paths():
    train = [{"a": {"b": 1}, "c": [[{"d": 1}], 2], "e.f": 1}]  # a, a.b, c, c[][].d and "e.f"
    scores = evaluate_json([{"a": [{"b": 1}]}, {"e": {"f": 1}}, {"a": 1, "c": [[{"d": {}}]]}], train)
    assert scores["key_coverage"] == 3 / 5
    assert scores["unknown_keys"] == 2 / 3


def test_novelty_of_a_key():
    train = [{"name": "x", "n": 1}, {"name": ["y"]}, {"n": 3}]
    synthetic = [{"name": "x", "n": 2}, {"name": ["y"]}, {"name": "z"}, {"n": 3}]
    assert evaluate_json(synthetic, train)["novelty"] == 2 / 4
    assert evaluate_json(synthetic, train, key="name")["novelty"] == 1 / 4


@pytest.mark.parametrize(
    "document", ["[1]", "1", "null", '{"a": NaN}', '{"a": -Infinity}', {"a": math.nan}, "{'a': 1}"]
)
def test_what_is_no_json_object(document):
    scores = evaluate_json([document], [{"a": 1}], SCHEMA)
    assert scores.pop("parse_rate") == scores.pop("schema_validity") == scores.pop("key_coverage") == 0
    assert all(math.isnan(score) for score in scores.values())
    with pytest.raises(ValueError, match=r"`train\[1\]` does not parse as a JSON object"):
        evaluate_json([{"a": 1}], [{"a": 1}, document])


def test_schema_is_not_overtaxed():
    tree = {"type": "object", "properties": {"a": {"$ref": "#"}, "n": {"multipleOf": 0.1}}}
    deep, large = '{"a":' * 400 + "{}" + "}" * 400, {"n": 10**400}
    scores = evaluate_json(["{}", {"a": {}}, {"a": 1}, deep, large], [{"a": {}}], tree)
    assert scores["parse_rate"] == 1
    assert scores["schema_validity"] == 2 / 5


def test_records_as_deep_as_json_reads():
    depths = range(1, 1_100)
    synthetic = ['{"a":' * depth + "1" + "}" * depth for depth in depths]
    scores = evaluate_json(synthetic, [{"a": 1}], {"type": "object"}, key="a")
    assert 0.5 < scores["schema_validity"] == scores["parse_rate"]
    assert scores["unknown_keys"] == pytest.approx(1, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.text() | json_values.map(json.dumps) | json_values.map(lambda v: {"a": v}), min_size=1, max_size=6))
def test_any_json_gives_shares(synthetic):
    assert_shares(evaluate_json(synthetic, [{"a": 1}], SCHEMA, key="a"))


@settings(deadline=None)
@given(st.lists(finite_records, min_size=1, max_size=6), st.lists(finite_records, min_size=1, max_size=6))
def test_text_and_records_are_the_same(synthetic, train):
    scores = evaluate_json(synthetic, train)
    assert_equal(evaluate_json([json.dumps(record, indent=1) for record in synthetic], train), scores)
    itself = evaluate_json(train, train)
    assert itself["novelty"] == itself["unknown_keys"] == 0
    assert itself["distinct_2"] == itself["distinct_2_real"]


# Code


def test_evaluate_code_by_hand():
    train = ["def f(x):\n    return x\n", "y = 1"]
    synthetic = [
        "def f( x ):\n    # the same\n\n    return x",
        "return 1",  # parses, but does not compile
        "def f(x)",
        "def f(x)",
    ]
    scores = evaluate_code(synthetic, train)
    assert list(scores) == [
        "parse_rate",
        "compile_rate",
        "novelty",
        "unique",
        "length_similarity",
        "node_types_similarity",
        "distinct_1",
        "distinct_2",
        "distinct_1_real",
        "distinct_2_real",
    ]
    assert_shares(scores)
    assert scores["parse_rate"] == 2 / 4
    assert scores["compile_rate"] == 1 / 4
    assert scores["novelty"] == 3 / 4
    assert scores["unique"] == 3 / 4
    assert scores["length_similarity"] == pytest.approx(1 - ks_2samp([4, 1, 1, 1], [2, 1]).statistic)


def test_node_types_similarity():
    # Module, Expr, Name, Load, a quarter each; Module, Expr, Constant, a third each.
    assert evaluate_code(["x", "x +"], ["1", "def"])["node_types_similarity"] == 1 / 4 + 1 / 4
    assert evaluate_code(["x", "y"], ["z"])["node_types_similarity"] == 1
    assert math.isnan(evaluate_code(["x +"], ["z"])["node_types_similarity"])


def test_nothing_is_executed_and_nothing_is_warned_of(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        scores = evaluate_code(["print('executed')", "assert (x, 'always')", "p = '\\d'", "x is 1"], ["y"])
    assert scores["parse_rate"] == scores["compile_rate"] == 1
    assert capsys.readouterr() == ("", "") and not caught


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="no annotation may hold a yield any more")
def test_future_statements_of_the_package_do_not_apply():
    # `from __future__ import annotations` forbids this.
    assert evaluate_code(["def g():\n    def f(x: (yield)): pass"], ["y"])["compile_rate"] == 1


def test_code_that_does_not_write_back_is_compared_as_text():
    number = "x = 0x" + "f" * 9_000
    scores = evaluate_code([number, number + " # the same"], [number])
    assert scores["parse_rate"] == 1
    assert scores["novelty"] == 1 / 2


# Text


def test_evaluate_text_by_hand():
    train = ["a b c", "a b d", "a b d"]
    synthetic = ["a b c", "e, e"]
    scores = evaluate_text(synthetic, train)
    assert list(scores) == [
        "novelty",
        "unique",
        "length_similarity",
        "distinct_1",
        "distinct_2",
        "distinct_3",
        "self_bleu",
        "distinct_1_real",
        "distinct_2_real",
        "distinct_3_real",
        "self_bleu_real",
    ]
    assert_shares(scores)
    assert scores["novelty"] == 1 / 2
    assert scores["unique"] == 1
    assert scores["length_similarity"] == pytest.approx(1 - ks_2samp([3, 2], [3, 3, 3]).statistic)
    assert scores["distinct_1"] == 5 / 6
    assert scores["distinct_1_real"] in (4 / 6, 3 / 6)  # two of the three


@pytest.mark.parametrize("seed", range(5))
def test_length_similarity_is_that_of_scipy(seed):
    generator = np.random.default_rng(seed)
    lengths, real_lengths = generator.poisson(8, size=60), generator.poisson(8 + seed, size=90)
    synthetic, train = (["a " * length for length in part] for part in (lengths, real_lengths))
    expected = 1 - ks_2samp(lengths, real_lengths).statistic
    assert evaluate_text(synthetic, train)["length_similarity"] == pytest.approx(expected)


def test_equally_many_are_compared_and_the_seed_decides_which():
    train = [f"{n} {n % 7}" for n in range(200)]
    scores = evaluate_text(train[:50], train, seed=1)
    assert scores == evaluate_text(train[:50], train, seed=1)
    assert scores != evaluate_text(train[:50], train, seed=2)
    assert scores["distinct_2"] == scores["distinct_2_real"] == 1
    assert scores["distinct_1_real"] == pytest.approx(scores["distinct_1"], abs=0.1)
    assert evaluate_text(train, train[:50])["distinct_1"] > distinct_n(train, 1)


@settings(deadline=None)
@given(st.lists(texts, min_size=2, max_size=6), st.lists(texts, min_size=2, max_size=6))
def test_any_text_gives_shares(synthetic, train):
    assert_shares(evaluate_text(synthetic, train))
    assert_shares(evaluate_code(synthetic, train))
    itself = evaluate_text(train, train)
    assert itself["novelty"] == 0
    assert itself["length_similarity"] == 1
    assert itself["self_bleu"] == pytest.approx(itself["self_bleu_real"])


# What can go wrong


@pytest.mark.parametrize("document", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage(document):
    assert_shares(evaluate_json([document, "{}"], [{"a": 1}], SCHEMA))
    assert_shares(evaluate_code([document, "x"], [document, "y"]))
    assert_shares(evaluate_text([document, "x"], [document, "y"]))


EVALUATIONS = [evaluate_json, evaluate_code, evaluate_text]


@pytest.mark.parametrize("evaluate", EVALUATIONS)
def test_empty_lists(evaluate):
    with pytest.raises(ValueError, match="`synthetic` is empty"):
        evaluate([], ["{}", "{}"])
    with pytest.raises(ValueError, match="`train` is empty"):
        evaluate(["{}", "{}"], [])


@pytest.mark.parametrize("evaluate", EVALUATIONS)
def test_wrong_types(evaluate):
    with pytest.raises(TypeError, match=r"`train\[1\]` is of type float; documents are str"):
        evaluate(["{}", "{}"], ["{}", math.nan])
    with pytest.raises(TypeError, match=r"`synthetic\[0\]` is of type bytes"):
        evaluate([b"{}", "{}"], ["{}", "{}"])
    with pytest.raises(TypeError, match="`synthetic` is of type str; pass a list"):
        evaluate("{}", ["{}", "{}"])
    with pytest.raises(TypeError, match="`train` is of type dict; pass a list"):
        evaluate(["{}", "{}"], {"a": "b"})


def test_bad_arguments_of_the_metrics():
    with pytest.raises(ValueError, match="`documents` is empty"):
        distinct_n([], 1)
    with pytest.raises(ValueError, match="`n` is 0"):
        distinct_n(["a"], 0)
    with pytest.raises(ValueError, match="`documents` has one document; pass at least 2"):
        self_bleu(["a"])
    with pytest.raises(ValueError, match="`max_order` is 0"):
        self_bleu(["a", "b"], max_order=0)
    with pytest.raises(TypeError, match=r"`documents\[1\]` is of type dict"):
        self_bleu(["a", {}])
    with pytest.raises(ValueError, match="`train` has one document"):
        evaluate_text(["a", "b"], ["a"])


def test_records_that_json_cannot_hold():
    with pytest.raises(TypeError, match=r"`synthetic\[1\]` holds what JSON cannot: .*set"):
        evaluate_json([{}, {"a": {1}}], [{"a": 1}])


def test_key_that_no_record_has():
    with pytest.raises(ValueError, match="no record of `train` has the key 'nom'"):
        evaluate_json([{"nom": 1}], [{"name": 1}], key="nom")


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"type": "record"}, r"`schema` is not a JSON Schema, at \$.type: 'record'"),
        ({"properties": {"a": {"pattern": "("}}}, r"at \$.properties.a.pattern: '\('"),
        ("object", "`schema` is not a JSON Schema"),
        ({"$ref": "#/$defs/b"}, r"`schema` refers to '/\$defs/b'"),
        ({"$ref": "https://example.com/schema.json"}, "`schema` refers to 'https://example.com/schema.json'"),
    ],
)
def test_broken_schemas(schema, message):
    with pytest.raises(ValueError, match=message):
        evaluate_json([{"a": 1}], [{"a": 1}], schema)


def test_schemas_are_not_fetched(tmp_path):
    (tmp_path / "schema.json").write_text("{}")
    with pytest.raises(ValueError, match="`schema` refers to 'file:"):
        evaluate_json([{"a": 1}], [{"a": 1}], {"$ref": (tmp_path / "schema.json").as_uri()})
