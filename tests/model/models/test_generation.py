"""Generation: greedy decoding is the teacher-forced argmax, latents are seeded, beams search, nothing leaks between calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from amvl_model.models import generation
from amvl_model.two_pass.layout import PrefixCache
from tests.helpers import collate, examples, processor, question, tiny_model, without_answers

STEPS = 10
NO_END: dict[str, Any] = {"max_new_tokens": STEPS, "suppress_tokens": [2]}  # token 2 ends the turn


def queries(images: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    """A padded batch of questions to answer, images of many shapes."""
    return processor()([question(count, seed + i) for i, count in enumerate(images)], answers=False)


def teacher_forced(model: Any, batch: dict[str, Tensor], answer: Tensor, z: Tensor) -> Tensor:
    """Logits (B, M, V) of a generated answer under teacher forcing, through `forward`."""
    with torch.no_grad():
        return model(**batch, answer_ids=answer, answer_mask=torch.ones_like(answer), latents=z).logits


def prior_mean(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.encode_query(batch)[1].mean


def test_token_2_ends_the_turn() -> None:
    assert processor().end_of_turn_id == NO_END["suppress_tokens"][0]


@pytest.mark.parametrize("images", [(1,), (1, 1, 1), (4, 2), (1, 3, 2, 4)], ids=str)
def test_greedy_generation_is_the_teacher_forced_argmax_on_two_calls_in_a_row(images: tuple[int, ...]) -> None:
    model = tiny_model()
    for seed in (0, 7):  # the second call has other images of other shapes
        batch = queries(images, seed)
        answer = model.generate(**batch, latent_temperature=0.0, **NO_END)
        assert answer.shape == (len(images), STEPS)
        logits = teacher_forced(model, batch, answer, prior_mean(model, batch))
        logits[..., NO_END["suppress_tokens"]] = -torch.inf
        assert torch.equal(logits.argmax(-1), answer)
        assert len(answer.unique()) >= 3  # no model that repeats one token


def test_generation_ends_at_the_end_of_turn_token_and_pads_behind_it() -> None:
    model, batch = tiny_model(), queries((1, 3, 2, 4))
    free = model.generate(**batch, latent_temperature=0.0, **NO_END)
    end = free[1, 2].item()  # declare this the end token: row 1 stops there, others where they first say it
    answer = model.generate(**batch, latent_temperature=0.0, eos_token_id=end, pad_token_id=0, **NO_END)
    for row, long in zip(answer, free, strict=True):
        stop = (long == end).nonzero()
        length = int(stop[0]) + 1 if len(stop) else STEPS
        assert torch.equal(row[:length], long[:length])
        assert not row[length:].any()
    assert (answer[1, 3:] == 0).all()


def test_a_batch_of_different_lengths_gives_each_question_its_own_answer() -> None:
    model, batch = tiny_model(), queries((1, 3, 2, 4))
    together = model.generate(**batch, latent_temperature=0.0, **NO_END)
    for i, images in enumerate((1, 3, 2, 4)):
        alone = model.generate(**processor()([question(images, i)], answers=False), latent_temperature=0.0, **NO_END)
        assert torch.equal(together[i], alone[0])


def test_a_second_call_is_not_affected_by_the_positions_of_the_first() -> None:
    used, first, second = tiny_model(), queries((4, 3)), queries((1, 1), seed=5)
    used.generate(**first, latent_temperature=0.0, **NO_END)
    after = used.generate(**second, latent_temperature=0.0, **NO_END)
    assert torch.equal(after, tiny_model().generate(**second, latent_temperature=0.0, **NO_END))


def test_training_between_two_calls_does_not_disturb_generation() -> None:
    model, batch = tiny_model(), queries((1, 2))
    before = model.generate(**batch, latent_temperature=0.0, **NO_END)
    model.train()
    model(**collate(examples((3, 4, 1), (2, 3, 4)))).answer_nll.sum().backward()
    model.eval()
    assert torch.equal(model.generate(**batch, latent_temperature=0.0, **NO_END), before)


def test_the_backbone_still_generates_by_itself_after_the_model_did() -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    model, batch = tiny_model(), queries((1,), seed=3)
    model.generate(**queries((4, 3)), latent_temperature=0.0, **NO_END)
    plain = Qwen2_5_VLForConditionalGeneration(tiny_model().config.vlm_config).eval()
    plain.load_state_dict(model.backbone.state_dict())
    plain.set_attn_implementation("sdpa")
    options = {**NO_END, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.backbone.generate(**batch, **options), plain.generate(**batch, **options))


# ---------------------------------------------------------------------- latents


def test_the_same_seed_gives_the_same_answer_and_other_seeds_other_answers() -> None:
    model, batch = tiny_model(), queries((1, 2))
    answers = [model.generate(**batch, seed=seed, **NO_END) for seed in (1, 1, 2, 3)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2]) and not torch.equal(answers[2], answers[3])


def test_the_seed_leaves_the_global_generator_alone() -> None:
    model, batch = tiny_model(), queries((1,))
    before = torch.get_rng_state()
    model.generate(**batch, seed=1, **NO_END)
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_zero_decodes_from_the_prior_mean() -> None:
    model, batch = tiny_model(), queries((1, 3))
    mean = prior_mean(model, batch)
    cold = model.generate(**batch, latent_temperature=0.0, **NO_END)
    assert torch.equal(cold, model.generate(**batch, latents=mean, **NO_END))
    assert torch.equal(cold, model.generate(**batch, latent_temperature=0.0, seed=9, **NO_END))
    assert not torch.equal(cold, model.generate(**batch, latents=mean + 1, **NO_END))


def test_the_temperature_scales_the_priors_spread() -> None:
    model, batch = tiny_model(), queries((1, 3))
    with torch.no_grad():
        prior = model.encode_query(batch)[1]
    z = prior.rsample(temperature=0.5, generator=torch.Generator().manual_seed(4))
    given = model.generate(**batch, latents=z, **NO_END)
    assert torch.equal(model.generate(**batch, latent_temperature=0.5, seed=4, **NO_END), given)


def test_several_samples_of_each_question_stand_together() -> None:
    model, batch = tiny_model(), queries((1, 3))
    cold = model.generate(**batch, latent_temperature=0.0, **NO_END)
    same = model.generate(**batch, latent_temperature=0.0, num_return_sequences=3, **NO_END)
    assert torch.equal(same, cold.repeat_interleave(3, dim=0))
    with torch.no_grad():
        prior = model.encode_query(batch)[1]
    z = prior.repeat_interleave(3).rsample(generator=torch.Generator().manual_seed(5))
    several = model.generate(**batch, num_return_sequences=3, seed=5, **NO_END)
    assert several.shape == (6, STEPS) and len(several.unique(dim=0)) > 2
    for sample in range(3):
        assert torch.equal(several[sample::3], model.generate(**batch, latents=z[sample::3], **NO_END))


def test_latents_of_another_shape_are_refused() -> None:
    model, batch = tiny_model(), queries((1, 2))
    with pytest.raises(ValueError, match=r"expected latents of shape \(2, 3, 8\).*got \(1, 3, 8\)"):
        model.generate(**batch, latents=torch.zeros(1, 3, 8), **NO_END)
    with pytest.raises(ValueError, match=r"expected latents of shape \(4, 3, 8\)"):
        model.generate(**batch, latents=torch.zeros(2, 3, 8), num_return_sequences=2, **NO_END)


# ---------------------------------------------------------------------- searching and sampling tokens


def plain_beam_search(model: Any, batch: dict[str, Tensor], beams: int, steps: int) -> tuple[Tensor, float]:
    """The best answer (steps,) of a beam search by teacher forcing, and its log-likelihood; for one question."""
    z = prior_mean(model, batch)
    with torch.no_grad():
        state, _ = model.encode_query(batch)
    alive, scores = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1)
    for _ in range(steps):
        rows = len(alive)
        ids = torch.cat([alive, torch.zeros(rows, 1, dtype=torch.long)], dim=1)
        with torch.no_grad():
            logits = model.answer_logits(state.repeat_interleave(rows), z.repeat_interleave(rows, dim=0), ids)[:, -1]
        log_probs = logits.log_softmax(-1)
        log_probs[:, NO_END["suppress_tokens"]] = -torch.inf
        flat = (scores[:, None] + log_probs).flatten()
        scores, index = flat.topk(min(beams, len(flat)))
        alive = torch.cat([alive[index // logits.shape[-1]], (index % logits.shape[-1])[:, None]], dim=1)
    return alive[0], float(scores[0])


@pytest.mark.parametrize("images", [(1,), (1, 3)], ids=str)
def test_beam_search_is_a_plain_beam_search(images: tuple[int, ...]) -> None:
    model, options, seed = tiny_model(), {"max_new_tokens": 6, "suppress_tokens": [2]}, 5
    answer = model.generate(**queries(images, seed), latent_temperature=0.0, num_beams=4, **options)
    greedy = model.generate(**queries(images, seed), latent_temperature=0.0, **options)
    assert not torch.equal(answer, greedy)
    for i, count in enumerate(images):
        alone = processor()([question(count, seed + i)], answers=False)
        expected, _ = plain_beam_search(model, alone, beams=4, steps=6)
        assert torch.equal(answer[i], expected)


def test_beams_and_several_samples_go_together() -> None:
    model, batch = tiny_model(), queries((1, 2))
    answer = model.generate(**batch, seed=1, num_beams=2, num_return_sequences=2, **NO_END)
    assert answer.shape == (4, STEPS)


def test_answer_tokens_can_be_sampled_too() -> None:
    model, batch = tiny_model(), queries((1, 2))
    torch.manual_seed(0)
    first = model.generate(**batch, latent_temperature=0.0, do_sample=True, temperature=2.0, top_k=0, **NO_END)
    second = model.generate(**batch, latent_temperature=0.0, do_sample=True, temperature=2.0, top_k=0, **NO_END)
    assert not torch.equal(first, second)


def test_the_answer_decodes_to_text_without_special_tokens() -> None:
    model, batch = tiny_model(), queries((1, 2))
    texts = processor().decode(model.generate(**batch, seed=0, max_new_tokens=4))
    assert len(texts) == 2 and not any("<|" in text for text in texts)


def test_generation_works_in_bfloat16() -> None:
    model, batch = tiny_model().to(torch.bfloat16), queries((1, 3))
    answer = model.generate(**{**batch, "pixel_values": batch["pixel_values"].bfloat16()}, seed=0, **NO_END)
    assert answer.shape == (2, STEPS)


def test_generation_leaves_no_graph_behind() -> None:
    model, batch = tiny_model(), without_answers(collate(examples((1,), (2,))))
    assert not model.generate(**batch, max_new_tokens=2).requires_grad
    assert all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------------- several samples of a question share x


def count_rows(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the inputs of the text model, and of the images handed to the vision tower."""
    seen: dict[str, list[tuple[int, ...]]] = {"text": [], "vision": []}
    text, inner = model.backbone.model.language_model, model.backbone.model
    forward, features = text.forward, inner.get_image_features

    def text_forward(*args: Any, **kwargs: Any) -> Any:
        seen["text"].append(tuple(kwargs["inputs_embeds"].shape[:2]))
        return forward(*args, **kwargs)

    def image_features(pixels: Tensor, grid: Tensor, **kwargs: Any) -> Any:
        seen["vision"].append(tuple(pixels.shape))
        return features(pixels, grid, **kwargs)

    monkeypatch.setattr(text, "forward", text_forward)
    monkeypatch.setattr(inner, "get_image_features", image_features)
    return seen


@pytest.mark.parametrize("images", [(1,), (1, 3, 2)], ids=str)
def test_samples_that_share_x_answer_as_they_do_one_by_one(images: tuple[int, ...]) -> None:
    model, samples, d = tiny_model(), 4, 8
    for seed in (0, 5):
        batch = queries(images, seed)
        with torch.no_grad():
            prior = model.encode_query(batch)[1].repeat_interleave(samples)
        z = prior.rsample(generator=torch.Generator().manual_seed(seed))
        together = model.generate(**batch, seed=seed, num_return_sequences=samples, **NO_END)
        apart = z.view(len(images), samples, -1, d)
        for i in range(samples):
            alone = model.generate(**batch, latents=apart[:, i], **NO_END)
            assert torch.equal(together[i::samples], alone)
        assert len({tuple(row.tolist()) for row in together}) > 1  # the latents matter


def test_samples_that_share_x_end_one_by_one() -> None:
    model, batch = tiny_model(), queries((1, 3))
    free = model.generate(**batch, seed=1, num_return_sequences=3, **NO_END)
    end = free[0, 3].item()
    answer = model.generate(**batch, seed=1, num_return_sequences=3, eos_token_id=end, pad_token_id=0, **NO_END)
    for row, long in zip(answer, free, strict=True):
        stop = (long == end).nonzero()
        length = int(stop[0]) + 1 if len(stop) else STEPS
        assert torch.equal(row[:length], long[:length]) and not row[length:].any()


def test_x_goes_through_the_text_model_and_its_images_through_the_vision_tower_once_for_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch, samples, k = tiny_model(), queries((1, 2)), 8, 3
    seen = count_rows(model, monkeypatch)
    model.generate(**batch, seed=0, num_return_sequences=samples, **NO_END)
    rows, n = batch["input_ids"].shape
    decoding = [(rows, samples)] * (STEPS - 1)
    assert seen["text"] == [(rows, n + k), (rows, k * samples), *decoding]
    assert seen["vision"] == [tuple(batch["pixel_values"].shape)]


def test_the_cache_of_shared_samples_holds_x_once_and_grows_without_losing_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "FIRST_ROOM", 1)
    draw = torch.Generator().manual_seed(0)
    kept = torch.randn(2, 2, 1, 5, 4, generator=draw)
    prefix = PrefixCache({0: (kept[0], kept[1])})
    cache = generation.SampleCache(prefix, torch.ones(2, 5), samples=3)
    written = []
    for tokens in (2, 1, 1):
        pair = torch.randn(2, 2, 1, tokens * 3, 4, generator=draw)
        written.append(pair)
        keys, values = cache.update(pair[0], pair[1], 0)
    assert cache.get_seq_length() == 5 + 4
    assert torch.equal(keys, torch.cat([kept[0], *(pair[0] for pair in written)], dim=2))
    assert torch.equal(values, torch.cat([kept[1], *(pair[1] for pair in written)], dim=2))


def test_the_order_of_tokens_in_a_shared_row_is_undone_exactly_and_no_sample_sees_another() -> None:
    prefix = PrefixCache({0: (torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 2, 4))})
    cache = generation.SampleCache(prefix, torch.tensor([[1, 1], [1, 0]]), samples=2)
    rows = torch.arange(4 * 3).view(4, 3)
    assert torch.equal(cache.apart(cache.side_by_side(rows)), rows)
    assert cache.side_by_side(rows)[0].tolist() == [0, 3, 1, 4, 2, 5]  # step by step, sample beside sample
    mask = cache.mask(2)[1, 0].int().tolist()  # steps 0 and 1 of samples a and b; x is one real token and padding
    assert mask == [[1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 1]]


def test_what_a_shared_cache_cannot_do_is_refused() -> None:
    cache = generation.SampleCache(PrefixCache(), torch.ones(1, 2), samples=2)
    with pytest.raises(NotImplementedError, match="beam search"):
        cache.reorder_cache(torch.zeros(1, dtype=torch.long))
    with pytest.raises(NotImplementedError, match="num_return_sequences=1"):
        cache.crop(1)
