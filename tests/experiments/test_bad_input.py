"""Bad input from end to end: real damaged files among good ones, through the reader, the mixture and the trainer's workers."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest

from amvl_model.config import DataConfig, load_preset
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.sources import training_questions
from amvl_model.models.loading import load_base, load_base_processor
from amvl_model.training.batches import AMVLCollator, QuestionDataset
from tests import helpers

QUESTIONS = 2_000


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def own_questions(folder: Path, damaged: dict[int, bytes], count: int = QUESTIONS) -> Path:
    """A file of questions that share one good image, but for the damaged ones."""
    buffer = io.BytesIO()
    helpers.random_image(56, 56, 0).save(buffer, format="JPEG")
    (folder / "good.jpg").write_bytes(buffer.getvalue())
    for index, data in damaged.items():
        (folder / f"bad{index}.jpg").write_bytes(data)
    lines = []
    for i in range(count):
        image = f"bad{i}.jpg" if i in damaged else "good.jpg"
        record = {"id": str(i), "images": [image], "question": "Red?", "choices": ["yes", "no"], "answer": "A"}
        lines.append(json.dumps(record))
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "own.jsonl"


def truncated() -> bytes:
    buffer = io.BytesIO()
    helpers.random_image(112, 112, 1).save(buffer, format="JPEG")
    return buffer.getvalue()[:300]


def read_all(path: Path) -> MixedQuestions:
    result = training_questions(DataConfig(source=str(path), train_size=None))
    assert isinstance(result, MixedQuestions)
    for i in range(len(result)):
        assert result[i].images[0].size == (56, 56)
    return result


@pytest.mark.parametrize(("kind", "reason"), [("truncated", "cannot be read"), ("bomb", "too large to decode")])
def test_one_damaged_image_among_thousands_is_skipped_counted_and_named(tmp_path: Path, kind: str, reason: str) -> None:
    result = read_all(own_questions(tmp_path, {1234: {"truncated": truncated, "bomb": bomb}[kind]()}))
    assert [skipped.index for skipped in result.skipped] == [1234]
    assert "line 1235" in result.skipped[0].reason and "bad1234.jpg" in result.skipped[0].reason
    assert reason in result.skipped[0].reason


def test_past_the_limit_corrupt_images_are_fatal_and_listed(tmp_path: Path) -> None:
    path = own_questions(tmp_path, dict.fromkeys(range(0, 500, 10), truncated()), count=500)
    with pytest.raises(ValueError, match=r"could not be read; expected at most 1(.|\n)*bad"):
        read_all(path)


def test_a_corrupt_image_does_not_end_a_training_process_nor_change_its_batch_size(tmp_path: Path) -> None:
    result = training_questions(
        DataConfig(source=str(own_questions(tmp_path, {2: truncated()}, count=8)), train_size=8)
    )
    dataset = QuestionDataset(result, helpers.processor())
    batch = AMVLCollator(helpers.processor())([dataset[i] for i in range(8)])
    assert len(batch["input_ids"]) == 8


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (["yes", "no"], "C", r"expected the answer to be one of \(A\), \(B\), got 'C'"),
        (["yes"] * 30, "A", "expected 2 to 26 choices"),
        (["yes"], "A", "expected 2 to 26 choices"),
        (["yes", "yes"], "yes", "expected the answer to be one of"),
    ],
)
def test_a_choice_count_that_does_not_fit_is_named(
    tmp_path: Path, choices: list[str], answer: str, message: str
) -> None:
    path = own_questions(tmp_path, {}, count=1)
    record = {"id": "odd", "images": ["good.jpg"], "question": "Red?", "choices": choices, "answer": answer}
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=message):
        _ = QuestionFile(path)[0]


def test_an_answer_outside_the_choices_is_refused_by_the_schema_itself() -> None:
    with pytest.raises(ValueError, match="must be one of its 2 choices"):
        VisualQuestion(id="q", images=(), prompt="", answer_text="(C)", choices=("a", "b"), answer=2)


def test_duplicate_ids_of_own_questions_are_named(tmp_path: Path) -> None:
    path = own_questions(tmp_path, {}, count=3)
    path.write_text(path.read_text().replace('"id": "2"', '"id": "0"'))
    with pytest.raises(ValueError, match="'0' in records 0 and 2"):
        QuestionFile(path)


def test_weights_that_the_hub_does_not_give_say_what_to_download_and_where_to_put_it() -> None:
    config = load_preset("qwen2.5-vl-7b")
    for load in (load_base, load_base_processor):
        with pytest.raises(ConnectionError) as caught:
            load(config)
        assert "hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir Qwen2.5-VL-7B-Instruct" in str(caught.value)
        assert "model.base in a configuration" in str(caught.value)
