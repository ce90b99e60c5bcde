"""Attention functions registered with transformers: one for the text model, one for the vision tower.

The text model's function understands the shared-prefix layout (see layout.py). With S "short" queries (latents and
answer tokens) behind a prefix of N query tokens, the mask has shape (batch, 1, S, N + S): it is never N x N. The N prefix
rows, if they are among the queries at all, are causal and need no mask; padding stands to their right, where a causal
kernel cannot see it. With no mask, or with a mask of full height, the function is transformers' own SDPA attention, so the
backbone still works by itself.

The vision function takes the packed form that transformers hands to flash attention (all images in one row, cumulative
lengths beside it) and runs one batched kernel for each distinct length, instead of one kernel call per image.

On a CPU in 16-bit precision the fused SDPA kernel is about five times slower than two matrix products and a softmax
(measured with torch 2.13 on a CPU with bf16 matrix units), so `attend` takes the latter there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from amvl_model.two_pass.transformers_compat import incompatible

KEYS_ONLY = "amvl_keys_only"
"""Option of the attention function: nobody reads the result, the keys alone are wanted (see passes.py)."""

# Shapes: B batch, H heads, Q queries, K keys, D head dimension, N prefix tokens, S short tokens.
TEXT_ATTENTION = "amvl_shared_prefix"
# transformers chooses the packed calling convention by looking for "flash" in the name
VISION_ATTENTION = "amvl_packed_flash"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, (B, H, Q, D) x (B, H or fewer, K, D) -> (B, H, Q, D); ``mask``: boolean, True = visible, or additive."""
    low_precision = query.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(query.device.type)
    fused = query.device.type != "cpu" or not low_precision or dropout > 0
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and mask.shape[1] == 1:
        # the heads of a group as further rows: the keys, mostly those of the long prefix, are not copied
        rows = query.shape[2]
        folded = query.unflatten(1, (key.shape[1], groups)).flatten(2, 3)
        mask = mask.repeat(1, 1, groups, 1)
        out = attend(folded, key, value, mask=mask, is_causal=False, scale=scale, dropout=dropout)
        return out.unflatten(2, (groups, rows)).flatten(1, 2)
    if groups > 1 and mask is None and query.device.type == "cuda" and low_precision:
        # flash attention reads shared keys in place
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=is_causal, scale=scale, enable_gqa=True
        )
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    if fused:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale
        )
    scores = (query * scale) @ key.transpose(-1, -2)
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if boolean else scores + mask
    return scores.softmax(dim=-1) @ value


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of the text model: causal on the prefix rows, ``attention_mask`` (B, 1, S, K) on the last S rows.

    With the option `KEYS_ONLY` nothing is attended: the queries come back, of the right shape, to be dropped.

    Raises:
        RuntimeError: if there are not as many keys as the mask has columns, because the layer ignored its cache.
    """
    if options.get(KEYS_ONLY):
        return query.transpose(1, 2), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = query.shape[-2]
    if attention_mask is None:
        causal = rows > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        out = attend(query, key, value, mask=None, is_causal=causal, scale=scale, dropout=dropout)
        return out.transpose(1, 2), None
    if key.shape[-2] != attention_mask.shape[-1]:
        raise incompatible(
            f"expected keys of {attention_mask.shape[-1]} tokens (prefix and short blocks), got {key.shape[-2]}: the "
            "decoder layer ignored its cache"
        )
    prefix = rows - attention_mask.shape[-2]
    short = attend(query[:, :, prefix:], key, value, mask=attention_mask, is_causal=False, scale=scale, dropout=dropout)
    if prefix == 0:
        return short.transpose(1, 2), None
    head = (query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix])
    long = attend(*head, mask=None, is_causal=True, scale=scale, dropout=dropout)
    return torch.cat([long, short], dim=2).transpose(1, 2), None


def packed_vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the vision tower: (1, H, total, D) with segments given by ``cu_seq_lens_q``, each attending itself.

    Raises:
        RuntimeError: without ``cu_seq_lens_q``, where all images would attend to each other.
    """
    if cu_seq_lens_q is None:
        raise incompatible("expected the lengths of the packed images in cu_seq_lens_q, got none")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    if len(set(lengths)) == 1:
        return _segments(query, key, value, lengths[0], scale, dropout), None
    starts = cu_seq_lens_q[:-1].tolist()
    out = torch.empty_like(query.transpose(1, 2))
    for length in sorted(set(lengths)):
        where = [torch.arange(s, s + length) for s, n in zip(starts, lengths, strict=True) if n == length]
        index = torch.cat(where).to(query.device)
        part = _segments(query[:, :, index], key[:, :, index], value[:, :, index], length, scale, dropout)
        out = out.index_copy(1, index, part)
    return out, None


def _segments(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float, dropout: float) -> Tensor:
    """(1, H, n * length, D) -> (1, n * length, H, D), each segment of ``length`` attending only itself."""
    _, heads, total, dim = query.shape
    q, k, v = (t[0].view(heads, total // length, length, dim).transpose(0, 1) for t in (query, key, value))
    out = attend(q, k, v, mask=None, is_causal=False, scale=scale, dropout=dropout)
    return out.transpose(1, 2).reshape(1, total, heads, dim)


class _LinearPatchEmbedding(nn.Conv3d):
    """A Conv3d whose kernel covers its whole input, computed as the matrix product that it is.

    Same parameters, same state dict, same result; on a CPU the convolution's backward pass alone took a third of a step.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:] != self.weight.shape[2:]:
            return super().forward(input)
        out = F.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return out.view(*out.shape, 1, 1, 1)


def _use_attention(part: Any, name: str) -> None:
    """Let every module of ``part`` read ``name`` from a configuration of its own.

    The backbone's configuration stays untouched: it may be shared with other models or be used to build one, and
    transformers looks on its hub for kernels that a configuration names.
    """
    shared, own = part.config, copy.copy(part.config)
    own._attn_implementation = name
    for module in part.modules():
        if getattr(module, "config", None) is shared:
            module.config = own


def install_attention(backbone: PreTrainedModel) -> None:
    """Point an unmodified Qwen-VL backbone at the functions above; weights and state dict stay as they are."""
    ALL_ATTENTION_FUNCTIONS.register(TEXT_ATTENTION, shared_prefix_attention)
    ALL_ATTENTION_FUNCTIONS.register(VISION_ATTENTION, packed_vision_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(TEXT_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    inner: Any = backbone.model
    _use_attention(inner.language_model, TEXT_ATTENTION)
    _use_attention(inner.visual, VISION_ATTENTION)
    for module in inner.visual.modules():
        if type(module) is nn.Conv3d and tuple(module.kernel_size) == tuple(module.stride):
            module.__class__ = _LinearPatchEmbedding
