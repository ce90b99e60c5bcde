"""Official scores of the benchmarks, and the ones that other harnesses report under the same name.

With c_i = 1 for a right answer (an unread reply is wrong), over questions i, tasks or categories t, cycles k:

    BLINK          official: mean over its 14 tasks of the task's accuracy      VLMEvalKit: mean over questions
    V*             official: mean over questions                                also: mean over the two categories
    HRBench        official: mean over cycles of the cycle's accuracy, in all, for single and for cross
                   stricter: share of questions right in every cycle            cheaper: the first cycle alone
    VisualPuzzles  official: mean over questions                                also: each category

HRBench's cycles are the same 200 questions: its intervals draw questions, with all of their cycles. Scores are fractions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.evaluation.harness_readers import READERS
from amvl_model.evaluation.statistics import Interval, bootstrap_mean

BLINK_TASKS = 14


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answered question.

    Attributes:
        id, task: of the question.
        right: whether the answer is right; None where the reply could not be read.
    """

    id: str
    task: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score.

    Attributes:
        name: what is averaged over what, and who reports it so.
        official: whether it is the benchmark's own.
        value: fraction with interval; None where the questions at hand do not allow it.
        note: why the value is None, or what is missing for the official score; "" otherwise.
    """

    name: str
    official: bool
    value: Interval | None
    note: str = ""


def benchmark_scores(
    benchmark: str, replies: Sequence[Reply], *, n_bootstrap: int = 1000, seed: int = 0
) -> tuple[Score, ...]:
    """All scores of one benchmark, the official one first (definitions at the top of this module).

    Args:
        benchmark: blink, vstar, hrbench4k, hrbench8k or visual-puzzles.
        replies: one per question.
        n_bootstrap, seed: of the intervals over questions.

    Raises:
        ValueError: for an unknown benchmark, no replies, or ids of HRBench without a cycle.
    """
    if not replies:
        raise ValueError("expected at least one reply, got none")
    draw: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    right = [float(bool(reply.right)) for reply in replies]
    tasks = [reply.task for reply in replies]
    over_questions = bootstrap_mean(right, **draw)
    over_tasks = bootstrap_mean(right, tasks=tasks, **draw)
    if benchmark == "blink":
        missing = BLINK_TASKS - len(set(tasks))
        note = f"{missing} of BLINK's {BLINK_TASKS} tasks are missing" if missing > 0 else ""
        return (
            Score(name="mean over tasks", official=True, value=over_tasks, note=note),
            Score(name="mean over questions (VLMEvalKit)", official=False, value=over_questions),
        )
    if benchmark == "vstar":
        return (
            Score(name="mean over questions", official=True, value=over_questions),
            Score(name="mean over categories", official=False, value=over_tasks),
            *_each_task(tasks, right, draw),
        )
    if benchmark == "visual-puzzles":
        return (Score(name="mean over questions", official=True, value=over_questions), *_each_task(tasks, right, draw))
    if benchmark in {"hrbench4k", "hrbench8k"}:
        return _hrbench(replies, draw)
    raise ValueError(f"benchmark must be one of {', '.join(READERS)}, got {benchmark!r}")


def _each_task(tasks: Sequence[str], right: Sequence[float], draw: Mapping[str, Any]) -> tuple[Score, ...]:
    members = {task: [r for t, r in zip(tasks, right, strict=True) if t == task] for task in sorted(set(tasks))}
    return tuple(
        Score(name=f"{task} alone", official=False, value=bootstrap_mean(values, **draw))
        for task, values in members.items()
    )


def _hrbench(replies: Sequence[Reply], draw: Mapping[str, Any]) -> tuple[Score, ...]:
    questions: dict[str, dict[str, float]] = {}
    task_of: dict[str, str] = {}
    for reply in replies:
        name, found, cycle = reply.id.rpartition("/cycle")
        if not found:
            raise ValueError(
                f"expected ids such as hrbench_4k/000/cycle0, got {reply.id!r}; read them with load_hrbench"
            )
        questions.setdefault(name, {})[cycle] = float(bool(reply.right))
        task_of[name] = reply.task
    cycles = sorted({cycle for answers in questions.values() for cycle in answers})
    whole = all(len(answers) == len(cycles) for answers in questions.values())
    note = "" if whole else "not every question is there in every cycle"
    if not whole:
        names = ("mean over cycles", "right in every cycle")
        return tuple(Score(name=name, official=i == 0, value=None, note=note) for i, name in enumerate(names))
    if len(cycles) != 4:
        note = f"{len(cycles)} of the four cycles"

    def mean(names: Sequence[str]) -> Interval:
        return bootstrap_mean([sum(questions[name].values()) / len(cycles) for name in names], **draw)

    scores = [Score(name="mean over cycles", official=True, value=mean(list(questions)), note=note)]
    for task in sorted(set(task_of.values())):
        members = [name for name in questions if task_of[name] == task]
        scores.append(Score(name=f"mean over cycles, {task} alone", official=True, value=mean(members), note=note))
    every = [float(all(answers.values())) for answers in questions.values()]
    first = [answers[cycles[0]] for answers in questions.values()]
    scores.append(Score(name="right in every cycle", official=False, value=bootstrap_mean(every, **draw)))
    scores.append(Score(name="first cycle alone", official=False, value=bootstrap_mean(first, **draw)))
    return tuple(scores)


def harness_accuracies(
    benchmark: str,
    questions: Sequence[tuple[Sequence[str], int]],
    replies: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[Score, ...]:
    """Mean over questions that other harnesses would report for the same replies, by their own readers.

    Args:
        benchmark: as in `benchmark_scores`.
        questions: option texts and index of the right one, per question.
        replies: what the model wrote.
        n_bootstrap, seed: of the intervals.

    Raises:
        ValueError: for an unknown benchmark, or lengths that differ.
    """
    if benchmark not in READERS:
        raise ValueError(f"benchmark must be one of {', '.join(READERS)}, got {benchmark!r}")
    if len(questions) != len(replies) or not replies:
        raise ValueError(f"expected one reply per question, got {len(replies)} for {len(questions)}")
    scores = []
    for reader in READERS[benchmark]:
        credits = [reader.credit(reply, c, answer) for reply, (c, answer) in zip(replies, questions, strict=True)]
        note = "an unread reply counts as 1 / options" if reader.otherwise == "random" else ""
        value = bootstrap_mean(credits, n_bootstrap=n_bootstrap, seed=seed)
        scores.append(Score(name=f"read as by {reader.name}", official=False, value=value, note=note))
    return tuple(scores)


def write_blink_submission(
    path: str | Path, questions: Sequence[VisualQuestion], chosen: Sequence[int | None]
) -> dict[str, int]:
    """Predictions in the form of BLINK's server: ``{"test_Counting_1": "(A)", ...}``.

    A reply that could not be read is left out (the server counts it wrong), never replaced by a guess.

    Args:
        path: JSON file to write.
        questions: of BLINK's test split; only their ids are used.
        chosen: index of the chosen option per question, None where the reply was not read.

    Returns:
        how many were "written" and how many "unread".

    Raises:
        ValueError: if the lengths differ, or an id occurs twice.
    """
    if len(questions) != len(chosen):
        raise ValueError(f"expected one choice per question, got {len(chosen)} for {len(questions)}")
    predictions: dict[str, str] = {}
    for number, index in enumerate(chosen):
        identifier = questions[number].id
        if identifier in predictions:
            raise ValueError(f"expected unique ids, got {identifier!r} twice")
        if index is not None:
            predictions[identifier] = option_letter(index)
    Path(path).write_text(json.dumps(predictions, indent=4) + "\n")
    return {"written": len(predictions), "unread": len(chosen) - len(predictions)}
