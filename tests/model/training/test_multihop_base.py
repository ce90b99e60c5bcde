"""The small base of the multi-hop tasks: cells are read one by one, scenes are shared, the loop learns and is repeatable."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from amvl_model import AMVLForConditionalGeneration
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.synthetic.multihop import multihop_record, multihop_task
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.training.pretraining import tiny_base
from amvl_model.training.pretraining.multihop_base import (
    BaseShape,
    MultihopRecipe,
    build_multihop_base,
    collate_readings,
    collate_scenes,
    deepened,
    hop_accuracy,
    save_multihop_base,
    scene_features,
    target_logits,
    train_multihop,
)
from experiments import train_multihop as train_script


@pytest.fixture(scope="module")
def base() -> tuple[Any, AMVLProcessor]:
    model, processor = build_multihop_base(BaseShape())
    return model.eval(), processor


def test_the_base_is_small_and_its_tower_has_no_full_attention(base: tuple[Any, AMVLProcessor]) -> None:
    model, _ = base
    assert 200_000 < sum(p.numel() for p in model.parameters()) < 2_000_000
    assert model.config.text_config.num_hidden_layers == 2
    assert model.config.vision_config.fullatt_block_indexes == []


@torch.no_grad()
def test_the_tower_reads_each_cell_by_itself(base: tuple[Any, AMVLProcessor]) -> None:
    model, processor = base
    image = np.asarray(MultihopRecipe().questions("train", 1, 1)[0].images[0]).copy()
    before, _ = scene_features(model, processor, torch.from_numpy(image)[None])
    image[:, 3 * 28 : 4 * 28] = 77
    after, _ = scene_features(model, processor, torch.from_numpy(image)[None])
    changed = (before - after).abs().amax(dim=(0, 2)) > 1e-5
    assert before.shape == (1, 8, 64)
    assert changed.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("listed", [False, True])
@torch.no_grad()
def test_shared_scenes_give_the_logits_of_the_ordinary_forward_pass(
    base: tuple[Any, AMVLProcessor], listed: bool
) -> None:
    model, processor = base
    recipe = MultihopRecipe(listed=listed, shuffled=listed, questions_per_scene=4)
    questions = recipe.questions("train", {1: 1, 4: 1}, 8)[:]
    batch = collate_scenes(processor, questions, 4)
    features, grid = scene_features(model, processor, batch["images"])
    shared = target_logits(model, processor, batch, features, grid)
    for row, question in enumerate(questions):
        one = processor([question])
        ids = torch.cat([one["input_ids"], one["answer_ids"]], dim=1)
        types = torch.nn.functional.pad(one["mm_token_type_ids"], (0, one["answer_ids"].shape[1]))
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=types,
            pixel_values=one["pixel_values"],
            image_grid_thw=one["image_grid_thw"],
        ).logits
        places = slice(one["input_ids"].shape[1] - 1, -1)
        assert torch.equal(one["answer_ids"][0], batch["target"][row])
        assert torch.allclose(logits[0, places], shared[row], atol=2e-4)


def test_readings_ask_for_the_last_word_of_each_step(base: tuple[Any, AMVLProcessor]) -> None:
    _, processor = base
    scenes = [["red blue", "blue green", "green red"], ["green red", "red blue", "blue green"]]
    batch = collate_readings(processor, scenes, (28, 3 * 28), np.random.default_rng(0))
    for row, steps in enumerate(scenes):
        pairs = dict(step.split() for step in steps)
        keys = processor.tokenizer.convert_ids_to_tokens(batch["ids"][row][batch["where"][row]])
        values = processor.tokenizer.convert_ids_to_tokens(batch["target"][row])
        assert {key.strip("Ġ"): value.strip("Ġ") for key, value in zip(keys, values, strict=True)} == pairs


def test_ranks_that_no_question_names_are_tokens_of_a_base_that_reads_them() -> None:
    facts = multihop_record("Nested_Comparison", "train")["explanation"]
    shape = BaseShape(num_layers=1, hidden_size=32, vision_size=32, vocabulary=512)
    scenes = [multihop_task("Nested_Comparison").steps(facts)[0]]
    _, without = build_multihop_base(shape)
    with pytest.raises(ValueError, match="one token each"):
        collate_readings(without, scenes, (56, 224), np.random.default_rng(0))
    _, processor = build_multihop_base(shape, words=multihop_task("Nested_Comparison").words)
    target = collate_readings(processor, scenes, (56, 224), np.random.default_rng(0))["target"][0]
    words = [token.strip("Ġ") for token in processor.tokenizer.convert_ids_to_tokens(target)]
    assert sorted(words) == sorted(multihop_task("Nested_Comparison").words[:8])


def test_readings_need_words_of_one_token(base: tuple[Any, AMVLProcessor]) -> None:
    _, processor = base
    _, roomy = build_multihop_base(BaseShape(num_layers=1, hidden_size=32, vision_size=32, vocabulary=512))
    scenes = [["red right blue", "blue right green"]]
    with pytest.raises(ValueError, match="larger vocabulary"):
        collate_readings(processor, scenes, (28, 56), np.random.default_rng(0))
    batch = collate_readings(roomy, scenes, (28, 56), np.random.default_rng(0))
    assert set(roomy.tokenizer.convert_ids_to_tokens(batch["target"][0])) == {"Ġblue", "Ġgreen"}
    assert roomy.tokenizer.convert_ids_to_tokens(batch["ids"][0][batch["where"][0]]) == ["Ġright"] * 2


def test_training_is_repeatable_and_writes_its_curve(tmp_path: Path) -> None:
    recipe = MultihopRecipe(steps=12, eval_every=6, eval_size=16, scenes=2, warmup=2, reading_weight=1.0)
    curves = []
    for run in ("a", "b"):
        model, processor = build_multihop_base(BaseShape(hidden_size=32, vision_size=32))
        curves.append(train_multihop(model, processor, recipe, tmp_path / f"{run}.csv"))
    one, other = ([{k: v for k, v in row.items() if k != "seconds"} for row in curve] for curve in curves)
    assert one == other
    assert [row["step"] for row in one] == [6, 12]
    assert one[1]["loss"] < one[0]["loss"]
    with (tmp_path / "a.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["6", "12"]


def test_a_frozen_tower_stays_as_it_is(base: tuple[Any, AMVLProcessor]) -> None:
    model, processor = build_multihop_base(BaseShape(hidden_size=32, vision_size=32))
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_multihop(model, processor, MultihopRecipe(steps=2, eval_size=8, scenes=1, freeze_vision=True))
    same = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert same == {name for name in before if "visual" in name}


def test_a_saved_base_is_a_backbone_for_latents(base: tuple[Any, AMVLProcessor], tmp_path: Path) -> None:
    model, processor = base
    save_multihop_base(model, processor, tmp_path, MultihopRecipe())
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    latent = AMVLForConditionalGeneration.from_backbone(tmp_path, num_latents=2, latent_dim=16)
    read = AMVLProcessor.from_pretrained(tmp_path)
    questions = MultihopRecipe().questions("train", 3, 8)[:]
    output = latent(**read(questions))
    assert output.logits.shape[:2] == (8, 3)
    assert output.latents.shape == (8, 2, 16)
    recipe = MultihopRecipe(eval_size=16)
    assert hop_accuracy(again, read, recipe, 1) == pytest.approx(hop_accuracy(model, processor, recipe, 1))


@torch.no_grad()
def test_a_deepened_base_starts_as_the_same_function(base: tuple[Any, AMVLProcessor]) -> None:
    model, processor = base
    batch = collate_scenes(processor, MultihopRecipe().questions("train", 2, 8)[:], 8)
    deep = deepened(model, 3).eval()
    assert len(deep.model.language_model.layers) == 5
    logits = [target_logits(m, processor, batch, *scene_features(m, processor, batch["images"])) for m in (model, deep)]
    assert torch.allclose(*logits, atol=1e-4)


def test_the_rate_rises_and_falls() -> None:
    recipe = MultihopRecipe(steps=100, warmup=10)
    rates = [recipe.rate(step) for step in range(100)]
    assert max(rates) <= recipe.learning_rate
    assert np.argmax(rates) == 9
    assert rates[-1] < 0.06 * recipe.learning_rate


def test_the_command_line_trains_a_base_and_goes_on_from_it(tmp_path: Path) -> None:
    small = ["--steps", "2", "--eval-size", "8"]
    pre = ["--layers", "1", "--hidden", "32", "--hops", "1:1,2:1", "--reading-weight", "1"]
    train_script.main(["--out", str(tmp_path / "base"), *small, *pre])
    train_script.main(["--out", str(tmp_path / "sft"), "--base", str(tmp_path / "base"), "--freeze-vision", *small])
    recipe = json.loads((tmp_path / "sft" / "recipe.json").read_text())
    assert recipe["hops"] == {"1": 1, "2": 1, "3": 2, "4": 2}
    assert recipe["freeze_vision"] is True
    weights = [Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("base", "sft")]
    towers = [list(model.model.visual.parameters()) for model in weights]
    assert all(torch.equal(a, b) for a, b in zip(*towers, strict=True))
    assert (tmp_path / "sft" / "curve.csv").read_text().startswith("step,seconds,loss,hop_1")
    assert (tmp_path / "base" / "curve.csv").read_text().startswith("step,seconds,loss,reading,hop_1")
    with pytest.raises(SystemExit):
        train_script.main(["--out", str(tmp_path / "base"), "--hops", "1,2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "multihop", "--window", "112"], "--window shapes a fresh model; leave it out with --base"),
        (["--deepen", "3"], "--deepen needs --base"),
        (["--window", "30"], "window must be a multiple of 28, got 30"),
        (["--vision-size", "40"], "vision_size must be a multiple of 32, got 40"),
        (["--task", "Grid_Walk", "--reading-weight", "1"], "larger vocabulary"),
    ],
)
def test_the_command_line_refuses_what_it_would_not_do(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_script.main(["--out", str(tmp_path), "--steps", "2", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_weights_that_are_not_finite_are_neither_trained_nor_saved(tmp_path: Path) -> None:
    model, processor = build_multihop_base(BaseShape(hidden_size=32, vision_size=32))
    next(model.parameters()).data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="stopped at step 1, before the optimiser changed the weights"):
        train_multihop(model, processor, MultihopRecipe(steps=2, eval_size=8, scenes=1))
    with pytest.raises(NonFiniteError):
        save_multihop_base(model, processor, tmp_path / "base", MultihopRecipe())
    assert not (tmp_path / "base").exists()


def test_a_state_that_is_half_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, file = (
        torch.nn.Linear(2, 2),
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
        tmp_path / "state.pt",
    )
    tiny_base._save_state(model, optimizer, 1, file)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="free space there"):
        tiny_base._save_state(model, optimizer, 2, file)
    monkeypatch.undo()
    assert torch.load(file, weights_only=True)["step"] == 1


def test_a_damaged_state_and_one_of_other_settings_are_refused(tmp_path: Path) -> None:
    config, file = tiny_base.PretrainConfig(seed=3), tmp_path / "state.pt"
    model = torch.nn.Linear(2, 2)
    tiny_base._save_state(model, torch.optim.AdamW(model.parameters()), 1, file, asdict(config))
    assert tiny_base._load_state(file, config)["step"] == 1
    with pytest.raises(ValueError, match=r"state\.pt was started with other settings: seed is 3 there, got 4; resume"):
        tiny_base.pretrain(replace(config, seed=4), tmp_path, resume=True)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"state\.pt is damaged .*; remove it to begin again"):
        tiny_base._load_state(file, config)
