"""Three plain passes with a plain causal mask: what the shared-prefix passes must reproduce, and what they are timed against.

    prior      [ x | k prior queries ]
    posterior  [ x | y | k posterior queries ]      positions as in the two-pass layout: the queries stand right after x
    answer     [ x | k injected | y ]

For examples of one length without padding, with nothing of amvl_model's masks or caches; x and its images are encoded
three times.

Shapes: B examples, N query tokens, M answer tokens, k latents, d latent dimension, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amvl_model.models.distributions import DiagonalGaussian


def three_pass(
    model: Any, batch: dict[str, Tensor], noise: Tensor, *, attention: str = "sdpa", use_end: bool = True
) -> dict[str, Any]:
    """Prior, posterior, answer logits and NLL of a batch without padding, Z = mean + std * noise.

    Args:
        model: an `AMVLForConditionalGeneration`.
        batch: as `forward` takes it, every mask full.
        noise: (B, k, d).
        attention: transformers' name of the attention function; "sdpa" is transformers' own.
        use_end: run the last answer token through the answer pass although nothing reads it, as plain code does.

    Returns:
        ``prior``, ``posterior``, ``logits`` (B, M, V), ``answer_nll`` (B,) in nats, ``z`` (B, k, d).

    Raises:
        ValueError: if a row is padded.
    """
    if not (batch["attention_mask"].all() and batch["answer_mask"].all()):
        raise ValueError("three_pass takes examples without padding, got padded ones; give it one example at a time")
    text = model.backbone.model.language_model
    installed = text.config._attn_implementation
    text.config._attn_implementation = attention
    try:
        return _three_pass(model, batch, noise, use_end)
    finally:
        text.config._attn_implementation = installed


def _three_pass(model: Any, batch: dict[str, Tensor], noise: Tensor, use_end: bool) -> dict[str, Any]:
    inner, k = model.backbone.model, model.config.num_latents
    ids, answer = batch["input_ids"], batch["answer_ids"]
    embed, m = model.get_input_embeddings(), answer.shape[1]

    def query() -> Tensor:
        if batch.get("pixel_values") is None:
            return embed(ids)
        trained = any(p.requires_grad for p in inner.visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features = inner.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        mask = (ids == model.config.vlm_config.image_token_id).unsqueeze(-1)
        return embed(ids).masked_scatter(mask, torch.cat(list(features)).to(embed.weight.dtype))

    positions, _ = inner.get_rope_index(
        ids, batch["mm_token_type_ids"], image_grid_thw=batch.get("image_grid_thw"), attention_mask=None
    )
    start = positions.amax(dim=(0, 2)) + 1

    def run(blocks: list[Tensor], offsets: Tensor) -> Tensor:
        new = (start[:, None] + offsets.to(start.device)).expand(3, -1, -1)
        return inner.language_model(
            inputs_embeds=torch.cat([query(), *blocks], dim=1),
            position_ids=torch.cat([positions, new], dim=-1),
            attention_mask={"full_attention": None, "sliding_attention": None},
            use_cache=False,
        ).last_hidden_state

    def queries(table: Any) -> Tensor:
        return table.weight.expand(len(ids), -1, -1).to(embed.weight.dtype)

    slots, later = torch.arange(k), k + torch.arange(m)
    prior: DiagonalGaussian = model.prior_head(run([queries(model.prior_queries)], slots)[:, -k:])
    posterior: DiagonalGaussian = model.posterior_head(
        run([embed(answer), queries(model.posterior_queries)], torch.cat([later, slots]))[:, -k:]
    )
    z = posterior.mean + posterior.std * noise
    shown = m if use_end else m - 1
    hidden = run([model.inject(z), embed(answer[:, :shown])], torch.arange(k + shown))
    logits = model.get_output_embeddings()(hidden[:, ids.shape[1] + k - 1 :][:, :m])
    nll = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), answer, reduction="none").sum(1)
    return {"prior": prior, "posterior": posterior, "logits": logits, "answer_nll": nll, "z": z}
