"""Ablations: objectives and orders, numbers and dimensions of latents, sampling temperatures, and baselines task by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from amvl_model.results.frame import tidy
from amvl_model.studies.declared import EASY_TASKS
from paper_figs.build import Drawn
from paper_figs.ours import ACCURACY, BENCHMARKS, LEAK, MAIN_JOB, NLL, OUT_ACCURACY, SYNTHETIC, borrowed
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, SEEDS, Head, Metric, drawn, over_questions, summarise

OBJECTIVES = (
    ("ntp", "", "NTP", "ntp"),
    ("fwd", "", "forward KL", "fwd"),
    ("rev", "", "reverse KL", "rev"),
    ("ntp+fwd", "", "NTP + forward KL", "ntp+fwd"),
    ("ntp+rev", "", "NTP + reverse KL", "ntp+rev"),
    ("ntp+fwd+rev", "reverse-first", "AMVL, reverse-first", "amvl,reverse-first"),
    ("ntp+fwd+rev", "forward-first", "AMVL, forward-first", "amvl"),
    ("ntp+fwd+rev", "simultaneous", "AMVL, both at once", "amvl,simultaneous"),
    ("elbo", "", "ELBO, no stop-gradient", "elbo"),
    ("jeffreys", "", "Jeffreys, no stop-gradient", "jeffreys"),
    ("pause", "", "pause tokens", "pause"),
    ("sft", "", "SFT, no latents", "sft"),
)
"""(objective in the paper's names, order, label, cell of our study)."""
LABELS = {cell: label for *_, label, cell in OBJECTIVES}
BASELINES = {
    "sft": "SFT",
    "pause": "pause tokens",
    "elbo": "ELBO",
    "ntp+fwd": "forward-only",
    "amvl": "AMVL",
}
"""Cells of the study of objectives and their labels."""
SAMPLED = {"amvl": "AMVL", "ntp+fwd": "forward-only", "elbo": "ELBO"}
"""Objectives of the study of temperatures and their labels."""
_OURS: dict[Head, Metric] = {
    ("ours, synthetic BLINK", "accuracy [%]"): Metric(ACCURACY, 100.0),
    ("ours, synthetic BLINK", "answer NLL [nats]"): Metric(NLL, digits=2),
    ("ours, synthetic BLINK", "leaked [nats]"): Metric(LEAK, digits=3),
}


def objectives(sources: Sources) -> Drawn:
    """objective ablation with both orders"""
    reported = sources.reported("objective_ablation").set_index(["objective", "order"])
    theirs = reported.reindex([row[:2] for row in OBJECTIVES], fill_value=NO_VALUE)
    results = tidy(sources.merged("objectives"))
    table: dict[Head, Any] = {("", "objective"): [*LABELS.values()]}
    for column, heading in {"vstar": "V* [%]", "hrbench4k": "HRBench4K [%]", "hrbench8k": "HRBench8K [%]"}.items():
        table["reported", heading] = theirs[column].tolist()
    ours = summarise(results, "cell", _OURS, rows=[*LABELS])
    notes = [
        "reported: accuracy, Qwen2.5-VL-7B, arXiv 2607.00461 (a dash: not in our source).",
        f"{SYNTHETIC} Study objectives{borrowed(results, 'objectives', LABELS)}.",
        "leaked: information of the posterior about the answer on held-out questions (none where there is no posterior); "
        "accuracy and NLL with the prior's mean. Paired differences: table_differences.",
    ]
    return drawn("Objective ablation with both orders", pd.DataFrame(table | ours.to_dict("list")), notes)


def latents(sources: Sources) -> Drawn:
    """number of latents and latent dimension"""
    reported = sources.reported("latent_tokens").astype({"num_latents": int, "latent_dim": int})
    theirs = reported.set_index(["num_latents", "latent_dim"]).vstar
    by = ["model.num_latents", "model.latent_dim"]
    results = tidy(sources.merged("latents"), settings=by)
    sizes = sorted({*theirs.index, *results.groupby(by).groups})
    ours = summarise(results, by, _OURS, rows=sizes, absent=NOT_RUN if results.empty else NO_VALUE)
    table = {
        ("", "latents k"): [str(k) for k, _ in sizes],
        ("", "dimension d"): [str(d) for _, d in sizes],
        ("reported", "V* [%]"): [theirs.get(size, NO_VALUE) for size in sizes],
        **ours.to_dict("list"),
    }
    notes = [
        "reported: accuracy, AMVL on Qwen2.5-VL-7B, arXiv 2607.00461.",
        f"{SYNTHETIC} AMVL throughout. Study latents{borrowed(results, 'latents', {})}.",
    ]
    return drawn("Number of latents and latent dimension", pd.DataFrame(table), notes, left=0)


def temperature(sources: Sources) -> Drawn:
    """sampling temperature and the out-of-distribution set"""
    reported = sources.reported("visualpuzzles_temperature").set_index("temperature").visualpuzzles
    results = tidy(sources.merged("temperature"), settings=["eval.temperature", "objective.name"])
    results["temperature"] = results["eval.temperature"].map("{:.1f}".format)
    recorded = sources.study("benchmarks", BENCHMARKS.format(name="visual-puzzles"), cells=("visual-puzzles",))
    puzzles = over_questions(tidy(recorded), "likelihood: mean over questions") if recorded else NOT_RUN
    metrics: dict[Head, Metric] = {}
    for group, prefix in (("ours, as trained", ""), ("ours, shifted-50", "out_of_distribution.")):
        metrics[group, "accuracy [%]"] = Metric(f"{prefix}prior_sample.accuracy", 100.0)
        metrics[group, "NLL [nats]"] = Metric(f"{prefix}prior_sample.answer_nll", digits=2, ends=False)
    ours = summarise(results, ["temperature", "objective.name"], metrics)
    rows = []
    for name in ["default", *sorted({*reported.index, *results.temperature} - {"default"}, key=float)]:
        shown = [reported.get(name, NO_VALUE), puzzles if name == "default" else NOT_RUN]
        runs = ours[ours.index.get_level_values(0) == name]
        for (_, objective), row in runs.iterrows():
            rows.append([name, SAMPLED.get(objective, objective), *shown, *row])
            shown = [NO_VALUE] * 2
        if runs.empty:  # "default" is no temperature of ours
            rows.append([name, NO_VALUE, *shown, *[NO_VALUE if name == "default" else NOT_RUN] * 4, NO_VALUE])
    heads = [("", "temperature"), ("", "objective"), ("reported", "VisualPuzzles [%]"), ("ours", "VisualPuzzles [%]")]
    notes = [
        'reported: accuracy, AMVL on Qwen2.5-VL-7B, arXiv 2607.00461; the paper does not say in our source what "default" is.',
        f"{SYNTHETIC} Latents sampled from the prior at the temperature, averaged over eight draws; 0.0: the prior's mean; "
        "shifted-50: synthetic BLINK out of distribution, 50 questions a task (the other tables: shifted-25). "
        "Paired differences: table_differences.",
    ]
    table = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples([*heads, *ours]))
    return drawn("Sampling temperature and the out-of-distribution set", table, notes, left=2)


def baselines(sources: Sources) -> Drawn:
    """baselines and AMVL, task by task, on synthetic BLINK and on its shifted set"""
    results = tidy([result for result in sources.merged("objectives") if result.cell in BASELINES])
    record = sources.json("main_job/eval.json", MAIN_JOB)
    metrics: dict[Head, Metric] = {
        ("accuracy [%]", task.replace("_", " ")): Metric(f"accuracy.{task}", 100.0, ends=False) for task in EASY_TASKS
    }
    metrics |= {
        ("accuracy [%]", "mean"): Metric(ACCURACY, 100.0),
        ("", "answer NLL [nats]"): Metric(NLL, digits=2),
        ("", "shifted-25 [%]"): Metric(OUT_ACCURACY, 100.0),
    }
    table = summarise(results, "cell", metrics, rows=[*BASELINES])
    first = [*(base(record["base"]) if record else [NOT_RUN] * (len(metrics) - 1)), NO_VALUE, NO_VALUE]
    rows = [["tiny base", *first], *([BASELINES[cell], *row] for cell, row in table.iterrows())]
    table = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples([("", "model"), *metrics, SEEDS]))
    notes = [
        "ours: tiny model (3 M parameters), four tasks of synthetic BLINK, 30 % wrong training labels, 50 held-out questions "
        "a task with clean labels, prior's mean where there are latents. Intervals: 95 %, Student's t over seeds. The base was "
        "trained on clean labels and is not fine-tuned. SFT: supervised fine-tuning; ELBO: a conditional VAE.",
        "shifted-25: other light, colours, blur and clutter than any training question, 25 questions a task. "
        f"Study objectives{borrowed(results, 'objectives', BASELINES)}. Differences: table_differences.",
    ]
    return drawn("Baselines and AMVL on synthetic BLINK", table, notes)


def base(evaluation: dict[str, Any]) -> list[str]:
    """Accuracy of the four tasks, their mean, and the answer NLL over the questions of these tasks."""
    tasks = {each["task"]: each["accuracy"]["mean"] for each in evaluation["accuracy"]["likelihood"]["tasks"]}
    shown = [100 * tasks[task] for task in EASY_TASKS]
    nll = [q["answer_nll"] for q in evaluation.get("questions", ()) if q["task"] in EASY_TASKS]
    return [*(f"{value:.1f}" for value in (*shown, np.mean(shown))), f"{np.mean(nll):.2f}" if nll else NO_VALUE]
