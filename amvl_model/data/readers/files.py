"""Where the files of a data set lie, on disk or on the Hugging Face hub.

    data_folder("blink", hub_id=...)                 a local folder, read where it lies
    data_folder(None, hub_id=..., patterns=...)      the hub's snapshot in the local cache, only the files that match
    data_folder(None, hub_id=..., stream=True)       the hub itself: ranges of files are fetched when they are read

huggingface_hub and pyarrow are imported where they are needed, so importing this module is cheap.


Rows of Parquet files, read a few at a time when they are asked for.

A row group of images may hold gigabytes (HRBench keeps hundreds of 8K images in one), so rows are read in small
batches, forwards. Rows in order cost one pass; a row before the last one read starts its row group again: to visit a large
set in random order, convert it first (`amvl_model.data.readers.question_files.write_questions`).
"""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image

from amvl_model.data.images import MAX_PIXELS as MAX_PIXELS  # what earlier versions had here
from amvl_model.data.images import decode_base64 as decode_base64
from amvl_model.data.images import decode_image as decode_image
from amvl_model.data.images import read_image as read_image
from amvl_model.data.images import to_rgb as to_rgb
from amvl_model.data.readers.records import check_size, unique_keys

_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_BUFFER: Final = 1 << 20


def read_json_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list (.json) or of JSON lines (.jsonl).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid JSON (the line is named), or not a list of objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, found none; download it or correct the path")
    check_size(path)
    try:
        if path.suffix == ".jsonl":
            records = list(_json_lines(path))
        else:
            records = _parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); it may be truncated: download it again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path}: expected a list of JSON objects; check that this is the right file")
    return records


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # a number of more than 4,300 digits is a ValueError too
        raise ValueError(f"{place}: not valid JSON ({error}); it may be truncated: download it again") from error


@dataclass(frozen=True)
class DataFolder:
    """A folder of data files.

    Attributes:
        root: the local folder, or ``datasets/<owner>/<name>`` on the hub.
        on_hub: files are read from the hub in ranges, not from disk.
    """

    root: str
    on_hub: bool = False

    def __str__(self) -> str:
        return f"hf://{self.root}" if self.on_hub else self.root

    def path(self, name: str) -> Path:
        """Local path of a file.

        Raises:
            ValueError: for a streamed folder, whose files have no path.
        """
        if self.on_hub:
            raise ValueError(f"{self}/{name}: a streamed file has no path; load the data set without stream=True")
        return Path(self.root) / name

    def place(self, name: str) -> str:
        """How messages name a file."""
        return f"{self}/{name}" if self.on_hub else str(Path(self.root) / name)

    def names(self, *patterns: str) -> list[str]:
        """Names relative to the folder, sorted, of the files that match one of the patterns (all if there is none)."""
        if self.on_hub:
            import huggingface_hub

            result = [name.removeprefix(self.root + "/") for name in huggingface_hub.HfFileSystem().find(self.root)]
        else:
            root = Path(self.root)
            result = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return sorted(n for n in result if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns))

    def parquet(self, name: str) -> Any:
        """The file as a pyarrow.parquet.ParquetFile, which reads only what it is asked for."""
        import pyarrow.parquet as pq

        if not self.on_hub:
            return pq.ParquetFile(self.path(name), memory_map=True, page_checksum_verification=True)
        import huggingface_hub

        handle = huggingface_hub.HfFileSystem().open(f"{self.root}/{name}", "rb")
        return pq.ParquetFile(handle, buffer_size=_BUFFER, page_checksum_verification=True)

    def read_text(self, name: str) -> str:
        """The whole file as text.

        Raises:
            ValueError: if it is not UTF-8, or a local file larger than `MAX_RECORDS_FILE`.
        """
        if not self.on_hub and self.path(name).is_file():
            check_size(self.path(name))
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.place(name)}: not a text in UTF-8 ({error}); download the file again") from error

    def read_bytes(self, name: str) -> bytes:
        """The whole file."""
        if not self.on_hub:
            return self.path(name).read_bytes()
        import huggingface_hub

        with huggingface_hub.HfFileSystem().open(f"{self.root}/{name}", "rb") as handle:
            content: bytes = handle.read()
        return content


def data_folder(
    path_or_id: str | Path | None, *, hub_id: str, patterns: Sequence[str], layout: str, stream: bool = False
) -> DataFolder:
    """The folder of a data set: local if there is such a folder, else the hub's.

    Args:
        path_or_id: a local folder or a data set on the hub; ``hub_id`` if None.
        hub_id: the data set's own name on the hub, for messages and as default.
        patterns: the files that are needed, for example ``Counting/val-*.parquet``.
        layout: what a local folder holds, for messages.
        stream: read from the hub in ranges instead of downloading whole files (ignored for a local folder).

    Raises:
        FileNotFoundError: if ``path_or_id`` is neither a folder nor the name of a data set.
        ConnectionError: if the hub is needed and does not answer; the message says what to download.
    """
    wanted = hub_id if path_or_id is None else path_or_id
    if Path(wanted).is_dir():
        return DataFolder(str(wanted))
    if isinstance(wanted, Path) or Path(wanted).exists() or not _HUB_ID.match(wanted):
        raise FileNotFoundError(
            f"expected a folder that holds {layout}, or a data set id such as {hub_id!r}, got {str(wanted)!r}, "
            "which is neither; correct the path"
        )
    return _from_hub(wanted, patterns, layout, stream=stream)


def _from_hub(identifier: str, patterns: Sequence[str], layout: str, *, stream: bool) -> DataFolder:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        if not stream:
            return DataFolder(
                huggingface_hub.snapshot_download(identifier, repo_type="dataset", allow_patterns=list(patterns))
            )
        root = f"datasets/{identifier}"
        huggingface_hub.HfFileSystem().ls(root, detail=False)
        return DataFolder(root, on_hub=True)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        files = " ".join(f"--include '{pattern}'" for pattern in patterns)
        name = PurePosixPath(identifier).name.lower()
        raise ConnectionError(
            f"{identifier!r} was not found locally or on the Hub ({type(error).__name__}: "
            f"{reason}); on a machine with a network run "
            f"`hf download {identifier} --repo-type dataset --local-dir {name} {files}`, copy the folder here "
            f"(it holds {layout}) and pass its path"
        ) from error


_SHARD: Final = re.compile(r"^(?P<split>.+)-(?P<shard>\d{5})-of-(?P<total>\d{5})\.parquet$")
_BATCH: Final = 16
_KEPT_BATCHES: Final = 4


def find_shards(folder: DataFolder, directory: str, split: str) -> list[str]:
    """Names of the Parquet files ``<directory>/<split>-<shard>-of-<total>.parquet``, in order.

    Raises:
        FileNotFoundError: if there is none, or if a shard is missing.
    """
    files = [n for n in folder.names("*.parquet") if PurePosixPath(n).parent == PurePosixPath(directory or ".")]
    matches = [match for name in files if (match := _SHARD.match(PurePosixPath(name).name))]
    chosen = sorted((match for match in matches if match["split"] == split), key=lambda match: match["shard"])
    result = [match.group() for match in chosen]
    if not result:
        splits = sorted({match["split"] for match in matches})
        raise FileNotFoundError(
            f"{folder.place(directory)}: expected {split}-00000-of-00001.parquet, found "
            f"{'the splits ' + ', '.join(splits) if splits else 'no Parquet file'}; "
            f"ask for one of these splits or add the files of {split!r}"
        )
    total = max(int(match["total"]) for match in chosen)
    if [int(match["shard"]) for match in chosen] != list(range(total)):
        raise FileNotFoundError(
            f"{folder.place(directory)}: expected {total} shards of the split {split!r}, found {len(result)} "
            f"({', '.join(result)}); download the missing ones"
        )
    return [str(PurePosixPath(directory) / name) for name in result]


@dataclass(frozen=True)
class _Group:
    """A row group: its file, its number in the file, the rows of it that are used, and the index of the first one."""

    name: str
    number: int
    rows: int
    start: int


class ParquetRows:
    """The rows of some Parquet files as dictionaries. Only file headers are read on construction.

    Args:
        folder: where the files are.
        names: the files, in order.
        required: columns that must be there.
        limit: at most so many rows, the first ones.
        reader: who reads, for messages.

    Raises:
        ValueError: for a file that is no complete Parquet file or lacks a column.
    """

    def __init__(
        self,
        folder: DataFolder,
        names: Sequence[str],
        required: Sequence[str],
        limit: int | None = None,
        reader: str = "",
    ) -> None:
        self.folder, self.required = folder, tuple(required)
        self.column_names: list[str] = []
        groups: list[_Group] = []
        start = 0
        for name in names:
            for number, size in enumerate(self._header(name, reader)):
                used = size if limit is None else min(size, limit - start)
                groups.append(_Group(name, number, used, start))
                start += used
        self._groups = groups
        self._starts = [group.start for group in groups]
        self._size = start
        self._kept: OrderedDict[tuple[int, int], list[dict[str, Any]]] = OrderedDict()
        self._cursor: tuple[int, int, Iterator[Any]] | None = None

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_cursor": None}  # worker processes open files of their own

    def _header(self, name: str, reader: str) -> list[int]:
        """Sizes of the row groups of one file, after a check of its columns."""
        import pyarrow as pa

        try:
            with self.folder.parquet(name) as file:
                columns = file.schema_arrow.names
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self.folder.place(name)}: not a complete Parquet file ({error}); it may be truncated: "
                "download or export it again"
            ) from error
        missing = [column for column in self.required if column not in columns]
        if missing:
            raise ValueError(
                f"{self.folder.place(name)}: expected the fields {', '.join(self.required)}, missing "
                f"{', '.join(missing)} (found {', '.join(columns)}); point {reader or 'the reader'} at files of its layout"
            )
        self.column_names += [column for column in columns if column not in self.column_names]
        return sizes

    def _group_of(self, index: int) -> int:
        if not 0 <= index < self._size:
            raise IndexError(f"row {index} of {self._size}")
        return bisect.bisect_right(self._starts, index) - 1

    def place(self, index: int) -> str:
        """File and row, for messages."""
        group = self._groups[self._group_of(index)]
        return f"row {index - group.start} of group {group.number} of {self.folder.place(group.name)}"

    def file(self, index: int) -> str:
        """The file of a row, for messages."""
        return self.folder.place(self._groups[self._group_of(index)].name)

    def row(self, index: int) -> dict[str, Any]:
        """Row ``index``, all of its columns.

        Raises:
            ValueError: if the file cannot be read there.
        """
        number = self._group_of(index)
        batch, place = divmod(index - self._groups[number].start, _BATCH)
        return dict(self._batch(number, batch)[place])

    def _batch(self, group: int, wanted: int) -> list[dict[str, Any]]:
        import pyarrow as pa

        if (group, wanted) in self._kept:
            self._kept.move_to_end((group, wanted))
            return self._kept[group, wanted]
        name = self._groups[group].name
        try:
            if self._cursor is None or self._cursor[0] != group or self._cursor[1] > wanted:
                file = self.folder.parquet(name)
                batches = file.iter_batches(batch_size=_BATCH, row_groups=[self._groups[group].number])
                self._cursor = (group, 0, batches)
            _, following, batches = self._cursor
            for number in range(following, wanted + 1):
                content = next(batches)
                self._cursor = (group, number + 1, batches)
            rows: list[dict[str, Any]] = content.to_pylist()
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._cursor = None
            raise ValueError(
                f"{self.folder.place(name)}: cannot be read as Parquet ({error}); download or export the file again"
            ) from error
        self._kept[group, wanted] = rows
        while len(self._kept) > _KEPT_BATCHES:
            self._kept.popitem(last=False)
        return rows

    def columns(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of all rows, small ones ("image.path" reads an image's path and not its bytes).

        Raises:
            ValueError: if a file cannot be read.
        """
        import pyarrow as pa

        rows: list[dict[str, Any]] = []
        for group in self._groups:
            try:
                with self.folder.parquet(group.name) as file:
                    rows += file.read_row_group(group.number, columns=list(names)).slice(0, group.rows).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise ValueError(
                    f"{self.folder.place(group.name)}: cannot be read as Parquet ({error}); "
                    "download or export the file again"
                ) from error
        return rows


def image_cell(cell: Any, place: str) -> Image.Image | None:
    """The image of one image cell, a structure {bytes, path} as the datasets library writes it; None for null.

    Raises:
        ValueError: if the cell holds no readable image.
    """
    if cell is None:
        return None
    return decode_image(cell.get("bytes") if isinstance(cell, dict) else cell, place)


def check_unique(identifiers: Sequence[str], place: str) -> None:
    """Raises a ValueError that names the first identifier that occurs twice."""
    seen: dict[str, int] = {}
    for index, identifier in enumerate(identifiers):
        if identifier in seen:
            raise ValueError(
                f"{place}: expected unique ids, got {identifier!r} in records {seen[identifier]} and {index} "
                "(counted from 0); remove or rename one"
            )
        seen[identifier] = index


def check_tasks(tasks: Sequence[str] | None, available: Iterable[str], place: str) -> None:
    """Raises a ValueError for a task that the data set does not have, and for no task at all."""
    if isinstance(tasks, str):
        raise ValueError(f"tasks must be a sequence of names, got the string {tasks!r}; pass ({tasks!r},)")
    if tasks is not None and not tasks:
        raise ValueError(f"{place}: expected names of tasks, or None for all, got an empty sequence")
    names = sorted(set(available))
    for task in tasks or ():
        if task not in names:
            near = difflib.get_close_matches(task, names, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"task must be one of {', '.join(names) or 'none'} in {place}, got {task!r}{hint}")
