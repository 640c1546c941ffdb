"""
Trains on a table, generates as many records as are asked for, and writes them to a file.

    python examples/train_table.py --max_minutes 1

The scripts on conditions, imputation, guides, evaluation, streams and the Hub take the model that this one leaves.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import DataArguments, train
from difflm_hf.records import read_table, write_table


ADULT = Path(__file__).parent / "data" / "adult_train.parquet"


@dataclass
class Arguments:
    data: Path = field(default=ADULT, metadata={"help": "The table: a .csv, .parquet or .jsonl file."})
    validation: Path | None = field(default=None, metadata={"help": "Rows to select the best checkpoint by."})
    output_dir: Path = field(default=Path("adult-model"), metadata={"help": "A new or empty folder for the model."})
    recipe: str = field(default="small", metadata={"help": "Sizes and hyper-parameters: small or base."})
    categorical: list[str] = field(default_factory=list, metadata={"help": "Columns of codes that are categories."})
    min_category_count: int = field(default=1, metadata={"help": "Leave out rows with rarer categories."})
    max_records: int | None = field(default=None, metadata={"help": "Train on the first rows alone."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=1000, metadata={"help": "Records to generate."})
    output: Path = field(default=Path("synthetic.csv"), metadata={"help": "A .csv, .parquet or .jsonl file."})
    seed: int = field(default=0, metadata={"help": "Seed of training and generation."})


def main(args: Arguments) -> None:
    table = read_table(args.data)[: args.max_records]
    pipe = train(
        table,
        args.output_dir,
        validation=args.validation,
        recipe=args.recipe,
        data_args=DataArguments(categorical=args.categorical, min_category_count=args.min_category_count),
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    generator = torch.Generator().manual_seed(args.seed)
    records = pipe(args.num_records, generator=generator, output_type="pandas").records
    write_table(records, args.output)
    print(records.head())
    print(f"{len(records):,} records in {args.output}; model in {args.output_dir}")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
