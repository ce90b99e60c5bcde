"""The numbers behind every figure, as tables of columns of equal length (NaN where there is nothing, an empty cell in CSV)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amvl_theory import (
    AmortisedModel,
    ForceStatistics,
    GaussianGame,
    MeanLeakageModel,
    MixtureGame,
    Schedule,
    average_risk,
    closed_form_error_map,
    critical_weight,
    equilibrium_by_simulation,
    exact_leaked_information,
    excess_risk,
    free_contamination,
    initial_state,
    mixture_equilibrium,
    mode_contamination,
    noise_contamination,
    optimal_gamma,
    ridgeless_noise,
    saturating_error_map,
    scheduled_trajectory,
    self_consistent_spread,
)
from amvl_theory.checks import OBJECTIVES, Array, not_negative, positive
from amvl_theory.dynamics.stability import UNSTABLE_EXAMPLE, game_matrix
from amvl_theory.verification.core import Table
from amvl_theory.verification.evidence.learnt import descend
from amvl_theory.verification.evidence.motion import ORDERS, simulated_order

BALANCED = np.array([[[1.0], [-1.0]]])
ABSORPTIONS = (0.1, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The one mode that the figures show.

    Attributes:
        curvature: h. force_mean, force_var: gbar, v0. posterior_precision, prior_precision: lambda_q, lambda_p (fixed-variance
        figures). anchor: alpha. beta: forward weight. gamma: reverse weights at which simulations are made, rising.

    Raises:
        ValueError: naming the argument out of range.
    """

    curvature: float = 1.3
    force_mean: float = 0.8
    force_var: float = 1.0
    posterior_precision: float = 1.0
    prior_precision: float = 1.0
    anchor: float = 0.6
    beta: float = 0.7
    gamma: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

    def __post_init__(self) -> None:
        for name in ("curvature", "force_var", "posterior_precision", "prior_precision", "anchor", "beta"):
            positive(name, getattr(self, name))
        if not np.isfinite(self.force_mean) or self.force_mean == 0:
            raise ValueError(f"force_mean: expected a finite number other than 0, received {self.force_mean}")
        grid = not_negative("gamma", self.gamma)
        if grid.ndim != 1 or len(grid) < 2 or (np.diff(grid) <= 0).any() or grid[0] <= 0:
            raise ValueError(f"gamma: expected two or more rising numbers above 0, received {list(self.gamma)}")

    @property
    def model(self) -> MeanLeakageModel:
        """The same mode with fixed variances and one answer."""
        return MeanLeakageModel(
            self.curvature, [self.force_mean], 0.0, self.posterior_precision, self.prior_precision, self.anchor
        )


def contamination(mode: Mode) -> Table:
    """c against gamma for several absorptions, closed form and simulation (T3)."""
    line = np.geomspace(mode.gamma[0], mode.gamma[-1], 121)
    gamma = np.union1d(line, mode.gamma)
    rows: dict[str, list[Array]] = {name: [] for name in ("absorption", "gamma", "contamination", "simulated")}
    for s in ABSORPTIONS:
        anchor = mode.beta * mode.prior_precision * (1 - s) / s
        game = GaussianGame(
            np.array([[[mode.force_mean]]]), mode.curvature, anchor, None, True, False, False, len(mode.gamma)
        )
        start = initial_state(game, posterior_var=1 / mode.posterior_precision, prior_var=1 / mode.prior_precision)
        run = equilibrium_by_simulation(
            game, beta=mode.beta, gamma=np.array(mode.gamma), initial=start, max_steps=200_000
        )
        simulated = np.full(len(gamma), np.nan)
        simulated[np.isin(gamma, mode.gamma)] = np.where(run.converged, run.state.contamination[:, 0], np.nan)
        rows["absorption"].append(np.full(len(gamma), s))
        rows["gamma"].append(gamma)
        rows["contamination"].append(
            mode_contamination(mode.force_mean, mode.curvature, mode.posterior_precision, s, gamma)
        )
        rows["simulated"].append(simulated)
    return _joined(rows)


def orders(mode: Mode, horizon: float = 10.0) -> Table:
    """Contamination and posterior shift in time under the three orders, exact and simulated (T7)."""
    model = mode.model
    times = np.linspace(0.0, horizon, 201)
    seen = times[::20]
    rows: dict[str, list[Array]] = {
        name: [] for name in ("order", "time", "beta", "gamma", "contamination", "posterior_shift", "simulated")
    }
    for order in ORDERS:
        plan = Schedule(mode.beta, 1.5, order, horizon)
        path, weights = scheduled_trajectory(model, plan, times), plan.weights(times)
        runs = [simulated_order(model, plan, seen, pace).recorded.contamination[:, 0, 0] for pace in (200, 400)]
        simulated = np.full(len(times), np.nan)
        simulated[::20] = 2 * runs[1] - runs[0]
        columns = (
            np.full(len(times), order), times, *weights, path.contamination[:, 0], path.posterior_shift[:, 0], simulated
        )  # fmt: skip
        for name, column in zip(rows, columns, strict=True):
            rows[name].append(column)
    return _joined(rows)


def phase_coupled(mode: Mode, points: int = 41) -> Table:
    """Leaked information of dual KL over both weights, means and variances free (T5, T6).

    At a root c, with E = v0 + (gbar - h c)^2: sigma_q^2 = sqrt(2 gamma/h) (sqrt E - sqrt(gamma h/2))/h, and the answers' shifts
    have the variance v0 / (h + gamma/sigma_q^2)^2. Column `excess` is E - gamma h/2 of the collapsed state, 0 at the threshold.
    """
    gbar, v0, h, alpha = mode.force_mean, mode.force_var, mode.curvature, mode.anchor
    model = MeanLeakageModel(h, gbar, v0, anchor=alpha)
    top = 2 * (v0 + gbar**2) / h
    beta, gamma = (
        x.ravel() for x in np.meshgrid(np.geomspace(0.03, 30.0, points), np.geomspace(0.01, 2.0, points) * top)
    )
    leaked, count = np.empty(beta.size), np.empty(beta.size, dtype=int)
    for i, (b, w) in enumerate(zip(beta, gamma, strict=True)):
        roots = free_contamination(model, b, w)
        c = roots.values[roots.stable][0] if roots.stable.any() else np.nan
        energy = v0 + (gbar - h * c) ** 2
        size = (np.sqrt(energy) - np.sqrt(w * h / 2)) / h
        variance = np.sqrt(2 * w / h) * max(size, 0.0)
        leaked[i] = 0.5 * np.log1p(v0 / (h + w / variance) ** 2 / variance) if variance > 0 else 0.0
        count[i] = len(roots.values)
    still = beta * gbar / (beta * h + alpha * gamma)
    excess = v0 + (gbar - h * still) ** 2 - gamma * h / 2
    return {"beta": beta, "gamma": gamma, "leaked_nats": leaked, "roots": count, "excess": excess}


def phase_plane(points: int = 81) -> Table:
    """Leaked information of dual KL at gamma minus that of the ELBO at beta, weights over v0/h (T6)."""
    weights = np.geomspace(0.02, 4.0, points)
    beta, gamma = (x.ravel() for x in np.meshgrid(weights, weights))
    dual = self_consistent_spread(1.0, 1.0, gamma, "amvl").leaked_nats
    elbo = self_consistent_spread(1.0, 1.0, beta, "elbo").leaked_nats
    return {
        "beta_h_over_v0": beta,
        "gamma_h_over_v0": gamma,
        "amvl_nats": dual,
        "elbo_nats": elbo,
        "difference": dual - elbo,
    }


def leakage(points: int = 120) -> Table:
    """Leaked nats of dual KL and ELBO against the weight over v0/h: channel value, exact for two answers, simulated (T6)."""
    marks = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.764, 0.85, 1.2, 1.6])
    weight = np.union1d(np.geomspace(0.01, 2.5, points), marks)
    table: dict[str, Array] = {"weight_h_over_v0": weight}
    for objective in ("amvl", "elbo"):
        table[f"{objective}_nats"] = self_consistent_spread(1.0, 1.0, weight, objective).leaked_nats  # type: ignore[arg-type]
        table[f"{objective}_exact_nats"] = exact_leaked_information([1.0, -1.0], 1.0, weight, objective)  # type: ignore[arg-type]
        below = marks[marks < 0.9 * float(critical_weight(1.0, 1.0, objective))]  # type: ignore[arg-type]
        beta, gamma = (0.5, below) if objective == "amvl" else (below, 0.0)
        run = equilibrium_by_simulation(
            GaussianGame(BALANCED, 1.0, instances=len(below)), objective=objective, beta=beta, gamma=gamma
        )
        ratio = run.spread_cov[:, 0, 0] / np.exp(run.state.posterior_log_var[:, 0, 0])
        simulated = np.full(len(weight), np.nan)
        simulated[np.isin(weight, below)] = 0.5 * np.log1p(ratio)
        table[f"{objective}_simulated_nats"] = simulated
    return table


def objectives(mode: Mode, points: int = 90) -> Table:
    """Contamination of forward-only, ELBO and dual KL, variances free: all roots, against the weight (T5).

    Two modes: the given one, and the bistable one (v0 = 0.01, gbar = 3, h = alpha = beta = 1). The ELBO's weight is its beta,
    which is also the forward weight of the other two, so that it is one number per mode.
    """
    rows: dict[str, list[Array]] = {
        name: [] for name in ("mode", "objective", "gamma", "contamination", "stable", "simulated")
    }
    top = 2 * (mode.force_var + mode.force_mean**2) / mode.curvature
    given = (mode.force_mean, mode.force_var, mode.curvature, mode.anchor, mode.beta)
    cases = {
        "given": (given, np.geomspace(1e-3, 1.5, points) * top),
        "bistable": ((3.0, 0.01, 1.0, 1.0, 1.0), np.geomspace(1e-4, 1.0, points)),
    }
    for name, (numbers, gammas) in cases.items():
        marks = gammas[:: points // 9][:7]
        gbar, v0, h, alpha, beta = numbers
        model = MeanLeakageModel(h, gbar, v0, anchor=alpha)
        game = GaussianGame(gbar + np.sqrt(v0) * BALANCED, h, alpha, instances=len(marks))
        for objective in OBJECTIVES:
            run = equilibrium_by_simulation(game, objective=objective, beta=beta, gamma=marks)
            ends = np.where(run.gradient_norm < 1e-8, run.state.contamination[:, 0], np.nan)
            for gamma in gammas:
                result = free_contamination(model, beta, gamma, objective)  # type: ignore[arg-type]
                seen = ends[marks == gamma][0] if (marks == gamma).any() else np.nan
                near = np.abs(result.values - seen).argmin() if np.isfinite(seen) else -1
                size = len(result.values)
                columns = (
                    np.full(size, name), np.full(size, objective), np.full(size, gamma), result.values,
                    result.stable.astype(int), np.where(np.arange(size) == near, seen, np.nan),
                )  # fmt: skip
                for key, column in zip(rows, columns, strict=True):
                    rows[key].append(column)
    return _joined(rows)


def stability_maps(mode: Mode, points: int = 41) -> Table:
    """Slowest rate and largest stable step over eta_p/eta_q and gamma: the given mode, and the dense unstable instance (T7)."""
    model = mode.model
    ratio, gamma = (x.ravel() for x in np.meshgrid(np.geomspace(0.01, 100.0, points), np.geomspace(0.03, 30.0, points)))
    table: dict[str, Array] = {"eta_ratio": ratio, "gamma": gamma}
    for name, instance, beta in (("mode", model, mode.beta), ("dense", UNSTABLE_EXAMPLE, 1.0)):
        matrices = np.stack([game_matrix(instance, beta, g, 1.0, r)[0] for r, g in zip(ratio, gamma, strict=True)])
        values = np.linalg.eigvals(matrices)
        rate = (-values.real).min(axis=1)
        step = (-2 * values.real / np.abs(values) ** 2).min(axis=1)
        table |= {f"{name}_slowest_rate": rate, f"{name}_largest_step": np.where(rate > 0, step, 0.0)}
    return table


def finite_sample(rng: np.random.Generator, draws: int) -> Table:
    """Contamination of fresh questions by label noise against n, closed form and descent on random labels (T8)."""
    p, v, beta = 10, 1.0, 1.0
    counts = np.unique(np.geomspace(3, 400, 16).astype(int))
    features, fresh = rng.normal(size=(counts.max(), p)), rng.normal(size=(200, p))
    rows: dict[str, list[Array]] = {
        name: [] for name in ("gamma", "questions", "variance", "simulated", "standard_error")
    }
    for gamma in (0.0, 1.0, 10.0):
        for n in counts:
            model = AmortisedModel(features[:n], 1.0, 1.0, 1.0, 0.5)
            closed = noise_contamination(model, fresh, v, beta, gamma).mean()
            measured = error = np.nan
            if n <= 60:
                stiff = 1.0 + gamma + 1.05 * float(model.spectrum[0])
                _, weights = descend(model, rng.normal(size=(n, draws)), beta, gamma, 600, 1.0 / stiff)
                values = ((fresh @ weights) ** 2).mean(axis=0)
                measured, error = values.mean(), values.std() / np.sqrt(draws)
            for name, value in zip(rows, (gamma, n, closed, measured, error), strict=True):
                rows[name].append(np.array([value], dtype=float))
    return _joined(rows)


def double_descent(rng: np.random.Generator, draws: int) -> Table:
    """Excess loss by label noise against n at p = 20 with and without a ridge: formulas and random features (T8)."""
    p, counts = 20, np.unique(np.concatenate([np.arange(4, 41, 2), [50, 70, 100, 150, 200], np.arange(17, 24)]))
    rows: dict[str, list[Array]] = {
        name: [] for name in ("ridge", "questions", "noise_nats", "simulated", "standard_error")
    }
    for ridge in (0.0, 0.5, 5.0):
        for n in counts:
            near = ridge == 0 and abs(n - p) <= 2  # the average over random features has no variance there
            closed = (
                float(ridgeless_noise(n, p, 1.0)) if ridge == 0 else float(average_risk(n, p, ridge, 1.0, 0.0).noise)
            )
            values = np.array([np.nan])
            if not near and n % 2 == 0:
                kappa = np.linalg.svd(rng.normal(size=(draws, n, p)), compute_uv=False) ** 2
                values = (0.5 * kappa / (kappa + ridge) ** 2).sum(axis=1)
            row = (
                ridge,
                n,
                closed if np.isfinite(closed) else np.nan,
                values.mean(),
                values.std() / np.sqrt(len(values)),
            )
            for name, value in zip(rows, row, strict=True):
                rows[name].append(np.array([value], dtype=float))
    return _joined(rows)


def best_gamma(rng: np.random.Generator) -> Table:
    """Bias, noise and total excess loss against gamma, and the optimum of the closed form (T8)."""
    model, statistics = AmortisedModel(rng.normal(size=(24, 16)), 1.0, 1.0, 1.0, 0.4), ForceStatistics(2.0, 0.25)
    gamma = np.geomspace(0.03, 3000.0, 200)
    curve = excess_risk(model, statistics, 1.0, gamma)
    best = np.full(len(gamma), optimal_gamma(model, statistics, 1.0))
    return {
        "gamma": gamma,
        "bias_nats": curve.bias,
        "noise_nats": curve.noise,
        "total_nats": curve.total,
        "best_gamma": best,
    }


def saturation_map(points: int = 41) -> Table:
    """Error of the linear contamination over mean force/g0 and gamma lambda_q/h (T9)."""
    force, gamma = np.geomspace(0.05, 5.0, points), np.concatenate([[0.0], np.geomspace(0.05, 20.0, points - 1)])
    result = saturating_error_map(force, gamma)
    x, y = (v.ravel() for v in np.meshgrid(force, gamma, indexing="ij"))
    return {
        "force_over_g0": x,
        "gamma_pull": y,
        "error": result.contamination_error.ravel(),
        "spread_error": result.spread_error.ravel(),
    }


def mixture_map(points: int = 33) -> Table:
    """Error of the linear contamination over separation and weight of the components (T9); NaN where several can coexist."""
    gap, weight = np.linspace(0.0, 5.0, points), np.linspace(0.05, 0.95, points)
    x, y = np.meshgrid(gap, weight, indexing="ij")
    result = mixture_equilibrium(MixtureGame([1.5, 0.5], [0.5, 0.5], x, y), 1.0)
    error = np.where(result.unique, result.contamination_error, np.nan)
    return {
        "separation": x.ravel(),
        "component_weight": y.ravel(),
        "error": error.ravel(),
        "unique": result.unique.ravel().astype(int),
    }


def per_answer_map(points: int = 25) -> Table:
    """Error of T6's V where two answers have variances of their own, over gamma/gamma_c and the forces' kurtosis."""
    ratio, kurtosis = np.geomspace(0.01, 0.95, points), np.linspace(1.0, 6.0, points)
    result = closed_form_error_map(ratio, kurtosis)
    x, y = (v.ravel() for v in np.meshgrid(ratio, kurtosis, indexing="ij"))
    return {"gamma_over_critical": x, "kurtosis": y, "error": result.relative_error.ravel()}


def _joined(rows: dict[str, list[Array]]) -> Table:
    return {name: np.concatenate(parts) for name, parts in rows.items()}
