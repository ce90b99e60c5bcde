"""Questions with their pictures, their text or both taken from another question of the set, or made blank.

Pictures come from a question with as many pictures and options, prompts from one with as many of both too, so that "the third
image" and "(D)" still name something. Answer, choices and answer_probs stay those of the question itself: only x is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from amvl_model.data.schema import VisualQuestion, format_prompt
from amvl_model.diagnostics.perturbations import blank_image
from amvl_model.evaluation.runner import given_answer
from amvl_model.evaluation.scoring import check_question
from amvl_model.processing import IMAGE_PLACEHOLDER

REPLACEMENTS = ("other", "blank")


@dataclass(frozen=True)
class Donors:
    """Who gets what from whom; all numbers are places in the set.

    Attributes:
        kept: questions that count.
        options, answers: their numbers of options and given answers.
        image, text: per kept question, whose pictures and whose prompt it gets.
        left_out: ids of questions without another one to take from.
    """

    kept: list[int]
    options: list[int]
    answers: list[int]
    image: dict[int, int]
    text: dict[int, int]
    left_out: list[str]


def find_donors(
    questions: Sequence[VisualQuestion], replacement: str, *, within_task: bool, seed: int
) -> tuple[Donors, dict[str, float]]:
    """Donors of every question, and the fraction of replacements that differ from what they replace, per modality.

    Within a group (equally many pictures and options, with ``within_task`` also one task) the pictures come from the next
    question of a random circle, and the prompt from another circle, in which as few questions as possible get a prompt that
    reads like their own. With replacement "blank" every question counts and is its own donor.

    Raises:
        ValueError: for an empty set, a question without a known answer or with fewer than two options, or if no two questions
            can take from each other.
    """
    if len(questions) == 0:
        raise ValueError("expected at least one question, got an empty set; check the split, the tasks and the limit")
    groups: dict[tuple[object, ...], list[int]] = {}
    prompts, pictures, ids, options, answers = [], [], [], [], []
    for i in range(len(questions)):
        question = questions[i]
        check_question(question, least_options=2)
        key = (len(question.images), len(question.choices), IMAGE_PLACEHOLDER in question.prompt)
        groups.setdefault((*key, question.task) if within_task else key, []).append(i)
        prompts.append(question.prompt)
        pictures.append([hash(image.tobytes()) for image in question.images])
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
    kept = sorted(image)
    if not kept:
        raise ValueError(
            f"expected two questions or more with equally many pictures and options{' of one task' if within_task else ''}, "
            f"got none among {len(questions)}; give more questions, or use replacement='blank'"
        )
    changed = {
        "image": float(np.mean([pictures[i] != pictures[image[i]] for i in kept])),
        "text": float(np.mean([prompts[i] != prompts[text[i]] for i in kept])),
    }
    left_out = [ids[i] for i in range(len(questions)) if i not in image]
    return Donors(kept, [options[i] for i in kept], [answers[i] for i in kept], image, text, left_out), changed


def _text_donors(circle: list[int], prompts: list[str]) -> dict[int, int]:
    """Equal prompts side by side, in the circle's order; each takes from as many places on as the commonest prompt has."""
    rank = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts[i] for i in circle))}
    ordered = sorted(circle, key=lambda i: rank[prompts[i]])
    most = max(sum(prompts[i] == prompt for i in circle) for prompt in rank)
    shift = most if most < len(circle) else 1
    return dict(zip(ordered, ordered[shift:] + ordered[:shift], strict=True))


class ReplacedQuestions(Sequence[VisualQuestion]):
    """The questions that count with "image", "text", "both" or nothing ("own") replaced; each is made when asked for."""

    def __init__(self, questions: Sequence[VisualQuestion], donors: Donors, condition: str, replacement: str) -> None:
        self.questions, self.donors = questions, donors
        self.condition, self.blank = condition, replacement == "blank"
        self.options, self.answers = donors.options, donors.answers

    def __len__(self) -> int:
        return len(self.donors.kept)

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item`` of those that count, or the list of a slice."""
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        place = self.donors.kept[item]
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
    """Fraction of questions that a blank picture and a blank prompt change."""
    changed = np.zeros((len(questions), 2))
    for i in range(len(questions)):
        question = questions[i]
        pairs = [(image.convert("RGB"), blank_image(image)) for image in question.images]
        changed[i] = any(a.tobytes() != b.tobytes() for a, b in pairs), question.prompt != _blank_prompt(question)
    return dict(zip(("image", "text"), changed.mean(axis=0).tolist(), strict=True))


def _blank_prompt(question: VisualQuestion) -> str:
    """The options' letters alone, and the pictures' places where the prompt names them."""
    places = IMAGE_PLACEHOLDER * question.prompt.count(IMAGE_PLACEHOLDER)
    letters = format_prompt("", [""] * len(question.choices)).replace(") ", ")").strip()
    return places + letters
