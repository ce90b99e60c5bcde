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

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.config import command_line

STUDY = "prediction"
REFERENCES = ("amvl,gamma=0.0003", "ntp+fwd")


@dataclass(frozen=True)
class Options:
    """The command line."""

    checkpoints: Path | None = None  # the kept checkpoints of the study leakage: DIR/<cell>/seed<k>
    reference: tuple[str, ...] = REFERENCES  # cells of the references
    seeds: tuple[int, ...] = ()  # default: all that have a checkpoint of the reference
    out: Path = ROOT / "results"  # folder of the results
    questions: int = 48  # held-out questions
    free_questions: int = 4  # of these with free posteriors
    heads: tuple[str, ...] = ("head 300", "both heads 300")
    """Trainings on the frozen reference for S steps: "head S" (posterior, fresh), "head +S" (posterior, continued),
    "head KL only", "both heads S" (with the prior, fresh)."""
    threads: int = 1  # CPU threads
    summary: bool = False  # only score and draw the existing results


def climb_one(reference: str, seed: int, options: Options, plan: Any, *, heads: bool) -> Path | None:
    """One reference and seed; None if it is done already."""
    from amvl_model.models.loading import load_checkpoint
    from amvl_model.results.files import result_path
    from experiments.theory_vs_model.ladder import checkpoint_folder, climb, climb_heads
    from experiments.theory_vs_model.study import heads_cell, write_climb

    target = result_path(options.out, STUDY, heads_cell(reference) if heads else reference, seed)
    if target.exists():
        return None
    began = time.perf_counter()
    model, processor = load_checkpoint(checkpoint_folder(options.checkpoints, reference, seed))
    found = climb_heads(model, processor, seed, plan) if heads else climb(model, processor, plan)
    return write_climb(target, reference, seed, found, plan, time.perf_counter() - began)


def run(options: Options) -> int:
    """Climb what is missing, then score and draw."""
    import torch

    from experiments.theory_vs_model.plan import Plan
    from experiments.theory_vs_model.study import measure_trained, score

    torch.set_num_threads(options.threads)
    plan = replace(
        Plan(),
        questions=options.questions,
        free_questions=options.free_questions,
        heads=options.heads,
    )
    for reference in options.reference if not options.summary else ():
        if options.checkpoints is None:
            raise ValueError("--checkpoints is needed to measure; pass it, or --summary to score the existing results")
        there = sorted(int(p.parent.name[4:]) for p in (options.checkpoints / reference).glob("seed*/checkpoint"))
        if not there:
            raise FileNotFoundError(
                f"no checkpoint in {options.checkpoints / reference}/seed<k>/checkpoint; "
                "run experiments/ablations.py leakage --keep DIR first"
            )
        for seed in options.seeds or there:
            new = measure_trained(options.out / STUDY, options.checkpoints, seed, plan)
            if new:
                print(f"seed {seed}, trained checkpoints measured: {', '.join(new)}", flush=True)
            for heads in (False, True) if plan.heads else (False,):
                path = climb_one(reference, seed, options, plan, heads=heads)
                what = f"{reference}, seed {seed}{', heads' if heads else ''}"
                print(f"{what}: {'done before' if path is None else path}", flush=True)
    print(score(options.out / STUDY, options.reference, plan))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = command_line(Options, arguments)
    try:
        return run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"theory_vs_checkpoints: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
