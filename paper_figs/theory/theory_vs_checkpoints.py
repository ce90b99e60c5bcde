"""The theory's predictions for other gammas from one checkpoint, beside the checkpoints trained at these gammas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from amvl_model.results.seeds import interval
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PREDICTION
from paper_figs.sources import Sources
from paper_figs.style import BLACK, COLOURS, GREY, LINES, MARKERS, page

if TYPE_CHECKING:
    from experiments.theory_vs_model.tables import Table

TITLE = "predicted and trained leaked information against gamma"
STUDY = "prediction"
SERIES = (*COLOURS[:6], GREY)
QUANTITIES = {"leak": "leaked information\n[nats]", "spread": "spread of posterior means\n[prior std]"}
FLOORS = {"leak": 1e-3, "spread": 1e-2}
"""Means below it are drawn there: less than the Monte Carlo error of a leak, and a spread without effect."""
RUNGS = ("T4", "T6 held", "T6 moving", "softmax", "free", "head 300", "both heads 300")
"""Drawn where a table has them, in this order; further rungs of the ladder are in its own picture and tables."""
FEW = 2
"""Points from which on a rung is joined by a line."""


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
    everything = sorted(folder.glob("*/seed*.csv"))
    paths = [path for path in everything if path.parent.name != "trained" and not path.parent.name.endswith(",heads")]
    if not paths:
        sources.lacks(f"results/{STUDY}", PREDICTION)
        return {}
    from experiments.theory_vs_model.study import read_tables

    references = sorted({path.parent.name for path in paths})
    sources.study(STUDY, PREDICTION, cells=sorted({path.parent.name for path in everything}))
    for path in everything:
        seed = int(path.stem.removeprefix("seed"))
        sources.file(path, kind="result", made_by=PREDICTION, cell=path.parent.name, seed=seed)
    return {reference: read_tables(folder, reference) for reference in references}


def points(tables: Mapping[int, Table], rung: str, quantity: str) -> dict[float, np.ndarray]:
    """Per gamma the mean over questions of every seed that has it, at the reference's label noise."""
    from experiments.theory_vs_model.tables import REFERENCE

    keys = [key for table in tables.values() for key in table.rows]
    noise = next((key[0] for key in keys if key[1] == REFERENCE), keys[0][0])
    found = {}
    for gamma in sorted({key[2] for key in keys if key[1] == rung and key[2] > 0}):
        values = [table.get(noise, rung, gamma, quantity) for table in tables.values()]
        means = [float(np.nanmean(v)) for v in values if v is not None and np.isfinite(v).any()]
        if means:
            found[gamma] = np.maximum(means, FLOORS[quantity])
    return found


def _label(rung: str) -> str:
    kind, _, steps = rung.rpartition(" ")
    return (
        {"head": "posterior head alone, ", "both heads": "both heads, "}[kind] + f"{steps} steps"
        if "head" in kind
        else rung
    )


def _fill(index: int) -> str:
    """Open markers from the seventh series on, whose shapes come round again."""
    return SERIES[index] if index < 6 else "white"


def _panel(ax: Axes, tables: Mapping[int, Table], quantity: str) -> dict[str, Any]:
    """One quantity; returns the legend's handles by label."""
    from experiments.theory_vs_model.tables import TRAINED

    handles: dict[str, Any] = {}
    for i, rung in enumerate(RUNGS):
        found = points(tables, rung, quantity)
        means = [float(np.exp(np.log(values).mean())) for values in found.values()]
        if means:
            joined = LINES[i % 6] if len(means) >= FEW else "none"
            (handles[_label(rung)],) = ax.plot(
                list(found), means, color=SERIES[i], ls=joined, marker=MARKERS[i % 6], ms=3, lw=1.0, mfc=_fill(i)
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
