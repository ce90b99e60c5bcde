"""The shipped results beside what a notebook measures. A missing result gives one line with the command that makes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amvl_model.diagnostics.report.suite import Diagnosed
from amvl_model.results.checks import digest, stored_problems
from amvl_model.results.files import Result, ResultError, read_study
from amvl_model.results.frame import tidy, wide
from amvl_model.results.provenance import PROJECT_ROOT
from amvl_model.results.seeds import interval
from amvl_style import GREY, METHODS, axes, keys_of, look_of, over_seeds
from notebooks.views.show import styled

COMMANDS = {
    "main_job": "python experiments/full_blink.py --preset tiny --out results/main_job",
    "pareto": "python experiments/ablations.py pareto --workers 2",
    "leakage": "python experiments/ablations.py leakage --workers 2 --keep runs",
    "objectives": "python experiments/ablations.py objectives --workers 2 --keep runs",
    "reading": "python experiments/ablations.py reading --workers 2",
    "prediction": "python experiments/theory_vs_checkpoints.py --checkpoints runs/leakage",
}
"""What makes each of the shipped results again."""

LEAKAGE_PANELS = (
    ("held_out.leaked_information", "leaked information, held out [nats]", 1.0),
    ("training.known_answer_leakage", "leaked about wrong training labels [nats]", 1.0),
    ("answer_nll", "answer NLL, held out, prior mean [nats]", 1.0),
)
STABILITY_PANELS = (
    ("zeroed.nll_difference", "NLL change, latents zeroed [nats]", 1.0),
    ("shuffled.nll_difference", "NLL change, latents shuffled [nats]", 1.0),
    ("held_out.prior_spread", "prior standard deviation [latent units]", 1.0),
)
"""Metric of a result file, axis label, factor."""


class MissingResults(FileNotFoundError):
    """Results are missing or incomplete; the message is one line with the command that makes them."""


def root() -> Path:
    """The results folder: the repository's, or AMVL_RESULTS."""
    return Path(os.environ.get("AMVL_RESULTS") or PROJECT_ROOT / "results")


def missing(study: str, reason: str = "") -> str:
    """The line about a missing result."""
    detail = f" ({reason})" if reason else ""
    return f"results/{study} is not there{detail}; make it with: {COMMANDS[study]}"


def or_line(make: Callable[..., Any]) -> Callable[..., Any]:
    """What ``make`` returns, or the one line of a `MissingResults` instead."""

    def made(*arguments: Any, **settings: Any) -> Any:
        try:
            return make(*arguments, **settings)
        except MissingResults as error:
            return str(error)

    made.__doc__ = make.__doc__
    made.__name__ = make.__name__
    return made


@or_line
def source(study: str) -> str:
    """What a figure or table is made of, in one line: runs, seeds and a digest of every value.

    tests/notebooks compares the line in a stored notebook with this one: other results make its outputs stale.
    """
    if study == "main_job":
        files = [root() / study / name for name in ("eval.json", "diagnostics.json")]
        if not all(file.is_file() for file in files):
            raise MissingResults(missing(study))
        found = digest([json.loads(file.read_text(encoding="utf-8")) for file in files])
        return f"results/{study}: one run, digest {found[:12]}"
    results = runs(study)
    values = [[r.cell, r.seed, {name: m.value for name, m in r.metrics.items()}] for r in results]
    seeds = sorted({result.seed for result in results})
    cells = len({result.cell for result in results})
    return (
        f"results/{study}: {len(results)} runs of {cells} cells, seeds {', '.join(map(str, seeds))}, "
        f"digest {digest(values)[:12]}"
    )


def runs(study: str) -> list[Result]:
    """All results of a study.

    Raises:
        MissingResults: if there are none, or a file is damaged.
    """
    try:
        return read_study(root() / study)
    except FileNotFoundError:
        raise MissingResults(missing(study)) from None
    except ResultError as error:
        raise MissingResults(missing(study, f"unreadable: {Path(str(error).split(' ')[0]).name}")) from error


@or_line
def main_job_table() -> str:
    """The main job's table, from its eval.json and diagnostics.json."""
    from amvl_model.studies.summary import table

    folder = root() / "main_job"
    try:
        evaluation = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
        measured = json.loads((folder / "diagnostics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingResults(missing("main_job")) from error
    for problem in stored_problems([evaluation, measured]):
        raise MissingResults(missing("main_job", f"a value cannot be right: {problem}"))
    return table({name: {"evaluation": value, **measured.get(name, {})} for name, value in evaluation.items()})


@or_line
def pareto_figure() -> Figure:
    """Leaked information against NLL over beta and gamma."""
    from amvl_model.studies.pareto import draw

    return draw(runs("pareto"))


@or_line
def pareto_verdict() -> str:
    """The verdict of the Pareto study."""
    from amvl_model.studies.pareto import verdict

    return verdict(runs("pareto"))


@or_line
def against_gamma(
    panels: Sequence[tuple[str, str, float]] = LEAKAGE_PANELS,
    live: Mapping[str, Diagnosed] | None = None,
    training: Mapping[str, Diagnosed] | None = None,
) -> Figure:
    """The leakage study's figures against gamma, 0 being forward-only: every seed, mean and 95 % interval over seeds, and the
    baselines that have no gamma.

    Args:
        panels: metric, axis label, factor.
        live: what was just measured on held-out questions, marked at its gamma where it has the figure. Everything else about
            its setting may differ from the study's.
        training: the same on training questions.
    """
    cells = gamma_cells(runs("leakage"))
    if not cells:
        raise MissingResults(missing("leakage", "no cells over gamma"))
    with styled():
        page = Figure(figsize=(4.4 * len(panels), 3.9))
        for ax, (metric, label, factor) in zip(np.atleast_1d(page.subplots(1, len(panels))), panels, strict=True):
            live_here = training if metric.startswith("training.") else live
            draw_against_gamma(cells, metric, label, factor, live_here or {}, ax=ax)
            draw_baselines(ax, metric, factor)
        drawn = {name: handle for ax in page.axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        page.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4)
    return page


BASELINES = (("leakage", "elbo"), ("objectives", "pause"), ("objectives", "sft"))
"""Study and cell of the methods without a gamma, trained at the settings of the study over gamma."""


def draw_baselines(ax: Axes, metric: str, factor: float) -> None:
    """Means over seeds of `BASELINES` as lines across the axes, with their 95 % intervals; what lacks the metric is left out."""
    for study, cell in BASELINES:
        try:
            found = [result for result in runs(study) if result.cell == cell]
        except MissingResults:
            continue
        known = [result.metrics[metric].value for result in found if metric in result.metrics]
        values = factor * np.array([value for value in known if value is not None])
        if len(values):
            shown, (low, high) = METHODS[cell], interval(values)
            ax.axhspan(low, high, color=shown.colour, alpha=0.1, lw=0)
            ax.axhline(
                values.mean(), color=shown.colour, ls=shown.line, label=f"{shown.label}, mean ({len(values)} seeds)"
            )


def gamma_cells(results: Sequence[Result]) -> dict[float, pd.DataFrame]:
    """The runs of forward-only (gamma 0) and AMVL by gamma, at the label noise that most of them have."""
    found = _by_run(results)
    found = found[(found.noise == found.noise.mode()[0]) & found.objective.isin(["ntp+fwd", "amvl"])]
    return dict(iter(found.groupby(found.gamma.where(found.objective == "amvl", 0.0))))


def _by_run(results: Sequence[Result]) -> pd.DataFrame:
    """A row per run: metrics, objective, gamma and noise."""
    names = {"objective.name": "objective", "objective.gamma": "gamma", "data.label_noise": "noise"}
    return wide(tidy(results, settings=[*names])).rename(columns=names)


def draw_against_gamma(
    cells: Mapping[float, pd.DataFrame],
    metric: str,
    label: str,
    factor: float,
    live: Mapping[str, Diagnosed],
    *,
    ax: Axes | None = None,
) -> Axes:
    """One metric against gamma, arithmetic means over seeds; forward-only stands at the left of the logarithmic axis."""
    ax = axes(ax)
    weights = list(cells)
    positive = [value for value in weights if value > 0]
    zero = min(positive, default=1e-4) / 4
    looks, values = [], {}
    for method, chosen in (("ntp+fwd", [0.0]), ("amvl", positive)):
        groups = {gamma or zero: factor * _values(cells[gamma], metric) for gamma in chosen if gamma in cells}
        if any(map(len, groups.values())):
            seeds = sorted({len(each) for each in groups.values()})
            count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
            looks.append(
                replace(METHODS[method], label=f"{METHODS[method].label}, mean and 95 % interval ({count} seeds)")
            )
            values[looks[-1].label] = groups
    over_seeds(ax, values, looks, interval, dodge=1.0)
    for name, key in keys_of({name: each.run and each.run.objective.name for name, each in live.items()}).items():
        value, run, shown = live_value(live[name], metric), live[name].run, look_of(key)
        if value is not None and run is not None:
            place = run.objective.gamma if run.objective.name == "amvl" else 0.0
            style = {"color": shown.colour, "marker": shown.marker, "markeredgecolor": "black", "linestyle": "none"}
            ax.plot(place or zero, factor * value, ms=9, label=f"{name}, measured here", **style)
    ticks = sorted({zero, *positive})
    ax.set_xticks(ticks, ["0" if tick == zero else f"{tick:g}" for tick in ticks], rotation=45)
    ax.minorticks_off()
    ax.set(xlabel="weight of the reverse KL, γ [1]\n(0: forward-only)", ylabel=label.replace(" [", "\n["))
    return ax


@or_line
def objectives_figure() -> Figure:
    """The eight objectives of the leakage study: leaked information, NLL and accuracy over seeds."""
    columns = (
        ("held_out.leaked_information", "leaked information [nats]", 1.0),
        ("answer_nll", "answer NLL, held out [nats]", 1.0),
        ("accuracy", "accuracy, held out [%]", 100.0),
    )
    groups = objective_cells(runs("leakage"))
    if not groups:
        raise MissingResults(missing("leakage", "no cells of the eight objectives"))
    import pandas as pd
    import seaborn as sns

    alone = {"fwd": "forward KL alone", "rev": "reverse KL alone"}
    groups = {
        METHODS[name].label if name in METHODS else alone.get(name, name): group for name, group in groups.items()
    }
    colours = {look.label: look.colour for look in METHODS.values() if look.label in groups}
    colours = {name: colours.get(name, GREY) for name in groups}
    with styled():
        page = Figure(figsize=(12.6, 0.9 + 0.38 * len(groups)))
        for ax, (metric, label, factor) in zip(page.subplots(1, 3, sharey=True), columns, strict=True):
            rows = [(name, factor * v) for name, group in groups.items() for v in _values(group, metric)]
            frame = pd.DataFrame(rows, columns=["objective", label])
            shared = {"data": frame, "x": label, "y": "objective", "hue": "objective", "order": list(groups)}
            shared |= {"palette": colours, "legend": False, "ax": ax}
            sns.stripplot(**shared, jitter=False, size=4, alpha=0.45)
            sns.pointplot(**shared, errorbar=lambda values: interval(np.asarray(values)), linestyle="none")
            ax.set_ylabel("")
    return page


def objective_cells(results: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """One cell per objective at the usual label noise; AMVL's at gamma = 0.001, the others' reverse weight."""
    found = _by_run(results)
    plain = (found.cell == found.objective) | ((found.gamma == 0.001) & (found.cell == "amvl,gamma=0.001"))
    return dict(iter(found[plain].groupby("objective", sort=False)))


@or_line
def noise_figure() -> Figure:
    """What the posterior reveals about wrong training labels against their share, forward-only and AMVL."""
    levels = noise_cells(runs("leakage"))
    with styled():
        ax: Any
        page = Figure(figsize=(5.6, 3.9))
        ax = page.subplots()
        values = {
            name: {noise: _values(group, "training.known_answer_leakage") for noise, group in sorted(cells.items())}
            for name, cells in levels.items()
        }
        over_seeds(ax, values, [METHODS["ntp+fwd"], METHODS["amvl"]], interval, xscale="linear", dodge=1.0)
        groups = [group for cells in levels.values() for group in cells.items()]
        entropy = {noise: _values(group, "training.answer_entropy").mean() for noise, group in groups}
        ax.plot(*zip(*sorted(entropy.items()), strict=True), color=GREY, ls=":", label="upper bound H(Y|x)")
        ax.set(
            xlabel="share of wrong training labels [1]", ylabel="leaked about training labels [nats]", ylim=(0, None)
        )
        ax.legend()
    return page


def noise_cells(results: Sequence[Result]) -> dict[str, dict[float, pd.DataFrame]]:
    """Runs by label noise, of forward-only and of AMVL at gamma = 0.001.

    Raises:
        MissingResults: if one of the two has fewer than two noise levels.
    """
    found = _by_run(results)
    series = {
        "forward-only": found.objective == "ntp+fwd",
        "AMVL, gamma = 0.001": (found.objective == "amvl") & (found.gamma == 0.001),
    }
    levels = {name: dict(iter(found[rows].groupby("noise"))) for name, rows in series.items()}
    if min(map(len, levels.values())) < 2:
        raise MissingResults(missing("leakage", "fewer than two levels of label noise"))
    return levels


def live_value(each: Diagnosed, metric: str) -> float | None:
    """A metric of the result files from what was measured live, on whichever questions; None where it was not."""
    from amvl_model.studies.summary import lookup

    part, _, name = metric.partition(".")
    reports = {
        key: report.to_dict() for key, report in each.reports.items() if key in ("contamination", "interventions")
    }
    paths = {
        "held_out": f"contamination.measures.{name}",
        "training": f"contamination.measures.{name}",
        "answer_nll": "contamination.measures.nll_prior_mean",
        "accuracy": "contamination.measures.accuracy_prior_mean",
    }
    path = paths.get(part, f"interventions.conditions.{metric}")
    found = lookup(reports, path)
    return None if found is None else float(found["mean"])


def _values(group: pd.DataFrame, metric: str) -> np.ndarray:
    """The metric of every seed that has it."""
    return group.get(metric, pd.Series(dtype=float)).dropna().to_numpy()


def prediction_summary() -> list[bytes | str]:
    """The prediction study: its figure (PNG) and the scores over seeds, or the line that it is missing."""
    try:
        results = runs("prediction")
    except MissingResults as error:
        return [str(error)]
    image = root() / "prediction" / "prediction.png"
    scores = [run for run in results if run.cell.endswith(",scores")]
    if not scores:
        return [missing("prediction", "no scores")]
    from experiments.theory_vs_model.scoring.summary import digest

    text = "\n\n".join(digest(run.metrics, run.cell.removesuffix(",scores")) for run in scores)
    return [*([image.read_bytes()] if image.is_file() else []), text]
