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

Shapes: B batch, N query tokens and M answer tokens (padded on the right, see `right_padded`), k latents, S short tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from amvl_model.two_pass.transformers_compat import call_backbone


@dataclass
class PrefixCache:
    """Keys and values of x.

    Attributes:
        layers: by layer, keys and values (B, heads, N, d), once pass 1 has recorded them.
    """

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Recorded keys and values (B, heads, N, d) of one layer.

        Raises:
            RuntimeError: before pass 1 has recorded them.
        """
        if layer_idx not in self.layers:
            raise RuntimeError(f"layer {layer_idx} of the prefix was read before pass 1 recorded it")
        return self.layers[layer_idx]

    @property
    def length(self) -> int:
        """Number of recorded tokens N."""
        return next(iter(self.layers.values()))[0].shape[2] if self.layers else 0

    def repeat_interleave(self, repeats: int) -> PrefixCache:
        """Each example's prefix ``repeats`` times along the batch."""
        return PrefixCache(
            {
                index: (keys.repeat_interleave(repeats, dim=0), values.repeat_interleave(repeats, dim=0))
                for index, (keys, values) in self.layers.items()
            }
        )

    def to_dynamic(self, config: Any) -> DynamicCache:
        """The same prefix as transformers' growing cache, for generation."""
        cache = DynamicCache(config=config)
        for index, (keys, values) in self.layers.items():
            cache.update(keys, values, index)
        return cache


@dataclass(frozen=True)
class QueryState:
    """An encoded query: everything later passes need of x.

    Attributes:
        cache: keys and values of x.
        mask: (B, N), 1 at real tokens.
        next_position: (B,), L + 1.
        posterior_log_std: (B, k, d), of the posterior of every answer; None where it depends on the answer.
    """

    cache: PrefixCache
    mask: Tensor
    next_position: Tensor
    posterior_log_std: Tensor | None = None

    def repeat_interleave(self, repeats: int) -> QueryState:
        """Each query ``repeats`` times: one per option, or per latent sample."""
        if repeats == 1:
            return self
        return QueryState(
            self.cache.repeat_interleave(repeats),
            self.mask.repeat_interleave(repeats, dim=0),
            self.next_position.repeat_interleave(repeats, dim=0),
            None if self.posterior_log_std is None else self.posterior_log_std.repeat_interleave(repeats, dim=0),
        )


def full_mask(ids: Tensor, mask: Tensor | None) -> Tensor:
    """The mask (B, N), or ones where there is none."""
    return torch.ones_like(ids) if mask is None else mask


def real_first(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The mask (B, N) and tensors of its shape with the real tokens of every row first: right-padded.

    Raises:
        ValueError: if the shapes differ, a row has no real token, or the mask is an additive one.
    """
    for tensor in tensors:
        if tensor.shape != mask.shape:
            raise ValueError(
                f"expected a mask of the shape of its tokens, {tuple(tensor.shape)}, got {tuple(mask.shape)}; pass both as "
                "the processor makes them"
            )
    real = mask.bool()
    empty, additive, mixed = torch.stack(
        [(~real.any(dim=1)).any(), (mask < 0).any(), (real[:, 1:] & ~real[:, :-1]).any()]
    ).tolist()
    if additive or empty:
        raise ValueError(
            "expected a mask of 1 at real tokens and 0 elsewhere, with a real token in every row, got "
            + ("negative numbers" if additive else "a row of zeros")
            + "; pass the mask that the processor makes"
        )
    if mixed:
        order = (~real).long().argsort(dim=1, stable=True)
        mask, *tensors = (tensor.gather(1, order) for tensor in (mask, *tensors))  # type: ignore[assignment]
    return mask.long(), *tensors


def right_padded(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with queries and answers padded on the right, as the layout above needs them, and with a query mask.

    Processors pad on the left for generation. What is right-padded already is passed on as it is.
    """
    batch = {name: value for name, value in batch.items() if value is not None}
    batch |= {name: batch[name].long() for name in ("input_ids", "answer_ids") if name in batch}
    batch["attention_mask"] = full_mask(batch["input_ids"], batch.get("attention_mask"))
    for mask, *others in (("attention_mask", "input_ids", "mm_token_type_ids"), ("answer_mask", "answer_ids")):
        if mask in batch:
            names = [mask, *(name for name in others if name in batch)]
            batch.update(zip(names, real_first(*(batch[name] for name in names)), strict=True))
    return batch


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


def with_answer_bias(mask: Tensor, bias: Tensor, posterior: slice, answers: int) -> Tensor:
    """A mask (B, 1, S, K) whose last ``answers`` columns are y, as an additive one: the posterior's rows see y through ``bias``.

    Args:
        mask: boolean, True = visible.
        bias: (1,), added to the attention scores; exp(bias) is the weight of a token of y against one of x.
        posterior: rows of the posterior's slots.
        answers: M.
    """
    additive = torch.zeros(mask.shape, dtype=bias.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    towards = torch.zeros(mask.shape[-2:], dtype=bias.dtype, device=mask.device)
    towards[posterior, mask.shape[-1] - answers :] = 1.0
    return additive + bias * towards


def second_pass_mask(query_mask: Tensor, rows: int) -> Tensor:
    """(B, 1, rows, N + rows) for [injected | y]: all of x, and causal among themselves."""
    batch, prefix = query_mask.shape
    mask = torch.empty(batch, rows, prefix + rows, dtype=torch.bool, device=query_mask.device)
    mask[:, :, :prefix] = query_mask.bool().unsqueeze(1)
    mask[:, :, prefix:] = causal(rows, mask.device)
    return mask.unsqueeze(1)


def short_positions(next_position: Tensor, *offsets: Tensor) -> Tensor:
    """(3, B, S) M-RoPE positions of text-like tokens at L + 1 + offset; the three axes agree outside images."""
    offset = torch.cat(offsets).to(next_position.device)
    return (next_position[:, None] + offset).expand(3, -1, -1)


def query_positions(inner: Any, ids: Tensor, mask: Tensor, types: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
    """M-RoPE positions (3, B, N) of padded queries and their deltas (B, 1), as the backbone's ``get_rope_index``.

    It loops over rows in Python, and positions depend only on where text, images and padding stand. So where all rows have
    images of one size, one row of each layout is passed.

    Args:
        inner: the backbone's model, with ``get_rope_index``.
        ids, mask, types: (B, N) token ids, 1 at real tokens, 0 at text and 1 at image tokens.
        grid: (images, 3) patches of each image, or None.
    """
    which, chosen = None, torch.arange(len(ids), device=ids.device)
    if grid is None or (len(grid) % len(ids) == 0 and bool((grid == grid[0]).all())):
        layouts, which = (2 * types + mask).unique(dim=0, return_inverse=True)
        if len(layouts.ge(2).sum(1).unique()) == 1:  # as many image tokens in each row
            chosen = chosen.new_zeros(len(layouts)).scatter_(0, which, chosen)
            grid = None if grid is None else grid[: len(grid) // len(ids) * len(chosen)]
        else:
            which = None
    positions, deltas = call_backbone(
        inner.get_rope_index,
        input_ids=ids[chosen],
        mm_token_type_ids=types[chosen],
        image_grid_thw=grid,
        attention_mask=mask[chosen],
    )
    return (positions, deltas) if which is None else (positions[:, which], deltas[which])
