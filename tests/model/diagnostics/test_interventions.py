"""Replacing the latents: what is injected is what is said, and effects are found where there are any and only there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.diagnostics import InterventionReport, derangement, intervention_report
from amvl_model.diagnostics.causal.interventions import CONDITIONS, _verdict
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.scorers import latent_noise
from amvl_model.results.thresholds import SMALLEST
from tests import helpers
from tests.model.evaluation.test_evaluation import OPTIONS, choice_question, questions


def run(model: Any, asked: Any = None, **settings: Any) -> InterventionReport:
    settings = {"batch_size": 3, "samples": 2, "n_bootstrap": 500, "progress": False, **settings}
    return intervention_report(model, helpers.processor(), questions() if asked is None else asked, **settings)


@pytest.mark.parametrize("n", [2, 3, 4, 17, 100])
def test_shuffling_is_a_derangement(n: int) -> None:
    for seed in range(10):
        donors = derangement(n, seed)
        assert sorted(donors.tolist()) == list(range(n))
        assert (donors != np.arange(n)).all()
    assert n < 4 or derangement(n, 0).tolist() != derangement(n, 1).tolist()


@torch.inference_mode()
def test_every_condition_injects_what_it_says() -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    report = run(model, seed=5)
    priors = [model.encode_query(processor([q], answers=False))[1] for q in asked]
    shape = tuple(priors[0].mean.shape[1:])
    assert any(abs(donor - i) > 2 for i, donor in enumerate(report.donors))  # shuffling crosses batches of three
    expected: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    for i, question in enumerate(asked):
        prior = priors[i]
        drawn = prior.mean + prior.std * latent_noise(5, i, 2, shape)
        latents = {
            "prior_mean": prior.mean,
            "prior_sample": drawn,
            "zeroed": torch.zeros_like(prior.mean),
            "shuffled": priors[report.donors[i]].mean,
            "noise": latent_noise(6, i, 2, shape),
        }
        one = processor([question])
        for name, z in latents.items():
            expected[name].append(np.mean([float(model(**one, latents=row[None]).answer_nll) for row in z]))
    for name, values in expected.items():
        assert report.conditions[name].answer_nll.mean == pytest.approx(np.mean(values), abs=1e-4), name
        difference = report.conditions[name].nll_difference
        if name == "prior_mean":
            assert difference is None
        else:
            assert difference is not None
            assert difference.mean == pytest.approx(np.mean(values) - np.mean(expected["prior_mean"]), abs=2e-4)


def test_latents_that_are_not_read_have_no_effect() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.injector.weight.zero_()
    report = run(model)
    assert not report.matters
    assert not report.content_matters
    assert "does not answer yet" in report.verdict  # random weights
    for name in CONDITIONS[1:]:
        effect = report.conditions[name]
        assert effect.nll_difference is not None
        assert effect.accuracy_difference is not None
        assert effect.total_variation is not None
        assert effect.nll_difference.mean == effect.accuracy_difference.mean == effect.total_variation.mean == 0.0


def test_latents_that_decide_the_answer_are_found_to_matter() -> None:
    model = helpers.tiny_model()
    asked = [choice_question(i, 4, images=1) for i in range(24)]
    scored = evaluate(model, helpers.processor(), asked, scoring=("likelihood",), batch_size=12, progress=False)
    # what the model answers with the prior mean is declared right: without its latents it cannot know
    asked = [q.with_answer(r.predicted["likelihood"] or 0) for q, r in zip(asked, scored.records, strict=True)]
    report = run(model, asked, batch_size=12)
    assert report.conditions["prior_mean"].accuracy.mean == 1.0
    assert report.matters
    assert report.content_matters
    assert report.verdict.startswith("The latents matter causally on this checkpoint, and so does what they say")
    assert "zeroed latents change accuracy by -" in report.verdict
    zeroed = report.conditions["zeroed"].total_variation
    assert zeroed is not None
    assert 0 < zeroed.mean <= 1


def test_one_latent_for_all_questions_matters_without_content() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.prior_head.linear.weight.zero_()
        model.prior_head.linear.bias.fill_(1.0)
    asked = [choice_question(i, 4, images=1) for i in range(24)]
    scored = evaluate(model, helpers.processor(), asked, scoring=("likelihood",), batch_size=12, progress=False)
    asked = [q.with_answer(r.predicted["likelihood"] or 0) for q, r in zip(asked, scored.records, strict=True)]
    report = run(model, asked, batch_size=12)
    assert report.matters
    assert not report.content_matters
    assert "no effect of their content" in report.verdict
    assert report.conditions["shuffled"].answer_nll == report.conditions["prior_mean"].answer_nll


def _scores(shift: float, *, nll: float = 0.5, right: float = 0.9, n: int = 400) -> dict[str, dict[str, np.ndarray]]:
    """Scores in which shuffling changes every question's NLL by ``shift`` with a little scatter, and nothing else."""
    rng = np.random.default_rng(0)
    own = {"nll": nll + 0.1 * rng.normal(size=n), "accuracy": (np.arange(n) < right * n).astype(float)}
    moved = own | {"nll": own["nll"] + shift + 0.001 * rng.normal(size=n)}
    return {"prior_mean": own, "zeroed": own, "noise": own, "shuffled": moved}


@pytest.mark.parametrize(
    ("scores", "matters", "begin"),
    [
        (_scores(0.05), True, "The latents matter causally"),
        (_scores(0.001), False, "No causal effect"),  # far outside its interval of 0.0001, and nothing to speak of
        (_scores(0.6, nll=8.4, right=0.4), False, "This checkpoint does not answer yet"),
    ],
)
def test_a_causal_claim_needs_a_size_and_a_model_that_answers(scores: Any, matters: bool, begin: str) -> None:
    result = _verdict(scores, np.full(400, 4), 0.95, {"n_bootstrap": 500, "seed": 0})
    assert result[:2] == (matters, matters)
    assert result[2].startswith(begin)


def test_batch_size_does_not_change_the_report_and_seeds_do() -> None:
    model = helpers.tiny_model()
    first, other, third = run(model), run(model, batch_size=7), run(model, seed=1)
    for name in CONDITIONS:
        a, b = first.conditions[name], other.conditions[name]
        assert a.answer_nll.mean == pytest.approx(b.answer_nll.mean, abs=1e-4)
        assert a.accuracy.mean == pytest.approx(b.accuracy.mean)
    assert first.conditions["noise"].answer_nll != third.conditions["noise"].answer_nll


def test_the_report_is_json_and_reads_as_a_table() -> None:
    report = run(helpers.tiny_model())
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(data["conditions"]) == set(CONDITIONS)
    assert data["n"] == len(OPTIONS)
    assert data["conditions"]["prior_mean"]["nll_difference"] is None
    assert data["conditions"]["noise"]["draws"] == 2
    assert "zeroed" in report.table()
    assert report.table().count("\n") == 1 + len(CONDITIONS)


def test_what_cannot_be_intervened_on_is_refused() -> None:
    model, asked = helpers.tiny_model(), questions()
    for subject, given, message in (
        (model.backbone, asked, "model with latents"),
        (model, [], "empty set"),
        (model, asked[:1], "at least two questions"),
        (model, [asked[0], replace(asked[1], answer=None)], "known answer"),
        (model, [asked[0], replace(asked[1], choices=("only",), answer=0)], "at least 2 options"),
    ):
        with pytest.raises(ValueError, match=message):
            run(subject, given)
    with pytest.raises(ValueError, match="samples"):
        run(model, samples=0)
    with pytest.raises(ValueError, match="two questions"):
        derangement(1, 0)


def test_importing_the_diagnostics_does_not_import_transformers(python: Any) -> None:
    result = python("-c", "import sys, amvl_model.diagnostics; sys.exit('transformers' in sys.modules)", timeout=110)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("run", ["main_job", "main_job_again"])
def test_stored_verdicts_need_an_effect_size(run: str) -> None:
    file = Path(__file__).parents[3] / "results" / run / "diagnostics.json"
    for name, model in json.loads(file.read_text()).items():
        report = model["interventions"]
        shuffled = report["conditions"]["shuffled"]
        sizes = {kind: abs(shuffled[f"{kind}_difference"]["mean"]) for kind in ("accuracy", "nll")}
        if all(size < SMALLEST[kind] for kind, size in sizes.items()):
            assert not report["content_matters"], name
        assert ("so does what they say" in report["verdict"]) == report["content_matters"], name
