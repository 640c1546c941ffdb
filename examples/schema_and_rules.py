"""
Infers the schema of a table, finds rules between its columns, and trains a model whose records keep them all.

    python examples/schema_and_rules.py --categorical education-num --max_minutes 1

The schema goes to a JSON file. Look at it, edit it, and pass it on by --schema in a second run.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import RecordSchema, train
from difflm_hf.records import read_table, write_table


ADULT = Path(__file__).parent / "data" / "adult_train.parquet"


@dataclass
class Arguments:
    data: Path = field(default=ADULT, metadata={"help": "The table: a .csv, .parquet or .jsonl file."})
    schema: Path | None = field(default=None, metadata={"help": "A file of an edited schema, in place of inference."})
    categorical: list[str] = field(default_factory=list, metadata={"help": "Columns of codes that are categories."})
    output_dir: Path = field(default=Path("rules-model"), metadata={"help": "A new or empty folder for the model."})
    max_records: int | None = field(default=None, metadata={"help": "Train on the first rows alone."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=1000, metadata={"help": "Records to generate."})
    output: Path = field(default=Path("synthetic.csv"), metadata={"help": "A .csv, .parquet or .jsonl file."})
    seed: int = field(default=0, metadata={"help": "Seed of training and generation."})


def main(args: Arguments) -> None:
    table = read_table(args.data)[: args.max_records]
    if args.schema is not None:
        schema = RecordSchema.load(args.schema)
    else:
        schema = RecordSchema.infer(table, args.categorical, find_rules=True)
        path = args.output_dir.with_name(f"{args.output_dir.name}-schema.json")
        schema.save(path)
        print(f"schema in {path}")
    for column in schema:
        print(f"{column.name}: {column.type}{', may be null' if column.nullable else ''}")
    print("\nrules in the data", schema.check_rules(table).to_string(index=False), sep="\n")

    pipe = train(table, args.output_dir, schema=schema, max_minutes=args.max_minutes, seed=args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    records = pipe(args.num_records, generator=generator, output_type="pandas").records
    write_table(records, args.output)
    print("\nrules in the generated records", schema.check_rules(records).to_string(index=False), sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
