"""Rows of Parquet files, read a few at a time when they are asked for.

A row group of pictures may hold gigabytes (HRBench keeps hundreds of 8K pictures in one), so rows are read in small
batches, forwards. Rows in order cost one pass; a row before the last one read starts its row group again: to visit a large
set in random order, convert it first (`amvl_model.data.question_files.write_questions`).
"""

from __future__ import annotations

import bisect
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from PIL import Image

from amvl_model.data.files import DataFolder, decode_picture

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
    found = [match.group() for match in chosen]
    if not found:
        splits = sorted({match["split"] for match in matches})
        raise FileNotFoundError(
            f"{folder.place(directory)}: expected {split}-00000-of-00001.parquet, found "
            f"{'the splits ' + ', '.join(splits) if splits else 'no Parquet file'}; "
            f"ask for one of these splits or add the files of {split!r}"
        )
    total = max(int(match["total"]) for match in chosen)
    if [int(match["shard"]) for match in chosen] != list(range(total)):
        raise FileNotFoundError(
            f"{folder.place(directory)}: expected {total} shards of the split {split!r}, found {len(found)} "
            f"({', '.join(found)}); download the missing ones"
        )
    return [str(PurePosixPath(directory) / name) for name in found]


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
        """Some columns of all rows, small ones ("image.path" reads a picture's path and not its bytes).

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


def picture_cell(cell: Any, place: str) -> Image.Image | None:
    """The picture of one image cell, a structure {bytes, path} as the datasets library writes it; None for null.

    Raises:
        ValueError: if the cell holds no readable picture.
    """
    if cell is None:
        return None
    return decode_picture(cell.get("bytes") if isinstance(cell, dict) else cell, place)


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
