"""The theory's figures for a notebook, and a game with means and variances free on its way to the closed form."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_style import RULE, axes, look, marks
from amvl_theory import GaussianGame, mixture_information, self_consistent_contamination, simulate
from amvl_theory.checks import OBJECTIVES, Array
from amvl_theory.figures import figures
from amvl_theory.figures.curves import Mode
from amvl_theory.figures.plots import LABELS
from amvl_theory.verification.core import Table
from notebooks.views.show import styled


def path(mode: Mode, gamma: float, *, steps: int = 20_000, eta: float = 0.01, points: int = 60) -> Table:
    """Contamination, leaked information and posterior deviation in time under the three objectives, with the ends of T5.

    Two equally likely answers with forces gbar +- sqrt(v0), everything starting at m* with unit variances; plain gradient
    descent on the real losses, ``eta`` of time a step.

    Returns:
        columns objective, time, contamination [latent], leaked [nats], posterior_std [latent], rest (contamination of T5;
        NaN where it has several stable roots).
    """
    forces = mode.force_mean + np.sqrt(mode.force_var) * np.array([[[1.0], [-1.0]]])
    game = GaussianGame(forces, mode.curvature, mode.anchor)
    record = np.unique(np.concatenate([[0], np.geomspace(1, steps, points).astype(int)]))
    rows: dict[str, list[Array]] = {
        name: [] for name in ("objective", "time", "contamination", "leaked", "posterior_std", "rest")
    }
    for objective in OBJECTIVES:
        run = simulate(
            game, objective=objective, beta=mode.beta, gamma=gamma, steps=steps, eta_q=eta, eta_p=eta,
            record=record.tolist(), per_answer=True,
        )  # fmt: skip
        shifts, spreads = run.recorded.posterior_shift[:, 0, :, 0], run.recorded.posterior_log_var[:, 0, 0, 0]
        roots = self_consistent_contamination(
            mode.force_mean, mode.force_var, mode.curvature, mode.anchor, mode.beta, gamma, objective  # type: ignore[arg-type]
        )  # fmt: skip
        stable = roots.values[roots.stable]
        columns = (
            np.full(len(record), objective),
            eta * record,
            run.recorded.contamination[:, 0, 0],
            np.array([mixture_information(pair, np.exp(s)) for pair, s in zip(shifts, spreads, strict=True)], float),
            np.exp(spreads / 2),
            np.full(len(record), stable[0] if len(stable) == 1 else np.nan),
        )
        for name, column in zip(rows, columns, strict=True):
            rows[name].append(column)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def theory_figure(name: str, mode: Mode, *, seed: int = 0, quick: bool = True) -> Figure:
    """One of the figures of experiments/leakage_sim.py.

    Args:
        name: of `amvl_theory.figures.figures.FIGURES`.
        mode: the mode that it shows.
        seed: of random features and labels.
        quick: coarse grids, fewer draws.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in figures.FIGURES:
        raise ValueError(f"expected a figure among {', '.join(figures.FIGURES)}, got {name!r}")
    with styled():
        return figures.FIGURES[name](mode, np.random.default_rng(seed), quick)[0]


def slow_motion(table: Table) -> Figure:
    """`path`'s table in three panels; the markers at the right edge are T5's closed form."""
    with styled():
        page = Figure(figsize=(13.2, 3.9))
        panels = page.subplots(1, 3)
        titles = {
            "contamination": ("prior contamination c [latent]", "The prior follows; markers: closed form (T5)"),
            "leaked": ("leaked information [nats]", "What the posterior says about the answer"),
            "posterior_std": ("posterior standard deviation [latent]", "Forward-only shrinks onto its answer"),
        }
        for ax, (column, (unit, title)) in zip(panels, titles.items(), strict=True):
            draw(table, column, unit, title, ax=ax)
        panels[0].legend(loc="lower right")
        panels[1].axhline(np.log(2), **RULE)
        panels[2].set_yscale("log")
    return page


def draw(table: Table, column: str, unit: str, title: str, *, ax: Axes | None = None) -> Axes:
    """One column of `path` in time."""
    ax = axes(ax)
    for objective in OBJECTIVES:
        rows = table["objective"] == objective
        time = table["time"][rows]
        ax.plot(time[1:], table[column][rows][1:], label=LABELS[objective], **look(objective))
        if column == "contamination":
            ax.plot(time[-1] * 1.15, table["rest"][rows][-1], clip_on=False, **marks(objective))
    ax.set(xscale="log", xlabel="time [rate × steps]", ylabel=unit, title=title)
    return ax
