"""Gradient checkpointing that keeps the recorded prefix in the graph.

transformers drops the cache of a checkpointed layer, because a layer that is run again in the backward pass would update it
twice. Here each decoder layer is wrapped so that the prefix's keys and values are inputs of the checkpointed function, and
the recorded ones its outputs: the recomputation works on a cache of its own and the real one is written once.

A short pass behind a long prefix is not computed again: while it is differentiated, no layer of the long pass is at work, and
what all its layers keep (tokens times layers) is no more than what one layer of the long pass will need (its tokens).
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amvl_model.two_pass.layout import LayerCache
from amvl_model.two_pass.shared_weights import sharing
from amvl_model.two_pass.transformers_compat import CACHE


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
        if not hasattr(layer, "_amvl_plain_forward"):
            # bound methods: a deep copy of the layer then runs its own weights, which a closure would not
            layer._amvl_plain_forward = layer.forward
            layer.forward = MethodType(_checkpointed_forward, layer)
        layer._amvl_checkpointing = index % every_n_layers == 0
    visual = model.backbone.model.visual
    trained = any(parameter.requires_grad for parameter in visual.parameters())
    _set_vision(visual, trained)


def disable_checkpointing(model: Any) -> None:
    """Undo `enable_checkpointing`."""
    for layer in model.backbone.model.language_model.layers:
        layer._amvl_checkpointing = False
    _set_vision(model.backbone.model.visual, False)


def _set_vision(visual: Any, enabled: bool) -> None:
    """transformers' own checkpointing of the vision blocks, which have no cache; its entry point changes with the version."""
    for module in visual.modules():
        if hasattr(module, "gradient_checkpointing"):
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            module.gradient_checkpointing = enabled


def _checkpointed_forward(layer: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    shared = kwargs.pop(CACHE, None)
    plain = layer._amvl_plain_forward
    active = layer._amvl_checkpointing and layer.training and torch.is_grad_enabled()
    if active and shared is None:  # the backbone by itself
        return checkpoint(lambda h: plain(h, *args, **kwargs), hidden, use_reentrant=False)
    if not active or not hasattr(shared, "record") or _is_short(hidden, shared):
        return plain(hidden, *args, **{CACHE: shared}, **kwargs)
    index, record, append = layer.self_attn.layer_idx, shared.record, shared.append
    read, weights = shared.read, shared.weights
    if weights is not None:
        weights.keep_casts = False
    again = None if weights is None else weights.replay()
    now = [weights]

    def run(
        hidden: Tensor, keys: Tensor | None, values: Tensor | None
    ) -> tuple[Any, Tensor | None, Tensor | None, int]:
        cache = LayerCache(record=record, append=append, read=read, keys=keys, values=values)
        with sharing(now.pop() if now else again):
            output = plain(hidden, *args, **{CACHE: cache}, **kwargs)
        return output, cache.keys, cache.values, cache.updates

    kept = (None, None) if record is not None else shared.layer(index)
    output, keys, values, updates = checkpoint(run, hidden, *kept, use_reentrant=False)
    shared.updates[index] += updates
    if record is not None or append:
        shared.keys[index], shared.values[index] = keys, values
    return output


def _is_short(hidden: Tensor, cache: Any) -> bool:
    """Whether a pass behind a recorded prefix keeps no more in all layers than the prefix's pass needs for one."""
    behind = cache.record is None and not cache.append
    return behind and len(cache.keys) * hidden.shape[1] <= cache.get_seq_length()
