"""From a name, a folder or a preset to a model, and back: shipped checkpoints, bases, checkpoints of a run.

An import makes the models known to transformers' Auto classes and its pipelines; the first configuration does so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
)

from amvl_model.config import RunConfig
from amvl_model.data.processing import AMVLProcessor
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.backbone import load_backbone
from amvl_model.models.checkpoints import (
    backbone_at,
    check_finite,
    check_weights,
    checkpoint_type,
    inspect_checkpoint,
    write_manifest,
    writing,
)
from amvl_model.models.configuration import PAUSE_TYPE, AMVLConfig, PauseConfig
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.two_pass.attention import install_attention

TrainedModel = AMVLForConditionalGeneration | PauseForConditionalGeneration

for _config, _model in (
    (AMVLConfig, AMVLForConditionalGeneration),
    (PauseConfig, PauseForConditionalGeneration),
):
    for _auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        _auto.register(_config, _model)
    AutoProcessor.register(_config, AMVLProcessor)


ASSETS = Path(__file__).parents[1] / "assets"


SHIPPED = {
    "tiny": ASSETS / "tiny-base",
    "tiny-forward-only": ASSETS / "tiny-forward-only",
    "tiny-amvl": ASSETS / "tiny-amvl",
    "multihop": ASSETS / "multihop-base",
    "multihop-1": ASSETS / "multihop-base-1",
    "multihop-2": ASSETS / "multihop-base-2",
    "changing-cells": ASSETS / "changing-cells-base",
    "grid-walk": ASSETS / "grid-walk-base",
    "nested-comparison": ASSETS / "nested-comparison-base",
    "multihop-forward-only": ASSETS / "multihop-forward-only",
    "multihop-amvl": ASSETS / "multihop-amvl",
}


def resolve(name: str) -> str:
    """A shipped checkpoint's folder for its short name (a key of `SHIPPED`); anything else unchanged."""
    return str(SHIPPED[name]) if name in SHIPPED else name


def load_base(config: RunConfig) -> tuple[PreTrainedModel, AMVLProcessor]:
    """Backbone and processor that a run starts from.

    Raises:
        FileNotFoundError, ValueError: if the checkpoint is missing or damaged.
        ConnectionError: if it is on a hub that cannot be reached; the message says what to download.
    """
    settings = config.model
    if settings.base == "scratch":
        from amvl_model.models.tiny import build_base

        return build_base(
            config.train.seed,
            hidden_size=settings.scratch_hidden_size,
            num_layers=settings.scratch_layers,
            vision_size=settings.scratch_vision_size,
        )
    path = resolve(settings.base)
    dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    with explained(path):
        backbone, _ = load_backbone(path, dtype=dtype)
    install_attention(backbone)
    return backbone, load_base_processor(config)


def load_base_processor(config: RunConfig) -> AMVLProcessor:
    """The processor alone of the base that a run starts from, without its weights.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: as `load_base`.
    """
    if config.model.base == "scratch":
        return load_base(config)[1]
    path, data = resolve(config.model.base), config.data
    inspect_checkpoint(path, expected_type=None)
    with explained(path):
        return AMVLProcessor.from_pretrained(path, min_pixels=data.min_pixels, max_pixels=data.max_pixels)


@contextmanager
def explained(path: str) -> Iterator[None]:
    """transformers' error for a hub that does not answer, with what to download and where to put it."""
    try:
        yield
    except OSError as error:
        if Path(path).is_dir() or Path(path).is_absolute():
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        name = path.rpartition("/")[2]
        raise ConnectionError(
            f"the base {path!r} was not found locally or on the Hub ({reason}); on a machine with a "
            f"network run `hf download {path} --local-dir {name}`, copy the folder here and give its path "
            "in place of the name (model.base in a configuration)"
        ) from error


def load_checkpoint(
    path: str | Path, *, dtype: torch.dtype | str = torch.float32, backbone_path: str | Path | None = None
) -> tuple[Any, AMVLProcessor]:
    """An AMVL checkpoint, one of a baseline, or a plain backbone, with its processor, ready to be evaluated.

    Args:
        path: of the checkpoint, or the name of a shipped one.
        dtype: of the weights.
        backbone_path: the base of a LoRA checkpoint, where it is no longer in the folder that the checkpoint names.

    Raises:
        FileNotFoundError, ValueError: if a file is missing, damaged or altered, or the checkpoint needs no ``backbone_path``.
    """
    folder = resolve(str(path))
    model: Any
    if backbone_path is not None:
        with backbone_at(resolve(str(backbone_path)), folder):
            return load_checkpoint(folder, dtype=dtype)
    kind = checkpoint_type(folder)
    with explained(folder):
        if kind == "amvl":
            model = AMVLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        elif kind == PAUSE_TYPE:
            model = PauseForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        else:
            model, _ = load_backbone(folder, dtype=dtype)
            if not isinstance(model, AMVLForConditionalGeneration):
                install_attention(model)
        return model.eval(), AMVLProcessor.from_pretrained(folder)


load_model = load_checkpoint
"""The public name: `amvl_model.load_model`."""


def build_model(config: RunConfig) -> tuple[TrainedModel, AMVLProcessor]:
    """The model that a run trains: base, fresh latent modules (or the baseline's), what is frozen frozen."""
    backbone, processor = load_base(config)
    settings, seed = config.model, config.train.seed
    model: TrainedModel
    if not config.objective.entry.latents:
        pauses = settings.num_latents if "pause" in config.objective.entry.passes else 0
        model = PauseForConditionalGeneration.from_backbone(backbone, pauses, seed=seed)
    else:
        model = AMVLForConditionalGeneration.from_backbone(
            backbone,
            settings.num_latents,
            settings.latent_dim,
            posterior_std=settings.posterior_std,
            latent_order=settings.latent_order,
            answer_bias=settings.answer_bias,
            initial_log_std=settings.initial_log_std,
            seed=seed,
        )
    if settings.lora_rank:
        model.add_lora(settings.lora_rank, settings.lora_alpha, settings.lora_dropout)
    if settings.freeze_vision:
        model.freeze_vision()
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model, processor


def save_checkpoint(
    model: TrainedModel,
    processor: AMVLProcessor,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write model and processor; with ``dtype`` the backbone's weights are stored in that precision.

    Args:
        state: the whole weights, where the model itself holds shards.

    Raises:
        NonFiniteError: if a weight is NaN or infinite; nothing is written.
    """
    if dtype is not None:
        keep = model._keep_in_fp32_modules_strict or []
        state = {
            name: value if any(part in name for part in keep) or not value.is_floating_point() else value.to(dtype)
            for name, value in model.state_dict().items()
        }
    carrier = model
    if state is None:
        check_weights(model)
    else:
        check_finite(state.items())
        # a sharded model would gather its own weights while it saves, and wait for the other processes
        with torch.device("meta"):
            carrier = type(model)(model.config)  # type: ignore[arg-type]
    with writing(folder):
        options: dict[str, Any] = {} if state is None else {"state_dict": state}
        carrier.save_pretrained(folder, **options)
        processor.save_pretrained(folder)
        write_manifest(folder)


def merge_checkpoint(checkpoint: str | Path, folder: Path, *, backbone_path: str | None = None) -> None:
    """Write a LoRA checkpoint as a whole one, with the adapters merged into the backbone, and its processor.

    Weights have the precision that the adapters were trained on; the backbone's own, if lower, would round what they add. Where
    they were trained on a backbone that was quantised when it was loaded, they are added to its weights as they are stored.

    Args:
        checkpoint: folder of a LoRA checkpoint of either model.
        folder: to write.
        backbone_path: where the backbone is, if not where the checkpoint says.

    Raises:
        ValueError: if the checkpoint has no adapters, or its backbone's weights are stored quantised.
        FileNotFoundError: if a file or the backbone is missing.
        FileExistsError: if ``folder`` holds a checkpoint.
    """
    _refuse_checkpoint(folder)
    source = resolve(str(checkpoint))
    kind = PAUSE_TYPE if checkpoint_type(source) == PAUSE_TYPE else "amvl"
    stored = inspect_checkpoint(source, expected_type=kind)
    if stored is None or not stored.get("lora"):
        raise ValueError(
            f"{source}: expected the folder of a checkpoint with LoRA adapters, got one without; use it as it is"
        )
    cls: Any = PauseForConditionalGeneration if kind == PAUSE_TYPE else AMVLForConditionalGeneration
    options = {} if backbone_path is None else {"backbone_path": backbone_path}
    dtype = stored.get("dtype") or "auto"
    model = cls.from_pretrained(source, dtype=dtype, quantization_config=None, **options)
    model.merge_lora()
    save_checkpoint(model, AMVLProcessor.from_pretrained(source), folder)


def export_checkpoint(checkpoint: str | Path, folder: Path) -> None:
    """Write a model fine-tuned by ``sft`` as a plain checkpoint of its backbone, and its processor.

    Args:
        checkpoint: folder of a whole checkpoint; weights keep their precision.
        folder: to write.

    Raises:
        ValueError: if the checkpoint is not that of ``sft``, or has adapters that are not merged.
        FileNotFoundError: if the checkpoint or a file of it is missing.
        FileExistsError: if ``folder`` holds a checkpoint.
    """
    _refuse_checkpoint(folder)
    source = resolve(str(checkpoint))
    if (kind := checkpoint_type(source)) not in (None, PAUSE_TYPE):
        raise ValueError(
            f"{source}: expected a checkpoint trained by the objective sft, got one of type {kind!r}"
            + ("; a plain checkpoint cannot store latents" if kind == "amvl" else ", which is plain already")
        )
    stored = inspect_checkpoint(source, expected_type=PAUSE_TYPE)
    if stored is not None and stored.get("lora"):
        raise ValueError(
            f"{source} contains LoRA adapters; merge them first: amvl merge --checkpoint {source} --out FOLDER"
        )
    model = PauseForConditionalGeneration.from_pretrained(source, dtype="auto")
    model.export_backbone(folder)
    AMVLProcessor.from_pretrained(source).save_pretrained(folder)


def _refuse_checkpoint(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} contains a checkpoint, which is not overwritten; choose another folder")
