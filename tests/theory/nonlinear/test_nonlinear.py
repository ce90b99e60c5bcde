"""T9: beyond the linear Gaussian case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, root
from scipy.stats import norm

from amvl_theory.nonlinear.common import mutual_information
from amvl_theory.nonlinear.free_variances import saturating_free_contamination
from amvl_theory.nonlinear.mixture import (
    MixtureGame,
    mixture_equilibrium,
    mixture_error_map,
    mixture_valid_range,
    reverse_pull,
)
from amvl_theory.nonlinear.saturation import (
    GROWING_EXAMPLE,
    SPREADING_EXAMPLE,
    SaturatingGame,
    saturating_equilibrium,
    saturating_error_map,
    saturating_spread,
    valid_range,
)


def slope_of_potential(delta, g0, h):
    return g0 * np.arctanh(delta * h / g0)


@pytest.mark.parametrize("absorbed", [0.0, 0.3, 1.0])
def test_saturating_equilibrium_solves_its_stationarity_equations(absorbed):
    game = SaturatingGame([2.0, -1.0, 0.7], [0.2, 0.5, 0.3], 0.9, 1.3, 2.1, absorbed)
    result = saturating_equilibrium(game, [0.0, 0.4, 30.0])
    for gamma, prior, shift in zip([0.0, 0.4, 30.0], result.contamination, result.posterior_shift, strict=True):
        force = slope_of_potential(shift, 0.9, 1.3) + gamma * 2.1 * (shift - prior)
        np.testing.assert_allclose(force, [2.0, -1.0, 0.7], rtol=1e-9)
        np.testing.assert_allclose(prior, absorbed * shift @ [0.2, 0.5, 0.3], rtol=1e-10, atol=1e-14)


def test_the_response_without_a_reverse_kl_is_the_hyperbolic_tangent():
    result = saturating_equilibrium(SaturatingGame([2.0, -0.3], [0.5, 0.5], 0.9, 1.3), 0.0)
    np.testing.assert_allclose(result.posterior_shift, 0.9 / 1.3 * np.tanh(np.array([2.0, -0.3]) / 0.9), rtol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(0.01, 100.0))
def test_the_linear_theory_is_the_limit_of_a_large_saturation_force(seed, absorbed, gamma):
    rng = np.random.default_rng(seed)
    chance = rng.dirichlet(np.ones(3))
    result = saturating_equilibrium(SaturatingGame(rng.normal(size=3), chance, 1e5, 1.3, 0.7, absorbed), gamma)
    np.testing.assert_allclose(result.contamination, result.linear_contamination, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(result.spread, result.linear_spread, rtol=1e-6)
    np.testing.assert_allclose(result.leaked_nats, result.linear_leaked_nats, rtol=1e-5, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_with_a_frozen_prior_every_shift_falls_with_gamma(seed, g0):
    rng = np.random.default_rng(seed)
    game = SaturatingGame(rng.normal(size=4), rng.dirichlet(np.ones(4)), g0, absorption=0.0)
    result = saturating_equilibrium(game, [0.0, 0.2, 1.0, 5.0])
    assert (np.diff(np.abs(result.posterior_shift), axis=0) <= 1e-12).all()


def test_a_fully_absorbed_saturating_mode_moves_with_gamma_and_can_grow():
    result = saturating_equilibrium(GROWING_EXAMPLE, [0.0, 1.0, 10.0, 1e6])
    np.testing.assert_allclose(result.contamination[0], 0.5 * (np.tanh(3.0) - np.tanh(1.0)), rtol=1e-10)
    np.testing.assert_allclose(result.contamination[-1], np.tanh(1.0), rtol=1e-5)
    assert (np.diff(result.contamination) > 0).all()
    np.testing.assert_allclose(result.linear_contamination, 1.0)


def test_spread_and_leaked_information_of_saturated_answers_can_grow_with_gamma_with_a_frozen_prior():
    result = saturating_equilibrium(SPREADING_EXAMPLE, [0.0, 1.0])
    np.testing.assert_allclose(result.spread[0], 0.25 * (np.tanh(3.0) - np.tanh(2.0)) ** 2, rtol=1e-10)
    np.testing.assert_allclose(np.ptp(result.posterior_shift, axis=1), [0.031, 0.140], atol=1e-3)
    assert result.spread[1] > 10 * result.spread[0]
    assert result.leaked_nats[1] > 10 * result.leaked_nats[0]
    assert result.linear_spread[1] < result.linear_spread[0]


def test_contamination_of_a_partly_absorbed_mode_can_grow_with_gamma_too():
    result = saturating_equilibrium(SaturatingGame([3.0, -1.0], [0.5, 0.5], 1.0, absorption=0.9), [0.0, 1.0])
    assert result.contamination[1] > 1.5 * result.contamination[0]
    assert result.linear_contamination[1] < result.linear_contamination[0]


def information_by_integration(densities, chance):
    z = np.linspace(-15, 15, 20_001)
    item = np.array([density(z) for density in densities])
    return (chance @ (item * np.log(item / (chance @ item)))).sum() * (z[1] - z[0])


@pytest.mark.parametrize(("gap", "chance"), [(0.1, [0.5, 0.5]), (1.0, [0.3, 0.7]), (4.0, [0.2, 0.8])])
def test_mutual_information_equals_a_fine_integration(gap, chance):
    result = mutual_information(np.array([0.0, gap]), np.array(chance), 1.7)
    densities = [norm(mean, 1.7**-0.5).pdf for mean in (0.0, gap)]
    np.testing.assert_allclose(result, information_by_integration(densities, np.array(chance)), rtol=1e-9)


def test_mutual_information_is_at_most_the_entropy_of_the_answer():
    np.testing.assert_allclose(mutual_information(np.array([0.0, 50.0, 100.0]), np.full(3, 1 / 3), 1.0), np.log(3))
    assert mutual_information(np.zeros(3), np.full(3, 1 / 3), 1.0) == pytest.approx(0.0, abs=1e-14)


def test_error_maps_hold_single_equilibria_and_grow_with_force_and_fall_with_gamma():
    result = saturating_error_map([0.2, 1.0], [0.1, 2.0], spread_ratio=0.4, absorption=0.7, pull_ratio=1.5)
    alone = saturating_equilibrium(SaturatingGame([1.4, 0.6], [0.5, 0.5], 1.0, 1.0, 1.5, 0.7), 2.0)
    np.testing.assert_allclose(result.contamination[1, 1], alone.contamination, rtol=1e-12)
    np.testing.assert_allclose(result.leaked_error[1, 1], alone.leaked_error, rtol=1e-9)
    for error in (result.contamination_error, result.spread_error, result.leaked_error):
        assert (error > 0).all()
        assert (error[1] > error[0]).all()
        assert (error[:, 1] < error[:, 0]).all()


def test_range_of_a_single_force_without_a_reverse_kl_is_its_closed_form():
    expected = brentq(lambda x: x / np.tanh(x) - 1.1, 0.1, 2.0)
    np.testing.assert_allclose(valid_range([0.0], spread_ratio=0.0), expected, rtol=1e-9)


@pytest.mark.parametrize("quantity", ["contamination", "spread", "leaked_nats"])
def test_at_the_end_of_its_range_the_linear_theory_is_off_by_the_tolerance(quantity):
    name = {"contamination": "contamination_error", "spread": "spread_error", "leaked_nats": "leaked_error"}[quantity]
    ends = valid_range([0.0, 1.0, 3.0], quantity=quantity)
    for end, gamma in zip(ends, [0.0, 1.0, 3.0], strict=True):
        error = getattr(saturating_error_map([end], [gamma]), name)
        np.testing.assert_allclose(np.abs(error), 0.1, rtol=1e-6)
    assert (np.diff(ends) > 0).all()


def test_the_range_is_infinite_where_the_theory_holds_up_to_the_end_of_the_search():
    assert np.isinf(valid_range([1.0], largest=0.2))[0]


@pytest.mark.parametrize("gamma", [0.05, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("local", [False, True])
def test_self_consistent_saturating_spread_solves_mean_and_variance_equations(gamma, local):
    h, g0, force = 1.3, 0.8, 1.0
    chosen = "local" if local else "reference"
    result = saturating_spread(force, h, g0, gamma, spread_curvature=chosen)
    if gamma > 2 * force**2 / h:
        assert (result.variance, result.snr, result.linear_variance) == (0.0, 0.0, 0.0)
        return
    delta, s = np.sqrt(result.variance), result.posterior_variance
    m = delta * h / g0
    bend = h / (1 - m**2) if local else h
    third = 2 * h * m / (g0 / h * (1 - m**2) ** 2) if local else 0.0
    np.testing.assert_allclose(slope_of_potential(delta, g0, h) + 0.5 * third * s + gamma * delta / s, force, rtol=1e-9)
    # h s^2 + gamma s - gamma (sigma_p^2 + V) = 0 with sigma_p^2 = s + V
    np.testing.assert_allclose(bend * s**2, 2 * gamma * result.variance, rtol=1e-9)
    np.testing.assert_allclose(result.snr, result.variance / s, rtol=1e-12)


def test_saturation_leaves_the_critical_weight_where_it_was_and_tends_to_T6():
    critical = 2.0 / 1.3
    for curvature in ("reference", "local"):
        result = saturating_spread(1.0, 1.3, 0.5, [0.999 * critical, 1.001 * critical], spread_curvature=curvature)
        assert result.variance[0] > 0
        assert result.variance[1] == 0
        linear = saturating_spread(1.0, 1.3, 1e4, [0.05, 0.2, 1.0], spread_curvature=curvature)
        np.testing.assert_allclose(linear.variance, [0.3976, 0.24195, 0.02222], rtol=2e-4)
        np.testing.assert_allclose(linear.snr, [2.2735, 0.8868, 0.1202], rtol=5e-4)


# Means and variances free


def test_free_variances_tend_to_the_contaminations_of_T5():
    game = SaturatingGame([1.8, -0.2], [0.5, 0.5], 1e5, 1.3)
    expected = {("ntp+fwd", 1.0): 0.39757, ("elbo", 1.0): 0.39757, ("amvl", 0.1): 0.36238, ("amvl", 0.5): 0.32596}
    for (objective, gamma), value in expected.items():
        result = saturating_free_contamination(game, 0.6, 0.7, gamma, objective)
        np.testing.assert_allclose(result, [value], atol=2e-5)
    bistable = saturating_free_contamination(SaturatingGame([3.1, 2.9], [0.5, 0.5], 1e5), 1.0, 1.0, 0.002)
    np.testing.assert_allclose(bistable[[0, 2]], [0.376, 2.954], atol=1e-3)


def test_free_variances_solve_all_equations_of_the_dual_game():
    h, g0, alpha, beta, gamma = 1.3, 0.9, 0.6, 0.7, 0.3
    forces, chance = np.array([1.8, -0.2, 0.4]), np.array([0.5, 0.2, 0.3])

    def equations(unknown):
        shift, prior, own = g0 / h * np.tanh(unknown[:3]), unknown[3], np.exp(unknown[4])
        apart = (shift - prior) ** 2 @ chance
        matched = own + apart
        of_shift = g0 * unknown[:3] - forces + gamma / own * (shift - prior)
        of_prior = beta / matched * (prior - shift @ chance) + alpha * prior
        return [*of_shift, of_prior, h * own**2 + gamma * own - gamma * (matched + apart)]

    (result,) = saturating_free_contamination(SaturatingGame(forces, chance, g0, h), alpha, beta, gamma)
    start = [*(0.5 * forces / g0), result, np.log(0.1)]
    truth = root(equations, start, tol=1e-13)
    assert truth.success
    np.testing.assert_allclose(result, truth.x[3], rtol=1e-8)


@pytest.mark.parametrize(("objective", "gamma", "factor"), [("elbo", 1.0, 1.0), ("amvl", 9.0, 9.0 / 20.0)])
def test_a_collapsed_posterior_leaves_the_prior_the_mean_force_alone(objective, gamma, factor):
    beta = 20.0
    (result,) = saturating_free_contamination(
        SaturatingGame([1.2, 0.8], [0.5, 0.5], 0.9, 1.3), 0.6, beta, gamma, objective
    )
    np.testing.assert_allclose(slope_of_potential(result, 0.9, 1.3) + factor * 0.6 * result, 1.0, rtol=1e-9)


def test_saturation_reverses_the_ranking_of_T5():
    game = SaturatingGame([1.8, -0.2], [0.5, 0.5], 1.0, 1.3)
    forward, elbo, dual = (
        saturating_free_contamination(game, 0.6, 0.7, 0.5, objective)[0] for objective in ("ntp+fwd", "elbo", "amvl")
    )
    assert forward < dual < elbo


# Mixtures


def mixture_log_density(game, e):
    w, gap, sigma = float(game.component_weight), float(game.separation), game.component_std

    def log_density(z):
        parts = [norm(e - w * gap, sigma).logpdf(z), norm(e + (1 - w) * gap, sigma).logpdf(z)]
        return np.logaddexp(parts[0] + np.log1p(-w), parts[1] + np.log(w))

    return log_density


@pytest.mark.parametrize(("gap", "w"), [(1.0, 0.3), (2.5, 0.5), (6.0, 0.8)])
def test_the_pull_is_the_slope_of_the_reverse_kl_by_integration(gap, w):
    game = MixtureGame([1.0], [1.0], gap, w, 0.8)
    z = np.linspace(-40, 40, 40_001)
    prior = norm(0.0, np.sqrt(game.variance))

    def divergence(e):
        log_q = mixture_log_density(game, e)
        return ((prior.pdf(z) * (prior.logpdf(z) - log_q(z))).sum()) * (z[1] - z[0])

    step = 1e-3
    for e in (-1.0, 0.0, 0.6):
        pull, bend = reverse_pull(game, e)
        below, at, above = (divergence(e + shift) for shift in (-step, 0.0, step))
        np.testing.assert_allclose(pull, (above - below) / (2 * step), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(bend, (above - 2 * at + below) / step**2, rtol=1e-4, atol=1e-5)


def test_mixture_equilibrium_solves_its_stationarity_equations():
    game = MixtureGame([1.5, -0.4, 0.2], [0.5, 0.2, 0.3], [[0.5], [3.0]], [0.2, 0.5, 0.9], 0.7, 1.3, 0.6, 1.1)
    result = mixture_equilibrium(game, 2.0)
    assert result.contamination.shape == (2, 3)
    for i, gap in enumerate((0.5, 3.0)):
        for j, w in enumerate((0.2, 0.5, 0.9)):
            alone = MixtureGame([1.5, -0.4, 0.2], [0.5, 0.2, 0.3], gap, w, 0.7, 1.3, 0.6, 1.1)
            shift, prior = result.posterior_shift[i, j], result.contamination[i, j]
            pull, _ = reverse_pull(alone, shift - prior)
            np.testing.assert_allclose(1.3 * shift + 2.0 * pull, [1.5, -0.4, 0.2], atol=1e-10)
            np.testing.assert_allclose(prior, 0.6 * shift @ [0.5, 0.2, 0.3], atol=1e-11)


def test_mixture_equilibrium_agrees_with_a_general_root_finder():
    game = MixtureGame([1.5, -0.4], [0.7, 0.3], 2.0, 0.3, absorption=0.8)

    def equations(unknown):
        shift, prior = unknown[:2], unknown[2]
        pull, _ = reverse_pull(game, shift - prior)
        return np.append(shift + 3.0 * pull - [1.5, -0.4], prior - 0.8 * shift @ [0.7, 0.3])

    truth = root(equations, np.zeros(3), tol=1e-13).x
    result = mixture_equilibrium(game, 3.0)
    np.testing.assert_allclose(np.append(result.posterior_shift, result.contamination), truth, atol=1e-9)


@pytest.mark.parametrize(("gap", "w"), [(0.0, 0.4), (2.0, 0.0), (2.0, 1.0)])
def test_a_mixture_of_one_component_is_the_linear_theory(gap, w):
    result = mixture_equilibrium(MixtureGame([1.5, -0.4], [0.7, 0.3], gap, w), [0.0, 1.0, 20.0])
    np.testing.assert_allclose(result.contamination_error, 0.0, atol=1e-10)
    np.testing.assert_allclose(result.spread_error, 0.0, atol=1e-10)
    np.testing.assert_allclose(result.leaked_error, 0.0, atol=1e-8)


@pytest.mark.parametrize(("gap", "w"), [(1.0, 0.3), (3.0, 0.5)])
def test_information_leaked_by_mixtures_equals_a_fine_integration(gap, w):
    chance = np.array([0.7, 0.3])
    game = MixtureGame([1.5, -0.4], chance, gap, w)
    result = mixture_equilibrium(game, 1.0)
    logs = [mixture_log_density(game, shift) for shift in result.posterior_shift]
    densities = [lambda z, log=log: np.exp(log(z)) for log in logs]
    np.testing.assert_allclose(result.leaked_nats, information_by_integration(densities, chance), rtol=1e-9)


def test_a_skewed_posterior_is_contaminated_without_a_mean_force():
    balanced = mixture_equilibrium(MixtureGame([1.0, -1.0], [0.5, 0.5], 2.0, 0.5), 1.0)
    skewed = mixture_equilibrium(MixtureGame([1.0, -1.0], [0.5, 0.5], 2.0, 0.2), 1.0)
    np.testing.assert_allclose(balanced.contamination, 0.0, atol=1e-12)
    assert abs(skewed.contamination) > 0.01
    assert np.isnan(mixture_equilibrium(MixtureGame([0.0], [1.0], 0.0), 1.0).contamination_error)


def test_equilibria_are_unique_for_close_components_and_flagged_where_they_are_not():
    near = mixture_equilibrium(MixtureGame([0.2, -0.2], [0.5, 0.5], 2.0, 0.5, prior_std=0.01), 1e6)
    assert near.unique.all()
    far = MixtureGame([0.0], [1.0], 8.0, 0.5, prior_std=0.5, absorption=0.0)
    assert not mixture_equilibrium(far, 1.0).unique.any()


def test_mixture_maps_and_ranges_agree():
    ends = mixture_valid_range([0.3, 0.5], quantity="spread")
    for end, w in zip(ends, [0.3, 0.5], strict=True):
        error = mixture_error_map([end], [w]).spread_error
        np.testing.assert_allclose(np.abs(error), 0.1, rtol=1e-6)
    assert np.isinf(mixture_valid_range([0.5], largest=2.0, quantity="spread"))[0]
    assert (ends > 1.5).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SaturatingGame(1.0, [1.0], 1.0), r"^forces: expected shape \(answers,\)"),
        (lambda: SaturatingGame([1.0], [0.5], 1.0), "^answer_probabilities: expected probabilities that sum to 1"),
        (lambda: SaturatingGame([1.0], [1.0], 0.0), "^saturation: expected numbers above 0"),
        (lambda: SaturatingGame([1.0], [1.0], 1.0, absorption=1.5), "^absorption: expected a number from 0 to 1"),
        (lambda: saturating_equilibrium(GROWING_EXAMPLE, -1.0), "^gamma: expected numbers of at least 0"),
        (
            lambda: saturating_error_map(1.0, [1.0]),
            r"^force_ratios, gammas: expected vectors, received shapes \(\) and \(1,\)",
        ),
        (lambda: saturating_spread(1.0, 1.0, 1.0, 0.0), "^gamma: expected numbers above 0"),
        (lambda: saturating_spread(1.0, 1.0, 1.0, 1.0, spread_curvature="x"), "^spread_curvature: expected one of"),
        (lambda: valid_range([1.0], quantity="x"), "^quantity: expected one of contamination, spread, leaked_nats"),
        (lambda: valid_range(1.0), r"^gammas: expected shape \(k,\)"),
        (lambda: valid_range([1.0], tolerance=0.0), "^tolerance: expected numbers above 0"),
        (lambda: valid_range([1.0], absorption=0.0), "^absorption: expected a number above 0"),
        (lambda: valid_range([1.0], quantity="spread", spread_ratio=0.0), "^spread_ratio: expected numbers above 0"),
        (lambda: saturating_free_contamination(GROWING_EXAMPLE, 0.0, 1.0), "^anchor: expected numbers above 0"),
        (
            lambda: saturating_free_contamination(GROWING_EXAMPLE, 1.0, 1.0, objective="x"),
            "^objective: expected one of",
        ),
        (lambda: saturating_free_contamination(GROWING_EXAMPLE, 1.0, 1.0, points=2), "^points: expected at least 3"),
        (lambda: MixtureGame([1.0], [1.0], -1.0), "^separation: expected numbers of at least 0"),
        (lambda: MixtureGame([1.0], [1.0], 1.0, 1.5), "^component_weight: expected numbers from 0 to 1"),
        (lambda: MixtureGame([1.0], [1.0], 1.0, prior_std=0.0), "^prior_std: expected numbers above 0"),
        (lambda: mixture_error_map(1.0, [0.5]), "^separations, component_weights: expected vectors"),
        (lambda: mixture_equilibrium(MixtureGame([1.0], [1.0], 1.0), np.nan), "^gamma: expected finite numbers"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
