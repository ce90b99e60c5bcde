"""Equilibria at fixed variances: frozen prior (T2), prior and posterior together (T3), spread (T4), the ELBO (T5).

    T2  prior held at c = 0        dbar = (H + gamma Lambda_q)^-1 gbar
    T3  both at rest               dbar = [H + gamma Lambda_q (I - S)]^-1 gbar,   c = S dbar
                                   S = (beta Lambda_p + A)^-1 beta Lambda_p,      I - S = (beta Lambda_p + A)^-1 A
    T4  spread of the answers      C = (H + gamma Lambda_q)^-1 G (H + gamma Lambda_q)^-1
    T5  ELBO, no stop-gradients    as T3 and T4 with beta Lambda_p in place of gamma Lambda_q

One mode:  c = s g / (h + gamma lambda_q (1 - s)),  s = beta lambda_p / (beta lambda_p + alpha), which is also
(g/h) beta lambda_p / (beta lambda_p + alpha (1 + gamma lambda_q/h)): the reverse KL acts as a stronger anchor.
So gamma lowers the contamination of a mode if and only if s < 1.

What falls with gamma and what need not: the response energy gbar^T dbar falls when A is diagonal (with diagonal
precisions) and for a frozen prior; tr(Lambda_q C) and the leaked information fall always; for diagonal H so does every
mode of c and every |C_ij|. Beyond these conditions each can grow: COUNTER_EXAMPLES holds instances in exact fractions.
The symbols are those of amvl_theory.model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, instance, not_negative, positive, real_array, weight
from amvl_theory.gaussian import gaussian_channel_information
from amvl_theory.model import MeanLeakageModel

MAX_CONDITION = 1e13
"""Condition number of H + gamma Lambda_q (I - S), rows and columns scaled to 1, from which on it counts as singular: rounding
makes that of a singular matrix about 1e16, and units of the modes, however far apart, do not count."""


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """Where prior and posterior means rest at fixed variances.

    Attributes:
        contamination: c (d,) [latent], the prior's shift.
        posterior_shift: dbar (d,) [latent], the mean leakage of the posterior.
        spread_cov: C (d, d) [latent^2], covariance over the answers of the posterior means.
        response_energy: gbar^T dbar [nats], twice the answer loss that the mean leakage would save without curvature.
        absorption: S (d, d), c = S dbar.
    """

    contamination: Array
    posterior_shift: Array
    spread_cov: Array
    response_energy: float
    absorption: Array


def equilibrium(model: MeanLeakageModel, beta: float, gamma: float) -> Equilibrium:
    """Rest point of the stop-gradient game at fixed variances, for any matrices (T3, T4).

    Args:
        beta: forward weight, at least 0 (0 is the limit from above, see MeanLeakageModel.absorption).
        gamma: reverse weight, at least 0.

    Raises:
        ValueError: for a bad weight, or where the game has no single rest point (H + gamma Lambda_q (I - S) singular,
            which needs H and A both dense).
    """
    instance("model", model, MeanLeakageModel)
    gamma = weight("gamma", gamma)
    return _rest_point(model, weight("beta", beta), gamma * model.Lambda_q)


def elbo_equilibrium(model: MeanLeakageModel, beta: float) -> Equilibrium:
    """Rest point of NTP + beta KL(q||p) without stop-gradients at fixed variances (T5).

    The posterior is pulled with beta Lambda_p. It is the rest point of the stop-gradient game where
    gamma Lambda_q = beta Lambda_p as matrices, for any H and A; mode by mode for diagonal matrices (equivalent_gamma).
    """
    instance("model", model, MeanLeakageModel)
    beta = weight("beta", beta)
    return _rest_point(model, beta, beta * model.Lambda_p)


def frozen_prior_response(model: MeanLeakageModel, gamma: float) -> Array:
    """dbar (d,) [latent] = (H + gamma Lambda_q)^-1 gbar while the prior is held at c = 0 (T2)."""
    instance("model", model, MeanLeakageModel)
    return np.asarray(np.linalg.solve(model.H + weight("gamma", gamma) * model.Lambda_q, model.g))


def spread(model: MeanLeakageModel, gamma: float) -> Array:
    """C (d, d) [latent^2] = (H + gamma Lambda_q)^-1 G (H + gamma Lambda_q)^-1, whatever the anchor (T4)."""
    instance("model", model, MeanLeakageModel)
    return _spread(model, weight("gamma", gamma) * model.Lambda_q)


def leaked_information(model: MeanLeakageModel, gamma: float) -> float:
    """1/2 log det(I + Lambda_q C) [nats] (T4), the Gaussian-channel value; never grows with gamma."""
    return gaussian_channel_information(spread(model, gamma), model.Lambda_q)


def mode_absorption(beta: ArrayLike, prior_precision: ArrayLike, anchor: ArrayLike) -> Array:
    """s = beta lambda_p / (beta lambda_p + alpha) of single modes; broadcasts (T3).

    beta = 0 is the limit from above: 1 without an anchor, else 0.
    """
    pull = not_negative("beta", beta) * positive("prior_precision", prior_precision)
    held = not_negative("anchor", anchor)
    total = pull + held
    free = total == 0
    return np.asarray(np.where(free, 1.0, pull / np.where(free, 1.0, total)))


def effective_anchor(
    anchor: ArrayLike, gamma: ArrayLike, posterior_precision: ArrayLike, curvature: ArrayLike
) -> Array:
    """alpha (1 + gamma lambda_q / h): the anchor that does without the reverse KL what gamma does with it (T3).

    c = (g/h) mode_absorption(beta, lambda_p, effective_anchor(...)), the form that keeps its digits as s -> 1.
    """
    ratio = _pull(gamma, posterior_precision) / positive("curvature", curvature)
    return not_negative("anchor", anchor) * (1.0 + ratio)


def mode_contamination(
    force: ArrayLike, curvature: ArrayLike, posterior_precision: ArrayLike, absorption: ArrayLike, gamma: ArrayLike
) -> Array:
    """c [latent] = s g / (h + gamma lambda_q (1 - s)) of single modes; broadcasts (T3).

    Raises:
        ValueError: for an absorption outside [0, 1], or another argument of the wrong sign.
    """
    s = _fraction("absorption", absorption)
    stiffness = positive("curvature", curvature) + _pull(gamma, posterior_precision) * (1.0 - s)
    return np.asarray(s * real_array("force", force) / stiffness)


def relative_contamination(
    absorption: ArrayLike, gamma: ArrayLike, posterior_precision: ArrayLike = 1.0, curvature: ArrayLike = 1.0
) -> Array:
    """c(gamma)/c(0) = 1 / (1 + (1 - s) gamma lambda_q / h) of single modes (T3): 1 for s = 1, T2's factor as s -> 0."""
    ratio = _pull(gamma, posterior_precision) / positive("curvature", curvature)
    return np.asarray(1.0 / (1.0 + ratio * (1.0 - _fraction("absorption", absorption))))


def equivalent_gamma(beta: ArrayLike, prior_precision: ArrayLike, posterior_precision: ArrayLike) -> Array:
    """gamma = beta lambda_p / lambda_q, at which dual KL and the ELBO of weight beta agree in a mode's mean (T5)."""
    pull = not_negative("beta", beta) * positive("prior_precision", prior_precision)
    return pull / positive("posterior_precision", posterior_precision)


def _rest_point(model: MeanLeakageModel, beta: float, pull: Array) -> Equilibrium:
    absorption = model.absorption(beta)
    if beta > 0:
        unabsorbed = np.linalg.solve(beta * model.Lambda_p + model.A, model.A)  # I - S without cancellation
    else:
        unabsorbed = np.eye(model.size) - absorption
    stiffness = model.H + pull @ unabsorbed
    rows, columns = _equilibration(stiffness)
    scaled = stiffness / rows[:, None] / columns
    if np.linalg.cond(scaled) > MAX_CONDITION:
        raise ValueError(
            "model: expected a game with one rest point, received H and A for which H + gamma Lambda_q (I - S) is singular "
            "(make H or A diagonal, or change gamma)"
        )
    shift = np.linalg.solve(scaled, model.g / rows) / columns
    return Equilibrium(absorption @ shift, shift, _spread(model, pull), float(model.g @ shift), absorption)


def _equilibration(matrix: Array) -> tuple[Array, Array]:
    """Factors of rows and columns without which the largest entry of every row, then of every column, is 1 (0 stays 0)."""
    rows = np.abs(matrix).max(axis=1)
    rows = np.where(rows > 0, rows, 1.0)
    columns = np.abs(matrix / rows[:, None]).max(axis=0)
    return rows, np.where(columns > 0, columns, 1.0)


def _spread(model: MeanLeakageModel, pull: Array) -> Array:
    half = np.linalg.solve(model.H + pull, model.G)
    covariance = np.linalg.solve(model.H + pull, half.T)
    return np.asarray(0.5 * (covariance + covariance.T))


def _pull(gamma: ArrayLike, posterior_precision: ArrayLike) -> Array:
    return not_negative("gamma", gamma) * positive("posterior_precision", posterior_precision)


def _fraction(name: str, value: ArrayLike) -> Array:
    array = not_negative(name, value)
    if (array > 1).any():
        raise ValueError(f"{name}: expected numbers from 0 to 1, received up to {array.max():.6g}")
    return array
