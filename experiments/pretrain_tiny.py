"""Pre-train the tiny base on clean synthetic BLINK and write it as a checkpoint of at most 10 MB.

    python experiments/pretrain_tiny.py --out runs/tiny-base --processes 2 --compile --seed 1     # the shipped base
    python experiments/pretrain_tiny.py --out runs/tiny-base-0 --processes 2 --compile            # from another seed

Twenty to thirty minutes on two CPU cores.

Writes the checkpoint (bf16 safetensors, tokenizer, picture settings), recipe.json, curve.csv and accuracy.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of weights and questions (default 0)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: the recipe's)")
    parser.add_argument("--eval-every", type=int, help="steps between looks at the validation split")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the work (default 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of each process (default: its share of all)")
    parser.add_argument(
        "--test-size", type=int, default=200, help="held-out questions per task at the end (default 200)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the layers: 1.5 times faster after two minutes")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()

    if args.processes == 1:
        work(0, args)
        return
    import torch.multiprocessing

    torch.multiprocessing.spawn(work, args=(args,), nprocs=args.processes)


def work(rank: int, args: argparse.Namespace) -> None:
    """What one process does."""
    import torch

    from amvl_model.training.pretraining import PretrainConfig, finish, pretrain

    torch.set_num_threads(args.threads or max(1, (os.cpu_count() or 1) // args.processes))
    if args.processes > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(29_500 + args.seed))
        torch.distributed.init_process_group("gloo", rank=rank, world_size=args.processes)
    chosen = {k: v for k in ("seed", "steps", "learning_rate", "eval_every") if (v := getattr(args, k)) is not None}
    config = PretrainConfig(**chosen)
    model, processor = pretrain(
        config, args.out, resume=args.resume, compile_layers=args.compile, rank=rank, world=args.processes
    )
    if rank == 0:
        finish(model, processor, config, args.out, test_size=args.test_size)
    if args.processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
