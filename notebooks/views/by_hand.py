"""One latent mode and two answers, worked out: numbers three ways, and the figures under the sliders of notebook 01.

Two equally likely answers pull with forces gbar +- sqrt(v0) against curvature h; lambda_q and lambda_p are held fixed:

    s = beta lambda_p / (beta lambda_p + alpha)                 absorption
    dbar = gbar / (h + gamma lambda_q (1 - s)),  c = s dbar     posterior's mean shift, prior's contamination      (T3)
    delta_y - dbar = +- sqrt(v0) / (h + gamma lambda_q)         what tells the answers apart                       (T4)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_style import GREY, RULE, axes, look, look_of
from amvl_theory import (
    COUNTER_EXAMPLES,
    GaussianGame,
    MeanLeakageModel,
    critical_weight,
    equilibrium,
    equilibrium_by_simulation,
    exact_leaked_information,
    fixed_state,
    mixture_information,
    spread,
)
from amvl_theory.figures.curves import Mode
from notebooks.views.show import styled

GAMMAS = np.geomspace(1e-2, 30.0, 121)
_REACH = (-2.6, 4.2)


@dataclass(frozen=True)
class Rest:
    """Where the game comes to rest.

    Attributes:
        absorption: s. shift: dbar. contamination: c.
        answers: delta_y of the two answers [latent].
        leaked: I(Z;Y) of the two answers [nats].
    """

    absorption: float
    shift: float
    contamination: float
    answers: tuple[float, float]
    leaked: float


def model_of(mode: Mode, anchor: float | None = None) -> MeanLeakageModel:
    """The mode as the theory's model; ``anchor`` instead of its own."""
    alpha = mode.anchor if anchor is None else anchor
    return MeanLeakageModel(
        mode.curvature, mode.force_mean, mode.force_var, mode.posterior_precision, mode.prior_precision, alpha
    )


def rest(mode: Mode, beta: float, gamma: float, anchor: float) -> Rest:
    """The equilibrium by the closed forms of `amvl_theory`."""
    model = model_of(mode, anchor)
    found = equilibrium(model, beta, gamma)
    apart = float(np.sqrt(spread(model, gamma)[0, 0]))
    shift = float(found.posterior_shift[0])
    answers = (shift + apart, shift - apart)
    return Rest(
        absorption=float(found.absorption[0, 0]),
        shift=shift,
        contamination=float(found.contamination[0]),
        answers=answers,
        leaked=float(mixture_information(answers, 1 / mode.posterior_precision)),
    )


def simulated(mode: Mode, beta: float, gamma: float, anchor: float) -> Rest:
    """The same by gradient descent on the real KL losses with their stop-gradients.

    Raises:
        RuntimeError: if the descent has not come to rest.
    """
    forces = mode.force_mean + np.sqrt(mode.force_var) * np.array([[[1.0], [-1.0]]])
    game = GaussianGame(forces, mode.curvature, anchor, None, True, False, False)
    start = fixed_state(game, model_of(mode, anchor))
    run = equilibrium_by_simulation(game, beta=beta, gamma=gamma, initial=start, tolerance=1e-12, max_steps=200_000)
    if run.converged is None or not run.converged.all():
        raise RuntimeError(
            f"the descent is not at rest after {int(run.steps[0])} steps; move away from beta = anchor = 0"
        )
    first, second = (float(value) for value in run.state.posterior_shift[0, :, 0])
    shift, contamination = (first + second) / 2, float(run.state.contamination[0, 0])
    leaked = float(mixture_information((first, second), 1 / mode.posterior_precision))
    return Rest(contamination / shift if shift else float("nan"), shift, contamination, (first, second), leaked)


def three_ways(mode: Mode, beta: float, gamma: float, anchor: float, hand: dict[str, float]) -> str:
    """A table: worked out by hand, closed form, simulation.

    Args:
        hand: some of "absorption", "shift", "contamination" and "leaked" as the reader worked them out.
    """
    closed, run = rest(mode, beta, gamma, anchor), simulated(mode, beta, gamma, anchor)
    lines = [f"{'':34}{'by hand':>12}{'closed form':>14}{'simulated':>14}"]
    for key, label in (
        ("absorption", "absorption s [1]"),
        ("shift", "posterior shift dbar [latent]"),
        ("contamination", "prior contamination c [latent]"),
        ("leaked", "leaked information [nats]"),
    ):
        own = f"{hand[key]:12.6f}" if key in hand else f"{'-':>12}"
        lines.append(f"{label:34}{own}{getattr(closed, key):14.6f}{getattr(run, key):14.6f}")
    return "\n".join(lines)


def figure(beta: float, gamma: float, anchor: float, mode: Mode | None = None) -> Figure:
    """The distributions, contamination and leaked information at one setting."""
    mode = mode or Mode()
    with styled():
        page = Figure(figsize=(13.2, 3.9))
        left, middle, right = page.subplots(1, 3, width_ratios=(1.25, 1, 1))
        densities(mode, beta, gamma, anchor, ax=left)
        contamination(mode, beta, gamma, anchor, ax=middle)
        leakage(mode, gamma, ax=right)
    return page


def densities(mode: Mode, beta: float, gamma: float, anchor: float, *, ax: Axes | None = None) -> Axes:
    """Both posteriors and the prior at rest, around the leak-free reference."""
    ax = axes(ax)
    found = rest(mode, beta, gamma, anchor)
    z = np.linspace(*_REACH, 400)
    width = 1 / np.sqrt(mode.posterior_precision)
    for i, (name, centre) in enumerate(zip(("answer A", "answer B"), found.answers, strict=True), start=2):
        ax.plot(z, _normal(z, centre, width), label=f"posterior given {name}", **look(i))
    prior = _normal(z, found.contamination, 1 / np.sqrt(mode.prior_precision))
    ax.fill_between(z, prior, color="#BBBBBB", alpha=0.55, lw=0, label="prior")
    top = 0.62 * np.sqrt(max(mode.posterior_precision, mode.prior_precision))
    ax.vlines(0, 0, 0.8 * top, color=GREY, lw=1.0)
    label = f"c = {found.contamination:.3f}"
    ax.vlines(found.contamination, 0, 0.8 * top, color=GREY, lw=1.4, ls=(0, (4, 2)), label=label)
    ax.set(
        xlim=_REACH, ylim=(0, top), xlabel="z - m*  [latent]   (thin line: leak-free reference)",
        ylabel="density [1/latent]",
        title=f"β = {beta:.3g}, γ = {gamma:.3g}, anchor = {anchor:.3g}: absorption s = {found.absorption:.2f}",
    )  # fmt: skip
    ax.legend(loc="upper left", ncols=2)
    return ax


def contamination(mode: Mode, beta: float, gamma: float, anchor: float, *, ax: Axes | None = None) -> Axes:
    """c and dbar against gamma, this setting marked; the horizontal line is forward-only."""
    ax = axes(ax)
    curve = [rest(mode, beta, value, anchor) for value in GAMMAS]
    here = rest(mode, beta, gamma, anchor)
    ax.plot(GAMMAS, [each.contamination for each in curve], label="prior contamination c", **look(0))
    ax.plot(GAMMAS, [each.shift for each in curve], label="posterior shift δ̄", **look(3))
    ax.axhline(rest(mode, beta, 0.0, anchor).contamination, label="c, forward-only", **look("ntp+fwd"))
    for value, colour in ((here.contamination, look_of(0).colour), (here.shift, look_of(3).colour)):
        ax.plot(max(gamma, GAMMAS[0]), value, "o", color=colour, markersize=8, markeredgecolor="white")
    ax.set(
        xscale="log", ylim=(0, 1.35 * mode.force_mean / mode.curvature), xlabel="weight of the reverse KL, γ [1]",
        ylabel="shift from m* [latent]", title="Mean channel: fixed variances (T3)",
    )  # fmt: skip
    ax.legend(loc="upper right")
    return ax


def leakage(mode: Mode, gamma: float, *, ax: Axes | None = None) -> Axes:
    """Leaked information about the answer against gamma: variances fixed (T4), variances free (T6)."""
    ax = axes(ax)
    pair = np.sqrt(mode.force_var) * np.array([1.0, -1.0])

    def fixed(weight: float) -> float:
        return float(
            mixture_information(
                pair / (mode.curvature + weight * mode.posterior_precision), 1 / mode.posterior_precision
            )
        )

    def free(weight: float) -> float:
        return float(exact_leaked_information(pair, mode.curvature, weight))

    for i, curve, name in ((0, fixed, "variances fixed"), (3, free, "variances free")):
        ax.plot(GAMMAS, [curve(value) for value in GAMMAS], label=name, **look(i))
        if gamma > 0:
            ax.plot(
                max(gamma, GAMMAS[0]), curve(gamma), "o", color=look_of(i).colour, markersize=8, markeredgecolor="white"
            )
    ax.axhline(np.log(2), **RULE)
    ax.annotate("log 2, entropy of the answer", (GAMMAS[0], np.log(2)), xytext=(2, 3), textcoords="offset points")
    critical = float(critical_weight(mode.force_var, mode.curvature))
    ax.axvline(critical, **RULE)
    ax.annotate("γ$_c$ = 2 v0/h", (1.12 * critical, 0.3), rotation=90, ha="left", va="center")
    ax.set(
        xscale="log", ylim=(0, 0.78), xlabel="weight of the reverse KL, γ [1]", ylabel="leaked information [nats]",
        title="Spread channel: no anchor in it (T4, T6)",
    )  # fmt: skip
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.88))
    return ax


def counter_examples() -> str:
    """Every counter-example of the theory: the claim, where it fails, and the two exact values."""
    lines = []
    for each in COUNTER_EXAMPLES:
        before, after = each.values
        start, end = each.gammas
        told = f"{each.quantity} goes from {before} at gamma = {start} to {after} at {end}"
        lines.append(f"{each.claim}\n    because {each.because}:\n    {told}")
    return "\n".join(lines)


def _normal(z: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
