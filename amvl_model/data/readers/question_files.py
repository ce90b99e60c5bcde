"""Questions of one's own: a file of JSON lines and its images, read at random at no cost in memory; and its writer.

A line holds one question:

    {"id": "kitchen-7", "images": ["kitchen.png"], "question": "Which cup is nearer?", "choices": ["red", "blue"],
     "answer": "B", "task": "Depth"}

    images    paths relative to the file: a list of texts, or one text
    question  its text; "<image>" in it shows where an image stands (before the text otherwise)
    choices   option texts: a list, or an object {"A": text, "B": text, ...}; left out for an open question
    answer    a letter ("B", "(B)") or one option's text; for an open question the reply to train on; left out if hidden
    prompt    left out: the question with its lettered choices, as BLINK writes it
    id, task  left out: the line's number, the file's name

Null is read as left out. Texts may be written as numbers in id, choices and open answers.

`write_questions` writes any set in this form. Parquet files read slowly in random order: convert them once.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from amvl_model.data.images import path_inside, read_image, to_rgb
from amvl_model.data.readers.files import check_tasks, check_unique
from amvl_model.data.readers.records import MAX_LINE, check_size, images_of, unique_keys
from amvl_model.data.schema import (
    LETTERS,
    QuestionSet,
    VisualQuestion,
    answer_index,
    format_prompt,
    option_letter,
    option_texts,
    short,
    text_of,
)

FIELDS: Final = ("id", "images", "question", "choices", "answer", "prompt", "task", "source", "answer_text")


class QuestionFile(QuestionSet):
    """The questions of a file of JSON lines, parsed on access; the format is in the module's docstring.

    Args:
        path: the file.
        limit: at most so many questions, the first ones.
        tasks: only questions of these tasks; all if None.
        limit_per_task: at most so many questions of each task, the first ones.
        outside: whether paths of images may lead out of the file's folder.

    Raises:
        FileNotFoundError: if there is no such file; on access, if an image is missing.
        ValueError: for an empty file, an unknown task, or an id that occurs twice; on access (file, line and field are
            named) for invalid JSON, an unknown field or a value of another type. `amvl_model.data.mixture` skips and counts
            what is raised on access.
    """

    def __init__(
        self,
        path: str | Path,
        limit: int | None = None,
        *,
        tasks: Sequence[str] | None = None,
        limit_per_task: int | None = None,
        outside: bool = False,
    ) -> None:
        self.path, self.outside = Path(path), outside
        if not self.path.is_file():
            raise FileNotFoundError(f"expected a file of questions (JSON lines), got {self.path}; correct the path")
        check_size(self.path)
        identifiers, lines = [], []
        with self.path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    identifier, task = self._identity(line, number)
                    identifiers.append(identifier)
                    lines.append((start, number, task))
                start += len(line)
        if not lines:
            raise ValueError(
                f"{self.path}: expected at least one question, got an empty file; check how it was written"
            )
        check_unique(identifiers, str(self.path))
        check_tasks(tasks, {task for _, _, task in lines if task is not None}, str(self.path))
        counts: Counter[str | None] = Counter()
        self._starts, self._numbers = array("q"), array("q")
        for start, number, task in lines:
            counts[task] += 1
            # a line without a readable task is kept, so that its error is raised and counted
            wanted = task is None or tasks is None or task in tasks
            if wanted and (limit_per_task is None or counts[task] <= limit_per_task):
                self._starts.append(start)
                self._numbers.append(number)
        if limit is not None:
            self._starts, self._numbers = self._starts[:limit], self._numbers[:limit]

    def __len__(self) -> int:
        return len(self._starts)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        number = self._numbers[index]
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            record = self._parse(file.readline(), number)
        return self._question(record, number)

    def _identity(self, line: bytes, number: int) -> tuple[str, str | None]:
        """Id and task of a line; its number and None where they cannot be read, which is an error on access."""
        try:
            record = self._parse(line, number)
            return record["id"], record["task"]
        except ValueError:
            return f"line {number}", None

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        """The fields of a line, each of its type, with defaults."""
        place = f"{self.path}, line {number}"
        if len(line) > MAX_LINE:
            raise ValueError(f"{place} has {len(line):,} bytes, expected at most {MAX_LINE:,}; correct the line")
        try:
            given = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: not valid JSON ({error}); correct the line") from error
        unknown = [name for name in given if name not in FIELDS] if isinstance(given, dict) else ["(no object)"]
        if unknown or not given.get("images") or not given.get("question"):
            raise ValueError(
                f"{place}: expected an object with images and question, and of the fields {', '.join(FIELDS)} only; "
                f"unknown: {unknown or 'none'}; correct the line"
            )
        record = {name: value for name, value in given.items() if value is not None}
        for name in ("question", "prompt", "task", "source", "answer_text"):
            if not isinstance(record.get(name, ""), str):
                raise ValueError(f"{place}, field {name}: expected a text, got {short(record[name])}; correct the line")
        images = [record["images"]] if isinstance(record["images"], str) else record["images"]
        if not isinstance(images, list) or not all(isinstance(path, str) and path for path in images):
            raise ValueError(
                f"{place}, field images: expected a path or a list of paths, got {short(images)}; correct the line"
            )
        choices = option_texts(record.get("choices", []), f"{place}, field choices")
        if len(choices) == 1 or len(choices) > len(LETTERS):
            raise ValueError(
                f"{place}, field choices: expected 2 to {len(LETTERS)} choices, or none for an open question, got "
                f"{len(choices)}; correct the line"
            )
        blank = next((i for i, text in enumerate(choices, 1) if not text.strip()), None)
        if blank is not None or not record["question"].strip():
            field = "question" if blank is None else f"choices, option {blank}"
            raise ValueError(f"{place}, field {field}: expected a text, got a blank one; correct the line")
        answer = record.get("answer")
        if answer is not None and choices and not isinstance(answer, str):
            raise ValueError(
                f"{place}, field answer: expected a letter or an option's text, got {short(answer)}; write for example "
                '"A", because a number may be a place or an option'
            )
        defaults = {"id": number, "task": self.path.stem, "source": self.path.stem}
        texts = {
            name: text_of(value, f"{place}, field {name}")
            for name, value in (defaults | record).items()
            if name not in ("images", "choices")
        }
        return texts | {"images": images, "choices": choices}

    def _question(self, record: dict[str, Any], number: int) -> VisualQuestion:
        place = f"{self.path}, line {number}"
        choices, answer = record["choices"], record.get("answer")
        try:
            index = None if answer is None or not choices else _chosen(answer, choices, record["id"])
        except ValueError as error:
            raise ValueError(f"{place}, field answer: {error}") from error
        if index is not None and record.get("answer_text") and _names_another(record["answer_text"], choices, index):
            raise ValueError(
                f"{place}, field answer_text: expected a reply that chooses option {option_letter(index)}, as answer says, got "
                f"{short(record['answer_text'])}; correct one of the two"
            )
        text = answer or "" if index is None else option_letter(index)
        question = VisualQuestion(
            id=record["id"],
            images=(),
            prompt=record.get("prompt") or format_prompt(record["question"], choices),
            answer_text=record.get("answer_text") or text,
            question=record["question"],
            choices=choices,
            answer=index,
            task=record["task"],
            source=record["source"],
        )
        with images_of(question):
            root = self.path.parent
            paths = [root / name if self.outside else path_inside(root, name, place) for name in record["images"]]
            images = tuple(read_image(path, place) for path in paths)
        return replace(question, images=images)


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


def _names_another(reply: str, choices: Sequence[str], index: int) -> bool:
    """Whether a reply is nothing but the letter or the text of another option."""
    try:
        return _chosen(reply.strip().removesuffix("."), choices, "") != index
    except ValueError:
        return False


def write_questions(questions: Iterable[VisualQuestion], folder: str | Path, name: str = "questions") -> Path:
    """Write questions as ``<folder>/<name>.jsonl`` with their images as PNG in ``<folder>/<name>/``.

    Args:
        questions: any set; each question is read once.
        folder: made if it does not exist.
        name: of the file and of the images' folder.

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
