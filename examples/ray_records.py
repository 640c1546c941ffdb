"""
Generates records by the workers of a Ray cluster, into Parquet files of a folder.

    python examples/train_table.py --max_minutes 1
    python examples/ray_records.py --address local --num_records 1000000 --output synthetic

The rows are those of one process with the same seed. After a cut-off the same command goes on where it was.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import write_shards
from difflm_hf.ray_generation import on_ray


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    address: str = field(default="auto", metadata={"help": "auto, local, host:port or ray://host:10001."})
    num_workers: int | None = field(default=None, metadata={"help": "One for each GPU, or core, if not given."})
    num_records: int = field(default=1_000_000, metadata={"help": "Records to generate."})
    output: Path = field(default=Path("synthetic"), metadata={"help": "A new folder, or that of a run to go on with."})
    seed: int = field(default=0, metadata={"help": "Seed of the records."})


def main(args: Arguments) -> None:
    pipe = on_ray(DiffLMPipeline.from_pretrained(args.model), args.address, args.num_workers)
    start = time.perf_counter()
    files = write_shards(pipe, args.output, args.num_records, seed=args.seed)
    print(f"{args.num_records:,} records in {len(files)} files, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
