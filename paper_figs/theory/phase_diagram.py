"""The leakage phase transition (T6): who leaks at which weight, and how much, in closed form and simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from amvl_style import GREY, METHODS, RULE, SIGNED, SIMULATION, look, marks
from amvl_theory import EQUAL_WEIGHT_CROSSOVER, GaussianGame, equilibrium_by_simulation, self_consistent_spread
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "phase diagram: leaked information of dual KL and ELBO over their weights"
POINTS = 161
LIMIT = 2.0
"""Full colour of the difference, nats; no difference is larger."""
THIN: dict[str, Any] = {"color": "black", "lw": 0.7, "ls": (0, (1, 1.1))}
BOX = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}


def draw(sources: Sources) -> Drawn:
    """The plane of both weights, and the order parameter across the transition."""
    figure = page(3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _plane(left, sources)
    _order_parameter(right, sources)
    return Drawn(figure)


def _plane(ax: Axes, sources: Sources) -> None:
    """Leaked nats of dual KL at gamma minus those of the ELBO at beta."""
    weight = np.geomspace(0.02, 4.0, POINTS)
    dual = self_consistent_spread(1.0, 1.0, weight, "dual").leaked_nats
    elbo = self_consistent_spread(1.0, 1.0, weight, "elbo").leaked_nats
    sources.compute(self_consistent_spread, force_var=1.0, curvature=1.0, weight=[0.02, 4.0], points=POINTS)
    gap = dual[None, :] - elbo[:, None]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(False)
    drawn = ax.pcolormesh(weight, weight, gap, cmap=SIGNED, vmin=-LIMIT, vmax=LIMIT, shading="gouraud", rasterized=True)
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02)
    bar.set_label("dual KL minus ELBO [nats]")
    both = np.where((dual[None, :] + elbo[:, None]) > 0, gap, np.nan)
    ax.contour(weight, weight, both, levels=[0.0], colors=["black"], linewidths=1.4)
    ax.plot(weight, weight, **THIN)
    ax.axvline(2.0, **look("dual"))
    ax.axhline(1.0, **look("elbo"))
    ax.plot(*[EQUAL_WEIGHT_CROSSOVER] * 2, marker="o", color="black", ms=4)
    for x, y, text in (
        (0.7, 0.15, "dual KL\nleaks less"),
        (0.045, 0.55, "ELBO\nleaks less"),
        (0.2, 2.0, "only dual KL leaks"),
        (2.83, 0.13, "only\nELBO"),
        (2.83, 1.6, "none"),
    ):
        ax.text(x, y, text, ha="center", va="center", bbox=BOX)
    ax.set_xlim(weight[0], weight[-1])
    ax.set_ylim(weight[0], weight[-1])
    ax.set_xlabel("γ h / v0 of dual KL [1]")
    ax.set_ylabel("β h / v0 of the ELBO [1]")
    ax.set_title("(a) which objective leaks more")
    lines = [
        Line2D([], [], **look("dual"), label="γ$_c$ = 2 v0/h"),
        Line2D([], [], **look("elbo"), label="β$_c$ = v0/h"),
        Line2D([], [], color="black", label="equal leakage"),
        Line2D([], [], **THIN, label="equal weights"),
    ]
    ax.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _order_parameter(ax: Axes, sources: Sources) -> None:
    """sqrt(V): 0 above the critical weight; markers are simulations of the full game."""
    weight = np.linspace(0.0, 2.6, 400)[1:]
    for objective, loss, top in (("dual", "amvl", 1.8), ("elbo", "elbo", 0.95)):
        variance = self_consistent_spread(1.0, 1.0, weight, objective).variance  # type: ignore[arg-type]
        ax.plot(weight, np.sqrt(variance), label=METHODS[objective].label, **look(objective))
        dots = np.linspace(0.1, top, 7)
        beta, gamma = (0.5, dots) if objective == "dual" else (dots, 0.0)
        game = GaussianGame(np.array([[[1.0], [-1.0]]]), 1.0, instances=len(dots))
        run = equilibrium_by_simulation(game, objective=loss, beta=beta, gamma=gamma)
        shown = np.where(run.gradient_norm < 1e-6, np.sqrt(run.spread_cov[:, 0, 0]), np.nan)
        ax.plot(dots, shown, **marks(objective))
        sources.compute(equilibrium_by_simulation, objective=loss, forces=[1.0, -1.0], curvature=1.0, weights=dots)
    for critical, name in ((1.0, "β$_c$"), (2.0, "γ$_c$")):
        ax.axvline(critical, **RULE)
        ax.text(critical + 0.04, 0.93, name, color=GREY)
    ax.plot([], [], **SIMULATION)
    ax.set_xlim(0, 2.6)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("weight × h / v0 [1]")
    ax.set_ylabel("answers' spread √V [√v0 / h]")
    ax.set_title("(b) the transition")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
