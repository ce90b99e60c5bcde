"""What the notebooks call: figures follow their data, numbers agree three ways, what is missing is one readable line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from amvl_model.diagnostics.report.suite import (Diagnosed)
from amvl_model.diagnostics.response.response_arrays import (project)
from amvl_model.results.checks import (expected_unit)
from amvl_model.results.provenance import (PROJECT_ROOT)
from amvl_model.results.files import (Metric, result_path, write_result)
from amvl_style import METHODS
from amvl_theory import MeanLeakageModel, leaked_information, spread
from amvl_theory.figures.curves import (Mode)
from notebooks.views import (by_hand, checkpoints, prediction, simulation, studies, training)
from notebooks.views.show import (counter, panel, png, show, slider)

# by_hand


@pytest.mark.parametrize(("beta", "gamma", "anchor"), [(0.7, 1.0, 0.6), (0.05, 0.02, 2.0), (5.0, 20.0, 0.1)])
def test_closed_form_and_descent_on_the_real_losses_agree(beta: float, gamma: float, anchor: float) -> None:
    closed, run = (each(Mode(), beta, gamma, anchor) for each in (by_hand.rest, by_hand.simulated))
    for name in ("absorption", "shift", "contamination", "leaked"):
        assert getattr(run, name) == pytest.approx(getattr(closed, name), rel=1e-6, abs=1e-9)
    assert run.answers == pytest.approx(closed.answers, rel=1e-6)


def test_the_pencil_of_notebook_01_gives_the_closed_form() -> None:
    mode, s = Mode(), 0.7 / 1.3
    found = by_hand.rest(mode, 0.7, 1.0, 0.6)
    shift = mode.force_mean / (mode.curvature + 1.0 - s)
    assert (found.absorption, found.shift, found.contamination) == pytest.approx((s, shift, s * shift))
    table = by_hand.three_ways(mode, 0.7, 1.0, 0.6, {"shift": shift})
    assert table.count(f"{shift:.6f}") == 3


def test_without_an_anchor_gamma_leaves_the_contamination_and_takes_the_leak() -> None:
    weak, strong = (by_hand.rest(Mode(), 0.7, gamma, 0.0) for gamma in (0.01, 10.0))
    assert strong.contamination == pytest.approx(weak.contamination)
    assert strong.leaked < 0.1 * weak.leaked


def test_the_image_of_01_follows_every_slider_and_repeats_byte_for_byte() -> None:
    settings = [(0.7, 0.1, 0.6), (2.0, 0.1, 0.6), (0.7, 1.0, 0.6), (0.7, 0.1, 0.0)]
    drawn = [png(by_hand.figure(*each)) for each in settings]
    assert len(set(drawn)) == len(settings)
    assert png(by_hand.figure(*settings[0])) == drawn[0]


def test_every_counter_example_is_told_with_its_exact_values() -> None:
    told = by_hand.counter_examples()
    assert "goes from 10 at gamma = 0 to 10225/841 at 1" in told and told.count("because") == 6


# simulation


def test_dual_kl_settles_at_the_closed_form_and_forward_only_says_everything() -> None:
    table = simulation.path(Mode(), 0.1, steps=8000)
    end = {name: table["objective"] == name for name in ("ntp+fwd", "amvl")}
    assert table["contamination"][end["amvl"]][-1] == pytest.approx(table["rest"][end["amvl"]][-1], rel=1e-3)
    assert table["leaked"][end["ntp+fwd"]][-1] == pytest.approx(math.log(2), abs=2e-3)
    assert table["leaked"][end["amvl"]][-1] < 0.5
    assert (np.diff(table["posterior_std"][end["ntp+fwd"]]) <= 1e-12).all()


def test_an_unknown_figure_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="phase_diagram"):
        simulation.theory_figure("phase", Mode())


# show


def test_a_slider_redraws_the_image() -> None:
    pytest.importorskip("ipywidgets", reason="needs pip install -e .[notebooks]")
    seen: list[float] = []

    def draw(gamma: float) -> str:
        seen.append(gamma)
        return f"gamma = {gamma:g}"

    control = slider("gamma", 0.1, -2, 1, log=True)
    box = panel(draw, gamma=control)
    control.value = 1.0
    assert seen == [0.1, 1.0] and box.children[0] is control
    with pytest.raises(ValueError, match="at least one question"):
        counter("question", 0)


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("IPython", reason="needs pip install -e .[notebooks]")
    show("one line")
    assert capsys.readouterr().out == "one line\n"


# checkpoints


def test_the_environment_names_checkpoints_and_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMVL_CHECKPOINTS", raising=False)
    monkeypatch.delenv("AMVL_QUESTIONS", raising=False)
    assert checkpoints.chosen() == checkpoints.SHIPPED_PAIR and checkpoints.number_of_questions(7) == 7
    monkeypatch.setenv("AMVL_CHECKPOINTS", "runs/a,b/checkpoint:tiny-amvl")
    monkeypatch.setenv("AMVL_QUESTIONS", "28")
    assert checkpoints.chosen() == ("runs/a,b/checkpoint", "tiny-amvl") and checkpoints.number_of_questions(7) == 28
    monkeypatch.setenv("AMVL_CHECKPOINTS", "tiny-amvl:tiny-amvl")
    monkeypatch.setenv("AMVL_QUESTIONS", "many")
    with pytest.raises(ValueError, match="every checkpoint once"):
        checkpoints.chosen()
    with pytest.raises(ValueError, match="whole number above 0, got 'many'"):
        checkpoints.number_of_questions(7)


def test_a_label_holds_no_path_of_the_machine() -> None:
    assert checkpoints.label("tiny-amvl") == "tiny-amvl"
    assert checkpoints.label("/home/me/runs/leakage/amvl,gamma=0.001/seed2/checkpoint") == "amvl,gamma=0.001/seed2"


def test_questions_are_those_of_the_tasks_that_all_checkpoints_were_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from amvl_model.config import (load_preset)

    runs = {"a": load_preset("tiny", {"data.tasks": ("Counting", "Jigsaw")}), "b": None, "c": load_preset("tiny", {})}
    monkeypatch.setattr(checkpoints, "_run", lambda name: runs[name])
    assert {question.task for question in checkpoints.held_out(["a", "b", "c"], 6)} == {"Counting", "Jigsaw"}
    assert len({question.task for question in checkpoints.held_out(["b"], 14)}) == 14
    noisy = checkpoints.held_out(["a"], 2, label_noise=0.3)
    assert all(question.answer_probs is not None and max(question.answer_probs) < 1 for question in noisy)


def test_a_measure_is_told_with_its_interval_and_unit_or_not_at_all() -> None:
    measures = {"leaked_information": {"mean": 0.333, "low": 0.3, "high": 0.4, "unit": "nats"}}
    found = {
        "mine": Diagnosed(
            name="mine", run=None, reports={"contamination": Report(measures=measures)}, refused={}, seconds={}
        )
    }
    assert checkpoints.text(found, "mine", "contamination", "leaked_information") == "0.333 [0.3, 0.4] nats"
    assert checkpoints.text(found, "mine", "contamination", "forward_kl") == "-"
    assert checkpoints.text(found, "other", "stability", "spread") == "-"


# studies


def put(
    root: Path, cell: str, objective: str, gamma: float, *, noise: float = 0.3, seed: int = 0, leak: float = 0.1
) -> None:
    """A result file of the leakage study."""
    figures = {
        "held_out.leaked_information": leak,
        "training.known_answer_leakage": leak,
        "training.answer_entropy": 0.7 + noise,
        "answer_nll": 0.5,
        "accuracy": 0.9,
    }
    write_result(
        result_path(root, "leakage", cell, seed),
        study="leakage",
        cell=cell,
        seed=seed,
        config={"objective": {"name": objective, "beta": 0.001, "gamma": gamma}, "data": {"label_noise": noise}},
        metrics={name: Metric(value, expected_unit(name) or "nats") for name, value in figures.items()},
        wall_seconds=None,
        device="cpu",
    )


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed in (0, 1):
        put(tmp_path, "ntp+fwd", "ntp+fwd", 0.001, seed=seed, leak=0.7 + 0.1 * seed)
        put(tmp_path, "amvl,gamma=0.001", "amvl", 0.001, seed=seed, leak=0.1)
        put(tmp_path, "amvl,gamma=0.01", "amvl", 0.01, seed=seed, leak=0.01)
        put(tmp_path, "elbo", "elbo", 0.001, seed=seed, leak=0.4)
    put(tmp_path, "ntp+fwd,noise=0.5", "ntp+fwd", 0.001, noise=0.5, leak=0.9)
    put(tmp_path, "amvl,gamma=0.001,noise=0.5", "amvl", 0.001, noise=0.5, leak=0.2)
    monkeypatch.setenv("AMVL_RESULTS", str(tmp_path))
    return tmp_path


def test_the_study_is_sorted_into_gammas_objectives_and_noise_levels(study: Path) -> None:
    results = studies.runs("leakage")
    assert {gamma: len(runs) for gamma, runs in studies.gamma_cells(results).items()} == {0.0: 2, 0.001: 2, 0.01: 2}
    assert set(studies.objective_cells(results)) == {"ntp+fwd", "amvl", "elbo"}
    levels = studies.noise_cells(results)
    assert {name: sorted(cells) for name, cells in levels.items()} == {
        "forward-only": [0.3, 0.5],
        "AMVL, gamma = 0.001": [0.3, 0.5],
    }


def test_a_changed_result_changes_the_figures(study: Path) -> None:
    before = [png(make()) for make in (studies.against_gamma, studies.noise_figure, studies.objectives_figure)]
    assert before == [png(make()) for make in (studies.against_gamma, studies.noise_figure, studies.objectives_figure)]
    result_path(study, "leakage", "ntp+fwd", 1).unlink()
    put(study, "ntp+fwd", "ntp+fwd", 0.001, seed=1, leak=0.3)
    after = [png(make()) for make in (studies.against_gamma, studies.noise_figure, studies.objectives_figure)]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_means_over_seeds_stand_at_their_gamma(study: Path) -> None:
    page = studies.against_gamma(studies.LEAKAGE_PANELS[:1])
    lines = [line for line in page.axes[0].lines if len(line.get_ydata())]
    drawn = {line.get_color(): list(line.get_ydata()) for line in reversed(lines)}  # the means come before their bars
    assert drawn[METHODS["ntp+fwd"].colour] == pytest.approx([0.75])
    assert drawn[METHODS["amvl"].colour] == pytest.approx([0.1, 0.01])
    assert drawn[METHODS["elbo"].colour] == pytest.approx([0.4, 0.4])  # a line across the axes: it has no gamma
    labels = [text.get_text() for text in page.legends[0].get_texts()]
    assert [label.partition(",")[0] for label in labels] == ["forward-only", "AMVL", "ELBO"]
    assert all("(2 seeds)" in label for label in labels)
    assert [text.get_text() for text in page.axes[0].get_xticklabels()] == ["0", "0.001", "0.01"]


def test_the_source_line_counts_runs_and_changes_with_every_value(study: Path) -> None:
    before = studies.source("leakage")
    assert before.startswith("results/leakage: 10 runs of 6 cells, seeds 0, 1, digest ")
    assert before == studies.source("leakage")
    result_path(study, "leakage", "elbo", 1).unlink()
    put(study, "elbo", "elbo", 0.001, seed=1, leak=0.4000001)
    assert studies.source("leakage") != before
    assert studies.source("pareto") == studies.missing("pareto")


def test_a_main_job_with_an_accuracy_of_7_5_is_not_shown(study: Path) -> None:
    folder = study / "main_job"
    folder.mkdir()
    accuracy = {"mean": 7.5, "low": 7.4, "high": 7.6, "n": 10}
    (folder / "eval.json").write_text(json.dumps({"amvl": {"accuracy": {"likelihood": {"unweighted": accuracy}}}}))
    (folder / "diagnostics.json").write_text("{}")
    assert "a value cannot be right: amvl.accuracy.likelihood.unweighted: expected" in studies.main_job_table()


class Report:
    """A report with nothing but figures."""

    def __init__(self, **figures: Any) -> None:
        self.figures = figures

    def to_dict(self) -> dict[str, Any]:
        return self.figures


def test_what_was_measured_live_is_drawn_at_its_own_gamma(study: Path) -> None:
    from amvl_model.config import (load_preset)

    report = Report(measures={"leaked_information": {"mean": 0.33, "low": 0.3, "high": 0.4, "unit": "nats"}})
    live = Diagnosed(
        name="mine",
        run=load_preset("tiny", {"objective.gamma": 0.01}),
        reports={"contamination": report},
        refused={},
        seconds={},
    )
    page = studies.against_gamma(studies.LEAKAGE_PANELS[:1], live={"mine": live})
    drawn = next(line for line in page.axes[0].lines if line.get_label() == "mine, measured here")
    assert (drawn.get_xdata()[0], drawn.get_ydata()[0]) == (0.01, 0.33)
    assert studies.live_value(live, "zeroed.nll_difference") is None


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (studies.main_job_table, "main_job"),
        (studies.pareto_figure, "pareto"),
        (studies.pareto_verdict, "pareto"),
        (studies.against_gamma, "leakage"),
        (studies.noise_figure, "leakage"),
        (studies.objectives_figure, "leakage"),
        (lambda: studies.prediction_summary()[0], "prediction"),
    ],
)
def test_a_missing_result_is_one_line_with_the_command_that_makes_it(
    make: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMVL_RESULTS", str(tmp_path))
    told = make()
    assert isinstance(told, str) and "\n" not in told and str(tmp_path) not in told
    assert told.startswith(f"results/{name} is not there") and studies.COMMANDS[name] in told


def test_a_damaged_result_is_one_line_too(study: Path) -> None:
    result_path(study, "leakage", "elbo", 0).write_text("{", encoding="utf-8")
    told = studies.against_gamma()
    assert isinstance(told, str) and "unreadable: seed0.json" in told and "\n" not in told


def test_the_commands_that_make_results_name_programs_that_are_there() -> None:
    for command in studies.COMMANDS.values():
        assert (PROJECT_ROOT / command.split()[1]).is_file(), command


def test_the_shipped_main_job_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMVL_RESULTS", raising=False)
    told = studies.main_job_table()
    assert "forward-only" in told and "leaked information, uniform options [nats]" in told


# training


def test_the_log_has_the_rows_of_training_alone(tmp_path: Path) -> None:
    rows = [{"step": 10, "ntp": 2.0}, {"step": 10, "probe": 1.0}, {"step": 20, "ntp": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert training.log(tmp_path) == [rows[0], rows[2]]


def test_a_curve_is_the_logged_column() -> None:
    rows = [{"step": 10, "ntp": 2.0}, {"step": 20, "ntp": 1.0}]
    ax = training.draw_curve({"AMVL": rows}, "ntp", "nats", log=True)
    assert ax.lines[0].get_xdata().tolist() == [10, 20] and ax.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert ax.get_yscale() == "log"


# prediction


def linear_checkpoint(gamma: float, count: int = 12) -> Diagnosed:
    """A checkpoint that is what the theory says: options in two orthogonal pulls, posteriors where T4 puts them."""
    from amvl_model.config import (load_preset)

    rng = np.random.default_rng(3)
    responses, leaked = [], []
    for i in range(count):
        forces = np.zeros((2, 3))
        forces[:, 0] = rng.uniform(0.2, 2.0) * np.array([1.0, -1.0])
        bare = project(
            question_id=str(i), task="t", forces=forces, answer_probs=np.array([0.5, 0.5]),
            prior=(np.zeros(3), np.ones(3)), posteriors=(np.zeros((2, 3)), np.ones((2, 3))), weights=np.full(2, 0.5),
        )  # fmt: skip
        model = MeanLeakageModel(**bare.arrays())
        apart = np.sqrt(spread(model, gamma)[0, 0]) * np.array([1.0, -1.0])
        means = apart[:, None] * bare.directions
        responses.append(
            project(
                question_id=str(i),
                task="t",
                forces=forces,
                answer_probs=np.array([0.5, 0.5]),
                prior=(np.zeros(3), np.ones(3)),
                posteriors=(means, np.ones((2, 3))),
                weights=np.full(2, 0.5),
            )
        )
        leaked.append(min(leaked_information(model, gamma), math.log(2)))

    class Response:
        def __init__(self) -> None:
            self.responses = responses

        def arrays(self, i: int) -> Any:
            return responses[i].arrays()

    contamination = type("C", (), {"per_question": {"leaked_information": leaked}})()
    return Diagnosed(
        name="linear",
        run=load_preset("tiny", {"objective.gamma": gamma}),
        reports={"linear-response": Response(), "contamination": contamination},
        refused={},
        seconds={},
    )


def test_on_a_linear_gaussian_checkpoint_prediction_and_measurement_are_one() -> None:
    found = prediction.predicted(linear_checkpoint(0.3))
    assert found.spread == pytest.approx(found.measured_spread, rel=1e-9)
    assert found.leaked == pytest.approx(found.measured, rel=1e-9)
    assert found.critical == pytest.approx(2.0)  # G = H where the model is calibrated
    assert (np.diff(found.curve, axis=1) <= 1e-12).all()
    told = prediction.sentences({"linear": found})
    assert "rank correlation over 12 questions +1.00 [+1.00, +1.00]" in told
    assert isinstance(prediction.figure({"linear": found}), Figure)


def test_a_checkpoint_without_its_run_has_no_gamma_to_predict_at() -> None:
    unknown = Diagnosed(name="mine", run=None, reports={}, refused={}, seconds={})
    with pytest.raises(ValueError, match="expected a run of amvl or ntp\\+fwd beside the checkpoint"):
        prediction.predicted(unknown)


def test_rank_correlation_of_a_constant_is_not_a_number_and_of_noise_includes_zero() -> None:
    rng = np.random.default_rng(0)
    assert all(math.isnan(value) for value in prediction.rank_correlation(np.ones(9), np.arange(9.0)))
    value, low, high = prediction.rank_correlation(rng.normal(size=200), rng.normal(size=200))
    assert low < 0 < high and abs(value) < 0.2
    with pytest.raises(ValueError, match="three pairs or more"):
        prediction.rank_correlation(np.ones(2), np.ones(2))
