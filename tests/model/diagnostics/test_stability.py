"""Agreement, similarity and spread equal what separate passes give; what is not read cannot make answers unstable."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.diagnostics import StabilityReport, measure_stability
from amvl_model.diagnostics.causal.stability import cosine
from amvl_model.diagnostics.common.changes import PERTURBATIONS, perturbed
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.scorers import latent_noise
from tests import helpers
from tests.model.evaluation.test_evaluation import questions

SOME = ("noise", "option_order")


def run(model: Any = None, asked: Any = None, **settings: Any) -> StabilityReport:
    settings = {"batch_size": 3, "n_bootstrap": 100, "samples": 3, "perturbations": SOME, "progress": False, **settings}
    return measure_stability(
        helpers.tiny_model() if model is None else model,
        helpers.processor(),
        questions() if asked is None else asked,
        **settings,
    )


@lru_cache(maxsize=1)
def measured() -> StabilityReport:
    return run(temperatures=(0.0, 1.0))


def shares(model: Any, question: Any, z: Any) -> np.ndarray:
    """p(a|x,Z) over the options by full forward passes."""
    ones = [helpers.processor()([question.with_answer(b)]) for b in range(len(question.choices))]
    return torch.tensor([-float(model(**one, latents=z).answer_nll) for one in ones]).softmax(0).numpy()


@torch.inference_mode()
def priors(model: Any, asked: Any) -> list[Any]:
    return [model.encode_query(helpers.processor()([q], answers=False))[1] for q in asked]


def test_at_temperature_zero_all_samples_agree() -> None:
    figures = measured().sampling["0"]
    for name in ("answer_agreement", "mean_agreement", "latent_cosine"):
        assert figures[name].mean == pytest.approx(1.0, abs=1e-6)
    assert figures["total_variation"].mean == pytest.approx(0.0, abs=1e-6)


@torch.inference_mode()
def test_agreement_over_samples_equals_counting_pairs() -> None:
    model, asked = helpers.tiny_model(), questions()
    values: dict[str, list[float]] = {
        "answer_agreement": [],
        "total_variation": [],
        "latent_cosine": [],
        "accuracy": [],
    }
    for i, (question, prior) in enumerate(zip(asked, priors(model, asked), strict=True)):
        drawn = prior.mean + prior.std * latent_noise(0, i, 3, tuple(prior.mean.shape[1:]))
        item, own = [shares(model, question, z[None]) for z in drawn], shares(model, question, prior.mean)
        pairs = list(itertools.combinations(range(3), 2))
        values["answer_agreement"].append(np.mean([item[a].argmax() == item[b].argmax() for a, b in pairs]))
        values["total_variation"].append(np.mean([0.5 * np.abs(s - own).sum() for s in item]))
        values["latent_cosine"].append(np.mean([cosine(drawn[a].numpy(), drawn[b].numpy()) for a, b in pairs]))
        values["accuracy"].append(np.mean([s.argmax() == question.answer for s in item]))
    for name, expected in values.items():
        assert measured().sampling["1"][name].mean == pytest.approx(np.mean(expected), abs=1e-4), name


@pytest.mark.parametrize("name", SOME)
@torch.inference_mode()
def test_a_perturbation_is_compared_option_by_option_with_the_original(name: str) -> None:
    model, asked, result = helpers.tiny_model(), questions(), measured().perturbations[name]
    assert result is not None
    values: dict[str, list[float]] = {
        "answer_agreement": [],
        "total_variation": [],
        "prior_shift": [],
        "accuracy_difference": [],
    }
    for i, question in enumerate(asked):
        new = perturbed(question, name, seed=0, index=i)
        assert new is not None
        before, after = priors(model, [question, new.question])
        own, changed = shares(model, question, before.mean), shares(model, new.question, after.mean)
        moved = np.empty_like(own)
        moved[list(new.order)] = changed
        values["answer_agreement"].append(float(moved.argmax() == own.argmax()))
        values["total_variation"].append(0.5 * np.abs(moved - own).sum())
        values["prior_shift"].append(float((((after.mean - before.mean) / before.std) ** 2).mean().sqrt()))
        right = (changed.argmax() == new.question.answer, own.argmax() == question.answer)
        values["accuracy_difference"].append(float(right[0]) - float(right[1]))
    for figure, expected in values.items():
        assert result[figure].mean == pytest.approx(np.mean(expected), abs=1e-3), figure
    slots = measured().slot_shift[name]
    assert slots is not None and len(slots) == 3
    assert max(s.mean for s in slots) >= result["prior_shift"].mean


def test_latents_that_are_not_read_leave_the_answers_as_they_are() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.injector.weight.zero_()
    figures = run(model, perturbations=()).sampling["2"]
    assert figures["answer_agreement"].mean == figures["mean_agreement"].mean == 1.0
    assert figures["total_variation"].mean == pytest.approx(0.0, abs=1e-6)
    assert figures["latent_cosine"].mean < 0.9  # the latents do differ


def test_identical_slots_have_similarity_one_and_a_constant_has_no_centred_part() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.prior_head.linear.weight.zero_()
        model.prior_head.linear.bias.fill_(1.0)
    result = run(model, perturbations=())
    np.testing.assert_allclose(result.slot_similarity["prior"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(result.slot_similarity["prior_centred"], 0.0, atol=1e-6)
    assert result.between_questions["prior"] == pytest.approx([0.0] * 3, abs=1e-6)
    for slot in result.spread["prior"]:
        assert slot.mean == pytest.approx(float(torch.exp(5 * torch.tanh(torch.tensor(0.2)))), rel=1e-5)


@torch.inference_mode()
def test_similarity_of_slots_is_the_mean_cosine_over_questions() -> None:
    asked = questions()
    means = np.stack([prior.mean[0].numpy() for prior in priors(helpers.tiny_model(), asked)])
    expected = np.mean([[[cosine(a, b) for b in mean] for a in mean] for mean in means], axis=0)
    np.testing.assert_allclose(measured().slot_similarity["prior"], expected, atol=1e-4)
    assert np.diag(measured().slot_similarity["posterior"]) == pytest.approx([1.0] * 3)
    apart = measured().off_diagonal["prior"]
    assert apart is not None
    assert apart.mean == pytest.approx((expected.sum() - 3) / 6, abs=1e-4)


def test_what_cannot_be_changed_is_counted_as_missing_and_the_answers_are_those_of_the_evaluation() -> None:
    asked = [replace(q, prompt="Which?") if i < 2 else q for i, q in enumerate(questions())]
    result = run(asked=asked, temperatures=(0.0,), n_perturbed=3)
    assert result.missing == {"noise": 0, "option_order": 2}
    kept = result.perturbations["option_order"]
    assert kept is not None and kept["answer_kl"].n == 1
    none = run(asked=asked[:2], temperatures=())
    assert none.perturbations["option_order"] is None and none.slot_shift["option_order"] is None
    scored = evaluate(helpers.tiny_model(), helpers.processor(), asked, scoring=("likelihood",), progress=False)
    assert result.sampling["0"]["accuracy"].mean == pytest.approx(scored.accuracy["likelihood"].weighted.mean)


def test_the_report_is_json() -> None:
    data = json.loads(json.dumps(measured().to_dict(), allow_nan=False))
    assert set(data["perturbations"]) == {*SOME, "other_question"}
    assert data["n"] == data["n_perturbed"] == 7
    assert data["between_questions"]["prior"][0] > 0
    single = run(asked=questions()[:1], temperatures=(), perturbations=())
    assert single.between_questions["prior"] is None and single.perturbations["other_question"] is None
    assert set(SOME) < set(PERTURBATIONS)


def test_what_cannot_be_measured_is_refused() -> None:
    model, asked = helpers.tiny_model(), questions()
    for arguments, settings, message in (
        ((model.backbone, asked), {}, "model with latents"),
        ((model, []), {}, "empty set"),
        ((model, [replace(asked[0], answer=None)]), {}, "known answer"),
        ((model, asked), {"samples": 1}, "at least 2 samples"),
        ((model, asked), {"temperatures": (-1.0,)}, "temperatures"),
        ((model, asked), {"perturbations": ("rotate",)}, "perturbations must be"),
        ((model, asked), {"perturbations": "noise"}, "perturbations must be"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments, **settings)
