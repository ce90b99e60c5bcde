"""Asymmetric Mutual Variational Learning (AMVL, arXiv 2607.00461) on transformers' Qwen2.5-VL.

A question x (images and text) gets k latent slots. The prior p(z | x) reads their distribution off the question
alone, the posterior q(z | x, y) off question and answer. Training decodes the answer y from z ~ q and pulls the two
together with two one-sided KL terms; inference decodes from z ~ p.

Sub-packages, in the order in which data flows; each imports only from those above it:

    objectives    the registry of objectives: terms, losses, schedule (no torch)
    config        every setting of a run: fields with bound, unit and documentation; presets; command line (no torch)
    results       result files with provenance, as pandas tables; statistics over questions and over seeds
    two_pass      one query, two passes: layout, attention, what both passes share, gradient checkpointing
    data          the question schema, processor, readers of benchmarks and training sets, synthetic BLINK
    models        AMVLForConditionalGeneration, the baselines, generation, checkpoints, the tiny base
    training      trainer, batches, sharding, one run, pre-training of the tiny base
    evaluation    answer parsing, scores with confidence intervals, benchmarks, the plug-in for lmms-eval
    diagnostics   leaked information, interventions on the latents, response of the decoder, the report
    studies       studies of many runs, and the main job
    profiling     memory and time: footprint, doctor, dry run, throughput

Names are imported from here on first use, so that ``import amvl_model`` stays cheap. transformers' Auto classes know the
models from then on, whichever of the two is imported first (`_Registration`).
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "AMVLConfig": "models.configuration",
    "AMVLForConditionalGeneration": "models.amvl",
    "AMVLProcessor": "data.processing",
    "AMVLTrainer": "training.trainer",
    "AMVLTrainingArguments": "training.arguments",
    "DiagonalGaussian": "models.distributions",
    "Objective": "objectives",
    "ObjectiveConfig": "config",
    "ObjectiveTerms": "objectives",
    "PauseForConditionalGeneration": "models.pause",
    "RunConfig": "config",
    "Term": "objectives",
    "VisualQuestion": "data.schema",
    "amvl_objective": "objectives",
    "diagnose": "diagnostics.report.suite",
    "evaluate": "evaluation.evaluate",
    "leaked_information": "diagnostics",
    "load_model": "models.loading",
    "load_preset": "config",
    "load_questions": "data.sources",
    "load_results": "results.frame",
    "parse_choice": "evaluation",
    "register_objective": "objectives",
    "synthetic_blink": "data.synthetic",
    "train": "training.run",
}

if TYPE_CHECKING:
    from amvl_model.config import ObjectiveConfig, RunConfig, load_preset
    from amvl_model.data.processing import AMVLProcessor
    from amvl_model.data.schema import VisualQuestion
    from amvl_model.data.sources import load_questions
    from amvl_model.data.synthetic import synthetic_blink
    from amvl_model.diagnostics import leaked_information
    from amvl_model.diagnostics.report.suite import diagnose
    from amvl_model.evaluation import parse_choice
    from amvl_model.evaluation.evaluate import evaluate
    from amvl_model.models.amvl import AMVLForConditionalGeneration
    from amvl_model.models.configuration import AMVLConfig
    from amvl_model.models.distributions import DiagonalGaussian
    from amvl_model.models.loading import load_model
    from amvl_model.models.pause import PauseForConditionalGeneration
    from amvl_model.objectives import Objective, ObjectiveTerms, Term, amvl_objective, register_objective
    from amvl_model.results.frame import load_results
    from amvl_model.training.arguments import AMVLTrainingArguments
    from amvl_model.training.run import train
    from amvl_model.training.trainer import AMVLTrainer

__all__ = [
    "AMVLConfig",
    "AMVLForConditionalGeneration",
    "AMVLProcessor",
    "AMVLTrainer",
    "AMVLTrainingArguments",
    "DiagonalGaussian",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveTerms",
    "PauseForConditionalGeneration",
    "RunConfig",
    "Term",
    "VisualQuestion",
    "__version__",
    "amvl_objective",
    "diagnose",
    "evaluate",
    "leaked_information",
    "load_model",
    "load_preset",
    "load_questions",
    "load_results",
    "parse_choice",
    "register_objective",
    "synthetic_blink",
    "train",
]


class _Registration:
    """Registers the configurations once transformers' own registry has been imported, and imports nothing before.

    A configuration registers the models and the processor when it is made (models/configuration.py). A finder of
    `sys.meta_path`; its base class in importlib.abc would triple the time of ``import amvl_model``.
    """

    registry = "transformers.models.auto.configuration_auto"
    ours = f"{__name__}.models.configuration"

    @classmethod
    def install(cls) -> None:
        """Register now where transformers' registry is there already, else after its import."""
        if cls.registry in sys.modules:
            importlib.import_module(cls.ours)
        else:
            sys.meta_path.insert(0, cls())

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The registry's own spec, whose loader imports our configurations at the end; None for all other modules."""
        if fullname != self.registry:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                importlib.import_module(self.ours)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


_Registration.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
