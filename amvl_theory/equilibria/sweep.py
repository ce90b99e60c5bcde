"""Contamination of single modes at millions of (beta, gamma, absorption) points, near memory bandwidth (T3).

    c = (g/h) beta s / ( beta s + (1 - s) (1 + gamma lambda_q/h) ),     s = lambda_p / (lambda_p + alpha)

s is the absorption at forward weight 1, a property of the prior and its anchor; at weight beta the absorption is
beta s / (beta s + 1 - s). The sweep works on pieces that fit into the processor's cache, in place, so that every
input is read from memory once and every result written once. On a grid (axes that broadcast) in which gamma and s together
have fewer points than the whole, their part is computed once and never spread out; an addition and a division a point are left:

    c = (g/h) beta / (beta + y),     y = (1 - s) (1 + gamma lambda_q/h) / s     (s = 0: y infinite, c = 0)

Range checks ride along: a float64 in a range from 0 is one whose bits, as an unsigned number, do not exceed those of the
upper end (sign, infinity and NaN lie above), so one pass finds all that is unfit. What looks unfit is checked exactly.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, positive_number, scalar

CHUNK = 32768
"""Points per piece: three inputs, the result and two temporaries of 256 KiB each stay in the second-level cache."""

GRID_CHUNK = 8 * CHUNK
"""Points per piece of a grid, which needs the result alone beside its few factors."""

SHORTEST_ROW = 64
"""Last axis of a grid from which NumPy's loop over rows costs less than spreading the axes out."""

_LARGEST = float(np.finfo(np.float64).max)
_RANGES = (
    ("beta", float(np.nextafter(0.0, 1.0)), _LARGEST, "finite numbers above 0"),
    ("gamma", 0.0, _LARGEST, "finite numbers of at least 0"),
    ("absorption", 0.0, 1.0, "numbers from 0 to 1"),
)
_BITS_OF_LARGEST, _BITS_OF_ONE = (int(np.float64(number).view(np.uint64)) for number in (_LARGEST, 1.0))

_Piece = tuple[slice, ...]


def sweep_contamination(
    beta: ArrayLike,
    gamma: ArrayLike,
    absorption: ArrayLike,
    *,
    force: float = 1.0,
    curvature: float = 1.0,
    posterior_precision: float = 1.0,
    out: Array | None = None,
    chunk: int | None = None,
    workers: int = 1,
) -> Array:
    """Contamination c [latent] at every point of beta, gamma and absorption, which broadcast against each other.

    Args:
        beta: forward weights, above 0. gamma: reverse weights, at least 0.
        absorption: lambda_p / (lambda_p + alpha), from 0 (held prior) to 1 (no anchor): the absorption at beta = 1.
        force, curvature, posterior_precision: g, h > 0 and lambda_q > 0, the same at all points.
        out: float64 array of the broadcast shape, C-contiguous, to write into; a new one if left out.
        chunk: points per piece; default: `CHUNK`, or `GRID_CHUNK` for a grid. workers: threads (NumPy lets them run side by
            side, but between two calls they wait for each other's interpreter lock, so they pay for large sweeps only).

    Returns:
        out.

    Raises:
        ValueError: for an argument out of range or not finite, shapes that do not broadcast, or an unfit ``out``. When a
            point is refused, ``out`` holds results of the pieces before it and no meaning after them.
    """
    g = scalar("force", force)
    h = positive_number("curvature", curvature)
    precision = positive_number("posterior_precision", posterior_precision)
    given = [np.asarray(value, dtype=np.float64) for value in (beta, gamma, absorption)]
    try:
        shape = np.broadcast_shapes(*(array.shape for array in given))
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in given)
        raise ValueError(
            f"beta: expected shapes that broadcast with gamma and absorption, received {shapes}"
        ) from error
    if (chunk is not None and chunk < 1) or workers < 1:
        raise ValueError(f"chunk: expected chunk and workers of at least 1, received {chunk} and {workers}")
    out = _result(out, shape)
    if not out.size:
        return out
    for column, array in enumerate(given):
        if array.size < out.size:
            _check(column, array)
    axes, target = _layout(given, out)
    sweep = _Sweep(axes, target, precision / h, g / h)
    length = chunk or (CHUNK if sweep.y is None else GRID_CHUNK)
    pieces = list(_pieces(target.shape, length))
    ends = [-(-i * len(pieces) // workers) for i in range(workers + 1)]
    shares = [pieces[first:last] for first, last in itertools.pairwise(ends)]
    others = [_pool(workers - 1).submit(sweep.fill, share, length) for share in shares[1:] if share]
    try:
        sweep.fill(shares[0], length)
    finally:
        wait(others)
    for other in others:
        other.result()
    return out


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay for the next call: starting them costs as much as a tenth of a million points."""
    return ThreadPoolExecutor(workers, thread_name_prefix="amvl_theory.equilibria.sweep")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def _result(out: Array | None, shape: tuple[int, ...]) -> Array:
    if out is None:
        return np.empty(shape)
    if out.shape != shape or out.dtype != np.float64 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out: expected a writeable C-contiguous float64 array of shape {shape}, received {out.dtype} {out.shape}"
        )
    return out


def _layout(given: Sequence[Array], out: Array) -> tuple[list[Array], Array]:
    """Inputs and result with the same number of axes: one, or those of a grid whose rows are long enough."""
    full = [array.size == out.size for array in given]
    if out.ndim > 1 and not all(full[i] or given[i].size == 1 for i in range(3)) and out.shape[-1] >= SHORTEST_ROW:
        return [array.reshape((1,) * (out.ndim - array.ndim) + array.shape) for array in given], out
    # Inputs of the full shape are cut without a copy; a number stays a number; what else broadcasts is spread out.
    flat = [a.reshape(1) if a.size == 1 else np.ascontiguousarray(np.broadcast_to(a, out.shape)) for a in given]
    return [array.reshape(-1) for array in flat], out.reshape(-1)


def _pieces(shape: tuple[int, ...], chunk: int) -> Iterator[_Piece]:
    """Consecutive pieces of an array, each contiguous and of at most ``chunk`` numbers."""
    row = math.prod(shape[1:])
    if row > chunk:
        rests = list(_pieces(shape[1:], chunk))
        yield from ((slice(i, i + 1), *rest) for i in range(shape[0]) for rest in rests)
        return
    for start in range(0, shape[0], chunk // row):
        yield (slice(start, min(start + chunk // row, shape[0])), *(slice(0, size) for size in shape[1:]))


class _Sweep:
    """One call's inputs, its result and the factors that are smaller than it."""

    def __init__(self, axes: Sequence[Array], target: Array, pull: float, response: float) -> None:
        self.axes, self.target, self.pull, self.response = axes, target, pull, response
        self.full = [array.size == target.size for array in axes]
        _, gamma, s = axes
        self.y: Array | None = None
        if math.prod(np.broadcast_shapes(gamma.shape, s.shape)) < target.size:
            with np.errstate(divide="ignore", over="ignore"):
                self.y = (1.0 - s) * (gamma * pull + 1.0) / s
        self.in_place = self.y is not None and not np.may_share_memory(axes[0], target)

    def fill(self, pieces: Sequence[_Piece], chunk: int) -> None:
        """Compute the target's ``pieces``, in order."""
        size = 0 if self.in_place else min(chunk, self.target.size)
        rooms = [_aligned(size) if size else self.target for _ in range(2)]
        total, other = rooms
        with np.errstate(invalid="raise"):  # beta = infinity comes to light as inf/inf or inf*0
            for piece in pieces:
                result = self.target[piece]
                if self.in_place:
                    total = result
                elif result.shape != total.shape:
                    total, other = (room[: result.size].reshape(result.shape) for room in rooms)
                try:
                    fit = self._fill(piece, result, total, other)
                except FloatingPointError:
                    fit = False
                if not fit:
                    self._fill_checked(piece, result, total, other)

    def _fill_checked(self, piece: _Piece, result: Array, total: Array, other: Array) -> None:
        """Compute one piece after an exact check of its inputs."""
        for column, full in enumerate(self.full):
            if full:
                _check(column, _cut(self.axes[column], piece))
        with np.errstate(invalid="warn"):
            self._fill(piece, result, total, other)

    def _fill(self, piece: _Piece, result: Array, total: Array, other: Array) -> bool:
        """Compute one piece; False if an input may be out of range."""
        beta, gamma, s = (_cut(array, piece) for array in self.axes)
        fit = True
        if self.y is not None:
            np.add(_cut(self.y, piece), beta, out=total)
            above = beta
        else:
            if self.pull == 1.0:
                np.add(gamma, 1.0, out=total)
            else:
                np.multiply(gamma, self.pull, out=total)
                np.add(total, 1.0, out=total)
            # An input is checked just after its first use, while it is in the cache.
            if self.full[1]:
                fit = bool(np.maximum.reduce(gamma.view(np.uint64), axis=None) <= _BITS_OF_LARGEST)
            np.subtract(1.0, s, out=other)
            np.multiply(total, other, out=total)
            if self.full[2]:
                fit = fit and bool(np.maximum.reduce(s.view(np.uint64), axis=None) <= _BITS_OF_ONE)
            above = np.multiply(beta, s, out=other)
            np.add(total, other, out=total)
        if self.full[0]:
            fit = fit and bool(np.minimum.reduce(beta, axis=None) > 0.0)
        np.divide(above, total, out=result)
        if self.response != 1.0:
            np.multiply(result, self.response, out=result)
        return fit


def _cut(array: Array, piece: _Piece) -> Array:
    """The part of an input or factor that a piece of the target needs."""
    if array.ndim == 1:
        return array[piece[0]] if array.size > 1 else array
    return array[tuple(slice(None) if size == 1 else part for size, part in zip(array.shape, piece, strict=True))]


def _aligned(size: int) -> Array:
    """An empty vector that starts at a cache line: NumPy's own start 16 bytes off, and every wide load then spans two."""
    raw = np.empty(size + 8)
    first = -(raw.ctypes.data // 8) % 8
    return raw[first : first + size]


def _check(column: int, array: Array) -> None:
    """Refuse points out of range; written so that NaN fails every comparison."""
    name, low, high, expected = _RANGES[column]
    smallest, largest = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
    if not (smallest >= low and largest <= high):
        raise ValueError(f"{name}: expected {expected}, received values from {smallest:.6g} to {largest:.6g}")
