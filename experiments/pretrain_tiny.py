"""Pre-train the tiny base on clean synthetic BLINK and write it as a checkpoint of at most 10 MB.

    python experiments/pretrain_tiny.py --out runs/tiny-base --processes 2 --compile --seed 1     # the shipped base
    python experiments/pretrain_tiny.py --out runs/tiny-base-0 --processes 2 --compile            # from another seed

Twenty to thirty minutes on two CPU cores.

Writes the checkpoint (bf16 safetensors, tokenizer, image settings), recipe.json, curve.csv and accuracy.json.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line, usage_errors


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path  # folder to write
    seed: int = 0  # seed of weights and questions
    steps: int | None = None  # optimiser steps; None: the recipe's
    learning_rate: float | None = None  # peak learning rate; None: the recipe's
    eval_every: int | None = None  # steps between two evaluations on the validation split; None: the recipe's
    processes: int = 1  # processes that share the work
    threads: int | None = None  # CPU threads of each process; None: its share of all
    test_size: int = 200  # held-out questions per task at the end
    compile: bool = False  # compile the layers: 1.5 times faster after two minutes
    resume: bool = False  # continue from the state in --out


def main() -> None:
    """Parse the command line and train in one process or several."""
    options = command_line(Options)
    if options.processes == 1:
        with usage_errors():
            work(0, options)
        return
    import torch.multiprocessing

    try:
        torch.multiprocessing.spawn(work, args=(options,), nprocs=options.processes)
    except torch.multiprocessing.ProcessExitedException as error:  # it has said why
        sys.exit(error.exit_code)


def work(rank: int, options: Options) -> None:
    """What one process does."""
    import torch

    from amvl_model.models.checkpoints import NonFiniteError
    from amvl_model.training.monitoring.guard import report
    from amvl_model.training.pretraining.tiny_base import PretrainConfig, finish, pretrain

    torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // options.processes))
    if options.processes > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(29_500 + options.seed))
        torch.distributed.init_process_group("gloo", rank=rank, world_size=options.processes)
    chosen = {k: v for k in ("seed", "steps", "learning_rate", "eval_every") if (v := getattr(options, k)) is not None}
    config = PretrainConfig(**chosen)
    shared = {"rank": rank, "world": options.processes}
    try:
        model, processor = pretrain(
            config, options.out, resume=options.resume, compile_layers=options.compile, **shared
        )
    except NonFiniteError as error:
        sys.exit(report(error))
    if rank == 0:
        finish(model, processor, config, options.out, test_size=options.test_size)
    if options.processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
