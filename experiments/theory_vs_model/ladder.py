"""One climb of the ladder: everything that one reference checkpoint predicts, and what the trained checkpoints of its seed show.

The figures are those of plan.py.
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
from experiments.theory_vs_model.heads import train_heads
from experiments.theory_vs_model.plan import DIRECTION, QUANTITIES, UNITS, Plan
from experiments.theory_vs_model.reference import Reference, halves, measure_references
from experiments.theory_vs_model.rungs import (
    Rung,
    checkpoint_posteriors,
    free_rung,
    letter_rung,
    linear_rungs,
    softmax_letter_rung,
    softmax_rung,
)

Array = NDArray[np.float64]
Values = dict[str, list[float | None]]
"""Per quantity, one value a question; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What a reference predicts, per question: by theory and search (`climb`), or by training heads (`climb_heads`).

    Attributes:
        rungs: per rung, per gamma, the figures of the questions.
        noise_rungs: per noise level, per rung, the figures at the plan's noise_gamma with that noise's answer probabilities.
        reference: the figures of the reference's own posteriors; none beside trained heads.
        response: ids and tasks of the questions; from `climb` also force_spread, curvature, ... and how the searches ended.
        head_losses: per "rung, gamma", mean loss of the first and of the last tenth of the steps [nats].
        seconds: wall time of each part.
    """

    rungs: dict[str, dict[float, Values]]
    noise_rungs: dict[float, dict[str, Values]]
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
        posteriors: of the questions. weights: p(a|x) of each. samples, seed: of the leaked information.
        own: the reference's own posteriors; with them the direction is among the figures.
    """
    values: Values = {name: [] for name in (QUANTITIES if own is None else UNITS)}
    for i, (each, p) in enumerate(zip(posteriors, weights, strict=True)):
        if each is None:
            for column in values.values():
                column.append(None)
            continue
        means, stds = each.shifts[None], each.widths[None]
        values["leak"].append(float(leaked_information_batch(means, stds, None, samples, seed)[0][0]))
        values["known"].append(float(leaked_information_batch(means, stds, p[None], samples, seed)[0][0]))
        values["spread"].append(each.spread)
        values["shift"].append(float(np.sqrt(np.sum(each.shifts**2, axis=1).mean())))
        if own is not None:
            values[DIRECTION].append(direction(each, own[i]))
    return values


def direction(predicted: AnswerPosteriors, own: AnswerPosteriors) -> float | None:
    """Cosine between the displacements (O, D) of two sets of means from their mean, -1 to 1; None where one has none."""
    a, b = (each.shifts - each.shifts.mean(0) for each in (predicted, own))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size > 0 else None


def checkpoint_folder(kept: Path, cell: str, seed: int) -> Path:
    """Where the study keeps a run's checkpoint."""
    return kept / cell / f"seed{seed}" / "checkpoint"


def trained_figures(kept: Path, cell: str, seed: int, plan: Plan, noise: float | None = None) -> Values | None:
    """The figures of a trained checkpoint on the held-out questions; None if the study has not got there."""
    from amvl_model.models.loading import load_checkpoint

    folder = checkpoint_folder(kept, cell, seed)
    if not (folder / "model.safetensors").exists():
        return None
    model, processor = load_checkpoint(folder)
    questions = plan.held_out(noise)
    weights = [np.asarray(q.answer_probs) for q in questions]
    return figures(checkpoint_posteriors(model, processor, questions), weights, plan.samples, plan.seed)


def climb(model: Any, processor: Any, plan: Plan) -> Climb:
    """Every rung of theory and search from one reference checkpoint.

    Args:
        model, processor: the reference.
        plan: what to measure.

    Raises:
        ValueError: for a model without latents.
    """
    clock = _Clock()
    questions = plan.held_out()
    references = measure_references(model, processor, questions, progress=False)
    weights = [r.known_probs for r in references]
    half = halves(len(references), plan.seed)
    gammas = plan.all_gammas
    rungs: dict[str, Rung] = linear_rungs(references, gammas)
    rungs["T6 letter"] = letter_rung(references, half, gammas)
    clock.lap("linear")
    rungs["softmax"] = softmax_rung(references, gammas, plan.search)
    rungs["softmax letter"] = softmax_letter_rung(references, half, gammas, plan.search)
    clock.lap("softmax")
    response = _response(references)
    if plan.free_questions:
        few = questions[: plan.free_questions]
        rungs["free"], searches = free_rung(model, processor, few, plan.free_gammas, plan.search)
        rest = [None] * (len(questions) - len(few))
        rungs["free"] = {gamma: [*row, *rest] for gamma, row in rungs["free"].items()}
        response["free_searches"] = [
            {"gamma": s.gamma, "fall": s.fall, "converged": s.converged, "steps": s.steps} for s in searches
        ]
        clock.lap("free")
    own = [AnswerPosteriors(shifts=r.shifts, widths=r.widths) for r in references]
    found = {
        name: {gamma: figures(row, weights, plan.samples, plan.seed, own) for gamma, row in rung.items()}
        for name, rung in rungs.items()
    }
    noisy = {noise: _noise_rungs(model, processor, half, noise, plan) for noise in plan.noises}
    reference = figures(own, weights, plan.samples, plan.seed)
    clock.lap("figures")
    return Climb(
        rungs=found,
        noise_rungs=noisy,
        reference=reference,
        response=response,
        head_losses={},
        seconds=clock.laps,
    )


def climb_heads(model: Any, processor: Any, seed: int, plan: Plan) -> Climb:
    """The rungs that train heads on one reference checkpoint.

    Args:
        model, processor: the reference.
        seed: of its run: its training questions are drawn with it.
        plan: what to train.

    Raises:
        ValueError: for a model without latents, or a head of the plan that `head_training` does not know.
    """
    clock = _Clock()
    questions = plan.held_out()
    heads = train_heads(model, processor, questions, seed, plan)
    clock.lap("heads")
    weights = {noise: [np.asarray(q.answer_probs) for q in plan.held_out(noise)] for noise in (None, *plan.noises)}
    own = [each for each in checkpoint_posteriors(model, processor, questions) if each is not None]
    found = {
        name: {gamma: figures(row, weights[None], plan.samples, plan.seed, own) for gamma, row in rung.items()}
        for name, rung in heads.rungs.items()
    }
    noisy = {
        noise: {name: figures(row, weights[noise], plan.samples, plan.seed) for name, row in rows.items()}
        for noise, rows in heads.noisy.items()
    }
    clock.lap("figures")
    return Climb(
        rungs=found,
        noise_rungs=noisy,
        reference={},
        response={"ids": [q.id for q in questions], "tasks": [q.task for q in questions]},
        head_losses=heads.losses,
        seconds=clock.laps,
    )


def _noise_rungs(model: Any, processor: Any, half: NDArray[np.int64], noise: float, plan: Plan) -> dict[str, Values]:
    """What the theory says of another label noise: the reference's forces with the noise's answer probabilities."""
    references = measure_references(model, processor, plan.held_out(noise), progress=False)
    gammas = (plan.noise_gamma,)
    rungs = linear_rungs(references, gammas)
    rungs["T6 letter"] = letter_rung(references, half, gammas)
    rungs["softmax letter"] = softmax_letter_rung(references, half, gammas, plan.search)
    weights = [r.known_probs for r in references]
    return {name: figures(rung[plan.noise_gamma], weights, plan.samples, plan.seed) for name, rung in rungs.items()}


def _response(references: Sequence[Reference]) -> dict[str, Any]:
    """The reference's own response: force spread [nats/prior std], trace of H [nats/prior std^2], known weights."""
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
