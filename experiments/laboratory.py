"""Train and measure arms of the laboratory on the multi-hop base, one result file each; what is there is not run again.

    python experiments/laboratory.py --objective sft pause --seeds 0 1 2
    python experiments/laboratory.py --objective prior ntp ntp+fwd elbo amvl --seeds 0 1 2

The arms with latents of a seed share one warm-up by prior-sample training.
"""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line
from amvl_model.objectives import OBJECTIVES
from experiments.train_multihop import hop_mixture


@dataclass(frozen=True)
class Options:
    """The command line."""

    base: str = "multihop"  # checkpoint of experiments/train_multihop.py; multihop: the shipped one
    objective: tuple[Literal[tuple(OBJECTIVES)], ...] = ("amvl",)  # objectives to train
    hops: str = "1:1,2:1,3:2"  # hops:weight,...
    beta: float = 1.0  # weight of the forward KL [per nat]
    gamma: float = 1.0  # weight of the reverse KL [per nat]
    seeds: tuple[int, ...] = (0,)  # seeds to train
    steps: int = 800  # optimiser steps of an arm, after the warm-up
    warmup: int = 2400  # most steps of the warm-up
    warmup_accuracy: float = 0.8  # accuracy at the hardest hop that ends the warm-up
    learning_rate: float = 2e-3  # peak learning rate
    latents: int = 2  # k
    latent_dim: int = 16  # d
    log_std: float = -2.0  # initial log standard deviation
    fresh_queries: bool = False  # latent queries do not begin at the prompt's last token
    eval_every: int = 100  # steps between two evaluations
    eval_size: int = 256  # validation questions for each number of hops
    out: Path = Path("results")  # folder of the results
    log: Path = Path("runs/laboratory")  # folder of the curves


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run what has no result yet."""
    options = command_line(Options, arguments)
    hop_mixture(options.hops)
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


def _arm(options: Options, objective: str, seed: int) -> Any:
    from amvl_model.studies.laboratory import Arm
    from amvl_model.training.multihop_base import MultihopRecipe

    recipe = MultihopRecipe(
        hops=hop_mixture(options.hops),
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
