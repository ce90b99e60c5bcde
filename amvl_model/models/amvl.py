"""AMVLForConditionalGeneration: latent reasoning over an unmodified Qwen-VL backbone.

    p(Z|x)      prior head on the hidden states of k prior queries, which see x
    q(Z|x,y)    posterior head on the hidden states of k posterior queries, which see x and y; with posterior_std "shared"
                its log std is read off the prior queries' states, which see x alone (no gradient into them)
    p(y|x,Z)    the backbone, reading x and k injected tokens W z

The layout of the passes is described in two_pass/layout.py. `forward` returns distributions and logits, and calls the loss that
it is given (amvl_model/objectives.py).

Shapes: B batch, N query tokens, M answer tokens, k latents, d latent dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from amvl_model.models.backbone import AroundBackbone, install_passes, load_backbone, take_over
from amvl_model.models.configuration import AMVLConfig
from amvl_model.models.distributions import AnswerBias, DiagonalGaussian, GaussianHead, answer_nll, choose_latents
from amvl_model.models.generation import LatentGenerationMixin
from amvl_model.models.inputs import embed, norm_ratio, teacher_forced, vision_batch
from amvl_model.two_pass.layout import (
    PrefixCache,
    QueryState,
    first_pass_mask,
    full_mask,
    posterior_mask,
    real_first,
    right_padded,
    second_pass_mask,
    short_positions,
)
from amvl_model.two_pass.passes import Pass, SharedWeights, run_text_model

Batch = Mapping[str, Tensor]
INITIAL_LOG_STD = -1.0
"""Log standard deviation of fresh priors and posteriors, beside means of unit size."""
LATENT_MODULES = ("prior_queries", "posterior_queries", "prior_head", "posterior_head", "injector")


@dataclass
class AMVLOutput(ModelOutput):
    """What `AMVLForConditionalGeneration.forward` returns.

    Attributes:
        loss: mean over the examples of the loss that was given; None without one.
        terms: what it is made of, example by example (`amvl_model.objectives.ObjectiveTerms`); None without a loss.
        logits: (B, M, V), logits[:, j] predicts answer token j from x, Z and the tokens before j.
        answer_nll: (B,), -log p(y|x,Z), nats; summed over the answer's tokens unless the loss says otherwise.
        prior_mean, prior_log_std, posterior_mean, posterior_log_std: (B, k, d).
        latents: (B, k, d), the Z that was injected.
        latent_norm_ratio: mean norm of the injected tokens over that of the query's text embeddings, without image features.
    """

    loss: Tensor | None = None
    terms: Any = None
    logits: Tensor | None = None
    answer_nll: Tensor | None = None
    prior_mean: Tensor | None = None
    prior_log_std: Tensor | None = None
    posterior_mean: Tensor | None = None
    posterior_log_std: Tensor | None = None
    latents: Tensor | None = None
    latent_norm_ratio: Tensor | None = None

    @property
    def prior(self) -> DiagonalGaussian:
        """p(Z|x)."""
        return _gaussian(self.prior_mean, self.prior_log_std)

    @property
    def posterior(self) -> DiagonalGaussian:
        """q(Z|x,y)."""
        return _gaussian(self.posterior_mean, self.posterior_log_std)


def _gaussian(mean: Tensor | None, log_std: Tensor | None) -> DiagonalGaussian:
    if mean is None or log_std is None:
        raise ValueError("pass answer_ids to get a posterior, and no loss that reads the prior's pass alone")
    return DiagonalGaussian(mean, log_std)


class AMVLForConditionalGeneration(AroundBackbone, PreTrainedModel, LatentGenerationMixin):
    """A Qwen-VL backbone with k latent slots between question and answer (see the module's docstring)."""

    config: AMVLConfig
    config_class = AMVLConfig
    own_modules = (*LATENT_MODULES, "answer_bias")
    _keep_in_fp32_modules_strict = ["prior_head", "posterior_head", "injector", "answer_bias"]
    _keep_in_fp32_modules = _keep_in_fp32_modules_strict  # the list that quantisers leave as they are

    def __init__(self, config: AMVLConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        text = config.get_text_config()
        self.backbone = AutoModelForImageTextToText.from_config(config.vlm_config) if backbone is None else backbone
        self.prior_queries = nn.Embedding(config.num_latents, text.hidden_size)
        self.posterior_queries = nn.Embedding(config.num_latents, text.hidden_size)
        self.prior_head = GaussianHead(text.hidden_size, config.latent_dim)
        self.posterior_head = GaussianHead(text.hidden_size, config.latent_dim)
        # no bias: z = 0 injects the zero vector, which is what "latents zeroed" means in the interventions
        self.injector = nn.Linear(config.latent_dim, text.hidden_size, bias=False)
        self.answer_bias = None if config.answer_bias is None else AnswerBias(config.answer_bias)
        install_passes(self)
        self.post_init()

    # ------------------------------------------------------------------ building, loading, saving

    @classmethod
    def from_backbone(
        cls,
        path_or_model: str | Path | PreTrainedModel,
        num_latents: int = 8,
        latent_dim: int = 512,
        *,
        posterior_std: str = "per-answer",
        latent_order: str = "parallel",
        seed: int = 0,
        initial_log_std: float = INITIAL_LOG_STD,
        answer_bias: float | None = None,
        **kwargs: Any,
    ) -> AMVLForConditionalGeneration:
        """Put fresh latent modules on a trained backbone.

        Args:
            path_or_model: folder or hub id of a Qwen-VL checkpoint, or a loaded model (used, not copied).
            num_latents, latent_dim: k, d.
            posterior_std, latent_order: see `AMVLConfig`.
            seed: of the new modules' initial weights.
            initial_log_std: log standard deviation of fresh priors and posteriors, beside means of unit size.
            answer_bias: see `AMVLConfig`.
            **kwargs: for the backbone's from_pretrained (``dtype``, ``quantization_config``, ...). Default: float32, as steps of
                AdamW at a learning rate of 1e-5 are lost in the rounding of bfloat16 weights.

        Raises:
            FileNotFoundError, ValueError: if a folder is given that holds no complete checkpoint.
        """
        backbone, path = load_backbone(path_or_model, **kwargs)
        config = AMVLConfig(
            vlm_config=backbone.config,
            num_latents=num_latents,
            latent_dim=latent_dim,
            posterior_std=posterior_std,
            latent_order=latent_order,
            backbone_path=path or None,
            answer_bias=answer_bias,
        )
        model = cls(config, backbone=backbone)
        take_over(model)
        model.reset_latent_modules(seed=seed, initial_log_std=initial_log_std)
        device = backbone.get_input_embeddings().weight.device
        for name in cls.own_modules:
            if (module := getattr(model, name)) is not None:
                module.to(device)
        for name in ("prior_queries", "posterior_queries"):
            getattr(model, name).to(backbone.get_input_embeddings().weight.dtype)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GaussianHead):
            nn.init.ones_(module.norm_weight)

    @torch.no_grad()
    def reset_latent_modules(self, *, seed: int = 0, initial_log_std: float = INITIAL_LOG_STD) -> None:
        """Fresh latent modules at the scale of the backbone.

        Queries are drawn like the backbone's token embeddings. Heads start with means of unit size and the standard
        deviation exp(initial_log_std): with more noise than signal the decoder never learns to read the latents, and the
        objective has nothing to decide (LOG.md, 2026-11-23). The injector maps a latent of unit size to the root mean
        square of the token embeddings, so that injected tokens enter in the norm regime the backbone knows.
        """
        generator = torch.Generator().manual_seed(seed)
        embeddings = self.backbone.get_input_embeddings().weight
        if embeddings.device.type == "meta":
            return
        scale = float(embeddings.float().square().mean().sqrt())
        for embedding in (self.prior_queries, self.posterior_queries):
            _fill_normal(embedding.weight, scale, generator)
        for head in (self.prior_head, self.posterior_head):
            head.norm_weight.fill_(1.0)
            mean, log_std = head.linear.weight.chunk(2)
            _fill_normal(mean, head.linear.in_features**-0.5, generator)
            _fill_normal(log_std, 0.1 * head.linear.in_features**-0.5, generator)
            head.linear.bias.zero_()
            head.linear.bias[head.latent_dim :] = initial_log_std
        if self.answer_bias is not None and self.config.answer_bias is not None:
            self.answer_bias.value.fill_(self.config.answer_bias)
        _fill_normal(self.injector.weight, scale * self.config.latent_dim**-0.5, generator)

    @torch.no_grad()
    def start_posterior_as_prior(self) -> None:
        """Copy the prior's queries and head to the posterior's: KL(q || p) is then what the posterior's sight of y makes it.

        Ours, not the paper's: after a warm-up by prior-sample training a fresh posterior's KL dwarfs everything else.
        """
        self.posterior_queries.load_state_dict(self.prior_queries.state_dict())
        self.posterior_head.load_state_dict(self.prior_head.state_dict())

    # ------------------------------------------------------------------ the two passes

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        answer_ids: Tensor | None = None,
        answer_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        latents: str | Tensor | None = None,
        loss: Any = None,
        latent_temperature: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        cache: Any = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decode_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        image_features: Tensor | None = None,
        **unknown: Any,
    ) -> AMVLOutput | CausalLMOutputWithPast:
        """Both passes under teacher forcing.

        Args:
            input_ids, attention_mask: (B, N), the query; padding on the left is moved to the right.
            answer_ids, answer_mask: (B, M), the answer; likewise, and logits follow the moved tokens.
            labels: (B, N), instead of an answer: -100 but at the answer's tokens, which stand in input_ids behind the question.
                Without ``loss``, that of the default objective at its full weights is returned.
            latents: what to inject: "posterior" or "prior" (a sample), "posterior_mean", "prior_mean", or Z (B, k, d). Default:
                a sample of the distribution that each pass of ``loss`` is named after, or of the posterior.
            loss: called with the passes' answer NLLs and the distributions (`amvl_model.objectives.Loss`); its ``passes``
                are computed, and its value and terms returned.
            latent_temperature: scales the standard deviation of samples, 0 = mean.
            generator: CPU generator of the samples' noise.
            noise: (B, k, d), standard normal numbers to use instead of drawing them.
            pixel_values, image_grid_thw, mm_token_type_ids: as `AMVLProcessor` makes them.
            image_features: (image tokens of all rows, hidden) in place of pixel_values, where several rows share an image.

        The remaining arguments are those of generation steps and are set by `generate`.

        Raises:
            ValueError: without an answer, for unknown ``latents``, for a loss that needs another pass than prior and posterior,
                and for image tokens without images.
            TypeError: for an unknown argument.
        """
        if cache is not None:
            return self._decode_step(input_ids, cache, position_ids, inputs_embeds, decode_mask)
        vision = vision_batch(
            self,
            input_ids,
            unknown,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            image_features=image_features,
        )
        batch = teacher_forced(input_ids, attention_mask, answer_ids, answer_mask, labels, vision)
        answer_ids, answer_mask = batch["answer_ids"], batch["answer_mask"]
        if labels is not None and loss is None:
            from amvl_model.config import ObjectiveConfig  # the default loss; a model that is handed one needs none

            loss = ObjectiveConfig().loss(1.0)
        passes: tuple[str, ...] = ("posterior",) if loss is None else loss.passes
        if not set(passes) <= {"prior", "posterior"}:
            raise ValueError(f"this model computes the passes prior and posterior; the loss needs {', '.join(passes)}")
        weights = SharedWeights(len(answer_ids) * (self.config.num_latents + answer_ids.shape[1] - 1))
        state, prior, posterior, (x, y) = self._first_pass(
            batch, answer_ids, answer_mask, weights, posterior="posterior" in passes
        )
        nll, reduction = {}, "sum" if loss is None else loss.nll_reduction
        for name in passes:
            z = choose_latents(
                name if latents is None else latents, prior, posterior, latent_temperature, generator, noise
            )
            injected = self.inject(z)
            logits = self._second_pass(state, injected, y, weights)
            nll[name] = answer_nll(logits, answer_ids, answer_mask, reduction=reduction)
        terms = None if loss is None else loss(nll, prior, posterior)
        return AMVLOutput(
            loss=None if terms is None else terms.total.mean(),
            terms=terms,
            logits=logits,
            answer_nll=nll[name],
            prior_mean=prior.mean,
            prior_log_std=prior.log_std,
            posterior_mean=None if posterior is None else posterior.mean,
            posterior_log_std=None if posterior is None else posterior.log_std,
            latents=z,
            latent_norm_ratio=norm_ratio(injected, x, self._is_text(batch)),
        )

    def latent_distributions(self, batch: Batch) -> tuple[DiagonalGaussian, DiagonalGaussian]:
        """Prior p(Z|x) and posterior q(Z|x,y) of a batch with answers, each (B, k, d)."""
        batch = right_padded(batch)
        _, prior, posterior, _ = self._first_pass(batch, batch["answer_ids"], batch["answer_mask"])
        assert posterior is not None
        return prior, posterior

    def encode_query(self, batch: Batch) -> tuple[QueryState, DiagonalGaussian]:
        """Encode x once; returns what later passes need of it, and the prior (B, k, d)."""
        state, prior, _, _ = self._first_pass(right_padded(batch), None, None)
        return state, prior

    def posterior_from(self, state: QueryState, answer_ids: Tensor, answer_mask: Tensor) -> DiagonalGaussian:
        """q(Z|x,y) (B, k, d) for another answer to an encoded query.

        Raises:
            ValueError: if the posterior's std is shared and the query was encoded without it.
        """
        answer_mask, answer_ids = real_first(answer_mask, answer_ids)
        k, answers = self.config.num_latents, answer_ids.shape[1]
        embeddings = torch.cat(
            [self._queries(self.posterior_queries, len(answer_ids)), self.get_input_embeddings()(answer_ids)], dim=1
        )
        positions = short_positions(state.next_position, torch.arange(k), k + torch.arange(answers))
        mask = posterior_mask(state.mask, k, answer_mask)
        if self.answer_bias is not None:
            mask = self.answer_bias(mask, slice(k), answers)
        return self._posterior(self._text_model(embeddings, positions, mask, state.cache)[:, :k], state)

    def answer_logits(self, state: QueryState, z: Tensor, answer_ids: Tensor) -> Tensor:
        """Logits (B, M, V) of an answer to an encoded query with latents Z (B, k, d)."""
        return self._second_pass(state, self.inject(z), self.get_input_embeddings()(answer_ids))

    def inject(self, z: Tensor) -> Tensor:
        """Latents (B, k, d) as input tokens (B, k, hidden) in the backbone's precision."""
        with torch.autocast(z.device.type, enabled=False):
            tokens = self.injector(z.to(self.injector.weight.dtype))
        return tokens.to(self._embedding_dtype)

    def _first_pass(
        self,
        batch: Batch,
        answer_ids: Tensor | None,
        answer_mask: Tensor | None,
        weights: SharedWeights | None = None,
        *,
        posterior: bool = True,
    ) -> tuple[QueryState, DiagonalGaussian, DiagonalGaussian | None, tuple[Tensor, Tensor]]:
        """[x | prior | posterior | y], or [x | prior] without an answer or without ``posterior``.

        Also returns the embeddings of x (B, N, hidden) and of y (B, M, hidden; M = 0 without an answer). ``weights``: set
        where a second pass will follow; it then makes no weight gradients of its own (see two_pass/passes.py).
        """
        ids, k = batch["input_ids"], self.config.num_latents
        query_mask = full_mask(ids, batch.get("attention_mask"))
        x, y, positions = embed(self.backbone, batch, query_mask, answer_ids)
        next_position = positions.amax(dim=(0, 2)) + 1
        blocks = [x, self._queries(self.prior_queries, len(ids))]
        offsets = [torch.arange(k)]
        posterior = posterior and answer_ids is not None
        if posterior:
            blocks += [self._queries(self.posterior_queries, len(ids)), y]
            offsets += [torch.arange(k), k + torch.arange(y.shape[1])]
        cache, prefix = PrefixCache(), ids.shape[1]
        mask = first_pass_mask(query_mask, k, answer_mask if posterior else None)
        if posterior and self.answer_bias is not None:
            mask = self.answer_bias(mask, slice(k, 2 * k), y.shape[1])
        hidden = self._text_model(
            torch.cat(blocks, dim=1),
            torch.cat([positions, short_positions(next_position, *offsets)], dim=-1),
            mask,
            Pass(cache, record=prefix, read=(prefix, prefix + (2 * k if posterior else k)), weights=weights),
        )
        if weights is not None:
            weights.first = False
        own = hidden[:, :k]
        shared = self.posterior_head(own.detach()).log_std if self.config.posterior_std == "shared" else None
        state = QueryState(cache, query_mask, next_position, shared)
        prior = self._prior(own, state)
        return state, prior, self._posterior(hidden[:, k:], state) if posterior else None, (x, y)

    def _prior(self, hidden: Tensor, state: QueryState) -> DiagonalGaussian:
        """The prior of the hidden states (B, k, hidden) of its queries; sequential: later slots from passes of their own."""
        prior = self.prior_head(hidden)
        if self.config.latent_order == "parallel":
            return prior
        slots = [DiagonalGaussian(prior.mean[:, :1], prior.log_std[:, :1])]
        queries = self._queries(self.prior_queries, len(hidden))
        for i in range(1, self.config.num_latents):
            before = self.inject(torch.cat([slot.mean for slot in slots], dim=1))
            hidden = self._text_model(
                torch.cat([before, queries[:, i : i + 1]], dim=1),
                short_positions(state.next_position, torch.arange(i + 1)),
                second_pass_mask(state.mask, i + 1),
                state.cache,
            )
            slots.append(self.prior_head(hidden[:, -1:]))
        return DiagonalGaussian(*(torch.cat([getattr(s, name) for s in slots], dim=1) for name in ("mean", "log_std")))

    def _posterior(self, hidden: Tensor, state: QueryState) -> DiagonalGaussian:
        """The posterior of the hidden states (B, k, hidden) of its queries."""
        own = self.posterior_head(hidden)
        if self.config.posterior_std == "per-answer":
            return own
        if state.posterior_log_std is None:
            raise ValueError(
                "expected a query state with posterior_log_std, got none; encode the query with encode_query"
            )
        return DiagonalGaussian(own.mean, state.posterior_log_std)

    def _second_pass(
        self, state: QueryState, injected: Tensor, y: Tensor, weights: SharedWeights | None = None
    ) -> Tensor:
        """[injected | y] behind the recorded x -> logits of the answer (B, M, V); only those positions are projected.

        ``y``: embeddings (B, M, hidden) of the answer.
        """
        k, answers = injected.shape[1], y.shape[1]
        embeddings = torch.cat([injected, y[:, :-1]], dim=1)
        positions = short_positions(state.next_position, torch.arange(k + answers - 1))
        mask = second_pass_mask(state.mask, k + answers - 1)
        hidden = self._text_model(embeddings, positions, mask, Pass(state.cache, weights=weights))
        return self.get_output_embeddings()(hidden[:, k - 1 :])

    def _text_model(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Pass | PrefixCache) -> Tensor:
        return run_text_model(self.backbone.model.language_model, embeddings, positions, mask, cache)

    def _is_text(self, batch: Batch) -> Tensor:
        """(B, N), True at real tokens of the query that are no image features."""
        is_image = batch["input_ids"] == self.config.vlm_config.image_token_id  # type: ignore[union-attr]
        return batch["attention_mask"].bool() & ~is_image

    def _queries(self, table: nn.Embedding, batch: int) -> Tensor:
        index = torch.arange(self.config.num_latents, device=table.weight.device)
        return table(index).expand(batch, -1, -1).to(self._embedding_dtype)

    @property
    def _embedding_dtype(self) -> torch.dtype:
        weight = self.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.dtype


def _fill_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
