"""Python programs, each run in a sandbox of its own that keeps it within limits."""

from __future__ import annotations

import inspect
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from tempfile import mkdtemp
from typing import Any

from .bubblewrap import MAX_SECONDS, interpreter, sandbox, why_no_sandbox


MEBIBYTE = 2**20
MIN_MEMORY = 64 * MEBIBYTE  # an interpreter of its own takes some of it
MAX_TIMEOUT = 86_400  # seconds
# What the child says when all limits are set, where it is a literal; and bytes that it never says in all.
READY, MAX_REPORT = b".", 4096


@dataclass(frozen=True)
class ExecutionResult:
    """
    What became of a program.

    Args:
        status (`str`): `"passed"`, `"failed"`, `"timed out"` or `"out of memory"`.
        error (`str`, *optional*): Where it did not pass, the error, such as `"AssertionError"`, in 500 characters.
    """

    status: str
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the program came to its end."""
        return self.status == "passed"


def run_code(
    program: str, timeout: float = 5.0, max_memory: int = 512 * MEBIBYTE, allow_unsafe: bool = False
) -> ExecutionResult:
    """
    Runs a Python program in a sandbox, and tells whether it came to its very end.

    The sandbox is one of [bubblewrap](https://github.com/containers/bubblewrap), which has to be installed. In it
    there are a fresh interpreter with the standard library alone, the libraries of the system, which cannot be
    changed, and an empty folder for 64 MiB of files, which is gone afterwards. There are no other files, no input,
    no environment, no network, no other processes, and no way to start a process or a thread. Time, memory and the
    size of files are limited; what the kernel keeps of empty files by time alone. System calls that programs have no
    use for are refused by the kernel, which is what remains to be attacked: it is the same as outside.

    What a program prints is thrown away. Sets have the same order each time. A program has passed when its last
    statement has run: `sys.exit(0)`, `os._exit(0)` or a text that looks like success do not count, since the end is
    confirmed by a random token that the program has no name for. A program that is made to cheat can find the token
    in its memory, as it can change what the tests call.

    Args:
        program (`str`): The source, which runs as `__main__`.
        timeout (`float`, defaults to 5.0): Seconds by the clock, from when the interpreter is ready.
        max_memory (`int`, defaults to 512 MiB): Bytes of the address space of the process, at least 64 MiB.
        allow_unsafe (`bool`, defaults to `False`):
            Whether to run the program where no sandbox can be had, too. It then may do **whatever you may**: read and
            delete your files, use the network, start processes that stay. Its time, its memory and the size of its
            files are limited all the same.

    Returns:
        [`ExecutionResult`].

    Raises:
        `NotImplementedError`: on systems other than Linux, which lack these limits.
        `TypeError`: for a program that is no `str`.
        `ValueError`: for a `timeout` that is not positive, or above a day, or too small a `max_memory`.
        `RuntimeError`: when no sandbox can be had, or no interpreter starts; the message says why.

    Example:

    ```python
    >>> run_code("assert sorted([2, 1]) == [1, 2]")
    ExecutionResult(status='passed', error=None)
    >>> run_code("assert sorted([2, 1]) == [2, 1]")
    ExecutionResult(status='failed', error='AssertionError')
    ```
    """
    if not isinstance(program, str):
        raise TypeError(f"`program` is a {type(program).__name__}; give the source of a program")
    check_limits(timeout, max_memory, allow_unsafe)
    token = secrets.token_bytes(32)
    limits = [str(math.ceil(timeout) + 1), str(max_memory)]
    with (
        _place() as (words, options),
        subprocess.Popen(
            # As -I, but for the environment, which has nothing else in it.
            [*words, interpreter(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _child_source(), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
            **options,
        ) as process,
    ):
        try:
            with suppress(BrokenPipeError), process.stdin:  # an interpreter that did not start says why
                process.stdin.write(token + program.encode("utf-8", "surrogatepass"))
            report = _receive(process, MAX_SECONDS)
            if not report.startswith(READY):
                while more := _receive(process, 1.0):
                    report += more
                reason = report.decode(errors="replace").strip() or f"nothing came from {interpreter()}"
                raise RuntimeError(f"no interpreter started to run the program in: {reason}")
            deadline = time.monotonic() + timeout
            report = report.removeprefix(READY) or _receive(process, timeout)
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return ExecutionResult("timed out", f"no end after {timeout:g} seconds")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return _judge(report, token, process.returncode)


def check_limits(timeout: float, max_memory: int, allow_unsafe: bool) -> None:
    if sys.platform != "linux":
        raise NotImplementedError(
            f"programs are limited by means of Linux, and this is {sys.platform}; run them in a container of Linux"
        )
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"`timeout` is {timeout}; it is a positive number of seconds, {MAX_TIMEOUT:,} at most")
    if not MIN_MEMORY <= max_memory < 2**62:
        raise ValueError(f"`max_memory` is {max_memory} bytes; an interpreter needs {MIN_MEMORY}, and none has 2^62")
    if why_no_sandbox() and not allow_unsafe:
        raise RuntimeError(
            f"there is no sandbox to run programs in: {why_no_sandbox()}. Where they may do whatever you may, as in a "
            "virtual machine with nothing else in it, pass `allow_unsafe=True`"
        )


@contextmanager
def _place() -> Iterator[tuple[list[str], dict[str, Any]]]:
    """How to start a process in a sandbox; where there is none, in a temporary folder."""
    if not why_no_sandbox():
        with sandbox() as (words, file):
            yield words, {"pass_fds": [file]}
        return
    folder = mkdtemp(prefix="run_code-")
    try:
        yield [], {"cwd": os.path.realpath(folder)}
    finally:
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)  # however deep it is


def _receive(process: subprocess.Popen, timeout: float) -> bytes:
    """What the process says next, or nothing when it ends or the time is over."""
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    return os.read(process.stdout.fileno(), MAX_REPORT) if poll.poll(math.ceil(1000 * timeout)) else b""


def _judge(report: bytes, token: bytes, returncode: int) -> ExecutionResult:
    if report == token and returncode == 0:
        return ExecutionResult("passed")
    error = report.decode(errors="replace")
    if error.split(":")[0] == "MemoryError":
        return ExecutionResult("out of memory", error)
    number = -returncode if returncode < 0 else returncode - 128  # the latter in a sandbox
    if number in signal.valid_signals():
        error = f"killed by signal {number}, {signal.strsignal(number)}"
    return ExecutionResult("failed", error or f"exit with code {returncode} before the end of the program")


@cache
def _child_source() -> str:
    functions = (_make_witness, _describe, _child)
    # The types of annotations are not there.
    return "from __future__ import annotations\n" + "\n\n".join(map(inspect.getsource, functions)) + "\n\n_child()\n"


# The source of the following functions runs in the child, where nothing else of this module is. They take all that
# they need from modules first, since the program may put something else there.


def _make_witness(frame: Any, report: int) -> Callable[[str, tuple], None]:
    """
    An audit hook that sends the token when this very frame says that the program has ended.

    Python has no name for the list of hooks, so that a program which walks through frames does not come by the token.
    """
    import os
    import sys

    token, write, caller = sys.stdin.buffer.read(32), os.write, sys._getframe

    def witness(event: str, args: tuple) -> None:
        if event == "program.end" and caller(1) is frame:
            write(report, token)

    return witness


def _describe(error: BaseException) -> bytes:
    """Asked in a frame of its own: what a program makes of its name may speak in that of whoever asks."""
    message = f"{type(error).__name__}: {error}"  # `traceback` would take longer to import than all the rest
    return message.removesuffix(": ")[:500].encode("utf-8", "backslashreplace")


def _child() -> None:
    """Sets the limits, runs the program that stands in stdin after the token, and reports how it ended."""
    import os
    import resource
    import sys
    import types

    audit, leave, write, describe, report = sys.audit, os._exit, os.write, _describe, os.dup(1)
    seconds, memory = map(int, sys.argv[1:])
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),  # should nobody be left to watch the clock
        (resource.RLIMIT_FSIZE, 2**24),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),  # does not hold for root
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))

    sys.addaudithook(_make_witness(sys._getframe(), report))
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    null = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        os.dup2(null, output)
    write(report, b".")
    try:
        program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
        exec(compile(program, "<program>", "exec", dont_inherit=True), main.__dict__)
    except MemoryError:
        write(report, b"MemoryError")  # without any memory
    except BaseException as error:
        write(report, describe(error))
    else:
        audit("program.end")
    leave(0)
