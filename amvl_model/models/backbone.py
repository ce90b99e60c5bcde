"""What the models around transformers' own Qwen-VL have in common: how it is loaded, frozen, adapted, checkpointed and saved."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from amvl_model.models.checkpoints import (
    absolute,
    check_finite,
    checkpoint_type,
    inspect_checkpoint,
    load_lora_checkpoint,
    refuse_wrong_weights,
)
from amvl_model.models.checkpoints.adapters import add_lora, merge_lora, write_adapter
from amvl_model.models.checkpoints.sharing import lora_snapshot, upload, write_card
from amvl_model.models.configuration import OWN_TYPES, refuse_attention
from amvl_model.two_pass.attention import install_attention
from amvl_model.two_pass.passes import SharedLinear, disable_checkpointing, enable_checkpointing, install_two_pass


def load_backbone(path_or_model: Any, *, of_adapters: bool = False, **kwargs: Any) -> tuple[Any, str | None]:
    """A backbone whose weights later initialisations keep, and where it came from (None: not known).

    Args:
        path_or_model: a loaded model, a folder or a hub id.
        of_adapters: whether it may be a whole checkpoint of this package, whose backbone is then returned.
        **kwargs: for the backbone's from_pretrained; without ``dtype`` the weights are float32, unless they are quantised.

    Raises:
        FileNotFoundError, ValueError: if a folder is given that holds no complete checkpoint.
        ValueError: for another attention than SDPA, or several devices.
    """
    backbone: Any
    refuse_attention(kwargs.get("attn_implementation"))
    _refuse_several_devices(kwargs.get("device_map"))
    if isinstance(path_or_model, PreTrainedModel):
        backbone, name = path_or_model, getattr(path_or_model.config, "_name_or_path", None)
        path = absolute(name) if name else None
        refuse_attention(getattr(backbone.config, "_attn_implementation", None))
        _warn_of_lost_updates(backbone)
    else:
        path = absolute(path_or_model)
        kind = checkpoint_type(path) if of_adapters else None
        inspect_checkpoint(path, expected_type=kind if kind in OWN_TYPES else None)
        if kwargs.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code: expected False, got True; code from checkpoints is never run")
        if of_adapters and PreTrainedConfig.get_config_dict(path)[0].get("quantization_config") is not None:
            kwargs.pop("quantization_config", None)  # the base is stored quantised, and loads by its own settings
        if not kwargs.keys() & {"dtype", "torch_dtype", "quantization_config"}:
            kwargs["dtype"] = torch.float32
        backbone, report = AutoModelForImageTextToText.from_pretrained(
            path, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **kwargs
        )
        refuse_wrong_weights(path, report)
        if of_adapters and isinstance(backbone, AroundBackbone):
            quantizer = getattr(backbone, "hf_quantizer", None)
            backbone = backbone.backbone
            if quantizer is not None:
                backbone.hf_quantizer = quantizer
    _refuse_several_devices(getattr(backbone, "hf_device_map", None))
    for module in backbone.modules():
        module._is_hf_initialized = True
    return backbone, path


def backbone_options(stored: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the from_pretrained of a LoRA checkpoint's backbone.

    Args:
        stored: the checkpoint's config.json, which names the backbone's quantisation.
        options: for the from_pretrained of the whole model, with what transformers' Auto classes add for themselves.
    """
    own = ("config", "adapter_kwargs", "_from_auto", "_from_pipeline", "_commit_hash", "output_loading_info")
    quantization = dict(stored.get("quantization_config") or {})
    for field in _SKIPPED_MODULES:
        if quantization.get(field):
            prefix = f"{AroundBackbone.base_model_prefix}."
            quantization[field] = [name.removeprefix(prefix) for name in quantization[field] if name.startswith(prefix)]
    result: dict[str, Any] = {"quantization_config": quantization} if quantization else {}
    return {"dtype": "auto", **result, **{name: value for name, value in options.items() if name not in own}}


def take_over(model: Any) -> None:
    """Let a model around a backbone generate by the backbone's defaults, and be saved with the backbone's quantisation."""
    backbone, quantizer = model.backbone, getattr(model.backbone, "hf_quantizer", None)
    if getattr(backbone, "generation_config", None) is not None:
        model.generation_config = copy.deepcopy(backbone.generation_config)
    if quantizer is None:
        return
    settings = copy.deepcopy(quantizer.quantization_config)
    prefix = f"{model.base_model_prefix}."
    names = {name.removeprefix(prefix) for name in getattr(quantizer, "modules_to_not_convert", None) or ()}
    skipped = [prefix + name for name in sorted(names - {*model.own_modules})]
    for field in _SKIPPED_MODULES:
        if hasattr(settings, field):
            setattr(settings, field, [*skipped, *model.own_modules])
    model.config.quantization_config, model.hf_quantizer = settings, quantizer
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        if hasattr(backbone, name):
            setattr(model, name, getattr(backbone, name))


_SKIPPED_MODULES = ("llm_int8_skip_modules", "modules_to_not_convert")
"""What transformers' quantisers call the modules that they leave as they are."""


def _refuse_several_devices(device_map: Any) -> None:
    devices = {str(device) for device in device_map.values()} if isinstance(device_map, Mapping) else set()
    if len(devices) > 1 or devices & {"disk", "meta"}:
        raise ValueError(
            f"device_map must place the whole model on one device, got {', '.join(sorted(devices))}: the second pass reads "
            "keys and values of all layers; pass device_map={'': DEVICE}, or shard the model in training (FSDP2, ZeRO)"
        )


def _refuse_parallel_plans(options: Mapping[str, Any]) -> None:
    """Tensor parallelism of transformers, which has no plan for the modules of this package and would be left out in silence."""
    wanted = [name for name in ("tp_plan", "tp_size", "distributed_config") if options.get(name) is not None]
    if wanted:
        raise ValueError(
            f"from_pretrained cannot use {', '.join(wanted)}: these models have no plan for tensor parallelism; shard the "
            "model in training (FSDP2, ZeRO), or leave it out"
        )


def _warn_of_lost_updates(backbone: Any) -> None:
    weight = backbone.get_input_embeddings().weight
    if weight.dtype in (torch.bfloat16, torch.float16) and weight.requires_grad:
        logging.getLogger(__name__).warning(
            "the backbone's weights are %s: at learning rates around 1e-5 most updates are smaller than their rounding and are "
            "lost; load it with dtype=torch.float32 to train it",
            str(weight.dtype).removeprefix("torch."),
        )


def _refuse_repacked(model: nn.Module) -> None:
    """bitsandbytes 0.50 lays 4-bit weights out anew for some CPUs, and does not undo it exactly when they are saved."""
    for name, module in model.named_modules():
        if getattr(getattr(getattr(module, "weight", None), "quant_state", None), "packing_format_for_cpu", False):
            raise RuntimeError(
                f"the 4-bit weights of {name} were repacked for this CPU by a forward pass, which bitsandbytes does not "
                "undo exactly; save the model before its first forward pass in evaluation mode"
            )


def install_passes(model: Any) -> None:
    """Let the backbone compute both passes (two_pass/); the text model's linear maps stay plain where they will be quantised.

    Quantisers replace plain ones alone, and theirs have no weight gradient to share.
    """
    install_attention(model.backbone)
    text_model = model.backbone.model.language_model
    install_two_pass(text_model)
    if getattr(model.config, "quantization_config", None) is not None:
        for module in text_model.modules():
            if type(module) is SharedLinear:
                module.__class__ = nn.Linear  # type: ignore[assignment]


_UPLOADING = ("repo_id", "token", "private", "revision", "create_pr", "commit_message", "commit_description")


class AroundBackbone:
    """Mixin of a `PreTrainedModel` whose ``self.backbone`` is transformers' own model; stands before it in the bases."""

    own_modules: ClassVar[tuple[str, ...]]
    """Names of the modules that the model adds to the backbone."""

    backbone: Any
    config: Any
    config_class: ClassVar[Any]
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_attention_backend = True
    accepts_loss_kwargs = False

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether a state-dict key belongs in a LoRA checkpoint: an adapter, or what the model adds to the backbone."""
        return "lora_" in name or name.split(".", 1)[0] in cls.own_modules

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint written by `save_pretrained`; LoRA checkpoints load their backbone by themselves.

        Raises:
            FileNotFoundError: if a folder is missing, or holds no checkpoint.
            ValueError: if the checkpoint is half written, is of another type, or was trained with other sizes (AMVL's
                ``num_latents`` and ``latent_dim``) than the ones asked for.
        """
        wanted = {name: kwargs.pop(name) for name in cls.config_class.sizes if name in kwargs}
        placed = {name: kwargs[name] for name in ("subfolder", "variant") if kwargs.get(name)}
        stored = inspect_checkpoint(path, expected_type=cls.config_class.model_type, **placed)
        for name, value in wanted.items():
            if stored is not None and stored[name] != value:
                raise ValueError(
                    f"{name}={value} was requested, but the checkpoint in {path} was trained with {name}={stored[name]}; "
                    f"leave {name} out, or train a new model with from_backbone(..., {name}={value})"
                )
        if stored is not None and stored.get("lora"):
            folder = Path(path) / kwargs.pop("subfolder", "")
            return load_lora_checkpoint(cls, folder, stored, **backbone_options(stored, kwargs))
        return cls.from_whole_checkpoint(path, *args, **kwargs)

    @classmethod
    def from_whole_checkpoint(cls, path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``from_pretrained``, which would draw random numbers for weights that the checkpoint lacks.

        A hub id may name a LoRA checkpoint, which is downloaded and loaded as a folder is.

        Raises:
            ValueError: if it lacks some, or has some that the model does not; for several devices.
        """
        if (folder := lora_snapshot(path, kwargs)) is not None:
            return cls.from_pretrained(folder, *args, **kwargs)
        if adapter := (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path"):
            raise ValueError(
                f"{adapter} contains adapters of peft on the model {path}; load that, and then PeftModel.from_pretrained(model, "
                f"{str(adapter)!r})"
            )
        wants_report = kwargs.pop("output_loading_info", False)
        _refuse_several_devices(kwargs.get("device_map"))
        _refuse_parallel_plans(kwargs)
        refuse_attention(kwargs.get("attn_implementation"))
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(
                "use_safetensors: expected True, got False; pickles are not read, as they may contain code"
            )
        load: Any = super().from_pretrained  # type: ignore[misc]
        model, report = load(path, *args, output_loading_info=True, use_safetensors=True, **kwargs)
        refuse_wrong_weights(path, report)
        _refuse_several_devices(getattr(model, "hf_device_map", None))
        return (model, report) if wants_report else model

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, tags: Any = None, **kwargs: Any
    ) -> None:
        """Write config, safetensors under the modules' own names and a model card; with LoRA heads and adapters alone, the
        latter in peft's format (models/checkpoints/adapters.py).

        transformers would write the language model under an older name, which its Trainer cannot resume from.

        Args:
            save_directory: the folder; a README.md in it that this package did not write stays.
            push_to_hub: upload the folder afterwards, to ``repo_id`` or a repository of the folder's name.
            tags: further tags of the model card.
            *args, **kwargs: as in transformers; those of `push_to_hub` too.

        Raises:
            RuntimeError: for 4-bit weights that bitsandbytes has changed in a forward pass on a CPU.
            ConnectionError: if the Hub does not answer.
            NonFiniteError: if a weight is NaN or infinite; nothing is written.
            ValueError: for an upload of adapters whose backbone is a local folder, and for the folder of their base.
        """
        uploading = {name: kwargs.pop(name) for name in _UPLOADING if name in kwargs}
        base = self.config.backbone_path if self.config.lora else None
        if base and Path(base).is_dir() and Path(base).resolve() == Path(save_directory).resolve():
            raise ValueError(
                f"{save_directory} contains the base of these adapters, which is not overwritten; choose another folder"
            )
        check_finite((kwargs.get("state_dict") or self.state_dict()).items())  # type: ignore[attr-defined]
        kwargs.setdefault("save_original_format", False)
        quantizer = getattr(self, "hf_quantizer", None)
        if quantizer is not None:
            _refuse_repacked(self)  # type: ignore[arg-type]
        state: dict[str, Any] = {}
        if self.config.lora:
            state = kwargs.pop("state_dict", None) or self.state_dict()  # type: ignore[attr-defined]
            kwargs["state_dict"] = {n: value for n, value in state.items() if self.owns(n) and "lora_" not in n}
            self.hf_quantizer = None  # else it would write the backbone's weights all the same
        try:
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        finally:
            if quantizer is not None:
                self.hf_quantizer = quantizer
        if kwargs.get("is_main_process", True):
            write_adapter(Path(save_directory), state, self.config)
            write_card(Path(save_directory), self.config, tags=tags)
            if push_to_hub:
                upload(Path(save_directory), self.config, **{"repo_id": Path(save_directory).name, **uploading})

    def push_to_hub(self, repo_id: str, *, processor: Any = None, **kwargs: Any) -> Any:
        """Upload the checkpoint and its model card.

        Args:
            repo_id: organisation/name.
            processor: saved beside the weights; without it a reader needs that of the backbone.
            **kwargs: as in transformers (``private``, ``token``, ``revision``, ``create_pr``, ``commit_message``, ``tags``, ...).

        Returns:
            huggingface_hub's CommitInfo.

        Raises:
            ConnectionError: if the Hub does not answer.
            ValueError: for an upload of adapters whose backbone is a local folder.
        """
        uploading = {name: kwargs.pop(name) for name in _UPLOADING if name in kwargs}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            if processor is not None:
                processor.save_pretrained(folder)
            return upload(Path(folder), self.config, repo_id=repo_id, **uploading)

    @property
    def hf_device_map(self) -> dict[str, Any]:
        """Where accelerate has put the model.

        Raises:
            AttributeError: if accelerate has not.
            ValueError: when it is set, for several devices.
        """
        if "_device_map" not in self.__dict__:
            raise AttributeError("hf_device_map")
        found: dict[str, Any] = self.__dict__["_device_map"]
        return found

    @hf_device_map.setter
    def hf_device_map(self, device_map: dict[str, Any]) -> None:
        _refuse_several_devices(device_map)
        self.__dict__["_device_map"] = device_map

    def freeze_vision(self) -> None:
        """Freeze the vision tower, as the paper does; its features are then computed outside autograd."""
        self.backbone.model.visual.requires_grad_(False)

    def add_lora(self, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
        """Freeze the backbone and put LoRA adapters on every linear layer of its language model (needs peft)."""
        add_lora(self, rank=rank, alpha=alpha, dropout=dropout)

    def merge_lora(self) -> None:
        """Add the adapters to the backbone's weights and remove them; what is saved next is a whole checkpoint."""
        merge_lora(self)

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute each layer in the backward pass; non-reentrant only, and a recorded prefix stays in the graph.

        Newer versions of transformers call this through `activation_checkpointing_enable`.
        """
        if offload:
            raise ValueError("offloading of checkpointed activations is not supported; leave offload out")
        enable_checkpointing(self, gradient_checkpointing_kwargs, every_n_layers=every_n_layers)

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        disable_checkpointing(self)

    def _check_and_adjust_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_attention(attn_implementation)
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)  # type: ignore[misc]

    def set_attn_implementation(self, attn_implementation: Any, *_: Any, **__: Any) -> None:
        """Refuse every attention but the one that is in use.

        Raises:
            ValueError: for another than "sdpa".
        """
        refuse_attention(attn_implementation)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_output_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Another vocabulary size for input embeddings and head; arguments as in transformers.

        Raises:
            ValueError: before anything changes, with LoRA adapters, whose checkpoints do not store embeddings, and for a
                vocabulary without the tokens that the model needs.
        """
        if self.config.lora:
            raise ValueError(
                "the token embeddings of a model with LoRA adapters cannot be resized, because its checkpoints do not store "
                "them; resize and save the backbone first, then add the adapters"
            )
        vlm = self.config.vlm_config
        ids = [getattr(vlm, f"{name}_token_id", None) for name in ("image", "video", "vision_start", "vision_end")]
        needed = 1 + max(index for index in ids if isinstance(index, int))
        if new_num_tokens is not None and new_num_tokens < needed:
            raise ValueError(
                f"expected at least {needed} tokens, because the images' token ids must remain, got {new_num_tokens}"
            )
        embeddings: nn.Module = self.backbone.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.config.vlm_config = self.backbone.config
        if new_num_tokens is not None:
            self.config.backbone_path = None  # no longer the weights that adapters would be loaded onto
        return embeddings
