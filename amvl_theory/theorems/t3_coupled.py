"""T3: the joint equilibrium of prior and posterior means, and which part of the contamination the reverse KL removes."""

from __future__ import annotations

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving import matrices as M
from amvl_theory.theorems.proving.core import SYMBOLIC_2X2, Proof, theorem
from amvl_theory.theorems.proving.dense import GAMMAS, instances, largest_rise, relative
from amvl_theory.theorems.proving.gaussian import matrix_gradients, one_mode_gradients, positive_matrix
from amvl_theory.theorems.proving.symbols import R, alpha, beta, c, delta, g, gamma, h, lambda_p, lambda_q, s_p, s_q


@theorem(
    name="T3",
    statement=(
        "With the prior free, prior and posterior meet at {contamination}, which with the absorption {absorption}, "
        "the share of the posterior's shift that the prior takes over, is {shift} and c = S dbar. Per mode "
        "{mode_contamination} with {mode_absorption}: for g != 0 the contamination falls with gamma if and only if s "
        "< 1. The reverse KL acts exactly like a stronger anchor, {anchor}, and nothing else. For diagonal A the "
        "response energy never grows with gamma, for any H."
    ),
    beyond=(
        "a fully absorbed prior is not protected at any gamma; with dense H or A single entries, |c| or the energy "
        "can grow"
    ),
    assumptions=(
        *given.MEAN_GAME,
        given.FIXED_VARIANCES,
        given.PRECISIONS,
        given.DIAGONAL_ANCHOR.only_for("the energy and the per-mode form"),
        given.DIAGONAL_CURVATURE.only_for("the per-mode form"),
        given.NOT_ABSORBED.only_for("a contamination that falls"),
        given.FORCE.only_for("a contamination that falls strictly"),
    ),
)
def prove_t3(proof: Proof) -> None:
    """Both matrix forms, the condition s < 1, the anchor equivalence, the energy, and what fails without the conditions."""
    _one_mode(proof)
    _two_modes(proof)
    _energy(proof)
    _counter_examples(proof)
    _dense(proof)


def _one_mode(proof: Proof) -> None:
    gradients = one_mode_gradients("amvl")
    fixed = {s_q: 1 / lambda_q, s_p: 1 / lambda_p}
    equations = [gradients[delta].subs(fixed), gradients[c].subs(fixed)]
    proof.step("Stationarity in delta (prior stopped)", sp.Eq(sp.expand(equations[0]), 0))
    proof.step("Stationarity in c (posterior stopped)", sp.Eq(sp.expand(equations[1]), 0))
    solution = sp.solve(equations, [delta, c], dict=True)[0]
    s, free = beta * lambda_p / (beta * lambda_p + alpha), sp.Symbol("s", positive=True)
    closed = free * g / (h + gamma * lambda_q * (1 - free))
    proof.state("mode_contamination", c, solution[c], closed, at={free: s})
    share = sp.factor(solution[c] / solution[delta])
    proof.state("mode_absorption", free, share, s)
    proof.equal("c = s dbar", solution[c], s * solution[delta])
    proof.step("contamination of a mode", closed)
    force = sp.Symbol("g", positive=True)  # the sign of g carries over to c
    slope = sp.diff(closed.subs(g, force), gamma)
    gap = h + gamma * lambda_q * (1 - free)
    proof.equal("slope in gamma is proportional to -(1 - s)", slope, -free * force * lambda_q * (1 - free) / gap**2)
    strict = sp.Symbol("r", positive=True)
    share, rest = 1 / (1 + strict), strict / (1 + strict)  # s and 1 - s for any s between 0 and 1
    written = -share * force * lambda_q * rest / (h + gamma * lambda_q * rest) ** 2
    from_loss = sp.diff(solution[c].subs({g: force, alpha: strict * beta * lambda_p}), gamma)
    proof.sign("0 < s < 1: contamination, as solved from the loss, falls strictly", from_loss, written, "< 0")
    flat = slope.subs(free, 1)
    proof.equal("s = 1: it does not change", flat, sp.Integer(0))
    anchored = alpha * (1 + gamma * lambda_q / h)
    other = sp.Symbol("alpha_stronger", positive=True)  # the anchor that leaves the same c without a reverse KL
    needed = sp.solve(solution[c].subs({gamma: 0, alpha: other}) - solution[c], other)[0]
    proof.state("anchor", other, needed, anchored)
    ratio = sp.limit(sp.cancel(closed / closed.subs(gamma, 0)), free, 0)
    proof.equal("s -> 0: the relative reduction of T2", ratio, h / (h + gamma * lambda_q))
    proof.equal(
        "s < 1: gamma -> infinity removes all",
        sp.limit(closed.subs(free, 1 / (1 + strict)), gamma, sp.oo),
        sp.Integer(0),
    )
    proof.sign(
        "the absorbed share 1 - s is alpha / (beta lambda_p + alpha)", 1 - s, alpha / (beta * lambda_p + alpha), "> 0"
    )
    proof.equal("without an anchor s = 1", s.subs(alpha, 0), sp.Integer(1))


def _two_modes(proof: Proof) -> None:
    curvature, anchor = positive_matrix("H"), positive_matrix("A")
    force = sp.Matrix(sp.symbols("g_1:3", real=True))
    lam_q, lam_p = sp.symbols("lambda_1:3", positive=True), sp.symbols("kappa_1:3", positive=True)
    mean_q, mean_p, in_delta, in_c = matrix_gradients(curvature, force, anchor, lam_q, lam_p)
    ratio = (beta * sp.diag(*lam_p)).inv() * anchor
    proof.step("Stationarity in c: dbar = (I + (beta Lambda_p)^-1 A) c = S^-1 c")
    shift = (sp.eye(2) + ratio) * mean_p
    at_shift = dict(zip(mean_q, shift, strict=True))
    proof.equal("dense H and A: it solves the prior's equation", in_c.subs(at_shift), sp.zeros(2, 1), SYMBOLIC_2X2)
    response = curvature + gamma * sp.diag(*lam_q)
    bracket = curvature + response * ratio
    proof.step("Insert it into stationarity in delta: [H + (H + gamma Lambda_q)(beta Lambda_p)^-1 A] c = gbar")
    left = in_delta.subs(at_shift)
    proof.equal(
        "dense H and A: what is left is the bracket times c minus gbar", left, bracket * mean_p - force, SYMBOLIC_2X2
    )
    precisions = {M.Lambda_q: sp.diag(*lam_q), M.Lambda_p: sp.diag(*lam_p)}
    values = {M.H: curvature, M.A: anchor, M.gbar: force, M.identity: sp.eye(2), **precisions}
    absorbed = (M.identity + (beta * M.Lambda_p).inv() * M.A).inv()
    inverse = (sp.eye(2) + ratio).adjugate() / (sp.eye(2) + ratio).det()  # of dbar = S^-1 c
    proof.state("absorption", M.S, inverse, absorbed, SYMBOLIC_2X2, at=values)
    closed = (M.H + (M.H + gamma * M.Lambda_q) * (beta * M.Lambda_p).inv() * M.A).inv() * M.gbar
    solved = bracket.adjugate() * force / bracket.det()  # of what is left
    proof.state("contamination", M.c, solved, closed, SYMBOLIC_2X2, at=values)
    closed = (M.H + gamma * M.Lambda_q * (M.identity - M.S)).inv() * M.gbar
    proof.state("shift", M.dbar, (sp.eye(2) + ratio) * solved, closed, SYMBOLIC_2X2, at={**values, M.S: inverse})
    other = (curvature + gamma * sp.diag(*lam_q)) * (sp.eye(2) + ratio) - gamma * sp.diag(*lam_q)
    proof.equal("dense H and A: it is [H + gamma Lambda_q (I - S)] S^-1", bracket, other, SYMBOLIC_2X2)
    scaled = beta * sp.diag(*lam_p) * curvature.inv() * response * ratio
    proof.equal(
        "dense: the anchor that replaces the reverse KL",
        curvature + curvature * ((beta * sp.diag(*lam_p)).inv() * scaled),
        bracket,
        SYMBOLIC_2X2,
    )


def _energy(proof: Proof) -> None:
    proof.step(
        "Energy, diagonal A, any d: D = Lambda_q (I - S) is diagonal and >= 0, so d(gbar^T dbar)/d gamma = -dbar^T D "
        "dbar <= 0"
    )
    curvature, force = positive_matrix("H"), sp.Matrix(sp.symbols("g_1:3", real=True))
    pulls, shift = sp.symbols("D_1:3", nonnegative=True), sp.Matrix(sp.symbols("delta_1:3", real=True))
    matrix = curvature + gamma * sp.diag(*pulls)
    form = -sum(p * x**2 for p, x in zip(pulls, shift, strict=True))
    solved = matrix.adjugate() * force / matrix.det()
    slope = sp.diff((force.T * solved)[0], gamma)
    expected = form.subs(dict(zip(shift, solved, strict=True)))
    proof.equal("dense H, diagonal A: slope of the energy is -dbar^T D dbar", slope, expected, SYMBOLIC_2X2)
    quadratic = -(shift.T * sp.diag(*pulls) * shift)[0]
    proof.sign("which is a negative sum of squares", quadratic, form, "<= 0", SYMBOLIC_2X2)


def solve_exact(
    H: sp.Matrix, A: sp.Matrix, lam_q: sp.Matrix, force: sp.Matrix, weight: sp.Expr
) -> tuple[sp.Matrix, sp.Matrix]:
    """(dbar, c) in exact rationals from both stationarity equations; beta = 1, Lambda_p = I."""
    size = H.shape[0]
    system = sp.Matrix(sp.BlockMatrix([[H + weight * lam_q, -weight * lam_q], [-sp.eye(size), sp.eye(size) + A]]))
    both = system.LUsolve(sp.Matrix([*force, *([0] * size)]))
    return both[:size, :], both[size:, :]


def _counter_examples(proof: Proof) -> None:
    H, force, x = sp.Matrix([[1, 1], [1, 2]]), sp.Matrix([1, 2]), sp.Symbol("x", nonnegative=True)
    _, moved = solve_exact(H, sp.diag(0, 10), sp.eye(2), force, x)
    first = sp.cancel(moved[0])
    proof.exact(
        "dense H: a fully absorbed mode moves (H = [[1,1],[1,2]], A = diag(0,10), g = (1,2), the rest 1)",
        first == 10 * x / (10 * x + 11),
        f"its contamination is {first} at gamma = x: from 0 to 1",
    )
    norms = [sum(v**2 for v in solve_exact(H, sp.diag(1, 9), sp.eye(2), force, sp.Integer(k))[1]) for k in (0, 1)]
    proof.exact(
        "dense H: |c| grows although every mode is anchored (the same with A = diag(1,9), gamma 0 and 1)",
        norms == [R(1, 100), R(97, 4489)],
        f"|c|^2 goes from {norms[0]} to {norms[1]}",
    )
    skew, push = sp.diag(1, 5), sp.Matrix([3, -1])
    shift, _ = solve_exact(sp.eye(2), sp.ones(2, 2), skew, push, x)
    energy = sp.factor((push.T * shift)[0])
    rise = sp.factor(sp.diff(energy, x))
    proof.exact(
        "A not diagonal: the energy grows (H = I, A = [[1,1],[1,1]], Lambda_q = diag(1,5), g = (3,-1), the rest 1)",
        sp.cancel(energy - 10 - 4 * x / (3 + 6 * x)) == 0 and rise.subs(x, 0) > 0,
        f"it is 10 + 4x/(3 + 6x) at gamma = x: 10, 94/9 at gamma 1, up to 32/3; slope {rise}",
    )
    dense, odd = sp.Matrix([[1, 2], [2, 5]]), sp.Matrix([[1, 1], [1, R(11, 10)]])
    bracket = dense + (dense + sp.diag(1, R(67, 7))) * odd
    proof.exact(
        "H and A dense: there may be no equilibrium (H = [[1,2],[2,5]], A = [[1,1],[1,11/10]], Lambda_q = "
        "diag(1,67/7), the rest 1)",
        bracket.det() == 0 and dense.det() > 0 and odd.det() > 0,
        f"H + (H + gamma Lambda_q) A = {bracket.tolist()} is singular",
    )


def _dense(proof: Proof) -> None:
    first, second, anchor, rise = 0.0, 0.0, 0.0, 0.0
    for item in instances():
        eye, pull = np.eye(item.g.size), item.beta * np.diag(item.lam_p)
        shift, prior = item.equilibrium()
        ratio = np.linalg.solve(pull, item.A)
        response = item.response(item.gamma)
        S = np.linalg.solve(eye + ratio, eye)
        closed = np.linalg.solve(item.H + item.gamma * np.diag(item.lam_q) @ (eye - S), item.g)
        stronger = pull @ np.linalg.solve(item.H, response @ ratio)
        first = max(first, relative(np.linalg.solve(item.H + response @ ratio, item.g), prior))
        second = max(second, relative(closed, shift), relative(S @ closed, prior))
        anchor = max(anchor, relative(item.equilibrium(gamma=0.0, A=stronger)[1], prior))
        rise = max(rise, largest_rise(np.array([item.g @ item.equilibrium(gamma=value)[0] for value in GAMMAS])))
    for item in instances(dense_anchor=True):
        response = item.response(item.gamma)
        closed = np.linalg.solve(item.H + response @ np.linalg.solve(item.beta * np.diag(item.lam_p), item.A), item.g)
        first = max(first, relative(closed, item.equilibrium()[1]))
    proof.close(
        "c = [H + (H + gamma Lambda_q)(beta Lambda_p)^-1 A]^-1 gbar", first, 1e-10, "d = 2 to 8, diagonal and dense A"
    )
    proof.close("dbar and c by the absorption S", second, 1e-10, "d = 2 to 8, diagonal A")
    proof.close("the reverse KL as an anchor, as a matrix", anchor, 1e-9, "d = 2 to 8, dense H")
    proof.close("energy never rises along gamma", rise, 1e-12, "d = 2 to 8, dense H, diagonal A")
