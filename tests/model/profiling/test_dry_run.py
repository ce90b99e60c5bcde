"""The dry run: it reads data, lays out rows, computes memory, and names everything that stands in the way of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from amvl_model.config import load_preset
from amvl_model.data.readers.blink import export_blink_parquet
from amvl_model.data.synthetic import synthetic_blink
from amvl_model.profiling.dry_run import plan, write_plan
from tests import miniatures

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four training sets and BLINK, each in its own folder as the preset looks for them."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("visual-cot", "refocus", "cogcom", "zebra-cot"):
        (folder / name).mkdir()
        getattr(miniatures, name.replace("-", "_"))(folder / name)
    export_blink_parquet(
        [synthetic_blink(task, "val", index=i) for task in ("Counting", "Jigsaw") for i in (0, 1)], folder / "blink"
    )
    return folder  # fmt: skip


def seven_b(data: Path, **overrides: object) -> object:
    small = {"data.min_pixels": None, "data.max_pixels": None, "data.path": str(data), "model.base": "tiny"}
    return load_preset("qwen2.5-vl-7b", {**small, **overrides})


def test_the_plan_of_the_7b_preset_on_miniatures_is_ready(data: Path, tmp_path: Path) -> None:
    result = plan(seven_b(data), processes=8)  # type: ignore[arg-type]
    assert result.problems == ()
    assert result.ready
    report = result.to_dict()
    assert set(report["training_data"]["shares"]) == {"visual-cot", "refocus", "cogcom", "zebra-cot"}
    assert report["evaluation_data"]["size"] == 4
    assert report["schedule"]["questions_a_step"] == 8 * 16
    assert report["schedule"]["weights"][0] == {"step": 0, "beta": 0.0, "gamma": 0.0}
    assert len({row["source"] for row in report["rows"]}) == 5
    json_file, text_file = write_plan(result, tmp_path / "out")
    assert json.loads(json_file.read_text())["ready"] is True
    assert "Ready" in text_file.read_text()


def test_the_plan_says_what_fsdp2_exchanges_and_how_long_an_arm_takes(data: Path) -> None:
    found = plan(seven_b(data, **{"train.sharding": "fsdp2"}), processes=8)  # type: ignore[arg-type]
    cost, memory = found.report["cost"], found.report["memory"]
    assert cost["exchanged_bytes_a_step"] == 2 * cost["gathered_bytes_a_micro_batch"] + cost["reduced_bytes_a_step"] > 0
    assert memory["whole_gradient_bytes"] > 0 and "stay whole on each" in found.text()
    assert "hours an arm without overlap" in found.text()
    assert plan(seven_b(data), processes=8).report["cost"] is None  # type: ignore[arg-type]


def test_rows_are_laid_out_as_the_model_lays_them_out(data: Path) -> None:
    for row in plan(seven_b(data)).to_dict()["rows"]:  # type: ignore[arg-type]
        n, k, m = row["query_tokens"], 8, row["answer_tokens"]
        places = list(row["first_pass"].values())
        assert places == [[0, n], [n, n + k], [n + k, n + 2 * k], [n + 2 * k, n + 2 * k + m]]
        assert row["second_pass"] == {"injected": [0, k], "y": [k, k + m]}
        assert row["query_ends"].endswith("<|im_start|>assistant\n")
        assert 0 < row["image_tokens"] < n


def test_everything_that_stands_in_the_way_is_named_at_once(data: Path, tmp_path: Path) -> None:
    result = plan(seven_b(tmp_path, **{"model.base": "Qwen/Qwen2.5-VL-7B-Instruct", "data.eval_source": "vstar"}))  # type: ignore[arg-type]
    assert not result.ready
    base, training, evaluation = result.problems
    assert base.startswith("base:") and "hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir" in base
    assert "model.base in a configuration" in base
    assert training.startswith("training data:") and str(tmp_path) in training
    assert evaluation.startswith("evaluation data:") and "test_questions.jsonl" in evaluation
    assert result.to_dict()["memory"]["parameters"] > 8e9  # known without the weights
    assert "3. evaluation data" in result.text()


def test_a_damaged_image_among_those_looked_at_is_a_problem(data: Path, tmp_path: Path) -> None:
    miniatures.vstar(tmp_path)
    next((tmp_path / "direct_attributes").iterdir()).write_bytes(b"no image")
    result = plan(seven_b(data, **{"data.eval_source": str(tmp_path / "nothing")}))  # type: ignore[arg-type]
    assert any("evaluation data" in text for text in result.problems)
    damaged = {
        "data.source": "synthetic-blink",
        "data.train_size": 8,
        "data.eval_source": "vstar",
        "data.path": str(tmp_path),
    }
    result = plan(load_preset("tiny", damaged))
    assert any("evaluation data: 1 of 4" in text and "unreadable" in text for text in result.problems), result.problems


def test_the_command_trains_nothing_and_says_by_its_exit_status_whether_it_could(tmp_path: Path) -> None:
    script = [sys.executable, "experiments/full_blink.py", "--dry-run", "--out", str(tmp_path / "plan")]
    done = subprocess.run([*script, "--processes", "2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == ["plan.json", "plan.txt"]
    again = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "nothing is overwritten" in again.stderr
