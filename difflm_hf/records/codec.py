"""What every codec can do: turn records into what a model reads and writes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from .grammar import JSONGrammar
from .rules import Combinations
from .schema import RecordSchema


class RecordCodec(ABC):
    """
    How records become token ids, and ids records.

    A codec knows the schema and the layout of records, and has no tokenizers of its own: those of the
    [`DiffLMProcessor`] are passed to it.

    Args:
        schema (`RecordSchema`): The fields.

    Attributes:
        name (`str`): What processors that are saved call the codec.
        has_fixed_layout (`bool`):
            Whether each position of a record has ids of its own, few enough for a small model from scratch.
        num_offsets (`int`): Numbers of a record that lie somewhere inside a step, where an *offset* says.
        levels (`list[dict]`, *optional*): Of records with lists, where their tokens stand, as configurations have it.
    """

    name: ClassVar[str]
    has_fixed_layout: ClassVar[bool] = False
    num_offsets: int = 0
    levels: list[dict[str, Any]] | None = None

    def __init__(self, schema: RecordSchema):
        self.schema = schema

    @abstractmethod
    def to_inputs(
        self,
        records: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        key_order: str = "schema",
        grammar: JSONGrammar | None = None,
    ) -> dict[str, np.ndarray]:
        """
        Encodes records.

        Args:
            records (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): The records.
            tokenizer (`PreTrainedTokenizerBase`): The decoder's tokenizer.
            encoder_tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
            max_length (`int`): Tokens that a record may take.
            key_order (`str`, defaults to `"schema"`): Of JSON objects, see [`DiffLMProcessor`].
            grammar ([`JSONGrammar`], *optional*): What `make_grammar` gave for `tokenizer`.

        Returns:
            The inputs of [`DiffLMModel`], as [`DiffLMProcessor.__call__`] says, each of shape `(num_records, ...)`.

        Raises:
            `ValueError`: for values outside the schema, and for records that are too long.
        """

    @abstractmethod
    def to_records(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Decodes records.

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Ids of the decoder, BOS included.
            tokenizer (`PreTrainedTokenizerBase`): The decoder's tokenizer.
            within_bin_offsets (`np.ndarray` of shape `(num_records, num_offsets)`, *optional*):
                As encoded, or floats in [0, 1) that say where in its step each number lies. Defaults to the middle.

        Returns:
            The valid records as a `pandas.DataFrame` with the columns and dtypes of the schema, and a `bool` mask of
            shape `(num_records,)` that says which they are.
        """

    @abstractmethod
    def to_texts(self, records: Any) -> list[str]:
        """One text for each record, as people and other programs read it."""

    @abstractmethod
    def too_long(
        self, records: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, key_order: str = "schema"
    ) -> np.ndarray:
        """Which records `to_inputs` refuses for their length, as a `bool` array of shape `(num_records,)`."""

    @abstractmethod
    def config_fields(self, max_length: int) -> dict[str, Any]:
        """The fields of [`DiffLMConfig`] that depend on how records are written."""

    def make_grammar(self, tokenizer: PreTrainedTokenizerBase) -> JSONGrammar | None:
        """What a record may look like in the decoder's ids; `None` where no grammar says it."""
        return None

    @property
    def ordered_ranges(self) -> list[tuple[int, int]]:
        """The ids `[start, end)` of tokens that stand in order of value, as those of numbers may."""
        return []

    @property
    def rarest(self) -> dict[str, int]:
        """
        Of each column, or combination of columns, whose values `to_dict` names one by one: the training records that
        have the rarest of them; 0 where that is not known.
        """
        rules = {" and ".join(r.names): r.rarest or 0 for r in self.schema.rules if isinstance(r, Combinations)}
        return {f.name: f.rarest or 0 for f in self.schema if f.discloses_values} | rules

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON values."""
        return {"name": self.name, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """A codec of what `to_dict` gave."""
        return cls(RecordSchema.from_dict(state["schema"]))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """BOS, EOS and padding ids; what the tokenizer lacks, EOS stands in for. Without EOS, a `ValueError`."""
    eos = tokenizer.eos_token_id
    if eos is None:
        name = type(tokenizer).__name__
        raise ValueError(f"{name} has no EOS token, which ends a record; set tokenizer.eos_token")
    bos, pad = (eos if i is None else i for i in (tokenizer.bos_token_id, tokenizer.pad_token_id))
    return bos, eos, pad
