"""All diagnostics by name, run on one checkpoint after the other: what `amvl diagnose` is made of.

Light to import, which is why it stands beside the package of the diagnostics: torch is imported when they run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amvl_model.config import RunConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.overlap import Overlap, training_overlap


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured with, the same for every checkpoint.

    Attributes:
        questions: multiple-choice questions with known answers.
        training: questions that the checkpoint was trained on, for what it has memorised; None if they are not known.
        samples: latent samples a question where a diagnostic draws any.
        n_samples: Monte Carlo draws behind each leaked information.
        relevance_questions: how many questions get relevance maps; they are the first ones.
        batch_size: questions encoded together.
        n_bootstrap: resamples of the questions behind the intervals.
        seed: of all draws.
        progress: show progress bars.
        posteriors: filled while measuring, for diagnostics that need the same ones.
    """

    questions: Sequence[VisualQuestion]
    training: Sequence[VisualQuestion] | None = None
    samples: int = 4
    n_samples: int = 1024
    relevance_questions: int = 3
    batch_size: int = 64
    n_bootstrap: int = 2000
    seed: int = 0
    progress: bool = True
    posteriors: dict[str, Any] = field(default_factory=dict, repr=False)

    def common(self) -> dict[str, Any]:
        """The settings that every measure_* function takes."""
        return {
            "batch_size": self.batch_size,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "progress": self.progress,
        }


def _contamination(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.leakage.contamination import contamination_report

    return contamination_report(
        model, processor, plan.questions, samples=plan.samples, n_samples=plan.n_samples, **plan.common()
    )


def _slots(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.leakage.slots import slot_report

    entries = _posteriors(model, processor, plan)
    return slot_report(entries, n_samples=plan.n_samples, n_bootstrap=plan.n_bootstrap, seed=plan.seed)


def _answer_direction(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.common.posteriors import option_posteriors
    from amvl_model.diagnostics.leakage.answer_direction import answer_direction_report

    trained = None
    if plan.training is not None:
        trained = option_posteriors(model, processor, plan.training, plan.batch_size, progress=plan.progress)
    entries = _posteriors(model, processor, plan)
    return answer_direction_report(entries, trained, n_bootstrap=plan.n_bootstrap, seed=plan.seed)


def _posteriors(model: Any, processor: Any, plan: Plan) -> Any:
    """The option posteriors of the plan's questions, computed once for a model."""
    from amvl_model.diagnostics.common.posteriors import option_posteriors

    if plan.posteriors.get("model") is not model:
        result = option_posteriors(model, processor, plan.questions, plan.batch_size, progress=plan.progress)
        plan.posteriors.update(model=model, posteriors=result)
    return plan.posteriors["posteriors"]


def _cross_modal(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.leakage.cross_modal import measure_cross_modal

    return measure_cross_modal(model, processor, plan.questions, n_samples=plan.n_samples, **plan.common())


def _stability(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.causal.stability import measure_stability

    return measure_stability(model, processor, plan.questions, samples=max(2, plan.samples), **plan.common())


def _interventions(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.causal.interventions import intervention_report

    return intervention_report(model, processor, plan.questions, samples=plan.samples, **plan.common())


def _mediation(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.causal.mediation import measure_mediation

    return measure_mediation(model, processor, plan.questions, **plan.common())


def _linear_response(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.response.linear_response import measure_linear_response

    return measure_linear_response(model, processor, plan.questions, **plan.common())


def _relevance(model: Any, processor: Any, plan: Plan) -> Any:
    from amvl_model.diagnostics.causal.relevance import measure_relevance

    few = [plan.questions[i] for i in range(min(plan.relevance_questions, len(plan.questions)))]
    return measure_relevance(model, processor, few, **{**plan.common(), "batch_size": 16})


DIAGNOSTICS: dict[str, Callable[[Any, Any, Plan], Any]] = {
    "contamination": _contamination,
    "slots": _slots,
    "answer-direction": _answer_direction,
    "cross-modal": _cross_modal,
    "stability": _stability,
    "interventions": _interventions,
    "mediation": _mediation,
    "linear-response": _linear_response,
    "relevance": _relevance,
}
"""Every diagnostic by name, in the order of the report."""


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """One checkpoint's diagnostics.

    Attributes:
        name: of the checkpoint, as the user gave it.
        run: the training run's configuration, None where the checkpoint has none beside it.
        overlap: of the questions with the run's training set, None where the run is not known.
        reports: per diagnostic, its report object.
        refused: per diagnostic that could not be made on these questions, the reason.
        seconds: per diagnostic, wall time.
    """

    name: str
    run: RunConfig | None
    overlap: Overlap | None = None
    reports: dict[str, Any]
    refused: dict[str, str]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON; a diagnostic that could not be made is null, with its reason."""
        objective = None if self.run is None else self.run.to_dict()["objective"]
        return {
            "checkpoint": self.name,
            "objective": objective,
            "training_overlap": "" if self.overlap is None else self.overlap.sentence(),
            "diagnostics": {
                name: self.reports[name].to_dict() if name in self.reports else None for name in self.seconds
            },
            "refused": self.refused,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


def diagnose(name: str, chosen: Sequence[str], plan: Plan) -> Diagnosed:
    """Load one checkpoint and run the chosen diagnostics on it; the checkpoint's files are only read.

    A diagnostic that refuses these questions (too few of them, say) is noted with its reason; if all refuse, that is an
    error.

    Raises:
        FileNotFoundError, ValueError: for a checkpoint that is missing, damaged or has no latents, unknown diagnostics, or
            questions that no diagnostic takes.
    """
    from amvl_model.evaluation.scorers import latent_scorer
    from amvl_model.models.loading import load_checkpoint, resolve

    unknown = [item for item in chosen if item not in DIAGNOSTICS]
    if unknown or not chosen:
        raise ValueError(f"diagnostics must be some of {', '.join(DIAGNOSTICS)}, got {', '.join(unknown) or 'none'}")
    model, processor = load_checkpoint(name)
    latent_scorer(model, processor)
    run = run_config(Path(resolve(name)))
    overlap = None if run is None else training_overlap(plan.questions, run.data)
    result = Diagnosed(name=name, run=run, overlap=overlap, reports={}, refused={}, seconds={})
    for item in chosen:
        began = time.perf_counter()
        try:
            result.reports[item] = DIAGNOSTICS[item](model, processor, plan)
        except ValueError as error:
            result.refused[item] = str(error)
        result.seconds[item] = time.perf_counter() - began
    plan.posteriors.clear()
    if not result.reports:
        raise ValueError("; ".join(dict.fromkeys(result.refused.values())))
    return result


def run_config(checkpoint: Path) -> RunConfig | None:
    """The configuration of the run that made a checkpoint: run.json in it, or config.json in the folder above it."""
    for file in (checkpoint / "run.json", checkpoint.parent / "config.json"):
        try:
            return RunConfig.from_dict(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return None
