"""Latents one after another: each slot reads the means of the slots before it."""

from __future__ import annotations

from typing import Any

import torch

from amvl_model.two_pass.layout import second_pass_mask, short_positions
from tests.helpers import collate, examples, tiny_model, without_answers

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def test_sequential_slots_read_the_means_before_them_and_the_first_is_the_parallel_one() -> None:
    model, batch = tiny_model(), without_answers(collate(examples()))
    parallel = model.encode_query(batch)[1]
    model.config.latent_order = "sequential"
    state, prior = model.encode_query(batch)
    torch.testing.assert_close(prior.mean[:, 0], parallel.mean[:, 0], **CLOSE)
    assert not torch.allclose(prior.mean[:, 1], parallel.mean[:, 1])
    first, second = prior.mean[:, :1], prior.mean[:, 1:2]
    queries = model._queries(model.prior_queries, len(first))[:, 1:2]
    positions = short_positions(state.next_position, torch.arange(2))
    rows = torch.cat([model.inject(first), queries], dim=1)
    hidden = model._text_model(rows, positions, second_pass_mask(state.mask, 2), state.cache)[:, 1:]
    torch.testing.assert_close(model.prior_head(hidden).mean, second, **CLOSE)
    assert model.injector.weight.requires_grad
    (gradient,) = torch.autograd.grad(prior.mean[:, 1].sum(), model.injector.weight)
    assert gradient.abs().max() > 0  # the second slot trains the injection of the first
