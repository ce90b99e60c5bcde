"""The laboratory: accuracy at the most hops by objective and latents, its course in training, and leaked information."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from amvl_model.results.files import Result
from amvl_model.results.frame import tidy
from amvl_model.results.seeds import interval
from amvl_model.studies.declared import STUDIES
from amvl_model.studies.laboratory.analysis import hardest
from amvl_style import METHODS, RULE, Look
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.sources import Sources
from paper_figs.style import page
from paper_figs.tables.table import Head, Metric, drawn, summarise

TITLE = "latents that are needed: accuracy at the most hops, its course, and leaked information"
STUDY = "laboratory"
CONDITIONS = {
    "accuracy": "prior's latents",
    "accuracy_posterior": "posterior's",
    "accuracy_exchanged": "another scene's",
}


def look(cell: str) -> Look:
    """Of a cell, by its objective."""
    return METHODS[cell.partition(",")[0]]


def draw(sources: Sources) -> Drawn:
    """Small marks are seeds, large ones arithmetic means with 95 % intervals over seeds."""
    results = sources.merged(STUDY)
    if not results:
        raise NothingToDrawError
    hops, frame = hardest(results), tidy(results)
    cells = [cell for cell in STUDIES[STUDY].cells if cell in set(frame.cell)]
    figure = page(4.6)
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1), squeeze=False)[:, 0]
    accuracy, leak = above.subplots(1, 2, width_ratios=(1.9, 1))
    _accuracies(accuracy, frame, cells, hops, results[0].config["recipe"]["objects"])
    _leaks(leak, frame, cells, hops, results[0].config["recipe"]["objects"])
    _courses(below, results, cells, hops)
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, ls="none", label=each.label) for each in map(look, cells)
    ]
    above.legend(handles=handles, loc="outside lower center", ncols=4)
    return Drawn(figure)


def table(sources: Sources) -> Drawn:
    """the laboratory: test accuracy by hops and by latents, leaked information, patched latents"""
    frame = tidy(sources.merged(STUDY))
    columns: dict[Head, Metric] = {
        ("accuracy, prior's latents [%]", f"{h} hops"): Metric(f"accuracy_{h}", 100) for h in (1, 2, 3)
    }
    columns |= {
        ("at 3 hops", "posterior's latents [%]"): Metric("accuracy_posterior_3", 100),
        ("at 3 hops", "another scene's [%]"): Metric("accuracy_exchanged_3", 100),
        ("at 3 hops", "follows patch [%]"): Metric("follows_patch_3", 100),
        ("at 3 hops", "leaked [nats]"): Metric("leaked_3", 1, 3),
    }
    rows = summarise(frame, "cell", columns, rows=list(STUDIES[STUDY].cells))
    notes = [
        "ours: multi-hop questions about coloured cells, bases with three text layers (348,000 parameters) pre-trained on one "
        "and two hops; 1,024 test questions for each number of hops. Means over seeds with 95 % intervals (Student's t).",
        "Arms with latents share a warm-up by prior-sample training; sft and pause train for as many steps more.",
        "follows patch: with latents of another start in the same scene, answers that are right for that start.",
    ]
    return drawn("The laboratory", rows, notes)


def _spread(ax: Axes, x: float, values: pd.Series, shown: Look, scale: float, top: float) -> None:
    values = scale * values.dropna()
    if values.empty:
        return
    jitter = np.linspace(-0.04, 0.04, len(values))
    ax.plot(x + jitter, values, linestyle="none", marker=shown.marker, markersize=2, color=shown.colour, alpha=0.45)
    low, high = interval(values) if len(values) > 1 else (values.mean(), values.mean())
    mean = float(values.mean())
    error = [[mean - max(low, 0.0)], [min(high, top) - mean]]
    ax.errorbar(
        x,
        mean,
        error,
        marker=shown.marker,
        color=shown.colour,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )


def _accuracies(ax: Axes, frame: pd.DataFrame, cells: Sequence[str], hops: int, options: int) -> None:
    for i, cell in enumerate(cells):
        for j, condition in enumerate(CONDITIONS):
            rows = frame[(frame.cell == cell) & (frame.metric == f"{condition}_{hops}")]
            if not (cell == "prior" and condition == "accuracy_posterior"):
                _spread(ax, j + (i - (len(cells) - 1) / 2) * 0.12, rows.value, look(cell), 100.0, 100.0)
    ax.axhline(100 / options, **RULE)
    ax.set_xticks(range(len(CONDITIONS)), list(CONDITIONS.values()))
    ax.set(ylim=(0, 104), ylabel="accuracy [%]", title=f"(a) {hops} hops, test; dashed: chance")


def _leaks(ax: Axes, frame: pd.DataFrame, cells: Sequence[str], hops: int, options: int) -> None:
    shown = [cell for cell in cells if "amvl" in cell or "ntp" in cell or "elbo" in cell]
    for i, cell in enumerate(shown):
        _spread(
            ax,
            i,
            frame[(frame.cell == cell) & (frame.metric == f"leaked_{hops}")].value,
            look(cell),
            1.0,
            math.log(options),
        )
    ax.axhline(math.log(options), **RULE)
    ax.set_xticks(range(len(shown)), [look(cell).label.replace("-", "-\n") for cell in shown])
    ax.set(ylim=(-0.05, 1.08 * math.log(options)), ylabel="leaked [nats]", title=f"(b) {hops} hops; dashed: all")


def _courses(part: SubFigure, results: Sequence[Result], cells: Sequence[str], hops: int) -> None:
    """Validation accuracy against steps since the warm-up's end, a panel per cell; a line is a seed."""
    axes = np.atleast_1d(part.subplots(1, len(cells), sharex=True, sharey=True))
    for ax, cell in zip(axes, cells, strict=True):
        for result in (each for each in results if each.cell == cell):
            warm = result.extra["warmup_steps"]
            before = 0 if "warmup" in result.extra else warm
            start = [(0, 100 * result.extra["warmup"][-1][f"accuracy_{hops}"])] if result.extra.get("warmup") else []
            points = start + [(row["step"] - before, 100 * row[f"accuracy_{hops}"]) for row in result.extra["curve"]]
            ax.plot(*zip(*points, strict=True), color=look(cell).colour, alpha=0.7, linewidth=0.8)
        ax.set_title(look(cell).label.replace(" ", "\n", 1), color=look(cell).colour)
    last = max(line.get_xdata()[-1] for ax in axes for line in ax.lines)
    axes[0].set(ylim=(0, 104), xlim=(-0.25 * last, last), ylabel="accuracy [%]")
    part.supxlabel("steps since the end of the shared warm-up", fontsize="medium")
    part.suptitle(f"(c) {hops} hops, validation, prior's latents; a line is a seed", x=0.01, ha="left", weight="bold")
