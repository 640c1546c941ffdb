"""Reading and writing tables of records."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Value
from pandas.api.types import infer_dtype

from ..checks import short, shown
from ..files import atomic_write
from .csv_files import NULLABLE, read_csv, write_csv
from .csv_files import escape_formulas as with_escaped_formulas
from .csv_format import CSVFormat
from .nested import HALF, is_nested, is_text, merge_orders, to_json, to_plain
from .sql import read_sql, write_sql


URL = re.compile(r"[a-z][a-z0-9+_]*://")
OF_FILES = re.compile(r"(https?|ftps?|sftp|file|s3|gs|hf)://")  # and of no database
MIXED = ("mixed", "mixed-integer")  # to pandas, such as [True, "a"] and [1, "a"]
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f]")  # which Excel does not take, as it does not longer texts
MAX_CELL, MAX_EXCEL_INTEGER = 32_767, 2**53
OPTIONAL = "optional"  # of a table's `attrs`: the columns that some of its records lack


def _read_json(path: Path) -> pd.DataFrame:
    return _from_records(json.loads(path.read_text(encoding="utf-8-sig")))


def _read_json_lines(path: Path) -> pd.DataFrame:
    # Not `pandas.read_json`, which rounds floats.
    records = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                records += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if line.strip() and not isinstance(records[-1], Mapping):
                raise ValueError(f"line {number}: {line.strip()[:40]!r} is no object, which every record is")
    return _from_records(records)


def _from_records(records: Any) -> pd.DataFrame:
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        raise ValueError("not a list of objects, one for each record")
    names = merge_orders(map(list, records))
    table = pd.DataFrame({name: _to_series([record.get(name) for record in records]) for name in names})
    table.attrs[OPTIONAL] = [name for name in names if not all(name in record for record in records)]
    return table


def _to_series(values: list) -> pd.Series:
    # Integers would be none any more beside NaN.
    has_integers = any(value is None for value in values) and any(type(value) is int for value in values)
    series = pd.Series(values, dtype=object)
    try:
        return series if has_integers else series.infer_objects()
    except ArithmeticError:  # of integers beyond floats, which inference refuses
        return series


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_csv(with_json_texts(table)[0], path)


def _write_json_lines(table: pd.DataFrame, path: Path) -> None:
    # Not `DataFrame.to_json`, which rounds floats.
    optional = table.attrs.get(OPTIONAL, ())
    with open(path, "w", encoding="utf-8") as file:
        for row in table.astype(object).where(table.notna(), None).to_dict("records"):
            record = {name: value for name, value in row.items() if value is not None or name not in optional}
            file.write(
                json.dumps(to_plain(record), ensure_ascii=False, default=lambda moment: moment.isoformat()) + "\n"
            )


def _read_parquet(path: Path) -> pd.DataFrame:
    return from_arrow(pq.read_table(path))


def from_arrow(data: pa.Table) -> pd.DataFrame:
    """An Arrow table with the dtypes that files have when they are read."""
    table = data.to_pandas()
    for field in data.schema:
        if field.name not in table:
            continue
        if isinstance(field.type, pa.JsonType):
            table[field.name] = table[field.name].map(json.loads, na_action="ignore")
        elif pa.types.is_nested(field.type):
            # Not as pandas reads them: lists of integers with a null would be of floats.
            table[field.name] = pd.Series(data[field.name].to_pylist(), index=table.index, dtype=object)
        elif field.type in NULLABLE and data[field.name].null_count and table[field.name].dtype.kind in "fO":
            table[field.name] = data[field.name].to_pandas(types_mapper=NULLABLE.get).set_axis(table.index)
    return table


def with_json_texts(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """
    A table with nested values as JSON, for what has none such, as have columns of several types of scalars; and the
    names of these columns.
    """
    objects = (name for name in table if table[name].dtype == object)
    names = [name for name in objects if table[name].map(is_nested).any() or infer_dtype(table[name]) in MIXED]
    return table.assign(**{name: table[name].map(to_json, na_action="ignore") for name in names}), names


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    texts, nested = with_json_texts(table)
    data = pa.Table.from_pandas(texts, preserve_index=False)
    for name in nested:
        position = data.column_names.index(name)
        data = data.set_column(position, pa.field(name, pa.json_()), data[name].cast(pa.json_()))
    pq.write_table(data, path)


def check_library(path: Path) -> None:
    """Raises an `ImportError` where a file needs a library that is not installed."""
    if ending_of(path) == ".xlsx" and find_spec("openpyxl") is None:
        raise ImportError("Excel files need openpyxl; pip install 'difflm_hf[excel]'")


def _read_excel(path: Path, sheet: str | None = None) -> pd.DataFrame:
    check_library(path)
    # NA may be a country: only empty cells are missing.
    cells = pd.read_excel(path, sheet or 0, header=None, dtype=object, keep_default_na=False, na_values=[""])
    if cells.empty:
        raise ValueError("the sheet is empty")
    names = [f"Unnamed: {k}" if pd.isna(name) else str(name) for k, name in enumerate(cells.iloc[0])]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"column name {double[0]!r} stands more than once; rename or drop one of them")
    rows = cells.iloc[1:].where(cells.iloc[1:].notna(), None)
    return pd.DataFrame({name: _to_series(rows[k].tolist()) for k, name in enumerate(names)})


def _write_excel(table: pd.DataFrame, path: Path) -> None:
    check_library(path)
    texts = with_json_texts(table)[0]
    for name in texts:
        for value in texts[name].dropna().unique():
            if isinstance(value, str) and (len(value) > MAX_CELL or CONTROL.search(value)):
                raise ValueError(
                    f"column {name!r}: {value[:40]!r} … is too long for a cell, or has control characters"
                )
            if isinstance(value, (int, np.integer)) and abs(value) > MAX_EXCEL_INTEGER:
                raise ValueError(f"column {name!r}: {value} has more digits than Excel keeps; write .csv or .parquet")
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        texts.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if cell.data_type in ("f", "e"):  # a text that looks like a formula, which would be run, or an error
                    cell.data_type = "s"


def _read_arrow(path: Path) -> pd.DataFrame:
    return from_arrow(feather.read_table(path))


def _write_arrow(table: pd.DataFrame, path: Path) -> None:
    feather.write_feather(with_json_texts(table)[0], path)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".csv.gz": read_csv,
    ".tsv.gz": read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".xlsx": _read_excel,
}
WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": _write_csv,
    ".tsv": _write_csv,
    ".csv.gz": _write_csv,
    ".tsv.gz": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_json_lines,
    ".arrow": _write_arrow,
    ".feather": _write_arrow,
    ".xlsx": _write_excel,
}


def ending_of(path: Path) -> str:
    """The part of a file's name that says what is in it, such as `.csv` or `.csv.gz`."""
    parts = path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]
    return "".join(parts).lower()


def _by_ending(functions: Mapping[str, Callable], path: Path) -> Callable:
    if (ending := ending_of(path)) not in functions:
        raise ValueError(f"{path}: {ending or 'no ending'} is not one of {', '.join(functions)}")
    return functions[ending]


def read_table(data: Any, csv: CSVFormat | None = None, query: str | None = None) -> pd.DataFrame:
    """
    Brings records in any of the usual forms into a DataFrame.

    Args:
        data (`pandas.DataFrame`, `datasets.Dataset`, `list[dict]`, `str` or `Path`):
            The records; the path of a `.csv` or `.tsv` (or, compressed, `.csv.gz`), `.parquet`, `.json` (a list of
            objects), `.jsonl`, `.arrow`, `.feather` or `.xlsx` file; or the URL of a database, such as
            `"sqlite:///shop.db"`.
        csv ([`CSVFormat`], *optional*): How a CSV file is written; what is not given is found from the data.
        query (`str`, *optional*):
            The table of a database, or a `SELECT`; of an Excel file the sheet, which is the first one if not given.

    Returns:
        `pandas.DataFrame`. Of a CSV file its `attrs` say how it was written, and [`write_table`] writes it so.

    Raises:
        `FileNotFoundError`, `IsADirectoryError`: when there is no such file, or a folder of that name.
        `ValueError`: when it cannot be read as its ending says, or has no rows. The message names the file.
        `TypeError`: for anything else than the above.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, Dataset):
        nested = [name for name, feature in data.features.items() if not isinstance(feature, (Value, ClassLabel))]
        plain = data.select_columns([name for name in data.features if name not in nested])
        columns = {name: pd.Series(data[name][:], dtype=object) for name in nested}
        return from_arrow(plain.with_format("arrow")[:]).assign(**columns)[list(data.features)]
    if isinstance(data, list) and all(isinstance(record, Mapping) for record in data):
        return _from_records(data)
    if not isinstance(data, (str, os.PathLike)):
        raise TypeError(
            f"cannot read records from a {type(data).__name__}; give a DataFrame, a Dataset, a list of dicts or a path"
        )
    if is_url(data):
        _check_database(data)
        if not query:
            raise ValueError(f"{_without_user(data)}: give query, the name of a table or a SELECT (--query)")
        return read_sql(str(data), query)
    path = Path(data)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; name a file of it")
    if not os.path.isfile(path):  # unlike `Path.is_file`, it takes names that are too long
        if os.path.exists(path):
            raise ValueError(f"{path} is a device or a pipe; write what comes from it to a file, and name that")
        raise FileNotFoundError(f"{short(str(path))}: no such file")
    read = _by_ending(READERS, path)
    if query is not None and read is not _read_excel:
        raise ValueError(f"{path}: query={query!r} is for databases and Excel files; leave it out (--query)")
    if read is not read_csv and csv is not None and csv != CSVFormat(null_words=csv.null_words):
        raise ValueError(f"{path}: separator, decimal, encoding and header are of CSV files; leave them out")
    try:
        if read is read_csv:
            table = read_csv(path, csv)
        else:
            table = _read_excel(path, query) if read is _read_excel else read(path)
            table = _without(table, csv.null_words) if csv is not None and csv.null_words else table
    except Exception as error:  # every reader has exceptions of its own
        raise ValueError(f"{path}: cannot be read as {ending_of(path)[1:]} ({error})") from error
    _check_size(table, str(path))
    return table


def _without(table: pd.DataFrame, words: Sequence[str]) -> pd.DataFrame:
    """A table in which words stand for missing values."""
    found = {name: table[name].isin(words) for name in table if table[name].dtype.kind == "O"}
    return table.assign(
        **{name: _to_series(table[name].mask(has, None).tolist()) for name, has in found.items() if has.any()}
    )


def is_url(data: Any) -> bool:
    """Whether data are the URL of a database."""
    return isinstance(data, str) and URL.match(data) is not None


def _check_database(url: str) -> None:
    """Raises a `ValueError` for a URL that is one of files."""
    if OF_FILES.match(url):
        raise ValueError(f"{_without_user(url)}: URLs are of databases; download the file, and give its path")


def _without_user(url: Any) -> str:
    """The URL of a database, without the password that may stand in it."""
    return re.sub(r"//[^/]*@", "//", str(url))


def write_table(
    table: pd.DataFrame, path: str | os.PathLike, name: str | None = None, escape_formulas: bool = False
) -> None:
    """
    Writes a table as the ending of `path` says: `.csv`, `.tsv`, `.csv.gz`, `.tsv.gz`, `.parquet`, `.jsonl`, `.arrow`,
    `.feather` or `.xlsx`. A file appears only when it is complete: it is written beside its place and then renamed.

    Args:
        table (`pandas.DataFrame`): The records.
        path (`str` or `Path`): The file, or the URL of a database.
        name (`str`, *optional*): The new table of the database.
        escape_formulas (`bool`, defaults to `False`):
            Whether texts of a CSV file that a spreadsheet would run as formulas get an apostrophe before them. Files
            of Excel hold none in any case.

    Raises:
        `ValueError`: for another ending, and when the database refuses.
    """
    if is_url(path):
        _check_database(str(path))
        if not name:
            raise ValueError(f"{_without_user(path)}: give name, that of the new table (--table)")
        return write_sql(table, str(path), name)
    path = Path(path)
    write = _by_ending(WRITERS, path)
    if escape_formulas:
        if write is not _write_csv:
            raise ValueError(f"{path}: escape_formulas is of CSV files; leave it out (--escape-formulas)")
        table = with_escaped_formulas(table)
    with atomic_write(path) as temporary:
        write(table, temporary)


def check_columns(table: pd.DataFrame, source: str) -> None:
    """Raises a `ValueError` unless the table has rows, and columns with distinct, non-empty string names."""
    _check_size(table, source)
    for name in table.columns:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"column name {shown(name)} is not a non-empty string; rename it, e.g. table.columns.map(str)"
            )
        if not is_text(name):
            raise ValueError(f"column name {shown(name)} has {HALF}")
    if not table.columns.is_unique:
        double = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"column name {double!r} stands more than once; rename or drop one of them")


def _check_size(table: pd.DataFrame, source: str) -> None:
    if table.shape[1] == 0:
        raise ValueError(f"{source} has no columns")
    if len(table) == 0:
        raise ValueError(f"{source} has no rows (columns: {shown(list(table.columns))})")
