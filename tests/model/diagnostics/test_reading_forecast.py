"""Forecasts from log lines: runs that are T11's own growth, what cannot be told, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amvl_model.cli import main
from amvl_model.config import RunConfig, load_preset
from amvl_model.diagnostics.reading.forecast import COLLAPSE, RunSchedule, forecast, forecast_run, reading_warning
from amvl_theory.dynamics.in_training.reading import ReadingModel, momentum_rate, reading_rate

FLAT = {"objective.beta_warmup": 0.0, "objective.gamma_delay": 0.0, "objective.gamma_warmup": 0.0}
RATES = {"decoder_rate": 0.02, "posterior_rate": 0.02}


def plan(**overrides: Any) -> RunSchedule:
    return RunSchedule.of(load_preset("tiny", {"train.steps": 1_000, **FLAT, **overrides}))


def line(step: int, reading: float, schedule: RunSchedule, **others: Any) -> dict[str, Any]:
    """A log line; learning rates follow the schedule."""
    scale = float(schedule.learning_rate(step))
    numbers = {
        "reading_nats": reading,
        "reading_error": 1e-4,
        "answer_variance": 0.25,
        "read_variance": 0.5,
        "prior_read_variance": 0.5,
        "gamma_x": 0.9,
        **{name: rate * scale for name, rate in RATES.items()},
        **others,
    }
    return {"step": step, "loss": 1.0, **{f"probe_{name}": value for name, value in numbers.items()}}


def test_a_run_that_reads_is_predicted_to_collapse_when_t11_says() -> None:
    schedule = plan(**{"objective.gamma": 0.003})
    result = forecast([line(200, 0.001, schedule)], schedule, until=1_000)
    model = ReadingModel.of_variance(0.25, **RATES)
    steps = np.arange(200, 1_001)
    rate = momentum_rate(schedule.learning_rate(steps) * reading_rate(model, 0.5, 0.003), 0.9)
    grown = 0.001 * np.exp(2 * np.append(0.0, np.cumsum(0.5 * (rate[1:] + rate[:-1]))))
    expected = steps[np.argmax(grown >= COLLAPSE)]
    assert 300 < expected < 900
    assert result.takeover == pytest.approx(expected, abs=3)
    assert result.growth == pytest.approx(rate[0], rel=1e-6)
    assert result.probability == pytest.approx(1.0, abs=1e-6)
    assert result.holding is not None and result.holding > 0.003


def growing(schedule: RunSchedule) -> list[dict[str, Any]]:
    """Three readings up to step 200 that grow by exp(0.01) a step, about as the rates say."""
    return [line(step, 0.01 * math.exp(0.01 * (step - 200)), schedule) for step in (160, 180, 200)]


def test_the_weight_that_holds_leaves_five_percent() -> None:
    schedule = plan()
    held = forecast(growing(schedule), schedule, until=800).holding
    assert held is not None and held > 0
    other = plan(**{"objective.gamma": held})
    result = forecast(growing(other), other, until=800)
    assert result.observed == pytest.approx(0.005) and result.growth is not None
    assert result.probability == pytest.approx(0.05, rel=1e-3) and result.takeover is None


def test_a_low_probability_is_not_given_before_growth_was_seen() -> None:
    schedule = plan(**{"objective.gamma": 0.9})
    assert forecast(growing(schedule)[-1:], schedule, until=250).probability is None
    unclear = line(200, 0.001, schedule, reading_error=0.01)
    for rows in (growing(schedule)[-1:], [unclear]):
        assert "cannot tell: no growth of reading has been seen yet" in forecast(rows, schedule, until=250).report()
    lasting = plan(**{"objective.gamma": 0.0})
    assert forecast([line(200, 0.01, lasting)], lasting, until=800).probability == pytest.approx(1.0)


def test_more_steps_need_more_gamma_and_forward_only_runs_are_told_the_gamma_of_an_amvl_run() -> None:
    weights = []
    for until in (600, 750, 900):
        schedule = plan(**{"objective.name": "ntp+fwd"})
        result = forecast([line(200, 0.001, schedule)], schedule, until=until)
        assert result.weight_name == "gamma" and result.weight == 0.0
        weights.append(result.holding)
    assert weights[0] < weights[1] < weights[2]


def test_the_elbo_is_held_by_beta_on_the_prior_s_variance() -> None:
    schedule = plan(**{"objective.name": "elbo", "objective.beta": 0.003})
    wide = forecast([line(200, 0.001, schedule, prior_read_variance=50.0)], schedule, until=800)
    even = forecast([line(200, 0.001, schedule)], schedule, until=800)
    assert wide.weight_name == "beta" and wide.weight == 0.003
    assert wide.holding == pytest.approx(100 * even.holding, rel=1e-6)


def test_a_kl_that_is_a_mean_over_dimensions_needs_as_many_times_the_weight() -> None:
    schedules = plan(), plan(**{"objective.kl_reduction": "mean"})
    total, mean = (forecast([line(200, 0.001, s)], s, until=800).holding for s in schedules)
    assert mean == pytest.approx(64 * total, rel=1e-6)


def test_rates_are_the_median_of_the_last_probes_over_their_learning_rates() -> None:
    schedule = plan()
    rows = [line(step, 0.001, schedule) for step in (100, 150, 200)]
    rows[1] |= {"probe_decoder_rate": 7.0, "probe_posterior_rate": -1.0}
    assert forecast(rows, schedule, until=800) == forecast(rows[2:], schedule, until=800)


CANNOT = [
    ([], {}, "no probe was logged by then"),
    ([(200, 0.001, {"decoder_rate": None})], {}, "no decoder_rate was logged"),
    ([(200, 0.001, {"posterior_rate": -1e-3})], {}, "there is no common answer direction yet"),
    ([(200, 0.001, {})], {"objective.nll_reduction": "token_mean"}, "nll_reduction sum alone"),
    (
        [(100, 0.006, {}), (102, 0.012, {}), (104, 0.024, {})],
        {},
        "the observed growth, 0.1733 a step, is another than T11's",
    ),
]


@pytest.mark.parametrize(("rows", "overrides", "reason"), CANNOT)
def test_what_cannot_be_told_is_said_with_its_reason(rows: Any, overrides: dict[str, Any], reason: str) -> None:
    schedule = plan(**overrides)
    result = forecast([line(step, r, schedule, **more) for step, r, more in rows], schedule, until=800)
    assert result.probability is None and result.holding is None
    assert "cannot tell: " in result.report() and reason in result.report()


def test_a_leak_that_is_read_already_is_said_to_be() -> None:
    schedule = plan()
    result = forecast([line(200, 0.2, schedule)], schedule, until=800)
    assert result.probability == 1.0 and result.takeover == 200 and "is read already" in result.report()


def test_a_weight_above_gamma_x_comes_with_a_note() -> None:
    schedule = plan()
    assert "above gamma_x" in forecast([line(200, 0.001, schedule, gamma_x=1e-6)], schedule, until=800).report()
    assert "above gamma_x" not in forecast([line(200, 0.001, schedule)], schedule, until=800).report()


def test_the_learning_rate_is_the_trainer_s_and_no_step_below_1_is_accepted() -> None:
    from torch import nn, optim
    from transformers import get_cosine_schedule_with_warmup

    schedule = plan(**{"train.warmup": 0.1})
    optimizer = optim.SGD([nn.Parameter(nn.Linear(1, 1).weight.data)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 100, 1_000)
    for step in (0, 50, 100, 400, 999):
        assert float(schedule.learning_rate(step)) == pytest.approx(theirs.lr_lambdas[0](step), abs=1e-9)
    with pytest.raises(ValueError, match="until: expected a step above 0, received 0"):
        forecast([], schedule, until=0)


def test_the_first_two_readings_in_a_row_that_stand_out_make_one_warning_with_step_and_gamma() -> None:
    schedule = plan(**{"objective.gamma": 0.003})
    rows: list[dict[str, Any]] = []
    texts = {}
    for step, reading in ((20, 0.009), (40, 0.001), (60, 0.009), (80, 0.010), (100, 0.02)):
        rows.append(line(step, reading, schedule))
        texts[step] = reading_warning(rows, schedule)
    assert [step for step, text in texts.items() if text] == [80]
    text = str(texts[80])
    assert text.startswith("step 80: the decoder starts to read the leak (0.010 nats to first order)")
    assert "predicted to take over: about step " in text and "would hold to step 1000" in text


def write_run(folder: Path, rows: list[dict[str, Any]], config: RunConfig) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_command_reads_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_preset("tiny", {"train.steps": 1_000, **FLAT})
    schedule = RunSchedule.of(config)
    run = write_run(tmp_path / "run", [{"step": 10, "loss": 2.0}, line(200, 0.001, schedule)], config)
    assert main(["gamma", "--run", str(run), "--until", "1000"]) == 0
    text = capsys.readouterr().out
    assert "last probe: step 200" in text and "reading by step 1000 at gamma 0.001: 100 %" in text
    assert "would hold to step 1000" in text
    longer = forecast_run(run, 4_000)
    assert longer.takeover is not None and not math.isnan(longer.reading_nats)


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--run", str(tmp_path), "--until", "10"], "config.json does not exist; expected the folder of a run"),
        (["--run", str(tmp_path), "--until", "soon"], "invalid literal for int"),
        (["--run", str(tmp_path), "--until", "0"], "greater than 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["gamma", *arguments])
        assert stop.value.code == 2 and message in capsys.readouterr().err
