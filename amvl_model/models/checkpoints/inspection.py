"""Looking at a checkpoint folder before loading it, so that an error names what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from amvl_model.models.configuration import PAUSE_TYPE

INDEX = "model.safetensors.index.json"
MANIFEST = "manifest.json"
CARD = "README.md"  # whoever has a checkpoint may change its card
WEIGHTS = "model.safetensors"
MAX_JSON = 1 << 26
"""Largest config.json or index that is read [bytes]."""


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of writing to a file or folder (full disk, read-only folder), with what to do.

    Raises:
        OSError: in place of the errors of Python, torch and safetensors.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        own = (
            isinstance(error, OSError | SafetensorError)
            or "PytorchStreamWriter" in str(error)
            or "inline_container" in str(error)
        )
        if not own or "free space" in reason:
            raise
        raise OSError(
            f"{path} cannot be written ({reason}); free space there or make it writable, then resume the run"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a process that dies while it writes leaves the old one."""
    part = path.with_name(path.name + ".part")
    with writing(path):
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def write_tensors(path: Path, value: Any) -> None:
    """Replace a file by what torch.save makes of ``value``, as a whole, like `write_text`."""
    part = path.with_name(path.name + ".part")
    with writing(path):
        with part.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_manifest(checkpoint: Path) -> None:
    """List every file of a checkpoint but its card with its sha256, which makes it complete."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in (MANIFEST, CARD))
    sums = {}
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sums[path.relative_to(checkpoint).as_posix()] = file_digest(path)
    write_text(checkpoint / MANIFEST, json.dumps(sums, indent=1) + "\n")


def damage(checkpoint: Path, *, needs: str = "config.json") -> str:
    """What is wrong with a checkpoint, by its manifest, which has to list the file ``needs``; empty if it is complete."""
    try:
        sums = json.loads((checkpoint / MANIFEST).read_text())
        if needs not in sums:
            return f"{MANIFEST} does not list {needs}"
        for name, expected in sums.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if file_digest(checkpoint / name) != expected:
                return f"{name} was altered: its sha256 is not the one in {MANIFEST}"
    except FileNotFoundError:
        return f"{MANIFEST} is missing: the checkpoint was not written to its end"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} or a file it lists cannot be read ({error})"
    return ""


def inspect_checkpoint(
    path: str | Path, *, expected_type: str | None, subfolder: str = "", variant: str | None = None
) -> dict[str, Any] | None:
    """Read config.json of a local checkpoint and check that its weights are whole, and its files those of its manifest.

    Args:
        path: a folder; anything that is no local path is taken for a hub id and left to transformers (returns None).
        expected_type: the ``model_type`` it must have, or None for any backbone.
        subfolder, variant: as transformers' from_pretrained takes them.

    Raises:
        FileNotFoundError: if the folder, its config.json or its weights are missing.
        ValueError: if config.json or a weight file is unreadable, half written or altered, lies outside the folder or is no
            safetensors file, or the type is another.
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
    folder /= subfolder
    config = _read_config(folder)
    kind = config.get("model_type")
    if kind == PAUSE_TYPE and expected_type != PAUSE_TYPE:
        name = "pause tokens" if config.get("num_pauses") else "supervised fine-tuning"
        wanted = "a plain backbone" if expected_type is None else f"a checkpoint of type {expected_type!r}"
        raise ValueError(
            f"{path} holds the baseline {name} (type {kind!r}), which has no prior and no posterior; evaluate it with "
            f"`amvl evaluate` or amvl_model.studies.measurement.measure, and give {wanted} here"
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
    if (folder / MANIFEST).is_file() and (problem := damage(folder)):
        raise ValueError(
            f"{folder}: {problem}; copy the checkpoint again, or, where the change is meant, remove {MANIFEST}"
        )
    _check_weights(folder, variant)
    return config


def checkpoint_type(path: str | Path) -> str | None:
    """``model_type`` of a local checkpoint, or None for anything that is no local folder.

    Raises:
        FileNotFoundError, ValueError: if the folder has no readable config.json.
    """
    folder = Path(path)
    return _read_config(folder).get("model_type") if folder.is_dir() else None


def is_lora(path: str | Path) -> bool:
    """Whether a local checkpoint consists of LoRA adapters, which need their base."""
    return Path(path).is_dir() and bool(_read_config(Path(path)).get("lora"))


def _may_be_hub_id(path: str) -> bool:
    """organisation/name, unless a folder of the organisation's name says that a local path was meant."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not path.startswith((".", "~")) and not Path(parts[0]).is_dir()


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} is not a checkpoint: it has no config.json; give the folder that save_pretrained wrote"
        )
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_JSON:
        raise ValueError(
            f"{file} has {file.stat().st_size:,} bytes, expected at most {MAX_JSON:,}; use another checkpoint"
        )
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); the checkpoint is half written, use an earlier one"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}; use another checkpoint")
    return content


def _check_weights(folder: Path, variant: str | None) -> None:
    for file in _weight_files(folder, variant):
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} is not a complete checkpoint: {file.name} is missing; it was not written to the end, "
                "or not copied whole"
            )
        try:
            with safe_open(file, framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is half written or damaged ({error}); use an earlier checkpoint") from error


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """model.safetensors, or the shards that its index lists; transformers reads the former where both are there.

    Raises:
        ValueError: for an index or settings that name another place or another kind of file.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} contains peft's adapter_config.json, which names another base; remove it, or merge the adapter"
        )
    named = _read_config(folder).get("transformers_weights")
    if named is not None:
        raise ValueError(f"{folder}/config.json: expected no transformers_weights, got {named!r}; remove the entry")
    whole, index = (
        name if variant is None else re.sub(r"(\.\w+)$", rf".{variant}\1", name) for name in (WEIGHTS, INDEX)
    )
    if (folder / whole).is_file() or not (folder / index).is_file():
        return [folder / whole]
    shards = _read_json(folder / index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(
            f"{folder / index}: expected an object weight_map, got {shards!r:.60}; download the file again"
        )
    for name in shards.values():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{folder / index}: expected names of safetensors files in the same folder, got {name!r:.80}; a file "
                "elsewhere or of another kind is not read"
            )
    return [folder / name for name in sorted(set(shards.values()))]


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


def absolute(path: str | Path) -> str:
    """A folder's path as it is seen from everywhere; a hub id unchanged."""
    return str(Path(path).absolute()) if Path(path).is_dir() else str(path)
