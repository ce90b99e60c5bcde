"""Posteriors of every option of a question, q(z|x,a): what all measures of leakage start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, QuestionBatch, batches, inference, latent_scorer
from amvl_model.models.distributions import DiagonalGaussian, kl_per_dimension


@dataclass(frozen=True, kw_only=True)
class OptionPosteriors:
    """The distributions of one question, as float64 arrays.

    Attributes:
        question: the question.
        prior_mean, prior_std: (k, d), of p(Z|x).
        posterior_means, posterior_stds: (options, k, d), of q(Z|x,a) for every option a.
    """

    question: VisualQuestion
    prior_mean: np.ndarray
    prior_std: np.ndarray
    posterior_means: np.ndarray
    posterior_stds: np.ndarray


def option_posteriors(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    batch_size: int = 64,
    *,
    needs_answer: bool = False,
    progress: bool = True,
) -> list[OptionPosteriors]:
    """Prior and the posterior of every option of every question, x encoded once per question.

    The questions' own answers are not needed, unless ``needs_answer`` says that what comes after needs them.

    Raises:
        ValueError: for a model without latents, an empty set, a question with fewer than two options or, if needed, one
            without a known answer.
    """
    scorer = latent_scorer(model, processor)
    result: dict[int, OptionPosteriors] = {}
    with inference(scorer.model):
        for batch in batches(
            questions,
            scorer.processor,
            batch_size,
            description="option posteriors",
            progress=progress,
            least_options=2,
            needs_answer=needs_answer,
        ):
            query = scorer.encode_batch(batch)
            for index, entry in zip(batch.index, _distributions(scorer, query, batch), strict=True):
                result[index] = entry
    return [result[i] for i in range(len(questions))]


def _distributions(scorer: LatentScorer, query: EncodedQuery, batch: QuestionBatch) -> list[OptionPosteriors]:
    assert query.prior is not None
    posterior = scorer.option_posteriors(query, batch.options)
    prior_mean, prior_std = as_numpy(query.prior.mean), as_numpy(query.prior.std)
    means, stds = as_numpy(posterior.mean), as_numpy(posterior.std)
    return [
        OptionPosteriors(
            question=question,
            prior_mean=prior_mean[row],
            prior_std=prior_std[row],
            posterior_means=means[row, : len(question.choices)],
            posterior_stds=stds[row, : len(question.choices)],
        )
        for row, question in enumerate(batch.questions)
    ]


def divergences_and_spreads(prior: DiagonalGaussian, posterior: DiagonalGaussian) -> dict[str, np.ndarray]:
    """Both KLs, summed over the latents [nats], and the mean standard deviation of both [latent], each (B,), by name."""
    return {
        "forward_kl": as_numpy(kl_per_dimension(posterior, prior).flatten(1).sum(1)),
        "reverse_kl": as_numpy(kl_per_dimension(prior, posterior).flatten(1).sum(1)),
        "prior_spread": as_numpy(prior.std.flatten(1).mean(1)),
        "posterior_spread": as_numpy(posterior.std.flatten(1).mean(1)),
    }


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as float64 on the CPU."""
    return tensor.detach().double().cpu().numpy()
