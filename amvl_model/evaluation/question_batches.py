"""Questions in padded batches of similar length, a bounded number of decoded images in memory.

A batch holds B questions; `batches` draws each question once, also from sets that are read lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from amvl_model import distributed
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.readers.records import UnreadableImages
from amvl_model.data.schema import VisualQuestion

WINDOW = 16
"""Batches whose questions are read at a time, and sorted by length among themselves."""
MAX_UNUSABLE_SHARE = 0.1
"""Share of the questions whose images may be unusable before an evaluation stops; one always may."""
WINDOW_BYTES = 1 << 27
"""Decoded images that a window may hold [bytes], the batch that exceeds it included; a batch is always whole."""


@dataclass(frozen=True)
class QuestionBatch:
    """Questions that are encoded together.

    Attributes:
        index: their places in the whole set.
        questions: the questions.
        tensors: their queries as `AMVLProcessor` pads them, without answers.
    """

    index: list[int]
    questions: list[VisualQuestion]
    tensors: dict[str, Tensor]

    @property
    def options(self) -> list[int]:
        """Number of options of each question."""
        return [len(question.choices) for question in self.questions]


def check_question(question: VisualQuestion, *, least_options: int = 1, needs_answer: bool = True) -> None:
    """Raise unless the question has at least ``least_options`` options and, if needed, a known answer.

    Raises:
        ValueError: naming the question and what is missing.
    """
    if not question.choices:
        raise ValueError(
            f"question {question.id!r}: expected a multiple-choice question, got one without choices; "
            "leave open questions out"
        )
    if len(question.choices) < least_options:
        raise ValueError(
            f"question {question.id!r}: expected at least {least_options} options, got {len(question.choices)}; "
            "nothing can be told apart with a single option, leave the question out"
        )
    if needs_answer and question.answer is None:
        raise ValueError(
            f"question {question.id!r}: expected a question with a known answer, got one whose answer is hidden; "
            "use a split whose answers are public, such as BLINK's val"
        )


def batches(
    questions: Sequence[VisualQuestion],
    processor: AMVLProcessor,
    batch_size: int,
    *,
    description: str,
    progress: bool = True,
    least_options: int = 1,
    needs_answer: bool = True,
    shared: bool = False,
    unusable: dict[int, tuple[VisualQuestion, str]] | None = None,
) -> Iterator[QuestionBatch]:
    """The questions in padded batches with a progress bar; each is drawn once.

    Within windows of 16 batches, or as many as `WINDOW_BYTES` allows, the questions are sorted by number of options and
    length, so little is padded, yet sets that are drawn or read lazily are never in memory as a whole. ``shared`` deals
    the windows out to the processes in turn: a process reads and yields its own ones only, the batches are those that one
    process would make, and the first process has the progress bar.

    With ``unusable``, questions whose images cannot be read or encoded are left out of the batches and put there, by place,
    with the reason.

    Raises:
        UnreadableImages: without ``unusable``, for the first such question; with it, when they are more than
            `MAX_UNUSABLE_SHARE` of the set.
        ValueError: for an empty set, a batch size below 1, or a question without choices or (if needed)
            a known answer.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(questions) == 0:
        raise ValueError("expected at least one question, got an empty set; check the split, the tasks and the limit")
    if isinstance(questions, list | tuple):
        for question in questions:
            check_question(question, least_options=least_options, needs_answer=needs_answer)
    rank, processes = (distributed.rank(), distributed.world_size()) if shared else (0, 1)
    shown = progress and rank == 0
    with tqdm(total=len(questions), desc=description, unit="question", disable=not shown, leave=False) as bar:
        for number, start in enumerate(range(0, len(questions), WINDOW * batch_size)):
            places = range(start, min(len(questions), start + WINDOW * batch_size))
            if number % processes != rank:
                bar.update(len(places))
                continue

            def read(place: int) -> VisualQuestion | None:
                try:
                    question = questions[place]
                except UnreadableImages as error:
                    _leave_out(error, place, unusable, len(questions))
                    return None
                check_question(question, least_options=least_options, needs_answer=needs_answer)
                return question

            def length(question: VisualQuestion) -> tuple[int, float]:
                return len(question.choices), _length(question, processor)

            for chosen, members in sorted_batches(places, read, length, batch_size):
                if not hasattr(processor, "encode"):  # a model of another project encodes whole batches
                    yield QuestionBatch(chosen, members, processor(members, answers=False))
                    bar.update(len(chosen))
                    continue
                encoded = {}
                for place, question in zip(chosen, members, strict=True):
                    try:
                        encoded[place] = (question, processor.encode(question, answers=False))
                    except ValueError as error:
                        if unusable is None:
                            raise
                        _leave_out(UnreadableImages(str(error), question), place, unusable, len(questions))
                if encoded:
                    parts, tensors = zip(*encoded.values(), strict=True)
                    yield QuestionBatch(list(encoded), list(parts), processor.collate(tensors))
                bar.update(len(chosen))


def _leave_out(
    error: UnreadableImages, place: int, unusable: dict[int, tuple[VisualQuestion, str]] | None, size: int
) -> None:
    """Put a question with its error into ``unusable``."""
    if unusable is None:
        raise error
    unusable[place] = (error.question, str(error))
    if len(unusable) > max(1, int(MAX_UNUSABLE_SHARE * size)) or len(unusable) == size:
        raise ValueError(
            f"the images of {len(unusable)} questions of {size} cannot be used, expected at most {MAX_UNUSABLE_SHARE:.0%}; "
            f"repair the data. The last: {error}"
        ) from error


def sorted_batches(
    places: Sequence[int],
    read: Callable[[int], VisualQuestion | None],
    length: Callable[[VisualQuestion], Any],
    batch_size: int,
) -> Iterator[tuple[list[int], list[VisualQuestion]]]:
    """Places and questions of every batch, sorted by length within windows.

    A window ends after 16 batches, or with the batch whose decoded images exceed `WINDOW_BYTES`, so memory does not grow
    with the size of the photographs times 16.

    Args:
        places: which questions, in order.
        read: a question by its place, None to leave it out; called once for each.
        length: what to sort by.
        batch_size: questions of a batch.
    """
    window: dict[int, VisualQuestion] = {}
    size = 0
    for number, place in enumerate(places, start=1):
        if (question := read(place)) is not None:
            window[place] = question
            size += sum(3 * image.width * image.height for image in question.images)
        full = len(window) % batch_size == 0 and (len(window) == WINDOW * batch_size or size > WINDOW_BYTES)
        if full or number == len(places):
            order = sorted(window, key=lambda place: length(window[place]))
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                yield chosen, [window.pop(place) for place in chosen]
            size = 0


def _length(question: VisualQuestion, processor: AMVLProcessor) -> float:
    """Roughly the number of query tokens, without decoding or tokenising anything."""
    settings = getattr(processor, "image_processor", None)
    if settings is None:
        return len(question.prompt) / 4
    size, token_side = dict(settings.size), settings.patch_size * settings.merge_size
    pixels = 0.0
    for image in question.images:
        area = image.width * image.height
        pixels += min(max(area, size.get("shortest_edge") or area), size.get("longest_edge") or area)
    return pixels / token_side**2 + len(question.prompt) / 4
