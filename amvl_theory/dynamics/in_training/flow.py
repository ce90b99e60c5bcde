"""Integration of a flow whose loss weights are given on a time grid and change linearly between its points.

Times are in optimiser steps, rates per step: a gradient flow that the steps follow as long as rates stay far below 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from amvl_theory.checks import Array, not_negative

Velocity = Callable[[Array, Array], Array]
"""(state, weights) -> time derivative of the state."""

EVALUATIONS = 100_000
"""Most evaluations of a velocity between two kinks of its weights; flows with rates far below 1 need a tenth of it."""


def grid(times: ArrayLike) -> Array:
    """(T,) times of at least 0 that rise strictly [steps]; ValueError otherwise."""
    values = not_negative("times", times)
    if values.ndim != 1 or values.size == 0 or (np.diff(values) <= 0).any():
        raise ValueError(f"times: expected shape (times,) with values that rise strictly, received {np.shape(times)}")
    return values


def on_grid(name: str, value: ArrayLike, times: Array) -> Array:
    """A loss weight at `times`: (T,) from a number or from (T,) values of at least 0; ValueError otherwise."""
    values = not_negative(name, value)
    if values.shape not in ((), times.shape):
        raise ValueError(f"{name}: expected a number or shape {times.shape}, received shape {values.shape}")
    return np.broadcast_to(values, times.shape)


@np.errstate(all="ignore")  # a flow without bound is refused
def integrate(
    velocity: Velocity, start: ArrayLike, times: Array, weights: Array, *, rtol: float = 1e-9, atol: float = 1e-12
) -> Array:
    """States (T, n) at `times` from `start` at time 0; `weights` (k, T) are linear between times, constant before the first.

    The integration (LSODA) restarts at every kink of a weight, so that no step runs across one.

    Raises:
        ValueError: if the integration fails, grows without bound or takes more than `EVALUATIONS`.
    """
    bends = np.zeros(times.size, dtype=bool)
    if times.size > 2:
        slopes = np.diff(weights, axis=1) / np.diff(times)
        bends[1:-1] = np.any(np.abs(np.diff(slopes, axis=1)) > 1e-12 * np.abs(slopes).max(initial=1e-300), axis=0)
    bends[0], bends[-1] = times[0] > 0, True
    taken = itertools.count()

    def moving(t: float, y: Array) -> Array:
        speed = velocity(y, np.array([np.interp(t, times, row) for row in weights]))
        if next(taken) > EVALUATIONS or not np.isfinite(speed).all():
            raise ValueError(
                "times: expected a flow that can be integrated, received one that is without bound or too fast at time "
                f"{t:g}; are all rates times their weights far below 1?"
            )
        return speed

    state, at = np.asarray(start, dtype=np.float64), 0.0
    states = np.empty((times.size, state.size))
    if times[0] == 0:
        states[0] = state
    for knot in times[bends]:
        inside = (times > at) & (times <= knot)
        if not inside.any():
            continue
        taken = itertools.count()
        found = solve_ivp(moving, (at, knot), state, method="LSODA", t_eval=times[inside], rtol=rtol, atol=atol)
        if not found.success:
            raise ValueError(f"times: expected a flow that can be integrated, received: {found.message}")
        states[inside] = found.y.T
        state, at = found.y[:, -1], float(knot)
    return states
