"""The BLINK reader and writer: a lossless round trip, and errors that name the file, the record and the fix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amvl_model.data.readers.blink import BLINK_FIELDS, export_blink_parquet, load_blink
from amvl_model.data.schema import question_from_blink
from amvl_model.data.synthetic import TASKS, synthetic_blink

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def _records(tasks: tuple[str, ...] = TASKS, count: int = 2) -> list[dict[str, Any]]:
    return [synthetic_blink(task, "val", 3, i, label_noise=0.5) for i in range(count) for task in tasks]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export_blink_parquet(_records(("Counting", "Jigsaw"), 3), tmp_path / "blink")
    return tmp_path / "blink"


def _rewrite(folder: Path, task: str, **changes: Any) -> Path:
    """Replace columns of the first row of a task's file (None as a column name's value: null)."""
    path = folder / task / "val-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0].update(changes)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return path


def test_round_trip_keeps_pixels_texts_and_answers(tmp_path: Path) -> None:
    records = _records()
    files = export_blink_parquet(records, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        f"{task}/val-00000-of-00001.parquet" for task in TASKS
    ]
    loaded = load_blink(tmp_path)
    expected = {record["idx"]: question_from_blink(record) for record in records}
    assert len(loaded) == len(records)
    assert {question.id for question in loaded} == set(expected)
    for question in loaded:
        twin = expected[question.id]
        fields = ("prompt", "answer_text", "question", "choices", "answer", "task", "source", "answer_probs")
        assert [getattr(question, f) for f in fields] == [getattr(twin, f) for f in fields]
        assert len(question.images) == len(twin.images)
        for image, original in zip(question.images, twin.images, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(original))


def test_parquet_schema_is_that_of_blink_on_the_hub(folder: Path) -> None:
    schema = pq.read_schema(folder / "Counting" / "val-00000-of-00001.parquet")
    assert tuple(schema.names) == BLINK_FIELDS
    assert schema.field("image_1").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image_4"] == {"_type": "Image"}
    assert features["choices"]["feature"]["dtype"] == "string"


def test_tasks_limit_slices_and_negative_items(folder: Path) -> None:
    assert [q.task for q in load_blink(folder)] == ["Counting"] * 3 + ["Jigsaw"] * 3
    assert [q.task for q in load_blink(folder, tasks=["Jigsaw"], limit=2)] == ["Jigsaw"] * 2
    assert [q.id for q in load_blink(folder, limit=1)] == ["val_Counting_0", "val_Jigsaw_0"]
    assert len(load_blink(folder, limit=0)) == 0
    questions = load_blink(folder)
    assert questions[-1].id == "val_Jigsaw_2"
    assert [q.id for q in questions[1:3]] == ["val_Counting_1", "val_Counting_2"]
    with pytest.raises(IndexError):
        questions[6]


def test_several_shards_and_row_groups_are_read_in_order(tmp_path: Path) -> None:
    export_blink_parquet(_records(("Counting",), 5), tmp_path)
    whole = tmp_path / "Counting" / "val-00000-of-00001.parquet"
    table = pq.read_table(whole)
    pq.write_table(table.slice(0, 3), tmp_path / "Counting" / "val-00000-of-00002.parquet", row_group_size=2)
    pq.write_table(table.slice(3), tmp_path / "Counting" / "val-00001-of-00002.parquet")
    whole.unlink()
    assert [q.id for q in load_blink(tmp_path)] == [f"val_Counting_{i}" for i in range(5)]
    assert [q.id for q in load_blink(tmp_path, limit=4)] == [f"val_Counting_{i}" for i in range(4)]
    (tmp_path / "Counting" / "val-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="expected 2 shards of the split 'val', found 1"):
        load_blink(tmp_path)


def test_hidden_answers_of_the_test_split_become_none(tmp_path: Path) -> None:
    record = synthetic_blink("Counting", "test", 0, 0) | {"answer": "hidden"}
    export_blink_parquet([record], tmp_path, split="test")
    assert load_blink(tmp_path, split="test")[0].answer is None


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    for seed in (0, 1):
        record = synthetic_blink("Counting", "val", seed, 0)
        export_blink_parquet([record], tmp_path)
        image = load_blink(tmp_path)[0].images[0]
        assert np.array_equal(np.asarray(image), np.asarray(record["image_1"]))


def test_errors_of_the_folder_name_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which is neither"):
        load_blink(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="one sub-folder per task"):
        load_blink(folder / "Counting")
    with pytest.raises(ValueError, match="did you mean 'Counting'"):
        load_blink(folder, tasks=["counting"])
    with pytest.raises(ValueError, match="got the string 'Counting'"):
        load_blink(folder, tasks="Counting")
    with pytest.raises(FileNotFoundError, match="expected test-00000-of-00001.parquet, found the splits val"):
        load_blink(folder, split="test")
    with pytest.raises(ValueError, match="limit must be None or at least 0, got -1"):
        load_blink(folder, limit=-1)


@pytest.mark.parametrize("kept", [0, 3, 0.5])
def test_a_truncated_file_is_named(folder: Path, kept: float) -> None:
    path = folder / "Jigsaw" / "val-00000-of-00001.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"Jigsaw.val-00000-of-00001\.parquet: not a complete Parquet file"):
        load_blink(folder)


def test_damaged_pages_behind_a_sound_header_are_named(folder: Path) -> None:
    path = folder / "Jigsaw" / "val-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:1000] = bytes(996)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"Jigsaw.val-00000-of-00001\.parquet: cannot be read as Parquet"):
        load_blink(folder, tasks=["Jigsaw"])[0]


@pytest.mark.parametrize("data", [b"", b"no image", None, "half an image"])
def test_an_unreadable_image_names_its_record(folder: Path, data: bytes | str | None) -> None:
    if isinstance(data, str):
        whole = pq.read_table(folder / "Jigsaw" / "val-00000-of-00001.parquet").to_pylist()[0]["image_2"]["bytes"]
        data = whole[: len(whole) // 2]
    _rewrite(folder, "Jigsaw", image_2={"bytes": data, "path": "x.png"})
    questions = load_blink(folder, tasks=["Jigsaw"])
    with pytest.raises(ValueError, match="record 'val_Jigsaw_0' of .*image_2"):
        questions[0]
    assert questions[1].id == "val_Jigsaw_1"


def test_an_answer_outside_the_choices_names_its_record(folder: Path) -> None:
    _rewrite(folder, "Jigsaw", answer="(C)")
    with pytest.raises(ValueError, match="question 'val_Jigsaw_0': expected the answer to be one of"):
        load_blink(folder, tasks=["Jigsaw"])[0]


def test_missing_fields_are_named(folder: Path) -> None:
    path = _rewrite(folder, "Jigsaw", question=None)
    with pytest.raises(ValueError, match="record 'val_Jigsaw_0'.*expected a value in question, got null"):
        load_blink(folder, tasks=["Jigsaw"])[0]
    pq.write_table(pq.read_table(path).drop_columns(["choices", "answer"]), path)
    with pytest.raises(ValueError, match="missing choices, answer"):
        load_blink(folder, tasks=["Jigsaw"])


def test_export_refuses_records_of_another_schema(tmp_path: Path) -> None:
    record = synthetic_blink("Counting")
    del record["prompt"]
    with pytest.raises(ValueError, match=r"missing: \['prompt'\], unknown: \['hint'\]"):
        export_blink_parquet([record | {"hint": "none"}], tmp_path)


def test_the_hub_is_asked_for_the_needed_files_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot(identifier: str, **options: Any) -> str:
        calls.append((identifier, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert len(load_blink(tasks=["Jigsaw"])) == 3
    expected = {"repo_type": "dataset", "allow_patterns": ["Jigsaw/val-*.parquet"]}
    assert calls == [("BLINK-Benchmark/BLINK", expected)]


def test_an_unreachable_hub_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot(identifier: str, **options: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(
        ConnectionError, match="no route to host.*hf download BLINK-Benchmark/BLINK --repo-type dataset"
    ):
        load_blink()


def test_a_hidden_image_mode_is_converted_to_rgb(tmp_path: Path) -> None:
    record = synthetic_blink("Counting") | {"image_1": Image.new("L", (20, 10), 77)}
    export_blink_parquet([record], tmp_path)
    image = load_blink(tmp_path)[0].images[0]
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (20, 10), (77, 77, 77))


def test_importing_the_data_modules_is_cheap() -> None:
    code = (
        "import sys, amvl_model.data.readers.blink, amvl_model.data.synthetic\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'huggingface_hub', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
