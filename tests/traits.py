"""Columns as people have them, each with something that has gone wrong in one tool or another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytz
from dateutil.tz import tzoffset


NUM_RECORDS = 400
RNG = np.random.default_rng(0)
MOMENTS = pd.Series(pd.Timestamp("2021-01-01") + pd.to_timedelta(RNG.integers(0, 900 * 86400, NUM_RECORDS), "s"))
AMOUNTS = RNG.normal(1200, 900, NUM_RECORDS)
AMOUNTS = np.where(np.abs(AMOUNTS) < 10, 10, AMOUNTS)  # no zeros with a sign, which numbers do not keep
COUNTS = RNG.integers(0, 30, NUM_RECORDS)
WORDS = RNG.choice(["red", "green", "blue"], NUM_RECORDS)
EVERY_TENTH = np.arange(NUM_RECORDS) % 10 == 3


def _texts(write: Callable, values) -> list[str]:
    return [write(value) for value in values]


def _with(texts, word: str = "") -> list[str]:
    return [word if is_tenth else str(text) for text, is_tenth in zip(texts, EVERY_TENTH)]


def _german(amount: float, digits: int = 2) -> str:
    return f"{amount:,.{digits}f}".translate(str.maketrans(",.", ".,"))


def _signed(amount: float, pattern: str) -> str:
    return ("-" if amount < 0 else "") + pattern.format(abs(amount))


# What a CSV has, its type, and its format
TEXTS: dict[str, tuple[list[str], str, str | None]] = {
    "whole numbers": (_texts(str, COUNTS), "integer", None),
    "whole numbers with gaps": (_with(COUNTS), "integer", None),
    "negative whole numbers": (_texts(str, COUNTS - 15), "integer", None),
    "long ids with gaps": (_with(1234567890123456789 + np.arange(NUM_RECORDS)), "integer", None),
    "numbers with NA": (_with(COUNTS, "NA"), "integer", None),
    "numbers with n/a": (_with(_texts("{:.1f}".format, AMOUNTS), "n/a"), "number", None),
    "numbers with a few ?": (_with(_texts("{:.1f}".format, AMOUNTS), "?"), "number", None),
    "numbers with a few -": (_with(COUNTS, "-"), "integer", None),
    "numbers with words": (_with(COUNTS, "unknown"), "integer", "0"),
    "amounts with a word": (_with(_texts(lambda a: f"{a:.2f} €", AMOUNTS), "t.b.d."), "number", "0.00 €"),
    "one decimal": (_texts("{:.1f}".format, AMOUNTS), "number", None),
    "two decimals always": (_texts("{:.2f}".format, AMOUNTS), "number", "0.00"),
    "shortest decimals": (_texts(lambda a: f"{a:.2f}".rstrip("0").rstrip("."), AMOUNTS), "number", "0.##"),
    "small decimals without an exponent": (_texts(lambda c: f"{c / 1e6:.6f}", COUNTS), "number", "0.000000"),
    "full precision": (_texts(repr, RNG.normal(size=NUM_RECORDS).tolist()), "number", None),
    "exponents": (_texts(repr, (10.0 ** RNG.integers(-20, -5, NUM_RECORDS)).tolist()), "number", None),
    "no zero before the point": (_texts(lambda c: f".{c + 10}", COUNTS), "number", "#.00"),
    "thousands with commas": (_texts(lambda a: _signed(a, "{:,.2f}"), AMOUNTS), "number", "#,##0.00"),
    "whole thousands with commas": (_texts(lambda a: f"{abs(a) * 99:,.0f}", AMOUNTS), "integer", "#,##0"),
    "thousands with spaces": (_texts(lambda a: f"{abs(a) * 99:,.1f}".replace(",", " "), AMOUNTS), "number", "# ##0.0"),
    "thousands with apostrophes": (
        _texts(lambda a: f"{abs(a) * 99:,.2f}".replace(",", "'"), AMOUNTS),
        "number",
        "#'##0.00",
    ),
    "dollars": (_texts(lambda a: _signed(a, "${:,.2f}"), AMOUNTS), "number", "$#,##0.00"),
    "dollars with gaps": (_with(_texts(lambda a: _signed(a, "${:,.2f}"), AMOUNTS)), "number", "$#,##0.00"),
    "minus after the dollar": (_texts(lambda a: f"${a:.0f}", AMOUNTS), "integer", "$0;$-0"),
    "parentheses for negatives": (
        _texts(lambda a: f"({-a:.2f})" if a < 0 else f"{a:.2f}", AMOUNTS),
        "number",
        "0.00;(0.00)",
    ),
    "code of a currency": (_texts(lambda a: f"USD {abs(a):.2f}", AMOUNTS), "number", "USD 0.00"),
    "percent": (_texts(lambda a: f"{a / 100:.1f}%", AMOUNTS), "number", "0.0%"),
    "percent with a space": (_texts(lambda c: f"{c} %", COUNTS), "integer", "0 %"),
    "units": (_texts(lambda a: f"{abs(a):.0f} kg", AMOUNTS), "integer", "0 kg"),
    "degrees": (_texts(lambda a: f"{a / 50:.1f} °C", AMOUNTS), "number", "0.0 °C"),
    "codes with leading zeros": (_texts(lambda c: f"{c:05d}", COUNTS), "category", None),
    "many codes with leading zeros": (_texts(lambda k: f"{k * 7:06d}", range(NUM_RECORDS)), "integer", "000000"),
    "NA as a country": (RNG.choice(["NA", "DE", "FR"], NUM_RECORDS).tolist(), "category", None),
    "None as a category": (RNG.choice(["None", "Brick", "null", "n/a"], NUM_RECORDS).tolist(), "category", None),
    "categories with gaps": (_with(WORDS), "category", None),
    "true and false": (_texts(lambda c: "true" if c % 2 else "false", COUNTS), "boolean", "false/true"),
    "TRUE and FALSE": (_texts(lambda c: "TRUE" if c % 2 else "FALSE", COUNTS), "boolean", "FALSE/TRUE"),
    "True and False with gaps": (_with(["True" if c % 2 else "False" for c in COUNTS]), "boolean", None),
    "yes and no": (_texts(lambda c: "yes" if c % 2 else "no", COUNTS), "category", None),
    "0 and 1": (_texts(lambda c: str(c % 2), COUNTS), "integer", None),
    "ISO dates": (MOMENTS.dt.strftime("%Y-%m-%d").tolist(), "datetime", "%Y-%m-%d"),
    "ISO dates with empty ones": (_with(MOMENTS.dt.strftime("%Y-%m-%d")), "datetime", "%Y-%m-%d"),
    "ISO dates with n/a": (_with(MOMENTS.dt.strftime("%Y-%m-%d"), "n/a"), "datetime", "%Y-%m-%d"),
    "ISO dates, one of them impossible": (
        ["2021-02-30", *MOMENTS.dt.strftime("%Y-%m-%d")[1:]],
        "datetime",
        "%Y-%m-%d",
    ),
    "American dates": (MOMENTS.dt.strftime("%m/%d/%Y").tolist(), "datetime", "%m/%d/%Y"),
    "British dates": (MOMENTS.dt.strftime("%d/%m/%Y").tolist(), "datetime", "%d/%m/%Y"),
    "dates with points": (MOMENTS.dt.strftime("%d.%m.%Y").tolist(), "datetime", "%d.%m.%Y"),
    "short dates": ([f"{t.month}/{t.day}/{t.year}" for t in MOMENTS], "datetime", "%-m/%-d/%Y"),
    "years of two digits": (MOMENTS.dt.strftime("%m/%d/%y").tolist(), "datetime", "%m/%d/%y"),
    "names of months": (MOMENTS.dt.strftime("%d %b %Y").tolist(), "datetime", "%d %b %Y"),
    "long names of months": (MOMENTS.dt.strftime("%B %d, %Y").tolist(), "datetime", "%B %d, %Y"),
    "names of months in capitals": (MOMENTS.dt.strftime("%d-%b-%Y").str.upper().tolist(), "datetime", "%d-%^b-%Y"),
    "days as whole numbers": (MOMENTS.dt.strftime("%Y%m%d").tolist(), "datetime", "%Y%m%d"),
    "days as whole numbers with gaps": (_with(MOMENTS.dt.strftime("%Y%m%d")), "datetime", "%Y%m%d"),
    "months": (MOMENTS.dt.strftime("%Y-%m").tolist(), "datetime", "%Y-%m"),
    "moments in UTC": (MOMENTS.dt.strftime("%Y-%m-%dT%H:%M:%SZ").tolist(), "datetime", "%Y-%m-%dT%H:%M:%SZ"),
    "moments with an offset": (
        MOMENTS.dt.strftime("%Y-%m-%d %H:%M:%S+01:00").tolist(),
        "datetime",
        "%Y-%m-%d %H:%M:%S+01:00",
    ),
    "moments with the offsets of a time zone": (
        [t.isoformat() for t in MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")],
        "datetime",
        "%Y-%m-%dT%H:%M:%S%:z{Europe/Berlin}",
    ),
    "fractions left out where they are zero": (
        [(t + pd.Timedelta(k % 4 * 250, "ms")).isoformat() for k, t in enumerate(MOMENTS)],
        "datetime",
        "%Y-%m-%dT%H:%M:%S%.6f",
    ),
    "milliseconds": (
        [f"{t:%Y-%m-%d %H:%M:%S}.{k % 1000:03}" for k, t in enumerate(MOMENTS)],
        "datetime",
        "%Y-%m-%d %H:%M:%S.%3f",
    ),
    "microseconds": (
        [f"{t:%Y-%m-%dT%H:%M:%S}.{k * 997:06}" for k, t in enumerate(MOMENTS)],
        "datetime",
        "%Y-%m-%dT%H:%M:%S.%6f",
    ),
    "times of day": (MOMENTS.dt.strftime("%H:%M").tolist(), "datetime", "%H:%M"),
    "times with AM and PM": (MOMENTS.dt.strftime("%I:%M %p").tolist(), "datetime", "%I:%M %p"),
    "days with weekdays": (MOMENTS.dt.strftime("%a, %d %b %Y").tolist(), "datetime", "%a, %d %b %Y"),
    "texts with separators, quotes and lines": ([f'a, "b"; {k}\nc' for k in range(NUM_RECORDS)], "text", None),
    "texts of other scripts": ([f"Müller {k} 東京 😀" for k in range(NUM_RECORDS)], "text", None),
    "ranges": (RNG.choice(["18-24", "25-34", "35-44"], NUM_RECORDS).tolist(), "category", None),
    "versions": (RNG.choice(["1.2.3", "1.10.0", "2.0.0"], NUM_RECORDS).tolist(), "category", None),
    "nothing": ([""] * NUM_RECORDS, "null", None),
}
_UTC = MOMENTS.dt.tz_localize("UTC")
_GAPS = pd.Series(COUNTS).mask(EVERY_TENTH)
# What is in memory
COLUMNS: dict[str, pd.Series] = {
    "Int64 with gaps": _GAPS.astype("Int64"),
    "Int16": pd.Series(COUNTS, dtype="Int16"),
    "uint8": pd.Series(COUNTS, dtype="uint8"),
    "float32": pd.Series(AMOUNTS.round(1), dtype="float32"),
    "Float64 with gaps": pd.Series(AMOUNTS.round(2)).mask(EVERY_TENTH).astype("Float64"),
    "boolean with gaps": pd.Series(COUNTS > 9).mask(EVERY_TENTH).astype("boolean"),
    "string": pd.Series(WORDS, dtype="string"),
    "Arrow's string": pd.Series(WORDS).astype(pd.ArrowDtype(pa.string())),
    "Arrow's int32 with gaps": _GAPS.astype("Int32").astype(pd.ArrowDtype(pa.int32())),
    "Arrow's double": pd.Series(AMOUNTS.round(2)).astype(pd.ArrowDtype(pa.float64())),
    "Arrow's bool": pd.Series(COUNTS > 9).astype(pd.ArrowDtype(pa.bool_())),
    "Arrow's dictionary": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(WORDS.tolist()).dictionary_encode())),
    "Arrow's timestamp": MOMENTS.astype(pd.ArrowDtype(pa.timestamp("us"))),
    "Arrow's timestamp with a time zone": _UTC.astype(pd.ArrowDtype(pa.timestamp("us", "UTC"))),
    "Arrow's date32": MOMENTS.dt.date.astype(pd.ArrowDtype(pa.date32())),
    "Arrow's decimal128": pd.Series([Decimal(f"{a:.2f}") for a in AMOUNTS]).astype(pd.ArrowDtype(pa.decimal128(9, 2))),
    "sparse": pd.Series(pd.arrays.SparseArray(np.where(COUNTS > 20, COUNTS, 0))),
    "categories": pd.Series(pd.Categorical(WORDS)),
    "ordered categories": pd.Series(pd.Categorical(WORDS, ["red", "blue", "green"], ordered=True)),
    "categories over string": pd.Series(WORDS, dtype="string").astype("category"),
    "categories over numbers": pd.Series(COUNTS % 3).astype("category"),
    "datetime64[s]": MOMENTS.astype("datetime64[s]"),
    "a time zone by its name": _UTC.dt.tz_convert("Europe/Berlin"),
    "zoneinfo": _UTC.dt.tz_convert(ZoneInfo("Asia/Tokyo")),
    "a fixed offset": _UTC.dt.tz_convert(timezone(timedelta(hours=-5))),
    "pytz's fixed offset": _UTC.dt.tz_convert(pytz.FixedOffset(60)),
    "dateutil's fixed offset": _UTC.dt.tz_convert(tzoffset(None, 3600)),
    "Python's datetimes": pd.Series([t.to_pydatetime() for t in MOMENTS], dtype=object),
    "Python's dates": MOMENTS.dt.date,
    "Python's dates with gaps": MOMENTS.dt.date.where(~EVERY_TENTH, None),
    "Python's times": MOMENTS.dt.time,
    "Decimals": pd.Series([Decimal(f"{a:.2f}") for a in AMOUNTS]),
    "periods": MOMENTS.dt.to_period("M"),
    "days as integers": MOMENTS.dt.strftime("%Y%m%d").astype("int64"),
    "durations": MOMENTS - MOMENTS.min(),
    "texts of dollars": pd.Series(_texts(lambda a: _signed(a, "${:,.2f}"), AMOUNTS)),
    "texts of decimal commas": pd.Series(_texts(_german, AMOUNTS)),
}
