"""Blocks by the workers of Ray: the records of one process, also where workers and the process itself are killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import make_table, seeded, train

import difflm_hf.blocks
import difflm_hf.ray_generation
from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import write_shards
from difflm_hf.ray_generation import on_ray
from difflm_hf.records import Identifier, RecordSchema, Unique


# A cluster of one machine, on the loopback interface
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled")
ray = pytest.importorskip("ray")

BLOCK = 64
RUN = """
import sys
import torch
import difflm_hf.blocks
from difflm_hf import DiffLMPipeline
from difflm_hf.ray_generation import on_ray
difflm_hf.blocks.RECORDS_PER_SHARD = {shard}
pipe = DiffLMPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipe = on_ray(pipe, "local", num_workers=2)
difflm_hf.blocks.write_shards(pipe, sys.argv[2], {num_records}, seed=3)
"""


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    DiffLMPipeline(**pipe.components, block_size=BLOCK).save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(folder) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def no_ray(monkeypatch) -> None:
    """Ray must not be started."""
    monkeypatch.setattr(ray, "init", None)


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("[!.]*"))}


def with_rule(pipe: DiffLMPipeline, rule: Unique | Identifier) -> DiffLMPipeline:
    pipe.processor.schema.rules = [rule]
    return pipe


def with_identifier(table: pd.DataFrame) -> RecordSchema:
    return RecordSchema(RecordSchema.infer(table).fields, [Identifier("id")])


# Errors, before Ray is started


def test_without_ray(pipe, monkeypatch):
    monkeypatch.setattr(difflm_hf.ray_generation, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs Ray; pip install 'difflm_hf\[ray\]'"):
        on_ray(pipe)


@pytest.mark.parametrize("address", ["", "here", "http://host:1", "ray://host", "host:port", None])
def test_addresses(pipe, address):
    with pytest.raises(ValueError, match=r"the address .* of Ray is not auto, local, host:port or ray://host:port"):
        on_ray(pipe, address)


@pytest.mark.parametrize("num_workers", [0, -1, 1.5, True])
def test_num_workers(pipe, num_workers):
    with pytest.raises(ValueError, match=f"num_workers={num_workers} is not a positive integer"):
        on_ray(pipe, num_workers=num_workers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_records": 0}, "num_records=0 is not a positive integer"),
        ({"temperature": -1}, "temperature=-1 is not 0 or more"),
        ({"where": "age > 1000"}, "leaves no value of the field"),
        ({"generator": [seeded(0), seeded(1)], "num_records": 2}, "a list of generators does not go with Ray"),
        ({"callback_on_step_end": print}, "callback_on_step_end does not go with Ray"),
        ({"generator": 3}, "generator=3 is no torch.Generator"),
    ],
)
def test_bad_arguments(pipe, no_ray, arguments, message):
    with pytest.raises(ValueError, match=message):
        on_ray(pipe)(**{"num_records": 200} | arguments)


def test_unique_keys_need_one_process(pipe, no_ray):
    with pytest.raises(ValueError, match="needs the records from the first on"):
        on_ray(with_rule(pipe, Unique(["age", "code"])))(200)


def test_too_few_identifiers(pipe, no_ray):
    with pytest.raises(ValueError, match="has 5 values for 200 records"):
        on_ray(with_rule(pipe, Identifier("code")))(200)


def test_other_folders_are_left_alone(pipe, no_ray, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"is not empty, and has no manifest\.json"):
        write_shards(on_ray(pipe), tmp_path, 100)
    write_shards(pipe, tmp_path / "out", 100)
    with pytest.raises(ValueError, match="holds records of seed=0, and not of 1"):
        write_shards(on_ray(pipe), tmp_path / "out", 100, seed=1)


def test_a_finished_run_starts_no_ray(pipe, no_ray, tmp_path):
    files = write_shards(pipe, tmp_path / "out", 200)
    assert write_shards(on_ray(pipe), tmp_path / "out", 200) == files


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999"])
def test_no_cluster(pipe, address):
    with pytest.raises(ConnectionError, match=f"no Ray cluster lets one in at {address} .*; `ray start --head`"):
        on_ray(pipe, address)(1)


def test_options(error_of, tiny_run, tmp_path):
    records = ("generate", tiny_run, "--num-records", 5)
    assert "the address 'x' of Ray" in error_of(*records, "--output", tmp_path / "new", "--ray", "x")
    assert "num_workers=0" in error_of(*records, "--output", tmp_path / "new", "--ray", "auto", "--num-workers", 0)
    assert "--num-workers goes with --ray" in error_of(*records, "--output", tmp_path / "new", "--num-workers", 2)
    assert "leave out --ray" in error_of(*records, "--profile", "--ray", "auto")
    assert not (tmp_path / "new").exists()


# Records, by a cluster of this machine


@pytest.mark.slow
def test_records_are_those_of_one_process(cluster, pipe, tmp_path):
    """Of calls, streams and shards, with rules and conditions, and from a generator that is used again."""
    remote, generators = on_ray(pipe, num_workers=2), (seeded(1), seeded(1))
    for num_records in (200, 70):
        pairs = zip((remote, pipe), generators)
        there, here = (p(num_records, generator=g, output_type="pandas").records for p, g in pairs)
        pd.testing.assert_frame_equal(there, here)
    rows = make_table(150)[["color"]].fillna("red")
    there, here = (p(conditions=rows, generator=seeded(2), output_type="pandas").records for p in (remote, pipe))
    pd.testing.assert_frame_equal(there, here)
    there, here = (list(p.stream(70, generator=seeded(1), first_block=2, where="age > 40")) for p in (remote, pipe))
    assert there == here
    table = make_table().assign(id=range(240))
    numbered = train(table, tmp_path / "model", recipe="tiny", schema=with_identifier(table))
    pipe = DiffLMPipeline(**numbered.components, block_size=BLOCK)
    for name, p in {"there": on_ray(pipe, num_workers=2), "here": pipe}.items():
        write_shards(p, tmp_path / name, 200, seed=4)
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")


@pytest.mark.slow
def test_documents(cluster, tmp_path):
    records = [{"name": f"n{i % 5}", "tags": ["a", "b"][: i % 3]} for i in range(60)]
    pipe = train(records, tmp_path, nested="json", recipe="tiny")
    pipe(1)  # makes the grammar, which no process can give to another
    there, here = (p(20, generator=seeded(1), temperature=0.5).records for p in (on_ray(pipe, num_workers=1), pipe))
    assert there == here
    with pytest.raises(ValueError, match="conditions on documents do not go with Ray"):
        on_ray(pipe)(20, conditions={"name": "n1"})


@pytest.mark.slow
def test_what_workers_raise_is_raised(cluster, pipe):
    def score(table: pd.DataFrame) -> np.ndarray:
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError) as error:
        on_ray(pipe, num_workers=1)(5, score=score)
    assert str(error.value) == "no score"


@pytest.mark.slow
def test_a_worker_is_killed(cluster, pipe, tmp_path, monkeypatch):
    """Its blocks are generated again, and none is lost or doubled."""
    monkeypatch.setattr(difflm_hf.blocks, "RECORDS_PER_SHARD", 2 * BLOCK)
    killed, here = tmp_path / "killed", os.getpid()

    def score(table: pd.DataFrame) -> np.ndarray:
        if os.getpid() != here and table["age"].sum() % 5 == 0 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(len(table), dtype=bool)

    for name, p in {"here": pipe, "there": on_ray(pipe, num_workers=2)}.items():
        assert not killed.exists()
        write_shards(p, tmp_path / name, 20 * BLOCK, score=score)
    assert killed.exists()
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")


@pytest.mark.slow
def test_the_process_is_killed(folder, pipe, tmp_path, monkeypatch):
    """Complete shards stay, and those that are left follow."""
    monkeypatch.setattr(difflm_hf.blocks, "RECORDS_PER_SHARD", BLOCK)
    num_records = 100 * BLOCK
    code = RUN.format(shard=BLOCK, num_records=num_records)
    there = tmp_path / "there"
    process = subprocess.Popen([sys.executable, "-c", code, folder, there], stderr=subprocess.DEVNULL)
    while len(done := sorted(there.glob("part-*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = sorted(there.glob("part-*.parquet"))
    assert 2 <= len(done) < 100
    before = {path: path.stat().st_mtime_ns for path in done}
    subprocess.run([sys.executable, "-c", code, folder, there], stderr=subprocess.DEVNULL, check=True)
    assert {path: path.stat().st_mtime_ns for path in done} == before
    write_shards(pipe, tmp_path / "here", num_records, seed=3)
    assert hashes(there) == hashes(tmp_path / "here")


@pytest.mark.slow
def test_the_command(pipe, folder, tmp_path):
    """What it prints for programs is for them alone."""
    command = [sys.executable, "-m", "difflm_hf", "generate", folder, "--num-records", "150", "--seed", "6", "--json"]
    options = ["--output", tmp_path / "new.parquet", "--dtype", "float32", "--ray", "local", "--num-workers", "2"]
    process = subprocess.run([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    assert json.loads(process.stdout)["num_records"] == 150
    expected = pipe(150, generator=seeded(6), output_type="pandas").records
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new.parquet"), expected)
