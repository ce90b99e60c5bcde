"""What the two nonlinear games of T9 share: the linear theory beside them, quadrature, the search for its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, one_of, positive_number, probabilities, real_array, weight

NODES, REACH = 321, 8.5
"""Points and half-width, in standard deviations, of the trapezoid rule behind every expectation over a normal.

Its error falls exponentially in the step times the distance of the integrand's poles from the real axis, which for
components D apart is pi sigma^2 / D: below 1e-7 relative for all separations up to 8 sigma, where a Gauss-Hermite rule of 96
points is off in the third digit."""

QUANTITIES = {"contamination": "contamination_error", "spread": "spread_error", "leaked_nats": "leaked_error"}
"""What the linear theory predicts, and the property that holds its error."""


@dataclass(frozen=True, eq=False)
class AnsweredGame:
    """The answers of one mode.

    Attributes:
        forces: g_y (answers,) [nats/latent].
        answer_probabilities: p(y) (answers,).

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    forces: ArrayLike
    answer_probabilities: ArrayLike

    def __post_init__(self) -> None:
        forces, chance = checked_answers(self.forces, self.answer_probabilities)
        object.__setattr__(self, "forces", forces)
        object.__setattr__(self, "answer_probabilities", chance)


@dataclass(frozen=True, eq=False)
class NonlinearEquilibrium:
    """A nonlinear equilibrium beside what the linear theory says of it; arrays are of the shape of gamma (...).

    Attributes:
        contamination: c [latent].
        posterior_shift: delta_y (..., answers) [latent].
        spread: Var_y(delta_y) [latent^2].
        leaked_nats: I(Z; Y), exact by quadrature [nats].
        linear_contamination, linear_spread: T3 and T4.
        linear_leaked_nats: I(Z; Y) of Gaussian posteriors with T4's shifts, by the same quadrature, so that it differs from
            leaked_nats by the linear response alone.
        unique: whether the equilibrium is known to be the only one.
    """

    contamination: Array
    posterior_shift: Array
    spread: Array
    leaked_nats: Array
    linear_contamination: Array
    linear_spread: Array
    linear_leaked_nats: Array
    unique: Array

    def error(self, quantity: str) -> Array:
        """|linear / exact - 1| of one of QUANTITIES, NaN where the exact one is 0."""
        return np.abs(getattr(self, QUANTITIES[quantity]))

    @property
    def contamination_error(self) -> Array:
        """Linear over exact contamination, minus 1; NaN where the exact one is 0."""
        return relative_error(self.linear_contamination, self.contamination)

    @property
    def spread_error(self) -> Array:
        """Linear over exact spread, minus 1; NaN where the exact one is 0."""
        return relative_error(self.linear_spread, self.spread)

    @property
    def leaked_error(self) -> Array:
        """Linear over exact leaked information, minus 1; NaN where the exact one is 0."""
        return relative_error(self.linear_leaked_nats, self.leaked_nats)


def mutual_information(means: Array, chance: Array, precision: ArrayLike) -> Array:
    """I(Z; Y) of posteriors N(means_y, 1/precision) with probabilities p(y), by quadrature [nats].

    Args:
        means: (..., answers); chance: (answers,); precision: broadcasts with (...).
    """
    nodes, weights = normal_rule()
    scaled = means * np.sqrt(np.asarray(precision))[..., None]
    gap = scaled[..., :, None] - scaled[..., None, :]
    # log q_y'(z) - log q_y(z) at z = node + mean_y
    ratio = -0.5 * gap[..., None] ** 2 - gap[..., None] * nodes
    peak = ratio.max(axis=-2, keepdims=True)
    mixture = peak[..., 0, :] + np.log(np.einsum("b,...abn->...an", chance, np.exp(ratio - peak)))
    return np.maximum(-np.einsum("a,n,...an->...", chance, weights, mixture), 0.0)


def normal_rule() -> tuple[Array, Array]:
    """Nodes and weights (NODES,) of the expectation over a standard normal."""
    nodes = np.linspace(-REACH, REACH, NODES)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def relative_error(linear: Array, exact: Array) -> Array:
    """linear / exact - 1, NaN where exact is 0."""
    return np.divide(linear, exact, out=np.full(np.shape(exact), np.nan), where=exact != 0) - 1.0


def checked_answers(forces: ArrayLike, answer_probabilities: ArrayLike) -> tuple[Array, Array]:
    """g_y and p(y), each (answers,); a ValueError that names the argument otherwise."""
    force = real_array("forces", forces)
    if force.ndim != 1 or not force.size:
        raise ValueError(f"forces: expected shape (answers,), received shape {force.shape}")
    return force, probabilities("answer_probabilities", answer_probabilities, force.size)


def checked_axes(**axes: Array) -> None:
    """Refuse axes of an error map that are no vectors."""
    shapes = [axis.shape for axis in axes.values()]
    if any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"{', '.join(axes)}: expected vectors, received shapes {' and '.join(map(str, shapes))}")


def checked_absorption(value: ArrayLike) -> float:
    """s as a number from 0 to 1."""
    share = weight("absorption", value)
    if share > 1:
        raise ValueError(f"absorption: expected a number from 0 to 1, received {share:g}")
    return share


def checked_search(quantity: str, tolerance: float, largest: float) -> tuple[float, float]:
    """(tolerance, largest) of a search for the linear theory's range, both above 0, of one of QUANTITIES."""
    one_of("quantity", quantity, tuple(QUANTITIES))
    return positive_number("tolerance", tolerance), positive_number("largest", largest)


def first_crossing(error: Callable[[Array, Array], Array], columns: Array, limit: float, grid: Array) -> Array:
    """For every column, where error(point, column) first exceeds `limit` on the rising `grid`, bisected (k,).

    Args:
        error: elementwise on broadcast arrays; NaN counts as beyond the limit.
        columns: (k,).
        limit: largest error that is still accepted.
        grid: (m,), above 0.

    Returns:
        0 where the first point is beyond already, infinity where none is.
    """
    if columns.ndim != 1:
        raise ValueError(f"gammas: expected shape (k,), received shape {columns.shape}")
    beyond = ~(error(grid[:, None], columns) <= limit)
    first = np.argmax(beyond, axis=0)
    low, high = grid[np.maximum(first - 1, 0)], grid[first]
    for _ in range(45):
        middle = 0.5 * (low + high)
        inside = error(middle, columns) <= limit
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.where(~beyond.any(axis=0), np.inf, np.where(first == 0, 0.0, low))
