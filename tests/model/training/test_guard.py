"""A number that is not finite stops a run before it reaches a weight, a checkpoint, a log line or a score."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amvl_model.evaluation.evaluate import evaluate
from amvl_model.models.checkpoints import NonFiniteError, check_finite, check_weights
from amvl_model.models.loading import build_model, save_checkpoint
from amvl_model.training import run
from amvl_model.training.monitoring import guard
from amvl_model.training.run_folder import newest_checkpoint
from amvl_model.training.trainer import JsonlLog
from tests.model.training.test_trainer import QUESTIONS, config

NAN, INF = float("nan"), float("inf")
SETTINGS = {"train.batch_size": 2, "train.steps": 6, "train.save_every": 2, "train.log_every": 1}


def strict(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, which has to be JSON by the standard: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, int, Any], Any], place: str = "compute_loss") -> None:
    """Let ``change(trainer, call, result)`` replace what a method of the trainer returns."""
    original, calls = getattr(run.AMVLTrainer, place), [0]

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return change(self, calls[0], original(self, *args, **kwargs))

    monkeypatch.setattr(run.AMVLTrainer, place, changed)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil(monkeypatch, lambda trainer, call, loss: loss * value if call == 5 else loss)
    before: dict[str, torch.Tensor] = {}
    original = run.AMVLTrainer._get_grad_norm

    def remember(self: Any, model: Any, grad_norm: Any = None) -> Any:
        before.update({name: weight.detach().clone() for name, weight in self.model.named_parameters()})
        return original(self, model, grad_norm)

    monkeypatch.setattr(run.AMVLTrainer, "_get_grad_norm", remember)
    with pytest.raises(NonFiniteError, match="stopped at step 5.*batch 1 of 1: .*checkpoint-4") as stopped:
        run.train(config(**SETTINGS), tmp_path, questions=QUESTIONS, quiet=True)
    kept = torch.load(tmp_path / "nonfinite-step-5.pt", weights_only=True)
    assert all(question in str(stopped.value) for question in kept["batches"][0]["questions"])
    assert set(kept["batches"][0]["questions"]) < {question.id for question in QUESTIONS}
    assert kept["weights"] and all(torch.equal(kept["weights"][name], before[name]) for name in kept["weights"])
    rows = strict(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["loss"] is None and all(row["loss"] > 0 for row in rows[:-1])
    assert not (tmp_path / "checkpoint").exists()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


def test_a_micro_batch_is_named_under_gradient_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda trainer, call, loss: loss * NAN if call == 4 else loss)
    norms = []
    spoil(monkeypatch, lambda trainer, call, norm: norms.append(norm) or norm, "_get_grad_norm")
    settings = config(**{**SETTINGS, "train.grad_accumulation": 3})
    with pytest.raises(NonFiniteError, match="stopped at step 2.*batch 1 of 2") as stopped:
        run.train(settings, tmp_path, questions=QUESTIONS, quiet=True)
    assert len(norms) == 1  # one check a step: the second step's raises
    parts = torch.load(tmp_path / "nonfinite-step-2.pt", weights_only=True)["batches"]
    assert [part["broken"] for part in parts] == [True, False]
    assert all(question not in str(stopped.value) for question in parts[1]["questions"])


def test_a_gradient_that_is_not_finite_stops_a_run_with_a_finite_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(trainer: Any, call: int, loss: torch.Tensor) -> torch.Tensor:
        if call == 3:
            loss.register_hook(lambda gradient: gradient * INF)
        return loss

    spoil(monkeypatch, hook)
    with pytest.raises(NonFiniteError, match="stopped at step 3.*gradient norm (nan|inf)"):
        run.train(config(**SETTINGS), tmp_path, questions=QUESTIONS, quiet=True)


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(trainer: Any, call: int, rate: Any) -> Any:
        if call == 2:
            next(trainer.model.parameters()).data.view(-1)[0] = INF
        return rate

    spoil(monkeypatch, ruin, "_get_learning_rate")
    settings = config(**{**SETTINGS, "train.steps": 2, "train.save_every": 0})
    with pytest.raises(NonFiniteError, match="stopped at step 2, after.*1 weights are NaN or infinite"):
        run.train(settings, tmp_path, questions=QUESTIONS, save=False, quiet=True)
    assert not list(tmp_path.glob("checkpoint*")) and (tmp_path / "nonfinite-step-2.pt").is_file()


def test_weights_are_checked_before_an_intermediate_checkpoint_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(trainer: Any, call: int, rate: Any) -> Any:
        if call == 4:
            next(trainer.model.parameters()).data.view(-1)[0] = NAN
        return rate

    spoil(monkeypatch, ruin, "_get_learning_rate")
    settings = config(**{**SETTINGS, "train.eval_every": 2, "data.tasks": ("Counting",), "data.eval_size": 2})
    with pytest.raises(NonFiniteError, match="stopped at step 4.*checkpoint-2"):
        run.train(settings, tmp_path, questions=QUESTIONS, quiet=True)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-2"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert [row["step"] for row in strict(tmp_path / "metrics.jsonl") if "eval_loss" in row] == [2]


def test_optimiser_moments_that_overflow_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(trainer: Any, call: int, rate: Any) -> Any:
        next(iter(trainer.optimizer.state.values()))["exp_avg_sq"].fill_(INF)
        return rate

    spoil(monkeypatch, ruin, "_get_learning_rate")
    with pytest.raises(NonFiniteError, match=r"optimiser\.exp_avg_sq"):
        run.train(config(**SETTINGS), tmp_path, questions=QUESTIONS, quiet=True)
    assert newest_checkpoint(tmp_path) is None


def test_a_stopped_step_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(**{**SETTINGS, "train.learning_rate": 1e9, "train.latent_learning_rate": 1e9})
    with pytest.raises(NonFiniteError) as stopped:
        run.train(settings, tmp_path, questions=QUESTIONS, quiet=True)
    (file,) = tmp_path.glob("nonfinite-step-*.pt")
    assert f"--replay {file}" in str(stopped.value)
    assert guard.replay(file) == guard.STATUS
    said = capsys.readouterr().out
    assert all(question in said for question in torch.load(file, weights_only=True)["batches"][0]["questions"])


def test_a_replayed_step_has_the_losses_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses, norms = [], []

    def spoiled(trainer: Any, call: int, norm: Any) -> Any:
        norms.append(float(norm))
        return norm * (NAN if call == 2 else 1)

    spoil(monkeypatch, lambda trainer, call, loss: losses.append(loss.item()) or loss)
    spoil(monkeypatch, spoiled, "_clip_grad_norm")
    settings = config(**{**SETTINGS, "train.grad_accumulation": 2, "objective.order": "forward-first"})
    with pytest.raises(NonFiniteError, match="stopped at step 2"):
        run.train(settings, tmp_path, questions=QUESTIONS, quiet=True)
    assert guard.replay(tmp_path / "nonfinite-step-2.pt") == 0
    said = capsys.readouterr().out
    assert float(said.rsplit(maxsplit=1)[-1]) == pytest.approx(norms[1], rel=1e-4)
    again = [float(line.split("loss ")[1].split()[0]) for line in said.splitlines() if ", question " in line]
    assert sum(again) / len(again) == pytest.approx(losses[2] + losses[3], rel=1e-4)


@pytest.mark.parametrize("step", [1, 4])
def test_a_step_of_a_run_with_a_warm_up_is_replayed_with_its_own_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    losses: list[float] = []
    spoil(monkeypatch, lambda trainer, call, loss: losses.append(loss.item()) or loss)
    spoil(monkeypatch, lambda trainer, call, norm: norm * (NAN if call == step else 1), "_clip_grad_norm")
    schedule = {"objective.order": "forward-first", "objective.beta_warmup": 1.0, "objective.prior_steps": 2}
    with pytest.raises(NonFiniteError, match=f"stopped at step {step}"):
        run.train(config(**SETTINGS, **schedule), tmp_path, questions=QUESTIONS, quiet=True)
    assert guard.replay(tmp_path / f"nonfinite-step-{step}.pt") == 0
    said = capsys.readouterr().out
    again = [float(line.split("loss ")[1].split()[0]) for line in said.splitlines() if ", question " in line]
    assert sum(again) / len(again) == pytest.approx(losses[-1], rel=1e-4)
    assert ("forward_kl" in said) == (step == 4)


def test_a_file_that_is_no_stored_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        guard.replay(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"nothing")
    torch.save({"x": 1}, tmp_path / "c.pt")
    (tmp_path / "d.pt").write_bytes(b"\x80\x02R.")  # takes two values from an empty stack: IndexError
    for name in ("b.pt", "c.pt", "d.pt"):
        with pytest.raises(ValueError, match=f"{name} is not a step"):
            guard.replay(tmp_path / name)


@pytest.mark.parametrize("scoring", [("likelihood",), ("generation",)])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_model_with_broken_weights_is_neither_scored_nor_saved(
    tmp_path: Path, scoring: tuple[str, ...], value: float
) -> None:
    model, processor = build_model(config())
    list(model.parameters())[-1].data.view(-1)[-1] = value
    with pytest.raises(NonFiniteError, match="1 weights"):
        evaluate(model, processor, QUESTIONS[:2], scoring=scoring, progress=False)
    with pytest.raises(NonFiniteError, match="1 weights"):
        save_checkpoint(model, processor, tmp_path / "model")
    with pytest.raises(NonFiniteError, match="1 weights"):
        model.save_pretrained(tmp_path / "model")
    baseline, _ = build_model(config(**{"objective.name": "sft"}))
    list(baseline.parameters())[-1].data.view(-1)[-1] = value
    for save in (baseline.save_pretrained, baseline.export_backbone):
        with pytest.raises(NonFiniteError, match="weights are NaN or infinite"):
            save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_overflow_in_the_stored_precision_are_not_saved(tmp_path: Path) -> None:
    model, processor = build_model(config())
    next(model.parameters()).data.view(-1)[0] = 1e6  # float16 ends at 65,504
    check_weights(model)
    with pytest.raises(NonFiniteError):
        save_checkpoint(model, processor, tmp_path / "model", dtype=torch.float16)
    assert not (tmp_path / "model").exists()


def test_the_largest_finite_numbers_are_finite_and_integers_are_not_asked() -> None:
    check_finite([("a", torch.full((9,), torch.finfo(torch.float32).max)), ("b", torch.tensor([1])), ("c", None)])
    check_finite([("a", torch.full((9,), torch.finfo(torch.float16).max, dtype=torch.float16)), ("b", torch.empty(0))])


def test_the_log_has_null_for_numbers_that_are_none(tmp_path: Path) -> None:
    class State:
        is_world_process_zero, global_step = True, 3

    JsonlLog(tmp_path / "log").on_log(None, State(), None, {"a": NAN, "b": -INF, "c": 1.5, "d": torch.tensor(NAN)})
    assert strict(tmp_path / "log") == [{"step": 3, "a": None, "b": None, "c": 1.5, "d": None}]


def test_the_main_job_ends_with_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments import full_blink

    names = ("base", "scratch_hidden_size", "scratch_layers", "scratch_vision_size", "num_latents", "latent_dim")
    small = [f"--model.{name}={getattr(config().model, name)}" for name in names]
    small += ["--model.freeze_vision=false", "--data.tasks=Counting", "--data.train_size=4", "--data.eval_size=1"]
    small += ["--train.steps=4", "--train.batch_size=2", "--train.warmup=0", "--train.learning_rate=1e9"]
    monkeypatch.setattr(sys, "argv", ["full_blink", "--no-progress", f"--out={tmp_path / 'run'}", *small])
    assert full_blink.main() == guard.STATUS == 3
    assert "stopped at step" in capsys.readouterr().err
    (file,) = tmp_path.glob("run/forward-only/nonfinite-step-*.pt")
    monkeypatch.setattr(sys, "argv", ["full_blink", "--replay", str(file)])
    assert full_blink.main() == guard.STATUS
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["full_blink", "--replay", str(file), "--train.steps=9"])
    with pytest.raises(SystemExit) as refused:
        full_blink.main()
    assert refused.value.code == 2 and "remove train.steps" in capsys.readouterr().err
