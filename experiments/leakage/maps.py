"""Map figures: tables of `curves.py` over two parameters to Axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.lines import Line2D

from experiments.leakage.curves import Mode
from experiments.leakage.report import Table
from experiments.leakage.style import COLOURS, SEQUENTIAL, SIGNED, axes

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
    found = ax.pcolormesh(xs, ys, matrix, shading=shading, rasterized=True, **options)
    bar = ax.figure.colorbar(found, ax=ax, pad=0.02)
    bar.set_label(label)
    return found


def phase_coupled(table: Table, mode: Mode, *, ax: Axes | None = None) -> Axes:
    """Leaked information of dual KL over beta and gamma, with the thresholds of dual KL and ELBO (T5, T6)."""
    ax = axes(ax)
    xs, ys, nats = grid(table, "beta", "gamma", "leaked_nats")
    _heat(ax, xs, ys, nats, "leaked information, dual KL [nats]", cmap=SEQUENTIAL, vmin=0)
    lines = ax.contour(xs, ys, nats, levels=[0.05, 0.2, 0.5, 0.8], colors="white", linewidths=0.8)
    ax.clabel(lines, fontsize=8, fmt="%g")
    ax.contour(xs, ys, grid(table, "beta", "gamma", "excess")[2], levels=[0.0], colors=[COLOURS[1]], linewidths=2.2)
    h, v0, gbar, alpha = mode.curvature, mode.force_var, mode.force_mean, mode.anchor
    for level in (2 * v0 / h, 2 * (v0 + gbar**2) / h):
        ax.axhline(level, color="white", linestyle=(0, (2, 2)), linewidth=1.1)
    ax.annotate(
        "2 v0/h",
        (xs[-1], 2 * v0 / h),
        xytext=(-4, -11),
        textcoords="offset points",
        color="white",
        ha="right",
        fontsize=9,
    )
    ax.annotate(
        "2 (v0 + gbar^2)/h",
        (xs[0], 2 * (v0 + gbar**2) / h),
        xytext=(4, 4),
        textcoords="offset points",
        color="white",
        fontsize=9,
    )
    critical = (v0 + (gbar * alpha / (h + alpha)) ** 2) / h
    ax.axvline(critical, color=COLOURS[5], linestyle=(0, (6, 2)), linewidth=2.0)
    several = grid(table, "beta", "gamma", "roots")[2] > 1
    if several.any():
        ax.contourf(xs, ys, several.astype(float), levels=[0.5, 1.5], colors="none", hatches=["//"])
    ax.set_xlabel("weight of the forward KL, beta [1]")
    ax.set_ylabel("weight of the reverse KL, gamma [1]")
    ax.set_title("Coupled game: both weights act through the mean")
    ax.legend(
        handles=[
            Line2D([], [], color=COLOURS[1], linewidth=2.2, label="gamma_c of dual KL"),
            Line2D([], [], color=COLOURS[5], linewidth=2.0, linestyle=(0, (6, 2)), label="beta_c of the ELBO"),
        ],
        loc="lower left",
        frameon=True,
    )
    return ax


def phase_plane(table: Table, *, ax: Axes | None = None) -> Axes:
    """Which leaks more: dual KL at gamma or the ELBO at beta (T6)."""
    ax = axes(ax)
    xs, ys, gap = grid(table, "gamma_h_over_v0", "beta_h_over_v0", "difference")
    _heat(ax, xs, ys, gap, "dual KL minus ELBO [nats]", cmap=SIGNED, vmin=-1.5, vmax=1.5)
    total = (
        grid(table, "gamma_h_over_v0", "beta_h_over_v0", "dual_nats")[2]
        + grid(table, "gamma_h_over_v0", "beta_h_over_v0", "elbo_nats")[2]
    )
    lines = ax.contour(xs, ys, gap, levels=[-1.0, -0.5, -0.2, 0.2, 0.5], colors="#444444", linewidths=0.7)
    ax.clabel(lines, fontsize=8, fmt="%g")
    ax.contour(xs, ys, np.where(total > 0, gap, np.nan), levels=[0.0], colors="black", linewidths=2.0)
    ax.plot(xs, xs, color="black", linewidth=0.9, linestyle=(0, (1, 1.5)))
    ax.axvline(2.0, color=COLOURS[0], linewidth=2.0)
    ax.axhline(1.0, color=COLOURS[1], linewidth=2.0, linestyle=(0, (6, 2)))
    cross = 0.7639320225
    ax.plot(cross, cross, marker="o", color="black", markersize=6)
    ax.annotate("2/phi^2", (cross, cross), xytext=(9, -8), textcoords="offset points", fontsize=9)
    ax.annotate("dual KL\nleaks less", (0.45, 0.13), fontsize=9)
    ax.annotate("only dual KL leaks", (0.12, 2.7), fontsize=9)
    ax.annotate("neither", (2.15, 1.25), fontsize=9)
    ax.annotate("only\nELBO", (2.15, 0.045), fontsize=9)
    ax.set_xlim(xs[0], xs[-1])
    ax.set_ylim(ys[0], ys[-1])
    ax.set_xlabel("gamma h / v0 of dual KL [1]")
    ax.set_ylabel("beta h / v0 of the ELBO [1]")
    ax.set_title("Which objective leaks more, at its own weight")
    ax.legend(
        handles=[
            Line2D([], [], color=COLOURS[0], linewidth=2.0, label="gamma_c = 2 v0/h"),
            Line2D([], [], color=COLOURS[1], linewidth=2.0, linestyle=(0, (6, 2)), label="beta_c = v0/h"),
            Line2D([], [], color="black", linewidth=2.0, label="equal leakage"),
            Line2D([], [], color="black", linewidth=0.9, linestyle=(0, (1, 1.5)), label="equal weights"),
        ],
        loc="lower right",
        bbox_to_anchor=(0.8, 0.0),
        frameon=True,
    )
    return ax


def stability(
    table: Table, value: str, title: str, label: str, *, ax: Axes | None = None, mark: tuple[float, float] | None = None
) -> Axes:
    """A rate or a step over eta_p/eta_q and gamma; the region without stability is hatched (T7)."""
    ax = axes(ax)
    xs, ys, matrix = grid(table, "eta_ratio", "gamma", value)
    stable = matrix > 0
    shown = np.where(stable, np.log10(np.maximum(matrix, 1e-12)), np.nan)
    _heat(ax, xs, ys, shown, f"log10 of {label}", cmap=SEQUENTIAL)
    lines = ax.contour(xs, ys, shown, levels=8, colors="white", linewidths=0.6)
    ax.clabel(lines, fontsize=8, fmt="%.2g")
    if not stable.all():
        ax.contourf(xs, ys, (~stable).astype(float), levels=[0.5, 1.5], colors="none", hatches=["xxx"])
        ax.contour(xs, ys, (~stable).astype(float), levels=[0.5], colors=[COLOURS[1]], linewidths=2.0)
    if mark is not None:
        ax.plot(*mark, marker="*", markersize=15, color=COLOURS[1], markeredgecolor="black", linestyle="none")
        ax.annotate(
            "published instance:\nunstable",
            mark,
            xytext=(10, -30),
            textcoords="offset points",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    ax.set_xlabel("rate of the prior / rate of the posterior [1]")
    ax.set_ylabel("weight of the reverse KL, gamma [1]")
    ax.set_title(title)
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
    _heat(ax, xs, ys, matrix, bar, cmap=SIGNED, norm=norm, scales=scales)
    below = np.where(np.isfinite(matrix), matrix, 0.0) < ERROR_LEVELS[4]
    if below.any():  # dotted, so that greyscale shows the sign
        ax.contourf(xs, ys, below.astype(float), levels=[0.5, 1.5], colors="none", hatches=[".."])
    lost = ~np.isfinite(matrix)
    if lost.any():
        ax.contourf(xs, ys, lost.astype(float), levels=[0.5, 1.5], colors="none", hatches=["xxx"])
    size = np.abs(np.where(lost, np.nan, matrix))
    lines = ax.contour(xs, ys, size, levels=[0.1], colors="black", linewidths=2.2)
    ax.clabel(lines, fontsize=9, fmt=lambda level: f"{100 * level:.0f} %")
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.set_title(title)
    return ax
