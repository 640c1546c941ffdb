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

from .configuration_difflm import DiffLMConfig
from .grammar import JSONGrammar
from .hub.upload import PushToHubMixin
from .records import CompactCodec, JSONCodec, RecordSchema, read_table


CODECS = {codec.name: codec for codec in (CompactCodec, JSONCodec)}


# Categories of fewer records are not published unless the user says so.
MIN_CATEGORY_COUNT = 10


class DiffLMProcessor(PushToHubMixin, ProcessorMixin):
    """
    A record codec and the tokenizers that go with it.

    With the compact codec, for decoders from scratch, encoder and decoder share one small vocabulary. With the JSON
    codec, for pretrained decoders, each reads records as JSON in its own vocabulary. Make one with
    [`DiffLMProcessor.from_records`].

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The decoder's tokenizer.
        encoder_tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        codec (`CompactCodec`, `JSONCodec` or `dict`): The codec, or its `to_dict()`.
        max_length (`int`, defaults to 1024): Tokens that a JSON record may take.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        codec: CompactCodec | JSONCodec | dict[str, Any],
        max_length: int = 1024,
    ):
        super().__init__(tokenizer, encoder_tokenizer)
        self.codec = CODECS[codec["name"]].from_dict(codec) if isinstance(codec, dict) else codec
        self.max_length = max_length

    @classmethod
    def from_records(
        cls,
        data: Any,
        schema: RecordSchema | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        encoder_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 1024,
        min_text_count: int = 1,
    ) -> DiffLMProcessor:
        """
        Fits a processor to data.

        Args:
            data (`pandas.DataFrame` or anything that [`RecordSchema.infer`] takes): The records.
            schema (`RecordSchema`, *optional*): Their schema; inferred when not given.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                A pretrained decoder's tokenizer: records are then written as JSON in it. Without one, the compact
                codec makes its own.
            encoder_tokenizer (`PreTrainedTokenizerBase`, *optional*):
                A pretrained encoder's tokenizer, with `tokenizer`. Defaults to `tokenizer`.
            max_length (`int`, defaults to 1024): Tokens that a record's texts may take, or a whole JSON record.
            min_text_count (`int`, defaults to 1):
                Records that a piece of text must be seen in to get an id in the compact codec's vocabulary.
        """
        table = read_table(data)
        schema = RecordSchema.infer(table) if schema is None else schema.count_categories(schema.conform(table))
        if tokenizer is not None:
            return cls(tokenizer, encoder_tokenizer or tokenizer, JSONCodec(schema), max_length)
        codec, tokenizer = CompactCodec.fit(schema, table, max_text_tokens=max_length, min_text_count=min_text_count)
        return cls(tokenizer, tokenizer, codec, max_length)

    @property
    def schema(self) -> RecordSchema:
        return self.codec.schema

    @property
    def is_compact(self) -> bool:
        return isinstance(self.codec, CompactCodec)

    @property
    def num_remainders(self) -> int:
        """Numbers of a record that lie somewhere inside a step of the compact codec."""
        return len(self.codec.binned) if self.is_compact else 0

    def __call__(self, records: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """
        Encodes records.

        Args:
            records (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): The records.
            return_tensors (`str`, *optional*, defaults to `"pt"`): Framework of the tensors.

        Returns:
            `BatchFeature` with `input_ids` and, where there is padding, `attention_mask`, both of shape
            `(num_records, sequence_length)`; with the compact codec also `remainders`, of shape
            `(num_records, num_remainders)`; with the JSON codec also `decoder_input_ids` and
            `decoder_attention_mask`.

        Raises:
            `ValueError`: for values outside the schema, and for records longer than `max_length`.
        """
        if self.is_compact:
            input_ids, remainders = self.codec.encode(records, self.tokenizer)
            data = {"input_ids": input_ids, "remainders": remainders.view(np.int64)}
            if not (mask := input_ids != self.tokenizer.pad_token_id).all():
                data["attention_mask"] = mask.astype(np.int64)
            return BatchFeature(data, tensor_type=return_tensors)
        texts = self.codec.encode(records)
        encoder = self.encoder_tokenizer(texts, add_special_tokens=True)["input_ids"]
        decoder = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        bos, eos, _ = self.special_ids
        decoder = [[bos, *ids, eos] for ids in decoder]
        longest = max(range(len(texts)), key=lambda i: len(decoder[i]))
        if len(decoder[longest]) > self.max_length:
            raise ValueError(
                f"record {longest} takes {len(decoder[longest])} tokens and max_length is {self.max_length}; "
                f"shorten or drop it, or raise max_length: {texts[longest][:80]!r}..."
            )
        encoder_pad = self.encoder_tokenizer.pad_token_id
        data = _pad(encoder, encoder_pad if encoder_pad is not None else 0, "")
        return BatchFeature({**data, **_pad(decoder, self.special_ids[2], "decoder_")}, tensor_type=return_tensors)

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """BOS, EOS and padding ids of the decoder; what its tokenizer lacks, EOS stands in for."""
        t = self.tokenizer
        eos = t.eos_token_id
        if eos is None:
            raise ValueError(f"{type(t).__name__} has no EOS token, which ends a record; set tokenizer.eos_token")
        return tuple(i if i is not None else eos for i in (t.bos_token_id, eos, t.pad_token_id))

    @cached_property
    def grammar(self) -> JSONGrammar | None:
        """What a JSON record may look like; `None` with the compact codec, whose layout says it."""
        if self.is_compact:
            return None
        return JSONGrammar(self.codec.grammar_schema(), self.tokenizer, self.special_ids[1])

    def decode_records(
        self, input_ids: np.ndarray, remainders: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Decodes records.

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Ids of the decoder, BOS included.
            remainders (`np.ndarray` of shape `(num_records, num_remainders)`, *optional*):
                With the compact codec: as encoded, or floats in [0, 1) that say where in its step each number lies.
                Defaults to the middle.

        Returns:
            The valid records as a `pandas.DataFrame`, and a mask of shape `(num_records,)` that says which they are.
            With the compact codec all are.
        """
        input_ids = np.asarray(input_ids)
        if self.is_compact:
            if remainders is None:
                remainders = np.full((len(input_ids), self.num_remainders), 0.5)
            remainders = np.asarray(remainders)
            if remainders.dtype == np.int64:
                remainders = remainders.view(np.uint64)
            return self.codec.decode(input_ids, self.tokenizer, remainders), np.ones(len(input_ids), bool)
        return self.codec.decode(self.tokenizer.batch_decode(input_ids, skip_special_tokens=True))

    def model_config(self, **kwargs) -> DiffLMConfig:
        """
        The configuration of a model from scratch whose vocabulary, layout and lengths fit this processor's records.

        Args:
            kwargs (*optional*): Fields of [`DiffLMConfig`].
        """
        if self.is_compact:
            kwargs |= {
                "position_ranges": self.codec.position_ranges,
                "num_texts": len(self.codec.texts),
                "max_record_length": self.codec.max_length,
            }
        else:
            kwargs |= {"max_record_length": self.max_length}
        return DiffLMConfig(**kwargs)

    def check_publishable(self, min_count: int = MIN_CATEGORY_COUNT) -> None:
        """
        Looks at what the processor's files would tell about single records of the training data.

        Args:
            min_count (`int`, defaults to 10): The fewest records of a category that may be named.

        Raises:
            `ValueError`: when categories are rarer, or the vocabulary of texts has pieces that are.
        """
        rare = {f.name: f.rarest or 0 for f in self.schema if f.type == "category" and (f.rarest or 0) < min_count}
        ways = (
            f"train with min_category_count={min_count} to leave them out, or, if the data may be known, pass "
            "allow_rare_categories=True (to the command --allow-rare-categories)"
        )
        if rare:
            name = min(rare, key=rare.get)
            raise ValueError(
                f"the schema names all categories, and so may give people away: the rarest of column {name!r} has "
                f"{rare[name]}, and columns with categories of fewer than {min_count} records are {list(rare)}; {ways}"
            )
        if self.is_compact and self.codec.texts and self.codec.min_text_count < min_count:
            raise ValueError(
                f"column {self.codec.texts[0].name!r} is free text: the vocabulary learnt from it has pieces, perhaps "
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
                Publish the names of all categories, and all of the vocabulary of texts.
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


def _pad(rows: list[list[int]], pad_id: int, prefix: str) -> dict[str, np.ndarray]:
    length = max(map(len, rows))
    ids = np.array([row + [pad_id] * (length - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}


AutoProcessor.register(DiffLMConfig, DiffLMProcessor)
