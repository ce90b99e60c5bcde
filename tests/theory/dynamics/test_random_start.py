"""The spread from a random start, against descent of a crowd of answers."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_theory import MeanLeakageModel, least_spread, random_start_spread, spread, spread_trajectory


@pytest.mark.parametrize(("start_std", "force_std"), [(2.0, 1.1), (0.5, 1.1), (1.0, 0.2)])
def test_the_spread_of_descending_answers_is_the_closed_form_at_all_times(start_std: float, force_std: float) -> None:
    rng = np.random.default_rng(0)
    h, gamma_lambda, eta, count = 1.3, 0.7, 0.005, 40_000
    force, shift = force_std * rng.standard_normal(count), start_std * rng.standard_normal(count)
    shift -= force * (force @ shift) / (force @ force)  # the sample's own correlation
    first, rest, found = shift.var(), force.var() / (h + gamma_lambda) ** 2, []
    for _ in range(600):
        found.append(shift.var())
        shift = shift - eta * (h * shift - force + gamma_lambda * shift)
    times = np.arange(600)
    expected = random_start_spread(times, start_var=first, rest_var=rest, curvature=h + gamma_lambda, rate=eta)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    least = least_spread(start_var=first, rest_var=rest, curvature=h + gamma_lambda, rate=eta)
    assert min(found) == pytest.approx(float(least.variance), rel=0.01)
    assert int(np.argmin(found)) == pytest.approx(float(least.time), rel=0.05)


def test_without_a_start_it_is_the_trajectory_of_t7_and_ends_at_t4() -> None:
    model = MeanLeakageModel(1.3, 0.0, 0.8, posterior_precision=0.5)
    times = np.array([0.1, 1.0, 5.0])
    rest = float(spread(model, 0.6)[0, 0])
    path = spread_trajectory(model, 0.6, times).spread_cov[:, 0, 0]
    np.testing.assert_allclose(
        random_start_spread(times, start_var=0.0, rest_var=rest, curvature=1.3 + 0.3, rate=1.0), path, rtol=1e-12
    )


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="start_var: expected numbers above 0, received 0"):
        least_spread(start_var=0.0, rest_var=1.0, curvature=1.0, rate=0.1)
    with pytest.raises(ValueError, match="rate: expected numbers above 0"):
        random_start_spread([1.0], start_var=1.0, rest_var=1.0, curvature=1.0, rate=0.0)
    with pytest.raises(ValueError, match="times: expected numbers of at least 0"):
        random_start_spread([-1.0], start_var=1.0, rest_var=1.0, curvature=1.0, rate=1.0)
