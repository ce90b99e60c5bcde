"""One training run and what is measured on its checkpoint: the functions that every experiment is made of."""

from __future__ import annotations

import gc
import json
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from amvl_model import distributed
from amvl_model.config import RunConfig, RunStopped, signals
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import ChosenQuestions, VisualQuestion
from amvl_model.data.sources import DRAWN_SOURCES, evaluation_questions, training_questions
from amvl_model.models.loading import TrainedModel, build_model, load_checkpoint, save_checkpoint
from amvl_model.training.arguments import training_arguments
from amvl_model.training.batches import QuestionDataset
from amvl_model.training.monitoring.probe import leak_probe
from amvl_model.training.run_folder import (
    StopAfterStep,
    forget_after,
    locked,
    newest_checkpoint,
    refuse_other_settings,
    tell,
    write_text,
)
from amvl_model.training.sharding import whole_state
from amvl_model.training.trainer import AMVLTrainer, JsonlLog

MONITORED = 128
"""Held-out questions behind the loss that is logged every train.eval_every steps."""
CACHE_LIMIT = 1_000  # encoded questions that a training process keeps in memory (about 0.6 MB each in the tiny preset)


def train(
    config: RunConfig,
    folder: Path,
    *,
    questions: Sequence[VisualQuestion] | None = None,
    resume: bool | None = False,
    save: bool = True,
    quiet: bool = False,
) -> tuple[TrainedModel, AMVLProcessor]:
    """Train one model and write config, metrics.jsonl and the checkpoint to ``folder``.

    Under torchrun or accelerate launch every process calls this and gets the whole trained model, on its own device.

    Args:
        config: the run.
        folder: ``config.json`` and ``metrics.jsonl`` go here, the final checkpoint into ``checkpoint/``.
        questions: training questions instead of the configuration's.
        resume: go on from the newest complete intermediate checkpoint (needs train.save_every); None: if there is one.
        save: write the final checkpoint; several processes have to.
        quiet: no progress bar and no log lines.

    Raises:
        FileExistsError: if the folder holds a finished run, one that is to be resumed, or one that another process writes.
        FileNotFoundError: if there is nothing to resume from.
        ValueError: if several processes run with save=False, or the run to be resumed has other settings.
        RunStopped: a SystemExit, after SIGTERM (status 143) or Ctrl-C (130): the step is finished and saved before.
        NonFiniteError: at the first loss, gradient or weight that is NaN or infinite (guard.py).
    """
    distributed.start()
    if distributed.world_size() > 1 and not save:
        raise ValueError(
            "several processes hold shards of the model, which only the checkpoint unites; leave save=True"
        )
    with ExitStack() as stack:
        prepared = distributed.gather_or_raise(
            lambda: _prepare(stack, config, folder, resume) if distributed.is_main() else None
        )
        stop = StopAfterStep()
        stack.enter_context(signals(stop))
        trained = _train(config, folder, prepared[0], stop, questions, save=save, quiet=quiet)
        if distributed.any_of(bool(stop.received)):
            raise RunStopped(stop.received or signal.SIGTERM)
    return trained


def _prepare(stack: ExitStack, config: RunConfig, folder: Path, resume: bool | None) -> Path | None:
    """Lock the folder, write the settings and return the checkpoint to go on from; on the main process alone."""
    nothing = (
        f"{folder} holds no complete intermediate checkpoint to resume from; set train.save_every so that there are "
        "some, or start again without resume"
    )
    if resume and not folder.is_dir():
        raise FileNotFoundError(nothing)
    stack.enter_context(locked(folder))
    if (folder / "checkpoint").exists():
        raise FileExistsError(
            f"{folder} contains a finished run, which is not overwritten; choose another folder or remove that one"
        )
    checkpoint = newest_checkpoint(folder)
    if resume and checkpoint is None:
        raise FileNotFoundError(nothing)
    if checkpoint is not None:
        if resume is False:
            raise FileExistsError(
                f"{folder} contains an unfinished run, which is not overwritten; resume it or choose another folder"
            )
        refuse_other_settings(folder, config)
        tell(f"resuming from {checkpoint}")
    step = -1 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))
    forget_after(folder / "metrics.jsonl", step)
    write_text(folder / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    return checkpoint


def _train(
    config: RunConfig,
    folder: Path,
    checkpoint: Path | None,
    stop: StopAfterStep,
    questions: Sequence[VisualQuestion] | None,
    *,
    save: bool,
    quiet: bool,
) -> tuple[TrainedModel, AMVLProcessor]:
    """Train in a folder that `_prepare` has made ready.

    Raises:
        RunStopped: if a signal came before the last step.
    """
    torch.manual_seed(config.train.seed)
    model, processor = build_model(config)
    training = training_questions(config.data) if questions is None else questions
    overrides: dict[str, Any] = {"disable_tqdm": quiet}
    probe = leak_probe(config, folder, model, processor, training) if config.train.probe_every != 0 else None
    trainer = AMVLTrainer(
        model=model,
        probe=probe,
        args=training_arguments(config, folder, **overrides),
        processing_class=processor,
        train_dataset=QuestionDataset(training, processor, cache=len(training) <= CACHE_LIMIT),
        eval_dataset=_monitored(config, processor),
        callbacks=[JsonlLog(folder / "metrics.jsonl"), stop],
    )
    if quiet:
        _silence(trainer)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.check_weights()
    if stop.received and (step := trainer.state.global_step) < config.train.steps:
        if distributed.is_main():
            tell(f"stopped after step {step} of {config.train.steps}, saved in {folder / f'checkpoint-{step}'}")
        raise RunStopped(stop.received)
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
    shutil.rmtree(unfinished, ignore_errors=True)
    save_checkpoint(model, processor, unfinished, **options)
    unfinished.replace(folder / "checkpoint")


def _monitored(config: RunConfig, processor: AMVLProcessor) -> QuestionDataset | None:
    """Held-out questions, evenly spaced over the set, whose loss is logged during training (synthetic ones from the split
    "val"); None without train.eval_every. Those of files are read when they are needed, and skipped as in training."""
    if not config.train.eval_every:
        return None
    held_out = evaluation_questions(config.data, split="val")
    count = min(MONITORED, len(held_out))
    chosen = ChosenQuestions(held_out, [i * len(held_out) // count for i in range(count)])
    drawn = set(config.data.eval_sources) <= set(DRAWN_SOURCES)
    return QuestionDataset(chosen if drawn else MixedQuestions({"the evaluation set": chosen}), processor)


def _silence(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
