"""FSDP2 and ZeRO-3 through transformers' Trainer: the settings of both, in one place for torchrun and accelerate launch.

Weights, gradients and AdamW's moments lie in shards on all processes; a layer's weights are gathered while it computes.

    fsdp2              PyTorch's fully_shard, one unit a layer. Weights stay float32 and the arithmetic is autocast, as in one
                       process: FSDP2's own bf16 policy would round the distributions' heads and the losses to bf16 as well.
                       Checkpoints are sharded (torch.distributed.checkpoint) and can be read by another number of processes.
    deepspeed-zero3    DeepSpeed's stage 3 with torch_autocast, from launch/deepspeed-zero3.json. The gathered weights of every
                       linear layer, the heads' included, are bf16 there.

A finished run is always one plain checkpoint: `save_pretrained`'s safetensors, whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from amvl_model import distributed
from amvl_model.config import TrainConfig

LAUNCH_FOLDER = Path(__file__).parents[1] / "launch"
ZERO3 = LAUNCH_FOLDER / "deepspeed-zero3.json"


def sharding_of(train: TrainConfig) -> str:
    """none, fsdp2 or deepspeed-zero3: the configuration's, or that of `accelerate launch`.

    Raises:
        ValueError: if both say something and it is not the same.
    """
    launched = "none"
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        launched = "fsdp2"
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        launched = "deepspeed-zero3"
    if "none" not in (launched, train.sharding) and launched != train.sharding:
        raise ValueError(
            f"train.sharding is {train.sharding}, but accelerate launch was configured for {launched}; leave one of them out"
        )
    return train.sharding if launched == "none" else launched


def sharding_arguments(train: TrainConfig) -> dict[str, Any]:
    """The fields of transformers' TrainingArguments that switch sharding on; none for ``none``.

    Raises:
        ValueError: without a launcher that starts several processes (or one, with torchrun).
        ImportError: if DeepSpeed is requested and not installed.
    """
    sharding = sharding_of(train)
    if sharding == "none":
        return {}
    if "RANK" not in os.environ:
        raise ValueError(
            f"train.sharding {sharding} needs a launcher, got a plain python process; start it with "
            "`torchrun --nproc-per-node GPUS -m amvl_model.cli train ...`, or set train.sharding to none"
        )
    if sharding == "fsdp2":
        return {"fsdp": True, "fsdp_config": fsdp2_settings()}
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise ImportError("train.sharding deepspeed-zero3 needs DeepSpeed: pip install deepspeed") from error
    return {"deepspeed": zero3_settings(train), "bf16": False}


def fsdp2_settings() -> dict[str, Any]:
    """transformers' ``fsdp_config``."""
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "SHARDED_STATE_DICT",
        "activation_checkpointing": False,
        "cpu_ram_efficient_loading": False,
    }


def zero3_settings(train: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's configuration; ``auto`` is filled in by the Trainer."""
    settings: dict[str, Any] = json.loads(ZERO3.read_text(encoding="utf-8"))
    settings["torch_autocast"]["enabled"] = train.precision == "bf16"
    return settings


def keep_float32(arguments: Any) -> None:
    """Keep FSDP2's gathered weights and reduced gradients float32 where the Trainer would choose bf16 for both."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if getattr(arguments, "fsdp_plugin_args", None):
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()


def whole_state(trainer: Any) -> dict[str, Any]:
    """All weights of a trained model on the CPU, on the main process; every process has to call this."""
    from torch.distributed.tensor import DTensor

    if trainer.is_deepspeed_enabled:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        gathered: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.deepspeed)
        unset_hf_deepspeed_config()  # models that are built from here on are whole
        return gathered
    whole = {}
    for name, value in trainer.model.state_dict().items():  # one weight after the other is whole on a GPU
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if distributed.is_main():
            whole[name] = value.cpu()
    return whole
