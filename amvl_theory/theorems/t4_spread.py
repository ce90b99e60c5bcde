"""T4: what the reverse KL does to the spread of the posterior means over the answers."""

from __future__ import annotations

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving import matrices as M
from amvl_theory.theorems.proving.core import SYMBOLIC_2X2, Proof, slope_symbol, theorem
from amvl_theory.theorems.proving.dense import GAMMAS, instances, largest_rise, relative
from amvl_theory.theorems.proving.gaussian import (
    expectation,
    matrix_gradients,
    one_mode_gradients,
    positive_matrix,
    solve_linear,
)
from amvl_theory.theorems.proving.symbols import R, c, delta, g, gamma, gbar, h, lambda_q, s_q, v0


@theorem(
    name="T4",
    statement=(
        "With variances fixed and shared by the answers the spread of the posterior means is {spread} whatever the "
        "anchor, per mode {mode_spread}. tr(Lambda_q C) and the leaked information I = 1/2 log det(I + Lambda_q C) never "
        "grow with gamma, for any H, and for diagonal H the magnitude of no entry of C does. In the basis in which "
        "Lambda_q is the identity and W = H + gamma is diagonal the slope of the information is {information_slope}."
    ),
    beyond=(
        "the plain trace can grow for dense H; with precisions that differ between answers the spread depends on the "
        "anchor; under a saturating response even the information can grow"
    ),
    assumptions=(
        given.CURVATURE,
        given.LINEAR_RESPONSE,
        given.FIXED_VARIANCES,
        given.SHARED_VARIANCE,
        given.PRECISIONS,
    ),
)
def prove_t4(proof: Proof) -> None:
    """The spread's covariance, its two monotone measures, and the trace that is not one."""
    _one_mode(proof)
    _information(proof)
    _counter_examples(proof)
    _dense(proof)


def _one_mode(proof: Proof) -> None:
    gradient = one_mode_gradients("amvl")[delta].subs(s_q, 1 / lambda_q)
    shift = sp.solve(gradient, delta)[0]
    moments = [1, gbar, gbar**2 + v0]
    mean = expectation(shift, g, moments)
    variance = sp.factor(expectation((shift - mean) ** 2, g, moments))
    proof.step(
        "Solve stationarity in delta_y for each answer; its deviation from the mean does not contain c",
        sp.factor(shift - mean),
    )
    proof.equal(
        "one generic mode: the deviation is (g_y - gbar) / (h + gamma lambda_q)",
        shift - mean,
        (g - gbar) / (h + gamma * lambda_q),
    )
    proof.state("mode_spread", sp.Symbol("V"), variance, v0 / (h + gamma * lambda_q) ** 2)
    proof.equal("so it does not depend on the prior mean, hence not on the anchor", sp.diff(variance, c), sp.Integer(0))
    h2, lam2 = sp.symbols("h_2 lambda_2", positive=True)
    entry = sp.Symbol("G_12", positive=True) / ((h + gamma * lambda_q) * (h2 + gamma * lam2))
    slope = sp.factor(sp.diff(entry, gamma))
    proof.sign("diagonal H: the magnitude of an entry of C falls", sp.diff(entry, gamma), slope, "< 0")


def _information(proof: Proof) -> None:
    proof.step(
        "Any d: scale z so that Lambda_q = I and rotate so that H is diagonal; then W = M = diag(w), w_i = k_i + "
        "gamma, and "
        "det(I + W^-1 G W^-1) = det(W^2 + G) / det(W)^2, so 1/2 d log det / d gamma = tr[(W^2 + G)^-1 W - W^-1] = "
        "-tr[(W^2 + G)^-1 G W^-1]. With K = W^-1 G W^-1 this is -tr[(I + K)^-1 K W^-1] up to a similarity, the trace "
        "of a "
        "product of two positive semidefinite matrices: never positive"
    )
    k = sp.symbols("k_1:3", positive=True)
    force = positive_matrix("G")
    W = sp.diag(k[0] + gamma, k[1] + gamma)
    grown = sp.expand((W**2 + force).det())
    half_log = sp.log(grown) / 2 - sp.log(W.det())
    w = (W[0, 0], W[1, 1])
    gap = sp.expand(force.det())
    form = -((w[1] ** 2 * force[0, 0] + gap) / w[0] + (w[0] ** 2 * force[1, 1] + gap) / w[1]) / grown
    proof.sign(
        "slope of the leaked information, manifestly negative", sp.diff(half_log, gamma), form, "< 0", SYMBOLIC_2X2
    )
    trace = -sp.Trace((M.W**2 + M.G).inv() * M.G * M.W.inv())
    proof.state("information_slope", slope_symbol("I"), form, trace, SYMBOLIC_2X2, at={M.W: W, M.G: force})
    _dense_spread(proof)
    proof.equal(
        "the determinant identity", (sp.eye(2) + W.inv() * force * W.inv()).det() * W.det() ** 2, grown, SYMBOLIC_2X2
    )
    entry, one = sp.Symbol("G_ii", nonnegative=True), sp.Symbol("k_i", positive=True)
    term = entry / (one + gamma) ** 2
    proof.sign(
        "tr(Lambda_q C) is a sum over i of terms that fall, any d",
        sp.diff(term, gamma),
        -2 * entry / (one + gamma) ** 3,
        "<= 0",
    )
    proof.step("Term of tr(Lambda_q C) in that basis", term)


def _dense_spread(proof: Proof) -> None:
    """C of two modes from the gradients of the loss: the deviation of an answer is linear in that of its force."""
    curvature, lam = positive_matrix("H"), sp.symbols("lambda_1:3", positive=True)
    force = sp.Matrix(sp.symbols("g_1:3", real=True))
    mean_q, mean_p, in_delta, _ = matrix_gradients(curvature, force, sp.zeros(2), lam, lam)
    response = solve_linear(in_delta, mean_q).jacobian(force)
    proof.equal("dense H: the deviation does not depend on c", response.diff(mean_p[0]), sp.zeros(2), SYMBOLIC_2X2)
    G = positive_matrix("G")
    closed = (M.H + gamma * M.Lambda_q).inv() * M.G * (M.H + gamma * M.Lambda_q).inv()
    values = {M.H: curvature, M.Lambda_q: sp.diag(*lam), M.G: G}
    proof.state("spread", M.C, response * G * response.T, closed, SYMBOLIC_2X2, at=values)


def _counter_examples(proof: Proof) -> None:
    curvature, weight, force = sp.Matrix([[2, 1], [1, 1]]), sp.diag(1, R(1, 100)), sp.Matrix([5, 4])
    traces = []
    for value in (0, 1):
        inverse = (curvature + value * weight).inv()
        traces.append((inverse * force * force.T * inverse).trace())
    proof.exact(
        "dense H: the plain trace grows (H = [[2,1],[1,1]], Lambda_q = diag(1,1/100), G = g g^T, g = (5,4))",
        traces[0] == 10 and traces[1] > 12,
        f"tr C = {traces[0]} at gamma 0 and {traces[1]} at gamma 1",
    )
    spreads = []
    for prior in (0, 1):
        shifts = [(push + precision * prior) / sp.Integer(1 + precision) for push, precision in ((1, 1), (-1, 3))]
        spreads.append((shifts[0] - shifts[1]) ** 2 / 4)
    proof.exact(
        "precisions that differ between answers: the spread depends on c, hence on the anchor (h = gamma = 1, forces "
        "1 and -1, precisions 1 and 3)",
        spreads[0] != spreads[1],
        f"Var(delta) = {spreads[0]} at c = 0 and {spreads[1]} at c = 1",
    )


def _dense(proof: Proof) -> None:
    error, trace, information = 0.0, 0.0, 0.0
    for item in instances():
        root = np.linalg.cholesky(item.G)
        columns = []  # the equilibrium of each force of a set with covariance G, from the coupled equations
        forces = np.concatenate([root, -root], axis=1) * np.sqrt(item.g.size)
        mean, prior = item.equilibrium()
        for column in forces.T:
            columns.append(
                np.linalg.solve(item.response(item.gamma), item.g + column + item.gamma * item.lam_q * prior)
            )
        shifts = np.array(columns)
        sample = (shifts - mean).T @ (shifts - mean) / len(shifts)
        traces, nats = [], []
        for value in GAMMAS:
            inverse = np.linalg.solve(item.response(value), np.eye(item.g.size))
            spread = inverse @ item.G @ inverse
            traces.append(float(np.trace(item.lam_q[:, None] * spread)))
            nats.append(0.5 * float(np.linalg.slogdet(np.eye(item.g.size) + item.lam_q[:, None] * spread)[1]))
        inverse = np.linalg.solve(item.response(item.gamma), np.eye(item.g.size))
        error = max(error, relative(sample, inverse @ item.G @ inverse))
        trace, information = max(trace, largest_rise(np.array(traces))), max(information, largest_rise(np.array(nats)))
    proof.close(
        "covariance of the answers' equilibria against C", error, 1e-10, "d = 2 to 8, 2d answers, anchored prior"
    )
    proof.close("tr(Lambda_q C) never rises along gamma", trace, 1e-12, "d = 2 to 8, dense H")
    proof.close("leaked information never rises along gamma", information, 1e-12, "d = 2 to 8, dense H")
