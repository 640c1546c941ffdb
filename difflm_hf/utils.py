"""What the machine can do, and what the user sees of it."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import islice
from threading import Barrier, Event, Lock, local
from typing import TypeVar

import pyarrow as pa
import torch
from diffusers.utils import logging as diffusers
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from torch import nn
from transformers.utils import logging as transformers


def default_device() -> torch.device:
    """The accelerator of this machine (CUDA, MPS, XPU or any other that torch knows), or its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def onload(model: nn.Module) -> nn.Module:
    """The model, on the device that it computes on: `enable_model_cpu_offload` keeps it on the CPU until then."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(model)
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether a part of the model is, which then stays on the device that it was loaded on."""
    return any(getattr(module, "is_quantized", False) for module in model.modules())


def supports_bf16() -> bool:
    """Whether the default device computes in bfloat16 at full speed."""
    device = default_device()
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "xpu" and torch.xpu.is_bf16_supported(including_emulation=False)


def default_dtype() -> torch.dtype:
    """The fastest dtype that this machine generates in."""
    return torch.bfloat16 if supports_bf16() else torch.float32


def release_memory() -> None:
    """
    Gives freed memory back to the system: that of Arrow, and where the C library is glibc, which keeps it for each
    thread: over a long run with several threads that adds up.
    """
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


T, U = TypeVar("T"), TypeVar("U")
MAX_WORKERS = 8  # from here on, they wait for Python's lock
_starting_workers = Lock()
_worker = local()  # what a thread of `map_in_threads` knows


def map_in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """
    `map`, with as many calls at a time as torch has threads, each of which computes in one thread.

    Results come in order, and only as fast as they are taken: few of them wait. Once no more are taken, calls that
    have not begun are cancelled, and those that have end at the next [`check_cancelled`].
    """
    items = iter(items)
    executor, num_workers = _single_threaded_workers()
    cancelled = Event()

    def call(item: T) -> U:
        _worker.cancelled = cancelled
        return function(item)

    try:
        futures = deque(executor.submit(call, item) for item in islice(items, num_workers + 1))
        while futures:
            result = futures.popleft().result()
            futures.extend(executor.submit(call, item) for item in islice(items, 1))
            yield result
    finally:
        cancelled.set()
        executor.shutdown(wait=False, cancel_futures=True)


def check_cancelled() -> None:
    """Ends a call of [`map_in_threads`] that nobody waits for, by an exception. Long loops ask at each step."""
    cancelled = getattr(_worker, "cancelled", None)
    if cancelled is not None and cancelled.is_set():
        raise CancelledError


def _single_threaded_workers() -> tuple[ThreadPoolExecutor, int]:
    """As many workers as torch has threads. It computes in one thread in each of them, and elsewhere as before."""
    # `torch.set_num_threads` sets the number of the thread that calls it, and that of threads that use torch for the
    # first time from then on. The second is put back, by a thread whose own number nobody needs.
    with _starting_workers, ThreadPoolExecutor(1) as keeper:
        num_threads = keeper.submit(torch.get_num_threads).result()
        num_workers = min(torch.get_num_threads(), MAX_WORKERS)
        executor = ThreadPoolExecutor(num_workers)
        all_set = Barrier(num_workers)

        def set_to_one() -> None:
            torch.get_num_threads()  # the first use, after which the number stays as it is set
            torch.set_num_threads(1)
            all_set.wait()  # so that no worker takes two of these

        wait([executor.submit(set_to_one) for _ in range(num_workers)])
        keeper.submit(torch.set_num_threads, num_threads).result()
    return executor, num_workers


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps the loading and saving of weights from drawing bars across others."""
    libraries = [library for library in (transformers, diffusers) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries if not HF_HUB_DISABLE_PROGRESS_BARS else ():
            library.enable_progress_bar()
