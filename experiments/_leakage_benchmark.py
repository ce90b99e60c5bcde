"""Speed of the theory package, side by side with torch autograd, in one run and against the machine's memory.

    python experiments/_leakage_benchmark.py --out results/leakage-benchmark.json
    python experiments/_leakage_benchmark.py --points 100000 --instances 4096 --repeats 3      # a quick look

`run_benchmark` returns everything as plain numbers, `metrics_of` its headline figures, `show` prints them.

1. one million (beta, gamma, absorption) points in closed form (T3), `sweep_contamination`;
2. the same equilibria by autograd on the stop-gradient losses: a random sample of the points, three methods, several batch
   sizes, the fastest counts, and its time per point scales up;
3. `simulate` against the same game's autograd loop, per instance and step;
4. memory bandwidth of this machine (copy, add, triad, the best counts), and what fraction of it 1 and 3 reach.

Opponents take turns, repetition by repetition, and medians are compared. A simulation's times include its set-up and
its last gradient.

Bytes: a kernel is charged for each array once per pass over it, as STREAM does, without write-allocate traffic. The sweep
reads three float64 arrays and writes one, 32 bytes a point. A simulation step must at the least read and write the state
and read forces, curvature and anchor; it stays in the cache for all steps of a chunk, so its figure says how it compares
with memory speed, not how much memory it uses. Where the last-level cache is larger than the three arrays of the bandwidth
kernels (192 MB), what they measure is that cache: an upper bound of the memory's own speed, so the fractions err low.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from amvl_model.results import Metric, write_result
from amvl_theory.game import GaussianGame
from amvl_theory.simulate import simulate
from amvl_theory.sweep import sweep_contamination

SWEEP_BYTES = 4 * 8
GAMES = {"diagonal, 2 answers, 4 modes": (2, 4, False), "dense, 2 answers, 4 modes": (2, 4, True)}
ETA, BETA, GAMMA = 0.05, 1.0, 0.3


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(run: Callable[[], Any], clock: Clock) -> float:
    """Seconds of one call."""
    start = clock()
    run()
    return clock() - start


def in_turns(runs: dict[str, Callable[[], Any]], repeats: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every run, one repetition of all before the next, after one unmeasured round."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run, clock))
    return seconds


def summary(seconds: list[float], per: float = 1.0) -> dict[str, float]:
    """Median, least and largest of times, each divided by ``per``."""
    return {"median": statistics.median(seconds) / per, "min": min(seconds) / per, "max": max(seconds) / per}


def bandwidth_runs(size: int, threads: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """STREAM-like kernels over arrays of ``size`` float64: name -> (run, bytes)."""
    import torch

    arrays = [np.full(size, value) for value in (1.0, 2.0, 3.0)]
    a, b, c = arrays
    tensors = [torch.from_numpy(array) for array in arrays]
    cuts = [slice(size * i // threads, size * (i + 1) // threads) for i in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def spread(kernel: Callable[[slice], Any]) -> Callable[[], Any]:
        return lambda: list(pool.map(kernel, cuts))

    return {
        "copy (numpy)": (spread(lambda part: np.copyto(a[part], b[part])), 16 * size),
        "add (numpy)": (spread(lambda part: np.add(b[part], c[part], out=a[part])), 24 * size),
        "triad (torch)": (lambda: torch.add(tensors[1], tensors[2], alpha=3.0, out=tensors[0]), 24 * size),
    }


def sample_points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """beta and gamma log-uniform in [0.05, 5] and [0.01, 10], absorption uniform in [0.05, 0.99]."""
    rng = np.random.default_rng(seed)
    beta, gamma = (np.exp(rng.uniform(np.log(low), np.log(high), count)) for low, high in ((0.05, 5), (0.01, 10)))
    return beta, gamma, rng.uniform(0.05, 0.99, count)


def benchmark_sweep(
    points: int, sample: int, repeats: int, threads: int, seed: int, tolerance: float, memory: int, clock: Clock
) -> dict[str, Any]:
    """Closed form, autograd and memory bandwidth, in turns."""
    from _leakage_autograd import METHODS, autograd_equilibria

    beta, gamma, absorption = sample_points(points, seed)
    out = np.empty(points)
    kernels = bandwidth_runs(memory, threads)
    few = [array[:sample] for array in (beta, gamma, absorption)]
    exact = sweep_contamination(*few)

    def iterate(method: str, batch: int) -> Callable[[], Any]:
        def run() -> None:
            for first in range(0, sample, batch):
                part = [array[first : first + batch] for array in few]
                autograd_equilibria(*part, method=method, tolerance=tolerance)

        return run

    batches = sorted({min(2048, sample), min(16384, sample), sample})
    opponents = {(method, batch): iterate(method, batch) for method in METHODS for batch in batches}
    first_look = {key: timed(run, clock) for key, run in opponents.items()}
    best = min(first_look, key=lambda key: first_look[key])
    found = autograd_equilibria(*few, method=best[0], tolerance=tolerance)

    runs: dict[str, Callable[[], Any]] = {
        "sweep": lambda: sweep_contamination(beta, gamma, absorption, out=out, workers=threads),
        "autograd": opponents[best],
    }
    seconds = in_turns(runs | {name: run for name, (run, _) in kernels.items()}, repeats, clock)
    bandwidths = {name: size / statistics.median(seconds[name]) / 1e9 for name, (_, size) in kernels.items()}
    best_bandwidth = max(bandwidths.values())
    per_point = {"sweep": summary(seconds["sweep"], points), "autograd": summary(seconds["autograd"], sample)}
    reached = SWEEP_BYTES / per_point["sweep"]["median"] / 1e9
    return {
        "points": points,
        "autograd_sample": sample,
        "seconds_per_point": per_point,
        "speedup": per_point["autograd"]["median"] / per_point["sweep"]["median"],
        "autograd": {
            "method": best[0],
            "batch": best[1],
            "tolerance": tolerance,
            "iterations_of_the_slowest_point": found.iterations,
            "mean_iterations_per_point": found.point_iterations / sample,
            "largest_relative_difference_from_closed_form": float(np.abs(found.contamination / exact - 1).max()),
            "first_look_seconds": {f"{method}, batches of {batch}": t for (method, batch), t in first_look.items()},
            "scaled_up": f"time of {sample} points, each as costly as any other of the same draw, to {points} points",
            "seconds_for_all_points": per_point["autograd"]["median"] * points,
        },
        "memory_gigabytes_per_second": bandwidths,
        "sweep_bytes_per_point": SWEEP_BYTES,
        "sweep_gigabytes_per_second": reached,
        "sweep_fraction_of_bandwidth": reached / best_bandwidth,
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
    from _leakage_autograd import autograd_game_steps

    answers, modes, dense = GAMES[kind]
    game = random_game(instances, answers, modes, dense, seed)
    # Both must do the same before it is timed.
    ours = _ours(game, steps, threads)().state
    theirs = autograd_game_steps(game, beta=BETA, gamma=GAMMA, steps=steps, eta=ETA)
    difference = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(ours.parts, theirs, strict=True))

    def loop(batch: int) -> Callable[[], Any]:
        games = [part_of(game, slice(first, first + batch)) for first in range(0, instances, batch)]
        return lambda: [autograd_game_steps(one, beta=BETA, gamma=GAMMA, steps=steps, eta=ETA) for one in games]

    loops = {batch: loop(batch) for batch in sorted({min(1024, instances), min(8192, instances), instances})}
    first_look = {batch: min(timed(run, clock), timed(run, clock)) for batch, run in loops.items()}
    best = min(first_look, key=lambda batch: first_look[batch])
    counts = {count: _ours(game, steps, count) for count in sorted({1, threads})}
    ours_first_look = {count: min(timed(run, clock), timed(run, clock)) for count, run in counts.items()}
    best_threads = min(ours_first_look, key=lambda count: ours_first_look[count])
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
        "autograd_batch": best,
        "autograd_first_look_seconds": {str(batch): t for batch, t in first_look.items()},
        "largest_difference_of_final_states": difference,
        "bytes_per_instance_step": 8 * numbers,
        "gigabytes_per_second": reached,
        "fraction_of_bandwidth": reached / bandwidth,
    }


def run_benchmark(
    *,
    points: int = 1_000_000,
    sample: int = 20_000,
    instances: int = 16_384,
    steps: int = 100,
    repeats: int = 7,
    threads: int = 2,
    seed: int = 0,
    tolerance: float = 1e-10,
    memory: int = 8_000_000,
    clock: str = "wall",
) -> dict[str, Any]:
    """Everything of the module's list, as plain numbers; sets torch's thread number to ``threads`` for the duration."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
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
    sweep = report["sweep"]
    result = {
        "sweep_speedup_per_point": Metric(sweep["speedup"], "1", n=report["repeats"]),
        "sweep_seconds_per_point": Metric(sweep["seconds_per_point"]["sweep"]["median"], "s", n=report["repeats"]),
        "sweep_fraction_of_bandwidth": Metric(sweep["sweep_fraction_of_bandwidth"], "fraction", n=report["repeats"]),
    }
    for kind, game in report["simulation"].items():
        name = kind.replace(", ", "_").replace(" ", "_")
        result[f"simulation_speedup_{name}"] = Metric(game["speedup"], "1", n=report["repeats"])
        result[f"simulation_fraction_of_bandwidth_{name}"] = Metric(
            game["fraction_of_bandwidth"], "fraction", n=report["repeats"]
        )
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=Path, metavar="JSON", help="result file to write (default: only print)")
    result.add_argument("--points", type=int, default=1_000_000, help="points of the sweep")
    result.add_argument("--sample", type=int, default=20_000, help="points that autograd iterates")
    result.add_argument("--instances", type=int, default=16_384, help="instances of the simulated games")
    result.add_argument("--steps", type=int, default=100, help="steps of the simulated games")
    result.add_argument("--repeats", type=int, default=7, help="measured repetitions")
    result.add_argument("--threads", type=int, default=2, help="threads of both sides")
    result.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use, with --threads 1"
    )
    result.add_argument("--seed", type=int, default=0, help="seed of points and games")
    result.add_argument("--overwrite", action="store_true", help="replace an existing result file")
    return result


def show(report: dict[str, Any]) -> None:
    """Print the headline figures."""
    sweep = report["sweep"]
    per_point = {name: times["median"] * 1e9 for name, times in sweep["seconds_per_point"].items()}
    print(
        f"sweep       {per_point['sweep']:10.2f} ns/point   autograd {per_point['autograd']:12.1f}   x {sweep['speedup']:.0f}"
    )
    print(
        f"            {sweep['sweep_gigabytes_per_second']:10.2f} GB/s, {sweep['sweep_fraction_of_bandwidth']:.0%} of memory"
    )
    for kind, game in report["simulation"].items():
        ours, theirs = (game["seconds_per_instance_step"][name]["median"] * 1e9 for name in ("simulate", "autograd"))
        print(f"simulation  {ours:10.1f} ns/step    autograd {theirs:12.1f}   x {game['speedup']:.1f}   ({kind})")
        print(
            f"            {game['gigabytes_per_second']:10.2f} GB/s, {game['fraction_of_bandwidth']:.0%} of memory speed"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write the result file if one is named; returns the exit status."""
    command = parser()
    options = command.parse_args(arguments)
    counts = {name: getattr(options, name) for name in ("points", "sample", "instances", "steps", "repeats", "threads")}
    for name, count in counts.items():
        if count < 1:
            command.error(f"--{name}: expected at least 1, received {count}")
    if options.out and options.out.exists() and not options.overwrite:
        command.error(f"--out: {options.out} exists; pass --overwrite, or name another file")
    if options.clock == "cpu" and options.threads > 1:
        command.error("--clock: expected --threads 1 beside cpu, whose seconds add up over threads")
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
