"""Timing in turns, threads of torch, and the machine's memory bandwidth, for `experiments/leakage_speed/benchmark.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

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


def on_threads(threads: int, run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` with that many threads of torch."""
    import torch

    def call() -> Any:
        torch.set_num_threads(threads)
        return run()

    return call


def fastest(runs: dict[Any, Callable[[], Any]], clock: Clock, looks: int = 2) -> tuple[Any, dict[Any, float]]:
    """Key of the run with the least of a few times, and all least times."""
    seconds = {key: min(timed(run, clock) for _ in range(looks)) for key, run in runs.items()}
    return min(seconds, key=lambda key: seconds[key]), seconds
