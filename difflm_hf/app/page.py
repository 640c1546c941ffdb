"""The page: its tabs, how it looks, and its server."""

from __future__ import annotations

import html
import os
import signal
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import gradio as gr

from .common import Limits, Models, Session, Shared, close_session, explained, said
from .conditions import names_with_conditions
from .evaluate import build_evaluate
from .generate import build_generate
from .impute import build_impute
from .marginals import stored_columns
from .train import build_train


TITLE = "difflm"
CSS = Path(__file__).with_name("page.css")
THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="sm",
    # Of the visitor's machine: nothing is asked of another host.
    font=["system-ui", "Segoe UI", "Roboto", "Liberation Sans", "Arial", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "Liberation Mono", "monospace"],
)


def build_page(model: str | os.PathLike | None = None, limits: Limits | None = None) -> gr.Blocks:
    """
    The page, with tabs to generate, train, evaluate and impute.

    Args:
        model (`str` or `Path`, *optional*):
            Folder or Hub id of the only model that visitors use, beside those that they train. Without it they may
            name any.
        limits ([`~difflm_hf.app.common.Limits`], *optional*): What one visitor may ask for.

    Returns:
        `gradio.Blocks`. [`launch`] shows it.

    Raises:
        `OSError`: when there is no such model, or it is damaged.
    """
    limits, models = limits or Limits(), Models(None if model is None else str(model))
    served = [] if model is None else [models.name]
    for name in served:
        models.get(name)  # says what is wrong with it before anybody visits
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        session = gr.State(delete_callback=close_session)
        gr.HTML("<header><h1>difflm</h1><p>Learns the distribution of records, and generates new ones.</p></header>")
        with gr.Row(elem_id="model-bar"):
            name = gr.Dropdown(
                served,
                value=models.name,
                allow_custom_value=model is None,
                label="Model",
                info="The one that this page serves, or one that you trained here."
                if served
                else "A folder of this machine, or an id of the Hub; or one that you trained here.",
                min_width=280,
                elem_id="model",
            )
            with gr.Column(min_width=280):
                about = gr.HTML(said("Choose a model, or train one."))
        shared = Shared(session, name, models, limits)
        with gr.Tabs(selected="generate", overflow_behavior="wrap") as tabs:
            with gr.Tab("Generate", id="generate", render_children=True):
                columns = build_generate(shared)
            with gr.Tab("Train", id="train", render_children=True):
                build_train(shared, tabs)
            with gr.Tab("Evaluate", id="evaluate", render_children=True):
                build_evaluate(shared)
            with gr.Tab("Impute", id="impute", render_children=True):
                build_impute(shared)

        @explained(about)
        def open_model(session: Session, name: str | None) -> Iterator[dict]:
            session.pipe = None
            if not name:
                yield {about: said("Choose a model, or train one."), columns: gr.Dropdown([], value=[])}
                return
            yield {about: said(f"Loading {name} …"), columns: gr.Dropdown([], value=[])}
            if name in session.trained:
                session.pipe, session.real = session.trained[name]
            else:
                pipe = models.get(name)
                session.pipe, session.real = pipe, stored_columns(pipe)
            choices = names_with_conditions(session.pipe.processor.schema)
            yield {about: _about(session), columns: gr.Dropdown(choices, value=[])}

        opened = page.load(Session, None, session, show_progress="hidden")
        opened.then(open_model, [session, name], [about, columns], show_progress="hidden")
        name.change(open_model, [session, name], [about, columns], show_progress="hidden")
    return page


def _about(session: Session) -> str:
    """What a model is, in a line."""
    schema, training = session.pipe.processor.schema, session.pipe.config.training or {}
    parts = [f"{len(schema)} columns"]
    if data := training.get("data"):
        parts.append(f"trained on {data['num_records']:,} records")
    if date := training.get("date"):
        parts.append(f"on {date}")
    names = ", ".join(schema.names)
    return f'<div class="said done" role="status">{", ".join(parts)}<p class="note">{html.escape(names)}</p></div>'


@contextmanager
def serving(
    model: str | os.PathLike | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
) -> Iterator[str]:
    """
    Serves the page while the context lasts; then ends all runs, and removes all files of visitors.

    Args:
        model, limits (*optional*): Those of [`build_page`].
        host (`str`, defaults to `"127.0.0.1"`): The address to listen on.
        port (`int`, *optional*): The port; by default the first free one from 7860 on.

    Yields:
        `str`: The URL of the page.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="difflm-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what gradio serves files from, and nothing else
        page = build_page(model, limits)
        page.queue(default_concurrency_limit=8, api_open=False)
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=limits.max_file_size,
            theme=THEME,
            css_paths=CSS,
        )
        try:
            yield url
        finally:
            page.close()
            for state in page.state_holder.session_data.values():
                for _, session, _ in state.state_components:
                    close_session(session)


def launch(
    model: str | os.PathLike | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """
    Serves the page until it is interrupted, or the process is told to end.

    Args:
        model, host, port, limits (*optional*): Those of [`serving`].
        open_browser (`bool`, defaults to `False`): Whether to open the page in a browser.
        say (`Callable`, defaults to `print`): Tells where the page is.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else nobody would remove the files of visitors
    with serving(model, host, port, limits) as url:
        say(f"the page is at {url}; Ctrl+C ends it")
        if open_browser:
            webbrowser.open(url)
        try:
            Event().wait()
        except KeyboardInterrupt:
            pass
