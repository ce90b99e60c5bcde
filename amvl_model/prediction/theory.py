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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amvl_model.prediction.reference import Reference

Array = NDArray[np.float64]

SWEEPS = 2000
TOLERANCE = 1e-6
"""Relative change of the widths in one sweep at which the iteration ends."""
RUNAWAY = 1e12
"""Variance, in units of the prior's, beyond which a posterior is taken to have no rest point."""
SILENT = 1e-12
"""h V of a mode, relative to the question's largest, below which a mode of `moving_prior` counts as silent."""
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
    floor = 1e-9 * max(float(values[-1]), np.finfo(float).tiny)
    along = np.where(stiff > floor, along / np.maximum(stiff, floor), 0.0)
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
    variance = np.ones_like(forces)
    for _ in range(SWEEPS):
        shifts = _solve(h, gamma / variance, forces)
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
    diagonal = np.diagonal(curvature)
    size = forces.shape[1]
    alive = diagonal > 1e-14 * max(float(diagonal.max()), np.finfo(float).tiny)
    variance, spread = np.ones(size), np.zeros(size)
    shifts, best = np.zeros_like(centred), np.inf
    for sweep in range(SWEEPS):
        kept = np.flatnonzero(alive)
        if not len(kept):
            break
        h = curvature[np.ix_(kept, kept)]
        shifts = np.zeros_like(centred)
        shifts[:, kept] = _solve(h[None], gamma / variance[None, kept], centred[:, kept], shared=True)
        spread = weights @ shifts**2
        variance[kept] = np.maximum(np.sqrt(2 * gamma * spread[kept] / diagonal[kept]), 1e-300)
        alive &= spread * diagonal > SILENT * max(float((spread * diagonal).max()), np.finfo(float).tiny)
        if sweep % CHECK == CHECK - 1:
            inside = shifts[:, kept]
            value = float(weights @ (0.5 * ((inside @ h) * inside).sum(1) - (centred[:, kept] * inside).sum(1)))
            value += float(np.sqrt(gamma * diagonal[kept] / 2 * spread[kept]).sum())
            if best - value < LASSO_TOLERANCE * abs(value):
                break
            best = value
    else:
        raise NoRestPointError(
            f"no rest point of the moving prior at gamma = {gamma}: the lasso falls on after {SWEEPS} sweeps"
        )
    prior = np.where(alive, variance + spread, 1.0)
    moved = np.where(alive, shifts / np.sqrt(prior), 0.0)
    widths = np.where(alive, np.sqrt(variance / prior), 1.0)
    return Posteriors(shifts=moved, widths=np.broadcast_to(widths, moved.shape).copy())


def _positive(gamma: float) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma must be above 0, got {gamma}: without it widths contract for ever")


def _solve(curvature: Array, pull: Array, forces: Array, *, shared: bool = False) -> Array:
    """(H + diag(pull))^-1 g for every answer (O, D), symmetric scaling first so that pulls of any size do no harm."""
    root = pull**-0.5
    scaled = root[..., :, None] * curvature * root[..., None, :] + np.eye(curvature.shape[-1])
    if shared:
        return np.linalg.solve(scaled[0], (forces * root[0]).T).T * root[0]
    return np.linalg.solve(scaled, (forces * root)[..., None])[..., 0] * root


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
