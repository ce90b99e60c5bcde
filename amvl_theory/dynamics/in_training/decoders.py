"""How a decoder answers: expectations of its loss over answers and latents, for two equally likely answers y = +-1.

Its logit is y l = M + S e, e standard normal (M what it says for the right answer on average, S^2 the noise in it). With

    E0 = -E dL/d(y l)        E1 = E d^2L/d(y l)^2

every gradient of the answer loss follows by Stein's lemma: a parameter that moves M by M' and S^2 by (S^2)' is driven by
M' E0 - (S^2)'/2 E1.

    logistic   L = log(1 + exp(-y l))            E0 = E sigmoid(-y l),   E1 = E sigmoid(y l) sigmoid(-y l)
    linear     L = -kappa y l + k/2 (y l)^2      E0 = kappa - k M,       E1 = k
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from amvl_theory.checks import Array, not_negative, one_of, real_array

Decoder = Literal["linear", "logistic"]
DECODERS = ("linear", "logistic")
_NODES = np.linspace(
    -9.0, 9.0, 361
)  # the trapezoidal rule: its error falls like exp(-2 pi^2/(0.05 S)), S up to about 60
_WEIGHTS = np.exp(-0.5 * _NODES**2)
_WEIGHTS /= _WEIGHTS.sum()


def logit_values(mean: ArrayLike, variance: ArrayLike) -> Array:
    """y l (..., nodes) at the nodes of the quadrature."""
    std = np.sqrt(not_negative("variance", variance))
    return real_array("mean", mean)[..., None] + std[..., None] * _NODES


def logistic_moments(mean: ArrayLike, variance: ArrayLike) -> tuple[Array, Array]:
    """(E0, E1) of the logistic decoder by quadrature; broadcasts."""
    values = logit_values(mean, variance)
    wrong = expit(-values)
    return wrong @ _WEIGHTS, (wrong * expit(values)) @ _WEIGHTS


def logistic_loss(mean: ArrayLike, variance: ArrayLike) -> Array:
    """E log(1 + exp(-y l)) [nats] by quadrature; broadcasts."""
    return np.logaddexp(0.0, -logit_values(mean, variance)) @ _WEIGHTS


def answer_drive(
    decoder: str, mean: ArrayLike, variance: ArrayLike, *, gain: float = 0.5, curvature: float = 0.25
) -> tuple[Array, Array]:
    """(E0, E1) of a decoder; `gain` and `curvature` are kappa and k of the linear one (the logistic one has 1/2 and 1/4).

    Raises:
        ValueError: for an unknown decoder, or a gain and curvature that the logistic decoder does not have.
    """
    if one_of("decoder", decoder, DECODERS) == "linear":
        return gain - curvature * np.asarray(mean), np.full(np.shape(mean), float(curvature))
    if (gain, curvature) != (0.5, 0.25):
        raise ValueError(
            f"gain, curvature: expected 1/2 and 1/4, which a logistic decoder has, received {gain:g} and {curvature:g}"
        )
    return logistic_moments(mean, variance)
