"""What a step keeps and takes: seconds, saved tensors, live bytes, resident memory, collectives."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: str) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def in_turns(runs: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of every run, one repetition of all before the next, after one unmeasured round."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            seconds[name].append(timed(run, device))
    return seconds


def device_name(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def saved_bytes(run: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, each storage once, weights left out.

    With gradient checkpointing these are the inputs of the checkpointed layers; what is computed again is not among them.
    """
    weights = _storages(parameters)
    saved: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = (storage.nbytes(), tensor.detach())  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(size for size, _ in saved.values())
    del result
    return total


class LiveBytes(TorchDispatchMode):
    """Peak of the bytes that operations of this block have made and something still holds, forward and backward.

    What was there before (weights, gradients, the batch) does not count, nor do scratch buffers inside a kernel. For the
    CPU; on a GPU the allocator itself keeps this figure.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._total = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = _storages(t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        self._before |= inputs - self._live.keys()
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), inputs)
        return result

    def _add(self, storage: Any, inputs: set[int]) -> None:
        key = storage._cdata
        if key in inputs:
            return  # a view, or written in place
        old = self._live.get(key)
        if old is not None:
            self._total -= old[1]  # the address of something that is gone
        self._live[key] = (StorageWeakRef(storage), storage.nbytes())
        self._total += storage.nbytes()
        if self._total > self.peak:
            self._live = {name: entry for name, entry in self._live.items() if not entry[0].expired()}
            self._total = sum(size for _, size in self._live.values())
            self.peak = max(self.peak, self._total)


class CountCollectives(TorchDispatchMode):
    """Numbers of collective operations in this block by name: what FSDP2 gathers and reduces."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.calls[func._schema.name.partition("::")[2].strip("_")] += 1
        return func(*args, **(kwargs or {}))


def resident(kind: str = "VmRSS") -> int | None:
    """Bytes of main memory that this process holds now ("VmRSS") or held at its peak ("VmHWM"); None outside Linux."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) * 1024
    return None


def forget_peak() -> None:
    """Start `resident("VmHWM")` anew from what is held now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
