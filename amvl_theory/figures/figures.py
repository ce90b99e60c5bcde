"""All figures of a run: tables to CSV, panels to PNG, one CSV or more beside every figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_style import save, styled
from amvl_theory.figures import curves, plots, seeds
from amvl_theory.figures.curves import Mode
from amvl_theory.verification.core import Table, write_csv

MIXTURE_LABELS = ("component separation [standard deviations]", "weight of one component [1]")

SCALE, DPI = 1.33, 160
"""Of text and lines, against a page's; dots per inch."""

Drawn = tuple[Figure, dict[str, Table]]


def page(columns: int, *, height: float = 4.0, width: float = 4.9, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    return figure, list(np.atleast_1d(figure.subplots(1, columns, sharey=sharey)))


def contamination(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Contamination against gamma."""
    table = curves.contamination(mode)
    figure, (ax,) = page(1, width=5.6)
    plots.contamination(table, ax=ax)
    return figure, {"contamination": table}


def trajectories(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Trajectories under the three orders."""
    table = curves.orders(mode)
    figure, panels = page(3, width=4.4)
    plots.order_contamination(table, ax=panels[0])
    plots.order_contamination(table, ax=panels[1], column="posterior_shift")
    plots.order_weights(table, ax=panels[2])
    return figure, {"trajectories": table}


def phase_diagram(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Leaked information over both weights."""
    coupled, plane = curves.phase_coupled(mode, 15 if quick else 61), curves.phase_plane(41 if quick else 121)
    figure, panels = page(2, width=5.8, height=4.7)
    plots.phase_coupled(coupled, mode, ax=panels[0])
    plots.phase_plane(plane, ax=panels[1])
    return figure, {"phase_diagram_coupled": coupled, "phase_diagram_objectives": plane}


def elbo_against_dual(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Leaked information and contamination of the objectives."""
    leaked, roots = curves.leakage(), curves.objectives(mode, 36 if quick else 180)
    figure, panels = page(3, width=4.9, height=4.3)
    plots.leakage(leaked, ax=panels[0])
    title = f"Free variances: ḡ = {mode.force_mean:g}, v0 = {mode.force_var:g}"
    plots.objectives(roots, "given", title, ax=panels[1])
    plots.objectives(roots, "bistable", "Several roots: ḡ = 3, v0 = 0.01", ax=panels[2])
    return figure, {"elbo_against_dual_leakage": leaked, "elbo_against_dual_contamination": roots}


def stability_map(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Slowest rate and largest stable step."""
    table = curves.stability_maps(mode, 15 if quick else 61)
    figure, panels = page(3, width=5.2, height=4.2, sharey=True)
    rate, step = "slowest rate [1/time]", "largest stable step [time]"
    plots.stability(table, "mode_slowest_rate", "One mode: slowest rate", rate, ax=panels[0])
    plots.stability(table, "mode_largest_step", "One mode: largest stable step", step, ax=panels[1])
    plots.stability(
        table, "dense_slowest_rate", "H and A both dense: slowest rate", rate, ax=panels[2], mark=(1.0, 1.0)
    )
    for ax in panels:
        ax.label_outer()
    return figure, {"stability_map": table}


def finite_sample(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Finite-sample scaling."""
    draws = 40 if quick else 400
    scaling, descent, best = curves.finite_sample(rng, draws), curves.double_descent(rng, draws), curves.best_gamma(rng)
    figure, panels = page(3, width=4.8)
    plots.finite_sample(scaling, ax=panels[0])
    plots.double_descent(descent, ax=panels[1])
    plots.best_gamma(best, ax=panels[2])
    return figure, {
        "finite_sample_noise": scaling,
        "finite_sample_double_descent": descent,
        "finite_sample_gamma": best,
    }


def limits(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Where the linear theory fails."""
    bent, mixed = curves.saturation_map(13 if quick else 61), curves.mixture_map(9 if quick else 27)
    own = curves.per_answer_map(9 if quick else 41)
    figure, panels = page(3, width=5.2, height=4.2)
    plots.error_map(
        bent, "force_over_g0", "gamma_pull", labels=("mean force / saturation force g$_0$ [1]", "γ λ$_q$ / h [1]"),
        title="Saturating response: contamination", bar="linear / exact - 1", scales=("log", "symlog"), ax=panels[0],
    )  # fmt: skip
    plots.error_map(
        mixed, "separation", "component_weight", labels=MIXTURE_LABELS,
        title="Mixture posterior: contamination", bar="linear / exact - 1", scales=("linear", "linear"), ax=panels[1],
    )  # fmt: skip
    plots.error_map(
        own, "gamma_over_critical", "kurtosis", labels=("γ / γ$_c$ [1]", "kurtosis of the answer force [1]"),
        title="Per-answer variances: V of T6", bar="closed form / exact - 1", scales=("log", "linear"), ax=panels[2],
    )  # fmt: skip
    return figure, {"limits_saturation": bent, "limits_mixture": mixed, "limits_per_answer": own}


def widening(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Widths and leak at a gap that no head can close."""
    table = seeds.widening_paths(30 if quick else 200)
    figure, panels = page(2)
    seeds.lines(
        table, "gamma", "step", "posterior_var", ax=panels[0], name="γ = {:g}", seen="simulated", xlabel="time [steps]",
        ylabel="σ$_q$² [latent²]", title="A gap that stays widens for ever",
    )  # fmt: skip
    seeds.lines(
        table, "gamma", "step", "leaked_nats", ax=panels[1], name="γ = {:g}", xlabel="time [steps]",
        ylabel="leaked information [nats]", title="and the leak falls like 1/(γ t)", yscale="log",
    )  # fmt: skip
    return figure, {"widening": table}


def reading(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """Growth of reading, collapse against budget, the weight that holds."""
    count = 100 if quick else 1000
    rates, shares, held = seeds.growth_rates(count), seeds.collapse_against_budget(count), seeds.holding_weights()
    figure, panels = page(3)
    seeds.growth_panel(rates, ax=panels[0])
    seeds.lines(
        shares, "gamma", "budget", "share", ax=panels[1], name="γ = {:g}", seen="simulated", xlabel="budget [steps]",
        ylabel="share of seeds that read the leak [1]", title="Collapse against budget",
    )  # fmt: skip
    seeds.lines(
        held, "share", "budget", "gamma", ax=panels[2], name="share {:g}", xlabel="budget [steps]",
        ylabel="γ* [1]", title="Weight that holds the share",
    )  # fmt: skip
    return figure, {"reading_rates": rates, "reading_collapse": shares, "reading_weights": held}


def coadaptation(mode: Mode, rng: np.random.Generator, quick: bool) -> Drawn:
    """A decoder that learns: no resting point, and what the route from x loses."""
    paths, starved = seeds.coadapted_paths(), seeds.starving_paths(20 if quick else 200)
    figure, panels = page(3)
    leak, widths = {"ylabel": "leak ρ = a²/σ$_q$² [1]"}, {"ylabel": "σ$_p$ [latent]"}
    seeds.coadapted_panel(paths, "snr", ax=panels[0], title="The leak tends to a limit", **leak)
    seeds.coadapted_panel(paths, "prior_std", ax=panels[1], title="the widths do not, under dual KL", **widths)
    seeds.starving_panel(starved, ax=panels[2])
    return figure, {"coadaptation": paths, "coadaptation_starving": starved}


FIGURES: dict[str, Callable[[Mode, np.random.Generator, bool], Drawn]] = {
    "contamination": contamination,
    "trajectories": trajectories,
    "phase_diagram": phase_diagram,
    "elbo_against_dual": elbo_against_dual,
    "stability_map": stability_map,
    "finite_sample": finite_sample,
    "limits": limits,
    "widening": widening,
    "reading": reading,
    "coadaptation": coadaptation,
}


def write_figure(name: str, out: Path, mode: Mode, seed: int, *, quick: bool) -> str:
    """Compute one figure, write its tables, draw it; returns its name."""
    rng = np.random.default_rng([seed, 100 + list(FIGURES).index(name)])
    with styled(SCALE):
        figure, tables = FIGURES[name](mode, rng, quick)
        save(figure, out / f"{name}.png", dpi=DPI)
    for table_name, table in tables.items():
        write_csv(out / f"{table_name}.csv", table)
    return name
