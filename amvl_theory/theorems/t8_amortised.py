"""T8: a prior that is one function of x for all examples, fitted on finite data."""

from __future__ import annotations

import numpy as np
import sympy as sp

from amvl_theory.theorems.proving import assumptions as given
from amvl_theory.theorems.proving.core import DENSE, Assumption, Proof, theorem
from amvl_theory.theorems.proving.dense import SEED, relative
from amvl_theory.theorems.proving.gaussian import StopGradient, kl
from amvl_theory.theorems.proving.symbols import R, alpha, beta, gamma, h, lambda_p, lambda_q

k, rho = sp.symbols("k rho", positive=True)
v, w = sp.symbols("v w", positive=True)
RHO_EFF = rho * (1 + gamma * lambda_q / h)

LINEAR_PRIOR = Assumption(
    "linear prior", "the prior mean is linear in features, with a ridge", "c = W \\phi(x), \\tfrac{\\alpha}{2} |W|^2"
)
ONE_ANSWER = Assumption("one answer", "every example carries one answer, losses are summed", "L = \\sum_i L_i")
WHITE_NOISE = Assumption(
    "white noise",
    "the undetermined part of the force is independent over examples, of variance v",
    "\\mathrm{Cov} = v I",
)
EQUAL_SIGNAL = Assumption(
    "equal signal",
    "the determined part of the force is h w_j along eigendirection j, with one E w_j^2 = w^2",
    "E w_j^2 = w^2",
)


@theorem(
    name="T8",
    statement=(
        "With a learnt prior, c = W phi(x) under a ridge alpha/2 |W|^2, one answer per example and losses summed, the "
        "equilibrium is T3 along every eigendirection of K = Phi^T Phi (eigenvalue k): {mode} with {smoothing} and "
        "{ridge} (n alpha / (beta lambda_p) for averaged losses). So W is the ridge regression of g/h with "
        "{effective_ridge}: the reverse KL multiplies the ridge. White noise of variance v in g contaminates along an "
        "eigendirection by {noise}, signal is retained less too, and the error is least at {best_ridge}, that is at "
        "{best_gamma} where positive, else at 0, and leaves exactly what the best weight decay leaves. A reverse KL "
        "slows a prior that memorises by h / (h + gamma lambda_q), which early stopping turns into protection."
    ),
    beyond=(
        "a prior that memorises (s = 1) is not protected at convergence; without any weight decay gamma changes "
        "nothing there; without noise the reverse KL only does harm"
    ),
    assumptions=(
        given.CURVATURE,
        given.WEIGHTS,
        given.LINEAR_RESPONSE,
        given.FIXED_VARIANCES,
        given.ONE_MODE,
        LINEAR_PRIOR,
        ONE_ANSWER,
        WHITE_NOISE.only_for("the noise formula and the optimal gamma"),
        EQUAL_SIGNAL.only_for("the optimal gamma"),
    ),
)
def prove_t8(proof: Proof) -> None:
    """Smoother form, ridge form, noise, optimal weight, memorisation."""
    _two_examples(proof)
    _per_mode(proof)
    _noise(proof)
    _optimal_weight(proof)
    _memorising(proof)
    _counter_examples(proof)
    _dense(proof)


def _two_examples(proof: Proof) -> None:
    """Two examples and two features, from the summed loss with its stop-gradients."""
    features = sp.Matrix(2, 2, sp.symbols("phi_11 phi_12 phi_21 phi_22", real=True))
    weights, shifts = sp.Matrix(sp.symbols("W_1:3", real=True)), sp.Matrix(sp.symbols("delta_1:3", real=True))
    force = sp.Matrix(sp.symbols("g_1:3", real=True))
    prior = features * weights
    sg = StopGradient(*weights, *shifts)
    loss = alpha * (weights.T * weights)[0] / 2
    for i in range(2):
        loss += -force[i] * shifts[i] + h * shifts[i] ** 2 / 2
        loss += beta * kl(sg(shifts[i]), 1 / lambda_q, prior[i], 1 / lambda_p)
        loss += gamma * kl(sg(prior[i]), 1 / lambda_p, shifts[i], 1 / lambda_q)
    in_weights = sp.Matrix([sg.gradient(loss, x) for x in weights])
    in_shifts = sp.Matrix([sg.gradient(loss, x) for x in shifts])
    ridge = alpha / (beta * lambda_p)
    gram = features.T * features
    normal = beta * lambda_p * ((gram + ridge * sp.eye(2)) * weights - features.T * shifts)
    proof.equal(
        "two examples: stationarity in W is ridge regression on delta, rho = alpha / (beta lambda_p)",
        in_weights,
        normal,
    )
    posterior = (h + gamma * lambda_q) * shifts - force - gamma * lambda_q * prior
    proof.equal("two examples: stationarity in delta", in_shifts, posterior)
    averaged = sp.Symbol("n", positive=True)
    scaled = sp.expand(averaged * (beta * lambda_p / averaged * gram[0, 0] + alpha) / (beta * lambda_p))
    proof.equal(
        "averaged losses: rho = n alpha / (beta lambda_p)", scaled, gram[0, 0] + averaged * alpha / (beta * lambda_p)
    )
    stationary_force = (h + gamma * lambda_q) * shifts - gamma * lambda_q * prior
    moment = (gram + rho * sp.eye(2)) * weights  # Phi^T delta
    pushed = (h + gamma * lambda_q) * moment - gamma * lambda_q * gram * weights
    proof.equal("two examples: Phi^T g = h (K + rho_eff) W", pushed, h * (gram + RHO_EFF * sp.eye(2)) * weights)
    regular = sp.Matrix(pushed / h - gram * weights).subs({weights[1]: 0, features[0, 0]: 0, features[1, 0]: 0})
    proof.state("effective_ridge", sp.Symbol("rho_eff"), regular[0] / weights[0], RHO_EFF)
    shrink = in_weights[0].subs({**dict.fromkeys(features, 0)}) / (beta * lambda_p * weights[0])
    proof.state("ridge", rho, shrink, ridge)
    projected = (h + gamma * lambda_q) * features.T * shifts - gamma * lambda_q * gram * weights
    proof.equal("two examples: Phi^T of the stationary force", features.T * stationary_force, projected)
    proof.step(
        "Any n and p: stationarity in W gives Phi^T delta = (K + rho) W; Phi^T times stationarity in delta, (h + "
        "gamma lambda_q) delta - gamma "
        "lambda_q Phi W = g, then gives h (K + rho_eff) W = Phi^T g with rho_eff",
        RHO_EFF,
    )


def _per_mode(proof: Proof) -> None:
    """One eigendirection u of K = Phi^T Phi: u^T W, and the component of the examples along Phi u / sqrt(k)."""
    g, weight, shift = sp.symbols("g W delta", real=True)
    root, s = sp.sqrt(k), k / (k + rho)
    equations = [
        (k + rho) * weight - root * shift,
        (h + gamma * lambda_q) * shift - gamma * lambda_q * root * weight - g,
    ]
    solution = sp.solve(equations, [weight, shift], dict=True)[0]
    contamination = root * solution[weight]
    proof.equal(
        "eigendirection of K with eigenvalue k: c = s delta, s = k / (k + rho)", contamination, s * solution[shift]
    )
    closed, share = s * g / (h + gamma * lambda_q * (1 - s)), sp.Symbol("s", positive=True)
    proof.state("smoothing", share, sp.factor(contamination / solution[shift]), s)
    proof.state("mode", sp.Symbol("c"), contamination, share * g / (h + gamma * lambda_q * (1 - share)), at={share: s})
    proof.equal("and ridge regression of g/h with rho_eff", closed, (g / h) * k / (k + RHO_EFF))
    proof.step("retained share of g/h along an eigendirection", k / (k + RHO_EFF))
    proof.sign(
        "it falls with gamma",
        sp.diff(k / (k + RHO_EFF), gamma),
        -h * k * lambda_q * rho / (h * (k + rho) + gamma * lambda_q * rho) ** 2,
        "< 0",
    )


def _noise(proof: Proof) -> None:
    """Two examples: covariance of W under white noise of variance v in the forces."""
    features = sp.Matrix(2, 2, sp.symbols("phi_11 phi_12 phi_21 phi_22", real=True))
    ridge = sp.Symbol("rho_e", positive=True)
    gram = features.T * features
    inside = gram + ridge * sp.eye(2)
    sandwich = inside.adjugate() * gram * inside.adjugate() / inside.det() ** 2
    readout = inside.adjugate() * features.T / inside.det() / h
    proof.equal(
        "white noise: Cov(W) = (v/h^2) (K + rho_eff)^-1 K (K + rho_eff)^-1",
        v * readout * readout.T,
        v * sandwich / h**2,
    )
    contamination = v * k / (h**2 * (k + ridge) ** 2)
    along = {features[0, 0]: sp.sqrt(k), features[0, 1]: 0, features[1, 0]: 0, features[1, 1]: 0}
    proof.state("noise", sp.Symbol("Var_W"), (v * readout * readout.T).subs(along)[0, 0], contamination)
    bound = v / (4 * h**2 * ridge)
    proof.sign(
        "noise along one eigendirection is at most v / (4 h^2 rho_eff)",
        bound - contamination,
        v * (k - ridge) ** 2 / (4 * h**2 * ridge * (k + ridge) ** 2),
        ">= 0",
    )
    proof.equal(
        "without ridge it diverges like 1/k as k -> 0 (the peak at p = n)", contamination.subs(ridge, 0), v / (h**2 * k)
    )
    proof.step("noise contamination along an eigendirection", contamination)


def _optimal_weight(proof: Proof) -> None:
    ridge = sp.Symbol("rho_e", positive=True)
    error = (w**2 * ridge**2 + v * k / h**2) / (
        k + ridge
    ) ** 2  # squared bias plus variance of c along an eigendirection
    slope = 2 * k * (w**2 * ridge - v / h**2) / (k + ridge) ** 3
    proof.equal("slope of the error in rho_eff", sp.diff(error, ridge), slope)
    best = sp.solve(w**2 * ridge - v / h**2, ridge)[0]
    proof.state("best_ridge", sp.Symbol("rho_best"), best, v / (h**2 * w**2))
    excess = sp.Symbol("x", positive=True)
    above, below = slope.subs(ridge, best * (1 + excess)), slope.subs(ridge, best / (1 + excess))
    proof.sign("error rises above it", above, 2 * k * v * excess / (h**2 * (k + best * (1 + excess)) ** 3), "> 0")
    proof.sign(
        "and falls below it", below, -2 * k * v * excess / (h**2 * (1 + excess) * (k + best / (1 + excess)) ** 3), "< 0"
    )
    weight = sp.solve(RHO_EFF - best, gamma)[0]
    proof.state("best_gamma", sp.Symbol("gamma_best"), weight, (h / lambda_q) * (v / (h**2 * w**2 * rho) - 1))
    proof.step("optimal gamma (0 where negative)", (h / lambda_q) * (v / (h**2 * w**2 * rho) - 1))


def _memorising(proof: Proof) -> None:
    g, t, rate = sp.Symbol("g", real=True), sp.Symbol("t", nonnegative=True), sp.Symbol("eta", positive=True)
    retained = (g / h) * k / (k + RHO_EFF)
    proof.equal("no ridge: c -> g / h for every gamma", sp.limit(retained, rho, 0), g / h)
    c = (g / h) * (1 - sp.exp(-rate * beta * lambda_p * k * h * t / (h + gamma * lambda_q)))
    shift = (g + gamma * lambda_q * c) / (h + gamma * lambda_q)  # posterior at equilibrium with the current prior
    proof.equal(
        "no ridge, fast posterior: c(t) of that eigendirection",
        sp.diff(c, t),
        -rate * beta * lambda_p * k * (c - shift),
    )
    start = sp.diff(c, t).subs(t, 0)
    proof.equal(
        "so early on gamma slows memorising by h / (h + gamma lambda_q)",
        start / start.subs(gamma, 0),
        h / (h + gamma * lambda_q),
    )
    proof.equal("and the end is the same", sp.limit(c, t, sp.oo), g / h)
    proof.step("memorising prior: contamination in time", c)


def _counter_examples(proof: Proof) -> None:
    values = {h: 1, lambda_q: 1, k: 1, rho: 1, w: 1}
    share = k / (k + RHO_EFF)
    error = sp.expand(w**2 * (1 - share) ** 2 + v * share**2 / (k * h**2))
    noiseless = [error.subs({**values, gamma: x}).subs(v, 0) for x in (0, 1)]
    noisy = [error.subs({**values, gamma: x}).subs(v, 2) for x in (0, 1, 2)]
    proof.exact(
        "without noise the reverse KL only does harm (h = lambda = k = rho = w = 1, v = 0, gamma 0 and 1)",
        noiseless == [R(1, 4), R(4, 9)],
        f"squared error {noiseless[0]} and {noiseless[1]}",
    )
    proof.exact(
        "with noise v = 2 the optimum is at gamma = 1 (gamma 0, 1, 2)",
        noisy == [R(3, 4), R(2, 3), R(11, 16)],
        f"squared error {', '.join(map(str, noisy))}",
    )


def _dense(proof: Proof) -> None:
    rng = np.random.default_rng(SEED)
    smoother, ridge_form = 0.0, 0.0
    for n, p in ((5, 3), (4, 8), (8, 8), (12, 5)):
        phi, force = rng.normal(size=(n, p)), rng.normal(size=n)
        curve, lam_q, lam_p, b, c, a = rng.uniform(0.3, 3.0, 6)
        pull_q, pull_p = c * lam_q, b * lam_p
        system = np.block(
            [[(curve + pull_q) * np.eye(n), -pull_q * phi], [-pull_p * phi.T, pull_p * phi.T @ phi + a * np.eye(p)]]
        )
        both = np.linalg.solve(system, np.concatenate([force, np.zeros(p)]))
        gram, ridge = phi.T @ phi, a / pull_p
        S = phi @ np.linalg.solve(gram + ridge * np.eye(p), phi.T)
        smoother = max(
            smoother, relative(np.linalg.solve(curve * np.eye(n) + pull_q * (np.eye(n) - S), force), both[:n])
        )
        stronger = ridge * (1 + pull_q / curve)
        ridge_form = max(
            ridge_form, relative(np.linalg.solve(gram + stronger * np.eye(p), phi.T @ force / curve), both[n:])
        )
    proof.close("delta by the smoother S against the joint solve", smoother, 1e-10, "n and p up to 12")
    proof.close("W by ridge regression with rho_eff against the joint solve", ridge_form, 1e-10, "n and p up to 12")
    peaks = {}
    for p in (6, 12, 24):
        draws = rng.normal(size=(200, 12, p))
        peaks[p] = float(np.median(np.sum(np.linalg.pinv(draws) ** 2, axis=(1, 2))))
    detail = ", ".join(f"p = {p}: {value:.3g}" for p, value in peaks.items())
    proof.record(
        "ridgeless noise peaks at p = n = 12 (double descent)",
        DENSE,
        peaks[12] > 3 * max(peaks[6], peaks[24]),
        f"median of |Phi^+|^2, {detail}",
    )
