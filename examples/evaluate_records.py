"""
Measures what synthetic records are worth and what they give away, and writes a report.

    python examples/train_table.py --max_minutes 1 --num_records 29304
    python examples/evaluate_records.py --synthetic synthetic.csv --output report

The records may come from any generator. `difflm evaluate` does the same, and takes JSON, code and text as well.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from transformers import HfArgumentParser

from difflm_hf import RecordSchema
from difflm_hf.evaluation import evaluate_table, summarize, table_figures, write_report
from difflm_hf.records import read_table


DATA = Path(__file__).parent / "data"


@dataclass
class Arguments:
    synthetic: Path = field(default=Path("synthetic.csv"), metadata={"help": "The generated records."})
    real: Path = field(default=DATA / "adult_train.parquet", metadata={"help": "What the generator was trained on."})
    holdout: Path = field(default=DATA / "adult_test.parquet", metadata={"help": "Real records it has not seen."})
    target: str | None = field(default="income", metadata={"help": "The column to predict, to measure utility."})
    categorical: list[str] = field(default_factory=list, metadata={"help": "Columns of codes that are categories."})
    max_rows: int = field(default=50_000, metadata={"help": "Rows that the costly metrics draw at most."})
    output: Path = field(default=Path("report"), metadata={"help": "A folder for report.html, report.json and plots."})
    seed: int = field(default=0, metadata={"help": "Seed of subsamples and of the models that measure."})


def main(args: Arguments) -> None:
    tables = [read_table(path) for path in (args.synthetic, args.real, args.holdout)]
    schema = RecordSchema.infer(tables[1], args.categorical)
    tables = [schema.with_texts(table) for table in tables]
    scores = evaluate_table(
        *tables,
        target=args.target,
        categorical=args.categorical,
        max_rows=args.max_rows,
        seed=args.seed,
        show_progress=True,
    )
    rows = [(row.section, row.name, row.value, row.reference, row.good) for row in summarize(scores)]
    columns = ["section", "metric", "value", "to compare with", "good"]
    print(pd.DataFrame(rows, columns=columns).fillna("").to_string(index=False))
    for alarm in scores["privacy"]["alarms"]:
        print(f"privacy alarm: {alarm}")
    print(write_report(scores, args.output, table_figures(*tables, scores, seed=args.seed)))


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
