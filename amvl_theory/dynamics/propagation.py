"""Linear flows du/dt = J(t) u + b: exact for constant J, by a Magnus integrator with a stated error for J linear in t.

    constant   u(t) = u(0) + Phi(t) (J u(0) + b),   Phi(t) = integral of exp(J s) ds; in the eigenbasis (1 - exp(-r t)) / r
    linear     u(t + h) = exp(Omega) u(t), Omega = a + [c - 20 a, b + d] / 240, with a = h J(t + h/2), b = h^2 dJ/dt,
               c = [a, b], d = -[a, c] / 60, for the matrix [[J, b], [0, 0]]; of sixth order

Source: Blanes, Casas and Ros, Improved high order integrators based on the Magnus expansion, BIT 40 (2000).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from amvl_theory.checks import Array
from amvl_theory.dynamics.schedules import Segment
from amvl_theory.dynamics.stability import game_matrix, symmetrised_game
from amvl_theory.model import MeanLeakageModel

MAX_CONDITION = 1e6
"""Condition number of a symmetriser above which the matrix exponential is preferred to the eigenbasis."""
MAX_HALVINGS = 12
"""Times that the step of the Magnus integrator is halved before it gives up."""


def propagate(matrix: Array, source: Array, start: Array, times: Array, weighting: Array | None) -> Array:
    """States (T, m) of du/dt = J u + b from `start`, exactly.

    Args:
        matrix: J (m, m).
        source: b (m,).
        start: u(0) (m,).
        times: (T,), of at least 0.
        weighting: a symmetriser of J, if one is known.
    """
    velocity = matrix @ start + source
    if weighting is not None and np.linalg.cond(weighting) < MAX_CONDITION:
        flat, root, inverse = symmetrised_game(matrix, weighting)
        values, vectors = np.linalg.eigh(0.5 * (flat + flat.T))
        rates = np.where(values == 0, 1.0, values)
        grown = np.where(values == 0, times[:, None], np.expm1(rates * times[:, None]) / rates)
        return start + (grown * (vectors.T @ root @ velocity)) @ (inverse @ vectors).T
    count = len(source)
    augmented = np.zeros((count + 1, count + 1))
    augmented[:count, :count], augmented[:count, count] = matrix, velocity
    unique, index = np.unique(times, return_inverse=True)
    return start + expm(unique[:, None, None] * augmented)[index, :count, count]


def ramped(
    model: MeanLeakageModel,
    segment: Segment,
    start: Array,
    times: Array,
    eta_q: float,
    eta_p: float,
    tolerance: float,
) -> tuple[Array, float]:
    """States at `times` after the start of a segment on which a weight ramps, and the last change of the halving.

    Args:
        model: the query.
        segment: weights linear in time.
        start: (dbar, c) at the segment's start (2 d,).
        times: (T,), counted from the segment's start.
        eta_q, eta_p: rates.
        tolerance: of the change, relative to the largest state.

    Raises:
        ArithmeticError: where the tolerance is not reached.
    """
    ends = [game_matrix(model, segment.beta[i], segment.gamma[i], eta_q, eta_p) for i in (0, 1)]
    count, length = len(start), segment.end - segment.start
    first, slope = np.zeros((count + 1, count + 1)), np.zeros((count + 1, count + 1))
    first[:count, :count], first[:count, count] = ends[0]
    slope[:count, :count] = (ends[1][0] - ends[0][0]) / length
    knots, index = np.unique(np.concatenate([[0.0], times]), return_inverse=True)
    longest = min(length / 8.0, 1.0 / max(np.linalg.norm(ends[i][0], 2) for i in (0, 1)))
    steps = np.maximum(1, np.ceil(np.diff(knots) / longest)).astype(np.int_)
    last = _magnus(first, slope, start, knots, steps)
    for _ in range(MAX_HALVINGS):
        steps = 2 * steps
        found = _magnus(first, slope, start, knots, steps)
        change, scale = float(np.abs(found - last).max()), float(np.abs(found).max())
        if change <= tolerance * scale or scale == 0:
            return found[index[1:]], change
        last = found
    raise ArithmeticError(
        f"the ramp from {segment.start:g} to {segment.end:g} still changes by {change:.3g} after {steps.sum()} steps"
    )


def _magnus(first: Array, slope: Array, start: Array, knots: Array, steps: NDArray[np.int_]) -> Array:
    """States at `knots` of du/dt = (first + t slope) (u, 1), by steps[i] sixth-order Magnus steps in interval i."""
    lengths = np.repeat(np.diff(knots) / steps, steps)
    middles = np.repeat(knots[:-1], steps) + lengths * np.concatenate([np.arange(count) + 0.5 for count in steps])
    size = lengths[:, None, None]
    a = size * (first + middles[:, None, None] * slope)
    b = size**2 * slope
    c = a @ b - b @ a
    d = (a @ c - c @ a) / -60.0
    left, right = c - 20.0 * a, b + d
    omega = a + (left @ right - right @ left) / 240.0
    factors = expm(omega)
    state, states, position = np.append(start, 1.0), [start], 0
    for count in steps:
        for _ in range(count):
            state = factors[position] @ state
            position += 1
        states.append(state[:-1])
    return np.array(states)
