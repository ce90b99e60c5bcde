"""Questions of one's own: a file of JSON lines and its pictures, read at random at no cost in memory; and its writer.

A line holds one question:

    {"id": "kitchen-7", "images": ["kitchen.png"], "question": "Which cup is nearer?", "choices": ["red", "blue"],
     "answer": "B", "task": "Depth"}

    images    paths relative to the file, one or more
    question  its text; "<image>" in it shows where a picture stands (before the text otherwise)
    choices   option texts; left out for an open question
    answer    a letter ("B", "(B)") or one option's text; for an open question the reply to train on; left out if hidden
    prompt    left out: the question with its lettered choices, as BLINK writes it
    id, task  left out: the line's number, the file's name

`write_questions` writes any set in this form. Parquet files read slowly in random order: convert them once.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, overload

from amvl_model.data.images import read_picture, to_rgb
from amvl_model.data.readers.files import check_unique
from amvl_model.data.schema import LETTERS, VisualQuestion, answer_index, format_prompt, option_letter

FIELDS: Final = ("id", "images", "question", "choices", "answer", "prompt", "task", "source", "answer_text")


class QuestionFile(Sequence[VisualQuestion]):
    """The questions of a file of JSON lines, parsed when they are asked for; the format is in the module's docstring.

    Args:
        path: the file.
        limit: at most so many questions, the first ones.

    Raises:
        FileNotFoundError: if there is no such file; on access, if a picture is missing.
        ValueError: for an empty file, an id that occurs twice, or (the line is named) invalid JSON or fields.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"expected a file of questions (JSON lines), got {self.path}; correct the path")
        self._starts, self._numbers = array("q"), array("q")
        identifiers = []
        with self.path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if line.strip() and (limit is None or len(self._starts) < limit):
                    self._starts.append(start)
                    self._numbers.append(number)
                    identifiers.append(str(self._parse(line, number).get("id", number)))
                start += len(line)
        if not identifiers and limit != 0:
            raise ValueError(
                f"{self.path}: expected at least one question, got an empty file; check how it was written"
            )
        check_unique(identifiers, str(self.path))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item``, or the list of a slice."""
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        number = self._numbers[item]
        with self.path.open("rb") as file:
            file.seek(self._starts[item])
            record = self._parse(file.readline(), number)
        return self._question(record, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        place = f"{self.path}, line {number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{place}: not valid JSON ({error}); correct the line") from error
        unknown = [name for name in record if name not in FIELDS] if isinstance(record, dict) else ["(no object)"]
        if unknown or not record.get("images") or not record.get("question"):
            raise ValueError(
                f"{place}: expected an object with images and question, and of the fields {', '.join(FIELDS)} only; "
                f"unknown: {unknown or 'none'}; correct the line"
            )
        return dict(record)

    def _question(self, record: dict[str, Any], number: int) -> VisualQuestion:
        place = f"{self.path}, line {number}"
        identifier = str(record.get("id", number))
        choices = tuple(str(choice) for choice in record.get("choices") or ())
        if len(choices) == 1 or len(choices) > len(LETTERS):
            raise ValueError(
                f"{place}: expected 2 to {len(LETTERS)} choices, or none for an open question, got {len(choices)}; "
                "correct the line"
            )
        given = record.get("answer")
        index = None if given is None or not choices else _chosen(str(given), choices, identifier)
        text = "" if given is None else str(given) if index is None else option_letter(index)
        paths = [record["images"]] if isinstance(record["images"], str) else record["images"]
        return VisualQuestion(
            id=identifier,
            images=tuple(read_picture(self.path.parent / path, place) for path in paths),
            prompt=record.get("prompt") or format_prompt(str(record["question"]), choices),
            answer_text=record.get("answer_text") or text,
            question=str(record["question"]),
            choices=choices,
            answer=index,
            task=str(record.get("task", self.path.stem)),
            source=str(record.get("source", self.path.stem)),
        )


def _chosen(answer: str, choices: Sequence[str], identifier: str) -> int:
    """Index of the option whose letter or whose text the answer is; refuses what is a letter of one and a text of another."""
    texts = [i for i, choice in enumerate(choices) if choice == answer]
    try:
        letter = answer_index(answer, choices, identifier)
    except ValueError:
        if len(texts) == 1:
            return texts[0]
        raise
    if texts and texts != [letter]:
        raise ValueError(
            f"question {identifier!r}: the answer {answer!r} is the letter of option {letter} and the text of option "
            f"{texts[0]}; write the letter in brackets, ({answer})"
        )
    return letter


def write_questions(questions: Iterable[VisualQuestion], folder: str | Path, name: str = "questions") -> Path:
    """Write questions as ``<folder>/<name>.jsonl`` with their pictures as PNG in ``<folder>/<name>/``.

    Args:
        questions: any set; each question is read once.
        folder: made if it does not exist.
        name: of the file and of the pictures' folder.

    Returns:
        the file.

    Raises:
        FileExistsError: if the file is there already.
    """
    path = Path(folder) / f"{name}.jsonl"
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name or remove it")
    (Path(folder) / name).mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".jsonl.part")
    with unfinished.open("w", encoding="utf-8") as file:
        for number, question in enumerate(questions):
            images = []
            for place, image in enumerate(question.images):
                images.append(f"{name}/{number:07d}_{place}.png")
                to_rgb(image, f"question {question.id!r}").save(Path(folder) / images[-1])
            record = {
                "id": question.id,
                "images": images,
                "question": question.question or question.prompt,
                "choices": list(question.choices) or None,
                "answer": question.answer_text if question.answer is None else option_letter(question.answer),
                "answer_text": question.answer_text or None,
                "prompt": question.prompt,
                "task": question.task,
                "source": question.source,
            }
            if question.answer is None and (question.choices or not question.answer_text):
                record["answer"] = None
            file.write(json.dumps({k: v for k, v in record.items() if v is not None}, ensure_ascii=False) + "\n")
    unfinished.replace(path)
    return path
