"""
Trains a small causal LM from scratch on records, specifications, sentences and code, where no pretrained one can be
had. The result is a folder that `difflm train --base-model` takes.

    python examples/pretrain_base_lm.py adult.csv beijing.csv tools.jsonl e2e.jsonl stdlib_train.jsonl --output-dir lm

Each record of a file becomes a document: its JSON, but for fields named text and code, which are documents of their
own. Leave out the data that the LM is to be adapted to later.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from difflm_hf import JSONCodec, RecordSchema
from difflm_hf.evaluation import train_language_model
from difflm_hf.records import read_table


PROSE = ("text", "code")
CONTEXT = 1024  # more than a row, since virtual tokens come before a record


def documents(path: Path, rng: np.random.Generator) -> Iterator[str]:
    """The documents of a file. Keys of tables come in the order of the file and, every other time, in another."""
    if path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                record = json.loads(line)
                yield from (record.pop(key) for key in PROSE if key in record)
                if len(record) > 1:
                    yield json.dumps(record, ensure_ascii=False)
        return
    table = read_table(path)
    halves = np.array_split(rng.permutation(len(table)), 2)
    for rows, columns in zip(halves, (list(table.columns), list(rng.permutation(table.columns)))):
        part = table.iloc[rows][columns]
        yield from JSONCodec(RecordSchema.infer(part)).encode(part)


def main(
    files: list[Path],
    output_dir: Path,
    max_documents: int,
    vocab_size: int,
    length: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for path in files:
        found = list(documents(path, rng))
        texts += pd.Series(found).sample(min(len(found), max_documents), random_state=seed).tolist()
        print(f"{path.name}: {min(len(found), max_documents):,} of {len(found):,} documents")
    texts = [texts[i] for i in rng.permutation(len(texts))]
    model, tokenizer = train_language_model(
        texts,
        vocab_size=vocab_size,
        config={"max_position_embeddings": max(CONTEXT, length)},
        length=length,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    print(f"{model.num_parameters():,} parameters in {output_dir}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="Tables (.csv, .parquet) and documents (.jsonl).")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-documents", type=int, default=20_000, help="Of each file.")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--length", type=int, default=512, help="Tokens of a row of the batch.")
    parser.add_argument("--num-steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
