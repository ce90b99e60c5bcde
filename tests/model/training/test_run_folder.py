"""A run that is cut short anywhere resumes to the uninterrupted one, from files that are proved whole, with one writer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amvl_model.config import RunStopped, signals, stop_now
from amvl_model.models.checkpoints import damage, write_manifest
from amvl_model.training import run, run_folder
from amvl_model.training.run_folder import locked, newest_checkpoint, note_environment, rotate
from tests.model.training.test_trainer import QUESTIONS, config

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, Any] = {
    "train.batch_size": 4,
    "train.steps": 5,  # 3 an epoch: the last step is not the last of an epoch
    "train.save_every": 2,
    "train.eval_every": 2,
    "train.log_every": 1,
    "data.tasks": ("Counting",),
    "data.eval_size": 2,
}
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run; its weights as in ``checkpoint/``."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run.train(config(**SETTINGS), folder, questions=QUESTIONS, quiet=True)
    return folder


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """The run as it is when its process dies before the final checkpoint is there."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "checkpoint").rename(folder / "checkpoint.part")
    return folder


def resumed(folder: Path, **changes: Any) -> None:
    run.train(config(**{**SETTINGS, **changes}), folder, questions=QUESTIONS, resume=True, quiet=True)


def assert_same(folder: Path, whole: Path) -> None:
    """The final weights are equal bit for bit, and the log has the same lines."""
    name = Path("checkpoint") / "model.safetensors"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert log(folder) == log(whole)


def log(folder: Path) -> list[tuple[int, str, float]]:
    """Step, kind and value of every line."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = ("eval_loss", "loss", "train_runtime")
    result = [(row["step"], next(kind for kind in kinds if kind in row), row) for row in rows]
    return [(step, kind, 0.0 if kind == "train_runtime" else row[kind]) for step, kind, row in result]


def test_a_manifest_lists_every_file_of_a_checkpoint(whole: Path) -> None:
    for step in (4, 5):
        folder = whole / f"checkpoint-{step}"
        sums = json.loads((folder / "manifest.json").read_text())
        assert set(STATE) < set(sums) == {path.name for path in folder.iterdir()} - {"manifest.json", "README.md"}
        assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == value for name, value in sums.items())
        assert damage(folder) == ""


@pytest.mark.parametrize("fault", ["missing", "one bit", "cut", "empty"])
@pytest.mark.parametrize("name", [*STATE, "config.json", "manifest.json"])
def test_a_checkpoint_with_a_missing_or_altered_file_is_refused(
    tmp_path: Path, whole: Path, name: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 5):
        shutil.copytree(whole / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}", copy_function=os.link)
    file = tmp_path / "checkpoint-5" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if fault != "missing":
        file.write_bytes({"one bit": bytes(content), "cut": content[: len(content) // 2], "empty": b""}[fault])
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    said = capsys.readouterr().err
    assert "checkpoint-5 is refused" in said and name in said.replace("or a file it lists", "")


def test_a_run_that_died_before_its_final_checkpoint_resumes(cut: Path, whole: Path) -> None:
    resumed(cut)
    assert_same(cut, whole)
    assert not (cut / "checkpoint.part").exists()


def test_damage_and_strangers_do_not_block_a_resumed_run(
    cut: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cut / "checkpoint-5" / "trainer_state.json").write_bytes(b"")
    for name in ("checkpoint-old", "checkpoint-7.bak", "checkpoint-", "checkpoint-9"):
        (cut / name).mkdir()
    (cut / "checkpoint-99").write_text("a file")
    with (cut / "metrics.jsonl").open("ab") as file:
        file.write(b'7\n{"no": "step"}\n{"step": 5, "lo\xc3')
    resumed(cut)
    said = capsys.readouterr().err
    assert "checkpoint-5 is refused: trainer_state.json" in said and f"resuming from {cut / 'checkpoint-4'}" in said
    assert_same(cut, whole)
    assert (cut / "checkpoint-7.bak").is_dir() and (cut / "checkpoint-99").is_file()
    assert newest_checkpoint(cut) == cut / "checkpoint-5"  # written again


def test_without_a_complete_checkpoint_a_run_is_not_resumed_but_starts_anew(cut: Path, whole: Path) -> None:
    for step in (4, 5):
        (cut / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match="no complete intermediate checkpoint"):
        resumed(cut)
    run.train(config(**SETTINGS), cut, questions=QUESTIONS, resume=None, quiet=True)
    assert_same(cut, whole)


def test_a_folder_that_does_not_exist_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no complete"):
        resumed(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_run_is_not_resumed_with_other_settings(cut: Path, whole: Path) -> None:
    before = (cut / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"train\.seed is 0 there, got 7; train\.learning_rate|train\.learning_rate.*train\.seed"
    ):
        resumed(cut, **{"train.seed": 7, "train.learning_rate": 0.5})
    assert (cut / "config.json").read_bytes() == before
    assert not (cut / "run.lock").exists()
    resumed(cut)
    assert_same(cut, whole)


def test_every_start_is_appended_and_a_torn_list_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "environment.json"
    file.write_text('{"commit": "of an earlier version"}')
    for _ in range(2):
        note_environment(tmp_path)
    first, *starts = json.loads(file.read_text())
    assert first == {"commit": "of an earlier version"} and len(starts) == 2
    assert all({"started", "commit", "dirty", "versions"} == set(start) for start in starts)
    file.write_text(file.read_text()[:-9])
    note_environment(tmp_path)
    assert "not valid JSON" in capsys.readouterr().err and len(json.loads(file.read_text())) == 1


def test_an_unfinished_run_is_not_overwritten(cut: Path) -> None:
    with pytest.raises(FileExistsError, match="unfinished run.*not overwritten"):
        run.train(config(**SETTINGS), cut, questions=QUESTIONS, quiet=True)
    assert newest_checkpoint(cut) == cut / "checkpoint-5"


def test_rotation_counts_complete_checkpoints_only(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
        if step in (1, 2, 9):
            write_manifest(tmp_path / f"checkpoint-{step}")
    rotate(tmp_path, 4, None)
    rotate(tmp_path, 4, 2)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (1, 2, 3, 4, 9)}
    write_manifest(tmp_path / "checkpoint-4")
    rotate(tmp_path, 4, 2)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (2, 3, 4, 9)}


def test_a_run_folder_has_one_writer(cut: Path, whole: Path) -> None:
    with locked(cut):
        with pytest.raises(FileExistsError, match=f"in use by process {os.getpid()} on "):
            resumed(cut)
        child = "import sys, pathlib; from amvl_model.training.run_folder import locked\n"
        child += "with locked(pathlib.Path(sys.argv[1])): pass"
        done = subprocess.run([sys.executable, "-c", child, str(cut)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode and f"in use by process {os.getpid()} on " in done.stderr
    assert not (cut / "run.lock").exists()
    resumed(cut)
    assert_same(cut, whole)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a process that it forked, as the workers of a data loader are, lives on for a while."""
    child = """if True:
        import os, pathlib, signal, sys, time
        from amvl_model.training.run_folder import locked
        lock = locked(pathlib.Path(sys.argv[1]))
        lock.__enter__()
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", child, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        assert process.wait() == -signal.SIGKILL
    assert f"process {process.pid} on" in (tmp_path / "run.lock").read_text()
    with locked(tmp_path):
        assert f"took over {tmp_path} from process {process.pid} on" in capsys.readouterr().err
        assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()


def send(monkeypatch: pytest.MonkeyPatch, number: int, call: int, place: str = "training_step") -> None:
    """Send this process a signal within a call of a method of the trainer, twice, as `timeout` does."""
    original, calls = getattr(run.AMVLTrainer, place), [0]

    def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(run.AMVLTrainer, place, signalled)


@pytest.mark.parametrize(
    ("number", "status", "call", "place", "step"),
    [
        (signal.SIGTERM, 143, 3, "training_step", 3),
        (signal.SIGINT, 130, 1, "training_step", 1),
        (signal.SIGTERM, 143, 1, "evaluate", 2),
        (signal.SIGINT, 130, 1, "create_optimizer", 1),
        (signal.SIGTERM, 143, 1, "_save_checkpoint", 3),
    ],
)
def test_a_signal_lets_the_step_end_saves_and_stops(
    tmp_path: Path, whole: Path, number: int, status: int, call: int, place: str, step: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    with pytest.MonkeyPatch.context() as patch:
        send(patch, number, call, place)
        with pytest.raises(RunStopped) as stopped:
            run.train(config(**SETTINGS), tmp_path, questions=QUESTIONS, quiet=True)
    assert stopped.value.code == status
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert newest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{step}"
    assert f"stopped after step {step} of 5" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists() and not (tmp_path / "run.lock").exists()
    resumed(tmp_path)
    assert_same(tmp_path, whole)


def test_a_signal_under_gradient_accumulation_lets_the_whole_step_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(monkeypatch, signal.SIGTERM, 5)  # the second micro-batch of the second step
    settings = {**SETTINGS, "train.grad_accumulation": 3, "train.batch_size": 2, "train.save_every": 0}
    with pytest.raises(RunStopped):
        run.train(config(**settings), tmp_path, questions=QUESTIONS, quiet=True)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert [step for step, kind, _ in log(tmp_path) if kind == "loss"] == [1, 2]


def test_a_signal_in_the_last_step_leaves_a_finished_run(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(monkeypatch, signal.SIGTERM, 5)
    with pytest.raises(RunStopped):
        run.train(config(**SETTINGS), tmp_path, questions=QUESTIONS, quiet=True)
    assert_same(tmp_path, whole)


def test_a_ctrl_c_that_the_parent_ignores_stays_ignored() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals(stop_now):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(RunStopped) as stopped:
                signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == 143 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_signal_repeated_later_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = run_folder.StopAfterStep()
    stop(signal.SIGINT, None)
    stop(signal.SIGINT, None)
    monkeypatch.setattr(run_folder, "_REPEATED", -1.0)
    with pytest.raises(RunStopped):
        stop(signal.SIGINT, None)


def test_the_main_job_prints_how_to_resume_and_refuses_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments import full_blink

    out = tmp_path / "run"
    names = ("base", "scratch_hidden_size", "scratch_layers", "scratch_vision_size", "num_latents", "latent_dim")
    small = [f"--model.{name}={getattr(config().model, name)}" for name in names]
    small += ["--model.freeze_vision=false", "--data.tasks=Counting", "--data.train_size=4", "--data.eval_size=1"]
    small += ["--train.steps=3", "--train.batch_size=2", "--train.log_every=1"]

    def main(*arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["full_blink", "--no-progress", *arguments])
            return full_blink.main()

    with pytest.MonkeyPatch.context() as patch:
        send(patch, signal.SIGTERM, 2)
        with pytest.raises(SystemExit) as stopped:
            main(f"--out={out}", *small)
    assert stopped.value.code == 143
    assert f"amvl train --resume {out}\n" in capsys.readouterr().err
    assert newest_checkpoint(out / "forward-only") == out / "forward-only" / "checkpoint-2"
    for changed in ("--train.steps=9", "--train.seed=3"):
        with pytest.raises(SystemExit, match="2"):
            main(f"--resume={out}", changed)
        assert changed[2:].split("=")[0] in capsys.readouterr().err
    with locked(out), pytest.raises(SystemExit, match="2"):
        main(f"--resume={out}")
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:  # outside training there is nothing to save
        send(patch, signal.SIGINT, 1)
        patch.setattr("amvl_model.studies.main_job.measure", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit) as stopped:
            main(f"--resume={out}")
    assert stopped.value.code == 130 and "--resume" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amvl_model.studies.main_job.measure", lambda *_, **__: main_job_done())
        with pytest.raises(KeyError, match="measured"):
            main(f"--resume={out}", "--train.steps=3")


def main_job_done() -> None:
    raise KeyError("measured")
