"""
Trains on two tables that belong together, such as customers and their orders, and generates both, with keys that fit.

    python examples/child_tables.py --max_minutes 1
    python examples/child_tables.py --parents customers.csv --children orders.csv --key customer_id

Without --parents and --children it makes a small shop.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import RecordSchema, train
from difflm_hf.records import read_table, write_table


@dataclass
class Arguments:
    parents: Path | None = field(default=None, metadata={"help": "The table of parents, with a row for each key."})
    children: Path | None = field(default=None, metadata={"help": "The table of children, in order, such as of time."})
    key: str = field(default="customer_id", metadata={"help": "The column by which children name their parents."})
    output_dir: Path = field(default=Path("shop-model"), metadata={"help": "A new or empty folder for the model."})
    max_records: int = field(default=1000, metadata={"help": "Parents to make, where no tables are given."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=1000, metadata={"help": "Parents to generate."})
    output: Path = field(default=Path("synthetic-shop"), metadata={"help": "A folder for both tables, as CSV."})
    seed: int = field(default=0, metadata={"help": "Seed of all that is made, trained and generated."})


def make_shop(num_customers: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Customers, and the orders of each: the older, the more of them, and the cheaper."""
    customers = pd.DataFrame({"customer_id": np.arange(num_customers) + 1, "age": rng.integers(18, 90, num_customers)})
    ages = customers.loc[customers.index.repeat(rng.poisson(customers["age"] / 20))]
    orders = pd.DataFrame({"customer_id": ages["customer_id"], "price": rng.gamma(2, 600 / ages["age"]).round(2)})
    orders["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 90, len(orders)), unit="D")
    return customers, orders.sort_values("day", ignore_index=True)


def main(args: Arguments) -> None:
    if args.parents is None or args.children is None:
        parents, children = make_shop(args.max_records, np.random.default_rng(args.seed))
    else:
        parents, children = read_table(args.parents), read_table(args.children)
    tables = {"children": children}
    schema = RecordSchema.from_tables(parents, tables, on=args.key)
    records = schema.from_parents(parents, tables)
    pipe = train(records, args.output_dir, schema=schema, max_minutes=args.max_minutes, seed=args.seed)

    generator = torch.Generator().manual_seed(args.seed)
    generated = pipe(args.num_records, generator=generator, output_type="pandas").records
    new_parents, new_tables = pipe.processor.schema.to_tables(generated)
    new_children = new_tables["children"]
    assert new_parents[args.key].is_unique and new_children[args.key].isin(new_parents[args.key]).all()

    args.output.mkdir(parents=True, exist_ok=True)
    for name, table in {"parents": new_parents, "children": new_children}.items():
        write_table(table, args.output / f"{name}.csv")
        print(f"\n{len(table):,} rows in {args.output / name}.csv", table.head(), sep="\n")
    for title, (of, rows) in {"real": (parents, children), "generated": (new_parents, new_children)}.items():
        print(f"children of a parent, {title}: {len(rows) / len(of):.2f}")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
