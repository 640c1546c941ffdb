"""Saved pipelines that are damaged, or made to do harm: valid records or one clear error, soon, in little memory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from record_attacks import ATTACKS as RECORD_ATTACKS
from record_attacks import each_case
from safetensors.torch import load_file, save_file
from tiny import make_table, train
from tiny_diffusion_lm import make_pipeline

from difflm_hf import DiffLMPipeline
from difflm_hf.records.numbers import Grid, QuantileBins


ATTACKS = """
import sys
from attacks import main

for words in {}:
    sys.argv = ["attacks.py", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
VAE, DENOISER = "vae/config.json", "denoiser/config.json"
WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def other_run(tmp_path_factory) -> Path:
    """Of other records, with another layout."""
    folder = tmp_path_factory.mktemp("other") / "model"
    train(make_table(200, seed=1).drop(columns="size"), folder, recipe="tiny", max_minutes=0)
    return folder


@pytest.fixture(scope="module")
def diffusion_lm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion-lm")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_attacks_at_random(tiny_run, diffusion_lm, other_run):
    """The short form of what `tests/attacks.py` does by the thousand, in one process, as it begins slowly."""
    attacks = [["files", model, other_run, "--seed=7"] for model in (tiny_run, diffusion_lm)]
    attacks += [["call", tiny_run], ["command", tiny_run]]
    attacks = [[*map(str, words), "--cases=8"] for words in attacks]
    command = [sys.executable, "-c", ATTACKS.format(attacks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("attack", RECORD_ATTACKS)
def test_odd_records_at_random(attack, tmp_path):
    """In this process, and without a look at time and memory."""
    ends: list[tuple] = []
    each_case(attack, 25, 0, lambda case, run: ends.append((case, *run(tmp_path))))
    assert len(ends) == 25
    assert not [end for end in ends if end[1] not in ("records", "error")]


def copy_of(model: Path, folder: Path) -> Path:
    return shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns("checkpoints", "logs"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(path: Path, by: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(path)
    by(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_ids(folder: Path, value: Any) -> None:
    path = folder / VAE
    config = json.loads(path.read_text())
    config["decoder_config"]["pad_token_id"] = value
    path.write_text(json.dumps(config))


def change_bins(folder: Path) -> None:
    path = folder / "processor" / "processor_config.json"
    config = json.loads(path.read_text())
    bins = next(t["bins"] for _, t in config["codec"]["tokens"] if t["bins"])
    bins["starts"][2], bins["starts"][3] = bins["starts"][3], bins["starts"][2]
    path.write_text(json.dumps(config))


def change_grid(folder: Path) -> None:
    path = folder / "processor" / "processor_config.json"
    config = json.loads(path.read_text())
    dict(config["codec"]["tokens"])["age"]["grid"]["origin"] = 10**12
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (
            lambda f, o: change(f / DENOISER, num_layers=10**9),
            "denoiser/config.json asks for num_layers",
        ),
        (
            lambda f, o: change(f / DENOISER, width=10**6),
            "denoiser/config.json asks for a model of .* num",
        ),
        (lambda f, o: change(f / DENOISER, width="wide"), "denoiser/config.json is damaged"),
        (lambda f, o: change(f / "scheduler/scheduler_config.json", sigma_min="small"), "is damaged"),
        (lambda f, o: change(f / "model_index.json", block_size=0), "block_size=0 is not a positive integer"),
        (lambda f, o: change_ids(f, None), "pad_token_id of the causal LM is None, and of the processor 0"),
        (lambda f, o: change_ids(f, 10**12), "pad_token_id of the causal LM is 1000000000000"),
        (lambda f, o: change_weights(f / WEIGHTS, lambda w: w["proj_in.weight"].fill_(float("nan"))), "not finite"),
        (
            lambda f, o: change_weights(f / WEIGHTS, lambda w: w.pop("proj_in.weight")),
            "denoiser lacks weights",
        ),
        (
            lambda f, o: change_weights(f / "vae/model.safetensors", lambda w: w.pop(sorted(w)[0])),
            "vae lacks weights, such as ",
        ),
        (lambda f, o: (f / WEIGHTS).write_bytes(b""), "diffusion_pytorch_model.safetensors is damaged"),
        (lambda f, o: (f / VAE).write_text("[]"), "vae/config.json is damaged .a list in place of an"),
        (lambda f, o: (f / VAE).write_text("[" * 10**5), "vae/config.json is damaged"),
        (lambda f, o: [(f / VAE).unlink(), os.mkfifo(f / VAE)], "is no regular file"),
        (lambda f, o: [(f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("/dev/zero")], "is no regular file"),
        (lambda f, o: change_bins(f), "do not follow one another"),
        (lambda f, o: change_grid(f), "the grid of field 'age' is from 1000000000000 to .* beyond its bounds"),
        (
            lambda f, o: [shutil.rmtree(f / "processor"), shutil.copytree(o / "processor", f / "processor")],
            "of different",
        ),
    ],
)
def test_attacks_one_by_one(attack, message, tiny_run, other_run, tmp_path):
    folder = copy_of(tiny_run, tmp_path)
    attack(folder, other_run)
    with pytest.raises((OSError, ValueError), match=message):
        DiffLMPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def sibling(tmp_path_factory) -> Path:
    """Of the same records and layout as `tiny_run`, with another seed."""
    folder = tmp_path_factory.mktemp("sibling") / "model"
    train(make_table(), folder, recipe="tiny", seed=1, max_minutes=0)
    return folder


@pytest.mark.parametrize("part", ["vae", "denoiser", "processor"])
def test_parts_of_different_trainings(part, tiny_run, sibling, tmp_path):
    folder = copy_of(tiny_run, tmp_path)
    shutil.rmtree(folder / part)
    shutil.copytree(sibling / part, folder / part)
    with pytest.raises(ValueError, match="are of different trainings .*; take all components of one training"):
        DiffLMPipeline.from_pretrained(folder)


def test_links_to_files_are_files(tiny_run, tmp_path):
    """As in the cache of the Hub."""
    folder = copy_of(tiny_run, tmp_path)
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    DiffLMPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"starts": [0, 5, 3]},
        {"starts": [0, 5, 5]},
        {"starts": [-1, 5, 7]},
        {"starts": []},
        {"end": 6},
        {"end": 2**64},
        {"first_steps": [1, 2]},
        {"first_steps": [0, 2, 1]},
        {"first_steps": [0, 3]},
        {"first_steps": []},
        {"ends": [4, 6]},
        {"ends": [5, 6, 9]},
        {"ends": [4, 6, 10]},
        {"tilts": [0.0, 0.0]},
        {"tilts": [0.0, 0.0, float("inf")]},
    ],
)
def test_bins_follow_one_another(fields):
    given = {"starts": [0, 5, 7], "end": 9, "first_steps": [0, 2], "ends": [4, 6, 9], "tilts": [0.0] * 3}
    QuantileBins(**given)
    with pytest.raises(ValueError, match="do not follow one another"):
        QuantileBins(**given | fields)


@pytest.mark.parametrize("fields", [{"step": 0}, {"size": 0}, {"origin": 2**63 - 3}, {"size": 2**64}, {"step": -1}])
def test_grids_are_of_64_bits(fields):
    with pytest.raises(ValueError, match="64 bits"):
        Grid(**{"origin": 0, "step": 1, "size": 10} | fields)
