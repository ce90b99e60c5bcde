"""The posterior head trained by itself on a frozen checkpoint: what amortisation and training time do to a free posterior.

Backbone, prior, injector and decoder of the checkpoint are held; only the posterior's queries and its head learn, on the
objective that trained the checkpoint (with the prior held its forward KL has no gradient left):

    L = mean over questions x with their given answer y of  E_{z ~ q(z|x,y)} NLL(y|x,z) + gamma(t) KL(p || q)

with AdamW, warm-up, cosine, clipping and batch size of the tiny preset. Three starts and lengths tell causes apart:

    fresh      from the weights that the run's seed drew, for as many steps and with the schedule of gamma of the run itself:
               all that the run did to its posterior, but for the co-adaptation of everything else
    KL only    the same without the answer loss: how fast gamma alone undoes what random weights reveal of the answer
    continued  from the checkpoint's own head, gamma at full weight: what more time would do

Every question is encoded once, and its recorded keys and values serve all steps and all gammas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from amvl_model.config import ObjectiveConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.gradients import differentiable
from amvl_model.distributions import DiagonalGaussian
from amvl_model.evaluation.scoring import batches, latent_scorer
from amvl_model.modeling import LATENT_MODULES
from amvl_model.objective import amvl_objective, answer_nll
from amvl_model.processing import AMVLProcessor, pad_right
from amvl_model.shared_prefix import PrefixCache, QueryState

TRAINED = ("posterior_queries", "posterior_head")


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a head is trained; the defaults are those of the tiny preset.

    Attributes:
        fresh: start from the weights that ``seed`` drew for the run, with its schedule of gamma; else continue the checkpoint's
            head at constant gamma.
        answer_loss: train on the answer too; without it on the KL alone.
        steps: optimiser steps. batch_size: questions a step. learning_rate: peak. warmup: share of the steps.
        max_grad_norm: gradients are scaled down to this norm. seed: of the run, of batches and latent noise.
    """

    fresh: bool = True
    answer_loss: bool = True
    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 0.003
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0


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
                answer = batch.questions[row].answer
                assert answer is not None
                found[index] = (
                    [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in layers],
                    query.state.next_position[row],
                    query.prior.mean[row],
                    query.prior.log_std[row],
                    scorer.option_ids(answer).cpu(),
                )
    rows = [found[i] for i in range(len(questions))]
    ids, answer_mask = pad_right([row[4] for row in rows], processor.pad_token_id)
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


def _padded(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(n, heads, N, d) from parts (heads, length, d), zeros on the right."""
    whole = parts[0].new_zeros(len(parts), parts[0].shape[0], longest, parts[0].shape[2])
    for row, part in enumerate(parts):
        whole[row, :, : part.shape[1]] = part
    return whole


@contextmanager
def retrained_head(model: Any, data: EncodedSet, gamma: float, training: HeadTraining) -> Iterator[list[float]]:
    """The model with its posterior head retrained at ``gamma``; on leaving, the old head is put back.

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
    old = {name: {k: v.clone() for k, v in getattr(model, name).state_dict().items()} for name in TRAINED}
    try:
        if training.fresh:
            for name, state in _initial(model, training.seed).items():
                getattr(model, name).load_state_dict(state)
        with differentiable(model):
            losses = _train(model, data, gamma, training)
        yield losses
    finally:
        for name, state in old.items():
            getattr(model, name).load_state_dict(state)


def _initial(model: Any, seed: int) -> dict[str, dict[str, Tensor]]:
    """The posterior's weights as a run of this seed drew them.

    Their scale is that of the token embeddings, which a run trains a little: taken from the checkpoint.
    """
    kept = {name: {k: v.clone() for k, v in getattr(model, name).state_dict().items()} for name in LATENT_MODULES}
    model.reset_latent_modules(seed=seed)
    drawn = {name: {k: v.clone() for k, v in getattr(model, name).state_dict().items()} for name in TRAINED}
    for name, state in kept.items():
        getattr(model, name).load_state_dict(state)
    return drawn


def _train(model: Any, data: EncodedSet, gamma: float, training: HeadTraining) -> list[float]:
    learnt = [p.requires_grad_(True) for name in TRAINED for p in getattr(model, name).parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=training.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(training.warmup * training.steps), training.steps)
    objective = ObjectiveConfig(name="amvl", gamma=gamma)
    generator = torch.Generator().manual_seed(training.seed)
    losses = []
    order = _epochs(len(data), training.batch_size, generator)
    for step in range(training.steps):
        state, prior, ids, mask = data.rows(next(order))
        weight = objective.weights(step / training.steps)[1] if training.fresh else gamma
        with torch.enable_grad():
            posterior = model.posterior_from(state, ids, mask)
            nll = torch.zeros(len(ids), device=ids.device)
            if training.answer_loss:
                z = posterior.rsample(generator=generator)
                nll = answer_nll(model.answer_logits(state, z, ids), ids, mask)
            loss = amvl_objective(prior, posterior, nll, 0.0, weight, objective="amvl").total.mean()
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, training.max_grad_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _epochs(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: every question once in a random order, then in another; what does not fill a batch is left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
