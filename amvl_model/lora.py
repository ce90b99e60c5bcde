"""LoRA on the language model, injected by peft into an AMVL model in place."""

from __future__ import annotations

from typing import Any

# every linear layer of the language model's attention and MLP, and nothing of the vision tower
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def add_lora(model: Any, *, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Freeze the backbone, add adapters of ``rank`` to its language model, and remember the settings in the config.

    The latent modules stay fully trainable.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if rank is below 1 or the model has adapters already.
    """
    if rank < 1:
        raise ValueError(f"the LoRA rank must be at least 1, got {rank}; 0 in a config means full fine-tuning")
    if model.config.lora:
        raise ValueError(f"the model has LoRA adapters already: {model.config.lora}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install 'amvl[lora]'") from error
    settings = {"rank": rank, "alpha": float(alpha if alpha is not None else 2 * rank), "dropout": dropout}
    model.backbone.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=settings["alpha"], lora_dropout=dropout, target_modules=TARGETS), model.backbone
    )
    model.config.lora = settings
