"""Builders shared by the tests: a tiny untrained model, questions with images of many sizes, padded batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.tiny import tiny_config, tiny_image_processor, tiny_tokenizer
from amvl_model.objectives import Term

NOISE = 0.3

SCRATCH = {
    "model.base": "scratch",
    "model.freeze_vision": False,
    "model.scratch_hidden_size": 96,
    "model.scratch_layers": 2,
    "model.scratch_vision_size": 32,
    "model.num_latents": 2,
    "model.latent_dim": 3,
}
"""Settings of the smallest untrained model that a run can be made with."""
FREE_BITS = Term(
    "free_bits",
    "max(KL(sg[p] || q), 1)",
    "posterior",
    lambda out: out.kl(out.prior.detach(), out.posterior).clamp(min=1.0),
    weight="gamma",
)
"""A term of a user's own: the reverse KL, trained only above one nat."""

CORPUS = (
    "user\nHow many circles are there in the picture?\nSelect from the following choices.\n(A) 1\n(B) 2\n(C) 3\n(D) 4",
    "user\nWhich picture shows the same thing as the first one?\n(A) the second image\n(B) the third image",
    "assistant\n(A)",
    "assistant\n(B)",
)
# (width, height): square, wide, tall, and of sizes that are no multiple of a token's 28 pixels
SIZES = ((112, 112), (112, 56), (56, 112), (84, 56), (100, 70), (61, 90))
PROMPTS = (
    "How many circles are there in the picture?",
    "Which?",
    "Which picture shows the same thing as the first one?\nSelect from the following choices.\n(A) the second\n(B) the third",
    "Is it there, or is there no such thing in the picture?",
)


@lru_cache(maxsize=1)
def processor() -> AMVLProcessor:
    """The tiny model's processor, its tokenizer trained on four texts."""
    return AMVLProcessor(tiny_tokenizer(CORPUS * 4, 384), tiny_image_processor())


@lru_cache(maxsize=4)
def _cached_model(num_latents: int, latent_dim: int, seed: int) -> AMVLForConditionalGeneration:
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    config = tiny_config(processor().tokenizer, hidden_size=64, num_layers=2, vision_size=32)
    config.vision_config.depth = 2
    config.vision_config.fullatt_block_indexes = [1]  # block 0 looks at windows, block 1 at whole images
    model = AMVLForConditionalGeneration.from_backbone(
        Qwen2_5_VLForConditionalGeneration(config), num_latents, latent_dim, seed=seed
    )
    return with_large_weights(model, seed)


def with_large_weights(model: Any, seed: int) -> Any:
    """The model in evaluation mode, with weights at which every path matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # an untrained transformer hardly looks at its context; larger weights make every path matter
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            elif "embed_tokens" in name or "queries" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(_scale(name) * noise / parameter[0].numel() ** 0.5)
    return model.eval()


def _scale(name: str) -> float:
    if "_head" in name:
        return 0.3  # KLs of the size of the answer's likelihood
    if "language_model" in name and ("o_proj" in name or "down_proj" in name):
        return 3.0  # with tied embeddings, weaker layers let the model repeat its last token for ever
    return 1.2


def tiny_model(num_latents: int = 3, latent_dim: int = 8, *, seed: int = 0) -> Any:
    """A fresh copy of a random AMVL model (hidden 64, 2 layers, vision 32) in float32, in eval mode."""
    return copy.deepcopy(_cached_model(num_latents, latent_dim, seed))


def random_image(width: int, height: int, seed: int) -> Image.Image:
    """An image of random coloured blocks."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.NEAREST)


def question(image_count: int, seed: int = 0, *, answer: str = "(A)", prompt: str | None = None) -> VisualQuestion:
    """A question about ``image_count`` images of different sizes."""
    images = tuple(random_image(*SIZES[(seed + i) % len(SIZES)], seed=10 * seed + i) for i in range(image_count))
    return VisualQuestion(
        id=f"q{seed}",
        images=images,
        prompt=PROMPTS[seed % len(PROMPTS)] if prompt is None else prompt,
        answer_text=answer,
    )


@lru_cache(maxsize=1)
def noisy_questions() -> list[VisualQuestion]:
    """Eight held-out questions of two tasks with known answer probabilities."""
    return SyntheticBlink(tasks=("Counting", "Relative_Depth"), split="test", seed=0, size=4, label_noise=NOISE)[:]


def answer_tokens(length: int, seed: int = 0) -> Tensor:
    """``length`` random text tokens ending in the end-of-turn token."""
    end = processor().end_of_turn_id
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randint(8, 300, (length - 1,), generator=generator), torch.tensor([end])])


def examples(
    image_counts: Sequence[int] = (1, 3, 2, 4), lengths: Sequence[int] = (1, 23, 4, 2), *, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Unpadded encodings of questions with these numbers of images and answers of these lengths in tokens."""
    encoded = []
    for i, (count, length) in enumerate(zip(image_counts, lengths, strict=True)):
        example = processor().encode(question(count, seed + i), answers=False)
        encoded.append({**example, "answer_ids": answer_tokens(length, seed + i)})
    return encoded


def collate(encoded: Sequence[dict[str, Tensor]], *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A padded batch of `examples`, images in ``dtype``."""
    batch = processor().collate(encoded)
    return {**batch, "pixel_values": batch["pixel_values"].to(dtype)}


def without_answers(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `generate` takes."""
    return {name: value for name, value in batch.items() if not name.startswith("answer_")}


def gradients(model: Any) -> dict[str, Tensor]:
    """Copies of all gradients, zeros where there is none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
