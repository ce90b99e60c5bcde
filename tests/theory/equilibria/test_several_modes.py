"""Several coupled modes (T6): the group lasso, its threshold, and the ELBO's hysteresis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amvl_theory.equilibria.free_spread import self_consistent_spread
from amvl_theory.equilibria.several_modes import collapse_threshold, elbo_spread, local_elbo_threshold, sparse_spread

HYSTERETIC = [[1.0, -0.8], [-0.8, 1.0]], [[1.0, 1.0], [-1.0, -1.0]]


def instance(seed, size=3, answers=4):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size), rng.normal(size=(answers, size)), rng.dirichlet(2 * np.ones(answers))


@pytest.mark.parametrize("seed", range(6))
def test_solution_satisfies_the_equations_of_means_and_variances(seed):
    H, forces, p = instance(seed)
    gamma = 0.3 * collapse_threshold(H, forces, p)
    result = sparse_spread(H, forces, gamma, p)
    on = result.active
    assert on.any()
    np.testing.assert_allclose(result.variance, p @ result.shifts**2, rtol=1e-10, atol=1e-14)
    # gradient of the answer loss against the reverse KL's pull, for the modes that leak
    pull = gamma / result.posterior_variance[on]
    np.testing.assert_allclose((result.shifts @ H)[:, on] + pull * result.shifts[:, on], forces[:, on], atol=1e-9)
    s, V, h = result.posterior_variance, result.variance, np.diagonal(H)
    np.testing.assert_allclose(h * s**2 + gamma * s, gamma * (s + 2 * V), rtol=1e-9)
    left = forces - result.shifts @ H
    assert (p @ left**2 <= gamma * h / 2 * (1 + 1e-9) + 1e-12)[~on].all()
    assert result.gap <= 1e-10 * max(1.0, abs(result.objective_value))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 1.2), st.permutations(range(3)), st.floats(0.1, 10))
def test_gap_is_tiny_and_neither_names_of_modes_nor_the_unit_of_z_matter(seed, ratio, order, unit):
    H, forces, p = instance(seed)
    gamma, order = ratio * collapse_threshold(H, forces, p), list(order)
    here = sparse_spread(H, forces, gamma, p)
    there = sparse_spread(H[np.ix_(order, order)] / unit**2, forces[:, order] / unit, gamma, p)
    assert -1e-12 <= here.gap <= 1e-10
    np.testing.assert_allclose(there.shifts, unit * here.shifts[:, order], atol=1e-7 * unit)
    assert there.objective_value == pytest.approx(here.objective_value, abs=1e-9)


def test_all_modes_are_silent_exactly_from_the_threshold_on():
    H, forces, p = instance(3)
    threshold = collapse_threshold(H, forces, p)
    assert threshold == pytest.approx(max(2 * (p @ forces**2) / np.diagonal(H)))
    assert not sparse_spread(H, forces, threshold * (1 + 1e-9), p).active.any()
    assert sparse_spread(H, forces, threshold * (1 - 1e-3), p).active.sum() == 1


def test_modes_go_silent_one_after_the_other():
    counts = [
        int(sparse_spread([1.0, 1.0, 1.0], [[1.0, 2, 3], [-1, -2, -3]], gamma).active.sum()) for gamma in (1, 4, 10, 20)
    ]
    assert counts == [3, 2, 1, 0]


@pytest.mark.parametrize("objective", ["amvl", "elbo"])
def test_uncoupled_modes_are_the_one_mode_closed_form(objective):
    h, forces, p = np.array([0.7, 1.3, 2.0]), instance(1)[1], instance(1)[2]
    solver = sparse_spread if objective == "amvl" else elbo_spread
    result = solver(h, forces, 0.2, p)
    expected = self_consistent_spread(p @ forces**2, h, 0.2, objective)
    np.testing.assert_allclose(result.variance, expected.variance, rtol=1e-9)
    np.testing.assert_allclose(result.posterior_variance, expected.posterior_variance, rtol=1e-9)


def test_without_reverse_kl_the_shifts_are_free():
    H, forces, p = instance(2)
    np.testing.assert_allclose(sparse_spread(H, forces, 0.0, p).shifts, np.linalg.solve(H, forces.T).T, rtol=1e-9)


def test_dense_elbo_is_hysteretic_between_its_local_threshold_and_25_16():
    H, forces = HYSTERETIC
    assert local_elbo_threshold(H, forces) == pytest.approx(1.0)
    leaking, collapsed = (elbo_spread(H, forces, 1.5, start=start) for start in ("leaking", "collapsed"))
    np.testing.assert_allclose(leaking.shifts, [[2.5, 2.5], [-2.5, -2.5]], rtol=1e-10)  # (1 - a/5)(1 + 4a/5) = 3/2
    assert leaking.active.all()
    assert not collapsed.active.any()
    assert not elbo_spread(H, forces, 1.57).active.any()
    assert elbo_spread(H, forces, 0.99, start="collapsed").active.all()
    # 5/4, the other solution, separates the two: descent leaves it on either side
    for scale, end in ((1.26, 2.5), (1.24, 0.0)):
        assert np.abs(elbo_spread(H, forces, 1.5, start=np.array(forces) * scale).shifts).max() == pytest.approx(
            end, abs=1e-9
        )
    # dual KL has one solution there
    assert not sparse_spread(H, forces, 2.0).active.any()
    assert sparse_spread(H, forces, 1.99).active.all()


def test_elbo_fixed_point_satisfies_the_equations_of_means_and_variances():
    H, forces, p = instance(0)
    result = elbo_spread(H, forces, 0.05, p)
    on, V, s = result.active, result.variance, result.posterior_variance
    pull = 0.05 / (s + V)[on]
    np.testing.assert_allclose((result.shifts @ H)[:, on] + pull * result.shifts[:, on], forces[:, on], atol=1e-9)
    np.testing.assert_allclose(s[on], 0.05 / (np.diagonal(H)[on] + pull), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: sparse_spread([[1, 2], [2, 1]], [[1.0, 1]], 1.0), "curvature"),
        (lambda: sparse_spread(1.0, [1.0, 1.0], 1.0), "forces"),
        (lambda: sparse_spread([1.0, 1.0, 1.0], [[1.0, 1.0]], 1.0), "curvature"),
        (lambda: sparse_spread(1.0, [[1.0, 1.0]], -1.0), "gamma"),
        (lambda: sparse_spread(1.0, [[1.0], [2.0]], 1.0, [0.5, 0.4]), "probabilities"),
        (lambda: elbo_spread(1.0, [[1.0]], 0.0), "beta"),
        (lambda: elbo_spread(1.0, [[1.0]], 1.0, start="middle"), "start"),
        (lambda: elbo_spread(1.0, [[1.0]], 1.0, start=[1.0, 2.0]), "start"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
        call()
