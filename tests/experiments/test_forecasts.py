"""How right the calculator is: growth, forecasts and takeovers of runs whose reading is known."""

from __future__ import annotations

import numpy as np
import pytest

from amvl_model.config import load_preset
from amvl_model.results.files import Result
from experiments.theory_vs_model import forecasts


def run(growth: float, computed: float, *, start: float = 0.002, steps: int = 400) -> Result:
    """Reading grows by exp(2 growth) a step up to 1 nat; its logged rate is `computed`."""
    config = load_preset("tiny", {"objective.name": "ntp+fwd", "train.steps": steps})
    rows = [
        {
            "step": step, "probe_reading_nats": min(1.0, start * float(np.exp(2 * growth * step))),
            "probe_reading_error": 1e-4, "probe_growth_rate": computed, "probe_answer_variance": 0.25,
            "probe_read_variance": 0.1, "probe_prior_read_variance": 0.2, "probe_decoder_rate": 0.01,
            "probe_posterior_rate": 0.04,
        }
        for step in range(20, steps, 20)
    ]  # fmt: skip
    return Result(
        study="reading", cell="x", seed=0, config=config.to_dict(), metrics={}, wall_seconds=1.0, device="cpu",
        commit=None, dirty=None, versions={}, created="", extra={"probes": rows},
    )  # fmt: skip


def test_the_takeover_is_the_first_of_two_probes_that_read() -> None:
    found = forecasts.Run.of(run(0.01, 0.01))
    reached = np.log(0.05 / 0.002) / 0.02
    assert found.takeover == 20 * int(np.ceil(reached / 20))
    assert forecasts.Run.of(run(0.0, 0.01)).takeover is None


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.0])
def test_growth_is_compared_where_reading_stands_out_and_is_small(factor: float) -> None:
    ratios = forecasts.growth_ratios([forecasts.Run.of(run(0.01, 0.01 * factor))])
    assert ratios == pytest.approx(factor) and len(ratios) == 11  # step 20 to 220, 0.16 nats


def test_every_forecast_has_one_outcome() -> None:
    read = forecasts.Run.of(run(0.01, 0.01))
    assert read.takeover is not None
    labels = [forecasts.outcome(read.said_at(share), read.takeover) for share in forecasts.SHARES]
    assert labels[-1] == "read already" and set(labels) <= set(forecasts.COLUMNS)
    assert forecasts.outcome(read.said_at(0.3), None).endswith(("cannot tell", "not read"))
    text = forecasts.report([run(0.01, 0.01), run(0.0, 0.01)])
    assert "on 2 runs, 1 of which came to read" in text and "median 1.00" in text
    assert forecasts.report([]) == "no run has the probes of its training"
