"""The tab that fills gaps of tables."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pandas as pd

from ..pipeline_difflm import DiffLMPipeline
from ..records import read_table
from ..seeds import seeded_generator
from .common import (
    FILE_TYPES,
    MODEL_WORK,
    SHOWN_ROWS,
    Session,
    Shared,
    download_links,
    explained,
    said,
    shown_rows,
    whole_number,
)
from .generate import MAX_SEED, write_files


FILLED = "background-color: var(--filled); font-weight: 600"


def fill_gaps(pipe: DiffLMPipeline, path: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The table of a file without its gaps, and a mask of what was filled.

    Args:
        pipe ([`DiffLMPipeline`]): The model.
        path (`str` or `Path`): The file.
        seed (`int`): The same seed gives the same table.

    Raises:
        `ValueError`: for a table that has no gaps, or is not as the model knows it.
    """
    schema = pipe.processor.schema
    table = schema.with_texts(read_table(path, schema.reading))
    gaps = table.isna()
    if not gaps.to_numpy().any():
        raise ValueError("the table has no gaps: every cell of it has a value")
    return pipe.impute(table, generator=seeded_generator(seed)), gaps


def marked(table: pd.DataFrame, gaps: pd.DataFrame) -> pd.io.formats.style.Styler:
    """The first rows that had gaps, these in a colour."""
    rows = gaps.any(axis=1).to_numpy()
    shown, filled = shown_rows(table[rows]).reset_index(drop=True), gaps[rows].head(SHOWN_ROWS).to_numpy()
    styles = pd.DataFrame(filled, columns=shown.columns).map(lambda was_gap: FILLED if was_gap else "")
    return shown.style.apply(lambda _: styles, axis=None)


def build_impute(shared: Shared) -> None:
    """The tab."""
    gr.Markdown(
        "Fill what is missing of a table, given the rest of each row. All other values stay as they are.",
        elem_classes="lead",
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            file = gr.File(label="Table with gaps", file_types=FILE_TYPES, height=140, elem_id="impute-file")
            gr.HTML('<p class="note">It has the columns that the model was trained on; empty cells are gaps.</p>')
            seed = gr.Number(0, label="Seed", info="The same seed fills the same values.")
            start = gr.Button("Fill gaps", variant="primary", elem_id="impute")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(said("Nothing is filled yet."))
            files = gr.HTML()
            rows = gr.Dataframe(label="Rows that had gaps", interactive=False, max_height=480, visible=False)

    @explained(status)
    def run(session: Session, path: str | None, seed: float | None) -> Iterator[dict]:
        pipe = session.needed_pipe()
        path = session.upload(path, "the table")
        table, gaps = fill_gaps(pipe, path, whole_number("Seed", seed, 0, MAX_SEED))
        paths = write_files(table, session.new_folder("impute"), "filled")
        num_rows = int(gaps.any(axis=1).sum())
        more = f" The first {SHOWN_ROWS} of these rows are shown." if num_rows > SHOWN_ROWS else ""
        yield {
            status: said(f"{int(gaps.to_numpy().sum()):,} gaps filled in {num_rows:,} rows.{more}", kind="done"),
            rows: gr.Dataframe(marked(table, gaps), visible=True),
            files: download_links(paths),
        }

    start.click(
        run,
        [shared.session, file, seed],
        [status, rows, files],
        concurrency_limit=shared.limits.concurrency,
        concurrency_id=MODEL_WORK,
        show_progress="hidden",
    )
