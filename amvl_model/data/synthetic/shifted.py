"""Synthetic BLINK out of distribution: the same questions, drawn with what no training question has.

    shifted rendering      one photometric change a question, the same for all its images: gamma, a colour cast, less
                           light, a slight blur
    unseen combinations    the difficulty is raised above 0.25, where distractors, overlaps and clutter come in that
                           neither the tiny base nor the tiny preset has been trained on

The changes are monotone in every channel and alike everywhere in the image, so orders of brightness, places, shapes and
counts stay what they were and the right option stays right. A counterpart of VisualPuzzles in the paper: what is asked
needs the same skills, what is shown looks different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from amvl_model.data.schema import QuestionSet, VisualQuestion
from amvl_model.data.synthetic.generator import SPLITS, TASKS, SyntheticBlink

SHIFTED_SOURCE: Final = "synthetic-blink-shifted"
SHIFTED_DIFFICULTY: Final = 0.5
_GAMMA: Final = (0.6, 0.75, 1.35, 1.7)
_STREAM: Final = 2  # beside a question's own streams 0 and 1


class ShiftedBlink(QuestionSet):
    """`SyntheticBlink` out of distribution, with clean labels.

    Args:
        tasks, split, seed, size: as for `SyntheticBlink`.
        difficulty: 0 to 1; `SHIFTED_DIFFICULTY` lies above what is trained on.

    Raises:
        ValueError: as `SyntheticBlink`.
    """

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        split: str = "test",
        seed: int = 0,
        size: int = 1400,
        difficulty: float = SHIFTED_DIFFICULTY,
    ) -> None:
        self.plain = SyntheticBlink(tasks, split, seed, size, difficulty)

    def __len__(self) -> int:
        return len(self.plain)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        question, (task, index) = self.plain[index], self.plain.place(index)
        key = (TASKS.index(task), SPLITS.index(self.plain.split), index, _STREAM)
        rng = np.random.default_rng(np.random.SeedSequence(entropy=self.plain.seed, spawn_key=key))
        change = Photometry.draw(rng)
        return replace(question, images=tuple(map(change, question.images)), source=SHIFTED_SOURCE)


class Photometry:
    """A photometric change of a whole image.

    Args:
        gains: factor of every channel, 0 to 1: colour cast and light.
        gamma: exponent of the relative brightness.
        blur: radius of a Gaussian blur [pixels].
    """

    def __init__(self, gains: tuple[float, float, float], gamma: float, blur: float) -> None:
        levels = np.arange(256) / 255
        tables = [np.rint(255 * gain * levels**gamma).astype(int) for gain in gains]
        self.table = [int(value) for table in tables for value in table]
        self.blur = blur

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Photometry:
        """A random change: light 0.7 to 0.95, a cast of up to a tenth, one of four gammas, a blur of 0.3 to 0.6 pixels."""
        light, cast = rng.uniform(0.7, 0.95), rng.uniform(0.9, 1.0, 3)
        gains = (float(light * cast[0]), float(light * cast[1]), float(light * cast[2]))
        return cls(gains, _GAMMA[int(rng.integers(len(_GAMMA)))], float(rng.uniform(0.3, 0.6)))

    def __call__(self, image: Image.Image) -> Image.Image:
        """The changed image, same size; needs mode RGB."""
        return image.point(self.table).filter(ImageFilter.GaussianBlur(self.blur))
