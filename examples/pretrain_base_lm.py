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
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import TensorDataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from difflm_hf import JSONCodec, RecordSchema
from difflm_hf.records import read_table
from difflm_hf.utils import supports_bf16


PROSE = ("text", "code")
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


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


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def pack(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> torch.Tensor:
    """All documents one after the other, in rows of `length` ids."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = [[bos, *document, eos] for document in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    flat = torch.tensor(np.concatenate(ids), dtype=torch.long)
    return flat[: len(flat) // length * length].view(-1, length)


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
    set_seed(seed)
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for path in files:
        found = list(documents(path, rng))
        texts += pd.Series(found).sample(min(len(found), max_documents), random_state=seed).tolist()
        print(f"{path.name}: {min(len(found), max_documents):,} of {len(found):,} documents")
    texts = [texts[i] for i in rng.permutation(len(texts))]
    tokenizer = train_tokenizer(texts, vocab_size)
    rows = pack(texts, tokenizer, length)
    held_out = max(1, min(64, len(rows) // 10))
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(tokenizer), **ids, **SIZES))
    print(f"{rows.numel():,} tokens, {model.num_parameters():,} parameters")
    if not torch.cuda.is_available():
        # Fused attention is slow backwards in bfloat16 on processors.
        model.set_attn_implementation("eager")
    arguments = TrainingArguments(
        output_dir=str(output_dir / "checkpoints"),
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=num_steps // 20,
        weight_decay=0.1,
        adam_beta2=0.95,
        bf16=supports_bf16(),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=max(1, num_steps // 4),
        logging_steps=max(1, num_steps // 40),
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=lambda batch: dict.fromkeys(("input_ids", "labels"), torch.stack([row for (row,) in batch])),
        train_dataset=TensorDataset(rows[held_out:]),
        eval_dataset=TensorDataset(rows[:held_out]),
    )
    trainer.train()
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    print(f"saved in {output_dir}")


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
