"""The laboratory: every arm runs on shared scenes, and its measures are what they say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.results.files import read_result
from amvl_model.studies.laboratory import (
    Arm,
    build_arm,
    encode_scenes,
    measure_accuracy,
    measure_leak,
    run_arm,
    train_arm,
    warm_up,
)
from amvl_model.training.multihop_base import BaseShape, MultihopRecipe, build_multihop_base

SHAPE = BaseShape(num_layers=2, hidden_size=32, vision_size=32)


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    return build_multihop_base(SHAPE, seed=0)


def arm(objective: str = "amvl", **settings: Any) -> Arm:
    recipe = MultihopRecipe(
        hops={1: 1.0, 2: 1.0}, steps=4, scenes=2, questions_per_scene=4, eval_every=2, eval_size=8, freeze_vision=True
    )
    return Arm(**{"objective": objective, "recipe": recipe, "warmup": 2, **settings})


def built(base: tuple[Any, Any], settings: Arm) -> Any:
    return build_arm(copy.deepcopy(base[0]), base[1], settings)


@pytest.mark.parametrize("objective", ["sft", "pause", "prior", "ntp", "ntp+fwd", "elbo", "amvl"])
def test_every_arm_trains_is_measured_and_leaves_one_result(
    base: tuple[Any, Any], objective: str, tmp_path: Path
) -> None:
    settings = arm(objective)
    latents = objective not in ("sft", "pause")
    model = built(base, settings)
    warmed = warm_up(model, base[1], settings, tmp_path / "curve.jsonl") if latents else {}
    path = run_arm(model, base[1], settings, tmp_path, warmed=warmed, log=tmp_path / "curve.jsonl")
    result = read_result(path)
    names = {
        f"{name}_{h}" for h in (1, 2) for name in (["hop", "posterior", "exchanged", "leaked"] if latents else ["hop"])
    }
    assert set(result.metrics) == names
    assert all(0 <= result.metrics[f"hop_{h}"].value <= 1 for h in (1, 2))
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    warming = [(2, "prior")] if latents else []
    assert [(row["step"], row["objective"]) for row in rows] == [*warming, (2, objective), (4, objective)]
    assert result.extra is not None and len(result.extra["curve"]) == 2
    if latents:
        assert (result.extra["warmup_steps"], result.extra["started"]) == (2, False)
    with pytest.raises(FileExistsError, match="run the arm again"):
        run_arm(model, base[1], settings, tmp_path, warmed={})


def test_the_names_of_the_cells_state_the_weights_that_are_used() -> None:
    assert [arm(name, beta=1.0, gamma=0.1).cell for name in ("sft", "ntp+fwd", "amvl")] == [
        "sft",
        "ntp+fwd,beta1",
        "amvl,beta1,gamma0.1",
    ]
    assert [arm(name, queries_from_prompt=False).cell for name in ("sft", "prior")] == ["sft", "prior,fresh-queries"]


@pytest.mark.parametrize("objective", ["amvl", "sft", "pause"])
def test_an_encoding_that_a_scene_shares_gives_the_output_of_one_for_each_question(
    base: tuple[Any, Any], objective: str
) -> None:
    settings = arm(objective)
    model, processor = built(base, settings).eval(), base[1]
    questions = settings.recipe.questions("val", 1, 8)[:]
    shared = encode_scenes(model, processor, questions, 4)
    own = {name: value for name, value in shared.items() if name != "image_features"}
    own["pixel_values"] = processor(questions)["pixel_values"]
    with torch.no_grad():
        options = {"latents": "posterior_mean"} if objective == "amvl" else {}
        got, expected = (model(**batch, **options) for batch in (shared, own))
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="forward got image_feature; beside query"):
        model(**own, image_feature=shared["image_features"])


def test_the_posterior_starts_as_a_copy_of_the_prior(base: tuple[Any, Any]) -> None:
    model = built(base, arm())
    assert isinstance(model, AMVLForConditionalGeneration)
    assert not torch.equal(model.posterior_head.linear.weight, model.prior_head.linear.weight)
    model.start_posterior_as_prior()
    assert torch.equal(model.posterior_head.linear.weight, model.prior_head.linear.weight)
    assert torch.equal(model.posterior_queries.weight, model.prior_queries.weight)
    model.posterior_head.linear.weight.data.zero_()
    assert model.prior_head.linear.weight.any()  # copied, not shared


@pytest.mark.parametrize("objective", ["prior", "amvl"])
def test_the_warm_up_of_a_seed_and_its_arms_draw_different_questions(
    base: tuple[Any, Any], objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    original = MultihopRecipe.questions

    def spy(self: MultihopRecipe, split: str, *args: Any) -> Any:
        if split == "train":
            seeds.append(self.seed)
        return original(self, split, *args)

    monkeypatch.setattr(MultihopRecipe, "questions", spy)
    model = built(base, arm(objective))
    warm_up(model, base[1], arm(objective))
    train_arm(model, base[1], arm(objective))
    assert seeds == [0, 1]  # whatever the objective: the arms of a seed see the same questions


def test_the_warm_up_ends_with_the_accuracy_that_was_asked_for(base: tuple[Any, Any]) -> None:
    ended = warm_up(built(base, arm()), base[1], arm(warmup=6, warmup_accuracy=0.0))
    assert (ended["warmup_steps"], ended["started"]) == (2, True)


def test_queries_begin_at_the_prompts_last_token_unless_they_are_fresh(base: tuple[Any, Any]) -> None:
    begun, fresh = (built(base, arm(queries_from_prompt=choice)).prior_queries.weight for choice in (True, False))
    settings = arm()
    (row,) = encode_scenes(built(base, settings), base[1], settings.recipe.questions("val", 1, 4)[:1], 1)["input_ids"]
    last = base[0].get_input_embeddings()(row[-1])
    torch.testing.assert_close(begun.detach(), (last + 0.1 * fresh).detach())


def test_a_posterior_that_ignores_the_answer_leaks_nothing_and_latents_of_the_same_scene_cost_nothing(
    base: tuple[Any, Any],
) -> None:
    settings = arm()
    model = built(base, settings)
    with torch.no_grad():
        for head in (model.prior_head, model.posterior_head):
            head.linear.weight.zero_()
    assert all(
        mean == pytest.approx(0.0, abs=1e-9) for mean, _ in measure_leak(model, base[1], settings.recipe).values()
    )
    found = measure_accuracy(model, base[1], settings.recipe)
    assert all(found[f"hop_{h}"] == found[f"exchanged_{h}"] == found[f"posterior_{h}"] for h in (1, 2))
