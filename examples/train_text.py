"""
Trains on texts, from scratch or beside a pretrained LM; then generates new ones and compares them with real ones.

    python examples/train_text.py train.jsonl --validation valid.jsonl --test test.jsonl --output-dir text-model

Each line of a file is an object with a text, `{"text": ...}`. The output folder gets the model, `texts.jsonl` and
`scores.json`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import ModelArguments, train
from difflm_hf.evaluation import evaluate_latents, evaluate_text, perplexity, train_language_model
from difflm_hf.records import read_table, write_table


SCORING_LM = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2}


@dataclass
class Arguments:
    validation: Path = field(metadata={"help": "Texts to select the best checkpoint by."})
    test: Path = field(metadata={"help": "Texts that the model has not seen."})
    output_dir: Path = field(metadata={"help": "A new or empty folder."})
    column: str = field(default="text", metadata={"help": "The column that has the texts."})
    max_minutes: float = field(default=10, metadata={"help": "Time that training may take."})
    num_records: int = field(default=1000, metadata={"help": "Texts to generate."})
    temperature: float = field(default=1.0, metadata={"help": "Of the LM; lower is more typical, and less diverse."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability to sample from."})
    scoring_steps: int = field(default=200, metadata={"help": "Steps of training the LM that finds texts likely."})
    seed: int = field(default=0, metadata={"help": "Seed of training, generation and measures."})


def read_texts(path: Path, column: str) -> pd.DataFrame:
    """That column of a file, without gaps."""
    table = read_table(path)
    if column not in table:
        raise ValueError(f"{path} has no column {column!r}, which is to hold the texts; it has {list(table.columns)}")
    return table[[column]].dropna(ignore_index=True)


def main(args: Arguments, model_args: ModelArguments, train_file: Path) -> None:
    real, held_out, unseen = (read_texts(path, args.column) for path in (train_file, args.validation, args.test))
    pipe = train(
        real,
        args.output_dir,
        validation=held_out,
        model_args=model_args,
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    table = pipe(
        args.num_records,
        temperature=args.temperature,
        top_p=args.top_p,
        generator=torch.Generator().manual_seed(args.seed),
        output_type="pandas",
    ).records
    write_table(table, args.output_dir / "texts.jsonl")

    texts, real_texts = table[args.column].tolist(), real[args.column].tolist()
    scores = {"text": evaluate_text(texts, real_texts, seed=args.seed), "latents": evaluate_latents(pipe, held_out)}
    # An LM that has seen nothing but the test texts finds those likely that are like them.
    lm, tokenizer = train_language_model(
        unseen[args.column].tolist(),
        vocab_size=1024,
        config=SCORING_LM,
        length=128,
        num_steps=args.scoring_steps,
        seed=args.seed,
    )
    sample = held_out[args.column].tolist()
    for name, documents in {"synthetic": texts, "train": real_texts[: len(texts)], "validation": sample}.items():
        scores[name] = perplexity(lm, tokenizer, documents)
    (args.output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = HfArgumentParser((Arguments, ModelArguments), description=__doc__)
    parser.add_argument("train_file", type=Path, help="A .jsonl, .csv or .parquet file.")
    args, model_args, positional = parser.parse_args_into_dataclasses()
    main(args, model_args, positional.train_file)
