"""The main job in the laboratory, from a small random base: files, table, figure, resume, and the questions that --ask takes."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES
from amvl_model.results.files import read_result
from amvl_model.studies.laboratory import LaboratoryOptions, figures, job, quick
from amvl_model.training.pretraining.multihop_base import (
    BaseShape,
    MultihopRecipe,
    build_multihop_base,
    save_multihop_base,
)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> LaboratoryOptions:
    folder = tmp_path_factory.mktemp("base")
    save_multihop_base(*build_multihop_base(BaseShape(hidden_size=32, vision_size=32)), folder, MultihopRecipe())
    return LaboratoryOptions(base=str(folder), steps=2, warmup=2, evaluated=16)


@pytest.fixture(scope="module")
def run(options: LaboratoryOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    assert job.full(options, out, progress=False, workers=1) == 0
    return out


def test_every_arm_leaves_its_measures_and_a_checkpoint(run: Path) -> None:
    for name, objective in job.ARMS.items():
        result = read_result(run / "laboratory" / name / "seed0.json")
        assert result.config["objective"] == objective
        assert (run / name / "checkpoint" / "model.safetensors").exists()
        assert ("leaked_3" in result.metrics) == (objective != "sft")
        assert result.extra["curve"][-1]["step"] == (4 if objective == "sft" else 2)
    with Image.open(run / "summary.png") as image:
        assert image.size[0] > 1000
    questions = json.loads((run / "question.json").read_text())
    assert [reading["arm"] for reading in questions] == ["amvl", "forward-only"]
    assert all(sum(state) == pytest.approx(1.0) for r in questions for slot in r["probabilities"] for state in slot)


def test_another_task_runs_without_a_warm_up(
    options: LaboratoryOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cold = replace(options, task="Changing_Cells", warmup=0)
    assert job.full(cold, tmp_path / "run", progress=False, workers=1) == 0
    assert "No arm had a warm-up." in capsys.readouterr().out and (tmp_path / "run" / "summary.png").exists()
    config = read_result(tmp_path / "run" / "laboratory" / "amvl" / "seed0.json").config
    assert config["recipe"]["task"] == "Changing_Cells" and config["warmup"] == 0
    assert job.arm_for(LaboratoryOptions(task="Changing_Cells"), "amvl").base == "changing-cells"


def test_the_image_is_drawn_again_from_the_files_alone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("summary.png", "checkpoint"))
    assert job.redraw(copy).read_bytes() == (run / "summary.png").read_bytes()


def test_the_picture_is_of_the_task_that_it_draws(run: Path) -> None:
    results = {name: read_result(run / "laboratory" / name / "seed0.json") for name in job.ARMS}
    question = MultihopRecipe(task="Nested_Comparison").questions("test", 3, 1)[0]
    states = [np.full((4, 8), 1 / 8)] * 2
    readings = [figures.Reading(name=name, question=question, states=states) for name in ("amvl", "forward-only")]
    page = figures.draw_job(results, readings)
    assert "Each bar has a height of its own." in [ax.get_title(loc="left") for ax in page.axes]
    (bars,) = [ax for ax in page.axes if ax.get_title(loc="left") == figures.CONDITIONS["accuracy"]]
    rules = [line.get_xdata()[0] for line in bars.lines if list(line.get_ydata()) == [0, 1]]
    assert rules == [25.0]  # one of the four colours that are named


def test_the_table_shows_what_the_files_contain(run: Path) -> None:
    results = {name: read_result(run / "laboratory" / name / "seed0.json") for name in job.ARMS}
    text = job.table(results)
    (row,) = [line for line in text.splitlines() if line.startswith("amvl")]
    assert f"{100 * results['amvl'].metrics['accuracy_3'].value:.1f}" in row  # type: ignore[operator]
    assert f"{results['amvl'].metrics['leaked_3'].value:.3f}" in row
    assert "warm-up of 2 steps" in text


def test_a_finished_run_is_neither_overwritten_nor_trained_again(
    run: Path, options: LaboratoryOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        job.full(options, run)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = (copy / "laboratory" / "amvl" / "seed0.json").read_bytes()
    shutil.rmtree(copy / "laboratory" / "prior")
    assert job.full(options, copy, progress=False, resume=True, workers=1) == 0
    assert "training prior; 1 at a time" in capsys.readouterr().out
    assert (copy / "laboratory" / "amvl" / "seed0.json").read_bytes() == before
    again, first = (read_result(folder / "laboratory" / "prior" / "seed0.json").metrics for folder in (copy, run))
    assert again == first


def test_a_run_is_resumed_with_its_own_settings_only(run: Path, options: LaboratoryOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with pytest.raises(ValueError, match=r"other settings: gamma is 1\.0 there, got 0\.5"):
        job.full(replace(options, gamma=0.5), copy, resume=True)
    (copy / "laboratory.json").write_text((run / "laboratory.json").read_text().replace('"gamma": 1.0', '"gamma": 0.5'))
    with pytest.raises(ValueError, match=r"amvl/seed0\.json: gamma is 1\.0 there, got 0\.5"):
        job.full(replace(options, gamma=0.5), copy, resume=True)
    for text in ('{"seed": 0, "st', '{"steps": "many"}', "[]"):
        (copy / "laboratory.json").write_text(text)
        with pytest.raises(ValueError, match=r"laboratory\.json: expected the options of a run"):
            job.full(options, copy, resume=True)


def test_every_start_is_appended_to_the_environment(run: Path, options: LaboratoryOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    job.full(options, copy, progress=False, resume=True, workers=1)
    first, second = json.loads((copy / "environment.json").read_text())
    assert [first] == json.loads((run / "environment.json").read_text()) and second["versions"] == first["versions"]


def test_a_base_that_lacks_a_weight_is_refused(options: LaboratoryOptions, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(options.base, base)
    weights = load_file(base / "model.safetensors")
    weights.pop("model.language_model.norm.weight", None) or weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        job.full(replace(options, base=str(base)), tmp_path / "out", progress=False, workers=1)


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no laboratory\.json"):
        job.full(LaboratoryOptions(), tmp_path, resume=True)


def test_questions_that_the_checkpoints_never_saw_get_a_warning_and_other_options_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "cells.png"
    Image.new("RGB", (224, 28)).save(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = quick.own_question(str(image), "Follow 3 arrows from red. Where do you end?", [])
    assert asked.choices == COLOUR_NAMES[:8]
    for text in (
        "Is there a cat?",
        "Follow 5 arrows from red. Where do you end?",
        "Follow 2 arrows from black. Where do you end?",
    ):
        with pytest.warns(UserWarning, match="means nothing"):
            quick.own_question(str(image), text, [])
    with pytest.raises(ValueError, match="leave --choices out"):
        quick.own_question(str(image), "Follow 3 arrows from red. Where do you end?", ["yes", "no"])
