"""Leaked information and accuracy against length of training and against size of the training set, forward-only and AMVL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from amvl_model.results.files import Result
from amvl_model.results.seeds import interval
from amvl_style import GREY, METHODS, over_seeds, shades
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import ACCURACY, LEAK
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "leaked information and accuracy against length of training and size of the training set"
SERIES = {
    "ntp+fwd": METHODS["ntp+fwd"],
    "amvl": replace(METHODS["amvl"], label="AMVL, γ = 0.001"),
    "amvl,gamma=0.003": replace(METHODS["jeffreys"], label="AMVL, γ = 0.003", colour=shades("amvl", 3)[0]),
    "elbo": METHODS["elbo"],
    "pause": METHODS["pause"],
    "sft": METHODS["sft"],
}
"""Beginning of the cells' names -> look."""
AXES = {
    "length": ("steps", "length of training [steps]"),
    "size": ("size", "size of the training set [questions]"),
}


def draw(sources: Sources) -> Drawn:
    """Leaked information above, accuracy below; bars are 95 % intervals over seeds, small marks the seeds."""
    results = {study: sources.merged(study) for study in AXES}
    if not any(results.values()):
        raise NothingToDrawError
    figure = page(4.1)
    panels = figure.subplots(2, 2, sharex="col")
    for column, (study, (key, label)) in enumerate(AXES.items()):
        above, below = panels[0][column], panels[1][column]
        for ax, metric in ((above, LEAK), (below, ACCURACY)):
            _curves(ax, [_placed(result, key) for result in results[study]], metric)
        below.set_xlabel(label)
        above.set_title(
            f"({'ab'[column]}) leak against {study} of {'training' if study == 'length' else 'the training set'}"
        )
        below.set_title(f"({'cd'[column]}) accuracy, held out")
        above.set_ylabel("leaked, mean over seeds [nats]")
        below.set_ylabel("accuracy, mean over seeds [%]")
    for row in panels:
        low = min(ax.get_ylim()[0] for ax in row)
        high = max(ax.get_ylim()[1] for ax in row)
        for ax in row:
            ax.set_ylim(low, high)
    handles = {label: handle for ax in panels[1] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=3)
    return Drawn(figure)


Placed = tuple[str, int, Result]
"""Series, place on the axis, and the run."""


def _placed(result: Result, key: str) -> Placed:
    series, _, place = result.cell.rpartition(f",{key}=")
    return series, int(place), result


def _curves(ax: Axes, placed: Sequence[Placed], metric: str) -> None:
    """Arithmetic mean over seeds of every series. Intervals of accuracies end at 100 %."""
    log = metric == LEAK
    places = sorted({place for _, place, _ in placed})
    groups = {name: {place: _values(placed, name, place, metric) for place in places} for name in SERIES}
    groups = {name: each for name, each in groups.items() if any(map(len, each.values()))}
    values = {
        SERIES[name].label: {place: v if log else 100 * v for place, v in each.items()} for name, each in groups.items()
    }
    over_seeds(ax, values, [SERIES[name] for name in groups], interval, log=log, top=np.inf if log else 100.0)
    if log:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks(places, [f"{place:,}" for place in places])
    ax.xaxis.set_minor_locator(NullLocator())
    if not placed:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color=GREY)


def _values(placed: Sequence[Placed], name: str, place: int, metric: str) -> np.ndarray:
    results = [
        result.metrics[metric].value
        for series, at, result in placed
        if series == name and at == place and metric in result.metrics
    ]
    return np.array([value for value in results if value is not None], dtype=float)
