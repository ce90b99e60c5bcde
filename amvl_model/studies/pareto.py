"""The Pareto study: leaked information against held-out answer NLL with prior latents, over beta and gamma.

The claim under test: AMVL has a setting that leaks less than forward-only at its best beta, whose NLL is not worse by more
than 0.02 nats, and whose latents matter (zeroing them costs accuracy). Everything is paired by seed; intervals are Student's t
over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amvl_model.results.files import Result
from amvl_model.results.frame import tidy, wide
from amvl_model.results.seeds import interval

LEAK, NLL, ZEROED = "held_out.leaked_information", "answer_nll", "zeroed.accuracy_difference"
MARGIN = 0.02  # nats
# Okabe-Ito; forward-only black
_COLOURS = {None: "#000000", 0.0003: "#E69F00", 0.003: "#0072B2", 0.03: "#CC79A7"}
_SHAPES = ("o", "s", "^", "D", "P", "X")


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
    found = cells(results)
    forward = [cell for cell in found if cell.gamma is None]
    dual = [cell for cell in found if cell.gamma is not None]
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


def draw(results: Sequence[Result]) -> Figure:
    """Leaked information against NLL, and against what zeroing the latents costs: means, and every seed behind them.

    Colour tells gamma, shape tells beta; a line joins the betas of one gamma. Leaked information is on a logarithmic axis.
    """
    page = Figure(figsize=(9.2, 4.4), layout="constrained")
    left, right = page.subplots(1, 2)
    found = cells(results)
    shapes = dict(zip(sorted({cell.beta for cell in found}), _SHAPES, strict=False))
    for gamma in (None, *sorted({cell.gamma for cell in found if cell.gamma is not None})):
        group = sorted((cell for cell in found if cell.gamma == gamma), key=lambda cell: cell.beta)
        colour = _COLOURS.get(gamma, "#009E73")
        for ax, metric, scale in ((left, NLL, 1.0), (right, ZEROED, 100.0)):
            means = [(_visible(cell.values[LEAK]).mean(), scale * cell.mean(metric)) for cell in group]
            ax.plot(*zip(*means, strict=True), color=colour, lw=1, zorder=2)
            for cell, (x, y) in zip(group, means, strict=True):
                shape = shapes.get(cell.beta, "v")
                ax.scatter(
                    _visible(cell.values[LEAK]),
                    scale * cell.values[metric],
                    marker=shape,
                    s=12,
                    lw=0,
                    alpha=0.35,
                    color=colour,
                )
                ax.scatter(x, y, marker=shape, s=52, color=colour, edgecolor="white", lw=0.6, zorder=3)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlabel("leaked information, held-out questions [nats]")
    left.set_ylabel("answer NLL, held out, prior mean [nats]")
    right.set_ylabel("accuracy change when latents are zeroed [points]")
    right.axhline(0, color="0.6", lw=0.8, ls=":")
    seeds = sorted({len(cell.seeds) for cell in found}) or [0]
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    page.suptitle(f"large: mean over {count} seeds; small: every seed", fontsize=9)
    left.legend(handles=_legend(found, shapes), frameon=False, fontsize=8, loc="upper left")
    return page


def _visible(leak: np.ndarray) -> np.ndarray:
    """Leaked information with the few values below a tenth of a millinat at that value, for a logarithmic axis."""
    return np.maximum(leak, 1e-4)


def _legend(found: Sequence[Cell], shapes: dict[float, str]) -> list[Line2D]:
    gammas = (None, *sorted({cell.gamma for cell in found if cell.gamma is not None}))
    colours = [
        Line2D(
            [],
            [],
            color=_COLOURS.get(gamma, "#009E73"),
            label="forward-only" if gamma is None else f"AMVL, gamma = {gamma:g}",
        )
        for gamma in gammas
        if any(cell.gamma == gamma for cell in found)
    ]
    return colours + [
        Line2D([], [], color="0.4", marker=shape, ls="", ms=5, label=f"beta = {beta:g}")
        for beta, shape in shapes.items()
    ]
