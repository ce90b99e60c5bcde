"""Leaked information and posterior spread against gamma: trained checkpoints beside every rung of the ladder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.prediction.plan import FLOORS, QUANTITIES, Plan
from amvl_model.prediction.summary import measured_over_seeds
from amvl_model.prediction.tables import TRAINED, Table

# Okabe-Ito; dashes and markers tell the rungs apart without colour
STYLES: dict[str, tuple[str, str, str]] = {
    "T4": ("#56B4E9", ":", "v"),
    "T6 held": ("#0072B2", "-", "s"),
    "T6 moving": ("#CC79A7", "--", "P"),
    "T6 letter": ("#0072B2", ":", "x"),
    "softmax": ("#009E73", "-", "^"),
    "softmax letter": ("#009E73", ":", "+"),
    "free": ("#D55E00", "-", "D"),
    "head untrained": ("#999999", ":", ""),
    "both heads untrained": ("#999999", "--", ""),
    "head 300": ("#882255", "--", "*"),
    "both heads 300": ("#E69F00", "-", "h"),
}
OTHERS = (("#E69F00", ":", "*"), ("#E69F00", "-.", "<"))
TITLES = {
    "leak": "leaked information",
    "spread": "spread of options' posterior means",
    "shift": "shift from the prior mean",
}


def draw(tables: Mapping[str, Mapping[int, Table]], plan: Plan) -> Figure:
    """A row per reference, a column per quantity; both axes logarithmic.

    Args:
        tables: per reference cell, per seed. plan: of the climbs.
    """
    page = Figure(figsize=(16.4, 4.3 * len(tables) + 0.3), layout="constrained")
    axes = np.atleast_2d(np.array(page.subplots(len(tables), len(TITLES))))
    for row, (reference, seeds) in zip(axes, tables.items(), strict=True):
        for ax, quantity in zip(row, TITLES, strict=True):
            draw_quantity(ax, seeds, quantity, plan)
            ax.set_title(f"predicted from {reference}", fontsize=10)
        lines, labels = row[0].get_legend_handles_labels()
        row[-1].legend(lines, labels, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return page


def draw_quantity(ax: Axes, tables: Mapping[int, Table], quantity: str, plan: Plan) -> Axes:
    """One panel: geometric means over seeds of every rung; trained checkpoints as every seed and their geometric mean."""
    rungs = list(dict.fromkeys(name for table in tables.values() for name in table.rungs()))
    others = cycle(OTHERS)
    for rung in rungs:
        colour, dash, marker = STYLES.get(rung) or next(others)
        line = [
            (gamma, _geometric(values, quantity))
            for gamma in plan.all_gammas
            if len(values := measured_over_seeds(tables, rung, quantity, gamma, plan.train_noise))
        ]
        if line:
            ax.plot(*zip(*line, strict=True), color=colour, ls=dash, marker=marker, ms=5, lw=1.3, label=_label(rung))
    trained = [
        (gamma, values)
        for gamma in plan.gammas
        if len(values := measured_over_seeds(tables, TRAINED, quantity, gamma, plan.train_noise))
    ]
    for gamma, values in trained:
        ax.scatter([gamma] * len(values), np.maximum(values, FLOORS[quantity]), s=12, color="black", alpha=0.35, lw=0)
    if trained:
        ends = [_log_interval(values, quantity) for _, values in trained]
        means = [_geometric(values, quantity) for _, values in trained]
        bars = np.abs(np.array(ends).T - np.array(means))
        ax.errorbar(
            [gamma for gamma, _ in trained],
            means,
            yerr=bars,
            color="black",
            marker="o",
            ms=6,
            lw=1.8,
            capsize=3,
            label="trained at that gamma (95 % over seeds)",
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("gamma, weight of the reverse KL [per nat]")
    ax.set_ylabel(f"{TITLES[quantity]} [{QUANTITIES[quantity]}]")
    ax.set_ylim(bottom=0.7 * FLOORS[quantity])
    return ax


def _label(rung: str) -> str:
    """Name of a rung in the legend."""
    match = re.fullmatch(r"(both heads|head) (\+?)(\d+)", rung)
    if match is None:
        return {"head untrained": "posterior head untrained"}.get(rung, rung)
    heads = "both heads" if match[1] == "both heads" else "posterior head alone"
    return f"{heads}, {match[3]} steps{' more' if match[2] else ''}"


def _geometric(values: np.ndarray, quantity: str) -> float:
    return float(np.exp(np.log(np.maximum(values, FLOORS[quantity])).mean()))


def _log_interval(values: np.ndarray, quantity: str) -> tuple[float, float]:
    """Student t over seeds of the logarithm, as figures."""
    from amvl_model.pareto import interval

    low, high = interval(np.log(np.maximum(values, FLOORS[quantity])))
    return float(np.exp(low)), float(np.exp(high))
