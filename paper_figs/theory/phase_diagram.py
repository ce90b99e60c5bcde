"""The leakage phase transition (T6): who leaks at which weight, and how much, in closed form and simulated."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from amvl_style import GREY, RULE, SIMULATION, look, marks
from amvl_theory import GaussianGame, equilibrium_by_simulation, self_consistent_spread
from amvl_theory.figures import curves, plots
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "phase diagram: leaked information of dual KL and ELBO over their weights"
POINTS = 161


def draw(sources: Sources) -> Drawn:
    """The plane of both weights, and the order parameter across the transition."""
    figure = page(3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    plots.phase_plane(curves.phase_plane(POINTS), ax=left)
    left.set_title("(a) which objective leaks more")
    sources.compute(self_consistent_spread, force_var=1.0, curvature=1.0, weight=[0.02, 4.0], points=POINTS)
    _order_parameter(right, sources)
    return Drawn(figure)


def _order_parameter(ax: Axes, sources: Sources) -> None:
    """sqrt(V): 0 above the critical weight; markers are simulations of the full game."""
    weight = np.linspace(0.0, 2.6, 400)[1:]
    for objective, top in (("amvl", 1.8), ("elbo", 0.95)):
        variance = self_consistent_spread(1.0, 1.0, weight, objective).variance  # type: ignore[arg-type]
        ax.plot(weight, np.sqrt(variance), label=plots.LABELS[objective], **look(objective))
        dots = np.linspace(0.1, top, 7)
        beta, gamma = (0.5, dots) if objective == "amvl" else (dots, 0.0)
        game = GaussianGame(np.array([[[1.0], [-1.0]]]), 1.0, instances=len(dots))
        run = equilibrium_by_simulation(game, objective=objective, beta=beta, gamma=gamma)
        shown = np.where(run.gradient_norm < 1e-6, np.sqrt(run.spread_cov[:, 0, 0]), np.nan)
        ax.plot(dots, shown, **marks(objective))
        sources.compute(equilibrium_by_simulation, objective=objective, forces=[1.0, -1.0], curvature=1.0, weights=dots)
    for critical, name in ((1.0, "β$_c$"), (2.0, "γ$_c$")):
        ax.axvline(critical, **RULE)
        ax.text(critical + 0.04, 0.93, name, color=GREY)
    ax.plot([], [], **SIMULATION)
    ax.set(
        xlim=(0, 2.6), ylim=(0, 1.02), xlabel="weight × h / v0 [1]", ylabel="answers' spread √V [√v0 / h]",
        title="(b) the transition",
    )  # fmt: skip
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
