"""T5 and T6 with free variances: closed forms against the gradient flow of the whole game, thresholds, roots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from amvl_theory import MeanLeakageModel
from amvl_theory.checks import OLDER_OBJECTIVES
from amvl_theory.equilibria.free_contamination import (
    anchor_factor,
    free_contamination,
    self_consistent_contamination,
)
from amvl_theory.equilibria.free_spread import (
    EQUAL_WEIGHT_CROSSOVER,
    critical_weight,
    equal_weight_crossover,
    exact_leaked_information,
    free_spread,
    self_consistent_spread,
)
from amvl_theory.gaussian import entropy

positive = st.floats(1e-2, 1e2)


def rest_of_flow(forces, h, beta, gamma, objective, *, anchor=None, start=0.0, width=0.0, until=30000.0):
    """(c, V about c, sigma_q^2) where the gradient flow of the real KLs ends, shared variance; c held at 0 without anchor."""
    g = np.array(forces, dtype=float)
    n = len(g)

    def flow(_, state):
        delta, c, log_q, log_p = state[:n], state[n], state[n + 1], state[n + 2]
        q, p = np.exp(log_q), np.exp(log_p)
        off = delta - c
        pull = {"ntp+fwd": 0.0, "elbo": beta / p, "amvl": gamma / q}[objective]
        width = {"ntp+fwd": 0.0, "elbo": beta * (q / p - 1), "amvl": gamma * (1 - (p + np.mean(off**2)) / q)}[objective]
        slow = 0.0 if anchor is None else -beta / p * (c - delta.mean()) - anchor * c
        widen = -0.5 * beta * (1 - (q + np.mean(off**2)) / p)
        return np.concatenate([-(h * delta - g + pull * off), [slow, -0.5 * (h * q + width), widen]])

    first = np.concatenate([g / h, [start, width, width]])
    end = integrate.solve_ivp(flow, (0, until), first, method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    return end[n], np.mean((end[:n] - end[n]) ** 2), np.exp(end[n + 1])


@pytest.mark.parametrize(
    ("gamma", "variance", "snr"), [(0.05, 0.3976, 2.2735), (0.2, 0.24195, 0.8868), (1.0, 0.02222, 0.1202)]
)
def test_dual_kl_spread_has_the_measured_values_and_is_the_rest_of_the_flow(gamma, variance, snr):
    result = self_consistent_spread(1.0, 1.3, gamma)
    assert result.variance == pytest.approx(variance, abs=1e-5)
    assert result.snr == pytest.approx(snr, abs=1e-4)
    _, moment, width = rest_of_flow([1, -1], 1.3, 0.5, gamma, "amvl")
    assert result.variance == pytest.approx(moment, rel=1e-5)
    assert result.posterior_variance == pytest.approx(width, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.4, 0.7])
def test_elbo_spread_is_the_rest_of_the_flow(beta):
    result = self_consistent_spread(1.0, 1.3, beta, "elbo")
    _, moment, width = rest_of_flow([1, -1], 1.3, beta, 0.0, "elbo")
    assert result.variance == pytest.approx(moment, rel=1e-5)
    assert result.posterior_variance == pytest.approx(width, rel=1e-5)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(positive, positive, st.floats(0.001, 0.999), st.sampled_from(["amvl", "elbo"]))
def test_spread_solves_the_equations_of_its_posterior(v0, h, ratio, objective):
    weight = ratio * critical_weight(v0, h, objective)
    result = self_consistent_spread(v0, h, weight, objective)
    V, q = float(result.variance), float(result.posterior_variance)
    p = q + V
    if objective == "amvl":
        assert h * q**2 + weight * q == pytest.approx(weight * (p + V), rel=1e-10)
        assert np.sqrt(V) == pytest.approx(np.sqrt(v0) / (h + weight / q), rel=1e-9)
    else:
        assert q == pytest.approx(weight / (h + weight / p), rel=1e-10)
        assert np.sqrt(V) == pytest.approx(np.sqrt(v0) / (h + weight / p), rel=1e-9)
    assert result.snr == pytest.approx(V / q, rel=1e-9)
    assert result.leaked_nats == pytest.approx(0.5 * np.log1p(V / q), rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(positive, positive, positive, st.floats(0.1, 10), st.sampled_from(["amvl", "elbo"]))
def test_nats_do_not_depend_on_the_unit_of_z_and_fall_with_the_weight(v0, h, weight, unit, objective):
    here = self_consistent_spread(v0, h, weight, objective)
    there = self_consistent_spread(v0 / unit**2, h / unit**2, weight, objective)
    np.testing.assert_allclose(there.leaked_nats, here.leaked_nats, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(there.variance, unit**2 * here.variance, rtol=1e-8, atol=1e-12)
    assert self_consistent_spread(v0, h, 1.1 * weight, objective).leaked_nats <= here.leaked_nats


def test_above_the_critical_weight_nothing_is_left_and_at_weight_zero_everything():
    for objective, critical in (("amvl", 2 / 1.3), ("elbo", 1 / 1.3)):
        assert critical_weight(1.0, 1.3, objective) == pytest.approx(critical, rel=1e-12)
        above = self_consistent_spread(1.0, 1.3, [critical, 10.0], objective)
        for values in (above.variance, above.posterior_variance, above.snr, above.leaked_nats):
            assert np.abs(values).max() < 1e-12
        assert self_consistent_spread(1.0, 1.3, 0.999 * critical, objective).variance > 0
        free = self_consistent_spread(1.0, 1.3, 0.0, objective)
        assert free.variance == pytest.approx(1 / 1.3**2)
        assert free.posterior_variance == 0
        assert np.isinf(free.leaked_nats)
        assert self_consistent_spread(0.0, 1.3, 0.0, objective).leaked_nats == 0


def test_information_grows_like_a_half_and_a_quarter_log_of_one_over_the_weight():
    weights = np.array([1e-8, 1e-12])
    for objective, slope in (("amvl", 0.25), ("elbo", 0.5)):
        nats = self_consistent_spread(1.0, 1.3, weights, objective).leaked_nats
        assert (nats[1] - nats[0]) / np.log(1e4) == pytest.approx(slope, rel=1e-3)


def test_at_equal_weight_the_objectives_cross_at_two_over_the_golden_ratio_squared():
    cross = equal_weight_crossover(0.7, 1.3)
    assert pytest.approx(0.7639, abs=1e-4) == EQUAL_WEIGHT_CROSSOVER
    dual, elbo = (
        self_consistent_spread(0.7, 1.3, cross * np.array([0.9, 1.0, 1.1]), o).leaked_nats for o in ("amvl", "elbo")
    )
    assert dual[0] < elbo[0]
    assert dual[1] == pytest.approx(elbo[1], rel=1e-12)
    assert dual[2] > elbo[2]


def test_linear_vae_collapses_exactly_where_the_data_variance_is_beta_times_the_noise():
    slope, noise, data = 0.7, 0.4, 1.8
    assert critical_weight(slope**2 * data / noise**2, slope**2 / noise, "elbo") == pytest.approx(data / noise)


def test_exact_information_is_below_channel_value_and_entropy_and_equals_the_former_when_small():
    weights = np.array([1e-6, 0.05, 0.5, 1.53])
    p = np.array([0.2, 0.8])
    exact = exact_leaked_information([2.0, -0.5], 1.3, weights, "amvl", p)
    channel = self_consistent_spread(1.0, 1.3, weights).leaked_nats
    assert (exact <= channel).all()
    assert exact[0] == pytest.approx(entropy(p), rel=1e-6)
    assert exact[-1] == pytest.approx(channel[-1], rel=1e-2)


def roots(objective, gamma=0.0, **changes):
    arguments = {"force_mean": 0.8, "force_var": 1.0, "curvature": 1.3, "anchor": 0.6, "beta": 0.7} | changes
    return self_consistent_contamination(gamma=gamma, objective=objective, **arguments)


@pytest.mark.parametrize(
    ("objective", "gamma", "expected"),
    [("ntp+fwd", 0, 0.3976), ("elbo", 0, 0.39757), ("amvl", 0.1, 0.36238), ("amvl", 0.5, 0.32596)],
)
def test_contamination_has_the_measured_values_and_is_the_rest_of_the_flow(objective, gamma, expected):
    result = roots(objective, gamma)
    assert result.stable.tolist() == [True]
    assert result.values[0] == pytest.approx(expected, abs=5e-5)
    # Forward-only narrows its posterior like 1/t, so its flow is still 2/(h t) away.
    c, _, _ = rest_of_flow([1.8, -0.2], 1.3, 0.7, gamma, objective, anchor=0.6)
    assert c == pytest.approx(result.values[0], rel=1e-3 if objective == "ntp+fwd" else 1e-5)


def test_bistable_instance_has_both_quoted_roots_and_the_flow_finds_each():
    result = self_consistent_contamination(3.0, 0.01, 1.0, 1.0, 1.0, 0.002, "amvl")
    assert result.stable.tolist() == [True, False, True]
    assert result.values[0] == pytest.approx(0.376, abs=5e-4)
    assert result.values[2] == pytest.approx(2.95, abs=5e-3)
    low, _, _ = rest_of_flow([3.1, 2.9], 1.0, 1.0, 0.002, "amvl", anchor=1.0, start=0.0)
    high, _, _ = rest_of_flow([3.1, 2.9], 1.0, 1.0, 0.002, "amvl", anchor=1.0, start=2.95, width=np.log(0.005))
    middle = result.values[1]
    assert result.values[0] == pytest.approx(low, rel=1e-5)
    assert result.values[2] == pytest.approx(high, rel=1e-5)
    assert low < middle < high


@settings(deadline=None, derandomize=True, max_examples=50)
@given(*[st.floats(-1.5, 1.0) for _ in range(6)], st.sampled_from(["ntp+fwd", "elbo", "amvl"]))
def test_no_root_is_missed_and_every_root_solves_the_equation(g, v0, h, alpha, beta, gamma, objective):
    g, v0, h, alpha, beta, gamma = (10.0**x for x in (g, v0, h, alpha, beta, gamma))
    result = self_consistent_contamination(g, v0, h, alpha, beta, gamma, objective)

    def excess(c):
        E = v0 + (g - h * c) ** 2
        hX = {
            "ntp+fwd": E,
            "elbo": np.maximum(E, beta * h),
            "amvl": np.where(gamma * h / 2 >= E, gamma * h, E + np.sqrt(gamma * h * E / 2)),
        }
        return c * (beta * h**2 + alpha * hX[objective]) / (beta * g * h) - 1

    assert np.abs(excess(result.values)).max() < 1e-11
    signs = np.sign(excess(np.linspace(0, g / h * (1 + 1e-9), 4001)))
    assert len(result.values) >= np.count_nonzero(np.diff(signs))
    assert len(result.values) % 2 == 1
    assert result.stable[0]
    assert result.stable.tolist() == [i % 2 == 0 for i in range(len(result.values))]
    mirrored = self_consistent_contamination(-g, v0, h, alpha, beta, gamma, objective)
    np.testing.assert_array_equal(mirrored.values, -result.values[::-1])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(*[st.floats(-1.5, 1.0) for _ in range(6)])
def test_dual_kl_is_below_forward_only_branch_by_branch_and_a_leaking_elbo_is_on_it(g, v0, h, alpha, beta, gamma):
    g, v0, h, alpha, beta, gamma = (10.0**x for x in (g, v0, h, alpha, beta, gamma))
    fwd, elbo, dual = (
        self_consistent_contamination(g, v0, h, alpha, beta, gamma, o).values for o in ("ntp+fwd", "elbo", "amvl")
    )
    assert dual[0] < fwd[0]
    assert dual[-1] < fwd[-1]
    for c in elbo:
        if v0 + (g - h * c) ** 2 > beta * h * (1 + 1e-9):
            assert np.abs(fwd / c - 1).min() < 1e-10
        else:
            assert c <= fwd[-1] * (1 + 1e-9)


def test_across_branches_dual_kl_can_be_worse_than_forward_only():
    fwd = self_consistent_contamination(3.0, 0.01, 1.0, 1.0, 1.0, 0.0, "ntp+fwd")
    dual = self_consistent_contamination(3.0, 0.01, 1.0, 1.0, 1.0, 0.002, "amvl")
    assert dual.values[2] > fwd.values[0]
    assert dual.stable[2]
    assert fwd.stable[0]


def test_without_anchor_or_force_or_spread_the_roots_are_those_of_hand():
    assert roots("amvl", 0.5, anchor=0.0).values.tolist() == [0.8 / 1.3]
    assert roots("amvl", 0.5, force_mean=0.0).values.tolist() == [0.0]
    single = roots("ntp+fwd", force_mean=3.0, force_var=0.0, curvature=1.0, anchor=1.0, beta=1.0)
    np.testing.assert_allclose(single.values, [(3 - np.sqrt(5)) / 2, (3 + np.sqrt(5)) / 2, 3.0], rtol=1e-12)
    assert single.stable.tolist() == [True, False, True]
    collapsed = roots("amvl", 50.0)
    assert collapsed.values[0] == pytest.approx(0.7 * 0.8 / (0.7 * 1.3 + 0.6 * 50), rel=1e-14)
    assert roots("amvl", 0.0).values[0] == roots("ntp+fwd").values[0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: self_consistent_spread(-1.0, 1.0, 1.0), "force_var"),
        (lambda: self_consistent_spread(1.0, 0.0, 1.0), "curvature"),
        (lambda: self_consistent_spread(1.0, 1.0, np.nan), "weight"),
        (lambda: self_consistent_spread(1.0, 1.0, 1.0, "kl"), "objective"),
        (lambda: critical_weight(1.0, -1.0), "curvature"),
        (lambda: exact_leaked_information([1, -1], 1.0, 0.0), "weight"),
        (lambda: exact_leaked_information([1, -1], 1.0, 0.1, "amvl", [0.5, 0.6]), "probabilities"),
        (lambda: self_consistent_contamination(1.0, 1.0, 1.0, 1.0, 0.0, 1.0), "beta"),
        (lambda: self_consistent_contamination(1.0, 1.0, 1.0, -1.0, 1.0, 1.0), "anchor"),
        (lambda: self_consistent_contamination(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, "kl"), "objective"),
        (lambda: self_consistent_contamination([1.0, 2.0], 1.0, 1.0, 1.0, 1.0, 1.0), "force_mean"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
        call()


def test_older_names_of_objectives_give_the_same_and_messages_list_the_documented_ones() -> None:
    for older, name in OLDER_OBJECTIVES.items():
        np.testing.assert_array_equal(
            self_consistent_contamination(0.8, 1.0, 1.3, 0.6, 0.7, 0.1, older).values,
            self_consistent_contamination(0.8, 1.0, 1.3, 0.6, 0.7, 0.1, name).values,
        )
    np.testing.assert_array_equal(
        self_consistent_spread(1.0, 1.3, 0.2, "dual").variance, self_consistent_spread(1.0, 1.3, 0.2, "amvl").variance
    )
    assert critical_weight(1.0, 1.3, "dual") == critical_weight(1.0, 1.3, "amvl")
    assert exact_leaked_information([1.0, -1.0], 1.3, 0.2, "dual") == exact_leaked_information(
        [1.0, -1.0], 1.3, 0.2, "amvl"
    )
    with pytest.raises(ValueError, match=r"objective: expected one of ntp\+fwd, elbo, amvl, received 'rev'"):
        self_consistent_contamination(0.8, 1.0, 1.3, 0.6, 0.7, 0.1, "rev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objective: expected one of amvl, elbo, received 'fwd'"):
        self_consistent_spread(1.0, 1.3, 0.2, "fwd")  # type: ignore[arg-type]


def test_functions_of_the_model_are_those_of_bare_numbers() -> None:
    model = MeanLeakageModel(1.3, [0.8], 1.0, anchor=0.6)
    for objective, gamma in (("ntp+fwd", 0.0), ("elbo", 0.0), ("amvl", 0.1)):
        here = free_contamination(model, 0.7, gamma, objective)
        there = self_consistent_contamination(0.8, 1.0, 1.3, 0.6, 0.7, gamma, objective)
        np.testing.assert_array_equal(here.values, there.values)
        np.testing.assert_array_equal(here.stable, there.stable)
    several = MeanLeakageModel([1.3, 0.4], [0.0, 0.5], [1.0, 0.3])
    result = free_spread(several, [0.05, 0.2, 9.0])
    assert result.variance.shape == (3, 2)
    for mode, (v0, h) in enumerate([(1.0, 1.3), (0.3 + 0.5**2, 0.4)]):
        alone = self_consistent_spread(v0, h, [0.05, 0.2, 9.0])
        np.testing.assert_array_equal(result.snr[:, mode], alone.snr)
    with pytest.raises(ValueError, match="model: expected one mode, received 2"):
        free_contamination(several, 1.0)
    with pytest.raises(ValueError, match="model: expected a diagonal curvature and force covariance, received a dense"):
        free_spread(MeanLeakageModel([[1.0, 0.2], [0.2, 1.0]], [0.0, 0.0], 1.0), 0.1)


@pytest.mark.parametrize("objective", ["ntp+fwd", "elbo", "amvl"])
def test_the_anchor_factor_is_what_the_root_says_continuous_and_rising(objective) -> None:
    for anchor in (0.1, 0.6, 5.0, 200.0):
        root = free_contamination(MeanLeakageModel(1.3, [0.8], 1.0, anchor=anchor), 0.7, 0.4, objective).values[0]
        weight = 0.7 if objective == "elbo" else 0.4
        implied = 0.7 * (0.8 - 1.3 * root) / (anchor * root)
        factor = anchor_factor(1.0 + (0.8 - 1.3 * root) ** 2, 1.3, weight, objective)
        assert implied == pytest.approx(float(factor), rel=1e-9)
    at = {"ntp+fwd": 0.0, "elbo": 0.4 * 1.3, "amvl": 0.4 * 1.3 / 2}[objective]
    below, above = anchor_factor([at * (1 - 1e-9), at * (1 + 1e-9)], 1.3, 0.4, objective)
    assert above == pytest.approx(below, abs=1e-8)
    assert (np.diff(anchor_factor(np.linspace(0, 5, 50), 1.3, 0.4, objective)) >= 0).all()
    for bad, name in (((-1.0, 1.0), "mean_square_force"), ((1.0, 0.0), "curvature"), ((1.0, 1.0, -1.0), "weight")):
        with pytest.raises(ValueError, match=f"^{name}: expected .* received"):
            anchor_factor(*bad, objective=objective)
