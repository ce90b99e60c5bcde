"""T10: the KL terms widen posterior and prior before the means meet.

One mode, KL gradients only. Posterior N(mu_q, Q), prior N(mu_p, P), Q = sigma_q^2, P = sigma_p^2, D = (mu_q - mu_p)^2 + V
the mean square gap, V the part of it that no head can close (a spread over answers that the heads cannot tell apart). With
the preconditioned rates a = kappa_q gamma, b = kappa_p beta of the log stds and a_m, b_m of the means,

    d log sigma_q/dt = a [ (P + D)/Q - 1 ]        d log sigma_p/dt = b [ (Q + D)/P - 1 ]
    d Delta/dt       = -( a_m/Q + b_m/P ) Delta    Delta = mu_q - mu_p,   D = Delta^2 + V

which is linear in the variances:

    dQ/dt = 2 a (P - Q + D)     dP/dt = 2 b (Q - P + D)     d(b Q + a P)/dt = 4 a b D

1. D = V constant:  b Q + a P grows by 4 a b V t, and P - Q goes to (b - a) V/(a + b) at the rate 2 (a + b): both variances
   grow for ever at the rate 4 a b V/(a + b).
2. V = 0, a = b, Q = P:  Delta^2 + ((a_m + b_m)/a) ln Q is invariant, Q_inf = Q_0 exp(a Delta_0^2/(a_m + b_m)).
3. V = 0, any rates and widths: with m = max(a_m, b_m)

       ln Q_inf >= ( b ln Q_0 + a ln P_0 )/(a + b) + a b Delta_0^2/((a + b) m)

   (equal in case 2 if a_m = b_m). To first order in Delta_0^2/Q_0, from equal widths,
   ln(Q_inf/Q_0) = 2 a b Delta_0^2/((a + b)(a_m + b_m)): exact in case 2.
4. Adam divides by its running root mean square. A gradient of rms gamma c k_s beside others of second moment v_s moves the
   log std by eta gamma c k_s/sqrt(v_s + (gamma c k_s)^2): linear in gamma only below gamma_x = sqrt(v_s)/(c k_s).

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import (
    Array,
    broadcastable,
    check_fields,
    instance,
    not_negative,
    positive,
    positive_number,
    real_array,
    representable,
    scalar,
    weight,
)
from amvl_theory.dynamics.in_training.flow import grid, integrate, on_grid


@dataclass(frozen=True)
class HeadRates:
    """Learning rates of the four heads, each times whatever preconditions it [1/step]; at least 0.

    Attributes:
        posterior_std, prior_std: kappa_q, kappa_p, of the log stds.
        posterior_mean, prior_mean: of the means [latent^2/step].

    Raises:
        ValueError: for a negative rate.
    """

    posterior_std: float = 0.01
    prior_std: float = 0.01
    posterior_mean: float = 0.01
    prior_mean: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, weight, "posterior_std", "prior_std", "posterior_mean", "prior_mean")


@dataclass(frozen=True, eq=False)
class Widening:
    """Widths and gap at given times.

    Attributes:
        times: (T,) [steps].
        posterior_var, prior_var: Q, P (T,) [latent^2].
        gap: Delta (T,), the part of the gap that the means close [latent].
        fixed_gap_var: V, the part that they do not [latent^2].
    """

    times: Array
    posterior_var: Array
    prior_var: Array
    gap: Array
    fixed_gap_var: float

    @property
    @representable
    def leaked_nats(self) -> Array:
        """1/2 ln(1 + V/Q) (T,) [nats]: the information of a spread V of the posterior means, as a Gaussian channel."""
        return 0.5 * np.log1p(self.fixed_gap_var / self.posterior_var)


@representable
def widening(
    times: ArrayLike,
    *,
    gap: float,
    gamma: ArrayLike,
    beta: ArrayLike,
    rates: HeadRates,
    posterior_std: float = 1.0,
    prior_std: float = 1.0,
    fixed_gap_var: float = 0.0,
) -> Widening:
    """Q(t), P(t), Delta(t) of the module's flow (T10), integrated to a relative 1e-9.

    Args:
        times: (T,) rising, at least 0 [steps].
        gap: Delta_0 = mu_q - mu_p at time 0 [latent].
        gamma, beta: loss weights, a number or (T,) values at `times`, linear in between.
        rates: learning rates of the heads.
        posterior_std, prior_std: initial widths [latent].
        fixed_gap_var: V [latent^2].

    Raises:
        ValueError: for times that do not rise, a width that is not above 0, a negative weight or variance.
    """
    time = grid(times)
    instance("rates", rates, HeadRates)
    first = 2 * np.log([positive_number("posterior_std", posterior_std), positive_number("prior_std", prior_std)])
    fixed = weight("fixed_gap_var", fixed_gap_var)
    kappa = np.array([rates.posterior_std, rates.prior_std, rates.posterior_mean, rates.prior_mean])

    def velocity(state: Array, weights: Array) -> Array:
        q, p, delta = np.exp(state[0]), np.exp(state[1]), state[2]
        a, b, a_m, b_m = kappa * np.tile(weights, 2)
        square = delta**2 + fixed
        return np.array([2 * a * ((p + square) / q - 1), 2 * b * ((q + square) / p - 1), -(a_m / q + b_m / p) * delta])

    weights = np.stack([on_grid("gamma", gamma, time), on_grid("beta", beta, time)])
    path = integrate(velocity, [*first, scalar("gap", gap)], time, weights)
    return Widening(time, np.exp(path[:, 0]), np.exp(path[:, 1]), path[:, 2], fixed)


@representable
def widening_at_fixed_gap(
    times: ArrayLike,
    *,
    fixed_gap_var: float,
    posterior_rate: float,
    prior_rate: float,
    posterior_std: float = 1.0,
    prior_std: float = 1.0,
) -> Widening:
    """Q(t), P(t) in closed form where no head can close the gap (T10, case 1); Delta = 0.

    Args:
        times: (T,) rising, at least 0 [steps].
        fixed_gap_var: V [latent^2].
        posterior_rate, prior_rate: a, b, at least 0 and not both 0 [1/step].
        posterior_std, prior_std: initial widths [latent].

    Raises:
        ValueError: for a bad argument.
    """
    time, fixed = grid(times), weight("fixed_gap_var", fixed_gap_var)
    a, b = weight("posterior_rate", posterior_rate), weight("prior_rate", prior_rate)
    if a + b == 0:
        raise ValueError("prior_rate: expected a rate above 0 where posterior_rate is 0, received 0")
    q, p = positive_number("posterior_std", posterior_std) ** 2, positive_number("prior_std", prior_std) ** 2
    rest = (b - a) * fixed / (a + b)
    apart = rest + (p - q - rest) * np.exp(-2 * (a + b) * time)  # P - Q
    mixed = (b * q + a * p + 4 * a * b * fixed * time) / (a + b)
    return Widening(time, mixed - a / (a + b) * apart, mixed + b / (a + b) * apart, np.zeros_like(time), fixed)


@representable
def widening_rate(fixed_gap_var: ArrayLike, posterior_rate: ArrayLike, prior_rate: ArrayLike) -> Array:
    """4 a b V/(a + b), at which both variances come to grow [latent^2/step] (T10, case 1); broadcasts.

    Raises:
        ValueError: for an argument of the wrong sign.
    """
    a, b = positive("posterior_rate", posterior_rate), positive("prior_rate", prior_rate)
    broadcastable(fixed_gap_var=fixed_gap_var, posterior_rate=a, prior_rate=b)
    return 4 * a * b / (a + b) * not_negative("fixed_gap_var", fixed_gap_var)


@dataclass(frozen=True, eq=False)
class WideningLimit:
    """Final variance of both distributions once the means have met; arrays of the broadcast shape.

    Attributes:
        at_least: the lower bound of case 3, for any rates and widths [latent^2].
        small_gap: first order in Delta_0^2/Q_0, for equal widths at the start; exact if also a = b [latent^2].
    """

    at_least: Array
    small_gap: Array


@representable
def widening_limit(
    gap: ArrayLike,
    *,
    rates: HeadRates,
    gamma: ArrayLike = 1.0,
    beta: ArrayLike = 1.0,
    posterior_std: ArrayLike = 1.0,
    prior_std: ArrayLike = 1.0,
) -> WideningLimit:
    """Q_inf = P_inf where the means close the whole gap (T10, cases 2 and 3); broadcasts.

    Args:
        gap: Delta_0 [latent]. rates: all above 0. gamma, beta: constant weights, above 0.
        posterior_std, prior_std: initial widths [latent].

    Raises:
        ValueError: for a rate, weight or width that is not above 0: without one of them the limit is another.
    """
    instance("rates", rates, HeadRates)
    broadcastable(gap=gap, gamma=gamma, beta=beta, posterior_std=posterior_std, prior_std=prior_std)
    weights = positive("gamma", gamma), positive("beta", beta)
    names = ("posterior_std", "prior_std", "posterior_mean", "prior_mean")
    a, b, a_m, b_m = (
        positive(name, getattr(rates, name)) * w for name, w in zip(names, weights * 2, strict=True)
    )  # fmt: skip
    square = real_array("gap", gap) ** 2
    log_q, log_p = 2 * np.log(positive("posterior_std", posterior_std)), 2 * np.log(positive("prior_std", prior_std))
    mixed = (b * log_q + a * log_p) / (a + b)
    share = a * b / (a + b) * square
    return WideningLimit(np.exp(mixed + share / np.maximum(a_m, b_m)), np.exp(mixed + 2 * share / (a_m + b_m)))


@representable
def adam_crossover(second_moment: ArrayLike, kl_gradient_rms: ArrayLike, clip_factor: ArrayLike = 1.0) -> Array:
    """gamma_x = sqrt(v_s)/(c k_s), below which Adam moves the log std in proportion to gamma (T10, case 4); broadcasts.

    Args:
        second_moment: v_s, Adam's second moment without the reverse KL, above 0 [nats^2].
        kl_gradient_rms: k_s, rms gradient of the reverse KL at gamma = 1 before clipping, above 0 [nats].
        clip_factor: c, the factor by which clipping shortens gradients, in (0, 1].

    Raises:
        ValueError: for an argument out of range.
    """
    broadcastable(second_moment=second_moment, kl_gradient_rms=kl_gradient_rms, clip_factor=clip_factor)
    clip = positive("clip_factor", clip_factor)
    if (clip > 1).any():
        raise ValueError(f"clip_factor: expected numbers in (0, 1], received {clip.max():g}")
    return np.sqrt(positive("second_moment", second_moment)) / (clip * positive("kl_gradient_rms", kl_gradient_rms))


@representable
def adam_effective_weight(gamma: ArrayLike, crossover: ArrayLike) -> Array:
    """gamma/sqrt(1 + (gamma/gamma_x)^2): the weight that acts under Adam, at most gamma_x (T10, case 4); broadcasts."""
    w = not_negative("gamma", gamma)
    broadcastable(gamma=gamma, crossover=crossover)
    return w / np.hypot(1.0, w / positive("crossover", crossover))
