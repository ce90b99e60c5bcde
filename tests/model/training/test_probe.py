"""The probe in training: what it logs, that it changes nothing, when it warns, where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.data.synthetic import synthetic_question
from amvl_model.diagnostics.reading.forecast import forecast_run
from amvl_model.diagnostics.reading.probe import ProbeReport
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.training.monitoring.probe import QUESTIONS, LeakProbe, probe_questions
from amvl_model.training.run import build_model, train
from tests.model.training.test_trainer import config

ASKED = [synthetic_question("Counting", split="train", index=i, label_noise=0.3) for i in range(12)]
SETTINGS = {"train.steps": 4, "train.batch_size": 4, "train.log_every": 1, "train.save_every": 2}


def probed(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "probe_gap" in row]


def test_a_probed_run_trains_the_same_bits_and_logs_its_numbers_at_the_interval(tmp_path: Path) -> None:
    weights = []
    for every in (0, 2):
        folder = tmp_path / str(every)
        model, _ = train(config(**SETTINGS, **{"train.probe_every": every}), folder, questions=ASKED, quiet=True)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert probed(tmp_path / "0") == []
    rows = probed(tmp_path / "2")
    assert [row["step"] for row in rows] == [2, 4]
    expected = {f"probe_{name}" for name in ProbeReport.__dataclass_fields__ if name != "gamma_x"}
    assert expected <= rows[0].keys()
    assert "last probe: step 4" in forecast_run(tmp_path / "2", 10).report()


def test_every_number_of_a_probe_reaches_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"train.probe_every": 2, "train.report_to": ("tensorboard",), "objective.gamma": 1e-4}
    train(config(**SETTINGS, **settings), tmp_path, questions=ASKED, quiet=True)
    row = probed(tmp_path)[0]
    numbers = {name for name in row if name.startswith("probe_")}
    assert {f"probe_{name}" for name in ProbeReport.__dataclass_fields__} <= numbers
    assert ("probe_growth_rate" in row) == (min(row["probe_decoder_rate"], row["probe_posterior_rate"]) > 0)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    scalars = accumulator.EventAccumulator(str(events)).Reload()
    for name in numbers:
        first = scalars.Scalars(f"train/{name}")[0]
        assert (first.step, first.value) == (2, pytest.approx(row[name], rel=1e-5)), name


def test_probes_between_log_lines_wait_for_the_next_one(tmp_path: Path) -> None:
    settings = {**SETTINGS, "train.steps": 9, "train.log_every": 3, "train.probe_every": 4, "train.save_every": 0}
    train(config(**settings), tmp_path / "run", questions=ASKED, quiet=True)
    assert [row["step"] for row in probed(tmp_path / "run")] == [6, 9]


@pytest.mark.parametrize(("batch", "accumulation", "every"), [(32, 1, 20), (8, 1, 80), (8, 2, 40), (1000, 1, 1)])
def test_by_default_probes_lie_as_many_questions_apart_whatever_the_batch(
    batch: int, accumulation: int, every: int
) -> None:
    settings = {"train.batch_size": batch, "train.grad_accumulation": accumulation}
    model, processor = build_model(config(**settings))
    assert LeakProbe(config(**settings), model, processor, ASKED[:2]).every == every


def test_a_model_that_diverges_is_stopped_by_the_guard_and_not_by_the_probe(tmp_path: Path) -> None:
    settings = {**SETTINGS, "train.steps": 6, "train.learning_rate": 1e9, "train.latent_learning_rate": 1e9}
    with pytest.raises(NonFiniteError):
        train(config(**settings, **{"train.probe_every": 1}), tmp_path / "run", questions=ASKED, quiet=True)


def test_a_run_without_several_choices_goes_on_unprobed_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [replace(question, choices=(), answer=None, answer_probs=None) for question in ASKED]
    train(config(**SETTINGS, **{"train.probe_every": 1}), tmp_path / "run", questions=asked, quiet=True)
    assert "not multiple-choice ones with known answers" in capsys.readouterr().err
    assert probed(tmp_path / "run") == []


@pytest.mark.parametrize("objective", ["sft", "prior", "fwd"])
def test_objectives_whose_answers_read_no_posterior_latents_are_not_probed(tmp_path: Path, objective: str) -> None:
    settings = {**SETTINGS, "train.steps": 1, "train.probe_every": 1, "objective.name": objective}
    train(config(**settings), tmp_path / "run", questions=ASKED, quiet=True)
    assert probed(tmp_path / "run") == []


def test_the_batch_is_drawn_from_all_over_the_set_and_leaves_open_questions_out() -> None:
    asked = [replace(question, id=str(i)) for i, question in enumerate(ASKED * 20)]
    asked[::2] = [replace(question, choices=(), answer=None, answer_probs=None) for question in asked[::2]]
    chosen = [int(question.id) for question in probe_questions(asked)]
    assert len(set(chosen)) == len(chosen) == QUESTIONS
    assert all(i % 2 for i in chosen) and max(chosen) - min(chosen) > 100
