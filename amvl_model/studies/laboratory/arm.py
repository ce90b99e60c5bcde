"""One arm of the laboratory: a base, an objective with its weights, the questions and the optimiser.

Eight questions share a scene: the vision tower runs once a scene, and its features serve all eight. Ours, not the paper's: the
warm-up, the posterior that starts as the prior, queries that begin at the prompt's last token, the bias towards the answer.

Shapes: S scenes, Q questions a scene, R = S Q rows, N query tokens, M answer tokens, k latents of d dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.config import ObjectiveConfig
from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import VisualQuestion
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.backbone import load_backbone
from amvl_model.models.loading import resolve
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.objectives import Loss, objective_named
from amvl_model.training.pretraining.multihop_base import MultihopRecipe, deepened, query_rows, scene_features
from amvl_model.two_pass.attention import install_attention


@dataclass(kw_only=True)
class Arm:
    """One arm.

    Attributes:
        base: folder of a checkpoint of experiments/train_multihop.py, or the name of a shipped one.
        extra_layers: text layers added to the base, which start as identities.
        objective: a name of `amvl_model.objectives.OBJECTIVES`.
        beta, gamma, alpha: weights, as in `ObjectiveConfig`.
        schedule: order, beta_warmup, gamma_delay and gamma_warmup of `ObjectiveConfig`, as shares of the arm's own steps; those
            that are left out are 0: constant weights.
        recipe: questions, steps (those of the warm-up not counted) and optimiser, as for the base without latents.
        num_latents, latent_dim: k (pause: its tokens) and d.
        latent_order: "parallel" or "sequential" (`AMVLConfig`).
        initial_log_std: of fresh priors and posteriors.
        answer_bias: initial bias of the posterior's attention to the answer; None: none (see `AMVLConfig`).
        temperature: scales the prior's standard deviation in accuracy_sampled_h.
        queries_from_prompt: latent queries begin at the embedding of the prompt's last token, at which the base answers.
        warmup: most steps of the warm-up; 0 for none.
        warmup_accuracy: share of right answers at the hardest hop that ends it, on fresh questions; looked at every
            ``recipe.eval_every`` steps.
    """

    base: str = "multihop"
    extra_layers: int = 0
    objective: str = "amvl"
    beta: float = 1.0
    gamma: float = 1.0
    alpha: float = 1.0
    schedule: Mapping[str, Any] = field(default_factory=dict)
    recipe: MultihopRecipe = field(
        default_factory=lambda: MultihopRecipe(
            hops={1: 1.0, 2: 1.0, 3: 2.0}, steps=400, freeze_vision=True, eval_every=100
        )
    )
    num_latents: int = 2
    latent_dim: int = 16
    latent_order: str = "parallel"
    initial_log_std: float = -2.0
    answer_bias: float | None = None
    temperature: float = 1.0
    queries_from_prompt: bool = True
    warmup: int = 1_600
    warmup_accuracy: float = 0.8

    def loss(self, progress: float) -> Loss:
        """The loss at this share of the arm's own steps."""
        constant: dict[str, Any] = {"beta_warmup": 0.0, "gamma_delay": 0.0, "gamma_warmup": 0.0}
        weights: dict[str, Any] = {"beta": self.beta, "gamma": self.gamma, "alpha": self.alpha}
        return ObjectiveConfig(name=self.objective, **weights, **{**constant, **self.schedule}).loss(progress)

    @property
    def has_latents(self) -> bool:
        """Whether the objective has latents, a warm-up therefore, and measures of them."""
        return objective_named(self.objective).latents


def load_base(arm: Arm) -> tuple[Any, AMVLProcessor]:
    """The arm's base in float32, and its processor.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is damaged, or weights are missing or superfluous.
    """
    folder = resolve(arm.base)
    base, _ = load_backbone(folder, dtype=torch.float32)
    install_attention(base)
    return deepened(base, arm.extra_layers) if arm.extra_layers else base, AMVLProcessor.from_pretrained(folder)


def build_arm(backbone: Any, processor: AMVLProcessor, arm: Arm) -> Any:
    """The product's model around a base, its vision tower frozen or not as the recipe says."""
    seed = arm.recipe.seed
    if arm.has_latents:
        model: Any = AMVLForConditionalGeneration.from_backbone(
            backbone,
            arm.num_latents,
            arm.latent_dim,
            latent_order=arm.latent_order,
            seed=seed,
            initial_log_std=arm.initial_log_std,
            answer_bias=arm.answer_bias,
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
    return with_features(model, processor, scene_rows(processor, questions, per_scene))


def scene_rows(processor: AMVLProcessor, questions: list[VisualQuestion], per_scene: int) -> dict[str, Tensor]:
    """What `encode_scenes` returns, with the ``images`` (S, H, W, 3) [bytes] in place of their features."""
    images = torch.from_numpy(np.stack([np.asarray(question.images[0]) for question in questions[::per_scene]]))
    rows = query_rows(processor, [question.prompt for question in questions], tuple(images.shape[1:3]))
    ids, mask = pad_right(rows, processor.pad_token_id)
    encoded = {text: processor.encode_answer(text) for text in {question.answer_text for question in questions}}
    answers = torch.stack([encoded[question.answer_text] for question in questions])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_ids": answers,
        "answer_mask": torch.ones_like(answers),
        "images": images,
    }


def with_features(model: Any, processor: AMVLProcessor, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch of `scene_rows` with the features of its images, as ``model.forward`` takes it."""
    features, grid = scene_features(model.backbone, processor, rows["images"])
    per_scene = len(rows["input_ids"]) // len(features)
    return {
        **{name: value for name, value in rows.items() if name != "images"},
        "image_features": features.repeat_interleave(per_scene, dim=0).flatten(0, 1),
        "image_grid_thw": grid.repeat_interleave(per_scene, dim=0),
    }
