"""No verdict stands on rounding: modes whose units differ by 24 orders of magnitude, matrices that are singular or nearly so."""

import numpy as np
import pytest

from amvl_theory import GaussianGame, MeanLeakageModel, equilibrium, stability, trajectory
from amvl_theory.checks import is_definite, unit_diagonal

FAR = np.array([1e-12, 1e12])
"""Curvatures of two modes, one measured in units 10^12 times the other's."""


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("anchor", [0.0, (0.5, 0.2)])
def test_modes_far_apart_in_curvature_rest_where_each_would_rest_alone(gamma, anchor):
    together = equilibrium(MeanLeakageModel(FAR, [0.3, -2.0], 0.0, 1.0, 1.0, anchor), 0.7, gamma)
    for i, alone in enumerate(np.broadcast_to(anchor, (2,))):
        one = equilibrium(MeanLeakageModel(FAR[i], [[0.3, -2.0][i]], 0.0, 1.0, 1.0, alone), 0.7, gamma)
        assert together.posterior_shift[i] == pytest.approx(one.posterior_shift[0], rel=1e-9)
        assert together.contamination[i] == pytest.approx(one.contamination[0], rel=1e-9)


def test_dense_matrices_in_units_far_apart_are_those_of_equal_units():
    unit = np.array([1e-9, 1.0, 1e9])  # latents in other units: w = unit * z
    H = np.array([[1.0, 0.5, 0.2], [0.5, 2.0, -0.3], [0.2, -0.3, 1.5]])
    force, anchor = np.array([1.0, -2.0, 0.5]), np.array([0.3, 1.0, 0.1])
    plain = equilibrium(MeanLeakageModel(H, force, 0.0, 1.0, 1.0, anchor), 0.7, 0.4)
    scale = np.outer(unit, unit)
    scaled = MeanLeakageModel(H * scale, force * unit, 0.0, unit**2, unit**2, anchor * unit**2)
    np.testing.assert_allclose(equilibrium(scaled, 0.7, 0.4).posterior_shift * unit, plain.posterior_shift, rtol=1e-9)


def test_whether_a_matrix_is_definite_does_not_depend_on_units():
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = rng.integers(2, 6)
        unit = 10.0 ** rng.uniform(-12, 12, size)
        root = rng.normal(size=(size, size))
        regular, singular = root @ root.T + 1e-3 * np.eye(size), root[:, 1:] @ root[:, 1:].T
        assert is_definite(regular * np.outer(unit, unit))
        assert not is_definite(singular * np.outer(unit, unit))
        np.testing.assert_allclose(np.diagonal(unit_diagonal(regular * np.outer(unit, unit))), 1.0)


@pytest.mark.parametrize(
    "singular", [[[1.0, 1.0], [1.0, 1.0]], [[0.01, 0.1], [0.1, 1.0]], [[0.09, 0.21], [0.21, 0.49]]]
)
def test_singular_matrices_are_refused_whatever_rounding_makes_of_their_eigenvalue(singular):
    with pytest.raises(ValueError, match="^curvature: expected a positive definite matrix"):
        MeanLeakageModel(singular, 0.0)
    with pytest.raises(ValueError, match="^curvature: expected positive definite"):
        GaussianGame(np.zeros((1, 3, 2)), np.array([singular]))
    with pytest.raises(ValueError, match="where the anchor is singular"):
        MeanLeakageModel(1.0, [0.0, 0.0], anchor=singular).absorption(0.0)


def test_an_anchor_in_units_far_apart_holds_the_prior_without_a_forward_weight():
    np.testing.assert_array_equal(MeanLeakageModel(1.0, [0.0, 0.0], anchor=FAR).absorption(0.0), np.zeros((2, 2)))


def test_modes_far_apart_in_curvature_have_the_rates_that_each_has_alone():
    for beta, gamma in ((1.0, 1.0), (0.5, 0.0), (0.0, 2.0)):
        together = stability(MeanLeakageModel(FAR, 0.0, 0.0, 1.0, 1.0, [0.5, 0.2]), beta, gamma)
        alone = [
            stability(MeanLeakageModel(h, [0.0], 0.0, 1.0, 1.0, a), beta, gamma).eigenvalues
            for h, a in zip(FAR, (0.5, 0.2), strict=True)
        ]
        np.testing.assert_allclose(np.sort(together.eigenvalues.real), np.sort(np.concatenate(alone).real), rtol=1e-12)
        assert together.stable


def test_a_rate_that_is_lost_beside_the_others_moves_on_a_straight_line():
    # rates 2 and 1e-30, which an eigenvalue of the whole matrix cannot tell from 0
    model = MeanLeakageModel(1e-30, [1.0], 0.0, 1.0, 1.0, 0.0)
    path = trajectory(model, 1.0, 1.0, np.array([0.0, 100.0, 200.0]))
    np.testing.assert_allclose(path.contamination[:, 0], [0.0, 49.75, 99.75], rtol=1e-6)


def test_the_closed_form_of_single_modes_has_the_eigenvalues_of_the_game():
    model = MeanLeakageModel([0.5, 2.0], 0.0, 0.0, [1.0, 3.0], [2.0, 0.7], [0.1, 0.0])
    dense = MeanLeakageModel(*(np.asarray(each) for each in (model.H, model.g, model.G)), *_turned(model))
    for beta, gamma in ((1.0, 0.4), (0.3, 0.0)):
        found = np.sort(stability(model, beta, gamma, 0.5, 2.0).eigenvalues.real)
        np.testing.assert_allclose(found, np.sort(stability(dense, beta, gamma, 0.5, 2.0).eigenvalues.real), rtol=1e-6)


def _turned(model):
    """The precisions and the anchor, coupled by next to nothing: enough for the general solver."""
    couple = 1e-9 * (1 - np.eye(2))
    return model.Lambda_q + couple, model.Lambda_p + couple, model.A
