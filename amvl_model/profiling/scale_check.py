"""The real path at a real size without real weights: a random base on disk, a training step, a resume, an evaluation batch.

What a published 7B checkpoint would go through is gone through with random weights of the same shapes: loading from a folder of
safetensors, the Trainer with its optimiser and intermediate checkpoints, a resume from the first of them, the final checkpoint,
loading it again, scoring and generating. Figures about memory and time are real, figures about answers mean nothing.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amvl_model.config import RunConfig, load_preset
from amvl_model.data.processing import AMVLProcessor
from amvl_model.profiling.footprint import Architecture
from amvl_model.results.files import Metric

GB = 1e9


@dataclass(frozen=True)
class ScaleCheck:
    """What came of it.

    Attributes:
        config: of the training run.
        metrics: by name, with units.
        losses: (2,) of the two optimiser steps, nats; of the uninterrupted run.
        resumed: the second one again, from the checkpoint behind the first.
    """

    config: RunConfig
    metrics: dict[str, Metric]
    losses: tuple[float, float]
    resumed: float


def write_random_base(folder: Path, shape: Architecture, *, device: str, dtype: str = "bfloat16") -> int:
    """A Qwen2.5-VL with random weights as a checkpoint folder, with the tiny base's tokenizer; returns its parameters.

    Raises:
        FileExistsError: if the folder is there.
    """
    from amvl_model.models.loading import SHIPPED
    from amvl_model.profiling.throughput.steps import build_config, random_backbone

    if folder.exists():
        raise FileExistsError(f"{folder} exists, and nothing is overwritten; remove it or choose another --work")
    processor = AMVLProcessor.from_pretrained(SHIPPED["tiny"])
    config, tokens = build_config(shape), processor.tokenizer.convert_tokens_to_ids
    config.image_token_id, config.video_token_id = tokens("<|image_pad|>"), tokens("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = tokens("<|vision_start|>"), tokens("<|vision_end|>")
    config.text_config.eos_token_id, config.text_config.pad_token_id = tokens("<|im_end|>"), tokens("<|endoftext|>")
    model = random_backbone(config, device=device, dtype=dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    del model
    _free()
    return count


def check_config(
    base: Path, *, lora_rank: int, questions: int, min_pixels: int | None, max_pixels: int | None
) -> RunConfig:
    """The 7B preset on drawn questions: two optimiser steps of ``questions`` questions, a checkpoint after each.

    Images are enlarged to at least ``min_pixels``; None: as the base.
    """
    return load_preset(
        "qwen2.5-vl-7b",
        {
            "model.base": str(base),
            "model.dtype": "auto",
            "model.lora_rank": lora_rank,
            "data.source": "synthetic-blink",
            "data.eval_source": None,
            "data.tasks": ("Counting", "Jigsaw"),
            "data.train_size": 4 * questions,
            "data.eval_size": 2,
            "data.min_pixels": min_pixels,
            "data.max_pixels": max_pixels,
            "train.steps": 2,
            "train.warmup": 0.0,
            "train.batch_size": 1,
            "train.grad_accumulation": questions,
            "train.workers": 0,
            "train.log_every": 1,
            "train.eval_every": 0,
            "train.save_every": 1,
            "train.report_to": (),
        },
    )


def check(config: RunConfig, folder: Path) -> ScaleCheck:
    """Train two steps, resume from the first, save, load and evaluate; every part in ``folder``.

    Raises:
        FileExistsError: if the folder holds a run.
        RuntimeError: if the resumed step is not the uninterrupted run's.
    """
    from amvl_model.data.sources import evaluation_questions
    from amvl_model.evaluation.evaluate import evaluate
    from amvl_model.models.loading import load_checkpoint
    from amvl_model.training.run import train

    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}

    def measured(name: str, work: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - began
        if torch.cuda.is_available():
            peaks[name] = torch.cuda.max_memory_allocated() / GB
        return result

    first, second = folder / "checkpoint-1", folder / "checkpoint-2"
    measured("train", lambda: train(config, folder, save=False, quiet=True))
    _free()
    losses = _losses(folder)
    stored = sum(path.stat().st_size for path in first.rglob("*")) / GB
    shutil.rmtree(second)
    measured("resume", lambda: train(config, folder, resume=True, quiet=True))
    _free()
    resumed = _losses(folder)[-1]
    if abs(resumed - losses[1]) > 1e-3 * abs(losses[1]):
        raise RuntimeError(
            f"step 2 has loss {losses[1]} in one go and {resumed} resumed; this is a defect, please report it"
        )
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model, processor = measured("load", lambda: load_checkpoint(folder / "checkpoint", dtype=dtype))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    held_out = evaluation_questions(config.data)
    outcome = measured(
        "evaluate",
        lambda: evaluate(model, processor, held_out, batch_size=4, max_new_tokens=4, n_bootstrap=10, progress=False),
    )
    metrics = {f"{name}.seconds": Metric(value, "s") for name, value in seconds.items()}
    metrics |= {f"{name}.peak_gpu_memory": Metric(value, "GB") for name, value in peaks.items()}
    metrics |= {
        "step1.loss": Metric(losses[0], "nats"),
        "step2.loss": Metric(losses[1], "nats"),
        "step2.resumed_loss": Metric(resumed, "nats"),
        "intermediate_checkpoint": Metric(stored, "GB"),
        "evaluated_questions": Metric(len(outcome.records), "questions"),
    }
    return ScaleCheck(config, metrics, (losses[0], losses[1]), resumed)


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
