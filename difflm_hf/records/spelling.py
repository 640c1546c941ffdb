"""Short texts as lists of pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from .bpe import train_bpe


REPLACEMENT = "\ufffd"  # what stands for bytes that are no character
NUM_PIECES = 512  # so that each is a category with a token of its own


class Speller:
    """
    Spells any text in pieces, by a byte-level BPE.

    Args:
        vocab (`list[str]`): The pieces.
        merges (`list[tuple[str, str]]`): What pieces are made of.
    """

    def __init__(self, vocab: list[str], merges: list[tuple[str, str]]):
        self.vocab, self.merges = vocab, [(left, right) for left, right in merges]
        self._tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocab)}, self.merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._decoder = decoders.ByteLevel()

    @classmethod
    def fit(cls, texts: Sequence[Sequence[str]], min_count: int) -> Speller:
        """
        Learns pieces.

        Args:
            texts (`Sequence[Sequence[str]]`): The texts of each record.
            min_count (`int`): Records that a piece of several bytes is in at least.
        """
        return cls(*train_bpe(texts, NUM_PIECES, min_count))

    def to_pieces(self, text: str) -> list[str]:
        """The pieces of a text."""
        return self._tokenizer.encode(text).tokens

    def to_text(self, pieces: list[str]) -> str:
        """The text of pieces, without bytes that are no character."""
        return self._decoder.decode(pieces).replace(REPLACEMENT, "")

    def to_dict(self) -> dict[str, Any]:
        """The speller as JSON values."""
        return {"vocab": self.vocab, "merges": [list(pair) for pair in self.merges]}
