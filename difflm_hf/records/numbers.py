"""Numbers as whole steps on a grid, and the quantile bins that turn them into tokens."""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from .field import Field
from .step_laws import cumulative, draw, empty_gaps, fit_tilts


FALSE_GAPS = 0.1  # expected among the numbers of a field that have none
RARE_IN_LOGS = 0.01
WIDE_GAP = 0.04  # of its distance from the median; drawn evenly in one in the tails, a number is known too badly


@dataclass
class Grid:
    """
    An exact, order-preserving map between the values of a numeric field and 0, 1, 2, ... (`uint64`).

    The grid starts at the smallest value and has the coarsest step that every value fits: 1 for most integers, a day
    for dates, 0.01 for prices. Floats without a short decimal form count the representable floats between them. Of
    categories by the thousand the points are their positions in the schema.

    Args:
        origin (`int`): The smallest value, in units of the data's precision.
        step (`int`): Units from one grid point to the next.
        size (`int`): Grid points up to and with the largest value.
        scale (`str`, defaults to `"interval"`):
            `"interval"` where zero means nothing (datetimes), `"ratio"` where it does, `"float"` where units count
            representable floats.
    """

    origin: int
    step: int
    size: int
    scale: Literal["interval", "ratio", "float"] = "interval"

    def __post_init__(self):
        last = self.origin + (self.size - 1) * self.step
        if not (self.step > 0 < self.size and -(2**63) <= self.origin <= last < 2**63):
            raise ValueError(f"{self} has points that 64 bits do not hold")

    @classmethod
    def fit(cls, field: Field, values: pd.Series) -> Grid:
        """The coarsest grid that all of these non-null values are on. Raises a `ValueError` for too many decimals."""
        numbers = field.to_numpy(values)
        if field.type == "number" and field.decimals and np.abs(numbers).max() >= 2**63 / 10**field.decimals:
            raise ValueError(
                f"column {field.name!r}: {np.abs(numbers).max()} with {field.decimals} decimals is more than 64 bits "
                "hold; give the field fewer decimals, or None"
            )
        units = cls.units(field, numbers)
        offsets = units.view(np.uint64) - units.min().view(np.uint64)
        step = int(np.gcd.reduce(np.unique(offsets))) or 1
        is_float = field.type == "number" and field.decimals is None
        scale = "interval" if field.type in ("category", "datetime") else "float" if is_float else "ratio"
        return cls(int(units.min()), step, int(offsets.max()) // step + 1, scale)

    def encode(self, field: Field, values: pd.Series) -> np.ndarray:
        """
        Grid points of non-null values, `uint64`.

        Raises:
            `ValueError`: for a value outside the grid or between two of its points, naming column and value.
        """
        numbers = field.to_numpy(values)
        points = self.floor(self.units(field, numbers))
        if field.type == "category":
            return points
        if (wrong := self.decode(field, points) != numbers).any():
            value = values.tolist()[wrong.argmax()]
            minimum, maximum = self.decode(field, np.array([0, self.size - 1], np.uint64))
            raise ValueError(
                f"column {field.name!r}: {value!r} is not between {minimum} and {maximum} at the precision of the "
                "data; round it, or drop the record"
            )
        return points

    def decode(self, field: Field, points: np.ndarray) -> np.ndarray:
        """Values at grid points, in the field's own kind: int64, float64, datetime64[ns], or objects."""
        units = self.to_units(points)
        if field.type == "category":
            return np.array(field.categories, dtype=object)[units]
        if field.type == "datetime":
            return units.view("datetime64[ns]")
        if field.type == "integer":
            return units
        return _from_ordinal(units) if field.decimals is None else units / 10.0**field.decimals

    @staticmethod
    def units(field: Field, numbers: np.ndarray) -> np.ndarray:
        """Values as [`Field.to_numpy`] gives them in int64 units of the data's precision, rounded to these."""
        if field.type != "number":
            return numbers.view(np.int64)
        if field.decimals is None:
            return _to_ordinal(numbers)
        return np.rint(numbers * 10.0**field.decimals).astype(np.int64)

    def to_units(self, points: np.ndarray) -> np.ndarray:
        """Grid points as int64 units of the data's precision, which other fields have too."""
        return (points * np.uint64(self.step) + np.int64(self.origin).view(np.uint64)).view(np.int64)

    def to_numbers(self, points: np.ndarray) -> np.ndarray:
        """Where grid points lie on the scale, rounded to `float64`: from zero if it has one, else from the origin."""
        if self.scale == "float":
            return _from_ordinal(self.to_units(points))
        return points.astype(np.float64) + (self.origin / self.step if self.scale == "ratio" else 0)

    def floor(self, units: np.ndarray) -> np.ndarray:
        """The grid points at units, or the last ones before them, or else the nearest."""
        units = units.clip(self.origin, self.origin + (self.size - 1) * self.step)
        return (units.view(np.uint64) - np.int64(self.origin).view(np.uint64)) // np.uint64(self.step)


def _to_ordinal(numbers: np.ndarray) -> np.ndarray:
    """Floats to the int64s that sort like them: IEEE 754 is sign and magnitude, so negative ones turn round."""
    bits = numbers.view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def _from_ordinal(ordinals: np.ndarray) -> np.ndarray:
    return np.where(ordinals < 0, ordinals ^ np.int64(2**63 - 1), ordinals).view(np.float64)


@dataclass
class QuantileBins:
    """
    Two levels of quantiles over grid points: coarse bins, and fine steps inside each of them.

    Both levels hold about equally many records per bin, so that a token carries as much information as it can. Beyond
    that, steps do not extend over gaps that are empty, nor over zero. Within a step numbers follow a law that has the
    mean of those of the data (see [`~records.step_laws.draw`]).

    Args:
        starts (`list[int]`): First grid point of each step, ascending.
        end (`int`): The last grid point.
        first_steps (`list[int]`): The step at which each bin starts, ascending.
        ends (`list[int]`, *optional*): Last grid point that is drawn of each step; by default, that before the next.
        tilts (`list[float]`, *optional*): Of the law of each step; by default, grid points are equally probable.
        grid (`Grid`, *optional*): The grid; without one, its scale is `"interval"`.
    """

    starts: list[int]
    end: int
    first_steps: list[int]
    ends: list[int] | None = None
    tilts: list[float] | None = None
    grid: Grid | None = None

    @classmethod
    def fit(
        cls,
        points: np.ndarray,
        num_bins: int,
        num_steps: int,
        min_records: int,
        min_count: int = 1,
        grid: Grid | None = None,
    ) -> QuantileBins:
        """
        Bins of about as many of these points each.

        Args:
            points (`np.ndarray` of shape `(num_records,)`, `uint64`): Grid points.
            num_bins (`int`): Bins, at most.
            num_steps (`int`): Steps in a bin, at most.
            min_records (`int`):
                Points that a step holds at least; where many of them are equal, or gaps are empty, it may hold fewer.
            min_count (`int`, defaults to 1): Points that a step holds at least, equal or not, if there are as many.
            grid (`Grid`, *optional*): The grid; without one, its scale is `"interval"`.
        """
        points = np.sort(points)
        gaps = _gaps(points, num_bins, grid)
        starts, first_steps = [], []
        edges = np.searchsorted(points, _quantiles(points, num_bins, min_records, min_count))
        for low, high in zip(edges, [*edges[1:], len(points)]):
            first_steps.append(len(starts))
            parts = _parts(gaps[low + 1 : high], num_steps, num_steps - (high - low) // min_records, min_count)
            spare = num_steps - len(parts)
            for first, last in low + parts:
                num = 1 + spare * (last - first) // (high - low)
                starts += _quantiles(points[first:last], num, min_records, min_count).tolist()
        edges = np.searchsorted(points, np.array(starts, np.uint64))
        counts = np.diff(edges, append=len(points))
        last = points[edges + counts - 1]
        ends = np.append(points[edges[1:]] - np.uint64(1), points[-1])
        if min_count > 1:  # an end tells no number of a single record
            spacing = (last - points[edges]) // np.maximum(counts - 1, 1).astype(np.uint64)
            last = last + np.minimum(spacing, ends - last)
        ends = np.where(np.append(gaps[edges[1:]], 0) > 0, last, ends)
        bins = cls(starts, int(points[-1]), first_steps, ends.tolist(), [0.0] * len(starts), grid)
        steps = np.repeat(np.arange(len(starts)), counts)
        middles = sum(above / 2 for above in bins._cells(steps, points - bins._starts[steps]))
        with np.errstate(over="ignore"):
            means = np.add.reduceat(middles, edges) / counts
        bins._tilts = fit_tilts(means, bins._lows, bins._widths)
        bins.tilts = bins._tilts.tolist()
        return bins

    def __post_init__(self):
        self._check()
        self._starts = np.array(self.starts, dtype=np.uint64)
        # The last point of a step, counted from its start: a step may be as wide as all uint64s, whose number is none.
        self._last = np.append(self._starts[1:] - np.uint64(1), np.uint64(self.end))
        if self.ends is not None:
            self._last = np.array(self.ends, dtype=np.uint64)
        self._last = self._last - self._starts
        self._first_steps = np.array(self.first_steps)
        self._num_steps = np.diff(self._first_steps, append=len(self.starts))
        self._tilts = np.zeros(len(self.starts)) if self.tilts is None else np.array(self.tilts)
        self._is_float = self.tilts is not None and self.grid is not None and self.grid.scale == "float"
        if self._is_float:
            self._lows = self.grid.to_numbers(self._starts)
            self._widths = self._cells(np.arange(len(self.starts)), self._last)[1]
        else:
            has_zero = self.grid is not None and self.grid.scale == "ratio"
            self._lows = self.grid.to_numbers(self._starts) - 0.5 if has_zero else np.zeros(len(self.starts))
            self._widths = self._last + 1.0

    def _check(self) -> None:
        """Raises a `ValueError` for steps and bins that do not follow one another."""
        num = len(self.starts)
        ends = [*(start - 1 for start in self.starts[1:]), self.end]
        is_rising = all(a < b for a, b in pairwise(self.starts)) and all(a < b for a, b in pairwise(self.first_steps))
        given = self.ends is None or (
            len(self.ends) == num and all(a <= b <= c for a, b, c in zip(self.starts, self.ends, ends))
        )
        is_inside = num and 0 <= self.starts[0] and self.starts[-1] <= self.end < 2**64
        are_bins = self.first_steps[:1] == [0] and self.first_steps[-1] < num
        laws = self.tilts is None or (len(self.tilts) == num and all(map(math.isfinite, self.tilts)))
        if not (is_rising and given and is_inside and are_bins and laws):
            raise ValueError(f"{num} steps from {self.starts[:1]} to {self.end} do not follow one another")

    @property
    def num_bins(self) -> int:
        return len(self.first_steps)

    @property
    def num_steps(self) -> int:
        """Steps of the bin that has most."""
        return int(self._num_steps.max())

    def encode(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Grid points to bins, steps inside the bin, and offsets (grid points above the start of the step)."""
        # Points of no bin (they have a token of their own) may lie below the first start.
        steps = np.maximum(np.searchsorted(self._starts, points, side="right") - 1, 0)
        bins = np.searchsorted(self._first_steps, steps, side="right") - 1
        return bins, steps - self._first_steps[bins], points - self._starts[steps]

    def decode(self, bins: np.ndarray, steps: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The inverse of `encode`. Offsets that are floats in [0, 1) are quantiles of the step's law."""
        steps = self._steps(bins, steps)
        if offsets.dtype.kind == "f":
            offsets = self._draw(steps, offsets)
        return self._starts[steps] + offsets

    def shares(self, intervals: np.ndarray, bins: np.ndarray | None = None) -> np.ndarray:
        """
        How probable it is that a number of a step lies in intervals.

        Args:
            intervals (`np.ndarray` of shape `(num_intervals, 2)` or `(num_intervals, 2, num_records)`, `uint64`):
                Grid points, both ends inclusive, apart from each other; those that end before they start are none.
            bins (`np.ndarray` of shape `(num_records,)`, *optional*): Whose steps; by default all, one after another.

        Returns:
            `np.ndarray` of shape `(num_records, num_steps)`: 0 to 1; 0 for steps that a bin does not have.
        """
        bins = np.arange(self.num_bins) if bins is None else bins
        records, steps = (np.arange(self.num_steps) < self._num_steps[bins][:, None]).nonzero()
        if intervals.ndim == 3:
            intervals = intervals[..., records]
        clipped = self._clipped(self._first_steps[bins[records]] + steps, intervals)
        shares = np.zeros((len(bins), self.num_steps))
        shares[records, steps] = np.minimum(sum((share for *_, share in clipped), 0.0), 1)
        return shares

    def place(self, bins: np.ndarray, steps: np.ndarray, uniforms: np.ndarray, intervals: np.ndarray) -> np.ndarray:
        """
        Draws points of steps that lie in intervals.

        Args:
            bins, steps (`np.ndarray` of shape `(num_records,)`): As from `encode`.
            uniforms (`np.ndarray` of shape `(num_records,)`): Random numbers in [0, 1).
            intervals: As of `shares`. Of a step without a point in them, any point is drawn.

        Returns:
            `np.ndarray` of shape `(num_records,)`, `uint64`: offsets, as from `encode`.
        """
        steps = self._steps(bins, steps)
        clipped = self._clipped(steps, intervals)
        rest, is_placed = uniforms * sum((share for *_, share in clipped), 0.0), np.zeros(len(steps), bool)
        offsets = self._draw(steps, uniforms)
        for first, last, below, share in clipped:
            is_here = ~is_placed & (rest < share)
            # Shares round: never past the ends.
            drawn = self._draw(steps[is_here], np.minimum(below + rest, 1)[is_here])
            offsets[is_here] = drawn.clip(first[is_here], last[is_here])
            is_placed |= is_here
            rest = rest - np.where(is_placed, 0, share)
        return offsets

    def _steps(self, bins: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return self._first_steps[bins] + np.minimum(steps, self._num_steps[bins] - 1)

    def _draw(self, steps: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Offsets at quantiles of the laws of steps."""
        starts, last = self._starts[steps], self._last[steps]
        above = draw(uniforms, self._lows[steps], self._widths[steps], self._tilts[steps])
        if self._is_float:
            points = self.grid.floor(_to_ordinal(self._lows[steps] + above))
            return points.clip(starts, starts + last) - starts
        return np.minimum(above.clip(0, np.nextafter(2.0**64, 0)).astype(np.uint64), last)

    def _cells(self, steps: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From where to where the numbers extend that are written as offsets, from the low end of the step's law."""
        if not self._is_float:
            return offsets.astype(np.float64), offsets + 1.0
        points, lows = self._starts[steps] + offsets, self._lows[steps]
        ends = self.grid.to_numbers(points), self.grid.to_numbers(points + np.uint64(1))
        with np.errstate(over="ignore"):
            return tuple(np.minimum(end - lows, np.finfo(np.float64).max) for end in ends)

    def _clipped(self, steps: np.ndarray, intervals: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """
        Of each interval, the first and the last offset inside each of the steps, the probability of what lies below
        them, and their own.
        """
        starts, ends, parts = self._starts[steps], self._starts[steps] + self._last[steps], []
        laws = self._lows[steps], self._widths[steps], self._tilts[steps]
        for low, high in intervals:
            first, last = np.clip(low, starts, ends) - starts, np.clip(high, starts, ends) - starts
            below = cumulative(self._cells(steps, first)[0], *laws)
            share = cumulative(self._cells(steps, last)[1], *laws) - below
            is_inside = (low <= high) & (low <= ends) & (starts <= high)
            parts.append((first, last, below, np.where(is_inside, share, 0.0)))
        return parts


def _gaps(points: np.ndarray, num_bins: int, grid: Grid | None) -> np.ndarray:
    """
    The gaps that no number is drawn from.

    Args:
        points (`np.ndarray` of shape `(num_records,)`, `uint64`): Grid points in ascending order.
        num_bins (`int`): Bins.
        grid (`Grid`, *optional*): The grid.

    Returns:
        `np.ndarray` of shape `(num_records,)`: before each point, 0 where none is, and otherwise how surprising it is.
        A gap between numbers has to be a surprise between their logarithms too, where there are any: heavy tails have
        wide gaps. One between signs is always empty. One in a tail that is wide, but no surprise, has a value up to 1.
    """
    distinct, first = np.unique(points, return_index=True)
    numbers = distinct.astype(np.float64) if grid is None else grid.to_numbers(distinct)
    surprise = empty_gaps(numbers, FALSE_GAPS / len(numbers))
    if grid is not None and grid.scale != "interval" and numbers.any():
        sizes, smallest = np.abs(numbers), np.abs(numbers[numbers != 0]).min()
        logs = np.sign(numbers) * (np.log(np.maximum(sizes, smallest)) - np.log(smallest))
        surprise[empty_gaps(logs, RARE_IN_LOGS) == 0] = 0
        surprise[(np.diff(np.sign(numbers)) != 0) & (np.diff(distinct) > 1)] = np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.abs(numbers - numbers[np.searchsorted(first, len(points) // 2, side="right") - 1])
        width = np.diff(numbers) / np.maximum(far[1:], far[:-1])
    rank = np.minimum(first, len(points) - first)[1:]
    is_wide = (width > WIDE_GAP) & (rank <= len(points) // num_bins)
    gaps = np.zeros(len(points))
    gaps[first[1:]] = np.where(is_wide, np.maximum(surprise, np.minimum(width, 2) / 2), surprise)
    return gaps


def _parts(gaps: np.ndarray, max_parts: int, max_wide: int, min_count: int) -> np.ndarray:
    """
    Cuts a bin at its gaps, the most surprising ones first.

    Args:
        gaps (`np.ndarray` of shape `(num_records - 1,)`): As of `_gaps`.
        max_parts (`int`): Parts, at most.
        max_wide (`int`): Parts up to which the bin is cut at gaps that are no surprise.
        min_count (`int`): Points in each part, at least.

    Returns:
        `np.ndarray` of shape `(num_parts, 2)`: where each part starts and ends.
    """
    edges = [0, len(gaps) + 1]
    for cut in 1 + np.argsort(-gaps, kind="stable")[: np.count_nonzero(gaps)]:
        k = bisect(edges, cut)
        room = max_parts if gaps[cut - 1] > 1 else max_wide
        if len(edges) <= room and min(cut - edges[k - 1], edges[k] - cut) >= min_count:
            edges.insert(k, int(cut))
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _quantiles(ordered: np.ndarray, num: int, min_records: int, min_count: int) -> np.ndarray:
    """Distinct starts of intervals, at most `num`, that hold about equally many of the ordered points."""
    num = min(num, max(1, len(ordered) // min_records))
    starts = np.unique(ordered[np.arange(num) * len(ordered) // num])
    edges, kept = np.searchsorted(ordered, starts), [0]
    for k in range(1, len(starts)):
        if min(edges[k] - edges[kept[-1]], len(ordered) - edges[k]) >= min_count:
            kept.append(k)
    return starts[kept]
