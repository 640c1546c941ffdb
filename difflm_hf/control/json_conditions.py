"""Conditions on fields of documents, and on what is inside them, as JSON Schemas."""

from __future__ import annotations

import functools
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jsonschema import Draft202012Validator

from ..checks import shown
from ..records import Field, JSONCodec, RecordSchema
from ..records.field import is_text, isoformat, naming_column
from ..records.grammar import JSONGrammar
from ..records.json_codec import MAX_GRAMMAR_INTEGER, map_schemas, with_shorter_numbers
from ..records.json_schema import datetime_pattern, fields_to_json_schema
from ..records.nested import finite_values, is_json, kinds_of, properties_of, to_plain
from ..records.numbers import Grid
from ..records.validators import is_valid, make_validator, validator_of
from .predicates import AllOf, Between, Contains, Domain, Matches, Not, StartsWith, domain_of, is_null
from .where import parse_where


Records = list[dict[str, Any]]
Predicate = Callable[[Records], np.ndarray]

# Of fields that others relate to: the types of their values, and an example
DTYPES: dict[str, tuple[set[str], Any]] = {
    "float64": ({"integer", "number"}, 1.0),
    "string": ({"string"}, ""),
    "boolean": ({"boolean"}, True),
}
NOT_NULL = {"type": ["boolean", "object", "array", "number", "string"]}
# Keywords that no grammar takes, and references, as recursive ones do not intersect. Without them a JSON Schema
# accepts more.
UNSAID = (
    *("$ref", "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
)


class ConditionReader:
    """
    Reads conditions on fields, and by paths such as `"address.city"` on what is inside them, as JSON Schemas of
    records: one that is exact, and one that a grammar can be made of and that accepts all that the other does.

    Args:
        schema ([`~difflm_hf.records.RecordSchema`]): The fields.
    """

    def __init__(self, schema: RecordSchema):
        self.schema = schema
        self.json_schema = fields_to_json_schema(schema.fields)
        self.grammar_schema = JSONCodec(schema).grammar_schema()

    def narrow(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """
        The JSON Schema, for [`JSONGrammar`], of records that satisfy conditions, as far as grammars can say it.

        Args:
            conditions (`Mapping`): Conditions by path.

        Raises:
            `ValueError`: when they contradict each other.
        """
        narrowed = self._narrow([self._of_record(self._keys(path), c, True) for path, c in conditions.items()])
        if fault := JSONGrammar.find_fault(narrowed):
            raise ValueError(
                f"the conditions {shown(dict(conditions))} contradict each other ({fault}); leave one out"
            )
        return narrowed

    def holds(self, path: str, condition: Any) -> Predicate:
        """A condition as a function of records, after a look at whether any record can satisfy it."""
        keys = self._keys(path)
        with naming_column(path):
            self._check(keys, condition)
            if (f := self._moments_at(keys)) is not None:
                domain = domain_of(condition, f, _grid(f))
                return lambda records: _hold_moments(f, domain, records)
            validator = self._validator(self._of_record(keys, condition))
        return lambda records: np.array([is_valid(validator, record) for record in records], bool)

    def column(self, path: str, records: Records) -> pd.Series:
        """A field of records as others relate to it."""
        keys = self._keys(path)
        values = [functools.reduce(_get, keys, record) for record in records]
        if (f := self._moments_at(keys)) is not None:
            texts = pd.Series(values, dtype=object)
            moments = f.read(texts) if f.is_spelled else pd.to_datetime(texts, format="ISO8601", utc=True)
            moments = moments.dt.tz_localize("UTC") if moments.dt.tz is None else moments
            return moments if records else pd.Series([pd.Timestamp(0, tz="UTC")])
        kinds = kinds_of(self._part(keys), self.json_schema) - {"null"}
        for dtype, (names, example) in DTYPES.items():
            if kinds and kinds <= names:
                return pd.Series(values or [example], dtype=dtype)
        raise ValueError(f"column {path!r} is no number, string or boolean, which others can be compared with")

    def read_where(self, where: str) -> tuple[dict[str, Any], list[Predicate]]:
        """
        An expression as [`parse_where`] reads it, in which paths stand in backticks.

        Raises:
            `ValueError`: as `parse_where`, and where it relates what cannot be compared.
        """
        paths = [path for path in re.findall("`([^`]+)`", str(where)) if "." in path]
        conditions, related = parse_where(where, [*self.schema.names, *paths], self.holds, self.column)
        for predicate in related:
            try:
                predicate([])  # on examples
            except TypeError as error:
                raise ValueError(f"where={shown(where)} relates what cannot be compared: {error}") from error
        return conditions, related

    def _check(self, keys: list[str], condition: Any) -> None:
        """Raises a `ValueError` where no record can satisfy a condition, or a part of it."""
        if isinstance(condition, Mapping):
            for key, part in condition.items():
                self._check([*keys, key], part)
        parts = getattr(condition, "conditions", condition) if isinstance(condition, (list, tuple, set, AllOf)) else []
        for part in [condition.condition] if isinstance(condition, Not) else parts:
            self._check(keys, part)
        if fault := JSONGrammar.find_fault(self._narrow([self._of_record(keys, condition, True)])):
            raise ValueError(
                f"{shown(condition)} leaves nothing of {_shorten(self._part(keys))} that a grammar can write "
                f"({fault}); widen the condition, or ask for it by score"
            )

    def _narrow(self, conditions: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.grammar_schema, "allOf": conditions}

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return validator_of({**schema, "$defs": self.json_schema.get("$defs", {})})

    def _keys(self, path: str) -> list[str]:
        """The keys that a path goes by; the first is that of a field, which may have dots itself."""
        for name in sorted(self.schema.names, key=len, reverse=True):
            if path == name:
                return [name]
            if isinstance(path, str) and path.startswith(f"{name}."):
                return [name, *path.removeprefix(f"{name}.").split(".")]
        raise ValueError(f"no field {shown(path)} to put a condition on; the fields are {self.schema.names}")

    def _part(self, keys: list[str]) -> Any:
        """The JSON Schema of what is at keys."""
        part = self.json_schema
        for position, key in enumerate(keys):
            named, others = properties_of(part, self.json_schema)
            if named and key not in named and not others:
                where = f" in {'.'.join(keys[:position])!r}" if position else ""
                raise ValueError(f"no field {shown(key)}{where} to put a condition on; the fields are {list(named)}")
            part = named.get(key, others)
        return part

    def _moments_at(self, keys: list[str]) -> Field | None:
        """The field of datetimes that keys lead to, if they do."""
        f = self.schema[keys[0]]
        return f if len(keys) == 1 and f.type == "datetime" else None

    def _of_record(self, keys: list[str], condition: Any, is_for_grammar: bool = False) -> dict[str, Any]:
        """The JSON Schema of records that satisfy a condition on what is at keys."""
        return self._of_object([], keys, condition, is_for_grammar)

    def _of_object(self, above: list[str], keys: list[str], condition: Any, is_for_grammar: bool) -> dict[str, Any]:
        """That of the object at `above`, of a condition on what is at `keys` inside it."""
        exact = self._of_key([*above, keys[0]], keys[1:], condition)
        part = self._of_key([*above, keys[0]], keys[1:], condition, True) if is_for_grammar else exact
        if is_valid(self._validator(exact), None):  # what is absent satisfies it, too
            return {"properties": {keys[0]: part}}
        if is_for_grammar:
            part = {"allOf": [part, NOT_NULL]} if isinstance(part, dict) else part
        return {"type": "object", "properties": {keys[0]: part}, "required": [keys[0]]}

    def _of_key(self, keys: list[str], inside: list[str], condition: Any, is_for_grammar: bool = False) -> Any:
        """That of what is at `keys`, of a condition on it, or on what is at `inside` in it."""
        schema = self._part(keys)
        if inside:
            return self._of_object(keys, inside, condition, is_for_grammar)
        if (f := self._moments_at(keys)) is not None:
            return _moments_schema(f, domain_of(condition, f, _grid(f)))
        exact = self._of_value(keys, condition)
        if not is_for_grammar:
            return exact
        values = finite_values(schema, self.json_schema)
        if values is None:
            return self._of_value(keys, condition, True)
        left = [value for value in values if is_valid(self._validator(exact), value)]
        return {"enum": left} if left else False

    def _of_value(self, keys: list[str], condition: Any, is_for_grammar: bool = False) -> dict[str, Any]:
        """That of values at `keys` which satisfy a condition."""

        def read(part: Any) -> dict[str, Any]:
            return self._of_value(keys, part, is_for_grammar)

        if isinstance(condition, Not):
            return {} if is_for_grammar else {"not": read(condition.condition)}
        if isinstance(condition, AllOf):
            return {"allOf": [read(part) for part in condition.conditions]}
        if isinstance(condition, Matches):
            make_validator(condition.json_schema)
            part = _sayable(condition.json_schema) if is_for_grammar else condition.json_schema
            return {"allOf": [part, NOT_NULL]}
        if isinstance(condition, Between):
            return _range(condition, is_for_grammar)
        if isinstance(condition, StartsWith):
            return {"type": "string", "pattern": f"^{_escape(condition.prefix)}"}
        if isinstance(condition, Contains):
            pattern = _escape(condition.text)
            # A grammar would have the LM write on and on until it comes.
            return {"type": "string"} if is_for_grammar else {"type": "string", "pattern": pattern}
        if isinstance(condition, Mapping):
            parts = [self._of_object(keys, [key], part, is_for_grammar) for key, part in condition.items()]
            if not parts:
                raise ValueError("an empty dict asks for nothing; name a key, or leave it out")
            return {"allOf": parts}
        if isinstance(condition, (list, tuple, set)):
            if not condition:
                raise ValueError("an empty list leaves no value; give the values that are wanted")
            return {"anyOf": [read(part) for part in condition]}
        if is_null(condition):
            return {"type": "null"}
        value = to_plain(condition)
        if not isinstance(value, (str, int, float)) or not is_json(value):
            raise ValueError(f"{shown(condition)} is no string, number or boolean of JSON; give one, or a predicate")
        return {"const": value}


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _shorten(schema: Any) -> str:
    return textwrap.shorten(json.dumps(schema), 200, placeholder=" …")


def _escape(text: str) -> str:
    if not is_text(text):
        raise ValueError(f"{shown(text)} is no text to look for; give a string")
    return re.escape(text)


def _range(condition: Between, is_for_grammar: bool) -> dict[str, Any]:
    """The JSON Schema of the numbers in a range."""
    bounds = {}
    for name, value, sides in (("inimum", condition.left, "left"), ("aximum", condition.right, "right")):
        if value is None:
            continue
        value = to_plain(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise ValueError(
                f"{shown(condition)}: {shown(value)} is no number; a range is for numbers, and for datetimes"
            )
        if not is_for_grammar or abs(value) <= MAX_GRAMMAR_INTEGER:
            key = f"m{name}" if condition.inclusive in ("both", sides) else f"exclusiveM{name}"
            bounds[key] = value
    schema = {"type": "number", **bounds}
    return with_shorter_numbers(schema) if is_for_grammar else schema


def _sayable(schema: Any) -> Any:
    """A JSON Schema without what no grammar says, which accepts more."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: part for key, part in schema.items() if key not in UNSAID}
    if "oneOf" in kept:
        kept["allOf"] = [*kept.get("allOf", ()), {"anyOf": kept.pop("oneOf")}]
    return map_schemas(_sayable, kept)


def _grid(f: Field) -> Grid:
    """All moments between the bounds of a field."""
    first, last = (pd.Timestamp(bound).as_unit("ns").value for bound in f.bounds)
    return Grid(first, 1, last - first + 1)


def _moments_schema(f: Field, domain: Domain) -> dict[str, Any]:
    """The JSON Schema of the moments that are left of a field, or more."""
    apart = [{"const": mark} for mark in f.apart if domain.has(mark)]
    if not domain.intervals:
        return {"anyOf": apart}
    ends = np.array([domain.intervals[0][0], domain.intervals[-1][1]], np.uint64)
    first, last = f.to_series(_grid(f).decode(f, ends), np.zeros(2, bool))
    written = [moment if isinstance(moment, str) else isoformat(moment) for moment in (first, last)]
    if first == last:
        return {"anyOf": [{"const": written[0]}, *apart]}
    pattern = datetime_pattern(replace(f, minimum=written[0], maximum=written[1]))
    return {"anyOf": [{"type": "string", "pattern": f"^{pattern}$"}, *apart]}


def _hold_moments(f: Field, domain: Domain, records: Records) -> np.ndarray:
    """Which records have one of the moments that are left of a field."""
    column = pd.Series([record.get(f.name) for record in records], dtype=object)
    apart = f.index_apart(column)
    given, holds = apart < 0, np.array([*map(domain.has, f.apart), domain.null])[apart]
    points = _grid(f).encode(f, column[given])[:, None]
    intervals = np.array(domain.intervals, np.uint64).reshape(-1, 2)
    holds[given] = ((intervals[:, 0] <= points) & (points <= intervals[:, 1])).any(1)
    return holds
