"""A tiny untrained model on the miniatures of every benchmark: scores, position bias, result file, submission."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from amvl_model.config import EvalConfig, RunConfig
from amvl_model.data.readers import benchmarks as vision_benchmarks
from amvl_model.data.readers.blink import export_blink_parquet
from amvl_model.data.readers.training_sets import load_refocus
from amvl_model.data.sources import load_benchmark
from amvl_model.data.synthetic import synthetic_blink
from amvl_model.evaluation.benchmarks import run_benchmark, submit_blink, write_benchmark_result
from amvl_model.results.files import read_result
from amvl_model.studies.measurement import measure
from experiments import evaluate_benchmark
from tests import helpers, miniatures

pytest.importorskip("pyarrow")
MAKERS = {"vstar": miniatures.vstar, "hrbench4k": miniatures.hrbench, "visual-puzzles": miniatures.visual_puzzles}


@lru_cache(maxsize=1)
def model() -> Any:
    return helpers.tiny_model()


def run(benchmark: str, folder: Path, **settings: Any) -> Any:
    settings = {"n_bootstrap": 20, "batch_size": 8, "max_new_tokens": 2, "progress": False, **settings}
    questions = load_benchmark(benchmark, folder)
    return run_benchmark(model(), helpers.processor(), benchmark, questions, **settings)


@pytest.mark.parametrize("benchmark", list(MAKERS))
def test_every_benchmark_gets_its_official_score_and_variants(tmp_path: Path, benchmark: str) -> None:
    result = run(benchmark, MAKERS[benchmark](tmp_path))
    assert set(result.scores) == {"likelihood", "generation"}
    official = result.scores["likelihood"][0]
    right = [r.predicted["likelihood"] == r.answer for r in result.evaluation.records]
    assert official.official
    assert official.value.mean == pytest.approx(sum(right) / len(right))
    assert result.harness
    assert result.orders is None
    assert "* official score" in result.table()


def test_an_image_is_decoded_once_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    real = vision_benchmarks.read_image
    monkeypatch.setattr(vision_benchmarks, "read_image", lambda path, place: decoded.append(path) or real(path, place))
    run("vstar", miniatures.vstar(tmp_path))
    assert len(decoded) == len(set(decoded)) == 4


def test_the_command_writes_a_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "tiny-amvl", "--benchmark", "vstar", "--path", str(miniatures.vstar(tmp_path / "vstar"))]
    evaluate_benchmark.main(
        [*arguments, "--scoring", "likelihood", "--device", "cpu", "--out", str(tmp_path / "r.json")]
    )
    assert "* likelihood  mean over questions" in capsys.readouterr().out
    assert read_result(tmp_path / "r.json").config["batch_size"] == "8"
    with pytest.raises(SystemExit):
        evaluate_benchmark.main([*arguments[:-1], str(tmp_path / "nowhere")])
    assert "which is neither; correct the path" in capsys.readouterr().err


def test_orders_show_position_bias_and_the_result_file_holds_everything(tmp_path: Path) -> None:
    result = run("vstar", miniatures.vstar(tmp_path / "vstar"), orders=2, scoring=("likelihood",))
    assert result.harness == ()
    assert {part.options for part in result.orders.bias} == {2, 4}
    assert sum(part.n for part in result.orders.bias) == 8
    path = write_benchmark_result(tmp_path / "r.json", result, {"model": "tiny"}, "cpu")
    stored = read_result(path)
    assert stored.metrics["likelihood: mean over questions"].n == 4
    assert "position bias, 4 options" in stored.metrics
    assert len(stored.extra["evaluation"]["questions"]) == 4
    assert "right in every order" in result.table()


def test_open_training_questions_leave_memorised_leakage_unmeasured(tmp_path: Path) -> None:
    held_out = load_benchmark("vstar", miniatures.vstar(tmp_path / "vstar"))
    settings = RunConfig(eval=EvalConfig(samples=1, bootstrap=20, batch_size=4, leakage_questions=4, max_new_tokens=1))
    training = load_refocus(miniatures.refocus(tmp_path / "refocus"))
    measured = measure(model(), helpers.processor(), settings, held_out, training, progress=False)
    assert measured.contamination is not None
    assert measured.train_contamination is None


def test_blinks_hidden_questions_become_a_submission(tmp_path: Path) -> None:
    records = [synthetic_blink("Counting", "test", 0, i) | {"answer": "hidden"} for i in range(3)]
    export_blink_parquet(records, tmp_path / "blink", split="test")
    questions = load_benchmark("blink", tmp_path / "blink", split="test")
    path = tmp_path / "predictions.json"
    counts = submit_blink(model(), helpers.processor(), questions, path, max_new_tokens=2, progress=False)
    assert counts["written"] + counts["unread"] == 3
    assert set(json.loads(path.read_text())) <= {question.id for question in questions}
