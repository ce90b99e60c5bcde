"""A leak that widens, and a decoder that learns: widening at a fixed gap (T10), no resting point under dual KL (T12)."""

from __future__ import annotations

from amvl_theory.figures import seeds
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "widening at a fixed gap, co-adaptation without a resting point, and the starved route from x (T10, T12)"
SEEDS = 200


def draw(sources: Sources) -> Drawn:
    """Four panels; thin dotted lines are limits."""
    figure = page(4.8)
    wide, leak, width, starved = figure.subplots(2, 2).ravel()
    seeds.lines(
        seeds.widening_paths(SEEDS), "gamma", "step", "leaked_nats", ax=wide, name="γ = {:g}", xlabel="time [steps]",
        ylabel="leaked [nats]", title="(a) Fixed gap: the leak falls like 1/(γ t)", yscale="log", loc="lower left",
    )  # fmt: skip
    wide.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    wide.minorticks_off()
    paths = seeds.coadapted_paths()
    for ax, value, label, title in (
        (leak, "snr", "ρ = a²/σ$_q$² [1]", "(b) Learning decoder: the leak tends to a limit"),
        (width, "prior_std", "σ$_p$ [latent]", "(c) the widths do not, under dual KL"),
    ):
        seeds.coadapted_panel(paths, value, ax=ax, ylabel=label, title=title)
    seeds.starving_panel(seeds.starving_paths(SEEDS), ax=starved)
    starved.set_title("(d) The leak starves the route from x")
    for function in (seeds.widening_paths, seeds.starving_paths):
        sources.compute(function, seeds=SEEDS)
    sources.compute(seeds.coadapted_paths)
    return Drawn(figure)
