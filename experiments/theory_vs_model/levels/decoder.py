"""Levels with a non-linear decoder, searched posteriors: softmax, softmax letter, and free.

Each function takes references (`reference.py`) or questions and returns, per gamma, the posteriors of every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.diagnostics.response.free_posterior import (
    FreePosteriors,
    Nll,
    Search,
    decoder_nll,
    free_posteriors,
    softmax_nll,
)
from amvl_model.evaluation.scorers import batches, latent_scorer
from amvl_theory import AnswerPosteriors
from experiments.theory_vs_model.levels.linear import Level, of_other_half
from experiments.theory_vs_model.reference import Reference


def softmax_level(references: Sequence[Reference], gammas: Sequence[float], search: Search) -> Level:
    """softmax: free posteriors on the log-linear decoder of each question."""
    forces, probs = _stacked(references)
    pairs = [(i, a) for i, r in enumerate(references) for a in range(r.options)]
    rows = [i for i, _ in pairs]
    nll = softmax_nll(forces[rows], probs[rows], [a for _, a in pairs])
    solved = free_posteriors(nll, len(pairs), forces.shape[2], gammas, search)
    return _by_question(solved, pairs, len(references))


def softmax_letter_level(
    references: Sequence[Reference], half: NDArray[np.int64], gammas: Sequence[float], search: Search
) -> Level:
    """softmax letter: one posterior a letter and task, the loss averaged over the other half's questions with p(a|x)."""
    solved: list[dict[float, dict[str, AnswerPosteriors | None]]] = []
    for part in (0, 1):
        members = [references[i] for i in np.flatnonzero(half == part).tolist()]
        by_gamma: dict[float, dict[str, AnswerPosteriors | None]] = {gamma: {} for gamma in gammas}
        for task in dict.fromkeys(r.task for r in members):
            group = [r for r in members if r.task == task]
            options, size = group[0].options, group[0].forces.shape[1]
            for posteriors in free_posteriors(shared_softmax_nll(group), options, size, gammas, search):
                by_gamma[posteriors.gamma][task] = AnswerPosteriors(shifts=posteriors.shifts, widths=posteriors.widths)
        solved.append(by_gamma)
    return {
        gamma: [
            of_other_half([part[gamma] for part in solved], r, h)
            for r, h in zip(references, half.tolist(), strict=True)
        ]
        for gamma in gammas
    }


def shared_softmax_nll(group: Sequence[Reference]) -> Nll:
    """NLL (O, S) of letter a averaged over questions with weights p(a|x), all with the letter's one posterior.

    Raises:
        ValueError: for questions with different numbers of options.
    """
    if len({r.options for r in group}) != 1:
        raise ValueError("expected questions with equally many options in a group; group them by task")
    forces, probs = _stacked(group)
    count, options = len(group), group[0].options
    inner = softmax_nll(
        np.tile(forces, (options, 1, 1)), np.tile(probs, (options, 1)), np.repeat(np.arange(options), count)
    )
    weights = np.stack([r.known_probs for r in group], axis=1)
    share = torch.as_tensor(weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)).float()

    def nll(whitened: Tensor) -> Tensor:
        per_question = inner(whitened.repeat_interleave(count, dim=0)).view(options, count, -1)
        return (share[..., None] * per_question).sum(1)

    return nll


def _stacked(references: Sequence[Reference]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forces (n, O, D) and answer probabilities (n, O), zeros where there is no such option."""
    most = max(r.options for r in references)
    forces = np.zeros((len(references), most, references[0].forces.shape[1]))
    probs = np.zeros((len(references), most))
    for i, r in enumerate(references):
        forces[i, : r.options], probs[i, : r.options] = r.forces, r.answer_probs
    return forces, probs


def free_level(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    gammas: Sequence[float],
    search: Search,
    *,
    batch_size: int = 32,
) -> tuple[Level, list[FreePosteriors]]:
    """free: free posteriors on the real decoder, and the searches themselves (for their convergence)."""
    scorer = latent_scorer(model, processor)
    level: Level = {gamma: [None] * len(questions) for gamma in gammas}
    searches: list[FreePosteriors] = []
    with differentiable(model):
        for count in sorted({len(q.choices) for q in questions}):
            places = [i for i, q in enumerate(questions) if len(q.choices) == count]
            group = [questions[i] for i in places]
            for batch in batches(group, processor, batch_size, description="free", progress=False, needs_answer=False):
                with torch.no_grad():
                    query = scorer.encode_batch(batch)
                nll, pairs = decoder_nll(scorer, query, batch)
                assert query.prior is not None
                size = query.prior.mean[0].numel()
                solved = free_posteriors(nll(2 * search.pairs), len(pairs), size, gammas, search)
                searches += solved
                for gamma, row in _by_question(solved, pairs, len(batch.questions)).items():
                    for i, posteriors in zip(batch.index, row, strict=True):
                        level[gamma][places[i]] = posteriors
    return level, searches


def _by_question(solved: Sequence[FreePosteriors], pairs: Sequence[tuple[int, int]], count: int) -> Level:
    rows = [[p for p, (i, _) in enumerate(pairs) if i == question] for question in range(count)]
    return {
        result.gamma: [AnswerPosteriors(shifts=result.shifts[row], widths=result.widths[row]) for row in rows]
        for result in solved
    }
