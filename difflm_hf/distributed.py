"""
What processes that train together do as one.

They share the batches of one process: of the batch of all, process r of n has the records r, r + n, r + 2n, ... All of
them have the same state of random numbers, draw those of the whole batch, and take their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import Sampler

from .utils import default_device


# What a configuration of accelerate may say of FSDP, as the launcher tells it
FSDP_OPTIONS = {
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def join_processes() -> None:
    """
    Lets this process know of the others, if a launcher such as accelerate started several.

    Raises:
        `ValueError`: for options of FSDP that training does not take.
    """
    PartialState(cpu=default_device().type == "cpu")
    is_sharded()


@cache
def is_sharded() -> bool:
    """Whether a launcher asks several processes for FSDP."""
    # accelerate does not hear of it: it would load bases in the first process alone, and compute all in 16 bits.
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    for name, taken in FSDP_OPTIONS.items():
        if (given := os.environ.get(name, taken).lower()) != taken:
            raise ValueError(f"{name.lower()}={given!r} of the FSDP configuration is not {taken!r}; set it to that")
    return num_processes() > 1


def wait_for_all() -> None:
    """Waits until all processes are here."""
    PartialState().wait_for_everyone()


def num_processes() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Which of them this one is, from 0 on."""
    return dist.get_rank() if num_processes() > 1 else 0


def of_first(value: Any) -> Any:
    """The value that the first process has, such as a time by its clock."""
    return broadcast_object_list([value])[0] if num_processes() > 1 else value


def draw(random: Callable[..., torch.Tensor], batch_size: int, *shape: int, **kwargs: Any) -> torch.Tensor:
    """
    Random numbers of this process's records, as one process would draw them for the whole batch.

    Args:
        random (`Callable`): `torch.rand`, say, which takes a shape.
        batch_size (`int`): Records of this process.
        shape (`int`): That of the numbers of a record.
        kwargs (*optional*): Those of `random`, such as `device`.

    Returns:
        `torch.Tensor` of shape `(batch_size, *shape)`.
    """
    return random(num_processes() * batch_size, *shape, **kwargs)[process_index() :: num_processes()]


def randn_like(tensor: torch.Tensor) -> torch.Tensor:
    """`torch.randn_like`, of the records of a batch, by [`draw`]."""
    return draw(torch.randn, *tensor.shape, dtype=tensor.dtype, device=tensor.device)


def gather_records(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, of shape `(num_processes * batch_size, ...)`, in the order of the whole batch."""
    if num_processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def mean_of_all(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of the processes' tensors, whose gradient is right once DDP averages those of the processes."""
    if num_processes() == 1:
        return tensor
    mean = tensor.detach() / num_processes()
    dist.all_reduce(mean)
    return tensor + (mean - tensor.detach())


class SharedSampler(Sampler):
    """
    The order of another sampler, so that accelerate, which hands out batches in turn, gives each process its records
    of the batches of one.

    Args:
        sampler (`Sampler`): The order.
        batch_size (`int`): Records of a process in a batch.
    """

    def __init__(self, sampler: Sampler, batch_size: int):
        self.sampler, self.batch_size = sampler, batch_size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        order, n = list(self.sampler), num_processes()
        for start in range(0, len(order), n * self.batch_size):
            batch = order[start : start + n * self.batch_size]
            yield from (index for rank in range(n) for index in batch[rank::n])

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)
