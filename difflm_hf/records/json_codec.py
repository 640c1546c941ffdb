"""The JSON codec: a record as one line of JSON, for language models with a vocabulary of their own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from .schema import Field, RecordSchema, isoformat


# The types that JSON's values may have in Python.
JSON_TYPES = {
    "integer": (int,),
    "number": (int, float),
    "category": (str, int, float, bool),
    "boolean": (bool,),
    "datetime": (str,),
    "text": (str,),
    "null": (),
}


MAX_GRAMMAR_INTEGER = 2**62  # what llguidance counts up to
# Numbers that Python writes without an exponent: of no more decimals, or of smaller size
MAX_PLAIN_DECIMALS, MAX_PLAIN_NUMBER = 4, 1e16


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
        """
        One JSON object for each record of `data` (anything that [`RecordSchema.conform`] takes).

        Raises:
            `ValueError`: for a value outside the schema, naming column and value.
        """
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
        parsed = [record for record in records if record is not None]
        columns = {f.name: pd.Series([record[f.name] for record in parsed], dtype=object) for f in self.schema}
        allowed = np.all([f.allows(columns[f.name]) for f in self.schema], axis=0)
        valid[valid] = allowed
        columns = {f.name: _from_json_values(f, columns[f.name][allowed]) for f in self.schema}
        return pd.DataFrame(columns, columns=self.schema.names), valid

    def grammar_schema(self) -> dict[str, Any]:
        """
        The JSON Schema of records as `encode` writes them, for [`JSONGrammar`].

        It knows the digits of numbers. Bounds that grammars cannot count up to are left out; `decode` has them.
        """
        schema = self.schema.to_json_schema()
        for f in self.schema:
            field = schema["properties"][f.name]
            if f.type == "integer":
                for bound in ("minimum", "maximum"):
                    if abs(field.get(bound, 0)) > MAX_GRAMMAR_INTEGER:
                        del field[bound]
            elif f.type == "number":
                schema["properties"][f.name] = _number_grammar(f, field)
        return schema

    def _parse(self, text: str) -> dict[str, Any] | None:
        """A record of the right fields and JSON types, or `None`."""
        try:
            record = json.loads(text, parse_constant=_reject)
        except (ValueError, RecursionError):  # the latter from "[[[[[..."
            return None
        if not isinstance(record, dict) or set(record) != set(self.schema.names):
            return None
        values = ((f, record[f.name]) for f in self.schema)
        return record if all(value is None or type(value) in JSON_TYPES[f.type] for f, value in values) else None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> JSONCodec:
        return cls(RecordSchema.from_dict(state["schema"]))


def _number_grammar(f: Field, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a field of numbers, by which llguidance lets all of them through as Python writes them."""
    ends = [end for end in (f.minimum, f.maximum) if end is not None]
    if f.decimals is None or f.decimals > MAX_PLAIN_DECIMALS or any(abs(end) >= MAX_PLAIN_NUMBER for end in ends):
        return {"type": schema["type"]}  # between bounds there are no exponents
    if len(ends) == 2 and ends[0] == ends[1]:
        return {"enum": ends[:1] + [None] * f.nullable}
    bounded = {**schema, "multipleOf": 10.0 ** -max(f.decimals, 1)}  # of no decimals, Python writes one: 3.0
    # llguidance refuses 0.1 and 0.12 below a maximum of 0.123, and above a minimum of -0.123.
    digits = [repr(float(end)) for end in (f.maximum, f.minimum) if end is not None]
    shorter = [float(d[:k]) for d in digits for k in range(d.index(".") + 2, len(d))]
    shorter = [x for x in shorter if (f.minimum is None or x >= f.minimum) and (f.maximum is None or x <= f.maximum)]
    return {"anyOf": [bounded, {"enum": shorter}]} if shorter else bounded


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _to_json_values(f: Field, column: pd.Series) -> list:
    null = column.isna().to_numpy()
    values = column[~null]
    if f.type in ("integer", "number"):
        values = f.to_numpy(values)
    elif f.type == "boolean":
        values = values.astype(bool)
    elif f.type == "datetime" and f.format is None:
        values = f.to_series(f.to_numpy(values), np.zeros(len(values), bool)).map(isoformat)
    filled = np.full(len(column), None)
    filled[~null] = np.array(values.tolist(), dtype=object)
    return filled.tolist()


def _from_json_values(f: Field, column: pd.Series) -> pd.Series:
    null = column.isna().to_numpy()
    values = f.to_numpy(column[~null]) if f.is_numeric else column[~null].to_numpy()
    filled = np.zeros(len(column), values.dtype)
    filled[~null] = values
    return f.to_series(filled, null)
