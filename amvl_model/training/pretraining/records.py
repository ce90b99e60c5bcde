"""What pre-training writes: its curve, and what a step that a number stopped is stored with to be computed again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.results.provenance import to_jsonable
from amvl_model.two_pass.attention import install_attention

_IMAGES = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")


def described(model: Any, processor: AMVLProcessor) -> dict[str, Any]:
    """Configuration of the model, and what its loss takes from the processor, as plain data."""
    images = {name: getattr(processor.image_processor, name) for name in _IMAGES}
    ids = {"image_token_id": processor.image_token_id, "pad_token_id": processor.pad_token_id}
    return to_jsonable({"model": model.config.to_dict(), "images": images, "ids": ids})  # type: ignore[no-any-return]


def rebuilt(stored: dict[str, Any]) -> tuple[Any, Any]:
    """The model with the weights that the step met, and what `described` stored of the processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(stored["model"])).train()
    install_attention(model)
    model.load_state_dict(stored["weights"])
    return model, SimpleNamespace(image_processor=SimpleNamespace(**stored["images"]), **stored["ids"])


def target_nll(logits: Tensor, target: Tensor) -> Tensor:
    """NLL (B, M) [nats] of ``target`` (B, M) under logits (B, M, vocabulary)."""
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(target)


def append_row(path: Path | None, row: dict[str, float]) -> None:
    """Write a row of the curve to the file, if there is one, and to the screen."""
    if path is not None:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
    print(json.dumps({k: round(v, 3) for k, v in row.items()}), flush=True)
