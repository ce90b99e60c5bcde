"""One question of the laboratory under two shipped checkpoints, and a question of one's own about an image of cells."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from amvl_model.data.images import read_image
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic.multihop.spec import COLOUR_NAMES
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.models.loading import SHIPPED, load_checkpoint
from amvl_model.studies.laboratory.arm import Arm
from amvl_model.studies.laboratory.figures import Reading, draw_page
from amvl_model.studies.laboratory.job import read_question
from amvl_model.studies.laboratory.measures import measure_leak

TASK = "Coloured_Cells"
QUESTION = re.compile(r"Follow (1 arrow|[23] arrows) from ([a-z]+)\. Where do you end\?")
"""What the shipped checkpoints were trained on."""
CHECKPOINTS = {"multihop-forward-only": "forward-only", "multihop-amvl": "amvl"}


def quick(out: Path, index: int) -> int:
    """Test question ``index`` with three hops: the image, and for each checkpoint its answer and what its latents contain."""
    recipe = Arm().recipe
    readings: list[Reading] = []
    for checkpoint, name in CHECKPOINTS.items():
        reading = read_question(SHIPPED[checkpoint], name, recipe, index)
        model, processor = load_checkpoint(SHIPPED[checkpoint])
        leak = float(measure_leak(model, processor, recipe, max(recipe.hops), "test").mean())
        scored = evaluate(model, processor, [reading.question], scoring=("likelihood",), batch_size=1, progress=False)
        share = torch.tensor(scored.records[0].log_probs).softmax(0)
        chosen = int(share.argmax())
        if not readings:
            print(f"{reading.question.question}\nright: {' -> '.join(reading.question.chain)}\n")
        print(
            f"{name:>12}: answers {reading.question.choices[chosen]} ({share[chosen]:.0%}); its posterior reveals {leak:.2f} of "
            f"{math.log(recipe.objects):.2f} nats of the answer (mean of 128 test questions)"
        )
        readings.append(reading)
    out.mkdir(parents=True, exist_ok=True)
    from amvl_style import save

    save(draw_page(readings), out / "quick.png", dpi=150)
    print(f"\nimage: {out / 'quick.png'}")
    print("next: amvl train --quick --index 8     # another scene (8 questions share one)")
    return 0


def own_question(image: str, text: str, choices: Sequence[str]) -> VisualQuestion:
    """A question about an image of cells, whose letters stand for the palette's first eight colours.

    Raises:
        ValueError: for other options than these.
    """
    colours = list(COLOUR_NAMES[:8])
    if choices and list(choices) != colours:
        raise ValueError(
            f"the letters of this checkpoint stand for {', '.join(colours)}; leave --choices out, got {', '.join(choices)}"
        )
    matched = QUESTION.fullmatch(text)
    if matched is None or matched[2] not in colours:
        warnings.warn(
            f"the checkpoint was trained on questions such as 'Follow 3 arrows from red. Where do you end?' alone, got {text!r}; "
            "its answer to another kind of question means nothing",
            stacklevel=2,
        )
    return VisualQuestion(
        id="your question",
        images=(read_image(Path(image), "your question"),),
        prompt=text,
        answer_text="(A)",
        question=text,
        choices=tuple(colours),
    )
