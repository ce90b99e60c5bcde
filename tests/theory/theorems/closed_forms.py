"""For every equation that a proof states: the numpy function that users call, and random values of its symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import erfc

from amvl_theory import (
    EQUAL_WEIGHT_CROSSOVER,
    AmortisedModel,
    ForceStatistics,
    HeadRates,
    MeanLeakageModel,
    ReadingModel,
    SaturatingGame,
    Start,
    XRoute,
    adam_crossover,
    adam_effective_weight,
    amortised_equilibrium,
    anchor_factor,
    coadapted_asymptotics,
    coadapted_rest,
    coadapted_trajectory,
    critical_weight,
    edge_of_stability,
    effective_anchor,
    elbo_equilibrium,
    equilibrium,
    equivalent_gamma,
    fading_leak,
    fastest_reading,
    free_contamination,
    free_spread,
    frozen_prior_response,
    holding_weight,
    leaked_information,
    least_spread,
    matched_variance,
    mode_absorption,
    mode_contamination,
    moment_match,
    noise_contamination,
    optimal_gamma,
    optimal_ridge,
    reading_rate,
    reading_threshold,
    saturating_equilibrium,
    scale_charge,
    spread,
    stability,
    starved_share,
    stationary_covariance,
    widening,
    widening_limit,
    widening_rate,
)
from amvl_theory.dynamics.in_training.starving import rest_gain
from amvl_theory.dynamics.stability import game_matrix
from amvl_theory.learnt_prior.amortised import absorption, effective_ridge, ridge_parameter

Values = Mapping[str, Any]
Case = tuple[Callable[[Values], Any], float]
"""The numpy function of the symbols' values, and the relative error up to which it agrees. A function may return a pair: its
result, and the values of symbols that follow from it."""
DENSE = np.array([[1.3, 0.4], [0.4, 0.9]])
EXACT, SLOPE = 1e-9, 1e-5
"""Two closed forms; a closed form and a difference quotient or an integrated flow."""


def slope(function: Callable[[float], Any], at: float, step: float = 1e-4) -> Any:
    """Central difference of fourth order."""
    ahead, behind = (function(at + k * step) - function(at - k * step) for k in (1, 2))
    return (8 * ahead - behind) / (12 * step)


def mode(v: Values, **changes: float) -> MeanLeakageModel:
    """A model of one mode from the symbols of T2 to T7."""
    names = ("h", "g", "v_0", "lambda_q", "lambda_p", "alpha")
    return MeanLeakageModel(*([float(changes.get(name, v.get(name, 1.0)))] for name in names))


def two_modes(v: Values, anchored: bool = True) -> MeanLeakageModel:
    anchor = v.get("A", np.zeros((2, 2))) if anchored else 0.0
    G = v.get("G", np.zeros((2, 2)))
    eye = np.eye(2)
    return MeanLeakageModel(
        v["H"], v.get("gbar", np.zeros((2, 1)))[:, 0], G, v["Lambda_q"], v.get("Lambda_p", eye), anchor
    )


def one(value: Any) -> float:
    return float(np.asarray(value).item())


def answers(v: Values) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of two equally probable posteriors with the moments of T1."""
    away = np.sqrt(v.get("V", 1.0))
    return np.array([[v["deltabar"] + away], [v["deltabar"] - away]]), np.array(
        [[0.5 * v.get("E_s", 1.0)], [1.5 * v.get("E_s", 1.0)]]
    )


def reading(v: Values) -> ReadingModel:
    return ReadingModel(
        *(float(v.get(name, 1.0)) for name in ("kappa", "k", "eta_w", "eta_q")), float(v.get("lambda", 0.0))
    )


def held(v: Values) -> float:
    """The weight that holds P = erfc(a_0 exp(-rho T)/sqrt 2) over T steps, for one a_0 and T."""
    budget, critical = 3.0, 5.0
    probability = float(erfc(critical * np.exp(-v["rho"] * budget) / np.sqrt(2)))
    return one(holding_weight(budget, probability=probability, critical=critical, model=reading(v), variance=v["s"]))


def jacobian(v: Values) -> Any:
    """J of one mode at its rates."""
    return game_matrix(mode(v), v["beta"], v["gamma"], v["eta_q"], v["eta_p"])[0]


def edge(v: Values, alternating: bool) -> tuple[float, Values]:
    """p(-1) is 0 at the largest stable step; a, d and b there. The prior is the faster one."""
    model = mode({"h": v["a"] / 10, "alpha": v["d"] + 4})
    result = stability(model, 0.7, 0.4)
    step = result.max_stable_step_alternating if alternating else result.max_stable_step
    J, _ = game_matrix(model, 0.7, 0.4)
    return 0.0, {"a": -step * J[0, 0], "d": -step * J[1, 1], "b": step**2 * J[0, 1] * J[1, 0]}


def energy_slope(v: Values) -> tuple[float, Values]:
    model = two_modes({**v, "H": DENSE, "gbar": np.array([[0.7], [-0.4]])})
    result = slope(lambda w: model.g @ frozen_prior_response(model, w), 0.5)
    return result, {"deltabar": frozen_prior_response(model, 0.5)[:, None]}


def information_slope(v: Values) -> float:
    model = two_modes({"H": v["W"] - 0.1 * np.eye(2), "Lambda_q": np.eye(2), "G": v["G"]})
    return slope(lambda w: leaked_information(model, w), 0.1)


def coupled_shift(v: Values) -> tuple[Any, Values]:
    model = two_modes({**v, "A": np.array([[0.5, 0.1], [0.1, 0.3]]), "Lambda_p": np.diag([0.6, 1.4])})
    return equilibrium(model, 0.7, v["gamma"]).posterior_shift, {"S": model.absorption(0.7)}


def free_root(v: Values) -> tuple[float, Values]:
    model = MeanLeakageModel(v["h"], [v["gbar"]], 1.0, anchor=v["alpha"])
    root = free_contamination(model, v["beta"], 0.3).values[0]
    return root, {"X": float(anchor_factor(1.0 + (v["gbar"] - v["h"] * root) ** 2, v["h"], 0.3))}


def characteristic(v: Values) -> tuple[float, Values]:
    rate = float(reading_rate(reading({**v, "kappa": 1.0}), v["s"], v["gamma"]))
    return v["eta_w"] * v["eta_q"], {"r": rate}


def width_of_spread(v: Values) -> float:
    """sigma_q^4 of a mode whose V is the symbol's value: v0 = (h sqrt V + sqrt(gamma h/2))^2."""
    force_var = (v["h"] * np.sqrt(v["V"]) + np.sqrt(v["gamma"] * v["h"] / 2)) ** 2
    return one(free_spread(MeanLeakageModel(v["h"], [0.0], force_var), v["gamma"]).posterior_variance) ** 2


def noise(v: Values) -> float:
    """C_c of a game whose J is [[-a, u], [v, -d]]."""
    model = MeanLeakageModel([v["a"] - v["u"]], [0.0], 0.0, 1.0, 1.0, [v["d"] - v["v"]])
    return one(stationary_covariance(model, v["v"], v["u"], v["N_q"], v["N_p"]).contamination)


def learnt(v: Values) -> AmortisedModel:
    """One question, one feature: its eigenvalue is k; the ridge is such that rho is as given."""
    ridge = v["alpha"] if "alpha" in v else v.get("rho", 1.0) * 0.7 * 1.3
    return AmortisedModel(
        [[np.sqrt(v.get("k", 1.0))]], v.get("h", 1.0), v.get("lambda_q", 1.0), v.get("lambda_p", 1.3), ridge
    )


def amortised(v: Values) -> float:
    """c at an absorption s, with k chosen so that k/(k + rho) = s."""
    model = learnt({**v, "rho": 1.0, "k": v["s"] / (1 - v["s"])})
    return one(amortised_equilibrium(model, [v["g"]], 0.7, v["gamma"]).contamination)


def learnt_noise(v: Values) -> float:
    model = AmortisedModel([[np.sqrt(v["k"])]], v["h"], 1.0, 1.0, v["rho_e"])
    return one(noise_contamination(model, [1.0], v["v"], 1.0, 0.0))


def best_ridge(v: Values) -> float:
    statistics = ForceStatistics(signal_var=(v["h"] * v["w"]) ** 2, noise_var=v["v"])
    return optimal_ridge(learnt(v), statistics)


def best_gamma(v: Values) -> float:
    statistics = ForceStatistics(signal_var=(v["h"] * v["w"]) ** 2, noise_var=v["v"])
    return optimal_gamma(learnt(v), statistics, 0.7)


def saturating(v: Values, force: float, gamma: float, g0: float, absorbed: float = 0.0) -> float:
    game = SaturatingGame([force], [1.0], g0, v["h"], v["lambda_q"], absorbed)
    return one(saturating_equilibrium(game, gamma).posterior_shift)


def departure(v: Values) -> float:
    """Relative departure from T2, extrapolated to a force of 0, where the next order has gone."""

    def scaled(size: float) -> float:
        force = size * v["g"]
        linear = force / (v["h"] + v["gamma"] * v["lambda_q"])
        return (saturating(v, force, v["gamma"], v["g_0"]) / linear - 1) / size**2

    return (4 * scaled(0.01) - scaled(0.02)) / 3


def range_edge(v: Values) -> float:
    """The force at which the leading order of the departure is -1/10."""
    return float(np.sqrt(0.1 / -departure({**v, "g": 1.0})))


def restoring(v: Values) -> float:
    """d delta / d gamma of a saturating mode whose shift and slope are the symbols' values."""
    v = {**v, "h": 1.3}
    g0 = v["delta"] * v["h"] / 0.6  # delta/chi = 0.6 whatever the scale
    slope_there = v["h"] / (1 - 0.6**2)
    force = g0 * np.arctanh(0.6) + v["gamma"] * v["lambda_q"] * v["u"] * v["delta"]
    changed = slope(lambda w: saturating(v, force, w, g0, 1 - v["u"]), v["gamma"])
    pull = v["gamma"] * v["lambda_q"] * v["u"]
    return changed * (slope_there + pull) / (v["R_1"] + pull)  # at R_1 in place of the game's own slope


def flow(v: Values) -> Any:
    """d(Q, P, Delta)/dt at time 0 of `widening`."""
    rates = HeadRates(*(v.get(name, 1.0) for name in ("a", "b", "a_m", "b_m")))
    dt = 1e-3
    path = widening(
        dt * np.arange(1, 5), gap=v.get("Delta", 0.0), gamma=1.0, beta=1.0, rates=rates,
        posterior_std=np.sqrt(v.get("Q", 1.0)), prior_std=np.sqrt(v.get("P", 1.0)), fixed_gap_var=v.get("V", 0.0),
    )  # fmt: skip
    states = np.stack([path.posterior_var, path.prior_var, path.gap])
    first = np.array([v.get("Q", 1.0), v.get("P", 1.0), v.get("Delta", 0.0)])
    return (-25 * first + states @ [48, -36, 16, -3]) / (12 * dt)


def joint(v: Values) -> float:
    """dJ/dt with Q = 1.1, P = 0.8, which it does not depend on."""
    moved = flow({**v, "Q": 1.1, "P": 0.8})
    return v["b"] * moved[0] + v["a"] * moved[1]


def late_leak_times_t(v: Values) -> float:
    t = np.array([1e6])
    rates = HeadRates(v["kappa_q"], 1e3)
    path = widening(t, gap=0.0, gamma=v["gamma"], beta=1.0, rates=rates, fixed_gap_var=0.3)
    return float((path.leaked_nats * t).item()) * (1 + v["gamma"] * v["kappa_q"] / 1e3) ** -1


def charge(v: Values) -> float:
    """dN/dt at a matched prior, from the integrated flow."""
    width = 0.9
    model = ReadingModel(0.5, 0.25, 0.01, 0.01, v["lambda"])
    start = Start(v["w"], float(np.sqrt(v["rho"] * width)), np.sqrt(width), np.sqrt(width * (1 + v["rho"])))
    path = coadapted_trajectory(np.array([0.0, 1e-3]), model=model, gamma=v["gamma"], start=start)
    values = scale_charge(path, model=model)
    return (values[1] - values[0]) / 1e-3


def tending(v: Values) -> Any:
    """Asymptotics of dual KL in a model whose limit of rho is the symbol's value."""
    gain = (1 + v["rho"]) * np.sqrt(2 * v["gamma"])
    return coadapted_asymptotics(ReadingModel(gain, 1.0, 1.0, v["eta_q"]), v["gamma"])


def fading(v: Values) -> float:
    return fading_leak(reading(v), v["gamma"], beta=v["beta"], std_rates=(v["eta_s"], v["eta_r"]))[0]


CASES: dict[str, dict[str, Case]] = {
    "T1": {
        "inherited_mean": (lambda v: one(moment_match(*answers(v)).mean), EXACT),
        "inherited_variance": (lambda v: one(matched_variance(*answers(v), v["c"])), EXACT),
    },
    "T2": {
        "response": (lambda v: frozen_prior_response(two_modes(v), v["gamma"]), EXACT),
        "mode_response": (lambda v: one(frozen_prior_response(mode(v), v["gamma"])), EXACT),
        "energy_slope": (energy_slope, SLOPE),
    },
    "T3": {
        "contamination": (lambda v: equilibrium(two_modes(v), v["beta"], v["gamma"]).contamination, EXACT),
        "absorption": (lambda v: two_modes({"H": np.eye(2), "Lambda_q": np.eye(2), **v}).absorption(v["beta"]), EXACT),
        "shift": (coupled_shift, EXACT),
        "mode_contamination": (lambda v: mode_contamination(v["g"], v["h"], v["lambda_q"], v["s"], v["gamma"]), EXACT),
        "mode_absorption": (lambda v: mode_absorption(v["beta"], v["lambda_p"], v["alpha"]), EXACT),
        "anchor": (lambda v: effective_anchor(v["alpha"], v["gamma"], v["lambda_q"], v["h"]), EXACT),
    },
    "T4": {
        "spread": (lambda v: spread(two_modes(v), v["gamma"]), EXACT),
        "mode_spread": (lambda v: one(spread(mode(v), v["gamma"])), EXACT),
        "information_slope": (information_slope, SLOPE),
    },
    "T5": {
        "fixed_dual": (lambda v: one(equilibrium(mode(v), v["beta"], v["gamma"]).contamination), EXACT),
        "fixed_elbo": (lambda v: one(elbo_equilibrium(mode(v), v["beta"]).contamination), EXACT),
        "equal_gamma": (lambda v: equivalent_gamma(v["beta"], v["lambda_p"], v["lambda_q"]), EXACT),
        "free_contamination": (free_root, EXACT),
        "factor_forward": (lambda v: anchor_factor(v["E"], v["h"], objective="ntp+fwd"), EXACT),
        "factor_elbo": (lambda v: anchor_factor(v["E"], v["h"], 0.5 * v["E"] / v["h"], "elbo"), EXACT),
        "factor_dual": (lambda v: anchor_factor(v["E"], v["h"], v["gamma"]), EXACT),
        "factor_collapsed_dual": (lambda v: anchor_factor(0.4 * v["gamma"], 1.0, v["gamma"]), EXACT),
        "factor_collapsed_elbo": (lambda v: anchor_factor(0.9 * v["beta"], 1.0, v["beta"], "elbo"), EXACT),
    },
    "T6": {
        "dual_variance": (lambda v: one(free_spread(mode({**v, "g": 0.0}), v["gamma"]).variance), EXACT),
        "dual_width": (width_of_spread, EXACT),
        "dual_snr": (lambda v: one(free_spread(MeanLeakageModel(1.0, [0.0], v["gamma_c"] / 2), v["gamma"]).snr), EXACT),
        "dual_threshold": (lambda v: critical_weight(v["v_0"], v["h"]), EXACT),
        "elbo_variance": (lambda v: one(free_spread(mode({**v, "g": 0.0}), v["beta"], "elbo").variance), EXACT),
        "elbo_width": (
            lambda v: one(
                free_spread(MeanLeakageModel(v["h"], [0.0], v["beta_c"] * v["h"]), v["beta"], "elbo").posterior_variance
            ),
            EXACT,
        ),
        "elbo_snr": (
            lambda v: one(free_spread(MeanLeakageModel(1.0, [0.0], v["beta_c"]), v["beta"], "elbo").snr),
            EXACT,
        ),
        "elbo_threshold": (lambda v: critical_weight(v["v_0"], v["h"], "elbo"), EXACT),
        "crossover": (lambda v: EQUAL_WEIGHT_CROSSOVER, EXACT),
    },
    "T7": {
        "jacobian": (jacobian, EXACT),
        "curl": (lambda v: jacobian(v)[0, 1] - jacobian(v)[1, 0], EXACT),
        "slowest_rate": (
            lambda v: stability(mode({"h": v["a"] - v["b"], "alpha": v["d"] - 1}), 1.0, v["b"]).slowest_rate,
            EXACT,
        ),
        "simultaneous_edge": (lambda v: edge(v, False), EXACT),
        "alternating_edge": (lambda v: edge(v, True), EXACT),
        "noise": (noise, EXACT),
    },
    "T8": {
        "mode": (amortised, EXACT),
        "smoothing": (lambda v: one(absorption(learnt(v), 0.7)), EXACT),
        "ridge": (lambda v: ridge_parameter(learnt(v), v["beta"]), EXACT),
        "effective_ridge": (lambda v: one(effective_ridge(learnt(v), 0.7, v["gamma"])), EXACT),
        "noise": (learnt_noise, EXACT),
        "best_ridge": (best_ridge, EXACT),
        "best_gamma": (best_gamma, EXACT),
    },
    "T9": {
        "departure": (departure, SLOPE),
        "range_edge": (range_edge, SLOPE),
        "shift_slope": (restoring, SLOPE),
    },
    "T10": {
        "posterior_width": (lambda v: flow(v)[0], SLOPE),
        "prior_width": (lambda v: flow(v)[1], SLOPE),
        "mean_gap": (lambda v: flow(v)[2], SLOPE),
        "joint_growth": (joint, SLOPE),
        "lasting_rate": (lambda v: widening_rate(v["V"], v["a"], v["b"]), EXACT),
        "leak_times_t": (late_leak_times_t, 1e-3),
        "final_variance": (
            lambda v: (
                widening_limit(
                    v["Delta_0"],
                    rates=HeadRates(v["a"], v["a"], v["a_m"], v["b_m"]),
                    posterior_std=np.sqrt(v["Q_0"]),
                    prior_std=np.sqrt(v["Q_0"]),
                ).small_gap
            ),
            EXACT,
        ),
        "adam_weight": (lambda v: adam_effective_weight(v["gamma"], adam_crossover(v["v_s"], v["k_s"], v["c"])), EXACT),
    },
    "T11": {
        "threshold": (lambda v: reading_threshold(reading(v), v["s"]), EXACT),
        "characteristic": (characteristic, EXACT),
        "fastest_variance": (lambda v: fastest_reading(reading({**v, "kappa": 9.0}), v["gamma"])[1], EXACT),
        "largest_rate": (lambda v: fastest_reading(reading(v), v["gamma"])[0], EXACT),
        "holding_weight": (held, EXACT),
        "gain_behind_x": (
            lambda v: 1 - XRoute(np.sqrt(v["R"]), 1.0).signal * rest_gain(XRoute(np.sqrt(v["R"]), 1.0)),
            EXACT,
        ),
        "starved_share": (lambda v: starved_share(v["R"], v["S"]), EXACT),
    },
    "T12": {
        "scale_growth": (charge, 1e-3),
        "leak_growth": (lambda v: tending(v).leak_var_rate, EXACT),
        "prior_growth": (lambda v: tending(v).prior_var_rate, EXACT),
        "dual_snr": (lambda v: coadapted_asymptotics(reading({**v, "eta_q": 1.0}), v["gamma"]).snr, EXACT),
        "elbo_snr": (lambda v: coadapted_asymptotics(reading(v), v["beta"], objective="elbo").snr, EXACT),
        "fading_constant": (fading, EXACT),
        "resting_variance": (lambda v: coadapted_rest(ReadingModel(9.0, 1.0), v["gamma"], v["mu"])[1], EXACT),
        "edge_variance": (lambda v: edge_of_stability(reading({**v, "kappa": 9.0}), 0.5)[1], EXACT),
        "least_spread": (
            lambda v: least_spread(start_var=v["R_0"], rest_var=v["V_inf"], curvature=0.8, rate=0.1).variance,
            EXACT,
        ),
    },
}
