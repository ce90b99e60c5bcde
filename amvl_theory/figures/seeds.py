"""Figures of T10 to T12: tables and panels, theory as lines, simulated seeds as marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

import amvl_theory as theory
from amvl_style import METHODS, RULE, SIMULATION, Look, axes, graded, look, marks
from amvl_theory.verification.core import Table
from amvl_theory.verification.evidence.in_motion import collapse_shares

THIN = {"linewidth": 0.8, "linestyle": (0, (1, 1))}
"""What tells a limit from the path that tends to it."""


def _stacked(rows: list[dict[str, np.ndarray]]) -> Table:
    return {name: np.concatenate([np.atleast_1d(row[name]) for row in rows]) for name in rows[0]}


def widening_paths(seeds: int) -> Table:
    """Posterior variance and leaked nats in time at a gap that no head can close, flow and sampled KLs (T10)."""
    times, rates, rows = np.arange(0, 601, 20), theory.HeadRates(0.01, 0.01, 0.0, 0.0), []
    seen = times[5::5]
    for gamma in (0.01, 0.1, 1.0):
        common = {"fixed_gap_var": 0.3, "gamma": gamma, "rates": rates}
        path = theory.widening(times, gap=0.0, beta=1.0, posterior_std=0.5, prior_std=0.7, **common)  # type: ignore[arg-type]
        result = np.full(times.size, np.nan)
        result[5::5] = [
            theory.run_widening(gap=0.0, stds=(0.5, 0.7), seeds=seeds, steps=int(t), seed=1, **common)[0].mean()  # type: ignore[arg-type]
            for t in seen
        ]
        rows.append(
            {
                "gamma": np.full(times.size, gamma),
                "step": times,
                "posterior_var": path.posterior_var,
                "leaked_nats": path.leaked_nats,
                "simulated": result,
            }
        )
    return _stacked(rows)


def growth_rates(seeds: int) -> Table:
    """r against gamma at three widths, and the growth of the mean over seeds on minibatches that start in the mode (T11)."""
    gamma, rows = np.concatenate([[0.0], np.geomspace(0.001, 2.0, 41)]), []
    model = theory.ReadingModel(decoder_rate=0.02, posterior_rate=0.02)
    for std in (0.2, 0.4, 0.8):
        rate = theory.reading_rate(model, std**2, gamma)
        lean = model.decoder_rate * model.gain / (rate + model.damping(std**2, 0.0)[0])  # w/a in the growing mode
        result = np.full(gamma.size, np.nan)
        for i in (1, 9, 17, 25, 33, 41):
            leak = 0.075 * std / np.hypot(1.0, lean[i])
            begin = theory.Start(leak * lean[i], leak, std, std)
            ensemble = theory.Ensemble(seeds, 16, start=begin, decoder_std=0.0, leak_std=0.0)
            run = theory.run_ensemble(ensemble, float(gamma[i]), steps=120, record=[120], seed=3)
            result[i] = np.log(run.decoder_gain[0].mean() / begin.decoder_gain) / 120
        rows.append(
            {
                "posterior_std": np.full(gamma.size, std),
                "gamma": gamma,
                "rate": rate,
                "simulated": result,
            }
        )
    return _stacked(rows)


def collapse_against_budget(seeds: int) -> Table:
    """Share of seeds that have come to read the leak against the budget (T11)."""
    record, rows = np.arange(100, 901, 50), []
    for gamma in (0.0, 0.02, 0.05, 0.1):
        result, expected, error = collapse_shares(gamma, 0.4, record, seeds, 11)
        rows.append(
            {
                "gamma": np.full(record.size, gamma),
                "budget": record,
                "share": expected,
                "simulated": result,
                "standard_error": error,
            }
        )
    return _stacked(rows)


def holding_weights() -> Table:
    """gamma*(T) for three tolerated shares (T11)."""
    budgets, rows = np.linspace(100, 2000, 61), []
    model = theory.ReadingModel(decoder_rate=0.02, posterior_rate=0.02)
    for share in (0.01, 0.1, 0.5):
        held = theory.holding_weight(budgets, probability=share, critical=15.0, model=model, variance=0.16)
        rows.append({"share": np.full(budgets.size, share), "budget": budgets, "gamma": held})
    return _stacked(rows)


def coadapted_paths() -> Table:
    """rho and sigma_p in time, dual KL and ELBO, and their limits (T12)."""
    times, rows, model = np.geomspace(10, 1e5, 81), [], theory.ReadingModel(1.0, 1.0)
    for name, weight in (("amvl", 0.02), ("amvl", 0.1), ("elbo", 0.1)):
        path = theory.coadapted_trajectory(
            times, model=model, gamma=weight, beta=weight if name == "elbo" else 1.0, objective=name,  # type: ignore[arg-type]
            start=theory.Start(0.1, 0.1, 0.3, 0.3),
        )  # fmt: skip
        limit = theory.coadapted_asymptotics(model, weight, objective=name)  # type: ignore[arg-type]
        rows.append(
            {
                "objective": np.full(times.size, name),
                "weight": np.full(times.size, weight),
                "step": times,
                "snr": path.snr,
                "snr_limit": np.full(times.size, limit.snr),
                "prior_std": np.sqrt(path.prior_var),
                "prior_std_limit": np.sqrt(limit.prior_var_rate * times)
                if name == "amvl"
                else np.full(times.size, np.nan),
            }
        )
    return _stacked(rows)


def starving_paths(seeds: int) -> Table:
    """Accuracy with prior latents, gamma raised from 0.02 half-way or kept (logistic decoder)."""
    steps, route, rows = 6000, theory.XRoute(1.0, 1.0, 0.01), []
    times, start = np.arange(0, steps + 1, 50), theory.Start(0.05, 0.05, 0.5, 0.5)
    for raised in (0.02, 0.6):
        weights = np.where(np.arange(steps + 1) < steps // 2, 0.02, raised)
        path = theory.coadapted_trajectory(
            times, model=theory.ReadingModel(decoder_rate=0.02, posterior_rate=0.02), gamma=weights[times],
            std_rates=(0.02, 0.02), decoder="logistic", route=route, start=start,
        )  # fmt: skip
        ensemble = theory.Ensemble(seeds, 16, start=start, decoder_std=0.0, leak_std=0.0, route=route)
        seen = times[10::10]
        run = theory.run_ensemble(ensemble, weights[:-1], steps=steps, record=seen, seed=2)
        accuracy = np.full(times.size, np.nan)
        accuracy[10::10] = theory.accuracy_with_prior_latents(run, route).mean(axis=1)  # type: ignore[arg-type]
        rows.append(
            {
                "raised_to": np.full(times.size, raised),
                "step": times,
                "accuracy": theory.accuracy_with_prior_latents(path, route),
                "simulated": accuracy,
            }
        )
    return _stacked(rows)


def lines(
    table: Table,
    key: str,
    x: str,
    y: str,
    *,
    ax: Axes | None = None,
    name: str = "{:g}",
    seen: str | None = None,
    limit: str | None = None,
    looks: Sequence[Look] | None = None,
    loc: str = "best",
    **labels: str,
) -> Axes:
    """One line per value of `key`, darker as it rises; simulated seeds as marks, limits thin; `labels` go to the Axes."""
    ax = axes(ax)
    values = dict.fromkeys(table[key].tolist())
    for shown, value in zip(looks or graded(len(values)), values, strict=True):
        rows = table[key] == value
        ax.plot(table[x][rows], table[y][rows], label=name.format(value), **look(shown))
        if seen is not None:
            ax.plot(table[x][rows], table[seen][rows], **marks(shown))
        if limit is not None:
            ax.plot(table[x][rows], table[limit][rows], **look(shown) | THIN)
    if seen is not None:
        ax.plot([], [], **SIMULATION | {"label": "seeds"})
    if limit is not None:
        ax.plot([], [], color=RULE["color"], label="limit", **THIN)
    ax.set(**labels)
    ax.legend(loc=loc)
    return ax


def coadapted_panel(table: Table, value: str, *, ax: Axes | None = None, **labels: str) -> Axes:
    """The leak (`snr`) or the prior's width (`prior_std`) in time under both objectives; thin dotted lines are limits."""
    names = {"amvl": "dual KL, γ", "elbo": "ELBO, β"}
    runs = np.array([f"{names[o]} = {w:g}" for o, w in zip(table["objective"], table["weight"], strict=True)])
    return lines(
        {**table, "run": runs}, "run", "step", value, ax=ax, name="{}", limit=f"{value}_limit",
        looks=[*graded(2, "amvl"), METHODS["elbo"]], xlabel="time [steps]", xscale="log", yscale="log", **labels,
    )  # fmt: skip


def growth_panel(table: Table, *, ax: Axes | None = None) -> Axes:
    """Growth rate against gamma; the threshold is 1 whatever the width."""
    ax = lines(
        table, "posterior_std", "gamma", "rate", ax=ax, name="σ$_q$ = {:g}", seen="simulated",
        xlabel="weight of the reverse KL, γ [1]", ylabel="growth rate r [1/step]", title="Reading grows below γ = 1",
    )  # fmt: skip
    ax.set_xscale("symlog", linthresh=0.001)
    ax.set_xlim(left=0)
    ax.axhline(0.0, color="black", linewidth=0.6)
    ax.axvline(1.0, **RULE)
    return ax


def starving_panel(table: Table, *, ax: Axes | None = None) -> Axes:
    """Accuracy with prior latents in time."""
    ax = lines(
        table, "raised_to", "step", "accuracy", ax=ax, name="γ 0.02 → {:g}", seen="simulated",
        xlabel="time [steps]", ylabel="accuracy with prior latents [1]", title="The leak starves the route from x",
        loc="center right",
    )  # fmt: skip
    ax.axhline(float(theory.prior_latent_accuracy(1.0, 0.0)), **RULE, label="without a leak")
    ax.legend(loc="center right")
    return ax
