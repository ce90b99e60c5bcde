"""T2: how the posterior shrinks towards a prior that is held at the reference mean."""

from __future__ import annotations

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving import matrices as M
from amvl_theory.theorems.proving.core import DENSE, SYMBOLIC_2X2, Proof, slope_symbol, theorem
from amvl_theory.theorems.proving.dense import GAMMAS, instances, largest_rise, relative
from amvl_theory.theorems.proving.gaussian import matrix_gradients, one_mode_gradients, positive_matrix, solve_linear
from amvl_theory.theorems.proving.symbols import R, c, delta, g, gamma, h, lambda_q, s_q


@theorem(
    name="T2",
    statement=(
        "With the prior mean held at the reference the reverse KL shrinks the posterior's shift: {response}, per mode "
        "{mode_response}. The response energy U = gbar^T dbar never grows with gamma, for any H, {energy_slope}, nor does the "
        "precision-weighted size dbar^T Lambda_q dbar. The Euclidean norm can grow at gamma, for some force, if and "
        "only if the symmetric part of Lambda_q^-1 H has an eigenvalue below -gamma; it never does where Lambda_q and "
        "H commute."
    ),
    beyond=("the length can grow for dense H (|dbar|^2 from 10 to 12.16 in a 2x2 instance)"),
    assumptions=(
        given.CURVATURE,
        given.LINEAR_RESPONSE,
        given.FIXED_VARIANCES,
        given.FROZEN_PRIOR,
        given.COMMUTING.only_for("the Euclidean norm"),
        given.NORM_SAFE.only_for("the Euclidean norm, sharp"),
    ),
)
def prove_t2(proof: Proof) -> None:
    """The response, its monotone sizes, and the norm that is not one of them."""
    _one_mode(proof)
    _two_modes(proof)
    _any_size(proof)
    _norm(proof)
    _dense(proof)


def _one_mode(proof: Proof) -> None:
    gradient = one_mode_gradients("amvl")[delta].subs({c: 0, s_q: 1 / lambda_q})
    proof.step("Gradient of the loss in delta, with the prior stopped and c = 0", sp.expand(gradient))
    shift = sp.solve(gradient, delta)[0]
    proof.state("mode_response", delta, shift, g / (h + gamma * lambda_q))
    proof.equal("it shrinks by h / (h + gamma lambda_q)", shift / shift.subs(gamma, 0), h / (h + gamma * lambda_q))
    proof.sign(
        "the squared shift never grows",
        sp.diff(shift**2, gamma),
        -2 * lambda_q * g**2 / (h + gamma * lambda_q) ** 3,
        "<= 0",
    )


def _two_modes(proof: Proof) -> None:
    curvature, force = positive_matrix("H"), sp.Matrix(sp.symbols("g_1:3", real=True))
    precision = sp.symbols("lambda_1:3", positive=True)
    mean_q, mean_p, in_delta, _ = matrix_gradients(curvature, force, sp.zeros(2), precision, precision)
    shift = solve_linear(in_delta.subs(dict.fromkeys(mean_p, 0)), mean_q)
    weight = sp.diag(*precision)
    response = curvature + gamma * weight
    residual = (response * shift - force).applyfunc(sp.cancel)
    proof.equal("dense H: (H + gamma Lambda_q) dbar = gbar", residual, sp.zeros(2, 1), SYMBOLIC_2X2)
    values = {M.H: curvature, M.Lambda_q: weight, M.gbar: force, M.dbar: shift}
    proof.state("response", M.dbar, shift, (M.H + gamma * M.Lambda_q).inv() * M.gbar, SYMBOLIC_2X2, at=values)
    slope = sp.diff(sp.cancel((force.T * shift)[0]), gamma)
    form = -M.dbar.T * M.Lambda_q * M.dbar
    proof.state("energy_slope", slope_symbol("U"), sp.Matrix([[slope]]), form, SYMBOLIC_2X2, at=values)
    squares = -sum(weight[i, i] * mean_q[i] ** 2 for i in range(2))
    quadratic = form.subs({M.Lambda_q: weight, M.dbar: mean_q}).doit()[0]
    proof.sign("which is a negative sum of squares", quadratic, squares, "<= 0", SYMBOLIC_2X2)
    proof.step("d energy / d gamma, a negative sum of squares", squares)


def _any_size(proof: Proof) -> None:
    """With M = H + gamma Lambda_q: congruence makes H diagonal and Lambda_q the identity at once, for any d."""
    proof.step(
        "Any d: d M^-1 / d gamma = -M^-1 Lambda_q M^-1, so d(g^T M^-1 g) = -dbar^T Lambda_q dbar and "
        "d(dbar^T Lambda_q dbar) = -2 (Lambda_q dbar)^T M^-1 (Lambda_q dbar), both <= 0 because Lambda_q and M are "
        "positive. "
        "In the basis in which Lambda_q is the identity and H is diagonal (Lambda_q^-1/2 H Lambda_q^-1/2 = U diag(k) "
        "U^T) both are "
        "sums over modes of one term"
    )
    k, f = sp.Symbol("k_i", positive=True), sp.Symbol("f_i", real=True)
    for name, term in (("energy", f**2 / (k + gamma)), ("precision-weighted size", f**2 / (k + gamma) ** 2)):
        slope = sp.factor(sp.diff(term, gamma))
        proof.sign(f"{name}: every term falls in that basis", sp.diff(term, gamma), slope, "<= 0")
        proof.step(f"slope of the term of the {name}", slope)


def _norm(proof: Proof) -> None:
    proof.step(
        "Norm: d |dbar|^2 / d gamma = -2 dbar^T M^-1 Lambda_q dbar, and M^-1 Lambda_q = (Lambda_q^-1 H + gamma)^-1. "
        "The symmetric part "
        "of an inverse is positive semidefinite exactly where that of the matrix is (x = B y), so the norm can grow "
        "at gamma if "
        "and only if sym(Lambda_q^-1 H) has an eigenvalue below -gamma. Where H and Lambda_q commute it is positive"
    )
    entries = sp.symbols("b_1:5", real=True)
    matrix, y = sp.Matrix(2, 2, entries), sp.Matrix(sp.symbols("y_1:3", real=True))
    x = matrix * y
    form = sp.cancel((x.T * matrix.inv() * x)[0])
    proof.equal("x^T B^-1 x = y^T B y for x = B y", form, sp.expand((y.T * matrix * y)[0]), SYMBOLIC_2X2)
    curvature, weight, force = sp.Matrix([[2, 1], [1, 1]]), sp.diag(1, R(1, 100)), sp.Matrix([5, 4])
    norms = []
    for value in (0, 1):
        shift = (curvature + value * weight).LUsolve(force)
        norms.append((shift.T * shift)[0])
    proof.exact(
        "the norm grows where Lambda_q and H do not commute (H = [[2,1],[1,1]], Lambda_q = diag(1,1/100), gbar = "
        "(5,4))",
        norms[0] == 10 and norms[1] > 12,
        f"|dbar|^2 = {norms[0]} at gamma 0 and {norms[1]} = {float(norms[1]):.4g} at gamma 1",
    )
    skewed = weight.inv() * curvature
    threshold = min((skewed + skewed.T).eigenvals()) / 2
    proof.exact(
        "its symmetric part has the eigenvalue that this needs", threshold < -1, f"lowest {float(threshold):.4g} < -1"
    )
    mild = sp.diag(1, R(1, 2))
    both = (mild.inv() * curvature + (mild.inv() * curvature).T) / 2
    commute = curvature * mild == mild * curvature
    proof.exact(
        "not commuting is not enough for growth (same H, Lambda_q = diag(1,1/2))",
        not commute and both.det() >= 0 and both.trace() > 0,
        f"sym(Lambda_q^-1 H) has determinant {both.det()} and trace {both.trace()}: the norm falls for every force "
        "and gamma",
    )


def _dense(proof: Proof) -> None:
    formula, energy, size, sharp = 0.0, 0.0, 0.0, True
    for item in instances():
        huge = np.diag(np.full(item.g.size, 1e14))  # an anchor that holds the prior at c = 0
        direct, _ = item.equilibrium(A=huge)
        shifts = [np.linalg.solve(item.response(value), item.g) for value in GAMMAS]
        formula = max(formula, relative(np.linalg.solve(item.response(item.gamma), item.g), direct))
        energy = max(energy, largest_rise(np.array([item.g @ shift for shift in shifts])))
        size = max(size, largest_rise(np.array([shift @ (item.lam_q * shift) for shift in shifts])))
        skewed = item.H / item.lam_q[:, None]
        lowest, vectors = np.linalg.eigh(0.5 * (skewed + skewed.T))
        shift = (skewed + item.gamma * np.eye(item.g.size)) @ vectors[:, 0]  # the force that is worst for the norm
        slope = -shift @ np.linalg.solve(item.response(item.gamma), item.lam_q * shift)
        sharp &= bool((slope > 0) == (lowest[0] < -item.gamma))
    proof.close("response against the direct solve with a prior held by its anchor", formula, 1e-10, "d = 2 to 8")
    proof.close("energy never rises along gamma", energy, 1e-12, "d = 2 to 8, dense H")
    proof.close("precision-weighted size never rises along gamma", size, 1e-12, "d = 2 to 8, dense H")
    proof.record(
        "the norm criterion is sharp for the worst force", DENSE, sharp, "sign of the slope against the eigenvalue"
    )
