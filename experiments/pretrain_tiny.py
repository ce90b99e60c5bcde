"""Pre-train the tiny base on clean synthetic BLINK and write it as a checkpoint of at most 10 MB.

    python experiments/pretrain_tiny.py --out runs/tiny-base            # the shipped recipe, an hour or two on a CPU
    python experiments/pretrain_tiny.py --out runs/tiny-base-1 --seed 1 # the same from another seed

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
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--test-size", type=int, default=200, help="held-out questions per task at the end (default 200)")
    parser.add_argument("--compile", action="store_true", help="compile the layers: 1.5 times faster after two minutes")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()

    import torch

    from amvl_model.pretraining import PretrainConfig, finish, pretrain

    torch.set_num_threads(args.threads)
    chosen = {k: v for k in ("seed", "steps", "learning_rate", "eval_every") if (v := getattr(args, k)) is not None}
    config = PretrainConfig(**chosen)
    model, processor = pretrain(config, args.out, resume=args.resume, compile_layers=args.compile)
    finish(model, processor, config, args.out, test_size=args.test_size)


if __name__ == "__main__":
    main()
