"""Measures one cell in a process of its own: ``python -m amvl_model.throughput.worker SPEC.json OUT.json``.

The methods take turns, round by round, on one model and one batch; medians over the rounds are compared. A step is
forward pass, backward pass and optimiser. On a GPU memory comes from the allocator in the same process; on a CPU it is a
cell of its own (kind "memory"), with a process for every method.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amvl_model.throughput.grid import Cell, model_flops, peak_flops, segments
from amvl_model.throughput.meters import (
    LiveBytes,
    device_name,
    forget_peak,
    in_turns,
    resident,
    saved_bytes,
    synchronise,
    timed,
)
from amvl_model.throughput.steps import build_batch, build_model, losses

OUT_OF_MEMORY = "does not fit"
PROFILED = 20  # operations in a profile


def prepare(cell: Cell) -> tuple[Any, dict[str, Any], dict[str, Any], torch.optim.Optimizer]:
    """Model, batch, losses by method, and the optimiser that all of them share."""
    model = build_model(cell.shape, cell.latents, device=cell.device, dtype=cell.dtype)
    if cell.checkpointing:
        model.gradient_checkpointing_enable()
    batch = build_batch(cell)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if cell.optimizer == "adamw":
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=cell.device == "cuda" or None)
    else:
        optimizer = torch.optim.SGD(trained, lr=1e-6)
    return model, batch, losses(model, batch), optimizer


class Step:
    """One training step of a method; keeps how long the part before the optimiser took."""

    def __init__(self, loss: Callable[[], Any], optimizer: torch.optim.Optimizer, device: str) -> None:
        self.loss, self.optimizer, self.device = loss, optimizer, device
        self.gradient_seconds: list[float] = []

    def __call__(self) -> None:
        began = time.perf_counter()
        self.loss().backward()
        synchronise(self.device)
        self.gradient_seconds.append(time.perf_counter() - began)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure_training(cell: Cell) -> dict[str, Any]:
    """Seconds of every round by method; on a GPU its memory too."""
    _, _, by_method, optimizer = prepare(cell)
    steps = {name: Step(by_method[name], optimizer, cell.device) for name in cell.methods}
    seconds = in_turns(dict(steps), cell.repeats, cell.device)
    report: dict[str, Any] = {
        "device": device_name(cell.device),
        "step_seconds": seconds,
        "gradient_seconds": {name: step.gradient_seconds[1:] for name, step in steps.items()},
        "model_flops": {
            name: cell.batch
            * model_flops(cell.shape, segments(name, cell.length, cell.answer, cell.latents), cell.answer)
            for name in cell.methods
        },
        "peak_flops": peak_flops(device_name(cell.device)) if cell.dtype == "bfloat16" else None,
    }
    if cell.profile:
        report["profile"] = {name: profile_step(steps[name], cell.device) for name in cell.methods}
    if cell.device == "cuda":
        for name in cell.methods:
            for figure, number in gpu_memory(steps[name]).items():
                report.setdefault(figure, {})[name] = number
    return report


def profile_step(step: Step, device: str) -> dict[str, Any]:
    """Where one step's time goes: the operations that take most, and on a GPU the share of the time that it stands idle.

    The seconds are the device's own, an operation's children left out; profiling itself makes the step longer.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        wall = timed(step, device)
    spent = {
        each.key: ((each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1e6, each.count)
        for each in profiler.key_averages()
    }
    total = sum(seconds for seconds, _ in spent.values())
    largest = sorted(spent.items(), key=lambda item: -item[1][0])[:PROFILED]
    return {
        "wall_seconds": wall,
        "operation_seconds": total,
        "idle": max(0.0, 1 - total / wall) if on_gpu else None,
        "operations": [
            {"name": name, "seconds": seconds, "share": seconds / total, "calls": calls}
            for name, (seconds, calls) in largest
        ],
    }


def gpu_memory(step: Step) -> dict[str, int]:
    """Peaks of the allocator, as in `measure_memory`."""
    step.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss = step.loss()
    torch.cuda.synchronize()
    forward = torch.cuda.max_memory_allocated() - before
    loss.backward()
    torch.cuda.synchronize()
    whole = torch.cuda.max_memory_allocated() - before
    step.optimizer.step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    step.optimizer.zero_grad(set_to_none=True)
    return {"activation_bytes": forward, "step_bytes": whole, "peak_bytes": peak}


def measure_memory(cell: Cell) -> dict[str, Any]:
    """CPU memory of one method.

    ``peak_bytes``: resident memory of two steps at its peak, beyond that of the interpreter with its imports: weights,
    gradients, optimiser states, activations. ``activation_bytes``: what the forward pass holds at its peak, beyond the
    weights. ``step_bytes``: the same over forward and backward pass, gradients included (there are none at first).
    ``saved_bytes``: what is kept for the backward pass.
    """
    (name,) = cell.methods
    forget_peak()
    bare = resident()
    model, _, by_method, optimizer = prepare(cell)
    step = Step(by_method[name], optimizer, cell.device)
    step()
    step()
    peak = resident("VmHWM")
    with LiveBytes() as live:
        loss = step.loss()
        forward = live.peak
        loss.backward()
    optimizer.zero_grad(set_to_none=True)
    return {
        "device": device_name(cell.device),
        "peak_bytes": None if peak is None or bare is None else peak - bare,
        "activation_bytes": forward,
        "step_bytes": live.peak,
        "saved_bytes": saved_bytes(step.loss, [*model.parameters(), *model.buffers()]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def measure_gradients(cell: Cell) -> dict[str, Any]:
    """Largest relative difference of any parameter's gradient between the two-pass and the three-pass step, in float64."""
    model = build_model(cell.shape, cell.latents, latent_dim=16).double()
    if cell.checkpointing:
        model.gradient_checkpointing_enable()
    by_method = losses(model, build_batch(cell), noise_seed=7)
    found: dict[str, dict[str, Any]] = {}
    values = {}
    for name in ("two-pass", "three-pass"):
        model.zero_grad()
        loss = by_method[name]()
        loss.backward()
        values[name] = float(loss.detach())
        found[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if found["two-pass"].keys() != found["three-pass"].keys():
        raise RuntimeError("the two layouts give gradients to different parameters")
    worst = 0.0
    for name, expected in found["three-pass"].items():
        norm = float(expected.norm())
        difference = float((found["two-pass"][name] - expected).norm())
        worst = max(worst, difference / norm if norm else difference)
    relative = abs(values["two-pass"] - values["three-pass"]) / abs(values["three-pass"])
    return {"device": device_name("cpu"), "gradient_difference": worst, "loss_difference": relative}


def work(cell: Cell, task: str) -> dict[str, Any]:
    """Run one task on a cell."""
    if cell.threads:
        torch.set_num_threads(cell.threads)
    if task == "sharded":
        from amvl_model.throughput.sharded import measure_collectives

        return measure_collectives(cell)
    if task == "infer":
        from amvl_model.throughput.inference import measure_inference

        return measure_inference(cell)
    tasks = {"train": measure_training, "memory": measure_memory, "gradients": measure_gradients}
    return tasks[task](cell)


def main() -> int:
    """Read the cell, measure, write what came out; running out of memory is an outcome."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cell = Cell(**{**spec["cell"], "methods": tuple(spec["cell"]["methods"])})
    try:
        report = {"status": "done", **work(cell, spec["task"])}
    except (torch.OutOfMemoryError, MemoryError) as error:
        report = {"status": OUT_OF_MEMORY, "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        report = {"status": OUT_OF_MEMORY, "reason": str(error).splitlines()[0]}
    Path(sys.argv[2]).write_text(json.dumps(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
