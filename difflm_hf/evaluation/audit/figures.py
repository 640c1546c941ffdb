"""Figures of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from .verdict import ATTACKS


COLORS = {"likelihood": "#1a80c4", "calibrated": "#d55e00", "distance": "#1b9e5a"}
SMALLEST = 1e-3  # rate that is shown
CAPTION = (
    "Records that an attack finds, by those that it takes for training records though they are none. On the line it "
    "guesses. The upper left tells of a few records that are known for sure."
)


def audit_figures(scores: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Figures of an audit, for [`write_report`].

    Args:
        scores (`Mapping[str, Any]`): What [`audit_model`] returned.

    Returns:
        `dict[str, Figure]`: `"attacks"`, the curves of the membership attacks.
    """
    figure = Figure((5.5, 4.5), layout="constrained", label=CAPTION)
    axes = figure.add_subplot(xscale="log", yscale="log", xlim=(SMALLEST, 1), ylim=(SMALLEST, 1))
    axes.plot([SMALLEST, 1], [SMALLEST, 1], color="#7f7f7f", linestyle=":", label="chance")
    membership = scores["audit"]["membership"]
    for name in filter(membership.get, COLORS):
        curve = membership[name]["curve"]
        axes.plot(curve["false"], curve["true"], color=COLORS[name], label=ATTACKS[name])
    axes.set(xlabel="held-out records taken for training records", ylabel="training records found")
    axes.legend(frameon=False, fontsize="x-small", loc="upper left")
    return {"attacks": figure}
