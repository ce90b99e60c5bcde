"""T5: forward-only, ELBO and dual KL compared, with variances fixed and with variances free."""

from __future__ import annotations

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import DENSE, SYMBOLIC_2X2, Proof, theorem
from amvl_theory.theorems.proving.dense import instances, relative
from amvl_theory.theorems.proving.free_variances.coupled import E, dual, elbo, forward
from amvl_theory.theorems.proving.gaussian import matrix_gradients, one_mode_gradients, positive_matrix
from amvl_theory.theorems.proving.symbols import (
    R,
    alpha,
    beta,
    c,
    delta,
    g,
    gamma,
    gbar,
    h,
    lambda_p,
    lambda_q,
    s_p,
    s_q,
    v0,
)
from amvl_theory.theorems.t3_coupled import solve_exact


@theorem(
    name="T5",
    statement=(
        "At fixed variances the ELBO pulls the posterior with beta Lambda_p where dual KL pulls with gamma Lambda_q: "
        "per mode dual KL leaves {fixed_dual} and the ELBO {fixed_elbo}, equal where {equal_gamma}, and forward-only "
        "at least as much as either (equal at s = 0 and s = 1). With means and variances free (one mode, shared "
        "variance) every objective leaves {free_contamination}, where, with E = E_y (g_y - h c)^2, forward-only has "
        "{factor_forward}, an ELBO that has not collapsed the same, {factor_elbo}, and dual KL {factor_dual} until it "
        "collapses at gamma h / 2 = E, from where on {factor_collapsed_dual} (ELBO: at beta h = E, from where on "
        "{factor_collapsed_elbo}). So an ELBO that has not collapsed leaves exactly the contamination of forward-"
        "only, and dual KL strictly less, branch by branch: the equations can have three roots, of which the smallest "
        "and the largest are ranked; gbar^2 <= 3 v0 suffices for a single one."
    ),
    beyond=(
        "in transients the ranking can reverse; with several roots only the smallest, and the largest, are ranked; "
        "with dense H forward-only can be less contaminated; under saturation the ranking can reverse"
    ),
    assumptions=(
        *given.MEAN_GAME,
        given.FIXED_VARIANCES.only_for("the first ranking"),
        given.DIAGONAL_CURVATURE.only_for("the first ranking"),
        given.DIAGONAL_ANCHOR.only_for("the first ranking"),
        given.FREE_VARIANCES.only_for("X"),
        given.SHARED_VARIANCE.only_for("X"),
        given.ONE_MODE.only_for("X"),
        given.NOT_ABSORBED.only_for("strictly less; without an anchor every objective leaves gbar / h"),
        given.FORCE.only_for("strictly less"),
        given.UNIQUE_ROOT.only_for("a ranking that does not name the branch"),
    ),
)
def prove_t5(proof: Proof) -> None:
    """Both rankings, the transient and the bistable instance that limit them."""
    _fixed_variances(proof)
    _fixed_dense(proof)
    _transient(proof)
    _free_variances(proof)
    _branches(proof)
    _bistable(proof)


def _fixed_variances(proof: Proof) -> None:
    fixed = {s_q: 1 / lambda_q, s_p: 1 / lambda_p}
    values = {}
    for objective in ("amvl", "elbo", "ntp+fwd"):
        gradients = one_mode_gradients(objective)
        equations = [gradients[delta].subs(fixed), gradients[c].subs(fixed)]
        values[objective] = sp.factor(sp.solve(equations, [delta, c], dict=True)[0][c])
        proof.step(f"{objective}, fixed variances: contamination of a mode", values[objective])
    pulled, anchored = beta * lambda_p + alpha, beta * lambda_p * g
    dual_rest, elbo_rest = h * pulled + alpha * gamma * lambda_q, h * pulled + alpha * beta * lambda_p
    proof.state("fixed_dual", c, values["amvl"], anchored / dual_rest)
    proof.state("fixed_elbo", c, values["elbo"], anchored / elbo_rest)
    meeting = sp.solve(values["amvl"] - values["elbo"], gamma)[0]
    proof.state("equal_gamma", gamma, meeting, beta * lambda_p / lambda_q)
    proof.equal("forward-only is dual KL at gamma = 0", values["amvl"].subs(gamma, 0), values["ntp+fwd"])
    share, pull, push = sp.Symbol("s", nonnegative=True), sp.Symbol("p", positive=True), sp.Symbol("g", positive=True)
    rest = sp.Symbol("r", nonnegative=True)  # 1 - s
    general = share * push / (h + pull * rest)
    gap = share * push / h - general
    proof.sign(
        "forward-only minus either (pull p = gamma lambda_q or beta lambda_p)",
        gap,
        share * push * pull * rest / (h * (h + pull * rest)),
        ">= 0",
    )
    s = beta * lambda_p / (beta * lambda_p + alpha)
    proof.equal(
        "dual KL in that form",
        values["amvl"].subs(g, push),
        general.subs({pull: gamma * lambda_q, rest: 1 - s, share: s}),
    )
    proof.equal(
        "ELBO in that form", values["elbo"].subs(g, push), general.subs({pull: beta * lambda_p, rest: 1 - s, share: s})
    )
    proof.equal(
        "the gap closes at s = 0 and at s = 1", sp.Matrix([gap.subs(share, 0), gap.subs(rest, 0)]), sp.zeros(2, 1)
    )


def _fixed_dense(proof: Proof) -> None:
    curvature, anchor = positive_matrix("H"), positive_matrix("A")
    force, lam = sp.Matrix(sp.symbols("g_1:3", real=True)), sp.symbols("lambda_1:3", positive=True)
    pull = sp.diag(*lam)
    mean_q, mean_p, in_delta, in_c = matrix_gradients(curvature, force, anchor, lam, lam, "elbo")
    proof.equal(
        "dense: the ELBO pulls delta with beta Lambda_p",
        in_delta,
        curvature * mean_q - force + beta * pull * (mean_q - mean_p),
        SYMBOLIC_2X2,
    )
    proof.equal("dense: and c as before", in_c, beta * pull * (mean_p - mean_q) + anchor * mean_p, SYMBOLIC_2X2)
    error = 0.0
    for item in instances():
        ratio = np.linalg.solve(item.beta * np.diag(item.lam_p), item.A)
        response = item.H + item.beta * np.diag(item.lam_p)
        closed = np.linalg.solve(item.H + response @ ratio, item.g)
        pull_p = item.beta * np.diag(item.lam_p)
        system = np.block([[item.H + pull_p, -pull_p], [-pull_p, pull_p + item.A]])
        direct = np.linalg.solve(system, np.concatenate([item.g, 0 * item.g]))[item.g.size :]
        error = max(error, relative(closed, direct))
    proof.close(
        "ELBO contamination by T3 with gamma Lambda_q replaced by beta Lambda_p", error, 1e-10, "d = 2 to 8, dense H"
    )
    H, push = sp.Matrix([[1, 1], [1, 2]]), sp.Matrix([1, 2])
    norms = [sum(x**2 for x in solve_exact(H, sp.diag(1, 9), sp.eye(2), push, sp.Integer(k))[1]) for k in (0, 1)]
    proof.exact(
        "dense H: forward-only can be less contaminated, for dual KL and ELBO alike (T3's instance, A = diag(1,9), "
        "Lambda = I, beta = gamma = 1)",
        norms[0] < norms[1],
        f"|c|^2 = {norms[0]} forward-only, {norms[1]} with either reverse pull",
    )


def _transient(proof: Proof) -> None:
    t = sp.Symbol("t", nonnegative=True)
    rates = sp.Matrix([[-3, 2], [1, R(-6, 5)]])
    mean_rate, omega = R(21, 10), sp.sqrt(R(281, 100))
    prior = sp.exp(-mean_rate * t) * (sp.cosh(omega * t) + R(9, 10) * sp.sinh(omega * t) / omega)
    shift = sp.diff(prior, t) + R(6, 5) * prior
    system = sp.Matrix([shift, prior])
    residual = (system.diff(t) - rates * system).applyfunc(lambda x: sp.expand(x.rewrite(sp.exp)))
    proof.equal("transient: the exact solution solves the flow", residual, sp.zeros(2, 1))
    proof.equal("transient: and starts at delta = 0, c = 1", system.subs(t, 0), sp.Matrix([0, 1]))
    at_three = prior.subs(t, 3)
    forward_only = sp.exp(R(-18, 5))
    proof.exact(
        "a transient in which dual KL is worse (delta(0) = 0, c(0) = 1, gbar = 0, h = lambda = beta = 1, alpha = "
        "1/5, gamma = 2)",
        (at_three - forward_only).is_positive,
        f"c(3) = {float(at_three):.4f} for dual KL, exp(-18/5) = {float(forward_only):.4f} for forward-only; both "
        "equilibria are 0",
    )
    proof.step("transient of c under dual KL from delta = 0, c = 1", prior)


def _free_variances(proof: Proof) -> None:
    result = {"ntp+fwd": forward(proof), "elbo": elbo(proof), "amvl": dual(proof)}
    root = sp.sqrt(gamma * h * E / 2)
    expected = {"ntp+fwd": E, "elbo": E, "amvl": E + root}
    x = sp.Symbol("X", positive=True)
    for name, (objective, value) in zip(("forward", "elbo", "dual"), expected.items(), strict=True):
        proof.state(f"factor_{name}", x, result[objective].X, value / h)
        proof.step(f"{objective}: h X with free variances, active branch", value)
    equation = beta * (gbar - h * c) - alpha * c * x
    proof.state("free_contamination", c, sp.solve(equation, c)[0], beta * gbar / (beta * h + alpha * x))
    proof.equal("the active ELBO starts at E = beta h", sp.solve(result["elbo"].prior_variance, E)[0], beta * h)
    proof.equal(
        "the active dual KL starts at E = gamma h / 2",
        result["amvl"].posterior_variance.subs(E, gamma * h / 2),
        sp.Integer(0),
    )
    shrink = sp.Symbol("s", positive=True)
    W_dual = E * shrink**2 / (h * shrink + gamma) ** 2
    collapsed_dual = sp.limit((shrink + W_dual) * (h * shrink + gamma) / shrink, shrink, 0)
    proof.state("factor_collapsed_dual", x, collapsed_dual, gamma)  # s -> 0, s_p = s + W
    collapsed_elbo = sp.limit(s_p * (h + beta / s_p), s_p, 0)
    proof.state("factor_collapsed_elbo", x, collapsed_elbo, beta)  # s_p -> 0
    proof.equal("X is continuous where dual KL collapses", expected["amvl"].subs(E, gamma * h / 2), gamma * h)
    less = sp.Symbol("e", positive=True)
    proof.sign(
        "dual KL's X exceeds that of forward-only where active", expected["amvl"] - expected["ntp+fwd"], root, "> 0"
    )
    saturated = (h * gamma - E).subs(gamma, 2 * (E + less) / h)
    proof.sign("and where saturated (gamma h / 2 = E + e)", saturated, E + 2 * less, "> 0")
    unanchored = sp.solve(equation.subs(alpha, 0), c)[0]
    proof.equal("without an anchor c = gbar / h under every objective", unanchored, gbar / h)
    proof.sign(
        "a larger X means a smaller c (gbar > 0)",
        sp.diff(beta * v0 / (beta * h + alpha * x), x),
        -alpha * beta * v0 / (beta * h + alpha * x) ** 2,
        "< 0",
    )


def _branches(proof: Proof) -> None:
    proof.step(
        "With F(c) = beta (gbar - h c) - alpha c X(c), F(0) > 0 > F(gbar/h) for gbar > 0, and F_dual < F_fwd for c > "
        "0, because X_dual > X_fwd at "
        "every c. So the smallest root of F_dual lies below the smallest root of F_fwd, and its largest below the "
        "largest"
    )
    u = sp.Symbol("u", real=True)  # gbar - h c
    mean_square = v0 + u**2
    place = (gbar - u) / h
    forward_slope = beta + sp.diff(alpha * (-1) * place * mean_square / h, u)  # dF/du, c = (gbar - u) / h
    written = beta + alpha * (3 * (u - gbar / 3) ** 2 + v0 - gbar**2 / 3) / h**2
    proof.equal("dF/du of forward-only, with u = gbar - h c: positive where gbar^2 <= 3 v0", forward_slope, written)
    extra = sp.sqrt(gamma * h / 2) * sp.diff(-place * sp.sqrt(mean_square) / h, u)
    form = sp.sqrt(gamma * h / 2) * (2 * (u - gbar / 4) ** 2 + v0 - gbar**2 / 8) / (h**2 * sp.sqrt(mean_square))
    proof.equal("what dual KL adds to it: positive where gbar^2 <= 8 v0", extra, form)
    surplus = sp.Symbol("w", nonnegative=True)  # v0 - gbar^2 / 3
    first = beta + alpha * (3 * (u - gbar / 3) ** 2 + surplus) / h**2
    numerator = 2 * (u - gbar / 4) ** 2 + 5 * gbar**2 / 24 + surplus
    second = sp.sqrt(gamma * h / 2) * numerator / (h**2 * sp.sqrt(mean_square))
    for name, value, explicit in (
        ("forward-only and active ELBO", written, first),
        ("what dual KL adds", form, second),
    ):
        proof.equal(f"{name}: slope with w = v0 - gbar^2/3", explicit.subs(surplus, v0 - gbar**2 / 3), value)
        square = sp.Symbol("M", positive=True)  # v0 + u^2
        turned, signed = value.subs(mean_square, square), explicit.subs(mean_square, square)
        turned = turned.subs(v0, surplus + gbar**2 / 3)
        proof.sign(f"{name}: w >= 0 makes it a sum of squares, hence one root", turned, signed, ">= 0")
    proof.step(
        "gbar^2 <= 3 v0: F rises strictly in u on every branch (X is constant on collapsed ones), hence one root", first
    )


def _bistable(proof: Proof) -> None:
    x = sp.Symbol("c")
    mean_square = R(1, 100) + (3 - x) ** 2
    tiny = R(1, 1000)  # gamma h / 2
    left = (3 - x) - x * mean_square
    squared = sp.Poly(sp.expand(left**2 - x**2 * tiny * mean_square), x)
    roots = [r for r in squared.intervals(eps=R(1, 10**6)) if left.subs(x, sum(r[0]) / 2) > 0]
    places = [float(sum(r[0]) / 2) for r in roots]
    proof.exact(
        "dual KL can be bistable (v0 = 1/100, gbar = 3, h = alpha = beta = 1, gamma = 1/500)",
        len(places) == 3 and abs(places[0] - 0.376) < 1e-3 and abs(places[-1] - 2.95) < 5e-3,
        f"three roots, isolated by Sturm's method: {', '.join(f'{p:.4f}' for p in places)}",
    )
    other = sp.Poly(sp.expand(left), x)
    fwd = [float(sum(r[0]) / 2) for r in other.intervals(eps=R(1, 10**6))]
    proof.exact(
        "so the ranking needs the branch: dual KL on its high branch is worse than forward-only on its low one (same "
        "instance)",
        len(fwd) == 3 and places[-1] > fwd[0] and all(d < f for d, f in zip(places[::2], fwd[::2], strict=True)),
        f"forward-only {', '.join(f'{p:.4f}' for p in fwd)}; smallest and largest roots are ranked as stated",
    )
    _bistable_stability(proof, places)


def _bistable_stability(proof: Proof, places: list[float]) -> None:
    """Eigenvalues of the flow of (dbar, spread, log s_q, c, log s_p) with the forces gbar +- 1/10 at each root."""
    gradients = one_mode_gradients("amvl")
    up, down = sp.symbols("delta_up delta_down", real=True)
    push = {h: 1, alpha: 1, beta: 1, gamma: R(1, 500)}
    shared = {
        k: (gradients[k].subs({delta: up, g: R(31, 10)}) + gradients[k].subs({delta: down, g: R(29, 10)})) / 2
        for k in (c, s_q, s_p)
    }
    field = [-gradients[delta].subs({delta: up, g: R(31, 10)}), -gradients[delta].subs({delta: down, g: R(29, 10)})]
    field += [-shared[c], -s_q * shared[s_q], -s_p * shared[s_p]]
    unknowns = (up, down, c, s_q, s_p)
    system = sp.Matrix(field).subs(push)
    jacobian = sp.lambdify(unknowns, system.jacobian(unknowns))
    values = sp.lambdify(unknowns, system)
    rates, error = [], 0.0
    for place in places:
        mean_square = 0.01 + (3 - place) ** 2
        s = np.sqrt(0.004 * mean_square) - 0.002
        scale = s / (s + 0.002)
        point = (place + scale * (3.1 - place), place + scale * (2.9 - place), place, s, s + scale**2 * mean_square)
        error = max(error, float(np.abs(values(*point)).max()))
        rates.append(float(np.linalg.eigvals(np.array(jacobian(*point), dtype=float)).real.max()))
    proof.close(
        "bistable instance: the roots are equilibria of the full flow of means and variances",
        error,
        1e-3,
        "gradients of the loss",
    )
    proof.record(
        "bistable instance: the outer roots are stable, the middle one is not",
        DENSE,
        rates[0] < 0 < rates[1] and rates[2] < 0,
        f"largest real parts {', '.join(f'{r:.3g}' for r in rates)}, forces gbar +- 1/10, unit rates, log variances",
    )
