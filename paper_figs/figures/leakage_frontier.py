"""Leaked information against held-out answer NLL, and against what the latents are worth, over beta and gamma."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from amvl_model.results.seeds import interval
from amvl_model.studies.pareto import LEAK, NLL, ZEROED, Cell, cells
from amvl_style import GREY, METHODS, SERIES, Look, shades
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PARETO
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "leaked information against answer NLL and against the worth of the latents, over beta and gamma"


def draw(sources: Sources) -> Drawn:
    """Colour and line tell gamma, the marker tells beta; bars are 95 % intervals over seeds.

    All means are arithmetic; on the logarithmic axis the part of an interval below the smallest mean's decade is cut.
    """
    results = sources.study("pareto", PARETO)
    if not results:
        raise NothingToDrawError
    found = cells(results)
    looks = _looks(sorted({cell.gamma for cell in found if cell.gamma is not None}))
    betas = sorted({cell.beta for cell in found})
    figure = page(3.1)
    left, right = figure.subplots(1, 2)
    for gamma, look in looks.items():
        group = sorted((cell for cell in found if cell.gamma == gamma), key=lambda cell: cell.beta)
        _curve(left, group, NLL, 1.0, betas, look)
        _curve(right, group, ZEROED, 100.0, betas, look)
    _cut(left)
    for ax in (left, right):
        ax.set_xscale("log", nonpositive="clip")
        ax.set_xlim(left=0.6 * min(cell.mean(LEAK) for cell in found))
        ax.set_xlabel("leaked information, held out, mean over seeds [nats]")
    left.set_ylabel("answer NLL, held out, prior mean [nats]")
    right.set_ylabel("accuracy change, latents zeroed [points]")
    right.axhline(0, color="black", lw=0.6)
    counts = sorted({len(cell.seeds) for cell in found})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    left.set_title(f"(a) lower left is better (means of {seeds} seeds)")
    right.set_title("(b) lower means the latents are used")
    figure.legend(handles=_legend(looks.values(), betas), loc="outside lower center", ncols=5)
    return Drawn(figure)


def _curve(ax: Axes, group: Sequence[Cell], metric: str, scale: float, betas: Sequence[float], look: Look) -> None:
    points = [(cell.mean(LEAK), scale * cell.mean(metric)) for cell in group]
    if points:
        ax.plot(*zip(*points, strict=True), lw=0.9, color=look.colour, ls=look.line)
    for cell, (x, y) in zip(group, points, strict=True):
        across, along = np.array(interval(cell.values[LEAK])), scale * np.array(interval(cell.values[metric]))
        xerr, yerr = np.abs(across[:, None] - x), np.abs(along[:, None] - y)
        ax.errorbar(x, y, yerr, xerr, color=look.colour, ls="none", elinewidth=0.7, capsize=0, alpha=0.45)
        marker = SERIES[betas.index(cell.beta)].marker
        ax.plot(x, y, color=look.colour, marker=marker, ls="none", mec="white", mew=0.5, ms=5.5, zorder=4)


def _cut(ax: Axes) -> None:
    """Limit the y axis to the range of the means and a margin where one interval is larger, and write its ends down."""
    means = np.sort(np.concatenate([line.get_ydata() for line in ax.lines if line.get_linestyle() != "None"]))
    low, high = means[0], means[-1]
    ends = ax.dataLim.intervaly
    if np.ptp(ends) > 2 * (high - low) > 0:
        margin = 0.25 * (high - low)
        ax.set_ylim(low - margin, high + margin)
        text = f"largest interval: {ends[0]:.2f} to {ends[1]:.2f} nats"
        ax.text(0.02, 0.97, text, transform=ax.transAxes, va="top", color=GREY)


def _looks(gammas: Sequence[float]) -> dict[float | None, Look]:
    """Forward-only in its own look; AMVL in shades of its colour, darker with gamma."""
    own, shaded = METHODS["amvl"], zip(gammas, shades("amvl", len(gammas)), strict=True)
    amvl: dict[float | None, Look] = {
        gamma: replace(own, label=f"{own.label}, γ = {gamma:g}", colour=colour) for gamma, colour in shaded
    }
    return {None: METHODS["ntp+fwd"], **amvl}


def _legend(looks: Iterable[Look], betas: Sequence[float]) -> list[Line2D]:
    shapes = zip(betas, SERIES, strict=False)
    return [Line2D([], [], color=look.colour, ls=look.line, label=look.label) for look in looks] + [
        Line2D([], [], color=GREY, marker=each.marker, ls="none", label=f"β = {beta:g}") for beta, each in shapes
    ]
