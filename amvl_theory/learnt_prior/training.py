"""T8 on the way to the equilibrium: what early stopping, weight decay and a delayed reverse KL buy.

In the singular basis Phi = U diag(sigma) V^T the gradient flow of `amortised.py` falls apart into one pair per mode,

    d delta_j/dt = -eta_q [ (h + gamma lambda_q) delta_j - g_j - gamma lambda_q sigma_j w_j ]
    d w_j/dt     = -eta_p [ (beta lambda_p sigma_j^2 + alpha) w_j - beta lambda_p sigma_j delta_j ]

(delta_j = u_j^T delta, w_j = v_j^T W), linear with real negative eigenvalues -f < -s, so that the exponential of the 2 x 2
matrix J is exact:

    exp(J t) = 1/2 (e^-st + e^-ft) I + (e^-st - e^-ft)/(f - s) (J + (f + s)/2 I)

From zero, w_j(t) = r_j(t) g_j, and the excess loss on fresh questions at time t is that of `amortised.py` with
1 - h sigma_j r_j in place of rho_eff / (kappa_j + rho_eff) and h r_j in place of sigma_j / (kappa_j + rho_eff).

Where the posterior is much faster than the prior, w_j follows the same flow as without a reverse KL, with time slowed by
h / (h + gamma lambda_q) and alpha multiplied by (h + gamma lambda_q) / h. Without a ridge only the slowing is left: a prior
that can memorise (s_j -> 1) ends in the same place for every gamma, later. It takes a ridge, or stopping, to protect it.

Time is learning rate times steps. Where the loss is averaged over n questions everything is n times slower.

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from amvl_theory.checks import Array, checked_times, positive_number, weight
from amvl_theory.learnt_prior.amortised import (
    AmortisedModel,
    ForceStatistics,
    checked_forces,
    optimal_gamma,
    optimal_ridge,
    risk_at,
)


@dataclass(frozen=True, eq=False)
class AmortisedTrajectory:
    """Training of the amortised prior from zero.

    Attributes:
        times: (T,).
        posterior_shift: delta (T, n) or (T, n, m).
        contamination: c = Phi W of the training questions, likewise.
        weights: W (T, p) or (T, p, m).
    """

    times: Array
    posterior_shift: Array
    contamination: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class TrainingRisk:
    """Excess answer loss on fresh questions during training, each (T,) [nats].

    Attributes:
        times: (T,).
        bias: what of the determined part is not learnt yet, or shrunk.
        noise: what label noise costs.
        total: their sum.
    """

    times: Array
    bias: Array
    noise: Array
    total: Array


@dataclass(frozen=True)
class Protection:
    """One way to keep label noise out of the prior, at its best setting.

    Attributes:
        risk: excess loss on fresh questions [nats].
        bias, noise: its two parts.
        gamma: weight of the reverse KL.
        ridge: alpha, as in `AmortisedModel`.
        time: when training stops; infinity at convergence.
        gamma_delay: time up to which gamma is 0.
    """

    risk: float
    bias: float
    noise: float
    gamma: float
    ridge: float
    time: float
    gamma_delay: float = 0.0


def amortised_trajectory(
    model: AmortisedModel,
    forces: ArrayLike,
    beta: float,
    gamma: float,
    times: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    *,
    gamma_delay: float = 0.0,
) -> AmortisedTrajectory:
    """The exact training path from delta = 0, W = 0 (T8).

    Args:
        model: features and constants.
        forces: g (n,) or (n, m).
        beta, gamma: weights, beta above 0.
        times: (T,) of at least 0.
        eta_q, eta_p: rates of posterior and prior.
        gamma_delay: time up to which gamma is 0.

    Raises:
        ValueError: naming the argument out of range.
    """
    force, time = checked_forces(model, forces), checked_times(times)
    left, sizes, right = model.svd
    shift, prior, outside = _responses(model, beta, gamma, time, eta_q, eta_p, gamma_delay)
    flat = force.reshape(model.questions, -1)
    modes = left.T @ flat
    rest = flat - left @ modes
    shifts = left @ (shift[:, :, None] * modes) + outside[:, None, None] * rest
    weights = right @ (prior[:, :, None] * modes)
    priors = left @ ((sizes * prior)[:, :, None] * modes)
    shape = force.shape[1:]
    return AmortisedTrajectory(
        time,
        shifts.reshape((time.size, model.questions, *shape)),
        priors.reshape((time.size, model.questions, *shape)),
        weights.reshape((time.size, model.size, *shape)),
    )


def training_risk(
    model: AmortisedModel,
    statistics: ForceStatistics,
    beta: float,
    gamma: float,
    times: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    *,
    gamma_delay: float = 0.0,
) -> TrainingRisk:
    """Excess loss on fresh questions along the training path, averaged over the label noise (T8) [nats].

    Arguments as `amortised_trajectory`, with the statistics of the forces; its limit is `amortised.excess_risk`.

    Raises:
        ValueError: naming the argument out of range.
    """
    time = checked_times(times)
    signal, cov = statistics.moments(model.size)
    _, sizes, right = model.svd
    _, prior, _ = _responses(model, beta, gamma, time, eta_q, eta_p, gamma_delay)
    learnt = model.curvature * sizes * prior
    # Left of theta is (I - V diag(learnt) V^T) theta: what is not learnt on the features' span, all of it beside that.
    inside = (right.T @ cov @ right) * (right.T @ signal @ right)
    lost = 1.0 - learnt
    beside = np.eye(model.size) - right @ right.T
    cross = np.einsum("pr,pq,qr->r", beside @ cov @ right, signal, right)
    constant = float(np.sum((beside @ cov @ beside) * signal))
    bias = np.einsum("ti,ij,tj->t", lost, inside, lost)
    bias = bias + 2.0 * np.einsum("ti,i->t", lost, cross) + constant
    noise = statistics.noise_var * (model.curvature * prior) ** 2 @ np.diagonal(right.T @ cov @ right)
    scale = 0.5 / model.curvature
    return TrainingRisk(time, scale * bias, scale * noise, scale * (bias + noise))


def early_stopping(
    model: AmortisedModel,
    statistics: ForceStatistics,
    beta: float,
    gamma: float,
    horizon: float,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    *,
    gamma_delay: float = 0.0,
    points: int = 400,
) -> Protection:
    """The best time to stop, up to `horizon`: a geometric grid of `points` times, refined around its lowest point.

    Raises:
        ValueError: naming the argument out of range.
    """
    end = positive_number("horizon", horizon)
    if points < 2:
        raise ValueError(f"points: expected at least 2, received {points}")

    def path(times: ArrayLike) -> TrainingRisk:
        return training_risk(model, statistics, beta, gamma, times, eta_q, eta_p, gamma_delay=gamma_delay)

    grid = np.concatenate([[0.0], np.geomspace(1e-6 * end, end, points)])
    index = int(np.argmin(path(grid).total))
    result = minimize_scalar(
        lambda time: float(path([time]).total[0]),
        bounds=(grid[max(index - 1, 0)], grid[min(index + 1, points)]),
        method="bounded",
        options={"xatol": 1e-9 * end},
    )
    at = path([grid[index], result.x])
    best = int(np.argmin(at.total))
    return Protection(
        risk=float(at.total[best]),
        bias=float(at.bias[best]),
        noise=float(at.noise[best]),
        gamma=float(gamma),
        ridge=model.ridge,
        time=float(at.times[best]),
        gamma_delay=float(gamma_delay),
    )


def compare_protections(
    model: AmortisedModel,
    statistics: ForceStatistics,
    beta: float,
    gamma: float,
    horizon: float,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    *,
    gamma_delay: float | None = None,
) -> dict[str, Protection]:
    """What each protection leaves of the excess loss (T8), from the same features and beta.

    At convergence:

        none              no reverse KL
        reverse KL        the best gamma for the model's ridge; without a ridge it changes nothing
        weight decay      the best ridge, no reverse KL: as good as the best gamma or better, as only rho_eff counts and
                          gamma can only raise it

    At the horizon, or before it:

        early stopping    no reverse KL, stopped at the best time up to the horizon
        no gamma          no reverse KL, up to the horizon
        constant gamma    `gamma` from the start
        delayed gamma     `gamma` from `gamma_delay` on (the best time to stop, if left out): what was learnt by then is
                          kept while what comes later is slowed; the delay buys nothing at convergence

    Raises:
        ValueError: naming the argument out of range.
    """
    end = positive_number("horizon", horizon)
    best_gamma = optimal_gamma(model, statistics, beta)
    best_ridge = optimal_ridge(model, statistics) * float(beta) * model.prior_precision
    if model.reduction == "mean":
        best_ridge /= model.questions
    stopped = early_stopping(model, statistics, beta, 0.0, end, eta_q, eta_p)
    delay = stopped.time if gamma_delay is None else weight("gamma_delay", gamma_delay)

    def converged(value: float, ridge: float) -> Protection:
        rho = ridge * (model.questions if model.reduction == "mean" else 1) / (beta * model.prior_precision)
        brake = 1.0 if rho == 0 else 1.0 + value * model.posterior_precision / model.curvature
        bias, noise = (float(part) for part in risk_at(model, statistics, np.asarray(rho * brake)))
        return Protection(bias + noise, bias, noise, value, ridge, np.inf)

    def at_horizon(value: float, wait: float) -> Protection:
        path = training_risk(model, statistics, beta, value, [end], eta_q, eta_p, gamma_delay=wait)
        risk, bias, noise = float(path.total[0]), float(path.bias[0]), float(path.noise[0])
        return Protection(risk, bias, noise, float(value), model.ridge, end, wait)

    return {
        "none": converged(0.0, model.ridge),
        "reverse KL": converged(best_gamma, model.ridge),
        "weight decay": converged(0.0, best_ridge),
        "early stopping": stopped,
        "no gamma": at_horizon(0.0, 0.0),
        "constant gamma": at_horizon(gamma, 0.0),
        "delayed gamma": at_horizon(gamma, delay),
    }


def _responses(
    model: AmortisedModel, beta: float, gamma: float, times: Array, eta_q: float, eta_p: float, gamma_delay: float
) -> tuple[Array, Array, Array]:
    """delta_j / g_j (T, r) and w_j / g_j (T, r) on the features' span, and delta / g (T,) beside it."""
    weight("gamma", gamma)
    delay = weight("gamma_delay", gamma_delay)
    pace = 1.0 / model.questions if model.reduction == "mean" else 1.0
    rates = [pace * positive_number("eta_q", eta_q), pace * positive_number("eta_p", eta_p)]
    zero = np.zeros((1, len(model.svd[1])))
    if delay == 0 or gamma == 0:
        shift, prior = _flow(model, beta, gamma, times, rates, zero, zero)
        return shift, prior, _relax(model, gamma, times, rates[0], 0.0)
    before, after = np.minimum(times, delay), np.maximum(times - delay, 0.0)
    shift, prior = _flow(model, beta, 0.0, before, rates, zero, zero)
    at_delay = _flow(model, beta, 0.0, np.array([delay]), rates, zero, zero)
    late = (times > delay)[:, None]
    later = _flow(model, beta, gamma, after, rates, *at_delay)
    beside = _relax(model, 0.0, before, rates[0], 0.0)
    outside = _relax(model, gamma, after, rates[0], float(_relax(model, 0.0, np.array([delay]), rates[0], 0.0)[0]))
    return np.where(late, later[0], shift), np.where(late, later[1], prior), np.where(late[:, 0], outside, beside)


def _relax(model: AmortisedModel, gamma: float, times: Array, rate: float, start: float) -> Array:
    """delta / g beside the features' span, where c = 0: exponential relaxation to 1 / (h + gamma lambda_q)."""
    own = model.curvature + gamma * model.posterior_precision
    return start * np.exp(-rate * own * times) - np.expm1(-rate * own * times) / own


def _flow(
    model: AmortisedModel, beta: float, gamma: float, times: Array, rates: list[float], shift: Array, prior: Array
) -> tuple[Array, Array]:
    """The module's pair (T, r) of every mode for unit forces, from (shift, prior) (1, r), by the exact exponential."""
    sizes, h = model.svd[1], model.curvature
    eta_q, eta_p = rates
    pull = gamma * model.posterior_precision
    push = positive_number("beta", beta) * model.prior_precision
    own_q, own_p = eta_q * (h + pull), eta_p * (push * sizes**2 + model.total_ridge)
    to_q, to_p = eta_q * pull * sizes, eta_p * push * sizes
    # Where every mode of the pair rests: ridge regression of 1 / h, then the frozen-prior response to it.
    rest_prior = push * sizes / (h * push * sizes**2 + (h + pull) * model.total_ridge)
    rest_shift = (1.0 + pull * sizes * rest_prior) / (h + pull)
    half = 0.5 * np.sqrt((own_q - own_p) ** 2 + 4.0 * to_q * to_p)
    middle = 0.5 * (own_q + own_p)
    fast = middle + half
    slow = eta_q * eta_p * (h * push * sizes**2 + (h + pull) * model.total_ridge) / fast
    time = times[:, None]
    decayed, gap = np.exp(-slow * time), fast - slow
    same = gap <= 1e-12 * fast
    with np.errstate(invalid="ignore", divide="ignore"):
        divided = np.where(same, time, -np.expm1(-gap * time) / np.where(same, 1.0, gap)) * decayed
    mean = 0.5 * decayed * (1.0 + np.exp(-gap * time))
    x, y = shift - rest_shift, prior - rest_prior
    found_shift = rest_shift + mean * x + divided * ((middle - own_q) * x + to_q * y)
    found_prior = rest_prior + mean * y + divided * (to_p * x + (middle - own_p) * y)
    return found_shift, found_prior
