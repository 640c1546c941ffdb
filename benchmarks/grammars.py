"""
Compares two libraries for grammar-constrained decoding of JSON records: llguidance and xgrammar.

    pip install llguidance==1.9.1 xgrammar==0.2.8 rfc3339-validator
    OMP_NUM_THREADS=1 python -m benchmarks.grammars --data-dir DIR [--libraries llguidance xgrammar] [--threads 1]

DIR holds adult and other tables (*/train.csv with info.json) and other text (*/*train.jsonl). No model takes part:
tokens are those of real records, or drawn uniformly from the allowed ones, which finds every door that a grammar
leaves open. Measured are cold start, the time of a mask and of a step, and the share of tokens that are forced; and,
for one small schema per keyword of JSON Schema, how many of the records that the grammar lets through are invalid, and
which valid ones it refuses. Figures go to benchmarks/results/grammars.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from difflm_hf.records import JSONCodec, RecordSchema

from .results import save_result


SEED = 0
VOCABULARY = 32_000
LONGEST_PADDING = 16  # bytes of a random token
NUM_RECORDS = 1000
BATCH_SIZES = (1, 64)
NUM_SAMPLES = 200  # per keyword, and per table
MAX_TOKENS, MAX_FIELD_TOKENS = 400, 100  # of a record, and of one with a single field
END_RATE = 0.25  # of tokens drawn from those that may end a value, without which numbers and texts come to no end
ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "  # of `json.dumps`

# A schema for one field, and values that it allows.
FEATURES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "enum of strings": ({"enum": ["red", "green", "dark green"]}, ["red", "dark green"]),
    "enum of integers and strings": ({"enum": [1, 12, "1", "one"]}, [1, 12, "1", "one"]),
    "enum with null and escapes": ({"enum": [None, 'a "b"', "c\\d", "e\nf"]}, [None, 'a "b"', "c\\d", "e\nf"]),
    "const": ({"const": "fixed"}, ["fixed"]),
    "integer": ({"type": "integer"}, [0, -7, 10**18, -(2**63), 2**63 - 1]),
    "integer: minimum, maximum": ({"type": "integer", "minimum": 17, "maximum": 90}, [17, 20, 89, 90]),
    "integer: negative bounds": ({"type": "integer", "minimum": -1205, "maximum": -13}, [-1205, -1000, -13]),
    "integer: bounds of both signs": ({"type": "integer", "minimum": -5, "maximum": 1234}, [-5, -1, 0, 999, 1234]),
    "integer: exclusive bounds": (
        {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 11},
        [-2, 0, 9, 10],
    ),
    "integer: minimum only": ({"type": "integer", "minimum": 1000}, [1000, 1001, 123456]),
    "integer: bounds of 64 bits": (
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        [-(2**63), -1, 0, 2**63 - 1],
    ),
    "integer: multipleOf": ({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}, [0, 5, 100]),
    "number": ({"type": "number"}, [0, 0.5, -3.25, 1e-07, 1.5e16, 5e-324, 1e300]),
    "number: minimum, maximum": (
        {"type": "number", "minimum": 4.2835, "maximum": 334.177},
        [4.2835, 5, 5.0, 100.25, 334.177, 334.17, 334.1],
    ),
    "number: bounds of both signs": (
        {"type": "number", "minimum": -1.5, "maximum": 0.25},
        [-1.5, -1, -0.001, 0.0, 0.25, 1e-07],
    ),
    "number: minimum only": ({"type": "number", "minimum": 0}, [0, 0.5, 3.25, 1e-07, 1.5e16, 1e300]),
    "number: exclusive bounds": (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        [0.5, 0.001, 0.999, 1e-07],
    ),
    "number: multipleOf 0.01": (
        {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.01},
        [0, 0.07, 0.3, 3.14, 5.0, 10],
    ),
    "boolean": ({"type": "boolean"}, [True, False]),
    "null": ({"type": "null"}, [None]),
    "nullable: list of types": ({"type": ["integer", "null"], "minimum": 0, "maximum": 9}, [None, 0, 9]),
    "nullable: anyOf": ({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]}, [None, 9]),
    "nested object": (
        {
            "type": "object",
            "properties": {"b": {"type": "boolean"}, "a": {"enum": ["x", "y"]}},
            "required": ["b", "a"],
            "additionalProperties": False,
        },
        [{"b": True, "a": "y"}],
    ),
    "optional properties": (
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1]}},
            "required": ["b"],
            "additionalProperties": False,
        },
        [{"b": None}, {"a": True, "b": None}, {"a": False, "b": None, "c": 1}],
    ),
    "additionalProperties: schema": (
        {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"enum": [1, 2]}},
        [{}, {"a": None}, {"a": None, "zz": 2}],
    ),
    "array: minItems, maxItems": (
        {"type": "array", "items": {"enum": [1, 22, 333]}, "minItems": 2, "maxItems": 4},
        [[1, 22], [333, 1, 1, 22]],
    ),
    "array: uniqueItems": (
        {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2, "uniqueItems": True},
        [[], [1], [2, 1]],
    ),
    "array: prefixItems": (
        {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x"]}], "items": False, "minItems": 2},
        [[True, "x"]],
    ),
    "string": ({"type": "string"}, ["", "plain", 'quo"te', "back\\slash", "new\nline", "tab\t", "\u0001", "é 漢 🙂"]),
    "string: pattern": ({"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"}, ["AB-0123"]),
    "string: pattern without anchors": ({"type": "string", "pattern": "ab+c", "maxLength": 9}, ["abbc", "x abc y"]),
    "string: pattern of a moment": (
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?$"},
        ["2024-02-29T23:59:59", "2024-02-29T23:59:59.123456789"],
    ),
    "string: minLength, maxLength": ({"type": "string", "minLength": 3, "maxLength": 5}, ["abc", "éé漢🙂", 'a"\\']),
    "string: maxLength 2000": ({"type": "string", "maxLength": 2000}, ["", "x" * 2000]),
    "string: unicode": ({"enum": ["Zürich", "東京", "🙂"]}, ["Zürich", "東京", "🙂"]),
    "format: date": ({"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31"]),
    "format: date-time": ({"type": "string", "format": "date-time"}, ["2024-02-29T23:59:59Z"]),
    "format: time": ({"type": "string", "format": "time"}, ["23:59:59Z"]),
    "format: email": ({"type": "string", "format": "email"}, ["ann@example.org"]),
    "format: uuid": ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"]),
    "format: ipv4": ({"type": "string", "format": "ipv4"}, ["192.168.0.255"]),
    "$ref": ({"$ref": "#/$defs/size"}, ["S", "L"]),
    "oneOf": ({"oneOf": [{"type": "boolean"}, {"enum": ["maybe"]}]}, [True, "maybe"]),
    "oneOf that overlap": (
        {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 6}, {"type": "integer", "minimum": 4, "maximum": 9}]},
        [0, 9],
    ),
    "anyOf": ({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 5}, {"enum": ["many"]}]}, [5, "many"]),
    "allOf": ({"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 8}]}, [3, 8]),
    "not": ({"type": "integer", "minimum": 0, "maximum": 9, "not": {"const": 3}}, [0, 9]),
    "if, then": (
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"enum": [0, 1]}},
            "required": ["a", "b"],
            "additionalProperties": False,
            "if": {"properties": {"a": {"const": True}}},
            "then": {"properties": {"b": {"const": 1}}},
        },
        [{"a": True, "b": 1}, {"a": False, "b": 0}],
    ),
}


class LLGuidance:
    """Matchers of llguidance. Copies of one matcher share its lexer, whose states are built when first met."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, num_threads: int):
        import llguidance
        from llguidance import hf, numpy

        self.module, self.numpy = llguidance, numpy
        self.tokenizer = hf.from_tokenizer(tokenizer, n_vocab=len(tokenizer))
        self.executor = llguidance.LLExecutor(num_threads)

    def compile(self, schema: dict[str, Any]) -> Any:
        """A matcher to copy. Raises a `ValueError` for a schema that the library does not support."""
        options = {"item_separator": ITEM_SEPARATOR, "key_separator": KEY_SEPARATOR, "whitespace_flexible": False}
        grammar = self.module.LLMatcher.grammar_from_json_schema(schema, overrides=options)
        matcher = self.module.LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, compiled: Any, count: int) -> list[Any]:
        return [compiled.deep_copy() for _ in range(count)]

    def fill(self, matchers: list[Any], bitmask: np.ndarray) -> None:
        self.numpy.fill_next_token_bitmask_par(self.executor, [(m, i) for i, m in enumerate(matchers)], bitmask)

    def advance(self, matchers: list[Any], tokens: list[int]) -> list[bool]:
        """Which tokens were taken. A matcher that failed allows and takes an end of sequence, so it is asked."""
        taken = self.numpy.consume_token_par(self.executor, list(zip(matchers, tokens)))
        return [ok and not matcher.is_error() for ok, matcher in zip(taken, matchers)]

    def forced_bytes(self, matcher: Any) -> bytes:
        return matcher.compute_ff_bytes()

    def forced_tokens(self, matcher: Any) -> list[int]:
        return matcher.compute_ff_tokens()


class XGrammar:
    """Matchers of xgrammar. They share the compiled grammar, which holds most masks."""

    forced_tokens = None  # of forced text, the tokens are left to the caller

    def __init__(self, tokenizer: PreTrainedTokenizerFast, num_threads: int):
        import xgrammar

        self.module = xgrammar
        self.tokenizer = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
        self.compiler = xgrammar.GrammarCompiler(self.tokenizer, max_threads=num_threads, cache_enabled=False)
        self.batch = xgrammar.BatchGrammarMatcher(num_threads)

    def compile(self, schema: dict[str, Any]) -> Any:
        """A grammar to make matchers of. Raises a `RuntimeError` for a schema that the library does not support."""
        separators = (ITEM_SEPARATOR, KEY_SEPARATOR)
        return self.compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, separators=separators)

    def start(self, compiled: Any, count: int) -> list[Any]:
        return [self.module.GrammarMatcher(compiled) for _ in range(count)]

    def fill(self, matchers: list[Any], bitmask: np.ndarray) -> None:
        if len(matchers) == 1:
            matchers[0].fill_next_token_bitmask(torch.from_numpy(bitmask))
        else:
            self.batch.batch_fill_next_token_bitmask(matchers, torch.from_numpy(bitmask))

    def advance(self, matchers: list[Any], tokens: list[int]) -> list[bool]:
        if len(matchers) == 1:
            return [matchers[0].accept_token(tokens[0])]
        return self.batch.batch_accept_token(matchers, tokens)

    def forced_bytes(self, matcher: Any) -> bytes:
        return matcher.find_jump_forward_string().encode()


LIBRARIES = {"llguidance": LLGuidance, "xgrammar": XGrammar}
Library = LLGuidance | XGrammar
Pick = Callable[[int, int, np.ndarray], int]  # record, position and mask to token


class Random:
    """
    Picks among the allowed tokens, uniformly.

    Args:
        ends (`np.ndarray` of shape `(VOCABULARY,)`, bool, *optional*): Tokens to pick from at `END_RATE`, if allowed.
    """

    def __init__(self, ends: np.ndarray | None = None):
        self.generator, self.ends = np.random.default_rng(SEED), ends

    def __call__(self, record: int, position: int, mask: np.ndarray) -> int:
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if self.ends is not None and self.generator.random() < END_RATE:
            ends = allowed[self.ends[allowed]]
            allowed = ends if len(ends) else allowed
        return int(allowed[self.generator.integers(len(allowed))]) if len(allowed) else -1


def train_tokenizer(texts: Iterable[str]) -> tuple[PreTrainedTokenizerFast, int]:
    """A byte-level BPE tokenizer of exactly `VOCABULARY` ids, and how many of them come from the texts."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = byte_level
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=2, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    num_trained = len(vocab)
    pad(vocab, merges, [token for token in vocab if token not in specials])
    padded = Tokenizer(models.BPE(vocab, merges))
    padded.pre_tokenizer, padded.decoder = byte_level, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=padded, pad_token="<pad>", eos_token="<eos>"), num_trained


def pad(vocab: dict[str, int], merges: list[tuple[str, str]], tokens: list[str]) -> None:
    """Adds merges of random tokens up to the full size."""
    generator = np.random.default_rng(SEED)
    while len(vocab) < VOCABULARY:
        pair = tuple(tokens[i] for i in generator.integers(len(tokens), size=2))
        if (merged := "".join(pair)) not in vocab and len(merged) <= LONGEST_PADDING:
            vocab[merged] = len(vocab)
            merges.append(pair)


class Runner:
    """
    Walks through grammars with one library.

    Args:
        library (`Library`): The library.
        tokenizer (`PreTrainedTokenizerFast`): The tokenizer it was made from.
    """

    def __init__(self, library: Library, tokenizer: PreTrainedTokenizerFast):
        self.library, self.tokenizer = library, tokenizer
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.ends = np.array([not set('",]}').isdisjoint(token) for token in tokens])

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [ids + [self.tokenizer.eos_token_id] for ids in self.tokenizer(texts)["input_ids"]]

    def decode(self, record: list[int]) -> str | None:
        """The text of a record, or `None` of one that came to no end."""
        finished = record[-1:] == [self.tokenizer.eos_token_id]
        return self.tokenizer.decode(record[:-1], clean_up_tokenization_spaces=False) if finished else None

    def walk(
        self, compiled: Any, num_records: int, batch_size: int, pick: Pick, max_tokens: int = MAX_TOKENS
    ) -> tuple[list[list[int]], dict[str, np.ndarray]]:
        """Records of ids, which end early where a token is refused, and seconds per step and sequence."""
        records: list[list[int]] = [[] for _ in range(num_records)]
        seconds = []
        bitmask = np.zeros((batch_size, -(-VOCABULARY // 32)), np.int32)
        for start in range(0, num_records, batch_size):
            rows = list(range(start, min(start + batch_size, num_records)))
            matchers = self.library.start(compiled, len(rows))
            while rows:
                began = time.perf_counter()
                self.library.fill(matchers, bitmask)
                filled = time.perf_counter()
                tokens = [pick(row, len(records[row]), mask) for row, mask in zip(rows, bitmask)]
                picked = time.perf_counter()
                taken = self.library.advance(matchers, tokens)
                seconds.append(((filled - began) / len(rows), (time.perf_counter() - picked) / len(rows)))
                for row, token, ok in zip(rows, tokens, taken):
                    records[row] += [token] if ok else []
                goes_on = [
                    ok and token != self.tokenizer.eos_token_id and len(records[row]) < max_tokens
                    for row, token, ok in zip(rows, tokens, taken)
                ]
                rows = [row for row, on in zip(rows, goes_on) if on]
                matchers = [matcher for matcher, on in zip(matchers, goes_on) if on]
        return records, dict(zip(("mask", "advance"), np.array(seconds).T))

    def sample(
        self, compiled: Any, num_records: int, batch_size: int, pick: Pick, max_tokens: int = MAX_TOKENS
    ) -> tuple[list[str], dict[str, Any]]:
        """Texts of the records that come to an end, and the time they take."""
        records, seconds = self.walk(compiled, num_records, batch_size, pick, max_tokens)
        texts = [text for text in map(self.decode, records) if text is not None]
        return texts, {"tokens": sum(map(len, records)), **microseconds(seconds)}

    def replay(self, compiled: Any, records: list[list[int]], batch_size: int) -> tuple[int, dict[str, Any]]:
        """How many of the records are taken to their end, and the time they take."""
        walked, seconds = self.walk(compiled, len(records), batch_size, lambda row, i, _: records[row][i])
        taken = sum(a == b for a, b in zip(walked, records))
        return taken, {"tokens": sum(map(len, walked)), **microseconds(seconds)}

    def takes(self, compiled: Any, text: str) -> bool:
        """Whether a text is allowed, by its canonical tokens."""
        (matcher,) = self.library.start(compiled, 1)
        return all(self.library.advance([matcher], [token])[0] for token in self.encode([text])[0])

    def measure_forced(self, compiled: Any, records: list[list[int]]) -> dict[str, Any]:
        """The share of the tokens of real records that lie in forced text, and of those that the library names."""
        total = sum(map(len, records))
        inside = sum(self._count(compiled, record, self._inside) for record in records)
        offers = self.library.forced_tokens is not None
        named = sum(self._count(compiled, record, self._named) for record in records) if offers else None
        return {
            "share_in_forced_text": round(inside / total, 4),
            "offers_tokens": offers,
            "share_of_forced_tokens": round(named / total, 4) if offers else None,
        }

    def _count(self, compiled: Any, record: list[int], count_next: Callable[[Any, list[int]], int]) -> int:
        (matcher,) = self.library.start(compiled, 1)
        forced = position = 0
        while position < len(record):
            count = count_next(matcher, record[position:])
            for token in record[position : position + max(count, 1)]:
                self.library.advance([matcher], [token])
            forced, position = forced + count, position + max(count, 1)
        return forced

    def _inside(self, matcher: Any, rest: list[int]) -> int:
        # A byte-level token has one character for each byte.
        lengths = [len(token) for token in self.tokenizer.convert_ids_to_tokens(rest[:-1])]
        return int(np.searchsorted(np.cumsum(lengths), len(self.library.forced_bytes(matcher)), side="right"))

    def _named(self, matcher: Any, rest: list[int]) -> int:
        tokens = self.library.forced_tokens(matcher)
        if tokens != rest[: len(tokens)]:
            raise ValueError(f"forced tokens {tokens} are not the canonical {rest[: len(tokens)]}")
        return len(tokens)


def microseconds(seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean, 99th percentile and maximum over the steps."""
    figures = {"mean": np.mean, "p99": lambda values: np.percentile(values, 99), "max": np.max}
    return {
        f"{name}_us": {key: round(float(figure(values)) * 1e6, 1) for key, figure in figures.items()}
        for name, values in seconds.items()
    }


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, round(time.perf_counter() - start, 6)


def validate(schema: dict[str, Any], texts: list[str]) -> list[str]:
    """The texts that are no JSON or not as the schema says."""
    exact = json.loads(json.dumps(schema), parse_float=to_decimal)
    validator = Draft202012Validator(exact, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [text for text in texts if not is_valid(validator, text)]


def is_valid(validator: Draft202012Validator, text: str) -> bool:
    try:
        return validator.is_valid(json.loads(text, parse_float=to_decimal))
    except ValueError:
        return False


def to_decimal(number: str) -> Decimal:
    """The exact number, as 0.3 is no multiple of 0.1 in floats; of an exponent too large for decimals, the float."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return Decimal(float(number))


def wrap(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a record with one field."""
    return {
        "type": "object",
        "properties": {"x": field},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {"size": {"enum": ["S", "M", "L"]}},
    }


def measure_feature(runner: Runner, field: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """What a library makes of a keyword."""
    schema = wrap(field)
    try:
        compiled, seconds = timed(lambda: runner.library.compile(schema))
    except (RuntimeError, ValueError) as error:
        return {"error": str(error).strip().splitlines()[0][:200]}
    texts, times = runner.sample(compiled, NUM_SAMPLES, max(BATCH_SIZES), Random(runner.ends), MAX_FIELD_TOKENS)
    invalid = validate(schema, texts)
    given = [json.dumps({"x": value}, ensure_ascii=False) for value in values]
    return {
        "compile_seconds": seconds,
        "mask_us": times["mask_us"],
        "finished": len(texts),
        "invalid": len(invalid),
        "examples_of_invalid": [text[:80] for text in sorted(invalid, key=len)[:2]],
        "valid_but_refused": [text[:80] for text in given if not runner.takes(compiled, text)],
    }


def measure_table(runner: Runner, schema: RecordSchema, table: pd.DataFrame) -> dict[str, Any]:
    """Whether a library takes the real records of a table, and makes only valid ones."""
    json_schema = schema.to_json_schema()
    compiled, seconds = timed(lambda: runner.library.compile(json_schema))
    rows = table.sample(NUM_SAMPLES, random_state=SEED)
    taken, real = runner.replay(compiled, runner.encode(JSONCodec(schema).encode(rows)), max(BATCH_SIZES))
    texts, random = runner.sample(compiled, NUM_SAMPLES, max(BATCH_SIZES), Random(runner.ends))
    return {
        "compile_seconds": seconds,
        "real_taken": taken,
        "finished": len(texts),
        "invalid": len(validate(json_schema, texts)),
        "invalid_by_codec": len(texts) - int(JSONCodec(schema).decode(texts)[1].sum()),
        "mask_us": {"real": real["mask_us"], "random": random["mask_us"]},
    }


def measure_speed(runner: Runner, schema: RecordSchema, table: pd.DataFrame) -> dict[str, Any]:
    """Cold start, and time per token, on the first table."""
    compiled, compile_seconds = timed(lambda: runner.library.compile(schema.to_json_schema()))
    first = timed(lambda: runner.walk(compiled, 1, 1, Random()))[1]
    _, start_seconds = timed(lambda: runner.library.start(compiled, max(BATCH_SIZES)))
    rows = table.sample(NUM_RECORDS, random_state=SEED)
    records = runner.encode(JSONCodec(schema).encode(rows))
    figures: dict[str, Any] = {"random": {}, "real": {}}
    for size in BATCH_SIZES:
        texts, figures["random"][f"batch of {size}"] = runner.sample(compiled, NUM_RECORDS, size, Random())
        taken, figures["real"][f"batch of {size}"] = runner.replay(compiled, records, size)
        if taken < NUM_RECORDS:
            raise ValueError(f"{NUM_RECORDS - taken} real records are refused")
    as_dumps = [text == json.dumps(json.loads(text), ensure_ascii=False) for text in texts]
    in_order = [list(json.loads(text)) == schema.names for text in texts]
    return {
        "compile_seconds": compile_seconds,
        "first_record_seconds": first,
        "matcher_us": round(start_seconds / max(BATCH_SIZES) * 1e6, 1),
        **figures,
        "forced": runner.measure_forced(compiled, records),
        "random_records": {
            "finished": len(texts),
            "as_json_dumps": sum(as_dumps),
            "keys_in_order": sum(in_order),
            "invalid": len(validate(schema.to_json_schema(), texts)),
        },
    }


def load_table(folder: Path) -> tuple[RecordSchema, pd.DataFrame]:
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "train.csv")
    return RecordSchema.infer(table, categorical=info["categorical"]), table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    tables = {path.parent.name: load_table(path.parent) for path in sorted(args.data_dir.glob("*/train.csv"))}
    schema, table = tables["adult"]
    text = [path.read_text(encoding="utf-8") for path in sorted(args.data_dir.glob("*/*train.jsonl"))]
    lines = [line for file in text for line in file.splitlines()]
    tokenizer, num_trained = train_tokenizer(JSONCodec(schema).encode(table) + lines)
    save_result("grammars", {"vocabulary": {"size": len(tokenizer), "trained": num_trained}, "threads": args.threads})
    for name in args.libraries:
        library, seconds = timed(lambda name=name: LIBRARIES[name](tokenizer, args.threads))
        runner = Runner(library, tokenizer)
        figures = {"version": version(name), "tokenizer_seconds": seconds, **measure_speed(runner, schema, table)}
        figures["coverage"] = {key: measure_feature(runner, *feature) for key, feature in FEATURES.items()}
        figures["tables"] = {key: measure_table(runner, *pair) for key, pair in tables.items()}
        save_result("grammars", {name: figures})
        print(json.dumps({name: figures}, indent=2), flush=True)


if __name__ == "__main__":
    main()
