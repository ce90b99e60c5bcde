"""VLMEvalKit's table of a multiple-choice run, read again by this project's parser: both scores, every difference named.

    python -m amvl_model.evaluation.vlmevalkit_plugin.samples OUT/amvl/.../amvl_BLINK.xlsx [..._exact_matching_result.xlsx]

Scores of the same replies (``--judge exact_matching``) can differ in two ways, and in no other:

    reader    VLMEvalKit's rules and `parse_choice` read a reply differently; a reply that one of them cannot read counts as
              wrong in both (VLMEvalKit draws an option only where a judge model failed)
    mean      VLMEvalKit's Overall is the mean over questions; BLINK's own score is the mean over tasks

With the table of VLMEvalKit's results, its rules as described here must give its own hits, exactly; if they do not, its rules
have changed, and that is an error rather than a difference. Scores of a run with our evaluation differ further by the prompt:
VLMEvalKit writes its own around question and options, unless the model has ``prompt: "blink"``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from amvl_model.data.schema import LETTERS
from amvl_model.evaluation.harness_readers import VLMEVALKIT_EXACT
from amvl_model.evaluation.parsing import parse_choice

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_READERS = {".xlsx": pd.read_excel, ".csv": pd.read_csv, ".json": pd.read_json}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A reply that the two readers read differently; options by index, None if nothing was read."""

    index: str
    reply: str
    vlmevalkit: int | None
    ours: int | None
    changes_score: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The scores of one table, as fractions.

    Attributes:
        n: questions.
        vlmevalkit, ours: by reader, the means over questions ("questions") and over categories ("tasks").
        differences: every reply that was read differently.
    """

    n: int
    vlmevalkit: dict[str, float]
    ours: dict[str, float]
    differences: tuple[Difference, ...]

    def table(self) -> str:
        """Plain text: the scores, then the differences."""
        lines = [f"{self.n} questions"]
        for name, scores in (("VLMEvalKit exact matching", self.vlmevalkit), ("parse_choice", self.ours)):
            lines += [f"  {value:7.2%}  {name}, mean over {over}" for over, value in scores.items()]
        changing = sum(item.changes_score for item in self.differences)
        lines.append(f"{len(self.differences)} replies read differently, {changing} of them scored differently")
        lines += [
            f"  {d.index}: VLMEvalKit {_letter(d.vlmevalkit)}, parse_choice {_letter(d.ours)}: {d.reply[:60]!r}"
            for d in self.differences
        ]
        return "\n".join(lines)


def exact_choice(reply: str, choices: Sequence[str]) -> int | None:
    """VLMEvalKit's exact matching: `VLMEVALKIT_EXACT`, and nothing where the reply refuses or says Z."""
    if any(text in reply for text in _REFUSALS):
        return None
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    if "Z" in words and not set(LETTERS[: len(choices)]) & set(words):
        return None
    return VLMEVALKIT_EXACT.read(reply, choices)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table that VLMEvalKit wrote, all values as texts.

    Raises:
        ValueError: for another kind of file, or one without predictions of a multiple-choice benchmark.
    """
    file = Path(path)
    if file.suffix not in (*_READERS, ".tsv"):
        raise ValueError(
            f"{file}: expected a table {', '.join((*_READERS, '.tsv'))}, as PRED_FORMAT of VLMEvalKit sets"
        )
    options: dict[str, Any] = {} if file.suffix == ".json" else {"dtype": str, "keep_default_na": False}
    table = pd.read_csv(file, sep="\t", **options) if file.suffix == ".tsv" else _READERS[file.suffix](file, **options)
    missing = [name for name in ("index", "prediction", "answer", "A", "B") if name not in table]
    if missing:
        raise ValueError(
            f"{file}: expected VLMEvalKit's predictions of a multiple-choice benchmark, got no column {', '.join(missing)}"
        )
    text: pd.DataFrame = table.fillna("").astype(str)
    return text


def compare(predictions: pd.DataFrame, results: pd.DataFrame | None = None) -> Comparison:
    """Score the predictions by both readers.

    Args:
        predictions: from `read_table`.
        results: VLMEvalKit's table of hits on the same questions, to check its described rules by.

    Raises:
        ValueError: if VLMEvalKit's hits are not those that its described rules give.
    """
    hits = None if results is None else dict(zip(results["index"], results["hit"].astype(float), strict=True))
    rows, differences = [], []
    for row in predictions.to_dict("records"):
        choices = [row[letter] for letter in LETTERS if row.get(letter)]
        answer = LETTERS.index(row["answer"])
        theirs, ours = exact_choice(row["prediction"], choices), parse_choice(row["prediction"], choices)
        if hits is not None and hits[row["index"]] != float(theirs == answer):
            raise ValueError(
                f"question {row['index']}: VLMEvalKit scored {row['prediction']!r} with {hits[row['index']]:g}, its rules as "
                f"described for exact matching read {_letter(theirs)}; this table is of another version or judge"
            )
        rows.append({"task": row.get("category", ""), "theirs": theirs == answer, "ours": ours == answer})
        if theirs != ours:
            changes = (theirs == answer) != (ours == answer)
            differences.append(
                Difference(
                    index=row["index"], reply=row["prediction"], vlmevalkit=theirs, ours=ours, changes_score=changes
                )
            )
    table = pd.DataFrame(rows)
    scores = {
        name: {
            "questions": float(table[name].mean()),
            "tasks": float(table.groupby("task")[name].mean().mean()),
        }
        for name in ("theirs", "ours")
    }
    return Comparison(n=len(table), vlmevalkit=scores["theirs"], ours=scores["ours"], differences=tuple(differences))


def _letter(index: int | None) -> str:
    return "nothing" if index is None else LETTERS[index]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compare, and print."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("predictions", help="VLMEvalKit's table of predictions")
    page.add_argument("results", nargs="?", help="its table of hits, ..._exact_matching_result")
    options = page.parse_args(arguments)
    try:
        results = None if options.results is None else read_table(options.results)
        print(compare(read_table(options.predictions), results).table())
    except (OSError, ValueError) as error:
        page.error(str(error))


if __name__ == "__main__":
    main()
