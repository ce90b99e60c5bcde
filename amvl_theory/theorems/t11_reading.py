"""T11: whether and when a decoder that learns comes to read the leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from scipy.special import erfc

from amvl_theory.dynamics.in_training.decoders import logistic_loss, logistic_moments
from amvl_theory.dynamics.in_training.reading import ReadingModel, holding_weight, reading_exponent, reading_rate
from amvl_theory.gaussian import mixture_information
from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import QUADRATURE, SYMBOLIC_2X2, Proof, theorem
from amvl_theory.theorems.proving.dense import SEED
from amvl_theory.theorems.proving.gaussian import StopGradient, expectation, kl
from amvl_theory.theorems.proving.symbols import R, beta, gamma

kappa, k, decay, eta_w, eta_q, s, rho = sp.symbols("kappa k lambda eta_w eta_q s rho", positive=True)
w, a = sp.symbols("w a", real=True)
DRIVE = eta_w * eta_q * kappa**2


@theorem(
    name="T11",
    statement=(
        "Decoder gain w, leak amplitude a, posterior variance s, gain kappa, curvature k, weight decay lambda. w = a = 0 is "
        "unstable if and only if gamma is below {threshold} (beta below it for the ELBO). A calibrated softmax decoder has "
        "kappa^2 = k in every mode, so without weight decay its threshold is 1 for any answers. Without weight decay the "
        "leak grows at the rate r that solves {characteristic}, at most {largest_rate}, at {fastest_variance}. From a "
        "Gaussian start the share of seeds that read at time T is P = erfc(a_0 exp(-r T)/sqrt(2)), and the weight that "
        "holds it there is {holding_weight}, rho = ln(a_0/(sqrt(2) erfc^-1(P)))/T. What posterior latents take off "
        "the answer loss H(y|x) is at most the leak I(z; y|x). Behind a route from x that already "
        "explains the share R/(1 + R) of a linear answer the gain is {gain_behind_x}, and what the route keeps once "
        "posterior latents with the leak S = a^2/s are read is {starved_share}."
    ),
    beyond=(
        "a posterior narrower than its leak widens on the way, and more seeds collapse; Adam without noise from "
        "elsewhere does not grow exponentially"
    ),
    assumptions=(
        given.SMALL_LEAK,
        given.GRADIENT_FLOW,
        given.SHARED_VARIANCE,
        given.ANSWER_PRIOR,
        given.GAUSSIAN_START.only_for("P and the weight that holds it"),
        given.NO_DECAY.only_for("the largest rate"),
    ),
)
def prove_t11(proof: Proof) -> None:
    """Jacobian from the losses, threshold, rates, the weight that holds, answers, the route from x, instances."""
    jacobian = _jacobian(proof)
    _rates(proof, jacobian)
    _calibrated(proof)
    _starving(proof)
    _instances(proof)


def _jacobian(proof: Proof) -> Any:
    """J at w = a = 0 from the answer loss and both KLs, dual KL and ELBO."""
    xi, mean_p, noise = sp.symbols("xi mu_p epsilon", real=True)
    prior = sp.Symbol("P", positive=True)
    z = a * xi + noise
    answer = expectation(expectation(-kappa * w * xi * z + k / 2 * w**2 * z**2, noise, [1, 0, s]), xi, [1, 0, 1])
    proof.equal("answer loss over answers and latents", answer, -kappa * w * a + k / 2 * w**2 * (a**2 + s))
    sg = StopGradient(a, s, prior, mean_p)
    square = sp.Symbol("m2", positive=True)

    def averaged(value: Any) -> Any:  # E over answers of a KL, whose gap is a xi
        return value.subs(square, a**2)

    reverse = averaged(kl(sp.sqrt(square), sg(prior), 0, s))
    elbo = averaged(kl(sp.sqrt(square), s, 0, prior))
    result = {}
    for name, loss in (("amvl", gamma * reverse), ("elbo", beta * elbo)):
        total = answer + decay * w**2 / 2 + loss
        flow = sp.Matrix([-eta_w * sg.gradient(total, w), -eta_q * sg.gradient(total, a)])
        result[name] = flow.jacobian([w, a]).subs({w: 0, a: 0})
    stated = sp.Matrix([[-eta_w * (k * s + decay), eta_w * kappa], [eta_q * kappa, -eta_q * gamma / s]])
    proof.equal("Jacobian at w = a = 0", result["amvl"], stated)
    proof.equal("ELBO: beta for gamma, sigma_p^2 = s", result["elbo"].subs(prior, s), stated.subs(gamma, beta))
    proof.step("Jacobian of (w, a) where nobody reads and nobody leaks", stated)
    return stated


def _rates(proof: Proof, jacobian: Any) -> None:
    r, x = sp.symbols("r x", positive=True)
    bound = kappa**2 / (k + decay / s)
    damping = eta_w * (k * s + decay) + eta_q * gamma / s  # A + D
    proof.sign("trace of J", jacobian.trace(), -damping, "< 0")
    solved = sp.solve(jacobian.det(), gamma)[0]
    proof.state("threshold", sp.Symbol("gamma_r"), solved, bound)
    for side, factor, relation in (("below", 1 / (1 + x), "< 0"), ("above", 1 + x, "> 0")):
        value = jacobian.det().subs(gamma, bound * factor)
        sign = -x / (1 + x) if side == "below" else x
        proof.sign(f"determinant {side} the threshold", value, DRIVE * sign, relation)
    m = sp.Symbol("m", real=True)  # A - D
    discriminant = jacobian.trace() ** 2 - 4 * jacobian.det()
    apart = sp.solve(jacobian[1, 1] - jacobian[0, 0] - m, gamma)[0]
    proof.sign("discriminant: both rates are real", discriminant.subs(gamma, apart), m**2 + 4 * DRIVE, "> 0")
    A, D = eta_w * k * s, eta_q * gamma / s
    characteristic = sp.expand((jacobian - r * sp.eye(2)).det().subs(decay, 0))
    proof.state("characteristic", DRIVE, DRIVE + characteristic, (r + A) * (r + D))
    width = sp.sqrt(eta_q * gamma / (eta_w * k))
    best = sp.solve(sp.diff((r + A) * (r + D), s), s)
    proof.state("fastest_variance", s, best[0], width)
    proof.equal("there A = D", A.subs(s, width), D.subs(s, width))
    largest = sp.sqrt(eta_w * eta_q) * (kappa - sp.sqrt(k * gamma))
    proof.state("largest_rate", sp.Symbol("r_max"), sp.sqrt(DRIVE) - A.subs(s, width), largest)
    y = sp.Symbol("y", positive=True)
    proof.sign(
        "every other width grows slower: (r + A)(r + D) rises from its value at the best width, s = y times it",
        ((r + A) * (r + D)).subs(s, width * y) - ((r + A) * (r + D)).subs(s, width),
        r * sp.sqrt(eta_w * eta_q * k * gamma) * (sp.sqrt(y) - 1 / sp.sqrt(y)) ** 2,
        ">= 0",
    )
    full = eta_w * (k * s + decay)
    weight = sp.solve((rho + full) * (rho + eta_q * gamma / s) - DRIVE, gamma)[0]
    proof.state("holding_weight", sp.Symbol("gamma_T"), weight, s / eta_q * (DRIVE / (full + rho) - rho))
    proof.equal("at rho = 0 it is the threshold", weight.subs(rho, 0), bound)
    proof.sign(
        "the weight that holds falls with rho",
        sp.diff(s / eta_q * (DRIVE / (full + rho) - rho), rho),
        -s / eta_q * (DRIVE / (full + rho) ** 2 + 1),
        "< 0",
    )


def _calibrated(proof: Proof) -> None:
    """kappa^2 = k for softmax decoders: the second-order expansion of the loss, any probabilities."""
    p = sp.Symbol("p", positive=True)
    u = sp.Symbol("u", real=True)
    log_loss = sp.log(1 + sp.exp(u))  # of y = 0 at the logit u; of y = 1 it is log(1 + exp(-u))
    logit = sp.log(p / (1 - p))
    slope = sp.simplify((p * sp.diff(log_loss.subs(u, -u), u) + (1 - p) * sp.diff(log_loss, u)).subs(u, logit))
    curve = sp.simplify(sp.diff(log_loss, u, 2).subs(u, logit))
    proof.equal("binary answer: calibrated, no mean slope", slope, sp.Integer(0))
    proof.equal("binary answer: curvature k = p (1 - p)", curve, p * (1 - p))
    std = sp.sqrt(p * (1 - p))
    force = p * (1 - p) * (1 - p) / std + (1 - p) * (-p) * (-p / std)  # E (y - p) xi with xi = (y - p)/std
    proof.equal("binary answer: gain kappa = sqrt(p (1 - p))", force, std)
    q = sp.symbols("p_1:4", positive=True)
    logits = sp.symbols("l_1:4", real=True)
    normaliser = sp.log(sum(q_i * sp.exp(l_i) for q_i, l_i in zip(q, logits, strict=True)))  # log p_i as bias
    zero = dict.fromkeys(logits, 0)
    last = {q[2]: 1 - q[0] - q[1]}
    hessian = sp.hessian(normaliser, logits).subs(zero).subs(last).applyfunc(sp.simplify)
    covariance = (sp.diag(*q) - sp.Matrix(q) * sp.Matrix(q).T).subs(last)
    proof.equal("three answers: the loss curves by C = diag(p) - p p^T", hessian, covariance, SYMBOLIC_2X2)
    one = sp.eye(3)
    columns = [one[:, y] - sp.Matrix(q) for y in range(3)]
    spread = sum((q[y] * columns[y] * columns[y].T for y in range(3)), sp.zeros(3))
    proof.equal("and the answers e_y - p have that covariance", spread.subs(last), covariance, SYMBOLIC_2X2)
    c = sp.Symbol("c", positive=True)
    proof.equal(
        "a mode of eigenvalue c: kappa^2/k = c/c", (kappa**2 / k).subs({kappa: sp.sqrt(c), k: c}), sp.Integer(1)
    )
    proof.step(
        "m answers, logits log p + W z, delta_y = M (e_y - p): to second order the loss is -tr(W M C) + s/2 tr(W^T C W) + "
        "gamma/(2 s) tr(M C M^T). In the eigenbasis of C every direction i is the scalar problem with kappa = sqrt(c_i), "
        "k = c_i; the threshold kappa^2/k = 1 is common to all"
    )
    half = {kappa: R(1, 2), k: R(1, 4)}
    proof.exact(
        "half of T6's weight of collapse for the same decoder (g = kappa w, h = k w^2)",
        (2 * (kappa * w) ** 2 / (k * w**2)).subs(half) == 2 * (kappa**2 / k).subs(half) == 2,
        "2 v0/h = 2, kappa^2/k = 1",
    )
    shrunk = (kappa**2 / (k + decay / s)).subs({**half, decay: R(1, 4), s: 1})
    proof.exact(
        "with weight decay the threshold depends on the width: s = lambda/k halves it", shrunk == R(1, 2), "1/2"
    )


def _starving(proof: Proof) -> None:
    """Linear decoder y = u x + w z, x = m y + tau n, z = a y + sigma n: what each route keeps."""
    x_gain, m, tau, amp, snr_x, snr_z, prior = sp.symbols("u m tau a R S P", positive=True)
    read = sp.Symbol("w", positive=True)
    loss = ((1 - x_gain * m - read * amp) ** 2 + x_gain**2 * tau**2 + read**2 * s) / 2
    alone = sp.solve(sp.diff(loss, x_gain).subs(read, 0), x_gain)[0]
    both = sp.solve([sp.diff(loss, x_gain), sp.diff(loss, read)], [x_gain, read], dict=True)[0]
    ratios = {m: tau * sp.sqrt(snr_x), amp: sp.sqrt(s * snr_z)}
    slope = -sp.diff(loss, read, amp).subs({x_gain: alone, read: 0}).subs(ratios)
    proof.state("gain_behind_x", sp.Symbol("kappa_x"), sp.simplify(slope), 1 / (1 + snr_x))
    share = sp.simplify((both[x_gain] / alone).subs(ratios))
    proof.state("starved_share", sp.Symbol("u") / sp.Symbol("u_0"), share, (1 + snr_x) / (1 + snr_x + snr_z))
    signal = x_gain * m / sp.sqrt(x_gain**2 * tau**2 + read**2 * prior)
    matched = sp.simplify((signal.subs(both).subs(prior, s + amp**2)).subs(ratios))
    proof.equal(
        "accuracy with prior latents is Phi of R/sqrt(R + S + S^2)", matched, snr_x / sp.sqrt(snr_x + snr_z + snr_z**2)
    )
    least = sp.simplify(loss.subs(both).subs(ratios))
    proof.equal("with both routes the least answer loss depends on R + S only", least, 1 / (2 * (1 + snr_x + snr_z)))
    residual = sp.simplify((1 - x_gain * m - read * amp).subs(both).subs(ratios))
    proof.equal("residual that both routes leave", residual, 1 / (1 + snr_x + snr_z))
    slope_x = -sp.diff(loss, x_gain).subs(x_gain, 0)
    proof.equal("the gradient of the route from x at u = 0", slope_x, m * (1 - read * amp))
    proof.step("it vanishes as w a -> 1: the leak explains the answer and the route from x gets no gradient", slope_x)


def _instances(proof: Proof) -> None:
    proof.step(
        "Answer loss with posterior latents: H(y|x, z) + E KL(p(y|x, z) || decoder) >= H(y|x, z) = H(y|x) - I(z; y|x)"
    )
    rng = np.random.default_rng(SEED)
    bound, held = 0.0, 0.0
    for _ in range(30):
        model = ReadingModel(*rng.uniform(0.2, 2.0, 2), *rng.uniform(0.005, 0.03, 2))
        top = model.gain**2 / model.curvature
        weight = float(rng.uniform(0.01, 0.9)) * top
        peak = np.sqrt(model.decoder_rate * model.posterior_rate) * (model.gain - np.sqrt(model.curvature * weight))
        bound = max(bound, float(reading_rate(model, np.geomspace(1e-3, 1e3, 400), weight).max() / peak - 1))
        variance, critical, share = rng.uniform(0.05, 2.0), rng.uniform(3.0, 30.0), rng.uniform(0.02, 0.6)
        gamma_t = holding_weight(500, probability=share, critical=critical, model=model, variance=variance)
        if gamma_t > 0:
            grown = float(reading_exponent(model, [500.0], variance, float(gamma_t))[-1])
            held = max(held, abs(float(erfc(critical * np.exp(-grown) / np.sqrt(2))) / share - 1))
    proof.close("no width grows faster than the largest rate", bound, 1e-9, "30 random models, 400 widths each")
    proof.close("at gamma*(T) the share of seeds is P", held, 1e-8, "the same models")
    worst = 0.0
    for scale in (1e-4, 1e-5):  # the logistic loss, by quadrature: drift of w and a near 0
        slope, curve = logistic_moments(scale * scale, (scale * 0.5) ** 2)
        drift_w = scale * slope - scale * 0.25 * curve
        worst = max(worst, abs(float(drift_w / (scale * (0.5 - 0.25 * 0.25)) - 1)), abs(float(slope / 0.5 - 1)))
    above = 0.0
    for ratio in (0.1, 1.0, 4.0):
        leak = float(mixture_information(np.sqrt(ratio) * np.array([1.0, -1.0]), 1.0, np.array([0.5, 0.5])))
        for gain in np.array([0.5, 1.0, 1.5]) * 2 * ratio:  # w a; the middle one is Bayes' own
            above = max(above, float(np.log(2.0) - logistic_loss(gain, gain**2 / ratio)) - leak)
    proof.close(
        "no gain in answer loss is above the leak", above, 1e-9, "logistic decoder, three leaks and gains", QUADRATURE
    )
    proof.close("logistic loss: drift near 0 against kappa = 1/2, k = 1/4", worst, 1e-4, "s = 1/4", QUADRATURE)
