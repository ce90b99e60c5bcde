"""Parameters of a Qwen2.5-VL and the memory that training it takes, computed without torch and without weights.

Parameters: counted from the shapes of the architecture, exactly (tests compare with transformers on the meta device).

Training memory of a preset, over all devices, with N_train trained and N_frozen frozen parameters, w bytes a weight (4 for
float32, 2 for bfloat16; AdamW's two moments have the weights' type), batch B, S tokens a row, L layers of width H whose
MLP is I wide and whose keys are C wide, a = 2 bytes under bf16 and 4 otherwise:

    states       = 4 w N_train + w N_frozen            weights, gradients, two moments; weights alone where frozen
    activations  = B S a (L - 1) (10 H + 4 I)          kept for the backward pass; with gradient checkpointing
                 + B S a (10 H + 4 I)                  B S a L (H + 2 C), plus the one layer at work
    logits       = 8 B A V                             answer logits in float32 and their gradient, A answer tokens
    runtime      = a constant of the device            Python with torch and transformers, or the CUDA context

and of each of P processes under FSDP2, with V H the output layer and n one decoder layer (communication.py says why):

    states / P + w N_train (1 - 1/P)                   the second term with gradient accumulation: gradients stay whole
    gathered     = 2 w (V H + 2 n)                     weights and gradients that are whole at work: output, a layer and the next

The first line is exact for the trainer's AdamW; the rest is an estimate, good to perhaps a third. A trained vision encoder
counts like further layers, over its own patches.


`memory_table` says which kind of training fits on which GPU, with measured peaks beside it where there are
some. Cards are sized in gigabytes of 10^9 bytes, as their makers do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amvl_model.config import ModelConfig, RunConfig, load_preset
from amvl_model.config.schema import problem
from amvl_model.results.files import read_study

ASSET_FOLDER = Path(__file__).parents[1] / "assets"
PATCH = 14  # pixels on a side
MERGED = 28  # pixels on a side of an image's token
TEXT_TOKENS = 128  # of the question, allowed for beside its images
ANSWER_TOKENS = 32  # allowed for
IMAGES = 2  # images of a question, allowed for
TINY_PIXELS = 112 * 112  # largest image of the tiny and scratch bases
QWEN_PIXELS = 1280 * MERGED**2  # allowed for where the run sets no largest image
CPU_RUNTIME = 512 * 2**20  # Python 3.11 with torch 2.13 and transformers 5.23 imported: 370 MiB measured, rounded up
GPU_RUNTIME = 1024 * 2**20  # allowed for the CUDA context and the workspaces of its libraries


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shapes of a Qwen2.5-VL.

    Attributes:
        vocab: rows of the token embedding.
        hidden, intermediate, layers, heads, kv_heads: of the language model.
        tied: whether the output layer is the token embedding.
        vision_hidden, vision_intermediate, vision_layers: of the vision encoder.
    """

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    vision_hidden: int = 1280
    vision_intermediate: int = 3420
    vision_layers: int = 32

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        h, i = self.hidden, self.intermediate
        kv = h // self.heads * self.kv_heads
        return (h * h + h) + 2 * (h * kv + kv) + h * h + 3 * h * i + 2 * h

    @property
    def language_parameters(self) -> int:
        """Parameters of the language model with its embedding and output layer."""
        return self.layers * self.layer_parameters + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision encoder with the merger that ends it."""
        h, i = self.vision_hidden, self.vision_intermediate
        layer = 2 * h + (3 * h * h + 3 * h) + (h * h + h) + (3 * h * i + 2 * i + h)
        merger = h + (4 * h) * (4 * h) + 4 * h + 4 * h * self.hidden + self.hidden
        return 3 * 2 * PATCH * PATCH * h + self.vision_layers * layer + merger

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """The shapes that a checkpoint's ``config.json`` states (hub checkpoints keep the text's at the top level).

        Raises:
            ValueError: if the file is not that of a Qwen2.5-VL.
        """
        text, vision = {**config, **config.get("text_config", {})}, config.get("vision_config", {})
        try:
            return cls(
                vocab=text["vocab_size"],
                hidden=text["hidden_size"],
                intermediate=text["intermediate_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
                vision_hidden=vision["hidden_size"],
                vision_intermediate=vision.get("intermediate_size", 3420),
                vision_layers=vision.get("depth", 32),
            )
        except KeyError as error:
            raise problem(
                "config.json", "the config of a Qwen2.5-VL checkpoint", f"one without {error}", "check the folder"
            ) from error

    @classmethod
    def scratch(cls, hidden: int, layers: int, vision_hidden: int, vocab: int = 640) -> Architecture:
        """The shapes of `amvl_model.models.tiny.tiny_config`."""
        heads = hidden // 32
        return cls(
            vocab=vocab,
            hidden=hidden,
            intermediate=round(hidden * 8 / 3 / 64) * 64,
            layers=layers,
            heads=heads,
            kv_heads=max(1, heads // 3),
            tied=True,
            vision_hidden=vision_hidden,
            vision_intermediate=3 * vision_hidden,
            vision_layers=4,
        )


# Shapes from the checkpoints' public config.json, for machines that cannot reach the hub.
KNOWN = {
    "qwen/qwen2.5-vl-3b-instruct": Architecture(
        vocab=151936, hidden=2048, intermediate=11008, layers=36, heads=16, kv_heads=2, tied=True
    ),
    "qwen/qwen2.5-vl-7b-instruct": Architecture(
        vocab=152064, hidden=3584, intermediate=18944, layers=28, heads=28, kv_heads=4, tied=False
    ),
}


def architecture_of(model: ModelConfig) -> Architecture | None:
    """The shapes of a run's base, or None for a hub id that neither this file nor the local cache knows."""
    if model.base == "scratch":
        return Architecture.scratch(model.scratch_hidden_size, model.scratch_layers, model.scratch_vision_size)
    if model.base.lower() in KNOWN:
        return KNOWN[model.base.lower()]
    file = Path(model.base) / "config.json"
    if model.base == "tiny":
        # Every shipped checkpoint has the shapes of the tiny base, which before its first pre-training has no folder.
        shipped = sorted(ASSET_FOLDER.glob("*/config.json"))
        if not shipped:
            return Architecture.scratch(192, 4, 128)
        file = shipped[0]
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        return Architecture.from_config(config.get("vlm_config") or config)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.base, "config.json")
    return Architecture.from_config(json.loads(Path(cached).read_text("utf-8"))) if isinstance(cached, str) else None


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Computed size of a run.

    Attributes:
        parameters: of backbone and latent modules.
        trained: those that receive gradients.
        tokens: S, the longest row that is allowed for.
        states, activations, logits, gathered: bytes, as in the module's formula.
        accumulated: bytes of the gradients that FSDP2 keeps whole between micro-batches; 0 without accumulation.
    """

    parameters: int
    trained: int
    tokens: int
    states: int
    activations: int
    logits: int
    accumulated: int = 0
    gathered: int = 0

    def process(self, processes: int, runtime: int = 0) -> int:
        """Bytes of each of several processes under FSDP2; in one process, `total`."""
        if processes == 1:
            return self.total(runtime)
        whole = self.accumulated * (processes - 1) // processes + self.gathered
        return -(-self.states // processes) + whole + self.activations + self.logits + runtime

    def total(self, runtime: int = 0) -> int:
        """Bytes in all, with a device's constant."""
        return self.states + self.activations + self.logits + runtime


def latent_parameters(shape: Architecture, num_latents: int, latent_dim: int) -> int:
    """Queries of both kinds, both heads (RMSNorm and a linear layer to mean and log std) and the projection."""
    h, d = shape.hidden, latent_dim
    return 2 * num_latents * h + 2 * (h + 2 * d * h + 2 * d) + d * h + h


def lora_parameters(shape: Architecture, rank: int) -> int:
    """LoRA on the seven linear maps of every layer of the language model."""
    h, i = shape.hidden, shape.intermediate
    kv = h // shape.heads * shape.kv_heads
    return shape.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))


def weight_bytes(config: RunConfig) -> int:
    """Bytes of a stored weight; auto: every checkpoint that this package starts from is stored in bfloat16."""
    stored = "float32" if config.model.base == "scratch" else "bfloat16"
    return 2 if (stored if config.model.dtype == "auto" else config.model.dtype) == "bfloat16" else 4


def footprint(config: RunConfig) -> Footprint | None:
    """Memory that training with ``config`` takes, or None if the base's shapes are unknown here."""
    shape = architecture_of(config.model)
    if shape is None:
        return None
    latents = latent_parameters(shape, config.model.num_latents, config.model.latent_dim)
    trained, frozen = latents, 0
    if config.model.lora_rank:
        trained, frozen = trained + lora_parameters(shape, config.model.lora_rank), shape.language_parameters
    else:
        trained += shape.language_parameters
    if config.model.freeze_vision:
        frozen += shape.vision_parameters
    else:
        trained += shape.vision_parameters
    weight = weight_bytes(config)
    pixels = IMAGES * (config.data.max_pixels or (TINY_PIXELS if shape.vocab < 10_000 else QWEN_PIXELS))
    tokens = pixels // MERGED**2 + TEXT_TOKENS + 3 * config.model.num_latents + 2 * ANSWER_TOKENS
    size = 2 if config.train.precision == "bf16" or weight == 2 else 4
    batch = config.train.batch_size
    again = config.train.gradient_checkpointing
    at_work = _layer_kept(shape.hidden, shape.intermediate) if again else 0
    saved = batch * tokens * size * (kept_per_token(shape, checkpointing=again) + at_work)
    if not config.model.freeze_vision:
        patches = batch * (pixels // PATCH**2)
        layer = _layer_kept(shape.vision_hidden, shape.vision_intermediate)
        in_all = shape.vision_layers * shape.vision_hidden + layer if again else shape.vision_layers * layer
        saved += patches * size * in_all
    return Footprint(
        parameters=trained + frozen,
        trained=trained,
        tokens=tokens,
        states=weight * (4 * trained + frozen),
        activations=saved,
        logits=8 * batch * ANSWER_TOKENS * shape.vocab,
        accumulated=weight * trained if config.train.grad_accumulation > 1 else 0,
        gathered=2 * weight * (shape.vocab * shape.hidden + 2 * shape.layer_parameters),
    )


def kept_per_token(shape: Architecture, *, checkpointing: bool) -> int:
    """Numbers that a token of the language model leaves behind for the backward pass.

    Residuals, norms, queries, attention's output and the MLP's four intermediates; with gradient checkpointing a layer's
    input and the keys and values that the second pass reads.
    """
    keys = shape.hidden // shape.heads * shape.kv_heads
    return shape.layers * (shape.hidden + 2 * keys if checkpointing else _layer_kept(shape.hidden, shape.intermediate))


def _layer_kept(hidden: int, intermediate: int) -> int:
    return 10 * hidden + 4 * intermediate


GIGABYTE = 10**9
CARDS = (24, 48, 80, 141)
MODELS = {"3B": "Qwen/Qwen2.5-VL-3B-Instruct", "7B": "Qwen/Qwen2.5-VL-7B-Instruct"}
METHODS: dict[str, dict[str, object]] = {
    "full fine-tuning": {"model.freeze_vision": False},
    "frozen vision": {"model.freeze_vision": True},
    "LoRA, rank 16": {"model.freeze_vision": True, "model.lora_rank": 16},
}
IMAGE_TOKENS = 512  # of one image; the estimate allows for two


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
                        "data.max_pixels": IMAGE_TOKENS * MERGED**2,
                        "data.min_pixels": None,
                        "train.batch_size": batch,
                        "train.gradient_checkpointing": again,
                        **settings,
                    },
                )
                size = footprint(config)
                assert size is not None
                saved = size.activations + size.logits
                total = size.total(GPU_RUNTIME)
                rows.append(
                    MemoryRow(
                        model=model,
                        method=method,
                        checkpointing=again,
                        tokens=size.tokens,
                        states=size.states,
                        activations=saved,
                        total=total,
                    )
                )
    return rows


def measured_lines(results: Path) -> list[str]:
    """Peaks that `experiments/throughput.py` measured on a GPU, one line a cell; empty where there is none."""
    try:
        measured = read_study(results / "throughput")
    except FileNotFoundError:
        return []
    lines = []
    for result in measured:
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
        "gradients and AdamW's\nmoments in bfloat16; the method in amvl_model/profiling/footprint.py, activations good to "
        "perhaps a third"
    )
    measured = measured_lines(results)
    tail = (
        ["Measured on a GPU (experiments/throughput.py):", *measured]
        if measured
        else ["Measured on a GPU: nothing yet."]
    )
    return "\n".join([title, "", *lines, "", *tail])
