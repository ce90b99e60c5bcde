"""Gaussian identities: KL divergences, moment matching (T1), and the information that a Gaussian mixture carries.

    KL(a||b)  = 1/2 sum_i [ va_i/vb_i + (ma_i - mb_i)^2/vb_i - 1 - log(va_i/vb_i) ]
    T1        argmin_p E_y KL(q_y||p):   mean E_y mu_y,   variance E_y var_y + Var_y(mu_y)
              at a mean c that is held:  variance E_y var_y + E_y (mu_y - c)^2 = the same + (E_y mu_y - c)^2
    I(z; y)   = sum_y p_y KL(q_y || sum_y' p_y' q_y')     <= H(y)

Everything is in nats. Variances and covariances are in latent^2, precisions in 1/latent^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, common_size, positive, real_array, symmetric_matrix
from amvl_theory.checks import probabilities as checked_probabilities

_PANEL_EDGES = np.concatenate([np.arange(-12.0, 13.0), [-0.5, 0.5]])
"""Where the quadrature is cut, in standard deviations from every component's mean; exp(-12^2/2) = 5e-32."""

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (..., d) [latent] and variance (..., d) or covariance (..., d, d) [latent^2] of a matched Gaussian."""

    mean: Array
    variance: Array


@dataclass(frozen=True, eq=False)
class InformationBounds:
    """Lower and upper bound on I(z; y) [nats]."""

    lower: float
    upper: float


def kl_diag(mean_a: ArrayLike, var_a: ArrayLike, mean_b: ArrayLike, var_b: ArrayLike) -> Array:
    """KL(a||b) [nats] of diagonal Gaussians, summed over the last axis; never below 0, exactly 0 at a = b.

    The arguments broadcast, (..., d) with d modes; four numbers are one mode. The variance part is
    r - log(1 + r) with r = va/vb - 1, which keeps its digits where the variances are close.

    Raises:
        ValueError: for a variance that is not above 0, NaN or infinity, or shapes that do not broadcast.
    """
    ma, mb = np.atleast_1d(real_array("mean_a", mean_a)), np.atleast_1d(real_array("mean_b", mean_b))
    va, vb = np.atleast_1d(positive("var_a", var_a)), np.atleast_1d(positive("var_b", var_b))
    _broadcast(mean_a=ma, var_a=va, mean_b=mb, var_b=vb)
    excess = (va - vb) / vb
    terms = np.maximum(excess - np.log1p(excess), 0.0) + (ma - mb) ** 2 / vb
    return np.asarray(0.5 * terms.sum(axis=-1))


def jeffreys_diag(mean_a: ArrayLike, var_a: ArrayLike, mean_b: ArrayLike, var_b: ArrayLike) -> Array:
    """KL(a||b) + KL(b||a) [nats] of diagonal Gaussians, summed over the last axis; the arguments are kl_diag's."""
    return kl_diag(mean_a, var_a, mean_b, var_b) + kl_diag(mean_b, var_b, mean_a, var_a)


def kl_full(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> Array:
    """KL(a||b) [nats] of Gaussians with full covariances: means (..., d), covariances (..., d, d), which broadcast.

    1/2 [ tr(B^-1 A) - d - log det(B^-1 A) + |L^-1 (ma - mb)|^2 ] with B = L L^T and the eigenvalues of L^-1 A L^-T.

    Raises:
        ValueError: for a covariance that is not positive definite, or shapes that do not fit.
    """
    ma, mb = real_array("mean_a", mean_a), real_array("mean_b", mean_b)
    ca, cb = real_array("cov_a", cov_a), real_array("cov_b", cov_b)
    for name, cov in (("cov_a", ca), ("cov_b", cb)):
        if cov.ndim < 2 or cov.shape[-2:] != ma.shape[-1:] * 2:
            raise ValueError(f"{name}: expected shape (..., d, d) with d = {ma.shape[-1:]}, received {cov.shape}")
    _cholesky("cov_a", ca)
    lower = _cholesky("cov_b", cb)
    half = np.linalg.solve(lower, ca)
    ratio = np.linalg.eigvalsh(np.linalg.solve(lower, np.swapaxes(half, -1, -2))) - 1.0
    shift = np.linalg.solve(lower, (ma - mb)[..., None])[..., 0]
    return np.asarray(0.5 * ((ratio - np.log1p(ratio)).sum(axis=-1) + (shift**2).sum(axis=-1)))


def moment_match(means: ArrayLike, variances: ArrayLike, probabilities: ArrayLike | None = None) -> Moments:
    """The Gaussian p that minimises E_y KL(q_y||p) for a fixed posterior (T1): moment matching.

    mean = E_y mu_y,  variance = E_y var_y + Var_y(mu_y). With covariances (n, d, d) in place of variances the result is
    the full one, E_y Sigma_y + Cov_y(mu_y), of which the diagonal case is the diagonal.

    Args:
        means: (n, d), the posterior means of n answers [latent].
        variances: (n, d) or anything that broadcasts to it, or full covariances (n, d, d) [latent^2].
        probabilities: (n,), p(y|x); equal if left out.

    Raises:
        ValueError: for shapes that do not fit, variances not above 0, probabilities that do not sum to 1.
    """
    mu = _answers("means", means)
    weights = _weights(probabilities, len(mu))
    mean = weights @ mu
    centred = mu - mean
    given = real_array("variances", variances)
    if given.ndim == 3:
        if given.shape != (*mu.shape, mu.shape[1]):
            raise ValueError(f"variances: expected shape {(*mu.shape, mu.shape[1])}, received {given.shape}")
        _cholesky("variances", given)
        covariance = np.einsum("y,yij->ij", weights, given) + (weights[:, None] * centred).T @ centred
        return Moments(mean, covariance)
    return Moments(mean, weights @ (_variances(given, mu) + centred**2))


def matched_variance(
    means: ArrayLike, variances: ArrayLike, mean: ArrayLike, probabilities: ArrayLike | None = None
) -> Array:
    """Prior variance (d,) that minimises E_y KL(q_y||p) when the prior's mean is held at ``mean`` (T1).

    E_y var_y + E_y (mu_y - mean)^2: moment matching plus (E_y mu_y - mean)^2, the price of an anchor that keeps the
    prior's mean off the posterior's. Arguments as in moment_match, ``mean`` a number or (d,) [latent].
    """
    mu = _answers("means", means)
    held = real_array("mean", mean)
    if held.ndim > 1 or (held.ndim == 1 and held.shape != mu.shape[1:]):
        raise ValueError(f"mean: expected a number or shape {mu.shape[1:]}, received {held.shape}")
    return np.asarray(
        _weights(probabilities, len(mu)) @ (_variances(real_array("variances", variances), mu) + (mu - held) ** 2)
    )


def mixture_information(means: ArrayLike, variances: ArrayLike, probabilities: ArrayLike | None = None) -> Array:
    """I(z; y) [nats] of a one-mode Gaussian mixture, by quadrature to about 1e-12.

    The integral over z of m(z) sum_y p_y [r log r - r + 1], r = q_y(z)/m(z), m = sum_y p_y q_y: no term is negative, so
    small informations keep their digits. Composite Gauss-Legendre rule, cut at whole standard deviations of every
    component, because the integrand bends on the scale of the narrowest one.

    Args:
        means, variances: (..., n), n answers; they broadcast, and leading axes are separate mixtures.
        probabilities: (n,) for all mixtures; equal if left out.

    Raises:
        ValueError: for variances not above 0, shapes that do not fit, probabilities that do not sum to 1.
    """
    mu, var = np.atleast_1d(real_array("means", means)), np.atleast_1d(positive("variances", variances))
    shape = _broadcast(means=mu, variances=var)
    weights = _weights(probabilities, shape[-1])
    mu = np.broadcast_to(mu, shape).reshape(-1, shape[-1])
    deviation = np.sqrt(np.broadcast_to(var, shape).reshape(-1, shape[-1]))
    nats = [_one_mixture(mean, std, weights) for mean, std in zip(mu, deviation, strict=True)]
    return np.asarray(nats).reshape(shape[:-1])


def pairwise_information_bounds(
    means: ArrayLike, variances: ArrayLike, probabilities: ArrayLike | None = None
) -> InformationBounds:
    """Bounds on I(z; y) of a mixture of diagonal Gaussians in any dimension.

    -sum_y p_y log sum_y' p_y' exp(-D(y, y')) with D the Bhattacharyya distance (lower) and KL(q_y||q_y') (upper); both
    lie between 0 and H(y), and are exact where the components coincide or lie far apart.

    Args:
        means: (n, d). variances: (n, d), or what broadcasts to it. probabilities: (n,), equal if left out.

    Source: Kolchinsky and Tracey, Estimating mixture entropy with pairwise distances, Entropy 19 (2017) 361.
    """
    mu = _answers("means", means)
    var = _variances(real_array("variances", variances), mu)
    weights = _weights(probabilities, len(mu))
    middle = 0.5 * (var[:, None] + var[None])
    shift = (mu[:, None] - mu[None]) ** 2 / middle
    overlap = np.log(middle) - 0.5 * (np.log(var)[:, None] + np.log(var)[None])
    bhattacharyya = (0.125 * shift + 0.5 * overlap).sum(axis=-1)
    divergence = kl_diag(mu[:, None], var[:, None], mu[None], var[None])
    lower, upper = (-float(weights @ np.log(np.exp(-d) @ weights)) for d in (bhattacharyya, divergence))
    return InformationBounds(max(lower, 0.0), max(upper, 0.0))


def entropy(probabilities: ArrayLike) -> float:
    """H(y) [nats] of answer probabilities (n,): what the leaked information can reach at most."""
    p = np.atleast_1d(real_array("probabilities", probabilities))
    p = checked_probabilities("probabilities", p, p.size)
    return -float(p @ np.log(p))


def gaussian_channel_information(spread_cov: ArrayLike, precision: ArrayLike) -> float:
    """1/2 log det(I + Lambda_q C) [nats] (T4): the information of a Gaussian mean of covariance C behind noise Lambda_q^-1.

    For finitely many answers it is not the exact value but an upper bound on it, and H(y) is another: see
    mixture_information.

    Args:
        spread_cov: C, a number, variances (d,) or a positive semidefinite matrix (d, d) [latent^2].
        precision: Lambda_q, likewise, positive definite [1/latent^2].
    """
    size = common_size(spread_cov=spread_cov, precision=precision)
    spread = symmetric_matrix("spread_cov", spread_cov, size, definite=False)
    root = np.linalg.cholesky(symmetric_matrix("precision", precision, size, definite=True))
    ratios = np.linalg.eigvalsh(root.T @ spread @ root)
    return 0.5 * float(np.log1p(np.maximum(ratios, 0.0)).sum())


def _one_mixture(mean: Array, std: Array, weights: Array) -> float:
    edges = np.unique(mean[:, None] + std[:, None] * _PANEL_EDGES)
    half = 0.5 * np.diff(edges)
    z = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * _NODES).ravel()
    log_q = -0.5 * ((z - mean[:, None]) / std[:, None]) ** 2 - np.log(std * np.sqrt(2 * np.pi))[:, None]
    top = log_q.max(axis=0)
    log_m = top + np.log(weights @ np.exp(log_q - top))
    log_r = np.maximum(log_q - log_m, -745.0)  # r log r - r + 1 -> 1 as r -> 0
    integrand = np.exp(log_m) * (weights @ (np.exp(log_r) * log_r - np.expm1(log_r)))
    return float((half[:, None] * _NODE_WEIGHTS).ravel() @ integrand)


def _answers(name: str, value: ArrayLike) -> Array:
    array = real_array(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (answers, modes), received {array.shape}")
    return array


def _variances(given: Array, mu: Array) -> Array:
    positive("variances", given)
    if given.ndim > 2 or _broadcast(means=mu, variances=given) != mu.shape:
        raise ValueError(f"variances: expected what broadcasts to {mu.shape}, received shape {given.shape}")
    return np.broadcast_to(given, mu.shape)


def _weights(given: ArrayLike | None, count: int) -> Array:
    return np.full(count, 1.0 / count) if given is None else checked_probabilities("probabilities", given, count)


def _broadcast(**arrays: Array) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{next(iter(arrays))}: expected shapes that broadcast, received {shapes}") from error


def _cholesky(name: str, covariance: Array) -> Array:
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"{name}: expected positive definite matrices, received one that is not") from error
