"""The Pareto study: leaked information against held-out answer NLL with prior latents, over beta and gamma.

The claim under test: AMVL has a setting that leaks less than forward-only at its best beta, whose NLL is not worse by more
than 0.02 nats, and whose latents matter (zeroing them costs accuracy). Everything is paired by seed; intervals are Student's t
over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amvl_model.results.files import Result
from amvl_model.results.frame import tidy, wide
from amvl_model.results.seeds import interval
from amvl_style import GREY, METHODS, SERIES, Look, shades, styled

LEAK, NLL, ZEROED = "held_out.leaked_information", "answer_nll", "zeroed.accuracy_difference"
MARGIN = 0.02  # nats


@dataclass(frozen=True)
class Cell:
    """All seeds of one setting.

    Attributes:
        name: of the cell.
        beta: forward weight; gamma: reverse weight, None for forward-only.
        values: a row per seed, a column per metric.
    """

    name: str
    beta: float
    gamma: float | None
    values: pd.DataFrame

    @property
    def seeds(self) -> tuple[int, ...]:
        """In the order of the values."""
        return tuple(self.values.index)

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return float(self.values[metric].mean())


def cells(results: Sequence[Result]) -> list[Cell]:
    """Results grouped by cell, in the order of the results."""
    settings = [f"objective.{name}" for name in ("name", "beta", "gamma")]
    runs = wide(tidy(results, settings=settings)).set_index("seed")
    return [
        Cell(cell, beta, gamma if name == "amvl" else None, group[[LEAK, NLL, ZEROED]])
        for (cell, name, beta, gamma), group in runs.groupby(["cell", *settings], sort=False)
    ]


def paired(a: Cell, b: Cell, metric: str) -> pd.Series:
    """a - b on the seeds that both have."""
    return (a.values[metric] - b.values[metric]).dropna()


def verdict(results: Sequence[Result]) -> str:
    """A line per AMVL cell, and one sentence on whether the claim holds."""
    result = cells(results)
    forward = [cell for cell in result if cell.gamma is None]
    dual = [cell for cell in result if cell.gamma is not None]
    if not forward or not dual:
        return "Not enough results for a verdict: cells of forward-only and of AMVL are both needed."
    best = min(forward, key=lambda cell: cell.mean(NLL))
    low, high = interval(best.values[NLL])
    lines = [
        f"forward-only is best at beta = {best.beta:g}: NLL {best.mean(NLL):.3f} [{low:.3f}, {high:.3f}] nats, "
        f"leaked information {best.mean(LEAK):.3f} nats, {len(best.seeds)} seeds"
    ]
    holding, close = [], []
    for cell in dual:
        differences = [paired(cell, best, metric) for metric in (LEAK, NLL)] + [cell.values[ZEROED]]
        limits = (0.0, MARGIN, 0.0)
        holds = all(interval(d)[1] <= limit for d, limit in zip(differences, limits, strict=True))
        on_average = all(float(d.mean()) <= limit for d, limit in zip(differences, limits, strict=True))
        holding += [cell.name] if holds else []
        close += [cell.name] if on_average and not holds else []
        leak, nll = (f"{d.mean():+.3f} [{interval(d)[0]:+.3f}, {interval(d)[1]:+.3f}]" for d in differences[:2])
        zeroed = 100 * differences[2]
        lines.append(
            f"{'HOLDS' if holds else 'mean' if on_average else '-':>5}  {cell.name}: leakage {leak}, NLL {nll}, zeroing "
            f"changes accuracy by {zeroed.mean():+.1f} [{interval(zeroed)[0]:+.1f}, {interval(zeroed)[1]:+.1f}] points"
        )
    claim = f"point that leaks less at an NLL not worse by more than {MARGIN} nats and whose latents matter"
    if holding:
        end = f"AMVL has a {claim}: {', '.join(holding)}."
    else:
        end = f"AMVL has no {claim}, at 95 % intervals over seeds."
        end += f" In the mean over seeds these have it: {', '.join(close)}." if close else ""
    return "\n".join([*lines, end])


def draw(results: Sequence[Result], *, width: float = 9.2, scale: float = 1.2) -> Figure:
    """Leaked information against NLL, and against what zeroing the latents costs: means with their intervals, and every seed.

    Colour tells gamma, shape tells beta. Intervals (95 % over seeds) are drawn along y alone: those of the leak reach below 0,
    and its axis is logarithmic. ``width`` in inches, ``scale`` of text and lines.
    """
    result = cells(results)
    gammas = sorted({cell.gamma for cell in result if cell.gamma is not None})
    looks: dict[float | None, Look] = {None: METHODS["ntp+fwd"]} | {
        gamma: replace(METHODS["amvl"], label=f"AMVL, γ = {gamma:g}", colour=colour)
        for gamma, colour in zip(gammas, shades("amvl", len(gammas)), strict=True)
    }
    shapes = dict(zip(sorted({cell.beta for cell in result}), cycle(item.marker for item in SERIES), strict=False))
    with styled(scale):
        page = Figure(figsize=(width, 0.5 * width))
        panels = page.subplots(1, 2, sharex=True)
        for ax, metric, factor in zip(panels, (NLL, ZEROED), (1.0, 100.0), strict=True):
            for cell in result:
                shown = {"color": looks[cell.gamma].colour, "marker": shapes[cell.beta], "linestyle": "none"}
                values, low_high = factor * cell.values[metric], factor * np.array(interval(cell.values[metric]))
                place, mean = _visible(cell.values[LEAK]), factor * cell.mean(metric)
                ax.plot(place, values, markersize=3, markeredgewidth=0, alpha=0.4, **shown)
                ax.vlines(place.mean(), *low_high, color=looks[cell.gamma].colour, linewidth=0.9, alpha=0.7)
                ax.plot(
                    place.mean(), mean, markersize=7, markeredgecolor="white", markeredgewidth=0.6, zorder=3, **shown
                )
            ax.set_xlabel("leaked information, held out [nats]")
        left, right = panels
        left.set(xscale="log", yscale="log", ylim=_span(cell.values[NLL] for cell in result))
        left.set_ylabel("answer NLL, held out, prior mean [nats]")
        left.yaxis.set_major_formatter("{x:.1f}")
        left.yaxis.set_minor_formatter(lambda value, _: f"{value:.1f}" if round(10 * value) in (3, 4, 5, 6, 8) else "")
        right.set_ylabel("accuracy change, latents zeroed [points]")
        right.axhline(0, color="black", lw=0.6)
        seeds = sorted({len(cell.seeds) for cell in result}) or [0]
        count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        left.set_title(f"(a) lower left is better (means of {count} seeds)")
        right.set_title("(b) lower: the latents are used")
        colours = [Line2D([], [], color=look.colour, lw=4, label=look.label) for look in looks.values()]
        page.legend(
            handles=colours, loc="outside lower left", ncols=2, title="colour: objective and weight", alignment="left"
        )
        marks = [Line2D([], [], color=GREY, marker=m, ls="", ms=5, label=f"β = {beta:g}") for beta, m in shapes.items()]
        page.legend(
            handles=marks, loc="outside lower right", ncols=3, title="shape: weight of the forward KL", alignment="left"
        )
    return page


def _visible(leak: pd.Series) -> pd.Series:
    """Leaked information with the few values below a tenth of a millinat at that value, for a logarithmic axis."""
    return leak.clip(lower=1e-4)


def _span(series: Iterable[pd.Series]) -> tuple[float, float]:
    """Limits that show every value."""
    values = pd.concat(list(series))
    return 0.95 * values.min(), 1.06 * values.max()
