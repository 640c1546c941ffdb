"""The JSON codec: a record as one line of JSON, for language models with a vocabulary of their own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from .schema import Field, RecordSchema


class JSONCodec:
    """
    Turns tables into lines of JSON and back.

    Keys come in the order of the schema, numbers with the digits of the data.

    Args:
        schema (`RecordSchema`): The fields.
    """

    name = "json"

    def __init__(self, schema: RecordSchema):
        self.schema = schema

    def encode(self, data: Any) -> list[str]:
        """One JSON object for each record of `data` (anything that [`RecordSchema.conform`] takes)."""
        table = self.schema.conform(data)
        columns = [_to_json_values(f, table[f.name]) for f in self.schema]
        names = self.schema.names
        return [json.dumps(dict(zip(names, row)), ensure_ascii=False) for row in zip(*columns)]

    def decode(self, texts: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Parses records.

        Args:
            texts (`list[str]`): What a language model wrote.

        Returns:
            The valid records as a `pandas.DataFrame` with the columns and dtypes of the schema, and a mask of shape
            `(len(texts),)` that says which texts they came from. A text is valid when it parses and holds exactly the
            schema's fields, each of its type and inside its bounds.
        """
        records = [self._parse(text) for text in texts]
        valid = np.array([record is not None for record in records], bool)
        rows = [record for record in records if record is not None]
        columns = {f.name: _from_json_values(f, [row[f.name] for row in rows]) for f in self.schema}
        return pd.DataFrame(columns, columns=self.schema.names), valid

    def _parse(self, text: str) -> dict[str, Any] | None:
        try:
            record = json.loads(text)
        except ValueError:
            return None
        if not isinstance(record, dict) or set(record) != set(self.schema.names):
            return None
        return record if all(_is_valid(f, record[f.name]) for f in self.schema) else None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> JSONCodec:
        return cls(RecordSchema.from_dict(state["schema"]))


def _to_json_values(f: Field, column: pd.Series) -> list:
    null = column.isna()
    if f.type == "datetime" and f.format is None:
        column = column.map(lambda moment: moment.isoformat(), na_action="ignore")
    elif f.type == "integer":
        column = column.map(int, na_action="ignore")
    elif f.type == "number":
        # 10.0 stays a float: 0 decimals does not make it an integer.
        column = column.map(float, na_action="ignore")
    elif f.type == "boolean":
        column = column.map(bool, na_action="ignore")
    column = column.astype(object)
    return column.where(~null, None).tolist()


def _from_json_values(f: Field, values: list) -> pd.Series:
    null = np.array([value is None for value in values], bool)
    if f.type == "datetime":
        filled = [f.minimum if value is None else value for value in values]
        moments = pd.to_datetime(pd.Series(filled, dtype=object), format=f.format if f.format else "ISO8601", utc=True)
        return f.to_series(moments.dt.tz_localize(None).to_numpy("datetime64[ns]"), null)
    if f.is_numeric:
        kind = np.int64 if f.type == "integer" else np.float64
        return f.to_series(np.array([0 if value is None else value for value in values], kind), null)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return f.to_series(array, null)


def _is_valid(f: Field, value: Any) -> bool:
    if value is None:
        return f.nullable
    if f.type == "category":
        return value in f.categories
    if f.type == "boolean":
        return isinstance(value, bool)
    if f.type == "text":
        return isinstance(value, str)
    if f.type == "datetime":
        if not isinstance(value, str):
            return False
        try:
            moment = pd.to_datetime(value, format=f.format)
        except ValueError:
            return False
        return pd.Timestamp(f.minimum) <= moment <= pd.Timestamp(f.maximum)
    if isinstance(value, bool) or not isinstance(value, int if f.type == "integer" else (int, float)):
        return False
    return f.minimum <= value <= f.maximum
