"""Synthetic BLINK: random access to procedurally drawn questions in BLINK's record schema.

Every question (task, split, seed, index) owns two random streams: one for the right option, the text and the images,
one for label noise. The right option y* is drawn first and uniformly, then the question is drawn around it, so that

    p(y* | question text, options) = 1 / n          (n options: only the images tell)
    p(y | x) = 1 - eps for y = y*,  eps / (n - 1) for every other option          (eps: label noise)

and changing eps never changes an image. H(y | x) is the answer information that no x can give.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from amvl_model.data.schema import QuestionSet, VisualQuestion, format_prompt, option_letter, question_from_blink
from amvl_model.data.synthetic import correspondence, objects, paintings, puzzles, scenes
from amvl_model.data.synthetic.canvas import Drawing, Task

SPLITS: Final = ("train", "val", "test")
DEFAULT_DIFFICULTY: Final = 0.25
SOURCE: Final = "synthetic-blink"

_TASKS: Final[dict[str, Task]] = {
    task.name: task
    for task in (
        Task(name="Art_Style", options=2, images=3, draw=paintings.draw_art_style),
        Task(name="Counting", options=4, images=1, draw=objects.draw_counting),
        Task(name="Forensic_Detection", options=4, images=4, draw=paintings.draw_forensic_detection),
        Task(name="Functional_Correspondence", options=4, images=2, draw=correspondence.draw_functional_correspondence),
        Task(name="IQ_Test", options=4, images=1, draw=puzzles.draw_iq_test),
        Task(name="Jigsaw", options=2, images=3, draw=paintings.draw_jigsaw),
        Task(name="Multi-view_Reasoning", options=2, images=2, draw=scenes.draw_multi_view),
        Task(name="Object_Localization", options=2, images=1, draw=objects.draw_object_localization),
        Task(name="Relative_Depth", options=2, images=1, draw=scenes.draw_relative_depth),
        Task(name="Relative_Reflectance", options=3, images=1, draw=scenes.draw_relative_reflectance),
        Task(name="Semantic_Correspondence", options=4, images=2, draw=correspondence.draw_semantic_correspondence),
        Task(name="Spatial_Relation", options=2, images=1, draw=objects.draw_spatial_relation),
        Task(name="Visual_Correspondence", options=4, images=2, draw=correspondence.draw_visual_correspondence),
        Task(name="Visual_Similarity", options=2, images=3, draw=objects.draw_visual_similarity),
    )
}
TASKS: Final = tuple(_TASKS)


def _nearest(name: str, names: Sequence[str]) -> str:
    """The valid name most like ``name`` (case ignored)."""
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.0)
    return lowered[close[0]]


def check_name(what: str, name: str, names: Sequence[str]) -> None:
    """Raise a ValueError with the nearest valid name if ``name`` is not one of ``names``."""
    if name not in names:
        raise ValueError(
            f"{what} must be one of {', '.join(names)}, got {name!r}; did you mean {_nearest(name, names)!r}?"
        )


def check_unit(what: str, value: float) -> None:
    """Raise a ValueError if ``value`` is not in [0, 1]."""
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{what} must be a number in [0, 1], got {value!r}; pass a value between 0 and 1")


def check_count(what: str, value: int) -> None:
    """Raise a ValueError if ``value`` is negative."""
    if value < 0:
        raise ValueError(f"{what} must be an integer of at least 0, got {value!r}; count from 0")


def noisy_answer(clean: int, options: int, label_noise: float, rng: np.random.Generator) -> int:
    """``clean`` with probability 1 - label_noise, else another option, uniformly."""
    flipped = float(rng.random()) < label_noise
    shift = int(rng.integers(1, options))
    return (clean + shift) % options if flipped else clean


def blink_record(name: str, task: str, drawing: Drawing, answer: int) -> dict[str, Any]:
    """A drawn question, its answer given by index, as a record of BLINK's schema."""
    images = [*drawing.images, None, None, None][:4]
    choices = list(drawing.choices)
    return {
        "idx": name,
        "question": drawing.question,
        "sub_task": task,
        **{f"image_{i + 1}": image for i, image in enumerate(images)},
        "choices": choices,
        "answer": option_letter(answer),
        "prompt": format_prompt(drawing.question, choices),
        "explanation": drawing.explanation,
    }


def _check(task: str, split: str, seed: int, index: int, difficulty: float, label_noise: float) -> None:
    """Raise a ValueError that says what was expected if an argument is out of range."""
    check_name("task", task, TASKS)
    check_name("split", split, SPLITS)
    check_unit("difficulty", difficulty)
    check_unit("label_noise", label_noise)
    check_count("seed", seed)
    check_count("index", index)


def _stream(task: str, split: str, seed: int, index: int, stream: int) -> np.random.Generator:
    """Stream 0 (images, text, right option) or 1 (label noise) of one question."""
    key = (TASKS.index(task), SPLITS.index(split), index, stream)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def clean_answer(task: str, split: str = "val", seed: int = 0, index: int = 0) -> int:
    """Index of the option that the images show to be right, before label noise; nothing is drawn.

    Raises:
        ValueError: for an unknown task or split, or a negative seed or index.
    """
    _check(task, split, seed, index, 0.0, 0.0)
    return int(_stream(task, split, seed, index, 0).integers(_TASKS[task].options))


def answer_distribution(task: str, clean: int, label_noise: float) -> tuple[float, ...]:
    """p(y|x) over the options of a question whose right option is ``clean``.

    Raises:
        ValueError: for an unknown task, a label noise outside [0, 1], or an answer outside the options.
    """
    check_name("task", task, TASKS)
    check_unit("label_noise", label_noise)
    options = _TASKS[task].options
    if not 0 <= clean < options:
        raise ValueError(f"clean must be the index of one of {options} options of {task}, got {clean}; count from 0")
    return tuple(1.0 - label_noise if i == clean else label_noise / (options - 1) for i in range(options))


def synthetic_blink(
    task: str,
    split: str = "val",
    seed: int = 0,
    index: int = 0,
    difficulty: float = DEFAULT_DIFFICULTY,
    label_noise: float = 0.0,
) -> dict[str, Any]:
    """Draw one question of one task as a record of BLINK's schema.

    Args:
        task: one of `TASKS`.
        split: "train", "val" or "test"; splits never share a random stream.
        seed: names an independent data set.
        index: number of the question within (task, split, seed); any order, any subset.
        difficulty: 0 (no jitter, no distractors) to 1 (hard for a small model, solvable by a person).
        label_noise: probability with which the answer is replaced by another option, drawn uniformly.

    Returns:
        idx, question, sub_task, image_1 to image_4 (PIL RGB of 112 x 112 pixels, None if absent), choices, answer
        (``"(A)"``), prompt, explanation (what the images show).

    Raises:
        ValueError: for an unknown task or split, a difficulty or label noise outside [0, 1], or a negative seed or
            index.
    """
    _check(task, split, seed, index, difficulty, label_noise)
    spec = _TASKS[task]
    rng = _stream(task, split, seed, index, 0)
    clean = int(rng.integers(spec.options))
    drawing = spec.draw(rng, float(difficulty), clean)
    given = (
        noisy_answer(clean, spec.options, label_noise, _stream(task, split, seed, index, 1)) if label_noise else clean
    )
    return blink_record(f"{split}_{task}_{index}", task, drawing, given)


def synthetic_question(
    task: str,
    split: str = "val",
    seed: int = 0,
    index: int = 0,
    difficulty: float = DEFAULT_DIFFICULTY,
    label_noise: float = 0.0,
) -> VisualQuestion:
    """`synthetic_blink` as a `VisualQuestion`, with ``answer_probs`` = p(y|x) of the label noise.

    Raises:
        ValueError: as `synthetic_blink`.
    """
    record = synthetic_blink(task, split, seed, index, difficulty, label_noise)
    probs = answer_distribution(task, clean_answer(task, split, seed, index), label_noise)
    return replace(question_from_blink(record, source=SOURCE), answer_probs=probs)


class TaskCycle(QuestionSet):
    """A fixed-size set, drawn lazily, that cycles through tasks, ``together`` questions of one task after another.

    Item i belongs to block b = i // q (q = together): question i % q of the (b // T)-th block of task b % T, for T tasks.

    Raises:
        ValueError: for a string in place of ``tasks``, for none, or a negative size.
    """

    def __init__(
        self, tasks: Sequence[str], split: str, seed: int, size: int, *, names: Sequence[str], together: int = 1
    ) -> None:
        if isinstance(tasks, str):
            raise ValueError(f"tasks must be a sequence of names, got the string {tasks!r}; pass ({tasks!r},)")
        if not tasks:
            raise ValueError(f"tasks must name at least one of {', '.join(names)}, got none; leave it out for all")
        check_count("size", size)
        self.tasks, self.split, self.seed, self.size, self.together = tuple(tasks), split, seed, size, together

    def __len__(self) -> int:
        return self.size

    def place(self, item: int) -> tuple[str, int]:
        """Task of item ``item`` (0 to size - 1), and its index among the questions of that task."""
        if not 0 <= item < self.size:
            raise IndexError(f"item must be in 0..{self.size - 1}, got {item}")
        block, within = divmod(item, self.together)
        number, which = divmod(block, len(self.tasks))
        return self.tasks[which], number * self.together + within


class SyntheticBlink(TaskCycle):
    """A fixed-size, lazily drawn data set that cycles through tasks: item i is question i // T of task i % T.

    Args:
        tasks: the T tasks to cycle through.
        split: "train", "val" or "test".
        seed: names an independent data set.
        size: number of questions in all.
        difficulty: 0 to 1.
        label_noise: probability of a wrong label, 0 to 1.

    Raises:
        ValueError: for no tasks, an unknown task or split, a number out of range, or a negative size.
    """

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        split: str = "train",
        seed: int = 0,
        size: int = 1400,
        difficulty: float = DEFAULT_DIFFICULTY,
        label_noise: float = 0.0,
    ) -> None:
        super().__init__(tasks, split, seed, size, names=TASKS)
        for task in self.tasks:
            _check(task, split, seed, 0, difficulty, label_noise)
        self.difficulty, self.label_noise = difficulty, label_noise

    def question(self, index: int) -> VisualQuestion:
        """Draw question ``index`` (0 to size - 1)."""
        task, index = self.place(index)
        return synthetic_question(task, self.split, self.seed, index, self.difficulty, self.label_noise)

    def record(self, item: int) -> dict[str, Any]:
        """Item ``item`` (0 to size - 1) as a record of BLINK's schema."""
        task, index = self.place(item)
        return synthetic_blink(task, self.split, self.seed, index, self.difficulty, self.label_noise)
