"""The laboratory: small bases on multi-hop questions that need more serial steps than the base has layers.

A base of L text layers that was pre-trained on few hops answers questions with more only through its latents: computed in pass 1
(depth L) and injected in pass 2 (depth L) they give depth 2L.

arm         what one run is made of
training    the warm-up that the arms of a seed share, and an arm
measures    accuracy by hops and by latents, leaked information, probes of the states, patched latents
study       declared studies: cells, seeds, bases; runs what is missing
analysis    the planned tests
job         the main job: five arms side by side, a table and a figure
figures     figures of the main job
quick       one question under two shipped checkpoints
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ARMS = {"sft": "sft", "prior": "prior", "forward-only": "ntp+fwd", "elbo": "elbo", "amvl": "amvl"}
"""Arms of the main job by folder, and their objectives."""
BASES = {
    "Coloured_Cells": "multihop",
    "Changing_Cells": "changing-cells",
    "Grid_Walk": "grid-walk",
    "Nested_Comparison": "nested-comparison",
}
"""The shipped base of each task."""


@dataclass(frozen=True, kw_only=True)
class LaboratoryOptions:
    """What the main job lets vary; everything else is `Arm`'s default."""

    seed: int = 0  # of weights, questions and latent noise
    steps: int = 400  # optimiser steps of an arm after the warm-up; without one more are needed, such as 1,000
    warmup: int = 1600  # most steps of the warm-up that the arms with latents share; 0: none
    beta: float = 1.0  # weight of the forward KL [per nat]
    gamma: float = 1.0  # weight of the reverse KL [per nat]
    evaluated: int = 512  # test questions for each number of hops; validation: half of them
    task: Literal["Coloured_Cells", "Changing_Cells", "Grid_Walk", "Nested_Comparison"] = (
        "Coloured_Cells"  # one map for all hops, one for each, a walk, or comparisons
    )
    base: str | None = None  # a checkpoint of experiments/train_multihop.py; None: the one shipped for the task
