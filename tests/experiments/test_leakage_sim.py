"""experiments/leakage_sim.py: verdicts, files, refusals, and the same bytes for the same input."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from amvl_theory.figures import curves, figures
from amvl_theory.verification import statements
from amvl_theory.verification.core import Batch, Comparison, Evidence, Ledger, Proof, Verdict, draw, growth, relative
from amvl_theory.verification.evidence import fixed
from amvl_theory.verification.grid import SweepError, read_sweep, run_sweep
from experiments import leakage_sim
from tests.command_lines import unframed

Python = Callable[..., subprocess.CompletedProcess[str]]
QUIET = ["--quick", "--instances", "8", "--no-progress"]


def run(tmp_path: Path, *arguments: str) -> int:
    return leakage_sim.main([*QUIET, "--out", str(tmp_path / "out"), *arguments])


# Verdicts.


def test_a_run_proves_and_compares_prints_a_verdict_and_writes_its_evidence(python: Python, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = python("experiments/leakage_sim.py", *QUIET, "--only", "T2", "T4", "--out", str(out), timeout=110)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 statements agree" in done.stdout
    record = json.loads((out / "verdicts.json").read_text(encoding="utf-8"))
    assert record["passed"] and record["config"]["seed"] == 0 and record["versions"]["numpy"] == np.__version__
    assert set(record["statements"]) == {"T2", "T4"}
    for statement in record["statements"].values():
        assert statement["proof"]["passed"] == statement["proof"]["total"] > 0
        assert {item["kind"] for item in statement["comparisons"]} == {"closed form", "simulation"}
    with (out / "comparisons.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(len(item["comparisons"]) for item in record["statements"].values())
    assert all(float(row["discrepancy"]) <= float(row["tolerance"]) for row in rows)
    assert (out / "departures.csv").is_file() and not list(out.glob("*.png"))


def test_a_broken_closed_form_is_a_failed_verdict_and_exit_status_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = fixed.spread
    monkeypatch.setattr(fixed, "spread", lambda model, gamma: right(model, gamma) * (1 + 1e-6))
    assert run(tmp_path, "--only", "T4", "--no-proofs") == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "spread against the linear solve of all answers, dense instances" in shown
    assert json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))["passed"] is False


def test_a_failed_proof_a_nan_and_an_empty_list_of_comparisons_all_fail() -> None:
    good = Comparison("x", "closed form", 0.0, 1e-10, "relative", 1)
    bad = Comparison("x", "closed form", float("nan"), 1e-10, "relative", 1)
    proof = Proof(2, 3, {"symbolic": 3}, ("y: z",), 0.1)
    assert Verdict("T1", "", None, Evidence((good,), ()), 0.0).passed
    assert not Verdict("T1", "", None, Evidence((good, bad), ()), 0.0).passed
    assert not Verdict("T1", "", proof, Evidence((good,), ()), 0.0).passed
    assert not Verdict("T1", "", None, Evidence((), ()), 0.0).passed
    assert Verdict("T1", "", None, Evidence((good, bad), ()), 0.0).worst("closed form", "relative") is bad


def test_a_nan_among_discrepancies_is_the_largest() -> None:
    book = Ledger()
    book.closed("x", [0.0, np.nan, 1e-3], 3)
    assert not book.comparisons[0].passed


def test_every_statement_compares_closed_forms_and_simulations() -> None:
    for name in ("T1", "T3", "T5", "T8"):
        evidence, seconds = statements.numbers(name, 1, 6)
        assert {item.kind for item in evidence.comparisons} == {"closed form", "simulation"}
        assert all(item.passed for item in evidence.comparisons), [c for c in evidence.comparisons if not c.passed]
        assert seconds > 0


def test_instances_depend_on_the_seed_only() -> None:
    first, again, other = (statements.numbers("T4", seed, 5)[0] for seed in (3, 3, 4))
    assert first == again != other


def test_relative_is_per_instance_and_growth_sees_a_rise() -> None:
    assert relative([[1.0, 0.0], [100.0, 1.0]], [[1.0, 0.1], [100.0, 0.0]]) == pytest.approx(0.1)
    assert growth([[3.0, 2.0, 2.5, 1.0]]) == pytest.approx(0.5 / 3)
    assert growth([[3.0, 2.0, 1.0]]) == 0


@pytest.mark.parametrize("kind", ["dense", "dense H", "dense A", "diagonal"])
def test_the_direct_solve_solves_the_stationarity_of_every_answer_and_of_the_prior(kind: str) -> None:
    batch: Batch = draw(np.random.default_rng(0), 5, kind)
    delta, c = batch.rest()
    pull = (batch.gamma[:, None] * batch.q)[:, None] * (delta - c[:, None])
    answers = np.einsum("nij,nkj->nki", batch.H, delta) - batch.forces + pull
    mean = np.einsum("nk,nkd->nd", batch.chance, delta)
    prior = batch.beta[:, None] * batch.p * (c - mean) + np.einsum("nij,nj->ni", batch.A, c)
    assert max(np.abs(answers).max(), np.abs(prior).max()) < 1e-12


# Figures.


MODE = curves.Mode(gamma=(0.1, 1.0, 10.0))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        figures.write_figure("contamination", tmp_path / folder, MODE, 0, quick=True)
    for name in ("contamination.png", "contamination.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_figure_is_drawn_and_its_numbers_lie_beside_it(tmp_path: Path, name: str) -> None:
    figures.write_figure(name, tmp_path, MODE, 0, quick=True)
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000
    for path in tmp_path.glob("*.csv"):
        with path.open(encoding="utf-8") as stream:
            assert len(list(csv.DictReader(stream))) > 5
    assert list(tmp_path.glob(f"{name}*.csv"))


def test_simulations_lie_on_the_lines_of_the_contamination_figure() -> None:
    table = curves.contamination(MODE)
    seen = np.isfinite(table["simulated"])
    assert seen.sum() == 3 * len(curves.ABSORPTIONS)
    np.testing.assert_allclose(table["simulated"][seen], table["contamination"][seen], rtol=1e-4)


def test_the_phase_diagrams_threshold_is_where_leaked_information_ends() -> None:
    table = curves.phase_coupled(curves.Mode(), 15)
    np.testing.assert_array_equal(table["leaked_nats"] > 0, table["excess"] > 0)


# Sweeps.


def test_a_sweep_writes_the_full_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("gamma: [0.0, 0.5, 2.0]\nabsorption: [0.5, 1.0]\ncurvature: 2\nsimulate: true\n", encoding="utf-8")
    assert run(tmp_path, "--sweep", str(file)) == 0
    with (tmp_path / "out/sweep.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and {row["curvature"] for row in rows} == {"2"}
    for row in rows:
        s, gamma = float(row["absorption"]), float(row["gamma"])
        assert float(row["contamination"]) == pytest.approx(s * 0.8 / (2 + gamma * (1 - s)), rel=1e-9)
        assert float(row["simulated_contamination"]) == pytest.approx(float(row["contamination"]), rel=1e-4)


def test_a_sweep_of_free_variances_agrees_with_the_published_table() -> None:
    table = run_sweep({"gamma": [0.1, 0.5]}, simulated=False)
    np.testing.assert_allclose(table["free_contamination_amvl"], [0.36238, 0.32596], atol=6e-6)
    np.testing.assert_allclose(table["free_contamination_elbo"], 0.39757, atol=6e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gama: [1.0]", "gama: expected one of .* did you mean gamma"),
        ("gamma: [1.0, -1.0]", "gamma: expected a number of at least 0 .* received -1.0"),
        ("curvature: 0", "curvature: expected a number above 0 .* received 0"),
        ("absorption: 1.5", "absorption: expected a number above 0 and at most 1 .* received 1.5"),
        ("beta: [a]", "beta: expected a number above 0 .* received 'a'"),
        ("beta: .nan", "beta: expected a number above 0 .* received nan"),
        ("gamma: []", "gamma: expected a number or a list of numbers, received an empty list"),
        ("simulate: 3", "simulate: expected true or false, received 3"),
        ("absorption: 0.5\nanchor: 1", "absorption: expected either absorption or anchor, received both"),
        ("[1, 2]", "expected parameters with their values, received list"),
        ("gamma: [1", "expected YAML"),
        ("gamma: [" + "1.0," * 1000 + "]\nbeta: [" + "1.0," * 1000 + "]", "at most 200000 points, received 1000000"),
    ],
)
def test_a_bad_sweep_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SweepError, match=message):
        read_sweep(file)
    assert run(tmp_path, "--sweep", str(file)) == 2


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--curvature", "-1"], "curvature: expected numbers above 0, received -1"),
        (["--gamma", "1", "0.5"], "gamma: expected two or more rising numbers"),
        (["--force-mean", "0"], "force_mean: expected a finite number other than 0"),
        (["--sweep", "no-such-file.yaml"], "--sweep: no file at no-such-file.yaml"),
    ],
)
def test_bad_values_are_exit_status_two_with_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "T13"], "invalid choice 'T13' for argument '--only'. Expected one of ('T1',"),
        (["--instances", "1"], "--instances: expected a value of at least 2, received 1"),
        (["--seed", "-1"], "--seed: expected a value of at least 0, received -1"),
        (["--sweep", "x.yaml", "--benchmark"], "expected one of --sweep and --benchmark"),
    ],
)
def test_bad_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        leakage_sim.main(arguments)
    assert stop.value.code == 2
    assert message in unframed(capsys.readouterr().err)


def test_the_benchmark_is_written_once_and_replaced_when_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from experiments.leakage_speed import benchmark as speed

    full = speed.run_benchmark
    small = {"points": 1000, "sample": 100, "instances": 64, "steps": 2, "repeats": 1, "threads": 1, "memory": 10_000}
    once = cache(lambda **options: full(**(options | small)))
    monkeypatch.setattr(speed, "run_benchmark", once)
    assert run(tmp_path, "--benchmark") == 0
    record = json.loads((tmp_path / "out/benchmark.json").read_text(encoding="utf-8"))
    assert record["metrics"]["sweep_fraction_of_bandwidth_points"]["value"] > 0
    assert {game["instances"] for game in record["extra"]["simulation"].values()} == {64}
    assert "x " in capsys.readouterr().out
    assert run(tmp_path, "--benchmark") == 2
    assert "pass --force" in capsys.readouterr().err
    assert run(tmp_path, "--benchmark", "--force") == 0


def test_parameters_of_the_command_line_reach_the_results(tmp_path: Path) -> None:
    arguments = ["--only", "T3", "--no-proofs", "--curvature", "2", "--gamma", "0.5", "1.5", "--seed", "4"]
    assert run(tmp_path, *arguments) == 0
    config = json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))["config"]
    assert config["mode"]["curvature"] == 2.0 and config["mode"]["gamma"] == [0.5, 1.5]
    assert config["seed"] == 4 and config["only"] == ["T3"] and config["quick"] and config["instances"] == 8


def test_nothing_is_overwritten_unasked_and_never_what_is_not_ours(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, name in ((ours, "verdicts.json"), (theirs, "notes.txt")):
        folder.mkdir()
        (folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="pass --force"):
        leakage_sim.prepare(ours, force=False)
    leakage_sim.prepare(ours, force=True)
    with pytest.raises(FileExistsError, match="not written by this program"):
        leakage_sim.prepare(theirs, force=True)
    with pytest.raises(NotADirectoryError, match="expected a folder"):
        leakage_sim.prepare(theirs / "notes.txt", force=True)


@pytest.mark.slow
def test_the_full_quick_run_agrees_and_writes_every_figure(python: Python, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = python("experiments/leakage_sim.py", "--quick", "--no-progress", "--out", str(out), timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 statements agree" in done.stdout
    assert {path.stem for path in out.glob("*.png")} == set(figures.FIGURES)
