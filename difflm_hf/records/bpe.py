"""Byte-level BPE made from the data, for decoders from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


# Byte-level BPE never emits angle quotation marks, so no text contains one of these.
SPECIAL_TOKENS = PAD, BOS, NULL, EOS = "⟨pad⟩", "⟨s⟩", "⟨null⟩", "⟨/s⟩"
PAD_ID, BOS_ID, NULL_ID, EOS_ID = range(4)


def train_bpe(
    records: Iterable[Iterable[str]], vocab_size: int, min_count: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """
    Learns a byte-level BPE, which writes any Unicode string.

    Args:
        records (`Iterable[Iterable[str]]`): The texts of each record.
        vocab_size (`int`): Ids at most.
        min_count (`int`): Records that a piece must be seen in to get an id. All others are spelled in smaller pieces.

    Returns:
        The vocabulary in order of id, and the merges.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def words() -> Iterator[str]:
        # Each once for a record: what is said often, but by one alone, is not common.
        for texts in records:
            yield from sorted({t[i:j] for t in texts for _, (i, j) in splitter.pre_tokenize_str(t)})

    tokenizer.train_from_iterator(words(), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.get), [tuple(merge) for merge in merges]


def to_tokenizer(vocab: list[str], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A tokenizer of a vocabulary, the first four ids of which are the special ones."""
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="right"
    )
