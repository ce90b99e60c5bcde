"""Runs cells one after another, each in a process of its own, and writes one result file a cell. Free of torch.

A finished cell is skipped. A cell that does not fit in memory gets a result file that says so, and the others go on; it is
tried again by the next run. With a limit of time the cell at work is ended there, and what is left is for the next run.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amvl_model.profiling.doctor import GIB, main_memory
from amvl_model.profiling.throughput.grid import Cell, needed_bytes, token_ratio
from amvl_model.results.files import Metric, Result, ResultError, read_result, result_path, write_result
from amvl_model.results.provenance import PROJECT_ROOT

STUDY = "throughput"
DOES_NOT_FIT = "does not fit"
MEMORY = ("activation_bytes", "step_bytes", "saved_bytes", "peak_bytes")


def finished(root: Path, cell: Cell) -> Result | None:
    """The result of a cell that was measured before with the same settings, or None."""
    path = result_path(root, STUDY, cell.name, 0)
    try:
        result = read_result(path)
    except (FileNotFoundError, ResultError):
        return None
    settings = json.loads(json.dumps(cell.to_dict()))
    same = result.config == settings
    return result if same and result.extra.get("status") == "done" else None


class OutOfTime(Exception):
    """The limit of time was reached before a cell was measured."""


def run_cells(
    cells: Sequence[Cell],
    root: Path,
    *,
    overwrite: bool = False,
    seconds: float | None = None,
    say: Callable[[str], None] = print,
) -> list[Result]:
    """Measure what is not there yet; returns the results of all cells, in their order.

    Args:
        cells: what to measure.
        root: folder of the results.
        overwrite: measure finished cells again.
        seconds: no cell begins after this time, and the one at work is ended; its result and those behind it are missing.
        say: takes a line a cell.

    Raises:
        RuntimeError: if a cell fails for another reason than memory (with the end of what it printed).
    """
    results = []
    end = None if seconds is None else time.perf_counter() + seconds
    for number, cell in enumerate(cells, start=1):
        existing = None if overwrite else finished(root, cell)
        if existing is None:
            began = time.perf_counter()
            try:
                report = measure(cell, end=end)
            except OutOfTime:
                say(f"[{number}/{len(cells)}] {cell.name}  out of time; the same command goes on from here")
                continue
            took = time.perf_counter() - began
            existing = _write(root, cell, report, took)
            outcome = report["status"] + (f": {report['reason']}" if "reason" in report else "")
            say(f"[{number}/{len(cells)}] {cell.name}  {outcome}  ({took:.0f} s)")
        else:
            say(f"[{number}/{len(cells)}] {cell.name}  there already")
        results.append(existing)
    return results


def measure(cell: Cell, *, end: float | None = None) -> dict[str, Any]:
    """What the cell's processes report; ``status`` is "done" or "does not fit".

    Raises:
        OutOfTime: if the clock (`time.perf_counter`) passes ``end``.
    """
    free = main_memory()[1] if cell.device == "cpu" else None
    need = needed_bytes(cell)
    if free is not None and need > free:
        reason = f"computed to need {need / GIB:.1f} GiB at least, {free / GIB:.1f} GiB of main memory are free"
        return {"status": DOES_NOT_FIT, "reason": reason}
    return _memory(cell, end) if cell.kind == "memory" else _worker(cell, cell.kind, end)


def _memory(cell: Cell, end: float | None) -> dict[str, Any]:
    """Memory of every method, in a process for each; the cell is done if one of them fits."""
    report: dict[str, Any] = {"status": DOES_NOT_FIT, "reason": "no method fits"}
    for method in cell.methods:
        result = _worker(replace(cell, methods=(method,)), "memory", end)
        if result["status"] == "done":
            report.pop("reason", None)
            report |= {name: result[name] for name in ("status", "device", "parameters", "trained")}
        else:
            report.setdefault("memory_missing", {})[method] = result["reason"]
        for name in MEMORY:
            report.setdefault(name, {})[method] = result.get(name)
    return report


def _worker(cell: Cell, task: str, end: float | None = None) -> dict[str, Any]:
    left = None if end is None else end - time.perf_counter()
    if left is not None and left <= 0:
        raise OutOfTime
    with tempfile.TemporaryDirectory() as folder:
        spec, out = Path(folder) / "spec.json", Path(folder) / "out.json"
        spec.write_text(json.dumps({"cell": cell.to_dict(), "task": task}), encoding="utf-8")
        command = [sys.executable, "-m", "amvl_model.profiling.throughput.worker", str(spec), str(out)]
        try:
            done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False, timeout=left)
        except subprocess.TimeoutExpired as error:
            raise OutOfTime from error
        if done.returncode in (-9, 137):
            return {"status": DOES_NOT_FIT, "reason": "the system ended the process, most likely for its memory"}
        if done.returncode != 0 or not out.is_file():
            tail = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise RuntimeError(f"{cell.name} ({task}) failed with exit status {done.returncode}:\n{tail}")
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return report


def quartiles(values: Iterable[float], unit: str = "s") -> Metric:
    """Median with the quartiles as its interval."""
    ordered = list(values)
    if len(ordered) < 2:
        return Metric(ordered[0] if ordered else None, unit, n=len(ordered))
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Metric(middle, unit, low, high, len(ordered))


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Metric:
    """Median over the rounds of one method's seconds over another's in the same round."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)], "1")


def metrics_of(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    """Figures of a cell by name; a method stands behind a dot."""
    make = {
        "train": _training,
        "memory": _memory_metrics,
        "infer": _inference,
        "sharded": _sharded,
        "gradients": _gradients,
    }
    return make[cell.kind](cell, report) if report["status"] == "done" else {}


def _training(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    floor = token_ratio(cell.length, cell.answer, cell.latents)
    metrics = {"token_ratio": Metric(floor, "1")}
    for method in cell.methods:
        seconds = report["step_seconds"][method]
        median = statistics.median(seconds)
        metrics[f"step_seconds.{method}"] = quartiles(seconds)
        metrics[f"gradient_seconds.{method}"] = quartiles(report["gradient_seconds"][method])
        metrics[f"tokens_per_second.{method}"] = Metric(cell.batch * (cell.length + cell.answer) / median, "1/s")
        peak = report["peak_flops"]
        used = None if peak is None else report["model_flops"][method] / median / peak
        metrics[f"utilisation.{method}"] = Metric(used, "fraction")
        if "sft" in cell.methods and method != "sft":
            base = report["step_seconds"]["sft"]
            metrics[f"ratio.{method}"] = paired_ratio(seconds, base)
            pair = (report["gradient_seconds"][name] for name in (method, "sft"))
            metrics[f"gradient_ratio.{method}"] = paired_ratio(*pair)
    return metrics | _memory_metrics(cell, report)


def _memory_metrics(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    measured = [name for name in MEMORY if name in report]
    return {
        f"{name}.{method}": Metric(report[name].get(method), "bytes") for name in measured for method in cell.methods
    }


def _inference(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    seconds = report["seconds"]
    metrics = {f"seconds.{name}": quartiles(values) for name, values in seconds.items()}
    decoded = [
        (more - first) / report["decoded"]
        for more, first in zip(seconds["plain_more"], seconds["plain_first"], strict=True)
    ]
    extra = [a - b for a, b in zip(seconds["latent_first"], seconds["plain_first"], strict=True)]
    step = statistics.median(decoded)
    metrics["decode_step_seconds"] = quartiles(decoded)
    metrics["first_token_extra_steps"] = Metric(
        statistics.median(extra) / step if step > 0 else math.nan, "decode steps"
    )
    metrics["eight_samples_over_one"] = paired_ratio(seconds["eight_samples"], seconds["one_sample"])
    return metrics


def _sharded(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    metrics = {"gradient_difference": Metric(report["gradient_difference"], "1")}
    for method, calls in report["collectives"].items():
        gathers = sum(count for name, count in calls.items() if "gather" in name)
        reductions = sum(count for name, count in calls.items() if "reduce" in name)
        metrics[f"gathers.{method}"] = Metric(gathers, "calls")
        metrics[f"reductions.{method}"] = Metric(reductions, "calls")
    return metrics


def _gradients(cell: Cell, report: Mapping[str, Any]) -> dict[str, Metric]:
    return {name: Metric(report[name], "1") for name in ("gradient_difference", "loss_difference")}


def _write(root: Path, cell: Cell, report: Mapping[str, Any], seconds: float) -> Result:
    path = result_path(root, STUDY, cell.name, 0)
    write_result(
        path,
        study=STUDY,
        cell=cell.name,
        seed=0,
        config=cell.to_dict(),
        metrics=metrics_of(cell, report),
        wall_seconds=seconds,
        device=report.get("device", cell.device),
        extra=dict(report),
        overwrite=True,
    )
    return read_result(path)
