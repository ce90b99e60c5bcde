"""Readers of V*, HRBench and VisualPuzzles on miniatures in the real file formats."""

from __future__ import annotations

import json
import logging
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amvl_model.data.images import MAX_PIXELS, decode_base64, decode_image, to_rgb
from amvl_model.data.readers.benchmarks import IN_IMAGE, load_hrbench, load_visual_puzzles, load_vstar
from amvl_model.data.readers.blink import BLINK_ID, export_blink_parquet, load_blink
from amvl_model.data.readers.files import DataFolder
from amvl_model.data.schema import format_prompt
from amvl_model.data.synthetic import synthetic_blink
from tests import miniatures

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_vstar_reads_options_out_of_the_text(tmp_path: Path) -> None:
    questions = load_vstar(miniatures.vstar(tmp_path))
    assert [q.id for q in questions] == [
        "direct_attributes/0",
        "direct_attributes/1",
        "relative_position/0",
        "relative_position/1",
    ]
    first = questions[0]
    assert first.question == "What is the glove made of?"
    assert first.choices == ("rubber", "cotton", "kevlar (fibre)", "leather")
    assert (first.answer, first.answer_text, first.task, first.source) == (2, "(C)", "direct_attributes", "V*")
    assert first.prompt.endswith(f"(D) leather\n{miniatures.VSTAR_ENDING}")
    assert (first.images[0].size, first.images[0].mode) == ((24, 16), "RGB")
    assert len(questions[3].choices) == 2
    plain = load_vstar(tmp_path, prompt="blink")[0]
    assert plain.prompt == format_prompt(plain.question, plain.choices)


def test_tasks_and_limit_choose_questions(tmp_path: Path) -> None:
    miniatures.vstar(tmp_path)
    assert [q.id for q in load_vstar(tmp_path, limit=1)] == ["direct_attributes/0", "relative_position/0"]
    assert [q.task for q in load_vstar(tmp_path, tasks=["relative_position"])] == ["relative_position"] * 2
    with pytest.raises(
        ValueError, match="task must be one of direct_attributes, relative_position in .*, got 'colour'"
    ):
        load_vstar(tmp_path, tasks=["colour"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "C", "text": "Where?\n(A) left\n(B) right"}, "expected the answer to be one of"),
        ({"text": "Where is it?"}, "expected options"),
        ({"text": "Where?\n(A) left\n(C) right"}, "in order"),
        ({"label": None}, "line 1: expected a value in label"),
        ({"image": "../secret.png"}, "line 1: expected a path inside .*, which leads out of it"),
        ({"image": "/etc/passwd"}, "line 1: expected a path inside"),
        ({"image": ["a.jpg"]}, "line 1: image: expected a text"),
        ({"question_id": [1]}, "line 1: question_id: expected a text"),
        ({"category": {}}, "line 1: category: expected a text"),
    ],
)
def test_a_bad_record_of_vstar_is_skipped_and_named_and_two_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = miniatures.vstar(tmp_path) / "test_questions.jsonl"
    lines, whole = file.read_text().splitlines(), [question.id for question in load_vstar(tmp_path)]
    bad = [json.dumps(json.loads(line) | change) for line in lines[:2]]
    file.write_text("\n".join([bad[0], *lines[1:]]))
    with caplog.at_level(logging.WARNING):
        assert [question.id for question in load_vstar(tmp_path)] == whole[1:]
    (skipped,) = (text for text in caplog.messages if text.startswith("skipped a record"))
    assert re.search(message, skipped) and f"{file}, line 1" in skipped
    file.write_text("\n".join([*bad, *lines[2:]]))
    with pytest.raises(ValueError, match="2 of 4 records have wrong fields, expected at most 1"):
        load_vstar(tmp_path)


def test_a_line_of_vstar_ends_where_json_lines_end(tmp_path: Path) -> None:
    file = miniatures.vstar(tmp_path) / "test_questions.jsonl"
    first, *others = (json.loads(line) for line in file.read_text().splitlines())
    first["text"] = "One\u2028" + first["text"]
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in (first, *others)))
    questions = load_vstar(tmp_path)
    assert len(questions) == 4 and questions[0].question.startswith("One\u2028")


def test_missing_files_of_vstar_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match="test_questions.jsonl: no such file"):
        load_vstar(tmp_path)
    miniatures.vstar(tmp_path)
    shutil.rmtree(tmp_path / "relative_position")
    questions = load_vstar(tmp_path)
    assert questions[0].images
    with pytest.raises(FileNotFoundError, match="sa_102.jpg, found no such file"):
        questions[2]
    file = tmp_path / "test_questions.jsonl"
    file.write_text(file.read_text()[:-30])
    with caplog.at_level(logging.WARNING):
        assert len(load_vstar(tmp_path)) == 3
    assert "line 4: not valid JSON" in caplog.text


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    file = miniatures.vstar(tmp_path) / "test_questions.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0])
    with pytest.raises(ValueError, match="unique ids, got 'direct_attributes/0' in records 0 and 4"):
        load_vstar(tmp_path)


@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_hrbench_decodes_base64_and_numbers_the_cycles(tmp_path: Path, form: str) -> None:
    questions = load_hrbench("4k", miniatures.hrbench(tmp_path, form=form))
    assert [q.id for q in questions[:5]] == [
        "hrbench_4k/000/cycle0",
        "hrbench_4k/000/cycle1",
        "hrbench_4k/000/cycle2",
        "hrbench_4k/000/cycle3",
        "hrbench_4k/001/cycle0",
    ]
    assert {q.choices[q.answer or 0] for q in questions[:4]} == {"0-green"}
    assert [q.answer_text for q in questions[:4]] == ["(B)", "(A)", "(D)", "(C)"]
    assert [q.task for q in questions] == ["single"] * 4 + ["cross"] * 4
    assert questions[7].images[0].size == (24, 16)
    assert questions[0].prompt == (
        "Question: What colour is the sign?\nOptions:\nA. 0-red\nB. 0-green\nC. 0-blue\nD. 0-grey\n"
        "Please select the correct answer from the options above. \n"
    )
    assert questions[0].source == "HRBench4K"


def test_two_images_with_the_same_question_and_options_stay_two_questions(tmp_path: Path) -> None:
    rows = miniatures.hrbench_rows(1)
    twice = [dict(row, index=i) for i, row in enumerate(rows + rows)]
    pq.write_table(pa.Table.from_pylist(twice), tmp_path / "hr_bench_8k.parquet")
    ids = [q.id for q in load_hrbench("8k", tmp_path)]
    assert ids == [f"hrbench_8k/{n:03d}/cycle{c}" for n in range(2) for c in range(4)]


def test_bad_hrbench_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match="expected hr_bench_4k.parquet or hr_bench_4k.tsv"):
        load_hrbench("4k", tmp_path)
    with pytest.raises(ValueError, match="size must be '4k' or '8k'"):
        load_hrbench("2k", tmp_path)  # type: ignore[arg-type]
    rows = miniatures.hrbench_rows(1)
    rows[0]["image"] = "no base64!"
    rows[1]["C"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hr_bench_4k.parquet")
    with caplog.at_level(logging.WARNING):
        left = load_hrbench("4k", tmp_path)
    assert [left._entries[i].question.id for i in range(len(left))] == [f"hrbench_4k/000/cycle{i}" for i in (0, 2, 3)]
    assert "hr_bench_4k.parquet, row 1: expected options in A, B, ... without a gap" in caplog.text
    rows[2]["answer"] = "E"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hr_bench_4k.parquet")
    with pytest.raises(ValueError, match="2 of 4 records have wrong fields, expected at most 1"):
        load_hrbench("4k", tmp_path)
    rows[1:3] = miniatures.hrbench_rows(1)[1:3]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hr_bench_4k.parquet")
    questions = load_hrbench("4k", tmp_path)
    with pytest.raises(ValueError, match="row 0 of group 0 of .*hr_bench_4k.parquet: image is not valid base64"):
        questions[0]
    data = (tmp_path / "hr_bench_4k.parquet").read_bytes()
    (tmp_path / "hr_bench_4k.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a complete Parquet file"):
        load_hrbench("4k", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "data/train-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
        "data.parquet",
    ],
)
def test_visual_puzzles_are_found_under_both_split_names(tmp_path: Path, name: str) -> None:
    questions = load_visual_puzzles(miniatures.visual_puzzles(tmp_path, name))
    assert [q.task for q in questions] == list(miniatures.PUZZLE_CATEGORIES)
    assert questions[0].choices == ("32", "35", "37", "40")
    assert questions[0].prompt.endswith(
        "Options:\n(A) 32\n(B) 35\n(C) 37\n(D) 40\nAnswer the question with the option's letter from the given choices directly."
    )
    assert questions[1].choices == IN_IMAGE
    assert "Options: Choose from (A) (B) (C) (D) in the image." in questions[1].prompt
    assert [q.answer for q in questions] == [0, 1, 2, 3, 0]
    assert questions[4].images[0].size == (24, 16)


def test_a_split_of_visual_puzzles_that_is_not_there_is_named(tmp_path: Path) -> None:
    miniatures.visual_puzzles(tmp_path)
    with pytest.raises(FileNotFoundError, match="requested 'test'.*found data/train-00000-of-00001.parquet"):
        load_visual_puzzles(tmp_path, split="test")
    (tmp_path / "data/train-00000-of-00001.parquet").rename(tmp_path / "data/train-00000-of-00002.parquet")
    with pytest.raises(FileNotFoundError, match="expected 2 shards of the split 'train', found 1"):
        load_visual_puzzles(tmp_path)


class LocalHub:
    """Stands in for huggingface_hub.HfFileSystem: the hub is a local folder."""

    folder = Path()
    opened: list[str] = []

    def ls(self, root: str, detail: bool = True) -> list[str]:
        return self.find(root)

    def find(self, root: str) -> list[str]:
        return [f"{root}/{p.relative_to(self.folder).as_posix()}" for p in self.folder.rglob("*") if p.is_file()]

    def open(self, name: str, mode: str) -> Any:
        self.opened.append(name)
        return (self.folder / name.split("/", 3)[3]).open(mode)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(LocalHub, "folder", tmp_path)
    monkeypatch.setattr(LocalHub, "opened", [])
    monkeypatch.setattr(module, "HfFileSystem", LocalHub)
    return tmp_path


def blink(folder: Path) -> Path:
    export_blink_parquet(
        [synthetic_blink(task, "val", 0, i) for task in ("Counting", "Jigsaw") for i in range(2)], folder
    )
    return folder


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("make", "load"),
    [
        (miniatures.vstar, lambda **options: load_vstar(**options)),
        (miniatures.hrbench, lambda **options: load_hrbench("4k", **options)),
        (miniatures.visual_puzzles, lambda **options: load_visual_puzzles(**options)),
        (blink, lambda path_or_id=BLINK_ID, **options: load_blink(path_or_id, **options)),
    ],
)
def test_streamed_from_the_hub_equals_read_from_disk(
    hub: Path, make: Callable[[Path], Path], load: Callable[..., Any]
) -> None:
    local = list(load(path_or_id=make(hub)))
    streamed = load(stream=True)
    assert [(q.id, q.prompt, q.images[0].tobytes()) for q in streamed] == [
        (q.id, q.prompt, q.images[0].tobytes()) for q in local
    ]
    assert LocalHub.opened


def test_an_unreachable_hub_says_what_to_download_and_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("huggingface_hub")

    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(module, "snapshot_download", unreachable)
    for load, identifier in (
        (load_vstar, "craigwu/vstar_bench"),
        (lambda: load_hrbench("8k"), "DreamMr/HR-Bench"),
        (load_visual_puzzles, "neulab/VisualPuzzles"),
    ):
        with pytest.raises(
            ConnectionError, match=f"hf download {identifier} --repo-type dataset --local-dir .*pass its path"
        ):
            load()  # type: ignore[operator]


def test_only_the_needed_files_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    def snapshot(identifier: str, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(module, "snapshot_download", snapshot)
    miniatures.hrbench(tmp_path)
    assert len(load_hrbench("4k")) == 8
    assert asked == [["hr_bench_4k*.parquet", "*hrbench_4k-*.parquet"]]


def test_an_image_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 20_000):
        assert side * side > MAX_PIXELS
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(ValueError, match="record 3: an image too large to decode"):
            decode_image(bomb, "record 3")


def test_damaged_images_are_named_and_transparency_becomes_white() -> None:
    whole = miniatures.encoded(0)
    assert decode_image(whole, "here").mode == "RGB"
    for data, message in (
        (whole[:40], "here cannot be read"),
        (None, "here: expected the bytes"),
        (b"", "here"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_image(data, "here")
    with pytest.raises(ValueError, match="expected an image as base64 text, got None"):
        decode_base64(None, "here")
    assert to_rgb(Image.new("RGBA", (2, 2), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (2, 2), (9, 255))).getpixel((0, 0)) == (9, 9, 9)


def test_a_streamed_folder_has_no_paths() -> None:
    with pytest.raises(ValueError, match="without stream=True"):
        DataFolder("datasets/a/b", on_hub=True).path("x")


@pytest.mark.network
def test_the_real_benchmarks_have_their_known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # set for all other tests
    assert len(load_visual_puzzles(stream=True)) == 1168
    assert len(load_vstar()) == 191
    assert len(load_hrbench("4k", stream=True)) == 800
