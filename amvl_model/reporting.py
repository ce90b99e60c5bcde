"""A run's measurements as a table, a picture, and metrics by name. Works on `Measurement.to_dict()`, so also on JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from amvl_model.results import Metric

Measured = Mapping[str, Any]
CONDITIONS = ("prior_mean", "prior_sample", "zeroed", "shuffled", "noise")

# label, path into a measurement, scale, format
_ROWS: tuple[tuple[str, str, float, str], ...] = (
    ("accuracy, mean over tasks, by likelihood [%]", "evaluation.accuracy.likelihood.unweighted", 100, ".1f"),
    ("accuracy, mean over tasks, by generated letter [%]", "evaluation.accuracy.generation.unweighted", 100, ".1f"),
    ("answer NLL, held out, prior mean [nats]", "evaluation.answer_nll", 1, ".3f"),
    ("accuracy with prior samples [%]", "interventions.conditions.prior_sample.accuracy", 100, ".1f"),
    ("accuracy with latents zeroed [%]", "interventions.conditions.zeroed.accuracy", 100, ".1f"),
    ("accuracy with latents of another question [%]", "interventions.conditions.shuffled.accuracy", 100, ".1f"),
    ("leaked information, uniform options [nats]", "contamination.measures.leaked_information", 1, ".3f"),
    ("  of at most", "contamination.measures.leakage_bound", 1, ".3f"),
    ("leaked information, training label noise [nats]", "train_contamination.measures.known_answer_leakage", 1, ".3f"),
    ("  of at most H(Y|x)", "train_contamination.measures.answer_entropy", 1, ".3f"),
    ("answer sensitivity [squared Mahalanobis]", "contamination.measures.answer_sensitivity", 1, ".2f"),
    ("NLL with posterior minus prior samples [nats]", "contamination.measures.nll_gap_sample", 1, "+.3f"),
    ("  the same on training questions", "train_contamination.measures.nll_gap_sample", 1, "+.3f"),
    ("KL(q || p) [nats]", "contamination.measures.forward_kl", 1, ".2f"),
    ("KL(p || q) [nats]", "contamination.measures.reverse_kl", 1, ".2f"),
    ("prior standard deviation", "contamination.measures.prior_spread", 1, ".3f"),
    ("posterior standard deviation", "contamination.measures.posterior_spread", 1, ".3f"),
)


def lookup(measured: Measured, path: str) -> Any | None:
    """The value at a dotted path, or None where a part of it is missing."""
    value: Any = measured
    for part in path.split("."):
        if not isinstance(value, Mapping) or value.get(part) is None:
            return None
        value = value[part]
    return value


def table(measured: Mapping[str, Measured]) -> str:
    """One column per model, one row per figure with its 95 % interval; "-" where a model has no such figure."""
    names = list(measured)
    rows = [
        [label, *(_cell(lookup(measured[name], path), scale, form) for name in names)]
        for label, path, scale, form in _ROWS
    ]
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    widths = [max(len(row[i]) for row in (["", *names], *rows)) for i in range(len(names) + 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in (["", *names], *rows)
    ]
    verdicts = [f"{name}: {text}" for name in names if (text := lookup(measured[name], "interventions.verdict"))]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *verdicts])


def task_table(measured: Mapping[str, Measured], scoring: str = "likelihood") -> str:
    """Accuracy in percent per task, one column per model, chance in the last column."""
    per_model = {
        name: {task["task"]: task for task in (lookup(m, f"evaluation.accuracy.{scoring}.tasks") or [])}
        for name, m in measured.items()
    }
    tasks = next(iter(per_model.values()))
    width = max(len(name) for name in (*tasks, "task"))
    head = "  ".join([f"{'task':{width}}", *(f"{name:>14}" for name in per_model), f"{'chance':>8}"])
    lines = [head, "-" * len(head)]
    for task, entry in tasks.items():
        cells = (f"{100 * found[task]['accuracy']['mean']:14.1f}" for found in per_model.values())
        lines.append("  ".join([f"{task:{width}}", *cells, f"{100 * entry['chance']:8.1f}"]))
    return "\n".join(lines)


def _cell(interval: Any | None, scale: float, form: str) -> str:
    if not isinstance(interval, Mapping) or interval.get("mean") is None:
        return "-"
    text = f"{scale * interval['mean']:{form}}"
    if interval.get("low") is None or interval.get("high") is None:
        return text
    return f"{text} [{scale * interval['low']:{form}}, {scale * interval['high']:{form}}]"


def figures(measured: Measured) -> dict[str, Metric]:
    """Every figure with an interval by short name, for a result file."""
    found: dict[str, Metric] = {}

    def put(name: str, path: str, unit: str) -> None:
        value = lookup(measured, path)
        if value is not None:
            found[name] = Metric(value["mean"], unit, value.get("low"), value.get("high"), value.get("n"))

    put("accuracy", "evaluation.accuracy.likelihood.unweighted", "fraction")
    put("accuracy_generated", "evaluation.accuracy.generation.unweighted", "fraction")
    put("answer_nll", "evaluation.answer_nll", "nats")
    for task in lookup(measured, "evaluation.accuracy.likelihood.tasks") or []:
        value = task["accuracy"]
        found[f"accuracy.{task['task']}"] = Metric(value["mean"], "fraction", value["low"], value["high"], value["n"])
    for part, prefix in (("contamination", "held_out"), ("train_contamination", "training")):
        for name, value in (lookup(measured, f"{part}.measures") or {}).items():
            if value is not None:
                put(f"{prefix}.{name}", f"{part}.measures.{name}", value["unit"])
    for name in lookup(measured, "interventions.conditions") or {}:
        base = f"interventions.conditions.{name}"
        put(f"{name}.accuracy", f"{base}.accuracy", "fraction")
        put(f"{name}.answer_nll", f"{base}.answer_nll", "nats")
        put(f"{name}.accuracy_difference", f"{base}.accuracy_difference", "fraction")
        put(f"{name}.nll_difference", f"{base}.nll_difference", "nats")
    return found


def figure(measured: Mapping[str, Measured]) -> Figure:
    """Accuracy of all models; leaked information; and what replacing the latents does. Bars with 95 % intervals."""
    from amvl_model.figures import draw_bars

    latent = [name for name, m in measured.items() if lookup(m, "contamination")]
    page = Figure(figsize=(12.5, 4.4), layout="constrained")
    accuracy, leakage, effect = page.subplots(1, 3, width_ratios=(1, 1.1, 1.8))
    path = "evaluation.accuracy.likelihood.unweighted"
    draw_bars(accuracy, list(measured), {"": _column(measured, list(measured), path, 100)}, "accuracy [%]")
    accuracy.set_title("held-out accuracy")
    accuracy.set_ylim(0, 100)
    rows = {
        "held out, uniform options": _column(measured, latent, "contamination.measures.leaked_information", 1),
        "training, label noise": _column(measured, latent, "train_contamination.measures.known_answer_leakage", 1),
    }
    draw_bars(leakage, latent, rows, "leaked information [nats]")
    leakage.set_title("what the posterior reveals")
    leakage.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    bars = {
        name: _columns(measured[name], [f"interventions.conditions.{c}.accuracy" for c in CONDITIONS], 100)
        for name in latent
    }
    draw_bars(effect, [c.replace("_", " ") for c in CONDITIONS], bars, "accuracy [%]")
    effect.set_title("held-out accuracy with other latents")
    effect.set_ylim(0, 100)
    effect.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return page


def _column(
    measured: Mapping[str, Measured], names: list[str], path: str, scale: float
) -> tuple[list[float], list[tuple[float, float]]]:
    pairs = [_columns(measured[name], [path], scale) for name in names]
    return [values[0] for values, _ in pairs], [ends[0] for _, ends in pairs]


def _columns(measured: Measured, paths: list[str], scale: float) -> tuple[list[float], list[tuple[float, float]]]:
    values, ends = [], []
    for path in paths:
        interval = lookup(measured, path) or {}
        mean = interval.get("mean")
        mean = float("nan") if mean is None else scale * mean
        low, high = (interval.get(end) for end in ("low", "high"))
        values.append(mean)
        ends.append((mean if low is None else scale * low, mean if high is None else scale * high))
    return values, ends
