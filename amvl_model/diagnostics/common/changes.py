"""Small changes to a question's images and text that leave its answer known: pure functions of a `VisualQuestion`.

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


Questions with their images, their text or both taken from another question of the set, or made blank.

Images come from a question with as many images and options, prompts from one with as many of both too, so that "the third
image" and "(D)" still name something. Answer, choices and answer_probs stay those of the question itself: only x is replaced.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance

from amvl_model.data.images import to_rgb
from amvl_model.data.processing import IMAGE_PLACEHOLDER
from amvl_model.data.schema import QuestionSet, VisualQuestion, format_prompt, option_letter
from amvl_model.evaluation.evaluate import given_answer
from amvl_model.evaluation.scorers import check_question

IMAGE_PERTURBATIONS = ("noise", "darker", "brighter", "crop", "jpeg", "patch_shuffle")
TEXT_PERTURBATIONS = ("paraphrase", "letter_style", "option_order", "word_shuffle")
PERTURBATIONS = IMAGE_PERTURBATIONS + TEXT_PERTURBATIONS

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
        images = tuple(_IMAGE_CHANGES[name](to_rgb(image), rng) for image in question.images)
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
        text, lead = f"Look at the image and answer: {text}", "Choose one of these options."
    lines = "\n".join(f"{letter} {choice}" for letter, choice in zip(letters, question.choices, strict=True))
    return Perturbed(replace(question, prompt=f"{text}\n{lead}\n{lines}"), same)


def blank_image(image: Image.Image) -> Image.Image:
    """An image of the same size in one colour, the mean of the original's pixels."""
    image = to_rgb(image)
    mean = np.asarray(image, dtype=np.float64).mean(axis=(0, 1)).round().astype(int)
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


REPLACEMENTS = ("other", "blank")


@dataclass(frozen=True)
class Donors:
    """Who gets what from whom; all numbers are places in the set.

    Attributes:
        used: questions that count.
        options, answers: their numbers of options and given answers.
        image, text: per used question, whose images and whose prompt it gets.
        left_out: ids of questions without another one to take from.
    """

    used: list[int]
    options: list[int]
    answers: list[int]
    image: dict[int, int]
    text: dict[int, int]
    left_out: list[str]


def find_donors(
    questions: Sequence[VisualQuestion], replacement: str, *, within_task: bool, seed: int
) -> tuple[Donors, dict[str, float]]:
    """Donors of every question, and the fraction of replacements that differ from what they replace, per modality.

    Within a group (equally many images and options, with ``within_task`` also one task) the images come from the next
    question of a random circle, and the prompt from another circle, in which as few questions as possible get a prompt that
    reads like their own. With replacement "blank" every question counts and is its own donor.

    Raises:
        ValueError: for an empty set, a question without a known answer or with fewer than two options, or if no two questions
            can take from each other.
    """
    if len(questions) == 0:
        raise ValueError("expected at least one question, got an empty set; check the split, the tasks and the limit")
    groups: dict[tuple[object, ...], list[int]] = {}
    prompts, image_hashes, ids, options, answers = [], [], [], [], []
    for i in range(len(questions)):
        question = questions[i]
        check_question(question, least_options=2)
        key = (len(question.images), len(question.choices), IMAGE_PLACEHOLDER in question.prompt)
        groups.setdefault((*key, question.task) if within_task else key, []).append(i)
        prompts.append(question.prompt)
        image_hashes.append([hash(image.tobytes()) for image in question.images])
        ids.append(question.id)
        options.append(len(question.choices))
        answers.append(given_answer(question))
    if replacement == "blank":
        everyone = list(range(len(questions)))
        own = dict(zip(everyone, everyone, strict=True))
        return Donors(everyone, options, answers, own, own, []), _blanked(questions)
    rng = np.random.default_rng(seed)
    image: dict[int, int] = {}
    text: dict[int, int] = {}
    for members in groups.values():
        if len(members) > 1:
            circle = [members[i] for i in rng.permutation(len(members))]
            image |= dict(zip(circle, circle[1:] + circle[:1], strict=True))
            text |= _text_donors(circle, prompts)
    used = sorted(image)
    if not used:
        raise ValueError(
            f"expected two questions or more with equally many images and options{' of one task' if within_task else ''}, "
            f"got none among {len(questions)}; give more questions, or use replacement='blank'"
        )
    changed = {
        "image": float(np.mean([image_hashes[i] != image_hashes[image[i]] for i in used])),
        "text": float(np.mean([prompts[i] != prompts[text[i]] for i in used])),
    }
    left_out = [ids[i] for i in range(len(questions)) if i not in image]
    return Donors(used, [options[i] for i in used], [answers[i] for i in used], image, text, left_out), changed


def _text_donors(circle: list[int], prompts: list[str]) -> dict[int, int]:
    """Equal prompts side by side, in the circle's order; each takes from as many places on as the commonest prompt has."""
    rank = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts[i] for i in circle))}
    ordered = sorted(circle, key=lambda i: rank[prompts[i]])
    most = max(sum(prompts[i] == prompt for i in circle) for prompt in rank)
    shift = most if most < len(circle) else 1
    return dict(zip(ordered, ordered[shift:] + ordered[:shift], strict=True))


class ReplacedQuestions(QuestionSet):
    """The questions that count with "image", "text", "both" or nothing ("own") replaced; each is made when asked for."""

    def __init__(self, questions: Sequence[VisualQuestion], donors: Donors, condition: str, replacement: str) -> None:
        self.questions, self.donors = questions, donors
        self.condition, self.blank = condition, replacement == "blank"
        self.options, self.answers = donors.options, donors.answers

    def __len__(self) -> int:
        return len(self.donors.used)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` of those that count."""
        place = self.donors.used[index]
        question = own = self.questions[place]
        if self.condition in ("image", "both"):
            donor = own if self.blank else self.questions[self.donors.image[place]]
            images = tuple(blank_image(image) for image in donor.images) if self.blank else donor.images
            question = replace(question, images=images)
        if self.condition in ("text", "both"):
            prompt = _blank_prompt(own) if self.blank else self.questions[self.donors.text[place]].prompt
            question = replace(question, prompt=prompt)
        return question


def _blanked(questions: Sequence[VisualQuestion]) -> dict[str, float]:
    """Fraction of questions that a blank image and a blank prompt change."""
    changed = np.zeros((len(questions), 2))
    for i in range(len(questions)):
        question = questions[i]
        pairs = [(to_rgb(image), blank_image(image)) for image in question.images]
        changed[i] = any(a.tobytes() != b.tobytes() for a, b in pairs), question.prompt != _blank_prompt(question)
    return dict(zip(("image", "text"), changed.mean(axis=0).tolist(), strict=True))


def _blank_prompt(question: VisualQuestion) -> str:
    """The options' letters alone, and the images' places where the prompt names them."""
    places = IMAGE_PLACEHOLDER * question.prompt.count(IMAGE_PLACEHOLDER)
    letters = format_prompt("", [""] * len(question.choices)).replace(") ", ")").strip()
    return places + letters
