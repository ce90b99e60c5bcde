"""Line figures: tables of `curves.py` to Axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from amvl_theory import EQUAL_WEIGHT_CROSSOVER
from experiments.leakage.report import Table
from experiments.leakage.style import COLOURS, MARKERS, OBJECTIVES, axes, look, marks


def contamination(table: Table, *, ax: Axes | None = None) -> Axes:
    """Contamination against gamma for several absorptions; markers are simulations (T3)."""
    ax = axes(ax)
    for i, s in enumerate(np.unique(table["absorption"])):
        rows = table["absorption"] == s
        gamma = table["gamma"][rows]
        ax.plot(gamma, table["contamination"][rows], label=f"s = {s:g}", **look(i))
        ax.plot(gamma, table["simulated"][rows], **marks(i))
    ax.plot([], [], marker="o", linestyle="none", color="#444444", markerfacecolor="white", label="simulation")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("weight of the reverse KL, gamma [1]")
    ax.set_ylabel("prior contamination c [latent]")
    ax.set_title("Only absorption below 1 lets gamma act")
    ax.legend(ncols=2, loc="upper right")
    return _headroom(ax, 1.32)


def order_contamination(table: Table, *, ax: Axes | None = None, column: str = "contamination") -> Axes:
    """Contamination, or the posterior shift, in time under the three orders (T7)."""
    ax = axes(ax)
    for i, order in enumerate(dict.fromkeys(table["order"].tolist())):
        rows = table["order"] == order
        ax.plot(table["time"][rows], table[column][rows], label=order, **look(i))
        if column == "contamination":
            ax.plot(table["time"][rows], table["simulated"][rows], **marks(i))
    if column == "contamination":
        ax.plot([], [], marker="o", linestyle="none", color="#444444", markerfacecolor="white", label="simulation")
    ax.set_xlabel("time [rate x steps]")
    name = "prior contamination c" if column == "contamination" else "posterior shift dbar"
    ax.set_ylabel(f"{name} [latent]")
    ax.set_title("Contamination under three orders" if column == "contamination" else "What the prior follows")
    ax.set_ylim(bottom=0)
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
    ax.plot([], [], color="#444444", linewidth=2.8, label="thick: beta")
    ax.plot([], [], color="#444444", linewidth=1.2, label="thin: gamma")
    ax.set_xlabel("time [rate x steps]")
    ax.set_ylabel("loss weight [1]")
    ax.set_title("Schedules")
    ax.legend(loc="lower right")
    return ax


def leakage(table: Table, *, ax: Axes | None = None) -> Axes:
    """Leaked information against the weight over v0/h: dual KL and ELBO, channel value, exact value, simulation (T6)."""
    ax = axes(ax)
    x = table["weight_h_over_v0"]
    for objective in ("dual", "elbo"):
        name, i = OBJECTIVES[objective]
        ax.plot(x, table[f"{objective}_nats"], label=f"{name}, Gaussian channel", **look(i))
        ax.plot(x, table[f"{objective}_simulated_nats"], label=f"{name}, simulated", **marks(i))
        ax.plot(
            x,
            table[f"{objective}_exact_nats"],
            color=COLOURS[i],
            linewidth=0.9,
            linestyle="-",
            label=f"{name}, two answers, exact",
        )
    ax.axhline(np.log(2), color="#777777", linewidth=0.8)
    ax.annotate(
        "log 2, entropy of the answer",
        (2.5, np.log(2)),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    top = 2.9
    for weight, text in ((1.0, "beta_c"), (2.0, "gamma_c"), (EQUAL_WEIGHT_CROSSOVER, "2/phi^2")):
        ax.axvline(weight, color="#777777", linewidth=0.9, linestyle=(0, (2, 2)))
        ax.annotate(text, (weight, 0.68 * top), rotation=90, ha="right", va="top", fontsize=8.5)
    ax.set_xscale("log")
    ax.set_ylim(0, top)
    ax.set_xlim(0.01, 2.6)
    ax.set_xlabel("weight x h / v0 [1]   (gamma for dual KL, beta for ELBO)")
    ax.set_ylabel("leaked information [nats]")
    ax.set_title("Leaked information at equal weight")
    ax.legend(loc="upper left", bbox_to_anchor=(0.27, 1.0))
    return ax


def objectives(table: Table, mode: str, title: str, *, ax: Axes | None = None) -> Axes:
    """All equilibrium contaminations of the three objectives, variances free; open markers are unstable (T5)."""
    ax = axes(ax)
    for objective in ("fwd", "elbo", "dual"):
        name, i = OBJECTIVES[objective]
        rows = (table["mode"] == mode) & (table["objective"] == objective)
        gamma, c, stable = (table[key][rows] for key in ("gamma", "contamination", "stable"))
        for number in range(max(int(np.unique(gamma, return_counts=True)[1].max()), 1)):
            _branches(ax, gamma, c, stable, number, i, name)
        ax.plot(gamma, table["simulated"][rows], **marks(i))
    if not table["stable"][table["mode"] == mode].all():
        ax.plot([], [], color="#444444", linewidth=1.0, linestyle=(0, (1, 3)), label="unstable root")
    ax.plot([], [], marker="o", linestyle="none", color="#444444", markerfacecolor="white", label="simulation")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("weight of the reverse KL, gamma [1]")
    ax.set_ylabel("prior contamination c [latent]")
    ax.set_title(title)
    ax.legend(loc="best")
    return ax


def _branches(ax: Axes, gamma: np.ndarray, c: np.ndarray, stable: np.ndarray, number: int, i: int, name: str) -> None:
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
    width = 3.4 if i == 1 else 1.8  # the ELBO lies on forward-only, which shows around it
    for k, ((_, still), line) in enumerate(points.items()):
        x, y = zip(*line, strict=True)
        shape = (
            {**look(i), "linewidth": width}
            if still
            else {"color": look(i)["color"], "linewidth": 1.0, "linestyle": (0, (1, 3))}
        )
        ax.plot(x, y, label=name if number == 0 and k == 0 else None, **shape)


def finite_sample(table: Table, *, ax: Axes | None = None) -> Axes:
    """Contamination of a fresh question by label noise against the number of questions (T8)."""
    ax = axes(ax)
    for i, gamma in enumerate(np.unique(table["gamma"])):
        rows = table["gamma"] == gamma
        n = table["questions"][rows]
        ax.plot(n, table["variance"][rows], label=f"gamma = {gamma:g}", **look(i))
        ax.errorbar(
            n, table["simulated"][rows], 2 * table["standard_error"][rows], **{**marks(i), "linewidth": 1.0}, capsize=2
        )
    ax.plot(
        [],
        [],
        marker="o",
        linestyle="none",
        color="#444444",
        markerfacecolor="white",
        label="descent, random labels\n(+-2 standard errors)",
    )
    ax.axvline(10, color="#777777", linewidth=0.9, linestyle=(0, (2, 2)))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(top=8)
    ax.set_xlabel("questions n [1]   (p = 10 features)")
    ax.set_ylabel("variance of c caused by label noise [latent^2]")
    ax.annotate(
        "n = p", (10, 0.99), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top", fontsize=8.5
    )
    ax.set_title("Label noise in a fresh question's prior")
    ax.legend(loc="lower left")
    return ax


def double_descent(table: Table, *, ax: Axes | None = None) -> Axes:
    """Excess loss by label noise against n, with and without ridge: the peak at n = p (T8)."""
    ax = axes(ax)
    for i, ridge in enumerate(np.unique(table["ridge"])):
        rows = table["ridge"] == ridge
        n = table["questions"][rows]
        name = "no ridge" if ridge == 0 else f"rho_eff = {ridge:g}"
        ax.plot(n, table["noise_nats"][rows], label=name, **look(i))
        ax.errorbar(
            n, table["simulated"][rows], 2 * table["standard_error"][rows], **{**marks(i), "linewidth": 1.0}, capsize=2
        )
    ax.axvline(20, color="#777777", linewidth=0.9, linestyle=(0, (2, 2)))
    ax.annotate("n = p", (20, 0.02), rotation=90, ha="right", va="bottom", fontsize=8.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(0.015, 40)
    ax.set_xlabel("questions n [1]   (p = 20 features)")
    ax.set_ylabel("excess answer loss by label noise [nats]")
    ax.set_title("Double descent; gamma multiplies the ridge")
    ax.legend(loc="upper right")
    return ax


def best_gamma(table: Table, *, ax: Axes | None = None) -> Axes:
    """Bias, noise and total excess loss against gamma; the vertical line is the closed form's optimum (T8)."""
    ax = axes(ax)
    for i, (key, name) in enumerate(
        (("total_nats", "total"), ("noise_nats", "label noise kept"), ("bias_nats", "signal lost"))
    ):
        ax.plot(table["gamma"], table[key], label=name, **look(i))
    best = float(table["best_gamma"][0])
    ax.axvline(best, color="#777777", linewidth=0.9, linestyle=(0, (2, 2)))
    ax.plot(
        best,
        np.interp(best, table["gamma"], table["total_nats"]),
        marker=MARKERS[3],
        color="black",
        linestyle="none",
        label=f"optimal gamma = {best:.3g}",
    )
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("weight of the reverse KL, gamma [1]")
    ax.set_ylabel("excess answer loss [nats]")
    ax.set_title("Bias and variance in gamma (n = 24, p = 16)")
    ax.legend(loc="upper center")
    return ax


def _headroom(ax: Axes, factor: float) -> Axes:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * factor)
    return ax
