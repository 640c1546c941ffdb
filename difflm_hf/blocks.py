"""From a seed to blocks of records, and from blocks to streams and folders of files."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, DatasetInfo
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import nn

from .checks import check_choice, check_integer, is_number, shown
from .files import atomic_write, is_whole, lock_folder
from .records import JSONCodec, RecordSchema, Unique
from .records.nested import to_plain
from .seeds import check_generator, draw_seed, generator_of, seeded_generator
from .step_callbacks import step_callback
from .utils import map_in_threads, release_memory


OutputType = Literal["dict", "pandas", "dataset", "text"]
MAX_RECORDS = 2**62  # beyond which there are no names of shards
MAX_STEPS = 10_000  # of a scheduler
TEMPERATURES = 1e-30, 1e30  # beyond which logits leave all numbers
MAX_ATTEMPTS = 20  # rounds of sampling documents before giving up
MANIFEST = "manifest.json"
DIGEST = 64  # signs of a hash, which says nothing to people
RECORDS_PER_SHARD = 2**17  # or the next multiple of a block


@dataclass
class DiffLMPipelineOutput(BaseOutput):
    """
    Output of [`DiffLMPipeline`].

    Args:
        records (`list[dict]`, `pandas.DataFrame`, `datasets.Dataset` or `list[str]`): The records.
    """

    records: list[dict[str, Any]] | pd.DataFrame | Dataset | list[str]


class BlockwisePipeline(DiffusionPipeline):
    """
    The base of pipelines that generate records.

    A seed stands for an endless row of blocks, each of `block_size` records that are sampled together by a random
    generator of their own. Hence record i of a seed is the same however many are asked for, and blocks can be computed
    side by side.

    A subclass has a `processor` ([`DiffLMProcessor`]) among its components and `block_size` in its configuration, and
    samples records in [`~BlockwisePipeline.generate_batches`].
    """

    @torch.no_grad()
    def stream(
        self,
        num_records: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        first_block: int = 0,
        **sampling,
    ) -> Iterator[pa.RecordBatch]:
        """
        Generates records block by block, in memory that does not depend on their number.

        The records are those of a call with the same arguments.

        Args:
            num_records (`int`): Records to generate.
            num_inference_steps, temperature, top_p, batch_size, generator: As in the call.
            first_block (`int`, defaults to 0):
                The block to begin with: `first_block * pipe.config.block_size` records are passed over, and not
                computed.
            sampling (*optional*): Further arguments of `generate_block`.

        Yields:
            `pyarrow.RecordBatch`: A block of `pipe.config.block_size` records, the last one perhaps of fewer, all with
            the schema `pipe.processor.schema.to_arrow()`.

        Raises:
            `ValueError`, `RuntimeError`: As in the call.

        Example:

        ```python
        >>> for batch in pipe.stream(10_000_000, generator=torch.Generator().manual_seed(0)):
        ...     writer.write_batch(batch)
        ```
        """
        self.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, "pandas")
        check_generator(generator)
        sampling |= {
            "num_inference_steps": num_inference_steps,
            "temperature": temperature,
            "top_p": top_p,
            "batch_size": batch_size,
        }
        for table in self._generate_blocks(num_records, sampling, generator, first_block):
            yield self.processor.schema.to_record_batch(table)

    def _generate_blocks(
        self,
        num_records: int,
        sampling: dict[str, Any],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        first_block: int = 0,
    ) -> Iterator[pd.DataFrame]:
        """Blocks from `first_block` on, up to `num_records` records from there, with a bar of their progress."""
        size, schema = self.config.block_size, self.processor.schema
        keys = UsedKeys(schema)
        if isinstance(generator, list | tuple):
            keys.check_independent()
            parts = [(draw_seed(of_record), 0, 1) for of_record in generator]
        else:
            # One number stands for all records of a call: each block then has a generator of its own.
            seed = draw_seed(generator)
            keys.check(first_block * size, num_records)
            starts = range(0, num_records, size)
            parts = ((seed, first_block + start // size, min(num_records - start, size)) for start in starts)
        tensor_inputs = sampling.get("callback_on_step_end_tensor_inputs", ("latents",))
        callback = step_callback(sampling.get("callback_on_step_end"), tensor_inputs, self._callback_tensor_inputs)
        sampling = {k: v for k, v in sampling.items() if k != "callback_on_step_end_tensor_inputs"}
        sampling["callback_on_step_end"] = callback

        def generate(part: tuple[int, int, int]) -> pd.DataFrame:
            seed, block, num = part
            table = self.generate_block(seed, block, **sampling, num_records=num, keys=keys)
            for name, rule in schema.identifiers.items():
                table = table.assign(**{name: rule.values(seed, block * size, num, schema.by_name)})
            return table

        # The products of a small model on a CPU are too small to share among threads; whole blocks are not.
        is_on_cpu = self._execution_device.type == "cpu"
        has_own_threads = is_on_cpu and self.processor.codec.has_fixed_layout and callback is None and not keys.rules
        with self.progress_bar(total=num_records) as progress_bar:
            for table in map_in_threads(generate, parts) if has_own_threads else map(generate, parts):
                yield table
                progress_bar.update(len(table))
        self.maybe_free_model_hooks()

    def check_inputs(
        self,
        num_records: int,
        num_inference_steps: int,
        temperature: float,
        top_p: float,
        batch_size: int | None,
        output_type: str,
    ) -> None:
        """Raises a `ValueError` for the first argument out of range."""
        check_integer("num_records", num_records, most=MAX_RECORDS)
        check_integer("num_inference_steps", num_inference_steps, most=MAX_STEPS)
        check_integer("batch_size", 1 if batch_size is None else batch_size)
        low, high = TEMPERATURES
        if not is_number(temperature) or not (temperature == 0 or low <= temperature <= high):
            raise ValueError(
                f"temperature={shown(temperature)} is not 0 or more; 0 is greedy, 1 the model's distribution, and "
                f"others are from {low} to {high}"
            )
        if not is_number(top_p) or not 0 < top_p <= 1:
            raise ValueError(f"top_p={shown(top_p)} is not in (0, 1]")
        check_choice("output_type", output_type, get_args(OutputType))

    @torch.no_grad()
    def generate_block(
        self,
        seed: int,
        block: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
        num_records: int | None = None,
        keys: UsedKeys | None = None,
    ) -> pd.DataFrame:
        """
        Generates block number `block` of a seed: `block_size` records, or the first `num_records` of them. Batches of
        `batch_size` that are not needed for these are not decoded. Records with keys that earlier blocks used are left
        out; identifiers are not numbered yet.

        Returns:
            `pandas.DataFrame` of the records.
        """
        size = self.config.block_size
        num_records = size if num_records is None else num_records
        batch_size = int(min(batch_size or self.default_batch_size, num_records))
        sampling = num_inference_steps, temperature, top_p, batch_size, callback_on_step_end
        keys = UsedKeys(self.processor.schema) if keys is None else keys
        tables: list[pd.DataFrame] = []
        for attempt in range(MAX_ATTEMPTS):
            generator = generator_of(seed, block, attempt)
            for table in self.generate_batches(num_records - sum(map(len, tables)), generator, *sampling):
                tables.append(keys.take(table, num_records - sum(map(len, tables))))
                if (num_valid := sum(map(len, tables))) >= num_records:
                    return pd.concat(tables, ignore_index=True)
        raise RuntimeError(
            f"only {num_valid} of {MAX_ATTEMPTS * size} records were valid, and the others not, or without end, or "
            "against a rule of the schema; train longer, or lower the temperature"
        )

    @property
    def default_batch_size(self) -> int:
        """Records that are sampled at once, unless the caller says otherwise."""
        return self.config.block_size

    def generate_batches(
        self,
        num_needed: int,
        generator: torch.Generator,
        num_inference_steps: int,
        temperature: float,
        top_p: float,
        batch_size: int,
        callback_on_step_end: Callable | None,
    ) -> Iterator[pd.DataFrame]:
        """
        Samples a block of records, in the way of the subclass.

        Args:
            num_needed (`int`): Valid records that are asked for, the first ones of the block.
            generator (`torch.Generator`): All randomness comes from it.
            num_inference_steps, temperature, top_p, batch_size, callback_on_step_end: As in the call.

        Yields:
            `pandas.DataFrame`: The valid records of a batch, which may be fewer than its size.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it samples records")

    def format_records(self, table: pd.DataFrame, output_type: OutputType) -> Any:
        """A table of records as `output_type` says."""
        if output_type == "pandas":
            return table
        if output_type == "dataset":
            schema = self.processor.schema
            data = pa.Table.from_batches([schema.to_record_batch(table)])
            return Dataset(data, DatasetInfo(features=schema.to_features()))
        if output_type == "text":
            return self.processor.codec.to_texts(table)
        return [json.loads(text) for text in JSONCodec(self.processor.schema).encode(table)]


class UsedKeys:
    """
    The keys of the records so far, which those after them may not have: the [`Unique`] rules of a schema.

    Args:
        schema ([`RecordSchema`]): The schema.
    """

    def __init__(self, schema: RecordSchema):
        self.schema = schema
        self.rules = [rule for rule in schema.rules if isinstance(rule, Unique)]
        self.used: list[set[Hashable]] = [set() for _ in self.rules]

    def check(self, first_record: int, num_records: int) -> None:
        """Raises a `ValueError` where keys cannot be known, or there are not enough identifiers."""
        if self.rules and first_record > 0:
            raise ValueError(
                f"{self.rules[0]} needs the records from the first on; generate them in one go, or make it an "
                "Identifier of one column"
            )
        for rule in self.schema.identifiers.values():
            if (size := rule.capacity(self.schema.by_name)) < first_record + num_records:
                raise ValueError(
                    f"{rule} has {size:,} values for {first_record + num_records:,} records; give it a longer "
                    "pattern, or wider bounds to the field"
                )

    def check_independent(self) -> None:
        """Raises a `ValueError` where a record depends on those before it."""
        if rules := [*self.rules, *self.schema.identifiers.values()]:
            raise ValueError(
                f"a list of generators makes each record for itself, and {rules[0]} looks at all of them; give one "
                "generator"
            )

    def take(self, table: pd.DataFrame, num_records: int) -> pd.DataFrame:
        """The first records, `num_records` at most, whose keys are new, and are used then."""
        if not self.rules:
            return table.iloc[:num_records]
        taken = []
        for row, keys in enumerate(zip(*(rule.keys(table) for rule in self.rules))):
            if len(taken) < num_records and not any(key in used for key, used in zip(keys, self.used)):
                taken.append(row)
                for key, used in zip(keys, self.used):
                    used.add(key)
        return table.iloc[taken]


def write_shards(
    pipe: BlockwisePipeline,
    output_dir: str | os.PathLike,
    num_records: int,
    seed: int = 0,
    num_inference_steps: int = 12,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    share: tuple[int, int] = (0, 1),
    **conditions,
) -> list[Path]:
    """
    Generates records into `output_dir` as Parquet files `part-00000.parquet`, `part-00001.parquet` and so on.

    A run that was cut off, even by the loss of power, goes on where it was when called again with the same arguments,
    and ends with the same bytes. `manifest.json` says what the files are of.

    Args:
        pipe ([`BlockwisePipeline`]): The pipeline.
        output_dir (`str` or `os.PathLike`): A new or empty folder, or that of the run to go on with.
        num_records (`int`): Records in all files together.
        seed (`int`, defaults to 0): The records are those of a call with a generator of this seed.
        num_inference_steps, temperature, top_p, batch_size: As in the call of the pipeline.
        share (`tuple[int, int]`, defaults to `(0, 1)`):
            Which of how many shares of the files to write, of (2, 8) the files 2, 10, 18 and so on. Processes may
            write their shares into the same folder at the same time.
        conditions (*optional*):
            `conditions`, `where`, `score` and `guidance_scale` of the call of [`DiffLMPipeline`]. Whether a run goes
            on with the same score is told by the name of the function.

    Returns:
        `list[Path]`: The files, those of the share.

    Raises:
        `ValueError`: when `output_dir` holds anything else, or files of other arguments or another model.
        `RuntimeError`: when another process writes the same share into it.
        `OSError`: when it cannot be written.
    """
    pipe.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, "pandas")
    if not isinstance(output_dir, str | os.PathLike):
        raise ValueError(f"output_dir={shown(output_dir)} is no path of a folder")
    if not isinstance(share, (tuple, list)) or len(share) != 2:
        raise ValueError(f"share={shown(share)} is no pair of numbers, such as (0, 4) for the first of four shares")
    part, num_parts = share
    check_integer("the number of shares", num_parts)
    check_integer("the share", part, least=0, most=num_parts - 1)
    output_dir = Path(output_dir)
    seeded_generator(seed)  # which says what is wrong with it
    sampling = {"num_inference_steps": num_inference_steps, "temperature": temperature, "top_p": top_p}
    pipe.stream(num_records, **sampling, batch_size=batch_size, **conditions)  # which says what is wrong with these
    block_size = pipe.config.block_size
    blocks_per_shard = -(-RECORDS_PER_SHARD // block_size)
    manifest = {
        "num_records": num_records,
        "seed": seed,
        **sampling,
        **({"conditions": _fingerprint_conditions(conditions)} if conditions else {}),
        "records_per_shard": blocks_per_shard * block_size,
        "block_size": block_size,
        "dtype": {name: str(model.dtype) for name, model in _models(pipe)},
        "model": fingerprint(pipe),
    }
    starts = range(0, num_records, blocks_per_shard * block_size)
    shards = range(len(starts))[part::num_parts]
    # Where a share begins its files, so that none takes those of another for ones of a process that was killed
    begun = output_dir if num_parts == 1 else output_dir / f".share-{part}-of-{num_parts}"

    def file_of(shard: int) -> Path:
        return output_dir / f"part-{shard:05d}.parquet"

    def batches_from(shard: int) -> Iterator[pa.RecordBatch]:
        are_of_each = isinstance(conditions.get("conditions"), pd.DataFrame | list | tuple)  # up to the last record
        most = num_records if num_parts == 1 or are_of_each else manifest["records_per_shard"]
        return pipe.stream(
            min(num_records - starts[shard], most),
            **sampling,
            batch_size=batch_size,
            generator=seeded_generator(seed),
            first_block=shard * blocks_per_shard,
            **conditions,
        )

    with lock_folder(begun):
        _claim(output_dir, to_plain(manifest))
        left = list(itertools.dropwhile(lambda shard: is_whole(file_of(shard)), shards))
        batches = batches_from(left[0]) if left else iter(())
        for shard in left:
            if shard != left[0] and num_parts > 1:  # those between are of others
                batches.close()
                batches = batches_from(shard)
            table = pa.Table.from_batches(list(itertools.islice(batches, blocks_per_shard)))
            with atomic_write(begun / file_of(shard).name) as temporary:
                pq.write_table(table, temporary)
            os.replace(begun / file_of(shard).name, file_of(shard))
            release_memory()
        next(batches, None)  # lets the stream close its progress bar
    return [*map(file_of, shards)]


def _models(pipe: BlockwisePipeline) -> list[tuple[str, nn.Module]]:
    """The components that have weights, by name."""
    return sorted((name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module))


def fingerprint(pipe: BlockwisePipeline) -> str:
    """A hash of all that decides which records a seed gives, but for how they are sampled."""
    digest = hashlib.sha256()
    for name, model in _models(pipe):
        for key, weight in sorted(model.state_dict().items()):
            digest.update(f"{name}.{key} {weight.dtype} {tuple(weight.shape)}\n".encode())
            # One after the other: of weights on a GPU there is then but one copy in memory.
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(json.dumps(pipe.processor.schema.to_dict(), default=str).encode())
    digest.update(json.dumps([type(pipe.scheduler).__name__, dict(pipe.scheduler.config)], default=str).encode())
    return digest.hexdigest()


def _fingerprint_conditions(conditions: dict[str, Any]) -> str:
    """A hash of the conditions on records."""
    return hashlib.sha256(json.dumps(_to_json(conditions), sort_keys=True).encode()).hexdigest()


def _to_json(value: Any) -> Any:
    """Whatever may stand in conditions, in full, and alike in all processes."""
    if isinstance(value, pd.DataFrame):
        return {"columns": [[name, _to_json(value[name].tolist())] for name in value]}
    if isinstance(value, Mapping):
        return {"items": sorted(([repr(key), _to_json(of)] for key, of in value.items()), key=str)}
    if isinstance(value, FunctionType):  # whose address is another one in each process
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value):
        return [type(value).__name__, *(_to_json(getattr(value, f.name)) for f in fields(value))]
    if isinstance(value, (set, frozenset)):
        return sorted((_to_json(item) for item in value), key=str)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_to_json(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
    return repr(value)


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, or compares it with the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if path.exists():
        given = json.loads(path.read_text(encoding="utf-8"))
        for name, value in manifest.items():
            if given.get(name) != value:
                before = given.get(name)
                is_hash = any(isinstance(of, str) and len(of) == DIGEST for of in (before, value))
                what = f"another run ({name})" if is_hash else f"{name}={before!r}, and not of {value!r}"
                raise ValueError(
                    f"{folder} holds records of {what}; go on with the same arguments and model, or name another "
                    "folder"
                )
    elif any(not file.name.startswith(".") and file.name != MANIFEST for file in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and has no {MANIFEST} of a run to go on with; name another folder")
    else:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
