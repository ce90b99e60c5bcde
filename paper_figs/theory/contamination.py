"""Contamination and leaked information against gamma: closed form, simulation, trained checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from amvl_model.results.files import Result
from amvl_model.results.seeds import interval
from amvl_style import GREY, METHODS, RULE, Look, look, look_of, marks, over_seeds
from amvl_theory import (
    EQUAL_WEIGHT_CROSSOVER,
    GaussianGame,
    equilibrium_by_simulation,
    exact_leaked_information,
    initial_state,
    mode_contamination,
    self_consistent_spread,
)
from paper_figs.build import Drawn
from paper_figs.ours import LEAK, LEAKAGE, PARETO, command, setting
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "contamination and leaked information against gamma: theory and checkpoints"
MODE = {"force_mean": 0.8, "curvature": 1.3, "posterior_precision": 1.0, "prior_precision": 1.0, "beta": 0.7}
ABSORPTIONS = (0.1, 0.5, 0.9, 1.0)
OWN = (0, 3, 4, 5)
"""Looks of weights and absorptions, other than those of forward-only and the ELBO."""
OWN_LABEL = "answer_direction.training.leverage"
FLOOR = 1e-4
"""Leaked information below it is drawn there, nats."""


def draw(sources: Sources) -> Drawn:
    """Theory above, checkpoints below."""
    figure = page(4.9)
    (a, b), (c, d) = figure.subplots(2, 2)
    _contamination(a, sources)
    _leaked(b, sources)
    results = [*sources.study("pareto", PARETO), *sources.study("leakage", LEAKAGE)]
    series = by_gamma(results)
    taken = by_gamma(sources.study("direction", command("direction")))
    taken = {name.replace("study direction", "study leakage"): each for name, each in taken.items()}
    looks = dict(zip(dict.fromkeys([*series, *taken]), map(look_of, OWN), strict=False))
    _checkpoints(c, series, looks, LEAK, "leaked information [nats]")
    _checkpoints(d, taken, looks, OWN_LABEL, "weight of the own label [1]")
    c.set_title("(c) checkpoints: leaked information")
    d.set_title("(d) checkpoints: own label in the prior mean")
    d.axhline(0, color="black", lw=0.6)
    if series:
        c.set_ylim(bottom=0.6 * FLOOR)
        figure.legend(*c.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawn(figure)


def _contamination(ax: Axes, sources: Sources) -> None:
    gamma, dots = np.geomspace(0.01, 30.0, 121), np.geomspace(0.03, 10.0, 6)
    h, lam, g = MODE["curvature"], MODE["posterior_precision"], MODE["force_mean"]
    for i, s in zip(OWN, ABSORPTIONS, strict=True):
        anchor = MODE["beta"] * MODE["prior_precision"] * (1 - s) / s
        game = GaussianGame(np.array([[[g]]]), h, anchor, None, True, False, False, len(dots))
        start = initial_state(game, posterior_var=1 / lam, prior_var=1 / MODE["prior_precision"])
        run = equilibrium_by_simulation(game, beta=MODE["beta"], gamma=dots, initial=start)
        ax.plot(gamma, mode_contamination(g, h, lam, s, gamma), label=f"s = {s:g}", **look(i))
        assert run.converged is not None
        ax.plot(dots, np.where(run.converged, run.state.contamination[:, 0], np.nan), **marks(i))
    sources.compute(mode_contamination, **MODE, absorption=ABSORPTIONS)
    sources.compute(equilibrium_by_simulation, **MODE, gamma=dots)
    ax.set_xscale("log")
    ax.set_ylim(0, 0.86)
    ax.set_xlabel("weight of the reverse KL, γ [1]")
    ax.set_ylabel("prior contamination c [latent units]")
    ax.set_title("(a) theory: contamination by absorption s (T3)")
    ax.legend(ncols=4, loc="upper center", handlelength=1.8, columnspacing=0.8)


def _leaked(ax: Axes, sources: Sources) -> None:
    """Both objectives at their own weight, over v0/h."""
    weight = np.geomspace(0.01, 3.0, 160)
    dots = np.array([0.02, 0.06, 0.2, 0.5, 0.8])
    for objective, loss in (("dual", "amvl"), ("elbo", "elbo")):
        method = METHODS[objective]
        leaked = self_consistent_spread(1.0, 1.0, weight, objective).leaked_nats  # type: ignore[arg-type]
        ax.plot(weight, leaked, label=method.label, **look(objective))
        exact = exact_leaked_information([1.0, -1.0], 1.0, weight[::4], objective)  # type: ignore[arg-type]
        ax.plot(weight[::4], exact, color=method.colour, lw=0.7, label=f"{method.label}, two answers")
        game = GaussianGame(np.array([[[1.0], [-1.0]]]), 1.0, instances=len(dots))
        beta, gamma = (0.5, dots) if objective == "dual" else (dots, 0.0)
        run = equilibrium_by_simulation(game, objective=loss, beta=beta, gamma=gamma)
        ratio = run.spread_cov[:, 0, 0] / np.exp(run.state.posterior_log_var[:, 0, 0])
        ax.plot(dots, 0.5 * np.log1p(ratio), **marks(objective))
    sources.compute(self_consistent_spread, force_var=1.0, curvature=1.0, weight=[0.01, 3.0])
    sources.compute(exact_leaked_information, forces=[1.0, -1.0], curvature=1.0)
    ax.axhline(np.log(2), **RULE)
    ax.text(3.0, np.log(2) + 0.03, "log 2", ha="right", color=GREY)
    ax.axvline(EQUAL_WEIGHT_CROSSOVER, ymax=0.5, **RULE)
    ax.text(EQUAL_WEIGHT_CROSSOVER * 1.06, 1.1, "0.764", color=GREY)
    ax.set_xscale("log")
    ax.set_ylim(0, 2.5)
    ax.set_xlabel("weight × h / v0 [1]  (γ of dual KL, β of ELBO)")
    ax.set_ylabel("leaked information [nats]")
    ax.set_title("(b) theory: leaked information (T6)")
    ax.legend(loc="upper right")


def by_gamma(results: Sequence[Result]) -> dict[str, dict[float, list[Result]]]:
    """Runs of forward-only (gamma 0) and AMVL at 30 % label noise by study and beta, then gamma; series with AMVL only."""
    found: dict[str, dict[float, list[Result]]] = {}
    for result in results:
        name, beta, gamma = (setting(result.config, f"objective.{each}") for each in ("name", "beta", "gamma"))
        if name not in ("amvl", "ntp+fwd") or setting(result.config, "data.label_noise") != 0.3:
            continue
        series = found.setdefault(f"β = {beta:g} (study {result.study})", {})
        series.setdefault(gamma if name == "amvl" else 0.0, []).append(result)
    kept = {label: series for label, series in found.items() if any(series_gamma > 0 for series_gamma in series)}
    return dict(sorted(kept.items()))


def _checkpoints(
    ax: Axes, series: dict[str, dict[float, list[Result]]], looks: dict[str, Look], metric: str, label: str
) -> None:
    """Mean over seeds with its 95 % interval, and every seed; forward-only stands at the left end.

    Leaked information spans decades: its mean is geometric and its interval that of the logarithm.
    """
    ax.set_xlabel("weight of the reverse KL, γ [1]")
    ax.set_ylabel(label)
    if not series:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color=GREY)
        return
    positive = sorted({gamma for each in series.values() for gamma in each if gamma > 0})
    zero = positive[0] / 4
    values = {
        name: {gamma or zero: _values(each[gamma], metric) for gamma in sorted(each)} for name, each in series.items()
    }
    if metric == LEAK:
        values = {name: {x: np.maximum(v, FLOOR) for x, v in each.items()} for name, each in values.items()}
    over_seeds(ax, values, [looks[name] for name in series], interval, log=metric == LEAK, dodge=1.06)
    ax.set_xticks([zero, *positive], ["forward-\nonly", *(f"{gamma:g}" for gamma in positive)])
    ax.minorticks_off()


def _values(results: Sequence[Result], metric: str) -> np.ndarray:
    known = [result.metrics[metric].value for result in results if metric in result.metrics]
    return np.array([value for value in known if value is not None], dtype=float)
