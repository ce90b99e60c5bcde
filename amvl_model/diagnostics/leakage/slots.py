"""Leakage and contamination slot by slot, and task by task.

Given the option a, the slots of the posterior are independent: q(Z|x,a) = prod_j q(Z_j|x,a). So, per question,

    forward KL, reverse KL, answer sensitivity     the sum over the slots is the figure of the whole latent
    leaked information                             max_j I(Z_j;A|x) <= I(Z;A|x) <= min( H, sum_j I(Z_j;A|x) )
    redundancy                                     sum_j I(Z_j;A|x) - I(Z;A|x) >= 0 nats: the slots say the same thing

H is log O with uniform answers, H(Y|x) with known ones. The figures are those of contamination.py. The whole latent and every
slot have draws of their own, so the redundancy may fall below 0 by its Monte Carlo error.
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
from amvl_model.diagnostics.common.effects import PlainReport
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
from amvl_model.diagnostics.leakage.information import answer_sensitivity, entropy, leaked_information_batch
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import check_question
from amvl_model.models.distributions import DiagonalGaussian, kl_per_dimension
from amvl_model.results.statistics import Interval, bootstrap_mean

SLOT_MEASURES: dict[str, str] = {
    "leaked_information": "nats",
    "known_answer_leakage": "nats",
    "answer_sensitivity": "squared Mahalanobis distance",
    "forward_kl": "nats",
    "reverse_kl": "nats",
    "prior_spread": "latent units",
    "posterior_spread": "latent units",
}
"""Every measure of a slot and its unit."""
WHOLE_MEASURES = SLOT_MEASURES | {
    "leakage_bound": "nats",
    "answer_entropy": "nats",
    "redundancy": "nats",
    "known_redundancy": "nats",
}
"""What is measured of the whole latent; leakage_bound is log O, answer_entropy H(Y|x)."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SlotReport(PlainReport):
    """Figures of the whole latent and of every slot (definitions at the top of this module).

    Attributes:
        whole: per name of `WHOLE_MEASURES`, mean over questions with its bootstrap interval; None where no question has it
            (known_answer_leakage, answer_entropy and known_redundancy need known answer probabilities).
        slots: per name of `SLOT_MEASURES`, the same for every slot.
        tasks: per task, {"whole": ..., "slots": ...} as above.
        monte_carlo_error: standard error in nats, due to sampling alone, of the means of the two leaked informations:
            {"whole": error, "slots": [error, ...]}; None where the measure is None.
        units: of every measure.
        n: questions.
        n_samples: draws behind each leaked information.
        n_bootstrap, seed, level: of the intervals; seed also of the draws.
    """

    whole: dict[str, Interval | None]
    slots: dict[str, list[Interval | None]]
    tasks: dict[str, dict[str, Any]]
    monte_carlo_error: dict[str, dict[str, Any]]
    units: dict[str, str]
    n: int
    n_samples: int
    n_bootstrap: int
    seed: int
    level: float


def measure_slots(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    n_samples: int = 1024,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> SlotReport:
    """Measure every figure of this module's docstring.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with known answers, at least two options each.
        n_samples: draws from each option's posterior behind each leaked information.
        batch_size: questions encoded together.
        seed: of the draws and of the bootstrap.
        n_bootstrap, level: of the intervals.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without latents, an empty set, or a question without a known answer or with fewer than two
            options.
    """
    entries = option_posteriors(model, processor, questions, batch_size, needs_answer=True, progress=progress)
    return slot_report(entries, n_samples=n_samples, seed=seed, n_bootstrap=n_bootstrap, level=level)


def slot_report(
    entries: Sequence[OptionPosteriors],
    *,
    n_samples: int = 1024,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
) -> SlotReport:
    """The same from posteriors that are there already (`option_posteriors`); arguments as `measure_slots`."""
    for entry in entries:
        check_question(entry.question, least_options=2)
    columns, errors = _columns(entries, n_samples, seed)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    tasks: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        tasks.setdefault(entry.question.task, []).append(i)
    everyone = _summary(columns, list(range(len(entries))), settings)
    return SlotReport(
        whole=everyone["whole"],
        slots=everyone["slots"],
        tasks={task: _summary(columns, members, settings) for task, members in tasks.items()},
        monte_carlo_error={name: _error(item) for name, item in errors.items()},
        units=dict(WHOLE_MEASURES),
        n=len(entries),
        n_samples=n_samples,
        **settings,
    )


def _columns(
    entries: Sequence[OptionPosteriors], n_samples: int, seed: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Per measure (1 + k, n) (the whole latent, then its slots), nan where there is none; errors of the leakages likewise."""
    k, n = len(entries[0].prior_mean), len(entries)
    columns = {name: np.full((1 + k, n), np.nan) for name in WHOLE_MEASURES}
    errors = {name: np.full((1 + k, n), np.nan) for name in ("leaked_information", "known_answer_leakage")}
    groups: dict[int, list[int]] = {}
    for i, entry in enumerate(entries):
        groups.setdefault(len(entry.posterior_means), []).append(i)
    for members in groups.values():
        means = np.stack([entries[i].posterior_means for i in members])  # (group, options, k, d)
        stds = np.stack([entries[i].posterior_stds for i in members])
        with_probs = [j for j, i in enumerate(members) if entries[i].question.answer_probs is not None]
        weights = np.array([entries[members[j]].question.answer_probs for j in with_probs])
        columns["leakage_bound"][0, members] = np.log(means.shape[1])
        if with_probs:
            columns["answer_entropy"][0, [members[j] for j in with_probs]] = entropy(weights)
        for part in range(1 + k):
            chosen = slice(None) if part == 0 else slice(part - 1, part)
            mean, std = (item[:, :, chosen].reshape(*item.shape[:2], -1) for item in (means, stds))
            columns["answer_sensitivity"][part, members] = answer_sensitivity(mean, std)
            for name, rows, weight in (
                ("leaked_information", list(range(len(members))), None),
                ("known_answer_leakage", with_probs, weights),
            ):
                if rows:
                    place = [members[j] for j in rows]
                    # each part has draws of its own, so their Monte Carlo errors are independent
                    drawn = leaked_information_batch(mean[rows], std[rows], weight, n_samples, seed * (1 + k) + part)
                    columns[name][part, place], errors[name][part, place] = drawn
    for name, source in (("redundancy", "leaked_information"), ("known_redundancy", "known_answer_leakage")):
        columns[name][0] = columns[source][1:].sum(axis=0) - columns[source][0]
    return columns | _given_columns(entries), errors


def _given_columns(entries: Sequence[OptionPosteriors]) -> dict[str, Array]:
    """KLs and spreads with the given answers' posteriors, each (1 + k, n)."""
    answers = [given_answer(entry.question) for entry in entries]
    prior = _gaussian([e.prior_mean for e in entries], [e.prior_std for e in entries])
    posterior = _gaussian(
        [e.posterior_means[a] for e, a in zip(entries, answers, strict=True)],
        [e.posterior_stds[a] for e, a in zip(entries, answers, strict=True)],
    )
    result = {}
    for name, kl in (
        ("forward_kl", kl_per_dimension(posterior, prior)),
        ("reverse_kl", kl_per_dimension(prior, posterior)),
    ):
        slots = kl.sum(-1).T.numpy()
        result[name] = np.concatenate([slots.sum(axis=0, keepdims=True), slots])
    for name, gaussian in (("prior_spread", prior), ("posterior_spread", posterior)):
        slots = gaussian.std.mean(-1).T.numpy()
        result[name] = np.concatenate([slots.mean(axis=0, keepdims=True), slots])
    return result


def _gaussian(means: list[Array], stds: list[Array]) -> DiagonalGaussian:
    return DiagonalGaussian(torch.from_numpy(np.stack(means)), torch.from_numpy(np.log(np.stack(stds))))


def _summary(columns: dict[str, Array], members: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    def interval(values: Array) -> Interval | None:
        there = values[members][np.isfinite(values[members])]
        return bootstrap_mean(there, **settings) if there.size else None

    return {
        "whole": {name: interval(columns[name][0]) for name in WHOLE_MEASURES},
        "slots": {name: [interval(slot) for slot in columns[name][1:]] for name in SLOT_MEASURES},
    }


def _error(errors: Array) -> dict[str, Any]:
    """Standard errors of the means over questions: sqrt(sum of squares) / number."""

    def one(values: Array) -> float | None:
        there = values[np.isfinite(values)]
        return float(np.sqrt((there**2).sum()) / there.size) if there.size else None

    return {"whole": one(errors[0]), "slots": [one(slot) for slot in errors[1:]]}
