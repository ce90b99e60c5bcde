"""Latent-reasoning models of other projects: what one must offer so that the diagnostics can measure it.

    encode                x of several questions, once
    latents               the Z that the model puts behind x when it answers, or their distribution p(Z|x)
    option_log_probs      log p(a|x,Z) of every option a with the latents that are given
    posterior             q(Z|x,a), for models that have one (`PosteriorModel`)

The first three are enough for "Do the latents matter?"; leaked information, stability and whatever else compares prior and
posterior need the fourth. An adapter of a project's checkpoints is a class with these methods and the module itself; it
derives from nothing. `amvl_model.diagnostics.peers` contains two.

    scorer = ForeignScorer(adapter)
    report = intervention_report(scorer, scorer.processor, questions)

Shapes: B questions, k latents, d numbers of a latent, O the most options that a question of the batch has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.question_batches import QuestionBatch
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer
from amvl_model.models.checkpoints import check_weights
from amvl_model.models.distributions import DiagonalGaussian

__all__ = ["ForeignScorer", "LatentModel", "NotApplicableError", "PosteriorModel"]


class NotApplicableError(ValueError):
    """A measure that a model has no quantity for."""


@runtime_checkable
class LatentModel(Protocol):
    """A model that answers behind latents.

    Attributes:
        module: all of its weights; evaluation switches it to eval mode and back.
    """

    module: torch.nn.Module

    def encode(self, questions: Sequence[VisualQuestion]) -> Any:
        """B questions, encoded; whatever the other methods need of them. Answers are not looked at."""

    def latents(self, query: Any) -> Tensor | DiagonalGaussian:
        """Z (B, k, d) that the model itself uses, or their distribution if it draws them."""

    def option_log_probs(self, query: Any, z: Tensor) -> Tensor:
        """log p(a|x,Z) (B, O) in nats, the end of the answer included; anything where a question has fewer options.

        Args:
            query: from `encode`.
            z: (B, k, d) latents in place of the model's own.
        """


@runtime_checkable
class PosteriorModel(LatentModel, Protocol):
    """A model whose latents can also be inferred from question and answer."""

    def posterior(self, query: Any, options: Sequence[int]) -> DiagonalGaussian:
        """q(Z|x,a) (B, k, d) of one option, by index, for each question."""


class ForeignScorer(LatentScorer):
    """A `LatentModel` as a scorer: every diagnostic that needs no more than a scorer takes it in place of a model.

    Raises:
        TypeError: if the adapter lacks a part of the protocol.
        NonFiniteError: if a weight is NaN or infinite.
    """

    def __init__(self, adapter: Any) -> None:
        if not isinstance(adapter, LatentModel):
            missing = [n for n in ("module", "encode", "latents", "option_log_probs") if not hasattr(adapter, n)]
            raise TypeError(
                f"expected a LatentModel, got {type(adapter).__name__}, which has no {', '.join(missing)}; see "
                "amvl_model.evaluation.latent_models"
            )
        check_weights(adapter.module)
        self.adapter, self.model = adapter, adapter.module
        self.processor: Any = _no_tensors
        self.device = next(adapter.module.parameters()).device

    def encode_batch(self, batch: QuestionBatch) -> EncodedQuery:
        """Encode a batch; the prior of a model without randomness has the standard deviation 0."""
        query: Any = self.adapter.encode(batch.questions)
        latents = self.adapter.latents(query)
        if not isinstance(latents, DiagonalGaussian):
            latents = DiagonalGaussian(latents, torch.full_like(latents, -torch.inf))
        shape = tuple(latents.mean.shape)
        if len(shape) != 3 or shape[0] != len(batch.questions) or not shape[1]:
            raise ValueError(
                f"{self._name}: expected latents of the shape ({len(batch.questions)}, k, d), got {shape}; correct latents()"
            )
        return EncodedQuery(query, latents, None)

    def option_log_probs(self, query: EncodedQuery, z: Tensor | None, options: Sequence[int]) -> Tensor:
        assert z is not None
        state: Any = query.state
        log_probs = self.adapter.option_log_probs(state, z)
        expected = (len(options), max(options))
        if tuple(log_probs.shape) != expected or bool(log_probs.isnan().any()):
            raise ValueError(
                f"{self._name}: expected log-probabilities of the shape {expected} without NaN, got "
                f"{tuple(log_probs.shape)}; correct option_log_probs()"
            )
        there = (
            torch.arange(max(options), device=log_probs.device)
            < torch.tensor(options, device=log_probs.device)[:, None]
        )
        return log_probs.masked_fill(~there, -torch.inf)

    def posterior(self, query: EncodedQuery, answers: Sequence[int]) -> DiagonalGaussian:
        if not isinstance(self.adapter, PosteriorModel):
            raise NotApplicableError(
                f"not applicable: {self._name} has no answer-dependent posterior, so its latents cannot be compared with "
                "those that an answer would give"
            )
        state: Any = query.state
        return self.adapter.posterior(state, answers)

    def noise(self, prior: DiagonalGaussian) -> DiagonalGaussian:
        """The mean and the spread of every place and dimension over the questions: noise of the latents' own size."""
        variance = prior.mean.var(0, correction=0) + prior.variance.mean(0)
        item = DiagonalGaussian(prior.mean.mean(0), 0.5 * variance.log())
        return DiagonalGaussian(item.mean.expand_as(prior.mean), item.log_std.expand_as(prior.mean))

    def encode(self, batch: Mapping[str, Tensor]) -> EncodedQuery:
        raise self._no_parts("padded tensors")

    def answer_logits(self, query: EncodedQuery, z: Tensor | None, answer_ids: Tensor) -> Tensor:
        raise self._no_parts("answer logits")

    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        raise self._no_parts("injected tokens")

    @property
    def _name(self) -> str:
        return type(self.adapter).__name__

    def _no_parts(self, what: str) -> NotApplicableError:
        return NotApplicableError(f"not applicable: {self._name} offers options to score, but no {what}")


def _no_tensors(questions: Sequence[VisualQuestion], *, answers: bool = True) -> dict[str, Tensor]:
    """In a processor's place: an adapter encodes questions itself."""
    return {}
