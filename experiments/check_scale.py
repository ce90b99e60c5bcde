"""Take the 7B configuration with random weights through two training steps, a resume, a checkpoint and an evaluation batch.

    python experiments/check_scale.py --size 7b                     # one GPU of 80 GB; LoRA, since optimiser states must fit too
    python experiments/check_scale.py --size 7b --lora-rank 0       # all of it in bfloat16: about 65 GB, 50 GB of disk
    python experiments/check_scale.py --size tiny --questions 2     # the same code on a laptop core, in half a minute

Nothing is downloaded. Writes results/scale/<size>,lora=<rank>/seed0.json: seconds and peak memory of every part. The answers mean
nothing; a step's speed is measured by throughput.py.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.config import command_line
from amvl_model.profiling.throughput.grid import SIZES


@dataclass(frozen=True)
class Options:
    """The command line."""

    size: Literal[tuple(SIZES)] = "7b"  # shapes of the backbone
    lora_rank: int = 16  # 0 trains the whole language model
    questions: int = 4  # questions in an optimiser step
    pixels: int = 200_704  # pixels of an image; 200704 are 256 tokens
    work: Path | None = None  # folder for base and checkpoints; None: a temporary one
    out: Path = ROOT / "results"  # folder of the results


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = command_line(Options, arguments)
    import torch

    from amvl_model.profiling import scale_check
    from amvl_model.results.files import Metric, result_path, write_result

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cell = f"{options.size},lora={options.lora_rank}"
    target = result_path(options.out, "scale", cell, 0)
    if target.exists():
        print(f"{target} is there already; remove it to measure again")
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            work, began = options.work or Path(temporary), time.perf_counter()
            shape = SIZES[options.size]
            count = scale_check.write_random_base(work / "base", shape, device=device)
            print(f"base: {count:,} random parameters, {time.perf_counter() - began:.0f} s", flush=True)
            config = scale_check.check_config(
                work / "base",
                lora_rank=options.lora_rank,
                questions=options.questions,
                min_pixels=options.pixels,
                max_pixels=options.pixels,
            )
            result = scale_check.check(config, work / "run")
            metrics = {"parameters": Metric(count, "parameters"), **result.metrics}
            write_result(
                target,
                study="scale",
                cell=cell,
                seed=0,
                config={**config.to_dict(), "size": options.size},
                metrics=metrics,
                wall_seconds=time.perf_counter() - began,
                device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"check_scale: {error}", file=sys.stderr)
        return 2
    for name, metric in metrics.items():
        print(f"{name:28} {metric.value:>16,.4g} {metric.unit}")
    print(f"resumed step 2: {result.resumed:.6f} against {result.losses[1]:.6f} nats in one go\nresult: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
