"""The base of codecs that write records as texts, which encoder and decoder read in vocabularies of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from .codec import RecordCodec, special_ids
from .grammar import JSONGrammar


class DocumentCodec(RecordCodec):
    """Records as texts, from BOS to EOS. What looks like a special token inside a text is text."""

    @abstractmethod
    def encode(self, data: Any) -> list[str]:
        """The text of each record of `data` (anything that [`RecordSchema.conform`] takes)."""

    @abstractmethod
    def decode(self, texts: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
        """The valid records among texts, and a `bool` mask of shape `(len(texts),)` that says which they are."""

    def encode_in(self, key_order: str, data: Any) -> list[str]:
        """As `encode`, with the keys of objects in an order."""
        return self.encode(data)

    def to_texts(self, records: Any) -> list[str]:
        return self.encode(records)

    def to_inputs(
        self,
        records: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        key_order: str = "schema",
        grammar: JSONGrammar | None = None,
    ) -> dict[str, np.ndarray]:
        texts = self.encode_in(key_order, records)
        t = encoder_tokenizer
        encoder = t(texts, add_special_tokens=True, split_special_tokens=True)["input_ids"]
        # Of an empty text, an encoder without tokens of its own would read nothing.
        ending = next((i for i in (t.sep_token_id, t.eos_token_id, t.pad_token_id) if i is not None), 0)
        encoder = [ids or [ending] for ids in encoder]
        decoder = _to_ids(texts, tokenizer)
        longest = max(range(len(texts)), key=lambda i: len(decoder[i]))
        if len(decoder[longest]) > max_length:
            num_longer = sum(len(ids) > max_length for ids in decoder)
            raise ValueError(
                f"record {longest} takes {len(decoder[longest])} tokens and max_length is {max_length}, which "
                f"{num_longer} of {len(texts)} records exceed; shorten or drop them (overlong='drop' in training), or "
                f"raise max_length: {texts[longest][:80]!r}..."
            )
        inputs = _pad(encoder, t.pad_token_id if t.pad_token_id is not None else 0, "")
        inputs |= _pad(decoder, special_ids(tokenizer)[2], "decoder_")
        if grammar is not None and key_order == "schema":  # no grammar knows the other orders
            inputs["labels"] = np.full_like(inputs["decoder_input_ids"], -100)
            for labels, ids in zip(inputs["labels"], decoder):
                labels[1 : len(ids)] = np.where(grammar.is_choice(ids[1:]), ids[1:], -100)
        return inputs

    def to_records(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        # No records are one empty text to `batch_decode`.
        return self.decode(tokenizer.batch_decode(input_ids, **options) if len(input_ids) else [])

    def too_long(
        self, records: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, key_order: str = "schema"
    ) -> np.ndarray:
        ids = _to_ids(self.encode_in(key_order, records), tokenizer)
        return np.array([len(row) > max_length for row in ids], bool)

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {"max_record_length": max_length}


def _to_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    bos, eos, _ = special_ids(tokenizer)
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[bos, *row, eos] for row in ids]


def _pad(rows: list[list[int]], pad_id: int, prefix: str) -> dict[str, np.ndarray]:
    length = max(map(len, rows))
    ids = np.array([row + [pad_id] * (length - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}
