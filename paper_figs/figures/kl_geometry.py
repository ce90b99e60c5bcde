"""Fig. 2: the geometry of the two KL terms on one game's own trajectory, phase by phase.

Two modes, three answers, means and variances free, one posterior variance per answer (`amvl_theory.game.game`). Gradient descent
on the real losses; the weights are switched on one after the other, forward-first:

    initial mismatch     beta = gamma = 0      each posterior follows its answer's force and narrows; the prior does not move
    forward alignment    beta = 1              KL(sg[q]||p) moves the prior onto the posteriors' mean and widens it (T1)
    reverse support      gamma = 0.5 too       KL(sg[p]||q) widens every posterior over the prior's support, draws it in (T6)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from amvl_style import GREY, RULE, SERIES
from amvl_theory import GameState, GaussianGame, Simulation, initial_state, kl_diag, simulate
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "KL geometry: initial mismatch, forward alignment, reverse support, from the game's own trajectories"
ETA = 0.02
ANGLES = np.deg2rad([90.0, 210.0, 330.0])
FORCES = np.array([1.2, 0.8]) + 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
CURVATURE, ANCHOR = (1.0, 1.3), 0.1
START = {"posterior_var": 0.6, "prior_var": 0.35}
ANSWERS = SERIES[:3]


class Phase(NamedTuple):
    """Steps of one phase and the weights in it."""

    name: str
    steps: int
    beta: float
    gamma: float


PHASES = (
    Phase("initial mismatch", 250, 0.0, 0.0),
    Phase("forward alignment", 450, 1.0, 0.0),
    Phase("reverse support", 500, 1.0, 0.5),
)


def run() -> Simulation:
    """The trajectory, every step recorded."""
    game = GaussianGame(FORCES[None], [CURVATURE], ANCHOR, shared_variance=False)
    ends = np.cumsum([phase.steps for phase in PHASES])

    def weights(step: int) -> tuple[float, float]:
        phase = PHASES[min(int(np.searchsorted(ends, step, side="right")), len(PHASES) - 1)]
        return phase.beta, phase.gamma

    return simulate(
        game,
        objective="amvl",
        schedule=weights,
        steps=int(ends[-1]),
        eta_q=ETA,
        eta_p=ETA,
        initial=initial_state(game, **START),
        per_answer=True,
        record=range(int(ends[-1]) + 1),
    )


def kls(states: GameState) -> tuple[np.ndarray, np.ndarray]:
    """Mean over answers of KL(q_y||p) and KL(p||q_y) at every recorded step, nats."""
    means, variances = states.posterior_shift[:, 0], np.exp(states.posterior_log_var[:, 0])
    prior, width = states.contamination[:, 0, None], np.exp(states.prior_log_var[:, 0, None])
    return kl_diag(means, variances, prior, width).mean(1), kl_diag(prior, width, means, variances).mean(1)


def leaked(states: GameState, step: int, points: int = 241) -> float:
    """I(z; y) at one recorded step, nats: the mean over answers of KL(q_y || mean of all q), on a grid."""
    means, variances = states.posterior_shift[step, 0], np.exp(states.posterior_log_var[step, 0])
    reach = 5 * np.sqrt(variances.max(0))
    x, y = (np.linspace(means[:, i].min() - reach[i], means[:, i].max() + reach[i], points) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1)[None]
    square = ((grid - means[:, None, None]) ** 2 / variances[:, None, None]).sum(-1)
    log_q = -0.5 * (square + np.log(2 * np.pi * variances).sum(-1)[:, None, None])
    log_m = np.logaddexp.reduce(log_q, axis=0) - np.log(len(means))
    return float((np.exp(log_q) * (log_q - log_m)).sum() * (x[1] - x[0]) * (y[1] - y[0]) / len(means))


def draw(sources: Sources) -> Drawn:
    """Three snapshots with the paths that led there, and both KLs in time."""
    fit = run()
    sources.compute(
        simulate,
        objective="amvl",
        forces=FORCES,
        curvature=CURVATURE,
        anchor=ANCHOR,
        eta=ETA,
        initial=START,
        phases=[phase._asdict() for phase in PHASES],
    )
    sources.compute(kl_diag, of="every recorded state")
    figure = page(3.9)
    grid = figure.add_gridspec(2, 3, height_ratios=(2.2, 1))
    ends = np.cumsum([0, *(phase.steps for phase in PHASES)])
    first = None
    for i, phase in enumerate(PHASES):
        ax = figure.add_subplot(grid[0, i], sharex=first, sharey=first)
        first = first or ax
        _snapshot(ax, fit.recorded, int(ends[i]), int(ends[i + 1]))
        weights = f"β = {phase.beta:g}, γ = {phase.gamma:g}"
        ax.set_title(f"({'abc'[i]}) {phase.name}")
        nats = leaked(fit.recorded, int(ends[i + 1]))
        ax.text(0.02, 0.985, f"{weights}\nleaks {nats:.2f} of {np.log(3):.2f} nats", transform=ax.transAxes, va="top")
        ax.set_xlabel("latent mode 1 [latent units]")
        if i == 0:
            ax.set_ylabel("latent mode 2 [latent units]")
        else:
            ax.tick_params(labelleft=False)
    assert first is not None
    first.set(xlim=(-2.2, 4.4), ylim=(-2.1, 4.1))
    _in_time(figure.add_subplot(grid[1, :]), fit.recorded, ends)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6)
    return Drawn(figure)


def _snapshot(ax: Axes, states: GameState, start: int, end: int) -> None:
    """Posteriors and prior (1 and 2 standard deviations) at step ``end``, and the means' paths since ``start``."""
    for k in range(len(FORCES)):
        path = states.posterior_shift[start : end + 1, 0, k]
        answer = ANSWERS[k]
        _gaussian(ax, path[-1], np.exp(states.posterior_log_var[end, 0, k]), answer.colour, answer.line)
        ax.plot(*path.T, color=answer.colour, lw=0.9)
        ax.plot(*path[-1], marker=answer.marker, color=answer.colour, ls="none")
    path = states.contamination[start : end + 1, 0]
    _gaussian(ax, path[-1], np.exp(states.prior_log_var[end, 0]), "black", "-", fill=False)
    ax.plot(*path.T, color="black", lw=0.9)
    ax.plot(*path[-1], marker="X", color="black", ls="none", ms=5)
    ax.plot(0, 0, marker="+", color=GREY, ls="none", ms=6)
    ax.set_aspect("equal")


def _gaussian(
    ax: Axes, mean: np.ndarray, variance: np.ndarray, colour: str, line: object, *, fill: bool = True
) -> None:
    for size, alpha in ((2.0, 0.10), (1.0, 0.22)):
        width, height = 2 * size * np.sqrt(variance)
        if fill:
            ax.add_patch(Ellipse(tuple(mean), width, height, facecolor=colour, alpha=alpha, lw=0))
        ax.add_patch(
            Ellipse(
                tuple(mean), width, height, facecolor="none", edgecolor=colour, ls=line, lw=1.3 if size < 2 else 0.7
            )
        )


def _in_time(ax: Axes, states: GameState, ends: np.ndarray) -> None:
    time = ETA * np.arange(len(states.contamination))
    forward, reverse = kls(states)
    ax.plot(time, forward, color=GREY, label="KL(q‖p), forward")
    ax.plot(time, reverse, color="black", ls=(0, (5, 1.6)), label="KL(p‖q), reverse")
    ax.set(
        yscale="log", ylim=(None, 100), xlim=(0, time[-1]), xlabel="time [step size × steps]", ylabel="mean KL [nats]"
    )
    for i, end in enumerate(ends[1:]):
        if i < len(PHASES) - 1:
            ax.axvline(ETA * end, **RULE)
        ax.text(
            ETA * (ends[i] + end) / 2, 0.97, f"({'abc'[i]})", transform=ax.get_xaxis_transform(), va="top", ha="center"
        )
    ax.legend(loc="lower left", bbox_to_anchor=(0.27, 0.0))
    ax.set_title("(d) both KLs, mean over the answers")


def _legend() -> list[Line2D]:
    answers = [
        Line2D([], [], color=each.colour, ls=each.line, marker=each.marker, label=f"q(z|x, answer {k})")
        for k, each in enumerate(ANSWERS, start=1)
    ]
    return [
        *answers,
        Line2D([], [], color="black", marker="X", label="prior p(z|x)"),
        Line2D([], [], color=GREY, marker="+", ls="none", ms=6, label="leak-free mean"),
    ]
