"""
Fills the gaps of a table, and compares what is filled with what was there.

    python examples/train_table.py --max_minutes 1
    python examples/impute.py --share 0.2

The gaps are made here, in rows that the model has not seen, so that the true values are known.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.records import read_table, write_table


ADULT = Path(__file__).parent / "data" / "adult_test.parquet"


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    data: Path = field(default=ADULT, metadata={"help": "Rows without gaps: a .csv, .parquet or .jsonl file."})
    max_records: int = field(default=1000, metadata={"help": "Take the first rows alone."})
    share: float = field(default=0.2, metadata={"help": "Share of the values that are taken away."})
    num_imputations: int = field(default=5, metadata={"help": "Draws, of which the mean or the commonest is taken."})
    output: Path | None = field(default=None, metadata={"help": "A .csv, .parquet or .jsonl file for the table."})
    seed: int = field(default=0, metadata={"help": "Seed of the gaps and of what fills them."})


def main(args: Arguments) -> None:
    pipe = DiffLMPipeline.from_pretrained(args.model)
    table = read_table(args.data)[: args.max_records]
    is_gap = pd.DataFrame(np.random.default_rng(args.seed).random(table.shape) < args.share, columns=table.columns)
    gaps = table.mask(is_gap)

    generator = torch.Generator().manual_seed(args.seed)
    filled = pipe.impute(gaps, args.num_imputations, aggregate="mean", generator=generator)
    assert filled.notna().all(axis=None) and filled.where(~is_gap).equals(gaps.astype(filled.dtypes).where(~is_gap))

    rows = []
    for name, gap in is_gap.items():
        true, guess = table.loc[gap, name], filled.loc[gap, name]
        if pd.api.types.is_numeric_dtype(true):
            figures = [(value - true).abs().mean() for value in (guess, gaps[name].median())]
            rows.append((name, len(true), "mean error", *figures))
        else:
            figures = [(value == true).mean() for value in (guess, gaps[name].mode()[0])]
            rows.append((name, len(true), "share right", *figures))
    columns = ["column", "gaps", "measure", "filled by the model", "median or mode"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="{:.3f}".format))
    if args.output is not None:
        write_table(filled, args.output)


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
