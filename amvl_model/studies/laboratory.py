"""One arm of the laboratory: a small base on multi-hop questions, warmed up, trained on an objective, and measured.

A base of L text layers that was pre-trained on few hops answers questions that need more serial steps than it has layers only
through its latents: computed in pass 1 (depth L) and injected in pass 2 (depth L) they give depth 2L. An arm is

    warm-up     prior-sample training (objective "prior") at a constant rate until fresh questions of the hardest kind are
                answered, or a limit; once for a seed, and shared by its arms
    arm         the objective, the posterior starting as a copy of the prior, on fresh questions
    measures    by number of hops: accuracy with the means of prior and posterior, and with latents of another scene;
                leaked information I(Z; A | x) with uniform answers, in nats

Eight questions share a scene: the vision tower runs once a scene, and its features serve all eight. Whatever the arm, the
base, its questions and the optimiser are the same. Ours, not the paper's: the warm-up and the posterior's start.

Shapes: S scenes, Q questions a scene, R = S Q rows, N query tokens, M answer tokens, k latents of d dimensions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import LETTERS, VisualQuestion, option_letter
from amvl_model.diagnostics.leakage.information import leaked_information_batch
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.objectives import Loss, Weights, objective_named
from amvl_model.results.files import Metric, result_path, write_result
from amvl_model.training.multihop_base import MultihopRecipe, query_rows, scene_features

CHUNK = 128
"""Rows of one forward pass when measuring."""


@dataclass(kw_only=True)
class Arm:
    """One arm.

    Attributes:
        objective: a name of `amvl_model.objectives.OBJECTIVES`.
        beta, gamma: weights per nat, constant from the end of the warm-up on.
        recipe: questions, steps (those of the warm-up not counted) and optimiser, as for the base without latents.
        num_latents, latent_dim: k (pause: its tokens) and d.
        initial_log_std: of fresh priors and posteriors.
        queries_from_prompt: latent queries begin at the embedding of the prompt's last token, at which the base answers.
        warmup: most steps of the warm-up; 0 for none.
        warmup_accuracy: share of right answers at the hardest hop that ends it, on fresh questions; looked at every
            ``recipe.eval_every`` steps.
    """

    objective: str = "amvl"
    beta: float = 1.0
    gamma: float = 1.0
    recipe: MultihopRecipe = field(
        default_factory=lambda: MultihopRecipe(hops={1: 1.0, 2: 1.0, 3: 2.0}, steps=800, freeze_vision=True)
    )
    num_latents: int = 2
    latent_dim: int = 16
    initial_log_std: float = -2.0
    queries_from_prompt: bool = True
    warmup: int = 2_400
    warmup_accuracy: float = 0.8

    @property
    def cell(self) -> str:
        """Its name in a study: objective and, where it has them, weights."""
        used = objective_named(self.objective).weights
        parts = [f"{name}{getattr(self, name):g}" for name in ("beta", "gamma") if name in used]
        parts += ["fresh-queries"] if objective_named(self.objective).latents and not self.queries_from_prompt else []
        return ",".join([self.objective, *parts])


def build_arm(backbone: Any, processor: AMVLProcessor, arm: Arm) -> Any:
    """The product's model around a base, its vision tower frozen or not as the recipe says."""
    seed = arm.recipe.seed
    if objective_named(arm.objective).latents:
        model: Any = AMVLForConditionalGeneration.from_backbone(
            backbone, arm.num_latents, arm.latent_dim, seed=seed, initial_log_std=arm.initial_log_std
        )
    else:
        tokens = arm.num_latents if arm.objective == "pause" else 0
        model = PauseForConditionalGeneration.from_backbone(backbone, tokens, seed=seed)
    if arm.queries_from_prompt and isinstance(model, AMVLForConditionalGeneration):
        _start_queries_as_prompt(model, processor)
    if arm.recipe.freeze_vision:
        model.freeze_vision()
    return model


@torch.no_grad()
def _start_queries_as_prompt(model: AMVLForConditionalGeneration, processor: AMVLProcessor) -> None:
    """Let the queries begin at the embedding of the prompt's last token, at which the base has learnt to answer."""
    (row,) = query_rows(processor, ["?"], (28, 28))
    last = model.get_input_embeddings()(row[-1])
    for table in (model.prior_queries, model.posterior_queries):
        table.weight.copy_(last + 0.1 * table.weight)


def encode_scenes(
    model: Any, processor: AMVLProcessor, questions: list[VisualQuestion], per_scene: int
) -> dict[str, Tensor]:
    """A batch for ``model.forward`` of consecutive questions, ``per_scene`` of each scene.

    Returns:
        input_ids, attention_mask (R, N); answer_ids, answer_mask (R, M); image_features (image tokens, hidden) and
        image_grid_thw (R, 3), those of a scene repeated for its questions.
    """
    images = torch.from_numpy(np.stack([np.asarray(question.images[0]) for question in questions[::per_scene]]))
    features, grid = scene_features(model.backbone, processor, images)
    rows = query_rows(processor, [question.prompt for question in questions], tuple(images.shape[1:3]))
    ids, mask = pad_right(rows, processor.pad_token_id)
    encoded = {text: processor.encode_answer(text) for text in {question.answer_text for question in questions}}
    answers = torch.stack([encoded[question.answer_text] for question in questions])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_ids": answers,
        "answer_mask": torch.ones_like(answers),
        "image_features": features.repeat_interleave(per_scene, dim=0).flatten(0, 1),
        "image_grid_thw": grid.repeat_interleave(per_scene, dim=0),
    }


def warm_up(model: Any, processor: AMVLProcessor, arm: Arm, log: Path | None = None) -> dict[str, Any]:
    """Prior-sample training in place, until the hardest questions are answered or ``arm.warmup`` steps are over.

    Returns:
        warmup_steps (int), started (whether the accuracy was reached), and the curve.
    """
    curve: list[dict[str, Any]] = []
    loss = Loss(objective_named("prior"))
    hardest = f"hop_{max(arm.recipe.hops)}"
    rate = partial(arm.recipe.rate, decay=False)
    for row in _steps(model, processor, arm, loss, arm.warmup, log, rate=rate, stream=2 * arm.recipe.seed):
        curve.append(row | {"warming": True})
        if row[hardest] >= arm.warmup_accuracy:
            return {"warmup_steps": row["step"], "started": True, "warmup": curve}
    return {"warmup_steps": arm.warmup, "started": False, "warmup": curve}


def train_arm(model: Any, processor: AMVLProcessor, arm: Arm, log: Path | None = None) -> dict[str, Any]:
    """Train in place on the arm's objective; returns the curve, one row for every look at fresh questions."""
    loss = Loss(objective_named(arm.objective), Weights(arm.beta, arm.gamma))
    if "posterior" in loss.passes:
        model.start_posterior_as_prior()
    recipe = arm.recipe
    rows = _steps(model, processor, arm, loss, recipe.steps, log, rate=recipe.rate, stream=2 * recipe.seed + 1)
    return {"curve": list(rows)}


def _steps(
    model: Any,
    processor: AMVLProcessor,
    arm: Arm,
    loss: Loss,
    steps: int,
    log: Path | None,
    *,
    rate: Callable[[int], float],
    stream: int,
) -> Iterator[dict[str, Any]]:
    """Train; yields a row (also a JSON line of ``log``) every ``eval_every`` steps and at the end.

    ``stream`` names the questions and the latent noise: one for the warm-up of a seed, another for all of its arms.
    """
    recipe = arm.recipe
    each = recipe.scenes * recipe.questions_per_scene
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, recipe)
    questions = replace(recipe, seed=stream).questions("train", recipe.hops, steps * each)
    own = {"generator": torch.Generator().manual_seed(stream)} if loss.objective.latents else {}
    began, losses = time.process_time(), []
    for step in range(steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        batch = encode_scenes(model, processor, questions[step * each : (step + 1) * each], recipe.questions_per_scene)
        output = model(**batch, **own, loss=loss)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append({name: float(value.detach().mean()) for name, value in output.terms.named().items()})
        if (step + 1) % recipe.eval_every == 0 or step + 1 == steps:
            row = {"step": step + 1, "seconds": round(time.process_time() - began, 1), "objective": loss.objective.name}
            row |= {name: float(np.mean([terms[name] for terms in losses])) for name in losses[-1]}
            row |= measure_accuracy(model, processor, recipe)
            losses = []
            _append(log, row)
            yield row


def _optimizer(parameters: list[Any], recipe: MultihopRecipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def measure_accuracy(
    model: Any, processor: AMVLProcessor, recipe: MultihopRecipe, split: str = "val"
) -> dict[str, float]:
    """Shares of right answers by number of hops, 0 to 1.

    hop_h: with the prior mean (or without latents); posterior_h: with the posterior mean; exchanged_h: with the prior mean
    of the same place in another scene.
    """
    model.eval()
    latents = isinstance(model, AMVLForConditionalGeneration)
    letters = torch.stack([processor.encode_answer(option_letter(i))[0] for i in range(recipe.objects)])
    found: dict[str, float] = {}
    for hops in sorted(recipe.hops):
        questions = recipe.questions(split, hops, recipe.eval_size)
        hits: dict[str, int] = {}
        for start in range(0, recipe.eval_size, CHUNK):
            part = questions[start : start + CHUNK]
            right = torch.tensor([question.answer for question in part])
            batch = encode_scenes(model, processor, part, recipe.questions_per_scene)
            for name, options in _conditions(model, batch, recipe) if latents else [("hop", {})]:
                best = model(**batch, **options).logits[:, 0, letters].argmax(-1)
                hits[name] = hits.get(name, 0) + int((best == right).sum())
        found |= {f"{name}_{hops}": count / recipe.eval_size for name, count in hits.items()}
    return found


def _conditions(model: Any, batch: Mapping[str, Tensor], recipe: MultihopRecipe) -> list[tuple[str, dict[str, Any]]]:
    prior, _ = model.latent_distributions(batch)
    exchanged = prior.mean.roll(recipe.questions_per_scene, 0)
    latents = {"hop": prior.mean, "posterior": "posterior_mean", "exchanged": exchanged}
    return [(name, {"latents": z}) for name, z in latents.items()]


@torch.no_grad()
def measure_leak(
    model: AMVLForConditionalGeneration, processor: AMVLProcessor, recipe: MultihopRecipe, split: str = "val"
) -> dict[str, tuple[float, float]]:
    """Leaked information I(Z; A | x) in nats with uniform answers, by number of hops: mean and its standard error.

    At most log(options); ``recipe.eval_size`` questions of each number of hops, at most ``CHUNK``.
    """
    model.eval()
    options = [processor.encode_answer(option_letter(i)) for i in range(len(LETTERS[: recipe.objects]))]
    found, count = {}, min(CHUNK, recipe.eval_size)
    for hops in sorted(recipe.hops):
        batch = encode_scenes(model, processor, recipe.questions(split, hops, count)[:], recipe.questions_per_scene)
        state, _ = model.encode_query(batch)
        posteriors = []
        for answer in options:
            ids = answer.expand(count, -1)
            posteriors.append(model.posterior_from(state, ids, torch.ones_like(ids)))
        means, stds = (
            torch.stack([getattr(q, name).flatten(1) for q in posteriors], dim=1) for name in ("mean", "std")
        )
        nats, _ = leaked_information_batch(means.numpy(), stds.numpy(), n_samples=256)
        found[f"leaked_{hops}"] = (float(nats.mean()), float(nats.std(ddof=1) / np.sqrt(len(nats))))
    return found


def run_arm(
    model: Any, processor: AMVLProcessor, arm: Arm, out: Path, *, warmed: dict[str, Any], log: Path | None = None
) -> Path:
    """Train and measure an arm on the test split, and write its result file (study "laboratory").

    Args:
        model: of `build_arm`, changed in place; warmed up if the arm is to be.
        warmed: what `warm_up` returned, stored with the result; empty without one.

    Raises:
        FileExistsError: if the result is there.
    """
    path = result_path(out, "laboratory", arm.cell, arm.recipe.seed)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder, or remove it to run the arm again")
    began = time.time()
    trained = train_arm(model, processor, arm, log)
    metrics = {
        name: Metric(value, "fraction", n=arm.recipe.eval_size)
        for name, value in measure_accuracy(model, processor, arm.recipe, "test").items()
    }
    if isinstance(model, AMVLForConditionalGeneration):
        for name, (mean, error) in measure_leak(model, processor, arm.recipe, "test").items():
            metrics[name] = Metric(
                mean, "nats", mean - 1.96 * error, mean + 1.96 * error, min(CHUNK, arm.recipe.eval_size)
            )
    return write_result(
        path,
        study="laboratory",
        cell=arm.cell,
        seed=arm.recipe.seed,
        config=asdict(arm),
        metrics=metrics,
        wall_seconds=time.time() - began,
        device="cpu",
        extra=warmed | trained,
    )


def _append(path: Path | None, row: Mapping[str, Any]) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
    print(json.dumps(rounded), flush=True)
