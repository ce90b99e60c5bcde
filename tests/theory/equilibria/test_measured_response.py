"""Posteriors before a measured response: the closed forms of T4 and T6 where these apply, refusals where no rest point is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from amvl_theory import (
    MeanLeakageModel,
    NoRestPointError,
    fixed_precision_posteriors,
    frozen_prior_response,
    held_prior_posteriors,
    leaked_information,
    moving_prior_posteriors,
    self_consistent_spread,
    sparse_spread,
    spread,
)


def instance(seed: int, options: int = 3, size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forces, a dense positive definite curvature and answer weights."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    weights = rng.uniform(0.2, 1.0, options)
    return rng.normal(size=(options, size)), root @ root.T + 0.3 * np.eye(size), weights / weights.sum()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_t4_is_the_spread_and_the_frozen_prior_response(gamma: float) -> None:
    forces, curvature, _ = instance(0)
    widths = np.random.default_rng(1).uniform(0.4, 2.0, 4)
    result = fixed_precision_posteriors(forces, curvature, np.tile(widths, (3, 1)), gamma)
    centred = forces - forces.mean(0)
    model = MeanLeakageModel(curvature, forces.mean(0), centred.T @ centred / 3, np.diag(widths**-2.0), 1.0, 0.0)
    deviation = result.shifts - result.shifts.mean(0)
    np.testing.assert_allclose(deviation.T @ deviation / 3, spread(model, gamma), atol=1e-9)
    np.testing.assert_allclose(result.shifts.mean(0), frozen_prior_response(model, gamma), atol=1e-9)
    channel = 0.5 * np.linalg.slogdet(np.eye(4) + np.diag(widths**-2.0) @ (deviation.T @ deviation) / 3)[1]
    assert channel == pytest.approx(leaked_information(model, gamma))


def test_with_the_prior_held_mean_and_width_solve_their_equations() -> None:
    force, h, gamma = 0.8, 1.3, 0.2

    def imbalance(s2: float) -> float:
        delta = force / (h + gamma / s2)
        return h * s2**2 + gamma * s2 - gamma * (1 + delta**2)

    result = held_prior_posteriors(np.array([[force]]), np.array([[h]]), gamma)
    s2 = brentq(imbalance, 1e-6, 10.0)
    assert result.widths[0, 0] ** 2 == pytest.approx(s2, rel=1e-4)
    assert result.shifts[0, 0] == pytest.approx(force / (h + gamma / s2), rel=1e-4)
    forces, curvature, _ = instance(2)
    dense = held_prior_posteriors(forces, curvature, gamma)
    for delta, s in zip(dense.shifts, dense.widths, strict=True):
        g = forces[np.flatnonzero((dense.shifts == delta).all(1))[0]]
        np.testing.assert_allclose(curvature @ delta + gamma * delta / s**2, g, atol=1e-4)
        np.testing.assert_allclose(np.diag(curvature) * s**4 + gamma * s**2, gamma * (1 + delta**2), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_with_a_prior_that_follows_one_mode_is_t6_in_closed_form(gamma: float) -> None:
    result = moving_prior_posteriors(np.array([[1.0], [-1.0]]), np.array([[1.3]]), np.array([0.5, 0.5]), gamma)
    expected = self_consistent_spread(1.0, 1.3, gamma)
    snr = np.mean(result.shifts**2) / result.widths[0, 0] ** 2
    assert snr == pytest.approx(float(expected.snr), rel=1e-3)
    assert result.widths[0, 0] ** 2 + np.mean(result.shifts**2) == pytest.approx(
        1.0
    )  # in units of the prior that has followed


def test_above_the_critical_weight_nothing_is_left() -> None:
    result = moving_prior_posteriors(np.array([[1.0], [-1.0]]), np.array([[1.3]]), np.array([0.5, 0.5]), 2.5)
    np.testing.assert_allclose(result.shifts, 0.0, atol=1e-3)


def test_several_modes_are_the_group_lasso_of_the_theory_package() -> None:
    forces, curvature, weights = instance(3)
    result = moving_prior_posteriors(forces, curvature, weights, 0.3)
    exact = sparse_spread(curvature, forces - weights @ forces, 0.3, weights)
    ratio = exact.variance / np.where(exact.active, exact.posterior_variance, 1.0)
    mine = (weights @ result.shifts**2) / result.widths[0] ** 2
    np.testing.assert_allclose(mine[exact.active], ratio[exact.active], rtol=0.02)
    assert (mine[~exact.active] < 0.02).all()


def test_a_slope_without_curvature_has_no_rest_point() -> None:
    with pytest.raises(NoRestPointError, match="no rest point"):
        held_prior_posteriors(np.array([[1.0]]), np.array([[0.0]]), 0.1)


@pytest.mark.parametrize(
    "rule", [held_prior_posteriors, lambda g, h, x: moving_prior_posteriors(g, h, np.ones(3) / 3, x)]
)
def test_without_gamma_widths_have_no_rest_point(rule: Any) -> None:
    with pytest.raises(ValueError, match="gamma: expected numbers above 0"):
        rule(*instance(0)[:2], 0.0)


def test_a_weight_without_limit_leaves_nothing_to_leak() -> None:
    forces, curvature, weights = instance(5)
    heavy = 1e4
    for posteriors in (
        fixed_precision_posteriors(forces, curvature, np.ones_like(forces), heavy),
        held_prior_posteriors(forces, curvature, heavy),
        moving_prior_posteriors(forces, curvature, weights, heavy),
    ):
        assert posteriors.spread == pytest.approx(0.0, abs=1e-2)
        np.testing.assert_allclose(posteriors.shifts, 0.0, atol=1e-2)


@pytest.mark.parametrize("gamma", [0.05, 0.3])
def test_directions_without_force_and_curvature_change_nothing(gamma: float) -> None:
    """A curvature of rank 4 in 7 dimensions, in coordinates of the posterior that keep it diagonal."""
    forces, curvature, weights = instance(6)
    padded, singular = np.zeros((3, 7)), np.zeros((7, 7))
    padded[:, :4], singular[:4, :4] = forces, curvature
    for few, many in (
        (held_prior_posteriors(forces, curvature, gamma), held_prior_posteriors(padded, singular, gamma)),
        (
            moving_prior_posteriors(forces, curvature, weights, gamma),
            moving_prior_posteriors(padded, singular, weights, gamma),
        ),
    ):
        np.testing.assert_allclose(many.shifts[:, :4], few.shifts, atol=1e-9)
        np.testing.assert_allclose(many.widths[:, :4], few.widths, atol=1e-9)
        np.testing.assert_array_equal(many.shifts[:, 4:], 0.0)
        np.testing.assert_allclose(many.widths[:, 4:], 1.0)


def test_answers_with_curvatures_of_their_own_are_solved_one_by_one() -> None:
    forces, curvature, _ = instance(7)
    curvatures = np.stack([curvature, 2 * curvature, 0.5 * curvature])
    together = held_prior_posteriors(forces, curvatures, 0.2)
    for i in range(3):
        alone = held_prior_posteriors(forces[i : i + 1], curvatures[i], 0.2)
        np.testing.assert_allclose(together.shifts[i], alone.shifts[0], rtol=1e-4)
        np.testing.assert_allclose(together.widths[i], alone.widths[0], rtol=1e-4)


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    forces, curvature, weights = instance(0)
    with pytest.raises(ValueError, match="curvature: expected shape"):
        moving_prior_posteriors(forces, curvature[:3, :3], weights, 0.1)
    with pytest.raises(ValueError, match="widths: expected shape"):
        fixed_precision_posteriors(forces, curvature, np.ones(4), 0.1)
    with pytest.raises(ValueError, match="probabilities: expected a sum of 1"):
        moving_prior_posteriors(forces, curvature, 2 * weights, 0.1)
    with pytest.raises(ValueError, match="forces: expected shape"):
        held_prior_posteriors(forces[0], curvature, 0.1)
