"""The main job at its smallest: everything it promises to write is there, and bad input is refused before any work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from amvl_model.config import load_preset, stored_config
from amvl_model.studies import main_job
from amvl_model.studies import summary as reporting
from amvl_model.studies.summary import option_plane
from amvl_style import METHODS
from tests.helpers import SCRATCH

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    **SCRATCH,
    "data.tasks": ("Counting", "Jigsaw"),
    "data.train_size": 8,
    "data.eval_size": 2,
    "train.steps": 2,
    "train.batch_size": 4,
    "train.log_every": 1,
    "train.report_to": (),
    "eval.leakage_questions": 4,
    "eval.samples": 1,
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "full"
    assert main_job.full(load_preset("tiny", SMALL), out, progress=False) == 0
    return out


def test_the_run_folder_holds_all_that_is_promised(run_folder: Path) -> None:
    for name in ("config.json", "environment.json", "eval.json", "diagnostics.json", "summary.png"):
        assert (run_folder / name).stat().st_size > 0, name
    for arm in ("forward-only", "amvl"):
        for name in ("config.json", "metrics.jsonl", "checkpoint/model.safetensors", "checkpoint/config.json"):
            assert (run_folder / arm / name).is_file(), (arm, name)
    config = json.loads((run_folder / "forward-only" / "config.json").read_text())
    assert config["objective"]["name"] == "ntp+fwd"


def test_another_objective_is_a_third_arm() -> None:
    assert main_job.arms_of(load_preset("tiny")) == main_job.ARMS
    arms = main_job.arms_of(load_preset("tiny", {"objective.name": "sft"}))
    assert list(arms.items()) == [("forward-only", "ntp+fwd"), ("amvl", "amvl"), ("sft", "sft")]


def test_a_baseline_answers_a_question_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from amvl_model.models.loading import build_model, save_checkpoint

    config = load_preset("tiny", {**SMALL, "objective.name": "pause"})
    save_checkpoint(*build_model(config), tmp_path / "pause")
    Image.new("RGB", (112, 112), "red").save(tmp_path / "a.png")
    assert main_job.ask([str(tmp_path / "a.png")], "Is it red?", ["yes", "no"], str(tmp_path / "pause")) == 0
    said = capsys.readouterr().out
    assert "reply:" in said and "(A) yes:" in said and "posterior" not in said


def test_base_and_both_arms_are_evaluated_on_the_same_questions(run_folder: Path) -> None:
    evaluations = json.loads((run_folder / "eval.json").read_text())
    ids = [[q["id"] for q in evaluations[name]["questions"]] for name in ("base", "forward-only", "amvl")]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 4


def test_every_row_of_the_table_has_a_figure(run_folder: Path) -> None:
    measured = json.loads((run_folder / "diagnostics.json").read_text())
    text = reporting.table(measured)
    assert len([line for line in text.splitlines() if "[" in line]) >= len(reporting._ROWS)
    assert reporting.figures(measured["amvl"])["held_out.leaked_information"].unit == "nats"


def test_every_model_of_the_figure_has_a_label_and_a_method_its_colour() -> None:
    one = {"evaluation": {"accuracy": {"likelihood": {"unweighted": {"mean": 0.96, "low": 0.9, "high": 1.0}}}}}
    page = reporting.figure({"forward-only": one, "AMVL": one, "mine": one})
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["forward-only", "AMVL", "mine"]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in page.axes[0].patches]
    assert colours[:2] == [METHODS["ntp+fwd"].colour, METHODS["amvl"].colour] and len(set(colours)) == 3


def test_a_finished_run_is_not_overwritten(run_folder: Path) -> None:
    before = (run_folder / "eval.json").read_bytes()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        main_job.full(load_preset("tiny", SMALL), run_folder)
    assert (run_folder / "eval.json").read_bytes() == before


def test_ask_answers_with_any_checkpoint(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (70, 130), "red").save(tmp_path / "tall.png")
    checkpoint = str(run_folder / "amvl" / "checkpoint")
    assert main_job.ask([str(tmp_path / "tall.png")], "Is it red?", ["yes", "no"], checkpoint) == 0
    shown = capsys.readouterr().out
    assert "reply:" in shown and "(B) no:" in shown and "the posterior reveals" in shown


def test_ask_names_an_unreadable_image(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    checkpoint = str(run_folder / "amvl" / "checkpoint")
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        main_job.ask([str(tmp_path / "broken.png")], "What is it?", ["a", "b"], checkpoint)


def test_option_plane_is_orthonormal_and_holds_the_difference_of_two_options() -> None:
    rng = np.random.default_rng(0)
    mean, std, means = rng.normal(size=6), rng.uniform(0.5, 2, 6), rng.normal(size=(2, 6))
    plane = option_plane(mean, std, means)
    np.testing.assert_allclose(plane @ plane.T, np.eye(2), atol=1e-12)
    difference = (means[1] - means[0]) / std
    np.testing.assert_allclose(plane.T @ (plane @ difference), difference, atol=1e-10)


def test_an_arm_with_other_settings_than_the_run_is_not_resumed(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    settings = json.loads((copy / "amvl" / "config.json").read_text())
    settings["objective"]["gamma"] += 1.0
    (copy / "amvl" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"amvl was started with other settings: objective\.gamma is"):
        main_job.full(stored_config(copy), copy, progress=False, resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective.betta", "1"], "objective.beta"),
        (["--ask", "missing.png", "What?"], "does not exist"),
        (["--ask", "What?"], "at least one image"),
        (["--choices", "a", "b"], "belongs to --ask"),
        (["--checkpoint", "tiny-amvl"], "belongs to --ask"),
        (["--index", "3"], "belongs to --quick"),
        (["--processes", "2"], "belongs to --dry-run"),
        (["--quick", "--dry-run"], "exclude each other"),
        (["--preset", "tiny", "--laboratory.gamma", "0.5"], "--laboratory.gamma belongs to"),
    ],
)
def test_bad_command_lines_are_refused_with_the_way_out(arguments: list[str], message: str) -> None:
    script = ROOT / "experiments" / "full_blink.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
