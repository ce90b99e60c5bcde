"""CPU time of a training step beside TRL's SFTTrainer, on the same model and the same batch.

    python -m venv .venv-trl && .venv-trl/bin/pip install -c constraints-cpu.txt -e . trl     # an environment of its own
    .venv-trl/bin/python experiments/compare_trl.py                                           # N = 256 and 768, text alone

A step is what each trainer does with a batch: loss and gradients by its own ``training_step``, clipping, AdamW. The methods
(TRL's SFTTrainer, our trainer with sft, our trainer with amvl) take turns in changing order in one process and one thread; the
losses of the first two agree before the first step. Reported are medians, and medians over rounds of the ratios of steps that
stand beside each other, in CPU seconds of the process. Writes results/throughput_trl/<cell>/seed0.json.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from amvl_model.config import command_line
from amvl_model.profiling.throughput.grid import Cell, token_ratio

METHODS = ("trl", "sft", "amvl")
TRL_FACTOR, SFT_FACTOR, RATIO_MARGIN = 0.7, 1.08, 0.03
LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Options:
    """The command line."""

    size: str = "60m"  # model, as in experiments/throughput.py
    lengths: tuple[int, ...] = (256, 768)  # query tokens N
    answer: int = 16  # answer tokens
    batch: int = 2  # examples in a step
    rounds: int = 5  # measured rounds, after one unmeasured
    checkpointing: tuple[bool, ...] = (False, True)  # gradient checkpointing
    out: Path = ROOT / "results"  # folder of the results
    overwrite: bool = False  # measure finished cells again


def common_arguments(checkpointing: bool, folder: str) -> dict[str, Any]:
    """Arguments of both trainers."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-5,
        "max_steps": 1000,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": checkpointing,
    }


def trl_step(backbone: Any, batch: dict[str, Any], cell: Cell, folder: str) -> Callable[[], float]:
    """One step of SFTTrainer on [x | y], labels at y."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from amvl_model import AMVLProcessor
    from amvl_model.models.loading import resolve

    ids = torch.cat([batch["input_ids"], batch["answer_ids"]], dim=1)
    labels = ids.clone()
    labels[:, : cell.length] = -100
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.zeros_like(ids),
        "labels": labels,
    }
    args = SFTConfig(
        **common_arguments(cell.checkpointing, folder),
        bf16=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
    tokenizer = AMVLProcessor.from_pretrained(resolve("tiny")).tokenizer
    trainer = SFTTrainer(model=backbone, args=args, train_dataset=rows, processing_class=tokenizer)
    return stepper(trainer, inputs, (labels != -100).sum())


def our_step(model: Any, objective: str, batch: dict[str, Any], cell: Cell, folder: str) -> Callable[[], float]:
    """One step of AMVLTrainer."""
    import torch

    from amvl_model import AMVLProcessor, AMVLTrainer, AMVLTrainingArguments
    from amvl_model.models.loading import resolve
    from amvl_model.training.batches import INDEX, WEIGHT

    args = AMVLTrainingArguments(
        **common_arguments(cell.checkpointing, folder),
        objective=objective,
        beta=0.003,
        gamma=0.0003,
        freeze_vision=True,
    )
    processor = AMVLProcessor.from_pretrained(resolve("tiny"))
    trainer = AMVLTrainer(model=model, args=args, processing_class=processor)
    trainer.state.max_steps = args.max_steps
    inputs = {**batch, WEIGHT: torch.ones(cell.batch), INDEX: torch.arange(cell.batch)}
    return stepper(trainer, inputs, torch.tensor(float(cell.batch)))


def stepper(trainer: Any, inputs: dict[str, Any], items: Any) -> Callable[[], float]:
    """A function that takes one optimiser step and returns its loss."""
    model = trainer.model
    if trainer.args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    model.train()

    def step() -> float:
        loss = trainer.training_step(model, dict(inputs), items)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        return float(loss)

    return step


def measure(cell: Cell, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every method's steps, in the order of the rounds.

    Raises:
        RuntimeError: if TRL's first loss and that of sft differ.
    """
    import torch

    from amvl_model import AMVLForConditionalGeneration, PauseForConditionalGeneration
    from amvl_model.profiling.throughput.steps import build_batch, build_config, random_backbone

    torch.set_num_threads(1)
    backbone, batch = random_backbone(build_config(cell.shape), device="cpu", dtype="float32"), build_batch(cell)
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            "trl": trl_step(copy.deepcopy(backbone), batch, cell, folder),
            "sft": our_step(
                PauseForConditionalGeneration.from_backbone(copy.deepcopy(backbone)), "sft", batch, cell, folder
            ),
            "amvl": our_step(
                AMVLForConditionalGeneration.from_backbone(backbone, cell.latents, 256), "amvl", batch, cell, folder
            ),
        }
        first = {name: step() for name, step in steps.items()}
        if abs(first["trl"] - first["sft"] / cell.answer) > LOSS_TOLERANCE * first["trl"]:
            raise RuntimeError(f"expected one loss a token of both trainers, got {first} for {cell.answer} tokens")
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        for number in range(rounds):
            shift = number % len(METHODS)
            for name in METHODS[shift:] + METHODS[:shift]:
                began = time.process_time()
                steps[name]()
                seconds[name].append(time.process_time() - began)
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds: our SFT over TRL's, AMVL over our SFT."""
    pairs = {"sft_over_trl": ("sft", "trl"), "amvl_over_sft": ("amvl", "sft")}
    return {
        name: statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))
        for name, (over, under) in pairs.items()
    }


def verdicts(cell: Cell, measured: dict[str, float]) -> dict[str, bool]:
    """What the repository aims at, and whether this cell meets it."""
    limit = SFT_FACTOR
    if cell.checkpointing:
        limit = token_ratio(cell.length, cell.answer, cell.latents) + RATIO_MARGIN
    return {
        f"sft/trl at most {TRL_FACTOR}": measured["sft_over_trl"] <= TRL_FACTOR,
        f"amvl/sft at most {limit:.3f}": measured["amvl_over_sft"] <= limit,
    }


def main(options: Options) -> None:
    from amvl_model.results.files import Metric, result_path, write_result

    for length in options.lengths:
        for checkpointing in options.checkpointing:
            cell = Cell(kind="train", size=options.size, length=length, answer=options.answer, latents=8)
            cell = replace(cell, batch=options.batch, checkpointing=checkpointing, methods=METHODS, threads=1)
            name = f"{cell.size}-cpu-b{cell.batch}-n{length}-y{cell.answer}" + (
                "-checkpointing" if checkpointing else ""
            )
            target = result_path(options.out, "throughput_trl", name, 0)
            if target.exists() and not options.overwrite:
                print(f"{name}: measured already")
                continue
            began = time.monotonic()
            seconds = measure(cell, options.rounds)
            measured = ratios(seconds)
            outcome = verdicts(cell, measured)
            metrics = {f"step_cpu_seconds.{key}": Metric(statistics.median(v), "s") for key, v in seconds.items()}
            metrics |= {key: Metric(value, "1") for key, value in measured.items()}
            write_result(
                target,
                study="throughput_trl",
                cell=name,
                seed=0,
                config=asdict(cell),
                metrics=metrics,
                wall_seconds=time.monotonic() - began,
                device="cpu",
                extra={"seconds": seconds, "met": outcome, "trl": version_of("trl")},
                overwrite=options.overwrite,
            )
            medians = ", ".join(f"{key} {statistics.median(v):.2f} s" for key, v in seconds.items())
            print(f"{name}: {medians}; " + "; ".join(f"{key}: {value:.3f}" for key, value in measured.items()), outcome)


def version_of(package: str) -> str:
    """Installed version."""
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main(command_line(Options))
