"""AMVLForConditionalGeneration under teacher forcing: who sees whom, padding, freezing, and the size of the real model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from amvl_model.models.amvl import LATENT_MODULES, AMVLForConditionalGeneration, AMVLOutput
from amvl_model.models.configuration import AMVLConfig
from amvl_model.objectives import Loss, amvl_objective, objective_named
from tests.helpers import answer_tokens, collate, examples, gradients, processor, tiny_model, without_answers

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def seeded(model: Any, batch: dict[str, Tensor], seed: int = 0, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(**batch, generator=torch.Generator().manual_seed(seed), **kwargs)


def with_other_answers(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Answers of the same lengths, every token another one."""
    return {**batch, "answer_ids": (batch["answer_ids"] + 7) % 300}


# ---------------------------------------------------------------------- who sees whom


def test_the_prior_does_not_move_by_one_bit_when_the_answer_changes() -> None:
    model, batch = tiny_model(), collate(examples())
    first, second = seeded(model, batch), seeded(model, with_other_answers(batch))
    assert torch.equal(first.prior_mean, second.prior_mean)
    assert torch.equal(first.prior_log_std, second.prior_log_std)


def test_the_posterior_of_every_question_moves_when_the_answer_changes() -> None:
    model, batch = tiny_model(), collate(examples())
    first, second = seeded(model, batch), seeded(model, with_other_answers(batch))
    moved = (first.posterior_mean - second.posterior_mean).abs().amax(dim=(1, 2))
    assert (moved > 0.01).all()


def test_the_recorded_query_does_not_move_by_one_bit_when_the_answer_changes() -> None:
    model, batch = tiny_model(), collate(examples())
    other = with_other_answers(batch)
    with torch.no_grad():
        first = model._first_pass(batch, batch["answer_ids"], batch["answer_mask"])[0]
        second = model._first_pass(other, other["answer_ids"], other["answer_mask"])[0]
    for layer in range(2):
        for a, b in zip(first.cache.layer(layer), second.cache.layer(layer), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(first.next_position, second.next_position)


def test_the_prior_has_no_gradient_with_respect_to_the_answer() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (3, 5)))
    seen = []

    def keep(module: Any, args: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    prior, posterior = model.latent_distributions(batch)
    handle.remove()
    (both,) = seen  # one lookup of question and answer
    n = batch["input_ids"].shape[1]
    of_prior = torch.autograd.grad(prior.mean.sum(), both, retain_graph=True)[0]
    assert of_prior[:, n:].count_nonzero() == 0 and of_prior[:, :n].count_nonzero() > 0
    by_token = torch.autograd.grad(posterior.mean.square().sum(), both)[0][:, n:].abs().sum(-1)
    assert torch.equal(by_token > 0, batch["answer_mask"].bool())  # every answer token, and no padding


def test_answer_logits_see_the_latents_the_question_and_earlier_answer_tokens_only() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (6, 6)))
    z = torch.randn(2, 3, 8)
    base = seeded(model, batch, latents=z).logits
    changed = batch["answer_ids"].clone()
    changed[:, 3] = (changed[:, 3] + 7) % 300
    later = seeded(model, {**batch, "answer_ids": changed}, latents=z).logits
    assert torch.equal(base[:, :4], later[:, :4])  # logits[:, 3] predicts token 3 and does not see it
    assert ((base[:, 4:] - later[:, 4:]).abs().amax(-1) > 1e-3).all()
    for slot in range(3):
        moved = z.clone()
        moved[:, slot] += 1
        assert ((seeded(model, batch, latents=moved).logits - base).abs().amax(-1) > 1e-4).all()


# ---------------------------------------------------------------------- padding


def test_a_padded_batch_gives_each_question_what_it_gets_alone() -> None:
    model, encoded = tiny_model(), examples()
    z = torch.randn(4, 3, 8)
    out = seeded(model, collate(encoded), latents=z)
    for i, example in enumerate(encoded):
        alone = seeded(model, collate([example]), latents=z[i : i + 1])
        for name in ("prior_mean", "prior_log_std", "posterior_mean", "posterior_log_std", "answer_nll"):
            torch.testing.assert_close(getattr(out, name)[i], getattr(alone, name)[0], **CLOSE)
        torch.testing.assert_close(out.logits[i, : len(example["answer_ids"])], alone.logits[0], **CLOSE)


def test_wider_padding_changes_nothing() -> None:
    model, batch = tiny_model(), collate(examples())
    pad = torch.nn.functional.pad
    wider = {
        **batch,
        **{name: pad(batch[name], (0, 9)) for name in ("attention_mask", "mm_token_type_ids", "answer_mask")},
        **{name: pad(batch[name], (0, 9), value=processor().pad_token_id) for name in ("input_ids", "answer_ids")},
    }
    z = torch.randn(4, 3, 8)
    narrow, wide = seeded(model, batch, latents=z), seeded(model, wider, latents=z)
    torch.testing.assert_close(wide.posterior_mean, narrow.posterior_mean, **CLOSE)
    torch.testing.assert_close(wide.prior_log_std, narrow.prior_log_std, **CLOSE)
    torch.testing.assert_close(wide.answer_nll, narrow.answer_nll, **CLOSE)


def test_which_tokens_fill_the_padding_does_not_matter_by_one_bit() -> None:
    model, batch = tiny_model(), collate(examples())
    filled = dict(batch)
    for ids, mask in (("input_ids", "attention_mask"), ("answer_ids", "answer_mask")):
        filled[ids] = torch.where(batch[mask].bool(), batch[ids], 77)
    first, second = seeded(model, batch), seeded(model, filled)
    for name in ("prior_mean", "posterior_mean", "posterior_log_std", "answer_nll", "latents"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_a_batch_without_masks_is_one_without_padding() -> None:
    model, batch = tiny_model(), collate(examples((1,), (4,)))
    bare = {name: batch[name] for name in ("input_ids", "answer_ids", "answer_mask", "pixel_values", "image_grid_thw")}
    assert torch.equal(seeded(model, bare).answer_nll, seeded(model, batch).answer_nll)


# ---------------------------------------------------------------------- the pieces agree


def test_an_encoded_query_serves_any_answer() -> None:
    model, batch = tiny_model(), collate(examples())
    other = with_other_answers(batch)
    with torch.no_grad():
        state, prior = model.encode_query(without_answers(batch))
        for answers in (batch, other):
            out = seeded(model, answers)
            posterior = model.posterior_from(state, answers["answer_ids"], answers["answer_mask"])
            torch.testing.assert_close(prior.mean, out.prior_mean, **CLOSE)
            torch.testing.assert_close(posterior.mean, out.posterior_mean, **CLOSE)
            torch.testing.assert_close(posterior.log_std, out.posterior_log_std, **CLOSE)
            logits = model.answer_logits(state, out.latents, answers["answer_ids"])
            torch.testing.assert_close(logits, out.logits, **CLOSE)


def test_a_repeated_query_serves_several_answers_of_each_question() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (4, 4)))
    with torch.no_grad():
        state, _ = model.encode_query(without_answers(batch))
        many = state.repeat_interleave(2)
        ids = torch.stack([answer_tokens(4, seed) for seed in (1, 2, 3, 4)])
        both = model.posterior_from(many, ids, torch.ones_like(ids))
        even = model.posterior_from(state, ids[[0, 2]], torch.ones_like(ids[:2]))
    torch.testing.assert_close(both.mean[[0, 2]], even.mean, **CLOSE)
    assert state.repeat_interleave(1) is state


def shared_std_model() -> AMVLForConditionalGeneration:
    model = tiny_model()
    model.config.posterior_std = "shared"
    return model


def test_a_shared_posterior_std_is_the_same_for_all_answers_of_a_question_and_the_means_are_not() -> None:
    batch = collate(examples())
    other = with_other_answers(batch)
    for model, same in ((shared_std_model(), True), (tiny_model(), False)):
        with torch.no_grad():
            one, two = (model.latent_distributions(item)[1] for item in (batch, other))
        assert torch.equal(one.log_std, two.log_std) is same
        assert not torch.allclose(one.mean, two.mean, atol=1e-3)
    assert not torch.allclose(one.log_std[0], one.log_std[1], atol=1e-3)  # it still depends on the question


def test_with_a_shared_posterior_std_an_encoded_query_serves_any_answer() -> None:
    model, batch = shared_std_model(), collate(examples())
    with torch.no_grad():
        _, posterior = model.latent_distributions(batch)
        state, _ = model.encode_query(without_answers(batch))
        again = model.posterior_from(
            state.repeat_interleave(2),
            *(batch[name].repeat_interleave(2, dim=0) for name in ("answer_ids", "answer_mask")),
        )
        torch.testing.assert_close(again.mean[1::2], posterior.mean, **CLOSE)
        torch.testing.assert_close(again.log_std[::2], posterior.log_std, **CLOSE)
        with pytest.raises(ValueError, match="expected a query state with posterior_log_std"):
            model.posterior_from(replace(state, posterior_log_std=None), batch["answer_ids"], batch["answer_mask"])


def test_a_shared_posterior_std_trains_the_posterior_s_head_and_no_query() -> None:
    model = shared_std_model()
    _, posterior = model.latent_distributions(collate(examples()))
    posterior.log_std.sum().backward()
    assert model.posterior_head.linear.weight.grad[model.config.latent_dim :].any()
    trained = {name for name, value in gradients(model).items() if value.any()}
    assert trained == {"posterior_head.norm_weight", "posterior_head.linear.weight", "posterior_head.linear.bias"}


def test_latent_distributions_are_those_of_forward() -> None:
    model, batch = tiny_model(), collate(examples())
    out = seeded(model, batch)
    with torch.no_grad():
        prior, posterior = model.latent_distributions(batch)
    assert torch.equal(prior.mean, out.prior.mean) and torch.equal(posterior.log_std, out.posterior.log_std)
    assert prior.mean.shape == (4, 3, 8)


def test_latents_can_be_drawn_from_either_distribution_or_given() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (3, 2)))
    out = seeded(model, batch)
    noise = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out.latents, out.posterior.mean + out.posterior.std * noise)
    prior = seeded(model, batch, latents="prior", latent_temperature=0.5)
    torch.testing.assert_close(prior.latents, out.prior.mean + 0.5 * out.prior.std * noise)
    assert torch.equal(seeded(model, batch, latents="prior_mean").latents, out.prior_mean)
    assert torch.equal(seeded(model, batch, latents="posterior_mean").latents, out.posterior_mean)
    assert torch.equal(seeded(model, batch, latent_temperature=0.0).latents, out.posterior_mean)
    with pytest.raises(ValueError, match="latents must be a tensor or one of prior, posterior.*got 'zero'"):
        seeded(model, batch, latents="zero")


def test_zero_latents_inject_zero_vectors() -> None:
    model = tiny_model()
    assert not model.inject(torch.zeros(1, 3, 8)).any()


def test_fresh_latents_enter_at_the_norm_of_the_token_embeddings() -> None:
    base = tiny_model().backbone
    model = AMVLForConditionalGeneration.from_backbone(base, num_latents=8, latent_dim=64)
    ratio = seeded(model, collate(examples()), latents=torch.randn(4, 8, 64)).latent_norm_ratio
    assert 0.7 < ratio.item() < 1.4


def test_the_seed_fixes_the_fresh_latent_modules() -> None:
    first, again, other = (
        AMVLForConditionalGeneration.from_backbone(tiny_model().backbone, 2, 4, seed=seed) for seed in (1, 1, 2)
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.injector.weight, other.injector.weight)


def test_forward_says_what_is_missing_or_does_not_belong_together() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (3, 2)))
    with pytest.raises(ValueError, match="forward needs answer_ids and answer_mask"):
        model(**without_answers(batch))
    fewer = {**batch, "pixel_values": batch["pixel_values"][:64], "image_grid_thw": batch["image_grid_thw"][:1]}
    with pytest.raises(ValueError, match="as many image tokens as image features"):
        model(**fewer)
    with pytest.raises(ValueError, match="pass answer_ids to get a posterior"):
        _ = AMVLOutput().posterior


# ---------------------------------------------------------------------- gradients of the objectives, and freezing


@pytest.mark.parametrize(
    ("objective", "without"),
    [("fwd", ("posterior",)), ("rev", ("prior",)), ("elbo", ()), ("jeffreys", ()), ("amvl", ())],
)
def test_the_kl_terms_leave_the_heads_they_should_without_gradient(objective: str, without: tuple[str, ...]) -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (3, 2)))
    out = model(**batch)
    nll = torch.zeros(2)  # the KL terms alone
    amvl_objective(out.prior, out.posterior, nll, 1.0, 1.0, objective=objective).total.sum().backward()
    for which in ("prior", "posterior"):
        for name in (f"{which}_head", f"{which}_queries"):
            reached = any(p.grad is not None and bool(p.grad.any()) for p in getattr(model, name).parameters())
            assert reached == (which not in without), name


def test_the_answer_likelihood_trains_the_posterior_and_never_the_prior() -> None:
    model, batch = tiny_model(), collate(examples((1, 2), (3, 2)))
    model(**batch).answer_nll.sum().backward()
    for name in LATENT_MODULES:
        reached = any(p.grad is not None and bool(p.grad.any()) for p in getattr(model, name).parameters())
        assert reached == (not name.startswith("prior")), name


def test_freeze_vision_freezes_the_vision_tower_and_nothing_else() -> None:
    model = tiny_model()
    model.freeze_vision()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert (
        frozen == {name for name, _ in model.named_parameters() if name.startswith("backbone.model.visual.")} != set()
    )


# ---------------------------------------------------------------------- the real model

# config.json of Qwen/Qwen2.5-VL-7B-Instruct, what matters for shapes
QWEN_7B: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
}
BACKBONE_PARAMETERS = 8_292_166_656


@pytest.fixture(scope="module")
def qwen_7b() -> Any:
    settings = dict(QWEN_7B)
    with torch.device("meta"):
        return AMVLForConditionalGeneration(
            AMVLConfig(vlm_config=AutoConfig.for_model(**settings), num_latents=8, latent_dim=512)
        )


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_real_7b_configuration_builds_with_the_right_number_of_parameters(qwen_7b: Any) -> None:
    k, d, h = 8, 512, 3584
    queries = 2 * k * h
    heads = 2 * (h + h * 2 * d + 2 * d)  # norm, weights and biases of mean and log_std
    injector = d * h
    assert all(p.device.type == "meta" for p in qwen_7b.parameters())
    assert count(qwen_7b.backbone) == BACKBONE_PARAMETERS
    assert count(qwen_7b) == BACKBONE_PARAMETERS + queries + heads + injector
    text = qwen_7b.config.get_text_config()
    assert text.rope_parameters["mrope_section"] == [16, 24, 24] and text.rope_parameters["rope_theta"] == 1e6
    assert text.eos_token_id == 151645  # what generate stops at


def test_on_the_real_7b_configuration_exactly_the_vision_tower_is_frozen(qwen_7b: Any) -> None:
    qwen_7b.freeze_vision()
    frozen = {name for name, p in qwen_7b.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in qwen_7b.named_parameters() if ".visual." in name}
    assert sum(p.numel() for name, p in qwen_7b.named_parameters() if name in frozen) == 676_550_144


def test_lora_on_the_real_7b_configuration_trains_adapters_and_latent_modules_only() -> None:
    pytest.importorskip("peft")
    settings = {**QWEN_7B, "num_hidden_layers": 2, "vision_config": {**QWEN_7B["vision_config"], "depth": 1}}
    with torch.device("meta"):
        model = AMVLForConditionalGeneration(AMVLConfig(vlm_config=AutoConfig.for_model(**settings)))
        model.add_lora(rank=4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.split(".")[0] in LATENT_MODULES for name in trained)
    assert not any(".visual." in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 7  # seven linear layers in each of two decoder layers


# ---------------------------------------------------------------------- configuration


def test_the_configuration_refuses_less_than_one_latent() -> None:
    for name in ("num_latents", "latent_dim"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            AMVLConfig(**{name: 0})


def test_the_configuration_survives_json() -> None:
    config = tiny_model().config
    again: Any = AMVLConfig.from_dict(config.to_dict())
    assert again.num_latents == 3 and again.latent_dim == 8
    assert again.vlm_config.to_dict() == config.vlm_config.to_dict()


def test_a_posterior_with_a_bias_begins_blind_to_the_answer_and_learns_to_see_it(tmp_path: Path) -> None:
    plain, batch = tiny_model(), collate(examples())
    model = AMVLForConditionalGeneration.from_backbone(plain.backbone, 3, 8, answer_bias=-30.0)
    model.start_posterior_as_prior()
    first, second = seeded(model, batch), seeded(model, with_other_answers(batch))
    torch.testing.assert_close(first.posterior_mean, first.prior_mean, **CLOSE)
    torch.testing.assert_close(first.posterior_mean, second.posterior_mean, **CLOSE)
    with torch.no_grad():
        state, _ = model.encode_query(batch)
        model.answer_bias.value.fill_(-1.0)
        alone = model.posterior_from(state, batch["answer_ids"], batch["answer_mask"])
    seen = seeded(model, batch)
    torch.testing.assert_close(alone.mean, seen.posterior_mean, **CLOSE)
    assert not torch.allclose(seen.posterior_mean, first.posterior_mean, **CLOSE)
    model(**batch, loss=Loss(objective_named("ntp"))).loss.backward()
    assert model.answer_bias.value.grad.abs() > 0
    model.save_pretrained(tmp_path)
    loaded = AMVLForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.answer_bias.value.item() == -1.0
    assert loaded.config.answer_bias == -30.0


def test_settings_of_a_run_reach_the_fresh_latent_modules() -> None:
    from amvl_model.config import load_preset
    from amvl_model.models.loading import build_model

    model, _ = build_model(load_preset("tiny", {"model.answer_bias": "-5", "model.initial_log_std": "-2"}))
    assert model.answer_bias.value.item() == -5.0
    assert model.posterior_head.linear.bias[model.config.latent_dim :].eq(-2.0).all()
