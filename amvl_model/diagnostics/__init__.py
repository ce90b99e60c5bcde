"""What a checkpoint's latents carry: leaked answer information, prior contamination, and their causal effect.

    leakage     leaked information and contamination; answer direction; slot by slot; through image and text
    causal      interventions on the latents, mediation, stability, relevance maps
    response    answer forces, curvature, precisions and anchor, as the arrays that the theory's model takes
    report      all of them in one report
    common      what they share

Diagnostics read a model; they never change it. Names are imported from here on first use, so that this import needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amvl_model.diagnostics.causal.interventions import InterventionReport, derangement, intervention_report
    from amvl_model.diagnostics.causal.mediation import MediationReport, measure_mediation
    from amvl_model.diagnostics.causal.relevance import RelevanceMap, RelevanceReport, measure_relevance
    from amvl_model.diagnostics.causal.stability import StabilityReport, measure_stability
    from amvl_model.diagnostics.common.posteriors import OptionPosteriors, option_posteriors
    from amvl_model.diagnostics.leakage.answer_direction import (
        AnswerDirectionReport,
        answer_direction_report,
        answer_direction_shift,
        measure_answer_direction,
    )
    from amvl_model.diagnostics.leakage.contamination import ContaminationReport, contamination_report
    from amvl_model.diagnostics.leakage.cross_modal import CrossModalReport, measure_cross_modal
    from amvl_model.diagnostics.leakage.information import (
        answer_sensitivity,
        leaked_information,
        leaked_information_batch,
    )
    from amvl_model.diagnostics.leakage.slots import SlotReport, measure_slots, slot_report
    from amvl_model.diagnostics.response.linear_response import (
        LinearResponse,
        LinearResponseReport,
        measure_linear_response,
    )

_HOMES = {
    "AnswerDirectionReport": "leakage.answer_direction",
    "ContaminationReport": "leakage.contamination",
    "CrossModalReport": "leakage.cross_modal",
    "InterventionReport": "causal.interventions",
    "LinearResponse": "response.linear_response",
    "LinearResponseReport": "response.linear_response",
    "MediationReport": "causal.mediation",
    "OptionPosteriors": "common.posteriors",
    "RelevanceMap": "causal.relevance",
    "RelevanceReport": "causal.relevance",
    "SlotReport": "leakage.slots",
    "StabilityReport": "causal.stability",
    "answer_direction_report": "leakage.answer_direction",
    "answer_direction_shift": "leakage.answer_direction",
    "answer_sensitivity": "leakage.information",
    "contamination_report": "leakage.contamination",
    "derangement": "causal.interventions",
    "intervention_report": "causal.interventions",
    "leaked_information": "leakage.information",
    "leaked_information_batch": "leakage.information",
    "measure_answer_direction": "leakage.answer_direction",
    "measure_cross_modal": "leakage.cross_modal",
    "measure_linear_response": "response.linear_response",
    "measure_mediation": "causal.mediation",
    "measure_relevance": "causal.relevance",
    "measure_slots": "leakage.slots",
    "measure_stability": "causal.stability",
    "option_posteriors": "common.posteriors",
    "slot_report": "leakage.slots",
}

__all__ = [
    "AnswerDirectionReport",
    "ContaminationReport",
    "CrossModalReport",
    "InterventionReport",
    "LinearResponse",
    "LinearResponseReport",
    "MediationReport",
    "OptionPosteriors",
    "RelevanceMap",
    "RelevanceReport",
    "SlotReport",
    "StabilityReport",
    "answer_direction_report",
    "answer_direction_shift",
    "answer_sensitivity",
    "contamination_report",
    "derangement",
    "intervention_report",
    "leaked_information",
    "leaked_information_batch",
    "measure_answer_direction",
    "measure_cross_modal",
    "measure_linear_response",
    "measure_mediation",
    "measure_relevance",
    "measure_slots",
    "measure_stability",
    "option_posteriors",
    "slot_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
