"""Options in another order, and what it shows of a model that prefers a letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from amvl_model.data.schema import VisualQuestion, format_prompt, option_letter
from amvl_model.evaluation.position_bias import (
    Outcome,
    ShuffledOptions,
    can_reorder,
    order_report,
    position_bias,
    reorder_options,
)

TEXTS = ("red", "dark red", "blue", "a (pale) green")


def question(number: int = 0, choices: tuple[str, ...] = TEXTS, prompt: str | None = None) -> VisualQuestion:
    answer = number % len(choices)
    return VisualQuestion(
        id=f"q{number}",
        images=(),
        prompt=format_prompt("Which colour?", choices) if prompt is None else prompt,
        answer_text=option_letter(answer),
        question="Which colour?",
        choices=choices,
        answer=answer,
    )


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        "Which colour?\n(A) red\n(B) dark red\n(C) blue\n(D) a (pale) green\nAnswer with the option's letter directly.",
        "Question: Which colour?\nOptions:\nA. red\nB. dark red\nC. blue\nD. a (pale) green\nPlease select.",
    ],
)
def test_prompt_choices_answer_and_probabilities_move_together(prompt: str | None) -> None:
    asked = replace(question(1, prompt=prompt), answer_probs=(0.1, 0.6, 0.2, 0.1))
    moved = reorder_options(asked, (3, 0, 1, 2))
    assert moved.choices == ("a (pale) green", "red", "dark red", "blue")
    assert (moved.answer, moved.answer_text, moved.answer_probs) == (2, "(C)", (0.1, 0.1, 0.6, 0.2))
    assert moved.choices[moved.answer or 0] == asked.choices[asked.answer or 0]
    back = reorder_options(moved, (1, 2, 3, 0))
    assert back == asked


def test_an_open_answer_stays_hidden() -> None:
    hidden = replace(question(), answer=None, answer_text="")
    moved = reorder_options(hidden, (1, 0, 2, 3))
    assert (moved.answer, moved.answer_text, moved.choices[0]) == (None, "", "dark red")


@pytest.mark.parametrize(
    "choices",
    [("A", "B", "C", "D"), ("red", "blue", "both A and B"), ("red", "blue", "none of the above"), ("one",)],
)
def test_options_that_have_a_fixed_place_are_left_alone(choices: tuple[str, ...]) -> None:
    asked = question(0, choices)
    assert not can_reorder(asked)
    shuffled = ShuffledOptions([asked], rotation=1)
    assert shuffled[0] == asked
    assert shuffled.fixed == 1


def test_options_with_a_letter_as_a_mark_may_move() -> None:
    assert can_reorder(question(0, ("A is closer", "B is closer")))
    assert can_reorder(question(0, ("red and a blue cup", "a cup or a hat")))


def test_options_drawn_in_the_image_cannot_be_reordered() -> None:
    drawn = question(
        0, ("A", "B", "C", "D"), prompt="Question: What?\nOptions: Choose from (A) (B) (C) (D) in the image."
    )
    assert not can_reorder(drawn)
    with pytest.raises(ValueError, match="does not list the options"):
        reorder_options(drawn, (1, 0, 2, 3))
    with pytest.raises(ValueError, match="expected a permutation of 0 to 3, got"):
        reorder_options(question(), (0, 0, 1, 2))


def test_random_orders_are_fixed_by_seed_and_index_and_spread_the_answers() -> None:
    asked = [question(0) for _ in range(200)]
    first = [q.answer for q in ShuffledOptions(asked, seed=1)]
    assert first == [q.answer for q in ShuffledOptions(asked, seed=1)]
    assert first != [q.answer for q in ShuffledOptions(asked, seed=2)]
    assert min(Counter(first).values()) > 30
    assert [q.answer for q in ShuffledOptions(asked, seed=1)[5:7]] == first[5:7]
    with pytest.raises(ValueError, match="either a seed or a rotation"):
        ShuffledOptions(asked)


def test_rotations_put_every_option_at_every_letter_once() -> None:
    asked = question(2)
    places = [ShuffledOptions([asked], rotation=r)[0].choices.index("blue") for r in range(4)]
    assert sorted(places) == [0, 1, 2, 3]


def test_a_model_that_always_says_a_is_shown_to_be_biased() -> None:
    def always_a(asked: Sequence[VisualQuestion]) -> list[Outcome]:
        return [(len(q.choices), q.answer or 0, 0) for q in asked]

    report = order_report(always_a, [question(i) for i in range(8)], orders=4, n_bootstrap=50)
    assert report.mean.mean == pytest.approx(0.25)
    assert report.every_order.mean == 0.0
    assert report.bias[0].bias == pytest.approx(0.75)
    assert [letter.accuracy for letter in report.bias[0].letters] == [1.0, 0.0, 0.0, 0.0]
    assert "right in every order: 0.0% of 8 questions" in report.table()
    assert report.to_dict()["bias"][0]["letters"][0]["chosen"]["mean"] == 1.0


def test_a_model_that_reads_the_options_has_no_bias_whatever_the_order() -> None:
    def knows(asked: Sequence[VisualQuestion]) -> list[Outcome]:
        return [(len(q.choices), q.answer or 0, q.answer) for q in asked]

    report = order_report(knows, [question(i) for i in range(6)], orders=3, n_bootstrap=50)
    assert (report.mean.mean, report.every_order.mean, report.bias[0].bias) == (1.0, 1.0, 0.0)
    assert report.accuracies == (1.0, 1.0, 1.0)


def test_unread_replies_are_counted_and_numbers_of_options_kept_apart() -> None:
    two, four = position_bias([(2, 0, 0), (2, 1, None), (4, 3, None), (4, 2, None)], n_bootstrap=10)
    assert (two.options, two.n, two.unread, two.bias) == (2, 2, 1, 0.0)
    assert two.letters[1].accuracy == 0.0  # an unread reply is wrong
    assert (four.unread, four.bias, four.letters) == (2, None, ())
    assert position_bias([(3, 0, 0)], n_bootstrap=10)[0].letters[2].accuracy is None


def test_bad_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one outcome"):
        position_bias([])
    with pytest.raises(ValueError, match="indices from 0 to 1"):
        position_bias([(2, 0, 2)])
    with pytest.raises(ValueError, match="orders must be at least 2"):
        order_report(lambda asked: [], [question()], orders=1)
    with pytest.raises(ValueError, match="one outcome per question"):
        order_report(lambda asked: [], [question()])
