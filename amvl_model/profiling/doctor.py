"""What this machine has, and which presets fit: the report behind ``amvl doctor``.

Nothing is trained or downloaded. torch is imported here, when the report is made, and nowhere before.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amvl_model.config import load_preset, preset_names
from amvl_model.profiling.footprint import (
    ANSWER_TOKENS,
    CPU_RUNTIME,
    GPU_RUNTIME,
    IMAGES,
    TEXT_TOKENS,
    Footprint,
    footprint,
)
from amvl_model.two_pass.transformers_compat import INSTALL_PEFT, OLDEST, UNSUPPORTED, release

GIB = 2**30
OLDEST_PYTHON = (3, 11)

# Distribution, oldest version that works, and what it is for; an empty oldest version: any.
REQUIRED = (
    ("torch", "2.6", "tensors and training"),
    ("transformers", OLDEST, "the backbone and the trainer"),
    ("accelerate", "", "devices, under the trainer"),
    ("safetensors", "", "checkpoints"),
    ("tokenizers", "", "text"),
    ("numpy", "", "arrays"),
    ("pillow", "", "images"),
    ("pyarrow", "", "Parquet data sets"),
    ("PyYAML", "", "presets"),
    ("matplotlib", "", "figures"),
)
OPTIONAL = (
    ("peft", "", f"LoRA: {INSTALL_PEFT}"),
    ("tensorboard", "", "curves: pip install tensorboard"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices and memory in bytes; None where it could not be found out.

    Attributes:
        memory, available: main memory, in all and free now.
        gpus: name, memory in all, free now, and whether bfloat16 is native, of each GPU.
        threads: CPU threads that torch uses.
        bf16_speedup: seconds of a float32 matrix product over those of the same in bfloat16, on the CPU.
    """

    memory: int | None
    available: int | None
    gpus: tuple[tuple[str, int, int, bool], ...]
    threads: int
    bf16_speedup: float

    @property
    def place(self) -> str:
        """Where a run would go."""
        return f"{len(self.gpus)} GPUs" if len(self.gpus) > 1 else "GPU" if self.gpus else "CPU"

    @property
    def runtime(self) -> int:
        """Bytes that any run takes on one device."""
        return GPU_RUNTIME if self.gpus else CPU_RUNTIME

    def fits(self, size: Footprint) -> bool | None:
        """Whether a run fits the free memory, its states shared between the GPUs; None if that is unknown."""
        free = min(free for _, _, free, _ in self.gpus) if self.gpus else self.available
        return None if free is None else size.process(max(1, len(self.gpus)), self.runtime) <= free


def main_memory() -> tuple[int | None, int | None]:
    """Bytes of main memory in all and free now, the limit of a container included."""
    total, available = None, None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    if limit is not None and total is not None and limit < total:
        total = limit
        available = min(available or limit, max(0, limit - (used or 0)))
    return total, available


def _cgroup(*names: str) -> int | None:
    """The number in the first of these files that has one (versions 2 and 1 of control groups)."""
    for name in names:
        try:
            with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return None


def bf16_speedup() -> float:
    """Time of a float32 matrix product over that of the same in bfloat16, on one thread, the shortest of 20 tries each."""
    import torch

    def seconds(work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    long = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    short = long.bfloat16()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other work on the machine disturbs one thread less than many that wait for each other
    try:
        pairs = [(seconds(lambda: long @ long), seconds(lambda: short @ short)) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    return min(slow for slow, _ in pairs) / min(fast for _, fast in pairs)


def examine() -> Machine:
    """Look at the machine that this runs on; takes well under a second beyond the import of torch."""
    import torch

    memory, available = main_memory()
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        native = torch.cuda.get_device_capability(index) >= (8, 0)
        gpus.append((torch.cuda.get_device_name(index), total, free, native))
    return Machine(
        memory=memory,
        available=available,
        gpus=tuple(gpus),
        threads=torch.get_num_threads(),
        bf16_speedup=bf16_speedup(),
    )


def package_lines() -> tuple[list[str], list[str]]:
    """One line for every package, and what to do about those that are missing, too old or too new."""
    lines, advice = [], []
    python = platform.python_version()
    lines.append(f"  {'python':<13}{python}")
    if release(python) < OLDEST_PYTHON:
        advice.append(f"Python {python} is too old: install 3.11 or newer.")
    for table, needed in ((REQUIRED, True), (OPTIONAL, False)):
        for name, oldest, purpose in table:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                lines.append(f"  {name:<13}missing ({'needed' if needed else 'optional'}; {purpose})")
                if needed:
                    advice.append(f"{name} is missing: run `make setup`, or pip install {name}.")
                continue
            old = bool(oldest) and release(version) < release(oldest)
            lines.append(f"  {name:<13}{version}" + (f"  too old, {oldest} is the oldest that works" if old else ""))
            if old:
                advice.append(f"{name} {version} is too old: pip install '{name}>={oldest}'.")
            if name == "transformers" and release(version) >= release(UNSUPPORTED):
                advice.append(f"{name} {version} is too new: pip install '{name}<{UNSUPPORTED}'.")
    return lines, advice


def machine_lines(machine: Machine) -> list[str]:
    """Processor, memory and GPUs in words."""
    speed = f"{machine.bf16_speedup:.1f} times as fast as float32 (512 x 512 matrix product, one CPU thread)"
    verdict = "fast here" if machine.bf16_speedup > 1.3 else "slow here, stay with fp32"
    lines = [
        f"  CPU          {os.cpu_count()} logical processors, {machine.threads} torch threads",
        f"  bfloat16     {speed}: {verdict}",
        f"  memory       {_gib(machine.memory)}, {_gib(machine.available)} free",
    ]
    for name, total, free, native in machine.gpus:
        lines.append(
            f"  GPU          {name}, {_gib(total)}, {_gib(free)} free, bfloat16 {'fast' if native else 'slow'}"
        )
    return lines if machine.gpus else [*lines, "  GPU          none that torch.cuda sees"]


def preset_lines(machine: Machine, sizes: Mapping[str, Footprint | None]) -> list[str]:
    """The table of presets: what each needs and whether it fits the memory that is free here."""
    heading = ("preset", "parameters", "trained", "states", "activations", "in all", f"fits the {machine.place}")
    rows: list[tuple[str, ...]] = [heading]
    for name, size in sizes.items():
        if size is None:
            rows.append((name, *["unknown"] * 5, "base unknown"))
            continue
        rows.append(
            (
                name,
                _count(size.parameters),
                _count(size.trained),
                _gib(size.states),
                _gib(size.activations + size.logits),
                _gib(size.total(machine.runtime)),
                {True: "yes", False: "no", None: "unknown"}[machine.fits(size)],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def report() -> tuple[str, bool]:
    """The whole report, and whether everything that is needed is there."""
    packages, advice = package_lines()
    blocks = ["Packages", *packages, ""]
    if advice and any(line.startswith(("torch", "Python", "transformers")) for line in advice):
        return "\n".join([*blocks, "What to do", *(f"  {line}" for line in advice)]), False
    machine = examine()
    lora = {"model.lora_rank": "16", "model.dtype": "bfloat16"}
    sizes = {name: footprint(load_preset(name)) for name in preset_names()}
    sizes["qwen2.5-vl-7b, LoRA *"] = footprint(load_preset("qwen2.5-vl-7b", lora))
    blocks += ["Machine", *machine_lines(machine), "", "Memory of training, computed, not measured"]
    blocks += [*preset_lines(machine, sizes), "", *_formula_lines(machine), "", "What to do"]
    small = [name for name, size in sizes.items() if size is not None and machine.fits(size) is False]
    complete = not advice
    advice += _advice(machine, small)
    return "\n".join(blocks + [f"  {line}" for line in advice]), complete


def _formula_lines(machine: Machine) -> list[str]:
    row = f"{IMAGES} images of the largest size, {TEXT_TOKENS} tokens of text and {ANSWER_TOKENS} of answer"
    return [
        "  states      = w (4 trained + frozen) bytes: weights, gradients, AdamW's two moments; w = 4 (float32) or 2",
        "  activations = a x tokens of a batch x (10 H + 4 I) for every layer, a = 4 or 2; H and keys under checkpointing;",
        f"                allowed for in a row: {row}",
        f"  in all      = both + {_gib(machine.runtime)} that any run takes; several GPUs (FSDP) share the states",
        "  * with --model.lora_rank 16 --model.dtype bfloat16. Details: amvl_model/profiling/footprint.py",
    ]


def _advice(machine: Machine, too_large: list[str]) -> list[str]:
    lines = []
    if not machine.gpus:
        lines.append("No GPU: the preset tiny is made for this machine (amvl train --preset tiny).")
        lines.append(
            "For the others a 'yes' is about memory, not time; if there is a GPU, install a torch build for it."
        )
    if machine.gpus and any(not native for *_, native in machine.gpus):
        lines.append("A GPU here is slow in bfloat16: add --train.precision fp32.")
    if too_large:
        lines.append(f"Too large for the memory that is free: {'; '.join(too_large)}.")
        lines.append(
            "Smaller: --model.lora_rank 16 --model.dtype bfloat16, a lower --train.batch_size, several GPUs (FSDP)."
        )
    return lines or ["Nothing: everything is there and every preset fits."]


def _gib(number: int | None) -> str:
    return "unknown" if number is None else f"{number / GIB:.1f} GiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"
