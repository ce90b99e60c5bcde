"""The last decoder layer of pass 1 computes hidden states only where somebody reads them.

Behind the last layer stand the heads, and they read the latents. Of x (and of y in pass 1) later passes need the last layer's
keys and values alone: its attention rows, output projection and MLP would be computed for nothing, a share of nearly 1/L of the
pass over L layers. Here these tokens get keys and values, and the layer itself runs on the tokens that are read, behind
them. The backbone's own modules do all of it, so results and gradients are the same.

Of the silent tokens the query and output projections are still computed, forward only: they belong to the attention module
that makes the keys.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from amvl_model.two_pass.layout import LayerCache, check_updates
from amvl_model.two_pass.transformers_compat import CACHE

KEYS_ONLY = "amvl_keys_only"
"""Keyword that tells the attention function (attention.py) that nobody reads the result."""


def install_last_layer(text_model: Any) -> None:
    """Let the last layer of a text model follow the cache's ``read``; without it the layer is as it was."""
    layer = text_model.layers[-1]
    if not hasattr(layer, "_amvl_full_forward"):
        # bound methods: a deep copy of the layer then runs its own weights, which a closure would not
        layer._amvl_full_forward = layer.forward
        layer.forward = MethodType(_forward, layer)


def _forward(
    layer: Any,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Hidden states (B, T, H) -> those of the tokens that are read (B, end - start, H); (B, T, H) without ``read``."""
    cache = kwargs.pop(CACHE, None)
    read = getattr(cache, "read", None)
    if read is None or position_embeddings is None or attention_mask is None:
        return layer._amvl_full_forward(
            hidden,
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            position_ids=position_ids,
            **{CACHE: cache},
            **kwargs,
        )
    start, end = read
    silent = _without(hidden, start, end, dim=-2)
    rotations = tuple(_without(each, start, end, dim=-2) for each in position_embeddings)
    seen = LayerCache(record=silent.shape[1])
    layer.self_attn(
        hidden_states=layer.input_layernorm(silent),
        attention_mask=None,
        position_ids=None if position_ids is None else _without(position_ids, start, end, dim=-1),
        position_embeddings=rotations,
        **{CACHE: seen, KEYS_ONLY: True},
    )
    check_updates([seen.updates])
    cache.update(seen.keys, seen.values, layer.self_attn.layer_idx)
    columns = [attention_mask[..., : end - start, :start], attention_mask[..., : end - start, end:]]
    return layer._amvl_full_forward(
        hidden[:, start:end],
        attention_mask=torch.cat([*columns, attention_mask[..., : end - start, start:end]], dim=-1),
        position_embeddings=tuple(each[..., start:end, :] for each in position_embeddings),
        position_ids=None if position_ids is None else position_ids[..., start:end],
        **{CACHE: LayerCache(keys=seen.keys, values=seen.values)},
        **kwargs,
    )


def _without(tensor: Tensor, start: int, end: int, *, dim: int) -> Tensor:
    """The tokens before ``start`` and from ``end`` on."""
    size = tensor.shape[dim]
    before = tensor.narrow(dim, 0, start)
    return before if end == size else torch.cat([before, tensor.narrow(dim, end, size - end)], dim=dim)
