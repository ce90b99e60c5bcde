"""Closed forms of T11 (and Adam's crossover of T10), for numbers measured on a run; proofs and simulations: amvl_theory.

Decoder gain w, amplitude a of the leak, posterior variance s, weight g of the KL on the posterior. Near w = a = 0

    d (w, a)/dt = [[ -A, eta_w kappa ], [ eta_q kappa, -D ]] (w, a)       A = eta_w k s     D = eta_q g/s
    r = 1/2 [ -(A + D) + sqrt((A - D)^2 + 4 eta_w eta_q kappa^2) ]

A softmax decoder has kappa^2 = k = v, v the answer's variance: the largest eigenvalue of diag(p) - p p^T.

Units: rates a step, v in nats/latent^2 (latents measured in units of the decoder's gain), s in latent^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReadingRates:
    """Symbols of the module's docstring, all above 0.

    Attributes:
        answer_variance: v = kappa^2 = k. variance: s.
        decoder_rate, posterior_rate: eta_w, eta_q [1/step].

    Raises:
        ValueError: naming the number that is not above 0.
    """

    answer_variance: float
    variance: float
    decoder_rate: float
    posterior_rate: float

    def __post_init__(self) -> None:
        for name in ("answer_variance", "variance", "decoder_rate", "posterior_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a number above 0, received {value:g}")


def answer_variance(probabilities: ArrayLike) -> float:
    """v, the largest eigenvalue of diag(p) - p p^T, of answer probabilities p (answers,)."""
    p = np.asarray(probabilities, dtype=np.float64)
    return float(np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1])


def growth_rate(rates: ReadingRates, weight: ArrayLike, scale: ArrayLike = 1.0) -> Array:
    """r [1/step], negative where reading decays; broadcasts.

    Args:
        weight: of the KL on the posterior, at least 0. scale: factor on both learning rates, at least 0.
    """
    eta_w, eta_q = rates.decoder_rate, rates.posterior_rate
    decoder = eta_w * rates.answer_variance * rates.variance
    leak = eta_q * np.asarray(weight, dtype=np.float64) / rates.variance
    drive = eta_w * eta_q * rates.answer_variance
    rate = 2 * (drive - decoder * leak) / (decoder + leak + np.sqrt((decoder - leak) ** 2 + 4 * drive))
    return np.asarray(np.asarray(scale, dtype=np.float64) * rate)


def with_momentum(rate: ArrayLike, momentum: float) -> Array:
    """r' of steps along the running mean of gradients: r' (1 - b/(1 + r')) = (1 - b) r, b Adam's beta_1; broadcasts."""
    r = np.asarray(rate, dtype=np.float64)
    half = 0.5 * (1 - momentum) * (1 - r)
    return np.asarray((1 - momentum) * r / (half + np.sqrt(half**2 + (1 - momentum) * r)))


def holding_weight(growth: Callable[[float], float], allowed: float, *, most: float = 1e6) -> float | None:
    """The least weight g at which ``growth(g)``, which falls with g, is at most ``allowed``; None if that is above ``most``.

    Args:
        growth: g to the integral of r over the steps to come. allowed: the largest integral of r.
    """
    if growth(0.0) <= allowed:
        return 0.0
    low, high = 0.0, 1e-9
    while growth(high) > allowed:
        low, high = high, 2 * high
        if high > most:
            return None
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(middle) > allowed else (low, middle)
    return high


def adam_crossover(second_moment: float, kl_gradient: float, clip_factor: float) -> float:
    """gamma_x = sqrt(v_s)/(c k_s): below it Adam moves the log std in proportion to gamma, above it the KL sets Adam's scale.

    Args:
        second_moment: v_s of the log std's weights, without the reverse KL's part [nats^2].
        kl_gradient: k_s, rms gradient of the reverse KL at gamma = 1 before clipping [nats].
        clip_factor: c, by which clipping shortens gradients, in (0, 1].
    """
    return math.sqrt(second_moment) / (clip_factor * kl_gradient)
