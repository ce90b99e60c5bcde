"""BLINK from Parquet: a reader for the layout of BLINK on the hub, and a writer of the same layout.

    <folder>/<Task>/<split>-00000-of-00001.parquet      one folder per task, one row per question
    idx, question, sub_task, image_1..image_4 {bytes, path}, choices, answer, prompt, explanation

pyarrow and huggingface_hub are imported where they are needed, so importing this module is cheap.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, overload

from PIL import Image

from amvl_model.data.schema import VisualQuestion, question_from_blink

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
_SHARD: Final = re.compile(r"^(?P<split>.+)-(?P<shard>\d{5})-of-(?P<total>\d{5})\.parquet$")
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
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
    """A picture as the datasets library stores it: PNG bytes and a file name."""
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its pictures encoded; raises a ValueError if its fields are not BLINK's."""
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
        pq.write_table(pa.Table.from_pylist(content, schema=schema), path, row_group_size=_ROWS_PER_GROUP)
        files.append(path)
    return files


@dataclass(frozen=True)
class _RowGroup:
    """A run of rows of one Parquet file, and the number of its questions that are used."""

    path: Path
    number: int
    rows: int


@lru_cache(maxsize=4)
def _read_group(path: Path, number: int, stamp: tuple[int, int]) -> list[dict[str, Any]]:
    """The rows of one row group; ``stamp`` (size, time) keeps a replaced file from being served from the cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.ParquetFile(path).read_row_group(number).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); download or export the file again") from error
    return rows


def _decoded(cell: Any, name: str, identifier: str, path: Path) -> Image.Image | None:
    """The picture of one image cell, fully loaded."""
    if cell is None:
        return None
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if data is None:
        raise ValueError(
            f"record {identifier!r} of {path}: expected {name} to hold the bytes of a picture, got none; "
            "export the data set with embedded pictures"
        )
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for some broken PNG files
        raise ValueError(
            f"record {identifier!r} of {path}: {name} is not a readable picture ({error}); download the file again"
        ) from error
    return image


class BlinkQuestions(Sequence[VisualQuestion]):
    """The questions of some Parquet files, read and decoded when they are asked for.

    Only file headers are read on construction; the last few row groups are kept in memory.

    Raises:
        ValueError: on access, if a file, a record or a picture is invalid (the message names it).
    """

    def __init__(self, groups: Sequence[_RowGroup], source: str = "BLINK") -> None:
        self._groups = tuple(groups)
        self._source = source
        self._index = [(group, row) for group in self._groups for row in range(group.rows)]

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item``, or the list of a slice."""
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        group, row = self._index[item]
        stat = group.path.stat()
        record = dict(_read_group(group.path, group.number, (stat.st_size, stat.st_mtime_ns))[row])
        empty = [name for name in REQUIRED_FIELDS if name != "image_1" and record[name] is None]
        if empty:
            raise ValueError(
                f"record {record['idx']!r} (row {row} of group {group.number}) of {group.path}: "
                f"expected a value in {', '.join(empty)}, got null; correct the file"
            )
        for name in IMAGE_FIELDS:
            record[name] = _decoded(record.get(name), name, str(record["idx"]), group.path)
        return question_from_blink(record, source=self._source)


def _header(path: Path, limit: int | None) -> list[_RowGroup]:
    """The row groups of one file, ``limit`` rows at most, after a check of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a complete Parquet file ({error}); it may be truncated: download or export it again"
        ) from error
    missing = [name for name in REQUIRED_FIELDS if name not in names]
    if missing:
        raise ValueError(
            f"{path}: expected the fields {', '.join(REQUIRED_FIELDS)}, missing {', '.join(missing)} "
            f"(found {', '.join(names)}); point load_blink at files in BLINK's layout"
        )
    groups = []
    for number, rows in enumerate(sizes):
        used = rows if limit is None else min(rows, limit)
        limit = None if limit is None else limit - used
        groups.append(_RowGroup(path, number, used))
    return groups


def _shards(folder: Path, split: str) -> list[Path]:
    """The Parquet files of one task and split, in order; raises if there is none, or if a shard is missing."""
    matches = [match for path in folder.glob("*.parquet") if (match := _SHARD.match(path.name))]
    found = sorted(match.group() for match in matches if match["split"] == split)
    if not found:
        splits = sorted({match["split"] for match in matches})
        raise FileNotFoundError(
            f"{folder}: expected {split}-00000-of-00001.parquet, found "
            f"{'the splits ' + ', '.join(splits) if splits else 'no Parquet file'}; "
            f"ask for one of these splits or add the files of {split!r}"
        )
    total = max(int(match["total"]) for match in matches if match["split"] == split)
    if len(found) != total:
        raise FileNotFoundError(
            f"{folder}: expected {total} shards of the split {split!r}, found {len(found)} ({', '.join(found)}); "
            "download the missing ones"
        )
    return [folder / name for name in found]


def _download(identifier: str, split: str, tasks: Sequence[str] | None) -> Path:
    """The hub's snapshot of the data set, only the Parquet files that are needed."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{task}/{split}-*.parquet" for task in (["*"] if tasks is None else tasks)]
    try:
        return Path(huggingface_hub.snapshot_download(identifier, repo_type="dataset", allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConnectionError(
            f"{identifier!r} is not a local folder, and the Hugging Face hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); on a machine with a network run "
            f"`hf download {identifier} --repo-type dataset --local-dir blink`, copy the folder here "
            f"(it holds <Task>/{split}-00000-of-00001.parquet) and pass its path to load_blink"
        ) from error


def load_blink(
    path_or_id: str | Path = BLINK_ID,
    split: str = "val",
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
) -> BlinkQuestions:
    """BLINK's questions, from a local folder of Parquet files or from the hub.

    Args:
        path_or_id: a folder with one sub-folder per task; if there is no such folder, a data set on the hub.
        split: "val" has answers; BLINK's "test" has none.
        tasks: names of tasks, in the order wanted; all tasks, sorted by name, if None.
        limit: at most so many questions of each task, the first ones.

    Raises:
        FileNotFoundError: if there is no such folder, or no Parquet file of this split, or a shard is missing.
        ConnectionError: if the hub has to be asked and cannot be reached; the message says what to download.
        ValueError: for an unknown task, a negative limit, an unreadable Parquet file or missing fields.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be None or at least 0, got {limit}; leave it out for all questions")
    if isinstance(tasks, str):
        raise ValueError(f"tasks must be a sequence of names, got the string {tasks!r}; pass ({tasks!r},)")
    folder = Path(path_or_id)
    if not folder.is_dir():
        if isinstance(path_or_id, Path) or folder.exists() or not _HUB_ID.match(path_or_id):
            raise FileNotFoundError(
                f"expected a folder of BLINK's Parquet files or a data set id such as {BLINK_ID!r}, got "
                f"{str(path_or_id)!r}, which is neither; correct the path"
            )
        folder = _download(path_or_id, split, tasks)
    available = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.parquet")))
    if not available:
        raise FileNotFoundError(
            f"{folder}: expected one sub-folder per task, each with Parquet files, found none; "
            "pass the folder that holds Counting/, Jigsaw/ and so on"
        )
    groups: list[_RowGroup] = []
    for task in available if tasks is None else tasks:
        if task not in available:
            near = difflib.get_close_matches(task, available, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"task must be one of {', '.join(available)} in {folder}, got {task!r}; did you mean {near!r}?"
            )
        left = limit
        for path in _shards(folder / task, split):
            part = _header(path, left)
            left = None if left is None else left - sum(group.rows for group in part)
            groups.extend(part)
    return BlinkQuestions(groups)
