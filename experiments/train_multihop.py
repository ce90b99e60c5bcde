"""Pre-train a small base on few hops, or fine-tune one on more, without latents; write its learning curve.

python experiments/train_multihop.py --out results/multihop/base --layers 3 --hops 1:1,2:1 --reading-weight 1
python experiments/train_multihop.py --out results/multihop/sft --base results/multihop/base --freeze-vision
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.data.synthetic.multihop import MULTIHOP_TASKS


def hop_mixture(text: str) -> dict[int, float]:
    """``"1:1,2:1"`` as weights of the numbers of hops."""
    try:
        return {int(hops): float(weight) for hops, weight in (part.split(":") for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected hops:weight,..., such as 1:1,2:1, got {text!r}") from error


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train, and write the checkpoint, recipe.json and curve.csv."""
    parser = argparse.ArgumentParser(description="Train a small base for multi-hop tasks without latents.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", type=Path, help="checkpoint to start from; default: fresh weights")
    parser.add_argument(
        "--deepen", type=int, default=0, help="text layers to add to the base, which start as identities"
    )
    parser.add_argument("--layers", type=int, default=3, help="text layers of a fresh model")
    parser.add_argument("--hidden", type=int, default=64, help="width of a fresh model, a multiple of 16")
    parser.add_argument("--task", choices=MULTIHOP_TASKS, default="Coloured_Cells")
    parser.add_argument("--hops", type=hop_mixture, default=hop_mixture("1:1,2:1,3:2,4:2"), help="hops:weight,...")
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--reading-weight", type=float, default=0.0)
    parser.add_argument("--freeze-vision", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--eval-size", type=int, default=256, help="validation questions for each number of hops")
    options = parser.parse_args(arguments)

    from amvl_model.data.processing import AMVLProcessor
    from amvl_model.training.multihop_base import (
        BaseShape,
        MultihopRecipe,
        build_multihop_base,
        deepened,
        save_multihop_base,
        train_multihop,
    )
    from amvl_model.two_pass.attention import install_attention

    shape = BaseShape(num_layers=options.layers, hidden_size=options.hidden)
    if options.base is None:
        model, processor = build_multihop_base(shape, seed=options.seed)
    else:
        from transformers import Qwen2_5_VLForConditionalGeneration

        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.base)
        processor = AMVLProcessor.from_pretrained(options.base)
        install_attention(model)
        model = deepened(model, options.deepen) if options.deepen else model
    recipe = MultihopRecipe(
        task=options.task,
        hops=options.hops,
        objects=options.objects,
        colours=options.objects,
        steps=options.steps,
        learning_rate=options.learning_rate,
        reading_weight=options.reading_weight,
        freeze_vision=options.freeze_vision,
        seed=options.seed,
        eval_every=options.eval_every,
        eval_size=options.eval_size,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "curve.csv").unlink(missing_ok=True)
    train_multihop(model, processor, recipe, options.out / "curve.csv")
    save_multihop_base(model, processor, options.out, recipe)


if __name__ == "__main__":
    main()
