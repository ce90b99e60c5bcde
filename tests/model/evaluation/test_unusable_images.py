"""One image that cannot be used costs one question, counted as unread, and not the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amvl_model.config import load_preset
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers.blink import export_blink_parquet, load_blink
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.readers.records import MissingImages, UnreadableImages
from amvl_model.data.sources import load_benchmark
from amvl_model.data.synthetic import synthetic_blink
from amvl_model.evaluation.benchmarks import run_benchmark, submit_blink
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.studies.measurement import measure
from amvl_model.training.run import _monitored
from experiments import evaluate_benchmark
from tests import helpers, miniatures


def records(count: int, unusable: tuple[int, ...], **fields: Any) -> list[dict[str, Any]]:
    """Records of BLINK, some with an image of 900 x 4 pixels, which the image processor refuses."""
    made = [synthetic_blink("Counting", "val", 0, i) | fields for i in range(count)]
    for index in unusable:
        made[index]["image_1"] = Image.new("RGB", (900, 4))
    return made


def test_the_others_keep_their_scores(tmp_path: Path) -> None:
    export_blink_parquet(records(6, ()), tmp_path / "whole")
    export_blink_parquet(records(6, (3,)), tmp_path / "one")
    model, processor = helpers.tiny_model(), helpers.processor()
    settings: dict[str, Any] = {"max_new_tokens": 2, "n_bootstrap": 20, "progress": False, "batch_size": 1}
    whole = evaluate(model, processor, load_blink(tmp_path / "whole"), **settings)
    result = run_benchmark(model, processor, "blink", load_blink(tmp_path / "one"), orders=2, **settings)
    outcome = result.evaluation
    assert [record.id for record in outcome.records] == [record.id for record in whole.records]
    for index, (record, other) in enumerate(zip(outcome.records, whole.records, strict=True)):
        assert record == other if index != 3 else record.predicted == {"likelihood": None, "generation": None}
    assert "900" in str(outcome.records[3].problem) or "aspect ratio" in str(outcome.records[3].problem)
    assert outcome.accuracy["likelihood"].unparsed == 1 and outcome.accuracy["likelihood"].n == 6
    assert result.metrics()["unusable images"].value == 1
    assert "1 questions with unusable images, counted as unread" in result.table()


def test_too_many_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_blink_parquet(records(6, (1, 3)), tmp_path)
    with pytest.raises(SystemExit) as stopped:
        evaluate_benchmark.main(
            ["--model", "tiny-amvl", "--benchmark", "blink", "--path", str(tmp_path), "--device", "cpu"]
        )
    assert stopped.value.code == 2
    assert "the images of 2 questions of 6 cannot be used, expected at most 10%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "(Z)"}, "expected the answer to be one of"),
        ({"choices": ["1"], "answer": "(A)"}, "expected 2 to 26 choices, got 1"),
        ({"question": None}, "expected a value in question"),
    ],
)
def test_a_wrong_record_is_refused_before_the_evaluation_begins(
    tmp_path: Path, fields: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = records(3, ())
    made[2] |= fields
    export_blink_parquet(made, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        evaluate_benchmark.main(["--model", "nowhere", "--benchmark", "blink", "--path", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in (said := capsys.readouterr().err) and "nowhere" not in said


def test_a_benchmark_without_splits_refuses_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate_benchmark.main(
            ["--model", "tiny-amvl", "--benchmark", "vstar", "--split", "test", "--path", str(tmp_path)]
        )
    assert stopped.value.code == 2
    assert "--split: vstar has one split; leave it out" in capsys.readouterr().err


def test_a_submission_leaves_the_question_out(tmp_path: Path) -> None:
    export_blink_parquet(records(3, (1,), answer="hidden"), tmp_path, split="test")
    questions = load_blink(tmp_path, split="test")
    path = tmp_path / "predictions.json"
    counts = submit_blink(helpers.tiny_model(), helpers.processor(), questions, path, max_new_tokens=2, progress=False)
    assert sum(counts.values()) == 3 and counts["unread"] >= 1
    assert questions[1].id not in json.loads(path.read_text())


def test_every_reader_names_the_question_whose_image_is_damaged_or_missing(tmp_path: Path) -> None:
    miniatures.vstar(tmp_path / "vstar")
    (tmp_path / "vstar/direct_attributes/sa_100.jpg").write_bytes(b"no image")
    (tmp_path / "vstar/direct_attributes/sa_101.jpg").unlink()
    questions = load_benchmark("vstar", tmp_path / "vstar")
    with pytest.raises(UnreadableImages) as unreadable:
        questions[0]
    with pytest.raises(MissingImages) as missing:
        questions[1]
    assert unreadable.value.question.id == "direct_attributes/0" and len(missing.value.question.choices) == 4
    line = {"id": "x", "images": ["a.png"], "question": "Which?", "choices": ["a", "b"], "answer": "B"}
    (tmp_path / "own.jsonl").write_text(json.dumps(line))
    with pytest.raises(MissingImages) as missing:
        QuestionFile(tmp_path / "own.jsonl")[0]
    assert missing.value.question.answer == 1


def test_diagnostics_and_monitoring_of_a_run_leave_them_out(tmp_path: Path) -> None:
    rows = [{"id": str(i), "images": [f"{i}.png"], "question": f"Which {i}?", "choices": ["x", "y"]} for i in range(12)]
    for i, row in enumerate(rows):
        Image.new("RGB", (900, 4) if i == 5 else (60, 60), (20 * i, 9 * i, 7)).save(tmp_path / f"{i}.png")
        row["answer"] = "AB"[i % 2]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    questions = QuestionFile(tmp_path / "q.jsonl")
    settings = {"eval.bootstrap": 20, "eval.samples": 1, "eval.leakage_questions": 12, "train.eval_every": 2}
    config = load_preset("tiny", {**settings, "data.eval_source": str(tmp_path / "q.jsonl")})
    model, processor = helpers.tiny_model(), helpers.processor()
    result = measure(model, processor, config, questions, questions, scoring=("likelihood",), progress=False)
    assert result.evaluation.accuracy["likelihood"].unparsed == 1
    assert result.interventions is not None and result.interventions.n == 11
    for report in (result.contamination, result.train_contamination):
        assert report is not None and report.ids == [str(i) for i in range(12) if i != 5]
    monitored = _monitored(config, processor)
    assert monitored is not None and all("input_ids" in monitored[i] for i in range(12))
    assert isinstance(monitored.questions, MixedQuestions)
    assert [skipped.index for skipped in monitored.questions.skipped] == [5]
