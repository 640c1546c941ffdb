"""What one column of records may hold."""

from __future__ import annotations

import json
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import InvalidOperation
from json import JSONDecodeError
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types as pd_types

from ..checks import short, shown
from .datetime_format import datetime_format
from .dtypes import arrow_type, distinct_of, dtype_of, plain, restore, shortest_digits, time_zone
from .nested import HALF, inferred_names, is_json, is_text, names_of, to_plain
from .number_format import number_format
from .plain_values import from_plain
from .validators import acceptor_of, make_validator, refusal_of


FieldType = Literal["integer", "number", "category", "boolean", "datetime", "text", "json", "null"]

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
OFFSET = re.compile(r":[\d.]+\s*[Zz+-]")  # after a time; a date has signs too
# The most that 64 bits hold.
WIDEST: dict[str, tuple[Any, Any]] = {
    "integer": (-(2**63), 2**63 - 1),
    "number": (-sys.float_info.max, sys.float_info.max),
    "datetime": (pd.Timestamp.min, pd.Timestamp.max),
}
MAX_DIGITS = 300  # after the decimal point, whose power of ten is a float


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
        dtype (`str`, defaults to `"object"`):
            The pandas dtype of the column, which generated tables have too, as `records.dtypes.dtype_name` calls it.
        categories (`list`, *optional*):
            The values of a category, in order; of more than 512 that were inferred, the most frequent come first.
        ordered (`bool`, *optional*): Whether a column of dtype `category` is ordered.
        minimum, maximum (`int`, `float` or `str`, *optional*):
            Bounds of an integer, number or datetime (ISO 8601 for the last), both inclusive.
        decimals (`int`, *optional*):
            Digits after the decimal point of a number, which do not tell -0.0 from 0.0; `None` for those of the data,
            and, where these have no short decimal form, for floats that are kept bit by bit.
        format (`str`, *optional*):
            How texts have the values: a [`DatetimeFormat`], a [`NumberFormat`], or `false/true` for the words of a
            boolean. A column that is no text, such as one of `int64`, is written so in a CSV.
        words (`list[str]`, *optional*):
            Texts that stand among numbers or datetimes with a `format`, such as `unknown`, and are values by
            themselves.
        null (`str`, *optional*): What a CSV has where a value is missing; nothing when not given.
        max_length (`int`, *optional*): Characters in the longest text.
        rarest (`int`, *optional*):
            Records of the rarest category or word in the training data; 0 if it does not occur there. Of nested
            values, those of the rarest key or string that the JSON Schema names; `None` where it was not inferred.
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
    words: list[str] | None = None
    null: str | None = None
    max_length: int | None = None
    rarest: int | None = None
    json_schema: dict[str, Any] | None = None

    def __post_init__(self):
        self.nullable |= self.optional
        if not is_text(self.name):
            raise ValueError(f"field name {shown(self.name)} has {HALF}")
        if self.type not in get_args(FieldType):
            raise ValueError(f"field {self.name!r}: type {self.type!r} is not one of {', '.join(get_args(FieldType))}")
        if self.decimals is not None and not 0 <= self.decimals <= MAX_DIGITS:
            raise ValueError(f"field {self.name!r}: decimals={self.decimals} is not 0 to {MAX_DIGITS}")
        if self.type in ("integer", "number"):
            for bound in self.bounds:
                if not (isinstance(bound, Real) and WIDEST[self.type][0] <= bound <= WIDEST[self.type][1]):
                    raise ValueError(
                        f"field {self.name!r}: {shown(bound)} is more than 64 bits hold, or no number; take a nearer "
                        "bound"
                    )
        try:
            time_zone(self.dtype)
            is_wrong = self.is_numeric and not self.bounds[0] <= self.bounds[1]
        except (TypeError, ValueError) as error:
            raise ValueError(f"field {self.name!r}: dtype or bounds cannot be read ({error})") from error
        if is_wrong:
            raise ValueError(f"field {self.name!r}: nothing lies from {self.minimum!r} to {self.maximum!r}")
        if self.type == "category":
            self._check_categories()
        if self.words and not (self.is_numeric and self.is_spelled and not self._has_numbers):
            raise ValueError(f"field {self.name!r} has words among texts of numbers or dates alone; give its format")
        if self.type == "json":
            if self.json_schema is None:
                raise ValueError(f"field {self.name!r} is of nested values; give its json_schema")
            make_validator(self.json_schema)

    def to_dict(self) -> dict[str, Any]:
        """The field as JSON values."""
        # JSON Schemas as text, since processors sort keys, and theirs have the order of the records'.
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return given if self.json_schema is None else {**given, "json_schema": json.dumps(self.json_schema)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Field:
        """A field of what `to_dict` gave. Raises a `ValueError` for anything else."""
        if not isinstance(state, Mapping) or "json_schema" not in state:
            return from_plain(cls, state)
        text = state["json_schema"]
        try:
            return from_plain(cls, {**state, "json_schema": json.loads(text)})
        except (TypeError, JSONDecodeError, RecursionError) as error:
            raise ValueError(f"json_schema={shown(text)} is not the text of a JSON Schema") from error

    def _check_categories(self) -> None:
        if not self.categories:
            raise ValueError(f"field {self.name!r} is a category; give its categories")
        kinds = str | Real | np.bool_
        if odd := [value for value in self.categories if not isinstance(value, kinds) or value != value]:
            ways = "take texts, numbers or booleans, and nullable=True for nulls"
            raise ValueError(f"field {self.name!r}: {shown(odd[0])} is no category; {ways}")
        if len(set(self.categories)) < len(self.categories):
            double = next(value for value, count in Counter(self.categories).items() if count > 1)
            raise ValueError(f"field {self.name!r}: category {shown(double)} stands more than once; keep one of them")

    def check_dtype(self) -> None:
        """Raises a `ValueError` where columns of the dtype, or texts of the format, cannot have the values."""
        if self.type in ("json", "null") or (self.dtype == "object" and self.format is None):
            return
        given: list = {"boolean": [False, True], "category": self.categories, "text": ["a"[: self.max_length]]}.get(
            self.type, []
        )
        if self.is_numeric:
            step = [10.0**-self.decimals] if self.type == "number" and self.decimals else []
            given = [bound for bound, end in zip(self.bounds, (self.minimum, self.maximum)) if end is not None] + step
            given = given or [np.datetime64(0, "ns") if self.type == "datetime" else 0]
        values = np.array(given, dtype=None if self.is_numeric else object)
        reason = "they come out as others"
        try:
            column = self.to_series(values, np.zeros(len(values), bool))
            if self.is_numeric:
                numbers, are_held = self._read(column)
                if self.type != "datetime":  # some dtypes have fewer digits than a bound
                    are_held &= np.isclose(numbers, values.astype(numbers.dtype), rtol=0.01, atol=0)
            else:
                are_held = self.allows(column) if self.type == "text" else self.index(column) == np.arange(len(values))
        except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            are_held, reason = np.zeros(len(values), bool), short(str(error))
        if not are_held.all():
            of = "" if self.format is None else f" and format {shown(self.format)}"
            raise ValueError(
                f"field {self.name!r}: columns of dtype {self.dtype!r}{of} cannot have {self.type} values such as "
                f"{shown(given[are_held.argmin()])} ({reason}); change the one or the other"
            )

    @property
    def is_numeric(self) -> bool:
        """Whether its values have an order: numbers and datetimes."""
        return self.type in ("integer", "number", "datetime")

    @property
    def is_spelled(self) -> bool:
        """Whether columns have texts in its `format`, and no numbers or datetimes; or dates as whole numbers."""
        return self.format is not None and (self.type == "datetime" or not self._has_numbers)

    @property
    def _has_numbers(self) -> bool:
        return pd_types.is_numeric_dtype(dtype_of(self.dtype))

    @property
    def apart(self) -> list[str | None]:
        """What stands among its values and has no place in their order: null, if it may be, and words."""
        return [*[None] * self.nullable, *(self.words or [])]

    @property
    def has_texts(self) -> bool:
        """Whether columns have texts, whatever these stand for."""
        return (
            self.is_spelled or self.type == "text" or (self.type == "category" and isinstance(self.categories[0], str))
        )

    @property
    def discloses_values(self) -> bool:
        """Whether it names what stands in the data, and not just what its author wrote."""
        return self.type == "category" or bool(self.words) or (self.type == "json" and self.rarest is not None)

    @property
    def time_zone(self) -> Any:
        """The time zone of datetimes, if they have one."""
        return time_zone(self.dtype)

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
        if self.is_spelled:
            kind += f" in the format {self.format!r}"
        elif self.type == "datetime":
            kind += " with a time zone" if self.time_zone else " without a time zone"
        minimum, maximum = map(pd.Timestamp, self.bounds) if self.type == "datetime" else self.bounds
        words = "".join(f", or {word!r}" for word in self.words or [])
        return f"{kind} between {minimum} and {maximum}{words}"

    def check(self, column: pd.Series) -> None:
        """Raises a `ValueError` for the first value that this field does not allow, naming value, row and way out."""
        allowed = self.allows(column)
        if allowed.all():
            return
        row = allowed.argmin()
        if column.isna().iloc[row]:
            raise ValueError(f"null in row {row}; fill it, drop the record, or set nullable=True in the schema")
        value = column.tolist()[row]
        if self.type == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # a float beside nulls alone
        written, reason = shown(value) if self.type != "json" else reprlib.repr(value), ""
        if self.type == "json" and is_json(value):
            reason = refusal_of(self.json_schema, to_plain(value))
        ways = "drop the record, or change the schema"
        if self.has_texts and pd_types.is_numeric_dtype(column.dtype):
            ways = "its texts were read as numbers: read the file by difflm_hf.records.read_table, which keeps them"
        raise ValueError(f"{written} in row {row} is not {self.description}{reason}; {ways}")

    def allows(self, column: pd.Series) -> np.ndarray:
        """Which values this field may have."""
        apart = self.index_apart(column)
        given = apart < 0
        values = column[given]
        allowed = self.nullable | column.notna().to_numpy()
        if self.type == "null":
            allowed[given] = False
        elif self.type == "json":
            accepts = acceptor_of(self.json_schema)
            allowed[given] = [is_json(value) and accepts(to_plain(value)) for value in values]
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

    def index_apart(self, column: pd.Series) -> np.ndarray:
        """Positions among what stands apart; -1 for values, and the position after the last for a null too many."""
        null, of_null = column.isna().to_numpy(), 0 if self.nullable else len(self.apart)
        if not self.words:
            return np.where(null, of_null, -1)
        words = _positions(self.words, column.astype(object))
        return np.where(null, of_null, np.where(words < 0, -1, words + self.nullable))

    def index(self, values: pd.Series) -> np.ndarray:
        """Positions of values among the categories, or among `[False, True]`; -1 for any other."""
        categories, values = [False, True] if self.type == "boolean" else self.categories, values.astype(object)
        positions = _positions(categories, values)
        if all(isinstance(category, str) for category in categories):
            return positions
        # To Python, true equals 1. JSON tells them apart.
        is_boolean = np.array([isinstance(category, bool) for category in categories])
        alike = is_boolean[positions] == [isinstance(value, (bool, np.bool_)) for value in values]
        return np.where(alike, positions, -1)

    def names_in(self, column: pd.Series) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """
        What the schema names of values: categories, words, and the keys and strings of inferred nested values.

        Args:
            column (`pd.Series` of length `num_records`): Values that this field allows.

        Returns:
            The row and the position among the names, each once for a row, of shape `(num_found,)`, and the names.
        """
        given = column.notna().to_numpy()
        if self.type == "category":
            return given.nonzero()[0], self.index(column[given]), self.categories
        if self.words:
            words = given & (self.index_apart(column) >= 0)
            return words.nonzero()[0], self.index_apart(column[words]) - self.nullable, self.words
        names = list(dict.fromkeys(inferred_names(self.json_schema)))
        found = [set(names_of(to_plain(v), self.json_schema)) if g else () for v, g in zip(column, given)]
        positions = pd.Index(names, dtype=object).get_indexer([name for row in found for name in sorted(row)])
        return np.repeat(np.arange(len(column)), [len(row) for row in found]), positions, names

    def to_numpy(self, values: pd.Series) -> np.ndarray:
        """
        The non-null values of an integer, number or datetime as int64, float64 or datetime64[ns] (in UTC); of a
        category their positions, int64.

        Raises:
            `ValueError`: for a value that is none of these, or not exactly.
        """
        numbers, exact = self._read(values)
        if not exact.all():
            value = values.tolist()[exact.argmin()]
            raise ValueError(
                f"{shown(value)} cannot be kept as {self.description}; convert the column, e.g. by astype(str)"
            )
        return numbers

    def _read(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Values as [`Field.to_numpy`] gives them, and which of them are exact."""
        if self.type == "category":
            positions = self.index(values)
            return positions, positions >= 0
        values = plain(values)
        if self.type == "datetime":
            return self._read_moments(values)
        if self.is_spelled:
            read = number_format(self.format).read
            found = {text: read(text) for text in values.unique() if isinstance(text, str)}
            values = pd.Series([np.nan if (n := found.get(text)) is None else n for text in values], dtype=object)
        elif not pd_types.is_numeric_dtype(values.dtype) or pd_types.is_bool_dtype(values.dtype):
            are_numbers = [isinstance(v, Real) and not isinstance(v, bool) for v in values]  # true is none, as in JSON
            values = values.astype(object).where(np.array(are_numbers, bool), np.nan)
        else:
            values = shortest_digits(values)
        exact = values.between(*WIDEST[self.type]).to_numpy(bool)
        inside = values.where(exact, 0)
        numbers = inside.to_numpy(np.int64 if self.type == "integer" else np.float64)
        return numbers, exact & (numbers == inside.to_numpy())

    def _read_moments(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        if self.format is not None:
            distinct = distinct_of(values := values.astype(str))
            places = pd.Index(distinct, dtype=object).get_indexer(values)
            moments = datetime_format(self.format).read(distinct).iloc[places]
            exact = moments.notna()
        else:
            moments = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
            exact = moments.between(*WIDEST["datetime"])
            if pd_types.is_datetime64_any_dtype(values.dtype):
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
        if self.type == "category" and self.dtype.startswith("category"):
            categories = pd.Index(self.categories)
            if self.dtype != "category":
                categories = pd.Index(restore(categories.to_series(), self.dtype[len("category[") : -1]))
            return pd.Series(pd.Categorical(series.mask(null), categories, ordered=bool(self.ordered)))
        given = series[~null]
        if self.is_spelled:
            given = self.write(given)
        if not (self.is_spelled and pd_types.is_object_dtype(dtype_of(self.dtype))):
            given = pd.to_numeric(given) if self.is_spelled and self._has_numbers else given
            given = restore(given, self.dtype, self.decimals)
        if not null.any():
            return given
        column = given.reindex(series.index)
        return column.where(~null, None) if pd_types.is_object_dtype(column.dtype) else column

    def with_words(self, column: pd.Series, apart: np.ndarray) -> pd.Series:
        """
        A column with words in it.

        Args:
            column (`pd.Series` of length `num_records`): As of [`Field.to_series`].
            apart (`np.ndarray` of shape `(num_records,)`): Positions among what stands apart; any others for values.
        """
        words = (apart >= int(self.nullable)) & (apart < len(self.apart))
        if not words.any():
            return column
        texts = column.astype(object).to_numpy(copy=True)
        texts[words] = np.array(self.apart, dtype=object)[apart[words]]
        return pd.Series(texts, index=column.index).astype(column.dtype)

    def read(self, texts: pd.Series) -> pd.Series:
        """The numbers (`Int64` or `float64`) or datetimes of texts in its format; null for words and other texts."""
        given = texts.notna().to_numpy()
        numbers, exact = self._read(texts[given])
        found = pd.Series(numbers, index=texts.index[given])
        return (found.astype("Int64") if self.type == "integer" else found).where(exact).reindex(texts.index)

    def write(self, values: pd.Series) -> pd.Series:
        """The texts of numbers, datetimes or booleans in its format."""
        distinct = pd.Series(values.dropna().unique())
        if self.type == "datetime":
            texts = datetime_format(self.format).write(distinct)
        elif self.type == "boolean":
            texts = distinct.map(dict(zip((False, True), self.format.split("/"))))
        else:
            texts = distinct.map(number_format(self.format).write)
        return values.map(dict(zip(distinct, texts))).astype(object)

    def to_arrow(self) -> pa.Field:
        """The field with the Arrow type of its columns."""
        if self.type == "category" and self.dtype.startswith("category"):
            values = np.array(self.categories, dtype=object)
            return pa.field(self.name, pa.array(self.to_series(values, np.zeros(len(values), bool))).type)
        if self.dtype != "object":
            return pa.field(self.name, arrow_type(self.dtype, self.decimals))
        if self.type == "category":
            return pa.field(self.name, pa.array(self.categories).type)
        return pa.field(self.name, pa.string() if self.is_spelled else ARROW_TYPES[self.type])


def _positions(names: list, values: pd.Series) -> np.ndarray:
    """The positions of values among names; -1 for any other."""
    index = pd.Index(names, dtype=object)
    try:
        return index.get_indexer(values)
    except TypeError:  # a list has no hash, and is no name
        return index.get_indexer(values.map(lambda value: value if pd_types.is_scalar(value) else None))


def isoformat(moment: pd.Timestamp) -> str:
    """A moment as pandas can read it back."""
    # Local times before about 1900 have offsets with seconds, which pandas writes but does not read.
    has_seconds = moment.tz is not None and moment.utcoffset().total_seconds() % 60
    return (moment.tz_convert("UTC") if has_seconds else moment).isoformat()


@contextmanager
def naming_column(column: str) -> Iterator[None]:
    """Puts the column's name before whatever is said about its values."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise ValueError(f"column {column!r}: {shown(error.object)} has {HALF}") from error
    except InvalidOperation as error:  # of whatever compares it
        raise ValueError(f"column {column!r}: a signalling NaN of Decimal; replace it by a null") from error
    except RecursionError as error:
        raise ValueError(f"column {column!r}: values nested too deeply; make them flatter") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"column {column!r}: {error}") from error
