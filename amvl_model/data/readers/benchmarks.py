"""Readers of V*, HRBench and VisualPuzzles, in the layouts that they have on the hub.

    V*             craigwu/vstar_bench      test_questions.jsonl: text (options inline), category, label "A", question_id,
                                            image "direct_attributes/sa_4690.jpg", a path beside the file
    HRBench        DreamMr/HR-Bench         hr_bench_4k.parquet (.tsv), hr_bench_8k.parquet (.tsv): index, question, answer,
                                            category single or cross, A, B, C, D, cycle_category, image in base64; each
                                            question four times, its options turned round by one place each time
    VisualPuzzles  neulab/VisualPuzzles     data/<split>-*.parquet or data.parquet: id, category, image {bytes, path}, question,
                                            options (null where they are drawn in the image), answer "A"

The default prompts are those of the benchmarks' own evaluations (V*: the text as it stands; HRBench: VLMEvalKit, which its
authors use; VisualPuzzles: its direct prompt). ``prompt="blink"`` writes every question as BLINK does.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from amvl_model.data import schema
from amvl_model.data.images import decode_base64, decode_image, path_inside, read_image
from amvl_model.data.readers import files
from amvl_model.data.readers.records import images_of, unique_keys, usable_records
from amvl_model.data.schema import QuestionSet, VisualQuestion

PromptStyle = Literal["official", "blink"]
VSTAR_ID: Final = "craigwu/vstar_bench"
HRBENCH_ID: Final = "DreamMr/HR-Bench"
VISUAL_PUZZLES_ID: Final = "neulab/VisualPuzzles"
VISUAL_PUZZLES_SPLITS: Final = ("train", "test")
IN_IMAGE: Final = ("A", "B", "C", "D")
"""Choices of a question whose options are drawn in its image."""
_OPTION: Final = re.compile(r"\(([A-Z])\)\s*(.*?)(?=\s*\([A-Z]\)\s|\s*\n|\s*$)")
_VSTAR_FIELDS: Final = ("image", "text", "category", "label", "question_id")
_HRBENCH_TEXTS: Final = ("index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category")
_PUZZLE_FIELDS: Final = ("id", "category", "image", "question", "options", "answer")


@dataclass(frozen=True)
class _Entry:
    """A question without its image, and how to get that."""

    question: VisualQuestion
    load_image: Callable[[], Image.Image]


def _entry(
    identifier: str,
    question: str,
    choices: tuple[str, ...],
    record: dict[str, Any],
    answer: str,
    prompt: str,
    load_image: Callable[[], Image.Image],
    place: str,
) -> _Entry:
    """``answer``: the field of the record that names the right option; ``place``: file and record, for messages."""
    letter = schema.text_of(record[answer], f"{place}: {answer}")
    index = schema.answer_index(letter, choices, f"{identifier}, {place}: {answer}")
    texts = VisualQuestion(
        id=identifier,
        images=(),
        prompt=prompt,
        answer_text=schema.option_letter(index),
        question=question,
        choices=choices,
        answer=index,
        task=schema.text_of(record["category"], f"{place}: category"),
    )
    return _Entry(texts, load_image)


class BenchmarkQuestions(QuestionSet):
    """Questions whose texts are in memory and whose images are read on access.

    Raises:
        UnreadableImages, MissingImages: on access, for an unreadable or missing image (the message names file and record).
    """

    def __init__(self, entries: Sequence[_Entry], source: str, place: str) -> None:
        files.check_unique([entry.question.id for entry in entries], place)
        self._entries, self._source = list(entries), source

    def __len__(self) -> int:
        return len(self._entries)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        entry = self._entries[index]
        question = replace(entry.question, source=self._source)
        with images_of(question):
            return replace(question, images=(entry.load_image(),))


def load_vstar(
    path_or_id: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    prompt: PromptStyle = "official",
    stream: bool = False,
) -> BenchmarkQuestions:
    """V*Bench: 115 questions on direct_attributes (four options), 76 on relative_position (two).

    Args:
        path_or_id: the folder of test_questions.jsonl and the images; the hub if None.
        tasks: direct_attributes, relative_position; both if None.
        limit: at most so many questions of each task, the first ones.
        prompt: "official" (the text as it stands) or "blink".
        stream: read from the hub while it is used.

    Raises:
        FileNotFoundError, ConnectionError: if the folder or a file is missing, or the hub is not reached.
        ValueError: for an unknown task, or more records than `usable_records` skips that lack a field or options, or have an
            answer outside its options or an image outside the folder.
    """
    layout = "test_questions.jsonl and the folders direct_attributes and relative_position"
    folder = files.data_folder(path_or_id, hub_id=VSTAR_ID, patterns=["*"], layout=layout, stream=stream)
    name = "test_questions.jsonl"
    try:
        lines = [(number, line) for number, line in enumerate(folder.read_text(name).split("\n"), 1) if line.strip()]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder.place(name)}: no such file; expected a folder that holds {layout}") from error
    place = folder.place(name)
    entries = usable_records(
        lines, lambda _, line: _vstar_entry(folder, line[1], f"{place}, line {line[0]}", prompt), place
    )
    return BenchmarkQuestions(_selected(entries, tasks, limit, place), "V*", place)


def _vstar_entry(folder: files.DataFolder, line: str, place: str, prompt: PromptStyle) -> _Entry:
    try:
        record = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON ({error}); download the file again") from error
    _require(record, _VSTAR_FIELDS, place)
    text = schema.text_of(record["text"], f"{place}: text")
    result = list(_OPTION.finditer(text))
    letters = "".join(match[1] for match in result)
    if len(result) < 2 or not schema.LETTERS.startswith(letters):
        raise ValueError(
            f"{place}: expected options (A), (B), ... in order in the text, got {text!r}; correct the record"
        )
    question = text[: result[0].start()].strip()
    choices = tuple(match[2].strip() for match in result)
    category, number, name = (schema.text_of(record[n], f"{place}: {n}") for n in ("category", "question_id", "image"))
    identifier, path = f"{category}/{number}", path_inside(Path(folder.root), name, place)

    def read() -> Image.Image:
        return decode_image(folder.read_bytes(name), f"{place}: {name}") if folder.on_hub else read_image(path, place)

    shown = schema.format_prompt(question, choices) if prompt == "blink" else text
    return _entry(identifier, question, choices, record, "label", shown, read, place)


def load_hrbench(
    size: Literal["4k", "8k"],
    path_or_id: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    prompt: PromptStyle = "official",
    stream: bool = False,
) -> BenchmarkQuestions:
    """HRBench4K or 8K: 200 questions, 100 single-instance and 100 cross-instance, each in four cycles of its options.

    Ids are ``hrbench_4k/<question>/cycle<k>``: the cycles of one question share the part before the last stroke.

    Args:
        size: "4k" or "8k".
        path_or_id: the folder of hr_bench_4k.parquet or .tsv; the hub if None.
        tasks: single, cross; both if None.
        limit: at most so many rows of each task, the first ones.
        prompt: "official" or "blink".
        stream: read from the hub while it is used; the 8K file has gigabytes.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as `load_vstar`.
    """
    if size not in {"4k", "8k"}:
        raise ValueError(f"size must be '4k' or '8k', got {size!r}")
    stem = f"hr_bench_{size}"
    patterns = [f"{stem}*.parquet", f"*hrbench_{size}-*.parquet"]
    layout = f"{stem}.parquet or {stem}.tsv"
    folder = files.data_folder(path_or_id, hub_id=HRBENCH_ID, patterns=patterns, layout=layout, stream=stream)
    names = folder.names(*patterns)
    if names:
        rows = files.ParquetRows(folder, names, (*_HRBENCH_TEXTS, "image"), reader="load_hrbench")
        texts, place = rows.columns(_HRBENCH_TEXTS), folder.place(names[0])
        loaders = [_base64_reader(rows, index) for index in range(len(rows))]
    elif folder.names(f"{stem}.tsv"):
        place = folder.place(f"{stem}.tsv")
        texts, loaders = _read_tsv(folder, f"{stem}.tsv")
    else:
        raise FileNotFoundError(f"{folder}: expected {layout}, found neither; download HRBench or correct the path")
    records = [*zip(texts, _cycle_ids(texts, f"hrbench_{size}"), loaders, strict=True)]
    entries = usable_records(
        records, lambda number, each: _hrbench_entry(f"{place}, row {number}", prompt, *each), place
    )
    return BenchmarkQuestions(_selected(entries, tasks, limit, place), f"HRBench{size.upper()}", place)


def _cycle_ids(records: Sequence[dict[str, Any]], prefix: str) -> list[str]:
    """One id per row. Rows with the same text and the same set of options are cycles of one question; where two images
    share both, the j-th row of every cycle belongs to the j-th image."""
    numbers: dict[Any, int] = {}
    seen: Counter[Any] = Counter()
    result = []
    for record in records:
        cycle = str(record["cycle_category"]).strip().lower()
        key = (
            str(record["category"]),
            str(record["question"]),
            tuple(sorted(str(record[letter]) for letter in "ABCD")),
        )
        occurrence = seen[key, cycle]
        seen[key, cycle] += 1
        number = numbers.setdefault((key, occurrence), len(numbers))
        result.append(f"{prefix}/{number:03d}/cycle{cycle.removeprefix('cycle').strip('_ ')}")
    return result


def _hrbench_entry(
    place: str, prompt: PromptStyle, record: dict[str, Any], identifier: str, load_image: Callable[[], Image.Image]
) -> _Entry:
    _require(record, [name for name in _HRBENCH_TEXTS if name not in "ABCD"], place)
    given = [record[letter] for letter in "ABCD"]
    texts = [text for text in given if text is not None and str(text) != "nan"]
    choices = schema.option_texts(texts, f"{place}: options")
    if len(choices) < 2 or any(text is None or str(text) == "nan" for text in given[: len(choices)]):
        raise ValueError(f"{place}: expected options in A, B, ... without a gap, got {given}; correct the record")
    question = schema.text_of(record["question"], f"{place}: question")
    lines = "".join(f"{letter}. {text}\n" for letter, text in zip(schema.LETTERS, choices, strict=False))
    official = f"Question: {question}\nOptions:\n{lines}Please select the correct answer from the options above. \n"
    shown = schema.format_prompt(question, choices) if prompt == "blink" else official
    return _entry(identifier, question, choices, record, "answer", shown, load_image, place)


def _base64_reader(rows: files.ParquetRows, index: int) -> Callable[[], Image.Image]:
    return lambda: decode_base64(rows.row(index)["image"], f"{rows.place(index)}: image")


def _read_tsv(folder: files.DataFolder, name: str) -> tuple[list[dict[str, Any]], list[Callable[[], Image.Image]]]:
    """Texts and image readers of VLMEvalKit's TSV, whose images (base64) are held in memory as text."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.DictReader(io.StringIO(folder.read_text(name), newline=""), delimiter="\t")
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(
            f"{folder.place(name)}: not a table of tab-separated values ({error}); download it again"
        ) from error
    finally:
        csv.field_size_limit(limit)
    missing = [field for field in (*_HRBENCH_TEXTS, "image") if field not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{folder.place(name)}: missing the columns {', '.join(missing)}; download the file again")
    by_index = {row["index"]: row["image"] for row in rows}

    def load_image(row: dict[str, Any], number: int) -> Callable[[], Image.Image]:
        text = row["image"] or ""
        if len(text) <= 64:  # VLMEvalKit stores an image once and then refers to its row
            text = by_index.get(text, text)
        return lambda: decode_base64(text, f"row {number} of {folder.place(name)}: image")

    texts = [{field: row[field] or None for field in _HRBENCH_TEXTS} for row in rows]
    return texts, [load_image(row, number) for number, row in enumerate(rows)]


def load_visual_puzzles(
    path_or_id: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    split: str | None = None,
    prompt: PromptStyle = "official",
    stream: bool = False,
) -> BenchmarkQuestions:
    """VisualPuzzles: 1,168 questions of five categories, four options each.

    Where the options are null they are drawn in the image: the choices are then the letters A to D. Records with wrong
    fields are skipped and logged (`usable_records`).

    Args:
        path_or_id: the folder of the Parquet files; the hub if None.
        tasks: categories, for example ("inductive", "spatial"); all if None.
        limit: at most so many questions of each category, the first ones.
        split: "train" or "test", the older and the newer name of the one split; whichever is there if None.
        prompt: "official" or "blink".
        stream: read from the hub while it is used.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as `load_vstar`.
    """
    layout = "data/<train or test>-00000-of-00001.parquet or data.parquet"
    folder = files.data_folder(
        path_or_id, hub_id=VISUAL_PUZZLES_ID, patterns=["*.parquet"], layout=layout, stream=stream
    )
    names = _puzzle_files(folder, split, layout)
    rows = files.ParquetRows(folder, names, _PUZZLE_FIELDS, reader="load_visual_puzzles")
    texts = rows.columns([name for name in _PUZZLE_FIELDS if name != "image"])
    entries = usable_records(texts, lambda index, record: _puzzle_entry(rows, index, record, prompt), str(folder))
    return BenchmarkQuestions(_selected(entries, tasks, limit, str(folder)), "VisualPuzzles", folder.place(names[0]))


def _puzzle_files(folder: files.DataFolder, split: str | None, layout: str) -> list[str]:
    names = folder.names("*.parquet")
    if "data.parquet" in names:
        return ["data.parquet"]
    directory = "data" if any(name.startswith("data/") for name in names) else ""
    for candidate in VISUAL_PUZZLES_SPLITS if split is None else (split,):
        if any(name.rpartition("/")[2].startswith(f"{candidate}-") for name in names):
            return files.find_shards(folder, directory, candidate)
    raise FileNotFoundError(
        f"{folder}: expected {layout}{'' if split is None else f' (requested {split!r})'}, found "
        f"{', '.join(names) or 'no Parquet file'}; download VisualPuzzles or correct path and split"
    )


def _puzzle_entry(rows: files.ParquetRows, index: int, record: dict[str, Any], prompt: PromptStyle) -> _Entry:
    place = rows.place(index)
    _require(record, ("id", "category", "question", "answer"), place)
    question, options = schema.text_of(record["question"], f"{place}: question").strip(), record["options"]
    choices = IN_IMAGE if options is None else schema.option_texts(options, f"{place}: options")
    identifier = f"visual_puzzles/{record['id']}"
    if options is None:
        listed = "Options: Choose from (A) (B) (C) (D) in the image."
    else:
        listed = "Options:\n" + "\n".join(f"{schema.option_letter(i)} {text}" for i, text in enumerate(choices))
    if prompt == "blink":
        text = f"{question}\n{listed}" if options is None else schema.format_prompt(question, choices)
    else:
        ending = "Answer the question with the option's letter from the given choices directly."
        text = f"Question: {question}\n{listed}\n{ending}"

    def load_image() -> Image.Image:
        image = files.image_cell(rows.row(index)["image"], f"{place}: image")
        if image is None:
            raise ValueError(f"{place}: expected an image, got null; download the file again")
        return image

    return _entry(identifier, question, choices, record, "answer", text, load_image, place)


def _require(record: Any, fields: Sequence[str], place: str) -> None:
    missing = [name for name in fields if not isinstance(record, dict) or record.get(name) is None]
    if missing:
        raise ValueError(f"{place}: expected a value in {', '.join(missing)}, got null or nothing; correct the record")


def _selected(entries: Sequence[_Entry], tasks: Sequence[str] | None, limit: int | None, place: str) -> list[_Entry]:
    """The entries of some tasks, at most ``limit`` of each."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be None or at least 0, got {limit}; leave it out for all questions")
    files.check_tasks(tasks, {entry.question.task for entry in entries}, place)
    counts: Counter[str] = Counter()
    chosen = []
    for entry in entries:
        if (tasks is None or entry.question.task in tasks) and (limit is None or counts[entry.question.task] < limit):
            counts[entry.question.task] += 1
            chosen.append(entry)
    return chosen
