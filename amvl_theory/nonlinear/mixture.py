"""T9: posteriors that are mixtures of two Gaussians, beside the linear Gaussian theory.

One mode, answer loss of curvature h, answers y with forces g_y. Each posterior has a mean delta_y that training moves and a
fixed shape: weight 1 - w at offset -w D, weight w at offset (1 - w) D, both of standard deviation sigma, so that

    E_q (z - m*) = delta_y,      Var_q z = tau^2 = sigma^2 + w (1 - w) D^2,      E_q L_NTP = -g_y delta_y + h/2 delta_y^2 + const

and prior N(m* + c, sigma_p^2). T1 needs no Gaussian posterior: the best prior still matches moments, hence c = s E_y delta_y
as in T3. The reverse KL does: with e = delta_y - c, responsibilities r_k(z) and offsets o_k,

    P(e)  = d/de KL(p || q_y) = E_p[ (e + sum_k r_k o_k - (z - c)) / sigma^2 ]
    P'(e) = E_p[ 1/sigma^2 - Var_r(o) / sigma^4 ]

replaces lambda_q e, lambda_q = 1 / tau^2, and the equilibrium solves h delta_y - g_y + gamma P(delta_y - c) = 0.

Two things are new. P' is not constant, and below 0 for components far apart: several equilibria can coexist. They cannot
where h + gamma P' > 0 everywhere, which D <= 2 sigma always grants (Var_r(o) <= D^2 / 4); `unique` reports the check on the
range that the solution could reach. And P(0) != 0 for w != 1/2: the reverse KL pushes a skewed posterior off the prior's
mean, so that c != 0 with no mean force at all (T2 and T3 say 0). That shift carries no answer information; the leaked
information is computed from the mixtures themselves.

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, check_fields, not_negative, positive, positive_number, real_array, weight
from amvl_theory.nonlinear import common
from amvl_theory.nonlinear.common import NonlinearEquilibrium

MAX_STEPS = 200
"""Newton steps before the solver gives up."""


@dataclass(frozen=True, eq=False)
class MixtureGame(common.AnsweredGame):
    """One mode with two-component posteriors; the module's equations. Arrays of the shape parameters broadcast (...).

    Attributes:
        forces, answer_probabilities: g_y, p(y) (answers,) [nats/latent].
        separation: D, at least 0 [latent].
        component_weight: w, 0 to 1.
        component_std: sigma, above 0 [latent].
        curvature: h, above 0 [nats/latent^2].
        absorption: s, 0 to 1.
        prior_std: sigma_p [latent]; tau if left out, the moment match of one posterior.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    separation: ArrayLike
    component_weight: ArrayLike = 0.5
    component_std: float = 1.0
    curvature: float = 1.0
    absorption: float = 0.5
    prior_std: ArrayLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        share = not_negative("component_weight", self.component_weight)
        if (share > 1).any():
            raise ValueError(f"component_weight: expected numbers from 0 to 1, received {share.max():g}")
        values = {"component_weight": share, "separation": not_negative("separation", self.separation)}
        if self.prior_std is not None:
            values["prior_std"] = positive("prior_std", self.prior_std)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        check_fields(self, positive_number, "component_std", "curvature")
        object.__setattr__(self, "absorption", common.checked_absorption(self.absorption))

    @property
    def variance(self) -> Array:
        """tau^2 (...), of one posterior [latent^2]."""
        w, gap = np.asarray(self.component_weight), np.asarray(self.separation)
        return np.asarray(self.component_std**2 + w * (1.0 - w) * gap**2)


def reverse_pull(game: MixtureGame, shift: ArrayLike) -> tuple[Array, Array]:
    """P(e) and P'(e), the slope and curvature of KL(p || q) in e = delta - c, of the broadcast shape.

    Args:
        game: shape of the posterior.
        shift: e; broadcasts with the game's shape parameters.
    """
    nodes, quadrature = common.normal_rule()
    e = real_array("shift", shift)[..., None]
    w, gap = np.asarray(game.component_weight)[..., None], np.asarray(game.separation)[..., None]
    sigma = game.component_std
    spread = np.sqrt(game.variance) if game.prior_std is None else np.asarray(game.prior_std)
    z = spread[..., None] * nodes - e  # about the posterior's mean
    # log of the ratio of the components' weighted densities, upper over lower
    middle = (0.5 - w) * gap
    with np.errstate(divide="ignore"):
        odds = np.log(w) - np.log1p(-w) + gap * (z - middle) / sigma**2
    upper = 0.5 * (1.0 + np.tanh(0.5 * odds))
    offset = gap * (upper - w)
    pull = ((offset - z) / sigma**2) @ quadrature
    bend = (1.0 / sigma**2 - gap**2 * upper * (1.0 - upper) / sigma**4) @ quadrature
    return pull, bend


def mixture_equilibrium(game: MixtureGame, gamma: ArrayLike) -> NonlinearEquilibrium:
    """The equilibrium that continues the linear one, beside the linear theory (T9).

    Args:
        game: the mode.
        gamma: weights of the reverse KL; broadcasts with the game's shape parameters to (...).

    Raises:
        ValueError: for a negative gamma.
        ArithmeticError: where Newton's method does not settle, as it may where `unique` would be false.
    """
    weights = not_negative("gamma", gamma)
    forces, chance = real_array("forces", game.forces), real_array("p", game.answer_probabilities)
    shape = np.broadcast_shapes(
        weights.shape, game.variance.shape, () if game.prior_std is None else np.shape(game.prior_std)
    )
    column = _with_answers(game)
    h, s, precision = game.curvature, game.absorption, np.broadcast_to(1.0 / game.variance, shape)
    weights = np.broadcast_to(weights, shape)
    linear_prior = s * (forces @ chance) / (h + weights * precision * (1.0 - s))
    linear = (forces - forces @ chance) / (h + weights * precision)[..., None]
    prior, e = _newton(column, forces, chance, weights[..., None], linear_prior, s)
    shift = prior[..., None] + e
    deviation = e - (e @ chance)[..., None]
    return NonlinearEquilibrium(
        contamination=prior,
        posterior_shift=shift,
        spread=deviation**2 @ chance,
        leaked_nats=_mixture_information(column, shift, chance),
        linear_contamination=linear_prior,
        linear_spread=linear**2 @ chance,
        linear_leaked_nats=common.mutual_information(linear, chance, precision),
        unique=_unique(column, weights, forces, shape),
    )


def mixture_error_map(
    separations: ArrayLike,
    component_weights: ArrayLike,
    *,
    gamma: float = 1.0,
    forces: ArrayLike = (1.5, 0.5),
    answer_probabilities: ArrayLike = (0.5, 0.5),
    curvature: float = 1.0,
    absorption: float = 0.5,
) -> NonlinearEquilibrium:
    """Equilibria over (separation / sigma, weight of the upper component), sigma = 1 (T9).

    Args:
        separations: D / sigma (m,).
        component_weights: w (k,).
        gamma, forces, answer_probabilities, curvature, absorption: as `MixtureGame`.

    Returns:
        equilibria with arrays (m, k); their `contamination_error` and so on are the maps.

    Raises:
        ValueError: naming the argument out of range.
    """
    gaps, shares = not_negative("separations", separations), not_negative("component_weights", component_weights)
    common.checked_axes(separations=gaps, component_weights=shares)
    game = MixtureGame(forces, answer_probabilities, gaps[:, None], shares, 1.0, curvature, absorption)
    return mixture_equilibrium(game, weight("gamma", gamma))


def mixture_valid_range(
    component_weights: ArrayLike,
    *,
    gamma: float = 1.0,
    quantity: str = "contamination",
    tolerance: float = 0.1,
    forces: ArrayLike = (1.5, 0.5),
    answer_probabilities: ArrayLike = (0.5, 0.5),
    curvature: float = 1.0,
    absorption: float = 0.5,
    largest: float = 6.0,
) -> Array:
    """Largest separation / sigma up to which the linear theory is within `tolerance`, and the equilibrium unique (T9).

    Args:
        component_weights: w (k,).
        quantity: "contamination", "spread" or "leaked_nats".
        tolerance: of |linear / exact - 1|.
        largest: end of the search; others as `mixture_error_map`.

    Returns:
        (k,); infinity where the linear theory holds up to `largest`.

    Raises:
        ValueError: naming the argument out of range.
    """
    limit, end = common.checked_search(quantity, tolerance, largest)
    shares = not_negative("component_weights", component_weights)

    def error(gaps: Array, columns: Array) -> Array:
        gap, share = np.broadcast_arrays(gaps, columns)
        game = MixtureGame(forces, answer_probabilities, gap, share, 1.0, curvature, absorption)
        result = mixture_equilibrium(game, weight("gamma", gamma))
        return np.where(result.unique, result.error(quantity), np.nan)

    return common.first_crossing(error, shares, limit, np.linspace(end / 60, end, 60))


def _with_answers(game: MixtureGame) -> MixtureGame:
    """The same game with an axis for the answers at the end of its shape parameters."""
    prior_std = None if game.prior_std is None else np.asarray(game.prior_std)[..., None]
    return MixtureGame(
        game.forces,
        game.answer_probabilities,
        np.asarray(game.separation)[..., None],
        np.asarray(game.component_weight)[..., None],
        game.component_std,
        game.curvature,
        game.absorption,
        prior_std,
    )


def _newton(
    game: MixtureGame, forces: Array, chance: Array, gamma: Array, prior: Array, s: float
) -> tuple[Array, Array]:
    """c (...) and e_y = delta_y - c (..., answers) by damped Newton steps from the linear equilibrium.

    With Q(e) = h e + gamma P(e): Q(e_y) = g_y - h c and (1 - s) c = s E e_y. The system has the shape of an arrow: each
    e_y is eliminated for c. For s = 0 the second equation is c = 0.
    """
    h = game.curvature
    e = (forces - h * prior[..., None]) / (h + gamma / game.variance)

    def residual(c: Array, deviation: Array) -> tuple[Array, Array, Array, Array]:
        pull, bend = reverse_pull(game, deviation)
        first = h * deviation + gamma * pull - forces + h * c[..., None]
        second = (1.0 - s) * c - s * (deviation @ chance)
        return first, second, h + gamma * bend, np.abs(first).sum(axis=-1) + np.abs(second)

    first, second, slope, size = residual(prior, e)
    # Rounding in P, whose terms are up to the spread over sigma^2, is all that may be left.
    widest = np.sqrt(game.variance) + np.asarray(game.separation) + np.abs(e).max(initial=0.0)
    scale = 1.0 + float(np.abs(forces).max()) + (0.1 * gamma * widest / game.component_std**2).max(axis=-1)
    for _ in range(MAX_STEPS):
        if (size <= 1e-13 * scale).all():
            return prior, e
        slope = np.where(np.abs(slope) < 1e-3 * h, 1e-3 * h, slope)
        step_c = (-second - s * ((first / slope) @ chance)) / (1.0 - s + s * h * ((1.0 / slope) @ chance))
        step_e = -(first + h * step_c[..., None]) / slope
        share = np.ones_like(prior)
        for _ in range(30):
            trial = prior + share * step_c, e + share[..., None] * step_e
            result = residual(*trial)
            worse = result[3] > size * (1.0 - 1e-4 * share) + 1e-14 * scale
            if not worse.any():
                break
            share = np.where(worse, 0.5 * share, share)
        (prior, e), (first, second, slope, size) = trial, result
    raise ArithmeticError(
        f"the mixture equilibrium did not converge: residual {size.max():.3g} after {MAX_STEPS} steps"
    )


def _unique(game: MixtureGame, gamma: Array, forces: Array, shape: tuple[int, ...]) -> Array:
    """Whether h + gamma P'(e) > 0 on a grid over the range that e can reach: |e| <= largest |g| / h + D."""
    reach = 2.0 * float(np.abs(forces).max()) / game.curvature + np.asarray(game.separation)
    _, bend = reverse_pull(game, reach * np.linspace(-1.0, 1.0, 81))
    return np.broadcast_to((game.curvature + gamma[..., None] * bend).min(axis=-1) > 0, shape)


def _mixture_information(game: MixtureGame, shift: Array, chance: Array) -> Array:
    """I(Z; Y) (...) of the mixtures themselves, by quadrature around each of their components [nats]."""
    nodes, quadrature = common.normal_rule()
    w, gap, sigma = np.asarray(game.component_weight), np.asarray(game.separation), game.component_std
    offsets = np.stack(np.broadcast_arrays(-w * gap, (1.0 - w) * gap), axis=-1)  # (..., 1, 2)
    shares = np.stack([1.0 - w, w], axis=-1)
    total = np.zeros(shift.shape[:-1])
    for y, probability in enumerate(chance):
        z = (shift[..., y, None] + offsets[..., 0, :])[..., None] + sigma * nodes  # (..., 2, nodes)
        away = (z[..., None, None] - (shift[..., None] + offsets)[..., None, None, :, :]) / sigma
        with np.errstate(divide="ignore"):
            log_parts = -0.5 * away**2 + np.log(shares)[..., None, None, :, :]
        peak = log_parts.max(axis=(-2, -1), keepdims=True)
        item = np.exp(log_parts - peak).sum(axis=-1)  # (..., 2, nodes, answers)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(item[..., y]) - np.log(item @ chance)
        own = np.broadcast_to(shares[..., 0, :, None], ratio.shape)
        total = total + probability * np.where(own > 0, own * ratio, 0.0).sum(axis=-2) @ quadrature
    return np.maximum(total, 0.0)
