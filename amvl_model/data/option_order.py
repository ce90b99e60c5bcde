"""Options in another order: does a model choose what an option says, or where it stands?

    ShuffledOptions(questions, seed=0)       every question in a random order of its own
    ShuffledOptions(questions, rotation=1)   every question's options moved on by one place (HRBench's cycles)

The right answer moves along. Questions whose options are drawn in the picture (VisualPuzzles with choices A to D) have no
texts that could move: they stay as they are, and `ShuffledOptions.fixed` counts them. The same holds for options that name
each other's letters ("both A and B").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from amvl_model.data.schema import LETTERS, VisualQuestion, format_prompt, option_letter

_NAMES_LETTERS = re.compile(
    r"\b(?i:both|either|neither|and|or)\b.*\b[A-H]\b(?!\w)|\b[A-H]\b\s*(?:and|or|&)\b|(?i:of the above)"
)


def can_reorder(question: VisualQuestion) -> bool:
    """Whether the options are texts that may stand in any order."""
    letters = all(choice.strip("() ").upper() in set(LETTERS) for choice in question.choices)
    names = any(_NAMES_LETTERS.search(choice) for choice in question.choices)
    return len(question.choices) > 1 and not letters and not names and _option_lines(question) is not None


def reorder_options(question: VisualQuestion, order: Sequence[int]) -> VisualQuestion:
    """The same question with option ``order[i]`` at place i; the prompt's lettered lines and the answer follow.

    Raises:
        ValueError: if ``order`` is no permutation of the options, or the prompt does not list them.
    """
    if sorted(order) != list(range(len(question.choices))):
        raise ValueError(
            f"question {question.id!r}: expected a permutation of 0 to {len(question.choices) - 1}, got {list(order)}"
        )
    choices = tuple(question.choices[i] for i in order)
    spans = _option_lines(question)
    if spans is None:
        raise ValueError(
            f"question {question.id!r}: its prompt does not list the options as (A) ... or A. ..., so they cannot be "
            "reordered; check can_reorder first"
        )
    prompt = question.prompt
    for (start, end), text in reversed(list(zip(spans, choices, strict=True))):
        prompt = prompt[:start] + text + prompt[end:]
    answer = None if question.answer is None else list(order).index(question.answer)
    probabilities = question.answer_probs
    return replace(
        question,
        choices=choices,
        prompt=prompt,
        answer=answer,
        answer_text=question.answer_text if answer is None else option_letter(answer),
        answer_probs=None if probabilities is None else tuple(probabilities[i] for i in order),
    )


def _option_lines(question: VisualQuestion) -> list[tuple[int, int]] | None:
    """Places of the option texts in the prompt, each after its letter; None if one is not there."""
    spans = []
    start = 0
    if question.prompt == format_prompt(question.question, question.choices):
        start = len(question.question)
    for letter, choice in zip(LETTERS, question.choices, strict=False):
        pattern = re.compile(rf"(?:\({letter}\)|(?<![A-Za-z]){letter}[.):])[ \t]*(?P<text>{re.escape(choice)})(?=\s|$)")
        match = pattern.search(question.prompt, start)
        if match is None:
            return None
        spans.append(match.span("text"))
        start = match.end()
    return spans


class ShuffledOptions(Sequence[VisualQuestion]):
    """Questions with their options in another order, made when they are asked for.

    Args:
        questions: multiple-choice questions.
        seed: of the random orders, one for each question.
        rotation: instead, move the options on by so many places.

    Raises:
        ValueError: if neither or both are given.
    """

    def __init__(
        self, questions: Sequence[VisualQuestion], *, seed: int | None = None, rotation: int | None = None
    ) -> None:
        if (seed is None) == (rotation is None):
            raise ValueError(f"expected either a seed or a rotation, got seed={seed} and rotation={rotation}")
        self._questions, self._seed, self._rotation = questions, seed, rotation
        self._fixed: set[int] = set()

    @property
    def fixed(self) -> int:
        """Questions read so far whose options could not be reordered."""
        return len(self._fixed)

    def __len__(self) -> int:
        return len(self._questions)

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item``, or the list of a slice."""
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        index = range(len(self))[item]
        question = self._questions[index]
        if not can_reorder(question):
            self._fixed.add(index)
            return question
        size = len(question.choices)
        if self._rotation is None:
            order = np.random.default_rng([self._seed or 0, index]).permutation(size).tolist()
        else:
            order = [(place + self._rotation) % size for place in range(size)]
        return reorder_options(question, order)
