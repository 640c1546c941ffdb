"""How dates and times are written in texts: `03/14/2021`, `2021-03-14T10:00:00.123Z`, `14 Mar 2021`."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


MONTHS, SHORT_MONTHS = list(calendar.month_name)[1:], list(calendar.month_abbr)[1:]
DAYS, SHORT_DAYS = list(calendar.day_name), list(calendar.day_abbr)


def _any_of(words: list[str]) -> str:
    return f"({'|'.join(words)})"


# What each code may read
CODES = {
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%m": r"(0[1-9]|1[0-2])",
    "%d": r"(0[1-9]|[12]\d|3[01])",
    "%H": r"([01]\d|2[0-3])",
    "%I": r"(0[1-9]|1[0-2])",
    "%M": r"[0-5]\d",
    "%S": r"[0-5]\d",
    "%f": r"\d{6}",
    "%p": "(AM|PM)",
    "%P": "(am|pm)",
    "%-m": r"([1-9]|1[0-2])",
    "%-d": r"([1-9]|[12]\d|3[01])",
    "%-H": r"(\d|1\d|2[0-3])",
    "%-I": r"([1-9]|1[0-2])",
    "%B": _any_of(MONTHS),
    "%b": _any_of(SHORT_MONTHS),
    "%^b": _any_of([name.upper() for name in SHORT_MONTHS]),
    "%A": _any_of(DAYS),
    "%a": _any_of(SHORT_DAYS),
    **{f"%{digits}f": rf"\d{{{digits}}}" for digits in range(1, 10)},
    **{f"%.{digits}f": rf"(\.\d{{{digits}}})?" for digits in range(1, 10)},
}
OFFSET = r"[+-]\d\d:?[0-5]\d"  # from UTC
ZONE = r"%:?z\{[^}]+\}"
CODE = re.compile(rf"({ZONE}|%(?:\.[1-9]|[-^1-9])?[a-zA-Z])")
FRACTION = re.compile(r"%(\.?)([1-9])f")
# What `strftime` does not write, or not on every platform
WRITERS: dict[str, Callable[[pd.Series], pd.Series]] = {
    "%-m": lambda moments: moments.dt.month.astype(str),
    "%-d": lambda moments: moments.dt.day.astype(str),
    "%-H": lambda moments: moments.dt.hour.astype(str),
    "%-I": lambda moments: ((moments.dt.hour + 11) % 12 + 1).astype(str),
    "%P": lambda moments: moments.dt.strftime("%p").str.lower(),
    "%^b": lambda moments: moments.dt.strftime("%b").str.upper(),
}
DATES = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%Y-%m",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%-d.%-m.%Y",
    "%-m/%-d/%Y",
    "%-d/%-m/%Y",
    "%d.%m.%y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%-m/%-d/%y",
    "%-d/%-m/%y",
    "%d %b %Y",
    "%-d %b %Y",
    "%d %B %Y",
    "%-d %B %Y",
    "%b %d, %Y",
    "%b %-d, %Y",
    "%B %d, %Y",
    "%B %-d, %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d-%^b-%Y",
    "%d-%^b-%y",
    "%b %Y",
    "%B %Y",
    "%y-%m-%d",
    "%y.%m.%d",
    "%a, %d %b %Y",
    "%A, %B %d, %Y",
)
USUAL_ZONES = (
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Los_Angeles",
    "Australia/Sydney",
)  # of many that have the same offsets
NUM_LOOKED_AT = 20  # texts of which one has an offset if there are any
NUM_PROBED = 100  # moments of each offset that say which zone it is
MAX_LENGTH = 64  # of a text that may be a date
TIME = re.compile(
    r"(?P<between>T| |, )?(?P<hour>\d\d?):\d\d(?P<seconds>:\d\d)?(?:(?P<point>[.,])(?P<fraction>\d{1,9}))?"
    r"(?P<half>\s?[AaPp][Mm])?(?P<offset>\s?(?:Z|[+-]\d\d:?\d\d))?"
)


class DatetimeFormat:
    """
    How all dates or times of a column are written.

    Args:
        pattern (`str`):
            As `strftime` has it. Besides, on every platform, `%-d`, `%-m`, `%-H` and `%-I` have no leading zero, `%P`
            is am or pm, `%^b` is JAN to DEC, `%1f` to `%9f` are so many digits of a second, and `%.1f` to `%.9f` the
            same after a point, left out where all are zero. An offset from UTC stands as it is, such as `Z` or
            `+01:00`: the moments are those of clocks there. At the end, `%:z{Europe/Berlin}` and `%z{Europe/Berlin}`
            are the offset of a time zone at the moment, with and without a colon: these moments are in UTC.
    """

    def __init__(self, pattern: str):
        self._parts = [part for part in CODE.split(pattern) if part]
        self._zone = self._parts.pop() if re.search(f"{ZONE}$", pattern) else None
        plain = "".join("%p" if part == "%P" else re.sub(r"^%[-^1-9]", "%", part) for part in self._parts)
        self._plain = re.sub(r"%\.\df", ".%f", plain)
        self._may_lack_fraction = self._plain != plain
        self.time_zone = None if self._zone is None else _zone_of(self._zone[:-1].partition("{")[2])
        codes = [part for part in self._parts if part.startswith("%")]
        # What matches is written just so; but a day of the week may be another than that of the date.
        self._is_strict = all(code in CODES and code not in ("%a", "%A") for code in codes)
        self._regex = f"^{_regex_of(pattern).pattern}$"

    def read(self, texts: pd.Series) -> pd.Series:
        """Moments (`datetime64[ns]`) of texts; NaT for one that this format does not write."""
        whole = texts.astype(object)
        if self._zone is not None:
            found = whole.str.extract(f"^(.*?)({OFFSET})$")
            whole, offsets = found[0], found[1].str.replace(":", "")
        if self._may_lack_fraction:
            whole = whole.str.replace(r"(:\d\d:\d\d)(?!\.)", r"\1.0", regex=True)
        moments = pd.to_datetime(whole, format=self._plain, errors="coerce")
        if self._zone is not None:
            moments = moments - pd.to_timedelta(offsets.str[:3] + ":" + offsets.str[3:] + ":00")
        if self._is_strict and self._zone is None and not self._may_lack_fraction:
            is_same = pd.Series(pc.match_substring_regex(pa.array(texts, pa.string()), self._regex), texts.index)
        else:
            is_same = self.write(moments) == texts
        return moments.where(is_same).dt.as_unit("ns")

    def write(self, moments: pd.Series) -> pd.Series:
        """Texts of moments; NaN for NaT."""
        offsets: pd.Series | str = ""
        if self._zone is not None:
            moments = moments.dt.tz_localize("UTC").dt.tz_convert(self.time_zone)
            offsets = moments.dt.strftime("%z")
            offsets = offsets.str[:3] + ":" + offsets.str[3:] if self._zone.startswith("%:z") else offsets
        if not any(part in WRITERS or FRACTION.fullmatch(part) for part in self._parts):
            return moments.dt.strftime(self._plain) + offsets
        whole = pd.Series("", index=moments.index)
        for part in self._parts:
            if part in WRITERS:
                piece: pd.Series | str = WRITERS[part](moments)
            elif match := FRACTION.fullmatch(part):
                digits = int(match[2])
                nanoseconds = moments.dt.microsecond * 1000 + moments.dt.nanosecond
                units = nanoseconds.fillna(0).astype("int64") // 10 ** (9 - digits)
                piece = match[1] + units.astype(str).str.zfill(digits)
                piece = piece.where((units > 0) | (not match[1]), "")
            else:
                piece = moments.dt.strftime(part) if part.startswith("%") else part
            whole = whole + piece
        return (whole + offsets).mask(moments.isna())


def _zone_of(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"{name!r} is no time zone; write one like Europe/Berlin") from error


@lru_cache(maxsize=1024)
def datetime_format(pattern: str) -> DatetimeFormat:
    """The [`DatetimeFormat`] of a pattern."""
    return DatetimeFormat(pattern)


@lru_cache(maxsize=1024)
def _regex_of(pattern: str) -> re.Pattern:
    return re.compile("".join(CODES.get(part, re.escape(part)) for part in CODE.split(pattern)))


def find_zone(texts: pd.Series) -> str | None:
    """
    The time zone that has the offsets of all moments, of which the texts are mostly, as a code of a pattern; `None`
    where none has.
    """
    if not texts[:NUM_LOOKED_AT].str.contains(f"{OFFSET}$").any():
        return None
    found = texts.str.extract(f"({OFFSET})$")[0].dropna()
    if 2 * len(found) < len(texts) or found.nunique() < 2:
        return None
    texts = texts[found.index]
    code = "%:z" if found.str.contains(":").all() else "%z"
    some = pd.concat([texts[found == offset][:NUM_PROBED] for offset in found.unique()])
    moments = pd.to_datetime(
        some.str.replace(" (?=[+-])", "", regex=True), format="ISO8601", utc=True, errors="coerce"
    )
    offsets = found[some.index].str.replace(":", "")
    if moments.isna().any():
        return None
    names = dict.fromkeys([*USUAL_ZONES, *(name for name in sorted(available_timezones()) if "/" in name)])
    pairs = list(zip(moments, offsets))
    for name in names:
        zone = ZoneInfo(name)
        if all(moment.astimezone(zone).strftime("%z") == offset for moment, offset in pairs):
            return f"{code}{{{name}}}"
    return None


def patterns_of(text: str, zone: str | None = None) -> Iterator[str]:
    """
    All patterns that may have written a text, the likelier ones first.

    Args:
        text (`str`): The text.
        zone (`str`, *optional*): What [`find_zone`] says of its column.
    """
    if len(text) > MAX_LENGTH or not any(sign.isdigit() for sign in text):
        return
    for date in DATES:
        if match := _regex_of(date).match(text):
            if match.end() == len(text):
                yield date
            else:
                yield from (date + time for time in _times_of(text[match.end() :], zone) if not time.startswith("%"))
    yield from (time for time in _times_of(text) if time.startswith("%"))


def _times_of(text: str, zone: str | None = None) -> Iterator[str]:
    match = TIME.fullmatch(text)
    if match is None:
        return
    between, hour, half = match["between"] or "", match["hour"], match["half"] or ""
    offset = match["offset"] or ""
    if zone is not None and offset:
        offset = " " * offset.startswith(" ") + zone
    codes = ["%I", "%-I"] if half else ["%H", "%-H"]
    clock = half[:-2] + ("%p" if half[-2:].isupper() else "%P") if half else ""
    rest = ":%M" + (":%S" if match["seconds"] else "")
    rests = [rest]
    if match["fraction"]:
        rests = [f"{rest}{match['point']}%{len(match['fraction'])}f"]
    if match["seconds"] and match["point"] != ",":  # which other texts of a column may have, or not
        rests += [f"{rest}%.{digits}f" for digits in ([len(match["fraction"])] if match["fraction"] else (6, 3, 9))]
    for rest in rests:
        for code in codes if len(hour) == 2 else codes[1:]:
            yield between + code + rest + clock + offset
