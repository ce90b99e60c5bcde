"""What is measured of a trained checkpoint: scores, leakage, stability, and the same on questions out of distribution.

What a run of a study records beside `measure`: out-of-distribution figures, the answer direction, sampled latents.

out_of_distribution.accuracy, .answer_nll         on the shifted set of the run's tasks (ShiftedBlink, clean labels), with the
                                                  prior mean where there are latents
answer_direction.held_out.*, .training.*          answer_direction_shift, no unit (diagnostics/leakage/answer_direction.py)
answer_direction.memorised                        training contrast minus held-out contrast
held_out.*                                        contamination on held-out questions, as in `measure`, alone (`held_out_leak`)
prior_sample.accuracy, .answer_nll                latents drawn from the prior, averaged over the draws, question by question
prior_mixture.accuracy, .answer_nll               the same draws, their probabilities averaged first
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from amvl_model.config import RunConfig, override
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import ChosenQuestions, VisualQuestion
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.data.synthetic import SHIFTED_SOURCE
from amvl_model.diagnostics import contamination_report, intervention_report
from amvl_model.diagnostics.causal.interventions import pause_report
from amvl_model.diagnostics.common.effects import answer_scores
from amvl_model.diagnostics.leakage.answer_direction import measure_answer_direction
from amvl_model.evaluation.evaluate import Evaluation, evaluate, given_answer
from amvl_model.evaluation.scorers import batches, inference, latent_scorer, sample_latents
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.results.files import Metric
from amvl_model.results.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class Measurement:
    """What is measured on one checkpoint.

    Attributes:
        evaluation: accuracies and NLL on held-out questions (with the prior mean, where there are latents).
        contamination: leakage on held-out questions, None without latents.
        train_contamination: the same on training questions, None without latents.
        interventions: effect of the latents (or of the pause tokens, a `PauseReport`), None without either.
        seconds: wall time.
    """

    evaluation: Evaluation
    contamination: Any | None
    train_contamination: Any | None
    interventions: Any | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        parts = ("contamination", "train_contamination", "interventions")
        result = {name: None if (value := getattr(self, name)) is None else value.to_dict() for name in parts}
        return {"evaluation": self.evaluation.to_dict(), **result, "seconds": round(self.seconds, 1)}


def measure(
    model: Any,
    processor: AMVLProcessor,
    config: RunConfig,
    held_out: Sequence[VisualQuestion],
    training: Sequence[VisualQuestion] | None = None,
    *,
    scoring: tuple[str, ...] = ("likelihood", "generation"),
    progress: bool = True,
) -> Measurement:
    """Evaluate a checkpoint, and diagnose it if it has latents.

    Args:
        model: an AMVL model or a plain backbone.
        processor: its processor.
        config: evaluation settings (and label noise) of the run.
        held_out: questions that were not trained on, with clean labels.
        training: questions that were, for memorised leakage; None is measured if they are open questions.
    """
    began = time.perf_counter()
    settings = config.eval
    common: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "n_bootstrap": settings.bootstrap,
        "progress": progress,
    }
    evaluation = evaluate(model, processor, held_out, scoring=scoring, max_new_tokens=settings.max_new_tokens, **common)
    usable = [place for place, record in enumerate(evaluation.records) if record.problem is None]
    held_out = held_out if len(usable) == len(held_out) else ChosenQuestions(held_out, usable)
    if not isinstance(model, AMVLForConditionalGeneration):
        pauses = None
        if isinstance(model, PauseForConditionalGeneration) and model.config.num_pauses:
            pauses = pause_report(model, processor, held_out, **common)
        return Measurement(evaluation, None, None, pauses, time.perf_counter() - began)
    drawn: dict[str, Any] = {**common, "samples": settings.samples, "temperature": settings.temperature}
    few = _spread(held_out, settings.leakage_questions)
    contamination = contamination_report(model, processor, few, **drawn)
    memorised = None
    trained = () if training is None else _spread(training, settings.leakage_questions)
    # open questions (the paper's training sets) have no options to tell apart
    if choice_questions := [place for place, question in enumerate(trained) if _is_choice(question, processor)]:
        memorised = contamination_report(model, processor, ChosenQuestions(trained, choice_questions), **drawn)
    interventions = intervention_report(model, processor, held_out, **drawn)
    return Measurement(evaluation, contamination, memorised, interventions, time.perf_counter() - began)


def _spread(questions: Sequence[VisualQuestion], count: int) -> Sequence[VisualQuestion]:
    """The first ``count`` questions; sources cycle through their tasks, so these are spread over the tasks."""
    return ChosenQuestions(questions, range(min(count, len(questions))))


def _is_choice(question: VisualQuestion, processor: AMVLProcessor) -> bool:
    """Whether a training question has options, and images that can be used."""
    try:
        return len(question.choices) > 1 and bool(processor.encode(question, answers=False))
    except ValueError:
        return False


SHIFTED_SIZE = 25
"""Questions a task of the shifted set behind a training run's figures."""
OUT = "out_of_distribution."


def shifted_questions(config: RunConfig, size: int = SHIFTED_SIZE) -> list[VisualQuestion]:
    """The shifted set of the run's tasks, ``size`` questions a task; the same for every seed."""
    questions = evaluation_questions(
        override(config, {"data.eval_source": SHIFTED_SOURCE, "data.eval_size": size}).data
    )
    return [questions[i] for i in range(len(questions))]


def out_of_distribution(model: Any, processor: AMVLProcessor, config: RunConfig) -> dict[str, Metric]:
    """Accuracy and answer NLL on the shifted set; any model that `evaluate` takes."""
    result = evaluate(
        model,
        processor,
        shifted_questions(config),
        scoring=("likelihood",),
        batch_size=config.eval.batch_size,
        n_bootstrap=config.eval.bootstrap,
        progress=False,
    )
    assert result.answer_nll is not None
    return {
        f"{OUT}accuracy": _metric(result.accuracy["likelihood"].unweighted, "fraction"),
        f"{OUT}answer_nll": _metric(result.answer_nll, "nats"),
    }


def answer_direction(model: Any, processor: AMVLProcessor, config: RunConfig) -> dict[str, Metric]:
    """answer_direction_shift on the first `eval.leakage_questions` of held-out and of training questions; {} without latents."""
    if not hasattr(model, "encode_query"):
        return {}
    few = [
        [item[i] for i in range(min(len(item), config.eval.leakage_questions))]
        for item in (evaluation_questions(config.data), training_questions(config.data))
    ]
    report = measure_answer_direction(
        model,
        processor,
        few[0],
        training=few[1],
        batch_size=config.eval.batch_size,
        n_bootstrap=config.eval.bootstrap,
        progress=False,
    )
    assert report.training is not None
    figures = {f"held_out.{name}": value for name, value in report.held_out.figures.items()}
    figures |= {f"training.{name}": value for name, value in report.training.figures.items()}
    figures["memorised"] = report.memorised
    return {f"answer_direction.{name}": _metric(value, "1") for name, value in figures.items() if value is not None}


def held_out_leak(model: Any, processor: AMVLProcessor, config: RunConfig) -> dict[str, Metric]:
    """The held-out contamination figures of `measure` and nothing else, in seconds.

    Raises:
        ValueError: for a model without latents.
    """
    from amvl_model.studies.summary import figures

    settings = config.eval
    report = contamination_report(
        model,
        processor,
        _spread(evaluation_questions(config.data), settings.leakage_questions),
        samples=settings.samples,
        temperature=settings.temperature,
        batch_size=settings.batch_size,
        n_bootstrap=settings.bootstrap,
        progress=False,
    )
    return figures({"contamination": report.to_dict()})


def sampled(model: Any, processor: AMVLProcessor, config: RunConfig) -> dict[str, Metric]:
    """`sampled_figures` on held-out questions and on as many of the shifted set."""
    shifted = shifted_questions(config, config.data.eval_size or 2 * SHIFTED_SIZE)
    result = sampled_figures(model, processor, config, evaluation_questions(config.data))
    return result | sampled_figures(model, processor, config, shifted, prefix=OUT)


def sampled_figures(
    model: Any, processor: AMVLProcessor, config: RunConfig, questions: Sequence[VisualQuestion], *, prefix: str = ""
) -> dict[str, Metric]:
    """Accuracy and answer NLL with ``eval.samples`` latents a question from the prior at ``eval.temperature``.

    Temperature 0 is the prior mean, of which one draw is taken. Every question has its own stream of noise, the same at every
    temperature.

    Raises:
        ValueError: for a model without latents.
    """
    scorer, settings = latent_scorer(model, processor), config.eval
    draws = settings.samples if settings.temperature > 0 else 1
    columns = {
        f"{kind}.{name}": np.zeros(len(questions))
        for kind in ("prior_sample", "prior_mixture")
        for name in ("answer_nll", "accuracy")
    }
    with inference(model):
        for batch in batches(questions, processor, settings.batch_size, description="sampled", progress=False):
            query = scorer.encode_batch(batch)
            assert query.prior is not None
            drawn = sample_latents(query.prior, batch.index, draws, temperature=settings.temperature, seed=0)
            item = torch.stack([scorer.option_log_probs(query, z, batch.options) for z in drawn])
            answers = [given_answer(question) for question in batch.questions]
            own = [answer_scores(log_probs, answers) for log_probs in item]
            mixed = answer_scores(item.logsumexp(dim=0) - float(np.log(draws)), answers)
            for place, name in enumerate(("answer_nll", "accuracy")):
                columns[f"prior_sample.{name}"][batch.index] = np.mean([scores[place] for scores in own], axis=0)
                columns[f"prior_mixture.{name}"][batch.index] = mixed[place]
    units = {"answer_nll": "nats", "accuracy": "fraction"}
    return {
        prefix + name: _metric(
            bootstrap_mean(values, n_bootstrap=settings.bootstrap, seed=0), units[name.rpartition(".")[2]]
        )
        for name, values in columns.items()
    }


MEASURES: dict[str, Callable[[Any, AMVLProcessor, RunConfig], dict[str, Metric]]] = {
    "held_out_leak": held_out_leak,
    "sampled": sampled,
    "answer_direction": answer_direction,
    "out_of_distribution": out_of_distribution,
}
"""What a study can record of a saved checkpoint."""


def _metric(value: Interval, unit: str) -> Metric:
    return Metric(value.mean, unit, value.low, value.high, value.n)
