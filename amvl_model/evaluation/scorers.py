"""What evaluation and diagnostics ask of a model: encode a query once, then score any answer to it with any latents.

    log p(a | x, Z) = sum_j log p(y_j | x, Z, y_<j)        y = the tokens of "(A)", "(B)", ... and the end of the turn, nats

Three kinds of models answer through one interface, `Scorer`: an AMVL model, whose answers read k latents Z, the baseline whose
answers read k pause tokens, and a plain Qwen-VL backbone. Each time x is encoded once; every option, every latent sample and
every generated token is a short pass behind its recorded keys and values.

Shapes: B batch, N query tokens, M answer tokens, O options (the most that a question of the batch has), k latents, d latent
dimension, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import option_letter
from amvl_model.evaluation.question_batches import QuestionBatch, batches, check_question
from amvl_model.models.checkpoints import NonFiniteError, check_weights
from amvl_model.models.distributions import DiagonalGaussian

__all__ = [
    "BackboneScorer",
    "EncodedQuery",
    "LatentScorer",
    "PauseScorer",
    "QuestionBatch",
    "Scorer",
    "batches",
    "check_question",
    "inference",
    "latent_noise",
    "latent_scorer",
    "sample_latents",
    "scorer_for",
]

if TYPE_CHECKING:
    from amvl_model.two_pass.layout import QueryState


@dataclass(frozen=True)
class EncodedQuery:
    """A batch of encoded queries.

    Attributes:
        state: keys, values and mask of x.
        prior: p(Z|x), (B, k, d); None for a plain backbone.
        last_hidden: (B, hidden) at the last token of x, which predicts the first answer token; None for an AMVL model,
            where an injected latent stands between the two.
    """

    state: QueryState
    prior: DiagonalGaussian | None
    last_hidden: Tensor | None


class Scorer(ABC):
    """Option likelihoods and greedy replies of one model; see the module's docstring."""

    def __init__(self, model: Any, processor: AMVLProcessor) -> None:
        self.model, self.processor = model, processor
        self.device = model.get_input_embeddings().weight.device
        self.language_model = getattr(model, "backbone", model).model.language_model
        self._answers: dict[int, Tensor] = {}

    @abstractmethod
    def encode(self, batch: Mapping[str, Tensor]) -> EncodedQuery:
        """Encode x (B, N)."""

    @abstractmethod
    def answer_logits(self, query: EncodedQuery, z: Tensor | None, answer_ids: Tensor) -> Tensor:
        """Logits (B, M, V) of the answer tokens (B, M) under teacher forcing; the last token is only predicted."""

    def encode_batch(self, batch: QuestionBatch) -> EncodedQuery:
        """Encode a batch on the model's device."""
        return self.encode({name: tensor.to(self.device) for name, tensor in batch.tensors.items()})

    def option_ids(self, option: int) -> Tensor:
        """Token ids (M,) of an option's answer, ``(A)`` and the end of the turn."""
        if option not in self._answers:
            self._answers[option] = self.processor.encode_answer(option_letter(option)).to(self.device)
        return self._answers[option]

    @abstractmethod
    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        """Input tokens between x and the answer, (B, k, hidden); k = 0 for a plain backbone."""

    def option_log_probs(self, query: EncodedQuery, z: Tensor | None, options: Sequence[int]) -> Tensor:
        """log p(a|x,Z) of every option, (B, O) in nats, -inf where a question has fewer options.

        One pass [injected | A | B | C | ...] behind x, in which each option's tokens see x, the injected tokens and
        themselves, and stand at the positions that they would have alone: neither x nor the latents are repeated.

        Args:
            query: the encoded batch.
            z: latents (B, k, d), None for a plain backbone.
            options: (B,) number of options of each question.
        """
        answers = [self.option_ids(option) for option in range(max(options))]
        first = self.injected(query, z)
        k, sizes = first.shape[1], [len(ids) - 1 for ids in answers]
        read = self.model.get_input_embeddings()(torch.cat([ids[:-1] for ids in answers]))
        embeddings = torch.cat([first, read.to(first.dtype).expand(len(first), -1, -1)], dim=1)
        offsets = [torch.arange(k), *(k + torch.arange(size) for size in sizes)]
        block = torch.cat([torch.full((len(offset),), i) for i, offset in enumerate(offsets)])
        visible = ((block[:, None] == block) | (block == 0)).tril().to(self.device)
        hidden = self._behind(query, embeddings, offsets, visible)
        start = hidden[:, k - 1 : k] if query.last_hidden is None else query.last_hidden.unsqueeze(1)
        log_probs = self._log_softmax(torch.cat([start, hidden[:, k:]], dim=1))
        columns, position = [], 1
        for option, ids in enumerate(answers):
            rest = slice(position, position + sizes[option])
            item = torch.cat([log_probs[:, :1], log_probs[:, rest]], dim=1)
            score = item.gather(-1, ids.expand(len(item), -1).unsqueeze(-1)).sum(dim=(1, 2))
            columns.append(score.masked_fill(torch.tensor(options, device=self.device) <= option, -torch.inf))
            position = rest.stop
        return torch.stack(columns, dim=1)

    def _log_softmax(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def _behind(self, query: EncodedQuery, embeddings: Tensor, offsets: Sequence[Tensor], visible: Tensor) -> Tensor:
        """Hidden states (B, S, hidden) of short tokens behind x; ``visible`` (S, S) says which of them see which."""
        from amvl_model.two_pass.layout import second_pass_mask, short_positions
        from amvl_model.two_pass.passes import run_text_model

        rows = embeddings.shape[1]
        mask = second_pass_mask(query.state.mask, rows)
        mask[..., -rows:] = visible
        positions = short_positions(query.state.next_position, *offsets)
        return run_text_model(self.language_model, embeddings, positions, mask, query.state.cache)

    def greedy(self, query: EncodedQuery, z: Tensor | None, max_new_tokens: int) -> list[str]:
        """The most likely token, one after the other, up to the end of the turn: the replies' texts.

        The same tokens as ``generate(do_sample=False)``, without encoding x again; a step repeats the short pass over
        latents and reply so far, so this is meant for short replies.
        """
        ends = self._end_tokens()
        pad = self.processor.pad_token_id
        rows = len(query.state.mask)
        ids = torch.full((rows, 1), pad, device=self.device)
        done = torch.zeros(rows, dtype=torch.bool, device=self.device)
        for _ in range(max_new_tokens):
            logits = self.answer_logits(query, z, ids)[:, -1]
            if bool(logits.isnan().any()):
                raise NonFiniteError("the model's next-token scores are NaN; no reply is decoded from them")
            token = logits.argmax(-1)
            ids[:, -1] = token.masked_fill(done, pad)
            done |= torch.isin(token, ends)
            if bool(done.all()):
                break
            ids = torch.cat([ids, torch.full_like(ids[:, :1], pad)], dim=1)
        else:
            ids = ids[:, :-1]
        return self.processor.decode(ids)

    def _end_tokens(self) -> Tensor:
        ids = {self.processor.end_of_turn_id}
        for config in (self.model.config.get_text_config(), getattr(self.model, "generation_config", None)):
            eos = getattr(config, "eos_token_id", None)
            ids |= set(eos) if isinstance(eos, list | tuple) else {eos} - {None}
        return torch.tensor(sorted(ids), device=self.device)


class LatentScorer(Scorer):
    """An `AMVLForConditionalGeneration`."""

    def encode(self, batch: Mapping[str, Tensor]) -> EncodedQuery:
        state, prior = self.model.encode_query(batch)
        return EncodedQuery(state, prior, None)

    def answer_logits(self, query: EncodedQuery, z: Tensor | None, answer_ids: Tensor) -> Tensor:
        return self.model.answer_logits(query.state, z, answer_ids)

    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        return self.model.inject(z)

    def posterior(self, query: EncodedQuery, answers: Sequence[int]) -> DiagonalGaussian:
        """q(Z|x,a) (B, k, d) of one option for each question."""
        ids, mask = pad_right([self.option_ids(a).cpu() for a in answers], self.processor.pad_token_id)
        return self.model.posterior_from(query.state, ids.to(self.device), mask.to(self.device))

    def noise(self, prior: DiagonalGaussian) -> DiagonalGaussian:
        """What stands for latents without any content, beside the prior's own (n, k, d): N(0, I)."""
        return DiagonalGaussian(torch.zeros_like(prior.mean), torch.zeros_like(prior.mean))

    def option_posteriors(self, query: EncodedQuery, options: Sequence[int]) -> DiagonalGaussian:
        """q(Z|x,a) of every option, (B, O, k, d); a question with fewer options has its last one repeated."""
        item = [self.posterior(query, [min(a, n - 1) for n in options]) for a in range(max(options))]
        return DiagonalGaussian(
            torch.stack([q.mean for q in item], dim=1), torch.stack([q.log_std for q in item], dim=1)
        )


class BackboneScorer(Scorer):
    """A plain Qwen-VL model of transformers: [x | y], where the recorded keys and values of x serve every answer."""

    def __init__(self, model: Any, processor: AMVLProcessor) -> None:
        super().__init__(model, processor)
        from amvl_model.two_pass.attention import TEXT_ATTENTION

        attention = self.language_model.config._attn_implementation
        if attention not in (TEXT_ATTENTION, "sdpa"):
            raise ValueError(
                f"expected a backbone with SDPA attention, got {attention!r}; load it with "
                "attn_implementation='sdpa', or call amvl_model.two_pass.attention.install_attention(model)"
            )

    def encode(self, batch: Mapping[str, Tensor]) -> EncodedQuery:
        from amvl_model.two_pass.layout import PrefixCache, QueryState, query_positions, right_padded
        from amvl_model.two_pass.passes import Pass
        from amvl_model.two_pass.transformers_compat import CACHE, call_backbone

        batch = right_padded(batch)
        ids, mask, inner = batch["input_ids"], batch["attention_mask"], self.model.model
        positions, _ = query_positions(inner, ids, mask, batch["mm_token_type_ids"], batch["image_grid_thw"])
        cache = PrefixCache()
        recording = Pass(cache, record=ids.shape[1])
        hidden = call_backbone(
            inner,
            input_ids=ids,
            attention_mask={"full_attention": None, "sliding_attention": None},  # causal; padding stands to the right
            position_ids=positions,
            pixel_values=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
            use_cache=True,
            **{CACHE: recording},
        ).last_hidden_state
        recording.check(len(inner.language_model.layers), ids.shape[1], hidden.shape[1])
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return EncodedQuery(QueryState(cache, mask, positions.amax(dim=(0, 2)) + 1), None, last)

    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        assert query.last_hidden is not None
        return query.last_hidden[:, None][:, :0]

    def answer_logits(self, query: EncodedQuery, z: Tensor | None, answer_ids: Tensor) -> Tensor:
        assert query.last_hidden is not None
        rows, head = answer_ids.shape[1] - 1, self.model.get_output_embeddings()
        first = head(query.last_hidden).unsqueeze(1)
        if rows == 0:
            return first
        visible = torch.ones(rows, rows, dtype=torch.bool, device=self.device).tril()
        read = self.model.get_input_embeddings()(answer_ids[:, :-1])
        return torch.cat([first, head(self._behind(query, read, [torch.arange(rows)], visible))], dim=1)


class PauseScorer(BackboneScorer):
    """A baseline of pause.py, [x | k pause tokens | y], k = 0 for supervised fine-tuning.

    z, if given, are input tokens (B, k, hidden) in the pause tokens' place.
    """

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


def scorer_for(model: Any, processor: AMVLProcessor) -> Scorer:
    """The scorer of a model.

    Raises:
        ValueError: if the model is none of an AMVL model, a baseline of pause.py and a Qwen-VL backbone.
        NonFiniteError: if a weight is NaN or infinite.
    """
    check_weights(model)
    if hasattr(model, "encode_query"):
        return LatentScorer(model, processor)
    if hasattr(model, "pauses"):
        return PauseScorer(model, processor)
    if hasattr(getattr(model, "model", None), "get_rope_index"):
        return BackboneScorer(model, processor)
    raise ValueError(
        f"expected an AMVLForConditionalGeneration or a Qwen-VL model for conditional generation, got "
        f"{type(model).__name__}; load it with AMVLForConditionalGeneration.from_pretrained or transformers' Auto classes"
    )


def latent_scorer(model: Any, processor: AMVLProcessor) -> LatentScorer:
    """The scorer of a model that must have latents; a `LatentScorer` in the model's place is used as it is.

    Raises:
        ValueError: if it has none.
    """
    if isinstance(model, LatentScorer):
        return model
    scorer = scorer_for(model, processor)
    if not isinstance(scorer, LatentScorer):
        raise ValueError(
            f"expected a model with latents, got a plain {type(model).__name__}, which has no prior or posterior to "
            "diagnose; load an AMVL checkpoint with AMVLForConditionalGeneration.from_pretrained"
        )
    return scorer


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Evaluation mode without autograd."""
    with evaluating(model), torch.inference_mode():
        yield


def latent_noise(seed: int, index: int, samples: int, shape: tuple[int, ...]) -> Tensor:
    """(samples, *shape) standard normal float32 numbers that depend only on the seed and the question's place in the set."""
    rng = np.random.default_rng([seed, index])
    return torch.from_numpy(rng.standard_normal((samples, *shape), dtype=np.float32))


def sample_latents(
    gaussian: DiagonalGaussian, index: Sequence[int], samples: int, *, temperature: float, seed: int
) -> Tensor:
    """(samples, B, k, d): mean + temperature * std * noise, the same for a question whatever batch it stands in."""
    shape = tuple(gaussian.mean.shape[1:])
    noise = torch.stack([latent_noise(seed, i, samples, shape) for i in index], dim=1).to(gaussian.mean)
    return gaussian.mean + temperature * gaussian.std * noise
