"""Qwen2-VL through the same classes as Qwen2.5-VL, and a plain refusal of what would be silently wrong."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from amvl_model.evaluation.evaluate import evaluate
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.configuration import AMVLConfig
from amvl_model.models.tiny import tiny_config
from tests import helpers
from tests.model.two_pass.test_layout import TOLERANCE, assert_same_gradients, three_pass_step, two_pass_step


@lru_cache(maxsize=1)
def cached() -> AMVLForConditionalGeneration:
    """A random tiny Qwen2-VL with latents, its weights as large as those of `helpers.tiny_model`."""
    tiny = tiny_config(helpers.processor().tokenizer, hidden_size=64, num_layers=2)
    config = Qwen2VLConfig(
        text_config={**tiny.text_config.to_dict(), "model_type": "qwen2_vl_text"},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        tie_word_embeddings=True,
        image_token_id=tiny.image_token_id,
        video_token_id=tiny.video_token_id,
        vision_start_token_id=tiny.vision_start_token_id,
        vision_end_token_id=tiny.vision_end_token_id,
    )
    torch.manual_seed(0)
    model = AMVLForConditionalGeneration.from_backbone(Qwen2VLForConditionalGeneration(config), 3, 8)
    return helpers.with_large_weights(model, 0)


def model() -> Any:
    return copy.deepcopy(cached())


def test_two_passes_of_qwen2_vl_equal_three() -> None:
    encoded = helpers.examples()
    loss, gradients = two_pass_step(model(), helpers.collate(encoded))
    expected, reference = three_pass_step(model(), encoded)
    assert loss == pytest.approx(expected, rel=TOLERANCE[torch.float32])
    assert_same_gradients(gradients, reference, 10 * TOLERANCE[torch.float32])


def test_checkpointing_of_qwen2_vl_changes_no_gradient() -> None:
    batch = helpers.collate(helpers.examples())
    plain, again = model().train(), model().train()
    again.gradient_checkpointing_enable()
    loss, gradients = two_pass_step(plain, batch)
    other, recomputed = two_pass_step(again, batch)
    assert other == pytest.approx(loss, rel=TOLERANCE[torch.float32])
    assert_same_gradients(recomputed, gradients, TOLERANCE[torch.float32])


def test_qwen2_vl_answers_is_saved_and_answers_the_same(tmp_path: Path) -> None:
    query = helpers.without_answers(helpers.collate(helpers.examples()))
    before = model()
    replies = before.generate(**query, max_new_tokens=5, latent_temperature=0.0, do_sample=False)
    before.save_pretrained(tmp_path)
    after = AMVLForConditionalGeneration.from_pretrained(tmp_path)
    assert after.config.vlm_config.model_type == "qwen2_vl"
    for (name, a), (_, b) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    again = after.eval().generate(**query, max_new_tokens=5, latent_temperature=0.0, do_sample=False)
    assert torch.equal(replies, again)


def test_qwen2_vl_is_evaluated_with_and_without_latents() -> None:
    questions = [replace(helpers.question(1, seed), choices=("1", "2"), answer=seed % 2) for seed in range(3)]
    for candidate in (model(), model().backbone):
        result = evaluate(candidate, helpers.processor(), questions, n_bootstrap=10, max_new_tokens=2, progress=False)
        assert len(result.records) == 3
        assert all(record.answer_nll is not None and record.answer_nll > 0 for record in result.records)


@pytest.mark.parametrize(("kind", "reason"), [("qwen3_vl", "DeepStack"), ("llava", "one of qwen2_5_vl, qwen2_vl")])
def test_other_backbones_are_refused_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AMVLConfig(vlm_config=AutoConfig.for_model(kind))
