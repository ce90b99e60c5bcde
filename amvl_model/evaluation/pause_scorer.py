"""Scores and interventions of the baselines in pause.py: [x | k pause tokens | y], k = 0 for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amvl_model.evaluation.scoring import BackboneScorer, EncodedQuery
from amvl_model.processing import AMVLProcessor


class PauseScorer(BackboneScorer):
    """A `PauseForConditionalGeneration`; z, if given, are input tokens (B, k, hidden) in the pause tokens' place."""

    def __init__(self, model: Any, processor: AMVLProcessor) -> None:
        super().__init__(model.backbone, processor)
        self.pauses = model.pauses

    def encode(self, batch: Mapping[str, Tensor]) -> EncodedQuery:
        query = super().encode(batch)
        if not self.pauses(1).shape[1]:
            return query
        return EncodedQuery(query.state, None, None)  # a pause token, not x, predicts the first answer token

    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        tokens: Tensor = self.pauses(len(query.state.mask)) if z is None else z
        return tokens

    def answer_logits(self, query: EncodedQuery, z: Tensor | None, answer_ids: Tensor) -> Tensor:
        first = self.injected(query, z)
        k = first.shape[1]
        if not k:
            return super().answer_logits(query, z, answer_ids)
        rows = torch.cat([first, self.model.get_input_embeddings()(answer_ids[:, :-1]).to(first.dtype)], dim=1)
        visible = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool, device=self.device).tril()
        hidden = self._behind(query, rows, [torch.arange(rows.shape[1])], visible)
        logits: Tensor = self.model.get_output_embeddings()(hidden[:, k - 1 :])
        return logits
