"""T9: how far the linear Gaussian theory carries, for a response that saturates (mixtures: `mixture.py`).

One mode, fixed posterior precision lambda_q, answers y with forces g_y and probabilities p(y). The answer loss at posterior
mean m* + delta is -g_y delta + U(delta) with the binary entropy potential

    U(delta) = (g0 chi / 2) [ (1 + m) log(1 + m) + (1 - m) log(1 - m) ],     m = delta / chi,  |m| < 1
    U'  = g0 atanh(m)        U'' = h / (1 - m^2),  h = g0 / chi        U''' = 2 h m / (chi (1 - m^2)^2)

whose minimum without a KL is the saturating response delta = chi tanh(g / g0); g0 -> infinity at fixed h is the linear
theory. U is the loss as a function of the posterior mean, not an average of a loss of z (which would need z in (-chi, chi)).
The game is

    U'(delta_y) - g_y + gamma lambda_q (delta_y - c) = 0                  c = s E_y delta_y,  s the absorption

As U'' >= h, delta_y = R(g_y + gamma lambda_q c) with 0 < R' <= 1/(h + gamma lambda_q): the map c -> s E R is a contraction
and the equilibrium is unique.

What survives: with c = 0 every |delta_y| falls with gamma, so T2's fall of a single force does. What does not:

    T3  A fully absorbed mode keeps its contamination in the linear theory. Here it moves, from E_y chi tanh(g_y/g0) at
        gamma = 0 to chi tanh(E_y g_y / g0) for gamma -> infinity, because the reverse KL makes all answers share one
        posterior: with forces spread about a mean of one sign the contamination of a mode with s near 1 grows with gamma
        (`GROWING_EXAMPLE`: from 0.117 to 0.762).
    T4  Spread and leaked information never grow in the linear theory. Here they can, where all forces are of one sign: the
        reverse KL takes the answers out of saturation and so apart (`SPREADING_EXAMPLE`, forces 3 g0 and 2 g0: the shifts
        differ by 0.031 chi at gamma = 0, by 0.140 chi at gamma lambda_q = h).

With means and variances both free, balanced forces +-g (T6), and the spread's curvature held at h, the linear result
carries over with the response in front:

    sqrt(V) = chi tanh( (g - sqrt(gamma h / 2)) / g0 )    below gamma_c = 2 g^2 / h, unchanged;    sigma_q^2 = sqrt(2 gamma V / h)

Source: derived for this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amvl_theory.checks import Array, check_fields, not_negative, one_of, positive, positive_number, real_array, weight
from amvl_theory.nonlinear import common
from amvl_theory.nonlinear.common import NonlinearEquilibrium


@dataclass(frozen=True, eq=False)
class SaturatingGame(common.AnsweredGame):
    """One saturating mode; the module's equations.

    Attributes:
        forces, answer_probabilities: g_y, p(y) (answers,) [nats/latent].
        saturation: g0, the force at which the response bends, above 0 [nats/latent].
        curvature: h at delta = 0, above 0 [nats/latent^2].
        posterior_precision: lambda_q, above 0 [1/latent^2].
        absorption: s, 0 to 1.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    saturation: float
    curvature: float = 1.0
    posterior_precision: float = 1.0
    absorption: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive_number, "saturation", "curvature", "posterior_precision")
        object.__setattr__(self, "absorption", common.checked_absorption(self.absorption))


GROWING_EXAMPLE = SaturatingGame([3.0, -1.0], [0.5, 0.5], saturation=1.0, absorption=1.0)
"""Its contamination is 1/2 (tanh 3 - tanh 1) = 0.117 at gamma = 0 and tanh 1 = 0.762 for gamma -> infinity."""
SPREADING_EXAMPLE = SaturatingGame([3.0, 2.0], [0.5, 0.5], saturation=1.0, absorption=0.0)
"""Its spread is 1/4 (tanh 3 - tanh 2)^2 = 0.00024 at gamma = 0 and 0.0049 at gamma = 1, and the leaked information follows."""


@dataclass(frozen=True, eq=False)
class NonlinearSpread:
    """The self-consistent spread of a saturating mode (T6), of the broadcast shape of the arguments.

    Attributes:
        variance: V = Var(delta) [latent^2].
        posterior_variance: sigma_q^2 [latent^2].
        snr: V / sigma_q^2; 0 above the critical weight.
        linear_variance: V of T6.
    """

    variance: Array
    posterior_variance: Array
    snr: Array
    linear_variance: Array


def saturating_equilibrium(game: SaturatingGame, gamma: ArrayLike) -> NonlinearEquilibrium:
    """The unique equilibrium at fixed variances beside the linear theory (T9).

    Args:
        game: the mode.
        gamma: weights of the reverse KL, any shape (...).

    Raises:
        ValueError: for a negative gamma.
    """
    forces, chance = real_array("forces", game.forces), real_array("p", game.answer_probabilities)
    weights = not_negative("gamma", gamma)
    return _saturating(
        np.broadcast_to(forces, (*weights.shape, forces.size)),
        chance,
        weights,
        game.saturation,
        game.curvature,
        game.posterior_precision,
        game.absorption,
    )


def saturating_error_map(
    force_ratios: ArrayLike,
    gammas: ArrayLike,
    *,
    spread_ratio: float = 0.5,
    absorption: float = 0.5,
    pull_ratio: float = 1.0,
) -> NonlinearEquilibrium:
    """Equilibria over (mean force / g0, gamma) for two balanced answers with forces gbar (1 +- spread_ratio) (T9).

    Units: g0 = h = 1, lambda_q = `pull_ratio`, so that gamma lambda_q / h = gamma pull_ratio.

    Args:
        force_ratios: gbar / g0 (m,).
        gammas: (k,).
        spread_ratio: standard deviation of the force over its mean, at least 0.
        absorption: s.
        pull_ratio: lambda_q g0^2 / h^2 (posterior precision in units of the response).

    Returns:
        equilibria with arrays (m, k); their `contamination_error` and so on are the maps.

    Raises:
        ValueError: naming the argument out of range.
    """
    ratios, weights = real_array("force_ratios", force_ratios), not_negative("gammas", gammas)
    common.checked_axes(force_ratios=ratios, gammas=weights)
    return _balanced(ratios[:, None], weights, spread_ratio, absorption, pull_ratio)


def saturating_spread(
    force_std: ArrayLike,
    curvature: float,
    saturation: float,
    gamma: ArrayLike,
    *,
    spread_curvature: str = "reference",
) -> NonlinearSpread:
    """Self-consistent spread under dual KL of balanced forces +-force_std with a saturating response (T6, T9).

    Means and variances are free, c = 0, prior by moment matching.

    Args:
        force_std: g, at least 0; broadcasts with gamma.
        curvature: h, above 0.
        saturation: g0, above 0.
        gamma: weight of the reverse KL, above 0.
        spread_curvature: what the posterior variance sees. "reference": h everywhere; closed form. "local": the second
            order of E_q U, U(delta) + 1/2 U''(delta) sigma_q^2, so that the mean is pushed by 1/2 U''' sigma_q^2 too; root
            of g0 theta + 1/2 U''' sigma_q^2 + sqrt(gamma U''/2) = g in theta = atanh(m), increasing in theta.

    Raises:
        ValueError: naming the argument out of range.
    """
    one_of("spread_curvature", spread_curvature, ("reference", "local"))
    force, weights = np.broadcast_arrays(not_negative("force_std", force_std), positive("gamma", gamma))
    h = positive_number("curvature", curvature)
    g0 = positive_number("saturation", saturation)
    chi, net = g0 / h, np.maximum(force - np.sqrt(weights * h / 2.0), 0.0)
    theta = net / g0
    if spread_curvature == "local":
        low, high = np.zeros_like(theta), theta
        for _ in range(60):
            theta = 0.5 * (low + high)
            m, bend = np.tanh(theta), h * np.cosh(theta) ** 2
            push = m * m * np.cosh(theta) ** 4 * h * np.sqrt(2.0 * weights / bend)
            above = g0 * theta + push + np.sqrt(weights * bend / 2.0) > force
            low, high = np.where(above, low, theta), np.where(above, theta, high)
    shift = chi * np.tanh(theta)
    bend = h if spread_curvature == "reference" else h * np.cosh(theta) ** 2
    variance = shift**2
    return NonlinearSpread(
        variance=variance,
        posterior_variance=np.sqrt(2.0 * weights / bend) * shift,
        snr=shift * np.sqrt(bend / (2.0 * weights)),
        linear_variance=(net / h) ** 2,
    )


def valid_range(
    gammas: ArrayLike,
    *,
    quantity: str = "contamination",
    tolerance: float = 0.1,
    spread_ratio: float = 0.5,
    absorption: float = 0.5,
    pull_ratio: float = 1.0,
    largest: float = 20.0,
) -> Array:
    """Largest mean force / g0 up to which the linear theory is within `tolerance` of the saturating mode (T9).

    The setting is that of `saturating_error_map`; the error is |linear / exact - 1|. Without a reverse KL and with a single
    force, x / tanh x - 1 = 0.1 gives x = 0.5532.

    Args:
        gammas: (k,).
        quantity: "contamination", "spread" or "leaked_nats".
        tolerance: above 0.
        spread_ratio, absorption, pull_ratio: as there; quantities but the contamination need spread_ratio above 0.
        largest: end of the search.

    Returns:
        (k,); infinity where the linear theory holds up to `largest`.

    Raises:
        ValueError: naming the argument out of range.
    """
    limit, end = common.checked_search(quantity, tolerance, largest)
    if quantity != "contamination":
        positive("spread_ratio", spread_ratio)
    elif common.checked_absorption(absorption) == 0:
        raise ValueError("absorption: expected a number above 0 for the contamination, received 0")
    weights = not_negative("gammas", gammas)

    def error(ratios: Array, gamma: Array) -> Array:
        return _balanced(ratios, gamma, spread_ratio, absorption, pull_ratio).error(quantity)

    return common.first_crossing(error, weights, limit, np.geomspace(1e-3 * end, end, 120))


def _balanced(
    ratios: Array, gamma: Array, spread_ratio: float, absorption: float, pull_ratio: float
) -> NonlinearEquilibrium:
    """The setting of `saturating_error_map` at broadcast ratios and gammas."""
    ratio, weights = np.broadcast_arrays(ratios, gamma)
    forces = ratio[..., None] * (1.0 + weight("spread_ratio", spread_ratio) * np.array([1.0, -1.0]))
    precision = positive_number("pull_ratio", pull_ratio)
    return _saturating(
        forces, np.array([0.5, 0.5]), weights, 1.0, 1.0, precision, common.checked_absorption(absorption)
    )


def _saturating(
    forces: Array, chance: Array, gamma: Array, g0: float, h: float, precision: float, absorbed: float
) -> NonlinearEquilibrium:
    """Forces (..., answers), gamma (...): bisection on c, whose equation is increasing, Newton on each answer."""
    chi, pull = g0 / h, gamma * precision
    low, high = np.full(gamma.shape, -chi), np.full(gamma.shape, chi)
    for _ in range(60):
        prior = 0.5 * (low + high)
        above = prior > absorbed * (response(forces + (pull * prior)[..., None], pull, g0, chi) @ chance)
        low, high = np.where(above, low, prior), np.where(above, prior, high)
    prior = 0.5 * (low + high)
    shift = response(forces + (pull * prior)[..., None], pull, g0, chi)
    prior = absorbed * (shift @ chance)
    mean = forces @ chance
    own = (h + pull)[..., None]
    linear = (forces - mean[..., None]) / own
    deviation = shift - (shift @ chance)[..., None]
    return NonlinearEquilibrium(
        contamination=prior,
        posterior_shift=shift,
        spread=deviation**2 @ chance,
        leaked_nats=common.mutual_information(shift, chance, precision),
        linear_contamination=absorbed * mean / (h + pull * (1.0 - absorbed)),
        linear_spread=linear**2 @ chance,
        linear_leaked_nats=common.mutual_information(linear, chance, precision),
        unique=np.ones(gamma.shape, dtype=bool),
    )


def response(force: Array, pull: Array, g0: float, chi: float) -> Array:
    """delta with U'(delta) + pull delta = force (..., answers).

    In theta = atanh(m): g0 theta + pull chi tanh(theta) = force is increasing and, for theta > 0, concave, so that Newton's
    steps from theta = |force| / (g0 + pull chi), which lies below the root, rise to it without overshooting.
    """
    size, stiff = np.abs(force), (pull * chi)[..., None]
    theta = size / (g0 + stiff)
    for _ in range(100):
        m = np.tanh(theta)
        step = (size - g0 * theta - stiff * m) / (g0 + stiff * (1.0 - m * m))
        theta = theta + step
        if np.abs(step).max(initial=0.0) <= 1e-14 * (1.0 + theta.max(initial=0.0)):
            break
    return np.asarray(np.sign(force) * chi * np.tanh(theta))
