"""Draw one example of every task of synthetic BLINK, or of the multi-hop tasks, into one figure.

python experiments/draw_tasks.py --out results/synthetic_blink_tasks.png --seed 0 --difficulty 0.25
python experiments/draw_tasks.py --out results/synthetic_blink_shifted.png --shifted
python experiments/draw_tasks.py --family multihop --out results/multihop_tasks.png --hops 4
python experiments/draw_tasks.py --family multihop --out results/multihop_shifted.png --shifted
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line, usage_error
from amvl_model.data.schema import LETTERS, VisualQuestion
from amvl_model.data.synthetic import (
    DEFAULT_DIFFICULTY,
    MULTIHOP_TASKS,
    SHIFTED_DIFFICULTY,
    SPLITS,
    TASKS,
    MultihopQuestions,
    ShiftedBlink,
    ShiftedMultihop,
    synthetic_question,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path = Path("results/synthetic_blink_tasks.png")  # PNG to write
    family: Literal["blink", "multihop"] = "blink"  # family of tasks
    split: Literal[SPLITS] = "val"  # split of the questions
    seed: int = 0  # seed of the data set
    index: int = 0  # number of the question within each task
    difficulty: float | None = None  # blink: 0 (easy) to 1 (hard); None: the data set's
    hops: int | None = None  # multihop: number of hops; None: the family's mixture
    objects: int | None = None  # multihop: number of objects; None: the family's
    shifted: bool = False  # the out-of-distribution set, with defaults of its own


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the figure."""
    options = command_line(Options, arguments)
    try:
        if options.family == "multihop":
            chosen = {"hops": options.hops, "objects": options.objects}
            settings: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
            figure = multihop_sheet(options.split, options.seed, options.index, shifted=options.shifted, **settings)
        else:
            default = SHIFTED_DIFFICULTY if options.shifted else DEFAULT_DIFFICULTY
            difficulty = default if options.difficulty is None else options.difficulty
            figure = example_sheet(options.split, options.seed, options.index, difficulty, shifted=options.shifted)
    except ValueError as error:
        usage_error(error)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    from amvl_style import save

    save(figure, options.out)
    print(options.out)


def example_sheet(
    split: str = "val",
    seed: int = 0,
    index: int = 0,
    difficulty: float = DEFAULT_DIFFICULTY,
    *,
    shifted: bool = False,
) -> Figure:
    """A matplotlib figure: each task's images under its name and question, options below, the correct one marked.

    With ``shifted`` the images are those of `ShiftedBlink`.

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
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"image {i + 1}", fontsize=8, labelpad=2)
    words = [f"({LETTERS[i]}) {choice}" for i, choice in enumerate(question.choices)]
    if question.answer is not None:
        words[question.answer] += " [right]"
    options = "   ".join(word.replace(" ", "\u00a0") for word in words)  # lines break between options only
    if question.chain:
        options += f"\nchain: {', '.join(question.chain)}"
    lines = [textwrap.fill(line, 100) for line in options.split("\n")]
    figure.text(left, bottom + 0.12 * height, "\n".join(lines), fontsize=9, va="top")


if __name__ == "__main__":
    main()
