"""The scripts in `examples/`, run as a user runs them, but for the time to import the libraries: in this process."""

import ast
import contextlib
import io
import json
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from jsonschema import Draft202012Validator
from tiny import make_table
from tiny_diffusion_lm import RECIPE, SENTENCES, SMALL, make_pipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from difflm_hf import DiffLMPipeline
from difflm_hf.evaluation import perplexity
from difflm_hf.records import read_table
from difflm_hf.training import DIFFUSION_LM_RECIPES


EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = [
    path.relative_to(EXAMPLES).as_posix()
    for path in sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("diffusion_lm/*.py")])
    if path.name not in ("tool_records.py", "smollm2.py")  # which draw nothing
]
BRIEF = ("--max_minutes", 0.05)


def run(script, *arguments, cwd):
    """What a script prints."""
    path, printed = EXAMPLES / script, io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(printed),
        patch.object(sys, "argv", [str(path), *map(str, arguments)]),
        patch.object(sys, "path", [str(path.parent), *sys.path]),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, tmp_path, monkeypatch):
    """`--help` says what each option is for, and the docstring shows a command whose options there are."""
    with pytest.raises(SystemExit) as end:
        run(script, "--help", cwd=tmp_path)
    assert end.value.code == 0
    monkeypatch.syspath_prepend(EXAMPLES)
    namespace = runpy.run_path(str(EXAMPLES / script))
    options = namespace["Arguments"].__dataclass_fields__
    assert "seed" in options
    assert all(option.metadata["help"].endswith(".") for option in options.values())
    commands = re.findall(rf"^    python examples/{re.escape(script)}(.*)$", namespace["__doc__"], re.MULTILINE)
    assert commands
    named = {name.replace("-", "_") for command in commands for name in re.findall(r"--([\w-]+)", command)}
    assert named <= {*options, "base_model", "tuning"}  # those of `ModelArguments`


@pytest.mark.slow
def test_a_script_is_a_program(tmp_path):
    """What a user types, in a process of its own."""
    command = [sys.executable, str(EXAMPLES / "train_table.py"), "--max-minutes", "0.05", "--max_records", "300"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "1,000 records in synthetic.csv; model in adult-model" in process.stdout


# Tables


@pytest.fixture(scope="module")
def adult(tmp_path_factory):
    """A folder with the model that `train_table.py` leaves, and its records."""
    folder = tmp_path_factory.mktemp("adult")
    limits = ("--recipe", "tiny", "--max_records", 1000, "--num_records", 400)
    printed = run("train_table.py", *limits, "--categorical", "education-num", cwd=folder)
    assert "400 records in synthetic.csv; model in adult-model" in printed
    return folder


def test_train_table(adult):
    pipe = DiffLMPipeline.from_pretrained(adult / "adult-model")
    assert pipe.processor.schema["education-num"].type == "category"
    assert pipe.config.training["data"]["num_records"] < 1000
    again = pipe(400, generator=torch.Generator().manual_seed(0), output_type="pandas").records
    again.to_csv(adult / "again.csv", index=False)
    assert (adult / "again.csv").read_bytes() == (adult / "synthetic.csv").read_bytes()


@pytest.mark.slow
def test_conditional_generation(adult):
    where = "sex == 'Female' and age > 40"
    printed = run("conditional_generation.py", "--where", where, "--num_records", 200, cwd=adult)
    assert f"where {where}" in printed
    shares = [float(line.split()[1]) for line in printed.splitlines()[-2:]]
    assert shares == pytest.approx([0.5, 0.5], abs=0.1)


@pytest.mark.slow
def test_impute(adult):
    run("impute.py", "--max_records", 100, "--num_imputations", 2, "--output", "filled.csv", cwd=adult)
    real, filled = read_table(EXAMPLES / "data" / "adult_test.parquet")[:100], read_table(adult / "filled.csv")
    assert filled.notna().all(axis=None)
    assert 0.5 < (filled.astype(str) == real.astype(str)).mean(axis=None) < 1


@pytest.mark.slow
def test_guided_generation(adult):
    limits = ("--max_records", 500, "--num_records", 200, "--num_steps", 200, "--scales", 20)
    printed = run("guided_generation.py", *limits, cwd=adult)
    without, guided = (float(share) for share in re.findall(r"^(0\.\d+|1\.0+) with", printed, re.MULTILINE))
    assert guided > without


@pytest.mark.slow
def test_stream_records(adult):
    limits = ("--num_records", 300, "--num_counted", 200)
    printed = run("stream_records.py", *limits, cwd=adult)
    [path] = (adult / "synthetic").glob("*.parquet")
    table = pd.read_parquet(path)
    assert len(table) == 300
    assert str(table["income"][:200].value_counts()["<=50K"]) in printed.splitlines()[-1]
    assert run("stream_records.py", *limits, cwd=adult).splitlines()[-1] == printed.splitlines()[-1]


@pytest.mark.slow
def test_evaluate_records(adult):
    printed = run("evaluate_records.py", "--max_rows", 300, cwd=adult)
    assert "Column Shapes" in printed
    assert json.loads((adult / "report" / "report.json").read_text(encoding="utf-8"))["utility"]
    assert (adult / "report" / "report.html").exists()


@pytest.mark.slow
def test_push_to_hub(adult, hub):
    options = ("--repo_id", "alice/adult", "--dataset_id", "alice/synthetic", "--num_records", 50)
    with pytest.raises(ValueError, match="fewer than 10 records"):
        run("push_to_hub.py", *options, cwd=adult)
    printed = run("push_to_hub.py", *options, "--allow_rare_categories", "--license", "cc-by-4.0", cwd=adult)
    assert "alice/adult" in printed and "num_rows: 50" in printed
    assert b"license: cc-by-4.0" in hub.files("alice/adult")["README.md"]
    assert b"license: cc-by-4.0" in hub.files("alice/synthetic", repo_type="dataset")["README.md"]


@pytest.mark.slow
def test_schema_and_rules(tmp_path):
    limits = (*BRIEF, "--max_records", 500, "--num_records", 100)
    printed = run("schema_and_rules.py", *limits, cwd=tmp_path)
    assert printed.count("Combinations(['education', 'education-num'])") == 2
    path = tmp_path / "rules-model-schema.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    next(field for field in fields["fields"] if field["name"] == "age")["maximum"] = 120
    path.write_text(json.dumps(fields), encoding="utf-8")
    options = ("--schema", path, "--output_dir", "edited-model", "--output", "edited.csv")
    run("schema_and_rules.py", *limits, *options, cwd=tmp_path)
    schema = DiffLMPipeline.from_pretrained(tmp_path / "edited-model").processor.schema
    assert schema["age"].maximum == 120
    assert not schema.check_rules(read_table(tmp_path / "edited.csv"))["num_broken"].any()


@pytest.mark.slow
def test_quickstart(tmp_path):
    printed = run("quickstart.py", *BRIEF, "--max_records", 300, cwd=tmp_path)
    assert "column shapes" in printed and "300 records at" in printed
    assert len(read_table(tmp_path / "synthetic.csv")) == 300
    with pytest.raises(SystemExit):  # the folder is not empty
        run("quickstart.py", cwd=tmp_path)


# Lists and several tables


@pytest.mark.slow
def test_nested_records(tmp_path):
    limits = (*BRIEF, "--max_records", 300, "--num_records", 50)
    printed = run("nested_records.py", *limits, cwd=tmp_path)
    for line in printed.splitlines()[-3:]:
        record = json.loads(line)
        assert record["level"] == "gold" and len(record["orders"]) >= 2
    options = ("--data", "synthetic.jsonl", "--where", "`len(orders)` == 0", "--output_dir", "of-data")
    printed = run("nested_records.py", *limits, *options, "--output", "again.jsonl", cwd=tmp_path)
    assert all(json.loads(line)["orders"] == [] for line in printed.splitlines()[-3:])


@pytest.mark.slow
def test_child_tables(tmp_path):
    limits = (*BRIEF, "--num_records", 100)
    run("child_tables.py", *limits, "--max_records", 200, cwd=tmp_path)
    files = [f"synthetic-shop/{name}.csv" for name in ("parents", "children")]
    options = ("--parents", files[0], "--children", files[1], "--output_dir", "of-data", "--output", "again")
    run("child_tables.py", *limits, *options, cwd=tmp_path)
    parents, children = (read_table(tmp_path / "again" / f"{name}.csv") for name in ("parents", "children"))
    assert len(parents) == 100 and len(children)
    assert children["customer_id"].isin(parents["customer_id"]).all()


@pytest.mark.slow
def test_sequences(tmp_path):
    printed = run("sequences.py", *BRIEF, "--max_records", 200, "--num_records", 100, cwd=tmp_path)
    assert "autocorrelation of the temperature" in printed
    for readings in read_table(tmp_path / "sequences.jsonl")["readings"]:
        assert [reading["hour"] for reading in readings] == sorted(reading["hour"] for reading in readings)


# Documents


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
    functions = runpy.run_path(str(EXAMPLES / "stdlib_functions.py"))["functions"]
    assert list(functions("import os\n\f\ndef f():\n    return '\x1c'\n\n\ndef g(): pass\n", max_lines=5)) == [
        "def f():\n    return '\x1c'",
        "def g(): pass",
    ]


def test_tools_are_records_and_tools_again(tmp_path):
    module = runpy.run_path(str(EXAMPLES / "tool_records.py"))
    read_tools, to_tool = module["read_tools"], module["to_tool"]

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
        Draft202012Validator(module["TOOL_SCHEMA"]).validate(record)
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
        write_lines(tmp_path / f"{split}.jsonl", tools)
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


def save_gpt2(folder, codes):
    """A base whose configuration has names of its own for its sizes, and whose tokenizer has no BOS."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens.train_from_iterator(codes, trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<eos>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=256, vocab_size=len(tokenizer))
    GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("base_model", [None, "gpt2"])
def test_train_code(base_model, tmp_path):
    codes = [f"def add_{i}(x):\n    return x + {i}" for i in range(400)]
    for name, part in (("train", codes[:360]), ("test", codes[360:])):
        write_lines(tmp_path / f"{name}.jsonl", [{"code": code} for code in part])
    options = ["--test", "test.jsonl", "--output-dir", "model", "--num-records", 5, "--max-length", 64]
    if base_model is not None:
        save_gpt2(tmp_path / base_model, codes)
        options += ["--base-model", tmp_path / base_model, "--tuning", "full"]
    run("train_code.py", "train.jsonl", *options, *BRIEF, cwd=tmp_path)
    assert len(read_table(tmp_path / "model" / "code.jsonl")) == 5
    scores = json.loads((tmp_path / "model" / "scores.json").read_text(encoding="utf-8"))
    assert scores["lm"]["bits_per_byte"] > 0
    assert scores["parameters"]["difflm"] > scores["parameters"]["lm"] > 0


@pytest.mark.slow
def test_train_text(tmp_path):
    rows = read_table(EXAMPLES / "data" / "sentences.jsonl")[["text"]].to_dict("records")
    for name, part in (("train", rows[:200]), ("valid", rows[200:240]), ("test", rows[240:280])):
        write_lines(tmp_path / f"{name}.jsonl", part)
    files = ("train.jsonl", "--validation", "valid.jsonl", "--test", "test.jsonl", "--output-dir", "model")
    run("train_text.py", *files, *BRIEF, "--num-records", 5, "--scoring_steps", 5, cwd=tmp_path)
    assert len(read_table(tmp_path / "model" / "texts.jsonl")) == 5
    scores = json.loads((tmp_path / "model" / "scores.json").read_text(encoding="utf-8"))
    assert scores["train"]["perplexity"] > 1


@pytest.fixture(scope="module")
def base_lm(tmp_path_factory):
    """A folder with the LM that `pretrain_base_lm.py` makes, and its data."""
    folder = tmp_path_factory.mktemp("base-lm")
    make_table(30)[["color", "member"]].to_csv(folder / "table.csv", index=False)
    lines = [{"text": f"Sentence {i}.", "attributes": {"number": i}, "id": i} for i in range(40)]
    write_lines(folder / "texts.jsonl", lines)
    sizes = ("--vocab-size", 300, "--length", 64, "--num-steps", 4, "--batch-size", 2, "--max-documents", 50)
    printed = run("pretrain_base_lm.py", "table.csv", "texts.jsonl", "--output-dir", "lm", *sizes, cwd=folder)
    assert "table.csv: 30 of 30 documents" in printed
    assert "texts.jsonl: 50 of 80 documents" in printed  # sentences, and what else their records hold
    return folder


@pytest.mark.slow
def test_pretrain_base_lm(base_lm):
    assert sorted(path.name for path in (base_lm / "lm").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = AutoModelForCausalLM.from_pretrained(base_lm / "lm", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(base_lm / "lm")
    assert len(tokenizer) == model.config.vocab_size == 300
    assert model.config.max_position_embeddings == 1024
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in model.parameters())
    # Four steps are enough to know what is no document at all.
    scores = [perplexity(model, tokenizer, [text])["bits_per_byte"] for text in ("Sentence 7.", "Ü°¶Ø§¤¬")]
    assert scores[0] < scores[1]


@pytest.mark.slow
def test_train_on_lm(base_lm):
    options = ("--data", "table.csv", "--base_model", "lm", "--tuning", "lora", "--num_records", 5)
    printed = run("train_on_lm.py", *options, *BRIEF, cwd=base_lm)
    trained, total = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+)(?: of| parameters)", printed))
    assert 0 < trained < total
    assert set(read_table(base_lm / "synthetic.jsonl")["color"].dropna()) <= {"red", "green", "blue"}
    with pytest.raises(SystemExit):
        run("train_on_lm.py", cwd=base_lm)


# Diffusion-LM


@pytest.fixture(scope="module")
def diffusion_lm(tmp_path_factory):
    """A folder with an untrained Diffusion-LM of a toy language, and its sentences with their fields."""
    folder = tmp_path_factory.mktemp("diffusion-lm")
    make_pipeline(**SMALL).save_pretrained(folder / "my-diffusion-lm")
    rows = [{"text": text, "attributes": {"colour": text.split()[1]}} for text in SENTENCES]
    write_lines(folder / "data.jsonl", rows)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, arguments, num_lines",
    [
        ("length", ["--length", 4], 6),
        ("infilling", ["--text", "the [mask] cat [gap]"], 3),
        ("semantic_content", ["--data", "data.jsonl", "--wanted", "colour=blue", "--num_steps", 5], 3),
        ("parts_of_speech", ["--data", "data.jsonl", "--example", "the cat sleeps.", "--num_steps", 5], 4),
        ("syntax_spans", ["--data", "data.jsonl", "--example", "the red cat sees a dog.", "--num_steps", 5], 4),
        ("syntax_tree", ["--data", "data.jsonl", "--example", "the red cat sees a dog.", "--num_steps", 5], 4),
    ],
)
def test_controls_of_diffusion_lm(script, arguments, num_lines, diffusion_lm):
    printed = run(f"diffusion_lm/{script}.py", *arguments, "--num_texts", 3, cwd=diffusion_lm)
    assert len(printed.splitlines()) == num_lines


@pytest.mark.slow
def test_train_diffusion_lm(diffusion_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(DIFFUSION_LM_RECIPES, "tiny", RECIPE)
    options = ("--data", diffusion_lm / "data.jsonl", "--recipe", "tiny", *BRIEF)
    printed = run("train_diffusion_lm.py", *options, cwd=tmp_path)
    for title in ("Freely:", "Of 8 words:"):
        assert title in printed


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
