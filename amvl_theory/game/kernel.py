"""The gradients of `amvl_theory.game.game` for one chunk of instances, in place and without temporaries.

Layout: the instance axis comes last and is contiguous, so that every NumPy call runs over a long vector; a chunk's
buffers are allocated once and small enough for the second-level cache, where all its steps are then made. `np.einsum` is
used where it fuses a product with its sum over modes.

    shapes: K answers, d modes, n instances of the chunk, R = 1 (shared variance) or K rows of log-variances
    delta, g, D (K, d, n)   rho, v (R, d, n)   c, r, u (d, n)   H, A (d, n or 1), (d, d, n) or (d, d)

The equations stand in `amvl_theory.game.game`; its `gradients` is the readable version that the tests hold this one to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from amvl_theory.checks import Array
from amvl_theory.game.game import GameState, GaussianGame, Terms

TINY = float(np.finfo(np.float64).tiny)

LOWEST_LOG_VARIANCE = -100.0
"""Floor of log-variances under scaled steps, which reach 0 variance geometrically where the game has no other end."""


@dataclass(frozen=True)
class StepRule:
    """How a chunk steps; see `amvl_theory.game.simulate.simulate` for the meaning of the fields."""

    terms: Terms
    eta_q: float
    eta_p: float
    per_answer: bool
    scaled: bool


class Chunk:
    """State, constants and buffers of the instances ``where`` of a game, and the steps that change the state."""

    def __init__(self, game: GaussianGame, start: GameState, where: slice, rule: StepRule) -> None:
        self.rule, self.terms, self.where = rule, rule.terms, where
        self.free_q, self.free_p = game.train_posterior_variance, game.train_prior_variance
        self.shared, self.scaled = game.shared_variance, rule.scaled
        self.delta, self.rho = _last(start.posterior_shift[where]), _last(start.posterior_log_var[where])
        self.c, self.r = _last(start.contamination[where]), _last(start.prior_log_var[where])
        answers, size, count = self.delta.shape
        self.g, self.p = _last(_rows(game.g, where)), _last(_rows(game.p, where))[:, None, :]
        self.H, self.A = _Operator(game.H, where), _Operator(game.A, where)
        self.h = self.H.diagonal()
        self.equal = bool((game.p == game.p[0, 0]).all())
        self.has_anchor = bool(game.A.any())
        self.H_bound, self.A_bound = self.H.bound(), self.A.bound()
        weighted = not (rule.per_answer or rule.scaled)
        self.rate: Array | float = rule.eta_q * self.p if weighted and not self.equal else rule.eta_q
        if weighted and self.equal:
            self.rate = rule.eta_q / answers
        # Unscaled log-variance fields leave out the factor 1/2 of the gradient; the rates carry it.
        half = 1.0 if rule.scaled else 0.5
        self.rho_rate = half * (rule.eta_q if self.shared else self.rate)
        self.r_rate = half * rule.eta_p

        self.D, self.to_delta, self.wide = (_aligned(self.delta.shape) for _ in range(3))
        self.v, self.iv, self.to_rho, self.pull, self.tall = (_aligned(self.rho.shape) for _ in range(5))
        self.u, self.iu, self.to_c, self.to_r, self.flat = (_aligned(self.c.shape) for _ in range(5))
        self.mean_D, self.mean_DD = _aligned(self.c.shape), _aligned(self.c.shape)
        for logarithm, value, inverse in ((self.rho, self.v, self.iv), (self.r, self.u, self.iu)):
            np.exp(logarithm, out=value)
            np.reciprocal(value, out=inverse)
        self.size = (answers, size, count)

    # One step is: refresh, posterior_field, prior_field, move; `beta` and `gamma` are numbers or (n,).

    def refresh(self) -> None:
        """Variances, D = delta - c, and their means over answers, from the current state."""
        if self.free_q:
            np.exp(self.rho, out=self.v)
            np.reciprocal(self.v, out=self.iv)
        if self.free_p:
            np.exp(self.r, out=self.u)
            np.reciprocal(self.u, out=self.iu)
        np.subtract(self.delta, self.c, out=self.D)
        self._mean(self.D, None, self.mean_D)
        if self.free_p or (self.free_q and self.shared):
            self._mean(self.D, self.D, self.mean_DD)

    def posterior_field(self, beta: float | Array, gamma: float | Array) -> None:
        """Fill to_delta and to_rho: gradients divided by p_y (shared log-variances: not divided)."""
        terms = self.terms
        pulled = terms.forward_on_posterior or terms.reverse_on_posterior
        if terms.forward_on_posterior:
            np.multiply(self.iu, beta, out=self.flat)
        if terms.reverse_on_posterior:
            np.multiply(self.iv, gamma, out=self.pull)
            if terms.forward_on_posterior:
                np.add(self.pull, self.flat, out=self.pull)
        elif terms.forward_on_posterior:
            self.pull[...] = self.flat
        if terms.ntp:
            self.H.apply(self.delta, self.to_delta)
            np.subtract(self.to_delta, self.g, out=self.to_delta)
            if pulled:
                np.multiply(self.pull, self.D, out=self.wide)
                np.add(self.to_delta, self.wide, out=self.to_delta)
        elif pulled:
            np.multiply(self.pull, self.D, out=self.to_delta)
        else:
            self.to_delta.fill(0.0)
        if self.scaled:
            bound = self.pull if pulled else 0.0
            np.divide(self.to_delta, bound + (terms.ntp * self.H_bound + TINY), out=self.to_delta)
        if self.free_q:
            self._log_variance_field(beta, gamma)

    def _log_variance_field(self, beta: float | Array, gamma: float | Array) -> None:
        """to_rho = h v + beta (v/u - 1) + gamma (1 - (u + D^2) / v), each term as the objective has it."""
        terms, out, bound = self.terms, self.to_rho, None
        if terms.ntp:
            np.multiply(self.v, self.h, out=out)
        else:
            out.fill(0.0)
        if self.scaled:
            bound = out + TINY
        if terms.forward_on_posterior:
            np.multiply(self.v, self.iu, out=self.tall)
            self._add_balance(out, self.tall, beta, bound)
        if terms.reverse_on_posterior:
            if self.shared:
                np.add(self.mean_DD, self.u, out=self.tall[0])
            else:
                np.multiply(self.D, self.D, out=self.tall)
                np.add(self.tall, self.u, out=self.tall)
            np.multiply(self.tall, self.iv, out=self.tall)
            self._add_balance(out, self.tall, gamma, bound, sign=-1)
        if bound is not None:
            np.divide(out, bound, out=out)

    def prior_field(self, beta: float | Array, gamma: float | Array) -> None:
        """Fill to_c and to_r."""
        terms, flat = self.terms, self.flat
        if self.has_anchor:
            self.A.apply(self.c[None], self.to_c[None])
        else:
            self.to_c.fill(0.0)
        bound = self.A_bound + TINY if self.scaled else None
        if terms.forward_on_prior:
            np.multiply(self.iu, beta, out=flat)
            bound = None if bound is None else bound + flat
            np.multiply(flat, self.mean_D, out=flat)
            np.subtract(self.to_c, flat, out=self.to_c)
        if terms.reverse_on_prior:
            self._mean(self.iv, None if self.shared else self.D, flat)
            if self.shared:
                np.multiply(flat, self.mean_D, out=flat)
            np.multiply(flat, gamma, out=flat)
            np.subtract(self.to_c, flat, out=self.to_c)
            self._mean(self.iv, None, flat)
            bound = None if bound is None else bound + gamma * flat
        if bound is not None:
            np.divide(self.to_c, bound, out=self.to_c)
        if self.free_p:
            self._prior_log_variance_field(beta, gamma)

    def _prior_log_variance_field(self, beta: float | Array, gamma: float | Array) -> None:
        """to_r = beta (1 - (E v + E D^2) / u) + gamma (u E[1/v] - 1), each term as the objective has it."""
        terms, out, flat = self.terms, self.to_r, self.flat
        bound = np.full_like(out, TINY) if self.scaled else None
        if terms.forward_on_prior:
            if self.shared:
                np.add(self.v[0], self.mean_DD, out=out)
            else:
                self._mean(self.v, None, out)
                np.add(out, self.mean_DD, out=out)
            np.multiply(out, self.iu, out=out)
            if bound is not None:
                bound += beta * (0.5 * out + 0.5)
            np.subtract(1.0, out, out=out)
            np.multiply(out, beta, out=out)
        else:
            out.fill(0.0)
        if terms.reverse_on_prior:
            self._mean(self.iv, None, flat)
            np.multiply(flat, self.u, out=flat)
            self._add_balance(out, flat, gamma, bound)
        if bound is not None:
            np.divide(out, bound, out=out)

    def move_posterior(self) -> None:
        """One explicit step of the posterior along its field, which the step overwrites."""
        np.multiply(self.to_delta, self.rate, out=self.to_delta)
        np.subtract(self.delta, self.to_delta, out=self.delta)
        if self.free_q:
            np.multiply(self.to_rho, self.rho_rate, out=self.to_rho)
            np.subtract(self.rho, self.to_rho, out=self.rho)
            if self.scaled:
                np.maximum(self.rho, LOWEST_LOG_VARIANCE, out=self.rho)

    def move_prior(self) -> None:
        """One explicit step of the prior along its field, which the step overwrites."""
        np.multiply(self.to_c, self.rule.eta_p, out=self.to_c)
        np.subtract(self.c, self.to_c, out=self.c)
        if self.free_p:
            np.multiply(self.to_r, self.r_rate, out=self.to_r)
            np.subtract(self.r, self.to_r, out=self.r)
            if self.scaled:
                np.maximum(self.r, LOWEST_LOG_VARIANCE, out=self.r)

    def largest_gradient(self, beta: float | Array, gamma: float | Array) -> float:
        """Largest gradient entry over the whole chunk, divided by p_y as the fields are, never by a curvature bound."""
        scaled, self.scaled = self.scaled, False
        self.refresh()
        self.posterior_field(beta, gamma)
        self.prior_field(beta, gamma)
        self.scaled = scaled
        sizes = [np.abs(self.to_delta).max(), np.abs(self.to_c).max()]
        sizes += [0.5 * np.abs(self.to_rho).max()] if self.free_q else []
        sizes += [0.5 * np.abs(self.to_r).max()] if self.free_p else []
        return float(np.max(sizes))

    def trained(self, player: str) -> list[Array]:
        """The state arrays that a player ("posterior" or "prior") moves, as views."""
        if player == "posterior":
            return [self.delta, self.rho] if self.free_q else [self.delta]
        return [self.c, self.r] if self.free_p else [self.c]

    def _mean(self, first: Array, second: Array | None, out: Array) -> None:
        """out = sum_y p_y first_y second_y (or first_y alone)."""
        if first.shape[0] == 1 and self.size[0] != 1:  # shared by all answers
            out[...] = first[0]
            return
        product = first
        if second is not None:
            product = np.multiply(first, second, out=self.wide)
        if not self.equal:
            product = np.multiply(product, self.p, out=self.wide)
        _sum_answers(product, out)
        if self.equal and self.size[0] > 1:
            np.multiply(out, 1.0 / self.size[0], out=out)

    @staticmethod
    def _add_balance(out: Array, ratio: Array, weight: float | Array, bound: Array | None, sign: int = 1) -> None:
        """out += sign * weight * (ratio - 1); bound += weight * (ratio + 1) / 2. Overwrites ratio."""
        if bound is not None:
            bound += weight * (0.5 * ratio + 0.5)
        np.subtract(ratio, 1.0, out=ratio)
        np.multiply(ratio, weight, out=ratio)
        if sign > 0:
            np.add(out, ratio, out=out)
        else:
            np.subtract(out, ratio, out=out)


def _sum_answers(values: Array, out: Array) -> None:
    """out = sum over the first axis; row by row, which for few rows is faster than a reduction."""
    if values.shape[0] == 1:
        out[...] = values[0]
        return
    np.add(values[0], values[1], out=out)
    for row in values[2:]:
        np.add(out, row, out=out)


def _rows(array: Array, where: slice) -> Array:
    """The chunk's instances of an array whose first axis may be 1 for "all"."""
    return array if array.shape[0] == 1 else array[where]


def _aligned(shape: tuple[int, ...]) -> Array:
    """An empty array that starts at a cache line: NumPy's own start 16 bytes off, and every wide load then spans two."""
    raw = np.empty(math.prod(shape) + 8)
    first = -(raw.ctypes.data // 8) % 8
    return raw[first : first + math.prod(shape)].reshape(shape)


def _last(array: Array) -> Array:
    """An aligned, contiguous copy with the instance axis moved from first to last."""
    moved = np.moveaxis(array, 0, -1)
    copy = _aligned(moved.shape)
    copy[...] = moved
    return copy


class _Operator:
    """H or A of a chunk: diagonals (d, n or 1), one matrix for all instances (d, d), or matrices (d, d, n)."""

    def __init__(self, matrices: Array, where: slice) -> None:
        self.diagonal_only = matrices.ndim == 2
        self.one_for_all = not self.diagonal_only and matrices.shape[0] == 1
        self.array = matrices[0].copy() if self.one_for_all else _last(_rows(matrices, where))

    def apply(self, vectors: Array, out: Array) -> None:
        """out = operator times vectors (K, d, n)."""
        if self.diagonal_only:
            np.multiply(vectors, self.array, out=out)
        elif self.one_for_all:
            np.matmul(self.array, vectors, out=out)
        else:
            np.einsum("ijn,kjn->kin", self.array, vectors, out=out)

    def diagonal(self) -> Array:
        """(d, n or 1)."""
        if self.diagonal_only:
            return self.array
        if self.one_for_all:
            return np.diagonal(self.array)[:, None].copy()
        return np.einsum("iin->in", self.array).copy()

    def bound(self) -> Array:
        """Row sums of magnitudes (d, n or 1): as a diagonal matrix at least the operator (Gershgorin)."""
        if self.diagonal_only:
            return self.array
        sums = np.abs(self.array).sum(1)
        return sums[:, None] if self.one_for_all else sums


class Moved(Protocol):
    """What a kernel's chunk shows of its state, the instances last."""

    where: slice
    c: Array

    @property
    def delta(self) -> Array: ...
    @property
    def rho(self) -> Array: ...
    @property
    def r(self) -> Array: ...


def scatter(chunk: Moved, into: GameState, row: int | None = None) -> None:
    """Write the chunk's state into arrays with the instances first, at one row of a leading axis if given."""
    for target, source in zip(into.parts, (chunk.delta, chunk.rho, chunk.c, chunk.r), strict=True):
        (target if row is None else target[row])[chunk.where] = np.moveaxis(source, -1, 0)


def diverging() -> np.errstate:
    """Inside, a run may overflow without a warning: `Simulation.diverged` reports it per instance."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
