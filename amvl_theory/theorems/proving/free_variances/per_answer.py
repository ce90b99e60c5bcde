"""A posterior variance for every answer: the equilibrium at c = 0, and when its transition is continuous."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from amvl_theory.checks import Array
from amvl_theory.theorems.proving.core import DENSE, Proof
from amvl_theory.theorems.proving.gaussian import expectation
from amvl_theory.theorems.proving.symbols import R, gamma, h, v0


def _answer_variances(forces: Array, prior: float, curvature: float, weight: float) -> tuple[Array, Array]:
    """(s_y, delta_y) given the prior variance: h s^2 + gamma s = gamma (P + delta^2), delta = g s / (h s + gamma)."""

    def residual(s: float, force: float) -> float:
        shift = force * s / (curvature * s + weight)
        return curvature * s * s + weight * s - weight * (prior + shift * shift)

    high = prior + float(np.max(forces**2)) / curvature**2 + 1.0
    spread = np.array([brentq(residual, 0.0, high, args=(force,), xtol=1e-15) for force in forces])
    return spread, forces * spread / (curvature * spread + weight)


def per_answer_spread(forces: Array, weights: Array, curvature: float, weight: float) -> float:
    """E_y delta_y^2 of the largest equilibrium with c = 0, a variance per answer and a matched prior variance; 0 if collapsed."""

    def gap(log_prior: float) -> float:
        prior = float(np.exp(log_prior))
        spread, shift = _answer_variances(forces, prior, curvature, weight)
        return float(weights @ (spread + shift**2)) / prior - 1.0

    grid = np.linspace(np.log(1e-4), np.log(10.0), 60)
    values = [gap(point) for point in grid]
    crossings = [i for i in range(len(grid) - 1) if values[i] > 0 >= values[i + 1]]
    if not crossings:
        return 0.0
    prior = float(np.exp(brentq(gap, grid[crossings[-1]], grid[crossings[-1] + 1], xtol=1e-14)))
    return float(weights @ _answer_variances(forces, prior, curvature, weight)[1] ** 2)


def balanced_information(ratio: float) -> float:
    """I(z; y) in nats of two equally probable answers at +-sqrt(V), V / sigma_q^2 = ratio, by Gauss-Hermite quadrature."""
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(120)
    node_weights = node_weights / node_weights.sum()
    log_odds = (
        2 * np.sqrt(ratio) * (nodes + np.sqrt(ratio))
    )  # log density ratio of right to wrong answer, given the right one
    return float(node_weights @ (np.log(2.0) - np.logaddexp(0.0, -log_odds)))


def check_kurtosis(proof: Proof) -> None:
    """Expand the per-answer equilibrium at small prior variance P: order P^2 sets the threshold, order P^3 the kurtosis."""
    P, k2, k3, x = sp.symbols("P k_2 k_3 x", real=True)  # s_y = P + k2 P^2 + k3 P^3, x = g_y^2
    kappa = sp.Symbol("kappa", positive=True)
    s = P + k2 * P**2 + k3 * P**3
    shift_squared = x * s**2 / gamma**2 * (1 - 2 * h * s / gamma)  # x s^2 / (h s + gamma)^2 up to order s^3
    exact = sp.series(x * P**2 / (h * P + gamma) ** 2, P, 0, 4).removeO()
    proof.equal("delta_y^2 up to order s^3", exact, sp.expand(x * P**2 / gamma**2 * (1 - 2 * h * P / gamma)))
    equation = sp.expand(s + h * s**2 / gamma - P - shift_squared)
    second = sp.solve(equation.coeff(P, 2), k2)[0]
    third = sp.solve(equation.coeff(P, 3).subs(k2, second), k3)[0]
    prior = sp.expand((s + shift_squared).subs({k2: second, k3: third}))
    moments = [1, v0, kappa * v0**2]
    orders: list[Any] = [sp.factor(expectation(prior.coeff(P, order), x, moments)) for order in (2, 3)]
    proof.equal(
        "order P^2 vanishes at gamma_c = 2 v0 / h: the local threshold", orders[0], 2 * v0 / gamma**2 - h / gamma
    )
    at_threshold = sp.factor(orders[1].subs(gamma, 2 * v0 / h))
    proof.equal(
        "order P^3 at the threshold: (kurtosis - 3) (h/gamma)^2", at_threshold, (kappa - 3) * h**4 / (4 * v0**2)
    )
    proof.step(
        "a variance per answer, equilibrium of the prior variance P near the threshold: 0 = P^2 (2 v0/gamma^2 - "
        "h/gamma) + P^3 times",
        at_threshold,
    )
    proof.sign("kurtosis below 3: continuous", at_threshold.subs(kappa, 3 - kappa), -kappa * h**4 / (4 * v0**2), "< 0")
    proof.sign("kurtosis above 3: hysteretic", at_threshold.subs(kappa, 3 + kappa), kappa * h**4 / (4 * v0**2), "> 0")
    _rare_answer(proof)


def _rare_answer(proof: Proof) -> None:
    """Force 0 in 26 of 27 cases, +-sqrt(189)/4 otherwise: an exact active equilibrium above the threshold."""
    p, square, P = R(1, 27), R(189, 16), R(3, 4)
    variances = ((1 - p, R(1, 2), sp.Integer(0)), (p, sp.Integer(2), square))
    stationary = [s**2 + s - (P + x * s**2 / (s + 1) ** 2) for _, s, x in variances]
    matched = sum(weight * (s + x * s**2 / (s + 1) ** 2) for weight, s, x in variances)
    threshold = 2 * p * square
    proof.exact(
        "hysteresis with a variance per answer (h = gamma = 1; force 0 with probability 26/27, +-sqrt(189)/4 with "
        "1/54 each)",
        stationary == [0, 0] and matched == P and threshold < 1,
        f"active at sigma_q^2 = 1/2 and 2, sigma_p^2 = 3/4, although gamma_c = {threshold} < 1; kurtosis {1 / p}",
    )
    forces, weights = np.array([0.0, 189**0.5 / 4]), np.array([26 / 27, 1 / 27])
    result = per_answer_spread(forces, weights, 1.0, 1.0)
    proof.record("the largest equilibrium of that instance is active", DENSE, result > 0, f"E delta^2 = {result:.4f}")
