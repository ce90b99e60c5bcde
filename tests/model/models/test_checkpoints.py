"""Writing and reading checkpoints: bit for bit, through the Auto classes, from a backbone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.configuration import AMVLConfig
from tests.helpers import collate, examples, processor, question, tiny_model

HEADS = ("prior_head.", "posterior_head.", "injector.")


def assert_same_weights(first: Any, second: Any) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def outputs(model: Any) -> dict[str, Tensor]:
    """Everything the model says about one batch, with fixed noise."""
    batch = collate(examples((1, 2), (3, 5)), dtype=model.get_input_embeddings().weight.dtype)
    with torch.no_grad():
        out = model(**batch, generator=torch.Generator().manual_seed(0))
    return {name: out[name] for name in ("logits", "answer_nll", "prior_mean", "prior_log_std", "posterior_mean")}


def assert_same_outputs(first: Any, second: Any) -> None:
    a, b = outputs(first), outputs(second)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# ---------------------------------------------------------------------- round trips


def test_a_checkpoint_reads_back_bit_for_bit(saved: Path) -> None:
    assert (saved / "model.safetensors").is_file()
    model = AMVLForConditionalGeneration.from_pretrained(saved)
    assert_same_weights(model, tiny_model())
    assert_same_outputs(model, tiny_model())
    assert not model.training


def test_a_second_round_trip_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    AMVLForConditionalGeneration.from_pretrained(saved).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_checkpoint_in_shards_reads_back_bit_for_bit(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_weights(AMVLForConditionalGeneration.from_pretrained(tmp_path), tiny_model())


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText], ids=lambda c: c.__name__)
def test_the_auto_classes_load_it(saved: Path, auto: Any) -> None:
    assert isinstance(AutoConfig.from_pretrained(saved), AMVLConfig)
    model = auto.from_pretrained(saved)
    assert type(model) is AMVLForConditionalGeneration
    assert_same_weights(model, tiny_model())


def test_a_bfloat16_model_keeps_its_heads_in_float32(saved: Path, tmp_path: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith(HEADS) else torch.bfloat16), name
    full = tiny_model().state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, full[name].to(value.dtype)), name
    model.save_pretrained(tmp_path)
    again = AMVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert_same_weights(again, model)
    assert_same_outputs(again, model)
    assert outputs(again)["prior_mean"].dtype == torch.float32


def test_a_bfloat16_checkpoint_loads_in_the_precision_it_was_written_in(saved: Path, tmp_path: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert_same_weights(AMVLForConditionalGeneration.from_pretrained(tmp_path), model)


def test_generation_goes_on_as_before_after_a_reload(saved: Path) -> None:
    batch = processor()([question(1, 0), question(3, 1)], answers=False)
    options = {"max_new_tokens": 8, "seed": 3}
    reloaded = AMVLForConditionalGeneration.from_pretrained(saved)
    assert torch.equal(reloaded.generate(**batch, **options), tiny_model().generate(**batch, **options))


def test_the_asked_number_of_latents_may_be_repeated(saved: Path) -> None:
    model = AMVLForConditionalGeneration.from_pretrained(saved, num_latents=3, latent_dim=8)
    assert (model.config.num_latents, model.config.latent_dim) == (3, 8)


def test_the_processor_comes_back_with_its_image_settings(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    again = type(processor()).from_pretrained(tmp_path)
    asked = question(2, 3)
    first, second = processor().encode(asked), again.encode(asked)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    smaller = type(processor()).from_pretrained(tmp_path, max_pixels=56 * 56)
    assert smaller.encode(asked)["image_grid_thw"].prod(1).max() <= 16 < first["image_grid_thw"].prod(1).max()


# ---------------------------------------------------------------------- from a backbone


def test_from_backbone_keeps_the_backbones_weights_bit_for_bit(backbone_folder: Path) -> None:
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, num_latents=2, latent_dim=4)
    assert_same_weights(model.backbone, tiny_model().backbone)
    assert model.config.backbone_path == str(backbone_folder)
    assert model.prior_queries.weight.shape == (2, 64) and model.injector.weight.shape == (64, 4)
    embeddings: Any = model.get_input_embeddings()
    assert model.get_output_embeddings().weight is embeddings.weight  # still tied


def test_from_backbone_in_bfloat16_keeps_fresh_heads_in_float32(backbone_folder: Path) -> None:
    model = AMVLForConditionalGeneration.from_backbone(backbone_folder, 2, 4, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith(HEADS) else torch.bfloat16), name
    assert outputs(model)["logits"].dtype == torch.bfloat16


def test_a_loaded_backbone_is_used_and_not_copied() -> None:
    backbone = tiny_model().backbone
    assert AMVLForConditionalGeneration.from_backbone(backbone, 2, 4).backbone is backbone


def test_a_model_made_from_a_backbone_reads_back_without_it(backbone_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(backbone_folder, base)
    model = AMVLForConditionalGeneration.from_backbone(base, 2, 4).eval()
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(base)
    assert_same_outputs(AMVLForConditionalGeneration.from_pretrained(tmp_path / "model"), model)


# ---------------------------------------------------------------------- what is written


def test_the_loading_report_of_transformers_can_be_had(saved: Path) -> None:
    model, report = AMVLForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert type(model) is AMVLForConditionalGeneration and not report["missing_keys"] and not report["unexpected_keys"]


def test_weights_are_written_under_the_modules_own_names(saved: Path) -> None:
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    state = tiny_model().state_dict()
    assert names == {name for name in state if name != "backbone.lm_head.weight"}  # tied to the embeddings


@pytest.mark.parametrize("lora", [False, True])
def test_checkpoints_remember_a_shared_posterior_std_and_those_of_before_are_per_answer(
    lora: bool, backbone_folder: Path, tmp_path: Path
) -> None:
    model = AMVLForConditionalGeneration.from_backbone(str(backbone_folder), 3, 8, posterior_std="shared")
    if lora:
        model.add_lora(rank=4, alpha=16, dropout=0.0)
    model.save_pretrained(tmp_path)
    assert AMVLForConditionalGeneration.from_pretrained(tmp_path).config.posterior_std == "shared"
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["posterior_std"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert AMVLForConditionalGeneration.from_pretrained(tmp_path).config.posterior_std == "per-answer"


def test_an_unknown_posterior_std_is_refused(backbone_folder: Path) -> None:
    with pytest.raises(ValueError, match="posterior_std must be one of per-answer, shared, got 'tied'"):
        AMVLForConditionalGeneration.from_backbone(str(backbone_folder), 3, 8, posterior_std="tied")
