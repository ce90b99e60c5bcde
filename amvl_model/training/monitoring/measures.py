"""What a run measures beside its loss, and what it records of itself for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from amvl_model.models.checkpoints.sharing import Metric, TrainingRecord, hub_id
from amvl_model.objectives import Loss, ObjectiveTerms
from amvl_model.results.provenance import provenance
from amvl_model.training.arguments import OBJECTIVE_FIELDS, AMVLTrainingArguments


@dataclass(frozen=True)
class WithPrior:
    """A loss of the posterior's pass, with the answer NLL under a sample of the prior, ``prior_ntp``, beside its terms."""

    loss: Loss

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that the model has to compute; the prior's comes last, so that the output's logits are its."""
        return (*self.loss.passes, "prior")

    @property
    def nll_reduction(self) -> str:
        """The loss's own."""
        return self.loss.nll_reduction

    def __call__(self, answer_nll: dict[str, Tensor], prior: Any, posterior: Any) -> ObjectiveTerms:
        """The loss's own terms, and ``prior_ntp`` among the others."""
        terms = self.loss({name: answer_nll[name] for name in self.loss.passes}, prior, posterior)
        return replace(terms, others={**(terms.others or {}), "prior_ntp": answer_nll["prior"]})


def training_record(args: AMVLTrainingArguments, base: str | None, data: str | None) -> TrainingRecord:
    """What the model card says of a run.

    Args:
        args: of the trainer.
        base: where the backbone came from; a local folder is not recorded.
        data: name of the training set, where it has one.
    """
    objective = args.objective_config()
    used = OBJECTIVE_FIELDS if objective.entry.weights else ("nll_reduction",)
    return {
        "base_model": hub_id(base),
        "objective": {
            "name": objective.name,
            "equation": objective.entry.equation,
            **{name: getattr(objective, name) for name in used},
            "learning_rate": args.learning_rate,
        },
        "data": args.data_name or data or "not recorded",
        "steps": 0,
        "provenance": provenance(),
    }


def record_metrics(record: TrainingRecord, prefix: str, terms: Mapping[str, np.ndarray]) -> None:
    """Put means and 95 % normal intervals over the examples into a record, in place of those of an earlier evaluation.

    Args:
        record: of the run.
        prefix: of the metrics' names.
        terms: by name, (N,), of every example.
    """
    metrics: list[Metric] = []
    for name, values in terms.items():
        metric: Metric = {"name": f"{prefix}_{name}", "value": float(values.mean()), "data": "evaluation set"}
        if len(values) > 1:
            half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
            metric |= {"low": metric["value"] - half, "high": metric["value"] + half}
        metrics.append(metric)
    names = {metric["name"] for metric in metrics}
    record["metrics"] = [*(metric for metric in record.get("metrics", []) if metric["name"] not in names), *metrics]
