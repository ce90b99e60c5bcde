"""What a checkpoint's config.json holds, of models around a Qwen-VL backbone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

PAUSE_TYPE = "amvl_pause"
OWN_TYPES = ("amvl", PAUSE_TYPE)
BACKBONES = ("qwen2_5_vl", "qwen2_vl")
"""Types of backbones that AMVL is tested on."""
INSTALL = 'pip install "git+URL", URL being the address of the amvl_model repository, or pip install PATH of a clone'
HOW_TO_LOAD = f"transformers knows this model type after `import amvl_model`; to install it: {INSTALL}"
_REFUSED = {
    "qwen3_vl": "its DeepStack adds image features inside the text model, which would be left out",
    "qwen3_vl_moe": "its DeepStack adds image features inside the text model, which would be left out",
}


def refuse_attention(name: Any) -> None:
    """Raise a ValueError for another attention than SDPA; ``name``: one, or a mapping of them by parts of the model."""
    if isinstance(name, Mapping):
        for part in name.values():
            refuse_attention(part)
    elif name not in (None, "sdpa"):
        raise ValueError(
            f"attn_implementation must be 'sdpa', got {name!r}: both passes read the question through this package's own "
            "attention function, which runs on torch's SDPA kernels; leave it out"
        )


class AroundBackboneConfig(PreTrainedConfig):
    """What the configurations of all models around a Qwen-VL backbone share.

    Args:
        vlm_config: configuration of the backbone (a Qwen-VL model), as object or dict.
        backbone_path: folder or hub id the backbone came from; LoRA checkpoints load it from there.
        lora: settings of the LoRA adapters in the language model (``rank``, ``alpha``, ``dropout``), or None.
        training: how the checkpoint was trained (objective, data, results, versions), for the model card; None: not recorded.
        how_to_load: for whoever reads config.json without this package.

    Raises:
        ValueError: for a backbone of another type, a size below its least, or an unknown option.
    """

    sub_configs: ClassVar[dict[str, Any]] = {"vlm_config": AutoConfig}
    sizes: ClassVar[Mapping[str, int]] = {}
    """The smallest value of every size that a model adds; `from_backbone` takes them by these names."""
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The values of every option that a model adds, the default first: what checkpoints without it were trained with."""

    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "terms",
        "answer_nll",
        "prior_mean",
        "prior_log_std",
        "posterior_mean",
        "posterior_log_std",
        "latents",
        "latent_norm_ratio",
    ]
    """What transformers' Trainer leaves out of its predictions, which are then the answer's logits."""

    vlm_config: dict[str, Any] | PreTrainedConfig | None = None
    backbone_path: str | None = None
    lora: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    how_to_load: str = HOW_TO_LOAD

    def __post_init__(self, **kwargs: Any) -> None:
        importlib.import_module("amvl_model.models.loading")  # whoever has a configuration can ask for its model
        if not isinstance(self.vlm_config, PreTrainedConfig):
            settings = dict(self.vlm_config or {})
            self.vlm_config = AutoConfig.for_model(settings.pop("model_type", BACKBONES[0]), **settings)
        kind = self.vlm_config.model_type  # type: ignore[union-attr]
        if kind not in BACKBONES:
            reason = _REFUSED.get(kind, "the shared prefix relies on the structure of these models")
            raise ValueError(f"the backbone must be one of {', '.join(BACKBONES)}, got {kind}: {reason}")
        for name, least in self.sizes.items():
            if getattr(self, name) < least:
                none = f" (0: no {name.removeprefix('num_')})" if least == 0 else ""
                raise ValueError(f"{name} must be at least {least}{none}, got {getattr(self, name)}")
        for name, accepted in self.choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        super().__post_init__(**kwargs)

    @property
    def _attn_implementation(self) -> str | None:
        return super()._attn_implementation

    @_attn_implementation.setter
    def _attn_implementation(self, value: Any) -> None:
        """Where every door of transformers ends, its Auto classes among them, which keep from a mapping what they know."""
        refuse_attention(value)
        PreTrainedConfig._attn_implementation.fset(self, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; where the backbone came from is kept only if the checkpoint needs it (LoRA), since a whole
        checkpoint would carry a path of the machine it was made on."""
        values: dict[str, Any] = super().to_dict()
        if not self.lora:
            values["backbone_path"] = None
        if isinstance(values.get("vlm_config"), dict):
            values["vlm_config"].pop("_name_or_path", None)
            values["vlm_config"].pop("quantization_config", None)  # the whole model's is beside it
        return values

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's text configuration (transformers asks for it when generating)."""
        return self.vlm_config.get_text_config(*args, **kwargs)  # type: ignore[union-attr]


class AMVLConfig(AroundBackboneConfig):
    """Configuration of `AMVLForConditionalGeneration`.

    Args:
        vlm_config, backbone_path, lora: see `AroundBackboneConfig`.
        num_latents: k, number of latent slots.
        latent_dim: d, dimensions of each slot.
        answer_bias: initial value of a learnt bias on the attention of posterior slots to the answer, negative for a posterior
            that begins almost blind to it; None: no bias, as in the paper.
        posterior_std: "per-answer", as in the paper, or "shared": the posterior's standard deviation depends on x alone, so
            that only its mean can carry answer information.
        latent_order: "parallel", as in the paper, or "sequential": the prior's slots are computed one after another, each from
            x and the injected means of the slots before it (k - 1 further passes; ours, for comparison with latents that
            follow each other, arXiv 2412.06769). Given x the slots' samples are still independent.
    """

    model_type = "amvl"
    sizes: ClassVar[Mapping[str, int]] = {"num_latents": 1, "latent_dim": 1}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "posterior_std": ("per-answer", "shared"),
        "latent_order": ("parallel", "sequential"),
    }

    num_latents: int = 8
    latent_dim: int = 512
    answer_bias: float | None = None
    posterior_std: str = "per-answer"
    latent_order: str = "parallel"


class PauseConfig(AroundBackboneConfig):
    """Configuration of `PauseForConditionalGeneration`.

    Args:
        vlm_config, backbone_path, lora: see `AroundBackboneConfig`.
        num_pauses: k, number of pause tokens; 0 for supervised fine-tuning.
    """

    model_type = PAUSE_TYPE
    sizes: ClassVar[Mapping[str, int]] = {"num_pauses": 0}

    num_pauses: int = 0


AutoConfig.register("amvl", AMVLConfig)
AutoConfig.register(PAUSE_TYPE, PauseConfig)
