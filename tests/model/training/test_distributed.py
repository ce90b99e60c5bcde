"""Two processes on the CPU (gloo): they train what one process trains, resume what was cut short, and evaluate the same."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.checkpoints import write_manifest
from amvl_model.training.batches import sample_noise
from amvl_model.training.run_folder import newest_checkpoint
from amvl_model.training.sharding import (
    LAUNCH_FOLDER,
    fsdp2_settings,
    sharding_arguments,
    sharding_of,
    zero3_settings,
)
from tests import miniatures
from tests.model.training.test_trainer import config

ROOT = Path(__file__).resolve().parents[3]
WORKER = str(ROOT / "tests" / "distributed_worker.py")
LIMIT = 110.0
"""Seconds; a run takes ten to twenty on an idle core."""


def run(*arguments: str, processes: int = 1, fails: bool = False) -> str:
    """The worker with these arguments, under torchrun if there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), WORKER, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends its own processes
            raise
    assert (process.returncode != 0) == fails, said[-3000:]
    return said


def state(folder: Path) -> dict[str, torch.Tensor]:
    result: dict[str, torch.Tensor] = torch.load(folder / "state.pt")
    return result


def lines(folder: Path, key: str) -> list[dict[str, Any]]:
    return [line for text in (folder / "metrics.jsonl").read_text().splitlines() if key in (line := json.loads(text))]


def assert_same_training(reference: Path, other: Path, *, weights: float = 1e-4) -> None:
    """Losses to 1e-5 and weights to 1e-4, relative: float32 sums in another order (6e-8 each) over some thousand terms, and
    Adam, which takes whole steps along gradients that are nearly nothing but rounding. Measured: 4e-7 and 2e-5."""
    for here, there in zip(lines(reference, "loss"), lines(other, "loss"), strict=True):
        for name in ("loss", "ntp", "forward_kl", "reverse_kl", "grad_norm"):
            assert there[name] == pytest.approx(here[name], rel=1e-5), (here["step"], name)
    expected, result = state(reference), state(other)
    assert expected.keys() == result.keys()
    for name, value in expected.items():
        assert float((result[name] - value).norm()) <= weights * float(value.norm()) + 1e-7, name


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of ten questions (4 + 4 + 2, 4) in one process."""
    folder = tmp_path_factory.mktemp("one")
    run("train", "none", str(folder), "4", "--batch", "4", "--held-out")
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes under FSDP2."""
    folder = tmp_path_factory.mktemp("fsdp2")
    run("train", "fsdp2", str(folder), "4", "--batch", "2", "--held-out", processes=2)
    return folder


@pytest.mark.slow
def test_two_processes_train_what_one_trains(one: Path, tmp_path: Path) -> None:
    run("train", "none", str(tmp_path), "4", "--batch", "2", processes=2)
    assert_same_training(one, tmp_path)


@pytest.mark.slow
def test_two_processes_under_fsdp2_train_what_one_trains(one: Path, sharded: Path) -> None:
    assert_same_training(one, sharded)
    for here, there in zip(lines(one, "eval_loss"), lines(sharded, "eval_loss"), strict=True):
        assert there["eval_loss"] == pytest.approx(here["eval_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="pip install deepspeed")
def test_two_processes_under_zero3_train_what_one_trains(one: Path, tmp_path: Path) -> None:
    """DeepSpeed compiles its CPU collectives the first time, which needs a C++ compiler and ninja."""
    run("train", "deepspeed-zero3", str(tmp_path), "4", "--batch", "2", processes=2)
    assert_same_training(one, tmp_path)
    AMVLForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")


@pytest.mark.slow
def test_a_sharded_run_ends_in_one_plain_checkpoint(sharded: Path) -> None:
    assert sorted(path.name for path in (sharded / "checkpoint").glob("*.safetensors")) == ["model.safetensors"]
    loaded = AMVLForConditionalGeneration.from_pretrained(sharded / "checkpoint").state_dict()
    for name, value in state(sharded).items():
        assert torch.equal(loaded[name], value), name
    stored = json.loads((sharded / "checkpoint" / "config.json").read_text())
    assert stored["architectures"] == ["AMVLForConditionalGeneration"]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_resumes_to_the_uninterrupted_weights(sharded: Path, tmp_path: Path) -> None:
    common = ("train", "fsdp2", str(tmp_path), "4", "--batch", "2")
    run(*common, "--die-after", "3", processes=2, fails=True)
    assert not (tmp_path / "checkpoint").exists()
    kept = newest_checkpoint(tmp_path)
    assert kept is not None
    assert kept.name == "checkpoint-2"
    assert len(list((kept / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2
    run(*common, "--resume", processes=2)
    expected, result = state(sharded), state(tmp_path)
    assert all(torch.equal(result[name], value) for name, value in expected.items())
    assert [line["step"] for line in lines(tmp_path, "loss")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_killed_in_its_second_epoch_sees_the_questions_that_were_left(tmp_path: Path) -> None:
    """Three steps an epoch: the checkpoint of step 4 lies within the second, whose order is not the first's."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("train", "none", str(whole), "6", "--batch", "2", processes=2)
    run("train", "none", str(cut), "6", "--batch", "2", "--die-after", "5", processes=2, fails=True)
    run("train", "none", str(cut), "6", "--batch", "2", "--resume", processes=2)
    expected, result = state(whole), state(cut)
    assert all(torch.equal(result[name], value) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["datasets, messages", "datasets, streaming"])
def test_two_processes_train_and_evaluate_on_a_foreign_set_as_one_does(tmp_path: Path, form: str) -> None:
    """Six questions in steps of four: every second step has two fillers of weight 0, and so has the evaluation."""
    pytest.importorskip("datasets")
    logs = []
    for processes, batch in ((1, "4"), (2, "2")):
        folder = tmp_path / str(processes)
        run("foreign", form, str(folder), "--batch", batch, processes=processes)
        logs.append(json.loads((folder / "log.json").read_text()))
    names = ("loss", "ntp", "forward_kl", "reverse_kl", "eval_loss", "eval_ntp", "eval_forward_kl", "eval_prior_ntp")
    measured = [[{n: entry[n] for n in names if n in entry} for entry in log] for log in logs]
    assert sum("loss" in entry for entry in measured[0]) == 4 and any("eval_ntp" in entry for entry in measured[0])
    for one, two in zip(*measured, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_gradient_checkpointing_under_fsdp2_changes_nothing(sharded: Path, tmp_path: Path) -> None:
    run("train", "fsdp2", str(tmp_path), "4", "--batch", "2", "--checkpointing", processes=2)
    assert_same_training(sharded, tmp_path)


@pytest.mark.slow
def test_low_rank_adapters_under_fsdp2_train_what_one_process_trains(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    common = ("4", "--lora", "4", "--batch")
    run("train", "none", str(tmp_path / "one"), *common, "4")
    run("train", "fsdp2", str(tmp_path / "two"), *common, "2", processes=2)
    # lora_B starts at 0: all there is of it are Adam's first steps, also along gradients that are mostly rounding (2e-4)
    assert_same_training(tmp_path / "one", tmp_path / "two", weights=1e-3)
    AMVLForConditionalGeneration.from_pretrained(tmp_path / "two" / "checkpoint")


@pytest.mark.slow
def test_an_evaluation_by_two_processes_writes_the_file_of_one(tmp_path: Path) -> None:
    data = miniatures.hrbench(tmp_path / "data", questions=10)
    files = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        arguments = ["--model", "tiny-amvl", "--benchmark", "hrbench4k", "--path", str(data), "--batch-size", "1"]
        arguments += ["--max-new-tokens", "2", "--orders", "2", "--out", str(out)]
        run("evaluate", json.dumps(arguments), processes=processes)
        result = json.loads(out.read_text())
        assert result["config"].pop("out").endswith(f"{processes}.json")
        for name in ("wall_seconds", "created", "device", "commit", "dirty"):  # of the moment, not of the model
            result.pop(name)
        files.append(json.dumps(result))
    assert files[0] == files[1]


def test_the_noise_of_a_question_depends_on_seed_step_and_question_alone() -> None:
    def noise(index: Sequence[int], **where: int) -> torch.Tensor:
        return sample_noise(torch.tensor(index), (2, 3), **{"seed": 0, "step": 5, **where})

    assert torch.equal(noise([7, 3, ~3])[1:], noise([3, ~3]))
    different = [noise([3]), noise([4]), noise([~3]), noise([3], seed=1), noise([3], step=6)]
    assert len({tuple(value.flatten().tolist()) for value in different}) == 5
    many = noise(range(4000))
    assert abs(float(many.mean())) < 5 / many.numel() ** 0.5
    assert abs(float(many.std()) - 1) < 5 / (2 * many.numel()) ** 0.5


def test_sharding_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert sharding_arguments(config().train) == {}
    with pytest.raises(ValueError, match="needs a launcher.*torchrun"):
        sharding_arguments(config(**{"train.sharding": "fsdp2"}).train)


def test_accelerate_s_configuration_counts_and_must_not_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_of(config().train) == "fsdp2"
    with pytest.raises(ValueError, match="leave one of them out"):
        sharding_of(config(**{"train.sharding": "deepspeed-zero3"}).train)


def test_the_shipped_configurations_are_what_accelerate_and_deepspeed_read() -> None:
    """DeepSpeed's own parser needs DeepSpeed; accelerate's reads the file without it."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    sharding = load_config_from_file(str(LAUNCH_FOLDER / "fsdp2.yaml"))
    assert (sharding.distributed_type, sharding.fsdp_config["fsdp_version"]) == ("FSDP", 2)
    assert sharding.fsdp_config["fsdp_state_dict_type"] == fsdp2_settings()["state_dict_type"]
    zero = load_config_from_file(str(LAUNCH_FOLDER / "deepspeed-zero3.yaml"))
    assert zero.distributed_type == "DEEPSPEED"
    assert (ROOT / zero.deepspeed_config["deepspeed_config_file"]).samefile(LAUNCH_FOLDER / "deepspeed-zero3.json")
    settings = HfDeepSpeedConfig(zero3_settings(config(**{"train.precision": "bf16"}).train))
    assert settings.is_zero3()
    assert settings.get_value("torch_autocast.enabled") is True
    assert settings.get_value("bf16.enabled") is False  # float32 weights, as in one process


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (2, 10, 12):
        part = tmp_path / f"checkpoint-{step}" / "pytorch_model_fsdp_0"
        part.mkdir(parents=True)
        (part / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data={})))
        (part.parent / "trainer_state.json").touch()
        write_manifest(part.parent)
    (tmp_path / "checkpoint-12" / "pytorch_model_fsdp_0" / ".metadata").unlink()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "checkpoint-10"
    (newest / "trainer_state.json").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
