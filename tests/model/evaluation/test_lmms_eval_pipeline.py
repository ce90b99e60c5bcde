"""The 7B preset from training to lmms-eval's score, by local paths alone; a tiny model and miniatures stand in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amvl_model.config import load_preset
from amvl_model.data.readers.blink import blink_answers, load_blink
from amvl_model.evaluation.lmms_eval_plugin import samples
from amvl_model.evaluation.lmms_eval_plugin.local_tasks import write_local_blink_tasks
from amvl_model.models.loading import SHIPPED
from tests import lmms_eval_miniature, miniatures

REPOSITORY = Path(__file__).resolve().parents[3]
# What a laptop core cannot do; all else is the preset's.
SMALLER = {
    "train.steps": 3,
    "train.grad_accumulation": 4,
    "train.workers": 0,
    "train.save_every": 0,
    "train.eval_every": 0,
    "data.min_pixels": 6272,
    "data.max_pixels": 25088,
    "eval.samples": 1,
    "eval.bootstrap": 20,
    "eval.batch_size": 16,
    "eval.leakage_questions": 14,
}

pytestmark = [pytest.mark.slow, pytest.mark.lmms_eval, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]


def run(folder: Path, *command: str) -> str:
    """A command in the repository, on the CPU and without a network."""
    local = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    home = {"HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, **local, **home},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def data(folder: Path) -> Path:
    """Local copies of the preset's sources, each under its own name."""
    for make in (miniatures.visual_cot, miniatures.refocus, miniatures.cogcom, miniatures.zebra_cot):
        place = folder / make.__name__.replace("_", "-")
        place.mkdir(parents=True)
        make(place)
    lmms_eval_miniature.blink(folder / "blink")
    return folder


def test_the_7b_preset_runs_from_training_to_lmms_evals_score(tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed here; run make lmms-eval-test")
    preset = load_preset("qwen2.5-vl-7b")
    assert preset.data.sources == ("visual-cot", "refocus", "cogcom", "zebra-cot")
    assert preset.data.eval_sources == ("blink",)
    sources, out = data(tmp_path / "data"), tmp_path / "run"
    settings = {**SMALLER, "model.base": SHIPPED["tiny"], "data.path": sources}
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    run(
        tmp_path, "experiments/full_blink.py", "--preset", "qwen2.5-vl-7b", *options, "--out", str(out), "--no-progress"
    )

    config = json.loads((out / "amvl" / "config.json").read_text())
    assert (config["preset"], config["objective"]["name"]) == ("qwen2.5-vl-7b", "amvl")
    assert (config["model"]["num_latents"], config["model"]["latent_dim"]) == (8, 512)
    logged = [json.loads(line) for line in (out / "amvl" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in logged) == SMALLER["train.steps"]

    write_local_blink_tasks(sources / "blink", tmp_path / "tasks", prompt="blink")
    run(
        *(tmp_path, "-m", "lmms_eval", "--model", "amvl", "--device", "cpu", "--batch_size", "16"),
        *("--model_args", f"pretrained={out / 'amvl' / 'checkpoint'}"),
        *("--include_path", str(tmp_path / "tasks"), "--tasks", "blink_local"),
        *("--gen_kwargs", f"max_new_tokens={preset.eval.max_new_tokens}"),
        *("--log_samples", "--output_path", str(tmp_path / "harness")),
    )
    read = samples.read_samples(tmp_path / "harness", blink_answers(load_blink(sources / "blink")))
    comparison = samples.compare(read, samples.read_scores(tmp_path / "harness"), n_bootstrap=20)

    ours = json.loads((out / "eval.json").read_text())["amvl"]
    assert {s.id: s.reply for s in read} == {q["id"]: q["reply"].strip() for q in ours["questions"]}  # lmms-eval strips
    accuracy = ours["accuracy"]["generation"]["unweighted"]["mean"]
    official, theirs = comparison.ours[0].value, comparison.theirs[0].value
    assert official is not None and theirs is not None
    assert official.mean == pytest.approx(accuracy)
    assert comparison.lmms_eval["blink_local"] == pytest.approx(theirs.mean)
    if not any(difference.changes_score for difference in comparison.differences):
        assert comparison.lmms_eval["blink_local"] == pytest.approx(accuracy)
