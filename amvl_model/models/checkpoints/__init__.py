"""Folders of trained weights.

inspection    what is in a folder, and what is wrong with it; manifests; finite weights
adapters      LoRA in peft's format: write, load, merge
pickles       which pickled names the index of a sharded checkpoint may contain
sharing       model card, upload, LoRA checkpoints on the Hub
"""

from amvl_model.models.checkpoints.adapters import backbone_at, load_lora_checkpoint
from amvl_model.models.checkpoints.inspection import (
    CARD,
    MANIFEST,
    WEIGHTS,
    NonFiniteError,
    absolute,
    check_finite,
    check_weights,
    checkpoint_type,
    damage,
    file_digest,
    inspect_checkpoint,
    refuse_wrong_weights,
    write_manifest,
    write_tensors,
    write_text,
    writing,
)

__all__ = [
    "CARD",
    "MANIFEST",
    "WEIGHTS",
    "NonFiniteError",
    "absolute",
    "backbone_at",
    "check_finite",
    "check_weights",
    "checkpoint_type",
    "damage",
    "file_digest",
    "inspect_checkpoint",
    "load_lora_checkpoint",
    "refuse_wrong_weights",
    "write_manifest",
    "write_tensors",
    "write_text",
    "writing",
]
