"""The tokens of one field of the compact codec."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .field import Field
from .numbers import Grid, QuantileBins
from .plain_values import from_plain
from .schema import RecordSchema


@dataclass
class FieldTokens:
    """
    The tokens of one field that is not text. Those of the coarse position stand in this order: null (if the field is
    nullable), one for each word among numbers, one for each of `values`, one for each bin, one for each field in
    `copies`. A binned field has a second position, for the step inside the bin.

    Args:
        start (`int`): Id of the first coarse token.
        values (`list`): Values with a token of their own: categories, or grid points of a number.
        grid (`Grid`, *optional*): Of a numeric field.
        bins (`QuantileBins`, *optional*): Of a number with more distinct values than tokens.
        fine_start (`int`, *optional*): Id of the first fine token.
        copies (`list[str]`): Earlier fields whose value this one often repeats.
        rarest (`int`, *optional*):
            Records of the rarest number among `values` in the data; `None` where there is none, or it is not known.
    """

    start: int = 0
    values: list = field(default_factory=list)
    grid: Grid | None = None
    bins: QuantileBins | None = None
    fine_start: int | None = None
    copies: list[str] = field(default_factory=list)
    rarest: int | None = None

    def num_coarse(self, f: Field) -> int:
        """Coarse ids of the field."""
        return len(f.apart) + len(self.values) + (self.bins.num_bins if self.bins else 0) + len(self.copies)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> FieldTokens:
        """Tokens of what `dataclasses.asdict` gave. Raises a `ValueError` for anything else."""
        grid = from_plain(Grid, state["grid"]) if state["grid"] else None
        bins = None
        if state["bins"]:
            if grid is None:
                raise ValueError("bins need a grid")
            bins = replace(from_plain(QuantileBins, {**state["bins"], "grid": None}), grid=grid)
            if bins.end >= grid.size:
                raise ValueError(f"bins end at {bins.end}, beyond a grid of {grid.size} points")
        tokens = replace(from_plain(cls, {**state, "grid": None, "bins": None}), grid=grid, bins=bins)
        if grid is not None and not all(isinstance(v, int) and 0 <= v < grid.size for v in tokens.values):
            raise ValueError(f"{tokens.values} are not all points of a grid of {grid.size}")
        return tokens


def check_tokens(schema: RecordSchema, tokens: dict[str, FieldTokens]) -> None:
    """Raises a `ValueError` for tokens that are none of a schema's fields."""
    names = [f.name for f in schema if f.type not in ("text", "null") and f.name not in schema.identifiers]
    if list(tokens) != names:
        raise ValueError(f"there are tokens of {list(tokens)}, and the fields are {names}")
    for name, t in tokens.items():
        f = schema[name]
        own = f.categories if f.type == "category" else [False, True]
        if t.grid is None and (f.is_numeric or t.values != own):
            raise ValueError(f"the tokens of field {name!r} are {t.values}, which are not its values")
        if t.grid is not None and not f.is_numeric and t.grid.size > len(own):
            raise ValueError(f"field {name!r} has {len(own)} categories, and tokens of {t.grid.size}")
        if f.is_numeric:
            first, last = t.grid.decode(f, np.array([0, t.grid.size - 1], dtype=np.uint64))
            if not (f.bounds[0] <= first and last <= f.bounds[1]):
                raise ValueError(f"the grid of field {name!r} is from {first} to {last}, beyond its bounds {f.bounds}")
        if unknown := [source for source in t.copies if source not in names[: names.index(name)]]:
            raise ValueError(f"field {name!r} is to repeat {unknown[0]!r}, which is no field before it")


def own_tokens(counts: np.ndarray, max_values: int, num_bins: int, min_records: int, min_count: int) -> np.ndarray:
    """Which distinct values have a token of their own, given how often each occurs."""
    own = (counts >= min_count) & (len(counts) <= max_values)
    # Once heavy values are out, bins are smaller, and further values may be heavier than those.
    while (heavy := ~own & (counts > max(counts[~own].sum() / num_bins, min_records))).any():
        own |= heavy
    return own


def find_copies(
    f: Field, units: dict[str, np.ndarray], binned: np.ndarray, schema: RecordSchema, min_copies: float
) -> list[str]:
    """Earlier fields that `f` equals in many of the records in which its value has no token of its own, best first."""
    rates = {}
    for name in units:
        g = schema[name]
        if name != f.name and not (f.apart or g.apart) and (g.type, g.decimals) == (f.type, f.decimals):
            rates[name] = (binned & (units[name] == units[f.name])).mean()
    return sorted((name for name, rate in rates.items() if rate >= min_copies), key=lambda name: -rates[name])
