"""Known leakage is measured right; the measures of a checkpoint equal what separate encodings give."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics import (
    ContaminationReport,
    answer_sensitivity,
    contamination_report,
    leaked_information,
    leaked_information_batch,
    option_posteriors,
)
from amvl_model.diagnostics.leakage.contamination import MEASURES
from amvl_model.diagnostics.leakage.information import entropy
from tests import helpers
from tests.model.evaluation.test_evaluation import OPTIONS, questions


def by_quadrature(means: list[float], stds: list[float], weights: list[float]) -> float:
    """sum_a w_a KL(q_a || q) of one-dimensional Gaussians, nats."""

    def density(z: float) -> float:
        parts = [w * norm.pdf(z, m, s) for m, s, w in zip(means, stds, weights, strict=True)]
        total = sum(parts)
        return sum(p * math.log(p / w / total) for p, w in zip(parts, weights, strict=True) if p > 0)

    return float(quad(density, min(means) - 9 * max(stds), max(means) + 9 * max(stds), limit=400, epsabs=1e-9)[0])


def test_far_apart_posteriors_leak_the_whole_answer() -> None:
    nats, error = leaked_information([[0.0, 0.0], [40.0, 0.0]], np.ones((2, 2)))
    assert nats == pytest.approx(math.log(2), abs=1e-9)
    assert error < 1e-9
    four = leaked_information(100 * np.eye(4, 6), np.full((4, 6), 0.3))[0]
    assert four == pytest.approx(math.log(4), abs=1e-9)


def test_posteriors_blind_to_the_answer_leak_nothing() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=64), rng.uniform(0.1, 2.0, 64)
    nats, error = leaked_information(np.tile(mean, (4, 1)), np.tile(std, (4, 1)))
    assert nats == pytest.approx(0.0, abs=1e-12)
    assert error == pytest.approx(0.0, abs=1e-12)
    assert answer_sensitivity(np.tile(mean, (4, 1)), np.tile(std, (4, 1))) == 0.0


@pytest.mark.parametrize(
    ("means", "stds", "weights"),
    [
        ([0.0, 0.2], [1.0, 1.0], [0.5, 0.5]),
        ([0.0, 1.5], [1.0, 1.0], [0.5, 0.5]),
        ([0.0, 4.0], [1.0, 1.0], [0.5, 0.5]),
        ([0.0, 1.5], [1.0, 1.0], [0.9, 0.1]),
        ([0.0, 0.0], [1.0, 0.2], [0.5, 0.5]),
        ([0.0, 1.0, -2.0], [1.0, 0.3, 2.0], [0.2, 0.5, 0.3]),
    ],
)
def test_leaked_information_equals_quadrature(means: list[float], stds: list[float], weights: list[float]) -> None:
    expected = by_quadrature(means, stds, weights)
    column = (np.array(means)[:, None], np.array(stds)[:, None])
    nats, error = leaked_information(*column, weights, n_samples=20_000, seed=1)
    assert abs(nats - expected) < 4 * error
    assert 0 < error < 0.01


def test_only_the_distance_between_posteriors_counts_not_the_number_of_dimensions() -> None:
    expected = by_quadrature([0.0, 1.5], [1.0, 1.0], [0.5, 0.5])
    direction = np.random.default_rng(2).normal(size=48)
    means = np.stack([np.zeros(48), 1.5 * direction / np.linalg.norm(direction)]) + 100.0
    nats, error = leaked_information(means, np.ones_like(means), n_samples=20_000)
    assert abs(nats - expected) < 4 * error


def test_the_standard_error_is_the_spread_over_seeds() -> None:
    means, stds = np.array([[0.0, 0.0], [1.0, 0.5], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.5, 1.0], [1.0, 2.0]])
    runs = [leaked_information(means, stds, n_samples=500, seed=s) for s in range(200)]
    spread = np.std([nats for nats, _ in runs], ddof=1)
    assert spread == pytest.approx(np.mean([error for _, error in runs]), rel=0.2)


def test_weights_bound_the_leakage_by_their_entropy_and_zero_weights_drop_out() -> None:
    means, stds = np.array([[0.0], [50.0], [-50.0]]), np.ones((3, 1))
    weights = [0.8, 0.15, 0.05]
    nats, _ = leaked_information(means, stds, weights, n_samples=200)
    assert nats == pytest.approx(float(entropy(weights)), abs=1e-9)
    close = np.array([[0.0], [1.0], [7.0]])
    with_zero = leaked_information(close, stds, [0.3, 0.7, 0.0])
    assert with_zero == leaked_information(close[:2], stds[:2], [0.3, 0.7])
    assert leaked_information(close, stds, [1.0, 0.0, 0.0]) == (0.0, 0.0)
    rng = np.random.default_rng(0)
    for _ in range(20):  # few draws: the noise would leave the bound
        w = rng.dirichlet([0.3, 0.3, 0.3])
        nats, _ = leaked_information(20 * rng.normal(size=(3, 2)), np.full((3, 2), 3.0), w, n_samples=4)
        assert 0.0 <= nats <= entropy(w)


def test_extreme_posteriors_stay_finite() -> None:
    means = np.array([[0.0] * 64, [1e4] * 64, [0.0] * 64])
    stds = np.array([[1e-3] * 64, [1e3] * 64, [1e2] * 64])
    nats, error = leaked_information(means, stds)
    assert nats == pytest.approx(math.log(3), abs=1e-6)
    assert math.isfinite(error)


def test_batch_equals_single_questions_and_takes_tensors() -> None:
    rng = np.random.default_rng(3)
    means, stds = rng.normal(size=(6, 3, 5)), np.exp(0.3 * rng.normal(size=(6, 3, 5)))
    weights = rng.dirichlet([2.0] * 3, size=6)
    nats, errors = leaked_information_batch(torch.tensor(means), torch.tensor(stds), weights, 4096, 5)
    assert (nats[0], errors[0]) == leaked_information(torch.tensor(means[0]), stds[0], weights[0], 4096, 5)
    for i in range(6):
        single, error = leaked_information(means[i], stds[i], weights[i], seed=100 + i)
        assert abs(single - nats[i]) < 4 * math.hypot(error, errors[i])
    sensitivities = answer_sensitivity(means, stds)
    assert sensitivities[4] == pytest.approx(float(answer_sensitivity(means[4], stds[4])))


def test_draws_do_not_depend_on_how_they_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    means, stds = np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((2, 2))
    whole = leaked_information(means, stds, n_samples=1000)
    monkeypatch.setattr("amvl_model.diagnostics.leakage.information._CHUNK", 34)
    assert leaked_information(means, stds, n_samples=1000) == pytest.approx(whole, rel=1e-12)


def test_a_hundred_questions_take_seconds() -> None:
    means = np.random.default_rng(0).normal(size=(100, 4, 64))
    began = time.process_time()
    leaked_information_batch(means, np.ones_like(means))
    assert time.process_time() - began < 4  # half a second on a free core


def test_answer_sensitivity_is_the_mean_over_ordered_pairs() -> None:
    means = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    stds = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]])
    pairs = [
        sum((means[a, i] - means[b, i]) ** 2 / ((stds[a, i] ** 2 + stds[b, i] ** 2) / 2) for i in range(2))
        for a in range(3)
        for b in range(3)
        if a != b
    ]
    assert answer_sensitivity(means, stds) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("means", "stds", "weights", "message"),
    [
        (np.zeros((1, 3)), np.ones((1, 3)), None, "at least two options"),
        (np.zeros((2, 3)), np.ones((3, 3)), None, "one shape"),
        (np.zeros((2, 2, 3)), np.ones((2, 2, 3)), None, "leaked_information_batch"),
        (np.zeros((2, 3)), np.zeros((2, 3)), None, "positive"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), None, "finite"),
        (np.zeros((2, 3)), np.ones((2, 3)), [0.5, 0.6], "sum 1"),
        (np.zeros((2, 3)), np.ones((2, 3)), [1.5, -0.5], "at least 0"),
        (np.zeros((2, 3)), np.ones((2, 3)), [1.0], "one entry per option"),
    ],
)
def test_what_is_no_set_of_posteriors_is_refused(means: Any, stds: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        leaked_information(means, stds, weights)


# ---------------------------------------------------------------------- on a model


def noisy_questions() -> list[VisualQuestion]:
    """The first five with known answer probabilities (label noise 0.3), the rest without."""
    result = []
    for i, question in enumerate(questions()):
        n = len(question.choices)
        probs = tuple(0.7 if a == question.answer else 0.3 / (n - 1) for a in range(n))
        result.append(replace(question, answer_probs=probs if i < 5 else None))
    return result


@lru_cache(maxsize=1)
def report() -> ContaminationReport:
    return contamination_report(
        helpers.tiny_model(), helpers.processor(), noisy_questions(), batch_size=3, n_samples=500, progress=False
    )


def mean(found: ContaminationReport, name: str) -> float:
    interval = found.measures[name]
    assert interval is not None
    return interval.mean


@torch.inference_mode()
def test_posteriors_from_one_encoding_equal_separate_encodings() -> None:
    model, processor = helpers.tiny_model(), helpers.processor()
    hidden = [replace(q, answer=None, answer_text="") for q in questions()]  # the given answer is not needed
    result = option_posteriors(model, processor, hidden, batch_size=4, progress=False)
    for entry, question in zip(result, questions(), strict=True):
        assert entry.posterior_means.shape == (len(question.choices), 3, 8)
        for option in range(len(question.choices)):
            prior, posterior = model.latent_distributions(processor([question.with_answer(option)]))
            for ours, theirs in (
                (entry.prior_mean, prior.mean),
                (entry.prior_std, prior.std),
                (entry.posterior_means[option], posterior.mean),
                (entry.posterior_stds[option], posterior.std),
            ):
                np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_kls_and_gaps_equal_full_forward_passes() -> None:
    model, processor, result = helpers.tiny_model(), helpers.processor(), report()
    for i, question in enumerate(questions()):
        one = processor([question])
        prior, posterior = model.latent_distributions(one)
        p, q = (torch.distributions.Normal(g.mean, g.std) for g in (prior, posterior))
        nll = {kind: float(model(**one, latents=f"{kind}_mean").answer_nll) for kind in ("prior", "posterior")}
        expected = {
            "forward_kl": float(torch.distributions.kl_divergence(q, p).sum()),
            "reverse_kl": float(torch.distributions.kl_divergence(p, q).sum()),
            "nll_prior_mean": nll["prior"],
            "nll_gap_mean": nll["posterior"] - nll["prior"],
            "prior_spread": float(prior.std.mean()),
            "posterior_spread": float(posterior.std.mean()),
            "leakage_bound": math.log(OPTIONS[i]),
        }
        for name, value in expected.items():
            assert result.per_question[name][i] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_the_report_holds_every_measure_with_its_interval() -> None:
    result = report()
    assert set(result.measures) == set(MEASURES) == set(result.per_question)
    for name, interval in result.measures.items():
        assert interval is not None, name
        assert interval.n == (5 if name in ("known_answer_leakage", "answer_entropy") else len(OPTIONS))
    for i, leaked in enumerate(result.per_question["leaked_information"]):
        assert leaked is not None
        assert 0 < leaked <= math.log(OPTIONS[i])
    known, limit = result.per_question["known_answer_leakage"], result.per_question["answer_entropy"]
    assert known[5:] == limit[5:] == [None, None]
    assert all(a is not None and b is not None and 0 < a <= b for a, b in zip(known[:5], limit[:5], strict=True))
    assert limit[0] == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))
    assert mean(result, "nll_gap_sample") == pytest.approx(
        mean(result, "nll_posterior_sample") - mean(result, "nll_prior_sample")
    )
    error = result.monte_carlo_error["leaked_information"]
    assert error is not None
    assert 0 < error < 0.05
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["measures"]["leaked_information"]["unit"] == "nats"
    assert result.by_task("leaked_information")["task 0"] is not None
    assert "answer_sensitivity" in result.table()
    assert "nats" in result.sentence()


def test_batch_size_does_not_change_the_report() -> None:
    other = contamination_report(
        helpers.tiny_model(), helpers.processor(), noisy_questions(), batch_size=7, n_samples=500, progress=False
    )
    for name, column in report().per_question.items():
        for a, b in zip(column, other.per_question[name], strict=True):
            if a is None or b is None:
                assert a is b, name
            else:
                assert a == pytest.approx(b, rel=1e-3, abs=1e-3), name


def test_a_posterior_that_cannot_see_the_answer_leaks_nothing() -> None:
    model = helpers.tiny_model()
    with torch.no_grad():
        model.posterior_head.linear.weight.zero_()
    result = contamination_report(model, helpers.processor(), noisy_questions(), n_samples=100, progress=False)
    for name in ("leaked_information", "known_answer_leakage", "answer_sensitivity"):
        assert mean(result, name) == pytest.approx(0.0, abs=1e-9)


def test_without_known_probabilities_there_is_no_known_answer_leakage() -> None:
    result = contamination_report(
        helpers.tiny_model(), helpers.processor(), questions()[:2], samples=1, n_samples=100, progress=False
    )
    assert result.measures["known_answer_leakage"] is None
    assert result.monte_carlo_error["known_answer_leakage"] is None
    assert " - " in result.table()


@pytest.mark.parametrize("diagnose", [contamination_report, option_posteriors])
def test_models_and_questions_that_cannot_be_diagnosed_are_refused(diagnose: Any) -> None:
    model, processor, asked = helpers.tiny_model(), helpers.processor(), questions()
    one_option = replace(asked[0], choices=("only",), answer=0)
    for arguments, message in (
        ((model.backbone, processor, asked), "model with latents"),
        ((model, processor, []), "empty set"),
        ((model, processor, [replace(asked[0], choices=(), answer=None)]), "without choices"),
        ((model, processor, [asked[1], one_option]), "at least 2 options"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnose(*arguments, progress=False)
    with pytest.raises(ValueError, match="known answer"):
        contamination_report(model, processor, [replace(asked[0], answer=None)], progress=False)
    with pytest.raises(ValueError, match="samples"):
        contamination_report(model, processor, asked, samples=0, progress=False)
