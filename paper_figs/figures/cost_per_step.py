"""Cost of a training step against the alternatives: computed from the layouts, and measured."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from amvl_model.profiling.throughput.grid import BASE_ANSWER, BASE_LATENTS, SIZES, model_flops, segments, token_ratio
from amvl_model.profiling.throughput.report import METHODS as SHOWN
from amvl_model.profiling.throughput.report import draw_ratios
from amvl_style import GREY, METHODS, look
from paper_figs.build import Drawn
from paper_figs.ours import THROUGHPUT
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "cost per training step against plain fine-tuning, three full passes and sequential latents"


def draw(sources: Sources) -> Drawn:
    """Left: floating-point operations, computed. Right: step times, measured, over the same ratio in tokens."""
    results = [r for r in sources.study("throughput", THROUGHPUT) if r.extra.get("status") == "done"]
    figure = page(2.8)
    left, right = figure.subplots(1, 2)
    _computed(left, sources)
    train = [r for r in results if r.config["kind"] == "train"]
    sizes, devices = (", ".join(sorted({str(r.config[key]) for r in train})) for key in ("size", "device"))
    if train:
        draw_ratios(right, train)
    else:
        right.text(0.5, 0.5, "not run", transform=right.transAxes, ha="center", color=GREY)
    right.set_title(f"(b) measured: {sizes} on {devices}" if train else "(b) measured")
    return Drawn(figure)


def _computed(ax: Axes, sources: Sources) -> None:
    lengths = np.unique(np.geomspace(64, 16384, 41).astype(int))
    shape = SIZES["7b"]
    base = [model_flops(shape, segments("sft", int(n), BASE_ANSWER, BASE_LATENTS), BASE_ANSWER) for n in lengths]
    for method in SHOWN:
        flops = [model_flops(shape, segments(method, int(n), BASE_ANSWER, BASE_LATENTS), BASE_ANSWER) for n in lengths]
        ax.plot(lengths, np.array(flops) / base, label=METHODS[method].label, **look(method))
    ratios = [token_ratio(int(n), BASE_ANSWER, BASE_LATENTS) for n in lengths[::5]]
    ax.plot(lengths[::5], ratios, color="black", marker="x", ms=3.5, ls="none", label="tokens r")
    sources.compute(model_flops, size="7b", answer=BASE_ANSWER, latents=BASE_LATENTS, lengths=[64, 16384])
    ax.set_xscale("log", base=2)
    ticks = [64, 256, 1024, 4096, 16384]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set(
        ylim=(0, 4.4), xlabel="query tokens N [tokens]", ylabel="operations / plain fine-tuning's [1]",
        title=f"(a) computed: 7B, |y| = {BASE_ANSWER}, k = {BASE_LATENTS}",
    )  # fmt: skip
    ax.legend(ncols=2, loc="upper left")
