"""Trains DiffLM on the Adult table, generates as many records as it has, and measures how good they are."""

import argparse
import time
from functools import reduce
from operator import getitem
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

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


def main(output_dir: Path, output: Path, max_minutes: float, seed: int) -> None:
    real, test = (pd.read_parquet(DATA / f"adult_{split}.parquet") for split in ("train", "test"))
    validation = DATA / "adult_validation.parquet"
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def generate(pipe: DiffLMPipeline) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(seed)
        return pipe(len(real), generator=generator, output_type="pandas").records

    train(real, output_dir, validation=validation, max_minutes=max_minutes, seed=seed)
    pipes = [DiffLMPipeline.from_pretrained(output_dir).to(device) for _ in range(2)]
    start = time.perf_counter()
    synthetic = generate(pipes[0])
    rows_per_second = len(synthetic) / (time.perf_counter() - start)
    assert synthetic.equals(generate(pipes[1])), "the same model and seed gave different records"
    synthetic.to_csv(output, index=False)

    scores = evaluate_table(synthetic, real, test, target="income", show_progress=True)
    # The same for real rows that the model has not seen, in place of synthetic ones.
    unseen, holdout = test.iloc[::2], test.iloc[1::2]
    reference = evaluate_table(unseen, real, holdout, target="income", show_progress=True)
    table = Table("metric", "synthetic rows", "unseen real rows", title="Adult")
    for name, *path in METRICS:
        table.add_row(name, *(f"{reduce(getitem, path, figures):.3f}" for figures in (scores, reference)))
    console = Console()
    console.print(table)
    console.print(f"{len(synthetic):,} records at {rows_per_second:,.0f} a second in {output}; model in {output_dir}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default="quickstart-model", help="a new or empty folder")
    parser.add_argument("--output", type=Path, default="synthetic.csv", help="the CSV file of generated records")
    parser.add_argument("--max-minutes", type=float, default=7.0, help="time that training may take")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and generation")
    args = parser.parse_args()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"{args.output_dir} is not empty; delete it, or name another folder with --output-dir")
    main(**vars(args))
