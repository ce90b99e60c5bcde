"""Causal mediation through the latents: another answer's posterior swapped in, single slots knocked out.

The decoder sees the answer that a posterior was shown through Z alone (x stays as it is), so what changes when q(Z|x,y) is
swapped for q(Z|x,b) is the whole effect of the shown answer, and all of it is mediated by Z. Latents are means; figures per
question, b every option other than the given answer y, averaged over b:

Swap, Z = mean of q(Z|x,b) against Z = mean of q(Z|x,y):

    accuracy_given            fraction answered y, with the posterior of y
    accuracy_swapped          fraction answered y, with the posterior of b
    accuracy_difference       swapped minus given, paired
    follows_swapped           fraction answered b with the posterior of b
    log_odds_shift            change of log p(b|x,Z) / p(y|x,Z) by the swap            nats, above 0 if the shown answer is read
    total_variation, answer_kl    between the answer distributions, KL(given || swapped) in nats

Knock-outs, one slot j of the prior mean replaced by

    zero      the zero vector
    other     slot j of another question's prior mean (a derangement)
    average   slot j's mean over the questions: what the slot says of every question alike is kept

against the whole prior mean: accuracy_difference, nll_difference (nats), total_variation, answer_kl (nats). "all" replaces every
slot at once. Effects of single slots need not add up to it: slots can say the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.causal.interventions import all_priors, derangement
from amvl_model.diagnostics.common.effects import PlainReport, answer_kl, option_log_shares, total_variation
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, QuestionBatch, batches, inference, latent_scorer
from amvl_model.results.statistics import Interval, bootstrap_mean
from amvl_model.results.thresholds import is_effect, smallest

KNOCK_OUTS = ("zero", "other", "average")
SWAP_FIGURES = (
    "accuracy_given", "accuracy_swapped", "accuracy_difference", "follows_swapped", "log_odds_shift", "total_variation",
    "answer_kl",
)  # fmt: skip
KNOCK_OUT_FIGURES = ("accuracy_difference", "nll_difference", "total_variation", "answer_kl")

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MediationReport(PlainReport):
    """Effects of swapped posteriors and of single slots (definitions at the top of this module).

    Attributes:
        swap: per name of `SWAP_FIGURES`, its mean over questions with a bootstrap interval.
        slots: per name of `KNOCK_OUTS`, a list with the figures of every slot.
        whole: per name of `KNOCK_OUTS`, the figures with all slots replaced at once.
        per_question: per name of `SWAP_FIGURES`, one value per question.
        verdict: whether the decoder reads the shown answer, and which slots matter, in plain words with figures.
        n: questions.
        donors: per question, the one whose slots it got ("other").
        n_bootstrap, seed, level: of the intervals; seed also of the derangement.
    """

    swap: dict[str, Interval]
    slots: dict[str, list[dict[str, Interval]]]
    whole: dict[str, dict[str, Interval]]
    per_question: dict[str, list[float]]
    verdict: str
    n: int
    donors: list[int]
    n_bootstrap: int
    seed: int
    level: float


def measure_mediation(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> MediationReport:
    """Measure every figure of this module's docstring; every question is encoded twice.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: at least two multiple-choice questions with known answers and at least two options each.
        batch_size: questions encoded together.
        seed: of the derangement and the bootstrap; nothing else is drawn.
        n_bootstrap, level: of the intervals.
        progress: show progress bars.

    Raises:
        ValueError: for a model without latents, fewer than two questions, or a question without a known answer or with fewer
            than two options.
    """
    scorer = latent_scorer(model, processor)
    if len(questions) == 1:
        raise ValueError("expected at least two questions to take other questions' slots from, got one")
    with inference(scorer.model):
        prior = all_priors(scorer, questions, batch_size, progress).mean
        donors = derangement(len(questions), seed)
        replaced = {
            "zero": torch.zeros_like(prior),
            "other": prior[torch.from_numpy(donors)],
            "average": prior.mean(0, keepdim=True).expand_as(prior),
        }
        swap, knocked = _measured(scorer, questions, prior, replaced, batch_size, progress)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    effects = {
        name: [
            {f: bootstrap_mean(v, **settings) for f, v in zip(KNOCK_OUT_FIGURES, part, strict=True)} for part in parts
        ]
        for name, parts in knocked.items()
    }
    result = {name: bootstrap_mean(values, **settings) for name, values in swap.items()}
    k = prior.shape[1]
    return MediationReport(
        swap=result,
        slots={name: parts[:k] for name, parts in effects.items()},
        whole={name: parts[k] for name, parts in effects.items()},
        per_question={name: values.tolist() for name, values in swap.items()},
        verdict=_verdict(result, knocked["other"], settings),
        n=len(questions),
        donors=donors.tolist(),
        **settings,
    )


def _measured(
    scorer: LatentScorer,
    questions: Sequence[VisualQuestion],
    prior: Tensor,
    replaced: dict[str, Tensor],
    batch_size: int,
    progress: bool,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Swap figures (n,), and per knock-out (k + 1, figures, n), the last one with all slots replaced."""
    n, k = prior.shape[:2]
    swap = {name: np.zeros(n) for name in SWAP_FIGURES}
    knocked = {name: np.zeros((k + 1, len(KNOCK_OUT_FIGURES), n)) for name in replaced}
    for batch in batches(
        questions, scorer.processor, batch_size, description="mediation", progress=progress, least_options=2
    ):
        query = scorer.encode_batch(batch)
        answers = np.array([given_answer(question) for question in batch.questions])
        for name, values in _swapped(scorer, query, batch, answers).items():
            swap[name][batch.index] = values
        own = prior[batch.index].to(scorer.device)
        reference = scorer.option_log_probs(query, own, batch.options)
        for name, others in replaced.items():
            new = others[batch.index].to(scorer.device)
            for part in range(k + 1):
                z = new if part == k else own.clone()
                if part < k:
                    z[:, part] = new[:, part]
                changed = scorer.option_log_probs(query, z, batch.options)
                knocked[name][part][:, batch.index] = _change(changed, reference, answers)
    return swap, knocked


def _change(changed: Tensor, reference: Tensor, answers: NDArray[np.int64]) -> Array:
    """`KNOCK_OUT_FIGURES` (4, B) from log p(a|x,Z) (B, O) with changed and with reference latents."""
    rows = np.arange(len(answers))
    nll = [-item.double().cpu().numpy()[rows, answers] for item in (changed, reference)]
    shares = [option_log_shares(item) for item in (changed, reference)]
    right = [(item.argmax(1) == answers).astype(float) for item in shares]
    return np.stack([right[0] - right[1], nll[0] - nll[1], total_variation(*shares), answer_kl(*shares)])


def _swapped(
    scorer: LatentScorer, query: EncodedQuery, batch: QuestionBatch, answers: NDArray[np.int64]
) -> dict[str, Array]:
    """`SWAP_FIGURES`, each (B,): averaged over the options other than the given answer."""
    options, rows = np.array(batch.options), np.arange(len(answers))
    means = scorer.option_posteriors(query, batch.options).mean  # (B, O, k, d)
    device_rows = torch.from_numpy(rows).to(means.device)

    def shares(shown: NDArray[np.int64]) -> Array:
        z = means[device_rows, torch.from_numpy(shown).to(means.device)]
        return option_log_shares(scorer.option_log_probs(query, z, batch.options))

    given = shares(answers)
    result = {name: np.zeros(len(answers)) for name in SWAP_FIGURES}
    for step in range(1, int(options.max())):
        counts = step < options  # questions with fewer options are through
        shown = np.where(counts, (answers + step) % options, answers)
        swapped = shares(shown)
        figures = {
            "accuracy_swapped": swapped.argmax(1) == answers,
            "follows_swapped": swapped.argmax(1) == shown,
            "log_odds_shift": (swapped[rows, shown] - swapped[rows, answers])
            - (given[rows, shown] - given[rows, answers]),
            "total_variation": total_variation(swapped, given),
            "answer_kl": answer_kl(swapped, given),
        }
        for name, values in figures.items():
            result[name] += np.where(counts, values, 0.0) / (options - 1)
    result["accuracy_given"] = (given.argmax(1) == answers).astype(float)
    result["accuracy_difference"] = result["accuracy_swapped"] - result["accuracy_given"]
    return result


def _verdict(swap: dict[str, Interval], knocked: Array, settings: dict[str, Any]) -> str:
    """One sentence on the swap, one on the slots taken from other questions (level corrected for their number)."""
    shift = swap["log_odds_shift"]
    figures = (
        f"showing the posterior another option shifts the log odds towards it by {_text(shift)} nats, and "
        f"{swap['follows_swapped'].mean:.1%} of the answers follow it"
    )
    if is_effect(shift, "log_odds") and shift.mean > 0:
        first = f"The decoder reads what the posterior was shown: {figures}."
    else:
        first = (
            f"The decoder was not found to read what the posterior was shown (a shift of at least {smallest('log_odds')} whose "
            f"interval leaves out 0): {figures}."
        )
    corrected = settings | {"level": 1 - (1 - settings["level"]) / (2 * (len(knocked) - 1))}
    result = []
    for slot, values in enumerate(knocked[:-1]):
        changes = [bootstrap_mean(values[i], **corrected) for i in (0, 1)]
        texts = [
            f"{what} by {_text(change, scale)} {unit}"
            for change, (kind, what, scale, unit) in zip(changes, _MEASURES, strict=True)
            if is_effect(change, kind)
        ]
        if texts:
            result.append(f"slot {slot} ({', '.join(texts)})")
    if not result:
        return (
            f"{first} No single slot, taken from another question, changes accuracy or answer NLL beyond its interval and "
            f"{smallest('accuracy')} or {smallest('nll')}."
        )
    return f"{first} Taken from another question, single slots change accuracy or answer NLL: {', '.join(result)}."


_MEASURES: tuple[tuple[Literal["accuracy", "nll"], str, float, str], ...] = (
    ("accuracy", "accuracy", 100.0, "points"),
    ("nll", "answer NLL", 1.0, "nats"),
)
"""Of one slot's effects in their order: kind, name in words, factor and unit."""


def _text(interval: Interval, scale: float = 1.0) -> str:
    if interval.low is None or interval.high is None:
        return f"{scale * interval.mean:+.3f}"
    return f"{scale * interval.mean:+.3f} [{scale * interval.low:+.3f}, {scale * interval.high:+.3f}]"
