"""The tab that evaluates synthetic tables."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np

from ..records import read_table, write_table
from ..records.readers import WRITERS, ending_of
from .common import (
    FILE_TYPES,
    PROCESS_WORK,
    Session,
    Shared,
    download_links,
    explained,
    last_line,
    run_buttons,
    run_command,
    said,
)


KIND = "evaluate"
HOLDOUT_SHARE = 0.2
NO_HOLDOUT = (
    "No hold-out was given, and a fifth of the real rows stands in for it. The generator may have seen these, so that "
    "the privacy figures say little; the others are as good."
)


def split_holdout(real: Path, folder: Path) -> list[Path]:
    """
    Two files of the rows of one: four fifths, and a fifth that stands in for a hold-out.

    Args:
        real (`Path`): The file of real rows.
        folder (`Path`): Where to.
    """
    table = read_table(real)
    ending = ending_of(real) if ending_of(real) in WRITERS else ".parquet"
    order = np.random.default_rng(0).permutation(len(table))
    size = int(HOLDOUT_SHARE * len(table))
    parts = {"real": order[size:], "holdout": order[:size]}
    paths = [folder / f"{name}{ending}" for name in parts]
    for path, rows in zip(paths, parts.values()):
        write_table(table.iloc[np.sort(rows)], path)
    return paths


def framed(page: Path) -> str:
    """A report inside a page, where it can run no script and ask for nothing."""
    source = html.escape(page.read_text(encoding="utf-8"))
    return f'<iframe class="report" sandbox="" title="Evaluation report" tabindex="0" srcdoc="{source}"></iframe>'


def build_evaluate(shared: Shared) -> None:
    """The tab."""
    gr.Markdown(
        "Measure what a synthetic table is worth and what it gives away, whatever generator it comes from.",
        elem_classes="lead",
    )
    with gr.Row():
        labels = {
            "real": "Real rows that the generator was trained on",
            "synthetic": "Synthetic rows",
            "holdout": "Hold-out, real rows that it has not seen (optional)",
        }
        real, synthetic, holdout = (
            gr.File(label=label, file_types=FILE_TYPES, height=140, min_width=240, elem_id=f"{name}-file")
            for name, label in labels.items()
        )
    with gr.Row():
        target = gr.Dropdown(
            [], label="Target (optional)", info="A column to predict, to measure utility.", min_width=240
        )
        with gr.Column(min_width=240):
            buttons = run_buttons(shared, KIND, "Evaluate")
    status = gr.HTML(said("Nothing is evaluated yet."))
    files = gr.HTML()
    report = gr.HTML()

    @explained(status)
    def list_columns(session: Session, path: str | None) -> Iterator[dict]:
        names = list(read_table(session.upload(path, "the real table"))) if path else []
        yield {target: gr.Dropdown(names, value=None), status: said("Choose the other tables, then evaluate.")}

    @explained(status, buttons)
    def run(
        session: Session, real: str | None, synthetic: str | None, holdout: str | None, target: str | None
    ) -> Iterator[dict]:
        real = session.upload(real, "the real table")
        synthetic = session.upload(synthetic, "the synthetic table")
        folder = session.new_folder(KIND)
        paths = [real, session.upload(holdout, "the hold-out")] if holdout else split_holdout(real, folder)
        arguments = [
            "--real",
            paths[0],
            "--holdout",
            paths[1],
            "--synthetic",
            synthetic,
            "--output",
            folder / "report",
        ]
        for output in run_command(session, KIND, "evaluate", *arguments, *(["--target", target] if target else [])):
            name, bar, _ = last_line(output).partition(":")
            yield {status: said(f"Measuring: {name} …" if bar else "Reading the tables …")}
        page = folder / "report" / "report.html"
        if not page.exists():
            yield {status: said("Stopped.")}
            return
        yield {
            status: said("Evaluated." if holdout else f"Evaluated. {NO_HOLDOUT}", kind="done"),
            report: framed(page),
            files: download_links(
                {"Save the report (HTML)": page, "Save the figures (JSON)": page.with_suffix(".json")}
            ),
        }

    real.change(list_columns, [shared.session, real], [target, status], show_progress="hidden")
    buttons[0].click(
        run,
        [shared.session, real, synthetic, holdout, target],
        [status, report, files, *buttons],
        concurrency_limit=shared.limits.concurrency,
        concurrency_id=PROCESS_WORK,
        show_progress="hidden",
    )
