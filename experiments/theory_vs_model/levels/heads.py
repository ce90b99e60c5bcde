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

Every question is encoded once, and its recorded keys and values serve all steps and all gammas. Heads for several gammas and
label noises are trained side by side in one batch, on the same questions and with the same latent noise; they do not interact,
so that the result is that of separate trainings.

The levels, by name:

    head untrained        the posterior's fresh head before its first step: what random weights reveal of the answer
    head KL only          trained on the KL alone
    head S                the posterior's head, fresh, S steps
    head +S               the checkpoint's own, S steps more
    both heads untrained  prior and posterior fresh, before their first step
    both heads S          prior and posterior, fresh, S steps
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from amvl_model.config import ObjectiveConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.models.amvl import LATENT_MODULES
from amvl_model.models.distributions import DiagonalGaussian, answer_nll
from amvl_model.objectives import amvl_objective
from amvl_model.two_pass.layout import PrefixCache, QueryState, posterior_mask, second_pass_mask, short_positions
from amvl_theory import AnswerPosteriors
from experiments.theory_vs_model.levels.encoded import EncodedSet, encode_set
from experiments.theory_vs_model.levels.linear import Level
from experiments.theory_vs_model.plan import Plan
from experiments.theory_vs_model.reference import checkpoint_posteriors

POSTERIOR = ("posterior_queries", "posterior_head")
PRIOR = ("prior_queries", "prior_head")
Modules = Mapping[str, nn.Module]
"""Queries and heads by their names in the model."""


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
class Case:
    """One of the heads that are trained side by side.

    Attributes:
        gamma: weight of the reverse KL, at least 0.
        data: the encoded questions with the answers that it is trained on; the questions are those of all other cases.
    """

    gamma: float
    data: EncodedSet


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained head.

    Attributes:
        states: per module of the model its weights. losses: of every step [nats].
    """

    states: Mapping[str, dict[str, Tensor]]
    losses: Sequence[float]


def train_side_by_side(model: Any, cases: Sequence[Case], training: HeadTraining) -> list[Trained]:
    """Train a head for every case; the model is left as it is.

    Args:
        model: an AMVLForConditionalGeneration. cases: of sets of `encode_set` with this model. training: settings.

    Raises:
        ValueError: for no cases, fewer questions than a batch, or cases about different questions.
    """
    if not cases:
        raise ValueError("expected at least one case to train, got none")
    if len(cases[0].data) < training.batch_size:
        raise ValueError(
            f"expected at least a batch of {training.batch_size} questions, got {len(cases[0].data)}; encode more"
        )
    if any(case.data.keys is not cases[0].data.keys for case in cases):
        raise ValueError(
            "expected cases with the same encoded questions; make further ones with EncodedSet.with_answers"
        )
    start = _initial(model, training) if training.fresh else _weights(model, training.trained)
    modules = [{name: copy.deepcopy(getattr(model, name)) for name in training.trained} for _ in cases]
    for heads in modules:
        for name, state in start.items():
            heads[name].load_state_dict(state)
    with differentiable(model):
        losses = _train(model, cases, modules, training)
    return [
        Trained({name: module.state_dict() for name, module in heads.items()}, losses[:, i].tolist())
        for i, heads in enumerate(modules)
    ]


@contextmanager
def installed(model: Any, trained: Trained) -> Iterator[None]:
    """The model with trained heads in it; on leaving, its own are put back."""
    old = _weights(model, tuple(trained.states))
    try:
        _load(model, trained.states)
        yield
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
    own = _weights(model, LATENT_MODULES)
    model.reset_latent_modules(seed=training.seed)
    drawn = _weights(model, training.trained)
    _load(model, own)
    return drawn


def _train(
    model: Any, cases: Sequence[Case], modules: Sequence[Modules], training: HeadTraining
) -> NDArray[np.float64]:
    """Losses (steps, cases)."""
    parameters = [[p.requires_grad_(True) for m in heads.values() for p in m.parameters()] for heads in modules]
    optimiser = torch.optim.AdamW(list(chain.from_iterable(parameters)), lr=training.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(training.warmup * training.steps), training.steps)
    generator = torch.Generator().manual_seed(training.seed)
    losses = np.empty((training.steps, len(cases)))
    order = _epochs(len(cases[0].data), training.batch_size, generator)
    for step in range(training.steps):
        progress = step / training.steps if training.fresh else 1.0
        with torch.enable_grad():
            case_losses = _losses(model, cases, modules, training, next(order), progress, generator)
            optimiser.zero_grad()
            case_losses.sum().backward()
        for group in parameters:
            torch.nn.utils.clip_grad_norm_(group, training.max_grad_norm)
        optimiser.step()
        schedule.step()
        losses[step] = case_losses.detach().double().numpy()
    return losses


def _losses(
    model: Any,
    cases: Sequence[Case],
    modules: Sequence[Modules],
    training: HeadTraining,
    index: Tensor,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """(cases,) mean loss of every case on some questions [nats]; differentiable in its own modules."""
    queries, held, _, _ = cases[0].data.rows(index)
    state = _tiled(queries, len(cases))
    ids = torch.cat([case.data.answer_ids[index] for case in cases])
    mask = torch.cat([case.data.answer_mask[index] for case in cases])
    posteriors = posteriors_from(model, state, modules, ids, mask)
    priors = priors_from(model, state, modules) if training.prior else [held] * len(cases)
    nll = torch.zeros(len(ids), device=ids.device)
    if training.answer_loss:
        noise = torch.randn(held.mean.shape, generator=generator)
        z = torch.cat([q.mean + q.std * noise for q in posteriors])
        nll = answer_nll(model.answer_logits(state, z, ids), ids, mask)
    totals = []
    for case, prior, posterior, own in zip(cases, priors, posteriors, nll.chunk(len(cases)), strict=True):
        beta, gamma = ObjectiveConfig(name="amvl", beta=training.beta, gamma=case.gamma).weights(progress)
        terms = amvl_objective(prior, posterior, own, beta * training.prior, gamma, objective="amvl")
        totals.append(terms.total.mean())
    return torch.stack(totals)


def _tiled(state: QueryState, times: int) -> QueryState:
    """All queries, then all of them again, ..."""
    pairs = state.cache.layers.items()
    cache = PrefixCache({i: (k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for i, (k, v) in pairs})
    return QueryState(cache, state.mask.repeat(times, 1), state.next_position.repeat(times))


def priors_from(model: Any, state: QueryState, modules: Sequence[Modules]) -> list[DiagonalGaussian]:
    """p(Z|x) of each set of modules on its share of the queries, (B / sets, k, d) each."""
    offsets = torch.arange(model.config.num_latents)
    share = len(state.mask) // len(modules)
    queries = torch.cat([model._queries(heads["prior_queries"], share) for heads in modules])
    positions = short_positions(state.next_position, offsets)
    hidden = model._text_model(queries, positions, second_pass_mask(state.mask, len(offsets)), state.cache)
    return [heads["prior_head"](part) for heads, part in zip(modules, hidden.chunk(len(modules)), strict=True)]


def posteriors_from(
    model: Any, state: QueryState, modules: Sequence[Modules], answer_ids: Tensor, answer_mask: Tensor
) -> list[DiagonalGaussian]:
    """q(Z|x,y) of each set of modules on its share of the queries and answers, (B / sets, k, d) each."""
    k, share = model.config.num_latents, len(state.mask) // len(modules)
    queries = torch.cat([model._queries(heads["posterior_queries"], share) for heads in modules])
    embeddings = torch.cat([queries, model.get_input_embeddings()(answer_ids)], dim=1)
    positions = short_positions(state.next_position, torch.arange(k), k + torch.arange(answer_ids.shape[1]))
    mask = posterior_mask(state.mask, k, answer_mask)
    hidden = model._text_model(embeddings, positions, mask, state.cache)[:, :k]
    return [heads["posterior_head"](part) for heads, part in zip(modules, hidden.chunk(len(modules)), strict=True)]


def _epochs(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: every question once in a random order, then in another; what does not fill a batch is left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


UNTRAINED = {False: "head untrained", True: "both heads untrained"}
"""Name of the level before the first step, by whether the prior is fresh too."""


@dataclass(frozen=True, eq=False)
class TrainedHeads:
    """AnswerPosteriors that trained heads give the held-out questions.

    Attributes:
        levels: per level, per gamma, one a question.
        by_noise: per label noise, per level, one a question, at the plan's noise_gamma.
        losses: per "level, gamma[, noise]", mean loss of the first and of the last tenth of the steps [nats].
    """

    levels: dict[str, Level]
    by_noise: dict[float, dict[str, list[AnswerPosteriors | None]]]
    losses: dict[str, tuple[float, float]]


def train_heads(model: Any, processor: Any, questions: Sequence[VisualQuestion], seed: int, plan: Plan) -> TrainedHeads:
    """Every head of the plan at every weight of it.

    Args:
        model, processor: the reference.
        questions: held out.
        seed: of the reference's run: its training questions are drawn with it.
        plan: what to train.

    Raises:
        ValueError: for a name of a level that `head_training` does not define, or too few training questions.
    """
    heads = TrainedHeads({}, {noise: {} for noise in plan.noises}, {})
    ways = {name: head_training(name, seed) for name in plan.heads}
    if not ways:
        return heads
    data = encode_set(model, processor, training_questions(plan, seed, plan.train_noise), progress=False)

    def posteriors(trained: Trained) -> list[AnswerPosteriors | None]:
        with installed(model, trained):
            return checkpoint_posteriors(model, processor, questions)

    for prior in sorted({how.prior for how in ways.values() if how.fresh}):
        (still,) = train_side_by_side(model, [Case(0.0, data)], HeadTraining(steps=0, seed=seed, prior=prior))
        heads.levels[UNTRAINED[prior]] = dict.fromkeys(plan.gammas, posteriors(still))
    for name, how in ways.items():
        gammas = plan.both_gammas if how.prior else plan.few_gammas
        noises = plan.noises if how.prior else ()
        cases = [Case(gamma, data) for gamma in gammas]
        for noise in noises:
            cases.append(Case(plan.noise_gamma, data.with_answers(processor, training_questions(plan, seed, noise))))
        trained = train_side_by_side(model, cases, how)
        rows = [posteriors(head) for head in trained]
        heads.levels[name] = dict(zip(gammas, rows[: len(gammas)], strict=True))
        for noise, row in zip(noises, rows[len(gammas) :], strict=True):
            heads.by_noise[noise][name] = row
        labels = [f"{name}, gamma={gamma:g}" for gamma in gammas]
        labels += [f"{name}, gamma={plan.noise_gamma:g}, noise={noise:g}" for noise in noises]
        tenth = max(1, how.steps // 10)
        for label, head in zip(labels, trained, strict=True):
            heads.losses[label] = (float(np.mean(head.losses[:tenth])), float(np.mean(head.losses[-tenth:])))
    return heads


def training_questions(plan: Plan, seed: int, noise: float) -> list[VisualQuestion]:
    """The first training questions of a run, with its wrong labels; the same images at every label noise."""
    drawn = SyntheticBlink(tasks=plan.tasks, split="train", seed=seed, size=plan.head_questions, label_noise=noise)
    return drawn[:]


def head_training(name: str, seed: int) -> HeadTraining:
    """The settings behind the name of a level: "head KL only", "head S", "head +S" or "both heads S", with S steps.

    Raises:
        ValueError: for another name.
    """
    if name == "head KL only":
        return HeadTraining(answer_loss=False, seed=seed)
    match = re.fullmatch(r"(head|both heads) (\+?)(\d+)", name)
    if match is None or int(match[3]) < 1 or (match[1] == "both heads" and match[2]):
        raise ValueError(f'expected "head KL only", "head S", "head +S" or "both heads S" with S steps, got {name!r}')
    return HeadTraining(prior=match[1] == "both heads", fresh=not match[2], steps=int(match[3]), seed=seed)
