"""Blocks of records from the workers of a Ray cluster."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import socket
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from .blocks import UsedKeys
from .checks import check_integer, shown
from .control.documents import DocumentCondition
from .pipeline_difflm import DiffLMPipeline
from .seeds import check_generator, draw_seed
from .utils import default_device, no_progress_bars


MAX_TASKS = 4096  # of a run; Ray takes milliseconds to begin with each
ADDRESS = re.compile(r"auto|local|(ray://)?[^\s/]+:\d+")


def on_ray(pipe: DiffLMPipeline, address: str = "auto", num_workers: int | None = None) -> DiffLMPipeline:
    """
    Gives a pipeline whose blocks the workers of a Ray cluster generate, at the same time. Its records are those of
    `pipe`, in the same order.

    Each worker gets a copy of `pipe`, in the same dtype, and one GPU where the cluster has any, else one core. The
    blocks of a worker that dies are generated again. Only so many wait for this process as Ray has memory for.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        address (`str`, defaults to `"auto"`):
            Where the cluster is: `"auto"` for that of this machine, `"host:port"` for that which this machine belongs
            to, `"ray://host:10001"` from outside, or `"local"` for a new one on this machine alone, which ends with
            the run. A process that `ray.init` has connected stays with its cluster.
        num_workers (`int`, *optional*): As many as the cluster has GPUs, or cores where it has no GPU, if not given.

    Returns:
        A pipeline for calls, [`~DiffLMPipeline.stream`] and [`~difflm_hf.blocks.write_shards`].

    Raises:
        `ImportError`: without Ray.
        `ValueError`: for an address or a number that is none. What calls of `pipe` raise is raised before Ray starts.

    Example:

    ```python
    >>> write_shards(on_ray(pipe, num_workers=8), "synthetic", 10_000_000, seed=0)
    ```
    """
    check_ray(address, num_workers)
    remote = copy.copy(pipe)
    remote._generate_blocks = _Blocks(pipe, address, num_workers)
    return remote


def check_ray(address: str, num_workers: int | None = None) -> None:
    """Raises what [`on_ray`] does, for which no pipeline is needed."""
    if find_spec("ray") is None:
        raise ImportError("generation by several machines needs Ray; pip install 'difflm_hf[ray]'")
    if not isinstance(address, str) or not ADDRESS.fullmatch(address):
        raise ValueError(f"the address {shown(address)} of Ray is not auto, local, host:port or ray://host:port")
    check_integer("num_workers", 1 if num_workers is None else num_workers)


class _Blocks:
    """What `_generate_blocks` of a pipeline is, by workers."""

    def __init__(self, pipe: DiffLMPipeline, address: str, num_workers: int | None):
        self.pipe, self.address, self.num_workers = pipe, address, num_workers

    def __call__(
        self,
        num_records: int,
        sampling: dict[str, Any],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        first_block: int = 0,
    ) -> Iterator[pd.DataFrame]:
        if isinstance(generator, list | tuple):
            raise ValueError("a list of generators does not go with Ray; give one generator")
        check_generator(generator)
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(
                f"the generator is on {generator.device}; give Ray one of the processor, torch.Generator()"
            )
        if sampling.get("callback_on_step_end") is not None:
            raise ValueError("callback_on_step_end does not go with Ray, whose workers are other processes")
        if isinstance(sampling.get("condition"), DocumentCondition):  # whose parsers stay in their process
            raise ValueError("conditions on documents do not go with Ray; generate these in one process")
        size = self.pipe.config.block_size
        parts = [
            {"block": first_block + start // size, "num_records": min(num_records - start, size)}
            for start in range(0, num_records, size)
        ]
        last = parts[-1]  # of which most identifiers are asked for
        UsedKeys(self.pipe.processor.schema).check(last["block"] * size, last["num_records"])
        # Each worker draws the seed of the call from this one, as the call itself does from the one that is given.
        start = (torch.default_generator if generator is None else generator).clone_state()
        draw_seed(generator)
        with self.pipe.progress_bar(total=num_records) as progress_bar:
            for result in map(pickle.loads, self._compute(parts, sampling, start)):
                if isinstance(result, Exception):
                    raise result
                yield result
                progress_bar.update(len(result))

    def _compute(self, parts: list[dict[str, int]], *task: Any) -> Iterator[bytes]:
        with _connected(self.address), _explain_errors():
            import ray
            from ray.util.client import ray as client

            arguments = [ray.put((_files_of(self.pipe), self.pipe.vae.dtype, *task))], parts, self.num_workers
            if not client.is_connected():
                yield from _compute_blocks(*arguments)
            else:  # Ray Data works inside of the cluster alone
                run = ray.remote(num_cpus=0)(_Run).remote(*arguments)
                yield from iter(lambda: ray.get(run.next.remote()), None)


def _files_of(pipe: DiffLMPipeline) -> dict[str, bytes]:
    """What `pipe` is on a disk, base LM included, by the names of files. Not all models can be pickled."""
    with TemporaryDirectory() as folder:
        pipe.save_pretrained(folder, include_base_weights=True)
        files = filter(Path.is_file, Path(folder).rglob("*"))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class _Run:
    """An actor that computes blocks, for a process outside of the cluster."""

    def __init__(self, *arguments: Any):
        self.blocks = _compute_blocks(*arguments)

    def next(self) -> bytes | None:
        return next(self.blocks, None)


class _Worker:
    """What each process of the pool does."""

    def __init__(self, task: list[Any]):
        import ray

        [(files, dtype, self.sampling, self.generator)] = ray.get(task)
        with TemporaryDirectory() as folder, no_progress_bars():
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.pipe = DiffLMPipeline.from_pretrained(folder, dtype=dtype).to(default_device())
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        num_records, block = int(part["num_records"][0]), int(part["block"][0])
        try:
            [result] = self.pipe._generate_blocks(num_records, self.sampling, self.generator.clone_state(), block)
        except Exception as error:  # which Ray would change
            error.add_note(traceback.format_exc())
            result = error
        return {"result": np.array([pickle.dumps(result)], dtype=object)}


def _compute_blocks(task: list[Any], parts: list[dict[str, int]], num_workers: int | None) -> Iterator[bytes]:
    """The tables of parts, or what was raised instead, pickled, in their order, by a pool of actors."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it tells that there is no bar
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    size = num_workers or max(1, num_gpus or int(resources.get("CPU", 1)))
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    with DataContext.current(context):
        dataset = ray.data.from_items(parts, override_num_blocks=min(len(parts), MAX_TASKS)).map_batches(
            _Worker,
            fn_constructor_args=(task,),
            batch_size=1,
            compute=ActorPoolStrategy(size=min(size, len(parts))),
            num_cpus=1,
            num_gpus=1 if num_gpus else None,
        )
    for row in dataset.iter_rows():
        yield row["result"]


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the cluster, which ends with the block if there was none before."""
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of it
        options["include_dashboard"] = False
    try:
        if ":" in address:  # which Ray would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, **options)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"no Ray cluster lets one in at {address} ({reason}); `ray start --head` begins one, and RAY_AUTH_TOKEN "
            "gives the token that some ask for"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Raises what goes wrong with the cluster as a `RuntimeError`."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise RuntimeError(f"the Ray cluster failed: {str(error).strip().splitlines()[-1]}") from error
