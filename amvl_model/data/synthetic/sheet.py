"""One picture with an example of every task."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amvl_model.data.schema import LETTERS, VisualQuestion
from amvl_model.data.synthetic.generator import DEFAULT_DIFFICULTY, TASKS, synthetic_question
from amvl_model.data.synthetic.multihop import MULTIHOP_TASKS, MultihopQuestions, ShiftedMultihop
from amvl_model.data.synthetic.shifted import ShiftedBlink

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    if shifted:
        questions = [ShiftedBlink((task,), split, seed, index + 1, difficulty)[index] for task in TASKS]
    else:
        questions = [synthetic_question(task, split, seed, index, difficulty) for task in TASKS]
    return _sheet(questions, columns=2, height=2.75, images_per_row=4)


def multihop_sheet(
    split: str = "val", seed: int = 0, index: int = 0, *, shifted: bool = False, examples: int = 2, **settings: Any
) -> Figure:
    """`example_sheet` for the multi-hop tasks: ``examples`` consecutive questions of each, with their chains.

    Args:
        split, seed, index: of the first question of each task.
        shifted: the set out of distribution.
        examples: questions of each task, side by side.
        **settings: as for `MultihopQuestions`, for example hops and objects.

    Raises:
        ValueError: as `MultihopQuestions`.
    """
    kind = ShiftedMultihop if shifted else MultihopQuestions
    sets = [kind((task,), split, seed, index + examples, **settings) for task in MULTIHOP_TASKS]
    questions = [questions[index + i] for i in range(examples) for questions in sets]
    return _sheet(questions, columns=examples, height=4.0, images_per_row=1)


def _sheet(questions: Sequence[VisualQuestion], *, columns: int, height: float, images_per_row: int) -> Figure:
    """Questions column by column, ``height`` inches each."""
    from matplotlib.figure import Figure

    rows = -(-len(questions) // columns)
    figure = Figure(figsize=(7.25 * columns, height * rows), dpi=110)
    for number, question in enumerate(questions):
        column, row = divmod(number, rows)
        left, bottom = (column + 0.02) / columns, 1.0 - (row + 1.0) / rows
        _entry(figure, question, (left, bottom, 0.96 / columns, 1.0 / rows), images_per_row)
    return figure


def _entry(figure: Figure, question: VisualQuestion, box: tuple[float, float, float, float], images: int) -> None:
    """One question in the box (left, bottom, width, height), as shares of the figure."""
    left, bottom, width, height = box
    figure.text(left, bottom + 0.93 * height, question.task, weight="bold", fontsize=11, va="top")
    figure.text(left, bottom + 0.85 * height, textwrap.fill(question.question, 100), fontsize=10, va="top")
    for i, image in enumerate(question.images):
        axes = figure.add_axes(
            (left + i * width / images, bottom + 0.22 * height, 0.92 * width / images, 0.52 * height)
        )
        axes.imshow(image, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"image {i + 1}", fontsize=8, labelpad=2)
    words = [f"({LETTERS[i]}) {choice}" for i, choice in enumerate(question.choices)]
    if question.answer is not None:
        words[question.answer] += " [right]"
    options = "   ".join(word.replace(" ", "\u00a0") for word in words)  # lines break between options only
    if question.chain:
        options += f"\nchain: {', '.join(question.chain)}"
    lines = [textwrap.fill(line, 100) for line in options.split("\n")]
    figure.text(left, bottom + 0.12 * height, "\n".join(lines), fontsize=9, va="top")
