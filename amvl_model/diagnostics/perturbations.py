"""Small changes to a question's pictures and text that leave its answer known: pure functions of a `VisualQuestion`.

    kind      name             what is changed
    image     noise            Gaussian noise of standard deviation 20 of 255 on every channel of every pixel
    image     darker           brightness times 0.7
    image     brighter         brightness times 1.3
    image     crop             5 % of the width and height cut off at every edge, scaled back to the old size
    image     jpeg             written as JPEG of quality 40 and read again
    image     patch_shuffle    the cells of a 4 x 4 grid permuted                                (destroys the layout)
    text      paraphrase       another sentence around the question, another one before the options
    text      letter_style     "(A) cat" becomes "A. cat"; the answer is still written "(A)"
    text      option_order     the options in another order; the right option moves with its text
    text      word_shuffle     the words of the question permuted                                (destroys the sentence)

The two that destroy say how much the latents depend on layout and word order; under the others, a reader would normally answer
as before. Permutations and noise depend on the seed and the question's place in its set alone.

Text is changed where the prompt ends in BLINK's list of options. A question whose prompt does not has no text perturbation:
`perturbed` returns None, and who calls it counts the question as missing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance

from amvl_model.data.schema import VisualQuestion, format_prompt, option_letter

IMAGE_PERTURBATIONS = ("noise", "darker", "brighter", "crop", "jpeg", "patch_shuffle")
TEXT_PERTURBATIONS = ("paraphrase", "letter_style", "option_order", "word_shuffle")
PERTURBATIONS = IMAGE_PERTURBATIONS + TEXT_PERTURBATIONS
DESTRUCTIVE = ("patch_shuffle", "word_shuffle")

_NOISE_STD = 20.0
_CROP = 0.05
_QUALITY = 40
_GRID = 4


@dataclass(frozen=True)
class Perturbed:
    """A changed question and where its options went.

    Attributes:
        question: the changed question, its answer still the same option's text.
        order: option i of the changed question is option order[i] of the original one.
    """

    question: VisualQuestion
    order: tuple[int, ...]


def perturbed(question: VisualQuestion, name: str, *, seed: int = 0, index: int = 0) -> Perturbed | None:
    """The question under one perturbation, or None where its prompt has no form that can be rebuilt.

    Args:
        question: the original, left as it is.
        name: one of `PERTURBATIONS`.
        seed, index: of the noise and the permutations; index is the question's place in its set.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"perturbation must be one of {', '.join(PERTURBATIONS)}, got {name!r}")
    rng = np.random.default_rng([seed, index, PERTURBATIONS.index(name)])
    same = tuple(range(len(question.choices)))
    if name in IMAGE_PERTURBATIONS:
        images = tuple(_IMAGE_CHANGES[name](image.convert("RGB"), rng) for image in question.images)
        return Perturbed(replace(question, images=images), same)
    text = _question_text(question)
    if text is None:
        return None
    if name == "option_order":
        return _reordered(question, text, rng)
    if name == "word_shuffle":
        words = text.split()
        text = " ".join(words[i] for i in _moved(len(words), rng))
        return Perturbed(replace(question, prompt=format_prompt(text, question.choices)), same)
    letters = [option_letter(i) for i in same]
    if name == "letter_style":
        letters = [letter.strip("()") + "." for letter in letters]
    lead = "Select from the following choices."
    if name == "paraphrase":
        text, lead = f"Look at the picture and answer: {text}", "Choose one of these options."
    lines = "\n".join(f"{letter} {choice}" for letter, choice in zip(letters, question.choices, strict=True))
    return Perturbed(replace(question, prompt=f"{text}\n{lead}\n{lines}"), same)


def blank_image(image: Image.Image) -> Image.Image:
    """A picture of the same size in one colour, the mean of the original's pixels."""
    mean = np.asarray(image.convert("RGB"), dtype=np.float64).mean(axis=(0, 1)).round().astype(int)
    return Image.new("RGB", image.size, (int(mean[0]), int(mean[1]), int(mean[2])))


def _question_text(question: VisualQuestion) -> str | None:
    """The prompt before its list of options; None where it does not end in that list."""
    options, prompt = format_prompt("", question.choices), question.prompt.rstrip()
    return prompt.removesuffix(options) if question.choices and prompt.endswith(options) else None


def _reordered(question: VisualQuestion, text: str, rng: np.random.Generator) -> Perturbed:
    order = _moved(len(question.choices), rng)
    choices = tuple(question.choices[i] for i in order)
    answer = None if question.answer is None else order.index(question.answer)
    probs = question.answer_probs
    return Perturbed(
        replace(
            question,
            choices=choices,
            prompt=format_prompt(text, choices),
            answer=answer,
            answer_text=question.answer_text if answer is None else option_letter(answer),
            answer_probs=None if probs is None else tuple(probs[i] for i in order),
        ),
        tuple(order),
    )


def _moved(n: int, rng: np.random.Generator) -> list[int]:
    """A permutation of 0..n-1 that is not the identity, where there is one."""
    order = rng.permutation(n)
    while n > 1 and (order == np.arange(n)).all():
        order = rng.permutation(n)
    return [int(i) for i in order]


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    noisy = pixels + _NOISE_STD * rng.standard_normal(pixels.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    left, top = max(1, round(_CROP * width)), max(1, round(_CROP * height))
    if width <= 2 * left or height <= 2 * top:
        return image
    return image.crop((left, top, width - left, height - top)).resize(image.size, Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    with Image.open(file) as again:
        return again.convert("RGB")


def _patch_shuffle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cells of equal size permuted; what does not divide by the grid stays at the right and lower edge."""
    pixels = np.asarray(image)
    height, width = pixels.shape[0] // _GRID, pixels.shape[1] // _GRID
    if height == 0 or width == 0:
        return image
    result = pixels.copy()
    places = [(r * height, c * width) for r in range(_GRID) for c in range(_GRID)]
    for (row, column), source in zip(places, _moved(len(places), rng), strict=True):
        r, c = places[source]
        result[row : row + height, column : column + width] = pixels[r : r + height, c : c + width]
    return Image.fromarray(result)


_IMAGE_CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "noise": _noise,
    "darker": lambda image, rng: ImageEnhance.Brightness(image).enhance(0.7),
    "brighter": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.3),
    "crop": _crop,
    "jpeg": _jpeg,
    "patch_shuffle": _patch_shuffle,
}
