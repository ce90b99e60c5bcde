"""The spread of the posterior means at finite time, from a random start, with a fixed decoder.

One mode at fixed variances, K = h + gamma lambda_q; each answer's mean starts at delta_0, independent of its force, and
follows d delta/dt = -eta [K delta - g]. With x = exp(-eta K t), R_0 = Var(delta_0) and V_inf = v0/K^2 (T4),

    C(t) = R_0 x^2 + V_inf (1 - x)^2

The start is forgotten before the answers are learnt: C is least, R_0 V_inf/(R_0 + V_inf), at eta t = ln(1 + R_0/V_inf)/K.
So a spread that falls and rises again tells leak of the starting weights from learnt leak.
Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, broadcastable, not_negative, positive, representable


@representable
def random_start_spread(
    times: ArrayLike, *, start_var: ArrayLike, rest_var: ArrayLike, curvature: ArrayLike, rate: ArrayLike
) -> Array:
    """C(t) [latent^2]; broadcasts.

    Args:
        times: t, at least 0 [steps].
        start_var: R_0, at least 0 [latent^2]. rest_var: V_inf, at least 0 [latent^2].
        curvature: K = h + gamma lambda_q, above 0 [nats/latent^2]. rate: eta, above 0 [1/step].

    Raises:
        ValueError: for an argument of the wrong sign.
    """
    broadcastable(times=times, start_var=start_var, rest_var=rest_var, curvature=curvature, rate=rate)
    left = np.exp(-positive("rate", rate) * positive("curvature", curvature) * not_negative("times", times))
    return not_negative("start_var", start_var) * left**2 + not_negative("rest_var", rest_var) * (1 - left) ** 2


@dataclass(frozen=True, eq=False)
class LeastSpread:
    """Where C(t) is least.

    Attributes:
        time: [steps]. variance: C there [latent^2].
    """

    time: Array
    variance: Array


@representable
def least_spread(*, start_var: ArrayLike, rest_var: ArrayLike, curvature: ArrayLike, rate: ArrayLike) -> LeastSpread:
    """The minimum of `random_start_spread`; broadcasts.

    Raises:
        ValueError: for an argument that is not above 0: without a start, or without a leak at rest, C has no minimum inside.
    """
    broadcastable(start_var=start_var, rest_var=rest_var, curvature=curvature, rate=rate)
    first, last = positive("start_var", start_var), positive("rest_var", rest_var)
    time = np.log1p(first / last) / (positive("curvature", curvature) * positive("rate", rate))
    return LeastSpread(time, first * last / (first + last) + 0 * time)
