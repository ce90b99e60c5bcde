"""The closed forms of T11 in amvl_model are amvl_theory's."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_model.diagnostics.reading import growth
from amvl_theory.dynamics.in_training import reading, widening

WEIGHTS = np.array([0.0, 1e-4, 3e-3, 0.1, 0.9, 1.0, 4.0])
SETTINGS = [
    {"answer_variance": 0.25, "variance": 1.0, "decoder_rate": 0.01, "posterior_rate": 0.01},
    {"answer_variance": 0.09, "variance": 0.05, "decoder_rate": 3e-3, "posterior_rate": 2e-4},
    {"answer_variance": 0.31, "variance": 9.0, "decoder_rate": 1e-4, "posterior_rate": 0.02},
]


def theory(setting: dict[str, float]) -> reading.ReadingModel:
    rates = {name: setting[name] for name in ("decoder_rate", "posterior_rate")}
    return reading.ReadingModel.of_variance(setting["answer_variance"], **rates)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_growth_rate_is_t11_s_and_so_is_its_threshold_of_1(setting: dict[str, float]) -> None:
    rate = growth.growth_rate(growth.ReadingRates(**setting), WEIGHTS)
    np.testing.assert_allclose(rate, reading.reading_rate(theory(setting), setting["variance"], WEIGHTS), atol=1e-15)
    assert (rate[:5] > 0).all() and abs(rate[5]) < 1e-12 and rate[6] < 0


def test_momentum_and_answer_variance_are_the_theory_s() -> None:
    rates = np.array([0.0, 1e-4, 0.01, 0.2])
    np.testing.assert_allclose(growth.with_momentum(rates, 0.9), reading.momentum_rate(rates, 0.9), rtol=1e-12)
    for p in ([0.5, 0.5], [0.7, 0.2, 0.1], [0.25] * 4):
        assert growth.answer_variance(p) == pytest.approx(reading.answer_modes(p)[0])
    assert growth.answer_variance([0.8, 0.2, 0.0]) == pytest.approx(0.32)  # two (1 - p) p: the mode of two answers


def allowed(critical: float) -> float:
    """The exponent at which 5 % of the runs read."""
    return float(np.log(critical / reading.critical_ratio(0.05)))


@pytest.mark.parametrize("budget", [1_200, 3_000, 20_000])
def test_the_holding_weight_is_gamma_star_of_t11(budget: int) -> None:
    setting = SETTINGS[0]
    rates = growth.ReadingRates(**setting)
    result = growth.holding_weight(lambda g: float(budget * growth.growth_rate(rates, g)), allowed(8.5))
    expected = reading.holding_weight(budget, probability=0.05, critical=8.5, model=theory(setting), variance=1.0)
    assert result == pytest.approx(float(expected), rel=1e-6) and result > 0


def test_the_holding_weight_follows_a_schedule_as_the_theory_s_does() -> None:
    setting, times = SETTINGS[0], np.linspace(0, 1_000, 401)
    shape = np.clip(times / 300 - 0.5, 0, 1)
    rates = growth.ReadingRates(**setting)

    def grown(weight: float) -> float:
        return float(np.trapezoid(growth.growth_rate(rates, weight * shape), times))

    result = growth.holding_weight(grown, allowed(30.0))
    expected = reading.holding_weight_on_path(
        times, probability=0.05, critical=30.0, model=theory(setting), variance=1.0, shape=shape
    )
    assert result == pytest.approx(expected, rel=1e-6)
    assert growth.holding_weight(grown, allowed(8.5) - 10) is None  # the start is unprotected


def test_a_weight_of_0_holds_where_little_can_grow() -> None:
    assert growth.holding_weight(lambda g: 0.1 - g, 0.2) == 0.0


def test_gamma_x_is_the_theory_s_adam_crossover() -> None:
    assert growth.adam_crossover(4e-6, 3.0, 0.02) == pytest.approx(float(widening.adam_crossover(4e-6, 3.0, 0.02)))


def test_rates_that_are_not_above_0_are_refused() -> None:
    with pytest.raises(ValueError, match="posterior_rate: expected a number above 0, received -0.1"):
        growth.ReadingRates(**{**SETTINGS[0], "posterior_rate": -0.1})
