"""
Trains on texts, from scratch; then generates new ones and compares them with real ones.

    python examples/train_text.py train.jsonl --validation valid.jsonl --test test.jsonl --output-dir text-model

Each line of a file is an object with a text, `{"text": ...}`. The output folder gets the model, `texts.jsonl` and
`scores.json`.
"""

import argparse
import json
from pathlib import Path

import torch

from difflm_hf import train
from difflm_hf.evaluation import evaluate_latents, evaluate_text, perplexity, train_language_model
from difflm_hf.records import read_table, write_table


SCORING_LM = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2}


def main(
    train_file: Path,
    validation: Path,
    test: Path,
    output_dir: Path,
    column: str,
    max_minutes: float,
    num_records: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> None:
    real, held_out, unseen = (
        read_table(path)[[column]].dropna(ignore_index=True) for path in (train_file, validation, test)
    )
    pipe = train(real, output_dir, validation=held_out, max_minutes=max_minutes, seed=seed)
    sampling = {"temperature": temperature, "top_p": top_p, "generator": torch.Generator().manual_seed(seed)}
    table = pipe(num_records, **sampling, output_type="pandas").records
    write_table(table, output_dir / "texts.jsonl")

    texts, real_texts = table[column].tolist(), real[column].tolist()
    scores = {"text": evaluate_text(texts, real_texts, seed=seed), "latents": evaluate_latents(pipe, held_out)}
    # An LM that has seen nothing but the test texts finds those likely that are like them.
    lm, tokenizer = train_language_model(
        unseen[column].tolist(), vocab_size=1024, config=SCORING_LM, length=128, num_steps=200, seed=seed
    )
    sample = held_out[column].tolist()
    for name, documents in {"synthetic": texts, "train": real_texts[: len(texts)], "validation": sample}.items():
        scores[name] = perplexity(lm, tokenizer, documents)
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_file", type=Path, help="A .jsonl, .csv or .parquet file.")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="Texts that the model has not seen.")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--max-minutes", type=float, default=10)
    parser.add_argument("--num-records", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
