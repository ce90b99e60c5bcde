"""Line figures: tables of `curves.py` to Axes.

Map figures: tables of `curves.py` over two parameters to Axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm
from matplotlib.lines import Line2D

from amvl_style import GREY, METHODS, PALE, PALE_SIGNED, RULE, SIMULATION, Look, axes, graded, look, marks
from amvl_theory import EQUAL_WEIGHT_CROSSOVER
from amvl_theory.checks import OBJECTIVES
from amvl_theory.figures.curves import Mode
from amvl_theory.verification.core import Table

LABELS = {"ntp+fwd": "forward-only", "elbo": "ELBO", "amvl": "dual KL"}
"""Names of the objectives in legends."""


def contamination(table: Table, *, ax: Axes | None = None) -> Axes:
    """Contamination against gamma for several absorptions; markers are simulations (T3)."""
    ax = axes(ax)
    absorptions = np.unique(table["absorption"])
    for s, shown in zip(absorptions, graded(len(absorptions)), strict=True):
        rows = table["absorption"] == s
        gamma = table["gamma"][rows]
        ax.plot(gamma, table["contamination"][rows], label=f"s = {s:g}", **look(shown))
        ax.plot(gamma, table["simulated"][rows], **marks(shown))
    ax.plot([], [], **SIMULATION)
    ax.set(
        xscale="log", ylim=(0, None), xlabel="weight of the reverse KL, γ [1]", ylabel="prior contamination c [latent]",
        title="Only absorption below 1 lets γ act",
    )  # fmt: skip
    ax.legend(ncols=2, loc="upper right")
    return _headroom(ax, 1.42)


def order_contamination(table: Table, *, ax: Axes | None = None, column: str = "contamination") -> Axes:
    """Contamination, or the posterior shift, in time under the three orders (T7)."""
    ax = axes(ax)
    for i, order in enumerate(dict.fromkeys(table["order"].tolist())):
        rows = table["order"] == order
        ax.plot(table["time"][rows], table[column][rows], label=order, **look(i))
        if column == "contamination":
            ax.plot(table["time"][rows], table["simulated"][rows], **marks(i))
    if column == "contamination":
        ax.plot([], [], **SIMULATION)
    ax.set_xlabel("time [rate × steps]")
    name = "prior contamination c" if column == "contamination" else "posterior shift δ̄"
    ax.set(
        ylabel=f"{name} [latent]",
        title="Contamination under three orders" if column == "contamination" else "What the prior follows",
        ylim=(0, None),
    )  # fmt: skip
    if column == "contamination":
        ax.legend(loc="lower right")
    return ax


def order_weights(table: Table, *, ax: Axes | None = None) -> Axes:
    """The two weights in time under each order: beta thick, gamma thin."""
    ax = axes(ax)
    for i, order in enumerate(dict.fromkeys(table["order"].tolist())):
        rows = table["order"] == order
        shift = 0.012 * (i - 1)
        ax.plot(table["time"][rows], table["beta"][rows] + shift, **{**look(i), "linewidth": 2.8}, label=order)
        ax.plot(table["time"][rows], table["gamma"][rows] + shift, **{**look(i), "linewidth": 1.2})
    ax.plot([], [], color=GREY, linewidth=2.8, label="thick: β")
    ax.plot([], [], color=GREY, linewidth=1.2, label="thin: γ")
    ax.set(xlabel="time [rate × steps]", ylabel="loss weight [1]", title="Schedules")
    ax.legend(loc="lower right")
    return ax


def leakage(table: Table, *, ax: Axes | None = None) -> Axes:
    """Leaked information against the weight over v0/h: dual KL and ELBO, channel value, exact value, simulation (T6)."""
    ax = axes(ax)
    x = table["weight_h_over_v0"]
    for objective in ("amvl", "elbo"):
        method = METHODS[objective]
        ax.plot(x, table[f"{objective}_nats"], label=LABELS[objective], **look(objective))
        exact = table[f"{objective}_exact_nats"]
        ax.plot(x, exact, color=method.colour, linewidth=0.9, label=f"{LABELS[objective]}, two answers")
        ax.plot(x, table[f"{objective}_simulated_nats"], **marks(objective))
    ax.plot([], [], **SIMULATION)
    ax.axhline(np.log(2), **RULE)
    ax.text(2.5, np.log(2) + 0.04, "log 2", ha="right")
    for weight, text in ((1.0, "β$_c$"), (2.0, "γ$_c$"), (EQUAL_WEIGHT_CROSSOVER, "2/φ²")):
        ax.axvline(weight, ymax=0.5, **RULE)
        ax.text(0.97 * weight, 1.3, text, rotation=90, ha="right", va="top")
    ax.set(
        xscale="log", ylim=(0, 2.5), xlim=(0.01, 2.6), xlabel="weight × h / v0 [1]  (γ of dual KL, β of ELBO)",
        ylabel="leaked information [nats]", title="Leaked information at equal weight",
    )  # fmt: skip
    ax.legend(loc="upper right")
    return ax


def objectives(table: Table, mode: str, title: str, *, ax: Axes | None = None) -> Axes:
    """All equilibrium contaminations of the three objectives, variances free; open markers are unstable (T5)."""
    ax = axes(ax)
    for objective in OBJECTIVES:
        rows = (table["mode"] == mode) & (table["objective"] == objective)
        gamma, c, stable = (table[key][rows] for key in ("gamma", "contamination", "stable"))
        for number in range(max(int(np.unique(gamma, return_counts=True)[1].max()), 1)):
            _branches(ax, gamma, c, stable, number, objective)
        ax.plot(gamma, table["simulated"][rows], **marks(objective))
    if not table["stable"][table["mode"] == mode].all():
        ax.plot([], [], color=GREY, linewidth=1.0, linestyle=(0, (1, 3)), label="unstable root")
    ax.plot([], [], **SIMULATION)
    ax.set(
        xscale="log", ylim=(0, None), xlabel="weight of the reverse KL, γ [1]", ylabel="prior contamination c [latent]",
        title=title,
    )  # fmt: skip
    ax.legend(loc="best")
    return ax


def _branches(ax: Axes, gamma: np.ndarray, c: np.ndarray, stable: np.ndarray, number: int, objective: str) -> None:
    """Root number `number` of every gamma, cut where the number of roots changes, faint where it is unstable."""
    points: dict[tuple[int, int], list[tuple[float, float]]] = {}
    part, before = 0, -1
    for value in np.unique(gamma):
        here = gamma == value
        count = int(here.sum())
        part += count != before
        before = count
        if number < count:
            order = np.argsort(c[here])[number]
            points.setdefault((part, int(stable[here][order])), []).append((value, float(c[here][order])))
    width = 3.4 if objective == "ntp+fwd" else 1.8  # the ELBO lies on forward-only, which shows around it
    for k, ((_, still), line) in enumerate(points.items()):
        x, y = zip(*line, strict=True)
        shape = (
            {**look(objective), "linewidth": width}
            if still
            else {**look(objective), "linewidth": 1.0, "linestyle": (0, (1, 3))}
        )
        ax.plot(x, y, label=LABELS[objective] if number == 0 and k == 0 else None, **shape)


def finite_sample(table: Table, *, ax: Axes | None = None) -> Axes:
    """Contamination of a fresh question by label noise against the number of questions (T8)."""
    ax = axes(ax)
    gammas = np.unique(table["gamma"])
    for gamma, shown in zip(gammas, graded(len(gammas)), strict=True):
        _noise(ax, table, table["gamma"] == gamma, "variance", f"γ = {gamma:g}", shown)
    ax.plot([], [], **SIMULATION | {"label": "descent, random labels\n(± 2 standard errors)"})
    ax.axvline(10, **RULE)
    ax.set(
        xscale="log", yscale="log", ylim=(None, 8), xlabel="questions n [1]   (p = 10 features)",
        ylabel="variance of c caused by label noise [latent²]",
    )  # fmt: skip
    ax.annotate("n = p", (10, 0.99), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top")
    ax.set_title("Label noise in a fresh question's prior")
    ax.legend(loc="lower left")
    return ax


def double_descent(table: Table, *, ax: Axes | None = None) -> Axes:
    """Excess loss by label noise against n, with and without ridge: the peak at n = p (T8)."""
    ax = axes(ax)
    ridges = np.unique(table["ridge"])
    for ridge, shown in zip(ridges, graded(len(ridges)), strict=True):
        name = f"ρ = {ridge:g}" if ridge else "no ridge"
        _noise(ax, table, table["ridge"] == ridge, "noise_nats", name, shown)
    ax.axvline(20, **RULE)
    ax.annotate("n = p", (20, 0.02), rotation=90, ha="right", va="bottom")
    ax.set(
        xscale="log", yscale="log", ylim=(0.015, 40), xlabel="questions n [1]   (p = 20 features)",
        ylabel="excess answer loss by label noise [nats]", title="Double descent; γ multiplies the ridge",
    )  # fmt: skip
    ax.legend(loc="upper right")
    return ax


def _noise(ax: Axes, table: Table, rows: np.ndarray, column: str, name: str, shown: Look) -> None:
    """One curve against the number of questions, and its simulation with two standard errors."""
    n, simulated, error = (table[key][rows] for key in ("questions", "simulated", "standard_error"))
    ax.plot(n, table[column][rows], label=name, **look(shown))
    ax.errorbar(n, simulated, 2 * error, **{**marks(shown), "linewidth": 1.0}, capsize=2)


def best_gamma(table: Table, *, ax: Axes | None = None) -> Axes:
    """Bias, noise and total excess loss against gamma; the vertical line is the closed form's optimum (T8)."""
    ax = axes(ax)
    for i, (key, name) in enumerate(
        (("total_nats", "total"), ("noise_nats", "label noise kept"), ("bias_nats", "signal lost"))
    ):
        ax.plot(table["gamma"], table[key], label=name, **look(i))
    best = float(table["best_gamma"][0])
    ax.axvline(best, **RULE)
    ax.plot(
        best,
        np.interp(best, table["gamma"], table["total_nats"]),
        marker="D",
        color="black",
        linestyle="none",
        label=f"optimal γ = {best:.3g}",
    )
    ax.set(
        xscale="log", ylim=(0, None), xlabel="weight of the reverse KL, γ [1]", ylabel="excess answer loss [nats]",
        title="Bias and variance in γ (n = 24, p = 16)",
    )  # fmt: skip
    ax.legend(loc="upper center")
    return ax


def _headroom(ax: Axes, factor: float) -> Axes:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * factor)
    return ax


BOX = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
ERROR_LEVELS = np.array([-1.0, -0.5, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.5, 1.0])


def grid(table: Table, x: str, y: str, value: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axis values and the matrix (y, x) of a table over a full grid."""
    xs, ys = np.unique(table[x]), np.unique(table[y])
    matrix = np.full((len(ys), len(xs)), np.nan)
    matrix[np.searchsorted(ys, table[y]), np.searchsorted(xs, table[x])] = table[value]
    return xs, ys, matrix


def _heat(
    ax: Axes,
    xs: np.ndarray,
    ys: np.ndarray,
    matrix: np.ndarray,
    label: str,
    *,
    scales: tuple[str, str] = ("log", "log"),
    **options: object,
):
    ax.grid(False)
    ax.set_xscale(scales[0])  # before any contour: its labels cut the lines on screen
    ax.set_yscale(scales[1], **({"linthresh": 0.05} if scales[1] == "symlog" else {}))
    shading = "gouraud" if np.isfinite(matrix).all() and "norm" not in options else "nearest"
    result = ax.pcolormesh(xs, ys, matrix, shading=shading, rasterized=True, **options)
    bar = ax.figure.colorbar(result, ax=ax, pad=0.02)
    bar.set_label(label)
    return result


def phase_coupled(table: Table, mode: Mode, *, ax: Axes | None = None) -> Axes:
    """Leaked information of dual KL over beta and gamma, with the thresholds of dual KL and ELBO (T5, T6)."""
    ax = axes(ax)
    xs, ys, nats = grid(table, "beta", "gamma", "leaked_nats")
    _heat(ax, xs, ys, nats, "leaked information, dual KL [nats]", cmap=PALE, vmin=0)
    _levels(ax, xs, ys, nats, [0.05, 0.2, 0.5, 0.8])
    excess = grid(table, "beta", "gamma", "excess")[2]
    ax.contour(xs, ys, excess, levels=[0.0], colors=[METHODS["amvl"].colour], linewidths=2.2)
    h, v0, gbar, alpha = mode.curvature, mode.force_var, mode.force_mean, mode.anchor
    top, bottom = 2 * (v0 + gbar**2) / h, 2 * v0 / h
    for level, x, text, side in ((top, xs[0], " 2 (v0 + ḡ²)/h", "left"), (bottom, xs[-1], "2 v0/h ", "right")):
        ax.axhline(level, **RULE)
        ax.text(x, level, text, ha=side, va="bottom" if side == "left" else "top")
    ax.text(np.sqrt(xs[0] * xs[-1]), np.sqrt(top * ys[-1]), "no leak above γ$_c$", ha="center", va="center", bbox=BOX)
    critical = (v0 + (gbar * alpha / (h + alpha)) ** 2) / h
    ax.axvline(critical, **look("elbo"))
    several = grid(table, "beta", "gamma", "roots")[2] > 1
    if several.any():
        ax.contourf(xs, ys, several.astype(float), levels=[0.5, 1.5], colors="none", hatches=["//"])
    ax.set(
        xlabel="weight of the forward KL, β [1]", ylabel="weight of the reverse KL, γ [1]",
        title="Coupled game: both weights act through the mean",
    )  # fmt: skip
    threshold = Line2D([], [], color=METHODS["amvl"].colour, linewidth=2.2, label="γ$_c$ of dual KL")
    return _below(ax, [threshold, Line2D([], [], **look("elbo"), label="β$_c$ of the ELBO")])


def phase_plane(table: Table, *, ax: Axes | None = None) -> Axes:
    """Which leaks more: dual KL at gamma or the ELBO at beta (T6)."""
    ax = axes(ax)
    xs, ys, gap = grid(table, "gamma_h_over_v0", "beta_h_over_v0", "difference")
    _heat(ax, xs, ys, gap, "dual KL minus ELBO [nats]", cmap=PALE_SIGNED, vmin=-2.0, vmax=2.0)
    both = sum(grid(table, "gamma_h_over_v0", "beta_h_over_v0", f"{name}_nats")[2] for name in ("amvl", "elbo"))
    _levels(ax, xs, ys, gap, [-1.5, -1.0, -0.5, 0.5])
    ax.contour(xs, ys, np.where(both > 0, gap, np.nan), levels=[0.0], colors="black", linewidths=2.0)
    equal = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
    ax.plot(xs, xs, **equal)
    ax.axvline(2.0, **look("amvl"))
    ax.axhline(1.0, **look("elbo"))
    cross = EQUAL_WEIGHT_CROSSOVER
    ax.plot(cross, cross, marker="o", color="black", markersize=5)
    ax.annotate("2/φ²", (cross, cross), xytext=(7, -11), textcoords="offset points")
    for x, y, text in (
        (0.45, 0.13, "dual KL\nleaks less"),
        (0.2, 0.74, "ELBO\nleaks less"),
        (0.4, 2.0, "only dual\nKL leaks"),
        (2.83, 1.5, "none"),
        (2.83, 0.225, "only\nELBO"),
    ):
        ax.text(x, y, text, ha="center", va="center")
    ax.set(
        xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]), xlabel="γ h / v0 of dual KL [1]", ylabel="β h / v0 of the ELBO [1]",
        title="Which objective leaks more, at its own weight",
    )  # fmt: skip
    return _below(
        ax,
        [
            Line2D([], [], **look("amvl"), label="γ$_c$ = 2 v0/h"),
            Line2D([], [], **look("elbo"), label="β$_c$ = v0/h"),
            Line2D([], [], color="black", linewidth=2.0, label="equal leakage"),
            Line2D([], [], **equal, label="equal weights"),
        ],
    )


def _levels(ax: Axes, xs: np.ndarray, ys: np.ndarray, matrix: np.ndarray, levels: Sequence[float]) -> None:
    """Thin black contours with their values."""
    lines = ax.contour(xs, ys, matrix, levels=levels, colors="black", linewidths=0.6, linestyles="-")
    ax.clabel(lines, fontsize=matplotlib.rcParams["legend.fontsize"], fmt=lambda level: f"{level:g}".replace("-", "−"))


def _below(ax: Axes, handles: Sequence[Line2D]) -> Axes:
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return ax


def stability(
    table: Table, value: str, title: str, label: str, *, ax: Axes | None = None, mark: tuple[float, float] | None = None
) -> Axes:
    """A rate or a step over eta_p/eta_q and gamma, a contour a decade; the region without stability is hatched (T7)."""
    ax = axes(ax)
    xs, ys, matrix = grid(table, "eta_ratio", "gamma", value)
    stable = matrix > 0
    shown = np.where(stable, matrix, np.nan)
    low, high = np.floor(np.log10(np.nanmin(shown))), np.ceil(np.log10(np.nanmax(shown)))
    ax.grid(False)
    ax.set(xscale="log", yscale="log")
    decades = 10.0 ** np.arange(low, high + 1)
    scale: dict[str, Any] = {"norm": LogNorm(decades[0], decades[-1]), "cmap": PALE}
    bands = ax.contourf(xs, ys, shown, levels=10.0 ** np.arange(low, high + 0.1, 0.1), **scale)
    bands.set_rasterized(True)
    bar = ax.figure.colorbar(ScalarMappable(**scale), ax=ax, pad=0.02)
    bar.set_label(label)
    lines = ax.contour(xs, ys, shown, levels=decades, colors="black", linewidths=0.6)
    ax.clabel(
        lines, fontsize=matplotlib.rcParams["legend.fontsize"], fmt=lambda level: f"$10^{{{np.log10(level):.0f}}}$"
    )
    if not stable.all():
        ax.contourf(xs, ys, stable.astype(float), levels=[-0.5, 0.5], colors="white", hatches=["///"])
        middle = np.sqrt(np.prod(ys[(~stable).any(axis=1)][[0, -1]]))
        ax.text(xs[0] * 1.5, middle, "unstable", va="center", bbox=BOX | {"alpha": 1.0})
    if mark is not None:
        ax.plot(*mark, marker="*", markersize=13, color="black", markeredgecolor="white", linestyle="none")
        ax.annotate("published instance", mark, (9, 3), textcoords="offset points", bbox=BOX | {"alpha": 1.0})
    ax.set(
        xlabel="rate of the prior / rate of the posterior [1]", ylabel="weight of the reverse KL, γ [1]", title=title
    )
    return ax


def error_map(
    table: Table,
    x: str,
    y: str,
    *,
    labels: tuple[str, str],
    title: str,
    bar: str,
    scales: tuple[str, str],
    value: str = "error",
    ax: Axes | None = None,
) -> Axes:
    """Error of the linear theory (closed form / exact - 1) over two parameters, with the 10 % contour (T9).

    Dotted below -5 %, crossed where several equilibria can coexist and the error is unknown.
    """
    ax = axes(ax)
    xs, ys, matrix = grid(table, x, y, value)
    norm = BoundaryNorm(ERROR_LEVELS, 256, extend="both")
    _heat(ax, xs, ys, matrix, bar, cmap=PALE_SIGNED, norm=norm, scales=scales)
    below = np.where(np.isfinite(matrix), matrix, 0.0) < ERROR_LEVELS[4]
    if below.any():  # dotted, so that greyscale shows the sign
        ax.contourf(xs, ys, below.astype(float), levels=[0.5, 1.5], colors="none", hatches=[".."])
    lost = ~np.isfinite(matrix)
    if lost.any():
        ax.contourf(xs, ys, lost.astype(float), levels=[0.5, 1.5], colors="none", hatches=["xxx"])
    size = np.abs(np.where(lost, np.nan, matrix))
    lines = ax.contour(xs, ys, size, levels=[0.1], colors="black", linewidths=2.2)
    ax.clabel(lines, fontsize=8, fmt=lambda level: f"{100 * level:.0f} %")
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    return ax
