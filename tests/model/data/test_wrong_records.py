"""Records with wrong fields are skipped and counted, up to a limit; sizes of files and lines have limits too."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amvl_model.data.images import read_image
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers import records
from amvl_model.data.readers.benchmarks import load_visual_puzzles
from amvl_model.data.readers.files import read_json_records
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.readers.training_sets import load_cogcom, load_refocus, load_visual_cot
from amvl_model.data.schema import text_of
from tests import miniatures


def change_rows(file: Path, changes: dict[int, dict[str, Any]]) -> None:
    table = pq.read_table(file)
    rows = table.to_pylist()
    for number, fields in changes.items():
        rows[number] |= fields
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


@pytest.mark.parametrize(
    "fields",
    [{"answer": "Z"}, {"question": None}, {"options": ["a", None, "b", "c"]}, {"answer": None}, {"category": None}],
)
def test_one_wrong_record_of_visual_puzzles_is_skipped_and_named(
    tmp_path: Path, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    file = next(miniatures.visual_puzzles(tmp_path).rglob("*.parquet"))
    whole = [question.id for question in load_visual_puzzles(tmp_path)]
    change_rows(file, {1: {"options": ["a", "b", "c", "d"]} | fields})
    with caplog.at_level(logging.WARNING):
        result = [question.id for question in load_visual_puzzles(tmp_path)]
    assert result == whole[:1] + whole[2:]
    assert len([message for message in caplog.messages if message.startswith("skipped a record")]) == 1
    change_rows(file, {2: {"answer": "Z"}})
    with pytest.raises(ValueError, match="2 of 5 records have wrong fields, expected at most 1"):
        load_visual_puzzles(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", None),
        ("dataset", ["gqa"]),
        ("image", 3),
        ("image", {}),
        ("conversations", "text"),
        ("conversations", [1]),
    ],
)
def test_a_wrong_record_of_visual_cot_is_skipped_and_counted(tmp_path: Path, field: str, value: Any) -> None:
    file = miniatures.visual_cot(tmp_path) / "viscot_363k.json"
    lines = json.loads(file.read_text())
    lines[0][field] = value
    file.write_text(json.dumps(lines))
    questions = load_visual_cot(tmp_path)
    assert len(questions) == len(lines)
    with pytest.raises(ValueError, match="record 0 of .*viscot_363k.json"):
        questions[0]
    mixed = MixedQuestions({"visual-cot": questions})
    assert all(mixed[i].id != "viscot/0" for i in range(len(mixed)))
    assert [skipped.index for skipped in mixed.skipped] == [0]


@pytest.mark.parametrize("turns", [[None], ["text"], [[1]], "text", [{"images": {"a": 1}}], [{"images": [3]}]])
def test_wrong_turns_of_refocus_are_refused_with_the_record(tmp_path: Path, turns: Any) -> None:
    file = miniatures.refocus(tmp_path) / "chartqa_vcot/train.jsonl"
    record = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**record, "conversations": turns}) + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match="record 'train-0' of .*train.jsonl"):
        load_refocus(tmp_path)[0]


def test_wrong_metadata_of_cogcom_is_refused_with_the_file(tmp_path: Path) -> None:
    file = miniatures.cogcom(tmp_path, "jsonl") / "com.jsonl"
    file.write_text(json.dumps({"image_path": "a.png", "metadata": [3]}) + "\n")
    with pytest.raises(ValueError, match=r"com\.jsonl: metadata: expected a list of objects"):
        load_cogcom(tmp_path)


def test_files_and_lines_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"images": ["a.png"], "question": "x" * 300}) + "\n")
    monkeypatch.setattr("amvl_model.data.readers.question_files.MAX_LINE", 200)
    with pytest.raises(ValueError, match="line 1 has 338 bytes, expected at most 200"):
        QuestionFile(tmp_path / "a.jsonl")[0]
    monkeypatch.setattr(records.check_size, "__defaults__", (100,))
    for read in (QuestionFile, read_json_records):
        with pytest.raises(ValueError, match="has 338 bytes, expected at most 100; split the file"):
            read(tmp_path / "a.jsonl")  # type: ignore[operator]


def test_texts_and_images_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amvl_model.data.schema.MAX_TEXT", 10)
    with pytest.raises(ValueError, match="a question has 11 characters, expected at most 10"):
        text_of("x" * 11, "a question")
    assert text_of("x" * 10, "a question") == "x" * 10
    miniatures.random_image(1).save(tmp_path / "a.png")
    monkeypatch.setattr("amvl_model.data.images.MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"a\.png has .* bytes, expected at most 10; shrink"):
        read_image(tmp_path / "a.png", "record 1")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_number_that_python_refuses_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("9" * 5000)
    with pytest.raises(ValueError, match=rf"{name}.*: not valid JSON"):
        read_json_records(tmp_path / name)


def test_deep_nesting_is_not_valid_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json_records(tmp_path / "a.json")
