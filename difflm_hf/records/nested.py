"""Nested values: objects and arrays, and the JSON Schemas that say what they may be."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .validators import is_valid, validator_of


# An object of more distinct keys than this, or one that fills fewer than this share of them on average, is a map from
# names to values, such as one from the names of parameters to their descriptions.
MAX_KEYS, MIN_FILLED = 64, 0.1
REFERENCE = "#/$defs/"
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and UTF-8 cannot
HALF = "half a character (a lone surrogate), which UTF-8 cannot hold; replace or drop it"


def infer_json_schema(values: Sequence[Any], infer_scalar: Callable[[list], dict[str, Any]]) -> dict[str, Any]:
    """
    The JSON Schema (draft 2020-12) that values have in common.

    Keys come in the order in which the values have them. Those that all objects have are required, others optional.

    Args:
        values (`Sequence`): JSON values, as Python has them.
        infer_scalar (`Callable`): Gives the schema of strings, numbers or booleans, all of them of one type.
    """
    groups: dict[str, list] = {}
    for value in values:
        groups.setdefault(kind_of(value), []).append(value)
    is_nullable = groups.pop("null", None) is not None
    if "number" in groups:
        groups["number"] += groups.pop("integer", [])
    options = []
    for kind, group in groups.items():
        if kind == "object":
            options.append(_infer_object(group, infer_scalar))
        elif kind == "array":
            items = [item for array in group for item in array]
            lengths = [len(array) for array in group]
            bounds = {"minItems": min(lengths), "maxItems": max(lengths)}
            items_schema = infer_json_schema(items, infer_scalar) if items else {}
            options.append({"type": "array", "items": items_schema, **bounds})
        else:
            options.append(infer_scalar(group))
    if is_nullable or not options:
        options.append({"type": "null"})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _infer_object(objects: list[dict[str, Any]], infer_scalar: Callable[[list], dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for value in objects for key in value)
    if len(counts) > MAX_KEYS or counts.total() < MIN_FILLED * len(counts) * len(objects):
        inside = [item for value in objects for item in value.values()]
        return {"type": "object", "additionalProperties": infer_json_schema(inside, infer_scalar)}
    keys = merge_orders(list(value) for value in objects)
    return {
        "type": "object",
        "properties": {
            key: infer_json_schema([value[key] for value in objects if key in value], infer_scalar) for key in keys
        },
        "required": [key for key in keys if counts[key] == len(objects)],
        "additionalProperties": False,
    }


def merge_orders(orders: Iterator[Sequence[str]]) -> list[str]:
    """All keys, each new one after the one that precedes it where it was first seen."""
    merged: list[str] = []
    known: set[str] = set()
    for order in orders:
        position = 0
        for key in order:
            if key in known:
                position = merged.index(key) + 1
            else:
                merged.insert(position, key)
                known.add(key)
                position += 1
    return merged


def kind_of(value: Any) -> str:
    """The name that JSON Schema has for the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    if type(value) not in names:
        raise ValueError(f"{value!r} is a {type(value).__name__}, which JSON does not have; convert it")
    if value != value:
        raise ValueError("nan, which JSON does not have; replace it by a null or a number")
    return names[type(value)]


def to_plain(value: Any) -> Any:
    """A value with dicts, lists and scalars of Python alone, in place of those of NumPy that Parquet files give."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):  # of a file with nulls, which NumPy's numbers do not have
        return [None if isinstance(item, float) and item != item else to_plain(item) for item in value]
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def is_nested(value: Any) -> bool:
    """Whether a value is an object or an array."""
    return isinstance(value, (dict, list, tuple, np.ndarray))


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value: not numbers without end, and no half characters."""
    try:
        to_json(value).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can hold."""
    return isinstance(value, str) and not SURROGATE.search(value)


def order_keys(
    value: Any, schema: dict[str, Any], generator: np.random.Generator | None = None, root: dict | None = None
) -> Any:
    """
    A value with the keys of all objects in the order of the schema, others after them; or shuffled.

    Args:
        value (`Any`): A JSON value.
        schema (`dict`): Its JSON Schema.
        generator (`np.random.Generator`, *optional*): Shuffles the keys.
        root (`dict`, *optional*): The schema that references are into; `schema` itself when not given.
    """
    root = schema if root is None else root
    schema = _chosen(schema, root, value)
    if isinstance(value, list):
        items = _part(schema, root, "items", "array")
        return [order_keys(item, items, generator, root) for item in value]
    if not isinstance(value, dict):
        return value
    properties, others = properties_of(schema, root)
    keys = [key for key in properties if key in value] + [key for key in value if key not in properties]
    if generator is not None:
        keys = [keys[position] for position in generator.permutation(len(keys))]
    return {key: order_keys(value[key], properties.get(key, others), generator, root) for key in keys}


def inferred_names(schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """The keys and strings that a JSON Schema of [`infer_json_schema`] names, each by its path."""
    for option in schema.get("anyOf", [schema]):
        yield from (f"{path}: {value!r}" for value in option.get("enum", ()))
        for key, part in option.get("properties", {}).items():
            yield f"{path}.{key}"
            yield from inferred_names(part, f"{path}.{key}")
        if isinstance(others := option.get("additionalProperties"), dict):
            yield from inferred_names(others, f"{path}.*")
        if "items" in option:
            yield from inferred_names(option["items"], f"{path}[*]")


def names_of(value: Any, schema: Any, root: dict[str, Any] | None = None, path: str = "$") -> Iterator[str]:
    """
    The keys and the strings in a value that its JSON Schema names, each by its path as [`inferred_names`] has it.

    Args:
        value (`Any`): A JSON value.
        schema (`dict`): Its JSON Schema.
        root (`dict`, *optional*): The schema that references are into; `schema` itself when not given.
        path (`str`, defaults to `"$"`): Where the value stands.
    """
    root = schema if root is None else root
    schema = _chosen(schema, root, value)
    if isinstance(value, list):
        items = _part(schema, root, "items", "array")
        for item in value:
            yield from names_of(item, items, root, f"{path}[*]")
    elif isinstance(value, dict):
        properties, others = properties_of(schema, root)
        for key, item in value.items():
            part = f"{path}.{key if key in properties else '*'}"
            if key in properties:
                yield part
            yield from names_of(item, properties.get(key, others), root, part)
    elif isinstance(value, str) and any(value in option.get("enum", ()) for option in _options(schema, root)):
        yield f"{path}: {value!r}"


def properties_of(schema: Any, root: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON Schemas of an object's properties by name, and that of all others, empty where it says nothing."""
    return _part(schema, root, "properties", "object"), _part(schema, root, "additionalProperties", "object")


def finite_values(schema: Any, root: dict[str, Any]) -> list[Any] | None:
    """The values that a JSON Schema names one by one, booleans and null among them; `None` where there are others."""
    if not isinstance(schema, dict):
        return None
    if schema.get("$ref", "").startswith(REFERENCE):
        return finite_values(root.get("$defs", {}).get(schema["$ref"].removeprefix(REFERENCE)), root)
    if "const" in schema or "enum" in schema:
        return list(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        parts = [finite_values(part, root) for part in schema["anyOf"]]
        return None if None in parts else [value for part in parts for value in part]
    kinds = kinds_of(schema, root)
    if not kinds or not kinds <= {"boolean", "null"}:
        return None
    return [False, True] * ("boolean" in kinds) + [None] * ("null" in kinds)


def kinds_of(schema: Any, root: dict[str, Any]) -> set[str]:
    """The types that a JSON Schema names, itself or by the values, references and options that it has."""
    kinds = set()
    for option in _options(schema, root):
        named = option.get("type", [])
        kinds.update(named if isinstance(named, list) else [named])
        kinds.update(map(kind_of, [*option.get("enum", ()), *([option["const"]] if "const" in option else [])]))
    return kinds


def _chosen(schema: Any, root: dict[str, Any], value: Any) -> Any:
    """Of several options for values of a kind, the first that accepts this one."""
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())] if isinstance(schema, dict) else []
    if len(options) < 2 or not isinstance(value, (dict, list)):
        return schema
    accepting = (part for part in options if is_valid(validator_of({"$defs": root.get("$defs", {}), **part}), value))
    return next(accepting, schema)


def _part(schema: Any, root: dict[str, Any], keyword: str, kind: str) -> dict[str, Any]:
    """What a schema says by a keyword, itself or by a reference or an option for values of this kind."""
    for option in _options(schema, root):
        if keyword in option and option.get("type", kind) in (kind, [kind, "null"], ["null", kind]):
            return option[keyword] if isinstance(option[keyword], dict) else {}
    return {}


def _options(schema: Any, root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not isinstance(schema, dict):  # true and false are schemas, too
        return
    yield schema
    if schema.get("$ref", "").startswith(REFERENCE):
        yield from _options(root.get("$defs", {}).get(schema["$ref"].removeprefix(REFERENCE)), root)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(keyword, ()):
            yield from _options(option, root)


def to_json(value: Any) -> str:
    """A value as JSON records have it."""
    return json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False)
