"""Contamination of single modes at millions of (beta, gamma, absorption) points, near memory bandwidth (T3).

    c = (g/h) beta s / ( beta s + (1 - s) (1 + gamma lambda_q/h) ),     s = lambda_p / (lambda_p + alpha)

s is the absorption at forward weight 1, a property of the prior and its anchor; at weight beta the absorption is
beta s / (beta s + 1 - s). The sweep works on pieces that fit into the processor's cache, in place, so that every
input is read from memory once and every result written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, positive, scalar

CHUNK = 32768
"""Points per piece: three inputs, the result and one temporary of 256 KiB each stay in the second-level cache."""

_LARGEST = float(np.finfo(np.float64).max)
_RANGES = (
    ("beta", float(np.nextafter(0.0, 1.0)), _LARGEST, "finite numbers above 0"),
    ("gamma", 0.0, _LARGEST, "finite numbers of at least 0"),
    ("absorption", 0.0, 1.0, "numbers from 0 to 1"),
)


def sweep_contamination(
    beta: ArrayLike,
    gamma: ArrayLike,
    absorption: ArrayLike,
    *,
    force: float = 1.0,
    curvature: float = 1.0,
    posterior_precision: float = 1.0,
    out: Array | None = None,
    chunk: int = CHUNK,
    workers: int = 1,
) -> Array:
    """Contamination c [latent] at every point of beta, gamma and absorption, which broadcast against each other.

    Args:
        beta: forward weights, above 0. gamma: reverse weights, at least 0.
        absorption: lambda_p / (lambda_p + alpha), from 0 (held prior) to 1 (no anchor): the absorption at beta = 1.
        force, curvature, posterior_precision: g, h > 0 and lambda_q > 0, the same at all points.
        out: float64 array of the broadcast shape, C-contiguous, to write into; a new one if left out.
        chunk: points per piece. workers: threads (NumPy lets them run side by side).

    Returns:
        out.

    Raises:
        ValueError: for an argument out of range or not finite, shapes that do not broadcast, or an unfit ``out``. When a
            point is refused, ``out`` holds results of the pieces before it.
    """
    g = scalar("force", force)
    h, precision = (
        float(positive(name, scalar(name, value)))
        for name, value in (("curvature", curvature), ("posterior_precision", posterior_precision))
    )
    given = [np.asarray(value, dtype=np.float64) for value in (beta, gamma, absorption)]
    try:
        shape = np.broadcast_shapes(*(array.shape for array in given))
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in given)
        raise ValueError(
            f"beta: expected shapes that broadcast with gamma and absorption, received {shapes}"
        ) from error
    if chunk < 1 or workers < 1:
        raise ValueError(f"chunk: expected chunk and workers of at least 1, received {chunk} and {workers}")
    out = _result(out, shape)
    # Inputs of the full shape are cut without a copy; a number stays a number; what else broadcasts is spread out first.
    flat = [a.reshape(()) if a.size == 1 else np.ascontiguousarray(np.broadcast_to(a, shape)).ravel() for a in given]
    target, size = out.reshape(-1), out.size
    share = -(-size // (workers * chunk)) * chunk

    def piece(start: int) -> None:
        _sweep(flat, target, slice(start, min(start + share, size)), precision / h, g / h, chunk)

    starts = range(0, size, max(share, 1))
    if len(starts) <= 1:
        for start in starts:
            piece(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(piece, starts))
    return out


def _result(out: Array | None, shape: tuple[int, ...]) -> Array:
    if out is None:
        return np.empty(shape)
    if out.shape != shape or out.dtype != np.float64 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out: expected a writeable C-contiguous float64 array of shape {shape}, received {out.dtype} {out.shape}"
        )
    return out


def _sweep(flat: Sequence[Array], target: Array, part: slice, pull: float, response: float, chunk: int) -> None:
    """Fill target[part]; pull = lambda_q/h, response = g/h."""
    room = np.empty(min(chunk, part.stop - part.start))
    for start in range(part.start, part.stop, chunk):
        here = slice(start, min(start + chunk, part.stop))
        beta, gamma, absorption = (array[here] if array.ndim else array for array in flat)
        _check(beta, gamma, absorption)
        result, other = target[here], room[: here.stop - here.start]
        if pull == 1.0:
            np.add(gamma, 1.0, out=result)
        else:
            np.multiply(gamma, pull, out=result)
            result += 1.0
        np.subtract(1.0, absorption, out=other)
        result *= other  # (1 - s) (1 + gamma lambda_q/h)
        np.multiply(beta, absorption, out=other)
        result += other  # + beta s
        if response != 1.0:
            other *= response
        np.divide(other, result, out=result)


def _check(*arrays: Array) -> None:
    """Refuse points out of range; written so that NaN fails every comparison."""
    for (name, low, high, expected), array in zip(_RANGES, arrays, strict=True):
        smallest, largest = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
        if not (smallest >= low and largest <= high):
            raise ValueError(f"{name}: expected {expected}, received values from {smallest:.6g} to {largest:.6g}")
