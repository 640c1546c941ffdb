"""The tab that generates records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from ..pipeline_difflm import DiffLMPipeline
from ..records import read_table, write_table
from ..seeds import seeded_generator
from .common import (
    MODEL_WORK,
    SHOWN_ROWS,
    Session,
    Shared,
    download_links,
    explained,
    run_buttons,
    said,
    shown_rows,
    whole_number,
)
from .conditions import MAX_CONDITIONS, ConditionFields, read_condition, split_values
from .marginals import to_html


KIND = "generate"
ENDINGS = {".csv": "CSV", ".parquet": "Parquet", ".jsonl": "JSON lines"}
MAX_SEED = 2**31 - 1
MARGINALS_INFO = """
<h3>Distributions</h3>
<p class="legend"><i></i> generated <i class="real"></i> real, where it is known</p>
<p class="note">Of the real table a model keeps percentiles of numbers, and shares of five frequent categories. Under
conditions the two differ, as they should.</p>
"""


def stream_tables(
    pipe: DiffLMPipeline, num_records: int, seed: int, temperature: float = 1.0, **conditions: Any
) -> Iterator[pd.DataFrame]:
    """
    Records of a seed, block by block, as a call of the pipeline gives them.

    Args:
        pipe ([`DiffLMPipeline`]): The model.
        num_records (`int`): Records in all.
        seed (`int`): The seed.
        temperature (`float`, defaults to 1.0): Of the causal LM.
        conditions (*optional*): `conditions` and `where` of the call.
    """
    schema = pipe.processor.schema
    batches = pipe.stream(num_records, temperature=temperature, generator=seeded_generator(seed), **conditions)
    for batch in batches:
        table = read_table(Dataset(pa.Table.from_batches([batch])))
        # A `Dataset` has no categories.
        categories = {f.name: batch[f.name].to_pandas() for f in schema if f.dtype.startswith("category")}
        table = table.assign(**categories)
        yield schema.to_table({name: table[name] for name in schema.names})


def write_files(table: pd.DataFrame, folder: Path, name: str) -> dict[str, Path]:
    """
    Writes a table in each of the formats.

    Args:
        table (`pandas.DataFrame`): The table.
        folder (`Path`): Where to.
        name (`str`): The name of the files, but for their endings.

    Returns:
        `dict[str, Path]`: The files, by what their formats are called.
    """
    paths = {called: folder / f"{name}{ending}" for ending, called in ENDINGS.items()}
    for path in paths.values():
        write_table(table, path)
    return paths


def build_generate(shared: Shared) -> gr.Dropdown:
    """The tab. Gives the list of columns that conditions may be on, which depends on the model."""
    limits = shared.limits
    gr.Markdown("Draw new records from the model. The same seed gives the same records.", elem_classes="lead")
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                num = gr.Number(
                    1000,
                    label="Records",
                    info=f"Up to {limits.max_records:,}.",
                    min_width=130,
                    interactive=True,
                )
                seed = gr.Number(0, label="Seed", info="Any whole number.", min_width=130, interactive=True)
            temperature = gr.Slider(
                0.1,
                2,
                1,
                step=0.1,
                interactive=True,
                label="Temperature",
                info="1 is what was learnt; less is more typical.",
            )
            names = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MAX_CONDITIONS,
                interactive=True,
                label="Conditions on",
                info="Choose columns, then what they may be.",
            )
            fields = [ConditionFields() for _ in range(MAX_CONDITIONS)]
            where = gr.Textbox(
                label="Expression",
                info="Columns can be compared, too.",
                placeholder="age >= 30 and income == '>50K'",
                interactive=True,
            )
            buttons = run_buttons(shared, KIND, "Generate")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(said("Nothing is generated yet."))
            files = gr.HTML()
            rows = gr.Dataframe(label="First rows", interactive=False, max_height=360, visible=False)
            charts = gr.HTML()

    @explained(status, buttons)
    def run(
        session: Session,
        num: float | None,
        seed: float | None,
        temperature: float,
        where: str,
        names: list[str],
        *values,
    ) -> Iterator[dict]:
        pipe = session.needed_pipe()
        num = whole_number("Records", num, 1, limits.max_records)
        seed = whole_number("Seed", seed, 0, MAX_SEED)
        schema = pipe.processor.schema
        asked = {name: read_condition(schema[name], of) for name, of in zip(names, split_values(values))}
        asked = {name: condition for name, condition in asked.items() if condition is not None}
        given = ({"conditions": asked} if asked else {}) | ({"where": where.strip()} if where.strip() else {})
        session.stopping.discard(KIND)
        tables: list[pd.DataFrame] = []
        for table in stream_tables(pipe, num, seed, temperature, **given):
            tables.append(table)
            count = sum(map(len, tables))
            first = {rows: gr.Dataframe(shown_rows(table), visible=True)} if len(tables) == 1 else {}
            yield first | {status: said(f"{count:,} of {num:,} records", done=count / num)}
            if KIND in session.stopping:
                break
        records = pd.concat(tables, ignore_index=True)
        records.attrs = tables[0].attrs
        paths = write_files(records, session.new_folder(KIND), "synthetic")
        stopped = f", stopped before {num:,}" if count < num else ""
        more = f" The first {SHOWN_ROWS} are shown." if count > SHOWN_ROWS else ""
        yield {
            status: said(f"{count:,} records of seed {seed}{stopped}.{more}", kind="done"),
            rows: gr.Dataframe(shown_rows(records), visible=True),
            charts: "",
            files: download_links(paths),
        }
        yield {charts: MARGINALS_INFO + to_html(schema, records, session.real)}

    def ask(session: Session, chosen: list[str], *values: Any) -> dict:
        """Shows the fields of the columns that are chosen, filled in as they were."""
        before, given = session.asked, dict(zip(session.asked, split_values(values)))
        session.asked, shown = list(chosen), {}
        for k, part in enumerate(fields):
            name = chosen[k] if k < len(chosen) else None
            if name is None or name != (before[k] if k < len(before) else None):
                shown |= part.show(name and session.pipe.processor.schema[name], given.get(name, ()))
        return shown

    inputs = [component for part in fields for component in part.inputs]
    names.change(
        ask,
        [shared.session, names, *inputs],
        [component for part in fields for component in part.outputs],
        show_progress="hidden",
    )
    buttons[0].click(
        run,
        [shared.session, num, seed, temperature, where, names, *inputs],
        [status, rows, charts, files, *buttons],
        concurrency_limit=limits.concurrency,
        concurrency_id=MODEL_WORK,
        show_progress="hidden",
    )
    return names
