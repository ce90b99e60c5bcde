"""Relevance maps: they add up to the change they explain, and what cannot matter has none."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.diagnostics.causal.relevance import (
    RelevanceMap,
    RelevanceReport,
    blank_images,
    content_words,
    measure_relevance,
)
from amvl_model.diagnostics.report.relevance_figures import (
    draw_image_relevance,
    draw_word_relevance,
    relevance_figure,
    slot_targets,
    word_places,
)
from amvl_model.evaluation.scorers import latent_scorer
from tests import helpers
from tests.model.evaluation.test_evaluation import choice_question

ASKED = [choice_question(0, 2, images=1), choice_question(3, 4, images=3)]


@lru_cache(maxsize=1)
def precise() -> Any:
    """A model that 48 nodes can integrate: an untrained one bends too much where latents of full size are injected."""
    model = helpers.tiny_model().double()
    with torch.no_grad():
        model.injector.weight.mul_(0.05)
    return model


@lru_cache(maxsize=1)
def report() -> RelevanceReport:
    return measure_relevance(
        precise(), helpers.processor(), ASKED, steps=48, batch_size=24, n_bootstrap=50, progress=False
    )


def test_relevance_adds_up_to_the_change_from_the_baseline() -> None:
    for result in report().maps:
        sums = sum(image.sum((1, 2)) for image in result.images) + result.text.sum(1)
        np.testing.assert_allclose(result.totals - sums, result.residuals, atol=1e-9)
        assert np.abs(result.residuals).max() < 0.05 * np.abs(result.totals).max()
        assert result.totals[-1] != 0


def test_more_nodes_leave_a_smaller_residual() -> None:
    coarse = measure_relevance(precise(), helpers.processor(), ASKED[:1], steps=3, progress=False).maps[0]
    assert np.abs(report().maps[0].residuals).max() < np.abs(coarse.residuals).max()


def test_totals_are_what_the_model_itself_says_with_and_without_its_images() -> None:
    model, processor, question = precise(), helpers.processor(), ASKED[0]
    with torch.no_grad():
        _, prior = model.encode_query(processor([question], answers=False))
        scorer = latent_scorer(model, processor)
        query = scorer.encode(processor([question], answers=False))
        own = scorer.option_log_probs(query, prior.mean, [2])[0, 0]
    without_words = replace(question, prompt="", question="")
    result = measure_relevance(model, processor, [without_words], steps=64, progress=False).maps[0]
    with torch.no_grad():
        full = scorer.encode(processor([without_words], answers=False))
        blank = scorer.encode(processor([blank_images(without_words)], answers=False))
        assert full.prior is not None
        assert blank.prior is not None
        slots = 0.5 * ((full.prior.mean - blank.prior.mean) / blank.prior.std).square().sum(-1)[0]
        answer = [scorer.option_log_probs(item, item.prior.mean, [2])[0, 0] for item in (full, blank) if item.prior]
    assert result.tokens == ()
    np.testing.assert_allclose(result.totals[:-1], slots.numpy(), rtol=1e-6)
    assert result.total("answer") == pytest.approx(float(answer[0] - answer[1]), rel=1e-6)
    assert float(own) < 0


def test_maps_have_the_shape_of_the_images_and_the_words_are_the_prompt() -> None:
    for result, question in zip(report().maps, ASKED, strict=True):
        assert "".join(result.tokens) == question.prompt
        assert len(result.images) == len(question.images)
        grids = helpers.processor()([question])["image_grid_thw"]
        merge = helpers.processor().image_processor.merge_size
        for image, (_, height, width) in zip(result.images, grids.tolist(), strict=True):
            assert image.shape == (4, height // merge, width // merge)
        assert result.text.shape == (4, len(result.tokens))
        assert result.targets == ("slot 1", "slot 2", "slot 3", "answer")


def test_latents_are_the_sum_over_the_slots() -> None:
    result = report().maps[1]
    images, text = result.of("latents")
    np.testing.assert_allclose(images[2], result.images[2][:3].sum(0))
    np.testing.assert_allclose(text, result.text[:3].sum(0))
    assert sum(result.parts("latents")) == pytest.approx(result.total("latents"), rel=0.05)
    with pytest.raises(ValueError, match="target must be one of"):
        result.of("slot 9")


def test_grey_images_have_no_relevance() -> None:
    result = measure_relevance(precise(), helpers.processor(), [blank_images(ASKED[0])], steps=4, progress=False).maps[
        0
    ]
    assert np.abs(result.images[0]).max() < 1e-9
    assert np.abs(result.text).max() > 1e-6


def test_a_prior_that_is_blind_to_the_query_gives_its_slots_no_relevance() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.prior_head.linear.weight.zero_()
    result = measure_relevance(model, helpers.processor(), ASKED[:1], steps=4, progress=False).maps[0]
    assert np.abs(result.images[0][:-1]).max() == 0
    assert np.abs(result.images[0][-1]).max() > 0


def test_without_a_given_answer_the_likeliest_is_explained() -> None:
    hidden = replace(ASKED[1], answer=None, answer_text="")
    result = measure_relevance(precise(), helpers.processor(), [hidden], steps=2, progress=False).maps[0]
    model, processor = precise(), helpers.processor()
    scorer = latent_scorer(model, processor)
    with torch.no_grad():
        query = scorer.encode(processor([hidden], answers=False))
        assert query.prior is not None
        assert result.answer == int(scorer.option_log_probs(query, query.prior.mean, [4])[0].argmax())


def test_words_exclude_the_template() -> None:
    processor = helpers.processor()
    ids = processor([ASKED[0]])["input_ids"][0]
    places = content_words(processor, ids)
    assert processor.decode([ids[places]]) == [ASKED[0].prompt]


def test_the_report_is_json_with_intervals_per_part() -> None:
    data = json.loads(json.dumps(report().to_dict(), allow_nan=False))
    for target in ("latents", "answer"):
        assert set(data["parts"][target]) == {"image", "text", "total", "residual"}
    assert len(data["maps"]) == 2


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = helpers.tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_relevance(model, helpers.processor(), ASKED[:1], steps=1, progress=False)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_cannot_be_explained_is_refused() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()
    for arguments, settings, message in (
        ((model.backbone, processor, ASKED), {}, "model with latents"),
        ((model, processor, []), {}, "empty set"),
        ((model, processor, [replace(ASKED[0], choices=(), answer=None)]), {}, "without choices"),
        ((model, processor, ASKED), {"steps": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_relevance(*arguments, progress=False, **settings)


# ---------------------------------------------------------------------- figures


def png(found: RelevanceMap) -> bytes:
    buffer = io.BytesIO()
    relevance_figure(found).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def test_the_figure_shows_every_image_and_follows_the_values() -> None:
    result = report().maps[1]
    figure = relevance_figure(result)
    assert sum(bool(ax.images) for ax in figure.axes) == 2 * 3
    assert any("nats" in ax.get_ylabel() for ax in figure.axes)
    changed = replace(result, images=tuple(-image for image in result.images))
    assert png(result) == png(result) != png(changed)
    assert len(relevance_figure(result, slot_targets(result)).axes) == 3 * (3 + 2)


def test_drawing_functions_make_axes_where_none_are_given() -> None:
    result = report().maps[0]
    images, text = result.of("answer")
    assert draw_image_relevance(result.question, images[0], 0, 1.0).images
    assert draw_word_relevance(result.tokens, text, 1.0).patches


def test_words_wrap_at_line_feeds_and_at_the_end_of_the_line() -> None:
    places, lines = word_places(["ab", " c\n", "d" * 100, " efgh", "i"])
    assert places == [(0, 0), (0, 2), (1, 0), (2, 0), (2, 5)]
    assert lines == 3
