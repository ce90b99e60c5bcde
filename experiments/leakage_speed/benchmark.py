"""Speed of the theory package, side by side with torch autograd, in one run and against the machine's memory.

    python experiments/leakage_speed/benchmark.py --out results/leakage-benchmark.json
    python experiments/leakage_speed/benchmark.py --points 100000 --instances 4096 --repeats 3      # a quick look

`run_benchmark` returns everything as plain numbers, `metrics_of` its headline figures, `show` prints them.

1. one million (beta, gamma, absorption) points in closed form (T3), `sweep_contamination`: scattered points, each with its
   own three numbers, and a grid of 100 values of each;
2. the same equilibria by autograd on the stop-gradient losses: a random sample of the points, three methods, several batch
   sizes and thread numbers, the fastest counts, and its time per point scales up;
3. `simulate` against the same game's autograd loop, per instance and step;
4. memory bandwidth of this machine (copy, add, triad, the best counts), and what fraction of it 1 and 3 reach.

Each side runs on one thread or on all, whichever is faster (the sweep in the measured repetitions, the others in a first
look). Opponents take turns, repetition by repetition,
and medians are compared. A simulation's times include its set-up and its last gradient.

Bytes: a kernel is charged for each array once per pass over it, as STREAM does, without write-allocate traffic. A scattered
sweep reads three float64 arrays and writes one, 32 bytes a point; a grid is only written, 8 bytes a point. A simulation step
must at the least read and write the state and read forces, curvature and anchor; it stays in the cache for all steps of a
chunk, so its figure says how it compares with memory speed, not how much memory it uses. Where the last-level cache is larger
than the three arrays of the bandwidth kernels (192 MB), what they measure is that cache: an upper bound of the memory's own
speed, so the fractions err low.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from pydantic import PositiveInt

from amvl_model.config import command_line, usage_error
from amvl_model.results.files import Metric, write_result
from amvl_theory.equilibria.sweep import sweep_contamination
from amvl_theory.game.game import GaussianGame
from amvl_theory.game.simulate import simulate
from experiments.leakage_speed.timing import CLOCKS, Clock, bandwidth_runs, fastest, in_turns, on_threads, summary

SWEEP_BYTES = {"points": 4 * 8, "grid": 8}
GAMES = {"diagonal, 2 answers, 4 modes": (2, 4, False), "dense, 2 answers, 4 modes": (2, 4, True)}
ETA, BETA, GAMMA = 0.05, 1.0, 0.3


RANGES = {"beta": (0.05, 5.0), "gamma": (0.01, 10.0), "absorption": (0.05, 0.99)}
Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def sample_points(count: int, seed: int) -> Points:
    """beta and gamma log-uniform in [0.05, 5] and [0.01, 10], absorption uniform in [0.05, 0.99]."""
    rng = np.random.default_rng(seed)
    beta, gamma = (np.exp(rng.uniform(*np.log(RANGES[name]), count)) for name in ("beta", "gamma"))
    return beta, gamma, rng.uniform(*RANGES["absorption"], count)


def grid_axes(side: int) -> Points:
    """``side`` values of each over the same ranges, beta and gamma with equal ratios, as axes that broadcast."""
    beta, gamma = (np.geomspace(*RANGES[name], side) for name in ("beta", "gamma"))
    return beta[:, None, None], gamma[None, :, None], np.linspace(*RANGES["absorption"], side)[None, None, :]


def sample_grid(axes: Points, count: int, seed: int) -> Points:
    """``count`` points of a grid, drawn with replacement."""
    rng = np.random.default_rng(seed)
    beta, gamma, absorption = (axis.reshape(-1)[rng.integers(axis.size, size=count)] for axis in axes)
    return beta, gamma, absorption


def autograd_run(points: Points, method: str, batch: int, threads: int, tolerance: float) -> Callable[[], Any]:
    """All points by autograd, batch by batch."""
    from experiments.leakage_speed.autograd import autograd_equilibria

    parts = [[array[first : first + batch] for array in points] for first in range(0, points[0].size, batch)]
    return on_threads(
        threads,
        lambda: [autograd_equilibria(*part, method=method, tolerance=tolerance) for part in parts],
    )


def sweep_runs(points: Points, shape: tuple[int, ...], threads: int) -> dict[int, Callable[[], Any]]:
    """Closed-form sweeps into one array, by number of workers."""
    out = np.empty(shape)

    def run(workers: int) -> Callable[[], Any]:
        return lambda: sweep_contamination(*points, out=out, workers=workers)

    return {workers: run(workers) for workers in sorted({1, threads})}


def benchmark_sweep(
    points: int, sample: int, repeats: int, threads: int, seed: int, tolerance: float, memory: int, clock: Clock
) -> dict[str, Any]:
    """Closed form (scattered points and a grid), autograd and memory bandwidth, in turns."""
    from experiments.leakage_speed.autograd import METHODS

    side = max(round(points ** (1 / 3)), 1)
    scattered, axes = sample_points(points, seed), grid_axes(side)
    ours = {"points": sweep_runs(scattered, (points,), threads), "grid": sweep_runs(axes, (side,) * 3, threads)}
    sizes = {"points": points, "grid": side**3}
    few = {
        "points": (scattered[0][:sample], scattered[1][:sample], scattered[2][:sample]),
        "grid": sample_grid(axes, sample, seed),
    }
    batches = sorted({min(size, sample) for size in (16384, 65536)} | {sample})
    ways = [(m, batch, count) for m in METHODS for batch in batches for count in sorted({1, threads})]
    best, first_look = fastest({way: autograd_run(few["points"], *way, tolerance) for way in ways}, clock, looks=1)
    runs: dict[Any, Callable[[], Any]] = {
        ("ours", form, workers): run for form in ours for workers, run in ours[form].items()
    }
    runs |= {("autograd", form): autograd_run(few[form], *best, tolerance) for form in few}
    kernels = {name: (on_threads(threads, run), size) for name, (run, size) in bandwidth_runs(memory, threads).items()}
    seconds = in_turns(runs | {name: run for name, (run, _) in kernels.items()}, repeats, clock)
    bandwidths = {name: size / statistics.median(seconds[name]) / 1e9 for name, (_, size) in kernels.items()}
    report: dict[str, Any] = {}
    for form in ours:
        medians = {workers: statistics.median(seconds["ours", form, workers]) for workers in ours[form]}
        workers = min(medians, key=lambda count: medians[count])
        times = summary(seconds["ours", form, workers], sizes[form])
        theirs = summary(seconds["autograd", form], sample)
        report[form] = sweep_report(SWEEP_BYTES[form], times, theirs, max(bandwidths.values())) | {
            "points": sizes[form],
            "workers": workers,
            "median_seconds_by_workers": {str(count): median for count, median in medians.items()},
            "autograd_sample": sample,
            **agreement(few[form], runs["autograd", form]()),
        }
    opponent = {
        "method": best[0],
        "batch": best[1],
        "threads": best[2],
        "tolerance": tolerance,
        "first_look_seconds": {
            f"{m}, batches of {batch}, {count} threads": t for (m, batch, count), t in first_look.items()
        },
        "scaled_up": f"time of {sample} points, each as costly as any other of the same draw, to all points",
    }
    return report | {"autograd": opponent, "memory_gigabytes_per_second": bandwidths}


def sweep_report(size: int, ours: dict[str, float], theirs: dict[str, float], bandwidth: float) -> dict[str, Any]:
    """Times per point, their ratio, and memory traffic at ``size`` bytes a point."""
    reached = size / ours["median"] / 1e9
    return {
        "seconds_per_point": {"sweep": ours, "autograd": theirs},
        "speedup": theirs["median"] / ours["median"],
        "bytes_per_point": size,
        "gigabytes_per_second": reached,
        "fraction_of_bandwidth": reached / bandwidth,
    }


def agreement(points: Points, results: list[Any]) -> dict[str, float]:
    """How many iterations autograd took, and how far it ends from the closed form."""
    iterated = np.concatenate([part.contamination for part in results])
    return {
        "iterations_of_the_slowest_point": max(part.iterations for part in results),
        "mean_iterations_per_point": sum(part.point_iterations for part in results) / iterated.size,
        "largest_relative_difference": float(np.abs(iterated / sweep_contamination(*points) - 1).max()),
    }


def random_game(instances: int, answers: int, modes: int, dense: bool, seed: int) -> GaussianGame:
    """Equally likely answers, standard normal forces, curvatures of order 1, anchor 0.5."""
    rng = np.random.default_rng(seed)
    forces = rng.normal(size=(instances, answers, modes))
    anchor = np.full((instances, modes), 0.5)
    if not dense:
        return GaussianGame(forces, rng.uniform(0.5, 2.0, (instances, modes)), anchor)
    root = rng.normal(size=(instances, modes, modes))
    return GaussianGame(forces, root @ root.transpose(0, 2, 1) / modes + 0.3 * np.eye(modes), anchor)


def part_of(game: GaussianGame, where: slice) -> GaussianGame:
    """Some instances of a game."""
    return GaussianGame(game.g[where], game.H[where], game.A[where])


def _ours(game: GaussianGame, steps: int, threads: int) -> Callable[[], Any]:
    return lambda: simulate(game, beta=BETA, gamma=GAMMA, steps=steps, eta_q=ETA, eta_p=ETA, threads=threads)


def benchmark_simulation(
    kind: str, instances: int, steps: int, repeats: int, threads: int, seed: int, bandwidth: float, clock: Clock
) -> dict[str, Any]:
    """One game's batched simulation and its autograd loop, in turns; autograd in one tensor or in batches, ours on one
    thread or on all, whichever wins."""
    from experiments.leakage_speed.autograd import autograd_game_steps

    answers, modes, dense = GAMES[kind]
    game = random_game(instances, answers, modes, dense, seed)
    # Both must do the same before it is timed.
    ours = _ours(game, steps, threads)().state
    theirs = autograd_game_steps(game, beta=BETA, gamma=GAMMA, steps=steps, eta=ETA)
    difference = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(ours.parts, theirs, strict=True))

    def loop(batch: int, count: int) -> Callable[[], Any]:
        games = [part_of(game, slice(first, first + batch)) for first in range(0, instances, batch)]
        return on_threads(
            count, lambda: [autograd_game_steps(one, beta=BETA, gamma=GAMMA, steps=steps, eta=ETA) for one in games]
        )

    thread_counts = sorted({1, threads})
    batches = sorted({min(1024, instances), min(8192, instances), instances})
    loops = {(batch, count): loop(batch, count) for batch in batches for count in thread_counts}
    best, first_look = fastest(loops, clock)
    counts = {count: _ours(game, steps, count) for count in thread_counts}
    best_threads, ours_first_look = fastest(counts, clock)
    runs = {"simulate": counts[best_threads], "autograd": loops[best]}
    per_step = {name: summary(times, instances * steps) for name, times in in_turns(runs, repeats, clock).items()}
    numbers = modes * (3 * answers + 2 + 2 + 2 + 1 + (modes if dense else 1))  # state twice; forces, A and H once
    reached = 8 * numbers / per_step["simulate"]["median"] / 1e9
    return {
        "instances": instances,
        "answers": answers,
        "modes": modes,
        "dense_curvature": dense,
        "steps": steps,
        "seconds_per_instance_step": per_step,
        "speedup": per_step["autograd"]["median"] / per_step["simulate"]["median"],
        "simulate_threads": best_threads,
        "simulate_first_look_seconds": {str(count): t for count, t in ours_first_look.items()},
        "autograd_batch": best[0],
        "autograd_threads": best[1],
        "autograd_first_look_seconds": {
            f"batches of {batch}, {count} threads": t for (batch, count), t in first_look.items()
        },
        "largest_difference_of_final_states": difference,
        "bytes_per_instance_step": 8 * numbers,
        "gigabytes_per_second": reached,
        "fraction_of_bandwidth": reached / bandwidth,
    }


def run_benchmark(
    *,
    points: int = 1_000_000,
    sample: int = 131_072,
    instances: int = 16_384,
    steps: int = 100,
    repeats: int = 7,
    threads: int = 2,
    seed: int = 0,
    tolerance: float = 1e-10,
    memory: int = 8_000_000,
    clock: str = "wall",
) -> dict[str, Any]:
    """Everything of the module's list, as plain numbers; leaves torch's thread number as it was."""
    import torch

    before = torch.get_num_threads()
    try:
        sweep = benchmark_sweep(points, min(sample, points), repeats, threads, seed, tolerance, memory, CLOCKS[clock])
        bandwidth = max(sweep["memory_gigabytes_per_second"].values())
        sizes = (instances, steps, repeats, threads, seed, bandwidth, CLOCKS[clock])
        games = {kind: benchmark_simulation(kind, *sizes) for kind in GAMES}
    finally:
        torch.set_num_threads(before)
    return {"threads": threads, "clock": clock, "repeats": repeats, "sweep": sweep, "simulation": games}


def metrics_of(report: dict[str, Any]) -> dict[str, Metric]:
    """The report's headline figures with units."""
    result = {}
    for form in SWEEP_BYTES:
        sweep, n = report["sweep"][form], report["repeats"]
        result[f"sweep_speedup_per_point_{form}"] = Metric(sweep["speedup"], "1", n=n)
        result[f"sweep_seconds_per_point_{form}"] = Metric(sweep["seconds_per_point"]["sweep"]["median"], "s", n=n)
        result[f"sweep_fraction_of_bandwidth_{form}"] = Metric(sweep["fraction_of_bandwidth"], "fraction", n=n)
    for kind, game in report["simulation"].items():
        name = kind.replace(", ", "_").replace(" ", "_")
        result[f"simulation_speedup_{name}"] = Metric(game["speedup"], "1", n=report["repeats"])
        result[f"simulation_fraction_of_bandwidth_{name}"] = Metric(
            game["fraction_of_bandwidth"], "fraction", n=report["repeats"]
        )
    return result


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path | None = None  # result file to write (JSON); None: only print
    points: PositiveInt = 1_000_000  # points of the sweep
    sample: PositiveInt = 131_072  # points that autograd iterates
    instances: PositiveInt = 16_384  # instances of the simulated games
    steps: PositiveInt = 100  # steps of the simulated games
    repeats: PositiveInt = 7  # measured repetitions
    threads: PositiveInt = 2  # threads of both sides
    clock: Literal[tuple(CLOCKS)] = "wall"  # cpu: on a machine that others use, with --threads 1
    seed: int = 0  # seed of points and games
    overwrite: bool = False  # replace an existing result file


def show(report: dict[str, Any]) -> None:
    """Print the headline figures."""
    for form in SWEEP_BYTES:
        sweep = report["sweep"][form]
        ours, theirs = (sweep["seconds_per_point"][name]["median"] * 1e9 for name in ("sweep", "autograd"))
        print(f"sweep       {ours:10.2f} ns/point   autograd {theirs:12.1f}   x {sweep['speedup']:.0f}   ({form})")
        print(f"            {sweep['gigabytes_per_second']:10.2f} GB/s, {sweep['fraction_of_bandwidth']:.0%} of memory")
    for kind, game in report["simulation"].items():
        ours, theirs = (game["seconds_per_instance_step"][name]["median"] * 1e9 for name in ("simulate", "autograd"))
        print(f"simulation  {ours:10.1f} ns/step    autograd {theirs:12.1f}   x {game['speedup']:.1f}   ({kind})")
        print(
            f"            {game['gigabytes_per_second']:10.2f} GB/s, {game['fraction_of_bandwidth']:.0%} of memory speed"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write the result file if one is named; returns the exit status."""
    options = command_line(Options, arguments)
    counts = {name: getattr(options, name) for name in ("points", "sample", "instances", "steps", "repeats", "threads")}
    if options.out and options.out.exists() and not options.overwrite:
        usage_error(f"--out: {options.out} exists; pass --overwrite, or name another file")
    if options.clock == "cpu" and options.threads > 1:
        usage_error("--clock: expected --threads 1 beside cpu, whose seconds add up over threads")
    start = time.perf_counter()
    report = run_benchmark(**counts, seed=options.seed, clock=options.clock)
    show(report)
    if options.out:
        written = write_result(
            options.out,
            study="leakage-benchmark",
            cell="speed",
            seed=options.seed,
            config={**counts, "clock": options.clock},
            metrics=metrics_of(report),
            wall_seconds=time.perf_counter() - start,
            device=f"CPU, {options.threads} threads",
            extra=report,
            overwrite=options.overwrite,
        )
        print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
