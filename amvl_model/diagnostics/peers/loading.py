"""From a checkpoint of another project to its report, in one call."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.report.suite import DIAGNOSTICS, Diagnosed, Plan

LAYOUTS: Final = {"coconut": "coconut.CoconutModel", "mirage": "mirage.MirageModel"}
"""Adapter by name of a layout, below this package."""
WITHOUT_POSTERIOR: Final = ("interventions",)
WITH_POSTERIOR: Final = ("contamination", "slots", "answer-direction", "stability", "interventions", "mediation")


def load_peer(checkpoint: str | Path, layout: str, *, base: str | None = None, num_latents: int | None = None) -> Any:
    """The adapter of a checkpoint.

    Args:
        checkpoint: what the project's training wrote.
        layout: one of `LAYOUTS`.
        base, num_latents: as the adapter's ``from_pretrained`` describes them.

    Raises:
        ValueError: for an unknown layout, or a checkpoint of another one.
        FileNotFoundError: if there is none.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"expected one of the layouts {', '.join(LAYOUTS)}, got {layout!r}; for another one write a LatentModel "
            "(amvl_model.evaluation.latent_models) and call diagnose_adapter"
        )
    module, _, name = LAYOUTS[layout].rpartition(".")
    adapter = getattr(importlib.import_module(f"amvl_model.diagnostics.peers.{module}"), name)
    return adapter.from_pretrained(checkpoint, base=base, num_latents=num_latents)


def diagnose_peer(
    checkpoint: str | Path,
    layout: str,
    questions: Sequence[VisualQuestion],
    *,
    base: str | None = None,
    num_latents: int | None = None,
    **settings: Any,
) -> Diagnosed:
    """`load_peer`, then `diagnose_adapter`: ``.reports["interventions"].verdict`` says whether the latents matter.

    Args:
        checkpoint, layout, base, num_latents: of `load_peer`.
        questions: multiple-choice questions with known answers.
        **settings: of `Plan`, such as samples, batch_size, n_bootstrap, seed, progress.
    """
    adapter = load_peer(checkpoint, layout, base=base, num_latents=num_latents)
    return diagnose_adapter(str(checkpoint), adapter, tuple(DIAGNOSTICS), Plan(questions=questions, **settings))


def diagnose_adapter(name: str, adapter: Any, chosen: Sequence[str], plan: Plan) -> Diagnosed:
    """The diagnostics of a `LatentModel`; those it has no quantities for are refused as not applicable.

    Args:
        name: of the checkpoint, for the report.
        adapter: a `LatentModel` or `PosteriorModel`.
        chosen: names of `DIAGNOSTICS`.
        plan: what is measured with; its training questions are not used.

    Raises:
        TypeError: if the adapter is no `LatentModel`.
        ValueError: for unknown diagnostics, or if every one that applies refuses these questions.
    """
    from amvl_model.evaluation.latent_models import ForeignScorer, PosteriorModel

    unknown = [item for item in chosen if item not in DIAGNOSTICS]
    if unknown or not chosen:
        raise ValueError(f"diagnostics must be some of {', '.join(DIAGNOSTICS)}, got {', '.join(unknown) or 'none'}")
    scorer = ForeignScorer(adapter)
    has_posterior = isinstance(adapter, PosteriorModel)
    applicable = WITH_POSTERIOR if has_posterior else WITHOUT_POSTERIOR
    plan = replace(plan, training=None, posteriors={})
    result = Diagnosed(name=name, run=None, reports={}, refused={}, seconds={})
    for item in chosen:
        began = time.perf_counter()
        if item not in applicable:
            lacks = "an answer-dependent posterior" if item in WITH_POSTERIOR else "the inside of an AMVL model"
            result.refused[item] = f"not applicable: it needs {lacks}, which {type(adapter).__name__} does not offer"
        else:
            try:
                result.reports[item] = DIAGNOSTICS[item](scorer, scorer.processor, plan)
            except ValueError as error:
                result.refused[item] = str(error)
        result.seconds[item] = time.perf_counter() - began
    if not result.reports:
        raise ValueError("; ".join(dict.fromkeys(result.refused.values())))
    return result
