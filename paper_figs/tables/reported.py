"""Benchmarks that the paper reports, beside ours: V* and HRBench, BLINK, and our synthetic BLINK."""

from __future__ import annotations

from typing import Any

import pandas as pd

from amvl_model.results.frame import tidy
from paper_figs.build import Drawn
from paper_figs.ours import BENCHMARKS, MAIN_JOB
from paper_figs.sources import Sources
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Head, drawn, number, over_questions

SETS = {
    "vstar": ("vstar_overall", "V* [%]", "likelihood: mean over questions"),
    "hrbench4k": ("hrbench4k_overall", "HRBench4K [%]", "likelihood: mean over cycles"),
    "hrbench8k": ("hrbench8k_overall", "HRBench8K [%]", "likelihood: mean over cycles"),
}
"""Benchmark -> column of the reported table, heading, metric of our result file."""
OURS = "AMVL"
AVERAGE = "average"
ARMS = {"base": "base", "forward-only": "forward-only", "amvl": "AMVL"}
"""Arms of the main job and their labels."""
_ALONE, _ALL = "likelihood: {task} alone", "likelihood: mean over tasks"


def perception(sources: Sources) -> Drawn:
    """perception: V* and HRBench"""
    reported = sources.reported("perception")
    table: dict[Head, Any] = {("", "model"): reported.model}
    table |= {("reported", heading): reported[column] for column, heading, _ in SETS.values()}
    table["reported", "mean [%]"] = reported["mean"]
    for name, (_, heading, metric) in SETS.items():
        results = sources.study("benchmarks", BENCHMARKS.format(name=name), cells=(name,))
        own = over_questions(tidy(results), metric) if results else NOT_RUN
        table["ours", heading] = [own if model == OURS else NO_VALUE for model in reported.model]
    notes = [
        "reported: overall accuracy, arXiv 2607.00461; all models are those of the paper's comparison.",
        "ours: an AMVL checkpoint of this project on the same benchmark, 95 % interval over questions or seeds; it needs the "
        "7B weights, the benchmark and a GPU. Other models were not evaluated by us; baselines trained by our code on synthetic "
        "BLINK: table_baselines.",
    ]
    return drawn("Perception", pd.DataFrame(table), notes)


def blink(sources: Sources) -> Drawn:
    """BLINK per task, reported models"""
    reported = sources.reported("blink").set_index("model")
    results = sources.study("benchmarks", BENCHMARKS.format(name="blink"), cells=("blink",))
    real = tidy(results)
    head, tail = _ALONE.split("{task}")
    own = {name.removeprefix(head).removesuffix(tail) for name in real.metric if name.endswith(tail)}
    tasks = [*sorted(own | {*reported} - {AVERAGE}), AVERAGE]
    table: dict[Head, Any] = {("", "task"): _labels(tasks)}
    for model, row in reported.iterrows():
        table["reported", f"{model} [%]"] = row.reindex(tasks, fill_value=NO_VALUE).tolist()
    metrics = [_ALL if task == AVERAGE else _ALONE.format(task=task) for task in tasks]
    table["ours, BLINK", "AMVL [%]"] = [over_questions(real, metric) if results else NOT_RUN for metric in metrics]
    notes = [
        "reported: arXiv 2607.00461; of the vision-centric tasks only these five columns were in our source, the average is over "
        "all of them. Spatial Relation is said to be 88.81 for both Qwen2.5-VL-7B and AMVL.",
        "ours: an AMVL checkpoint of this project on BLINK's validation split (needs the 7B weights and BLINK); "
        "95 % interval over questions. Baselines trained by our code on synthetic BLINK: table_baselines.",
    ]
    return drawn("BLINK per task", pd.DataFrame(table), notes)


def blink_synthetic(sources: Sources) -> Drawn:
    """BLINK's tasks, ours on synthetic BLINK"""
    reported = sources.reported("blink").set_index("model")
    record = sources.json("main_job/eval.json", MAIN_JOB)
    ours = {arm: per_task(record[arm]) for arm in ARMS} if record else {}
    tasks = [*sorted({*reported, *next(iter(ours.values()), {})} - {AVERAGE}), AVERAGE]
    table: dict[Head, Any] = {("", "task"): _labels(tasks)}
    for model in ("Qwen2.5-VL-7B", "AMVL"):
        table["reported, BLINK", f"{model} [%]"] = reported.loc[model].reindex(tasks, fill_value=NO_VALUE).tolist()
    for arm, label in ARMS.items():
        shown = [percent(ours[arm].get(task)) if ours else NOT_RUN for task in tasks]
        table["ours, synthetic BLINK", f"{label} [%]"] = shown
    count = next(each["n"] for each in next(iter(ours.values())).values()) if ours else "no"
    notes = [
        "reported: arXiv 2607.00461; a dash: not in our source. The average is over the paper's vision-centric tasks.",
        f"ours: tiny model (3 M parameters) on synthetic BLINK, likelihood scoring at the prior's mean, {count} held-out "
        "questions a task, one run (seed 0), 95 % interval over questions. Other images and another model than the reported "
        "ones: not comparable.",
    ]
    return drawn("BLINK's tasks on synthetic BLINK", pd.DataFrame(table), notes)


def per_task(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Accuracy of every task and their unweighted mean ("average"), as mean, low, high and n."""
    report = evaluation["accuracy"]["likelihood"]
    return {each["task"]: each["accuracy"] for each in report["tasks"]} | {AVERAGE: report["unweighted"]}


def percent(interval: dict[str, Any] | None) -> str:
    """ "mean [low, high]" in percent."""
    if interval is None:
        return NO_VALUE
    mean, *ends = (number(100 * interval[key], 1) for key in ("mean", "low", "high") if interval[key] is not None)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _labels(tasks: list[str]) -> list[str]:
    return ["average of all tasks" if task == AVERAGE else task.replace("_", " ") for task in tasks]
