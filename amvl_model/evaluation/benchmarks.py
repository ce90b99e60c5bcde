"""One checkpoint on one benchmark: official score, other harnesses' scores, position bias, or a file to submit.

amvl evaluate --model DIR --benchmark vstar --path DIR --orders 4


Official scores of the benchmarks, and the ones that other harnesses report under the same name.

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
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amvl_model import distributed
from amvl_model.data.readers.records import UnreadableImages
from amvl_model.data.schema import QuestionSet, VisualQuestion, option_letter
from amvl_model.evaluation.evaluate import Evaluation, evaluate, per_question
from amvl_model.evaluation.harness_readers import READERS
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.evaluation.position_bias import OrderReport, order_report, outcomes_of
from amvl_model.evaluation.scorers import QuestionBatch, scorer_for
from amvl_model.results.files import Metric, write_result
from amvl_model.results.statistics import Interval, bootstrap_mean


class _Remembered(QuestionSet):
    """Questions whose options are remembered when they are read, so that no image is decoded twice."""

    def __init__(self, questions: Sequence[VisualQuestion]) -> None:
        self._questions = questions
        self.choices: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._questions)

    def question(self, index: int) -> VisualQuestion:
        try:
            question = self._questions[index]
        except UnreadableImages as error:
            self.choices[index] = error.question.choices
            raise
        self.choices[index] = question.choices
        return question


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """What `run_benchmark` found.

    Attributes:
        benchmark: its name.
        evaluation: the records and accuracies per task.
        scores: per scoring ("generation", "likelihood"), official score and variants.
        harness: the same generated replies as other harnesses read them; empty without generation.
        orders: over several orders of the options; None if not requested.
        seconds: wall time.
    """

    benchmark: str
    evaluation: Evaluation
    scores: dict[str, tuple[Score, ...]]
    harness: tuple[Score, ...]
    orders: OrderReport | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return {
            "benchmark": self.benchmark,
            "scores": {name: [asdict(score) for score in scores] for name, scores in self.scores.items()},
            "harness": [asdict(score) for score in self.harness],
            "orders": None if self.orders is None else self.orders.to_dict(),
            "evaluation": self.evaluation.to_dict(),
        }

    def metrics(self) -> dict[str, Metric]:
        """The scores as metrics of a result file; a score that cannot be had is null."""
        named = [(f"{scoring}: {s.name}", s) for scoring, scores in self.scores.items() for s in scores]
        named += [(f"generation: {score.name}", score) for score in self.harness]
        metrics = {}
        for name, score in named:
            value = score.value
            metrics[name] = (
                Metric(None, "fraction")
                if value is None
                else Metric(value.mean, "fraction", low=value.low, high=value.high, n=value.n)
            )
        for scoring, report in self.evaluation.accuracy.items():
            metrics[f"{scoring}: unread replies"] = Metric(report.unparsed, "replies", n=report.n)
        if problems := sum(record.problem is not None for record in self.evaluation.records):
            metrics["unusable images"] = Metric(problems, "questions", n=len(self.evaluation.records))
        if self.orders is not None:
            for part in self.orders.bias:
                metrics[f"position bias, {part.options} options"] = Metric(part.bias, "1", n=part.n - part.unread)
        return metrics

    def table(self) -> str:
        """Plain text: every score with its interval, an asterisk at the official ones; "-" where there is none."""
        rows = [(scoring, score) for scoring, scores in self.scores.items() for score in scores]
        rows += [("generation", score) for score in self.harness]
        width = max(len(score.name) for _, score in rows)
        lines = [self.evaluation.table(), "", "* official score"]
        for scoring, score in rows:
            value = score.value
            figure = "-" if value is None else f"{value.mean:.1%}"
            ends = "" if value is None or value.low is None else f" [{value.low:.1%}, {value.high:.1%}]"
            note = f"  ({score.note})" if score.note else ""
            lines.append(f"{'*' if score.official else ' '} {scoring:<10}  {score.name:<{width}}  {figure}{ends}{note}")
        if self.orders is not None:
            lines += ["", self.orders.table()]
        return "\n".join(lines)


def run_benchmark(
    model: Any,
    processor: Any,
    benchmark: str,
    questions: Sequence[VisualQuestion],
    *,
    orders: int = 1,
    n_bootstrap: int = 1000,
    seed: int = 0,
    **settings: Any,
) -> BenchmarkResult:
    """Evaluate a model on a benchmark's questions.

    Args:
        model, processor: as `evaluate` takes them.
        benchmark: blink, vstar, hrbench4k, hrbench8k or visual-puzzles.
        questions: read by `amvl_model.data.sources.load_benchmark`.
        orders: with 2 or more, the questions are also evaluated with their options rotated by 1, 2, ... places, and
            position bias is reported for the first scoring.
        n_bootstrap, seed: of the intervals.
        settings: further arguments of `evaluate` (scoring, batch_size, max_new_tokens, latents, progress).

    Raises:
        ValueError: as `evaluate` and `benchmark_scores`.
    """
    began = time.perf_counter()
    common: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    remembered = _Remembered(questions)
    evaluation = evaluate(model, processor, remembered, **common, **settings)
    for part in distributed.gather(remembered.choices):
        remembered.choices.update(part)
    scores: dict[str, tuple[Score, ...]] = {}
    harness: tuple[Score, ...] = ()
    for scoring in evaluation.accuracy:
        chosen = [(record, record.predicted[scoring]) for record in evaluation.records]
        replies = [Reply(id=r.id, task=r.task, right=None if p is None else p == r.answer) for r, p in chosen]
        scores[scoring] = benchmark_scores(benchmark, replies, **common)
    if "generation" in evaluation.accuracy:
        choices_and_answers = [(remembered.choices[i], record.answer) for i, record in enumerate(evaluation.records)]
        written = [record.reply or "" for record in evaluation.records]
        harness = harness_accuracies(benchmark, choices_and_answers, written, **common)
    report = None
    if orders > 1:
        first = next(iter(evaluation.accuracy))

        def choose(reordered: Sequence[VisualQuestion]) -> Any:
            again = evaluate(model, processor, reordered, **common, **{**settings, "scoring": (first,)})
            return outcomes_of(again.records, first)

        report = order_report(choose, questions, orders=orders, **common)
    seconds = time.perf_counter() - began
    return BenchmarkResult(
        benchmark=benchmark, evaluation=evaluation, scores=scores, harness=harness, orders=report, seconds=seconds
    )


def write_benchmark_result(
    path: Path, result: BenchmarkResult, config: dict[str, Any], device: str, *, overwrite: bool = False
) -> Path:
    """Write a result file of the project's schema (`amvl_model.results.files`); everything else of the result under "extra"."""
    return write_result(
        path,
        study="benchmarks",
        cell=result.benchmark,
        seed=result.evaluation.seed,
        config=config,
        metrics=result.metrics(),
        wall_seconds=result.seconds,
        device=device,
        extra=result.to_dict(),
        overwrite=overwrite,
    )


def submit_blink(
    model: Any,
    processor: Any,
    questions: Sequence[VisualQuestion],
    path: Path,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 8,
    progress: bool = True,
) -> dict[str, int]:
    """Answer BLINK's test questions, whose answers are hidden, with greedy replies at the prior mean; write the submission.

    Returns:
        how many predictions were "written" and how many replies "unread".
    """
    scorer = scorer_for(model, processor)

    def predicted(batch: QuestionBatch) -> list[int | None]:
        query = scorer.encode_batch(batch)
        latents = None if query.prior is None else query.prior.mean
        replies = scorer.greedy(query, latents, max_new_tokens)
        return [parse_choice(reply, q.choices) for q, reply in zip(batch.questions, replies, strict=True)]

    chosen: list[int | None] = per_question(
        model,
        scorer,
        questions,
        predicted,
        lambda question, problem: None,
        batch_size=batch_size,
        description="predict",
        progress=progress,
        needs_answer=False,
    )

    def write() -> dict[str, int] | None:
        return write_blink_submission(path, questions, chosen) if distributed.is_main() else None

    written: dict[str, int] = distributed.gather_or_raise(write)[0]
    return written


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
        name, result, cycle = reply.id.rpartition("/cycle")
        if not result:
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
        try:
            identifier = questions[number].id
        except UnreadableImages as error:
            identifier = error.question.id
        if identifier in predictions:
            raise ValueError(f"expected unique ids, got {identifier!r} twice")
        if index is not None:
            predictions[identifier] = option_letter(index)
    Path(path).write_text(json.dumps(predictions, indent=4) + "\n")
    return {"written": len(predictions), "unread": len(chosen) - len(predictions)}
