"""What the machine can do, and what the user sees of it."""

from collections.abc import Iterator
from contextlib import contextmanager

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
