"""The benchmark's opponents compute the same as the package, and its report is complete."""

from __future__ import annotations

import json

import numpy as np
import pytest

from amvl_theory.equilibria.sweep import sweep_contamination
from amvl_theory.game.simulate import simulate


@pytest.fixture
def benchmark():
    from experiments.leakage_speed import benchmark

    return benchmark


@pytest.fixture
def autograd():
    pytest.importorskip("torch")
    from experiments.leakage_speed import autograd

    return autograd


@pytest.mark.parametrize("method", ["gradient descent", "heavy ball", "alternating blocks"])
def test_every_way_of_iterating_autograd_arrives_at_the_closed_form(autograd, benchmark, method):
    points = benchmark.sample_points(300, seed=3)
    result = autograd.autograd_equilibria(*points, method=method, tolerance=1e-11)
    np.testing.assert_allclose(result.contamination, sweep_contamination(*points), rtol=1e-8)
    assert result.point_iterations <= 300 * result.iterations


def test_points_that_do_not_arrive_are_an_error_not_a_time(autograd, benchmark):
    with pytest.raises(RuntimeError, match="have not converged after 16 iterations"):
        autograd.autograd_equilibria(
            *benchmark.sample_points(50, 0), method="gradient descent", tolerance=1e-12, max_steps=16
        )


@pytest.mark.parametrize("dense", [False, True])
def test_the_autograd_loop_and_the_simulation_walk_the_same_path(autograd, benchmark, dense):
    game = benchmark.random_game(20, 3, 2, dense, seed=1)
    theirs = autograd.autograd_game_steps(game, beta=1.0, gamma=0.3, steps=25, eta=0.05)
    ours = simulate(game, beta=1.0, gamma=0.3, steps=25).state
    for mine, other in zip(ours.parts, theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=1e-11, atol=1e-13)


def test_a_small_run_writes_one_complete_report(benchmark, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    sizes = [
        "--points",
        "2000",
        "--sample",
        "200",
        "--instances",
        "128",
        "--steps",
        "3",
        "--repeats",
        "2",
        "--threads",
        "1",
    ]
    full = benchmark.run_benchmark
    monkeypatch.setattr(benchmark, "run_benchmark", lambda **options: full(**options, memory=50_000))
    assert benchmark.main([*sizes, "--out", str(tmp_path / "speed.json")]) == 0
    record = json.loads((tmp_path / "speed.json").read_text())
    extra = record["extra"]
    assert extra["threads"] == 1
    for form, points in (("points", 2000), ("grid", 13**3)):
        assert record["metrics"][f"sweep_speedup_per_point_{form}"]["value"] > 1
        assert extra["sweep"][form]["points"] == points
        assert extra["sweep"][form]["largest_relative_difference"] < 1e-8
    for game in extra["simulation"].values():
        assert game["largest_difference_of_final_states"] < 1e-12
        assert {"median", "min", "max"} == set(game["seconds_per_instance_step"]["simulate"])
    with pytest.raises(SystemExit):
        benchmark.main([*sizes, "--out", str(tmp_path / "speed.json")])  # never overwritten unasked


def test_the_command_line_needs_no_torch(python):
    code = "import sys; from experiments.leakage_speed import benchmark as b; b.Options(); print(*sys.modules)"
    assert "torch" not in python("-c", code).stdout.split()
