"""Per-answer variances (T6): the solver against the gradient flow, quoted numbers, hysteresis, the closed form's error."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from amvl_theory.equilibria.free_contamination import self_consistent_contamination
from amvl_theory.equilibria.free_spread import self_consistent_spread
from amvl_theory.equilibria.per_answer import closed_form_error_map, per_answer_equilibrium, three_answers, two_answers

ROOT3 = np.sqrt(3)
CASES = {
    "balanced": ([-1.0, 1.0], [0.5, 0.5]),
    "three symmetric": ([-np.sqrt(1.5), 0.0, np.sqrt(1.5)], [1 / 3] * 3),
    "one of four": ([ROOT3, -1 / ROOT3, -1 / ROOT3, -1 / ROOT3], [0.25] * 4),
    "80/20": ([2.0, -0.5], [0.2, 0.8]),
}


def rest_of_flow(forces, p, h, gamma, *, objective="amvl", beta=0.5, anchor=None, start=0.0, width=0.0, until=4000.0):
    """(c, delta_y, s_y) where the gradient flow of the real KLs ends, every answer with a variance of its own."""
    g, p, n = np.array(forces), np.array(p), len(forces)

    def flow(_, state):
        delta, log_q, c, prior = state[:n], state[n : 2 * n], state[2 * n], np.exp(state[2 * n + 1])
        q, off = np.exp(log_q), delta - c
        if objective == "amvl":
            pull, narrow = gamma / q, gamma * (1 - (prior + off**2) / q)
        else:
            pull, narrow = beta / prior, beta * (q / prior - 1)
        slow = 0.0 if anchor is None else -beta / prior * (c - p @ delta) - anchor * c
        widen = -0.5 * beta * (1 - p @ (q + off**2) / prior)
        return np.concatenate([-(h * delta - g + pull * off), -0.5 * (h * q + narrow), [slow, widen]])

    first = np.concatenate([g / h, np.full(n, width), [start, width]])
    end = integrate.solve_ivp(flow, (0, until), first, method="LSODA", rtol=1e-10, atol=1e-13).y[:, -1]
    return end[2 * n], end[:n], np.exp(end[n : 2 * n])


@pytest.mark.parametrize(
    ("case", "at_005", "at_1"),
    [
        ("balanced", 0.398, 0.022),
        ("three symmetric", 0.415, 0.031),
        ("one of four", 0.429, 0.053),
        ("80/20", 0.443, 0.078),
    ],
)
def test_second_moment_has_the_quoted_values(case, at_005, at_1):
    forces, p = CASES[case]
    result = per_answer_equilibrium(forces, 1.3, [0.05, 1.0], p)
    np.testing.assert_allclose(result.second_moment, [at_005, at_1], atol=5e-4)
    assert result.residual.max() < 1e-12


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("anchor", [None, 0.6])
def test_solution_is_the_rest_of_the_flow(case, anchor):
    forces, p = CASES[case]
    forces = np.array(forces) + (0.0 if anchor is None else 0.8)
    result = per_answer_equilibrium(forces, 1.3, 0.2, p, anchor=anchor, beta=0.5)
    c, delta, widths = rest_of_flow(forces, p, 1.3, 0.2, anchor=anchor)
    np.testing.assert_allclose(result.contamination, c, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(result.shifts, delta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.posterior_variance, widths, rtol=1e-5)


def test_balanced_binary_answers_are_the_shared_variance_closed_form():
    gamma = np.array([0.01, 0.3, 1.0, 1.5, 2.0])
    result, closed = per_answer_equilibrium([-1, 1], 1.3, gamma), self_consistent_spread(1.0, 1.3, gamma)
    np.testing.assert_allclose(result.second_moment, closed.variance, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(result.posterior_variance[:, 0], closed.posterior_variance, rtol=1e-9, atol=1e-15)


def test_skewed_forces_of_mean_zero_shift_the_mean():
    for case, leans in (("balanced", False), ("three symmetric", False), ("one of four", True), ("80/20", True)):
        forces, p = CASES[case]
        result = per_answer_equilibrium(forces, 1.3, 0.2, p)
        mean = float(np.dot(p, result.shifts))
        assert (abs(mean) > 1e-2) == leans
        assert result.second_moment - result.variance == pytest.approx(mean**2, abs=1e-14)


def test_under_the_elbo_every_answer_has_the_same_variance_and_the_closed_form_is_exact():
    forces, p = CASES["80/20"]
    _, delta, widths = rest_of_flow(forces, p, 1.3, 0.0, objective="elbo", beta=0.3)
    closed = self_consistent_spread(1.0, 1.3, 0.3, "elbo")
    np.testing.assert_allclose(widths, closed.posterior_variance, rtol=1e-5)
    assert np.dot(p, delta**2) == pytest.approx(float(closed.variance), rel=1e-5)


def test_one_answer_is_the_contamination_of_a_single_force():
    result = per_answer_equilibrium([3.0], 1.0, 0.05, anchor=1.0)
    roots = self_consistent_contamination(3.0, 0.0, 1.0, 1.0, 1.0, 0.05)
    assert np.abs(roots.values - result.contamination).min() < 1e-10


def test_bistable_contamination_survives_variances_of_ones_own():
    low, high = (
        per_answer_equilibrium([3.1, 2.9], 1.0, 0.002, anchor=1.0, branch=b).contamination
        for b in ("leaking", "collapsed")
    )
    assert low == pytest.approx(0.376, abs=1e-3)
    assert high == pytest.approx(2.957, abs=1e-3)
    c, _, _ = rest_of_flow([3.1, 2.9], [0.5, 0.5], 1.0, 0.002, beta=1.0, anchor=1.0, start=2.95, width=np.log(0.005))
    assert c == pytest.approx(float(high), rel=1e-5)


def test_transition_is_continuous_up_to_a_kurtosis_of_3_and_hysteretic_above():
    for family in ("two", "three"):
        kurtosis = [1.5, 2.5, 2.9, 3.3, 5.0]
        wide = closed_form_error_map([0.999, 1.001], kurtosis, family)
        narrow = closed_form_error_map([0.999, 1.001], kurtosis, family, "collapsed")
        np.testing.assert_allclose(narrow.exact[0], wide.exact[0], rtol=1e-6)
        assert (wide.exact[1] > 0).tolist() == [False, False, False, True, True]
        assert not narrow.exact[1].any()
        assert (wide.relative_error[1, 3:] == -1).all()
    assert closed_form_error_map(1.2, 5.0).exact[0, 0] == 0


def test_hysteresis_is_that_of_the_flow():
    forces, p = two_answers(5.0)
    gamma = 2 * 1.01
    wide = per_answer_equilibrium(forces, 1.0, gamma, p)
    _, delta, _ = rest_of_flow(forces, p, 1.0, gamma, until=8000.0)
    assert wide.second_moment == pytest.approx(np.dot(p, delta**2), rel=1e-4)
    _, delta, _ = rest_of_flow(forces, p, 1.0, gamma, width=np.log(1e-3), until=8000.0)
    assert np.dot(p, delta**2) < 1e-4  # narrow posteriors stay narrow, and fall like 1/t


@pytest.mark.parametrize("family", [two_answers, three_answers])
def test_leaking_branch_is_the_limit_of_the_monotone_iteration_from_above(family):
    ratios = np.array([0.02, 0.5, 0.9, 1.02, 1.2, 1.5])
    for kurtosis in (1.7, 4.0, 12.0):
        (forces, p), gamma = family(kurtosis), 2 * ratios[:, None]
        s = np.full((len(ratios), len(forces)), 50.0)
        for _ in range(4000):
            moved = (forces * s / (s + gamma)) ** 2
            prior = ((s + moved) @ p)[:, None]
            s = (-gamma + np.sqrt(gamma**2 + 4 * gamma * (prior + moved))) / 2
        result = per_answer_equilibrium(forces, 1.0, 2 * ratios, p)
        np.testing.assert_allclose(result.posterior_variance, s, rtol=1e-6, atol=3e-2)
        leaks = result.second_moment > 0
        np.testing.assert_allclose(result.posterior_variance[leaks], s[leaks], rtol=1e-6)


def test_error_map_is_zero_for_balanced_answers_and_grows_with_kurtosis():
    errors = closed_form_error_map([0.1, 0.5, 0.9], [1.0, 1.5, 2.5, 3.0]).relative_error
    np.testing.assert_allclose(errors[:, 0], 0, atol=1e-8)
    assert (np.diff(errors, axis=1) < 0).all()


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.005, 0.98), st.floats(0.1, 10))
def test_solutions_solve_the_equations_and_scale_with_the_unit_of_z(seed, ratio, unit):
    rng = np.random.default_rng(seed)
    forces, p, h = rng.normal(size=3), rng.dirichlet(np.ones(3) * 2), rng.uniform(0.3, 3)
    gamma = ratio * 2 * (p @ forces**2) / h
    result = per_answer_equilibrium(forces, h, gamma, p)
    s, delta, prior = result.posterior_variance, result.shifts, float(result.prior_variance)
    np.testing.assert_allclose((h + gamma / s) * delta, forces, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(h * s**2 + gamma * s, gamma * (prior + delta**2), rtol=1e-9)
    assert prior == pytest.approx(p @ (s + delta**2), rel=1e-9)
    there = per_answer_equilibrium(forces / unit, h / unit**2, gamma, p)
    np.testing.assert_allclose(there.shifts, unit * delta, rtol=1e-6)
    order = [2, 0, 1]
    np.testing.assert_allclose(
        per_answer_equilibrium(forces[order], h, gamma, p[order]).shifts, delta[order], rtol=1e-6
    )


@settings(deadline=None, derandomize=True, max_examples=5)
@given(st.integers(0, 10_000))
def test_anchored_solutions_balance_the_mean_of_the_prior(seed):
    rng = np.random.default_rng(seed)
    forces, p, (h, gamma, alpha, beta) = rng.normal(size=3), rng.dirichlet(np.ones(3) * 2), rng.uniform(0.1, 2, 4)
    result = per_answer_equilibrium(forces, h, gamma, p, anchor=alpha, beta=beta)
    if result.prior_variance == 0:
        assert result.contamination == pytest.approx(beta * (p @ forces) / (beta * h + alpha * gamma), rel=1e-12)
        return
    off = result.shifts - result.contamination
    assert alpha * result.prior_variance * result.contamination == pytest.approx(beta * (p @ off), rel=1e-8, abs=1e-12)
    np.testing.assert_allclose(
        h * result.shifts + gamma / result.posterior_variance * off, forces, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("unit", [0.1, 10.0])
def test_anchored_solutions_scale_with_the_unit_of_z_and_turn_with_the_sign_of_the_forces(sign, unit):
    forces, p = np.array([1.9, -0.2, 0.4]), np.array([0.3, 0.3, 0.4])
    found = per_answer_equilibrium(forces, 0.8, 0.4, p, anchor=0.3, beta=1.2)
    there = per_answer_equilibrium(sign * forces / unit, 0.8 / unit**2, 0.4, p, anchor=0.3 / unit**2, beta=1.2)
    assert abs(found.contamination) > 0.1 and found.prior_variance > 0.1
    np.testing.assert_allclose(there.contamination, sign * unit * found.contamination, rtol=1e-6)
    np.testing.assert_allclose(there.shifts, sign * unit * found.shifts, rtol=1e-6)


@pytest.mark.parametrize("family", [two_answers, three_answers])
def test_families_have_mean_0_variance_1_and_the_kurtosis_asked_for(family):
    for kurtosis in (1.2, 3.0, 7.0):
        g, p = family(kurtosis)
        assert [p.sum(), p @ g, p @ g**2, p @ g**4] == pytest.approx([1, 0, 1, kurtosis], abs=1e-12)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: per_answer_equilibrium([1, -1], 0.0, 1.0), "curvature"),
        (lambda: per_answer_equilibrium([1, -1], 1.0, 0.0), "gamma"),
        (lambda: per_answer_equilibrium([1, np.nan], 1.0, 1.0), "forces"),
        (lambda: per_answer_equilibrium([1, -1], 1.0, 1.0, [0.5, 0.6]), "probabilities"),
        (lambda: per_answer_equilibrium([1, -1], 1.0, 1.0, [1.0]), "probabilities"),
        (lambda: per_answer_equilibrium([1, -1], 1.0, 1.0, anchor=-1.0), "anchor"),
        (lambda: per_answer_equilibrium([1, -1], [1.0] * 2, [1.0] * 3), "forces"),
        (lambda: per_answer_equilibrium([1, -1], 1.0, 1.0, branch="upper"), "branch"),
        (lambda: closed_form_error_map(0.0, 2.0), "weight_ratio"),
        (lambda: closed_form_error_map(0.5, 0.9), "kurtosis"),
        (lambda: closed_form_error_map(0.5, 1.0, "three"), "kurtosis"),
        (lambda: closed_form_error_map(0.5, 2.0, "four"), "family"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
        call()


def test_two_hundred_answers_with_an_anchor_take_seconds_and_solve_their_equations():
    rng = np.random.default_rng(0)
    forces, chance = rng.normal(size=200) + 0.5, rng.dirichlet(np.full(200, 2.0))
    began = time.thread_time()
    result = per_answer_equilibrium(forces, 1.3, 0.2, chance, anchor=0.6, beta=0.7)
    assert time.thread_time() - began < 20  # half a second; 50 answers took 4.5 and 200 some minutes before
    width, gap = result.posterior_variance, result.shifts - result.contamination
    np.testing.assert_allclose(gap * (1.3 + 0.2 / width), forces - 1.3 * result.contamination, rtol=1e-9)
    np.testing.assert_allclose(1.3 * width**2 + 0.2 * width, 0.2 * (result.prior_variance + gap**2), rtol=1e-9)
    assert result.prior_variance == pytest.approx(chance @ (width + gap**2), rel=1e-9)
    assert 0.6 * result.prior_variance * result.contamination == pytest.approx(0.7 * chance @ gap, rel=1e-9)
