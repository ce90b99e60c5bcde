"""One picture with an example of every task."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from amvl_model.data.synthetic.generator import DEFAULT_DIFFICULTY, TASKS, synthetic_question
from amvl_model.data.synthetic.shifted import ShiftedBlink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 2


def example_sheet(
    split: str = "val",
    seed: int = 0,
    index: int = 0,
    difficulty: float = DEFAULT_DIFFICULTY,
    *,
    shifted: bool = False,
) -> Figure:
    """A matplotlib figure: each task's pictures under its name and question, options below, the right one marked.

    With ``shifted`` the pictures are those of `ShiftedBlink`.

    Needs matplotlib (imported here only). The same arguments give the same figure.

    Raises:
        ValueError: as `synthetic_question`.
    """
    from matplotlib.figure import Figure

    rows = -(-len(TASKS) // _COLUMNS)
    figure = Figure(figsize=(14.5, 2.75 * rows), dpi=110)
    for number, task in enumerate(TASKS):
        if shifted:
            question = ShiftedBlink((task,), split, seed, index + 1, difficulty)[index]
        else:
            question = synthetic_question(task, split, seed, index, difficulty)
        column, row = divmod(number, rows)
        left, bottom = (column + 0.02) / _COLUMNS, 1.0 - (row + 1.0) / rows
        width, height = 0.96 / _COLUMNS, 1.0 / rows
        figure.text(left, bottom + 0.93 * height, task, weight="bold", fontsize=11, va="top")
        figure.text(left, bottom + 0.85 * height, question.question, fontsize=10, va="top")
        for i, image in enumerate(question.images):
            axes = figure.add_axes((left + i * width / 4, bottom + 0.19 * height, 0.23 * width, 0.55 * height))
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(f"image {i + 1}", fontsize=8, labelpad=2)
        options = "   ".join(
            f"({'ABCD'[i]}) {choice}{' [right]' if i == question.answer else ''}"
            for i, choice in enumerate(question.choices)
        )
        figure.text(left, bottom + 0.08 * height, textwrap.fill(options, 100), fontsize=9, va="top")
    return figure
