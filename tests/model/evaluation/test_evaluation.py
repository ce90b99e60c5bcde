"""Scoring a model: option likelihoods equal full forward passes, replies equal generate, records and reports agree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from amvl_model.data.schema import VisualQuestion, format_prompt, option_letter
from amvl_model.evaluation.evaluate import Evaluation, evaluate, mean_log_probs
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.evaluation.scorers import QuestionBatch, Scorer, inference, latent_noise, scorer_for
from amvl_model.models.distributions import answer_nll
from tests import helpers

OPTIONS = (2, 4, 3, 4, 2, 3, 2)


def choice_question(seed: int, options: int, images: int | None = None) -> VisualQuestion:
    """A question with that many options and one to three images."""
    plain = helpers.question(1 + seed % 3 if images is None else images, seed)
    choices = tuple(f"thing {i}" for i in range(options))
    answer = seed % options
    return replace(
        plain,
        prompt=format_prompt(plain.prompt, choices),
        choices=choices,
        answer=answer,
        answer_text=option_letter(answer),
        task=f"task {seed % 2}",
    )


def questions() -> list[VisualQuestion]:
    return [choice_question(i, n) for i, n in enumerate(OPTIONS)]


class Drawn(Sequence[VisualQuestion]):
    """A lazy set that counts how often each question is drawn."""

    def __init__(self) -> None:
        self.counts = [0] * len(OPTIONS)

    def __len__(self) -> int:
        return len(OPTIONS)

    def __getitem__(self, item: Any) -> Any:
        self.counts[item] += 1
        return choice_question(item, OPTIONS[item])


@lru_cache(maxsize=2)
def model(kind: str) -> Any:
    latent = helpers.tiny_model()
    return latent if kind == "amvl" else latent.backbone.eval()


def run(kind: str, asked: Sequence[VisualQuestion] | None = None, **settings: Any) -> Evaluation:
    settings = {"batch_size": 3, "progress": False, "n_bootstrap": 200, **settings}
    return evaluate(model(kind), helpers.processor(), questions() if asked is None else asked, **settings)


def encoded(kind: str) -> tuple[Scorer, QuestionBatch, Any]:
    scorer, asked = scorer_for(model(kind), helpers.processor()), questions()
    batch = QuestionBatch(list(range(len(asked))), asked, helpers.processor()(asked, answers=False))
    return scorer, batch, scorer.encode_batch(batch)


def backbone_nll(question: VisualQuestion) -> float:
    """-log p(y|x) by transformers' own causal forward over [x | y] of one question, nats."""
    backbone, text = model("plain"), model("plain").model.language_model
    one = helpers.processor()([question])
    ids = torch.cat([one["input_ids"], one["answer_ids"]], dim=1)
    types = F.pad(one["mm_token_type_ids"], (0, one["answer_ids"].shape[1]))
    positions, _ = backbone.model.get_rope_index(ids, types, image_grid_thw=one["image_grid_thw"])
    attention, text.config._attn_implementation = text.config._attn_implementation, "sdpa"
    try:
        pixels = {name: one[name] for name in ("pixel_values", "image_grid_thw")}
        logits = backbone(input_ids=ids, position_ids=positions, use_cache=False, **pixels).logits
    finally:
        text.config._attn_implementation = attention
    length = one["answer_ids"].shape[1]
    return float(F.cross_entropy(logits[0, -length - 1 : -1], one["answer_ids"][0], reduction="sum"))


@torch.inference_mode()
def test_option_likelihood_of_an_amvl_model_equals_its_full_forward() -> None:
    result = run("amvl")
    for record, question in zip(result.records, questions(), strict=True):
        for option, log_prob in enumerate(record.log_probs or ()):
            one = helpers.processor()([question.with_answer(option)])
            full = model("amvl")(**one, latents="prior_mean")
            assert log_prob == pytest.approx(-float(full.answer_nll), abs=1e-4)


@torch.inference_mode()
def test_option_likelihood_of_a_backbone_equals_its_full_forward() -> None:
    result = run("plain")
    for record, question in zip(result.records, questions(), strict=True):
        for option, log_prob in enumerate(record.log_probs or ()):
            assert log_prob == pytest.approx(-backbone_nll(question.with_answer(option)), abs=1e-4)


@torch.inference_mode()
def test_a_backbone_with_transformers_own_attention_scores_the_same() -> None:
    config = model("plain").model.language_model.config
    ours, installed = run("plain", scoring=("likelihood",)), config._attn_implementation
    try:
        config._attn_implementation = "sdpa"
        theirs = run("plain", scoring=("likelihood",))
        config._attn_implementation = "eager"
        with pytest.raises(ValueError, match="SDPA attention"):
            run("plain")
    finally:
        config._attn_implementation = installed
    for a, b in zip(ours.records, theirs.records, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


@pytest.mark.parametrize("kind", ["amvl", "plain"])
@torch.inference_mode()
def test_options_of_different_lengths_do_not_see_each_other(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, batch, query = encoded(kind)
    answers = [helpers.answer_tokens(length, seed=length) for length in (5, 1, 2, 9)]
    monkeypatch.setattr(scorer, "option_ids", answers.__getitem__)
    z = None if query.prior is None else query.prior.mean
    result = scorer.option_log_probs(query, z, batch.options)
    for option, ids in enumerate(answers):
        rows = ids.expand(len(OPTIONS), -1)
        alone = -answer_nll(scorer.answer_logits(query, z, rows), rows, torch.ones_like(rows))
        for row, count in enumerate(OPTIONS):
            expected = float(alone[row]) if option < count else -math.inf
            assert float(result[row, option]) == pytest.approx(expected, abs=1e-4)


@torch.inference_mode()
def test_replies_of_an_amvl_model_are_those_of_generate() -> None:
    scorer, batch, query = encoded("amvl")
    ids = model("amvl").generate(**batch.tensors, latents=query.prior.mean, do_sample=False, max_new_tokens=6)
    replies = scorer.greedy(query, query.prior.mean, 6)
    assert replies == helpers.processor().decode(ids)
    assert len(set(replies)) > 1


@torch.inference_mode()
def test_replies_of_a_backbone_are_those_of_generate() -> None:
    scorer, batch, query = encoded("plain")
    replies = scorer.greedy(query, None, 5)
    for question, reply in zip(batch.questions, replies, strict=True):
        one = helpers.processor()([question], answers=False)
        ids = model("plain").generate(**one, do_sample=False, max_new_tokens=5)
        assert reply == helpers.processor().decode(ids[:, one["input_ids"].shape[1] :])[0]


@torch.inference_mode()
def test_a_reply_ends_with_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _, query = encoded("amvl")
    tokens = [*helpers.processor().encode_answer("(B)").tolist(), *helpers.processor().encode_answer("(A)").tolist()]

    def scripted(_query: Any, _z: Any, answer_ids: torch.Tensor) -> torch.Tensor:
        column = answer_ids.shape[1] - 1
        return F.one_hot(torch.tensor(tokens[column]), 512).float().expand(len(OPTIONS), 1, -1)

    monkeypatch.setattr(scorer, "answer_logits", scripted)
    assert scorer.greedy(query, query.prior.mean, 8) == ["(B)"] * len(OPTIONS)


@pytest.mark.parametrize("kind", ["amvl", "plain"])
def test_both_scorings_report_what_the_records_say(kind: str) -> None:
    result, asked = run(kind), questions()
    assert set(result.accuracy) == {"likelihood", "generation"}
    for record, question in zip(result.records, asked, strict=True):
        assert (record.id, record.task, record.answer) == (question.id, question.task, question.answer)
        assert record.log_probs is not None
        assert record.reply is not None
        assert len(record.log_probs) == len(question.choices)
        best = max(range(len(record.log_probs)), key=record.log_probs.__getitem__)
        assert record.predicted == {"likelihood": best, "generation": parse_choice(record.reply, question.choices)}
        assert record.answer_nll == -record.log_probs[record.answer]
    right = [record.predicted["likelihood"] == record.answer for record in result.records]
    assert result.accuracy["likelihood"].weighted.mean == pytest.approx(sum(right) / len(right))
    unread = [record.predicted["generation"] is None for record in result.records]
    assert result.accuracy["generation"].unparsed == sum(unread)
    assert result.answer_nll is not None
    assert result.answer_nll.low is not None
    assert result.answer_nll.low < result.answer_nll.mean
    assert result.latents == ("prior_mean" if kind == "amvl" else None)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["answer_nll"]["n"] == len(asked)
    assert "by generation" in result.table()
    assert "answer NLL" in result.table()


def test_one_scoring_leaves_the_other_out() -> None:
    generated = run("amvl", scoring=("generation",))
    assert generated.answer_nll is None
    assert generated.records[0].log_probs is None
    assert list(generated.accuracy) == ["generation"]
    assert run("amvl", scoring=("likelihood",)).records[0].reply is None


@pytest.mark.parametrize("latents", ["prior", "posterior"])
def test_batch_size_and_order_do_not_change_the_records(latents: str) -> None:
    first = run("amvl", latents=latents, samples=2, seed=3)
    other = run("amvl", latents=latents, samples=2, seed=3, batch_size=7)
    for a, b in zip(first.records, other.records, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    third = run("amvl", latents=latents, samples=2, seed=4)
    assert any(a.log_probs != b.log_probs for a, b in zip(first.records, third.records, strict=True))


@torch.inference_mode()
def test_several_samples_average_the_probabilities() -> None:
    scorer, batch, query = encoded("amvl")
    drawn = list(torch.randn(3, *query.prior.mean.shape, generator=torch.Generator().manual_seed(0)))
    mixed = mean_log_probs(scorer, query, drawn, batch.options).exp()
    item = torch.stack([scorer.option_log_probs(query, z, batch.options).exp() for z in drawn])
    torch.testing.assert_close(mixed, item.mean(0))
    assert mixed[0, 2:].tolist() == [0.0, 0.0]  # the first question has two options


@torch.inference_mode()
def test_sampled_latents_are_those_of_the_question_and_the_seed() -> None:
    question, prior = questions()[4], encoded("amvl")[2].prior
    z = prior.mean[4] + 0.5 * prior.std[4] * latent_noise(7, 4, 1, tuple(prior.mean.shape[1:]))
    one = helpers.processor()([question])
    expected = float(model("amvl")(**one, latents=z).answer_nll)
    result = run("amvl", latents="prior", temperature=0.5, seed=7).records[4].answer_nll
    assert result == pytest.approx(expected, abs=1e-4)
    cold = run("amvl", latents="prior", temperature=0.0).records[4]
    assert cold.log_probs == pytest.approx(run("amvl").records[4].log_probs, abs=1e-4)


@torch.inference_mode()
def test_posterior_latents_have_seen_the_given_answer() -> None:
    result = run("amvl", latents="posterior_mean", scoring=("likelihood",))
    for record, question in zip(result.records, questions(), strict=True):
        full = model("amvl")(**helpers.processor()([question]), latents="posterior_mean")
        assert record.answer_nll == pytest.approx(float(full.answer_nll), abs=1e-4)


def test_lazy_sets_are_drawn_once_and_equal_lists() -> None:
    lazy = Drawn()
    result = run("amvl", lazy, scoring=("likelihood",))
    assert lazy.counts == [1] * len(OPTIONS)
    assert result.records == run("amvl", scoring=("likelihood",)).records


def test_modes_and_weights_are_left_as_they_were() -> None:
    trained = helpers.tiny_model().train()
    trained.backbone.model.visual.eval()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    evaluate(trained, helpers.processor(), questions()[:2], progress=False)
    assert trained.training
    assert not trained.backbone.model.visual.training
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    with pytest.raises(RuntimeError, match="stop"), inference(trained):
        assert not trained.training
        raise RuntimeError("stop")
    assert trained.training


def test_training_goes_on_after_an_evaluation() -> None:
    trained = helpers.tiny_model().train()
    evaluate(trained, helpers.processor(), questions()[:2], progress=False)
    trained(**helpers.processor()(questions()[:2])).answer_nll.sum().backward()
    assert trained.injector.weight.grad is not None


def test_an_unread_reply_is_counted_wrong_and_unparsed() -> None:
    result = run("amvl", scoring=("generation",), max_new_tokens=1)
    report = result.accuracy["generation"]
    assert report.unparsed == sum(record.predicted["generation"] is None for record in result.records) > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "empty set"),
        ([replace(choice_question(0, 2), answer=None, answer_text="")], "known answer"),
        ([choice_question(1, 2), replace(choice_question(0, 2), choices=(), answer=None)], "without choices"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused(asked: list[VisualQuestion], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("amvl", asked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scoring": ("letter",)}, "likelihood, generation"),
        ({"scoring": "likelihood"}, "tuple"),
        ({"scoring": ()}, "one or more"),
        ({"latents": "mean"}, "posterior_mean"),
        ({"samples": 0}, "at least 1"),
        ({"samples": 2}, "latents='prior'"),
        ({"temperature": -1.0}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("amvl", **settings)


def test_latents_cannot_be_asked_of_a_backbone_nor_answers_of_another_model() -> None:
    with pytest.raises(ValueError, match="no latents"):
        run("plain", latents="prior")
    with pytest.raises(ValueError, match="expected an AMVLForConditionalGeneration"):
        evaluate(torch.nn.Linear(1, 1), helpers.processor(), questions(), progress=False)
