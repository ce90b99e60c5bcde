"""T11: growth rates and thresholds against descent on the real logistic loss, and growth along a path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import amvl_theory as theory
from amvl_theory.dynamics.in_training.decoders import logistic_loss

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def descend(p, gamma, std, rates, steps, *, decay=0.0, objective="amvl", beta=1.0):
    """ln(w) (2, N), halfway and at the end, by descent on the real losses: binary answer of probability p, logistic decoder."""
    p, gamma, std, eta_w, eta_q, decay = np.broadcast_arrays(p, gamma, std, *rates, decay)
    xi = np.stack([np.sqrt((1 - p) / p), -np.sqrt(p / (1 - p))])[..., None]  # of y = 1, y = 0
    share, bias = np.stack([p, 1 - p])[..., None] * WEIGHTS, np.log(p / (1 - p))[:, None]
    w, a, log_q, log_p = np.full(p.size, 1e-9), np.full(p.size, 1e-9), np.log(std), np.log(std)
    kept = []
    for step in range(1, steps + 1):
        sigma, q, prior = np.exp(log_q), np.exp(2 * log_q), np.exp(2 * log_p)
        z = a[:, None] * xi + sigma[:, None] * NODES
        slope = 1 / (1 + np.exp(-bias - w[:, None] * z)) - np.array([1.0, 0.0])[:, None, None]
        to_w = (share * slope * z).sum((0, 2)) + decay * w
        to_a = (share * slope * xi).sum((0, 2)) * w + (gamma * a / q if objective == "amvl" else beta * a / prior)
        to_q = (share * slope * NODES).sum((0, 2)) * w * sigma
        to_q = to_q + (gamma * (1 - (prior + a**2) / q) if objective == "amvl" else beta * (q / prior - 1))
        log_p = log_p - eta_w * beta * (1 - (q + a**2) / prior)
        w, a, log_q = w - eta_w * to_w, a - eta_q * to_a, log_q - eta_w * to_q
        if step in (steps // 2, steps):
            kept.append(np.log(w))
    return np.array(kept)


# Rates and thresholds


def test_growth_rates_agree_with_the_real_logistic_loss_in_36_settings() -> None:
    grid = np.meshgrid([0.5, 0.8, 0.95], [0.0, 0.003, 0.03, 0.3], [0.2, 0.5, 1.2], indexing="ij")
    p, gamma, std = (axis.ravel() for axis in grid)
    eta_w, eta_q = np.linspace(0.004, 0.012, p.size), np.linspace(0.012, 0.004, p.size)
    half, end = descend(p, gamma, std, (eta_w, eta_q), 4000)
    for i in range(p.size):
        model = theory.ReadingModel.of_variance(p[i] * (1 - p[i]), decoder_rate=eta_w[i], posterior_rate=eta_q[i])
        expected = float(theory.reading_rate(model, std[i] ** 2, gamma[i]))
        assert (end[i] - half[i]) / 2000 == pytest.approx(expected, rel=0.02), (p[i], gamma[i], std[i])


@pytest.mark.parametrize("objective", ["amvl", "elbo"])
def test_the_real_loss_changes_sign_within_1_percent_of_the_threshold(objective: str) -> None:
    p, std, decay = (axis.ravel() for axis in np.meshgrid([0.5, 0.8], [0.3, 1.0], [0.0, 0.02], indexing="ij"))
    limit = np.array(
        [
            theory.reading_threshold(theory.ReadingModel.of_variance(q * (1 - q), weight_decay=d), s**2)
            for q, s, d in zip(p, std, decay, strict=True)
        ]
    )
    for factor, sign in ((0.99, 1), (1.01, -1)):
        weights = {"gamma": factor * limit} if objective == "amvl" else {"gamma": 0.0, "beta": factor * limit}
        half, end = descend(p, std=std, rates=(0.05, 0.05), steps=3000, decay=decay, objective=objective, **weights)
        assert (np.sign(end - half) == sign).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(*[st.floats(0.05, 3.0)] * 4, st.floats(0.0, 1.0), st.floats(0.0, 5.0), st.floats(0.02, 10.0))
def test_the_rate_is_the_largest_eigenvalue_and_changes_sign_at_the_threshold(
    gain, curvature, eta_w, eta_q, decay, gamma, variance
) -> None:
    model = theory.ReadingModel(gain, curvature, eta_w, eta_q, decay)
    a, d = model.damping(variance, gamma)
    largest = np.linalg.eigvals([[-a, eta_w * gain], [eta_q * gain, -d]]).real.max()
    scale = a + d + np.sqrt(eta_w * eta_q) * gain
    assert abs(theory.reading_rate(model, variance, gamma) - largest) < 1e-9 * scale
    limit = float(theory.reading_threshold(model, variance))
    assert theory.reading_rate(model, variance, 0.999 * limit) > 0 > theory.reading_rate(model, variance, 1.001 * limit)


def test_without_weight_decay_the_threshold_is_1_for_any_number_of_answers() -> None:
    for p in ([0.5, 0.5], [0.9, 0.1], [0.7, 0.2, 0.1], np.full(10, 0.1)):
        modes = theory.answer_modes(p)
        assert modes.shape == (len(p) - 1,) and (modes > 0).all()
        for mode in modes:
            assert theory.reading_threshold(theory.ReadingModel.of_variance(mode), [0.1, 3.0]) == pytest.approx(1.0)
    np.testing.assert_allclose(theory.answer_modes(np.full(4, 0.25)), 0.25)
    np.testing.assert_allclose(
        theory.answer_modes([0.8, 0.2]), 2 * 0.16
    )  # two logits: their difference learns twice as fast


def test_sampled_softmax_answers_grow_at_the_rates_of_their_modes() -> None:
    p, gamma, variance, rate = np.array([0.5, 0.3, 0.2]), 0.05, 0.3, 0.03
    modes = np.linalg.eigh(np.diag(p) - np.outer(p, p))[1][:, :0:-1]
    sizes = []
    for steps in (200, 350):
        W, M = theory.run_answers(
            p, gamma=gamma, variance=variance, rate=rate, seeds=400, steps=steps, start_std=0.005, seed=5
        )
        sizes.append(np.einsum("ji,njk,nkl,li->i", modes, W, M, modes))
    for i, c in enumerate(theory.answer_modes(p)):
        model = theory.ReadingModel.of_variance(c, decoder_rate=rate, posterior_rate=c * rate)
        grown = np.log(sizes[1][i] / sizes[0][i]) / 300  # w a grows twice as fast as w
        assert grown == pytest.approx(float(theory.reading_rate(model, variance, gamma)), rel=0.05)


def test_no_width_reads_faster_than_the_fastest() -> None:
    model = theory.ReadingModel(0.5, 0.25, 0.01, 0.03)
    rate, variance = theory.fastest_reading(model, 0.1)
    assert theory.reading_rate(model, variance, 0.1) == pytest.approx(float(rate), rel=1e-12)
    assert (theory.reading_rate(model, variance * np.array([0.5, 0.9, 1.1, 2.0]), 0.1) < rate).all()


def test_weight_decay_keeps_a_narrow_leak_unread() -> None:
    model = theory.ReadingModel(weight_decay=0.01)
    edge = theory.threshold_variance(model, 0.2)
    assert theory.reading_rate(model, 0.99 * edge, 0.2) < 0 < theory.reading_rate(model, 1.01 * edge, 0.2)
    assert theory.reading_threshold(model, edge) == pytest.approx(0.2)


@pytest.mark.parametrize("rates", [(0.01, 0.01), (0.002, 0.03)])
def test_at_the_critical_product_the_growing_mode_gains_the_stated_nats(rates) -> None:
    model = theory.ReadingModel(decoder_rate=rates[0], posterior_rate=rates[1])
    product = theory.critical_product(model, 0.5, 0.2, 0.05)
    decoder, posterior = model.damping(0.5, 0.2)
    values, modes = np.linalg.eig([[-decoder, rates[0] / 2], [rates[1] / 2, -posterior]])
    w, a = modes[:, np.argmax(values)]
    logits = product + np.sqrt(w / a * product * 0.5) * NODES  # y l with mean w a and variance w^2 s
    assert np.log(2) - np.logaddexp(0, -logits) @ WEIGHTS == pytest.approx(0.05, rel=1e-3)


# Growth along a path


def test_the_exact_exponent_is_the_flows_and_the_integral_follows_where_things_change_slowly() -> None:
    model = theory.ReadingModel(0.6, 0.4, 0.02, 0.03)
    times = np.linspace(0.0, 600.0, 1201)
    variance, gamma = 0.2 + times / 1000, 0.1 * times / 600
    exact = theory.reading_exponent(model, times, variance, gamma, exact=True)

    def flow(t, x):
        a, d = model.damping(np.interp(t, times, variance), np.interp(t, times, gamma))
        rates = np.array([[-a, 0.02 * 0.6], [0.03 * 0.6, -d]])
        return (rates @ x.reshape(2, 2)).ravel()

    end = solve_ivp(flow, (0, 600), np.eye(2).ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(2, 2)
    scale = np.sqrt([0.02, 0.03])
    assert exact[-1] == pytest.approx(np.log(np.linalg.norm(end / scale[:, None] * scale, 2)), abs=1e-3)
    assert theory.reading_exponent(model, times, variance, gamma)[-1] == pytest.approx(exact[-1], rel=0.01)
    constant = theory.reading_exponent(model, times, 0.3, 0.05)
    np.testing.assert_allclose(constant, theory.reading_rate(model, 0.3, 0.05) * times, rtol=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(100, 2000), st.floats(0.01, 0.9), st.floats(3.0, 50.0), st.floats(0.05, 1.0))
def test_holding_a_budget_is_the_inverse_of_collapsing_by_it(budget, probability, critical, variance) -> None:
    model = theory.ReadingModel(decoder_rate=0.02, posterior_rate=0.01)
    gamma = float(
        theory.holding_weight(budget, probability=probability, critical=critical, model=model, variance=variance)
    )
    reached = theory.collapse_probability(theory.reading_rate(model, variance, gamma) * budget, critical)
    if gamma > 0:
        assert reached == pytest.approx(probability, rel=1e-6)
    else:
        assert reached <= probability * (1 + 1e-9)
    path = {"probability": probability, "critical": critical, "model": model}
    assert theory.holding_weight_on_path([0.0, budget], variance=variance, **path) == pytest.approx(
        gamma, rel=1e-6, abs=1e-9
    )


def test_a_width_that_grows_needs_another_weight_and_a_late_ramp_more_of_it() -> None:
    model = theory.ReadingModel(decoder_rate=0.02, posterior_rate=0.02)
    times = np.linspace(0.0, 600.0, 601)
    common = {"probability": 0.3, "critical": 30.0, "model": model}
    flat = theory.holding_weight_on_path(times, variance=0.1, **common)
    growing = theory.holding_weight_on_path(times, variance=lambda gamma: 0.1 + np.cumsum(gamma) * 0.05, **common)
    late = theory.holding_weight_on_path(
        times, variance=0.1, shape=np.interp(times, [0, 120, 240], [0, 0, 1]), **common
    )
    assert flat < growing and flat < late
    width = 0.1 + np.cumsum(np.full(601, growing)) * 0.05
    assert theory.collapse_probability(
        theory.reading_exponent(model, times, width, growing)[-1], 30.0
    ) == pytest.approx(0.3, rel=1e-4)
    with pytest.raises(ValueError, match="shape: expected a schedule with which some weight holds"):
        theory.holding_weight_on_path(times, variance=0.1, shape=np.interp(times, [0, 590, 600], [0, 0, 1]), **common)


def test_shares_predicted_in_november_for_the_projects_runs() -> None:
    model = theory.ReadingModel(1.0, 1e-12, 0.0054**2 / 8.27, 8.27)  # r_0 = 0.0054 and D = 8.27 gamma a step, A = 0
    for gamma, budget, ramped, constant in (
        (0.0, 450, 0.45, 0.45), (0.0003, 600, 0.59, 0.52), (0.001, 1200, 0.89, 0.73), (0.003, 1200, 0.55, 0.03),
    ):  # fmt: skip
        times = np.linspace(0.0, budget, 2001)
        weight = gamma * np.interp(times / budget, [0, 0.2, 0.4], [0, 0, 1])
        found = theory.collapse_probability(theory.reading_exponent(model, times, 1.0, weight)[-1], 8.5)
        assert found == pytest.approx(ramped, abs=0.015)
        assert theory.collapse_probability(theory.reading_rate(model, 1.0, gamma) * budget, 8.5) == pytest.approx(
            constant, abs=0.01
        )
    # The last one leans on two approximations: that the mode follows the ramp, and that a_0 is the same at every weight.
    exact = theory.collapse_probability(theory.reading_exponent(model, times, 1.0, weight, exact=True)[-1], 8.5)
    assert exact == pytest.approx(0.53, abs=0.01)
    shape = theory.amplitude_at_product(model, 1.0, gamma, 1.0) / theory.amplitude_at_product(model, 1.0, 0.0, 1.0)
    product = theory.collapse_probability(theory.reading_exponent(model, times, 1.0, weight)[-1], 8.5 * shape)
    assert product == pytest.approx(0.36, abs=0.01)


def test_momentum_slows_growth_by_its_lag() -> None:
    state, mean = 1.0, 0.0
    for _ in range(4000):
        mean = 0.9 * mean + 0.1 * 0.01 * state
        before, state = state, state + mean
    assert state / before - 1 == pytest.approx(float(theory.momentum_rate(0.01, 0.9)), rel=1e-9)
    assert theory.momentum_rate(0.01, 0.0) == pytest.approx(0.01)


def test_no_gain_from_posterior_latents_is_above_the_leak_and_the_best_decoder_reaches_it() -> None:
    for ratio in (0.1, 1.0, 4.0):
        leak = theory.mixture_information(np.sqrt(ratio) * np.array([1.0, -1.0]), 1.0, np.array([0.5, 0.5]))
        bound = float(theory.answer_loss_bound(np.log(2.0), leak))
        losses = [float(logistic_loss(gain * ratio, gain**2 * ratio)) for gain in (0.5, 2.0, 3.0)]  # w sigma_q^2/a
        assert losses[1] == pytest.approx(bound, rel=1e-6)
        assert losses[0] > bound and losses[2] > bound


def test_at_extreme_widths_and_weights_the_rate_is_the_decoder_s_own_decay() -> None:
    model = theory.ReadingModel()
    assert theory.reading_rate(model, 1.0, 1e300) == pytest.approx(-model.damping(1.0, 0.0)[0], rel=1e-12)
    assert theory.reading_rate(model, 1e300, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_holding_weights_are_searched_in_units_of_the_threshold() -> None:
    common = {"probability": 0.3, "critical": 9.0, "variance": 1.0}
    small, large = theory.ReadingModel(1.0, 1.0, 0.01, 0.01), theory.ReadingModel(1e4, 1.0, 0.01, 1e-10)
    found, scaled = (theory.holding_weight_on_path([0.0, 500.0], model=model, **common) for model in (small, large))
    assert theory.reading_threshold(large) == 1e8 and found > 0.1
    assert scaled == pytest.approx(1e8 * found, rel=1e-9)
