"""The command: training, generating, and what it says where something is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny import make_table

import difflm_hf.cli
from difflm_hf import DiffLMPipeline
from difflm_hf.cli import main
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
        call(patch, "train", data, "--output-dir", folder, "--config", "tiny", "--seed", 1)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments) -> int:
    """Runs the command in this process, and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["difflm", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code or 0


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Runs the command, which must fail, and returns the one line that it says."""

    def run(*arguments) -> str:
        capsys.readouterr()
        assert call(monkeypatch, *arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if "%|" not in line]  # a bar is none
        assert len(lines) == 1, lines
        line = lines[0]
        assert line.startswith("error: ")
        return line

    return run


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
    options += ["--injection", "kv_memory", "--max-minutes", 0, "--config", "tiny"]
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
    arguments = ["train", data, "--output-dir", folder, "--config", "tiny", "--seed", 1]
    assert call(monkeypatch, *arguments) == 1
    assert call(monkeypatch, *arguments, "--resume") == 0
    weights = "vae/model.safetensors"
    assert (folder / weights).read_bytes() == (model / weights).read_bytes()


def test_dtype(model, error_of, monkeypatch, tmp_path):
    arguments = ["generate", model, "--num-records", 5, "--output", tmp_path / "table.csv", "--dtype"]
    for dtype in ("float32", "bfloat16"):
        assert call(monkeypatch, *arguments, dtype) == 0
    assert "dtype='int3' is neither 'float32' nor 'bfloat16'" in error_of(*arguments, "int3")


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


# Bad input


def test_missing_data(error_of, tmp_path):
    line = error_of("train", tmp_path / "none.csv", "--output-dir", tmp_path / "model")
    assert line == f"error: {tmp_path / 'none.csv'}: no such file"


@pytest.mark.parametrize("name", ["table.parquet", "table.csv", "table.jsonl", "table.json", "table.xlsx", "table"])
def test_unreadable_data(error_of, name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage\n\x80")
    line = error_of("train", tmp_path / name, "--output-dir", tmp_path / "model")
    assert f"{tmp_path / name}: " in line
    assert ("cannot be read as" in line) or ("is not one of .csv, .parquet, .json, .jsonl" in line)
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
    arguments = ("train", path, "--output-dir", tmp_path / "model", "--config", "tiny", "--max-minutes", 0)
    if message is None:
        assert call(monkeypatch, *arguments) == 0
    else:
        assert message in error_of(*arguments)


def test_output_folder_not_empty(error_of, data, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    line = error_of("train", data, "--output-dir", tmp_path)
    assert line == f"error: {tmp_path} is not empty; choose another folder, delete it, or resume the run in it"


def test_output_folder_is_a_file(error_of, data):
    assert str(data) in error_of("train", data, "--output-dir", data)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--config", "huge", "config='huge' is not one of 'small', 'base'"),
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


@pytest.mark.parametrize("name", ["table.xlsx", "table", "table.json"])
def test_wrong_ending_is_told_first(error_of, name, tmp_path):
    # There is no such model either, which would take longer to see.
    line = error_of("generate", tmp_path / "none", "--num-records", 3, "--output", tmp_path / name)
    assert line.startswith(f"error: {tmp_path / name}: ")
    assert line.endswith("is not one of .csv, .parquet, .jsonl")


def test_missing_model(error_of, tmp_path):
    line = error_of("generate", tmp_path / "none", "--num-records", 3, "--output", tmp_path / "table.csv")
    assert f"{tmp_path / 'none'} is neither a folder nor a model that the Hub gives" in line


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
        ("--temperature", -1, "temperature=-1.0 is negative"),
        ("--top-p", 0, "top_p=0.0 is not in (0, 1]"),
        ("--num-inference-steps", 0, "num_inference_steps=0 is not a positive integer"),
    ],
)
def test_bad_options_of_generate(error_of, option, value, message, model, tmp_path):
    options = {"--num-records": 3, "--output": tmp_path / "table.csv", option: value}
    assert message in error_of("generate", model, *(word for pair in options.items() for word in pair))


def test_errors_are_not_markup(error_of, monkeypatch):
    """Brackets in a message are brackets, and many lines are one."""

    def fail() -> None:
        raise ValueError("[bold]columns[/oops] ['a']\n  and " + "long " * 60)

    monkeypatch.setattr(difflm_hf.cli, "app", fail)
    assert error_of().startswith("error: [bold]columns[/oops] ['a'] and long long")
