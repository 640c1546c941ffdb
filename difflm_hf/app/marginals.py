"""How columns of generated records are distributed, beside what is known of the real ones."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..pipeline_difflm import DiffLMPipeline
from ..records import Field, RecordSchema


NUM_BARS = 24  # of a number
MAX_CATEGORIES = 8  # of a column; the rest is "other"
MAX_COLUMNS = 40  # more would be too many to look at
NUM_QUANTILES = 200
TAIL = 0.005  # share of numbers at either end that have no room of their own
OTHER, MISSING = "other", "missing"


@dataclass
class RealColumn:
    """
    What is known of a real column: aggregates, and no value of a single record unless many have it.

    Args:
        shares (`dict[str, float]`, *optional*): Of the most frequent categories.
        quantiles (`np.ndarray`, *optional*): Of numbers and datetimes, ascending.
        chances (`np.ndarray`, *optional*): Share of the numbers up to each quantile; from 0 to 1 where all are known.
        missing (`float`, *optional*): Share of nulls, and of words among numbers.
    """

    shares: dict[str, float] | None = None
    quantiles: np.ndarray | None = None
    chances: np.ndarray | None = None
    missing: float = 0.0

    @classmethod
    def of_values(cls, f: Field, column: pd.Series) -> RealColumn:
        """The aggregates of a column of the data."""
        given = column[f.index_apart(column) < 0]
        missing = 1 - len(given) / len(column)
        if f.is_numeric and len(given):
            numbers = _to_floats(f, given)
            chances = np.linspace(0, 1, NUM_QUANTILES + 1)
            return cls(None, np.quantile(numbers, chances), chances, missing)
        if f.type in ("category", "boolean"):
            shares = given.astype(str).value_counts().head(MAX_CATEGORIES) / len(column)
            return cls(shares.to_dict(), missing=missing)
        return cls()


def real_columns(schema: RecordSchema, table: pd.DataFrame) -> dict[str, RealColumn]:
    """What the table that a model is trained on says of its columns."""
    return {f.name: RealColumn.of_values(f, table[f.name]) for f in schema}


def stored_columns(pipe: DiffLMPipeline) -> dict[str, RealColumn]:
    """What the record of a model's training says of the columns that it was trained on."""
    summaries = {column["name"]: column for column in (pipe.config.training or {}).get("columns", ())}
    return {f.name: _stored_column(f, summaries.get(f.name, {})) for f in pipe.processor.schema}


def _stored_column(f: Field, summary: Mapping[str, Any]) -> RealColumn:
    quantiles, missing = summary.get("quantiles"), summary.get("missing", 0.0)
    is_of_day = quantiles is not None and f.type == "datetime" and ":" in quantiles[0]
    if quantiles is None or is_of_day:
        return RealColumn(summary.get("shares"), missing=missing)
    if f.type == "datetime":
        quantiles = pd.to_datetime(pd.Series(quantiles)).to_numpy("datetime64[ns]").view(np.int64)
    quantiles, steps = list(quantiles), len(quantiles) + 1  # as many are below the first as between two
    chances = [k / steps for k in range(1, steps)]
    if quantiles[0] == f.minimum:
        quantiles, chances = [quantiles[0], *quantiles], [0.0, *chances]
    if quantiles[-1] == f.maximum:
        quantiles, chances = [*quantiles, quantiles[-1]], [*chances, 1.0]
    return RealColumn(None, np.array(quantiles, np.float64), np.array(chances), missing)


@dataclass
class Bars:
    """
    The bars of one column.

    Args:
        labels (`list[str]`): Of categories one for each bar, of numbers the two ends.
        generated (`np.ndarray`): Shares of the generated records.
        real (`np.ndarray`, *optional*): Shares of the real ones.
    """

    labels: list[str]
    generated: np.ndarray
    real: np.ndarray | None = None
    is_numeric: bool = False


def bars_of(f: Field, column: pd.Series, real: RealColumn) -> Bars | None:
    """The bars of a column of generated records; `None` for texts, nested values, nulls, and numbers too far apart."""
    given = column[f.index_apart(column) < 0]
    if f.is_numeric and len(given):
        return _numeric_bars(f, given, real)
    if f.type not in ("category", "boolean"):
        return None
    counts = given.astype(str).value_counts() / len(column)
    most = real.shares or counts.head(MAX_CATEGORIES).to_dict()
    names = sorted(most, key=most.get, reverse=True)
    generated, known = counts.reindex(names, fill_value=0.0).tolist(), None
    missing = 1 - len(given) / len(column)
    labels, generated = [*names, OTHER, MISSING], [*generated, max(0.0, 1 - sum(generated) - missing), missing]
    if real.shares is not None:
        known = [
            *(real.shares[name] for name in names),
            max(0.0, 1 - sum(real.shares.values()) - real.missing),
            real.missing,
        ]
    kept = [k for k in range(len(labels)) if k < len(names) or max(generated[k], known[k] if known else 0) > 5e-4]
    return Bars(
        [labels[k] for k in kept],
        np.array(generated)[kept],
        None if known is None else np.array(known)[kept],
    )


def _numeric_bars(f: Field, given: pd.Series, real: RealColumn) -> Bars | None:
    numbers = _to_floats(f, given)
    if not math.isfinite(float(numbers.max()) - float(numbers.min())):
        return None  # bars would be wider than any float
    low, high = np.quantile(numbers, [TAIL, 1 - TAIL])
    if real.quantiles is not None:
        ends = np.interp([TAIL, 1 - TAIL], real.chances, real.quantiles)
        low, high = min(low, ends[0]), max(high, ends[1])
    if f.type == "integer":  # bars of equally many integers
        width = max(1, -(-int(high - low + 1) // NUM_BARS))
        edges = np.arange(int(low), int(high) + width + 1, width) - 0.5
    else:
        edges = np.linspace(low, high, NUM_BARS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts, _ = np.histogram(numbers.clip(edges[0], edges[-1]), edges)
    shares = None
    if real.quantiles is not None:
        below = np.interp(edges, real.quantiles, real.chances, left=np.nan, right=np.nan)
        # As of the generated numbers, the few beyond the ends are in the last bars.
        below[0] = 0 if real.chances[0] == 0 else below[0]
        below[-1] = 1 if real.chances[-1] == 1 else below[-1]
        shares = np.diff(below)
    return Bars([_label(f, low), _label(f, high)], counts / len(numbers), shares, is_numeric=True)


def _to_floats(f: Field, values: pd.Series) -> np.ndarray:
    numbers = f.to_numpy(values)
    return (numbers.view(np.int64) if f.type == "datetime" else numbers).astype(np.float64)


def _label(f: Field, number: float) -> str:
    if f.type == "datetime":
        moment = pd.Timestamp(int(number))
        is_time = f.format is not None and "%Y" not in f.format and "%y" not in f.format
        return moment.strftime("%H:%M") if is_time else moment.date().isoformat()
    return f"{round(number):,}" if f.type == "integer" else f"{number:,.4g}"


def to_html(schema: RecordSchema, table: pd.DataFrame, real: Mapping[str, RealColumn]) -> str:
    """Small charts of all columns, with no resource from elsewhere."""
    fields = [f for f in schema if f.name not in schema.identifiers][:MAX_COLUMNS]
    cards = [_card(f, bars_of(f, table[f.name], real.get(f.name, RealColumn()))) for f in fields]
    more = len(schema) - len(fields)
    rest = f"<p>{more} more columns are not shown.</p>" if more > 0 else ""
    return f'<div class="marginals">{"".join(cards)}</div>{rest}'


def _card(f: Field, bars: Bars | None) -> str:
    name = html.escape(f.name)
    if bars is None:
        chart = f'<p class="note">{html.escape(f.type)} column: no chart</p>'
    else:
        chart = _histogram(f.name, bars) if bars.is_numeric else _categories(bars)
    return f'<figure><figcaption title="{name}">{name}</figcaption>{chart}</figure>'


def _histogram(name: str, bars: Bars) -> str:
    real = np.full(len(bars.generated), np.nan) if bars.real is None else bars.real
    most = np.nanmax([bars.generated, real])
    width, heights = 100 / len(bars.generated), 40 * bars.generated / most
    drawn = "".join(
        f'<rect x="{k * width:.2f}" y="{40 - height:.2f}" width="{width * 0.9:.2f}" height="{height:.2f}"/>'
        for k, height in enumerate(heights)
    )
    known = np.flatnonzero(np.isfinite(real))
    steps = "".join(f"L{(k + end) * width:.2f} {40 - 40 * real[k] / most:.2f} " for k in known for end in (0, 1))
    line = f'<path d="M{steps[1:]}"/>' if steps else ""
    low, high = map(html.escape, bars.labels)
    return (
        f'<svg viewBox="0 -1 100 41" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(name)} from {low} to {high}">{drawn}{line}</svg>'
        f'<div class="ends"><span>{low}</span><span>{high}</span></div>'
    )


def _categories(bars: Bars) -> str:
    most = max(bars.generated.max(), 0 if bars.real is None else bars.real.max()) or 1.0
    rows = []
    for k, label in enumerate(bars.labels):
        real = "" if bars.real is None else f'<i class="real" style="width:{100 * bars.real[k] / most:.1f}%"></i>'
        label = html.escape(label)
        rows.append(
            f'<div class="row"><span title="{label}">{label}</span>'
            f'<span class="track"><i style="width:{100 * bars.generated[k] / most:.1f}%"></i>{real}</span>'
            f"<span>{bars.generated[k]:.1%}</span></div>"
        )
    return "".join(rows)
