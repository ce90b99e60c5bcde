"""Several processes of one run: who this is, what all of them know, and whose turn it is to write.

    torchrun --nproc-per-node 8 -m amvl_model.cli train --preset qwen2.5-vl-7b --train.sharding fsdp2
    accelerate launch --config_file amvl_model/launch/fsdp2.yaml -m amvl_model.cli train --preset qwen2.5-vl-7b

Both launchers set RANK and WORLD_SIZE for each process; `start` then joins them through accelerate. Without them there is one
process and every function here does nothing. All processes have to reach the same calls in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def start() -> None:
    """Join the processes that a launcher started (gloo on CPUs, NCCL on GPUs); does nothing if there is one, or twice."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def stop() -> None:
    """Leave the processes, at the end of a script that went well."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 to `world_size` - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def broadcast(value: Any) -> Any:
    """What the main process holds (anything that can be pickled)."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0, device=device())
    return values[0]


def gather(value: Any) -> list[Any]:
    """What every process holds, in the order of their ranks, on every process (anything that can be pickled)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    if device().type == "cuda":
        torch.cuda.set_device(device())
    dist.all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if world_size() == 1:
        return flag
    shared = torch.tensor(float(flag), device=device())
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared)


def gather_or_raise(work: Callable[[], Any]) -> list[Any]:
    """What ``work()`` gives on every process; an exception on one of them is raised on all, so that none waits for ever.

    Raises:
        Exception: the process's own one where it failed.
        RuntimeError: on the others, with the message of the first process that failed.
    """
    value, error = None, None
    try:
        value = work()
    except Exception as caught:  # sent to the other processes and raised again below
        error = caught
    outcomes = gather((value, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for number, (_, message) in enumerate(outcomes):
        if message is not None:
            raise RuntimeError(f"process {number} of {len(outcomes)} failed: {message}")
    return [value for value, _ in outcomes]


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
