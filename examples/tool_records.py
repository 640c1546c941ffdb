"""Function specifications, as language models are given them as tools, as records to train on, and back."""

from pathlib import Path
from typing import Any

from difflm_hf.records import read_table


TYPES = ["string", "integer", "number", "boolean", "array", "object"]
# What other languages call them; types that JSON Schema does not have are left out.
SYNONYMS = {"tuple": "array", "arraylist": "array", "hashmap": "object", "long": "integer", "double": "number"}
PARAMETERS = {"type": "object", "additionalProperties": {"$ref": "#/$defs/parameter"}}
SCALAR = {"type": ["string", "integer", "number", "boolean", "null"]}
# Each parameter says whether it is required. JSON Schema has a list of their names, which could name others.
TOOL_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_.\-]{0,127}$"},
        "description": {"type": "string"},
        "parameters": PARAMETERS,
    },
    "required": ["name", "description", "parameters"],
    "$defs": {
        "parameter": {
            "type": "object",
            "properties": {
                "required": {"const": True},
                "type": {"enum": TYPES},
                "description": {"type": "string"},
                "enum": {"type": "array", "items": SCALAR, "minItems": 1},
                "default": SCALAR,
                "items": {"$ref": "#/$defs/parameter"},
                "properties": PARAMETERS,
            },
            "additionalProperties": False,
        }
    },
}


def read_tools(path: Path) -> list[dict[str, Any]]:
    """The tools of a file, as records of `TOOL_SCHEMA`."""
    tools = read_table(path).to_dict("records")
    for number, tool in enumerate(tools, start=1):
        if not isinstance(parameters := tool.get("parameters"), dict):
            raise ValueError(f"{path}: `parameters` of tool {number} is {parameters!r}; pass a JSON Schema object")
        tool["parameters"] = from_json_schema(parameters)
    return tools


def from_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an object, each of which says whether it is required."""
    required = schema.get("required")
    required = set(required) if isinstance(required, list) else ()  # single parameters of old drafts say true or false
    return {
        name: ({"required": True} if name in required else {}) | normalise(part)
        for name, part in schema.get("properties", {}).items()
    }


def normalise(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter with the keys and types that `TOOL_SCHEMA` has, and nothing else."""
    known = {}
    for key, value in parameter.items():
        if key == "type":
            name = str(value).lower()
            value = SYNONYMS.get(name, name)
            is_known = value in TYPES
        elif key == "items":
            value, is_known = normalise(value), True
        elif key == "properties":
            value, is_known = from_json_schema(parameter), True
        elif key == "default":
            is_known = not isinstance(value, (dict, list))
        elif key == "enum":
            is_known = bool(value) and not any(isinstance(item, (dict, list)) for item in value)
        else:
            is_known = key == "description"
        if is_known:
            known[key] = value
    return known


def to_tool(record: dict[str, Any]) -> dict[str, Any]:
    """A record of `TOOL_SCHEMA` as language models are given it, with a JSON Schema of its parameters."""
    return {**record, "parameters": {"type": "object", **to_json_schema(record["parameters"])}}


def to_json_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """What [`from_json_schema`] read, with the names of what is required in a list."""
    required = [name for name, parameter in parameters.items() if "required" in parameter]
    return {"properties": {name: to_property(part) for name, part in parameters.items()}, "required": required}


def to_property(parameter: dict[str, Any]) -> dict[str, Any]:
    written = {key: value for key, value in parameter.items() if key != "required"}
    if "items" in written:
        written["items"] = to_property(written["items"])
    if "properties" in written:
        written |= to_json_schema(written["properties"])
    return written
