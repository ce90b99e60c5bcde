"""No verdict stands on rounding: modes whose units differ by 24 orders of magnitude, matrices that are singular or nearly so."""

import numpy as np
import pytest

from amvl_theory import (
    GaussianGame,
    MeanLeakageModel,
    anchor_factor,
    equilibrium,
    free_contamination,
    self_consistent_contamination,
    stability,
    trajectory,
)
from amvl_theory.checks import is_definite, unit_diagonal
from amvl_theory.dynamics.stability import UNSTABLE_EXAMPLE
from amvl_theory.equilibria.free_contamination import _no_growing_pair

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
    dense = MeanLeakageModel(*(np.asarray(item) for item in (model.H, model.g, model.G)), *_turned(model))
    for beta, gamma in ((1.0, 0.4), (0.3, 0.0)):
        result = np.sort(stability(model, beta, gamma, 0.5, 2.0).eigenvalues.real)
        np.testing.assert_allclose(result, np.sort(stability(dense, beta, gamma, 0.5, 2.0).eigenvalues.real), rtol=1e-6)


def _turned(model):
    """The precisions and the anchor, coupled by next to nothing: enough for the general solver."""
    couple = 1e-9 * (1 - np.eye(2))
    return model.Lambda_q + couple, model.Lambda_p + couple, model.A


# Rates that span 16 orders of magnitude

SPANS = [(1e-8, 1e8), (1e8, 1e-8), (1e-3, 1e5), (1.0, 1.0)]


@pytest.mark.parametrize(("eta_q", "eta_p"), SPANS)
@pytest.mark.parametrize("dense", ["curvature", "anchor"])
def test_a_game_with_a_symmetriser_is_stable_at_rates_however_far_apart(eta_q, eta_p, dense):
    matrix, diagonal = [[1.3, 0.5], [0.5, 0.7]], [0.4, 0.9]
    curvature, anchor = (matrix, diagonal) if dense == "curvature" else (diagonal, matrix)
    model = MeanLeakageModel(curvature, 0.0, 0.0, [0.7, 2.0], [1.5, 0.6], anchor)
    result = stability(model, 0.7, 0.4, eta_q, eta_p)
    assert result.stable and result.slowest_rate < min(eta_q, eta_p) * 5
    assert np.prod(-result.eigenvalues.real) == pytest.approx((eta_q * eta_p) ** 2 * determinant(model), rel=1e-9)


@pytest.mark.parametrize(("eta_q", "eta_p"), SPANS)
def test_the_unstable_game_is_unstable_at_rates_however_far_apart(eta_q, eta_p):
    """Its determinant is negative, and rates only multiply it."""
    result = stability(UNSTABLE_EXAMPLE, 1.0, 1.0, eta_q, eta_p)
    assert not result.stable and result.max_stable_step == 0
    product = np.prod(result.eigenvalues)
    assert product.real == pytest.approx((eta_q * eta_p) ** 2 * -0.3, rel=1e-9)
    assert abs(product.imag) < 1e-9 * abs(product)


def determinant(model):
    """det J at unit rates, beta = 0.7, gamma = 0.4: of the Schur complement times that of the posterior's block."""
    own = model.H + 0.4 * model.Lambda_q
    rest = 0.7 * model.Lambda_p + model.A - 0.7 * model.Lambda_p @ np.linalg.solve(own, 0.4 * model.Lambda_q)
    return np.linalg.det(own) * np.linalg.det(rest)


@pytest.mark.parametrize(("eta_q", "eta_p"), SPANS)
@pytest.mark.parametrize(
    ("model", "beta", "gamma", "count"),
    [
        (MeanLeakageModel(1.0, [3.0], 0.01, anchor=1.0), 1.0, 0.002, 3),
        (MeanLeakageModel(1.0, [30.0], 1e-4, anchor=1.0), 1.0, 1e-6, 3),
        (MeanLeakageModel(1e8, [1e-4], 1e4, anchor=1e-8), 1e-3, 1e-6, 1),
        (MeanLeakageModel(1e-6, [1e4], 1e-6, anchor=1e6), 1e-4, 1e-8, 1),
    ],
)
def test_outer_roots_attract_and_the_middle_one_does_not_at_any_rates(model, beta, gamma, count, eta_q, eta_p):
    result = free_contamination(model, beta, gamma, eta_q=eta_q, eta_p=eta_p)
    assert result.stable.tolist() == [i % 2 == 0 for i in range(count)]


def test_roots_however_small_or_close_to_the_free_shift_solve_their_equation():
    rng = np.random.default_rng(0)
    for objective in ("ntp+fwd", "elbo", "amvl"):
        for g, v0, h, alpha, beta, gamma in 10.0 ** rng.uniform(-8, 8, (40, 6)):
            model = MeanLeakageModel(h, [g], v0, anchor=alpha)
            result = free_contamination(model, beta, gamma, objective)
            weight = beta if objective == "elbo" else gamma
            for root in result.values:
                factor = anchor_factor(v0 + (g - h * root) ** 2, h, weight, objective)
                assert root == pytest.approx(beta * g / (beta * h + alpha * factor), rel=1e-6)
            assert result.stable.tolist() == [i % 2 == 0 for i in range(len(result.values))]
    tiny = self_consistent_contamination(1.0, 1.0, 1.0, 1e30, 1.0, 0.0, "ntp+fwd").values
    assert tiny == pytest.approx([0.5e-30], rel=1e-12)


def test_a_growing_pair_is_seen_whether_or_not_floats_can_see_it():
    for real, fast in ((1e-12, 1.0), (-1e-12, 1.0), (0.1, 1.0), (-0.1, 1.0), (1e-12, 1e8), (-1e-12, 1e8)):
        jacobian = np.zeros((3, 3))
        jacobian[:2, :2] = [[real, 1.0], [-1.0, real]]
        jacobian[2, 2] = -fast
        assert _no_growing_pair(jacobian) == (real < 0), (real, fast)
