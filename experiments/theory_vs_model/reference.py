"""Input of the theory: one checkpoint's forces, curvature and distributions at the prior mean, question by question.

Everything is in the prior's whitened coordinates, w = (z - m_p) / s_p with D = k d entries: the prior is N(0, I), forces are in
nats per prior standard deviation, and a rescaled latent changes nothing (definitions:
`diagnostics/response/linear_response.py`).

A posterior head answers for all questions at once. If it can only add a displacement that depends on the answer's letter
(and the task), w_a = u_a + s_a eps for every question, then averaging the loss over the questions that show letter a gives
the equations of a single question (`amvl_theory.held_prior_posteriors`) with

    letter force   gbar_a = sum_x p(a|x) g(x,a) / sum_x p(a|x)        letter curvature   Hbar_a likewise

computed on one half of the questions and applied to the other (`letter_averages`, `halves`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.gradients import answer_forces, differentiable
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
from amvl_model.diagnostics.response.response_arrays import LEAST_OTHER
from amvl_model.evaluation.scorers import QuestionBatch, batches, latent_scorer
from amvl_theory import AnswerPosteriors

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """One question at one checkpoint, in the prior's whitened coordinates (O options, D dimensions).

    Attributes:
        question_id, task: of the question.
        forces: g (O, D), -d NLL(a)/dw at the prior mean [nats/prior std].
        answer_probs: p(a|x, prior mean) (O,), not normalised over the options.
        known_probs: p(a|x) of the label noise (O,).
        shifts: the checkpoint's own posterior means (O, D) [prior std].
        widths: its posterior over its prior standard deviations (O, D).
    """

    question_id: str
    task: str
    forces: Array
    answer_probs: Array
    known_probs: Array
    shifts: Array
    widths: Array

    @property
    def options(self) -> int:
        """O."""
        return len(self.answer_probs)

    @property
    def curvature(self) -> Array:
        """H (D, D) = sum_a p_a g_a g_a^T, all other answers counted as one more [nats/prior std^2]."""
        matrix = (self.answer_probs[:, None] * self.forces).T @ self.forces
        other = 1 - float(self.answer_probs.sum())
        if other > LEAST_OTHER:
            pull = self.answer_probs @ self.forces
            matrix = matrix + np.outer(pull, pull) / other
        return 0.5 * (matrix + matrix.T)


def measure_references(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> list[Reference]:
    """Forces and distributions of every question, in the order of the set.

    Raises:
        ValueError: for a model without latents, an empty set, a question with fewer than two options, or one without answer
            probabilities.
    """
    scorer = latent_scorer(model, processor)
    for question in questions:
        if question.answer_probs is None:
            raise ValueError(
                f"question {question.id!r}: expected known answer probabilities, got a question without them; "
                "use synthetic BLINK with label noise"
            )
    references: dict[int, Reference] = {}
    with differentiable(model):
        for batch in batches(
            questions,
            processor,
            batch_size,
            description="answer forces",
            progress=progress,
            least_options=2,
            needs_answer=False,
        ):
            references |= dict(zip(batch.index, _batch(scorer, batch), strict=True))
    return [references[i] for i in range(len(questions))]


def _batch(scorer: Any, batch: QuestionBatch) -> list[Reference]:
    with torch.no_grad():
        query = scorer.encode_batch(batch)
        posterior = scorer.option_posteriors(query, batch.options)
    prior = query.prior
    forces, log_probs = answer_forces(scorer, query, prior.mean, batch.options)
    mean, std = _flat(prior.mean, 1), _flat(prior.std, 1)
    flat, probs = _flat(forces, 2), log_probs.double().exp().cpu().numpy()
    means, stds = _flat(posterior.mean, 2), _flat(posterior.std, 2)
    return [
        Reference(
            question_id=question.id,
            task=question.task,
            forces=flat[i, :n] * std[i],
            answer_probs=probs[i, :n],
            known_probs=np.asarray(question.answer_probs, dtype=np.float64),
            shifts=(means[i, :n] - mean[i]) / std[i],
            widths=stds[i, :n] / std[i],
        )
        for i, (question, n) in enumerate(zip(batch.questions, batch.options, strict=True))
    ]


def _flat(tensor: torch.Tensor, keep: int) -> Array:
    return tensor.detach().double().cpu().flatten(keep).numpy()


def checkpoint_posteriors(
    model: Any, processor: AMVLProcessor, questions: Sequence[VisualQuestion]
) -> list[AnswerPosteriors | None]:
    """A checkpoint's own posteriors of every option, in its own prior's whitened coordinates."""
    return [whitened(answers) for answers in option_posteriors(model, processor, questions, progress=False)]


def whitened(answers: OptionPosteriors) -> AnswerPosteriors:
    """AnswerPosteriors of one question in its prior's whitened coordinates."""
    options = len(answers.posterior_means)
    return AnswerPosteriors(
        shifts=((answers.posterior_means - answers.prior_mean) / answers.prior_std).reshape(options, -1),
        widths=(answers.posterior_stds / answers.prior_std).reshape(options, -1),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LetterAverage:
    """Averages over the questions of one group, letter by letter.

    Attributes:
        forces: gbar (O, D) [nats/prior std]. curvatures: Hbar (O, D, D). weights: share of each letter (O,).
    """

    forces: Array
    curvatures: Array
    weights: Array


def letter_averages(references: Sequence[Reference], *, by_task: bool = True) -> dict[str, LetterAverage]:
    """Averages with weights p(a|x), for each task or ("" as the only key) for all together.

    Raises:
        ValueError: for no questions.
    """
    if not references:
        raise ValueError("expected at least one question to average over, got none")
    groups: dict[str, list[Reference]] = {}
    for reference in references:
        groups.setdefault(reference.task if by_task else "", []).append(reference)
    return {name: _average(members) for name, members in groups.items()}


def _average(members: Sequence[Reference]) -> LetterAverage:
    options, size = max(member.options for member in members), members[0].forces.shape[1]
    forces, curvatures, total = np.zeros((options, size)), np.zeros((options, size, size)), np.zeros(options)
    for member in members:
        n, p = member.options, member.known_probs
        forces[:n] += p[:, None] * member.forces
        curvatures[:n] += p[:, None, None] * member.curvature
        total[:n] += p
    total_or_one = np.where(total > 0, total, 1.0)
    return LetterAverage(
        forces=forces / total_or_one[:, None],
        curvatures=curvatures / total_or_one[:, None, None],
        weights=total / total.sum(),
    )


def halves(count: int, seed: int) -> NDArray[np.int64]:
    """(n,) 0 or 1 in equal numbers, at random."""
    return np.random.default_rng(seed).permutation(count) % 2
