"""What is written is there whole or not at all, and one process at a time writes into a folder."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tiny import make_table, train

from difflm_hf import DiffLMPipeline, RecordSchema
from difflm_hf.blocks import write_shards
from difflm_hf.callbacks import LossProgressCallback
from difflm_hf.files import HOLDER, atomic_write, check_writable, is_whole, lock_folder
from difflm_hf.records import write_table
from difflm_hf.training import train_diffusion_lm


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic_write(path) as temporary:
        assert temporary.name == path.name  # writers look at the ending
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "whole" and [*path.parent.iterdir()] == [path]


def test_modes_are_as_they_were(tmp_path):
    secret, usual = tmp_path / "secret.csv", tmp_path / "usual.csv"
    secret.touch(0o600)
    umask = os.umask(0o027)
    try:
        for path in (secret, usual):
            with atomic_write(path) as temporary:
                temporary.write_text("x")
    finally:
        os.umask(umask)
    assert mode(secret) == 0o600 and mode(usual) == 0o640


def test_nothing_is_written_through_links(tmp_path):
    """What stands at a place is replaced, and what it points to left alone, as is all beside it."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("table.csv", ".table.csv", "table.csv.tmp"):
        (out / name).symlink_to(precious)
    write_table(pd.DataFrame({"a": [1]}), out / "table.csv")
    assert precious.read_text() == "precious" and not (out / "table.csv").is_symlink()
    assert (out / ".table.csv").is_symlink() and (out / "table.csv.tmp").is_symlink()


def test_a_link_that_is_replaced_gives_no_mode(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("new")
        mode = temporary.stat().st_mode
    assert (tmp_path / "link").stat().st_mode == mode and (tmp_path / "target").read_text() == "kept"


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (check_writable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(OSError, match="pipe cannot be written: it is no regular file"):
            write(tmp_path / "pipe")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("plant", [lambda path, other: path.symlink_to(other), lambda path, other: os.mkfifo(path)])
def test_what_is_planted_as_a_holder_of_a_lock(plant, tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / "folder").mkdir()
    plant(tmp_path / "folder" / HOLDER, tmp_path / "other")
    with contextlib.suppress(OSError), lock_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "other").read_text() == "kept"


def test_two_writers_of_one_file(tmp_path):
    path, texts = tmp_path / "out.txt", ["a" * 300_000, "b" * 300_000]
    both, seen = threading.Barrier(2), set()

    def write(text: str) -> None:
        for _ in range(20):
            both.wait()
            with atomic_write(path) as temporary, open(temporary, "w") as file:
                for start in range(0, len(text), 1000):
                    file.write(text[start : start + 1000])
            seen.add(path.read_text())

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= set(texts) and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "folder is a folder; name a file"),
        ("file/table.csv", "cannot be written"),
        ("x" * 300 + ".csv", "cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_written_is_told_before(name, message, tmp_path, error_of):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=message):
        check_writable(tmp_path / name)
    if name == "folder":
        name, message = "folder.csv", "folder.csv is a folder; name a file"
    model = tmp_path / "no model, which nobody comes to read"
    assert message in error_of("generate", model, "--num-records", 3, "--output", tmp_path / name)
    assert message in error_of("impute", model, tmp_path / "no table", "--output", tmp_path / name)
    assert message in error_of("schema", tmp_path / "no table", "--output", tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


HOLD = """
import sys, time
from pathlib import Path
from difflm_hf.files import atomic_write, lock_folder

with lock_folder(Path(sys.argv[1])), atomic_write(Path(sys.argv[1], "file")):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_writes_into_a_folder(tmp_path, tiny_run):
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    held = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout.readline() == "held\n"
        message = rf"is written by process {held.pid} on .* since \d{{4}}-.*; wait for its end"
        with pytest.raises(RuntimeError, match=message), lock_folder(tmp_path):
            pass
        with pytest.raises(RuntimeError, match=message):
            write_shards(pipe, tmp_path, 10)
        with pytest.raises(RuntimeError, match=message):
            train(make_table(), tmp_path, recipe="tiny", resume=True)
        with pytest.raises(RuntimeError, match=message):
            train_diffusion_lm(["a b"] * 9, tmp_path, resume=True)
    finally:
        held.send_signal(signal.SIGKILL)
        held.wait()
    assert any(path.name.startswith(".begun-") for path in tmp_path.iterdir())
    with lock_folder(tmp_path):  # nothing to be mended by hand
        pass
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_which_nothing_came_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such"):
        train(tmp_path / "no_such.csv", tmp_path / "model", recipe="tiny")
    assert not (tmp_path / "model").exists()


def test_what_is_whole(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    save_file({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    pd.DataFrame({"a": range(1000)}).to_parquet(tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        assert is_whole(path)
        content = path.read_bytes()
        for size in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            assert not is_whole(path), (path, size)
    assert not is_whole(tmp_path / "nothing.pt")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of a run of `tiny_run` that was stopped amid its first phase."""
    folder = tmp_path_factory.mktemp("stopped") / "model"

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 41:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LossProgressCallback, "on_step_end", stop)
        train(make_table(), folder, recipe="tiny")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["trainer_state.json", "optimizer.pt", "model.safetensors"])
def test_damaged_checkpoints_are_passed_over(damage, stopped, tiny_run, tmp_path, caplog):
    """A run whose last checkpoint was cut off goes on from the one before, to the same bytes."""
    folder = shutil.copytree(stopped, tmp_path / "model")
    checkpoints = sorted((folder / "checkpoints" / "vae").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert len(checkpoints) >= 2
    path = checkpoints[-1] / damage
    path.write_bytes(path.read_bytes()[:-5] if damage != "trainer_state.json" else b"")
    train(make_table(), folder, recipe="tiny", resume=True)
    assert f"{checkpoints[-1]} is damaged, and passed over" in caplog.text
    weights = "vae/model.safetensors"
    assert (folder / weights).read_bytes() == (tiny_run / weights).read_bytes()


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), -1, "1"])
def test_minutes_have_an_end(minutes, tmp_path):
    with pytest.raises(ValueError, match="is no number of minutes from 0 on"):
        train(make_table(), tmp_path / "model", recipe="tiny", max_minutes=minutes)
    with pytest.raises(ValueError, match="is no number of minutes from 0 on"):
        train_diffusion_lm(["a b"] * 9, tmp_path / "model", max_minutes=minutes)
    assert not (tmp_path / "model").exists()


def test_schemas_are_saved_whole(tmp_path, monkeypatch):
    schema = RecordSchema.infer(make_table())
    schema.save(tmp_path / "schema.json")
    whole = (tmp_path / "schema.json").read_text()
    write_text = Path.write_text

    def cut_off(self, text, **kwargs):
        write_text(self, text[: len(text) // 2], **kwargs)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(OSError, match="no space"):
        schema.save(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == whole
