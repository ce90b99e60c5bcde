"""Which kind of training fits on which GPU: computed from `amvl_model.footprint`, with measured peaks beside it where there are.

Free of torch. Cards are sized in gigabytes of 10^9 bytes, as their makers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amvl_model.config import load_preset
from amvl_model.footprint import GPU_RUNTIME, MERGED, footprint
from amvl_model.results import read_study

GIGABYTE = 10**9
CARDS = (24, 48, 80, 141)
MODELS = {"3B": "Qwen/Qwen2.5-VL-3B-Instruct", "7B": "Qwen/Qwen2.5-VL-7B-Instruct"}
METHODS: dict[str, dict[str, object]] = {
    "full fine-tuning": {"model.freeze_vision": False},
    "frozen vision": {"model.freeze_vision": True},
    "LoRA, rank 16": {"model.freeze_vision": True, "model.lora_rank": 16},
}
PICTURE_TOKENS = 512  # of one picture; the estimate allows for two


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One kind of training of one model, computed.

    Attributes:
        model, method: in words.
        checkpointing: gradient checkpointing.
        tokens: of a row, the longest that is allowed for.
        states: bytes of weights, gradients and AdamW's moments.
        activations: bytes kept for the backward pass, logits included.
        total: bytes in all, with the constant of a CUDA process.
    """

    model: str
    method: str
    checkpointing: bool
    tokens: int
    states: int
    activations: int
    total: int

    def fits(self, gigabytes: int) -> bool:
        """Whether a card of this size holds it."""
        return self.total <= gigabytes * GIGABYTE


def memory_rows(batch: int = 1) -> list[MemoryRow]:
    """Every model and method with and without gradient checkpointing, everything in bfloat16."""
    rows = []
    for model, base in MODELS.items():
        for method, settings in METHODS.items():
            for again in (False, True):
                config = load_preset(
                    "qwen2.5-vl-7b",
                    {
                        "model.base": base,
                        "model.dtype": "bfloat16",
                        "model.lora_rank": 0,
                        "data.max_pixels": PICTURE_TOKENS * MERGED**2,
                        "data.min_pixels": None,
                        "train.batch_size": batch,
                        "train.gradient_checkpointing": again,
                        **settings,
                    },
                )
                size = footprint(config)
                assert size is not None
                kept = size.activations + size.logits
                total = size.total(GPU_RUNTIME)
                rows.append(
                    MemoryRow(
                        model=model,
                        method=method,
                        checkpointing=again,
                        tokens=size.tokens,
                        states=size.states,
                        activations=kept,
                        total=total,
                    )
                )
    return rows


def measured_lines(results: Path) -> list[str]:
    """Peaks that `experiments/throughput.py` measured on a GPU, one line a cell; empty where there is none."""
    try:
        found = read_study(results / "throughput")
    except FileNotFoundError:
        return []
    lines = []
    for result in found:
        peak = result.metrics.get("peak_bytes.two-pass")
        if result.config.get("device") == "cuda" and peak is not None and peak.value is not None:
            lines.append(f"  {result.cell}: {peak.value / GIGABYTE:.1f} GB on {result.device}")
    return lines


def memory_table(results: Path = Path("results"), *, batch: int = 1) -> str:
    """The table as text, marked as computed, and what was measured underneath."""
    rows = memory_rows(batch)
    heading = ("model", "method", "checkpointing", "states", "activations", "in all", *(f"{card} GB" for card in CARDS))
    cells = [heading]
    for row in rows:
        sizes = (f"{number / GIGABYTE:.1f}" for number in (row.states, row.activations, row.total))
        verdicts = ("yes" if row.fits(card) else "no" for card in CARDS)
        cells.append((row.model, row.method, "yes" if row.checkpointing else "no", *sizes, *verdicts))
    widths = [max(len(line[i]) for line in cells) for i in range(len(heading))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    tokens = max(row.tokens for row in rows)
    title = (
        f"COMPUTED, not measured: GB (10^9 bytes) of one GPU, batch {batch}, {tokens} tokens a row in both passes, weights, "
        "gradients and AdamW's\nmoments in bfloat16; the method in amvl_model/footprint.py, activations good to perhaps a third"
    )
    measured = measured_lines(results)
    tail = (
        ["Measured on a GPU (experiments/throughput.py):", *measured]
        if measured
        else ["Measured on a GPU: nothing yet."]
    )
    return "\n".join([title, "", *lines, "", *tail])
