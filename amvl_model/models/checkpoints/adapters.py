"""LoRA on the language model, stored in peft's own format.

A LoRA checkpoint is a folder:

    config.json          of the model, with the settings ``lora`` and the ``backbone_path``
    model.safetensors    the heads: what the model adds to the backbone (empty for the baseline sft)
    adapter/             adapter_config.json, adapter_model.safetensors: a peft adapter of the plain backbone

``PeftModel.from_pretrained(backbone, folder, subfolder="adapter")`` reads the adapter. It has a folder of its own because
transformers' Auto classes, given a hub id with an adapter_config.json beside its config.json, load the base that the former
names and leave out the heads without a message. Older checkpoints, with adapters and heads in model.safetensors, are read.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amvl_model.models.checkpoints.inspection import absolute, is_lora
from amvl_model.two_pass.transformers_compat import INSTALL_PEFT

_backbone: ContextVar[str | None] = ContextVar("backbone", default=None)

FOLDER = "adapter"
# every linear layer of the language model's attention and MLP, and nothing of the vision tower
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

_HEADS = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"
_BASE = "amvl_base_weights"
"""Key of the metadata of adapter_model.safetensors that holds `_fingerprints` of the base."""
# names of one weight: in the model, and in peft's file, which counts from the backbone and leaves out the adapter's name
_OURS, _PEFTS = ("backbone.", ".default.weight"), ("base_model.model.", ".weight")


def lora_config(settings: Mapping[str, Any], backbone_path: str | None = None) -> Any:
    """peft's configuration of adapters with these settings (``rank``, ``alpha``, ``dropout``).

    Raises:
        ImportError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError(f"LoRA needs the package peft: {INSTALL_PEFT}") from error
    return LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=TARGETS,
        base_model_name_or_path=backbone_path,
    )


def add_lora(model: Any, *, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Freeze the backbone, add adapters of ``rank`` to its language model, and store the settings in the config.

    The latent modules stay fully trainable. The adapters of a model that was loaded whole belong to the checkpoint that it came
    from: its backbone is loaded from there.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if rank is below 1 or the model has adapters already.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"the LoRA rank must be at least 1, got {rank!r}; 0 in a config means full fine-tuning")
    for name, value in (("alpha", 1.0 if alpha is None else alpha), ("dropout", dropout)):
        if (
            not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < 0
            or (name == "dropout" and value >= 1)
        ):
            raise ValueError(f"LoRA's {name} must be a number of at least 0 (dropout: below 1), got {value!r}")
    if model.config.lora:
        raise ValueError(f"the model already has LoRA adapters: {model.config.lora}")
    settings = {"rank": rank, "alpha": float(alpha if alpha is not None else 2 * rank), "dropout": dropout}
    config = lora_config(settings)
    from peft import inject_adapter_in_model

    model.backbone.requires_grad_(False)
    inject_adapter_in_model(config, model.backbone)
    model.config.lora = settings
    if not model.config.backbone_path and model.config._name_or_path:
        model.config.backbone_path = absolute(model.config._name_or_path)
    if getattr(model, "is_quantized", False):
        # transformers' Trainer refuses quantised models without a wrapper of peft's around them
        model.is_quantized = False


def merge_lora(model: Any) -> None:
    """Add the adapters to the weights that they adapt and remove them; every weight is trainable afterwards.

    Raises:
        ValueError: if the model has no adapters, its backbone is quantised, or a merged weight is not finite.
    """
    if not model.config.lora:
        raise ValueError("the model has no LoRA adapters to merge; use it as it is")
    if getattr(model.backbone, "hf_quantizer", None) is not None:
        raise ValueError(
            "adapters cannot be merged into a quantised backbone without rounding them; give the unquantised backbone's folder "
            "or hub id"
        )
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.backbone.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), child, layer.get_base_layer())
    vars(model.backbone).pop("peft_config", None)
    model.config.lora = None
    model.backbone.requires_grad_(True)


def write_adapter(folder: Path, state: Mapping[str, Tensor], config: Any) -> None:
    """Write the adapters among the weights ``state`` in peft's format, and an empty file of heads where there are none.

    Without adapters (``config.lora`` is None) an adapter of an earlier save is removed.
    """
    from safetensors.torch import save_file

    if not config.lora:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        return
    adapter = {
        _PEFTS[0] + name.removeprefix(_OURS[0]).removesuffix(_OURS[1]) + _PEFTS[1]: value.detach().cpu().contiguous()
        for name, value in state.items()
        if "lora_" in name
    }
    settings = lora_config(config.lora, config.backbone_path)
    settings.inference_mode = True
    settings.save_pretrained(str(folder / FOLDER))
    metadata = {"format": "pt", _BASE: json.dumps(_fingerprints(state))}
    save_file(adapter, folder / FOLDER / _ADAPTER, metadata=metadata)
    if not (folder / _HEADS).is_file():
        save_file({}, folder / _HEADS, metadata={"format": "pt"})


def read_lora_state(folder: Path) -> dict[str, Tensor]:
    """The weights of a LoRA checkpoint, heads and adapters, under the model's own names.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is half written or damaged.
    """
    state = _read(folder / _HEADS)
    if any("lora_" in name for name in state):
        return state
    for name, value in _read(folder / FOLDER / _ADAPTER).items():
        state[_OURS[0] + name.removeprefix(_PEFTS[0]).removesuffix(_PEFTS[1]) + _OURS[1]] = value
    return state


def _fingerprints(state: Mapping[str, Tensor], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """A sha256 of every weight of the base, of its shape and its bytes in bfloat16, so that loading a base in float32 or
    bfloat16 gives the same; packed weights (quantised ones) and float16, which rounds otherwise, are left out. A weight whose
    ``known`` digest is an earlier version's, which has 8 digits, gets one of that kind."""
    return {
        name: (_earlier if len((known or {}).get(name, "")) == 8 else _fingerprint)(value.detach())
        for name, value in state.items()
        if name.startswith(_OURS[0]) and "lora_" not in name and value.dtype in (torch.float32, torch.bfloat16)
    }


def _fingerprint(value: Tensor) -> str:
    numbers = value.to(torch.bfloat16).contiguous().view(torch.int16).cpu().flatten()
    digest = sha256(str(tuple(value.shape)).encode())
    digest.update(numbers.numpy().data)
    return digest.hexdigest()[:32]


def _earlier(value: Tensor) -> str:
    """What version 0.1 stored: of the shape, the first 256 numbers and the sum of all, which is blind to swaps behind them."""
    numbers = value.to(torch.bfloat16).contiguous().view(torch.int16).flatten()
    summary = f"{tuple(value.shape)} {int(numbers.sum(dtype=torch.int64))} {numbers[:256].tolist()}"
    return sha256(summary.encode()).hexdigest()[:8]


def refuse_other_base(model: Any, path: Path, backbone: str) -> None:
    """Raises ValueError if the weights of the base are not those that the adapters were trained on."""
    from safetensors import safe_open

    file = path / FOLDER / _ADAPTER
    if not file.is_file():  # an earlier version's, without fingerprints
        return
    try:
        with safe_open(file, framework="pt") as opened:
            trained_on = dict(json.loads((opened.metadata() or {}).get(_BASE, "{}")).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: its metadata {_BASE} is damaged ({error}); copy the checkpoint again") from error
    if not all(isinstance(digest, str) for digest in trained_on.values()):
        raise ValueError(f"{file}: its metadata {_BASE} is damaged (a digest is no text); copy the checkpoint again")
    loaded = _fingerprints(model.state_dict(), trained_on)
    both = loaded.keys() & trained_on.keys()
    if different := sorted(name for name in both if loaded[name] != trained_on[name]):
        raise ValueError(
            f"the LoRA checkpoint {path} was not trained on the weights of {backbone}: {len(different)} of {len(both)} differ, "
            f"such as {different[0].removeprefix(_OURS[0])}; give the base that it was trained on "
            "(backbone_path=FOLDER_OR_HUB_ID, --backbone, in training model.base)"
        )


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: the LoRA checkpoint was not written to its end, or not copied whole; it needs "
            f"config.json, {_HEADS} and the folder {FOLDER}"
        )
    try:
        state: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is half written or damaged ({error}); use an earlier checkpoint") from error
    return state


def stored_options(kind: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """Sizes and options of a stored config.json, as ``from_backbone`` takes them; a missing option has its default."""
    options = {name: stored.get(name, accepted[0]) for name, accepted in kind.choices.items()}
    return {name: stored[name] for name in kind.sizes} | options


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

    Raises:
        FileNotFoundError: if the backbone or a file is missing.
        ValueError: if the adapters do not fit the backbone, or were trained on other weights.
    """
    backbone = kwargs.pop("backbone_path", None) or _backbone.get() or _stored_backbone(Path(path), stored)
    if is_lora(backbone):
        raise ValueError(
            f"the LoRA checkpoint {path} belongs to {backbone}, which consists of adapters itself; merge those first"
        )
    try:
        model = cls.from_backbone(backbone, of_adapters=True, **stored_options(cls.config_class, stored), **kwargs)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the LoRA checkpoint {path} belongs to the backbone {backbone}, which cannot be found ({error}); "
            "pass backbone_path=FOLDER_OR_HUB_ID (--backbone)"
        ) from error
    settings = stored["lora"]
    if not isinstance(settings, Mapping) or not {"rank", "alpha"} <= settings.keys() <= {"rank", "alpha", "dropout"}:
        raise ValueError(
            f"{Path(path) / 'config.json'}, lora: expected an object of rank, alpha and dropout, got {settings!r:.80}; copy the "
            "checkpoint again"
        )
    model.add_lora(**settings)
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
    refuse_other_base(model, Path(path), backbone)
    model.eval()
    return model


@contextmanager
def backbone_at(backbone: str | Path | None, *checkpoints: str | Path) -> Iterator[None]:
    """Load LoRA checkpoints onto this base, wherever in the block they are loaded; None: onto the one that each names.

    Args:
        backbone: folder or hub id.
        checkpoints: those that will be loaded.

    Raises:
        ValueError: if all are folders of whole models, which have no base.
    """
    if backbone is not None and all(Path(path).is_dir() and not is_lora(path) for path in checkpoints):
        names = ", ".join(str(path) for path in checkpoints)
        raise ValueError(f"{names}: a whole model, not LoRA adapters; leave out the backbone {backbone}")
    token = _backbone.set(None if backbone is None else str(backbone))
    try:
        yield
    finally:
        _backbone.reset(token)


def _stored_backbone(checkpoint: Path, stored: dict[str, Any]) -> str:
    """The backbone that config.json names. A relative path was typed somewhere: it is looked for from here, from the
    checkpoint and from the folders above it."""
    name = stored.get("backbone_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"the LoRA checkpoint {checkpoint} does not say which backbone it belongs to; pass "
            "backbone_path=FOLDER_OR_HUB_ID (--backbone)"
        )
    places = [Path(), checkpoint.absolute(), *checkpoint.absolute().parents]
    return next((str(place / name) for place in places if (place / name).is_dir()), name)
