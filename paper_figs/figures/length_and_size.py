"""Leaked information and accuracy against length of training and against size of the training set, forward-only and AMVL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from amvl_model.results.files import Result
from amvl_model.results.seeds import interval
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import ACCURACY, LEAK
from paper_figs.sources import Sources
from paper_figs.style import COLOURS, GREY, LINES, MARKERS, page
from paper_figs.theory.contamination import FLOOR

TITLE = "leaked information and accuracy against length of training and size of the training set"
SERIES = {
    "ntp+fwd": ("forward-only", 1),
    "amvl": ("AMVL, gamma 0.001", 0),
    "amvl,gamma=0.003": ("AMVL, gamma 0.003", 5),
    "elbo": ("ELBO", 2),
    "pause": ("pause tokens", 3),
    "sft": ("SFT, no latents", 6),
}
"""Beginning of the cells' names -> name in the legend, and index into colours, line styles and markers."""
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
        above.set_ylabel("leaked information [nats]")
        below.set_ylabel("accuracy [%]")
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
    """Mean over seeds of every series; of leaked information the geometric mean and the interval of the logarithm.

    Intervals of accuracies end at 100 %.
    """
    log = metric == LEAK
    places = sorted({place for _, place, _ in placed})
    shown_here = [name for name in SERIES if any(len(_values(placed, name, place, metric)) for place in places)]
    for order, name in enumerate(shown_here):
        label, i = SERIES[name]
        groups = {place: _values(placed, name, place, metric) for place in places}
        known = [place for place in places if len(groups[place])]
        shift = 1.035 ** (order - (len(shown_here) - 1) / 2)
        values = [np.log(np.maximum(groups[place], FLOOR)) if log else 100 * groups[place] for place in known]
        back = np.exp if log else np.asarray
        means = back(np.array([each.mean() for each in values]))
        ends = back(np.array([interval(each) for each in values]).reshape(-1, 2))
        ends = ends if log else np.minimum(ends, 100)
        x = shift * np.array(known, dtype=float)
        shown = {"color": COLOURS[i], "ls": LINES[i], "marker": MARKERS[i], "label": label}
        ax.errorbar(x, means, yerr=np.abs(ends.T - means), lw=1.1, elinewidth=0.8, **shown)
        for place, each in zip(x, values, strict=True):
            ax.plot(
                [place] * len(each), back(each), color=COLOURS[i], marker=MARKERS[i], ms=2, ls="none", alpha=0.5, mew=0
            )
    ax.set_xscale("log")
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks(places, [f"{place:,}" for place in places])
    ax.xaxis.set_minor_locator(NullLocator())
    if not placed:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color=GREY)


def _values(placed: Sequence[Placed], name: str, place: int, metric: str) -> np.ndarray:
    found = [
        result.metrics[metric].value
        for series, at, result in placed
        if series == name and at == place and metric in result.metrics
    ]
    return np.array([value for value in found if value is not None], dtype=float)
