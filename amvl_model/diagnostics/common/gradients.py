"""Derivatives of a checkpoint's answers: evaluation mode with autograd, and d log p(a|x,Z) / dZ for every option.

Nothing here changes the model: parameters get no gradient, and every module gets its own mode back.

Shapes: B batch, O options (the most of the batch), k latents, d latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, evaluating


@contextmanager
def differentiable(model: Any) -> Iterator[None]:
    """Evaluation mode in which autograd works (`scorers.inference` forbids it); parameters collect no gradients."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def answer_forces(
    scorer: LatentScorer, query: EncodedQuery, z: Tensor, options: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Answer forces g_a = d log p(a|x,Z) / dZ = -d NLL(a) / dZ of every option, x held fixed.

    Args:
        scorer, query: the model and a batch encoded without autograd.
        z: (B, k, d), where the derivative is taken.
        options: (B,) number of options of each question.

    Returns:
        forces (B, O, k, d) in nats per latent unit, 0 where a question has fewer options;
        log_probs (B, O) in nats, -inf there.
    """
    with torch.enable_grad():
        point = z.detach().clone().requires_grad_(True)
        log_probs = scorer.option_log_probs(query, point, options)
        count = log_probs.shape[1]
        item = []
        for option in range(count):
            exists = torch.tensor([n > option for n in options], device=log_probs.device)
            total = log_probs[exists, option].sum()
            (gradient,) = torch.autograd.grad(total, point, retain_graph=option + 1 < count)
            item.append(gradient)
    return torch.stack(item, dim=1), log_probs.detach()
