"""Looking at a checkpoint folder before loading it, so that what is wrong with it is said in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from amvl_model.models.adapters import read_lora_state

INDEX = "model.safetensors.index.json"
PAUSE_TYPE = "amvl_pause"
WEIGHTS = "model.safetensors"


class NonFiniteError(ValueError):
    """A loss, a gradient, a weight or a score is NaN or infinite."""


def check_finite(values: Iterable[tuple[str, Any]]) -> None:
    """Raise if a floating-point tensor is not finite; of a sharded one, this process's shard is read.

    Raises:
        NonFiniteError: with the names of the first three.
    """
    broken = []
    for name, value in values:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_meta:
            continue
        local: Any = getattr(value, "ds_tensor", value)
        if not bool((local.to_local() if hasattr(local, "to_local") else local).detach().isfinite().all()):
            broken.append(name)
    if broken:
        raise NonFiniteError(f"{len(broken)} weights are NaN or infinite, among them {', '.join(broken[:3])}")


def check_weights(model: torch.nn.Module) -> None:
    """`check_finite` of all parameters and buffers of a model, before they are saved or scored."""
    check_finite(chain(model.named_parameters(), model.named_buffers()))


def inspect_checkpoint(path: str | Path, *, expected_type: str | None) -> dict[str, Any] | None:
    """Read config.json of a local checkpoint and check that its weights are whole.

    Args:
        path: a folder; anything that is no local path is taken for a hub id and left to transformers (returns None).
        expected_type: the ``model_type`` it must have, or None for any backbone.

    Raises:
        FileNotFoundError: if the folder, its config.json or its weights are missing.
        ValueError: if config.json or a weight file is unreadable or half written, or the type is another.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists() or not _may_be_hub_id(str(path)):
            state = "is a file" if folder.exists() else "does not exist"
            raise FileNotFoundError(
                f"checkpoint folder {path} {state}; give the folder that save_pretrained wrote, or a hub id "
                "of the form organisation/name"
            )
        return None
    config = _read_config(folder)
    kind = config.get("model_type")
    if kind == PAUSE_TYPE and expected_type != PAUSE_TYPE:
        name = "pause tokens" if config.get("num_pauses") else "supervised fine-tuning"
        wanted = "a plain backbone" if expected_type is None else f"a checkpoint of type {expected_type!r}"
        raise ValueError(
            f"{path} holds the baseline {name} (type {kind!r}), which has no prior and no posterior; evaluate it with "
            f"experiments/evaluate_benchmark.py or amvl_model.studies.measurement.measure, and give {wanted} here"
        )
    if expected_type is None and kind == "amvl":
        raise ValueError(
            f"the checkpoint in {path} has latent modules already; load it with "
            "AMVLForConditionalGeneration.from_pretrained, or give from_backbone the plain backbone"
        )
    if expected_type is not None and kind != expected_type:
        raise ValueError(
            f"{path} holds a checkpoint of type {kind!r}, expected {expected_type!r}; to put latents on a plain backbone "
            "use AMVLForConditionalGeneration.from_backbone"
        )
    _check_weights(folder)
    return config


def checkpoint_type(path: str | Path) -> str | None:
    """``model_type`` of a local checkpoint, or None for anything that is no local folder.

    Raises:
        FileNotFoundError, ValueError: if the folder has no readable config.json.
    """
    folder = Path(path)
    return _read_config(folder).get("model_type") if folder.is_dir() else None


def _may_be_hub_id(path: str) -> bool:
    """organisation/name, unless a folder of the organisation's name says that a local path was meant."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not path.startswith((".", "~")) and not Path(parts[0]).is_dir()


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} is no checkpoint: it has no config.json; give the folder that save_pretrained wrote"
        )
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); the checkpoint is half written, use an earlier one"
        ) from error


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = set(_read_json(folder / INDEX)["weight_map"].values())
        files = [folder / name for name in sorted(shards)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} is no complete checkpoint: {file.name} is missing; it was not written to the end, "
                "or not copied whole"
            )
        try:
            with safe_open(file, framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is half written or damaged ({error}); use an earlier checkpoint") from error


def refuse_wrong_weights(path: str | Path, report: dict[str, Any]) -> None:
    """Raise where a checkpoint lacks weights, for which transformers has drawn random numbers, or has superfluous ones.

    Args:
        path: of the checkpoint, for the message.
        report: what ``from_pretrained(..., output_loading_info=True)`` says.

    Raises:
        ValueError: with the names of the first weights.
    """
    for key, verb in (("missing_keys", "lacks"), ("unexpected_keys", "has superfluous")):
        names = sorted(report[key])
        if names:
            counted = f"{len(names)} weights of" if key == "missing_keys" else f"{len(names)} weights beside those of"
            raise ValueError(
                f"the checkpoint in {path} {verb} {counted} the model its config.json describes, "
                f"among them {', '.join(names[:3])}; it was written by another model, use the folder that belongs to it"
            )


def load_lora_checkpoint(
    cls: Any,
    path: str | Path,
    stored: dict[str, Any],
    **kwargs: Any,
) -> Any:
    """Backbone from where config.json says, adapters and latent modules from ``path``.

    Args:
        cls: the model's class; the checkpoint must hold what ``cls.owns`` names.
        path: of the checkpoint.
        stored: its config.json.
        **kwargs: for ``cls.from_backbone``.
    """
    backbone = kwargs.pop("backbone_path", None) or stored.get("backbone_path")
    if not backbone:
        raise ValueError(
            f"the LoRA checkpoint {path} does not say which backbone it belongs to; pass backbone_path=FOLDER_OR_HUB_ID"
        )
    try:
        model = cls.from_backbone(backbone, **{name: stored[name] for name in cls.config_class.sizes}, **kwargs)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the LoRA checkpoint {path} belongs to the backbone {backbone}, which cannot be found ({error}); "
            "pass backbone_path=FOLDER_OR_HUB_ID"
        ) from error
    model.add_lora(**stored["lora"])
    try:
        problems = model.load_state_dict(read_lora_state(Path(path)), strict=False)
    except RuntimeError as error:  # torch's error for other shapes
        raise ValueError(f"the LoRA checkpoint {path} does not fit the backbone {backbone}: {error}") from error
    missing = [name for name in problems.missing_keys if cls.owns(name)]
    if missing or problems.unexpected_keys:
        raise ValueError(
            f"the LoRA checkpoint {path} does not fit the backbone {backbone}: missing {missing[:3]}, "
            f"unexpected {problems.unexpected_keys[:3]}"
        )
    model.eval()
    return model
