"""Several training sets as one: shares by weight, a fixed random order, and damaged records skipped, counted and named.

With weights w_i over sources of n_i questions and a mixture of N questions, source i gives

    N_i = N w_i / sum_j w_j        (largest remainders, so that the N_i sum to N exactly)

questions, in a random order that depends on the seed alone. A source that has fewer is gone through again, each time in a
new order; none is repeated before all of its source were used. Without N, the mixture is the largest one in which no
question occurs twice: N = min_i n_i sum_j w_j / w_i. Without weights every source gives all that it has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from amvl_model.data.schema import QuestionSet, VisualQuestion

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
MAX_SKIPPED_SHARE = 0.001
"""Share of the requested questions that may be unreadable before it is an error; one is always tolerated."""


@dataclass(frozen=True)
class Skipped:
    """A question that could not be read.

    Attributes:
        source: its source.
        index: its place in the source.
        reason: the error's message, which names file and record.
    """

    source: str
    index: int
    reason: str


class MixedQuestions(QuestionSet):
    """Training questions of several sources (rules at the top of this module). Questions are read on access.

    A question that cannot be read, or in `read` not be converted, is replaced by the next one of its source and added to
    ``skipped``.

    Args:
        sources: name to questions.
        weights: name to weight, above 0, for every source; None: every source in full.
        size: number of questions, N.
        seed: of the order.
        max_skipped_share: as `MAX_SKIPPED_SHARE`; 0 makes the first unreadable question an error.

    Raises:
        ValueError: for no source, an empty one, weights that are not above 0 or not those of the sources, or a size below
            1; on access, when more questions were unreadable than may be.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[VisualQuestion]],
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
        *,
        seed: int = 0,
        max_skipped_share: float = MAX_SKIPPED_SHARE,
    ) -> None:
        _check(sources, weights, size)
        self.sources, self._seed, self._max_share = dict(sources), seed, max_skipped_share
        self.skipped: list[Skipped] = []
        self._failed: dict[tuple[int, int], str] = {}
        self._asked = 0
        self.counts = _counts({name: len(part) for name, part in sources.items()}, weights, size)
        which = np.repeat(np.arange(len(self.counts), dtype=np.int32), list(self.counts.values()))
        order = np.random.default_rng([seed, 0]).permutation(which.size)
        self._which = which[order]
        self._draw = np.concatenate([np.arange(count) for count in self.counts.values()])[order]
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._which.size)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        return self.read(index, lambda question: question)

    def read(self, item: int, convert: Callable[[VisualQuestion], T]) -> T:
        """Question ``item`` converted, encoded for example; one that cannot be converted is skipped as an unreadable one is.

        Args:
            item: number of the question.
            convert: called with the question; a ValueError or OSError means that the question cannot be used.

        Raises:
            ValueError: when more questions could not be used than may be.
        """
        number = int(self._which[item])
        name = list(self.sources)[number]
        source = self.sources[name]
        self._asked += 1
        draw = int(self._draw[item])
        for attempt in range(len(source)):
            index = self._index(number, draw + attempt)
            if (number, index) not in self._failed:
                try:
                    return convert(source[index])
                except (ValueError, OSError) as error:
                    self._skip(number, name, index, error)
        raise ValueError(
            f"source {name}: none of its {len(source)} questions can be read; see the first: {self.skipped[0]}"
        )

    def place(self, item: int) -> tuple[str, int]:
        """Source and index of question ``item``, unreadable ones not taken into account."""
        number = int(self._which[item])
        return list(self.sources)[number], self._index(number, int(self._draw[item]))

    def _index(self, number: int, draw: int) -> int:
        """Place in the source of its ``draw``-th question: a new order for each time through."""
        size = len(list(self.sources.values())[number])
        epoch, place = divmod(draw, size)
        if (number, epoch) not in self._orders:
            if len(self._orders) > 4 * len(self.sources):
                self._orders.clear()
            order = np.random.default_rng([self._seed, 1 + number, epoch]).permutation(size)
            self._orders[number, epoch] = order.astype(np.int32 if size < 2**31 else np.int64)
        return int(self._orders[number, epoch][place])

    def _skip(self, number: int, name: str, index: int, error: Exception) -> None:
        self._failed[number, index] = str(error)
        _note(self.skipped, Skipped(name, index, str(error)), self._asked, self._max_share, error)


def readable(
    name: str,
    questions: Sequence[VisualQuestion],
    skipped: list[Skipped],
    *,
    max_skipped_share: float = MAX_SKIPPED_SHARE,
) -> Iterator[VisualQuestion]:
    """The questions in order, without those that cannot be read, which are added to ``skipped``.

    Raises:
        ValueError: when more were unreadable than may be (as `MixedQuestions`; the share is of all the questions).
    """
    for index in range(len(questions)):
        try:
            question = questions[index]
        except (ValueError, OSError) as error:
            _note(skipped, Skipped(name, index, str(error)), len(questions), max_skipped_share, error)
            continue
        yield question


def _note(skipped: list[Skipped], entry: Skipped, requested: int, max_share: float, error: Exception) -> None:
    """Add an unreadable question to the list and the log; raises when there are too many."""
    skipped.append(entry)
    _LOG.warning("skipped question %d of %s: %s", entry.index, entry.source, entry.reason)
    allowed = max(1, math.floor(max_share * requested)) if max_share > 0 else 0
    if len(skipped) > allowed:
        listed = "\n".join(f"  {one.source} {one.index}: {one.reason}" for one in skipped[:10])
        raise ValueError(
            f"{len(skipped)} questions of {requested} could not be read; expected at most {allowed} ({max_share:.2%}, at "
            f"least one); repair the data or raise max_skipped_share. The first:\n{listed}"
        ) from error


def _check(
    sources: Mapping[str, Sequence[VisualQuestion]], weights: Mapping[str, float] | None, size: int | None
) -> None:
    if not sources:
        raise ValueError("expected at least one source, got none; name the training sets")
    empty = [name for name, questions in sources.items() if len(questions) == 0]
    if empty:
        raise ValueError(
            f"expected questions from every source, got none from {', '.join(empty)}; check path and tasks"
        )
    if size is not None and size < 1:
        raise ValueError(f"size must be None or at least 1, got {size}")
    if weights is None:
        return
    if set(weights) != set(sources):
        raise ValueError(f"expected a weight for each of {', '.join(sources)}, got {', '.join(weights) or 'none'}")
    wrong = {name: weight for name, weight in weights.items() if not (weight > 0 and math.isfinite(weight))}
    if wrong:
        raise ValueError(f"expected weights above 0, got {wrong}; leave a source out instead of weighting it with 0")


def _counts(sizes: Mapping[str, int], weights: Mapping[str, float] | None, size: int | None) -> dict[str, int]:
    """How many questions each source gives."""
    shares = (
        {name: float(n) for name, n in sizes.items()} if weights is None else {name: weights[name] for name in sizes}
    )
    total = sum(shares.values())
    if size is None:
        size = max(1, math.floor(min(n * total / shares[name] for name, n in sizes.items()) + 1e-9))
    exact = {name: size * share / total for name, share in shares.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    return counts
