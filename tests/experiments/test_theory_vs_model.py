"""The ladder from theory to training: exact where the answer is known, halves that see not themselves, scores that can lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import brentq

from amvl_model.diagnostics.response.free_posterior import Search
from amvl_model.diagnostics.response.linear_response import measure_linear_response
from amvl_model.results.files import Metric, read_result
from amvl_theory import (
    MeanLeakageModel,
    frozen_prior_response,
    leaked_information,
    self_consistent_spread,
    sparse_spread,
    spread,
)
from experiments import theory_vs_checkpoints
from experiments.theory_vs_model.ladder import climb, climb_heads, direction, figures
from experiments.theory_vs_model.plan import Plan
from experiments.theory_vs_model.reference import Reference, measure_references
from experiments.theory_vs_model.rungs import letter_rung
from experiments.theory_vs_model.scores import (
    baseline_points,
    digest,
    error_of,
    gamma_points,
    pair_means,
    rank_correlation,
    rung_gap,
    verdict,
)
from experiments.theory_vs_model.study import cell_gamma, draw, measure_trained, read_tables, score, write_climb
from experiments.theory_vs_model.tables import REFERENCE, TRAINED, Table, read_table, write_table
from experiments.theory_vs_model.theory import (
    NoRestPointError,
    Posteriors,
    halves,
    held_prior,
    letter_averages,
    measured_precision,
    moving_prior,
)
from tests import helpers

NOISE = helpers.NOISE


def instance(seed: int, options: int = 3, size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forces, a dense positive definite curvature and answer weights."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    weights = rng.uniform(0.2, 1.0, options)
    return rng.normal(size=(options, size)), root @ root.T + 0.3 * np.eye(size), weights / weights.sum()


# ------------------------------------------------------------------ theory


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_t4_is_the_theory_packages_spread_and_response(gamma: float) -> None:
    forces, curvature, _ = instance(0)
    widths = np.random.default_rng(1).uniform(0.4, 2.0, 4)
    found = measured_precision(forces, curvature, np.tile(widths, (3, 1)), gamma)
    centred = forces - forces.mean(0)
    model = MeanLeakageModel(curvature, forces.mean(0), centred.T @ centred / 3, np.diag(widths**-2.0), 1.0, 0.0)
    deviation = found.shifts - found.shifts.mean(0)
    np.testing.assert_allclose(deviation.T @ deviation / 3, spread(model, gamma), atol=1e-9)
    np.testing.assert_allclose(found.shifts.mean(0), frozen_prior_response(model, gamma), atol=1e-9)
    channel = 0.5 * np.linalg.slogdet(np.eye(4) + np.diag(widths**-2.0) @ (deviation.T @ deviation) / 3)[1]
    assert channel == pytest.approx(leaked_information(model, gamma))


def test_with_the_prior_held_mean_and_width_solve_their_equations() -> None:
    force, h, gamma = 0.8, 1.3, 0.2

    def imbalance(s2: float) -> float:
        delta = force / (h + gamma / s2)
        return h * s2**2 + gamma * s2 - gamma * (1 + delta**2)

    found = held_prior(np.array([[force]]), np.array([[h]]), gamma)
    s2 = brentq(imbalance, 1e-6, 10.0)
    assert found.widths[0, 0] ** 2 == pytest.approx(s2, rel=1e-4)
    assert found.shifts[0, 0] == pytest.approx(force / (h + gamma / s2), rel=1e-4)
    forces, curvature, _ = instance(2)
    dense = held_prior(forces, curvature, gamma)
    for delta, s in zip(dense.shifts, dense.widths, strict=True):
        g = forces[np.flatnonzero((dense.shifts == delta).all(1))[0]]
        np.testing.assert_allclose(curvature @ delta + gamma * delta / s**2, g, atol=1e-4)
        np.testing.assert_allclose(np.diag(curvature) * s**4 + gamma * s**2, gamma * (1 + delta**2), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_with_a_prior_that_follows_one_mode_is_t6_in_closed_form(gamma: float) -> None:
    found = moving_prior(np.array([[1.0], [-1.0]]), np.array([[1.3]]), np.array([0.5, 0.5]), gamma)
    expected = self_consistent_spread(1.0, 1.3, gamma)
    snr = np.mean(found.shifts**2) / found.widths[0, 0] ** 2
    assert snr == pytest.approx(float(expected.snr), rel=1e-3)
    assert found.widths[0, 0] ** 2 + np.mean(found.shifts**2) == pytest.approx(
        1.0
    )  # in units of the prior that has followed


def test_above_the_critical_weight_nothing_is_left() -> None:
    found = moving_prior(np.array([[1.0], [-1.0]]), np.array([[1.3]]), np.array([0.5, 0.5]), 2.5)
    np.testing.assert_allclose(found.shifts, 0.0, atol=1e-3)


def test_several_modes_are_the_group_lasso_of_the_theory_package() -> None:
    forces, curvature, weights = instance(3)
    found = moving_prior(forces, curvature, weights, 0.3)
    exact = sparse_spread(curvature, forces - weights @ forces, 0.3, weights)
    ratio = exact.variance / np.where(exact.active, exact.posterior_variance, 1.0)
    mine = (weights @ found.shifts**2) / found.widths[0] ** 2
    np.testing.assert_allclose(mine[exact.active], ratio[exact.active], rtol=0.02)
    assert (mine[~exact.active] < 0.02).all()


def test_a_weight_without_limit_leaves_nothing_to_leak() -> None:
    forces, curvature, weights = instance(5)
    heavy = 1e4
    found = (
        measured_precision(forces, curvature, np.ones_like(forces), heavy),
        held_prior(forces, curvature, heavy),
        moving_prior(forces, curvature, weights, heavy),
    )
    for each in found:
        values = figures([each], [weights], 256, 0)
        assert values["leak"][0] == pytest.approx(0.0, abs=1e-5) and values["shift"][0] == pytest.approx(0.0, abs=1e-2)


def test_a_slope_without_curvature_has_no_rest_point() -> None:
    with pytest.raises(NoRestPointError, match="no rest point"):
        held_prior(np.array([[1.0]]), np.array([[0.0]]), 0.1)


@pytest.mark.parametrize("rule", [held_prior, lambda g, h, x: moving_prior(g, h, np.ones(3) / 3, x)])
def test_without_gamma_widths_have_no_rest_point(rule: Any) -> None:
    with pytest.raises(ValueError, match="gamma must be above 0"):
        rule(*instance(0)[:2], 0.0)


# ------------------------------------------------------------------ letters and halves


def references(count: int, letter: float, own: float, *, task: str = "t") -> list[Reference]:
    """Two-option questions whose force is letter * code + own * something of the question's own."""
    rng = np.random.default_rng(4)
    code = np.array([1.0, 0.0, 0.0, 0.0])
    found = []
    for i in range(count):
        private = rng.normal(size=4) * np.array([0.0, 1.0, 1.0, 1.0])
        force = letter * code + own * private
        found.append(
            Reference(
                question_id=f"q{i}",
                task=task,
                forces=np.stack([force, -force]),
                answer_probs=np.array([0.5, 0.5]),
                known_probs=np.array([0.7, 0.3]) if i % 2 else np.array([0.3, 0.7]),
                shifts=np.zeros((2, 4)),
                widths=np.ones((2, 4)),
            )
        )
    return found


def test_a_letter_code_survives_the_average_and_what_is_a_questions_own_does_not() -> None:
    kept = letter_averages(references(400, 1.0, 0.0))["t"]
    np.testing.assert_allclose(kept.forces, [[1, 0, 0, 0], [-1, 0, 0, 0]], atol=1e-12)
    lost = letter_averages(references(400, 0.0, 1.0))["t"]
    assert np.abs(lost.forces).max() < 0.2
    assert lost.weights.sum() == pytest.approx(1.0)
    assert lost.curvatures[0, 1, 1] == pytest.approx(1.0, rel=0.3)  # the curvature does not average out


def test_a_question_is_predicted_from_the_other_half_only() -> None:
    questions = references(20, 1.0, 0.3)
    half = halves(20, seed=0)
    assert sorted(half.tolist()) == [0] * 10 + [1] * 10
    plain = letter_rung(questions, half, [0.1])[0.1]
    changed = [replace(q, forces=9 * q.forces) if h == 0 else q for q, h in zip(questions, half, strict=True)]
    after = letter_rung(changed, half, [0.1])[0.1]
    for h, a, b in zip(half, plain, after, strict=True):
        assert a is not None and b is not None
        assert np.allclose(a.shifts, b.shifts) == (h == 0)


# ------------------------------------------------------------------ a real model


def test_references_have_the_linear_responses_forces_in_prior_units() -> None:
    model = helpers.tiny_model()
    found = measure_references(model, helpers.processor(), helpers.noisy_questions(), progress=False)
    report = measure_linear_response(
        model, helpers.processor(), helpers.noisy_questions(), hessian=False, progress=False
    )
    for mine, theirs in zip(found, report.responses, strict=True):
        assert mine.question_id == theirs.question_id
        np.testing.assert_allclose(mine.forces @ mine.forces.T, theirs.forces @ theirs.forces.T, rtol=1e-3, atol=1e-9)
        assert np.trace(mine.curvature) == pytest.approx(np.trace(theirs.curvature), rel=1e-3)
        assert max(mine.known_probs) == pytest.approx(1 - NOISE)


def test_references_need_known_answer_probabilities() -> None:
    plain = [replace(each, answer_probs=None) for each in helpers.noisy_questions()]
    with pytest.raises(ValueError, match="known answer probabilities"):
        measure_references(helpers.tiny_model(), helpers.processor(), plain, progress=False)


# ------------------------------------------------------------------ scores


def table(measured: dict[float, float], predicted: dict[float, float], *, n: int = 12, jitter: int = 0) -> Table:
    rng = np.random.default_rng(jitter)
    shape = np.exp(0.2 * rng.normal(size=n))
    rows = {}
    for gamma, value in measured.items():
        rows[NOISE, TRAINED, gamma, "leak"] = value * shape / shape.mean()
    for gamma, value in predicted.items():
        rows[NOISE, "rung", gamma, "leak"] = value * shape / shape.mean()
    rows[NOISE, REFERENCE, 0.1, "leak"] = np.full(n, 0.25)
    return Table(ids=tuple(f"q{i}" for i in range(n)), tasks=tuple("ab"[i % 2] for i in range(n)), rows=rows)


def test_errors_are_zero_for_a_right_prediction_and_log_two_for_twice_as_much() -> None:
    right = {0: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.2, 1.0: 0.05})}
    assert error_of(gamma_points(right, "rung", "leak", (0.1, 1.0), NOISE), "leak").error.mean == pytest.approx(0)
    twice = {seed: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.4, 1.0: 0.1}, jitter=seed) for seed in (0, 1)}
    found = error_of(gamma_points(twice, "rung", "leak", (0.1, 1.0), NOISE), "leak")
    assert found.error.mean == pytest.approx(np.log(2))
    assert found.bias == pytest.approx(np.log(2))
    assert found.points == 4 and found.error.low == pytest.approx(np.log(2))
    gap = rung_gap(twice, "rung", TRAINED, "leak", NOISE)
    assert gap is not None and gap.bias == pytest.approx(np.log(2))


def test_values_below_the_floor_count_as_the_floor() -> None:
    found = error_of({(0, 1.0): (1e-9, 1e-6)}, "leak")
    assert found.error.mean == 0.0 and found.error.low is None


def test_the_power_law_baseline_is_exact_for_a_power_law_and_gamma_alone_leaves_the_seed_out() -> None:
    measured = {(seed, gamma): 0.3 / gamma**0.5 for seed in (0, 1, 2) for gamma in (0.01, 0.1, 1.0)}
    measured[2, 1.0] = 30.0
    points = baseline_points(measured, {0: 7.0})
    exact = baseline_points({k: v for k, v in measured.items() if k[0] < 2}, {})["power law"]
    for predicted, value in exact.values():
        assert predicted == pytest.approx(value)
    assert points["gamma alone"][2, 1.0] == (pytest.approx(0.3), 30.0)
    assert points["gamma alone"][0, 1.0][0] == pytest.approx(3.0)  # sqrt(0.3 * 30)
    assert set(points["persistence"]) == {(0, 0.01), (0, 0.1), (0, 1.0)}


def test_means_are_taken_over_the_questions_that_both_have() -> None:
    assert pair_means(np.array([1.0, np.nan, 3.0]), np.array([2.0, 9.0, np.nan])) == (1.0, 2.0)
    assert pair_means(np.array([np.nan]), np.array([1.0])) is None


def test_rank_correlation_within_tasks_ignores_what_the_task_alone_says() -> None:
    step = np.arange(16.0)
    base = np.where(step % 2 == 0, 0.0, 100.0)
    rows = {
        (NOISE, TRAINED, 1.0, "leak"): base + step,
        (NOISE, "rung", 1.0, "leak"): base - step,
        (NOISE, "flat", 1.0, "leak"): np.ones(16),
    }
    tables = {0: Table(ids=tuple(map(str, range(16))), tasks=tuple("ab"[i % 2] for i in range(16)), rows=rows)}
    whole = rank_correlation(tables, "rung", "leak", 1.0, NOISE, n_bootstrap=50)
    inside = rank_correlation(tables, "rung", "leak", 1.0, NOISE, within_tasks=True, n_bootstrap=50)
    assert whole is not None and inside is not None and whole.low is not None
    assert whole.mean > 0.3 and inside.mean == pytest.approx(-1.0)
    assert rank_correlation(tables, "flat", "leak", 1.0, NOISE, n_bootstrap=50) is None


# ------------------------------------------------------------------ files and figure


def test_tables_come_back_as_they_were_written_and_half_a_table_is_refused(tmp_path: Path) -> None:
    one = table({0.1: 0.2}, {0.1: 0.4})
    write_table(tmp_path / "seed0.csv", one)
    again = read_table(tmp_path / "seed0.csv")
    assert again.ids == one.ids and again.tasks == one.tasks and again.rows.keys() == one.rows.keys()
    for key, values in one.rows.items():
        np.testing.assert_allclose(again.rows[key], values, rtol=1e-3)
    text = (tmp_path / "seed0.csv").read_text()
    (tmp_path / "seed0.csv").write_text(text[: text.rindex(",") - 20])
    with pytest.raises(ValueError, match="half of one"):
        read_table(tmp_path / "seed0.csv")


def test_the_figure_has_units_and_shows_other_data_differently() -> None:
    plan = Plan(gammas=(0.1, 1.0), more_gammas=())
    page = draw({"cell": {0: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.4, 1.0: 0.1})}}, plan)
    ax = page.axes[0]
    assert "[nats]" in ax.get_ylabel() and "[1]" in page.axes[-1].get_xlabel() and ax.get_yscale() == "log"
    other = draw({"cell": {0: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.3, 1.0: 0.1})}}, plan)
    assert drawn_values(page) != drawn_values(other)


def drawn_values(page: Figure) -> list[list[float]]:
    return [list(line.get_ydata()) for ax in page.axes for line in ax.lines]


def test_figures_of_posteriors_that_say_nothing_are_zero_and_missing_ones_stay_missing() -> None:
    blind = Posteriors(shifts=np.ones((2, 3)), widths=np.ones((2, 3)))
    values = figures([blind, None], [np.array([0.7, 0.3])] * 2, 16, 0)
    assert values["leak"] == [pytest.approx(0.0, abs=1e-9), None] and values["spread"][0] == 0.0


def test_the_direction_is_the_cosine_of_the_spread_and_the_shift_counts_the_common_part() -> None:
    a = Posteriors(shifts=np.array([[1.0, 5.0], [-1.0, 5.0]]), widths=np.ones((2, 2)))
    b = Posteriors(shifts=np.array([[3.0, 0.0], [1.0, 0.0]]), widths=np.ones((2, 2)))
    assert direction(a, b) == pytest.approx(1.0)
    assert direction(a, Posteriors(shifts=-b.shifts, widths=b.widths)) == pytest.approx(-1.0)
    assert direction(a, Posteriors(shifts=b.shifts[:, ::-1], widths=b.widths)) == pytest.approx(0.0)
    assert direction(a, Posteriors(shifts=np.ones((2, 2)), widths=b.widths)) is None
    values = figures([a], [np.array([0.5, 0.5])], 16, 0, [b])
    assert values["shift"][0] == pytest.approx(np.sqrt(26.0)) and values["spread"][0] == pytest.approx(1.0)
    assert values["direction"] == [pytest.approx(1.0)]


def test_the_verdict_ranks_rungs_of_all_points_and_names_the_others_apart() -> None:
    def metric(value: float, points: int) -> Metric:
        return Metric(value, "nats of ratio", None, None, points)

    told = verdict(
        {
            "error.leak.T4": metric(3.0, 20),
            "error.leak.both heads 300": metric(2.0, 20),
            "error.leak.head 300": metric(1.0, 5),
            "error.leak.gamma alone": metric(1.5, 20),
            "error.leak.power law": metric(0.9, 20),
        },
        "leak",
    )
    assert "best rung both heads 300 2.00; power law 0.90; gamma alone 1.50; head 300 1.00 at 5 of 20 points" in told


def test_gamma_of_a_cell() -> None:
    assert cell_gamma("ntp+fwd") == 0.0 and cell_gamma("amvl,gamma=0.003") == 0.003
    with pytest.raises(ValueError, match="has no cell 'other'"):
        cell_gamma("other")


def test_a_climb_from_checkpoint_to_scores(tmp_path: Path) -> None:
    plan = Plan(
        gammas=(0.001, 0.01),
        more_gammas=(1.0,),
        noises=(0.5,),
        tasks=("Counting", "Relative_Depth"),
        questions=8,
        free_questions=2,
        free_gammas=(0.01, 1.0),
        heads=("head 2", "both heads 2"),
        both_gammas=(0.001, 0.01),
        few_gammas=(0.01,),
        head_questions=32,
        samples=16,
        search=Search(steps=8, rounds=1),
    )
    model, processor = helpers.tiny_model(), helpers.processor()
    for cell in ("ntp+fwd", "amvl,gamma=0.01"):
        folder = tmp_path / "kept" / cell / "seed0" / "checkpoint"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    found = climb(model, processor, plan)
    assert all(len(v["leak"]) == 8 for by_gamma in found.rungs.values() for v in by_gamma.values())
    # an untrained decoder puts next to nothing on the letters: forces without curvature, and no rest point to predict
    assert found.rungs["T6 held"][0.001]["leak"] == [None] * 8
    assert [x is None for x in found.rungs["free"][1.0]["leak"]] == [False] * 2 + [True] * 6
    heads = climb_heads(model, processor, 0, plan)
    assert set(heads.rungs["head 2"]) == {0.01} and set(heads.rungs["both heads 2"]) == {0.001, 0.01}
    assert heads.noise_rungs[0.5]["both heads 2"]["leak"][0] is not None
    assert heads.rungs["head 2"][0.01]["direction"][0] is not None
    assert measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, plan) == ["amvl,gamma=0.01", "ntp+fwd"]
    assert measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, plan) == []
    target = tmp_path / "prediction" / "ntp+fwd" / "seed0.json"
    write_climb(target, "ntp+fwd", 0, found, plan, 1.0)
    write_climb(tmp_path / "prediction" / "ntp+fwd,heads" / "seed0.json", "ntp+fwd", 0, heads, plan, 1.0)
    assert read_result(target).metrics["leak.T4.gamma=1"].unit == "nats"
    np.testing.assert_allclose(
        read_tables(tmp_path / "prediction", "ntp+fwd")[0].rows[NOISE, TRAINED, 0.0, "leak"],
        found.reference["leak"],
        rtol=1e-3,
        atol=1e-9,
    )
    text = score(tmp_path / "prediction", ["ntp+fwd"], plan)
    assert "held-out gammas" in text and (tmp_path / "prediction" / "prediction.png").stat().st_size > 10_000
    scores = read_result(tmp_path / "prediction" / "ntp+fwd,scores" / "seed0.json").metrics
    assert scores["error.leak.persistence"].n == 1 and scores["error.leak.T4"].value is not None
    told = digest(scores, "ntp+fwd")
    assert "leak, held-out gammas: best theory" in told and "both heads 2" in told and "persistence" in told
    assert scores["error.shift.both heads 2"].n == 1 and "gap.leak.head 2 > both heads 2" in scores
    assert -1 <= scores["direction.both heads 2.gamma=0.001"].value <= 1
    with pytest.raises(ValueError, match="measured on other questions"):
        measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, replace(plan, questions=4))


def test_the_script_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert theory_vs_checkpoints.main(["--checkpoints", str(tmp_path), "--reference", "ntp+fwd"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert theory_vs_checkpoints.main(["--summary", "--out", str(tmp_path)]) == 2
    assert "no predictions in" in capsys.readouterr().err
