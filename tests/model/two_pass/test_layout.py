"""One query, two passes: the same loss and the same gradients as three plain passes (tests/three_pass.py)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from amvl_model.objectives import amvl_objective
from amvl_model.two_pass.attention import KEYS_ONLY, TEXT_ATTENTION, shared_prefix_attention
from amvl_model.two_pass.layout import PrefixCache
from amvl_model.two_pass.passes import Pass
from tests.helpers import collate, examples, gradients, tiny_model
from tests.reference import three_pass

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
BETA, GAMMA, SEED = 0.3, 0.2, 5


@pytest.fixture
def exact_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers compute in float64 throughout.

    Its RMSNorm and rotary functions round to float32 inside, whatever the model's precision. Such a rounding turns a
    difference of 1e-16 between the two layouts into one of 1e-8, which would hide errors of that size. Both sides of the
    comparison run with the roundings taken out.
    """

    def forward(self: Any, hidden: Tensor) -> Tensor:
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(qwen.Qwen2_5_VLRMSNorm, "forward", forward)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def noise_like(model: Any, batch: int) -> Tensor:
    """The noise that a generator seeded with `SEED` gives `forward`."""
    shape = (batch, model.config.num_latents, model.config.latent_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=model.injector.weight.dtype)


def two_pass_step(model: Any, batch: dict[str, Tensor], objective: str = "amvl") -> tuple[float, dict[str, Tensor]]:
    """Summed loss of a padded batch and its gradients, through `forward`."""
    model.zero_grad()
    out = model(**batch, generator=torch.Generator().manual_seed(SEED))
    loss = amvl_objective(out.prior, out.posterior, out.answer_nll, BETA, GAMMA, objective=objective).total.sum()
    loss.backward()
    return loss.item(), gradients(model)


def three_pass_step(
    model: Any, encoded: list[dict[str, Tensor]], objective: str = "amvl"
) -> tuple[float, dict[str, Tensor]]:
    """The same from three plain passes over one unpadded example at a time, summed."""
    model.zero_grad()
    noise, total = noise_like(model, len(encoded)), 0.0
    for i, example in enumerate(encoded):
        out = three_pass(model, collate([example], dtype=noise.dtype), noise[i : i + 1])
        terms = amvl_objective(out["prior"], out["posterior"], out["answer_nll"], BETA, GAMMA, objective=objective)
        loss = terms.total.sum()
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """||got - expected|| <= tolerance ||expected|| for every parameter, tables included."""
    assert got.keys() == expected.keys()
    worst = {}
    for name, reference in expected.items():
        norm = reference.norm().item()
        assert norm > 0 or not got[name].any(), f"{name}: gradient where the reference has none"
        worst[name] = (got[name] - reference).norm().item() / norm if norm else 0.0
    name = max(worst, key=worst.__getitem__)
    assert worst[name] <= tolerance, f"{name}: relative difference {worst[name]:.1e}"


BATCHES = {
    "1 to 4 images, answers of 1 to 23 tokens": ((1, 3, 2, 4), (1, 23, 4, 2)),
    "answers of one token": ((2, 1), (1, 1)),
    "short questions with long answers": ((1, 1, 2), (25, 3, 21)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_two_passes_equal_three_in_loss_and_every_gradient_in_float32(name: str) -> None:
    model, encoded = tiny_model(), examples(*BATCHES[name])
    loss, got = two_pass_step(model, collate(encoded))
    reference, expected = three_pass_step(model, encoded)
    assert loss == pytest.approx(reference, rel=TOLERANCE[torch.float32])
    assert_same_gradients(got, expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", BATCHES)
def test_two_passes_equal_three_in_loss_and_every_gradient_in_float64(name: str, exact_float64: None) -> None:
    model, encoded = tiny_model().double(), examples(*BATCHES[name])
    loss, got = two_pass_step(model, collate(encoded, dtype=torch.float64))
    reference, expected = three_pass_step(model, encoded)
    assert loss == pytest.approx(reference, rel=TOLERANCE[torch.float64])
    assert_same_gradients(got, expected, TOLERANCE[torch.float64])


@pytest.mark.parametrize("objective", ["ntp", "fwd", "rev", "elbo"])
def test_each_term_of_the_objective_has_the_gradients_of_three_passes(objective: str, exact_float64: None) -> None:
    model, encoded = tiny_model().double(), examples((2, 1), (3, 7))
    loss, got = two_pass_step(model, collate(encoded, dtype=torch.float64), objective=objective)
    reference, expected = three_pass_step(model, encoded, objective=objective)
    assert loss == pytest.approx(reference, rel=TOLERANCE[torch.float64])
    assert_same_gradients(got, expected, TOLERANCE[torch.float64])


def test_distributions_and_logits_of_two_passes_equal_those_of_three() -> None:
    model, encoded = tiny_model(), examples()
    noise = noise_like(model, len(encoded))
    with torch.no_grad():
        out = model(**collate(encoded), generator=torch.Generator().manual_seed(SEED))
        for i, example in enumerate(encoded):
            plain = three_pass(model, collate([example]), noise[i : i + 1])
            tokens = len(example["answer_ids"])
            close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(out.prior.mean[i], plain["prior"].mean[0], **close)
            torch.testing.assert_close(out.prior.log_std[i], plain["prior"].log_std[0], **close)
            torch.testing.assert_close(out.posterior.mean[i], plain["posterior"].mean[0], **close)
            torch.testing.assert_close(out.posterior.log_std[i], plain["posterior"].log_std[0], **close)
            torch.testing.assert_close(out.latents[i], plain["z"][0], **close)
            torch.testing.assert_close(out.logits[i, :tokens], plain["logits"][0], **close)
            torch.testing.assert_close(out.answer_nll[i], plain["answer_nll"][0], **close)


def test_with_a_frozen_vision_tower_the_other_gradients_stay_those_of_three_passes() -> None:
    model, encoded = tiny_model(), examples((1, 2, 1), (4, 22, 1))
    _, full = three_pass_step(model, encoded)
    model.freeze_vision()
    _, got = two_pass_step(model, collate(encoded))
    assert all(p.grad is None for p in model.backbone.model.visual.parameters())
    rest = {name for name in full if ".visual." not in name}
    assert_same_gradients({n: got[n] for n in rest}, {n: full[n] for n in rest}, TOLERANCE[torch.float32])


@pytest.mark.parametrize("frozen", [False, True], ids=["vision trained", "vision frozen"])
@pytest.mark.parametrize("answers", [(1, 5, 2), (1, 90, 5)], ids=["short answers", "a long answer"])
def test_gradient_checkpointing_changes_no_gradient(frozen: bool, answers: tuple[int, ...]) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 3, 2), answers))
    if frozen:
        model.freeze_vision()
    loss, expected = two_pass_step(model, batch)
    model.gradient_checkpointing_enable()
    again, got = two_pass_step(model, batch)
    assert again == loss
    assert_same_gradients(got, expected, 1e-6)


@pytest.mark.parametrize("answers", [(1, 5, 2), (1, 90, 5)], ids=["short answers", "a long answer"])
def test_gradient_checkpointing_equals_three_passes_in_float64(exact_float64: None, answers: tuple[int, ...]) -> None:
    model, encoded = tiny_model().double().train(), examples((1, 3, 2), answers)
    reference, expected = three_pass_step(model, encoded)
    model.gradient_checkpointing_enable()
    loss, got = two_pass_step(model, collate(encoded, dtype=torch.float64))
    assert loss == pytest.approx(reference, rel=TOLERANCE[torch.float64])
    assert_same_gradients(got, expected, TOLERANCE[torch.float64])


def count_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of query rows that every call of the text model's attention attends for."""
    rows: list[int] = []

    def attention(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get(KEYS_ONLY):
            rows.append(query.shape[-2])
        return shared_prefix_attention(module, query, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, TEXT_ATTENTION, attention)
    return rows


def test_the_query_goes_through_each_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(), collate(examples())
    rows = count_attention(model, monkeypatch)
    model(**batch)
    (_, n), (_, m), k = batch["input_ids"].shape, batch["answer_ids"].shape, model.config.num_latents
    # two layers, two passes; the last layer of pass 1 attends for the latents alone
    assert rows == [n + 2 * k + m, 2 * k] + [k + m - 1] * 2


def test_the_last_layer_computes_nothing_of_x_and_y_but_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(), collate(examples())
    (_, n), (_, m), k = batch["input_ids"].shape, batch["answer_ids"].shape, model.config.num_latents
    through: dict[str, list[int]] = {"k_proj": [], "mlp": []}
    last = model.backbone.model.language_model.layers[-1]
    for name, module in (("k_proj", last.self_attn.k_proj), ("mlp", last.mlp)):
        module.register_forward_hook(lambda _, args, out, name=name: through[name].append(out.shape[1]))
    model(**batch)
    assert through == {"k_proj": [n + m, 2 * k, k + m - 1], "mlp": [2 * k, k + m - 1]}
    through["k_proj"].clear()
    model.encode_query(batch)
    assert through["k_proj"] == [n, k]


def test_the_last_layer_is_as_it_was_for_the_backbone_alone_and_for_later_passes() -> None:
    model, batch = tiny_model(), collate(examples())
    layer = model.backbone.model.language_model.layers[-1]
    embedded = model.get_input_embeddings()(batch["input_ids"])
    wrapped = model.backbone.model.language_model(inputs_embeds=embedded).last_hidden_state
    layer.forward = layer._amvl_plain_forward
    assert torch.equal(wrapped, model.backbone.model.language_model(inputs_embeds=embedded).last_hidden_state)
    assert wrapped.shape[1] == embedded.shape[1]


@pytest.mark.parametrize(
    ("answer", "again"), [(3, 6), (90, 8)], ids=["not those of a short second pass", "those of a long second pass"]
)
def test_gradient_checkpointing_computes_layers_again_in_the_backward_pass(
    answer: int, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, answer)))
    layers, second_pass = 2, model.config.num_latents + answer - 1
    assert (layers * second_pass <= batch["input_ids"].shape[1]) == (again == 6)
    rows = count_attention(model, monkeypatch)
    two_pass_step(model, batch)
    assert len(rows) == 4
    rows.clear()
    model.gradient_checkpointing_enable()
    two_pass_step(model, batch)
    assert len(rows) == again
    rows.clear()
    model.gradient_checkpointing_disable()
    two_pass_step(model, batch)
    assert len(rows) == 4


def test_the_trainer_can_switch_checkpointing_on_for_every_second_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, 90)))
    rows = count_attention(model, monkeypatch)
    # transformers.Trainer calls one of these two, depending on its version, with these three arguments
    newer = hasattr(model, "activation_checkpointing_enable")
    name = "activation_checkpointing" if newer else "gradient_checkpointing"
    getattr(model, f"{name}_enable")(**{f"{name}_kwargs": None, "every_n_layers": 2, "offload": False})
    two_pass_step(model, batch)
    assert len(rows) == 6  # 4, and the first layer of both passes again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant=True is not supported"),
        ({"offload": True}, "leave offload out"),
    ],
)
def test_kinds_of_checkpointing_that_would_lose_the_prefix_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model().gradient_checkpointing_enable(**options)


def test_a_copy_of_a_checkpointed_model_runs_its_own_layers() -> None:
    model, batch = tiny_model().train(), collate(examples((1, 2), (2, 3)))
    model.gradient_checkpointing_enable()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    plain = tiny_model().train()
    expected = two_pass_step(plain, batch)[0]
    assert two_pass_step(copied, batch)[0] == expected


def test_a_layer_that_updates_the_cache_twice_is_reported() -> None:
    cache = Pass(PrefixCache(), record=1)
    pair = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    for layer in (0, 0, 1):
        cache.update(*pair, layer)
    with pytest.raises(RuntimeError, match=r"one cache update per layer and pass, got \[2, 1\]"):
        cache.check(2, 2, 2)
    with pytest.raises(RuntimeError, match="before pass 1"):
        PrefixCache().layer(0)
