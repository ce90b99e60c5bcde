"""T11: whether and when a decoder that learns comes to read the leak.

Decoder gain w, leak amplitude a in delta_y = a xi_y (E xi = 0, E xi^2 = 1), posterior variance s = sigma_q^2, and, to second
order in w, with gain kappa, curvature k and weight decay lambda,

    L = -kappa w a + k/2 w^2 (a^2 + s) + lambda/2 w^2 + beta KL(sg q || p) + gamma KL(sg p || q)

Near "nobody reads, nobody leaks", w = a = 0, with learning rates eta_w, eta_q,

    d (w, a)/dt = J (w, a)      J = [[ -A, eta_w kappa ], [ eta_q kappa, -D ]]
    A = eta_w (k s + lambda)    D = eta_q gamma/s   (dual KL)   or   eta_q beta/sigma_p^2   (ELBO)

    unstable if and only if   gamma < kappa^2/(k + lambda/s)
    r = 1/2 [ -(A + D) + sqrt((A - D)^2 + 4 eta_w eta_q kappa^2) ]
      <= sqrt(eta_w eta_q) (kappa - sqrt(k gamma))    (lambda = 0), reached at s = sqrt(eta_q gamma/(eta_w k))

Any calibrated softmax decoder has kappa^2 = k: its threshold without weight decay is 1 for every number of answers, at any
probabilities. Mode i of m answers (`answer_modes`) has kappa_i = sqrt(c_i), k_i = c_i, c_i an eigenvalue of diag(p) - p p^T.

From a random start with mean 0 the amplitude of the growing mode is Gaussian. It passes a critical size by time T with

    P = erfc( a_0 exp(-rho T)/sqrt 2 )     rho T = integral of r, a_0 = critical size over the initial standard deviation

and the constant weight that keeps P over a budget of T steps at constant s is

    gamma*(T) = s/eta_q [ eta_w eta_q kappa^2/(A + rho) - rho ],      rho = ln[ a_0/(sqrt 2 erfc^-1(P)) ]/T

Units: times in steps, rates per step, P a probability. Source: derived for this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfc, erfcinv

from amvl_theory.checks import (
    Array,
    broadcastable,
    check_fields,
    instance,
    not_negative,
    pair,
    positive,
    positive_number,
    probabilities,
    real_array,
    representable,
    scalar,
    weight,
)
from amvl_theory.dynamics.in_training.decoders import logistic_loss
from amvl_theory.dynamics.in_training.flow import grid, on_grid


@dataclass(frozen=True)
class ReadingModel:
    """Decoder, posterior and their learning rates; the module's symbols. The defaults are a logistic decoder, two equal answers.

    Attributes:
        gain: kappa, above 0 [nats/latent]. curvature: k, above 0 [nats/latent^2].
        decoder_rate, posterior_rate: eta_w, eta_q, above 0 [1/step].
        weight_decay: lambda, at least 0 [nats].

    Raises:
        ValueError: naming the argument.
    """

    gain: float = 0.5
    curvature: float = 0.25
    decoder_rate: float = 0.01
    posterior_rate: float = 0.01
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, positive_number, "gain", "curvature", "decoder_rate", "posterior_rate")
        check_fields(self, weight, "weight_decay")

    @classmethod
    def of_variance(cls, answer_variance: float, **rates: float) -> ReadingModel:
        """kappa = sqrt(v), k = v: a binary answer of variance v = p (1 - p) under the logistic loss, or a mode c_i of m."""
        v = positive_number("answer_variance", answer_variance)
        if v > 0.5:
            raise ValueError(f"answer_variance: expected at most 1/2, the largest of any answers, received {v:g}")
        return cls(gain=float(np.sqrt(v)), curvature=v, **rates)

    @representable
    def damping(self, variance: ArrayLike, gamma: ArrayLike) -> tuple[Array, Array]:
        """(A, D) [1/step]; the ELBO's D has beta for gamma and sigma_p^2 for s, which are equal where nothing leaks."""
        s = positive("variance", variance)
        broadcastable(variance=variance, gamma=gamma)
        decoder = self.decoder_rate * (self.curvature * s + self.weight_decay)
        return decoder, self.posterior_rate * not_negative("gamma", gamma) / s


def answer_modes(answer_probabilities: ArrayLike) -> Array:
    """c_i, the m - 1 nonzero eigenvalues of diag(p) - p p^T, falling: one reading mode each (T11).

    Args:
        answer_probabilities: p(y|x) (m,), m at least 2.

    Raises:
        ValueError: for fewer than two answers, or what are no probabilities.
    """
    p = real_array("answer_probabilities", answer_probabilities)
    if p.ndim != 1 or p.size < 2:
        raise ValueError(f"answer_probabilities: expected shape (answers,), at least 2 of them, received {p.shape}")
    p = probabilities("answer_probabilities", p, p.size)
    return np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[:0:-1]


@representable
def reading_threshold(model: ReadingModel, variance: ArrayLike = 1.0) -> Array:
    """kappa^2/(k + lambda/s): reading grows below this weight and decays above it (T11); broadcasts over s.

    Args:
        model: gain, curvature, decay. variance: s [latent^2]; without weight decay the threshold does not depend on it.

    Raises:
        ValueError: for a variance that is not above 0.
    """
    instance("model", model, ReadingModel)
    return model.gain**2 / (model.curvature + model.weight_decay / positive("variance", variance))


@representable
def threshold_variance(model: ReadingModel, gamma: float) -> float:
    """lambda/(kappa^2/gamma - k): the variance below which weight decay keeps the leak unread at this weight (T11).

    Raises:
        ValueError: where there is no such variance: without weight decay, at gamma = 0, or at gamma >= kappa^2/k, where
            no variance lets it grow.
    """
    instance("model", model, ReadingModel)
    w = weight("gamma", gamma)
    if model.weight_decay == 0 or w == 0:
        raise ValueError(
            "gamma, weight_decay: expected both above 0 (else no variance separates growth from decay), "
            f"received {w:g} and {model.weight_decay:g}"
        )
    if w >= model.gain**2 / model.curvature:
        raise ValueError(f"gamma: expected less than kappa^2/k = {model.gain**2 / model.curvature:g}, received {w:g}")
    return model.weight_decay / (model.gain**2 / w - model.curvature)


@representable
def reading_rate(model: ReadingModel, variance: ArrayLike, gamma: ArrayLike) -> Array:
    """r, the largest eigenvalue of J [1/step] (T11); negative above the threshold; broadcasts.

    Args:
        variance: s [latent^2], above 0. gamma: at least 0 (for the ELBO: beta).

    Raises:
        ValueError: for an argument of the wrong sign.
    """
    instance("model", model, ReadingModel)
    a, d = model.damping(variance, gamma)
    drive = model.decoder_rate * model.posterior_rate * model.gain**2
    # (drive - A D) / (...) instead of the difference of two almost equal numbers
    return 2 * (drive - a * d) / (a + d + np.hypot(a - d, 2 * np.sqrt(drive)))


@representable
def momentum_rate(rate: ArrayLike, momentum: float) -> Array:
    """Growth per step r' when steps follow the running mean of the gradients, m <- b m + (1 - b) g (T11); broadcasts.

        r' (1 - b/(1 + r')) = (1 - b) r        about r/(1 + r b/(1 - b)): the mean lags b/(1 - b) steps behind

    Args:
        rate: r of the flow [1/step]. momentum: b, Adam's beta_1, at least 0 and below 1.

    Raises:
        ValueError: for a momentum out of range, or a decay so fast that the steps oscillate.
    """
    b = weight("momentum", momentum)
    if b >= 1:
        raise ValueError(f"momentum: expected less than 1, received {b:g}")
    r = real_array("rate", rate)
    half = 0.5 * (1 - b) * (1 - r)
    square = half**2 + (1 - b) * r
    if (square < 0).any():
        raise ValueError(
            f"rate: expected a decay slow enough not to oscillate with momentum {b:g}, received {r.min():g}"
        )
    return (1 - b) * r / (half + np.sqrt(square))


@representable
def fastest_reading(model: ReadingModel, gamma: ArrayLike) -> tuple[Array, Array]:
    """(rate, variance) of the width at which reading grows fastest, without weight decay (T11); broadcasts.

    Raises:
        ValueError: with weight decay, at gamma = 0 (the rate then rises without end as s -> 0, towards
            sqrt(eta_w eta_q) kappa), or from the threshold kappa^2/k on, where nothing grows.
    """
    instance("model", model, ReadingModel)
    w, limit = positive("gamma", gamma), model.gain**2 / model.curvature
    if model.weight_decay:
        raise ValueError(f"model: expected no weight decay, received {model.weight_decay:g}")
    if (w >= limit).any():
        raise ValueError(f"gamma: expected less than the threshold kappa^2/k = {limit:g}, received {w.max():g}")
    rate = np.sqrt(model.decoder_rate * model.posterior_rate) * (model.gain - np.sqrt(model.curvature * w))
    return rate, np.sqrt(model.posterior_rate * w / (model.decoder_rate * model.curvature))


def _mode(model: ReadingModel, variance: ArrayLike, gamma: ArrayLike) -> tuple[Array, Array]:
    """Shares (sin, cos) of w/sqrt(eta_w) and a/sqrt(eta_q) in the growing mode: in these coordinates J is symmetric."""
    stretched = reading_rate(model, variance, gamma) + model.damping(variance, gamma)[0]
    pull = np.sqrt(model.decoder_rate * model.posterior_rate) * model.gain
    size = np.hypot(pull, stretched)
    return pull / size, stretched / size


@representable
def initial_amplitude(
    model: ReadingModel,
    variance: ArrayLike,
    gamma: ArrayLike,
    start_stds: tuple[float, float],
    *,
    noise_stds: tuple[float, float] = (0.0, 0.0),
    times: ArrayLike = np.inf,
) -> Array:
    """Standard deviation of the growing mode's amplitude at the start, gradient noise counted in (T11); broadcasts.

    The amplitude is the component along the mode in the coordinates (w/sqrt eta_w, a/sqrt eta_q), in which J is symmetric: it
    grows by exp(integral of r) also where s and gamma change slowly. White gradient noise of standard deviations n_w, n_a a
    step does what a start of variance N (1 - exp(-2 r t))/(2 r) more would do, N the variance that one step adds.

    Args:
        variance, gamma: s and the weight at the start.
        start_stds: of the independent Gaussian starts of w and a. noise_stds: n_w, n_a, of their gradients [nats].
        times: t, up to which noise is counted in [steps]; all of it if left out.

    Raises:
        ValueError: for an argument of the wrong sign, or noise where the mode does not grow.
    """
    decoder, leak = _mode(model, variance, gamma)
    counted = np.asarray(times, dtype=np.float64)
    broadcastable(variance=variance, gamma=gamma, times=counted)
    rates = model.decoder_rate, model.posterior_rate
    start_w, start_a = (std / np.sqrt(eta) for std, eta in zip(pair("start_stds", start_stds), rates, strict=True))
    noise_w, noise_a = (std * np.sqrt(eta) for std, eta in zip(pair("noise_stds", noise_stds), rates, strict=True))
    first = np.hypot(decoder * start_w, leak * start_a)
    if noise_w == noise_a == 0:
        return first
    if not (counted >= 0).all():
        raise ValueError(f"times: expected numbers of at least 0, received {counted}")
    rate = reading_rate(model, variance, gamma)
    if (rate <= 0).any():
        raise ValueError(f"gamma: expected a weight at which the leak grows, received a rate of {rate.min():.3g}")
    grown = np.sqrt(-np.expm1(-2 * rate * counted) / (2 * rate))
    return np.hypot(first, np.hypot(decoder * noise_w, leak * noise_a) * grown)


@representable
def amplitude_at_product(model: ReadingModel, variance: ArrayLike, gamma: ArrayLike, product: ArrayLike) -> Array:
    """Amplitude of the growing mode at which w a has this value (T11); over `initial_amplitude` it is a_0; broadcasts.

    Raises:
        ValueError: for a product that is not above 0.
    """
    decoder, leak = _mode(model, variance, gamma)
    broadcastable(variance=variance, gamma=gamma, product=product)
    scale = np.sqrt(model.decoder_rate * model.posterior_rate) * decoder * leak
    return np.sqrt(positive("product", product) / scale)


@representable
def critical_product(model: ReadingModel, variance: float, gamma: float, benefit: float) -> float:
    """w a at which a logistic decoder on the growing mode gains `benefit` nats from posterior latents (T11).

    The modes still grow linearly there only if the leak is not wide, a^2 < s; a posterior narrower than its leak widens first
    (T10), and more seeds collapse than P says.

    Raises:
        ValueError: for a benefit that the growing mode does not reach, or a decoder other than the logistic one.
    """
    instance("model", model, ReadingModel)
    if (model.gain, model.curvature) != (0.5, 0.25):
        raise ValueError(f"model: expected gain 1/2 and curvature 1/4, received {model.gain:g} and {model.curvature:g}")
    s = positive_number("variance", variance)
    decoder, leak = _mode(model, s, weight("gamma", gamma))
    ratio = float(decoder / leak * np.sqrt(model.decoder_rate / model.posterior_rate))  # w/a
    target = positive_number("benefit", benefit)
    products = np.geomspace(1e-6, 1e3, 400)
    gains = np.log(2.0) - logistic_loss(products, ratio * products * s)
    if not gains[0] < target <= gains.max():
        raise ValueError(
            f"benefit: expected a number of nats between {gains[0]:.2g} and {gains.max():.4g}, which this mode gains, "
            f"received {target:g}"
        )
    first = int(np.argmax(gains >= target))
    return float(np.interp(target, gains[first - 1 : first + 1], products[first - 1 : first + 1]))


@representable
def reading_exponent(
    model: ReadingModel, times: ArrayLike, variance: ArrayLike, gamma: ArrayLike, *, exact: bool = False
) -> Array:
    """Logarithm of the growth factor from time 0 on (T,), for s(t) and gamma(t) (T11).

    The integral of r, which holds while s and gamma change slowly against r (the mode then follows them); or, with `exact`,
    the logarithm of the largest stretch of (w, a) by the product of matrix exponentials over the grid's intervals.

    Args:
        times: (T,) rising, at least 0; before times[0] weight and width are those at times[0] [steps].
        variance, gamma: s [latent^2] and the weight, a number or (T,) values at `times`, linear in between.

    Raises:
        ValueError: for a bad grid, shape or sign.
    """
    instance("model", model, ReadingModel)
    time = grid(times)
    s, w = on_grid("variance", positive("variance", variance), time), on_grid("gamma", gamma, time)
    steps = np.diff(time, prepend=0.0)
    if not exact:
        rate = reading_rate(model, s, w)
        return np.cumsum(steps * 0.5 * (rate + np.append(rate[:1], rate[:-1])))
    between = [0.5 * (value + np.append(value[:1], value[:-1])) for value in (s, w)]
    decoder, posterior = model.damping(*between)
    drive = model.decoder_rate * model.posterior_rate * model.gain**2
    total, shift, grown = np.eye(2), 0.0, np.empty(time.size)
    for i, (a, d, dt) in enumerate(zip(decoder, posterior, steps, strict=True)):
        values, vectors = np.linalg.eigh([[-a, np.sqrt(drive)], [np.sqrt(drive), -d]])
        shift += values[1] * dt
        total = (vectors * np.exp((values - values[1]) * dt)) @ vectors.T @ total
        grown[i] = shift + np.log(np.linalg.norm(total, 2))
    return grown


@representable
def collapse_probability(exponent: ArrayLike, critical_ratio: ArrayLike) -> Array:
    """P = erfc(a_0 exp(-integral of r)/sqrt 2): share of random starts that have come to read by then (T11); broadcasts.

    Args:
        exponent: integral of r, as `reading_exponent` gives it, or r T [1].
        critical_ratio: a_0, critical amplitude over the standard deviation of the initial one, above 0 [1].

    Raises:
        ValueError: for a ratio that is not above 0.
    """
    broadcastable(exponent=exponent, critical_ratio=critical_ratio)
    return erfc(positive("critical_ratio", critical_ratio) * np.exp(-real_array("exponent", exponent)) / np.sqrt(2))


@representable
def critical_ratio(probability: ArrayLike, exponent: ArrayLike = 0.0) -> Array:
    """a_0 from a share of seeds that collapsed at this exponent: the inverse of `collapse_probability` (T11); broadcasts.

    Raises:
        ValueError: for a probability outside (0, 1).
    """
    p = real_array("probability", probability)
    if ((p <= 0) | (p >= 1)).any():
        raise ValueError(f"probability: expected numbers between 0 and 1, exclusive, received {p}")
    broadcastable(probability=p, exponent=exponent)
    return np.sqrt(2) * erfcinv(p) * np.exp(real_array("exponent", exponent))


@representable
def holding_weight(
    budget: ArrayLike, *, probability: ArrayLike, critical: ArrayLike, model: ReadingModel, variance: ArrayLike
) -> Array:
    """gamma*(T): the least constant weight that keeps the share of collapsed seeds at `probability` for T steps (T11).

    Assumes a constant s: `holding_weight_on_path` follows one that grows. 0 where forward-only training holds by itself.

    Args:
        budget: T, above 0 [steps]. probability: P, in (0, 1). critical: a_0, above 0 [1].
        variance: s, above 0 [latent^2].

    Raises:
        ValueError: for a budget that is not above 0 and so on; and where no weight holds, because even at infinite weight
            the amplitude decays too slowly (rate -A) from a start that is beyond `probability`.
    """
    instance("model", model, ReadingModel)
    s = positive("variance", variance)
    broadcastable(budget=budget, probability=probability, critical=critical, variance=variance)
    rho = np.log(positive("critical", critical) / critical_ratio(probability)) / positive("budget", budget)
    decoder = model.damping(s, 0.0)[0]
    if (rho + decoder <= 0).any():
        raise ValueError(
            f"critical: expected a start that some weight holds (rho > -A, A = {decoder.max():.3g}), received "
            f"rho = {rho.min():.3g}"
        )
    drive = model.decoder_rate * model.posterior_rate * model.gain**2
    return np.maximum(s / model.posterior_rate * (drive / (decoder + rho) - rho), 0.0)


@representable
def holding_weight_on_path(
    times: ArrayLike,
    *,
    probability: float,
    critical: float,
    model: ReadingModel,
    variance: Callable[[Array], ArrayLike] | ArrayLike,
    shape: ArrayLike = 1.0,
) -> float:
    """The least g >= 0 with which gamma(t) = g shape(t) holds the share of collapsed seeds until the last time (T11).

    Args:
        times: (T,) rising [steps].
        variance: s(t), a number, (T,) values, or a function from gamma(t) (T,) to (T,) values where s follows the weight.
        shape: schedule of the weight, a number or (T,) values, for example 0 for the first fifth and then a ramp to 1.

    Raises:
        ValueError: where no weight up to 1e6 times the threshold holds, for example because the seeds collapse before the
            schedule sets in; and for a bad argument.
    """
    time = grid(times)
    if time[-1] == 0:
        raise ValueError("times: expected a budget above 0 as the last time, received 0")
    form = on_grid("shape", shape, time)
    start = positive("critical", scalar("critical", critical))
    target = float(np.log(start / critical_ratio(scalar("probability", probability))))

    def excess(size: float) -> float:
        gamma = size * form
        width = variance(gamma) if callable(variance) else variance
        return float(reading_exponent(model, time, width, gamma)[-1]) - target

    if excess(0.0) <= 0:
        return 0.0
    limit = model.gain**2 / model.curvature
    low, high = 0.0, 1e-6 * limit
    while excess(high) > 0:
        low, high = high, 2 * high
        if high == 0 or high > 1e6 * limit:
            raise ValueError(
                f"shape: expected a schedule with which some weight holds, received one that leaves {excess(high):.3g} "
                "too much growth at any weight"
            )
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def answer_loss_bound(answer_entropy: ArrayLike, leaked_nats: ArrayLike) -> Array:
    """H(y|x) - I(z; y|x): no decoder has a lower answer loss with posterior latents [nats]; broadcasts.

    So a gain over H(y|x) is at most the leak: NLL = H(y|x, z) + E KL(p(y|x, z) || decoder) >= H(y|x) - I(z; y|x).
    """
    broadcastable(answer_entropy=answer_entropy, leaked_nats=leaked_nats)
    return not_negative("answer_entropy", answer_entropy) - not_negative("leaked_nats", leaked_nats)
