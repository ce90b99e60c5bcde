"""What slots say adds up as independence given the answer demands, and equals the figures of the whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from amvl_model.diagnostics import (
    OptionPosteriors,
    SlotReport,
    contamination_report,
    leaked_information,
    measure_slots,
    slot_report,
)
from amvl_model.diagnostics.leakage.slots import SLOT_MEASURES, WHOLE_MEASURES
from tests import helpers
from tests.model.diagnostics.test_contamination import noisy_questions
from tests.model.evaluation.test_evaluation import choice_question, questions


def entries(slots: list[float], n: int = 4) -> list[OptionPosteriors]:
    """Two options, at plus and minus slots[j] in slot j (one dimension each), standard deviation 1; no prior knowledge."""
    mean = np.array([slots, [-s for s in slots]], float)[:, :, None]
    return [
        OptionPosteriors(
            question=replace(choice_question(i, 2), answer=i % 2),
            prior_mean=np.zeros((len(slots), 1)),
            prior_std=np.ones((len(slots), 1)),
            posterior_means=mean,
            posterior_stds=np.ones_like(mean),
        )
        for i in range(n)
    ]


def value(report: SlotReport, name: str) -> float:
    interval = report.whole[name]
    assert interval is not None
    return interval.mean


def test_a_blind_slot_leaks_nothing_and_two_that_say_the_same_are_redundant() -> None:
    result = slot_report(entries([8.0, 0.0, 8.0]), n_samples=500, n_bootstrap=50)
    per_slot = [interval.mean for interval in result.slots["leaked_information"] if interval is not None]
    assert per_slot == pytest.approx([math.log(2), 0.0, math.log(2)], abs=1e-6)
    assert value(result, "leaked_information") == pytest.approx(math.log(2), abs=1e-6)
    assert value(result, "redundancy") == pytest.approx(math.log(2), abs=1e-6)


def test_leaked_information_lies_between_the_most_of_a_slot_and_the_sum() -> None:
    result = slot_report(entries([0.3, 0.5, 0.2]), n_samples=4000, n_bootstrap=50)
    item = [interval.mean for interval in result.slots["leaked_information"] if interval is not None]
    error = result.monte_carlo_error["leaked_information"]
    assert max(item) - 4 * error["whole"] < value(result, "leaked_information") < sum(item) + 4 * error["whole"]
    exact, _ = leaked_information(np.array([[0.5], [-0.5]]), np.ones((2, 1)), n_samples=200_000)
    assert abs(item[1] - exact) < 4 * error["slots"][1] + 1e-3


def test_kls_and_sensitivity_are_sums_over_slots() -> None:
    result = slot_report(entries([0.3, 2.0]), n_samples=10, n_bootstrap=50)
    assert [i.mean for i in result.slots["forward_kl"] if i] == pytest.approx([0.045, 2.0])
    assert value(result, "forward_kl") == pytest.approx(2.045)
    assert [i.mean for i in result.slots["answer_sensitivity"] if i] == pytest.approx([0.36, 16.0])
    assert value(result, "answer_sensitivity") == pytest.approx(16.36)


@lru_cache(maxsize=1)
def measured() -> SlotReport:
    return measure_slots(
        helpers.tiny_model(), helpers.processor(), noisy_questions(), batch_size=3, n_bootstrap=100, progress=False
    )


def test_the_whole_equals_the_contamination_report() -> None:
    result = measured()
    whole = contamination_report(
        helpers.tiny_model(),
        helpers.processor(),
        noisy_questions(),
        samples=1,
        n_samples=1024,
        n_bootstrap=100,
        progress=False,
    )
    for name in (
        "answer_sensitivity",
        "forward_kl",
        "reverse_kl",
        "prior_spread",
        "posterior_spread",
        "answer_entropy",
    ):
        expected = whole.measures[name]
        assert expected is not None
        assert value(result, name) == pytest.approx(expected.mean, rel=1e-4), name
    for name in ("leaked_information", "known_answer_leakage"):
        errors = (result.monte_carlo_error[name]["whole"], whole.monte_carlo_error[name])
        expected = whole.measures[name]
        assert expected is not None and errors[1] is not None
        assert abs(value(result, name) - expected.mean) < 4 * math.hypot(*errors)


def test_every_measure_is_there_for_slots_and_tasks_and_is_json() -> None:
    data = json.loads(json.dumps(measured().to_dict(), allow_nan=False))
    assert set(data["whole"]) == set(WHOLE_MEASURES) == set(data["units"])
    assert set(data["slots"]) == set(SLOT_MEASURES)
    assert set(data["tasks"]) == {"task 0", "task 1"}
    for part in (data, *data["tasks"].values()):
        assert all(len(item) == 3 for item in part["slots"].values())
    assert data["tasks"]["task 0"]["whole"]["forward_kl"]["n"] == 4
    without = slot_report(entries([1.0]), n_samples=10, n_bootstrap=10)
    assert without.whole["known_answer_leakage"] is None
    assert without.monte_carlo_error["known_answer_leakage"] == {"whole": None, "slots": [None]}


def test_what_cannot_be_measured_is_refused() -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    for arguments, message in (
        ((model.backbone, processor, asked), "model with latents"),
        ((model, processor, []), "empty set"),
        ((model, processor, [replace(asked[0], choices=("a",), answer=0)]), "at least 2 options"),
        ((model, processor, [replace(asked[0], answer=None)]), "known answer"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_slots(*arguments, progress=False)
