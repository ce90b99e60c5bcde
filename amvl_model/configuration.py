"""AMVLConfig: what a checkpoint's config.json holds."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

BACKBONES = ("qwen2_5_vl", "qwen2_vl")
"""Types of backbones that AMVL is tested on."""
_REFUSED = {
    "qwen3_vl": "its DeepStack adds picture features inside the text model, which would be left out",
    "qwen3_vl_moe": "its DeepStack adds picture features inside the text model, which would be left out",
}


class AMVLConfig(PreTrainedConfig):
    """Configuration of `AMVLForConditionalGeneration`.

    Args:
        vlm_config: configuration of the backbone (a Qwen-VL model), as object or dict.
        num_latents: k, number of latent slots.
        latent_dim: d, dimensions of each slot.
        backbone_path: folder or hub id the backbone came from; LoRA checkpoints load it from there.
        lora: settings of the LoRA adapters in the language model (``rank``, ``alpha``, ``dropout``), or None.
    """

    model_type = "amvl"
    sub_configs: ClassVar[dict[str, Any]] = {"vlm_config": AutoConfig}

    vlm_config: dict[str, Any] | PreTrainedConfig | None = None
    num_latents: int = 8
    latent_dim: int = 512
    backbone_path: str | None = None
    lora: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vlm_config, dict):
            settings = dict(self.vlm_config)
            self.vlm_config = AutoConfig.for_model(settings.pop("model_type", "qwen2_5_vl"), **settings)
        elif self.vlm_config is None:
            self.vlm_config = AutoConfig.for_model("qwen2_5_vl")
        kind = self.vlm_config.model_type  # type: ignore[union-attr]
        if kind not in BACKBONES:
            reason = _REFUSED.get(kind, "the shared prefix relies on the structure of these models")
            raise ValueError(f"the backbone must be one of {', '.join(BACKBONES)}, got {kind}: {reason}")
        for name in ("num_latents", "latent_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; where the backbone came from is kept only if the checkpoint needs it (LoRA), since a whole
        checkpoint would carry a path of the machine it was made on."""
        values: dict[str, Any] = super().to_dict()
        if not self.lora:
            values["backbone_path"] = None
        if isinstance(values.get("vlm_config"), dict):
            values["vlm_config"].pop("_name_or_path", None)
        return values

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's text configuration (transformers asks for it when generating)."""
        return self.vlm_config.get_text_config(*args, **kwargs)  # type: ignore[union-attr]


AutoConfig.register("amvl", AMVLConfig)
