"""
Trains DiffLM on the Adult table, generates as many records as it has, and measures how good they are.

    python examples/quickstart.py
"""

import time
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline, train
from difflm_hf.evaluation import evaluate_table


DATA = Path(__file__).parent / "data"
METRICS = (
    ("column shapes", "fidelity", "column_shapes"),
    ("pair trends", "fidelity", "pair_trends"),
    ("C2ST", "fidelity", "c2st"),
    ("MLE (AUC)", "utility", "synthetic", "auc", "mean"),
    ("DCR", "privacy", "distance_to_closest_record", "share"),
    ("exact copies", "privacy", "exact_copies", "synthetic"),
    ("unique rows", "diversity", "unique_rows"),
)


@dataclass
class Arguments:
    output_dir: Path = field(default=Path("quickstart-model"), metadata={"help": "A new or empty folder."})
    output: Path = field(default=Path("synthetic.csv"), metadata={"help": "The CSV file of generated records."})
    max_records: int | None = field(default=None, metadata={"help": "Take the first rows of each file alone."})
    max_minutes: float = field(default=7.0, metadata={"help": "Time that training may take."})
    seed: int = field(default=0, metadata={"help": "Seed of training and generation."})


def main(args: Arguments) -> None:
    splits = ("train", "validation", "test")
    real, validation, test = (pd.read_parquet(DATA / f"adult_{name}.parquet")[: args.max_records] for name in splits)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def generate(pipe: DiffLMPipeline) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(args.seed)
        return pipe(len(real), generator=generator, output_type="pandas").records

    train(real, args.output_dir, validation=validation, max_minutes=args.max_minutes, seed=args.seed)
    pipes = [DiffLMPipeline.from_pretrained(args.output_dir).to(device) for _ in range(2)]
    start = time.perf_counter()
    synthetic = generate(pipes[0])
    rows_per_second = len(synthetic) / (time.perf_counter() - start)
    assert synthetic.equals(generate(pipes[1])), "the same model and seed gave different records"
    synthetic.to_csv(args.output, index=False)

    scores = evaluate_table(synthetic, real, test, target="income", show_progress=True)
    # The same for real rows that the model has not seen, in place of synthetic ones.
    unseen, holdout = test.iloc[::2], test.iloc[1::2]
    reference = evaluate_table(unseen, real, holdout, target="income", show_progress=True)
    table = Table("metric", "synthetic rows", "unseen real rows", title="Adult")
    for name, *path in METRICS:
        table.add_row(name, *(f"{reduce(getitem, path, figures):.3f}" for figures in (scores, reference)))
    console = Console()
    console.print(table)
    console.print(f"{len(synthetic):,} records at {rows_per_second:,.0f} a second in {args.output}")
    console.print(f"model in {args.output_dir}")


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__)
    [args] = parser.parse_args_into_dataclasses()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"{args.output_dir} is not empty; delete it, or name another folder with --output_dir")
    main(args)
