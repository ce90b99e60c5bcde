"""T6: the variance channel, and the weight above which the posterior carries no answer information."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import DENSE, QUADRATURE, Proof, theorem
from amvl_theory.theorems.proving.free_variances.coupled import Coupled, E, dual, elbo
from amvl_theory.theorems.proving.free_variances.per_answer import (
    balanced_information,
    check_kurtosis,
    per_answer_spread,
)
from amvl_theory.theorems.proving.free_variances.several_modes import check_group_lasso, check_hysteresis
from amvl_theory.theorems.proving.symbols import R, beta, gamma, h, v0


@theorem(
    name="T6",
    statement=(
        "One mode, shared variance, c = 0, matched prior variance, v0 = E_y g_y^2: above a critical weight the "
        "posterior says nothing about the answer. Dual KL has {dual_variance} with {dual_width}, hence the signal-to-"
        "noise ratio {dual_snr}, below {dual_threshold}; the ELBO has {elbo_variance} with {elbo_width}, hence "
        "{elbo_snr}, below {elbo_threshold}; V = 0 above. Leaked information 1/2 log(1 + SNR) grows like 1/4 "
        "log(1/gamma), against 1/2 log(1/beta); at equal weight dual KL leaks less only below {crossover}, in units "
        "of beta_c. Several modes, dense H: the dual-KL equilibria that are stable are the minimiser of a convex "
        "group lasso, unique, with total collapse if and only if gamma >= max_i 2 G_ii / H_ii. With a variance per "
        "answer gamma_c remains the local threshold, and the transition is continuous for a force kurtosis below 3."
    ),
    beyond=(
        "per-answer variances change the numbers, and give hysteresis above a force kurtosis of 3; the dense ELBO is "
        "hysteretic"
    ),
    assumptions=(
        given.CURVATURE,
        given.LINEAR_RESPONSE,
        given.WEIGHTS,
        given.FREE_VARIANCES,
        given.SHARED_VARIANCE,
        given.UNBIASED_OR_RAW,
        given.ONE_MODE.only_for("the closed forms"),
        given.PRECISIONS.only_for("the group lasso"),
        given.BALANCED_PAIR.only_for("the closed forms where every answer has a variance of its own"),
    ),
)
def prove_t6(proof: Proof) -> None:
    """Both quadratics, thresholds and ratios; the crossover; collapse of linear VAEs; several modes; per-answer variances."""
    result = {"amvl": dual(proof), "elbo": elbo(proof)}
    _quadratics(proof)
    _closed_forms(proof, result)
    _crossover(proof)
    _rates(proof)
    _linear_vae(proof)
    _collapsed_point(proof)
    check_group_lasso(proof)
    check_hysteresis(proof)
    check_kurtosis(proof)
    _quadrature(proof)


def _quadratics(proof: Proof) -> None:
    """The quadratic of each objective in s = sigma_q^2, with V given."""
    s, V, P = sp.symbols("s V P", positive=True)
    leading, constant = h, -gamma * (P + V)
    proof.sign(
        "dual: the roots of h s^2 + gamma s - gamma (sigma_p^2 + V) have opposite signs",
        constant / leading,
        -gamma * (P + V) / h,
        "< 0",
    )
    matched = beta * (s + V) / (h * (s + V) + beta)  # the ELBO's sigma_q^2 with sigma_p^2 = s + V
    quadratic = sp.expand(sp.fraction(sp.together(s - matched))[0])
    proof.equal("elbo: h s^2 + h V s - beta V = 0", quadratic, h * s**2 + h * V * s - beta * V)
    closed = (-V + sp.sqrt(V**2 + 4 * beta * V / h)) / 2
    proof.equal(
        "elbo: sigma_q^2 = (-V + sqrt(V^2 + 4 beta V / h)) / 2", sp.expand(quadratic.subs(s, closed)), sp.Integer(0)
    )
    proof.step("ELBO, quadratic in s = sigma_q^2 with the matched prior", sp.Eq(quadratic, 0))


def _closed_forms(proof: Proof, found: dict[str, Coupled]) -> None:
    """T5's active branch at c = 0, where E = v0, against the stated closed forms."""
    gamma_c, beta_c = 2 * v0 / h, v0 / h
    excess, spread, ratio = sp.Symbol("x", positive=True), sp.Symbol("V", positive=True), sp.Symbol("SNR")
    V, s = (found["amvl"].W.subs(E, v0), found["amvl"].posterior_variance.subs(E, v0))
    stated = (sp.sqrt(v0) - sp.sqrt(gamma * h / 2)) / h
    proof.state("dual_variance", spread, V, stated**2)
    proof.state("dual_width", sp.Symbol("s_q") ** 2, s**2, 2 * gamma * spread / h, at={spread: stated**2})
    critical = sp.Symbol("gamma_c", positive=True)
    proof.state("dual_snr", ratio, sp.radsimp(V / s), (sp.sqrt(critical / gamma) - 1) / 2, at={critical: gamma_c})
    proof.state("dual_threshold", critical, sp.solve(s, gamma)[-1], gamma_c)
    below = gamma_c / (1 + excess) ** 2
    proof.sign("dual: active below gamma_c", s.subs(gamma, below), 2 * v0 * excess / (h**2 * (1 + excess) ** 2), "> 0")
    proof.sign(
        "dual: no positive variance above gamma_c",
        s.subs(gamma, gamma_c * (1 + excess) ** 2),
        -2 * v0 * excess * (1 + excess) / h**2,
        "< 0",
    )
    proof.step("dual KL: V below gamma_c", stated**2)
    V, s = (found["elbo"].W.subs(E, v0), found["elbo"].posterior_variance.subs(E, v0))
    stated = sp.sqrt(v0) / h - beta / sp.sqrt(v0)
    proof.state("elbo_variance", spread, V, stated**2)
    critical = sp.Symbol("beta_c", positive=True)
    proof.state("elbo_width", sp.Symbol("s_q"), s, beta / h * (1 - beta / critical), at={critical: beta_c})
    proof.state("elbo_snr", ratio, sp.cancel(V / s), critical / beta - 1, at={critical: beta_c})
    proof.state("elbo_threshold", critical, sp.solve(stated, beta)[0], beta_c)
    P = found["elbo"].prior_variance.subs(E, v0)
    proof.sign(
        "elbo: active below beta_c", P.subs(beta, beta_c / (1 + excess)), v0 * excess / (h**2 * (1 + excess)), "> 0"
    )
    proof.sign(
        "elbo: no positive variance above beta_c", P.subs(beta, beta_c * (1 + excess)), -v0 * excess / h**2, "< 0"
    )
    proof.step("ELBO: V below beta_c", stated**2)


def _crossover(proof: Proof) -> None:
    y, w = sp.symbols("y w", positive=True)  # y = sqrt(2 beta_c / w)
    proof.equal("in y = sqrt(2 beta_c / w): SNR_elbo - SNR_dual", (y**2 / 2 - 1) - (y - 1) / 2, (y**2 - y - 1) / 2)
    golden = (1 + sp.sqrt(5)) / 2
    roots = sp.solve(y**2 - y - 1, y)
    proof.equal("its one positive root is the golden ratio", sp.Matrix(roots), sp.Matrix([golden]))
    crossing = sp.solve(sp.sqrt(2 / w) - golden, w)[0]
    proof.state("crossover", sp.Symbol("w_equal"), crossing, 2 / golden**2)
    proof.step("equal leakage at the weight, in units of beta_c", sp.nsimplify(sp.radsimp(2 / golden**2)))
    values = [((1 / k - 1), (sp.sqrt(2 / k) - 1) / 2) for k in (R(1, 2), R(8, 9))]
    proof.exact(
        "neither objective dominates (v0 = h = 1, so beta_c = 1, gamma_c = 2; weights 1/2 and 8/9)",
        values == [(1, R(1, 2)), (R(1, 8), R(1, 4))],
        f"(ELBO, dual) SNR {values[0]} at weight 1/2 and {values[1]} at weight 8/9",
    )


def _rates(proof: Proof) -> None:
    u, k = sp.symbols("u k", positive=True)  # u = sqrt(gamma_c / gamma) or beta_c / beta
    dual_rate = sp.limit(sp.log(1 + (u - 1) / 2) / 2 / (2 * sp.log(u) - sp.log(k)), u, sp.oo)
    elbo_rate = sp.limit(sp.log(1 + (u - 1)) / 2 / (sp.log(u) - sp.log(k)), u, sp.oo)
    proof.equal("leaked nats / log(1/weight) at small weight, dual KL", dual_rate, R(1, 4))
    proof.equal("leaked nats / log(1/weight) at small weight, ELBO", elbo_rate, R(1, 2))


def _linear_vae(proof: Proof) -> None:
    """Decoder x ~ N(w z, n): its negative log-likelihood is the model's answer loss with g = w x / n and h = w^2 / n."""
    x, z = sp.symbols("x z", real=True)
    w, n, var = sp.symbols("w n Var_x", positive=True)
    nll = (x - w * z) ** 2 / (2 * n)
    push, curve = -sp.diff(nll, z).subs(z, 0), sp.diff(nll, z, 2)
    proof.equal("linear VAE: force w x / n", push, w * x / n)
    threshold = (push.subs(x, 1) ** 2 * var) / curve
    proof.equal("linear VAE: beta_c = Var(x) / sigma_x^2", sp.cancel(threshold), var / n)
    prior = (v0 / h - beta) / h
    explained = (w**2 * prior).subs({v0: w**2 * var / n**2, h: w**2 / n})
    proof.equal(
        "linear VAE: w^2 sigma_p^2 = Var(x) - beta sigma_x^2, that of probabilistic PCA at beta = 1",
        explained,
        var - beta * n,
    )
    # The same from the side of a learned slope W and a unit prior: dL/dW at the optimal encoder.
    squared = sp.Symbol("q", positive=True)  # W^2
    rate = squared / n + beta
    loss = var / (2 * n) - (squared * var / n**2) / (2 * rate) + beta / 2 * sp.log(rate)
    gradient = sp.factor(sp.diff(loss, squared))
    form = beta * (squared - (var - beta * n)) / (2 * (squared + beta * n) ** 2)
    proof.equal("linear VAE, unit prior: gradient in the squared slope q", gradient, form)
    proof.step(
        "linear VAE with a unit prior: gradient in the squared decoder slope q, positive for all q if Var(x) <= beta n",
        gradient,
    )


def _collapsed_point(proof: Proof) -> None:
    """sigma_q = 0 is a fixed point at any weight: how it repels below gamma_c and attracts above."""
    s = sp.Symbol("s", positive=True)
    slope = (
        h / 2 - gamma * v0 / (h * s + gamma) ** 2
    )  # d loss / d sigma_q^2 with the prior matched and delta at equilibrium
    V = v0 * s**2 / (h * s + gamma) ** 2
    proof.equal(
        "gradient in sigma_q^2 with prior and means at equilibrium",
        h / 2 + gamma / 2 * (1 / s - (s + 2 * V) / s**2),
        slope,
    )
    flow = -(s**2) * slope  # gradient flow of log sigma_q, up to a constant rate; s = sigma_q^2
    lead = sp.series(flow, s, 0, 3).removeO().coeff(s, 2)
    proof.equal(
        "log-std flow near s = 0: ds/dt = (v0/gamma - h/2) s^2, so 1/t decay above gamma_c", lead, v0 / gamma - h / 2
    )
    critical = sp.series(flow.subs(gamma, 2 * v0 / h), s, 0, 4).removeO()
    third = critical.coeff(s, 3)
    proof.equal("at gamma_c the next order: ds/dt ~ -s^3, so t^(-1/2)", critical, third * s**3)
    proof.sign("with a negative coefficient", third, -(h**3) / (2 * v0), "< 0")
    eta = sp.Symbol("eta", positive=True)
    edge = sp.solve(eta * (h + gamma / s) - 2, s)[0]
    proof.equal(
        "explicit steps of the means lose stability at sigma_q^2 = eta gamma / (2 - eta h)",
        edge,
        eta * gamma / (2 - eta * h),
    )


def _quadrature(proof: Proof) -> None:
    worst, bound = 0.0, 0.0
    for ratio in (0.02, 0.1202, 0.8868, 2.2735, 10.0):
        nats = balanced_information(ratio)
        worst = max(worst, nats - 0.5 * float(np.log1p(ratio)), nats - float(np.log(2.0)))
        bound = max(bound, nats)
    proof.close(
        "two balanced answers: at most the Gaussian-channel value and log 2",
        worst,
        1e-9,
        "V/sigma_q^2 from 0.02 to 10",
        QUADRATURE,
    )
    proof.record("and near log 2 at V/sigma_q^2 = 10", QUADRATURE, bound > 0.99 * np.log(2.0), f"{bound:.5f} nats")
    _answer_sets(proof)


def _answer_sets(proof: Proof) -> None:
    sets: dict[str, tuple[Any, Any, tuple[float, float]]] = {
        "balanced pair": ((1.0, -1.0), (0.5, 0.5), (0.3976, 0.02222)),
        "three symmetric": ((-(1.5**0.5), 0.0, 1.5**0.5), (1 / 3, 1 / 3, 1 / 3), (0.4146, 0.0306)),
        "one of four": ((3**0.5, *(3 * [-(3**-0.5)])), (0.25,) * 4, (0.4286, 0.0527)),
        "80/20": ((0.5, -2.0), (0.8, 0.2), (0.4432, 0.0779)),
    }
    for name, (forces, weights, expected) in sets.items():
        values = [per_answer_spread(np.array(forces), np.array(weights), 1.3, weight) for weight in (0.05, 1.0)]
        error = max(abs(value - other) for value, other in zip(values, expected, strict=True))
        detail = f"E delta^2 = {values[0]:.4f} at gamma 0.05 and {values[1]:.4f} at 1 (h = 1.3, v0 = 1, c = 0)"
        proof.close(f"a variance per answer, {name}", error, 6e-5, detail, DENSE)
    closed = [(1 - np.sqrt(0.65 * weight)) ** 2 / 1.69 for weight in (0.05, 1.0)]
    pair = [per_answer_spread(np.array([1.0, -1.0]), np.array([0.5, 0.5]), 1.3, weight) for weight in (0.05, 1.0)]
    proof.close(
        "the balanced pair follows the closed form",
        float(np.abs(np.subtract(closed, pair)).max()),
        1e-9,
        "c = 0",
        DENSE,
    )
