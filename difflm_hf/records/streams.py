"""Records that are more than memory holds, of which a sample does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import IterableDataset
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

from ..utils import release_memory
from .readers import from_arrow, read_table


STREAM_RECORDS = 1_000_000  # of a stream, if nothing else is said
CHUNK = 2**16
SPARE = 1.25  # times the sample that are kept until the most of them are dropped
MAX_VALUES = 10_000  # of a column of categories; of texts, no value tells of the others


def is_stream(data: Any) -> bool:
    """Whether data are read one after the other, and never all at once."""
    return isinstance(data, IterableDataset)


def sample_records(data: Any, num_records: int, seed: int = 0) -> tuple[pd.DataFrame, int]:
    """
    Draws records at random and without replacement in one pass over all of them, in memory that does not grow with
    their number. Beside them it takes those that a schema has to know of: the first record of each value of a column
    of categories, and those with the least and the largest numbers.

    Args:
        data (`datasets.IterableDataset` or what [`read_table`] takes):
            The records. Of a stream and of a Parquet file one part at a time is read; all else is read whole.
        num_records (`int`): How many to draw.
        seed (`int`, defaults to 0): Of the draws.

    Returns:
        `pandas.DataFrame` and `int`: the records in the order in which they came, and how many there were.
    """
    sample = _Sample(num_records, np.random.default_rng(seed))
    for chunk in _chunks(data):
        sample.add(chunk)
    table = sample.table()
    release_memory()  # that of what was not drawn
    return table, sample.num_seen


def _chunks(data: Any) -> Iterator[pa.Table | pd.DataFrame]:
    if is_stream(data):
        yield from data.with_format("arrow").iter(batch_size=CHUNK)
    elif isinstance(data, (str, os.PathLike)) and Path(data).suffix == ".parquet" and os.path.isfile(data):
        with pq.ParquetFile(data) as file:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(CHUNK))
    else:
        yield read_table(data)


class _Column:
    """What the records so far hold of a column."""

    def __init__(self):
        self.values: set[Any] = set()
        self.least = self.largest = None

    def telling(self, series: pd.Series) -> list[int]:
        """The rows of new values, or of new bounds, which it then knows."""
        if is_datetime64_any_dtype(series) or (is_numeric_dtype(series) and not is_bool_dtype(series)):
            return self._bounds(series.reset_index(drop=True).dropna())
        try:
            firsts = series.reset_index(drop=True).dropna().drop_duplicates()
            new = firsts[[value not in self.values for value in firsts]]
        except TypeError:  # lists
            return []
        if len(self.values) >= MAX_VALUES:
            return []
        self.values.update(new)
        return new.index.tolist()

    def _bounds(self, series: pd.Series) -> list[int]:
        if series.empty:
            return []
        least, largest, rows = series.min(), series.max(), []
        if self.least is None or least < self.least:
            self.least, rows = least, [series.idxmin()]
        if self.largest is None or largest > self.largest:
            self.largest, rows = largest, [*rows, series.idxmax()]
        return rows


class _Sample:
    def __init__(self, num_records: int, rng: np.random.Generator):
        self.num_records, self.rng, self.num_seen = num_records, rng, 0
        self.columns: dict[str, _Column] = {}
        # Each record draws a key, and those of the least keys are the sample.
        self.keys, self.parts, self.most = [], [], 1.0

    def add(self, chunk: pa.Table | pd.DataFrame) -> None:
        keys = self.rng.random(len(chunk))
        names = chunk.column_names if isinstance(chunk, pa.Table) else chunk.columns
        telling = set()
        for name in names:
            series = chunk[name].to_pandas() if isinstance(chunk, pa.Table) else chunk[name]
            telling.update(self.columns.setdefault(name, _Column()).telling(series))
        keys[list(telling)] = -1.0
        rows = np.flatnonzero(keys < self.most)
        self.keys.append(keys[rows])
        self.parts.append(chunk.take(rows) if isinstance(chunk, pa.Table) else chunk.iloc[rows])
        self.num_seen += len(chunk)
        if sum(map(len, self.keys)) > SPARE * self.num_records:
            self._prune()

    def _prune(self) -> None:
        keys = np.concatenate(self.keys)
        drawn = np.sort(keys[keys >= 0])
        self.most = drawn[self.num_records] if len(drawn) > self.num_records else 1.0
        rows = np.flatnonzero(keys < self.most)
        self.keys = [keys[rows]]
        if isinstance(self.parts[0], pa.Table):
            # Of a part without values in a column its type is not known.
            self.parts = [pa.concat_tables(self.parts, promote_options="permissive").take(rows)]
        else:
            self.parts = [self.parts[0].iloc[rows]]

    def table(self) -> pd.DataFrame:
        if self.num_seen > 0:
            self._prune()
        if not self.parts:
            raise ValueError("the stream has no records")
        table = self.parts[0]
        return from_arrow(table) if isinstance(table, pa.Table) else table.reset_index(drop=True)
