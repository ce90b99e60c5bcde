"""What is measured: sizes, methods, cells, the token ratio and the floating-point operations of a layout. Free of torch.

Layouts, with N query tokens, M answer tokens (|y| in the formulas) and k latents. A segment is (new tokens, tokens before
them); its rows attend all that stands before them and causally themselves.

    sft           [ x | y ]                                      plain supervised fine-tuning
    two-pass      [ x | prior | posterior | y ], [ Z | y ]       AMVL as this package does it
    three-pass    [ x | prior ], [ x | y | posterior ], [ x | Z | y ]
    sequential    [ x ], k - 1 times one latent, [ latent k | y ]: the last hidden state is the next input; k + 1 segments

    r = (N + 3k + 2M) / (N + M)      tokens of two-pass over tokens of sft: the floor of the step-time ratio
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from amvl_model.profiling.footprint import KNOWN, Architecture

METHODS = ("sft", "two-pass", "three-pass", "sequential")
_60M = Architecture(
    vocab=32768, hidden=512, intermediate=1408, layers=12, heads=8, kv_heads=2, tied=True,
    vision_hidden=256, vision_intermediate=768, vision_layers=4,
)  # fmt: skip
SIZES: dict[str, Architecture] = {
    "tiny": Architecture.scratch(192, 4, 128),
    "60m": _60M,
    "300m": replace(_60M, hidden=1024, intermediate=2816, layers=24, heads=16, kv_heads=4),
    "3b": KNOWN["qwen/qwen2.5-vl-3b-instruct"],
    "7b": KNOWN["qwen/qwen2.5-vl-7b-instruct"],
}
BASE_LENGTH, BASE_ANSWER, BASE_LATENTS = 768, 16, 8
# dense bfloat16 operations a second, from the data sheets; a name is looked for in torch's name of the device
PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting, measured in a process of its own.

    Attributes:
        kind: "train" (step time; on a GPU memory too), "memory", "infer", "sharded" or "gradients".
        size: name in `SIZES`.
        length, answer, latents: N, M, k.
        batch: examples in a step.
        checkpointing: gradient checkpointing of the language model.
        methods: those measured, in turns.
        repeats: measured rounds, after one unmeasured round.
        device, dtype, optimizer: "cpu" or "cuda", "float32" or "bfloat16", "adamw" or "sgd".
        images: whether three quarters of x are an image (vision encoder frozen); otherwise x is text.
        threads: CPU threads; 0 for torch's own choice.
        profile: also profile one step of every method (training cells).
    """

    kind: str
    size: str
    length: int
    answer: int
    latents: int
    batch: int = 1
    checkpointing: bool = False
    methods: tuple[str, ...] = METHODS
    repeats: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    optimizer: str = "adamw"
    images: bool = False
    threads: int = 0
    profile: bool = False

    @property
    def name(self) -> str:
        """Folder of the cell's result."""
        parts = [self.kind, self.size, self.device, self.dtype, f"b{self.batch}", f"n{self.length}"]
        parts += [f"y{self.answer}", f"k{self.latents}"]
        parts += ["checkpointing"] * self.checkpointing + ["images"] * self.images
        parts += [self.optimizer] * (self.optimizer != "adamw")
        return "-".join(parts)

    @property
    def shape(self) -> Architecture:
        """The backbone's shapes."""
        return SIZES[self.size]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of ``Cell(**data)``."""
        return asdict(self)


def token_ratio(length: int, answer: int, latents: int) -> float:
    """r = (N + 3k + 2M) / (N + M)."""
    return (length + 3 * latents + 2 * answer) / (length + answer)


def segments(method: str, length: int, answer: int, latents: int) -> list[tuple[int, int]]:
    """(new tokens, tokens before them) of every segment that a training step runs.

    Raises:
        ValueError: for an unknown method.
    """
    n, m, k = length, answer, latents
    if method == "sft":
        return [(n + m - 1, 0)]
    if method == "two-pass":
        return [(n, 0), (k, n), (k + m, n), (k + m - 1, n)]
    if method == "three-pass":
        return [(n + k, 0), (n + m + k, 0), (n + k + m - 1, 0)]
    if method == "sequential":
        return [(n, 0), *((1, n + j) for j in range(k - 1)), (m, n + k - 1)]
    raise ValueError(f"expected a method among {', '.join(METHODS)}, got {method!r}")


def model_flops(shape: Architecture, parts: Sequence[tuple[int, int]], answer: int) -> float:
    """Floating-point operations of forward and backward pass of one example, without recomputation.

    Matrix products of the layers and of the output layer at the answer's positions, and attention (a causal pair counts
    once); the backward pass is twice the forward pass. Vision encoder and latent modules are left out.
    """
    h, i = shape.hidden, shape.intermediate
    kv = h // shape.heads * shape.kv_heads
    layer = 2 * h * h + 2 * h * kv + 3 * h * i
    tokens = sum(new for new, _ in parts)
    pairs = sum(new * before + new * (new + 1) / 2 for new, before in parts)
    forward = 2 * shape.layers * layer * tokens + 4 * shape.layers * h * pairs + 2 * shape.vocab * h * answer
    return 3 * forward


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 peak of a GPU by its name, None where this file does not know it."""
    return next((peak for name, peak in PEAK_FLOPS.items() if all(part in device for part in name.split())), None)


def training_cells(
    sizes: Sequence[str],
    lengths: Sequence[int],
    answers: Sequence[int],
    latents: Sequence[int],
    checkpointing: Sequence[bool] = (False, True),
    kind: str = "train",
    **common: Any,
) -> list[Cell]:
    """Every length with every answer at one k; the other numbers of latents at one length and answer.

    The base point is N = 768, |y| = 16, k = 8 where these are asked for, and the first of each list otherwise.
    """
    n, m, k = (
        base if base in values else values[0]
        for base, values in ((BASE_LENGTH, lengths), (BASE_ANSWER, answers), (BASE_LATENTS, latents))
    )
    points = [(length, answer, k) for length in lengths for answer in answers]
    points += [(n, m, other) for other in latents if other != k]
    return [
        Cell(kind=kind, size=size, length=x, answer=y, latents=z, checkpointing=again, **common)
        for size in sizes
        for x, y, z in points
        for again in checkpointing
    ]


def needed_bytes(cell: Cell) -> int:
    """A lower estimate of the memory that a cell takes, to refuse at once what cannot fit: computed, not measured."""
    shape, width = cell.shape, 2 if cell.dtype == "bfloat16" else 4
    language, vision = shape.language_parameters, shape.vision_parameters
    if cell.kind == "infer":
        return width * (language + vision)
    states = {"adamw": 4, "sgd": 2}[cell.optimizer]
    tokens = cell.batch * (cell.length + cell.answer)
    saved = shape.layers * shape.hidden * (1 if cell.checkpointing else 10)
    return width * (states * language + vision + tokens * saved)
