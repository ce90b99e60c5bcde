"""BLINK from Parquet: a reader for the layout of BLINK on the hub, and a writer of the same layout.

    <folder>/<Task>/<split>-00000-of-00001.parquet      one folder per task, one row per question
    idx, question, sub_task, image_1..image_4 {bytes, path}, choices, answer, prompt, explanation

pyarrow and huggingface_hub are imported where they are needed, so importing this module is cheap.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from amvl_model.data.readers.files import ParquetRows, check_tasks, check_unique, data_folder, find_shards, image_cell
from amvl_model.data.readers.records import UnreadableImages
from amvl_model.data.schema import QuestionSet, VisualQuestion, answer_index, option_texts, question_from_blink

BLINK_ID: Final = "BLINK-Benchmark/BLINK"
IMAGE_FIELDS: Final = ("image_1", "image_2", "image_3", "image_4")
BLINK_FIELDS: Final = (
    "idx",
    "question",
    "sub_task",
    *IMAGE_FIELDS,
    "choices",
    "answer",
    "prompt",
    "explanation",
)
REQUIRED_FIELDS: Final = ("idx", "question", "sub_task", "image_1", "choices", "answer")
_ROWS_PER_GROUP: Final = 64


def _schema() -> Any:
    """The Arrow schema of BLINK, with the feature description that the datasets library keeps in its metadata."""
    import pyarrow as pa

    kinds: dict[str, Any] = dict.fromkeys(BLINK_FIELDS, pa.string())
    features: dict[str, Any] = {name: {"dtype": "string", "_type": "Value"} for name in BLINK_FIELDS}
    for name in IMAGE_FIELDS:
        kinds[name] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        features[name] = {"_type": "Image"}
    kinds["choices"] = pa.list_(pa.string())
    features["choices"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, kinds[name]) for name in BLINK_FIELDS], metadata=metadata)


def _encoded(image: Image.Image | None, name: str) -> dict[str, Any] | None:
    """An image as the datasets library stores it: PNG bytes and a file name."""
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its images encoded; raises a ValueError if its fields are not BLINK's."""
    missing = [name for name in BLINK_FIELDS if name not in record]
    unknown = [name for name in record if name not in BLINK_FIELDS]
    if missing or unknown:
        raise ValueError(
            f"record {record.get('idx')!r}: expected exactly the fields {', '.join(BLINK_FIELDS)}; "
            f"missing: {missing or 'none'}, unknown: {unknown or 'none'}; correct the record"
        )
    row = dict(record)
    for name in IMAGE_FIELDS:
        row[name] = _encoded(record[name], f"{record['idx']}_{name[-1]}.png")
    return row


def export_blink_parquet(records: Iterable[dict[str, Any]], folder: str | Path, split: str = "val") -> list[Path]:
    """Write records of BLINK's schema as Parquet files in the layout of BLINK on the hub.

    Args:
        records: records of any tasks, in any order; the order within a task is kept.
        folder: made if it does not exist; a file of the same task and split is replaced.
        split: first part of the file names.

    Returns:
        The files, one per task.

    Raises:
        ValueError: if a record has other fields than BLINK's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        row = _row(record)
        rows[row["sub_task"]].append(row)
    schema = _schema()
    files = []
    for task, content in rows.items():
        path = Path(folder) / task / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(content, schema=schema), path, row_group_size=_ROWS_PER_GROUP, write_page_checksum=True
        )
        files.append(path)
    return files


class BlinkQuestions(QuestionSet):
    """The questions of some Parquet files, read and decoded on access.

    Raises:
        ValueError: on construction for an id that occurs twice; on access, if a file, a record or an image is invalid
            (the message names it).
    """

    def __init__(self, parts: Sequence[ParquetRows], source: str = "BLINK") -> None:
        self._parts, self._source = tuple(parts), source
        self._index = [(part, row) for part in self._parts for row in range(len(part))]
        for part in self._parts:
            check_unique([str(row["idx"]) for row in part.columns(["idx"])], part.file(0) if len(part) else "")

    def __len__(self) -> int:
        return len(self._index)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        rows, row = self._index[index]
        record = rows.row(row)
        _refuse_empty(record, rows.place(row))
        try:
            for name in IMAGE_FIELDS:
                record[name] = image_cell(record.get(name), f"record {record['idx']!r} of {rows.file(row)}: {name}")
        except ValueError as error:
            raise UnreadableImages(str(error), question_from_blink(record | _BLANK, source=self._source)) from error
        return question_from_blink(record, source=self._source)

    def check(self) -> None:
        """Read all texts and answers, no image.

        Raises:
            ValueError: for the first record with wrong fields, as on access.
        """
        names = [name for name in REQUIRED_FIELDS if name != "image_1"]
        for part in self._parts:
            for row, record in enumerate(part.columns(names)):
                _refuse_empty(record, part.place(row))
                question_from_blink(record | _BLANK)


_BLANK: Final = {**dict.fromkeys(IMAGE_FIELDS), "image_1": Image.new("RGB", (1, 1))}
"""Images in place of those that are not read."""


def _refuse_empty(record: dict[str, Any], place: str) -> None:
    empty = [name for name in REQUIRED_FIELDS if name != "image_1" and record[name] is None]
    if empty:
        raise ValueError(
            f"record {record['idx']!r} ({place}): expected a value in {', '.join(empty)}, got null; correct the file"
        )


def blink_answers(questions: BlinkQuestions) -> dict[str, tuple[str, tuple[str, ...], int | None]]:
    """Task, option texts and index of the right one (None if hidden) by question id, without reading an image."""
    result = {}
    for part in questions._parts:
        for row in part.columns(["idx", "sub_task", "choices", "answer"]):
            identifier = str(row["idx"])
            choices = option_texts(row["choices"], f"record {identifier!r}: choices")
            hidden = str(row["answer"]).strip().lower() in {"hidden", ""}
            answer = None if hidden else answer_index(str(row["answer"]), choices, identifier)
            result[identifier] = (str(row["sub_task"]), choices, answer)
    return result


def load_blink(
    path_or_id: str | Path = BLINK_ID,
    split: str = "val",
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    stream: bool = False,
) -> BlinkQuestions:
    """BLINK's questions, from a local folder of Parquet files or from the hub.

    Args:
        path_or_id: a folder with one sub-folder per task; if there is no such folder, a data set on the hub.
        split: "val" has answers; BLINK's "test" has none.
        tasks: names of tasks, in the order wanted; all tasks, sorted by name, if None.
        limit: at most so many questions of each task, the first ones.
        stream: read from the hub while it is used, instead of downloading first.

    Raises:
        FileNotFoundError: if there is no such folder, or no Parquet file of this split, or a shard is missing.
        ConnectionError: if the hub is needed and cannot be reached; the message says what to download.
        ValueError: for an unknown task, a negative limit, an unreadable Parquet file or missing fields.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be None or at least 0, got {limit}; leave it out for all questions")
    if isinstance(tasks, str):
        raise ValueError(f"tasks must be a sequence of names, got the string {tasks!r}; pass ({tasks!r},)")
    patterns = [f"{task}/{split}-*.parquet" for task in (["*"] if tasks is None else tasks)]
    layout = f"<Task>/{split}-00000-of-00001.parquet"
    folder = data_folder(path_or_id, hub_id=BLINK_ID, patterns=patterns, layout=layout, stream=stream)
    available = sorted({name.rpartition("/")[0] for name in folder.names("*/*.parquet")})
    if not available:
        raise FileNotFoundError(
            f"{folder}: expected one sub-folder per task, each with Parquet files, found none; "
            "pass the folder that holds Counting/, Jigsaw/ and so on"
        )
    check_tasks(tasks, available, str(folder))
    parts: list[ParquetRows] = []
    for task in available if tasks is None else tasks:
        parts.append(ParquetRows(folder, find_shards(folder, task, split), REQUIRED_FIELDS, limit, "load_blink"))
    return BlinkQuestions(parts)
