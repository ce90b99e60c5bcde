"""Weight gradients of both passes in one piece: dW = dy1^T x1 + dy2^T x2, computed when pass 1's backward pass gets there.

Pass 2 is differentiated first, through all layers, because its latents come from the end of pass 1. Left to itself it makes
the gradients of all weights then, as large as the weights, and they stand beside pass 1's activations; pass 1 adds to each of
them later. But pass 2 has few tokens, and its share of a gradient is a product of two small matrices: its inputs x2 and the
gradients dy2 of its outputs. So pass 2 hands these over instead, and one weight gradient is made where pass 1 needs it.

The hand-over is part of the graph. In pass 1 the weight passes through a node that returns it beside two empty slots of the
shapes of x2 and y2; in pass 2 the slots are inputs, and x2 and dy2 are "their gradients":

    pass 1    W', slot_x, slot_y = W;   y1 = W' x1       backward    dW = dW' + grad(slot_y)^T grad(slot_x),   dW' = dy1^T x1
    pass 2    y2 = W x2, given the slots                 backward    dx2 = dy2 W,   grad(slot_x) = x2,   grad(slot_y) = dy2

so the order of the backward pass, a partial one, or one that is kept for a second time come out as autograd makes them. A
slot takes no memory and can be used once; another use of W is an ordinary one.

Where x2 and dy2 would be larger than the gradient (many answer tokens, a small matrix) both passes are ordinary, and so they
are under DeepSpeed's ZeRO-3, which exchanges the tensor behind a parameter while the graph would still hold the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
            kept = (weight, bias) if self.keep_casts else (None, None)
            self.slots[module] = (slot_x, slot_y, *kept)
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


def install_shared_weights(text_model: Any) -> None:
    """Let the linear maps of a text model's layers take part; those that another library has replaced stay as they are."""
    for layer in text_model.layers:
        for module in layer.modules():
            if type(module) is nn.Linear:
                module.__class__ = SharedLinear


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
