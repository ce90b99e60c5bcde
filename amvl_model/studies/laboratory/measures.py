"""What is measured of an arm of the laboratory, by number of hops h; fractions of questions unless a unit is given.

    accuracy_h             right answers with the prior mean (or without latents)
    accuracy_sampled_h     with one sample of the prior, its standard deviation times a temperature
    accuracy_posterior_h   with the posterior mean, which saw the right answer
    accuracy_exchanged_h   with the prior mean of a question about another scene
    follows_patch_h        with the prior mean of a question about the same scene and h hops from another start: answers
                           that are right for that other question
    leaked_h               leaked information I(Z; A | x) with uniform answers, nats, at most log(options)
    probe_slot_j_state_i   at the most hops: a linear probe (multinomial logistic) of slot j of the prior mean, 1 .. k, for
                           the object that is reached after i hops, 0 .. h; on scenes that the probe was not fitted on

Slots are probed one at a time. Chance is 1 / options for the accuracies and the probes, 1 / (h + 1) for
accuracies of Nested_Comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES
from amvl_model.diagnostics.leakage.information import leaked_information_batch
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.results.files import Metric
from amvl_model.results.statistics import Interval, wilson
from amvl_model.studies.laboratory.arm import encode_scenes
from amvl_model.training.pretraining.multihop_base import MultihopRecipe

CHUNK = 128
"""Rows of one forward pass."""
LEAK_QUESTIONS = 128
PROBE_QUESTIONS = 1024
_RIDGE = 1e-3


def measure(
    model: Any, processor: AMVLProcessor, recipe: MultihopRecipe, split: str = "test", *, temperature: float = 1.0
) -> dict[str, Metric]:
    """Every measure of this module's docstring; a model without latents has ``accuracy_h`` alone."""
    shares = measure_accuracy(model, processor, recipe, split, every=True, temperature=temperature)
    metrics = {name: _fraction(value) for name, value in shares.items()}
    if isinstance(model, AMVLForConditionalGeneration):
        for hops in sorted(recipe.hops):
            nats = measure_leak(model, processor, recipe, hops, split)
            half = 1.96 * nats.std(ddof=1) / np.sqrt(len(nats))
            mean = float(nats.mean())
            metrics[f"leaked_{hops}"] = Metric(mean, "nats", mean - half, mean + half, len(nats))
        metrics |= {name: _fraction(value) for name, value in probe_states(model, processor, recipe, split).items()}
    return metrics


def _fraction(value: Interval) -> Metric:
    return Metric(value.mean, "fraction", value.low, value.high, value.n)


@torch.no_grad()
def measure_accuracy(
    model: Any,
    processor: AMVLProcessor,
    recipe: MultihopRecipe,
    split: str = "val",
    *,
    every: bool = False,
    temperature: float = 1.0,
) -> dict[str, Interval]:
    """The accuracies with Wilson intervals; without ``every`` only those with the means of prior and posterior."""
    model.eval()
    letters = torch.stack([processor.encode_answer(option_letter(i))[0] for i in range(recipe.objects)])
    shares: dict[str, Interval] = {}
    for hops in sorted(recipe.hops):
        questions = recipe.questions(split, hops, recipe.eval_size)
        counts: dict[str, list[int]] = {}
        for start in range(0, recipe.eval_size, CHUNK):
            part = questions[start : start + CHUNK]
            batch = encode_scenes(model, processor, part, recipe.questions_per_scene)
            for name, options, right in _conditions(model, batch, part, recipe, every, temperature):
                best = model(**batch, **options).logits[:, 0, letters].argmax(-1).numpy()
                counts.setdefault(name, []).extend((best == right)[right >= 0])
        shares |= {f"{name}_{hops}": wilson(int(sum(hits)), len(hits)) for name, hits in counts.items()}
    return shares


def _conditions(
    model: Any,
    batch: Mapping[str, Tensor],
    part: list[VisualQuestion],
    recipe: MultihopRecipe,
    every: bool,
    temperature: float,
) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Name, options of ``model.forward``, and the option that counts for each question (-1: the question does not count)."""
    right = np.array([question.answer for question in part])
    if not isinstance(model, AMVLForConditionalGeneration):
        yield "accuracy", {}, right
        return
    prior, posterior = model.latent_distributions(batch)
    yield "accuracy", {"latents": prior.mean}, right
    yield "accuracy_posterior", {"latents": posterior.mean}, right
    if not every:
        return
    noise = torch.randn(prior.mean.shape, generator=torch.Generator().manual_seed(0))
    yield "accuracy_sampled", {"latents": prior.rsample(temperature=temperature, noise=noise)}, right
    yield "accuracy_exchanged", {"latents": prior.mean.roll(recipe.questions_per_scene, 0)}, right
    donor = np.roll(np.arange(len(part)).reshape(-1, recipe.questions_per_scene), 1, axis=1).ravel()
    starts = np.array([(question.chain or ("",))[0] for question in part])
    yield "follows_patch", {"latents": prior.mean[donor]}, np.where(starts == starts[donor], -1, right[donor])


@torch.no_grad()
def measure_leak(
    model: AMVLForConditionalGeneration, processor: AMVLProcessor, recipe: MultihopRecipe, hops: int, split: str = "val"
) -> np.ndarray:
    """Leaked information of at most `LEAK_QUESTIONS` questions with this number of hops (questions,), nats."""
    model.eval()
    count = min(LEAK_QUESTIONS, recipe.eval_size)
    batch = encode_scenes(model, processor, recipe.questions(split, hops, count)[:], recipe.questions_per_scene)
    state, _ = model.encode_query(batch)
    posteriors = []
    for i in range(recipe.objects):
        ids = processor.encode_answer(option_letter(i)).expand(count, -1)
        posteriors.append(model.posterior_from(state, ids, torch.ones_like(ids)))
    means, stds = (torch.stack([getattr(q, name).flatten(1) for q in posteriors], dim=1) for name in ("mean", "std"))
    return leaked_information_batch(means.numpy(), stds.numpy(), n_samples=256)[0]


def probe_states(
    model: AMVLForConditionalGeneration, processor: AMVLProcessor, recipe: MultihopRecipe, split: str = "test"
) -> dict[str, Interval]:
    """Accuracy of the probes on ``recipe.eval_size`` questions, fitted on `PROBE_QUESTIONS` others (split "val")."""
    hops = max(recipe.hops)
    count = min(PROBE_QUESTIONS, 4 * recipe.eval_size)
    fitted_on = recipe.questions("val", hops, count)[:]
    scored_on = recipe.questions(split, hops, recipe.eval_size)[:]
    train, test = (prior_means(model, processor, part, recipe) for part in (fitted_on, scored_on))
    states, held_out = (chain_states(part) for part in (fitted_on, scored_on))
    shares = {}
    for slot in range(train.shape[1]):
        for state in range(hops + 1):
            hits = Probe(train[:, slot], states[:, state])(test[:, slot]) == held_out[:, state]
            shares[f"probe_slot_{slot + 1}_state_{state}"] = wilson(int(hits.sum()), len(hits))
    return shares


@torch.no_grad()
def prior_means(
    model: AMVLForConditionalGeneration,
    processor: AMVLProcessor,
    questions: list[VisualQuestion],
    recipe: MultihopRecipe,
) -> Tensor:
    """Prior means (questions, k, d) of consecutive questions of whole scenes."""
    model.eval()
    parts = [questions[start : start + CHUNK] for start in range(0, len(questions), CHUNK)]
    batches = (encode_scenes(model, processor, part, recipe.questions_per_scene) for part in parts)
    return torch.cat([model.encode_query(batch)[1].mean for batch in batches])


def chain_states(questions: list[VisualQuestion]) -> Tensor:
    """Which object is reached after 0 .. h hops (questions, h + 1), as its colour's index in `COLOUR_NAMES`.

    Raises:
        ValueError: for questions without a chain.
    """
    if not all(question.chain for question in questions):
        raise ValueError("expected questions with a chain of objects, as multihop_question makes them; got one without")
    return torch.tensor([[COLOUR_NAMES.index(name) for name in question.chain] for question in questions])


class Probe:
    """A multinomial logistic regression on standardised features, with a small ridge.

    Args:
        features: (questions, d).
        labels: (questions,), classes 0 .. C - 1.
        classes: C.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int = len(COLOUR_NAMES)) -> None:
        self.mean, self.std = features.mean(0), features.std(0).clamp_min(1e-6)
        inputs = self._standardised(features)
        self.weight = torch.zeros(inputs.shape[1], classes, dtype=inputs.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(inputs @ self.weight, labels) + _RIDGE * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]

    def _standardised(self, features: Tensor) -> Tensor:
        scaled = ((features - self.mean) / self.std).double()
        return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)

    def probabilities(self, features: Tensor) -> Tensor:
        """(questions, classes)."""
        with torch.no_grad():
            return (self._standardised(features) @ self.weight).softmax(-1)

    def __call__(self, features: Tensor) -> Tensor:
        """The likeliest class (questions,)."""
        return self.probabilities(features).argmax(-1)
