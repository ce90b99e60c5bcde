"""Collectives of a training step under FSDP2 with two gloo processes on the CPU, and its gradients against one process."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from amvl_model.objective import amvl_objective
from amvl_model.throughput.grid import Cell
from amvl_model.throughput.meters import CountCollectives, device_name
from amvl_model.throughput.steps import BETA, GAMMA, build_batch, build_model, sft_loss

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
