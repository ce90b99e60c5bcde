"""Do pause tokens matter? Answers of a checkpoint of the baseline pause (pause.py) with its tokens replaced by zero vectors.

    as_trained    the learnt embeddings: the reference
    zeroed        the zero vector in every place

The tokens are the same for every question, so shuffling them between questions would change nothing. Figures as in
interventions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from amvl_model.data.schema import VisualQuestion
from amvl_model.diagnostics.contamination import answer_scores
from amvl_model.evaluation.runner import given_answer
from amvl_model.evaluation.scoring import batches, inference, scorer_for
from amvl_model.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from amvl_model.processing import AMVLProcessor

CONDITIONS = ("as_trained", "zeroed")


@dataclass(frozen=True, kw_only=True)
class PauseEffect:
    """One condition on all questions.

    Attributes:
        accuracy: fraction right by option likelihood.
        answer_nll: of the given answer, nats.
        accuracy_difference: accuracy minus that of the trained tokens, paired; None for these themselves.
        nll_difference: answer NLL minus that of the trained tokens, paired, nats; None for these themselves.
    """

    accuracy: Interval
    answer_nll: Interval
    accuracy_difference: Interval | None
    nll_difference: Interval | None


@dataclass(frozen=True, kw_only=True)
class PauseReport:
    """Effect of the pause tokens on one checkpoint.

    Attributes:
        conditions: per name of `CONDITIONS`, its effect.
        n: questions.
        seed: of the bootstrap.
    """

    conditions: dict[str, PauseEffect]
    n: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON; NLL in nats, accuracies as fractions."""
        return asdict(self)


def pause_report(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    seed: int = 0,
    n_bootstrap: int = 2000,
    progress: bool = True,
) -> PauseReport:
    """Answer every question under both conditions.

    Args:
        model: a `PauseForConditionalGeneration` with at least one pause token.
        processor: its processor.
        questions: multiple-choice questions with known answers.
        batch_size: questions encoded together.
        seed, n_bootstrap: of the bootstrap over questions; nothing else is drawn.
        progress: show a progress bar.

    Raises:
        ValueError: for a model without pause tokens, an empty set, or a question without a known answer.
    """
    if not getattr(model, "pauses", None) or not model.config.num_pauses:
        raise ValueError(
            f"expected a model with pause tokens, got {type(model).__name__} without; give one trained as pause"
        )
    scorer = scorer_for(model, processor)
    nll = {name: np.zeros(len(questions)) for name in CONDITIONS}
    right = {name: np.zeros(len(questions)) for name in CONDITIONS}
    with inference(model):
        for batch in batches(questions, processor, batch_size, description="pause tokens", progress=progress):
            query = scorer.encode_batch(batch)
            trained = scorer.injected(query, None)
            answers = [given_answer(question) for question in batch.questions]
            for name, tokens in (("as_trained", trained), ("zeroed", trained * 0)):
                log_probs = scorer.option_log_probs(query, tokens, batch.options)
                nll[name][batch.index], right[name][batch.index] = answer_scores(log_probs, answers)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}

    def effect(name: str) -> PauseEffect:
        compared = [
            None if name == "as_trained" else paired_difference(each[name], each["as_trained"], **settings)
            for each in (right, nll)
        ]
        return PauseEffect(
            accuracy=bootstrap_mean(right[name], **settings),
            answer_nll=bootstrap_mean(nll[name], **settings),
            accuracy_difference=compared[0],
            nll_difference=compared[1],
        )

    return PauseReport(conditions={name: effect(name) for name in CONDITIONS}, n=len(questions), seed=seed)
