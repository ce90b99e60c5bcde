"""Contamination and leaked information against gamma: closed form, simulation, trained checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from matplotlib.axes import Axes

from amvl_model.results.files import Result
from amvl_model.results.seeds import interval
from amvl_style import GREY, Look, look_of, over_seeds, shades
from amvl_theory import (
    equilibrium_by_simulation,
    exact_leaked_information,
    mode_contamination,
    self_consistent_spread,
)
from amvl_theory.figures import curves, plots
from paper_figs.build import Drawn
from paper_figs.ours import LEAK, LEAKAGE, PARETO, command, setting
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "contamination and leaked information against gamma: theory and checkpoints"
OWN_LABEL = "answer_direction.training.leverage"


def draw(sources: Sources) -> Drawn:
    """Theory above, checkpoints below."""
    figure = page(4.9)
    (a, b), (c, d) = figure.subplots(2, 2)
    plots.contamination(curves.contamination(curves.Mode()), ax=a)
    a.set_title("(a) theory: contamination by absorption s (T3)")
    sources.compute(mode_contamination, mode=asdict(curves.Mode()), absorption=curves.ABSORPTIONS)
    plots.leakage(curves.leakage(), ax=b)
    b.set_title("(b) theory: leaked information (T6)")
    sources.compute(self_consistent_spread, force_var=1.0, curvature=1.0, weight=[0.01, 2.5])
    sources.compute(exact_leaked_information, forces=[1.0, -1.0], curvature=1.0)
    sources.compute(equilibrium_by_simulation, of="the markers of (a) and (b)")
    results = [*sources.study("pareto", PARETO), *sources.study("leakage", LEAKAGE)]
    series = by_gamma(results)
    taken = by_gamma(sources.study("direction", command("direction")))
    taken = {name.replace("study direction", "study leakage"): each for name, each in taken.items()}
    names = [*dict.fromkeys([*series, *taken])]
    looks = {
        name: replace(look_of(i), colour=colour)
        for i, (name, colour) in enumerate(zip(names, shades("amvl", len(names)), strict=True))
    }
    _checkpoints(c, series, looks, LEAK, "leaked, mean over seeds [nats]")
    _checkpoints(d, taken, looks, OWN_LABEL, "own label, mean over seeds [1]")
    c.set_title("(c) checkpoints: leaked information")
    d.set_title("(d) checkpoints: own label in the prior mean")
    d.axhline(0, color="black", lw=0.6)
    if series:
        figure.legend(*c.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawn(figure)


def by_gamma(results: Sequence[Result]) -> dict[str, dict[float, list[Result]]]:
    """Runs of forward-only (gamma 0) and AMVL at 30 % label noise by study and beta, then gamma; series with AMVL only."""
    by_label: dict[str, dict[float, list[Result]]] = {}
    for result in results:
        name, beta, gamma = (setting(result.config, f"objective.{each}") for each in ("name", "beta", "gamma"))
        if name not in ("amvl", "ntp+fwd") or setting(result.config, "data.label_noise") != 0.3:
            continue
        series = by_label.setdefault(f"β = {beta:g} (study {result.study})", {})
        series.setdefault(gamma if name == "amvl" else 0.0, []).append(result)
    varied = {label: series for label, series in by_label.items() if any(series_gamma > 0 for series_gamma in series)}
    return dict(sorted(varied.items()))


def _checkpoints(
    ax: Axes, series: dict[str, dict[float, list[Result]]], looks: dict[str, Look], metric: str, label: str
) -> None:
    """Arithmetic mean over seeds with its 95 % interval, and every seed; forward-only stands at the left end."""
    ax.set(xlabel="weight of the reverse KL, γ [1]", ylabel=label)
    if not series:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color=GREY)
        return
    positive = sorted({gamma for each in series.values() for gamma in each if gamma > 0})
    zero = positive[0] / 4
    values = {
        name: {gamma or zero: _values(each[gamma], metric) for gamma in sorted(each)} for name, each in series.items()
    }
    over_seeds(ax, values, [looks[name] for name in series], interval, log=metric == LEAK, dodge=1.06)
    ax.set_xticks([zero, *positive], ["forward-\nonly", *(f"{gamma:g}" for gamma in positive)])
    ax.minorticks_off()


def _values(results: Sequence[Result], metric: str) -> np.ndarray:
    known = [result.metrics[metric].value for result in results if metric in result.metrics]
    return np.array([value for value in known if value is not None], dtype=float)
