"""Evaluate a checkpoint on BLINK, V*, HRBench or VisualPuzzles, from a local folder or from the hub.

python experiments/evaluate_benchmark.py --model runs/x/checkpoint --benchmark vstar --path data/vstar --orders 4
python experiments/evaluate_benchmark.py --model DIR --benchmark blink --split test --submission predictions.json
torchrun --nproc-per-node 8 experiments/evaluate_benchmark.py --model DIR --benchmark blink     # shared by 8 GPUs, same result
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BATCH_SIZES = {"blink": 16, "vstar": 8, "hrbench4k": 4, "hrbench8k": 1, "visual-puzzles": 16}
"""Default of each benchmark: a decoded 8K picture takes 100 MB."""


SPLITS = ("blink", "visual-puzzles")
"""Benchmarks that have several splits."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--model", required=True, help="checkpoint folder, or tiny, tiny-forward-only, tiny-amvl")
    page.add_argument("--benchmark", required=True, choices=tuple(BATCH_SIZES))
    page.add_argument("--backbone", metavar="DIR", help="base of a LoRA checkpoint, if it was moved since training")
    page.add_argument("--path", help="local folder of the benchmark; default: the Hugging Face cache or hub")
    page.add_argument("--stream", action="store_true", help="read from the hub while it is used")
    page.add_argument("--split", help="blink: val or test; visual-puzzles: train or test")
    page.add_argument("--prompt", choices=("official", "blink"), default="official", help="not for blink")
    page.add_argument("--tasks", nargs="+", help="only these tasks or categories")
    page.add_argument("--limit", type=int, help="at most so many questions a task")
    page.add_argument(
        "--scoring", nargs="+", choices=("generation", "likelihood"), default=["generation", "likelihood"]
    )
    page.add_argument("--orders", type=int, default=1, help="orders of the options; 2 or more show position bias")
    sizes = ", ".join(f"{name} {size}" for name, size in BATCH_SIZES.items())
    page.add_argument(
        "--batch-size",
        type=int,
        help=f"questions in one forward pass; 16 times as many pictures are in memory ({sizes})",
    )
    page.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    page.add_argument("--max-new-tokens", type=int, default=16, help="longest reply [tokens]")
    page.add_argument("--seed", type=int, default=0, help="of the intervals")
    page.add_argument("--device", help="default: cuda if there is one")
    page.add_argument("--out", type=Path, help="result file (JSON) to write")
    page.add_argument("--overwrite", action="store_true", help="replace the result file")
    page.add_argument("--submission", type=Path, help="blink with hidden answers: predictions file to write, no scores")
    return page


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, evaluate, print and write."""
    page = parser()
    options = page.parse_args(arguments)
    import torch

    from amvl_model import distributed
    from amvl_model.data.sources import load_benchmark
    from amvl_model.evaluation.benchmarks import run_benchmark, submit_blink
    from amvl_model.models.loading import load_checkpoint

    if options.split is not None and options.benchmark not in SPLITS:
        page.error(f"--split: {options.benchmark} has one split; leave it out (splits are for {', '.join(SPLITS)})")
    distributed.start()
    reader: dict[str, Any] = {"stream": options.stream}
    if options.split is not None:
        reader["split"] = options.split
    if options.benchmark != "blink":
        reader["prompt"] = options.prompt
    try:
        questions = load_benchmark(options.benchmark, options.path, tasks=options.tasks, limit=options.limit, **reader)
        model, processor = load_checkpoint(
            options.model, dtype=getattr(torch, options.dtype), backbone_path=options.backbone
        )
    except (ValueError, TypeError, OSError) as error:
        page.error(str(error))
    device = options.device or str(distributed.device())
    model = model.to(device)
    options.batch_size = options.batch_size or BATCH_SIZES[options.benchmark]
    common = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    try:
        if options.submission is not None:
            written = submit_blink(model, processor, questions, options.submission, **common)
            if distributed.is_main():
                print(written)
        else:
            result = run_benchmark(
                model,
                processor,
                options.benchmark,
                questions,
                orders=options.orders,
                seed=options.seed,
                scoring=tuple(options.scoring),
                **common,
            )
            if distributed.is_main():
                _report(result, options, device)
    except (ValueError, OSError) as error:
        page.error(str(error))
    distributed.stop()


def _report(result: Any, options: argparse.Namespace, device: str) -> None:
    """Print the scores and write the result file, if one was asked for."""
    import torch

    from amvl_model import distributed
    from amvl_model.evaluation.benchmarks import write_benchmark_result

    print(result.table())
    if options.out is not None:
        name = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
        if distributed.world_size() > 1:
            name = f"{distributed.world_size()} processes, each {name}"
        settings = {key: None if value is None else str(value) for key, value in vars(options).items()}
        print(write_benchmark_result(options.out, result, settings, name, overwrite=options.overwrite))


if __name__ == "__main__":
    main()
