"""What reading the leak does to the route from x to y, and to accuracy with prior latents.

Two equally likely answers y = +-1. A slow route reads x = m y + tau e with the gain u, a fast one reads z = a y + sigma_q e
with the gain w (`coadaptation`); R = m^2/tau^2, S = a^2/sigma_q^2. At inference z comes from the prior, N(0, sigma_p^2), and says
nothing about y:

    accuracy with prior latents = Phi( u m/sqrt(u^2 tau^2 + w^2 sigma_p^2) )

1. With both gains at their best and sigma_p^2 = sigma_q^2 + a^2 it is Phi( R/sqrt(R + S + S^2) ), against Phi(sqrt R) without
   the leak, for a linear and for a logistic decoder. It has fallen half-way to chance (in units of Phi^-1) where S + S^2 = 3 R.
2. Starving: x is driven by m E0, and E0 falls as the leak explains y. A linear decoder keeps u/u_0 = (1 + R)/(1 + R + S) at
   rest. A logistic one keeps all of it at rest (u = 2 m/tau^2 at any S): there the leak takes only the gradient that x
   needs to get there.
3. x protects: behind a route at rest the linear gain is kappa/(1 + R), and the leak of T12 is less by R: dual KL settles at
   R + S = rho(gamma), nothing leaks late from gamma = -l'(R) on: kappa^2/(2 k (1 + R)^2), or half the least mean
   square error of y given x.
4. When gamma is raised later, past -l'(R), S falls and the route learns again: accuracy recovers to Phi(sqrt R).

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from amvl_theory.checks import (
    Array,
    broadcastable,
    instance,
    not_negative,
    one_of,
    positive,
    positive_number,
    representable,
    scalar,
    weight,
)
from amvl_theory.dynamics.in_training.coadaptation import (
    CoadaptedTrajectory,
    XRoute,
    coadapted_asymptotics,
    largest_snr,
    marginal_benefit,
)
from amvl_theory.dynamics.in_training.decoders import DECODERS, Decoder, answer_drive
from amvl_theory.dynamics.in_training.reading import ReadingModel, reading_rate


@representable
def prior_latent_accuracy(x_snr: ArrayLike, leak_snr: ArrayLike) -> Array:
    """Phi(R/sqrt(R + S + S^2)): accuracy with prior latents, both gains at their best; broadcasts.

    Args:
        x_snr: R, above 0. leak_snr: S, at least 0.

    Raises:
        ValueError: for an argument of the wrong sign.
    """
    r, s = positive("x_snr", x_snr), not_negative("leak_snr", leak_snr)
    broadcastable(x_snr=r, leak_snr=s)
    return ndtr(r / np.sqrt(r + s + s**2))


@representable
def tolerated_leak(x_snr: float, accuracy: float) -> float:
    """S at which accuracy with prior latents has fallen to `accuracy`; the inverse of `prior_latent_accuracy`.

    Raises:
        ValueError: for an accuracy that is not between chance, 1/2, and what x allows, Phi(sqrt R).
    """
    r = positive_number("x_snr", x_snr)
    target, best = scalar("accuracy", accuracy), float(ndtr(np.sqrt(r)))
    if not 0.5 < target <= best:
        raise ValueError(f"accuracy: expected above 1/2 and at most {best:.6g}, which x allows, received {target:g}")
    excess = max((r / float(ndtri(target))) ** 2 - r, 0.0)  # S + S^2
    return float(2 * excess / (1 + np.sqrt(1 + 4 * excess)))


@representable
def starved_share(x_snr: ArrayLike, leak_snr: ArrayLike) -> Array:
    """u/u_0 = (1 + R)/(1 + R + S), what a linear decoder keeps of the route from x at rest; broadcasts."""
    r = not_negative("x_snr", x_snr)
    broadcastable(x_snr=r, leak_snr=leak_snr)
    return (1 + r) / (1 + r + not_negative("leak_snr", leak_snr))


@representable
def late_leak(model: ReadingModel, gamma: float, x_snr: float, *, decoder: Decoder = "linear") -> float:
    """S to which dual KL tends beside a route of signal-to-noise ratio R: T12's rho less R, at least 0.

    Raises:
        ValueError: as `coadapted_asymptotics`.
    """
    return max(coadapted_asymptotics(model, gamma, decoder=decoder).snr - weight("x_snr", x_snr), 0.0)


@representable
def protecting_weight(
    model: ReadingModel, x_snr: float, leak_snr: float = 0.0, *, decoder: Decoder = "linear"
) -> float:
    """-l'(R + S): the weight of the reverse KL from which on at most S leaks late (0: nothing).

    Raises:
        ValueError: for a ratio below 0, or a bad decoder; for a logistic one also from R + S = 64 on (softmax: 128/m).
    """
    instance("model", model, ReadingModel)
    answer_drive(decoder, 0.0, 1.0, gain=model.gain, curvature=model.curvature)  # checks the decoder
    total = weight("x_snr", x_snr) + weight("leak_snr", leak_snr)
    if decoder == "linear":
        return model.gain**2 / (2 * model.curvature * (1 + total) ** 2)
    end = largest_snr(decoder, model)
    if total >= end:
        raise ValueError(f"x_snr, leak_snr: expected a sum below {end:g}, received {total:g}")
    return marginal_benefit(decoder, model, total)


@representable
def accuracy_with_prior_latents(path: CoadaptedTrajectory, route: XRoute) -> Array:
    """Phi(u m/sqrt(u^2 tau^2 + w^2 sigma_p^2)) along a trajectory of two answers (T,); 1/2 where nothing is read."""
    instance("route", route, XRoute)
    noise = np.sqrt((path.x_gain * route.noise) ** 2 + path.decoder_gain**2 * path.prior_var)
    signal = path.x_gain * route.signal
    return ndtr(np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 0))


@representable
def rest_gain(route: XRoute, *, decoder: Decoder = "linear") -> float:
    """u_0, where the route alone comes to rest, for kappa = k = 1: m/(m^2 + tau^2), or 2 m/tau^2 for a logistic decoder."""
    instance("route", route, XRoute)
    if one_of("decoder", decoder, DECODERS) == "logistic":
        return 2 * route.signal / route.noise**2
    return route.signal / (route.signal**2 + route.noise**2)


@representable
def fall_time(
    model: ReadingModel, route: XRoute, *, gamma: float, posterior_var: float, start_gain: float, accuracy: float
) -> float:
    """When accuracy with prior latents falls to `accuracy` [steps]: linear decoder (kappa = k = 1), route at rest, T11's growth.

    t = ln(w_c/w_0)/r,   w_c = u_0 sqrt( m^2/Phi^-1(accuracy)^2 - tau^2 )/sigma_q,   r at the gain 1/(1 + R)

    Holds while the leak is still small when accuracy falls: w_c a_c << 1.

    Args:
        start_gain: w_0, decoder gain of the growing mode at time 0, above 0.

    Raises:
        ValueError: for a gain and curvature other than 1, an accuracy out of range, and where the leak does not grow.
    """
    instance("model", model, ReadingModel)
    instance("route", route, XRoute)
    variance, first = positive_number("posterior_var", posterior_var), positive_number("start_gain", start_gain)
    if (model.gain, model.curvature) != (1.0, 1.0):
        raise ValueError(f"model: expected gain and curvature 1, received {model.gain:g} and {model.curvature:g}")
    tolerated_leak(route.snr, accuracy)  # checks the range
    behind = ReadingModel(1 / (1 + route.snr), 1.0, model.decoder_rate, model.posterior_rate, model.weight_decay)
    rate = float(reading_rate(behind, variance, weight("gamma", gamma)))
    if rate <= 0:
        raise ValueError(
            f"gamma: expected a weight at which the leak grows, received {gamma:g} (rate {rate:.3g} a step)"
        )
    loose = (route.signal / float(ndtri(accuracy))) ** 2 - route.noise**2
    critical = rest_gain(route) * np.sqrt(max(loose, 0.0) / variance)
    return float(np.log(critical / first) / rate)


@dataclass(frozen=True)
class StarvingOutcome:
    """What became of accuracy with prior latents in one run.

    Attributes:
        best: what accuracy had reached before its deepest fall.
        least: where that fall ended. least_time: when [steps].
        final: at the last time.
        recovered: (final - least)/(best - least), 1 where nothing was lost.
    """

    best: float
    least: float
    least_time: float
    final: float
    recovered: float


@representable
def starving_outcome(path: CoadaptedTrajectory, route: XRoute) -> StarvingOutcome:
    """By how much accuracy with prior latents falls along a trajectory, and how much of it comes back."""
    accuracy = accuracy_with_prior_latents(path, route)
    reached = np.maximum.accumulate(accuracy)
    low = int(np.argmax(reached - accuracy))
    best, least, final = float(reached[low]), float(accuracy[low]), float(accuracy[-1])
    recovered = (final - least) / (best - least) if best > least else 1.0
    return StarvingOutcome(best, least, float(path.times[low]), final, recovered)
