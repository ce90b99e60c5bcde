"""The theory's predictions for other gammas from one checkpoint, beside the checkpoints trained at these gammas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from amvl_model.pareto import interval
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PREDICTION
from paper_figs.sources import Sources
from paper_figs.style import BLACK, COLOURS, LINES, MARKERS, page

if TYPE_CHECKING:
    from amvl_model.prediction.tables import Table

TITLE = "predicted and trained leaked information against gamma"
STUDY = "prediction"
QUANTITIES = {"leak": "leaked information\n[nats]", "spread": "spread of posterior means\n[prior std]"}
FLOORS = {"leak": 1e-3, "spread": 1e-2}
"""Means below it are drawn there: less than the Monte Carlo error of a leak, and a spread without effect."""


def draw(sources: Sources) -> Drawn:
    """A row a reference checkpoint, a column a quantity; geometric means over seeds, 95 % intervals for what was trained."""
    found = read(sources)
    if not found:
        raise NothingToDrawError
    figure = page(2.25 * len(found) + 0.85)
    axes = figure.subplots(len(found), len(QUANTITIES), sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for row, (line, (reference, tables)) in enumerate(zip(axes, found.items(), strict=True)):
        for column, (ax, (quantity, label)) in enumerate(zip(line, QUANTITIES.items(), strict=True)):
            handles |= _panel(ax, tables, quantity)
            ax.set_title(f"({'abcdefgh'[row * len(QUANTITIES) + column]}) from {reference}, {len(tables)} seeds")
            ax.set_ylabel(label)
            if row == len(found) - 1:
                ax.set_xlabel("weight of the reverse KL, γ [1]")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return Drawn(figure)


def read(sources: Sources) -> dict[str, dict[int, Table]]:
    """Per reference and seed the table of its predictions, {} where there are none."""
    folder = sources.results / STUDY
    paths = sorted(folder.glob("*/seed*.csv"))
    if not paths:
        sources.lacks(f"results/{STUDY}", PREDICTION)
        return {}
    from amvl_model.prediction.tables import read_table

    sources.study(STUDY, PREDICTION, cells=sorted({path.parent.name for path in paths}))
    found: dict[str, dict[int, Table]] = {}
    for path in paths:
        seed = int(path.stem.removeprefix("seed"))
        found.setdefault(path.parent.name, {})[seed] = read_table(path)
        sources.file(Path(path), kind="result", made_by=PREDICTION, cell=path.parent.name, seed=seed)
    return found


def points(tables: Mapping[int, Table], rung: str, quantity: str) -> dict[float, np.ndarray]:
    """Per gamma the mean over questions of every seed that has it, at the reference's label noise."""
    from amvl_model.prediction.tables import REFERENCE

    keys = [key for table in tables.values() for key in table.rows]
    noise = next((key[0] for key in keys if key[1] == REFERENCE), keys[0][0])
    found = {}
    for gamma in sorted({key[2] for key in keys if key[1] == rung and key[2] > 0}):
        values = [table.get(noise, rung, gamma, quantity) for table in tables.values()]
        means = [float(np.nanmean(v)) for v in values if v is not None and np.isfinite(v).any()]
        if means:
            found[gamma] = np.maximum(means, FLOORS[quantity])
    return found


def _panel(ax: Axes, tables: Mapping[int, Table], quantity: str) -> dict[str, Any]:
    """One quantity; returns the legend's handles by label."""
    from amvl_model.prediction.tables import TRAINED

    handles: dict[str, Any] = {}
    rungs = list(dict.fromkeys(name for table in tables.values() for name in table.rungs()))
    for i, rung in enumerate(rungs):
        found = points(tables, rung, quantity)
        means = [float(np.exp(np.log(values).mean())) for values in found.values()]
        again = i + i // 6
        if means:
            (handles[rung],) = ax.plot(
                list(found), means, color=COLOURS[i % 6], ls=LINES[again % 6], marker=MARKERS[again % 6], ms=3, lw=1.0
            )
    for gamma, values in points(tables, TRAINED, quantity).items():
        logs = np.log(values)
        mean, (low, high) = float(np.exp(logs.mean())), np.exp(interval(logs))
        handles["trained at that γ (95 %)"] = ax.errorbar(
            gamma, mean, yerr=[[mean - low], [high - mean]], color=BLACK, marker="X", ls="none", ms=5, lw=1.2, zorder=5
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7 * FLOORS[quantity])
    return handles
