"""One training run and what is measured on its checkpoint: the functions that every experiment is made of."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from amvl_model import distributed
from amvl_model.attention import install_attention
from amvl_model.checkpoints import PAUSE_TYPE, checkpoint_type, inspect_checkpoint
from amvl_model.config import BASELINES, RunConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.diagnostics import contamination_report, intervention_report
from amvl_model.diagnostics.pauses import pause_report
from amvl_model.evaluation.runner import Evaluation, evaluate
from amvl_model.modeling import AMVLForConditionalGeneration
from amvl_model.pause import PauseForConditionalGeneration
from amvl_model.processing import AMVLProcessor
from amvl_model.sharding import newest_checkpoint, whole_state
from amvl_model.trainer import AMVLTrainer, JsonlLog, QuestionDataset, training_arguments

TrainedModel = AMVLForConditionalGeneration | PauseForConditionalGeneration
ASSETS = Path(__file__).parent / "assets"
SHIPPED = {
    "tiny": ASSETS / "tiny-base",
    "tiny-forward-only": ASSETS / "tiny-forward-only",
    "tiny-amvl": ASSETS / "tiny-amvl",
}
MONITORED = 128
"""Held-out questions behind the loss that is logged every train.eval_every steps."""
CACHE_LIMIT = 1_000  # encoded questions that a training process keeps in memory (about 0.6 MB each in the tiny preset)


def resolve(name: str) -> str:
    """A shipped checkpoint's folder for its short name (tiny, tiny-forward-only, tiny-amvl); anything else unchanged."""
    return str(SHIPPED[name]) if name in SHIPPED else name


def load_base(config: RunConfig) -> tuple[PreTrainedModel, AMVLProcessor]:
    """Backbone and processor that a run starts from.

    Raises:
        FileNotFoundError, ValueError: if the checkpoint is missing or damaged.
        ConnectionError: if it is on a hub that cannot be reached; the message says what to download.
    """
    settings = config.model
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
    with _explained(path):
        backbone = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    install_attention(backbone)
    return backbone, load_base_processor(config)


def load_base_processor(config: RunConfig) -> AMVLProcessor:
    """The processor alone of the base that a run starts from, without its weights.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: as `load_base`.
    """
    if config.model.base == "scratch":
        return load_base(config)[1]
    path, data = resolve(config.model.base), config.data
    inspect_checkpoint(path, expected_type=None)
    with _explained(path):
        return AMVLProcessor.from_pretrained(path, min_pixels=data.min_pixels, max_pixels=data.max_pixels)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """transformers' error for a hub that does not answer, with what to download and where to put it."""
    try:
        yield
    except OSError as error:
        if Path(path).is_dir():
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        name = path.rpartition("/")[2]
        raise ConnectionError(
            f"the base {path!r} is no local folder, and the Hugging Face hub did not give it ({reason}); on a machine with a "
            f"network run `hf download {path} --local-dir {name}`, copy the folder here and set model.base to its path"
        ) from error


def load_checkpoint(path: str | Path, *, dtype: torch.dtype | str = torch.float32) -> tuple[Any, AMVLProcessor]:
    """An AMVL checkpoint, one of a baseline, or a plain backbone, with its processor, ready to be evaluated."""
    folder = resolve(str(path))
    model: Any
    kind = checkpoint_type(folder)
    if kind == "amvl":
        model = AMVLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    elif kind == PAUSE_TYPE:
        model = PauseForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    else:
        inspect_checkpoint(folder, expected_type=None)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        if not isinstance(model, AMVLForConditionalGeneration):
            install_attention(model)
    return model.eval(), AMVLProcessor.from_pretrained(folder)


def build_model(config: RunConfig) -> tuple[TrainedModel, AMVLProcessor]:
    """The model that a run trains: base, fresh latent modules (or the baseline's), what is frozen frozen."""
    backbone, processor = load_base(config)
    settings, seed = config.model, config.train.seed
    model: TrainedModel
    if config.objective.name in BASELINES:
        pauses = settings.num_latents if config.objective.name == "pause" else 0
        model = PauseForConditionalGeneration.from_backbone(backbone, pauses, seed=seed)
    else:
        model = AMVLForConditionalGeneration.from_backbone(
            backbone, settings.num_latents, settings.latent_dim, seed=seed
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
) -> tuple[TrainedModel, AMVLProcessor]:
    """Train one model and write config, metrics.jsonl and the checkpoint to ``folder``.

    Under torchrun or accelerate launch every process calls this and gets the whole trained model, on its own device.

    Args:
        config: the run.
        folder: ``config.json`` and ``metrics.jsonl`` go here, the final checkpoint into ``checkpoint/``.
        questions: training questions instead of the configuration's.
        resume: go on from the newest complete intermediate checkpoint (needs train.save_every).
        save: write the final checkpoint; several processes have to.
        quiet: no progress bar and no log lines.

    Raises:
        FileExistsError: if the folder holds a finished run.
        FileNotFoundError: if there is nothing to resume from.
        ValueError: if several processes were told not to save.
    """
    distributed.start()
    if distributed.world_size() > 1 and not save:
        raise ValueError(
            "several processes hold shards of the model, which only the checkpoint unites; leave save=True"
        )
    if (folder / "checkpoint").exists():
        raise FileExistsError(
            f"{folder} holds a finished run, which is not overwritten; choose another folder or remove that one"
        )
    distributed.barrier()  # all have looked before anything is written
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    distributed.barrier()
    checkpoint = newest_checkpoint(folder) if resume else None
    if resume and checkpoint is None:
        raise FileNotFoundError(
            f"{folder} holds no complete intermediate checkpoint to resume from; set train.save_every so that there are "
            "some, or start again without resume"
        )
    if checkpoint is not None and distributed.is_main():
        _forget_after(folder / "metrics.jsonl", int(checkpoint.name.removeprefix("checkpoint-")))
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
        eval_dataset=_monitored(config, processor),
        callbacks=[JsonlLog(folder / "metrics.jsonl")],
    )
    if quiet:
        _silence(trainer)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if distributed.world_size() == 1 and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        model.eval()
        if save:
            _save_whole(model, processor, folder)
        return model, processor
    state = whole_state(trainer)
    if distributed.is_main():
        _save_whole(model, processor, folder, state=state)
    del model, trainer, state
    gc.collect()
    torch.cuda.empty_cache()
    distributed.barrier()
    model, processor = load_checkpoint(folder / "checkpoint")
    return model.to(distributed.device()), processor


def _save_whole(model: Any, processor: AMVLProcessor, folder: Path, **options: Any) -> None:
    """``checkpoint/`` appears when it is whole: a process that dies while it writes leaves no finished run behind."""
    unfinished = folder / "checkpoint.part"
    save_checkpoint(model, processor, unfinished, **options)
    unfinished.replace(folder / "checkpoint")


def _forget_after(log: Path, step: int) -> None:
    """Drop the log lines of steps that a resumed run takes again."""
    if log.is_file():
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(f"{line}\n" for line in kept))


def _monitored(config: RunConfig, processor: AMVLProcessor) -> QuestionDataset | None:
    """Held-out questions, evenly spaced over the set, whose loss is logged during training (synthetic ones from the split
    "val"); None without train.eval_every."""
    if not config.train.eval_every:
        return None
    held_out = evaluation_questions(config.data, split="val")
    count = min(MONITORED, len(held_out))
    return QuestionDataset([held_out[i * len(held_out) // count] for i in range(count)], processor)


def save_checkpoint(
    model: TrainedModel,
    processor: AMVLProcessor,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write model and processor; with ``dtype`` the backbone's weights are stored in that precision.

    Args:
        state: the whole weights, where the model itself holds shards.
    """
    if dtype is not None:
        keep = model._keep_in_fp32_modules_strict or []
        state = {
            name: value if any(part in name for part in keep) or not value.is_floating_point() else value.to(dtype)
            for name, value in model.state_dict().items()
        }
    if state is None:
        model.save_pretrained(folder)
    else:
        # a sharded model would gather its own weights while it saves, and wait for the other processes
        with torch.device("meta"):
            carrier = type(model)(model.config)  # type: ignore[arg-type]
        carrier.save_pretrained(folder, state_dict=state)
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
        interventions: effect of the latents (or of the pause tokens, a `PauseReport`), None without either.
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
        pauses = None
        if isinstance(model, PauseForConditionalGeneration) and model.config.num_pauses:
            pauses = pause_report(model, processor, held_out, **common)
        return Measurement(evaluation, None, None, pauses, time.perf_counter() - began)
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
