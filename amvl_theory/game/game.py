"""The full Gaussian game between posterior and prior: the real losses, and their gradients by hand.

One instance has answers y with probabilities p_y, forces g_y, a curvature H and an anchor A; means and variances move:

    q_y = N(delta_y, diag v_y)   v_y = exp(rho_y)       p = N(c, diag u)   u = exp(r)

    ntp  = sum_y p_y [ -g_y^T delta_y + 1/2 delta_y^T H delta_y + 1/2 sum_i H_ii v_yi ]
    F    = sum_y p_y KL(q_y || p) = 1/2 sum_y p_y sum_i [ r - rho_y + (v_y + D_y^2) / u - 1 ],    D_y = delta_y - c
    R    = sum_y p_y KL(p || q_y) = 1/2 sum_y p_y sum_i [ rho_y - r + (u + D_y^2) / v_y - 1 ]
    loss = [ntp] + [beta F] + [gamma R] + 1/2 c^T A c

| objective | loss without the anchor    | F trains        | R trains        |
| --------- | -------------------------- | --------------- | --------------- |
| ntp       | ntp                        | -               | -               |
| fwd       | beta F                     | prior           | -               |
| rev       | gamma R                    | -               | posterior       |
| ntp+fwd   | ntp + beta F               | prior           | -               |
| ntp+rev   | ntp + gamma R              | -               | posterior       |
| amvl      | ntp + beta F + gamma R     | prior           | posterior       |
| elbo      | ntp + beta F               | prior, posterior| -               |
| jeffreys  | ntp + beta F + gamma R     | prior, posterior| prior, posterior|

The names are those of `amvl_model.objectives`. Closed forms (T5, T6) exist for ntp+fwd, elbo and amvl; there "fwd" is accepted
as an older name of ntp+fwd, here it is the forward KL alone.

A stop-gradient leaves the loss's value alone and removes one of its two partial gradients:

    dF/d delta_y =  p_y D_y / u                  dF/d rho_y = p_y (v_y/u - 1) / 2
    dF/d c       = -sum_y p_y D_y / u            dF/d r     = sum_y p_y (1 - (v_y + D_y^2) / u) / 2
    dR/d delta_y =  p_y D_y / v_y                dR/d rho_y = p_y (1 - (u + D_y^2) / v_y) / 2
    dR/d c       = -sum_y p_y D_y / v_y          dR/d r     = sum_y p_y (u/v_y - 1) / 2

A variance that all answers share has the sum of its answers' gradients. With equal precisions and fixed variances this is
the game of `amvl_theory.model`, but for the factor p_y that a real expected loss puts on each answer's gradient.

Arrays carry the instances first: N instances, K answers, d modes. Losses are in nats, shifts in latent units.

Source: derived for this project; the objective is that of arXiv 2607.00461.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, is_definite, is_diagonal, not_negative, one_of, positive, real_array
from amvl_theory.model import MeanLeakageModel


class Terms(NamedTuple):
    """Which loss terms an objective has, and whom each of them trains (1) or leaves alone (0)."""

    ntp: int
    forward_on_prior: int
    forward_on_posterior: int
    reverse_on_posterior: int
    reverse_on_prior: int


OBJECTIVES: dict[str, Terms] = {
    "ntp": Terms(1, 0, 0, 0, 0),
    "fwd": Terms(0, 1, 0, 0, 0),
    "rev": Terms(0, 0, 0, 1, 0),
    "ntp+fwd": Terms(1, 1, 0, 0, 0),
    "ntp+rev": Terms(1, 0, 0, 1, 0),
    "amvl": Terms(1, 1, 0, 1, 0),
    "elbo": Terms(1, 1, 1, 0, 0),
    "jeffreys": Terms(1, 1, 1, 1, 1),
}


def terms_of(objective: str) -> Terms:
    """The row of the module's table for one objective; ValueError for an unknown name."""
    return OBJECTIVES[one_of("objective", objective, tuple(OBJECTIVES))]


@dataclass(frozen=True, eq=False)
class GaussianGame:
    """N independent instances of the module's game: forces, curvature, anchor, and which variances move.

    The first axis of every array is the instance, of length N, or 1 for "the same in all instances".

    Args:
        forces: g_y (N, K, d) [nats/latent].
        curvature: H, a number, a diagonal (N, d) or full positive definite matrices (N, d, d) [nats/latent^2].
        anchor: A, likewise, positive semidefinite [nats/latent^2].
        probabilities: p_y, None for equal ones, (K,) or (N, K).
        shared_variance: one posterior variance for all answers of an instance, instead of one each.
        train_posterior_variance: the posterior's log-variances move; otherwise they keep their initial values.
        train_prior_variance: the prior's log-variances move.
        instances: N, where it is larger than any first axis (a sweep over weights of one game).

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    forces: ArrayLike
    curvature: ArrayLike
    anchor: ArrayLike = 0.0
    probabilities: ArrayLike | None = None
    shared_variance: bool = True
    train_posterior_variance: bool = True
    train_prior_variance: bool = True
    instances: int | None = None

    def __post_init__(self) -> None:
        forces = real_array("forces", self.forces)
        if forces.ndim != 3 or 0 in forces.shape:
            raise ValueError(f"forces: expected shape (instances, answers, modes), received {forces.shape}")
        answers, size = forces.shape[1:]
        curvature = _matrices("curvature", self.curvature, size, definite=True)
        anchor = _matrices("anchor", self.anchor, size, definite=False)
        probabilities = _answer_probabilities(self.probabilities, answers)
        arrays = {"forces": forces, "curvature": curvature, "anchor": anchor, "probabilities": probabilities}
        count = self.instances if self.instances is not None else max(array.shape[0] for array in arrays.values())
        if count < 1:
            raise ValueError(f"instances: expected at least 1, received {count}")
        for name, array in arrays.items():
            if array.shape[0] not in (1, count):
                raise ValueError(f"{name}: expected a first axis of 1 or {count} instances, received {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "instances", count)

    # The fields as arrays, for type checkers.

    @property
    def g(self) -> Array:
        """Forces (N or 1, K, d)."""
        return np.asarray(self.forces)

    @property
    def H(self) -> Array:
        """Curvature, diagonals (N or 1, d) or matrices (N or 1, d, d)."""
        return np.asarray(self.curvature)

    @property
    def A(self) -> Array:
        """Anchor, diagonals (N or 1, d) or matrices (N or 1, d, d)."""
        return np.asarray(self.anchor)

    @property
    def p(self) -> Array:
        """Answer probabilities (N or 1, K)."""
        return np.asarray(self.probabilities)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, K, d): instances, answers, modes."""
        assert self.instances is not None
        return int(self.instances), int(self.g.shape[1]), int(self.g.shape[2])

    @classmethod
    def from_model(cls, model: MeanLeakageModel, *, instances: int = 1) -> GaussianGame:
        """The game at fixed, shared variances whose forces have the model's mean and covariance exactly.

        2d equally likely answers have the forces gbar +- sqrt(d) l_i, l_i the columns of a square root of G; without
        spread (G = 0) there is one answer. Its precisions belong in the initial state: see `fixed_state`.
        """
        values, vectors = np.linalg.eigh(model.G)
        root = vectors * np.sqrt(np.maximum(values, 0.0) * model.size)
        forces = model.g + np.concatenate([root.T, -root.T]) if model.G.any() else model.g[None]
        return cls(
            forces[None],
            np.diagonal(model.H)[None] if is_diagonal(model.H) else model.H[None],
            np.diagonal(model.A)[None] if is_diagonal(model.A) else model.A[None],
            train_posterior_variance=False,
            train_prior_variance=False,
            instances=instances,
        )


@dataclass(frozen=True, eq=False)
class GameState:
    """Where a game stands; also the shape of its gradients.

    Attributes:
        posterior_shift: delta_y (N, K, d) [latent].
        posterior_log_var: rho (N, K, d), or (N, 1, d) where all answers share it [log latent^2].
        contamination: c (N, d) [latent].
        prior_log_var: r (N, d) [log latent^2].
    """

    posterior_shift: Array
    posterior_log_var: Array
    contamination: Array
    prior_log_var: Array

    @property
    def parts(self) -> tuple[Array, Array, Array, Array]:
        """The four arrays, in the order above."""
        return self.posterior_shift, self.posterior_log_var, self.contamination, self.prior_log_var

    def largest(self) -> Array:
        """Largest absolute entry of every instance (N,): the gradient norm that tolerances refer to."""
        return np.max([np.abs(part).reshape(part.shape[0], -1).max(axis=1) for part in self.parts], axis=0)


def initial_state(
    game: GaussianGame,
    *,
    posterior_shift: ArrayLike = 0.0,
    posterior_var: ArrayLike = 1.0,
    contamination: ArrayLike = 0.0,
    prior_var: ArrayLike = 1.0,
) -> GameState:
    """A state of the game's shapes; every argument broadcasts to that of `GameState` (variances, not logarithms).

    Raises:
        ValueError: if an argument does not broadcast, is not finite, or a variance is not above 0.
    """
    count, answers, size = game.shape
    rows = 1 if game.shared_variance else answers
    return GameState(
        _fill("posterior_shift", real_array("posterior_shift", posterior_shift), (count, answers, size)),
        _fill("posterior_var", np.log(positive("posterior_var", posterior_var)), (count, rows, size)),
        _fill("contamination", real_array("contamination", contamination), (count, size)),
        _fill("prior_var", np.log(positive("prior_var", prior_var)), (count, size)),
    )


def fixed_state(game: GaussianGame, model: MeanLeakageModel) -> GameState:
    """The state at rest with the model's precisions, which must be diagonal, as the game's Gaussians are.

    Raises:
        ValueError: if a precision is not diagonal.
    """
    for name, matrix in (("posterior_precision", model.Lambda_q), ("prior_precision", model.Lambda_p)):
        if not is_diagonal(matrix):
            raise ValueError(
                f"{name}: expected a diagonal one, as the game's Gaussians are diagonal, received {matrix}"
            )
    return initial_state(
        game, posterior_var=1.0 / np.diagonal(model.Lambda_q), prior_var=1.0 / np.diagonal(model.Lambda_p)
    )


def losses(
    game: GaussianGame,
    state: GameState,
    *,
    objective: str,
    beta: ArrayLike,
    gamma: ArrayLike,
    prior_of: GameState | None = None,
    posterior_of: GameState | None = None,
) -> tuple[Array, Array, Array, Array]:
    """The weighted terms (ntp, beta F, gamma R, anchor), each (N,) in nats; an objective's loss is their sum.

    ``prior_of`` and ``posterior_of`` supply the arguments that the objective stops, held constant (default: the state's
    own). So the gradient with stop-gradients is the ordinary derivative with respect to ``state``, at ``prior_of =
    posterior_of = state`` held still; for "elbo" and "jeffreys", which stop nothing, they have no effect.
    """
    terms = terms_of(objective)
    still_q, still_p = posterior_of or state, prior_of or state
    beta, gamma = not_negative("beta", beta), not_negative("gamma", gamma)
    shift, log_var = state.posterior_shift, state.posterior_log_var
    quadratic = 0.5 * (shift * _times(game.H, shift)).sum(2)
    trace = 0.5 * (_diagonals(game.H)[:, None, :] * np.exp(log_var)).sum(2)
    ntp = (game.p * (quadratic + trace - (game.g * shift).sum(2))).sum(1)

    forward_q = state if terms.forward_on_posterior else still_q
    reverse_p = state if terms.reverse_on_prior else still_p
    forward = (game.p * _kl(forward_q, state, forward=True)).sum(1)
    reverse = (game.p * _kl(state, reverse_p, forward=False)).sum(1)
    c = state.contamination
    anchor = 0.5 * (c * _times(game.A, c[:, None, :])[:, 0]).sum(1)
    has_forward, has_reverse = terms.forward_on_prior, terms.reverse_on_posterior
    return terms.ntp * ntp, has_forward * beta * forward, has_reverse * gamma * reverse, anchor


def gradients(game: GaussianGame, state: GameState, *, objective: str, beta: ArrayLike, gamma: ArrayLike) -> GameState:
    """The gradients that the objective sends to every parameter, by the module's equations.

    Written for reading; `amvl_theory.game.simulate` computes the same numbers faster. Gradients of variances that the game
    holds fixed are 0. ``beta`` and ``gamma`` are numbers or (N,).
    """
    terms = terms_of(objective)
    count = game.shape[0]
    beta = np.broadcast_to(not_negative("beta", beta), (count,))[:, None, None]
    gamma = np.broadcast_to(not_negative("gamma", gamma), (count,))[:, None, None]
    p = game.p[:, :, None]
    delta, rho = state.posterior_shift, state.posterior_log_var
    c, r = state.contamination[:, None, :], state.prior_log_var[:, None, :]
    v, u, D = np.exp(rho), np.exp(r), delta - c

    on_q, back_q = terms.forward_on_posterior * beta, terms.reverse_on_posterior * gamma
    on_p, back_p = terms.forward_on_prior * beta, terms.reverse_on_prior * gamma
    to_delta = p * (terms.ntp * (_times(game.H, delta) - game.g) + on_q * D / u + back_q * D / v)
    h = _diagonals(game.H)[:, None, :]
    to_rho = 0.5 * p * (terms.ntp * h * v + on_q * (v / u - 1) + back_q * (1 - (u + D**2) / v))
    to_c = _times(game.A, c)[:, 0] - (p * (on_p * D / u + back_p * D / v)).sum(1)
    to_r = 0.5 * (p * (on_p * (1 - (v + D**2) / u) + back_p * (u / v - 1))).sum(1)
    if game.shared_variance:
        to_rho = to_rho.sum(1, keepdims=True)
    return GameState(to_delta, to_rho * game.train_posterior_variance, to_c, to_r * game.train_prior_variance)


def _kl(q: GameState, p: GameState, *, forward: bool) -> Array:
    """KL(q_y || p) if forward, else KL(p || q_y), summed over modes: (N, K), nats."""
    c, r = p.contamination[:, None, :], p.prior_log_var[:, None, :]
    excess = r - q.posterior_log_var  # log(u / v)
    square = (q.posterior_shift - c) ** 2
    if forward:
        terms = excess + np.expm1(-excess) + square * np.exp(-r)
    else:
        terms = -excess + np.expm1(excess) + square * np.exp(-q.posterior_log_var)
    return 0.5 * np.broadcast_to(terms, square.shape).sum(2)


def _times(matrices: Array, rows: Array) -> Array:
    """H delta_y for diagonals (N or 1, d) or matrices (N or 1, d, d), rows (N, K, d)."""
    if matrices.ndim == 2:
        return matrices[:, None, :] * rows
    return rows @ matrices  # the matrices are symmetric


def _diagonals(matrices: Array) -> Array:
    return matrices if matrices.ndim == 2 else np.diagonal(matrices, axis1=1, axis2=2)


def _fill(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    try:
        return np.broadcast_to(value, shape).copy()
    except ValueError as error:
        raise ValueError(f"{name}: expected something that broadcasts to {shape}, received {value.shape}") from error


def _answer_probabilities(value: ArrayLike | None, answers: int) -> Array:
    if value is None:
        return np.full((1, answers), 1.0 / answers)
    array = np.atleast_2d(positive("probabilities", value)).copy()
    if array.ndim != 2 or array.shape[1] != answers:
        raise ValueError(f"probabilities: expected shape ({answers},) or (N, {answers}), received {np.shape(value)}")
    sums = array.sum(1)
    if (np.abs(sums - 1.0) > 1e-9).any():
        raise ValueError(
            f"probabilities: expected rows that sum to 1, received the sum {sums[np.abs(sums - 1).argmax()]:.12g}"
        )
    return array


def _matrices(name: str, value: ArrayLike, size: int, *, definite: bool) -> Array:
    """A number, diagonals (N, d) or symmetric matrices (N, d, d), with all eigenvalues above (or at least) 0."""
    array = real_array(name, value)
    if array.ndim == 0:
        array = np.full((1, size), float(array))
    if array.ndim not in (2, 3) or 0 in array.shape or set(array.shape[1:]) != {size}:
        raise ValueError(
            f"{name}: expected a number, diagonals (N, {size}) or matrices (N, {size}, {size}), received shape {array.shape}"
        )
    lowest = array.min()
    refused = bool(lowest <= 0) if definite else False
    if array.ndim == 3:
        if np.abs(array - array.transpose(0, 2, 1)).max() > 1e-10 * np.abs(array).max():
            raise ValueError(f"{name}: expected symmetric matrices, received one that is not")
        array = 0.5 * (array + array.transpose(0, 2, 1))
        lowest = np.linalg.eigvalsh(array).min()
        refused = definite and not is_definite(array)
    if refused or (not definite and lowest < -1e-10 * np.abs(array).max()):
        kind = "positive definite (all eigenvalues above 0)" if definite else "positive semidefinite"
        raise ValueError(f"{name}: expected {kind}, received the eigenvalue {lowest:.6g}")
    return array.copy()
