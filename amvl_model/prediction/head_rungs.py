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
from typing import TYPE_CHECKING, Any

import numpy as np

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.prediction.head import EncodedSet, HeadTraining, encode_set, retrained_head
from amvl_model.prediction.rungs import Rung, checkpoint_posteriors
from amvl_model.prediction.theory import Posteriors

if TYPE_CHECKING:
    from amvl_model.prediction.ladder import Plan

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

    def trained(where: EncodedSet, gamma: float, how: HeadTraining, label: str) -> list[Posteriors | None]:
        with retrained_head(model, where, gamma, how) as curve:
            row = checkpoint_posteriors(model, processor, questions)
        if curve:
            tenth = max(1, how.steps // 10)
            found.losses[label] = (float(np.mean(curve[:tenth])), float(np.mean(curve[-tenth:])))
        return row

    for prior in sorted({how.prior for how in ways.values() if how.fresh}):
        still = trained(data, 0.0, HeadTraining(steps=0, seed=seed, prior=prior), "")
        found.rungs[UNTRAINED[prior]] = dict.fromkeys(plan.gammas, still)
    for name, how in ways.items():
        gammas = plan.gammas if how.prior else plan.few_gammas
        found.rungs[name] = {gamma: trained(data, gamma, how, f"{name}, gamma={gamma:g}") for gamma in gammas}
        for noise in plan.noises if how.prior else ():
            noisy = data.with_answers(processor, training_questions(plan, seed, noise))
            label = f"{name}, gamma={plan.noise_gamma:g}, noise={noise:g}"
            found.noisy[noise][name] = trained(noisy, plan.noise_gamma, how, label)
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
