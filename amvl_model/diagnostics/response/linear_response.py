"""Linear response of a checkpoint: answer forces, curvature and precisions at the prior mean, as plain numpy arrays.

For one question x with options a and the flattened latent z in R^D (D = k d), at the prior mean m_p:

    answer force     g_a = -d NLL(a) / dz = d log p(a|x,z) / dz                             nats/latent
    curvature        H = sum_a p(a|x,z) g_a g_a^T + p_o g_o g_o^T      (Gauss-Newton)       nats/latent^2
    mean force       gbar = sum_a w_a g_a              (w: answer probabilities)            nats/latent
    force covariance G = sum_a w_a (g_a - gbar)(g_a - gbar)^T                               nats^2/latent^2
    precisions       Lambda_p = diag(1/s_p^2),  Lambda_q = sum_a w_a diag(1/s_a^2)          1/latent^2

H is the Fisher information of the answer, p(a|x,z) being the model's own probabilities, p_o what it puts on texts that are
no option, and p_o g_o = -sum_a p_a g_a. It equals the mean of the true Hessians -d^2 log p(a|x,z)/dz^2 over the model's own
answers, is never indefinite, and lies in the span of the options' forces. The true Hessian under the weights w,
-sum_a w_a d^2 log p(a|x,z)/dz^2, is taken in the same span by central differences of the forces; its negative mass,
sum |lambda < 0| / sum |lambda| in the prior's metric, is what a Gauss-Newton curvature discards.

H and G are not independent measurements. With the model's own probabilities as weights, and nothing on other answers, G = H
(covariance of the score = Fisher information), and for a calibrated model that holds for the true answer probabilities too.
So the force variance over the curvature says how far weights and model disagree (1 nat where they agree), whatever the
checkpoint; the sizes of H and G against gamma Lambda_q are what differs between checkpoints.

Basis. Everything is projected on r <= O displacement directions, the span of s_p^2 g_a: where each option pulls a latent
whose resistance is the prior's precision. With whitened forces s_p g_a = (U S V^T)_a the basis vectors are the rows of
s_p V^T with singular values above 1e-3 of the largest; r is O - 1 where the options hold all probability, for then
sum_a p(a|x,z) g_a = 0. A displacement in the span is z - m_p = w @ directions with w (r,); forces have no part outside (they
lose nothing); precisions are the quadratic forms restricted to the span; displacements are projected orthogonally in the
prior's metric, and the share of theirs that lies outside is reported.

Units. Latents can be rescaled at will (head up, injector down), so nothing in latent units can be compared between
checkpoints. `LinearResponse.in_units` re-expresses the same span with a basis that is orthonormal in

    "prior"       prior standard deviations       Lambda_p = I            (what is measured first)
    "posterior"   posterior standard deviations   Lambda_q = I
    "latent"      latent units                    directions orthonormal

Forces are then in nats/unit, curvature in nats/unit^2, precisions in 1/unit^2. What has no latent unit (leaked information,
force variance over curvature, absorption) is the same in all three.

Anchor. The theory's prior obeys beta Lambda_p (c - dbar) + A c = 0, with c and dbar the prior mean and the mean posterior mean
(weights w) relative to a reference m* that no checkpoint shows. Here m* is the mean prior mean over questions, the part of
the prior that knows no question, and A = alpha Lambda_p. The absorption s = <c, dbar> / <dbar, dbar>, summed over questions
in the span and in the prior's metric, gives alpha = beta (1 - s) / s. Reference and absorption of a question come from the
half of the questions that it is not in.

Source: derived for this project; the model that takes these arrays is `amvl_theory.MeanLeakageModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.effects import measures_table, measures_to_dict
from amvl_model.diagnostics.common.gradients import answer_forces, differentiable
from amvl_model.diagnostics.response.response_arrays import (
    Absorption,
    Array,
    LinearResponse,
    Units,
    absorption,
    project,
    span_of_forces,
    symmetric,
)
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, QuestionBatch, batches, latent_scorer
from amvl_model.results.statistics import Interval, bootstrap_mean

__all__ = [
    "MEASURES",
    "WEIGHTS",
    "Absorption",
    "LinearResponse",
    "LinearResponseReport",
    "Units",
    "absorption",
    "measure_linear_response",
    "project",
    "span_of_forces",
]

WEIGHTS = ("uniform", "known", "model")
"""Answer probabilities of means and covariances: 1/O; `VisualQuestion.answer_probs`; the model's own at the prior mean."""

MEASURES: dict[str, str] = {
    "modes": "modes",
    "mean_force": "nats/prior std",
    "force_spread": "nats/prior std",
    "curvature": "nats/prior std^2",
    "force_variance_over_curvature": "nats",
    "posterior_precision": "1/prior std^2",
    "posterior_spread": "prior std",
    "outside_span": "fraction",
    "negative_mass": "fraction",
    "discarded_curvature": "fraction",
    "other_answers": "fraction",
}
"""Every measure of the report and its unit, in the prior's units:

mean_force |gbar|; force_spread sqrt(tr G); curvature tr H; force_variance_over_curvature the largest eigenvalue of H^-1 G;
posterior_precision tr(Lambda_q) / r; posterior_spread the root mean squared deviation of the options' posterior means from
their mean, in the span; outside_span the share of the posterior shifts outside the span; negative_mass of the true Hessian;
discarded_curvature |true Hessian - H| / (|true Hessian| + |H|), Frobenius norms; other_answers 1 - sum_a p(a|x).
Curvature, force_spread and force_variance_over_curvature run over orders of magnitude between questions and are averaged as
geometric means over the questions where they are above 0; all others as arithmetic means.
"""
GEOMETRIC = ("force_spread", "curvature", "force_variance_over_curvature")
STEP = 0.02
"""Step of the central differences behind the Hessian, in prior standard deviations; in float32 much less is rounding."""


@dataclass(frozen=True, kw_only=True)
class LinearResponseReport:
    """Linear response of one checkpoint on one set of questions (definitions at the top of this module).

    Attributes:
        measures: per name of `MEASURES`, the mean over the questions with its bootstrap interval; None where no question
            has it.
        per_question: per name, one value per question in the order of the set (None where it has none).
        responses: per question, the arrays in prior units.
        absorption: split-half share and anchor; None with fewer than four questions.
        weights: name of `WEIGHTS`.
        seed: of the split and the bootstrap.
        level: probability of the intervals.
    """

    measures: dict[str, Interval | None]
    per_question: dict[str, list[float | None]]
    responses: list[LinearResponse]
    absorption: Absorption | None
    weights: str
    seed: int
    level: float

    def arrays(self, index: int, *, beta: float | None = None, units: Units = "prior") -> dict[str, Array]:
        """The arguments of `amvl_theory.MeanLeakageModel` for one question.

        Args:
            index: of the question.
            beta: weight of the forward KL in training. With it, the reference is the other half's mean prior mean and the
                anchor the other half's; without it, the reference is the prior mean itself and the anchor 0.
            units: of the basis.

        Raises:
            ValueError: if the answer does not read the latents, or beta is given and there is no anchor to be had.
        """
        response = self.responses[index].in_units(units) if self.responses[index].modes else self.responses[index]
        if beta is None:
            return response.arrays()
        if self.absorption is None:
            raise ValueError(f"a split-half anchor needs at least four questions, got {len(self.responses)}; take more")
        reference, anchor = self.absorption.for_question(index, beta)
        if anchor is None:
            raise ValueError(
                f"question {response.question_id!r}: the other half's absorption is {self.absorption.share}, and an anchor "
                "needs one above 0; give beta=None for the response at the prior mean"
            )
        return response.arrays(reference=reference, anchor=anchor)

    def to_dict(self, *, arrays: bool = False) -> dict[str, Any]:
        """Plain Python types, ready for JSON; with ``arrays`` also every question's, without those of size k d."""
        result: dict[str, Any] = {
            "measures": measures_to_dict(self.measures, MEASURES),
            "absorption": None
            if self.absorption is None
            else {
                "share": list(self.absorption.share),
                "anchor_over_beta": list(self.absorption.anchor_over_beta),
                "seed": self.absorption.seed,
            },
            "per_question": self.per_question,
            "ids": [item.question_id for item in self.responses],
            "tasks": [item.task for item in self.responses],
            "weights": self.weights,
            "seed": self.seed,
            "level": self.level,
        }
        if arrays:
            result["responses"] = [_plain(item) for item in self.responses]
        return result

    def table(self) -> str:
        """Plain text: a line per measure with its interval and unit."""
        shares = self.absorption.share if self.absorption else ()
        halves = {f"absorption, half {part}": share for part, share in enumerate(shares, 1)}
        return measures_table(self.measures, MEASURES, halves)


def measure_linear_response(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    weights: str = "uniform",
    hessian: bool = True,
    step: float = STEP,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> LinearResponseReport:
    """Measure everything in this module's docstring.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with at least two options each; given answers are not used.
        weights: name of `WEIGHTS`; "known" needs questions with answer_probs.
        hessian: also take the true Hessian in the span (2 r times the work of the forces).
        step: of these differences, in prior standard deviations.
        batch_size: questions encoded together.
        seed: of the split into halves and the bootstrap.
        n_bootstrap: resamples of the questions behind the intervals.
        level: probability of the intervals.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without latents, an empty set, a question with fewer than two options, unknown weights, or
            known weights of a question that has none.
    """
    scorer = latent_scorer(model, processor)
    if not step > 0:
        raise ValueError(f"step must be above 0, got {step}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    result: dict[int, LinearResponse] = {}
    with differentiable(model):
        for batch in batches(
            questions,
            processor,
            batch_size,
            description="linear response",
            progress=progress,
            least_options=2,
            needs_answer=False,
        ):
            rows = _batch_responses(scorer, batch, weights, step if hessian else None)
            result |= dict(zip(batch.index, rows, strict=True))
    responses = [result[i] for i in range(len(questions))]
    columns = _columns(responses)
    settings = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level}
    return LinearResponseReport(
        measures={name: _interval(name, column, settings) for name, column in columns.items()},
        per_question=columns,
        responses=responses,
        absorption=absorption(responses, seed) if len(responses) >= 4 else None,
        weights=weights,
        seed=seed,
        level=level,
    )


def _batch_responses(
    scorer: LatentScorer, batch: QuestionBatch, weights: str, step: float | None
) -> list[LinearResponse]:
    with torch.no_grad():
        query = scorer.encode_batch(batch)
        posterior = scorer.option_posteriors(query, batch.options)
    assert query.prior is not None
    z = query.prior.mean
    forces, log_probs = answer_forces(scorer, query, z, batch.options)
    mean, std, flat = _flat(z, 1), _flat(query.prior.std, 1), _flat(forces, 2)
    means, stds = _flat(posterior.mean, 2), _flat(posterior.std, 2)
    probs = log_probs.double().exp().cpu().numpy()
    rows = []
    for i, question in enumerate(batch.questions):
        n = len(question.choices)
        rows.append(
            project(
                question_id=question.id,
                task=question.task,
                forces=flat[i, :n],
                answer_probs=probs[i, :n],
                prior=(mean[i], std[i]),
                posteriors=(means[i, :n], stds[i, :n]),
                weights=_weights(weights, question, probs[i, :n]),
            )
        )
    return rows if step is None else _with_hessians(scorer, query, batch, z, rows, step)


def _weights(name: str, question: VisualQuestion, probs: Array) -> Array:
    if name == "uniform":
        return np.full(len(probs), 1 / len(probs))
    if name == "model":
        return probs / probs.sum()
    if question.answer_probs is None:
        raise ValueError(
            f"question {question.id!r}: expected known answer probabilities, got a question without them; "
            'use synthetic BLINK with label noise, or weights="uniform" or "model"'
        )
    return np.asarray(question.answer_probs, dtype=np.float64)


def _with_hessians(
    scorer: LatentScorer,
    query: EncodedQuery,
    batch: QuestionBatch,
    z: Tensor,
    rows: Sequence[LinearResponse],
    step: float,
) -> list[LinearResponse]:
    """d^2 NLL(a)/dw^2 by central differences of the forces along every mode of every question."""
    most = max(item.modes for item in rows)
    hessians = [np.zeros((len(item.weights), item.modes, item.modes)) for item in rows]
    for mode in range(most):
        along = np.stack(
            [item.directions[mode] if mode < item.modes else np.zeros_like(item.prior_mean) for item in rows]
        )
        direction = torch.from_numpy(along).to(z).view_as(z)
        ends = [_flat(answer_forces(scorer, query, z + t * direction, batch.options)[0], 2) for t in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        for i, item in enumerate(rows):
            if mode < item.modes:
                hessians[i][:, mode] = -slope[i, : len(item.weights)] @ item.directions.T
    return [replace(item, hessians=symmetric(result)) for item, result in zip(rows, hessians, strict=True)]


def _columns(responses: Sequence[LinearResponse]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {name: [] for name in MEASURES}
    for item in responses:
        values = _question_measures(item)
        for name, column in columns.items():
            column.append(values.get(name))
    return columns


def _question_measures(response: LinearResponse) -> dict[str, float | None]:
    """The figures of one question in prior units; without modes those that need one are left out."""
    plain: dict[str, float | None] = {
        "modes": float(response.modes),
        "outside_span": response.outside,
        "other_answers": max(0.0, 1 - float(response.answer_probs.sum())),
    }
    if not response.modes:
        return plain
    centred = response.posterior_shifts - response.weights @ response.posterior_shifts
    discarded = None
    if response.hessian is not None:
        both = np.linalg.norm(response.hessian) + np.linalg.norm(response.curvature)
        discarded = float(np.linalg.norm(response.hessian - response.curvature) / both) if both > 0 else None
    return plain | {
        "mean_force": float(np.linalg.norm(response.force_mean)),
        "force_spread": float(np.sqrt(np.trace(response.force_cov))),
        "curvature": float(np.trace(response.curvature)),
        "force_variance_over_curvature": response.force_variance_over_curvature,
        "posterior_precision": float(np.trace(response.posterior_precision)) / response.modes,
        "posterior_spread": float(np.sqrt(response.weights @ np.sum(centred**2, axis=1))),
        "negative_mass": response.negative_mass,
        "discarded_curvature": discarded,
    }


def _interval(name: str, column: Sequence[float | None], settings: dict[str, Any]) -> Interval | None:
    values = [value for value in column if value is not None]
    if name not in GEOMETRIC:
        return bootstrap_mean(values, **settings) if values else None
    values = [value for value in values if value > 0]
    if not values:
        return None
    result = bootstrap_mean(np.log(values), **settings)
    low, high = (None if end is None else float(np.exp(end)) for end in (result.low, result.high))
    return Interval(mean=float(np.exp(result.mean)), low=low, high=high, n=result.n)


def _plain(response: LinearResponse) -> dict[str, Any]:
    names = (
        "weights",
        "answer_probs",
        "forces",
        "curvature",
        "prior_precision",
        "posterior_precisions",
        "posterior_shifts",
    )
    arrays = {name: getattr(response, name).tolist() for name in names}
    hessians = None if response.hessians is None else response.hessians.tolist()
    return {"id": response.question_id, "task": response.task, "units": response.units, **arrays, "hessians": hessians}


def _flat(tensor: Tensor, keep: int) -> Array:
    """float64 array with everything behind the first ``keep`` dimensions flattened."""
    return tensor.detach().double().cpu().flatten(keep).numpy()
