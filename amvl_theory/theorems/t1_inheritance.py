"""T1: what the forward KL makes of a prior whose posterior is given."""

from __future__ import annotations

import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import SYMBOLIC_2X2, Proof, theorem
from amvl_theory.theorems.proving.gaussian import (
    StopGradient,
    check_kl_by_integration,
    expectation,
    kl,
    positive_matrix,
)
from amvl_theory.theorems.proving.symbols import alpha, beta, c, s_p

dbar, E_var = sp.Symbol("deltabar", real=True), sp.Symbol("E_s", positive=True)
V = sp.Symbol("V", nonnegative=True)


@theorem(
    name="T1",
    statement=(
        "The best prior for a fixed posterior, the minimiser of E_y KL(q_y||p), matches its moments for any answer "
        "probabilities. It takes over the mean leakage in full, {inherited_mean}, and its variance grows by the "
        "spread V of the leakage: {inherited_variance}, where E_s is the posterior's variance averaged over the "
        "answers; only the diagonal of a full posterior covariance enters."
    ),
    beyond=(
        "an anchor holds the mean back: the variance then grows by the gap too, and the fixed point can be bistable; "
        "the reverse KL does not match moments"
    ),
    assumptions=(given.FIXED_POSTERIOR, given.WEIGHTS, given.FINITE_MOMENTS),
)
def prove_t1(proof: Proof) -> None:
    """Moment matching, that it is the global minimum, and what an anchor adds."""
    check_kl_by_integration(proof)
    _moment_matching(proof)
    _three_answers(proof)
    _dense_posterior(proof)
    _counter_examples(proof)


def _moment_matching(proof: Proof) -> None:
    mu, s, log_s = sp.Symbol("mu_y", real=True), sp.Symbol("s_y", positive=True), sp.Symbol("ell", real=True)
    sg = StopGradient(mu, s)
    one = kl(sg(mu), sg(s), c, s_p)
    moments = [1, dbar, V + dbar**2]  # E_y of 1, mu_y, mu_y^2: all that the probabilities enter by
    gradient = {
        x: sp.expand(expectation(expectation(sg.gradient(one, x), mu, moments), s, [1, E_var])) for x in (c, s_p)
    }
    proof.step(
        "Gradient of E_y KL(sg[q_y]||p) in the prior mean; E_y is linear, whatever the probabilities", gradient[c]
    )
    proof.step("and in the prior variance", sp.factor(gradient[s_p]))
    mean = sp.solve(gradient[c], c)
    variance = sp.solve(gradient[s_p], s_p)
    proof.exact("one stationary mean, one stationary variance", len(mean) == len(variance) == 1, "solutions counted")
    proof.state("inherited_mean", c, mean[0], dbar)
    proof.state("inherited_variance", s_p, variance[0], E_var + V + (dbar - c) ** 2)
    proof.equal("at the stationary mean it is E s + V", variance[0].subs(c, mean[0]), E_var + V)
    proof.equal(
        "an anchored mean solves beta (c - dbar) + alpha s_p c = 0",
        beta * gradient[c] + sp.diff(alpha * c**2 / 2, c),
        (beta * (c - dbar) + alpha * s_p * c) / s_p,
    )
    loss = expectation(expectation(kl(mu, s, c, s_p).subs(sp.log(s), log_s), mu, moments), s, [1, E_var])
    at_match = loss.subs({s_p: E_var + V, c: dbar})
    excess = sp.expand(loss - at_match - kl(dbar, E_var + V, c, s_p))
    proof.equal("E_y KL(q_y||p) exceeds its value at the match by KL(match||p)", sp.simplify(excess), sp.Integer(0))
    proof.step(
        "The excess over the matched prior is itself a KL, so the match is the global minimum",
        kl(dbar, E_var + V, c, s_p),
    )
    x = sp.Symbol("x", positive=True)
    slope = sp.diff(x - 1 - sp.log(x), x)
    low, high = sp.Symbol("epsilon", positive=True), sp.Symbol("eta", positive=True)
    proof.sign("x - 1 - log x rises above 1, so KL >= 0", slope.subs(x, 1 + low), low / (1 + low), "> 0")
    proof.sign("and falls below 1", slope.subs(x, 1 / (1 + high)), -high, "< 0")


def _three_answers(proof: Proof) -> None:
    """The same with three answers of arbitrary probabilities written out."""
    p1, p2 = sp.symbols("p_1 p_2", positive=True)
    weights = (p1, p2, 1 - p1 - p2)
    means, variances = sp.symbols("mu_1:4", real=True), sp.symbols("s_1:4", positive=True)
    loss = sum(w * kl(m, s, c, s_p) for w, m, s in zip(weights, means, variances, strict=True))
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    matched = sum(w * (s + (m - mean) ** 2) for w, m, s in zip(weights, means, variances, strict=True))
    proof.equal("three answers, any probabilities: the mean", sp.solve(sp.diff(loss, c), c)[0], mean)
    proof.equal("three answers: the variance", sp.diff(loss, s_p).subs({c: mean, s_p: matched}), sp.Integer(0))


def _dense_posterior(proof: Proof) -> None:
    """A full posterior covariance: a diagonal prior takes its diagonal."""
    covariance = positive_matrix("Sigma")
    mean = sp.Matrix(sp.symbols("mu_1:3", real=True))
    prior_mean, prior_var = sp.Matrix(sp.symbols("c_1:3", real=True)), sp.symbols("P_1:3", positive=True)
    inverse = sp.diag(*(1 / P for P in prior_var))
    gap = mean - prior_mean
    loss = ((inverse * covariance).trace() + (gap.T * inverse * gap)[0] + sum(map(sp.log, prior_var))) / 2
    solved_mean = [sp.solve(sp.diff(loss, x), x)[0] for x in prior_mean]
    solved_var = [sp.solve(sp.diff(loss, P).subs(dict(zip(prior_mean, mean, strict=True))), P)[0] for P in prior_var]
    proof.equal("dense posterior covariance: the mean is matched", sp.Matrix(solved_mean), mean, SYMBOLIC_2X2)
    diagonal = sp.Matrix([covariance[0, 0], covariance[1, 1]])
    proof.equal("dense posterior covariance: its diagonal is matched", sp.Matrix(solved_var), diagonal, SYMBOLIC_2X2)


def _counter_examples(proof: Proof) -> None:
    answers = ((sp.Integer(0), sp.Integer(1)), (sp.Integer(3), sp.Integer(2)))
    reverse = sum(kl(c, s_p, m, s) for m, s in answers) / 2
    mean = sp.solve(sp.diff(reverse, c), c)[0]
    variance = sp.solve(sp.diff(reverse, s_p), s_p)[0]
    proof.exact(
        "the reverse KL does not match moments (N(0,1) and N(3,2), equally probable)",
        mean == 1 and variance == sp.Rational(4, 3),
        f"KL(p||q_y) is least at mean {mean}, variance {variance}; matching moments gives 3/2 and 15/4",
    )
    values = {
        beta: sp.Integer(1),
        alpha: sp.Rational(1, 6),
        E_var: sp.Rational(1, 100),
        V: sp.Rational(0),
        dbar: sp.Integer(5),
    }
    stationary = (beta * (c - dbar) + alpha * c * (E_var + V + (dbar - c) ** 2)).subs(values)
    count = sp.Poly(stationary, c).count_roots(0, 5)
    proof.exact(
        "with an anchor and a free prior variance the match need not be unique (dbar 5, E s 1/100, alpha 1/6, beta 1)",
        count == 3,
        f"{stationary} has {count} roots in [0, 5] (Sturm count), so the anchored prior has more than one equilibrium",
    )
