"""The route from x beside the leak: closed forms against the flow, the flow against sampled minibatches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

import amvl_theory as theory

RATES = {"decoder_rate": 0.02, "posterior_rate": 0.02}
MODELS = {"linear": theory.ReadingModel(1.0, 1.0, **RATES), "logistic": theory.ReadingModel(**RATES)}
SLOW = theory.XRoute(1.0, 1.0, 0.002)


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
@pytest.mark.parametrize("gamma", [0.02, 0.1, 0.2])
def test_late_leak_gain_and_accuracy_with_prior_latents_are_the_closed_forms(decoder, gamma: float) -> None:
    model = MODELS[decoder]
    path = theory.coadapted_trajectory(
        [4e5, 8e5], model=model, gamma=gamma, decoder=decoder, route=SLOW, start=theory.Start(0.01, 0.01, 0.5, 0.5)
    )
    leak = theory.late_leak(model, gamma, SLOW.snr, decoder=decoder)
    assert path.snr[1] == pytest.approx(leak, rel=0.02, abs=0.01)
    if leak > 0:
        assert leak == pytest.approx(theory.coadapted_asymptotics(model, gamma, decoder=decoder).snr - SLOW.snr)
    accuracy = theory.accuracy_with_prior_latents(path, SLOW)
    assert accuracy[1] == pytest.approx(float(theory.prior_latent_accuracy(SLOW.snr, leak)), abs=0.005)
    kept = theory.starved_share(SLOW.snr, leak) if decoder == "linear" else 1.0
    assert path.x_gain[1] == pytest.approx(float(kept) * theory.rest_gain(SLOW, decoder=decoder), rel=0.02)


def test_a_logistic_decoder_starves_on_the_way_only() -> None:
    times = np.linspace(0.0, 2e5, 4001)
    path, alone = (
        theory.coadapted_trajectory(
            times, model=MODELS["logistic"], gamma=gamma, decoder="logistic", route=SLOW, start=start
        )
        for gamma, start in ((0.02, theory.Start(0.01, 0.01, 0.5, 0.5)), (2.0, theory.Start(0.0, 0.0, 0.5, 0.5)))
    )
    full = theory.rest_gain(SLOW, decoder="logistic")
    slow, quick = (float(times[np.argmax(p.x_gain > 0.8 * full)]) for p in (path, alone))
    assert slow > 10 * quick > 0
    outcome = theory.starving_outcome(path, SLOW)
    assert (
        outcome.least
        < theory.prior_latent_accuracy(1.0, theory.late_leak(MODELS["logistic"], 0.02, 1.0, decoder="logistic")) - 0.02
    )


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_accuracy_recovers_when_gamma_is_raised_later_and_only_then(decoder) -> None:
    times = np.linspace(0.0, 1e5, 2001)
    common = {"model": MODELS[decoder], "decoder": decoder, "route": SLOW, "start": theory.Start(0.01, 0.01, 0.5, 0.5)}
    held = theory.starving_outcome(theory.coadapted_trajectory(times, gamma=0.02, **common), SLOW)
    raised = np.where(times < 2e4, 0.02, 0.6)
    path = theory.coadapted_trajectory(times, gamma=raised, **common)
    outcome = theory.starving_outcome(path, SLOW)
    assert outcome.best > 0.8 and outcome.least < 0.65 and held.recovered < 0.3
    assert outcome.final == pytest.approx(float(ndtr(1.0)), abs=0.01) and outcome.recovered > 0.95
    assert theory.protecting_weight(MODELS[decoder], SLOW.snr, decoder=decoder) < 0.6


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_the_protecting_weight_is_where_the_late_leak_ends(decoder) -> None:
    model = MODELS[decoder]
    for x_snr, leak in ((1.0, 0.0), (0.5, 0.7), (2.0, 0.3)):
        weight = theory.protecting_weight(model, x_snr, leak, decoder=decoder)
        assert theory.late_leak(model, weight, x_snr, decoder=decoder) == pytest.approx(leak, abs=1e-6)
        assert theory.late_leak(model, 1.05 * weight, x_snr, decoder=decoder) <= leak


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.05])
def test_accuracy_falls_when_t11_says_behind_a_route_at_rest(gamma: float) -> None:
    model, variance = MODELS["linear"], 0.25
    times = np.arange(4001.0)
    path = theory.coadapted_trajectory(
        times, model=model, gamma=gamma, route=SLOW, start=theory.Start(1e-4, 1e-4, 0.5, 0.5, theory.rest_gain(SLOW))
    )
    found = times[np.argmax(theory.accuracy_with_prior_latents(path, SLOW) < 0.8)]
    early = 400  # the growing mode alone is left by then
    rate = float(theory.reading_rate(theory.ReadingModel(0.5, 1.0, **RATES), variance, gamma))
    gain = path.decoder_gain[early] * np.exp(-rate * early)
    expected = theory.fall_time(model, SLOW, gamma=gamma, posterior_var=variance, start_gain=gain, accuracy=0.8)
    assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("beta", "read"), [(0.05, True), (0.035, True), (0.07, False)])
def test_behind_a_strong_route_the_elbo_has_two_rests(beta: float, read: bool) -> None:
    model, route = MODELS["linear"], theory.XRoute(2.0, 1.0, 0.01)  # R = 4: two rests from 1/25 to 1/16
    ends = [
        theory.coadapted_trajectory(
            [1e6], model=model, gamma=0.0, beta=beta, objective="elbo", route=route,
            start=theory.Start(*begin, x_gain=theory.rest_gain(route)),
        ).snr[0]
        for begin in ((1e-3, 1e-3, 0.5, 0.5), (0.3, 3.0, 0.5, 3.0))
    ]  # fmt: skip
    roots = np.roots([beta, 2 * 4 * beta - 1, 16 * beta])  # beta (R + x)^2 = x, x = 1 + rho
    if read:
        assert ends[1] == pytest.approx(roots.real.max() - 1, rel=1e-4)
    else:
        assert ends[1] < 1e-6 and abs(roots.imag).max() > 0
    assert ends[0] == pytest.approx(ends[1] if beta < 1 / 25 else 0.0, rel=1e-4, abs=1e-6)


def test_tolerated_leak_inverts_accuracy() -> None:
    for accuracy in (0.55, 0.7, 0.84):
        assert theory.prior_latent_accuracy(1.0, theory.tolerated_leak(1.0, accuracy)) == pytest.approx(
            accuracy, rel=1e-9
        )
    half = theory.tolerated_leak(2.0, float(ndtr(np.sqrt(2.0) / 2)))
    assert half + half**2 == pytest.approx(3 * 2.0)


def check_ensemble(decoder, gamma, steps: int, seeds: int) -> None:
    """Minibatches, sampled latents and a gamma that is raised half-way."""
    route = theory.XRoute(1.0, 1.0, 0.01)
    start = theory.Start(0.05, 0.05, 0.5, 0.5)
    ensemble = theory.Ensemble(seeds, 32, decoder=decoder, start=start, decoder_std=0.0, leak_std=0.0, route=route)
    weights = np.where(np.arange(steps) < steps // 2, gamma, 0.6)
    record = np.array([steps // 4, steps // 2, steps])
    run = theory.run_ensemble(ensemble, weights, steps=steps, record=record, seed=9)
    times = np.unique([*record, steps // 2 + 1])
    path = theory.coadapted_trajectory(
        times, model=MODELS[decoder], gamma=np.where(times <= steps // 2, gamma, 0.6), std_rates=(0.02, 0.02),
        decoder=decoder, start=start, route=route,
    )  # fmt: skip
    expected = theory.accuracy_with_prior_latents(path, route)[np.isin(times, record)]
    noise = np.sqrt(run.x_gain**2 + run.decoder_gain**2 * run.prior_var)
    found = ndtr(run.x_gain / noise)
    error = found.std(axis=1) / np.sqrt(seeds)
    assert (np.abs(found.mean(axis=1) - expected) < 3 * error + 0.02).all(), (found.mean(axis=1), expected)
    assert expected[1] < 0.7 < 0.75 < expected[2]


@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_sampled_minibatches_lose_and_regain_accuracy_as_the_flow_says(decoder) -> None:
    check_ensemble(decoder, 0.01, 3000, 100)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["linear", "logistic"])
def test_sampled_minibatches_for_long(decoder) -> None:
    check_ensemble(decoder, 0.03, 12_000, 200)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.XRoute(noise=0.0), r"noise: expected numbers above 0, received 0"),
        (lambda: theory.XRoute(rate=-1.0), r"rate: expected numbers of at least 0"),
        (lambda: theory.prior_latent_accuracy(0.0, 1.0), r"x_snr: expected numbers above 0"),
        (lambda: theory.tolerated_leak(1.0, 0.9), r"accuracy: expected above 1/2 and at most 0.841"),
        (lambda: theory.late_leak(MODELS["linear"], 0.0, 1.0), r"gamma: expected numbers above 0"),
        (lambda: theory.protecting_weight(MODELS["linear"], -1.0), r"x_snr: expected numbers of at least 0"),
        (
            lambda: theory.protecting_weight(MODELS["linear"], 1.0, decoder="logistic"),
            r"gain, curvature: expected 1/2 and 1/4",
        ),
        (
            lambda: theory.protecting_weight(MODELS["logistic"], 1.0, decoder="tree"),
            r"decoder: expected one of linear, logistic, softmax, received 'tree'",
        ),
        (
            lambda: theory.protecting_weight(MODELS["logistic"], 60.0, 5.0, decoder="logistic"),
            r"x_snr, leak_snr: expected a sum below 64, received 65",
        ),
        (lambda: theory.rest_gain(SLOW, decoder="tree"), r"decoder: expected one of linear, logistic, received 'tree'"),
        (
            lambda: theory.fall_time(
                MODELS["linear"], SLOW, gamma=0.1, posterior_var=0.0, start_gain=1e-3, accuracy=0.8
            ),
            r"posterior_var: expected numbers above 0, received 0",
        ),
        (
            lambda: theory.fall_time(
                MODELS["linear"], SLOW, gamma=0.3, posterior_var=0.2, start_gain=1e-3, accuracy=0.8
            ),
            r"gamma: expected a weight at which the leak grows, received 0.3",
        ),
        (
            lambda: theory.fall_time(
                MODELS["logistic"], SLOW, gamma=0.1, posterior_var=0.2, start_gain=1e-3, accuracy=0.8
            ),
            r"model: expected gain and curvature 1",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
