"""What Figs. 3 and 4 show of the shipped checkpoints, measured once and kept as results.

    python -m paper_figs.measure                    # both shipped checkpoints, about two minutes on one core
    python -m paper_figs.measure --overwrite        # again, after the shipped checkpoints have changed

Writes results/shipped/<checkpoint>/seed0.json: relevance of every slot over image and words (one held-out question a task),
slot similarity, whether the samples of one question agree in their answer, and how far the latents move when images or text are
permuted. The checkpoint's hash is part of the result, so
that the figures can say where it has changed since.


The measured shipped checkpoints, and whether they are still the ones that are shipped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from amvl_model.results.files import Metric, Result, result_path, write_result
from amvl_model.results.provenance import PROJECT_ROOT
from paper_figs.sources import Sources, sha256

STUDY = "shipped"
CHECKPOINTS = ("tiny-forward-only", "tiny-amvl")
ASSETS = PROJECT_ROOT / "amvl_model" / "assets"
COMMAND = "python -m paper_figs.measure"
SHOWN = ("Object_Localization", "Counting")
"""Tasks whose maps are kept whole; of all others only the parts through image and words."""
SETTINGS: dict[str, Any] = {
    "split": "test",
    "data_seed": 0,
    "difficulty": 0.25,
    "steps": 16,
    "stability_questions": 112,
    "seed": 0,
}


def weights_hash(checkpoint: str) -> str:
    """SHA-256 of a shipped checkpoint's weights, 64 hexadecimal digits."""
    return sha256(ASSETS / checkpoint / "model.safetensors")


def measure(checkpoint: str, out: Path, *, overwrite: bool = False) -> Path:
    """Measure one shipped checkpoint and write its result.

    Raises:
        FileExistsError: if the result is there and ``overwrite`` is False.
    """
    import torch

    from amvl_model.data.synthetic import TASKS, SyntheticBlink, synthetic_question
    from amvl_model.diagnostics.causal.relevance import measure_relevance
    from amvl_model.diagnostics.causal.stability import measure_stability
    from amvl_model.models.loading import load_checkpoint

    target = result_path(out, STUDY, checkpoint, 0)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; pass --overwrite to measure again")
    torch.set_num_threads(1)
    began = time.perf_counter()
    model, processor = load_checkpoint(ASSETS / checkpoint)
    data = {"split": SETTINGS["split"], "seed": SETTINGS["data_seed"], "difficulty": SETTINGS["difficulty"]}
    questions = [synthetic_question(task, index=0, **data) for task in TASKS]
    relevance = measure_relevance(model, processor, questions, steps=16)
    many = SyntheticBlink(size=112, **data)[:]
    stability = measure_stability(model, processor, many, samples=4)
    slots = [name for name in relevance.maps[0].targets if name.startswith("slot ")]
    return write_result(
        target,
        study=STUDY,
        cell=checkpoint,
        seed=0,
        config={"checkpoint": checkpoint, **SETTINGS},
        metrics=_metrics(relevance, stability),
        wall_seconds=time.perf_counter() - began,
        device="cpu, 1 thread",
        extra={
            "weights_sha256": weights_hash(checkpoint),
            "slots": slots,
            "parts": {m.question.task: {s: [_round(v) for v in m.parts(s)] for s in slots} for m in relevance.maps},
            "maps": {m.question.task: _map(m, slots) for m in relevance.maps if m.question.task in SHOWN},
            "slot_similarity": {
                kind: [[_round(v) for v in row] for row in rows] for kind, rows in stability.slot_similarity.items()
            },
        },
        overwrite=overwrite,
    )


def _metrics(relevance: Any, stability: Any) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for target, parts in relevance.parts.items():
        for name, value in parts.items():
            metrics[f"relevance.{target}.{name}"] = Metric(value.mean, "nats", value.low, value.high, value.n)
    for kind, value in stability.off_diagonal.items():
        if value is not None:
            metrics[f"off_diagonal.{kind}"] = Metric(value.mean, "1", value.low, value.high, value.n)
    for temperature, columns in stability.sampling.items():
        value, name = columns["answer_agreement"], f"sampled.temperature_{temperature}.answer_agreement"
        metrics[name] = Metric(value.mean, "fraction", value.low, value.high, value.n)
    units = {"prior_shift": "prior std", "prior_cosine": "1", "answer_agreement": "fraction"}
    for name, columns in stability.perturbations.items():
        for figure, unit in units.items():
            value = (columns or {}).get(figure)
            if value is not None:
                metrics[f"perturbed.{name}.{figure}"] = Metric(value.mean, unit, value.low, value.high, value.n)
    return metrics


def _map(relevance: Any, slots: list[str]) -> dict[str, Any]:
    rows = [relevance.targets.index(name) for name in slots]
    return {
        "index": 0,
        "images": [[[[_round(v) for v in line] for line in image[row]] for row in rows] for image in relevance.images],
        "tokens": list(relevance.tokens),
        "text": [[_round(v) for v in relevance.text[row]] for row in rows],
        "totals": [_round(relevance.totals[row]) for row in rows],
        "residuals": [_round(relevance.residuals[row]) for row in rows],
    }


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for; returns the exit status."""
    page = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    page.add_argument("--checkpoint", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS), help="default: both")
    page.add_argument("--out", type=Path, default=PROJECT_ROOT / "results", help="folder of the results")
    page.add_argument("--overwrite", action="store_true", help="replace results that are there")
    options = page.parse_args(arguments)
    for name in options.checkpoint:
        try:
            print(measure(name, options.out, overwrite=options.overwrite))
        except FileExistsError as error:
            print(f"measure: {error}", file=sys.stderr)
            return 2
    return 0


def shipped(sources: Sources) -> list[Result]:
    """Results of the shipped checkpoints in the order of `CHECKPOINTS`; a changed checkpoint is noted as missing.

    Raises:
        ResultError: if a file is unreadable.
    """
    results = {result.cell: result for result in sources.study(STUDY, COMMAND, cells=CHECKPOINTS)}
    for name, result in results.items():
        sources.file(ASSETS / name / "model.safetensors", kind="shipped checkpoint")
        if result.extra["weights_sha256"] != weights_hash(name):
            sources.lacks(f"results/{STUDY}/{name} of the weights that are shipped now", f"{COMMAND} --overwrite")
    return [results[name] for name in CHECKPOINTS if name in results]


def label(result: Result) -> str:
    """A checkpoint's name in figures."""
    return {"tiny-amvl": "AMVL", "tiny-forward-only": "forward-only"}.get(result.cell, result.cell)


if __name__ == "__main__":
    sys.exit(main())
