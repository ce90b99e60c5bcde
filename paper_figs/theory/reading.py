"""How large gamma must be, and for how long it holds: growth of reading, collapse, and the weight that holds (T11)."""

from __future__ import annotations

from amvl_theory.figures import seeds
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "how large gamma must be, and for how long it holds: growth of reading, collapse against budget (T11)"
SEEDS = 1000


def draw(sources: Sources) -> Drawn:
    """Three panels; lines are closed forms, marks simulated ensembles."""
    figure = page(2.6)
    growth, share, weight = figure.subplots(1, 3)
    seeds.growth_panel(seeds.growth_rates(SEEDS), ax=growth)
    seeds.lines(
        seeds.collapse_against_budget(SEEDS), "gamma", "budget", "share", ax=share, name="γ = {:g}", seen="simulated",
        xlabel="budget [steps]", ylabel="share of seeds that read [1]", title="(b) Collapse against budget",
    )  # fmt: skip
    seeds.lines(
        seeds.holding_weights(), "share", "budget", "gamma", ax=weight, name="share {:g}", xlabel="budget [steps]",
        ylabel="γ* [1]", title="(c) γ that holds the share",
    )  # fmt: skip
    growth.set(title="(a) Growth of reading", xlabel="γ [1]")
    for function in (seeds.growth_rates, seeds.collapse_against_budget):
        sources.compute(function, seeds=SEEDS)
    sources.compute(seeds.holding_weights)
    return Drawn(figure)
