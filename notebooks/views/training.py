"""The curves of small runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from amvl_style import axes, look
from notebooks.views.show import styled

ARMS = {"forward-only": "ntp+fwd", "AMVL": "amvl"}
CURVES = (
    ("ntp", "answer NLL with posterior latents [nats]", False),
    ("forward_kl", "KL(q || p) [nats]", True),
    ("reverse_kl", "KL(p || q) [nats]", True),
    ("posterior_std", "posterior standard deviation [latent units]", True),
)
"""Column of metrics.jsonl, axis label, logarithmic axis."""


def log(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl that training wrote."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if "ntp" in row]


def curves(logs: Mapping[str, list[dict[str, float]]]) -> Figure:
    """What happened during training, one panel per column; both KLs have one scale."""
    with styled():
        page = Figure(figsize=(13.2, 3.5))
        panels = page.subplots(1, len(CURVES))
        panels[2].sharey(panels[1])
        for ax, (column, label, log) in zip(panels, CURVES, strict=True):
            draw_curve(logs, column, label, log=log, ax=ax)
        panels[0].legend()
    return page


def draw_curve(
    logs: Mapping[str, list[dict[str, float]]], column: str, label: str, *, log: bool = False, ax: Axes | None = None
) -> Axes:
    """One column of the logs against the step."""
    ax = axes(ax)
    for name, rows in logs.items():
        ax.plot(
            [row["step"] for row in rows], [row.get(column, np.nan) for row in rows], label=name, **look(ARMS[name])
        )
    if log:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="training step [steps]", ylabel=label)
    return ax
