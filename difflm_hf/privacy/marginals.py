"""What each column holds, counted with noise: all that a codec is fitted to where training is private."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..records import Field, RecordSchema
from ..records.numbers import Grid


NUM_CELLS, NUM_PARTS = 64, 8  # of a column, and of a cell that is looked at more closely
MAX_LEVELS = 6
MIN_ROWS, MAX_ROWS = 10_000, 100_000  # of the table that stands for the marginals
NUM_SPREAD = 128  # of these, evenly over what the schema allows: more than get a token each by being few
# Of datetimes without a format, and of the finest code in one, in nanoseconds
UNITS = {"%f": 10**3, "%S": 10**9, "%M": 60 * 10**9, "%H": 3600 * 10**9}
DAY = 24 * 3600 * 10**9


@dataclass
class Marginal:
    """
    How often values of a column occur, by a noisy count.

    Args:
        starts, stops (`np.ndarray` of shape `(num_cells,)`, int64):
            Ranges `[start, stop)` of values, counted from the smallest that the schema allows.
        counts (`np.ndarray` of shape `(num_cells,)`): Records in each.
        apart (`np.ndarray` of shape `(num_apart,)`): Records with what has no place in the order, as [`Field.apart`].
    """

    starts: np.ndarray
    stops: np.ndarray
    counts: np.ndarray
    apart: np.ndarray


def private_schema(schema: RecordSchema) -> RecordSchema:
    """
    A schema for private training, which says all that is else read off the records.

    Raises:
        `ValueError`: for one that leaves something to be read. The message names the column.
    """
    for f in schema:
        if f.name in schema.identifiers:
            continue
        if f.type in ("text", "json"):
            raise ValueError(
                f"column {f.name!r} is of {'texts' if f.type == 'text' else 'nested values'}, whose words would be "
                "read off the records; private training takes numbers, datetimes, categories and booleans: drop it"
            )
        if f.is_numeric and None in (f.minimum, f.maximum):
            raise ValueError(
                f"column {f.name!r} has no minimum or no maximum in the schema, and private training reads none off "
                "the records; give what can be known without them"
            )
        if f.type == "number" and f.decimals is None:
            raise ValueError(f"column {f.name!r} is a number without `decimals` in the schema; say how many it has")
    return RecordSchema([replace(f, rarest=None) for f in schema], schema.rules, schema.csv)


def num_histograms(schema: RecordSchema) -> int:
    """The counts that each record is a part of, which is the square of the most that it can change."""
    return sum(_num_levels(_grid(f).size) for f in _counted(schema))


def measure_marginals(schema: RecordSchema, table: pd.DataFrame, noise_multiplier: float) -> dict[str, Marginal]:
    """
    Counts the values of each column with Gaussian noise. A cell of many records is split into parts, which are counted
    in their turn, down to single values.

    Args:
        schema ([`RecordSchema`]): That of [`private_schema`].
        table (`pandas.DataFrame`): Records that conform to it.
        noise_multiplier (`float`): Standard deviations of the noise, in units of the most that a record can change.
    """
    std = noise_multiplier * num_histograms(schema) ** 0.5
    noise = np.random.default_rng()  # of the system's entropy: who knows a seed can take the noise away
    return {f.name: _measure(f, table[f.name], std, noise) for f in _counted(schema)}


def table_of(schema: RecordSchema, marginals: dict[str, Marginal], num_records: int) -> pd.DataFrame:
    """
    A table with these marginals, whose columns are independent. Some of its rows are spread over all that the schema
    allows, so that what is fitted to it takes that.

    Args:
        schema ([`RecordSchema`]): That of [`private_schema`].
        marginals (`dict[str, Marginal]`): As of [`measure_marginals`].
        num_records (`int`): Of the records that were counted; the table has 10,000 to 100,000.
    """
    num_rows = NUM_SPREAD + min(max(num_records, MIN_ROWS), MAX_ROWS)
    columns = {}
    for k, f in enumerate(schema):
        if rule := schema.identifiers.get(f.name):
            columns[f.name] = rule.values(0, 0, num_rows, schema.by_name)
        elif f.type == "null":
            columns[f.name] = f.to_series(np.full(num_rows, None), np.ones(num_rows, bool))
        else:
            order = np.random.default_rng(k).permutation(num_rows - NUM_SPREAD)
            columns[f.name] = _column(f, marginals[f.name], order)
    return schema.to_table(columns)


def _counted(schema: RecordSchema) -> list[Field]:
    return [f for f in schema if f.type != "null" and f.name not in schema.identifiers]


def _grid(field: Field) -> Grid:
    """All values that a field may have, in their order, or in that of its categories."""
    if not field.is_numeric:
        return Grid(0, 1, 2 if field.type == "boolean" else len(field.categories))
    low, high = (int(Grid.units(field, np.array([bound]))[0]) for bound in field.bounds)
    step = 1
    if field.type == "datetime":
        finest = next((unit for code, unit in UNITS.items() if code in (field.format or "")), DAY)
        step = finest if field.format is not None else UNITS["%S"]
    return Grid(low, step, (high - low) // step + 1, "interval" if field.type == "datetime" else "ratio")


def _num_levels(size: int) -> int:
    """How often a column of so many values is counted, until cells are single values or small enough."""
    return next((k for k in range(1, MAX_LEVELS) if NUM_CELLS * NUM_PARTS ** (k - 1) >= size), MAX_LEVELS)


def _measure(field: Field, column: pd.Series, std: float, noise: np.random.Generator) -> Marginal:
    grid, apart = _grid(field), field.index_apart(column)
    values = column[apart < 0]
    points = np.sort((grid.encode(field, values) if field.is_numeric else field.index(values)).astype(np.int64))
    of_apart = np.bincount(apart[apart >= 0], minlength=len(field.apart))
    of_apart = of_apart + std * noise.standard_normal(len(of_apart))
    enough = max(4 * std, len(column) / (2 * NUM_CELLS))
    cells, leaves = [(0, grid.size, np.inf)], []
    for level in range(_num_levels(grid.size)):
        parts = [_parts(start, stop, NUM_PARTS if level else NUM_CELLS) for start, stop, _ in cells]
        edges = [np.searchsorted(points, part) for part in parts]
        counts = [np.diff(edge) + std * noise.standard_normal(len(edge) - 1) for edge in edges]
        found = []
        for (_, _, total), part, count in zip(cells, parts, counts):
            count = count.clip(min=0)
            if level and count.sum() > 0:
                count *= total / count.sum()  # the parts of a cell are as many as it was counted to have
            found += zip(part[:-1].tolist(), part[1:].tolist(), count.tolist())
        is_split = [stop - start > 1 and count > enough for start, stop, count in found]
        cells = [cell for cell, split in zip(found, is_split) if split]
        leaves += [cell for cell, split in zip(found, is_split) if not split]
    starts, stops, weights = (np.array(part) for part in zip(*sorted(leaves + cells)))
    return Marginal(starts, stops, weights, of_apart.clip(min=0))


def _parts(start: int, stop: int, num: int) -> np.ndarray:
    """The edges of a range's parts, which hold a value at least."""
    num = min(num, stop - start)
    return np.array([start + (stop - start) * k // num for k in range(num + 1)], np.int64)


def _column(field: Field, marginal: Marginal, order: np.ndarray) -> pd.Series:
    grid, shares = _grid(field), np.concatenate([marginal.counts, marginal.apart])
    shares = np.ones_like(shares) if shares.sum() == 0 else shares
    last = np.rint(len(order) * shares.cumsum() / shares.sum()).astype(np.int64)
    nums = np.diff(last, prepend=0)
    within = np.arange(len(order)) - np.repeat(last - nums, nums)
    cells = np.repeat(np.arange(len(nums)), nums)
    num_cells = len(marginal.counts)
    apart = np.where(cells < num_cells, -1, cells - num_cells)
    cells = cells.clip(max=num_cells - 1)
    widths = (marginal.stops - marginal.starts)[cells]
    middles = (within + 0.5) / np.repeat(nums, nums)
    points = marginal.starts[cells] + np.minimum((middles * widths).astype(np.int64), widths - 1)
    spread = [min(1, grid.size - 1), *((grid.size - 1) * k // (NUM_SPREAD - 2) for k in range(NUM_SPREAD - 1))]
    points = np.concatenate([spread, points[order]]).astype(np.uint64)
    apart = np.concatenate([np.full(NUM_SPREAD, -1), apart[order]])
    values = np.array([False, True])[points] if field.type == "boolean" else grid.decode(field, points)
    return field.with_words(field.to_series(values, apart >= 0), apart)
