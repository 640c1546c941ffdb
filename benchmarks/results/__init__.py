"""Figures of the benchmarks, one JSON file each, with the versions they were taken with."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parent
PACKAGES = ("difflm_hf", "torch", "transformers", "diffusers", "sdmetrics", "xgboost")


def load_result(name: str) -> dict[str, Any]:
    """The figures saved under `name`, or none yet."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save_result(name: str, figures: dict[str, Any]) -> None:
    """Adds figures to those saved under `name`, in place of older ones of the same keys."""
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    result = {**load_result(name), **figures, "versions": versions}
    (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
