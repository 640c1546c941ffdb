"""
Trains on JSON records with lists and optional keys, and generates some, also with conditions on what is inside.

    python examples/nested_records.py --max_minutes 1
    python examples/nested_records.py --data orders.jsonl --where "`len(lines)` >= 2"

Without --data it makes orders of its own.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import train
from difflm_hf.records import read_table, write_table


@dataclass
class Arguments:
    data: Path | None = field(default=None, metadata={"help": "A file of JSON lines; orders are made without one."})
    output_dir: Path = field(default=Path("orders-model"), metadata={"help": "A new or empty folder for the model."})
    where: str = field(
        default="`len(orders)` >= 2 and level == 'gold'", metadata={"help": "What the last records satisfy, by path."}
    )
    max_records: int = field(default=2000, metadata={"help": "Train on the first records alone."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=1000, metadata={"help": "Records to generate."})
    output: Path = field(default=Path("synthetic.jsonl"), metadata={"help": "A .jsonl or .parquet file."})
    seed: int = field(default=0, metadata={"help": "Seed of all that is made, trained and generated."})


def make_customers(num_records: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Customers with their orders: those of level gold pay more, and some orders are gifts."""
    records = []
    for _ in range(num_records):
        level = str(rng.choice(["basic", "gold"]))
        mean = 40 if level == "gold" else 15
        orders = [{"price": round(float(rng.gamma(2, mean / 2)), 2)} for _ in range(rng.integers(0, 4))]
        for order in orders:
            if rng.random() < 0.3:
                order["gift"] = True
        records.append({"level": level, "orders": orders, "address": {"city": str(rng.choice(["Bonn", "Ulm"]))}})
    return records


def main(args: Arguments) -> None:
    if args.data is None:
        records = pd.DataFrame(make_customers(args.max_records, np.random.default_rng(args.seed)))
    else:
        records = read_table(args.data)[: args.max_records]
    pipe = train(records, args.output_dir, max_minutes=args.max_minutes, seed=args.seed)
    for column in pipe.processor.schema:
        print(column.name, column.type, json.dumps(column.json_schema or ""))

    generator = torch.Generator().manual_seed(args.seed)
    table = pipe(args.num_records, generator=generator, output_type="pandas").records
    write_table(table, args.output)
    print(f"{len(table):,} records in {args.output}; model in {args.output_dir}")
    print(f"where {args.where}")
    for record in pipe(3, where=args.where, generator=generator).records:
        print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
