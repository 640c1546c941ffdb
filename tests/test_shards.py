"""Streams and folders of records: the same records as a call gives, and the same bytes however often a run is cut."""

import copy
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import call
from tiny import make_table, seeded

import difflm_hf.blocks
from difflm_hf import DiffLMPipeline, LatentEDMScheduler, RecordSchema
from difflm_hf.blocks import fingerprint, write_shards
from difflm_hf.files import lock_folder
from difflm_hf.utils import MAX_WORKERS, default_dtype


BLOCK = 64
SHARD = 2 * BLOCK
RUN = """
import sys
import difflm_hf.blocks
from difflm_hf import DiffLMPipeline
difflm_hf.blocks.RECORDS_PER_SHARD = {shard}
pipe = DiffLMPipeline.from_pretrained(sys.argv[1])
print("ready", flush=True)
difflm_hf.blocks.write_shards(pipe, sys.argv[2], int(sys.argv[3]), seed=3)
"""


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    DiffLMPipeline(**pipe.components, block_size=BLOCK).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded, monkeypatch) -> DiffLMPipeline:
    monkeypatch.setattr(difflm_hf.blocks, "RECORDS_PER_SHARD", SHARD - 1)  # rounded up to whole blocks
    return copy.deepcopy(loaded)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()
    }


def read(folder: Path) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, sorted(folder.glob("part-*.parquet"))), ignore_index=True)


def test_a_stream_has_the_records_of_a_call(pipe):
    batches = list(pipe.stream(150, generator=seeded(1)))
    assert [batch.num_rows for batch in batches] == [64, 64, 22]
    assert all(batch.schema.equals(pipe.processor.schema.to_arrow()) for batch in batches)
    table = pipe(150, generator=seeded(1), output_type="pandas").records
    expected = pa.Table.from_pandas(table, pipe.processor.schema.to_arrow(), preserve_index=False)
    assert pa.Table.from_batches(batches).equals(expected)


def test_a_stream_may_begin_anywhere(pipe):
    whole = pa.Table.from_batches(pipe.stream(200, generator=seeded(1)))
    rest = pa.Table.from_batches(pipe.stream(72, generator=seeded(1), first_block=2))
    assert rest.equals(whole.slice(128))


def test_a_stream_is_lazy(pipe, monkeypatch):
    blocks = []
    generate_block = pipe.generate_block
    monkeypatch.setattr(pipe, "generate_block", lambda *a, **k: blocks.append(a[1]) or generate_block(*a, **k))
    stream = pipe.stream(10**12)
    next(stream), next(stream)
    # Each thread may be a block ahead, and one more waits.
    assert {0, 1} <= set(blocks) <= set(range(2 + MAX_WORKERS + 1))
    stream.close()


def test_arrow_types_are_those_of_the_table():
    table = make_table()
    schema = RecordSchema.infer(table)
    assert pa.Table.from_pandas(table, schema.to_arrow(), preserve_index=False).schema == schema.to_arrow()
    types = {field.name: field.type for field in schema.to_arrow()}
    assert types["code"] == pa.int8()
    assert types["joined"] == pa.timestamp("ns")
    assert types["birthday"] == types["color"] == types["note"] == pa.string()
    assert types["nothing"] == pa.null()
    assert types["size"] == pa.dictionary(pa.int8(), pa.string(), ordered=True)


def test_shards_hold_the_records_of_a_call(pipe, tmp_path):
    files = write_shards(pipe, tmp_path / "out", 300, seed=7)
    assert [pq.read_metadata(file).num_rows for file in files] == [128, 128, 44]
    expected = pipe(300, generator=seeded(7), output_type="pandas").records
    pd.testing.assert_frame_equal(read(tmp_path / "out"), expected)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["num_records"], manifest["seed"], manifest["records_per_shard"]) == (300, 7, 128)


def test_a_finished_run_is_left_alone(pipe, tmp_path, monkeypatch):
    write_shards(pipe, tmp_path / "out", 300)
    before = hashes(tmp_path / "out")
    monkeypatch.setattr(pipe, "generate_block", None)
    write_shards(pipe, tmp_path / "out", 300)
    assert hashes(tmp_path / "out") == before


def test_a_lost_shard_is_made_again(pipe, tmp_path):
    files = write_shards(pipe, tmp_path / "out", 500)
    before = hashes(tmp_path / "out")
    files[2].unlink()
    begun = tmp_path / "out" / ".begun-0" / files[2].name  # by a process that was killed
    begun.parent.mkdir()
    begun.write_bytes(b"half")
    files[1].write_bytes(b"")  # by a disk that was full, or lost power
    write_shards(pipe, tmp_path / "out", 500)
    assert not begun.parent.exists()
    assert hashes(tmp_path / "out") == before


def test_numbers_of_numpy_are_those_of_python(pipe, tmp_path):
    write_shards(pipe, tmp_path / "a", 5, 1, 3, 1.0, 0.5)
    write_shards(pipe, tmp_path / "b", np.int64(5), np.int64(1), np.int8(3), np.float32(1), np.float64(0.5))
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_dir": 3.0}, "output_dir=3.0 is no path of a folder"),
        ({"output_dir": "a\0b"}, r"'a\\x00b' cannot be written: embedded null byte"),
        ({"output_dir": "x" * 9999}, "x+[.]{3}x+ cannot be written: File name too long"),
        ({"output_dir": "/dev/null/x"}, "/dev/null/x cannot be written: Not a directory"),
        ({"num_records": 10**30}, "num_records=10+ is more than 4,611,686,018,427,387,904"),
        ({"seed": "x"}, "seed='x' is not an integer of -9223372036854775808 or more"),
        ({"seed": 2**64}, "seed=18446744073709551616 is more than 18,446,744,073,709,551,615"),
        ({"conditions": pd.DataFrame([[1, 2]], columns=["age", "age"])}, "column name 'age' stands more than once"),
    ],
)
def test_bad_arguments(pipe, tmp_path, arguments, message):
    with pytest.raises((OSError, ValueError), match=message):
        write_shards(pipe, **{"output_dir": tmp_path / "out", "num_records": 1} | arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_records": 301}, {"temperature": 0.5}, {"top_p": 0.5}])
def test_other_arguments_need_another_folder(pipe, tmp_path, change):
    arguments = {"num_records": 300, "seed": 0}
    write_shards(pipe, tmp_path / "out", **arguments)
    before = hashes(tmp_path / "out")
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"holds records of {name}=.*, and not of {value}; go on with the same"):
        write_shards(pipe, tmp_path / "out", **arguments | change)
    assert hashes(tmp_path / "out") == before


def test_another_model_needs_another_folder(pipe, tmp_path):
    write_shards(pipe, tmp_path / "out", 100)
    next(pipe.denoiser.parameters()).data += 1
    with pytest.raises(ValueError, match="holds records of another run .model.; go on"):
        write_shards(pipe, tmp_path / "out", 100)


def test_fingerprints_are_of_all_weights(folder):
    def load(**kwargs) -> DiffLMPipeline:
        return DiffLMPipeline.from_pretrained(folder, **kwargs)

    pipe = load()
    seen = {fingerprint(pipe), fingerprint(load())}
    assert len(seen) == 1
    for part in (pipe.vae, pipe.denoiser):
        for weight in part.state_dict().values():
            weight.view(-1)[-1:] = 1 - weight.view(-1)[-1:]
            seen.add(fingerprint(pipe))
    pipe = load(scheduler=LatentEDMScheduler())
    seen |= {fingerprint(pipe), fingerprint(pipe.to(torch.bfloat16))}
    assert len(seen) == 3 + sum(len(part.state_dict()) for part in (pipe.vae, pipe.denoiser))


def test_fingerprints_copy_one_weight_at_a_time(pipe, monkeypatch):
    copies, most = weakref.WeakSet(), 0
    cpu = torch.Tensor.cpu

    def copy_to_cpu(weight: torch.Tensor) -> torch.Tensor:
        """As from a GPU."""
        nonlocal most
        copy = cpu(weight).clone()
        copies.add(copy)
        most = max(most, len(copies))
        return copy

    monkeypatch.setattr(torch.Tensor, "cpu", copy_to_cpu)
    fingerprint(pipe)
    assert 1 <= most <= 2


def test_a_folder_of_something_else(pipe, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty, and has no manifest.json"):
        write_shards(pipe, tmp_path, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_killed_at_any_moment(folder, tmp_path):
    """SIGKILL at random moments, again and again: in the end the bytes are those of a run that was left alone."""
    num_records = 40 * SHARD

    def start(name: str) -> subprocess.Popen:
        code = RUN.format(shard=SHARD)
        command = [sys.executable, "-c", code, folder, tmp_path / name, str(num_records)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout.readline() == b"ready\n"
        return process

    moment = time.monotonic()
    assert start("whole").wait() == 0
    duration = time.monotonic() - moment
    generator = random.Random(0)
    killed = 0
    for _ in range(4):
        process = start("cut")
        time.sleep(generator.uniform(0, duration / 8))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 2
    assert start("cut").wait() == 0
    cut = {name: digest for name, digest in hashes(tmp_path / "cut").items() if not name.startswith(".")}
    assert cut == hashes(tmp_path / "whole")


# Shares


@pytest.mark.parametrize("arguments", [{}, {"conditions": make_table(260)[["color"]]}], ids=["plain", "of each"])
def test_shares_together_are_the_whole(arguments, pipe, tmp_path):
    """Also where a share was cut off, and where conditions are of each record."""
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    files = write_shards(pipe, whole, 260, seed=2, **arguments)
    own = write_shards(pipe, shared, 260, seed=2, share=(0, 2), **arguments)
    assert own == [shared / files[0].name, shared / files[2].name]
    (shared / files[2].name).write_bytes(b"half")
    for part in (1, 0):
        write_shards(pipe, shared, 260, seed=2, share=(part, 2), **arguments)
    assert hashes(shared) == hashes(whole)


def test_a_share_makes_its_own_blocks(pipe, tmp_path, monkeypatch):
    blocks, generate_block = [], pipe.generate_block
    monkeypatch.setattr(pipe, "generate_block", lambda *a, **k: blocks.append(a[1]) or generate_block(*a, **k))
    write_shards(pipe, tmp_path, 700, share=(1, 3))
    assert blocks == [2, 3, 8, 9]


def test_shares_at_the_same_time(pipe, tmp_path):
    with lock_folder(tmp_path / "out" / ".share-1-of-2"):
        write_shards(pipe, tmp_path / "out", 300, share=(0, 2))
        with pytest.raises(RuntimeError, match=r"\.share-1-of-2 is written by process"):
            write_shards(pipe, tmp_path / "out", 300, share=(1, 2))
    with pytest.raises(ValueError, match="holds records of seed=0, and not of 1"):
        write_shards(pipe, tmp_path / "out", 300, seed=1, share=(1, 2))


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0), (0.0, 1)])
def test_no_share(pipe, tmp_path, share):
    with pytest.raises(ValueError, match="the (number of shares|share)="):
        write_shards(pipe, tmp_path / "out", 300, share=share)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [(1,), 3, None, pd.Series([1]), "12"])
def test_shares_that_are_no_pairs(pipe, tmp_path, share):
    with pytest.raises(ValueError, match="is no pair of numbers"):
        write_shards(pipe, tmp_path / "out", 300, share=share)


def test_the_option_share(error_of, monkeypatch, folder, tmp_path):
    records = ("generate", folder, "--num-records", 300)
    for share in ("2", "2/2", "a/b", "-1/2"):
        assert f"--share {share} is not one of" in error_of(*records, "--output", tmp_path / "out", f"--share={share}")
    assert "--share goes with a folder" in error_of(*records, "--output", tmp_path / "out.csv", "--share", "0/2")
    assert not (tmp_path / "out").exists()
    for part in range(2):
        assert call(monkeypatch, *records, "--output", tmp_path / "out", "--share", f"{part}/2") == 0
    assert len(read(tmp_path / "out")) == 300


@pytest.mark.slow
def test_processes_of_accelerate(tiny_run, tmp_path):
    """As many as a machine has GPUs; here two on its processor, which `accelerate launch` leaves to torchrun."""
    script = Path(__file__).parents[1] / "examples" / "several_gpus.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    options = ["--model", tiny_run, "--num_records", str(2**17 + 100), "--output", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run([*launch, *options], check=True, capture_output=True, text=True, env=environment)
    assert {f"process {part} of 2: 1 files" in process.stdout for part in range(2)} == {True}
    assert [pq.read_metadata(file).num_rows for file in sorted(tmp_path.glob("part-*"))] == [2**17, 100]
    pipe = DiffLMPipeline.from_pretrained(tiny_run, dtype=default_dtype())
    size = pipe.config.block_size
    for number, num_records in enumerate((size, 100)):
        [*batches] = pipe.stream(num_records, generator=seeded(0), first_block=number * 2**17 // size)
        table = pq.read_table(tmp_path / f"part-0000{number}.parquet")
        assert pa.Table.from_batches(batches).equals(table.slice(0, num_records))
