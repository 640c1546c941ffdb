"""Whether generated Python code does what it should: it is run, with tests, as MBPP and HumanEval ask."""

from __future__ import annotations

import ast
import inspect
import math
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


MEBIBYTE = 2**20
MIN_MEMORY = 64 * MEBIBYTE  # an interpreter of its own takes some of it
START_SECONDS = 60.0  # until the interpreter is there, on however busy a machine
# What the child says when all limits are set, where it is a literal; and bytes that it never says in all.
READY, MAX_REPORT = b".", 4096
FENCE = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
FENCE_LINE = re.compile(r"^[ \t]*```([^\n`]*)$", re.MULTILINE)
PYTHON = ("", "py", "python", "python3")  # what fences call it
# Instead of what LMs come with: tokens are chosen as asked for alone.
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# A line that no function goes on with: a closing bracket may stand at its beginning.
TOP_LEVEL = re.compile(r"\n(?=[^\s)\]}])")


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
    _check_limits(timeout, max_memory)
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


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """
    The unbiased estimate of the probability that one of `k` samples is correct: 1 − C(n − c, k) / C(n, k), eq. 1 of
    Chen et al. 2021 ([arXiv 2107.03374](https://arxiv.org/abs/2107.03374)).

    Args:
        num_samples (`int`): n, the samples of a problem.
        num_correct (`int`): c, those of them that are correct.
        k (`int`): The samples to choose from, at most n.

    Returns:
        `float`: The estimate, from 0 to 1.

    Raises:
        `ValueError`: when `num_correct` is not within 0 and `num_samples`, or `k` not within 1 and `num_samples`.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"`num_correct` is {num_correct} of {num_samples} samples")
    if not 1 <= k <= num_samples:
        raise ValueError(f"`k` is {k}; with {num_samples} samples it is at least 1 and at most {num_samples}")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def evaluate_mbpp(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    k: Sequence[int] = (1,),
    timeout: float = 10.0,
    max_memory: int = 512 * MEBIBYTE,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """
    Scores solutions of MBPP (Austin et al. 2021, [arXiv 2108.07732](https://arxiv.org/abs/2108.07732)) by running
    each with the tests of its problem.

    Args:
        problems (`Sequence[dict]`):
            Problems as in the published files, with `task_id` and `test_list` (or `tests`), and possibly
            `test_setup_code`, or `test_imports` as in the sanitized ones.
        completions (`Sequence[Sequence[str]]`):
            For each problem one or more samples, each code alone: [`extract_code`] cuts it out of what models write.
        k (`Sequence[int]`, defaults to `(1,)`): The k of pass@k, at most as many as each problem has samples.
        timeout (`float`, defaults to 10.0): Seconds that a sample may take.
        max_memory (`int`, defaults to 512 MiB): Bytes that a sample may take.
        num_workers (`int`, *optional*): Samples that run at a time; as many as there are processors by default.

    Returns:
        `dict[str, Any]`:
            - `pass@k` for each `k`: the mean of [`pass_at_k`] over problems.
            - `num_problems`, `num_samples`: how many there were.
            - `passed`, `failed`, `timed_out`, `out_of_memory`: the number of samples that did.
            - `results`: for each problem a list of the [`ExecutionResult`]s of its samples.

    Raises:
        `TypeError`: for a sample that is not a `str`.
        `ValueError`: when problems and completions are not equally many, a problem lacks a field, or has fewer
            samples than `k`.
        `NotImplementedError`: on systems other than Linux; see [`run_code`].
    """
    return _evaluate(problems, completions, _mbpp_program, k, timeout, max_memory, num_workers)


def evaluate_human_eval(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    k: Sequence[int] = (1,),
    timeout: float = 10.0,
    max_memory: int = 512 * MEBIBYTE,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """
    Scores solutions of HumanEval (Chen et al. 2021, [arXiv 2107.03374](https://arxiv.org/abs/2107.03374)) by running
    each with the tests of its problem.

    Args:
        problems (`Sequence[dict]`):
            Problems as in the published file, with `task_id`, `prompt`, `test` and `entry_point`.
        completions (`Sequence[Sequence[str]]`):
            For each problem one or more samples, each of which goes on where the prompt ends, or defines the function
            once more; [`extract_code`] with `is_body=True` cuts either out of what models write.
        k (`Sequence[int]`, defaults to `(1,)`): The k of pass@k, at most as many as each problem has samples.
        timeout (`float`, defaults to 10.0): Seconds that a sample may take.
        max_memory (`int`, defaults to 512 MiB): Bytes that a sample may take.
        num_workers (`int`, *optional*): Samples that run at a time; as many as there are processors by default.

    Returns:
        `dict[str, Any]`: As of [`evaluate_mbpp`].

    Raises:
        `TypeError`, `ValueError`, `NotImplementedError`: As [`evaluate_mbpp`].
    """
    return _evaluate(problems, completions, _human_eval_program, k, timeout, max_memory, num_workers)


def mbpp_prompt(problem: dict[str, Any], examples: Sequence[dict[str, Any]] = ()) -> str:
    """
    The prompt of a problem, in the format that is
    [published with MBPP](https://github.com/google-research/google-research/tree/master/mbpp).

    Args:
        problem (`dict`): The problem, with `text` (or `prompt`) and `test_list` (or `tests`).
        examples (`Sequence[dict]`, defaults to none):
            Problems that are shown with their `code`; in the paper those of the tasks 2, 3 and 4.

    Returns:
        `str`: The prompt, after which a model writes code, and then `[DONE]`.

    Raises:
        `ValueError`: when a problem lacks a field.
    """
    solved = [f"{_mbpp_question(example)}{_field(example, 'code')}\n[DONE]\n\n" for example in examples]
    return "".join(solved) + _mbpp_question(problem)


def extract_code(completion: str, is_body: bool = False) -> str:
    """
    Cuts the code out of what a model wrote: what precedes `[DONE]`, and of that the first fenced block of Python, if
    there is one, or, where the prompt has opened a fence, what precedes its end. Code alone stays as it is.

    Args:
        completion (`str`): The text.
        is_body (`bool`, defaults to `False`):
            Whether the text goes on with a function whose beginning was the prompt, as in HumanEval. It then ends
            before the next line that is not indented, unless it is fenced.

    Returns:
        `str`: The code, with its indentation.
    """
    text = completion.split("[DONE]")[0].split("[BEGIN]")[-1].lstrip("\r\n")
    fences = list(FENCE_LINE.finditer(text))
    if len(fences) % 2 and not fences[0][1].strip() and _is_code(text[: fences[0].start()], is_body):
        text = text[: fences[0].start()]  # the prompt has opened it
    fenced = [match[2] for match in FENCE.finditer(text) if match[1].strip().lower() in PYTHON]
    if fenced:
        text = fenced[0].lstrip("\r\n")
    elif is_body:
        text = TOP_LEVEL.split(text, maxsplit=1)[0]
    return text.rstrip()


def generate_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    num_samples: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 0.95,
    stop_strings: Sequence[str] = (),
    batch_size: int = 16,
    seed: int = 0,
    add_special_tokens: bool = True,
) -> list[list[str]]:
    """
    Lets a causal LM go on with prompts.

    Args:
        model (`PreTrainedModel`): Any causal LM that generates.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the LM. It needs no padding token.
        prompts (`Sequence[str]`): The prompts.
        num_samples (`int`, defaults to 1): The completions of each prompt.
        max_new_tokens (`int`, defaults to 512): The length of a completion that does not come to an end.
        temperature (`float`, defaults to 0.0): That of sampling; 0 takes the most probable token each time.
        top_p (`float`, defaults to 0.95): The mass of the tokens that are sampled from, as in HumanEval's paper.
        stop_strings (`Sequence[str]`, defaults to none):
            Strings before which a completion ends, such as `["[DONE]"]` for [`mbpp_prompt`].
        batch_size (`int`, defaults to 16): The completions that are written at a time.
        seed (`int`, defaults to 0): The seed. The samples depend on `batch_size` too.
        add_special_tokens (`bool`, defaults to `True`):
            Whether the tokenizer adds its own, such as BOS; not where a chat template has done so.

    Returns:
        `list[list[str]]`: For each prompt its completions, without the prompt.

    Raises:
        `ValueError`: for prompts that leave less than `max_new_tokens` of the positions of the LM, or are empty, and
            for more than one sample at a temperature of 0, where all would be the same.
    """
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` is {value}; it is at least 1")
    if temperature < 0:
        raise ValueError(f"`temperature` is {temperature}; it is at least 0")
    if temperature == 0 and num_samples > 1:
        raise ValueError(f"at a temperature of 0 all {num_samples} samples are the same; set `temperature`")
    ids = [tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"] for prompt in prompts]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    for index, own in enumerate(ids):
        if not own:
            raise ValueError(f"`prompts[{index}]` has no tokens; a prompt has at least one")
        if len(own) + max_new_tokens > positions:
            raise ValueError(
                f"`prompts[{index}]` has {len(own)} tokens, and the LM {positions} positions: lower "
                f"`max_new_tokens`, which is {max_new_tokens}, or shorten the prompt"
            )

    sampling = NEUTRAL | {"do_sample": False}
    if temperature > 0:
        sampling |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if stop_strings:
        sampling |= {"stop_strings": list(stop_strings), "tokenizer": tokenizer}
    rows = [own for own in ids for _ in range(num_samples)]
    texts: list[str] = []
    on_cpu = model.device.type == "cpu"
    with (
        torch.random.fork_rng([] if on_cpu else [model.device], device_type="cuda" if on_cpu else model.device.type),
        tqdm(total=len(rows), desc="Completions", disable=None) as progress,
    ):
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            texts += _complete(model, tokenizer, batch, max_new_tokens, sampling)
            progress.update(len(batch))
    texts = [_before(text, stop_strings) for text in texts]
    return [texts[start : start + num_samples] for start in range(0, len(texts), num_samples)]


def _check_limits(timeout: float, max_memory: int) -> None:
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


def _evaluate(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    make_program: Callable[[dict[str, Any], str], str],
    k: Sequence[int],
    timeout: float,
    max_memory: int,
    num_workers: int | None,
) -> dict[str, Any]:
    _check_limits(timeout, max_memory)
    _check_completions(problems, completions, k)
    programs = [make_program(*pair) for pair in _pairs(problems, completions)]
    num_workers = num_workers or len(os.sched_getaffinity(0))
    run = partial(run_code, timeout=timeout, max_memory=max_memory)
    with ThreadPoolExecutor(num_workers) as executor:
        done = tqdm(executor.map(run, programs), total=len(programs), desc="Programs", disable=None)
        flat = iter(list(done))
    results = [[next(flat) for _ in samples] for samples in completions]

    counts = [(len(own), sum(result.passed for result in own)) for own in results]
    statuses = Counter(result.status for own in results for result in own)
    return {
        **{f"pass@{n}": math.fsum(pass_at_k(*count, n) for count in counts) / len(counts) for n in k},
        "num_problems": len(problems),
        "num_samples": len(programs),
        **{s.replace(" ", "_"): statuses[s] for s in ("passed", "failed", "timed out", "out of memory")},
        "results": results,
    }


def _check_completions(problems: Sequence[dict[str, Any]], completions: Sequence[Sequence[str]], k: Any) -> None:
    if not problems:
        raise ValueError("`problems` is empty; pass at least one")
    if len(problems) != len(completions):
        raise ValueError(f"`completions` has samples of {len(completions)} problems, `problems` has {len(problems)}")
    if not k or min(k) < 1:
        raise ValueError(f"`k` is {k}; pass numbers of samples, such as (1, 10)")
    for problem, samples in zip(problems, completions):
        task = _field(problem, "task_id")
        if isinstance(samples, str) or not all(isinstance(sample, str) for sample in samples):
            raise TypeError(f"the completions of task {task} are not a list of str; a problem has one or more samples")
        if len(samples) < max(k):
            raise ValueError(f"task {task} has {len(samples)} samples; pass@{max(k)} takes at least {max(k)}")


def _pairs(problems: Sequence[dict[str, Any]], completions: Sequence[Sequence[str]]) -> list[tuple[dict, str]]:
    return [(problem, sample) for problem, samples in zip(problems, completions) for sample in samples]


def _field(problem: dict[str, Any], *names: str) -> Any:
    """The value of the first of these names that the problem has."""
    for name in names:
        if name in problem:
            return problem[name]
    wanted = " or ".join(map(repr, names))
    raise ValueError(f"task {problem.get('task_id', '?')} has no {wanted}; its fields are {', '.join(problem)}")


def _mbpp_program(problem: dict[str, Any], completion: str) -> str:
    # Set-up code may use classes of the solution.
    setup = problem.get("test_setup_code") or "\n".join(problem.get("test_imports", ()))
    return "\n".join([completion, setup, *_field(problem, "test_list", "tests")])


def _human_eval_program(problem: dict[str, Any], completion: str) -> str:
    check = f"check({_field(problem, 'entry_point')})"
    return "\n".join([_field(problem, "prompt") + completion, _field(problem, "test"), check])


def _mbpp_question(problem: dict[str, Any]) -> str:
    tests = "\n".join(_field(problem, "test_list", "tests"))
    return (
        f"You are an expert Python programmer, and here is your task: {_field(problem, 'text', 'prompt')} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[list[int]],
    max_new_tokens: int,
    arguments: dict[str, Any],
) -> list[str]:
    """Completions of prompts of ids."""
    # Padding is masked, so that any token will do.
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **arguments)[
        :, width:
    ].tolist()
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # With their prompts, since some tokenizers drop a space at the beginning, which in Python has a meaning.
    return [decode(row + new)[len(decode(row)) :] for row, new in zip(rows, output)]


def _before(text: str, stop_strings: Sequence[str]) -> str:
    return text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]


def _is_code(text: str, is_body: bool) -> bool:
    if is_body:
        return text[:1].isspace()
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of deep nesting
        return False
