"""The check of the real path at a real size, with the tiny configuration in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amvl_model.profiling import scale_check
from amvl_model.profiling.throughput.grid import SIZES
from experiments import check_scale


@pytest.mark.parametrize("rank", [0, 4])
def test_the_check_trains_resumes_stores_and_evaluates(tmp_path: Path, rank: int) -> None:
    if rank:
        pytest.importorskip("peft")
    asked = ["--size", "tiny", "--questions", "2", "--pixels", "12544", "--lora-rank", str(rank)]
    assert check_scale.main([*asked, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "scale" / f"tiny,lora={rank}" / "seed0.json").read_text())
    metrics = {name: metric["value"] for name, metric in result["metrics"].items()}
    assert metrics["parameters"] == SIZES["tiny"].language_parameters + SIZES["tiny"].vision_parameters
    assert metrics["step2.resumed_loss"] == pytest.approx(metrics["step2.loss"], rel=1e-6)
    assert metrics["step1.loss"] != metrics["step2.loss"]
    assert metrics["evaluated_questions"] == 4
    assert result["config"]["train"]["steps"] == 2 and result["config"]["preset"] == "qwen2.5-vl-7b"
    assert (tmp_path / "work" / "run" / "checkpoint" / "model.safetensors").is_file()


def test_a_resumed_step_that_differs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([[3.0, 2.0], [3.0, 2.5]])
    monkeypatch.setattr(scale_check, "_losses", lambda folder: next(told))
    scale_check.write_random_base(tmp_path / "base", SIZES["tiny"], device="cpu")
    config = scale_check.check_config(tmp_path / "base", lora_rank=0, questions=1, min_pixels=None, max_pixels=12544)
    with pytest.raises(RuntimeError, match="2.0 in one go and 2.5 resumed"):
        scale_check.check(config, tmp_path / "run")


def test_an_existing_base_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="choose another --work"):
        scale_check.write_random_base(tmp_path, SIZES["tiny"], device="cpu")
