"""Fig. 1: one query, two passes, as the shipped model ran them on a real batch.

Two synthetic BLINK questions are collated by the shipped processor and go once through `AMVLForConditionalGeneration.forward`.
Positions, masks and what the last layer computes are those that the model handed to its own text model, recorded on the way; the
rows of x have no mask in memory (a causal kernel runs them) and are drawn as that kernel computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from amvl_model.results.provenance import PROJECT_ROOT
from amvl_style import GREY, SERIES
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import page

TITLE = "architecture: one query, two passes; tokens, positions and masks of a real batch"
CHECKPOINT = "tiny-amvl"
QUESTIONS = ("Counting", "Object_Localization")
PRIOR, POSTERIOR, ANSWER, INJECTED, FRAME = (each.colour for each in SERIES[:5])
COLOURS = {
    "images of x": "#9A9A9A",
    "words of x": "#C9C9C9",
    "prior latents": PRIOR,
    "posterior latents": POSTERIOR,
    "injected samples": INJECTED,
    "answer y": ANSWER,
    "padding": "white",
}
ROW_NAMES = {
    "prior latents": "prior",
    "posterior latents": "posterior",
    "injected samples": "injected",
    "answer y": "y",
}
X_WIDTH = 11.0
"""Width of x, in widths of a short token."""


@dataclass(frozen=True)
class Pass:
    """One pass as it ran, of one example.

    Attributes:
        kinds: of every token, a key of `COLOURS`; x first.
        positions: of every token (first axis of M-RoPE).
        visible: (tokens, tokens), True where the row's token attends to the column's.
        computed: (tokens,), whether the last layer computes the token's hidden state.
        here: (tokens,), whether the token is run in this pass (x is not, in pass 2: its keys and values are read).
        prefix: number of tokens of x, padding included.
    """

    kinds: tuple[str, ...]
    positions: np.ndarray
    visible: np.ndarray
    computed: np.ndarray
    here: np.ndarray
    prefix: int


def record() -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """What the model passed to its text model in each pass, the batch, and k."""
    import torch

    from amvl_model.data.synthetic import synthetic_question
    from amvl_model.models.loading import load_checkpoint

    torch.set_num_threads(1)
    model, processor = load_checkpoint(CHECKPOINT)
    questions = [synthetic_question(task, split="test", index=0) for task in QUESTIONS]
    batch = processor(questions)
    calls: list[dict[str, Any]] = []
    inner = model._text_model

    def spy(embeddings: Any, positions: Any, mask: Any, cache: Any) -> Any:
        calls.append(
            {
                "tokens": embeddings.shape[1],
                "positions": positions[0].numpy(),
                "mask": mask[:, 0].numpy(),
                "record": getattr(cache, "record", None),
                "read": getattr(cache, "read", None),
            }
        )
        return inner(embeddings, positions, mask, cache)

    model._text_model = spy
    with torch.no_grad():
        model(**batch, latents="posterior_mean")
    plain: dict[str, Any] = {name: value.numpy() for name, value in batch.items() if name != "pixel_values"}
    plain["is_image"] = plain["input_ids"] == processor.image_token_id
    plain["answer_tokens"] = [
        processor.tokenizer.convert_ids_to_tokens(ids[mask.astype(bool)].tolist())
        for ids, mask in zip(plain["answer_ids"], plain["answer_mask"], strict=True)
    ]
    return calls, plain, int(model.config.num_latents)


def passes(calls: list[dict[str, Any]], batch: dict[str, Any], k: int, example: int) -> tuple[Pass, Pass]:
    """Both passes of one example."""
    first, second = calls
    real = batch["attention_mask"][example].astype(bool)
    x = tuple(
        "padding" if not there else "images of x" if image else "words of x"
        for there, image in zip(real, batch["is_image"][example], strict=True)
    )
    prefix = len(x)
    y = tuple("answer y" if there else "padding" for there in batch["answer_mask"][example])
    kinds = x + ("prior latents",) * k + ("posterior latents",) * k + y
    short = first["mask"].shape[1]
    visible = np.zeros((prefix + short,) * 2, dtype=bool)
    visible[:prefix, :prefix] = np.tril(np.ones((prefix, prefix), dtype=bool)) & real
    visible[prefix:] = first["mask"][example]
    computed = np.zeros(prefix + short, dtype=bool)
    computed[slice(*(first["read"] or (0, None)))] = True
    one = Pass(kinds, first["positions"][example], visible, computed, np.ones(prefix + short, dtype=bool), prefix)
    rows = second["mask"].shape[1]
    kinds = x + ("injected samples",) * k + y[: rows - k]
    visible = np.zeros((prefix + rows,) * 2, dtype=bool)
    visible[prefix:] = second["mask"][example]
    here = np.arange(prefix + rows) >= prefix
    positions = np.concatenate([one.positions[:prefix], second["positions"][example]])
    return one, Pass(kinds, positions, visible, here.copy(), here, prefix)


def draw(sources: Sources) -> Drawn:
    """Both passes side by side, at one scale, and in words what joins them."""
    calls, batch, k = record()
    assets = PROJECT_ROOT / "amvl_model" / "assets" / CHECKPOINT
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        sources.file(assets / name, kind="shipped checkpoint")
    sources.compute(record, checkpoint=CHECKPOINT, questions=QUESTIONS, split="test", index=0)
    example = int(np.argmin(batch["attention_mask"].sum(1)))
    one, two = passes(calls, batch, k, example)
    figure = page(4.2)
    ax = figure.subplots()
    ax.axis("off")
    draw_pass(ax, one, 0.0, "(a) pass 1: x is encoded once")
    right = float(_edges(one)[-1]) + 5.2
    bottom = draw_pass(ax, two, right, "(b) pass 2: y is decoded behind samples")
    ax.text(right, bottom + 1.2, _words(one, batch, k, example), va="top", linespacing=1.35)
    ax.set(xlim=(-4.6, right + float(_edges(two)[-1]) + 0.2), ylim=(float(_edges(one)[-1]) + 0.2, -4.6))
    ax.set_aspect("equal")
    handles = [
        Patch(facecolor=colour, edgecolor=GREY, lw=0.4, hatch="////" if name == "padding" else None, label=name)
        for name, colour in COLOURS.items()
    ]
    handles.append(Patch(facecolor="white", edgecolor=FRAME, lw=1.2, label="rows whose output the last layer computes"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return Drawn(figure)


def _words(one: Pass, batch: dict[str, Any], k: int, example: int) -> str:
    """The batch, and what joins the two passes."""
    images = sum(kind == "images of x" for kind in one.kinds)
    words = sum(kind == "words of x" for kind in one.kinds)
    padding = sum(kind == "padding" for kind in one.kinds[: one.prefix])
    answer = " ".join(batch["answer_tokens"][example])
    return (
        f"One of {len(batch['input_ids'])} questions of the batch:\n"
        f"x: {images} image and {words} word tokens\n"
        f"    ({padding} more of padding)\n"
        f"y: {answer}\n"
        f"k = {k} latents\n"
        "prior rows → head → p(z|x)\n"
        "posterior rows → head → q(z|x,y)\n"
        "injected: z ~ q in training, z ~ p at inference\n"
        "x in pass 2: keys and values of pass 1"
    )


def draw_pass(ax: Axes, each: Pass, left: float, title: str) -> float:
    """Who attends whom: a row a query, coloured by its own kind, a column a key; above, the tokens and their positions.

    Rows that the pass does not run are left out. Returns the lower end.
    """
    edges = _edges(each)
    first = 0 if each.here[0] else each.prefix
    across, down = left + edges, edges - edges[first]
    total, n = float(across[-1]), len(each.kinds)
    for row in range(first, n):
        for start, end in _runs(each.visible[row]):
            _box(ax, across[start], down[row], across[end], down[row + 1], facecolor=COLOURS[each.kinds[row]], lw=0)
    for start, end in _runs(np.array([kind == "padding" for kind in each.kinds])):
        _box(ax, across[start], 0.0, across[end], down[-1], facecolor="white", edgecolor=GREY, hatch="////", lw=0)
    for i in range(each.prefix, n + 1):
        ax.plot([left, total], [down[i]] * 2, color="white", lw=0.5)
        ax.plot([across[i]] * 2, [0.0, down[-1]], color="white", lw=0.5)
    _strip(ax, each, across)
    for start, end in _runs(each.computed):
        _box(ax, left, down[start], total, down[end], facecolor="none", edgecolor=FRAME, lw=1.2, zorder=5)
    for name, short in ROW_NAMES.items():
        rows = [i for i in range(first, n) if each.kinds[i] == name]
        if rows:
            ax.text(left - 0.3, (down[rows[0]] + down[rows[-1] + 1]) / 2, short, ha="right", va="center")
    if first == 0:
        ax.text(left - 0.3, down[each.prefix] / 2, "x", ha="right", va="center")
    ax.text(left, -4.5, title, weight="bold", va="top")
    return float(down[-1])


def _strip(ax: Axes, each: Pass, across: np.ndarray) -> None:
    """The tokens in one row above, with their positions."""
    low, high = -1.25, -0.25
    for i, kind in enumerate(each.kinds):
        hatch = {"hatch": "////", "edgecolor": GREY} if kind == "padding" else {}
        _box(ax, across[i], low, across[i + 1], high, facecolor=COLOURS[kind], lw=0, **hatch)
        if i >= each.prefix:
            _box(ax, across[i], low, across[i + 1], high, facecolor="none", edgecolor="white", lw=0.6)
            if kind != "padding":
                middle = (across[i] + across[i + 1]) / 2
                ax.text(middle, low - 0.2, str(each.positions[i]), ha="center", va="bottom", rotation=90)
    real = [i for i in range(each.prefix) if each.kinds[i] != "padding"]
    last = int(each.positions[real].max())
    ax.text((across[0] + across[each.prefix]) / 2, low - 0.2, f"positions 0 … {last}", ha="center", va="bottom")


def _box(ax: Axes, x0: float, y0: float, x1: float, y1: float, **options: Any) -> None:
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **options))


def _edges(each: Pass) -> np.ndarray:
    """Where tokens begin and end: x takes `X_WIDTH` in all, every short token 1."""
    widths = np.ones(len(each.kinds))
    widths[: each.prefix] = X_WIDTH / each.prefix
    return np.concatenate([[0.0], np.cumsum(widths)])


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of every stretch of True."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(bounds[::2].tolist(), bounds[1::2].tolist(), strict=True))
