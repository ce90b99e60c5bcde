"""Answer leakage and prior contamination of a checkpoint, from the posteriors of all options of each question.

With prior p(Z|x), posterior q(Z|x,a) of option a, given answer y, O options; everything is computed per question:

    leaked information     I(Z;A|x) with uniform answers, 0 to log O nats: a sensitivity      (information.py)
    known-answer leakage   I(Z;Y|x) with weights p(y|x), 0 to H(Y|x) nats                     (questions with answer_probs)
    answer sensitivity     mean over pairs of options of the squared Mahalanobis distance     (no unit)
    forward KL             KL(q(Z|x,y) || p(Z|x)), summed over slots and dimensions           nats
    reverse KL             KL(p(Z|x) || q(Z|x,y))                                             nats
    NLL gap                -log p(y|x,Z) with posterior latents minus with prior latents      nats, below 0 if training
                                                                                              looks better than inference
    accuracy gap           accuracy with posterior latents minus with prior latents           fraction
    spread                 mean standard deviation over slots and dimensions                  prior; posterior of y

The gaps compare the two means, and samples of the two (NLL and accuracy averaged over the samples, as training sees them).
Answers are chosen by option likelihood. The query is encoded once for everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.effects import answer_scores, measures_table, measures_to_dict
from amvl_model.diagnostics.common.posteriors import OptionPosteriors, _distributions, divergences_and_spreads
from amvl_model.diagnostics.leakage.information import (
    answer_sensitivity,
    entropy,
    leaked_information,
    leaked_information_batch,
)
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import (
    EncodedQuery,
    LatentScorer,
    QuestionBatch,
    batches,
    inference,
    latent_scorer,
    sample_latents,
)
from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.results.statistics import Interval, bootstrap_mean

__all__ = [
    "MEASURES",
    "ContaminationReport",
    "answer_sensitivity",
    "contamination_report",
    "leaked_information",
    "leaked_information_batch",
]

MEASURES: dict[str, str] = {
    "leaked_information": "nats",
    "leakage_bound": "nats",
    "known_answer_leakage": "nats",
    "answer_entropy": "nats",
    "answer_sensitivity": "squared Mahalanobis distance",
    "forward_kl": "nats",
    "reverse_kl": "nats",
    "nll_prior_mean": "nats",
    "nll_posterior_mean": "nats",
    "nll_gap_mean": "nats",
    "nll_prior_sample": "nats",
    "nll_posterior_sample": "nats",
    "nll_gap_sample": "nats",
    "accuracy_prior_mean": "fraction",
    "accuracy_posterior_mean": "fraction",
    "accuracy_gap_mean": "fraction",
    "accuracy_prior_sample": "fraction",
    "accuracy_posterior_sample": "fraction",
    "accuracy_gap_sample": "fraction",
    "prior_spread": "latent units",
    "posterior_spread": "latent units",
}
"""Every measure and its unit; leakage_bound is log O, answer_entropy H(Y|x)."""


@dataclass(frozen=True, kw_only=True)
class ContaminationReport:
    """Leakage and contamination of one checkpoint on one set of questions (definitions at the top of this module).

    Attributes:
        measures: per name of `MEASURES`, the mean over the questions with its bootstrap interval; None where no question
            has it (known_answer_leakage and answer_entropy need questions with known answer probabilities).
        monte_carlo_error: standard errors in nats of the two leaked informations that are due to their sampling alone.
        per_question: per name, one value per question in the order of the set (None where it has none).
        ids, tasks: of the questions.
        samples: latent samples behind the sample gaps.
        n_samples: draws behind each leaked information.
        seed: of all draws.
    """

    measures: dict[str, Interval | None]
    monte_carlo_error: dict[str, float | None]
    per_question: dict[str, list[float | None]]
    ids: list[str]
    tasks: list[str]
    samples: int
    n_samples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types with units, ready for JSON."""
        return asdict(self) | {"measures": measures_to_dict(self.measures, MEASURES)}

    def by_task(self, measure: str, *, n_bootstrap: int = 2000) -> dict[str, Interval | None]:
        """One measure, task by task."""
        groups: dict[str, list[float]] = {task: [] for task in self.tasks}
        for task, value in zip(self.tasks, self.per_question[measure], strict=True):
            if value is not None:
                groups[task].append(value)
        return {
            task: bootstrap_mean(values, n_bootstrap=n_bootstrap, seed=self.seed) if values else None
            for task, values in groups.items()
        }

    def table(self) -> str:
        """Plain text: a line per measure with its interval and unit."""
        return measures_table(self.measures, MEASURES)

    def sentence(self) -> str:
        """The leaked information in one sentence."""
        leaked, bound = self.measures["leaked_information"], self.measures["leakage_bound"]
        assert leaked is not None and bound is not None
        return f"The posterior reveals {leaked.mean:.2f} of {bound.mean:.2f} nats about which option it was shown."


def contamination_report(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    samples: int = 4,
    temperature: float = 1.0,
    n_samples: int = 4096,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    progress: bool = True,
) -> ContaminationReport:
    """Measure everything in this module's docstring.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with known answers, at least two options each; possibly lazy.
        samples: latent samples a question behind the sample gaps.
        temperature: scale of the standard deviation of these samples (the leaked information is that of the posterior
            itself).
        n_samples: draws from each option's posterior behind the leaked information.
        batch_size: questions encoded together.
        seed: of all draws and of the bootstrap; each question has its own stream, whatever the batch size.
        n_bootstrap: resamples of the questions behind the intervals.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without latents, an empty set, or a question without a known answer or with fewer than
            two options.
    """
    scorer = latent_scorer(model, processor)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    entries, columns = _measured(scorer, questions, samples, temperature, batch_size, seed, progress)
    error = _leakage_columns(columns, entries, n_samples, seed)
    measures = {name: _mean(column, n_bootstrap, seed) for name, column in columns.items()}
    return ContaminationReport(
        measures=measures,
        monte_carlo_error=error,
        per_question=columns,
        ids=[entry.question.id for entry in entries],
        tasks=[entry.question.task for entry in entries],
        samples=samples,
        n_samples=n_samples,
        seed=seed,
    )


def _measured(
    scorer: LatentScorer,
    questions: Sequence[VisualQuestion],
    samples: int,
    temperature: float,
    batch_size: int,
    seed: int,
    progress: bool,
) -> tuple[list[OptionPosteriors], dict[str, list[float | None]]]:
    """One pass over the questions: their distributions, and a column per measure (None where it is still to come)."""
    values: dict[int, dict[str, float]] = {}
    latents: dict[int, OptionPosteriors] = {}
    with inference(scorer.model):
        for batch in batches(
            questions, scorer.processor, batch_size, description="contamination", progress=progress, least_options=2
        ):
            query = scorer.encode_batch(batch)
            rows = _distributions(scorer, query, batch)
            latents |= dict(zip(batch.index, rows, strict=True))
            measured = _given_answer_measures(scorer, query, batch, rows, samples, temperature, seed)
            for row, index in enumerate(batch.index):
                values[index] = {name: float(column[row]) for name, column in measured.items()}
    everyone = range(len(questions))
    return [latents[i] for i in everyone], {name: [values[i].get(name) for i in everyone] for name in MEASURES}


def _given_answer_measures(
    scorer: LatentScorer,
    query: EncodedQuery,
    batch: QuestionBatch,
    rows: Sequence[OptionPosteriors],
    samples: int,
    temperature: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """KLs, gaps and spreads of a batch, each (B,)."""
    prior, answers = query.prior, [given_answer(question) for question in batch.questions]
    assert prior is not None
    given = [(entry.posterior_means[a], entry.posterior_stds[a]) for entry, a in zip(rows, answers, strict=True)]
    posterior = DiagonalGaussian(
        torch.from_numpy(np.stack([mean for mean, _ in given])).to(prior.mean),
        torch.from_numpy(np.log(np.stack([std for _, std in given]))).to(prior.mean),
    )
    result = divergences_and_spreads(prior, posterior)
    for name, gaussian in (("prior", prior), ("posterior", posterior)):
        drawn = sample_latents(gaussian, batch.index, samples, temperature=temperature, seed=seed)
        for kind, item in (("mean", [gaussian.mean]), ("sample", list(drawn))):
            scores = [answer_scores(scorer.option_log_probs(query, z, batch.options), answers) for z in item]
            result[f"nll_{name}_{kind}"] = np.mean([nll for nll, _ in scores], axis=0)
            result[f"accuracy_{name}_{kind}"] = np.mean([right for _, right in scores], axis=0)
    for kind in ("mean", "sample"):
        for measure in ("nll", "accuracy"):
            result[f"{measure}_gap_{kind}"] = result[f"{measure}_posterior_{kind}"] - result[f"{measure}_prior_{kind}"]
    return result


def _leakage_columns(
    columns: dict[str, list[float | None]], entries: Sequence[OptionPosteriors], n_samples: int, seed: int
) -> dict[str, float | None]:
    """Fill in the measures that come from the options' posteriors alone; returns the Monte Carlo errors of their means."""
    errors: dict[str, list[float]] = {"leaked_information": [], "known_answer_leakage": []}
    with_probs = [i for i, entry in enumerate(entries) if entry.question.answer_probs is not None]
    for group in _by_shape(entries, range(len(entries))):
        means, stds = _stacked(entries, group)
        nats, error = leaked_information_batch(means, stds, None, n_samples, seed)
        _put(columns["leaked_information"], group, nats)
        _put(columns["leakage_bound"], group, np.full(len(group), np.log(means.shape[1])))
        _put(columns["answer_sensitivity"], group, answer_sensitivity(means, stds))
        errors["leaked_information"] += error.tolist()
    for group in _by_shape(entries, with_probs):
        means, stds = _stacked(entries, group)
        weights = np.array([entries[i].question.answer_probs for i in group])
        nats, error = leaked_information_batch(means, stds, weights, n_samples, seed)
        _put(columns["known_answer_leakage"], group, nats)
        _put(columns["answer_entropy"], group, entropy(weights))
        errors["known_answer_leakage"] += error.tolist()
    return {
        name: float(np.sqrt(np.sum(np.square(item))) / len(item)) if item else None for name, item in errors.items()
    }


def _by_shape(entries: Sequence[OptionPosteriors], chosen: Sequence[int] | range) -> list[list[int]]:
    """The chosen questions in groups of equally many options."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i in chosen:
        groups[len(entries[i].posterior_means)].append(i)
    return list(groups.values())


def _stacked(entries: Sequence[OptionPosteriors], group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (questions, options, k * d)."""
    stack: Callable[[list[np.ndarray]], np.ndarray] = np.stack
    means, stds = stack([entries[i].posterior_means for i in group]), stack([entries[i].posterior_stds for i in group])
    return means.reshape(*means.shape[:2], -1), stds.reshape(*stds.shape[:2], -1)


def _put(column: list[float | None], group: Sequence[int], values: np.ndarray) -> None:
    for i, value in zip(group, values.tolist(), strict=True):
        column[i] = value


def _mean(column: Sequence[float | None], n_bootstrap: int, seed: int) -> Interval | None:
    values = [value for value in column if value is not None]
    return bootstrap_mean(values, n_bootstrap=n_bootstrap, seed=seed) if values else None
