"""Weight gradients of both passes in one piece: right in every order, smaller at the peak, ordinary where that is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amvl_model.objectives import amvl_objective
from amvl_model.profiling.throughput.grid import Cell
from amvl_model.profiling.throughput.meters import LiveBytes
from amvl_model.profiling.throughput.steps import build_batch, build_model, losses
from amvl_model.two_pass.passes import Pass, SharedLinear, SharedWeights, install_two_pass, sharing
from tests.helpers import collate, examples, gradients, tiny_model

ROWS, INSIDE, OUTSIDE = 3, 10, 12
BETA, GAMMA = 0.3, 0.2


def linear() -> SharedLinear:
    torch.manual_seed(0)
    module = nn.Linear(INSIDE, OUTSIDE, dtype=torch.float64)
    module.__class__ = SharedLinear
    assert isinstance(module, SharedLinear)
    return module


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(2, 20, INSIDE, generator=generator, dtype=torch.float64, requires_grad=True)
    second = torch.randn(1, ROWS, INSIDE, generator=generator, dtype=torch.float64, requires_grad=True)
    return first, second


def both(module: nn.Linear, x1: Tensor, x2: Tensor, *, shared: bool) -> tuple[Tensor, Tensor]:
    """Outputs of two uses of one linear map, the second after the first."""
    weights = SharedWeights(ROWS) if shared else None
    with sharing(weights):
        y1 = module(x1)
    if weights is not None:
        weights.first = False
    with sharing(weights):
        return y1, module(x2)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "both": lambda y1, y2: y1.square().sum() + y2.sin().sum(),
    "the second through the first": lambda y1, y2: (y1.mean() * y2).square().sum(),
    "the first alone": lambda y1, y2: y1.square().sum(),
    "the second alone": lambda y1, y2: y2.square().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_two_ordinary_uses(name: str) -> None:
    module, x = linear(), inputs()
    parts = (module.weight, module.bias, *x)
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    expected = torch.autograd.grad(LOSSES[name](*both(module, *x, shared=False)), parts, **options)
    got = torch.autograd.grad(LOSSES[name](*both(module, *x, shared=True)), parts, **options)
    for reference, result in zip(expected, got, strict=True):
        torch.testing.assert_close(result, reference)


def test_a_graph_that_is_kept_gives_the_same_gradients_twice_and_second_derivatives_are_right() -> None:
    module, x = linear(), inputs()

    def curvature(shared: bool) -> list[tuple[Tensor, ...]]:
        loss = LOSSES["both"](*both(module, *x, shared=shared))
        result = [torch.autograd.grad(loss, (module.weight, *x), create_graph=True) for _ in range(2)]
        squares = torch.stack([gradient.square().sum() for gradient in result[0]])
        return [*result, torch.autograd.grad(squares.sum(), (module.weight, *x))]

    for reference, got in zip(curvature(False), curvature(True), strict=True):
        torch.testing.assert_close(got, reference)


def test_the_weight_gradient_is_made_once_and_the_slots_take_no_memory() -> None:
    module, (x1, x2) = linear(), inputs()
    weights = SharedWeights(ROWS)
    with sharing(weights):
        module(x1)
    slot_x, slot_y, *_ = weights.slots[module]
    assert slot_x.shape == (ROWS, INSIDE) and slot_y.shape == (ROWS, OUTSIDE)
    assert slot_x.untyped_storage().nbytes() == slot_y.untyped_storage().nbytes() == 8
    weights.first = False
    with sharing(weights):
        y2 = module(x2)
        assert not weights.slots
        again = module(x2)  # a slot holds one use; this one is ordinary
    (of_weight,) = torch.autograd.grad((y2 + again).sum(), module.weight)
    torch.testing.assert_close(of_weight, 2 * x2.sum((0, 1)).expand(OUTSIDE, -1))


@pytest.mark.parametrize(
    ("rows", "trained", "expected"),
    [(5, True, True), (6, True, False), (5, False, False)],
    ids=["inputs and gradients of 5 rows are smaller than the weight", "of 6 rows they are not", "frozen"],
)
def test_it_hands_over_what_is_smaller_than_the_gradient(rows: int, trained: bool, expected: bool) -> None:
    module = linear().requires_grad_(trained)
    assert (rows * (INSIDE + OUTSIDE) < INSIDE * OUTSIDE) == (rows == 5)
    assert SharedWeights(rows).shares(module) is expected


def test_only_plain_linear_maps_take_part_and_the_state_dict_stays() -> None:
    class Quantised(nn.Linear):
        pass

    layer = nn.Module()
    layer.plain, layer.quantised = nn.Linear(2, 2), Quantised(2, 2)
    text = nn.Module()
    text.layers = nn.ModuleList([layer])
    before = list(text.state_dict())
    install_two_pass(text)
    assert type(layer.plain) is SharedLinear and type(layer.quantised) is Quantised
    assert list(text.state_dict()) == before


def step(model: Any, batch: dict[str, Tensor], **options: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    out = model(**batch, latents="posterior_mean", **options)
    loss = amvl_objective(out.prior, out.posterior, out.answer_nll, BETA, GAMMA).total.sum()
    loss.backward()
    return float(loss.detach()), gradients(model)


def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no weight is shared."""
    monkeypatch.setattr(SharedWeights, "shares", lambda *_: False)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_the_model_shares_every_linear_map_and_its_gradients_stay(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, 3)))
    if checkpointing:
        model.gradient_checkpointing_enable()
        monkeypatch.setattr(Pass, "is_short", False)  # both passes are computed again
    used: dict[nn.Module, list[bool]] = {}
    original = SharedWeights._in_second_pass

    def spy(self: Any, module: Any, x: Tensor) -> Any:
        used.setdefault(module, []).append(self.replayed or module in self.slots)
        return original(self, module, x)

    monkeypatch.setattr(SharedWeights, "_in_second_pass", spy)
    loss, got = step(model, batch)
    layers = model.backbone.model.language_model.layers
    maps = [m for m in layers.modules() if isinstance(m, SharedLinear) and SharedWeights(2 * 4).shares(m)]
    assert len(maps) >= 5 * len(layers)
    assert used == {module: [True] * (2 if checkpointing else 1) for module in maps}
    ordinary(monkeypatch)
    reference, expected = step(model, batch)
    assert loss == pytest.approx(reference, rel=1e-6)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_under_autocast_the_gradients_are_those_of_ordinary_passes(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, 3)))
    if checkpointing:
        model.gradient_checkpointing_enable()
        monkeypatch.setattr(Pass, "is_short", False)
    with torch.autocast("cpu", torch.bfloat16):
        _, got = step(model, batch)
        ordinary(monkeypatch)
        _, expected = step(model, batch)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert got[name].dtype == gradient.dtype
        assert (got[name] - gradient).norm() <= 0.03 * gradient.norm() + 1e-4, name


def test_a_loss_without_the_second_pass_and_a_loss_of_it_alone_have_their_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, 3)))
    latents = torch.ones(2, model.config.num_latents, model.config.latent_dim)

    def found() -> list[dict[str, Tensor]]:
        parts = []
        for part in (lambda out: out.posterior_mean.sum(), lambda out: out.answer_nll.sum()):
            model.zero_grad()
            part(model(**batch, latents=latents)).backward()
            parts.append(gradients(model))
        return parts

    got = found()
    ordinary(monkeypatch)
    for had, reference in zip(got, found(), strict=True):
        assert {n for n, g in had.items() if g.any()} == {n for n, g in reference.items() if g.any()}
        for name, gradient in reference.items():
            assert (had[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_gradients_of_all_weights_no_longer_stand_beside_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of forward and backward pass: lower by about the weights of the layers."""
    cell = Cell(kind="memory", size="tiny", length=512, answer=4, latents=4)
    model = build_model(cell.shape, cell.latents)
    loss = losses(model, build_batch(cell), noise_seed=1)["two-pass"]

    def peak() -> int:
        model.zero_grad()
        with LiveBytes() as live:
            loss().backward()
        return live.peak

    weights = 4 * sum(m.weight.numel() for m in model.modules() if isinstance(m, SharedLinear))
    shared = peak()
    ordinary(monkeypatch)
    assert peak() - shared > 0.7 * weights
