"""T8: the risk of a prior learnt from few questions, in the limit of many dimensions."""

import numpy as np
import pytest

from amvl_theory.learnt_prior.amortised import (
    AmortisedModel,
    ForceStatistics,
    excess_risk,
)
from amvl_theory.learnt_prior.finite_sample import average_risk, ridgeless_noise


def test_ridgeless_noise_shows_double_descent_at_p_equal_n():
    noise = ridgeless_noise(40, np.arange(1, 121), 1.0)
    assert np.isinf(noise[38:41]).all()
    assert (np.diff(noise[:38]) > 0).all()
    assert (np.diff(noise[41:]) < 0).all()
    np.testing.assert_allclose(noise[[19, 119]], [0.5 * 20 / 19, 0.5 * 40 / 79])
    assert (ridgeless_noise(40, [10, 40], 0.0) == 0).all()


@pytest.mark.parametrize(("n", "p"), [(40, 15), (15, 40)])
def test_ridgeless_noise_is_the_mean_over_seeded_questions_within_4_standard_errors(n, p):
    rng, statistics = np.random.default_rng(n), ForceStatistics(0.6, signal_var=0.0)
    values = np.array(
        [
            float(
                excess_risk(
                    AmortisedModel(rng.standard_normal((n, p)), curvature=1.3, ridge=0.0), statistics, 1.0, 0.0
                ).noise
            )
            for _ in range(300)
        ]
    )
    expected = ridgeless_noise(n, p, 0.6, 1.3)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("p", [50, 100, 200])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_average_risk_equals_that_of_many_seeded_questions(p, gamma):
    n = 100
    rng, statistics = np.random.default_rng(p), ForceStatistics(0.6, signal_var=0.02)
    models = [AmortisedModel(rng.standard_normal((n, p)), curvature=1.3, ridge=2.0) for _ in range(16)]
    curves = [excess_risk(model, statistics, 1.0, gamma) for model in models]
    result = average_risk(n, p, curves[0].effective_ridge, 0.6, 0.02, 1.3)
    for part in ("noise", "bias"):
        values = np.array([float(getattr(curve, part)) for curve in curves])
        # Four standard errors, and 1/n for the finite size.
        assert abs(values.mean() - getattr(result, part)) < values.mean() / n + 4 * values.std(ddof=1) / np.sqrt(16)


def test_average_risk_without_ridge_tends_to_the_ridgeless_limit_and_never_exceeds_the_signal():
    few = average_risk(1e6, np.array([3e5, 3e6]), 1e-3, 1.0, 1.0)
    np.testing.assert_allclose(few.noise, ridgeless_noise(1e6, [3e5, 3e6], 1.0), rtol=1e-4)
    # p > n: of the p coefficients n are learnt
    np.testing.assert_allclose(few.bias[1], 0.5 * 2e6, rtol=1e-6)
    assert few.bias[0] < 1e-10
    heavy = average_risk(100, [30, 100, 300], 1e9, 1.0, 1.0)
    np.testing.assert_allclose(heavy.bias, [15, 50, 150], rtol=1e-5)


def test_the_reverse_kl_lowers_the_double_descent_peak_like_one_over_the_square_root_of_the_ridge():
    peaks = average_risk(1000, 1000, 1e-4 * np.array([1.0, 100.0]), 1.0, 0.0).noise
    np.testing.assert_allclose(peaks[0] / peaks[1], 10.0, rtol=0.01)


def test_contamination_by_noise_falls_like_one_over_the_number_of_questions():
    n = np.array([1e4, 1e5])
    noise = average_risk(n, 20, 1.0, 0.7, 0.0, 1.3).noise
    np.testing.assert_allclose(noise, 0.7 * 20 / (2 * 1.3 * n), rtol=0.01)
