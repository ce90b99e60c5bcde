"""Leaked information against held-out answer NLL, and against what the latents are worth, over beta and gamma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from amvl_model.results.seeds import interval
from amvl_model.studies.pareto import LEAK, NLL, ZEROED, Cell, cells
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PARETO
from paper_figs.sources import Sources
from paper_figs.style import BLACK, COLOURS, LINES, MARKERS, page

TITLE = "leaked information against answer NLL and against the worth of the latents, over beta and gamma"
FLOOR = 1e-4


def draw(sources: Sources) -> Drawn:
    """Colour and line tell gamma, the marker tells beta; bars are 95 % intervals over seeds.

    Leaked information spans decades: its mean is geometric and its interval that of the logarithm.
    """
    results = sources.study("pareto", PARETO)
    if not results:
        raise NothingToDrawError
    found = cells(results)
    gammas: list[float | None] = [None, *sorted({cell.gamma for cell in found if cell.gamma is not None})]
    betas = sorted({cell.beta for cell in found})
    figure = page(3.1)
    left, right = figure.subplots(1, 2)
    for i, gamma in enumerate(gammas):
        group = sorted((cell for cell in found if cell.gamma == gamma), key=lambda cell: cell.beta)
        shown: dict[str, Any] = {
            "color": BLACK if gamma is None else COLOURS[i - 1],
            "ls": "-" if gamma is None else LINES[i],
        }
        _curve(left, group, NLL, 1.0, betas, shown)
        _curve(right, group, ZEROED, 100.0, betas, shown)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlabel("leaked information, held out [nats]")
    left.set_ylabel("answer NLL, held out, prior mean [nats]")
    right.set_ylabel("accuracy change, latents zeroed [points]")
    right.axhline(0, color="black", lw=0.6)
    counts = sorted({len(cell.seeds) for cell in found})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    left.set_title(f"(a) lower left is better ({seeds} seeds)")
    right.set_title("(b) lower means the latents are used")
    figure.legend(handles=_legend(gammas, betas), loc="outside lower center", ncols=5)
    return Drawn(figure)


def _curve(
    ax: Axes, group: Sequence[Cell], metric: str, scale: float, betas: Sequence[float], shown: dict[str, Any]
) -> None:
    points = [(float(np.exp(_logs(cell).mean())), scale * cell.mean(metric)) for cell in group]
    if points:
        ax.plot(*zip(*points, strict=True), lw=0.9, **shown)
    for cell, (x, y) in zip(group, points, strict=True):
        across, along = np.exp(interval(_logs(cell))), scale * np.array(interval(cell.values[metric]))
        ax.errorbar(
            x, y,
            xerr=np.abs(across[:, None] - x), yerr=np.abs(along[:, None] - y),
            color=shown["color"], marker=MARKERS[betas.index(cell.beta)], ls="none", elinewidth=0.6, capsize=0, mec="white",
            mew=0.4, ms=5.5,
        )  # fmt: skip


def _logs(cell: Cell) -> np.ndarray:
    """Logarithms of the leaked information of every seed, nats below `FLOOR` taken as that."""
    return np.log(np.maximum(cell.values[LEAK], FLOOR))


def _legend(gammas: Sequence[float | None], betas: Sequence[float]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=BLACK, label="forward-only")
        if gamma is None
        else Line2D([], [], color=COLOURS[i - 1], ls=LINES[i], label=f"AMVL, γ = {gamma:g}")
        for i, gamma in enumerate(gammas)
    ]
    return lines + [
        Line2D([], [], color="#666666", marker=MARKERS[i], ls="none", label=f"β = {beta:g}")
        for i, beta in enumerate(betas)
    ]
