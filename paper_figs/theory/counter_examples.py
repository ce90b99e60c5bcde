"""Where dual KL does not help: instances outside the conditions of T2 to T7, exact and in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from amvl_style import GREY, METHODS, RULE, look, marks
from amvl_theory import (
    COUNTER_EXAMPLES,
    CounterExample,
    MeanLeakageModel,
    critical_weight,
    equilibrium,
    frozen_prior_response,
    per_answer_equilibrium,
    self_consistent_contamination,
    spread,
    stability,
    three_answers,
    trajectory,
)
from amvl_theory.dynamics.stability import UNSTABLE_EXAMPLE
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "where dual KL does not help: counter-examples of T2 to T7"
BISTABLE = {"force_mean": 3.0, "force_var": 0.01, "curvature": 1.0, "anchor": 1.0, "beta": 1.0}
TRANSIENT = {"curvature": 1.0, "force_mean": 0.0, "posterior_precision": 1.0, "prior_precision": 1.0, "anchor": 0.2}
KURTOSIS = 5.0


def draw(sources: Sources) -> Drawn:
    """Six panels, one statement each."""
    figure = page(4.3)
    axes = figure.subplots(2, 3).ravel()
    for ax, panel in zip(axes, (_frozen, _absorbed, _transient, _bistable, _hysteresis, _unstable), strict=True):
        panel(ax, sources)
    return Drawn(figure)


def model_of(example: CounterExample) -> MeanLeakageModel:
    """The instance of an exact counter-example, in floats."""
    return MeanLeakageModel(**{name: _floats(value) for name, value in example.arguments.items()})  # type: ignore[arg-type]


def _floats(value: Any) -> Any:
    return [_floats(each) for each in value] if isinstance(value, tuple) else float(value)


def _example(quantity: str) -> CounterExample:
    return next(example for example in COUNTER_EXAMPLES if example.quantity == quantity)


def _ends(ax: Axes, example: CounterExample) -> None:
    """The exact values of the counter-example, as markers."""
    ax.plot([float(g) for g in example.gammas], [float(v) for v in example.values], **marks("amvl"))


def _frozen(ax: Axes, sources: Sources) -> None:
    example = _example("shift_norm2")
    model, gamma = model_of(example), np.linspace(0.0, 4.0, 121)
    shift = np.array([frozen_prior_response(model, value) for value in gamma])
    sources.compute(frozen_prior_response, claim=example.claim, gamma=[0.0, 4.0])
    ax.plot(gamma, (shift**2).sum(1), label="|δ̄|²", **look("amvl"))
    ax.plot(gamma, shift @ model.g, label="response energy", **look(1))
    traced = _example("spread_trace")
    trace = [float(np.trace(spread(model_of(traced), value))) for value in gamma[15::15]]
    ax.plot(gamma[15::15], trace, label="tr C (T4)", **marks(2))
    sources.compute(spread, claim=traced.claim, gamma=[0.0, 4.0])
    _ends(ax, example)
    ax.set(ylim=(0, 25), xlabel="γ [1]", ylabel="|δ̄|² [latent²], energy [nats]", title="(a) T2, T4: dense H")
    ax.legend(loc="upper right")


def _absorbed(ax: Axes, sources: Sources) -> None:
    example = _example("contamination_0")
    model, gamma = model_of(example), np.linspace(0.0, 12.0, 121)
    c = np.array([equilibrium(model, float(example.beta), value).contamination for value in gamma])
    sources.compute(equilibrium, claim=example.claim, beta=float(example.beta), gamma=[0.0, 12.0])
    ax.plot(gamma, c[:, 0], label="absorbed mode", **look("amvl"))
    ax.plot(gamma, c[:, 1], label="other mode", **look(1))
    _ends(ax, example)
    ax.set(ylim=(-0.05, 1.25), xlabel="γ [1]", ylabel="contamination c [latent]", title="(b) T3: dense H, s = 1")
    ax.legend(loc="upper left", ncols=1)


def _transient(ax: Axes, sources: Sources) -> None:
    model, times = MeanLeakageModel(**TRANSIENT), np.linspace(0.0, 6.0, 121)
    for method, gamma in (("ntp+fwd", 0.0), ("amvl", 2.0)):
        path = trajectory(model, 1.0, gamma, times, initial=(0.0, 1.0))
        ax.plot(times, path.contamination[:, 0], label=f"γ = {gamma:g}", **look(method))
    sources.compute(trajectory, **TRANSIENT, beta=1.0, gamma=[0.0, 2.0], initial=(0.0, 1.0))
    ax.set(ylim=(0, 1.05), xlabel="time [rate × steps]", ylabel="contamination c [latent]", title="(c) T5: a transient")
    ax.legend(loc="upper right")


def _bistable(ax: Axes, sources: Sources) -> None:
    gamma = np.geomspace(1e-4, 1.0, 90)
    points = []
    for value in gamma:
        roots = self_consistent_contamination(**BISTABLE, gamma=float(value), objective="amvl")
        points += [(value, c, bool(still)) for c, still in zip(roots.values, roots.stable, strict=True)]
    sources.compute(self_consistent_contamination, **BISTABLE, gamma=[1e-4, 1.0], objective="amvl")
    located = np.array(points)
    still = located[:, 2] == 1
    forward = self_consistent_contamination(**BISTABLE, gamma=0.1, objective="ntp+fwd")
    for number, c in enumerate(forward.values[forward.stable]):
        ax.axhline(c, label="forward-only" if number == 0 else None, lw=1.0, **look("ntp+fwd"))
    ax.plot(*located[still, :2].T, color=METHODS["amvl"].colour, marker="o", ms=1.8, ls="none", label="dual KL")
    ax.plot(*located[~still, :2].T, color=GREY, marker="x", ms=2.2, mew=0.7, ls="none", label="unstable root")
    ax.set(
        xscale="log", ylim=(0, 3.6), xlabel="γ [1]", ylabel="contamination c [latent]", title="(d) T5: two equilibria"
    )
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.35))


def _hysteresis(ax: Axes, sources: Sources) -> None:
    forces, chance = three_answers(KURTOSIS)
    top = float(critical_weight(1.0, 1.0, "amvl"))
    ratio = np.linspace(0.5, 1.3, 33)
    for branch, key in (("leaking", "amvl"), ("collapsed", 3)):
        solved = per_answer_equilibrium(forces, 1.0, ratio * top, chance, branch=branch)  # type: ignore[arg-type]
        ax.plot(ratio, solved.second_moment, label=f"{branch} start", **look(key))
    sources.compute(per_answer_equilibrium, forces=forces, probabilities=chance, curvature=1.0, gamma=ratio * top)
    ax.axvline(1.0, ymax=0.7, **RULE)
    ax.set(
        ylim=(-0.01, None), xlabel="γ / γ$_c$ [1]", ylabel="leaked variance V [latent²]",
        title="(e) T6: force kurtosis 5",
    )  # fmt: skip
    ax.legend(loc="upper right")


def _unstable(ax: Axes, sources: Sources) -> None:
    gamma = np.geomspace(0.1, 10.0, 121)
    spectra = [stability(UNSTABLE_EXAMPLE, 1.0, value).eigenvalues for value in gamma]
    growth = np.array([values.real.max() for values in spectra])
    sources.compute(stability, instance="amvl_theory.dynamics.stability.UNSTABLE_EXAMPLE", beta=1.0, gamma=[0.1, 10.0])
    ax.plot(gamma, growth, label="H and A dense", **look("amvl"))
    ax.axhline(0, color="black", lw=0.6)
    ax.fill_between(gamma, 0, growth, where=(growth > 0).tolist(), color=GREY, alpha=0.4, lw=0, label="unstable")
    ax.set(xscale="log", xlabel="γ [1]", ylabel="largest growth rate [1/time]", title="(f) T7: an unstable game")
    ax.legend(loc="lower right")
