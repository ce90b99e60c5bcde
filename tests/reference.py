"""Three plain passes with transformers' own causal attention: what the shared-prefix passes must reproduce.

    prior      [ x | k prior queries ]
    posterior  [ x | y | k posterior queries ]      positions as in the two-pass layout: the queries stand right after x
    answer     [ x | k injected | y ]

Written for one unpadded example at a time, with nothing of amvl_model's masks, caches or attention functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amvl_model.distributions import DiagonalGaussian


def three_pass(model: Any, batch: dict[str, Tensor], noise: Tensor) -> dict[str, Any]:
    """Prior, posterior, answer logits and NLL of a batch of ONE example without padding, Z = mean + std * noise."""
    text = model.backbone.model.language_model
    attention = text.config._attn_implementation
    text.config._attn_implementation = "sdpa"
    try:
        return _three_pass(model, batch, noise)
    finally:
        text.config._attn_implementation = attention


def _three_pass(model: Any, batch: dict[str, Tensor], noise: Tensor) -> dict[str, Any]:
    inner, k = model.backbone.model, model.config.num_latents
    ids, answer = batch["input_ids"], batch["answer_ids"]
    assert len(ids) == 1 and batch["attention_mask"].all() and batch["answer_mask"].all()
    embed = model.get_input_embeddings()

    def query() -> Tensor:
        features = inner.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        mask = (ids == model.config.vlm_config.image_token_id).unsqueeze(-1)
        return embed(ids).masked_scatter(mask, torch.cat(list(features)).to(embed.weight.dtype))

    positions, _ = inner.get_rope_index(ids, batch["mm_token_type_ids"], image_grid_thw=batch["image_grid_thw"])
    start = positions.max() + 1
    m = answer.shape[1]

    def run(blocks: list[Tensor], offsets: Tensor) -> Tensor:
        new = (start + offsets).expand(3, 1, -1)
        return inner.language_model(
            inputs_embeds=torch.cat([query(), *blocks], dim=1),
            position_ids=torch.cat([positions, new], dim=-1),
            use_cache=False,
        ).last_hidden_state

    slots, later = torch.arange(k), k + torch.arange(m)
    prior: DiagonalGaussian = model.prior_head(run([model.prior_queries.weight[None]], slots)[:, -k:])
    posterior: DiagonalGaussian = model.posterior_head(
        run([embed(answer), model.posterior_queries.weight[None]], torch.cat([later, slots]))[:, -k:]
    )
    z = posterior.mean + posterior.std * noise
    hidden = run([model.inject(z), embed(answer)], torch.arange(k + m))
    logits = model.get_output_embeddings()(hidden[:, -m - 1 : -1])
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="sum")
    return {"prior": prior, "posterior": posterior, "logits": logits, "answer_nll": nll[None], "z": z}
