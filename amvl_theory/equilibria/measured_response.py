"""Posteriors at rest before a measured linear response: several answers and modes, forces of any size (T4, T6).

One question with O answers in whitened coordinates, in which the reference prior is N(0, I), D dimensions; forces g_a (O, D),
curvature H (D, D), usually of a rank far below D, answer weights p_a. At rest a posterior N(delta_a, diag(s_a^2)) of a
quadratic answer loss obeys, for each answer,

    mean     (H + gamma diag(1/s_a^2)) delta_a = g_a + gamma diag(1/s_a^2) c
    width    H_ii s_ai^4 + gamma s_ai^2 = gamma (sigma_i^2 + (delta_ai - c_i)^2)         sigma_i, c_i: the prior's

    fixed_precision_posteriors  T4: widths as measured, 1/s^2 = mean over the answers; prior held at c = 0
    held_prior_posteriors       T6 before the prior follows: widths solve their equation, sigma = 1, c = 0 (what a posterior
                                does on a frozen checkpoint)
    moving_prior_posteriors     T6: the prior follows by moment matching, c = sum_a p_a delta_a,
                                sigma^2 = s^2 + sum_a p_a (delta_a - c)^2, s shared by the answers:
                                s_i^2 = sqrt(2 gamma V_i / H_ii), V_i = sum_a p_a (delta_ai - c_i)^2. The forces are then
                                those about their mean, and the shifts minimise T6's group lasso.

The solutions are those of `fixed_variances` (T4), `free_spread` (T6, one mode) and `several_modes` (T6, group lasso), which
expect a positive definite H and solve to 1e-12. Measured curvatures are neither: here H may be singular, forces may have any
size, and a problem without a solution raises `NoRestPointError`.

T6 is solved by alternating the two equations, each of which is exact given the other: descent of a function (for
moving_prior_posteriors the reweighted form of the group lasso), so the iteration cannot diverge.

Numbers. A decoder that ignores its latents has H = 1e-20 against forces of 10, and scaling a latent by t scales forces by t and
H by t^2, so the means are computed in units in which the curvature has the diagonal 1, and from a factor of it (`_Response`).
Eigenvalues of a curvature are distinguished from rounding down to `CURVATURE` of the largest, components of a force down to
`FORCE`; a component above that size without curvature above that size against it has a rest point only where the KL stops it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, not_negative, positive, positive_number, real_array, weight

SWEEPS = 2000
TOLERANCE = 1e-6
"""Relative change of the widths in one sweep at which the iteration ends."""
RUNAWAY = 1e12
"""Variance, in units of the prior's, beyond which a posterior is taken to have no rest point."""
SILENT = 1e-12
"""h V of a mode, relative to the question's largest, below which a mode of `moving_prior_posteriors` counts as silent."""
CURVATURE, FORCE = 1e-10, 1e-5
"""Least eigenvalue of H, with its diagonal scaled to 1, and least part of a force, both relative to the largest, that
are distinguished from rounding: float32 gradients are accurate to 1e-5, and the curvature is quadratic in them."""
FLAT = 1e-14
"""Curvature of a mode, relative to the largest, below which it counts as none: forces of 1e-7, where float32 ends."""
CHECK, LASSO_TOLERANCE = 20, 1e-4
"""Sweeps between two looks at the lasso's value, and its relative fall between them at which the iteration ends."""


class NoRestPointError(ValueError):
    """The quadratic theory has no equilibrium, or the iteration finds none: forces almost without curvature against them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerPosteriors:
    """Posteriors of the answers of one question in a prior's whitened coordinates, predicted or measured.

    Attributes:
        shifts: (O, D) means minus prior mean [prior std]. widths: (O, D) standard deviations over the prior's.
    """

    shifts: Array
    widths: Array

    @property
    def spread(self) -> float:
        """Root mean squared distance of the answers' means from their mean [prior std]."""
        return float(np.sqrt(np.sum((self.shifts - self.shifts.mean(0)) ** 2, axis=1).mean()))


def fixed_precision_posteriors(
    forces: ArrayLike, curvature: ArrayLike, widths: ArrayLike, gamma: float
) -> AnswerPosteriors:
    """T4 (and T2): shifts at a fixed, shared precision.

    Args:
        forces: (O, D) [nats/prior std]. curvature: (D, D) [nats/prior std^2], positive semidefinite.
        widths: (O, D), measured, above 0 [prior std].
        gamma: at least 0; at 0 directions without curvature keep the shift 0.

    Raises:
        ValueError: for a negative gamma, widths that are not above 0, or shapes that do not fit.
    """
    gamma = weight("gamma", gamma)
    g, H = _problem(forces, curvature)
    precision = np.mean(_answer_rows("widths", positive("widths", widths), g) ** -2.0, axis=0)
    root = precision**-0.5  # in units of the posterior the pull is gamma times the identity
    values, vectors = np.linalg.eigh(root[:, None] * H * root)
    components = (g * root) @ vectors
    stiffness = np.maximum(values, 0.0) + gamma
    resolved = np.broadcast_to(stiffness > CURVATURE * max(float(values[-1]), 0.0), components.shape)
    components = np.divide(components, stiffness, out=np.zeros_like(components), where=resolved)
    shifts = (components @ vectors.T) * root
    return AnswerPosteriors(shifts=shifts, widths=np.broadcast_to(root, shifts.shape).copy())


def held_prior_posteriors(forces: ArrayLike, curvature: ArrayLike, gamma: float) -> AnswerPosteriors:
    """T6 with the prior held: every answer's mean and widths at rest before the prior N(0, I).

    Args:
        forces: (O, D) [nats/prior std].
        curvature: (D, D), or (O, D, D) if it differs between answers [nats/prior std^2], positive semidefinite.
        gamma: above 0; without it widths contract for ever.

    Raises:
        ValueError: for a gamma that is not above 0, or shapes that do not fit.
        NoRestPointError: if the iteration diverges or does not converge: a force without curvature against it drives widths
            and shifts to infinity.
    """
    gamma = positive_number("gamma", gamma)
    g, H = _problem(forces, curvature, per_answer=True)
    h = np.broadcast_to(H, (len(g), *H.shape[-2:]))
    diagonal = np.maximum(np.diagonal(h, axis1=1, axis2=2), 0.0)
    response = _Response(h, g[:, None])
    variance = np.ones_like(g)
    for _ in range(SWEEPS):
        shifts = response.shifts(gamma / variance)[:, 0]
        pull = gamma * (1 + shifts**2)
        new = 2 * pull / (gamma + np.sqrt(gamma**2 + 4 * diagonal * pull))  # root of h s^4 + gamma s^2 = pull
        change = np.abs(np.log(new / variance)).max()
        variance = new
        if change < TOLERANCE:
            return AnswerPosteriors(shifts=shifts, widths=np.sqrt(variance))
        if variance.max() > RUNAWAY:
            break
    raise NoRestPointError(
        f"no rest point with the prior held at gamma = {gamma}: the largest posterior variance is {variance.max():.2g} times "
        f"the prior's, and widths change by {change:.2g} in the last sweep"
    )


def moving_prior_posteriors(
    forces: ArrayLike, curvature: ArrayLike, probabilities: ArrayLike, gamma: float
) -> AnswerPosteriors:
    """T6 with a prior that follows: the group lasso in the coordinates in which the posterior is diagonal.

    Silent modes, which contract onto the prior, get the shift 0 and the width 1: they carry no answer information. The result is
    in units of the prior at rest: means minus its mean, over its standard deviations.

    Args:
        forces: (O, D) [nats/prior std]. curvature: (D, D), positive semidefinite, with a positive diagonal where a force acts.
        probabilities: (O,) of the answers, at least 0, of sum 1.
        gamma: above 0; without it widths contract for ever.

    Raises:
        ValueError: for a gamma that is not above 0, or shapes that do not fit.
        NoRestPointError: if the iteration does not converge.
    """
    gamma = positive_number("gamma", gamma)
    g, H = _problem(forces, curvature)
    weights = _weights(probabilities, len(g))
    centred = g - weights @ g
    diagonal = np.maximum(np.diagonal(H), 0.0)
    curved = diagonal > max(FLAT * float(diagonal.max()), float(np.finfo(float).tiny))
    strengths = np.abs(centred).max(0)
    if (strengths[~curved] > FORCE * strengths.max()).any():
        raise NoRestPointError(
            f"no rest point of the moving prior at gamma = {gamma}: a force without curvature against it"
        )
    active = np.flatnonzero(curved)
    # Every mode starts with the variance that the strongest would have alone, which has no unit. From the prior's width, at
    # curvatures far below 1, strong modes outgrow the others by more than SILENT before they come to rest.
    strongest = np.sqrt(float((weights @ centred[:, active] ** 2 / diagonal[active]).max(initial=0.0)))
    variance, spread = np.ones(g.shape[1]), np.zeros(g.shape[1])
    variance[active] = np.maximum(np.sqrt(2 * gamma) * strongest / diagonal[active], 1e-300)
    shifts, best, response = np.zeros_like(centred), np.inf, None
    for sweep in range(SWEEPS):
        if not len(active):
            break
        h = H[np.ix_(active, active)]
        response = response or _Response(h[None], centred[None][..., active])
        shifts = np.zeros_like(centred)
        shifts[:, active] = response.shifts(gamma / variance[None, active])[0]
        if not np.abs(shifts * np.sqrt(diagonal)).max() <= RUNAWAY * response.size:
            raise NoRestPointError(
                f"no rest point of the moving prior at gamma = {gamma}: the lasso's objective is unbounded below"
            )
        spread = weights @ shifts**2
        variance[active] = np.maximum(np.sqrt(2 * gamma * spread[active] / diagonal[active]), 1e-300)
        leaking = (spread * diagonal)[active] > SILENT * float((spread * diagonal).max())
        if sweep % CHECK == CHECK - 1:
            inside = shifts[:, active]
            value = float(weights @ (0.5 * ((inside @ h) * inside).sum(1) - (centred[:, active] * inside).sum(1)))
            value += float(np.sqrt(gamma * diagonal[active] / 2 * spread[active]).sum())
            if best - value < LASSO_TOLERANCE * abs(value):
                active = active[leaking]
                break
            best = value
        if not leaking.all():
            active, response = active[leaking], None
    else:
        raise NoRestPointError(
            f"no rest point of the moving prior at gamma = {gamma}: the lasso's objective still decreases after {SWEEPS} sweeps"
        )
    alive = np.isin(np.arange(g.shape[1]), active)
    prior = np.where(alive, variance + spread, 1.0)
    moved = np.where(alive, shifts / np.sqrt(prior), 0.0)
    widths = np.where(alive, np.sqrt(variance / prior), 1.0)
    return AnswerPosteriors(shifts=moved, widths=np.broadcast_to(widths, moved.shape).copy())


def _problem(forces: ArrayLike, curvature: ArrayLike, *, per_answer: bool = False) -> tuple[Array, Array]:
    g, h = real_array("forces", forces), real_array("curvature", curvature)
    if g.ndim != 2 or 0 in g.shape:
        raise ValueError(f"forces: expected shape (answers, modes), received {g.shape}")
    answers, modes = g.shape
    if h.shape != (modes, modes) and not (per_answer and h.shape == (answers, modes, modes)):
        raise ValueError(f"curvature: expected shape ({modes}, {modes}), received {h.shape}")
    return g, h


def _answer_rows(name: str, value: Array, forces: Array) -> Array:
    if value.shape != forces.shape:
        raise ValueError(f"{name}: expected shape {forces.shape}, received {value.shape}")
    return value


def _weights(value: ArrayLike, count: int) -> Array:
    """Probabilities (count,); unlike `checks.probabilities` with zeros, which answers without label noise have."""
    array = not_negative("probabilities", value)
    if array.shape != (count,):
        raise ValueError(f"probabilities: expected shape ({count},), received {array.shape}")
    if abs(array.sum() - 1.0) > 1e-9:
        raise ValueError(f"probabilities: expected a sum of 1, received {array.sum():.12g}")
    return array


class _Response:
    """(H + diag(pull))^-1 g for several curvatures H (B, D, D), each with its forces g (B, n, D), and any pulls.

    With d_i = sqrt(H_ii), H = d C d, C = L L^T and g = d (L c + r), r outside the range of L, the answer is

        R (K x + R d r)      (I + K^T K) x = c - K^T R d r      K = R d L      R = diag(pull)^-1/2

    where the unit matrix meets K in the dimensions of L only: nothing is lost where the curvature exceeds the pull by more than
    the 16 digits of a number. I + K^T K is U^T U, the triangle of the least-squares matrix (K, I), whose diagonal is at least 1.

    Attributes:
        size: largest |g_i| / d_i of the modes with curvature [nats^1/2].
    """

    def __init__(self, curvature: Array, forces: Array) -> None:
        diagonal = np.maximum(np.diagonal(curvature, axis1=1, axis2=2), 0.0)
        curved = diagonal > np.maximum(FLAT * diagonal.max(1, keepdims=True), np.finfo(float).tiny)
        scale = np.sqrt(np.where(curved, diagonal, 1.0))
        both = curved[:, :, None] & curved[:, None, :]
        values, vectors = np.linalg.eigh(np.where(both, curvature / scale[:, :, None] / scale[:, None, :], 0.0))
        resolved_modes = values > CURVATURE * np.maximum(values[:, -1:], 0.0)
        first = (
            int(np.argmax(resolved_modes.any(0))) if resolved_modes.any() else resolved_modes.shape[1]
        )  # eigenvalues rise: the others are cut off
        resolved_modes, vectors = resolved_modes[:, first:], np.where(curved[:, :, None], vectors[:, :, first:], 0.0)
        roots = np.sqrt(np.where(resolved_modes, values[:, first:], 0.0))[:, None]
        scaled = forces / scale[:, None]
        inside = np.where(curved[:, None], scaled, 0.0)
        along = (scaled @ vectors) * resolved_modes[:, None]
        outside = scaled - along @ vectors.swapaxes(1, 2)
        rest = np.linalg.norm(np.where(curved[:, None], outside, 0.0), axis=2, keepdims=True)
        resolved = (rest > FORCE * np.linalg.norm(inside, axis=2, keepdims=True)) | ~curved[:, None]
        self.size = float(np.abs(inside).max(initial=0.0))
        self._factor = scale[:, :, None] * vectors * roots  # d L
        self._along = along / np.where(roots > 0, roots, 1.0)  # c
        self._outside = np.where(resolved, outside, 0.0) * scale[:, None]  # d r

    def shifts(self, pull: Array) -> Array:
        """(B, n, D) for pulls (B, D), above 0."""
        root = pull[:, None] ** -0.5
        factor, outside = root.swapaxes(1, 2) * self._factor, root * self._outside
        unit = np.broadcast_to(np.eye(factor.shape[2]), (len(factor), factor.shape[2], factor.shape[2]))
        triangle = np.asarray(np.linalg.qr(np.concatenate([factor, unit], axis=1), mode="r"))
        right = (self._along - outside @ factor).swapaxes(1, 2)
        x = np.linalg.solve(triangle, np.linalg.solve(triangle.swapaxes(1, 2), right))
        return root * (x.swapaxes(1, 2) @ factor.swapaxes(1, 2) + outside)
