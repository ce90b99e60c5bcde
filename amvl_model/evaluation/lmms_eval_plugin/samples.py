"""lmms-eval's log of a BLINK run, read again by this project's parser: both scores, every difference with its name.

    lmms-eval --model amvl ... --log_samples --output_path OUT
    python -m amvl_model.evaluation.lmms_eval_plugin.samples OUT data/blink

Two scores of the same replies can differ in two ways, and in no other:

    reader    lmms-eval's rules and `parse_choice` read a reply differently; the rule is named for each such reply
    mean      lmms-eval's group score is the mean over tasks, which is BLINK's own; the mean over questions stands beside it

With lmms-eval's rules (described anew in `harness_readers.blink_rule`) this module must find lmms-eval's own letters and
scores again, exactly; if it does not, their rules have changed, and that is an error rather than a difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amvl_model.data.readers.blink import BLINK_ID, blink_answers, load_blink
from amvl_model.data.readers.files import read_json_records
from amvl_model.data.schema import LETTERS
from amvl_model.evaluation.harness_readers import blink_rule
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.results.provenance import to_jsonable

if TYPE_CHECKING:
    from amvl_model.evaluation.benchmarks import Score

_METRIC = "blink_acc"


@dataclass(frozen=True, kw_only=True)
class LoggedSample:
    """One answered question of lmms-eval's log.

    Attributes:
        id, task: of the question.
        choices, answer: its options and the index of the right one.
        reply: what the model wrote.
        letter: what lmms-eval read ("" if nothing).
        right: what lmms-eval scored.
    """

    id: str
    task: str
    choices: tuple[str, ...]
    answer: int
    reply: str
    letter: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A reply that the two readers read differently.

    Attributes:
        id, reply: of the question.
        lmms_eval, ours: index of the option read, None if nothing.
        rule: of lmms-eval's rules, the one that read it.
        changes_score: whether one of them counts the reply right and the other wrong.
    """

    id: str
    reply: str
    lmms_eval: int | None
    ours: int | None
    rule: str
    changes_score: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The two scores of one log.

    Attributes:
        samples: number of questions.
        lmms_eval: lmms-eval's own score of each task and group, from its results file.
        theirs, ours: scores of the same replies by lmms-eval's reader and by `parse_choice`, computed here.
        differences: every reply that was read differently.
        unread: replies that `parse_choice` does not read.
    """

    samples: int
    lmms_eval: dict[str, float]
    theirs: tuple[Score, ...]
    ours: tuple[Score, ...]
    differences: tuple[Difference, ...]
    unread: int

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON; scores are fractions."""
        result: dict[str, Any] = to_jsonable(asdict(self))
        return result

    def table(self) -> str:
        """Plain text: the scores, then the differences."""
        lines = [f"{self.samples} questions; {self.unread} replies that parse_choice does not read"]
        lines += [f"  {value:7.2%}  lmms-eval: {name}" for name, value in self.lmms_eval.items()]
        for reader, scores in (("lmms-eval's reader", self.theirs), ("parse_choice", self.ours)):
            for score in scores:
                assert score.value is not None
                lines.append(f"  {score.value.mean:7.2%}  {reader}: {score.name}{' *' if score.official else ''}")
        lines.append("* BLINK's own score")
        changing = sum(difference.changes_score for difference in self.differences)
        lines.append(f"{len(self.differences)} replies read differently, {changing} of them scored differently")
        for d in self.differences:
            text = d.reply if len(d.reply) <= 60 else d.reply[:40] + " ... " + d.reply[-15:]
            lines.append(
                f"  {d.id}: lmms-eval {_letter(d.lmms_eval)} ({d.rule}), parse_choice {_letter(d.ours)}: {text!r}"
            )
        return "\n".join(lines)


def read_samples(out: str | Path, answers: Mapping[str, tuple[str, tuple[str, ...], int | None]]) -> list[LoggedSample]:
    """The samples of the newest run in a folder, sorted by id.

    Args:
        out: what was given to ``--output_path``, or a folder below it.
        answers: task, options and right option by question id, from `amvl_model.data.readers.blink.blink_answers`.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: for a log of another task, or of questions that ``answers`` lacks.
    """
    samples = []
    for path in _newest(Path(out), "*_samples_*.jsonl"):
        for record in read_json_records(path):
            logged = record.get(_METRIC)
            if not isinstance(logged, dict):
                raise ValueError(
                    f"{path}: expected samples of lmms-eval's BLINK tasks, got none of {_METRIC}; choose another run"
                )
            reference = answers.get(str(logged["id"]))
            if reference is None or reference[2] is None:
                raise ValueError(
                    f"{path}: question {logged['id']!r} is not among the answered ones; pass the BLINK folder of that run"
                )
            samples.append(
                LoggedSample(
                    id=str(logged["id"]),
                    task=reference[0],
                    choices=reference[1],
                    answer=reference[2],
                    reply=str(logged["pred"]),
                    letter=str(logged["pred_parsed"]),
                    right=bool(logged["is_correct"]),
                )
            )
    return sorted(samples, key=lambda sample: sample.id)


def read_scores(out: str | Path) -> dict[str, float]:
    """lmms-eval's own scores of the newest run: group and tasks, as fractions.

    Raises:
        FileNotFoundError: if there is no results file; the run has failed then, whatever its exit status.
    """
    path = _newest(Path(out), "*_results.json")[0]
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    result = {name: entry.get(f"{_METRIC},none") for name, entry in results.items()}
    return {name: float(value) for name, value in result.items() if value is not None}


def compare(samples: Sequence[LoggedSample], scores: Mapping[str, float], *, n_bootstrap: int = 1000) -> Comparison:
    """Score the logged replies by both readers.

    Args:
        samples: the log.
        scores: lmms-eval's own, to be shown beside.
        n_bootstrap: resamples of the intervals.

    Raises:
        ValueError: for an empty log, or a letter or score of lmms-eval that its described rules do not give.
    """
    from amvl_model.evaluation.benchmarks import Reply, benchmark_scores  # imports torch, which --help does not need

    theirs, ours, differences = [], [], []
    for sample in samples:
        read, rule = blink_rule(sample.reply, sample.choices)
        letter = "" if read is None else LETTERS[read]
        if (letter, read == sample.answer) != (sample.letter, sample.right):
            raise ValueError(
                f"{sample.id}: lmms-eval read {sample.letter!r} in {sample.reply!r}, its rules as described for 0.7.3 read "
                f"{letter!r}; this log is of another version, describe its rules in harness_readers"
            )
        choice = parse_choice(sample.reply, sample.choices)
        theirs.append(Reply(id=sample.id, task=sample.task, right=None if read is None else sample.right))
        ours.append(Reply(id=sample.id, task=sample.task, right=None if choice is None else choice == sample.answer))
        if read != choice:
            changes = sample.right != (choice == sample.answer)
            differences.append(
                Difference(
                    id=sample.id, reply=sample.reply, lmms_eval=read, ours=choice, rule=rule, changes_score=changes
                )
            )
    return Comparison(
        samples=len(samples),
        lmms_eval=dict(scores),
        theirs=benchmark_scores("blink", theirs, n_bootstrap=n_bootstrap),
        ours=benchmark_scores("blink", ours, n_bootstrap=n_bootstrap),
        differences=tuple(differences),
        unread=sum(reply.right is None for reply in ours),
    )


def _newest(folder: Path, pattern: str) -> list[Path]:
    """Files of the newest run; lmms-eval begins their names with the time."""
    result = sorted(folder.rglob(pattern), key=lambda path: path.name)
    if not result:
        raise FileNotFoundError(
            f"{folder}: expected a file {pattern}, found none; give lmms-eval --log_samples and --output_path, and look at its "
            "output: a run that fails ends with status 0"
        )
    stamp = max(_stamp(path) for path in result)
    return [path for path in result if _stamp(path) == stamp]


def _stamp(path: Path) -> str:
    return "_".join(path.name.split("_")[:2])


def _letter(index: int | None) -> str:
    return "nothing" if index is None else LETTERS[index]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compare, and print."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("out", help="lmms-eval's --output_path")
    page.add_argument("blink", nargs="?", default=BLINK_ID, help="the BLINK folder of the run; default: the hub's")
    page.add_argument("--split", default="val", help="of BLINK (default: val)")
    page.add_argument("--json", type=Path, help="file to write the comparison to")
    options = page.parse_args(arguments)
    try:
        answers = blink_answers(load_blink(options.blink, options.split))
        comparison = compare(read_samples(options.out, answers), read_scores(options.out))
    except (OSError, ValueError) as error:
        page.error(str(error))
    print(comparison.table())
    if options.json is not None:
        options.json.write_text(json.dumps(comparison.to_dict(), indent=2) + "\n")


if __name__ == "__main__":
    main()
