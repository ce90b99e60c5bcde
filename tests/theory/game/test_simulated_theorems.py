"""T1 to T6 in simulation: the rest of the game is the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from amvl_theory.game.game import (
    GaussianGame,
    fixed_state,
    initial_state,
)
from amvl_theory.game.simulate import equilibrium_by_simulation, simulate
from amvl_theory.model import MeanLeakageModel
from tests.theory.game.test_simulate import BALANCED, H, definite, fixed_game, means

# T1 to T4: fixed variances.


def test_t1_a_prior_on_a_fixed_posterior_ends_at_moment_matching_for_any_probabilities():
    rng = np.random.default_rng(1)
    game = fixed_game(rng, 40, 3, 4, 0.0, train_prior_variance=True, shared_variance=False)
    shift, variance = rng.normal(size=(40, 4, 3)), rng.uniform(0.2, 2, (40, 4, 3))
    start = initial_state(game, posterior_shift=shift, posterior_var=variance)
    run = equilibrium_by_simulation(game, objective="fwd", beta=0.7, gamma=0.0, initial=start)
    assert run.converged is not None and run.converged.all()
    np.testing.assert_array_equal(run.state.posterior_shift, shift)
    mean = means(game, shift)
    np.testing.assert_allclose(run.state.contamination, mean, rtol=1e-8)
    spread = means(game, (shift - mean[:, None]) ** 2)
    np.testing.assert_allclose(np.exp(run.state.prior_log_var), means(game, variance) + spread, rtol=1e-8)


def test_t1_an_anchored_prior_also_widens_by_the_squared_distance_it_cannot_follow():
    rng = np.random.default_rng(2)
    game = fixed_game(rng, 40, 3, 4, rng.uniform(0.1, 2, (40, 3)), train_prior_variance=True)
    shift = rng.normal(size=(40, 4, 3))
    start = initial_state(game, posterior_shift=shift, posterior_var=0.4)
    run = equilibrium_by_simulation(game, objective="fwd", beta=0.7, gamma=0.0, initial=start)
    mean, u = means(game, shift), np.exp(run.state.prior_log_var)
    np.testing.assert_allclose(run.state.contamination, mean * (0.7 / u) / (0.7 / u + game.A), rtol=1e-7, atol=1e-9)
    spread = means(game, (shift - mean[:, None]) ** 2)
    np.testing.assert_allclose(u, 0.4 + spread + (mean - run.state.contamination) ** 2, rtol=1e-7)


def test_t2_against_a_prior_held_at_zero_the_mean_shift_is_the_linear_solve():
    rng = np.random.default_rng(3)
    game, gamma = fixed_game(rng, 60, 4, 3, 0.0), rng.uniform(0, 5, 60)
    variance = rng.uniform(0.3, 3, (60, 1, 4))
    start = initial_state(game, posterior_var=variance)
    run = simulate(game, objective="ntp+rev", gamma=gamma, steps=6000, initial=start, eta_q=0.05, per_answer=True)
    stiff = game.H + gamma[:, None, None] * np.eye(4) / variance
    expected = np.linalg.solve(stiff, means(game, game.g)[..., None])[..., 0]
    assert not run.state.contamination.any()
    np.testing.assert_allclose(run.mean_shift, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dense_anchor", [False, True])
def test_t3_and_t4_contamination_and_spread_are_the_linear_solves(dense_anchor):
    rng = np.random.default_rng(4)
    anchor = definite(rng, 60, 4) if dense_anchor else rng.uniform(0, 2, (60, 4))
    game, beta, gamma = fixed_game(rng, 60, 4, 5, anchor), rng.uniform(0.2, 2, 60), rng.uniform(0, 5, 60)
    q, p = rng.uniform(0.5, 2, (2, 60, 4))
    start = initial_state(game, posterior_var=1 / q[:, None], prior_var=1 / p)
    run = equilibrium_by_simulation(game, beta=beta, gamma=gamma, initial=start, tolerance=1e-12)
    assert run.converged is not None and run.converged.all()
    for n in range(60):
        A = game.A[n] if dense_anchor else np.diag(game.A[n])
        stiff = game.H[n] + gamma[n] * np.diag(q[n])
        mean = game.p[n] @ game.g[n]
        c = np.linalg.solve(game.H[n] + stiff @ np.linalg.solve(beta[n] * np.diag(p[n]), A), mean)
        np.testing.assert_allclose(run.state.contamination[n], c, rtol=1e-8, atol=1e-10)
        response = np.linalg.solve(stiff, (game.g[n] - mean).T)
        np.testing.assert_allclose(run.spread_cov[n], (response * game.p[n]) @ response.T, rtol=1e-8, atol=1e-10)


def test_t3_one_mode_falls_with_gamma_as_its_absorption_says():
    h, g, alpha, beta, gamma = 1.3, 0.8, 0.6, 0.7, np.array([0.0, 0.5, 2.0, 10.0])
    model = MeanLeakageModel(h, [g], 0.25, 2.0, 1.5, alpha)
    game = GaussianGame.from_model(model, instances=4)
    run = equilibrium_by_simulation(game, beta=beta, gamma=gamma, initial=fixed_state(game, model), tolerance=1e-13)
    s = beta * 1.5 / (beta * 1.5 + alpha)
    np.testing.assert_allclose(run.state.contamination[:, 0], s * g / (h + gamma * 2.0 * (1 - s)), rtol=1e-10)
    np.testing.assert_allclose(run.spread_cov[:, 0, 0], 0.25 / (h + gamma * 2.0) ** 2, rtol=1e-10)


# T5: the objectives against each other.


@pytest.mark.parametrize(
    ("objective", "gamma", "measured"),
    [("ntp+fwd", 0.0, 0.3976), ("elbo", 0.0, 0.39757), ("amvl", 0.1, 0.36238), ("amvl", 0.5, 0.32596)],
)
def test_t5_contaminations_of_the_published_table(objective, gamma, measured):
    game = GaussianGame(0.8 + BALANCED, H, 0.6)
    run = equilibrium_by_simulation(game, objective=objective, beta=0.7, gamma=gamma)
    assert run.converged is not None and run.converged.all()
    # The table has 0.3976 for forward-only after a finite time; the others are exact to its digits.
    np.testing.assert_allclose(run.state.contamination, measured, atol=3e-5 if objective == "ntp+fwd" else 6e-6)


def test_t5_explicit_descent_on_the_same_losses_reaches_the_same_table():
    game = GaussianGame(0.8 + BALANCED, H, 0.6, instances=2)
    run = simulate(game, beta=0.7, gamma=[0.1, 0.5], steps=4000, eta_q=0.1, eta_p=0.1)
    np.testing.assert_allclose(run.state.contamination[:, 0], [0.36238, 0.32596], atol=6e-6)


def test_t5_equilibria_with_free_variances_solve_the_closed_equations():
    rng = np.random.default_rng(5)
    count = 80
    h, alpha, beta = rng.uniform(0.5, 2, (3, count))
    gbar, spread, gamma = rng.normal(size=count), rng.uniform(0.7, 2, count), rng.uniform(0.05, 0.2, count)
    forces = gbar[:, None, None] + spread[:, None, None] * BALANCED
    game = GaussianGame(forces, h[:, None], alpha[:, None])
    for objective in ("ntp+fwd", "amvl"):
        run = equilibrium_by_simulation(game, objective=objective, beta=beta, gamma=gamma, tolerance=1e-10)
        assert run.converged is not None and run.converged.all()
        c = run.state.contamination[:, 0]
        E = spread**2 + (gbar - h * c) ** 2
        assert (gamma * h / 2 < E).all()
        X = (E + np.sqrt(gamma * h * E / 2) if objective == "amvl" else E) / h
        np.testing.assert_allclose(c, beta * gbar / (beta * h + alpha * X), rtol=1e-6)


def test_t5_in_a_transient_dual_kl_can_be_the_more_contaminated():
    game = GaussianGame(np.zeros((1, 1, 1)), 1.0, 0.2, None, True, False, False, 2)
    start = initial_state(game, contamination=1.0)
    eta = 5e-4
    run = simulate(game, beta=1.0, gamma=[2.0, 0.0], steps=6000, eta_q=eta, eta_p=eta, initial=start)
    dual = (expm(-3 * np.array([[3.0, -2.0], [-1.0, 1.2]])) @ [0.0, 1.0])[1]
    np.testing.assert_allclose(run.state.contamination[:, 0], [dual, np.exp(-3.6)], rtol=2e-3)
    np.testing.assert_allclose([dual, np.exp(-3.6)], [0.216, 0.027], atol=5e-4)


def test_t5_absorption_can_be_bistable_when_variances_are_free():
    game = GaussianGame(3 + 0.1 * BALANCED, 1.0, 1.0, instances=2)
    start = initial_state(
        game,
        posterior_shift=np.array([3.0, 2.6])[:, None, None],
        posterior_var=np.array([1e-3, 1.0])[:, None, None],
        contamination=np.array([[3.0], [0.0]]),
        prior_var=np.array([[1e-3], [5.0]]),
    )
    run = equilibrium_by_simulation(game, beta=1.0, gamma=0.002, initial=start, tolerance=1e-9)
    assert run.converged is not None and run.converged.all()
    np.testing.assert_allclose(run.state.contamination[:, 0], [2.95, 0.376], atol=5e-3)


# T6: the variance channel, its threshold, its traps.


def test_t6_spread_and_signal_to_noise_of_the_published_table():
    gamma = np.array([0.05, 0.2, 1.0])
    run = equilibrium_by_simulation(GaussianGame(BALANCED, H, instances=3), beta=0.5, gamma=gamma)
    assert run.converged is not None and run.converged.all()
    V = run.spread_cov[:, 0, 0]
    np.testing.assert_allclose(V, [0.3976, 0.24195, 0.02222], atol=6e-6)
    np.testing.assert_allclose(V, ((1 - np.sqrt(gamma * H / 2)) / H) ** 2, rtol=1e-8)
    snr = V / np.exp(run.state.posterior_log_var[:, 0, 0])
    np.testing.assert_allclose(snr, [2.2735, 0.8868, 0.1202], atol=6e-5)
    np.testing.assert_allclose(snr, 0.5 * (np.sqrt(2 / H / gamma) - 1), rtol=1e-8)


def test_t6_explicit_descent_on_the_same_losses_reaches_the_same_table():
    game = GaussianGame(BALANCED, H, instances=3)
    run = simulate(game, beta=0.5, gamma=[0.05, 0.2, 1.0], steps=20000, eta_q=0.05, eta_p=0.05, per_answer=True)
    assert (np.exp(run.state.posterior_log_var[:, 0, 0]) > 3 * run.trap_variance).all()
    np.testing.assert_allclose(run.spread_cov[:, 0, 0], [0.3976, 0.24195, 0.02222], atol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 0.4, 0.7])
def test_t6_the_elbo_follows_its_closed_form_below_its_threshold(weight):
    run = equilibrium_by_simulation(GaussianGame(BALANCED, H), objective="elbo", beta=weight, gamma=0.0)
    np.testing.assert_allclose(run.spread_cov[0, 0, 0], (1 / H - weight) ** 2, rtol=1e-7)
    snr = run.spread_cov[0, 0, 0] / np.exp(run.state.posterior_log_var[0, 0, 0])
    np.testing.assert_allclose(snr, 1 / (H * weight) - 1, rtol=1e-7)


@pytest.mark.parametrize(
    ("forces", "probabilities", "published"),
    [
        ([1, -1], None, (0.398, 0.022)),
        ([1.5**0.5, 0, -(1.5**0.5)], None, (0.415, 0.031)),
        ([3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)], None, (0.429, 0.053)),
        ([0.5, -2.0], [0.8, 0.2], (0.443, 0.078)),
    ],
)
def test_t6_per_answer_variances_change_the_second_moment_beyond_two_balanced_answers(forces, probabilities, published):
    # c = 0 is held, as T6 has it; then delta_y has a mean, and the published V is E delta^2, not the variance.
    column = np.array(forces, dtype=float)[None, :, None]
    game = GaussianGame(column, H, 1e9, probabilities, shared_variance=False, instances=2)
    run = equilibrium_by_simulation(game, beta=0.5, gamma=[0.05, 1.0])
    assert run.converged is not None and run.converged.all()
    np.testing.assert_allclose(means(game, run.state.posterior_shift**2)[:, 0], published, atol=6e-4)


def test_t6_the_dense_elbo_is_hysteretic_above_its_local_threshold():
    game = GaussianGame(np.array([[[1.0, 1.0], [-1.0, -1.0]]]), np.array([[[1.0, -0.8], [-0.8, 1.0]]]), instances=2)
    start = initial_state(
        game,
        posterior_shift=np.array([5.0, 1e-3])[:, None, None] * game.g,
        prior_var=np.array([[26.0], [1.0]]),
    )
    run = equilibrium_by_simulation(game, objective="elbo", beta=1.5, gamma=0.0, initial=start, max_steps=3000, chunk=1)
    np.testing.assert_allclose(run.spread_cov[0, 0, 0], 6.25, rtol=1e-6)  # active from far away
    assert run.spread_cov[1, 0, 0] < 1e-4  # collapsed from nearby, where the variance runs to 0 like 1/t
    assert run.converged is not None and run.converged.tolist() == [True, False]


def test_t6_above_the_threshold_the_variance_falls_like_one_over_time():
    # With u following v, to lowest order dv/dt = -1/2 beta / (beta + gamma) (h - 2 v0 / gamma) v^2.
    eta, beta, gamma = 0.01, 0.5, 4.0
    game, steps = GaussianGame(BALANCED, H), (8000, 16000)
    run = simulate(game, beta=beta, gamma=gamma, steps=steps[1], eta_q=eta, eta_p=eta, per_answer=True, record=steps)
    early, late = np.exp(run.recorded.posterior_log_var[:, 0, 0, 0])
    assert late > 3 * run.trap_variance[0]
    rate = 0.5 * beta / (beta + gamma) * (H - 2 / gamma)
    np.testing.assert_allclose(1 / late - 1 / early, rate * eta * (steps[1] - steps[0]), rtol=0.02)  # terms in v^3


@pytest.mark.parametrize("eta", [0.05, 0.1, 0.2])
def test_t6_explicit_descent_locks_in_at_the_trap_variance_and_leaks_there(eta):
    game, steps = GaussianGame(BALANCED, H), 4000
    trap = eta * 2.5 / (2 - eta * H)
    run = simulate(
        game,
        beta=0.5,
        gamma=2.5,
        steps=steps,
        eta_q=eta,
        eta_p=eta,
        per_answer=True,
        initial=initial_state(game, posterior_var=1.3 * trap, prior_var=1.3 * trap),
        record=[steps - 1, steps],
    )
    np.testing.assert_allclose(run.trap_variance, trap, rtol=1e-12)
    np.testing.assert_allclose(np.exp(run.state.posterior_log_var[0, 0, 0]), trap, rtol=0.03)
    before, after = run.recorded.posterior_shift[:, 0, 0, 0]
    assert abs(before - after) > 0.01  # the mean jumps at every step
    assert run.gradient_norm[0] > 0.1  # and nothing is at rest


def test_t6_scaled_steps_have_no_trap():
    run = equilibrium_by_simulation(GaussianGame(BALANCED, H), beta=0.5, gamma=2.5, max_steps=4000)
    assert run.trap_variance[0] == 0
    assert np.exp(run.state.posterior_log_var[0, 0, 0]) < 0.01
    assert run.spread_cov[0, 0, 0] < 1e-4
    assert run.converged is not None and not run.converged[0] and not run.diverged[0]
