"""Draw one example of every task of synthetic BLINK into one figure.

python experiments/draw_tasks.py --out results/synthetic_blink_tasks.png --seed 0 --difficulty 0.25
python experiments/draw_tasks.py --out results/synthetic_blink_shifted.png --shifted
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.data.synthetic import (
    DEFAULT_DIFFICULTY,
    SHIFTED_DIFFICULTY,
    SPLITS,
    TASKS,
    ShiftedBlink,
    synthetic_question,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLUMNS = 2


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the figure."""
    parser = argparse.ArgumentParser(description="Draw one example of every task of synthetic BLINK.")
    parser.add_argument("--out", type=Path, default=Path("results/synthetic_blink_tasks.png"), help="PNG to write")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--seed", type=int, default=0, help="names the data set")
    parser.add_argument("--index", type=int, default=0, help="number of the question within each task")
    parser.add_argument("--difficulty", type=float, help=f"0 (easy) to 1 (hard); default {DEFAULT_DIFFICULTY}")
    parser.add_argument("--shifted", action="store_true", help="the set out of distribution, difficulty 0.5 by default")
    options = parser.parse_args(arguments)
    try:
        default = SHIFTED_DIFFICULTY if options.shifted else DEFAULT_DIFFICULTY
        difficulty = default if options.difficulty is None else options.difficulty
        figure = example_sheet(options.split, options.seed, options.index, difficulty, shifted=options.shifted)
    except ValueError as error:
        parser.error(str(error))
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


if __name__ == "__main__":
    main()
