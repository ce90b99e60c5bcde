"""Explicit steps of games whose answers share their variance and their step size, in the fewest passes over memory.

The same game and the same gradients as `amvl_theory.game.kernel`, in coordinates in which they are cheaper. All answers
then have the same linear update, which commutes with any mixing of answers. So with O orthogonal, first row sqrt(p_y),

    z = O diag(sqrt(p)) delta,     z_0 = E_y delta_y,     E_y |delta_y - c|^2 = (z_0 - c)^2 + z_1^2 + ... + z_{K-1}^2,

and with m2 that second moment, e_q = eta_q/2, e_p = eta_p/2, eta the step of delta (eta_q, or eta_q/K for true gradients)

    a = gamma/v,  b = beta/u,  w = u - v,     [] terms that an objective may lack
    rho <- rho + e_q ( -[h v] + [a (m2 + w)] + [b w] )               r <- r + e_p ( [b (m2 - w)] - [a w] )
    z   <- (I - eta [H] - eta P) z + eta [O diag(sqrt(p)) g]         P = [b] + [a] on the posterior, z_0 += eta P c
    c   <- (I - eta_p A) c + eta_p Q (z_0 - c)                       Q = [b] + [a] on the prior

Layout as in `amvl_theory.game.kernel`: the instance axis last. `tests/theory/game/test_shared_kernel.py` holds it to the other
kernel for every objective. Source: derived for this project.
"""

from __future__ import annotations

import numpy as np

from amvl_theory.checks import Array
from amvl_theory.game.game import GameState, GaussianGame
from amvl_theory.game.kernel import StepRule, _aligned, _last, _rows


def suits(game: GaussianGame, rule: StepRule) -> bool:
    """Whether this kernel can make the (simultaneous, noiseless) steps of a rule in a game."""
    equal = bool((game.p == game.p[0, 0]).all())
    one_step = equal or (rule.per_answer and game.p.shape[0] == 1)
    normalised = abs(float(game.p[0].sum()) - 1.0) < 1e-14
    return bool(game.shared_variance and one_step and normalised and rule.terms.ntp and not rule.scaled)


class SharedChunk:
    """State, constants and buffers of the instances ``where`` of a game that `suits`, and its steps."""

    def __init__(self, game: GaussianGame, start: GameState, where: slice, rule: StepRule) -> None:
        self.terms, self.where = rule.terms, where
        self.origin, self.moved = start.posterior_shift[where], False
        mixing, self.unmixing = _mixing(game.p[0])
        count, answers, size = self.origin.shape
        self.eta = rule.eta_q if rule.per_answer else rule.eta_q / answers
        self.e_q, self.eta_p, self.e_p = 0.5 * rule.eta_q, rule.eta_p, 0.5 * rule.eta_p
        self.z = _mixed(mixing, self.origin)
        self.push = _mixed(mixing * self.eta, _rows(game.g, where))
        self.c = _last(start.contamination[where])
        self.logs, self.variances = _aligned((2, size, count)), _aligned((2, size, count))
        self.logs[0], self.logs[1] = start.posterior_log_var[where, 0].T, start.prior_log_var[where].T
        np.exp(self.logs, out=self.variances)
        self.free = slice(0 if game.train_posterior_variance else 1, 2 if game.train_prior_variance else 1)
        self.any_free = game.train_posterior_variance or game.train_prior_variance
        self.keep_z, self.keep_c = _Keep(game.H, where, self.eta), _Keep(game.A, where, self.eta_p)
        self.has_anchor = bool(game.A.any())
        curvature = _rows(game.H if game.H.ndim == 2 else np.diagonal(game.H, axis1=1, axis2=2), where)
        self.shrink = _last(self.e_q * curvature)
        self.rates, self.forces = _aligned((2, size, count)), _aligned((2, size, count))
        self.other_z = _aligned(self.z.shape) if self.keep_z.dense else self.z
        self.other_c = _aligned(self.c.shape) if self.keep_c.dense else self.c
        self.D, self.m2, self.flat = (_aligned(self.c.shape) for _ in range(3))
        self.weights = np.empty((2, 1, 1))

    @property
    def delta(self) -> Array:
        """Posterior shifts (K, d, n)."""
        if not self.moved:
            return np.moveaxis(self.origin, 0, -1)
        return np.stack([sum(factor * row for factor, row in zip(line, self.z, strict=True)) for line in self.unmixing])

    @property
    def rho(self) -> Array:
        """Posterior log-variances (1, d, n)."""
        return self.logs[:1]

    @property
    def r(self) -> Array:
        """Prior log-variances (d, n)."""
        return self.logs[1]

    def step(self, beta: float | Array, gamma: float | Array) -> None:
        """One simultaneous step; ``beta`` and ``gamma`` are numbers or (n,)."""
        self.moved = True
        if self.any_free:
            np.exp(self.logs[self.free], out=self.variances[self.free])
        self._weigh(beta, gamma)
        np.divide(self.weights, self.variances, out=self.rates)  # e_q gamma / v, e_p beta / u
        np.subtract(self.z[0], self.c, out=self.D)
        if self.any_free:
            self._move_variances()
        self._move_posterior()
        self._move_prior()

    def _weigh(self, beta: float | Array, gamma: float | Array) -> None:
        shape = np.broadcast_shapes(np.shape(beta), np.shape(gamma))
        if shape and self.weights.shape[2:] != shape:
            self.weights = np.empty((2, 1, *shape))
        self.weights[0, 0], self.weights[1, 0] = self.e_q * gamma, self.e_p * beta

    def _move_variances(self) -> None:
        terms, forces, flat, m2 = self.terms, self.forces, self.flat, self.m2
        (v, u), (a, b) = self.variances, self.rates
        np.multiply(self.D, self.D, out=m2)
        for row in self.z[1:]:
            np.multiply(row, row, out=flat)
            np.add(m2, flat, out=m2)
        np.subtract(u, v, out=flat)
        if terms.reverse_on_posterior:
            np.add(m2, flat, out=forces[0])
        else:
            forces[0] = 0.0
        if terms.forward_on_prior:
            np.subtract(m2, flat, out=forces[1])
        else:
            forces[1] = 0.0
        np.multiply(forces, self.rates, out=forces)
        if terms.forward_on_posterior:
            forces[0] += self.e_q / self.e_p * b * flat
        if terms.reverse_on_prior:
            forces[1] -= self.e_p / self.e_q * a * flat
        np.multiply(v, self.shrink, out=flat)
        np.subtract(forces[0], flat, out=forces[0])
        np.add(self.logs[self.free], forces[self.free], out=self.logs[self.free])

    def _move_posterior(self) -> None:
        terms, (a, b), flat = self.terms, self.rates, self.m2
        pull = None
        if terms.reverse_on_posterior:
            pull = _times(a, self.eta / self.e_q, flat)
        if terms.forward_on_posterior:
            forward = self.eta / self.e_p * b
            pull = forward if pull is None else pull + forward
        moved = self.keep_z.apply(self.z, pull, self.flat, self.other_z)
        if pull is not None:
            np.multiply(pull, self.c, out=self.flat)
            np.add(moved[0], self.flat, out=moved[0])
        np.add(moved, self.push, out=moved)
        self.z, self.other_z = moved, self.z

    def _move_prior(self) -> None:
        terms, (a, b), flat = self.terms, self.rates, self.m2
        pull = None
        if terms.forward_on_prior:
            pull = _times(b, self.eta_p / self.e_p, flat)
        if terms.reverse_on_prior:
            backward = self.eta_p / self.e_q * a
            pull = backward if pull is None else pull + backward
        if self.has_anchor:
            moved = self.keep_c.apply(self.c[None], None, self.flat, self.other_c[None])[0]
            self.c, self.other_c = moved, self.c
        if pull is not None:
            np.multiply(pull, self.D, out=self.D)
            np.add(self.c, self.D, out=self.c)


class _Keep:
    """I - eta H of a chunk: diagonals (d, n or 1), one matrix for all instances (d, d), or matrices (d, d, n)."""

    def __init__(self, matrices: Array, where: slice, eta: float) -> None:
        self.dense, self.one_for_all = matrices.ndim == 3, matrices.ndim == 3 and matrices.shape[0] == 1
        unit = np.eye(matrices.shape[-1]) if self.dense else 1.0
        factor = unit - eta * _rows(matrices, where)
        self.array = factor[0] if self.one_for_all else _last(factor)
        if self.dense and not self.one_for_all:
            self.diagonal = np.einsum("iin->in", self.array)
            self.whole_diagonal = self.diagonal.copy()

    def apply(self, vectors: Array, pull: Array | None, room: Array, out: Array) -> Array:
        """(I - eta H - pull) times vectors (K, d, n), into ``out``, which is ``vectors`` itself for diagonals."""
        if not self.dense:
            factor = self.array if pull is None else np.subtract(self.array, pull, out=room)
            return np.multiply(vectors, factor, out=out)
        if self.one_for_all:
            np.matmul(self.array, vectors, out=out)
            if pull is not None:
                np.subtract(out, np.multiply(vectors, pull, out=vectors), out=out)
            return out
        if pull is not None:
            np.subtract(self.whole_diagonal, pull, out=self.diagonal)
        return np.einsum("ijn,kjn->kin", self.array, vectors, out=out)


def _times(values: Array, factor: float, room: Array) -> Array:
    return values if factor == 1.0 else np.multiply(values, factor, out=room)


def _mixing(probabilities: Array) -> tuple[Array, Array]:
    """O diag(sqrt(p)) (K, K) and its inverse; O is the reflection that swaps (1, 0, ...) and sqrt(p)."""
    root = np.sqrt(probabilities)
    normal = -root
    normal[0] += 1.0
    length = float(normal @ normal)
    reflection = np.eye(root.size) - (2.0 / length * np.outer(normal, normal) if length > 0 else 0.0)
    mixing = reflection * root
    mixing[0] = probabilities
    return mixing, reflection / root[:, None]


def _mixed(mixing: Array, values: Array) -> Array:
    """Mixing (K, K) times values (n, K, d), row by row so that no result depends on n; (K, d, n)."""
    rows = np.moveaxis(values, 0, -1)
    result = _aligned(rows.shape)
    for line, target in zip(mixing, result, strict=True):
        target[...] = line[0] * rows[0]
        for factor, row in zip(line[1:], rows[1:], strict=True):
            target += factor * row
    return result
