"""
Trains on function specifications, as language models are given them as tools, from scratch; then generates new ones,
of names that are not in the training data, and compares them with real ones.

    python examples/train_tools.py train.jsonl --validation valid.jsonl --test test.jsonl --output-dir tools-model

Each line of a file is `{"name": ..., "description": ..., "parameters": a JSON Schema}`. The output folder gets the
model, `tools.jsonl` and `scores.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from difflm_hf import DataArguments, DiffLMPipeline, RecordSchema, train
from difflm_hf.evaluation import evaluate_tools
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


def write_new_tools(
    pipe: DiffLMPipeline, num_records: int, known: set[str], **sampling: Any
) -> tuple[list[dict[str, Any]], int]:
    """Records with names of their own, and how many were written to get them: real ones often share a name."""
    tools, num_written = [], 0
    while len(tools) < num_records:
        if num_written >= 10 * num_records:
            raise RuntimeError(f"{num_written - len(tools)} of {num_written} tools have a name of the training data")
        written = pipe(num_records - len(tools), **sampling).records
        num_written += len(written)
        tools += [tool for tool in written if tool["name"] not in known]
    return tools, num_written


def main(
    train_file: Path,
    validation: Path,
    test: Path,
    output_dir: Path,
    max_minutes: float,
    max_length: int,
    num_records: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> None:
    records, held_out, unseen = map(read_tools, (train_file, validation, test))
    pipe = train(
        records,
        output_dir,
        validation=held_out,
        schema=RecordSchema.from_json_schema(TOOL_SCHEMA),
        data_args=DataArguments(max_length=max_length, overlong="drop"),
        max_minutes=max_minutes,
        seed=seed,
    )
    written, num_written = write_new_tools(
        pipe,
        num_records,
        known={record["name"] for record in records},
        temperature=temperature,
        top_p=top_p,
        generator=torch.Generator().manual_seed(seed),
    )
    tools, real, unseen = (list(map(to_tool, part)) for part in (written, records, unseen))
    (output_dir / "tools.jsonl").write_text("".join(json.dumps(tool) + "\n" for tool in tools), encoding="utf-8")
    scores = evaluate_tools(tools, real, unseen, seed=seed) | {"new_names": len(tools) / num_written}
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_file", type=Path, help="Tools, one in each line.")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="Tools that the model has not seen.")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-minutes", type=float, default=25)
    parser.add_argument("--max-length", type=int, default=512, help="Tokens; longer tools are left out.")
    parser.add_argument("--num-records", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=0.75)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
