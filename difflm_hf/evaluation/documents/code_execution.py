"""Whether generated Python code does what it should: it is run, with tests, as MBPP and HumanEval ask."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from .sandbox import MEBIBYTE, check_limits, run_code


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
    allow_unsafe: bool = False,
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
        allow_unsafe (`bool`, defaults to `False`):
            Whether to run them without a sandbox where none can be had; what that means stands at [`run_code`].

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
        `NotImplementedError`, `RuntimeError`: on systems other than Linux, and where there is no sandbox; see
            [`run_code`].
    """
    return _evaluate(problems, completions, _mbpp_program, k, timeout, max_memory, num_workers, allow_unsafe)


def evaluate_human_eval(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    k: Sequence[int] = (1,),
    timeout: float = 10.0,
    max_memory: int = 512 * MEBIBYTE,
    num_workers: int | None = None,
    allow_unsafe: bool = False,
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
        allow_unsafe (`bool`, defaults to `False`):
            Whether to run them without a sandbox where none can be had; what that means stands at [`run_code`].

    Returns:
        `dict[str, Any]`: As of [`evaluate_mbpp`].

    Raises:
        `TypeError`, `ValueError`, `NotImplementedError`, `RuntimeError`: As [`evaluate_mbpp`].
    """
    return _evaluate(problems, completions, _human_eval_program, k, timeout, max_memory, num_workers, allow_unsafe)


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


def _evaluate(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    make_program: Callable[[dict[str, Any], str], str],
    k: Sequence[int],
    timeout: float,
    max_memory: int,
    num_workers: int | None,
    allow_unsafe: bool,
) -> dict[str, Any]:
    _check_completions(problems, completions, k)
    check_limits(timeout, max_memory, allow_unsafe)
    programs = [make_program(*pair) for pair in _pairs(problems, completions)]
    num_workers = num_workers or len(os.sched_getaffinity(0))
    run = partial(run_code, timeout=timeout, max_memory=max_memory, allow_unsafe=allow_unsafe)
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
