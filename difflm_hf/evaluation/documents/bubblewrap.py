"""A sandbox of Linux's namespaces, made by [bubblewrap](https://github.com/containers/bubblewrap), for one program."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


MAX_FILES_SIZE = 2**26  # bytes of all files that a program leaves
MAX_SECONDS = 60  # that an empty program takes to start on however busy a machine
SHARED_FOLDERS = ("/usr", "/lib", "/lib64", "/bin")  # what interpreters link to

# By architecture: the number that the kernel has for it, and those of the system calls that are refused. Without them
# a program has one process and one thread, no sockets but pairs of its own, and less of the kernel to attack.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    # What all programs of a user, or all of the machine, have only so many of
    "io_setup": (206, 0),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "timer_create": (222, 107),
    "flock": (73, 32),
    "personality": (135, 92),
    "syslog": (103, 116),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}


@contextmanager
def sandbox() -> Iterator[tuple[list[str], int]]:
    """The words to begin a command with that is to run in a sandbox, and the file that it has to be passed."""
    ends = os.pipe()
    # Not in the place of a standard stream that is closed here: the program is given its own.
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    for end in ends:
        os.close(end)
    try:
        os.write(write, seccomp_filter(platform.machine()))
        os.close(write)
        yield [*_command(), "--seccomp", str(read), "--"], read
    finally:
        os.close(read)


@cache
def why_no_sandbox() -> str | None:
    """What keeps this machine from having one, and what to do; `None` where it has one."""
    if platform.machine() not in ARCHITECTURES:
        return f"there is none for processors of {platform.machine()}, only for {' and '.join(ARCHITECTURES)}"
    if shutil.which("bwrap") is None:
        return "bubblewrap's `bwrap` is not installed; `apt install bubblewrap`, or your system's package, has it"
    try:
        with sandbox() as (words, file):
            command = [*words, interpreter(), "-ISc", ""]
            tried = subprocess.run(
                command, pass_fds=[file], stdin=subprocess.DEVNULL, capture_output=True, timeout=MAX_SECONDS
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here ({error})"
    said = (tried.stderr.decode(errors="replace").strip().splitlines() or [f"exit with code {tried.returncode}"])[-1]
    return f"bubblewrap does not work here ({said}); containers often forbid namespaces" if tried.returncode else None


def interpreter() -> str:
    """Python itself, in place of what a virtual environment has for it."""
    return os.path.realpath(sys.executable)


def seccomp_filter(machine: str) -> bytes:
    """A program of the kernel's packet filter that answers refused system calls with EPERM (seccomp(2))."""
    load, is_equal, is_at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
    column = list(ARCHITECTURES).index(machine)
    numbers = [numbers[column] for numbers in REFUSED.values() if numbers[column] is not None]
    code = [(load, 0, 0, 4), (is_equal, 1, 0, ARCHITECTURES[machine]), (end, 0, 0, kill)]
    # From 2^30 on there are other names for the same calls of x86_64.
    code += [(load, 0, 0, 0), (is_at_least, len(numbers) + 1, 0, 2**30)]
    code += [(is_equal, len(numbers) - k, 0, number) for k, number in enumerate(numbers)]
    code += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _command() -> list[str]:
    # Of the interpreter no more than itself and its libraries: what lies above may be the user's home.
    libraries = (str(Path(sysconfig.get_path(name)).parent) for name in ("stdlib", "platstdlib"))
    shared = [
        word
        for path in dict.fromkeys((*SHARED_FOLDERS, *libraries, interpreter()))
        for word in ("--ro-bind-try", path, path)
    ]
    return [
        *(
            str(shutil.which("bwrap")),
            "--unshare-user",
            "--unshare-all",
            "--disable-userns",
            "--cap-drop",
            "ALL",
            "--new-session",
            "--die-with-parent",
        ),
        *("--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *(*shared, "--dev", "/dev", "--remount-ro", "/dev"),
        *("--size", str(MAX_FILES_SIZE), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"),
    ]
