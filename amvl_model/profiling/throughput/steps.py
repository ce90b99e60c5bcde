"""Models of any size with random weights, batches of any length, and the loss of one step by every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.inputs import embed
from amvl_model.objectives import amvl_objective
from amvl_model.profiling.footprint import MERGED, PATCH, Architecture
from amvl_model.profiling.throughput.grid import Cell
from amvl_model.profiling.throughput.three_pass import three_pass
from amvl_model.two_pass.attention import TEXT_ATTENTION
from amvl_model.two_pass.layout import PrefixCache, second_pass_mask, short_positions
from amvl_model.two_pass.passes import Pass, run_text_model

# ids of the special tokens in a vocabulary that has no words; ordinary tokens start behind them
IMAGE, VIDEO, VISION_START, END, FIRST_WORD = 1, 2, 3, 4, 8
BETA, GAMMA = 0.003, 0.001
LATENT_DIM = 512
IMAGE_SHARE = 0.75

Loss = Callable[[], Tensor]


def build_config(shape: Architecture) -> Any:
    """transformers' configuration of a Qwen2.5-VL with these shapes."""
    from transformers import Qwen2_5_VLConfig

    quarter = shape.hidden // shape.heads // 8
    side = (shape.hidden // shape.heads // 2 - quarter) // 2
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocab,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [quarter, side, side]},
            "bos_token_id": None,
            "eos_token_id": END,
            "pad_token_id": 0,
            "tie_word_embeddings": shape.tied,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": 16 if shape.vision_hidden == 1280 else shape.vision_hidden // 32,
            "out_hidden_size": shape.hidden,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(3, shape.vision_layers, 4)) or [0],
        },
        tie_word_embeddings=shape.tied,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_START + 2,
    )


def random_backbone(config: Any, *, device: str, dtype: str) -> Any:
    """A Qwen2.5-VL of this configuration with random weights (seed 0), made on the device itself in this precision."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)


def build_model(
    shape: Architecture, num_latents: int, *, latent_dim: int | None = None, device: str = "cpu", dtype: str = "float32"
) -> AMVLForConditionalGeneration:
    """An AMVL model with random weights made on the device itself, vision encoder frozen, in training mode.

    ``latent_dim`` is 512 by default, and no more than half the hidden size.
    """
    backbone = random_backbone(build_config(shape), device=device, dtype=dtype)
    size = min(LATENT_DIM, shape.hidden // 2) if latent_dim is None else latent_dim
    model = AMVLForConditionalGeneration.from_backbone(backbone, num_latents, size)
    model.freeze_vision()
    return model.train()


def build_batch(cell: Cell, *, seed: int = 0) -> dict[str, Tensor]:
    """A batch of N query tokens and M answer tokens without padding, on the cell's device."""
    generator = torch.Generator().manual_seed(seed)
    shape, rows = cell.shape, cell.batch

    def words(count: int) -> Tensor:
        return torch.randint(FIRST_WORD, shape.vocab, (rows, count), generator=generator)

    ids, answer = words(cell.length), words(cell.answer)
    batch = {"answer_ids": answer, "answer_mask": torch.ones_like(answer)}
    if cell.images:
        side = max(1, int((cell.length * IMAGE_SHARE) ** 0.5))  # tokens; a token is 2 x 2 patches
        ids[:, 0], ids[:, 1 : 1 + side * side] = VISION_START, IMAGE
        patches = (side * MERGED // PATCH) ** 2
        values = torch.randn(rows * patches, 3 * 2 * PATCH * PATCH, generator=generator)
        batch["pixel_values"] = values.to(getattr(torch, cell.dtype))
        batch["image_grid_thw"] = torch.tensor([[1, 2 * side, 2 * side]] * rows)
    types = (ids == IMAGE).int()
    batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    return {name: value.to(cell.device) for name, value in batch.items()}


def losses(model: Any, batch: dict[str, Tensor], noise_seed: int | None = None) -> dict[str, Loss]:
    """The loss of one step by every method, on the same model and batch.

    ``noise_seed`` gives both AMVL methods the same latent samples, so that their gradients can be compared.
    """

    def objective(prior: Any, posterior: Any, nll: Tensor) -> Tensor:
        return amvl_objective(prior, posterior, nll, BETA, GAMMA).total.mean()

    def two_pass() -> Tensor:
        out = model(**batch, generator=_seeded(noise_seed))
        return objective(out.prior, out.posterior, out.answer_nll)

    def three() -> Tensor:
        size = (len(batch["input_ids"]), model.config.num_latents, model.config.latent_dim)
        like = model.injector.weight
        noise = torch.randn(size, generator=_seeded(noise_seed), dtype=like.dtype).to(like.device)
        out = three_pass(model, batch, noise, attention=TEXT_ATTENTION, use_end=False)
        return objective(out["prior"], out["posterior"], out["answer_nll"])

    return {
        "sft": lambda: sft_loss(model, batch),
        "two-pass": two_pass,
        "three-pass": three,
        "sequential": lambda: sequential_loss(model, batch),
    }


def _seeded(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _nll(model: Any, hidden: Tensor, answer: Tensor) -> Tensor:
    """Mean over examples of -log p(y|...) from the hidden states that predict y, (B, M, hidden), nats."""
    logits = model.get_output_embeddings()(hidden).float()
    return F.cross_entropy(logits.transpose(1, 2), answer, reduction="none").sum(1).mean()


def _run(model: Any, embeddings: Tensor, positions: Tensor, mask: Tensor | None, cache: Pass | None) -> Tensor:
    return run_text_model(model.backbone.model.language_model, embeddings, positions, mask, cache)


def sft_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Plain supervised fine-tuning of [x | y] with the same kernels; the vocabulary is projected at y alone."""
    answer = batch["answer_ids"]
    x, y, positions = embed(model.backbone, batch, batch["attention_mask"], answer)
    y = y[:, :-1]
    later = short_positions(positions.amax(dim=(0, 2)) + 1, torch.arange(y.shape[1]))
    hidden = _run(model, torch.cat([x, y], dim=1), torch.cat([positions, later], dim=-1), None, None)
    return _nll(model, hidden[:, x.shape[1] - 1 :], answer)


def sequential_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Latents one after another with a cache, each the last hidden state of the segment before it, then y."""
    answer, k = batch["answer_ids"], model.config.num_latents
    query_mask = batch["attention_mask"]
    x, _, positions = embed(model.backbone, batch, query_mask)
    start, n = positions.amax(dim=(0, 2)) + 1, x.shape[1]
    cache = PrefixCache()
    hidden = _run(model, x, positions, None, Pass(cache, record=n))
    for j in range(k - 1):
        seen = F.pad(query_mask, (0, j), value=1)
        place = short_positions(start, torch.tensor([j]))
        hidden = _run(model, hidden[:, -1:], place, second_pass_mask(seen, 1), Pass(cache, append=True))
    last = torch.cat([hidden[:, -1:], model.get_input_embeddings()(answer[:, :-1])], dim=1)
    seen = F.pad(query_mask, (0, k - 1), value=1)
    place = short_positions(start, k - 1 + torch.arange(last.shape[1]))
    return _nll(
        model, _run(model, last, place, second_pass_mask(seen, last.shape[1]), Pass(cache, append=True)), answer
    )
