"""Hold the theory against trained checkpoints: predict other gammas, label noises and seeds from one; nothing is fitted.

    python experiments/ablations.py leakage --keep runs                                    # the checkpoints, once
    python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage                 # both references, all seeds
    python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage --reference ntp+fwd --seeds 0 1
    python experiments/theory_vs_checkpoints.py --summary                                  # scores and figure of existing results

Writes results/prediction/<reference>/seed<k>.json (with a CSV of the questions beside it), likewise <reference>,heads for the
heads that are trained on it, and trained for the trained checkpoints; <reference>,scores/seed0.json with the scores over seeds,
and prediction.png. Existing results are skipped, so that the script can be run again with more checkpoints. About four minutes
 a reference and seed on one core, three of them for the heads (--heads without a name leaves them out).
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

    checkpoints: Path | None = None  # the checkpoints of the study leakage: DIR/<cell>/seed<k>
    reference: tuple[str, ...] = REFERENCES  # cells of the references
    seeds: tuple[int, ...] = ()  # default: all with a checkpoint of the reference
    out: Path = ROOT / "results"  # folder of the results
    questions: int = 48  # held-out questions
    free_questions: int = 4  # of these with free posteriors
    heads: tuple[str, ...] = ("head 300", "both heads 300")
    """Trainings on the frozen reference for S steps: "head S" (posterior, fresh), "head +S" (posterior, continued),
    "head KL only", "both heads S" (with the prior, fresh)."""
    threads: int = 1  # CPU threads
    summary: bool = False  # only score and draw existing results


def predict_one(reference: str, seed: int, options: Options, plan: Any, *, heads: bool) -> Path | None:
    """One reference and seed; None if its result exists."""
    from amvl_model.models.loading import load_checkpoint
    from amvl_model.results.files import result_path
    from experiments.theory_vs_model.predictions import checkpoint_folder, predict, predict_with_heads
    from experiments.theory_vs_model.study import heads_cell, write_prediction

    target = result_path(options.out, STUDY, heads_cell(reference) if heads else reference, seed)
    if target.exists():
        return None
    began = time.perf_counter()
    model, processor = load_checkpoint(checkpoint_folder(options.checkpoints, reference, seed))
    prediction = predict_with_heads(model, processor, seed, plan) if heads else predict(model, processor, plan)
    return write_prediction(target, reference, seed, prediction, plan, time.perf_counter() - began)


def run(options: Options) -> int:
    """Predict what is missing, then score and draw."""
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
            raise ValueError("predictions need --checkpoints; pass it, or --summary to score existing results")
        available = sorted(int(p.parent.name[4:]) for p in (options.checkpoints / reference).glob("seed*/checkpoint"))
        if not available:
            raise FileNotFoundError(
                f"no checkpoint in {options.checkpoints / reference}/seed<k>/checkpoint; "
                "run experiments/ablations.py leakage --keep DIR first"
            )
        for seed in options.seeds or available:
            new = measure_trained(options.out / STUDY, options.checkpoints, seed, plan)
            if new:
                print(f"seed {seed}, trained checkpoints measured: {', '.join(new)}", flush=True)
            for heads in (False, True) if plan.heads else (False,):
                path = predict_one(reference, seed, options, plan, heads=heads)
                what = f"{reference}, seed {seed}{', heads' if heads else ''}"
                print(f"{what}: {'exists already' if path is None else path}", flush=True)
    print(score(options.out / STUDY, options.reference, plan))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = command_line(Options, arguments)
    try:
        return run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"theory_vs_checkpoints: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
