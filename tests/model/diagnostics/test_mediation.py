"""What is swapped and knocked out is what is said; effects are found where there are any and only there."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.diagnostics import MediationReport, intervention_report, measure_mediation
from amvl_model.diagnostics.causal.mediation import KNOCK_OUTS, SWAP_FIGURES, _verdict
from amvl_model.diagnostics.common.effects import answer_kl, total_variation
from amvl_model.results.statistics import Interval
from tests import helpers
from tests.model.evaluation.test_evaluation import questions


def run(model: Any = None, asked: Any = None, **settings: Any) -> MediationReport:
    settings = {"batch_size": 3, "n_bootstrap": 200, "progress": False, **settings}
    return measure_mediation(
        helpers.tiny_model() if model is None else model, helpers.processor(), asked or questions(), **settings
    )


@lru_cache(maxsize=1)
def measured() -> MediationReport:
    return run()


def test_distances_of_answer_distributions_are_torchs() -> None:
    rng = np.random.default_rng(0)
    p, r = (torch.tensor(rng.dirichlet([1.0] * 4, size=5)) for _ in range(2))
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(probs=x) for x in (r, p)))
    np.testing.assert_allclose(answer_kl(p.log().numpy(), r.log().numpy()), expected.numpy())
    np.testing.assert_allclose(total_variation(p.log().numpy(), r.log().numpy()), 0.5 * (p - r).abs().sum(1).numpy())
    padded = [*np.log([0.25, 0.75]).tolist(), -np.inf]
    assert answer_kl(padded, padded) == total_variation(padded, padded) == 0.0


@torch.inference_mode()
def test_the_swap_equals_full_forward_passes_with_the_other_posteriors() -> None:
    model, processor, result = helpers.tiny_model(), helpers.processor(), measured()
    for i, question in enumerate(questions()):
        options, answer = range(len(question.choices)), question.answer
        assert answer is not None
        ones = [processor([question.with_answer(b)]) for b in options]
        means = [model.latent_distributions(one)[1].mean for one in ones]
        # (shown option, scored option): log p of the scored option with the posterior mean of the shown one
        scores = torch.tensor([[-float(model(**one, latents=mean).answer_nll) for one in ones] for mean in means])
        shares = scores.log_softmax(1).double().numpy()
        others = [b for b in options if b != answer]
        expected = {
            "accuracy_given": float(shares[answer].argmax() == answer),
            "accuracy_swapped": np.mean([shares[b].argmax() == answer for b in others]),
            "follows_swapped": np.mean([shares[b].argmax() == b for b in others]),
            "log_odds_shift": np.mean(
                [shares[b][b] - shares[b][answer] - shares[answer][b] + shares[answer][answer] for b in others]
            ),
            "total_variation": np.mean([total_variation(shares[b], shares[answer]) for b in others]),
            "answer_kl": np.mean([answer_kl(shares[b], shares[answer]) for b in others]),
        }
        for name, value in expected.items():
            assert result.per_question[name][i] == pytest.approx(value, rel=1e-3, abs=1e-3), (i, name)


def test_all_slots_at_once_equal_the_interventions_of_the_same_kind() -> None:
    model, asked = helpers.tiny_model(), questions()
    result, report = (
        measured(),
        intervention_report(model, helpers.processor(), asked, samples=1, n_bootstrap=200, progress=False),
    )
    assert result.donors == report.donors
    for ours, theirs in (("zero", "zeroed"), ("other", "shuffled")):
        effect = report.conditions[theirs]
        for name in ("accuracy_difference", "nll_difference", "total_variation", "answer_kl"):
            expected = getattr(effect, name)
            assert result.whole[ours][name].mean == pytest.approx(expected.mean, rel=1e-3, abs=1e-3), (ours, name)


@torch.inference_mode()
def test_a_slot_is_knocked_out_alone() -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    priors = [model.encode_query(processor([q], answers=False))[1].mean for q in asked]
    average, changes = torch.stack(priors).mean(0), {name: [] for name in KNOCK_OUTS}
    for i, question in enumerate(asked):
        one = processor([question])
        before = float(model(**one, latents=priors[i]).answer_nll)
        new = {"zero": torch.zeros_like(priors[i]), "other": priors[measured().donors[i]], "average": average}
        for name, values in new.items():
            z = priors[i].clone()
            z[:, 1] = values[:, 1]
            changes[name].append(float(model(**one, latents=z).answer_nll) - before)
    for name, values in changes.items():
        assert len(measured().slots[name]) == 3
        assert measured().slots[name][1]["nll_difference"].mean == pytest.approx(np.mean(values), abs=1e-3)


def test_latents_that_are_not_read_mediate_nothing() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.injector.weight.zero_()
    result = run(model)
    for name in ("accuracy_difference", "log_odds_shift", "total_variation", "answer_kl"):
        assert result.swap[name].mean == pytest.approx(0.0, abs=1e-6)
    for name in KNOCK_OUTS:
        assert all(effect["total_variation"].mean == pytest.approx(0.0, abs=1e-6) for effect in result.slots[name])
    assert "was not found to read" in result.verdict
    assert "No single slot" in result.verdict


@pytest.mark.parametrize(("shift", "reads"), [(0.001, False), (0.5, True), (-0.5, False)])
def test_the_decoder_reads_only_what_shifts_the_log_odds_by_enough(shift: float, reads: bool) -> None:
    ends = {"low": shift - 0.0005, "high": shift + 0.0005, "n": 140}
    swap = {"log_odds_shift": Interval(mean=shift, **ends), "follows_swapped": Interval(mean=0.17, **ends)}
    settings = {"n_bootstrap": 200, "seed": 0, "level": 0.95}
    scatter = 0.0001 * np.random.default_rng(0).normal(size=140)
    knocked = np.stack([[0 * scatter, 0.001 + scatter], [0 * scatter, 0.3 + scatter], [0 * scatter, 0.3 + scatter]])
    text = _verdict(swap, knocked, settings)
    assert text.startswith("The decoder reads" if reads else "The decoder was not found to read")
    assert "slot 0" not in text and "slot 1 (answer NLL by +0.300" in text


def test_a_posterior_blind_to_the_answer_has_nothing_to_swap() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.posterior_head.linear.weight.zero_()
    result = run(model)
    assert result.swap["answer_kl"].mean == pytest.approx(0.0, abs=1e-9)
    assert result.swap["accuracy_swapped"].mean == result.swap["accuracy_given"].mean
    assert result.whole["zero"]["total_variation"].mean > 0.01  # the prior is read all the same


def test_batch_size_does_not_change_the_report_which_is_json() -> None:
    other = run(batch_size=7)
    for name in SWAP_FIGURES:
        assert other.swap[name].mean == pytest.approx(measured().swap[name].mean, abs=1e-3), name
    data = json.loads(json.dumps(other.to_dict(), allow_nan=False))
    assert set(data["slots"]) == set(data["whole"]) == set(KNOCK_OUTS)
    assert "of the answers follow it" in data["verdict"]


def test_what_cannot_be_intervened_on_is_refused() -> None:
    model, asked = helpers.tiny_model(), questions()
    for subject, given, message in (
        (model.backbone, asked, "model with latents"),
        (model, asked[:1], "at least two questions"),
        (model, [asked[0], replace(asked[1], answer=None)], "known answer"),
        (model, [asked[0], replace(asked[1], choices=("only",), answer=0)], "at least 2 options"),
    ):
        with pytest.raises(ValueError, match=message):
            run(subject, given)
    with pytest.raises(ValueError, match="empty set"):
        measure_mediation(model, helpers.processor(), [], progress=False)
