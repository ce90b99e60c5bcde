"""What is replaced is what is said, shares add up, and a modality that changes nothing has no share."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics import CrossModalReport, contamination_report, measure_cross_modal
from amvl_model.diagnostics.common.changes import ReplacedQuestions, find_donors
from amvl_model.diagnostics.leakage.cross_modal import CONDITIONS, CROSS_MODAL_MEASURES, REPLACED
from tests import helpers
from tests.model.evaluation.test_evaluation import choice_question, questions


def asked() -> list[VisualQuestion]:
    """Ten questions in groups of images and options: (1, 2) four times, (2, 3) three times, (1, 4) twice, (3, 2) once."""
    groups = [(1, 2)] * 4 + [(2, 3)] * 3 + [(1, 4)] * 2 + [(3, 2)]
    return [choice_question(i, options, images) for i, (images, options) in enumerate(groups)]


def run(model: Any = None, given: Any = None, **settings: Any) -> CrossModalReport:
    settings = {"batch_size": 4, "n_bootstrap": 100, "n_samples": 200, "progress": False, **settings}
    subject = helpers.tiny_model() if model is None else model
    return measure_cross_modal(subject, helpers.processor(), asked() if given is None else given, **settings)


@lru_cache(maxsize=1)
def measured() -> CrossModalReport:
    return run()


def replaced(condition: str, replacement: str = "other") -> ReplacedQuestions:
    donors, _ = find_donors(asked(), replacement, within_task=False, seed=0)
    return ReplacedQuestions(asked(), donors, condition, replacement)


def test_only_the_named_modality_is_replaced_and_by_one_that_fits() -> None:
    own = replaced("own")
    assert [q.id for q in own] == [f"q{i}" for i in range(9)]
    for condition in REPLACED:
        for before, after in zip(own, replaced(condition), strict=True):
            images, prompt = after.images != before.images, after.prompt != before.prompt
            assert (images, prompt) == (condition != "text", condition != "image")
            assert len(after.images) == len(before.images)
            assert after.prompt.endswith(f"thing {len(before.choices) - 1}")  # as many options
            kept = (after.answer, after.choices, after.answer_text)
            assert kept == (before.answer, before.choices, before.answer_text)


def test_prompts_come_from_questions_that_read_differently_as_far_as_there_are_such() -> None:
    given = [replace(choice_question(i, 2, 1), prompt=f"{'aaabbc'[i]}?\n(A) x\n(B) y") for i in range(6)]
    for seed in range(5):
        donors, changed = find_donors(given, "other", within_task=False, seed=seed)
        assert changed == {"image": 1.0, "text": 1.0}
        assert sorted(donors.text.values()) == sorted(donors.image.values()) == list(range(6))
    _, changed = find_donors(given[:4], "other", within_task=False, seed=0)
    assert changed["text"] == 0.5  # three of four read the same
    donors, changed = find_donors(given[:3], "other", within_task=False, seed=0)
    assert changed["text"] == 0.0
    assert all(i != j for i, j in donors.text.items())


def test_a_blank_keeps_sizes_and_letters_only() -> None:
    for before, after in zip(asked(), replaced("both", "blank"), strict=True):
        assert [image.size for image in after.images] == [image.size for image in before.images]
        assert all(image.getextrema() == tuple((c, c) for c in image.getpixel((0, 0))) for image in after.images)
        assert "thing" not in after.prompt
        assert "circles" not in after.prompt
        lines = after.prompt.split("\n")
        assert lines[1:] == [f"({letter})" for letter in "ABCD"[: len(before.choices)]]
    placed = replace(choice_question(0, 2, 1), prompt="See <image>: which?\n(A) x\n(B) y")
    donors, changed = find_donors([placed], "blank", within_task=False, seed=0)
    assert changed == {"image": 1.0, "text": 1.0}
    blank = ReplacedQuestions([placed], donors, "both", "blank")[0]
    assert find_donors([blank], "blank", within_task=False, seed=0)[1] == {"image": 0.0, "text": 0.0}
    assert ReplacedQuestions([placed], donors, "text", "blank")[0].prompt.startswith("<image>Select")


def test_every_condition_is_the_contamination_of_its_questions() -> None:
    names = {"nll_prior_mean", "nll_posterior_mean", "accuracy_prior_mean", "accuracy_posterior_mean", "forward_kl"}
    names |= {"reverse_kl", "answer_sensitivity", "prior_spread", "posterior_spread"}
    for condition in CONDITIONS:
        expected = contamination_report(
            helpers.tiny_model(),
            helpers.processor(),
            replaced(condition),
            samples=1,
            n_samples=200,
            n_bootstrap=10,
            progress=False,
        )
        for name in names:
            value = expected.measures[name]
            assert value is not None
            assert measured().conditions[condition][name].mean == pytest.approx(value.mean, rel=1e-3, abs=1e-4), name
        leaked, error = expected.measures["leaked_information"], expected.monte_carlo_error["leaked_information"]
        assert leaked is not None and error is not None
        result = measured().conditions[condition]["leaked_information"].mean
        assert abs(result - leaked.mean) < 4 * np.hypot(error, measured().monte_carlo_error[condition])


def test_shares_of_image_and_text_add_up_to_the_total() -> None:
    for name in CROSS_MODAL_MEASURES:
        share = {part: interval.mean for part, interval in measured().shares[name].items()}
        value = {c: measured().conditions[c][name].mean for c in CONDITIONS}
        assert share["image"] + share["text"] == pytest.approx(share["total"], abs=1e-9)
        assert share["total"] + share["remainder"] == pytest.approx(value["own"], abs=1e-9)
        alone = value["text"] - value["both"]  # the image put back first
        assert share["image"] == pytest.approx(alone + share["interaction"] / 2, abs=1e-9)


@torch.inference_mode()
def test_paths_take_latents_from_one_x_and_decode_behind_another() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()

    def nll(source: VisualQuestion, behind: VisualQuestion, latents: str) -> float:
        prior, posterior = model.latent_distributions(processor([source]))
        z = prior.mean if latents == "prior" else posterior.mean
        return float(model(**processor([behind]), latents=z).answer_nll)

    own, other = list(replaced("own")), list(replaced("image"))
    for latents in ("prior", "posterior"):
        base = [nll(a, a, latents) for a in own]
        expected = {
            "total": [nll(b, b, latents) for b in other],
            "through_latents": [nll(b, a, latents) for a, b in zip(own, other, strict=True)],
            "direct": [nll(a, b, latents) for a, b in zip(own, other, strict=True)],
        }
        for path, values in expected.items():
            result = measured().paths["image"][latents][path]["nll_difference"]
            assert result.mean == pytest.approx(np.mean(values) - np.mean(base), abs=1e-3), (latents, path)


def test_the_same_image_everywhere_has_no_share() -> None:
    same = helpers.random_image(84, 56, 1)
    given = [replace(choice_question(i, 2, 1), images=(same,)) for i in range(4)]
    result = run(given=given)
    assert result.changed == {"image": 0.0, "text": 1.0}
    for name, share in result.shares.items():
        assert share["image"].mean == pytest.approx(0.0, abs=1e-4), name
        assert share["text"].mean == pytest.approx(share["total"].mean, abs=1e-4), name
    for path in ("total", "through_latents", "direct"):
        assert result.paths["image"]["prior"][path]["total_variation"].mean == pytest.approx(0.0, abs=1e-4)
    code = result.answer_code["image"]
    assert code is not None
    assert code.mean == pytest.approx(1.0, abs=1e-4)


def test_latents_that_are_not_read_carry_nothing() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.injector.weight.zero_()
    result = run(model).paths
    for condition in REPLACED:
        for latents in ("prior", "posterior"):
            path = result[condition][latents]
            assert path["through_latents"]["total_variation"].mean == pytest.approx(0.0, abs=1e-6)
            assert path["direct"]["nll_difference"].mean == pytest.approx(
                path["total"]["nll_difference"].mean, abs=1e-5
            )
            assert path["direct"]["total_variation"].mean > 0.01


def test_a_posterior_blind_to_the_answer_has_no_answer_code() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.posterior_head.linear.weight.zero_()
    result = run(model)
    assert result.answer_code == dict.fromkeys(REPLACED)
    assert result.conditions["own"]["leaked_information"].mean == 0.0


def test_batch_size_does_not_change_the_report_which_is_json() -> None:
    other = run(batch_size=64)
    assert other.n == 9
    assert other.left_out == ["q9"]
    for name in CROSS_MODAL_MEASURES:
        assert other.shares[name]["image"].mean == pytest.approx(measured().shares[name]["image"].mean, abs=1e-2), name
    data = json.loads(json.dumps(other.to_dict(), allow_nan=False))
    assert set(data["units"]) == set(data["shares"]) == set(CROSS_MODAL_MEASURES)
    assert set(data["conditions"]) == set(CONDITIONS)


def test_within_a_task_donors_are_of_the_task() -> None:
    given = [choice_question(i, 2, 1) for i in range(9)]  # tasks alternate
    donors, _ = find_donors(given, "other", within_task=True, seed=1)
    assert all(given[i].task == given[j].task for pairs in (donors.image, donors.text) for i, j in pairs.items())
    mixed, _ = find_donors(given, "other", within_task=False, seed=1)
    assert any(given[i].task != given[j].task for i, j in mixed.image.items())


def test_what_cannot_be_measured_is_refused() -> None:
    model, given = helpers.tiny_model(), questions()
    for arguments, settings, message in (
        ((model.backbone, given), {}, "model with latents"),
        ((model, []), {}, "empty set"),
        ((model, [replace(given[0], choices=(), answer=None)]), {}, "without choices"),
        ((model, [replace(given[0], choices=("a",), answer=0)]), {}, "at least 2 options"),
        ((model, [replace(given[0], answer=None)]), {}, "known answer"),
        ((model, given[:1]), {}, "equally many images and options"),
        ((model, given), {"replacement": "zero"}, "replacement must be"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments, **settings)
