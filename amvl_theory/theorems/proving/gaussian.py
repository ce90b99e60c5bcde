"""Gaussian KLs, the stop-gradient and the losses of the model, as sympy expressions.

The stop-gradient is what it is in the training code: the stopped distribution enters the loss as a copy with symbols of
its own, the loss is differentiated, and only then are the copies identified with the originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from amvl_theory.theorems.proving.core import Proof
from amvl_theory.theorems.proving.symbols import alpha, beta, c, delta, g, gamma, h, s_p, s_q


def normal_log_density(z: Any, mean: Any, var: Any) -> Any:
    """log N(z; mean, var)."""
    return -((z - mean) ** 2) / (2 * var) - (sp.log(2 * sp.pi) + sp.log(var)) / 2


def kl(mean_a: Any, var_a: Any, mean_b: Any, var_b: Any) -> Any:
    """KL(N(mean_a, var_a) || N(mean_b, var_b)) of one mode, in nats."""
    return (sp.log(var_b) - sp.log(var_a) + (var_a + (mean_a - mean_b) ** 2) / var_b - 1) / 2


def check_kl_by_integration(proof: Proof) -> None:
    """The closed form of the KL is the integral of a (log a - log b), with z = mean_a + sqrt(var_a) u."""
    a, b = sp.symbols("mu_a mu_b", real=True)
    r, t = sp.symbols("r t", positive=True)
    u = sp.Symbol("u", real=True)
    z = a + r * u
    integrand = sp.expand(normal_log_density(z, a, r**2) - normal_log_density(z, b, t**2))
    weight = sp.exp(-(u**2) / 2) / sp.sqrt(2 * sp.pi)
    moments = [sp.integrate(u**k * weight, (u, -sp.oo, sp.oo)) for k in range(3)]
    integral = expectation(integrand, u, moments)
    closed = kl(a, r**2, b, t**2)
    proof.equal("KL of two Gaussians by integration over the density", sp.expand_log(integral), sp.expand_log(closed))
    proof.step("KL of two Gaussian modes, from the densities by integration", sp.simplify(closed))


def expectation(expression: Any, variable: Any, moments: Sequence[Any]) -> Any:
    """E of a polynomial in ``variable`` whose k-th moment is ``moments[k]``: E is linear, for any probabilities."""
    terms = sp.Poly(sp.expand(expression), variable).terms()
    return sum(coefficient * moments[power] for (power,), coefficient in terms)


class StopGradient:
    """sg[.]: replaces parameters by stopped copies, and identifies the copies again after a derivative was taken."""

    def __init__(self, *parameters: Any) -> None:
        self._copies = {p: sp.Symbol(f"{p.name}_sg", **p.assumptions0) for p in parameters}

    def __call__(self, expression: Any) -> Any:
        return sp.sympify(expression).xreplace(self._copies)

    def gradient(self, loss: Any, parameter: Any) -> Any:
        """d loss / d parameter with the stopped copies held, then identified with the originals."""
        back = {copy: original for original, copy in self._copies.items()}
        return sp.diff(loss, parameter).xreplace(back)


def one_mode_gradients(objective: str) -> dict[Any, Any]:
    """Gradients of the loss of one mode and one answer with respect to delta, c, s_q and s_p (variances).

    objective: "amvl" (both KLs, stop-gradients), "ntp+fwd" (forward KL only, stop-gradient) or "elbo" (no stop-gradient).
    """
    sg = StopGradient(delta, c, s_q, s_p)
    answer = -g * delta + h * delta**2 / 2 + h * s_q / 2
    pulls = {
        "amvl": beta * kl(sg(delta), sg(s_q), c, s_p) + gamma * kl(sg(c), sg(s_p), delta, s_q),
        "ntp+fwd": beta * kl(sg(delta), sg(s_q), c, s_p),
        "elbo": beta * kl(delta, s_q, c, s_p),
    }
    loss = answer + pulls[objective] + alpha * c**2 / 2
    return {parameter: sg.gradient(loss, parameter) for parameter in (delta, c, s_q, s_p)}


def matrix_gradients(
    curvature: Any,
    force: Any,
    anchor: Any,
    precision_q: Sequence[Any],
    precision_p: Sequence[Any],
    objective: str = "amvl",
) -> tuple[Any, Any, Any, Any]:
    """(delta, c, gradient in delta, gradient in c), column vectors, for dense H and A and diagonal precisions."""
    size = curvature.shape[0]
    mean_q = sp.Matrix(sp.symbols(f"delta_1:{size + 1}", real=True))
    mean_p = sp.Matrix(sp.symbols(f"c_1:{size + 1}", real=True))
    sg = StopGradient(*mean_q, *mean_p)
    loss = (-force.T * mean_q + mean_q.T * curvature * mean_q / 2 + mean_p.T * anchor * mean_p / 2)[0]
    for i in range(size):
        q, p = (mean_q[i], 1 / precision_q[i]), (mean_p[i], 1 / precision_p[i])
        if objective == "amvl":
            loss += beta * kl(sg(q[0]), q[1], *p) + gamma * kl(sg(p[0]), p[1], *q)
        else:
            loss += beta * kl(*q, *p)
    gradients = [sp.Matrix([sp.expand(sg.gradient(loss, x)) for x in vector]) for vector in (mean_q, mean_p)]
    return mean_q, mean_p, gradients[0], gradients[1]


def positive_matrix(prefix: str) -> Any:
    """A generic positive definite 2x2 matrix, by its Cholesky factor."""
    a, b = sp.symbols(f"{prefix}_a {prefix}_b", positive=True)
    low = sp.Symbol(f"{prefix}_o", real=True)
    factor = sp.Matrix([[a, 0], [low, b]])
    return sp.expand(factor * factor.T)


def solve_linear(gradient: Any, unknowns: Any) -> Any:
    """The solution of gradient = 0, linear in the unknowns."""
    jacobian = gradient.jacobian(unknowns)
    constant = gradient.xreplace({x: sp.Integer(0) for x in unknowns})
    return (jacobian.LUsolve(-constant)).applyfunc(sp.cancel)
