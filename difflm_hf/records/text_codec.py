"""The text codec: a record as it is, for texts and code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from .codec import special_ids
from .document_codec import DocumentCodec
from .schema import RecordSchema


class TextCodec(DocumentCodec):
    """
    For tables of one column of texts, each of which is a record as it stands.

    Args:
        schema (`RecordSchema`): The field.
    """

    name = "text"

    def __init__(self, schema: RecordSchema):
        super().__init__(schema)
        (self.field,) = schema

    def encode(self, data: Any) -> list[str]:
        """
        The text of each record of `data` (anything that [`RecordSchema.conform`] takes).

        Raises:
            `ValueError`: for a value that is no text, or null, naming column and row.
        """
        return self.schema.conform(data)[self.field.name].tolist()

    def decode(self, texts: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Takes texts for records.

        Args:
            texts (`list[str]`): What a causal LM wrote.

        Returns:
            The valid records as a `pandas.DataFrame`, and a mask of shape `(len(texts),)` that says which texts they
            are: those that are not longer than any text may be.
        """
        column = pd.Series(texts, dtype=object)
        valid = self.field.allows(column)
        null = np.zeros(valid.sum(), bool)
        return pd.DataFrame({self.field.name: self.field.to_series(column[valid].to_numpy(), null)}), valid

    def to_records(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        # A text that has not come to its end is cut off, though it does not show.
        ended = (input_ids[:, 1:] == special_ids(tokenizer)[1]).any(1)
        table, valid = super().to_records(input_ids[ended], tokenizer)
        ended[ended] = valid
        return table, ended
