"""Asymmetric Mutual Variational Learning (AMVL, arXiv 2607.00461) on transformers' Qwen2.5-VL.

A question x (pictures and text) gets k latent slots. The prior p(z | x) reads their distribution off the question
alone, the posterior q(z | x, y) off question and answer. Training decodes the answer y from z ~ q and pulls the two
together with two one-sided KL terms; inference decodes from z ~ p.

Modules, in the order in which data flows:

    config                   every setting of a run: dataclasses, presets, overrides, command-line arguments (no torch)
    data                     the question schema, synthetic BLINK, readers of the real benchmarks (no torch)
    processing               AMVLProcessor: questions to padded tensors
    tiny, pretraining        the embedded base of three million parameters, and how it was made
    configuration            AMVLConfig: what a checkpoint stores
    distributions            DiagonalGaussian: sampling and KL
    attention, shared_prefix, checkpointing, modeling
                             AMVLForConditionalGeneration: one query, two passes
    transformers_compat      the supported versions of transformers, guards against renamed arguments (no torch)
    pause                    PauseForConditionalGeneration: the baselines sft and pause, one plain pass
    checkpoints, lora        reading and writing checkpoints; adapters on the language model
    objective                amvl_objective: the eight losses
    trainer                  AMVLTrainer on transformers.Trainer
    evaluation               answer parsing, scores with confidence intervals
    diagnostics              leaked information, answer sensitivity, interventions on the latents
    cli, doctor, footprint   the console script amvl (torch only in doctor)

Names are imported from here on first use, so that ``import amvl_model`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AMVLConfig": "configuration",
    "AMVLForConditionalGeneration": "modeling",
    "AMVLProcessor": "processing",
    "AMVLTrainer": "trainer",
    "DiagonalGaussian": "distributions",
    "ObjectiveConfig": "config",
    "ObjectiveTerms": "objective",
    "PauseForConditionalGeneration": "pause",
    "RunConfig": "config",
    "VisualQuestion": "data.schema",
    "amvl_objective": "objective",
    "leaked_information": "diagnostics",
    "load_preset": "config",
    "parse_choice": "evaluation",
    "synthetic_blink": "data.synthetic",
}

if TYPE_CHECKING:
    from amvl_model.config import ObjectiveConfig, RunConfig, load_preset
    from amvl_model.configuration import AMVLConfig
    from amvl_model.data.schema import VisualQuestion
    from amvl_model.data.synthetic import synthetic_blink
    from amvl_model.diagnostics import leaked_information
    from amvl_model.distributions import DiagonalGaussian
    from amvl_model.evaluation import parse_choice
    from amvl_model.modeling import AMVLForConditionalGeneration
    from amvl_model.objective import ObjectiveTerms, amvl_objective
    from amvl_model.pause import PauseForConditionalGeneration
    from amvl_model.processing import AMVLProcessor
    from amvl_model.trainer import AMVLTrainer

__all__ = [
    "AMVLConfig",
    "AMVLForConditionalGeneration",
    "AMVLProcessor",
    "AMVLTrainer",
    "DiagonalGaussian",
    "ObjectiveConfig",
    "ObjectiveTerms",
    "PauseForConditionalGeneration",
    "RunConfig",
    "VisualQuestion",
    "__version__",
    "amvl_objective",
    "leaked_information",
    "load_preset",
    "parse_choice",
    "synthetic_blink",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
