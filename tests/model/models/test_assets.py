"""The shipped checkpoints load, are small, and do what their papers say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from amvl_model.config import load_preset
from amvl_model.data.synthetic import TASKS, synthetic_question
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.loading import SHIPPED, load_checkpoint
from amvl_model.studies import main_job
from amvl_model.training.pretraining.multihop_base import MultihopRecipe, hop_accuracy

LIMIT = 10 * 10**6  # bytes


@pytest.mark.parametrize("name", list(SHIPPED))
def test_a_shipped_checkpoint_is_at_most_ten_megabytes(name: str) -> None:
    assert sum(file.stat().st_size for file in SHIPPED[name].iterdir()) <= LIMIT


def test_the_base_solves_held_out_questions_of_the_tasks_it_is_said_to_solve() -> None:
    model, processor = load_checkpoint("tiny")
    report = json.loads((SHIPPED["tiny"] / "accuracy.json").read_text())
    assert set(report["accuracy"]) == set(TASKS)
    assert report["mean_accuracy"] == pytest.approx(sum(report["accuracy"].values()) / len(TASKS))
    assert report["mean_accuracy"] >= 0.80
    solved = [task for task, accuracy in report["accuracy"].items() if accuracy >= 0.98]
    questions = [synthetic_question(task, split="test", seed=5, index=i) for task in solved for i in range(4)]
    result = evaluate(model, processor, questions, progress=False, batch_size=16, n_bootstrap=10)
    for scoring in ("likelihood", "generation"):
        assert result.accuracy[scoring].weighted.mean >= 0.9, scoring


LEFT_OPEN = {"grid-walk": 0.6, "nested-comparison": 0.8}  # most accuracy at three hops, which no base was trained on


@pytest.mark.parametrize("name", ["multihop", "changing-cells", "grid-walk", "nested-comparison"])
def test_the_multi_hop_base_solves_the_hops_that_it_was_trained_on_and_no_more(name: str) -> None:
    recipe = json.loads((SHIPPED[name] / "recipe.json").read_text())
    settings = MultihopRecipe(**{**recipe, "hops": {int(hops): weight for hops, weight in recipe["hops"].items()}})
    model, processor = load_checkpoint(name)
    result = {hops: hop_accuracy(model, processor, replace(settings, eval_size=64), hops, "test") for hops in (1, 2, 3)}
    assert result[1] >= 0.95 and result[2] >= 0.95 and result[3] <= LEFT_OPEN.get(name, 0.3)


@pytest.mark.parametrize("name", ["tiny-forward-only", "tiny-amvl"])
def test_the_fine_tuned_checkpoints_carry_the_latents_of_the_tiny_preset(name: str) -> None:
    model, _ = load_checkpoint(name)
    assert isinstance(model, AMVLForConditionalGeneration)
    preset = load_preset("tiny").model
    assert (model.config.num_latents, model.config.latent_dim) == (preset.num_latents, preset.latent_dim)
    assert model.config.backbone_path is None or not Path(model.config.backbone_path).is_absolute()


def test_the_quick_look_draws_its_image_and_says_what_is_revealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_job.quick(tmp_path, "Relative_Reflectance", 1, load_preset("tiny")) == 0
    shown = capsys.readouterr().out
    assert shown.count("the posterior reveals") == 2
    assert (tmp_path / "quick.png").stat().st_size > 10_000
