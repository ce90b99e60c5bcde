"""Evaluate a checkpoint on BLINK, V*, HRBench or VisualPuzzles, from a local folder or from the hub.

amvl evaluate --model runs/x/checkpoint --benchmark vstar --path data/vstar --orders 4
amvl evaluate --model DIR --benchmark blink --split test --submission predictions.json
torchrun --nproc-per-node 8 -m amvl_model.cli evaluate --model DIR --benchmark blink     # shared by 8 GPUs, same result
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amvl_model.commands import stoppable
from amvl_model.config import command_line, usage_error, usage_errors

BATCH_SIZES = {"blink": 16, "vstar": 8, "hrbench4k": 4, "hrbench8k": 1, "visual-puzzles": 16}
"""Default of each benchmark: a decoded 8K image takes 100 MB."""


SPLITS = ("blink", "visual-puzzles")
"""Benchmarks that have several splits."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    model: str  # checkpoint folder, or tiny, tiny-forward-only, tiny-amvl
    benchmark: Literal[tuple(BATCH_SIZES)]  # type: ignore[valid-type]
    """The benchmark."""
    backbone: str | None = None  # base of a LoRA checkpoint, if it was moved since training
    path: str | None = None  # local folder of the benchmark; None: the Hugging Face cache or hub
    stream: bool = False  # read from the hub while it is used
    split: str | None = None  # blink: val or test; visual-puzzles: train or test
    prompt: Literal["official", "blink"] = "official"  # wording of the prompt; not for blink
    tasks: tuple[str, ...] = ()  # only these tasks or categories
    limit: int | None = None  # at most this many questions for each task
    scoring: tuple[Literal["generation", "likelihood"], ...] = ("generation", "likelihood")  # how answers are scored
    orders: int = 1  # orders of the options; 2 or more show position bias
    batch_size: int | None = (
        None  # questions in one forward pass (16 times as many images are in memory); None: by benchmark
    )
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights
    max_new_tokens: int = 16  # longest reply [tokens]
    seed: int = 0  # seed of the intervals
    device: str | None = None  # None: cuda if available
    out: Path | None = None  # result file (JSON) to write
    overwrite: bool = False  # replace the result file
    submission: Path | None = None  # blink with hidden answers: predictions file to write, no scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print and write; returns the exit status."""
    options = command_line(Options, arguments)
    with stoppable(), usage_errors():
        run(options)
    return 0


def run(options: Options) -> None:
    """Evaluate, print and write.

    Raises:
        ValueError, OSError: if checkpoint, data or settings are not usable.
    """
    import torch

    from amvl_model import distributed
    from amvl_model.data.readers.blink import BlinkQuestions
    from amvl_model.data.sources import load_benchmark
    from amvl_model.evaluation.benchmarks import run_benchmark, submit_blink
    from amvl_model.models.loading import load_checkpoint

    if options.split is not None and options.benchmark not in SPLITS:
        raise ValueError(
            f"--split: {options.benchmark} has one split; leave it out (splits exist for {', '.join(SPLITS)})"
        )
    for name, path in (("--out", options.out), ("--submission", options.submission)):
        if path is not None and path.is_dir():
            raise IsADirectoryError(f"{name}: expected the name of a file to write, got the folder {path}")
    if options.out is not None and options.out.exists() and not options.overwrite:
        raise FileExistsError(f"--out: {options.out} exists; add --overwrite to replace it, or choose another name")
    distributed.start()
    reader: dict[str, Any] = {"stream": options.stream}
    if options.split is not None:
        reader["split"] = options.split
    if options.benchmark != "blink":
        reader["prompt"] = options.prompt
    try:
        questions = load_benchmark(
            options.benchmark, options.path, tasks=options.tasks or None, limit=options.limit, **reader
        )
        if isinstance(questions, BlinkQuestions):
            questions.check()  # a wrong record must not end an evaluation half way through
        model, processor = load_checkpoint(
            options.model, dtype=getattr(torch, options.dtype), backbone_path=options.backbone
        )
    except (ValueError, TypeError, OSError) as error:
        usage_error(error)
    device = options.device or str(distributed.device())
    model = model.to(device)
    options = replace(options, batch_size=options.batch_size or BATCH_SIZES[options.benchmark])
    common: dict[str, Any] = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    if options.submission is not None:
        written = submit_blink(model, processor, questions, options.submission, **common)
        if distributed.is_main():
            print(written)
        distributed.stop()
        return
    result = run_benchmark(
        model,
        processor,
        options.benchmark,
        questions,
        orders=options.orders,
        seed=options.seed,
        scoring=options.scoring,
        **common,
    )
    if distributed.is_main():
        _report(result, options, device, _overlap(options.model, questions))
    distributed.stop()


def _overlap(model: str, questions: Any) -> str:
    """What is to be said about questions that the checkpoint was trained on; "" for nothing."""
    from amvl_model.diagnostics.report.suite import run_config
    from amvl_model.evaluation.overlap import training_overlap
    from amvl_model.models.loading import resolve

    run = run_config(Path(resolve(model)))
    return "" if run is None else training_overlap(questions, run.data).sentence()


def _report(result: Any, options: Options, device: str, overlap: str) -> None:
    """Print the scores and write the result file, if one was asked for."""
    import torch

    from amvl_model import distributed
    from amvl_model.evaluation.benchmarks import write_benchmark_result

    print(result.table())
    if overlap:
        print(overlap)
    if options.out is not None:
        name = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
        if distributed.world_size() > 1:
            name = f"{distributed.world_size()} processes, each {name}"
        settings = {key: None if value in (None, ()) else str(value) for key, value in asdict(options).items()}
        settings["training_overlap"] = overlap
        print(write_benchmark_result(options.out, result, settings, name, overwrite=options.overwrite))
