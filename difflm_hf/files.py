"""Files that appear only when they are complete, and folders that one process at a time writes into."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from .checks import short, shown


BEGUN = ".begun-"  # how the names of folders begin that hold files which are not complete
LOCK, HOLDER = ".lock", ".lock-holder"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """
    Lets a file appear only when it is complete, and on the disk: gives a path to write to, of the same name in a new
    folder beside it that is this user's alone, whose name nobody can foretell. A file that it replaces leaves its
    mode; a link is replaced, and not followed.

    Raises:
        `OSError`: where no file can be written.
    """
    with _explain(path):
        mode = _mode_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(prefix=BEGUN, dir=path.parent))
    temporary = begun / path.name
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def check_writable(path: Path) -> None:
    """
    Finds before some work whether its result can be written to a file, whose folder need not be there yet.

    Raises:
        `OSError`: where it cannot. The message says why.
    """
    if os.path.isdir(path):  # unlike `Path.is_dir`, it takes names that are too long
        raise IsADirectoryError(f"{path} is a folder; name a file")
    with _explain(path):
        _mode_of(path)
        there = next(folder for folder in path.absolute().parents if folder.exists())
        begun = Path(tempfile.mkdtemp(prefix=BEGUN, dir=there))
        try:
            file = begun / path.absolute().relative_to(there)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        finally:
            shutil.rmtree(begun, ignore_errors=True)


def _mode_of(path: Path) -> int | None:
    """The mode of a file that is there. Devices, pipes and sockets are no place for one."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    if stat.S_ISLNK(mode) or stat.S_ISDIR(mode):
        return None
    raise OSError(errno.EINVAL, "it is no regular file")


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(f"{short(str(path))} cannot be written: {error.strerror}") from error
    except ValueError as error:  # of a name with a null character
        raise ValueError(f"{shown(str(path))} cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    """Without it, the loss of power may undo a renaming. Not all systems can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """
    Keeps a folder, which is made if there is none, from other processes that would write into it; what a killed one
    had begun there is removed.

    Raises:
        `RuntimeError`: when another one has it. The message says which.
    """
    is_new = not os.path.exists(folder)  # unlike `Path.exists`, it takes names that are too long
    with _explain(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / LOCK, timeout=0), folder / HOLDER
    try:
        lock.acquire()
    except Timeout as error:
        known = "another process"
        with suppress(OSError):
            if holder.is_file() and not holder.is_symlink():
                known = holder.read_text(encoding="utf-8", errors="replace")[:200]
        raise RuntimeError(f"{folder} is written by {known}; wait for its end, or name another folder") from error
    try:
        for begun in folder.glob(f"{BEGUN}*"):
            shutil.rmtree(begun, ignore_errors=True)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        with atomic_write(holder) as temporary:
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
        yield
    finally:
        for path in (holder, folder / LOCK):
            path.unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # where nothing was written


def is_whole(path: Path) -> bool:
    """Whether a file of safetensors, of Parquet, or a zip archive as torch writes them, was written to its end."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
        if path.suffix == ".parquet":
            return pq.read_metadata(path).num_rows > 0
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, SafetensorError, pa.ArrowInvalid, zipfile.BadZipFile):
        return False
