"""Several modes, dense curvature, variances that follow: which modes leak at all (T6).

Prior mean at 0, posterior variances sigma_i^2 shared by the answers, prior variances by moment matching,
rms(delta_i)^2 = E_y delta_{y,i}^2. At rest, mode by mode,

    dual KL  (H delta_y)_i + sqrt(gamma H_ii/2) delta_{y,i}/rms(delta_i) = g_{y,i},   sigma_i^2 = sqrt(2 gamma/H_ii) rms(delta_i)
    ELBO     (H delta_y)_i + beta delta_{y,i} / sigma_p,i^2 = g_{y,i},                sigma_i^2 = beta / (H_ii + beta/sigma_p,i^2)

The dual-KL equations say that delta minimises a convex group lasso,

    F(delta) = 1/2 E[delta^T H delta] - E[g^T delta] + sum_i kappa_i rms(delta_i),     kappa_i = sqrt(gamma H_ii / 2),

so the solution is unique (H > 0), modes go silent one by one as gamma grows, and all are silent if and only if
gamma >= max_i 2 E[g_i^2]/H_ii. (A mode held at sigma_i = 0 is at rest too, but at a point that does not attract unless it
solves the lasso.) With the variances eliminated the ELBO is

    J(delta) = 1/2 E[delta^T H delta] - E[g^T delta] + sum_i min over s of [ H_ii s/2 + beta/2 log(1 + rms(delta_i)^2/s) ]

which is not convex: a collapsed state can be a local minimum beside a leaking one.

Only the second moment E[g g^T] of the forces enters, so answers may be replaced by the columns of any square root of it.
The methods: exact minimisation over one mode at a time (the one-mode closed forms of amvl_theory.equilibria.free_spread with the
force that the other modes leave), then, for the lasso, Newton's method in rms(delta_i) of the modes that leak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import (
    Array,
    common_size,
    one_of,
    positive_number,
    real_array,
    symmetric_matrix,
    weight,
)
from amvl_theory.checks import probabilities as checked_probabilities

_MAX_SWEEPS = 200_000


@dataclass(frozen=True, eq=False)
class SparseSpread:
    """Equilibrium of the spread channel with n answers and d modes.

    Attributes:
        shifts: delta (n, d) [latent].
        variance: E_y delta_i^2 (d,) [latent^2].
        posterior_variance: sigma_i^2 (d,) [latent^2], 0 for a silent mode.
        active: which modes leak (d,).
        objective_value: F or J of the module's equations [nats].
        residual: largest change of a shift [latent] in one more exact minimisation over a mode.
        gap: duality gap of the lasso [nats], at least H's lowest eigenvalue / 2 times E|delta - optimum|^2; None for
            the ELBO, which has no dual.
    """

    shifts: Array
    variance: Array
    posterior_variance: Array
    active: np.ndarray[tuple[int], np.dtype[np.bool_]]
    objective_value: float
    residual: float
    gap: float | None


def collapse_threshold(curvature: ArrayLike, forces: ArrayLike, probabilities: ArrayLike | None = None) -> float:
    """gamma from which on dual KL silences every mode: max_i 2 E[g_i^2]/H_ii (T6)."""
    H, rows = _problem(curvature, forces, probabilities)[:2]
    return float(np.max(2 * (rows**2).sum(axis=0) / np.diagonal(H)))


def local_elbo_threshold(curvature: ArrayLike, forces: ArrayLike, probabilities: ArrayLike | None = None) -> float:
    """beta from which on the collapsed ELBO attracts: max_i E[g_i^2]/H_ii. A leaking state may survive above it (T6)."""
    return 0.5 * collapse_threshold(curvature, forces, probabilities)


def sparse_spread(
    curvature: ArrayLike,
    forces: ArrayLike,
    gamma: float,
    probabilities: ArrayLike | None = None,
    *,
    tolerance: float = 1e-12,
) -> SparseSpread:
    """The dual-KL equilibrium of several coupled modes: the minimiser of the group lasso (T6).

    Args:
        curvature: H, a number, a diagonal or (d, d), positive definite.
        forces: g_y (n, d), taken about 0 (subtract the mean force first where the prior follows it).
        gamma: reverse weight, at least 0. probabilities: (n,), equal if left out.
        tolerance: on the residual, relative to the largest unpenalised shift.

    Raises:
        ValueError: for a bad argument. RuntimeError: if the tolerance is not reached.
    """
    H, rows, root_p = _problem(curvature, forces, probabilities)
    kappa = np.sqrt(weight("gamma", gamma) * np.diagonal(H) / 2)
    free = np.linalg.solve(H, rows.T).T
    limit = tolerance * max(float(np.abs(free).max()), np.finfo(float).tiny)

    def shrink(force: Array, i: int) -> Array:
        norm = float(np.linalg.norm(force))
        return np.maximum(1 - kappa[i] / norm, 0.0) * force / H[i, i] if norm > 0 else force

    # At the threshold itself descent from free shifts would approach 0 only algebraically.
    silent = bool((np.linalg.norm(rows, axis=0) <= kappa).all())
    shifts = np.zeros_like(free) if silent else free.copy()
    residual = np.inf
    for count in range(_MAX_SWEEPS):
        residual = _sweep(H, rows, shifts, shrink)
        if residual <= limit:
            break
        if count % 20 == 19:
            trial = _newton(H, rows, kappa, shifts)
            if trial is not None and _sweep(H, rows, trial.copy(), shrink) < residual:
                shifts = trial
    else:
        raise RuntimeError(f"group lasso: residual {residual:.3g} after {_MAX_SWEEPS} sweeps, required {limit:.3g}")
    rms = np.linalg.norm(shifts, axis=0)
    value = _quadratic(H, rows, shifts) + float(kappa @ rms)
    posterior = np.sqrt(2 * gamma / np.diagonal(H)) * rms
    return SparseSpread(
        shifts / root_p, rms**2, posterior, rms > 0, value, residual, _gap(H, rows, kappa, shifts, value)
    )


def elbo_spread(
    curvature: ArrayLike,
    forces: ArrayLike,
    beta: float,
    probabilities: ArrayLike | None = None,
    *,
    start: Literal["leaking", "collapsed"] | ArrayLike = "leaking",
    tolerance: float = 1e-12,
) -> SparseSpread:
    """A fixed point of the ELBO with several coupled modes, the local minimum of J that descent from ``start`` reaches (T6).

    Args:
        start: "leaking" (the shifts without any KL), "collapsed" (no shift), or shifts (n, d). Two starts that end
            differently show hysteresis.
        the others: as for sparse_spread; beta above 0.

    Raises:
        ValueError: for a bad argument. RuntimeError: if the tolerance is not reached.
    """
    H, rows, root_p = _problem(curvature, forces, probabilities)
    strength = positive_number("beta", beta)
    free = np.linalg.solve(H, rows.T).T
    if isinstance(start, str):
        one_of("start", start, ("leaking", "collapsed"))
        shifts = free.copy() if start == "leaking" else np.zeros_like(free)
    else:
        shifts = real_array("start", start) * root_p
        if shifts.shape != rows.shape:
            raise ValueError(f"start: expected shape {rows.shape}, received {shifts.shape}")
    limit = tolerance * max(float(np.abs(free).max()), np.finfo(float).tiny)

    def shrink(force: Array, i: int) -> Array:
        v = float(force @ force)
        return np.maximum(1 - strength * H[i, i] / v, 0.0) * force / H[i, i] if v > 0 else force

    for _ in range(_MAX_SWEEPS):
        residual = _sweep(H, rows, shifts, shrink)
        if residual <= limit:
            break
    else:
        raise RuntimeError(f"ELBO: residual {residual:.3g} after {_MAX_SWEEPS} sweeps, required {limit:.3g}")
    h, variance = np.diagonal(H), (shifts**2).sum(axis=0)
    posterior = 0.5 * (-variance + np.sqrt(variance**2 + 4 * strength * variance / h))
    ratio = np.divide(variance, posterior, out=np.zeros_like(variance), where=posterior > 0)
    value = _quadratic(H, rows, shifts) + 0.5 * float(h @ posterior + strength * np.log1p(ratio).sum())
    return SparseSpread(shifts / root_p, variance, posterior, variance > 0, value, residual, None)


def _problem(curvature: ArrayLike, forces: ArrayLike, probabilities: ArrayLike | None) -> tuple[Array, Array, Array]:
    """H (d, d), sqrt(p_y) g_y (n, d) and sqrt(p_y) (n, 1); rms over answers is then the norm of a column."""
    g = real_array("forces", forces)
    if g.ndim != 2 or 0 in g.shape:
        raise ValueError(f"forces: expected shape (answers, modes), received {g.shape}")
    size = common_size(forces=np.zeros(g.shape[1]), curvature=curvature)
    H = symmetric_matrix("curvature", curvature, size, definite=True)
    if probabilities is None:
        p = np.full(len(g), 1.0 / len(g))
    else:
        p = checked_probabilities("probabilities", probabilities, len(g))
    root = np.sqrt(p)[:, None]
    return H, root * g, root


def _sweep(H: Array, rows: Array, shifts: Array, shrink: Callable[[Array, int], Array]) -> float:
    """Minimise over each mode in turn, in place; the largest change."""
    largest = 0.0
    for i in range(len(H)):
        force = rows[:, i] - shifts @ H[:, i] + H[i, i] * shifts[:, i]
        new = shrink(force, i)
        largest = max(largest, float(np.abs(new - shifts[:, i]).max()))
        shifts[:, i] = new
    return largest


def _newton(H: Array, rows: Array, kappa: Array, shifts: Array) -> Array | None:
    """Solve rms(delta_i) = r_i, delta = (H + diag(kappa/r))^-1 g, for the modes that leak now; None if it fails."""
    on = np.flatnonzero(np.linalg.norm(shifts, axis=0) > 0)
    if not len(on):
        return None
    Ha, ga, ka = H[np.ix_(on, on)], rows[:, on], kappa[on]
    r = np.linalg.norm(shifts[:, on], axis=0)
    for _ in range(30):
        inverse = np.linalg.inv(Ha + np.diag(ka / r))
        delta = ga @ inverse
        error = (delta**2).sum(axis=0) - r**2
        if np.abs(error).max() <= 1e-15 * (r**2).max():
            break
        jacobian = 2 * inverse * (delta.T @ delta) * (ka / r**2) - 2 * np.diag(r)
        try:
            step = np.linalg.solve(jacobian, error)
        except np.linalg.LinAlgError:
            return None
        r = np.maximum(r - step, 0.1 * r)
    full = np.zeros_like(shifts)
    full[:, on] = ga @ np.linalg.inv(Ha + np.diag(ka / r))
    return full if np.isfinite(full).all() else None


def _quadratic(H: Array, rows: Array, shifts: Array) -> float:
    return float(np.sum((0.5 * shifts @ H - rows) * shifts))


def _gap(H: Array, rows: Array, kappa: Array, shifts: Array, value: float) -> float:
    """F(delta) + 1/2 E[(g - u)^T H^-1 (g - u)] for the nearest feasible u, rms(u_i) <= kappa_i, to g - H delta."""
    u = rows - shifts @ H
    norm = np.linalg.norm(u, axis=0)
    u = u * np.minimum(1.0, np.divide(kappa, norm, out=np.ones_like(norm), where=norm > 0))
    rest = rows - u
    return value + 0.5 * float(np.sum(rest * np.linalg.solve(H, rest.T).T))
