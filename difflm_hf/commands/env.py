"""`difflm env`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from .common import command


PACKAGES = (
    *("difflm_hf", "torch", "transformers", "diffusers", "accelerate", "datasets", "tokenizers", "safetensors"),
    *("huggingface_hub", "peft"),
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")  # of what libraries use
VARIABLES = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
CPU_FILE = Path("/proc/cpuinfo")  # of Linux


@command("difflm env", "difflm env --json")
def env(context: typer.Context) -> dict[str, Any]:
    """Print what a bug report needs: versions, processor, memory, GPU."""
    name, flags = _processor()
    found = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "processor": name,
        "processor_flags": flags,
        "num_cores": os.cpu_count(),
        "memory_gib": _memory(),
        "gpus": _gpus(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if not context.params["json"]:
        for key, value in found.items():
            print(f"- {key}: {_written(value)}", flush=True)
    return found


def _written(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, dict):
        value = [f"{name}={of}" for name, of in value.items()]
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)  # without the import, which takes seconds
    except PackageNotFoundError:
        return "not installed"


def _processor() -> tuple[str, list[str]]:
    """Its name, and those of its flags that decide how fast models run."""
    if not CPU_FILE.is_file():
        return platform.processor() or platform.machine(), []
    lines = (line.partition(":") for line in CPU_FILE.read_text(encoding="utf-8").split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    flags = fields.get("flags", "").split()
    return fields.get("model name", platform.machine()), [flag for flag in FLAGS if flag in flags]


def _memory() -> float | None:
    """Where the system tells it, as Windows does not."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpus() -> list[str]:
    """By NVIDIA's own tool, as torch would have to be imported; its version says what it was built for."""
    if shutil.which("nvidia-smi") is None:
        return ["Apple"] if platform.system() == "Darwin" and platform.machine() == "arm64" else []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return done.stdout.splitlines() if done.returncode == 0 else [f"nvidia-smi: {done.stdout.strip()}"]
