"""Records to token ids and back."""

from __future__ import annotations

import copy
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import CommitInfo
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from .configuration_difflm import DiffLMConfig
from .hub.mixin import PushToHubMixin
from .records import CODECS, CompactCodec, JSONCodec, NestedCodec, RecordCodec, RecordSchema, TextCodec, read_table
from .records.bpe import SPECIAL_TOKENS, to_tokenizer, train_bpe
from .records.codec import special_ids
from .records.grammar import JSONGrammar


logger = logging.get_logger(__name__)

KEY_ORDERS = ("schema", "shuffled")
NESTED = ("auto", "rows", "json")
DOCUMENT_VOCAB_SIZE = 4096  # of the byte-level BPE of documents, for LMs from scratch

# Categories of fewer records are not published unless the user says so.
MIN_CATEGORY_COUNT = 10


class DiffLMProcessor(PushToHubMixin, ProcessorMixin):
    """
    A record codec and the tokenizers that go with it.

    With the compact codec, for tables and decoders from scratch, encoder and decoder share one small vocabulary. With
    the JSON codec and the text codec, for documents and pretrained decoders, records are texts, which each reads in
    its own vocabulary. Make one with [`DiffLMProcessor.from_records`].

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The decoder's tokenizer.
        encoder_tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        codec ([`RecordCodec`] or `dict`): The codec, or its `to_dict()`.
        max_length (`int`, defaults to 1024): Tokens that a record may take, BOS and EOS included.
        key_order (`str`, defaults to `"schema"`):
            With the JSON codec: keys in the order of the schema, or `"shuffled"`, for LMs that are to write them in
            any order. Generated records have that of the schema.
        min_text_count (`int`, *optional*):
            Records that each piece of the tokenizer's vocabulary was seen in, where that was made from the records.
        training_id (`str`, *optional*): What all components of one training carry.
        is_private (`bool`, defaults to `False`):
            Whether all that it knows of records comes from noisy counts, so that its files may be published.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        codec: RecordCodec | dict[str, Any],
        max_length: int = 1024,
        key_order: str = "schema",
        min_text_count: int | None = None,
        training_id: str | None = None,
        is_private: bool = False,
    ):
        super().__init__(tokenizer, encoder_tokenizer)
        if key_order not in KEY_ORDERS:
            raise ValueError(f"key_order={key_order!r} is not one of {', '.join(map(repr, KEY_ORDERS))}")
        self.codec = CODECS[codec["name"]].from_dict(codec) if isinstance(codec, dict) else codec
        self.max_length = max_length
        self.key_order = key_order
        self.min_text_count = min_text_count
        self.training_id = training_id
        self.is_private = is_private

    @classmethod
    def from_records(
        cls,
        data: Any,
        schema: RecordSchema | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        encoder_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 1024,
        min_token_count: int = 1,
        key_order: str = "schema",
        drop_overlong: bool = False,
        nested: str = "auto",
    ) -> DiffLMProcessor:
        """
        Fits a processor to data.

        Args:
            data (`pandas.DataFrame` or anything that [`RecordSchema.infer`] takes): The records.
            schema (`RecordSchema`, *optional*): Their schema; inferred when not given.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                A pretrained decoder's tokenizer: records are then written in it, as JSON, or as they are where each is
                one text. Without one, so are documents, in a byte-level BPE made from them, while rows of tables go
                through the compact codec.
            encoder_tokenizer (`PreTrainedTokenizerBase`, *optional*):
                A pretrained encoder's tokenizer, with `tokenizer`. Defaults to `tokenizer`.
            max_length (`int`, defaults to 1024):
                Tokens that a record may take; with the compact codec, that its texts may.
            min_token_count (`int`, defaults to 1):
                Records that a number or a piece of text must be seen in to get an id of its own in a vocabulary made
                from the data.
            key_order (`str`, defaults to `"schema"`): That of JSON records, see [`DiffLMProcessor`].
            drop_overlong (`bool`, defaults to `False`):
                Fit to the records that are not too long, rather than raise an error where one is.
                [`DiffLMProcessor.too_long`] says which are.
            nested (`str`, defaults to `"auto"`):
                How records with nested values become tokens without a pretrained LM: as `"rows"` inside rows, which
                takes a small part of the time, and asks that all in them be categories, numbers, dates, booleans and
                short texts; or as the text of their `"json"`. `"auto"` takes rows where records are such, their JSON
                Schema was inferred, and keys are not shuffled.

        Raises:
            `ValueError`: for values outside the schema, for records that are too long, and for `nested="rows"` where
                they are none. The message names the column.
        """
        if nested not in NESTED:
            raise ValueError(f"nested={nested!r} is not one of {', '.join(map(repr, NESTED))}")
        table = read_table(data)
        if schema is None:
            schema = RecordSchema.infer(table)
        elif len(schema):
            schema = schema.fit(schema.conform(table))
            for f in schema:
                f.check_dtype()
        else:
            raise ValueError("the schema has no fields; add one for each column")
        if tokenizer is None and not schema.is_of_documents:
            codec, tokenizer = CompactCodec.fit(
                schema,
                table,
                max_text_tokens=max_length,
                min_text_count=min_token_count,
                drop_overlong=drop_overlong,
                min_value_count=min_token_count,
            )
            return cls(tokenizer, tokenizer, codec, max_length, min_text_count=min_token_count)
        if tokenizer is None and is_of_rows(schema, table, nested, key_order):
            counts = {"min_value_count": min_token_count, "min_text_count": min_token_count}
            try:
                codec, tokenizer = NestedCodec.fit(schema, table, **counts)
                spelled = min_token_count if codec.tables.speller else None
                return cls(tokenizer, tokenizer, codec, max_length, min_text_count=spelled)
            except ValueError as error:
                if nested == "rows":
                    raise
                logger.info(f"records with lists are learnt as the text of their JSON: {error}")
        codec = TextCodec(schema) if schema.is_of_texts else JSONCodec(schema)
        if tokenizer is not None:
            return cls(tokenizer, encoder_tokenizer or tokenizer, codec, max_length, key_order)
        pieces, merges = train_bpe([[text] for text in codec.encode(table)], DOCUMENT_VOCAB_SIZE, min_token_count)
        tokenizer = to_tokenizer([*SPECIAL_TOKENS, *pieces], merges)
        return cls(tokenizer, tokenizer, codec, max_length, key_order, min_token_count)

    @property
    def schema(self) -> RecordSchema:
        """The schema of the records."""
        return self.codec.schema

    @property
    def num_offsets(self) -> int:
        """Numbers of a record that lie somewhere inside a step of the compact codec."""
        return self.codec.num_offsets

    def __call__(self, records: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """
        Encodes records.

        Args:
            records (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): The records.
            return_tensors (`str`, *optional*, defaults to `"pt"`): Framework of the tensors.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask`, both of shape `(num_records, sequence_length)`; with
            the compact codec, which leaves out a mask that masks nothing, also `within_bin_offsets`, of shape
            `(num_records, num_offsets)`; with the other codecs also `decoder_input_ids` and
            `decoder_attention_mask`; with the JSON codec also `labels`, of the same shape: the ids that the grammar
            leaves a choice of, and −100 for those that it forces. What there was to choose from,
            [`JSONGrammar.allowed`] says. There are no labels where keys are shuffled, which the grammar does not know.

        Raises:
            `ValueError`: for values outside the schema, and for records longer than `max_length`.
        """
        tokenizers = self.tokenizer, self.encoder_tokenizer
        inputs = self.codec.to_inputs(records, *tokenizers, self.max_length, self.key_order, self.grammar)
        return BatchFeature(inputs, tensor_type=return_tensors)

    def too_long(self, records: Any) -> np.ndarray:
        """
        Which records take more tokens than `max_length` allows, as a `bool` array of shape `(num_records,)`.

        Args:
            records (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): The records.
        """
        return self.codec.too_long(records, self.tokenizer, self.max_length, self.key_order)

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """BOS, EOS and padding ids of the decoder; what its tokenizer lacks, EOS stands in for."""
        return special_ids(self.tokenizer)

    @cached_property
    def grammar(self) -> JSONGrammar | None:
        """What a JSON record may look like; `None` with the compact codec, whose layout says it, and with texts."""
        return self.codec.make_grammar(self.tokenizer)

    def decode_records(
        self, input_ids: np.ndarray, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Decodes records.

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Ids of the decoder, BOS included.
            within_bin_offsets (`np.ndarray` of shape `(num_records, num_offsets)`, *optional*):
                With the compact codec: as encoded, or floats in [0, 1) that say where in its step each number lies.
                Defaults to the middle.

        Returns:
            The valid records as a `pandas.DataFrame`, and a mask of shape `(num_records,)` that says which they are.
            With the compact codec all are.
        """
        if within_bin_offsets is not None:
            within_bin_offsets = np.asarray(within_bin_offsets)
        return self.codec.to_records(np.asarray(input_ids), self.tokenizer, within_bin_offsets)

    def model_config(self, **kwargs) -> DiffLMConfig:
        """
        The configuration of a model from scratch whose vocabulary, layout and lengths fit this processor's records.

        Args:
            kwargs (*optional*): Fields of [`DiffLMConfig`].
        """
        return DiffLMConfig(**kwargs | self.codec.config_fields(self.max_length))

    def check_publishable(self, min_count: int = MIN_CATEGORY_COUNT) -> None:
        """
        Looks at what the processor's files would tell about single records of the training data.

        Args:
            min_count (`int`, defaults to 10):
                The fewest records of a category or a number that may be named, or of a key or a string of nested
                values.

        Raises:
            `ValueError`: when any of these are rarer, or the vocabulary of texts has pieces that are.
        """
        if self.is_private:
            return
        rare = {name: count for name, count in self.codec.rarest.items() if count < min_count}
        ways = (
            f"train with min_category_count={min_count} to leave them out, or, if the data may be known, pass "
            "allow_rare_categories=True (to the command --allow-rare-categories)"
        )
        if rare:
            name = min(rare, key=rare.get)
            least = rare[name] or "none, or an unknown number"
            raise ValueError(
                f"columns {list(rare)} have values of fewer than {min_count} records, which the processor's files "
                "name one by one (categories, keys and strings of nested values, numbers of columns that have few), "
                f"and so may give people away: the rarest of column {name!r} has {least}; {ways}"
            )
        texts = [f.name for f in self.schema if f.type in ("text", "json") and f.name not in self.schema.identifiers]
        if self.min_text_count is not None and texts and self.min_text_count < min_count:
            raise ValueError(
                f"column {texts[0]!r} is free text: the vocabulary learnt from it has pieces, perhaps "
                f"names, that fewer than {min_count} records have; {ways}"
            )

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """
        Saves to a folder.

        Args:
            save_directory (`str` or `Path`): The folder.
            push_to_hub (`bool`, defaults to `False`): Push, too, by `kwargs` of [`DiffLMProcessor.push_to_hub`].
            kwargs (*optional*): Else those of `ProcessorMixin.save_pretrained`.
        """
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).absolute().name), **kwargs)
            kwargs = {}
        return super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, *, allow_rare_categories: bool = False, **kwargs) -> CommitInfo:
        """
        Saves to a repository of the Hub, as [`PushToHubMixin.push_to_hub`] says.

        Args:
            repo_id (`str`): The repository.
            allow_rare_categories (`bool`, defaults to `False`):
                Publish the names of all categories, all numbers of columns that have few, and all of the vocabulary
                of texts.
            kwargs (*optional*): Those of [`PushToHubMixin.push_to_hub`].

        Raises:
            `ValueError`: as [`DiffLMProcessor.check_publishable`] says, unless `allow_rare_categories`.
        """
        if not allow_rare_categories:
            self.check_publishable()
        return super().push_to_hub(repo_id, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # A grammar can be neither copied nor sent to another process, and is soon made again.
        return {name: value for name, value in self.__dict__.items() if name != "grammar"}

    def to_dict(self) -> dict[str, Any]:
        plain = copy.copy(self)
        for name in ("codec", "grammar"):
            plain.__dict__.pop(name, None)
        return {**ProcessorMixin.to_dict(plain), "codec": self.codec.to_dict()}


AutoProcessor.register(DiffLMConfig, DiffLMProcessor)


def is_of_rows(schema: RecordSchema, table: pd.DataFrame, nested: str, key_order: str) -> bool:
    """Whether records with nested values are learnt as rows inside rows, see [`DiffLMProcessor.from_records`]."""
    inferred = [f.rarest is not None for f in schema if f.type == "json"]
    if nested == "auto":  # a JSON Schema that was given may ask for more than rows can promise
        return bool(inferred) and all(inferred) and key_order == "schema" and NestedCodec.suits(schema, table)
    return nested == "rows" and bool(inferred)
