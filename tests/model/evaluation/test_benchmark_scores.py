"""Official scores, the variants of other harnesses, how those read replies, and BLINK's submission file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.benchmarks import Reply, Score, benchmark_scores, harness_accuracies, write_blink_submission
from amvl_model.evaluation.harness_readers import (
    LMMS_EVAL_BLINK,
    LMMS_EVAL_BLINK_073,
    LMMS_EVAL_PUZZLES,
    LMMS_EVAL_VSTAR,
    READERS,
    VLMEVALKIT_EXACT,
    HarnessReader,
)
from amvl_model.evaluation.parsing import parse_choice

LETTERS = ("A", "B", "C", "D")
COLOURS = ("red", "blue", "green", "grey")


def values(scores: tuple[Score, ...]) -> dict[str, float | None]:
    return {score.name: None if score.value is None else score.value.mean for score in scores}


def test_blink_is_the_mean_over_tasks_and_others_weight_by_questions() -> None:
    replies = [Reply(id=f"c{i}", task="Counting", right=True) for i in range(3)]
    replies += [Reply(id="j", task="Jigsaw", right=None)]
    scores = benchmark_scores("blink", replies, n_bootstrap=20)
    assert values(scores) == {"mean over tasks": 0.5, "mean over questions (VLMEvalKit)": 0.75}
    assert [score.official for score in scores] == [True, False]
    assert scores[0].note == "12 of BLINK's 14 tasks are missing"
    all_tasks = [Reply(id=str(i), task=f"t{i % 14}", right=True) for i in range(28)]
    assert benchmark_scores("blink", all_tasks, n_bootstrap=20)[0].note == ""


def test_vstar_and_visual_puzzles_are_means_over_questions() -> None:
    replies = [
        Reply(id="1", task="direct_attributes", right=True),
        Reply(id="2", task="direct_attributes", right=True),
        Reply(id="3", task="relative_position", right=False),
    ]
    assert values(benchmark_scores("vstar", replies, n_bootstrap=20)) == {
        "mean over questions": pytest.approx(2 / 3),
        "mean over categories": 0.5,
        "direct_attributes alone": 1.0,
        "relative_position alone": 0.0,
    }
    puzzles = benchmark_scores("visual-puzzles", replies, n_bootstrap=20)
    assert [score.official for score in puzzles] == [True, False, False]


def cycles(right: dict[int, str]) -> list[Reply]:
    """Replies to questions whose four cycles are right where the text has a 1."""
    return [
        Reply(id=f"hrbench_4k/{number:03d}/cycle{k}", task="single" if number % 2 == 0 else "cross", right=mark == "1")
        for number, marks in right.items()
        for k, mark in enumerate(marks)
    ]


def test_hrbench_averages_the_cycles_and_resamples_questions() -> None:
    scores = benchmark_scores("hrbench4k", cycles({0: "1111", 1: "1000", 2: "0110", 3: "0000"}), n_bootstrap=200)
    assert values(scores) == {
        "mean over cycles": pytest.approx(7 / 16),
        "mean over cycles, cross alone": pytest.approx(1 / 8),
        "mean over cycles, single alone": pytest.approx(6 / 8),
        "right in every cycle": 0.25,
        "first cycle alone": 0.5,
    }
    assert scores[0].value is not None
    assert scores[0].value.n == 4


def test_an_incomplete_hrbench_has_no_official_score() -> None:
    replies = cycles({0: "1111", 1: "1111"})[:-1]
    scores = benchmark_scores("hrbench8k", replies)
    assert {score.value for score in scores} == {None}
    assert scores[0].note == "not every question is there in every cycle"
    one_cycle = [reply for reply in cycles({0: "1111", 1: "0111"}) if reply.id.endswith("cycle0")]
    assert benchmark_scores("hrbench4k", one_cycle, n_bootstrap=20)[0].note == "1 of the four cycles"
    with pytest.raises(ValueError, match="expected ids such as hrbench_4k/000/cycle0, got 'x'"):
        benchmark_scores("hrbench4k", [Reply(id="x", task="single", right=True)])


@pytest.mark.parametrize(
    ("reader", "reply", "choices", "expected"),
    [
        (LMMS_EVAL_BLINK, "(B)", LETTERS, 1),
        (LMMS_EVAL_BLINK, "b. the second", LETTERS, 1),
        (LMMS_EVAL_BLINK, "The answer is (B)", LETTERS, 19),  # T
        (LMMS_EVAL_BLINK, "<answer>B</answer>", LETTERS, None),
        (LMMS_EVAL_BLINK_073, "(b).", LETTERS, 1),
        (LMMS_EVAL_BLINK_073, "The answer is A, no: answer: (B)", LETTERS, 1),
        (LMMS_EVAL_BLINK_073, "It is (A), not (B)", LETTERS, 1),
        (LMMS_EVAL_BLINK_073, "Because of the hat", LETTERS, 1),  # the B of Because
        (LMMS_EVAL_BLINK_073, "Because of the hat", LETTERS[:1], None),
        (LMMS_EVAL_BLINK_073, "<answer>B</answer>", LETTERS, None),
        (LMMS_EVAL_VSTAR, "B. cotton", LETTERS, 1),
        (LMMS_EVAL_VSTAR, "The answer is C", LETTERS, 2),
        (LMMS_EVAL_VSTAR, "It is (D)", LETTERS, 3),
        (LMMS_EVAL_VSTAR, "cotton", LETTERS, 2),  # a leading letter, whatever word it opens
        (LMMS_EVAL_VSTAR, "none", LETTERS, None),
        (LMMS_EVAL_PUZZLES, "Answer: (A) ... Answer: (C)", LETTERS, 2),
        (LMMS_EVAL_PUZZLES, "so (B) it is, not (D)", LETTERS, 3),
        (LMMS_EVAL_PUZZLES, "B", LETTERS, 1),
        (LMMS_EVAL_PUZZLES, "it is blue, no, green", COLOURS, 2),
        (LMMS_EVAL_PUZZLES, "I do not know", LETTERS, None),
        (VLMEVALKIT_EXACT, "The answer is (B).", LETTERS, 1),
        (VLMEVALKIT_EXACT, "<answer>B</answer>", LETTERS, None),
        (VLMEVALKIT_EXACT, "B because of all that one can see there", LETTERS, None),
        (VLMEVALKIT_EXACT, "the blue one", COLOURS, 1),
        (VLMEVALKIT_EXACT, "A or B", LETTERS, None),
    ],
)
def test_other_harnesses_read_as_described(
    reader: HarnessReader, reply: str, choices: tuple[str, ...], expected: int | None
) -> None:
    assert reader.read(reply, choices) == expected


def test_the_same_replies_score_differently_by_reader_and_ours_reads_them_all() -> None:
    replies = ["The answer is (B)", "<answer>B</answer>", "B because of all that one can see there", "(B)"]
    questions = [(LETTERS, 1)] * 4
    scores = values(harness_accuracies("blink", questions, replies, n_bootstrap=20))
    assert scores == {
        "read as by lmms-eval blink to 0.7.2": 0.5,
        "read as by lmms-eval blink 0.7.3": 0.75,
        "read as by VLMEvalKit exact": pytest.approx(2.5 / 4),
    }
    assert [parse_choice(reply, LETTERS) for reply in replies] == [1, 1, 1, 1]


def test_a_random_option_counts_as_its_expectation() -> None:
    assert LMMS_EVAL_PUZZLES.credit("no idea", COLOURS, 0) == 0.25
    assert LMMS_EVAL_BLINK.credit("!", LETTERS, 0) == 0.0
    note = harness_accuracies("visual-puzzles", [(COLOURS, 0)], ["no idea"])[0].note
    assert note == "an unread reply counts as 1 / options"


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="benchmark must be one of blink"):
        benchmark_scores("mme", [Reply(id="1", task="t", right=True)])
    with pytest.raises(ValueError, match="at least one reply"):
        benchmark_scores("blink", [])
    with pytest.raises(ValueError, match="one reply per question"):
        harness_accuracies("blink", [(LETTERS, 0)], [])
    with pytest.raises(ValueError, match="benchmark must be one of"):
        harness_accuracies("mme", [(LETTERS, 0)], ["A"])
    assert set(READERS) == {"blink", "vstar", "hrbench4k", "hrbench8k", "visual-puzzles"}


def test_a_submission_holds_what_was_read_and_counts_the_rest(tmp_path: Path) -> None:
    asked = [VisualQuestion(id=f"test_Counting_{i}", images=(), prompt="?", answer_text="") for i in range(3)]
    path = tmp_path / "predictions.json"
    assert write_blink_submission(path, asked, [0, None, 2]) == {"written": 2, "unread": 1}
    assert json.loads(path.read_text()) == {"test_Counting_0": "(A)", "test_Counting_2": "(C)"}
    with pytest.raises(ValueError, match="one choice per question"):
        write_blink_submission(path, asked, [0])
    with pytest.raises(ValueError, match="twice"):
        write_blink_submission(path, [asked[0], asked[0]], [0, 0])
