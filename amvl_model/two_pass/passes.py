"""How the backbone's text model runs one of the two passes: `run_text_model`, and the one patch of its layers behind it.

`install_two_pass` gives every decoder layer one new ``forward``, and its linear maps a subclass of the same weights. Weights,
state dict, and the layer without one of our passes stay as they are. What the patch adds:

**The last layer of pass 1 computes hidden states only where somebody reads them** (``read``). Behind it stand the heads, which
read the latents. Of x (and of y in pass 1) later passes need the last layer's keys and values alone: attention rows, output
projection and MLP would be computed for nothing, a share of nearly 1/L of the pass over L layers. Of these silent tokens the
query and output projections are still computed, forward only: they belong to the attention module that makes the keys.

**Gradient checkpointing keeps the recorded prefix in the graph.** transformers drops the cache of a checkpointed layer, because
a layer that runs again in the backward pass would update it twice. Here the prefix's keys and values are inputs of the
checkpointed function, and the recorded ones its outputs. A short pass behind a long prefix is not computed again: what all its
layers keep (tokens times layers) is no more than what one layer of the long pass will need (its tokens).

**Weight gradients of both passes are made in one piece**, dW = dy1^T x1 + dy2^T x2, when pass 1's backward pass gets there.
Pass 2 is differentiated first, through all layers, because its latents come from the end of pass 1. Left to itself it makes
gradients as large as all weights, which stand beside pass 1's activations. But pass 2 has few tokens, and its share is a product
of two small matrices: its inputs x2 and the gradients dy2 of its outputs. So it hands these over, inside the graph: in pass 1
the weight passes through a node that returns it beside two empty slots of the shapes of x2 and y2; in pass 2 the slots are
inputs, and x2 and dy2 are "their gradients":

    pass 1    W', slot_x, slot_y = W;   y1 = W' x1       backward    dW = dW' + grad(slot_y)^T grad(slot_x),   dW' = dy1^T x1
    pass 2    y2 = W x2, given the slots                 backward    dx2 = dy2 W,   grad(slot_x) = x2,   grad(slot_y) = dy2

so the order of the backward pass, a partial one, or one that is kept for a second time come out as autograd makes them. A slot
takes no memory and can be used once; another use of W is an ordinary one. Where x2 and dy2 would be larger than the gradient
(many answer tokens, a small matrix) both passes are ordinary, and so they are under DeepSpeed's ZeRO-3, which exchanges the
tensor behind a parameter while the graph would still hold the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amvl_model.two_pass.attention import KEYS_ONLY
from amvl_model.two_pass.layout import PrefixCache
from amvl_model.two_pass.transformers_compat import CACHE, check_arguments, check_version, incompatible

check_version()


class Pass:
    """One pass through the text model: what its layers see as their cache.

    Args:
        prefix: keys and values of x; None in a pass that records nothing and reads nothing.
        record: keep the first so many keys and values of each layer in ``prefix``; the layer then attends to its own
            tokens alone. None: the layer's own keys and values follow the recorded ones, which do not change.
        append: keep the layer's own keys and values too (latents that are computed one after another).
        read: (start, end), the tokens whose last hidden states are read; None: all.
        weights: what the linear maps of the two passes share.

    Attributes:
        updates: by layer, how often it used its cache.

    Nothing is detached, so gradients flow through the recorded keys and values.
    """

    def __init__(
        self,
        prefix: PrefixCache,
        *,
        record: int | None = None,
        append: bool = False,
        read: tuple[int, int] | None = None,
        weights: SharedWeights | None = None,
    ) -> None:
        self.prefix, self.record, self.append, self.read, self.weights = prefix, record, append, read, weights
        self.updates: Counter[int] = Counter()

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by attention layer ``layer_idx`` with its own (B, heads, tokens, d); returns what it attends to."""
        self.updates[layer_idx] += 1
        if self.record is not None:
            self.prefix.layers[layer_idx] = keys[:, :, : self.record], values[:, :, : self.record]
            return keys, values
        kept_keys, kept_values = self.prefix.layers.get(layer_idx) or self.prefix.layer(layer_idx)
        both = torch.cat([kept_keys, keys], dim=2), torch.cat([kept_values, values], dim=2)
        if self.append:
            self.prefix.layers[layer_idx] = both
        return both

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of recorded tokens N that stand before this pass's own (0 while recording)."""
        return 0 if self.record is not None else self.prefix.length

    def check(self, layers: int, tokens: int, returned: int) -> None:
        """Check that the layers used the cache in this pass.

        Args:
            layers: of the text model.
            tokens: that entered it.
            returned: hidden states that it returned.

        Raises:
            RuntimeError: unless each layer updated its cache once (one that ignores it does not see x, one that ran twice
                sees x twice), or if the last layer did not follow ``read``.
        """
        _check_updates([self.updates[index] for index in range(layers)])
        expected = tokens if self.read is None else self.read[1] - self.read[0]
        if returned != expected:
            raise incompatible(f"expected the last hidden states of {expected} tokens, got {returned}")

    @property
    def is_short(self) -> bool:
        """Whether this pass stands behind a prefix that it leaves as it is."""
        return self.record is None and not self.append


def _check_updates(counts: list[int]) -> None:
    if any(count != 1 for count in counts):
        raise incompatible(f"expected one cache update per layer and pass, got {counts}")


def run_text_model(text_model: Any, embeddings: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
    """The backbone's own text model, forward and all, with our mask (B, 1, S, K).

    Args:
        text_model: the backbone's, after `install_two_pass`.
        embeddings: (B, tokens, hidden).
        positions: (3, B, tokens), M-RoPE.
        mask: True = visible; None: causal.
        cache: a `Pass`, a `PrefixCache` to read, transformers' own cache, or None.

    Returns:
        the last hidden states (B, tokens, hidden), of the tokens ``Pass.read`` alone where that is set.

    Raises:
        RuntimeError: if the text model or one of its layers ignored the cache.
    """
    if isinstance(cache, PrefixCache):
        cache = Pass(cache)
    ours = cache if isinstance(cache, Pass) else None
    inputs = {
        "inputs_embeds": embeddings,
        "position_ids": positions,
        "attention_mask": {"full_attention": mask, "sliding_attention": mask},
        "use_cache": cache is not None,
        CACHE: cache,
    }
    check_arguments(text_model, inputs)
    with sharing(None if ours is None else ours.weights):
        output = text_model(**inputs)
    hidden: Tensor = output.last_hidden_state
    if ours is not None:
        ours.check(len(text_model.layers), embeddings.shape[1], hidden.shape[1])
    return hidden


def install_two_pass(text_model: Any) -> None:
    """Patch the layers of a text model (see the module's docstring); doing it twice is doing it once.

    Linear maps that another library has replaced take no part in the sharing of weight gradients.
    """
    for index, layer in enumerate(text_model.layers):
        _patch(layer)
        layer._amvl_is_last = index == len(text_model.layers) - 1
        for module in layer.modules():
            if type(module) is nn.Linear:
                module.__class__ = SharedLinear


def _patch(layer: Any) -> None:
    if not hasattr(layer, "_amvl_plain_forward"):
        # no closure: a deep copy or a pickle of the layer then runs its own weights
        layer._amvl_plain_forward = layer.forward
        layer._amvl_is_last = layer._amvl_recompute = False
        layer.forward = partial(_layer_forward, layer)


def enable_checkpointing(model: Any, options: dict[str, Any] | None = None, *, every_n_layers: int = 1) -> None:
    """Checkpoint every n-th decoder layer of ``model`` (and the vision blocks, if they are trained).

    Raises:
        ValueError: for reentrant checkpointing, which loses the gradient through the prefix and breaks ZeRO.
    """
    if options and options.get("use_reentrant"):
        raise ValueError(
            "use_reentrant=True is not supported: reentrant checkpointing loses the gradient through the shared prefix; "
            "leave gradient_checkpointing_kwargs out or set use_reentrant=False"
        )
    for index, layer in enumerate(model.backbone.model.language_model.layers):
        _patch(layer)
        layer._amvl_recompute = index % every_n_layers == 0
    visual = model.backbone.model.visual
    _checkpoint_vision(visual, any(parameter.requires_grad for parameter in visual.parameters()))


def disable_checkpointing(model: Any) -> None:
    """Undo `enable_checkpointing`."""
    for layer in model.backbone.model.language_model.layers:
        layer._amvl_recompute = False
    _checkpoint_vision(model.backbone.model.visual, False)


def _checkpoint_vision(visual: Any, enabled: bool) -> None:
    """transformers' own checkpointing of the vision blocks, which have no cache; its entry point changes with the version."""
    for module in visual.modules():
        if hasattr(module, "gradient_checkpointing"):
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            module.gradient_checkpointing = enabled


# ---------------------------------------------------------------------------------------- the patched layer


def _layer_forward(layer: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A decoder layer's forward: its own, narrowed to the tokens that are read, or computed again in the backward pass."""
    cache = kwargs.pop(CACHE, None)
    recompute = layer._amvl_recompute and layer.training and torch.is_grad_enabled()
    if not isinstance(cache, Pass):
        if recompute and cache is None:  # the backbone by itself
            return checkpoint(lambda h: layer._amvl_plain_forward(h, *args, **kwargs), hidden, use_reentrant=False)
        return layer._amvl_plain_forward(hidden, *args, **{CACHE: cache}, **kwargs)
    narrowed = layer._amvl_is_last and cache.read is not None
    run: Any = partial(_narrowed_forward, layer) if narrowed else layer._amvl_plain_forward
    if not recompute or (cache.is_short and len(cache.prefix.layers) * hidden.shape[1] <= cache.prefix.length):
        return run(hidden, *args, **{CACHE: cache}, **kwargs)
    return _recomputed_forward(layer, run, cache, hidden, *args, **kwargs)


def _recomputed_forward(layer: Any, run: Any, cache: Pass, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    index, weights = layer.self_attn.layer_idx, cache.weights
    if weights is not None:
        weights.keep_casts = False
    again = None if weights is None else weights.replay()
    now = [weights]

    def compute(hidden: Tensor, *prefix: Tensor) -> tuple[Any, Tensor, Tensor]:
        own = PrefixCache({index: (prefix[0], prefix[1])} if prefix else {})
        alone = Pass(own, record=cache.record, append=cache.append, read=cache.read)
        with sharing(now.pop() if now else again):
            output = run(hidden, *args, **{CACHE: alone}, **kwargs)
        _check_updates([alone.updates[index]])
        return output, *own.layers[index]

    prefix = () if cache.record is not None else cache.prefix.layer(index)
    output, keys, values = checkpoint(compute, hidden, *prefix, use_reentrant=False)
    cache.updates[index] += 1
    if not cache.is_short:
        cache.prefix.layers[index] = keys, values
    return output


def _narrowed_forward(
    layer: Any,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Hidden states (B, T, H) -> those of the tokens that are read (B, end - start, H)."""
    cache: Pass = kwargs.pop(CACHE)
    assert cache.read is not None
    if position_embeddings is None or attention_mask is None:
        raise incompatible("expected position_embeddings and attention_mask as keywords of the decoder layer, got none")
    index, (start, end) = layer.self_attn.layer_idx, cache.read
    silent = _without(hidden, start, end, dim=-2)
    alone = Pass(PrefixCache(), record=silent.shape[1])
    layer.self_attn(
        hidden_states=layer.input_layernorm(silent),
        attention_mask=None,
        position_ids=None if position_ids is None else _without(position_ids, start, end, dim=-1),
        position_embeddings=tuple(_without(item, start, end, dim=-2) for item in position_embeddings),
        **{CACHE: alone, KEYS_ONLY: True},
    )
    _check_updates([alone.updates[index]])
    cache.update(*alone.prefix.layer(index), index)
    columns = [attention_mask[..., : end - start, :start], attention_mask[..., : end - start, end:]]
    return layer._amvl_plain_forward(
        hidden[:, start:end],
        attention_mask=torch.cat([*columns, attention_mask[..., : end - start, start:end]], dim=-1),
        position_embeddings=tuple(item[..., start:end, :] for item in position_embeddings),
        position_ids=None if position_ids is None else position_ids[..., start:end],
        **{CACHE: Pass(alone.prefix)},
        **kwargs,
    )


def _without(tensor: Tensor, start: int, end: int, *, dim: int) -> Tensor:
    """The tokens before ``start`` and from ``end`` on."""
    size = tensor.shape[dim]
    before = tensor.narrow(dim, 0, start)
    return before if end == size else torch.cat([before, tensor.narrow(dim, end, size - end)], dim=dim)


# ---------------------------------------------------------------------------------------- weight gradients of both passes


class SharedWeights:
    """The weights that the two passes of one step share, and the slots between them.

    Args:
        rows: tokens of pass 2, B (k + M - 1).
        first: whether the pass at hand is the first one.
        replayed: whether the pass is computed again for the backward pass; then no slots are made or used, as the graph
            has its own already.

    Attributes:
        slots: by module, what pass 1 left for pass 2: slot_x (rows, in), slot_y (rows, out), and the weight and bias in the
            precision of the pass (None where they are cast again).
    """

    def __init__(self, rows: int, *, first: bool = True, replayed: bool = False) -> None:
        self.rows, self.first, self.replayed = rows, first, replayed
        self.slots: dict[nn.Module, tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = {}
        self.keep_casts = True

    def replay(self) -> SharedWeights:
        """The same pass, to be computed again."""
        return SharedWeights(self.rows, first=self.first, replayed=True)

    def shares(self, module: nn.Linear) -> bool:
        """Whether the weight takes part: x2 and dy2 together are smaller than its gradient."""
        inside, outside = module.in_features, module.out_features
        zero3 = hasattr(module.weight, "ds_id")
        return module.weight.requires_grad and not zero3 and self.rows * (inside + outside) < inside * outside

    def linear(self, module: nn.Linear, x: Tensor) -> Tensor | None:
        """The module's output, None where it is to be computed in the ordinary way."""
        if not (torch.is_grad_enabled() and self.shares(module)):
            return None
        if self.first:
            return self._in_first_pass(module, x)
        return self._in_second_pass(module, x)

    def _in_first_pass(self, module: nn.Linear, x: Tensor) -> Tensor:
        x, weight, bias = _cast(x, module.weight, module.bias)
        used, slot_x, slot_y = _FirstUse.apply(weight, self.rows)
        if not self.replayed:
            casts = (weight, bias) if self.keep_casts else (None, None)
            self.slots[module] = (slot_x, slot_y, *casts)
        return F.linear(x, used, bias)

    def _in_second_pass(self, module: nn.Linear, x: Tensor) -> Tensor | None:
        slot_x = slot_y = weight = bias = None
        if not self.replayed:
            if module not in self.slots:
                return None
            slot_x, slot_y, weight, bias = self.slots.pop(module)
        if weight is None:
            x, weight, bias = _cast(x, module.weight, module.bias)
        return _SecondUse.apply(x.to(weight.dtype), weight, bias, slot_x, slot_y)


_active: ContextVar[SharedWeights | None] = ContextVar("shared_weights", default=None)


@contextmanager
def sharing(weights: SharedWeights | None) -> Iterator[None]:
    """Linear maps of this block take part in the hand-over; with None they are ordinary."""
    token = _active.set(weights)
    try:
        yield
    finally:
        _active.reset(token)


class SharedLinear(nn.Linear):
    """An `nn.Linear` that looks whether its weights are shared just now; same parameters, same state dict, same result."""

    def forward(self, input: Tensor) -> Tensor:
        weights = _active.get()
        shared = None if weights is None else weights.linear(self, input)
        return super().forward(input) if shared is None else shared


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """In autocast's precision where autocast is on, as `F.linear` does it."""
    if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _FirstUse(torch.autograd.Function):
    """W -> W and the slots; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        outside, inside = weight.shape
        empty = weight.new_empty(1)
        return weight.view_as(weight), empty.expand(rows, inside), empty.clone().expand(rows, outside)

    @staticmethod
    def backward(ctx: Any, d_weight: Tensor | None, x2: Tensor | None, dy2: Tensor | None) -> Any:  # type: ignore[override]
        if x2 is None or dy2 is None:
            return d_weight, None
        # in place: the backward pass of F.linear made this product for us alone
        return dy2.t() @ x2 if d_weight is None else d_weight.addmm_(dy2.t(), x2), None


class _SecondUse(torch.autograd.Function):
    """(x2, W, b, slots) -> y2; W gets its gradient through the slots."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slot_x: Tensor | None, slot_y: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        to_x, _, to_bias, *_ = ctx.needs_input_grad
        rows = dy.flatten(0, -2)
        return dy @ weight if to_x else None, None, rows.sum(0) if to_bias else None, x.flatten(0, -2), rows
