"""Figures that compare synthetic rows with real ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pandas.api import types as pd_types
from scipy.stats.contingency import crosstab
from sklearn.decomposition import PCA

from .encoding import MAX_ONE_HOT, draw, encode_tables, standardizer
from .preparation import prepare_tables


# Orange and blue are told apart by nearly everyone, on white and on black; so are purple and green.
REAL, SYNTHETIC = "#1a80c4", "#d55e00"
NEGATIVE, POSITIVE = "#a55bc4", "#1b9e5a"
MAX_COLUMNS = 24  # more would be too small to read
MAX_CATEGORIES = 10  # of a column; the rest is "other"
MAX_POINTS = 2_000  # of each table
MAX_ROWS = 10_000  # that associations are computed of
NUM_BINS = 30
NUM_QUANTILES = 10  # that numbers are cut into where they meet categories
DAY = 86_400  # seconds
TEXT, SMALL = 9, 8  # points


def table_figures(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    scores: dict[str, Any],
    latents: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Figure]:
    """
    Plots a synthetic table beside the one its generator was trained on.

    The label of each figure (`Figure.get_label`) is its caption. Nothing but data has a colour of its own: all else is
    in matplotlib's black, on no background, for [`write_report`] to adapt to light and dark pages.

    Args:
        synthetic (`pandas.DataFrame`): The generated rows.
        train (`pandas.DataFrame`): The real rows that the generator was trained on.
        holdout (`pandas.DataFrame`): Real rows that the generator has not seen.
        scores (`dict[str, Any]`): What [`evaluate_table`] returned for these tables.
        latents (`tuple[np.ndarray, np.ndarray]`, *optional*):
            Latents of real and of synthetic rows, each of shape `(num_rows, latent_size)`, that the map shows in place
            of the columns.
        seed (`int`, defaults to 0): Seed of the rows that are drawn.

    Returns:
        `dict[str, Figure]`:
            - `marginals`: the distribution of each column;
            - `correlations`: how columns are associated in real rows, in synthetic ones, and the difference;
            - `map`: rows in two dimensions, by principal components;
            - `distances`: distances of synthetic and of held-out rows to their closest training row.

            Of more than 24 columns the first two show those whose distributions are least alike.

    Raises:
        `ValueError`: when columns do not match in name or kind.
    """
    tables = {"train": train, "holdout": holdout, "synthetic": synthetic}
    plain, _, _ = prepare_tables(tables, scores["settings"]["categorical"])
    (real, _, fake), categorical = encode_tables(plain, scores["settings"]["categorical"])
    shapes = scores["fidelity"]["columns"]
    # Columns without a score first: something is wrong with them.
    worst = sorted(real, key=lambda name: shapes[name] if math.isfinite(shapes[name]) else -1)[:MAX_COLUMNS]
    shown = [name for name in real if name in worst]
    note = (
        "" if len(shown) == real.shape[1] else f" The {MAX_COLUMNS} columns with the lowest Column Shapes are shown."
    )
    generator = np.random.default_rng(seed)

    figures = {"marginals": Figure(), "correlations": Figure(), "map": Figure(), "distances": Figure()}
    _plot_marginals(figures["marginals"], plain, real[shown], fake[shown], categorical, shapes)
    _plot_associations(
        figures["correlations"],
        *(draw(table[shown], MAX_ROWS, generator) for table in (real, fake)),
        [name for name in categorical if name in shown],
    )
    for name in ("marginals", "correlations"):
        figures[name].set_label(figures[name].get_label() + note)
    if latents is None:
        points = [draw(table, MAX_POINTS, generator) for table in (real, fake)]
        transformer = standardizer(real.columns, categorical).fit(points[0])
        points = [transformer.transform(rows) for rows in points]
        subject = "the columns (numbers standardised, categories one-hot)"
    else:
        points = [draw(pd.DataFrame(rows), MAX_POINTS, generator).to_numpy() for rows in latents]
        subject = "the latents"
    _plot_map(figures["map"], *points, subject, generator)
    _plot_distances(figures["distances"], scores["privacy"]["distance_to_closest_record"])
    return figures


def _plot_marginals(
    figure: Figure,
    plain: dict[str, pd.DataFrame],
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    categorical: list[str],
    shapes: dict[str, float],
) -> None:
    across = min(4, real.shape[1])
    down = math.ceil(real.shape[1] / across)
    _lay_out(figure, max(2.85 * across, 4.8), 2.15 * down + 0.35)
    figure.legend(
        handles=[
            Patch(color=REAL, alpha=0.5, label="real"),
            Patch(fill=False, ec=SYNTHETIC, lw=1.5, label="synthetic"),
        ],
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize=TEXT,
    )
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, name in zip(axes, real):
        if name in categorical:
            _plot_categories(ax, plain["train"][name], plain["synthetic"][name])
        else:
            is_datetime = pd_types.is_datetime64_any_dtype(plain["train"][name])
            _plot_numbers(ax, real[name].to_numpy(), synthetic[name].to_numpy(), is_datetime)
        ax.set_title(_label(name, 28), loc="left", fontsize=TEXT, fontweight="bold", parse_math=False)
        if math.isfinite(shapes[name]):
            ax.set_title(f"{shapes[name]:.2f}", loc="right", fontsize=SMALL)
    for ax in axes[real.shape[1] :]:
        ax.remove()
    figure.set_label(
        "Shares of real (training) and of synthetic rows, and the Column Shapes score of each column (1 is best). "
        "Numbers beyond the 1st and 99th percentile of both tables count at the margin; of categories, the most "
        "frequent ones are shown."
    )


def _plot_numbers(ax: Axes, real: np.ndarray, synthetic: np.ndarray, is_datetime: bool) -> None:
    present = [values[~np.isnan(values)] for values in (real, synthetic)]
    edges = _bin_edges([values for values in present if len(values)], DAY if is_datetime else 1)
    shares = [np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / max(len(values), 1) for values in present]
    if is_datetime:
        edges = date2num(edges.astype("datetime64[s]"))
        locator = AutoDateLocator(minticks=2, maxticks=4)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.stairs(shares[0], edges, fill=True, color=REAL, alpha=0.5)
    ax.stairs(shares[1], edges, color=SYNTHETIC, lw=1.5)
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    _strip(ax)
    missing = [np.isnan(values).mean() for values in (real, synthetic)]
    if any(missing):
        ax.set_xlabel(f"missing: {missing[0]:.1%} real, {missing[1]:.1%} synthetic", fontsize=SMALL)


def _bin_edges(tables: list[np.ndarray], unit: int) -> np.ndarray:
    """Edges of bins for all values; of multiples of a unit, bins that hold equally many of them."""
    low = min(np.quantile(values, 0.01) for values in tables)
    high = max(np.quantile(values, 0.99) for values in tables)
    if all((values % unit == 0).all() for values in tables) and abs(low) + abs(high) < 2**53:
        low, high = np.floor(low / unit) * unit, np.ceil(high / unit) * unit
        width = math.ceil((high - low + unit) / unit / NUM_BINS) * unit
        return np.arange(low - unit / 2, high + width, width)
    if low == high:
        margin = max(abs(low) / 100, 0.5)
        low, high = low - margin, high + margin
    return np.linspace(low, high, NUM_BINS + 1)


def _plot_categories(ax: Axes, real: pd.Series, synthetic: pd.Series) -> None:
    # As objects, so that codes are equal whatever the dtype: a missing value turns integers into floats.
    values = [column.astype(object) for column in (real, synthetic)]
    counts = pd.concat([column.value_counts() for column in values], axis=1).fillna(0)
    counts = counts.iloc[np.argsort(-counts.max(axis=1).to_numpy(), kind="stable")]
    sizes = [len(column) for column in values]
    bars = [(_label(value, 15), *shares) for value, *shares in (counts / sizes).head(MAX_CATEGORIES).itertuples()]
    if len(counts) > MAX_CATEGORIES:
        bars.append(("other", *(counts.iloc[MAX_CATEGORIES:].sum() / sizes)))
    if any(column.isna().any() for column in values):
        bars.append(("missing", *(column.isna().mean() for column in values)))
    labels, *shares = zip(*bars)
    positions = np.arange(len(bars))
    ax.barh(positions - 0.2, shares[0], 0.4, color=REAL, alpha=0.5)
    ax.barh(positions + 0.2, shares[1], 0.36, fill=False, ec=SYNTHETIC, lw=1.2)
    ax.set_yticks(positions, labels, parse_math=False)
    ax.set_ylim(max(len(bars), 3) - 0.4, -0.6)  # from the top; few bars not too fat
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    _strip(ax)
    ax.tick_params(axis="y", length=0, labelsize=SMALL - 0.5)


def _plot_associations(figure: Figure, real: pd.DataFrame, synthetic: pd.DataFrame, categorical: list[str]) -> None:
    _lay_out(figure, 11.4, 5.2, "compressed")  # which leaves room for titles of square axes
    codes = _discretise(real, synthetic, categorical)
    matrices = [_associations(table, rows, categorical) for table, rows in zip((real, synthetic), codes)]
    matrices.append(matrices[1] - matrices[0])
    colors = LinearSegmentedColormap.from_list(
        "association", [(0, (NEGATIVE, 1.0)), (0.5, (NEGATIVE, 0.0)), (0.5, (POSITIVE, 0.0)), (1, (POSITIVE, 1.0))]
    )
    labels = [_label(name, 18) for name in real]
    size = min(SMALL, 150 / len(labels))
    axes = figure.subplots(1, 3, sharey=True)
    images = []
    for ax, matrix, title, limit in zip(axes, matrices, ("real", "synthetic", "synthetic − real"), (1, 1, 0.5)):
        images.append(ax.imshow(matrix, colors, vmin=-limit, vmax=limit, interpolation="nearest"))
        ax.set_title(title, fontsize=TEXT, fontweight="bold")
        # Turned about their ends, labels stay aligned in whatever font a browser has.
        turned = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
        ax.set_xticks(range(len(labels)), labels, parse_math=False, **turned)
        ax.set_yticks(range(len(labels)), labels, parse_math=False)
        ax.tick_params(length=0, labelsize=size)
        ax.spines[:].set_linewidth(0.5)
    for image, part, extend in ((images[0], axes[:2], "neither"), (images[2], axes[2], "both")):
        bar = figure.colorbar(image, ax=part, location="bottom", aspect=30, shrink=0.6, extend=extend)
        bar.ax.tick_params(labelsize=SMALL, width=0.5)
        bar.outline.set_linewidth(0.5)
    figure.set_label(
        "How columns are associated: Spearman's correlation of numbers, from −1 to 1; Cramér's V, from 0 to 1, with "
        "categories, for which numbers are cut into ten parts at their quantiles. Columns of one value have none."
    )


def _discretise(real: pd.DataFrame, synthetic: pd.DataFrame, categorical: list[str]) -> list[np.ndarray]:
    """Columns as integers: frequent categories, or tenths of the real numbers; -1 where missing."""
    codes = ([], [])
    for name in real:
        if name in categorical:
            ranks = {value: rank for rank, value in enumerate(real[name].value_counts().index)}
        else:
            cuts = np.unique(real[name].quantile(np.arange(1, NUM_QUANTILES) / NUM_QUANTILES))
        for table, columns in zip((real, synthetic), codes):
            values = table[name]
            if name in categorical:
                numbers = values.map(ranks).fillna(MAX_ONE_HOT).clip(upper=MAX_ONE_HOT)
            else:
                numbers = np.searchsorted(cuts, values)
            columns.append(np.where(values.isna(), -1, numbers).astype(int))
    return [np.stack(columns) for columns in codes]


def _associations(table: pd.DataFrame, codes: np.ndarray, categorical: list[str]) -> np.ndarray:
    is_category = table.columns.isin(categorical)
    with np.errstate(invalid="ignore"):  # of columns with a single value, which have no correlation
        associations = table.corr("spearman").to_numpy(copy=True)
    for i, j in np.ndindex(associations.shape):
        if is_category[i] or is_category[j]:
            associations[i, j] = associations[j, i] if j < i else _cramers_v(codes[i], codes[j])
    return associations


def _cramers_v(left: np.ndarray, right: np.ndarray) -> float:
    """Cramér's V without its bias (Bergsma 2013), which is large for many categories and few rows."""
    left, right = (x[(left >= 0) & (right >= 0)] for x in (left, right))
    if len(left) < 2:
        return math.nan
    counts = crosstab(left, right, sparse=True).count.tocoo()  # of many categories, few pairs occur
    total, (rows, columns) = len(left), counts.shape
    of_rows, of_columns = (np.asarray(counts.sum(axis)).ravel() for axis in (1, 0))
    expected = of_rows[counts.row] * of_columns[counts.col]
    # χ² / n = Σ n_ij² / (n_i n_j) − 1
    phi = (counts.data**2 / expected).sum() - 1 - (rows - 1) * (columns - 1) / (total - 1)
    size = min(n - (n - 1) ** 2 / (total - 1) for n in (rows, columns)) - 1
    return math.sqrt(max(phi, 0) / size) if size > 0 else math.nan


def _plot_map(
    figure: Figure, real: np.ndarray, synthetic: np.ndarray, subject: str, generator: np.random.Generator
) -> None:
    _lay_out(figure, 5.4, 4.4)
    pca = PCA(min(2, real.shape[1]))
    with np.errstate(invalid="ignore"):  # where all rows are equal
        points = [pca.fit(real).transform(rows) for rows in (real, synthetic)]
    points = np.concatenate(points)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    colors = np.repeat([REAL, SYNTHETIC], [len(real), len(synthetic)])
    order = generator.permutation(len(points))  # neither hides the other
    ax = figure.subplots()
    ax.scatter(*points[order].T, c=colors[order], s=7, alpha=0.5, linewidths=0, rasterized=True)
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    margin = np.maximum(0.1 * (high - low), 1e-3)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
    shares = [*np.nan_to_num(pca.explained_variance_ratio_), 0.0]
    for axis, number, share in zip((ax.xaxis, ax.yaxis), ("first", "second"), shares):
        axis.set_label_text(f"{number} component ({share:.0%} of the variance)", fontsize=TEXT)
    handles = [Patch(color=REAL, label="real"), Patch(color=SYNTHETIC, label="synthetic")]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=TEXT)
    _strip(ax)
    figure.set_label(
        f"{len(real):,} real (training) and {len(synthetic):,} synthetic rows, by the first two principal components "
        f"of {subject}, fitted on the real rows. Points far out are left out."
    )


def _plot_distances(figure: Figure, distances: dict[str, Any]) -> None:
    _lay_out(figure, 5.4, 4.4)
    ax = figure.subplots()
    styles = {"holdout": {"fill": True, "color": REAL, "alpha": 0.5}, "synthetic": {"color": SYNTHETIC, "lw": 1.5}}
    for name, style in styles.items():
        counts, edges = (np.asarray(distances[name]["histogram"][part]) for part in ("counts", "edges"))
        ax.stairs(counts / counts.sum() / np.diff(edges), edges, **style)
        ax.axvline(distances[name]["q50"], color=style["color"], lw=1.2, ls="--")
        ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0)
    ax.set_xlabel("distance to the closest training row", fontsize=TEXT)
    ax.set_ylabel("density", fontsize=TEXT)
    handles = [
        Patch(color=REAL, alpha=0.5, label="held-out real rows"),
        Patch(fill=False, ec=SYNTHETIC, lw=1.5, label="synthetic rows"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=TEXT)
    _strip(ax)
    figure.set_label(
        "Distances of rows to their closest training row: Gower's, from 0 for equal rows to 1. Synthetic rows should "
        "be no nearer than held-out ones. Dashed lines are medians; the last bar holds all beyond it."
    )


def _lay_out(figure: Figure, width: float, height: float, engine: str = "constrained") -> None:
    figure.set_size_inches(width, height)
    figure.set_layout_engine(engine, w_pad=0.08, h_pad=0.06)


def _strip(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_linewidth(0.5)
    ax.tick_params(labelsize=SMALL, width=0.5, length=3)


def _percent(share: float, _: int) -> str:
    return f"{100 * share:g}%"


def _label(value: Any, length: int) -> str:
    """A value as one short line. Control characters and half characters are not allowed in SVG."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= length else text[: length - 1] + "…"
