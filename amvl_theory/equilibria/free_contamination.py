"""Contamination of one mode when means and variances are all free: every equilibrium and its stability (T5).

One mode, one posterior variance for all answers, anchor alpha on the prior mean, E(c) = v0 + (gbar - h c)^2:

    c = beta gbar / (beta h + alpha X),     h X = E                        forward-only
                                            h X = max(E, beta h)           ELBO
                                            h X = E + sqrt(gamma h E/2)    dual KL, E > gamma h/2
                                              X = gamma                    dual KL, E <= gamma h/2 (collapsed)

In x = h c/gbar, t = 1 - x, both between 0 and 1, the roots that leak obey

    F = log x + log(1 + a (e + k sqrt(e))) = 0      e = u + t^2,  u = v0/gbar^2
    a = alpha gbar^2/(beta h^2),  k = sqrt(gamma h/2)/|gbar| (0 but for dual KL)

and dF/d log x has the sign of  1/a + u - 2 t + 3 t^2 + k (u - t + 2 t^2)/sqrt(e), whose second derivative in t,
6 + 3 k u (u + t)/e^(5/2), is positive. So F turns at most twice and has at most three roots: each is enclosed between the
turning points and solved in log(x/t), which keeps the digits of x and of t however small they are.

The ranking of the objectives holds branch by branch: for alpha > 0 and gamma > 0 the smallest root of dual KL lies below
the smallest of forward-only, the largest below the largest, and the leaking roots of the ELBO are roots of forward-only.
Across branches it can fail: where dual KL is bistable its upper root exceeds the lower root of forward-only.

Stability is that of the gradient flow of the whole game at the root, in (dbar, e, c, log sigma_q^2, log sigma_p^2) with
delta_y = dbar + e (g_y - gbar)/sqrt(v0); shifts in other directions of the answers decay on their own:

    d dbar/dt           = -eta_q [ h dbar - gbar + k (dbar - c) ]              k = 0, beta/sigma_p^2, gamma/sigma_q^2
    d e/dt              = -eta_q [ h e - sqrt(v0) + k e ]
    d log sigma_q^2/dt  = -eta_q/2 [ h sigma_q^2 + n ]     n = 0,  beta (sigma_q^2/sigma_p^2 - 1),
                                                           gamma (1 - (sigma_p^2 + W)/sigma_q^2)
    d c/dt              = -eta_p [ beta (c - dbar)/sigma_p^2 + alpha c ]
    d log sigma_p^2/dt  = -eta_p beta/2 [ 1 - (sigma_q^2 + W)/sigma_p^2 ],     W = e^2 + (dbar - c)^2

for forward-only, ELBO and dual KL. A root attracts if dF/d log x > 0, which is the sign of the determinant of the negative
Jacobian, and no pair of eigenvalues has crossed the imaginary axis (Hopf): Routh's table in exact fractions, so that rates
however far apart decide nothing by rounding. Forward-only drives sigma_q^2 to 0 by itself, and its flow is taken there.
A collapsed root (sigma_q = sigma_p = 0) attracts because E is at most the threshold there: log sigma then falls at the rate
(h - E/beta) sigma_q^2 or (h - 2E/gamma) sigma_q^2, slower than everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import (
    Array,
    instance,
    not_negative,
    objective_name,
    positive,
    positive_number,
    scalar,
    weight,
)
from amvl_theory.model import MeanLeakageModel

Objective = Literal["ntp+fwd", "elbo", "amvl", "fwd", "dual"]
"""Forward-only, ELBO, dual KL; "fwd" and "dual" are older names of "ntp+fwd" and "amvl"."""


@dataclass(frozen=True, eq=False)
class Roots:
    """Equilibria of the contamination, in ascending order: values (n,) [latent] and whether each is stable (n,)."""

    values: Array
    stable: np.ndarray[tuple[int], np.dtype[np.bool_]]


def anchor_factor(
    mean_square_force: ArrayLike, curvature: ArrayLike, weight: ArrayLike = 0.0, objective: Objective = "amvl"
) -> Array:
    """X [latent^2] of c = beta gbar/(beta h + alpha X), as a function of E (T5); broadcasts.

    Args:
        mean_square_force: E = E_y (g_y - h c)^2, at least 0 [nats^2/latent^2].
        curvature: h, above 0 [nats/latent^2].
        weight: gamma of "amvl", beta of "elbo", at least 0; "ntp+fwd" ignores it.
        objective: "ntp+fwd", "elbo" or "amvl".

    Raises:
        ValueError: for an argument of the wrong sign, or an unknown objective.
    """
    name = objective_name(objective)
    square, h = not_negative("mean_square_force", mean_square_force), positive("curvature", curvature)
    w = not_negative("weight", weight)
    if name == "ntp+fwd":
        return square / h + 0 * w
    if name == "elbo":
        return np.maximum(square / h, w)
    active = (square + np.sqrt(w * h * square / 2)) / h
    return np.asarray(np.where(2 * square > w * h, active, w))


def free_contamination(
    model: MeanLeakageModel,
    beta: float,
    gamma: float = 0.0,
    objective: Objective = "amvl",
    *,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
) -> Roots:
    """Every equilibrium c of the game with free means and variances, and whether it attracts (T5).

    Args:
        model: of one mode; its precisions are not used, both variances are free.
        beta: forward weight, above 0. gamma: reverse weight of "amvl", at least 0.
        objective: "ntp+fwd" (forward-only), "elbo" or "amvl" (dual KL); only "amvl" uses gamma, and with gamma = 0 it is
            "ntp+fwd". Older names: "fwd" and "dual".
        eta_q, eta_p: rates of posterior and prior in the flow that decides stability, above 0.

    Raises:
        ValueError: for a model of several modes, an argument of the wrong sign or not a number, or an unknown objective.
    """
    instance("model", model, MeanLeakageModel)
    if model.size != 1:
        raise ValueError(f"model: expected one mode, received {model.size}")
    gbar, v0, h, alpha = (float(item.item()) for item in (model.g, model.G, model.H, model.A))
    name = objective_name(objective)
    push = positive_number("beta", beta)
    pull = weight("gamma", gamma)
    mode = _Mode(gbar, v0, h, alpha, push, pull, "ntp+fwd" if name == "amvl" and pull == 0 else name)
    rates = positive_number("eta_q", eta_q), positive_number("eta_p", eta_p)
    result = sorted(_all_roots(mode), key=lambda root: mode.gbar * root[0])
    stable = [_stable(mode, *root, *rates) for root in result]
    return Roots(np.array([gbar * x / h for x, _, _ in result]), np.asarray(stable, dtype=bool))


def self_consistent_contamination(
    force_mean: float,
    force_var: float,
    curvature: float,
    anchor: float,
    *weights: Any,
    **settings: Any,
) -> Roots:
    """`free_contamination` from bare numbers: gbar, v0, h and alpha in place of the model; its other arguments follow."""
    model = MeanLeakageModel(
        curvature=positive_number("curvature", curvature),
        force_mean=scalar("force_mean", force_mean),
        force_cov=weight("force_var", force_var),
        anchor=weight("anchor", anchor),
    )
    return free_contamination(model, *weights, **settings)


@dataclass(frozen=True)
class _Mode:
    gbar: float
    v0: float
    h: float
    alpha: float
    beta: float
    gamma: float
    objective: str

    def energy(self, rest: float) -> float:
        """E = v0 + (gbar - h c)^2 at rest = t = 1 - h c/gbar."""
        return self.v0 + (self.gbar * rest) ** 2

    @property
    def threshold(self) -> float:
        """The E up to which the posterior is collapsed; 0 for forward-only, which never is."""
        return {"ntp+fwd": 0.0, "elbo": self.beta * self.h, "amvl": self.gamma * self.h / 2}[self.objective]

    def collapsed(self, rest: float) -> bool:
        """Whether the posterior is a point there (for forward-only: whether it and the prior are)."""
        return self.energy(rest) <= self.threshold


def _all_roots(mode: _Mode) -> list[tuple[float, float, bool]]:
    """(x, t = 1 - x, whether F rises there) of every equilibrium."""
    if mode.gbar == 0:
        return [(0.0, 0.0, True)]
    roots = [root for root in _leaking_roots(mode) if mode.objective == "ntp+fwd" or not mode.collapsed(root[1])]
    if mode.objective == "ntp+fwd":
        return roots
    held = mode.alpha * (mode.gamma if mode.objective == "amvl" else mode.beta)  # alpha X of the collapsed posterior
    total = mode.beta * mode.h + held
    if mode.collapsed(held / total) or not roots:
        roots.append((mode.beta * mode.h / total, held / total, True))
    return roots


_CLEAR = 1e-6
"""Real part, over the largest eigenvalue's size, from which on its sign in floats is beyond doubt."""
_FAR = 700.0
"""log(x/t) from which on t is 0 beside anything else."""


def _leaking_roots(mode: _Mode) -> list[tuple[float, float, bool]]:
    """All (x, t) with F = 0, and whether F rises in x there."""
    a = mode.alpha * mode.gbar**2 / (mode.beta * mode.h**2)
    u = mode.v0 / mode.gbar**2
    k = float(np.sqrt(mode.gamma * mode.h / 2)) / abs(mode.gbar) if mode.objective == "amvl" else 0.0
    if a == 0:
        return [(1.0, 0.0, True)]

    def excess(y: float) -> float:  # F at log(x/t) = y
        e = u + float(np.exp(-2 * np.logaddexp(0.0, y)))
        return float(np.log1p(a * (e + k * np.sqrt(e))) - np.logaddexp(0.0, -y))

    low = -float(np.log(a * (u + 1 + k * np.sqrt(u + 1)))) - 1
    high = 1 - float(np.log(a * (u + k * np.sqrt(u)))) if u > 0 else _FAR
    turns = [float(-np.log(t) + np.log1p(-t)) for t in _turning_points(a, u, k)]
    edges = [low, *(y for y in sorted(turns) if low < y < high), high]
    roots = []
    for left, right in pairwise(edges):
        at = excess(left), excess(right)
        if at[0] * at[1] < 0:
            y = _solve(excess, left, right)
            roots.append((float(1 / (1 + np.exp(-y))), float(1 / (1 + np.exp(y))), at[0] < at[1]))
    if u == 0 and k == 0:
        roots.append((1.0, 0.0, True))
    return roots


def _turning_points(a: float, u: float, k: float) -> list[float]:
    """The t in (0, 1) at which F turns: at most two, as the sign of its slope is that of a convex function of t."""

    def slope(log_t: float) -> float:
        t = float(np.exp(log_t))
        return 1 / a + u - 2 * t + 3 * t**2 + (k * (u - t + 2 * t**2) / float(np.hypot(np.sqrt(u), t)) if k else 0.0)

    def bend(log_t: float) -> float:
        t = float(np.exp(log_t))
        root = float(np.hypot(np.sqrt(u), t))
        return 6 * t - 2 + (k * (2 * t + u / root * (t - 1) / root) / root if k else 0.0)

    if 1 / a + u >= 1 / 3 and (k == 0 or u >= 1 / 8):
        return []  # both parts of the slope are positive at every t
    first = -_FAR / 2
    if bend(first) >= 0:  # u = 0 and k above 1: the slope rises from t = 0 on
        return []
    least = _solve(bend, first, 0.0)
    if slope(least) >= 0:
        return []
    before = [_solve(slope, first, least)] if slope(first) > 0 else []
    return [float(np.exp(y)) for y in (*before, _solve(slope, least, 0.0))]


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq  # here, because it takes most of a second to import

    return float(brentq(function, low, high, xtol=1e-15, rtol=1e-15, maxiter=500))


def _stable(mode: _Mode, x: float, t: float, rises: bool, eta_q: float, eta_p: float) -> bool:
    if mode.objective != "ntp+fwd" and mode.collapsed(t):
        return True
    if mode.objective == "ntp+fwd" and mode.energy(t) == 0:
        return True  # sigma_p falls to 0 and holds the prior on the posterior ever more tightly
    if not rises:
        return False
    state = _rest_state(mode, x, t)
    step = 1e-30
    jacobian = np.empty((len(state), len(state)))
    for i in range(len(state)):
        shifted = state.astype(complex)
        shifted[i] += 1j * step
        if i == 2:  # c moves, dbar does not
            shifted[0] -= 1j * step
        jacobian[:, i] = _flow(mode, shifted, eta_q, eta_p).imag / step
    return _no_growing_pair(jacobian)


def _no_growing_pair(jacobian: Array) -> bool:
    """Routh's test in exact fractions, where the determinant is known to have the sign of a stable point.

    Where the eigenvalues are far from the imaginary axis in floats, they decide.
    """
    size, values = len(jacobian), np.linalg.eigvals(jacobian)
    if (np.abs(values.real) > _CLEAR * np.abs(values).max()).all():
        return bool(values.real.max() < 0)
    matrix = [[Fraction(float(entry)) for entry in row] for row in -jacobian]
    coefficients, power = [Fraction(1)], [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]
    for order in range(1, size + 1):  # Faddeev and LeVerrier: det(x + J') = sum of coefficients x^(n - order)
        power = [[_dot(row, column) for column in zip(*power, strict=True)] for row in matrix]
        trace = sum((power[i][i] for i in range(size)), Fraction(0)) / order
        coefficients.append(trace)
        power = [[(trace if i == j else 0) - power[i][j] for j in range(size)] for i in range(size)]
    coefficients[-1] = abs(coefficients[-1])
    upper, lower = coefficients[::2], coefficients[1::2]
    while lower:
        if upper[0] <= 0 or lower[0] <= 0:
            return False
        ratio = upper[0] / lower[0]
        below = [u - ratio * v for u, v in zip(upper[1:], [*lower[1:], Fraction(0)], strict=False)]
        upper, lower = lower, below
    return True


def _dot(row: Sequence[Fraction], column: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0))


def _rest_state(mode: _Mode, x: float, t: float) -> Array:
    """(dbar - c, e, c, log sigma_p^2[, log sigma_q^2]) at a leaking root."""
    r, h = float(np.sqrt(mode.energy(t))), mode.h
    if mode.objective == "ntp+fwd":
        pull, sigma_p = 0.0, (r / h) ** 2
    elif mode.objective == "elbo":
        sigma_p = (r**2 / h - mode.beta) / h
        pull = mode.beta / sigma_p
    else:
        size = (r - float(np.sqrt(mode.gamma * h / 2))) / h  # sqrt(W)
        sigma_q = float(np.sqrt(2 * mode.gamma / h)) * size
        pull, sigma_p = mode.gamma / sigma_q, sigma_q + size**2
    state = [
        mode.gbar * t / (h + pull),
        float(np.sqrt(mode.v0)) / (h + pull),
        mode.gbar * x / h,
        float(np.log(sigma_p)),
    ]
    if mode.objective == "elbo":
        state.append(float(np.log(mode.beta / (h + pull))))
    elif mode.objective == "amvl":
        state.append(float(np.log(mode.gamma / pull)))
    return np.asarray(state)


def _flow(mode: _Mode, state: np.ndarray, eta_q: float, eta_p: float) -> np.ndarray:
    """Right-hand side of the module's flow, the first entry of dbar; complex arguments give derivatives by a complex step."""
    gap, e, c, log_p = state[:4]
    sigma_p = np.exp(log_p)
    sigma_q = np.exp(state[4]) if len(state) == 5 else 0.0
    w = e**2 + gap**2
    if mode.objective == "ntp+fwd":
        pull, narrow = 0.0, 0.0
    elif mode.objective == "elbo":
        pull, narrow = mode.beta / sigma_p, mode.beta * (sigma_q / sigma_p - 1)
    else:
        pull, narrow = mode.gamma / sigma_q, mode.gamma * (1 - (sigma_p + w) / sigma_q)
    flow = [
        -eta_q * (mode.h * (gap + c) - mode.gbar + pull * gap),
        -eta_q * (mode.h * e - np.sqrt(mode.v0) + pull * e),
        -eta_p * (-mode.beta * gap / sigma_p + mode.alpha * c),
        -eta_p * mode.beta / 2 * (1 - (sigma_q + w) / sigma_p),
    ]
    if len(state) == 5:
        flow.append(-eta_q / 2 * (mode.h * sigma_q + narrow))
    return np.asarray(flow)
