"""The JSON codec: a record as one line of JSON, for causal LMs with a vocabulary of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from .codec import special_ids
from .document_codec import DocumentCodec
from .field import Field
from .grammar import JSONGrammar
from .json_schema import fields_to_json_schema
from .json_values import from_json_values, to_json_values
from .nested import order_keys, to_json
from .validators import is_valid, validator_of


# The types that JSON's values may have in Python.
JSON_TYPES = {
    "integer": (int,),
    "number": (int, float),
    "category": (str, int, float, bool),
    "boolean": (bool,),
    "datetime": (str,),
    "text": (str,),
    "null": (),
}


ENDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
BOUNDS = (*ENDS, "multipleOf")
UNKNOWN = ("uniqueItems",)  # keywords that llguidance does not take
SCHEMAS = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMAS_BY_NAME = ("properties", "patternProperties", "dependentSchemas")
MAX_GRAMMAR_INTEGER = 2**62  # what llguidance counts up to


class JSONCodec(DocumentCodec):
    """
    Turns tables, whose values may be nested, into lines of JSON and back.

    Keys come in the order of the schema, those of nested objects too, and numbers with the digits of the data.

    Args:
        schema (`RecordSchema`): The fields.
    """

    name = "json"

    def encode(self, data: Any, key_generator: np.random.Generator | None = None) -> list[str]:
        """
        One JSON object for each record of `data` (anything that [`RecordSchema.conform`] takes). Of optional fields,
        nulls are left out.

        Args:
            data (`Any`): The records.
            key_generator (`np.random.Generator`, *optional*): Shuffles the keys of all objects.

        Raises:
            `ValueError`: for a value outside the schema, naming column and value.
        """
        table = self.schema.conform(data)
        keys = [to_json(name) for name in self.schema.names]
        texts = []
        for row in zip(*(_to_json_texts(f, table[f.name], key_generator) for f in self.schema)):
            items = [f"{key}: {text}" for key, text in zip(keys, row) if text is not None]
            if key_generator is not None:
                items = [items[position] for position in key_generator.permutation(len(items))]
            texts.append(f"{{{', '.join(items)}}}")
        return texts

    def encode_in(self, key_order: str, data: Any) -> list[str]:
        return self.encode(data, np.random.default_rng(0) if key_order == "shuffled" else None)

    def decode(self, texts: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Parses records.

        Args:
            texts (`list[str]`): What a causal LM wrote.

        Returns:
            The valid records as a `pandas.DataFrame` with the columns and dtypes of the schema, and a mask of shape
            `(len(texts),)` that says which texts they came from. A text is valid when it parses and holds the schema's
            fields and no others, each of its type and inside its bounds; optional ones may be missing.
        """
        records = [self._parse(text) for text in texts]
        valid = np.array([record is not None for record in records], bool)
        parsed = [record for record in records if record is not None]
        columns = {f.name: pd.Series([record.get(f.name) for record in parsed], dtype=object) for f in self.schema}
        allowed = np.all([f.allows(columns[f.name]) for f in self.schema], axis=0)
        valid[valid] = allowed
        columns = {f.name: from_json_values(f, columns[f.name][allowed]) for f in self.schema}
        return self.schema.to_table(columns), valid

    def grammar_schema(self) -> dict[str, Any]:
        """
        The JSON Schema of records as `encode` writes them, for [`JSONGrammar`].

        It knows the digits of numbers. Bounds that grammars cannot count up to are left out; `decode` has them.
        """
        schema = fields_to_json_schema(self.schema.fields)
        for f in self.schema:
            field = schema["properties"][f.name]
            if f.is_spelled:
                continue
            if f.type == "integer":
                for bound in ("minimum", "maximum"):
                    if abs(field.get(bound, 0)) > MAX_GRAMMAR_INTEGER:
                        del field[bound]
            elif f.type == "number":
                schema["properties"][f.name] = _number_grammar(f, field)
            elif f.type == "json":
                schema["properties"][f.name] = _for_grammar(field)
        if "$defs" in schema:
            schema["$defs"] = {name: _for_grammar(part) for name, part in schema["$defs"].items()}
        return schema

    def make_grammar(self, tokenizer: PreTrainedTokenizerBase) -> JSONGrammar:
        return JSONGrammar(self.grammar_schema(), tokenizer, special_ids(tokenizer)[1])

    def _parse(self, text: str) -> dict[str, Any] | None:
        """A record of the right fields and JSON types, or `None`."""
        try:
            record = json.loads(text, parse_constant=_reject)
        except (ValueError, RecursionError):  # the latter from "[[[[[..."
            return None
        if not isinstance(record, dict) or not set(record) <= set(self.schema.names):
            return None
        for f in self.schema:
            if f.name not in record:
                fits = f.optional
            elif record[f.name] is None:
                fits = f.nullable
            else:
                fits = f.type == "json" or type(record[f.name]) in ((str,) if f.is_spelled else JSON_TYPES[f.type])
            if not fits:
                return None
        return record


def _number_grammar(f: Field, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a field of numbers, by which llguidance lets all of them through as the codec writes them."""
    ends = [end for end in (f.minimum, f.maximum) if end is not None]
    if f.decimals is None:
        return {"type": schema["type"]}  # between bounds there are no exponents
    if len(ends) == 2 and ends[0] == ends[1]:
        return {"enum": ends[:1] + [None] * f.nullable}
    return with_shorter_numbers({**schema, "multipleOf": 10.0 ** -max(f.decimals, 1)})  # Python writes 3 as 3.0


def with_shorter_numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """
    A JSON Schema of numbers between bounds, with those that llguidance leaves out: it refuses 0.1 and 0.12 below a
    maximum of 0.123, and above a minimum of -0.123.
    """
    digits = [_write_number(float(schema[key])) for key in ENDS if key in schema]
    shorter = [float(d[:k]) for d in digits for k in range(d.index(".") + 2, len(d))]
    bounds = validator_of({key: schema[key] for key in ENDS if key in schema})
    shorter = [number for number in shorter if is_valid(bounds, number)]
    return {"anyOf": [schema, {"enum": shorter}]} if shorter else schema


def _for_grammar(schema: Any) -> Any:
    """
    A JSON Schema whose numbers have no bounds, between which llguidance lets no exponents through, and whose objects
    have no keys but those that they name, where they name some. What it does not say, `decode` checks.
    """
    if not isinstance(schema, dict):
        return schema
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    kept = {
        key: part
        for key, part in schema.items()
        if key not in UNKNOWN and not (key in BOUNDS and ("number" in kinds or abs(part) > MAX_GRAMMAR_INTEGER))
    }
    closed = {"additionalProperties": False} if "object" in kinds and "properties" in schema else {}
    return closed | map_schemas(_for_grammar, kept)


def map_schemas(function: Callable[[Any], Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema with a function of each JSON Schema right inside it in the place of that."""
    parts: dict[str, Any] = {}
    for key, part in schema.items():
        if key in SCHEMAS_BY_NAME:
            part = {name: function(inside) for name, inside in part.items()}
        elif key in LISTS_OF_SCHEMAS:
            part = [function(inside) for inside in part]
        elif key in SCHEMAS:
            part = function(part)
        parts[key] = part
    return parts


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _to_json_texts(f: Field, column: pd.Series, key_generator: np.random.Generator | None) -> list[str | None]:
    """The JSON of each value, `None` where an optional one is null."""
    values = to_json_values(f, column)
    if f.type == "json" and key_generator is not None:
        values = [order_keys(value, {}, key_generator) for value in values]
    write = _write_number if f.type == "number" and f.decimals is not None and not f.is_spelled else to_json
    return [None if value is None and f.optional else "null" if value is None else write(value) for value in values]


def _write_number(value: float) -> str:
    """Without an exponent, which a grammar does not allow between bounds."""
    text = repr(value)
    return np.format_float_positional(value, trim="0") if "e" in text else text
