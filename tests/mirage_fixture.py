"""A tiny checkpoint of Mirage's own code, and what that code computes from it.

    python tests/mirage_fixture.py prepare OUT          here: OUT/tokens.pt, tokenizer and image settings in OUT/checkpoint
    python tests/mirage_fixture.py train OUT            with Mirage's transformers on the path: OUT/checkpoint, OUT/reference.json

The second call imports the copy of transformers that UMass-Embodied-AGI/Mirage keeps in its folder ``transformers/src`` (give it
by PYTHONPATH): training is its stage 2, in which the model's last hidden states take the latent tokens' places. None of its
code is here. The result is committed as tests/model/diagnostics/peers/mirage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

LATENTS, STEPS = 2, 40
MARKS = ("<|latent_pad|>", "<|latent_start|>", "<|latent_end|>")
"""In the order in which Mirage adds them."""


def questions() -> list[Any]:
    """Six questions with one image each, of two sizes and lengths."""
    from dataclasses import replace

    from amvl_model.data.schema import option_letter
    from tests import helpers

    asked = []
    for i in range(6):
        image = helpers.random_image(56 + 28 * (i % 2), 56, seed=i)
        prompt = "Which?" if i % 3 else "How many circles are there?"
        plain = replace(helpers.question(1, i), images=(image,), prompt=f"{prompt}\n(A) 1\n(B) 2\n(C) 3")
        asked.append(replace(plain, choices=("1", "2", "3"), answer=i % 3, answer_text=option_letter(i % 3)))
    return asked


def prepare(out: Path) -> None:
    """Tokenizer and image settings, and the tensors that Mirage's code is given."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from amvl_model.data.processing import AMVLProcessor
    from amvl_model.data.schema import LETTERS
    from amvl_model.diagnostics.peers.mirage import REPLY
    from amvl_model.models.tiny import tiny_config, tiny_image_processor, tiny_tokenizer
    from tests import helpers

    tokenizer = tiny_tokenizer(helpers.CORPUS * 4, 320)
    config = tiny_config(tokenizer, hidden_size=32, num_layers=2, vision_size=32)
    for mark in MARKS:
        tokenizer.add_tokens(mark, special_tokens=True)
    processor = AMVLProcessor(tokenizer, tiny_image_processor())
    processor.save_pretrained(out / "checkpoint")
    pad, start, end = tokenizer.convert_tokens_to_ids(list(MARKS))
    given = []
    for question in questions():
        encoded = processor.encode(question, answers=False)
        block = torch.tensor([start, *[pad] * LATENTS, end])
        replies = [processor.encode_answer(REPLY.format(letter=LETTERS[i])) for i in range(len(question.choices))]
        item = {"query": torch.cat([encoded["input_ids"], block]), "replies": replies, "answer": question.answer}
        given.append(item | {name: encoded[name] for name in ("pixel_values", "image_grid_thw")})
    text = config.get_text_config()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    flat = {name: getattr(text, name) for name in (*names, "max_position_embeddings", "rms_norm_eps")}
    flat |= {name: getattr(config, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}
    vision = config.vision_config
    parts = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "window_size")
    flat["vision_config"] = {name: getattr(vision, name) for name in (*parts, "spatial_merge_size")}
    flat["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
    flat |= {"vocab_size": -(-len(tokenizer) // 64) * 64, "rope_theta": 10000.0, "tie_word_embeddings": False}
    flat |= {"rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}, "latent_size": LATENTS, "stage": "stage2"}
    flat |= {"compress_strategy": "average", "latent_token_id": pad, "latent_start_id": start, "latent_end_id": end}
    torch.save({"config": flat, "questions": given}, out / "tokens.pt")


def train(out: Path) -> None:
    """Some steps of stage 2, the folder that save_pretrained writes, and the figures of Mirage's own forward pass."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from tests.peer_fixture import some_steps, write_reference

    stored = torch.load(out / "tokens.pt", weights_only=True)
    torch.manual_seed(0)
    # a wide initialisation, so that a few steps of a tiny model already use what stands in the context
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**stored["config"], initializer_range=0.15))

    def forward(question: dict[str, Any], option: int) -> tuple[Any, Any]:
        ids = torch.cat([question["query"], question["replies"][option]])[None]
        labels = ids.clone()
        labels[:, : len(question["query"])] = -100
        images = {name: question[name] for name in ("pixel_values", "image_grid_thw")}
        return ids, model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **images)

    losses = some_steps(stored["questions"], forward, model.parameters(), steps=STEPS, rate=1e-3)
    model.save_pretrained(out / "checkpoint")
    write_reference(out, stored["questions"], forward, losses, options="replies", latents=LATENTS)


if __name__ == "__main__":
    prepare(Path(sys.argv[2])) if sys.argv[1] == "prepare" else train(Path(sys.argv[2]))
