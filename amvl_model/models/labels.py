"""From one sequence with labels, the way transformers' trainers write an example, to a query and its answer."""

from __future__ import annotations

import torch
from torch import Tensor

from amvl_model.two_pass.layout import full_mask, real_first

IGNORED = -100
"""The label of tokens that are not predicted."""


def query_and_answer(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    answer_ids: Tensor | None = None,
    token_types: Tensor | None = None,
) -> dict[str, Tensor]:
    """What `forward` takes: x is what stands before a row's first label, y the labelled tokens; what follows them is dropped.

    Args:
        input_ids, attention_mask: (B, T), x and y in one sequence, padded on either side.
        labels: (B, T), the tokens of y, -100 elsewhere.
        answer_ids: of another way to give the answer, to refuse both.
        token_types: (B, T), 1 at image tokens.

    Raises:
        ValueError: for both ways, for another shape, and for rows without x, without y, or with several labelled parts.
    """
    if answer_ids is not None:
        raise ValueError("forward takes labels or answer_ids, got both; leave one out")
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"expected labels of the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(labels.shape)}"
        )
    mask, is_answer = full_mask(input_ids, attention_mask).bool(), labels != IGNORED
    is_query = mask & (is_answer.cumsum(1) == 0)
    starts = (is_answer & ~torch.nn.functional.pad(is_answer[:, :-1], (1, 0))).sum(1)
    for row, (parts, length) in enumerate(zip(starts.tolist(), is_query.sum(1).tolist(), strict=True)):
        if parts != 1 or length == 0:
            raise ValueError(
                f"row {row}: expected labels with one part behind the question (-100 elsewhere), got {parts} parts behind "
                f"{length} tokens; label the last answer alone"
            )
    types = torch.zeros_like(input_ids) if token_types is None else token_types
    query_mask, query_ids, types = real_first(is_query.long(), input_ids, types)
    answer_mask, answer_ids = real_first(is_answer.long(), labels)
    width, answers = int(query_mask.sum(1).max()), int(answer_mask.sum(1).max())
    found = {
        "input_ids": query_ids[:, :width],
        "attention_mask": query_mask[:, :width],
        "answer_ids": answer_ids[:, :answers].clamp(min=0),
        "answer_mask": answer_mask[:, :answers],
    }
    return found if token_types is None else {**found, "mm_token_type_ids": types[:, :width]}
