"""T8: the path of training, and what early stopping and the other protections buy."""

import dataclasses

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from amvl_theory.learnt_prior.amortised import (
    ForceStatistics,
    amortised_equilibrium,
    excess_risk,
)
from amvl_theory.learnt_prior.training import amortised_trajectory, compare_protections, early_stopping, training_risk
from tests.theory.learnt_prior.test_amortised import BETA, GAMMA, random_model


def integrate(model, forces, beta, gammas, switch, times, eta_q, eta_p):
    n, pace = model.questions, 1.0 / model.questions if model.reduction == "mean" else 1.0

    def velocity(time, state):
        pull = (gammas[0] if time < switch else gammas[1]) * model.posterior_precision
        push = beta * model.prior_precision
        delta, weights = state[:n], state[n:]
        prior = model.Phi @ weights
        of_q = -eta_q * pace * (model.curvature * delta - forces + pull * (delta - prior))
        of_p = -eta_p * pace * (push * model.Phi.T @ (prior - delta) + model.total_ridge * weights)
        return np.concatenate([of_q, of_p])

    paths = []
    for time in times:  # stopping and restarting at the switch, where the flow has a kink
        state, begun = np.zeros(n + model.size), 0.0
        for end in sorted({min(switch, time), time} - {0.0}):
            result = solve_ivp(velocity, (begun, end), state, rtol=1e-11, atol=1e-12, method="DOP853", max_step=0.05)
            state, begun = result.y[:, -1], end
        paths.append(state)
    return np.array(paths)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("delay", [0.0, 1.1])
@pytest.mark.parametrize(("n", "p"), [(8, 3), (4, 6)])
def test_training_path_equals_a_tight_integration(reduction, delay, n, p):
    model, rng = random_model(20, n, p, reduction=reduction), np.random.default_rng(21)
    forces, times = rng.normal(size=n), np.array([0.0, 0.4, 1.5, 3.0])
    result = amortised_trajectory(model, forces, BETA, GAMMA, times, 0.9, 0.5, gamma_delay=delay)
    truth = integrate(model, forces, BETA, (0.0, GAMMA) if delay else (GAMMA, GAMMA), delay, times, 0.9, 0.5)
    np.testing.assert_allclose(result.posterior_shift, truth[:, :n], atol=1e-8)
    np.testing.assert_allclose(result.weights, truth[:, n:], atol=1e-8)
    np.testing.assert_allclose(result.contamination, result.weights @ model.Phi.T, atol=1e-12)


@pytest.mark.parametrize(("gamma", "delay"), [(0.0, 0.0), (GAMMA, 0.0), (GAMMA, 3.0)])
def test_training_ends_at_the_equilibrium_whatever_the_delay(gamma, delay):
    model, forces = random_model(22), np.random.default_rng(23).normal(size=(12, 2))
    path = amortised_trajectory(model, forces, BETA, gamma, [1e4], gamma_delay=delay)
    rest = amortised_equilibrium(model, forces, BETA, gamma)
    np.testing.assert_allclose(path.weights[0], rest.weights, rtol=1e-10)
    np.testing.assert_allclose(path.posterior_shift[0], rest.posterior_shift, rtol=1e-10)


@pytest.mark.parametrize(("n", "p"), [(8, 3), (4, 6)])
def test_training_risk_follows_from_the_path_and_ends_at_the_excess_risk(n, p):
    model, rng = random_model(24, n, p), np.random.default_rng(25)
    theta, factor = rng.normal(size=p), rng.normal(size=(p, p))
    cov = factor @ factor.T
    statistics = ForceStatistics(0.4, coefficients=theta, test_cov=cov)
    times = np.array([0.0, 0.7, 1e4])
    result = training_risk(model, statistics, BETA, GAMMA, times, gamma_delay=0.3)
    signal = amortised_trajectory(model, model.Phi @ theta, BETA, GAMMA, times, gamma_delay=0.3).weights
    wrong = signal - theta / model.curvature
    np.testing.assert_allclose(result.bias, 0.65 * np.einsum("tp,pq,tq->t", wrong, cov, wrong), rtol=1e-9)
    noise = amortised_trajectory(model, np.eye(n), BETA, GAMMA, times, gamma_delay=0.3).weights
    np.testing.assert_allclose(result.noise, 0.65 * 0.4 * np.einsum("tpn,pq,tqn->t", noise, cov, noise), rtol=1e-9)
    np.testing.assert_allclose(result.total[-1], excess_risk(model, statistics, BETA, GAMMA).total, rtol=1e-9)


def test_with_a_fast_posterior_the_reverse_kl_slows_time_and_multiplies_the_ridge():
    model, forces = random_model(26), np.random.default_rng(27).normal(size=12)
    brake = 1 + GAMMA * 2.1 / 1.3
    decayed = dataclasses.replace(model, ridge=0.8 * brake)
    times = np.array([0.2, 1.0, 4.0]) * 1e5
    braked = amortised_trajectory(model, forces, BETA, GAMMA, times, 1.0, 1e-6).weights
    plain = amortised_trajectory(decayed, forces, BETA, 0.0, times / brake, 1.0, 1e-6).weights
    np.testing.assert_allclose(braked, plain, rtol=1e-3, atol=1e-6)


def test_early_stopping_protects_a_prior_that_can_memorise_and_the_best_time_is_the_lowest():
    model = random_model(28, 10, 30, ridge=0.0)
    statistics = ForceStatistics(2.0, signal_var=0.1)
    best = early_stopping(model, statistics, BETA, 0.0, 1e4)
    path = training_risk(model, statistics, BETA, 0.0, np.geomspace(1e-3, 1e4, 3000))
    assert 0 < best.time < 100
    assert best.risk <= path.total.min() * (1 + 1e-9)
    assert best.risk < 0.8 * path.total[-1]


def test_what_each_protection_buys_a_prior_that_can_memorise():
    model, statistics = random_model(29, 10, 30, ridge=0.0), ForceStatistics(2.0, signal_var=0.1)
    result = compare_protections(model, statistics, BETA, 4.0, 20.0)
    assert result["reverse KL"].risk == result["none"].risk
    assert result["weight decay"].risk < result["none"].risk
    assert result["early stopping"].risk < result["no gamma"].risk
    assert result["delayed gamma"].noise < result["no gamma"].noise
    assert result["weight decay"].ridge == pytest.approx(20.0 * BETA * 0.6)
    assert result["weight decay"].risk <= min(entry.risk for entry in result.values())


def test_with_a_ridge_the_best_gamma_equals_the_best_weight_decay():
    model, statistics = random_model(30, ridge=0.05, reduction="mean"), ForceStatistics(2.0, signal_var=0.1)
    result = compare_protections(model, statistics, BETA, 4.0, 20.0)
    assert result["reverse KL"].gamma > 0
    np.testing.assert_allclose(result["reverse KL"].risk, result["weight decay"].risk, rtol=1e-12)
    decayed = dataclasses.replace(model, ridge=result["weight decay"].ridge)
    np.testing.assert_allclose(
        excess_risk(decayed, statistics, BETA, 0.0).total, result["weight decay"].risk, rtol=1e-12
    )
    assert result["reverse KL"].risk < result["none"].risk
