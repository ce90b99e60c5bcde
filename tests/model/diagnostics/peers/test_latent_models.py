"""The protocol: what a foreign model offers is measured, what it lacks is not applicable, and a wrong shape is one error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.diagnostics import intervention_report
from amvl_model.diagnostics.peers import diagnose_adapter
from amvl_model.diagnostics.report.suite import DIAGNOSTICS, Plan
from amvl_model.evaluation.latent_models import ForeignScorer, LatentModel, NotApplicableError, PosteriorModel
from amvl_model.models.distributions import DiagonalGaussian

OPTIONS, SLOTS, SIZE = 3, 2, 4


class Foreign:
    """Its latents point at an option; an answer scores by how far they do."""

    def __init__(self, reads: bool = True) -> None:
        self.module: nn.Module = nn.Linear(SIZE, OPTIONS, bias=False)
        self.reads = reads
        with torch.no_grad():
            self.module.weight.copy_(torch.eye(OPTIONS, SIZE))

    def encode(self, questions: Sequence[VisualQuestion]) -> list[int]:
        return [q.answer or 0 for q in questions]

    def latents(self, query: list[int]) -> Tensor | DiagonalGaussian:
        z = torch.zeros(len(query), SLOTS, SIZE)
        z[torch.arange(len(query)), :, torch.tensor(query)] = 5.0
        return z

    def option_log_probs(self, query: list[int], z: Tensor) -> Tensor:
        scores: Tensor = self.module(z.mean(1)).log_softmax(-1)
        return scores if self.reads else scores * 0


class Posterior(Foreign):
    """The same with Z drawn, and a posterior that points at the option it is shown."""

    def latents(self, query: list[int]) -> DiagonalGaussian:
        mean = torch.as_tensor(super().latents(query))
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    def posterior(self, query: list[int], options: Sequence[int]) -> DiagonalGaussian:
        return self.latents(list(options))


def questions(n: int = 12) -> list[VisualQuestion]:
    choices = tuple("abc"[:OPTIONS])
    return [
        VisualQuestion(
            id=str(i), images=(), prompt="?", choices=choices, answer=i % 3, answer_text=option_letter(i % 3), task="t"
        )
        for i in range(n)
    ]


def diagnosed(adapter: Any, **settings: Any) -> Any:
    settings = {
        "questions": questions(),
        "samples": 2,
        "n_samples": 64,
        "n_bootstrap": 200,
        "progress": False,
        **settings,
    }
    return diagnose_adapter("foreign", adapter, tuple(DIAGNOSTICS), Plan(**settings))


def test_latents_that_carry_the_answer_matter_and_unread_ones_do_not() -> None:
    assert isinstance(Foreign(), LatentModel)
    assert not isinstance(Foreign(), PosteriorModel)
    report = diagnosed(Foreign()).reports["interventions"]
    assert report.matters
    assert report.content_matters
    assert report.conditions["prior_mean"].accuracy.mean == 1.0
    assert report.conditions["zeroed"].answer_nll.mean == pytest.approx(np.log(OPTIONS))
    donors, asked = report.donors, questions()
    same = np.mean([asked[donor].answer == q.answer for donor, q in zip(donors, asked, strict=True)])
    assert report.conditions["shuffled"].accuracy.mean == pytest.approx(same)
    unread = diagnosed(Foreign(reads=False)).reports["interventions"]
    assert not unread.matters
    assert unread.verdict.startswith("No causal effect")


def test_a_model_without_posterior_gets_its_interventions_and_nothing_else() -> None:
    result = diagnosed(Foreign())
    assert set(result.reports) == {"interventions"}
    assert set(result.refused) == set(DIAGNOSTICS) - {"interventions"}
    assert all(reason.startswith("not applicable") for reason in result.refused.values())
    scorer = ForeignScorer(Foreign())
    with pytest.raises(NotApplicableError, match="Foreign has no answer-dependent posterior"):
        scorer.posterior(None, [0])  # type: ignore[arg-type]


def test_leak_and_stability_are_measured_where_there_is_a_posterior() -> None:
    asked = questions()
    result = diagnosed(Posterior(), questions=asked, batch_size=5)
    assert {"contamination", "stability", "interventions", "mediation", "slots"} <= set(result.reports)
    measures = result.reports["contamination"].measures
    # posteriors 5 apart in two slots tell three options apart almost surely
    assert measures["leaked_information"].mean == pytest.approx(np.log(OPTIONS), abs=0.01)
    assert result.reports["mediation"].swap["follows_swapped"].mean == 1.0
    assert "prior_sample" in result.reports["interventions"].conditions
    assert set(result.refused) == {"cross-modal", "linear-response", "relevance"}


def test_noise_has_the_latents_own_mean_and_spread() -> None:
    prior = DiagonalGaussian(3.0 + 2.0 * torch.randn(50, 2, 3), torch.full((50, 2, 3), -torch.inf))
    noise = ForeignScorer(Foreign()).noise(prior)
    torch.testing.assert_close(noise.mean[7], prior.mean.mean(0))
    torch.testing.assert_close(noise.std[7], prior.mean.std(0, correction=0))


def test_what_is_no_latent_model_or_answers_in_wrong_shapes_is_one_clear_error() -> None:
    with pytest.raises(TypeError, match="expected a LatentModel, got Linear, which has no module, encode"):
        ForeignScorer(nn.Linear(2, 2))  # type: ignore[arg-type]

    class Flat(Foreign):
        def latents(self, query: list[int]) -> Tensor:
            return torch.zeros(len(query), SIZE)

    class Short(Foreign):
        def option_log_probs(self, query: list[int], z: Tensor) -> Tensor:
            return super().option_log_probs(query, z)[:, :2]

    with pytest.raises(ValueError, match=r"Flat: expected latents of the shape \(12, k, d\), got \(12, 4\)"):
        diagnosed(Flat())
    with pytest.raises(ValueError, match=r"Short: expected log-probabilities of the shape \(12, 3\)"):
        diagnosed(Short())
    scorer = ForeignScorer(Foreign())
    assert intervention_report(scorer, scorer.processor, questions(), n_bootstrap=100, progress=False).n == 12
