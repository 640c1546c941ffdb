"""
Generates records that satisfy conditions, with a model of a table that needs no further training for it.

    python examples/train_table.py --max_minutes 1
    python examples/conditional_generation.py --where "income == '>50K' and age < 40"
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.control import Between


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    where: str = field(
        default="income == '>50K' and 30 <= age < 40",
        metadata={"help": "What holds, in pandas' syntax."},
    )
    conditions: str = field(
        default='{"sex": "Female", "education": ["Masters", "Doctorate"]}',
        metadata={"help": "The same as a JSON object: a value for each field, or a list of those it may have."},
    )
    number: str = field(default="age", metadata={"help": "A number of which each record gets a range of its own."})
    balance: str = field(default="income", metadata={"help": "A category whose values are to be equally frequent."})
    num_records: int = field(default=100, metadata={"help": "Records of each kind."})
    seed: int = field(default=0, metadata={"help": "Seed of the records."})


def main(args: Arguments) -> None:
    pipe = DiffLMPipeline.from_pretrained(args.model)

    def generate(num_records: int | None = args.num_records, **asked: Any) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(args.seed)
        return pipe(num_records, generator=generator, output_type="pandas", **asked).records

    records = generate(where=args.where)
    show(f"where {args.where}", records)
    assert len(records.query(args.where)) == args.num_records

    show(f"conditions {args.conditions}", generate(conditions=json.loads(args.conditions)))

    # A list has conditions for each record, here three ranges from the smallest number to the largest.
    bounds = pipe.processor.schema[args.number]
    step = (bounds.maximum - bounds.minimum) / 3
    ranges = [Between(bounds.minimum + k * step, bounds.minimum + (k + 1) * step) for k in range(3)]
    show(f"ranges of {args.number}", generate(None, conditions=[{args.number: part} for part in ranges]))

    shares = generate(balance=args.balance)[args.balance].value_counts(normalize=True)
    print(f"\nshares of {args.balance}, balanced", shares.to_string(header=False), sep="\n")


def show(title: str, records: pd.DataFrame) -> None:
    print(f"\n{title}", records.head(), sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
