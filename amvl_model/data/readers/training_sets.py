"""Readers of the four training sets of the paper, each converted to `VisualQuestion`.

x is the image (or images) of the problem and the question; y is the final answer. The intermediate images, boxes and
thoughts that these sets hold are not shown to the model: with ``target="reasoning"`` the written thoughts stand before the
answer in y. What the paper trains on is not stated; the final answer alone is our choice.

    Visual-CoT   deepcs233/Visual-CoT (arXiv 2403.16999; format: README and tools/convert_data_to_llava_format.py)
        viscot_363k.json, a list of {image: ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[x0, y0, x1, y1]"], dataset, split,
        question_id, conversations: [human "<image>\\nQuestion Please provide the bounding box ...", gpt "[0.1, ...]",
        human "<image>", gpt answer]}; or metadata/<dataset>_cot_train.jsonl, a line {question, answer, image, dataset,
        split, width, height, bboxs}. Images: archives, extracted to cot/<dataset>/.
    ReFocus      ReFocus/ReFocus_Data (arXiv 2501.05452; format: finetune_hf_trainer_chartqa_vcot.py of ReFocus_Code)
        chartqa_vcot/<split>.jsonl, a line {id, query (or question), answer (text or list), source "chartqa_v_bar" ...,
        focus_areas, conversations: [{response, images}, ...]}; the first image of the first turn is the chart.
    CogCoM       qijimrc/CoMDataset (arXiv 2402.04236; format: dataset card and cogcom/data/README.md)
        data/com.parquet: pid, image_path, decoded_image {bytes, path}, question (text or list of texts), answer, com_founds,
        final_com (JSON text); or com.jsonl, the same without images, flat or {image_path, metadata: [question ...]}.
        final_com maps "a,b--c,d" (level and place of the parent, then of the step) to {func, desc, variables, found, ...}.
    Zebra-CoT    multimodal-reasoning-lab/Zebra-CoT (arXiv 2507.16746; format: dataset card)
        <Category - Subject>/train-*.parquet: Question, Text Reasoning Trace, Final Answer, problem_image_<i>,
        reasoning_image_<i> {bytes, path}; texts refer to images as <image_start>[problem_image_1]<image_end>.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from amvl_model.data.images import path_inside, read_image
from amvl_model.data.readers.files import (
    ParquetRows,
    check_tasks,
    check_unique,
    data_folder,
    find_shards,
    image_cell,
    read_json_records,
)
from amvl_model.data.readers.training_texts import (
    chain_of_manipulations,
    focus_reasoning,
    strip_box_request,
    zebra_question,
    zebra_reasoning,
)
from amvl_model.data.schema import QuestionSet, VisualQuestion, short, text_of

Target = Literal["answer", "reasoning"]
VISUAL_COT_ID: Final = "deepcs233/Visual-CoT"
REFOCUS_ID: Final = "ReFocus/ReFocus_Data"
COGCOM_ID: Final = "qijimrc/CoMDataset"
ZEBRA_COT_ID: Final = "multimodal-reasoning-lab/Zebra-CoT"
_ZEBRA_FIELDS: Final = ("Question", "Text Reasoning Trace", "Final Answer")
_ZEBRA_IMAGE: Final = re.compile(r"problem_image_(\d+)$")


@dataclass(frozen=True)
class _Example:
    """One training example: texts, and how to get its images."""

    id: str
    question: str
    answer: str
    task: str
    load_images: Callable[[], tuple[Image.Image, ...]]
    place: str
    reasoning: str = ""


class TrainingQuestions(QuestionSet):
    """Open questions, made on access.

    Args:
        size: their number.
        example: makes example ``index``.
        source: name of the data set.
        target: what y holds, see the module.

    Raises:
        ValueError, FileNotFoundError: on access, if a record or an image is invalid (the message names it).
    """

    def __init__(self, size: int, example: Callable[[int], _Example], source: str, target: Target) -> None:
        if target not in {"answer", "reasoning"}:
            raise ValueError(f"target must be 'answer' or 'reasoning', got {target!r}")
        self._size, self._example, self._source, self._target = size, example, source, target

    def __len__(self) -> int:
        return self._size

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        example = self._example(index)
        if not example.question.strip() or not example.answer.strip():
            raise ValueError(f"{example.place}: expected a question and an answer, got an empty text")
        answer = example.answer.strip()
        if self._target == "reasoning" and example.reasoning.strip():
            answer = f"{example.reasoning.strip()}\nAnswer: {answer}"
        return VisualQuestion(
            id=example.id,
            images=example.load_images(),
            prompt=example.question,
            answer_text=answer,
            question=example.question,
            task=example.task,
            source=self._source,
        )


def _field(record: dict[str, Any], names: Sequence[str], place: str) -> Any:
    """The first field that has a value."""
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise ValueError(f"{place}: expected a value in {' or '.join(names)}, got null or nothing; correct the record")


def _text(value: Any, place: str) -> str:
    """An answer as text: a list (ReFocus) or a list of one (CogCoM) is joined."""
    return ", ".join(text_of(entry, place) for entry in (value if isinstance(value, list | tuple) else [value]))


def _local(path: str | Path | None, identifier: str, needs: str) -> Path:
    """The local folder of a set whose images are archives on the hub."""
    if path is None or not Path(path).is_dir():
        raise FileNotFoundError(
            f"{identifier} stores its images in archives, so it is read from a local folder, got {path}; run "
            f"`hf download {identifier} --repo-type dataset --local-dir DIR`, unpack the archives there so that DIR holds "
            f"{needs}, and pass DIR"
        )
    return Path(path)


def _image_path(folder: Path, name: str, roots: Sequence[str]) -> Path:
    """The image under the first of some sub-folders that holds it (the last one's path if none does)."""
    candidates = [path_inside(folder / root, name, str(folder)) for root in roots]
    return next((path for path in candidates if path.is_file()), candidates[0])


def load_visual_cot(
    path: str | Path | None = None,
    *,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    target: Target = "answer",
) -> TrainingQuestions:
    """Visual-CoT from a local folder; the format is in the module's docstring.

    Args:
        path: folder of viscot_363k.json (or metadata/*.jsonl) and the images' folder cot/.
        limit: at most so many questions, the first ones.
        tasks: names of the sets behind it (gqa, textvqa, docvqa, ...); all if None.
        target: "answer"; the set has no written reasoning, "reasoning" is the same.

    Raises:
        FileNotFoundError: if the folder or the annotations are missing; on access if an image is.
        ValueError: for invalid JSON; on access for a record with wrong fields, which `amvl_model.data.mixture` skips and counts.
    """
    folder = _local(path, VISUAL_COT_ID, "viscot_363k.json and cot/<dataset>/<image>")
    mixed = folder / "viscot_363k.json"
    files = [mixed] if mixed.is_file() else sorted((folder / "metadata").glob("*_cot_train.jsonl"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected viscot_363k.json or metadata/<dataset>_cot_train.jsonl, found neither"
        )
    entries: list[tuple[str, str, str, str, str] | str] = []  # a text is what is wrong with the record
    present: set[str] = set()
    for file in files:
        for number, record in enumerate(read_json_records(file)):
            place = f"record {number} of {file}"
            try:
                texts = _visual_cot_texts(record, place)
            except ValueError as error:
                entries.append(str(error))
            else:
                present.add(texts[2])
                if tasks is None or texts[2] in tasks:
                    entries.append((*texts, place))
            if len(entries) == limit:
                break
    if len(entries) != limit:
        check_tasks(tasks, present, str(folder))

    def example(index: int) -> _Example:
        entry = entries[index]
        if isinstance(entry, str):
            raise ValueError(entry)
        (question, answer, task, image_path, place), identifier = entry, f"viscot/{index}"
        path = _image_path(folder, image_path, (".", "cot_image_data", "images"))
        return _Example(identifier, question, answer, task, lambda: (read_image(path, place),), place)

    return TrainingQuestions(len(entries[:limit]), example, "Visual-CoT", target)


def _visual_cot_texts(record: dict[str, Any], place: str) -> tuple[str, str, str, str]:
    """Question, answer, set and image of a record of either form."""
    task = text_of(_field(record, ("dataset",), place), f"{place}: dataset")
    image = _field(record, ("image",), place)
    if isinstance(image, list) and image:
        image = image[0]
    if not isinstance(image, str):
        raise ValueError(f"{place}: image: expected a path or a list of paths, got {short(image)}; correct the record")
    if "conversations" not in record:
        question, answer = (
            text_of(_field(record, (name,), place), f"{place}: {name}") for name in ("question", "answer")
        )
        return question, answer, task, f"cot/{'textvqa' if task == 'textcap' else task}/{image}"
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{place}: conversations: expected a list of objects, got {short(turns)}; correct the record")
    prompts = [text_of(turn.get("value"), f"{place}: human") for turn in turns if turn.get("from") == "human"]
    replies = [text_of(turn.get("value"), f"{place}: gpt") for turn in turns if turn.get("from") == "gpt"]
    if not prompts or not replies or not image:
        raise ValueError(
            f"{place}: expected an image and turns of human and gpt, got {short(record)}; correct the record"
        )
    return strip_box_request(prompts[0]), replies[-1], task, image.partition("###")[0]


def load_refocus(
    path: str | Path | None = None,
    *,
    split: str = "train",
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    target: Target = "answer",
) -> TrainingQuestions:
    """ReFocus's chart questions from a local folder; the format is in the module's docstring.

    Args:
        path: folder of chartqa_vcot/<split>.jsonl and the charts.
        split: train, val or test.
        limit: at most so many questions, the first ones.
        tasks: sources (chartqa_h_bar, chartqa_v_bar, ...); all if None.
        target: "answer", or "reasoning" (thought, areas to focus on, thought).

    Raises:
        FileNotFoundError, ValueError: as `load_visual_cot`; also for an id that occurs twice.
    """
    folder = _local(path, REFOCUS_ID, "chartqa_vcot/train.jsonl and the charts at the paths it names")
    name = f"{split}.jsonl"
    file = next(
        (f for f in (folder / "chartqa_vcot" / name, folder / name) if f.is_file()), folder / "chartqa_vcot" / name
    )
    every = read_json_records(file)
    check_tasks(tasks, {str(record.get("source")) for record in every}, str(file))
    records = [r for r in every if tasks is None or r.get("source") in tasks][:limit]
    check_unique([str(_field(record, ("id",), str(file))) for record in records], str(file))

    def example(index: int) -> _Example:
        record = records[index]
        place = f"record {record['id']!r} of {file}"
        turns = record.get("conversations") or [{}]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(
                f"{place}: conversations: expected a list of objects, got {short(turns)}; correct the record"
            )
        images = turns[0].get("images") or record.get("images") or _field(record, ("image",), place)
        image = images[0] if isinstance(images, list) else images
        image_path = text_of(image, f"{place}: image").replace("\\", "/")
        roots = (".", "chartqa_vcot", "ChartQA/ChartQA Dataset", "ChartQA Dataset", "data")
        result = _image_path(folder, image_path, roots)
        return _Example(
            f"refocus/{record['id']}",
            text_of(_field(record, ("query", "question"), place), f"{place}: question"),
            _text(_field(record, ("answer",), place), f"{place}: answer"),
            str(record.get("source", "")),
            lambda: (read_image(result, place),),
            place,
            focus_reasoning(record),
        )

    return TrainingQuestions(len(records), example, "ReFocus", target)


def load_cogcom(
    path_or_id: str | Path | None = None,
    *,
    split: str = "com",
    limit: int | None = None,
    target: Target = "answer",
    stream: bool = False,
) -> TrainingQuestions:
    """CogCoM's chains of manipulations; the format is in the module's docstring.

    Args:
        path_or_id: folder of data/<split>.parquet, or of <split>.jsonl and the images; the hub if None (10 GB).
        split: com (synthesised), com_math (annotated by hand) or com_test.
        limit: at most so many questions, the first ones.
        target: "answer", or "reasoning" (the steps of the first chain that reaches the answer).
        stream: read from the hub while it is used.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as `load_visual_cot`; also for an id that occurs twice.
    """
    layout = f"data/{split}.parquet, or {split}.jsonl with the images it names"
    patterns = [f"data/{split}.parquet"]
    folder = data_folder(path_or_id, hub_id=COGCOM_ID, patterns=patterns, layout=layout, stream=stream)
    names = folder.names(*patterns, f"{split}.parquet")
    if not names:
        return _cogcom_lines(Path(folder.root), split, limit, target)
    required = ("pid", "decoded_image", "question", "answer", "final_com")
    rows = ParquetRows(folder, names, required, limit, "load_cogcom")
    check_unique([str(row["pid"]) for row in rows.columns(["pid"])], folder.place(names[0]))

    def example(index: int) -> _Example:
        record = rows.row(index)
        place = rows.place(index)

        def load_images() -> tuple[Image.Image, ...]:
            image = image_cell(_field(record, ("decoded_image",), place), f"{place}: decoded_image")
            assert image is not None
            return (image,)

        return _cogcom_example(record, place, split, load_images)

    return TrainingQuestions(len(rows), example, "CogCoM", target)


def _cogcom_lines(folder: Path, split: str, limit: int | None, target: Target) -> TrainingQuestions:
    """CogCoM from JSON lines, one question or one image a line."""
    file = folder / f"{split}.jsonl"
    records: list[dict[str, Any]] = []
    for line in read_json_records(file):
        shared: dict[str, Any] = {name: line[name] for name in ("image_path", "pid") if name in line}
        parts = line.get("metadata", [{**line}])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{file}: metadata: expected a list of objects, got {short(parts)}; correct the record")
        records += [{**shared, **part} for part in parts]
    records = records[:limit]
    for number, record in enumerate(records):
        record.setdefault("pid", number)
    if len({str(record["pid"]) for record in records}) != len(records) and any("metadata" not in r for r in records):
        check_unique([str(record["pid"]) for record in records], str(file))

    def example(index: int) -> _Example:
        record = records[index]
        place = f"record {index} of {file}"
        path = _image_path(folder, str(_field(record, ("image_path",), place)), (".", "images", "save"))
        return _cogcom_example(record, place, split, lambda: (read_image(path, place),))

    return TrainingQuestions(len(records), example, "CogCoM", target)


def _cogcom_example(
    record: dict[str, Any], place: str, split: str, load_images: Callable[[], tuple[Image.Image, ...]]
) -> _Example:
    return _Example(
        f"cogcom/{split}/{record['pid']}",
        _text(_field(record, ("question",), place), f"{place}: question"),
        _text(_field(record, ("answer",), place), f"{place}: answer"),
        split,
        load_images,
        place,
        chain_of_manipulations(record.get("final_com"), place),
    )


def _with_images(rows: ParquetRows) -> list[int]:
    """The rows with an image of the problem, found without reading the images."""
    names = [name for name in rows.column_names if _ZEBRA_IMAGE.match(name)]
    cells = rows.columns([f"{name}.path" for name in names]) if names else []
    return [number for number, row in enumerate(cells) if any(row[name] is not None for name in names)]


def load_zebra_cot(
    path_or_id: str | Path | None = None,
    *,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    target: Target = "answer",
    stream: bool = False,
) -> TrainingQuestions:
    """Zebra-CoT; the format is in the module's docstring. Problems without an image are left out.

    Args:
        path_or_id: folder with a sub-folder per subject; the hub if None (59 GB in all).
        limit: at most so many rows of each subject, the first ones.
        tasks: subjects, for example "2D Visual Reasoning - Visual Search"; all if None.
        target: "answer", or "reasoning" (the thoughts, without their images).
        stream: read from the hub while it is used.

    Raises:
        FileNotFoundError, ConnectionError: if the folder, a subject or a shard is missing, or the hub is not reached.
        ValueError: for an unreadable file or an unknown subject; on access for an invalid record or image.
    """
    patterns = ["*/train-*.parquet"] if tasks is None else [f"{task}/train-*.parquet" for task in tasks]
    layout = "<Category - Subject>/train-00000-of-00001.parquet"
    folder = data_folder(path_or_id, hub_id=ZEBRA_COT_ID, patterns=patterns, layout=layout, stream=stream)
    subjects = sorted({name.rpartition("/")[0] for name in folder.names("*/train-*.parquet")})
    unknown = [task for task in tasks or () if task not in subjects]
    if unknown or not subjects:
        raise FileNotFoundError(
            f"{folder}: expected {layout}{f' of {unknown[0]!r}' if unknown else ''}, found {', '.join(subjects) or 'none'}"
        )
    index: list[tuple[str, ParquetRows, int]] = []
    for subject in subjects if tasks is None else tasks:
        rows = ParquetRows(folder, find_shards(folder, subject, "train"), _ZEBRA_FIELDS, limit, "load_zebra_cot")
        index += [(subject, rows, row) for row in _with_images(rows)]

    def example(number: int) -> _Example:
        subject, rows, row = index[number]
        record, place = rows.row(row), rows.place(row)
        text = str(_field(record, ("Question",), place))
        columns = [name for name in record if _ZEBRA_IMAGE.match(name) and record[name] is not None]
        columns.sort(key=lambda name: int(name.rpartition("_")[2]))
        question, order = zebra_question(text, columns, place)

        def load_images() -> tuple[Image.Image, ...]:
            return tuple(i for name in order if (i := image_cell(record[name], f"{place}: {name}")) is not None)

        answer = str(_field(record, ("Final Answer",), place))
        reasoning = zebra_reasoning(str(record["Text Reasoning Trace"] or ""))
        return _Example(f"zebra-cot/{subject}/{row}", question, answer, subject, load_images, place, reasoning)

    return TrainingQuestions(len(index), example, "Zebra-CoT", target)
