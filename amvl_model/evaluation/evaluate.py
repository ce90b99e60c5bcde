"""Benchmark runner: accuracies with intervals for an AMVL model or a plain backbone, scored in two ways.

    likelihood    the option a with the largest p(a|x) = mean over latent samples s of p(a|x, Z_s),
                  p(a|x,Z) that of the answer text "(A)" and the end of the turn
    generation    the option that `parse_choice` reads in the greedy reply; a reply it cannot read is unparsed, counted wrong
    answer NLL    -log p(y|x) of the given answer y, nats

The query is encoded once for all of these. Several processes (torchrun) share the questions and merge what they found:
every process returns the same evaluation, the one that a single process computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from amvl_model import distributed
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.evaluation.question_batches import check_question
from amvl_model.evaluation.scorers import (
    EncodedQuery,
    LatentScorer,
    QuestionBatch,
    Scorer,
    batches,
    inference,
    sample_latents,
    scorer_for,
)
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.results.statistics import AccuracyReport, Interval, accuracy_report, bootstrap_mean

T = TypeVar("T")
SCORINGS = ("likelihood", "generation")
LATENTS = ("prior_mean", "prior", "posterior_mean", "posterior")


@dataclass(frozen=True, kw_only=True)
class QuestionRecord:
    """What a model made of one question.

    Attributes:
        id, task: of the question.
        options: number of options.
        answer: index of the given answer.
        predicted: per scoring, the index of the chosen option, None if the reply could not be read.
        log_probs: (options,) log p(a|x), nats; None without likelihood scoring.
        answer_nll: -log p(y|x) of the given answer, nats; None without likelihood scoring.
        reply: the greedy reply; None without generation scoring.
        problem: why the question could not be put to the model (its images cannot be used); it is then counted as unread.
    """

    id: str
    task: str
    options: int
    answer: int
    predicted: dict[str, int | None]
    log_probs: tuple[float, ...] | None
    answer_nll: float | None
    reply: str | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one set of questions.

    Attributes:
        records: one per question, in the order of the set.
        accuracy: per scoring, the accuracy report.
        answer_nll: mean of -log p(y|x) over the questions, nats; None without likelihood scoring.
        latents: what was injected; None for a plain backbone.
        samples: latent samples a question (1 for means).
        temperature: scale of the samples' standard deviation.
        seed: of the samples and of the bootstrap.
    """

    records: tuple[QuestionRecord, ...]
    accuracy: dict[str, AccuracyReport]
    answer_nll: Interval | None
    latents: str | None
    samples: int
    temperature: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON; NLL and log-probabilities in nats, accuracies as fractions."""
        return {
            "latents": self.latents,
            "samples": self.samples,
            "temperature": self.temperature,
            "seed": self.seed,
            "accuracy": {scoring: report.to_dict() for scoring, report in self.accuracy.items()},
            "answer_nll": None if self.answer_nll is None else asdict(self.answer_nll),
            "questions": [asdict(record) for record in self.records],
        }

    def table(self) -> str:
        """Plain text: one table per scoring, then the answer NLL."""
        source = "no latents" if self.latents is None else f"latents: {self.latents.replace('_', ' ')}"
        if self.samples > 1:
            source += f", {self.samples} samples"
        parts = [f"by {scoring} ({source})\n{report.table()}" for scoring, report in self.accuracy.items()]
        if (nll := self.answer_nll) is not None:
            ends = "" if nll.low is None or nll.high is None else f"  ({nll.low:.3f} to {nll.high:.3f})"
            parts.append(f"answer NLL {nll.mean:.3f} nats{ends}")
        if problems := [record.problem for record in self.records if record.problem]:
            listed = "\n".join(f"  {problem}" for problem in problems[:10])
            parts.append(f"{len(problems)} questions with unusable images, counted as unread:\n{listed}")
        return "\n\n".join(parts)


def evaluate(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    scoring: Sequence[str] = SCORINGS,
    latents: str = "prior_mean",
    samples: int = 1,
    temperature: float = 1.0,
    batch_size: int = 64,
    max_new_tokens: int = 8,
    seed: int = 0,
    n_bootstrap: int = 2000,
    progress: bool = True,
) -> Evaluation:
    """Score a model on multiple-choice questions (equations at the top of this module).

    Args:
        model: an AMVLForConditionalGeneration, or a plain Qwen-VL backbone.
        processor: its processor.
        questions: a sequence, possibly lazy; each question is drawn once.
        scoring: "likelihood", "generation", or both.
        latents: "prior_mean" or "prior" (samples), as at inference; "posterior_mean" or "posterior" (samples) of the given
            answer show what training sees: such latents know the answer. A plain backbone has no latents: the default is
            then recorded as None.
        samples: latent samples a question, whose probabilities are averaged; the reply is decoded from the first.
        temperature: scale of the samples' standard deviation, at least 0.
        batch_size: questions encoded together.
        max_new_tokens: longest reply.
        seed: of the samples (each question has its own stream, whatever the batch size) and of the bootstrap.
        n_bootstrap: resamples behind the intervals.
        progress: show a progress bar.

    Raises:
        ValueError: for more unusable images than `MAX_UNUSABLE_SHARE`, an empty set, a question without choices or without
            a known answer, an unknown scoring or kind of latents, several samples of a mean, or latents requested of a plain
            backbone.
        NonFiniteError: if a weight is NaN or infinite, or the log-probability of an option is NaN.
        RuntimeError: on the processes whose own share was fine, when another one failed.
    """
    scorer = scorer_for(model, processor)
    _check(scorer, scoring, latents, samples, temperature, max_new_tokens)

    def scored(batch: QuestionBatch) -> Iterator[QuestionRecord]:
        query = scorer.encode_batch(batch)
        drawn = _latents(scorer, query, batch, latents, samples, temperature, seed)
        log_probs = mean_log_probs(scorer, query, drawn, batch.options) if "likelihood" in scoring else None
        replies = scorer.greedy(query, drawn[0], max_new_tokens) if "generation" in scoring else None
        for row, question in enumerate(batch.questions):
            scores = None if log_probs is None else log_probs[row].tolist()
            yield _record(question, scores, None if replies is None else replies[row])

    records = per_question(
        model,
        scorer,
        questions,
        scored,
        lambda question, problem: _unread(question, problem, scoring),
        batch_size=batch_size,
        description="evaluate",
        progress=progress,
    )
    nll = [record.answer_nll for record in records if record.answer_nll is not None]
    return Evaluation(
        records=tuple(records),
        accuracy={name: _accuracy(records, name, n_bootstrap, seed) for name in SCORINGS if name in scoring},
        answer_nll=bootstrap_mean(nll, n_bootstrap=n_bootstrap, seed=seed) if nll else None,
        latents=latents if isinstance(scorer, LatentScorer) else None,
        samples=samples,
        temperature=temperature,
        seed=seed,
    )


def per_question(
    model: Any,
    scorer: Scorer,
    questions: Sequence[VisualQuestion],
    measured: Callable[[QuestionBatch], Iterable[T]],
    unusable: Callable[[VisualQuestion, str], T],
    **options: Any,
) -> list[T]:
    """The result of every question, in order; each process measures its share of the batches and has all results.

    Args:
        model, scorer, questions: the model, its scorer, and what it is measured on.
        measured: the results of a batch's questions.
        unusable: the result of a question whose images cannot be used, from the question and the reason.
        **options: of `batches`.
    """

    def own_share() -> dict[int, T]:
        result: dict[int, T] = {}
        left_out: dict[int, tuple[VisualQuestion, str]] = {}
        with inference(model):
            for batch in batches(questions, scorer.processor, shared=True, unusable=left_out, **options):
                result |= zip(batch.index, measured(batch), strict=True)
        return result | {index: unusable(*question) for index, question in left_out.items()}

    result: dict[int, T] = {}
    for part in distributed.gather_or_raise(own_share):
        result |= part
    return [result[i] for i in range(len(questions))]


def _accuracy(records: Sequence[QuestionRecord], scoring: str, n_bootstrap: int, seed: int) -> AccuracyReport:
    return accuracy_report(
        [None if (p := record.predicted[scoring]) is None else p == record.answer for record in records],
        [record.task for record in records],
        [record.options for record in records],
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


def mean_log_probs(
    scorer: Scorer, query: EncodedQuery, drawn: Sequence[Tensor | None], options: Sequence[int]
) -> Tensor:
    """log mean_s p(a|x,Z_s) of every option, (B, O) in nats, -inf where a question has fewer options.

    Args:
        scorer, query: the model and the encoded batch.
        drawn: the samples, each (B, k, d); [None] for a plain backbone.
        options: (B,) number of options of each question.
    """
    item = torch.stack([scorer.option_log_probs(query, z, options) for z in drawn])
    return item.logsumexp(dim=0) - math.log(len(item))


def _check(
    scorer: Scorer, scoring: Sequence[str], latents: str, samples: int, temperature: float, max_new_tokens: int
) -> None:
    if isinstance(scoring, str) or not scoring or not set(scoring) <= set(SCORINGS):
        raise ValueError(f"scoring must be a tuple of one or more of {', '.join(SCORINGS)}, got {scoring!r}")
    if latents not in LATENTS:
        raise ValueError(f"latents must be one of {', '.join(LATENTS)}, got {latents!r}")
    if not isinstance(scorer, LatentScorer) and (latents, samples) != ("prior_mean", 1):
        raise ValueError(
            f"latents={latents!r} with {samples} sample(s) was passed for a plain backbone, which has no latents; "
            "leave both out, or load an AMVL checkpoint"
        )
    if samples < 1 or max_new_tokens < 1:
        raise ValueError(f"samples and max_new_tokens must be at least 1, got {samples} and {max_new_tokens}")
    if samples > 1 and latents.endswith("_mean"):
        raise ValueError(
            f"{samples} samples of {latents!r} are all the same; use latents={latents.removesuffix('_mean')!r}, or samples=1"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and at least 0 (0 = the mean), got {temperature}")


def _latents(
    scorer: Scorer,
    query: EncodedQuery,
    batch: QuestionBatch,
    latents: str,
    samples: int,
    temperature: float,
    seed: int,
) -> list[Tensor | None]:
    """The Z to inject, one (B, k, d) per sample; [None] for a plain backbone."""
    if not isinstance(scorer, LatentScorer):
        return [None]
    assert query.prior is not None
    gaussian = query.prior
    if latents.startswith("posterior"):
        gaussian = scorer.posterior(query, [given_answer(question) for question in batch.questions])
    if latents.endswith("_mean"):
        return [gaussian.mean]
    return list(sample_latents(gaussian, batch.index, samples, temperature=temperature, seed=seed))


def given_answer(question: VisualQuestion) -> int:
    """Index of the given answer of a question that `batches` has let through."""
    assert question.answer is not None
    return question.answer


def _unread(question: VisualQuestion, problem: str, scoring: Sequence[str]) -> QuestionRecord:
    """The record of a question whose images cannot be used."""
    check_question(question)
    return QuestionRecord(
        id=question.id,
        task=question.task,
        options=len(question.choices),
        answer=given_answer(question),
        predicted=dict.fromkeys(scoring),
        log_probs=None,
        answer_nll=None,
        reply=None,
        problem=problem,
    )


def _record(question: VisualQuestion, log_probs: list[float] | None, reply: str | None) -> QuestionRecord:
    answer, options = given_answer(question), len(question.choices)
    predicted: dict[str, int | None] = {}
    if log_probs is not None:
        log_probs = log_probs[:options]
        if any(math.isnan(value) for value in log_probs):
            raise NonFiniteError(
                f"question {question.id!r}: the log-probability of an option is NaN, and is not scored"
            )
        predicted["likelihood"] = max(range(options), key=log_probs.__getitem__)
    if reply is not None:
        predicted["generation"] = parse_choice(reply, question.choices)
    return QuestionRecord(
        id=question.id,
        task=question.task,
        options=options,
        answer=answer,
        predicted=predicted,
        log_probs=None if log_probs is None else tuple(log_probs),
        answer_nll=None if log_probs is None else -log_probs[answer],
        reply=reply,
    )
