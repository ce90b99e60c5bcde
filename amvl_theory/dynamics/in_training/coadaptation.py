"""T12: decoder, leak and widths that move together; under dual KL they do not come to rest.

Decoder gain w, leak amplitude a, Q = sigma_q^2, P = sigma_p^2, rho = a^2/Q the signal-to-noise ratio of the leak. A decoder
that sees z only through w z (`decoders`, with a route u from x beside it) moves by E0, E1 at M = u m + w a,
S^2 = u^2 tau^2 + w^2 Q:

    dw/dt = eta_w [ a E0 - w Q E1 - lambda w ]             da/dt = eta_q [ w E0 - gamma a/Q - mu a ]
    d log sigma_q/dt = eta_s [ gamma ((P + a^2)/Q - 1) - w^2 Q E1 ]
    d log sigma_p/dt = eta_r beta [ (Q + a^2)/P - 1 ]      du/dt = eta_u [ m E0 - u tau^2 E1 ]

(ELBO: beta a/P for gamma a/Q, and beta (1 - Q/P) for the reverse KL on log sigma_q.)

Scale: the answer loss does not change under z -> c z, w -> w/c, so it leaves N alone:

    N = a^2/(2 eta_q) + log(sigma_q)/eta_s + log(sigma_p)/eta_r - w^2/(2 eta_w)
    dN/dt = gamma (P/Q - 1) + beta ((Q + a^2)/P - 1) + lambda w^2      (dual KL, mu = 0)        = 0  (ELBO, lambda = 0)

With matched prior dN/dt = gamma rho + lambda w^2: dual KL has no resting point at which anything leaks. Let l(rho) be the
least answer loss of the decoder at rho. Late, everything but the scale follows, and

    dual KL   -l'(rho) = gamma              d a^2/dt = 2 eta_q gamma rho      dP/dt = 2 eta_q gamma (1 + rho)
    ELBO      -l'(rho) = beta/(2 (1 + rho)),  at rest

linear: l = -kappa^2/(2 k) rho/(1 + rho), so rho = kappa/sqrt(2 k gamma) - 1 and rho = kappa^2/(k beta) - 1; logistic, two
equal answers, or softmax, m of them: -l' = E1/(2 k) = dI/drho at the best gain w = (kappa/k) a/Q, half the least mean square
error of a mode's answer given z (numerically exact, no closed form: `decoders.softmax_moments`). m answers have m - 1 modes, each
with this rho and these widths; to second order in w that holds for the modes c_i of any answers
(`ReadingModel.of_variance(c_i)`, linear). From kappa^2/(2 k) = -l'(0) up to the
threshold kappa^2/k of T11 the leak is read but fades: with F = kappa^2/k - gamma,

    rho t -> C = ( 1/(2 eta_s) + gamma/(2 eta_r beta) )/(2 gamma - kappa^2/k)    a^2 ~ 2 eta_q F C ln t    Q ~ 2 eta_q F t ln t

A decay mu of the leak amplitude gives dual KL a resting point at Q = gamma/mu. So do finite steps of a linear decoder: at
eta_w k P = 2 its gain begins to swing from step to step, and the swing holds the width there, at another rho:

    P = 2/(eta_w k),   (1 + rho)(1 + 2 rho) = kappa^2/(k gamma)

A route from x of its own signal-to-noise ratio R = m^2/tau^2 counts against the leak: R + rho stands for rho in l. So the rho of
dual KL is what its limit says, less R, or 0 (`starving`). The ELBO's is not: it rests where -l'(R + rho) = beta/(2 (1 + rho)),
which for a linear decoder and R > 1 has two solutions from beta = kappa^2/(k (1 + R)^2) up to kappa^2/(4 k R): a leak that is
there then stays, one that is not does not come.

Adam leaves the limits of rho alone and changes the clock: drift and noise of a's gradient both fall like 1/a, so that a and
both widths grow like t instead of sqrt(t), as long as no other noise is in the gradient (seen in `ensembles`).

Units: t in steps, eta per step. Source: derived for this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from amvl_theory.checks import (
    INFINITE,
    Array,
    check_fields,
    instance,
    objective_name,
    pair,
    positive,
    positive_number,
    representable,
    scalar,
    weight,
)
from amvl_theory.dynamics.in_training.decoders import Decoder, answer_drive
from amvl_theory.dynamics.in_training.flow import grid, integrate, on_grid
from amvl_theory.dynamics.in_training.reading import ReadingModel

Objective = Literal["amvl", "elbo", "dual"]
"""Dual KL and ELBO; "dual" is the older name of "amvl"."""
OBJECTIVES = ("amvl", "elbo")
LARGEST_SNR = 64
"""rho of a logistic decoder from which on the quadrature, whose nodes end nine deviations out, is not trusted; softmax: 128/m."""


@dataclass(frozen=True)
class XRoute:
    """The route from x to y beside the latent: x = m y + tau e, read with the gain u.

    Attributes:
        signal: m, at least 0. noise: tau, above 0. rate: eta_u, at least 0 [1/step].

    Raises:
        ValueError: for a number out of range.
    """

    signal: float = 0.0
    noise: float = 1.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, weight, "signal", "rate")
        check_fields(self, positive_number, "noise")

    @property
    @representable
    def snr(self) -> float:
        """R = m^2/tau^2."""
        return (self.signal / self.noise) ** 2


@dataclass(frozen=True)
class Start:
    """Where training starts: decoder gain w, leak amplitude a, both widths [latent], gain u of the route from x."""

    decoder_gain: float = 1e-3
    leak: float = 1e-3
    posterior_std: float = 1.0
    prior_std: float = 1.0
    x_gain: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, scalar, "decoder_gain", "leak", "x_gain")
        check_fields(self, positive_number, "posterior_std", "prior_std")


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingState:
    """All that moves in training.

    Attributes:
        decoder_gain: w. leak: a. posterior_var, prior_var: Q, P. x_gain: u.
    """

    decoder_gain: Array
    leak: Array
    posterior_var: Array
    prior_var: Array
    x_gain: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class CoadaptedTrajectory(TrainingState):
    """All that moves, at given times [steps]; every array (T,)."""

    times: Array

    @property
    @representable
    def snr(self) -> Array:
        """rho = a^2/Q (T,)."""
        return self.leak**2 / self.posterior_var


@representable
def coadapted_trajectory(
    times: ArrayLike,
    *,
    model: ReadingModel,
    gamma: ArrayLike,
    beta: ArrayLike = 1.0,
    std_rates: tuple[float, float] = (0.01, 0.01),
    decoder: Decoder = "linear",
    objective: Objective = "amvl",
    start: Start | None = None,
    route: XRoute | None = None,
    leak_decay: float = 0.0,
) -> CoadaptedTrajectory:
    """The module's flow, integrated to a relative 1e-9 (T12; with a route from x: `starving`).

    Args:
        times: (T,) rising, at least 0 [steps].
        model: gain, curvature and decay of the decoder; eta_w, eta_q. A logistic decoder needs 1/2 and 1/4, the defaults; a
            softmax of m equally likely answers `ReadingModel.of_variance(1/m)` (the defaults are m = 4), and what moves is
            every mode's.
        gamma, beta: weights, a number or (T,) values at `times`, linear in between.
        std_rates: eta_s, eta_r of the two log stds, at least 0 [1/step].
        decoder: "linear", "logistic" or "softmax".
        objective: "amvl" (dual KL; older name "dual"), or "elbo", which ignores gamma.
        start: where training starts. route: beside the latent, none if left out. leak_decay: mu [nats/latent^2].

    Raises:
        ValueError: for a bad argument, or a flow that cannot be integrated.
    """
    time = grid(times)
    begin, x = Start() if start is None else start, XRoute() if route is None else route
    for argument, value, kind in (("model", model, ReadingModel), ("start", begin, Start), ("route", x, XRoute)):
        instance(argument, value, kind)
    name = objective_name(objective, OBJECTIVES)
    answer_drive(decoder, 0.0, 1.0, gain=model.gain, curvature=model.curvature)  # checks the decoder
    eta_s, eta_r = pair("std_rates", std_rates)
    decay = weight("leak_decay", leak_decay)
    dual = name == "amvl"

    def velocity(state: Array, weights: Array) -> Array:
        w, a, q, p, u = state[0], state[1], np.exp(state[2]), np.exp(state[3]), state[4]
        g, b = weights
        e0, e1 = answer_drive(
            decoder, u * x.signal + w * a, (u * x.noise) ** 2 + w**2 * q, gain=model.gain, curvature=model.curvature
        )
        pull, widen = (g * a / q, g * ((p + a**2) / q - 1)) if dual else (b * a / p, b * (1 - q / p))
        return np.array(
            [
                model.decoder_rate * (a * e0 - w * q * e1 - model.weight_decay * w),
                model.posterior_rate * (w * e0 - pull - decay * a),
                2 * eta_s * (widen - w**2 * q * e1),
                2 * eta_r * b * ((q + a**2) / p - 1),
                x.rate * (x.signal * e0 - u * x.noise**2 * e1),
            ]
        )

    weights = np.stack([on_grid("gamma", gamma, time), on_grid("beta", beta, time)])
    first = [begin.decoder_gain, begin.leak, 2 * np.log(begin.posterior_std), 2 * np.log(begin.prior_std), begin.x_gain]
    path = integrate(velocity, first, time, weights)
    w, a, log_q, log_p, u = path.T
    return CoadaptedTrajectory(
        times=time, decoder_gain=w, leak=a, posterior_var=np.exp(log_q), prior_var=np.exp(log_p), x_gain=u
    )


@representable
def scale_charge(
    path: CoadaptedTrajectory, *, model: ReadingModel, std_rates: tuple[float, float] = (0.01, 0.01)
) -> Array:
    """N (T,) [steps nats], which the answer loss leaves alone, the ELBO conserves, and dual KL lets grow (T12).

    Raises:
        ValueError: for a rate that is not above 0.
    """
    instance("path", path, CoadaptedTrajectory)
    instance("model", model, ReadingModel)
    eta_s, eta_r = pair("std_rates", positive("std_rates", std_rates))
    widths = np.log(path.posterior_var) / (2 * eta_s) + np.log(path.prior_var) / (2 * eta_r)
    return path.leak**2 / (2 * model.posterior_rate) + widths - path.decoder_gain**2 / (2 * model.decoder_rate)


@dataclass(frozen=True)
class CoadaptedAsymptotics:
    """What training with a decoder that learns tends to, without weight decay (T12).

    Attributes:
        regime: "growing" (dual KL below kappa^2/(2 k)), "fading" (up to kappa^2/k), "unread" (above), "resting" (ELBO below
            kappa^2/k).
        snr: limit of rho.
        leak_var_rate: limit of d a^2/dt [latent^2/step].
        prior_var_rate: limit of dP/dt [latent^2/step]; infinite where the leak fades: P then grows like t ln t.
    """

    regime: Literal["growing", "fading", "unread", "resting"]
    snr: float
    leak_var_rate: float
    prior_var_rate: float = field(metadata=INFINITE)


@representable
def coadapted_asymptotics(
    model: ReadingModel, gamma: float, *, decoder: Decoder = "linear", objective: Objective = "amvl"
) -> CoadaptedAsymptotics:
    """Limits of `coadapted_trajectory` as t -> oo (T12).

    Args:
        model: gain, curvature, eta_q; no weight decay (a decay of w changes no limit, one of a brings dual KL to rest).
        gamma: weight of the reverse KL, above 0; of the forward KL where `objective` is "elbo".

    Raises:
        ValueError: for a weight that is not above 0 (nothing then holds the leak: rho grows without end), or a bad decoder.
    """
    instance("model", model, ReadingModel)
    w = positive_number("gamma", gamma)
    name = objective_name(objective, OBJECTIVES)
    answer_drive(decoder, 0.0, 1.0, gain=model.gain, curvature=model.curvature)
    limit = model.gain**2 / model.curvature
    if w >= limit:
        return CoadaptedAsymptotics("unread", 0.0, 0.0, 0.0)
    if name == "elbo":
        at_rest = (
            limit / w - 1 if decoder == "linear" else _root(decoder, model, lambda r, pull: 2 * (1 + r) * pull - w)
        )
        return CoadaptedAsymptotics("resting", at_rest, 0.0, 0.0)
    if 2 * w >= limit:
        return CoadaptedAsymptotics("fading", 0.0, 0.0, np.inf)
    snr = (
        float(np.sqrt(limit / (2 * w)) - 1) if decoder == "linear" else _root(decoder, model, lambda _, pull: pull - w)
    )
    pace = 2 * model.posterior_rate * w
    if not np.isfinite(pace * (1 + snr)):
        raise OverflowError  # named by `representable`
    return CoadaptedAsymptotics("growing", snr, pace * snr, pace * (1 + snr))


@representable
def fading_leak(
    model: ReadingModel, gamma: float, *, beta: float = 1.0, std_rates: tuple[float, float] = (0.01, 0.01)
) -> tuple[float, float]:
    """(C, limit of d a^2/d ln t) between kappa^2/(2 k) and kappa^2/k, where rho -> C/t (T12); approached like 1/ln t.

    Args:
        model: linear near 0, so any decoder with its gain and curvature. gamma, beta: weights. std_rates: eta_s, eta_r.

    Raises:
        ValueError: for a weight outside that range, a rate or beta that is not above 0.
    """
    instance("model", model, ReadingModel)
    w, limit = scalar("gamma", gamma), model.gain**2 / model.curvature
    eta_s, eta_r = pair("std_rates", positive("std_rates", std_rates))
    if not limit / 2 < w < limit:
        raise ValueError(f"gamma: expected a weight between {limit / 2:g} and {limit:g}, received {w:g}")
    follow = w / (2 * eta_r * positive_number("beta", beta))
    fade = (1 / (2 * eta_s) + follow) / (2 * w - limit)
    return fade, 2 * model.posterior_rate * (limit - w) * fade


@representable
def coadapted_rest(model: ReadingModel, gamma: float, leak_decay: float) -> tuple[float, float, float]:
    """(rho, Q, P) at which a decay mu of the leak amplitude lets a linear decoder and dual KL rest (T12).

    rho = kappa/sqrt(2 k gamma) - 1,   Q = gamma/mu,   P = Q (1 + rho)

    Raises:
        ValueError: for a decay of 0, or from gamma = kappa^2/(2 k) on: there is no such point then.
    """
    decay = positive_number("leak_decay", leak_decay)
    found = coadapted_asymptotics(model, gamma)
    if found.regime != "growing":
        raise ValueError(
            f"gamma: expected less than kappa^2/(2 k) = {model.gain**2 / (2 * model.curvature):g}, received {gamma:g}"
        )
    width = float(gamma) / decay
    return found.snr, width, width * (1 + found.snr)


@representable
def edge_of_stability(model: ReadingModel, gamma: float) -> tuple[float, float]:
    """(rho, P) at which plain gradient steps of a linear decoder end the growth under dual KL (T12).

    Approximate: to first order in the other rates. The flow, and an optimizer whose step shrinks, grow on.

    Raises:
        ValueError: from gamma = kappa^2/(2 k) on, where nothing grows.
    """
    if coadapted_asymptotics(model, gamma).regime != "growing":
        raise ValueError(
            f"gamma: expected less than kappa^2/(2 k) = {model.gain**2 / (2 * model.curvature):g}, received {gamma:g}"
        )
    snr = (np.sqrt(1 + 8 * model.gain**2 / (model.curvature * gamma)) - 3) / 4
    return float(snr), 2 / (model.decoder_rate * model.curvature)


def marginal_benefit(decoder: str, model: ReadingModel, snr: float) -> float:
    """-l'(rho) = E1/(2 k) at the best gain, w = (kappa/k) a/Q, of a logistic or softmax decoder."""
    ratio = model.gain / model.curvature
    drive = answer_drive(decoder, ratio * snr, ratio**2 * snr, gain=model.gain, curvature=model.curvature)
    return float(drive[1]) / (2 * model.curvature)


def largest_snr(decoder: str, model: ReadingModel) -> float:
    """rho up to which the quadrature of a logistic or softmax decoder is trusted."""
    return LARGEST_SNR if decoder == "logistic" else 2 * LARGEST_SNR * model.curvature


def _root(decoder: str, model: ReadingModel, excess: Callable[[float, float], float]) -> float:
    """rho at which excess(rho, -l'(rho)), which falls, is 0."""

    def at(snr: float) -> float:
        return excess(snr, marginal_benefit(decoder, model, snr))

    high, end = 1.0, largest_snr(decoder, model)
    while at(high) > 0:
        high *= 2
        if high > end:
            raise ValueError(f"gamma: expected a weight that leaves rho below {end:g}, received a smaller one")
    return float(brentq(at, 1e-9, high, xtol=1e-12))
