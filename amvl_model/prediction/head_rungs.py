"""The rungs that train latent heads on the frozen reference: which heads, from where, how long, at which gamma and label noise.

    head untrained        the posterior's fresh head before its first step: what random weights reveal of the answer
    head KL only          trained on the KL alone
    head S                the posterior's head, fresh, S steps
    head +S               the checkpoint's own, S steps more
    both heads untrained  prior and posterior fresh, before their first step
    both heads S          prior and posterior, fresh, S steps

Method: `head.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.prediction.head import Case, HeadTraining, Trained, encode_set, installed, train_side_by_side
from amvl_model.prediction.plan import Plan
from amvl_model.prediction.rungs import Rung, checkpoint_posteriors
from amvl_model.prediction.theory import Posteriors

UNTRAINED = {False: "head untrained", True: "both heads untrained"}
"""Name of the rung before the first step, by whether the prior is fresh too."""


@dataclass(frozen=True, eq=False)
class TrainedHeads:
    """Posteriors that trained heads give the held-out questions.

    Attributes:
        rungs: per rung, per gamma, one a question.
        noisy: per label noise, per rung, one a question, at the plan's noise_gamma.
        losses: per "rung, gamma[, noise]", mean loss of the first and of the last tenth of the steps [nats].
    """

    rungs: dict[str, Rung]
    noisy: dict[float, dict[str, list[Posteriors | None]]]
    losses: dict[str, tuple[float, float]]


def train_heads(model: Any, processor: Any, questions: Sequence[VisualQuestion], seed: int, plan: Plan) -> TrainedHeads:
    """Every head of the plan at every weight of it.

    Args:
        model, processor: the reference.
        questions: held out.
        seed: of the reference's run: its training questions are drawn with it.
        plan: what to train.

    Raises:
        ValueError: for a name of a rung that `head_training` does not know, or too few training questions.
    """
    found = TrainedHeads({}, {noise: {} for noise in plan.noises}, {})
    ways = {name: head_training(name, seed) for name in plan.heads}
    if not ways:
        return found
    data = encode_set(model, processor, training_questions(plan, seed, plan.train_noise), progress=False)

    def posteriors(trained: Trained) -> list[Posteriors | None]:
        with installed(model, trained):
            return checkpoint_posteriors(model, processor, questions)

    for prior in sorted({how.prior for how in ways.values() if how.fresh}):
        (still,) = train_side_by_side(model, [Case(0.0, data)], HeadTraining(steps=0, seed=seed, prior=prior))
        found.rungs[UNTRAINED[prior]] = dict.fromkeys(plan.gammas, posteriors(still))
    for name, how in ways.items():
        gammas = plan.both_gammas if how.prior else plan.few_gammas
        noises = plan.noises if how.prior else ()
        cases = [Case(gamma, data) for gamma in gammas]
        for noise in noises:
            cases.append(Case(plan.noise_gamma, data.with_answers(processor, training_questions(plan, seed, noise))))
        trained = train_side_by_side(model, cases, how)
        rows = [posteriors(each) for each in trained]
        found.rungs[name] = dict(zip(gammas, rows[: len(gammas)], strict=True))
        for noise, row in zip(noises, rows[len(gammas) :], strict=True):
            found.noisy[noise][name] = row
        labels = [f"{name}, gamma={gamma:g}" for gamma in gammas]
        labels += [f"{name}, gamma={plan.noise_gamma:g}, noise={noise:g}" for noise in noises]
        tenth = max(1, how.steps // 10)
        for label, each in zip(labels, trained, strict=True):
            found.losses[label] = (float(np.mean(each.losses[:tenth])), float(np.mean(each.losses[-tenth:])))
    return found


def training_questions(plan: Plan, seed: int, noise: float) -> list[VisualQuestion]:
    """The first training questions of a run, with its wrong labels; the same pictures at every label noise."""
    drawn = SyntheticBlink(tasks=plan.tasks, split="train", seed=seed, size=plan.head_questions, label_noise=noise)
    return drawn[:]


def head_training(name: str, seed: int) -> HeadTraining:
    """The settings behind the name of a rung: "head KL only", "head S", "head +S" or "both heads S", with S steps.

    Raises:
        ValueError: for another name.
    """
    if name == "head KL only":
        return HeadTraining(answer_loss=False, seed=seed)
    match = re.fullmatch(r"(head|both heads) (\+?)(\d+)", name)
    if match is None or int(match[3]) < 1 or (match[1] == "both heads" and match[2]):
        raise ValueError(f'expected "head KL only", "head S", "head +S" or "both heads S" with S steps, got {name!r}')
    return HeadTraining(prior=match[1] == "both heads", fresh=not match[2], steps=int(match[3]), seed=seed)
