"""Blocks that run side by side."""

import threading

import pytest
import torch

from difflm_hf.utils import map_in_threads


def test_results_come_in_order():
    first = threading.Event()

    def wait_for_the_second(i):
        if i == 0:
            assert first.wait(10)
        first.set()
        return i

    torch.set_num_threads(2)
    assert list(map_in_threads(wait_for_the_second, range(9))) == list(range(9))


def test_each_call_has_one_thread():
    threads = torch.get_num_threads()
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == threads
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(8))) == {1}


def test_few_results_wait():
    started = []
    torch.set_num_threads(2)
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
