"""
Generates records on all GPUs of a machine, by a process for each, into Parquet files of a folder.

    python examples/train_table.py --max_minutes 1
    accelerate launch --multi_gpu --num_processes 4 examples/several_gpus.py --num_records 10000000 --output synthetic
    python examples/several_gpus.py --num_records 1000000 --output synthetic

The rows are those of one process with the same seed, as in the third line. After a cut-off the same command goes on
where it was.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import write_shards


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    num_records: int = field(default=1_000_000, metadata={"help": "Records in all files together."})
    output: Path = field(default=Path("synthetic"), metadata={"help": "A new folder, or that of a run to go on with."})
    seed: int = field(default=0, metadata={"help": "Seed of the records."})


def main(args: Arguments) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    pipe = DiffLMPipeline.from_pretrained(args.model).to(state.device)
    share = (state.process_index, state.num_processes)
    files = write_shards(pipe, args.output, args.num_records, seed=args.seed, share=share)
    print(f"process {state.process_index} of {state.num_processes}: {len(files)} files in {args.output}")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
