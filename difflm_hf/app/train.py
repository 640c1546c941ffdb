"""The tab that trains a model on an uploaded table."""

from __future__ import annotations

import html
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..records import RecordSchema, read_table
from .columns import FIXED, HEADERS, doubts_of, edited_schema, to_rows
from .common import (
    FILE_TYPES,
    PROCESS_WORK,
    Session,
    Shared,
    download_links,
    explained,
    load_pipeline,
    run_buttons,
    run_command,
    said,
    whole_number,
    without_folders,
)
from .generate import MAX_SEED
from .marginals import real_columns


KIND = "train"
PHASES = {"vae": "Autoencoder", "denoiser": "Latent diffusion"}
CURVES = {"loss": "training", "eval_loss": "validation"}
BAR = "%|"


class LossReader:
    """
    Losses of a run that goes on, from its TensorBoard logs.

    Args:
        folder (`Path`): The output folder of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._logs: dict[str, EventAccumulator] = {}

    def read(self, phase: str) -> pd.DataFrame:
        """The losses of a phase so far: `step`, `loss`, and which `curve` they are of."""
        folder, rows = self.folder / "logs" / phase, []
        if folder.is_dir():
            log = self._logs.setdefault(phase, EventAccumulator(str(folder), {"scalars": 0})).Reload()
            for tag in CURVES.keys() & set(log.Tags()["scalars"]):
                rows += [(event.step, event.value, CURVES[tag]) for event in log.Scalars(tag)]
        return pd.DataFrame(rows, columns=["step", "loss", "curve"])


def draw_losses(title: str, losses: pd.DataFrame) -> str:
    """
    A chart of the losses of a phase, with the latest ones in figures.

    Args:
        title (`str`): What the phase is called.
        losses (`pandas.DataFrame`): What [`LossReader.read`] gave.
    """
    (first, last), (low, high) = ((losses[name].min(), losses[name].max()) for name in ("step", "loss"))
    x = 100 * (losses["step"] - first) / max(last - first, 1)
    y = 50 * (high - losses["loss"]) / ((high - low) or 1)
    lines, latest = "", []
    for curve in CURVES.values():
        if (of := losses["curve"] == curve).any():
            points = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x[of], y[of]))
            lines += f'<polyline class="{curve}" points="{points}"/>'
            latest.append(f'<i class="{curve}"></i> {curve} {losses["loss"][of].iloc[-1]:.3f}')
    return (
        f'<figure><figcaption>{title}: loss</figcaption><p class="legend">{" ".join(latest)}</p>'
        f'<svg viewBox="0 -1 100 52" preserveAspectRatio="none" role="img" aria-label="{title}: loss, from {high:.3f} '
        f'to {low:.3f}">{lines}</svg><div class="ends"><span>{high:.3g} at the top, {low:.3g} below</span>'
        f"<span>step {last:,}</span></div></figure>"
    )


def _log(output: str) -> str:
    """What the training said, but for its bars, to be unfolded."""
    lines = [line for line in re.split(r"[\r\n]+", output) if line.strip() and BAR not in line]
    text = html.escape(without_folders("\n".join(lines)))
    return f'<details><summary>What the training says</summary><pre class="log">{text}</pre></details>'


def build_train(shared: Shared, tabs: gr.Tabs) -> None:
    """The tab."""
    limits = shared.limits
    gr.Markdown("Train a model on a table of your own. It stays in this session, for you alone.", elem_classes="lead")
    file = gr.File(label="Table", file_types=FILE_TYPES, height=140, elem_id="train-file")
    columns_status = gr.HTML(said("CSV, Parquet, JSON, JSON lines, Arrow or Excel. Its columns are shown first."))
    with gr.Column(visible=False) as inferred:
        gr.HTML(
            "<h3>What the columns are taken for</h3><p class='note'>Double-click a cell, or press Enter in it, to "
            "correct it. Types: integer, number, category, boolean, datetime, text. Untick “use” to leave a column "
            "out.</p>"
        )
        doubts = gr.HTML()
        rows = gr.Dataframe(
            headers=list(HEADERS),
            datatype=list(HEADERS.values()),
            column_count=(len(HEADERS), "fixed"),
            static_columns=[k for k, name in enumerate(HEADERS) if name in FIXED],
            interactive=True,
            row_limits=None,
            max_height=420,
            max_chars=40,
            show_label=False,
            pinned_columns=2,
            elem_id="columns",
        )
        rules = gr.CheckboxGroup(
            [], label="Rules", info="They hold in all rows. Those that stay ticked hold in all generated records."
        )
        with gr.Row():
            minutes = gr.Number(
                min(5, limits.max_minutes), label="Minutes", info=f"Up to {limits.max_minutes:g}.", min_width=120
            )
            seed = gr.Number(0, label="Seed", info="Of everything.", min_width=120)
            recipe = gr.Radio(["small", "base"], value="small", label="Size", info="base takes more time.")
        buttons = run_buttons(shared, KIND, "Train")
        status = gr.HTML()
        log = gr.HTML()
        curves = gr.HTML()
        go = gr.Button("Generate with this model", variant="primary", visible=False, elem_id="go-generate")
        files = gr.HTML()

    @explained(columns_status)
    def infer(session: Session, path: str | None) -> Iterator[dict]:
        if not path:
            yield {inferred: gr.Column(visible=False), columns_status: said("Choose a table.")}
            return
        own = session.upload(path, "the table")
        table = read_table(own)
        schema = RecordSchema.infer(table, find_rules=True)
        session.table, session.schema, session.table_path = table, schema, own
        found = doubts_of(schema, table)
        listed = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(doubt)}</li>" for name, doubt in found.items())
        names = [str(rule) for rule in schema.rules]
        yield {
            columns_status: said(f"{len(table):,} rows, {len(schema)} columns.", kind="done"),
            inferred: gr.Column(visible=True),
            rows: to_rows(schema, table),
            doubts: f'<p>Please check:</p><ul class="doubts">{listed}</ul>' if found else "",
            rules: gr.CheckboxGroup(
                [(name, k) for k, name in enumerate(names)], value=[*range(len(names))], visible=bool(names)
            ),
        }

    @explained(status, buttons)
    def run(
        session: Session, rows: pd.DataFrame, rules: list[int], minutes: float | None, seed: float | None, recipe: str
    ) -> Iterator[dict]:
        if session.schema is None:
            raise ValueError("the table is missing; choose a file")
        if minutes is None or not 0 < minutes <= limits.max_minutes:
            raise ValueError(f"Minutes is {minutes}; give a number above 0, up to {limits.max_minutes:g}")
        seed = whole_number("Seed", seed, 0, MAX_SEED)
        schema = edited_schema(session.schema, session.table, rows, rules)
        folder = session.new_folder(KIND)
        schema.save(folder / "schema.json")
        model, reader, start = folder / "model", LossReader(folder / "model"), time.monotonic()
        yield {curves: "", go: gr.Button(visible=False), files: ""}
        arguments = ["--output-dir", model, "--schema", folder / "schema.json", "--recipe", recipe]
        for output in run_command(
            session, KIND, "train", session.table_path, *arguments, "--max-minutes", minutes, "--seed", seed
        ):
            charts, phase = "", "Reading the table"
            for name, title in PHASES.items():
                if len(losses := reader.read(name)):
                    phase = title
                    charts += draw_losses(title, losses)
            seconds = time.monotonic() - start
            line = f"{phase}: {seconds / 60:.1f} of {minutes:g} minutes"
            yield {
                status: said(line, done=seconds / 60 / minutes),
                log: _log(output),
                curves: f'<div class="curves">{charts}</div>',
            }
        if not (model / "model_index.json").exists():
            yield {status: said("Stopped. Nothing is kept of this training.")}
            return
        yield {status: said("Loading the model …")}
        for unneeded in ("checkpoints", "logs"):
            shutil.rmtree(model / unneeded, ignore_errors=True)
        archive = shutil.make_archive(str(folder / "model"), "zip", model)
        name = f"{session.table_path.stem} (training {len(session.trained) + 1})"
        session.trained[name] = load_pipeline(model), real_columns(schema, schema.conform(session.table))
        choices = [*shared.model.choices, *((name, name) for name in session.trained)]
        yield {
            status: said("Trained. The model is in use now.", kind="done"),
            shared.model: gr.Dropdown(choices, value=name),
            go: gr.Button(visible=True),
            files: download_links({"Save the model (zip)": archive}),
        }

    file.change(infer, [shared.session, file], [columns_status, inferred, doubts, rows, rules], show_progress="hidden")
    buttons[0].click(
        run,
        [shared.session, rows, rules, minutes, seed, recipe],
        [status, log, shared.model, curves, go, files, *buttons],
        concurrency_limit=limits.concurrency,
        concurrency_id=PROCESS_WORK,
        show_progress="hidden",
    )
    go.click(lambda: gr.Tabs(selected="generate"), None, tabs, queue=False)
