"""How a decoder answers: expectations of its loss over answers and latents, for equally likely answers.

Two answers y = +-1. The logit is y l = M + S e, e standard normal (M what it says for the right answer on average, S^2 the
noise in it). With

    E0 = -E dL/d(y l)        E1 = E d^2L/d(y l)^2

every gradient of the answer loss follows by Stein's lemma: a parameter that moves M by M' and S^2 by (S^2)' is driven by
M' E0 - (S^2)'/2 E1.

    logistic   L = log(1 + exp(-y l))            E0 = E sigmoid(-y l),   E1 = E sigmoid(y l) sigmoid(-y l)
    linear     L = -kappa y l + k/2 (y l)^2      E0 = kappa - k M,       E1 = k

m answers, one logit each ("softmax"). Answer j is a corner x_j of the regular simplex in m - 1 modes, |x_j|^2 = m - 1 (a unit
variance per mode), z = a x_y + noise, logits w x_j z/sqrt m. Every mode has the gain M = w a and the noise S^2 = w^2 Q, and the
logits are sqrt m M [j = y] + S e_j, e_j independent. Per mode, with p_j the decoder's probabilities,

    softmax    L = -log p_y                      E0 = sqrt m E(1 - p_y)/(m - 1),   E1 = (1 - E sum_j p_j^2)/(m - 1)

so kappa = 1/sqrt m and k = 1/m, a mode of `reading.answer_modes`. Both are exact one-dimensional integrals for any m: with
1/T^i = integral of u^(i-1) e^(-u T) du over T = sum_j e^(l_j), the answers separate into factors f_i(t) = E g_i(t + S e),
g_i(t) = e^(i t) exp(-e^t), t = log u. Answers that are not equally likely have no such symmetry, and their limits depend on
how the encoder is parametrised; only their growth (`reading.answer_modes`) and their linear limits are stated.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from amvl_theory.checks import Array, not_negative, one_of, real_array, scalar, whole_number

Decoder = Literal["linear", "logistic", "softmax"]
DECODERS = ("linear", "logistic")
"""Decoders of two answers."""
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


def softmax_moments(mean: ArrayLike, variance: ArrayLike, answers: int) -> tuple[Array, Array]:
    """(E0, E1) of the softmax decoder of `answers` equally likely answers, by quadrature.

    Args:
        mean: M, one number. variance: S^2, one number. answers: m, at least 2.
    """
    m, gap = whole_number("answers", answers, 2), float(np.sqrt(answers)) * scalar("mean", mean)
    std = float(np.sqrt(not_negative("variance", scalar("variance", variance))))
    # Beyond these ends g_i is below 1e-17; the error of the trapezoidal rule in t falls like exp(-pi^2/step).
    ends = -40.0 - 9.0 * std - max(gap, 0.0), 4.0 + 9.0 * std - min(gap, 0.0)
    t, step = np.linspace(*ends, int((ends[1] - ends[0]) / 0.2) + 2, retstep=True)
    stride = max(1, 2 ** int(np.log2(5 / max(std, 1.0))))  # nodes at most 0.25 apart in t
    nodes, weights = _NODES[::stride], _WEIGHTS[::stride] / _WEIGHTS[::stride].sum()
    at = np.stack([t, t + gap])[..., None] + std * nodes  # of a wrong answer, and of the right one
    f0 = np.exp(-np.exp(np.minimum(at, 7.0)))
    f1, f2 = (np.exp(np.minimum(i * at, 14.0)) * f0 @ weights for i in (1, 2))
    wrong, right = f0 @ weights
    others = wrong ** (m - 2)
    chosen = step * np.sum(f1[1] * others * wrong)
    squares = step * np.sum((f2[1] * wrong + (m - 1) * f2[0] * right) * others)
    return np.sqrt(m) * (1 - chosen) / (m - 1), (1 - squares) / (m - 1)


def answer_drive(
    decoder: str, mean: ArrayLike, variance: ArrayLike, *, gain: float = 0.5, curvature: float = 0.25
) -> tuple[Array, Array]:
    """(E0, E1) of a decoder; `gain` and `curvature` are kappa and k.

    The linear decoder has any, the logistic one 1/2 and 1/4, the softmax of m answers 1/sqrt m and 1/m: m = 1/k.

    Raises:
        ValueError: for an unknown decoder, or a gain and curvature that the decoder does not have.
    """
    if one_of("decoder", decoder, (*DECODERS, "softmax")) == "linear":
        return gain - curvature * np.asarray(mean), np.full(np.shape(mean), float(curvature))
    if decoder == "softmax":
        answers = round(1 / curvature)
        if answers < 2 or abs(curvature * answers - 1) > 1e-9 or abs(gain**2 * answers - 1) > 1e-9:
            raise ValueError(
                "gain, curvature: expected 1/sqrt(m) and 1/m, which a softmax of m equally likely answers has "
                f"(ReadingModel.of_variance(1/m)), received {gain:g} and {curvature:g}"
            )
        return softmax_moments(mean, variance, answers)
    if (gain, curvature) != (0.5, 0.25):
        raise ValueError(
            f"gain, curvature: expected 1/2 and 1/4, which a logistic decoder has, received {gain:g} and {curvature:g}"
        )
    return logistic_moments(mean, variance)
