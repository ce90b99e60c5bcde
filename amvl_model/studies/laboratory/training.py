"""Training of the laboratory's arms: the warm-up that those of a seed share, and the arm itself.

warm-up    prior-sample training (objective "prior") at a constant rate until fresh questions of the hardest kind are
           answered, or a limit
arm        its objective, the posterior starting as a copy of the prior, on other questions, the same for all arms of a seed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amvl_model.data.processing import AMVLProcessor
from amvl_model.models.checkpoints import absolute, check_weights
from amvl_model.studies.laboratory.arm import Arm, build_arm, load_base, scene_rows, with_features
from amvl_model.studies.laboratory.measures import measure_accuracy, measure_leak
from amvl_model.studies.laboratory.unfinished import Unfinished
from amvl_model.training.monitoring.guard import Again, LoopStep
from amvl_model.training.pretraining.multihop_base import MultihopRecipe

Row = dict[str, Any]
"""A look at fresh questions: step, steps (in all), seconds (of processor time), objective, means of its terms since the last
look [nats] and of the gradient norm, accuracies of `measure_accuracy`, and with a posterior leaked_h at the most hops [nats]."""
Report = Callable[[Row], None]


def silent(*_: Any, **__: Any) -> None:
    """A report that prints nothing."""


def warm_up(
    model: Any, processor: AMVLProcessor, arm: Arm, report: Report = print, state: Path | None = None
) -> dict[str, Any]:
    """Prior-sample training in place, until the hardest questions are answered or ``arm.warmup`` steps are over.

    With ``state``, a folder, it goes on from what is kept there (`Unfinished`).

    Returns:
        warmup_steps (int), started (whether the accuracy was reached), and warmup, the curve.
    """
    curve: list[Row] = []
    hardest = f"accuracy_{max(arm.recipe.hops)}"
    rate = partial(arm.recipe.rate, decay=False)
    kept, warm = Unfinished(state), replace(arm, objective="prior")
    with kept.signals():
        for row in _steps(model, processor, warm, arm.warmup, kept, rate=rate, stream=2 * arm.recipe.seed):
            curve.append(row | {"warming": True})
            report(curve[-1])
            if row[hardest] >= arm.warmup_accuracy:
                break
    done = curve[-1]["step"] if curve else 0
    return {"warmup_steps": done, "started": bool(curve) and curve[-1][hardest] >= arm.warmup_accuracy, "warmup": curve}


def train_arm(
    model: Any, processor: AMVLProcessor, arm: Arm, report: Report = print, state: Path | None = None
) -> list[Row]:
    """Train in place on the arm's objective; returns the curve, a row for every look at fresh questions.

    With ``state``, a folder, it goes on from what is kept there (`Unfinished`).
    """
    if "posterior" in arm.loss(0.0).passes:
        model.start_posterior_as_prior()
    recipe, curve = arm.recipe, []
    kept, stream = Unfinished(state), 2 * recipe.seed + 1
    with kept.signals():
        for row in _steps(model, processor, arm, recipe.steps, kept, rate=recipe.rate, stream=stream):
            curve.append(row)
            report(row)
    return curve


def _steps(
    model: Any,
    processor: AMVLProcessor,
    arm: Arm,
    steps: int,
    kept: Unfinished,
    *,
    rate: Callable[[int], float],
    stream: int,
) -> Iterator[Row]:
    """Train on the arm's loss; yields a row every ``eval_every`` steps and at the end, those that are kept first.

    ``stream`` names the questions and the latent noise: one for the warm-up of a seed, another for all of its arms.
    """
    recipe = arm.recipe
    each = recipe.scenes * recipe.questions_per_scene
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, recipe)
    different = recipe.different or steps * each
    if different % each:
        raise ValueError(f"different must be a multiple of the {each} questions of a step, got {different}")
    questions = replace(recipe, seed=stream).questions("train", recipe.hops, different)
    loss = arm.loss(0.0)
    noise = torch.Generator().manual_seed(stream)
    own = {"generator": noise} if loss.objective.latents else {}
    about = {"loop": "laboratory", "settings": asdict(replace(arm, base=absolute(arm.base)))}
    kept.restore(model, optimizer, noise)
    yield from kept.rows
    began, hardest = time.process_time() - kept.seconds, max(recipe.hops)
    for step in range(kept.step, steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss, first = arm.loss(step / steps), step * each % different
        part = questions[first : first + each]
        rows, drawn = scene_rows(processor, part, recipe.questions_per_scene), noise.get_state()
        output = model(**with_features(model, processor, rows), **own, loss=loss)
        output.loss.backward()
        batch = ([question.id for question in part], rows)
        own_about = {**about, "progress": step / steps, "noise": drawn}
        now = LoopStep(kept.folder, step + 1, model, [batch], own_about, losses=[output.terms.total])
        norm = now.clip(float(output.loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        terms = {name: float(value.detach().mean()) for name, value in output.terms.named().items()}
        kept.terms.append(terms | {"grad_norm": norm})
        kept.step = step + 1
        at_look = (step + 1) % recipe.eval_every == 0 or step + 1 == steps
        if at_look:
            with now.checked():
                check_weights(model)
            row: Row = {
                "step": step + 1,
                "steps": steps,
                "seconds": time.process_time() - began,
                "objective": loss.objective.name,
            }
            row |= {name: float(np.mean([each[name] for each in kept.terms])) for name in kept.terms[-1]}
            row |= {name: share.mean for name, share in measure_accuracy(model, processor, recipe).items()}
            if "posterior" in loss.passes:
                row[f"leaked_{hardest}"] = float(measure_leak(model, processor, recipe, hardest).mean())
            kept.rows, kept.terms = [*kept.rows, row], []
        kept.seconds = time.process_time() - began
        with now.checked():
            kept.keep(model, optimizer, noise, at_look=at_look)
        if at_look:
            yield kept.rows[-1]


def recompute(stored: dict[str, Any]) -> Again:
    """A step that a number stopped, as ``amvl_model.training.monitoring.guard.replay`` takes it."""
    settings = stored["settings"]
    arm = Arm(**{**settings, "recipe": MultihopRecipe(**settings["recipe"])})
    base, processor = load_base(arm)
    model = build_arm(base, processor, arm).train()
    model.load_state_dict(stored["weights"])
    loss, own = arm.loss(stored["progress"]), dict[str, Any]()
    if loss.objective.latents:
        own["generator"] = torch.Generator().set_state(stored["noise"])
    (part,) = stored["batches"]
    output = model(**with_features(model, processor, part["inputs"]), **own, loss=loss)
    return model, [(output.terms.total.detach(), output.terms.named(), output.loss)]


def _optimizer(parameters: list[Any], recipe: MultihopRecipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
