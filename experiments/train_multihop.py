"""Pre-train a small base on few hops, or fine-tune one on more, without latents; write its learning curve.

python experiments/train_multihop.py --out results/multihop/base --layers 3 --hops 1:1,2:1 --reading-weight 1
python experiments/train_multihop.py --out changing --task Changing_Cells --hops 1:1,2:1 --reading-weight 1 --steps 2000
python experiments/train_multihop.py --out walk --task Grid_Walk --layers 4 --window 112 --vision-size 128 --vision-layers 2 \
    --vocabulary 512 --hops 1:1,2:1 --reading-weight 1 --learning-rate 1e-3 --steps 4000
python experiments/train_multihop.py --out walk-2 --base walk --task Grid_Walk --hops 1:1,2:1 --reading-weight 1 \
    --learning-rate 1e-3 --steps 5000 --seed 1
python experiments/train_multihop.py --out results/multihop/sft --base results/multihop/base --freeze-vision
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line, usage_error, usage_errors
from amvl_model.data.synthetic.multihop import MULTIHOP_TASKS, multihop_task


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path  # folder to write
    base: Path | None = None  # checkpoint to start from; None: fresh weights
    deepen: int = 0  # text layers to add to the base, which start as identities
    layers: int = 3  # text layers of a fresh model
    hidden: int = 64  # width of a fresh model, a multiple of 16
    vision_layers: int = 1  # layers of a fresh vision tower
    vision_size: int = 64  # width of a fresh vision tower, a multiple of 32
    window: int = 28  # side of its attention windows in pixels, a multiple of 28; one cell has 28
    vocabulary: int = 384  # most tokens of a fresh tokenizer
    task: Literal[MULTIHOP_TASKS] = "Coloured_Cells"  # task to train on
    hops: str = "1:1,2:1,3:2,4:2"  # hops:weight,...
    objects: int = 8  # objects in a scene
    steps: int = 1000  # optimiser steps
    learning_rate: float = 2e-3  # peak learning rate
    reading_weight: float = 0.0  # weight of the reading loss
    freeze_vision: bool = False  # keep the vision encoder as it is
    seed: int = 0  # seed of weights and questions
    eval_every: int = 100  # steps between two evaluations
    eval_size: int = 256  # validation questions for each number of hops


def hop_mixture(text: str) -> dict[int, float]:
    """``"1:1,2:1"`` as weights of the numbers of hops."""
    try:
        return {int(hops): float(weight) for hops, weight in (part.split(":") for part in text.split(","))}
    except ValueError:
        usage_error(f"--hops: expected hops:weight,..., such as 1:1,2:1, received {text!r}")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train, and write the checkpoint, recipe.json and curve.csv."""
    options = command_line(Options, arguments)
    hops = hop_mixture(options.hops)
    of_fresh = ("layers", "hidden", "vision_layers", "vision_size", "window", "vocabulary")
    ignored = ["deepen"] if options.base is None else of_fresh
    if given := [name for name in ignored if getattr(options, name) != getattr(Options, name)]:
        needed = "needs --base" if options.base is None else "shapes a fresh model; leave it out with --base"
        usage_error(f"--{given[0].replace('_', '-')} {needed}")

    from amvl_model.data.processing import AMVLProcessor
    from amvl_model.models.checkpoints import NonFiniteError
    from amvl_model.training.monitoring.guard import report
    from amvl_model.training.pretraining.multihop_base import (
        BaseShape,
        MultihopRecipe,
        build_multihop_base,
        deepened,
        save_multihop_base,
        train_multihop,
    )
    from amvl_model.two_pass.attention import install_attention

    def shared_with(kind: type) -> dict[str, Any]:
        """The options that the dataclass ``kind`` has too."""
        return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}

    if options.base is None:
        with usage_errors():
            shape = BaseShape(num_layers=options.layers, hidden_size=options.hidden, **shared_with(BaseShape))
            model, processor = build_multihop_base(shape, seed=options.seed, words=multihop_task(options.task).words)
    else:
        from amvl_model.models.backbone import load_backbone

        with usage_errors():
            model, _ = load_backbone(options.base)
            processor = AMVLProcessor.from_pretrained(options.base)
        install_attention(model)
        model = deepened(model, options.deepen) if options.deepen else model
    recipe = MultihopRecipe(**shared_with(MultihopRecipe) | {"hops": hops, "colours": options.objects})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "curve.csv").unlink(missing_ok=True)
    with usage_errors():
        try:
            train_multihop(model, processor, recipe, options.out / "curve.csv")
            save_multihop_base(model, processor, options.out, recipe)
        except NonFiniteError as error:
            sys.exit(report(error))


if __name__ == "__main__":
    main()
