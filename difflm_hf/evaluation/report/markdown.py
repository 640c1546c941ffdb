"""The figures of an evaluation as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .summary import summarize


def to_markdown(scores: Mapping[str, Any]) -> str:
    """
    The figures among scores as a Markdown table, such as model cards have.

    Args:
        scores (`Mapping[str, Any]`): As for [`summarize`].
    """
    lines = ["| | metric | value | to compare with | good |", "| --- | --- | --- | --- | --- |"]
    section = None
    for row in summarize(scores):
        shown = "" if row.section == section else row.section.lower()
        lines.append(f"| {shown} | {row.name} | {row.value} | {row.reference} | {row.good} |")
        section = row.section
    return "\n".join(lines)
