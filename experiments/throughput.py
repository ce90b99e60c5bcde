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

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, PositiveInt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.config import command_line
from amvl_model.profiling.throughput.grid import METHODS, SIZES, Cell, training_cells

if TYPE_CHECKING:
    from amvl_model.results.files import Result

KINDS = ("train", "memory", "infer", "sharded", "gradients")


@dataclass(frozen=True)
class Options:
    """The command line."""

    sizes: tuple[Literal[tuple(SIZES)], ...] = ("tiny",)  # models
    lengths: tuple[PositiveInt, ...] = (256, 768, 1408, 2048)  # query tokens N
    answers: tuple[PositiveInt, ...] = (16, 256)  # answer tokens |y|
    latents: tuple[PositiveInt, ...] = (1, 8, 64)  # latents k; 8 with every length
    methods: tuple[Literal[METHODS], ...] = METHODS  # methods to time
    checkpointing: Literal["no", "yes", "both"] = "both"  # gradient checkpointing
    repeats: PositiveInt = 5  # measured rounds, after one unmeasured
    batch: PositiveInt = 1  # examples in a step
    device: Literal["cpu", "cuda"] | None = None  # None: cuda if available
    dtype: Literal["float32", "bfloat16"] | None = None  # None: bfloat16 on a GPU, float32 on the CPU
    optimizer: Literal["adamw", "sgd"] = "adamw"  # optimiser of the training steps
    images: bool = False  # three quarters of x are an image; default: text
    threads: int = 0  # CPU threads; 0: one per core
    only: tuple[Literal[KINDS], ...] = KINDS  # kinds of cells
    check: bool = False  # the same as --only gradients
    quick: bool = False  # tiny model, short sequences, two rounds
    report: bool = False  # measure nothing: table and figure of the results in --out
    memory_table: bool = False  # print what fits where, computed, and stop
    profile: bool = False  # also report which operations take the time of one step of every method
    list: bool = False  # measure nothing: print the cells, and whether they have results
    minutes: PositiveFloat | None = None  # start no cell, and end the current one, after this time; None: no limit
    overwrite: bool = False  # measure finished cells again
    out: Path = ROOT / "results"  # folder of the results


QUICK = {"sizes": ("tiny",), "lengths": (32, 64, 96, 128), "answers": (16,), "latents": (1, 8), "repeats": 2}
"""Settings that end within minutes on a laptop."""


def cells_of(options: Options) -> list[Cell]:
    """Every cell that the command line asks for."""
    again = {"no": (False,), "yes": (True,), "both": (False, True)}[options.checkpointing]
    common: dict[str, Any] = {
        "batch": options.batch,
        "repeats": options.repeats,
        "device": options.device,
        "dtype": options.dtype,
        "optimizer": options.optimizer,
        "images": options.images,
        "threads": options.threads,
    }
    train = training_cells(
        options.sizes,
        options.lengths,
        options.answers,
        options.latents,
        again,
        methods=options.methods,
        profile=options.profile,
        **common,
    )
    # on a GPU the allocator tells in the training cells themselves
    memory = [replace(cell, kind="memory", repeats=1, profile=False) for cell in train if cell.device == "cpu"]
    first = train[0].latents
    point: dict[str, Any] = {"answer": 16, "latents": first, "methods": ("two-pass",)}
    infer = [
        Cell(kind="infer", size=size, length=length, **point, **common)
        for size in options.sizes
        for length in options.lengths
    ]
    on_cpu = {"device": "cpu", "dtype": "float32", "repeats": 1, "threads": options.threads}
    point |= {"length": options.lengths[0]}
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
            images=options.images,
            **on_cpu,
        )
        for length, answer, latents, checkpointing in grid_points
    ]
    wanted = ("gradients",) if options.check else options.only
    return [cell for cell in (*train, *memory, *infer, *sharded, *gradients) if cell.kind in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Measure, report and draw; returns the exit status: 1 if a requirement is not met."""
    options = command_line(Options, arguments)
    if options.memory_table:
        from amvl_model.profiling.footprint import memory_table

        print(memory_table(options.out, batch=options.batch))
        return 0
    if options.report:
        from amvl_model.profiling.throughput.runner import STUDY
        from amvl_model.results.files import read_study

        return report(read_study(options.out / STUDY), options)
    if options.device is None:
        import torch

        options = replace(options, device="cuda" if torch.cuda.is_available() else "cpu")
    if options.dtype is None:
        options = replace(options, dtype="bfloat16" if options.device == "cuda" else "float32")
    if options.quick:
        options = replace(options, **QUICK)
    return listing(options) if options.list else measure(options)


def listing(options: Options) -> int:
    """Print every cell with the memory that it needs at least, and whether it was measured before."""
    from amvl_model.profiling.doctor import GIB
    from amvl_model.profiling.throughput.grid import needed_bytes
    from amvl_model.profiling.throughput.runner import finished

    for cell in cells_of(options):
        state = "there already" if finished(options.out, cell) else "to be measured"
        print(f"{cell.name:<60}  {needed_bytes(cell) / GIB:7.1f} GiB at least  {state}")
    return 0


def measure(options: Options) -> int:
    """Run the cells, print the report, draw the figure."""
    from amvl_model.profiling.throughput.runner import run_cells

    seconds = None if options.minutes is None else 60 * options.minutes
    results = run_cells(cells_of(options), options.out, overwrite=options.overwrite, seconds=seconds)
    print(f"\nbatch {options.batch}, {options.device}, {options.dtype}, {options.optimizer}")
    return report(results, options)


def report(results: Sequence[Result], options: Options) -> int:
    """Print table and verdicts, draw the figure; 1 if a requirement is not met."""
    from amvl_model.profiling.throughput.report import figure, profiles, table, verdicts
    from amvl_model.profiling.throughput.runner import STUDY
    from amvl_style import save

    print(table(results) + "\n")
    if options.profile:
        print(profiles(results) + "\n")
    outcome = verdicts(results)
    for verdict in outcome:
        print(verdict)
    if any(result.config["kind"] == "train" for result in results):
        path = options.out / STUDY / "throughput.png"
        save(figure(results), path, dpi=150)
        print(f"\n{path}")
    return 1 if any(verdict.passed is False for verdict in outcome) else 0


if __name__ == "__main__":
    sys.exit(main())
