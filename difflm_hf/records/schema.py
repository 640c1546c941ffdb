"""What a record may hold: one `Field` per column, gathered in a `RecordSchema`."""

from __future__ import annotations

import json
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Features
from jsonschema.exceptions import best_match
from pandas.api import types as pd_types

from .nested import (
    REFERENCE,
    infer_json_schema,
    inferred_names,
    is_json,
    is_nested,
    is_valid,
    make_validator,
    names_of,
    to_json,
    to_plain,
    validator_of,
)
from .readers import OPTIONAL, read_table


FieldType = Literal["integer", "number", "category", "boolean", "datetime", "text", "json", "null"]

# What `pandas.api.types.infer_dtype` calls the types that a field may have.
KINDS: dict[str, FieldType] = {
    "boolean": "boolean",
    "integer": "integer",
    "floating": "number",
    "mixed-integer-float": "number",
    "datetime64": "datetime",
    "string": "text",
}
# Of columns whose dtype says nothing.
ARROW_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "datetime": pa.string(),
    "text": pa.string(),
    "json": pa.json_(),
    "null": pa.null(),
}
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
ISO_FORMAT = "%Y-%m-%dT%H:%M:%S"
DIGITS = {  # of a calendar and a clock
    "%m": r"(0[1-9]|1[0-2])",
    "%d": r"(0[1-9]|[12]\d|3[01])",
    "%H": r"([01]\d|2[0-3])",
    "%M": r"[0-5]\d",
    "%S": r"[0-5]\d",
    "%y": r"\d{2}",
    "%f": r"\d{1,6}",
}
ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
# What JSON Schemas say of whole objects, beyond their properties
OF_OBJECTS = (
    "allOf",
    "anyOf",
    "const",
    "dependentRequired",
    "dependentSchemas",
    "enum",
    "if",
    "maxProperties",
    "minProperties",
    "not",
    "oneOf",
    "patternProperties",
    "propertyNames",
)
MAX_YEARS = 200  # that a pattern names
OFFSET_PATTERN = r"(Z|[+-](0\d|1[0-5]):[0-5]\d)"
OFFSET = re.compile(r":[\d.]+\s*[Zz+-]")  # after a time; a date has signs too
# The most that 64 bits hold.
WIDEST: dict[str, tuple[Any, Any]] = {
    "integer": (-(2**63), 2**63 - 1),
    "number": (-sys.float_info.max, sys.float_info.max),
    "datetime": (pd.Timestamp.min, pd.Timestamp.max),
}
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and UTF-8 cannot
# Of strings inside nested values that are an enumeration: distinct ones at most, and each so often at least
MAX_NESTED_CATEGORIES, MIN_NESTED_COUNT = 64, 10
MAX_DECIMALS = 15  # a float64 has at most 15 digits that decimal notation can rely on
MAX_EXACT_INTEGER = 2**53  # above it, neighbouring integers share one float64


@dataclass
class Field:
    """
    One field of a record.

    Args:
        name (`str`): Its column.
        type (`str`):
            `"integer"`, `"number"`, `"category"`, `"boolean"`, `"datetime"`, `"text"`, `"json"` for nested values, or
            `"null"` where nothing but nulls was seen.
        nullable (`bool`, defaults to `False`): Whether it may be null.
        optional (`bool`, defaults to `False`):
            Whether JSON records may lack it. In tables it is then null, and a null is written by leaving it out.
        dtype (`str`, defaults to `"object"`): The pandas dtype of the column, which generated tables have too.
        categories (`list`, *optional*): The values of a category, in order.
        ordered (`bool`, *optional*): Whether a column of dtype `category` is ordered.
        minimum, maximum (`int`, `float` or `str`, *optional*):
            Bounds of an integer, number or datetime (ISO 8601 for the last), both inclusive.
        decimals (`int`, *optional*):
            Digits after the decimal point of a number, which do not tell -0.0 from 0.0; `None` for those of the data,
            and, where these have no short decimal form, for floats that are kept bit by bit.
        format (`str`, *optional*): `strftime` format of datetimes that came as strings.
        max_length (`int`, *optional*): Characters in the longest text.
        rarest (`int`, *optional*):
            Records of the rarest category in the training data; 0 if it does not occur there. Of nested values, those
            of the rarest key or string that the JSON Schema names; `None` where it was not inferred.
        json_schema (`dict`, *optional*): JSON Schema (draft 2020-12) of nested values, with all that it refers to.
    """

    name: str
    type: FieldType
    nullable: bool = False
    optional: bool = False
    dtype: str = "object"
    categories: list | None = None
    ordered: bool | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    decimals: int | None = None
    format: str | None = None
    max_length: int | None = None
    rarest: int | None = None
    json_schema: dict[str, Any] | None = None

    def __post_init__(self):
        self.nullable |= self.optional
        if self.type not in get_args(FieldType):
            raise ValueError(f"field {self.name!r}: type {self.type!r} is not one of {', '.join(get_args(FieldType))}")
        if self.type == "category" and not self.categories:
            raise ValueError(f"field {self.name!r} is a category; give its categories")
        if self.type == "json":
            if self.json_schema is None:
                raise ValueError(f"field {self.name!r} is of nested values; give its json_schema")
            make_validator(self.json_schema)

    @property
    def is_numeric(self) -> bool:
        """Whether its values have an order: numbers and datetimes."""
        return self.type in ("integer", "number", "datetime")

    @property
    def discloses_values(self) -> bool:
        """Whether it names what stands in the data, and not just what its author wrote."""
        return self.type == "category" or (self.type == "json" and self.rarest is not None)

    @property
    def time_zone(self) -> Any:
        """The time zone of datetimes, if they have one."""
        return getattr(pd_types.pandas_dtype(self.dtype), "tz", None)

    @property
    def bounds(self) -> tuple[Any, Any]:
        """`minimum` and `maximum` as [`Field.to_numpy`] has values; where not given, those of 64 bits."""
        given = (self.minimum, self.maximum)
        bounds = tuple(widest if bound is None else bound for widest, bound in zip(WIDEST[self.type], given))
        if self.type != "datetime":
            return bounds
        return tuple(pd.to_datetime(bound, utc=True).tz_localize(None).to_datetime64() for bound in bounds)

    @property
    def description(self) -> str:
        """What a value must be, in words."""
        if self.type == "null":
            return "null, as in all the data that the schema comes from"
        if self.type == "boolean":
            return "true or false"
        if self.type == "category":
            return f"one of its {len(self.categories)} categories"
        if self.type == "json":
            return "what its JSON Schema allows"
        if self.type == "text":
            limit = "" if self.max_length is None else f" of at most {self.max_length} characters"
            return f"a UTF-8 text{limit}"
        kind = "an integer" if self.type == "integer" else f"a {self.type}"
        if self.type == "datetime" and self.format is not None:
            kind += f" in the format {self.format!r}"
        elif self.type == "datetime":
            kind += " with a time zone" if self.time_zone else " without a time zone"
        minimum, maximum = map(pd.Timestamp, self.bounds) if self.type == "datetime" else self.bounds
        return f"{kind} between {minimum} and {maximum}"

    def check(self, column: pd.Series) -> None:
        """Raises a `ValueError` for the first value that this field does not allow, naming value, row and way out."""
        allowed = self.allows(column)
        if allowed.all():
            return
        row = allowed.argmin()
        if column.isna().iloc[row]:
            raise ValueError(f"null in row {row}; fill it, drop the record, or set nullable=True in the schema")
        value = column.tolist()[row]
        written, reason = repr(value) if self.type != "json" else reprlib.repr(value), ""
        if self.type == "json":
            reason = _what_is_wrong(self.json_schema, value)
        raise ValueError(
            f"{written} in row {row} is not {self.description}{reason}; drop the record, or change the schema"
        )

    def allows(self, column: pd.Series) -> np.ndarray:
        """Which values this field may have."""
        given = column.notna().to_numpy()
        values = column[given]
        allowed = np.full(len(column), self.nullable)
        if self.type == "null":
            allowed[given] = False
        elif self.type == "json":
            validator = validator_of(self.json_schema)
            allowed[given] = [is_json(value) and is_valid(validator, to_plain(value)) for value in values]
        elif self.type == "text":
            limit = np.inf if self.max_length is None else self.max_length
            allowed[given] = [is_text(value) and len(value) <= limit for value in values]
        elif self.is_numeric:
            numbers, exact = self._read(values)
            minimum, maximum = self.bounds
            allowed[given] = exact & (numbers >= minimum) & (numbers <= maximum)
        else:
            allowed[given] = self.index(values) >= 0
        return allowed

    def index(self, values: pd.Series) -> np.ndarray:
        """Positions of values among the categories, or among `[False, True]`; -1 for any other."""
        categories, values = [False, True] if self.type == "boolean" else self.categories, values.astype(object)
        positions = pd.Index(categories, dtype=object).get_indexer(values)
        # To Python, true equals 1. JSON tells them apart.
        is_boolean = np.array([isinstance(category, bool) for category in categories])
        alike = is_boolean[positions] == [isinstance(value, (bool, np.bool_)) for value in values]
        return np.where(alike, positions, -1)

    def names_in(self, column: pd.Series) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """
        What the schema names of values: categories, and the keys and strings of inferred nested values.

        Args:
            column (`pd.Series` of length `num_records`): Values that this field allows.

        Returns:
            The row and the position among the names, each once for a row, of shape `(num_found,)`, and the names.
        """
        given = column.notna().to_numpy()
        if self.type == "category":
            return given.nonzero()[0], self.index(column[given]), self.categories
        names = list(dict.fromkeys(inferred_names(self.json_schema)))
        found = [set(names_of(to_plain(v), self.json_schema)) if g else () for v, g in zip(column, given)]
        positions = pd.Index(names, dtype=object).get_indexer([name for row in found for name in sorted(row)])
        return np.repeat(np.arange(len(column)), [len(row) for row in found]), positions, names

    def to_numpy(self, values: pd.Series) -> np.ndarray:
        """
        The non-null values of an integer, number or datetime as int64, float64 or datetime64[ns] (in UTC).

        Raises:
            `ValueError`: for a value that is none of these, or not exactly.
        """
        numbers, exact = self._read(values)
        if not exact.all():
            value = values.tolist()[exact.argmin()]
            raise ValueError(
                f"{value!r} cannot be kept as {self.description}; convert the column, e.g. by astype(str)"
            )
        return numbers

    def _read(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Values as [`Field.to_numpy`] gives them, and which of them are exact."""
        if self.type == "datetime":
            return self._read_moments(values)
        if not pd_types.is_numeric_dtype(values.dtype):
            values = values.astype(object).where(np.array([isinstance(v, Real) for v in values], bool), np.nan)
        elif pd_types.is_float_dtype(values.dtype) and values.dtype.itemsize < 8:
            # The digits of the data: a float32 0.1 is 0.1, and not 0.10000000149011612.
            values = pd.Series(values.to_numpy(f"f{values.dtype.itemsize}").astype(str).astype(np.float64))
        exact = values.between(*WIDEST[self.type]).to_numpy(bool)
        inside = values.where(exact, 0)
        numbers = inside.to_numpy(np.int64 if self.type == "integer" else np.float64)
        return numbers, exact & (numbers == inside.to_numpy())

    def _read_moments(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        moments = pd.to_datetime(values, format=self.format or "ISO8601", errors="coerce", utc=True)
        moments = moments.dt.tz_localize(None)
        exact = moments.between(*WIDEST["datetime"])
        if self.format is not None:
            exact &= moments.dt.strftime(self.format) == values
        elif pd_types.is_datetime64_any_dtype(values.dtype):
            exact &= (values.dt.tz is None) == (self.time_zone is None)
        else:
            exact &= values.astype(str).str.contains(OFFSET) == (self.time_zone is not None)
        return moments.where(exact).dt.as_unit("ns").to_numpy(), exact.to_numpy(bool)

    def to_series(self, values: np.ndarray, null: np.ndarray) -> pd.Series:
        """
        A column of this field's dtype.

        Args:
            values (`np.ndarray` of shape `(num_records,)`): Any value where `null` is true; datetimes as datetime64.
            null (`np.ndarray` of shape `(num_records,)`, bool): Which records have none.
        """
        series = pd.Series(values)
        if self.dtype == "category" and self.type == "category":
            return pd.Series(pd.Categorical(series.mask(null), self.categories, ordered=bool(self.ordered)))
        if self.type == "datetime" and self.format is not None:
            series = series.dt.strftime(self.format)
        elif self.type == "datetime":
            series = series.dt.tz_localize("UTC").dt.tz_convert(self.time_zone)
        if null.any():
            series = series.astype(object).mask(null, None)
        return series.astype(self.dtype)

    def to_arrow(self) -> pa.Field:
        """The field with the Arrow type of its columns."""
        if self.dtype == "category" and self.type == "category":
            arrow_type = pa.array(pd.Categorical([], self.categories, ordered=bool(self.ordered))).type
        elif self.dtype != "object":
            arrow_type = pa.array(pd.Series([], dtype=self.dtype)).type
        elif self.type == "category":
            arrow_type = pa.array(self.categories).type
        else:
            arrow_type = ARROW_TYPES[self.type]
        return pa.field(self.name, arrow_type)

    def to_json_schema(self) -> dict[str, Any]:
        """The field as a JSON Schema (draft 2020-12)."""
        has_null = self.nullable and not self.optional
        if self.type == "json":
            lacks_null = has_null and not is_valid(validator_of(self.json_schema), None)
            return {"anyOf": [self.json_schema, {"type": "null"}]} if lacks_null else self.json_schema
        if self.type == "category":
            return {"enum": [*self.categories, None] if has_null else list(self.categories)}
        json_type = {"datetime": "string", "text": "string"}.get(self.type, self.type)
        schema: dict[str, Any] = {"type": [json_type, "null"] if has_null and json_type != "null" else json_type}
        # No "multipleOf": validators divide floats, and find that 0.3 is not a multiple of 0.1.
        if self.type in ("integer", "number"):
            schema |= {"minimum": self.minimum, "maximum": self.maximum}
        elif self.type == "datetime":
            schema["pattern"] = _datetime_pattern(self)
        elif self.type == "text":
            schema["maxLength"] = self.max_length
        return {key: value for key, value in schema.items() if value is not None}


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
        """The names of the fields, in their order."""
        return [f.name for f in self.fields]

    @property
    def is_of_documents(self) -> bool:
        """Whether records are texts or have nested values, and thus are no rows of a table."""
        return any(f.type == "json" for f in self) or all(f.type == "text" for f in self)

    @property
    def is_of_texts(self) -> bool:
        """Whether a record is one text, and nothing else."""
        return len(self) == 1 and self.fields[0].type == "text" and not self.fields[0].nullable

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
            `ValueError`: on a table with no rows or columns, names that are double or no strings, columns of mixed
                types, and infinite numbers. The message names the column and the way out.
        """
        table = read_table(data)
        check_columns(table, str(data) if isinstance(data, (str, Path)) else "the table")
        if unknown := set(categorical) - set(table.columns):
            raise ValueError(f"no column {sorted(unknown)[0]!r} to take as a category; columns: {list(table.columns)}")
        schema = cls()
        for name in table.columns:
            with _naming(name):
                f = _infer_field(name, table[name], name in categorical, max_categories)
                schema.fields.append(replace(f, optional=name in table.attrs.get(OPTIONAL, ())))
        return schema.fit(table)

    def fit(self, table: pd.DataFrame) -> RecordSchema:
        """
        A schema with what only data tell: the `rarest` of its fields, and the decimals of numbers without any.

        Args:
            table (`pandas.DataFrame`): The data, which conforms to this schema.
        """
        fields = list(self.fields)
        for i, f in enumerate(fields):
            values = table[f.name].dropna()
            if f.discloses_values:
                _, positions, names = f.names_in(table[f.name])
                rarest = np.bincount(positions, minlength=len(names)).min(initial=len(table))
                fields[i] = replace(f, rarest=int(rarest))
            elif f.type == "number" and f.decimals is None and len(values):
                fields[i] = replace(f, decimals=_decimals(f.to_numpy(values)))
        return RecordSchema(fields)

    def without_rare_categories(self, table: pd.DataFrame, min_count: int) -> tuple[RecordSchema, np.ndarray]:
        """
        A schema that names no category of fewer than `min_count` records, for data about people: a category of one is
        that one. So are a key and a string that an inferred JSON Schema names.

        Args:
            table (`pandas.DataFrame`): The data, which conforms to this schema.
            min_count (`int`): The fewest records of a category.

        Returns:
            The schema, and a mask of shape `(num_records,)` of the records that conform to it.

        Raises:
            `ValueError`: when that is fewer than half of the records. The message names the column.
        """
        found = {f.name: f.names_in(table[f.name]) for f in self if f.discloses_values}
        kept, counts = np.ones(len(table), bool), {}
        while True:
            # Without its records, a category of another column may have become rare.
            left, rare = kept.copy(), {}
            for name, (rows, positions, names) in found.items():
                counts[name] = np.bincount(positions[kept[rows]], minlength=len(names))
                rare[name] = np.zeros(len(table), bool)
                rare[name][rows[counts[name][positions] < min_count]] = True
                left &= ~rare[name]
            if 2 * left.sum() < len(table):
                name = max(rare, key=lambda name: rare[name].sum())
                raise ValueError(
                    f"column {name!r}: {rare[name].sum()} of {len(table)} records have categories of fewer than "
                    f"{min_count}; drop the column, merge its categories, or lower min_category_count"
                )
            if (left == kept).all():
                break
            kept = left
        schema, has_new_names = RecordSchema(list(self.fields)), False
        for name, count in counts.items():
            f, is_common = self[name], count >= min_count
            if f.type == "category" and is_common.any():
                common = [category for category, is_named in zip(f.categories, is_common) if is_named]
                schema[name] = replace(f, categories=common)
            elif f.type == "category":
                schema[name] = replace(f, type="null", categories=None, ordered=None, rarest=None)
            elif not is_common.all():
                inferred = RecordSchema.infer(table.loc[kept, [name]])[name]
                schema[name] = replace(inferred, nullable=f.nullable, optional=f.optional)
                has_new_names = True
        if has_new_names:  # what few enough keys had, once too many to be named, has names now
            schema, kept[kept] = schema.without_rare_categories(table[kept], min_count)
        return schema.fit(table[kept]), kept

    def conform(self, data: Any) -> pd.DataFrame:
        """
        The data as a table with exactly the columns of this schema, in its order.

        Raises:
            `ValueError`: when a column is missing or stands twice, or has a value that its field does not allow. The
                message names column, row and value.
        """
        table = read_table(data)
        lacking = [f.name for f in self if f.optional and f.name not in table]
        if 0 < len(lacking) < len(self):
            table = table.assign(**dict.fromkeys(lacking))
        for f in self:
            if (count := list(table.columns).count(f.name)) != 1:
                problem = "stands more than once" if count else "is missing"
                raise ValueError(f"column {f.name!r} {problem}; the schema has {self.names}")
            with _naming(f.name):
                f.check(table[f.name])
        return table[self.names]

    @classmethod
    def from_json_schema(cls, schema: dict[str, Any]) -> RecordSchema:
        """
        Takes over a JSON Schema.

        Args:
            schema (`dict`): The JSON Schema (draft 2020-12) of one record, which is an object.

        Raises:
            `ValueError`: when it is none, not of objects with named properties, or ties properties to each other.
        """
        make_validator(schema)
        schema = _with_itself_defined(schema)
        if isinstance(schema, dict) and schema.get("$ref", "").startswith(REFERENCE):  # of a model inside itself
            definitions = schema.get("$defs", {})
            schema = {**definitions.get(schema["$ref"].removeprefix(REFERENCE), {}), "$defs": definitions}
        is_object = isinstance(schema, dict) and schema.get("type", "object") == "object"
        if not is_object or not schema.get("properties"):
            raise ValueError("the JSON Schema is not of objects with `properties`, which become the fields; add them")
        if beyond := next((keyword for keyword in OF_OBJECTS if keyword in schema), None):
            raise ValueError(
                f"the JSON Schema has {beyond!r}, which no field can keep; remove it, or nest the record in a property"
            )
        required = schema.get("required", ())
        if unknown := sorted(set(required) - set(schema["properties"])):
            raise ValueError(f"the JSON Schema requires {unknown[0]!r}, which is not among its `properties`")
        fields = []
        for name, part in schema["properties"].items():
            with _naming(name):
                field_of_part = _field_of(name, part, schema.get("$defs", {}))
            fields.append(replace(field_of_part, optional=name not in required))
        return cls(fields)

    @classmethod
    def from_pydantic(cls, model: type) -> RecordSchema:
        """
        Takes over a pydantic model: its fields, under the names that JSON has for them.

        Args:
            model (`type[pydantic.BaseModel]`): The class.
        """
        return cls.from_json_schema(model.model_json_schema(mode="serialization"))

    def to_json_schema(self) -> dict[str, Any]:
        """The schema of one record as a JSON Schema (draft 2020-12)."""
        properties = {f.name: f.to_json_schema() for f in self.fields}
        definitions: dict[str, Any] = {}
        for f in self:
            for name, definition in (f.json_schema or {}).get("$defs", {}).items():
                if definitions.setdefault(name, definition) != definition:
                    raise ValueError(
                        f"column {f.name!r}: another field defines {name!r} otherwise; rename one in $defs"
                    )
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {name: _without_definitions(part) for name, part in properties.items()},
            "required": [f.name for f in self if not f.optional],
            "additionalProperties": False,
            **({"$defs": definitions} if definitions else {}),
        }

    def to_table(self, columns: dict[str, pd.Series]) -> pd.DataFrame:
        """A table of the fields' columns, which says what of them its records may lack."""
        table = pd.DataFrame(columns, columns=self.names)
        if optional := [f.name for f in self if f.optional]:
            table.attrs[OPTIONAL] = optional
        return table

    def to_record_batch(self, table: pd.DataFrame) -> pa.RecordBatch:
        """A table of this schema as Arrow has it, nested values as JSON."""
        nested = {f.name: table[f.name].map(to_json, na_action="ignore") for f in self if f.type == "json"}
        return pa.RecordBatch.from_pandas(table.assign(**nested), self.to_arrow(), preserve_index=False)

    def to_arrow(self) -> pa.Schema:
        """The Arrow schema of generated tables, the same for all of them."""
        return pa.schema([f.to_arrow() for f in self])

    def to_features(self) -> Features:
        """The features of a `datasets.Dataset` of generated records."""
        return Features.from_arrow_schema(self.to_arrow())

    def to_dict(self) -> list[dict[str, Any]]:
        """The fields as JSON values."""
        # JSON Schemas as text, since processors sort keys, and theirs have the order of the records'.
        return [
            {k: json.dumps(v) if k == "json_schema" else v for k, v in asdict(f).items() if v is not None}
            for f in self.fields
        ]

    @classmethod
    def from_dict(cls, fields: list[dict[str, Any]]) -> RecordSchema:
        """A schema of what [`RecordSchema.to_dict`] gave."""
        parsed = [{"json_schema": json.loads(f["json_schema"])} if "json_schema" in f else {} for f in fields]
        return cls([Field(**{**f, **nested}) for f, nested in zip(fields, parsed)])

    def save(self, path: str | Path) -> None:
        """Writes the schema as a JSON file that can be edited and read back by [`RecordSchema.load`]."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RecordSchema:
        """Reads a file of [`RecordSchema.save`]. Raises a `ValueError` for any other."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a record schema ({error})") from error


def _field_of(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Field:
    """A field of a type of its own where that says all that the JSON Schema does, else one of nested values."""
    schema = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    options = [part for part in schema.get("anyOf", [schema]) if part != {"type": "null"}]
    nullable = len(options) < len(schema.get("anyOf", [schema]))
    is_plain = len(options) == 1 and ("anyOf" not in schema or set(schema) <= {"anyOf", *ANNOTATIONS})
    part = {key: value for key, value in options[0].items() if key not in ANNOTATIONS} if is_plain else {}
    if isinstance(part.get("type"), list):
        types = [kind for kind in part["type"] if kind != "null"]
        nullable |= len(types) < len(part["type"])
        part = {**part, "type": types[0]} if len(types) == 1 else {}
    if "const" in part:
        part = {"enum": [part["const"]]} | {key: value for key, value in part.items() if key != "const"}
    keys = frozenset(part) - {"type"}
    kind = part.get("type")
    if keys == {"enum"}:
        nullable |= None in part["enum"]
        values = [value for value in part["enum"] if value is not None]
        if values and len({type(value) for value in values}) == 1 and not is_nested(values[0]):
            return Field(name, "category", nullable, categories=values)
    elif kind == "boolean" and not keys:
        return Field(name, "boolean", nullable)
    elif kind in ("integer", "number") and keys <= {"minimum", "maximum"}:
        return Field(name, kind, nullable, minimum=part.get("minimum"), maximum=part.get("maximum"))
    elif kind == "string" and keys <= {"maxLength"}:
        return Field(name, "text", nullable, max_length=part.get("maxLength"))
    elif kind == "null" and not keys:
        return Field(name, "null", nullable=True)
    whole = {**schema, **({"$defs": definitions} if definitions else {})}
    return Field(name, "json", nullable=is_valid(validator_of(whole), None), json_schema=whole)


def _with_itself_defined(schema: Any) -> Any:
    """A record's schema whose references to itself, which fields take elsewhere, are to a definition."""
    definitions = schema.get("$defs", {}) if isinstance(schema, dict) else {}
    name = "record"
    while name in definitions:
        name += "_"

    def renamed(part: Any) -> Any:
        if isinstance(part, list):
            return [renamed(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {k: REFERENCE + name if (k, v) == ("$ref", "#") else renamed(v) for k, v in part.items()}

    if (new := renamed(schema)) == schema:
        return schema
    itself = {key: value for key, value in new.items() if key not in ("$defs", "$id", "$schema", "$anchor")}
    return {**new, "$defs": {**new.get("$defs", {}), name: itself}}


def _without_definitions(schema: Any) -> Any:
    """A field's schema for a place inside a larger one, which has the definitions."""
    if "anyOf" in schema:
        schema = {**schema, "anyOf": [_without_definitions(option) for option in schema["anyOf"]]}
    return {key: value for key, value in schema.items() if key != "$defs"}


def check_columns(table: pd.DataFrame, source: str) -> None:
    """Raises a `ValueError` unless the table has rows, and columns with distinct, non-empty string names."""
    if table.shape[1] == 0:
        raise ValueError(f"{source} has no columns")
    if len(table) == 0:
        raise ValueError(f"{source} has no rows (columns: {list(table.columns)})")
    for name in table.columns:
        if not isinstance(name, str) or not name:
            raise ValueError(f"column name {name!r} is not a non-empty string; rename it, e.g. table.columns.map(str)")
    if not table.columns.is_unique:
        double = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"column name {double!r} stands more than once; rename or drop one of them")


def isoformat(moment: pd.Timestamp) -> str:
    """A moment as pandas can read it back."""
    # Local times before about 1900 have offsets with seconds, which pandas writes but does not read.
    has_seconds = moment.tz is not None and moment.utcoffset().total_seconds() % 60
    return (moment.tz_convert("UTC") if has_seconds else moment).isoformat()


def is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can hold."""
    return isinstance(value, str) and not SURROGATE.search(value)


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Puts the column's name before whatever is said about its values."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"column {column!r}: {error}") from error


def _what_is_wrong(schema: dict[str, Any], value: Any) -> str:
    """Where and why a JSON Schema refuses a value, if that can be said."""
    try:
        error = best_match(validator_of(schema).iter_errors(to_plain(value)))
    except (OverflowError, RecursionError):
        return ""
    if error is None:  # it is no JSON
        return ""
    message = error.message if len(error.message) <= 200 else f"{error.message[:80]} … {error.message[-100:]}"
    return f", at {error.json_path}: {message}"


def _infer_field(name: str, column: pd.Series, categorical: bool, max_categories: int) -> Field:
    values = column.dropna()
    f = Field(name, "null", nullable=len(values) < len(column), dtype=str(column.dtype))
    if isinstance(column.dtype, pd.CategoricalDtype) and len(categories := column.cat.categories):
        _kind_of(categories.to_series(), categorical=True)
        return replace(f, type="category", categories=categories.tolist(), ordered=column.cat.ordered or None)
    if len(values) == 0:
        return f
    if not categorical and any(map(is_nested, values)):
        json_schema = infer_json_schema(values.map(to_plain).tolist(), _infer_scalar)
        return replace(f, type="json", json_schema=json_schema, rarest=0)
    kind = _kind_of(values, categorical)
    if kind == "text" and not categorical and (format := _datetime_format(values)) is not None:
        kind, f.format = "datetime", format
    if kind == "text" or categorical:
        distinct = pd.Index([v.item() if isinstance(v, np.generic) else v for v in values.unique()])
        if categorical or (len(distinct) <= max_categories and 2 * len(distinct) <= len(values)):
            return replace(f, type="category", categories=sorted(distinct.tolist()))
        return replace(f, type="text", max_length=int(values.str.len().max()))
    f = replace(f, type=kind)
    if not f.is_numeric:
        return f
    numbers = f.to_numpy(values)
    bounds = numbers.min(), numbers.max()
    if kind == "datetime":
        f.minimum, f.maximum = (isoformat(pd.Timestamp(m, tz="UTC").tz_convert(f.time_zone)) for m in bounds)
    else:
        f.minimum, f.maximum = (bound.item() for bound in bounds)
        f.decimals = 0 if kind == "integer" else _decimals(numbers)
    return f


def _infer_scalar(values: list) -> dict[str, Any]:
    """The JSON Schema of scalars inside nested values. Strings are an enumeration when none of them is rare."""
    f = _infer_field("", pd.Series(values, dtype=object), False, MAX_NESTED_CATEGORIES)
    if f.type == "category" and min(Counter(values).values()) < MIN_NESTED_COUNT:
        f = Field("", "text", max_length=max(map(len, values)))
    return f.to_json_schema()


def _kind_of(values: pd.Series, categorical: bool = False) -> FieldType:
    """The type of non-null values; a `ValueError` where there is none, or none that `categorical` fields may have."""
    kind = KINDS.get(pd_types.infer_dtype(values))
    if kind is None or (categorical and kind == "datetime"):
        types = {type(v).__name__: v for v in values}
        examples = ", ".join(f"{t} ({str(v)[:40]!r})" for t, v in types.items())
        raise ValueError(f"mixed or unsupported types: {examples}; convert the column, e.g. by astype(str)")
    if kind == "number" and not np.isfinite(values.to_numpy(np.float64)).all():
        raise ValueError("an infinite number; replace it by a null or a finite number")
    if kind == "text" and not values.map(is_text).all():
        raise ValueError("half a character (a lone surrogate), which UTF-8 cannot hold; replace or drop it")
    return kind


def _datetime_format(values: pd.Series) -> str | None:
    """The first format in which every value reads and writes back to itself."""
    for format in DATETIME_FORMATS:
        f = Field("", "datetime", format=format)
        if re.match(_datetime_pattern(f), values.iloc[0]) and f._read(values)[1].all():
            return format
    return None


def _datetime_pattern(f: Field) -> str:
    """A regular expression of the field's datetimes as JSON has them."""
    moments = [pd.Timestamp(bound) for bound in (f.minimum, f.maximum) if bound]
    years = [(m.tz_convert(f.time_zone) if m.tz and f.time_zone else m).year for m in moments]
    is_short = len(years) == 2 and years[1] - years[0] < MAX_YEARS
    any_year = f"({'|'.join(f'{year:04}' for year in range(years[0], years[1] + 1))})" if is_short else r"\d{4}"
    parts = {"%Y": any_year} | DIGITS
    pattern = "".join(
        parts.get(part, ".+") if part.startswith("%") else re.escape(part)
        for part in re.split("(%[a-zA-Z])", f.format or ISO_FORMAT)
    )
    if f.format is None:
        pattern += r"(\.\d{1,9})?" + (OFFSET_PATTERN if f.time_zone else "")
    return f"^{pattern}$"


def _decimals(numbers: np.ndarray) -> int | None:
    """The fewest digits after the point that write every number exactly, or `None` if none do."""
    largest = np.abs(numbers).max()
    for decimals in range(MAX_DECIMALS + 1):
        if largest * 10.0**decimals >= MAX_EXACT_INTEGER:
            return None
        if np.array_equal(np.rint(numbers * 10.0**decimals) / 10.0**decimals, numbers):
            return decimals
    return None
