"""One training run and what is measured on its checkpoint: the functions that every experiment is made of."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amvl_model import distributed
from amvl_model.config import RunConfig
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.models.loading import TrainedModel, build_model, load_checkpoint, save_checkpoint
from amvl_model.training.batches import QuestionDataset
from amvl_model.training.sharding import newest_checkpoint, whole_state
from amvl_model.training.trainer import AMVLTrainer, JsonlLog, training_arguments

MONITORED = 128
"""Held-out questions behind the loss that is logged every train.eval_every steps."""
CACHE_LIMIT = 1_000  # encoded questions that a training process keeps in memory (about 0.6 MB each in the tiny preset)


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


def _silence(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
