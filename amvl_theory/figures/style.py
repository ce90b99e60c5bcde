"""One style for all figures: Okabe-Ito colours, each with its own line style and marker, so that greyscale tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 2, 1, 1, 1, 2)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL, SIGNED = "cividis", "PuOr"
DPI = 160
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "svg.hashsalt": "amvl",
}
OBJECTIVES = {"fwd": ("forward-only", 1), "elbo": ("ELBO", 2), "dual": ("dual KL", 0)}
"""Objective -> its name in legends, and its index into colours, lines and markers."""


def look(index: int) -> dict[str, object]:
    """Colour and line style number `index`."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def marks(index: int) -> dict[str, object]:
    """Colour and marker number `index`, for simulations: open, no line."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": "none",
        "markerfacecolor": "white",
        "markeredgewidth": 1.3,
    }


def axes(ax: Axes | None) -> Axes:
    """The given Axes, or those of a new figure."""
    return Figure(figsize=(5.2, 3.9), layout="constrained").subplots() if ax is None else ax  # type: ignore[return-value]


def page(columns: int, *, height: float = 4.0, width: float = 4.9) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # type: ignore[union-attr]
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whose bytes depend on the picture only."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def styled() -> object:
    """Context in which figures have this style."""
    return rc_context(STYLE)
