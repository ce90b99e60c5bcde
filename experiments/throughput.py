"""Step time, memory, collectives and latency of AMVL beside plain fine-tuning, three passes and sequential latents.

    python experiments/throughput.py --quick                          # tiny sizes only: minutes
    python experiments/throughput.py --sizes 60m --only train infer   # step time and latency on the CPU: a quarter of an hour
    python experiments/throughput.py --sizes 300m --only memory       # peak memory on the CPU
    python experiments/throughput.py --device cuda --dtype bfloat16 --sizes 300m 3b 7b --profile
    python experiments/throughput.py --list --device cuda --sizes 7b  # the cells; measures nothing
    python experiments/throughput.py --check                          # gradients against the three-pass reference, float64
    python experiments/throughput.py --report                         # everything measured so far, in one table
    python experiments/throughput.py --memory-table                   # what fits on 24, 48, 80, 141 GB, computed

Every cell runs in a process of its own, on random weights, and writes results/throughput/<cell>/seed0.json. Finished cells are
skipped, so the same command goes on after an interruption. The methods of a cell take turns on one model and one batch, and
medians are compared. At the end: a table, what is met and what is not, and throughput.png.

In a window of ten minutes on one GPU (train cells report time, memory, utilisation and a profile; the JSON is in OUT/throughput):

    python experiments/throughput.py --device cuda --sizes 7b 3b 300m --lengths 768 --answers 16 --latents 8 --only train infer \\
        --profile --minutes 8 --out OUT
    python experiments/throughput.py --device cuda --sizes 7b --lengths 768 --answers 16 --latents 8 --batch 8 --only train \\
        --methods sft two-pass --checkpointing yes --profile --minutes 8 --out OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.profiling.throughput.grid import METHODS, SIZES, Cell, training_cells

if TYPE_CHECKING:
    from amvl_model.results.files import Result

KINDS = ("train", "memory", "infer", "sharded", "gradients")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny"], help="models (default: tiny)")
    result.add_argument("--lengths", nargs="+", type=int, default=[256, 768, 1408, 2048], help="query tokens N")
    result.add_argument("--answers", nargs="+", type=int, default=[16, 256], help="answer tokens |y|")
    result.add_argument("--latents", nargs="+", type=int, default=[1, 8, 64], help="latents k; 8 with every length")
    result.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods to time")
    result.add_argument("--checkpointing", choices=["no", "yes", "both"], default="both", help="gradient checkpointing")
    result.add_argument("--repeats", type=int, default=5, help="measured rounds, after one unmeasured (default: 5)")
    result.add_argument("--batch", type=int, default=1, help="examples in a step (default: 1)")
    result.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    result.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, float32 on the CPU"
    )
    result.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="default: adamw")
    result.add_argument("--pictures", action="store_true", help="three quarters of x are a picture; default: text")
    result.add_argument("--threads", type=int, default=0, help="CPU threads (default: one per core)")
    result.add_argument("--only", nargs="+", choices=KINDS, help="kinds of cells (default: all)")
    result.add_argument("--check", action="store_true", help="the same as --only gradients")
    result.add_argument("--quick", action="store_true", help="tiny model, short sequences, two rounds")
    result.add_argument("--report", action="store_true", help="measure nothing: table and picture of what is in --out")
    result.add_argument("--memory-table", action="store_true", help="print what fits where, computed, and stop")
    result.add_argument("--profile", action="store_true", help="also say what one step of every method is spent on")
    result.add_argument(
        "--list", action="store_true", help="measure nothing: print the cells, and whether they are there"
    )
    result.add_argument(
        "--minutes", type=float, help="begin no cell, and end the one at work, after this time; default: none"
    )
    result.add_argument("--overwrite", action="store_true", help="measure finished cells again")
    result.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the results (default: results)")
    return result


def quick(arguments: argparse.Namespace) -> None:
    """Settings that end within minutes on a laptop."""
    arguments.sizes, arguments.lengths, arguments.answers = ["tiny"], [32, 64, 96, 128], [16]
    arguments.latents, arguments.repeats = [1, 8], 2


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    """Every cell that the command line asks for."""
    again = {"no": (False,), "yes": (True,), "both": (False, True)}[arguments.checkpointing]
    common: dict[str, Any] = {
        "batch": arguments.batch,
        "repeats": arguments.repeats,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "optimizer": arguments.optimizer,
        "pictures": arguments.pictures,
        "threads": arguments.threads,
    }
    train = training_cells(
        arguments.sizes,
        arguments.lengths,
        arguments.answers,
        arguments.latents,
        again,
        methods=tuple(arguments.methods),
        profile=arguments.profile,
        **common,
    )
    # on a GPU the allocator tells in the training cells themselves
    memory = [replace(cell, kind="memory", repeats=1, profile=False) for cell in train if cell.device == "cpu"]
    first = train[0].latents
    point: dict[str, Any] = {"answer": 16, "latents": first, "methods": ("two-pass",)}
    infer = [
        Cell(kind="infer", size=size, length=length, **point, **common)
        for size in arguments.sizes
        for length in arguments.lengths
    ]
    on_cpu = {"device": "cpu", "dtype": "float32", "repeats": 1, "threads": arguments.threads}
    point |= {"length": arguments.lengths[0]}
    sharded = [Cell(kind="sharded", size="tiny", checkpointing=c, **point, **on_cpu) for c in again]
    grid_points = dict.fromkeys((c.length, c.answer, c.latents, c.checkpointing) for c in train)
    gradients = [
        Cell(
            kind="gradients",
            size="tiny",
            length=length,
            answer=answer,
            latents=latents,
            checkpointing=checkpointing,
            pictures=arguments.pictures,
            **on_cpu,
        )
        for length, answer, latents, checkpointing in grid_points
    ]
    wanted = ("gradients",) if arguments.check else tuple(arguments.only or KINDS)
    return [cell for cell in (*train, *memory, *infer, *sharded, *gradients) if cell.kind in wanted]


def main(given: list[str] | None = None) -> int:
    """Measure, report and draw; returns the exit status: 1 if a requirement is not met."""
    command = parser()
    arguments = command.parse_args(given)
    for name in ("lengths", "answers", "latents"):
        if min(getattr(arguments, name)) < 1:
            command.error(f"--{name}: expected numbers of at least 1, received {min(getattr(arguments, name))}")
    for name in ("repeats", "batch"):
        if getattr(arguments, name) < 1:
            command.error(f"--{name}: expected at least 1, received {getattr(arguments, name)}")
    if arguments.minutes is not None and not arguments.minutes > 0:
        command.error(f"--minutes: expected a number above 0, received {arguments.minutes}; leave it out for no limit")
    if arguments.memory_table:
        from amvl_model.profiling.footprint import memory_table

        print(memory_table(arguments.out, batch=arguments.batch))
        return 0
    if arguments.report:
        from amvl_model.profiling.throughput.runner import STUDY
        from amvl_model.results.files import read_study

        return report(read_study(arguments.out / STUDY), arguments)
    if arguments.device is None:
        import torch

        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.dtype is None:
        arguments.dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    if arguments.quick:
        quick(arguments)
    if arguments.list:
        return listing(arguments)
    return measure(arguments)


def listing(arguments: argparse.Namespace) -> int:
    """Print every cell with the memory that it needs at least, and whether it was measured before."""
    from amvl_model.profiling.doctor import GIB
    from amvl_model.profiling.throughput.grid import needed_bytes
    from amvl_model.profiling.throughput.runner import finished

    for cell in cells_of(arguments):
        state = "there already" if finished(arguments.out, cell) else "to be measured"
        print(f"{cell.name:<60}  {needed_bytes(cell) / GIB:7.1f} GiB at least  {state}")
    return 0


def measure(arguments: argparse.Namespace) -> int:
    """Run the cells, print the report, draw the picture."""
    from amvl_model.profiling.throughput.runner import run_cells

    seconds = None if arguments.minutes is None else 60 * arguments.minutes
    results = run_cells(cells_of(arguments), arguments.out, overwrite=arguments.overwrite, seconds=seconds)
    print(f"\nbatch {arguments.batch}, {arguments.device}, {arguments.dtype}, {arguments.optimizer}")
    return report(results, arguments)


def report(results: Sequence[Result], arguments: argparse.Namespace) -> int:
    """Print table and verdicts, draw the figure; 1 if a requirement is not met."""
    from amvl_model.profiling.throughput.report import figure, profiles, table, verdicts
    from amvl_model.profiling.throughput.runner import STUDY
    from amvl_style import save

    print(table(results) + "\n")
    if arguments.profile:
        print(profiles(results) + "\n")
    found = verdicts(results)
    for verdict in found:
        print(verdict)
    if any(result.config["kind"] == "train" for result in results):
        path = arguments.out / STUDY / "throughput.png"
        save(figure(results), path, dpi=150)
        print(f"\n{path}")
    return 1 if any(verdict.passed is False for verdict in found) else 0


if __name__ == "__main__":
    sys.exit(main())
