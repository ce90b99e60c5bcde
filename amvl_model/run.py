"""One training run and what is measured on its checkpoint: the functions that every experiment is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from amvl_model.attention import install_attention
from amvl_model.checkpoints import checkpoint_type, inspect_checkpoint
from amvl_model.config import RunConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.sources import training_questions
from amvl_model.diagnostics import contamination_report, intervention_report
from amvl_model.evaluation.runner import Evaluation, evaluate
from amvl_model.modeling import AMVLForConditionalGeneration
from amvl_model.processing import AMVLProcessor
from amvl_model.trainer import AMVLTrainer, JsonlLog, QuestionDataset, training_arguments

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {
    "tiny": ASSETS / "tiny-base",
    "tiny-forward-only": ASSETS / "tiny-forward-only",
    "tiny-amvl": ASSETS / "tiny-amvl",
}
CACHE_LIMIT = 1_000  # encoded questions that a training process keeps in memory (about 0.6 MB each in the tiny preset)


def resolve(name: str) -> str:
    """A shipped checkpoint's folder for its short name (tiny, tiny-forward-only, tiny-amvl); anything else unchanged."""
    return str(SHIPPED[name]) if name in SHIPPED else name


def load_base(config: RunConfig) -> tuple[PreTrainedModel, AMVLProcessor]:
    """Backbone and processor that a run starts from.

    Raises:
        FileNotFoundError, ValueError: if the checkpoint is missing or damaged.
    """
    settings, data = config.model, config.data
    if settings.base == "scratch":
        from amvl_model.pretraining import PretrainConfig, build_base

        return build_base(
            PretrainConfig(
                seed=config.train.seed,
                hidden_size=settings.scratch_hidden_size,
                num_layers=settings.scratch_layers,
                vision_size=settings.scratch_vision_size,
            )
        )
    path = resolve(settings.base)
    inspect_checkpoint(path, expected_type=None)
    dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    backbone = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    install_attention(backbone)
    processor = AMVLProcessor.from_pretrained(path, min_pixels=data.min_pixels, max_pixels=data.max_pixels)
    return backbone, processor


def load_checkpoint(path: str | Path, *, dtype: torch.dtype | str = torch.float32) -> tuple[Any, AMVLProcessor]:
    """An AMVL checkpoint (or a plain backbone) with its processor, ready to be evaluated."""
    folder = resolve(str(path))
    model: Any
    if checkpoint_type(folder) == "amvl":
        model = AMVLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    else:
        inspect_checkpoint(folder, expected_type=None)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        if not isinstance(model, AMVLForConditionalGeneration):
            install_attention(model)
    return model.eval(), AMVLProcessor.from_pretrained(folder)


def build_model(config: RunConfig) -> tuple[AMVLForConditionalGeneration, AMVLProcessor]:
    """The model that a run trains: base, fresh latent modules, what is frozen frozen."""
    backbone, processor = load_base(config)
    settings = config.model
    model = AMVLForConditionalGeneration.from_backbone(
        backbone, settings.num_latents, settings.latent_dim, seed=config.train.seed
    )
    if settings.lora_rank:
        model.add_lora(settings.lora_rank, settings.lora_alpha, settings.lora_dropout)
    if settings.freeze_vision:
        model.freeze_vision()
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model, processor


def train(
    config: RunConfig,
    folder: Path,
    *,
    questions: Sequence[VisualQuestion] | None = None,
    resume: bool = False,
    save: bool = True,
    quiet: bool = False,
) -> tuple[AMVLForConditionalGeneration, AMVLProcessor]:
    """Train one model and write config, metrics.jsonl and the checkpoint to ``folder``.

    Args:
        config: the run.
        folder: ``config.json`` and ``metrics.jsonl`` go here, the final checkpoint into ``checkpoint/``.
        questions: training questions instead of the configuration's.
        resume: go on from the newest intermediate checkpoint (needs train.save_every).
        save: write the final checkpoint.
        quiet: no progress bar and no log lines.

    Raises:
        FileExistsError: if the folder holds a finished run and ``resume`` is not set.
    """
    if (folder / "checkpoint").exists():
        raise FileExistsError(
            f"{folder} holds a finished run, which is not overwritten; choose another folder or remove that one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    torch.manual_seed(config.train.seed)
    model, processor = build_model(config)
    asked = training_questions(config.data) if questions is None else questions
    overrides: dict[str, Any] = {"disable_tqdm": quiet}
    trainer = AMVLTrainer(
        model=model,
        objective=config.objective,
        processor=processor,
        latent_learning_rate=config.train.latent_learning_rate,
        group_by_length=config.train.group_by_length,
        args=training_arguments(config, folder, **overrides),
        train_dataset=QuestionDataset(asked, processor, cache=len(asked) <= CACHE_LIMIT),
        callbacks=[JsonlLog(folder / "metrics.jsonl")],
    )
    if quiet:
        _silence(trainer)
    trainer.train(resume_from_checkpoint=resume or None)
    model.eval()
    if save:
        save_checkpoint(model, processor, folder / "checkpoint")
    return model, processor


def save_checkpoint(
    model: AMVLForConditionalGeneration, processor: AMVLProcessor, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write model and processor; with ``dtype`` the backbone's weights are stored in that precision."""
    state = None
    if dtype is not None:
        keep = model._keep_in_fp32_modules_strict or []
        state = {
            name: value if any(part in name for part in keep) or not value.is_floating_point() else value.to(dtype)
            for name, value in model.state_dict().items()
        }
    model.save_pretrained(folder, **({} if state is None else {"state_dict": state}))
    processor.save_pretrained(folder)


def _silence(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


@dataclass(frozen=True)
class Measurement:
    """What is measured on one checkpoint.

    Attributes:
        evaluation: accuracies and NLL on held-out questions (with the prior mean, where there are latents).
        contamination: leakage on held-out questions, None without latents.
        train_contamination: the same on training questions, None without latents.
        interventions: effect of the latents, None without latents.
        seconds: wall time.
    """

    evaluation: Evaluation
    contamination: Any | None
    train_contamination: Any | None
    interventions: Any | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        parts = ("contamination", "train_contamination", "interventions")
        result = {name: None if (value := getattr(self, name)) is None else value.to_dict() for name in parts}
        return {"evaluation": self.evaluation.to_dict(), **result, "seconds": round(self.seconds, 1)}


def measure(
    model: Any,
    processor: AMVLProcessor,
    config: RunConfig,
    held_out: Sequence[VisualQuestion],
    training: Sequence[VisualQuestion] | None = None,
    *,
    scoring: tuple[str, ...] = ("likelihood", "generation"),
    progress: bool = True,
) -> Measurement:
    """Evaluate a checkpoint, and diagnose it if it has latents.

    Args:
        model: an AMVL model or a plain backbone.
        processor: its processor.
        config: evaluation settings (and label noise) of the run.
        held_out: questions that were not trained on, with clean labels.
        training: questions that were, for memorised leakage; None is measured if they are open questions.
    """
    began = time.perf_counter()
    settings = config.eval
    common: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "n_bootstrap": settings.bootstrap,
        "progress": progress,
    }
    evaluation = evaluate(model, processor, held_out, scoring=scoring, max_new_tokens=settings.max_new_tokens, **common)
    if not isinstance(model, AMVLForConditionalGeneration):
        return Measurement(evaluation, None, None, None, time.perf_counter() - began)
    drawn: dict[str, Any] = {**common, "samples": settings.samples, "temperature": settings.temperature}
    few = _spread(held_out, settings.leakage_questions)
    contamination = contamination_report(model, processor, few, **drawn)
    memorised = None
    known = [] if training is None else [q for q in _spread(training, settings.leakage_questions) if len(q.choices) > 1]
    if known:  # open questions (the paper's training sets) have no options to tell apart
        memorised = contamination_report(model, processor, known, **drawn)
    interventions = intervention_report(model, processor, held_out, **drawn)
    return Measurement(evaluation, contamination, memorised, interventions, time.perf_counter() - began)


def _spread(questions: Sequence[VisualQuestion], count: int) -> list[VisualQuestion]:
    """The first ``count`` questions; sources cycle through their tasks, so these are spread over the tasks."""
    return [questions[i] for i in range(min(count, len(questions)))]
