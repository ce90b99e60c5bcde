"""T8 averaged over the questions: how contamination scales with their number n, and the double descent at p = n.

For features with independent standard normal entries and an effective ridge rho_eff = n lambda, the excess loss of
`amortised.py` has, for n, p large with r = p / n fixed (Marchenko and Pastur), the closed form

    D = sqrt( (1 + r + lambda)^2 - 4 r )
    noise   v/(2h) 1/2 [ (1 + r + lambda) / D - 1 ]
    bias    p tau^2/(2h) 2 [ 1 + (1 + r + lambda) / D ] [ lambda / (D + 1 - r + lambda) ]^2

Without any ridge the noise part is exact at finite n: v/(2h) p / (n - p - 1) for p < n - 1, v/(2h) n / (p - n - 1) for
p > n + 1 (inverse Wishart), infinite between: double descent. With a ridge the peak at p = n is v/(2h) (1/2)
[ (2 + lambda) / sqrt(lambda^2 + 4 lambda) - 1 ], about v/(4 h sqrt(lambda)): as lambda is proportional to
alpha (1 + gamma lambda_q / h), the reverse KL lowers it like 1 / sqrt(1 + gamma lambda_q / h), but only if there is some
ridge to multiply. For n large at fixed p the noise part falls like v p / (2 h n).

Source: Hastie, Montanari, Rosset and Tibshirani, Surprises in high-dimensional ridgeless least squares interpolation,
Annals of Statistics 50 (2022), for ridge regression; its reading as contamination is derived in `amortised.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, not_negative, positive, weight


@dataclass(frozen=True, eq=False)
class AverageRisk:
    """Excess answer loss of the prior on fresh questions, averaged over the questions [nats].

    Attributes:
        bias: what the determined part loses.
        noise: what label noise costs.
        total: their sum.
    """

    bias: Array
    noise: Array
    total: Array


def ridgeless_noise(questions: ArrayLike, features: ArrayLike, noise_var: float, curvature: float = 1.0) -> Array:
    """Noise part of the excess loss without a ridge, exact for standard normal features (T8) [nats].

    Args:
        questions: n, at least 1.
        features: p, at least 1; they broadcast.
        noise_var: v [nats^2/latent^2].
        curvature: h, above 0 [nats/latent^2].

    Returns:
        infinity where |p - n| <= 1.

    Raises:
        ValueError: for counts below 1 or a negative variance.
    """
    n, p = positive("questions", questions), positive("features", features)
    few, many = np.minimum(n, p), np.maximum(n, p)
    room = many - few - 1.0
    share = np.divide(few, room, out=np.full(np.broadcast(n, p).shape, np.inf), where=room > 0)
    scale = 0.5 * weight("noise_var", noise_var) / float(positive("curvature", curvature))
    return np.asarray(scale * share) if scale else np.zeros_like(share)


def average_risk(
    questions: ArrayLike,
    features: ArrayLike,
    effective_ridge: ArrayLike,
    noise_var: float,
    signal_var: float,
    curvature: float = 1.0,
) -> AverageRisk:
    """Excess loss with a ridge, for standard normal features and large n and p (T8) [nats]; the arguments broadcast.

    Args:
        questions: n.
        features: p.
        effective_ridge: rho_eff = rho (1 + gamma lambda_q / h), above 0.
        noise_var: v [nats^2/latent^2].
        signal_var: tau^2, variance of every one of the p coefficients of the determined part.
        curvature: h, above 0.

    Raises:
        ValueError: naming the argument out of range.
    """
    n, p = positive("questions", questions), positive("features", features)
    ratio, ridge = p / n, positive("effective_ridge", effective_ridge) / n
    total = 1.0 + ratio + ridge
    # (1 + r + l)^2 - 4 r = (1 - r)^2 + 2 l (1 + r) + l^2, without cancellation near r = 1
    root = np.sqrt((1.0 - ratio) ** 2 + 2.0 * ridge * (1.0 + ratio) + ridge**2)
    scale = 0.5 / float(positive("curvature", curvature))
    noise = np.asarray(scale * not_negative("noise_var", noise_var) * 0.5 * (total / root - 1.0))
    # lambda / (D + 1 - r + lambda) = (D + r - 1 - lambda) / (4 r), whichever does not cancel
    excess = ratio - 1.0 - ridge
    part = np.where(excess > 0, (root + excess) / (4.0 * ratio), ridge / (root + np.maximum(-excess, 0.0)))
    bias = np.asarray(scale * not_negative("signal_var", signal_var) * p * 2.0 * (1.0 + total / root) * part**2)
    return AverageRisk(bias, noise, bias + noise)
