"""Where the prior mean lies among the posteriors of a question's options: answer_direction_shift.

With prior mean c, posterior means m_a and variances s_a^2 of the O options of one question, in latent units:

    option average        g = mean over a of m_a                    (c and g both hold the anchor m*, which no checkpoint shows)
    direction             eps_a = m_a - g
    shift of option a     <c - g, eps_a> / <eps_a, eps_a>           no unit: 1 = the prior stands where option a's posterior does
    metric                <u, v> = sum_i u_i v_i / v_i,  v_i = mean over a of s_a,i^2    ("posterior_precision")
                          <u, v> = sum_i u_i v_i                                         ("euclidean")

Per question, with given answer y:

    given                 shift of y
    others                mean of the shifts of the other options
    contrast              given - others
    own_label             contrast - sum_a p(a|x) contrast with a in the place of y      where p(a|x) is known and is no certainty

and over questions i, sums of products before the division (the single ratio is ill-conditioned where the posterior hardly
tells the options apart):

    pooled_given          sum_i <c - g, eps_y> / sum_i <eps_y, eps_y>
    leverage              sum_i <c - g, n> / sum_i <n, n>,   n = eps_y - sum_a p(a|x) eps_a     the label's noise direction

A prior that has inferred the answer from x has a contrast above 0 on held-out questions too. What it knows on training
questions only is memorised: the contrast there minus the contrast on held-out questions whose labels were drawn with the same
noise. own_label and leverage need no such pair: given x, the label's noise has mean 0, so on questions that were not trained
on both are 0 in expectation whatever the prior has inferred; on training questions the leverage is the weight, 0 to 1, of a
question's own label in its own prior mean.

Each slot's figures use the products over its own dimensions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.effects import PlainReport
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import check_question
from amvl_model.results.statistics import Interval, bootstrap_mean, bootstrap_ratio, unpaired_difference

METRICS = ("posterior_precision", "euclidean")
FIGURES = ("given", "others", "contrast", "own_label", "pooled_given", "leverage")
_ROUNDING = 1e-10
"""Squared displacement of an option, relative to the squared means, below which it is rounding and has no direction."""

Array = NDArray[np.float64]
_RATIOS = {"pooled_given": ("given_product", "given_size"), "leverage": ("noise_product", "noise_size")}


@dataclass(frozen=True, kw_only=True)
class DirectionShift:
    """answer_direction_shift on one set of questions (definitions at the top of this module; no unit).

    Attributes:
        figures: per name of `FIGURES`, the estimate with its bootstrap interval over questions; None where no question has
            it (own_label and leverage need known answer probabilities that are no certainty).
        slots: the same for every slot.
        tasks: the same for every task.
        per_question: given, others, contrast and own_label of every question, None where it has none.
        ids: of the questions.
        undefined: questions left out because an option's posterior mean is the option average to within rounding.
    """

    figures: dict[str, Interval | None]
    slots: list[dict[str, Interval | None]]
    tasks: dict[str, dict[str, Interval | None]]
    per_question: dict[str, list[float | None]]
    ids: list[str]
    undefined: int


@dataclass(frozen=True, kw_only=True)
class AnswerDirectionReport(PlainReport):
    """Held-out questions beside training questions.

    Attributes:
        held_out, training: the figures of each set; training is None if no training questions were given.
        memorised: training contrast minus held-out contrast; None without training questions, or where one has none.
        same_label_noise: whether the labels of both sets are equally noisy (mean of 1 - max p(a|x), to 0.01); if not,
            ``memorised`` also holds a difference of the labels. None where it is not known.
        metric: name of the metric.
        n_bootstrap, seed, level: of the intervals.
    """

    held_out: DirectionShift
    training: DirectionShift | None
    memorised: Interval | None
    same_label_noise: bool | None
    metric: str
    n_bootstrap: int
    seed: int
    level: float


def answer_direction_shift(prior_mean: Any, posterior_means: Any, precision: Any = 1.0) -> Array:
    """Shift of every option, (..., O): <c - g, eps_a> / <eps_a, eps_a>; nan where an option has no direction.

    Args:
        prior_mean: c, (..., D).
        posterior_means: m_a, (..., O, D).
        precision: weight of each dimension in the products, a number or (..., D).

    Raises:
        ValueError: for fewer than two options, or shapes that do not belong together.
    """
    product, size = _products(np.asarray(prior_mean, float), np.asarray(posterior_means, float), precision)
    return np.divide(product, size, out=np.full_like(product, np.nan), where=size > 0)


def measure_answer_direction(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    training: Sequence[VisualQuestion] | None = None,
    metric: str = "posterior_precision",
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> AnswerDirectionReport:
    """Measure the figures of this module's docstring on held-out and, if given, on training questions.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: held-out multiple-choice questions with known answers, at least two options each.
        training: questions with the labels that the checkpoint was trained on.
        metric: one of `METRICS`.
        batch_size: questions encoded together.
        seed, n_bootstrap, level: of the bootstrap over questions; nothing else is drawn.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without latents, an unknown metric, an empty set, or a question without a known answer or
            with fewer than two options.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    entries = [
        None
        if part is None
        else option_posteriors(model, processor, part, batch_size, needs_answer=True, progress=progress)
        for part in (questions, training)
    ]
    assert entries[0] is not None
    return answer_direction_report(
        entries[0], entries[1], metric=metric, seed=seed, n_bootstrap=n_bootstrap, level=level
    )


def answer_direction_report(
    held_out: Sequence[OptionPosteriors],
    training: Sequence[OptionPosteriors] | None = None,
    *,
    metric: str = "posterior_precision",
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
) -> AnswerDirectionReport:
    """The same from posteriors that are there already (`option_posteriors`); arguments as `measure_answer_direction`."""
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    sets = [None if item is None else _direction_shift(item, metric, settings) for item in (held_out, training)]
    assert sets[0] is not None
    memorised = None
    if sets[1] is not None:
        contrasts = [[v for v in item.per_question["contrast"] if v is not None] for item in sets if item is not None]
        memorised = unpaired_difference(contrasts[1], contrasts[0], **settings) if all(contrasts) else None
    return AnswerDirectionReport(
        held_out=sets[0],
        training=sets[1],
        memorised=memorised,
        same_label_noise=None if training is None else _same_noise(held_out, training),
        metric=metric,
        **settings,
    )


def _direction_shift(entries: Sequence[OptionPosteriors], metric: str, settings: dict[str, Any]) -> DirectionShift:
    for entry in entries:
        check_question(entry.question, least_options=2)
    rows = [_question_columns(entry, metric) for entry in entries]  # (1 + k,) each: the whole latent, then its slots
    columns = {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
    tasks: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        tasks.setdefault(entry.question.task, []).append(i)
    whole = {name: values[0] for name, values in columns.items()}
    return DirectionShift(
        figures=_figures(whole, settings),
        slots=[
            _figures({name: v[s] for name, v in columns.items()}, settings) for s in range(1, len(columns["given"]))
        ],
        tasks={
            task: _figures({name: values[members] for name, values in whole.items()}, settings)
            for task, members in tasks.items()
        },
        per_question={
            name: [float(v) if np.isfinite(v) else None for v in whole[name]]
            for name in ("given", "others", "contrast", "own_label")
        },
        ids=[entry.question.id for entry in entries],
        undefined=int(np.isnan(whole["given"]).sum()),
    )


def _question_columns(entry: OptionPosteriors, metric: str) -> dict[str, Array]:
    """Figures of one question, each (1 + k,): of the whole latent and of every slot; nan where there is none."""
    k = len(entry.prior_mean)
    precision = 1.0 / (entry.posterior_stds**2).mean(axis=0) if metric == "posterior_precision" else np.ones(1)
    prior, means = entry.prior_mean, entry.posterior_means
    weight = np.broadcast_to(precision, prior.shape)
    flat = (prior.reshape(-1), means.reshape(len(means), -1), weight.reshape(-1))
    parts = [flat, *((prior[s], means[:, s], weight[s]) for s in range(k))]
    result = [_part(*part, given_answer(entry.question), entry.question.answer_probs) for part in parts]
    return {name: np.array([item[name] for item in result]) for name in result[0]}


def _part(
    prior: Array, means: Array, precision: Array, answer: int, answer_probs: tuple[float, ...] | None
) -> dict[str, float]:
    missing = dict.fromkeys((*FIGURES[:4], "given_product", "given_size", "noise_product", "noise_size"), float("nan"))
    product, size = _products(prior, means, precision)
    if (size == 0).any():
        return missing
    shift, options = product / size, len(size)
    contrast = shift - (shift.sum() - shift) / (options - 1)
    result = missing | {
        "given": shift[answer],
        "others": (shift.sum() - shift[answer]) / (options - 1),
        "contrast": contrast[answer],
        "given_product": product[answer],
        "given_size": size[answer],
    }
    if answer_probs is not None and max(answer_probs) < 1:
        chance = np.asarray(answer_probs) / np.sum(answer_probs)
        middle = means.mean(axis=0)
        noise = means[answer] - chance @ means
        result |= {
            "own_label": contrast[answer] - chance @ contrast,
            "noise_product": float((precision * (prior - middle) * noise).sum()),
            "noise_size": float((precision * noise**2).sum()),
        }
    return result


def _products(prior: Array, means: Array, precision: Any) -> tuple[Array, Array]:
    """<c - g, eps_a> and <eps_a, eps_a>, each (..., O); the latter is 0 where it is rounding."""
    if means.ndim < 2 or means.shape[-2] < 2 or prior.shape != (*means.shape[:-2], means.shape[-1]):
        raise ValueError(
            "expected a prior mean (..., D) and posterior means (..., options, D) of two options or more, got shapes "
            f"{prior.shape} and {means.shape}"
        )
    weight = np.broadcast_to(np.asarray(precision, float), prior.shape)[..., None, :]
    middle = means.mean(axis=-2, keepdims=True)
    direction = means - middle
    size = (weight * direction**2).sum(-1)
    scale = (weight * means**2).sum(-1).max(-1, keepdims=True)
    product = (weight * (prior[..., None, :] - middle) * direction).sum(-1)
    return product, np.where(size <= _ROUNDING * scale, 0.0, size)


def _figures(columns: dict[str, Array], settings: dict[str, Any]) -> dict[str, Interval | None]:
    result: dict[str, Interval | None] = {}
    for name in FIGURES:
        names = _RATIOS.get(name, (name,))
        values = np.stack([columns[item] for item in names])
        values = values[:, np.isfinite(values).all(axis=0)]
        if not values.size:
            result[name] = None
        elif name in _RATIOS:
            result[name] = bootstrap_ratio(values[0], values[1], **settings)
        else:
            result[name] = bootstrap_mean(values[0], **settings)
    return result


def _same_noise(first: Sequence[OptionPosteriors], second: Sequence[OptionPosteriors]) -> bool | None:
    """Whether the mean probability of a label other than the likeliest is the same in both sets, to 0.01."""
    noise = []
    for entries in (first, second):
        given = [e.question.answer_probs for e in entries if e.question.answer_probs is not None]
        if len(given) < len(entries):
            return None
        noise.append(float(np.mean([1 - max(probs) for probs in given])))
    return abs(noise[0] - noise[1]) < 0.01
