"""Fields as JSON Schemas (draft 2020-12), and JSON Schemas as fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from .datetime_format import CODE, CODES, datetime_format
from .field import Field, naming_column
from .nested import REFERENCE, is_nested
from .number_format import number_format
from .validators import is_valid, make_validator, validator_of


ISO_FORMAT = "%Y-%m-%dT%H:%M:%S"
ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
# What JSON Schemas say of whole objects, beyond their properties
OF_OBJECTS = (
    "allOf",
    "anyOf",
    "const",
    "dependentRequired",
    "dependentSchemas",
    "enum",
    "if",
    "maxProperties",
    "minProperties",
    "not",
    "oneOf",
    "patternProperties",
    "propertyNames",
)
MAX_YEARS = 200  # that a pattern names
OFFSET_OF_ZONE = r"[+-](0\d|1[0-5]):?[0-5]\d"
OFFSET_PATTERN = r"(Z|[+-](0\d|1[0-5]):[0-5]\d)"


def fields_from_json_schema(schema: dict[str, Any]) -> list[Field]:
    """The fields of a JSON Schema of objects, as [`RecordSchema.from_json_schema`] has them."""
    make_validator(schema)
    schema = _with_itself_defined(schema)
    if isinstance(schema, dict) and schema.get("$ref", "").startswith(REFERENCE):  # of a model inside itself
        definitions = schema.get("$defs", {})
        schema = {**definitions.get(schema["$ref"].removeprefix(REFERENCE), {}), "$defs": definitions}
    is_object = isinstance(schema, dict) and schema.get("type", "object") == "object"
    if not is_object or not schema.get("properties"):
        raise ValueError("the JSON Schema is not of objects with `properties`, which become the fields; add them")
    if beyond := next((keyword for keyword in OF_OBJECTS if keyword in schema), None):
        raise ValueError(
            f"the JSON Schema has {beyond!r}, which no field can keep; remove it, or nest the record in a property"
        )
    required = schema.get("required", ())
    if unknown := sorted(set(required) - set(schema["properties"])):
        raise ValueError(f"the JSON Schema requires {unknown[0]!r}, which is not among its `properties`")
    fields = []
    for name, part in schema["properties"].items():
        with naming_column(name):
            field_of_part = _field_of(name, part, schema.get("$defs", {}))
        fields.append(replace(field_of_part, optional=name not in required))
    return fields


def fields_to_json_schema(fields: Sequence[Field]) -> dict[str, Any]:
    """A JSON Schema of objects with these fields."""
    properties = {f.name: field_to_json_schema(f) for f in fields}
    definitions: dict[str, Any] = {}
    for f in fields:
        for name, definition in (f.json_schema or {}).get("$defs", {}).items():
            if definitions.setdefault(name, definition) != definition:
                raise ValueError(f"column {f.name!r}: another field defines {name!r} otherwise; rename one in $defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {name: _without_definitions(part) for name, part in properties.items()},
        "required": [f.name for f in fields if not f.optional],
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }


def field_to_json_schema(f: Field) -> dict[str, Any]:
    """The field as a JSON Schema (draft 2020-12)."""
    has_null = f.nullable and not f.optional
    if f.type == "json":
        lacks_null = has_null and not is_valid(validator_of(f.json_schema), None)
        return {"anyOf": [f.json_schema, {"type": "null"}]} if lacks_null else f.json_schema
    if f.type == "category":
        return {"enum": [*f.categories, None] if has_null else list(f.categories)}
    json_type = "string" if f.type in ("datetime", "text") or f.is_spelled else f.type
    schema: dict[str, Any] = {"type": [json_type, "null"] if has_null and json_type != "null" else json_type}
    # No "multipleOf": validators divide floats, and find that 0.3 is not a multiple of 0.1.
    if f.type in ("integer", "number") and f.is_spelled:
        num_digits = max(len(str(abs(int(bound)))) for bound in f.bounds)
        schema["pattern"] = _with_words(number_format(f.format).to_regex(num_digits), f)
    elif f.type in ("integer", "number"):
        schema |= {"minimum": f.minimum, "maximum": f.maximum}
    elif f.type == "datetime":
        schema["pattern"] = _with_words(datetime_pattern(f), f)
    elif f.type == "text":
        schema["maxLength"] = f.max_length
    return {key: value for key, value in schema.items() if value is not None}


def _with_words(pattern: str, f: Field) -> str:
    """A regular expression of whole texts, which the field's words match, too."""
    return f"^({'|'.join([pattern, *map(re.escape, f.words or [])])})$"


def datetime_pattern(f: Field) -> str:
    """A regular expression of the field's datetimes as JSON has them."""
    moments = [pd.Timestamp(bound) for bound in (f.minimum, f.maximum) if bound]
    if (zone := datetime_format(f.format).time_zone if f.format else None) is not None:
        moments = [(m if m.tz else m.tz_localize("UTC")).tz_convert(zone) for m in moments]
    years = [(m.tz_convert(f.time_zone) if m.tz and f.time_zone else m).year for m in moments]
    is_short = len(years) == 2 and years[1] - years[0] < MAX_YEARS
    any_year = f"({'|'.join(f'{year:04}' for year in range(years[0], years[1] + 1))})" if is_short else r"\d{4}"
    parts = CODES | {"%Y": any_year}
    pattern = "".join(
        parts.get(part, OFFSET_OF_ZONE if "z{" in part else ".+") if part.startswith("%") else re.escape(part)
        for part in CODE.split(f.format or ISO_FORMAT)
    )
    if f.format is None:
        pattern += r"(\.\d{1,9})?" + (OFFSET_PATTERN if f.time_zone else "")
    return pattern


def _field_of(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Field:
    """A field of a type of its own where that says all that the JSON Schema does, else one of nested values."""
    schema = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    options = [part for part in schema.get("anyOf", [schema]) if part != {"type": "null"}]
    nullable = len(options) < len(schema.get("anyOf", [schema]))
    is_plain = len(options) == 1 and ("anyOf" not in schema or set(schema) <= {"anyOf", *ANNOTATIONS})
    part = {key: value for key, value in options[0].items() if key not in ANNOTATIONS} if is_plain else {}
    if isinstance(part.get("type"), list):
        types = [kind for kind in part["type"] if kind != "null"]
        nullable |= len(types) < len(part["type"])
        part = {**part, "type": types[0]} if len(types) == 1 else {}
    if "const" in part:
        part = {"enum": [part["const"]]} | {key: value for key, value in part.items() if key != "const"}
    keys = frozenset(part) - {"type"}
    kind = part.get("type")
    if keys == {"enum"}:
        nullable |= None in part["enum"]
        values = [value for value in part["enum"] if value is not None]
        if values and len({type(value) for value in values}) == 1 and not is_nested(values[0]):
            return Field(name, "category", nullable, categories=values)
    elif kind == "boolean" and not keys:
        return Field(name, "boolean", nullable)
    elif kind in ("integer", "number") and keys <= {"minimum", "maximum"}:
        return Field(name, kind, nullable, minimum=part.get("minimum"), maximum=part.get("maximum"))
    elif kind == "string" and keys <= {"maxLength"}:
        return Field(name, "text", nullable, max_length=part.get("maxLength"))
    elif kind == "null" and not keys:
        return Field(name, "null", nullable=True)
    whole = {**schema, **({"$defs": definitions} if definitions else {})}
    return Field(name, "json", nullable=is_valid(validator_of(whole), None), json_schema=whole)


def _with_itself_defined(schema: Any) -> Any:
    """A record's schema whose references to itself, which fields take elsewhere, are to a definition."""
    definitions = schema.get("$defs", {}) if isinstance(schema, dict) else {}
    name = "record"
    while name in definitions:
        name += "_"

    def renamed(part: Any) -> Any:
        if isinstance(part, list):
            return [renamed(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {k: REFERENCE + name if (k, v) == ("$ref", "#") else renamed(v) for k, v in part.items()}

    if (new := renamed(schema)) == schema:
        return schema
    itself = {key: value for key, value in new.items() if key not in ("$defs", "$id", "$schema", "$anchor")}
    return {**new, "$defs": {**new.get("$defs", {}), name: itself}}


def _without_definitions(schema: Any) -> Any:
    """A field's schema for a place inside a larger one, which has the definitions."""
    if not isinstance(schema, dict):  # true and false are schemas, too
        return schema
    if "anyOf" in schema:
        schema = {**schema, "anyOf": [_without_definitions(option) for option in schema["anyOf"]]}
    return {key: value for key, value in schema.items() if key != "$defs"}
