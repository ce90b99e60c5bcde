"""T8: the equilibrium of a prior learnt from finitely many questions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import amvl_theory as theory
from amvl_theory.learnt_prior.amortised import (
    AmortisedModel,
    ForceStatistics,
    absorption,
    retention,
    ridge_parameter,
    smoother,
)
from amvl_theory.learnt_prior.answer_direction import predicted_answer_direction_shift
from amvl_theory.learnt_prior.finite_sample import average_risk, ridgeless_noise
from amvl_theory.learnt_prior.training import amortised_trajectory, early_stopping

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
    result = theory.amortised_equilibrium(model, forces, BETA, GAMMA)
    shift, weights = coupled_solution(model, forces, BETA, GAMMA)
    np.testing.assert_allclose(result.posterior_shift, shift, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.contamination, model.Phi @ weights, rtol=1e-10, atol=1e-12)


def test_contamination_is_the_smoother_applied_to_the_posterior_shift():
    model, forces = random_model(3), np.random.default_rng(4).normal(size=12)
    result, kept = theory.amortised_equilibrium(model, forces, BETA, GAMMA), smoother(model, BETA)
    np.testing.assert_allclose(kept @ result.posterior_shift, result.contamination, rtol=1e-10)
    matrix = model.curvature * np.eye(12) + GAMMA * model.posterior_precision * (np.eye(12) - kept)
    np.testing.assert_allclose(result.posterior_shift, np.linalg.solve(matrix, forces), rtol=1e-10)
    np.testing.assert_allclose(np.sort(absorption(model, BETA)), np.linalg.eigvalsh(kept)[-5:], rtol=1e-10)


def test_the_prior_is_a_ridge_regression_with_the_effective_ridge():
    model, forces = random_model(5), np.random.default_rng(6).normal(size=12)
    result = theory.amortised_equilibrium(model, forces, BETA, GAMMA)
    rho = 0.8 / (BETA * 0.6) * (1 + GAMMA * 2.1 / 1.3)
    np.testing.assert_allclose(result.effective_ridge, rho)
    gram = model.Phi.T @ model.Phi + rho * np.eye(5)
    np.testing.assert_allclose(result.weights, np.linalg.solve(gram, model.Phi.T @ forces / 1.3), rtol=1e-10)


def test_reverse_kl_and_a_ridge_multiplied_alike_leave_the_same_prior_but_not_the_same_posterior():
    model, forces = random_model(7), np.random.default_rng(8).normal(size=12)
    decayed = dataclasses.replace(model, ridge=0.8 * (1 + GAMMA * 2.1 / 1.3))
    with_gamma, with_ridge = (
        theory.amortised_equilibrium(m, forces, BETA, g) for m, g in ((model, GAMMA), (decayed, 0.0))
    )
    np.testing.assert_allclose(with_gamma.weights, with_ridge.weights, rtol=1e-12)
    assert np.linalg.norm(with_gamma.posterior_shift) < 0.9 * np.linalg.norm(with_ridge.posterior_shift)


def test_noise_contamination_equals_the_spread_over_seeded_labels_within_4_standard_errors():
    model, rng = random_model(9), np.random.default_rng(10)
    fresh, runs = rng.normal(size=(3, 5)), 40_000
    noise = 0.9 * rng.standard_normal((12, runs))
    result = fresh @ theory.amortised_equilibrium(model, noise, BETA, GAMMA).weights
    expected = theory.noise_contamination(model, fresh, 0.81, BETA, GAMMA)
    error = (result**2).std(axis=1) / np.sqrt(runs)
    assert (np.abs((result**2).mean(axis=1) - expected) < 4 * error).all()
    several = theory.noise_contamination(model, fresh, 0.81, BETA, [0.0, GAMMA])
    assert several.shape == (2, 3)
    np.testing.assert_allclose(several[1], expected)
    assert (several[1] < several[0]).all()


def test_the_determined_part_is_retained_by_the_same_factors_as_the_noise():
    model = random_model(11)
    theta = np.random.default_rng(12).normal(size=5)
    _, _, basis = model.svd
    result = theory.amortised_equilibrium(model, model.Phi @ theta, BETA, GAMMA)
    expected = retention(model, BETA, GAMMA) * (basis.T @ theta) / model.curvature
    np.testing.assert_allclose(basis.T @ result.weights, expected, rtol=1e-10)


@pytest.mark.parametrize(("n", "p"), [(12, 5), (4, 7)])
def test_excess_risk_equals_its_definition_over_seeded_noise_within_4_standard_errors(n, p):
    model, rng = random_model(13, n, p), np.random.default_rng(14)
    theta, factor, runs = rng.normal(size=p), rng.normal(size=(p, p)), 40_000
    cov = factor @ factor.T
    forces = (model.Phi @ theta)[:, None] + 0.7 * rng.standard_normal((n, runs))
    wrong = theory.amortised_equilibrium(model, forces, BETA, GAMMA).weights - theta[:, None] / model.curvature
    losses = 0.5 * model.curvature * np.einsum("pr,pq,qr->r", wrong, cov, wrong)
    curve = theory.excess_risk(model, ForceStatistics(0.49, coefficients=theta, test_cov=cov), BETA, GAMMA)
    assert abs(losses.mean() - curve.total) < 4 * losses.std() / np.sqrt(runs)
    mean = 0.5 * model.curvature * wrong.mean(axis=1) @ cov @ wrong.mean(axis=1)
    np.testing.assert_allclose(curve.bias, mean, rtol=0.05)


def test_risk_of_random_coefficients_is_the_mean_over_unit_vectors():
    model = random_model(15, 4, 7)
    random = theory.excess_risk(
        model, ForceStatistics(0.3, signal_var=0.5, test_cov=np.arange(1.0, 8.0)), BETA, [0.0, 2.0]
    )
    item = [
        theory.excess_risk(
            model, ForceStatistics(0.3, coefficients=unit, test_cov=np.arange(1.0, 8.0)), BETA, [0.0, 2.0]
        )
        for unit in np.eye(7)
    ]
    np.testing.assert_allclose(random.bias, 0.5 * sum(curve.bias for curve in item), rtol=1e-10)
    np.testing.assert_allclose(random.noise, item[0].noise)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 20), st.floats(0.05, 20), st.sampled_from([(12, 5), (4, 7)]))
def test_optimal_gamma_of_random_coefficients_does_not_depend_on_spectrum_or_test_covariance(seed, v, tau2, shape):
    model = random_model(seed, *shape)
    factor = np.random.default_rng(seed).normal(size=(shape[1], shape[1]))
    statistics = ForceStatistics(v, signal_var=tau2, test_cov=factor @ factor.T)
    best = theory.optimal_gamma(model, statistics, BETA)
    closed = (model.curvature / model.posterior_precision) * (
        v * BETA * model.prior_precision / (tau2 * model.ridge) - 1
    )
    np.testing.assert_allclose(best, max(closed, 0.0), rtol=1e-9, atol=1e-12)
    around = theory.excess_risk(model, statistics, BETA, np.array([best, 0.8 * best, 1.25 * best + 0.01])).total
    assert around[0] <= around[1:].min() * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_optimal_ridge_of_given_coefficients_is_the_lowest_point_of_the_curve(seed):
    rng = np.random.default_rng(seed)
    model, factor = random_model(seed, ridge=0.05), rng.normal(size=(5, 5))
    statistics = ForceStatistics(2.0, coefficients=rng.normal(size=5), test_cov=factor @ factor.T)
    best = theory.optimal_ridge(model, statistics)
    gamma = (np.geomspace(0.02, 50, 401) * best / ridge_parameter(model, BETA) - 1) * 1.3 / 2.1
    curve = theory.excess_risk(model, statistics, BETA, np.maximum(gamma, 0.0))
    lowest = curve.effective_ridge[np.argmin(curve.total)]
    assert abs(np.log(lowest / best)) < 0.02
    np.testing.assert_allclose(
        theory.optimal_gamma(model, statistics, BETA), max(0, gamma[np.argmin(curve.total)]), rtol=0.05
    )


def test_optimal_ridge_has_its_closed_form_for_isotropic_features_and_a_single_mode():
    rng = np.random.default_rng(0)
    isotropic = AmortisedModel(3.0 * np.linalg.qr(rng.normal(size=(9, 4)))[0])
    theta = rng.normal(size=4)
    np.testing.assert_allclose(
        theory.optimal_ridge(isotropic, ForceStatistics(0.6, coefficients=theta)), 0.6 * 4 / (theta @ theta), rtol=1e-9
    )
    single = AmortisedModel(rng.normal(size=(9, 1)))
    np.testing.assert_allclose(
        theory.optimal_ridge(single, ForceStatistics(0.6, coefficients=[1.7])), 0.6 / 1.7**2, rtol=1e-9
    )


def test_pure_noise_is_best_not_learnt_and_no_noise_is_best_learnt_in_full():
    model = random_model(0)
    assert theory.optimal_gamma(model, ForceStatistics(1.0, signal_var=0.0), BETA) == np.inf
    assert theory.optimal_gamma(model, ForceStatistics(1.0, coefficients=0.0), BETA) == np.inf
    assert theory.optimal_gamma(model, ForceStatistics(0.0, signal_var=1.0), BETA) == 0.0
    assert theory.optimal_gamma(model, ForceStatistics(0.0, coefficients=1.0), BETA) == 0.0


def test_a_prior_that_memorises_is_not_protected_at_convergence():
    rng = np.random.default_rng(1)
    forces, features = rng.normal(size=6), rng.normal(size=(6, 20))
    free = AmortisedModel(features, ridge=0.0)
    for gamma in (0.0, 1.0, 100.0):
        result = theory.amortised_equilibrium(free, forces, BETA, gamma)
        np.testing.assert_allclose(result.contamination, forces, rtol=1e-10)
    np.testing.assert_array_equal(theory.protection([0.0, 0.5, 1.0], 2.0, 1.0, 1.0), [2 / 3, 0.5, 0.0])
    for ridge, kept in ((1e-6, 0.999), (1.0, 0.9)):
        result = theory.amortised_equilibrium(AmortisedModel(features, ridge=ridge), forces, BETA, 1.0)
        ratio = np.linalg.norm(result.contamination) / np.linalg.norm(forces)
        assert ratio > kept if ridge < 1e-3 else ratio < kept


def test_protection_is_the_relative_fall_of_every_mode():
    model, forces = random_model(2), np.random.default_rng(3).normal(size=12)
    left, _, _ = model.svd
    before, after = (left.T @ theory.amortised_equilibrium(model, forces, BETA, g).contamination for g in (0.0, GAMMA))
    np.testing.assert_allclose(
        1 - after / before, theory.protection(absorption(model, BETA), GAMMA, 1.3, 2.1), rtol=1e-9
    )


def options(seed, n, count=4, modes=6):
    forces = np.random.default_rng(seed).normal(size=(n, count, modes))
    return forces - forces.mean(axis=1, keepdims=True)


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
        (lambda m: theory.optimal_ridge(m, ForceStatistics(0.0, 0.0)), "^signal_var: expected noise or signal above 0"),
        (lambda m: theory.amortised_equilibrium(m, np.ones(3), 1.0, 1.0), r"^forces: expected shape \(12,\)"),
        (lambda m: theory.amortised_equilibrium(m, np.ones(12), 0.0, 1.0), "^beta: expected numbers above 0"),
        (lambda m: theory.amortised_equilibrium(m, np.ones(12), 1.0, -1.0), "^gamma: expected numbers of at least 0"),
        (
            lambda m: theory.noise_contamination(m, np.ones(3), 1.0, 1.0, 1.0),
            r"^fresh_features: expected shape \(m, 5\)",
        ),
        (
            lambda m: theory.excess_risk(m, ForceStatistics(1.0, coefficients=[1.0, 2.0]), 1.0, 1.0),
            "^coefficients: expected",
        ),
        (lambda m: theory.protection(1.5, 1.0, 1.0, 1.0), "^absorbed: expected numbers from 0 to 1, received 1.5"),
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
