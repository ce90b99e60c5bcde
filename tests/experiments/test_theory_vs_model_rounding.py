"""Predictions from forces and curvatures of any size: near the smallest float32 numbers, exact zeros, no curvature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from amvl_theory import (
    AnswerPosteriors,
    NoRestPointError,
    fixed_precision_posteriors,
    held_prior_posteriors,
    moving_prior_posteriors,
    sparse_spread,
)
from experiments.theory_vs_model.reference import Reference

SMALLEST = 2.0**-126
"""The smallest normal float32 number, 1.2e-38."""
WEIGHTS = np.array([0.5, 0.3, 0.2])
GAMMA = 0.05


def question(probabilities: tuple[float, ...], *, size: int = 6, seed: int = 0) -> Reference:
    """Random forces of about 10, and the curvature that these answer probabilities give."""
    options = len(probabilities)
    return Reference(
        question_id="q",
        task="t",
        forces=10 * np.random.default_rng(seed).normal(size=(options, size)),
        answer_probs=np.array(probabilities),
        known_probs=np.full(options, 1 / options),
        shifts=np.zeros((options, size)),
        widths=np.ones((options, size)),
    )


def moving(forces: np.ndarray, curvature: np.ndarray) -> AnswerPosteriors:
    return moving_prior_posteriors(forces, curvature, WEIGHTS, GAMMA)


def held(forces: np.ndarray, curvature: np.ndarray) -> AnswerPosteriors:
    return held_prior_posteriors(forces, curvature, GAMMA)


def measured(forces: np.ndarray, curvature: np.ndarray) -> AnswerPosteriors:
    return fixed_precision_posteriors(forces, curvature, np.ones_like(forces), GAMMA)


@pytest.mark.parametrize("scale", [2.0**-63, SMALLEST, 2.0**-140])
def test_a_prior_that_follows_has_no_unit_however_small_the_forces(scale: float) -> None:
    known = question((0.5, 0.3, 0.15))
    expected = moving(known.forces, known.curvature)
    result = moving(scale * known.forces, scale**2 * known.curvature)
    np.testing.assert_allclose(result.shifts, expected.shifts, atol=1e-6)
    np.testing.assert_allclose(result.widths, expected.widths, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0**-15, 2.0**-20, 2.0**-40, SMALLEST])
def test_a_prior_that_follows_solves_the_group_lasso_at_every_size(scale: float) -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(4, 4))
    curvature, forces = root @ root.T + 0.3 * np.eye(4), rng.normal(size=(3, 4))
    exact = sparse_spread(curvature, forces - WEIGHTS @ forces, GAMMA, WEIGHTS)
    result = moving_prior_posteriors(scale * forces, scale**2 * curvature, WEIGHTS, GAMMA)
    ratio = (WEIGHTS @ result.shifts**2) / result.widths[0] ** 2
    expected = exact.variance / np.where(exact.active, exact.posterior_variance, 1.0)
    np.testing.assert_allclose(ratio[exact.active], expected[exact.active], rtol=0.05)
    assert (ratio[~exact.active] < 0.05).all()


def test_forces_near_the_smallest_float32_numbers_move_a_held_prior_by_force_over_gamma() -> None:
    known = question((0.5, 0.3, 0.15))
    forces, curvature = SMALLEST * known.forces, SMALLEST**2 * known.curvature
    for result in (held(forces, curvature), measured(forces, curvature)):
        np.testing.assert_allclose(result.shifts, forces / GAMMA, rtol=1e-6)
        np.testing.assert_allclose(result.widths, 1.0)


@pytest.mark.parametrize("rule", [moving, held, measured])
@pytest.mark.parametrize("small", [0.0, SMALLEST])
def test_a_mode_with_next_to_no_force_says_nothing_and_leaves_the_others_alone(
    rule: Callable[[np.ndarray, np.ndarray], AnswerPosteriors], small: float
) -> None:
    known = question((0.5, 0.3, 0.15))
    factors = np.array([1.0, 1.0, small, 1.0, 1.0, 1.0])
    rest = factors == 1
    result = rule(known.forces * factors, known.curvature * np.outer(factors, factors))
    expected = rule(known.forces[:, rest], known.curvature[np.ix_(rest, rest)])
    np.testing.assert_allclose(result.shifts[:, rest], expected.shifts, atol=1e-9)
    np.testing.assert_allclose(result.widths[:, rest], expected.widths, atol=1e-9)
    np.testing.assert_allclose(result.shifts[:, 2], 0.0, atol=1e-12)
    np.testing.assert_allclose(result.widths[:, 2], 1.0)


@pytest.mark.parametrize("rule", [moving, held, measured])
def test_forces_of_exactly_zero_say_nothing(rule: Callable[[np.ndarray, np.ndarray], AnswerPosteriors]) -> None:
    result = rule(np.zeros((3, 4)), np.zeros((4, 4)))
    np.testing.assert_array_equal(result.shifts, np.zeros((3, 4)))
    np.testing.assert_allclose(result.widths, 1.0)


def test_without_gamma_and_curvature_the_measured_precision_leaves_every_mode_in_place() -> None:
    result = fixed_precision_posteriors(np.ones((2, 3)), np.zeros((3, 3)), np.ones((2, 3)), 0.0)
    np.testing.assert_array_equal(result.shifts, np.zeros((2, 3)))


def test_two_modes_that_always_move_together_share_a_force_of_any_size() -> None:
    # In units of the curvature 2 t + sqrt(gamma/2) = 1e18: the pull is lost when it is added to the curvature, 1e18 + 1 = 1e18.
    forces, curvature = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.full((2, 2), 1e-36)
    result = moving_prior_posteriors(forces, curvature, np.array([0.5, 0.5]), GAMMA)
    np.testing.assert_allclose(result.shifts, forces, rtol=1e-9)
    np.testing.assert_allclose(result.widths**2, np.sqrt(2 * GAMMA) / 0.5e18, rtol=1e-3)


@pytest.mark.parametrize(
    "probabilities",
    [(3e-16, 8e-14, 1e-23, 7e-25), (4e-15, 4e-9, 2.7e-22, 3.6e-23), (1e-15, 7e-15, 3e-25, 4e-26), (1e-40, 0.0, 1e-9)],
)
@pytest.mark.parametrize("seed", range(4))
def test_a_dead_decoder_has_no_rest_point_and_is_no_singular_matrix(
    probabilities: tuple[float, ...], seed: int
) -> None:
    dead = question(probabilities, size=24, seed=seed)
    for gamma in (0.001, 0.01, 1.0):
        with pytest.raises(NoRestPointError, match="no rest point"):
            moving_prior_posteriors(dead.forces, dead.curvature, dead.known_probs, gamma)
        with pytest.raises(NoRestPointError, match="no rest point"):
            held_prior_posteriors(dead.forces, dead.curvature, gamma)


def test_a_force_without_any_curvature_has_no_rest_point_with_a_prior_that_follows() -> None:
    forces = np.array([[1.0, 1.0], [-1.0, -1.0]])
    for curvature in (np.zeros((2, 2)), np.diag([1.0, 0.0])):
        with pytest.raises(NoRestPointError, match="without curvature against it"):
            moving_prior_posteriors(forces, curvature, np.array([0.5, 0.5]), GAMMA)
