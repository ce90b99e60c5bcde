"""A folder of made-up results in the real schema, complete for every figure. No number in it means anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from amvl_model.config import load_preset
from amvl_model.objectives import objective_named
from amvl_model.results.checks import expected_unit
from amvl_model.results.files import SCHEMA_VERSION, _digests
from amvl_model.studies.declared import EASY_TASKS, STUDIES, Study
from paper_figs.measure import CHECKPOINTS, weights_hash

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WITHOUT_LATENTS = {
    "accuracy",
    "answer_nll",
    "out_of_distribution.accuracy",
    *(f"accuracy.{task}" for task in EASY_TASKS),
}
SLOTS = ["slot 1", "slot 2", "slot 3", "slot 4"]
SHIFTS = ("patch_shuffle", "word_shuffle", "option_order", "letter_style", "paraphrase", "crop", "noise", "darker",
          "brighter", "jpeg", "other_question")  # fmt: skip


def write(
    root: Path, study: str, cell: str, seed: int, config: Any, metrics: dict[str, Any], extra: Any = None
) -> Path:
    """One result file; metrics as value or (value, low, high)."""
    plain = {
        name: dict(
            zip(("value", "low", "high"), value if isinstance(value, tuple) else (value, None, None), strict=True)
        )
        | {"unit": expected_unit(name) or "1", "n": 10}
        for name, value in metrics.items()
    }
    record = {
        "schema_version": SCHEMA_VERSION, "study": study, "cell": cell, "seed": seed, "created": "2026-01-01T00:00:00+00:00",
        "commit": COMMIT, "dirty": False, "versions": {}, "device": "cpu", "wall_seconds": 1.0, "config": config,
        "metrics": plain, "extra": extra or {},
    }  # fmt: skip
    path = root / study / cell / f"seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | _digests(record)))
    return path


def trained(rng: np.random.Generator, leak: float = 0.3) -> dict[str, float]:
    """Metrics of a run."""
    return {
        "accuracy": 0.9 + 0.02 * rng.random(),
        **{f"accuracy.{task}": 0.9 + 0.02 * rng.random() for task in EASY_TASKS},
        "prior_sample.accuracy": 0.88 + 0.02 * rng.random(),
        "prior_sample.answer_nll": 0.5 + 0.03 * rng.random(),
        "out_of_distribution.accuracy": 0.6 + 0.02 * rng.random(),
        "out_of_distribution.prior_sample.accuracy": 0.6 + 0.02 * rng.random(),
        "out_of_distribution.prior_sample.answer_nll": 0.9 + 0.03 * rng.random(),
        "answer_direction.training.leverage": 0.2 * rng.random(),
        "answer_nll": 0.5 + 0.03 * rng.random(),
        "held_out.leaked_information": leak * (0.7 + 0.6 * rng.random()),
        "held_out.nll_gap_mean": -0.1 * rng.random(),
        "held_out.posterior_spread": 0.2 + 0.1 * rng.random(),
        "zeroed.accuracy_difference": -0.1 * rng.random(),
    }


def synthetic_results(root: Path) -> Path:
    """Fill ``root`` with results for every figure; returns it."""
    rng = np.random.default_rng(0)
    for study in STUDIES.values():
        if study.bases:
            _laboratory(root, study, rng)
            continue
        for cell, settings in study.cells.items():
            whole = load_preset("tiny", {**study.common, **settings}).to_dict()
            gamma = whole["objective"]["gamma"] if whole["objective"]["name"] == "amvl" else 0.0
            for seed in study.seeds:
                metrics = trained(rng, 0.8 / (1 + 3000 * gamma))
                if not objective_named(whole["objective"]["name"]).latents:
                    metrics = {name: value for name, value in metrics.items() if name in WITHOUT_LATENTS}
                write(root, study.name, cell, seed, whole | {"train": whole["train"] | {"seed": seed}}, metrics)
    _benchmarks(root)
    _throughput(root, rng)
    _shipped(root, rng)
    _main_job(root, rng)
    _predictions(root, rng)
    return root


def _laboratory(root: Path, study: Study, rng: np.random.Generator) -> None:
    for cell, settings in study.cells.items():
        for seed in study.seeds:
            metrics = {f"accuracy_{h}": 0.9 + 0.02 * rng.random() for h in (1, 2, 3)}
            extra: dict[str, Any] = {"warmup_steps": 300, "started": True}
            if objective_named(str(settings["objective"])).latents:
                metrics |= {
                    "accuracy_posterior_3": 0.9,
                    "accuracy_exchanged_3": 0.15,
                    "follows_patch_3": 0.9,
                    "leaked_3": 0.5,
                }
                extra["warmup"] = [{"step": 300, "accuracy_3": 0.9}]
            row = {"accuracy_3": 0.9, "accuracy_posterior_3": 0.95, "leaked_3": 0.5}
            extra["curve"] = [{"step": step, **row} for step in (200, 400)]
            config = {**settings, "recipe": {"hops": {"1": 1.0, "2": 1.0, "3": 2.0}, "objects": 8, "seed": seed}}
            write(root, study.name, cell, seed, config, metrics, extra)


def _benchmarks(root: Path) -> None:
    scored = (0.5, 0.45, 0.55)
    over_tasks = {f"likelihood: {name}": scored for name in ("mean over tasks", "Jigsaw alone")}
    for name in ("vstar", "visual-puzzles", "hrbench4k", "hrbench8k", "blink"):
        metric = "mean over cycles" if name.startswith("hrbench") else "mean over questions"
        write(root, "benchmarks", name, 0, {}, {f"likelihood: {metric}": scored, **over_tasks})


def _throughput(root: Path, rng: np.random.Generator) -> None:
    for length in (192, 768):
        for again in (False, True):
            ratio = (length + 56) / (length + 16)
            metrics: dict[str, Any] = {"token_ratio": ratio, "ratio.two-pass": (ratio + 0.02, ratio, ratio + 0.04)}
            metrics |= {"ratio.three-pass": (3.1, 3.0, 3.2), "ratio.sequential": (1.5 + rng.random(), 1.4, 2.6)}
            settings = {"kind": "train", "size": "300m", "device": "cpu", "checkpointing": again, "length": length}
            write(root, "throughput", f"train-{length}-{again}", 0, settings, metrics, {"status": "done"})


def _shipped(root: Path, rng: np.random.Generator) -> None:
    tokens = [
        "Which",
        " of",
        " the",
        " boxes",
        " holds",
        " the",
        " circle",
        "?\n",
        "(A)",
        " left",
        "\n",
        "(B)",
        " right",
    ] * 3
    maps = {
        "index": 0,
        "images": [rng.normal(size=(4, 4, 4)).tolist()],
        "tokens": tokens,
        "text": rng.normal(size=(4, len(tokens))).tolist(),
        "totals": [1.0] * 4,
        "residuals": [0.0] * 4,
    }
    square = np.clip(0.9 * np.eye(4) + 0.1 * rng.normal(size=(4, 4)), -1, 1).tolist()
    for name in CHECKPOINTS:
        metrics = {f"perturbed.{item}.prior_shift": (0.5, 0.4, 0.6) for item in SHIFTS}
        metrics |= {f"perturbed.{item}.answer_agreement": (0.9, 0.8, 0.95) for item in SHIFTS}
        extra = {
            "weights_sha256": weights_hash(name),
            "slots": SLOTS,
            "parts": {f"task{i}": {slot: rng.normal(size=2).tolist() for slot in SLOTS} for i in range(14)},
            "maps": {"Object_Localization": maps, "Counting": maps},
            "slot_similarity": dict.fromkeys(("prior", "posterior", "prior_centred", "posterior_centred"), square),
        }
        write(root, "shipped", name, 0, {}, metrics, extra)


def _main_job(root: Path, rng: np.random.Generator) -> None:
    from amvl_model.data.synthetic import TASKS

    def score(mean: float, n: int) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": n}

    tasks = [{"task": task, "accuracy": score(0.5 + 0.3 * rng.random(), 50)} for task in TASKS]
    report = {"accuracy": {"likelihood": {"tasks": tasks, "unweighted": score(0.7, 700)}}}
    (root / "main_job").mkdir(parents=True, exist_ok=True)
    (root / "main_job" / "eval.json").write_text(json.dumps(dict.fromkeys(("base", "forward-only", "amvl"), report)))


def _predictions(root: Path, rng: np.random.Generator) -> None:
    from experiments.theory_vs_model.scoring.tables import REFERENCE, TRAINED, Table, write_table

    for reference in ("amvl,gamma=0.0003", "ntp+fwd"):
        for seed in (0, 1, 2):
            rows = {
                (0.3, level, gamma, quantity): rng.random(6) / (1 + 1000 * gamma) + 0.01
                for level in (REFERENCE, "T4", "T6 held", "softmax", "free", "head 300", "both heads 300")
                for gamma in (0.0001, 0.001, 0.01)
                for quantity in ("leak", "spread")
            }
            path = write(root, "prediction", reference, seed, {}, {})
            write_table(path.with_suffix(".csv"), Table(ids=tuple("abcdef"), tasks=("Counting",) * 6, rows=rows))
    for seed in (0, 1, 2):
        rows = {
            (0.3, TRAINED, gamma, quantity): rng.random(6) / (1 + 1000 * gamma) + 0.01
            for gamma in (0.0001, 0.001, 0.01)
            for quantity in ("leak", "spread")
        }
        path = write(root, "prediction", TRAINED, seed, {}, {})
        write_table(path.with_suffix(".csv"), Table(ids=tuple("abcdef"), tasks=("Counting",) * 6, rows=rows))
