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

from amvl_model.results import PROJECT_ROOT
from paper_figs.build import Drawn
from paper_figs.sources import Sources
from paper_figs.style import BLUE, GREEN, GREY, ORANGE, PINK, VERMILLION, page

TITLE = "architecture: one query, two passes; tokens, positions and masks of a real batch"
CHECKPOINT = "tiny-amvl"
QUESTIONS = ("Counting", "Object_Localization")
COLOURS = {
    "pictures of x": "#9A9A9A",
    "words of x": "#C9C9C9",
    "prior latents": BLUE,
    "posterior latents": VERMILLION,
    "injected samples": ORANGE,
    "answer y": GREEN,
    "padding": "white",
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
    from amvl_model.run import load_checkpoint

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
                "record": cache.record,
                "read": cache.read,
            }
        )
        return inner(embeddings, positions, mask, cache)

    model._text_model = spy
    with torch.no_grad():
        model(**batch, latents="posterior_mean")
    plain = {name: value.numpy() for name, value in batch.items() if name != "pixel_values"}
    plain["is_picture"] = plain["input_ids"] == processor.image_token_id
    return calls, plain, int(model.config.num_latents)


def passes(calls: list[dict[str, Any]], batch: dict[str, Any], k: int, example: int) -> tuple[Pass, Pass]:
    """Both passes of one example."""
    first, second = calls
    real = batch["attention_mask"][example].astype(bool)
    x = tuple(
        "padding" if not there else "pictures of x" if picture else "words of x"
        for there, picture in zip(real, batch["is_picture"][example], strict=True)
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
    """Both passes side by side."""
    calls, batch, k = record()
    assets = PROJECT_ROOT / "amvl_model" / "assets" / CHECKPOINT
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        sources.file(assets / name, kind="shipped checkpoint")
    sources.compute(record, checkpoint=CHECKPOINT, questions=QUESTIONS, split="test", index=0)
    lengths = batch["attention_mask"].sum(1)
    example = int(np.argmin(lengths))
    both = passes(calls, batch, k, example)
    figure = page(4.25)
    axes = figure.subplots(1, 2, width_ratios=[_edges(each)[-1] for each in both])
    names = ("(a) pass 1: x is encoded once", "(b) pass 2: y is decoded from samples")
    for ax, each, title in zip(axes, both, names, strict=True):
        draw_pass(ax, each)
        ax.set_title(title, pad=23)
    figure.legend(
        handles=[
            *(
                Patch(facecolor=colour, edgecolor=GREY, lw=0.4, hatch="////" if name == "padding" else None, label=name)
                for name, colour in COLOURS.items()
            ),
            Patch(facecolor="white", edgecolor=PINK, lw=1.2, label="last layer computes this row's output"),
        ],
        loc="outside lower center",
        ncols=4,
    )
    return Drawn(figure)


def draw_pass(ax: Axes, each: Pass) -> Axes:
    """Who attends whom: a row a query, coloured by its own kind, a column a key; above, the tokens and their positions."""
    edges = _edges(each)
    total, n = edges[-1], len(each.kinds)
    for row in range(n):
        if not each.here[row]:
            continue
        for start, end in _runs(each.visible[row]):
            shape = (edges[start], edges[row]), edges[end] - edges[start], edges[row + 1] - edges[row]
            ax.add_patch(Rectangle(*shape, facecolor=COLOURS[each.kinds[row]], lw=0))
    _padding(ax, each, edges)
    for line in edges[each.prefix :]:
        ax.plot([0, total], [line, line], color="white", lw=0.5)
        ax.plot([line, line], [0, total], color="white", lw=0.5)
    strip = -1.25
    for i in range(n):
        ax.add_patch(
            Rectangle((edges[i], strip), edges[i + 1] - edges[i], 1.0, facecolor=COLOURS[each.kinds[i]], lw=0,
                      hatch="////" if each.kinds[i] == "padding" else None, edgecolor=GREY)
        )  # fmt: skip
        if i >= each.prefix:
            ax.add_patch(Rectangle((edges[i], strip), 1, 1, facecolor="none", edgecolor="white", lw=0.6))
            if each.kinds[i] != "padding":
                middle = edges[i] + 0.5
                ax.text(middle, strip - 0.25, str(each.positions[i]), ha="center", va="bottom", rotation=90)
    real = [i for i in range(each.prefix) if each.kinds[i] != "padding"]
    last = int(each.positions[real].max())
    ax.text(edges[each.prefix] / 2, strip - 0.25, f"positions 0 … {last}", ha="center", va="bottom")
    _labels(ax, each, edges)
    for start, end in _runs(each.computed):
        ax.add_patch(
            Rectangle(
                (0, edges[start]), total, edges[end] - edges[start], facecolor="none", edgecolor=PINK, lw=1.2, zorder=5
            )
        )
    ax.set_xlim(-0.1, total + 0.1)
    ax.set_ylim(total + 0.1, strip - 2.6)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def _labels(ax: Axes, each: Pass, edges: np.ndarray) -> None:
    """The block's name beside its rows."""
    names = {
        "prior latents": "prior",
        "posterior latents": "posterior",
        "injected samples": "injected",
        "answer y": "y",
    }
    for name, short in names.items():
        rows = [i for i in range(each.prefix, len(each.kinds)) if each.kinds[i] == name]
        if rows:
            ax.text(-0.3, (edges[rows[0]] + edges[rows[-1] + 1]) / 2, short, ha="right", va="center")
    x = "x" if each.here[0] else "x: keys and\nvalues of pass 1"
    where = edges[each.prefix] / 2
    if each.here[0]:
        ax.text(-0.3, where, x, ha="right", va="center")
    else:
        ax.text(where, where, x, ha="center", va="center", color=GREY)


def _padding(ax: Axes, each: Pass, edges: np.ndarray) -> None:
    for start, end in _runs(np.array([kind == "padding" for kind in each.kinds])):
        first = 0.0 if each.here[0] else edges[each.prefix]
        shape = (edges[start], first), edges[end] - edges[start], edges[-1] - first
        ax.add_patch(Rectangle(*shape, facecolor="white", edgecolor=GREY, hatch="////", lw=0))


def _edges(each: Pass) -> np.ndarray:
    """Where tokens begin and end: x takes `X_WIDTH` in all, every short token 1."""
    widths = np.ones(len(each.kinds))
    widths[: each.prefix] = X_WIDTH / each.prefix
    return np.concatenate([[0.0], np.cumsum(widths)])


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of every stretch of True."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(bounds[::2].tolist(), bounds[1::2].tolist(), strict=True))
