"""What `amvl_theory.game.simulate` does before the first step and beside the steps: weights, starts, chunk sizes, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, not_negative
from amvl_theory.game.game import GameState, GaussianGame, Terms, initial_state
from amvl_theory.game.kernel import Chunk, StepRule

NOISE_BLOCK = 64
"""Instances that share one random stream; results do not depend on how a batch is cut at multiples of it."""

CACHE_BYTES = 3 * 512 * 1024
"""Size of a chunk's buffers, which stay in the second-level cache (1 to 2 MiB a core) for all steps of the chunk."""

WeightSchedule = Callable[[int], tuple[ArrayLike, ArrayLike]]
WeightFunction = Callable[[int], tuple[Array, Array]]


def weight_function(
    beta: ArrayLike | None,
    gamma: ArrayLike | None,
    schedule: WeightSchedule | None,
    steps: int,
    count: int,
    terms: Terms,
) -> WeightFunction:
    """step -> (beta, gamma), each of shape () or (N,), checked; from constants, arrays over steps, or a schedule.

    Raises:
        ValueError: for a weight that the objective uses and nobody gave, or that is negative or of another shape.
    """
    if schedule is not None:
        if beta is not None or gamma is not None:
            raise ValueError("schedule: expected beta and gamma to be left out beside it, received both")
        return _remembered(schedule, count)
    uses = {"beta": terms.forward_on_prior, "gamma": terms.reverse_on_posterior}
    tables = {}
    for name, value in (("beta", beta), ("gamma", gamma)):
        if value is None:
            if uses[name]:
                raise ValueError(f"{name}: expected a weight, as this objective has one, received None")
            value = 0.0
        array = not_negative(name, value)
        if array.ndim == 2 and (array.shape[0] != steps or array.shape[1] not in (1, count)):
            raise ValueError(f"{name}: expected shape ({steps}, 1 or {count}), received {array.shape}")
        tables[name] = array if array.ndim == 2 else _one_weight(name, array, count)
    table_b, table_g = tables["beta"], tables["gamma"]

    def weights(step: int) -> tuple[Array, Array]:
        return _row(table_b, step), _row(table_g, step)

    return weights


def _row(table: Array, step: int) -> Array:
    if table.ndim < 2:
        return table
    return np.asarray(table[step, 0]) if table.shape[1] == 1 else table[step]


def _remembered(schedule: WeightSchedule, count: int) -> WeightFunction:
    """The schedule's weights, checked once per step although every chunk asks for them."""
    by_step: dict[int, tuple[Array, Array]] = {}

    def weights(step: int) -> tuple[Array, Array]:
        if step not in by_step:
            beta, gamma = schedule(step)
            by_step[step] = _one_weight("beta", beta, count), _one_weight("gamma", gamma, count)
        return by_step[step]

    return weights


def _one_weight(name: str, value: ArrayLike, count: int) -> Array:
    array = not_negative(name, value)
    if array.shape not in ((), (count,)):
        raise ValueError(f"{name}: expected a number or shape ({count},), received shape {array.shape}")
    return array


def checked_start(game: GaussianGame, initial: GameState | None) -> GameState:
    """The given start, or `initial_state(game)`; ValueError for other shapes or numbers that are not finite."""
    expected = initial_state(game)
    if initial is None:
        return expected
    for name in expected.__dataclass_fields__:
        array, shape = getattr(initial, name), getattr(expected, name).shape
        if np.shape(array) != shape or not np.isfinite(array).all():
            raise ValueError(
                f"initial.{name}: expected finite numbers of shape {shape}, received shape {np.shape(array)}"
            )
    return initial


def check_counts(**counts: int) -> None:
    """ValueError for a count that is not a whole number of at least 1."""
    for name, count in counts.items():
        if int(count) != count or count < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, received {count}")


def chunk_length(game: GaussianGame, chunk: int | None, noisy: bool, shared: bool) -> int:
    """Instances per chunk: what the caller wants, or what fits `CACHE_BYTES`; with noise a multiple of `NOISE_BLOCK`.

    ``shared``: for the kernel of `amvl_theory.game.shared_kernel`, which has fewer buffers.
    """
    if chunk is None:
        _, answers, size = game.shape
        rows = 1 if game.shared_variance else answers
        numbers = size * (3 * answers + 15 if shared else 5 * answers + 6 * rows + 11)
        numbers += sum(size * size for matrices in (game.H, game.A) if matrices.ndim == 3 and matrices.shape[0] > 1)
        numbers *= 2 if noisy else 1
        chunk = max(CACHE_BYTES // (8 * numbers) // NOISE_BLOCK, 1) * NOISE_BLOCK
    check_counts(chunk=chunk)
    return -(-chunk // NOISE_BLOCK) * NOISE_BLOCK if noisy else chunk


def trap_variance(game: GaussianGame, rule: StepRule, gamma: Array) -> Array:
    """eta gamma / (2 - eta h) (N,), with the step that the most likely answer really makes and the largest H_ii."""
    count = game.shape[0]
    if rule.scaled or not rule.terms.reverse_on_posterior:
        return np.zeros(count)
    eta = rule.eta_q * (np.ones(1) if rule.per_answer else game.p.max(1))
    h = game.H if game.H.ndim == 2 else np.diagonal(game.H, axis1=1, axis2=2)
    room = 2.0 - eta * h.max(1) * rule.terms.ntp
    safe = np.where(room > 0, room, 1.0)
    return np.broadcast_to(np.where(room > 0, eta * gamma / safe, np.inf), (count,)).copy()


class GradientNoise:
    """Standard normal noise for a chunk, one stream per block of instances, scaled and added to the state."""

    def __init__(self, chunk: Chunk, noise: tuple[float, float], streams: Sequence[np.random.Generator]) -> None:
        self.streams = streams
        self.players = [
            (chunk.trained("posterior"), chunk.rule.eta_q * noise[0]),
            (chunk.trained("prior"), chunk.rule.eta_p * noise[1]),
        ]
        self.count = chunk.delta.shape[-1]
        rows = [sum(array.size for array in arrays) // self.count for arrays, _ in self.players]
        self.raw = [np.empty((len(streams), number, NOISE_BLOCK)) for number in rows]
        self.sorted = [np.empty((number, len(streams), NOISE_BLOCK)) for number in rows]

    def add(self, player: int) -> None:
        """Move the posterior (0) or the prior (1) by -eta * noise * xi."""
        arrays, scale = self.players[player]
        if scale == 0:
            return
        raw, ordered = self.raw[player], self.sorted[player]
        for block, stream in enumerate(self.streams):
            stream.standard_normal(out=raw[block])
        np.multiply(raw.transpose(1, 0, 2), scale, out=ordered)
        flat = ordered.reshape(ordered.shape[0], -1)[:, : self.count]
        first = 0
        for array in arrays:
            rows = array.size // self.count
            array -= flat[first : first + rows].reshape(array.shape)
            first += rows
