"""What the main job lets vary. No torch here: a command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from amvl_model.config.loading import LABORATORY_SETTINGS as SETTINGS

__all__ = ["ARMS", "SETTINGS", "LaboratoryOptions"]

ARMS = {"sft": "sft", "prior": "prior", "forward-only": "ntp+fwd", "elbo": "elbo", "amvl": "amvl"}
"""Arms of the main job by folder, and their objectives."""


@dataclass(frozen=True, kw_only=True)
class LaboratoryOptions:
    """What the main job lets vary; everything else is `Arm`'s default."""

    seed: int = 0  # of weights, questions and latent noise
    steps: int = 400  # optimiser steps of an arm after the warm-up
    warmup: int = 1600  # most steps of the warm-up that the arms with latents share
    beta: float = 1.0  # weight of the forward KL [per nat]
    gamma: float = 1.0  # weight of the reverse KL [per nat]
    evaluated: int = 512  # test questions for each number of hops; validation: half of them
    base: str = "multihop"  # a checkpoint of experiments/train_multihop.py, or multihop: the shipped one
