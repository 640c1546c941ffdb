"""What the values of a column say of its field."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types as pd_types

from ..checks import shown
from .datetime_format import CODE, datetime_format, find_zone, patterns_of
from .dtypes import distinct_of, dtype_name, plain
from .field import Field, FieldType, isoformat
from .json_schema import field_to_json_schema
from .nested import HALF, infer_json_schema, is_nested, to_plain
from .number_format import MAX_DECIMALS, NumberFormat, number_format


# What `pandas.api.types.infer_dtype` calls the types that a field may have.
KINDS: dict[str, FieldType] = {
    "boolean": "boolean",
    "integer": "integer",
    "floating": "number",
    "mixed-integer-float": "number",
    "datetime64": "datetime",
    "string": "text",
}
# Of strings inside nested values that are an enumeration: distinct ones at most, and each so often at least
MAX_NESTED_CATEGORIES, MIN_NESTED_COUNT = 64, 10
DAYS_AS_NUMBERS, FIRST_DAY, LAST_DAY = "%Y%m%d", 19000101, 21001231
MOST = 0.5  # share of the texts of a column that, when they are dates or numbers, say that the others are mistakes
MIN_FITTING = 5  # of these at least
ANY_NUMBER, ANY_DATE = "1.5e+300", "ISO 8601"  # of whatever many ways to write them
MAX_WORDS, MAX_WORD_LENGTH = 8, 32  # distinct texts that may stand among numbers or dates, and their characters
NUM_GUESSED = 20  # texts whose possible formats are tried on all
NUM_PROBED = 1000  # texts that are looked at before all are
MAX_CATEGORIES = 100_000  # distinct strings that are categories, unless the caller says otherwise
MAX_SORTED = 512  # categories in the order of their names
MAX_INTEGER = 2**63
MAX_EXACT_INTEGER = 2**53  # above it, neighbouring integers share one float64


def infer_field(
    name: str,
    column: pd.Series,
    categorical: bool = False,
    max_categories: int = MAX_CATEGORIES,
    decimal: str | None = None,
) -> Field:
    """
    The field of a column, as [`RecordSchema.infer`] takes it.

    Args:
        name (`str`): The name of the column.
        column (`pd.Series`): Its values.
        categorical (`bool`, defaults to `False`): Whether they are categories, whatever they look like.
        max_categories (`int`, defaults to 100,000): Distinct strings that are categories, at most.
        decimal (`str`, *optional*): The decimal point of numbers in texts.

    Raises:
        `ValueError`: for values of mixed or unknown types.
    """
    values = column.dropna()
    f = Field(name, "null", nullable=len(values) < len(column), dtype=dtype_name(column))
    if isinstance(column.dtype, pd.CategoricalDtype) and len(categories := column.cat.categories):
        if _kind_of(pd.Series(categories.tolist(), dtype=object), categorical=True) == "text":
            _check_texts(categories)
        return replace(f, type="category", categories=categories.tolist(), ordered=column.cat.ordered or None)
    if len(values) == 0:
        return f
    categorical |= f.dtype.startswith("dictionary")
    given, values = values, plain(values)
    if (lost := values.isna().to_numpy()).any():
        raise ValueError(
            f"{given[lost].tolist()[0]} lies outside of the years 1677 to 2262, which datetimes are kept in; make it "
            "missing, or convert the column by astype(str)"
        )
    if not categorical and pd_types.infer_dtype(values) not in KINDS and any(map(is_nested, values)):
        json_schema = infer_json_schema([*map(to_plain, values)], _infer_scalar)
        return replace(f, type="json", json_schema=json_schema, rarest=0)
    kind = _kind_of(values, categorical)
    distinct = distinct_of(values) if kind == "text" or categorical else None
    is_few = distinct is not None and len(distinct) <= max_categories and 2 * len(distinct) <= len(values)
    if kind == "text":
        _check_texts(distinct)
    if kind == "text" and not categorical:
        # A column may have another decimal point than the file.
        found, words = find_format(distinct, decimal) or find_format(distinct), []
        if found is None and (likely := _find_words(distinct, decimal)) is not None:
            found, words = likely
        # Strings of few numbers, such as 02134, are codes, and no quantities.
        if found is not None and not (is_few and _are_codes(distinct[~distinct.isin(words)], bool(words))):
            kind, f.format = found
            f.words, values = words or None, distinct[~distinct.isin(words)]
    if kind == "integer" and f.format is None and not categorical and _are_days(values):
        kind, f.format = "datetime", DAYS_AS_NUMBERS
    if categorical or (kind == "text" and is_few):
        names = sorted(v.item() if isinstance(v, np.generic) else v for v in distinct)
        if len(names) > MAX_SORTED:  # the most frequent first: neighbours are about as frequent
            counts = Counter(values.tolist())
            names.sort(key=lambda name: -counts[name])
        f = replace(f, type="category", categories=names)
        if (lost := f.index(given) < 0).any():
            odd = shown(given[lost].tolist()[0])
            raise ValueError(f"{odd} cannot be kept as a category; convert the column, e.g. by astype(str)")
        return f
    if kind == "text":
        return replace(f, type="text", max_length=max(map(len, distinct)))
    f = replace(f, type=kind)
    if not f.is_numeric:
        return f
    numbers = f.to_numpy(values)
    bounds = numbers.min(), numbers.max()
    if kind == "datetime":
        f.minimum, f.maximum = (isoformat(pd.Timestamp(m, tz="UTC").tz_convert(f.time_zone)) for m in bounds)
    else:
        f.minimum, f.maximum = (bound.item() for bound in bounds)
        f.decimals = 0 if kind == "integer" else decimals_of(numbers)
    return f


def _infer_scalar(values: list) -> dict[str, Any]:
    """The JSON Schema of scalars inside nested values. Strings are an enumeration when none of them is rare."""
    f = infer_field("", pd.Series(values, dtype=object), False, MAX_NESTED_CATEGORIES)
    is_rare = f.type == "category" and min(Counter(values).values()) < MIN_NESTED_COUNT
    if is_rare or f.words or (f.is_spelled and f.type != "datetime"):
        f = Field("", "text", max_length=max(map(len, values)))
    return field_to_json_schema(f)


def _kind_of(values: pd.Series, categorical: bool = False) -> FieldType:
    """The type of non-null values; a `ValueError` where there is none, or none that `categorical` fields may have."""
    kind = KINDS.get(pd_types.infer_dtype(values))
    if kind is None or (categorical and kind == "datetime"):
        types = {type(v).__name__: v for v in values}
        examples = ", ".join(f"{t} ({str(v)[:40]!r})" for t, v in types.items())
        raise ValueError(f"mixed or unsupported types: {examples}; convert the column, e.g. by astype(str)")
    try:
        is_infinite = kind == "number" and not np.isfinite(values.to_numpy(np.float64)).all()
    except OverflowError as error:
        raise ValueError("an integer that no float can hold; convert the column, e.g. by astype(str)") from error
    if is_infinite:
        raise ValueError("an infinite number; replace it by a null or a finite number")
    return kind


def _check_texts(values: pd.Series | pd.Index) -> None:
    try:
        pa.array(values.astype(object), pa.string())
    except UnicodeEncodeError as error:
        raise ValueError(HALF) from error


def _are_days(values: pd.Series) -> bool:
    """Whether whole numbers are all days, as 20210314 is."""
    low, high = values.min(), values.max()
    if not FIRST_DAY <= low < high <= LAST_DAY:
        return False
    return datetime_format(DAYS_AS_NUMBERS).read(pd.Series(values.astype(str).unique(), dtype=object)).notna().all()


def find_format(distinct: pd.Series, decimal: str | None = None) -> tuple[FieldType, str] | None:
    """The type and the format of distinct texts that are all dates or times, or all numbers; `None` for others."""
    probed = distinct[:NUM_PROBED]
    for pattern in patterns_of(distinct.iloc[0], find_zone(distinct)):
        if all(datetime_format(pattern).read(texts).notna().all() for texts in (probed, distinct)):
            return "datetime", pattern
    if NumberFormat.infer(probed.tolist(), decimal) is None:
        return None
    found = NumberFormat.infer(distinct.tolist(), decimal)
    numbers = [None] if found is None else [found.read(text) for text in distinct]
    if any(number is None or abs(number) >= MAX_INTEGER for number in numbers):
        return None
    return ("number" if found.point else "integer"), found.pattern


def _are_codes(texts: pd.Series, has_words: bool) -> bool:
    """Whether texts of whole numbers are no quantities: with words among them, that takes leading zeros."""
    return texts.str.isdecimal().all() and not (has_words and texts.str.match("0$|[1-9]").all())


def _find_words(distinct: pd.Series, decimal: str | None) -> tuple[tuple[FieldType, str], list[str]] | None:
    """The type and the format of most of the distinct texts of a column, and the few words among them."""
    likely = _most_likely(distinct, decimal)
    if likely is None or not likely.has_format or (~likely.fits).sum() > MAX_WORDS:
        return None
    words = distinct[~likely.reads(distinct).to_numpy()]
    if not 0 < len(words) <= MAX_WORDS or words.str.len().max() > MAX_WORD_LENGTH:
        return None
    found = find_format(distinct.drop(words.index).reset_index(drop=True), decimal)
    return None if found is None else (found, sorted(words))


@dataclass
class _Likely:
    """What most texts of a column are, how they are written, and which of some of them are so."""

    kind: str
    pattern: str
    probed: pd.Series

    @property
    def has_format(self) -> bool:
        return self.pattern not in (ANY_NUMBER, ANY_DATE)

    def reads(self, texts: pd.Series) -> pd.Series:
        if self.pattern == ANY_NUMBER:
            return pd.to_numeric(texts, errors="coerce").notna()
        if self.pattern == ANY_DATE:
            moments = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
            return moments.notna() & texts.str.match(r"\d{4}-\d\d-\d\d[T ]")
        if self.kind == "dates":
            return datetime_format(self.pattern).read(texts).notna()
        return texts.map(lambda text: number_format(self.pattern).read(text) is not None)

    @cached_property
    def fits(self) -> pd.Series:
        return self.reads(self.probed)


def _most_likely(distinct: pd.Series, decimal: str | None) -> _Likely | None:
    probed = distinct if len(distinct) <= NUM_PROBED else distinct.sample(NUM_PROBED, random_state=0)
    probed = probed.reset_index(drop=True)
    zone = find_zone(probed)
    patterns = Counter(pattern for text in probed[:NUM_GUESSED] for pattern in patterns_of(text, zone))
    ways = [_Likely("dates", pattern, probed) for pattern, _ in patterns.most_common(3)]
    if (found := NumberFormat.infer(probed.tolist(), decimal)) is not None:
        ways.append(_Likely("numbers", found.pattern, probed))
    # What has no format of its own
    ways += [_Likely("dates", ANY_DATE, probed), _Likely("numbers", ANY_NUMBER, probed)]
    best = max(ways, key=lambda way: way.fits.sum())
    is_most = best.fits.sum() >= max(MOST * len(probed), MIN_FITTING)
    return best if is_most else None


def doubt_of(f: Field, column: pd.Series, decimal: str | None = None) -> str | None:
    """
    What else a column could be than its field says, in words, or `None`.

    Args:
        f ([`Field`]): As inferred.
        column (`pd.Series`): The values it was inferred from.
        decimal (`str`, *optional*): The decimal point of numbers in texts.
    """
    if f.words:
        words = ", ".join(map(repr, f.words))
        return f"{f.type}s like {f.format}, with words among them that stay as they are: {words}"
    if f.type == "datetime" and f.format is not None:
        distinct = pd.Series(column.dropna().map(str).unique())
        others = [p for p in patterns_of(distinct[0]) if p != f.format and _codes_in(p) != _codes_in(f.format)]
        own = datetime_format(f.format).read(distinct)
        read = {pattern: datetime_format(pattern).read(distinct) for pattern in others}
        others = [pattern for pattern, found in read.items() if found.notna().all() and not found.equals(own)]
        return f"taken as dates like {f.format}, and could be {others[0]}" if others else None
    if f.format is not None and f.type in ("integer", "number"):
        is_ambiguous = decimal is None and number_format(f.format).is_ambiguous
        return f"taken as numbers like {f.format}, whose decimal point is in doubt" if is_ambiguous else None
    return None


def mistaken_for_text(column: pd.Series, decimal: str | None = None) -> str | None:
    """Why most of a column of texts are dates or numbers, but not all, in words; or `None`."""
    distinct = pd.Series(column.dropna().map(str).unique(), dtype=object)
    likely = _most_likely(distinct, decimal)
    if likely is None:
        return None
    if likely.fits.all():
        lengths = set(distinct.str.len())
        are_codes = distinct.str.isdecimal().all() and (len(lengths) == 1 or distinct.str.startswith("0").any())
        if are_codes or (likely.has_format and max(lengths) < len(str(MAX_INTEGER))):
            return None
        return f"{likely.kind} in no format that is kept: with plus signs, too many digits, or in several ways"
    others = ", ".join(repr(text[:40]) for text in likely.probed[~likely.fits][:3])
    like = f" like {likely.pattern}" if likely.has_format else ""
    return f"most values are {likely.kind}{like}, but not {others}"


def _codes_in(pattern: str) -> list[str]:
    """Of a pattern what its parts are, whatever zeros stand before them."""
    return [code.replace("-", "") for code in CODE.findall(pattern)]


def decimals_of(numbers: np.ndarray) -> int | None:
    """The fewest digits after the point that write every number exactly, or `None` if none do."""
    largest = np.abs(numbers).max()
    for decimals in range(MAX_DECIMALS + 1):
        if largest * 10.0**decimals >= MAX_EXACT_INTEGER:
            return None
        if np.array_equal(np.rint(numbers * 10.0**decimals) / 10.0**decimals, numbers):
            return decimals
    return None
