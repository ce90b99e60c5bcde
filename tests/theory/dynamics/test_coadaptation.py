"""T12: limits and scale charge against descent on the real losses, against the flow, and against sampled minibatches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from amvl_theory import (
    Ensemble,
    ReadingModel,
    Start,
    coadapted_asymptotics,
    coadapted_rest,
    coadapted_trajectory,
    edge_of_stability,
    fading_leak,
    mixture_information,
    run_ensemble,
    scale_charge,
    self_consistent_spread,
)
from amvl_theory.dynamics.in_training.decoders import logistic_loss, logistic_moments

UNIT = ReadingModel(1.0, 1.0)
START = Start(0.1, 0.1, 0.3, 0.3)


def descend(kappa, k, gamma, rates, steps, *, beta=1.0, objective="amvl", record=()):
    """(rho, P) (R, N): descent on the real losses, linear decoder; rates of w, a, log sigma_q, log sigma_p."""
    w, a = np.full(kappa.size, 0.1), np.full(kappa.size, 0.1)
    log_q, log_p = np.full((2, kappa.size), np.log(0.3))
    kept = []
    for step in range(1, steps + 1):
        q, p = np.exp(2 * log_q), np.exp(2 * log_p)
        to_w = -kappa * a + k * w * (a**2 + q)
        to_a, to_q = -kappa * w + k * w**2 * a, k * w**2 * q
        if objective == "amvl":
            to_a, to_q = to_a + gamma * a / q, to_q + gamma * (1 - (p + a**2) / q)
        else:
            to_a, to_q = to_a + beta * a / p, to_q + beta * (q / p - 1)
        to_p = beta * (1 - (q + a**2) / p)
        w, a, log_q, log_p = (
            x - rate * slope
            for x, rate, slope in zip((w, a, log_q, log_p), rates, (to_w, to_a, to_q, to_p), strict=True)
        )
        if step in record:
            kept.append((a**2 / np.exp(2 * log_q), np.exp(2 * log_p)))
    return np.moveaxis(np.array(kept), 1, 0)


def settings(count=24):
    rng = np.random.default_rng(12)
    kappa, k = rng.uniform(0.6, 1.4, count), rng.uniform(0.5, 1.5, count)
    gamma = rng.uniform(0.1, 0.6, count) * kappa**2 / (2 * k)
    # eta_w stays below 2/(k P) until the end
    rates = rng.uniform([[0.001], [0.02], [0.02], [0.02]], [[0.0015], [0.05], [0.05], [0.05]], (4, count))
    return kappa, k, gamma, rates


# Limits


def test_growth_of_the_prior_width_agrees_with_the_real_losses_in_24_settings() -> None:
    kappa, k, gamma, rates = settings()
    snr, prior = descend(kappa, k, gamma, rates, 16_000, record=(12_000, 16_000))
    for i in range(kappa.size):
        limit = coadapted_asymptotics(ReadingModel(kappa[i], k[i], rates[0, i], rates[1, i]), gamma[i])
        assert (prior[1, i] - prior[0, i]) / 4000 == pytest.approx(limit.prior_var_rate, rel=0.02)
        assert snr[1, i] == pytest.approx(
            limit.snr, rel=0.05
        )  # the widths are still young: 3 % at 1e5 steps, see below
        assert abs(snr[1, i] - limit.snr) <= abs(snr[0, i] - limit.snr) + 1e-9


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_limits_are_within_3_percent_at_1e5_steps_and_closing_in(decoder) -> None:
    model = UNIT if decoder == "linear" else ReadingModel()
    for gamma in (0.03, 0.1, 0.25):
        path = coadapted_trajectory([1e4, 1e5, 1e6], model=model, gamma=gamma, decoder=decoder, start=START)
        limit = coadapted_asymptotics(model, gamma, decoder=decoder)
        widths = np.abs(np.sqrt(path.prior_var / (limit.prior_var_rate * path.times)) - 1)
        ratios = np.abs(path.snr / limit.snr - 1)
        assert widths[1] < 0.03 and ratios[1] < 0.03
        assert widths[0] > widths[1] > widths[2] and ratios[2] < ratios[1]
        leaks = np.diff(path.leak**2) / np.diff(path.times)
        assert leaks[1] == pytest.approx(limit.leak_var_rate, rel=0.03)
        shrinking = path.decoder_gain**2 * path.times
        assert shrinking[2] == pytest.approx(shrinking[1], rel=0.05)  # w falls like 1/sqrt(t)


def test_numbers_of_november() -> None:
    for gamma, snr, width in ((0.01, 6.087, 11.65), (0.1, 1.239, 20.76)):
        path = coadapted_trajectory([1e5], model=UNIT, gamma=gamma, start=START)
        assert path.snr[0] == pytest.approx(snr, rel=1e-3) and np.sqrt(path.prior_var[0]) == pytest.approx(
            width, rel=0.01
        )
    for beta, snr in ((0.01, 99.0), (0.1, 9.0)):
        path = coadapted_trajectory([1e5], model=UNIT, gamma=0.0, beta=beta, objective="elbo", start=START)
        assert path.snr[0] == pytest.approx(snr, rel=1e-5)


def test_the_elbo_rests_where_t6_says_and_dual_kl_does_not_keep_to_t6() -> None:
    kappa, k, beta, rates = settings()
    snr, prior = descend(kappa, k, 0.0, rates, 12_000, beta=beta, objective="elbo", record=(9_000, 12_000))
    fixed = self_consistent_spread(kappa**2, k, beta, "elbo").snr  # any w: v0/h = kappa^2/k
    done = np.abs(prior[1] / prior[0] - 1) < 1e-4
    assert done.sum() >= 20
    np.testing.assert_allclose(snr[1][done], fixed[done], rtol=0.01)
    moving = coadapted_asymptotics(UNIT, 0.125).snr
    assert moving == pytest.approx(1.0) and self_consistent_spread(1.0, 1.0, 0.125).snr == pytest.approx(1.5)


@pytest.mark.parametrize("weight", [0.05, 0.3, 0.7])
def test_the_logistic_elbo_rests_at_the_marginal_information(weight: float) -> None:
    model = ReadingModel(decoder_rate=0.02, posterior_rate=0.02)
    limit = coadapted_asymptotics(model, weight, decoder="logistic", objective="elbo")
    path = coadapted_trajectory(
        [4e6], model=model, gamma=0.0, beta=weight, decoder="logistic", objective="elbo", start=START
    )
    assert limit.regime == "resting" and path.snr[0] == pytest.approx(limit.snr, rel=0.01)


def test_dual_kl_with_a_logistic_decoder_leaks_until_the_marginal_information_is_gamma() -> None:
    for gamma in (0.02, 0.1, 0.4):
        rho = coadapted_asymptotics(ReadingModel(), gamma, decoder="logistic").snr
        means = np.sqrt(rho * np.array([0.999, 1.001]))[:, None] * np.array([1.0, -1.0])
        low, high = mixture_information(means, 1.0, np.array([0.5, 0.5]))
        assert (high - low) / (0.002 * rho) == pytest.approx(gamma, rel=1e-3)


def test_no_other_gain_beats_2_a_over_q_for_a_logistic_decoder() -> None:
    for rho in (0.3, 2.0):
        gains = 2 * rho * np.array([0.9, 1.0, 1.1])  # w a
        losses = logistic_loss(gains, gains**2 / rho)
        assert losses[1] < losses[0] and losses[1] < losses[2]


# Scale


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_the_elbo_conserves_the_scale_charge_and_dual_kl_raises_it(decoder) -> None:
    model = ReadingModel(*((1.0, 1.0) if decoder == "linear" else (0.5, 0.25)), 0.013, 0.007)
    std_rates = (0.011, 0.017)
    common = {"model": model, "std_rates": std_rates, "decoder": decoder, "start": Start(0.3, 0.2, 0.5, 0.8)}
    times = np.array([0.0, 1e2, 1e3, 1e4, 1e5])
    charge = scale_charge(
        coadapted_trajectory(times, gamma=0.0, beta=0.2, objective="elbo", **common), model=model, std_rates=std_rates
    )
    np.testing.assert_allclose(charge, charge[0], rtol=1e-6)
    path = coadapted_trajectory(times, gamma=0.05, **common)
    charge = scale_charge(path, model=model, std_rates=std_rates)
    assert (np.diff(charge[1:]) > 0).all()
    assert (charge[4] - charge[3]) / 9e4 == pytest.approx(0.05 * path.snr[4], rel=0.02)


def test_weight_decay_of_the_decoder_does_not_bring_dual_kl_to_rest_and_decay_of_the_leak_does() -> None:
    decayed = ReadingModel(1.0, 1.0, weight_decay=0.02)
    path = coadapted_trajectory([1e5, 2e5], model=decayed, gamma=0.1, start=START)
    limit = coadapted_asymptotics(UNIT, 0.1)
    assert np.diff(path.prior_var)[0] / 1e5 == pytest.approx(limit.prior_var_rate, rel=0.03)
    for gamma, decay in ((0.1, 0.05), (0.02, 0.01)):
        rested = coadapted_trajectory([1e6], model=UNIT, gamma=gamma, leak_decay=decay, start=START)
        found = rested.snr[0], rested.posterior_var[0], rested.prior_var[0]
        assert found == pytest.approx(coadapted_rest(UNIT, gamma, decay), rel=1e-4)


def test_plain_gradient_steps_end_the_growth_where_the_decoder_begins_to_swing() -> None:
    kappa, k, gamma = np.ones(3), np.array([1.0, 1.0, 0.7]), np.array([0.1, 0.05, 0.1])
    rates = np.array([[0.02] * 3, *[[0.02] * 3] * 3])
    snr, prior = descend(kappa, k, gamma, rates, 40_000, record=(35_000, 40_000))
    np.testing.assert_allclose(prior[0], prior[1], rtol=1e-3)
    for i in range(3):
        model = ReadingModel(kappa[i], k[i], rates[0, i], rates[1, i])
        assert (snr[1, i], prior[1, i]) == pytest.approx(edge_of_stability(model, gamma[i]), rel=0.02)
        assert snr[1, i] > 1.1 * coadapted_asymptotics(model, gamma[i]).snr


def test_between_the_thresholds_the_leak_is_read_but_fades() -> None:
    for gamma in (0.6, 0.8):
        assert coadapted_asymptotics(UNIT, gamma).regime == "fading"
        path = coadapted_trajectory([1e5, 1e6, 1e8, 1e10, 1e12], model=UNIT, gamma=gamma, start=START)
        fade, growth = fading_leak(UNIT, gamma)
        slopes = np.diff(path.leak**2) / np.diff(np.log(path.times))
        for off in (path.snr * path.times / fade - 1, slopes / growth - 1):  # both like 1/ln t
            assert (off > 0).all() and (np.diff(off) < 0).all() and off[-1] < 0.065
    above = coadapted_trajectory([1e4, 1e5], model=UNIT, gamma=1.1, start=START)
    assert coadapted_asymptotics(UNIT, 1.1).regime == "unread"
    assert above.snr[1] < 1e-3 * above.snr[0] and above.prior_var[1] == pytest.approx(above.prior_var[0], rel=1e-2)


# Minibatches


def check_ensemble(decoder, gamma, steps, seeds, objective_rates=0.04) -> None:
    ensemble = Ensemble(
        seeds, 32, decoder=decoder, decoder_rate=objective_rates, posterior_rate=objective_rates,
        posterior_std_rate=objective_rates, prior_std_rate=objective_rates, start=Start(0.3, 0.3, 0.5, 0.5),
        decoder_std=0.0, leak_std=0.0,
    )  # fmt: skip
    record = [steps // 4, steps]
    run = run_ensemble(ensemble, gamma, steps=steps, record=record, seed=4)
    model = ReadingModel(*((1.0, 1.0) if decoder == "linear" else (0.5, 0.25)), objective_rates, objective_rates)
    path = coadapted_trajectory(
        record, model=model, gamma=gamma, std_rates=(objective_rates,) * 2, decoder=decoder, start=ensemble.start
    )
    for found, expected in (
        (run.leak**2 / run.posterior_var, path.snr),
        (run.prior_var, path.prior_var),
        (run.decoder_gain * run.leak, path.decoder_gain * path.leak),
    ):
        error = found.std(axis=1) / np.sqrt(seeds)
        assert (np.abs(found.mean(axis=1) - expected) < 3 * error + 0.03 * np.abs(expected)).all(), (
            found.mean(1),
            expected,
        )


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_sampled_minibatches_follow_the_flow(decoder) -> None:
    check_ensemble(decoder, 0.1, 1500, 200)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["linear", "logistic"])
@pytest.mark.parametrize("gamma", [0.05, 0.2])
def test_sampled_minibatches_follow_the_flow_for_long(decoder, gamma: float) -> None:
    check_ensemble(decoder, gamma, 3000, 400, 0.02)  # eta_w k P stays far below 2: no swing of the gain yet


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_under_adam_the_leak_has_the_same_limit_and_the_widths_grow_like_t(decoder) -> None:
    rate, record = 0.004, [2500, 5000]
    rates = dict.fromkeys(("decoder_rate", "posterior_rate", "posterior_std_rate", "prior_std_rate"), rate)
    ensemble = Ensemble(
        40,
        32,
        decoder=decoder,
        optimizer="adam",
        start=Start(0.3, 0.3, 0.5, 0.5),
        decoder_std=0.0,
        leak_std=0.0,
        **rates,
    )
    run = run_ensemble(ensemble, 0.1, steps=5000, record=record, seed=6)
    limit = coadapted_asymptotics(UNIT if decoder == "linear" else ReadingModel(), 0.1, decoder=decoder).snr
    snr = (run.leak**2 / run.posterior_var).mean(axis=1)
    assert snr[1] == pytest.approx(limit, rel=0.05)
    power = np.log2(np.sqrt(run.prior_var[1] / run.prior_var[0]).mean())
    assert 0.8 < power < 1.2  # 1/2 under plain gradient steps: the gradient of a falls like 1/a, and Adam divides by it


def test_the_quadrature_of_the_logistic_decoder_is_exact() -> None:
    for mean, variance in ((0.3, 0.1), (4.0, 8.0), (30.0, 60.0)):
        std = np.sqrt(variance)

        def density(x, mean=mean, std=std):
            return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))

        span = (mean - 12 * std, mean + 12 * std)
        exact = quad(lambda x, d=density: d(x) / (1 + np.exp(x)), *span, epsabs=1e-13, limit=400)[0]
        curve = quad(lambda x, d=density: d(x) / (2 + 2 * np.cosh(x)), *span, epsabs=1e-13, limit=400)[0]
        assert logistic_moments(mean, variance) == pytest.approx((exact, curve), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, decoder="logistic"),
            r"gain, curvature: expected 1/2",
        ),
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, decoder="tree"),
            r"decoder: expected one of linear",
        ),
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, objective="map"),
            r"objective: expected one of amvl, elbo",
        ),
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, std_rates=(-1.0, 1.0)),
            r"std_rates: expected numbers",
        ),
        (lambda: coadapted_trajectory([0.0, 0.0], model=UNIT, gamma=0.1), r"times: expected shape"),
        (lambda: coadapted_asymptotics(UNIT, 0.0), r"gamma: expected numbers above 0, received 0"),
        (lambda: coadapted_rest(UNIT, 0.1, 0.0), r"leak_decay: expected numbers above 0"),
        (lambda: coadapted_rest(UNIT, 0.5, 0.1), r"gamma: expected less than kappa\^2/\(2 k\) = 0.5, received 0.5"),
        (lambda: edge_of_stability(UNIT, 0.6), r"gamma: expected less than kappa\^2/\(2 k\) = 0.5, received 0.6"),
        (lambda: fading_leak(UNIT, 0.4), r"gamma: expected a weight between 0.5 and 1, received 0.4"),
        (lambda: Start(posterior_std=0.0), r"posterior_std: expected numbers above 0"),
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, std_rates=(0.1,)),
            r"std_rates: expected two numbers",
        ),
        (
            lambda: coadapted_trajectory([1.0], model=UNIT, gamma=0.1, std_rates=(-0.1, 0.1)),
            r"std_rates: expected .* at least 0",
        ),
        (
            lambda: coadapted_asymptotics(ReadingModel(), 1e-20, decoder="logistic"),
            r"gamma: expected a weight that leaves rho below 64, received a smaller one",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_older_name_of_the_dual_kl_gives_the_same():
    assert coadapted_asymptotics(UNIT, 0.1, objective="dual") == coadapted_asymptotics(UNIT, 0.1, objective="amvl")
