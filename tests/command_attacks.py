"""
Attacks on the command: argument vectors of the options that its parser knows.

A case ends well with exit code 0, with one line that says what is wrong, as of `tests/call_attacks.py`, or with what
the parser says. Training and evaluation, which take their time, and what is asked for by the million are interrupted.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import diffusers
import huggingface_hub.constants
import pandas as pd
import typer
from call_attacks import MANY, PATIENCE, SEED, SHORT, Run, judge, where_of
from tiny import RECIPES

import difflm_hf.evaluation
from difflm_hf import DiffLMPipeline
from difflm_hf.commands import main
from difflm_hf.commands.program import app
from difflm_hf.records import write_table


WORDS = (
    *(
        "",
        "-1",
        "0",
        "1",
        "3",
        "nan",
        "inf",
        "1e999",
        "1000000000000",
        "9" * 30,
        "0.5",
        "true",
        "x",
        "--",
        "-",
        ".",
        "/",
    ),
    *("/dev/null", "/dev/null/x", "missing.csv", "folder", "binary.csv", "binary.parquet", "empty.csv", "empty.json"),
    *("odd.csv", "quotes.csv", "header.csv", "nul.csv", "table.csv", "table.parquet", "table.jsonl", "bad.json"),
    *(
        "deep.json",
        "list.json",
        "schema.json",
        "fifo.csv",
        "fifo",
        "n" * 300,
        "n" * 5000 + ".csv",
        "new.csv",
        "new.jsonl",
    ),
    *(
        "new",
        "new.xlsx",
        "new.txt",
        "new/deep/file.parquet",
        "sqlite:///new.db",
        "sqlite:///binary.csv",
        "nosql://x/y",
    ),
    *(
        "日本\udcff",
        "a\nb",
        "[red]",
        "%s",
        "None",
        "[]",
        "{}",
        "color",
        "age",
        "color == 'red'",
        "age >",
        "tab",
        ";",
        '"',
    ),
    *("utf-16", "cp1252", "float32", "table", "json", "text", "tiny", "base", "lora", "diffusion-lm", "a/b", "a/b/c"),
    *("../x", "mit", "main", "~"),
)


def fill(folder: Path, table: pd.DataFrame) -> None:
    """Files of all kinds."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.csv")
    for name, content in {
        "binary.csv": bytes(range(256)) * 8,
        "binary.parquet": bytes(range(256)) * 8,
        "empty.csv": b"",
        "empty.json": b"",
        "odd.csv": b'a,a,\n1,2\n3,4,5,6\n\n"x\n',
        "quotes.csv": b'"' * 999,
        "header.csv": b"age,color\n",
        "nul.csv": b"a,b\n\0,1\n",
        "bad.json": b'{"a": ',
        "deep.json": b"[" * 10**5,
        "list.json": b"[1, 2]",
        "schema.json": b'{"type": "object", "properties": {"age": {"type": "integer"}}}',
    }.items():
        (folder / name).write_bytes(content)
    for ending in ("csv", "parquet", "jsonl"):
        write_table(table, folder / f"table.{ending}")


def draw_commands(model: Path, rng: random.Random) -> Iterator[tuple[str, Run]]:
    """Commands without end, with one to three odd arguments each, of the options that the parser knows."""
    pipe = DiffLMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    table = pipe(60, generator=SEED, output_type="pandas").records
    tiny = RECIPES["tiny"]
    vae, denoiser = {**tiny.vae, "num_train_epochs": 0.01}, {**tiny.denoiser, "max_steps": 2}
    RECIPES["brief"] = replace(tiny, vae=vae, denoiser=denoiser, min_steps=2)
    model = str(model.absolute())
    given = {
        "schema": {"data": "table.csv"},
        "train": {"data": "table.csv", "output_dir": "model", "recipe": "brief"},
        "generate": {"model": model, "num_records": "5", "output": "new.csv", "num_inference_steps": "2"},
        "impute": {"model": model, "table": "table.csv", "output": "new.csv", "num_inference_steps": "2"},
        "push": {"model": model, "repo_id": "name"},
        "evaluate": {"real": "table.csv", "synthetic": "table.csv", "holdout": "table.csv", "output": "report"},
    }
    for function in difflm_hf.evaluation.__all__:
        getattr(difflm_hf.evaluation, function)  # imported once
    diffusers.utils.logging.set_verbosity_error()  # as the command says to a library that is not yet imported
    commands = typer.main.get_command(app).commands
    while True:
        [name] = rng.choices(list(given), [3, 3, 6, 4, 1, 3])
        values = dict(given[name])
        params = commands[name].params
        for param in rng.sample(params, rng.choice([1, 1, 2, 3])):
            values[param.name] = rng.choice(WORDS)
        words = [word for param in params if param.name in values for word in written(param, values[param.name], rng)]
        words = ["difflm", name, *words]
        yield " ".join(map(SHORT.repr, words)), partial(run, words, table)


def written(param: click.Parameter, value: str, rng: random.Random) -> list[str]:
    if param.param_type_name == "argument":
        return [value]
    option = rng.choice([*param.opts, *param.secondary_opts])
    return [option] if param.is_flag else [option, value]


def run(words: list[str], table: pd.DataFrame, folder: Path) -> tuple[str, str]:
    fill(folder, table)
    os.chdir(folder)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    if words[1] in ("train", "evaluate") or any(word.isdigit() and int(word) >= MANY for word in words):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(PATIENCE)
    outputs = [folder / "stdout", folder / "stderr"]
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = words
    try:
        main.main()
    except KeyboardInterrupt:
        return "interrupted", ""
    except SystemExit as end:
        code, error = end.code or 0, end.__context__
    if code == 130:
        return "interrupted", ""
    sys.stderr.flush()
    said = outputs[1].read_text(errors="replace")
    lines = [line for line in said.splitlines() if line.strip() and "%|" not in line]
    if code == 2 and "Usage:" in said and "Error" in said:
        return "error", said
    if code == 1 and isinstance(error, Exception):
        kind, text = judge(error)
        told = lines[-1:] if words[1] == "train" else lines  # training says what it does
        is_line = len(told) == 1 and told[0].startswith("error: ")
        return (kind, text) if kind != "error" or is_line else ("unclear", f"{len(lines)} lines: {said[-300:]}")
    return ("records", "") if code == 0 else (f"code {code}", said if error is None else where_of(error) + said)
