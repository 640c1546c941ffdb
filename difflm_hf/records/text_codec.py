"""The text codec: a record as it is, for texts and code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .schema import RecordSchema


class TextCodec:
    """
    For tables of one column of texts, each of which is a record as it stands.

    Args:
        schema (`RecordSchema`): The field.
    """

    name = "text"

    def __init__(self, schema: RecordSchema):
        self.schema = schema
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
            texts (`list[str]`): What a language model wrote.

        Returns:
            The valid records as a `pandas.DataFrame`, and a mask of shape `(len(texts),)` that says which texts they
            are: those that are not longer than any text may be.
        """
        column = pd.Series(texts, dtype=object)
        valid = self.field.allows(column)
        null = np.zeros(valid.sum(), bool)
        return pd.DataFrame({self.field.name: self.field.to_series(column[valid].to_numpy(), null)}), valid

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON values."""
        return {"name": self.name, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TextCodec:
        """A codec of what `to_dict` gave."""
        return cls(RecordSchema.from_dict(state["schema"]))
