"""The embedded base: its size, its tokenizer, and that it is transformers' own Qwen2.5-VL throughout."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from amvl_model.data.synthetic import synthetic_blink
from amvl_model.models.tiny import (
    CHAT_TEMPLATE,
    IMAGE_PIXELS,
    SPECIAL_TOKENS,
    tiny_config,
    tiny_image_processor,
    tiny_tokenizer,
)
from tests.helpers import CORPUS, processor, random_image


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer(CORPUS * 4, 384)


def test_the_base_has_one_to_four_and_a_half_million_parameters(tokenizer: Any) -> None:
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer))
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 4.5e6
    assert type(model).__module__.startswith("transformers.")


def test_its_configuration_survives_json_and_points_at_its_tokenizer(tokenizer: Any) -> None:
    config = tiny_config(tokenizer)
    again = Qwen2_5_VLConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert tokenizer.convert_ids_to_tokens(config.image_token_id) == "<|image_pad|>"
    assert tokenizer.convert_ids_to_tokens(config.text_config.eos_token_id) == "<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(config.text_config.pad_token_id) == "<|endoftext|>"
    assert config.text_config.vocab_size >= len(tokenizer) and config.text_config.vocab_size % 64 == 0


def test_the_rotary_sections_fill_the_head() -> None:
    text = tiny_config(processor().tokenizer).text_config
    head_dim = text.hidden_size // text.num_attention_heads
    assert sum(text.rope_parameters["mrope_section"]) == head_dim // 2
    assert text.num_attention_heads % text.num_key_value_heads == 0


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_every_special_token_is_one_token(tokenizer: Any, token: str) -> None:
    ids = tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids(token)) == 1
    assert tokenizer.decode(ids) == f"a{token}b"


@pytest.mark.parametrize(
    "text", ["(A) 1\n(B) 2", "  two  spaces\tand a tab\r\n\n", "it's “quoted” — ünïcödé 漢字 🙂", "12345 x^2 != 3", ""]
)
def test_any_text_comes_back_unchanged(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert len(tokenizer("2024", add_special_tokens=False)["input_ids"]) == 4


def test_the_same_corpus_gives_the_same_tokenizer(tokenizer: Any) -> None:
    again = tiny_tokenizer(CORPUS * 4, 384)
    assert again.get_vocab() == tokenizer.get_vocab() and again.chat_template == CHAT_TEMPLATE


def test_an_image_of_112_pixels_is_16_tokens() -> None:
    grid = tiny_image_processor()(images=[random_image(112, 112, seed=0)], return_tensors="pt")["image_grid_thw"]
    assert grid.tolist() == [[1, 8, 8]] and 8 * 8 // 4 == 16
    assert IMAGE_PIXELS["longest_edge"] == 112 * 112
    assert synthetic_blink("Counting", split="val", seed=0, index=0)["image_1"].size == (112, 112)


def test_images_need_no_torchvision() -> None:
    assert type(tiny_image_processor()).__name__ == "Qwen2VLImageProcessorPil"
    assert "torchvision" not in sys.modules
