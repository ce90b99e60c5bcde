"""Leakage when every answer has a posterior variance of its own, as a real encoder gives it (T6).

One mode, n answers with forces g_y and probabilities p_y, dual KL, at rest:

    delta_y - c = (g_y - h c) / (h + gamma/s_y)                  s_y = sigma_{q,y}^2
    h s_y^2 + gamma s_y = gamma (sigma_p^2 + (delta_y - c)^2)
    sigma_p^2 = sum_y p_y [ s_y + (delta_y - c)^2 ]
    alpha sigma_p^2 c = beta sum_y p_y (delta_y - c)             or c held at 0, as T6 has it

In units of gamma/h, with r_y = h s_y/gamma, v_y = r_y/(1 + r_y), a_y = (g_y - h c)^2/(gamma h), b = h sigma_p^2/gamma:

    r_y (1 + r_y) = b + a_y v_y^2,       b = sum_y p_y (r_y + a_y v_y^2)

At fixed c the right-hand sides grow with every r, so the solutions that attract have a largest one, reached from wide
posteriors (the leaking branch), and a smallest one, reached from narrow ones; where the two differ the transition is
hysteretic. Both are found by Newton's method in log r from a range of values of b, with the r that every value implies from
above and from below. Near r = 0 the equations read r (gamma_c/gamma - 1) + O(r^2) = 0, with
gamma_c = 2 E g^2/h whatever the answers; the next term has the sign of the forces' kurtosis minus 3, so the transition
is continuous below a kurtosis of 3 and has hysteresis above it.

Two things differ from shared variances: V (closed_form_error_map), and for skewed forces the mean: E delta is not 0
although E g is, because the answer with the larger force has the wider posterior and is held less. Under the ELBO
s_y = beta/(h + beta/sigma_p^2) is the same for all answers, so there the closed forms of T5 and T6 are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amvl_theory.checks import Array, not_negative, one_of, positive, real_array
from amvl_theory.equilibria.free_spread import self_consistent_spread

Index = NDArray[np.signedinteger[Any]]
Mask = NDArray[np.bool_]

_STARTS, _STEPS, _NEWTON_STEPS, _BATCH = 20, 40, 30, 200
_TOLERANCE = 1e-12
_CRITICAL = 1e-8
"""gamma_c/gamma - 1 up to which a posterior counts as collapsed; V is then below about 1e-16 of its value at gamma = 0."""


@dataclass(frozen=True, eq=False)
class PerAnswer:
    """Equilibria with per-answer variances; leading axes are instances.

    Attributes:
        shifts: delta_y (..., n) [latent].
        posterior_variance: s_y (..., n) [latent^2], 0 where collapsed.
        prior_variance: sigma_p^2 (...) [latent^2].
        contamination: c (...) [latent], 0 where the prior is held.
        second_moment: E_y (delta_y - c)^2 (...) [latent^2], the V of T6.
        variance: Var_y(delta_y) (...) [latent^2]; less than the second moment for skewed forces.
        residual: largest relative error of the equations (...).
    """

    shifts: Array
    posterior_variance: Array
    prior_variance: Array
    contamination: Array
    second_moment: Array
    variance: Array
    residual: Array


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """Error of the shared-variance closed form where answers have variances of their own.

    Attributes:
        weight_ratio: gamma/gamma_c (R,). kurtosis: E g^4/(E g^2)^2 of the forces (K,).
        exact: h^2 V/v0 (R, K) with per-answer variances. closed_form: h^2 V/v0 (R,) of T6.
        relative_error: (closed form - exact)/exact (R, K); 0 where both vanish.
    """

    weight_ratio: Array
    kurtosis: Array
    exact: Array
    closed_form: Array
    relative_error: Array


def per_answer_equilibrium(
    forces: ArrayLike,
    curvature: ArrayLike,
    gamma: ArrayLike,
    probabilities: ArrayLike | None = None,
    *,
    anchor: ArrayLike | None = None,
    beta: ArrayLike = 1.0,
    branch: Literal["leaking", "collapsed"] = "leaking",
) -> PerAnswer:
    """Solve the per-answer-variance game of dual KL for one mode, to about 1e-12 (less at the critical weight).

    Args:
        forces: g_y (..., n) [nats/latent].
        curvature: h > 0. gamma: reverse weight > 0. Both (...), they broadcast against the instances.
        probabilities: p_y (..., n), equal if left out.
        anchor: alpha of the prior mean (...), at least 0; if left out, the prior mean is held at 0. beta: forward weight
            (...), above 0; it matters only with an anchor.
        branch: which solution where the transition is hysteretic, the one reached from wide posteriors ("leaking") or
            from narrow ones ("collapsed"). With an anchor the game may have more solutions than these two.

    Raises:
        ValueError: for a bad argument. RuntimeError: if an instance does not converge.
    """
    one_of("branch", branch, ("leaking", "collapsed"))
    g = np.atleast_1d(real_array("forces", forces))
    p = np.full(g.shape, 1.0 / g.shape[-1]) if probabilities is None else _probabilities(probabilities, g.shape[-1])
    h, weight = positive("curvature", curvature), positive("gamma", gamma)
    held = anchor is None
    alpha, pull = not_negative("anchor", 0.0 if anchor is None else anchor), positive("beta", beta)
    try:
        lead = np.broadcast_shapes(g.shape[:-1], p.shape[:-1], h.shape, weight.shape, alpha.shape, pull.shape)
    except ValueError as error:
        raise ValueError(f"forces: expected instances that broadcast, received {g.shape}, {p.shape}, ...") from error
    count = g.shape[-1]
    rows = [np.broadcast_to(x, (*lead, count)).reshape(-1, count) for x in (g, p)]
    numbers = [np.broadcast_to(x, lead).reshape(-1) for x in (h, weight, alpha, pull)]
    game = _Games(rows[0], rows[1], numbers[0], numbers[1], numbers[2], numbers[3], held)
    r, c, residual = _solve(game, branch)
    a, v = game.drive(c), r / (1 + r)
    unit = (game.gamma / game.h)[:, None]
    offset = (game.g - game.h[:, None] * c[:, None]) * v / game.h[:, None]
    shifts = c[:, None] + offset
    mean = (game.p * shifts).sum(axis=-1, keepdims=True)
    prior = (game.gamma / game.h) * (game.p * (r + a * v**2)).sum(axis=-1)
    second, variance = (game.p * offset**2).sum(axis=-1), (game.p * (shifts - mean) ** 2).sum(axis=-1)
    return PerAnswer(
        shifts.reshape(*lead, count),
        (unit * r).reshape(*lead, count),
        *(x.reshape(lead) for x in (prior, c, second, variance, residual)),
    )


def two_answers(kurtosis: float) -> tuple[Array, Array]:
    """Forces (2,) of mean 0 and variance 1 and their probabilities (2,), the rarer first: kurtosis = 1/(p q) - 3 >= 1."""
    ratio = 0.5 * np.sqrt(1 - 4 / (_kurtosis(kurtosis) + 3))
    p = np.array([0.5 - ratio, 0.5 + ratio])
    return np.array([np.sqrt(p[1] / p[0]), -np.sqrt(p[0] / p[1])]), p


def three_answers(kurtosis: float) -> tuple[Array, Array]:
    """Symmetric forces (-f, 0, f) of variance 1 and their probabilities (3,): P(not 0) = 1/kurtosis, kurtosis > 1."""
    share = 1.0 / _kurtosis(kurtosis)
    if share == 1.0:
        raise ValueError("kurtosis: expected a number above 1 for three answers, received 1")
    return np.array([-1.0, 0.0, 1.0]) / np.sqrt(share), np.array([share / 2, 1 - share, share / 2])


def closed_form_error_map(
    weight_ratio: ArrayLike,
    kurtosis: ArrayLike,
    family: Literal["two", "three"] = "two",
    branch: Literal["leaking", "collapsed"] = "leaking",
) -> ErrorMap:
    """Relative error of T6's V over gamma/gamma_c (R,) and the forces' kurtosis (K,), prior mean held at 0.

    Scaling z shows that h^2 V/v0 depends on these two and the family only: "two" unbalanced answers (two_answers) or
    "three" symmetric ones (three_answers). Above gamma_c the leaking branch may survive for kurtosis above 3; the closed
    form then says 0, a relative error of -1.

    Raises:
        ValueError: for a ratio not above 0, or a kurtosis that the family does not reach.
    """
    one_of("family", family, ("two", "three"))
    ratio, levels = (
        np.atleast_1d(x) for x in (positive("weight_ratio", weight_ratio), real_array("kurtosis", kurtosis))
    )
    cases = [(two_answers if family == "two" else three_answers)(float(k)) for k in levels]
    forces, p = (np.stack([case[i] for case in cases])[None] for i in (0, 1))
    exact = per_answer_equilibrium(forces, 1.0, 2 * ratio[:, None], p, branch=branch).second_moment
    closed = self_consistent_spread(1.0, 1.0, 2 * ratio).variance
    gap = closed[:, None] - exact
    error = np.divide(gap, exact, out=np.zeros_like(gap), where=exact > 0)
    error[(exact == 0) & (gap > 0)] = np.inf
    return ErrorMap(ratio, levels, exact, closed, error)


@dataclass(frozen=True, eq=False)
class _Games:
    """A batch of games: g and p (B, n), the others (B,)."""

    g: Array
    p: Array
    h: Array
    gamma: Array
    alpha: Array
    beta: Array
    held: bool

    def take(self, rows: Index) -> _Games:
        g, p, h, gamma, alpha, beta = (x[rows] for x in (self.g, self.p, self.h, self.gamma, self.alpha, self.beta))
        return _Games(g, p, h, gamma, alpha, beta, self.held)

    def drive(self, c: Array) -> Array:
        """a_y (B, n)."""
        return (self.g - (self.h * c)[:, None]) ** 2 / (self.gamma * self.h)[:, None]

    def collapsed_mean(self) -> Array:
        """c (B,) of a collapsed posterior, beta gbar/(beta h + alpha gamma)."""
        if self.held:
            return np.zeros(len(self.h))
        return self.beta * (self.p * self.g).sum(axis=-1) / (self.beta * self.h + self.alpha * self.gamma)

    def mean_range(self) -> tuple[Array, Array]:
        """Between which c (B,) every solution lies: 0 and the answers' free shifts."""
        return np.minimum(self.g.min(axis=-1), 0) / self.h, np.maximum(self.g.max(axis=-1), 0) / self.h

    def implied(self, b: Array, c: Array, r: Array) -> Array:
        """r (B, n) at a given prior variance b (B,): iterates r (1 + r) = b + a v^2, monotone from either side."""
        a = self.drive(c)
        for _ in range(_STEPS):
            q = b[:, None] + a * (r / (1 + r)) ** 2
            r = 2 * q / (1 + np.sqrt(1 + 4 * q))
        return r

    def equations(self, r: Array, c: Array) -> tuple[Array, _Jacobian]:
        """Residuals (B, n + 1) and their Jacobian in (log r, c), each row over its largest term."""
        n = r.shape[-1]
        a, v, slope = self.drive(c), r / (1 + r), 1 / (1 + r) ** 2
        force = self.g - (self.h * c)[:, None]
        moved = -2 * force / self.gamma[:, None] * v**2  # d(a v^2)/dc
        b = (self.p * (r + a * v**2)).sum(axis=-1)
        gain = 2 * a * v * slope
        size = r * (1 + r)
        error = np.zeros((len(r), n + 1))
        error[:, :n] = (size - a * v**2 - b[:, None]) / size
        own, shared = (1 + 2 * r - gain) / (1 + r), self.p * (1 + gain) * r
        if self.held:
            return error, _Jacobian(own, 1 / size, shared, 0 * r, 0 * r, np.ones(len(r)))
        column = -(moved + (self.p * moved).sum(axis=-1, keepdims=True)) / size
        pull, hold = self.beta[:, None] * self.p, (self.alpha * self.gamma)[:, None]
        scale = (pull * np.abs(self.g) * v).sum(axis=-1, keepdims=True) + np.finfo(float).tiny
        error[:, n:] = (hold * (b * c)[:, None] - (pull * force * v).sum(axis=-1, keepdims=True)) / scale
        row = (hold * c[:, None] * self.p * (1 + gain) - pull * force * slope) * r / scale
        by_c = hold[:, 0] * (b + c * (self.p * moved).sum(axis=-1)) + self.h * (pull * v).sum(axis=-1)
        return error, _Jacobian(own, 1 / size, shared, column, row, by_c / scale[:, 0])


@dataclass(frozen=True, eq=False)
class _Jacobian:
    """[[ diag(own) - left shared^T, column ], [ row^T, corner ]]: every answer meets the others in two sums only.

    Vectors are (B, n), corner (B,). A step costs n operations and not n^3.
    """

    own: Array
    left: Array
    shared: Array
    column: Array
    row: Array
    corner: Array

    def _within(self, right: Array) -> Array:
        """(diag(own) - left shared^T)^-1 right (B, n), by Sherman and Morrison."""
        first = right / self.own
        return first + self.left / self.own * ((self.shared * first).sum(axis=-1) / self.among)[:, None]

    @property
    def among(self) -> Array:
        """det(diag(own) - left shared^T)/det(diag(own)) (B,)."""
        return np.asarray(1 - (self.shared * self.left / self.own).sum(axis=-1))

    @property
    def of_mean(self) -> Array:
        """The mean's own slope once the widths follow it, the Schur complement (B,)."""
        return self.corner - (self.row * self._within(self.column)).sum(axis=-1)

    def solve(self, error: Array) -> Array:
        """Newton's step (B, n + 1); not finite where the matrix is singular."""
        inner = self._within(error[:, :-1])
        last = (error[:, -1] - (self.row * inner).sum(axis=-1)) / self.of_mean
        return np.concatenate([inner - self._within(self.column) * last[:, None], last[:, None]], axis=-1)

    @property
    def attracting(self) -> Mask:
        """Whether widths contract at the given mean, and the mean then falls back when it is moved slowly (B,).

        The block of the widths is similar to the symmetric diag(own) - w w^T, w^2 = left shared.
        """
        return np.asarray((self.own > 0).all(axis=-1) & (self.among > 0) & (self.of_mean > 0))


def _solve(game: _Games, branch: str) -> tuple[Array, Array, Array]:
    """r (B, n), c (B,) and the relative residual (B,) of the wanted branch."""
    rest = game.collapsed_mean()
    excess = 2 * (game.p * game.drive(rest)).sum(axis=-1) - 1  # gamma_c/gamma - 1
    silent = np.asarray(excess <= _CRITICAL)
    r, c, residual = np.zeros(game.g.shape), rest.copy(), np.zeros(len(rest))
    for first in range(0, len(rest), _BATCH):
        rows: Index = np.arange(first, min(first + _BATCH, len(rest)))
        if branch == "collapsed":
            rows = rows[~silent[rows]]
        if not len(rows):
            continue
        candidates_r, candidates_c, error = _candidates(game.take(rows), excess[rows])
        size = np.where(np.isfinite(error), candidates_r.max(axis=-1), np.nan)
        some: Mask = np.asarray(np.isfinite(size).any(axis=-1))
        lost = rows[~some & ~silent[rows]]
        if len(lost):
            raise RuntimeError(f"per-answer game: no solution for {len(lost)} instances, the first {game.g[lost[0]]}")
        pick = np.nanargmax(np.where(some[:, None], size, 0.0), axis=-1)
        if branch == "collapsed":
            pick = np.nanargmin(size, axis=-1)
        index, solved = np.arange(len(rows))[some], rows[some]
        r[solved], c[solved] = candidates_r[index, pick[some]], candidates_c[index, pick[some]]
        residual[solved] = error[index, pick[some]]
    return r, c, residual


def _candidates(game: _Games, excess: Array) -> tuple[Array, Array, Array]:
    """Newton's results r (B, S, n), c (B, S) and residual (B, S) from S starts; NaN where it is no attracting solution."""
    count, answers = game.g.shape
    if game.held:
        r, low = _starts(game, excess)
        many = game.take(np.repeat(np.arange(count), r.shape[1]))
        c: Array = np.zeros(len(many.h))
    else:
        # For each of a range of prior means, the largest and the smallest solution with the mean held there.
        share = np.linspace(0, 1, _STARTS)
        lowest, highest = game.mean_range()
        means = (lowest[:, None] + (highest - lowest)[:, None] * share).ravel()
        held = game.take(np.repeat(np.arange(count), _STARTS))
        held = replace(held, g=held.g - (held.h * means)[:, None], held=True)
        pairs = [_solve(held, branch)[0] for branch in ("leaking", "collapsed")]
        r = np.maximum(np.stack([x.reshape(count, _STARTS, answers) for x in pairs], axis=1), _CRITICAL)
        r, low = r.reshape(count, 2 * _STARTS, answers), np.full(count, _CRITICAL)
        many = game.take(np.repeat(np.arange(count), 2 * _STARTS))
        c = np.tile(means.reshape(count, 1, _STARTS), (1, 2, 1)).ravel()
    shape = r.shape[:2]
    solutions, c, error = _newton(many, r.reshape(-1, answers), c)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        good = np.asarray(error < _TOLERANCE) & many.equations(solutions, c)[1].attracting
    # Close to r = 0 the equations hold to first order whatever r is; a solution there needs a weight just below critical.
    good &= solutions.max(axis=-1) > 0.05 * np.repeat(low, shape[1])
    return solutions.reshape(*shape, answers), c.reshape(shape), np.where(good, error, np.nan).reshape(shape)


def _starts(game: _Games, excess: Array) -> tuple[Array, Array]:
    """Starts r (B, S, n) implied by prior variances from small to large, and the smallest of these (B,); mean held."""
    count, answers = game.g.shape
    bound = game.drive(np.zeros(count)).max(axis=-1)
    top = 4 * (bound + np.sqrt(bound) + 1)
    low = np.clip(0.1 * np.abs(excess), _CRITICAL, 1e-3)
    b = np.exp(np.log(low)[:, None] + np.log(top / low)[:, None] * np.linspace(0, 1, _STARTS))
    b = np.concatenate([b, b], axis=-1)
    begin = np.concatenate([np.zeros((count, _STARTS)), np.tile(top[:, None], (1, _STARTS))], axis=-1).ravel()
    many = game.take(np.repeat(np.arange(count), 2 * _STARTS))
    r = many.implied(b.ravel(), np.zeros(len(begin)), np.repeat(begin[:, None], answers, axis=-1))
    return r.reshape(count, 2 * _STARTS, answers), low


def _newton(game: _Games, r: Array, c: Array) -> tuple[Array, Array, Array]:
    """Newton's method in (log r, c); the last column is the largest relative residual."""
    for _ in range(_NEWTON_STEPS):
        error, jacobian = game.equations(r, c)
        if np.abs(error).max() < 1e-15:
            break
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = jacobian.solve(error)
        step = np.where(np.isfinite(step).all(axis=-1, keepdims=True), step, error)
        r = np.clip(r * np.exp(-np.clip(step[:, :-1], -1.0, 1.0)), 1e-14, 1e14)
        if not game.held:
            c = np.clip(c - step[:, -1], *game.mean_range())
    error, _ = game.equations(r, c)
    return r, c, np.abs(error).max(axis=-1)


def _probabilities(value: ArrayLike, count: int) -> Array:
    p = positive("probabilities", value)
    if p.shape[-1:] != (count,):
        raise ValueError(f"probabilities: expected shape (..., {count}), received {p.shape}")
    if np.abs(p.sum(axis=-1) - 1).max() > 1e-9:
        raise ValueError(f"probabilities: expected sums of 1, received {p.sum(axis=-1)}")
    return p


def _kurtosis(value: float) -> float:
    if not value >= 1.0:
        raise ValueError(f"kurtosis: expected a number of at least 1, received {value}")
    return float(value)
