"""Validation of what users hand in: every refusal names the argument, what was expected, and what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

SYMMETRY_TOLERANCE = 1e-10
"""Largest asymmetry of a matrix, relative to its largest entry, that counts as rounding."""
DEFINITE = 1e-13
"""Lowest eigenvalue, once the diagonal is scaled to 1, that can be told from the rounding of a singular matrix."""
EXTREME = 50
"""Decimal exponent from which on an argument is named as the cause of a result beyond floating point."""
INFINITE = {"infinite": True}
"""Metadata of a dataclass field that may be infinite in a result."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class BeyondFloatingPoint(ValueError):
    """The result of a call cannot be represented; the outermost `representable` function names its own arguments."""


def representable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function``, which refuses arguments that take its result beyond floating point.

    Raises:
        BeyondFloatingPoint: instead of an infinity, a NaN, an overflow or a division by a number that has vanished.
    """

    @wraps(function)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            with np.errstate(all="ignore"):
                result = function(*args, **kwargs)
            if all(np.isfinite(number).all() for _, number in _numbers("", result)):
                return result
        except (BeyondFloatingPoint, OverflowError, ZeroDivisionError, np.linalg.LinAlgError):
            pass
        given = list(_numbers("", signature(function).bind(*args, **kwargs).arguments))
        extreme = [(name, value) for name, value in given if _is_extreme(value)] or given
        names, received = ", ".join(name for name, _ in extreme), ", ".join(_shown(value) for _, value in extreme)
        raise BeyondFloatingPoint(
            f"{names}: expected numbers for which {function.__name__} stays within floating point, received {received}"
        )

    return checked


def _numbers(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """(name, array) of every number in a result or among arguments: dataclasses, mappings and sequences are opened."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value) if field.metadata != INFINITE}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(f"{name}.{key}" if name not in ("", "self") else str(key), item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(name, item)
    elif not callable(value):
        array = np.asarray(value)
        if array.dtype.kind in "fciu":
            yield name, array


def _is_extreme(value: Array) -> bool:
    with np.errstate(divide="ignore"):
        exponents = np.abs(np.log10(np.abs(value[value != 0].astype(complex))))
    return bool((exponents.real >= EXTREME).any())


def real_array(name: str, value: ArrayLike) -> Array:
    """``value`` as a float64 array of finite numbers.

    Raises:
        ValueError: if it is not numeric, is complex, or holds NaN or infinity.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biufO" or (given.dtype.kind == "O" and any(isinstance(x, str) for x in given.flat)):
            raise TypeError("text, complex numbers and dates are no real numbers")
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, received {_shown(value)}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, received {_shown(value)}")
    return array


def positive(name: str, value: ArrayLike) -> Array:
    """``value`` as an array of numbers above 0."""
    array = real_array(name, value)
    if (array <= 0).any():
        raise ValueError(f"{name}: expected numbers above 0, received {_shown(value)}")
    return array


def not_negative(name: str, value: ArrayLike) -> Array:
    """``value`` as an array of numbers of at least 0."""
    array = real_array(name, value)
    if (array < 0).any():
        raise ValueError(f"{name}: expected numbers of at least 0, received {_shown(value)}")
    return array


def scalar(name: str, value: ArrayLike) -> float:
    """``value`` as one finite number."""
    array = real_array(name, value)
    if array.ndim:
        raise ValueError(f"{name}: expected one number, received an array of shape {array.shape}")
    return float(array)


def positive_number(name: str, value: ArrayLike) -> float:
    """A rate, curvature or tolerance: one finite number above 0."""
    return float(positive(name, scalar(name, value)))


def weight(name: str, value: ArrayLike) -> float:
    """A loss weight or rate: one finite number of at least 0."""
    return float(not_negative(name, scalar(name, value)))


def check_fields(instance: object, check: Callable[[str, ArrayLike], float], *names: str) -> None:
    """Put the named fields of a frozen dataclass through ``check``, such as `weight`, and store what it returns."""
    for name in names:
        object.__setattr__(instance, name, check(name, getattr(instance, name)))


def whole_number(name: str, value: ArrayLike, least: int = 1) -> int:
    """Steps, seeds, questions: one whole number of at least ``least``."""
    number = scalar(name, value)
    if number < least or number != int(number):
        raise ValueError(f"{name}: expected a whole number of at least {least}, received {_shown(value)}")
    return int(number)


def instance(name: str, value: Any, kind: type) -> None:
    """Refuse what is no ``kind``, with TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected an instance of {kind.__name__}, received {type(value).__name__}")


def broadcastable(**values: ArrayLike) -> None:
    """Refuse arguments whose shapes do not broadcast."""
    shapes = [np.shape(value) for value in values.values()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as error:
        received = ", ".join(map(str, shapes))
        raise ValueError(f"{', '.join(values)}: expected shapes that broadcast, received {received}") from error


def pair(name: str, value: ArrayLike) -> tuple[float, float]:
    """Two weights, rates or deviations: finite numbers of at least 0."""
    array = not_negative(name, value)
    if array.shape != (2,):
        raise ValueError(f"{name}: expected two numbers, received shape {array.shape}")
    return float(array[0]), float(array[1])


def checked_times(times: ArrayLike) -> Array:
    """``times`` as an array (T,) of numbers of at least 0."""
    values = not_negative("times", times)
    if values.ndim != 1:
        raise ValueError(f"times: expected shape (times,), received shape {values.shape}")
    return values


def probabilities(name: str, value: ArrayLike, count: int) -> Array:
    """Answer probabilities (count,), above 0 and summing to 1."""
    array = positive(name, value)
    if array.shape != (count,):
        raise ValueError(f"{name}: expected shape ({count},), received {array.shape}")
    if abs(array.sum() - 1.0) > 1e-9:
        raise ValueError(f"{name}: expected probabilities that sum to 1, received the sum {array.sum():.12g}")
    return array


def vector(name: str, value: ArrayLike, size: int) -> Array:
    """(size,) from a scalar, which is broadcast, or a vector of that size."""
    array = real_array(name, value)
    if array.ndim > 1 or (array.ndim == 1 and array.shape != (size,)):
        raise ValueError(f"{name}: expected a number or shape ({size},), received shape {array.shape}")
    return np.broadcast_to(array, (size,)).copy()


def symmetric_matrix(name: str, value: ArrayLike, size: int, *, definite: bool) -> Array:
    """(size, size) from a scalar (times the identity), a vector (the diagonal) or a symmetric matrix.

    Args:
        definite: ask for a positive definite matrix, not only a positive semidefinite one.

    Raises:
        ValueError: if the shape, the symmetry or the sign of an eigenvalue is not as expected.
    """
    array = real_array(name, value)
    if array.ndim == 0:
        matrix: Array = float(array) * np.eye(size)
    elif array.shape == (size,):
        matrix = np.diag(array)
    elif array.shape == (size, size):
        matrix = array
    else:
        raise ValueError(
            f"{name}: expected a number, shape ({size},) or shape ({size}, {size}), received shape {array.shape}"
        )
    largest = float(np.abs(matrix).max(initial=0.0))
    if float(np.abs(matrix - matrix.T).max(initial=0.0)) > SYMMETRY_TOLERANCE * largest:
        raise ValueError(f"{name}: expected a symmetric matrix, received {_shown(value)}")
    matrix = 0.5 * (matrix + matrix.T)
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if definite and not is_definite(matrix):
        raise ValueError(
            f"{name}: expected a positive definite matrix (all eigenvalues above 0), received the eigenvalue {lowest:.6g}"
        )
    if not definite and lowest < -SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"{name}: expected a positive semidefinite matrix (no eigenvalue below 0), received the eigenvalue {lowest:.6g}"
        )
    return matrix


def is_diagonal(matrix: Array) -> bool:
    """Whether every entry off the diagonal is exactly 0."""
    return not np.any(matrix - np.diag(np.diagonal(matrix)))


def unit_diagonal(matrix: Array) -> Array:
    """D^-1/2 M D^-1/2 (..., d, d) with D the diagonal of M where that is above 0: what is left of M without its units."""
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
    root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return np.asarray(matrix / root[..., :, None] / root[..., None, :])


def is_definite(matrix: Array) -> bool:
    """Whether symmetric matrices (..., d, d) are all positive definite, in whatever units the modes are measured."""
    positive_diagonal = bool((np.diagonal(matrix, axis1=-2, axis2=-1) > 0).all())
    return positive_diagonal and float(np.linalg.eigvalsh(unit_diagonal(matrix)).min()) > DEFINITE


def common_size(**values: ArrayLike) -> int:
    """The number of modes d on which all arguments agree; scalars agree with any.

    Raises:
        ValueError: if two arguments disagree, or one is no scalar, vector or square matrix.
    """
    size, said_by = 1, ""
    for name, value in values.items():
        shape = np.shape(value)
        if len(shape) > 2 or (len(shape) == 2 and shape[0] != shape[1]) or 0 in shape:
            raise ValueError(f"{name}: expected a number, a vector or a square matrix, received shape {shape}")
        if shape and said_by and shape[0] != size:
            raise ValueError(f"{name}: expected {size} modes, as {said_by} has, received shape {shape}")
        if shape and not said_by:
            size, said_by = shape[0], name
    return size


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """``value``, if it is among ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, received {value!r}")
    return value


OBJECTIVES = ("ntp+fwd", "elbo", "amvl")
"""Objectives with closed forms: forward KL only with stop-gradient, ELBO, both KLs with stop-gradients (the dual KL)."""
OLDER_OBJECTIVES = {"fwd": "ntp+fwd", "dual": "amvl"}
"""Older names of objectives in closed forms; the simulated game and `amvl_model` use "fwd" for the forward KL without NTP."""


def objective_name(value: str, choices: tuple[str, ...] = OBJECTIVES) -> str:
    """The documented name of an objective with a closed form, from that name or an older one.

    Raises:
        ValueError: for a name that is not among ``choices``, nor an older name of one of them; it lists ``choices``.
    """
    name = OLDER_OBJECTIVES.get(value, value) if isinstance(value, str) else value
    return name if name in choices else one_of("objective", value, choices)


def _shown(value: Any) -> str:
    text = np.array2string(np.asarray(value, dtype=object), threshold=12, edgeitems=2).replace("\n", " ")
    return text if len(text) <= 120 else text[:117] + "..."
