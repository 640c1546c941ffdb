"""The evaluation as a page to read."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ...files import atomic_write
from .summary import HEADINGS, Row, find, format_value, summarize


TEMPLATE = "report.html.jinja"
PACKAGES = ("difflm_hf", "sdmetrics", "xgboost")
PIXELS = 96  # of CSS in one inch
PNG_DPI = 120
RASTER_DPI = 192  # of what is no vector graphics in an SVG
INK = re.compile("(fill|stroke): #000000")  # what matplotlib draws all that is no data in
# Put into each SVG, which as an image sees nothing of the page but its colour scheme. Text keeps its place in whatever
# sans-serif font there is.
SVG_STYLE = (
    "<style>svg{color:#1f2328;fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{color:#d5dbe3}}"
    'text{font-family:system-ui,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif!important}</style>'
)


def write_report(
    scores: dict[str, Any],
    output_dir: str | os.PathLike,
    figures: Mapping[str, Figure] | None = None,
    title: str = "Evaluation of synthetic records",
    name: str = "report",
) -> Path:
    """
    Writes scores as a page, with figures: `report.html`, one file that needs no other and loads nothing.

    Beside it come `report.json`, the scores with null for NaN, and a PNG of each figure. Each file appears only when
    it is complete, the page last.

    Args:
        scores (`dict[str, Any]`):
            What [`evaluate_table`] or [`audit_model`] returned, or `{"documents": ...}` with what [`evaluate_json`],
            [`evaluate_code`] or [`evaluate_text`] returned.
        output_dir (`str` or `os.PathLike`): The folder, made if there is none.
        figures (`Mapping[str, Figure]`, *optional*):
            Figures by the names of their PNG files, such as those of [`table_figures`]. The label of a figure is its
            caption. What is black in it follows the colour scheme of the page.
        title (`str`, defaults to `"Evaluation of synthetic records"`): The heading of the page.
        name (`str`, defaults to `"report"`):
            What the page and the scores are called: `"audit"` for those of an audit, which may stand beside an
            evaluation.

    Returns:
        `Path`: That of the page.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images = []
    for key, figure in (figures or {}).items():
        _write(output_dir / f"{key}.png", _save(figure, "png", facecolor="white", dpi=PNG_DPI))
        heading, alt = HEADINGS.get(key, (key, key))
        width, height = (round(inches * PIXELS) for inches in figure.get_size_inches())
        data = base64.b64encode(_svg(figure)).decode()
        size = {"width": width, "height": height}
        images.append({"heading": heading, "alt": alt, "caption": figure.get_label(), "data": data, **size})
    document = json.dumps(_without_nan(scores), indent=2, allow_nan=False)
    _write(output_dir / f"{name}.json", document.encode())

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
        versions={package: version(package) for package in PACKAGES},
    )
    # Generated values may hold halves of characters, which no file can.
    _write(output_dir / f"{name}.html", page.encode(errors="replace"))
    return output_dir / f"{name}.html"


def _column_rows(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known of each column, the least alike first."""
    shapes = find(scores, ("fidelity", "columns")) or {}
    disclosed = find(scores, ("privacy", "attribute_disclosure", "columns")) or {}
    allowed, examples = (find(scores, ("validity", part)) or {} for part in ("columns", "examples"))
    missed = find(scores, ("diversity", "missed")) or {}
    names = sorted(shapes, key=lambda name: shapes[name] if math.isfinite(shapes[name]) else -1)
    for name in dict.fromkeys([*names, *allowed, *missed]):
        shape = shapes.get(name, math.nan)
        yield {
            "name": name,
            "shape": format_value(shape, ".3f"),
            "width": round(100 * shape, 1) if math.isfinite(shape) else 0,
            "guessed": {table: format_value(disclosed[name][table], ".0%") for table in ("train", "holdout")}
            if name in disclosed
            else None,
            "wrong": _format_share(1 - allowed[name]) if name in allowed else "",
            "examples": examples.get(name, []),
            "missed": missed.get(name, []),
        }


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
