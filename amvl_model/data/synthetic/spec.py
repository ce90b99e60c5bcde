"""What a task of synthetic BLINK consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawn question.

    Attributes:
        images: the pictures, in order.
        question: the text; it never depends on the answer.
        choices: the option texts, likewise.
        explanation: what a person sees in the pictures, in a small closed vocabulary: the facts that decide the question,
            for every picture, point or panel. Pre-training of the tiny base uses it as a dense caption.
    """

    images: tuple[Image.Image, ...]
    question: str
    choices: tuple[str, ...]
    explanation: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: its BLINK name, its size, and the function that draws a question with a given answer.

    Attributes:
        name: BLINK's name.
        options: number of options, the same for each question of the task.
        images: number of pictures.
        draw: ``draw(rng, difficulty, answer)``, where ``answer`` is the index of the option that has to be right. The
            caller draws it uniformly, so nothing but the pictures can tell it.
    """

    name: str
    options: int
    images: int
    draw: Callable[[np.random.Generator, float, int], Drawing]
