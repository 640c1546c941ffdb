"""What the tabs of the page share: sessions, models, messages, and commands in processes of their own."""

from __future__ import annotations

import functools
import html
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, Any
from urllib.parse import quote

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder
from transformers.utils import logging

from ..checks import check_positive, is_number, shown
from ..pipeline_difflm import DiffLMPipeline
from ..records import RecordSchema
from ..utils import default_device, no_progress_bars
from .marginals import RealColumn


logger = logging.get_logger(__name__)

# Of users, disks, networks and machines: what the page explains, rather than log it as a fault of its own.
EXPECTED = (ImportError, ValueError, OSError, RuntimeError, MemoryError)
FILE_TYPES = [".csv", ".tsv", ".gz", ".parquet", ".json", ".jsonl", ".arrow", ".feather", ".xlsx"]
MAX_MODELS = 4  # in memory at a time
FILE_SIZE = re.compile(r"0*[1-9]\d*([kmgt]?b)", re.IGNORECASE)  # as gradio reads it
SHOWN_ROWS = 100
POLL_SECONDS = 0.5
# Events of one of these names share a limit of how many of them run at a time.
MODEL_WORK, PROCESS_WORK = "model", "process"


@dataclass(frozen=True)
class Limits:
    """
    What one visitor may ask for.

    Args:
        max_records (`int`, defaults to 100,000): Records of one run.
        max_minutes (`float`, defaults to 60): Time of one training.
        concurrency (`int`, defaults to 2): Runs of all visitors at a time, of each kind; others wait for their turn.
        max_file_size (`str`, defaults to `"200mb"`): Of an upload.

    Raises:
        `ValueError`: for a limit that lets nobody do anything, or is none.
    """

    max_records: int = 100_000
    max_minutes: float = 60.0
    concurrency: int = 2
    max_file_size: str = "200mb"

    def __post_init__(self):
        check_positive(max_records=self.max_records, concurrency=self.concurrency)
        if not is_number(self.max_minutes) or not 0 < self.max_minutes < math.inf:
            raise ValueError(f"max_minutes={shown(self.max_minutes)} is no number of minutes above 0")
        if not isinstance(self.max_file_size, str) or not FILE_SIZE.fullmatch(self.max_file_size):
            raise ValueError(f"max_file_size={shown(self.max_file_size)} is no size of a file; write it like 200mb")


class Models:
    """
    Trained models by name, each of which is loaded once and shared by all sessions.

    Args:
        served (`str`, *optional*):
            The only model that visitors may load, beside those that they train. Without it they may name any folder
            of this machine and any model of the Hub.

    Attributes:
        name (`str`, *optional*):
            What visitors know that one by: of a folder its own name, as its path is nothing to tell them.
    """

    def __init__(self, served: str | None = None):
        is_folder = served is not None and os.path.isdir(served)
        self.name = os.path.basename(os.path.abspath(served)) if is_folder else served
        self._served = served
        self._pipes: OrderedDict[str, DiffLMPipeline] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str) -> DiffLMPipeline:
        """
        The pipeline of that name.

        Raises:
            `ValueError`: for no name, and for one that visitors may not load.
            `OSError`: when there is no such model, or it is damaged.
        """
        if not name:
            raise ValueError("no model is chosen; name a folder or a model of the Hub, or train one")
        if self.name is not None and name != self.name:
            raise ValueError(f"this page serves {self.name}, and not {name}")
        with self._lock:
            if name not in self._pipes:
                self._pipes[name] = load_pipeline(self._served or name)
                if len(self._pipes) > MAX_MODELS:
                    self._pipes.popitem(last=False)
            self._pipes.move_to_end(name)
            return self._pipes[name]


def load_pipeline(name: str | Path) -> DiffLMPipeline:
    """A pipeline on the device of this machine, that draws no bars."""
    try:
        with no_progress_bars():
            pipe = DiffLMPipeline.from_pretrained(name)
    except OSError as error:
        if _class_of(name) == "DiffusionLMPipeline":
            said = f"{name} is a Diffusion-LM, and the page is of DiffLM models; its texts are for difflm generate"
            raise ValueError(said) from error
        raise
    pipe.to(default_device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _class_of(name: str | Path) -> str | None:
    """The class of a pipeline that is on this machine; `None` where there is none."""
    with suppress(OSError, ValueError):
        return DiffLMPipeline.load_config(name, local_files_only=True).get("_class_name")
    return None


@dataclass
class Session:
    """
    What belongs to one open page.

    Args:
        folder (`Path`): Its files, which are removed with it.
        pipe ([`DiffLMPipeline`], *optional*): The model in use.
        real (`dict[str, RealColumn]`): What is known of the columns that it was trained on: aggregates, no records.
        trained (`dict[str, tuple]`): Models that were trained here, each with what is known of its columns, by name.
        asked (`list[str]`): Columns that conditions are on.
        stopping (`set[str]`): Kinds of runs that are to end.
        processes (`list[subprocess.Popen]`): Those that run.
        table (`pandas.DataFrame`, *optional*): The table to train on.
        schema ([`RecordSchema`], *optional*): What it was taken for.
        table_path (`Path`, *optional*): Its file.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="session-", dir=get_upload_folder())))
    pipe: DiffLMPipeline | None = None
    real: dict[str, RealColumn] = field(default_factory=dict)
    trained: dict[str, tuple[DiffLMPipeline, dict[str, RealColumn]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stopping: set[str] = field(default_factory=set)
    processes: list[subprocess.Popen] = field(default_factory=list)
    table: pd.DataFrame | None = None
    schema: RecordSchema | None = None
    table_path: Path | None = None

    def __deepcopy__(self, memo: dict) -> Session:
        return self  # the same one in all events of a page

    def upload(self, path: str | None, what: str) -> Path:
        """
        A file that was uploaded, in the folder of this session. Where gradio keeps it, visitors with the same file
        share it, and gradio removes it.

        Raises:
            `ValueError`: when there is none.
        """
        if not path:
            raise ValueError(f"{what} is missing; choose a file, or drop one there")
        given, root = Path(path).resolve(), Path(get_upload_folder()).resolve()
        if not given.is_file() or not given.is_relative_to(root):
            raise ValueError(f"{what} is no longer there; choose the file again")
        own = self.folder / "uploads" / given.parent.name / given.name
        own.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.link(given, own)
        return own

    def new_folder(self, name: str) -> Path:
        """An empty folder, in place of the one of that name before."""
        for old in self.folder.glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def needed_pipe(self) -> DiffLMPipeline:
        """The model in use. Raises a `ValueError` when there is none."""
        if self.pipe is None:
            raise ValueError("no model is loaded; choose one above, or train one")
        return self.pipe

    def close(self) -> None:
        """Ends what runs, and removes all files."""
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Shared:
    """
    What all tabs have in common.

    Args:
        session (`gr.State`): The [`Session`].
        model (`gr.Dropdown`): The name of the model in use.
        models ([`Models`]): Those that are shared by all sessions.
        limits ([`Limits`]): What one visitor may ask for.
    """

    session: gr.State
    model: gr.Dropdown
    models: Models
    limits: Limits


def close_session(session: Session | None) -> None:
    """Closes a session, if it was ever opened."""
    if session is not None:
        session.close()


def said(message: str, *, done: float | None = None, kind: str = "info") -> str:
    """A line that tells how a run goes, which screen readers read out, with a bar of the share that is done."""
    bar = "" if done is None else f'<progress max="1" value="{min(done, 1):.3f}" aria-label="progress"></progress>'
    role = "alert" if kind == "error" else "status"
    return f'<div class="said {kind}" role="{role}">{html.escape(message)}{bar}</div>'


def download_links(paths: Mapping[str, str | Path]) -> str:
    """
    Links that save files of a session.

    Args:
        paths (`Mapping[str, Path]`): The files, by the texts of their links.
    """
    links = "".join(
        f'<a href="gradio_api/file={html.escape(quote(str(path)))}" download="{html.escape(Path(path).name)}">'
        f"{html.escape(text)}</a>"
        for text, path in paths.items()
    )
    return f'<div class="downloads">{links}</div>'


def explain(error: BaseException) -> str:
    """What went wrong, in one line, without folders of this machine."""
    return without_folders(" ".join(str(error).split()))


def without_folders(text: str) -> str:
    """A text without the folders of this machine that files of visitors lie in."""
    return re.sub(re.escape(get_upload_folder()) + r"[\w/-]*/", "", text)


def run_buttons(shared: Shared, kind: str, label: str) -> tuple[gr.Button, gr.Button]:
    """A button that starts a run, and one that ends it."""
    with gr.Row():
        start = gr.Button(label, variant="primary", elem_id=kind)
        stop = gr.Button("Stop", interactive=False, min_width=80, elem_id=f"stop-{kind}")
    stop.click(lambda session: session.stopping.add(kind), shared.session, None, queue=False)
    return start, stop


def explained(
    status: gr.HTML, buttons: Sequence[gr.Button] = ()
) -> Callable[[Callable[..., Iterator[dict]]], Callable[..., Iterator[dict]]]:
    """
    Lets a handler of events, a generator of dicts of outputs, tell what a visitor did wrong, and of any other error
    that it is one of this package, which the log then has.

    Args:
        status (`gr.HTML`): Where.
        buttons (`Sequence[gr.Button]`, defaults to none): Those of [`run_buttons`], of which one works at a time.
    """

    def turned(is_running: bool) -> dict:
        return {button: gr.Button(interactive=is_running == bool(k)) for k, button in enumerate(buttons)}

    def decorate(handler: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
        @functools.wraps(handler)
        def run(*args: Any) -> Iterator[dict]:
            yield turned(True) | {status: said("Working …")}
            try:
                yield from handler(*args)
                if buttons:
                    yield turned(False)
            except EXPECTED as error:
                yield turned(False) | {status: said(explain(error) or type(error).__name__, kind="error")}
            except Exception as error:
                logger.error("the page failed", exc_info=True)
                fault = f"a fault of this package ({type(error).__name__}); the log of the page says where it arose"
                yield turned(False) | {status: said(fault, kind="error")}

        return run

    return decorate


def whole_number(name: str, value: float | None, least: int, most: int) -> int:
    """
    What a field for numbers has, as an integer.

    Raises:
        `ValueError`: for nothing, a fraction, and what is out of bounds. The message names the field.
    """
    if value is None or not least <= value <= most or value != int(value):
        shown = "nothing" if value is None else f"{value:,}"
        raise ValueError(f"{name} is {shown}; give a whole number from {least:,} to {most:,}")
    return int(value)


def run_command(session: Session, kind: str, *arguments: str | Path) -> Iterator[str]:
    """
    Runs a command of `difflm` in a process of its own, whose random numbers and memory are no one else's, and ends it
    where runs of that kind are to stop, or nobody asks on.

    Args:
        session ([`Session`]): Whose run it is.
        kind (`str`): What `session.stopping` calls it.
        arguments (`str` or `Path`): Those of the command.

    Yields:
        `str`: What the process has said so far.

    Raises:
        `ValueError`: with what the process said, when it fails.
    """
    session.stopping.discard(kind)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        command = [sys.executable, "-m", "difflm_hf", *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        session.processes.append(process)
        try:
            while process.poll() is None and kind not in session.stopping:
                yield _read(log)
                time.sleep(POLL_SECONDS)
            yield (output := _read(log))
            if process.poll():
                raise ValueError(last_line(output).removeprefix("error: ") or f"exit code {process.returncode}")
        finally:
            process.kill()
            process.wait()
            session.processes.remove(process)


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def last_line(output: str) -> str:
    """The last line of a process's output, or the last state of a bar in it."""
    return next((line.strip() for line in reversed(re.split(r"[\r\n]+", output)) if line.strip()), "")


def shown_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The first rows, as texts that look as in a file."""
    rows = table.head(SHOWN_ROWS)
    return (
        rows.astype(object).where(rows.notna(), "").map(lambda value: value if isinstance(value, bool) else str(value))
    )
