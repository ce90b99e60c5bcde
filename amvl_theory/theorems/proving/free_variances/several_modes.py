"""T6 with several modes and dense curvature: the group lasso of dual KL, and the hysteresis of the ELBO."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from amvl_theory.checks import Array
from amvl_theory.theorems.proving.core import DENSE, SYMBOLIC_2X2, Proof
from amvl_theory.theorems.proving.dense import SEED, definite, relative
from amvl_theory.theorems.proving.gaussian import kl, positive_matrix
from amvl_theory.theorems.proving.symbols import R, gamma


def check_group_lasso(proof: Proof) -> None:
    """Eliminate the variances: what is left is the stationarity of a convex function of the shifts."""
    H, q, V = sp.symbols("H_ii q_i V_i", positive=True)
    s = sp.Symbol("s", positive=True)
    stationary = sp.expand(2 * s**2 * (H / 2 + gamma / 2 * (1 / s - ((s + V) + V) / s**2)))
    variance = sp.solve(stationary, s)[0]
    proof.equal("sigma_q,i^2 = sqrt(2 gamma V_i / H_ii), coupled", variance, sp.sqrt(2 * gamma * V / H))
    pull = gamma / variance
    proof.equal(
        "the reverse KL pulls with sqrt(gamma H_ii / 2) / rms(delta_i)", pull, sp.sqrt(gamma * H / 2) / sp.sqrt(V)
    )
    _lasso_gradient(proof)
    threshold = sp.solve(q - sp.sqrt(gamma * H / 2), gamma)[0]
    proof.equal("0 is a subgradient for mode i from gamma = 2 G_ii / H_ii on (q = rms g_i)", threshold, 2 * q**2 / H)
    residual = sp.Symbol("r", positive=True)  # rms of the force left on a collapsed mode
    shrink = residual**2 * s**2 / gamma**2
    slope = sp.limit(H / 2 - gamma * shrink / s**2, s, 0)
    proof.equal(
        "a collapsed mode is repelling unless rms(residual force)^2 <= gamma H_ii / 2",
        slope,
        H / 2 - residual**2 / gamma,
    )
    _dense_lasso(proof)
    proof.step(
        "The penalty is a sum of L2(p(y)) norms, convex, and E[delta^T H delta] / 2 is strictly convex: one "
        "minimiser. Points with a "
        "mode at sigma_q,i = 0 that violates the subgradient condition are fixed points too, but they repel"
    )


def _lasso_gradient(proof: Proof) -> None:
    """Two modes, two answers of probabilities p and 1 - p: gradient of the lasso, divided by the answer's probability."""
    curvature = positive_matrix("H")
    p = sp.Symbol("p", positive=True)
    weights = (p, 1 - p)
    shifts = [sp.Matrix(sp.symbols(f"delta_{i}1 delta_{i}2", real=True)) for i in "ab"]
    forces = [sp.Matrix(sp.symbols(f"g_{i}1 g_{i}2", real=True)) for i in "ab"]
    squares = [sum(w * d[i] ** 2 for w, d in zip(weights, shifts, strict=True)) for i in range(2)]
    loss = sum(w * ((d.T * curvature * d / 2) - (g.T * d))[0] for w, d, g in zip(weights, shifts, forces, strict=True))
    loss += sum(sp.sqrt(gamma * curvature[i, i] / 2) * sp.sqrt(squares[i]) for i in range(2))
    roots = sp.symbols("R_1:3", positive=True)
    short = dict(zip((sp.sqrt(x) for x in squares), roots, strict=True))
    residual: list[Any] = []
    for w, d, g in zip(weights, shifts, forces, strict=True):
        for i in range(2):
            gradient = sp.diff(loss, d[i]).subs(short) / w
            pull = sp.sqrt(gamma * curvature[i, i] / 2) / roots[i]
            residual.append(sp.expand(gradient - ((curvature * d)[i] - g[i] + pull * d[i])))
    proof.equal(
        "gradient of the group lasso = stationarity of every answer's shift",
        sp.Matrix(residual),
        sp.zeros(4, 1),
        SYMBOLIC_2X2,
    )


def coupled_modes(forces: Array, curvature: Array, weight: float, start: Array, steps: int) -> tuple[Array, Array]:
    """(sigma_q^2 (d,), delta (answers, d)) of equally probable answers with c = 0: dual KL, variances shared and coupled.

    Iterates mean and variance stationarity in turn, which is majorise-minimise on the group lasso and so never raises it.
    """
    spread, shifts = start, np.zeros_like(forces)
    for _ in range(steps):
        shifts = np.linalg.solve(curvature + np.diag(weight / spread), forces.T).T
        spread = np.sqrt(2 * weight * np.mean(shifts**2, axis=0) / np.diagonal(curvature)) + 1e-300
    return spread, shifts


def _dense_lasso(proof: Proof) -> None:
    rng = np.random.default_rng(SEED)
    apart, residual, below, above = 0.0, 0.0, 1.0, 0.0
    for d in (2, 3, 5, 8):
        curvature, forces = definite(rng, d), rng.normal(size=(2 * d, d))
        forces -= forces.mean(axis=0)
        thresholds = 2 * np.mean(forces**2, axis=0) / np.diagonal(curvature)
        weight = 0.05 * float(thresholds.min())
        result = [coupled_modes(forces, curvature, weight, rng.uniform(0.01, 5.0, d), 400) for _ in range(3)]
        apart = max(apart, *(relative(shifts, result[0][1]) for _, shifts in result))
        spread, shifts = result[0]
        V = np.mean(shifts**2, axis=0)
        by_mean = forces - shifts @ curvature - weight * shifts / spread
        by_variance = np.diagonal(curvature) + weight * (1 / spread - (spread + 2 * V) / spread**2)
        residual = max(residual, float(np.abs(by_mean).max()), float(np.abs(by_variance).max()))
        start, top = np.ones(d), float(thresholds.max())
        sizes = [np.abs(coupled_modes(forces, curvature, factor * top, start, 3000)[1]).max() for factor in (0.9, 1.1)]
        below, above = min(below, float(sizes[0])), max(above, float(sizes[1]))
    proof.close("several modes: one equilibrium from random starts", apart, 1e-8, "d = 2 to 8, dense H, 2d answers")
    proof.close("several modes: it solves mean and variance stationarity", residual, 1e-8, "the same instances")
    detail = f"largest shift at least {below:.2g} at 0.9 and at most {above:.2g} at 1.1 times max_i 2 G_ii / H_ii"
    proof.record("several modes: total collapse at the stated threshold", DENSE, below > 1e-3 and above < 1e-9, detail)


def _elbo_loss(weight: Any) -> tuple[Any, list[Any]]:
    """Dense ELBO of two balanced answers with forces +-(1, 1), H = [[1, -4/5], [-4/5, 1]], and its ten unknowns."""
    curvature = sp.Matrix([[1, R(-4, 5)], [R(-4, 5), 1]])
    ups, downs = sp.symbols("u_1:3", real=True), sp.symbols("d_1:3", real=True)
    means = sp.symbols("c_1:3", real=True)
    posterior, prior = sp.symbols("s_1:3", positive=True), sp.symbols("P_1:3", positive=True)
    loss = sum(curvature[i, i] * posterior[i] / 2 for i in range(2))
    for sign, shift in ((1, ups), (-1, downs)):
        d = sp.Matrix(shift)
        loss += ((d.T * curvature * d)[0] / 2 - sign * sum(shift)) / 2
        loss += weight * sum(kl(shift[i], posterior[i], means[i], prior[i]) for i in range(2)) / 2
    return loss, [*ups, *downs, *means, *posterior, *prior]


def check_hysteresis(proof: Proof) -> None:
    """The dense ELBO at beta = 3/2: two active stationary points, one a minimum, above the local threshold 1."""
    weight = R(3, 2)
    loss, unknowns = _elbo_loss(weight)
    gradient = [sp.diff(loss, x) for x in unknowns]
    hessian = sp.hessian(loss, unknowns)
    outcomes = []
    for shift, posterior, prior in ((R(5, 2), R(5, 4), R(15, 2)), (R(5, 4), R(15, 16), R(5, 2))):
        values = [*(2 * [shift]), *(2 * [-shift]), 0, 0, *(2 * [posterior]), *(2 * [prior])]
        place = dict(zip(unknowns, values, strict=True))
        stationary = all(sp.nsimplify(entry.subs(place)) == 0 for entry in gradient)
        exact = hessian.subs(place)
        minors = [exact[:k, :k].det() for k in range(1, len(unknowns) + 1)]
        outcomes.append((stationary, all(minor > 0 for minor in minors), minors[-1] < 0))
    proof.exact(
        "the dense ELBO is hysteretic (H = [[1,-4/5],[-4/5,1]], forces +-(1,1), beta = 3/2)",
        outcomes == [(True, True, False), (True, False, True)],
        "delta = +-(5/2,5/2), sigma_q^2 = 5/4, sigma_p^2 = 15/2 is a strict minimum (leading minors), delta = "
        "+-(5/4,5/4), 15/16, 5/2 a saddle",
    )
    P, b = sp.symbols("P beta", positive=True)
    a = P / (P / 5 + b)
    active = sp.factor(sp.together((a**2 - P**2 / (P + b)) * (P + b) * (P / 5 + b) ** 2 / P**2))
    proof.exact(
        "its local threshold is 1, its fold is at beta = 25/16",
        sp.solve(active.subs(P, 0), b) == [1] and sp.solve(sp.discriminant(sp.expand(active), P), b)[-1] == R(25, 16),
        f"active branch: {sp.expand(active)} = 0 in P = sigma_p^2, by symmetry between the modes",
    )
    proof.step("dense ELBO of that instance: active branch in P = sigma_p^2", sp.Eq(sp.expand(active), 0))
