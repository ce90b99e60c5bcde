"""T12: a decoder that learns leaves dual KL without a resting point; and the spread from a random start."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from amvl_theory.dynamics.in_training.coadaptation import (
    Start,
    coadapted_asymptotics,
    coadapted_trajectory,
    scale_charge,
)
from amvl_theory.dynamics.in_training.decoders import logistic_loss, logistic_moments, softmax_moments
from amvl_theory.dynamics.in_training.reading import ReadingModel
from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import QUADRATURE, Proof, theorem
from amvl_theory.theorems.proving.gaussian import StopGradient, kl, normal_log_density
from amvl_theory.theorems.proving.symbols import R, beta, gamma

k, kappa, decay, eta_w, eta_q, eta_s, eta_r, t = sp.symbols("k kappa lambda eta_w eta_q eta_s eta_r t", positive=True)
Q, P, a, w, rho = sp.symbols("Q P a w rho", positive=True)
WIDTHS = {P: Q + a**2}


@theorem(
    name="T12",
    statement=(
        "A decoder that sees z through w z only leaves N = a^2/(2 eta_q) + ln(sigma_q)/eta_s + ln(sigma_p)/eta_r - "
        "w^2/(2 eta_w) alone. Under the ELBO N is conserved; under dual KL with a matched prior it grows, {scale_growth} "
        "with rho = a^2/Q, so there is no resting point at which anything leaks, for any such decoder. With l(rho) the "
        "least answer loss at rho, dual KL tends to -l'(rho) = gamma while the scale grows, {leak_growth} for V = a^2 and "
        "{prior_growth} for P = sigma_p^2, and the ELBO rests at -l'(rho) = beta/(2 (1 + rho)). For a linear decoder "
        "{dual_snr} (below gamma = kappa^2/(2 k)) and {elbo_snr}; for a logistic one, of two or of m equally likely "
        "answers, -l' is half the least mean square error of a mode's answer given z. From kappa^2/(2 k) "
        "to kappa^2/k the leak is read but fades, rho t tending to "
        "{fading_constant}. A decay mu of the leak amplitude brings dual KL to rest at {resting_variance}; plain gradient "
        "steps of a linear decoder end its growth at {edge_variance}, (1 + rho)(1 + 2 rho) = kappa^2/(k gamma). With a decoder "
        "held fixed the spread from a random start is least, {least_spread}, before it is learnt."
    ),
    beyond=(
        "with weight decay on the leak's amplitude, or with finite steps of the decoder (at eta_w k sigma_p^2 = 2), "
        "dual KL comes to rest; between kappa^2/(2 k) and kappa^2/k the leak is read but fades"
    ),
    assumptions=(
        given.SCALE_FREE,
        given.GRADIENT_FLOW,
        given.WEIGHTS,
        given.ONE_MODE,
        given.SHARED_VARIANCE,
        given.NO_DECAY.only_for("the ELBO's rest; a decay of w does not bring dual KL to rest"),
        given.LATE_TIME.only_for("the limits of dual KL"),
        given.FIXED_VARIANCES.only_for("the random start"),
    ),
)
def prove_t12(proof: Proof) -> None:
    """Scale charge, limits for any decoder, linear and logistic ones, fading, decay, the random start, instances."""
    flows = _scale(proof)
    _limits(proof, flows)
    _linear(proof)
    _logistic(proof)
    _fading(proof)
    _decay(proof, flows)
    _edge(proof)
    _random_start(proof)
    _instances(proof)


def _scale(proof: Proof) -> dict[str, dict[Any, Any]]:
    """Flows of w, a, Q, P from a generic scale-free answer loss F(M, S2) and both KLs; dN/dt."""
    mean, noise = sp.symbols("M S2", positive=True)
    F = sp.Function("F")(mean, noise)
    at = {mean: w * a, noise: w**2 * Q}
    d_mean, d_noise = sp.symbols("F_M F_S", real=True)

    def slope(parameter: Any) -> Any:
        moved = sum(d * sp.diff(value, parameter) for d, value in ((d_mean, at[mean]), (d_noise, at[noise])))
        return moved + (decay * w if parameter == w else 0)

    proof.step("Answer loss F(M, S^2), M = w a, S^2 = w^2 Q", F)
    identity = a * slope(a) + 2 * Q * slope(Q) - w * (slope(w) - decay * w)
    proof.equal("the answer loss does not change along z -> c z, w -> w/c", identity, sp.Integer(0))
    sg = StopGradient(a, Q, P)
    losses = {
        "amvl": beta * kl(sg(a), sg(Q), 0, P) + gamma * kl(0, sg(P), a, Q),
        "elbo": beta * kl(a, Q, 0, P),
    }
    flows = {}
    for name, loss in losses.items():
        pulls = {x: slope(x) + sg.gradient(loss, x) for x in (w, a, Q, P)}
        # d log sigma/dt = -eta dL/d log sigma = -eta 2 Q dL/dQ
        flows[name] = {
            w: -eta_w * pulls[w],
            a: -eta_q * pulls[a],
            Q: -2 * Q * eta_s * 2 * Q * pulls[Q],
            P: -2 * P * eta_r * 2 * P * pulls[P],
        }
    charge = a**2 / (2 * eta_q) + sp.log(Q) / (2 * eta_s) + sp.log(P) / (2 * eta_r) - w**2 / (2 * eta_w)
    growth = {name: sp.expand(sum(sp.diff(charge, x) * flow[x] for x in flow)) for name, flow in flows.items()}
    full = gamma * (P / Q - 1) + beta * ((Q + a**2) / P - 1) + decay * w**2
    proof.equal("dual KL: dN/dt", growth["amvl"], full)
    proof.equal("ELBO: dN/dt, nothing but weight decay", growth["elbo"], decay * w**2)
    matched = sp.expand(growth["amvl"].subs(WIDTHS).subs(a, sp.sqrt(rho * Q)))
    proof.state("scale_growth", sp.Symbol("Ndot"), matched, gamma * rho + decay * w**2)
    proof.sign("which is above 0 wherever anything leaks", matched, gamma * rho + decay * w**2, "> 0")
    proof.equal("the prior is at rest only where P = Q + a^2", sp.solve(flows["amvl"][P], P)[0], Q + a**2)
    return flows


def _limits(proof: Proof, flows: dict[str, dict[Any, Any]]) -> None:
    """Any decoder at its best gain: with F_w = 0, F_M and F_S follow from l'(rho)."""
    slope = sp.Symbol("l1", negative=True)  # l'(rho); by the envelope theorem dF/da = l' 2 a/Q and dF/dQ = -l' a^2/Q^2
    d_mean, d_noise = sp.symbols("F_M F_S", real=True)
    best = {d_mean: slope * 2 * a / (Q * w), d_noise: -slope * a**2 / (Q**2 * w**2)}
    proof.equal("best gain: the decoder is at rest", flows["amvl"][w].subs(best).subs(decay, 0), sp.Integer(0))
    width = flows["amvl"][Q].subs(best).subs(WIDTHS)
    proof.equal("dual KL: log sigma_q is at rest where -l' = gamma", sp.solve(width, slope)[0], -gamma)
    moving = (2 * a * flows["amvl"][a]).subs(best).subs(slope, -gamma).subs(a, sp.sqrt(rho * Q))
    proof.state("leak_growth", sp.Symbol("Vdot"), moving, 2 * eta_q * gamma * rho)
    proof.state("prior_growth", sp.Symbol("Pdot"), moving * (1 + rho) / rho, 2 * eta_q * gamma * (1 + rho))
    rest = [sp.solve(flows["elbo"][x].subs(best).subs(WIDTHS), slope)[0].subs(a, sp.sqrt(rho * Q)) for x in (a, Q)]
    proof.equal("ELBO: a rests where -l' = beta/(2 (1 + rho))", rest[0], -beta / (2 * (1 + rho)))
    proof.equal("ELBO: sigma_q rests at the same rho", rest[1], rest[0])


def _linear(proof: Proof) -> None:
    loss = -kappa * w * a + k / 2 * w**2 * (a**2 + Q)
    gain = sp.solve(sp.diff(loss, w), w)[0]
    least = sp.simplify(loss.subs(w, gain).subs(a, sp.sqrt(rho * Q)))
    proof.equal("linear decoder: least answer loss", least, -(kappa**2) / (2 * k) * rho / (1 + rho))
    x = sp.Symbol("x", positive=True)  # 1 + rho
    slope = -sp.diff(least, rho).subs(rho, x - 1)
    dual = sp.solve(slope - gamma, x)[0] - 1
    proof.state("dual_snr", rho, dual, kappa / sp.sqrt(2 * k * gamma) - 1)
    elbo = sp.solve(slope - beta / (2 * x), x)[0] - 1
    proof.state("elbo_snr", rho, elbo, kappa**2 / (k * beta) - 1)
    proof.equal("dual KL: the leak grows below kappa^2/(2 k)", slope.subs(x, 1), kappa**2 / (2 * k))
    pace = 2 * eta_q * gamma * (1 + dual)
    proof.equal("linear decoder: sigma_p^2 grows like", pace, eta_q * kappa * sp.sqrt(2 * gamma / k))
    shrinking = sp.limit((gain**2 * t).subs(a, sp.sqrt(rho * Q)).subs(Q, pace * t / (1 + rho)), t, sp.oo)
    proof.equal("and w^2 falls like 1/t", shrinking, (kappa**2 / k**2 * rho / (1 + rho) / pace))
    proof.exact(
        "T6's fixed decoder has another value (kappa = k = 1, gamma = 1/8): rho = 1, and (sqrt(2/gamma) - 1)/2 = 3/2",
        dual.subs({kappa: 1, k: 1, gamma: R(1, 8)}) == 1 and (sp.sqrt(2 / R(1, 8)) - 1) / 2 == R(3, 2),
        "1 against 3/2",
    )


def _logistic(proof: Proof) -> None:
    z = sp.Symbol("z", real=True)
    log_odds = sp.expand(normal_log_density(z, a, Q) - normal_log_density(z, -a, Q))
    proof.equal("logistic decoder: Bayes' log odds are 2 a z/Q, so w = 2 a/Q is its best gain", log_odds, 2 * a * z / Q)
    error, scores = 0.0, 0.0
    for value in (0.05, 0.5, 2.0, 8.0):
        e0, e1 = logistic_moments(2 * value, 4 * value)
        scores = max(scores, abs(float(e0 / (2 * e1)) - 1))
        step = 1e-4 * value
        losses = logistic_loss(2 * np.array([value + step, value - step]), 4 * np.array([value + step, value - step]))
        error = max(error, abs(float((losses[1] - losses[0]) / (2 * step) / (2 * e1)) - 1))
    detail = "rho from 0.05 to 8; half the error is E 2 p (1 - p)"
    proof.close("logistic decoder: at rest there, E0 = 2 E1", scores, 1e-9, detail, QUADRATURE)
    proof.close("logistic decoder: -l' is half the least mean square error", error, 1e-6, detail, QUADRATURE)
    _softmax(proof)


def _softmax(proof: Proof) -> None:
    """m equally likely answers at the corners of a simplex, one logit each: best gain, rest, marginal information."""
    z = sp.symbols("z_1:4", real=True)  # m = 3 independent observations of which one is moved by a sqrt m

    def density(moved: int) -> Any:
        return sum(normal_log_density(x, a * sp.sqrt(3) if i == moved else 0, Q) for i, x in enumerate(z))

    proof.equal(
        "three answers: Bayes' log odds are sqrt 3 a (z_1 - z_2)/Q, so w = sqrt m a/Q = (kappa/k) a/Q is the best gain",
        sp.expand(density(0) - density(1)),
        sp.expand(sp.sqrt(3) * a / Q * (z[0] - z[1])),
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    density_of = np.prod(np.stack(np.meshgrid(weights, weights, weights), -1).reshape(-1, 3), 1) / weights.sum() ** 3

    def least_loss(value: float) -> float:
        logits = 3 * value * np.array([1.0, 0.0, 0.0]) + np.sqrt(3 * value) * noise
        return float(density_of @ (np.logaddexp.reduce(logits, axis=1) - logits[:, 0]))

    scores, slopes = 0.0, 0.0
    for value in (0.05, 0.3, 0.6):
        e0, e1 = softmax_moments(np.sqrt(3) * value, 3 * value, 3)
        scores = max(scores, abs(float(e0 / (np.sqrt(3) * e1)) - 1))
        step = 1e-3 * value
        slope = (least_loss(value - step) - least_loss(value + step)) / (2 * step) / 2  # two modes
        slopes = max(slopes, abs(slope / (1.5 * float(e1)) - 1))
    detail = "m = 3, rho from 0.05 to 0.6 a mode"
    proof.close("softmax decoder: at rest there, E0 = sqrt m E1", scores, 1e-9, detail, QUADRATURE)
    proof.close("softmax decoder: -l' a mode is E1/(2 k) = m E1/2", slopes, 1e-4, detail, QUADRATURE)


def _fading(proof: Proof) -> None:
    """rho = C/t: the widths' equation at order 1/t, the prior lagging by 1/(2 eta_r beta t)."""
    C, F = sp.symbols("C F", positive=True)
    lag = (1 / t) / (2 * eta_r * beta)  # d log P/dt = 1/t = 2 eta_r beta ((Q + a^2)/P - 1)
    apart = C / t - lag  # P/Q - 1
    width = 2 * eta_s * (gamma * (apart + C / t) - kappa**2 / k * C / t)  # d log Q/dt, w at its best, rho -> 0
    solved = sp.solve(width - 1 / t, C)[0]
    stated = (1 / (2 * eta_s) + gamma / (2 * eta_r * beta)) / (2 * gamma - kappa**2 / k)
    proof.state("fading_constant", C, solved, stated)
    x = sp.Symbol("x", positive=True)
    proof.sign(
        "fading needs gamma above kappa^2/(2 k)",
        stated.subs(kappa, sp.sqrt(2 * k * gamma / (1 + x))),
        (1 / (2 * eta_s) + gamma / (2 * eta_r * beta)) * (1 + x) / (2 * gamma * x),
        "> 0",
    )
    leak = 2 * eta_q * F * C * sp.log(t)
    proof.equal("a^2 = 2 eta_q F C ln t solves d a^2/dt = 2 eta_q F rho", sp.diff(leak, t), 2 * eta_q * F * C / t)
    proof.step(
        "Between the thresholds, F = kappa^2/k - gamma: the leak's amplitude grows like ln t, its width like t ln t",
        leak,
    )


def _decay(proof: Proof, flows: dict[str, dict[Any, Any]]) -> None:
    mu, slope = sp.symbols("mu", positive=True), -gamma
    d_mean = sp.Symbol("F_M", real=True)
    pull = flows["amvl"][a].subs(d_mean, slope * 2 * a / (Q * w)) - eta_q * mu * a
    proof.state("resting_variance", Q, sp.solve(pull, Q)[0], gamma / mu)


def _edge(proof: Proof) -> None:
    """Gradient steps of a linear decoder: its gain is mean + (-1)^n swing, where the steps' multiplier is -1."""
    swing, mean, n = sp.Symbol("b", positive=True), kappa * a / (k * P), sp.Symbol("n", integer=True)
    edge = sp.solve(1 - eta_w * k * P + 1, P)[0]

    def gain(step: Any) -> Any:
        return mean + (-1) ** step * swing

    moved = gain(n) - eta_w * (k * P * gain(n) - kappa * a)
    proof.equal(
        "at eta_w k P = 2 the gain swings for ever", sp.simplify((moved - gain(n + 1)).subs(P, edge)), sp.Integer(0)
    )
    square = 2 * gamma * rho / (k * Q)  # mean of w^2, from the rest of log sigma_q
    pull = kappa * mean / a - k * square - gamma / Q  # rest of a, over a
    balance = sp.simplify(pull.subs(P, Q * (1 + rho)) * Q * (1 + rho) / gamma)
    proof.equal(
        "there a rests where (1 + rho)(1 + 2 rho) = kappa^2/(k gamma)",
        balance,
        kappa**2 / (k * gamma) - (1 + rho) * (1 + 2 * rho),
    )
    proof.state("edge_variance", P, edge, 2 / (eta_w * k))


def _random_start(proof: Proof) -> None:
    K, eta, g, d0 = sp.symbols("K eta g delta_0", positive=True)
    start, rest, x = sp.symbols("R_0 V_inf x", positive=True)
    shift = d0 * sp.exp(-eta * K * t) + g / K * (1 - sp.exp(-eta * K * t))
    proof.equal("fixed decoder: delta(t) solves its flow", sp.diff(shift, t), sp.expand(-eta * (K * shift - g)))
    spread = start * x**2 + rest * (1 - x) ** 2
    best = sp.solve(sp.diff(spread, x), x)[0]
    proof.equal("the spread is least at x = exp(-eta K t)", best, rest / (rest + start))
    proof.state("least_spread", sp.Symbol("C_min"), spread.subs(x, best), start * rest / (start + rest))


def _instances(proof: Proof) -> None:
    model, times = ReadingModel(1.0, 1.0), [1e4, 1e5]
    start = Start(0.1, 0.1, 0.3, 0.3)
    conserved, off, closing = 0.0, 0.0, 0.0
    for weight in (0.02, 0.1):
        path = coadapted_trajectory([0.0, *times], model=model, gamma=weight, start=start)
        limit = coadapted_asymptotics(model, weight)
        errors = np.abs(path.snr[1:] / limit.snr - 1)
        off, closing = max(off, float(errors[-1])), max(closing, float(errors[1] / errors[0]))
        path = coadapted_trajectory([0.0, *times], model=model, gamma=0.0, beta=weight, objective="elbo", start=start)
        charge = scale_charge(path, model=model)
        conserved = max(conserved, float(np.ptp(charge) / np.abs(charge).max()))
    proof.close("ELBO: N along the integrated flow", conserved, 1e-6, "linear decoder, beta 0.02 and 0.1")
    proof.close(
        "dual KL: rho at t = 1e5 against its limit", off, 0.03, "linear decoder, gamma 0.02 and 0.1, rates 0.01"
    )
    proof.close("and it closes in: error at 1e5 over error at 1e4", closing, 0.5, "the same")
