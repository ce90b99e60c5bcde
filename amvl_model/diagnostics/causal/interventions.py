"""Do the latents matter? Answers of a checkpoint with its latents replaced.

    prior_mean      Z = E[Z|x], what inference uses: the reference
    prior_sample    Z ~ p(Z|x)
    zeroed          Z = 0, which injects the zero vector
    shuffled        the prior mean of another question of the set (a derangement)
    noise           Z ~ N(0, I)

A model that is not ours (latent_models.py) may compute its latents: then these stand for the prior mean, there is no prior
sample, and the noise has the mean and the spread over the questions that the latents have, place by place.

For each condition: accuracy by option likelihood, the given answer's NLL in nats, both also as paired differences against the
prior mean, and two distances between the distributions over the options with Z and with the prior mean (effects.py): total
variation, 0 to 1, and KL(prior mean || Z) in nats. Latents of another answer's posterior and single slots: mediation.py.
Conditions with draws are averaged over the draws, question by question.

The last three destroy what the latents say of the question. The latents matter on a checkpoint if one of the three changes
accuracy or NLL: if one of the six paired differences has an interval that leaves out 0 and is at least as large as the
threshold of its kind (amvl_model.results.thresholds). The six intervals of that verdict have the level 1 - (1 - level) / 6, so
that a checkpoint whose latents do nothing is called causal with a probability of at most 1 - level (Bonferroni). Their content
matters if shuffling does it: zeros and noise are inputs that a model never met in training and may disturb it, whatever its
latents say, while shuffled latents are all right in themselves. Of a checkpoint that does not answer yet, that is with a worse
NLL than a guess and hardly more right answers, neither is said.


Do pause tokens matter? Answers of a checkpoint of the baseline pause (pause.py) with its tokens replaced by zero vectors.

    as_trained    the learnt embeddings: the reference
    zeroed        the zero vector in every place

The tokens are the same for every question, so shuffling them between questions would change nothing. Figures as in
interventions.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.effects import (
    PlainReport,
    answer_kl,
    answer_scores,
    option_log_shares,
    total_variation,
)
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import LatentScorer, batches, inference, latent_scorer, sample_latents, scorer_for
from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.results.statistics import Interval, bootstrap_mean, paired_difference
from amvl_model.results.thresholds import answers, is_effect, smallest

CONDITIONS = ("prior_mean", "prior_sample", "zeroed", "shuffled", "noise")
ABLATIONS = ("zeroed", "shuffled", "noise")


@dataclass(frozen=True, kw_only=True)
class ConditionEffect:
    """One condition on all questions.

    Attributes:
        accuracy: fraction right by option likelihood.
        answer_nll: of the given answer, nats.
        accuracy_difference: accuracy minus that of the prior mean, paired; None for the prior mean itself.
        nll_difference: answer NLL minus that of the prior mean, paired, nats; None for the prior mean itself.
        total_variation: between the option distributions with Z and with the prior mean, 0 to 1; None likewise.
        answer_kl: KL(with the prior mean || with Z) of the option distributions, nats; None likewise.
        draws: latents drawn a question.
    """

    accuracy: Interval
    answer_nll: Interval
    accuracy_difference: Interval | None
    nll_difference: Interval | None
    total_variation: Interval | None
    answer_kl: Interval | None
    draws: int


@dataclass(frozen=True, kw_only=True)
class InterventionReport(PlainReport):
    """Effect of the latents on one checkpoint (definitions at the top of this module).

    Attributes:
        conditions: per name of `CONDITIONS`, its effect; without prior_sample where latents are computed, not drawn.
        matters: whether the latents matter causally, as defined above; False for a checkpoint that does not answer.
        content_matters: whether shuffling them between questions does it.
        verdict: both as one plain sentence with figures.
        n: questions.
        donors: per question, the one whose prior mean it got when shuffled.
        samples: draws of prior_sample and noise.
        seed: of all draws, of the derangement and of the bootstrap.
        level: probability of the intervals (those of the verdict together).
    """

    conditions: dict[str, ConditionEffect]
    matters: bool
    content_matters: bool
    verdict: str
    n: int
    donors: list[int]
    samples: int
    seed: int
    level: float

    def table(self) -> str:
        """Plain text: a line per condition, accuracies in percent, NLL in nats, intervals in brackets."""
        head = ("latents", "accuracy", "change (points)", "answer NLL", "change (nats)", "total variation")
        rows = [
            (
                name.replace("_", " "),
                _cell(effect.accuracy, 100, ".1f"),
                _cell(effect.accuracy_difference, 100, "+.1f"),
                _cell(effect.answer_nll, 1, ".3f"),
                _cell(effect.nll_difference, 1, "+.3f"),
                _cell(effect.total_variation, 1, ".3f"),
            )
            for name, effect in self.conditions.items()
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in (head, *rows)
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def intervention_report(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    samples: int = 4,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> InterventionReport:
    """Answer every question under every condition of this module's docstring.

    The priors of all questions are computed first, so shuffling crosses batches; the query is then encoded a second time
    for all conditions together.

    Args:
        model: an AMVLForConditionalGeneration, or the `ForeignScorer` of a model that is not ours.
        processor: its processor, or the scorer's.
        questions: at least two multiple-choice questions with known answers and at least two options each.
        samples: draws a question of prior_sample and of noise.
        temperature: scale of the prior's standard deviation in prior_sample.
        batch_size: questions encoded together.
        seed: of all draws (each question has its own stream), of the derangement and of the bootstrap.
        n_bootstrap: resamples of the questions behind the intervals.
        level: probability of the intervals.
        progress: show progress bars.

    Raises:
        ValueError: for a model without latents, fewer than two questions, or a question without a known answer or with
            fewer than two options.
    """
    scorer = latent_scorer(model, processor)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if len(questions) == 1:
        raise ValueError("expected at least two questions to shuffle latents between, got one")
    with inference(scorer.model):
        prior = all_priors(scorer, questions, batch_size, progress)
        donors = derangement(len(questions), seed)
        latents = _latents(prior, scorer.noise(prior), donors, samples, temperature, seed)
        scores = _scores(scorer, questions, latents, batch_size, progress)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    conditions = {name: _effect(name, scores, len(latents[name]), level=level, **settings) for name in latents}
    options = np.array([len(question.choices) for question in questions])
    matters, content_matters, verdict = _verdict(scores, options, level, settings)
    return InterventionReport(
        conditions=conditions,
        matters=matters,
        content_matters=content_matters,
        verdict=verdict,
        n=len(questions),
        donors=donors.tolist(),
        samples=samples,
        seed=seed,
        level=level,
    )


def derangement(n: int, seed: int) -> np.ndarray:
    """(n,) a random permutation without fixed points: one random cycle through all of 0..n-1.

    Raises:
        ValueError: for n below 2, where there is none.
    """
    if n < 2:
        raise ValueError(f"expected at least two questions to shuffle latents between, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    donors = np.empty(n, dtype=np.int64)
    donors[order] = np.roll(order, 1)
    return donors


def all_priors(
    scorer: LatentScorer, questions: Sequence[VisualQuestion], batch_size: int, progress: bool
) -> DiagonalGaussian:
    """p(Z|x) of all questions, (n, k, d), on the CPU."""
    result: dict[int, tuple[Tensor, Tensor]] = {}
    for batch in batches(
        questions, scorer.processor, batch_size, description="priors", progress=progress, least_options=2
    ):
        prior = scorer.encode_batch(batch).prior
        assert prior is not None
        result |= dict(zip(batch.index, zip(prior.mean.cpu(), prior.log_std.cpu(), strict=True), strict=True))
    rows = [result[i] for i in range(len(questions))]
    return DiagonalGaussian(torch.stack([mean for mean, _ in rows]), torch.stack([log_std for _, log_std in rows]))


def _latents(
    prior: DiagonalGaussian,
    noise: DiagonalGaussian,
    donors: np.ndarray,
    samples: int,
    temperature: float,
    seed: int,
) -> dict[str, Tensor]:
    """Z of every condition, (draws, n, k, d)."""
    everyone = range(len(prior.mean))
    latents = {
        "prior_mean": prior.mean[None],
        "prior_sample": sample_latents(prior, everyone, samples, temperature=temperature, seed=seed),
        "zeroed": torch.zeros_like(prior.mean)[None],
        "shuffled": prior.mean[torch.from_numpy(donors)][None],
        # another stream than the prior's samples, or noise would be those samples in other units
        "noise": sample_latents(noise, everyone, samples, temperature=1.0, seed=seed + 1),
    }
    if not bool(prior.std.any()):
        del latents["prior_sample"]  # a model that computes its latents draws none
    return latents


def _scores(
    scorer: LatentScorer,
    questions: Sequence[VisualQuestion],
    latents: dict[str, Tensor],
    batch_size: int,
    progress: bool,
) -> dict[str, dict[str, np.ndarray]]:
    """Per condition: answer NLL, accuracy and both distances of every question, (n,), averaged over the draws."""
    names = ("nll", "accuracy", "total_variation", "answer_kl")
    result = {condition: {name: np.zeros(len(questions)) for name in names} for condition in latents}
    for batch in batches(
        questions, scorer.processor, batch_size, description="interventions", progress=progress, least_options=2
    ):
        query = scorer.encode_batch(batch)
        given = [given_answer(question) for question in batch.questions]
        reference: np.ndarray | None = None
        for condition, draws in latents.items():
            for z in draws[:, batch.index]:
                log_probs = scorer.option_log_probs(query, z.to(scorer.device), batch.options)
                share = option_log_shares(log_probs)
                reference = share if reference is None else reference  # the first condition is the prior mean
                nll, right = answer_scores(log_probs, given)
                distances = total_variation(share, reference), answer_kl(share, reference)
                for name, values in zip(names, (nll, right, *distances), strict=True):
                    result[condition][name][batch.index] += values / len(draws)
    return result


def _effect(name: str, scores: dict[str, dict[str, np.ndarray]], draws: int, **settings: Any) -> ConditionEffect:
    own, reference = scores[name], scores["prior_mean"]
    is_reference = name == "prior_mean"
    return ConditionEffect(
        accuracy=bootstrap_mean(own["accuracy"], **settings),
        answer_nll=bootstrap_mean(own["nll"], **settings),
        accuracy_difference=(
            None if is_reference else paired_difference(own["accuracy"], reference["accuracy"], **settings)
        ),
        nll_difference=None if is_reference else paired_difference(own["nll"], reference["nll"], **settings),
        total_variation=None if is_reference else bootstrap_mean(own["total_variation"], **settings),
        answer_kl=None if is_reference else bootstrap_mean(own["answer_kl"], **settings),
        draws=draws,
    )


def _verdict(
    scores: dict[str, dict[str, np.ndarray]], options: np.ndarray, level: float, settings: dict[str, Any]
) -> tuple[bool, bool, str]:
    """Whether any of the six differences is an effect at the corrected level, whether a shuffled one is, the sentence."""
    nll, accuracy = (float(scores["prior_mean"][measure].mean()) for measure in ("nll", "accuracy"))
    guess, chance = float(np.log(options).mean()), float((1 / options).mean())
    if not answers(nll, accuracy, guess, chance):
        sentence = (
            f"This checkpoint does not answer yet (answer NLL {nll:.2f} nats, a guess over the options {guess:.2f}; accuracy "
            f"{accuracy:.1%}, chance {chance:.1%}): what replacing its latents changes is no evidence about them."
        )
        return False, False, sentence
    settings = {**settings, "level": 1 - (1 - level) / (2 * len(ABLATIONS))}
    changes: dict[str, dict[str, Interval]] = {
        name: {m: paired_difference(scores[name][m], scores["prior_mean"][m], **settings) for m, *_ in _MEASURES}
        for name in ABLATIONS
    }
    return in_words(changes, len(options))


def in_words(changes: Mapping[str, Mapping[str, Interval]], n: int) -> tuple[bool, bool, str]:
    """Whether any change is an effect, whether one of the shuffled latents is, and the sentence.

    Args:
        changes: by name of `ABLATIONS` and measure ("accuracy", a fraction; "nll", nats), at the corrected level.
        n: questions.
    """
    result: dict[str, list[str]] = {name: [] for name in ABLATIONS}
    largest = {"accuracy": 0.0, "nll": 0.0}
    for name in ABLATIONS:
        for measure, what, scale, digits, unit in _MEASURES:
            change = changes[name][measure]
            largest[measure] = max(largest[measure], scale * abs(change.mean))
            if is_effect(change, measure):
                result[name].append(f"{what} by {_cell(change, scale, digits)} {unit}")
    listed = "; ".join(f"{name} latents change {' and '.join(item)}" for name, item in result.items() if item)
    listed = listed.replace("noise latents", "N(0, I) latents")
    if result["shuffled"]:
        return True, True, f"The latents matter causally on this checkpoint, and so does what they say: {listed}."
    threshold = f"{smallest('accuracy')} or {smallest('nll')}"
    if listed:
        sentence = (
            "The decoder depends on the presence of the latents on this checkpoint, but no effect of their content was found "
            f"(shuffling them between questions changes nothing beyond its interval and {threshold}): {listed}."
        )
        return True, False, sentence
    sentence = (
        "No causal effect of the latents was found on this checkpoint: zeroed, shuffled and N(0, I) latents change neither "
        f"accuracy nor answer NLL beyond their intervals and {threshold} ({n} questions, largest changes of the "
        f"means {largest['accuracy']:.1f} points and {largest['nll']:.3f} nats)."
    )
    return False, False, sentence


_MEASURES: tuple[tuple[Literal["accuracy", "nll"], str, float, str, str], ...] = (
    ("accuracy", "accuracy", 100, "+.1f", "points"),
    ("nll", "answer NLL", 1, "+.3f", "nats"),
)
"""Measure, its name in words, factor, format and unit."""


def _cell(interval: Interval | None, scale: float, digits: str) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None or math.isnan(interval.mean):
        return f"{scale * interval.mean:{digits}}"
    return f"{scale * interval.mean:{digits}} [{scale * interval.low:{digits}}, {scale * interval.high:{digits}}]"


PAUSE_CONDITIONS = ("as_trained", "zeroed")


@dataclass(frozen=True, kw_only=True)
class PauseEffect:
    """One condition on all questions.

    Attributes:
        accuracy: fraction right by option likelihood.
        answer_nll: of the given answer, nats.
        accuracy_difference: accuracy minus that of the trained tokens, paired; None for these themselves.
        nll_difference: answer NLL minus that of the trained tokens, paired, nats; None for these themselves.
    """

    accuracy: Interval
    answer_nll: Interval
    accuracy_difference: Interval | None
    nll_difference: Interval | None


@dataclass(frozen=True, kw_only=True)
class PauseReport(PlainReport):
    """Effect of the pause tokens on one checkpoint.

    Attributes:
        conditions: per name of `PAUSE_CONDITIONS`, its effect.
        n: questions.
        seed: of the bootstrap.
    """

    conditions: dict[str, PauseEffect]
    n: int
    seed: int


def pause_report(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    progress: bool = True,
) -> PauseReport:
    """Answer every question under both conditions.

    Args:
        model: a `PauseForConditionalGeneration` with at least one pause token.
        processor: its processor.
        questions: multiple-choice questions with known answers.
        batch_size: questions encoded together.
        seed, n_bootstrap: of the bootstrap over questions; nothing else is drawn.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without pause tokens, an empty set, or a question without a known answer.
    """
    if not getattr(model, "pauses", None) or not model.config.num_pauses:
        raise ValueError(
            f"expected a model with pause tokens, got {type(model).__name__} without; give one trained as pause"
        )
    scorer = scorer_for(model, processor)
    nll = {name: np.zeros(len(questions)) for name in PAUSE_CONDITIONS}
    right = {name: np.zeros(len(questions)) for name in PAUSE_CONDITIONS}
    with inference(model):
        for batch in batches(questions, processor, batch_size, description="pause tokens", progress=progress):
            query = scorer.encode_batch(batch)
            trained = scorer.injected(query, None)
            right_options = [given_answer(question) for question in batch.questions]
            for name, tokens in (("as_trained", trained), ("zeroed", trained * 0)):
                log_probs = scorer.option_log_probs(query, tokens, batch.options)
                nll[name][batch.index], right[name][batch.index] = answer_scores(log_probs, right_options)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}

    def effect(name: str) -> PauseEffect:
        compared = [
            None if name == "as_trained" else paired_difference(item[name], item["as_trained"], **settings)
            for item in (right, nll)
        ]
        return PauseEffect(
            accuracy=bootstrap_mean(right[name], **settings),
            answer_nll=bootstrap_mean(nll[name], **settings),
            accuracy_difference=compared[0],
            nll_difference=compared[1],
        )

    return PauseReport(conditions={name: effect(name) for name in PAUSE_CONDITIONS}, n=len(questions), seed=seed)
