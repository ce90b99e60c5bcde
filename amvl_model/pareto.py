"""The Pareto study: leaked information against held-out answer NLL with prior latents, over beta and gamma.

The claim under test: AMVL has a setting that leaks less than forward-only at its best beta, whose NLL is not worse by more
than 0.02 nats, and whose latents matter (zeroing them costs accuracy). Everything is paired by seed; intervals are Student's t
over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from amvl_model.results import Result

LEAK, NLL, ZEROED = "held_out.leaked_information", "answer_nll", "zeroed.accuracy_difference"
MARGIN = 0.02  # nats
# greyscale-safe: distinct markers, Okabe-Ito colours from light to dark
_STYLE = {None: ("o", "#000000"), 0.0003: ("s", "#E69F00"), 0.003: ("^", "#0072B2"), 0.03: ("D", "#CC79A7")}


@dataclass(frozen=True)
class Cell:
    """All seeds of one setting.

    Attributes:
        name: of the cell.
        beta: forward weight; gamma: reverse weight, None for forward-only.
        seeds: in the order of the values.
        values: per metric, one value per seed.
    """

    name: str
    beta: float
    gamma: float | None
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return float(self.values[metric].mean())


def cells(results: Sequence[Result]) -> list[Cell]:
    """Results grouped by cell."""
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.cell, []).append(result)
    found = []
    for name, runs in grouped.items():
        objective = runs[0].config["objective"]
        found.append(
            Cell(
                name=name,
                beta=objective["beta"],
                gamma=objective["gamma"] if objective["name"] == "amvl" else None,
                seeds=tuple(run.seed for run in runs),
                values={metric: np.array([_figure(run, metric) for run in runs]) for metric in (LEAK, NLL, ZEROED)},
            )
        )
    return found


def _figure(run: Result, metric: str) -> float:
    value = run.value(metric)
    return float("nan") if value is None else value


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student t interval of the mean over seeds; the mean twice with fewer than two seeds."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half


def paired(a: Cell, b: Cell, metric: str) -> np.ndarray:
    """a - b on the seeds that both have."""
    common = [seed for seed in a.seeds if seed in b.seeds]
    pick = {cell.name: [cell.seeds.index(seed) for seed in common] for cell in (a, b)}
    return a.values[metric][pick[a.name]] - b.values[metric][pick[b.name]]


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
    holding = []
    for cell in dual:
        (leak_low, leak_high), (nll_low, nll_high) = (interval(paired(cell, best, m)) for m in (LEAK, NLL))
        zero_low, zero_high = interval(cell.values[ZEROED])
        holds = leak_high < 0 and nll_high <= MARGIN and zero_high < 0
        holding += [cell.name] if holds else []
        lines.append(
            f"{'HOLDS' if holds else '-':>5}  {cell.name}: leakage {leak_low:+.3f} to {leak_high:+.3f}, "
            f"NLL {nll_low:+.3f} to {nll_high:+.3f}, zeroing changes accuracy by {100 * zero_low:+.1f} to "
            f"{100 * zero_high:+.1f} points"
        )
    claim = f"a point that leaks less at an NLL not worse by more than {MARGIN} nats and whose latents matter"
    end = f"AMVL has {claim}: {', '.join(holding)}." if holding else f"AMVL has no {claim}, at 95 % intervals over seeds."
    return "\n".join([*lines, end])


def draw(results: Sequence[Result]) -> Figure:
    """Leaked information against NLL, a point per cell with intervals over seeds, betas written beside the points."""
    page = Figure(figsize=(6.5, 4.6), layout="constrained")
    ax = page.subplots()
    found = cells(results)
    for gamma in (None, *sorted({cell.gamma for cell in found if cell.gamma is not None})):
        group = sorted((cell for cell in found if cell.gamma == gamma), key=lambda cell: cell.beta)
        marker, colour = _STYLE.get(gamma, ("v", "#009E73"))
        label = "forward-only" if gamma is None else f"AMVL, gamma = {gamma:g}"
        x, y = ([cell.mean(metric) for cell in group] for metric in (LEAK, NLL))
        errors = [
            np.abs(np.array([interval(cell.values[metric]) for cell in group]).T - np.array(centre))
            for metric, centre in ((LEAK, x), (NLL, y))
        ]
        ax.errorbar(
            x, y, xerr=errors[0], yerr=errors[1], marker=marker, color=colour, label=label, lw=1, elinewidth=0.6, ms=5
        )
        for cell, x_value, y_value in zip(group, x, y, strict=True):
            ax.annotate(f"{cell.beta:g}", (x_value, y_value), (4, 4), textcoords="offset points", fontsize=7, color=colour)
    ax.set_xlabel("leaked information of the posterior, held-out questions [nats]")
    ax.set_ylabel("held-out answer NLL, prior mean [nats]")
    seeds = min((len(cell.seeds) for cell in found), default=0)
    ax.set_title(f"mean and 95 % interval over {seeds} seeds; numbers are beta", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return page
