"""Joint equilibrium of means and variances of one mode, answers sharing one posterior variance, for each objective.

The force enters through its moments only: E = E_y (g_y - h c)^2 = v0 + (gbar - h c)^2, v0 = Var_y(g_y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from amvl_theory.theorems.proving.core import Proof
from amvl_theory.theorems.proving.gaussian import expectation, one_mode_gradients
from amvl_theory.theorems.proving.symbols import alpha, beta, c, delta, g, gamma, gbar, h, s_p, s_q, v0

E = sp.Symbol("E", positive=True)
"""E_y (g_y - h c)^2, the mean square force that is left at the prior mean [nats^2/latent^2]."""
FORCE_MOMENTS = (sp.Integer(1), gbar, gbar**2 + v0)


@dataclass(frozen=True)
class Coupled:
    """Active branch of one objective: variances, W = E_y (delta_y - c)^2 and X as functions of E.

    X is defined by c = beta gbar / (beta h + alpha X).
    """

    posterior_variance: Any
    prior_variance: Any
    W: Any
    X: Any


def deviation(objective: str) -> Any:
    """delta_y - c at stationarity in delta_y, given both variances."""
    return sp.factor(sp.solve(one_mode_gradients(objective)[delta], delta)[0] - c)


def averaged(expression: Any, objective: str) -> Any:
    """E_y of a gradient in a shared variable, with delta_y at its equilibrium: only moments of the force remain."""
    shift = c + deviation(objective)
    return sp.cancel(sp.together(expectation(expression.subs(delta, shift), g, FORCE_MOMENTS)))


def second_moment(proof: Proof, objective: str) -> Any:
    """W = E_y (delta_y - c)^2 as a function of E, checked against the moments of the force."""
    away = deviation(objective)
    scale = sp.cancel(away / (g - h * c))
    proof.equal(f"{objective}: delta_y - c is proportional to g_y - h c", sp.diff(scale, g), sp.Integer(0))
    W = scale**2 * E
    moments = expectation(away**2, g, FORCE_MOMENTS)
    proof.equal(
        f"{objective}: E_y (delta_y - c)^2 by the moments of the force", W.subs(E, v0 + (gbar - h * c) ** 2), moments
    )
    return W


def prior_equation(proof: Proof, objective: str, W: Any) -> Any:
    """s_p = s_q + W, from the gradient in the prior variance averaged over the answers."""
    gradient = averaged(one_mode_gradients(objective)[s_p], objective)
    matched = s_q + W.subs(E, v0 + (gbar - h * c) ** 2)
    target = beta * (s_p - matched) / (2 * s_p**2)
    proof.equal(f"{objective}: the prior variance matches, s_p = s_q + W", gradient, target)
    return s_q + W


def contamination_factor(proof: Proof, objective: str, s_posterior: Any, s_prior: Any) -> Any:
    """X of c = beta gbar / (beta h + alpha X), from the averaged gradient in the prior mean."""
    gradient = averaged(one_mode_gradients(objective)[c], objective)
    scale = sp.cancel(deviation(objective) / (g - h * c))
    closed = -beta * scale * (gbar - h * c) / s_p + alpha * c
    proof.equal(f"{objective}: gradient in the prior mean", gradient, closed)
    return sp.simplify((s_p / scale).subs(s_p, s_prior).subs(s_q, s_posterior))


def dual(proof: Proof) -> Coupled:
    """Dual KL: h s_q^2 = 2 gamma W, hence h s_q + gamma = sqrt(2 gamma E / h)."""
    W = second_moment(proof, "amvl")
    prior = prior_equation(proof, "amvl", W)
    gradient = one_mode_gradients("amvl")[s_q]
    second = sp.Symbol("W", positive=True)
    mean_gradient = h / 2 + gamma / 2 * (1 / s_q - (s_p + second) / s_q**2)
    from_loss = expectation(
        gradient.subs(delta, c + sp.Symbol("u", real=True)), sp.Symbol("u", real=True), [1, 0, second]
    )
    proof.equal("dual: gradient in the posterior variance", from_loss, mean_gradient)
    quadratic = sp.expand(2 * s_q**2 * mean_gradient)
    proof.step("dual KL, stationarity in s = sigma_q^2", sp.Eq(quadratic, 0))
    coupled = sp.expand(quadratic.subs(s_p, s_q + second))
    proof.equal("dual: with the matched prior, h s^2 = 2 gamma W", coupled, h * s_q**2 - 2 * gamma * second)
    residual = sp.factor(coupled.subs(second, W))
    active = sp.expand((h * s_q + gamma) ** 2 * residual / s_q**2)
    proof.step("dual KL, insert W; besides s = 0 there remains", sp.Eq(sp.factor(sp.cancel(active)), 0))
    roots = [root for root in sp.solve(sp.cancel(active), s_q) if not root.is_negative]
    posterior = roots[-1] if len(roots) == 1 else max(roots, key=lambda root: root.subs({gamma: 1, h: 1, E: 8}))
    posterior = sp.simplify(posterior)
    proof.equal("dual: its root that can be positive", posterior, (sp.sqrt(2 * gamma * E / h) - gamma) / h)
    X = contamination_factor(proof, "amvl", posterior, prior)
    return Coupled(posterior, sp.simplify(prior.subs(s_q, posterior)), sp.simplify(W.subs(s_q, posterior)), X)


def elbo(proof: Proof) -> Coupled:
    """ELBO: 1/s_q = 1/s_p + h/beta, hence h s_p + beta = E / h."""
    W = second_moment(proof, "elbo")
    prior = prior_equation(proof, "elbo", W)
    gradient = one_mode_gradients("elbo")[s_q]
    posterior = sp.solve(gradient, s_q)[0]
    proof.equal("elbo: the posterior variance", posterior, beta * s_p / (h * s_p + beta))
    proof.step("ELBO, stationarity in s_q", sp.Eq(s_q, posterior))
    residual = sp.factor(sp.together(s_p - prior.subs(s_q, posterior)))
    active = sp.cancel(residual * (h * s_p + beta) ** 2 / (s_p**2))
    proof.step("ELBO, matched prior; besides s_p = 0 there remains", sp.Eq(sp.factor(active), 0))
    roots = sp.solve(active, s_p)
    proof.equal("elbo: one other root", sp.Matrix(roots), sp.Matrix([(E / h - beta) / h]))
    s_prior = roots[0]
    s_posterior = sp.simplify(posterior.subs(s_p, s_prior))
    scale = sp.cancel(deviation("elbo") / (g - h * c))
    contamination_factor(proof, "elbo", s_posterior, s_prior)
    X = sp.simplify((s_p / scale).subs(s_p, s_prior))
    return Coupled(s_posterior, s_prior, sp.simplify(W.subs(s_p, s_prior)), X)


def forward(proof: Proof) -> Coupled:
    """Forward KL only: nothing holds the posterior variance up, and it goes to 0."""
    W = second_moment(proof, "ntp+fwd")
    prior = prior_equation(proof, "ntp+fwd", W)
    gradient = one_mode_gradients("ntp+fwd")[s_q]
    proof.sign("forward only: the posterior variance is driven to 0", gradient, h / 2, "> 0")
    X = contamination_factor(proof, "ntp+fwd", sp.Integer(0), prior)
    return Coupled(sp.Integer(0), prior.subs(s_q, 0), W, X)
