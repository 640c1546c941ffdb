"""What the machine can do, and what the user sees of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers
from transformers.utils import logging as transformers


def supports_bf16() -> bool:
    """Whether this machine, its GPU if it has one, computes in bfloat16 at full speed."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def default_dtype() -> torch.dtype:
    """The fastest dtype that this machine generates in."""
    return torch.bfloat16 if supports_bf16() else torch.float32


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps the loading and saving of weights from drawing bars across others."""
    libraries = [library for library in (transformers, diffusers) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """
    Lets a file appear only when it is complete: gives a path beside it to write to, which takes its name in the end.

    What a killed process leaves at that path the next one writes over.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
