"""The dtypes that columns may have in pandas: their names, their plain values, and the way back."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytz
from dateutil.tz import gettz, tzoffset
from pandas.api import types as pd_types

from ..checks import shown


EPOCH = date(1970, 1, 1)  # on which times of day lie
OBJECTS = ("date", "datetime", "decimal", "time")  # of which object columns may be, as `infer_dtype` calls them
REFUSED = {  # as `infer_dtype` calls them, and what a field could hold in their place
    "bytes": "column.map(bytes.decode, na_action='ignore')",
    "complex": "column.map(abs)",
    "interval": "column.map(str, na_action='ignore')",
}
ARROW = re.compile(r"(?P<kind>\w+)(?:\[(?P<unit>\w+)(?:, tz=(?P<zone>.+))?\])?(?:\((?P<sizes>[\d, ]+)\))?")


def dtype_name(column: pd.Series) -> str:
    """
    What the dtype of a column is called, by which [`restore`] finds it: as pandas does where that is enough. Object
    columns of dates, times, datetimes or Decimals are called by what they hold.

    Raises:
        `ValueError`: for values that no field can hold. The message has a way out.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return f"datetime64[{dtype.unit}, {_zone_name(dtype.tz)}]"
    if isinstance(dtype, pd.StringDtype):
        return f"string[{dtype.storage}]"
    if isinstance(dtype, pd.ArrowDtype):
        name = _arrow_name(dtype.pyarrow_dtype)
        _arrow_type(name)  # which has to know it
        return f"{name}[pyarrow]"
    if isinstance(dtype, pd.CategoricalDtype):
        inner = dtype_name(dtype.categories.to_series())
        return "category" if isinstance(dtype.categories.dtype, np.dtype) else f"category[{inner}]"
    if isinstance(dtype, np.dtype) and dtype.kind in "biufmM":
        return str(dtype)
    values = column.dropna()
    kind = pd_types.infer_dtype(values)  # of nulls alone nothing, though NaT is of datetimes
    if kind in REFUSED:
        raise ValueError(f"{kind} values, which no field can hold; convert the column, e.g. by {REFUSED[kind]}")
    if not pd_types.is_object_dtype(dtype) or kind not in OBJECTS:
        return str(dtype)
    if kind in ("date", "datetime") and len({isinstance(value, datetime) for value in values}) > 1:
        raise ValueError("dates and datetimes in one column; convert it, e.g. by pd.to_datetime(column)")
    zones = {value.tzinfo for value in values} if kind == "datetime" else {None}
    if zones == {None}:
        return kind
    if len(zones) > 1 or kind == "time":
        raise ValueError(
            "datetimes of several time zones; convert the column, e.g. by pd.to_datetime(column, utc=True)"
        )
    return f"datetime[{_zone_name(zones.pop())}]"


def time_zone(name: str) -> tzinfo | None:
    """The time zone of a dtype, if it has one."""
    if match := re.fullmatch(r"datetime\[(.+)\]", name):
        return _zone(match[1])
    dtype = dtype_of(name)
    if isinstance(dtype, pd.ArrowDtype):
        zone = getattr(dtype.pyarrow_dtype, "tz", None)
        return None if zone is None else _zone(zone)
    return getattr(dtype, "tz", None)


def dtype_of(name: str) -> Any:
    """The dtype of columns of a name."""
    if name in OBJECTS or name.startswith("datetime["):
        return np.dtype(object)
    if name.endswith("[pyarrow]") and name != "string[pyarrow]":
        return pd.ArrowDtype(_arrow_type(name.removesuffix("[pyarrow]")))
    if name.startswith("category["):
        return pd.CategoricalDtype()
    if match := re.fullmatch(r"datetime64\[(\w+), (.+)\]", name):
        return pd.DatetimeTZDtype(match[1], _zone(match[2]))
    dtype = pd_types.pandas_dtype(name)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biufmMO":
        raise TypeError(f"{name!r} is no dtype of columns")
    return dtype


def plain(values: pd.Series) -> pd.Series:
    """
    Non-null values as NumPy numbers, `datetime64` (with a time zone if they have one), or objects; of differences in
    time the nanoseconds. What lies outside of the years of `datetime64[ns]` is null.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        return values.sparse.to_dense()
    if isinstance(dtype, pd.ArrowDtype):
        try:
            of_arrow = pa.array(values).to_pandas()
        except (OverflowError, ValueError) as error:  # such as a time of more than a day
            raise ValueError(f"a value that Arrow cannot hand over ({error}); mend it, or make it a null") from error
        return plain(pd.Series(of_arrow.to_numpy() if dtype.kind == "O" else of_arrow.array, index=values.index))
    if isinstance(dtype, pd.PeriodDtype):
        first, last = (pd.Period(end, dtype.freq) for end in (pd.Timestamp.min, pd.Timestamp.max))
        return values.where((values > first) & (values <= last)).dt.start_time
    if dtype.kind == "m":
        try:
            return values.astype("timedelta64[ns]").astype(np.int64)
        except (OverflowError, ValueError) as error:
            reason = "a length of time of more than 292 years, which 64 bits do not hold in nanoseconds"
            raise ValueError(f"{reason}; convert the column, e.g. by column.dt.total_seconds()") from error
    kind = pd_types.infer_dtype(values) if pd_types.is_object_dtype(dtype) else None
    if kind == "string" and any(type(value) is not str for value in values):
        return values.map(str.__str__)  # NumPy has texts of its own
    if kind in ("date", "datetime"):
        is_aware = getattr(values.iloc[0], "tzinfo", None) is not None
        return pd.to_datetime(values, utc=is_aware, errors="coerce")
    if kind == "time":
        return values.map(lambda time: datetime.combine(EPOCH, time)).astype("datetime64[ns]")
    if kind == "decimal":
        if odd := [value for value in values if not value.is_finite()]:
            raise ValueError(f"{odd[0]!r} is no finite number; replace it by a null or one")
        has_decimals = any(value.as_tuple().exponent < 0 for value in values)
        if has_decimals and (odd := [value for value in values if Decimal(repr(float(value))) != value]):
            raise ValueError(f"{odd[0]!r} has more digits than numbers keep; round it, or convert it by astype(str)")
        return values.map(float if has_decimals else int)
    return values


def distinct_of(values: pd.Series) -> pd.Series:
    """The distinct ones of non-null values, in order. To pandas, texts that differ after a NUL alone are equal."""
    return pd.Series(list(dict.fromkeys(values)), dtype=object)


def shortest_digits(values: pd.Series) -> pd.Series:
    """Floats of fewer than 64 bits by their digits: a float32 0.1 is 0.1, and not 0.10000000149011612."""
    if isinstance(values.dtype, pd.SparseDtype):
        values = values.sparse.to_dense()
    if not pd_types.is_float_dtype(values.dtype) or values.dtype.itemsize >= 8:
        return values
    digits = values.to_numpy(f"f{values.dtype.itemsize}", na_value=np.nan).astype(str)
    return pd.Series(digits.astype(np.float64), index=values.index)


def restore(values: pd.Series, name: str, decimals: int | None = None) -> pd.Series:
    """
    Non-null values in the dtype of a name.

    Args:
        values (`pd.Series`): As [`plain`] gives them, of datetimes without a time zone those of UTC.
        name (`str`): Of the dtype.
        decimals (`int`, *optional*): Digits after the point of Decimals.
    """
    if len(values) == 0:
        return pd.Series(index=values.index, dtype=dtype_of(name))
    if values.dtype.kind == "M" and (zone := time_zone(name)) is not None:
        values = values.dt.tz_localize("UTC").dt.tz_convert(zone)
    if name in OBJECTS or name.startswith("datetime["):
        if name == "decimal":
            objects = [
                Decimal(repr(value) if decimals is None else f"{value:.{decimals}f}") for value in values.tolist()
            ]
        else:
            objects = [moment.to_pydatetime(warn=False) for moment in values]
            if name in ("date", "time"):
                objects = [getattr(moment, name)() for moment in objects]
        return pd.Series(objects, index=values.index, dtype=object)
    dtype = dtype_of(name)
    if isinstance(dtype, pd.ArrowDtype):
        kind = dtype.pyarrow_dtype
        if pa.types.is_decimal(kind):
            values = values.map(lambda value: Decimal(f"{value:.{kind.scale}f}"))
        elif pa.types.is_time(kind):
            values = values.dt.time
        elif pa.types.is_duration(kind):
            values = values.astype("timedelta64[ns]")
        elif pa.types.is_dictionary(kind):
            array = pa.array(values.tolist(), kind.value_type).dictionary_encode().cast(kind)
            return pd.Series(pd.arrays.ArrowExtensionArray(array), index=values.index)
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, kind)), index=values.index)
    if isinstance(dtype, pd.PeriodDtype):
        return values.dt.to_period(dtype.freq)
    if getattr(dtype, "kind", None) == "m":
        return values.astype("timedelta64[ns]").astype(dtype)
    return values.astype(dtype)


def arrow_type(name: str, decimals: int | None = None) -> pa.DataType:
    """The Arrow type of columns of a dtype; of object columns that hold what its name does not say, that of nulls."""
    if name == "decimal":
        return pa.decimal128(38, decimals or 0)
    if name in ("date", "time"):
        return pa.date32() if name == "date" else pa.time64("us")
    if name == "datetime" or name.startswith("datetime["):
        zone = time_zone(name)
        return pa.timestamp("us", None if zone is None else pa.lib.tzinfo_to_string(zone))
    dtype = dtype_of(name)
    if isinstance(dtype, pd.PeriodDtype):
        return pa.string()
    return pa.array(pd.Series([], dtype=dtype.subtype if isinstance(dtype, pd.SparseDtype) else dtype)).type


def for_arrow(column: pd.Series) -> pd.Series:
    """A column as Arrow takes it: sparse ones are dense, and periods texts."""
    if isinstance(column.dtype, pd.SparseDtype):
        return column.sparse.to_dense()
    return column.astype(str).where(column.notna()) if isinstance(column.dtype, pd.PeriodDtype) else column


def _zone_name(zone: tzinfo) -> str:
    """The name of a time zone: that of the IANA or its offset, after the library that is not the one of pandas."""
    if name := getattr(zone, "zone", None):  # of pytz
        return name
    library = type(zone).__module__.partition(".")[0]
    name = getattr(zone, "key", None)
    if match := re.search(r"zoneinfo/(\w.*?)['\"]", repr(zone)):  # of dateutil
        name = match[1]
    offset = zone.utcoffset(None)
    if name is None and offset is None:
        raise ValueError(f"the time zone {zone!r} has no name; convert the column, e.g. by .dt.tz_convert('UTC')")
    if name is None:
        minutes = round(offset / timedelta(minutes=1))
        name = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
        name = "UTC" if library == "datetime" and not minutes else name
    return name if library == "datetime" else f"{library}:{name}"


def _zone(name: str) -> tzinfo:
    library, _, place = name.partition(":") if name.startswith(("zoneinfo:", "pytz:", "dateutil:")) else ("", "", name)
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", place)
    minutes = int(offset[1] + "1") * (int(offset[2]) * 60 + int(offset[3])) if offset else None
    zone = None
    with suppress(KeyError, TypeError):  # by libraries that know none of the name
        if library == "zoneinfo":
            zone = ZoneInfo(place)
        elif library == "pytz":
            zone = pytz.FixedOffset(minutes)
        elif library == "dateutil":
            zone = gettz(place) if minutes is None else tzoffset(None, minutes * 60)
        else:
            zone = pd.DatetimeTZDtype("ns", name).tz
    if zone is None:
        raise ValueError(f"no time zone {shown(name)}; name one as the IANA does")
    return zone


def _arrow_name(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return f"dictionary<{_arrow_name(kind.value_type)}, {kind.index_type}, {int(kind.ordered)}>"
    return "utf8" if kind == pa.string() else str(kind)


def _arrow_type(name: str) -> pa.DataType:
    if name.startswith("dictionary<"):
        inner, index, ordered = name.removeprefix("dictionary<").removesuffix(">").rsplit(", ", 2)
        return pa.dictionary(_arrow_type(index), _arrow_type(inner), bool(int(ordered)))
    match = ARROW.fullmatch(name)
    if match is None or (match["sizes"] and not match["kind"].startswith("decimal")):
        raise ValueError(f"the Arrow type {name!r}, which no field can hold; convert the column by astype(object)")
    kind, unit, zone, sizes = match.group("kind", "unit", "zone", "sizes")
    if sizes:
        return getattr(pa, kind)(*map(int, sizes.split(", ")))
    if kind == "timestamp":
        return pa.timestamp(unit, zone)
    return pa.type_for_alias(kind if unit in (None, "day") else f"{kind}[{unit}]")
