"""Contamination of one mode when means and variances are all free: every equilibrium and its stability (T5).

One mode, one posterior variance for all answers, anchor alpha on the prior mean, E(c) = v0 + (gbar - h c)^2:

    c = beta gbar / (beta h + alpha X),     h X = E                        forward-only
                                            h X = max(E, beta h)           ELBO
                                            h X = E + sqrt(gamma h E/2)    dual KL, E > gamma h/2
                                              X = gamma                    dual KL, E <= gamma h/2 (collapsed)

In x = h c/gbar, which lies in (0, 1], this reads x (1 + a (e + k sqrt(e))) = 1 with e = u + (1 - x)^2,
u = v0/gbar^2, a = alpha gbar^2/(beta h^2), k = sqrt(gamma h/2)/|gbar|: a cubic in x for k = 0, and for u > 0 a sextic
in w, 1 - x = sqrt(u) (w - 1/w)/2, sqrt(e) = sqrt(u) (w + 1/w)/2, w >= 1. So there are finitely many roots; they are
isolated between the real roots of the derivative (so none is missed), and polished in x.

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

for forward-only, ELBO and dual KL. Forward-only drives sigma_q^2 to 0 by itself, and its flow is taken there. A collapsed
root (sigma_q = sigma_p = 0) attracts because E is at most the threshold there: log sigma then falls at the rate
(h - E/beta) sigma_q^2 or (h - 2E/gamma) sigma_q^2, slower than everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import polynomial as poly

from amvl_theory.checks import Array, not_negative, objective_name, positive, scalar

Objective = Literal["ntp+fwd", "elbo", "amvl", "fwd", "dual"]
"""Forward-only, ELBO, dual KL; "fwd" and "dual" are older names of "ntp+fwd" and "amvl"."""


@dataclass(frozen=True, eq=False)
class Roots:
    """Equilibria of the contamination, in ascending order: values (n,) [latent] and whether each is stable (n,)."""

    values: Array
    stable: np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class _Mode:
    gbar: float
    v0: float
    h: float
    alpha: float
    beta: float
    gamma: float
    objective: str

    def energy(self, c: float) -> float:
        """E(c) = E_y (g_y - h c)^2."""
        return self.v0 + (self.gbar - self.h * c) ** 2

    @property
    def threshold(self) -> float:
        """The E up to which the posterior is collapsed; 0 for forward-only, which never is."""
        return {"ntp+fwd": 0.0, "elbo": self.beta * self.h, "amvl": self.gamma * self.h / 2}[self.objective]


def self_consistent_contamination(
    force_mean: float,
    force_var: float,
    curvature: float,
    anchor: float,
    beta: float,
    gamma: float = 0.0,
    objective: Objective = "amvl",
    *,
    eta_q: float = 1.0,
    eta_p: float = 1.0,
) -> Roots:
    """Every equilibrium c of the game with free means and variances, and whether it attracts (T5).

    Args:
        force_mean: gbar [nats/latent]. force_var: v0 = Var_y(g_y), at least 0.
        curvature: h > 0. anchor: alpha, at least 0. beta: forward weight, above 0. gamma: reverse weight of "amvl".
        objective: "ntp+fwd" (forward-only), "elbo" or "amvl" (dual KL); only "amvl" uses gamma, and with gamma = 0 it is
            "ntp+fwd". Older names: "fwd" and "dual".
        eta_q, eta_p: rates of posterior and prior in the flow that decides stability.

    Raises:
        ValueError: for an argument of the wrong sign or not a number, or an unknown objective.
    """
    name = objective_name(objective)
    mode = _Mode(
        scalar("force_mean", force_mean),
        float(not_negative("force_var", scalar("force_var", force_var))),
        float(positive("curvature", scalar("curvature", curvature))),
        float(not_negative("anchor", scalar("anchor", anchor))),
        float(positive("beta", scalar("beta", beta))),
        float(not_negative("gamma", scalar("gamma", gamma))),
        "ntp+fwd" if name == "amvl" and gamma == 0 else name,
    )
    rates = tuple(float(positive(n, scalar(n, v))) for n, v in (("eta_q", eta_q), ("eta_p", eta_p)))
    values = _all_roots(mode)
    stable = [_stable(mode, c, rates[0], rates[1]) for c in values]
    return Roots(np.asarray(values), np.asarray(stable, dtype=bool))


def _all_roots(mode: _Mode) -> list[float]:
    if mode.gbar == 0:
        return [0.0]
    scale = mode.gbar / mode.h
    roots = [scale * x for x in _leaking_roots(mode)]
    roots = [c for c in roots if mode.energy(c) > mode.threshold or mode.objective == "ntp+fwd"]
    if mode.objective != "ntp+fwd":
        width = mode.gamma if mode.objective == "amvl" else mode.beta  # X of the collapsed posterior
        c = mode.beta * mode.gbar / (mode.beta * mode.h + mode.alpha * width)
        if mode.energy(c) <= mode.threshold:
            roots.append(c)
    return sorted(roots)


def _leaking_roots(mode: _Mode) -> list[float]:
    """All x = h c/gbar in (0, 1] with x (1 + a (e + k sqrt(e))) = 1."""
    a = mode.alpha * mode.gbar**2 / (mode.beta * mode.h**2)
    u = mode.v0 / mode.gbar**2
    k = float(np.sqrt(mode.gamma * mode.h / 2)) / abs(mode.gbar) if mode.objective == "amvl" else 0.0
    if a == 0:
        return [1.0]
    if k == 0:
        # (1 - t) (1 + a (u + t^2)) - 1 with t = 1 - x
        roots = _real_roots(np.array([a * u, -(1 + a * u), a, -a]) / (1 + a), 0.0, 1.0)
        points = [1.0 - t for t in roots]
    elif u == 0:
        roots = _real_roots(np.array([0.0, a * k - 1, a * (1 - k), -a]) / (1 + a * (1 + k)), 0.0, 1.0)
        points = [1.0 - t for t in roots]
    else:
        points = _sextic_points(a, u, k)
    polished = {_polish(x, a, u, k) for x in points}
    return _distinct(sorted(x for x in polished if 0 < x <= 1))


def _sextic_points(a: float, u: float, k: float) -> list[float]:
    root = float(np.sqrt(u))
    t = np.array([-root / 2, 0.0, root / 2])  # w t
    y = np.array([root / 2, 0.0, root / 2])  # w sqrt(e)
    one = np.array([0.0, 1.0])  # w
    left = poly.polymul(
        poly.polysub(one, t),
        poly.polyadd(poly.polymul(one, one), a * poly.polyadd(poly.polymul(y, y), k * poly.polymul(one, y))),
    )
    coefficients = poly.polysub(left, [0.0, 0.0, 0.0, 1.0])
    # t = 1 at w = (1 + sqrt(1 + u))/sqrt(u)
    roots = _real_roots(coefficients / np.abs(coefficients).max(), 1.0, (1 + np.hypot(1, root)) / root)
    return [1.0 - root * (w - 1 / w) / 2 for w in roots]


def _real_roots(coefficients: Array, low: float, high: float) -> list[float]:
    """Real roots of a polynomial (ascending powers) on [low, high]: between the roots of the derivative it is monotone."""
    from scipy.optimize import brentq  # here, because it takes most of a second to import

    coefficients = poly.polytrim(coefficients)
    if len(coefficients) <= 1:
        return []
    bends = _real_roots(poly.polyder(coefficients), low, high)
    edges = sorted({low, high, *bends})
    sizes = np.abs(coefficients)
    at = [float(poly.polyval(x, coefficients)) for x in edges]
    close = [
        abs(f) <= 8 * np.finfo(float).eps * float(poly.polyval(abs(x), sizes)) for x, f in zip(edges, at, strict=True)
    ]
    roots = [x for x, touches in zip(edges, close, strict=True) if touches]
    for i in range(len(edges) - 1):
        if at[i] * at[i + 1] < 0 and not (close[i] or close[i + 1]):
            roots.append(brentq(poly.polyval, edges[i], edges[i + 1], args=(coefficients,), xtol=1e-300, rtol=1e-15))
    return sorted(roots)


def _polish(x: float, a: float, u: float, k: float) -> float:
    """Newton on log x + log(1 + a (e + k sqrt(e))); keeps the start where a step does not help (double roots)."""
    best, best_error = x, np.inf
    for _ in range(8):
        t = 1.0 - x
        e = u + t * t
        size = 1 + a * (e + k * np.sqrt(e))
        error = x * size - 1
        if abs(error) >= best_error:
            break
        best, best_error = x, abs(error)
        bend = 2 * t + (k * t / np.sqrt(e) if e > 0 else k)
        slope = size - x * a * bend
        if error == 0 or slope == 0:
            break
        x = x - error / slope
        if not 0 < x <= 1:
            break
    return best


def _distinct(values: list[float]) -> list[float]:
    distinct: list[float] = []
    for value in values:
        if not distinct or abs(value - distinct[-1]) > 1e-13 * abs(value):
            distinct.append(value)
    return distinct


def _stable(mode: _Mode, c: float, eta_q: float, eta_p: float) -> bool:
    if mode.objective != "ntp+fwd" and mode.energy(c) <= mode.threshold:
        return True
    if mode.objective == "ntp+fwd" and mode.energy(c) == 0:
        return True  # sigma_p falls to 0 and holds the prior on the posterior ever more tightly
    state = _rest_state(mode, c)
    step = 1e-30
    jacobian = np.empty((len(state), len(state)))
    for i in range(len(state)):
        shifted = state.astype(complex)
        shifted[i] += 1j * step
        jacobian[:, i] = _flow(mode, shifted, eta_q, eta_p).imag / step
    return bool(np.linalg.eigvals(jacobian).real.max() < 0)


def _rest_state(mode: _Mode, c: float) -> Array:
    """(dbar, e, c, log sigma_p^2[, log sigma_q^2]) at a leaking root."""
    r, h = float(np.sqrt(mode.energy(c))), mode.h
    if mode.objective == "ntp+fwd":
        pull, sigma_p = 0.0, (r / h) ** 2
    elif mode.objective == "elbo":
        sigma_p = (r**2 / h - mode.beta) / h
        pull = mode.beta / sigma_p
    else:
        size = (r - float(np.sqrt(mode.gamma * h / 2))) / h  # sqrt(W)
        sigma_q = float(np.sqrt(2 * mode.gamma / h)) * size
        pull, sigma_p = mode.gamma / sigma_q, sigma_q + size**2
    dbar = (mode.gbar + pull * c) / (h + pull)
    state = [dbar, float(np.sqrt(mode.v0)) / (h + pull), c, float(np.log(sigma_p))]
    if mode.objective == "elbo":
        state.append(float(np.log(mode.beta / (h + pull))))
    elif mode.objective == "amvl":
        state.append(float(np.log(mode.gamma / pull)))
    return np.asarray(state)


def _flow(mode: _Mode, state: np.ndarray, eta_q: float, eta_p: float) -> np.ndarray:
    """Right-hand side of the module's flow; complex arguments give derivatives by a complex step."""
    dbar, e, c, log_p = state[:4]
    sigma_p = np.exp(log_p)
    sigma_q = np.exp(state[4]) if len(state) == 5 else 0.0
    w = e**2 + (dbar - c) ** 2
    if mode.objective == "ntp+fwd":
        pull, narrow = 0.0, 0.0
    elif mode.objective == "elbo":
        pull, narrow = mode.beta / sigma_p, mode.beta * (sigma_q / sigma_p - 1)
    else:
        pull, narrow = mode.gamma / sigma_q, mode.gamma * (1 - (sigma_p + w) / sigma_q)
    flow = [
        -eta_q * (mode.h * dbar - mode.gbar + pull * (dbar - c)),
        -eta_q * (mode.h * e - np.sqrt(mode.v0) + pull * e),
        -eta_p * (mode.beta * (c - dbar) / sigma_p + mode.alpha * c),
        -eta_p * mode.beta / 2 * (1 - (sigma_q + w) / sigma_p),
    ]
    if len(state) == 5:
        flow.append(-eta_q / 2 * (mode.h * sigma_q + narrow))
    return np.asarray(flow)
