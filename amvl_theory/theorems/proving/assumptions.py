"""The conditions that the statements name, each decidable on a `MeanLeakageModel` where numbers can decide it."""

from __future__ import annotations

import numpy as np

from amvl_theory.checks import is_definite, is_diagonal
from amvl_theory.model import MeanLeakageModel
from amvl_theory.theorems.proving.core import Assumption

TOLERANCE = 1e-10


def _commutes(model: MeanLeakageModel, beta: float, gamma: float) -> bool:
    commutator = model.H @ model.Lambda_q - model.Lambda_q @ model.H
    return float(np.abs(commutator).max()) <= TOLERANCE * float(np.abs(model.H @ model.Lambda_q).max())


def _norm_safe(model: MeanLeakageModel, beta: float, gamma: float) -> bool:
    relative = np.linalg.solve(model.Lambda_q, model.H)
    return float(np.linalg.eigvalsh(relative + relative.T)[0]) >= -TOLERANCE * float(np.abs(relative).max())


def _not_absorbed(model: MeanLeakageModel, beta: float, gamma: float) -> bool:
    return is_definite(model.A)


def _diagonal_precisions(model: MeanLeakageModel, beta: float, gamma: float) -> bool:
    return is_diagonal(model.Lambda_q) and is_diagonal(model.Lambda_p)


def _unique_root(model: MeanLeakageModel, beta: float, gamma: float) -> bool:
    return model.size == 1 and float(model.g[0] ** 2) <= 3 * float(model.G[0, 0])


CURVATURE = Assumption("H > 0", "the curvature is positive definite", "H \\succ 0", lambda model, beta, gamma: True)
ANCHOR = Assumption("A >= 0", "the anchor is positive semidefinite", "A \\succeq 0", lambda model, beta, gamma: True)
FIXED_POSTERIOR = Assumption("fixed posterior", "the posterior does not move", "q_y \\text{ given}")
FIXED_VARIANCES = Assumption(
    "fixed variances", "both variances are held constant", "\\dot\\Lambda_q = \\dot\\Lambda_p = 0"
)
FREE_VARIANCES = Assumption(
    "free variances", "means and variances are at their joint equilibrium", "\\sigma_q, \\sigma_p \\text{ free}"
)
SHARED_VARIANCE = Assumption(
    "shared variance", "one posterior variance for all answers of a query", "\\Sigma_{q_y} = \\Sigma_q"
)
LINEAR_RESPONSE = Assumption("linear response", "the answer loss is quadratic in z", "\\nabla L = H (z - m^*) - g_y")
FINITE_MOMENTS = Assumption("two moments", "the posterior has a mean and a variance", "E_q |z|^2 < \\infty")
FROZEN_PRIOR = Assumption("frozen prior", "the prior mean is held at the reference", "c = 0")
UNBIASED_OR_RAW = Assumption(
    "c = 0",
    "the prior mean is at the reference; v0 is the second moment of the force if its mean is not 0",
    "c = 0, v_0 = E g^2",
)
BALANCED_PAIR = Assumption("balanced pair", "two answers of probability 1/2", "y = \\pm 1, p = 1/2")
WEIGHTS = Assumption(
    "weights > 0",
    "beta and gamma are positive",
    "\\beta, \\gamma > 0",
    lambda model, beta, gamma: beta > 0 and gamma > 0,
)
PRECISIONS = Assumption(
    "Lambda diagonal",
    "both distributions are diagonal",
    "\\Lambda_q, \\Lambda_p \\text{ diagonal}",
    _diagonal_precisions,
)
ONE_MODE = Assumption("one mode", "a single latent mode", "d = 1", lambda model, beta, gamma: model.size == 1)
DIAGONAL_CURVATURE = Assumption(
    "H diagonal", "the curvature is diagonal", "H \\text{ diagonal}", lambda model, beta, gamma: is_diagonal(model.H)
)
DIAGONAL_ANCHOR = Assumption(
    "A diagonal", "the anchor is diagonal", "A \\text{ diagonal}", lambda model, beta, gamma: is_diagonal(model.A)
)
ONE_DIAGONAL = Assumption(
    "H or A diagonal",
    "the curvature or the anchor is diagonal",
    "H \\text{ or } A \\text{ diagonal}",
    lambda model, beta, gamma: is_diagonal(model.H) or is_diagonal(model.A),
)
NOT_ABSORBED = Assumption("s < 1", "every mode is anchored, so none is fully absorbed", "s < 1", _not_absorbed)
FORCE = Assumption(
    "g != 0", "every mode is pulled", "\\bar g_i \\neq 0", lambda model, beta, gamma: bool(np.all(model.g != 0))
)
COMMUTING = Assumption(
    "H Lambda_q = Lambda_q H", "curvature and posterior precision commute", "[H, \\Lambda_q] = 0", _commutes
)
NORM_SAFE = Assumption(
    "sym(Lambda_q^-1 H) >= 0",
    "the symmetric part of Lambda_q^-1 H is positive semidefinite",
    "\\Lambda_q^{-1} H + H \\Lambda_q^{-1} \\succeq 0",
    _norm_safe,
)
UNIQUE_ROOT = Assumption(
    "gbar^2 <= 3 v0", "sufficient for one equilibrium of each objective", "\\bar g^2 \\le 3 v_0", _unique_root
)

KL_ONLY = Assumption("KL gradients only", "the answer loss does not move the heads", "\\nabla L_{\\rm NTP} = 0")
GRADIENT_FLOW = Assumption("gradient flow", "steps are short beside every time scale", "\\eta \\to 0")
SHARED_GAP = Assumption(
    "one gap", "the mean square gap is that of all answers together", "D = E_y (\\mu_{q_y} - \\mu_p)^2"
)
ANSWER_PRIOR = Assumption(
    "E xi = 0, Var xi = 1",
    "the decoder without the latent is calibrated, the leak is centred",
    "E \\xi = 0, E \\xi^2 = 1",
)
GAUSSIAN_START = Assumption("Gaussian start", "the random start is Gaussian with mean 0", "x(0) \\sim N(0, \\Sigma_0)")
SMALL_LEAK = Assumption("small leak", "second order in decoder and leak", "w, a \\to 0")
SCALE_FREE = Assumption("scale-free decoder", "the decoder reads z through w z only", "L_{\\rm NTP} = f(w z)")
NO_DECAY = Assumption("no weight decay", "nothing but the loss moves the weights", "\\lambda = 0")
MATCHED_PRIOR = Assumption("beta > 0", "the prior's width follows", "\\beta > 0", lambda model, beta, gamma: beta > 0)
LATE_TIME = Assumption("late times", "the widths have grown past every rate", "t \\to \\infty")

MEAN_GAME = (CURVATURE, ANCHOR, WEIGHTS, LINEAR_RESPONSE)
"""What every statement about the coupled means assumes."""
