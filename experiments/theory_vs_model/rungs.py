"""The rungs between the linear theory and training: predicted posteriors of every question, for every gamma.

Each function takes references (`reference.py`) and gives, per gamma, one `AnswerPosteriors` a question; None where a rung has no
prediction for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
from amvl_model.diagnostics.response.free_posterior import (
    FreePosteriors,
    Nll,
    Search,
    decoder_nll,
    free_posteriors,
    softmax_nll,
)
from amvl_model.evaluation.scorers import batches, latent_scorer
from amvl_theory import (
    AnswerPosteriors,
    NoRestPointError,
    fixed_precision_posteriors,
    held_prior_posteriors,
    moving_prior_posteriors,
)
from experiments.theory_vs_model.reference import LetterAverage, Reference, letter_averages

Rung = dict[float, list[AnswerPosteriors | None]]
"""Per gamma, one prediction a question."""


def linear_rungs(references: Sequence[Reference], gammas: Sequence[float]) -> dict[str, Rung]:
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


def letter_rung(references: Sequence[Reference], half: NDArray[np.int64], gammas: Sequence[float]) -> Rung:
    """T6 letter: a question's posteriors from the letter forces of the other half of the questions of its task.

    Args:
        half: (n,) 0 or 1, which half a question is in.
        references, gammas: the questions and the weights.
    """
    averages = [letter_averages([references[i] for i in np.flatnonzero(half == part).tolist()]) for part in (0, 1)]
    found: Rung = {}
    for gamma in gammas:
        solved = [{task: _settled(_held_average, each, gamma) for task, each in part.items()} for part in averages]
        found[gamma] = [_of_other_half(solved, r, part) for r, part in zip(references, half.tolist(), strict=True)]
    return found


def _held_average(average: LetterAverage, gamma: float) -> AnswerPosteriors:
    return held_prior_posteriors(average.forces, average.curvatures, gamma)


def _of_other_half(
    solved: Sequence[Mapping[str, AnswerPosteriors | None]], reference: Reference, half: int
) -> AnswerPosteriors | None:
    found = solved[1 - half].get(reference.task)
    if found is None:
        return None
    n = reference.options
    return AnswerPosteriors(shifts=found.shifts[:n], widths=found.widths[:n])


def softmax_rung(references: Sequence[Reference], gammas: Sequence[float], search: Search) -> Rung:
    """softmax: free posteriors on the log-linear decoder of each question."""
    forces, probs = _stacked(references)
    pairs = [(i, a) for i, r in enumerate(references) for a in range(r.options)]
    rows = [i for i, _ in pairs]
    nll = softmax_nll(forces[rows], probs[rows], [a for _, a in pairs])
    solved = free_posteriors(nll, len(pairs), forces.shape[2], gammas, search)
    return _by_question(solved, pairs, len(references))


def softmax_letter_rung(
    references: Sequence[Reference], half: NDArray[np.int64], gammas: Sequence[float], search: Search
) -> Rung:
    """softmax letter: one posterior a letter and task, the loss averaged over the other half's questions with p(a|x)."""
    solved: list[dict[float, dict[str, AnswerPosteriors | None]]] = []
    for part in (0, 1):
        members = [references[i] for i in np.flatnonzero(half == part).tolist()]
        by_gamma: dict[float, dict[str, AnswerPosteriors | None]] = {gamma: {} for gamma in gammas}
        for task in dict.fromkeys(r.task for r in members):
            group = [r for r in members if r.task == task]
            options, size = group[0].options, group[0].forces.shape[1]
            for each in free_posteriors(shared_softmax_nll(group), options, size, gammas, search):
                by_gamma[each.gamma][task] = AnswerPosteriors(shifts=each.shifts, widths=each.widths)
        solved.append(by_gamma)
    return {
        gamma: [
            _of_other_half([part[gamma] for part in solved], r, h)
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
        every = inner(whitened.repeat_interleave(count, dim=0)).view(options, count, -1)
        return (share[..., None] * every).sum(1)

    return nll


def _stacked(references: Sequence[Reference]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forces (n, O, D) and answer probabilities (n, O), zeros where there is no such option."""
    most = max(r.options for r in references)
    forces = np.zeros((len(references), most, references[0].forces.shape[1]))
    probs = np.zeros((len(references), most))
    for i, r in enumerate(references):
        forces[i, : r.options], probs[i, : r.options] = r.forces, r.answer_probs
    return forces, probs


def free_rung(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    gammas: Sequence[float],
    search: Search,
    *,
    batch_size: int = 32,
) -> tuple[Rung, list[FreePosteriors]]:
    """free: free posteriors on the real decoder, and the searches themselves (for their convergence)."""
    scorer = latent_scorer(model, processor)
    found: Rung = {gamma: [None] * len(questions) for gamma in gammas}
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
                    for i, each in zip(batch.index, row, strict=True):
                        found[gamma][places[i]] = each
    return found, searches


def _by_question(solved: Sequence[FreePosteriors], pairs: Sequence[tuple[int, int]], count: int) -> Rung:
    rows = [[p for p, (i, _) in enumerate(pairs) if i == question] for question in range(count)]
    return {
        each.gamma: [AnswerPosteriors(shifts=each.shifts[row], widths=each.widths[row]) for row in rows]
        for each in solved
    }


def checkpoint_posteriors(
    model: Any, processor: AMVLProcessor, questions: Sequence[VisualQuestion]
) -> list[AnswerPosteriors | None]:
    """A checkpoint's own posteriors of every option, in its own prior's whitened coordinates."""
    return [whitened(each) for each in option_posteriors(model, processor, questions, progress=False)]


def whitened(each: OptionPosteriors) -> AnswerPosteriors:
    """AnswerPosteriors of one question in its prior's whitened coordinates."""
    options = len(each.posterior_means)
    return AnswerPosteriors(
        shifts=((each.posterior_means - each.prior_mean) / each.prior_std).reshape(options, -1),
        widths=(each.posterior_stds / each.prior_std).reshape(options, -1),
    )
