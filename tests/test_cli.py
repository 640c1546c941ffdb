"""The command: training, generating, and what it says where something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import call
from tiny import make_table

import difflm_hf.commands.program
import difflm_hf.utils
from difflm_hf import DiffLMPipeline
from difflm_hf.records import read_table


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "table.parquet"
    make_table().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def model(data, tmp_path_factory) -> Path:
    """A model that the command trained."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "train", data, "--output-dir", folder, "--recipe", "tiny", "--seed", 1)
    return folder


def test_train(model):
    assert (model / "model_index.json").is_file()
    assert {"vae", "denoiser", "scheduler", "processor", "logs"} <= {path.name for path in model.iterdir()}


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_generate(ending, model, monkeypatch, capsys, tmp_path):
    files = {name: tmp_path / "new" / f"{name}.{ending}" for name in ("a", "b", "c")}
    for seed, file in zip((5, 5, 6), files.values()):
        assert call(monkeypatch, "generate", model, "--num-records", 30, "--output", file, "--seed", seed) == 0
        assert capsys.readouterr().err.splitlines()[-1] == f"30 records in {file}"
    assert files["a"].read_bytes() == files["b"].read_bytes() != files["c"].read_bytes()
    table = read_table(files["a"])
    assert (len(table), list(table)) == (30, list(make_table()))
    assert sorted((tmp_path / "new").iterdir()) == sorted(files.values())


@pytest.mark.slow
def test_profile(model, monkeypatch, capsys):
    assert call(monkeypatch, "generate", model, "--num-records", 50, "--profile", "--num-inference-steps", 2) == 0
    output = capsys.readouterr().err
    for stage in ("latents", "prefill", "step", "head", "sampling", "records"):
        assert f"│ {stage} " in output
    shares = [float(share) for share in re.findall(r"([\d.]+)% +│", output)]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert re.search(r"[\d,]+ records/s, [\d.]+ MFLOP each: [\d.]+% of the", output)


@pytest.mark.parametrize("options", [[], ["--profile", "--output", "table.csv"]])
def test_generate_either_writes_or_measures(options, error_of, model):
    line = error_of("generate", model, "--num-records", 10, *options)
    assert line == "error: give --output, --database or --push-to-hub, for the records, or --profile, to measure"


def test_endings_agree(model, monkeypatch, tmp_path):
    tables = []
    for ending in ("csv", "parquet", "jsonl"):
        file = tmp_path / f"table.{ending}"
        call(monkeypatch, "generate", model, "--num-records", 10, "--output", file)
        tables.append(read_table(file))
    for table in tables[1:]:
        for name in ("age", "price", "score", "color", "member", "income", "size", "note"):
            pd.testing.assert_series_equal(
                table[name].astype(tables[0][name].dtype), tables[0][name], check_exact=True, check_names=False
            )


def test_sampling_options(model, monkeypatch, tmp_path):
    options = ["--temperature", 0, "--num-inference-steps", 3, "--top-p", 0.9, "--num-records", 20]
    assert call(monkeypatch, "generate", model, "--output", tmp_path / "table.csv", *options) == 0


def test_train_options(monkeypatch, tmp_path):
    make_table(200).to_csv(tmp_path / "data.csv", index=False)
    make_table(20, seed=1).to_csv(tmp_path / "validation.csv", index=False)
    options = ["--validation", tmp_path / "validation.csv", "--categorical", "code", "--categorical", "age"]
    options += ["--injection", "kv_memory", "--max-minutes", 0, "--recipe", "tiny"]
    folder = tmp_path / "model"
    assert call(monkeypatch, "train", tmp_path / "data.csv", "--output-dir", folder, *options) == 0
    pipe = DiffLMPipeline.from_pretrained(folder)
    categories = {field.name for field in pipe.processor.schema if field.type == "category"}
    assert categories >= {"age", "code", "color", "size"}
    assert pipe.vae.config.injection == "kv_memory"


def test_resume(data, model, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model_index.json").unlink()
    arguments = ["train", data, "--output-dir", folder, "--recipe", "tiny", "--seed", 1]
    assert call(monkeypatch, *arguments) == 1
    assert call(monkeypatch, *arguments, "--resume") == 0
    weights = "vae/model.safetensors"
    assert (folder / weights).read_bytes() == (model / weights).read_bytes()


def test_dtype(model, error_of, monkeypatch, tmp_path):
    arguments = ["generate", model, "--num-records", 5, "--output", tmp_path / "table.csv", "--dtype"]
    for dtype in ("float32", "bfloat16"):
        assert call(monkeypatch, *arguments, dtype) == 0
    assert "dtype='int3' is neither 'float32' nor 'bfloat16'" in error_of(*arguments, "int3")


@pytest.mark.parametrize(("device", "moves"), [("xpu", ["xpu"]), ("mps", ["mps"]), ("cpu", [])])
def test_device(device, moves, model, monkeypatch, tmp_path):
    """Any accelerator is used. There is none here, so that the model stays where it is."""
    devices = []
    monkeypatch.setattr(difflm_hf.utils, "default_device", lambda: torch.device(device))
    monkeypatch.setattr(DiffLMPipeline, "to", lambda self, device: devices.append(torch.device(device).type))
    arguments = ["generate", model, "--num-records", 5, "--output", tmp_path / "table.csv"]
    assert call(monkeypatch, *arguments) == 0
    assert devices == moves


@pytest.mark.slow
def test_module(model, tmp_path):
    """`python -m difflm_hf` is the same command."""
    file = tmp_path / "table.jsonl"
    command = [sys.executable, "-m", "difflm_hf", "generate", model, "--num-records", "3", "--output", file]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert len(read_table(file)) == 3


def test_help(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "train" in shown and "generate" in shown


def test_help_loads_no_libraries():
    script = "import sys, difflm_hf.commands.program\nprint(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "diffusers", "datasets", "pandas"} & set(modules)


# Bad input


def test_missing_data(error_of, tmp_path):
    line = error_of("train", tmp_path / "none.csv", "--output-dir", tmp_path / "model")
    assert line == f"error: {tmp_path / 'none.csv'}: no such file"


@pytest.mark.parametrize("name", ["table.parquet", "table.csv", "table.jsonl", "table.json", "table.xlsx", "table"])
def test_unreadable_data(error_of, name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage\n\x80")
    line = error_of("train", tmp_path / name, "--output-dir", tmp_path / "model")
    assert line.startswith(f"error: {tmp_path / name}")
    assert any(part in line for part in ("cannot be read as", "has no rows")) or (
        "is not one of .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .json, .jsonl, .arrow, .feather, .xlsx" in line
    )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as csv"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "'a' stands more than once"),
        ("a,b\n1,2\nx,3\n", None),
    ],
)
def test_bad_tables(error_of, content, message, monkeypatch, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(content)
    arguments = ("train", path, "--output-dir", tmp_path / "model", "--recipe", "tiny", "--max-minutes", 0)
    if message is None:
        assert call(monkeypatch, *arguments) == 0
    else:
        assert message in error_of(*arguments)


def test_output_folder_not_empty(error_of, data, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    line = error_of("train", data, "--output-dir", tmp_path)
    assert (
        line == f"error: {tmp_path} is not empty; choose another folder, delete it, or resume the run in it (--resume)"
    )


def test_output_folder_is_a_file(error_of, data):
    assert str(data) in error_of("train", data, "--output-dir", data)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--recipe", "huge", "recipe='huge' is not one of 'small', 'base'"),
        ("--injection", "telepathy", "injection='telepathy' is not one of 'soft_prompt', 'prefix_soft_prompt'"),
        ("--categorical", "shoe", "no column 'shoe'"),
        ("--validation", "none.csv", "none.csv: no such file"),
        ("--base-encoder", "bert", "base_encoder goes with base_model"),
    ],
)
def test_bad_options_of_train(error_of, option, value, message, data, tmp_path):
    arguments = ("train", data, "--output-dir", tmp_path / "model", option, value)
    assert message in error_of(*arguments)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["table.ods", "table.json"])
def test_wrong_ending_is_told_first(error_of, name, tmp_path):
    # There is no such model either, which would take longer to see.
    line = error_of("generate", tmp_path / "none", "--num-records", 3, "--output", tmp_path / name)
    assert line.startswith(f"error: {tmp_path / name}: ")
    assert "is not one of .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .jsonl, .arrow, .feather, .xlsx; a folder" in line


def test_generate_into_a_folder(model, monkeypatch, capsys, tmp_path):
    arguments = ["generate", model, "--num-records", 30, "--seed", 5, "--output"]
    assert call(monkeypatch, *arguments, tmp_path / "shards") == 0
    assert call(monkeypatch, *arguments, tmp_path / "table.parquet") == 0
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {"manifest.json", "part-00000.parquet"}
    shard, table = (read_table(tmp_path / name) for name in ("shards/part-00000.parquet", "table.parquet"))
    pd.testing.assert_frame_equal(shard, table)


def test_a_folder_that_is_a_file(error_of, tmp_path):
    (tmp_path / "file").touch()
    line = error_of("generate", tmp_path / "none", "--num-records", 3, "--output", tmp_path / "file")
    assert "is a file; name a folder" in line


def test_missing_model(error_of, tmp_path):
    line = error_of("generate", tmp_path / "none", "--num-records", 3, "--output", tmp_path / "table.csv")
    assert f"{tmp_path / 'none'} is neither a folder nor a model that the Hub gives" in line


@pytest.fixture
def evaluation(tmp_path):
    """The options of `evaluate` for three small tables."""
    options = {}
    for seed, name in enumerate(("real", "holdout", "synthetic")):
        options[f"--{name}"] = tmp_path / f"{name}.csv"
        columns = ["age", "price", "score", "color", "member", "birthday", "code", "note"]  # few, which are soon drawn
        make_table(seed=seed)[columns].to_csv(options[f"--{name}"], index=False)
    return options | {"--output": tmp_path / "report"}


def documents(evaluation: dict) -> dict:
    return {option: evaluation[option] for option in ("--real", "--synthetic", "--output")}


def words(options: dict) -> list:
    return [word for pair in options.items() for word in pair]


def test_evaluate(evaluation, monkeypatch, capsys):
    assert call(monkeypatch, "evaluate", *words(evaluation), "--target", "member", "--categorical", "code") == 0
    captured = capsys.readouterr().err
    assert "Column Shapes" in captured
    assert captured.splitlines()[-1] == f"report in {evaluation['--output'] / 'report.html'}"
    scores = json.loads((evaluation["--output"] / "report.json").read_text())
    assert scores["settings"]["target"] == "member"
    assert "code" in scores["settings"]["categorical"]
    assert scores["rows"] == {"train": 240, "holdout": 240, "synthetic": 240}
    assert {path.name for path in evaluation["--output"].iterdir()} == {
        "report.html",
        "report.json",
        "marginals.png",
        "correlations.png",
        "map.png",
        "distances.png",
    }


@pytest.mark.slow
def test_evaluate_tells_of_copies(evaluation, monkeypatch, capsys):
    for option in ("--real", "--holdout"):
        read_table(evaluation[option])[["price", "score"]].to_csv(evaluation[option], index=False)
    call(monkeypatch, "evaluate", *words(evaluation | {"--synthetic": evaluation["--real"]}))
    assert "privacy alarm: 100.0% of the synthetic rows are copies" in " ".join(capsys.readouterr().err.split())


def test_evaluate_by_the_latents_of_a_model_of_other_data(evaluation, model, error_of, tmp_path):
    for option in ("--real", "--holdout", "--synthetic"):
        evaluation[option] = tmp_path / f"other{option}.csv"
        make_table()[["age", "price"]].to_csv(evaluation[option], index=False)
    assert "column 'score' is missing" in error_of("evaluate", *words(evaluation | {"--model": model}))


@pytest.mark.slow
def test_evaluate_by_the_latents_of_a_model(evaluation, data, model, monkeypatch, tmp_path):
    call(monkeypatch, "generate", model, "--num-records", 100, "--output", tmp_path / "generated.parquet")
    tables = {"--real": data, "--holdout": data, "--synthetic": tmp_path / "generated.parquet", "--model": model}
    assert call(monkeypatch, "evaluate", *words(evaluation | tables)) == 0
    assert "latents" in (evaluation["--output"] / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "column", "metric"), [("code", "text", "compile_rate"), ("text", "text", "self_bleu")]
)
def test_evaluate_code_and_text(kind, column, metric, monkeypatch, tmp_path):
    table = pd.DataFrame({"text": [f"x = {i}\n" for i in range(40)]})
    for name, rows in {"real": table[:20], "synthetic": table[15:]}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    options = {"--kind": kind, "--column": column, "--output": tmp_path / "report"}
    options |= {f"--{name}": tmp_path / f"{name}.csv" for name in ("real", "synthetic")}
    assert call(monkeypatch, "evaluate", *words(options)) == 0
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["documents"]
    assert metric in scores
    assert scores["novelty"] == 0.8


def test_evaluate_json_lines(monkeypatch, tmp_path):
    (tmp_path / "real.jsonl").write_text('{"name": "a\u2028"}\n\n{"name": "b"}\n')
    (tmp_path / "synthetic.jsonl").write_text('{"name": "a\u2028"}\n{"name": \n{"name": 3}\n{"name": "c"}\n')
    (tmp_path / "schema.json").write_text('{"properties": {"name": {"type": "string"}}}')
    options = {"--kind": "json", "--json-schema": tmp_path / "schema.json", "--key": "name"}
    options |= {f"--{name}": tmp_path / f"{name}.jsonl" for name in ("real", "synthetic")}
    assert call(monkeypatch, "evaluate", *words(options), "--output", tmp_path / "report") == 0
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["documents"]
    assert (scores["parse_rate"], scores["schema_validity"], scores["novelty"]) == (0.75, 0.5, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--target": "wealth"}, "there is no target 'wealth'"),
        ({"--kind": "text"}, "--holdout has no use with --kind text; leave it out"),
        ({"--column": "note"}, "--column has no use with --kind table"),
        ({"--kind": "foo"}, "--kind foo is none of table, json, code, text"),
        ({"--max-rows": 0}, "max_rows=0 is not an integer of 30 or more"),
        ({"--seed": -1}, "seed=-1 is not an integer of 0 or more"),
        ({"--seed": 2**40}, "seed=1099511627776 is more than 4,294,967,290"),
        ({"--categorical": "zone"}, "zone"),
        ({"--synthetic": "missing.csv"}, "missing.csv: no such file"),
    ],
)
def test_bad_options_of_evaluate(options, message, evaluation, error_of):
    assert message in error_of("evaluate", *words(evaluation | options))
    assert not evaluation["--output"].exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--kind": "music"}, "--kind music is none of table, json, code, text"),
        ({"--kind": "text"}, "has no column None; name one by --column: age, price"),
        ({"--kind": "text", "--column": "note"}, "None in row 0 of column 'note' is no text; drop it"),
        ({"--kind": "json"}, "does not parse as a JSON object"),
        ({"--kind": "json", "--column": "note"}, "--column has no use with --kind json"),
        ({"--kind": "json", "--seed": -1}, "seed=-1 is not an integer of 0 or more"),
        ({"--kind": "text", "--column": "birthday", "--seed": -1}, "seed=-1 is not an integer of 0 or more"),
    ],
)
def test_bad_options_of_evaluate_for_documents(options, message, evaluation, error_of):
    assert message in error_of("evaluate", *words(documents(evaluation) | options))


def test_names_that_no_system_has(evaluation, error_of, tmp_path):
    name = tmp_path / ("n" * 4000)
    assert "cannot be written: File name too long" in error_of("evaluate", *words(evaluation | {"--output": name}))
    line = error_of("generate", name, "--num-records", 3, "--output", tmp_path / "new.csv")
    assert "is neither a folder nor a model" in line and len(line) < 1000
    (tmp_path / "deep.json").write_text("[" * 10**5)
    line = error_of(
        "train", evaluation["--real"], "--output-dir", tmp_path / "m", "--base-model", tmp_path / "deep.json"
    )
    assert "is no base model with a tokenizer" in line


def test_evaluate_names_the_file_that_cannot_be_read(evaluation, error_of, tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\x00")
    (tmp_path / "cut.json").write_text('{"type":')
    options = documents(evaluation) | {"--kind": "json"}
    line = error_of("evaluate", *words(options | {"--synthetic": tmp_path / "binary.jsonl"}))
    assert f"{tmp_path / 'binary.jsonl'}: no UTF-8 text" in line
    assert f"{tmp_path / 'cut.json'}: no JSON" in error_of(
        "evaluate", *words(options | {"--json-schema": tmp_path / "cut.json"})
    )


def test_evaluate_needs_a_holdout_and_a_folder(evaluation, error_of):
    holdout = evaluation.pop("--holdout")
    assert "a table needs --holdout" in error_of("evaluate", *words(evaluation))
    assert "is a file; name a folder" in error_of("evaluate", *words(evaluation | {"--output": holdout}))


def test_unfinished_model(error_of, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "model_index.json").unlink()
    line = error_of("generate", tmp_path / "model", "--num-records", 3, "--output", tmp_path / "table.csv")
    assert "model_index.json is missing; if its training was cut off, resume it" in line


@pytest.mark.parametrize("content", [None, b"cut"])
def test_damaged_model(error_of, content, model, tmp_path):
    weights = tmp_path / "model" / "denoiser" / "diffusion_pytorch_model.safetensors"
    shutil.copytree(model, tmp_path / "model")
    weights.unlink() if content is None else weights.write_bytes(content)
    line = error_of("generate", tmp_path / "model", "--num-records", 3, "--output", tmp_path / "table.csv")
    assert ("is missing" if content is None else f"{weights} is damaged") in line
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--num-records", 0, "num_records=0 is not a positive integer"),
        ("--temperature", -1, "temperature=-1.0 is not 0 or more"),
        ("--top-p", 0, "top_p=0.0 is not in (0, 1]"),
        ("--num-inference-steps", 0, "num_inference_steps=0 is not a positive integer"),
        ("--num-inference-steps", 10**12, "num_inference_steps=1000000000000 is more than 10,000"),
        ("--seed", 2**64, "seed=18446744073709551616 is more than"),
    ],
)
def test_bad_options_of_generate(error_of, option, value, message, model, tmp_path):
    options = {"--num-records": 3, "--output": tmp_path / "table.csv", option: value}
    assert message in error_of("generate", model, *(word for pair in options.items() for word in pair))


def test_libraries_say_nothing_beside_the_error(monkeypatch, capsys, tmp_path):
    def fail(*args, **kwargs):
        warnings.warn("an argument of a library is deprecated", stacklevel=1)
        raise ValueError("no table")

    monkeypatch.setattr(difflm_hf.records, "read_table", fail)
    with warnings.catch_warnings():
        assert call(monkeypatch, "schema", tmp_path / "a.csv") == 1
    assert capsys.readouterr().err.splitlines() == ["error: no table"]


def test_options_that_name_a_folder_in_place_of_a_file(error_of, data, tmp_path):
    options = ("--output-dir", tmp_path / "model", "--schema", tmp_path)
    assert error_of("train", data, *options) == f"error: {tmp_path} cannot be read: Is a directory"


def test_errors_are_not_markup(error_of, monkeypatch):
    """Brackets in a message are brackets, and many lines are one."""

    def fail() -> None:
        raise ValueError("[bold]columns[/oops] ['a']\n  and " + "long " * 60)

    monkeypatch.setattr(difflm_hf.commands.program, "app", fail)
    assert error_of().startswith("error: [bold]columns[/oops] ['a'] and long long")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("color"), 70, "error: KeyError: 'color'; `difflm --debug ...` shows where"),
        (ZeroDivisionError("by zero"), 70, "error: ZeroDivisionError: by zero; `difflm --debug ...` shows where"),
        (MemoryError(), 1, "error: MemoryError: ; `difflm --debug ...` shows where"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (ValueError("two\n lines [red]"), 1, "error: two lines [red]"),
    ],
)
def test_errors_are_one_line(error, code, line, monkeypatch, capsys, tmp_path):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(difflm_hf.records, "read_table", fail)
    assert call(monkeypatch, "schema", tmp_path / "a.csv") == code
    assert capsys.readouterr().err.splitlines() == [line]
    with pytest.raises(type(error)):
        call(monkeypatch, "--debug", "schema", tmp_path / "a.csv")


@pytest.mark.parametrize("port", [-1, 99999])
def test_ports_that_no_machine_has(port, monkeypatch, capsys):
    assert call(monkeypatch, "app", "--port", port) == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-records", 0], "max_records=0 is not a positive integer"),
        (["--max-minutes", -1], "max_minutes=-1.0 is no number of minutes above 0"),
        (["--concurrency", 0], "concurrency=0 is not a positive integer"),
        (["--max-file-size", "abc"], "max_file_size='abc' is no size of a file; write it like 200mb"),
        (["no/such/model"], "no/such/model is neither a folder nor a model that the Hub gives"),
    ],
)
def test_pages_that_cannot_be_served(options, message, error_of):
    pytest.importorskip("gradio")
    assert message in error_of("app", *options)


def test_models_without_a_name(error_of, tmp_path):
    line = error_of("generate", "", "--num-records", 3, "--output", tmp_path / "new.csv")
    assert line == "error: the name of the model is empty; give a folder, or the id of a model of the Hub"
