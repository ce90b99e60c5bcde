"""Measures one cell in a process of its own: ``python -m amvl_model.profiling.throughput.worker SPEC.json OUT.json``.

The methods take turns, round by round, on one model and one batch; medians over the rounds are compared. A step is
forward pass, backward pass and optimiser. On a GPU memory comes from the allocator in the same process; on a CPU it is a
cell of its own (kind "memory"), with a process for every method.


Time to the first answer token against plain generation, and eight latent samples against one.

Collectives of a training step under FSDP2 with two gloo processes on the CPU, and its gradients against one process.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from amvl_model.objectives import amvl_objective
from amvl_model.profiling.throughput.grid import Cell, model_flops, peak_flops, segments
from amvl_model.profiling.throughput.meters import (
    CountCollectives,
    LiveBytes,
    device_name,
    forget_peak,
    in_turns,
    resident,
    saved_bytes,
    synchronise,
    timed,
)
from amvl_model.profiling.throughput.steps import BETA, GAMMA, build_batch, build_model, losses, sft_loss

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
        entry.key: ((entry.self_device_time_total if on_gpu else entry.self_cpu_time_total) / 1e6, entry.count)
        for entry in profiler.key_averages()
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
    result: dict[str, dict[str, Any]] = {}
    values = {}
    for name in ("two-pass", "three-pass"):
        model.zero_grad()
        loss = by_method[name]()
        loss.backward()
        values[name] = float(loss.detach())
        result[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if result["two-pass"].keys() != result["three-pass"].keys():
        raise RuntimeError("the two layouts give gradients to different parameters")
    worst = 0.0
    for name, expected in result["three-pass"].items():
        norm = float(expected.norm())
        difference = float((result["two-pass"][name] - expected).norm())
        worst = max(worst, difference / norm if norm else difference)
    relative = abs(values["two-pass"] - values["three-pass"]) / abs(values["three-pass"])
    return {"device": device_name("cpu"), "gradient_difference": worst, "loss_difference": relative}


def work(cell: Cell, task: str) -> dict[str, Any]:
    """Run one task on a cell."""
    if cell.threads:
        torch.set_num_threads(cell.threads)
    if task == "sharded":
        return measure_collectives(cell)
    if task == "infer":
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


SAMPLES = 8
DECODED = 16  # decoding steps behind the duration of one


def measure_inference(cell: Cell) -> dict[str, Any]:
    """Seconds of every round: first token of plain generation and of AMVL, sixteen more tokens, one and eight samples.

    Both sides run transformers' own decoding loop, greedily and without an early end.
    """
    model = build_model(cell.shape, cell.latents, device=cell.device, dtype=cell.dtype).eval()
    batch = {name: value for name, value in build_batch(cell).items() if not name.startswith("answer_")}
    plain: Any = model.backbone

    def options(tokens: int) -> dict[str, Any]:
        return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    @torch.no_grad()
    def generate(kind: str, tokens: int, samples: int = 1) -> None:
        if kind == "plain":
            plain.generate(**batch, **options(tokens))
        else:
            model.generate(**batch, seed=0, num_return_sequences=samples, **options(tokens))

    runs = {
        "plain_first": lambda: generate("plain", 1),
        "latent_first": lambda: generate("latent", 1),
        "plain_more": lambda: generate("plain", 1 + DECODED),
        "one_sample": lambda: generate("latent", cell.answer),
        "eight_samples": lambda: generate("latent", cell.answer, SAMPLES),
    }
    return {
        "device": device_name(cell.device),
        "seconds": in_turns(runs, cell.repeats, cell.device),
        "decoded": DECODED,
        "samples": SAMPLES,
    }


PROCESSES = 2
METHODS = ("sft", "two-pass")


def measure_collectives(cell: Cell) -> dict[str, Any]:
    """Calls of each collective per step and method, and the largest relative gradient difference of the two-pass step."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, args=(cell, folder), nprocs=PROCESSES, join=True)
        return {"device": device_name("cpu"), **torch.load(Path(folder) / "report.pt")}


def _model(cell: Cell) -> Any:
    model = build_model(cell.shape, cell.latents)
    if cell.checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _loss(model: Any, batch: dict[str, Any]) -> Any:
    """The two-pass loss with posterior means for latents, so that halves of a batch and the whole agree."""
    out = model(**batch, latents="posterior_mean")
    return amvl_objective(out.prior, out.posterior, out.answer_nll, BETA, GAMMA).total.mean()


class _Whole(torch.nn.Module):
    """Plain fine-tuning behind a `forward`, which FSDP2's hooks need."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return sft_loss(self.model, batch)


def _process(rank: int, cell: Cell, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    store = f"file://{Path(folder) / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    try:
        batch = build_batch(replace(cell, batch=PROCESSES))
        own = {name: value[rank : rank + 1] for name, value in batch.items()}
        calls: dict[str, dict[str, int]] = {}
        for method in METHODS:
            model = _model(cell)
            for layer in model.backbone.model.language_model.layers:
                fully_shard(layer)
            root: Any = fully_shard(_Whole(model) if method == "sft" else model)
            step = partial(root, own) if method == "sft" else partial(_loss, root, own)
            step().backward()  # the first step also sets things up
            root.zero_grad()
            with CountCollectives() as counter:
                step().backward()
            calls[method] = dict(counter.calls)
        difference = _difference(model, cell, batch)
        if rank == 0:
            torch.save({"collectives": calls, "gradient_difference": difference}, Path(folder) / "report.pt")
    finally:
        dist.destroy_process_group()


def _difference(sharded: Any, cell: Cell, batch: dict[str, Any]) -> float:
    """||sharded - single|| / ||single||, the largest over all parameters; collective, all processes take part."""
    single = _model(cell)
    _loss(single, batch).backward()
    expected = dict(single.named_parameters())
    worst = 0.0
    for name, parameter in sharded.named_parameters():
        reference = expected[name].grad
        if reference is None or parameter.grad is None:
            if reference is not parameter.grad:
                return float("inf")
            continue
        norm = float(reference.norm())
        difference = float((parameter.grad.full_tensor() - reference).norm())
        worst = max(worst, difference / norm if norm else difference)
    return worst


if __name__ == "__main__":
    sys.exit(main())
