"""Byte-level BPE made from the data, for decoders from scratch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


# Byte-level BPE never emits angle quotation marks, so no text contains one of these.
SPECIAL_TOKENS = PAD, BOS, NULL, EOS = "⟨pad⟩", "⟨s⟩", "⟨null⟩", "⟨/s⟩"
PAD_ID, BOS_ID, NULL_ID, EOS_ID = range(4)


def train_bpe(
    records: Sequence[Sequence[str]], vocab_size: int, min_count: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """
    Learns a byte-level BPE, which writes any Unicode string.

    Args:
        records (`Sequence[Sequence[str]]`): The texts of each record.
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

    def words(texts: Iterable[str]) -> set[str]:
        # Each once for a record: what is said often, but by one alone, is not common.
        return {text[i:j] for text in texts for _, (i, j) in splitter.pre_tokenize_str(text)}

    tokenizer.train_from_iterator((word for texts in records for word in sorted(words(texts))), trainer)
    vocab = tokenizer.get_vocab()
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    if min_count > 1:
        # The trainer counts pieces, of which a record may have many: "ha" in "hahaha", and in "ha" and "aha".
        longest = max(map(len, vocab))

        @lru_cache(maxsize=1 << 16)
        def pieces_in(word: str) -> set[str]:
            written = "".join(part for part, _ in splitter.pre_tokenize_str(word))
            spans = ((i, j) for i in range(len(written)) for j in range(i + 2, min(i + longest, len(written)) + 1))
            return {written[i:j] for i, j in spans if written[i:j] in vocab}

        counts = Counter(piece for texts in records for piece in set().union(*map(pieces_in, words(texts))))
        vocab = {piece: i for piece, i in vocab.items() if len(piece) == 1 or counts[piece] >= min_count}
        merges = [(left, right) for left, right in merges if left + right in vocab]
    return sorted(vocab, key=vocab.get), merges


def to_tokenizer(vocab: list[str], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A tokenizer of a vocabulary, the first four ids of which are the special ones."""
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="right"
    )
