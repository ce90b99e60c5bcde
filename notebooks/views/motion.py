"""Theory in motion: the calculator of T11 under the sliders of notebook 01, and one run's probes beside the theory in 06."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.config import RunConfig
from amvl_model.diagnostics.reading.forecast import COLLAPSE, HELD, RunSchedule, forecast
from amvl_model.results.files import Result
from amvl_style import RULE, axes, look, look_of
from amvl_theory import ReadingModel, collapse_probability, holding_weight, reading_rate, reading_threshold
from notebooks.views.show import styled

GAMMAS = np.geomspace(1e-3, 3.0, 121)
STEPS = np.geomspace(50, 20_000, 161)


def calculator(gamma: float, steps: float, variance: float, critical: float, model: ReadingModel) -> Figure:
    """Growth rate against gamma, share of runs that read against steps, weight that holds against the budget.

    Args:
        gamma: weight of the reverse KL [1]. steps: budget [steps]. variance: s [latent^2]. critical: a_0 [1].
        model: decoder and learning rates.
    """
    with styled():
        page = Figure(figsize=(13.2, 3.9))
        left, middle, right = page.subplots(1, 3)
        growth(model, variance, gamma, ax=left)
        shares(model, variance, gamma, steps, critical, ax=middle)
        holding(model, variance, gamma, steps, critical, ax=right)
    return page


def growth(model: ReadingModel, variance: float, gamma: float, *, ax: Axes | None = None) -> Axes:
    """r over gamma, with the threshold beyond which reading dies out."""
    ax = axes(ax)
    ax.plot(GAMMAS, reading_rate(model, variance, GAMMAS), **look("amvl"))
    ax.plot(gamma, reading_rate(model, variance, gamma), "o", color=look_of("amvl").colour, ms=8, mec="white")
    limit = float(reading_threshold(model, variance))
    ax.axvline(limit, **RULE)
    ax.axhline(0, **RULE)
    ax.annotate(f"threshold {limit:.2g}", (0.9 * limit, ax.get_ylim()[1]), rotation=90, ha="right", va="top")
    ax.set(
        xscale="log", xlabel="weight of the reverse KL, γ [1]", ylabel="growth of reading [1/step]",
        title="How fast reading grows (T11)",
    )  # fmt: skip
    return ax


def shares(
    model: ReadingModel, variance: float, gamma: float, steps: float, critical: float, *, ax: Axes | None = None
) -> Axes:
    """Share of random starts that have come to read, forward-only and at this gamma."""
    ax = axes(ax)
    for key, weight in (("ntp+fwd", 0.0), ("amvl", gamma)):
        rate = float(reading_rate(model, variance, weight))
        label = "forward-only" if weight == 0 else f"γ = {gamma:.3g}"
        ax.plot(STEPS, collapse_probability(rate * STEPS, critical), label=label, **look(key))
        ax.plot(steps, collapse_probability(rate * steps, critical), "o", color=look_of(key).colour, ms=8, mec="white")
    ax.set(
        xscale="log", ylim=(-0.02, 1.02), xlabel="training [steps]", ylabel="share of runs that read the leak",
        title="How many runs read by then (T11)",
    )  # fmt: skip
    ax.legend(loc="upper left")
    return ax


def holding(
    model: ReadingModel, variance: float, gamma: float, steps: float, critical: float, *, ax: Axes | None = None
) -> Axes:
    """The weight that keeps the share at 5 %, over the budget; this gamma and budget as a marker."""
    ax = axes(ax)
    weights = holding_weight(STEPS, probability=HELD, critical=critical, model=model, variance=variance)
    needed = np.where(weights > 0, weights, np.nan)  # 0: forward-only holds by itself
    ax.plot(STEPS, needed, label=f"γ*(T), {100 * HELD:.0f} % of runs read", **look("amvl"))
    ax.plot(steps, max(gamma, GAMMAS[0]), "o", color="black", ms=8, mec="white", label="this setting")
    ax.axhline(float(reading_threshold(model, variance)), **RULE)
    ax.set(xscale="log", yscale="log", xlim=(STEPS[0], STEPS[-1]), ylim=(GAMMAS[0], GAMMAS[-1]))
    ax.set(xlabel="budget [steps]", ylabel="weight that holds, γ* [1]", title="How large γ must be (T11)")
    ax.legend(loc="upper left")
    return ax


def plan_of(run: Result) -> RunSchedule:
    """Weights and learning rate of a run at every step."""
    return RunSchedule.of(RunConfig.from_dict(run.config))


def run_figure(run: Result) -> Figure:
    """One run of the study `reading`: widths with T1's prior, reading with T11's growth, and what the calculator says as it goes.

    Raises:
        ValueError: for a result without the probes of its training.
    """
    rows: list[dict[str, Any]] = run.extra.get("probes", [])
    if len(rows) < 2:
        raise ValueError(f"{run.study}/{run.cell}/seed{run.seed}: expected the probes of its training, got {len(rows)}")
    with styled():
        page = Figure(figsize=(13.2, 4.1))
        left, middle, right = page.subplots(1, 3)
        widths(rows, ax=left)
        readings(rows, ax=middle)
        chances(rows, plan_of(run), ax=right)
        page.suptitle(f"{run.cell}, seed {run.seed}")
    return page


def _columns(rows: list[dict[str, Any]], *names: str) -> list[np.ndarray]:
    found = [[row["step"] for row in rows], *([row.get(f"probe_{name}", np.nan) for row in rows] for name in names)]
    return [np.array(column, dtype=float) for column in found]


def widths(rows: list[dict[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Standard deviations and gap; the dashed line is the prior that matches moments, sqrt(sigma_q^2 + gap^2) (T1)."""
    ax = axes(ax)
    step, posterior, prior, gap = _columns(rows, "posterior_std", "prior_std", "gap")
    for values, name, key in ((posterior, "posterior std", 2), (prior, "prior std", 3)):
        ax.plot(step, values, color=look_of(key).colour, label=name)
    ax.plot(step, np.hypot(posterior, gap), color="black", ls=":", label="prior at rest (T1)")
    ax.set(yscale="log", xlabel="training step [steps]", ylabel="standard deviation [latent]", title="Widths")
    ax.legend()
    return ax


def readings(rows: list[dict[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Reading with its standard error, and from the first one that exceeds 2 errors on what T11's logged rates make of it."""
    ax = axes(ax)
    step, reading, error, rate = _columns(rows, "reading_nats", "reading_error", "growth_rate")
    clear = reading > 2 * error
    ax.errorbar(
        step[clear], reading[clear], error[clear], fmt="o", color=look_of(0).colour, ms=5, label="above 2 errors"
    )
    rest = ~clear & (reading + error > 0)
    ax.plot(step[rest], (reading + error)[rest], "v", color="grey", ms=4, label="upper end, unclear")
    if clear.any():
        start = int(np.argmax(clear))
        grown = np.append(0.0, np.cumsum(np.diff(step[start:]) * np.nan_to_num(rate[start:-1])))
        line = reading[start] * np.exp(2 * np.minimum(grown, 10.0))
        shown = np.append(True, line[:-1] < 1.0)
        ax.plot(step[start:][shown], np.minimum(line[shown], 3.0), color="black", lw=1.2, label="grown at T11's rates")
    ax.axhline(COLLAPSE, **RULE)
    ax.set(
        yscale="log", xlabel="training step [steps]", ylabel="reading [nats]",
        title=f"Reading; line at {COLLAPSE:g} nats",
    )  # fmt: skip
    ax.legend()
    return ax


def chances(rows: list[dict[str, Any]], plan: RunSchedule, *, ax: Axes | None = None) -> Axes:
    """What `amvl gamma` would have said at every probe about the end of the run."""
    ax = axes(ax)
    said = [forecast(rows[: i + 1], plan, until=plan.steps) for i in range(len(rows))]
    points = [(f.step, f.probability) for f in said if f.probability is not None]
    ax.plot(*zip(*points, strict=True) if points else ((), ()), "o", color=look_of(0).colour, label="probability")
    silent = [f.step for f in said if f.probability is None]
    ax.plot(silent, np.full(len(silent), -0.06), "x", color="grey", label="cannot tell")
    ax.set(
        ylim=(-0.12, 1.06), xlim=(0, plan.steps), xlabel="training step [steps]",
        ylabel=f"reading by step {plan.steps}", title="What the calculator says",
    )  # fmt: skip
    ax.legend(loc="center left")
    return ax
