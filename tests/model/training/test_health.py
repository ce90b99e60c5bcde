"""Numbers of a log line that show the state of the latents, and the limits at which a warning is given."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch

from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.training import run
from amvl_model.training.arguments import training_arguments
from amvl_model.training.monitoring.health import ACTIVE_FROM, LIMITS, latent_state, warnings_of
from amvl_model.training.trainer import AMVLTrainer
from tests.model.training.test_trainer import QUESTIONS, config, small_model, trainer_for

GOOD = {
    "saturated": 0.0, "active_dimensions": 3, "prior_std": 1.0, "posterior_std": 0.5, "kl_per_dimension": 0.1, "grad_norm": 1.0,
}  # fmt: skip


def gaussian(mean: float, log_std: float, shape: tuple[int, ...] = (4, 2, 3)) -> DiagonalGaussian:
    return DiagonalGaussian(torch.full(shape, mean), torch.full(shape, log_std))


def test_saturation_is_counted_in_both_distributions_and_kl_is_that_of_each_dimension() -> None:
    prior, posterior = gaussian(0.0, 0.0), gaussian(0.0, 4.9)
    posterior.mean[:, 0, 0] = 2.0
    saturated, kl = latent_state(prior, posterior)
    assert saturated.tolist() == [0.5] * 4
    assert kl is not None and kl.shape == (4, 2, 3)
    expected = 0.5 * (math.exp(9.8) - 9.8 - 1)
    assert kl[0, 1, 1] == pytest.approx(expected, rel=1e-5) and kl[0, 0, 0] == pytest.approx(expected + 2, rel=1e-5)
    assert latent_state(prior, None)[1] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("saturated", 0.2),
        ("active_dimensions", 0),
        ("prior_std", 30.0),
        ("posterior_std", 0.001),
        ("kl_per_dimension", 9.0),
        ("grad_norm", 1e4),
    ],
)
def test_each_limit_gives_one_warning(name: str, value: float) -> None:
    assert (
        warnings_of(GOOD) == [] and warnings_of({**GOOD, name: None, "loss": math.nan}) == [] and warnings_of({}) == []
    )
    (warning,) = warnings_of({**GOOD, name: value})
    assert warning.startswith(f"{name} {value:.3g} is ") and warning.endswith(LIMITS[name][2])


def test_a_run_logs_them_averaged_over_its_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches of different size; against the mean over all examples."""
    seen = []
    original = AMVLTrainer._remember

    def remember(self: AMVLTrainer, output: object, weight: torch.Tensor) -> None:
        seen.append(latent_state(output.prior, output.posterior))  # type: ignore[attr-defined]
        original(self, output, weight)

    monkeypatch.setattr(AMVLTrainer, "_remember", remember)
    settings = {"train.batch_size": 6, "train.steps": 1, "train.grad_accumulation": 2, "train.log_every": 1}
    run.train(config(**settings), tmp_path, questions=QUESTIONS, quiet=True)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    kl = torch.cat([part for _, part in seen if part is not None]).mean(0)
    assert len(seen) == 2
    assert row["kl_per_dimension"] == pytest.approx(float(kl.mean()), rel=1e-4)
    assert row["active_dimensions"] == int((kl > ACTIVE_FROM).sum()) > 0
    assert row["saturated"] == 0


def test_a_posterior_equal_to_the_prior_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, processor = small_model()
    model.posterior_head.linear.weight.data.zero_()
    model.posterior_head.linear.bias.data.zero_()
    model.prior_head.linear.weight.data.zero_()
    model.prior_head.linear.bias.data.zero_()
    settings = config(**{"train.batch_size": 5, "train.steps": 1, "train.log_every": 1})
    with caplog.at_level(logging.WARNING):
        trainer_for(model, processor, settings, tmp_path).train()
    assert any("active_dimensions 0 is below 1" in message for message in caplog.messages)


def test_several_gpus_in_one_process_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = small_model()
    settings = config(**{"train.batch_size": 2, "train.steps": 1})
    arguments = training_arguments(settings, tmp_path)
    assert arguments.n_gpu <= 1
    arguments._n_gpu = 3
    trainer = AMVLTrainer(model=model, processing_class=processor, args=arguments)
    assert not isinstance(trainer._wrap_model(model), torch.nn.DataParallel)
    assert arguments.train_batch_size == 2
    assert "one of 3 GPUs is used" in capsys.readouterr().err


def test_the_older_names_of_the_trainers_arguments_are_taken(tmp_path: Path) -> None:
    settings = config()
    model, processor = small_model()
    objective = settings.objective
    trainer = AMVLTrainer(
        model=model, objective=objective, processor=processor, args=training_arguments(settings, tmp_path)
    )
    assert trainer.objective is objective
    assert trainer.processing_class is processor
