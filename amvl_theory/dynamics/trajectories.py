"""T7, trajectories: the mean channel under constant and scheduled weights, the spread channel, and single answers.

The state u = (dbar, c) obeys du/dt = J u + b (`stability.py`), from u(0) = 0 unless told otherwise, so

    u(t) = u(0) + Phi(t) (J u(0) + b),      Phi(t) = integral of exp(J s) over s from 0 to t

With a symmetriser W (A or H diagonal) Phi comes from the eigenvalues -r of the symmetric W^1/2 J W^-1/2, as
(1 - exp(-r t)) / r; otherwise from the exponential of the matrix [[J, b], [0, 0]]. Both are exact. Where the weights change
linearly in t no elementary closed form exists (a single mode is already a Weber function): a sixth-order Magnus integrator
(Blanes, Casas and Ros, BIT 40, 2000) halves its step until the states stop changing, and the last change is reported.

Each deviation eps_y = F(t) (g_y - gbar) of the spread channel has the response matrix

    dF/dt = -eta_q [ (H + gamma Lambda_q) F - I ],      C(t) = F G F^T

With unequal answer probabilities the gradient of the objective with respect to delta_y carries p(y):

    d delta_y/dt = -eta_q p(y) [ H delta_y - g_y + gamma Lambda_q (delta_y - c) ]

and d dbar/dt = sum_y p(y) d delta_y/dt has p(y)^2 in it, so that the spread drives dbar and c while they settle; the
equilibrium is the same. Time is learning rate times steps; c and dbar are in latent units.

Source: derived for this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import (
    Array,
    checked_times,
    instance,
    one_of,
    positive_number,
    probabilities,
    real_array,
    vector,
    weight,
)
from amvl_theory.dynamics.propagation import propagate, ramped
from amvl_theory.dynamics.schedules import Schedule, Segment, as_segments
from amvl_theory.dynamics.stability import (
    Stability,
    StationaryCovariance,
    game_matrix,
    stability,
    stationary_covariance,
    symmetriser,
)
from amvl_theory.model import MeanLeakageModel

__all__ = [
    "OrderOutcome",
    "PerAnswerTrajectory",
    "SpreadTrajectory",
    "Stability",
    "StationaryCovariance",
    "Trajectory",
    "compare_orders",
    "scheduled_trajectory",
    "spread_trajectory",
    "stability",
    "stationary_covariance",
    "symmetriser",
    "trajectory",
    "trajectory_per_answer",
]

TRAINING_ORDERS = ("forward-first", "reverse-first", "simultaneous")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The mean channel at given times.

    Attributes:
        times: (T,).
        posterior_shift: dbar (T, d) [latent].
        contamination: c (T, d) [latent].
        error: estimated largest absolute error [latent]; 0 where the solution is exact up to rounding.
    """

    times: Array
    posterior_shift: Array
    contamination: Array
    error: float = 0.0


@dataclass(frozen=True, eq=False)
class SpreadTrajectory:
    """The spread channel at given times.

    Attributes:
        times: (T,).
        response: F (T, d, d), eps_y = F (g_y - gbar) [latent^2/nats].
        spread_cov: C = F G F^T (T, d, d) [latent^2].
    """

    times: Array
    response: Array
    spread_cov: Array


@dataclass(frozen=True, eq=False)
class PerAnswerTrajectory:
    """Every answer's posterior mean at given times.

    Attributes:
        times: (T,).
        posterior_shift: delta_y (T, answers, d) [latent].
        mean_shift: dbar = E_y delta_y (T, d) [latent].
        contamination: c (T, d) [latent].
    """

    times: Array
    posterior_shift: Array
    mean_shift: Array
    contamination: Array


@dataclass(frozen=True, eq=False)
class OrderOutcome:
    """What one order of the schedule does to the size of the contamination |c(t)|.

    Attributes:
        order: name of the order.
        peak: largest |c| on the grid of times [latent].
        final: |c| at the horizon [latent].
        area: integral of |c| over time up to the horizon, by the trapezoid rule on the grid [latent x time].
        trajectory: the trajectory behind them.
    """

    order: str
    peak: float
    final: float
    area: float
    trajectory: Trajectory


def trajectory(
    model: MeanLeakageModel,
    beta: float,
    gamma: float,
    times: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    initial: tuple[ArrayLike, ArrayLike] | None = None,
) -> Trajectory:
    """The exact mean channel under constant weights (T7), for fixed variances.

    Args:
        model: the query.
        beta, gamma: loss weights.
        times: (T,) of at least 0, in any order.
        eta_q, eta_p: rates.
        initial: (dbar, c) at time 0, each a number or (d,); zero if left out.

    Raises:
        ValueError: for negative times, or as `game_matrix`.
    """
    time = checked_times(times)
    matrix, source = game_matrix(model, beta, gamma, eta_q, eta_p)
    start = _initial(model, initial)
    states = propagate(matrix, source, start, time, symmetriser(model, beta, gamma, eta_q, eta_p))
    return Trajectory(time, states[:, : model.size], states[:, model.size :])


def scheduled_trajectory(
    model: MeanLeakageModel,
    schedule: Schedule | Sequence[Segment],
    times: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    initial: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    tolerance: float = 1e-10,
) -> Trajectory:
    """The mean channel under scheduled weights (T7): exact while they are constant, to a stated error while they ramp.

    Args:
        model: the query.
        schedule: a `Schedule`, or segments that follow each other from time 0 on.
        times: (T,) of at least 0, not falling.
        eta_q, eta_p: rates.
        initial: (dbar, c) at time 0; zero if left out.
        tolerance: a ramp's step is halved until the states change by less than this, relative to the largest of them.

    Returns:
        A trajectory whose `error` sums the last changes of all ramps.

    Raises:
        ValueError: for times that fall or lie after the last segment, or a schedule with gaps.
        ArithmeticError: where a ramp does not reach the tolerance.
    """
    time = checked_times(times)
    if (np.diff(time) < 0).any():
        raise ValueError("times: expected times that do not fall, received falling ones")
    segments = as_segments(schedule)
    if time.size and time[-1] > segments[-1].end:
        raise ValueError(f"times: expected at most the schedule's end {segments[-1].end:g}, received {time[-1]:g}")
    tolerance = positive_number("tolerance", tolerance)
    state, error, states = _initial(model, initial), 0.0, np.empty((time.size, 2 * model.size))
    for number, segment in enumerate(segments):
        # A time at a jump of the weights belongs to either segment: the state has no jump.
        chosen = (time >= segment.start) & (time < segment.end)
        if number == len(segments) - 1:
            chosen = time >= segment.start
        ends = [] if np.isinf(segment.end) else [segment.end]
        inside = np.concatenate([time[chosen], ends]) - segment.start
        if not inside.size:
            break
        if segment.constant:
            beta, gamma = segment.beta[0], segment.gamma[0]
            matrix, source = game_matrix(model, beta, gamma, eta_q, eta_p)
            found = propagate(matrix, source, state, inside, symmetriser(model, beta, gamma, eta_q, eta_p))
        else:
            found, change = ramped(model, segment, state, inside, eta_q, eta_p, tolerance)
            error += change
        states[chosen] = found[: int(chosen.sum())]
        state = found[-1]
    return Trajectory(time, states[:, : model.size], states[:, model.size :], error)


def spread_trajectory(
    model: MeanLeakageModel,
    gamma: float,
    times: ArrayLike,
    eta_q: float = 1.0,
    *,
    initial_response: ArrayLike = 0.0,
) -> SpreadTrajectory:
    """The exact spread channel under constant gamma (T4, T7), for one variance shared by all answers.

    F(t) = F(0) + K^-1 (I - exp(-eta_q K t)) (I - K F(0)) with K = H + gamma Lambda_q; beta and the prior do not enter.

    Args:
        model: the query; G is its `force_cov`.
        gamma: weight of the reverse KL.
        times: (T,) of at least 0.
        eta_q: rate of the posterior.
        initial_response: F(0), number, (d,) or (d, d): H^-1 where training had converged without a reverse KL.

    Raises:
        ValueError: for negative times, weights or rates, or an initial response of another shape.
    """
    instance("model", model, MeanLeakageModel)
    time = checked_times(times)
    rate = positive_number("eta_q", eta_q)
    first = real_array("initial_response", initial_response)
    if first.ndim < 2:
        first = np.diag(vector("initial_response", first, model.size))
    if first.shape != (model.size, model.size):
        raise ValueError(f"initial_response: expected shape {(model.size, model.size)}, received {first.shape}")
    curvature = model.H + weight("gamma", gamma) * model.Lambda_q
    values, vectors = np.linalg.eigh(curvature)
    decay = -np.expm1(-rate * values * time[:, None]) / values  # (T, d), rate * Phi in the eigenbasis
    drive = vectors.T @ (np.eye(model.size) - curvature @ first)
    response = first + vectors @ (decay[:, :, None] * drive)
    return SpreadTrajectory(time, response, response @ model.G @ np.swapaxes(response, 1, 2))


def trajectory_per_answer(
    model: MeanLeakageModel,
    forces: ArrayLike,
    answer_probabilities: ArrayLike,
    beta: float,
    gamma: float,
    times: ArrayLike,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    initial: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    rates: str = "probability",
) -> PerAnswerTrajectory:
    """Every answer's exact trajectory under the gradients of the objective, which carry p(y) (T7).

    Args:
        model: the query; its force_mean must be the mean of `forces`, its force_cov is not used.
        forces: g_y (answers, d) [nats/latent].
        answer_probabilities: p(y) (answers,).
        beta, gamma: loss weights.
        times: (T,) of at least 0.
        eta_q, eta_p: rates.
        initial: (delta, c) at time 0, delta (d,) for all answers or (answers, d); zero if left out.
        rates: "probability" gives answer y the rate eta_q p(y), as the true gradient has it; "equal" gives all of them
            eta_q, as if every answer were trained by itself: then the mean channel is exactly `trajectory`.

    Raises:
        ValueError: for shapes that disagree, probabilities that do not sum to 1, forces with another mean.
    """
    instance("model", model, MeanLeakageModel)
    time, size = checked_times(times), model.size
    force = real_array("forces", forces)
    if force.ndim != 2 or force.shape[1] != size:
        raise ValueError(f"forces: expected shape (answers, {size}), received {force.shape}")
    count = len(force)
    chance = probabilities("answer_probabilities", answer_probabilities, count)
    one_of("rates", rates, ("probability", "equal"))
    if not np.allclose(chance @ force, model.g, rtol=1e-9, atol=1e-9 * (1.0 + float(np.abs(force).max()))):
        raise ValueError(f"forces: expected the model's force_mean {model.g} as their mean, received {chance @ force}")
    joint, _ = game_matrix(model, beta, gamma, eta_q, eta_p)
    own = chance if rates == "probability" else np.ones(count)
    matrix = np.zeros(((count + 1) * size, (count + 1) * size))
    for index in range(count):
        rows = slice(index * size, (index + 1) * size)
        matrix[rows, rows] = own[index] * joint[:size, :size]
        matrix[rows, count * size :] = own[index] * joint[:size, size:]
        matrix[count * size :, rows] = chance[index] * joint[size:, :size]
    matrix[count * size :, count * size :] = joint[size:, size:]
    source = np.concatenate([(eta_q * own[:, None] * force).ravel(), np.zeros(size)])
    first = np.zeros((count + 1, size))
    if initial is not None:
        given = real_array("initial", initial[0])
        first[:-1] = given if given.shape == (count, size) else vector("initial", given, size)
        first[-1] = vector("initial", initial[1], size)
    states = propagate(matrix, source, first.ravel(), time, None).reshape(time.size, count + 1, size)
    shift = states[:, :-1]
    return PerAnswerTrajectory(time, shift, np.einsum("y,tyd->td", chance, shift), states[:, -1])


def compare_orders(
    model: MeanLeakageModel,
    beta: float,
    gamma: float,
    horizon: float,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
    initial: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    beta_warmup: float = 0.1,
    gamma_delay: float = 0.2,
    gamma_warmup: float = 0.2,
    points: int = 201,
) -> dict[str, OrderOutcome]:
    """Peak, final and accumulated contamination of forward-first, reverse-first and simultaneous schedules (T7).

    Args:
        model: the query.
        beta, gamma: full weights.
        horizon: length of training, in time units.
        eta_q, eta_p: rates.
        initial: (dbar, c) at time 0; zero if left out.
        beta_warmup, gamma_delay, gamma_warmup: ramps as fractions of the horizon (`schedules.Schedule`).
        points: times on the grid, from 0 to the horizon, at least 2.

    Raises:
        ValueError: as `Schedule` and `scheduled_trajectory`.
    """
    if points < 2:
        raise ValueError(f"points: expected at least 2, received {points}")
    outcomes = {}
    for order in TRAINING_ORDERS:
        schedule = Schedule(beta, gamma, order, horizon, beta_warmup, gamma_delay, gamma_warmup)
        times = np.linspace(0.0, schedule.horizon, points)
        path = scheduled_trajectory(model, schedule, times, eta_q, eta_p, initial)
        size = np.linalg.norm(path.contamination, axis=1)
        area = float(np.sum(0.5 * (size[1:] + size[:-1]) * np.diff(times)))
        outcomes[order] = OrderOutcome(order, float(size.max()), float(size[-1]), area, path)
    return outcomes


def _initial(model: MeanLeakageModel, initial: tuple[ArrayLike, ArrayLike] | None) -> Array:
    instance("model", model, MeanLeakageModel)
    if initial is None:
        return np.zeros(2 * model.size)
    if len(initial) != 2:
        raise ValueError(f"initial: expected (posterior_shift, contamination), received {len(initial)} values")
    return np.concatenate([vector("initial", part, model.size) for part in initial])
