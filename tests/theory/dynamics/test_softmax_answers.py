"""T12 for m equally likely answers: quadrature, limits and flow of a softmax decoder against sampling and against two answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

import amvl_theory as theory
from amvl_theory.dynamics.in_training.decoders import logistic_moments, softmax_moments
from amvl_theory.dynamics.in_training.ensembles import simplex

START = theory.Start(0.3, 0.3, 0.5, 0.5)


def reader(answers: int, rate: float = 0.02) -> theory.ReadingModel:
    return theory.ReadingModel.of_variance(1 / answers, decoder_rate=rate, posterior_rate=rate)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 0.0), (0.3, 0.2), (2.0, 5.0), (10.0, 20.0), (30.0, 60.0)])
def test_a_softmax_of_two_answers_is_the_logistic_decoder_on_the_difference_of_its_logits(mean, variance) -> None:
    e0, e1 = logistic_moments(np.sqrt(2) * mean, 2 * variance)
    assert softmax_moments(mean, variance, 2) == pytest.approx((np.sqrt(2) * e0, 2 * e1), rel=1e-9)


@pytest.mark.parametrize("answers", [3, 5, 10])
def test_moments_are_those_of_sampled_logits(answers: int) -> None:
    logits = np.sqrt(0.9) * np.random.default_rng(0).standard_normal((400_000, answers))
    logits[:, 0] += np.sqrt(answers) * 0.7
    p = softmax(logits, axis=1)
    for value, sampled in zip(
        softmax_moments(0.7, 0.9, answers),
        (np.sqrt(answers) * (1 - p[:, 0]) / (answers - 1), (1 - (p**2).sum(1)) / (answers - 1)),
        strict=True,
    ):
        assert abs(sampled.mean() - value) < 4 * sampled.std() / np.sqrt(len(p))


@pytest.mark.parametrize("answers", [2, 3, 4, 10])
def test_near_the_start_a_mode_has_the_gain_and_curvature_of_its_answers(answers: int) -> None:
    model = reader(answers)
    assert softmax_moments(0.0, 0.0, answers) == pytest.approx((model.gain, model.curvature), rel=1e-12)
    corners = simplex(answers)
    np.testing.assert_allclose(corners.T @ corners / answers, np.eye(answers - 1), atol=1e-12)
    np.testing.assert_allclose(corners.sum(0), 0.0, atol=1e-12)


@pytest.mark.parametrize("answers", [3, 4])
def test_the_limits_are_where_the_marginal_information_of_the_simplex_is_the_weight(answers: int) -> None:
    noise = np.random.default_rng(1).standard_normal((200_000, answers))

    def information(snr: float) -> float:  # the same samples for both: of m independent observations, one of them moved
        gap = answers * snr
        logits = np.sqrt(gap) * noise
        logits[:, 0] += gap
        return np.log(answers) + float(np.log(softmax(logits, axis=1)[:, 0]).mean())

    for gamma in (0.05, 0.2):
        rho = theory.coadapted_asymptotics(reader(answers), gamma, decoder="softmax").snr
        slope = (information(1.02 * rho) - information(0.98 * rho)) / (0.04 * rho * (answers - 1))  # m - 1 modes
        assert slope == pytest.approx(gamma, rel=0.02)


def test_two_answers_have_the_limits_of_the_logistic_decoder_and_more_answers_leak_less_a_mode() -> None:
    for objective in ("amvl", "elbo"):
        for gamma in (0.02, 0.1, 0.4):
            found = [
                theory.coadapted_asymptotics(reader(m), gamma, decoder="softmax", objective=objective).snr
                for m in (2, 3, 10)
            ]
            binary = theory.coadapted_asymptotics(theory.ReadingModel(), gamma, decoder="logistic", objective=objective)
            assert found[0] == pytest.approx(binary.snr, rel=1e-9)
            assert found[0] > found[1] > found[2] > 0
    for m in (2, 3, 10):  # the thresholds are those of any answers
        regimes = [theory.coadapted_asymptotics(reader(m), g, decoder="softmax").regime for g in (0.49, 0.51, 1.01)]
        assert regimes == ["growing", "fading", "unread"]


@pytest.mark.parametrize("answers", [3, 10])
def test_the_protecting_weight_inverts_the_late_leak(answers: int) -> None:
    for gamma in (0.05, 0.3):
        rho = theory.coadapted_asymptotics(reader(answers), gamma, decoder="softmax").snr
        assert theory.protecting_weight(reader(answers), 0.4 * rho, 0.6 * rho, decoder="softmax") == pytest.approx(
            gamma
        )
        assert theory.late_leak(reader(answers), gamma, 0.4 * rho, decoder="softmax") == pytest.approx(0.6 * rho)


@pytest.mark.parametrize(
    ("answers", "steps", "seeds"), [(3, 800, 40), pytest.param(5, 2500, 60, marks=pytest.mark.slow)]
)
def test_sampled_softmax_answers_follow_the_flow(answers: int, steps: int, seeds: int) -> None:
    w, m, q, p = theory.run_softmax(answers, gamma=0.1, start=START, seeds=seeds, batch=32, steps=steps, seed=3)
    path = theory.coadapted_trajectory(
        [float(steps)], model=reader(answers), gamma=0.1, std_rates=(0.02, 0.02), decoder="softmax", start=START
    )
    leak = (m**2).sum(2)  # of every mode
    for found, expected in (
        (leak / q, path.snr),
        (p, path.prior_var),
        (np.einsum("sij,sji->s", w, m)[:, None] / (answers - 1), path.decoder_gain * path.leak),
    ):
        values = found.mean(axis=1)
        error = values.std() / np.sqrt(seeds)
        assert abs(values.mean() - expected[0]) < 3 * error + 0.03 * expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("answers", [3, 6])
def test_the_flow_tends_to_the_limits(answers: int) -> None:
    limit = theory.coadapted_asymptotics(reader(answers), 0.1, decoder="softmax")
    path = theory.coadapted_trajectory([1e4, 1e5], model=reader(answers), gamma=0.1, decoder="softmax", start=START)
    off = np.abs(path.snr / limit.snr - 1)
    assert off[1] < 0.01 and off[1] < 0.3 * off[0]
    assert path.prior_var[1] / 1e5 == pytest.approx(limit.prior_var_rate, rel=0.03)


def test_modes_of_unequal_answers_have_the_linear_limits_whatever_the_probabilities() -> None:
    for c in theory.answer_modes([0.6, 0.3, 0.1]):
        model = theory.ReadingModel.of_variance(c, decoder_rate=0.01, posterior_rate=0.01)
        assert theory.coadapted_asymptotics(model, 0.1).snr == pytest.approx(np.sqrt(5) - 1)
        path = theory.coadapted_trajectory([3e5], model=model, gamma=0.1, start=START)
        assert path.snr[0] == pytest.approx(np.sqrt(5) - 1, rel=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.coadapted_asymptotics(theory.ReadingModel(0.5, 0.2), 0.1, decoder="softmax"),
            r"gain, curvature: expected 1/sqrt\(m\) and 1/m.*received 0.5 and 0.2",
        ),
        (
            lambda: theory.coadapted_asymptotics(theory.ReadingModel.of_variance(0.3), 0.1, decoder="softmax"),
            r"gain, curvature: expected 1/sqrt\(m\) and 1/m",
        ),
        (
            lambda: theory.coadapted_asymptotics(reader(4), 1e-20, decoder="softmax"),
            r"gamma: expected a weight that leaves rho below 32, received a smaller one",
        ),
        (lambda: theory.run_softmax(1, gamma=0.1), r"answers: expected a whole number of at least 2, received 1"),
        (lambda: theory.run_softmax(3, gamma=-0.1), r"gamma: expected numbers of at least 0, received -0.1"),
        (lambda: theory.Ensemble(decoder="softmax"), r"decoder: expected one of linear, logistic, received 'softmax'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
