"""Position bias: how often each letter is chosen, beside how often it is right, and accuracies over orders of the options.

For questions with K options, with c_l the share of read replies that choose letter l and r_l the share whose right answer is l:

    bias        1/2 sum_l |c_l - r_l|        total variation: 0 where letters are chosen as often as they are right,
                                             1 - max r where one letter is always chosen; also above 0 by chance alone
    accuracy_l  share answered rightly among the questions whose right answer is l; a biased model differs between letters

Over several orders of the options of the same questions: the mean accuracy, the accuracy of each order, and the share of
questions answered rightly in every order ("circular" accuracy, which guessing lowers to K^-orders).


Options in another order: does a model choose what an option says, or where it stands?

    ShuffledOptions(questions, seed=0)       every question in a random order of its own
    ShuffledOptions(questions, rotation=1)   every question's options moved on by one place (HRBench's cycles)

The right answer moves along. Questions whose options are drawn in the image (VisualPuzzles with choices A to D) have no
texts that could move: they stay as they are, and `ShuffledOptions.fixed` counts them. The same holds for options that name
each other's letters ("both A and B").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from amvl_model.data.schema import LETTERS, QuestionSet, VisualQuestion, format_prompt, option_letter
from amvl_model.results.statistics import Interval, bootstrap_mean

Outcome = tuple[int, int, int | None]
"""(number of options, index of the right one, index of the chosen one or None where the reply was not read)."""


@dataclass(frozen=True, kw_only=True)
class LetterShare:
    """One letter among the questions with the same number of options.

    Attributes:
        letter: A, B, ...
        right: share of the read questions whose right answer it is.
        chosen: share of the read replies that choose it, with its interval.
        accuracy: share answered rightly where it is right; None if it never is.
    """

    letter: str
    right: float
    chosen: Interval
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """Choices by letter, for the questions with ``options`` options.

    Attributes:
        options: K.
        n: questions.
        unread: replies that could not be read (left out of the shares).
        letters: one entry a letter; empty if no reply was read.
        bias: total variation between chosen and right letters; None if no reply was read.
    """

    options: int
    n: int
    unread: int
    letters: tuple[LetterShare, ...]
    bias: float | None


def position_bias(outcomes: Sequence[Outcome], *, n_bootstrap: int = 1000, seed: int = 0) -> tuple[PositionBias, ...]:
    """Choices by letter, one entry for each number of options, fewest first (equations at the top of this module).

    Raises:
        ValueError: if there are no outcomes, or an index is not one of its options.
    """
    if not outcomes:
        raise ValueError("expected at least one outcome, got none")
    for options, right, chosen in outcomes:
        if not 0 <= right < options or not (chosen is None or 0 <= chosen < options):
            raise ValueError(f"expected indices from 0 to {options - 1}, got right {right} and chosen {chosen}")
    return tuple(
        _of_size(options, [o for o in outcomes if o[0] == options], n_bootstrap, seed)
        for options in sorted({outcome[0] for outcome in outcomes})
    )


def _of_size(options: int, outcomes: Sequence[Outcome], n_bootstrap: int, seed: int) -> PositionBias:
    read = [(right, chosen) for _, right, chosen in outcomes if chosen is not None]
    unread = len(outcomes) - len(read)
    if not read:
        return PositionBias(options=options, n=len(outcomes), unread=unread, letters=(), bias=None)
    letters = []
    for index in range(options):
        at_place = [chosen == right for _, right, chosen in outcomes if right == index]
        chosen_here = [float(chosen == index) for _, chosen in read]
        letters.append(
            LetterShare(
                letter=LETTERS[index],
                right=sum(right == index for right, _ in read) / len(read),
                chosen=bootstrap_mean(chosen_here, n_bootstrap=n_bootstrap, seed=seed),
                accuracy=sum(at_place) / len(at_place) if at_place else None,
            )
        )
    bias = sum(abs(letter.chosen.mean - letter.right) for letter in letters) / 2
    return PositionBias(options=options, n=len(outcomes), unread=unread, letters=tuple(letters), bias=bias)


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """One system on the same questions in several orders of their options.

    Attributes:
        orders: number of orders, the original one first.
        accuracies: of each order (fraction).
        mean: mean over questions and orders, with an interval over questions.
        every_order: share of questions answered rightly in every order, with its interval.
        fixed: questions whose options could not be reordered.
        bias: choices by letter over all orders.
    """

    orders: int
    accuracies: tuple[float, ...]
    mean: Interval
    every_order: Interval
    fixed: int
    bias: tuple[PositionBias, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Plain text: accuracies, then a line per letter; "-" where there is no figure."""
        item = ", ".join(f"{accuracy:.1%}" for accuracy in self.accuracies)
        lines = [
            f"accuracy over {self.orders} orders of the options: {self.mean.mean:.1%} ({item})",
            f"right in every order: {self.every_order.mean:.1%} of {self.every_order.n} questions",
            f"not reordered: {self.fixed}",
        ]
        for part in self.bias:
            bias = "-" if part.bias is None else f"{part.bias:.3f}"
            lines.append(f"{part.options} options ({part.n} replies, {part.unread} unread), bias {bias}")
            lines += [
                f"  {letter.letter}  right {letter.right:6.1%}  chosen {letter.chosen.mean:6.1%}  accuracy "
                f"{'-' if letter.accuracy is None else format(letter.accuracy, '.1%')}"
                for letter in part.letters
            ]
        return "\n".join(lines)


def order_report(
    choose: Callable[[Sequence[VisualQuestion]], Sequence[Outcome]],
    questions: Sequence[VisualQuestion],
    *,
    orders: int = 4,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> OrderReport:
    """Ask the same questions with their options rotated by 0, 1, ..., ``orders`` - 1 places.

    Args:
        choose: answers a set of questions in order, for example an `evaluate` whose records are turned into outcomes by
            `outcomes_of`.
        questions: multiple-choice questions with known answers.
        orders: rotations, at least 2; with as many as there are options each option stands once at every letter.
        n_bootstrap, seed: of the intervals.

    Raises:
        ValueError: for fewer than 2 orders, or another number of outcomes than questions.
    """
    if orders < 2:
        raise ValueError(f"orders must be at least 2, got {orders}")
    rounds: list[Sequence[Outcome]] = []
    fixed = 0
    for rotation in range(orders):
        reordered = ShuffledOptions(questions, rotation=rotation)
        outcomes = choose(reordered)
        if len(outcomes) != len(questions):
            raise ValueError(f"expected one outcome per question ({len(questions)}), got {len(outcomes)}")
        rounds.append(outcomes)
        fixed = reordered.fixed
    right = [[float(chosen == answer) for _, answer, chosen in outcomes] for outcomes in rounds]
    by_question = list(zip(*right, strict=True))
    options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    return OrderReport(
        orders=orders,
        accuracies=tuple(sum(row) / len(row) for row in right),
        mean=bootstrap_mean([sum(values) / orders for values in by_question], **options),
        every_order=bootstrap_mean([float(all(values)) for values in by_question], **options),
        fixed=fixed,
        bias=position_bias([outcome for outcomes in rounds for outcome in outcomes], **options),
    )


def outcomes_of(records: Sequence[Any], scoring: str) -> list[Outcome]:
    """Outcomes of an evaluation's records (`amvl_model.evaluation.evaluate`) by "likelihood" or "generation"."""
    return [(record.options, record.answer, record.predicted[scoring]) for record in records]


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


class ShuffledOptions(QuestionSet):
    """Questions with their options in another order, made on access.

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

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
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
