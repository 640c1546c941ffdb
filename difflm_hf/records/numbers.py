"""Numbers as whole steps on a grid, and the quantile bins that turn them into tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .field import Field


@dataclass
class Grid:
    """
    An exact, order-preserving map between the values of a numeric field and 0, 1, 2, ... (`uint64`).

    The grid starts at the smallest value and has the coarsest step that every value fits: 1 for most integers, a day
    for dates, 0.01 for prices. Floats without a short decimal form count the representable floats between them.

    Args:
        origin (`int`): The smallest value, in units of the data's precision.
        step (`int`): Units from one grid point to the next.
        size (`int`): Grid points up to and with the largest value.
    """

    origin: int
    step: int
    size: int

    @classmethod
    def fit(cls, field: Field, values: pd.Series) -> Grid:
        """The coarsest grid that all of these non-null values are on."""
        units = cls.units(field, field.to_numpy(values))
        offsets = units.view(np.uint64) - units.min().view(np.uint64)
        step = int(np.gcd.reduce(np.unique(offsets))) or 1
        return cls(int(units.min()), step, int(offsets.max()) // step + 1)

    def encode(self, field: Field, values: pd.Series) -> np.ndarray:
        """
        Grid points of non-null values, `uint64`.

        Raises:
            `ValueError`: for a value outside the grid or between two of its points, naming column and value.
        """
        numbers = field.to_numpy(values)
        points = self.floor(self.units(field, numbers))
        if (wrong := self.decode(field, points) != numbers).any():
            value = values.tolist()[wrong.argmax()]
            minimum, maximum = self.decode(field, np.array([0, self.size - 1], np.uint64))
            raise ValueError(
                f"column {field.name!r}: {value!r} is not between {minimum} and {maximum} at the precision of the "
                "data; round or drop it, or fit the codec on data that has such values"
            )
        return points

    def decode(self, field: Field, points: np.ndarray) -> np.ndarray:
        """Values at grid points, in the field's own kind: int64, float64 or datetime64[ns]."""
        units = self.to_units(points)
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

    Both levels hold about equally many records per bin, so that a token carries as much information as it can.

    Args:
        starts (`list[int]`): First grid point of each step, ascending. A step ends where the next one starts.
        end (`int`): The last grid point.
        first_steps (`list[int]`): The step at which each bin starts, ascending.
    """

    starts: list[int]
    end: int
    first_steps: list[int]

    @classmethod
    def fit(
        cls, points: np.ndarray, num_bins: int, num_steps: int, min_records: int, min_count: int = 1
    ) -> QuantileBins:
        """
        Bins of about as many of these points each.

        Args:
            points (`np.ndarray` of shape `(num_records,)`, `uint64`): Grid points.
            num_bins (`int`): Bins, at most.
            num_steps (`int`): Steps in a bin, at most.
            min_records (`int`): Points that a step holds at least; where many of them are equal, it may hold fewer.
            min_count (`int`, defaults to 1): Points that a step holds at least, equal or not, if there are as many.
        """
        points = np.sort(points)
        starts, first_steps = [], []
        edges = np.searchsorted(points, _quantiles(points, num_bins, min_records, min_count))
        for low, high in zip(edges, [*edges[1:], len(points)]):
            first_steps.append(len(starts))
            starts += _quantiles(points[low:high], num_steps, min_records, min_count).tolist()
        return cls(starts, int(points[-1]), first_steps)

    def __post_init__(self):
        self._starts = np.array(self.starts, dtype=np.uint64)
        # The last point of a step, counted from its start: a step may be as wide as all uint64s, whose number is none.
        self._last = np.append(self._starts[1:] - np.uint64(1), np.uint64(self.end)) - self._starts
        self._first_steps = np.array(self.first_steps)
        self._num_steps = np.diff(self._first_steps, append=len(self.starts))

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
        """The inverse of `encode`. Remainders that are floats in [0, 1) are shares of the step's width."""
        steps = self._first_steps[bins] + np.minimum(steps, self._num_steps[bins] - 1)
        if offsets.dtype.kind == "f":
            last = self._last[steps]
            offsets = np.minimum((offsets * (last + 1.0)).astype(np.uint64), last)
        return self._starts[steps] + offsets

    def shares(self, intervals: np.ndarray) -> np.ndarray:
        """
        How much of each step lies in intervals.

        Args:
            intervals (`np.ndarray` of shape `(num_intervals, 2)`, `uint64`):
                Grid points, both ends inclusive, apart from each other.

        Returns:
            `np.ndarray` of shape `(num_bins, num_steps)`: 0 to 1; 0 for steps that a bin does not have.
        """
        inside = sum((num.astype(np.float64) for _, num in self._clipped(np.arange(len(self.starts)), intervals)), 0.0)
        shares = np.zeros((self.num_bins, self.num_steps))
        bins = np.repeat(np.arange(self.num_bins), self._num_steps)
        shares[bins, np.arange(len(self.starts)) - self._first_steps[bins]] = np.minimum(
            inside / (self._last + 1.0), 1
        )
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
        steps = self._first_steps[bins] + np.minimum(steps, self._num_steps[bins] - 1)
        clipped = self._clipped(steps, intervals)
        totals = sum((num.astype(np.float64) for _, num in clipped), 0.0)
        offsets = np.minimum((uniforms * (self._last[steps] + 1.0)).astype(np.uint64), self._last[steps])
        rest, is_placed = uniforms * totals, np.zeros(len(steps), bool)
        for start, num in clipped:
            is_here = ~is_placed & (num > 0) & (rest < num)
            # Products of large floats round: never past the last point.
            above = np.minimum(rest[is_here].astype(np.uint64), num[is_here] - np.uint64(1))
            offsets[is_here] = start[is_here] + above - self._starts[steps[is_here]]
            is_placed |= is_here
            rest = rest - np.where(is_placed, 0, num)
        return offsets

    def _clipped(self, steps: np.ndarray, intervals: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each interval, the first point inside each of the steps, and how many there are (2⁶⁴ − 1 at most)."""
        starts, ends, parts = self._starts[steps], self._starts[steps] + self._last[steps], []
        for low, high in intervals:
            first, last = np.maximum(starts, low), np.minimum(ends, high)
            with np.errstate(over="ignore"):
                num = np.where(first <= last, np.maximum(last - first, last - first + np.uint64(1)), np.uint64(0))
            parts.append((first, num))
        return parts


def _quantiles(ordered: np.ndarray, num: int, min_records: int, min_count: int) -> np.ndarray:
    """Distinct starts of intervals, at most `num`, that hold about equally many of the ordered points."""
    num = min(num, max(1, len(ordered) // min_records))
    starts = np.unique(ordered[np.arange(num) * len(ordered) // num])
    edges, kept = np.searchsorted(ordered, starts), [0]
    for k in range(1, len(starts)):
        if min(edges[k] - edges[kept[-1]], len(ordered) - edges[k]) >= min_count:
            kept.append(k)
    return starts[kept]
