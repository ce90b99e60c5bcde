"""Rows of Parquet files: any order gives the same rows, few are in memory, limits and shards are kept."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from amvl_model.data.readers.files import DataFolder, ParquetRows, check_unique, find_shards

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """150 rows in two files, the first with one large row group, the second with groups of 7."""
    table = pa.table({"number": list(range(150)), "text": [f"row {i}" for i in range(150)]})
    pq.write_table(table.slice(0, 100), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(100), tmp_path / "train-00001-of-00002.parquet", row_group_size=7)
    return DataFolder(str(tmp_path))


def rows(folder: DataFolder, limit: int | None = None) -> ParquetRows:
    return ParquetRows(folder, find_shards(folder, "", "train"), ["number"], limit)


def test_rows_are_the_same_in_every_order(folder: DataFolder) -> None:
    read = rows(folder)
    for order in (range(150), reversed(range(150)), np.random.default_rng(0).permutation(150).tolist()):
        assert all(read.row(i) == {"number": i, "text": f"row {i}"} for i in order)
    assert len(read._kept) <= 4
    with pytest.raises(IndexError):
        read.row(150)


def test_a_limit_cuts_rows_and_columns_alike(folder: DataFolder) -> None:
    for limit in (0, 5, 100, 103, 150, 999):
        read = rows(folder, limit)
        assert len(read) == min(limit, 150)
        assert [row["number"] for row in read.columns(["number"])] == list(range(min(limit, 150)))
    assert "row 2 of group 1 of" in rows(folder).place(109)


def test_a_copy_for_a_worker_process_reads_on_its_own(folder: DataFolder) -> None:
    read = rows(folder)
    read.row(40)
    copy = pickle.loads(pickle.dumps(read))
    assert copy.row(3)["number"] == 3
    assert read.row(41)["number"] == 41


def test_a_changed_row_is_not_remembered(folder: DataFolder) -> None:
    read = rows(folder)
    read.row(0)["number"] = -1
    assert read.row(0)["number"] == 0


def test_missing_shards_and_double_ids_are_named(folder: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found the splits train"):
        find_shards(folder, "", "val")
    (tmp_path / "train-00000-of-00002.parquet").rename(tmp_path / "train-00002-of-00002.parquet")
    with pytest.raises(FileNotFoundError, match="expected 2 shards"):
        find_shards(folder, "", "train")
    with pytest.raises(ValueError, match="here: expected unique ids, got 'a' in records 0 and 2"):
        check_unique(["a", "b", "a"], "here")
