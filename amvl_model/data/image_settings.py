"""The image settings of a checkpoint (preprocessor_config.json), checked when they are loaded.

A wrong value otherwise fails at the first image, where it is blamed on the image, or gives pixels that are not finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from amvl_model.data.schema import short

FILE: Final = "preprocessor_config.json"
CHANNELS: Final = 3


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _channels(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value] * CHANNELS
    return len(values) == CHANNELS and all(map(_number, values))


def _spread(value: Any) -> bool:
    return _channels(value) and min(value if isinstance(value, list | tuple) else [value]) > 0


_SETTINGS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "patch_size": ("a whole number of at least 1 [pixels]", _count),
    "merge_size": ("a whole number of at least 1 [patches]", _count),
    "temporal_patch_size": ("a whole number of at least 1 [frames]", _count),
    "image_mean": (f"a finite number, or {CHANNELS} of them", _channels),
    "image_std": (f"a finite number above 0, or {CHANNELS} of them", _spread),
    "rescale_factor": ("a finite number above 0", lambda value: _number(value) and value > 0),
    "resample": ("a filter of PIL, 0 to 5", lambda value: _number(value) and value in range(6)),
    "do_resize": ("true, as images are cut into whole patches", lambda value: value is True),
    "do_rescale": ("true or false", lambda value: isinstance(value, bool)),
    "do_normalize": ("true or false", lambda value: isinstance(value, bool)),
    "do_center_crop": ("false, as images are used whole", lambda value: not value),
}
"""Setting -> what is expected of it, and whether a value is that."""

_IN_MODEL: Final = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Setting -> the field of the vision tower in config.json that has to agree with it."""


def stored_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file.

    Raises:
        ValueError: for anything else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object, got invalid JSON ({error}); copy the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {short(content)}; copy the file again")
    return content


def check_settings(settings: Any, folder: Path) -> None:
    """Raise if image settings cannot be used, or do not fit the model in the same folder.

    Args:
        settings: an image processor, which has the settings as attributes.
        folder: of the checkpoint; a hub id is compared with no model.

    Raises:
        ValueError: naming file, setting, what was expected and what came.
    """
    for name, (expected, accepts) in _SETTINGS.items():
        value = getattr(settings, name, None)
        if not accepts(value):
            raise ValueError(f"{folder / FILE}, {name}: expected {expected}, got {short(value)}; correct the file")
    model: Any = stored_object(folder / "config.json")
    for part in ("vlm_config", "vision_config"):
        inner = model.get(part, model if part == "vlm_config" else None)
        model = inner if isinstance(inner, Mapping) else {}
    for name, own in _IN_MODEL.items():
        if own in model and model[own] != getattr(settings, name):
            raise ValueError(
                f"{folder / FILE}, {name}: expected {short(model[own])}, the vision tower's {own} in config.json, got "
                f"{getattr(settings, name)}; copy both files from one checkpoint"
            )


def pixel_limits(size: dict[str, Any], least: int | None, most: int | None, folder: Path) -> dict[str, int]:
    """The areas that the image processor takes as edges, of a ``size`` that names them edges or pixels.

    Raises:
        ValueError: if it has no such areas, or the smallest exceeds the largest.
    """
    low: Any = size.get("shortest_edge", size.get("min_pixels")) if least is None else least
    high: Any = size.get("longest_edge", size.get("max_pixels")) if most is None else most
    if not _count(low) or not _count(high) or low > high:
        raise ValueError(
            f"{folder / FILE}, size: expected areas [pixels] 0 < shortest_edge <= longest_edge, or min_pixels and max_pixels, "
            f"got {size} and, as arguments, min_pixels={least} and max_pixels={most}; correct the file or pass both"
        )
    return {"shortest_edge": low, "longest_edge": high}
