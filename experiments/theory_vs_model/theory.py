"""What the linear theory predicts for the posteriors at another gamma, from one checkpoint's measurements; nothing is fitted.

Whitened coordinates w (prior N(0, I), D dimensions); forces g_a (O, D), curvature H (D, D), answer weights p_a. At rest a
posterior N(delta_a, diag(s_a^2)) of a quadratic answer loss obeys, for each answer,

    mean     (H + gamma diag(1/s_a^2)) delta_a = g_a + gamma diag(1/s_a^2) c
    width    H_ii s_ai^4 + gamma s_ai^2 = gamma (sigma_i^2 + (delta_ai - c_i)^2)         sigma_i, c_i: the prior's

    measured_precision   T4: widths as measured at the reference, 1/s^2 = mean over the options; prior held at c = 0
    held_prior           T6 before the prior follows: widths solve their equation, sigma = 1, c = 0 (what a posterior does on
                         a frozen checkpoint)
    moving_prior         T6: the prior follows by moment matching, c = sum_a p_a delta_a,
                         sigma^2 = s^2 + sum_a p_a (delta_a - c)^2, s shared by the answers:
                         s_i^2 = sqrt(2 gamma V_i / H_ii), V_i = sum_a p_a (delta_ai - c_i)^2. The forces are then those
                         about their mean, and the shifts minimise T6's group lasso.

A posterior head answers for all questions at once. If it can only add a displacement that depends on the answer's letter
(and the task), w_a = u_a + s_a eps for every question, then averaging the loss over the questions that show letter a gives
the same equations with

    letter force   gbar_a = sum_x p(a|x) g(x,a) / sum_x p(a|x)        letter curvature   Hbar_a likewise

taken from one half of the questions and used on the other (`letter_averages`).

Solved by alternating the two equations, each of which is exact given the other: descent of a function (for moving_prior the
reweighted form of the group lasso), so the iteration cannot diverge.

Numbers. A dead decoder has H = 1e-20 against forces of 10, and scaling a latent by t scales forces by t and H by t^2, so the
means are computed in units in which the curvature has the diagonal 1, and from a factor of it (`_Response`). Of a
curvature, eigenvalues are told from rounding down to `CURVATURE` of the largest, of a force parts down to `FORCE`; a part of the
force above that size with no curvature above that size against it has a rest point only where the KL stops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.theory_vs_model.reference import Reference

Array = NDArray[np.float64]

SWEEPS = 2000
TOLERANCE = 1e-6
"""Relative change of the widths in one sweep at which the iteration ends."""
RUNAWAY = 1e12
"""Variance, in units of the prior's, beyond which a posterior is taken to have no rest point."""
SILENT = 1e-12
"""h V of a mode, relative to the question's largest, below which a mode of `moving_prior` counts as silent."""
CURVATURE, FORCE = 1e-10, 1e-5
"""Least eigenvalue of H, with its diagonal scaled to 1, and least part of a force, both relative to the largest, that can be told
from rounding: float32 gradients are good to 1e-5, and the curvature has their square."""
FLAT = 1e-14
"""Curvature of a mode, relative to the largest, below which it counts as none: forces of 1e-7, where float32 ends."""
CHECK, LASSO_TOLERANCE = 20, 1e-4
"""Sweeps between two looks at the lasso's value, and its relative fall between them at which the iteration ends."""


class NoRestPointError(ValueError):
    """The quadratic theory has no equilibrium, or none that could be found: forces where there is next to no curvature."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Posteriors:
    """Predicted or measured posteriors of one question in a prior's whitened coordinates.

    Attributes:
        shifts: (O, D) means minus prior mean [prior std]. widths: (O, D) standard deviations over the prior's.
    """

    shifts: Array
    widths: Array

    @property
    def spread(self) -> float:
        """Root mean squared distance of the options' means from their mean [prior std]."""
        return float(np.sqrt(np.sum((self.shifts - self.shifts.mean(0)) ** 2, axis=1).mean()))


def measured_precision(forces: Array, curvature: Array, widths: Array, gamma: float) -> Posteriors:
    """T4 (and T2): shifts at a fixed, shared precision.

    Args:
        forces: (O, D). curvature: (D, D). widths: (O, D), measured. gamma: at least 0; at 0 the directions that the answer
            does not read stay at 0.

    Raises:
        ValueError: for a negative gamma.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    precision = np.mean(widths**-2.0, axis=0)
    root = precision**-0.5  # in units of the posterior the pull is gamma times the identity
    values, vectors = np.linalg.eigh(root[:, None] * curvature * root)
    along = (forces * root) @ vectors
    stiff = np.maximum(values, 0.0) + gamma
    read = np.broadcast_to(stiff > CURVATURE * max(float(values[-1]), 0.0), along.shape)
    along = np.divide(along, stiff, out=np.zeros_like(along), where=read)
    shifts = (along @ vectors.T) * root
    return Posteriors(shifts=shifts, widths=np.broadcast_to(root, shifts.shape).copy())


def held_prior(forces: Array, curvature: Array, gamma: float) -> Posteriors:
    """T6 with the prior held: every answer's mean and widths at rest before the prior N(0, I).

    Args:
        forces: (O, D). curvature: (D, D), or (O, D, D) if answers differ in it. gamma: above 0.

    Raises:
        ValueError: for a gamma that is not above 0. NoRestPointError: if the iteration runs away or does not settle: where a
            force has no curvature against it, wider and further is always better.
    """
    _positive(gamma)
    h = np.broadcast_to(curvature, (len(forces), *np.shape(curvature)[-2:]))
    diagonal = np.maximum(np.diagonal(h, axis1=1, axis2=2), 0.0)
    response = _Response(h, forces[:, None])
    variance = np.ones_like(forces)
    for _ in range(SWEEPS):
        shifts = response.shifts(gamma / variance)[:, 0]
        pull = gamma * (1 + shifts**2)
        new = 2 * pull / (gamma + np.sqrt(gamma**2 + 4 * diagonal * pull))  # root of h s^4 + gamma s^2 = pull
        change = np.abs(np.log(new / variance)).max()
        variance = new
        if change < TOLERANCE:
            return Posteriors(shifts=shifts, widths=np.sqrt(variance))
        if variance.max() > RUNAWAY:
            break
    raise NoRestPointError(
        f"no rest point with the prior held at gamma = {gamma}: the largest posterior variance is {variance.max():.2g} of "
        f"the prior's and widths still change by {change:.2g} a sweep"
    )


def moving_prior(forces: Array, curvature: Array, weights: Array, gamma: float) -> Posteriors:
    """T6 with the prior that follows: the group lasso in the coordinates in which the posterior is diagonal.

    Silent modes, which contract onto the prior, are given the shift 0 and the width 1 (they say nothing). All is in units of the
    prior that has followed: means minus prior mean over its standard deviations.

    Args:
        forces: (O, D). curvature: (D, D), positive diagonal where a force acts. weights: (O,) answer probabilities.
        gamma: above 0.

    Raises:
        ValueError: for a gamma that is not above 0. NoRestPointError: if the iteration does not settle.
    """
    _positive(gamma)
    centred = forces - weights @ forces
    diagonal = np.maximum(np.diagonal(curvature), 0.0)
    curved = diagonal > max(FLAT * float(diagonal.max()), float(np.finfo(float).tiny))
    strengths = np.abs(centred).max(0)
    if (strengths[~curved] > FORCE * strengths.max()).any():
        raise NoRestPointError(
            f"no rest point of the moving prior at gamma = {gamma}: a force without curvature against it"
        )
    kept = np.flatnonzero(curved)
    # Every mode starts with the variance that the strongest would have alone, which has no unit. From the prior's width, at
    # curvatures far below 1, strong modes outgrow the others by more than SILENT before they come to rest.
    strongest = np.sqrt(float((weights @ centred[:, kept] ** 2 / diagonal[kept]).max(initial=0.0)))
    variance, spread = np.ones(forces.shape[1]), np.zeros(forces.shape[1])
    variance[kept] = np.maximum(np.sqrt(2 * gamma) * strongest / diagonal[kept], 1e-300)
    shifts, best, response = np.zeros_like(centred), np.inf, None
    for sweep in range(SWEEPS):
        if not len(kept):
            break
        h = curvature[np.ix_(kept, kept)]
        response = response or _Response(h[None], centred[None][..., kept])
        shifts = np.zeros_like(centred)
        shifts[:, kept] = response.shifts(gamma / variance[None, kept])[0]
        if not np.abs(shifts * np.sqrt(diagonal)).max() <= RUNAWAY * response.size:
            raise NoRestPointError(f"no rest point of the moving prior at gamma = {gamma}: the lasso falls without end")
        spread = weights @ shifts**2
        variance[kept] = np.maximum(np.sqrt(2 * gamma * spread[kept] / diagonal[kept]), 1e-300)
        leaking = (spread * diagonal)[kept] > SILENT * float((spread * diagonal).max())
        if sweep % CHECK == CHECK - 1:
            inside = shifts[:, kept]
            value = float(weights @ (0.5 * ((inside @ h) * inside).sum(1) - (centred[:, kept] * inside).sum(1)))
            value += float(np.sqrt(gamma * diagonal[kept] / 2 * spread[kept]).sum())
            if best - value < LASSO_TOLERANCE * abs(value):
                kept = kept[leaking]
                break
            best = value
        if not leaking.all():
            kept, response = kept[leaking], None
    else:
        raise NoRestPointError(
            f"no rest point of the moving prior at gamma = {gamma}: the lasso falls on after {SWEEPS} sweeps"
        )
    alive = np.isin(np.arange(forces.shape[1]), kept)
    prior = np.where(alive, variance + spread, 1.0)
    moved = np.where(alive, shifts / np.sqrt(prior), 0.0)
    widths = np.where(alive, np.sqrt(variance / prior), 1.0)
    return Posteriors(shifts=moved, widths=np.broadcast_to(widths, moved.shape).copy())


def _positive(gamma: float) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma must be above 0, got {gamma}: without it widths contract for ever")


class _Response:
    """(H + diag(pull))^-1 g for several curvatures H (B, D, D), each with its forces g (B, n, D), and any pulls.

    With d_i = sqrt(H_ii), H = d C d, C = L L^T and g = d (L c + r), r outside the range of L, the answer is

        R (K x + R d r)      (I + K^T K) x = c - K^T R d r      K = R d L      R = diag(pull)^-1/2

    where the unit matrix meets K in the dimensions of L only: nothing is lost where the curvature exceeds the pull by more than
    the 16 digits of a number. I + K^T K is U^T U, the triangle of the least-squares matrix (K, I), whose diagonal is at least 1.

    Attributes:
        size: largest |g_i| / d_i of the modes with curvature [nats^1/2].
    """

    def __init__(self, curvature: Array, forces: Array) -> None:
        diagonal = np.maximum(np.diagonal(curvature, axis1=1, axis2=2), 0.0)
        curved = diagonal > np.maximum(FLAT * diagonal.max(1, keepdims=True), np.finfo(float).tiny)
        scale = np.sqrt(np.where(curved, diagonal, 1.0))
        both = curved[:, :, None] & curved[:, None, :]
        values, vectors = np.linalg.eigh(np.where(both, curvature / scale[:, :, None] / scale[:, None, :], 0.0))
        kept = values > CURVATURE * np.maximum(values[:, -1:], 0.0)
        first = int(np.argmax(kept.any(0))) if kept.any() else kept.shape[1]  # eigenvalues rise: the others are cut off
        kept, vectors = kept[:, first:], np.where(curved[:, :, None], vectors[:, :, first:], 0.0)
        roots = np.sqrt(np.where(kept, values[:, first:], 0.0))[:, None]
        scaled = forces / scale[:, None]
        inside = np.where(curved[:, None], scaled, 0.0)
        along = (scaled @ vectors) * kept[:, None]
        outside = scaled - along @ vectors.swapaxes(1, 2)
        rest = np.linalg.norm(np.where(curved[:, None], outside, 0.0), axis=2, keepdims=True)
        resolved = (rest > FORCE * np.linalg.norm(inside, axis=2, keepdims=True)) | ~curved[:, None]
        self.size = float(np.abs(inside).max(initial=0.0))
        self._factor = scale[:, :, None] * vectors * roots  # d L
        self._along = along / np.where(roots > 0, roots, 1.0)  # c
        self._outside = np.where(resolved, outside, 0.0) * scale[:, None]  # d r

    def shifts(self, pull: Array) -> Array:
        """(B, n, D) for pulls (B, D), above 0."""
        root = pull[:, None] ** -0.5
        factor, outside = root.swapaxes(1, 2) * self._factor, root * self._outside
        unit = np.broadcast_to(np.eye(factor.shape[2]), (len(factor), factor.shape[2], factor.shape[2]))
        triangle = np.asarray(np.linalg.qr(np.concatenate([factor, unit], axis=1), mode="r"))
        right = (self._along - outside @ factor).swapaxes(1, 2)
        x = np.linalg.solve(triangle, np.linalg.solve(triangle.swapaxes(1, 2), right))
        return root * (x.swapaxes(1, 2) @ factor.swapaxes(1, 2) + outside)


@dataclass(frozen=True, kw_only=True, eq=False)
class LetterAverage:
    """What the questions of one group have in common, letter by letter.

    Attributes:
        forces: gbar (O, D) [nats/prior std]. curvatures: Hbar (O, D, D). weights: share of each letter (O,).
    """

    forces: Array
    curvatures: Array
    weights: Array


def letter_averages(references: Sequence[Reference], *, by_task: bool = True) -> dict[str, LetterAverage]:
    """Averages with weights p(a|x), for each task or ("" as the only key) for all together.

    Raises:
        ValueError: for no questions.
    """
    if not references:
        raise ValueError("expected at least one question to average over, got none")
    groups: dict[str, list[Reference]] = {}
    for each in references:
        groups.setdefault(each.task if by_task else "", []).append(each)
    return {name: _average(members) for name, members in groups.items()}


def _average(members: Sequence[Reference]) -> LetterAverage:
    options, size = max(each.options for each in members), members[0].forces.shape[1]
    forces, curvatures, total = np.zeros((options, size)), np.zeros((options, size, size)), np.zeros(options)
    for each in members:
        n, p = each.options, each.known_probs
        forces[:n] += p[:, None] * each.forces
        curvatures[:n] += p[:, None, None] * each.curvature
        total[:n] += p
    total_or_one = np.where(total > 0, total, 1.0)
    return LetterAverage(
        forces=forces / total_or_one[:, None],
        curvatures=curvatures / total_or_one[:, None, None],
        weights=total / total.sum(),
    )


def halves(count: int, seed: int) -> NDArray[np.int64]:
    """(n,) 0 or 1 in equal numbers, at random."""
    return np.random.default_rng(seed).permutation(count) % 2
