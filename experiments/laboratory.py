"""Train and measure arms of the laboratory on the multi-hop base, one result file each; what is there is not run again.

python experiments/laboratory.py --objective sft pause --seeds 0 1 2
python experiments/laboratory.py --objective prior ntp ntp+fwd elbo amvl --seeds 0 1 2

The arms with latents of a seed share one warm-up by prior-sample training.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.objectives import OBJECTIVES
from experiments.train_multihop import hop_mixture


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run what has no result yet."""
    parser = argparse.ArgumentParser(description="Train and measure arms of the laboratory.")
    parser.add_argument(
        "--base", default="multihop", help="checkpoint of experiments/train_multihop.py (default: shipped)"
    )
    parser.add_argument("--objective", nargs="+", choices=list(OBJECTIVES), default=["amvl"], metavar="NAME")
    parser.add_argument("--hops", type=hop_mixture, default=hop_mixture("1:1,2:1,3:2"), help="hops:weight,...")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the forward KL, per nat")
    parser.add_argument("--gamma", type=float, default=1.0, help="weight of the reverse KL, per nat")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of an arm, after the warm-up")
    parser.add_argument("--warmup", type=int, default=2400, help="most steps of the warm-up")
    parser.add_argument("--warmup-accuracy", type=float, default=0.8, help="at the hardest hop; ends the warm-up")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--latents", type=int, default=2, help="k")
    parser.add_argument("--latent-dim", type=int, default=16, help="d")
    parser.add_argument("--log-std", type=float, default=-2.0, help="initial log standard deviation")
    parser.add_argument(
        "--fresh-queries", action="store_true", help="latent queries do not begin at the prompt's last token"
    )
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--eval-size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results")
    parser.add_argument("--log", type=Path, default=Path("runs/laboratory"), help="folder of the curves")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from amvl_model.data.processing import AMVLProcessor
    from amvl_model.models.loading import resolve
    from amvl_model.results.files import result_path
    from amvl_model.studies.laboratory import build_arm, run_arm, warm_up
    from amvl_model.two_pass.attention import install_attention

    torch.set_num_threads(1)
    options.log.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        warm: dict[str, Any] = {}
        for objective in options.objective:
            arm = _arm(options, objective, seed)
            if result_path(options.out, "laboratory", arm.cell, seed).exists():
                print(f"{arm.cell}, seed {seed}: result is there")
                continue
            base = Qwen2_5_VLForConditionalGeneration.from_pretrained(resolve(options.base), dtype=torch.float32)
            install_attention(base)
            processor = AMVLProcessor.from_pretrained(resolve(options.base))
            log = options.log / f"{arm.cell}-seed{seed}.jsonl"
            model, warmed = build_arm(base, processor, arm), {}
            if OBJECTIVES[objective].latents and arm.warmup:
                if not warm:
                    warm["report"] = warm_up(model, processor, arm, options.log / f"warm-up-seed{seed}.jsonl")
                    warm["state"] = copy.deepcopy(model.state_dict())
                model.load_state_dict(warm["state"])
                warmed = warm["report"]
            print(run_arm(model, processor, arm, options.out, warmed=warmed, log=log))


def _arm(options: argparse.Namespace, objective: str, seed: int) -> Any:
    from amvl_model.studies.laboratory import Arm
    from amvl_model.training.multihop_base import MultihopRecipe

    recipe = MultihopRecipe(
        hops=options.hops,
        steps=options.steps,
        learning_rate=options.learning_rate,
        freeze_vision=True,
        seed=seed,
        eval_every=options.eval_every,
        eval_size=options.eval_size,
    )
    return Arm(
        objective=objective,
        beta=options.beta,
        gamma=options.gamma,
        recipe=recipe,
        num_latents=options.latents,
        latent_dim=options.latent_dim,
        initial_log_std=options.log_std,
        queries_from_prompt=not options.fresh_queries,
        warmup=options.warmup,
        warmup_accuracy=options.warmup_accuracy,
    )


if __name__ == "__main__":
    main()
