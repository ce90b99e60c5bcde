"""The one question format that every benchmark and training source is converted to.

A `VisualQuestion` holds everything a source knows of one example: its images (PIL, RGB), the text of the question as
it is shown to the model, the option texts, and which of them is the answer. Sources differ; the rest of the package
sees only this class.
"""

from __future__ import annotations

import math
import string
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from PIL import Image

from amvl_model.data.images import to_rgb

LETTERS = string.ascii_uppercase
MAX_TEXT = 1_000_000
"""Longest text of a record [characters]."""


@dataclass(frozen=True, kw_only=True)
class VisualQuestion:
    """One question about zero or more images, with its answer.

    Attributes:
        id: unique within its source, for example ``val_Counting_17``.
        images: PIL images in the order in which the prompt refers to them.
        prompt: text shown to the model after the images, options included.
        answer_text: the reply that training aims at, for example ``(B)`` (no end-of-turn token).
        question: the question alone, without the options.
        choices: option texts; empty for an open question.
        answer: index of the right option, or None for an open question or a hidden answer.
        task: category that accuracies are reported by, for example ``Counting``.
        source: name of the data set.
        answer_probs: p(y|x) over the options where it is known (synthetic BLINK with label noise), else None.
        chain: names of the intermediate states of a multi-hop question, from the start to the right answer; else empty.
        messages: chat messages before the answer, which the model is shown in place of the prompt; empty: the prompt is the one
            message. Contents are lists of {"type": "text", "text": ...} and {"type": "image"}, the latter in the order of images.
    """

    id: str
    images: tuple[Image.Image, ...]
    prompt: str
    answer_text: str
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: int | None = None
    task: str = ""
    source: str = ""
    answer_probs: tuple[float, ...] | None = None
    chain: tuple[str, ...] = ()
    messages: tuple[dict[str, Any], ...] = ()

    @property
    def hops(self) -> int | None:
        """Number of steps of a multi-hop question (its chain has one state more), else None."""
        return len(self.chain) - 1 if self.chain else None

    def __post_init__(self) -> None:
        choices: Any = self.choices
        if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
            raise ValueError(
                f"question {self.id!r}: expected choices as a tuple of texts, got {short(choices)}; list the options"
            )
        if self.answer is not None and not 0 <= self.answer < len(self.choices):
            raise ValueError(
                f"question {self.id!r}: the answer must be one of its {len(self.choices)} choices "
                f"(index 0 to {len(self.choices) - 1}), got {self.answer}; correct the answer or the choices"
            )
        if self.answer_probs is not None and len(self.answer_probs) != len(self.choices):
            raise ValueError(
                f"question {self.id!r}: answer_probs must have one entry per choice ({len(self.choices)}), "
                f"got {len(self.answer_probs)}"
            )

    def with_answer(self, index: int) -> VisualQuestion:
        """The same question with option ``index`` as its answer (what a posterior of that option sees)."""
        return replace(self, answer=index, answer_text=option_letter(index))


class QuestionSet(Sequence[VisualQuestion]):
    """A set of questions with random access: a subclass has ``__len__`` and `question`."""

    @abstractmethod
    def question(self, index: int) -> VisualQuestion:
        """Question ``index``, 0 to the size - 1."""

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item`` (negative: from the end), or the list of a slice.

        Raises:
            IndexError: for a number out of range.
        """
        size = len(self)
        if isinstance(item, slice):
            return [self.question(i) for i in range(*item.indices(size))]
        if not -size <= item < size:
            raise IndexError(f"item must be in -{size}..{size - 1}, got {item}")
        return self.question(item % size)


class ChosenQuestions(QuestionSet):
    """Questions of a set by their places in it, each read on access as before."""

    def __init__(self, questions: Sequence[VisualQuestion], places: Sequence[int]) -> None:
        self._questions, self._places = questions, places

    def __len__(self) -> int:
        return len(self._places)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        return self._questions[self._places[index]]


def option_letter(index: int) -> str:
    """``0 -> "(A)"``, the form in which BLINK writes answers."""
    if not 0 <= index < len(LETTERS):
        raise ValueError(f"option index must be in 0..{len(LETTERS) - 1}, got {index}")
    return f"({LETTERS[index]})"


def answer_index(answer: str, choices: Sequence[str], question_id: str = "") -> int:
    """Index of BLINK's answer string (``"(B)"`` or ``"B"``) among ``choices``.

    Raises:
        ValueError: if the answer is not a letter of one of the choices.
    """
    letter = answer.strip().strip("()").upper()
    index = LETTERS.find(letter) if len(letter) == 1 else -1
    if not 0 <= index < len(choices):
        raise ValueError(
            f"question {question_id!r}: expected the answer to be one of "
            f"{', '.join(option_letter(i) for i in range(len(choices)))}, got {answer!r}; "
            "correct the record, or use a split whose answers are public"
        )
    return index


def format_prompt(question: str, choices: Sequence[str]) -> str:
    """BLINK's prompt: the question, then one lettered line per choice."""
    if not choices:
        return question
    lines = "\n".join(f"{option_letter(i)} {choice}" for i, choice in enumerate(choices))
    return f"{question}\nSelect from the following choices.\n{lines}"


def text_of(value: Any, place: str) -> str:
    """A text from a record: a text as it is, a finite number as JSON writes it.

    Args:
        value: of the field.
        place: file, record and field, for messages.

    Raises:
        ValueError: for null, truth values, lists, objects, and text that is not valid Unicode or longer than `MAX_TEXT`.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not number:
        raise ValueError(f"{place}: expected a text, got {short(value)}; correct the record")
    text = str(value)
    if len(text) > MAX_TEXT:
        raise ValueError(f"{place} has {len(text):,} characters, expected at most {MAX_TEXT:,}; shorten the text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: expected valid Unicode, got half a surrogate pair in {short(text)}") from error
    return text


def option_texts(value: Any, place: str) -> tuple[str, ...]:
    """Option texts from a record: a list of texts, or an object from the letters A, B, ... to texts.

    Args:
        value: of the field.
        place: file, record and field, for messages.

    Raises:
        ValueError: for a text, other objects, and null, lists or objects among the options.
    """
    if isinstance(value, dict) and value and sorted(value) == list(LETTERS[: len(value)]):
        value = [value[letter] for letter in sorted(value)]
    if not isinstance(value, list | tuple):
        raise ValueError(
            f'{place}: expected a list of texts or an object {{"A": text, "B": text, ...}}, got {short(value)}; '
            "write the options as a list"
        )
    return tuple(text_of(option, f"{place}, option {number}") for number, option in enumerate(value, start=1))


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def question_from_blink(record: dict[str, Any], *, source: str = "BLINK") -> VisualQuestion:
    """Convert one record of BLINK's schema to a `VisualQuestion`.

    A hidden answer (BLINK's test split writes ``"hidden"``) becomes ``answer=None``.

    Raises:
        ValueError: if the record has no image, or an answer outside its choices.
    """
    identifier = str(record["idx"])
    images = tuple(record[f"image_{i}"] for i in range(1, 5) if record.get(f"image_{i}") is not None)
    if not images:
        raise ValueError(
            f"record {identifier!r}: expected at least image_1, got no image; every BLINK question has one"
        )
    choices = option_texts(record["choices"], f"record {identifier!r}: choices")
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(
            f"record {identifier!r}: expected 2 to {len(LETTERS)} choices, got {len(choices)}; correct the record"
        )
    question = text_of(record["question"], f"record {identifier!r}: question")
    prompt = text_of(record.get("prompt") or format_prompt(question, choices), f"record {identifier!r}: prompt")
    hidden = str(record["answer"]).strip().lower() in {"hidden", ""}
    index = None if hidden else answer_index(str(record["answer"]), choices, identifier)
    return VisualQuestion(
        id=identifier,
        images=tuple(to_rgb(image, f"record {identifier!r}") for image in images),
        prompt=prompt,
        answer_text="" if index is None else option_letter(index),
        question=question,
        choices=choices,
        answer=index,
        task=text_of(record["sub_task"], f"record {identifier!r}: sub_task"),
        source=source,
    )
