"""Do the questions of an evaluation stand in the training set? Accuracy on such questions is memory, and is to be called so.

Two questions are the same if prompt and images are (labels may differ: some are wrong on purpose). The training set is read
question by question, images included. Drawn sets (synthetic-blink, multihop) are read only where ids of their train split are
evaluated: other splits never share a random stream. Sets on the hub are not fetched for this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amvl_model.config.schema import DataConfig
from amvl_model.data.schema import VisualQuestion

LIMIT = 20_000
"""Training questions that are read at most."""
_DRAWN = ("synthetic-blink", "multihop")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many questions of an evaluation stand in the training set.

    Attributes:
        shared: evaluated questions that do; None where the training set cannot be read here.
        n: evaluated questions.
        read: training questions compared; size: those there are, None where unknown.
        reason: why it is not known, else "".
    """

    shared: int | None
    n: int
    read: int
    size: int | None
    reason: str = ""

    def sentence(self) -> str:
        """In words; "" where nothing is shared and all was compared."""
        if self.shared is None:
            return f"Whether these questions overlap with the training set is not known: {self.reason}."
        complete = self.size in (None, self.read) or self.shared == self.n
        part = "" if complete else f" (first {self.read:,} of {self.size:,} training questions compared)"
        if self.shared:
            return (
                f"{self.shared} of these {self.n} questions stand in this checkpoint's training set{part}: its scores on them "
                "are those of training, not of held-out questions."
            )
        return f"None of these {self.n} questions stands in the training set{part}." if part else ""


def training_overlap(questions: Sequence[VisualQuestion], data: DataConfig, *, limit: int = LIMIT) -> Overlap:
    """Compare evaluated questions with the training set that a run's data settings name.

    Args:
        questions: of the evaluation.
        data: settings of the training run.
        limit: training questions read at most.
    """
    from amvl_model.data.sources import training_questions

    names = [name if Path(name).exists() else name.partition(":")[0] for name in data.sources]
    drawn = set(names) <= set(_DRAWN)
    if drawn and not any(q.source in _DRAWN and q.id.startswith("train_") for q in questions):
        return Overlap(shared=0, n=len(questions), read=0, size=None)
    if not drawn and data.path is None and not all(name in _DRAWN or Path(name).exists() for name in names):
        return Overlap(shared=None, n=len(questions), read=0, size=None, reason=f"{data.source} is not on this machine")
    try:
        training = training_questions(data)
        size = len(training)
        absent = {_content(question) for question in questions}
        read = 0
        while absent and read < min(limit, size):
            absent.discard(_content(training[read]))
            read += 1
    except (ValueError, OSError) as error:
        return Overlap(shared=None, n=len(questions), read=0, size=None, reason=str(error).rstrip("."))
    shared = sum(_content(question) not in absent for question in questions)
    return Overlap(shared=shared, n=len(questions), read=read, size=size)


def _content(question: VisualQuestion) -> bytes:
    """SHA-256 of prompt and pixels."""
    result = hashlib.sha256(question.prompt.encode())
    for image in question.images:
        result.update(repr((image.mode, image.size)).encode() + image.tobytes())
    return result.digest()
