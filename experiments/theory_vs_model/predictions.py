"""Predictions from one reference checkpoint at every approximation level, and the same figures of trained checkpoints.

The figures are defined in plan.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amvl_model.diagnostics.leakage.information import leaked_information_batch
from amvl_theory import AnswerPosteriors
from experiments.theory_vs_model.levels.decoder import free_level, softmax_letter_level, softmax_level
from experiments.theory_vs_model.levels.heads import train_heads
from experiments.theory_vs_model.levels.linear import Level, letter_level, linear_levels
from experiments.theory_vs_model.plan import DIRECTION, QUANTITIES, UNITS, Plan
from experiments.theory_vs_model.reference import Reference, checkpoint_posteriors, halves, measure_references

Array = NDArray[np.float64]
Values = dict[str, list[float | None]]
"""Per quantity, one value a question; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predictions of a reference, per question: by theory and search (`predict`), or by trained heads (`predict_with_heads`).

    Attributes:
        levels: per level, per gamma, the figures of the questions.
        by_noise: per label noise, per level, the figures at the plan's noise_gamma with the answer probabilities of that noise.
        reference: the figures of the reference's own posteriors; none beside trained heads.
        response: ids and tasks of the questions; from `predict` also force_spread, curvature, ... and how the searches ended.
        head_losses: per "level, gamma", mean loss of the first and of the last tenth of the steps [nats].
        seconds: wall time of each part.
    """

    levels: dict[str, dict[float, Values]]
    by_noise: dict[float, dict[str, Values]]
    reference: Values
    response: dict[str, Any]
    head_losses: dict[str, tuple[float, float]]
    seconds: dict[str, float]


def figures(
    posteriors: Sequence[AnswerPosteriors | None],
    weights: Sequence[Array],
    samples: int,
    seed: int,
    own: Sequence[AnswerPosteriors] | None = None,
) -> Values:
    """The figures of every question (definitions in plan.py).

    Args:
        posteriors: of the questions. weights: p(a|x) of posterior. samples, seed: of the leaked information.
        own: the reference's own posteriors; with them the direction is among the figures.
    """
    values: Values = {name: [] for name in (QUANTITIES if own is None else UNITS)}
    for i, (posterior, p) in enumerate(zip(posteriors, weights, strict=True)):
        if posterior is None:
            for column in values.values():
                column.append(None)
            continue
        means, stds = posterior.shifts[None], posterior.widths[None]
        values["leak"].append(float(leaked_information_batch(means, stds, None, samples, seed)[0][0]))
        values["known"].append(float(leaked_information_batch(means, stds, p[None], samples, seed)[0][0]))
        values["spread"].append(posterior.spread)
        values["shift"].append(float(np.sqrt(np.sum(posterior.shifts**2, axis=1).mean())))
        if own is not None:
            values[DIRECTION].append(direction(posterior, own[i]))
    return values


def direction(predicted: AnswerPosteriors, own: AnswerPosteriors) -> float | None:
    """Cosine between the displacements (O, D) of two sets of means from their mean, -1 to 1; None where one has none."""
    a, b = (answers.shifts - answers.shifts.mean(0) for answers in (predicted, own))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size > 0 else None


def checkpoint_folder(checkpoints: Path, cell: str, seed: int) -> Path:
    """Path of a run's checkpoint in the study's folder of checkpoints."""
    return checkpoints / cell / f"seed{seed}" / "checkpoint"


def trained_figures(checkpoints: Path, cell: str, seed: int, plan: Plan, noise: float | None = None) -> Values | None:
    """The figures of a trained checkpoint on the held-out questions; None if the study has no such checkpoint."""
    from amvl_model.models.loading import load_checkpoint

    folder = checkpoint_folder(checkpoints, cell, seed)
    if not (folder / "model.safetensors").exists():
        return None
    model, processor = load_checkpoint(folder)
    questions = plan.held_out(noise)
    weights = [np.asarray(q.answer_probs) for q in questions]
    return figures(checkpoint_posteriors(model, processor, questions), weights, plan.samples, plan.seed)


def predict(model: Any, processor: Any, plan: Plan) -> Prediction:
    """Predict at every level of theory and search from one reference checkpoint.

    Args:
        model, processor: the reference.
        plan: what to predict.

    Raises:
        ValueError: for a model without latents.
    """
    clock = _Clock()
    questions = plan.held_out()
    references = measure_references(model, processor, questions, progress=False)
    weights = [r.known_probs for r in references]
    half = halves(len(references), plan.seed)
    gammas = plan.all_gammas
    levels: dict[str, Level] = linear_levels(references, gammas)
    levels["T6 letter"] = letter_level(references, half, gammas)
    clock.lap("linear")
    levels["softmax"] = softmax_level(references, gammas, plan.search)
    levels["softmax letter"] = softmax_letter_level(references, half, gammas, plan.search)
    clock.lap("softmax")
    response = _response(references)
    if plan.free_questions:
        few = questions[: plan.free_questions]
        levels["free"], searches = free_level(model, processor, few, plan.free_gammas, plan.search)
        rest = [None] * (len(questions) - len(few))
        levels["free"] = {gamma: [*row, *rest] for gamma, row in levels["free"].items()}
        response["free_searches"] = [
            {"gamma": s.gamma, "fall": s.fall, "converged": s.converged, "steps": s.steps} for s in searches
        ]
        clock.lap("free")
    own = [AnswerPosteriors(shifts=r.shifts, widths=r.widths) for r in references]
    figures_by_level = {
        name: {gamma: figures(row, weights, plan.samples, plan.seed, own) for gamma, row in level.items()}
        for name, level in levels.items()
    }
    by_noise = {noise: _noise_predictions(model, processor, half, noise, plan) for noise in plan.noises}
    reference = figures(own, weights, plan.samples, plan.seed)
    clock.lap("figures")
    return Prediction(
        levels=figures_by_level,
        by_noise=by_noise,
        reference=reference,
        response=response,
        head_losses={},
        seconds=clock.laps,
    )


def predict_with_heads(model: Any, processor: Any, seed: int, plan: Plan) -> Prediction:
    """Predict at the levels that train heads on one reference checkpoint.

    Args:
        model, processor: the reference.
        seed: of its run: its training questions are drawn with it.
        plan: what to train.

    Raises:
        ValueError: for a model without latents, or a head of the plan that `head_training` does not define.
    """
    clock = _Clock()
    questions = plan.held_out()
    heads = train_heads(model, processor, questions, seed, plan)
    clock.lap("heads")
    weights = {noise: [np.asarray(q.answer_probs) for q in plan.held_out(noise)] for noise in (None, *plan.noises)}
    own = [answers for answers in checkpoint_posteriors(model, processor, questions) if answers is not None]
    figures_by_level = {
        name: {gamma: figures(row, weights[None], plan.samples, plan.seed, own) for gamma, row in level.items()}
        for name, level in heads.levels.items()
    }
    by_noise = {
        noise: {name: figures(row, weights[noise], plan.samples, plan.seed) for name, row in rows.items()}
        for noise, rows in heads.by_noise.items()
    }
    clock.lap("figures")
    return Prediction(
        levels=figures_by_level,
        by_noise=by_noise,
        reference={},
        response={"ids": [q.id for q in questions], "tasks": [q.task for q in questions]},
        head_losses=heads.losses,
        seconds=clock.laps,
    )


def _noise_predictions(
    model: Any, processor: Any, half: NDArray[np.int64], noise: float, plan: Plan
) -> dict[str, Values]:
    """The theory's predictions for another label noise: the reference's forces with the noise's answer probabilities."""
    references = measure_references(model, processor, plan.held_out(noise), progress=False)
    gammas = (plan.noise_gamma,)
    levels = linear_levels(references, gammas)
    levels["T6 letter"] = letter_level(references, half, gammas)
    levels["softmax letter"] = softmax_letter_level(references, half, gammas, plan.search)
    weights = [r.known_probs for r in references]
    return {name: figures(level[plan.noise_gamma], weights, plan.samples, plan.seed) for name, level in levels.items()}


def _response(references: Sequence[Reference]) -> dict[str, Any]:
    """The reference's own response: force spread [nats/prior std], trace of H [nats/prior std^2], critical gamma of T6."""
    spreads, traces, ratios = [], [], []
    for r in references:
        centred = r.forces - r.known_probs @ r.forces
        spreads.append(float(np.sqrt(r.known_probs @ np.sum(centred**2, axis=1))))
        traces.append(float(np.trace(r.curvature)))
        diagonal = np.diagonal(r.curvature)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 2 * (r.known_probs @ centred**2) / diagonal
        ratios.append(float(np.nanmax(ratio)) if np.isfinite(ratio).any() else None)
    return {
        "force_spread": spreads,
        "curvature": traces,
        "critical_gamma": ratios,
        "tasks": [r.task for r in references],
        "ids": [r.question_id for r in references],
        "options": [r.options for r in references],
    }


class _Clock:
    """Wall time of the parts."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The time since the last lap."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 1)
        self._last = now
