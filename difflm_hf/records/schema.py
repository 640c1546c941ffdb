"""What a record may hold: one `Field` per column, gathered in a `RecordSchema`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types as pd_types

from .table import read_table


FieldType = Literal["integer", "number", "category", "boolean", "datetime", "text", "null"]

# Strings in one of these formats are dates or times; each writes back exactly what it read.
DATETIME_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%H:%M:%S",
    "%H:%M",
)
MAX_DECIMALS = 15  # a float64 has at most 15 digits that decimal notation can rely on
MAX_EXACT_INTEGER = 2**53  # above it, neighbouring integers share one float64


@dataclass
class Field:
    """
    One field of a record.

    Args:
        name (`str`): Its column.
        type (`str`):
            `"integer"`, `"number"`, `"category"`, `"boolean"`, `"datetime"`, `"text"`, or `"null"` where nothing but
            nulls was seen.
        nullable (`bool`, defaults to `False`): Whether it may be null.
        dtype (`str`, defaults to `"object"`): The pandas dtype of the column, which generated tables have too.
        categories (`list`, *optional*): The values of a category, in order.
        minimum, maximum (`int`, `float` or `str`, *optional*):
            Bounds of an integer, number or datetime (ISO 8601 for the last), both inclusive.
        decimals (`int`, *optional*):
            Digits after the decimal point of a number; `None` for floats that have no short decimal form, which are
            kept bit by bit.
        format (`str`, *optional*): `strftime` format of datetimes that came as strings.
        max_length (`int`, *optional*): Characters in the longest text.
    """

    name: str
    type: FieldType
    nullable: bool = False
    dtype: str = "object"
    categories: list | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    decimals: int | None = None
    format: str | None = None
    max_length: int | None = None

    @property
    def is_numeric(self) -> bool:
        return self.type in ("integer", "number", "datetime")

    def to_series(self, values: np.ndarray, null: np.ndarray) -> pd.Series:
        """
        A column of this field's dtype.

        Args:
            values (`np.ndarray` of shape `(num_records,)`): Any value where `null` is true; datetimes as datetime64.
            null (`np.ndarray` of shape `(num_records,)`, bool): Which records have none.
        """
        series = pd.Series(values)
        if self.type == "datetime" and self.format is not None:
            series = series.dt.strftime(self.format)
        elif self.type == "datetime":
            zone = getattr(pd.api.types.pandas_dtype(self.dtype), "tz", None)
            series = series.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else series
        elif self.type == "category" and self.dtype == "category":
            return pd.Series(pd.Categorical(series.mask(null), categories=self.categories))
        if null.any():
            series = series.astype(object).mask(null, None)
        return series.astype(self.dtype)

    def to_json_schema(self) -> dict[str, Any]:
        """The field as a JSON Schema (draft 2020-12)."""
        schema: dict[str, Any] = {}
        if self.type == "category":
            schema["enum"] = [*self.categories, None] if self.nullable else list(self.categories)
            return schema
        json_type = {"datetime": "string", "text": "string"}.get(self.type, self.type)
        schema["type"] = [json_type, "null"] if self.nullable and json_type != "null" else json_type
        if self.type in ("integer", "number"):
            schema |= {"minimum": self.minimum, "maximum": self.maximum}
            if self.decimals:
                schema["multipleOf"] = 10**-self.decimals
        elif self.type == "datetime" and self.format in (None, "%Y-%m-%dT%H:%M:%S"):
            schema["format"] = "date-time"
        elif self.type == "datetime" and self.format == "%Y-%m-%d":
            schema["format"] = "date"
        elif self.type == "text":
            schema["maxLength"] = self.max_length
        return schema


@dataclass
class RecordSchema:
    """
    The fields of a record, in order.

    Infer it from data, look at it, edit it (`schema["age"] = replace(schema["age"], maximum=99)`), and pass it to
    [`DiffLMProcessor`] or [`train`].

    Args:
        fields (`list[Field]`): The fields.

    Example:

    ```python
    >>> schema = RecordSchema.infer("train.csv")
    >>> schema["age"].type
    'integer'
    >>> schema.to_json_schema()["properties"]["age"]
    {'type': 'integer', 'minimum': 17, 'maximum': 90}
    ```
    """

    fields: list[Field] = field(default_factory=list)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, name: str) -> Field:
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"no field {name!r}; the fields are {self.names}")

    def __setitem__(self, name: str, value: Field) -> None:
        self.fields[self.fields.index(self[name])] = value

    @property
    def names(self) -> list[str]:
        return [f.name for f in self.fields]

    @classmethod
    def infer(cls, data: Any, categorical: Sequence[str] = (), max_categories: int = 512) -> RecordSchema:
        """
        Reads the schema off data.

        Args:
            data (`pandas.DataFrame`, `datasets.Dataset`, `list[dict]`, `str` or `Path`):
                A table, or the path of a CSV, Parquet, JSON or JSON-lines file.
            categorical (`Sequence[str]`, defaults to none):
                Columns to take as categories whatever their values look like, such as codes and identifiers.
            max_categories (`int`, defaults to 512):
                Strings with more distinct values than this, or with more than one for every two records, are text.

        Raises:
            `ValueError`: on a table with no rows or columns, names that are double or no strings, columns of mixed or
                nested types, and infinite numbers. The message names the column and the way out.
        """
        table = read_table(data)
        check_columns(table)
        if unknown := set(categorical) - set(table.columns):
            raise ValueError(f"no column {sorted(unknown)[0]!r} to take as a category; columns: {list(table.columns)}")
        return cls([_infer_field(name, table[name], name in categorical, max_categories) for name in table.columns])

    def conform(self, data: Any) -> pd.DataFrame:
        """
        The data as a table with exactly the columns of this schema, in its order.

        Raises:
            `ValueError`: when a column is missing.
        """
        table = read_table(data)
        if missing := [name for name in self.names if name not in table.columns]:
            raise ValueError(f"column {missing[0]!r} is missing; the schema has {self.names}")
        return table[self.names]

    def to_json_schema(self) -> dict[str, Any]:
        """The schema of one record as a JSON Schema (draft 2020-12)."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {f.name: f.to_json_schema() for f in self.fields},
            "required": self.names,
            "additionalProperties": False,
        }

    def to_dict(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in asdict(f).items() if v is not None} for f in self.fields]

    @classmethod
    def from_dict(cls, fields: list[dict[str, Any]]) -> RecordSchema:
        return cls([Field(**f) for f in fields])

    def save(self, path: str | Path) -> None:
        """Writes the schema as a JSON file that can be edited and read back by [`RecordSchema.load`]."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RecordSchema:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def check_columns(table: pd.DataFrame) -> None:
    """Raises a `ValueError` unless the table has rows, and columns with distinct, non-empty string names."""
    if table.shape[1] == 0:
        raise ValueError("the table has no columns")
    if len(table) == 0:
        raise ValueError(f"the table has no rows (columns: {list(table.columns)})")
    for name in table.columns:
        if not isinstance(name, str) or not name:
            raise ValueError(f"column name {name!r} is not a non-empty string; rename it, e.g. table.columns.map(str)")
    if not table.columns.is_unique:
        double = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"column name {double!r} stands more than once; rename or drop one of them")


def _infer_field(name: str, column: pd.Series, categorical: bool, max_categories: int) -> Field:
    values = column.dropna()
    base = Field(name, "null", nullable=len(values) < len(column), dtype=str(column.dtype))
    if len(values) == 0:
        return base
    if isinstance(column.dtype, pd.CategoricalDtype):
        # The dtype is that of the categories; `pd.Categorical` itself is restored from them.
        used = values.cat.remove_unused_categories().cat.categories
        return replace(base, type="category", categories=used.tolist(), dtype="category")
    kind = _kind_of(name, values)
    if categorical:
        return replace(base, type="category", categories=sorted(values.unique().tolist()))
    if kind == "boolean":
        return replace(base, type="boolean")
    if kind == "integer":
        return replace(base, type="integer", minimum=int(values.min()), maximum=int(values.max()), decimals=0)
    if kind == "number":
        numbers = values.to_numpy(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(f"column {name!r} holds an infinite number; replace it by a null or a finite number")
        decimals = _decimals(numbers)
        return replace(
            base, type="number", minimum=float(numbers.min()), maximum=float(numbers.max()), decimals=decimals
        )
    if kind == "datetime":
        return replace(base, type="datetime", minimum=values.min().isoformat(), maximum=values.max().isoformat())
    if (fmt := _datetime_format(values)) is not None:
        moments = pd.to_datetime(values, format=fmt)
        return replace(
            base,
            type="datetime",
            minimum=moments.min().isoformat(),
            maximum=moments.max().isoformat(),
            format=fmt,
        )
    distinct = values.unique()
    if len(distinct) <= max_categories and 2 * len(distinct) <= len(values):
        return replace(base, type="category", categories=sorted(distinct.tolist()))
    return replace(base, type="text", max_length=int(values.str.len().max()))


def _kind_of(name: str, values: pd.Series) -> str:
    if pd_types.is_bool_dtype(values.dtype):
        return "boolean"
    if pd_types.is_integer_dtype(values.dtype):
        return "integer"
    if pd_types.is_float_dtype(values.dtype):
        return "number"
    if pd_types.is_datetime64_any_dtype(values.dtype):
        return "datetime"
    kind = pd_types.infer_dtype(values, skipna=True)
    if kind in ("string", "boolean", "integer"):
        return "text" if kind == "string" else kind
    if kind in ("floating", "mixed-integer-float", "decimal"):
        return "number"
    types = {t: v for v in values for t in [type(v).__name__]}
    examples = ", ".join(f"{t} ({str(v)[:40]!r})" for t, v in types.items())
    if set(types) <= {"dict", "list", "ndarray"}:
        raise ValueError(f"column {name!r} holds nested values ({examples}); flatten it or write it as JSON text")
    raise ValueError(
        f"column {name!r} mixes or holds unsupported types: {examples}; convert it to one, e.g. astype(str)"
    )


def _datetime_format(values: pd.Series) -> str | None:
    """The first format in which every value reads and writes back to itself."""
    sample = values.iloc[:100]
    for fmt in DATETIME_FORMATS:
        for part in (sample, values):
            moments = pd.to_datetime(part, format=fmt, errors="coerce")
            if moments.isna().any() or not (moments.dt.strftime(fmt) == part).all():
                break
        else:
            return fmt
    return None


def _decimals(numbers: np.ndarray) -> int | None:
    """The fewest digits after the point that write every number exactly, or `None` if none do."""
    largest = np.abs(numbers).max()
    for decimals in range(MAX_DECIMALS + 1):
        if largest * 10.0**decimals >= MAX_EXACT_INTEGER:
            return None
        if np.array_equal(np.rint(numbers * 10.0**decimals) / 10.0**decimals, numbers):
            return decimals
    return None
