"""Python programs, each run in a process of its own that keeps it within limits."""

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any


MEBIBYTE = 2**20
MIN_MEMORY = 64 * MEBIBYTE  # an interpreter of its own takes some of it
START_SECONDS = 60.0  # until the interpreter is there, on however busy a machine
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


def run_code(program: str, timeout: float = 5.0, max_memory: int = 512 * MEBIBYTE) -> ExecutionResult:
    """
    Runs a Python program in a process of its own, and tells whether it came to its very end.

    The process is a fresh interpreter with the standard library alone, in a temporary folder that is deleted, without
    input or the environment of this one, and with sets in the same order each time. What it prints is thrown away. A
    program has passed when its last statement has run: `sys.exit(0)`, `os._exit(0)` or a text that looks like success
    do not count, since the end is confirmed by a random token that the program has no name for.

    What programs are kept from:

    - time and memory without bounds: the wall clock, processor time, the address space and the size of files are
      limited, and the process group is killed in the end;
    - network: connections, servers, datagrams and look-ups of names are refused by an audit hook of the interpreter;
      where the kernel lets users have namespaces, there is no network either;
    - other processes and threads, signals to other processes, and `ctypes`;
    - changes to files outside of their folder. They may read whatever the user may.

    This is meant for what language models write by mistake. The hook lives in the process that it guards, and a
    program that is made to break out of it, or to find the token in the memory of the process, can: run code of
    people that you do not trust in a virtual machine.

    Args:
        program (`str`): The source, which runs as `__main__`.
        timeout (`float`, defaults to 5.0): Seconds by the clock, from when the interpreter is ready.
        max_memory (`int`, defaults to 512 MiB): Bytes of the address space of the process, at least 64 MiB.

    Returns:
        [`ExecutionResult`].

    Raises:
        `NotImplementedError`: on systems other than Linux, which lack these limits.
        `ValueError`: for a `timeout` that is not positive and finite, or too small a `max_memory`.
        `RuntimeError`: when no interpreter starts; what it says is in the message.

    Example:

    ```python
    >>> run_code("assert sorted([2, 1]) == [1, 2]")
    ExecutionResult(status='passed', error=None)
    >>> run_code("assert sorted([2, 1]) == [2, 1]")
    ExecutionResult(status='failed', error='AssertionError')
    ```
    """
    check_limits(timeout, max_memory)
    token = secrets.token_bytes(32)
    with (
        TemporaryDirectory(prefix="run_code-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            # As -I, but for the environment, which has nothing else in it.
            [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _child_source()]
            + [str(math.ceil(timeout) + 1), str(max_memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=os.path.realpath(folder),
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        ) as process,
    ):
        try:
            with suppress(BrokenPipeError), process.stdin:  # an interpreter that did not start says why
                process.stdin.write(token + program.encode("utf-8", "surrogatepass"))
            report = _receive(process, START_SECONDS)
            if not report.startswith(READY):
                while more := _receive(process, 1.0):
                    report += more
                reason = report.decode(errors="replace").strip() or f"nothing came from {sys.executable}"
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


def check_limits(timeout: float, max_memory: int) -> None:
    if sys.platform != "linux":
        raise NotImplementedError(
            f"programs are limited by means of Linux, and this is {sys.platform}; run them in a container of Linux"
        )
    if not 0 < timeout < math.inf:
        raise ValueError(f"`timeout` is {timeout}; it is a positive number of seconds")
    if max_memory < MIN_MEMORY:
        raise ValueError(f"`max_memory` is {max_memory} bytes; an interpreter needs {MIN_MEMORY}")


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
    if returncode < 0:
        error = f"killed by signal {-returncode}, {signal.strsignal(-returncode)}"
    return ExecutionResult("failed", error or f"exit with code {returncode} before the end of the program")


@cache
def _child_source() -> str:
    functions = (_make_guard, _make_witness, _child)
    # The types of annotations are not there.
    return "from __future__ import annotations\n" + "\n\n".join(map(inspect.getsource, functions)) + "\n\n_child()\n"


# The source of the following functions runs in the child, where nothing else of this module is. They take all that
# they need from modules first, since the program may put something else there.


def _make_guard() -> Callable[[str, tuple], None]:
    """An audit hook that refuses what programs may not do."""
    import os

    refused = ("socket.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.system", "subprocess.")
    refused += ("_thread.", "cpython.", "ctypes.", "gc.", "pty.", "resource.", "signal.pthread_kill", "syslog.")
    refused += ("sys.addaudithook", "sys.setprofile", "sys.settrace")
    allowed = ("socket.__new__", "socket.gethostname")  # event loops have a pair of sockets inside the process
    # Changes to files, and which of the arguments are their paths.
    changes = dict.fromkeys(("os.chmod", "os.chown", "os.mkdir", "os.remove", "os.removexattr", "os.rmdir"), (0,))
    changes |= dict.fromkeys(("os.setxattr", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect"), (0,))
    changes |= {"os.link": (0, 1), "os.rename": (0, 1), "os.symlink": (1,)}
    writing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    folder, null, realpath, decode = os.getcwd(), os.devnull, os.path.realpath, os.fsdecode

    def guard(event: str, args: tuple) -> None:
        if event.startswith(refused) and event not in allowed:
            raise PermissionError(f"{event} is refused to programs that are evaluated")
        paths = (0,) if event == "open" and args[2] & writing else changes.get(event, ())
        for path in (args[index] for index in paths):
            if isinstance(path, int):  # a file that is open
                continue
            target = decode(realpath(path))
            if target != null and not f"{target}/".startswith(f"{folder}/"):
                raise PermissionError(f"{event} is refused outside of the working directory: {target}")

    return guard


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


def _child() -> None:
    """Sets the limits, runs the program that stands in stdin after the token, and reports how it ended."""
    import os
    import resource
    import sys
    import types

    audit, leave, write, report = sys.audit, os._exit, os.write, os.dup(1)
    try:
        import ctypes

        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET, where the kernel has them
    except (ImportError, AttributeError):
        pass
    seconds, memory = map(int, sys.argv[1:])
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),  # should nobody be left to watch the clock
        (resource.RLIMIT_FSIZE, 2**24),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("processes and threads are refused to programs that are evaluated")

    # Not all versions of Python audit these, and RLIMIT_NPROC does not hold for root.
    import _posixsubprocess
    import _thread

    _posixsubprocess.fork_exec = _thread.start_new_thread = _thread.start_new = _thread.start_joinable_thread = refuse
    sys.addaudithook(_make_witness(sys._getframe(), report))
    sys.addaudithook(_make_guard())
    program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    null = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        os.dup2(null, output)
    write(report, b".")
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), main.__dict__)
    except MemoryError:
        write(report, b"MemoryError")  # without any memory
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"  # `traceback` would take longer to import than all the rest
        write(report, message.removesuffix(": ")[:500].encode("utf-8", "backslashreplace"))
    else:
        audit("program.end")
    leave(0)
