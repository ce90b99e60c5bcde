"""Schedules of the two loss weights, beta(t) and gamma(t), in the vocabulary of `amvl_model`'s objective settings.

With T the horizon (the length of training), a weight w rises as

    w(t) = 0                                  for t < start
         = w (t - start) / (end - start)      for start <= t < end
         = w                                  from end on

and the order says which of the two weights rises first:

    first ramp    from 0 to beta_warmup T
    second ramp   from gamma_delay T to (gamma_delay + gamma_warmup) T

    forward-first   beta takes the first ramp, gamma the second        (the paper's order)
    reverse-first   gamma takes the first ramp, beta the second
    simultaneous    both take the first ramp
    constant        both have their full value from t = 0

Time t is learning rate times optimiser steps, the time of the gradient flow. After the horizon both weights keep their
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, check_fields, not_negative, one_of, positive_number, real_array, scalar, weight

ORDERS: tuple[str, ...] = ("forward-first", "reverse-first", "simultaneous", "constant")


@dataclass(frozen=True)
class Ramp:
    """One weight's rise: 0 before `start`, linear, `full` from `end` on; a jump where start = end.

    Attributes:
        full: the weight after the rise.
        start: time at which the rise begins.
        end: time at which it is over.

    Raises:
        ValueError: for a negative weight or time, or an end before the start.
    """

    full: float
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, weight, "full", "start")
        check_fields(self, scalar, "end")
        if self.end < self.start:
            raise ValueError(f"end: expected a time of at least the ramp's start {self.start:g}, received {self.end:g}")

    def __call__(self, times: ArrayLike) -> Array:
        """w(t) at `times`, of the same shape."""
        time = real_array("times", times)
        if self.end == self.start:
            return np.where(time < self.start, 0.0, self.full)
        return self.full * np.clip((time - self.start) / (self.end - self.start), 0.0, 1.0)


@dataclass(frozen=True)
class Segment:
    """A stretch of time on which both weights are linear in t.

    Attributes:
        start, end: times, start < end; the last segment may end at infinity, with constant weights.
        beta: (beta at start, beta at end).
        gamma: (gamma at start, gamma at end).

    Raises:
        ValueError: for a segment that ends before it starts, a negative weight, or a ramp without an end.
    """

    start: float
    end: float
    beta: tuple[float, float]
    gamma: tuple[float, float]

    def __post_init__(self) -> None:
        weight("start", self.start)
        if np.isnan(self.end) or self.end <= self.start:
            raise ValueError(f"end: expected a time after the segment's start {self.start:g}, received {self.end:g}")
        for name in ("beta", "gamma"):
            values = not_negative(name, getattr(self, name))
            if values.shape != (2,):
                raise ValueError(f"{name}: expected its values at start and end, received shape {values.shape}")
        if np.isinf(self.end) and not self.constant:
            raise ValueError("end: expected a finite time where a weight changes, received infinity")

    @property
    def constant(self) -> bool:
        """Whether neither weight changes."""
        return self.beta[0] == self.beta[1] and self.gamma[0] == self.gamma[1]


@dataclass(frozen=True)
class Schedule:
    """beta(t) and gamma(t) of one of the four orders; the module's equations.

    Attributes:
        beta: full weight of the forward KL, at least 0.
        gamma: full weight of the reverse KL, at least 0.
        order: "forward-first", "reverse-first", "simultaneous" or "constant".
        horizon: T, the length of training, above 0.
        beta_warmup: length of the first ramp, fraction of the horizon.
        gamma_delay: start of the second ramp, fraction of the horizon.
        gamma_warmup: length of the second ramp, fraction of the horizon.

    Raises:
        ValueError: naming the field: an unknown order, a fraction outside [0, 1], a second ramp that ends after training.
    """

    beta: float
    gamma: float
    order: str = "constant"
    horizon: float = 1.0
    beta_warmup: float = 0.1
    gamma_delay: float = 0.2
    gamma_warmup: float = 0.2

    def __post_init__(self) -> None:
        one_of("order", self.order, ORDERS)
        check_fields(self, weight, "beta", "gamma")
        check_fields(self, positive_number, "horizon")
        for name in ("beta_warmup", "gamma_delay", "gamma_warmup"):
            fraction = weight(name, getattr(self, name))
            if fraction > 1:
                raise ValueError(f"{name}: expected a fraction of the horizon, 0 to 1, received {fraction:g}")
            object.__setattr__(self, name, fraction)
        if self.gamma_delay + self.gamma_warmup > 1 + 1e-9:
            raise ValueError(
                f"gamma_warmup: expected at most {1 - self.gamma_delay:g} beside gamma_delay {self.gamma_delay:g} (training "
                f"would end before the second weight has its full value), received {self.gamma_warmup:g}"
            )

    @property
    def beta_ramp(self) -> Ramp:
        """The rise of beta, in time units."""
        return self._ramp(self.beta, second=self.order == "reverse-first")

    @property
    def gamma_ramp(self) -> Ramp:
        """The rise of gamma, in time units."""
        return self._ramp(self.gamma, second=self.order == "forward-first")

    def _ramp(self, full: float, *, second: bool) -> Ramp:
        if self.order == "constant":
            return Ramp(full)
        start = self.gamma_delay if second else 0.0
        length = self.gamma_warmup if second else self.beta_warmup
        return Ramp(full, start * self.horizon, (start + length) * self.horizon)

    def weights(self, times: ArrayLike) -> tuple[Array, Array]:
        """(beta(t), gamma(t)) at `times`, each of their shape."""
        return self.beta_ramp(times), self.gamma_ramp(times)

    def segments(self) -> tuple[Segment, ...]:
        """The schedule cut where a weight starts or stops to rise; the last segment has no end."""
        return segments_of(self.beta_ramp, self.gamma_ramp)


def segments_of(beta_ramp: Ramp, gamma_ramp: Ramp) -> tuple[Segment, ...]:
    """Two ramps as consecutive segments from t = 0 on, on each of which both weights are linear."""
    ramps = (beta_ramp, gamma_ramp)
    knots = [*sorted({0.0} | {time for ramp in ramps for time in (ramp.start, ramp.end)}), np.inf]
    return tuple(
        Segment(start, end, _ends(beta_ramp, start, end), _ends(gamma_ramp, start, end))
        for start, end in pairwise(knots)
    )


def _ends(ramp: Ramp, start: float, end: float) -> tuple[float, float]:
    """The weight just after `start` and just before `end`, of a segment that holds no knot of the ramp inside."""
    first = float(ramp(start))
    rising = ramp.start <= start < ramp.end
    return first, float(ramp(end)) if rising else first


def piecewise_constant(starts: ArrayLike, beta: ArrayLike, gamma: ArrayLike) -> tuple[Segment, ...]:
    """Segments with constant weights: beta[i], gamma[i] from starts[i] to starts[i + 1], the last for ever.

    Args:
        starts: (m,) rising times, the first 0.
        beta, gamma: (m,) weights of at least 0, or one number for all.

    Raises:
        ValueError: for times that do not rise from 0 (a stretch that ends before it starts), or shapes that disagree.
    """
    times = real_array("starts", starts)
    if times.ndim != 1 or times.size == 0 or times[0] != 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"starts: expected times that rise strictly from 0, received {times.tolist()}")
    values = []
    for name, given in (("beta", beta), ("gamma", gamma)):
        array = not_negative(name, given)
        if array.shape not in ((), times.shape):
            raise ValueError(f"{name}: expected a number or shape {times.shape}, received shape {array.shape}")
        values.append(np.broadcast_to(array, times.shape))
    ends = [*times[1:], np.inf]
    return tuple(
        Segment(float(start), float(end), (float(b), float(b)), (float(g), float(g)))
        for start, end, b, g in zip(times, ends, *values, strict=True)
    )


def as_segments(schedule: Schedule | Sequence[Segment]) -> tuple[Segment, ...]:
    """A schedule's segments, or given ones, checked to start at 0 and to follow each other without a gap."""
    if isinstance(schedule, Schedule):
        return schedule.segments()
    segments = tuple(schedule)
    if not segments or segments[0].start != 0:
        raise ValueError(f"schedule: expected segments from time 0 on, received {segments[:1]!r}")
    for before, after in pairwise(segments):
        if after.start != before.end:
            raise ValueError(
                f"schedule: expected a segment that starts at {before.end:g}, where the one before ends, "
                f"received the start {after.start:g}"
            )
    return segments
