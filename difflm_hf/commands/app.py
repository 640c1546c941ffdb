"""`difflm app`."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import epilog, say


def app(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder or Hub id of the model that visitors use; without it they may name any."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; the first free one from 7860 on by default.")
    ] = None,
    max_records: Annotated[int, typer.Option(help="Records of one run.")] = 100_000,
    max_minutes: Annotated[float, typer.Option(help="Time of one training.")] = 60.0,
    concurrency: Annotated[int, typer.Option(help="Runs of each kind at a time; others wait.")] = 2,
    max_file_size: Annotated[str, typer.Option(help="Of an upload, such as 200mb.")] = "200mb",
    open_browser: Annotated[bool, typer.Option("--open-browser", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a page to generate, train, evaluate and impute in a browser."""
    try:
        import gradio  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise ImportError("the page needs gradio; pip install 'difflm_hf[app]'") from error
    from ..app import launch
    from ..app.common import Limits

    limits = Limits(max_records, max_minutes, concurrency, max_file_size)
    launch(model, host, port, limits, open_browser, say)


app.epilog = epilog(
    "difflm app",
    "difflm app my-model --open-browser",
    "difflm app alice/my-model --host 0.0.0.0 --max-records 10000",
)
