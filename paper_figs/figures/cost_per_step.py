"""Cost of a training step against the alternatives: computed from the layouts, and measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from amvl_model.profiling.throughput.grid import BASE_ANSWER, BASE_LATENTS, SIZES, model_flops, segments, token_ratio
from amvl_model.results.files import Result
from amvl_style import GREY, METHODS, look, marks
from paper_figs.build import Drawn
from paper_figs.ours import THROUGHPUT
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "cost per training step against plain fine-tuning, three full passes and sequential latents"
SHOWN = ("two-pass", "three-pass", "sequential")


def draw(sources: Sources) -> Drawn:
    """Left: floating-point operations, computed. Right: step times, measured, over the same ratio in tokens."""
    results = [r for r in sources.study("throughput", THROUGHPUT) if r.extra.get("status") == "done"]
    figure = page(2.8)
    left, right = figure.subplots(1, 2)
    _computed(left, sources)
    _measured(right, [r for r in results if r.config["kind"] == "train"])
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
    ax.set_ylim(0, 4.4)
    ax.set_xlabel("query tokens N [tokens]")
    ax.set_ylabel("operations / plain fine-tuning's [1]")
    ax.set_title(f"(a) computed: 7B, |y| = {BASE_ANSWER}, k = {BASE_LATENTS}")
    ax.legend(ncols=2, loc="upper left")


def _measured(ax: Axes, results: Sequence[Result]) -> None:
    """Step-time ratios with their intervals; the line is equality with the ratio of tokens."""
    floors = []
    for result in results:
        floor = result.metrics.get("token_ratio")
        for method in SHOWN:
            ratio = result.metrics.get(f"ratio.{method}")
            if floor is None or floor.value is None or ratio is None or ratio.value is None:
                continue
            floors.append(floor.value)
            low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
            bars = [[ratio.value - low], [high - ratio.value]]
            face = {"markerfacecolor": METHODS[method].colour} if result.config["checkpointing"] else {}
            ax.errorbar(floor.value, ratio.value, yerr=bars, elinewidth=0.7, capsize=0, **(marks(method) | face))
    if not floors:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color=GREY)
        ax.set_xticks([])
        ax.set_yticks([])
    else:
        ax.plot([1, max(floors)], [1, max(floors)], color="black", lw=0.8, label="ratio = r")
        for method in SHOWN:
            ax.plot([], [], label=METHODS[method].label, **marks(method))
        ax.plot([], [], marker="o", ls="none", color=GREY, label="filled: checkpointing")
        sizes = sorted({str(r.config["size"]) for r in results})
        devices = sorted({str(r.config["device"]) for r in results})
        ax.set_title(f"(b) measured: {', '.join(sizes)} on {', '.join(devices)}")
        ax.set_ylim(bottom=0)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * 1.45)
        ax.legend(ncols=2, loc="upper left")
    if not floors:
        ax.set_title("(b) measured")
    ax.set_xlabel("tokens r = (N + 3k + 2|y|) / (N + |y|) [1]")
    ax.set_ylabel("step time / plain fine-tuning's [1]")
