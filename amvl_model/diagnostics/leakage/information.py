"""How much a set of posteriors tells apart: pure functions of means and standard deviations.

For one question with options a, posteriors q_a = N(m_a, diag(s_a^2)) and answer weights w_a (sum 1), mixture
q(z) = sum_a w_a q_a(z):

    leaked information   I(Z;A) = sum_a w_a KL(q_a || q)                                   nats, 0 to H(w)
    as a mean over z     I(Z;A) = E_{z ~ q} KL(p(a|z) || w),   p(a|z) = w_a q_a(z) / q(z)
    entropy              H(w) = - sum_a w_a log w_a                                        nats, log(options) if uniform
    answer sensitivity   mean over a != b of sum_i (m_a - m_b)_i^2 / s_ab,i^2,   s_ab^2 = (s_a^2 + s_b^2) / 2

The second form of the leaked information is the one that is estimated. The draws are stratified over the answers, and the
values at each draw are averaged over a given z (Rao-Blackwell): they are never negative, at most -log min w, and small where
the posteriors nearly agree, while log q_a - log q fluctuates around 0 there.

Means and standard deviations are numpy arrays or torch tensors; the slots and dimensions of a posterior are flattened to D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK = 2**19
"""Random numbers drawn at once (4 MB)."""


def leaked_information(
    means: Any, stds: Any, weights: Any = None, n_samples: int = 4096, seed: int = 0
) -> tuple[float, float]:
    """I(Z;A) of one question in nats, and the standard error of the Monte Carlo estimate.

    The estimate is at least 0 by construction. It is cut to the bound H(w), which it can pass only by Monte Carlo noise
    and only with unequal weights; the standard error is that of the uncut estimate.

    Args:
        means: (options, D).
        stds: (options, D), positive.
        weights: (options,), p(a), at least 0 with sum 1; default uniform. Options of weight 0 do not count.
        n_samples: draws from each option's posterior.
        seed: of the draws.

    Raises:
        ValueError: for shapes that do not belong together, fewer than two options, standard deviations that are not
            positive, numbers that are not finite, or weights that are no probabilities.
    """
    mean = _array(means)
    if mean.ndim != 2:
        raise ValueError(
            f"expected the posteriors of one question, shape (options, D), got {mean.shape}; flatten slots and "
            "dimensions, and use leaked_information_batch for several questions"
        )
    single = None if weights is None else _array(weights)[None]
    nats, error = leaked_information_batch(mean[None], _array(stds)[None], single, n_samples, seed)
    return float(nats[0]), float(error[0])


def leaked_information_batch(
    means: Any, stds: Any, weights: Any = None, n_samples: int = 4096, seed: int = 0
) -> tuple[Array, Array]:
    """`leaked_information` of many questions: estimates (questions,) and their standard errors (questions,), nats.

    Every question has draws of its own, so the errors of different questions are independent.

    Args:
        means: (questions, options, D).
        stds: (questions, options, D).
        weights: (questions, options); default uniform.
        n_samples, seed: as in `leaked_information`, which is the batch of one question.
    """
    mean, std = _array(means), _array(stds)
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2 for a standard error, got {n_samples}")
    check_posteriors(mean, std)
    uniform = np.full(mean.shape[:2], 1 / mean.shape[1])
    weight = uniform if weights is None else _check_weights(_array(weights), mean.shape[:2])
    bounds = entropy(weight)
    nats, errors = np.empty(len(mean)), np.empty(len(mean))
    for i in range(len(mean)):
        possible = weight[i] > 0
        if possible.sum() < 2:
            nats[i], errors[i] = 0.0, 0.0
            continue
        values = _draws(
            mean[i, possible], std[i, possible], weight[i, possible], n_samples, np.random.default_rng([seed, i])
        )
        nats[i], errors[i] = min(values.mean(), bounds[i]), values.std(ddof=1) / np.sqrt(n_samples)
    return nats, errors


def entropy(weights: Any) -> Array:
    """H(w) in nats over the last axis; 0 log 0 = 0."""
    w = _array(weights)
    return -np.sum(w * np.log(np.where(w > 0, w, 1.0)), axis=-1)


def answer_sensitivity(means: Any, stds: Any) -> Array:
    """Squared Mahalanobis distance between posteriors of different options, averaged over ordered pairs.

    The variance of a pair is the mean of its two variances, so the distance is symmetric; it is summed over slots and
    dimensions and has no unit.

    Args:
        means, stds: (..., options, D).

    Returns:
        (...,), at least 0.
    """
    mean, std = _array(means), _array(stds)
    check_posteriors(mean, std)
    options = mean.shape[-2]
    total = np.zeros(mean.shape[:-2])
    for a in range(options):
        for b in range(a + 1, options):
            variance = 0.5 * (std[..., a, :] ** 2 + std[..., b, :] ** 2)
            total += np.sum((mean[..., a, :] - mean[..., b, :]) ** 2 / variance, axis=-1)
    return total / (options * (options - 1) / 2)


def check_posteriors(means: Array, stds: Array) -> None:
    """Raise ValueError unless these are the posteriors (..., options >= 2, D) of multiple-choice questions."""
    if means.shape != stds.shape or means.ndim < 2:
        raise ValueError(f"means and stds must have one shape (..., options, D), got {means.shape} and {stds.shape}")
    if means.shape[-2] < 2:
        raise ValueError(
            f"expected the posteriors of at least two options, got {means.shape[-2]}; "
            "one option alone cannot be told apart from others"
        )
    if not (np.isfinite(means).all() and np.isfinite(stds).all() and (stds > 0).all()):
        raise ValueError("means must be finite and stds finite and positive; the posterior of some option is not")


def _draws(mean: Array, std: Array, weight: Array, n: int, rng: np.random.Generator) -> Array:
    """(n,) values sum_a w_a KL(p(.|z_a) || w) with z_a = m_a + s_a eps, one eps (D,) a draw for all strata a.

    log q_b(z_a) - log q_a(z_a) = sum_i [log(s_a/s_b) - 1/2 (delta^2/s_b^2 + 2 eps delta s_a/s_b^2 + eps^2 (s_a^2/s_b^2 - 1))]
    with delta = m_a - m_b is linear in (eps, eps^2): two matrix products, and no cancellation of large squares.
    """
    options, size = mean.shape
    difference = mean[:, None] - mean[None]  # (a, b, D)
    precision = std**-2.0
    shift = difference * precision
    constant = np.sum(np.log(std)[:, None] - np.log(std)[None] - 0.5 * difference * shift, axis=-1)
    linear = -(shift * std[:, None]).reshape(-1, size).T
    square = -0.5 * (std[:, None] ** 2 * precision[None] - 1.0).reshape(-1, size).T
    log_weight = np.log(weight)
    values = np.empty(n)
    chunk = max(1, _CHUNK // size)
    for start in range(0, n, chunk):
        eps = rng.standard_normal((min(chunk, n - start), size))
        ratio = (eps @ linear + (eps * eps) @ square).reshape(
            -1, options, options
        ) + constant  # log q_b - log q_a at z_a
        joint = ratio + log_weight
        top = joint.max(axis=-1, keepdims=True)
        mass = np.exp(joint - top)
        total = mass.sum(axis=-1, keepdims=True)
        # p(b|z) and log p(b|z) - log w_b; the mean over b is a KL, so what is below 0 is rounding
        inner = np.sum(mass / total * (ratio - top - np.log(total)), axis=-1)
        values[start : start + len(eps)] = np.maximum(inner, 0.0) @ weight
    return values


def _check_weights(weights: Array, shape: tuple[int, ...]) -> Array:
    if weights.shape != shape:
        raise ValueError(f"weights must have one entry per option, shape {shape}, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or np.abs(weights.sum(-1) - 1).max() > 1e-6:
        raise ValueError("weights must be probabilities: at least 0, with sum 1 over the options")
    return weights / weights.sum(-1, keepdims=True)


def _array(values: Any) -> Array:
    """float64 numpy array of an array, a tensor (any device, any precision) or nested lists."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
