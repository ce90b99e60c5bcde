"""Table, verdicts and figure of the results of a throughput run. Reads results only; free of torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amvl_model.profiling.doctor import GIB
from amvl_model.profiling.throughput.grid import segments
from amvl_model.results.files import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO_MARGIN = 0.03
THREE_PASS_FACTOR = 2.5
PEAK_FACTOR = 1.10
FIRST_TOKEN_STEPS = 1.2
SAMPLES_FACTOR = 1.5
COLLECTIVES_FACTOR = 2
LATENTS_MARGIN = 0.05
LINEAR_MARGIN = 0.05  # above 1, or above plain fine-tuning's exponent, which attention lifts for long sequences
GRADIENT_TOLERANCE = 1e-5
UTILISATION = 0.45
PROFILE_LINES = 12


@dataclass(frozen=True)
class Verdict:
    """One requirement and what came out; ``passed`` is None where it was not measured."""

    requirement: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        word = {True: "met", False: "NOT met", None: "not measured"}[self.passed]
        return f"{word:<12}  {self.requirement}: {self.detail}"


def value(result: Result, name: str) -> float | None:
    """A metric's figure, None where there is none."""
    return result.metrics[name].value if name in result.metrics else None


def table(results: Sequence[Result]) -> str:
    """The terminal's table: one line a training cell and method, then the other kinds."""
    heading = (
        "size",
        "batch",
        "N",
        "|y|",
        "k",
        "ckpt",
        "method",
        "step [s]",
        "tokens/s",
        "ratio",
        "r",
        "activ. [GiB]",
        "peak [GiB]",
        "MFU",
    )
    rows = [heading]
    others = []
    for result in results:
        c = result.config
        start = (
            c["size"],
            str(c["batch"]),
            str(c["length"]),
            str(c["answer"]),
            str(c["latents"]),
            "yes" if c["checkpointing"] else "no",
        )
        if result.extra.get("status") != "done":
            others.append(f"{result.cell}: {result.extra.get('status')} ({result.extra.get('reason')})")
        elif c["kind"] in ("train", "memory"):
            rows += [(*start, method, *_figures(result, method)) for method in c["methods"]]
        else:
            figures = ", ".join(f"{name} {_plain(m.value)} {m.unit}" for name, m in result.metrics.items())
            others.append(f"{result.cell}: {figures}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(lines if len(rows) > 1 else []), *others])


def profiles(results: Sequence[Result]) -> str:
    """What the profiled steps spend their time on, a paragraph a cell and method; empty without profiles."""
    parts = []
    for result in results:
        for method, outcome in (result.extra.get("profile") or {}).items():
            idle = "" if outcome["idle"] is None else f", device idle {outcome['idle']:.0%}"
            lines = [f"{result.cell}, {method}: {outcome['wall_seconds']:.4g} s with the profiler{idle}"]
            for row in outcome["operations"][:PROFILE_LINES]:
                lines.append(f"  {row['share']:6.1%}  {row['seconds']:9.4g} s  {row['calls']:6d} x  {row['name'][:80]}")
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _figures(result: Result, method: str) -> tuple[str, ...]:
    def gib(name: str) -> str:
        number = value(result, f"{name}.{method}")
        return "-" if number is None else f"{number / GIB:.3f}"

    used = value(result, f"utilisation.{method}")
    return (
        _plain(value(result, f"step_seconds.{method}")),
        _plain(value(result, f"tokens_per_second.{method}")),
        "1" if method == "sft" else _plain(value(result, f"ratio.{method}")),
        _plain(value(result, "token_ratio")) if method == "two-pass" else "",
        gib("activation_bytes"),
        gib("peak_bytes"),
        "-" if used is None else f"{used:.0%}",
    )


def _plain(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Every requirement against what was measured."""
    done = [result for result in results if result.extra.get("status") == "done"]
    train = [r for r in done if r.config["kind"] == "train"]
    outcome = [
        _all(
            "step time at most r + 0.03 times SFT's", train, _ratio_margin, lambda x: x <= RATIO_MARGIN, "excess over r"
        ),
        _all(
            "three passes at least 2.5 times SFT at N = 768, |y| = 16",
            [r for r in train if (r.config["length"], r.config["answer"]) == (768, 16)],
            lambda r: value(r, "ratio.three-pass"),
            lambda x: x >= THREE_PASS_FACTOR,
            "ratio",
        ),
        _all(
            "peak memory at most 1.10 times SFT's (300m)",
            [r for r in done if r.config["kind"] in ("train", "memory") and r.config["size"] == "300m"],
            _peak_ratio,
            lambda x: x <= PEAK_FACTOR,
            "ratio",
        ),
    ]
    gradients = [r for r in done if r.config["kind"] == "gradients"]
    difference = _metric("gradient_difference")
    outcome.append(
        _all(
            "gradients equal the three-pass reference",
            gradients,
            difference,
            lambda x: x <= GRADIENT_TOLERANCE,
            "difference",
        )
    )
    sharded = [r for r in done if r.config["kind"] == "sharded"]
    for name in ("gathers", "reductions"):
        outcome.append(
            _all(
                f"FSDP2 {name} at most twice SFT's",
                sharded,
                _collectives(name),
                lambda x: x <= COLLECTIVES_FACTOR,
                "ratio",
            )
        )
    outcome.append(_all("FSDP2 gradients equal one process", sharded, difference, lambda x: x <= 1e-4, "difference"))
    infer = [r for r in done if r.config["kind"] == "infer"]
    first, eight = _metric("first_token_extra_steps"), _metric("eight_samples_over_one")
    outcome += [
        _all("first token at most plain's + 1.2 decode steps", infer, first, lambda x: x <= FIRST_TOKEN_STEPS, "steps"),
        _all("8 latent samples at most 1.5 times one", infer, eight, lambda x: x <= SAMPLES_FACTOR, "ratio"),
    ]
    seven = [r for r in train if r.config["size"] == "7b" and r.config["device"] == "cuda"]
    used = _metric("utilisation.two-pass")
    outcome.append(
        _all("7B at 45 % model-flops utilisation or better", seven, used, lambda x: x >= UTILISATION, "fraction")
    )
    return [*outcome, *_linearity(train), *_latents(train)]


def _metric(name: str) -> Callable[[Result], float | None]:
    return lambda result: value(result, name)


def _collectives(name: str) -> Callable[[Result], float | None]:
    return lambda result: _over(value(result, f"{name}.two-pass"), value(result, f"{name}.sft"))


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _ratio_margin(result: Result) -> float | None:
    ratio, floor = value(result, "ratio.two-pass"), value(result, "token_ratio")
    return None if ratio is None or floor is None else ratio - floor


def _peak_ratio(result: Result) -> float | None:
    return _over(value(result, "peak_bytes.two-pass"), value(result, "peak_bytes.sft"))


def _all(
    requirement: str,
    results: Sequence[Result],
    figure: Callable[[Result], float | None],
    test: Callable[[float], bool],
    label: str,
) -> Verdict:
    """Whether every cell that has the figure passes; names those that do not."""
    figures = [(result.cell, number) for result in results if (number := figure(result)) is not None]
    if not figures:
        return Verdict(requirement, None, "no cell has this figure")
    failing = [f"{cell} {number:.3g}" for cell, number in figures if not test(number)]
    numbers = [number for _, number in figures]
    span = f"{label} {min(numbers):.3g} to {max(numbers):.3g} over {len(numbers)} cells"
    return Verdict(requirement, not failing, span + (f"; not met in {', '.join(failing)}" if failing else ""))


def _groups(results: Sequence[Result], free: str) -> dict[tuple[Any, ...], list[Result]]:
    """Results that differ in one setting alone."""
    fixed = [
        name
        for name in ("size", "length", "answer", "latents", "checkpointing", "batch", "device", "dtype")
        if name != free
    ]
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        if value(result, "step_seconds.two-pass") is not None:
            groups[tuple(result.config[name] for name in fixed)].append(result)
    return {key: sorted(group, key=lambda r: r.config[free]) for key, group in groups.items()}


def exponent(lengths: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Slope of log seconds over log length, and its standard error (nan with two points)."""
    x, y = np.log(np.asarray(lengths, float)), np.log(np.asarray(seconds, float))
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residual = y - y.mean() - slope * centred
    spread = float(residual @ residual) / (len(x) - 2) if len(x) > 2 else math.nan
    return slope, math.sqrt(spread / float(centred @ centred))


def _tokens(group: Sequence[Result], method: str) -> list[int]:
    """Tokens that a step of the method runs, for every result."""
    settings = (result.config for result in group)
    return [sum(new for new, _ in segments(method, c["length"], c["answer"], c["latents"])) for c in settings]


def _linearity(results: Sequence[Result]) -> list[Verdict]:
    """The exponent of the time in the tokens of the layout while N grows; plain fine-tuning's own stands beside it."""
    result = []
    for key, group in _groups(results, "length").items():
        if len(group) < 4:
            continue
        lengths = [r.config["length"] for r in group]
        parts, slopes = [], {}
        for method in ("two-pass", "sft"):
            seconds = [value(r, f"gradient_seconds.{method}") for r in group]
            if None not in seconds:
                slopes[method], error = exponent(_tokens(group, method), [s for s in seconds if s is not None])
                parts.append(f"{method} tokens^{slopes[method]:.3f} +- {error:.3f}")
        activations = "checkpointing" if key[3] else "no checkpointing"
        passed = None if len(slopes) < 2 else slopes["two-pass"] <= max(1.0, slopes["sft"]) + LINEAR_MARGIN
        detail = f"{', '.join(parts)} (forward and backward pass, {len(lengths)} lengths)"
        result.append(
            Verdict(f"cost linear in the tokens as N grows ({key[0]}, |y| = {key[1]}, {activations})", passed, detail)
        )
    return result or [
        Verdict("cost linear in the tokens as N grows, over four lengths", None, "fewer than four lengths")
    ]


def _latents(results: Sequence[Result]) -> list[Verdict]:
    """Step time over k against r's prediction, relative to the smallest k."""
    worst: list[float] = []
    for group in _groups(results, "latents").values():
        first = group[0]
        for later in group[1:]:
            measured = _over(value(later, "ratio.two-pass"), value(first, "ratio.two-pass"))
            predicted = _over(value(later, "token_ratio"), value(first, "token_ratio"))
            if measured is not None and predicted is not None:
                worst.append(abs(measured / predicted - 1))
    name = "cost in k as r predicts, within 5 %"
    if not worst:
        return [Verdict(name, None, "one number of latents only")]
    return [Verdict(name, max(worst) <= LATENTS_MARGIN, f"largest deviation {max(worst):.1%} over {len(worst)} pairs")]


METHODS = ("two-pass", "three-pass", "sequential")


def draw_ratios(ax: Axes, results: Sequence[Result]) -> Axes:
    """Measured step-time ratio against the token ratio r, one mark per cell and method; the line is equality.

    Runs with gradient checkpointing are filled and drawn a little to the right of those without.
    """
    from amvl_style import look_of, marks

    floors, named = [], set()
    for result in results:
        floor = value(result, "token_ratio")
        for method in METHODS:
            ratio = result.metrics.get(f"ratio.{method}")
            if floor is None or ratio is None or ratio.value is None:
                continue
            floors.append(floor)
            low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
            error = [[ratio.value - low], [high - ratio.value]]
            shown, checkpointing = look_of(method), result.config["checkpointing"]
            face = {"markerfacecolor": shown.colour} if checkpointing else {}
            place = floor + (0.004 if checkpointing else -0.004)
            ax.errorbar(place, ratio.value, yerr=error, elinewidth=0.7, capsize=0, **marks(method) | face)
            if method != METHODS[0] and method not in named:
                named.add(method)
                beside: dict[str, Any] = {"xytext": (-12, 7), "textcoords": "offset points", "color": shown.colour}
                ax.annotate(shown.label, (floor, high), **beside)
    ax.set_yscale("log")
    if floors:
        line = np.linspace(1, max(floors))
        ax.plot(line, line, color="black", lw=0.8, label="step time as the tokens: ratio = r")
        ax.set_ylim(0.85, max(1.9, 1.35 * ax.dataLim.y1))
        ticks = [tick for tick in (1, 1.2, 1.5, 2, 3, 5, 8, 12) if tick < ax.get_ylim()[1]]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    own = marks(METHODS[0])
    ax.plot([], [], label=look_of(METHODS[0]).label, **own)
    ax.plot([], [], label="the same, gradient checkpointing", **own | {"markerfacecolor": own["color"]})
    ax.set(
        xlabel="token ratio r = (N + 3k + 2|y|) / (N + |y|) [1]",
        ylabel="step time / plain fine-tuning's [1]\nmedians and quartiles",
    )
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.85))
    return ax


def draw_lengths(axes: Sequence[Axes], results: Sequence[Result]) -> None:
    """Seconds of forward and backward pass over N, a panel per setting; exponents are fitted to the layout's tokens."""
    from amvl_style import look_of

    for ax, (key, group) in zip(axes, _long(results).items(), strict=True):
        lengths = [r.config["length"] for r in group]
        for method in ("sft", "two-pass"):
            seconds = [s for r in group if (s := value(r, f"gradient_seconds.{method}")) is not None]
            if len(seconds) != len(lengths):
                continue
            slope, _ = exponent(_tokens(group, method), seconds)
            shown = look_of(method)
            label = f"{shown.label}: tokens$^{{{slope:.2f}}}$"
            ax.plot(lengths, seconds, marker=shown.marker, color=shown.colour, ls=shown.line, label=label)
        ax.set_title(f"{key[0]}, |y| = {key[1]}{', checkpointing' if key[3] else ''}")
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, [str(length) for length in lengths], rotation=45)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("query tokens N [tokens]")
        ax.legend(loc="upper left")
    if axes:
        axes[0].set_ylabel("forward and backward pass [s]")


def _long(results: Sequence[Result]) -> dict[tuple[Any, ...], list[Result]]:
    """Groups with three lengths or more."""
    groups = _groups(results, "length")
    return {key: group for key, group in groups.items() if len({r.config["length"] for r in group}) >= 3}


def figure(results: Sequence[Result]) -> Figure:
    """Ratios, and below them the time over N in every setting."""
    from matplotlib.figure import Figure

    from amvl_style import styled

    train = [r for r in results if r.config["kind"] == "train" and r.extra.get("status") == "done"]
    count = len(_long(train))
    with styled(1.2):
        page = Figure(figsize=(12, 7.4 if count else 4.2))
        grid = page.add_gridspec(2 if count else 1, max(count, 1))
        draw_ratios(page.add_subplot(grid[0, :]), train)
        below: list[Axes] = []
        for i in range(count):
            below.append(page.add_subplot(grid[1, i], sharey=below[0] if below else None))
        draw_lengths(below, train)
        for ax in below[1:]:
            ax.tick_params(labelleft=False)
    return page
