"""Latent heads trained by themselves on a frozen checkpoint: amortisation, training time and a prior that follows.

Backbone, injector and decoder of the checkpoint are held. Only the posterior's queries and its head learn, or those of prior and
posterior together, on the objective that trained the checkpoint:

    L = mean over questions x with their given answer y of  E_{z ~ q(z|x,y)} NLL(y|x,z) + beta(t) KL(sg[q] || p)
        + gamma(t) KL(sg[p] || q)

(with the prior held its forward KL has no gradient), with AdamW, warm-up, cosine, clipping and batch size of the tiny preset.
What is trained, from where and for how long tells causes apart:

    both heads  prior and posterior, fresh from the weights that the run's seed drew, for as many steps and with the schedules of
                the run itself: all that the run did to its latents, but for what it did to backbone, injector and decoder
    head        the posterior alone, likewise fresh, before the checkpoint's own prior: without a prior that follows
    KL only     the same without the answer loss
    continued   the posterior from the checkpoint's own head, gamma at full weight: what more time would do

Adam's step does not depend on the size of the loss. Where the answer loss pulls little, gamma therefore hardly sets how fast a
head moves, only how the KL's pull compares with the noise of the answer loss; with "KL only" gamma cancels out.

Every question is encoded once, and its recorded keys and values serve all steps and all gammas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from amvl_model.config import ObjectiveConfig
from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.diagnostics.gradients import differentiable
from amvl_model.distributions import DiagonalGaussian
from amvl_model.evaluation.scoring import batches, latent_scorer
from amvl_model.modeling import LATENT_MODULES
from amvl_model.objective import amvl_objective, answer_nll
from amvl_model.processing import AMVLProcessor, pad_right
from amvl_model.shared_prefix import PrefixCache, QueryState, second_pass_mask, short_positions

POSTERIOR = ("posterior_queries", "posterior_head")
PRIOR = ("prior_queries", "prior_head")


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How heads are trained; the defaults are those of the study `leakage`.

    Attributes:
        fresh: start from the weights that ``seed`` drew for the run, with its schedules of beta and gamma; else continue the
            checkpoint's own at constant gamma.
        prior: train the prior too, else hold the checkpoint's.
        answer_loss: train on the answer too; without it on the KL alone.
        beta: full weight of the forward KL, which only the prior feels [per nat].
        steps: optimiser steps. batch_size: questions a step. learning_rate: peak. warmup: share of the steps.
        max_grad_norm: gradients are scaled down to this norm. seed: of the run, of batches and latent noise.
    """

    fresh: bool = True
    prior: bool = False
    answer_loss: bool = True
    beta: float = 0.001
    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 0.003
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the modules that learn."""
        return (*PRIOR, *POSTERIOR) if self.prior else POSTERIOR


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Encoded questions with their given answers, padded to one length; everything needed to train a head.

    Attributes:
        keys, values: per layer, (n, heads, N, d). mask: (n, N). next_position: (n,).
        prior: p(Z|x), (n, k, d). answer_ids, answer_mask: (n, M).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    next_position: Tensor
    prior: DiagonalGaussian
    answer_ids: Tensor
    answer_mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def rows(self, index: Tensor) -> tuple[QueryState, DiagonalGaussian, Tensor, Tensor]:
        """Encoded queries, priors and answers of some questions, padding cut to the longest of them."""
        mask = self.mask[index]
        longest = int(mask.sum(1).max())
        cache = PrefixCache(len(self.keys))
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.keys[layer], cache.values[layer] = keys[index, :, :longest], values[index, :, :longest]
        prior = DiagonalGaussian(self.prior.mean[index], self.prior.log_std[index])
        state = QueryState(cache, mask[:, :longest], self.next_position[index])
        return state, prior, self.answer_ids[index], self.answer_mask[index]

    def with_answers(self, processor: AMVLProcessor, questions: Sequence[VisualQuestion]) -> EncodedSet:
        """The same encoded questions with the answers that they were given at another label noise.

        Raises:
            ValueError: for another number of questions, or one without an answer.
        """
        if len(questions) != len(self):
            raise ValueError(f"expected the {len(self)} questions that were encoded, got {len(questions)}")
        ids, mask = _answers([processor.encode_answer(option_letter(_answer(q))) for q in questions], processor)
        return replace(self, answer_ids=ids.to(self.mask.device), answer_mask=mask.to(self.mask.device))


def encode_set(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> EncodedSet:
    """Encode training questions once, with the answers that they were given.

    Raises:
        ValueError: for a model without latents, an empty set, or a question without options or answer.
    """
    scorer = latent_scorer(model, processor)
    found: dict[int, tuple[Any, ...]] = {}
    with differentiable(model), torch.no_grad():
        for batch in batches(questions, processor, batch_size, description="encode", progress=progress):
            query = scorer.encode_batch(batch)
            layers = [query.state.cache.layer(i) for i in range(len(query.state.cache.keys))]
            assert query.prior is not None
            for row, index in enumerate(batch.index):
                length = int(query.state.mask[row].sum())
                answer = _answer(batch.questions[row])
                found[index] = (
                    [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in layers],
                    query.state.next_position[row],
                    query.prior.mean[row],
                    query.prior.log_std[row],
                    scorer.option_ids(answer).cpu(),
                )
    rows = [found[i] for i in range(len(questions))]
    ids, answer_mask = _answers([row[4] for row in rows], processor)
    lengths = torch.tensor([row[0][0][0].shape[1] for row in rows], device=scorer.device)
    longest = int(lengths.max())
    return EncodedSet(
        keys=tuple(_padded([row[0][i][0] for row in rows], longest) for i in range(len(rows[0][0]))),
        values=tuple(_padded([row[0][i][1] for row in rows], longest) for i in range(len(rows[0][0]))),
        mask=(torch.arange(longest, device=scorer.device) < lengths[:, None]).long(),
        next_position=torch.stack([row[1] for row in rows]),
        prior=DiagonalGaussian(torch.stack([row[2] for row in rows]), torch.stack([row[3] for row in rows])),
        answer_ids=ids.to(scorer.device),
        answer_mask=answer_mask.to(scorer.device),
    )


def _answer(question: VisualQuestion) -> int:
    if question.answer is None:
        raise ValueError(f"question {question.id!r}: expected the answer that it is trained with, got none")
    return question.answer


def _answers(ids: Sequence[Tensor], processor: AMVLProcessor) -> tuple[Tensor, Tensor]:
    return pad_right(list(ids), processor.pad_token_id)


def _padded(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(n, heads, N, d) from parts (heads, length, d), zeros on the right."""
    whole = parts[0].new_zeros(len(parts), parts[0].shape[0], longest, parts[0].shape[2])
    for row, part in enumerate(parts):
        whole[row, :, : part.shape[1]] = part
    return whole


@contextmanager
def retrained_head(model: Any, data: EncodedSet, gamma: float, training: HeadTraining) -> Iterator[list[float]]:
    """The model with its posterior head (and prior head) retrained at ``gamma``; on leaving, the old ones are put back.

    Args:
        model: an AMVLForConditionalGeneration. data: of `encode_set` with this model.
        gamma: weight of the reverse KL, at least 0.
        training: settings.

    Yields:
        the loss of every step [nats].

    Raises:
        ValueError: for fewer questions than a batch.
    """
    if len(data) < training.batch_size:
        raise ValueError(f"expected at least a batch of {training.batch_size} questions, got {len(data)}; encode more")
    old = _weights(model, training.trained)
    try:
        if training.fresh:
            _load(model, _initial(model, training))
        with differentiable(model):
            losses = _train(model, data, gamma, training)
        yield losses
    finally:
        _load(model, old)


def _weights(model: Any, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    return {name: {k: v.clone() for k, v in getattr(model, name).state_dict().items()} for name in names}


def _load(model: Any, states: Mapping[str, dict[str, Tensor]]) -> None:
    for name, state in states.items():
        getattr(model, name).load_state_dict(state)


def _initial(model: Any, training: HeadTraining) -> dict[str, dict[str, Tensor]]:
    """The weights of what is trained as a run of this seed drew them.

    Their scale is that of the token embeddings, which a run trains a little: taken from the checkpoint.
    """
    kept = _weights(model, LATENT_MODULES)
    model.reset_latent_modules(seed=training.seed)
    drawn = _weights(model, training.trained)
    _load(model, kept)
    return drawn


def _train(model: Any, data: EncodedSet, gamma: float, training: HeadTraining) -> list[float]:
    learnt = [p.requires_grad_(True) for name in training.trained for p in getattr(model, name).parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=training.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(training.warmup * training.steps), training.steps)
    objective = ObjectiveConfig(name="amvl", beta=training.beta, gamma=gamma)
    generator = torch.Generator().manual_seed(training.seed)
    losses = []
    order = _epochs(len(data), training.batch_size, generator)
    for step in range(training.steps):
        state, prior, ids, mask = data.rows(next(order))
        weights = objective.weights(step / training.steps) if training.fresh else (training.beta, gamma)
        with torch.enable_grad():
            if training.prior:
                prior = prior_from(model, state)
            posterior = model.posterior_from(state, ids, mask)
            nll = torch.zeros(len(ids), device=ids.device)
            if training.answer_loss:
                z = posterior.rsample(generator=generator)
                nll = answer_nll(model.answer_logits(state, z, ids), ids, mask)
            beta = weights[0] if training.prior else 0.0
            loss = amvl_objective(prior, posterior, nll, beta, weights[1], objective="amvl").total.mean()
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, training.max_grad_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def prior_from(model: Any, state: QueryState) -> DiagonalGaussian:
    """p(Z|x) (B, k, d) of encoded queries, with the prior's queries and head as they are now."""
    offsets = torch.arange(model.config.num_latents)
    queries = model._queries(model.prior_queries, len(state.mask))
    positions = short_positions(state.next_position, offsets)
    mask = second_pass_mask(state.mask, len(offsets))
    return model.prior_head(model._text_model(queries, positions, mask, state.cache))


def _epochs(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: every question once in a random order, then in another; what does not fill a batch is left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
