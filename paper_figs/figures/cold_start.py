"""Training without a warm-up: accuracy with the prior's and the posterior's latents, and leaked information, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from amvl_model.results.files import Result
from amvl_model.studies.laboratory.analysis import hardest
from amvl_style import GREY, METHODS, RULE
from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "no warm-up: accuracy with prior and posterior latents, and leaked information, in training"
STUDY = "laboratory-cold"
CELLS = ("ntp,cold", "amvl,cold", "elbo,cold", "ntp+rev,late")
"""Those shown."""


def draw(sources: Sources) -> Drawn:
    """A column per cell, a line per seed."""
    return draw_training(sources, STUDY, CELLS)


def draw_training(sources: Sources, study: str, shown: Sequence[str]) -> Drawn:
    """Those of the cells ``shown`` of a study of the laboratory that have results: a column per cell, a line per seed."""
    results = [result for result in sources.merged(study) if result.cell in shown]
    if not results:
        raise NothingToDrawError
    cells = [cell for cell in shown if cell in {result.cell for result in results}]
    hops, options = hardest(results), results[0].config["recipe"]["objects"]
    figure = page(3.6)
    axes = figure.subplots(2, len(cells), sharex=True, sharey="row", squeeze=False, height_ratios=(1.5, 1))
    for (above, below), cell in zip(axes.T, cells, strict=True):
        own = [result for result in results if result.cell == cell]
        look = METHODS[own[0].config["objective"]]
        _lines(above, own, f"accuracy_{hops}", 100.0, color=look.colour)
        if f"leaked_{hops}" in own[0].extra["curve"][-1]:  # the posterior is trained
            _lines(above, own, f"accuracy_posterior_{hops}", 100.0, color=GREY, linestyle=(0, (3, 1.2)))
            _lines(below, own, f"leaked_{hops}", 1.0, color=look.colour)
        else:
            below.text(0.5, 0.5, "no posterior", transform=below.transAxes, ha="center", va="center", color=GREY)
        above.axhline(100 / options, **RULE)
        below.axhline(math.log(options), **RULE)
        below.set_xlabel("step")
        late = own[0].config.get("schedule", {}).get("gamma_delay", 0) * own[0].extra["curve"][-1]["step"]
        title = fill(look.label, 18) + (f"\nfrom step {late:.0f}" if late else "")
        above.set_title(f"{title}\nn = {len(own)}", color=look.colour)
    axes[0, 0].set(ylim=(0, 104), ylabel=f"accuracy, {hops} hops [%]")
    axes[1, 0].set(ylim=(-0.05, 1.08 * math.log(options)), ylabel="leaked [nats]", xlim=(0, None))
    handles = [
        Line2D([], [], color=GREY, label="posterior's latents (see the answer)", linestyle=(0, (3, 1.2))),
        Line2D([], [], color="black", label="prior's latents"),
        Line2D([], [], label="chance; all there is to leak", **RULE),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return Drawn(figure)


def _lines(ax: Axes, results: Sequence[Result], metric: str, scale: float, **look: object) -> None:
    for result in results:
        points = [(row["step"], scale * row[metric]) for row in result.extra["curve"]]
        ax.plot(*zip(*points, strict=True), alpha=0.8, linewidth=0.9, **look)  # type: ignore[arg-type]
