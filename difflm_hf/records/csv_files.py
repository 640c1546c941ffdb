"""CSV files as people have them: any separator, decimal point and encoding, and every value in its own writing."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from transformers.utils import logging

from .csv_format import NUM_SNIFFED, UNQUOTED_NULL, USUAL_CSV, CSVFormat, complete_format, names_of, reader
from .inference import find_format
from .number_format import MAX_DECIMALS, NumberFormat, number_format


logger = logging.get_logger(__name__)

# Of a table's `attrs`: its [`CSVFormat`], by columns a [`ColumnFormat`], and whether the decimal point is sure
CSV, FORMATS, SURE = "csv", "formats", "is_decimal_sure"
SEPARATOR_LINE = re.compile(rb"(?:\xef\xbb\xbf)?sep=(.)\r?\n")
BOM = b"\xef\xbb\xbf"
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")  # that formulas of spreadsheets begin with
GZIP = b"\x1f\x8b"  # how compressed files begin
NULL_WORDS = ("NA", "N/A", "n/a", "na", "#N/A", "NULL", "Null", "null", "None", "none", "NaN", "nan", "-", "?", ".")
# Of columns of integers or booleans with nulls, which would be of floats or objects
NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}
NUMBER = r"^-?(0|[1-9]\d*)({point}\d+)?{exponent}$"
LEADING_LINES = re.compile(rb"\A(\xef\xbb\xbf)?(?:[ \t]*\r?\n)+")
OF_BOOLEANS = re.compile("[A-Za-z]+/[A-Za-z]+")
STYLES = (str.title, str.lower, str.upper)  # of writing true and false
EXPONENT = r"([eE][+-]?\d+)?"
BLOCK_SIZE = 1 << 20  # bytes that are parsed at once
NUM_PROBED = 1000  # values that say which decimal point a column has


@dataclass(frozen=True)
class ColumnFormat:
    """
    How a column of a CSV file writes its values, where pandas would write them otherwise.

    Args:
        format (`str`, *optional*): As of a [`Field`].
        null (`str`, defaults to `""`): What stands for a missing value.
        odd (`str`, *optional*): A value that will be written otherwise than it stands there.
    """

    format: str | None = None
    null: str = ""
    odd: str | None = None


def read_csv(path: Path, how: CSVFormat | None = None) -> pd.DataFrame:
    """
    Reads a CSV file. Values are taken for numbers or booleans where these are written back just as they stand; all
    others stay texts, for the schema to decide.

    Args:
        path (`Path`): The file.
        how ([`CSVFormat`], *optional*): How it is written.

    Raises:
        `ValueError`: for what is no CSV file. The message says where and what to do.
    """
    data, how = path.read_bytes(), how or CSVFormat()
    if data.startswith(GZIP):
        data = gzip.decompress(data)
    if match := SEPARATOR_LINE.match(data):  # of Excel
        how, data = replace(how, separator=how.separator or match[1].decode()), data[match.end() :]
    if not data.strip(b"\r\n \0\xef\xbb\xbf\xff\xfe"):
        raise ValueError("the file is empty")
    data = LEADING_LINES.sub(rb"\1", data)
    how = complete_format(how, data)
    texts = _read_texts(data, how)
    columns = dict(zip(texts.column_names, texts.columns))
    is_sure = how.decimal is not None
    if not is_sure:
        points = _points_of(columns.values()) - {how.separator}
        is_sure = len(points) == 1
        usual = "," if how.separator == ";" else "."
        how = replace(how, decimal=points.pop() if is_sure else usual)
    quoted = how.quoting if isinstance(how.quoting, tuple) else ()
    typed = {name: _typed(column, how, name in quoted) for name, column in columns.items()}
    table = pd.DataFrame({name: values for name, (values, _) in typed.items()})
    table.attrs[CSV], table.attrs[SURE] = how.to_dict(), is_sure
    table.attrs[FORMATS] = {name: asdict(of) for name, (_, of) in typed.items() if of != ColumnFormat()}
    return table


def escape_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """With an apostrophe before texts that a spreadsheet would run as a formula (OWASP, "CSV Injection")."""

    def escape(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value

    formats = table.attrs.get(FORMATS, {})
    texts = [name for name in table.select_dtypes(["object", "string", "category"]) if name not in formats]
    escaped = table.assign(**{name: table[name].astype(object).map(escape) for name in texts}).rename(columns=escape)
    escaped.attrs = {**table.attrs, FORMATS: {escape(name): of for name, of in formats.items()}}
    return escaped


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as its `attrs` say, or else as pandas does."""
    given = {name: value for name, value in table.attrs.get(CSV, {}).items() if value is not None}
    how, texts = replace(USUAL_CSV, **given), table.copy()
    for name in table.attrs.get(FORMATS, {}):
        if name in texts:
            texts[name] = _written(table[name], column_format(table, name), how.decimal)
    # Values are quoted when they hold a character that ends lines, as a carriage return does for readers.
    columns = texts.select_dtypes(["object", "string", "category"])
    has_returns = any("\r" in str(name) for name in texts) or any(
        columns[name].astype(str).str.contains("\r").any() for name in columns
    )
    quoting = csv.QUOTE_ALL if how.quoting == "all" else csv.QUOTE_MINIMAL
    if isinstance(how.quoting, tuple):
        quoting = csv.QUOTE_NONNUMERIC
        texts = pd.DataFrame(
            {name: _quoted(texts[name], table[name].notna(), name in how.quoting, how) for name in texts}
        )
    if how.quote == "":
        quoting = csv.QUOTE_NONE
        if any(columns[name].astype(str).str.contains(f"[{re.escape(how.separator)}\n]").any() for name in columns):
            raise ValueError(f"a value has the separator {how.separator!r} in it, and quote='' leaves it no quotes")
    for name in columns:
        if (lost := _unwritable(columns[name], how.encoding)) is not None:
            logger.warning(f"column {name!r}: {how.encoding} has no sign for some of {lost[:40]!r}; ? stands for them")
    # An empty name has none of its own.
    header = ["" if name == f"Unnamed: {k}" and CSV in table.attrs else name for k, name in enumerate(texts)]
    texts.to_csv(
        path,
        sep="\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else how.separator,
        decimal=how.decimal,
        encoding=how.encoding,
        errors="replace",
        header=header if how.header else False,
        index=False,
        quoting=quoting,
        quotechar=how.quote or '"',
        lineterminator="\r\n" if has_returns or how.newline == "\r\n" else "\n",
        # The same bytes whenever it is written
        compression={"method": "gzip", "mtime": 0} if path.suffix.lower() == ".gz" else None,
    )


def _unwritable(column: pd.Series, encoding: str) -> str | None:
    """The first text of a column that has signs which an encoding lacks."""
    for text in column.dropna().unique() if not encoding.startswith("utf") else ():
        try:
            str(text).encode(encoding)
        except UnicodeEncodeError:
            return str(text)
    return None


class _Unquoted(str):
    """A text that `csv.QUOTE_NONNUMERIC` takes for a number, by the method that numbers have."""

    def __float__(self) -> float:
        return float(str(self))


def _quoted(column: pd.Series, is_given: pd.Series, has_quotes: bool, how: CSVFormat) -> pd.Series:
    """A column whose values are written with quotes or without; missing ones have none."""
    if pd.api.types.is_float_dtype(column.dtype):
        column = _written(column, ColumnFormat(), how.decimal).where(column.notna(), None)
    kind = str if has_quotes else _Unquoted
    texts = [
        kind(value) if given else _Unquoted(value if isinstance(value, str) else "")
        for value, given in zip(column.astype(object), is_given)
    ]
    return pd.Series(texts, index=column.index, dtype=object)


def with_texts(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """
    A table that was read from a CSV file, with these columns as they stand there: of some of the rows, texts may have
    looked like numbers or booleans.
    """
    if CSV not in table.attrs:
        return table
    columns = {name: table[name] for name in names if name in table and pd.api.types.is_numeric_dtype(table[name])}
    return table.assign(
        **{
            name: _written(of, column_format(table, name), table.attrs[CSV]["decimal"]).where(of.notna())
            for name, of in columns.items()
        }
    )


def column_format(table: pd.DataFrame, name: str) -> ColumnFormat:
    """How a column of a table that was read from a CSV file is written, if its values still are such."""
    how = ColumnFormat(**table.attrs.get(FORMATS, {}).get(name, {}))
    return how if how.format is None or _is_in_format(table[name], how.format) else ColumnFormat(null=how.null)


def _is_in_format(column: pd.Series, format: str) -> bool:
    is_of_booleans = OF_BOOLEANS.fullmatch(format) is not None
    if pd.api.types.is_bool_dtype(column.dtype) or is_of_booleans:
        return pd.api.types.is_bool_dtype(column.dtype) and is_of_booleans
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return False
    numbers, of = column.dropna(), number_format(format)
    doubted = numbers[numbers.round(of.decimals) != numbers].unique()  # where rounding has the same limits as floats
    return all(of.read(of.write(number)) == number for number in doubted)


def alike(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables of the same columns, of which a CSV file's have texts where the other's have."""
    first, second = _with_dtypes(first, second), _with_dtypes(second, first)
    names = [name for name in first if first[name].dtype.kind == "O" or second[name].dtype.kind == "O"]
    return with_texts(first, names), with_texts(second, names)


def _with_dtypes(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """A table whose columns without any value have the dtypes of another, whose columns have some."""
    empty = [name for name in table if table[name].isna().all() and not other[name].isna().all()]
    return table.assign(**{name: pd.Series(pd.NA, table.index, other[name].convert_dtypes().dtype) for name in empty})


def _written(column: pd.Series, how: ColumnFormat, decimal: str) -> pd.Series:
    texts = column.astype(object)
    if how.format is not None and pd.api.types.is_bool_dtype(column.dtype):
        texts = column.map(dict(zip((False, True), how.format.split("/"))), na_action="ignore")
    elif how.format is not None:
        texts = column.map(number_format(how.format).write, na_action="ignore")
    elif pd.api.types.is_float_dtype(column.dtype):
        texts = column.map(lambda number: repr(number).replace(".", decimal), na_action="ignore")
    return texts.astype(object).map(str, na_action="ignore").where(column.notna(), how.null)


def _read_texts(data: bytes, how: CSVFormat) -> pa.Table:
    """All values as strings, by columns."""
    encoding = "utf-8" if how.encoding == "utf-8-sig" else how.encoding
    start = data[: 4 * NUM_SNIFFED].decode(how.encoding, errors="ignore")
    first = next(reader(start, how.separator, how.quote), [])
    names = names_of(first)
    if not how.header:
        names = [f"column_{k}" for k in range(1, len(first) + 1)]
    if any("\0" in name for name in names):
        raise ValueError("the header has a NUL character; give its encoding, such as encoding='utf-16'")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"column name {double!r} stands more than once; rename or drop one of them")
    _check_quotes(data, how)
    ragged: list[pa_csv.InvalidRow] = []

    def set_aside(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    def read(block_size: int) -> pa.Table:
        return pa_csv.read_csv(
            pa.BufferReader(data.removeprefix(BOM)),
            pa_csv.ReadOptions(
                column_names=names,
                encoding=encoding,
                block_size=block_size,
            ),
            pa_csv.ParseOptions(
                delimiter=how.separator,
                quote_char=how.quote or False,
                newlines_in_values=True,
                ignore_empty_lines=len(names) > 1,  # in a single column they are missing values
                invalid_row_handler=set_aside,
            ),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=isinstance(how.quoting, tuple),
                quoted_strings_can_be_null=False,
                null_values=[UNQUOTED_NULL],
            ),
        )

    try:
        texts = read(BLOCK_SIZE)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        texts = read(len(data) + 1)  # a value is longer than a block
    if ragged:
        row = ragged[0]
        raise ValueError(
            f"the row {row.text[:60]!r} has {row.actual_columns} values, and the header {row.expected_columns} names; "
            f"quote values that hold the separator {how.separator!r}, or give another one"
        )
    return texts.slice(int(how.header))  # not skipped by pyarrow, which takes a header without a line end for no row


def _check_quotes(data: bytes, how: CSVFormat) -> None:
    """Raises a `ValueError` for quotes that do not stand around a whole value, or are never closed."""
    q = (how.quote or "").encode()
    if not q or q not in data or how.encoding.startswith("utf-16"):
        return
    s = re.escape(how.separator.encode(how.encoding))
    # Of what is no quote, quotes around a value, or quotes inside one that has none around it, a file consists.
    quoted = rb"(?<![^%b\n\r])%b[^%b]*+(?:%b%b[^%b]*+)*+%b(?=[%b\r\n]|\Z)" % (s, q, q, q, q, q, q, s)
    end = re.match(rb"(?:[^%b]++|%b|(?<=[^%b\r\n])%b)*+" % (q, quoted, s, q), data.removeprefix(BOM)).end()
    if end < len(data.removeprefix(BOM)):
        line = data.count(b"\n", 0, end + len(data) - len(data.removeprefix(BOM))) + 1
        raise ValueError(
            f"line {line} opens a quote {how.quote} that does not end where its value does; double quotes inside of "
            "values, or give quote='' (--quote '') where they are no more than signs"
        )


def _points_of(columns: Iterable[pa.ChunkedArray]) -> set[str]:
    """The decimal points of those columns that leave no doubt."""
    points = set()
    for texts in columns:
        ends = pa.concat_arrays([*texts[:NUM_PROBED].chunks, *texts[-NUM_PROBED:].chunks])
        probed = pc.unique(ends).drop_null().to_pylist()
        found = NumberFormat.infer(probed)
        if found is None or not found.point:
            continue
        if not found.is_ambiguous or any(re.match(r"\D*0[.,]\d", text) for text in probed):
            points.add(found.point)
    return points


def _typed(texts: pa.ChunkedArray, how: CSVFormat, has_quotes: bool = False) -> tuple[pd.Series, ColumnFormat]:
    """The values of a column, and how it writes them."""
    has_nulls = has_quotes and texts.null_count > 0
    texts, null, other = _without_nulls(texts if has_quotes else texts.fill_null(UNQUOTED_NULL), how.null_words)
    null = UNQUOTED_NULL if has_nulls else null
    found = _to_numbers(texts, how.decimal)
    if found is None:
        distinct = pc.unique(texts).drop_null()
        if how.null_words is None and (usual := _null_words(distinct, how.decimal)):
            texts, null, other = _without_nulls(pc.fill_null(texts, ""), usual)
            found = _to_numbers(texts, how.decimal)
        words = set(pc.unique(texts).drop_null()[:3].to_pylist())
        for style in STYLES:
            if words and words <= {style("false"), style("true")}:
                spelled = None if style is str.title else f"{style('false')}/{style('true')}"
                found = pc.equal(texts, style("true")), spelled
    values, format = found or (texts, None)
    odd = _odd_one(texts, values, format) if pa.types.is_floating(values.type) else None
    odd = other if odd is None else odd
    return _to_pandas(values), ColumnFormat(format, null, odd)


def _without_nulls(texts: pa.ChunkedArray, words: Sequence[str] | None) -> tuple[pa.ChunkedArray, str, str | None]:
    """Null where nothing stands, or one of these words; what most often does; and another one, if there is any."""
    is_empty = pc.equal(pc.binary_length(texts), 0)
    is_null = pc.or_(is_empty, pc.is_in(texts, pa.array(words))) if words else is_empty
    if not pc.any(is_null).as_py():
        return texts, "", None
    counts = pc.value_counts(texts.filter(is_null)).to_pylist() if words else [{"values": "", "counts": 1}]
    found = [of["values"] for of in sorted(counts, key=lambda of: -of["counts"])]
    return pc.if_else(is_null, None, texts), found[0], found[1] if len(found) > 1 else None


def _null_words(distinct: pa.Array, decimal: str) -> list[str]:
    """The usual words for a missing value among numbers or dates."""
    is_word = pc.is_in(distinct, pa.array(NULL_WORDS))
    words, rest = distinct.filter(is_word), distinct.filter(pc.invert(is_word))
    if not len(words) or not len(rest):
        return []
    pattern = NUMBER.format(point=re.escape(decimal), exponent=EXPONENT)
    is_one_kind = (
        pc.all(pc.match_substring_regex(rest, pattern)).as_py()
        or find_format(rest.to_pandas(), decimal)
        or any({*rest.to_pylist()} <= {style("false"), style("true")} for style in STYLES)
    )
    return words.to_pylist() if is_one_kind else []


def _to_numbers(texts: pa.ChunkedArray, point: str) -> tuple[pa.ChunkedArray, str | None] | None:
    """Numbers, and their format where pandas would write them otherwise; `None` for what are no numbers."""
    if texts.null_count == len(texts):
        return None
    try:
        integers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    else:
        # Not what has leading zeros, or a sign too many
        return (integers, None) if pc.all(pc.equal(integers.cast(pa.string()), texts)).as_py() else None
    try:
        values = (texts if point == "." else pc.replace_substring(texts, point, ".")).cast(pa.float64())
    except pa.ArrowInvalid:
        return None

    def matches(exponent: str) -> bool:
        pattern = NUMBER.format(point=re.escape(point), exponent=exponent)
        return pc.all(pc.match_substring_regex(texts, pattern)).as_py()

    if matches(""):
        # Whole numbers beyond 64 bits are no floats.
        return (values, _decimals(texts, values, point)) if pc.any(pc.match_substring(texts, point)).as_py() else None
    return (values, None) if matches(EXPONENT) and pc.all(pc.is_finite(values)).as_py() else None


def _decimals(texts: pa.ChunkedArray, values: pa.ChunkedArray, point: str) -> str | None:
    """The format of numbers without exponents, where Python would write them otherwise."""
    places = pc.find_substring(texts, point)
    decimals = pc.if_else(pc.less(places, 0), 0, pc.subtract(pc.subtract(pc.utf8_length(texts), places), 1))
    least, most = (end.as_py() for end in pc.min_max(decimals).values())
    sizes = pc.abs(values)
    is_short = pc.all(pc.or_(pc.equal(sizes, 0), pc.and_(pc.less(sizes, 1e16), pc.greater_equal(sizes, 1e-4))))
    if most > MAX_DECIMALS or (point == "." and least == 1 and is_short.as_py()):
        return None  # as Python writes floats
    return f"0{point}{'0' * least}{'#' * (most - least)}"


def _odd_one(texts: pa.ChunkedArray, values: pa.ChunkedArray, format: str | None) -> str | None:
    """A number that is not written back as it stands, if there is one among the first, longest, or that end in 0."""
    write = repr if format is None else number_format(format).write
    of_all = pa.table({"text": texts, "number": values, "length": pc.utf8_length(texts)})
    longest = pc.select_k_unstable(of_all, NUM_PROBED, [("length", "descending")])
    for some in (of_all, of_all.filter(pc.ends_with(texts, "0")), of_all.take(longest)):
        some = some.slice(0, NUM_PROBED)
        for text, number in zip(some["text"].to_pylist(), some["number"].to_pylist()):
            if text is not None and write(number) != text:
                return text
    return None


def _to_pandas(values: pa.ChunkedArray) -> pd.Series:
    """Of integers and booleans with nulls the dtypes that have these."""
    return values.to_pandas(types_mapper=NULLABLE.get if values.null_count else None)
