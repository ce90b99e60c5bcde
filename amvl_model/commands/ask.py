"""Answer a question about images with any checkpoint.

    amvl ask cells.png "Follow 3 arrows from red. Where do you end?"
    amvl ask photo.jpg "Is there a red circle?" --choices yes no --checkpoint runs/x/amvl/checkpoint

Prints the reply; with choices also the probability of each and, for a model with latents, what its posterior reveals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt
from tyro.conf import Positional

from amvl_model.commands import stoppable
from amvl_model.config import command_line, usage_errors

MAX_CHOICES = 26
CHECKPOINT = "multihop-amvl"
"""The model that answers by default."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    words: Positional[tuple[str, ...]]  # image file(s), then the question
    choices: tuple[str, ...] = ()  # options of the question
    checkpoint: str = CHECKPOINT  # folder or name of the model that answers
    backbone: str | None = None  # base of a LoRA checkpoint, if it was moved since training
    max_new_tokens: PositiveInt = 16  # longest reply [tokens]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer; returns the exit status."""
    options = command_line(Options, arguments)
    with stoppable(), usage_errors():
        return answer(
            options.words, options.choices, options.checkpoint, options.max_new_tokens, backbone=options.backbone
        )


def answer(
    words: Sequence[str], choices: Sequence[str], checkpoint: str, max_new_tokens: int, *, backbone: str | None = None
) -> int:
    """Check that ``words`` are image files and a question, and answer it.

    Raises:
        ValueError, FileNotFoundError: if they are not.
    """
    if len(words) < 2:
        raise ValueError(
            f"expected at least one image and then the question (cat.png 'A cat?'), got {' '.join(words)!r}"
        )
    *images, question = words
    if not question.strip():
        raise ValueError("expected a question after the images, got an empty text")
    if len(choices) == 1 or len(choices) > MAX_CHOICES:
        raise ValueError(f"--choices: expected 2 to {MAX_CHOICES} options, or none, got {len(choices)}")
    for path in images:
        if not Path(path).is_file():
            raise FileNotFoundError(f"the image {path} does not exist; pass image files first and the question last")
    from amvl_model.models.checkpoints import backbone_at
    from amvl_model.models.loading import resolve
    from amvl_model.studies import main_job

    with backbone_at(backbone, resolve(checkpoint)):
        return main_job.ask(images, question, choices, checkpoint, max_new_tokens)
