"""Tables in Markdown, and the figures in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats


def to_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_threads(num: int) -> str:
    return "one thread" if num == 1 else f"{num} threads"


def mean_interval(values: Sequence[float], form: str = ".3f") -> str:
    """Mean, with half of its 95 % interval by Student's t where there are several values."""
    if len(values) == 1:
        return format(values[0], form)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):{form}} ± {half:{form}}"


def fill(document: Path, name: str, content: str) -> None:
    """Puts content between the markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = document.read_text(encoding="utf-8")
    text = re.sub(f"{start}.*{end}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.DOTALL)
    document.write_text(text, encoding="utf-8")
