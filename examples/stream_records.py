"""
Generates millions of records in memory that does not depend on their number.

    python examples/train_table.py --max_minutes 1
    python examples/stream_records.py --num_records 10000000 --output synthetic

The records go to Parquet files of a folder. After a cut-off the same command goes on where it was.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import write_shards


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    num_records: int = field(default=1_000_000, metadata={"help": "Records to generate."})
    output: Path = field(default=Path("synthetic"), metadata={"help": "A new folder, or that of a run to go on with."})
    count: str = field(default="income", metadata={"help": "A category whose values are counted on the fly."})
    num_counted: int = field(default=10_000, metadata={"help": "Records to count, which no file takes."})
    seed: int = field(default=0, metadata={"help": "Seed of the records."})


def main(args: Arguments) -> None:
    pipe = DiffLMPipeline.from_pretrained(args.model)
    start = time.perf_counter()
    files = write_shards(pipe, args.output, args.num_records, seed=args.seed)
    seconds = time.perf_counter() - start
    print(f"{args.num_records:,} records in {args.output}, {seconds:.0f} s; the last file is {files[-1].name}")

    # The same way they are read: one after another.
    rows = load_dataset("parquet", data_files=[str(path) for path in files], split="train", streaming=True)
    for row in islice(rows, 3):
        print(row)

    # Where no file is wanted, records come as batches of Arrow.
    counts = Counter()
    for batch in pipe.stream(args.num_counted, generator=torch.Generator().manual_seed(args.seed)):
        counts.update(batch.column(args.count).to_pylist())
    print(f"{args.count} of the first {args.num_counted:,}: {dict(counts)}")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
