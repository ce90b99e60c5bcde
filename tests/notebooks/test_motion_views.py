"""Theory in motion in the notebooks: the calculator follows its sliders, one run's probes are drawn as they were logged."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_model.config import load_preset
from amvl_model.results.files import Result
from amvl_theory import ReadingModel, collapse_probability, holding_weight, reading_rate
from notebooks.views import motion
from notebooks.views.show import png

MODEL = ReadingModel.of_variance(0.25, decoder_rate=0.01, posterior_rate=0.01)
STEPS = np.arange(20, 320, 20)


def run(**extra: object) -> Result:
    """300 steps forward-only; reading grows by exp(0.02) a step from step 100 on and is noise before."""
    config = load_preset("tiny", {"objective.name": "ntp+fwd", "train.steps": 300})
    rows = [
        {
            "step": int(step), "probe_posterior_std": 0.3, "probe_prior_std": 0.5, "probe_gap": 0.4,
            "probe_reading_nats": 1e-3 * float(np.exp(0.02 * max(step - 100, 0))), "probe_growth_rate": 0.01,
            "probe_reading_error": 1e-4 if step >= 100 else 0.01, "probe_answer_variance": 0.25,
            "probe_read_variance": 0.1, "probe_prior_read_variance": 0.2, "probe_decoder_rate": 0.01,
            "probe_posterior_rate": 0.04,
        }
        for step in STEPS
    ]  # fmt: skip
    return Result(
        study="reading", cell="ntp+fwd,steps=300", seed=0, config=config.to_dict(), metrics={}, wall_seconds=1.0,
        device="cpu", commit=None, dirty=None, versions={}, created="", extra={"probes": rows, **extra},
    )  # fmt: skip


def test_the_calculator_marks_the_setting_of_its_sliders() -> None:
    left, middle, right = motion.calculator(0.1, 2_000, 0.5, 50.0, MODEL).axes
    rate = float(reading_rate(MODEL, 0.5, 0.1))
    assert left.lines[1].get_ydata() == pytest.approx(rate)
    assert middle.lines[3].get_ydata() == pytest.approx(float(collapse_probability(2_000 * rate, 50.0)))
    assert right.lines[1].get_xdata() == pytest.approx(2_000) and right.lines[1].get_ydata() == pytest.approx(0.1)
    held = holding_weight(motion.STEPS, probability=0.05, critical=50.0, model=MODEL, variance=0.5)
    drawn = np.asarray(right.lines[0].get_ydata())
    assert np.isnan(drawn[held == 0]).all() and drawn[held > 0] == pytest.approx(held[held > 0]) and (held == 0).any()
    assert png(motion.calculator(0.1, 2_000, 0.5, 50.0, MODEL)) != png(motion.calculator(0.3, 2_000, 0.5, 50.0, MODEL))


def test_the_theory_beside_a_run_grows_at_its_logged_rates() -> None:
    left, middle, right = motion.run_figure(run()).axes
    assert left.lines[2].get_ydata() == pytest.approx(np.full(len(STEPS), 0.5))
    line = next(each for each in middle.lines if each.get_label() == "grown at T11's rates")
    expected = 1e-3 * np.exp(0.02 * (np.asarray(line.get_xdata()) - 100))
    assert line.get_xdata()[0] == 100 and line.get_ydata() == pytest.approx(expected)
    assert {each.get_label() for each in right.lines} == {"probability", "cannot tell"}


def test_a_run_without_probes_is_refused() -> None:
    with pytest.raises(ValueError, match="ntp\\+fwd,steps=300/seed0: expected the probes of its training, got 0"):
        motion.run_figure(run(probes=[]))
