"""One query, two passes: the layout in which x is encoded once for prior, posterior and decoding.

    pass 1   [ x | k prior latents | k posterior latents | y ]
    pass 2   [ k injected samples | y ]                            reading x from the keys and values of pass 1

Who attends whom (each block causal within itself):

    block       sees x   prior   posterior   y        positions
    x           yes                                   as the backbone numbers them, the last is L
    prior       yes      yes                          L + 1 .. L + k
    posterior   yes              yes         yes      L + 1 .. L + k
    y           yes                          yes      L + k + 1 ..
    injected    yes      itself                       L + 1 .. L + k          (pass 2)
    y           yes      injected            yes      L + k + 1 ..            (pass 2)

So neither x nor the prior ever depends on the answer, gradients of all three uses flow into x through its keys and values,
and the cost over plain fine-tuning is 2k + |y| + k tokens. Only the S short tokens need a mask, of shape (S, N + S).

Shapes: B batch, N query tokens (padded on the right), M answer tokens (padded on the right), k latents, S short tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from amvl_model.two_pass.shared_weights import SharedWeights, sharing
from amvl_model.two_pass.transformers_compat import CACHE, call_backbone, check_version, incompatible

check_version()


class PrefixCache:
    """Keys and values of x, one pair per layer; what the text model's layers see as their cache.

    With ``record=N`` the first N keys and values of each layer are kept and the layer sees what it would see without a
    cache. Without it the layer's own keys and values are appended to the kept ones, which do not change, unless
    ``append`` is set (latents that are computed one after another). Nothing is detached, so gradients flow through.

    ``read=(start, end)`` says that of this pass only the last hidden states of these tokens are read; the last layer then
    computes no others (see last_layer.py). ``weights`` is what the linear maps of the two passes share (see
    shared_weights.py).
    """

    def __init__(self, num_layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.record: int | None = None
        self.append = False
        self.read: tuple[int, int] | None = None
        self.weights: SharedWeights | None = None
        self.updates = [0] * num_layers

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by attention layer ``layer_idx`` with its own (B, heads, tokens, d); returns what it attends to."""
        self.updates[layer_idx] += 1
        if self.record is not None:
            self.keys[layer_idx], self.values[layer_idx] = keys[:, :, : self.record], values[:, :, : self.record]
            return keys, values
        kept_keys, kept_values = self.layer(layer_idx)
        both = torch.cat([kept_keys, keys], dim=2), torch.cat([kept_values, values], dim=2)
        if self.append:
            self.keys[layer_idx], self.values[layer_idx] = both
        return both

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Recorded keys and values (B, heads, N, d) of one layer."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if keys is None or values is None:
            raise RuntimeError(f"layer {layer_idx} of the prefix was read before pass 1 recorded it")
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of recorded tokens N (0 while recording)."""
        keys = self.keys[layer_idx]
        return 0 if self.record is not None or keys is None else keys.shape[2]

    def check_pass(self, tokens: int, returned: int) -> None:
        """Check that the layers used the cache in this pass.

        Args:
            tokens: that entered the text model.
            returned: hidden states that it returned.

        Raises:
            RuntimeError: if a layer did not update exactly once, or if the last layer did not follow ``read``.
        """
        check_updates(self.updates)
        self.updates = [0] * len(self.updates)
        expected = tokens if self.read is None else self.read[1] - self.read[0]
        if returned != expected:
            raise incompatible(f"expected the last hidden states of {expected} tokens, got {returned}")

    def repeat_interleave(self, repeats: int) -> PrefixCache:
        """Each example's prefix ``repeats`` times along the batch."""
        copy = PrefixCache(len(self.keys))
        for i in range(len(self.keys)):
            keys, values = self.layer(i)
            copy.keys[i] = keys.repeat_interleave(repeats, dim=0)
            copy.values[i] = values.repeat_interleave(repeats, dim=0)
        return copy

    def to_dynamic(self, config: Any) -> DynamicCache:
        """The same prefix as transformers' growing cache, for generation."""
        cache = DynamicCache(config=config)
        for i in range(len(self.keys)):
            cache.update(*self.layer(i), i)
        return cache


class LayerCache:
    """The cache of one layer in one (re)computation; records and reads like `PrefixCache`."""

    def __init__(
        self,
        *,
        record: int | None = None,
        append: bool = False,
        read: tuple[int, int] | None = None,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> None:
        self.record, self.append, self.read, self.keys, self.values = record, append, read, keys, values
        self.updates = 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `PrefixCache.update`; ``layer_idx`` is not used."""
        self.updates += 1
        if self.record is not None:
            self.keys, self.values = keys[:, :, : self.record], values[:, :, : self.record]
            return keys, values
        assert self.keys is not None and self.values is not None
        both = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        if self.append:
            self.keys, self.values = both
        return both


def check_updates(updates: list[int]) -> None:
    """Raise RuntimeError unless each layer updated its cache once: one that ignores it does not see x, one that ran twice
    sees x twice."""
    if any(count != 1 for count in updates):
        raise incompatible(f"expected one cache update per layer and pass, got {updates}")


@dataclass(frozen=True)
class QueryState:
    """An encoded query: everything later passes need of x.

    Attributes:
        cache: keys and values of x.
        mask: (B, N), 1 at real tokens.
        next_position: (B,), L + 1.
    """

    cache: PrefixCache
    mask: Tensor
    next_position: Tensor

    def repeat_interleave(self, repeats: int) -> QueryState:
        """Each query ``repeats`` times: one per option, or per latent sample."""
        if repeats == 1:
            return self
        return QueryState(
            self.cache.repeat_interleave(repeats),
            self.mask.repeat_interleave(repeats, dim=0),
            self.next_position.repeat_interleave(repeats, dim=0),
        )


def run_text_model(text_model: Any, embeddings: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
    """The backbone's own text model, forward and all, with our mask (B, 1, S, K) and cache.

    Returns the last hidden states (B, tokens, hidden), of the tokens ``cache.read`` alone where that is set.

    Raises:
        RuntimeError: if the text model or one of its layers ignored the cache.
    """
    prefix = cache if isinstance(cache, PrefixCache) else None
    with sharing(None if prefix is None else prefix.weights):
        output = call_backbone(
            text_model,
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            use_cache=cache is not None,
            **{CACHE: cache},
        )
    hidden: Tensor = output.last_hidden_state
    if prefix is not None:
        prefix.check_pass(embeddings.shape[1], hidden.shape[1])
    return hidden


def full_mask(ids: Tensor, mask: Tensor | None) -> Tensor:
    """The mask (B, N), or ones where there is none."""
    return torch.ones_like(ids) if mask is None else mask


def causal(rows: int, device: torch.device) -> Tensor:
    """(rows, rows) boolean, True where a row may look."""
    return torch.ones(rows, rows, dtype=torch.bool, device=device).tril()


def first_pass_mask(query_mask: Tensor, k: int, answer_mask: Tensor | None) -> Tensor:
    """(B, 1, S, N + S), True = visible, for the blocks prior (k) and, with an answer, posterior (k) and y (M)."""
    batch, prefix = query_mask.shape
    answers = 0 if answer_mask is None else answer_mask.shape[1]
    short = k if answer_mask is None else 2 * k + answers
    mask = torch.zeros(batch, short, prefix + short, dtype=torch.bool, device=query_mask.device)
    mask[:, :, :prefix] = query_mask.bool().unsqueeze(1)
    mask[:, :k, prefix : prefix + k] = causal(k, mask.device)
    if answer_mask is not None:
        posterior = slice(k, 2 * k)
        mask[:, posterior, prefix + k : prefix + 2 * k] = causal(k, mask.device)
        mask[:, posterior, prefix + 2 * k :] = answer_mask.bool().unsqueeze(1)
        mask[:, 2 * k :, prefix + 2 * k :] = causal(answers, mask.device)
    return mask.unsqueeze(1)


def posterior_mask(query_mask: Tensor, k: int, answer_mask: Tensor) -> Tensor:
    """(B, 1, k + M, N + k + M) for [posterior | y] behind a recorded x: the posterior half of `first_pass_mask`."""
    prefix = query_mask.shape[1]
    full = first_pass_mask(query_mask, k, answer_mask)
    return torch.cat([full[:, :, k:, :prefix], full[:, :, k:, prefix + k :]], dim=-1)


def second_pass_mask(query_mask: Tensor, rows: int) -> Tensor:
    """(B, 1, rows, N + rows) for [injected | y]: all of x, and causal among themselves."""
    batch, prefix = query_mask.shape
    mask = torch.empty(batch, rows, prefix + rows, dtype=torch.bool, device=query_mask.device)
    mask[:, :, :prefix] = query_mask.bool().unsqueeze(1)
    mask[:, :, prefix:] = causal(rows, mask.device)
    return mask.unsqueeze(1)


def short_positions(next_position: Tensor, *offsets: Tensor) -> Tensor:
    """(3, B, S) M-RoPE positions of text-like tokens at L + 1 + offset; the three axes agree outside pictures."""
    offset = torch.cat(offsets).to(next_position.device)
    return (next_position[:, None] + offset).expand(3, -1, -1)
