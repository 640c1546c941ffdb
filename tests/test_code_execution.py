"""Programs that pass, fail, cheat, hang and grab; the scorers of MBPP and HumanEval; completions of a causal LM."""

import itertools
import os
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from difflm_hf.evaluation import (
    ExecutionResult,
    evaluate_human_eval,
    evaluate_mbpp,
    extract_code,
    generate_completions,
    mbpp_prompt,
    pass_at_k,
    run_code,
)
from difflm_hf.evaluation.documents import sandbox
from difflm_hf.evaluation.documents.bubblewrap import seccomp_filter, why_no_sandbox


needs_sandbox = pytest.mark.skipif(why_no_sandbox() is not None, reason=str(why_no_sandbox()))


MBPP = [
    {
        "task_id": 1,
        "text": "Write a function to double a number.",
        "code": "def double(n):\r\n    return 2 * n",
        "test_list": ["assert double(2) == 4", "assert double(-1.5) == -3"],
        "test_setup_code": "",
    },
    {
        "task_id": 2,
        "text": "Write a function to sum the values of a linked list.",
        "code": (
            "from __future__ import annotations\n"
            "class Node:\n    def __init__(self, value, rest=None):\n        self.value, self.rest = value, rest\n"
            "def total(node):\n    return node.value + total(node.rest) if node else 0"
        ),
        "tests": ["assert total(nodes) == 3", "assert total(None) == 0"],
        "test_setup_code": "nodes = Node(1, Node(2))",
    },
    {
        "task_id": 3,
        "prompt": "Write a function to find the area of a circle.",
        "code": "import math\ndef area(r): return math.pi * r ** 2",
        "test_list": ["assert math.isclose(area(1), 3.14159, rel_tol=0.001)"],
        "test_imports": ["import math"],
    },
]
HUMAN_EVAL = [
    {
        "task_id": "Made/0",
        "prompt": 'from typing import List\n\n\ndef largest(values: List[int]) -> int:\n    """The largest."""\n',
        "entry_point": "largest",
        "canonical_solution": "    return max(values)\n",
        "test": "\n\ndef check(candidate):\n    assert candidate([1, 3, 2]) == 3\n    assert candidate([-1]) == -1\n",
    }
]
# Each comes before an assertion that is false.
PRETENCES = [
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "raise SystemExit",
    "print('passed', flush=True); import os; os._exit(0)",
    "import os, atexit; atexit.register(os._exit, 0)",
    "import os\nfor n in range(64):\n  try: os.write(n, b'passed')\n  except OSError: pass\nos._exit(0)",
    "import sys, os; sys.audit('program.end'); os._exit(0)",
    "import sys, os\nf = sys._getframe(1)\nsys._getframe = lambda *_: f\nsys.audit('program.end')\nos._exit(0)",
    "if False:",
    "'''",
    "x = \\",
    "def f(): '''",
    # An error whose name is asked of a function of C, so that the frame that asks it seems to speak
    "import sys, functools\nclass M(type): __name__ = property(functools.partial(sys.audit, 'program.end'))\n"
    "class E(Exception, metaclass=M): pass\nraise E",
]
# Takes all secrets that are in reach, and sends them wherever it can.
THIEF = """
import os, sys, types

def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back

def values():
    for frame in frames():
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            yield value
            if isinstance(value, types.FunctionType):
                yield from (cell.cell_contents for cell in value.__closure__ or ())

for secret in {v for v in values() if isinstance(v, bytes) and len(v) == 32}:
    for target in range(64):
        try:
            os.write(target, secret)
        except OSError:
            pass
os._exit(0)
"""


@pytest.fixture(params=[pytest.param("sandbox", marks=needs_sandbox), "unsafe"])
def place(request, monkeypatch):
    """Where programs run."""
    if request.param == "unsafe":
        monkeypatch.setattr(sandbox, "why_no_sandbox", lambda: "it is left out")


def run(program, **kwargs):
    return run_code(program, allow_unsafe=True, **kwargs)


def fails(program, **kwargs):
    result = run(program, **kwargs)
    assert result.status == "failed" and not result.passed
    return result.error


def children():
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


# Running


@pytest.mark.parametrize(
    "program",
    [
        "",
        "assert sorted([2, 1]) == [1, 2]",
        "if __name__ != '__main__': raise ValueError",
        "import typing\nclass A:\n  b: 'A'\nassert typing.get_type_hints(A)['b'] is A",
        "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
        "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print(1)",
        "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(f'{d}/a', 'w').write('é')",
        "import sys\nfor _ in range(9): print('x' * 10**6); print('x' * 10**6, file=sys.stderr)",
        "import os; os.write = os._exit = None",
    ],
)
def test_programs_that_pass(place, program):
    assert run(program, timeout=30) == ExecutionResult("passed")


def test_errors_are_named(place):
    assert fails("assert 0") == "AssertionError"
    assert fails("assert 0, 'é'") == "AssertionError: é"
    assert fails("def f(:").startswith("SyntaxError: invalid syntax")
    assert "null bytes" in fails("x = '\0'")
    assert "surrogates" in fails("x = '\ud800'")
    assert fails("def f(): f()\nf()").startswith("RecursionError")
    assert fails("input()").startswith("EOFError")
    assert fails("import os; os.abort()") == "killed by signal 6, Aborted"
    assert len(fails("raise ValueError('x' * 10**6)")) == 500
    assert fails("class E(Exception):\n  def __str__(self): raise E\nraise E")


@pytest.mark.parametrize("pretence", PRETENCES)
def test_pretences_do_not_pass(place, pretence):
    assert fails(f"{pretence}\nassert False")


def test_token_cannot_be_reached_by_name(place):
    assert fails(THIEF) == "exit with code 0 before the end of the program"


@pytest.mark.slow
def test_endless_programs_are_ended(place):
    before = children()
    for program in ("while True: pass", "import time; time.sleep(600)", "while True:\n  try: input()\n  except: pass"):
        result = run(program, timeout=0.3)
        assert (result.status, result.error) == ("timed out", "no end after 0.3 seconds")
    assert children() <= before


@pytest.mark.parametrize("program", ["x = 'x' * 10**9", "x = [0]\nwhile True: x += x", "raise MemoryError"])
def test_memory_is_limited(place, program):
    result = run(program, max_memory=2**27, timeout=30)
    assert (result.status, result.error) == ("out of memory", "MemoryError")


def test_size_of_files_is_limited(place):
    assert "File too large" in fails("open('x', 'wb').write(b'x' * 2**25)")


# Attempts to get out. Each has the names of what is outside: FILE, FOLDER, PORT, PID. CALL makes a system call.
CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), 'refused')
"""
ATTEMPTS = {
    "files are written": "open(FILE, 'w')",
    "files are added to": "open(FILE, 'a')",
    "files are cut": "os.truncate(FILE, 0)",
    "files are removed": "os.remove(FILE)",
    "files are renamed": "os.rename(FILE, '/tmp/here')",
    "files are removed by a folder": "os.remove('file', dir_fd=os.open(FOLDER, os.O_RDONLY))",
    "files are read": "open(FILE)",
    "folders are made": "os.mkdir(FOLDER + '/new')",
    "folders are removed": "import shutil; shutil.rmtree(FOLDER)",
    "pipes are made": "os.mkfifo(FOLDER + '/new')",
    "devices are made": "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
    "databases are made": "import sqlite3; sqlite3.connect(FOLDER + '/new.db').execute('create table t (x)')",
    "databases are attached": "import sqlite3; sqlite3.connect('x').execute(f\"attach '{FOLDER}/new.db' as t\")",
    "links lead outside": "os.symlink(FILE, 'link'); open('link', 'w')",
    "the system is written": "open(os.__file__, 'a')",
    "the root is written": "open('/new', 'w')",
    "shared memory is taken": "open('/dev/shm/new', 'w')",
    "the kernel is set": "open('/proc/sys/kernel/hostname', 'w')",
    "memory of others is read": "open(f'/proc/{PID}/maps', 'rb').read(1)",
    "environments of others are read": "open(f'/proc/{PID}/environ', 'rb').read(1)",
    "others are killed": "os.kill(PID, 9)",
    "groups are killed": "os.killpg(PID, 9)",
    "others are slowed": "os.setpriority(os.PRIO_PROCESS, PID, 19)",
    "users are slowed": "os.setpriority(os.PRIO_USER, 0, 19)",
    "others are moved": "os.sched_setaffinity(PID, {0})",
    "others are scheduled": "os.sched_setscheduler(PID, os.SCHED_IDLE, os.sched_param(0))",
    "others are limited": "import resource; resource.prlimit(PID, resource.RLIMIT_NOFILE, (3, 3))",
    "own limits are raised": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "others are traced": CALL + "call(101 if os.uname().machine == 'x86_64' else 117, 16, PID, 0, 0)",
    "namespaces are made": CALL + "call(272 if os.uname().machine == 'x86_64' else 97, 0x10000000)",
    "keys are added": CALL + "call(248 if os.uname().machine == 'x86_64' else 217, b'user', b'k', b'x', 1, -3)",
    "a ring is set up": CALL + "call(425, 1, ctypes.create_string_buffer(200))",
    "calls have other names": CALL + "call(2**30 + 57)",
    "processes are forked": "os.fork()",
    "processes are spawned": "import subprocess; subprocess.run(['/usr/bin/true'])",
    "shells are asked": "assert os.system('true') == 0",
    "threads are started": "import threading; threading.Thread(target=print).start()",
    "servers are called": "import socket; socket.create_connection(('127.0.0.1', PORT), timeout=5)",
    "datagrams are sent": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "hosts are called": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1))",
    "servers are opened": "import socket; socket.create_server(('127.0.0.1', 0))",
    "names are looked up": "import socket; socket.gethostbyname('localhost')",
    "hidden files are made": "os.memfd_create('x')",
    "semaphores are taken": CALL + "call(64 if os.uname().machine == 'x86_64' else 190, 0, 250, 0o1600)",
    "watches are taken": CALL + "call(294 if os.uname().machine == 'x86_64' else 26, 0)",
    "files are locked": "import fcntl; fcntl.flock(open(os.__file__), fcntl.LOCK_EX)",
    "the disk is filled": "[open(str(k), 'wb').write(bytes(2**23)) for k in range(9)]",
}


@pytest.fixture
def outside(tmp_path):
    """A process, a server and files, which are as they were when the test has ended."""
    (tmp_path / "file").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(["sleep", "60"]) as process:
        server.settimeout(0.05)
        names = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path), "PID": process.pid}

        def state():
            scheduling = os.sched_getscheduler(process.pid), os.sched_getaffinity(process.pid)
            limits = Path(f"/proc/{process.pid}/limits").read_text(), os.getpriority(os.PRIO_PROCESS, process.pid)
            files = [(path.name, path.stat().st_mode, path.stat().st_mtime_ns) for path in tmp_path.iterdir()]
            return scheduling, limits, files, (tmp_path / "file").read_text(), os.listdir("/dev/shm")

        before = state()
        yield {**names, "PORT": server.getsockname()[1]}
        assert process.poll() is None and state() == before
        with pytest.raises(TimeoutError):
            server.accept()
        process.kill()


@needs_sandbox
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_gets_out(attempt, outside):
    names = "\n".join(f"{name} = {value!r}" for name, value in outside.items())
    program = f"import os\n{names}\ntry:\n{textwrap.indent(ATTEMPTS[attempt], '    ')}\n"
    refused = "(OSError, RuntimeError, ValueError, AssertionError, sqlite3.Error)"
    assert run_code(f"import sqlite3\n{program}except {refused}: pass\nelse: assert False, 'it got out'").passed


@needs_sandbox
def test_nothing_goes_in_and_nothing_stays(place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET", "1")
    program = """
        import os, sys
        open("file", "w").write("x")
        os.makedirs("a/b")
        os.chmod("a", 0)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        assert "SECRET" not in os.environ
        assert not [path for path in sys.path if "site-packages" in path or path in ("", os.getcwd())]
    """
    assert run("if True:" + program).passed
    assert list(tmp_path.iterdir()) == []


@needs_sandbox
def test_there_are_few_files():
    program = """
        import os
        assert os.getcwd() == "/tmp" and not os.listdir()
        assert not os.path.exists("/proc") and not os.path.exists("/etc") and not os.path.exists("/home")
        assert os.getuid() != 0 and os.uname().nodename == "sandbox"
    """
    assert run_code("if True:" + program) == ExecutionResult("passed")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_are_programs_of_the_kernel(machine):
    code = seccomp_filter(machine)
    assert len(code) % 8 == 0 and len(code) // 8 < 256  # jumps have eight bits


def test_code_does_not_run_without_a_sandbox(monkeypatch):
    monkeypatch.setattr(sandbox, "why_no_sandbox", lambda: "`bwrap` is not installed")
    for go in (lambda **k: run_code("", **k), lambda **k: evaluate_mbpp(MBPP, [[""]] * 3, **k)):
        with pytest.raises(RuntimeError, match="no sandbox .*`bwrap` is not installed.* pass `allow_unsafe=True`"):
            go()
        go(allow_unsafe=True)


def test_what_is_missing_for_a_sandbox(monkeypatch):
    why = why_no_sandbox.__wrapped__
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt install bubblewrap" in why()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "processors of riscv64" in why()


@needs_sandbox
@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_where_standard_streams_are_closed(closed, tmp_path):
    program = f"""
        import os
        from difflm_hf.evaluation import run_code
        for stream in {closed}: os.close(stream)
        result = run_code("pass")
        open({str(tmp_path / "result")!r}, "w").write(result.status)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert (tmp_path / "result").read_text() == "passed"


@needs_sandbox
def test_the_bwrap_that_was_tried_is_the_one_that_runs(tmp_path, monkeypatch):
    """Though it is in no folder that every system looks in."""
    (tmp_path / "bwrap").symlink_to(shutil.which("bwrap"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_no_sandbox.__wrapped__() is None and run_code("pass").passed


@needs_sandbox
def test_programs_of_any_size(place):
    assert run("x = 1\n" * 10**7, max_memory=2**26, timeout=30).status == "out of memory"


def test_a_sandbox_that_does_not_work(monkeypatch, tmp_path):
    """As in containers."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    why = why_no_sandbox.__wrapped__()
    assert why.startswith("bubblewrap does not work here (bwrap: No permissions to create new namespace)")


def test_sets_have_an_order(place):
    program = "raise ValueError(''.join(set('abcdefghijklmnopqrstuvwxyz')))"
    assert fails(program) == fails(program)


def test_wrong_limits(monkeypatch):
    for timeout in (0, -1, 1e6, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`timeout` is"):
            run_code("", timeout=timeout)
    with pytest.raises(ValueError, match="`max_memory` is 1000 bytes"):
        run_code("", max_memory=1000)
    with pytest.raises(ValueError, match="none has 2"):
        run_code("", max_memory=2**63)
    assert run("", max_memory=2**26).passed
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no interpreter started .* nothing came from /.*bin/false"):
        run("")


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotImplementedError, match="this is darwin"):
        run_code("")
    with pytest.raises(NotImplementedError, match="this is darwin"):
        evaluate_mbpp(MBPP, [[""]] * 3)


# Scores


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_that_of_all_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_many_samples():
    product = 1.0
    for i in range(2000 - 30 + 1, 2001):  # the product by which Chen et al. compute it
        product *= 1 - 100 / i
    assert pass_at_k(2000, 30, 100) == pytest.approx(1 - product)
    assert pass_at_k(200, 0, 100) == 0
    assert pass_at_k(200, 101, 100) == 1


def test_pass_at_k_of_what_is_not_there():
    with pytest.raises(ValueError, match="`k` is 3; with 2 samples"):
        pass_at_k(2, 1, 3)
    with pytest.raises(ValueError, match="`k` is 0"):
        pass_at_k(2, 1, 0)
    with pytest.raises(ValueError, match="`num_correct` is 3 of 2"):
        pass_at_k(2, 3, 1)


def test_known_solutions_of_mbpp_pass():
    scores = evaluate_mbpp(MBPP, [[problem["code"]] for problem in MBPP], timeout=30, allow_unsafe=True)
    passed = [[ExecutionResult("passed")]] * 3
    counts = {"passed": 3, "failed": 0, "timed_out": 0, "out_of_memory": 0}
    assert scores == {"pass@1": 1.0, "num_problems": 3, "num_samples": 3, **counts, "results": passed}


@pytest.mark.slow
def test_mbpp_counts_what_happens():
    wrong = ["def double(n): return n", "def double(n):\n  while True: pass", "def double(n): return 'x' * 10**9"]
    right = [MBPP[0]["code"]] * 3
    completions = [[*wrong, right[0]], [MBPP[1]["code"], "", "", ""]]
    scores = evaluate_mbpp(MBPP[:2], completions, k=(1, 2), timeout=1.5, num_workers=2, allow_unsafe=True)
    statuses = [[result.status for result in own] for own in scores.pop("results")]
    assert statuses == [["failed", "timed out", "out of memory", "passed"], ["passed", "failed", "failed", "failed"]]
    assert scores == {
        **{"pass@1": 1 / 4, "pass@2": 1 / 2, "num_problems": 2, "num_samples": 8},
        **{"passed": 2, "failed": 4, "timed_out": 1, "out_of_memory": 1},
    }


def test_human_eval():
    solution = HUMAN_EVAL[0]["canonical_solution"]
    again = "from typing import List\ndef largest(values: List[int]) -> int:\n    return sorted(values)[-1]"
    wrong = ["    return values[0]\n", "", "    return max(values", "    return 0\ndef check(_): pass\nlargest = max"]
    scores = evaluate_human_eval(HUMAN_EVAL, [[solution, again, *wrong]], k=(1, 5), timeout=30, allow_unsafe=True)
    passed = [result.passed for result in scores["results"][0]]
    assert passed == [True, True, False, False, False, True]
    assert scores["pass@1"] == pytest.approx(1 / 2)
    assert scores["pass@5"] == pytest.approx(1)
    empty = {**HUMAN_EVAL[0], "test": "def check(candidate):\n    assert False"}
    assert evaluate_human_eval([empty], [["    return 1\ndef check(_): pass"]], allow_unsafe=True)["pass@1"] == 0


@pytest.mark.parametrize("evaluate, problems", [(evaluate_mbpp, MBPP), (evaluate_human_eval, HUMAN_EVAL)])
def test_wrong_completions(evaluate, problems):
    n = len(problems)
    with pytest.raises(ValueError, match=f"`completions` has samples of {n + 1} problems, `problems` has {n}"):
        evaluate(problems, [["x"]] * (n + 1))
    with pytest.raises(ValueError, match=f"task {problems[-1]['task_id']} has 0 samples; pass@1 takes at least 1"):
        evaluate(problems, [["x"]] * (n - 1) + [[]])
    with pytest.raises(ValueError, match="has 1 samples; pass@10 takes at least 10"):
        evaluate(problems, [["x"]] * n, k=(1, 10))
    with pytest.raises(TypeError, match="the completions of task .* are not a list of str"):
        evaluate(problems, ["x"] * n)
    with pytest.raises(TypeError, match="the completions of task .* are not a list of str"):
        evaluate(problems, [[None]] * n)
    with pytest.raises(ValueError, match=r"`k` is \(0,\)"):
        evaluate(problems, [["x"]] * n, k=(0,))
    with pytest.raises(ValueError, match="`problems` is empty"):
        evaluate([], [])


def test_problems_that_lack_a_field():
    with pytest.raises(ValueError, match="task 7 has no 'test_list' or 'tests'; its fields are task_id, text"):
        evaluate_mbpp([{"task_id": 7, "text": ""}], [["x"]], allow_unsafe=True)
    with pytest.raises(ValueError, match="task 7 has no 'entry_point'; its fields are task_id"):
        evaluate_human_eval([{"task_id": 7}], [["x"]], allow_unsafe=True)
    with pytest.raises(ValueError, match=r"task \? has no 'task_id'"):
        evaluate_mbpp([{"tests": []}], [["x"]], allow_unsafe=True)
    with pytest.raises(ValueError, match="task 1 has no 'code'"):
        mbpp_prompt(MBPP[0], [{**HUMAN_EVAL[0], "task_id": 1, "tests": []}])


# Texts


def test_mbpp_prompt():
    question = (
        "You are an expert Python programmer, and here is your task: Write a function to double a number. Your code "
        "should pass these tests:\n\nassert double(2) == 4\nassert double(-1.5) == -3\n[BEGIN]\n"
    )
    assert mbpp_prompt(MBPP[0]) == question
    prompt = mbpp_prompt(MBPP[0], MBPP[1:])
    assert prompt.endswith("\n[DONE]\n\n" + question)
    assert prompt.count("[BEGIN]") == 3 and prompt.count("[DONE]") == 2
    assert all(example["code"] + "\n[DONE]" in prompt for example in MBPP[1:])


def test_known_code_is_left_alone():
    for problem in MBPP:
        assert extract_code(problem["code"]) == problem["code"]
    body = HUMAN_EVAL[0]["canonical_solution"]
    assert extract_code(body, is_body=True) == body.rstrip()


@pytest.mark.parametrize(
    "completion",
    [
        "def f():\n    return 1\n[DONE]\n\nYou are an expert [BEGIN]\ndef g(): pass\n[DONE]",
        "[BEGIN]\ndef f():\n    return 1\n[DONE]",
        "Sure:\n```python\ndef f():\n    return 1\n```\nThis works:\n```python\nf()\n```",
        "```\ndef f():\n    return 1\n```",
        "[BEGIN]\n```py\r\ndef f():\n    return 1\n```\n[DONE]",
        "Run `pip`:\n```bash\npip\n```\n```Python3\ndef f():\n    return 1\n```",
        "```python\ndef f():\n    return 1",
        "Sure\n```\ndef f():\n    return 1\n```",
    ],
)
def test_code_is_cut_out(completion):
    assert extract_code(completion) == extract_code(completion, is_body=True) == "def f():\n    return 1"


@pytest.mark.parametrize(
    "rest", ["\n\ndef g():\n    pass", "\nprint(f())", "\n# Test", "\nif True:\n    pass", "\n@g\nclass A: pass", ""]
)
def test_bodies_end_at_the_next_statement(rest):
    body = "\n    x = [\n        1,\n]\n\n    # comment\n    return x"
    assert extract_code(body + rest, is_body=True) == body[1:]


@pytest.mark.parametrize("rest", ["", "\nThis sorts the list.\n", "\nOr:\n```python\nx = 2\n```"])
def test_fences_that_the_prompt_has_opened(rest):
    assert extract_code("def f():\n    return 1\n```" + rest) == "def f():\n    return 1"
    assert extract_code("\n    return sorted(x)\n```" + rest, is_body=True) == "    return sorted(x)"


# Completions

ALPHABET = [c for c in string.printable if c not in "\r\x0b\x0c"]


@pytest.fixture(params=["byte-level", "metaspace"])
def tokenizer(request):
    """One token for each character, without a token for padding."""
    if request.param == "byte-level":
        pre_tokenizer, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = [pre_tokenizer.pre_tokenize_str(c)[0][0] for c in ALPHABET]
    else:
        pre_tokenizer, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        letters = [c.replace(" ", "▁") for c in ALPHABET]
    vocabulary = {c: i for i, c in enumerate(["<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def lm(tiny_config):
    config = tiny_config("llama", vocab_size=len(ALPHABET) + 2, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


PROMPTS = ["def f(x):", "x", "while not"]


def test_batches_do_not_matter_to_greedy_completions(lm, tokenizer):
    alone = [generate_completions(lm, tokenizer, [prompt], max_new_tokens=20)[0] for prompt in PROMPTS]
    assert generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20, batch_size=2) == alone
    assert len({text for (text,) in alone}) == 3
    for prompt, (text,) in zip(PROMPTS, alone):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = lm.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=1)[0]
        assert tokenizer.decode(output, skip_special_tokens=True) == prompt + text


def test_samples_come_from_the_seed(lm, tokenizer):
    state = torch.get_rng_state()
    arguments = {"num_samples": 3, "max_new_tokens": 10, "temperature": 1.5, "top_p": 1.0, "batch_size": 4}
    first = generate_completions(lm, tokenizer, PROMPTS, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == generate_completions(lm, tokenizer, PROMPTS, **arguments)
    assert first != generate_completions(lm, tokenizer, PROMPTS, **arguments, seed=1)
    assert [len(own) for own in first] == [3, 3, 3]
    assert len({text for own in first for text in own}) == 9


def test_completions_end_before_stop_strings(lm, tokenizer):
    whole = [text for (text,) in generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20)]
    stops = [whole[0][5:7], whole[1][2:4]]
    expected = [text[: min((text.find(s) for s in stops if s in text), default=None)] for text in whole]
    assert expected != whole
    cut = generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20, stop_strings=stops)
    assert [text for (text,) in cut] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_an_lm_comes_with_changes_nothing(lm, tokenizer, temperature):
    arguments = {"max_new_tokens": 20, "temperature": temperature}
    expected = generate_completions(lm, tokenizer, PROMPTS, **arguments)
    penalties = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "min_p": 0.9, "typical_p": 0.1, "num_beams": 3}
    lm.generation_config.update(**penalties)
    assert generate_completions(lm, tokenizer, PROMPTS, **arguments) == expected


def test_indentation_is_kept(lm, tokenizer):
    spaces = tokenizer.convert_tokens_to_ids(["Ġ"] if "Ġ" in tokenizer.get_vocab() else ["▁"])
    lm.generation_config.begin_suppress_tokens = [i for i in range(len(ALPHABET) + 2) if i not in spaces]
    for (text,) in generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=3):
        assert text.startswith(" ")


def test_wrong_arguments_of_completions(lm, tokenizer):
    with pytest.raises(ValueError, match="all 2 samples are the same; set `temperature`"):
        generate_completions(lm, tokenizer, PROMPTS, num_samples=2)
    with pytest.raises(ValueError, match=r"`prompts\[0\]` has \d+ tokens, and the LM 80 positions: lower"):
        generate_completions(lm, tokenizer, PROMPTS)
    with pytest.raises(ValueError, match=r"`prompts\[1\]` has no tokens"):
        generate_completions(lm, tokenizer, ["x", ""], max_new_tokens=1)
    with pytest.raises(ValueError, match="`temperature` is -1"):
        generate_completions(lm, tokenizer, PROMPTS, temperature=-1)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        generate_completions(lm, tokenizer, PROMPTS, batch_size=0)


def test_completions_are_scored(lm, tokenizer):
    prompts = [mbpp_prompt(problem)[-50:] for problem in MBPP]
    completions = generate_completions(lm, tokenizer, prompts, num_samples=2, max_new_tokens=8, temperature=1.0)
    codes = [[extract_code(text) for text in own] for own in completions]
    scores = evaluate_mbpp(MBPP, codes, k=(1, 2), timeout=30, allow_unsafe=True)
    assert (scores["pass@2"], scores["failed"]) == (0, 6)
