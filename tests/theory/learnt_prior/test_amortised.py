"""T8: the amortised prior on finite data."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from amvl_theory.learnt_prior.amortised import (
    AmortisedModel,
    ForceStatistics,
    absorption,
    amortised_equilibrium,
    effective_ridge,
    excess_risk,
    noise_contamination,
    optimal_gamma,
    optimal_ridge,
    protection,
    retention,
    ridge_parameter,
    smoother,
)
from amvl_theory.learnt_prior.answer_direction import leverage, predicted_answer_direction_shift
from amvl_theory.learnt_prior.finite_sample import average_risk, ridgeless_noise
from amvl_theory.learnt_prior.training import amortised_trajectory, compare_protections, early_stopping, training_risk

BETA, GAMMA = 0.7, 1.9


def random_model(seed, n=12, p=5, **given):
    rng = np.random.default_rng(seed)
    values = {"curvature": 1.3, "posterior_precision": 2.1, "prior_precision": 0.6, "ridge": 0.8} | given
    return AmortisedModel(rng.normal(size=(n, p)), **values)


def coupled_solution(model, forces, beta, gamma):
    """delta and W from the stationarity equations of the n + p unknowns, solved as one linear system."""
    phi, n, p = model.Phi, model.questions, model.size
    pull, push = gamma * model.posterior_precision, beta * model.prior_precision
    matrix = np.block(
        [
            [(model.curvature + pull) * np.eye(n), -pull * phi],
            [-push * phi.T, push * phi.T @ phi + model.total_ridge * np.eye(p)],
        ]
    )
    solution = np.linalg.solve(matrix, np.concatenate([forces, np.zeros((p, *forces.shape[1:]))]))
    return solution[:n], solution[n:]


@pytest.mark.parametrize(("n", "p"), [(12, 5), (5, 12), (6, 6)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equilibrium_solves_the_coupled_stationarity_equations(n, p, reduction):
    model = random_model(1, n, p, reduction=reduction)
    forces = np.random.default_rng(2).normal(size=(n, 2))
    found = amortised_equilibrium(model, forces, BETA, GAMMA)
    shift, weights = coupled_solution(model, forces, BETA, GAMMA)
    np.testing.assert_allclose(found.posterior_shift, shift, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.contamination, model.Phi @ weights, rtol=1e-10, atol=1e-12)


def test_contamination_is_the_smoother_applied_to_the_posterior_shift():
    model, forces = random_model(3), np.random.default_rng(4).normal(size=12)
    found, kept = amortised_equilibrium(model, forces, BETA, GAMMA), smoother(model, BETA)
    np.testing.assert_allclose(kept @ found.posterior_shift, found.contamination, rtol=1e-10)
    matrix = model.curvature * np.eye(12) + GAMMA * model.posterior_precision * (np.eye(12) - kept)
    np.testing.assert_allclose(found.posterior_shift, np.linalg.solve(matrix, forces), rtol=1e-10)
    np.testing.assert_allclose(np.sort(absorption(model, BETA)), np.linalg.eigvalsh(kept)[-5:], rtol=1e-10)


def test_the_prior_is_a_ridge_regression_with_the_effective_ridge():
    model, forces = random_model(5), np.random.default_rng(6).normal(size=12)
    found = amortised_equilibrium(model, forces, BETA, GAMMA)
    rho = 0.8 / (BETA * 0.6) * (1 + GAMMA * 2.1 / 1.3)
    np.testing.assert_allclose(found.effective_ridge, rho)
    gram = model.Phi.T @ model.Phi + rho * np.eye(5)
    np.testing.assert_allclose(found.weights, np.linalg.solve(gram, model.Phi.T @ forces / 1.3), rtol=1e-10)


def test_reverse_kl_and_a_ridge_multiplied_alike_leave_the_same_prior_but_not_the_same_posterior():
    model, forces = random_model(7), np.random.default_rng(8).normal(size=12)
    decayed = dataclasses.replace(model, ridge=0.8 * (1 + GAMMA * 2.1 / 1.3))
    with_gamma, with_ridge = (amortised_equilibrium(m, forces, BETA, g) for m, g in ((model, GAMMA), (decayed, 0.0)))
    np.testing.assert_allclose(with_gamma.weights, with_ridge.weights, rtol=1e-12)
    assert np.linalg.norm(with_gamma.posterior_shift) < 0.9 * np.linalg.norm(with_ridge.posterior_shift)


def test_noise_contamination_equals_the_spread_over_seeded_labels_within_4_standard_errors():
    model, rng = random_model(9), np.random.default_rng(10)
    fresh, runs = rng.normal(size=(3, 5)), 40_000
    noise = 0.9 * rng.standard_normal((12, runs))
    found = fresh @ amortised_equilibrium(model, noise, BETA, GAMMA).weights
    expected = noise_contamination(model, fresh, 0.81, BETA, GAMMA)
    error = (found**2).std(axis=1) / np.sqrt(runs)
    assert (np.abs((found**2).mean(axis=1) - expected) < 4 * error).all()
    several = noise_contamination(model, fresh, 0.81, BETA, [0.0, GAMMA])
    assert several.shape == (2, 3)
    np.testing.assert_allclose(several[1], expected)
    assert (several[1] < several[0]).all()


def test_the_determined_part_is_retained_by_the_same_factors_as_the_noise():
    model = random_model(11)
    theta = np.random.default_rng(12).normal(size=5)
    _, _, basis = model.svd
    found = amortised_equilibrium(model, model.Phi @ theta, BETA, GAMMA)
    expected = retention(model, BETA, GAMMA) * (basis.T @ theta) / model.curvature
    np.testing.assert_allclose(basis.T @ found.weights, expected, rtol=1e-10)


@pytest.mark.parametrize(("n", "p"), [(12, 5), (4, 7)])
def test_excess_risk_equals_its_definition_over_seeded_noise_within_4_standard_errors(n, p):
    model, rng = random_model(13, n, p), np.random.default_rng(14)
    theta, factor, runs = rng.normal(size=p), rng.normal(size=(p, p)), 40_000
    cov = factor @ factor.T
    forces = (model.Phi @ theta)[:, None] + 0.7 * rng.standard_normal((n, runs))
    wrong = amortised_equilibrium(model, forces, BETA, GAMMA).weights - theta[:, None] / model.curvature
    losses = 0.5 * model.curvature * np.einsum("pr,pq,qr->r", wrong, cov, wrong)
    curve = excess_risk(model, ForceStatistics(0.49, coefficients=theta, test_cov=cov), BETA, GAMMA)
    assert abs(losses.mean() - curve.total) < 4 * losses.std() / np.sqrt(runs)
    mean = 0.5 * model.curvature * wrong.mean(axis=1) @ cov @ wrong.mean(axis=1)
    np.testing.assert_allclose(curve.bias, mean, rtol=0.05)


def test_risk_of_random_coefficients_is_the_mean_over_unit_vectors():
    model = random_model(15, 4, 7)
    random = excess_risk(model, ForceStatistics(0.3, signal_var=0.5, test_cov=np.arange(1.0, 8.0)), BETA, [0.0, 2.0])
    each = [
        excess_risk(model, ForceStatistics(0.3, coefficients=unit, test_cov=np.arange(1.0, 8.0)), BETA, [0.0, 2.0])
        for unit in np.eye(7)
    ]
    np.testing.assert_allclose(random.bias, 0.5 * sum(curve.bias for curve in each), rtol=1e-10)
    np.testing.assert_allclose(random.noise, each[0].noise)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 20), st.floats(0.05, 20), st.sampled_from([(12, 5), (4, 7)]))
def test_optimal_gamma_of_random_coefficients_does_not_depend_on_spectrum_or_test_covariance(seed, v, tau2, shape):
    model = random_model(seed, *shape)
    factor = np.random.default_rng(seed).normal(size=(shape[1], shape[1]))
    statistics = ForceStatistics(v, signal_var=tau2, test_cov=factor @ factor.T)
    best = optimal_gamma(model, statistics, BETA)
    closed = (model.curvature / model.posterior_precision) * (
        v * BETA * model.prior_precision / (tau2 * model.ridge) - 1
    )
    np.testing.assert_allclose(best, max(closed, 0.0), rtol=1e-9, atol=1e-12)
    around = excess_risk(model, statistics, BETA, np.array([best, 0.8 * best, 1.25 * best + 0.01])).total
    assert around[0] <= around[1:].min() * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_optimal_ridge_of_given_coefficients_is_the_lowest_point_of_the_curve(seed):
    rng = np.random.default_rng(seed)
    model, factor = random_model(seed, ridge=0.05), rng.normal(size=(5, 5))
    statistics = ForceStatistics(2.0, coefficients=rng.normal(size=5), test_cov=factor @ factor.T)
    best = optimal_ridge(model, statistics)
    gamma = (np.geomspace(0.02, 50, 401) * best / ridge_parameter(model, BETA) - 1) * 1.3 / 2.1
    curve = excess_risk(model, statistics, BETA, np.maximum(gamma, 0.0))
    lowest = curve.effective_ridge[np.argmin(curve.total)]
    assert abs(np.log(lowest / best)) < 0.02
    np.testing.assert_allclose(optimal_gamma(model, statistics, BETA), max(0, gamma[np.argmin(curve.total)]), rtol=0.05)


def test_optimal_ridge_has_its_closed_form_for_isotropic_features_and_a_single_mode():
    rng = np.random.default_rng(0)
    isotropic = AmortisedModel(3.0 * np.linalg.qr(rng.normal(size=(9, 4)))[0])
    theta = rng.normal(size=4)
    np.testing.assert_allclose(
        optimal_ridge(isotropic, ForceStatistics(0.6, coefficients=theta)), 0.6 * 4 / (theta @ theta), rtol=1e-9
    )
    single = AmortisedModel(rng.normal(size=(9, 1)))
    np.testing.assert_allclose(optimal_ridge(single, ForceStatistics(0.6, coefficients=[1.7])), 0.6 / 1.7**2, rtol=1e-9)


def test_pure_noise_is_best_not_learnt_and_no_noise_is_best_learnt_in_full():
    model = random_model(0)
    assert optimal_gamma(model, ForceStatistics(1.0, signal_var=0.0), BETA) == np.inf
    assert optimal_gamma(model, ForceStatistics(1.0, coefficients=0.0), BETA) == np.inf
    assert optimal_gamma(model, ForceStatistics(0.0, signal_var=1.0), BETA) == 0.0
    assert optimal_gamma(model, ForceStatistics(0.0, coefficients=1.0), BETA) == 0.0


def test_a_prior_that_memorises_is_not_protected_at_convergence():
    rng = np.random.default_rng(1)
    forces, features = rng.normal(size=6), rng.normal(size=(6, 20))
    free = AmortisedModel(features, ridge=0.0)
    for gamma in (0.0, 1.0, 100.0):
        found = amortised_equilibrium(free, forces, BETA, gamma)
        np.testing.assert_allclose(found.contamination, forces, rtol=1e-10)
    np.testing.assert_array_equal(protection([0.0, 0.5, 1.0], 2.0, 1.0, 1.0), [2 / 3, 0.5, 0.0])
    for ridge, kept in ((1e-6, 0.999), (1.0, 0.9)):
        found = amortised_equilibrium(AmortisedModel(features, ridge=ridge), forces, BETA, 1.0)
        ratio = np.linalg.norm(found.contamination) / np.linalg.norm(forces)
        assert ratio > kept if ridge < 1e-3 else ratio < kept


def test_protection_is_the_relative_fall_of_every_mode():
    model, forces = random_model(2), np.random.default_rng(3).normal(size=12)
    left, _, _ = model.svd
    before, after = (left.T @ amortised_equilibrium(model, forces, BETA, g).contamination for g in (0.0, GAMMA))
    np.testing.assert_allclose(1 - after / before, protection(absorption(model, BETA), GAMMA, 1.3, 2.1), rtol=1e-9)


# Averages over questions


def test_ridgeless_noise_shows_double_descent_at_p_equal_n():
    noise = ridgeless_noise(40, np.arange(1, 121), 1.0)
    assert np.isinf(noise[38:41]).all()
    assert (np.diff(noise[:38]) > 0).all()
    assert (np.diff(noise[41:]) < 0).all()
    np.testing.assert_allclose(noise[[19, 119]], [0.5 * 20 / 19, 0.5 * 40 / 79])
    assert (ridgeless_noise(40, [10, 40], 0.0) == 0).all()


@pytest.mark.parametrize(("n", "p"), [(40, 15), (15, 40)])
def test_ridgeless_noise_is_the_mean_over_seeded_questions_within_4_standard_errors(n, p):
    rng, statistics = np.random.default_rng(n), ForceStatistics(0.6, signal_var=0.0)
    values = np.array(
        [
            float(
                excess_risk(
                    AmortisedModel(rng.standard_normal((n, p)), curvature=1.3, ridge=0.0), statistics, 1.0, 0.0
                ).noise
            )
            for _ in range(300)
        ]
    )
    expected = ridgeless_noise(n, p, 0.6, 1.3)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("p", [100, 200, 400])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_average_risk_equals_that_of_large_seeded_questions(p, gamma):
    rng, statistics = np.random.default_rng(p), ForceStatistics(0.6, signal_var=0.02)
    models = [AmortisedModel(rng.standard_normal((200, p)), curvature=1.3, ridge=2.0) for _ in range(16)]
    curves = [excess_risk(model, statistics, 1.0, gamma) for model in models]
    found = average_risk(200, p, curves[0].effective_ridge, 0.6, 0.02, 1.3)
    for part in ("noise", "bias"):
        values = np.array([float(getattr(curve, part)) for curve in curves])
        # Four standard errors, and 1/n for the finite size.
        assert abs(values.mean() - getattr(found, part)) < values.mean() / 200 + 4 * values.std(ddof=1) / np.sqrt(16)


def test_average_risk_without_ridge_tends_to_the_ridgeless_limit_and_never_exceeds_the_signal():
    few = average_risk(1e6, np.array([3e5, 3e6]), 1e-3, 1.0, 1.0)
    np.testing.assert_allclose(few.noise, ridgeless_noise(1e6, [3e5, 3e6], 1.0), rtol=1e-4)
    # p > n: of the p coefficients n are learnt
    np.testing.assert_allclose(few.bias[1], 0.5 * 2e6, rtol=1e-6)
    assert few.bias[0] < 1e-10
    heavy = average_risk(100, [30, 100, 300], 1e9, 1.0, 1.0)
    np.testing.assert_allclose(heavy.bias, [15, 50, 150], rtol=1e-5)


def test_the_reverse_kl_lowers_the_double_descent_peak_like_one_over_the_square_root_of_the_ridge():
    peaks = average_risk(1000, 1000, 1e-4 * np.array([1.0, 100.0]), 1.0, 0.0).noise
    np.testing.assert_allclose(peaks[0] / peaks[1], 10.0, rtol=0.01)


def test_contamination_by_noise_falls_like_one_over_the_number_of_questions():
    n = np.array([1e4, 1e5])
    noise = average_risk(n, 20, 1.0, 0.7, 0.0, 1.3).noise
    np.testing.assert_allclose(noise, 0.7 * 20 / (2 * 1.3 * n), rtol=0.01)


# Training


def integrate(model, forces, beta, gammas, switch, times, eta_q, eta_p):
    n, pace = model.questions, 1.0 / model.questions if model.reduction == "mean" else 1.0

    def velocity(time, state):
        pull = (gammas[0] if time < switch else gammas[1]) * model.posterior_precision
        push = beta * model.prior_precision
        delta, weights = state[:n], state[n:]
        prior = model.Phi @ weights
        of_q = -eta_q * pace * (model.curvature * delta - forces + pull * (delta - prior))
        of_p = -eta_p * pace * (push * model.Phi.T @ (prior - delta) + model.total_ridge * weights)
        return np.concatenate([of_q, of_p])

    paths = []
    for time in times:  # stopping and restarting at the switch, where the flow has a kink
        state, begun = np.zeros(n + model.size), 0.0
        for end in sorted({min(switch, time), time} - {0.0}):
            found = solve_ivp(velocity, (begun, end), state, rtol=1e-11, atol=1e-12, method="DOP853", max_step=0.05)
            state, begun = found.y[:, -1], end
        paths.append(state)
    return np.array(paths)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("delay", [0.0, 1.1])
@pytest.mark.parametrize(("n", "p"), [(8, 3), (4, 6)])
def test_training_path_equals_a_tight_integration(reduction, delay, n, p):
    model, rng = random_model(20, n, p, reduction=reduction), np.random.default_rng(21)
    forces, times = rng.normal(size=n), np.array([0.0, 0.4, 1.5, 3.0])
    found = amortised_trajectory(model, forces, BETA, GAMMA, times, 0.9, 0.5, gamma_delay=delay)
    truth = integrate(model, forces, BETA, (0.0, GAMMA) if delay else (GAMMA, GAMMA), delay, times, 0.9, 0.5)
    np.testing.assert_allclose(found.posterior_shift, truth[:, :n], atol=1e-8)
    np.testing.assert_allclose(found.weights, truth[:, n:], atol=1e-8)
    np.testing.assert_allclose(found.contamination, found.weights @ model.Phi.T, atol=1e-12)


@pytest.mark.parametrize(("gamma", "delay"), [(0.0, 0.0), (GAMMA, 0.0), (GAMMA, 3.0)])
def test_training_ends_at_the_equilibrium_whatever_the_delay(gamma, delay):
    model, forces = random_model(22), np.random.default_rng(23).normal(size=(12, 2))
    path = amortised_trajectory(model, forces, BETA, gamma, [1e4], gamma_delay=delay)
    rest = amortised_equilibrium(model, forces, BETA, gamma)
    np.testing.assert_allclose(path.weights[0], rest.weights, rtol=1e-10)
    np.testing.assert_allclose(path.posterior_shift[0], rest.posterior_shift, rtol=1e-10)


@pytest.mark.parametrize(("n", "p"), [(8, 3), (4, 6)])
def test_training_risk_follows_from_the_path_and_ends_at_the_excess_risk(n, p):
    model, rng = random_model(24, n, p), np.random.default_rng(25)
    theta, factor = rng.normal(size=p), rng.normal(size=(p, p))
    cov = factor @ factor.T
    statistics = ForceStatistics(0.4, coefficients=theta, test_cov=cov)
    times = np.array([0.0, 0.7, 1e4])
    found = training_risk(model, statistics, BETA, GAMMA, times, gamma_delay=0.3)
    signal = amortised_trajectory(model, model.Phi @ theta, BETA, GAMMA, times, gamma_delay=0.3).weights
    wrong = signal - theta / model.curvature
    np.testing.assert_allclose(found.bias, 0.65 * np.einsum("tp,pq,tq->t", wrong, cov, wrong), rtol=1e-9)
    noise = amortised_trajectory(model, np.eye(n), BETA, GAMMA, times, gamma_delay=0.3).weights
    np.testing.assert_allclose(found.noise, 0.65 * 0.4 * np.einsum("tpn,pq,tqn->t", noise, cov, noise), rtol=1e-9)
    np.testing.assert_allclose(found.total[-1], excess_risk(model, statistics, BETA, GAMMA).total, rtol=1e-9)


def test_with_a_fast_posterior_the_reverse_kl_slows_time_and_multiplies_the_ridge():
    model, forces = random_model(26), np.random.default_rng(27).normal(size=12)
    brake = 1 + GAMMA * 2.1 / 1.3
    decayed = dataclasses.replace(model, ridge=0.8 * brake)
    times = np.array([0.2, 1.0, 4.0]) * 1e5
    braked = amortised_trajectory(model, forces, BETA, GAMMA, times, 1.0, 1e-6).weights
    plain = amortised_trajectory(decayed, forces, BETA, 0.0, times / brake, 1.0, 1e-6).weights
    np.testing.assert_allclose(braked, plain, rtol=1e-3, atol=1e-6)


def test_early_stopping_protects_a_prior_that_can_memorise_and_the_best_time_is_the_lowest():
    model = random_model(28, 10, 30, ridge=0.0)
    statistics = ForceStatistics(2.0, signal_var=0.1)
    best = early_stopping(model, statistics, BETA, 0.0, 1e4)
    path = training_risk(model, statistics, BETA, 0.0, np.geomspace(1e-3, 1e4, 3000))
    assert 0 < best.time < 100
    assert best.risk <= path.total.min() * (1 + 1e-9)
    assert best.risk < 0.8 * path.total[-1]


def test_what_each_protection_buys_a_prior_that_can_memorise():
    model, statistics = random_model(29, 10, 30, ridge=0.0), ForceStatistics(2.0, signal_var=0.1)
    found = compare_protections(model, statistics, BETA, 4.0, 20.0)
    assert found["reverse KL"].risk == found["none"].risk
    assert found["weight decay"].risk < found["none"].risk
    assert found["early stopping"].risk < found["no gamma"].risk
    assert found["delayed gamma"].noise < found["no gamma"].noise
    assert found["weight decay"].ridge == pytest.approx(20.0 * BETA * 0.6)
    assert found["weight decay"].risk <= min(entry.risk for entry in found.values())


def test_with_a_ridge_the_best_gamma_equals_the_best_weight_decay():
    model, statistics = random_model(30, ridge=0.05, reduction="mean"), ForceStatistics(2.0, signal_var=0.1)
    found = compare_protections(model, statistics, BETA, 4.0, 20.0)
    assert found["reverse KL"].gamma > 0
    np.testing.assert_allclose(found["reverse KL"].risk, found["weight decay"].risk, rtol=1e-12)
    decayed = dataclasses.replace(model, ridge=found["weight decay"].ridge)
    np.testing.assert_allclose(
        excess_risk(decayed, statistics, BETA, 0.0).total, found["weight decay"].risk, rtol=1e-12
    )
    assert found["reverse KL"].risk < found["none"].risk


# The shift along the answer's direction


def options(seed, n, count=4, modes=6):
    forces = np.random.default_rng(seed).normal(size=(n, count, modes))
    return forces - forces.mean(axis=1, keepdims=True)


def test_the_shift_equals_its_definition_with_the_posteriors_of_all_options():
    model, rng = random_model(31, 9, 14), np.random.default_rng(32)
    forces = options(33, 9) + rng.normal(size=(9, 1, 6))
    answers = rng.integers(0, 4, 9)
    metric = rng.uniform(0.5, 2, 6)
    found = predicted_answer_direction_shift(model, forces, answers, BETA, GAMMA, metric=metric)
    prior = amortised_equilibrium(model, forces[np.arange(9), answers], BETA, GAMMA)
    pull = GAMMA * model.posterior_precision
    shifts = (forces + pull * prior.contamination[:, None]) / (model.curvature + pull)
    np.testing.assert_allclose(shifts[np.arange(9), answers], prior.posterior_shift, rtol=1e-10)
    middle = shifts.mean(axis=1)
    direction = shifts - middle[:, None]
    expected = np.einsum("nd,nad,d->na", prior.contamination - middle, direction, metric)
    np.testing.assert_allclose(found.training, expected / (direction**2 @ metric), rtol=1e-9)
    np.testing.assert_allclose(found.training_answer, found.training[np.arange(9), answers])


@pytest.mark.parametrize("uniform", [True, False])
def test_training_questions_show_their_leverage_and_held_out_ones_nothing_within_4_standard_errors(uniform):
    model, rng = random_model(34, 8, 20), np.random.default_rng(35)
    forces, fresh, other = options(36, 8), rng.normal(size=(3, 20)), options(37, 3)
    probs = np.full((8, 4), 0.25) if uniform else rng.dirichlet(np.ones(4), size=8)
    contrasts, held_out = [], []
    for _ in range(2000):
        answers = np.array([rng.choice(4, p=row) for row in probs])
        found = predicted_answer_direction_shift(
            model,
            forces,
            answers,
            BETA,
            GAMMA,
            answer_probs=probs,
            held_out_features=fresh,
            held_out_forces=other,
        )
        contrasts.append(found.training_answer - found.training_others)
        held_out.append(found.held_out)
    contrasts, held_out = np.array(contrasts), np.array(held_out)
    determined = np.einsum("na,nad->nd", probs, forces)
    # What label noise of the question itself does not explain is the fitted determined part, of all questions.
    fitted = amortised_equilibrium(model, determined, BETA, GAMMA)
    size = (forces**2).sum(axis=2)
    along = np.einsum("nd,nad->na", model.curvature * fitted.contamination, forces) / size
    inferred = (probs * (along - (along.sum(axis=1, keepdims=True) - along) / 3)).sum(axis=1)
    expected = found.memorised_contrast + inferred
    error = contrasts.std(axis=0) / np.sqrt(len(contrasts))
    assert (np.abs(contrasts.mean(axis=0) - expected) < 4 * error).all()
    fresh_fit = np.einsum("md,mad->ma", model.curvature * fresh @ fitted.weights, other) / (other**2).sum(axis=2)
    error = held_out.std(axis=0) / np.sqrt(len(held_out))
    assert (np.abs(held_out.mean(axis=0) - fresh_fit) < 4 * error).all()
    if uniform:
        np.testing.assert_allclose(fresh_fit, 0, atol=1e-12)
        np.testing.assert_allclose(inferred, 0, atol=1e-12)


def test_equal_norm_directions_give_the_contrast_leverage_times_o_over_o_minus_1():
    model = random_model(38, 8, 20)
    simplex = np.eye(4) - 0.25
    found = predicted_answer_direction_shift(model, np.stack([simplex] * 8), np.zeros(8, int), BETA, GAMMA)
    np.testing.assert_allclose(found.memorised_contrast, found.leverage * 4 / 3, rtol=1e-12)
    own = effective_ridge(model, BETA, GAMMA)
    np.testing.assert_allclose(found.mean_leverage, (model.spectrum / (model.spectrum + own)).sum() / 8, rtol=1e-12)
    assert (leverage(model, BETA, 10.0) < leverage(model, BETA, 0.0)).all()


def test_a_memorising_prior_lies_on_the_training_answers_posterior_whatever_gamma():
    model, answers = random_model(39, 6, 20, ridge=0.0), np.array([0, 1, 2, 3, 0, 1])
    forces = options(40, 6)
    for gamma in (0.0, 5.0):
        found = predicted_answer_direction_shift(model, forces, answers, BETA, gamma)
        np.testing.assert_allclose(found.training_answer, 1.0, rtol=1e-10)
        np.testing.assert_allclose(found.leverage, 1.0, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: AmortisedModel([1.0, 2.0]), r"^features: expected a matrix \(n, p\) that is not 0, received shape"),
        (lambda m: AmortisedModel(np.ones((2, 2)), curvature=-1.0), "^curvature: expected numbers above 0"),
        (lambda m: AmortisedModel(np.ones((2, 2)), ridge=np.nan), "^ridge: expected finite numbers"),
        (lambda m: AmortisedModel(np.ones((2, 2)), reduction="max"), "^reduction: expected one of sum, mean"),
        (lambda m: ForceStatistics(1.0), "^signal_var: expected exactly one .* received neither"),
        (lambda m: ForceStatistics(1.0, 1.0, [1.0]), "^signal_var: expected exactly one .* received both"),
        (lambda m: ForceStatistics(-1.0, 1.0), "^noise_var: expected numbers of at least 0"),
        (lambda m: optimal_ridge(m, ForceStatistics(0.0, 0.0)), "^signal_var: expected noise or signal above 0"),
        (lambda m: amortised_equilibrium(m, np.ones(3), 1.0, 1.0), r"^forces: expected shape \(12,\)"),
        (lambda m: amortised_equilibrium(m, np.ones(12), 0.0, 1.0), "^beta: expected numbers above 0"),
        (lambda m: amortised_equilibrium(m, np.ones(12), 1.0, -1.0), "^gamma: expected numbers of at least 0"),
        (lambda m: noise_contamination(m, np.ones(3), 1.0, 1.0, 1.0), r"^fresh_features: expected shape \(m, 5\)"),
        (lambda m: excess_risk(m, ForceStatistics(1.0, coefficients=[1.0, 2.0]), 1.0, 1.0), "^coefficients: expected"),
        (lambda m: protection(1.5, 1.0, 1.0, 1.0), "^absorbed: expected numbers from 0 to 1, received 1.5"),
        (lambda m: average_risk(10, 5, 0.0, 1.0, 1.0), "^effective_ridge: expected numbers above 0"),
        (lambda m: ridgeless_noise(0, 5, 1.0), "^questions: expected numbers above 0"),
        (lambda m: amortised_trajectory(m, np.ones(12), 1.0, 1.0, [-1.0]), "^times: expected numbers of at least 0"),
        (lambda m: amortised_trajectory(m, np.ones(12), 1.0, 1.0, 1.0), r"^times: expected shape \(times,\)"),
        (lambda m: early_stopping(m, ForceStatistics(1.0, 1.0), 1.0, 1.0, 0.0), "^horizon: expected numbers above 0"),
        (
            lambda m: predicted_answer_direction_shift(m, np.ones((3, 2, 1)), [0] * 12, 1.0, 1.0),
            r"^option_forces: expected shape \(12, options, modes\)",
        ),
        (
            lambda m: predicted_answer_direction_shift(m, np.ones((12, 2, 1)), [0] * 12, 1.0, 1.0),
            "^option_forces: expected options with different forces",
        ),
        (
            lambda m: predicted_answer_direction_shift(m, options(0, 12), [4] * 12, 1.0, 1.0),
            "^answers: expected 12 indices from 0 to 3",
        ),
        (
            lambda m: predicted_answer_direction_shift(m, options(0, 12), [0] * 12, 1.0, 1.0, answer_probs=[[1.0] * 4]),
            r"^answer_probs: expected shape \(12, 4\)",
        ),
        (
            lambda m: predicted_answer_direction_shift(
                m, options(0, 12), [0] * 12, 1.0, 1.0, held_out_features=np.ones((1, 5))
            ),
            "^held_out_forces: expected both",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_model(0))
