"""The evaluation as a page to read, and what each of its figures means."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ...utils import atomic_write


TEMPLATE = "report.html.jinja"
PACKAGES = ("difflm_hf", "sdmetrics", "xgboost")
PIXELS = 96  # of CSS in one inch
PNG_DPI = 120
RASTER_DPI = 192  # of what is no vector graphics in an SVG
INK = re.compile("(fill|stroke): #000000")  # what matplotlib draws all that is no data in

SECTIONS = {
    "fidelity": "Fidelity",
    "utility": "Utility",
    "privacy": "Privacy",
    "validity": "Validity",
    "diversity": "Diversity",
    "documents": "Documents",
}
# Heading and alternative text of figures.
HEADINGS = {
    "marginals": ("Columns", "Histograms and bar charts of the values of each column, real and synthetic overlaid."),
    "correlations": (
        "Pairs of columns",
        "Three matrices of associations between columns: in real rows, in synthetic rows, and their difference.",
    ),
    "map": ("Rows", "Scatter plot of real and synthetic rows in two dimensions."),
    "distances": (
        "Distances to training rows",
        "Histograms of the distances of synthetic and of held-out rows to their closest training row.",
    ),
}
# Put into each SVG, which as an image sees nothing of the page but its colour scheme. Text keeps its place in whatever
# sans-serif font there is.
SVG_STYLE = (
    "<style>svg{color:#1f2328;fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{color:#d5dbe3}}"
    'text{font-family:system-ui,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif!important}</style>'
)


@dataclass(frozen=True)
class Metric:
    """
    What is known of one figure among the scores.

    Args:
        path (`tuple[str, ...]`):
            The keys that lead to it in the nested scores. There is a number, or a dict of `mean`, `low` and `high`.
        name (`str`): Its name.
        meaning (`str`): What it is, in one sentence.
        good (`str`): Which values are good.
        format (`str`, defaults to `".3f"`): The format of its value.
        reference (`tuple[str, ...]`, *optional*): The keys that lead to a value to compare it with.
        reference_name (`str`, defaults to `""`): What that is the value of.
        error (`tuple[str, ...]`, *optional*): The keys that lead to its standard error.
    """

    path: tuple[str, ...]
    name: str
    meaning: str
    good: str
    format: str = ".3f"
    reference: tuple[str, ...] | None = None
    reference_name: str = ""
    error: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Row:
    """
    One line of a summary.

    Args:
        section (`str`): `"Fidelity"`, `"Utility"`, `"Privacy"`, `"Validity"`, `"Diversity"` or `"Documents"`.
        name (`str`): The name of the metric.
        value (`str`): Its value.
        reference (`str`): The value to compare it with, and of what that is, or nothing.
        meaning (`str`): What the metric is, in one sentence.
        good (`str`): Which values are good.
    """

    section: str
    name: str
    value: str
    reference: str
    meaning: str
    good: str


def _utility(
    name: str, title: str, meaning: str, good: str = "close to that of real rows", format: str = ".3f"
) -> Metric:
    path, reference = ("utility", "synthetic", name), ("utility", "real", name)
    return Metric(path, title, meaning, good, format, reference, "real rows")


def _quantile(measure: str, quantile: str, title: str, meaning: str) -> Metric:
    path, reference = ("privacy", measure, "synthetic", quantile), ("privacy", measure, "holdout", quantile)
    return Metric(path, title, meaning, "not less than the hold-out's", ".4f", reference, "hold-out")


def _coverage(name: str, title: str, meaning: str) -> Metric:
    path, reference = ("diversity", name), ("diversity", f"{name}_expected")
    return Metric(
        path, title, meaning, "a little less than a bootstrap's", ".1%", reference, "bootstrap of training rows"
    )


def _document(name: str, title: str, meaning: str, good: str = "100% is best") -> Metric:
    return Metric(("documents", name), title, meaning, good, ".1%")


def _document_and_real(name: str, title: str, meaning: str) -> Metric:
    path, reference = ("documents", name), ("documents", f"{name}_real")
    return Metric(path, title, meaning, "close to that of real documents", ".3f", reference, "real documents")


METRICS = (
    Metric(
        ("fidelity", "column_shapes"),
        "Column Shapes",
        "How alike the distributions of single columns are: 1 minus the Kolmogorov-Smirnov statistic of numbers, or "
        "the total variation distance of categories, averaged over columns.",
        "1 is best, the hold-out's is good",
        reference=("fidelity", "column_shapes_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "pair_trends"),
        "Column Pair Trends",
        "How alike correlations and contingency tables are, averaged over those pairs of columns that are associated "
        "in real rows.",
        "1 is best, the hold-out's is good",
        reference=("fidelity", "pair_trends_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "c2st"),
        "C2ST",
        "How well XGBoost tells synthetic rows from real ones that were held out (AUC).",
        "0.5 is best, 1 worst",
        reference=("fidelity", "c2st_holdout"),
        reference_name="training rows",
    ),
    Metric(
        ("fidelity", "c2st_train"),
        "C2ST, training rows",
        "The same with training rows in place of held-out ones. More rows tell more, and copies of them lower it.",
        "0.5 is best; less speaks of copies",
    ),
    Metric(
        ("fidelity", "c2st_logistic"),
        "C2ST, logistic regression",
        "The same as C2ST with a simpler classifier, which sees shifted means and frequencies only.",
        "0.5 is best, 1 worst",
    ),
    Metric(
        ("fidelity", "alpha_precision"),
        "α-precision",
        "Whether synthetic rows lie where real ones do.",
        "close to the hold-out's",
        reference=("fidelity", "alpha_precision_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "beta_recall"),
        "β-recall",
        "Whether synthetic rows reach wherever real ones are.",
        "close to the hold-out's",
        reference=("fidelity", "beta_recall_holdout"),
        reference_name="hold-out",
    ),
    _utility("auc", "AUC", "How well XGBoost, trained on synthetic rows, ranks the classes of held-out rows."),
    _utility("f1", "F1", "The same: F1 of the predicted classes, averaged over classes."),
    _utility("accuracy", "Accuracy", "The same: the share of right predictions.", format=".1%"),
    _utility(
        "rmse",
        "RMSE",
        "How far XGBoost, trained on synthetic rows, is off on held-out ones, in units of the target, or of its "
        "logarithm if that is what is predicted.",
        "close to that of real rows, less is better",
        ".4g",
    ),
    _utility("r2", "R²", "The same: the share of the target's variance that is explained."),
    Metric(
        ("privacy", "exact_copies", "synthetic"),
        "Exact copies",
        "The share of synthetic rows that equal a training row in every column. Some real rows do so by chance.",
        "not more than the hold-out's",
        ".2%",
        ("privacy", "exact_copies", "holdout"),
        "hold-out",
    ),
    Metric(
        ("privacy", "distance_to_closest_record", "share"),
        "DCR share",
        "The share of synthetic rows that are nearer to a training row than to any held-out one (± standard error).",
        "50% is best, more speaks of memorised rows",
        ".1%",
        ("privacy", "distance_to_closest_record", "share_of_copies"),
        "copies",
        error=("privacy", "distance_to_closest_record", "standard_error"),
    ),
    _quantile(
        "distance_to_closest_record",
        "q05",
        "DCR, 5th percentile",
        "Distance to the closest record: how near the nearest synthetic rows come to a training row.",
    ),
    _quantile("distance_to_closest_record", "q50", "DCR, median", "The same of the typical synthetic row."),
    _quantile(
        "nearest_neighbor_distance_ratio",
        "q05",
        "NNDR, 5th percentile",
        "Distance to the closest training row, divided by that to the second closest. Near 0, a row singles one out.",
    ),
    _quantile("nearest_neighbor_distance_ratio", "q50", "NNDR, median", "The same of the typical synthetic row."),
    Metric(
        ("privacy", "membership_inference", "auc"),
        "Membership inference",
        "How well nearness to synthetic rows tells training rows from held-out ones (AUC ± standard error).",
        "0.5 is best, 1 worst",
        error=("privacy", "membership_inference", "standard_error"),
    ),
    Metric(
        ("privacy", "attribute_disclosure", "train"),
        "Attributes guessed",
        "The share of values of training rows that are guessed right from the other values and the synthetic rows.",
        "not more than the hold-out's",
        ".1%",
        ("privacy", "attribute_disclosure", "holdout"),
        "hold-out",
    ),
    Metric(
        ("privacy", "attribute_disclosure", "risk"),
        "Attribute disclosure risk",
        "How much more is guessed right of training rows than of held-out ones, as a share of what is not guessed "
        "of the latter.",
        "0% is best",
        ".1%",
    ),
    Metric(
        ("validity", "parses"),
        "Readable rows",
        "The share of rows whose values can be read as what their columns hold.",
        "100% is best",
        ".1%",
    ),
    Metric(
        ("validity", "schema"),
        "Rows of the right types",
        "The share of rows that are readable, and whose values have the types of the training rows' values.",
        "100% is best",
        ".1%",
    ),
    Metric(
        ("validity", "domain"),
        "Rows within the domain",
        "The share of rows that have the right types, known categories, and numbers and datetimes within the range of "
        "the training rows.",
        "100% is best",
        ".1%",
        ("validity", "domain_holdout"),
        "hold-out",
    ),
    Metric(
        ("diversity", "unique_rows"),
        "Unique rows",
        "The number of distinct rows divided by that of all.",
        "close to that of training rows",
        ".1%",
        ("diversity", "unique_rows_train"),
        "training rows",
    ),
    _coverage(
        "category_coverage",
        "Categories covered",
        "The share of the categories of a column that synthetic rows have, averaged over columns.",
    ),
    _coverage("pair_coverage", "Pairs of categories covered", "The same of pairs of categories of two columns."),
    Metric(
        ("diversity", "range_coverage"),
        "Ranges covered",
        "The share of the range of a number that synthetic rows span, averaged over columns.",
        "100% is best",
        ".1%",
    ),
    _document("parse_rate", "Parsed", "The share of documents that can be parsed."),
    _document("compile_rate", "Compiled", "The share of documents that compile."),
    _document("schema_validity", "Valid by the schema", "The share of documents that the JSON Schema accepts."),
    _document("key_coverage", "Keys covered", "The share of the keys of real documents that are there."),
    _document("unknown_keys", "Unknown keys", "The share of documents with keys that no real one has.", "0% is best"),
    _document(
        "novelty",
        "New",
        "The share of documents, or of their values of one key, that are not in the training documents.",
    ),
    _document("unique", "Unique", "The number of distinct documents divided by that of all."),
    _document(
        "length_similarity",
        "Similarity of lengths",
        "1 minus the Kolmogorov-Smirnov statistic of the lengths of real and synthetic documents.",
    ),
    _document(
        "node_types_similarity",
        "Similarity of syntax",
        "1 minus the total variation distance of the frequencies of syntax-tree nodes.",
    ),
    *(
        _document_and_real(
            f"distinct_{n}", f"Distinct-{n}", f"The share of {words} that are distinct, over all documents."
        )
        for n, words in ((1, "words"), (2, "pairs of words"), (3, "triples of words"))
    ),
    _document_and_real(
        "self_bleu", "Self-BLEU", "How much documents repeat one another: the BLEU of each against all others."
    ),
)


def summarize(scores: Mapping[str, Any]) -> list[Row]:
    """
    The figures among scores, in words.

    Args:
        scores (`Mapping[str, Any]`):
            What [`evaluate_table`] returned, or `{"documents": ...}` with what [`evaluate_json`], [`evaluate_code`] or
            [`evaluate_text`] returned. What it lacks is left out.

    Returns:
        `list[Row]`: A line for each metric, in the order of [`METRICS`].

    Example:

    ```python
    >>> row = summarize(scores)[0]
    >>> row.name, row.value, row.good
    ('Column Shapes', '0.984', "1 is best, the hold-out's is good")
    ```
    """
    rows = []
    for metric in METRICS:
        value = _find(scores, metric.path)
        if value is None:
            continue
        text = _format(value, metric.format)
        if metric.error is not None and (error := _find(scores, metric.error)) is not None:
            text += f" ± {_format(error, metric.format)}"
        reference = None if metric.reference is None else _find(scores, metric.reference)
        compared = "" if reference is None else f"{_format(reference, metric.format)} ({metric.reference_name})"
        rows.append(Row(SECTIONS[metric.path[0]], metric.name, text, compared, metric.meaning, metric.good))
    return rows


def to_markdown(scores: Mapping[str, Any]) -> str:
    """
    The figures among scores as a Markdown table, such as model cards have.

    Args:
        scores (`Mapping[str, Any]`): As for [`summarize`].
    """
    lines = ["| | metric | value | to compare with | good |", "| --- | --- | --- | --- | --- |"]
    section = None
    for row in summarize(scores):
        shown = "" if row.section == section else row.section.lower()
        lines.append(f"| {shown} | {row.name} | {row.value} | {row.reference} | {row.good} |")
        section = row.section
    return "\n".join(lines)


def write_report(
    scores: dict[str, Any],
    output_dir: str | os.PathLike,
    figures: Mapping[str, Figure] | None = None,
    title: str = "Evaluation of synthetic records",
) -> Path:
    """
    Writes scores as a page, with figures: `report.html`, one file that needs no other and loads nothing.

    Beside it come `report.json`, the scores with null for NaN, and a PNG of each figure. Each file appears only when
    it is complete, the page last.

    Args:
        scores (`dict[str, Any]`):
            What [`evaluate_table`] returned, or `{"documents": ...}` with what [`evaluate_json`], [`evaluate_code`] or
            [`evaluate_text`] returned.
        output_dir (`str` or `os.PathLike`): The folder, made if there is none.
        figures (`Mapping[str, Figure]`, *optional*):
            Figures by the names of their PNG files, such as those of [`table_figures`]. The label of a figure is its
            caption. What is black in it follows the colour scheme of the page.
        title (`str`, defaults to `"Evaluation of synthetic records"`): The heading of the page.

    Returns:
        `Path`: That of the page.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images = []
    for name, figure in (figures or {}).items():
        _write(output_dir / f"{name}.png", _save(figure, "png", facecolor="white", dpi=PNG_DPI))
        heading, alt = HEADINGS.get(name, (name, name))
        width, height = (round(inches * PIXELS) for inches in figure.get_size_inches())
        data = base64.b64encode(_svg(figure)).decode()
        size = {"width": width, "height": height}
        images.append({"heading": heading, "alt": alt, "caption": figure.get_label(), "data": data, **size})
    document = json.dumps(_without_nan(scores), indent=2, allow_nan=False)
    _write(output_dir / "report.json", document.encode())

    environment = Environment(
        loader=PackageLoader("difflm_hf.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections: dict[str, list[Row]] = {}
    for row in summarize(scores):
        sections.setdefault(row.section, []).append(row)
    page = environment.get_template(TEMPLATE).render(
        title=title,
        scores=scores,
        sections=sections,
        columns=list(_column_rows(scores)),
        figures=images,
        versions={name: version(name) for name in PACKAGES},
    )
    # Generated values may hold halves of characters, which no file can.
    _write(output_dir / "report.html", page.encode(errors="replace"))
    return output_dir / "report.html"


def _column_rows(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known of each column, the least alike first."""
    shapes = _find(scores, ("fidelity", "columns")) or {}
    disclosed = _find(scores, ("privacy", "attribute_disclosure", "columns")) or {}
    allowed, examples = (_find(scores, ("validity", part)) or {} for part in ("columns", "examples"))
    missed = _find(scores, ("diversity", "missed")) or {}
    names = sorted(shapes, key=lambda name: shapes[name] if math.isfinite(shapes[name]) else -1)
    for name in dict.fromkeys([*names, *allowed, *missed]):
        shape = shapes.get(name, math.nan)
        yield {
            "name": name,
            "shape": _format(shape, ".3f"),
            "width": round(100 * shape, 1) if math.isfinite(shape) else 0,
            "guessed": {table: _format(disclosed[name][table], ".0%") for table in ("train", "holdout")}
            if name in disclosed
            else None,
            "wrong": _format_share(1 - allowed[name]) if name in allowed else "",
            "examples": examples.get(name, []),
            "missed": missed.get(name, []),
        }


def _find(scores: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(scores, Mapping) or key not in scores:
            return None
        scores = scores[key]
    return scores


def _format(value: float | Mapping[str, float], format: str) -> str:
    if isinstance(value, Mapping):
        mean, low, high = (_format(value[key], format) for key in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"
    return f"{value:{format}}" if math.isfinite(value) else "–"


def _format_share(share: float) -> str:
    """A share that is not 0, and does not look as if it were."""
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _without_nan(scores: Any) -> Any:
    if isinstance(scores, Mapping):
        return {key: _without_nan(value) for key, value in scores.items()}
    if isinstance(scores, (list, tuple)):
        return [_without_nan(value) for value in scores]
    return None if isinstance(scores, float) and not math.isfinite(scores) else scores


def _svg(figure: Figure) -> bytes:
    """A figure that is the same each time, and follows light and dark."""
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "difflm_hf"}):
        text = _save(figure, "svg", transparent=True, dpi=RASTER_DPI, metadata=nothing).decode()
    # Without what comes before the tag: a document type that names an address.
    tag, content = text[text.index("<svg") :].split(">", 1)
    return f"{tag}>{SVG_STYLE}".encode() + INK.sub(r"\1: currentColor", content).encode()


def _save(figure: Figure, format: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Browsers have fonts for the names and values that matplotlib has none for.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=format, **settings)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
