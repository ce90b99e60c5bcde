"""T9 on T5: contamination of a saturating mode whose means and variances are both free.

The mode is that of `saturation.py`, with posterior variance sigma_q^2 shared by the answers, prior variance by moment matching,
sigma_p^2 = sigma_q^2 + V, V = E_y (delta_y - c)^2, anchor alpha on c, and the curvature that the spread sees held at h. With
pi the strength with which delta_y is pulled to c,

    U'(delta_y) - g_y + pi (delta_y - c) = 0                          beta (E_y delta_y - c) / sigma_p^2 = alpha c

    forward-only   pi = 0                                             sigma_q = 0
    ELBO           pi = beta / sigma_p^2,  sigma_q^2 = beta / (h + pi)    so  pi (h + pi) V = beta h
    dual KL        pi = gamma / sigma_q^2, h sigma_q^4 = 2 gamma V        so  pi^2 V = gamma h / 2

For given c each left-hand side is scanned for pi; its limit for pi -> infinity is F = E_y (g_y - U'(c))^2, so that the posterior
collapses (V = 0) where F <= beta h or F <= gamma h / 2. Then pi (E delta - c) = gbar - U'(c), which with sigma_p = sigma_q
gives U'(c) + alpha c = gbar (ELBO) or U'(c) + (gamma alpha / beta) c = gbar (dual KL). For g0 -> infinity this is T5.

T5's ranking does not survive saturation. Forces 0.8 +- 1, h = 1.3, alpha = 0.6, beta = 0.7: at g0 = 1 forward-only leaves
0.247, dual KL with gamma = 0.5 0.302 and the ELBO 0.377 (linear: 0.398, 0.326, 0.398), because a pull towards the prior takes
the answers out of saturation, where the average of the responses is less than the response to the average.

Source: derived for this project.
"""

from __future__ import annotations

import numpy as np

from amvl_theory.checks import Array, objective_name, positive_number, real_array
from amvl_theory.nonlinear.saturation import SaturatingGame, response


def saturating_free_contamination(
    game: SaturatingGame, anchor: float, beta: float, gamma: float = 1.0, objective: str = "amvl", *, points: int = 400
) -> Array:
    """All equilibrium contaminations of a saturating mode with free means and variances (T5, T9), rising [latent].

    Args:
        game: forces, probabilities, saturation and curvature; its precision and absorption are not used, as here both
            follow from the equilibrium.
        anchor: alpha, above 0 [nats/latent^2].
        beta: weight of the forward KL (of the KL, for the ELBO), above 0.
        gamma: weight of the reverse KL, above 0; used by "amvl" only.
        objective: "ntp+fwd" (forward-only), "elbo" or "amvl" (dual KL). Older names: "fwd" and "dual".
        points: values of c between -chi and chi among which sign changes are looked for; closer roots than two of these can
            be missed.

    Returns:
        (roots,).

    Raises:
        ValueError: naming the argument out of range.
    """
    name = objective_name(objective)
    alpha, b = positive_number("anchor", anchor), positive_number("beta", beta)
    g = positive_number("gamma", gamma)
    if points < 3:
        raise ValueError(f"points: expected at least 3, received {points}")
    chi = game.saturation / game.curvature
    # No equilibrium lies beyond the shift of the strongest force. Even spacing in c, denser where chi tanh is steep.
    edge = chi * np.tanh(1.001 * float(np.abs(real_array("forces", game.forces)).max()) / game.saturation)
    grid = edge * np.linspace(-1.0, 1.0, points)
    value = _excess(game, grid, alpha, b, g, name)
    changes = np.flatnonzero((value[:-1] > 0) != (value[1:] > 0))
    low, high, sign = grid[changes], grid[changes + 1], np.sign(value[changes])
    for _ in range(55):
        middle = 0.5 * (low + high)
        same = np.sign(_excess(game, middle, alpha, b, g, name)) == sign
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return 0.5 * (low + high)


def _excess(game: SaturatingGame, prior: Array, alpha: float, beta: float, gamma: float, objective: str) -> Array:
    """beta (E delta - c) - alpha c sigma_p^2, divided by a positive factor, at trial contaminations (m,)."""
    forces, chance = real_array("forces", game.forces), real_array("p", game.answer_probabilities)
    g0, h = game.saturation, game.curvature
    chi = g0 / h
    slope = g0 * np.arctanh(prior / chi)

    def away(pull: Array) -> tuple[Array, Array]:
        """E delta - c and V at pull (m,)."""
        gap = response(forces + (pull * prior)[:, None], pull, g0, chi) - prior[:, None]
        return gap @ chance, gap**2 @ chance

    if objective == "ntp+fwd":
        mean, spread = away(np.zeros_like(prior))
        return beta * mean - alpha * prior * spread
    target = beta * h if objective == "elbo" else 0.5 * gamma * h
    low, high = np.full(prior.shape, np.log(1e-9 * h)), np.full(prior.shape, np.log(1e9 * h))
    for _ in range(60):
        middle = 0.5 * (low + high)
        pull = np.exp(middle)
        spread = away(pull)[1]
        strength = pull * (h + pull) * spread if objective == "elbo" else pull**2 * spread
        low, high = np.where(strength < target, middle, low), np.where(strength < target, high, middle)
    pull = np.exp(0.5 * (low + high))
    mean, spread = away(pull)
    force = (forces @ chance) - slope
    if objective == "elbo":
        return np.where((forces - slope[:, None]) ** 2 @ chance > target, pull * mean, force) - alpha * prior
    active = beta * mean * pull - alpha * prior * (gamma + pull * spread)
    collapsed = beta * force - gamma * alpha * prior
    return np.where((forces - slope[:, None]) ** 2 @ chance > target, active, collapsed)
