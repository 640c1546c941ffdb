"""
Trains a small causal LM from scratch on records, specifications, sentences and code, where no pretrained one can be
had. The result is a folder that `difflm train --base-model` takes.

    python examples/pretrain_base_lm.py adult.csv beijing.csv tools.jsonl e2e.jsonl stdlib_train.jsonl --output-dir lm

Each record of a file becomes a document: its JSON, but for fields named text and code, which are documents of their
own. Leave out the data that the LM is to be adapted to later.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import HfArgumentParser

from difflm_hf import JSONCodec, RecordSchema
from difflm_hf.evaluation import train_language_model
from difflm_hf.records import read_table


PROSE = ("text", "code")
CONTEXT = 1024  # more than a row, since virtual tokens come before a record


@dataclass
class Arguments:
    output_dir: Path = field(metadata={"help": "The folder of the LM."})
    max_documents: int = field(default=20_000, metadata={"help": "Documents of each file."})
    vocab_size: int = field(default=8192, metadata={"help": "Of the byte-level BPE."})
    length: int = field(default=512, metadata={"help": "Tokens of a row of the batch."})
    num_steps: int = field(default=2000, metadata={"help": "Steps of training."})
    batch_size: int = field(default=16, metadata={"help": "Rows of a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "The largest learning rate."})
    seed: int = field(default=0, metadata={"help": "Seed of documents and training."})


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


def main(args: Arguments, files: list[Path]) -> None:
    rng = np.random.default_rng(args.seed)
    texts: list[str] = []
    for path in files:
        found = list(documents(path, rng))
        texts += pd.Series(found).sample(min(len(found), args.max_documents), random_state=args.seed).tolist()
        print(f"{path.name}: {min(len(found), args.max_documents):,} of {len(found):,} documents")
    texts = [texts[i] for i in rng.permutation(len(texts))]
    model, tokenizer = train_language_model(
        texts,
        vocab_size=args.vocab_size,
        config={"max_position_embeddings": max(CONTEXT, args.length)},
        length=args.length,
        num_steps=args.num_steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"{model.num_parameters():,} parameters in {args.output_dir}")


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="Tables (.csv, .parquet) and documents (.jsonl).")
    args, positional = parser.parse_args_into_dataclasses()
    main(args, positional.files)
