"""The scripts in `examples/`, run as a user runs them."""

import ast
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from tiny import make_table
from tiny_diffusion_lm import SENTENCES, SMALL, make_pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

from difflm_hf.evaluation import perplexity
from difflm_hf.records import read_table


EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, cwd):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_stdlib_functions(tmp_path):
    limits = ("--max-lines", 4, "--max-characters", 120)
    printed = run("stdlib_functions.py", "--output", "short.jsonl", *limits, cwd=tmp_path)
    train, test = (read_table(tmp_path / f"short_{split}.jsonl") for split in ("train", "test"))
    assert f"{len(train)} functions in short_train.jsonl" in printed
    assert len(train) > 100 and len(test) == (len(train) + len(test)) // 10
    assert not set(train["code"]) & set(test["code"])
    for code in test["code"]:
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef)
        assert len(code) <= 120 and code == code.strip("\n")
    assert {"test", "site-packages"}.isdisjoint(part for module in train["module"] for part in Path(module).parts)

    run("stdlib_functions.py", "--output", "again.jsonl", *limits, cwd=tmp_path)
    assert (tmp_path / "again_test.jsonl").read_bytes() == (tmp_path / "short_test.jsonl").read_bytes()


def test_functions_after_form_feeds():
    sys.path.insert(0, str(EXAMPLES))
    from stdlib_functions import functions

    assert list(functions("import os\n\f\ndef f():\n    return '\x1c'\n\n\ndef g(): pass\n", max_lines=5)) == [
        "def f():\n    return '\x1c'",
        "def g(): pass",
    ]


def test_tools_are_records_and_tools_again(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    from train_tools import TOOL_SCHEMA, read_tools, to_tool

    place = {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}}
    properties = {
        "unit": {"type": "string", "description": "C or F.", "enum": ["C", "F", None], "default": "C"},
        "places": {"type": "array", "items": place | {"required": ["lon"]}},
        "at": place | {"required": ["lat", "lon"]},
    }
    parameters = {"type": "object", "properties": properties, "required": ["places", "at"]}
    tool = {"name": "weather.get", "description": "Tells the weather.", "parameters": parameters}
    odd = {"type": "Tuple", "format": "date", "enum": [], "default": {}, "properties": {"z": {}}, "required": True}
    other = {"name": "odd", "description": "", "parameters": {"properties": {"x": odd, "y": {"type": "any"}}}}
    path = tmp_path / "tools.jsonl"
    path.write_text(f"{json.dumps(tool)}\n\n{json.dumps(other)}\n", encoding="utf-8")

    records = read_tools(path)
    for record in records:
        Draft202012Validator(TOOL_SCHEMA).validate(record)
    assert "required" not in records[0]["parameters"]["unit"]
    assert records[0]["parameters"]["places"]["required"] is True
    assert to_tool(records[0]) == tool
    known = {
        "type": "object",
        "properties": {"x": {"type": "array", "properties": {"z": {}}, "required": []}, "y": {}},
        "required": [],
    }
    assert to_tool(records[1]) == other | {"parameters": known}

    path.write_text(f'{json.dumps(tool)}\n{{"name": "x",\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"tools\.jsonl.*line 2"):
        read_tools(path)
    path.write_text(f"{json.dumps(tool)}\n{json.dumps(tool | {'parameters': None})}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tools\.jsonl.*`parameters` of tool 2 is None"):
        read_tools(path)


@pytest.mark.slow
def test_train_tools(tmp_path):
    for split in ("train", "valid", "test"):
        tools = [
            {
                "name": "".join(random.Random(f"{split}{i}").choices("abcdefgh", k=6)),
                "description": f"Tells the number {i}.",
                "parameters": {
                    "type": "object",
                    "properties": {"size": {"type": "integer"}, "name": {"type": "string"}},
                    "required": ["size"],
                },
            }
            for i in range(60)
        ]
        text = "".join(json.dumps(tool) + "\n" for tool in tools)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    files = ("train.jsonl", "--validation", "valid.jsonl", "--test", "test.jsonl", "--output-dir", "model")
    run("train_tools.py", *files, "--max-minutes", 0.2, "--num-records", 5, "--temperature", 1.2, cwd=tmp_path)
    lines = (tmp_path / "model" / "tools.jsonl").read_text(encoding="utf-8").splitlines()
    scores = json.loads((tmp_path / "model" / "scores.json").read_text(encoding="utf-8"))
    assert len(lines) == 5
    for tool in map(json.loads, lines):
        parameters = tool["parameters"]
        Draft202012Validator.check_schema(parameters)
        assert parameters["type"] == "object" and set(parameters["required"]) <= parameters["properties"].keys()
    assert scores["schema_valid"] == scores["required_declared"] == scores["parse_rate"] == 1


@pytest.mark.slow
def test_pretrain_base_lm(tmp_path):
    make_table(30).drop(columns="nothing").to_csv(tmp_path / "table.csv", index=False)
    lines = [json.dumps({"text": f"Sentence {i}.", "attributes": {"number": i}, "id": i}) for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sizes = ("--vocab-size", 300, "--length", 64, "--num-steps", 4, "--batch-size", 2, "--max-documents", 50)
    printed = run("pretrain_base_lm.py", "table.csv", "texts.jsonl", "--output-dir", "lm", *sizes, cwd=tmp_path)
    assert "table.csv: 30 of 30 documents" in printed
    assert "texts.jsonl: 50 of 80 documents" in printed  # sentences, and what else their records hold
    assert sorted(path.name for path in (tmp_path / "lm").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    assert len(tokenizer) == model.config.vocab_size == 300
    assert model.config.max_position_embeddings == 1024
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in model.parameters())
    # Four steps are enough to know what is no document at all.
    scores = [perplexity(model, tokenizer, [text])["bits_per_byte"] for text in ("Sentence 7.", "Ü°¶Ø§¤¬")]
    assert scores[0] < scores[1]


@pytest.fixture(scope="module")
def diffusion_lm(tmp_path_factory):
    """A folder with an untrained Diffusion-LM of a toy language, and its sentences with their fields."""
    folder = tmp_path_factory.mktemp("diffusion-lm")
    make_pipeline(**SMALL).save_pretrained(folder / "model")
    rows = [{"text": text, "attributes": {"colour": text.split()[1]}} for text in SENTENCES]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, arguments, num_texts",
    [
        ("length", ["--length", 4], 10),
        ("infilling", ["the [mask] cat [gap]"], 3),
        ("semantic_content", ["data.jsonl", "colour=blue", "--num-steps", 5], 5),
        ("parts_of_speech", ["data.jsonl", "the cat sleeps.", "--num-steps", 5], 5),
        ("syntax_spans", ["data.jsonl", "the red cat sees a dog.", "--num-steps", 5], 5),
        ("syntax_tree", ["data.jsonl", "the red cat sees a dog.", "--num-steps", 5], 5),
    ],
)
def test_controls_of_diffusion_lm(script, arguments, num_texts, diffusion_lm):
    steps = ("--num-inference-steps", 20)
    printed = run(f"diffusion_lm/{script}.py", "model", *arguments, *steps, cwd=diffusion_lm).splitlines()
    assert len(printed) >= num_texts


@pytest.mark.slow
def test_train_diffusion_lm(diffusion_lm, tmp_path):
    data, options = diffusion_lm / "data.jsonl", ("--output-dir", "model", "--max-minutes", 0.05)
    printed = run("train_diffusion_lm.py", data, *options, cwd=tmp_path)
    for title in ("Freely:", "Of eight words:"):
        assert title in printed
