"""answer_direction_shift is the one the theory predicts, and finds memorised labels and only these."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics import (
    AnswerDirectionReport,
    OptionPosteriors,
    answer_direction_report,
    answer_direction_shift,
    measure_answer_direction,
    option_posteriors,
)
from amvl_model.diagnostics.leakage.answer_direction import FIGURES
from amvl_theory.learnt_prior.amortised import AmortisedModel, amortised_equilibrium
from amvl_theory.learnt_prior.answer_direction import predicted_answer_direction_shift
from tests import helpers
from tests.model.diagnostics.test_contamination import noisy_questions
from tests.model.evaluation.test_evaluation import choice_question, questions


def entry(prior: Any, means: Any, answer: int, probs: Any = None, std: Any = 1.0, task: str = "t") -> OptionPosteriors:
    """One slot; prior (d,), means (options, d)."""
    mean = np.asarray(means, float)[:, None]
    asked = replace(choice_question(0, len(mean)), answer=answer, answer_probs=probs, task=task)
    prior_mean = np.asarray(prior, float)[None]
    return OptionPosteriors(
        question=asked,
        prior_mean=prior_mean,
        prior_std=np.ones_like(prior_mean),
        posterior_means=mean,
        posterior_stds=np.broadcast_to(std, mean.shape) + np.zeros_like(mean),
    )


def test_a_prior_at_an_options_posterior_has_shift_one_and_at_the_average_none() -> None:
    means = np.random.default_rng(0).normal(size=(4, 6))
    assert answer_direction_shift(means[2], means)[2] == pytest.approx(1.0)
    np.testing.assert_allclose(answer_direction_shift(means.mean(0), means), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        answer_direction_shift(means[1] + 7.0, means + 7.0), answer_direction_shift(means[1], means)
    )
    two = answer_direction_shift(means[0] + 0.3, means[:2])
    assert two[0] == pytest.approx(-two[1])


def test_an_option_at_the_average_has_no_direction() -> None:
    result = answer_direction_shift([1.0, 0.0], [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    assert np.isnan(result).all()
    report = answer_direction_report(
        [entry([1.0, 0.0], [[2.0, 1.0]] * 2, 0), entry([1.0, 0.0], [[2.0, 1.0], [0.0, 1.0]], 0)]
    )
    assert report.held_out.undefined == 1
    assert report.held_out.per_question["given"] == [None, pytest.approx(0.0)]


def test_precision_weighs_the_dimensions() -> None:
    means, prior = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, 0.0])
    assert answer_direction_shift(prior, means, [3.0, 1.0])[0] == pytest.approx(0.75)
    std = np.array([1.0, 3.0**0.5])  # the metric is the inverse of the mean variance
    result = answer_direction_report([entry(prior, means, 0, std=std)])
    assert result.held_out.figures["given"].mean == pytest.approx(0.75)  # type: ignore[union-attr]
    plain = answer_direction_report([entry(prior, means, 0, std=std)], metric="euclidean")
    assert plain.held_out.figures["given"].mean == pytest.approx(0.5)  # type: ignore[union-attr]


def amortised(gamma: float, seed: int = 0) -> tuple[list[OptionPosteriors], Any]:
    """A theory of 400 training questions with random labels as posteriors of a checkpoint with an anchor, and its prediction."""
    rng = np.random.default_rng(seed)
    n, options, d = 400, 3, 5
    model = AmortisedModel(rng.normal(size=(n, 80)), curvature=1.5, posterior_precision=2.0, ridge=5.0)
    forces, answers = rng.normal(size=(n, options, d)), rng.integers(options, size=n)
    anchor = rng.normal(size=(n, d))
    fit = amortised_equilibrium(model, forces[np.arange(n), answers], 0.5, gamma)
    pull = gamma * model.posterior_precision
    means = (forces + pull * fit.contamination[:, None]) / (model.curvature + pull)
    entries = [
        entry(
            anchor[i] + fit.contamination[i], anchor[i] + means[i], int(answers[i]), (1 / options,) * options, 2.0**-0.5
        )
        for i in range(n)
    ]
    return entries, predicted_answer_direction_shift(model, forces, answers, 0.5, gamma, metric=2.0)


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_it_is_the_quantity_that_the_theory_predicts(gamma: float) -> None:
    entries, predicted = amortised(gamma)
    shifts = [answer_direction_shift(e.prior_mean[0], e.posterior_means[:, 0], 2.0) for e in entries]
    np.testing.assert_allclose(shifts, predicted.training, rtol=1e-9)
    result = answer_direction_report(entries, n_bootstrap=300).held_out
    np.testing.assert_allclose(result.per_question["given"], predicted.training_answer, rtol=1e-9)
    np.testing.assert_allclose(result.per_question["others"], predicted.training_others, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_leverage_on_training_questions_is_the_weight_of_a_questions_own_label(gamma: float) -> None:
    entries, predicted = amortised(gamma, seed=1)
    figures = answer_direction_report(entries, n_bootstrap=500).held_out.figures
    result = figures["leverage"]
    assert result is not None and result.low is not None and result.high is not None
    assert 0.05 < predicted.mean_leverage < 0.3
    assert abs(result.mean - predicted.mean_leverage) < 4 * (result.high - result.low) / 3.92
    assert result.excludes_zero
    own = figures["own_label"]
    assert own is not None and own.low is not None and own.high is not None
    assert abs(own.mean - predicted.memorised_contrast.mean()) < 4 * (own.high - own.low) / 3.92


def test_a_prior_that_infers_the_answer_but_never_saw_the_label_has_no_leverage() -> None:
    rng = np.random.default_rng(3)
    probs = (0.7, 0.15, 0.15)
    entries = []
    for _ in range(600):
        means = rng.normal(size=(3, 6))
        entries.append(entry(np.array(probs) @ means, means, int(rng.choice(3, p=probs)), probs))
    figures = answer_direction_report(entries, n_bootstrap=500).held_out.figures
    contrast = figures["contrast"]
    assert contrast is not None and contrast.low is not None and contrast.low > 0.2  # inferred
    for name in ("leverage", "own_label"):
        result = figures[name]
        assert result is not None and result.low is not None and result.high is not None
        assert abs(result.mean) < 4 * (result.high - result.low) / 3.92
        assert abs(result.mean) < 0.1


def test_certain_labels_show_no_leverage_of_their_own() -> None:
    figures = answer_direction_report([entry([1.0, 0.0], np.eye(2), 0, (1.0, 0.0))]).held_out.figures
    assert figures["leverage"] is figures["own_label"] is None
    assert figures["contrast"] is not None


@lru_cache(maxsize=1)
def measured() -> AnswerDirectionReport:
    return measure_answer_direction(
        helpers.tiny_model(),
        helpers.processor(),
        noisy_questions(),
        training=questions()[:4],
        batch_size=3,
        n_bootstrap=200,
        progress=False,
    )


def test_on_a_model_it_is_what_its_posteriors_say() -> None:
    result = measured()
    entries = option_posteriors(helpers.tiny_model(), helpers.processor(), questions(), progress=False)
    for i, e in enumerate(entries):
        precision = 1 / (e.posterior_stds**2).mean(0).reshape(-1)
        shift = answer_direction_shift(
            e.prior_mean.reshape(-1), e.posterior_means.reshape(len(e.posterior_means), -1), precision
        )
        answer = e.question.answer
        assert result.held_out.per_question["given"][i] == pytest.approx(shift[answer], rel=1e-3)
    assert result.training is not None and result.memorised is not None
    means = [np.mean(np.array(s.per_question["contrast"], float)) for s in (result.training, result.held_out)]
    assert result.memorised.mean == pytest.approx(means[0] - means[1])
    assert result.memorised.n == 4 + 7
    assert result.same_label_noise is None  # two of the questions do not say
    assert len(result.held_out.slots) == 3
    assert set(result.held_out.tasks) == {"task 0", "task 1"}


def test_label_noise_of_the_two_sets_is_compared() -> None:
    def noisy(eps: float) -> list[OptionPosteriors]:
        return [entry([0.1, 0.0], np.eye(2), 0, (1 - eps, eps))] * 2

    assert answer_direction_report(noisy(0.3), noisy(0.3)).same_label_noise is True
    assert answer_direction_report(noisy(0.0), noisy(0.3)).same_label_noise is False


def test_the_report_is_json() -> None:
    data = json.loads(json.dumps(measured().to_dict(), allow_nan=False))
    assert set(data["held_out"]["figures"]) == set(FIGURES)
    assert data["metric"] == "posterior_precision"


def test_what_has_no_direction_is_refused() -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    unanswered: VisualQuestion = replace(asked[0], answer=None)
    for arguments, message in (
        ((model.backbone, processor, asked), "model with latents"),
        ((model, processor, []), "empty set"),
        ((model, processor, [replace(asked[0], choices=(), answer=None)]), "without choices"),
        ((model, processor, [replace(asked[0], choices=("a",), answer=0)]), "at least 2 options"),
        ((model, processor, [unanswered]), "known answer"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_answer_direction(*arguments, progress=False)
    with pytest.raises(ValueError, match="metric"):
        measure_answer_direction(model, processor, asked, metric="cosine", progress=False)
    with pytest.raises(ValueError, match="two options"):
        answer_direction_shift([1.0], [[1.0]])
