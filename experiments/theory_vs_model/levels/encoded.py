"""Training questions encoded once: their keys and values, priors and answers, for heads that train on a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import VisualQuestion, option_letter
from amvl_model.diagnostics.common.gradients import differentiable
from amvl_model.evaluation.scorers import batches, latent_scorer
from amvl_model.models.distributions import DiagonalGaussian
from amvl_model.two_pass.layout import PrefixCache, QueryState


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Encoded questions with their given answers, padded to one length; everything needed to train a head.

    Attributes:
        keys, values: per layer, (n, heads, N, d). mask: (n, N). next_position: (n,).
        prior: p(Z|x), (n, k, d). answer_ids, answer_mask: (n, M).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    next_position: Tensor
    prior: DiagonalGaussian
    answer_ids: Tensor
    answer_mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def rows(self, index: Tensor) -> tuple[QueryState, DiagonalGaussian, Tensor, Tensor]:
        """Encoded queries, priors and answers of some questions, padding cut to the longest of them."""
        mask = self.mask[index]
        longest = int(mask.sum(1).max())
        pairs = enumerate(zip(self.keys, self.values, strict=True))
        cache = PrefixCache({i: (keys[index, :, :longest], values[index, :, :longest]) for i, (keys, values) in pairs})
        prior = DiagonalGaussian(self.prior.mean[index], self.prior.log_std[index])
        state = QueryState(cache, mask[:, :longest], self.next_position[index])
        return state, prior, self.answer_ids[index], self.answer_mask[index]

    def with_answers(self, processor: AMVLProcessor, questions: Sequence[VisualQuestion]) -> EncodedSet:
        """The same encoded questions with the answers that they were given at another label noise.

        Raises:
            ValueError: for another number of questions, or one without an answer.
        """
        if len(questions) != len(self):
            raise ValueError(f"expected the {len(self)} questions that were encoded, got {len(questions)}")
        ids, mask = _answers([processor.encode_answer(option_letter(_answer(q))) for q in questions], processor)
        return replace(self, answer_ids=ids.to(self.mask.device), answer_mask=mask.to(self.mask.device))


def encode_set(
    model: Any,
    processor: AMVLProcessor,
    questions: Sequence[VisualQuestion],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> EncodedSet:
    """Encode training questions once, with the answers that they were given.

    Raises:
        ValueError: for a model without latents, an empty set, or a question without options or answer.
    """
    scorer = latent_scorer(model, processor)
    encoded: dict[int, tuple[Any, ...]] = {}
    with differentiable(model), torch.no_grad():
        for batch in batches(questions, processor, batch_size, description="encode", progress=progress):
            query = scorer.encode_batch(batch)
            layers = [query.state.cache.layer(i) for i in range(len(query.state.cache.layers))]
            assert query.prior is not None
            for row, index in enumerate(batch.index):
                length = int(query.state.mask[row].sum())
                answer = _answer(batch.questions[row])
                encoded[index] = (
                    [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in layers],
                    query.state.next_position[row],
                    query.prior.mean[row],
                    query.prior.log_std[row],
                    scorer.option_ids(answer).cpu(),
                )
    rows = [encoded[i] for i in range(len(questions))]
    ids, answer_mask = _answers([row[4] for row in rows], processor)
    lengths = torch.tensor([row[0][0][0].shape[1] for row in rows], device=scorer.device)
    longest = int(lengths.max())
    return EncodedSet(
        keys=tuple(_padded([row[0][i][0] for row in rows], longest) for i in range(len(rows[0][0]))),
        values=tuple(_padded([row[0][i][1] for row in rows], longest) for i in range(len(rows[0][0]))),
        mask=(torch.arange(longest, device=scorer.device) < lengths[:, None]).long(),
        next_position=torch.stack([row[1] for row in rows]),
        prior=DiagonalGaussian(torch.stack([row[2] for row in rows]), torch.stack([row[3] for row in rows])),
        answer_ids=ids.to(scorer.device),
        answer_mask=answer_mask.to(scorer.device),
    )


def _answer(question: VisualQuestion) -> int:
    if question.answer is None:
        raise ValueError(f"question {question.id!r}: expected the answer that it is trained with, got none")
    return question.answer


def _answers(ids: Sequence[Tensor], processor: AMVLProcessor) -> tuple[Tensor, Tensor]:
    return pad_right(list(ids), processor.pad_token_id)


def _padded(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(n, heads, N, d) from parts (heads, length, d), zeros on the right."""
    whole = parts[0].new_zeros(len(parts), parts[0].shape[0], longest, parts[0].shape[2])
    for row, part in enumerate(parts):
        whole[row, :, : part.shape[1]] = part
    return whole
