"""Gaussian identities against dense formulas, optimisers and brute-force integration."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize

import amvl_theory as theory

numbers = st.floats(-5, 5)
variances = st.floats(1e-3, 1e3)


def random_covariance(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(numbers, variances, numbers, variances)
def test_kl_is_not_negative_and_jeffreys_is_symmetric(ma, va, mb, vb):
    assert theory.kl_diag(ma, va, mb, vb) >= 0
    assert theory.kl_diag(ma, va, ma, va) == 0
    assert theory.jeffreys_diag(ma, va, mb, vb) == theory.jeffreys_diag(mb, vb, ma, va)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(numbers, variances, numbers, variances, st.floats(1e-2, 1e2))
def test_kl_does_not_depend_on_the_unit_of_z(ma, va, mb, vb, unit):
    np.testing.assert_allclose(
        theory.kl_diag(unit * ma, unit**2 * va, unit * mb, unit**2 * vb),
        theory.kl_diag(ma, va, mb, vb),
        rtol=1e-9,
        atol=1e-14,
    )


def test_kl_diag_is_the_integral_of_its_definition():
    def density(z, mean, var):
        return np.exp(-0.5 * (z - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)

    def integrand(z):
        return density(z, 0.3, 0.5) * np.log(density(z, 0.3, 0.5) / density(z, -0.4, 2.0))

    assert theory.kl_diag(0.3, 0.5, -0.4, 2.0) == pytest.approx(
        integrate.quad(integrand, -8, 8, epsabs=1e-12)[0], abs=1e-10
    )


def test_kl_full_of_diagonal_covariances_is_kl_diag_and_of_dense_ones_the_textbook_formula():
    rng = np.random.default_rng(0)
    ma, mb, va, vb = rng.normal(size=3), rng.normal(size=3), rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 3)
    assert theory.kl_full(ma, np.diag(va), mb, np.diag(vb)) == pytest.approx(
        float(theory.kl_diag(ma, va, mb, vb)), rel=1e-12
    )
    a, b = random_covariance(rng, 3), random_covariance(rng, 3)
    inverse = np.linalg.inv(b)
    textbook = (
        np.trace(inverse @ a) - 3 + (mb - ma) @ inverse @ (mb - ma) + np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1]
    )
    assert theory.kl_full(ma, a, mb, b) == pytest.approx(textbook / 2, rel=1e-10)


def test_moment_matching_minimises_the_mean_forward_kl():
    rng = np.random.default_rng(1)
    means, widths, p = rng.normal(size=(4, 2)), rng.uniform(0.2, 2, (4, 2)), rng.dirichlet(np.ones(4))
    matched = theory.moment_match(means, widths, p)

    def loss(x):
        return p @ theory.kl_diag(means, widths, x[:2], np.exp(x[2:]))

    result = optimize.minimize(loss, np.zeros(4), tol=1e-12, method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(result[:2], matched.mean, atol=1e-6)
    np.testing.assert_allclose(np.exp(result[2:]), matched.variance, rtol=1e-6)


def test_an_anchored_mean_costs_its_squared_distance_in_variance():
    rng = np.random.default_rng(2)
    means, widths, p = rng.normal(size=(3, 2)), rng.uniform(0.2, 2, (3, 2)), rng.dirichlet(np.ones(3))
    free, held = theory.moment_match(means, widths, p), np.array([0.7, -0.2])
    expected = free.variance + (free.mean - held) ** 2
    np.testing.assert_allclose(theory.matched_variance(means, widths, held, p), expected, rtol=1e-12)
    best = optimize.minimize_scalar(
        lambda v: p @ theory.kl_diag(means[:, :1], widths[:, :1], held[:1], v),
        bounds=(0.01, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert best.x == pytest.approx(expected[0], rel=1e-6)


def test_full_moment_matching_has_the_diagonal_one_on_its_diagonal():
    rng = np.random.default_rng(3)
    means, covariances = rng.normal(size=(3, 2)), np.stack([random_covariance(rng, 2) for _ in range(3)])
    full = theory.moment_match(means, covariances)
    diagonal = theory.moment_match(means, np.diagonal(covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(np.diagonal(full.variance), diagonal.variance, rtol=1e-12)
    np.testing.assert_allclose(full.variance, covariances.mean(axis=0) + np.cov(means.T, bias=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("means", "widths", "p"),
    [
        ([-1, 1], [1, 1], [0.5, 0.5]),
        ([-3, 0, 2], [0.2, 1.0, 0.05], [0.2, 0.5, 0.3]),
        ([0, 0], [1.0, 1e-4], [0.9, 0.1]),
        ([0, 40], [1, 9], [0.01, 0.99]),
    ],
)
def test_mixture_information_is_the_adaptive_integral(means, widths, p):
    means, deviations, p = np.array(means, float), np.sqrt(widths), np.array(p)

    def integrand(z):
        log_q = -0.5 * ((z - means) / deviations) ** 2 - np.log(deviations * np.sqrt(2 * np.pi))
        log_m = np.logaddexp.reduce(log_q + np.log(p))
        return float(p @ (np.exp(log_q) * (log_q - log_m)))

    edges = np.unique(
        np.concatenate([means + k * deviations for k in range(-10, 11)] + [means.min() - 12 * deviations])
    )
    expected = sum(integrate.quad(integrand, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pairwise(edges))
    assert theory.mixture_information(means, widths, p) == pytest.approx(expected, abs=1e-10)


def test_mixture_information_keeps_its_digits_when_small_and_saturates_at_the_entropy():
    np.testing.assert_allclose(theory.mixture_information([-1e-4, 1e-4], 1.0), 0.5e-8, rtol=1e-6)
    p = [0.2, 0.3, 0.5]
    assert theory.mixture_information([-50, 0, 50], 1.0, p) == pytest.approx(theory.entropy(p), abs=1e-12)
    np.testing.assert_allclose(theory.mixture_information([[-1, 1], [0, 0]], 1.0)[1], 0.0, atol=1e-15)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.tuples(numbers, st.floats(0.05, 5), st.floats(0.1, 1)), min_size=2, max_size=4), st.floats(0.01, 100)
)
def test_pairwise_bounds_hold_the_exact_value_below_the_entropy_in_any_unit(answers, unit):
    means, widths, p = (np.array(x) for x in zip(*answers, strict=True))
    p = p / p.sum()
    exact = float(theory.mixture_information(means, widths, p))
    bounds = theory.pairwise_information_bounds(means[:, None], widths[:, None], p)
    assert -1e-12 <= bounds.lower <= exact + 1e-11
    assert exact - 1e-11 <= bounds.upper <= theory.entropy(p) + 1e-12
    assert exact == pytest.approx(float(theory.mixture_information(unit * means, unit**2 * widths, p)), abs=1e-11)


def test_channel_information_is_the_log_determinant_and_bounds_any_answers():
    rng = np.random.default_rng(4)
    spread, precision = random_covariance(rng, 3), random_covariance(rng, 3)
    expected = 0.5 * np.linalg.slogdet(np.eye(3) + precision @ spread)[1]
    assert theory.gaussian_channel_information(spread, precision) == pytest.approx(expected, rel=1e-12)
    assert theory.mixture_information([-1.0, 0.5, 0.5], 0.3, [1 / 3] * 3) < theory.gaussian_channel_information(
        0.5, 1 / 0.3
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: theory.kl_diag(0, -1, 0, 1), "var_a"),
        (lambda: theory.kl_diag(0, 1, np.nan, 1), "mean_b"),
        (lambda: theory.kl_diag([0, 1], 1, [0, 1, 2], 1), "mean_a"),
        (lambda: theory.kl_full([0, 0], [[1, 2], [2, 1]], [0, 0], np.eye(2)), "cov_a"),
        (lambda: theory.moment_match([[0.0], [1.0]], 1.0, [0.5, 0.6]), "probabilities"),
        (lambda: theory.moment_match([0.0, 1.0], 1.0), "means"),
        (lambda: theory.moment_match([[0.0], [1.0]], [1.0, 1.0, 1.0]), "variances"),
        (lambda: theory.matched_variance([[0.0], [1.0]], 1.0, [1.0, 2.0]), "mean"),
        (lambda: theory.mixture_information([0, 1], [1, 0]), "variances"),
        (lambda: theory.gaussian_channel_information(-1.0, 1.0), "spread_cov"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
        call()
