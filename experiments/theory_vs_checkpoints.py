"""Hold the theory against trained checkpoints: predict other gammas, label noises and seeds from one; nothing is fitted.

    python experiments/ablations.py leakage --keep runs                                    # the checkpoints, once
    python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage                 # both references, all seeds there are
    python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage --reference ntp+fwd --seeds 0 1
    python experiments/theory_vs_checkpoints.py --summary                                  # scores and figure from what is there

Writes results/prediction/<reference>/seed<k>.json (with a CSV of the questions beside it), likewise <reference>,heads for the
heads that are trained on it and trained for what the trained checkpoints show; <reference>,scores/seed0.json with the scores over
seeds, and prediction.png. What is done is skipped, so that it can be run again when more checkpoints are there. About four
minutes a reference and seed on one core, three of them for the heads (--heads without a name leaves them out).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STUDY = "prediction"
REFERENCES = ("amvl,gamma=0.0003", "ntp+fwd")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--checkpoints", type=Path, metavar="DIR", help="the kept checkpoints of the study leakage: DIR/<cell>/seed<k>")
    add("--reference", nargs="+", default=list(REFERENCES), metavar="CELL", help=f"default: {' '.join(REFERENCES)}")
    add("--seeds", type=int, nargs="+", help="default: all that have a checkpoint of the reference")
    add("--out", type=Path, default=ROOT / "results", help="folder of the results (default: results)")
    add("--questions", type=int, default=48, metavar="N", help="held-out questions (default: 48)")
    add("--free-questions", type=int, default=4, metavar="N", help="of these with free posteriors (default: 4)")
    add(
        "--heads",
        nargs="*",
        default=["head 300", "both heads 300"],
        metavar="NAME",
        help='trainings on the frozen reference for S steps: "head S" (posterior, fresh), "head +S" (posterior, continued), '
        '"head KL only", "both heads S" (with the prior, fresh) (default: head 300, both heads 300)',
    )
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--summary", action="store_true", help="only score and draw what is there")
    return result


def climb_one(reference: str, seed: int, asked: argparse.Namespace, plan: Any, *, heads: bool) -> Path | None:
    """One reference and seed; None if it is done already."""
    from amvl_model.models.loading import load_checkpoint
    from amvl_model.results.files import result_path
    from experiments.theory_vs_model.ladder import checkpoint_folder, climb, climb_heads
    from experiments.theory_vs_model.study import heads_cell, write_climb

    target = result_path(asked.out, STUDY, heads_cell(reference) if heads else reference, seed)
    if target.exists():
        return None
    began = time.perf_counter()
    model, processor = load_checkpoint(checkpoint_folder(asked.checkpoints, reference, seed))
    found = climb_heads(model, processor, seed, plan) if heads else climb(model, processor, plan)
    return write_climb(target, reference, seed, found, plan, time.perf_counter() - began)


def run(asked: argparse.Namespace) -> int:
    """Climb what is missing, then score and draw."""
    import torch

    from experiments.theory_vs_model.plan import Plan
    from experiments.theory_vs_model.study import measure_trained, score

    torch.set_num_threads(asked.threads)
    plan = replace(
        Plan(),
        questions=asked.questions,
        free_questions=asked.free_questions,
        heads=tuple(asked.heads),
    )
    for reference in asked.reference if not asked.summary else ():
        if asked.checkpoints is None:
            raise ValueError("--checkpoints is needed to climb; give it, or --summary to score what is there")
        there = sorted(int(p.parent.name[4:]) for p in (asked.checkpoints / reference).glob("seed*/checkpoint"))
        if not there:
            raise FileNotFoundError(
                f"no checkpoint in {asked.checkpoints / reference}/seed<k>/checkpoint; "
                "run experiments/ablations.py leakage --keep DIR first"
            )
        for seed in there if asked.seeds is None else asked.seeds:
            new = measure_trained(asked.out / STUDY, asked.checkpoints, seed, plan)
            if new:
                print(f"seed {seed}, trained checkpoints measured: {', '.join(new)}", flush=True)
            for heads in (False, True) if plan.heads else (False,):
                path = climb_one(reference, seed, asked, plan, heads=heads)
                what = f"{reference}, seed {seed}{', heads' if heads else ''}"
                print(f"{what}: {'done before' if path is None else path}", flush=True)
    print(score(asked.out / STUDY, asked.reference, plan))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    asked = parser().parse_args(arguments)
    try:
        return run(asked)
    except (ValueError, FileNotFoundError) as error:
        print(f"theory_vs_checkpoints: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
