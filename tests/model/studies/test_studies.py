"""Studies: complete configurations, results in the one schema, and a verdict that can go either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.results.files import Metric, Result, read_result, write_result
from amvl_model.studies import pareto
from amvl_model.studies.declared import STUDIES, Study
from amvl_model.studies.runner import cell_config, draw_study, run_cell, run_study, study_results


def result(cell: str, seed: int, beta: float, gamma: float | None, leak: float, nll: float, zeroed: float) -> Result:
    objective = {"name": "ntp+fwd" if gamma is None else "amvl", "beta": beta, "gamma": gamma or 0.0}
    metrics = {
        pareto.LEAK: Metric(leak, "nats"),
        pareto.NLL: Metric(nll, "nats"),
        pareto.ZEROED: Metric(zeroed, "fraction"),
    }
    return Result(
        study="pareto", cell=cell, seed=seed, config={"objective": objective}, metrics=metrics, wall_seconds=1.0,
        device="cpu", commit=None, dirty=None, versions={}, created="",
    )  # fmt: skip


def results(leak: float, nll: float, zeroed: float) -> list[Result]:
    """Forward-only at 1.0 nats of leakage and NLL 0.5, and one AMVL cell at the given offsets, five noisy seeds each."""
    noise = np.random.default_rng(0).normal(0, 0.002, size=5)
    outcome = [result("fwd", seed, 0.003, None, 1.0, 0.5, -0.2) for seed in range(5)]
    return outcome + [
        result("dual", s, 0.003, 0.003, 1.0 + leak + noise[s], 0.5 + nll + noise[s], zeroed + noise[s])
        for s in range(5)
    ]


@pytest.mark.parametrize(
    ("leak", "nll", "zeroed", "holds"),
    [
        (-0.5, 0.0, -0.2, True),
        (+0.1, 0.0, -0.2, False),  # leaks more
        (-0.5, 0.03, -0.2, False),  # pays for it with NLL
        (-0.5, 0.0, 0.0, False),  # its latents do nothing
    ],
)
def test_the_verdict_needs_less_leakage_equal_nll_and_latents_that_matter(
    leak: float, nll: float, zeroed: float, holds: bool
) -> None:
    assert ("AMVL has no" not in pareto.verdict(results(leak, nll, zeroed))) == holds


def test_a_claim_that_holds_in_the_mean_alone_is_said_to_hold_in_the_mean_alone() -> None:
    spread = [
        result("dual", s, 0.003, 0.003, 0.5, 0.5 + nll, -0.2) for s, nll in enumerate((-0.05, -0.05, 0.0, 0.06, 0.06))
    ]
    said = pareto.verdict([result("fwd", s, 0.003, None, 1.0, 0.5, -0.2) for s in range(5)] + spread)
    assert " mean  dual: leakage -0.500" in said and "AMVL has no point" in said
    assert said.endswith("In the mean over seeds these have it: dual.")


def test_interval_is_students_t_over_seeds() -> None:
    low, high = pareto.interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert low == pytest.approx(3 - 2.776445 * np.sqrt(2.5 / 5), rel=1e-5)
    assert high == pytest.approx(3 + 2.776445 * np.sqrt(2.5 / 5), rel=1e-5)


def test_image_of_the_pareto_study_has_labels_with_units() -> None:
    axes = pareto.draw(results(-0.5, 0.0, -0.2)).axes[0]
    assert "[nats]" in axes.get_xlabel() and "[nats]" in axes.get_ylabel()


PRESET_STUDIES = {name: study for name, study in STUDIES.items() if not study.bases}


@pytest.mark.parametrize("study", PRESET_STUDIES.values(), ids=list(PRESET_STUDIES))
def test_every_cell_of_every_study_is_a_valid_configuration(study) -> None:  # type: ignore[no-untyped-def]
    for cell in study.cells:
        config = cell_config(study, cell, seed=3)
        assert config.train.seed == config.data.seed == 3


# settings by which a cell that another study makes may differ from this study's own cells; all others are the same
VARIED = {
    "objectives": {"objective.name", "objective.order"},
    "latents": {"model.num_latents", "model.latent_dim", "objective.name"},
    "length": {"train.steps", "objective.name", "objective.gamma"},
    "size": {"data.train_size", "objective.name"},
}


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    nested = [flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {prefix + k: v} for k, v in config.items()]
    return {key: value for part in nested for key, value in part.items()}


@pytest.mark.parametrize("study", [item for item in STUDIES.values() if item.stand_ins], ids=lambda study: study.name)
def test_what_stands_in_was_made_with_the_same_settings(study) -> None:  # type: ignore[no-untyped-def]
    own = {cell: flat(cell_config(study, cell, 1).to_dict()) for cell in study.cells}
    for cell, (other, name) in study.stand_ins.items():
        theirs = flat(cell_config(STUDIES[other], name, 1).to_dict())
        if cell in own:
            assert theirs == own[cell]
            continue
        for mine in own.values():
            differs = {key for key in theirs if theirs[key] != mine[key]}
            assert differs <= VARIED[study.name], (cell, differs)


def test_results_of_another_study_stand_in_until_a_cell_has_its_own(tmp_path: Path) -> None:
    study = STUDIES["latents"]
    for name, cell in (("objectives", "amvl"), ("latents", "k=1,d=16")):
        write_result(
            tmp_path / name / cell / "seed0.json", study=name, cell=cell, seed=0, config={}, wall_seconds=1.0, device="cpu",
            metrics={"answer_nll": Metric(0.5, "nats")},
        )  # fmt: skip
    result = study_results(study, tmp_path)
    assert [(item.study, item.cell) for item in result] == [("latents", "k=1,d=16"), ("objectives", "k=4,d=16")]
    said = draw_study(study, tmp_path)
    assert "minus k=4,d=16" in said and "from other studies, same settings: objectives/amvl" in said
    with pytest.raises(FileNotFoundError):
        study_results(STUDIES["size"], tmp_path / "nothing")


def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    study = STUDIES["temperature"]
    with pytest.raises(ValueError, match="--keep"):
        run_study(study, tmp_path)
    with pytest.raises(FileNotFoundError, match="objectives --cells elbo --seeds 2 4 --keep") as error:
        run_study(study, tmp_path, cells=["elbo,t=0", "elbo,t=1"], seeds=[4, 2], keep=tmp_path / "kept")
    assert "2 of 2" in str(error.value) and str(Path("objectives/elbo/seed4/checkpoint")) in str(error.value)


def test_unknown_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no cell 'nothing'"):
        run_study(STUDIES["pareto"], tmp_path, cells=["nothing"])


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose runs take seconds."""
    from tests.model.studies.test_main_job import SMALL

    study = STUDIES[name]
    common = {**study.common, **SMALL, "data.tasks": ("Counting",), "eval.leakage_questions": 3}
    monkeypatch.setitem(STUDIES, name, replace(study, common=common))
    return STUDIES[name]


def test_runs_of_the_new_studies_record_what_their_tables_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("objectives", "temperature"):
        small(name, monkeypatch)
    monkeypatch.setattr("amvl_model.studies.measurement.SHIFTED_SIZE", 3)
    result = {
        cell: read_result(run_cell("objectives", cell, 0, tmp_path, tmp_path)) for cell in ("amvl", "pause", "sft")
    }
    for item in result.values():
        assert item.value("accuracy.Counting") == item.value("accuracy")
        assert {
            "accuracy",
            "answer_nll",
            "out_of_distribution.accuracy",
            "out_of_distribution.answer_nll",
        } <= item.metrics.keys()
    figures = {
        "answer_direction.held_out.contrast",
        "answer_direction.training.own_label",
        "held_out.leaked_information",
    }
    assert figures <= result["amvl"].metrics.keys() and not figures & result["pause"].metrics.keys()
    assert "zeroed.accuracy_difference" in result["pause"].metrics and "zeroed.accuracy" not in result["sft"].metrics
    mean, warm = (read_result(run_cell("temperature", f"amvl,t={t}", 0, tmp_path, tmp_path)) for t in ("0", "1"))
    assert mean.value("prior_sample.answer_nll") == pytest.approx(result["amvl"].value("answer_nll"), rel=1e-5)
    assert warm.value("prior_sample.answer_nll") != mean.value("prior_sample.answer_nll")
    assert "out_of_distribution.prior_sample.accuracy" in warm.metrics
    assert warm.extra["checkpoint"] == "objectives/amvl/seed0" and len(warm.extra["weights_sha256"]) == 64
    assert (warm.config["eval"]["temperature"], mean.config["eval"]["temperature"]) == (1.0, 0.0)


def test_a_run_writes_one_result_file_with_the_figures_of_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amvl_model.models.loading import load_checkpoint

    first = next(iter(small("pareto", monkeypatch).cells))
    path = run_cell("pareto", first, 0, tmp_path, keep=tmp_path / "kept")
    written = read_result(path)
    assert {pareto.LEAK, pareto.NLL, pareto.ZEROED} <= written.metrics.keys()
    assert written.config["data"]["tasks"] == ["Counting"]
    model, _ = load_checkpoint(tmp_path / "kept" / "pareto" / first / "seed0" / "checkpoint")
    assert model.config.num_latents == written.config["model"]["num_latents"]


def test_the_step_that_a_number_stops_outlives_the_run_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"model.base": "scratch", "model.freeze_vision": False, "model.scratch_hidden_size": 96}
    common |= {"model.scratch_layers": 2, "model.scratch_vision_size": 32, "data.tasks": ("Counting",)}
    common |= {"data.train_size": 4, "data.eval_size": 1, "train.steps": 2, "train.batch_size": 2}
    made = Study(name="small", purpose="a test", common=common, cells={"amvl": {}}, seeds=(0,))
    monkeypatch.setitem(STUDIES, "small", made)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(NonFiniteError) as stopped:
        run_cell("small", "amvl", 0, tmp_path / "results")
    file = tmp_path / "results/small/stopped/amvl-seed0/nonfinite-step-1.pt"
    assert f"--replay {file}" in str(stopped.value) and file.is_file()
    assert not any((tmp_path / "results").rglob("seed*.json"))
