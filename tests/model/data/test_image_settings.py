"""Image settings of a checkpoint: a wrong value is refused on loading, with file, setting, what was expected and what came."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from amvl_model import AMVLProcessor
from amvl_model.data.image_settings import FILE
from amvl_model.models.loading import SHIPPED

WRONG: dict[str, tuple[Any, ...]] = {
    "patch_size": (0, None, -14, "14", 14.0, True, [14], 7),
    "merge_size": (0, None, "2", 1),
    "temporal_patch_size": (0, -1, None, 1),
    "image_mean": ([0.5], [0.5] * 4, None, "x", math.nan, [math.inf] * 3, ["a", "b", "c"]),
    "image_std": ([0.5, 0, 0.5], 0, [0.5], None, [math.nan] * 3, [-0.5] * 3),
    "rescale_factor": (0, -1, None, "a", math.nan),
    "resample": (99, -1, None, "cubic"),
    "do_resize": (False, None),
    "do_rescale": ("no", None),
    "do_normalize": ("yes",),
    "do_center_crop": (True,),
    "size": (
        {},
        [1, 2],
        "x",
        {"shortest_edge": 3136},
        {"height": 10, "width": 10},
        {"shortest_edge": 10, "longest_edge": 1},
        {"min_pixels": math.nan, "max_pixels": 3136},
        {"shortest_edge": True, "longest_edge": 3136},
    ),
}


def checkpoint(tmp_path: Path, **changes: Any) -> Path:
    """Copy of the shipped base without its weights, with other image settings."""
    folder = tmp_path / "base"
    shutil.copytree(SHIPPED["tiny"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / FILE).read_text()) | changes
    (folder / FILE).write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_refused_on_loading(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{FILE}, {name}: expected .*, got ") as error:
        AMVLProcessor.from_pretrained(checkpoint(tmp_path, **{name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"size": None}, {"image_std": 0.5, "image_mean": 0}, {"do_center_crop": None}, {"do_normalize": False}]
)
def test_settings_that_can_be_used_are_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    AMVLProcessor.from_pretrained(checkpoint(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null"])
def test_a_file_without_an_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path)
    (folder / FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{FILE}: expected a JSON object"):
        AMVLProcessor.from_pretrained(folder)
