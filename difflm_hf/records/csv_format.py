"""How a CSV file is written, as the user says or its bytes do."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from charset_normalizer import from_bytes

from ..checks import shown


SEPARATORS = (",", ";", "\t", "|")
SINGLE_QUOTED = re.compile("'[^'\\r\\n]*'[,;\\t|]'[^'\\r\\n]*'")  # of a first line
CHOICES = {"quote": ('"', "'", ""), "quoting": ("minimal", "all"), "newline": ("\n", "\r\n")}
UNQUOTED_NULL = "NA"  # what stands without quotes for a missing value among values that have them
NUM_SNIFFED = 1 << 18  # bytes that say how a file is written
NUM_TELLING, NUM_KINDS = 32, 8  # bytes beyond ASCII, and different ones, that say of another encoding than cp1252
MANY = 10  # times as many signs of UTF-8 as bytes that are none say that these are mistakes


@dataclass(frozen=True)
class CSVFormat:
    """
    How a CSV file is written. What is not given is found from the data.

    Args:
        separator (`str`, *optional*): Between values: `,`, `;`, `|` or a tab.
        decimal (`str`, *optional*): The decimal point, `.` or `,`.
        encoding (`str`, *optional*): Such as `utf-8`, `cp1252` or `utf-16`.
        null_words (`tuple[str]`, *optional*):
            What stands for a missing value in all columns, beside an empty one. If not given, the usual words, such as
            `NA`, where all else are numbers or dates.
        header (`bool`, defaults to `True`): Whether the first line has the names of columns.
        quote (`str`, *optional*): What stands around values that hold a separator, `"` or `'`; `""` for nothing.
        quoting (`str` or `list[str]`, *optional*):
            Which values are written with quotes: those that must be, `"minimal"`, `"all"`, or names and the values of
            these columns.
        newline (`str`, *optional*): What ends a line, `"\\n"` or `"\\r\\n"`.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    null_words: tuple[str, ...] | None = None
    header: bool = True
    quote: str | None = None
    quoting: str | tuple[str, ...] | None = None
    newline: str | None = None

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in (None, *choices) and not isinstance(value, (list, tuple)):
                raise ValueError(f"{name}={shown(value)} is not one of {', '.join(map(repr, choices))}")
        if self.decimal not in (None, ".", ",") or (self.decimal and self.decimal == self.separator):
            raise ValueError(f"decimal={shown(self.decimal)} is not '.' or ',', and other than the separator")
        if self.separator is not None and not (isinstance(self.separator, str) and len(self.separator) == 1):
            raise ValueError(f"separator={shown(self.separator)} is not one character")
        if isinstance(self.null_words, str):
            raise ValueError(f"null_words={shown(self.null_words)} is one word; give a list of words")
        if self.null_words is not None and not all(isinstance(word, str) for word in self.null_words):
            raise ValueError(f"null_words={shown(list(self.null_words))} are not all strings")
        for name in ("null_words", "quoting"):
            if isinstance(value := getattr(self, name), list):  # as JSON has them
                object.__setattr__(self, name, tuple(value))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


USUAL_CSV = CSVFormat(",", ".", "utf-8", quote='"', quoting="minimal", newline="\n")


def complete_format(how: CSVFormat, data: bytes) -> CSVFormat:
    """The format with all found but the decimal point and the words for missing values."""
    encoding = how.encoding or _encoding_of(data)
    try:
        sample = data[:NUM_SNIFFED].decode(encoding, errors="ignore")
    except LookupError as error:
        raise ValueError(f"encoding {encoding!r} is not one that Python knows; try 'utf-8', or 'cp1252'") from error
    quote = how.quote
    if quote is None:
        quote = "'" if SINGLE_QUOTED.match(sample) else '"'
    found = _separator_of(sample, quote, len(data) > NUM_SNIFFED)
    separator = how.separator or found
    names = next(reader(sample, separator, quote), [])
    if len(names) == 1 and found in names[0]:
        raise ValueError(
            f"separator={separator!r} leaves a single column, {shown(names[0])}; leave it out, or give {found!r}"
        )
    return replace(
        how,
        encoding=encoding,
        separator=separator,
        quote=quote,
        quoting=how.quoting or _quoting_of(sample, separator, quote),
        newline=how.newline or ("\r\n" if 2 * sample.count("\r\n") > sample.count("\n") else "\n"),
    )


def _encoding_of(data: bytes) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return encoding
    try:
        data.decode()
        return "utf-8"
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        num_wrong = text.count("\ufffd")
        if len(text) - len(text.encode("ascii", "ignore")) > MANY * num_wrong:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"line {line} has bytes that are no UTF-8, such as {data[error.start : error.start + 1]!r}, and all "
                "else is; mend it, or give another encoding, such as encoding='cp1252'"
            ) from error
    lines = b"\n".join(line for line in data[: 16 * NUM_SNIFFED].split(b"\n") if not line.isascii())[:NUM_SNIFFED]
    best = from_bytes(lines).best()
    if best is None:
        raise ValueError("no encoding was found in which it is text; give one, such as encoding='cp1252'")
    # That of Windows in the west is by far the most frequent: it is taken for few signs, and where others read alike.
    signs = [byte for byte in lines if byte > 127]
    is_few = len(signs) < NUM_TELLING or len(set(signs)) < NUM_KINDS
    return "cp1252" if is_few or "cp1252" in best.could_be_from_charset else best.encoding


def reader(sample: str, separator: str, quote: str) -> Iterator[list[str]]:
    """The rows of a part of a file."""
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return csv.reader(io.StringIO(sample, newline=""), delimiter=separator, quotechar=quote or None, quoting=quoting)


def names_of(first: list[str]) -> list[str]:
    """The names of columns, also of those without one, as pandas calls them."""
    return [name or f"Unnamed: {k}" for k, name in enumerate(first)]


def _quoting_of(sample: str, separator: str, quote: str) -> str | tuple[str, ...]:
    """
    Which values have quotes: some columns', where all names have, and in each column either all values or none.
    Missing ones, as R writes them, have none.
    """
    if not quote:
        return "minimal"
    q, s = re.escape(quote), re.escape(separator)
    pattern = re.compile(rf"({q}(?:[^{q}]|{q}{q})*{q}|[^{s}\r\n]*)({s}|\r?\n|$)")
    rows: list[list[bool | None]] = [[]]
    has_nulls = False
    for match in pattern.finditer(sample):
        rows[-1].append(match[1].startswith(quote) if match[1] not in ("", UNQUOTED_NULL) else None)
        has_nulls |= match[1] == UNQUOTED_NULL
        if match[2] != separator:
            rows.append([])
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    columns = [{has for has in column if has is not None} for column in zip(*whole)]
    if not all(rows[0]) or any(len(kinds) > 1 for kinds in columns):
        return "minimal"
    names = names_of(next(reader(sample, separator, quote)))
    quoted = tuple(name for name, kinds in zip(names, columns) if True in kinds)
    return "all" if len(quoted) == len(names) and not has_nulls else quoted or "minimal"


def _separator_of(sample: str, quote: str, is_cut: bool) -> str:
    """The separator by which all lines have as many values, and most of them; a comma when there is no such."""
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            rows = [row for row in reader(sample, separator, quote) if row]
        except csv.Error:
            continue
        widths = [len(row) for row in (rows[:-1] if is_cut else rows)]
        if widths and most < widths[0] and widths.count(widths[0]) >= 0.9 * len(widths):
            best, most = separator, widths[0]
    return best
