"""The command for programs: what it prints as JSON, its exit codes, examples, completion and `difflm env`."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import shellingham
import tiny_diffusion_lm
import typer.main
from conftest import call
from tiny import make_table

import difflm_hf.records
from difflm_hf.commands.program import app
from difflm_hf.records import RecordSchema, read_table
from difflm_hf.training import DIFFUSION_LM_RECIPES, RECIPES, DataArguments, HubArguments, ModelArguments


COMMANDS = typer.main.get_command(app).commands
REPORTING = [name for name in COMMANDS if name != "app"]  # which has no end


@pytest.fixture
def table(monkeypatch, tmp_path) -> Path:
    """The folder that one is in, with a table."""
    monkeypatch.chdir(tmp_path)
    path = Path("table.csv")
    make_table().drop(columns="nothing").to_csv(path, index=False)
    return path


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs the command with `--json`, and returns what it printed."""

    def run(*arguments, code: int = 0) -> dict:
        capsys.readouterr()
        assert call(monkeypatch, *arguments, "--json") == code
        captured = capsys.readouterr()
        assert captured.err or arguments == ("env",)  # what people are told
        [line] = captured.out.splitlines()
        return json.loads(line)

    return run


# Examples


@pytest.mark.parametrize("name", REPORTING)
def test_help_ends_with_commands_that_exist(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, name, "--help") == 0
    lines = [line.strip() for line in capsys.readouterr().out.split("Examples:")[1].splitlines() if line.strip()]
    assert len(lines) >= 2
    for line in lines:  # each in a line of its own, whole
        program, own_name, *words = shlex.split(line)
        assert (program, own_name) == ("difflm", name)
        COMMANDS[name].make_context(name, words)


# JSON


def test_schema(printed, table):
    given = make_table().drop(columns="nothing").astype({"age": object})
    given.loc[3, "age"] = "unknown"
    given.to_csv(table, index=False)
    found = printed("schema", table, "--output", "schema.json")
    assert found["num_records"] == 240
    assert found["file"] == "schema.json"
    assert found["schema"] == json.loads(Path("schema.json").read_text())
    assert RecordSchema.from_dict(found["schema"])["age"].words == ["unknown"]
    assert "'unknown'" in found["doubts"]["age"] and "color" not in found["doubts"]
    assert printed("schema", table)["file"] is None


def test_train(printed, table):
    told = printed("train", table, "--output-dir", "model", "--recipe", "tiny", "--max-minutes", 0, "--seed", 3)
    assert (told["folder"], told["seed"]) == ("model", 3)
    assert (told["num_records"], told["num_validation_records"], told["num_dropped_records"]) == (216, 24, 0)
    assert list(told["losses"]) == ["autoencoder", "latent diffusion"]
    assert {"loss", "reconstruction_loss", "kl_loss"} <= set(told["losses"]["autoencoder"])
    assert 0 < told["minutes"] < 10


def test_generate(printed, tiny_run, table):
    told = printed("generate", tiny_run, "--num-records", 7, "--output", "new.csv", "--seed", 5)
    assert told.pop("seconds") > 0
    assert told == {"num_records": 7, "files": ["new.csv"], "seed": 5}
    assert len(read_table("new.csv")) == 7
    told = printed("generate", tiny_run, "--num-records", 7, "--output", "shards")
    assert told["files"] == ["shards/part-00000.parquet"] and Path(told["files"][0]).is_file()
    read_table("new.csv")[["color"]].to_csv("known.csv", index=False)
    told = printed("generate", tiny_run, "--conditions", "known.csv", "--output", "known.parquet")
    assert (told["num_records"], told["files"]) == (7, ["known.parquet"])


@pytest.mark.slow
def test_generate_elsewhere(printed, tiny_run, hub, table):
    profile = printed("generate", tiny_run, "--num-records", 20, "--profile", "--num-inference-steps", 2)
    assert set(profile) == {"records_per_second", "stages", "flops_per_record", "matrix_flops"}
    pushed = printed("generate", tiny_run, "--num-records", 5, "--push-to-hub", "rows", "--allow-rare-categories")
    assert pushed["commit"] == hub.repo("alice/rows", "dataset").commit_at("main").id
    assert "alice/rows" in pushed["url"] and pushed["files"] == []


def test_generate_texts(printed, table):
    tiny_diffusion_lm.make_pipeline().save_pretrained("texts")
    told = printed("generate", "texts", "--num-records", 3, "--output", "new.jsonl", "--num-inference-steps", 2)
    assert (told["num_records"], told["files"], told["seed"]) == (3, ["new.jsonl"], 0)


def test_impute(printed, tiny_run, table):
    make_table(9).assign(age=None, note="größe red 1", color="red", income=1000.0).to_csv("gaps.csv", index=False)
    told = printed("impute", tiny_run, "gaps.csv", "--output", "filled.csv")
    assert told.pop("seconds") > 0
    assert told == {"num_records": 9, "num_gaps": 18, "files": ["filled.csv"], "seed": 0}  # age and nothing
    assert read_table("filled.csv")["age"].notna().all()


def test_push(printed, tiny_run, hub, table):
    told = printed("push", tiny_run, "told", "--allow-rare-categories")
    assert told["commit"] == hub.repo("alice/told").commit_at("main").id
    assert told["url"].endswith(f"alice/told/commit/{told['commit']}")


def test_evaluate(printed, table):
    pd.DataFrame({"text": [f"the {i} cats sleep ." for i in range(40)]}).to_csv("texts.csv", index=False)
    options = ["--real", "texts.csv", "--synthetic", "texts.csv", "--kind", "text", "--column", "text"]
    told = printed("evaluate", *options, "--output", "report")
    assert told["report"] == "report/report.html"
    assert told["scores"] == json.loads(Path("report/report.json").read_text())
    assert told["scores"]["documents"]["novelty"] == 0


# Errors


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("[a] two\n lines"), 1, {"error": "[a] two lines", "type": "ValueError"}),
        (FileNotFoundError("none.csv: no such file"), 1, {"error": "none.csv: no such file"}),
        (KeyError("age"), 70, {"error": "KeyError: 'age'; `difflm --debug ...` shows where", "type": "KeyError"}),
        (KeyboardInterrupt(), 130, {"error": "interrupted", "type": "KeyboardInterrupt"}),
    ],
)
def test_errors_are_json(error, code, told, printed, monkeypatch, capsys, table):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(difflm_hf.records, "read_table", fail)
    found = printed("schema", table, code=code)
    assert set(found) == {"error", "type"} and found.items() >= told.items()
    assert call(monkeypatch, "schema", table) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"error: {told['error']}"]


def test_errors_are_json_with_debug_too(monkeypatch, capsys, table):
    with pytest.raises(FileNotFoundError):
        call(monkeypatch, "--debug", "schema", "none.csv", "--json")
    told = {"error": "none.csv: no such file", "type": "FileNotFoundError"}
    assert json.loads(capsys.readouterr().out) == told


def test_interrupts_while_libraries_are_loaded():
    script = """
import signal, sys
sys.argv = ["difflm", "env", "--json"]
from difflm_hf.commands.main import main
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert json.loads(done.stdout) == {"error": "interrupted", "type": "KeyboardInterrupt"}


def test_json_takes_no_value(monkeypatch, capsys):
    assert call(monkeypatch, "env", "--json=1") == 2
    assert "does not take a value" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("schema",), "Missing argument"),
        (("schema", "table.csv", "--jason"), "No such option: --jason"),
        (("generate", "model", "--seed", "x"), "Invalid value for '--seed'"),
        (("sample",), "No such command 'sample'"),
    ],
)
def test_usage(arguments, message, printed):
    assert message in printed(*arguments, code=2)["error"]


@pytest.mark.parametrize("arguments", [["env"], ["env", "--json"], ["--help"], ["sample", "--json"]])
def test_nobody_reads_on(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "difflm_hf", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Traceback" not in (said := process.stderr.read()) and "BrokenPipe" not in said
    assert process.wait() == 1


# Environment


def test_env(printed, monkeypatch, capsys):
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = printed("env")
    assert found["difflm_hf"] == version("difflm_hf") and found["torch"] == version("torch")
    assert found["python"] == sys.version.split()[0]
    assert found["num_cores"] == os.cpu_count()
    assert found["variables"]["TRANSFORMERS_OFFLINE"] == "1"
    assert call(monkeypatch, "env") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"- {name}" for name in found]
    assert "- gpus: none" in lines or found["gpus"]
    assert "hf_secret" not in json.dumps(found) + "".join(lines)


def test_env_where_packages_are_missing(printed, monkeypatch):
    monkeypatch.setattr("difflm_hf.commands.env.PACKAGES", ("difflm_hf", "no_such_package"))
    monkeypatch.setattr("difflm_hf.commands.env.CPU_FILE", Path("/nowhere"))  # as on other systems than Linux
    found = printed("env")
    assert found["no_such_package"] == "not installed"
    assert found["processor"] and found["processor_flags"] == []


def test_env_names_the_flags_of_the_processor(printed, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 amx_tile sse\n\nmodel name\t: B\n")
    monkeypatch.setattr("difflm_hf.commands.env.CPU_FILE", tmp_path / "cpuinfo")
    found = printed("env")
    assert (found["processor"], found["processor_flags"]) == ("Some CPU", ["avx2", "amx_tile"])


def test_env_asks_the_driver_for_gpus(printed, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert printed("env")["gpus"] == ["NVIDIA H200, 143771 MiB, 570.0"]
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert printed("env")["gpus"] == ["nvidia-smi: no driver"]


def test_env_is_fast():
    script = "import sys; sys.argv = ['difflm', 'env']\nfrom difflm_hf.commands.main import main\n"
    script += "try: main()\nfinally: print('modules:', *sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "diffusers", "datasets", "pandas"} & set(said.split("modules:")[1].split())


# Completion


def completed(monkeypatch, capsys, *words) -> list[str]:
    """What bash offers after some words, the last of which is begun."""
    monkeypatch.setenv("_DIFFLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["difflm", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    call(monkeypatch)
    monkeypatch.delenv("_DIFFLM_COMPLETE")
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _difflm_completion difflm"),  # with names of files where nothing is offered
        ("zsh", "#compdef difflm"),
        ("fish", "complete --command difflm"),
    ],
)
def test_show_completion(shell, line, monkeypatch, capsys):
    monkeypatch.setattr(shellingham, "detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert call(monkeypatch, "--show-completion") == 0
    assert line in capsys.readouterr().out


def test_install_completion(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "/bin/bash"))
    assert call(monkeypatch, "--install-completion") == 0
    assert "_DIFFLM_COMPLETE" in (tmp_path / ".bash_completions" / "difflm.sh").read_text()
    assert str(tmp_path / ".bash_completions" / "difflm.sh") in (tmp_path / ".bashrc").read_text()


def test_commands_and_options_are_completed(monkeypatch, capsys):
    assert completed(monkeypatch, capsys, "e") == ["evaluate", "env"]
    assert completed(monkeypatch, capsys, "impute", "--me") == ["--mean-of"]
    assert completed(monkeypatch, capsys, "train", "--recipe", "s") == ["small"]
    for words in (("train", "''"), ("evaluate", "--real", "''")):
        assert completed(monkeypatch, capsys, *words) == []  # files, which are the shell's


@pytest.mark.parametrize(
    ("name", "option", "is_taken"),
    [
        ("train", "--model", lambda word: word in ("difflm", "diffusion-lm")),
        ("train", "--recipe", lambda word: word in {**RECIPES, **DIFFUSION_LM_RECIPES}),
        ("train", "--tuning", lambda word: ModelArguments(base_model="a", tuning=word)),
        ("train", "--quantization", lambda word: ModelArguments(base_model="a", tuning="lora", quantization=word)),
        ("train", "--injection", lambda word: ModelArguments(injection=word)),
        ("train", "--overlong", lambda word: DataArguments(overlong=word)),
        ("train", "--key-order", lambda word: DataArguments(key_order=word)),
        ("train", "--nested", lambda word: DataArguments(nested=word)),
        ("train", "--hub-strategy", lambda word: HubArguments(hub_strategy=word)),
        ("generate", "--dtype", lambda word: word in ("float32", "bfloat16")),
        ("evaluate", "--kind", lambda word: word in ("table", "json", "code", "text")),
    ],
)
def test_words_that_are_completed_are_taken(name, option, is_taken, monkeypatch, capsys):
    words = completed(monkeypatch, capsys, name, option, "''")
    assert len(words) >= 2 and all(map(is_taken, words))


# Documents


def test_page_lists_all_commands_and_codes():
    page = (Path(__file__).parents[1] / "docs" / "command.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `difflm (\w+)` \|", page, re.MULTILINE) == [*REPORTING[:-1], "app", "env"]
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "70", "130"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-records", "5", "--license", "mit"], "go with --push-to-hub"),
        (["--num-records", "5", "--allow-rare-categories"], "go with --push-to-hub"),
        (["--num-records", "5", "--guidance-scale", "3"], "--guidance-scale goes with --where or --conditions"),
        (["--num-records", "0"], "num_records=0 is not a positive integer"),
        (["--num-records", "5", "--escape-formulas"], "--escape-formulas goes with a CSV file"),
    ],
)
def test_options_of_generate_that_would_do_nothing(options, message, printed, tiny_run, table):
    assert message in printed("generate", tiny_run, *options, "--output", "new", code=1)["error"]


def test_formulas_are_escaped(printed, tiny_run, table):
    printed("generate", tiny_run, "--num-records", 5, "--output", "new.csv", "--escape-formulas")
    assert len(read_table("new.csv")) == 5


def test_other_conditions_in_a_folder(printed, tiny_run, table):
    printed("generate", tiny_run, "--num-records", 5, "--output", "new", "--where", "age > 30")
    told = printed("generate", tiny_run, "--num-records", 5, "--output", "new", "--where", "age > 40", code=1)
    assert "new holds records of another run (conditions); go on with the same arguments" in told["error"]
