"""Trains DiffLM on the Adult table, generates as many records as it has, and measures how good they are."""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from difflm_hf import DiffLMPipeline, train
from difflm_hf.evaluation import classifier_two_sample_test, evaluate_table, quality_scores, row_novelty
from difflm_hf.utils import default_dtype


DATA = Path(__file__).parent / "data"


def main(output_dir: Path, output: Path, max_minutes: float, seed: int) -> None:
    real, test = (pd.read_parquet(DATA / f"adult_{split}.parquet") for split in ("train", "test"))
    validation = DATA / "adult_validation.parquet"
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def generate(pipe: DiffLMPipeline) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(seed)
        return pipe(len(real), generator=generator, output_type="pandas").records

    train(real, output_dir, validation=validation, max_minutes=max_minutes, seed=seed)
    pipes = [DiffLMPipeline.from_pretrained(output_dir, dtype=default_dtype()).to(device) for _ in range(2)]
    start = time.perf_counter()
    synthetic = generate(pipes[0])
    rows_per_second = len(synthetic) / (time.perf_counter() - start)
    assert synthetic.equals(generate(pipes[1])), "the same model and seed gave different records"
    synthetic.to_csv(output, index=False)

    scores = evaluate_table(synthetic, real, test, target="income")
    # What real rows score that the model has not seen.
    reference = quality_scores(real, test)
    reference |= {"c2st": classifier_two_sample_test(test, real), "mle": scores["mle_real"], "dcr": 0.5}
    reference |= row_novelty(test, real)
    table = Table("metric", "synthetic rows", "real rows", title="Adult")
    for name, value in reference.items():
        table.add_row(name, f"{scores[name]:.3f}", f"{value:.3f}")
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
