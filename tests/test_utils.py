"""Blocks that run side by side."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

import difflm_hf.denoising
import difflm_hf.sampling
from difflm_hf import DiffLMPipeline
from difflm_hf.utils import check_cancelled, map_in_threads


@pytest.fixture(autouse=True)
def two_threads():
    """For this thread, and those to come."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_new_thread(function: Callable[[], Any]) -> Any:
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_results_come_in_order():
    first = threading.Event()

    def wait_for_the_second(i):
        if i == 0:
            assert first.wait(10)
        first.set()
        return i

    assert list(map_in_threads(wait_for_the_second, range(9))) == list(range(9))


def test_each_call_has_one_thread():
    threads = torch.get_num_threads()
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == threads
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(8))) == {1}


def test_few_results_wait():
    started = []
    results = map_in_threads(lambda i: started.append(i) or i, iter(range(1000)))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(started) <= 5 + 3
    results.close()
    assert len(started) <= 5 + 3
    assert torch.get_num_threads() == 2


def test_errors_come_out():
    def fail(i):
        if i == 3:
            raise KeyError("three")
        return i

    results = map_in_threads(fail, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)


def test_other_threads_keep_theirs():
    """Also while the caller does something else between two results."""
    results = map_in_threads(lambda _: torch.get_num_threads(), range(100))
    for _ in range(5):
        assert next(results) == 1
        assert torch.get_num_threads() == 2
        assert in_new_thread(torch.get_num_threads) == 2
    # A second user, whose results are taken in a thread of their own.
    assert in_new_thread(lambda: list(map_in_threads(lambda _: torch.get_num_threads(), range(9)))) == [1] * 9
    assert next(results) == 1
    in_new_thread(lambda: results.close() or True)
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2


def test_many_users_at_once():
    numbers = []

    def use() -> None:
        numbers.extend(map_in_threads(lambda _: torch.get_num_threads(), range(20)))

    users = [threading.Thread(target=use) for _ in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert numbers == [1] * 120
    assert in_new_thread(torch.get_num_threads) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_not_begun_is_cancelled(fails):
    """At once, however long what has begun takes."""
    begun, go_on = [], threading.Event()

    def compute(i: int) -> int:
        begun.append(i)
        if i == 1 and fails:
            raise KeyError("one")
        if i > 0:
            assert go_on.wait(60)
        return i

    results = map_in_threads(compute, range(100))
    try:
        assert next(results) == 0
        start = time.monotonic()
        if fails:
            with pytest.raises(KeyError, match="one"):
                next(results)
        else:
            results.close()
        assert time.monotonic() - start < 30
        num_begun = len(begun)
    finally:
        go_on.set()
    time.sleep(0.2)
    assert len(begun) == num_begun <= 4


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_begun_ends_where_nobody_waits_for_it(fails):
    """As a call does that is interrupted: else Python would wait for it before it exits."""
    check_cancelled()  # elsewhere it does nothing
    ended = []

    def compute(i: int) -> int:
        if i == 0:
            return i
        if fails and i == 1:
            raise KeyError("one")
        try:
            while True:
                check_cancelled()
        except CancelledError:
            ended.append(i)
            raise

    results = map_in_threads(compute, range(100))
    assert next(results) == 0
    if fails:
        with pytest.raises(KeyError, match="one"):
            next(results)
    else:
        results.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(60)
            assert not thread.is_alive()
    assert len(ended) <= 4


def test_blocks_under_way_end_where_nobody_waits_for_them(tiny_run, monkeypatch):
    """In latents and in records alike."""
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(block_size=8)
    for module in (difflm_hf.denoising, difflm_hf.sampling):
        asked = []
        with monkeypatch.context() as patch:
            patch.setattr(module, "check_cancelled", lambda asked=asked: asked.append(1))
            pipe(8, num_inference_steps=3)
        assert len(asked) >= 3
