"""Token-level relevance: how much each image patch and each word moves the latents and the answer.

Integrated gradients (Sundararajan, Taly and Yan 2017) on the input embeddings e of the query, from a baseline e0 to e:

    R_i = sum_h (e - e0)_ih  int_0^1  d f(e0 + t (e - e0)) / d e_ih  dt                    per token i, in the unit of f, nats

    slot j      f_j(e) = 1/2 sum_d ((mean_jd(e) - mean_jd(e0)) / std_jd(e0))^2             how far slot j's prior mean has moved
                                                                                           from the baseline's: the KL between
                                                                                           the two at the baseline's spread
    latents     sum_j f_j
    answer      f(e) = log p(y | e, Z = prior mean(e))                                     through x itself and through Z

Baseline: images of the same size, all mid grey; every word of the user's turn at the mean of the vocabulary's embeddings.
The chat template's own tokens stay as they are and have no relevance. Completeness: sum_i R_i = f(e) - f(e0) (`totals`), up to
the error of the quadrature (Gauss-Legendre), which is reported as `residuals`. So relevance through images and through text
add up to the whole change.

An image token is a square of patch size times merge size pixels (28 in Qwen2.5-VL); its feature has seen the other patches of
the vision tower's attention, so a map says where the language model reads, not which pixels the vision tower looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, check_question, latent_scorer
from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.models.inputs import embed
from amvl_model.results.statistics import Interval, bootstrap_mean

Array = NDArray[np.float64]
GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True, eq=False)
class RelevanceMap:
    """Relevance of one question's tokens for T targets: the k slots ("slot 1", ...) and "answer".

    Attributes:
        question: the question.
        targets: names of the T targets.
        answer: index of the option behind "answer": the given one, or the likeliest where none is given.
        images: per image (T, rows, columns), nats, one value per image token.
        tokens: the words of the user's turn, as the tokenizer cuts them.
        text: (T, words), nats.
        totals: (T,), f(e) - f(e0), nats.
        residuals: (T,), totals minus the sum of all relevances, nats: the error of the quadrature.
    """

    question: VisualQuestion
    targets: tuple[str, ...]
    answer: int
    images: tuple[Array, ...]
    tokens: tuple[str, ...]
    text: Array
    totals: Array
    residuals: Array

    def of(self, target: str) -> tuple[list[Array], Array]:
        """Relevance of every image (rows, columns) and of the words (words,); "latents" is the sum over the slots.

        Raises:
            ValueError: for an unknown target.
        """
        chosen = self._rows(target)
        return [image[chosen].sum(0) for image in self.images], self.text[chosen].sum(0)

    def parts(self, target: str) -> tuple[float, float]:
        """Relevance through all images and through all words, nats."""
        images, words = self.of(target)
        return float(sum(image.sum() for image in images)), float(words.sum())

    def total(self, target: str) -> float:
        """f(e) - f(e0) of a target, nats."""
        return float(self.totals[self._rows(target)].sum())

    def _rows(self, target: str) -> list[int]:
        if target == "latents":
            return [i for i, name in enumerate(self.targets) if name.startswith("slot ")]
        if target not in self.targets:
            raise ValueError(f"target must be one of latents, {', '.join(self.targets)}, got {target!r}")
        return [self.targets.index(target)]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON; without the images."""
        return {
            "id": self.question.id,
            "task": self.question.task,
            "targets": list(self.targets),
            "answer": self.answer,
            "images": [image.tolist() for image in self.images],
            "tokens": list(self.tokens),
            "text": self.text.tolist(),
            "totals": self.totals.tolist(),
            "residuals": self.residuals.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class RelevanceReport:
    """Relevance maps of a few questions, and their parts through images and text.

    Attributes:
        maps: one per question.
        parts: per target "latents" and "answer": "image" and "text", mean over the questions in nats; "total" their sum as
            it is without quadrature; "residual" the mean absolute error of the quadrature.
        steps: nodes of the quadrature.
        seed: of the bootstrap.
        level: probability of the intervals.
    """

    maps: list[RelevanceMap]
    parts: dict[str, dict[str, Interval]]
    steps: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return {
            "parts": {t: {name: asdict(value) for name, value in item.items()} for t, item in self.parts.items()},
            "maps": [item.to_dict() for item in self.maps],
            "steps": self.steps,
            "seed": self.seed,
            "level": self.level,
        }


def measure_relevance(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    steps: int = 32,
    batch_size: int = 16,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    progress: bool = True,
) -> RelevanceReport:
    """Relevance maps of every question; a few questions are meant, each takes ``steps`` forward and k + 1 backward passes.

    Args:
        model: an AMVLForConditionalGeneration.
        processor: its processor.
        questions: multiple-choice questions with at least two options.
        steps: nodes of the quadrature; more make the residuals smaller.
        batch_size: nodes computed together.
        seed, n_bootstrap, level: of the bootstrap over questions.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without latents, an empty set, a question with fewer than two options, or no steps.
    """
    scorer = latent_scorer(model, processor)
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    if len(questions) == 0:
        raise ValueError("expected at least one question, got an empty set; check the split, the tasks and the limit")
    maps = []
    with differentiable(model), tqdm(questions, "relevance", unit="question", disable=not progress, leave=False) as bar:
        for question in bar:
            check_question(question, least_options=2, needs_answer=False)
            maps.append(_relevance_map(scorer, question, steps, batch_size))
    settings: dict[str, Any] = {"seed": seed, "n_bootstrap": n_bootstrap, "level": level}
    parts = {}
    for target in ("latents", "answer"):
        pairs = np.array([item.parts(target) for item in maps])
        totals = np.array([item.total(target) for item in maps])
        columns = {
            "image": pairs[:, 0],
            "text": pairs[:, 1],
            "total": totals,
            "residual": np.abs(totals - pairs.sum(1)),
        }
        parts[target] = {name: bootstrap_mean(column, **settings) for name, column in columns.items()}
    return RelevanceReport(maps=maps, parts=parts, steps=steps, seed=seed, level=level)


def blank_images(question: VisualQuestion) -> VisualQuestion:
    """The question with mid-grey images of the same sizes: the baseline of the images."""
    return replace(question, images=tuple(Image.new("RGB", image.size, GREY) for image in question.images))


def _relevance_map(scorer: LatentScorer, question: VisualQuestion, steps: int, batch_size: int) -> RelevanceMap:
    processor, k = scorer.processor, scorer.model.config.num_latents
    batch = {name: value.to(scorer.device) for name, value in processor([question], answers=False).items()}
    words = content_words(processor, batch["input_ids"][0])
    with torch.no_grad():
        own, _, positions = embed(scorer.model.backbone, batch, batch["attention_mask"])
        baseline = _baseline(scorer, question, words, own)
        path = _Path(scorer, batch["attention_mask"], positions, len(question.choices), k)
        at_ends = [path.encode(e) for e in (baseline, own)]
        reference = at_ends[0].prior
        assert reference is not None
        answer = question.answer
        if answer is None:
            assert at_ends[1].prior is not None
            scores = scorer.option_log_probs(at_ends[1], at_ends[1].prior.mean, [len(question.choices)])
            answer = int(scores[0].argmax())
        ends = [path.targets(end, reference, answer) for end in at_ends]
    relevance = _integrated(path, baseline, own, reference, answer, steps, batch_size)
    totals = (ends[1] - ends[0])[:, 0].double().cpu().numpy()
    is_image = batch["input_ids"][0] == processor.image_token_id
    return RelevanceMap(
        question=question,
        targets=(*(f"slot {j + 1}" for j in range(k)), "answer"),
        answer=answer,
        images=_image_maps(processor, batch["image_grid_thw"], relevance[:, is_image.cpu().numpy()]),
        tokens=tuple(processor.tokenizer.decode([int(batch["input_ids"][0, i])]) for i in words),
        text=relevance[:, words],
        totals=totals,
        residuals=totals - relevance.sum(axis=1),
    )


def _baseline(scorer: LatentScorer, question: VisualQuestion, words: Sequence[int], own: Tensor) -> Tensor:
    """e0 (1, N, hidden): grey images, mean embeddings at the words, the template as it is."""
    grey = scorer.processor([blank_images(question)], answers=False)
    grey = {name: value.to(scorer.device) for name, value in grey.items()}
    result = embed(scorer.model.backbone, grey, grey["attention_mask"])[0].clone()
    result[0, list(words)] = scorer.model.get_input_embeddings().weight.mean(0).to(own.dtype)
    return result


@dataclass(frozen=True)
class _Path:
    """From embeddings (S, N, hidden) of one question's query, at several points of a path, to the targets."""

    scorer: LatentScorer
    mask: Tensor
    positions: Tensor
    options: int
    k: int

    def encode(self, embeddings: Tensor) -> EncodedQuery:
        from amvl_model.two_pass.layout import PrefixCache, QueryState, first_pass_mask, short_positions
        from amvl_model.two_pass.passes import Pass

        model, rows, prefix = self.scorer.model, len(embeddings), embeddings.shape[1]
        mask, positions = self.mask.expand(rows, -1), self.positions.expand(-1, rows, -1)
        after = positions.amax(dim=(0, 2)) + 1
        cache = PrefixCache()
        hidden = model._text_model(
            torch.cat([embeddings, model._queries(model.prior_queries, rows)], dim=1),
            torch.cat([positions, short_positions(after, torch.arange(self.k))], dim=-1),
            first_pass_mask(mask, self.k, None),
            Pass(cache, record=prefix),
        )
        state = QueryState(cache, mask, after)
        return EncodedQuery(state, model._prior(hidden[:, prefix:], state), None)

    def targets(self, query: EncodedQuery, reference: DiagonalGaussian, answer: int) -> Tensor:
        """f (k + 1, S) at every point."""
        assert query.prior is not None
        moved = (query.prior.mean - reference.mean) / reference.std
        slots = 0.5 * moved.square().sum(-1).T
        log_probs = self.scorer.option_log_probs(query, query.prior.mean, [self.options] * len(moved))
        return torch.cat([slots, log_probs[None, :, answer].to(slots.dtype)])


def _integrated(
    path: _Path,
    baseline: Tensor,
    own: Tensor,
    reference: DiagonalGaussian,
    answer: int,
    steps: int,
    batch_size: int,
) -> Array:
    """R (k + 1, N) by Gauss-Legendre quadrature along the straight path."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    difference = (own - baseline)[0]
    result = np.zeros((path.k + 1, own.shape[1]))
    for start in range(0, steps, batch_size):
        part = slice(start, start + batch_size)
        t = torch.from_numpy((nodes[part] + 1) / 2).to(own).view(-1, 1, 1)
        share = torch.from_numpy(weights[part] / 2).to(own).view(-1, 1, 1)
        with torch.enable_grad():
            point = (baseline + t * (own - baseline)).requires_grad_(True)
            values = path.targets(path.encode(point), reference, answer)
            for row in range(len(values)):
                (slope,) = torch.autograd.grad(values[row].sum(), point, retain_graph=row + 1 < len(values))
                result[row] += ((share * slope).sum(0) * difference).sum(-1).double().cpu().numpy()
    return result


def content_words(processor: AMVLProcessor, ids: Tensor) -> list[int]:
    """Places of the user's own words in a query (N,): the last turn but the assistant's, without template and images."""
    tokenizer = processor.tokenizer
    start = int(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    listed = ids.tolist()
    turns = [i for i, token in enumerate(listed) if token == start]
    first = (turns[-2] if len(turns) > 1 else turns[0]) + 1
    role = len(tokenizer("user\n", add_special_tokens=False)["input_ids"])
    last = listed.index(processor.end_of_turn_id, first)
    special = {processor.image_token_id, *tokenizer.all_special_ids}
    return [i for i in range(first + role, last) if listed[i] not in special]


def _image_maps(processor: AMVLProcessor, grids: Tensor, relevance: Array) -> tuple[Array, ...]:
    """Relevance (T, image tokens) of a query as one (T, rows, columns) an image."""
    merge, maps, begin = processor.image_processor.merge_size, [], 0
    for frames, height, width in grids.tolist():
        rows, columns = height // merge, width // merge
        size = frames * rows * columns
        maps.append(relevance[:, begin : begin + size].reshape(len(relevance), frames * rows, columns))
        begin += size
    return tuple(maps)
