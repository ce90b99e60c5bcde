"""T7, the linear game: its matrix, why its curl is an artefact of the coordinates, stable steps, stationary noise.

The mean channel u = (dbar, c) of `model.py` obeys du/dt = J u + b with b = (eta_q gbar, 0) and

    J = [ -eta_q (H + gamma Lambda_q)        eta_q gamma Lambda_q      ]
        [  eta_p beta Lambda_p              -eta_p (beta Lambda_p + A) ]

J is not symmetric, so the game is not the descent of one function in these coordinates. But there is a positive definite,
block diagonal W with W J = -M, M symmetric, in either of two cases:

    A diagonal   W = ( I / eta_q,                                   (gamma/beta) Lambda_q Lambda_p^-1 / eta_p )
                 u^T M u = dbar^T H dbar + gamma |dbar - c|^2_{Lambda_q} + (gamma/beta) c^T Lambda_q Lambda_p^-1 A c
    H diagonal   W = ( (beta/gamma) Lambda_p Lambda_q^-1 / eta_q,   I / eta_p )
                 u^T M u = (beta/gamma) dbar^T Lambda_p Lambda_q^-1 H dbar + beta |dbar - c|^2_{Lambda_p} + c^T A c

for diagonal precisions, the case of the paper. With full precisions the same W serve where Lambda_q Lambda_p^-1 is
symmetric and so is its product with A (its inverse's with H). M > 0 for H > 0 and A >= 0: both terms vanish only for
dbar = 0, and then |c|^2_Lambda = 0. Hence W^1/2 J W^-1/2 = -W^-1/2 M W^-1/2 is symmetric and negative definite: all
eigenvalues are real and negative for all positive weights and rates, and u descends the one potential
1/2 u^T M u - b^T W u in the coordinates W^1/2 u (a weighted potential game).

With both H and A dense neither holds and the game can be unstable (`UNSTABLE_EXAMPLE`).

Source: derived for this project; Lyapunov's equations as in any book on linear stochastic systems.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov, sqrtm

from amvl_theory.checks import (
    Array,
    instance,
    is_diagonal,
    positive_number,
    real_array,
    representable,
    scalar,
    symmetric_matrix,
    weight,
)
from amvl_theory.model import MeanLeakageModel

SYMMETRY = 1e-12
"""Largest antisymmetric part, relative to the whole, that counts as rounding when a symmetriser is looked for."""

NEUTRAL = 1e-12
"""Size of an eigenvalue, relative to the largest of a dense J, up to which it is rounding of 0: nothing moves there."""

SINGULAR = 1e13
"""Condition number of J at equal rates, rows scaled to 1, from which on it counts as singular."""

UNSTABLE_EXAMPLE = MeanLeakageModel(
    curvature=[[1.0, 2.0], [2.0, 5.0]],
    force_mean=0.0,
    posterior_precision=[1.0, 10.0],
    prior_precision=1.0,
    anchor=[[1.0, 1.0], [1.0, 1.1]],
)
"""H and A both dense: at beta = gamma = 1 and equal rates an eigenvalue +0.0029 and a complex pair."""


@dataclass(frozen=True, eq=False)
class Stability:
    """Eigenvalues of the mean channel and what follows from them.

    Attributes:
        eigenvalues: (2 d,) of J, complex, by falling real part [1/time].
        slowest_rate: min over eigenvalues of -Re; below 0 where the game is unstable [1/time].
        max_stable_step: the explicit-Euler bound of simultaneous updates, min 2 |Re| / |eigenvalue|^2; 0 where the game
            is unstable. An eigenvalue 0 (a prior that nothing moves) neither grows nor bounds the step.
        curl: size of the antisymmetric part of J, |J - J^T| / 2 |J| in Frobenius norm, 0 to 1.
        curl_symmetrised: the same of W^1/2 J W^-1/2, 0 up to rounding; None where no symmetriser is known.
        max_stable_step_alternating: the bound of alternating updates (posterior first, then the prior against the new
            posterior): the smallest step at which the spectral radius of that iteration reaches 1.
    """

    eigenvalues: Array
    slowest_rate: float
    max_stable_step: float
    curl: float
    curl_symmetrised: float | None
    max_stable_step_alternating: float

    @property
    def stable(self) -> bool:
        """Whether every eigenvalue has a negative real part."""
        return self.slowest_rate > 0


@dataclass(frozen=True, eq=False)
class StationaryCovariance:
    """Stationary covariance of the mean channel under gradient noise, each (d, d) [latent^2].

    Attributes:
        posterior_shift: Cov(dbar).
        contamination: Cov(c).
        cross: Cov(dbar, c), rows dbar.
    """

    posterior_shift: Array
    contamination: Array
    cross: Array

    @property
    def joint(self) -> Array:
        """(2 d, 2 d), of (dbar, c)."""
        return np.block([[self.posterior_shift, self.cross], [self.cross.T, self.contamination]])


@representable
def game_matrix(
    model: MeanLeakageModel, beta: float, gamma: float, eta_q: float = 1.0, eta_p: float = 1.0
) -> tuple[Array, Array]:
    """J (2 d, 2 d) and b (2 d,) of du/dt = J u + b, u = (dbar, c).

    Args:
        model: the query.
        beta, gamma: loss weights, at least 0.
        eta_q, eta_p: rates, above 0.

    Raises:
        ValueError: for a weight below 0 or a rate that is not above 0.
    """
    instance("model", model, MeanLeakageModel)
    beta, gamma = weight("beta", beta), weight("gamma", gamma)
    eta_q, eta_p = positive_number("eta_q", eta_q), positive_number("eta_p", eta_p)
    own_q, own_p = model.H + gamma * model.Lambda_q, beta * model.Lambda_p + model.A
    matrix = np.block(
        [[-eta_q * own_q, eta_q * gamma * model.Lambda_q], [eta_p * beta * model.Lambda_p, -eta_p * own_p]]
    )
    return matrix, np.concatenate([eta_q * model.g, np.zeros(model.size)])


@representable
def symmetriser(
    model: MeanLeakageModel, beta: float, gamma: float, eta_q: float = 1.0, eta_p: float = 1.0
) -> Array | None:
    """W (2 d, 2 d), positive definite and block diagonal, with W J symmetric; None where none of this form exists.

    T7; see the module's two cases. With gamma = 0 or beta = 0 the coupling runs one way only: J is block triangular (its
    eigenvalues are those of its diagonal blocks) and no such W exists.

    Raises:
        ValueError: as `game_matrix`.
    """
    game_matrix(model, beta, gamma, eta_q, eta_p)
    if beta == 0 or gamma == 0:
        return None
    size, zero = model.size, np.zeros((model.size, model.size))
    ratio = np.linalg.solve(model.Lambda_p, model.Lambda_q).T  # Lambda_q Lambda_p^-1
    if _is_symmetric(ratio) and _is_symmetric(ratio @ model.A):
        return np.block([[np.eye(size) / eta_q, zero], [zero, gamma / (beta * eta_p) * 0.5 * (ratio + ratio.T)]])
    ratio = np.linalg.solve(model.Lambda_q, model.Lambda_p).T  # Lambda_p Lambda_q^-1
    if _is_symmetric(ratio) and _is_symmetric(ratio @ model.H):
        return np.block([[beta / (gamma * eta_q) * 0.5 * (ratio + ratio.T), zero], [zero, np.eye(size) / eta_p]])
    return None


@representable
def symmetrised_game(matrix: Array, weighting: Array) -> tuple[Array, Array, Array]:
    """(W^1/2 J W^-1/2, W^1/2, W^-1/2) for a positive definite weighting W."""
    matrix, weighting = _square("matrix", matrix), _square("weighting", weighting)
    if matrix.shape != weighting.shape or (np.diagonal(weighting) <= 0).any():
        raise ValueError(
            f"weighting: expected a positive definite matrix of shape {matrix.shape}, received shape {weighting.shape} "
            f"and the diagonal {np.diagonal(weighting)}"
        )
    if not is_diagonal(weighting):
        root = np.real(sqrtm(weighting))
        inverse = np.linalg.inv(root)
        return root @ matrix @ inverse, root, inverse
    scale = np.sqrt(np.diagonal(weighting))
    return matrix * scale[:, None] / scale, np.diag(scale), np.diag(1.0 / scale)


@representable
def curl(matrix: Array) -> float:
    """|J - J^T| / 2 |J|, Frobenius norms: 0 for a gradient field, 1 for a pure rotation."""
    matrix = _square("matrix", matrix)
    whole = np.linalg.norm(matrix)
    return float(np.linalg.norm(matrix - matrix.T) / (2.0 * whole)) if whole else 0.0


@representable
def stability(model: MeanLeakageModel, beta: float, gamma: float, eta_q: float = 1.0, eta_p: float = 1.0) -> Stability:
    """Eigenvalues, slowest rate, largest stable steps and curl of the mean channel (T7).

    Assumes fixed variances. With A or H diagonal (and diagonal precisions) the eigenvalues are real and negative and are
    computed as those of the symmetric W^1/2 J W^-1/2.

    Raises:
        ValueError: as `game_matrix`.
    """
    matrix, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    weighting = symmetriser(model, beta, gamma, eta_q, eta_p)
    curl_symmetrised = None if weighting is None else curl(symmetrised_game(matrix, weighting)[0])
    eigenvalues = _eigenvalues(model, beta, gamma, eta_q, eta_p, weighting)
    eigenvalues = eigenvalues[np.argsort(-eigenvalues.real, kind="stable")]
    moving = eigenvalues[eigenvalues != 0]
    unstable = bool((moving.real >= 0).any())
    return Stability(
        eigenvalues=eigenvalues,
        slowest_rate=float((-eigenvalues.real).min()),
        max_stable_step=0.0 if unstable else float((-2.0 * moving.real / np.abs(moving) ** 2).min()),
        curl=curl(matrix),
        curl_symmetrised=curl_symmetrised,
        max_stable_step_alternating=0.0 if unstable else _alternating_bound(matrix, weighting is not None),
    )


def _eigenvalues(
    model: MeanLeakageModel, beta: float, gamma: float, eta_q: float, eta_p: float, weighting: Array | None
) -> Array:
    """Eigenvalues (2 d,) of J, complex.

    Where every mode stands alone they are -f and -det/f of its 2x2 block, with det = eta_q eta_p [h beta lambda_p +
    (h + gamma lambda_q) alpha], however far the modes differ in size. Where one weight is 0 they are those of the two diagonal
    blocks. Else they come from J, symmetrised with `weighting` if there is one, and the small ones from its inverse: that
    is the inverse at equal rates with its columns over eta_q and eta_p, which loses no digits, so that rates however far apart
    leave none of them to rounding. Below `NEUTRAL` is 0 where nothing moves at equal rates either.
    """
    matrix, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    if all(is_diagonal(each) for each in (model.H, model.A, model.Lambda_q, model.Lambda_p)):
        h, anchor, pull_q, pull_p = (
            np.diagonal(each) for each in (model.H, model.A, gamma * model.Lambda_q, beta * model.Lambda_p)
        )
        own_q, own_p = eta_q * (h + pull_q), eta_p * (pull_p + anchor)
        fast = 0.5 * (own_q + own_p + np.sqrt((own_q - own_p) ** 2 + 4.0 * eta_q * eta_p * pull_q * pull_p))
        slow = eta_q * eta_p * (h * pull_p + (h + pull_q) * anchor) / fast
        return np.concatenate([-fast, -slow]).astype(complex)
    if beta == 0 or gamma == 0:
        own_q, own_p = -eta_q * (model.H + gamma * model.Lambda_q), -eta_p * (beta * model.Lambda_p + model.A)
        return np.concatenate([_not_rounding(np.linalg.eigvalsh(own)) for own in (own_q, own_p)])
    even, _ = game_matrix(model, beta, gamma)
    rates = np.repeat([eta_q, eta_p], model.size)
    scale = np.abs(even).max(axis=1)
    if np.linalg.cond(even / scale[:, None]) > SINGULAR:
        return _not_rounding(_values(matrix, weighting))
    inverse = np.linalg.inv(even / scale[:, None]) / scale / rates
    return _graded(_values(matrix, weighting), 1 / _values(inverse, weighting))


def _values(matrix: Array, weighting: Array | None) -> Array:
    """Eigenvalues of J or its inverse, real where W^1/2 J W^-1/2 is symmetric."""
    if weighting is None:
        return np.asarray(np.linalg.eigvals(matrix), dtype=complex)
    flat, _, _ = symmetrised_game(matrix, weighting)
    return np.linalg.eigvalsh(0.5 * (flat + flat.T))


def _graded(of_matrix: Array, of_inverse: Array) -> Array:
    """All eigenvalues: the large from the matrix, the small from its inverse, parted at the widest gap between neighbours."""
    large, small = (each[np.argsort(-np.abs(each))].astype(complex) for each in (of_matrix, of_inverse))
    size = np.abs(small)
    part = int(np.argmax(size[:-1] / size[1:])) + 1
    return np.concatenate([large[:part], small[part:]])


def _not_rounding(values: Array) -> Array:
    return np.where(np.abs(values) > NEUTRAL * np.abs(values).max(initial=0.0), values, 0.0).astype(complex)


@representable
def alternating_iteration(
    model: MeanLeakageModel, beta: float, gamma: float, step: float, eta_q: float = 1.0, eta_p: float = 1.0
) -> Array:
    """T (2 d, 2 d): one posterior step, then one prior step against the new posterior; u -> T u + const.

    Raises:
        ValueError: as `game_matrix`, or for a step that is not above 0.
    """
    matrix, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    return _alternating(matrix, np.array([positive_number("step", step)]))[0]


def _alternating(matrix: Array, steps: Array) -> Array:
    """(m, 2 d, 2 d): the prior's half after the posterior's half, (I + eta J_p)(I + eta J_q), J_q the upper rows of J."""
    half = len(matrix) // 2
    upper, lower = np.zeros_like(matrix), np.zeros_like(matrix)
    upper[:half], lower[half:] = matrix[:half], matrix[half:]
    eye, eta = np.eye(len(matrix)), steps[:, None, None]
    return (eye + eta * lower) @ (eye + eta * upper)


def _alternating_bound(matrix: Array, symmetrised: bool, points: int = 512) -> float:
    """Smallest step with spectral radius 1, found on a logarithmic grid and bisected.

    With a symmetriser every step below 2 / (largest eigenvalue of the two diagonal blocks) is stable (Householder and
    John: the splitting W/eta + L of M has W/eta + L + (W/eta + L)^T - M = 2 W/eta - blockdiag(M) > 0). No step above
    2 / (smallest such eigenvalue) is, as |det T| = |det(I - eta D_q)| |det(I - eta D_p)| >= 1 there. Without a
    symmetriser the grid starts a thousand times lower.
    """
    half = len(matrix) // 2
    own = np.concatenate([np.linalg.eigvalsh(-matrix[:half, :half]), np.linalg.eigvalsh(-matrix[half:, half:])])
    own = own[own > 1e-14 * own.max()]
    low = 2.0 / own.max() * (1.0 - 1e-9 if symmetrised else 1e-3)
    steps = np.geomspace(low, 2.0 / own.min() * (1.0 + 1e-6), points)
    moving = np.linalg.matrix_rank(matrix)  # what nothing moves has the eigenvalue 1 at every step: left out

    def radius(step: Array) -> Array:
        values = np.linalg.eigvals(_alternating(matrix, step))
        order = np.argsort(-np.abs(values - 1.0), axis=-1)[:, :moving]
        return np.abs(np.take_along_axis(values, order, axis=-1)).max(axis=-1)

    beyond = np.flatnonzero(radius(steps) >= 1.0)
    if not beyond.size:
        return float(steps[-1])
    if beyond[0] == 0:
        return float(low)
    below, above = steps[beyond[0] - 1], steps[beyond[0]]
    for _ in range(60):
        middle = 0.5 * (below + above)
        if radius(np.array([middle]))[0] >= 1.0:
            above = middle
        else:
            below = middle
    return float(below)


@representable
def stationary_covariance(
    model: MeanLeakageModel,
    beta: float,
    gamma: float,
    noise_cov_q: ArrayLike,
    noise_cov_p: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    *,
    step: float | None = None,
) -> StationaryCovariance:
    """Stationary covariance of (dbar, c) under independent noise in the two gradients (T7).

    Without `step`, the stochastic flow du = (J u + b) dt + dB, dB of covariance D dt, D = diag(eta_q^2 N_q, eta_p^2 N_p):

        J X + X J^T + D = 0

    With it, stochastic gradient descent u <- u + step (J u + b + xi), Cov(xi) = D:

        X = T X T^T + step^2 D,   T = I + step J,   X / step -> the flow's X as step -> 0

    Args:
        model: the query.
        beta, gamma: loss weights.
        noise_cov_q: N_q, covariance of the noise in the posterior's gradient: number, (d,) or (d, d), semidefinite
            [nats^2/latent^2, per unit of time for the flow, per update for descent].
        noise_cov_p: N_p, likewise for the prior's gradient.
        eta_q, eta_p: rates.
        step: size of an update of descent; None for the flow.

    Raises:
        ValueError: for noise that is not a covariance, an unstable game, a step at which updates diverge, or rates so far
            apart that rounding leaves no covariance.
    """
    matrix, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    size = model.size
    diffusion = np.zeros((2 * size, 2 * size))
    noise_q = symmetric_matrix("noise_cov_q", noise_cov_q, size, definite=False)
    noise_p = symmetric_matrix("noise_cov_p", noise_cov_p, size, definite=False)
    diffusion[:size, :size], diffusion[size:, size:] = eta_q**2 * noise_q, eta_p**2 * noise_p
    eigenvalues = _eigenvalues(model, beta, gamma, eta_q, eta_p, symmetriser(model, beta, gamma, eta_q, eta_p))
    if eigenvalues.real.max() >= 0:
        raise ValueError(
            "model: expected a stable game (all eigenvalues with negative real part), received the eigenvalue "
            f"{eigenvalues[np.argmax(eigenvalues.real)]:.6g}"
        )
    if step is not None:
        bound = float((-2.0 * eigenvalues.real / np.abs(eigenvalues) ** 2).min())
        if not 0 < scalar("step", step) < bound:
            raise ValueError(
                f"step: expected a number above 0 and below the stable step {bound:.6g}, received {step:g}"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of a solution that is all rounding
        try:
            if step is None:
                joint = solve_continuous_lyapunov(matrix, -diffusion)
            else:
                joint = solve_discrete_lyapunov(np.eye(2 * size) + step * matrix, step**2 * diffusion)
        except RuntimeWarning as error:
            raise OverflowError from error  # named by `representable`
    joint = 0.5 * (joint + joint.T)
    driven = np.concatenate([np.diagonal(noise_q), np.diagonal(noise_p)]) > 0
    own = np.diagonal(joint)
    if (own < 0).any() or (own[driven] == 0).any():
        raise ValueError(
            "beta, gamma, eta_q, eta_p: expected rates close enough together for a covariance, received some that leave the "
            f"variance {own.min():.3g} to rounding"
        )
    return StationaryCovariance(joint[:size, :size], joint[size:, size:], joint[:size, size:])


def _square(name: str, value: Array) -> Array:
    array = real_array(name, value)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"{name}: expected a square matrix, received shape {array.shape}")
    return array


def _is_symmetric(matrix: Array) -> bool:
    return float(np.abs(matrix - matrix.T).max()) <= SYMMETRY * float(np.abs(matrix).max())
