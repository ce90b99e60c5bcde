"""Loops without the Trainer that a number stops: the laboratory's arms and both kinds of pre-training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.commands import train as train_command
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.studies.laboratory import LaboratoryOptions, job
from amvl_model.studies.laboratory.arm import Arm, build_arm, load_base
from amvl_model.studies.laboratory.training import train_arm, warm_up
from amvl_model.training.monitoring.guard import STATUS
from amvl_model.training.pretraining import multihop_base, tiny_base
from amvl_model.training.run_folder import newest_checkpoint
from experiments import pretrain_tiny, train_multihop

RECIPE = multihop_base.MultihopRecipe(steps=4, scenes=2, questions_per_scene=4, eval_every=2, eval_size=8)
TINY = tiny_base.PretrainConfig(
    steps=4, per_task=1, hard_factor=1, hidden_size=32, num_layers=2, vision_size=32, eval_every=2, eval_size=1
)
SHAPE = multihop_base.BaseShape(hidden_size=32, vision_size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    multihop_base.save_multihop_base(*multihop_base.build_multihop_base(SHAPE), folder, RECIPE)
    return folder


def laboratory(objective: str, *, freeze: bool = True, warm: bool = False) -> Callable[[Path, Path], None]:
    def run(folder: Path, out: Path) -> None:
        schedule = {"beta_warmup": 0.5}
        arm = Arm(
            base=str(folder), objective=objective, recipe=replace(RECIPE, freeze_vision=freeze), schedule=schedule
        )
        base, processor = load_base(arm)
        (warm_up if warm else train_arm)(build_arm(base, processor, arm), processor, arm, lambda row: None, out)

    return run


def multihop(folder: Path, out: Path) -> None:
    model, processor = multihop_base.build_multihop_base(SHAPE)
    recipe = replace(RECIPE, reading_weight=0.5)
    multihop_base.train_multihop(model, processor, recipe, out / "curve.csv", max_hops=1)


def tiny(folder: Path, out: Path) -> None:
    tiny_base.pretrain(TINY, out, workers=0)


LOOPS = {
    "amvl": laboratory("amvl"),
    "amvl, tower trained": laboratory("amvl", freeze=False),
    "sft": laboratory("sft"),
    "pause": laboratory("pause"),
    "warm-up": laboratory("amvl", warm=True),
    "multihop": multihop,
    "tiny base": tiny,
}


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gradient norms before clipping; that of the third step is NaN for the loop."""
    norms: list[float] = []
    original = torch.nn.utils.clip_grad_norm_

    def clipped(*args: Any, **kwargs: Any) -> torch.Tensor:
        norm = original(*args, **kwargs)
        norms.append(float(norm))
        return norm * (float("nan") if len(norms) == 3 else 1.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    return norms


def replayed(file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["amvl"])
    return train_command.main(["--replay", str(file)])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stopped_step_is_named_stored_and_computed_again(
    loop: str,
    folder: Path,
    tmp_path: Path,
    norms: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        NonFiniteError, match="stopped at step 3, before .*gradient norm nan; questions of batch 1 of "
    ) as stopped:
        LOOPS[loop](folder, tmp_path)
    file = tmp_path / "nonfinite-step-3.pt"
    assert f"--replay {file}" in str(stopped.value)
    stored = torch.load(file, weights_only=True)
    assert all(id in str(stopped.value) for part in stored["batches"] for id in part["questions"])
    good = {"multihop": None, "tiny base": tmp_path / "state.pt"}.get(loop, tmp_path / "checkpoint-2")
    assert str(stopped.value).endswith(f"last good checkpoint is {good}." if good else "no earlier checkpoint.")
    assert good is None or good.exists()
    capsys.readouterr()
    assert replayed(file, monkeypatch) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("step 3: the loss is ") and shown.count(", question ") == sum(
        len(part["questions"]) for part in stored["batches"]
    )
    assert float(shown.split()[-1]) == pytest.approx(norms[2], rel=1e-3)
    loss = float(stored["problem"].removeprefix("the loss is ").split()[0])
    totals = [float(line.rpartition("loss ")[2].split()[0]) for line in shown.splitlines() if ", question " in line]
    if loop not in ("multihop", "tiny base"):  # their loss weights readings and captions
        assert sum(totals) / len(totals) == pytest.approx(loss, rel=1e-3)


def test_the_questions_whose_loss_is_not_finite_are_named_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amvl_model.studies.laboratory import training

    original = training.with_features

    def spoiled(model: Any, processor: Any, rows: Any) -> Any:
        batch = original(model, processor, rows)
        batch["image_features"][: len(batch["image_features"]) // len(rows["input_ids"])] = float("nan")
        return batch

    monkeypatch.setattr(training, "with_features", spoiled)
    with pytest.raises(NonFiniteError) as stopped:
        laboratory("amvl")(folder, tmp_path)
    (part,) = torch.load(tmp_path / "nonfinite-step-1.pt", weights_only=True)["batches"]
    assert part["wrong"] == part["questions"][:1]
    assert f"batch 1 of 1: {part['questions'][0]}. " in str(stopped.value)
    assert replayed(tmp_path / "nonfinite-step-1.pt", monkeypatch) == STATUS


@pytest.mark.parametrize("loop", ["amvl", "multihop", "tiny base"])
def test_weights_that_the_optimiser_spoils_are_neither_looked_at_nor_saved(
    loop: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if len([*self.state.values()]) and float(next(iter(self.state.values()))["step"]) == 4:
            self.param_groups[0]["params"][0].data.fill_(float("inf"))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(NonFiniteError, match="stopped at step 4, after the optimiser .* weights are NaN or infinite"):
        LOOPS[loop](folder, tmp_path)
    assert (tmp_path / "nonfinite-step-4.pt").is_file()
    assert loop != "amvl" or newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert loop != "tiny base" or torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_a_full_disk_does_not_hide_why_the_run_stopped(
    folder: Path, tmp_path: Path, norms: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.save

    def full(value: Any, file: Any) -> None:
        if "nonfinite" in str(getattr(file, "name", file)):
            raise OSError("no space left on device")
        original(value, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(NonFiniteError, match="stopped at step 3.*is not stored: .*free space there.*checkpoint-2"):
        laboratory("amvl")(folder, tmp_path)


def test_the_main_job_and_the_scripts_end_with_the_guard_s_status(
    folder: Path,
    tmp_path: Path,
    norms: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Here:  # the pool's processes would not see the spoiled norm
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def submit(self, act: Any, *args: Any) -> Any:
            raise AssertionError("the warm-up stops the run")

    monkeypatch.setattr(job, "worker_pool", Here)
    out = tmp_path / "run"
    options = LaboratoryOptions(base=str(folder), steps=4, warmup=4, evaluated=16)
    monkeypatch.setattr(train_command, "run", lambda *_, **__: job.full(options, out, progress=False, workers=1))
    monkeypatch.setattr(sys, "argv", ["amvl"])
    assert train_command.main(["--no-progress"]) == STATUS
    assert len([*out.glob("unfinished/*/nonfinite-step-3.pt")]) == 1
    norms.clear()
    with pytest.raises(SystemExit) as ended:
        train_multihop.main(["--out", str(tmp_path / "multihop"), "--steps", "3", "--eval-size", "8", "--hidden", "32"])
    assert ended.value.code == STATUS and (tmp_path / "multihop" / "nonfinite-step-3.pt").is_file()
    norms.clear()
    monkeypatch.setattr(tiny_base, "PretrainConfig", lambda **_: replace(TINY, eval_every=4))
    with pytest.raises(SystemExit) as ended:
        pretrain_tiny.work(0, pretrain_tiny.Options(out=tmp_path / "tiny"))
    assert ended.value.code == STATUS
    assert capsys.readouterr().err.count("stopped at step 3") == 3
