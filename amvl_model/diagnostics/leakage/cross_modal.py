"""How much of each figure goes through the image and how much through the text: one modality replaced at a time.

x = (image, text). Text is the whole prompt, options included; the number of options and the given answer's letter y are kept.
Four conditions, in which x is

    own      (image, text)            image    (image', text)          text    (image, text')         both    (image', text')

replacement "other": image' are the images of another question of the set with as many images and options, text' the prompt
of another one (seldom the same one), as far as possible not equal to text; with within_task also of the same task. What is put
in is plausible in itself, and what the figure loses was said of this question (and, across tasks, of this task). replacement
"blank": images of the same size in one colour, their mean, and a prompt with the options' letters alone; this also takes
away what all questions have in common, but no model met such input in training.

Figures v of one condition (x replaced for prior, posterior and decoding alike): leaked information, answer sensitivity, KLs,
spreads (contamination.py), NLL and accuracy of y with the prior mean and with the posterior mean of y. Per question:

    total         v(own) - v(both)                                                 what x as a whole adds to the figure
    image         1/2 [ v(own) - v(image) + v(text) - v(both) ]                    Shapley value; image + text = total
    text          1/2 [ v(own) - v(text) + v(image) - v(both) ]
    interaction   v(own) - v(image) - v(text) + v(both)                            above 0: each needs the other
    remainder     v(both)                                                          there without this x: the letter alone

The Shapley value averages over the two orders in which the modalities can be put back, so no order is preferred.

Which way it goes: x reaches the answer directly (keys and values of x) and through Z. For each replaced modality, with Z the
prior mean or the posterior mean of y, outcomes minus those of own:

    total             Z from x', decoded behind x'
    through_latents   Z from x', decoded behind x          natural indirect effect
    direct            Z from x, decoded behind x'          natural direct effect

answer_code: cosine of the directions m_a - mean m of an option's posterior with and without the replacement, dimensions in
units of the posterior's standard deviation, mean over options. 1: how the posterior writes the option does not depend on this
modality (it writes the letter); 0: it depends on it altogether. None where an option has no direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.changes import REPLACEMENTS, ReplacedQuestions, find_donors
from amvl_model.diagnostics.common.effects import answer_kl, option_log_shares, total_variation
from amvl_model.diagnostics.common.posteriors import as_numpy, divergences_and_spreads
from amvl_model.diagnostics.leakage.information import answer_sensitivity, leaked_information_batch
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, QuestionBatch, batches, inference, latent_scorer
from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.results.statistics import Interval, bootstrap_mean, paired_difference

REPLACED = ("image", "text", "both")
CONDITIONS = ("own", *REPLACED)
CROSS_MODAL_MEASURES: dict[str, str] = {
    "leaked_information": "nats",
    "answer_sensitivity": "squared Mahalanobis distance",
    "forward_kl": "nats",
    "reverse_kl": "nats",
    "prior_spread": "latent units",
    "posterior_spread": "latent units",
    "nll_prior_mean": "nats",
    "nll_posterior_mean": "nats",
    "accuracy_prior_mean": "fraction",
    "accuracy_posterior_mean": "fraction",
}
"""Every figure of a condition and its unit."""
_ROUNDING = 1e-10

Array = NDArray[np.float64]
Values = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class CrossModalReport:
    """Figures of one checkpoint by modality (definitions at the top of this module).

    Attributes:
        conditions: per condition of `CONDITIONS`, every figure of `CROSS_MODAL_MEASURES` with its interval over questions.
        shares: per figure: total, image, text, interaction, remainder, in the figure's unit.
        paths: per replaced modality, per latents ("prior", "posterior"), per path: nll_difference (nats),
            accuracy_difference, total_variation, answer_kl (nats) against own.
        answer_code: per replaced modality.
        monte_carlo_error: of the mean leaked information of each condition, due to its sampling alone, nats.
        changed: per modality, the fraction of questions whose replacement differs from their own.
        replacement, within_task: as asked.
        n: questions that count.
        left_out: ids of those without another question to take from.
        n_samples, n_bootstrap, seed, level: of draws and intervals.
    """

    conditions: dict[str, dict[str, Interval]]
    shares: dict[str, dict[str, Interval]]
    paths: dict[str, dict[str, dict[str, dict[str, Interval]]]]
    answer_code: dict[str, Interval | None]
    monte_carlo_error: dict[str, float]
    changed: dict[str, float]
    replacement: str
    within_task: bool
    n: int
    left_out: list[str]
    n_samples: int
    n_bootstrap: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types with units, ready for JSON."""
        return asdict(self) | {"units": dict(CROSS_MODAL_MEASURES)}


def measure_cross_modal(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    replacement: str = "other",
    within_task: bool = False,
    n_samples: int = 1024,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> CrossModalReport:
    """Measure every figure of this module's docstring; every question is encoded five times.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with known answers, at least two options each; possibly lazy.
        replacement: "other" (another question's) or "blank".
        within_task: take only from questions of the same task.
        n_samples: draws from each option's posterior behind each leaked information.
        batch_size: questions encoded together.
        seed: of donors, draws and bootstrap.
        n_bootstrap, level: of the intervals.
        progress: show progress bars.

    Raises:
        ValueError: for a model without latents, an empty set, an unknown replacement, no two questions with equally many
            images and options (replacement "other"), or a question without a known answer or with fewer than two options.
    """
    if replacement not in REPLACEMENTS:
        raise ValueError(f"replacement must be one of {', '.join(REPLACEMENTS)}, got {replacement!r}")
    scorer = latent_scorer(model, processor)
    donors, changed = find_donors(questions, replacement, within_task=within_task, seed=seed)
    sets = {c: ReplacedQuestions(questions, donors, c, replacement) for c in CONDITIONS}
    run = _Run(scorer, sets, batch_size, progress)
    with inference(model):
        run.answer_all()
    values = {c: run.values(c) for c in CONDITIONS}
    error: dict[str, float] = {}
    for condition in CONDITIONS:
        values[condition]["leaked_information"], error[condition] = run.leaked(condition, n_samples, seed)
        values[condition]["answer_sensitivity"] = run.sensitivity(condition)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    return CrossModalReport(
        conditions={
            c: {name: bootstrap_mean(values[c][name], **settings) for name in CROSS_MODAL_MEASURES} for c in CONDITIONS
        },
        shares={name: _shares({c: values[c][name] for c in CONDITIONS}, settings) for name in CROSS_MODAL_MEASURES},
        paths={c: {z: _path_effects(run, c, z, settings) for z in ("prior", "posterior")} for c in REPLACED},
        answer_code={c: run.answer_code(c, settings) for c in REPLACED},
        monte_carlo_error=error,
        changed=changed,
        replacement=replacement,
        within_task=within_task,
        n=len(donors.used),
        left_out=donors.left_out,
        n_samples=n_samples,
        **settings,
    )


class _Run:
    """Distributions and answers of every condition.

    Attributes:
        rows: per condition and question: prior mean and std (k, d), means and stds of every option's posterior (O, k, d).
        answers: (condition whose x gave Z, condition behind which it was decoded, latents) to log shares (n, O), padded with
            -inf, and to log p(y|x,Z) (n,).
    """

    def __init__(
        self, scorer: LatentScorer, sets: dict[str, ReplacedQuestions], batch_size: int, progress: bool
    ) -> None:
        self.scorer, self.sets, self.batch_size, self.progress = scorer, sets, batch_size, progress
        n, most = len(sets["own"]), max(sets["own"].options)
        self.rows: dict[str, list[tuple[Array, ...]]] = {c: [()] * n for c in CONDITIONS}
        combinations = [("own", "own"), *((c, c) for c in REPLACED), *(("own", c) for c in REPLACED)]
        combinations += [(c, "own") for c in REPLACED]
        keys = [(a, b, z) for a, b in combinations for z in ("prior", "posterior")]
        self.shares = {key: np.full((n, most), -np.inf) for key in keys}
        self.log_probs = {key: np.zeros(n) for key in keys}
        self.given = np.array(sets["own"].answers)

    def answer_all(self) -> None:
        for condition in CONDITIONS:
            for batch in self._batches(condition, f"cross-modal: {condition}"):
                query = self.scorer.encode_batch(batch)
                self._record(condition, query, batch)
                for source in dict.fromkeys((condition, "own")):
                    self._answer(source, condition, query, batch)
        for batch in self._batches("own", "cross-modal: paths"):
            query = self.scorer.encode_batch(batch)
            for source in REPLACED:
                self._answer(source, "own", query, batch)

    def _batches(self, condition: str, description: str) -> Any:
        return batches(
            self.sets[condition],
            self.scorer.processor,
            self.batch_size,
            description=description,
            progress=self.progress,
            least_options=2,
        )

    def _record(self, condition: str, query: EncodedQuery, batch: QuestionBatch) -> None:
        assert query.prior is not None
        posterior = self.scorer.option_posteriors(query, batch.options)
        parts = [as_numpy(t) for t in (query.prior.mean, query.prior.std, posterior.mean, posterior.std)]
        for row, index in enumerate(batch.index):
            options = batch.options[row]
            self.rows[condition][index] = (
                parts[0][row], parts[1][row], parts[2][row, :options], parts[3][row, :options],
            )  # fmt: skip

    def _answer(self, source: str, behind: str, query: EncodedQuery, batch: QuestionBatch) -> None:
        """Decode behind one condition's x with the latents that another one gave."""
        for latents in ("prior", "posterior"):
            z = np.stack([self._latents(source, index, latents) for index in batch.index])
            tensor = torch.from_numpy(z).to(query.prior.mean)  # type: ignore[union-attr]
            log_probs = self.scorer.option_log_probs(query, tensor, batch.options)
            shares, own = option_log_shares(log_probs), as_numpy(log_probs)
            key = (source, behind, latents)
            self.shares[key][batch.index, : shares.shape[1]] = shares
            self.log_probs[key][batch.index] = own[np.arange(len(own)), self.given[batch.index]]

    def _latents(self, condition: str, index: int, latents: str) -> Array:
        row = self.rows[condition][index]
        return row[0] if latents == "prior" else row[2][self.given[index]]

    def values(self, condition: str) -> Values:
        """Figures (n,) of one condition, but for those of all options' posteriors."""
        prior = _gaussian([row[0] for row in self.rows[condition]], [row[1] for row in self.rows[condition]])
        rows = list(zip(self.rows[condition], self.given, strict=True))
        posterior = _gaussian([row[2][a] for row, a in rows], [row[3][a] for row, a in rows])
        result = divergences_and_spreads(prior, posterior)
        for latents in ("prior", "posterior"):
            key = (condition, condition, latents)
            result[f"nll_{latents}_mean"] = -self.log_probs[key]
            result[f"accuracy_{latents}_mean"] = self.right(key)
        return result

    def right(self, key: tuple[str, str, str]) -> Array:
        return (self.shares[key].argmax(1) == self.given).astype(np.float64)

    def option_posteriors(self, condition: str) -> list[tuple[list[int], Array, Array]]:
        """Questions with equally many options: their places, means and stds (group, O, k * d)."""
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(self.rows[condition]):
            groups.setdefault(len(row[2]), []).append(i)
        rows = self.rows[condition]

        def stacked(members: list[int], part: int) -> Array:
            item = np.stack([rows[i][part] for i in members])
            return item.reshape(*item.shape[:2], -1)

        return [(members, stacked(members, 2), stacked(members, 3)) for members in groups.values()]

    def leaked(self, condition: str, n_samples: int, seed: int) -> tuple[Array, float]:
        """Leaked information (n,) and the standard error of its mean, nats."""
        nats, errors = np.empty(len(self.given)), np.empty(len(self.given))
        for members, means, stds in self.option_posteriors(condition):
            nats[members], errors[members] = leaked_information_batch(means, stds, None, n_samples, seed)
        return nats, float(np.sqrt((errors**2).sum()) / len(errors))

    def sensitivity(self, condition: str) -> Array:
        result = np.empty(len(self.given))
        for members, means, stds in self.option_posteriors(condition):
            result[members] = answer_sensitivity(means, stds)
        return result

    def answer_code(self, condition: str, settings: dict[str, Any]) -> Interval | None:
        cosines: list[float] = []
        own, other = self.option_posteriors("own"), self.option_posteriors(condition)
        for (_, means, stds), (_, replaced, _) in zip(own, other, strict=True):
            weight = 1 / np.sqrt((stds**2).mean(1, keepdims=True))
            a, b = (weight * (item - item.mean(1, keepdims=True)) for item in (means, replaced))
            sizes = [(item**2).sum(-1) for item in (a, b)]
            least = _ROUNDING * ((weight * means) ** 2).sum(-1)
            there = (np.minimum(*sizes) > least).all(1)
            cosines += ((a * b).sum(-1)[there] / np.sqrt(sizes[0] * sizes[1])[there]).mean(1).tolist()
        return bootstrap_mean(cosines, **settings) if cosines else None


def _shares(values: dict[str, Array], settings: dict[str, Any]) -> dict[str, Interval]:
    own, image, text, both = (values[c] for c in CONDITIONS)
    parts = {
        "total": own - both,
        "image": 0.5 * (own - image + text - both),
        "text": 0.5 * (own - text + image - both),
        "interaction": own - image - text + both,
        "remainder": both,
    }
    return {name: bootstrap_mean(item, **settings) for name, item in parts.items()}


def _path_effects(run: _Run, condition: str, latents: str, settings: dict[str, Any]) -> dict[str, dict[str, Interval]]:
    own = ("own", "own", latents)
    result = {}
    for path, (source, behind) in {
        "total": (condition, condition),
        "through_latents": (condition, "own"),
        "direct": ("own", condition),
    }.items():
        key = (source, behind, latents)
        result[path] = {
            "nll_difference": paired_difference(-run.log_probs[key], -run.log_probs[own], **settings),
            "accuracy_difference": paired_difference(run.right(key), run.right(own), **settings),
            "total_variation": bootstrap_mean(total_variation(run.shares[key], run.shares[own]), **settings),
            "answer_kl": bootstrap_mean(answer_kl(run.shares[key], run.shares[own]), **settings),
        }
    return result


def _gaussian(means: list[Array], stds: list[Array]) -> DiagonalGaussian:
    return DiagonalGaussian(torch.from_numpy(np.stack(means)), torch.from_numpy(np.log(np.stack(stds))))
