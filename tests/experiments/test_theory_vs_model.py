"""Approximation levels between theory and training: exact where the answer is known, split halves, scores that can lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from amvl_model.diagnostics.response.free_posterior import Search
from amvl_model.diagnostics.response.linear_response import measure_linear_response
from amvl_model.results.files import Metric, read_result
from amvl_theory import (
    AnswerPosteriors,
    HeadRates,
    fixed_precision_posteriors,
    held_prior_posteriors,
    moving_prior_posteriors,
    widening,
)
from experiments import theory_vs_checkpoints
from experiments.theory_vs_model.levels.linear import letter_level
from experiments.theory_vs_model.levels.transient import transient_rows
from experiments.theory_vs_model.plan import Plan
from experiments.theory_vs_model.predictions import direction, figures, predict, predict_with_heads
from experiments.theory_vs_model.reference import Reference, halves, letter_averages, measure_references
from experiments.theory_vs_model.scoring.scores import (
    baseline_points,
    error_of,
    level_gap,
    level_points,
    pair_means,
    rank_correlation,
)
from experiments.theory_vs_model.scoring.summary import digest, verdict
from experiments.theory_vs_model.scoring.tables import REFERENCE, TRAINED, Table, read_table, write_table
from experiments.theory_vs_model.study import cell_gamma, draw, measure_trained, read_tables, score, write_prediction
from tests import helpers

NOISE, ROOT = helpers.NOISE, Path(__file__).resolve().parents[2]
CELLS = {gamma: (NOISE, gamma) for gamma in (0.1, 1.0)}


# ------------------------------------------------------------------ letters and halves


def references(count: int, letter: float, own: float, *, task: str = "t") -> list[Reference]:
    """Two-option questions whose force is letter * code + own * something of the question's own."""
    rng = np.random.default_rng(4)
    code = np.array([1.0, 0.0, 0.0, 0.0])
    questions = []
    for i in range(count):
        private = rng.normal(size=4) * np.array([0.0, 1.0, 1.0, 1.0])
        force = letter * code + own * private
        questions.append(
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
    return questions


def test_a_letter_code_survives_the_average_and_what_is_a_questions_own_does_not() -> None:
    shared = letter_averages(references(400, 1.0, 0.0))["t"]
    np.testing.assert_allclose(shared.forces, [[1, 0, 0, 0], [-1, 0, 0, 0]], atol=1e-12)
    private = letter_averages(references(400, 0.0, 1.0))["t"]
    assert np.abs(private.forces).max() < 0.2
    assert private.weights.sum() == pytest.approx(1.0)
    assert private.curvatures[0, 1, 1] == pytest.approx(1.0, rel=0.3)  # the curvature does not average out


def test_a_question_is_predicted_from_the_other_half_only() -> None:
    questions = references(20, 1.0, 0.3)
    half = halves(20, seed=0)
    assert sorted(half.tolist()) == [0] * 10 + [1] * 10
    plain = letter_level(questions, half, [0.1])[0.1]
    changed = [replace(q, forces=9 * q.forces) if h == 0 else q for q, h in zip(questions, half, strict=True)]
    after = letter_level(changed, half, [0.1])[0.1]
    for h, a, b in zip(half, plain, after, strict=True):
        assert a is not None and b is not None
        assert np.allclose(a.shifts, b.shifts) == (h == 0)


# ------------------------------------------------------------------ a real model


def test_references_have_the_linear_responses_forces_in_prior_units() -> None:
    model = helpers.tiny_model()
    measured = measure_references(model, helpers.processor(), helpers.noisy_questions(), progress=False)
    report = measure_linear_response(
        model, helpers.processor(), helpers.noisy_questions(), hessian=False, progress=False
    )
    for reference, response in zip(measured, report.responses, strict=True):
        assert reference.question_id == response.question_id
        np.testing.assert_allclose(
            reference.forces @ reference.forces.T, response.forces @ response.forces.T, rtol=1e-3, atol=1e-9
        )
        assert np.trace(reference.curvature) == pytest.approx(np.trace(response.curvature), rel=1e-3)
        assert max(reference.known_probs) == pytest.approx(1 - NOISE)


def test_references_need_known_answer_probabilities() -> None:
    plain = [replace(question, answer_probs=None) for question in helpers.noisy_questions()]
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
        rows[NOISE, "level", gamma, "leak"] = value * shape / shape.mean()
    rows[NOISE, REFERENCE, 0.1, "leak"] = np.full(n, 0.25)
    return Table(ids=tuple(f"q{i}" for i in range(n)), tasks=tuple("ab"[i % 2] for i in range(n)), rows=rows)


def test_errors_are_zero_for_a_right_prediction_and_log_two_for_twice_as_much() -> None:
    right = {0: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.2, 1.0: 0.05})}
    assert error_of(level_points(right, "level", "leak", CELLS), "leak").error.mean == pytest.approx(0)
    twice = {seed: table({0.1: 0.2, 1.0: 0.05}, {0.1: 0.4, 1.0: 0.1}, jitter=seed) for seed in (0, 1)}
    error = error_of(level_points(twice, "level", "leak", CELLS), "leak")
    assert error.error.mean == pytest.approx(np.log(2))
    assert error.bias == pytest.approx(np.log(2))
    assert error.points == 4 and error.error.low == pytest.approx(np.log(2))
    gap = level_gap(twice, "level", TRAINED, "leak", NOISE)
    assert gap is not None and gap.bias == pytest.approx(np.log(2))


def test_values_below_the_floor_count_as_the_floor() -> None:
    error = error_of({(0, 1.0): (1e-9, 1e-6)}, "leak")
    assert error.error.mean == 0.0 and error.error.low is None


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


def test_baselines_without_the_seed_itself_are_exact_for_one_power_of_gamma_and_any_size() -> None:
    measured = {(seed, gamma): size / gamma for seed, size in enumerate((1.0, 3.0, 9.0)) for gamma in (0.001, 0.01)}
    points = baseline_points(measured, {seed: 3.0**seed / 0.0003 for seed in range(3)}, 0.0003)
    assert all(p == pytest.approx(m) for p, m in points["persistence, scaled"].values())
    assert points["power law, other seeds"][0, 0.001][0] == pytest.approx(np.sqrt(27.0) / 0.001)
    assert "persistence, scaled" not in baseline_points(measured, {}, 0.0)


def test_the_transient_is_t10_integrated_and_adam_bounds_what_gamma_adds() -> None:
    leaks, answer_var, start, prior_rate, run = np.array([0.002, 0.01]), 4.0, 0.05, 50.0, 300.0
    rates = HeadRates(posterior_std=0.5, prior_std=prior_rate, posterior_mean=0, prior_mean=0)

    def width(gamma: float) -> float:
        path = widening(
            [0, run], gap=0, gamma=gamma, beta=1, rates=rates, fixed_gap_var=answer_var,
            posterior_std=start**0.5, prior_std=(start + answer_var) ** 0.5,
        )  # fmt: skip
        return float(path.posterior_var[-1])

    own = Table(ids=("a", "b"), tasks=("t", "t"), rows={(0.3, REFERENCE, 0.001, "leak"): leaks})
    rows = transient_rows(own, 0.001, (start**0.5, width(0.001) ** 0.5), (0.0001, 0.001, 0.01), 0.3)
    for gamma in (0.0001, 0.001, 0.01):
        expected = 0.5 * np.log1p(np.expm1(2 * leaks) * width(0.001) / width(gamma))
        assert rows[0.3, "T10", gamma, "leak"] == pytest.approx(expected, rel=0.02)
    assert rows[0.3, "T10", 0.001, "leak"] == pytest.approx(leaks) == rows[0.3, "T10 Adam", 0.001, "leak"]
    assert (rows[0.3, "T10 Adam", 0.01, "leak"] > 0.98 * leaks).all()
    with pytest.raises(ValueError, match="widths above 0"):
        transient_rows(own, 0.001, (0.0, 1.0), (0.01,), 0.3)


def test_the_scores_of_the_transient_are_those_of_the_committed_results() -> None:
    root = ROOT / "results" / "prediction"
    stored = read_result(root / "amvl,gamma=0.0003,scores" / "seed0.json").metrics
    tables = read_tables(root, "amvl,gamma=0.0003")
    again = error_of(
        level_points(tables, "T10", "leak", {gamma: (0.3, gamma) for gamma in (0.0001, 0.001, 0.003, 0.01)}), "leak"
    )
    assert again.points == 20 and stored["error.leak.T10"].value == pytest.approx(again.error.mean)
    assert stored["error.leak.power law, other seeds"].value == pytest.approx(1.16, abs=0.005)
    assert stored["error.leak.T10"].value < stored["error.leak.T10 Adam"].value
    assert not any("T10" in name for name in read_tables(root, "ntp+fwd")[0].levels())


def test_means_are_taken_over_the_questions_that_both_have() -> None:
    assert pair_means(np.array([1.0, np.nan, 3.0]), np.array([2.0, 9.0, np.nan])) == (1.0, 2.0)
    assert pair_means(np.array([np.nan]), np.array([1.0])) is None


def test_rank_correlation_within_tasks_ignores_what_the_task_alone_says() -> None:
    step = np.arange(16.0)
    base = np.where(step % 2 == 0, 0.0, 100.0)
    rows = {
        (NOISE, TRAINED, 1.0, "leak"): base + step,
        (NOISE, "level", 1.0, "leak"): base - step,
        (NOISE, "flat", 1.0, "leak"): np.ones(16),
    }
    tables = {0: Table(ids=tuple(map(str, range(16))), tasks=tuple("ab"[i % 2] for i in range(16)), rows=rows)}
    whole = rank_correlation(tables, "level", "leak", 1.0, NOISE, n_bootstrap=50)
    inside = rank_correlation(tables, "level", "leak", 1.0, NOISE, within_tasks=True, n_bootstrap=50)
    assert whole is not None and inside is not None and whole.low is not None
    assert whole.mean > 0.3 and inside.mean == pytest.approx(-1.0)
    assert rank_correlation(tables, "flat", "leak", 1.0, NOISE, n_bootstrap=50) is None


# ------------------------------------------------------------------ files and figure


def test_a_weight_without_limit_leaves_nothing_to_leak() -> None:
    rng = np.random.default_rng(5)
    root, forces, weights = rng.normal(size=(4, 4)), rng.normal(size=(3, 4)), np.array([0.5, 0.3, 0.2])
    curvature, heavy = root @ root.T + 0.3 * np.eye(4), 1e4
    for posteriors in (
        fixed_precision_posteriors(forces, curvature, np.ones_like(forces), heavy),
        held_prior_posteriors(forces, curvature, heavy),
        moving_prior_posteriors(forces, curvature, weights, heavy),
    ):
        values = figures([posteriors], [weights], 256, 0)
        assert values["leak"][0] == pytest.approx(0.0, abs=1e-5) and values["shift"][0] == pytest.approx(0.0, abs=1e-2)


def test_tables_come_back_as_they_were_written_and_half_a_table_is_refused(tmp_path: Path) -> None:
    one = table({0.1: 0.2}, {0.1: 0.4})
    write_table(tmp_path / "seed0.csv", one)
    again = read_table(tmp_path / "seed0.csv")
    assert again.ids == one.ids and again.tasks == one.tasks and again.rows.keys() == one.rows.keys()
    for key, values in one.rows.items():
        np.testing.assert_allclose(again.rows[key], values, rtol=1e-3)
    text = (tmp_path / "seed0.csv").read_text()
    (tmp_path / "seed1.csv").write_text(text.replace("noise,level,", "noise,rung,", 1))  # as earlier versions wrote it
    assert read_table(tmp_path / "seed1.csv").rows.keys() == one.rows.keys()
    (tmp_path / "seed0.csv").write_text(text[: text.rindex(",") - 20])
    with pytest.raises(ValueError, match="not a complete table"):
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
    blind = AnswerPosteriors(shifts=np.ones((2, 3)), widths=np.ones((2, 3)))
    values = figures([blind, None], [np.array([0.7, 0.3])] * 2, 16, 0)
    assert values["leak"] == [pytest.approx(0.0, abs=1e-9), None] and values["spread"][0] == 0.0


def test_the_direction_is_the_cosine_of_the_spread_and_the_shift_counts_the_common_part() -> None:
    a = AnswerPosteriors(shifts=np.array([[1.0, 5.0], [-1.0, 5.0]]), widths=np.ones((2, 2)))
    b = AnswerPosteriors(shifts=np.array([[3.0, 0.0], [1.0, 0.0]]), widths=np.ones((2, 2)))
    assert direction(a, b) == pytest.approx(1.0)
    assert direction(a, AnswerPosteriors(shifts=-b.shifts, widths=b.widths)) == pytest.approx(-1.0)
    assert direction(a, AnswerPosteriors(shifts=b.shifts[:, ::-1], widths=b.widths)) == pytest.approx(0.0)
    assert direction(a, AnswerPosteriors(shifts=np.ones((2, 2)), widths=b.widths)) is None
    values = figures([a], [np.array([0.5, 0.5])], 16, 0, [b])
    assert values["shift"][0] == pytest.approx(np.sqrt(26.0)) and values["spread"][0] == pytest.approx(1.0)
    assert values["direction"] == [pytest.approx(1.0)]


def test_the_verdict_ranks_levels_of_all_points_and_names_the_others_apart() -> None:
    def metric(value: float, points: int) -> Metric:
        return Metric(value, "nats of ratio", None, None, points)

    sentence = verdict(
        {
            "error.leak.T4": metric(3.0, 20),
            "error.leak.both heads 300": metric(2.0, 20),
            "error.leak.head 300": metric(1.0, 5),
            "error.leak.gamma alone": metric(1.5, 20),
            "error.leak.power law": metric(0.9, 20),
        },
        "leak",
    )
    assert (
        "best level both heads 300 2.00; power law 0.90; gamma alone 1.50; head 300 1.00 at 5 of 20 points" in sentence
    )


def test_gamma_of_a_cell() -> None:
    assert cell_gamma("ntp+fwd") == 0.0 and cell_gamma("amvl,gamma=0.003") == 0.003
    with pytest.raises(ValueError, match="has no cell 'other'"):
        cell_gamma("other")


def test_predictions_from_checkpoint_to_scores(tmp_path: Path) -> None:
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
    predicted = predict(model, processor, plan)
    assert all(len(v["leak"]) == 8 for by_gamma in predicted.levels.values() for v in by_gamma.values())
    # an untrained decoder puts next to nothing on the letters: forces without curvature, and no rest point to predict
    assert predicted.levels["T6 held"][0.001]["leak"] == [None] * 8
    assert [x is None for x in predicted.levels["free"][1.0]["leak"]] == [False] * 2 + [True] * 6
    heads = predict_with_heads(model, processor, 0, plan)
    assert set(heads.levels["head 2"]) == {0.01} and set(heads.levels["both heads 2"]) == {0.001, 0.01}
    assert heads.by_noise[0.5]["both heads 2"]["leak"][0] is not None
    assert heads.levels["head 2"][0.01]["direction"][0] is not None
    assert measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, plan) == ["amvl,gamma=0.01", "ntp+fwd"]
    assert measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, plan) == []
    target = tmp_path / "prediction" / "ntp+fwd" / "seed0.json"
    write_prediction(target, "ntp+fwd", 0, predicted, plan, 1.0)
    write_prediction(tmp_path / "prediction" / "ntp+fwd,heads" / "seed0.json", "ntp+fwd", 0, heads, plan, 1.0)
    assert read_result(target).metrics["leak.T4.gamma=1"].unit == "nats"
    np.testing.assert_allclose(
        read_tables(tmp_path / "prediction", "ntp+fwd")[0].rows[NOISE, TRAINED, 0.0, "leak"],
        predicted.reference["leak"],
        rtol=1e-3,
        atol=1e-9,
    )
    text = score(tmp_path / "prediction", ["ntp+fwd"], plan)
    assert "held-out gammas" in text and (tmp_path / "prediction" / "prediction.png").stat().st_size > 10_000
    scores = read_result(tmp_path / "prediction" / "ntp+fwd,scores" / "seed0.json").metrics
    assert scores["error.leak.persistence"].n == 1 and scores["error.leak.T4"].value is not None
    page = digest(scores, "ntp+fwd")
    assert "leak, held-out gammas: best theory" in page and "both heads 2" in page and "persistence" in page
    assert scores["error.shift.both heads 2"].n == 1 and "gap.leak.head 2 > both heads 2" in scores
    assert -1 <= scores["direction.both heads 2.gamma=0.001"].value <= 1
    with pytest.raises(ValueError, match="measured on other questions"):
        measure_trained(tmp_path / "prediction", tmp_path / "kept", 0, replace(plan, questions=4))


def test_the_script_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert theory_vs_checkpoints.main(["--checkpoints", str(tmp_path), "--reference", "ntp+fwd"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert theory_vs_checkpoints.main(["--summary", "--out", str(tmp_path)]) == 2
    assert "no predictions in" in capsys.readouterr().err
