"""Levels of the quadratic theory, solved by amvl_theory: T4, T6 held, T6 moving, and T6 letter.

Each function takes references (`reference.py`) and returns, per gamma, the posteriors of every question; None where the theory
has no rest point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amvl_theory import (
    AnswerPosteriors,
    NoRestPointError,
    fixed_precision_posteriors,
    held_prior_posteriors,
    moving_prior_posteriors,
)
from experiments.theory_vs_model.reference import LetterAverage, Reference, letter_averages

Level = dict[float, list[AnswerPosteriors | None]]
"""Per gamma, one prediction a question."""


def linear_levels(references: Sequence[Reference], gammas: Sequence[float]) -> dict[str, Level]:
    """T4, T6 held and T6 moving: each question from its own forces."""
    rules: dict[str, Callable[[Reference, float], AnswerPosteriors]] = {
        "T4": lambda r, gamma: fixed_precision_posteriors(r.forces, r.curvature, r.widths, gamma),
        "T6 held": lambda r, gamma: held_prior_posteriors(r.forces, r.curvature, gamma),
        "T6 moving": lambda r, gamma: moving_prior_posteriors(r.forces, r.curvature, r.known_probs, gamma),
    }
    return {name: {g: [_settled(rule, r, g) for r in references] for g in gammas} for name, rule in rules.items()}


def _settled(rule: Callable[[Any, float], AnswerPosteriors], of: Any, gamma: float) -> AnswerPosteriors | None:
    """The rule's prediction, None where the theory has no rest point."""
    try:
        return rule(of, gamma)
    except NoRestPointError:
        return None


def letter_level(references: Sequence[Reference], half: NDArray[np.int64], gammas: Sequence[float]) -> Level:
    """T6 letter: a question's posteriors from the letter forces of the other half of the questions of its task.

    Args:
        half: (n,) 0 or 1, which half a question is in.
        references, gammas: the questions and the weights.
    """
    averages = [letter_averages([references[i] for i in np.flatnonzero(half == part).tolist()]) for part in (0, 1)]
    level: Level = {}
    for gamma in gammas:
        solved = [
            {task: _settled(_held_average, average, gamma) for task, average in part.items()} for part in averages
        ]
        level[gamma] = [of_other_half(solved, r, part) for r, part in zip(references, half.tolist(), strict=True)]
    return level


def _held_average(average: LetterAverage, gamma: float) -> AnswerPosteriors:
    return held_prior_posteriors(average.forces, average.curvatures, gamma)


def of_other_half(
    solved: Sequence[Mapping[str, AnswerPosteriors | None]], reference: Reference, half: int
) -> AnswerPosteriors | None:
    """The posteriors of a question's task in the other half, cut to the question's options; None where there are none."""
    posteriors = solved[1 - half].get(reference.task)
    if posteriors is None:
        return None
    n = reference.options
    return AnswerPosteriors(shifts=posteriors.shifts[:n], widths=posteriors.widths[:n])
