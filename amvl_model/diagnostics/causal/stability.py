"""How stable answers and latents are: over samples, under changes of image and text, between slots.

Sampling, at every temperature tau, with S samples Z_s = mean + tau std noise of the prior of each question:

    answer_agreement     share of pairs of samples with the same most likely option                 1 = all answer alike
    mean_agreement       share of samples that answer as the prior mean does
    accuracy             share of samples that answer rightly
    total_variation      between the option distributions with Z_s and with the prior mean, mean over samples
    latent_cosine        cosine of two samples of a slot, mean over pairs and slots

Perturbations (changes.py; paper, Fig. 4), prior mean of the changed question against that of the original:

    answer_agreement     1 where the most likely option is the same option (moved options are followed)
    accuracy_difference  accuracy changed minus original, paired
    total_variation, answer_kl     between the option distributions, nats for KL(original || changed)
    prior_cosine, posterior_cosine     cosine of the means, mean over slots; posterior of the given answer
    prior_shift, posterior_shift       root mean square over slots and dimensions of (changed - original) / original std

"other_question" compares the prior means of different questions: the size that a shift has when everything is replaced.

Slots: cosine similarity of the means of slots i and j, averaged over questions; "centred" first takes off each slot's mean over
the questions, since what a slot says of every question alike is not information. Spread: mean standard deviation of each slot
(within), and standard deviation of its means over questions, root mean square over dimensions (between), in latent units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.causal.interventions import derangement
from amvl_model.diagnostics.common.changes import PERTURBATIONS, Perturbed, perturbed
from amvl_model.diagnostics.common.effects import PlainReport, answer_kl, option_log_shares, total_variation
from amvl_model.diagnostics.common.posteriors import as_numpy
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import LatentScorer, batches, inference, latent_scorer, sample_latents
from amvl_model.results.statistics import Interval, bootstrap_mean

Array = NDArray[np.float64]
Columns = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class StabilityReport(PlainReport):
    """Stability of one checkpoint on one set of questions (definitions at the top of this module).

    Attributes:
        sampling: per temperature (as text), every figure with its interval over questions.
        perturbations: per perturbation, every figure; None where no question could be changed so. Also "other_question"
            (shift and cosine of the prior only; None for a single question).
        slot_shift: per perturbation, prior_shift of every slot; None likewise.
        missing: per perturbation, questions that could not be changed so.
        slot_similarity: "prior", "posterior", "prior_centred", "posterior_centred": (k, k) mean cosines.
        off_diagonal: per kind, mean over pairs of different slots with its interval; None with one slot.
        spread: "prior" and "posterior", a list with an interval per slot.
        between_questions: "prior" and "posterior", a number per slot; None for a single question.
        n: questions.
        n_perturbed: questions that were perturbed.
        samples: of each temperature.
        n_bootstrap, seed, level: of the intervals; seed also of samples, noise and permutations.
    """

    sampling: dict[str, dict[str, Interval]]
    perturbations: dict[str, dict[str, Interval] | None]
    slot_shift: dict[str, list[Interval] | None]
    missing: dict[str, int]
    slot_similarity: dict[str, list[list[float]]]
    off_diagonal: dict[str, Interval | None]
    spread: dict[str, list[Interval]]
    between_questions: dict[str, list[float] | None]
    n: int
    n_perturbed: int
    samples: int
    n_bootstrap: int
    seed: int
    level: float


@dataclass(frozen=True)
class _Originals:
    """What the unchanged questions gave: means and stds (n, k, d), log shares (n, O) padded with -inf, right (n,)."""

    prior: tuple[Array, Array]
    posterior: tuple[Array, Array]
    log_shares: Array
    sampling: dict[str, Columns]


def measure_stability(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    samples: int = 8,
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    perturbations: Sequence[str] = PERTURBATIONS,
    n_perturbed: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> StabilityReport:
    """Measure every figure of this module's docstring.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with known answers, at least two options each.
        samples: latents drawn a question and temperature, at least 2.
        temperatures: scales of the prior's standard deviation.
        perturbations: some of `PERTURBATIONS`; each encodes its questions again.
        n_perturbed: the first that many questions are perturbed.
        batch_size: questions encoded together.
        seed: of samples, noise, permutations and the bootstrap.
        n_bootstrap, level: of the intervals.
        progress: show progress bars.

    Raises:
        ValueError: for a model without latents, an empty set, an unknown perturbation, a setting out of range, or a question
            without a known answer or with fewer than two options.
    """
    scorer = latent_scorer(model, processor)
    _check(samples, temperatures, perturbations, n_perturbed)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    with inference(scorer.model):
        own = _originals(scorer, questions, samples, temperatures, batch_size, seed, progress)
        changed = {
            name: _changed(scorer, questions, own, name, n_perturbed, batch_size, seed, progress)
            for name in perturbations
        }
    count = min(n_perturbed, len(questions))
    changed["other_question"] = _other_question(own, seed)
    result = {name: _intervals(_without_slots(c), settings) if c else None for name, c in changed.items()}
    return StabilityReport(
        sampling={name: _intervals(columns, settings) for name, columns in own.sampling.items()},
        perturbations=result,
        slot_shift={
            name: [bootstrap_mean(slot, **settings) for slot in columns["slots"]] if columns else None
            for name, columns in changed.items()
        },
        missing={name: count - (len(c["prior_shift"]) if (c := changed[name]) else 0) for name in perturbations},
        spread={
            name: [bootstrap_mean(slot, **settings) for slot in std.mean(-1).T]
            for name, (_, std) in (("prior", own.prior), ("posterior", own.posterior))
        },
        **_slots(own, settings),
        n=len(questions),
        n_perturbed=count,
        samples=samples,
        **settings,
    )


def cosine(a: Array, b: Array) -> Array:
    """Cosine over the last axis; 0 where one of the two is the zero vector."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


def _check(samples: int, temperatures: Sequence[float], perturbations: Sequence[str], n_perturbed: int) -> None:
    if samples < 2 or n_perturbed < 1:
        raise ValueError(f"expected at least 2 samples and n_perturbed of 1 or more, got {samples} and {n_perturbed}")
    if any(not np.isfinite(t) or t < 0 for t in temperatures):
        raise ValueError(f"temperatures must be finite and at least 0, got {list(temperatures)}")
    unknown = [name for name in perturbations if name not in PERTURBATIONS]
    if isinstance(perturbations, str) or unknown:
        raise ValueError(f"perturbations must be a list of some of {', '.join(PERTURBATIONS)}, got {perturbations!r}")


def _originals(
    scorer: LatentScorer,
    questions: Sequence[VisualQuestion],
    samples: int,
    temperatures: Sequence[float],
    batch_size: int,
    seed: int,
    progress: bool,
) -> _Originals:
    rows: dict[int, tuple[Array, ...]] = {}
    sampling: dict[str, dict[int, dict[str, float]]] = {f"{t:g}": {} for t in temperatures}
    for batch in batches(
        questions, scorer.processor, batch_size, description="stability", progress=progress, least_options=2
    ):
        query = scorer.encode_batch(batch)
        answers = [given_answer(question) for question in batch.questions]
        prior, posterior = query.prior, scorer.posterior(query, answers)
        assert prior is not None
        reference = option_log_shares(scorer.option_log_probs(query, prior.mean, batch.options))
        parts = [as_numpy(t) for t in (prior.mean, prior.std, posterior.mean, posterior.std)]
        for i, index in enumerate(batch.index):
            rows[index] = (*(part[i] for part in parts), reference[i])
        for temperature in temperatures:
            drawn = sample_latents(prior, batch.index, samples, temperature=temperature, seed=seed)
            shares = np.stack([option_log_shares(scorer.option_log_probs(query, z, batch.options)) for z in drawn])
            figures = _sampling_figures(shares, reference, np.array(answers), as_numpy(drawn))
            for i, index in enumerate(batch.index):
                sampling[f"{temperature:g}"][index] = {name: float(v[i]) for name, v in figures.items()}
    everyone = range(len(questions))
    ordered = [rows[i] for i in everyone]
    prior_mean, prior_std, mean, std = (np.stack([row[j] for row in ordered]) for j in range(4))
    shares = np.full((len(ordered), max(len(row[4]) for row in ordered)), -np.inf)
    for i, row in enumerate(ordered):
        shares[i, : len(row[4])] = row[4]
    return _Originals(
        (prior_mean, prior_std),
        (mean, std),
        shares,
        {
            name: {figure: np.array([item[i][figure] for i in everyone]) for figure in item[0]}
            for name, item in sampling.items()
        },
    )


def _sampling_figures(log_shares: Array, reference: Array, answers: NDArray[np.int64], z: Array) -> Columns:
    """Figures (B,) from log shares (S, B, O), those of the prior mean (B, O), and samples (S, B, k, d)."""
    count, chosen = len(log_shares), log_shares.argmax(-1)
    votes = (chosen[:, :, None] == np.arange(log_shares.shape[-1])).sum(0)
    norms = np.linalg.norm(z, axis=-1, keepdims=True)
    unit = np.divide(z, norms, out=np.zeros_like(z), where=norms > 0)
    pairs = count * (count - 1)
    together = (unit.sum(0) ** 2).sum(-1) - (unit**2).sum((0, -1))  # (B, k): sum over ordered pairs of cosines
    return {
        "answer_agreement": (votes * (votes - 1)).sum(-1) / pairs,
        "mean_agreement": (chosen == reference.argmax(-1)).mean(0),
        "accuracy": (chosen == answers).mean(0),
        "total_variation": total_variation(log_shares, reference).mean(0),
        "latent_cosine": (together / pairs).mean(-1),
    }


def _changed(
    scorer: LatentScorer,
    questions: Sequence[VisualQuestion],
    own: _Originals,
    name: str,
    count: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> Columns:
    """Figures of one perturbation (m,) and "slots" (k, m), over the questions that could be changed; {} if none could."""
    changed: dict[int, Perturbed] = {}
    for i in range(min(count, len(questions))):
        if (new := perturbed(questions[i], name, seed=seed, index=i)) is not None:
            changed[i] = new
    if not changed:
        return {}
    places = list(changed)
    variants = [changed[i].question for i in places]
    rows: dict[int, dict[str, Any]] = {}
    for batch in batches(
        variants, scorer.processor, batch_size, description=f"stability: {name}", progress=progress, least_options=2
    ):
        query = scorer.encode_batch(batch)
        answers = [given_answer(question) for question in batch.questions]
        prior, posterior = query.prior, scorer.posterior(query, answers)
        assert prior is not None
        shares = option_log_shares(scorer.option_log_probs(query, prior.mean, batch.options))
        means, posteriors = as_numpy(prior.mean), as_numpy(posterior.mean)
        for row, place in enumerate(batch.index):
            index = places[place]
            moved = np.full_like(own.log_shares[index], -np.inf)
            moved[list(changed[index].order)] = shares[row, : batch.options[row]]
            right = given_answer(questions[index])
            rows[place] = _changed_figures(own, index, moved, right, means[row], posteriors[row])
    result = [rows[place] for place in range(len(places))]
    return {figure: np.stack([np.asarray(row[figure], float) for row in result], axis=-1) for figure in result[0]}


def _changed_figures(
    own: _Originals, index: int, log_share: Array, right: int, prior_mean: Array, posterior_mean: Array
) -> dict[str, Any]:
    reference = own.log_shares[index]
    answer, before = int(log_share.argmax()), int(reference.argmax())
    result: dict[str, Any] = {
        "answer_agreement": answer == before,
        "accuracy_difference": float(answer == right) - float(before == right),
        "total_variation": total_variation(log_share, reference),
        "answer_kl": answer_kl(log_share, reference),
    }
    for name, (mean, std), new in (("prior", own.prior, prior_mean), ("posterior", own.posterior, posterior_mean)):
        square = ((new - mean[index]) / std[index]) ** 2
        result[f"{name}_cosine"] = cosine(new, mean[index]).mean()
        result[f"{name}_shift"] = np.sqrt(square.mean())
        if name == "prior":
            result["slots"] = np.sqrt(square.mean(-1))
    return result


def _other_question(own: _Originals, seed: int) -> Columns:
    mean, std = own.prior
    if len(mean) < 2:
        return {}
    other = mean[derangement(len(mean), seed)]
    square = ((other - mean) / std) ** 2
    return {
        "prior_cosine": cosine(other, mean).mean(-1),
        "prior_shift": np.sqrt(square.mean((-1, -2))),
        "slots": np.sqrt(square.mean(-1)).T,
    }


def _slots(own: _Originals, settings: dict[str, Any]) -> dict[str, Any]:
    """slot_similarity, off_diagonal and between_questions."""
    similarity: dict[str, list[list[float]]] = {}
    off_diagonal: dict[str, Interval | None] = {}
    between: dict[str, list[float] | None] = {}
    for name, (mean, _) in (("prior", own.prior), ("posterior", own.posterior)):
        for kind, values in ((name, mean), (f"{name}_centred", mean - mean.mean(0))):
            cosines = cosine(values[:, :, None], values[:, None])  # (n, k, k)
            similarity[kind] = cosines.mean(0).tolist()
            k = cosines.shape[1]
            apart = cosines[:, ~np.eye(k, dtype=bool)]
            off_diagonal[kind] = bootstrap_mean(apart.mean(1), **settings) if k > 1 else None
        between[name] = np.sqrt(mean.var(axis=0, ddof=1).mean(-1)).tolist() if len(mean) > 1 else None
    return {"slot_similarity": similarity, "off_diagonal": off_diagonal, "between_questions": between}


def _without_slots(columns: Columns) -> Columns:
    return {name: values for name, values in columns.items() if name != "slots"}


def _intervals(columns: Columns, settings: dict[str, Any]) -> dict[str, Interval]:
    return {name: bootstrap_mean(values, **settings) for name, values in columns.items()}
