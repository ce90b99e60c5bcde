"""T10: closed forms and flow against descent on the real KL losses, and against sampled scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amvl_theory import (
    GameState,
    GaussianGame,
    HeadRates,
    adam_crossover,
    adam_effective_weight,
    run_widening,
    widening,
    widening_at_fixed_gap,
    widening_limit,
    widening_rate,
)
from amvl_theory.dynamics.in_training.ensembles import _direction
from amvl_theory.game.game import gradients

RNG = np.random.default_rng(10)
COUNT = 24
KAPPA = RNG.uniform(0.002, 0.01, (4, COUNT))  # log std of q and p, mean of q and p
GAMMA, BETA = RNG.uniform(0.1, 2.0, COUNT), RNG.uniform(0.3, 2.0, COUNT)
STDS = RNG.uniform(0.6, 1.6, (2, COUNT))
FIXED = RNG.uniform(0.1, 1.0, COUNT)
GAPS = RNG.uniform(0.3, 2.0, COUNT)


def rates(i: int) -> HeadRates:
    return HeadRates(*KAPPA[:, i])


def descend(steps, record, *, fixed, gaps, gamma=GAMMA, rate=KAPPA, stds=STDS):
    """(Q, P, Delta) (R, COUNT) by descent on gamma KL(sg p || q) and beta KL(sg q || p) of two answers at +- sqrt(V)."""
    game = GaussianGame(np.zeros((1, 2, 1)), 1.0, shared_variance=True, instances=COUNT)
    log_q, log_p = np.log(stds)
    mean_q, mean_p, kept = np.array(gaps), np.zeros(COUNT), []
    spread = np.sqrt(fixed) * np.array([[1.0], [-1.0]])
    for step in range(steps + 1):
        if step in record:
            kept.append((np.exp(2 * log_q), np.exp(2 * log_p), mean_q - mean_p))
        weight = gamma(step) if callable(gamma) else gamma
        state = GameState((mean_q + spread).T[..., None], 2 * log_q[:, None, None], mean_p[:, None], 2 * log_p[:, None])
        to_q = gradients(game, state, objective="rev", beta=0.0, gamma=weight)
        to_p = gradients(game, state, objective="fwd", beta=BETA, gamma=0.0)
        log_q = log_q - rate[0] * 2 * to_q.posterior_log_var[:, 0, 0]
        log_p = log_p - rate[1] * 2 * to_p.prior_log_var[:, 0]
        mean_q = mean_q - rate[2] * to_q.posterior_shift[..., 0].sum(1)
        mean_p = mean_p - rate[3] * to_p.contamination[:, 0]
    return np.moveaxis(np.array(kept), 1, 0)


# A gap that no head can close


def test_lasting_growth_rates_agree_with_the_real_losses() -> None:
    q, p, _ = descend(4000, (3000, 4000), fixed=FIXED, gaps=np.zeros(COUNT))
    expected = widening_rate(FIXED, KAPPA[0] * GAMMA, KAPPA[1] * BETA)
    for found in (q, p):
        np.testing.assert_allclose((found[1] - found[0]) / 1000, expected, rtol=0.02)


def test_both_variances_agree_with_the_real_losses_at_all_times() -> None:
    record = (0, 20, 100, 1000)
    q, p, _ = descend(1000, record, fixed=FIXED, gaps=np.zeros(COUNT))
    for i in range(COUNT):
        path = widening_at_fixed_gap(
            record, fixed_gap_var=FIXED[i], posterior_rate=KAPPA[0, i] * GAMMA[i], prior_rate=KAPPA[1, i] * BETA[i],
            posterior_std=STDS[0, i], prior_std=STDS[1, i],
        )  # fmt: skip
        np.testing.assert_allclose(q[:, i], path.posterior_var, rtol=0.02)
        np.testing.assert_allclose(p[:, i], path.prior_var, rtol=0.02)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(0.0, 3.0), st.floats(0.001, 1.0), st.floats(0.001, 1.0), st.floats(0.3, 2.0), st.floats(0.3, 2.0))
def test_the_flow_and_the_closed_form_at_a_fixed_gap_are_one(fixed, a, b, sigma_q, sigma_p) -> None:
    times = np.array([0.0, 1.0, 10.0, 100.0])
    closed = widening_at_fixed_gap(
        times, fixed_gap_var=fixed, posterior_rate=a, prior_rate=b, posterior_std=sigma_q, prior_std=sigma_p
    )
    flow = widening(
        times, gap=0.0, gamma=1.0, beta=1.0, rates=HeadRates(a, b), posterior_std=sigma_q, prior_std=sigma_p,
        fixed_gap_var=fixed,
    )  # fmt: skip
    np.testing.assert_allclose(flow.posterior_var, closed.posterior_var, rtol=1e-6)
    np.testing.assert_allclose(flow.prior_var, closed.prior_var, rtol=1e-6)
    joint = b * closed.posterior_var + a * closed.prior_var
    np.testing.assert_allclose(np.diff(joint), 4 * a * b * fixed * np.diff(times), rtol=1e-9, atol=1e-9)


def test_the_leak_of_the_means_falls_like_one_over_gamma_t_whatever_the_spread() -> None:
    for fixed in (0.05, 0.5):
        for gamma in (0.003, 0.01):
            path = widening_at_fixed_gap(
                [1e7],
                fixed_gap_var=fixed,
                posterior_rate=0.01 * gamma,
                prior_rate=1.0,
                posterior_std=0.2,
                prior_std=0.2,
            )
            assert path.leaked_nats[0] * 8 * 0.01 * gamma * 1e7 == pytest.approx(1.0, rel=0.02)


def test_a_large_reverse_weight_leaves_the_rate_to_beta() -> None:
    assert widening_rate(0.5, 1e6, 0.01) == pytest.approx(4 * 0.01 * 0.5, rel=1e-6)


# A gap that the means close


def test_final_variances_of_equal_rates_are_those_written_down_in_november() -> None:
    for square, expected in ((0.05, 1.0253), (1.0, 1.6487), (4.0, 7.389)):
        limit = widening_limit(np.sqrt(square), rates=HeadRates())
        assert limit.at_least == pytest.approx(expected, rel=1e-4)
        assert limit.small_gap == pytest.approx(float(limit.at_least), rel=1e-12)


def test_final_variance_with_equal_std_rates_holds_for_any_mean_rates_on_the_real_losses() -> None:
    rate = np.array([KAPPA[0] / GAMMA, KAPPA[0] / BETA, KAPPA[2], KAPPA[3]])
    q, p, gap = descend(6000, (6000,), fixed=0.0, gaps=0.6 * GAPS, rate=rate, stds=STDS[[0, 0]])
    for i in range(COUNT):
        limit = widening_limit(
            0.6 * GAPS[i], rates=HeadRates(*rate[:, i]), gamma=GAMMA[i], beta=BETA[i],
            posterior_std=STDS[0, i], prior_std=STDS[0, i],
        )  # fmt: skip
        if abs(gap[0, i]) < 1e-3:
            np.testing.assert_allclose([q[0, i], p[0, i]], limit.small_gap, rtol=0.02)
    assert (np.abs(gap[0]) < 1e-3).sum() >= 20


def test_the_whole_path_agrees_with_the_real_losses_from_unequal_widths() -> None:
    record = (0, 50, 200, 800)
    q, p, gap = descend(800, record, fixed=0.3 * FIXED, gaps=GAPS)
    for i in range(COUNT):
        path = widening(
            record, gap=GAPS[i], gamma=GAMMA[i], beta=BETA[i], rates=rates(i), posterior_std=STDS[0, i],
            prior_std=STDS[1, i], fixed_gap_var=0.3 * FIXED[i],
        )  # fmt: skip
        np.testing.assert_allclose(q[:, i], path.posterior_var, rtol=0.02)
        np.testing.assert_allclose(p[:, i], path.prior_var, rtol=0.02)
        np.testing.assert_allclose(gap[:, i], path.gap, rtol=0.02, atol=0.005)


def test_a_ramp_of_gamma_agrees_with_the_real_losses() -> None:
    def shape(step):
        return np.interp(step, [0, 160, 320], [0, 0, 1])

    record = np.arange(0, 801, 80)
    q, _, gap = descend(800, record, fixed=0.3 * FIXED, gaps=GAPS, gamma=lambda step: GAMMA * shape(step))
    for i in range(0, COUNT, 4):
        path = widening(
            record, gap=GAPS[i], gamma=GAMMA[i] * shape(record), beta=BETA[i], rates=rates(i),
            posterior_std=STDS[0, i], prior_std=STDS[1, i], fixed_gap_var=0.3 * FIXED[i],
        )  # fmt: skip
        np.testing.assert_allclose(q[:, i], path.posterior_var, rtol=0.02)
        np.testing.assert_allclose(gap[:, i], path.gap, rtol=0.02, atol=0.005)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0.1, 2.0), min_size=4, max_size=4), st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.floats(0.1, 2.0)
)
def test_the_weighted_widths_and_the_gap_together_never_fall(kappa, sigma_q, sigma_p, gap) -> None:
    common = {"rates": HeadRates(*kappa), "gamma": 1.0, "beta": 1.0, "posterior_std": sigma_q, "prior_std": sigma_p}
    path = widening(np.linspace(0.0, 50.0, 40), gap=gap, **common)
    a, b, a_m, b_m = kappa
    together = b * np.log(path.posterior_var) + a * np.log(path.prior_var) + a * b * path.gap**2 / max(a_m, b_m)
    assert (np.diff(together) > -1e-6 * (1 + np.abs(together).max())).all()
    assert together[0] / (a + b) == pytest.approx(np.log(widening_limit(gap, **common).at_least), rel=1e-9, abs=1e-9)


def test_the_first_order_exponent_is_off_by_a_fifth_and_more_at_a_wide_gap() -> None:
    uneven = HeadRates(1.0, 0.1, 1.0, 0.1)
    far = np.log(widening([3e3], gap=2.0, gamma=1.0, beta=1.0, rates=uneven).posterior_var[0])
    near = np.log(widening([3e3], gap=0.05, gamma=1.0, beta=1.0, rates=uneven).posterior_var[0])
    assert np.log(widening_limit(2.0, rates=uneven).small_gap) < 0.8 * far
    assert np.log(widening_limit(0.05, rates=uneven).small_gap) == pytest.approx(near, rel=0.01)


# Samples


@pytest.mark.parametrize(("gap", "fixed", "gamma"), [(0.0, 0.4, 0.5), (1.0, 0.2, 1.0), (1.0, 0.0, 0.2)])
def test_sampled_scores_widen_as_the_flow_says(gap, fixed, gamma) -> None:
    heads = HeadRates(0.004, 0.008, 0.006, 0.004)
    q, p, delta = run_widening(
        gap=gap, fixed_gap_var=fixed, gamma=gamma, rates=heads, stds=(0.8, 1.0), seeds=400, batch=32, steps=600, seed=3
    )
    path = widening(
        [600.0], gap=gap, gamma=gamma, beta=1.0, rates=heads, posterior_std=0.8, prior_std=1.0, fixed_gap_var=fixed
    )
    for found, expected in ((q, path.posterior_var), (p, path.prior_var), (delta, path.gap)):
        error = found.std() / np.sqrt(found.size)
        assert abs(found.mean() - expected[0]) < 3 * error + 0.01 * abs(expected[0])


def test_adam_moves_in_proportion_to_gamma_only_below_the_crossover() -> None:
    noise, drift, clip, seeds = 0.3, 0.6, 0.5, 2000
    crossover = float(adam_crossover(noise**2, drift, clip))
    assert crossover == pytest.approx(1.0)
    rng, gammas = np.random.default_rng(0), np.array([0.05, 0.2, 1.0, 5.0])
    moments, moved = np.zeros((2, gammas.size, seeds)), np.zeros(gammas.size)
    for step in range(1, 1501):
        gradient = noise * rng.standard_normal((gammas.size, seeds)) + clip * drift * gammas[:, None]
        moved += _direction("adam", gradient, moments, step).mean(1) * (step > 500)
    per_step = moved / 1000 * noise / (clip * drift)  # in units of what gamma = 1 would do if it acted linearly
    np.testing.assert_allclose(per_step, adam_effective_weight(gammas, crossover), rtol=0.03)
    assert adam_effective_weight(1.0, crossover) == pytest.approx(1 / np.sqrt(2))
    assert adam_effective_weight(1e9, crossover) == pytest.approx(crossover)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HeadRates(posterior_std=-1.0), r"posterior_std: expected numbers of at least 0, received -1"),
        (lambda: widening([1.0, 0.5], gap=1.0, gamma=1.0, beta=1.0, rates=HeadRates()), r"times: expected shape"),
        (lambda: widening([], gap=1.0, gamma=1.0, beta=1.0, rates=HeadRates()), r"times: expected shape"),
        (
            lambda: widening([1.0], gap=1.0, gamma=[1.0, 2.0], beta=1.0, rates=HeadRates()),
            r"gamma: expected a number or",
        ),
        (
            lambda: widening([1.0], gap=1.0, gamma=-1.0, beta=1.0, rates=HeadRates()),
            r"gamma: expected numbers of at least",
        ),
        (
            lambda: widening([1.0], gap=1.0, gamma=1.0, beta=1.0, rates=HeadRates(), prior_std=0.0),
            r"prior_std: expected numbers above 0",
        ),
        (
            lambda: widening_at_fixed_gap([1.0], fixed_gap_var=1.0, posterior_rate=0.0, prior_rate=0.0),
            r"prior_rate: expected a rate above 0",
        ),
        (lambda: widening_rate(1.0, 0.0, 1.0), r"posterior_rate: expected numbers above 0, received 0"),
        (lambda: widening_limit(1.0, rates=HeadRates(prior_mean=0.0)), r"prior_mean: expected numbers above 0"),
        (lambda: adam_crossover(1.0, 1.0, 2.0), r"clip_factor: expected numbers in \(0, 1\], received 2"),
        (lambda: adam_effective_weight(-1.0, 1.0), r"gamma: expected numbers of at least 0"),
        (
            lambda: run_widening(gap=0.0, fixed_gap_var=-1.0, gamma=1.0, rates=HeadRates()),
            r"fixed_gap_var: expected numbers of at least 0",
        ),
        (
            lambda: run_widening(gap=np.nan, fixed_gap_var=0.1, gamma=1.0, rates=HeadRates()),
            r"gap: expected finite numbers, received nan",
        ),
        (
            lambda: run_widening(gap=0.1, fixed_gap_var=0.1, gamma=1.0, rates=HeadRates(), steps=0),
            r"steps: expected a whole number of at least 1, received 0",
        ),
        (
            lambda: widening([10.0], gap=1e150, gamma=1.0, beta=1.0, rates=HeadRates(), posterior_std=1e-10),
            r"times: expected a flow that can be integrated, received one that is without bound or too fast",
        ),
        (lambda: widening([1.0], gap=[1.0, 2.0], gamma=1.0, beta=1.0, rates=HeadRates()), r"gap: expected one number"),
        (
            lambda: widening([1.0], gap=1.0, gamma=1.0, beta=1.0, rates=HeadRates(), prior_std=[1.0, 2.0]),
            r"prior_std: expected one number, received an array of shape",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
