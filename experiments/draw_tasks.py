"""Draw one example of every task of synthetic BLINK, or of the multi-hop tasks, into one picture.

python experiments/draw_tasks.py --out results/synthetic_blink_tasks.png --seed 0 --difficulty 0.25
python experiments/draw_tasks.py --out results/synthetic_blink_shifted.png --shifted
python experiments/draw_tasks.py --family multihop --out results/multihop_tasks.png --hops 4
python experiments/draw_tasks.py --family multihop --out results/multihop_shifted.png --shifted
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.data.synthetic import DEFAULT_DIFFICULTY, SHIFTED_DIFFICULTY, SPLITS, example_sheet, multihop_sheet


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description="Draw one example of every task of a synthetic family.")
    parser.add_argument("--out", type=Path, default=Path("results/synthetic_blink_tasks.png"), help="PNG to write")
    parser.add_argument("--family", choices=("blink", "multihop"), default="blink")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--seed", type=int, default=0, help="names the data set")
    parser.add_argument("--index", type=int, default=0, help="number of the question within each task")
    parser.add_argument(
        "--difficulty", type=float, help=f"0 (easy) to 1 (hard); default {DEFAULT_DIFFICULTY}; blink only"
    )
    parser.add_argument("--hops", type=int, help="number of hops; default: the family's mixture; multihop only")
    parser.add_argument("--objects", type=int, help="number of objects; multihop only")
    parser.add_argument("--shifted", action="store_true", help="the set out of distribution, with defaults of its own")
    options = parser.parse_args(arguments)
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
        parser.error(str(error))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, metadata={"Software": None})
    print(options.out)


if __name__ == "__main__":
    main()
