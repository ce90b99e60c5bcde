"""The variance channel: leaked information when variances follow the means, and its phase transition (T6).

One mode, one posterior variance sigma_q^2 for all answers, prior mean at 0, prior variance by moment matching
(sigma_p^2 = sigma_q^2 + V), V = E delta^2, v0 = Var_y(g_y) (E g^2 where gbar != 0).

    dual KL    h sigma_q^4 + gamma sigma_q^2 = gamma (sigma_p^2 + V),   hence   sigma_q^2 = sqrt(2 gamma V / h)
               sqrt(V) = (sqrt(v0) - sqrt(gamma h / 2)) / h             below   gamma_c = 2 v0 / h
               V / sigma_q^2 = 1/2 (sqrt(gamma_c / gamma) - 1)
    ELBO       sigma_q^2 = beta / (h + beta / sigma_p^2) = (beta / h) (1 - beta / beta_c)
               sqrt(V) = sqrt(v0) / h - beta / sqrt(v0)                 below   beta_c = v0 / h
               V / sigma_q^2 = beta_c / beta - 1

Above its critical weight either posterior carries nothing: V = 0. There sigma_q^2 = 0 as well: nothing in either
objective rewards width, so posterior and prior contract onto a point together (like 1/t under gradient flow) with
V / sigma_q^2 -> 0. The variances are returned as 0, the ratio and the information as 0. At weight 0 the posterior
contracts while V stays: ratio and Gaussian-channel information are infinite (the information itself is H(y) at most).

Shared variances are exact for the ELBO, whose sigma_q^2 is the same for every answer even if each has its own; for dual
KL they are an assumption: see amvl_theory.equilibria.per_answer.

Source of the ELBO half as posterior collapse: Lucas et al., Don't blame the ELBO!, NeurIPS 2019. A linear VAE with
decoder slope w and noise sigma_x^2 has g = w x / sigma_x^2 and h = w^2 / sigma_x^2, so beta_c = Var(x) / sigma_x^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, instance, is_diagonal, not_negative, objective_name, positive, real_array
from amvl_theory.checks import probabilities as checked_probabilities
from amvl_theory.gaussian import mixture_information
from amvl_theory.model import MeanLeakageModel

SpreadObjective = Literal["amvl", "elbo", "dual"]
"""Dual KL and ELBO; "dual" is the older name of "amvl"."""
_OBJECTIVES = ("amvl", "elbo")
EQUAL_WEIGHT_CROSSOVER = 2.0 / ((1.0 + np.sqrt(5.0)) / 2.0) ** 2
"""2/phi^2 = 0.764: dual KL leaks less than the ELBO of the same weight below this multiple of beta_c (T6)."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Leakage in the spread channel; arrays of the broadcast shape.

    Attributes:
        variance: V = Var_y(delta_y) [latent^2].
        posterior_variance: sigma_q^2 [latent^2]; 0 at and above the critical weight.
        snr: V / sigma_q^2, taken as a limit where both are 0.
        leaked_nats: 1/2 log(1 + snr) [nats], the Gaussian-channel value: an upper bound for finitely many answers.
    """

    variance: Array
    posterior_variance: Array
    snr: Array
    leaked_nats: Array


def free_spread(model: MeanLeakageModel, weight: ArrayLike, objective: SpreadObjective = "amvl") -> Spread:
    """Leaked variance and information of every mode of a diagonal model, prior mean at the reference (T6).

    Args:
        model: H and G diagonal, so that every mode stands alone; v0 = G_ii + gbar_i^2. Its precisions and anchor are not
            used: variances are free, the prior mean is held.
        weight: gamma of "amvl", beta of "elbo", at least 0, any shape.
        objective: "amvl" (dual KL; older name "dual") or "elbo".

    Returns:
        Arrays (..., d): `weight`'s shape, then modes.

    Raises:
        ValueError: for a curvature or force covariance that is not diagonal (`sparse_spread` solves dense curvatures), a
            weight below 0, or an unknown objective.
    """
    instance("model", model, MeanLeakageModel)
    if not (is_diagonal(model.H) and is_diagonal(model.G)):
        raise ValueError("model: expected a diagonal curvature and force covariance, received a dense one")
    v0 = np.diagonal(model.G) + model.g**2
    return self_consistent_spread(v0, np.diagonal(model.H), real_array("weight", weight)[..., None], objective)


def self_consistent_spread(
    force_var: ArrayLike, curvature: ArrayLike, weight: ArrayLike, objective: SpreadObjective = "amvl"
) -> Spread:
    """`free_spread` of one mode from bare numbers; broadcasts.

    Args:
        force_var: v0, at least 0 [nats^2/latent^2].
        curvature: h, above 0 [nats/latent^2].
        weight: gamma of "amvl", beta of "elbo", at least 0.
        objective: "amvl" (dual KL; older name "dual") or "elbo".

    Raises:
        ValueError: for an argument of the wrong sign, or an unknown objective.
    """
    name = objective_name(objective, _OBJECTIVES)
    v0, h, w = not_negative("force_var", force_var), positive("curvature", curvature), not_negative("weight", weight)
    v0, h, w = np.broadcast_arrays(v0, h, w)
    root = np.sqrt(v0)
    force = np.where(v0 > 0, root, 1.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if name == "amvl":
            ratio = np.sqrt(w * h / 2) / force  # sqrt(gamma/gamma_c)
            remaining = np.where(v0 > 0, np.maximum(1.0 - ratio, 0.0), 0.0)
            variance = (root * remaining / h) ** 2
            posterior = np.sqrt(2 * w / h) * root * remaining / h
            snr = np.where(remaining > 0, 0.5 * remaining / ratio, 0.0)
        else:
            ratio = w * h / force**2  # beta/beta_c
            remaining = np.where(v0 > 0, np.maximum(1.0 - ratio, 0.0), 0.0)
            variance = (root * remaining / h) ** 2
            posterior = w / h * remaining
            snr = np.where(remaining > 0, remaining / ratio, 0.0)
    return Spread(np.asarray(variance), np.asarray(posterior), np.asarray(snr), np.asarray(0.5 * np.log1p(snr)))


def critical_weight(force_var: ArrayLike, curvature: ArrayLike, objective: SpreadObjective = "amvl") -> Array:
    """Weight from which on the posterior carries no answer information: 2 v0/h for "amvl", v0/h for "elbo" (T6)."""
    factor = 2.0 if objective_name(objective, _OBJECTIVES) == "amvl" else 1.0
    return factor * not_negative("force_var", force_var) / positive("curvature", curvature)


def equal_weight_crossover(force_var: ArrayLike, curvature: ArrayLike) -> Array:
    """The weight 2/phi^2 v0/h below which dual KL leaks less than the ELBO of equal weight, and above which more (T6)."""
    return EQUAL_WEIGHT_CROSSOVER * critical_weight(force_var, curvature, "elbo")


def exact_leaked_information(
    forces: ArrayLike,
    curvature: float,
    weight: ArrayLike,
    objective: SpreadObjective = "amvl",
    probabilities: ArrayLike | None = None,
) -> Array:
    """I(z; y) [nats] of finitely many answers at the shared-variance solution of T6, by quadrature.

    The posterior means are g_y sqrt(V/v0) at variance sigma_q^2, so the information depends on the forces' shape and on
    V/sigma_q^2 only. It lies below both the Gaussian-channel value and H(y).

    Args:
        forces: g_y (n,) [nats/latent], of mean 0 under the probabilities, or as v0 = E g^2 where it is not.
        curvature: h. weight: any shape, above 0.
        probabilities: p(y|x) (n,), equal if left out.

    Raises:
        ValueError: for a bad argument; a weight of 0 has no mixture density (the information is H(y)).
    """
    g = real_array("forces", forces)
    if g.ndim != 1 or not g.size:
        raise ValueError(f"forces: expected shape (answers,), received {g.shape}")
    if probabilities is None:
        p = np.full(g.size, 1.0 / g.size)
    else:
        p = checked_probabilities("probabilities", probabilities, g.size)
    v0 = float(p @ g**2)
    solution = self_consistent_spread(v0, curvature, positive("weight", weight), objective)
    standard = g / np.sqrt(v0) if v0 > 0 else g
    return mixture_information(np.sqrt(solution.snr)[..., None] * standard, 1.0, p)
