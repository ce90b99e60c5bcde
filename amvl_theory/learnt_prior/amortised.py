"""T8, an amortised prior on finite data: n questions with one answer each, prior mean linear in features.

With features Phi (n, p), prior means c = Phi W, posterior shifts delta (n,), forces g (n,), fixed variances, one curvature h
and one precision lambda_q, lambda_p for all, the objective summed over the questions is

    sum_i [ h/2 delta_i^2 - g_i delta_i + beta lambda_p/2 (sg[delta_i] - c_i)^2 + gamma lambda_q/2 (delta_i - sg[c_i])^2 ]
        + alpha/2 |W|^2

(averaged over the questions: alpha -> n alpha below). Stationarity, with K = Phi^T Phi and rho = alpha / (beta lambda_p):

    S = Phi (K + rho)^-1 Phi^T        delta = ( h I + gamma lambda_q (I - S) )^-1 g        c = S delta

that is T3 for each eigenvector of S, whose eigenvalue s_j = kappa_j / (kappa_j + rho) is the absorption. Put differently
W is the ridge regression of g / h on Phi with

    rho_eff = rho (1 + gamma lambda_q / h)        W = (K + rho_eff)^-1 Phi^T g / h

so that, at equilibrium, the reverse KL does to the prior what more weight decay would do, and nothing else.

What is harm. Let g = Phi theta + xi: the first part is determined by x (inference), xi is label noise of variance v
(leakage). At a fresh phi the prior is best at phi^T theta / h; its excess answer loss, in nats, is

    R = h/2 E (phi^T W - phi^T theta / h)^2 = 1/(2h) [ rho_eff^2 theta^T (K + rho_eff)^-1 Sigma (K + rho_eff)^-1 theta   (bias)
                                                      + v tr( Sigma (K + rho_eff)^-1 K (K + rho_eff)^-1 ) ]         (noise)

with Sigma = E phi phi^T of fresh questions. If theta has independent coefficients of variance tau^2,
d/d rho_eff of mode kappa of K is proportional to kappa (tau^2 rho_eff - v) / (kappa + rho_eff)^3: whatever the spectrum of
K and whatever Sigma, the optimum is rho_eff = v / tau^2, hence

    gamma* = (h / lambda_q) ( v beta lambda_p / (tau^2 alpha) - 1 )     where that is above 0, else 0.

For a given theta the optimum solves, in the eigenbasis of K (V^T theta -> theta, V^T Sigma V -> Sigma),

    rho sum_ij Sigma_ij theta_i theta_j kappa_j / ((kappa_i + rho) (kappa_j + rho)^2)
        = v sum_j Sigma_jj kappa_j / (kappa_j + rho)^3

which is rho_eff = v p / |theta|^2 for K = kappa I and Sigma = I, and v / theta^2 for a single mode.

`training.py` has the way there (early stopping), `finite_sample.py` averages over questions (double descent).

Source: derived for this project; the optimum of random theta is the Bayes-optimal ridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from amvl_theory.checks import (
    Array,
    check_fields,
    not_negative,
    one_of,
    positive,
    positive_number,
    real_array,
    scalar,
    symmetric_matrix,
    vector,
    weight,
)

RANK_TOLERANCE = 1e-12
"""Eigenvalues of K below this share of the largest count as 0."""


@dataclass(frozen=True, eq=False)
class AmortisedModel:
    """Features and the constants of the module's equations.

    Attributes:
        features: Phi (n, p).
        curvature: h, above 0 [nats/latent^2].
        posterior_precision: lambda_q, above 0 [1/latent^2].
        prior_precision: lambda_p, above 0 [1/latent^2].
        ridge: alpha, at least 0 [nats/weight^2]; 0 is the limit of a vanishing ridge.
        reduction: "sum" over the questions, or "mean", which makes the ridge count n times.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    features: ArrayLike
    curvature: float = 1.0
    posterior_precision: float = 1.0
    prior_precision: float = 1.0
    ridge: float = 0.1
    reduction: str = "sum"

    def __post_init__(self) -> None:
        features = real_array("features", self.features).copy()
        if features.ndim != 2 or 0 in features.shape or not features.any():
            raise ValueError(f"features: expected a matrix (n, p) that is not 0, received shape {features.shape}")
        features.flags.writeable = False
        object.__setattr__(self, "features", features)
        check_fields(self, positive_number, "curvature", "posterior_precision", "prior_precision")
        check_fields(self, weight, "ridge")
        one_of("reduction", self.reduction, ("sum", "mean"))
        left, sizes, right = np.linalg.svd(features, full_matrices=False)
        nonzero = sizes**2 > RANK_TOLERANCE * sizes[0] ** 2
        object.__setattr__(self, "_svd", (left[:, nonzero], sizes[nonzero], right[nonzero].T))

    _svd: ClassVar[tuple[Array, Array, Array]]  # set by __post_init__

    @property
    def Phi(self) -> Array:
        """Features (n, p)."""
        return np.asarray(self.features)

    @property
    def questions(self) -> int:
        """n."""
        return int(self.Phi.shape[0])

    @property
    def size(self) -> int:
        """p, the number of features."""
        return int(self.Phi.shape[1])

    @property
    def svd(self) -> tuple[Array, Array, Array]:
        """U (n, r), sqrt(kappa) (r,) falling, V (p, r) of Phi = U diag(sqrt(kappa)) V^T, r the rank."""
        return self._svd

    @property
    def spectrum(self) -> Array:
        """kappa (r,), the eigenvalues of K = Phi^T Phi that are not 0."""
        return self.svd[1] ** 2

    @property
    def total_ridge(self) -> float:
        """alpha, or n alpha where the loss is averaged."""
        return self.ridge * (self.questions if self.reduction == "mean" else 1)


@dataclass(frozen=True, eq=False)
class AmortisedEquilibrium:
    """Where training ends (T8).

    Attributes:
        posterior_shift: delta (n,) or (n, m).
        contamination: c = Phi W, of the training questions, likewise.
        weights: W (p,) or (p, m).
        effective_ridge: rho_eff.
        absorption: s_j (r,), eigenvalues of the smoother S that are not 0.
    """

    posterior_shift: Array
    contamination: Array
    weights: Array
    effective_ridge: float
    absorption: Array


@dataclass(frozen=True, eq=False)
class ForceStatistics:
    """How the forces g = phi^T theta + xi of training and fresh questions come about.

    Attributes:
        noise_var: v, variance of xi, the part that x does not determine [nats^2/latent^2].
        signal_var: tau^2, of theta with independent coefficients of mean 0; or
        coefficients: theta (p,) itself. Exactly one of the two.
        test_cov: Sigma = E phi phi^T of fresh questions: number, (p,) or (p, p).

    Raises:
        ValueError: if not exactly one of signal_var and coefficients is given, for a negative variance or a NaN.
    """

    noise_var: float
    signal_var: float | None = None
    coefficients: ArrayLike | None = None
    test_cov: ArrayLike = 1.0

    def __post_init__(self) -> None:
        check_fields(self, weight, "noise_var")
        if (self.signal_var is None) == (self.coefficients is None):
            given = "neither" if self.signal_var is None else "both"
            raise ValueError(f"signal_var: expected exactly one of signal_var and coefficients, received {given}")
        if self.signal_var is not None:
            check_fields(self, weight, "signal_var")

    def moments(self, size: int) -> tuple[Array, Array]:
        """E theta theta^T and Sigma, both (p, p), for p = `size` features."""
        cov = symmetric_matrix("test_cov", self.test_cov, size, definite=False)
        if self.signal_var is not None:
            return self.signal_var * np.eye(size), cov
        assert self.coefficients is not None
        theta = vector("coefficients", self.coefficients, size)
        return np.outer(theta, theta), cov


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """Excess answer loss of the prior on fresh questions [nats], each of the shape of the given gammas.

    Attributes:
        gamma: weights of the reverse KL.
        effective_ridge: rho_eff.
        bias: what the determined part loses.
        noise: what label noise costs.
        total: their sum.
    """

    gamma: Array
    effective_ridge: Array
    bias: Array
    noise: Array
    total: Array


def ridge_parameter(model: AmortisedModel, beta: float) -> float:
    """rho = alpha / (beta lambda_p).

    Raises:
        ValueError: if beta is not above 0.
    """
    return float(model.total_ridge / (positive("beta", scalar("beta", beta)) * model.prior_precision))


def effective_ridge(model: AmortisedModel, beta: float, gamma: ArrayLike) -> Array:
    """rho_eff = rho (1 + gamma lambda_q / h), of the shape of gamma."""
    brake = not_negative("gamma", gamma) * model.posterior_precision / model.curvature
    return np.asarray(ridge_parameter(model, beta) * (1.0 + brake))


def smoother(model: AmortisedModel, beta: float) -> Array:
    """S (n, n), c = S delta; the projection on the features' span for a vanishing ridge."""
    left, _, _ = model.svd
    return (left * absorption(model, beta)) @ left.T


def absorption(model: AmortisedModel, beta: float) -> Array:
    """s_j = kappa_j / (kappa_j + rho) (r,)."""
    return model.spectrum / (model.spectrum + ridge_parameter(model, beta))


def retention(model: AmortisedModel, beta: float, gamma: ArrayLike) -> Array:
    """kappa_j / (kappa_j + rho_eff) (..., r): the share of mode j of theta, and of its label noise, that the prior keeps."""
    return model.spectrum / (model.spectrum + effective_ridge(model, beta, gamma)[..., None])


def amortised_equilibrium(model: AmortisedModel, forces: ArrayLike, beta: float, gamma: float) -> AmortisedEquilibrium:
    """Posterior shifts, contamination and prior weights at the end of training (T8).

    Args:
        model: features and constants.
        forces: g (n,), or (n, m) for m modes with the same constants [nats/latent].
        beta: weight of the forward KL, above 0.
        gamma: weight of the reverse KL, at least 0.

    Raises:
        ValueError: for forces of another shape, or weights out of range.
    """
    force = checked_forces(model, forces)
    left, sizes, right = model.svd
    ridge = float(effective_ridge(model, beta, weight("gamma", gamma)))
    pull = gamma * model.posterior_precision
    flat = force.reshape(model.questions, -1)
    modes = left.T @ flat
    smoothed = (sizes / (sizes**2 + ridge))[:, None] * modes / model.curvature
    prior = left @ (sizes[:, None] * smoothed)
    shift = (flat + pull * prior) / (model.curvature + pull)
    shape = force.shape[1:]
    return AmortisedEquilibrium(
        posterior_shift=shift.reshape(force.shape),
        contamination=prior.reshape(force.shape),
        weights=(right @ smoothed).reshape((model.size, *shape)),
        effective_ridge=ridge,
        absorption=absorption(model, beta),
    )


def noise_contamination(
    model: AmortisedModel, fresh_features: ArrayLike, noise_var: float, beta: float, gamma: ArrayLike
) -> Array:
    """Variance of the contamination of fresh questions that label noise causes (T8) [latent^2].

    (v/h^2) phi^T (K + rho_eff)^-1 K (K + rho_eff)^-1 phi for each row phi.

    Args:
        model: features and constants.
        fresh_features: (m, p) or (p,).
        noise_var: v, variance of the part of the force that x does not determine [nats^2/latent^2].
        beta, gamma: weights; gamma of any shape.

    Returns:
        shape of gamma, then (m,) if several questions were given.
    """
    fresh = real_array("fresh_features", fresh_features)
    if fresh.ndim not in (1, 2) or fresh.shape[-1] != model.size:
        raise ValueError(f"fresh_features: expected shape (m, {model.size}), received {fresh.shape}")
    _, sizes, right = model.svd
    gain = sizes / (sizes**2 + effective_ridge(model, beta, gamma)[..., None])
    return weight("noise_var", noise_var) / model.curvature**2 * (gain**2 @ ((fresh @ right) ** 2).T)


def excess_risk(model: AmortisedModel, statistics: ForceStatistics, beta: float, gamma: ArrayLike) -> RiskCurve:
    """Bias, noise and total excess loss of the prior on fresh questions against gamma (T8) [nats].

    Args:
        model: features and constants.
        statistics: of the forces.
        beta: weight of the forward KL, above 0.
        gamma: weights of the reverse KL, any shape.

    Raises:
        ValueError: for weights out of range or shapes that disagree.
    """
    ridge = effective_ridge(model, beta, gamma)
    bias, noise = risk_at(model, statistics, ridge)
    return RiskCurve(not_negative("gamma", gamma), ridge, bias, noise, bias + noise)


def optimal_ridge(model: AmortisedModel, statistics: ForceStatistics, floor: float = 0.0) -> float:
    """rho_eff of least excess loss among those of at least `floor` (T8); infinite where nothing is worth learning.

    Closed form v / tau^2 for random coefficients. For given ones the stationarity equation is solved on a logarithmic grid
    from 1e-8 of the smallest to 1e8 times the largest eigenvalue of K; it can have several roots where the modes differ
    much, and the one of least loss is taken, with both ends compared.

    Raises:
        ValueError: without noise and signal, where every ridge is as good.
    """
    noise, floor = statistics.noise_var, weight("floor", floor)
    signal, cov = statistics.moments(model.size)
    if noise == 0 and not signal.any():
        raise ValueError("signal_var: expected noise or signal above 0, received 0 for both")
    if statistics.signal_var is not None:
        return max(floor, np.inf if statistics.signal_var == 0 else noise / statistics.signal_var)
    kappa, basis = _full_basis(model)
    cov, double = basis.T @ cov @ basis, (basis.T @ cov @ basis) * (basis.T @ signal @ basis)

    def slope(log_ridge: float) -> float:
        """dR/d log(rho_eff), up to the factor 1/h."""
        ridge = np.exp(log_ridge)
        pull = ridge * (1.0 / (kappa + ridge)) @ double @ (kappa / (kappa + ridge) ** 2)
        return float((pull - noise * (np.diagonal(cov) * kappa) @ (kappa + ridge) ** -3.0) * ridge)

    low = max(floor, 1e-8 * float(model.spectrum.min()))
    grid = np.linspace(np.log(low), np.log(max(low, 1e8 * float(model.spectrum.max()))), 800)
    slopes = np.array([slope(value) for value in grid])
    roots = [
        float(np.exp(brentq(slope, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-14)))
        for i in np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
    ]
    candidates = np.array([floor, *roots, np.inf])
    return float(candidates[np.argmin(sum(risk_at(model, statistics, candidates)))])


def optimal_gamma(model: AmortisedModel, statistics: ForceStatistics, beta: float) -> float:
    """gamma* of least excess loss (T8): closed form for random coefficients, from `optimal_ridge` for given ones.

    0 where the ridge alone is already as strong; infinite where nothing is worth learning. With no ridge (alpha = 0) the
    reverse KL moves the prior nowhere, every gamma is as good, and the answer is 0.

    Raises:
        ValueError: as `optimal_ridge`.
    """
    floor = ridge_parameter(model, beta)
    best = optimal_ridge(model, statistics, floor)
    return 0.0 if floor == 0 else (best / floor - 1.0) * model.curvature / model.posterior_precision


def protection(absorbed: ArrayLike, gamma: ArrayLike, curvature: float, posterior_precision: float) -> Array:
    """Share of a mode's contamination that the reverse KL removes at convergence, 1 - c(gamma)/c(0) (T3, T8).

    gamma lambda_q (1 - s) / (h + gamma lambda_q (1 - s)): 0 for s = 1, a prior that memorises, whatever gamma.

    Args:
        absorbed: s, 0 to 1; gamma: at least 0; they broadcast.
        curvature: h, above 0.
        posterior_precision: lambda_q, above 0.
    """
    share = not_negative("absorbed", absorbed)
    if (share > 1).any():
        raise ValueError(f"absorbed: expected numbers from 0 to 1, received {share.max():g}")
    pull = not_negative("gamma", gamma) * positive("posterior_precision", posterior_precision) * (1.0 - share)
    return np.asarray(pull / (positive("curvature", curvature) + pull))


def risk_at(model: AmortisedModel, statistics: ForceStatistics, ridge: Array) -> tuple[Array, Array]:
    """Bias and noise parts of the excess loss at effective ridges (...), 0 and infinity included."""
    signal, cov = statistics.moments(model.size)
    kappa, basis = _full_basis(model)
    cov, signal = basis.T @ cov @ basis, basis.T @ signal @ basis
    rho = ridge[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(kappa == 0, 1.0, 1.0 / (1.0 + kappa / rho))
        gain = np.where(kappa == 0, 0.0, kappa / (kappa + rho) ** 2)
    scale = 0.5 / model.curvature
    bias = scale * np.einsum("...i,ij,...j->...", lost, cov * signal, lost)
    return bias, scale * statistics.noise_var * (gain @ np.diagonal(cov))


def _full_basis(model: AmortisedModel) -> tuple[Array, Array]:
    """kappa (p,) with zeros outside the features' span, and an orthonormal basis (p, p) to go with it."""
    _, sizes, right = model.svd
    rank = len(sizes)
    full = np.linalg.qr(np.hstack([right, np.eye(model.size)]))[0] if rank < model.size else right
    return np.concatenate([sizes**2, np.zeros(model.size - rank)]), np.hstack([right, full[:, rank:]])


def checked_forces(model: AmortisedModel, forces: ArrayLike) -> Array:
    """`forces` as (n,) or (n, m)."""
    force = real_array("forces", forces)
    if force.ndim not in (1, 2) or force.shape[0] != model.questions:
        raise ValueError(
            f"forces: expected shape ({model.questions},) or ({model.questions}, m), received {force.shape}"
        )
    return force
