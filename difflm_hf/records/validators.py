"""What JSON Schemas accept, in bounded time whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jsonschema_rs
import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from ..checks import short, shown


MAX_SIZE = 10**6  # values of a schema, those that it refers to counted each time
MAX_SECONDS = 1  # of a pattern on a string
PLAIN_KEYWORDS = {
    *("type", "enum", "anyOf", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "title", "description"),
}


def _search(pattern: str, text: str) -> bool:
    """Whether a pattern is somewhere in a text. Raises a `ValueError` for one that goes back and forth for ever."""
    try:
        return regex.search(pattern, text, timeout=MAX_SECONDS) is not None
    except TimeoutError as error:
        raise ValueError(f"`schema` has the pattern {shown(pattern)}, which takes too long; write it anew") from error


def _pattern(validator: Any, pattern: str, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not _search(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Any, value: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, part in patterns.items():
            for key, item in value.items():
                if _search(pattern, key):
                    yield from validator.descend(item, part, path=key, schema_path=pattern)


def _additional_properties(validator: Any, part: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for key in value:
            if key in named or any(_search(pattern, key) for pattern in patterns):
                continue
            if part is False:
                yield ValidationError(f"Additional properties are not allowed ({key!r} was unexpected)")
            else:
                yield from validator.descend(value[key], part, path=key)


Validator = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)


def is_valid(validator: Draft202012Validator, value: Any) -> bool:
    """
    Whether a JSON Schema accepts a value.

    Raises:
        `ValueError`: when the schema refers to what it does not hold, or has a pattern that takes too long.
    """
    try:
        return validator.is_valid(value)
    except (OverflowError, RecursionError):  # integers beyond a float, and values too deep for a recursive schema
        return False
    except Unresolvable as error:
        raise ValueError(
            f"`schema` refers to {shown(error.ref)}, which it does not hold; add it under $defs"
        ) from error


def acceptor_of(schema: dict[str, Any]) -> Callable[[Any], bool]:
    """
    Whether what is known to be a JSON Schema accepts a value, as a function for many values. Schemas of the keywords
    that all libraries read alike are left to one that is some hundred times as fast.

    Args:
        schema (`dict`): The JSON Schema.
    """
    validator = validator_of(schema)
    if not _is_plain(schema):
        return partial(is_valid, validator)
    try:
        fast = jsonschema_rs.Draft202012Validator(schema)
    except (ValueError, OverflowError):  # of numbers beyond its own
        return partial(is_valid, validator)

    def accepts(value: Any) -> bool:
        try:
            return fast.is_valid(value)
        except (ValueError, OverflowError, RecursionError):  # such as half a character
            return is_valid(validator, value)

    return accepts


def _is_plain(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    if not schema.keys() <= PLAIN_KEYWORDS:
        return False
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    return all(map(_is_plain, [*parts, *(schema[key] for key in ("items", "additionalProperties") if key in schema)]))


def validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    """A validator of values by what is known to be a JSON Schema, which downloads nothing."""
    return Validator(schema, registry=Registry())


def refusal_of(schema: dict[str, Any], value: Any) -> str:
    """Where and why a JSON Schema refuses a value, if that can be said."""
    try:
        error = best_match(validator_of(schema).iter_errors(value))
    except (OverflowError, RecursionError):
        return ""
    return "" if error is None else f", at {short(error.json_path)}: {short(error.message)}"  # none of what is no JSON


def make_validator(schema: dict[str, Any]) -> Draft202012Validator:
    """
    A validator of values, after a look at the schema, which takes milliseconds.

    Raises:
        `ValueError`: when `schema` is no JSON Schema, or one without end. The message says where.
    """
    try:
        size = _size(schema, schema, {})
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where, what = short(error.json_path), short(error.message)
        raise ValueError(f"`schema` is not a JSON Schema, at {where}: {what}") from error
    except (TypeError, ValueError) as error:  # such as NaN, and half a character
        raise ValueError(f"`schema` is no JSON: {short(str(error))}") from error
    except RecursionError:
        raise ValueError("`schema` is nested too deeply; name its parts under $defs") from None
    if size > MAX_SIZE:
        raise ValueError(f"`schema` comes to {size:,} parts by what it refers to, and may have {MAX_SIZE:,}")
    return validator_of(schema)


def _size(part: Any, root: dict[str, Any], sizes: dict[str, int]) -> int:
    """Values of a part of a schema, with those that it refers to; of one that refers to itself once."""
    if isinstance(part, list):
        return 1 + sum(_size(item, root, sizes) for item in part)
    if not isinstance(part, dict):
        return 1
    reference = part.get("$ref")
    if isinstance(reference, str) and reference not in sizes:
        sizes[reference] = 0
        sizes[reference] = _size(_resolve(reference, root), root, sizes)
    return 1 + sum(_size(item, root, sizes) for item in part.values()) + sizes.get(str(reference), 0)


def _resolve(reference: str, root: Any) -> Any:
    """What a reference into a schema is to; nothing where it is to something else, which validation says."""
    part = root
    for key in reference.removeprefix("#").split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        part = part.get(key) if isinstance(part, dict) else None
    return part if reference.startswith("#") else None
