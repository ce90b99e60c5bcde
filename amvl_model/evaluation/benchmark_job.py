"""One checkpoint on one benchmark: official score, other harnesses' scores, position bias, or a file to submit.

python experiments/evaluate_benchmark.py --model DIR --benchmark vstar --path DIR --orders 4
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amvl_model import distributed
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.benchmark_scores import (
    Reply,
    Score,
    benchmark_scores,
    harness_accuracies,
    write_blink_submission,
)
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.evaluation.position_bias import OrderReport, order_report, outcomes_of
from amvl_model.evaluation.runner import Evaluation, evaluate
from amvl_model.evaluation.scoring import batches, inference, scorer_for
from amvl_model.results import Metric, write_result


class _Remembered(Sequence[VisualQuestion]):
    """Questions whose options are kept when they are read, so that no picture is decoded twice."""

    def __init__(self, questions: Sequence[VisualQuestion]) -> None:
        self._questions = questions
        self.choices: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, item: Any) -> Any:
        question = self._questions[item]
        self.choices[item] = question.choices
        return question


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """What `run_benchmark` found.

    Attributes:
        benchmark: its name.
        evaluation: the records and accuracies per task.
        scores: per scoring ("generation", "likelihood"), official score and variants.
        harness: the same generated replies as other harnesses read them; empty without generation.
        orders: over several orders of the options; None if not asked for.
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
        orders: with 2 or more, the questions are also asked with their options rotated by 1, 2, ... places, and
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
        asked = [(remembered.choices[i], record.answer) for i, record in enumerate(evaluation.records)]
        written = [record.reply or "" for record in evaluation.records]
        harness = harness_accuracies(benchmark, asked, written, **common)
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
    """Write a result file of the project's schema (`amvl_model.results`); everything else of the result under "extra"."""
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

    def own_share() -> dict[int, int | None]:
        chosen = {}
        with inference(model):
            for batch in batches(
                questions,
                processor,
                batch_size,
                description="predict",
                progress=progress and distributed.is_main(),
                needs_answer=False,
                share=(distributed.rank(), distributed.world_size()),
            ):
                query = scorer.encode_batch(batch)
                latents = None if query.prior is None else query.prior.mean
                replies = scorer.greedy(query, latents, max_new_tokens)
                for index, question, reply in zip(batch.index, batch.questions, replies, strict=True):
                    chosen[index] = parse_choice(reply, question.choices)
        return chosen

    chosen: dict[int, int | None] = {}
    for part in distributed.gather_or_raise(own_share):
        chosen.update(part)

    def write() -> dict[str, int] | None:
        if not distributed.is_main():
            return None
        return write_blink_submission(path, questions, [chosen[i] for i in range(len(questions))])

    written: dict[str, int] = distributed.gather_or_raise(write)[0]
    return written
