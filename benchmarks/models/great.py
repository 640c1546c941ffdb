"""GReaT on a small GPT-2 with random weights, for as few steps as minutes on two cores allow."""

from __future__ import annotations

import pandas as pd
from be_great import GReaT
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .harness import Data, run


MAX_STEPS, BATCH_SIZE = 400, 32
MAX_TOKENS = 400  # of a row


def fit(data: Data) -> GReaT:
    folder = data.work_dir / "lm"
    texts = (
        data.train.head(5000).astype(str).apply(lambda row: ", ".join(f"{k} is {v}" for k, v in row.items()), axis=1)
    )
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=2000, special_tokens=["<|endoftext|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_positions=512,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(config).save_pretrained(folder)
    model = GReaT(
        str(folder),
        experiment_dir=str(data.work_dir / "checkpoints"),
        batch_size=BATCH_SIZE,
        epochs=1,
        max_steps=MAX_STEPS,
        learning_rate=1e-3,
        save_strategy="no",
    )
    model.fit(data.train)
    return model


def sample(model: GReaT, num_rows: int) -> pd.DataFrame:
    return model.sample(num_rows, device="cpu", max_length=MAX_TOKENS)


if __name__ == "__main__":
    run(fit, sample)
